//! Protobuf in binary frames: `message Frame { repeated Message messages = 1; }` both ways. A message is put into its
//! JSON form, in the order of the table of fields, and read as that.

pub(crate) mod wire;

use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};

use super::CodecLimits;
use super::cbor::write_number;
use super::fields::{self, Field, Held};
use super::json::{self, Fault, Item, malformed, too_many, write_bytes, write_text};
use super::message::{DeviceMessage, GatewayMessage, Refusal};
use wire::{Kind, Message, Value};

pub(super) fn read_frame<'a>(frame: &'a [u8], limits: CodecLimits, skip: usize, item: Item<'_, 'a>) {
    match split_frame(frame, limits.batch_items) {
        Ok(messages) => {
            for (place, message) in messages.into_iter().enumerate().skip(skip) {
                if !item(place, read_message(message, limits)) {
                    return;
                }
            }
        }
        Err(fault) => {
            item(0, Err(fault.into_refusal(None, None)));
        }
    }
}

/// Cuts a frame into its messages. By hand, since each would be 700 bytes when decoded and may be two when received.
pub(super) fn split_frame(mut frame: &[u8], most: usize) -> Result<Vec<&[u8]>, Fault> {
    let broken = |_| malformed("not a valid Protobuf Frame");
    let mut messages = Vec::new();
    while !frame.is_empty() {
        let (tag, wire_type) = decode_key(&mut frame).map_err(broken)?;
        if (tag, wire_type) != (1, WireType::LengthDelimited) {
            if tag == 1 {
                return Err(malformed("`messages` of a Protobuf Frame has the wrong wire type"));
            }
            skip_field(wire_type, tag, &mut frame, DecodeContext::default()).map_err(broken)?;
            continue;
        }
        let length = decode_varint(&mut frame).map_err(broken)?;
        let Some((message, rest)) = usize::try_from(length).ok().and_then(|length| frame.split_at_checked(length))
        else {
            return Err(malformed("a message of a Protobuf Frame is cut short"));
        };
        if messages.len() == most {
            return Err(too_many(most));
        }
        messages.push(message);
        frame = rest;
    }
    Ok(messages)
}

fn read_message(bytes: &[u8], limits: CodecLimits) -> Result<DeviceMessage<'static>, Refusal> {
    let Ok(message) = Message::decode(bytes) else {
        let (seq, id) = salvage(bytes);
        return Err(malformed("not a valid Protobuf Message").into_refusal(seq, id));
    };
    match to_json(&message) {
        Ok(json) => json::read_made(json, limits),
        Err(fault) => {
            let id = message.id.filter(|id| json::is_message_id(id));
            Err(fault.into_refusal(message.seq.filter(|seq| json::is_seq(*seq)), id))
        }
    }
}

/// Finds `seq` and `id` in front of what made a message unreadable.
fn salvage(mut bytes: &[u8]) -> (Option<u64>, Option<String>) {
    let (mut seq, mut id) = (None, None);
    while let Ok((tag, wire_type)) = decode_key(&mut bytes) {
        if (tag, wire_type) == (Field::Seq.protobuf_number(), WireType::Varint) {
            let Ok(number) = decode_varint(&mut bytes) else { break };
            seq = Some(number).filter(|number| json::is_seq(*number));
        } else if (tag, wire_type) == (Field::Id.protobuf_number(), WireType::LengthDelimited) {
            let mut text = String::new();
            if prost::encoding::string::merge(wire_type, &mut text, &mut bytes, DecodeContext::default()).is_err() {
                break;
            }
            id = Some(text).filter(|text| json::is_message_id(text));
        } else if skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).is_err() {
            break;
        }
    }
    (seq, id)
}

/// Writes the fields that are present as a JSON object.
struct Object {
    out: Vec<u8>,
    separator: u8,
}

impl Object {
    fn key(&mut self, field: Field) -> &mut Vec<u8> {
        self.out.push(self.separator);
        self.separator = b',';
        write_text(field.name(), &mut self.out);
        self.out.push(b':');
        &mut self.out
    }

    fn text(&mut self, field: Field, text: Option<&String>) {
        if let Some(text) = text {
            write_text(text, self.key(field));
        }
    }

    fn integer(&mut self, field: Field, number: Option<impl itoa::Integer>) {
        if let Some(number) = number {
            self.key(field).extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        }
    }

    fn flag(&mut self, field: Field, flag: Option<bool>) {
        if let Some(flag) = flag {
            self.key(field).extend_from_slice(if flag { b"true" } else { b"false" });
        }
    }

    fn value(&mut self, field: Field, value: Option<&Value>) -> Result<(), Fault> {
        let Some(value) = value else { return Ok(()) };
        let out = self.key(field);
        match &value.kind {
            Some(Kind::Int(number)) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
            Some(Kind::Double(number)) => write_number(*number, out)?,
            Some(Kind::Bool(flag)) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
            Some(Kind::String(text)) => write_text(text, out),
            Some(Kind::Bytes(bytes)) => write_bytes(bytes, out),
            Some(Kind::Json(text)) if json::is_one_value(text) => out.extend_from_slice(text.as_bytes()),
            Some(Kind::Json(_)) => return Err(malformed(format!("`{}` holds JSON that is not valid", field.name()))),
            None => return Err(malformed(format!("`{}` has no kind", field.name()))),
        }
        Ok(())
    }
}

/// The JSON form of one message.
pub(super) fn to_json(message: &Message) -> Result<Vec<u8>, Fault> {
    let mut object = Object { out: Vec::with_capacity(message.encoded_len() * 2), separator: b'{' };
    object.text(Field::Type, message.r#type.as_ref());
    object.text(Field::DeviceId, message.device_id.as_ref());
    object.integer(Field::Seq, message.seq);
    object.text(Field::Id, message.id.as_ref());
    object.text(Field::Name, message.name.as_ref());
    object.value(Field::Value, message.value.as_ref())?;
    object.integer(Field::Timestamp, message.timestamp);
    object.text(Field::Status, message.status.as_ref());
    object.value(Field::Result, message.result.as_ref())?;
    object.text(Field::Code, message.code.as_ref());
    object.text(Field::Message, message.message.as_ref());
    object.value(Field::Params, message.params.as_ref())?;
    object.integer(Field::ExpiresAt, message.expires_at);
    object.integer(Field::Attempt, message.attempt);
    object.integer(Field::RetryAfterMs, message.retry_after_ms);
    object.text(Field::Token, message.token.as_ref());
    object.text(Field::Traceparent, message.traceparent.as_ref());
    object.text(Field::Reason, message.reason.as_ref());
    object.integer(Field::DeadlineMs, message.deadline_ms);
    object.text(Field::Session, message.session.as_ref());
    object.integer(Field::Epoch, message.epoch);
    object.integer(Field::HeartbeatS, message.heartbeat_s);
    object.integer(Field::MaxMessageBytes, message.max_message_bytes);
    object.integer(Field::Window, message.window);
    object.integer(Field::ServerTime, message.server_time);
    object.integer(Field::TokenExpiresAt, message.token_expires_at);
    object.integer(Field::ResumeAfter, message.resume_after);
    object.flag(Field::Registered, message.registered);
    object.text(Field::Key, message.key.as_ref());
    object.integer(Field::TtlS, message.ttl_s);
    object.integer(Field::MaxAttempts, message.max_attempts);
    object.flag(Field::Replace, message.replace);
    object.text(Field::State, message.state.as_ref());
    object.integer(Field::Version, message.version);
    if object.separator == b'{' {
        object.out.push(b'{');
    }
    object.out.push(b'}');
    Ok(object.out)
}

pub(super) fn write_message(message: &GatewayMessage<'_>, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(64);
    fields::each(message, &mut |field, held| match held {
        Held::Text(text) => {
            encode_key(field.protobuf_number(), WireType::LengthDelimited, &mut body);
            encode_varint(text.len() as u64, &mut body);
            body.extend_from_slice(text.as_bytes());
        }
        Held::Unsigned(number) => write_varint(field, number, &mut body),
        // int64: negative numbers as their two's complement.
        Held::Signed(number) => write_varint(field, number as u64, &mut body),
        Held::Flag(flag) => write_varint(field, u64::from(flag), &mut body),
        Held::Json(json) => prost::encoding::message::encode(field.protobuf_number(), &value_of(json), &mut body),
    });
    write_framed(&body, out);
}

fn write_varint(field: Field, number: u64, out: &mut Vec<u8>) {
    encode_key(field.protobuf_number(), WireType::Varint, out);
    encode_varint(number, out);
}

/// Appends one encoded message as an item of a `Frame`.
pub(super) fn write_framed(body: &[u8], out: &mut Vec<u8>) {
    encode_key(1, WireType::LengthDelimited, out);
    encode_varint(body.len() as u64, out);
    out.extend_from_slice(body);
}

/// A JSON value in its narrowest kind.
pub(super) fn wire_value(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Bool(flag) => Kind::Bool(*flag),
        Json::String(text) => Kind::String(text.clone()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Kind::Int(number),
            (None, Some(double)) if number.is_f64() => Kind::Double(double),
            _ => Kind::Json(number.to_string()),
        },
        _ => Kind::Json(value.to_string()),
    };
    Value { kind: Some(kind) }
}

/// The same of JSON text, which an object or array keeps.
fn value_of(text: &str) -> Value {
    if let Some(double) = json::double_of(text) {
        return Value { kind: Some(Kind::Double(double)) };
    }
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(_) | serde_json::Value::Array(_)) | Err(_) => {
            Value { kind: Some(Kind::Json(text.to_owned())) }
        }
        Ok(value) => wire_value(&value),
    }
}
