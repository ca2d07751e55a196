//! JSON in text frames, and the reading that all encodings share: CBOR and Protobuf are put into their JSON form first.

mod walk;

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::CodecLimits;
use super::fields::{self, Held};
use super::message::{
    AppCommand, CommandAck, CommandStatus, DeviceMessage, GatewayMessage, Refusal, RefusalCode, Report, ReportKind,
};
use crate::id::MAX_SEQ;
use walk::{Fields, Scalar};

/// Longest `id` and `name`, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Longest `key`, in bytes, longest `ttl_s` and most `max_attempts`: what the keeper of commands takes.
const MAX_KEY_BYTES: usize = 256;
const MAX_TTL_S: u64 = 7 * 24 * 3_600;
const MAX_ATTEMPTS: u64 = 20;
/// The furthest time any client's date type holds, in Unix milliseconds either way.
const MAX_TIME_MS: i64 = 8_640_000_000_000_000;

pub(super) type Item<'i, 'a> = &'i mut dyn FnMut(usize, Result<DeviceMessage<'a>, Refusal>) -> bool;

pub(super) fn read_frame<'a>(frame: &'a [u8], limits: CodecLimits, skip: usize, item: Item<'_, 'a>) {
    let Ok(text) = simdutf8::basic::from_utf8(frame) else {
        item(0, Err(malformed("the frame is not UTF-8").into_refusal(None, None)));
        return;
    };
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    if !text.starts_with('[') {
        if skip == 0 {
            item(0, read_message(text, limits));
        }
        return;
    }
    match split_batch(text, limits.batch_items) {
        Ok(raws) => {
            for (place, raw) in raws.into_iter().enumerate().skip(skip) {
                if !item(place, read_message(raw.get(), limits)) {
                    return;
                }
            }
        }
        Err(fault) => {
            item(0, Err(fault.into_refusal(None, None)));
        }
    }
}

/// Reads one message from its JSON form.
fn read_message<'a>(text: &'a str, limits: CodecLimits) -> Result<DeviceMessage<'a>, Refusal> {
    let mut fields = Fields::default();
    let fault = if text.len() > limits.message_bytes {
        too_large(limits)
    } else if !text.starts_with('{') {
        return Err(malformed("a message is an object").into_refusal(None, None));
    } else {
        match walk::walk(text, &mut fields) {
            Ok(()) => return judge(text, fields),
            Err(error) => bad_json(&error),
        }
    };
    let mut found = Fields::default();
    walk::salvage(text, &mut found);
    Err(fault.into_refusal(seq_of(&found), id_of(&found)))
}

/// Whether `text` is exactly one JSON object, sound and with no key twice in any object of it.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_object(text: &str) -> Result<(), String> {
    let mut fields = Fields::default();
    walk::walk(text, &mut fields).map_err(|error| format!("not a valid JSON object: {error}"))?;
    if fields.repeated_key { Err("an object has one key twice".into()) } else { Ok(()) }
}

/// Reads a message whose JSON form was made here, and lets the message own it.
pub(super) fn read_made(json: Vec<u8>, limits: CodecLimits) -> Result<DeviceMessage<'static>, Refusal> {
    let Ok(text) = std::str::from_utf8(&json) else {
        return Err(malformed("text that is not UTF-8").into_refusal(None, None));
    };
    let mut message = read_message(text, limits)?;
    if let DeviceMessage::Report(report) = &mut message {
        // The whole of the text, which is moved in below: no need to copy it.
        report.json = Cow::Borrowed(&[]);
    }
    let mut message = message.into_owned();
    if let DeviceMessage::Report(report) = &mut message {
        report.json = Cow::Owned(json);
    }
    Ok(message)
}

/// Whether `text` is exactly one JSON value, so that it can stand inside another.
pub(super) fn is_one_value(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// The number that JSON text is, where it is one and no integer of 64 bits; nearest to the text, which `serde_json` as it
/// is used here does not promise.
pub(super) fn double_of(text: &str) -> Option<f64> {
    let text = text.trim();
    let is_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    let is_integer = text != "-0" && (text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok());
    if is_number && !is_integer { text.parse().ok().filter(|double: &f64| double.is_finite()) } else { None }
}

/// Why a message is not taken, before it is known which.
pub(super) struct Fault {
    code: RefusalCode,
    message: Cow<'static, str>,
}

impl Fault {
    pub(super) fn into_refusal(self, seq: Option<u64>, id: Option<String>) -> Refusal {
        Refusal { code: self.code, message: self.message, seq, id }
    }
}

pub(super) fn malformed(message: impl Into<Cow<'static, str>>) -> Fault {
    Fault { code: RefusalCode::Malformed, message: message.into() }
}

pub(super) fn too_many(batch_items: usize) -> Fault {
    Fault { code: RefusalCode::TooMany, message: format!("a batch holds at most {batch_items} messages").into() }
}

fn too_large(limits: CodecLimits) -> Fault {
    let message = format!("a message's JSON form is at most {} bytes", limits.message_bytes);
    Fault { code: RefusalCode::TooLarge, message: message.into() }
}

fn bad_json(error: &serde_json::Error) -> Fault {
    malformed(format!("not valid JSON: {error}"))
}

pub(super) fn is_seq(number: u64) -> bool {
    (1..=MAX_SEQ).contains(&number)
}

pub(super) fn is_message_id(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len())
}

fn seq_of(fields: &Fields<'_>) -> Option<u64> {
    match fields.seq {
        Some(Scalar::Unsigned(number)) if is_seq(number) => Some(number),
        _ => None,
    }
}

fn id_of(fields: &Fields<'_>) -> Option<String> {
    match &fields.id {
        Some(Scalar::Text(text)) if is_message_id(text) => Some(text.to_string()),
        _ => None,
    }
}

/// Makes a message of the fields of an intact object.
fn judge<'a>(text: &'a str, mut fields: Fields<'a>) -> Result<DeviceMessage<'a>, Refusal> {
    match take_message(text, &mut fields) {
        Ok(message) => Ok(message),
        Err(fault) => Err(fault.into_refusal(seq_of(&fields), id_of(&fields))),
    }
}

fn take_message<'a>(text: &'a str, fields: &mut Fields<'a>) -> Result<DeviceMessage<'a>, Fault> {
    if fields.repeated_key {
        return Err(malformed("an object has one key twice"));
    }
    let kind = match fields.kind.take() {
        Some(Scalar::Text(kind)) => kind,
        Some(_) => return Err(malformed("`type` must be a string")),
        None => return Err(malformed("`type` is missing")),
    };
    match kind.as_ref() {
        "update" => take_report(ReportKind::Update, text, fields),
        "status" => take_report(ReportKind::Status, text, fields),
        "ack" => take_ack(fields),
        "command" => take_command(fields),
        "auth" => {
            let token = take_text(&mut fields.token, "token", usize::MAX)?;
            let token = token.filter(|token| !token.is_empty()).ok_or_else(|| malformed("`token` is missing"))?;
            Ok(DeviceMessage::Auth { token, id: take_id(fields)? })
        }
        "ping" => Ok(DeviceMessage::Ping { id: take_id(fields)? }),
        other => match other.strip_suffix("_update") {
            Some(name) if name.len() > MAX_NAME_BYTES => Err(malformed("the name in `type` is longer than 128 bytes")),
            Some(name) if !name.is_empty() => take_report(ReportKind::Update, text, fields),
            _ => Err(Fault {
                code: RefusalCode::UnknownType,
                message: "`type` must be update, <name>_update, status, ack, auth or ping".into(),
            }),
        },
    }
}

fn take_report<'a>(kind: ReportKind, text: &'a str, fields: &mut Fields<'a>) -> Result<DeviceMessage<'a>, Fault> {
    if !fields.has_value {
        return Err(malformed("`value` is missing"));
    }
    // `seq` stays where it is: a refusal for another field gives it back.
    let seq = match (&fields.seq, seq_of(fields)) {
        (Some(_), None) => return Err(malformed("`seq` must be an integer from 1 to 2^53 - 1")),
        (_, seq) => seq,
    };
    take_text(&mut fields.name, "name", MAX_NAME_BYTES)?;
    Ok(DeviceMessage::Report(Report {
        kind,
        seq,
        timestamp_ms: take_timestamp(fields)?,
        device_id: take_text(&mut fields.device_id, "device_id", MAX_NAME_BYTES)?,
        tenant: take_text(&mut fields.tenant, "tenant", MAX_NAME_BYTES)?,
        traceparent: take_text(&mut fields.traceparent, "traceparent", MAX_NAME_BYTES)?,
        json: Cow::Borrowed(text.as_bytes()),
    }))
}

fn take_ack<'a>(fields: &mut Fields<'a>) -> Result<DeviceMessage<'a>, Fault> {
    let status = match fields.status.take() {
        None => CommandStatus::Succeeded,
        Some(Scalar::Text(word)) => CommandStatus::ALL
            .into_iter()
            .find(|status| status.as_str() == word)
            .ok_or_else(|| malformed("`status` must be received, running, succeeded, failed or rejected"))?,
        Some(_) => return Err(malformed("`status` must be a string")),
    };
    let message = take_text(&mut fields.message, "message", usize::MAX)?;
    let id = take_id(fields)?.ok_or_else(|| malformed("`id` is missing"))?;
    let result = fields.result.map(|result| Cow::Borrowed(result.as_bytes()));
    Ok(DeviceMessage::CommandAck(CommandAck { id, status, result, message }))
}

fn take_command<'a>(fields: &mut Fields<'a>) -> Result<DeviceMessage<'a>, Fault> {
    let missing = |name: &str| malformed(format!("`{name}` is missing"));
    let key = take_text(&mut fields.key, "key", MAX_KEY_BYTES)?.ok_or_else(|| missing("key"))?;
    // What a refusal gives back, so that the application knows which.
    fields.id.get_or_insert(Scalar::Text(key.clone()));
    let device_id = take_text(&mut fields.device_id, "device_id", MAX_NAME_BYTES)?;
    let name = take_text(&mut fields.name, "name", MAX_NAME_BYTES)?;
    let ttl_s = match fields.ttl_s.take() {
        Some(Scalar::Unsigned(seconds)) if seconds <= MAX_TTL_S => seconds,
        None => return Err(missing("ttl_s")),
        Some(_) => return Err(malformed(format!("`ttl_s` must be an integer from 0 to {MAX_TTL_S}"))),
    };
    let max_attempts = match fields.max_attempts.take() {
        None => None,
        Some(Scalar::Unsigned(attempts)) if (1..=MAX_ATTEMPTS).contains(&attempts) => u32::try_from(attempts).ok(),
        Some(_) => return Err(malformed(format!("`max_attempts` must be an integer from 1 to {MAX_ATTEMPTS}"))),
    };
    let replace = match fields.replace.take() {
        None => false,
        Some(Scalar::Flag(flag)) => flag,
        Some(_) => return Err(malformed("`replace` must be true or false")),
    };
    Ok(DeviceMessage::Command(AppCommand {
        key,
        device_id: device_id.ok_or_else(|| missing("device_id"))?,
        name: name.ok_or_else(|| missing("name"))?,
        params: Cow::Borrowed(fields.params.unwrap_or("null").as_bytes()),
        ttl_s,
        max_attempts,
        replace,
    }))
}

fn take_id<'a>(fields: &mut Fields<'a>) -> Result<Option<Cow<'a, str>>, Fault> {
    match &fields.id {
        None => Ok(None),
        Some(Scalar::Text(text)) if is_message_id(text) => Ok(Some(text.clone())),
        Some(_) => Err(malformed("`id` must be a string of 1 to 128 bytes")),
    }
}

fn take_text<'a>(slot: &mut Option<Scalar<'a>>, name: &str, max: usize) -> Result<Option<Cow<'a, str>>, Fault> {
    match slot.take() {
        None => Ok(None),
        Some(Scalar::Text(text)) if text.len() <= max => Ok(Some(text)),
        Some(Scalar::Text(_)) => Err(malformed(format!("`{name}` is longer than {max} bytes"))),
        Some(_) => Err(malformed(format!("`{name}` must be a string"))),
    }
}

fn take_timestamp(fields: &mut Fields<'_>) -> Result<Option<i64>, Fault> {
    let ms = match fields.timestamp.take() {
        None => return Ok(None),
        Some(Scalar::Unsigned(number)) => i64::try_from(number).ok(),
        Some(Scalar::Signed(number)) => Some(number),
        Some(Scalar::Text(text)) => OffsetDateTime::parse(&text, &Rfc3339)
            .ok()
            .and_then(|at| i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).ok()),
        Some(Scalar::Other | Scalar::Flag(_)) => None,
    };
    match ms {
        Some(ms) if (-MAX_TIME_MS..=MAX_TIME_MS).contains(&ms) => Ok(Some(ms)),
        _ => Err(malformed("`timestamp` must be RFC 3339 or an integer of Unix milliseconds")),
    }
}

/// Cuts a batch into its messages, none of which has been looked at.
fn split_batch(text: &str, most: usize) -> Result<Vec<&RawValue>, Fault> {
    let mut batch = Batch { raws: Vec::new(), most, over: false };
    let mut input = serde_json::Deserializer::from_str(text);
    let outcome = (&mut batch).deserialize(&mut input).and_then(|()| input.end());
    match outcome {
        Ok(()) => Ok(batch.raws),
        Err(_) if batch.over => Err(too_many(most)),
        Err(error) => Err(bad_json(&error)),
    }
}

struct Batch<'de> {
    raws: Vec<&'de RawValue>,
    most: usize,
    over: bool,
}

impl<'de> DeserializeSeed<'de> for &mut Batch<'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Batch<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(raw) = seq.next_element::<&'de RawValue>()? {
            if self.raws.len() == self.most {
                self.over = true;
                return Err(A::Error::custom("too many"));
            }
            self.raws.push(raw);
        }
        Ok(())
    }
}

pub(super) fn write_message(message: &GatewayMessage<'_>, out: &mut Vec<u8>) {
    // By far the most frequent.
    if let GatewayMessage::Ack { seq } = message {
        out.extend_from_slice(br#"{"type":"ack","seq":"#);
        out.extend_from_slice(itoa::Buffer::new().format(*seq).as_bytes());
        out.push(b'}');
        return;
    }
    let mut separator = b'{';
    fields::each(message, &mut |field, held| {
        out.push(separator);
        separator = b',';
        write_text(field.name(), out);
        out.push(b':');
        match held {
            Held::Text(text) => write_text(text, out),
            Held::Unsigned(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
            Held::Signed(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
            Held::Flag(flag) => out.extend_from_slice(if flag { b"true" } else { b"false" }),
            Held::Json(json) => out.extend_from_slice(json.as_bytes()),
        }
    });
    out.push(b'}');
}

/// Appends `text` as a JSON string.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain_from = 0;
    for (place, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain_from..place]);
        plain_from = place + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[plain_from..]);
    out.push(b'"');
}

/// Appends bytes as a base64url string without padding.
pub(super) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    use base64::Engine as _;
    write_text(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes), out);
}
