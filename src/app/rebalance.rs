//! How a node that has more than its share of the devices lets some go, after others were added: a few a second, told to
//! move as by a drain, and never while any node drains. What each node has comes with the membership; nobody is asked.

mod scales;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::pace::Pace;
use crate::api::Health;
use crate::config::RebalanceConfig;
use crate::connection::Node;
use crate::ownership::LEASE_MS;
use crate::registrar::Registrar;
use crate::telemetry::metrics::{ConnectionState, Label, PeerKind, RebalanceState};
use scales::{Cluster, Scales, Sight};

/// How often a node looks that tells nobody.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Watches this node's share, and has devices move where it is too large; it ends with the runtime, or when the node leaves.
pub(super) fn watch(config: &RebalanceConfig, node: &Arc<Node>, health: &Arc<Health>) {
    let Some(registrar) = &node.registrar else { return };
    let watch = Watch {
        enabled: config.enabled,
        scales: Scales::new(config),
        pace: Pace::new(u64::from(config.rate_per_s)),
        place: 0,
        views: registrar.directory().views(),
        heard: None,
        registrar: Arc::clone(registrar),
        node: Arc::clone(node),
        health: Arc::clone(health),
    };
    if config.enabled || config.max_age_s > 0 {
        tokio::spawn(watch.run());
    }
}

struct Watch {
    enabled: bool,
    scales: Scales,
    pace: Pace,
    /// Where among the connections it goes on: the next time others are told.
    place: usize,
    views: watch::Receiver<()>,
    /// When the membership was heard of last.
    heard: Option<Instant>,
    registrar: Arc<Registrar>,
    node: Arc<Node>,
    health: Arc<Health>,
}

impl Watch {
    async fn run(mut self) {
        while !self.health.is_leaving() {
            let most = if self.scales.is_shedding() {
                self.pace.turn().await
            } else {
                tokio::time::sleep(LOOK_EVERY).await;
                0
            };
            let sight = self.sight();
            // Their devices need the room, and the load balancers the quiet.
            self.node.ages.hold(sight.cluster == Cluster::Unsettled);
            if self.enabled {
                self.look(&sight, most);
            }
        }
        self.node.ages.hold(true);
        if self.enabled {
            self.node.metrics.rebalance_state.show(RebalanceState::Held);
        }
    }

    fn sight(&mut self) -> Sight {
        // The first view came before anybody watched.
        if self.heard.is_none() || self.views.has_changed().unwrap_or(false) {
            self.views.mark_unchanged();
            self.heard = Some(Instant::now());
        }
        let metrics = &self.node.metrics;
        let count = |gauge: i64| u64::try_from(gauge).unwrap_or(0);
        let devices = count(metrics.connections.of(ConnectionState::Open, PeerKind::Device).get());
        let leaving = count(metrics.leaving_connections.of(PeerKind::Device).get());
        let is_fresh = self.heard.is_some_and(|heard| heard.elapsed() < Duration::from_millis(LEASE_MS));
        let is_well = self.health.is_ready() && self.node.lets_in() && !self.node.is_stalled();
        let cluster = if is_fresh && is_well {
            Cluster::weigh(&self.registrar.directory().view(), &self.registrar.life(), devices)
        } else {
            Cluster::Unsettled
        };
        Sight { now_ms: self.node.now().mono_ms, cluster, devices, leaving }
    }

    /// Looks, and tells `most` at most.
    fn look(&mut self, sight: &Sight, most: usize) {
        let before = (self.scales.state(), self.scales.futile());
        let may = self.scales.look(sight);
        let count = most.min(usize::try_from(may).unwrap_or(usize::MAX));
        if count > 0 {
            self.place = self.node.shed(self.place, count).unwrap_or(0);
            self.scales.told(count as u64);
        }
        let metrics = &self.node.metrics;
        metrics.rebalance_state.show(self.scales.state());
        metrics.rebalance_mean.set(i64::try_from(self.scales.mean()).unwrap_or(i64::MAX));
        self.log(before, sight, may);
    }

    fn log(&self, (state, futile): (RebalanceState, u32), sight: &Sight, may: u64) {
        let (devices, mean) = (sight.devices, self.scales.mean());
        match self.scales.state() {
            now if now == state => {}
            RebalanceState::Shedding => {
                tracing::info!(
                    devices,
                    mean,
                    to_move = may,
                    "this node has more than its share: devices are told to move"
                );
            }
            RebalanceState::Resting => tracing::info!(devices, mean, "enough devices are told to move"),
            now if state == RebalanceState::Shedding => {
                tracing::info!(devices, mean, now = now.as_str(), "no more devices are told to move for now");
            }
            _ => {}
        }
        if self.scales.futile() > futile {
            tracing::warn!(
                devices,
                mean,
                tries = self.scales.futile(),
                "devices that were told to move come back: does the load balancer send connections to every node?"
            );
        }
    }
}
