//! What bad clients send.

use tidegate::protocol::Encoding;
use tidegate::protocol::client::ClientMessage;

use super::frames;
use super::options::Malformed;
use crate::frame;

/// Pings of a flood: twice what a second may have.
const FLOOD: usize = 200;

/// Appends what is wrong in this way; `limit` is the largest message the gateway takes.
pub(super) fn put(kind: Malformed, encoding: Encoding, limit: usize, mask: [u8; 4], out: &mut Vec<u8>) {
    let opcode = if encoding.is_text() { frame::TEXT } else { frame::BINARY };
    let message = |message: ClientMessage| {
        let mut payload = Vec::new();
        message.encode(encoding, &mut payload);
        payload
    };
    match kind {
        Malformed::Garbage => frames::put(out, opcode, b"\x7bno message", mask),
        Malformed::UnknownType => frames::put(out, opcode, &message(ClientMessage::of_type("nonsense").seq(1)), mask),
        Malformed::WrongDevice => {
            let other = ClientMessage::update(1).device_id("somebody-else").seq(1);
            frames::put(out, opcode, &message(other), mask);
        }
        Malformed::TooLarge => {
            let large = ClientMessage::update("x".repeat(limit)).seq(1);
            frames::put(out, opcode, &message(large), mask);
        }
        Malformed::NotUtf8 => frames::put(out, frame::TEXT, b"{\"type\":\"\xc3\x28\"}", mask),
        Malformed::Unmasked => frame::put_plain(out, opcode, &message(ClientMessage::ping())),
        Malformed::ReservedBits => frames::put(out, opcode | 0x30, &message(ClientMessage::ping()), mask),
        Malformed::PingFlood => (0..FLOOD).for_each(|_| frames::put(out, frame::PING, b"", mask)),
        Malformed::Unfinished => {
            // The first part of a message in two frames: no final bit, and nothing follows.
            let start = out.len();
            frames::put(out, opcode, b"{\"type\":", mask);
            out[start] &= 0x7f;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tidegate::protocol::{CodecLimits, read_frame};
    use tidegate::socket::decoder::{Decoder, DecoderConfig, Event};

    /// Whether a gateway finds nothing wrong with these bytes.
    fn is_taken(bytes: &mut [u8]) -> bool {
        let config = DecoderConfig { message_bytes: 1_000, fragments: 8, deflate: false };
        let (mut decoder, mut at, mut messages) = (Decoder::new(), 0, 0);
        loop {
            match decoder.decode(&config, &mut bytes[at..], 0) {
                Err(_) => return false,
                Ok((_, None)) => return messages == 1,
                Ok((used, Some(event))) => {
                    if let Event::Message { payload, .. } = event {
                        let limits = CodecLimits { message_bytes: 1_000, batch_items: 9 };
                        let mut good = true;
                        read_frame(Encoding::Json, payload, limits, 0, &mut |_, message| {
                            good &= message.is_ok();
                            true
                        });
                        messages += usize::from(good);
                    }
                    at += used;
                }
            }
        }
    }

    #[test]
    fn nothing_of_it_is_a_message_but_that_of_another_device() {
        for kind in Malformed::ALL {
            let mut bytes = Vec::new();
            put(kind, Encoding::Json, 1_000, [1, 2, 3, 4], &mut bytes);
            assert_eq!(is_taken(&mut bytes), kind == Malformed::WrongDevice, "{kind:?}");
        }
    }
}
