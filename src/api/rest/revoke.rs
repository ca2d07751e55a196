//! Blocks and revocations: published for every node to follow.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::body;
use super::caller::{Caller, Named};
use super::fault::Fault;
use crate::api::Gate;
use crate::auth::Scope;
use crate::revocations::{Revocation, RevocationError};

/// Longest key id and issuer, in bytes.
const MAX_NAME_BYTES: usize = 256;
/// No body here is larger.
const MAX_BODY_BYTES: usize = 4 * 1024;

/// `PUT /v1/devices/{device}/block`
pub(super) async fn block(State(gate): State<Arc<Gate>>, caller: Caller, named: Named) -> Result<StatusCode, Fault> {
    set_blocked(&gate, &caller, &named, true).await
}

/// `DELETE /v1/devices/{device}/block`
pub(super) async fn unblock(State(gate): State<Arc<Gate>>, caller: Caller, named: Named) -> Result<StatusCode, Fault> {
    set_blocked(&gate, &caller, &named, false).await
}

async fn set_blocked(gate: &Gate, caller: &Caller, named: &Named, blocked: bool) -> Result<StatusCode, Fault> {
    caller.needs(&[Scope::Admin])?;
    let key = caller.device(named.device())?;
    publish(gate, caller, Revocation::Device { key, blocked }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    device_id: Option<Box<RawValue>>,
    kid: Option<Box<RawValue>>,
    issuer: Option<Box<RawValue>>,
    issued_before: Option<Box<RawValue>>,
}

/// `PUT /v1/revocations`
pub(super) async fn create(State(gate): State<Arc<Gate>>, caller: Caller, request: Request) -> Result<Response, Fault> {
    caller.needs(&[Scope::Admin])?;
    let timeout = Duration::from_millis(gate.node.limits.handshake_timeout_ms);
    let asked = body::parse(&body::read(request, MAX_BODY_BYTES, timeout).await?)?;
    let revocation = revocation(&caller, &asked, gate.node.now().unix_ms)?;
    publish(&gate, &caller, revocation).await?;
    Ok(super::json(StatusCode::OK, "{}"))
}

fn revocation(caller: &Caller, asked: &Asked, now_ms: i64) -> Result<Revocation, Fault> {
    let device = body::text(asked.device_id.as_deref(), "device_id")?;
    let device = device.map(|name| caller.device(&name)).transpose()?;
    let before = body::integer(asked.issued_before.as_deref(), "issued_before", 0, now_ms.unsigned_abs())?;
    let kid = body::text(asked.kid.as_deref(), "kid")?;
    let issuer = body::text(asked.issuer.as_deref(), "issuer")?;
    let fits = |name: &String| (1..=MAX_NAME_BYTES).contains(&name.len());
    if !kid.iter().chain(&issuer).all(fits) {
        return Err(Fault::bad(format!("`kid` and `issuer` have 1 to {MAX_NAME_BYTES} bytes")));
    }
    match (device, kid, issuer, before) {
        (Some(key), None, None, None) => Ok(Revocation::Device { key, blocked: true }),
        (None, Some(kid), issuer, None) => {
            caller.needs_all_devices()?;
            Ok(Revocation::KeyId { tenant: Some(caller.0.tenant().to_owned()), issuer, kid })
        }
        (device, None, None, Some(at)) => {
            if device.is_none() {
                caller.needs_all_devices()?;
            }
            let at_ms = i64::try_from(at).unwrap_or(i64::MAX);
            Ok(Revocation::IssuedBefore { tenant: caller.0.tenant().to_owned(), device, at_ms })
        }
        _ => Err(Fault::bad(
            "a revocation is {device_id}, {kid, issuer?} or {issued_before, device_id?} with Unix milliseconds",
        )),
    }
}

async fn publish(gate: &Gate, caller: &Caller, revocation: Revocation) -> Result<StatusCode, Fault> {
    let Some(writer) = &gate.revocations else {
        return Err(Fault::new(StatusCode::NOT_IMPLEMENTED, "this node keeps no blocks and revocations"));
    };
    tracing::info!(by = %caller.0.key(), ?revocation, "a revocation is published");
    match writer.publish(&revocation).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(RevocationError::Invalid(why)) => Err(Fault::bad(why.to_string())),
        Err(error @ RevocationError::Unavailable(_)) => {
            tracing::warn!(%error, "a revocation could not be published");
            Err(Fault::later(StatusCode::SERVICE_UNAVAILABLE, "revocations cannot be published just now", 2))
        }
    }
}
