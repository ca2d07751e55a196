//! Messages as bytes: what a device writes, in every encoding, and what it reads.

use serde_json::Value;
use tidegate::protocol::Encoding;
use tidegate::protocol::client::{ClientMessage, DecodeError, OwnedGatewayMessage, decode_gateway};

use super::Update;
use super::events::Reply;

/// What came.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// `ack {seq}`: the message that comes most often.
    Ack(u64),
    /// Any other.
    Other(Box<OwnedGatewayMessage>),
}

/// One update as a message.
pub fn update(encoding: Encoding, update: &Update, seq: u64) -> Vec<u8> {
    if encoding == Encoding::Json {
        return json_update(update, seq);
    }
    let value: Value = serde_json::from_str(&update.value).unwrap_or_default();
    let mut message = ClientMessage::of_type(update.kind.as_str()).seq(seq).value(value);
    if let Some(name) = &update.name {
        message = message.name(name);
    }
    if let Some(at) = update.timestamp_ms {
        message = message.timestamp(at);
    }
    encoded(encoding, &message)
}

/// JSON by hand: the value goes over as it is, without being taken apart.
fn json_update(update: &Update, seq: u64) -> Vec<u8> {
    let name_bytes = update.name.as_ref().map_or(0, String::len);
    let mut text = String::with_capacity(80 + name_bytes + update.value.len());
    text.push_str("{\"type\":\"");
    text.push_str(update.kind.as_str());
    text.push_str("\",\"seq\":");
    text.push_str(&seq.to_string());
    if let Some(name) = &update.name {
        text.push_str(",\"name\":");
        text.push_str(&Value::from(name.as_str()).to_string());
    }
    text.push_str(",\"value\":");
    text.push_str(update.value.trim());
    if let Some(at) = update.timestamp_ms {
        text.push_str(",\"timestamp\":");
        text.push_str(&at.to_string());
    }
    text.push('}');
    text.into_bytes()
}

/// What a device says about a command.
pub fn answer(encoding: Encoding, id: &str, reply: &Reply) -> Vec<u8> {
    let mut message = ClientMessage::ack(id, Some(reply.status));
    if let Some(result) = reply.result.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        message = message.result(result);
    }
    if let Some(text) = &reply.message {
        message = message.message(text);
    }
    encoded(encoding, &message)
}

/// A fresh token.
pub fn auth(encoding: Encoding, token: &str) -> Vec<u8> {
    encoded(encoding, &ClientMessage::auth(token).id("auth"))
}

fn encoded(encoding: Encoding, message: &ClientMessage) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    message.encode(encoding, &mut out);
    out
}

/// A frame's payload put together from messages.
#[derive(Debug)]
pub struct Batch {
    encoding: Encoding,
    items: usize,
    payload: Vec<u8>,
}

impl Batch {
    /// Bytes a batch may need besides its messages: brackets, and a comma each counted with the message.
    const AROUND: usize = 8;

    /// An empty one.
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, items: 0, payload: Vec::new() }
    }

    /// How many messages it has.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Whether a message of so many bytes fits into a frame of `limit` besides those that are there.
    pub fn has_room(&self, bytes: usize, limit: usize) -> bool {
        self.items == 0 || self.payload.len() + bytes + Self::AROUND <= limit
    }

    /// Adds a message.
    pub fn push(&mut self, message: &[u8]) {
        if self.items > 0 && self.encoding == Encoding::Json {
            self.payload.push(b',');
        }
        self.payload.extend_from_slice(message);
        self.items += 1;
    }

    /// The payload of the frame; one message alone is no batch.
    pub fn finish(mut self) -> Vec<u8> {
        match (self.encoding, self.items) {
            // A Protobuf frame is the messages one behind the other.
            (_, 0 | 1) | (Encoding::Protobuf, _) => {}
            (Encoding::Json, _) => {
                self.payload.insert(0, b'[');
                self.payload.push(b']');
            }
            (Encoding::Cbor, items) => {
                self.payload.splice(0..0, cbor_array(items));
            }
        }
        self.payload
    }
}

/// The head of a CBOR array; a batch has at most 65,535 items.
fn cbor_array(items: usize) -> Vec<u8> {
    match u8::try_from(items) {
        Ok(few @ 0..24) => vec![0x80 | few],
        Ok(some) => vec![0x98, some],
        Err(_) => {
            let [high, low] = u16::try_from(items).unwrap_or(u16::MAX).to_be_bytes();
            vec![0x99, high, low]
        }
    }
}

/// Reads a message from the gateway.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(encoding: Encoding, payload: &[u8]) -> Result<Heard, DecodeError> {
    if encoding == Encoding::Json
        && let Some(seq) = plain_ack(payload)
    {
        return Ok(Heard::Ack(seq));
    }
    let message = decode_gateway(encoding, payload)?;
    match (message.kind.as_str(), message.seq) {
        ("ack", Some(seq)) => Ok(Heard::Ack(seq)),
        _ => Ok(Heard::Other(Box::new(message))),
    }
}

/// The number of an ack in JSON as the gateway writes it.
fn plain_ack(payload: &[u8]) -> Option<u64> {
    let digits = payload.strip_prefix(b"{\"type\":\"ack\",\"seq\":")?.strip_suffix(b"}")?;
    let plain = (1..=16).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| digits.iter().fold(0, |seq, digit| seq * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::Kind;
    use std::time::Instant;
    use tidegate::protocol::message::{DeviceMessage, GatewayMessage, ReportKind};
    use tidegate::protocol::{CodecLimits, read_frame, write_message};

    const LIMITS: CodecLimits = CodecLimits { message_bytes: 65_536, batch_items: 1_000 };

    fn sample(number: u64) -> Update {
        Update {
            kind: if number.is_multiple_of(2) { Kind::Update } else { Kind::Status },
            name: Some("tem\"p".into()),
            value: format!(" {{\"n\":{number},\"x\":[1.5,null,\"é\"]}} "),
            timestamp_ms: Some(1_748_522_700_000),
            due: Instant::now(),
            digest: 0,
        }
    }

    #[test]
    fn the_gateway_reads_what_is_written_alone_and_in_batches() {
        for (encoding, count) in Encoding::ALL.into_iter().flat_map(|encoding| [1, 2, 30, 300].map(|n| (encoding, n))) {
            let mut batch = Batch::new(encoding);
            (1..=count).for_each(|seq| batch.push(&update(encoding, &sample(seq), seq)));
            let frame = batch.finish();
            let mut seqs = Vec::new();
            read_frame(encoding, &frame, LIMITS, 0, &mut |_, message| {
                let DeviceMessage::Report(report) = message.unwrap() else { panic!("a report") };
                let seq = report.seq.unwrap();
                let form: Value = serde_json::from_slice(&report.json).unwrap();
                assert_eq!(form["value"], serde_json::json!({"n": seq, "x": [1.5, null, "é"]}), "{encoding:?}");
                assert_eq!(report.timestamp_ms, Some(1_748_522_700_000));
                assert_eq!(report.kind == ReportKind::Status, seq % 2 == 1);
                assert!(seq % 2 == 1 || form["name"] == "tem\"p");
                seqs.push(seq);
                true
            });
            assert_eq!(seqs, (1..=count).collect::<Vec<_>>(), "{encoding:?}");
        }
    }

    #[test]
    fn answers_come_with_result_and_words() {
        for encoding in Encoding::ALL {
            let reply = Reply { message: Some("well".into()), ..Reply::with_result("{\"a\":1}") };
            let frame = answer(encoding, "c1", &reply);
            read_frame(encoding, &frame, LIMITS, 0, &mut |_, message| {
                let DeviceMessage::CommandAck(ack) = message.unwrap() else { panic!("an ack") };
                assert_eq!((ack.id.as_ref(), ack.status.as_str()), ("c1", "succeeded"));
                assert_eq!(ack.result.as_deref(), Some(&b"{\"a\":1}"[..]));
                true
            });
        }
    }

    #[test]
    fn acks_are_read_in_every_encoding_and_other_messages_whole() {
        for encoding in Encoding::ALL {
            let mut ack = Vec::new();
            write_message(encoding, &GatewayMessage::Ack { seq: 1_234_567 }, &mut ack);
            assert_eq!(decode(encoding, &ack), Ok(Heard::Ack(1_234_567)));
            let mut goaway = Vec::new();
            let message = GatewayMessage::Goaway { reason: "restart", retry_after_ms: 5, deadline_ms: 7 };
            write_message(encoding, &message, &mut goaway);
            let Ok(Heard::Other(read)) = decode(encoding, &goaway) else { panic!("a goaway") };
            assert_eq!((read.kind.as_str(), read.retry_after_ms, read.deadline_ms), ("goaway", Some(5), Some(7)));
        }
    }

    #[test]
    fn what_only_looks_like_an_ack_is_read_with_care() {
        assert_eq!(plain_ack(br#"{"type":"ack","seq":}"#), None);
        assert_eq!(plain_ack(br#"{"type":"ack","seq":1,"x":2}"#), None);
        assert_eq!(decode(Encoding::Json, br#"{"seq":7,"type":"ack"}"#), Ok(Heard::Ack(7)));
        assert!(decode(Encoding::Json, b"[]").is_err() && decode(Encoding::Json, b"{}").is_err());
    }
}
