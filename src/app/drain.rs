//! How a node leaves: unready, then its connections go, then what it owes is settled.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::Signals;
use crate::api::Health;
use crate::config::Config;
use crate::connection::Node;
use crate::keeper::Keeper;

/// How long a leaving node tries to have its rows removed and its presence published; its lease does the rest.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// How long a leaving node waits for its last refusals to be answered.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);

/// Unready first, and load balancers get the time to see it; then no connection is let in, what was taken is acked,
/// every connection is closed with 1012, its row removed, and the log is flushed.
pub(super) async fn leave(
    config: &Config,
    node: &Node,
    health: &Health,
    keeper: &Keeper,
    accepting: JoinHandle<()>,
    signals: &mut Signals,
) {
    tracing::info!("leaving: unready now");
    health.leaving();
    node.metrics.draining.set(1);
    let propagation = Duration::from_secs(config.drain.propagation_s);
    tokio::select! {
        () = tokio::time::sleep(propagation) => {}
        // A second signal: whoever sends it does not want to wait.
        () = signals.leave() => {}
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(config.drain.budget_s);
    super::wait_for_connections(node, end).await;
    accepting.abort();
    keeper.finish(end.min(tokio::time::Instant::now() + SETTLED_WITHIN)).await;
    let flushed = node.log.close(end.saturating_duration_since(tokio::time::Instant::now()));
    let (left, ()) = tokio::join!(flushed, wait_for_refusals(node, end));
    if left > 0 {
        node.metrics.shutdown_unacked.inc_by(left as u64);
        tracing::warn!(left, "left with records that Kafka has not stored: their devices send them again");
    }
    tracing::info!("left");
}

/// Waits until those who are refused have their answer, which is held back for up to 4 s, or until `end`.
async fn wait_for_refusals(node: &Node, end: tokio::time::Instant) {
    let end = end.min(tokio::time::Instant::now() + REFUSED_WITHIN);
    while node.metrics.handshakes.get() > 0 && tokio::time::Instant::now() < end {
        tokio::time::sleep(super::LOOK_EVERY).await;
    }
}
