//! How a node sends its devices to the others: for good when it is told to leave, and for a time when it alone lacks Kafka.
//!
//! Who is told to leave (`goaway`) works on until its own deadline; who is still there then is read no more, gets its last
//! acks and is closed. Since they are told a few at a time they also come back elsewhere, and are closed, a few at a time.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Signals;
use super::pace::Pace;
use crate::api::Health;
use crate::clock::unix_ms;
use crate::config::{Config, DrainConfig};
use crate::connection::{Departure, Node};
use crate::keeper::Keeper;
use crate::protocol::close::CloseReason;
use crate::router::Router;
use crate::telemetry::metrics::{CutShort, ShedReason};
use plan::{GRACE, Plan};

/// How long a leaving node tries to have its rows removed, its presence and the events of its commands published; its lease
/// and the due sweeps of others do the rest.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// How long a leaving node waits for its last refusals to be answered.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);
/// What the log gets at least to be flushed, and at most where it stores nothing.
const FLUSHED_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether this node alone lacks Kafka.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Unready first, and load balancers get the time to see it; then no connection is let in and those that are here are told
/// to leave, a few at a time; whoever has not left in time is closed with 1012; rows are removed, presence and
/// what became of commands is published, the log is flushed. Each further signal cuts short what is being waited for.
pub(super) async fn leave(
    config: &Config,
    node: &Node,
    health: &Health,
    (keeper, router): (&Keeper, &Router),
    accepting: JoinHandle<()>,
    signals: &mut Signals,
) {
    tracing::info!(connections = node.receipts.connections(), "leaving: unready now");
    health.leaving();
    set_draining(node, true);
    let propagation = Duration::from_secs(config.drain.propagation_s);
    tokio::select! {
        () = tokio::time::sleep(propagation) => {}
        () = signals.leave() => {}
    }
    let plan = Plan::new(&config.drain, node.receipts.connections());
    let begun = Instant::now();
    let end = begun + plan.closed_by;
    node.close_doors(Departure {
        reason: CloseReason::Restart,
        grace_ms: millis(plan.grace),
        until_ms: node.now().mono_ms + millis(plan.stop_at),
    });
    tokio::select! {
        () = everybody_leaves(node, plan.rate_per_s) => {}
        () = tokio::time::sleep_until(begun + plan.stop_at) => {
            let left = cut_short(node, CutShort::Budget);
            tracing::warn!(left, "the time to leave is over: the rest is closed at once");
        }
        () = signals.leave() => {
            let left = cut_short(node, CutShort::Signal);
            tracing::info!(left, "told again: the rest is closed at once");
        }
    }
    tokio::select! {
        () = super::wait_for_connections(node, end) => {}
        () = signals.leave() => {}
    }
    accepting.abort();
    let settled_by = Instant::now() + SETTLED_WITHIN;
    let ((), published) = tokio::join!(keeper.finish(settled_by), router.flush(settled_by));
    if !published {
        tracing::warn!("left with events of commands that are not published: other nodes publish those of ends");
    }
    let budget = Duration::from_secs(config.drain.budget_s).saturating_sub(begun.elapsed()).max(FLUSHED_WITHIN);
    // What it has taken from devices that number it they have too: while nothing is stored it is not worth waiting for.
    let budget = if node.is_stalled() { FLUSHED_WITHIN } else { budget };
    let (left, ()) = tokio::join!(node.log.close(budget), wait_for_refusals(node));
    if left > 0 {
        node.metrics.shutdown_unacked.inc_by(left as u64);
        tracing::warn!(left, "left with records that Kafka has not stored: their devices send them again");
    }
    keeper.depart().await;
    tracing::info!("left");
}

fn set_draining(node: &Node, draining: bool) {
    node.metrics.draining.set(i64::from(draining));
    node.metrics.drain_began.set(if draining { unix_ms() / 1_000 } else { 0 });
}

/// Counts those that are not left the time they were told they have.
fn cut_short(node: &Node, cause: CutShort) -> usize {
    let left = node.receipts.connections();
    node.metrics.drain_cut_short.of(cause).inc_by(left as u64);
    left
}

/// Tells everybody to leave, so many a second, and waits until all are gone.
async fn everybody_leaves(node: &Node, rate_per_s: u64) {
    send_away(node, rate_per_s).await;
    while node.receipts.connections() > 0 {
        tokio::time::sleep(super::LOOK_EVERY).await;
    }
}

/// Tells everybody to leave, so many a second; a line a second says how many were.
async fn send_away(node: &Node, rate_per_s: u64) {
    let mut pace = Pace::new(rate_per_s);
    let (mut place, mut told) = (Some(0), told_to_leave(node));
    for turn in 1.. {
        let Some(from) = place else { break };
        place = node.send_away(from, pace.turn().await);
        if turn % Pace::TURNS_A_SECOND == 0 {
            log_told(node, &mut told, rate_per_s);
        }
    }
    // Those told last have not all been woken yet.
    pace.turn().await;
    log_told(node, &mut told, rate_per_s);
}

fn told_to_leave(node: &Node) -> u64 {
    node.metrics.shed.of(ShedReason::Drain).get() + node.metrics.shed.of(ShedReason::CutOff).get()
}

fn log_told(node: &Node, before: &mut u64, rate_per_s: u64) {
    let told = told_to_leave(node);
    let since = told - std::mem::replace(before, told);
    tracing::info!(
        told = since,
        connections = node.receipts.connections(),
        rate_per_s,
        "connections are told to leave"
    );
}

/// Waits until those who are refused have their answer, which is held back for up to 4 s.
async fn wait_for_refusals(node: &Node) {
    let end = Instant::now() + REFUSED_WITHIN;
    while node.metrics.handshakes.get() > 0 && Instant::now() < end {
        tokio::time::sleep(super::LOOK_EVERY).await;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

// ---- without Kafka, alone -----------------------------------------------------------------------------------------------

/// Sends the devices to the other nodes whenever this one has lacked Kafka for `cut_off_s` while another has it, and lets
/// devices in again when that is over. Ends with the runtime, or when the node leaves.
pub(super) fn watch(config: &DrainConfig, node: &Arc<Node>, health: &Arc<Health>, keeper: &Arc<Keeper>) {
    let budget_s = config.propagation_s.saturating_add(config.budget_s);
    node.metrics.drain_budget_s.set(i64::try_from(budget_s).unwrap_or(i64::MAX));
    let watch = Watch {
        after: Duration::from_secs(config.cut_off_s),
        rate_per_s: u64::from(config.rate_per_s),
        node: Arc::clone(node),
        health: Arc::clone(health),
        keeper: Arc::clone(keeper),
    };
    tokio::spawn(watch.run());
}

struct Watch {
    after: Duration,
    rate_per_s: u64,
    node: Arc<Node>,
    health: Arc<Health>,
    keeper: Arc<Keeper>,
}

impl Watch {
    async fn run(self) {
        let mut since = None;
        while !self.health.is_leaving() {
            tokio::time::sleep(LOOK_EVERY).await;
            if !self.is_cut_off() {
                since = None;
            } else if since.get_or_insert_with(Instant::now).elapsed() >= self.after {
                self.send_to_the_others().await;
                since = None;
            }
        }
    }

    fn is_cut_off(&self) -> bool {
        self.keeper.is_cut_off() && !self.health.is_leaving()
    }

    /// Until Kafka is back, nobody else has it either, or the node leaves for good.
    async fn send_to_the_others(&self) {
        let connections = self.node.receipts.connections();
        tracing::warn!(connections, "this node alone lacks Kafka for too long: its devices are sent to the others");
        self.health.set_sends_away(true);
        set_draining(&self.node, true);
        let grace_ms = millis(GRACE);
        self.node.close_doors(Departure { reason: CloseReason::Moved, grace_ms, until_ms: u64::MAX });
        tokio::select! {
            () = self.no_longer_cut_off() => {}
            () = async {
                everybody_leaves(&self.node, self.rate_per_s).await;
                self.no_longer_cut_off().await;
            } => {}
        }
        self.node.open_doors(CloseReason::Moved);
        self.health.set_sends_away(false);
        if !self.health.is_leaving() {
            set_draining(&self.node, false);
            tracing::info!("this node does not lack Kafka alone any more: it lets devices in");
        }
    }

    async fn no_longer_cut_off(&self) {
        while self.is_cut_off() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
