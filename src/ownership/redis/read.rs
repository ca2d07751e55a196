//! What the scripts answer, read.

use std::borrow::Cow;

use super::member;
use crate::id::{Boot, DeviceKey, Epoch, Incarnation, NodeName, SessionId};
use crate::ownership::{
    Claimed, Ended, Held, Last, Lease, Member, NodeLife, OwnershipError, Past, Reasserted, Renewed, Row, View,
};
use crate::store::{StoreError, Value};

fn wrong(what: &'static str) -> StoreError {
    StoreError::Malformed(what)
}

fn boot(value: Value) -> Result<Boot, StoreError> {
    Boot::new(&value.text()?).map_err(|_| wrong("a boot that is none"))
}

/// Nothing where there is nothing, or what a version to come may write.
fn max_bytes(value: &Value) -> Option<usize> {
    value.unsigned().ok().and_then(|bytes| usize::try_from(bytes).ok())
}

fn connection(value: Value) -> Result<SessionId, StoreError> {
    SessionId::parse(&value.text()?).ok_or(wrong("a connection that is none"))
}

fn life(node: Value, incarnation: Value) -> Result<NodeLife, StoreError> {
    let node = NodeName::new(&node.text()?).map_err(|_| wrong("a node's name that is none"))?;
    let incarnation = Incarnation::parse(&incarnation.text()?).ok_or(wrong("an incarnation that is none"))?;
    Ok(NodeLife { node, incarnation })
}

/// A device by its name in a list.
pub(super) fn device(value: Value) -> Result<DeviceKey, StoreError> {
    let name = value.text()?;
    let (tenant, device) = name.split_once('/').ok_or(wrong("a device that is none"))?;
    DeviceKey::new(tenant, device).map_err(|_| wrong("a device that is none"))
}

/// The seven fields of a row; nothing where there is no row.
pub(super) fn row(value: Value) -> Result<Option<Row>, StoreError> {
    if value == Value::Nil {
        return Ok(None);
    }
    let [node, incarnation, epoch, connection_id, boot_id, settled, max] = value.items()?;
    if node == Value::Nil {
        return Ok(None);
    }
    Ok(Some(Row {
        owner: life(node, incarnation)?,
        epoch: Epoch(epoch.unsigned()?),
        connection: connection(connection_id)?,
        boot: boot(boot_id)?,
        max_bytes: max_bytes(&max),
        settled: settled != Value::Nil,
    }))
}

fn last(value: Value) -> Result<Option<Last>, StoreError> {
    if value == Value::Nil {
        return Ok(None);
    }
    let [of, acked, at] = value.items()?;
    let acked = acked.optional_text()?.and_then(|seq| seq.parse().ok());
    // How it ended is nothing to a device that connects.
    Ok(Some(Last { boot: boot(of)?, acked, at_ms: at.unsigned()?, end: None }))
}

/// The fields of what was left behind, in the order in which [`past`] takes them.
pub(super) const PAST: [&str; 11] =
    ["epoch", "boot", "acked", "at", "code", "initiator", "node", "ended", "lost_node", "lost", "lost_at"];

/// What connections left behind; nothing where none did.
pub(super) fn past(value: Value) -> Result<Option<Past>, StoreError> {
    let [epoch, of, acked, at, code, initiator, node, told, lost_node, lost, lost_at] = value.items()?;
    if epoch == Value::Nil {
        return Ok(None);
    }
    let hints = if of == Value::Nil { Value::Nil } else { Value::List(vec![of, acked, at.clone()]) };
    let mut last = last(hints)?;
    let code = code.optional_text()?.and_then(|code| code.parse().ok());
    let end = code.zip(initiator.optional_text()?.map(Cow::Owned));
    if let Some(last) = &mut last {
        last.end.clone_from(&end);
    }
    let told = ended(node, told, at, end)?;
    let lost = ended(lost_node, lost, lost_at, None)?;
    let ended = told.into_iter().chain(lost).max_by_key(|ended| ended.epoch);
    Ok(Some(Past { epoch: Epoch(epoch.unsigned()?), last, ended }))
}

fn ended(
    by: Value,
    epoch: Value,
    at: Value,
    end: Option<(u16, Cow<'static, str>)>,
) -> Result<Option<Ended>, StoreError> {
    let by = by.optional_text()?.and_then(|name| NodeName::new(&name).ok());
    let Some(node) = by else { return Ok(None) };
    Ok(Some(Ended { node, epoch: Epoch(epoch.unsigned()?), at_ms: at.unsigned()?, end }))
}

/// `renew.lua`.
pub(super) fn renewed(answer: Value) -> Result<Renewed, OwnershipError> {
    let mut items = answer.list()?.into_iter();
    let mut next = || items.next().unwrap_or(Value::Nil);
    if next().text()? == "buried" {
        return Err(OwnershipError::Buried);
    }
    let (now_us, highest) = (next().unsigned()?, next().unsigned()?);
    let lease = match next() {
        Value::Int(late) if late >= 0 => Lease::Lapsed(late.unsigned_abs()),
        Value::Int(_) => Lease::Held,
        _ => Lease::Absent,
    };
    let mut members = Vec::new();
    let mut texts = next().list()?.into_iter();
    while let (Some(text), Some(ends)) = (texts.next(), texts.next()) {
        // One that cannot be read is of a version to come.
        if let Some(profile) = member::decode(&text.text()?) {
            members.push(Member { profile, expires_ms: ends.unsigned()? });
        }
    }
    Ok(Renewed { view: View::new(now_us, highest, members), lease })
}

/// `claim.lua`.
pub(super) fn claimed(answer: Value) -> Result<Claimed, OwnershipError> {
    let mut items = answer.list()?.into_iter();
    let mut next = || items.next().unwrap_or(Value::Nil);
    if next().unsigned()? == 0 {
        let wait_ms = next().unsigned()?;
        return Err(OwnershipError::Contested { wait_ms, holder: life(next(), next())? });
    }
    Ok(Claimed {
        epoch: Epoch(next().unsigned()?),
        previous: row(next())?,
        last: last(next())?,
        commands_wait: next().unsigned()? > 0,
    })
}

/// `reassert.lua`.
pub(super) fn reasserted(answer: Value) -> Result<Reasserted, OwnershipError> {
    let mut items = answer.list()?.into_iter();
    let mut next = || items.next().unwrap_or(Value::Nil);
    Ok(match next().text()?.as_str() {
        "kept" => Reasserted::Kept,
        "settled" => Reasserted::Settled,
        "written" => Reasserted::Written { commands_wait: next().unsigned()? > 0 },
        "newer" => Reasserted::Newer(row(next())?.ok_or(wrong("no row where a newer one stands"))?),
        _ => return Err(wrong("an answer nobody knows").into()),
    })
}

/// `settle.lua`.
pub(super) fn settled(device: DeviceKey, answer: Value) -> Result<Held, OwnershipError> {
    let [epoch, connection_id, boot_id, max] = answer.items()?;
    let (epoch, max_bytes) = (Epoch(epoch.unsigned()?), max_bytes(&max));
    Ok(Held { device, epoch, connection: connection(connection_id)?, boot: boot(boot_id)?, max_bytes })
}
