//! So many a second, a tenth of them at a time.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};

/// Turns, and how many are to be told in each. What was not made use of, because nobody asked for a while, is lost.
pub(super) struct Pace {
    turns: Interval,
    rate_per_s: usize,
    /// In parts of a turn: what did not make a whole one yet.
    owed: usize,
}

impl Pace {
    /// Turns a second.
    pub(super) const TURNS_A_SECOND: usize = 10;

    pub(super) fn new(rate_per_s: u64) -> Self {
        let mut turns = tokio::time::interval(Duration::from_secs(1) / Self::TURNS_A_SECOND as u32);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { turns, rate_per_s: usize::try_from(rate_per_s).unwrap_or(usize::MAX / 2), owed: 0 }
    }

    /// Waits for the next turn, and gives how many are to be told in it.
    pub(super) async fn turn(&mut self) -> usize {
        self.turns.tick().await;
        self.share()
    }

    fn share(&mut self) -> usize {
        self.owed += self.rate_per_s;
        let count = self.owed / Self::TURNS_A_SECOND;
        self.owed %= Self::TURNS_A_SECOND;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rate_that_is_no_multiple_of_the_turns_is_kept_over_seconds() {
        for rate_per_s in [1, 7, 20, 23, 200, 1_999] {
            let mut pace = Pace::new(rate_per_s);
            let turns: Vec<usize> = (0..5 * Pace::TURNS_A_SECOND).map(|_| pace.share()).collect();
            assert_eq!(turns.iter().sum::<usize>() as u64, 5 * rate_per_s);
            assert!(turns.iter().max().unwrap_or(&0) - turns.iter().min().unwrap_or(&0) <= 1, "{turns:?}");
        }
    }
}
