//! When a device connects again: the close codes' advice, the hints it was given, and the published back-off. No I/O and no
//! clock; chance comes from a seed.

use std::time::{Duration, Instant};

use tidegate::protocol::close::{Advice, CloseReason, backoff_ms};

use super::error::Error;
use super::options::Reconnect;

/// A connection that lasted this long was a good one: the back-off starts anew.
const GOOD: Duration = Duration::from_secs(60);
/// After being superseded.
const SUPERSEDED: Duration = Duration::from_secs(60);
/// The attempt from which the back-off grows no more.
const SLOWEST: u32 = 6;
/// The most chance adds to a `goaway`'s own delay.
const MOVE_JITTER: Duration = Duration::from_secs(1);
/// No hint is followed longer than this.
const LONGEST_HINT: Duration = Duration::from_secs(3_600);

/// What a device knows about coming back.
#[derive(Debug)]
pub struct Plan {
    policy: Reconnect,
    rng: fastrand::Rng,
    attempt: u32,
    opened: Option<Instant>,
    /// Not before this, as the gateway asked.
    hint: Option<Instant>,
    superseded: bool,
    fresh_token: bool,
}

impl Plan {
    /// Of a device that was never connected.
    pub fn new(policy: Reconnect, rng: fastrand::Rng) -> Self {
        Self { policy, rng, attempt: 0, opened: None, hint: None, superseded: false, fresh_token: false }
    }

    /// It has a `welcome`.
    pub fn opened(&mut self, now: Instant) {
        (self.opened, self.hint, self.fresh_token) = (Some(now), None, false);
    }

    /// `goaway` or `error` asked it to wait this long before it comes back.
    pub fn hint(&mut self, wait: Duration, now: Instant) {
        self.hint = Some(now + wait.min(LONGEST_HINT));
    }

    /// Whether the gateway asked it to wait.
    pub fn has_hint(&self) -> bool {
        self.hint.is_some()
    }

    /// Whether the next token has to be a fresh one.
    pub fn wants_fresh_token(&self) -> bool {
        self.fresh_token
    }

    /// A connection ended, and it is known already what follows.
    pub fn left(&mut self, now: Instant) {
        if self.opened.take().is_some_and(|opened| now.saturating_duration_since(opened) >= GOOD) {
            (self.attempt, self.superseded) = (0, false);
        }
    }

    /// A connection ended, with a close code of the gateway or without: when to come back.
    pub fn ended(&mut self, code: Option<u16>, now: Instant) -> Option<Duration> {
        self.left(now);
        let advice = match code {
            None if self.hint.is_some() => Advice::ReconnectAfterHint,
            None => Advice::BackOff,
            Some(code) => advice(code),
        };
        if self.policy == Reconnect::Never || (self.policy == Reconnect::UnlessClosed && code.is_some()) {
            return None;
        }
        match advice {
            Advice::BackOff | Advice::Reconnect => Some(self.back_off()),
            Advice::ReconnectAfterHint => {
                let hint = self.hint.take().map_or(Duration::ZERO, |hint| hint.saturating_duration_since(now));
                Some(hint + self.back_off())
            }
            Advice::TokenFirst => {
                self.fresh_token = true;
                Some(self.back_off())
            }
            Advice::OnceAfterAMinute if !self.superseded => {
                self.superseded = true;
                Some(SUPERSEDED + SUPERSEDED.mul_f64(self.rng.f64()))
            }
            Advice::OnceAfterAMinute | Advice::Never => (self.policy == Reconnect::Stubborn).then(|| self.back_off()),
        }
    }

    /// An attempt failed: when to try again.
    pub fn failed(&mut self, error: &Error, now: Instant) -> Option<Duration> {
        match error {
            Error::Refused { status: 401, .. } => self.fresh_token = true,
            Error::Closed { code: Some(code), .. } => return self.ended(Some(*code), now),
            error if !error.is_retryable() => self.attempt = self.attempt.max(SLOWEST),
            _ => {}
        }
        if self.policy == Reconnect::Never {
            return None;
        }
        let hint = match error {
            Error::Refused { retry_after_s: Some(seconds), .. } => Duration::from_secs(*seconds).min(LONGEST_HINT),
            _ => Duration::ZERO,
        };
        Some(hint + self.back_off())
    }

    /// `random(0, min(60 s, 1 s * 2^n))`, and n grows.
    pub fn back_off(&mut self) -> Duration {
        let wait = Duration::from_millis(backoff_ms(self.attempt, self.rng.f64()));
        self.attempt = self.attempt.saturating_add(1);
        wait
    }

    /// After a `goaway`: when to open the next connection while this one still works until `deadline`. The gateway gives
    /// each device a delay of its own; chance adds a little, and leaves time for the handshake.
    pub fn moves_after(&mut self, asked: Duration, deadline: Duration) -> Duration {
        let latest = deadline.mul_f64(0.75);
        let jitter = (deadline.saturating_sub(asked) / 4).min(MOVE_JITTER);
        (asked + jitter.mul_f64(self.rng.f64())).min(latest)
    }

    /// A share of `of`, drawn at random.
    pub fn share(&mut self, of: Duration) -> Duration {
        of.mul_f64(self.rng.f64())
    }

    /// Random bytes, as masks and keys want them.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.rng.u8(..))
    }
}

/// The advice of a close code: of the table where it is in it, else by its range.
fn advice(code: u16) -> Advice {
    match (CloseReason::from_code(code), code) {
        (Some(reason), _) => reason.advice(),
        (None, 4000..4100) => Advice::Reconnect,
        (None, 4100..4200) => Advice::ReconnectAfterHint,
        (None, 4200..4300) => Advice::TokenFirst,
        (None, 4300..4400) => Advice::Never,
        (None, _) => Advice::BackOff,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan(policy: Reconnect) -> Plan {
        Plan::new(policy, fastrand::Rng::with_seed(7))
    }

    /// The longest of many waits after ends of this kind in a row, each attempt being the `n`th.
    fn longest(n: u32, code: Option<u16>) -> Duration {
        let now = Instant::now();
        let wait = |seed| {
            let mut plan = Plan::new(Reconnect::Advised, fastrand::Rng::with_seed(seed));
            (0..=n).map(|_| plan.ended(code, now).unwrap()).last().unwrap()
        };
        (0..200).map(wait).max().unwrap()
    }

    #[test]
    fn the_back_off_doubles_with_each_end_up_to_a_minute() {
        for (n, ceiling) in [(0, 1), (1, 2), (3, 8), (6, 60), (9, 60)] {
            for code in [None, Some(1011), Some(4000), Some(4999)] {
                let longest = longest(n, code);
                assert!(longest <= ceiling * SECOND && longest > ceiling * SECOND / 2, "{n} {code:?}: {longest:?}");
            }
        }
    }

    #[test]
    fn a_minute_of_connection_starts_it_anew() {
        let (mut plan, mut now) = (plan(Reconnect::Advised), Instant::now());
        for _ in 0..9 {
            plan.ended(None, now);
        }
        plan.opened(now);
        now += 59 * SECOND;
        plan.ended(None, now);
        assert_eq!(plan.attempt, 10);
        plan.opened(now);
        now += 60 * SECOND;
        assert!(plan.ended(None, now).unwrap() <= SECOND);
        assert_eq!(plan.attempt, 1);
    }

    #[test]
    fn a_hint_is_waited_out_from_the_moment_it_was_given() {
        for code in [Some(1012), Some(4100), None] {
            let (mut plan, now) = (plan(Reconnect::Advised), Instant::now());
            plan.opened(now);
            plan.hint(10 * SECOND, now);
            let wait = plan.ended(code, now + 4 * SECOND).unwrap();
            assert!(wait >= 6 * SECOND && wait <= 7 * SECOND, "{code:?} {wait:?}");
        }
    }

    #[test]
    fn the_advice_not_to_come_back_is_followed_but_by_the_stubborn() {
        let now = Instant::now();
        for code in [1000, 1002, 1008, 1009, 4302, 4399] {
            assert_eq!(plan(Reconnect::Advised).ended(Some(code), now), None, "{code}");
            assert!(plan(Reconnect::Stubborn).ended(Some(code), now).is_some(), "{code}");
        }
        assert_eq!(plan(Reconnect::Never).ended(Some(4000), now), None);
        assert_eq!(plan(Reconnect::Never).failed(&Error::Timeout, now), None);
    }

    #[test]
    fn one_that_takes_each_close_for_wanted_comes_back_only_where_there_was_none() {
        let now = Instant::now();
        for code in [1000, 1012, 4000, 4002] {
            assert_eq!(plan(Reconnect::UnlessClosed).ended(Some(code), now), None, "{code}");
        }
        assert!(plan(Reconnect::UnlessClosed).ended(None, now).unwrap() <= SECOND);
        assert!(plan(Reconnect::UnlessClosed).failed(&Error::Timeout, now).is_some());
    }

    #[test]
    fn one_that_was_superseded_comes_back_once_after_a_minute() {
        let (mut plan, now) = (plan(Reconnect::Advised), Instant::now());
        let wait = plan.ended(Some(4301), now).unwrap();
        assert!(wait >= 60 * SECOND && wait <= 120 * SECOND);
        plan.opened(now);
        assert_eq!(plan.ended(Some(4301), now + SECOND), None);
        plan.opened(now);
        assert!(plan.ended(Some(4301), now + 60 * SECOND).is_some(), "it had its minute");
    }

    #[test]
    fn what_is_wrong_with_the_token_asks_for_a_fresh_one() {
        let now = Instant::now();
        let refused = |status, retry_after_s| Error::Refused { status, detail: String::new(), retry_after_s };
        for code in [4201, 4202, 4203] {
            let mut plan = plan(Reconnect::Advised);
            assert!(plan.ended(Some(code), now).unwrap() <= SECOND && plan.wants_fresh_token(), "{code}");
            plan.opened(now);
            assert!(!plan.wants_fresh_token());
        }
        let mut one = plan(Reconnect::Advised);
        assert!(one.failed(&refused(401, None), now).is_some() && one.wants_fresh_token());
        let mut other = plan(Reconnect::Advised);
        assert!(other.failed(&refused(503, Some(30)), now).unwrap() >= 30 * SECOND && !other.wants_fresh_token());
    }

    #[test]
    fn a_move_keeps_to_the_delay_it_was_given_and_within_the_deadline() {
        let mut plan = plan(Reconnect::Advised);
        for _ in 0..100 {
            let after = plan.moves_after(5 * SECOND, 30 * SECOND);
            assert!(after >= 5 * SECOND && after <= 6 * SECOND);
            assert!(plan.moves_after(9 * SECOND, 10 * SECOND) <= 8 * SECOND);
        }
    }
}
