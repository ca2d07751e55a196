//! Devices: which are connected anywhere in the cluster, where one is, and how to end its connection.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::caller::{Caller, Named, lost};
use super::fault::Fault;
use super::router;
use crate::api::Gate;
use crate::auth::Scope;
use crate::id::DeviceKey;
use crate::ownership::{Directory, Ended, Past, Row, Stretch, Whereabouts};
use crate::router::DisconnectError;
use crate::telemetry::metrics::{DisconnectReason, Label};

/// Devices of a page, where the caller says nothing, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1_000;
/// Names looked at for one page that are not the caller's to see, in pages.
const LOOKS: usize = 10;
/// Rows read at once.
const ROWS_AT_ONCE: usize = 32;
/// The reason where a connection's node died.
const NODE_LOST: &str = "node_lost";
/// Who may know whether a device is there: whoever may do anything with it.
const READERS: [Scope; 3] = [Scope::TelemetryRead, Scope::CommandsWrite, Scope::Admin];

/// What was asked of the list.
struct Asked {
    limit: usize,
    after: String,
}

impl Asked {
    fn read(query: Vec<(String, String)>) -> Result<Self, Fault> {
        let mut asked = Self { limit: PAGE, after: String::new() };
        for (name, value) in query {
            match name.as_str() {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
                    let detail = || Fault::bad(format!("`limit` must be an integer from 1 to {LARGEST_PAGE}"));
                    asked.limit = limit.ok_or_else(detail)?;
                }
                "after" if crate::id::is_id(&value) => asked.after = value,
                "after" => return Err(Fault::bad("`after` must be a device's id: the `next` of the page before")),
                _ => return Err(Fault::bad("a list takes `limit` and `after`")),
            }
        }
        Ok(asked)
    }
}

/// `GET /v1/devices`
pub(super) async fn list(
    State(gate): State<Arc<Gate>>,
    caller: Caller,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Fault> {
    caller.needs(&READERS)?;
    let Query(query) = query.map_err(|_| Fault::bad("the query cannot be read"))?;
    let asked = Asked::read(query)?;
    let directory = router(&gate)?.registrar().directory();
    let (mut devices, mut after, mut more) = (Vec::new(), asked.after, true);
    for _ in 0..LOOKS {
        let wanted = asked.limit - devices.len();
        let names = names(directory, caller.0.tenant(), &after, asked.limit).await?;
        more = names.len() == asked.limit;
        let mut looked = 0;
        let reached = names.iter().inspect(|_| looked += 1).filter(|key| caller.0.may_reach(key));
        let some: Vec<_> = reached.take(wanted).cloned().collect();
        // What follows the last that was taken is for the next look.
        more |= looked < names.len();
        if let Some(last) = looked.checked_sub(1).and_then(|at| names.get(at)) {
            last.device().clone_into(&mut after);
        }
        let rows = stream::iter(some).map(|key| connected(&gate, directory, key)).buffered(ROWS_AT_ONCE);
        let rows: Vec<_> = rows.try_collect().await?;
        devices.extend(rows.into_iter().flatten());
        if !more || devices.len() >= asked.limit {
            break;
        }
    }
    let mut page = json!({ "devices": devices });
    if more && let Some(page) = page.as_object_mut() {
        page.insert("next".into(), after.into());
    }
    Ok(super::json(StatusCode::OK, page.to_string()))
}

/// The next names of a tenant's devices over all live nodes, in their order.
async fn names(directory: &Directory, tenant: &str, after: &str, limit: usize) -> Result<Vec<DeviceKey>, Fault> {
    let view = directory.view();
    // `0` is what follows `/`: between the two are this tenant's devices and nobody else's.
    let (above, below) = (format!("{tenant}/{after}"), format!("{tenant}0"));
    let stretch = Stretch { above: &above, below: &below, limit: u32::try_from(limit).unwrap_or(u32::MAX) };
    let lists = view.live.iter().map(|member| directory.ownership().list(&member.profile.life, stretch));
    let mut names: Vec<_> = try_join_all(lists).await?.into_iter().flat_map(|listed| listed.devices).collect();
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    names.truncate(limit);
    Ok(names)
}

/// A device of a list, unless it is not connected after all.
async fn connected(gate: &Gate, directory: &Directory, key: DeviceKey) -> Result<Option<Value>, Fault> {
    Ok(match directory.find(&key).await? {
        Whereabouts::At(at) => {
            let mut fields = online(&key, &at.0);
            fields.insert("blocked".into(), is_blocked(gate, &key).into());
            Some(Value::Object(fields))
        }
        Whereabouts::Offline => None,
    })
}

/// Whether it may connect no more. One that is blocked is online until its connection has ended.
fn is_blocked(gate: &Gate, key: &DeviceKey) -> bool {
    gate.node.revocations.denial(key, true, None).is_some()
}

fn online(key: &DeviceKey, row: &Row) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("device_id".into(), key.device().into());
    fields.insert("online".into(), true.into());
    fields.insert("epoch".into(), row.epoch.0.into());
    fields.insert("node".into(), row.owner.node.as_str().into());
    // An epoch is the time of its claim in microseconds, or a little later.
    fields.insert("since".into(), (row.epoch.0 / 1_000).into());
    fields
}

/// `GET /v1/devices/{device}`
pub(super) async fn show(State(gate): State<Arc<Gate>>, caller: Caller, named: Named) -> Result<Response, Fault> {
    caller.needs(&READERS)?;
    let (key, reaches) = caller.device_maybe(named.device())?;
    let directory = router(&gate)?.registrar().directory();
    let (row, past) = tokio::try_join!(directory.ownership().row(&key), directory.ownership().past(&key))?;
    let known = row.is_some() || past.is_some();
    let whereabouts = match row {
        Some(row) => directory.judge(row).await?,
        None => Whereabouts::Offline,
    };
    if !reaches || !known {
        return Err(lost());
    }
    let mut fields = match whereabouts {
        Whereabouts::At(at) => online(&key, &at.0),
        Whereabouts::Offline => Map::from_iter([
            ("device_id".to_owned(), key.device().into()),
            ("online".to_owned(), false.into()),
            ("epoch".to_owned(), past.as_ref().map(|past| past.epoch.0).into()),
        ]),
    };
    fields.insert("blocked".into(), is_blocked(&gate, &key).into());
    if let Some(last) = past.as_ref().and_then(last_disconnect) {
        fields.insert("last_disconnect".into(), last);
    }
    Ok(super::json(StatusCode::OK, Value::Object(fields).to_string()))
}

/// How its last connection ended that is known to have.
fn last_disconnect(past: &Past) -> Option<Value> {
    let reason = |code| DisconnectReason::from_code(code).as_str();
    let Some(Ended { node, epoch, at_ms, end }) = &past.ended else {
        // Written by a node of an older version, which noted less.
        let last = past.last.as_ref()?;
        let (code, initiator) = last.end.clone().unzip();
        let reason = code.map(reason);
        return Some(json!({ "code": code, "reason": reason, "initiator": initiator, "at": last.at_ms }));
    };
    let (code, initiator) = end.clone().unzip();
    let reason = if end.is_some() { code.map(reason) } else { Some(NODE_LOST) };
    // An epoch is the time of its claim in microseconds, or a little later.
    let lived_s = at_ms.saturating_sub(epoch.0 / 1_000) / 1_000;
    let (node, epoch) = (node.as_str(), epoch.0);
    Some(json!({
        "code": code, "reason": reason, "initiator": initiator, "at": at_ms, "node": node, "epoch": epoch,
        "lived_s": lived_s,
    }))
}

/// `DELETE /v1/devices/{device}/session`
pub(super) async fn disconnect(
    State(gate): State<Arc<Gate>>,
    caller: Caller,
    named: Named,
) -> Result<StatusCode, Fault> {
    caller.needs(&[Scope::Admin])?;
    let (key, reaches) = caller.device_maybe(named.device())?;
    let router = router(&gate)?;
    if !reaches {
        let _ = router.registrar().directory().find(&key).await;
        return Err(lost());
    }
    let later = |detail| Fault::later(StatusCode::SERVICE_UNAVAILABLE, detail, 1);
    match router.disconnect(&key).await {
        Ok(true) => {
            tracing::info!(device = %key, by = caller.0.key().device(), "a device is disconnected as asked for");
            Ok(StatusCode::NO_CONTENT)
        }
        Ok(false) => Err(lost()),
        Err(DisconnectError::Directory(error)) => Err(error.into()),
        Err(DisconnectError::Peer(_)) => Err(later("the node that has the device does not answer")),
    }
}
