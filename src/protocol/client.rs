//! The other end: what a client writes and what it reads, in every encoding. For the load tester, `tidegate smoke` and
//! the tests; the gateway itself does not use it.

use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cbor::{self, Major};
use super::fields::Field;
use super::message::CommandStatus;
use super::protobuf::{self, wire};
use super::{Encoding, json};

/// A message from a device, made field by field.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ClientMessage {
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replace: Option<bool>,
}

impl ClientMessage {
    /// A message of any type, for what has no constructor (`temperature_update`).
    pub fn of_type(kind: &str) -> Self {
        Self { kind: kind.to_owned(), ..Self::default() }
    }

    /// `update` with a value.
    pub fn update(value: impl Into<Value>) -> Self {
        Self::of_type("update").value(value)
    }

    /// `status` with a value.
    pub fn status(value: impl Into<Value>) -> Self {
        Self::of_type("status").value(value)
    }

    /// `ack` about the command `id`; without a status the gateway takes it as `succeeded`.
    pub fn ack(id: &str, status: Option<CommandStatus>) -> Self {
        Self { status: status.map(CommandStatus::as_str), ..Self::of_type("ack").id(id) }
    }

    /// An application's `command` under `key` to a device, to wait for `ttl_s` seconds at most.
    pub fn command(key: &str, device_id: &str, name: &str, ttl_s: u64) -> Self {
        let message = Self::of_type("command").device_id(device_id).name(name);
        Self { key: Some(key.to_owned()), ttl_s: Some(ttl_s), ..message }
    }

    /// Sets `params` of a `command`.
    pub fn params(self, params: impl Into<Value>) -> Self {
        Self { params: Some(params.into()), ..self }
    }

    /// Sets `max_attempts` of a `command`.
    pub fn max_attempts(self, attempts: u64) -> Self {
        Self { max_attempts: Some(attempts), ..self }
    }

    /// Has a `command` take the place of what is queued under its name.
    pub fn replacing(self) -> Self {
        Self { replace: Some(true), ..self }
    }

    /// `auth` with a fresh token.
    pub fn auth(token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..Self::of_type("auth") }
    }

    /// `ping`.
    pub fn ping() -> Self {
        Self::of_type("ping")
    }

    /// Sets `value`.
    pub fn value(self, value: impl Into<Value>) -> Self {
        Self { value: Some(value.into()), ..self }
    }

    /// Sets `seq`: 1 to 2^53 - 1.
    pub fn seq(self, seq: u64) -> Self {
        Self { seq: Some(seq), ..self }
    }

    /// Sets `id`.
    pub fn id(self, id: &str) -> Self {
        Self { id: Some(id.to_owned()), ..self }
    }

    /// Sets `name`.
    pub fn name(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// Sets `device_id`.
    pub fn device_id(self, device_id: &str) -> Self {
        Self { device_id: Some(device_id.to_owned()), ..self }
    }

    /// Sets `timestamp`, in Unix milliseconds.
    pub fn timestamp(self, timestamp_ms: i64) -> Self {
        Self { timestamp: Some(timestamp_ms), ..self }
    }

    /// Sets `traceparent`.
    pub fn traceparent(self, traceparent: &str) -> Self {
        Self { traceparent: Some(traceparent.to_owned()), ..self }
    }

    /// Sets `result` of an `ack`.
    pub fn result(self, result: impl Into<Value>) -> Self {
        Self { result: Some(result.into()), ..self }
    }

    /// Sets `message` of an `ack`.
    pub fn message(self, message: &str) -> Self {
        Self { message: Some(message.to_owned()), ..self }
    }

    /// Appends the payload of a frame with this one message.
    pub fn encode(&self, encoding: Encoding, out: &mut Vec<u8>) {
        match encoding {
            Encoding::Json => self.write_json(out),
            Encoding::Cbor => self.write_cbor(out),
            Encoding::Protobuf => protobuf::write_framed(&self.to_wire().encode_to_vec(), out),
        }
    }

    /// Appends the payload of a frame with a batch.
    pub fn encode_batch(batch: &[Self], encoding: Encoding, out: &mut Vec<u8>) {
        match encoding {
            Encoding::Json => {
                out.push(b'[');
                for (place, message) in batch.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    message.encode(encoding, out);
                }
                out.push(b']');
            }
            Encoding::Cbor => {
                cbor::write_head(Major::Array, batch.len() as u64, out);
                batch.iter().for_each(|message| message.encode(encoding, out));
            }
            Encoding::Protobuf => batch.iter().for_each(|message| message.encode(encoding, out)),
        }
    }

    /// The fields that are set, in the order of the table.
    fn members(&self) -> Vec<(&'static str, Value)> {
        // Strings, integers and JSON values: there is no way for this to fail.
        let mut object = serde_json::to_value(self).unwrap_or_default();
        let take = |field: &Field| Some((field.name(), object.get_mut(field.name())?.take()));
        Field::ALL.iter().filter_map(take).collect()
    }

    fn write_json(&self, out: &mut Vec<u8>) {
        let mut separator = b'{';
        for (key, value) in self.members() {
            out.push(separator);
            separator = b',';
            json::write_text(key, out);
            out.push(b':');
            out.extend_from_slice(value.to_string().as_bytes());
        }
        out.push(b'}');
    }

    fn write_cbor(&self, out: &mut Vec<u8>) {
        let members = self.members();
        cbor::write_head(Major::Map, members.len() as u64, out);
        for (key, value) in &members {
            cbor::write_string(key, out);
            cbor::write_json(value, out);
        }
    }

    fn to_wire(&self) -> wire::Message {
        wire::Message {
            r#type: Some(self.kind.clone()),
            device_id: self.device_id.clone(),
            seq: self.seq,
            id: self.id.clone(),
            name: self.name.clone(),
            value: self.value.as_ref().map(protobuf::wire_value),
            timestamp: self.timestamp,
            status: self.status.map(str::to_owned),
            result: self.result.as_ref().map(protobuf::wire_value),
            message: self.message.clone(),
            token: self.token.clone(),
            traceparent: self.traceparent.clone(),
            key: self.key.clone(),
            params: self.params.as_ref().map(protobuf::wire_value),
            ttl_s: self.ttl_s,
            max_attempts: self.max_attempts,
            replace: self.replace,
            ..wire::Message::default()
        }
    }
}

/// A message from the gateway: its type and the fields it brought. Times are Unix milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct OwnedGatewayMessage {
    /// `welcome`, `ack`, `refused`, ….
    #[serde(rename = "type")]
    pub kind: String,
    /// The number an `ack` or `refused` is about.
    pub seq: Option<u64>,
    /// What an answer or a command is about.
    pub id: Option<String>,
    /// Why, of `refused` and `error`.
    pub code: Option<String>,
    /// In words.
    pub message: Option<String>,
    /// Why, of `pause`, `resume` and `goaway`.
    pub reason: Option<String>,
    /// How long to wait.
    pub retry_after_ms: Option<u64>,
    /// How long this socket still works.
    pub deadline_ms: Option<u64>,
    /// The identity.
    pub device_id: Option<String>,
    /// The connection's own name.
    pub session: Option<String>,
    /// The ownership epoch.
    pub epoch: Option<u64>,
    /// The gateway's ping interval.
    pub heartbeat_s: Option<u64>,
    /// The largest message taken.
    pub max_message_bytes: Option<u64>,
    /// How many updates may be unacked.
    pub window: Option<u64>,
    /// The gateway's clock.
    pub server_time: Option<i64>,
    /// When the token expires.
    pub token_expires_at: Option<i64>,
    /// This boot's last ack.
    pub resume_after: Option<u64>,
    /// `false` while the connection is provisional.
    pub registered: Option<bool>,
    /// When a command or a new token expires.
    pub expires_at: Option<i64>,
    /// A command's name.
    pub name: Option<String>,
    /// A command's parameters.
    pub params: Option<Value>,
    /// How often a command was sent before, and once.
    pub attempt: Option<u64>,
    /// The application's own name for a command.
    pub key: Option<String>,
    /// How far a command is.
    pub state: Option<String>,
    /// Grows with each transition of a command.
    pub version: Option<u64>,
    /// What the device gave back.
    pub result: Option<Value>,
}

/// Why a payload is no message from the gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not one message of this encoding.
    #[error("not a message of this encoding: compare the negotiated subprotocol with the decoder's")]
    NoMessage,
    /// No message type.
    #[error("the message has no `type`: this peer does not speak protocol v1")]
    NoType,
}

/// Reads the payload of one frame from the gateway.
///
/// # Errors
/// [`DecodeError`] when it is not exactly one message with a type.
pub fn decode_gateway(encoding: Encoding, payload: &[u8]) -> Result<OwnedGatewayMessage, DecodeError> {
    let made;
    let form = match encoding {
        Encoding::Json => payload,
        Encoding::Cbor => {
            made = cbor::to_json(payload).map_err(|_| DecodeError::NoMessage)?;
            &made
        }
        Encoding::Protobuf => {
            let messages = protobuf::split_frame(payload, 1).map_err(|_| DecodeError::NoMessage)?;
            let [message] = messages.as_slice() else { return Err(DecodeError::NoMessage) };
            let message = wire::Message::decode(*message).map_err(|_| DecodeError::NoMessage)?;
            made = protobuf::to_json(&message).map_err(|_| DecodeError::NoMessage)?;
            &made
        }
    };
    let message: OwnedGatewayMessage = serde_json::from_slice(form).map_err(|_| DecodeError::NoMessage)?;
    if message.kind.is_empty() { Err(DecodeError::NoType) } else { Ok(message) }
}
