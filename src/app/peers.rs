//! The cluster's part of a node that serves: commands, the router, and peers over gRPC.

use std::sync::Arc;

use crate::commands::SharedCommands;
use crate::config::{self, Config};
use crate::connection::Node;
use crate::courier::Courier;
use crate::keeper::Keeper;
use crate::peer::{GrpcPeers, PeerHandler, PeerServer, PeerTimes, PeerTls};
use crate::registrar::Registrar;
use crate::router::{Parts, Router};
use crate::telemetry::metrics::Metrics;

/// Certificates for peers, checked before anything is connected; none where the configuration says plaintext.
///
/// # Errors
/// They cannot be used: exit 78.
pub(super) fn tls(config: &Config, metrics: &Metrics) -> Result<Option<Arc<PeerTls>>, String> {
    let tls = PeerTls::load(&config.peer).map_err(|error| format!("peer.tls_cert: {error}"))?;
    Ok(tls.map(|tls| Arc::new(tls.shown_in(metrics))))
}

/// A router whose peers cannot ask it yet.
pub(super) struct Peers {
    router: Arc<Router>,
    server: PeerServer,
    tls: Option<Arc<PeerTls>>,
    /// Where the others reach this node.
    pub(super) address: String,
}

/// What brings commands to a node's connections; to be given to the node before it is shared.
pub(super) fn courier(commands: SharedCommands, node: &Node) -> Arc<Courier> {
    Courier::new(commands, node.metrics.clone())
}

/// Listens for peers, and answers none before [`Peers::begin`].
///
/// # Errors
/// The port cannot be had.
pub(super) async fn listen(
    config: &Config,
    tls: Option<Arc<PeerTls>>,
    node: &Node,
    courier: Arc<Courier>,
    registrar: &Arc<Registrar>,
) -> Result<Peers, String> {
    let section = &config.peer;
    let peers = GrpcPeers::new(tls.clone(), PeerTimes::default(), node.metrics.clone());
    let router = Router::new(Parts {
        courier,
        roster: Arc::clone(&node.roster),
        registrar: Arc::clone(registrar),
        peers: Arc::new(peers),
        traces: Arc::clone(&node.traces),
        metrics: node.metrics.clone(),
    });
    let handler = Arc::clone(&router) as Arc<dyn PeerHandler>;
    let failed = |error: std::io::Error| format!("peer.listen: cannot listen on {}: {error}", section.listen);
    let server = PeerServer::bind(&section.listen, handler, tls.clone(), PeerTimes::default()).await.map_err(failed)?;
    let listening = server.local_address().map_err(failed)?;
    let address = section.effective_advertise(listening, &config::host_name());
    Ok(Peers { router, server, tls, address })
}

impl Peers {
    /// Answers peers from now on, also while the node leaves; it ends with the runtime.
    pub(super) fn begin(self, node: &Node, keeper: &Arc<Keeper>) -> Arc<Router> {
        let Self { router, server, tls, address } = self;
        router.attach(Arc::clone(keeper));
        if tls.is_none() {
            tracing::warn!(address, "peers are reached without TLS: whoever reaches the port can command every device");
        } else {
            tracing::info!(address, "peers reach this node over TLS");
        }
        tokio::spawn(server.serve(std::future::pending()));
        if let Some(tls) = tls {
            tokio::spawn(tls.watch());
        }
        router.spawn(Arc::clone(&node.log), &node.receipts);
        router
    }
}
