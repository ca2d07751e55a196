//! What peers speak inside their frames: how an update is written down for each, and what in its answers is an ack.

use std::io;
use std::ops::Range;

use super::{contains, failed};
use crate::frame;
use crate::telemetry::{self, FIRST_SEQ};

/// What the peer speaks inside its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// Every frame comes back.
    Echo,
    /// A `welcome`, then cumulative acks.
    Tidegate,
    /// One ack a message, in any order.
    AckEach,
    /// MQTT 3.1.1, QoS 1.
    Mqtt,
    /// NATS, each update with a reply subject of its own, on which the stream that stores it answers.
    Nats,
}

/// The one MQTT topic, which is a level of [`NATS_SUBJECT`] each.
const MQTT_TOPIC: &[u8] = b"bench/climate";
/// The one NATS subject.
pub const NATS_SUBJECT: &str = "bench.climate";

impl Speech {
    /// Where the upgrade is asked for. RabbitMQ has its MQTT at `/ws`; mosquitto does not look.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Tidegate => "/v1/device?boot=bench",
            Self::Mqtt => "/ws",
            Self::Echo | Self::AckEach | Self::Nats => "/",
        }
    }

    /// What the client says first, as frames.
    pub(super) fn greeting(self, number: u64) -> Option<Vec<u8>> {
        match self {
            Self::Mqtt => Some(mqtt_connect(&telemetry::device_id(number))),
            Self::Nats => Some(nats_connect(number)),
            Self::Echo | Self::Tidegate | Self::AckEach => None,
        }
    }

    /// What stands in the message after which updates may be sent; none where they may be at once.
    pub(super) fn awaits(self) -> Option<&'static [u8]> {
        match self {
            Self::Tidegate => Some(b"\"welcome\""),
            Self::Mqtt => Some(&[0x20, 2, 0, 0]),
            Self::Nats => Some(b"PONG\r\n"),
            Self::Echo | Self::AckEach => None,
        }
    }

    /// Whether a message may come before the one that is awaited.
    pub(super) fn passes(self, payload: &[u8]) -> bool {
        self == Self::Nats && !contains(payload, b"-ERR")
    }

    /// Appends update `place` of device `number`, both counted from 0, as the peer wants it.
    pub(super) fn put(self, out: &mut Vec<u8>, number: u64, place: u64, payload: &[u8]) {
        match self {
            Self::Echo | Self::Tidegate | Self::AckEach => frame::put_masked(out, frame::TEXT, payload),
            Self::Mqtt => frame::put_masked(out, frame::BINARY, &mqtt_publish(place, payload)),
            Self::Nats => frame::put_masked(out, frame::BINARY, &nats_publish(number, place, payload)),
        }
    }

    /// Takes a message of the peer, `before` updates being settled already. `on` gets the updates it settles, counted
    /// from 0; what it wants answered goes into `output`, and what goes on in its next frame stays in `part`.
    pub(super) fn take(
        self,
        before: u64,
        payload: &[u8],
        part: &mut Vec<u8>,
        output: &mut Vec<u8>,
        mut on: impl FnMut(Range<u64>) -> io::Result<()>,
    ) -> io::Result<()> {
        match self {
            Self::Echo => on(before..before + 1),
            Self::Mqtt => {
                let acks = payload.chunks(4).filter(|packet| packet[0] == 0x40).count() as u64;
                on(before..before + acks)
            }
            Self::AckEach => on(seq_of(payload).map(|place| place..place + 1).ok_or_else(|| not_an_ack(payload))?),
            Self::Tidegate => match seq_of(payload) {
                Some(place) => on(before..before.max(place + 1)),
                None if contains(payload, b"\"pause\"") || contains(payload, b"\"resume\"") => Ok(()),
                None => Err(not_an_ack(payload)),
            },
            Self::Nats if part.is_empty() => {
                let used = nats_take(payload, output, &mut on)?;
                part.extend_from_slice(&payload[used..]);
                Ok(())
            }
            Self::Nats => {
                part.extend_from_slice(payload);
                let used = nats_take(part, output, &mut on)?;
                part.drain(..used);
                Ok(())
            }
        }
    }
}

fn not_an_ack(payload: &[u8]) -> io::Error {
    failed(format!("not an ack: {}", String::from_utf8_lossy(payload)))
}

/// Which update an ack in JSON is about, counted from 0.
fn seq_of(payload: &[u8]) -> Option<u64> {
    if !contains(payload, b"\"ack\"") {
        return None;
    }
    let key = b"\"seq\":";
    let at = payload.windows(key.len()).position(|window| window == key)? + key.len();
    let digits = payload[at..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0_u64, |seq, digit| seq * 10 + u64::from(digit - b'0')).checked_sub(FIRST_SEQ)
}

fn mqtt_connect(id: &str) -> Vec<u8> {
    let mut packet = vec![0x10, (12 + id.len()) as u8, 0, 4];
    packet.extend_from_slice(b"MQTT\x04\x02\x00\x00\x00");
    packet.push(id.len() as u8);
    packet.extend_from_slice(id.as_bytes());
    let mut out = Vec::new();
    frame::put_masked(&mut out, frame::BINARY, &packet);
    out
}

fn mqtt_publish(place: u64, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x32];
    let mut rest = 2 + MQTT_TOPIC.len() + 2 + payload.len();
    while rest >= 128 {
        packet.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    packet.extend_from_slice(&[rest as u8, 0, MQTT_TOPIC.len() as u8]);
    packet.extend_from_slice(MQTT_TOPIC);
    packet.extend_from_slice(&((place % 65_535 + 1) as u16).to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// Who it is, where it hears acks, and a question whose answer says that both were taken.
fn nats_connect(number: u64) -> Vec<u8> {
    let text = format!(
        "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":false,\"lang\":\"bench\",\"version\":\"1\",\"protocol\":1}}\r\n\
         SUB _INBOX.{number}.* 1\r\nPING\r\n"
    );
    let mut out = Vec::new();
    frame::put_masked(&mut out, frame::BINARY, text.as_bytes());
    out
}

fn nats_publish(number: u64, place: u64, payload: &[u8]) -> Vec<u8> {
    let head = format!("PUB {NATS_SUBJECT} _INBOX.{number}.{place} {}\r\n", payload.len());
    [head.as_bytes(), payload, b"\r\n"].concat()
}

/// Takes all that is whole; how many bytes that were.
fn nats_take(
    bytes: &[u8],
    output: &mut Vec<u8>,
    on: &mut impl FnMut(Range<u64>) -> io::Result<()>,
) -> io::Result<usize> {
    let mut at = 0;
    while let Some(length) = bytes[at..].windows(2).position(|two| two == b"\r\n") {
        let (line, body) = (&bytes[at..at + length], at + length + 2);
        if line.starts_with(b"MSG ") {
            let Some((place, size)) = nats_message(line) else { return Err(not_an_ack(line)) };
            let Some(text) = bytes.get(body..body + size + 2) else { return Ok(at) };
            // `{"stream":"BENCH","seq":1}` says that it is stored; anything else says why not.
            if contains(text, b"\"error\"") || !contains(text, b"\"seq\"") {
                return Err(not_an_ack(text));
            }
            on(place..place + 1)?;
            at = body + size + 2;
            continue;
        }
        if line.starts_with(b"PING") {
            frame::put_masked(output, frame::BINARY, b"PONG\r\n");
        } else if line.starts_with(b"-ERR") {
            return Err(not_an_ack(line));
        }
        at = body;
    }
    Ok(at)
}

/// Which update `MSG _INBOX.NUMBER.PLACE SID LENGTH` is about, and how many bytes follow it.
fn nats_message(line: &[u8]) -> Option<(u64, usize)> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let place = words.nth(1)?.rsplit('.').next()?.parse().ok()?;
    Some((place, words.next_back()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Beginnings and ends of what is settled.
    fn settles(speech: Speech, before: u64, frames: &[&[u8]]) -> io::Result<Vec<(u64, u64)>> {
        let (mut part, mut output, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for payload in frames {
            speech.take(before, payload, &mut part, &mut output, |range| {
                all.push((range.start, range.end));
                Ok(())
            })?;
        }
        Ok(all)
    }

    #[test]
    fn acks_settle_what_they_name_and_nothing_else_passes_for_one() {
        let ack = |seq: u64| format!("{{\"type\":\"ack\",\"seq\":{}}}", FIRST_SEQ + seq).into_bytes();
        assert_eq!(settles(Speech::Tidegate, 2, &[&ack(4)]).unwrap(), [(2, 5)]);
        assert_eq!(settles(Speech::Tidegate, 5, &[&ack(4)]).unwrap(), [(5, 5)], "said again");
        assert_eq!(settles(Speech::AckEach, 2, &[&ack(4)]).unwrap(), [(4, 5)]);
        assert_eq!(settles(Speech::Mqtt, 2, &[&[0x40, 2, 0, 1, 0x40, 2, 0, 2]]).unwrap(), [(2, 4)]);
        assert_eq!(settles(Speech::Tidegate, 2, &[br#"{"type":"pause","reason":"log"}"#]).unwrap(), []);
        assert!(settles(Speech::Tidegate, 2, &[br#"{"type":"refused","seq":1000003}"#]).is_err());
    }

    #[test]
    fn an_ack_of_nats_is_found_however_frames_cut_it() {
        let said = "PING\r\nMSG _INBOX.7.3 1 26\r\n{\"stream\":\"BENCH\",\"seq\":1}\r\n\
                    MSG _INBOX.7.4 1 26\r\n{\"stream\":\"BENCH\",\"seq\":2}\r\n";
        for cut in 0..said.len() {
            let (first, second) = said.as_bytes().split_at(cut);
            assert_eq!(settles(Speech::Nats, 0, &[first, second]).unwrap(), [(3, 4), (4, 5)], "cut at {cut}");
        }
    }

    #[test]
    fn nats_is_answered_its_ping_and_its_errors_are_no_acks() {
        let (mut part, mut output) = (Vec::new(), Vec::new());
        Speech::Nats.take(0, b"PING\r\n", &mut part, &mut output, |_| Ok(())).unwrap();
        let found = frame::find(&output, 0).unwrap();
        frame::unmask(&mut output[found.start..found.end], found.mask.unwrap());
        assert_eq!(&output[found.start..found.end], b"PONG\r\n");
        let error = br#"{"error":{"code":503},"stream":"BENCH","seq":0}"#;
        let message = [format!("MSG _INBOX.7.3 1 {}\r\n", error.len()).as_bytes(), error, b"\r\n"].concat();
        assert!(settles(Speech::Nats, 0, &[&message]).is_err());
        assert!(settles(Speech::Nats, 0, &[b"-ERR 'Unknown Protocol Operation'\r\n"]).is_err());
    }

    #[test]
    fn an_mqtt_publish_says_its_own_length() {
        for bytes in [100, 150, 20_000] {
            let packet = mqtt_publish(0, &vec![b'x'; bytes]);
            let ends = packet[1..].iter().position(|byte| byte & 0x80 == 0).unwrap();
            let says = packet[1..=ends + 1].iter().rev().fold(0, |sum, byte| sum * 128 + usize::from(byte & 0x7f));
            assert_eq!(says, packet.len() - ends - 2);
        }
    }
}
