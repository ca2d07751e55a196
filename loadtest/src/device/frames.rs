//! WebSocket frames as a client reads and writes them: bytes in, messages out, nothing held between messages. No I/O.

use tidegate::protocol::close::is_valid_received;
use tidegate::socket::deflate;

use crate::frame;

/// Smaller messages are sent as they are.
const WORTH_DEFLATING: usize = 256;
/// The largest window, which is ours to choose.
const WINDOW_BITS: u8 = 15;
const CONTROL_BYTES: usize = 125;
const COMPRESSED: u8 = 0x40;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message, inflated.
    Message {
        /// Whether it came in text frames.
        text: bool,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// To be answered by a pong of the same payload.
    Ping(&'a [u8]),
    /// The answer to a ping.
    Pong,
    /// The end: code and reason, where there are any.
    Close(Option<(u16, &'a str)>),
}

/// What the peer must not do; the connection is to be closed with `code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Breach {
    /// The close code.
    pub code: u16,
    /// What it did.
    pub what: &'static str,
}

const fn breach(what: &'static str) -> Breach {
    Breach { code: 1002, what }
}

const TOO_BIG: Breach = Breach { code: 1009, what: "the gateway sent a message above the size limit" };

/// Whether to go on with what else has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// Yes.
    On,
    /// Not now: the rest is kept for the next call.
    Wait,
}

/// A message in pieces.
#[derive(Debug)]
struct Pieces {
    text: bool,
    compressed: bool,
    bytes: Vec<u8>,
}

/// Reads what a server sends.
#[derive(Debug)]
pub struct Reader {
    /// Bytes of a frame that is not whole.
    rest: Vec<u8>,
    pieces: Option<Box<Pieces>>,
    limit: usize,
    deflate: bool,
}

/// The head of a frame.
struct Head {
    first: u8,
    start: usize,
    end: usize,
}

impl Reader {
    /// Takes messages of at most `limit` bytes; compressed ones where that was agreed.
    pub fn new(limit: usize, deflate: bool) -> Self {
        Self { rest: Vec::new(), pieces: None, limit, deflate }
    }

    /// Whether bytes wait that a call without new ones may make something of.
    pub fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Reads these bytes, behind those that were left; each thing that is whole goes to `on`.
    ///
    /// # Errors
    /// [`Breach`]: the reader must not be used again.
    pub fn read(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>) -> Go) -> Result<(), Breach> {
        if self.rest.is_empty() {
            let used = self.frames(bytes, on)?;
            self.rest.extend_from_slice(&bytes[used..]);
        } else {
            let mut rest = std::mem::take(&mut self.rest);
            rest.extend_from_slice(bytes);
            let used = self.frames(&rest, on)?;
            rest.drain(..used);
            // A quiet connection holds no buffer.
            self.rest = if rest.is_empty() { Vec::new() } else { rest };
        }
        Ok(())
    }

    fn frames(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>) -> Go) -> Result<usize, Breach> {
        let mut at = 0;
        while let Some(head) = self.head(&bytes[at..])? {
            let payload = &bytes[at + head.start..at + head.end];
            at += head.end;
            if self.frame(head.first, payload, on)? == Go::Wait {
                break;
            }
        }
        Ok(at)
    }

    /// The frame at the front, where all of it is there.
    fn head(&self, bytes: &[u8]) -> Result<Option<Head>, Breach> {
        let Some(&[first, second]) = bytes.first_chunk::<2>() else { return Ok(None) };
        let (control, compressed) = (first & 0x08 != 0, first & COMPRESSED != 0);
        if first & 0x30 != 0 || compressed && !(self.deflate && matches!(first & 0x0f, frame::TEXT | frame::BINARY)) {
            return Err(breach("the gateway set a reserved bit"));
        }
        if second & 0x80 != 0 {
            return Err(breach("the gateway masked a frame"));
        }
        let (start, length) = match second & 0x7f {
            126 => match bytes[2..].first_chunk::<2>() {
                Some(long) => (4, u64::from(u16::from_be_bytes(*long))),
                None => return Ok(None),
            },
            127 => match bytes[2..].first_chunk::<8>() {
                Some(long) => (10, u64::from_be_bytes(*long)),
                None => return Ok(None),
            },
            short => (2, u64::from(short)),
        };
        if control && (length > CONTROL_BYTES as u64 || first & 0x80 == 0) {
            return Err(breach("the gateway sent a control frame that is long or in pieces"));
        }
        let held = self.pieces.as_ref().map_or(0, |pieces| pieces.bytes.len());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !control && length.saturating_add(held) > self.limit {
            return Err(TOO_BIG);
        }
        let end = start + length;
        Ok((end <= bytes.len()).then_some(Head { first, start, end }))
    }

    fn frame(&mut self, first: u8, payload: &[u8], on: &mut dyn FnMut(Event<'_>) -> Go) -> Result<Go, Breach> {
        let (last, compressed) = (first & 0x80 != 0, first & COMPRESSED != 0);
        match first & 0x0f {
            frame::PING => Ok(on(Event::Ping(payload))),
            frame::PONG => Ok(on(Event::Pong)),
            frame::CLOSE => Ok(on(Event::Close(close(payload)?))),
            kind @ (frame::TEXT | frame::BINARY) => {
                if self.pieces.is_some() {
                    return Err(breach("the gateway began a message within another"));
                }
                if last {
                    return self.message(kind == frame::TEXT, compressed, payload, on);
                }
                let bytes = payload.to_vec();
                self.pieces = Some(Box::new(Pieces { text: kind == frame::TEXT, compressed, bytes }));
                Ok(Go::On)
            }
            0 => {
                let Some(pieces) = &mut self.pieces else { return Err(breach("the gateway continued no message")) };
                pieces.bytes.extend_from_slice(payload);
                match self.pieces.take_if(|_| last) {
                    Some(whole) => self.message(whole.text, whole.compressed, &whole.bytes, on),
                    None => Ok(Go::On),
                }
            }
            _ => Err(breach("the gateway sent a frame of an unknown kind")),
        }
    }

    fn message(
        &self,
        text: bool,
        compressed: bool,
        payload: &[u8],
        on: &mut dyn FnMut(Event<'_>) -> Go,
    ) -> Result<Go, Breach> {
        if !compressed {
            return Ok(on(Event::Message { text, payload }));
        }
        let mut inflated = Vec::new();
        deflate::inflate(payload, self.limit, &mut inflated)
            .map_err(|violation| Breach { code: violation.close.code(), what: violation.what })?;
        Ok(on(Event::Message { text, payload: &inflated }))
    }
}

fn close(payload: &[u8]) -> Result<Option<(u16, &str)>, Breach> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(breach("the gateway closed with half a code")) };
    };
    let code = u16::from_be_bytes(*code);
    if !is_valid_received(code) {
        return Err(breach("the gateway closed with a code that may not be sent"));
    }
    let reason =
        std::str::from_utf8(reason).map_err(|_| Breach { code: 1007, what: "the close reason is not UTF-8" })?;
    Ok(Some((code, reason)))
}

/// Appends a message as one frame, compressed where that was agreed and is worth it.
pub fn put_message(out: &mut Vec<u8>, text: bool, payload: &[u8], deflate: bool, mask: [u8; 4]) {
    let opcode = if text { frame::TEXT } else { frame::BINARY };
    if !deflate || payload.len() < WORTH_DEFLATING {
        return put(out, opcode, payload, mask);
    }
    let mut smaller = Vec::new();
    deflate::deflate(payload, WINDOW_BITS, &mut smaller);
    put(out, opcode | COMPRESSED, &smaller, mask);
}

/// Appends one masked frame.
pub fn put(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: [u8; 4]) {
    out.reserve(payload.len() + 14);
    frame::put_head(out, opcode, payload.len(), Some(mask));
    let start = out.len();
    out.extend_from_slice(payload);
    frame::unmask(&mut out[start..], mask);
}

/// Appends a close frame.
pub fn put_close(out: &mut Vec<u8>, code: u16, mask: [u8; 4]) {
    put(out, frame::CLOSE, &code.to_be_bytes(), mask);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tidegate::socket::decoder::{self, Decoder, DecoderConfig};

    /// What comes out of these bytes, cut into pieces of `cut`, in words.
    fn read(bytes: &[u8], cut: usize, deflate: bool) -> Result<Vec<String>, Breach> {
        let (mut reader, mut said) = (Reader::new(1_000, deflate), Vec::new());
        for piece in bytes.chunks(cut) {
            reader.read(piece, &mut |event| {
                said.push(match event {
                    Event::Message { text, payload } => format!("{text} {}", String::from_utf8_lossy(payload)),
                    other => format!("{other:?}"),
                });
                Go::On
            })?;
        }
        assert_eq!((reader.rest.capacity(), reader.pieces.is_none()), (0, true), "nothing is held between messages");
        Ok(said)
    }

    #[test]
    fn frames_are_read_however_they_are_cut() {
        let mut bytes = Vec::new();
        frame::put_plain(&mut bytes, frame::TEXT, b"one");
        frame::put_plain(&mut bytes, frame::PING, b"p");
        bytes.extend_from_slice(&[0x02, 2, b't', b'w', frame::PONG | 0x80, 0, 0x80, 1, b'o']);
        frame::put_plain(&mut bytes, frame::BINARY, &[b'x'; 300]);
        frame::put_plain(&mut bytes, frame::CLOSE, b"\x0f\xa0bye");
        let long = format!("false {}", "x".repeat(300));
        let wanted = ["true one", "Ping([112])", "Pong", "false two", &long, "Close(Some((4000, \"bye\")))"];
        for cut in [1, 2, 3, 7, 1_000] {
            assert_eq!(read(&bytes, cut, false).unwrap(), wanted, "{cut}");
        }
    }

    #[test]
    fn what_a_server_must_not_do_is_found_out() {
        let breaches: [(&[u8], u16); 11] = [
            (&[0x81, 0x80, 0, 0, 0, 0], 1002),
            (&[0x91, 0], 1002),
            (&[0xc1, 0], 1002),
            (&[0x83, 0], 1002),
            (&[0x80, 0], 1002),
            (&[0x01, 0, 0x81, 0], 1002),
            (&[0x09, 0], 1002),
            (&[0x89, 126, 0, 126], 1002),
            (&[0x88, 1, 3], 1002),
            (&[0x88, 2, 3, 237], 1002),
            (&[0x81, 126, 0x03, 0xe9], 1009),
        ];
        for (bytes, code) in breaches {
            assert_eq!(read(bytes, 1_000, false).unwrap_err().code, code, "{bytes:?}");
        }
        let pieces = [&[0x01, 126, 0x03, 0xe8][..], &[b'x'; 1_000], &[0x80, 1, b'y']].concat();
        assert_eq!(read(&pieces, 1_000, false).unwrap_err(), TOO_BIG, "fragments count together");
    }

    #[test]
    fn the_rest_waits_where_it_is_asked_to() {
        let mut bytes = Vec::new();
        frame::put_plain(&mut bytes, frame::TEXT, b"one");
        frame::put_plain(&mut bytes, frame::TEXT, b"two");
        let (mut reader, mut said) = (Reader::new(1_000, false), 0);
        let mut once = |reader: &mut Reader, bytes: &[u8]| {
            reader
                .read(bytes, &mut |_| {
                    said += 1;
                    Go::Wait
                })
                .unwrap();
            (said, reader.has_rest())
        };
        assert_eq!(once(&mut reader, &bytes), (1, true));
        assert_eq!(once(&mut reader, &[]), (2, false));
    }

    #[test]
    fn what_is_written_is_what_the_gateway_reads_compressed_or_not() {
        for (deflate, length) in [(false, 300), (true, 300), (true, 100), (true, 60_000)] {
            let payload: Vec<u8> = (0..length).map(|n: usize| b'a' + (n / 7 % 26) as u8).collect();
            let mut bytes = Vec::new();
            put_message(&mut bytes, true, &payload, deflate, [1, 2, 3, 4]);
            assert_eq!(bytes[0] & COMPRESSED != 0, deflate && length >= WORTH_DEFLATING);
            let config = DecoderConfig { message_bytes: 65_536, fragments: 1, deflate };
            let mut gateway = Decoder::new();
            let (_, event) = gateway.decode(&config, &mut bytes, 0).unwrap();
            assert_eq!(event, Some(decoder::Event::Message { text: true, payload: &payload }));
            let mut back = vec![0xc1, 126];
            let mut smaller = Vec::new();
            deflate::deflate(&payload[..300.min(length)], 15, &mut smaller);
            back.extend_from_slice(&(smaller.len() as u16).to_be_bytes());
            back.extend_from_slice(&smaller);
            let text = String::from_utf8_lossy(&payload[..300.min(length)]).into_owned();
            assert_eq!(read(&back, 5, true).unwrap(), [format!("true {text}")]);
        }
    }
}
