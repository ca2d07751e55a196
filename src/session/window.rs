//! The updates of one connection that are taken and not yet settled, and the cumulative ack that follows from them.

use std::collections::VecDeque;

/// One taken update.
#[derive(Debug, Clone, Copy)]
struct Taken {
    /// The device's number; 0 where it gave none.
    seq: u64,
    bytes: u32,
    ended: bool,
    refused: bool,
}

/// What a device is to be told after some of its updates were settled, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Send `ack` with this `seq`.
    pub ack: Option<u64>,
}

/// At most `messages` updates and `bytes` bytes, in the order they were taken.
///
/// An update's number is its place since the connection began; modulo 64 it is the bit under which the log's report
/// comes back, so there can be no more than 64.
#[derive(Debug, Default)]
pub struct Window {
    taken: VecDeque<Taken>,
    /// Number of the oldest entry.
    first: u32,
    bytes: usize,
    /// Highest `seq` settled so far.
    settled_seq: u64,
    /// The last ack sent; acks never go back.
    acked_seq: u64,
}

impl Window {
    /// The number the next taken update will have.
    pub fn next(&self) -> u32 {
        self.first.wrapping_add(self.taken.len() as u32)
    }

    /// Whether an update of `bytes` fits. One always fits an empty window.
    pub fn fits(&self, bytes: usize, max_messages: usize, max_bytes: usize) -> bool {
        self.taken.is_empty() || (self.taken.len() < max_messages && self.bytes + bytes <= max_bytes)
    }

    /// Updates taken and not yet settled in order.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Enters an update that the log took.
    pub fn take(&mut self, seq: Option<u64>, bytes: usize) {
        self.taken.push_back(Taken { seq: seq.unwrap_or(0), bytes: bytes as u32, ended: false, refused: false });
        self.bytes += bytes;
    }

    /// Notes the reports of a mailbox: bits of numbers modulo 64. `refused` is called with the `seq` (if any) of each
    /// update that the log will never take; those refusals are to be sent before the ack that is returned.
    pub fn settle(&mut self, ended: u64, refused_bits: u64, mut refused: impl FnMut(Option<u64>)) -> Progress {
        for (place, entry) in self.taken.iter_mut().enumerate() {
            let bit = 1u64 << (self.first.wrapping_add(place as u32) % 64);
            if ended & bit != 0 && !entry.ended {
                entry.ended = true;
                entry.refused = refused_bits & bit != 0;
                if entry.refused {
                    refused((entry.seq != 0).then_some(entry.seq));
                }
            }
        }
        self.advance()
    }

    fn advance(&mut self) -> Progress {
        let mut numbered = false;
        while let Some(entry) = self.taken.front().copied().filter(|entry| entry.ended) {
            self.taken.pop_front();
            self.first = self.first.wrapping_add(1);
            self.bytes -= entry.bytes as usize;
            if entry.seq != 0 && !entry.refused {
                numbered = true;
                self.settled_seq = self.settled_seq.max(entry.seq);
            }
        }
        if !numbered {
            return Progress::default();
        }
        // A `seq` that was sent again may be below what is settled already: nothing above it may be acked before it is.
        let below = self.taken.iter().filter(|entry| entry.seq != 0).map(|entry| entry.seq - 1).min();
        let ack = self.settled_seq.min(below.unwrap_or(u64::MAX)).max(self.acked_seq);
        if ack == 0 {
            return Progress::default();
        }
        self.acked_seq = ack;
        Progress { ack: Some(ack) }
    }

    /// The last ack sent.
    pub fn acked(&self) -> Option<u64> {
        (self.acked_seq != 0).then_some(self.acked_seq)
    }

    /// Gives back the memory of a window that is quiet.
    pub fn compact(&mut self) {
        if self.taken.is_empty() && self.taken.capacity() != 0 {
            self.taken = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settle(window: &mut Window, numbers: &[u32]) -> Option<u64> {
        let bits = numbers.iter().fold(0, |bits, number| bits | 1u64 << (number % 64));
        window.settle(bits, 0, |_| panic!("nothing was refused")).ack
    }

    #[test]
    fn an_ack_waits_for_everything_before_it() {
        let mut window = Window::default();
        for seq in [1, 2, 5] {
            window.take(Some(seq), 1);
        }
        assert_eq!(settle(&mut window, &[1]), None);
        assert_eq!(settle(&mut window, &[0]), Some(2));
        assert_eq!(settle(&mut window, &[2]), Some(5));
    }

    #[test]
    fn a_repeat_is_covered_by_an_ack_again_and_acks_never_go_back() {
        let mut window = Window::default();
        window.take(Some(10), 1);
        assert_eq!(settle(&mut window, &[0]), Some(10));
        window.take(Some(3), 1);
        assert_eq!(settle(&mut window, &[1]), Some(10));
    }

    #[test]
    fn a_lower_seq_that_is_outstanding_holds_back_the_ack_of_a_higher_one() {
        let mut window = Window::default();
        window.take(Some(10), 1);
        window.take(Some(3), 1);
        assert_eq!(settle(&mut window, &[0]), Some(2));
        assert_eq!(settle(&mut window, &[1]), Some(10));
    }

    #[test]
    fn what_has_no_seq_is_never_acked_but_holds_its_place() {
        let mut window = Window::default();
        window.take(None, 1);
        window.take(Some(1), 1);
        assert_eq!(settle(&mut window, &[1]), None);
        assert_eq!(settle(&mut window, &[0]), Some(1));
        window.take(None, 1);
        assert_eq!(settle(&mut window, &[2]), None);
        assert!(window.is_empty());
    }

    #[test]
    fn a_refusal_of_the_log_is_told_before_the_ack_that_passes_it() {
        let mut window = Window::default();
        for seq in 1..=3 {
            window.take(Some(seq), 1);
        }
        let mut refused = Vec::new();
        let progress = window.settle(0b110, 0b010, |seq| refused.push(seq));
        assert_eq!((progress.ack, refused), (None, vec![Some(2)]));
        assert_eq!(settle(&mut window, &[0]), Some(3));
    }

    #[test]
    fn a_quiet_window_holds_no_memory() {
        let mut window = Window::default();
        window.take(Some(1), 1);
        window.compact();
        assert_eq!(settle(&mut window, &[0]), Some(1));
        window.compact();
        assert_eq!(window.taken.capacity(), 0);
    }

    proptest! {
        /// The promise of `ack`, against the plainest model: at each ack every update received with a seq up to it has
        /// ended, acks never fall, and when all has ended the highest seq is acked.
        #[test]
        fn an_ack_never_promises_what_is_outstanding(
            seqs in proptest::collection::vec(proptest::option::of(1u64..20), 1..64),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 64),
        ) {
            let mut window = Window::default();
            for seq in &seqs {
                window.take(*seq, 1);
            }
            let mut open: Vec<u32> = (0..seqs.len() as u32).collect();
            let mut last = 0;
            for pick in order {
                if open.is_empty() { break; }
                let number = open.remove(pick.index(open.len()));
                if let Some(ack) = settle(&mut window, &[number]) {
                    prop_assert!(ack >= last);
                    last = ack;
                    for left in &open {
                        prop_assert!(seqs[*left as usize].is_none_or(|seq| seq > ack));
                    }
                }
            }
            prop_assert!(open.is_empty());
            prop_assert_eq!(last, seqs.iter().flatten().copied().max().unwrap_or(0));
        }
    }
}
