//! What a node does all the time, whoever is connected: hand receipts out, watch the flow, wake those whose moment has
//! come, probe the log, keep what stands in the directory true, and look at keys that were revoked.

use std::sync::Arc;
use std::time::Duration;

use crate::api::Health;
use crate::connection::{Node, TICK_MS};
use crate::eventlog::Topic;
use crate::keeper::{Keeper, Parts};
use crate::ownership::NodeState;
use crate::receipts::Batch;
use crate::registrar::Registrar;
use crate::revocations::memory::MemoryTopic;
use crate::telemetry::metrics::{ProbePath, RebalanceState};

const FLOW_EVERY: Duration = Duration::from_millis(100);
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// While the node starts its first probe is what it waits for.
const FIRST_PROBE_EVERY: Duration = Duration::from_millis(500);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The keeper of a node that claims its devices and that peers reach at `address`.
pub(crate) fn keeper(node: &Node, registrar: &Arc<Registrar>, address: String) -> Arc<Keeper> {
    Keeper::new(Parts {
        registrar: Arc::clone(registrar),
        roster: Arc::clone(&node.roster),
        log: Arc::clone(&node.log),
        receipts: Arc::clone(&node.receipts),
        courier: node.courier.clone(),
        metrics: node.metrics.clone(),
        address,
    })
}

/// Starts them all; they end with the runtime.
pub(crate) fn spawn(node: &Arc<Node>, health: &Arc<Health>, keeper: &Arc<Keeper>) {
    node.metrics.rebalance_state.show(RebalanceState::Off);
    keeper.spawn();
    tokio::spawn(report(Arc::clone(health), Arc::clone(keeper)));
    tokio::spawn(hand_out(Arc::clone(node)));
    tokio::spawn(watch_flow(Arc::clone(node)));
    tokio::spawn(sweep(Arc::clone(node)));
    tokio::spawn(probe(Arc::clone(node), Arc::clone(health)));
    if let Some(auth) = &node.auth {
        // The task lives as long as the runtime: its handle is of no use.
        drop(auth.spawn_refresh());
        tokio::spawn(watch_keys(Arc::clone(node), auth.on_change()));
    }
}

/// Has a node follow a topic of revocations in memory.
pub(crate) fn follow(node: &Arc<Node>, topic: &MemoryTopic) {
    let node = Arc::clone(node);
    topic.follow(Arc::new(move |key, value| {
        if let Err(error) = node.revoke(key, value) {
            tracing::error!(%error, "a revocation was not applied");
        }
    }));
}

async fn hand_out(node: Arc<Node>) {
    let mut batch = Batch::default();
    loop {
        std::future::poll_fn(|cx| node.receipts.poll_hand_out(cx, &mut batch)).await;
    }
}

/// Tells the others what this node is doing, and the platform what the others have.
async fn report(health: Arc<Health>, keeper: Arc<Keeper>) {
    let mut every = tokio::time::interval(FLOW_EVERY);
    loop {
        every.tick().await;
        keeper.tell_kafka();
        health.set_cut_off(keeper.is_cut_off());
        if health.is_draining() {
            keeper.set_state(NodeState::Draining);
        } else if health.has_started() {
            keeper.set_state(NodeState::Ready);
        }
    }
}

async fn watch_flow(node: Arc<Node>) {
    let metrics = &node.metrics;
    let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    metrics.publish_pending_bytes_capacity.set(gauge(node.limits.node_budget_bytes));
    metrics.connections_capacity.set(gauge(node.limits.max_connections));
    metrics.handshakes_capacity.set(gauge(node.limits.max_handshakes));
    metrics.parked_bytes_capacity.set(gauge(node.limits.parked_bytes));
    let mut every = tokio::time::interval(FLOW_EVERY);
    loop {
        every.tick().await;
        node.watch_flow();
        let pending = node.log.pending();
        metrics.publish_pending_messages.set(gauge(pending.messages));
        metrics.publish_pending_bytes.set(gauge(pending.bytes));
        for topic in Topic::ALL {
            let pending = node.log.pending_in(topic);
            metrics.publish_topic_pending.of(topic.label()).set(gauge(pending.messages));
            metrics.publish_stalled_s.of(topic.label()).set(Duration::from_millis(pending.stalled_ms).as_secs_f64());
        }
        metrics.parked_bytes.set(gauge(node.receipts.parked()));
        let failures = node.auth.as_ref().map_or(0, |auth| auth.refresh_failures());
        // This task alone counts there.
        metrics.jwks_refresh_failures.inc_by(failures.saturating_sub(metrics.jwks_refresh_failures.get()));
    }
}

async fn sweep(node: Arc<Node>) {
    let mut every = tokio::time::interval(Duration::from_millis(TICK_MS));
    loop {
        every.tick().await;
        node.sweep();
    }
}

async fn probe(node: Arc<Node>, health: Arc<Health>) {
    loop {
        let result = node.log.probe(PROBE_TIMEOUT).await;
        node.metrics.probed(ProbePath::Kafka, result.is_ok());
        match result {
            Ok(()) if node.auth.as_ref().is_none_or(|auth| auth.is_ready()) => health.started(),
            Ok(()) => tracing::warn!("not ready yet: no issuer's keys could be read so far (auth.jwks)"),
            Err(error) => tracing::warn!(%error, "a probe of the event log failed"),
        }
        tokio::time::sleep(if health.has_started() { PROBE_EVERY } else { FIRST_PROBE_EVERY }).await;
    }
}

async fn watch_keys(node: Arc<Node>, mut changes: tokio::sync::watch::Receiver<u64>) {
    while changes.changed().await.is_ok() {
        node.keys_changed();
    }
}
