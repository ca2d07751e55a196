//! Updates from the moment they are given to a device until they are settled. No I/O and no clock.
//!
//! They lie in the order of their `seq`. What is written on the present connection is always a front part of them: it grows
//! by writing the next, and starts anew with each connection. So no `seq` is ever written out of order on a connection,
//! and what is unacked comes first on the next.

use std::collections::VecDeque;
use std::time::Instant;

/// An update that is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub seq: u64,
    /// The caller's mark.
    pub digest: u64,
    /// When it was due.
    pub due: Instant,
    /// When it was first written.
    pub first_sent: Option<Instant>,
    /// How often it was written.
    pub times: u32,
    /// The message, encoded.
    pub bytes: Box<[u8]>,
}

impl Kept {
    /// An update that was never written.
    pub fn new(seq: u64, digest: u64, due: Instant, bytes: Box<[u8]>) -> Self {
        Self { seq, digest, due, first_sent: None, times: 0, bytes }
    }
}

/// An ack of something that was not written on the connection it came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an ack of what was never sent on this connection")]
pub struct AckBeyond;

/// The updates of a device that are not settled.
#[derive(Debug)]
pub struct Outbox {
    kept: VecDeque<Kept>,
    /// How many from the front are written on this connection.
    in_flight: usize,
    /// The highest `seq` written on this connection; 0: none.
    top: u64,
    bound: usize,
}

impl Outbox {
    /// For at most `bound` updates, at least 1.
    pub fn new(bound: usize) -> Self {
        Self { kept: VecDeque::new(), in_flight: 0, top: 0, bound: bound.max(1) }
    }

    /// How many are not settled.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether all are settled.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many are written on this connection and not settled.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Adds an update, whose `seq` is above all before it. The oldest gives way where there are too many.
    pub fn push(&mut self, update: Kept) -> Option<Kept> {
        debug_assert!(self.kept.back().is_none_or(|last| last.seq < update.seq), "`seq` rises");
        let oldest = if self.kept.len() < self.bound { None } else { self.pop() };
        self.kept.push_back(update);
        oldest
    }

    fn pop(&mut self) -> Option<Kept> {
        let oldest = self.kept.pop_front();
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.kept.is_empty() {
            // A quiet device holds no buffer.
            self.kept = VecDeque::new();
        }
        oldest
    }

    /// A new connection: nothing is written on it.
    pub fn rewind(&mut self) {
        (self.in_flight, self.top) = (0, 0);
    }

    /// The next to be written.
    pub fn unsent(&self) -> Option<&Kept> {
        self.kept.get(self.in_flight)
    }

    /// The next was written; what it is now, and whether it had been written before.
    pub fn wrote(&mut self, now: Instant) -> Option<(&Kept, bool)> {
        let update = self.kept.get_mut(self.in_flight)?;
        let repeat = update.times > 0;
        update.times = update.times.saturating_add(1);
        update.first_sent.get_or_insert(now);
        self.top = update.seq;
        self.in_flight += 1;
        Some((update, repeat))
    }

    /// Takes the next to be written out of it unwritten.
    pub fn give_up(&mut self) -> Option<Kept> {
        self.kept.remove(self.in_flight)
    }

    /// Everything written on this connection up to `seq` is settled; each goes to `each`, lowest first.
    ///
    /// # Errors
    /// [`AckBeyond`]: nothing is settled.
    pub fn ack(&mut self, seq: u64, mut each: impl FnMut(Kept)) -> Result<(), AckBeyond> {
        if seq > self.top {
            return Err(AckBeyond);
        }
        while self.kept.front().is_some_and(|first| first.seq <= seq) {
            self.pop().map(&mut each);
        }
        Ok(())
    }

    /// What was ever written up to `seq` is settled, as the `welcome` of a new connection said.
    pub fn resume_after(&mut self, seq: u64, mut each: impl FnMut(Kept)) {
        while self.kept.front().is_some_and(|first| first.seq <= seq && first.times > 0) {
            self.pop().map(&mut each);
        }
    }

    /// This one is settled, and never will be taken.
    pub fn refused(&mut self, seq: u64) -> Option<Kept> {
        let place = self.kept.binary_search_by_key(&seq, |update| update.seq).ok()?;
        if place >= self.in_flight {
            return None;
        }
        let update = self.kept.remove(place);
        self.in_flight -= 1;
        update
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn outbox(bound: usize, seqs: std::ops::RangeInclusive<u64>) -> Outbox {
        let mut outbox = Outbox::new(bound);
        for seq in seqs {
            assert_eq!(outbox.push(Kept::new(seq, 0, Instant::now(), Box::default())), None);
        }
        outbox
    }

    fn write_all(outbox: &mut Outbox) -> Vec<(u64, bool)> {
        let now = Instant::now();
        std::iter::from_fn(|| outbox.wrote(now).map(|(kept, repeat)| (kept.seq, repeat))).collect()
    }

    #[test]
    fn what_is_unacked_is_written_again_lowest_first_and_known_as_a_repeat() {
        let mut outbox = outbox(9, 1..=4);
        assert_eq!(write_all(&mut outbox), [(1, false), (2, false), (3, false), (4, false)]);
        outbox.ack(2, drop).unwrap();
        outbox.rewind();
        outbox.push(Kept::new(5, 0, Instant::now(), Box::default()));
        assert_eq!(write_all(&mut outbox), [(3, true), (4, true), (5, false)]);
    }

    #[test]
    fn an_ack_of_what_was_not_written_on_this_connection_settles_nothing() {
        let mut outbox = outbox(9, 1..=4);
        write_all(&mut outbox);
        outbox.rewind();
        outbox.wrote(Instant::now());
        assert_eq!(outbox.ack(2, drop), Err(AckBeyond));
        assert_eq!((outbox.len(), outbox.ack(1, drop), outbox.len()), (4, Ok(()), 3));
    }

    #[test]
    fn a_refused_one_is_settled_alone_and_the_ack_goes_over_it() {
        let mut outbox = outbox(9, 1..=4);
        write_all(&mut outbox);
        assert_eq!(outbox.refused(2).unwrap().seq, 2);
        assert_eq!(outbox.refused(2), None);
        assert_eq!((outbox.in_flight(), outbox.len()), (3, 3));
        let mut acked = Vec::new();
        outbox.ack(3, |kept| acked.push(kept.seq)).unwrap();
        assert_eq!(acked, [1, 3]);
    }

    #[test]
    fn what_was_never_written_cannot_be_refused_nor_resumed() {
        let mut outbox = outbox(9, 1..=3);
        outbox.wrote(Instant::now());
        assert_eq!(outbox.refused(2), None);
        outbox.rewind();
        let mut settled = Vec::new();
        outbox.resume_after(3, |kept| settled.push(kept.seq));
        assert_eq!((settled, outbox.len()), (vec![1], 2));
    }

    #[test]
    fn a_full_one_drops_its_oldest_even_in_flight() {
        let mut outbox = outbox(2, 1..=2);
        outbox.wrote(Instant::now());
        let dropped = outbox.push(Kept::new(3, 0, Instant::now(), Box::default())).unwrap();
        assert_eq!((dropped.seq, dropped.times, outbox.in_flight()), (1, 1, 0));
        assert_eq!(outbox.ack(1, |_| panic!("it is gone")), Ok(()), "its ack is no breach");
        assert_eq!(write_all(&mut outbox), [(2, false), (3, false)]);
    }
}
