//! When a key set may be read again, so that nobody can make the gateway a flood for the issuer.

use std::time::{Duration, Instant};

/// A set is read this often, and at most this often for the sake of unknown keys.
const INTERVAL: Duration = Duration::from_secs(30);
/// As long as there is no set at all, every token waits for it: try more often.
const INTERVAL_WITHOUT_KEYS: Duration = Duration::from_secs(5);

/// Why a set is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) enum Reason {
    /// It is time.
    Schedule,
    /// A token names a key that the set does not have.
    UnknownKey,
    /// Somebody who may says so.
    Asked,
}

/// What was read when.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    last_for_unknown: Option<Instant>,
    /// An unknown key was turned away since: the next scheduled reading counts as one for unknown keys too.
    turned_away: bool,
    failed: bool,
}

impl Pace {
    /// Whether to read now; if so, the reading counts from now on.
    pub(super) fn may_start(&mut self, reason: Reason, now: Instant, has_keys: bool) -> bool {
        let over = |since: Option<Instant>, gap| since.is_none_or(|at| now.saturating_duration_since(at) >= gap);
        let due = match reason {
            Reason::Asked => true,
            _ if !has_keys => over(self.last, INTERVAL_WITHOUT_KEYS),
            Reason::Schedule => over(self.last, INTERVAL),
            Reason::UnknownKey => over(self.last_for_unknown, INTERVAL),
        };
        if due {
            self.last = Some(now);
            if reason == Reason::UnknownKey || self.turned_away {
                self.last_for_unknown = Some(now);
            }
        }
        self.turned_away = !due && (self.turned_away || reason == Reason::UnknownKey);
        due
    }

    /// How the reading ended. Returns whether the one before it failed.
    pub(super) fn ended(&mut self, well: bool) -> bool {
        std::mem::replace(&mut self.failed, !well)
    }

    /// Where the last reading failed: the seconds until the next.
    pub(super) fn retry_after_s(&self, now: Instant, has_keys: bool) -> Option<u64> {
        let gap = if has_keys { INTERVAL } else { INTERVAL_WITHOUT_KEYS };
        let wait = self.last.map_or(gap, |at| gap.saturating_sub(now.saturating_duration_since(at)));
        self.failed.then(|| wait.as_secs().max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_unknown_keys_causes_one_reading_in_thirty_seconds() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut readings = Vec::new();
        for ms in 0..120_000 {
            let now = start + Duration::from_millis(ms);
            let scheduled = ms % 1_000 == 0 && pace.may_start(Reason::Schedule, now, true);
            if scheduled || pace.may_start(Reason::UnknownKey, now, true) {
                readings.push(ms);
            }
        }
        // The very first two are the scheduled one and the first unknown key; from then on the pace holds.
        assert_eq!(readings, [0, 1, 30_001, 60_001, 90_001]);
    }

    #[test]
    fn an_unknown_key_is_looked_for_at_once_when_nobody_asked_lately() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(pace.may_start(Reason::Schedule, start, true));
        assert!(pace.may_start(Reason::UnknownKey, start + Duration::from_secs(1), true));
        assert!(!pace.may_start(Reason::UnknownKey, start + Duration::from_secs(30), true));
        assert!(!pace.may_start(Reason::Schedule, start + Duration::from_secs(30), true));
        assert!(pace.may_start(Reason::Schedule, start + Duration::from_secs(31), true));
        assert!(
            !pace.may_start(Reason::UnknownKey, start + Duration::from_secs(60), true),
            "it was turned away at 30 s"
        );
    }

    #[test]
    fn without_any_keys_the_next_try_comes_sooner_and_says_when() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(pace.may_start(Reason::UnknownKey, start, false));
        pace.ended(false);
        assert_eq!(pace.retry_after_s(start, false), Some(5));
        assert!(!pace.may_start(Reason::UnknownKey, start + Duration::from_secs(4), false));
        assert!(pace.may_start(Reason::UnknownKey, start + Duration::from_secs(5), false));
        pace.ended(true);
        assert_eq!(pace.retry_after_s(start + Duration::from_secs(5), true), None);
    }
}
