//! How often a client does something: faults in a minute, control frames in a second, messages above a rate.

/// Counts events in fixed spans of time: at most `limit` in each.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counter {
    span: u32,
    count: u32,
}

impl Counter {
    /// Counts one event at `now_ms`. `false`: it is one too many in its span.
    pub fn count(&mut self, now_ms: u64, span_ms: u64, limit: u32) -> bool {
        let span = (now_ms / span_ms.max(1)) as u32;
        if span != self.span {
            *self = Self { span, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= limit
    }
}

/// A bucket that fills at a rate and holds a second's worth.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Thousandths of a message that may be taken.
    level: u64,
    at_ms: u64,
}

impl Bucket {
    /// Full at `now_ms`.
    pub fn full(per_s: u32, now_ms: u64) -> Self {
        Self { level: u64::from(per_s) * 1_000, at_ms: now_ms }
    }

    /// Takes one message. `Err` tells after how many milliseconds there will be one.
    ///
    /// # Errors
    /// The bucket is empty.
    pub fn take(&mut self, per_s: u32, now_ms: u64) -> Result<(), u64> {
        let rate = u64::from(per_s.max(1));
        let gained = now_ms.saturating_sub(self.at_ms).saturating_mul(rate);
        self.level = self.level.saturating_add(gained).min(rate * 1_000);
        self.at_ms = self.at_ms.max(now_ms);
        if self.level < 1_000 {
            return Err((1_000 - self.level).div_ceil(rate));
        }
        self.level -= 1_000;
        Ok(())
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
        assert!(counter.count(120_000, 60_000, 10));
    }

    #[test]
    fn a_bucket_gives_its_rate_and_says_when_there_is_more() {
        let mut bucket = Bucket::full(4, 0);
        assert_eq!((0..10).filter(|_| bucket.take(4, 0).is_ok()).count(), 4);
        assert_eq!(bucket.take(4, 0), Err(250));
        assert_eq!(bucket.take(4, 249), Err(1));
        assert_eq!(bucket.take(4, 250), Ok(()));
        assert_eq!((0..10).filter(|_| bucket.take(4, 1_000_000).is_ok()).count(), 4, "a second's worth at most");
    }
}
