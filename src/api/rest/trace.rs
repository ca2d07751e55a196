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
use crate::router::TraceError;

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
    let router = router(&gate)?;
    if !reaches {
        // Looked for all the same, so that it takes as long.
        let _ = router.registrar().directory().find(&key).await;
        return Err(lost());
    }
    // It has been checked to fit.
    let node = router.trace(&key, u32::try_from(for_s).unwrap_or(0)).await?;
    tracing::info!(device = %key, by = caller.0.key().device(), %node, for_s, "a trace was asked for");
    let until = gate.node.now().unix_ms.saturating_add_unsigned(for_s * 1_000);
    let answer = json!({ "device_id": key.device(), "node": node.as_str(), "until": until });
    Ok(super::json(StatusCode::OK, answer.to_string()))
}

impl From<TraceError> for Fault {
    fn from(error: TraceError) -> Self {
        match error {
            TraceError::NotConnected => lost(),
            TraceError::Full => Self::later(StatusCode::TOO_MANY_REQUESTS, error.to_string(), 60),
            TraceError::Directory(error) => error.into(),
            TraceError::Peer(_) => {
                let detail = "the node that has the device does not answer";
                Self::later(StatusCode::SERVICE_UNAVAILABLE, detail, 1)
            }
        }
    }
}
