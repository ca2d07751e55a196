//! Commands: asked for, looked at, taken back.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::caller::{Caller, Named};
use super::fault::Fault;
use super::{body, json, only, router};
use crate::api::Gate;
use crate::auth::Scope;
use crate::commands::{
    ATTEMPTS, Command, CommandError, MAX_ATTEMPTS, MAX_KEY_BYTES, MAX_TTL_MS, Submission, Submitted,
};
use crate::id::DeviceKey;
use crate::router::{Router, Watch};
use crate::telemetry::traces::{self, Span, TraceContext};

/// Most devices of one request.
pub const MAX_DEVICES: usize = 1_000;
/// Longest wait for a device's answer: below what load balancers wait for ours.
const MAX_WAIT_S: u64 = 55;
/// Commands of one request that are accepted at once.
const AT_ONCE: usize = 16;
/// How much larger a body for many devices may be.
const LARGE: usize = 4;
const KEY: &str = "idempotency-key";
const TRACEPARENT: &str = "traceparent";
const NO_COMMAND: &str = "there is no such command; if it was accepted before, repeat it with the same Idempotency-Key";

/// The fields of a body, as they came.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: Option<Box<RawValue>>,
    params: Option<Box<RawValue>>,
    ttl_s: Option<Box<RawValue>>,
    wait_s: Option<Box<RawValue>>,
    max_attempts: Option<Box<RawValue>>,
    replace: Option<Box<RawValue>>,
    devices: Option<Vec<String>>,
}

/// What is to be done, whichever device it is for.
struct Order {
    name: String,
    params: String,
    /// 0: now or never.
    ttl_ms: u64,
    max_attempts: u32,
    replace: bool,
    key: String,
}

impl Order {
    /// Reads one, and how long to wait for its end.
    fn read(asked: &Asked, headers: &HeaderMap) -> Result<(Self, Option<Duration>), Fault> {
        let given = only(headers, KEY)?;
        let name = body::needed(body::text(asked.name.as_deref(), "name")?, "name")?;
        let ttl_s = body::integer(asked.ttl_s.as_deref(), "ttl_s", 0, MAX_TTL_MS / 1_000)?;
        let attempts = body::integer(asked.max_attempts.as_deref(), "max_attempts", 1, u64::from(MAX_ATTEMPTS))?;
        let wait_s = body::integer(asked.wait_s.as_deref(), "wait_s", 0, MAX_WAIT_S)?;
        if wait_s.is_some() && given.is_none() {
            let detail = "`wait_s` needs an Idempotency-Key: who waits may have to ask again";
            return Err(Fault::bad(detail));
        }
        if given.is_some_and(|key| !(1..=MAX_KEY_BYTES).contains(&key.len())) {
            return Err(Fault::bad(format!("{KEY}: 1 to {MAX_KEY_BYTES} bytes")));
        }
        let drawn = || format!("{:032x}", fastrand::u128(..));
        let order = Self {
            name,
            params: asked.params.as_ref().map_or("null", |raw| raw.get()).to_owned(),
            ttl_ms: body::needed(ttl_s, "ttl_s")? * 1_000,
            max_attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(ATTEMPTS),
            replace: body::flag(asked.replace.as_deref(), "replace")?.unwrap_or(false),
            key: given.map_or_else(drawn, str::to_owned),
        };
        Ok((order, wait_s.map(Duration::from_secs)))
    }

    fn submission<'a>(&'a self, device: &'a DeviceKey, application: &'a str) -> Submission<'a> {
        Submission {
            device,
            application,
            key: &self.key,
            name: &self.name,
            params: self.params.as_bytes(),
            ttl_ms: self.ttl_ms,
            since_ms: None,
            max_attempts: self.max_attempts,
            replace: self.replace,
            only_epoch: None,
            origin: None,
        }
    }

    async fn submit(&self, router: &Arc<Router>, submission: Submission<'_>) -> Result<Submitted, CommandError> {
        if self.ttl_ms == 0 { router.submit_now(submission).await } else { router.submit(submission).await }
    }
}

/// `POST /v1/devices/{device}/commands`
pub(super) async fn create(
    State(gate): State<Arc<Gate>>,
    caller: Caller,
    named: Named,
    request: Request,
) -> Result<Response, Fault> {
    let began = Instant::now();
    caller.needs(&[Scope::CommandsWrite])?;
    let device = caller.device(named.device())?;
    let router = router(&gate)?;
    let headers = request.headers().clone();
    let asked: Asked = body::parse(&read(&gate, request, 1).await?)?;
    if asked.devices.is_some() {
        return Err(Fault::bad("unknown field `devices`: many devices are commanded by POST /v1/commands"));
    }
    let (order, wait) = Order::read(&asked, &headers)?;
    drop(asked);
    let submission = order.submission(&device, caller.0.key().device());
    let brought = headers.get(TRACEPARENT).filter(|_| gate.node.trust_traceparent);
    let brought = brought.and_then(|text| TraceContext::parse(text.to_str().ok()?));
    let mut span = router.request_span(&device, submission.id(), brought);
    let done = create_one(router, &order, submission, wait.map(|wait| Instant::now() + wait));
    let answer = traces::within(span.as_ref().map(Span::context), done).await;
    if let Some(span) = &mut span {
        let status = answer.as_ref().map_or_else(|fault| fault.status, Response::status);
        span.since(began.into_std()).set("http.response.status_code", u64::from(status.as_u16()));
        if status.is_server_error() {
            span.fail(status.as_u16().to_string());
        }
    }
    answer
}

/// Submits one, and waits for its end `until` then.
async fn create_one(
    router: &Arc<Router>,
    order: &Order,
    submission: Submission<'_>,
    until: Option<Instant>,
) -> Result<Response, Fault> {
    let device = submission.device;
    // Before it is submitted, so that nothing is missed and nothing has to be read again.
    let waits = until.map(|until| (until, router.watch(device, submission.id())));
    let submitted = order.submit(router, submission).await?;
    let new = submitted.new;
    let command = match waits {
        Some((until, watch)) => wait_for(watch, submitted.command, until).await?,
        None => submitted.command,
    };
    let done = if until.is_some() { command.life.state.is_terminal() } else { !new };
    let status = if done { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = json(status, written(&command));
    if let Ok(place) = HeaderValue::try_from(format!("/v1/devices/{}/commands/{}", device.device(), command.id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// The command at its end, or as it is when the time is over.
async fn wait_for(watch: Watch, command: Command, until: Instant) -> Result<Command, Fault> {
    match watch.end(command.clone(), until).await {
        Ok(command) => Ok(command),
        // It was accepted; how far it is can be asked later.
        Err(CommandError::Unavailable(_)) => Ok(command),
        Err(error) => Err(error.into()),
    }
}

/// `POST /v1/commands`
pub(super) async fn create_many(
    State(gate): State<Arc<Gate>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Fault> {
    caller.needs(&[Scope::CommandsWrite])?;
    let router = router(&gate)?;
    let full = || Fault::later(StatusCode::SERVICE_UNAVAILABLE, "too many requests for many devices at once", 1);
    let _large = Arc::clone(&gate.api.large).try_acquire_owned().map_err(|_| full())?;
    let headers = request.headers().clone();
    let mut asked: Asked = body::parse(&read(&gate, request, LARGE).await?)?;
    if asked.wait_s.is_some() {
        return Err(Fault::bad("unknown field `wait_s`: nobody waits for many devices; ask for each outcome"));
    }
    let devices = body::needed(asked.devices.take(), "devices")?;
    if !(1..=MAX_DEVICES).contains(&devices.len()) {
        return Err(Fault::bad(format!("`devices` names 1 to {MAX_DEVICES}")));
    }
    let (order, _) = Order::read(&asked, &headers)?;
    drop(asked);
    let (order, caller) = (&order, &caller);
    let outcomes = stream::iter(devices)
        .map(|name| async move {
            let outcome = one(router, order, caller, &name).await;
            outcome.unwrap_or_else(|fault| {
                let status = fault.status.as_u16();
                serde_json::json!({ "device_id": name, "status": status, "detail": fault.detail })
            })
        })
        .buffered(AT_ONCE);
    let outcomes: Vec<_> = outcomes.collect().await;
    Ok(json(StatusCode::OK, serde_json::json!({ "key": order.key, "outcomes": outcomes }).to_string()))
}

async fn one(router: &Arc<Router>, order: &Order, caller: &Caller, name: &str) -> Result<serde_json::Value, Fault> {
    let device = caller.device(name)?;
    let submitted = order.submit(router, order.submission(&device, caller.0.key().device())).await?;
    let (command, status) = (submitted.command, if submitted.new { 202 } else { 200 });
    let (id, state) = (command.id.to_string(), command.life.state.as_str());
    Ok(serde_json::json!({ "device_id": name, "status": status, "id": id, "state": state }))
}

/// `GET /v1/devices/{device}/commands/{id}`
pub(super) async fn show(State(gate): State<Arc<Gate>>, caller: Caller, named: Named) -> Result<Response, Fault> {
    caller.needs(&[Scope::CommandsWrite, Scope::TelemetryRead])?;
    let (device, reaches) = caller.device_maybe(named.device())?;
    let found = router(&gate)?.get(&device, named.command()?).await;
    match found {
        Ok(command) if reaches => Ok(json(StatusCode::OK, written(&command))),
        Ok(_) | Err(CommandError::NotFound) => Err(Fault::lost(NO_COMMAND)),
        Err(error) => Err(error.into()),
    }
}

/// `DELETE /v1/devices/{device}/commands/{id}`
pub(super) async fn cancel(State(gate): State<Arc<Gate>>, caller: Caller, named: Named) -> Result<Response, Fault> {
    caller.needs(&[Scope::CommandsWrite])?;
    let (device, reaches) = caller.device_maybe(named.device())?;
    let (router, id) = (router(&gate)?, named.command()?);
    if !reaches {
        // Looked for all the same, so that it takes as long.
        let _ = router.get(&device, id).await;
        return Err(Fault::lost(NO_COMMAND));
    }
    match router.cancel(&device, id).await {
        Ok(canceled) => Ok(json(StatusCode::OK, written(&canceled.command))),
        Err(CommandError::NotFound) => Err(Fault::lost(NO_COMMAND)),
        Err(error) => Ok(Fault::from(error).into_response()),
    }
}

async fn read(gate: &Gate, request: Request, times: usize) -> Result<Vec<u8>, Fault> {
    let limits = &gate.node.limits;
    body::read(request, limits.message_bytes * times, Duration::from_millis(limits.handshake_timeout_ms)).await
}

/// A command as callers see it: its newest event, and what came after its end.
fn written(command: &Command) -> Vec<u8> {
    let mut body = command.event().value;
    if let Some(late) = &command.late {
        let result = late.result.as_deref().and_then(|json| serde_json::from_slice::<serde_json::Value>(json).ok());
        let late = serde_json::json!({
            "count": late.count, "status": late.status.as_str(), "at": late.at_ms, "result": result,
            "message": late.message,
        });
        if body.pop() == Some(b'}') {
            body.extend_from_slice(format!(",\"late\":{late}}}").as_bytes());
        }
    }
    body
}
