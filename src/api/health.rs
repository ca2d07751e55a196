//! The internal port: `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;

use crate::connection::Node;
use crate::telemetry::metrics::{ProbePath, Readiness};

const STARTING: u8 = 0;
const READY: u8 = 1;
const LEAVING: u8 = 2;

/// What a node says about itself. It takes itself out only for a fault of its own: while it starts, while it leaves, and
/// where it lacks Kafka while another node has it. What every node suffers takes none of them out: that would help nobody.
#[derive(Debug, Default)]
pub struct Health {
    stage: AtomicU8,
    cut_off: AtomicBool,
    sends_away: AtomicBool,
}

impl Health {
    /// The first probe came back and tokens can be judged: traffic may come. A node that leaves stays unready.
    pub fn started(&self) {
        let _unless_leaving = self.stage.compare_exchange(STARTING, READY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// No new traffic, please.
    pub fn leaving(&self) {
        self.stage.store(LEAVING, Ordering::Relaxed);
    }

    /// Whether it leaves.
    pub fn is_leaving(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == LEAVING
    }

    /// Whether this node alone lacks what others have.
    pub fn set_cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, Ordering::Relaxed);
    }

    /// Whether it sends its devices to the others while it lives on.
    pub fn set_sends_away(&self, sends_away: bool) {
        self.sends_away.store(sends_away, Ordering::Relaxed);
    }

    /// Whether it keeps no devices: it leaves, or sends them to the others.
    pub fn is_draining(&self) -> bool {
        self.is_leaving() || self.sends_away.load(Ordering::Relaxed)
    }

    /// Whether the node has started, and does not leave.
    pub fn has_started(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == READY
    }

    /// Whether traffic should come.
    pub fn is_ready(&self) -> bool {
        self.has_started() && !self.cut_off.load(Ordering::Relaxed) && !self.is_draining()
    }

    /// The same with the reason.
    pub fn readiness(&self) -> Readiness {
        match self.stage.load(Ordering::Relaxed) {
            STARTING => Readiness::Starting,
            READY if self.sends_away.load(Ordering::Relaxed) => Readiness::SendingAway,
            READY if self.cut_off.load(Ordering::Relaxed) => Readiness::CutOff,
            READY => Readiness::Ready,
            _ => Readiness::Leaving,
        }
    }

    fn word(&self) -> &'static str {
        match self.readiness() {
            Readiness::Starting => "starting",
            Readiness::SendingAway => "cut off from kafka, sending devices to the others",
            Readiness::CutOff => "cut off from kafka",
            Readiness::Ready => "ready",
            Readiness::Leaving => "leaving",
        }
    }
}

#[derive(Clone)]
struct Inside {
    node: Arc<Node>,
    health: Arc<Health>,
}

/// The routes of the internal port.
pub fn internal(node: Arc<Node>, health: Arc<Health>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Inside { node, health })
}

async fn readyz(State(inside): State<Inside>, RawQuery(query): RawQuery) -> Response {
    let status = if inside.health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = inside.health.word();
    let verbose = query.is_some_and(|query| query.split('&').any(|word| word == "verbose" || word == "verbose=true"));
    if !verbose {
        return (status, format!("{word}\n")).into_response();
    }
    let node = &inside.node;
    let (kafka, age) = node.metrics.probe_state(ProbePath::Kafka);
    let pending = node.log.pending();
    let (redis, redis_age) = node.metrics.probe_state(ProbePath::Redis);
    let (peer, peer_age) = node.metrics.probe_state(ProbePath::Peer);
    let peers = node.metrics.peers.get();
    // Where there is nobody to ask nothing is wrong.
    let peer = (peers > 0).then_some(peer);
    let state = serde_json::json!({
        "state": word,
        "kafka": {
            "probe": kafka,
            "probe_age_s": age.as_secs_f64(),
            "pending_messages": pending.messages,
            "pending_bytes": pending.bytes,
            "stalled_ms": pending.stalled_ms,
        },
        "redis": { "probe": redis, "probe_age_s": redis_age.as_secs_f64() },
        "peer": { "probe": peer, "probe_age_s": peer_age.as_secs_f64(), "peers": peers },
        "auth": { "keys": node.auth.as_ref().is_none_or(|auth| auth.is_ready()) },
        "connections": node.receipts.connections(),
        "lets_in": node.lets_in(),
    });
    (status, [("content-type", "application/json")], format!("{state}\n")).into_response()
}

async fn metrics(State(inside): State<Inside>) -> Response {
    inside.node.metrics.readiness.show(inside.health.readiness());
    let text = inside.node.metrics.render();
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_leaves_is_not_ready_again() {
        let health = Health::default();
        assert_eq!((health.is_ready(), health.word()), (false, "starting"));
        health.started();
        assert_eq!((health.is_ready(), health.word()), (true, "ready"));
        health.set_cut_off(true);
        assert_eq!((health.is_ready(), health.word()), (false, "cut off from kafka"));
        health.set_sends_away(true);
        assert!(
            health.is_draining() && !health.is_leaving() && health.word().starts_with("cut off from kafka, sending")
        );
        health.set_cut_off(false);
        assert!(!health.is_ready(), "not before devices are let in again");
        health.set_sends_away(false);
        assert!(health.is_ready());
        health.leaving();
        health.started();
        assert_eq!((health.is_ready(), health.word()), (false, "leaving"));
    }
}
