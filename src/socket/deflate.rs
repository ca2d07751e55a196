//! permessage-deflate (RFC 7692), always without context takeover: a connection holds no window, each thread has one
//! inflater and one deflater that are reset for every message.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::protocol::close::CloseReason;
use crate::socket::decoder::Violation;

/// What a sender leaves off the end of a compressed message (RFC 7692, section 7.2.1) ...
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// ... and, after it, an empty last block: where it is not read as one, the message was cut off.
const END: [u8; 6] = [0, 0, 0xff, 0xff, 0x03, 0x00];

/// Deflate streams that may follow each other in one message. Clients write one, at most one for each fragment; each
/// costs a reset of the inflater, so two bytes must not buy one without end.
const STREAMS: usize = 128;

const MIN_WINDOW_BITS: u8 = 9;
const MAX_WINDOW_BITS: u8 = 15;

const BAD_DATA: Violation = Violation::new(CloseReason::InvalidPayload, "compressed message that cannot be inflated");
const TOO_BIG: Violation = Violation::new(CloseReason::TooBig, "message above the size limit once inflated");

/// What was agreed with one client about compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// The client's bound on our window, where it set one: 9 to 15.
    server_max_window_bits: Option<u8>,
}

impl Negotiated {
    /// The base-2 logarithm of the largest window we may compress with: 9 to 15.
    pub const fn window_bits(self) -> u8 {
        match self.server_max_window_bits {
            Some(bits) => bits,
            None => MAX_WINDOW_BITS,
        }
    }

    /// The value of `Sec-WebSocket-Extensions` in the answer.
    pub const fn response(self) -> &'static str {
        macro_rules! answer {
            ($($more:literal)?) => {
                concat!("permessage-deflate; server_no_context_takeover; client_no_context_takeover" $(, $more)?)
            };
        }
        match self.server_max_window_bits {
            None => answer!(),
            Some(9) => answer!("; server_max_window_bits=9"),
            Some(10) => answer!("; server_max_window_bits=10"),
            Some(11) => answer!("; server_max_window_bits=11"),
            Some(12) => answer!("; server_max_window_bits=12"),
            Some(13) => answer!("; server_max_window_bits=13"),
            Some(14) => answer!("; server_max_window_bits=14"),
            Some(_) => answer!("; server_max_window_bits=15"),
        }
    }
}

/// Takes the first offer of permessage-deflate that can be honoured. `offers` is the value of `Sec-WebSocket-Extensions`
/// (several header lines joined by commas). Nothing where there is none, or the header is malformed: the connection
/// then goes uncompressed.
pub fn negotiate(offers: &str) -> Option<Negotiated> {
    let mut scanner = Scanner { rest: offers };
    let mut taken = None;
    loop {
        scanner.blanks();
        if scanner.rest.is_empty() {
            return taken;
        }
        // Empty elements of a list are allowed by HTTP.
        if scanner.eat(',') {
            continue;
        }
        let name = scanner.token()?;
        let mut offer = name.eq_ignore_ascii_case("permessage-deflate").then(Offer::default);
        while scanner.eat(';') {
            let (parameter, value) = scanner.parameter()?;
            offer = offer.and_then(|offer| offer.with(parameter, value));
        }
        if !scanner.rest.is_empty() && !scanner.eat(',') {
            return None;
        }
        taken = taken.or(offer.map(|offer| Negotiated { server_max_window_bits: offer.server_bits.flatten() }));
    }
}

/// The parameters of one offer so far; each may come once.
#[derive(Default)]
struct Offer {
    server_no_context: bool,
    client_no_context: bool,
    client_bits: bool,
    server_bits: Option<Option<u8>>,
}

impl Offer {
    /// The offer with one parameter more, or nothing where that declines it.
    fn with(mut self, parameter: &str, value: Option<&str>) -> Option<Self> {
        let repeated = match (parameter, value) {
            ("server_no_context_takeover", None) => std::mem::replace(&mut self.server_no_context, true),
            ("client_no_context_takeover", None) => std::mem::replace(&mut self.client_no_context, true),
            ("client_max_window_bits", value) => {
                // Whatever the client's window is, ours for inflating is the largest.
                value.map_or(Some(0), |value| window_bits(value, 8))?;
                std::mem::replace(&mut self.client_bits, true)
            }
            ("server_max_window_bits", Some(value)) => {
                self.server_bits.replace(Some(window_bits(value, MIN_WINDOW_BITS)?)).is_some()
            }
            _ => return None,
        };
        (!repeated).then_some(self)
    }
}

/// A decimal number without leading zeros, from `least` to 15.
fn window_bits(value: &str, least: u8) -> Option<u8> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit()) && !value.starts_with('0');
    let bits = value.parse().ok().filter(|_| plain)?;
    (least..=MAX_WINDOW_BITS).contains(&bits).then_some(bits)
}

/// Reads the tokens of an extension list (RFC 6455, section 9.1).
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// Takes `mark` and the blanks around it, if it is next.
    fn eat(&mut self, mark: char) -> bool {
        self.blanks();
        let Some(rest) = self.rest.strip_prefix(mark) else { return false };
        self.rest = rest;
        self.blanks();
        true
    }

    fn token(&mut self) -> Option<&'a str> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let end = self.rest.bytes().position(|byte| !is_token(byte)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    /// `name`, `name=token` or `name="token"`.
    fn parameter(&mut self) -> Option<(&'a str, Option<&'a str>)> {
        let name = self.token()?;
        if !self.eat('=') {
            return Some((name, None));
        }
        let Some(quoted) = self.rest.strip_prefix('"') else { return Some((name, Some(self.token()?))) };
        self.rest = quoted;
        let value = self.token()?;
        self.rest = self.rest.strip_prefix('"')?;
        Some((name, Some(value)))
    }
}

thread_local! {
    static INFLATER: RefCell<Option<Decompress>> = const { RefCell::new(None) };
    /// One for each window size that was ever asked for on this thread.
    static DEFLATERS: RefCell<[Option<Compress>; 7]> = const { RefCell::new([const { None }; 7]) };
}

/// Inflates the message `input` into `out`, whose content it replaces; `out` never holds more than `limit` + 1 bytes.
///
/// # Errors
/// [`CloseReason::TooBig`] as soon as the message is above `limit` bytes, [`CloseReason::InvalidPayload`] when `input` is no
/// deflate stream or is cut off. `out` is then to be thrown away.
pub fn inflate(input: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), Violation> {
    out.clear();
    if input.is_empty() {
        // Not quite RFC 7692, which wants one byte for an empty message; clients that send none are understood.
        return Ok(());
    }
    INFLATER.with_borrow_mut(|inflater| {
        let inflater = inflater.get_or_insert_with(|| Decompress::new(false));
        inflater.reset(false);
        let mut rest = input;
        let mut streams = 1;
        // A stream may end inside the message (RFC 7692, section 7.2.3.5); another then begins.
        while inflate_some(inflater, &mut rest, limit, out)? {
            inflater.reset(false);
            streams += 1;
            if rest.is_empty() {
                return Ok(());
            }
            if streams > STREAMS {
                return Err(BAD_DATA);
            }
        }
        let mut end = &END[..];
        if inflate_some(inflater, &mut end, limit, out)? && end.is_empty() { Ok(()) } else { Err(BAD_DATA) }
    })
}

/// Inflates `input` as far as its stream goes, and says whether the stream ended.
fn inflate_some(
    inflater: &mut Decompress,
    input: &mut &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<bool, Violation> {
    loop {
        if out.len() == out.capacity() {
            // One byte above the limit tells a message that fits from one that does not.
            let room = limit.saturating_add(1) - out.len();
            out.reserve_exact(room.min(out.len().max(input.len().saturating_mul(3)).max(256)));
        }
        let (before_in, before_out) = (inflater.total_in(), out.len());
        let status = inflater.decompress_vec(input, out, FlushDecompress::None).map_err(|_| BAD_DATA)?;
        let taken = (inflater.total_in() - before_in) as usize;
        *input = &input[taken..];
        if out.len() > limit {
            return Err(TOO_BIG);
        }
        let stuck = taken == 0 && out.len() == before_out;
        match status {
            Status::StreamEnd => return Ok(true),
            _ if input.is_empty() && out.len() < out.capacity() => return Ok(false),
            _ if stuck => return Err(BAD_DATA),
            _ => {}
        }
    }
}

/// Appends `payload`, compressed with a window of 2^`window_bits` bytes (9 to 15, else the nearest of these), to `out`.
pub fn deflate(payload: &[u8], window_bits: u8, out: &mut Vec<u8>) {
    let bits = window_bits.clamp(MIN_WINDOW_BITS, MAX_WINDOW_BITS);
    DEFLATERS.with_borrow_mut(|deflaters| {
        let deflater = deflaters[usize::from(bits - MIN_WINDOW_BITS)]
            .get_or_insert_with(|| Compress::new_with_window_bits(Compression::fast(), false, bits));
        deflater.reset();
        out.reserve(payload.len() / 2 + 64);
        let mut rest = payload;
        loop {
            let before = deflater.total_in();
            // `compress_vec` fails on misuse of the stream only, which a reset stream does not know.
            let _ = deflater.compress_vec(rest, out, FlushCompress::Sync);
            rest = &rest[(deflater.total_in() - before) as usize..];
            if rest.is_empty() && out.len() < out.capacity() {
                break;
            }
            out.reserve(rest.len() + 64);
        }
        if out.ends_with(&TAIL) {
            out.truncate(out.len() - TAIL.len());
        }
    });
}
