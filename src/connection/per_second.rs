//! So many a second, and no more: one word, and no lock.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::session::Now;

/// The present second, and below it in 32 bits how many were taken of it.
#[derive(Debug, Default)]
pub(super) struct PerSecond(AtomicU64);

impl PerSecond {
    /// Takes one, where fewer than `most` were taken in the second of `now`.
    pub(super) fn take(&self, most: u64, now: Now) -> bool {
        let second = now.mono_ms / 1_000;
        let count = |taken: u64| if taken >> 32 == second { taken + 1 } else { second << 32 | 1 };
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| Some(count(taken)));
        before.is_ok_and(|taken| count(taken) & u64::from(u32::MAX) <= most)
    }
}
