//! A command's transition as Kafka gets it: the state and the whole history, so that readers need only the newest.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{Command, Life, Reason, State, Turn};
use crate::id::{CommandId, DeviceKey, Epoch};

/// One record for the topic `command-events`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandEvent {
    /// `<command>:<version>`: the event's id; the same for the same transition whoever publishes it.
    pub id: String,
    /// The record's key.
    pub device: DeviceKey,
    /// When the transition was, Unix milliseconds.
    pub at_ms: i64,
    /// The command's version; readers keep the highest.
    pub version: u32,
    /// Whether it is the last one: only this is published until it is stored.
    pub terminal: bool,
    /// A `command_state` message in JSON.
    pub value: Vec<u8>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    id: String,
    device_id: &'a str,
    name: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    version: u32,
    attempts: u32,
    max_attempts: u32,
    key: &'a str,
    requested_by: &'a str,
    created_at: i64,
    expires_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    history: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    version: u32,
    state: &'static str,
    at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// The same as it is read.
#[derive(Deserialize)]
struct Said {
    id: String,
    name: String,
    state: String,
    reason: Option<String>,
    version: u32,
    attempts: u32,
    max_attempts: u32,
    key: String,
    requested_by: String,
    created_at: i64,
    expires_at: i64,
    #[serde(default, deserialize_with = "whatever")]
    result: Option<Box<RawValue>>,
    message: Option<String>,
    history: Vec<SaidLine>,
}

#[derive(Deserialize)]
struct SaidLine {
    version: u32,
    state: String,
    at: i64,
    attempt: Option<u32>,
    epoch: Option<u64>,
    reason: Option<String>,
}

/// Also a `null` is something.
fn whatever<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

impl SaidLine {
    fn turn(&self) -> Option<Turn> {
        Some(Turn {
            version: self.version,
            state: State::parse(&self.state)?,
            at_ms: self.at,
            attempts: self.attempt.unwrap_or(0),
            epoch: self.epoch.map(Epoch),
            reason: self.reason.as_deref().and_then(Reason::parse),
        })
    }
}

impl From<&Turn> for Line {
    fn from(turn: &Turn) -> Self {
        Self {
            version: turn.version,
            state: turn.state.as_str(),
            at: turn.at_ms,
            attempt: (turn.attempts > 0).then_some(turn.attempts),
            epoch: turn.epoch.map(|epoch| epoch.0),
            reason: turn.reason.map(super::Reason::as_str),
        }
    }
}

impl Command {
    /// The command of which an event's value tells: all of it but its params, who waits for it and what came after its
    /// end. Nothing where it is none.
    pub fn from_event(device: &DeviceKey, value: &[u8]) -> Option<Self> {
        let said: Said = serde_json::from_slice(value).ok()?;
        let history: Vec<Turn> = said.history.iter().map(SaidLine::turn).collect::<Option<_>>()?;
        let life = Life {
            state: State::parse(&said.state)?,
            reason: said.reason.as_deref().and_then(Reason::parse),
            version: said.version,
            attempts: said.attempts,
            max_attempts: said.max_attempts,
            epoch: history.iter().rev().find_map(|turn| turn.epoch),
            deadline_ms: said.expires_at,
        };
        Some(Self {
            id: CommandId::parse(&said.id).ok()?,
            device: device.clone(),
            name: said.name,
            params: Vec::new(),
            life,
            created_ms: said.created_at,
            requested_by: said.requested_by,
            key: said.key,
            origin: None,
            result: said.result.map(|json| json.get().as_bytes().to_vec()),
            message: said.message,
            history,
            late: None,
            published: false,
        })
    }

    /// The event of its newest transition. Times are Unix milliseconds. Without the params, so that it fits into the log
    /// wherever the device's answer did.
    pub fn event(&self) -> CommandEvent {
        let result = self.result.as_deref().and_then(|json| serde_json::from_slice::<&RawValue>(json).ok());
        let body = Body {
            r#type: "command_state",
            id: self.id.to_string(),
            device_id: self.device.device(),
            name: &self.name,
            state: self.life.state.as_str(),
            reason: self.life.reason.map(super::Reason::as_str),
            version: self.life.version,
            attempts: self.life.attempts,
            max_attempts: self.life.max_attempts,
            key: &self.key,
            requested_by: &self.requested_by,
            created_at: self.created_ms,
            expires_at: self.life.deadline_ms,
            result,
            message: self.message.as_deref(),
            history: self.history.iter().map(Line::from).collect(),
        };
        CommandEvent {
            id: format!("{}:{}", self.id, self.life.version),
            device: self.device.clone(),
            at_ms: self.history.last().map_or(self.created_ms, |turn| turn.at_ms),
            version: self.life.version,
            terminal: self.life.state.is_terminal(),
            // Its parts are strings, numbers and JSON that was read: it cannot fail.
            value: serde_json::to_vec(&body).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "this is test code")]
mod tests {
    use super::super::{Life, Reason, State};
    use super::*;
    use crate::id::{CommandId, Epoch};

    fn turn(version: u32, state: State, attempts: u32, reason: Option<Reason>) -> Turn {
        let epoch = (attempts > 0).then_some(Epoch(9));
        Turn { version, state, at_ms: 1_000 + i64::from(version), attempts, epoch, reason }
    }

    fn command() -> Command {
        let device = DeviceKey::new("acme", "door-1").unwrap();
        Command {
            id: CommandId::of(&device, "console", "k"),
            device,
            name: "open".to_owned(),
            params: b"{\"secret\":1}".to_vec(),
            life: Life { state: State::Succeeded, version: 3, attempts: 1, ..Life::accepted(5, 61_001) },
            created_ms: 1_001,
            requested_by: "console".to_owned(),
            key: "k".to_owned(),
            origin: Some("n1".to_owned()),
            result: Some(br#"{"angle": 90}"#.to_vec()),
            message: None,
            history: vec![
                turn(1, State::Queued, 0, None),
                turn(2, State::Sent, 1, None),
                turn(3, State::Succeeded, 1, None),
            ],
            late: None,
            published: false,
        }
    }

    #[test]
    fn an_event_says_who_asked_and_everything_that_happened() {
        let event = command().event();
        assert_eq!(event.id, format!("{}:3", command().id));
        assert_eq!((event.version, event.terminal, event.at_ms), (3, true, 1_003));
        let expected = serde_json::json!({
            "type": "command_state", "id": command().id.to_string(), "device_id": "door-1", "name": "open",
            "state": "succeeded", "version": 3, "attempts": 1, "max_attempts": 5, "key": "k", "requested_by": "console",
            "created_at": 1_001, "expires_at": 61_001, "result": {"angle": 90},
            "history": [
                {"version": 1, "state": "queued", "at": 1_001},
                {"version": 2, "state": "sent", "at": 1_002, "attempt": 1, "epoch": 9},
                {"version": 3, "state": "succeeded", "at": 1_003, "attempt": 1, "epoch": 9},
            ],
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&event.value).unwrap(), expected);
    }

    #[test]
    fn a_command_is_read_from_its_event_as_it_was() {
        for result in [None, Some(&b"null"[..]), Some(&br#"{"angle": 1e400}"#[..])] {
            let told = Command {
                life: Life { epoch: Some(Epoch(9)), ..command().life },
                params: Vec::new(),
                origin: None,
                result: result.map(<[u8]>::to_vec),
                message: Some("done \u{1} \u{e9}".to_owned()),
                ..command()
            };
            assert_eq!(Command::from_event(&told.device, &told.event().value), Some(told));
        }
        let device = command().device;
        let text = String::from_utf8(command().event().value).unwrap();
        assert_eq!(Command::from_event(&device, text.replace("succeeded", "done").as_bytes()), None);
        assert_eq!(Command::from_event(&device, b""), None);
    }

    #[test]
    fn the_largest_event_is_at_most_4_kib_above_its_result() {
        let name = "\u{1}".repeat(super::super::MAX_NAME_BYTES);
        let long = "x".repeat(128);
        let history = (1..=super::super::MAX_ATTEMPTS + 4)
            .map(|version| Turn {
                version,
                state: State::Succeeded,
                at_ms: 9_999_999_999_999,
                attempts: 20,
                epoch: Some(Epoch(1 << 53)),
                reason: None,
            })
            .collect();
        let largest = Command {
            device: DeviceKey::new(&long, &long).unwrap(),
            requested_by: long,
            key: "k".repeat(super::super::MAX_KEY_BYTES),
            message: Some("m".repeat(super::super::MAX_MESSAGE_BYTES)),
            result: Some(format!("\"{}\"", "r".repeat(60_000)).into_bytes()),
            history,
            name,
            ..command()
        };
        let size = largest.event().value.len();
        assert!(size < 60_000 + 4096, "{size}");
    }
}
