//! The WebSocket frame reader: bytes of a client in, whole messages and control frames out. No I/O and no clock.
//!
//! A frame that lies whole in the input is unmasked where it lies and handed over without a copy. What comes in pieces
//! is kept on the heap, grown with what has arrived and never by the length announced, and given back as soon as the
//! message was handed over: a quiet connection holds one pointer here.

use crate::protocol::close::CloseReason;
use crate::socket::deflate;

/// Largest payload of a control frame (RFC 6455, section 5.5).
const CONTROL_BYTES: usize = 125;
/// Longest header of a client's frame: two bytes, eight of length, four of mask.
const HEADER_BYTES: usize = 14;

/// What the decoder is bound by. The same for all connections, but for `deflate`.
#[derive(Debug, Clone, Copy)]
pub struct DecoderConfig {
    /// Largest message in bytes: the sum of its frames, and its inflated size.
    pub message_bytes: usize,
    /// Most frames a message may come in.
    pub fragments: usize,
    /// Whether permessage-deflate was negotiated.
    pub deflate: bool,
}

impl DecoderConfig {
    /// Most payload bytes a message may have on the wire. What deflate cannot shrink grows by its block headers, so a
    /// compressed message gets a little more than it may have inflated.
    fn wire_bytes(&self, compressed: bool) -> usize {
        if compressed { self.message_bytes.saturating_add(self.message_bytes / 64 + 64) } else { self.message_bytes }
    }
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message: unmasked, inflated, and valid UTF-8 where it is text.
    Message {
        /// Whether it came in text frames.
        text: bool,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// A ping, at most 125 bytes; to be answered by a pong of the same payload.
    Ping(&'a [u8]),
    /// A pong, at most 125 bytes.
    Pong(&'a [u8]),
    /// A close frame with a valid code and reason, or with an empty body. What follows it is not to be read.
    Close(Option<(u16, &'a str)>),
}

/// A breach of the frame protocol. The connection ends with `close`; the decoder must not be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// How to close.
    pub close: CloseReason,
    /// What the client did, for the log and the close frame; at most 123 bytes.
    pub what: &'static str,
}

impl Violation {
    /// A breach, closed as `close`.
    pub(crate) const fn new(close: CloseReason, what: &'static str) -> Self {
        Self { close, what }
    }
}

const fn protocol_error(what: &'static str) -> Violation {
    Violation::new(CloseReason::ProtocolError, what)
}

const TOO_BIG: Violation = Violation::new(CloseReason::TooBig, "message above the size limit");
const NOT_UTF8: Violation = Violation::new(CloseReason::InvalidPayload, "text that is not UTF-8");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Kind {
    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A frame whose header is known.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    fin: bool,
    compressed: bool,
    /// The mask, turned so that it begins with the byte due next.
    mask: [u8; 4],
    /// Payload bytes still to come.
    left: u64,
}

impl Frame {
    /// Reads a header from the front of `bytes`: the frame and the header's length, or nothing while it is not whole.
    /// Every check is made at the first byte that can fail it, so the verdict does not depend on how bytes are cut.
    fn parse(bytes: &[u8], deflate: bool) -> Result<Option<(Self, usize)>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & 0x30 != 0 {
            return Err(protocol_error("reserved bit set"));
        }
        let kind = match first & 0x0f {
            0 => Kind::Continuation,
            1 => Kind::Text,
            2 => Kind::Binary,
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            _ => return Err(protocol_error("reserved opcode")),
        };
        let compressed = first & 0x40 != 0;
        if compressed && !(deflate && matches!(kind, Kind::Text | Kind::Binary)) {
            return Err(protocol_error("RSV1 set where nothing was negotiated for it"));
        }
        let fin = first & 0x80 != 0;
        if kind.is_control() && !fin {
            return Err(protocol_error("fragmented control frame"));
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & 0x80 == 0 {
            return Err(protocol_error("client frame without a mask"));
        }
        if kind.is_control() && usize::from(second & 0x7f) > CONTROL_BYTES {
            return Err(protocol_error("control frame above 125 bytes"));
        }
        let Some((left, at)) = parse_length(second & 0x7f, &bytes[2..])? else { return Ok(None) };
        let Some(mask) = bytes.get(2 + at..).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
        Ok(Some((Self { kind, fin, compressed, mask: *mask, left }, 2 + at + 4)))
    }

    /// Unmasks the next `piece` of the payload.
    fn unmask(&mut self, piece: &mut [u8]) {
        fastwebsockets::unmask(piece, self.mask);
        self.mask.rotate_left(piece.len() & 3);
        self.left -= piece.len() as u64;
    }
}

/// The payload length for the length byte `code`, and how many bytes of `rest` tell it.
fn parse_length(code: u8, rest: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    const NOT_MINIMAL: Violation = protocol_error("length not in its shortest form");
    match code {
        126 => {
            let Some(bytes) = rest.first_chunk::<2>() else { return Ok(None) };
            let length = u64::from(u16::from_be_bytes(*bytes));
            if length < 126 { Err(NOT_MINIMAL) } else { Ok(Some((length, 2))) }
        }
        127 => {
            if rest.first().is_some_and(|top| top & 0x80 != 0) {
                return Err(protocol_error("length with its top bit set"));
            }
            let Some(bytes) = rest.first_chunk::<8>() else { return Ok(None) };
            let length = u64::from_be_bytes(*bytes);
            if length < 0x1_0000 { Err(NOT_MINIMAL) } else { Ok(Some((length, 8))) }
        }
        short => Ok(Some((u64::from(short), 0))),
    }
}

/// A message of which not all frames are here.
#[derive(Debug, Clone, Copy)]
struct Assembly {
    text: bool,
    compressed: bool,
    /// Frames begun so far.
    fragments: usize,
}

/// Which buffer of [`Partial`] was lent to the last event, to be given back at the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lent {
    Nothing,
    Message,
    Control,
}

/// What is kept of a message or frame that is not whole.
#[derive(Debug)]
struct Partial {
    since_ms: u64,
    /// The message's bytes so far, or the message lent to the last event.
    payload: Vec<u8>,
    message: Option<Assembly>,
    /// The frame whose payload is not whole.
    frame: Option<Frame>,
    header: [u8; HEADER_BYTES],
    header_len: u8,
    control: [u8; CONTROL_BYTES],
    control_len: u8,
    lent: Lent,
}

impl Partial {
    fn new(since_ms: u64) -> Self {
        Self {
            since_ms,
            payload: Vec::new(),
            message: None,
            frame: None,
            header: [0; HEADER_BYTES],
            header_len: 0,
            control: [0; CONTROL_BYTES],
            control_len: 0,
            lent: Lent::Nothing,
        }
    }

    /// Completes the header kept from earlier input: the frame and how many bytes of `input` it took.
    fn continue_header(&mut self, input: &[u8], deflate: bool) -> Result<Option<(Frame, usize)>, Violation> {
        for (at, &byte) in input.iter().enumerate() {
            let len = usize::from(self.header_len);
            self.header[len] = byte;
            self.header_len += 1;
            if let Some((frame, _)) = Frame::parse(&self.header[..=len], deflate)? {
                self.header_len = 0;
                return Ok(Some((frame, at + 1)));
            }
        }
        Ok(None)
    }

    /// Keeps the first bytes of a header.
    fn keep_header(&mut self, bytes: &[u8]) {
        self.header[..bytes.len()].copy_from_slice(bytes);
        self.header_len = bytes.len() as u8;
    }

    /// Enters the first byte of `frame` into the books of its message.
    fn begin(&mut self, frame: &Frame) {
        match (frame.kind, &mut self.message) {
            (Kind::Continuation, Some(message)) => message.fragments += 1,
            (Kind::Text | Kind::Binary, message) => {
                let text = frame.kind == Kind::Text;
                *message = Some(Assembly { text, compressed: frame.compressed, fragments: 1 });
            }
            _ => self.control_len = 0,
        }
    }

    /// Keeps a piece of payload. `limit` is what the message may come to: the buffer is never larger.
    fn append(&mut self, kind: Kind, piece: &[u8], limit: usize) {
        if kind.is_control() {
            let start = usize::from(self.control_len);
            self.control[start..start + piece.len()].copy_from_slice(piece);
            self.control_len += piece.len() as u8;
            return;
        }
        let needed = self.payload.len() + piece.len();
        if needed > self.payload.capacity() {
            let size = needed.max(2 * self.payload.capacity()).min(limit.max(needed));
            self.payload.reserve_exact(size - self.payload.len());
        }
        self.payload.extend_from_slice(piece);
    }
}

/// The reader of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Nothing while the connection is between messages.
    partial: Option<Box<Partial>>,
}

/// Where the payload of a whole frame or message lies.
enum Whole {
    /// A control frame or an unfragmented message, in these bytes of the input.
    Input(Frame, std::ops::Range<usize>),
    /// A control frame, in `Partial::control`.
    Control(Kind),
    /// A message, in `Partial::payload`.
    Message(Assembly),
}

impl Decoder {
    /// A reader at the start of a connection.
    pub const fn new() -> Self {
        Self { partial: None }
    }

    /// Reads from the front of `input`, which is unmasked in place, up to the end of the next event: how many bytes were
    /// used, and the event. Without an event all of `input` was used and more is needed. `now_ms` is any clock that
    /// does not go back; it only shows in [`Self::assembling_since`].
    ///
    /// Call it until no event comes, with the rest of the input each time: the call after an event gives back the
    /// memory the event stood in.
    ///
    /// # Errors
    /// The first breach of the protocol, with the close code it asks for.
    pub fn decode<'a>(
        &'a mut self,
        config: &DecoderConfig,
        input: &'a mut [u8],
        now_ms: u64,
    ) -> Result<(usize, Option<Event<'a>>), Violation> {
        self.take_back();
        let mut used = 0;
        let whole = loop {
            let Some((mut frame, taken, fresh)) = self.next_frame(config, &input[used..], now_ms)? else {
                return Ok((input.len(), None));
            };
            used += taken;
            let rest = &mut input[used..];
            let here = usize::try_from(frame.left).map_or(rest.len(), |left| left.min(rest.len()));
            let piece = &mut rest[..here];
            frame.unmask(piece);
            let range = used..used + here;
            used += here;
            if fresh && frame.left == 0 && frame.fin && frame.kind != Kind::Continuation {
                self.settle();
                break Whole::Input(frame, range);
            }
            if let Some(whole) = self.keep(config, frame, piece, fresh, now_ms) {
                break whole;
            }
        };
        Ok((used, Some(self.event(config, whole, input)?)))
    }

    /// When the first byte of the message or frame that is not whole yet came, in the caller's milliseconds.
    pub fn assembling_since(&self) -> Option<u64> {
        let partial = self.partial.as_deref()?;
        let idle = match partial.lent {
            Lent::Nothing => false,
            Lent::Message => true,
            Lent::Control => partial.message.is_none(),
        };
        (!idle).then_some(partial.since_ms)
    }

    /// Nothing is read just now: what is not whole has its time anew, since its rest may long be here.
    pub fn not_reading(&mut self, now_ms: u64) {
        if let Some(partial) = &mut self.partial {
            partial.since_ms = now_ms;
        }
    }

    /// Heap bytes held.
    pub fn held_bytes(&self) -> usize {
        self.partial.as_deref().map_or(0, |partial| size_of::<Partial>() + partial.payload.capacity())
    }

    fn partial(&mut self, now_ms: u64) -> &mut Partial {
        self.partial.get_or_insert_with(|| Box::new(Partial::new(now_ms)))
    }

    /// Takes back what the last event was lent.
    fn take_back(&mut self) {
        let Some(partial) = self.partial.as_deref_mut() else { return };
        match std::mem::replace(&mut partial.lent, Lent::Nothing) {
            Lent::Nothing => {}
            Lent::Message => self.partial = None,
            Lent::Control => self.settle(),
        }
    }

    /// Frees everything, unless a message is being assembled.
    fn settle(&mut self) {
        self.partial.take_if(|partial| partial.message.is_none());
    }

    /// The frame that the front of `input` belongs to, how many bytes its header takes there, and whether its payload
    /// begins here.
    fn next_frame(
        &mut self,
        config: &DecoderConfig,
        input: &[u8],
        now_ms: u64,
    ) -> Result<Option<(Frame, usize, bool)>, Violation> {
        let partial = self.partial.as_deref_mut();
        let message = partial.as_ref().and_then(|partial| partial.message.map(|it| (it, partial.payload.len())));
        let read = match partial {
            Some(Partial { frame: open @ Some(_), .. }) => {
                // An open frame stays where it is until there is something to read.
                let frame = if input.is_empty() { None } else { open.take() };
                return Ok(frame.map(|frame| (frame, 0, false)));
            }
            Some(partial) if partial.header_len > 0 => partial.continue_header(input, config.deflate)?,
            _ => {
                let read = Frame::parse(input, config.deflate)?;
                if read.is_none() && !input.is_empty() {
                    self.partial(now_ms).keep_header(input);
                }
                read
            }
        };
        let Some((frame, taken)) = read else { return Ok(None) };
        admit(config, &frame, message)?;
        Ok(Some((frame, taken, true)))
    }

    /// Keeps the payload of a frame that cannot be handed over as it lies; what became whole by it.
    fn keep(&mut self, config: &DecoderConfig, frame: Frame, piece: &[u8], fresh: bool, now_ms: u64) -> Option<Whole> {
        let partial = self.partial(now_ms);
        if fresh {
            partial.begin(&frame);
        }
        let compressed = partial.message.is_some_and(|message| message.compressed);
        partial.append(frame.kind, piece, config.wire_bytes(compressed));
        if frame.left > 0 {
            partial.frame = Some(frame);
            return None;
        }
        if frame.kind.is_control() {
            partial.lent = Lent::Control;
            return Some(Whole::Control(frame.kind));
        }
        let message = partial.message.filter(|_| frame.fin)?;
        partial.message = None;
        partial.lent = Lent::Message;
        Some(Whole::Message(message))
    }

    /// Makes the event of what is whole, inflating and checking it.
    fn event<'a>(&'a mut self, config: &DecoderConfig, whole: Whole, input: &'a [u8]) -> Result<Event<'a>, Violation> {
        let (text, payload) = match whole {
            Whole::Input(frame, range) => {
                let payload = &input[range];
                match frame.kind {
                    kind if kind.is_control() => return control_event(kind, payload),
                    kind if frame.compressed => {
                        // The inflated message needs a place; it is given back like an assembled one.
                        let partial = self.partial(0);
                        partial.lent = Lent::Message;
                        deflate::inflate(payload, config.message_bytes, &mut partial.payload)?;
                        (kind == Kind::Text, &partial.payload[..])
                    }
                    kind => (kind == Kind::Text, payload),
                }
            }
            Whole::Control(kind) => {
                let partial = self.partial(0);
                return control_event(kind, &partial.control[..usize::from(partial.control_len)]);
            }
            Whole::Message(message) => {
                let partial = self.partial(0);
                if message.compressed {
                    let packed = std::mem::take(&mut partial.payload);
                    deflate::inflate(&packed, config.message_bytes, &mut partial.payload)?;
                }
                (message.text, &partial.payload[..])
            }
        };
        if text && simdutf8::basic::from_utf8(payload).is_err() {
            return Err(NOT_UTF8);
        }
        Ok(Event::Message { text, payload })
    }
}

/// Whether `frame` may come now. `message` is the message under way and its bytes so far.
fn admit(config: &DecoderConfig, frame: &Frame, message: Option<(Assembly, usize)>) -> Result<(), Violation> {
    let first = matches!(frame.kind, Kind::Text | Kind::Binary);
    if frame.kind.is_control() {
        return Ok(());
    }
    let (fragments, held, compressed) = match message {
        Some(_) if first => return Err(protocol_error("new message inside a fragmented one")),
        None if !first => return Err(protocol_error("continuation of no message")),
        Some((message, held)) => (message.fragments, held, message.compressed),
        None => (0, 0, frame.compressed),
    };
    if fragments >= config.fragments {
        return Err(Violation::new(CloseReason::PolicyViolation, "message in too many fragments"));
    }
    // A length that is no usize is too big, too; `held` is within the limit already.
    let room = (config.wire_bytes(compressed) - held) as u64;
    if frame.left > room { Err(TOO_BIG) } else { Ok(()) }
}

fn control_event(kind: Kind, payload: &[u8]) -> Result<Event<'_>, Violation> {
    match kind {
        Kind::Ping => Ok(Event::Ping(payload)),
        Kind::Close => close_event(payload).map(Event::Close),
        _ => Ok(Event::Pong(payload)),
    }
}

/// Reads the body of a close frame.
fn close_event(payload: &[u8]) -> Result<Option<(u16, &str)>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(protocol_error("close frame with a body of one byte")) };
    };
    let code = u16::from_be_bytes(*code);
    // What RFC 6455 and the IANA registry let stand in a frame, and the private ranges.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(protocol_error("close code that may not be sent"));
    }
    match simdutf8::basic::from_utf8(reason) {
        Ok(reason) => Ok(Some((code, reason))),
        Err(_) => Err(Violation::new(CloseReason::InvalidPayload, "close reason that is not UTF-8")),
    }
}
