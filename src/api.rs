//! HTTP: the handshake of devices, and what every node answers about itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;

use crate::auth::{AuthError, Identity, Verified};
use crate::connection::{self, Entry, Node};
use crate::id::DeviceKey;
use crate::socket::upgrade::{self, Problem, Wish};

/// What the public port needs to let somebody in.
pub struct Gate {
    /// The node behind it.
    pub node: Arc<Node>,
    /// Who a device without a token is, where it comes from this machine; only for development.
    pub anonymous: Option<DeviceKey>,
    /// Whether `?access_token=` is looked at.
    pub query_token: bool,
}

/// Where the handler leaves the connection it agreed to, for the task that owns the socket.
type Agreed = Arc<Mutex<Option<(OnUpgrade, Entry)>>>;

/// The routes of the public port.
pub fn public(gate: Arc<Gate>) -> Router {
    Router::new()
        .route("/", any(device))
        .route("/v1/device", any(device))
        .fallback(|| async {
            answer(&Problem::new(StatusCode::NOT_FOUND, "there is nothing here: devices use /v1/device"))
        })
        .route(
            "/socket.io/",
            any(|| async {
                answer(&Problem::new(StatusCode::NOT_FOUND, "plain WebSocket here, not Socket.IO: use /v1/device"))
            }),
        )
        .with_state(gate)
}

/// Serves one accepted socket: its request, and the connection that comes of it.
pub async fn serve(stream: TcpStream, peer: SocketAddr, routes: Router, node: Arc<Node>) {
    let agreed = Agreed::default();
    let service = TowerToHyperService::new(routes.layer(Extension(Arc::clone(&agreed))).layer(Extension(peer.ip())));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(std::time::Duration::from_millis(node.limits.handshake_timeout_ms))
        .max_buf_size(node.limits.header_bytes)
        .keep_alive(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await {
        tracing::debug!(%error, "a request ended early");
        return;
    }
    let agreed = agreed.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((upgrade, mut entry)) = agreed else { return };
    let Ok(upgraded) = upgrade.await else { return };
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
    entry.early = parts.read_buf.to_vec();
    // A task of its own: this one has the size of everything that was needed to get here.
    tokio::spawn(connection::serve(parts.io.into_inner(), entry, node));
}

async fn device(
    State(gate): State<Arc<Gate>>,
    Extension(agreed): Extension<Agreed>,
    Extension(peer): Extension<IpAddr>,
    request: Request,
) -> Response {
    match admit(&gate, &agreed, peer, request).await {
        Ok(response) => response.map(Body::new),
        Err(problem) => answer(&problem),
    }
}

async fn admit(gate: &Gate, agreed: &Agreed, peer: IpAddr, request: Request) -> Result<Response<Full<Bytes>>, Problem> {
    let limits = &gate.node.limits;
    if gate.node.is_stopping() || gate.node.receipts.connections() >= limits.max_connections {
        return Err(Problem::later(StatusCode::SERVICE_UNAVAILABLE, "this node takes no more connections now", 2));
    }
    let (parts, body) = request.into_parts();
    let wish = upgrade::read(&parts, limits, gate.query_token)?;
    let (key, verified) = identify(gate, &wish, peer).await?;
    let mut request = Request::from_parts(parts, body);
    let (response, on_upgrade) = upgrade::accept(&mut request, &wish)?;
    let entry = Entry {
        key,
        boot: wish.boot,
        encoding: wish.encoding,
        deflate: wish.deflate,
        heartbeat_s: wish.heartbeat_s,
        token_expires_ms: verified.as_ref().map(|verified| verified.expires_at_ms),
        signed_by: verified.map(|verified| verified.key),
        close_drop: wish.close_drop,
        early: Vec::new(),
    };
    *agreed.lock().unwrap_or_else(PoisonError::into_inner) = Some((on_upgrade, entry));
    Ok(response)
}

async fn identify(gate: &Gate, wish: &Wish, peer: IpAddr) -> Result<(DeviceKey, Option<Verified>), Problem> {
    let unauthorized = || Problem::new(StatusCode::UNAUTHORIZED, "a valid token is needed");
    let Some((token, _)) = &wish.token else {
        return match &gate.anonymous {
            Some(key) if peer.is_loopback() => Ok((key.clone(), None)),
            _ => Err(unauthorized()),
        };
    };
    let auth = gate.node.auth.as_ref().ok_or_else(unauthorized)?;
    match auth.verify(token, gate.node.now().unix_ms).await {
        Ok(verified) => match &verified.identity {
            Identity::Device(device) => Ok((device.key().clone(), Some(verified))),
            Identity::App(_) => Err(Problem::new(StatusCode::FORBIDDEN, "the token's scope has no `device`")),
        },
        Err(AuthError::Unauthorized(why)) => {
            tracing::info!(why = why.label(), "a token was refused");
            Err(unauthorized())
        }
        Err(AuthError::KeysUnavailable { retry_after_s }) => {
            Err(Problem::later(StatusCode::SERVICE_UNAVAILABLE, "tokens cannot be verified just now", retry_after_s))
        }
    }
}

fn answer(problem: &Problem) -> Response {
    problem.response().map(Body::new)
}
