//! Whether a node has more than its share of the devices, and how many of them it tells to move. No clock and no I/O: what
//! is known comes in, a number goes out.

use crate::config::RebalanceConfig;
use crate::connection::GRACE_MS;
use crate::ownership::{NodeLife, NodeState, View};
use crate::telemetry::metrics::RebalanceState;

/// Devices that were told are gone, or closed, by then.
const REST_MS: u64 = 2 * GRACE_MS;
/// A node that was balanced for so long has no imbalance left that it could have failed to mend.
const FORGOTTEN_MS: u64 = 2 * REST_MS;
/// The longest wait between two tries that do not help.
const LONGEST_MS: u64 = 1_800_000;
/// Of those who are told, one in so many at least has to go where devices are lacking, or it did not help. Behind a load
/// balancer that gives all nodes the same one in eleven does, where the threshold is 110 %.
const HELPED: u64 = 20;
/// For so long, and up to twice that, the devices of the cluster are taken for as many as they were at most: who moves is
/// nowhere for a while.
const REMEMBERED_MS: u64 = 60_000;

/// What the cluster looks like to a node that asks whether it has more than its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cluster {
    /// It is not the time to compare: somebody drains, lacks Kafka or does not say how many devices it has.
    Unsettled,
    /// No other node is ready.
    Alone,
    /// How many devices each node has that is ready, this one among them.
    Weighed(Vec<u64>),
}

impl Cluster {
    /// As the membership says, with `mine` in place of what this node said last.
    pub(super) fn weigh(view: &View, me: &NodeLife, mine: u64) -> Self {
        if view.member(me).is_none_or(|member| member.profile.state != NodeState::Ready) {
            return Self::Unsettled;
        }
        let mut devices = vec![mine];
        for profile in view.live.iter().map(|member| &member.profile).filter(|profile| profile.life != *me) {
            match (profile.state, profile.devices) {
                (NodeState::Ready, Some(its)) if profile.sees_kafka => devices.push(its),
                // It takes no devices yet, or none any more.
                (NodeState::Starting | NodeState::Dead | NodeState::Gone, _) => {}
                (NodeState::Ready | NodeState::Draining, _) => return Self::Unsettled,
            }
        }
        if devices.len() == 1 { Self::Alone } else { Self::Weighed(devices) }
    }
}

/// What a node knows when it asks.
#[derive(Debug)]
pub(super) struct Sight {
    /// This moment, on a monotonic clock.
    pub(super) now_ms: u64,
    /// The others.
    pub(super) cluster: Cluster,
    /// Devices here.
    pub(super) devices: u64,
    /// Those among them that were told to leave.
    pub(super) leaving: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has no more than its share.
    Calm { since_ms: u64 },
    /// It has more, and for how long.
    Waiting { since_ms: u64 },
    /// It tells this many more, at most.
    Shedding { left: u64 },
    /// Those who were told are on their way.
    Resting { since_ms: u64 },
}

/// Above `begin` a node has more than its share; at `stop` it has told enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Levels {
    begin: u64,
    stop: u64,
}

/// What a node does about its share of the devices.
#[derive(Debug)]
pub(super) struct Scales {
    threshold_percent: u64,
    minimum: u64,
    settle_ms: u64,
    phase: Phase,
    shown: RebalanceState,
    mean: u64,
    /// When this minute began, the most devices of the cluster in it, and the most in the one before.
    remembered: (u64, u64, u64),
    /// How many devices other nodes lacked when this one began to tell some, and how many it meant to tell, where it is not
    /// known yet what came of it.
    tried: Option<(u64, u64)>,
    /// Tries in a row that made them no fewer.
    futile: u32,
}

impl Scales {
    pub(super) fn new(config: &RebalanceConfig) -> Self {
        Self {
            threshold_percent: u64::from(config.threshold_percent),
            minimum: u64::from(config.minimum),
            settle_ms: config.settle_s.saturating_mul(1_000),
            phase: Phase::Calm { since_ms: 0 },
            shown: RebalanceState::Held,
            mean: 0,
            remembered: (0, 0, 0),
            tried: None,
            futile: 0,
        }
    }

    /// How many devices may be told to move now; those who were are taken off by [`Scales::told`].
    pub(super) fn look(&mut self, sight: &Sight) -> u64 {
        let now_ms = sight.now_ms;
        let Cluster::Weighed(counts) = &sight.cluster else {
            // Whatever was going on is over. Who was told already goes.
            (self.phase, self.tried) = (Phase::Calm { since_ms: now_ms }, None);
            self.mean = 0;
            let alone = sight.cluster == Cluster::Alone;
            self.shown = if alone { RebalanceState::Alone } else { RebalanceState::Held };
            return 0;
        };
        let (nodes, devices) = (counts.len() as u64, self.remember(now_ms, counts.iter().sum()));
        self.mean = devices / nodes;
        let levels = self.levels(nodes, devices);
        let lacking = counts.iter().map(|count| self.mean.saturating_sub(*count)).sum();
        let may = self.step(sight, levels, lacking);
        self.shown = match self.phase {
            Phase::Calm { .. } => RebalanceState::Balanced,
            Phase::Waiting { .. } => RebalanceState::Waiting,
            Phase::Shedding { .. } => RebalanceState::Shedding,
            Phase::Resting { .. } => RebalanceState::Resting,
        };
        may
    }

    fn step(&mut self, sight: &Sight, levels: Levels, lacking: u64) -> u64 {
        let Sight { now_ms, devices, leaving, .. } = *sight;
        let staying = devices.saturating_sub(leaving);
        let for_ms = |since_ms: u64| now_ms.saturating_sub(since_ms);
        if let Phase::Resting { since_ms } = self.phase
            && (leaving == 0 || for_ms(since_ms) >= REST_MS)
        {
            self.phase = Phase::Calm { since_ms: now_ms };
        }
        match self.phase {
            Phase::Calm { .. } if staying > levels.begin => {
                self.judge(lacking);
                self.phase = Phase::Waiting { since_ms: now_ms };
            }
            Phase::Calm { since_ms } if for_ms(since_ms) >= FORGOTTEN_MS => (self.tried, self.futile) = (None, 0),
            Phase::Waiting { .. } if staying <= levels.begin => self.phase = Phase::Calm { since_ms: now_ms },
            Phase::Waiting { since_ms } if for_ms(since_ms) >= self.patience_ms() => {
                let left = staying - levels.stop;
                (self.phase, self.tried) = (Phase::Shedding { left }, Some((lacking, left)));
            }
            _ => {}
        }
        let Phase::Shedding { left } = self.phase else { return 0 };
        let may = left.min(staying.saturating_sub(levels.stop));
        if may == 0 {
            self.phase = Phase::Resting { since_ms: now_ms };
        }
        may
    }

    /// So many were told.
    pub(super) fn told(&mut self, count: u64) {
        if let Phase::Shedding { left } = &mut self.phase {
            *left = left.saturating_sub(count);
        }
    }

    /// Whether it tells some now.
    pub(super) const fn is_shedding(&self) -> bool {
        matches!(self.phase, Phase::Shedding { .. })
    }

    /// How it stands.
    pub(super) const fn state(&self) -> RebalanceState {
        self.shown
    }

    /// What a ready node has on average; 0 where it is compared with nobody.
    pub(super) const fn mean(&self) -> u64 {
        self.mean
    }

    /// Tries in a row that did not help: the devices come back.
    pub(super) const fn futile(&self) -> u32 {
        self.futile
    }

    /// How long it waits before it tells any: longer each time that did not help.
    fn patience_ms(&self) -> u64 {
        let doubled = self.settle_ms.max(1_000).saturating_mul(1 << self.futile.min(16)).min(LONGEST_MS);
        if self.futile == 0 { self.settle_ms } else { doubled.max(self.settle_ms) }
    }

    /// There are too many again: whether those who were told last time went where devices are lacking. What this node has
    /// is no sign of that: they may have gone to another that has too many.
    fn judge(&mut self, lacking: u64) {
        let Some((before, told)) = self.tried.take() else { return };
        // A handful says nothing.
        let helped = told < HELPED || lacking.saturating_add(told / HELPED) <= before;
        self.futile = if helped { 0 } else { self.futile.saturating_add(1) };
    }

    fn remember(&mut self, now_ms: u64, devices: u64) -> u64 {
        let (since_ms, most, before) = &mut self.remembered;
        let over = now_ms.saturating_sub(*since_ms) / REMEMBERED_MS;
        if over > 0 {
            *before = if over == 1 { *most } else { 0 };
            (*since_ms, *most) = (now_ms, 0);
        }
        *most = devices.max(*most);
        *most.max(before)
    }

    fn levels(&self, nodes: u64, devices: u64) -> Levels {
        let begin = devices.saturating_mul(self.threshold_percent) / (100 * nodes);
        let stop = devices.saturating_mul(100 + self.threshold_percent).div_ceil(200 * nodes);
        let stop = stop.max(self.minimum);
        Levels { begin: begin.max(stop), stop }
    }
}

#[cfg(test)]
mod tests;
