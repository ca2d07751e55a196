//! Whether the peer is there: when to ping, and when to give up.
//!
//! A ping goes out after each interval in which nothing was heard. After two and a quarter intervals of silence (two
//! pings unanswered, the second for a quarter) the peer is gone; that, and half a second's coarse ticking, stays below
//! the two and a half intervals promised. A peer that is not being read cannot be heard, so its silence does not count.

use super::Now;

/// The heartbeat of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    interval_ms: u32,
    heard_ms: u64,
    /// Pings sent since something was heard.
    unanswered: u8,
    /// When the oldest of those pings was sent.
    pinged_ms: u64,
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
        Self { interval_ms, heard_ms: now.mono_ms, unanswered: 0, pinged_ms: 0 }
    }

    /// Something arrived. Returns the round trip in milliseconds where it ends one: from the oldest unanswered ping.
    pub fn heard(&mut self, now: Now) -> Option<u64> {
        self.heard_ms = now.mono_ms;
        let answered = self.unanswered != 0;
        self.unanswered = 0;
        answered.then(|| now.mono_ms.saturating_sub(self.pinged_ms))
    }

    /// The peer is not being read: its silence says nothing.
    pub fn not_reading(&mut self, now: Now) {
        self.heard_ms = now.mono_ms;
        self.unanswered = 0;
    }

    /// What is due.
    pub fn beat(&mut self, now: Now) -> Beat {
        let silence = now.mono_ms.saturating_sub(self.heard_ms);
        let interval = u64::from(self.interval_ms);
        if silence >= interval * 9 / 4 {
            return Beat::Lost;
        }
        if silence < interval * (u64::from(self.unanswered) + 1) {
            return Beat::Wait;
        }
        if self.unanswered == 0 {
            self.pinged_ms = now.mono_ms;
        }
        self.unanswered += 1;
        Beat::Ping
    }

    /// When [`Heartbeat::beat`] is next worth asking, on the monotonic clock.
    pub fn due_ms(&self) -> u64 {
        let interval = u64::from(self.interval_ms);
        self.heard_ms + (interval * (u64::from(self.unanswered) + 1)).min(interval * 9 / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, unix_ms: 0 }
    }

    #[test]
    fn two_missed_pings_end_it_within_two_and_a_half_intervals() {
        let mut heartbeat = Heartbeat::new(10_000, at(0));
        let mut seen = Vec::new();
        for ms in (0..30_000).step_by(500) {
            match heartbeat.beat(at(ms)) {
                Beat::Wait => {}
                beat => seen.push((ms, beat)),
            }
            if seen.last().is_some_and(|(_, beat)| *beat == Beat::Lost) {
                break;
            }
        }
        assert_eq!(seen, [(10_000, Beat::Ping), (20_000, Beat::Ping), (22_500, Beat::Lost)]);
    }

    #[test]
    fn any_traffic_counts_and_tells_the_round_trip() {
        let mut heartbeat = Heartbeat::new(10_000, at(0));
        assert_eq!(heartbeat.heard(at(100)), None);
        assert_eq!((heartbeat.beat(at(10_100)), heartbeat.due_ms()), (Beat::Ping, 20_100));
        assert_eq!(heartbeat.heard(at(10_140)), Some(40));
        assert_eq!((heartbeat.beat(at(20_000)), heartbeat.due_ms()), (Beat::Wait, 20_140));
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
