//! Whose messages are in the log for a while: a small table, looked at only by connections that are in it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use crate::id::SessionId;
use crate::mailbox::Mailbox;
use crate::sync::lock;

/// Connections of one node that are traced at once.
const TRACED: usize = 64;

/// Connections that are traced, and until when.
#[derive(Debug, Default)]
pub struct Traces(Mutex<HashMap<SessionId, Instant>>);

impl Traces {
    /// Traces a connection until a moment. `false`: [`TRACED`] are traced already.
    pub fn begin(&self, mailbox: &Mailbox, until: Instant, now: Instant) -> bool {
        let mut traced = self.lock();
        traced.retain(|_, until| *until > now);
        if traced.len() >= TRACED && !traced.contains_key(&mailbox.session()) {
            return false;
        }
        traced.insert(mailbox.session(), until);
        mailbox.set_traced(true);
        true
    }

    /// Whether a connection that has the mark is traced still; where it is not, the mark goes.
    pub fn is_on(&self, mailbox: &Mailbox, now: Instant) -> bool {
        let mut traced = self.lock();
        let on = traced.get(&mailbox.session()).is_some_and(|until| *until > now);
        if !on {
            traced.remove(&mailbox.session());
            mailbox.set_traced(false);
        }
        on
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Instant>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_trace_ends_by_itself_and_takes_its_mark_along() {
        let (traces, mailbox, now) = (Traces::default(), Mailbox::default(), Instant::now());
        assert!(!mailbox.is_traced());
        assert!(traces.begin(&mailbox, now + Duration::from_millis(1_000), now));
        assert!(mailbox.is_traced() && traces.is_on(&mailbox, now + Duration::from_millis(999)));
        assert!(!traces.is_on(&mailbox, now + Duration::from_millis(1_000)));
        assert!(!mailbox.is_traced());
    }

    #[test]
    fn the_table_is_bounded_and_what_is_over_makes_room() {
        let (traces, now) = (Traces::default(), Instant::now());
        let (soon, later) = (now + Duration::from_secs(10), now + Duration::from_secs(20));
        let many: Vec<_> = (0..=TRACED).map(|_| Mailbox::default()).collect();
        let begun = many.iter().filter(|mailbox| traces.begin(mailbox, soon, now)).count();
        assert_eq!(begun, TRACED);
        assert!(traces.begin(&many[0], later, now), "one that is in it may stay longer");
        assert!(traces.begin(&many[TRACED], later, soon));
    }
}
