//! Whose messages are in the log for a while: a small table, looked at only by connections that are in it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use crate::id::SessionId;
use crate::mailbox::Mailbox;
use crate::sync::lock;

/// Connections of one node that are traced at once.
const TRACED: usize = 64;

/// Connections that are traced, and until when on the node's monotonic clock.
#[derive(Debug, Default)]
pub struct Traces(Mutex<HashMap<SessionId, u64>>);

impl Traces {
    /// Traces a connection until a moment. `false`: [`TRACED`] are traced already.
    pub fn begin(&self, mailbox: &Mailbox, until_ms: u64, now_ms: u64) -> bool {
        let mut traced = self.lock();
        traced.retain(|_, until| *until > now_ms);
        if traced.len() >= TRACED && !traced.contains_key(&mailbox.session()) {
            return false;
        }
        traced.insert(mailbox.session(), until_ms);
        mailbox.set_traced(true);
        true
    }

    /// Whether a connection that has the mark is traced still; where it is not, the mark goes.
    pub fn is_on(&self, mailbox: &Mailbox, now_ms: u64) -> bool {
        let mut traced = self.lock();
        let on = traced.get(&mailbox.session()).is_some_and(|until| *until > now_ms);
        if !on {
            traced.remove(&mailbox.session());
            mailbox.set_traced(false);
        }
        on
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, u64>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_ends_by_itself_and_takes_its_mark_along() {
        let (traces, mailbox) = (Traces::default(), Mailbox::default());
        assert!(!mailbox.is_traced());
        assert!(traces.begin(&mailbox, 1_000, 0));
        assert!(mailbox.is_traced() && traces.is_on(&mailbox, 999));
        assert!(!traces.is_on(&mailbox, 1_000));
        assert!(!mailbox.is_traced());
    }

    #[test]
    fn the_table_is_bounded_and_what_is_over_makes_room() {
        let traces = Traces::default();
        let many: Vec<_> = (0..=TRACED).map(|_| Mailbox::default()).collect();
        let begun = many.iter().filter(|mailbox| traces.begin(mailbox, 10, 0)).count();
        assert_eq!(begun, TRACED);
        assert!(traces.begin(&many[0], 20, 0), "one that is in it may stay longer");
        assert!(traces.begin(&many[TRACED], 20, 10));
    }
}
