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

/// How long nothing was taken before an empty window gives its memory back.
const QUIET_MS: u64 = 10_000;

/// At most `messages` updates and `bytes` bytes, in the order they were taken.
///
/// An update's number is its place since the connection began; modulo 64 it is the bit under which the log's report
/// comes back, so there can be no more than 64. A quiet window is a few words.
#[derive(Debug, Default)]
pub struct Window {
    busy: Option<Box<Busy>>,
    /// The last ack sent; acks never go back.
    acked_seq: u64,
    /// Number of the oldest entry.
    first: u32,
}

/// What a window holds from its first update until it is quiet.
#[derive(Debug)]
struct Busy {
    taken: VecDeque<Taken>,
    bytes: usize,
    /// Highest `seq` settled so far. Once all is settled it is also acked.
    settled_seq: u64,
    /// When the last update was taken.
    taken_ms: u64,
}

impl Window {
    /// The number the next taken update will have.
    pub fn next(&self) -> u32 {
        self.first.wrapping_add(self.len() as u32)
    }

    /// Whether an update of `bytes` fits. One always fits an empty window.
    pub fn fits(&self, bytes: usize, max_messages: usize, max_bytes: usize) -> bool {
        self.is_empty() || (self.len() < max_messages && self.bytes() + bytes <= max_bytes)
    }

    /// Updates taken and not yet settled in order.
    pub fn len(&self) -> usize {
        self.busy.as_ref().map_or(0, |busy| busy.taken.len())
    }

    /// Bytes of the same.
    pub fn bytes(&self) -> usize {
        self.busy.as_ref().map_or(0, |busy| busy.bytes)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Enters an update that the log took.
    pub fn take(&mut self, seq: Option<u64>, bytes: usize, now_ms: u64) {
        let settled_seq = self.acked_seq;
        let busy = self
            .busy
            .get_or_insert_with(|| Box::new(Busy { taken: VecDeque::new(), bytes: 0, settled_seq, taken_ms: now_ms }));
        busy.taken.push_back(Taken { seq: seq.unwrap_or(0), bytes: bytes as u32, ended: false, refused: false });
        busy.bytes += bytes;
        busy.taken_ms = now_ms;
    }

    /// Notes the reports of a mailbox: bits of numbers modulo 64. `refused` is called with the `seq` (if any) of each
    /// update that the log will never take; those refusals are to be sent before the ack that is returned, which is
    /// the `seq` to send in one, if any.
    pub fn settle(&mut self, ended: u64, refused_bits: u64, mut refused: impl FnMut(Option<u64>)) -> Option<u64> {
        let busy = self.busy.as_deref_mut()?;
        for (place, entry) in busy.taken.iter_mut().enumerate() {
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

    fn advance(&mut self) -> Option<u64> {
        let busy = self.busy.as_deref_mut()?;
        let mut numbered = false;
        while let Some(entry) = busy.taken.front().copied().filter(|entry| entry.ended) {
            busy.taken.pop_front();
            self.first = self.first.wrapping_add(1);
            busy.bytes -= entry.bytes as usize;
            if entry.seq != 0 && !entry.refused {
                numbered = true;
                busy.settled_seq = busy.settled_seq.max(entry.seq);
            }
        }
        // A `seq` that was sent again may be below what is settled already: nothing above it may be acked before it is.
        let below = busy.taken.iter().filter(|entry| entry.seq != 0).map(|entry| entry.seq - 1).min();
        let ack = busy.settled_seq.min(below.unwrap_or(u64::MAX)).max(self.acked_seq);
        // A repeat is covered by an ack again; a refusal may be what the ack of a higher one waited for.
        if ack == 0 || (!numbered && ack == self.acked_seq) {
            return None;
        }
        self.acked_seq = ack;
        Some(ack)
    }

    /// The last ack sent.
    pub fn acked(&self) -> Option<u64> {
        (self.acked_seq != 0).then_some(self.acked_seq)
    }

    /// Gives back the memory of a window that is empty and was for a while. Costs nothing to ask.
    pub fn compact(&mut self, now_ms: u64) {
        self.busy.take_if(|busy| busy.taken.is_empty() && now_ms.saturating_sub(busy.taken_ms) >= QUIET_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settle(window: &mut Window, numbers: &[u32]) -> Option<u64> {
        let bits = numbers.iter().fold(0, |bits, number| bits | 1u64 << (number % 64));
        window.settle(bits, 0, |_| panic!("nothing was refused"))
    }

    #[test]
    fn an_ack_waits_for_everything_before_it() {
        let mut window = Window::default();
        for seq in [1, 2, 5] {
            window.take(Some(seq), 1, 0);
        }
        assert_eq!(settle(&mut window, &[1]), None);
        assert_eq!(settle(&mut window, &[0]), Some(2));
        assert_eq!(settle(&mut window, &[2]), Some(5));
    }

    #[test]
    fn a_repeat_is_covered_by_an_ack_again_and_acks_never_go_back() {
        let mut window = Window::default();
        window.take(Some(10), 1, 0);
        assert_eq!(settle(&mut window, &[0]), Some(10));
        window.take(Some(3), 1, 0);
        assert_eq!(settle(&mut window, &[1]), Some(10));
    }

    #[test]
    fn a_lower_seq_that_is_outstanding_holds_back_the_ack_of_a_higher_one() {
        let mut window = Window::default();
        window.take(Some(10), 1, 0);
        window.take(Some(3), 1, 0);
        assert_eq!(settle(&mut window, &[0]), Some(2));
        assert_eq!(settle(&mut window, &[1]), Some(10));
    }

    #[test]
    fn what_has_no_seq_is_never_acked_but_holds_its_place() {
        let mut window = Window::default();
        window.take(None, 1, 0);
        window.take(Some(1), 1, 0);
        assert_eq!(settle(&mut window, &[1]), None);
        assert_eq!(settle(&mut window, &[0]), Some(1));
        window.take(None, 1, 0);
        assert_eq!(settle(&mut window, &[2]), None);
        assert!(window.is_empty());
    }

    #[test]
    fn a_refusal_of_the_log_is_told_before_the_ack_that_passes_it() {
        let mut window = Window::default();
        for seq in 1..=3 {
            window.take(Some(seq), 1, 0);
        }
        let mut refused = Vec::new();
        let ack = window.settle(0b110, 0b010, |seq| refused.push(seq));
        assert_eq!((ack, refused), (None, vec![Some(2)]));
        assert_eq!(settle(&mut window, &[0]), Some(3));
    }

    #[test]
    fn a_refusal_lets_go_the_ack_that_waited_for_it() {
        let mut window = Window::default();
        window.take(Some(10), 1, 0);
        window.take(Some(3), 1, 0);
        assert_eq!(settle(&mut window, &[0]), Some(2));
        assert_eq!(window.settle(0b10, 0b10, |_| {}), Some(10));
        window.take(Some(11), 1, 0);
        assert_eq!(window.settle(0b100, 0b100, |_| {}), None, "a refusal alone is no news to the ack");
    }

    #[test]
    fn a_quiet_window_holds_no_memory_and_still_knows_its_acks() {
        let mut window = Window::default();
        window.take(Some(7), 1, 0);
        window.compact(60_000);
        assert!(window.busy.is_some(), "something is outstanding");
        assert_eq!(settle(&mut window, &[0]), Some(7));
        window.compact(QUIET_MS - 1);
        assert!(window.busy.is_some(), "it may be needed again at once");
        window.compact(QUIET_MS);
        assert!(window.busy.is_none());
        assert!(size_of::<Window>() <= 24, "{}", size_of::<Window>());
        window.take(Some(3), 1, 60_000);
        assert_eq!((window.next(), settle(&mut window, &[1])), (2, Some(7)));
    }

    proptest! {
        /// The promise of `ack`, against the plainest model: at each ack every update received with a seq up to it has
        /// ended, acks never fall, and when all has ended the highest seq that was stored is acked.
        #[test]
        fn an_ack_never_promises_what_is_outstanding(
            updates in proptest::collection::vec((proptest::option::of(1u64..20), proptest::bool::weighted(0.2)), 1..64),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 64),
        ) {
            let mut window = Window::default();
            for (seq, _) in &updates {
                window.take(*seq, 1, 0);
            }
            let mut open: Vec<usize> = (0..updates.len()).collect();
            let mut last = 0;
            for pick in order {
                if open.is_empty() { break; }
                let number = open.remove(pick.index(open.len()));
                let refused = if updates[number].1 { 1 << number } else { 0 };
                let mut told = Vec::new();
                let ack = window.settle(1 << number, refused, |seq| told.push(seq));
                prop_assert_eq!(told, if updates[number].1 { vec![updates[number].0] } else { vec![] });
                if let Some(ack) = ack {
                    prop_assert!(ack >= last);
                    last = ack;
                    for left in &open {
                        prop_assert!(updates[*left].0.is_none_or(|seq| seq > ack));
                    }
                }
            }
            prop_assert!(open.is_empty() && window.is_empty() && window.bytes() == 0);
            let stored = updates.iter().filter(|(_, refused)| !refused).filter_map(|(seq, _)| *seq).max();
            prop_assert_eq!(last, stored.unwrap_or(0));
        }
    }
}
