//! When what happens within the budget of a drain.

use std::time::Duration;

use crate::config::DrainConfig;
use crate::connection::GRACE_MS;

/// How long a connection works on after it was told to leave, where the budget allows it.
pub(super) const GRACE: Duration = Duration::from_millis(GRACE_MS);
/// What the end takes, where the budget allows it: last acks and closes, then rows, presence and the log.
const SETTLING: Duration = Duration::from_secs(15);

/// The parts of a drain, counted from the moment the first connection is told to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Connections told a second.
    pub(super) rate_per_s: u64,
    /// How long each works on after it was told.
    pub(super) grace: Duration,
    /// When those that are still there are read no more.
    pub(super) stop_at: Duration,
    /// When those that are still there are dropped.
    pub(super) closed_by: Duration,
}

impl Plan {
    /// For so many connections. With a budget too small for everything each part gets a share of it: a quarter for the end,
    /// and of the rest half to tell everybody and half for the last one told.
    pub(super) fn new(config: &DrainConfig, connections: usize) -> Self {
        let budget = Duration::from_secs(config.budget_s);
        let settling = SETTLING.min(budget / 4);
        let stop_at = budget - settling;
        let grace = GRACE.min(stop_at / 2);
        let telling_ms = u64::try_from((stop_at - grace).as_millis()).unwrap_or(u64::MAX).max(1);
        let needed = (connections as u64).saturating_mul(1_000).div_ceil(telling_ms);
        Self { rate_per_s: needed.max(u64::from(config.rate_per_s)), grace, stop_at, closed_by: budget - settling / 3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(budget_s: u64, connections: usize) -> Plan {
        Plan::new(&DrainConfig { budget_s, ..DrainConfig::default() }, connections)
    }

    #[test]
    fn the_rate_is_the_configured_one_until_the_budget_would_not_do() {
        let seconds = Duration::from_secs;
        let few = plan(240, 15_000);
        let parts = Plan { rate_per_s: 200, grace: seconds(30), stop_at: seconds(225), closed_by: seconds(235) };
        assert_eq!(few, parts);
        // 195 s remain to tell everybody.
        assert_eq!((plan(240, 39_000).rate_per_s, plan(240, 39_001).rate_per_s), (200, 201));
        assert_eq!(plan(240, 1_000_000).rate_per_s, 5_129);
    }

    #[test]
    fn everybody_is_told_and_has_had_its_grace_before_the_rest_is_closed_whatever_the_budget() {
        for budget_s in [0, 1, 3, 10, 59, 60, 75, 240, 3_600] {
            for connections in [0, 1, 199, 20_000, 1_000_000] {
                let plan = plan(budget_s, connections);
                let told_by = Duration::from_millis((connections as u64 * 1_000).div_ceil(plan.rate_per_s));
                let late = Duration::from_millis(1);
                assert!(told_by + plan.grace <= plan.stop_at + late, "{budget_s} s, {connections}: {plan:?}");
                assert!(plan.stop_at <= plan.closed_by && plan.closed_by <= Duration::from_secs(budget_s));
            }
        }
    }
}
