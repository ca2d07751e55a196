//! The composition roots' common ground: who accepts, who keeps house, and how a node leaves.

#[cfg(feature = "kafka")]
mod consumers;
#[cfg(feature = "kafka")]
mod drain;
pub(crate) mod keepers;
#[cfg(feature = "kafka")]
mod pace;
#[cfg(feature = "kafka")]
mod peers;
#[cfg(feature = "kafka")]
mod rebalance;
#[cfg(feature = "kafka")]
mod serve;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rustix::process::{Resource, Rlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[cfg(feature = "kafka")]
pub use serve::serve;

use crate::api::{self, Gate};
use crate::connection::Node;
use crate::socket::listener::{self, ListenerSettings};

/// How often a leaving node looks whether somebody is still connected.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Files beside the connections': brokers, ports, what the runtime needs, and handshakes under way.
const OTHER_FILES: u64 = 1_024 + 128;

/// Lets the process open as many files as the system allows it: what it starts with, often 1,024, is a limit for programs
/// that cannot count higher. Warns where there is not one for each connection the node may hold.
pub(crate) fn raise_open_files(max_connections: usize) {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let files = if raised.is_ok() { limit.maximum } else { limit.current };
    let needed = (max_connections as u64).saturating_add(OTHER_FILES);
    if let Some(files) = files.filter(|files| *files < needed) {
        tracing::warn!(
            files,
            needed,
            "too few open files for limits.max_connections: raise the limit (ulimit -n, LimitNOFILE) or lower the key"
        );
    }
}

/// Accepts on the public port until it is aborted. `also` is served there too.
pub(crate) async fn accept(port: TcpListener, doors: ListenerSettings, gate: Arc<Gate>, also: Router) {
    if let Some(router) = &gate.router
        && let Some(orders) = gate.node.apps.orders()
    {
        tokio::spawn(api::bring(Arc::clone(router), orders));
    }
    let routes = api::public(Arc::clone(&gate)).merge(also);
    let handler = move |incoming| api::serve(incoming, routes.clone(), Arc::clone(&gate));
    listener::serve(port, Arc::new(doors), handler).await;
}

/// Accepts on the API's own port until it is aborted.
#[cfg(feature = "kafka")]
async fn accept_api(port: TcpListener, doors: ListenerSettings, gate: Arc<Gate>) {
    let routes = api::alone(Arc::clone(&gate));
    let handler = move |incoming| api::serve_alone(incoming, routes.clone(), Arc::clone(&gate));
    listener::serve(port, Arc::new(doors), handler).await;
}

/// Tells every connection to end and waits until all have, or until `end`.
pub(crate) async fn wait_for_connections(node: &Node, end: tokio::time::Instant) {
    while node.receipts.connections() > 0 && tokio::time::Instant::now() < end {
        // Again and again: one that was being let in when the node began to leave was not there to be told.
        node.stop();
        tokio::time::sleep(LOOK_EVERY).await;
    }
    node.stop();
}

/// The signals that mean *leave*.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes SIGTERM and SIGINT from now on.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next.
    pub(crate) async fn leave(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
