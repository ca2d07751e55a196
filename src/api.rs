//! HTTP: the handshakes of devices and applications and the API on the public port, health and metrics on the internal one.

mod admit;
mod health;
mod orders;
mod origin;
mod refusal;
mod rest;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use http::StatusCode;
use http::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tower_service::Service;

pub use health::{Health, internal};
pub use orders::bring;
pub use origin::Hops;
pub use rest::{MAX_DEVICES, MAX_TRACE_S, paths};

use crate::connection::{self, Entry, Farewell, Node};
use crate::id::DeviceKey;
use crate::revocations::RevocationWriter;
use crate::router;
use crate::socket::head::Replay;
use crate::socket::listener::{Incoming, Stream};
use crate::socket::upgrade::Problem;
use crate::sync::lock;

/// What the public port needs to let somebody in.
pub struct Gate {
    /// The node behind it.
    pub node: Arc<Node>,
    /// What brings commands to their devices; nothing where none can come.
    pub router: Option<Arc<router::Router>>,
    /// What adds revocations; nothing where there are none.
    pub revocations: Option<RevocationWriter>,
    /// Who a device without a token is, where it comes from this machine; only for development.
    pub anonymous: Option<DeviceKey>,
    /// Whether `?access_token=` is looked at.
    pub query_token: bool,
    /// Origins whose pages may be applications; empty: any.
    pub allowed_origins: Vec<String>,
    /// Host names that are served; empty: any.
    pub hosts: Vec<String>,
    /// Who is believed about where a request came from.
    pub hops: Hops,
    /// The tenants that devices' certificates may name; empty: any.
    pub client_tenants: Vec<String>,
    /// What a browser is shown at `/`; only for development.
    pub console: Option<&'static str>,
    /// Whether the API has a port of its own, and is not on the public one.
    pub api_elsewhere: bool,
    /// Places for requests of the API.
    api: rest::Places,
    /// Places for refusals that wait out their delay.
    delays: Semaphore,
}

impl Gate {
    /// The gate of a node that lets nobody in without a token, from wherever.
    pub fn new(node: Arc<Node>) -> Self {
        let delays = Semaphore::new(node.limits.max_delayed_refusals);
        let api = rest::Places::new(&node.limits);
        Self {
            node,
            api_elsewhere: false,
            api,
            router: None,
            revocations: None,
            anonymous: None,
            query_token: false,
            allowed_origins: Vec::new(),
            hosts: Vec::new(),
            hops: Hops::default(),
            client_tenants: Vec::new(),
            console: None,
            delays,
        }
    }
}

const NOTHING: &str = "there is nothing here: devices use /v1/device, applications /v1/app and the API below /v1/";

/// What a handler agreed to do with the connection once its answer is out.
enum Agreement {
    /// It is a device's or an application's now.
    Serve(Entry),
    /// It is told in frames why not: a browser sees no status.
    TurnAway(Farewell),
}

/// Where a handler leaves its agreement for the task that owns the socket.
type Agreed = Arc<Mutex<Option<(OnUpgrade, Agreement)>>>;

/// The routes of the public port.
pub fn public(gate: Arc<Gate>) -> Router {
    let routes = Router::new()
        .route("/", any(admit::root))
        .route("/v1/device", any(admit::device))
        .route("/v1/app", any(admit::app))
        .route("/socket.io/", any(async || lost("plain WebSocket here, not Socket.IO: devices use /v1/device")));
    let routes = if gate.api_elsewhere { routes } else { routes.merge(rest::routes(&gate)) };
    routes.fallback(async || lost(NOTHING)).with_state(gate)
}

/// The routes of the API's own port.
pub fn alone(gate: Arc<Gate>) -> Router {
    rest::routes(&gate).fallback(async || lost("there is only the API here, below /v1/")).with_state(gate)
}

fn lost(detail: &'static str) -> Response {
    refusal::answer(&Problem::new(StatusCode::NOT_FOUND, detail))
}

/// Serves one connection: its request, and what comes of it. Ends when either has, and leaves a connection that is made
/// to a task of its own.
pub async fn serve(incoming: Incoming, routes: Router, gate: Arc<Gate>) {
    let Incoming { stream, peer, at, slot } = incoming;
    let agreed = Agreed::default();
    let handshake: rest::Handshake = Arc::new(Mutex::new(Some(slot)));
    let called = Called {
        peer: peer.ip(),
        shown: stream.get_ref().client_certificate().cloned().map(Shown),
        agreed: Some(Arc::clone(&agreed)),
        handshake: Some(Arc::clone(&handshake)),
    };
    if let Err(error) = requests(stream, called, routes, &gate).await {
        tracing::debug!(%error, %peer, "a request ended early");
        return;
    }
    let agreed = lock(&agreed).take();
    let Some((upgrade, agreement)) = agreed else { return };
    let Ok(upgraded) = upgrade.await else { return };
    let Ok(parts) = upgraded.downcast::<TokioIo<Replay<Stream>>>() else { return };
    let (stream, unread) = parts.io.into_inner().into_parts();
    gate.node.metrics.handshake_duration.observe(at.elapsed().as_secs_f64());
    drop(lock(&handshake).take());
    match agreement {
        Agreement::Serve(mut entry) => {
            entry.early = [&parts.read_buf, &unread[..]].concat();
            // A task of its own: this one has the size of everything that was needed to get here.
            tokio::spawn(connection::serve_since(stream, entry, Arc::clone(&gate.node), at));
        }
        Agreement::TurnAway(farewell) => connection::turn_away(stream, farewell).await,
    }
}

/// Serves the requests of one connection to the API's own port, one after another. Where as many are open as may be it
/// is closed again.
pub async fn serve_alone(incoming: Incoming, routes: Router, gate: Arc<Gate>) {
    let Incoming { stream, peer, slot, .. } = incoming;
    let Ok(_place) = gate.api.connections.try_acquire() else { return };
    drop(slot);
    let called = Called { peer: peer.ip(), shown: None, agreed: None, handshake: None };
    if let Err(error) = requests(stream, called, routes, &gate).await {
        tracing::debug!(%error, %peer, "a connection to the API ended early");
    }
}

/// The certificate a client showed, which TLS has accepted.
#[derive(Clone)]
struct Shown(CertificateDer<'static>);

/// What a request brings along from its connection.
struct Called {
    peer: IpAddr,
    shown: Option<Shown>,
    /// Where it may become something else than HTTP: then it is the only one.
    agreed: Option<Agreed>,
    handshake: Option<rest::Handshake>,
}

async fn requests(stream: Replay<Stream>, called: Called, routes: Router, gate: &Gate) -> Result<(), hyper::Error> {
    let limits = &gate.node.limits;
    let is_only = called.agreed.is_some();
    let service = service_fn(|mut request: Request<hyper::body::Incoming>| {
        let extensions = request.extensions_mut();
        extensions.insert(called.peer);
        called.shown.iter().for_each(|shown| drop(extensions.insert(shown.clone())));
        called.agreed.iter().for_each(|agreed| drop(extensions.insert(Arc::clone(agreed))));
        called.handshake.iter().for_each(|handshake| drop(extensions.insert(Arc::clone(handshake))));
        let answer = routes.clone().call(request.map(Body::new));
        async move { answer.await.map(|answer| if is_only { last(answer) } else { answer }) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.handshake_timeout_ms))
        .max_buf_size(limits.header_bytes.max(8 * 1024));
    pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades()).await
}

/// One request a connection: the reader of heads in front of hyper has looked at the first one only. Said by answers alone
/// and not by the 101, to which hyper would add it: small clients compare its `Connection` with `upgrade`.
fn last(mut answer: Response) -> Response {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}
