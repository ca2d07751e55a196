//! Traces: a device's messages in outline, in the log of the node that has it, for a while.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::caller::{Caller, Named, lost};
use super::fault::Fault;
use super::{body, router};
use crate::api::Gate;
use crate::auth::Scope;
use crate::ownership::Whereabouts;

/// Longest trace, in seconds.
pub const MAX_TRACE_S: u64 = 900;
const MAX_BODY_BYTES: usize = 1_024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    for_s: Option<Box<RawValue>>,
}

/// `PUT /v1/devices/{device}/trace`
pub(super) async fn begin(
    State(gate): State<Arc<Gate>>,
    caller: Caller,
    named: Named,
    request: Request,
) -> Result<Response, Fault> {
    caller.needs(&[Scope::Admin])?;
    let (key, reaches) = caller.device_maybe(named.device())?;
    let timeout = Duration::from_millis(gate.node.limits.handshake_timeout_ms);
    let bytes = body::read(request, MAX_BODY_BYTES, timeout).await?;
    let for_s = match bytes.is_empty() {
        true => None,
        false => body::integer(body::parse::<Asked>(&bytes)?.for_s.as_deref(), "for_s", 0, MAX_TRACE_S)?,
    };
    let for_s = for_s.unwrap_or(MAX_TRACE_S);
    let registrar = router(&gate)?.registrar();
    let found = registrar.directory().find(&key).await?;
    let (Whereabouts::At(at), true) = (found, reaches) else { return Err(lost()) };
    if at.0.owner != *registrar.life() {
        let detail = format!("the device is on node {}: ask that node for the trace", at.0.owner.node);
        return Err(Fault::new(StatusCode::CONFLICT, detail));
    }
    let Some((mailbox, _)) = gate.node.roster.find(&key) else { return Err(lost()) };
    let now = gate.node.now();
    if !gate.node.traces.begin(&mailbox, now.mono_ms + for_s * 1_000, now.mono_ms) {
        let detail = "this node traces as many devices as it may";
        return Err(Fault::later(StatusCode::TOO_MANY_REQUESTS, detail, 60));
    }
    tracing::info!(device = %key, by = caller.0.key().device(), for_s, "a trace begins");
    let until = now.unix_ms.saturating_add_unsigned(for_s * 1_000);
    let answer = json!({ "device_id": key.device(), "node": at.0.owner.node.as_str(), "until": until });
    Ok(super::json(StatusCode::OK, answer.to_string()))
}
