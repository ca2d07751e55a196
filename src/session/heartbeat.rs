//! Whether the peer is there: when to ping, and when to give up.
//!
//! A ping goes out after each interval in which nothing was heard. A quarter of an interval after the second ping in a
//! row the peer is gone; that, and half a second's coarse ticking, stays below the two and a half intervals promised. A
//! peer that is not being read cannot be heard, so its silence does not count; nor does the time in which the node itself
//! did not run.

use super::Now;

/// Later than this, in milliseconds, and it was the node that was away: it looks twice a second.
const LATE_MS: u32 = 1_000;
/// How long, in milliseconds, a peer may be silent after a sign of life was demanded.
const PROOF_MS: u32 = 10_000;

/// The heartbeat of one connection. Moments are the low half of the milliseconds: only differences are ever taken, and
/// those stay far below three weeks.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    interval_ms: u32,
    /// When there is something to do, if nothing is heard until then.
    due_ms: u32,
    /// When the oldest ping was sent that no pong has answered.
    pinged_ms: u32,
    /// Pings sent since something was heard.
    unanswered: u8,
    /// Whether a pong is due.
    pong_due: bool,
}

/// What the heartbeat wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Nothing yet.
    Wait,
    /// Send a ping.
    Ping,
    /// Nobody is there.
    Lost,
}

impl Heartbeat {
    /// Every `interval_ms`, from `now`.
    pub const fn new(interval_ms: u32, now: Now) -> Self {
        let due_ms = (now.mono_ms as u32).wrapping_add(interval_ms);
        Self { interval_ms, due_ms, pinged_ms: 0, unanswered: 0, pong_due: false }
    }

    /// Something arrived.
    pub fn heard(&mut self, now: Now) {
        self.due_ms = (now.mono_ms as u32).wrapping_add(self.interval_ms);
        self.unanswered = 0;
    }

    /// A pong arrived. Returns the round trip in milliseconds where a ping was waiting for it.
    pub fn pong(&mut self, now: Now) -> Option<u64> {
        let was_due = std::mem::take(&mut self.pong_due);
        was_due.then(|| u64::from((now.mono_ms as u32).wrapping_sub(self.pinged_ms)))
    }

    /// The peer is not being read: its silence says nothing.
    pub fn not_reading(&mut self, now: Now) {
        self.heard(now);
        self.pong_due = false;
    }

    /// A sign of life is demanded, and a ping goes out for it: without any the peer is gone in 10 s, or earlier where it
    /// would have been.
    pub fn demand(&mut self, now: Now) {
        let now_ms = now.mono_ms as u32;
        let left_ms = self.due_ms.wrapping_sub(now_ms).cast_signed();
        if self.unanswered < 2 || left_ms > PROOF_MS.cast_signed() {
            self.due_ms = now_ms.wrapping_add(PROOF_MS);
        }
        self.unanswered = 2;
        if !self.pong_due {
            self.pinged_ms = now_ms;
            self.pong_due = true;
        }
    }

    /// What is due.
    pub fn beat(&mut self, now: Now) -> Beat {
        let now_ms = now.mono_ms as u32;
        // The difference of two moments in either order.
        let late_ms = now_ms.wrapping_sub(self.due_ms).cast_signed();
        let Ok(late_ms) = u32::try_from(late_ms) else { return Beat::Wait };
        let from = if late_ms <= LATE_MS { self.due_ms } else { now_ms };
        let patience = if self.unanswered == 0 { self.interval_ms } else { self.interval_ms / 4 };
        if self.unanswered == 2 {
            if late_ms <= LATE_MS {
                return Beat::Lost;
            }
            self.due_ms = from.wrapping_add(patience);
            return Beat::Wait;
        }
        self.unanswered += 1;
        self.due_ms = from.wrapping_add(patience);
        if !self.pong_due {
            self.pinged_ms = now_ms;
            self.pong_due = true;
        }
        Beat::Ping
    }

    /// When [`Heartbeat::beat`] is next worth asking, on the monotonic clock.
    pub fn due_ms(&self, now: Now) -> u64 {
        let wait_ms = self.due_ms.wrapping_sub(now.mono_ms as u32).cast_signed();
        now.mono_ms + u64::try_from(wait_ms).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, unix_ms: 0 }
    }

    /// What a silent peer gets, by the milliseconds since `start`.
    fn silence_from(start: u64) -> Vec<(u64, Beat)> {
        let mut heartbeat = Heartbeat::new(10_000, at(start));
        let mut seen = Vec::new();
        for ms in (0..30_000).step_by(500) {
            match heartbeat.beat(at(start + ms)) {
                Beat::Wait => {}
                beat => seen.push((ms, beat)),
            }
            if seen.last().is_some_and(|(_, beat)| *beat == Beat::Lost) {
                break;
            }
        }
        seen
    }

    #[test]
    fn two_missed_pings_end_it_within_two_and_a_half_intervals() {
        assert_eq!(silence_from(0), [(10_000, Beat::Ping), (20_000, Beat::Ping), (22_500, Beat::Lost)]);
    }

    #[test]
    fn a_node_that_is_up_for_seven_weeks_beats_as_before() {
        let wrap = u64::from(u32::MAX);
        for start in [wrap - 15_000, wrap, wrap + 1] {
            assert_eq!(silence_from(start), silence_from(0), "{start}");
        }
        let mut heartbeat = Heartbeat::new(10_000, at(wrap - 5_000));
        assert_eq!(heartbeat.due_ms(at(wrap - 4_000)), wrap + 5_000);
        heartbeat.heard(at(wrap + 3_000));
        assert_eq!(heartbeat.due_ms(at(wrap + 3_500)), wrap + 13_000);
    }

    #[test]
    fn after_the_node_was_away_the_peer_gets_both_its_pings() {
        let mut heartbeat = Heartbeat::new(10_000, at(0));
        assert_eq!(heartbeat.beat(at(60_000)), Beat::Ping);
        assert_eq!(heartbeat.due_ms(at(60_000)), 70_000);
        assert_eq!(heartbeat.beat(at(70_400)), Beat::Ping);
        assert_eq!(heartbeat.beat(at(80_000)), Beat::Wait, "what it answered may wait to be read");
        assert_eq!(heartbeat.beat(at(82_500)), Beat::Lost);
    }

    #[test]
    fn who_gives_no_sign_of_life_when_one_is_demanded_is_gone_in_10_s_and_any_sign_will_do() {
        let mut silent = Heartbeat::new(25_000, at(0));
        silent.demand(at(1_000));
        silent.demand(at(9_000));
        assert_eq!((silent.due_ms(at(9_000)), silent.beat(at(10_999))), (11_000, Beat::Wait));
        let mut alive = silent;
        assert_eq!(silent.beat(at(11_000)), Beat::Lost);
        alive.heard(at(10_999));
        assert_eq!((alive.beat(at(11_000)), alive.due_ms(at(11_000))), (Beat::Wait, 35_999));
        assert_eq!(alive.pong(at(11_000)), Some(10_000), "the demand's ping counts as one");
        let mut late = Heartbeat::new(10_000, at(0));
        assert_eq!([10_000, 20_000].map(|ms| late.beat(at(ms))), [Beat::Ping, Beat::Ping]);
        late.demand(at(21_000));
        assert_eq!(late.beat(at(22_500)), Beat::Lost, "a demand never gives it longer");
    }

    #[test]
    fn any_traffic_counts_and_a_pong_tells_the_round_trip() {
        let mut heartbeat = Heartbeat::new(10_000, at(0));
        heartbeat.heard(at(100));
        assert_eq!(heartbeat.pong(at(100)), None, "nobody asked");
        assert_eq!((heartbeat.beat(at(10_100)), heartbeat.due_ms(at(10_100))), (Beat::Ping, 20_100));
        heartbeat.heard(at(10_120));
        assert_eq!((heartbeat.beat(at(20_000)), heartbeat.due_ms(at(20_000))), (Beat::Wait, 20_120));
        assert_eq!((heartbeat.pong(at(20_010)), heartbeat.pong(at(20_011))), (Some(9_910), None));
    }

    #[test]
    fn the_silence_of_one_that_is_not_read_does_not_count() {
        let mut heartbeat = Heartbeat::new(10_000, at(0));
        for ms in (0..120_000).step_by(500) {
            heartbeat.not_reading(at(ms));
            assert_eq!(heartbeat.beat(at(ms)), Beat::Wait);
        }
    }
}
