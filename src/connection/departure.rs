//! How connections are sent to other nodes while this one still works: nobody is let in, and those who are here are told a
//! few at a time, each to be gone within its own deadline.

use std::sync::{Mutex, MutexGuard};

use super::Node;
use crate::mailbox::Signal;
use crate::protocol::close::CloseReason;
use crate::session::Now;
use crate::sync::lock;

/// How connections leave that are told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// What they are told, and closed with when they stay.
    pub reason: CloseReason,
    /// How long each works on after it was told, in milliseconds.
    pub grace_ms: u64,
    /// When the last one has to go, on the monotonic clock, however late it was told.
    pub until_ms: u64,
}

impl Departure {
    /// How long one that is told at `now` works on, in milliseconds.
    pub(super) fn deadline_ms(&self, now: Now) -> u64 {
        self.grace_ms.min(self.until_ms.saturating_sub(now.mono_ms))
    }
}

/// Where it stands whether, and how, connections leave.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<Option<Departure>>);

impl Board {
    fn lock(&self) -> MutexGuard<'_, Option<Departure>> {
        lock(&self.0)
    }
}

impl Node {
    /// Lets nobody in any more; who is told to leave does so like this. Who is already told keeps its deadline.
    pub fn close_doors(&self, departure: Departure) {
        *self.departure.lock() = Some(departure);
    }

    /// Lets devices in again, where the doors were closed for this reason and not for another since.
    pub fn open_doors(&self, reason: CloseReason) {
        self.departure.lock().take_if(|departure| departure.reason == reason);
    }

    /// Whether anybody is let in.
    pub fn lets_in(&self) -> bool {
        !self.is_stopping() && self.departure().is_none()
    }

    /// How connections leave, while they are to.
    pub fn departure(&self) -> Option<Departure> {
        *self.departure.lock()
    }

    /// Tells up to `count` connections from place `from` on to leave, and gives the place to go on from; nothing where
    /// everybody is told. Who comes meanwhile finds out by itself.
    pub fn send_away(&self, from: usize, count: usize) -> Option<usize> {
        self.receipts.some(from, count, |mailbox| mailbox.signal(Signal::Leave))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_ends_with_the_departure() {
        let departure = Departure { reason: CloseReason::Restart, grace_ms: 30_000, until_ms: 100_000 };
        let at = |mono_ms| departure.deadline_ms(Now { mono_ms, unix_ms: 0 });
        assert_eq!((at(0), at(70_000), at(95_000), at(200_000)), (30_000, 30_000, 5_000, 0));
    }
}
