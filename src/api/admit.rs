//! Who is let in: the handshakes of devices and applications.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::{Html, IntoResponse, Response};
use http::header::UPGRADE;
use http::request::Parts;
use http::{Method, StatusCode};

use super::refusal::{Refusal, answer};
use super::{Agreed, Agreement, Gate, Shown, origin};
use crate::auth::{AuthError, Certified, Identity, Verified, Why};
use crate::connection::{Entry, Farewell};
use crate::id::DeviceKey;
use crate::protocol::close::CloseReason;
use crate::registrar::{Contested, Tenure};
use crate::socket::upgrade::{self, Problem, TokenBy, Wish};
use crate::sync::lock;
use crate::telemetry::metrics::{AttemptOutcome, PeerKind};

/// What a blocked device is told.
const BLOCKED: &str = "this device is blocked";

pub(super) async fn root(
    gate: State<Arc<Gate>>,
    agreed: Extension<Agreed>,
    peer: Extension<IpAddr>,
    request: Request,
) -> Response {
    match gate.console {
        Some(page) if request.method() == Method::GET && !request.headers().contains_key(UPGRADE) => {
            ([("connection", "close")], Html(page)).into_response()
        }
        _ => device(gate, agreed, peer, request).await,
    }
}

pub(super) async fn device(
    State(gate): State<Arc<Gate>>,
    Extension(agreed): Extension<Agreed>,
    Extension(peer): Extension<IpAddr>,
    request: Request,
) -> Response {
    handshake(&gate, &agreed, peer, request, PeerKind::Device).await
}

pub(super) async fn app(
    State(gate): State<Arc<Gate>>,
    Extension(agreed): Extension<Agreed>,
    Extension(peer): Extension<IpAddr>,
    request: Request,
) -> Response {
    handshake(&gate, &agreed, peer, request, PeerKind::App).await
}

async fn handshake(gate: &Gate, agreed: &Agreed, peer: IpAddr, request: Request, door: PeerKind) -> Response {
    let (parts, body) = request.into_parts();
    let peer = gate.hops.client(peer, &parts.headers);
    let wish = match wish(gate, &parts) {
        Ok(wish) => wish,
        Err(problem) => {
            let refusal = Refusal::from(problem);
            refusal.note(gate, peer);
            return answer(&refusal.problem);
        }
    };
    let verdict = match door {
        PeerKind::App if !origin::is_allowed(&parts.headers, &gate.allowed_origins) => {
            Err(Problem::new(StatusCode::FORBIDDEN, "this origin is not allowed (public.allowed_origins)").into())
        }
        _ => judge(gate, &wish, Caller { peer, shown: parts.extensions.get(), door }).await,
    };
    let mut request = Request::from_parts(parts, body);
    let agreement = match verdict {
        Ok(entry) => {
            gate.node.metrics.connection_attempts.of(AttemptOutcome::Accepted).inc();
            Agreement::Serve(entry)
        }
        Err(refusal) => {
            refusal.note(gate, peer);
            refusal.delay(gate).await;
            match farewell(&wish, &refusal) {
                Some(farewell) => Agreement::TurnAway(farewell),
                None => return answer(&refusal.problem),
            }
        }
    };
    match upgrade::accept(&mut request, &wish) {
        Ok((response, on_upgrade)) => {
            *lock(agreed) = Some((on_upgrade, agreement));
            response.map(Body::new)
        }
        Err(problem) => answer(&problem),
    }
}

/// Who is at which door.
#[derive(Clone, Copy)]
struct Caller<'a> {
    peer: IpAddr,
    /// The certificate it showed.
    shown: Option<&'a Shown>,
    door: PeerKind,
}

/// Somebody who may come in.
struct Admitted {
    key: DeviceKey,
    verified: Option<Verified>,
    /// Until when, in Unix milliseconds.
    expires_at_ms: Option<i64>,
}

/// What can be told from the request alone.
fn wish(gate: &Gate, request: &Parts) -> Result<Wish, Problem> {
    if !origin::is_served(request, &gate.hosts) {
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "this host name is not served here"));
    }
    upgrade::read(request, &gate.node.limits, gate.query_token)
}

/// Whether the one who wishes may: what costs least is asked first.
async fn judge(gate: &Gate, wish: &Wish, caller: Caller<'_>) -> Result<Entry, Refusal> {
    let node = &gate.node;
    if !node.lets_in() {
        let problem = Problem::later(StatusCode::SERVICE_UNAVAILABLE, "this node is leaving: connect again", 1);
        return Err(Refusal { outcome: AttemptOutcome::Draining, ..problem.into() });
    }
    if node.receipts.connections() >= node.limits.max_connections {
        let detail = "this node holds as many connections as it may: connect again";
        return Err(Problem::later(StatusCode::SERVICE_UNAVAILABLE, detail, 2).into());
    }
    let admitted = verify(gate, wish, caller).await?;
    let tenure = match caller.door {
        PeerKind::Device => claim(gate, wish, &admitted.key).await.map_err(|refusal| refusal.of(&admitted.key))?,
        PeerKind::App => None,
    };
    Ok(entry(admitted, wish, caller.door, tenure))
}

/// Makes a device this node's. What is returned gives it back where no connection comes of it.
async fn claim(gate: &Gate, wish: &Wish, key: &DeviceKey) -> Result<Option<Box<Tenure>>, Refusal> {
    let Some(registrar) = &gate.node.registrar else { return Ok(None) };
    let held = gate.node.roster.find(key).map(|(_, epoch)| epoch);
    match registrar.claim(key, wish.boot.clone(), wish.max_bytes, held).await {
        Ok(tenure) => Ok(Some(Box::new(tenure))),
        Err(Contested { wait_ms }) => {
            let detail = "this device is connected elsewhere, and was taken over too often: do two share its identity?";
            Err(Problem::later(StatusCode::TOO_MANY_REQUESTS, detail, wait_ms.div_ceil(1_000)).into())
        }
    }
}

fn entry(admitted: Admitted, wish: &Wish, kind: PeerKind, tenure: Option<Box<Tenure>>) -> Entry {
    let Admitted { key, verified, expires_at_ms } = admitted;
    let app = verified.as_ref().and_then(|verified| match &verified.identity {
        Identity::App(app) => Some(Box::new(app.clone())),
        Identity::Device(_) => None,
    });
    Entry {
        kind,
        app,
        key,
        boot: wish.boot.clone(),
        tenure,
        encoding: wish.encoding,
        deflate: wish.deflate,
        heartbeat_s: wish.heartbeat_s,
        max_bytes: wish.max_bytes,
        token_expires_ms: expires_at_ms,
        signed_by: verified.map(|verified| verified.key),
        close_drop: wish.close_drop,
        early: Vec::new(),
    }
}

/// One answer for whatever is wrong with what somebody shows: the reason is for the log.
fn unauthorized(why: &'static str) -> Refusal {
    Refusal { why, ..Problem::new(StatusCode::UNAUTHORIZED, "a valid token is needed").into() }
}

async fn verify(gate: &Gate, wish: &Wish, caller: Caller<'_>) -> Result<Admitted, Refusal> {
    let Some((token, _)) = &wish.token else { return without_token(gate, caller) };
    let auth = gate.node.auth.as_ref().ok_or_else(|| unauthorized("nobody judges tokens here"))?;
    let verified = match auth.verify(token, gate.node.now().unix_ms).await {
        Ok(verified) => verified,
        Err(AuthError::Unauthorized(why)) => return Err(unauthorized(why.label())),
        Err(AuthError::Blocked) => return Err(blocked()),
        Err(AuthError::KeysUnavailable { retry_after_s }) => {
            let detail = "tokens cannot be verified just now";
            let problem = Problem::later(StatusCode::SERVICE_UNAVAILABLE, detail, retry_after_s);
            return Err(Refusal { outcome: AttemptOutcome::KeysUnavailable, ..problem.into() });
        }
    };
    let detail = match (&verified.identity, caller.door) {
        (Identity::Device(device), PeerKind::Device) if is_anothers(gate, caller, device.key()) => {
            "the token is another device's than the certificate"
        }
        (Identity::Device(_), PeerKind::Device) | (Identity::App(_), PeerKind::App) => {
            let key = verified.identity.key().clone();
            return Ok(Admitted { key, expires_at_ms: Some(verified.expires_at_ms), verified: Some(verified) });
        }
        (Identity::Device(_), PeerKind::App) => "this is a device's token: devices use /v1/device",
        (Identity::App(_), PeerKind::Device) => "the token's scope has no `device`",
    };
    Err(Refusal::from(Problem::new(StatusCode::FORBIDDEN, detail)).of(verified.identity.key()))
}

/// A device by its certificate; in development, one that anybody may be.
fn without_token(gate: &Gate, caller: Caller<'_>) -> Result<Admitted, Refusal> {
    if caller.door != PeerKind::Device {
        return Err(unauthorized("no token"));
    }
    let (key, expires_at_ms) = match (certified(gate, caller), &gate.anonymous) {
        (Some(Ok(certified)), _) => (certified.identity.key().clone(), Some(certified.expires_at_ms)),
        (Some(Err(why)), _) => return Err(unauthorized(why.label())),
        (None, Some(key)) if caller.peer.is_loopback() => (key.clone(), None),
        (None, _) => return Err(unauthorized("no token")),
    };
    if gate.node.revocations.denial(&key, true, None).is_some() {
        return Err(blocked());
    }
    Ok(Admitted { key, verified: None, expires_at_ms })
}

/// Whose the certificate is that a client showed, if it showed one.
fn certified(gate: &Gate, caller: Caller<'_>) -> Option<Result<Certified, Why>> {
    let (auth, Shown(certificate)) = (gate.node.auth.as_ref()?, caller.shown?);
    Some(auth.certified(certificate, &gate.client_tenants))
}

/// Whether the certificate names a device, and another one.
fn is_anothers(gate: &Gate, caller: Caller<'_>, key: &DeviceKey) -> bool {
    matches!(certified(gate, caller), Some(Ok(certified)) if certified.identity.key() != key)
}

fn blocked() -> Refusal {
    Problem::new(StatusCode::FORBIDDEN, BLOCKED).into()
}

/// The same refusal in frames, for a browser, which shows its page no status.
fn farewell(wish: &Wish, refusal: &Refusal) -> Option<Farewell> {
    if !matches!(wish.token, Some((_, TokenBy::Subprotocol))) {
        return None;
    }
    let (code, reason) = match refusal.problem.status {
        StatusCode::UNAUTHORIZED => ("unauthorized", CloseReason::TokenExpired),
        StatusCode::FORBIDDEN if refusal.problem.detail == BLOCKED => ("blocked", CloseReason::Blocked),
        StatusCode::FORBIDDEN => ("forbidden", CloseReason::PolicyViolation),
        _ => ("try_again_later", CloseReason::TryAgainLater),
    };
    Some(Farewell {
        encoding: wish.encoding,
        deflate: wish.deflate,
        code,
        message: refusal.problem.detail,
        retry_after_ms: refusal.problem.retry_after_s.map(|seconds| seconds * 1_000),
        reason,
    })
}
