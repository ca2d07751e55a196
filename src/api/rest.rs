//! The HTTP API for applications: commands, devices, blocks, revocations, traces, and the cluster.
//!
//! What every request passes through is here: its place among those at once, its host, its origin. Each handler then asks
//! in the same order: who, may it, is this a device's name, and only then the body.

mod body;
mod caller;
mod cluster;
mod commands;
mod cors;
mod devices;
mod fault;
mod revoke;
mod trace;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use commands::MAX_DEVICES;
pub use trace::MAX_TRACE_S;

use super::{Gate, origin};
use crate::limits::Limits;
use crate::router;
use crate::socket::listener::Slot;
use crate::sync::lock;
use crate::telemetry::metrics::AttemptOutcome;
use fault::Fault;

/// Requests for many devices whose bodies may be in memory at once.
const LARGE_AT_ONCE: usize = 32;

/// The places requests of the API take.
pub(super) struct Places {
    /// Requests.
    all: Arc<Semaphore>,
    /// Those for many devices.
    large: Arc<Semaphore>,
    /// Connections that are kept alive between requests, where the API has a port of its own.
    pub(super) connections: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Self {
        let all = limits.max_api_requests.min(Semaphore::MAX_PERMITS);
        let [all, large, connections] = [all, LARGE_AT_ONCE, all].map(|places| Arc::new(Semaphore::new(places)));
        Self { all, large, connections }
    }
}

/// A request's place among the connections that are being made, which one of the API gives back at once: it may wait for a
/// device for a minute, and devices come through the same door.
pub(super) type Handshake = Arc<Mutex<Option<Slot>>>;

/// Every route of the API, its methods and what answers.
fn table() -> [(&'static str, MethodRouter<Arc<Gate>>); 10] {
    [
        ("/v1/devices", get(devices::list)),
        ("/v1/devices/{device}", get(devices::show)),
        ("/v1/devices/{device}/commands", post(commands::create)),
        ("/v1/devices/{device}/commands/{id}", get(commands::show).delete(commands::cancel)),
        ("/v1/devices/{device}/session", delete(devices::disconnect)),
        ("/v1/devices/{device}/block", put(revoke::block).delete(revoke::unblock)),
        ("/v1/devices/{device}/trace", put(trace::begin)),
        ("/v1/commands", post(commands::create_many)),
        ("/v1/revocations", put(revoke::create)),
        ("/v1/cluster", get(cluster::show)),
    ]
}

/// The routes, behind what every request passes.
pub(super) fn routes(gate: &Arc<Gate>) -> Router<Arc<Gate>> {
    let routes = table().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    routes
        .method_not_allowed_fallback(async || Fault::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method"))
        .layer(middleware::from_fn_with_state(Arc::clone(gate), guard))
}

async fn guard(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let (method, wanted) = (request.method().clone(), request.headers().clone());
    gate.node.metrics.connection_attempts.of(AttemptOutcome::Http).inc();
    let mut answer = match enter(&gate, &mut request) {
        Ok(_) if cors::is_preflight(&method, &wanted) => cors::preflight(),
        Ok(_place) => next.run(request).await,
        Err(fault) => fault.into_response(),
    };
    cors::mark(&gate.allowed_origins, &wanted, &mut answer);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Whether a request may go on to be looked at; its place lasts until it is answered.
fn enter(gate: &Gate, request: &mut Request) -> Result<OwnedSemaphorePermit, Fault> {
    if let Some(handshake) = request.extensions_mut().remove::<Handshake>() {
        drop(lock(&handshake).take());
    }
    let (parts, body) = std::mem::take(request).into_parts();
    let is_served = origin::is_served(&parts, &gate.hosts);
    *request = Request::from_parts(parts, body);
    if !is_served {
        return Err(Fault::new(StatusCode::MISDIRECTED_REQUEST, "this host name is not served here"));
    }
    if !origin::is_allowed(request.headers(), &gate.allowed_origins) {
        return Err(Fault::new(StatusCode::FORBIDDEN, "this origin is not allowed (public.allowed_origins)"));
    }
    let full = || Fault::later(StatusCode::SERVICE_UNAVAILABLE, "this node answers as many requests as it may", 1);
    Arc::clone(&gate.api.all).try_acquire_owned().map_err(|_| full())
}

/// What commands go through.
fn router(gate: &Gate) -> Result<&Arc<router::Router>, Fault> {
    gate.router.as_ref().ok_or_else(|| Fault::new(StatusCode::NOT_IMPLEMENTED, "this node brings no commands"))
}

/// An answer of JSON.
fn json(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The one value of a header; nothing where there is none.
fn only<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Fault> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Fault::bad(format!("{name}: only visible ASCII characters"))),
        },
        _ => Err(Fault::bad(format!("{name}: more than one"))),
    }
}

/// The API's paths, as routed.
pub fn paths() -> Vec<&'static str> {
    table().iter().map(|(path, _)| *path).collect()
}
