//! How often a client does something: faults in a minute, control frames in a second, messages above a rate.

/// Counts events: at most `limit` in a span of time, which begins with its first event. Its clock is the low half of the
/// milliseconds, so a span must stay far below seven weeks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counter {
    since_ms: u32,
    count: u32,
}

impl Counter {
    /// Counts one event at `now_ms`. `false`: it is one too many in its span.
    pub fn count(&mut self, now_ms: u64, span_ms: u64, limit: u32) -> bool {
        let now = now_ms as u32;
        if self.count == 0 || u64::from(now.wrapping_sub(self.since_ms)) >= span_ms {
            *self = Self { since_ms: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= limit
    }

    /// Whether the last event counted was the first above `limit` in its span.
    pub const fn is_first_above(&self, limit: u32) -> bool {
        self.count == limit.saturating_add(1)
    }
}

/// A rate of messages with a second's worth of burst, kept as one number: the time at which everything taken so far
/// would have come at that rate.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    earned_ns: u64,
}

const SECOND_NS: u64 = 1_000_000_000;
const MS_NS: u64 = 1_000_000;

impl Bucket {
    /// With a second's worth in it at `now_ms`.
    pub const fn full(now_ms: u64) -> Self {
        Self { earned_ns: now_ms.saturating_mul(MS_NS) }
    }

    fn after_one(self, per_s: u32, now_ms: u64) -> u64 {
        let now_ns = now_ms.saturating_mul(MS_NS);
        self.earned_ns.max(now_ns).saturating_add(SECOND_NS / u64::from(per_s.max(1)))
    }

    /// After how many milliseconds a message may be taken; 0: now.
    pub fn wait_ms(self, per_s: u32, now_ms: u64) -> u64 {
        let latest = now_ms.saturating_mul(MS_NS).saturating_add(SECOND_NS);
        self.after_one(per_s, now_ms).saturating_sub(latest).div_ceil(MS_NS)
    }

    /// Takes one message, whether or not [`Bucket::wait_ms`] allows it.
    pub fn take(&mut self, per_s: u32, now_ms: u64) {
        self.earned_ns = self.after_one(per_s, now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_forgets_with_its_span() {
        let mut counter = Counter::default();
        let taken = (0..12).filter(|_| counter.count(61_000, 60_000, 10)).count();
        assert_eq!(taken, 10);
        assert!(!counter.count(120_999, 60_000, 10), "a minute begins with its first event, not with the clock's");
        assert!(counter.count(121_000, 60_000, 10));
    }

    #[test]
    fn a_counter_knows_the_first_that_is_too_much() {
        let mut counter = Counter::default();
        let first: Vec<bool> = (0..4)
            .map(|_| {
                counter.count(5, 1_000, 2);
                counter.is_first_above(2)
            })
            .collect();
        assert_eq!(first, [false, false, true, false]);
    }

    #[test]
    fn a_bucket_gives_its_rate_and_says_when_there_is_more() {
        let mut bucket = Bucket::full(0);
        let mut take = |now_ms| {
            let wait_ms = bucket.wait_ms(4, now_ms);
            if wait_ms == 0 {
                bucket.take(4, now_ms);
            }
            wait_ms
        };
        assert_eq!((0..10).filter(|_| take(0) == 0).count(), 4);
        assert_eq!((take(0), take(249), take(250)), (250, 1, 0));
        assert_eq!((0..10).filter(|_| take(1_000_000) == 0).count(), 4, "a second's worth at most");
    }
}
