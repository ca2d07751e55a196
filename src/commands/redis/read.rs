//! What the scripts give, read into the seam's types.

use std::collections::HashMap;

use super::super::{Command, Late, Life, Reason, Row, State, Submitted, Turn};
use crate::id::{CommandId, DeviceKey, Epoch, Incarnation, NodeName};
use crate::protocol::message::CommandStatus;
use crate::store::{StoreError, Value};

type Read<T> = Result<T, StoreError>;

const NO_COMMAND: StoreError = StoreError::Malformed("a hash that is no command");

/// The word a script's answer begins with.
pub(super) fn verdict(parts: &[Value]) -> Read<&str> {
    match parts.first() {
        Some(Value::Bytes(word)) => std::str::from_utf8(word).map_err(|_| super::STRANGE),
        _ => Err(super::STRANGE),
    }
}

/// An integer, also below 0, from a number or its digits.
pub(super) fn number(value: Value) -> Read<i64> {
    match value {
        Value::Int(number) => Ok(number),
        other => other.text()?.parse().map_err(|_| StoreError::Malformed("no number where a number belongs")),
    }
}

/// A command's id.
pub(super) fn id(value: Value) -> Read<CommandId> {
    CommandId::parse(&value.text()?).map_err(|_| StoreError::Malformed("something else where a command's id belongs"))
}

/// `{verdict, transition, far off, command}`.
pub(super) struct Moved {
    pub(super) command: Command,
    pub(super) changed: bool,
    pub(super) far: bool,
}

pub(super) fn moved(device: &DeviceKey, parts: Vec<Value>) -> Read<Moved> {
    let [_, changed, far, fields] = Value::List(parts).items::<4>()?;
    let command = command(device, fields)?.ok_or(NO_COMMAND)?;
    Ok(Moved { command, changed: number(changed)? == 1, far: number(far)? == 1 })
}

/// `{verdict, row, command}`, and the replaced ones where it is new.
pub(super) fn submitted(device: &DeviceKey, parts: Vec<Value>, new: bool) -> Read<Submitted> {
    let mut parts = parts.into_iter().skip(1);
    let mut next = || parts.next().ok_or(super::STRANGE);
    let (held, fields) = (row(next()?)?, next()?);
    let command_now = command(device, fields)?.ok_or(NO_COMMAND)?;
    let mut replaced = Vec::new();
    for fields in if new { next()?.list()? } else { Vec::new() } {
        replaced.push(command(device, fields)?.ok_or(NO_COMMAND)?);
    }
    Ok(Submitted { command: command_now, new, row: held, replaced })
}

/// `{verdict, command}`.
pub(super) fn published(device: &DeviceKey, parts: Vec<Value>) -> Read<Command> {
    let [_, fields] = Value::List(parts).items::<2>()?;
    command(device, fields)?.ok_or(NO_COMMAND)
}

/// `{verdict, row, deadline}`.
pub(super) fn waiting(parts: Vec<Value>) -> Read<(Option<Row>, i64)> {
    let [_, held, deadline] = Value::List(parts).items::<3>()?;
    Ok((row(held)?, number(deadline)?))
}

/// `{verdict, state}`.
pub(super) fn state(parts: Vec<Value>) -> Read<State> {
    let [_, word] = Value::List(parts).items::<2>()?;
    State::parse(&word.text()?).ok_or(NO_COMMAND)
}

fn row(value: Value) -> Read<Option<Row>> {
    let parts = value.list()?;
    if parts.is_empty() {
        return Ok(None);
    }
    let [node, incarnation, epoch] = Value::List(parts).items::<3>()?;
    let foreign = StoreError::Malformed("a row that names no node");
    let node = NodeName::new(&node.text()?).map_err(|_| foreign.clone())?;
    let incarnation = Incarnation::parse(&incarnation.text()?).ok_or(foreign)?;
    Ok(Some(Row { node, incarnation, epoch: Epoch(epoch.unsigned()?) }))
}

/// A hash's fields by name.
struct Fields(HashMap<String, Vec<u8>>);

impl Fields {
    fn take_bytes(&mut self, name: &str) -> Option<Vec<u8>> {
        self.0.remove(name)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).and_then(|bytes| String::from_utf8(bytes).ok())
    }

    fn text(&mut self, name: &str) -> Read<String> {
        self.take(name).ok_or(NO_COMMAND)
    }

    fn number<T: std::str::FromStr>(&mut self, name: &str) -> Read<T> {
        self.text(name)?.parse().map_err(|_| NO_COMMAND)
    }
}

/// A command from its hash; nothing where the hash is empty.
pub(super) fn command(device: &DeviceKey, fields: Value) -> Read<Option<Command>> {
    let mut pairs = fields.list()?.into_iter();
    let mut fields = Fields(HashMap::new());
    while let (Some(name), Some(value)) = (pairs.next(), pairs.next()) {
        fields.0.insert(name.text()?, value.bytes()?);
    }
    if fields.0.is_empty() {
        return Ok(None);
    }
    let life = Life {
        state: State::parse(&fields.text("state")?).ok_or(NO_COMMAND)?,
        reason: fields.take("reason").and_then(|word| Reason::parse(&word)),
        version: fields.number("version")?,
        attempts: fields.number("attempts")?,
        max_attempts: fields.number("max")?,
        epoch: fields.take("epoch").and_then(|epoch| epoch.parse().ok()).map(Epoch),
        deadline_ms: fields.number("deadline")?,
    };
    let late = match fields.take("late_count") {
        Some(count) => Some(late(&count, &mut fields)?),
        None => None,
    };
    Ok(Some(Command {
        id: CommandId::parse(&fields.text("id")?).map_err(|_| NO_COMMAND)?,
        device: device.clone(),
        name: fields.text("name")?,
        params: fields.take_bytes("params").ok_or(NO_COMMAND)?,
        life,
        created_ms: fields.number("created")?,
        requested_by: fields.text("by")?,
        key: fields.text("key")?,
        origin: fields.take("origin"),
        result: fields.take_bytes("result"),
        message: fields.take("message"),
        history: fields.text("history")?.lines().map(|line| turn(line).ok_or(NO_COMMAND)).collect::<Read<_>>()?,
        late,
        published: fields.take("published").is_some(),
    }))
}

fn late(count: &str, fields: &mut Fields) -> Read<Late> {
    let word = fields.text("late_status")?;
    Ok(Late {
        count: count.parse().map_err(|_| NO_COMMAND)?,
        status: CommandStatus::ALL.into_iter().find(|status| status.as_str() == word).ok_or(NO_COMMAND)?,
        at_ms: fields.number("late_at")?,
        result: fields.take_bytes("late_result"),
        message: fields.take("late_message"),
    })
}

/// `version state time attempts epoch reason`, with `-` for nothing.
fn turn(line: &str) -> Option<Turn> {
    let mut words = line.split(' ');
    let mut next = || words.next();
    Some(Turn {
        version: next()?.parse().ok()?,
        state: State::parse(next()?)?,
        at_ms: next()?.parse().ok()?,
        attempts: next()?.parse().ok()?,
        epoch: next()?.parse().ok().map(Epoch),
        reason: next().and_then(Reason::parse),
    })
}
