//! W3C trace context: which trace, which span of it, and whether it is sampled.

use std::fmt;

use crate::id::{CommandId, SessionId};

/// `00-` and 32, 16 and 2 hex digits with dashes between.
const TEXT_BYTES: usize = 55;
const SAMPLED: u8 = 1;

/// One span's place: what others hold on to, as parent or link.
#[derive(Clone, Copy)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    is_sampled: bool,
    is_remote: bool,
}

/// The same as it goes into a header `traceparent`.
#[derive(Clone, Copy)]
pub struct TraceText([u8; TEXT_BYTES]);

impl TraceText {
    /// As text.
    pub fn as_str(&self) -> &str {
        // It is made of hex digits and dashes.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl TraceContext {
    /// The first span of a new trace.
    pub fn draw() -> Self {
        Self::of(fastrand::u128(..), fastrand::u64(..))
    }

    /// That of a connection's handshake, whose trace is the session's id written twice and whose span is that id: who knows
    /// the session can link to it, and nobody has to keep it.
    pub fn of_handshake(session: SessionId) -> Self {
        let bits = session.bits();
        Self::of(u128::from(bits) << 64 | u128::from(bits), bits)
    }

    /// The first span of a command's own trace: the trace has the command's id.
    pub fn of_command(id: CommandId) -> Self {
        let bits = id.bits();
        Self::of(bits, (bits >> 64) as u64)
    }

    /// Sampled, and of this process. An id of zeros would be none.
    fn of(trace: u128, span: u64) -> Self {
        Self { trace: trace.max(1), span: span.max(1), is_sampled: true, is_remote: false }
    }

    /// Reads a `traceparent`: version 00, or what a later version says in the same place. Nothing where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.split_at_checked(TEXT_BYTES)?;
        let mut parts = head.split('-');
        let [version, trace, span, flags] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let version = digits(version, 2)?;
        let is_whole = parts.next().is_none() && (rest.is_empty() || (version > 0 && rest.starts_with('-')));
        let (trace, span) = (digits(trace, 32)?, u64::try_from(digits(span, 16)?).ok()?);
        let is_sampled = digits(flags, 2)? & u128::from(SAMPLED) != 0;
        let is_one = is_whole && version != 0xff && trace != 0 && span != 0;
        is_one.then_some(Self { trace, span, is_sampled, is_remote: true })
    }

    /// As it goes into a header.
    pub fn text(self) -> TraceText {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(self.trace, text.get_mut(3..35));
        hex(self.span.into(), text.get_mut(36..52));
        hex(u128::from(self.is_sampled), text.get_mut(53..55));
        TraceText(text)
    }

    /// A new span of the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span: fastrand::u64(1..), is_remote: false, ..self }
    }

    /// The trace's id.
    pub const fn trace_id(self) -> u128 {
        self.trace
    }

    /// The span's id.
    pub const fn span_id(self) -> u64 {
        self.span
    }

    /// Whether its spans go to a collector.
    pub const fn is_sampled(self) -> bool {
        self.is_sampled
    }

    /// Whether it came from outside of this process.
    pub const fn is_remote(self) -> bool {
        self.is_remote
    }
}

/// Where it came from makes no other of it.
impl PartialEq for TraceContext {
    fn eq(&self, other: &Self) -> bool {
        (self.trace, self.span, self.is_sampled) == (other.trace, other.span, other.is_sampled)
    }
}

impl Eq for TraceContext {}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// So many hex digits in lower case, as the standard wants them.
fn digits(text: &str, count: usize) -> Option<u128> {
    let fits = text.len() == count && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if fits { u128::from_str_radix(text, 16).ok() } else { None }
}

fn hex(mut value: u128, digits: Option<&mut [u8]>) {
    for digit in digits.into_iter().flatten().rev() {
        let nibble = (value & 15) as u8;
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        value >>= 4;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::id::DeviceKey;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_written_is_read_again() {
        let read = TraceContext::parse(GOOD).unwrap();
        assert_eq!(read.text().as_str(), GOOD);
        assert!(read.is_sampled() && read.is_remote());
        let drawn = TraceContext::draw();
        assert_eq!(TraceContext::parse(drawn.text().as_str()), Some(drawn));
        let quiet = TraceContext::parse(&GOOD.replace("-01", "-00")).unwrap();
        assert!(!quiet.is_sampled() && quiet.text().as_str().ends_with("-00"));
        let later = format!("{}-more", GOOD.replacen("00", "cc", 1));
        assert_eq!(TraceContext::parse(&later).map(TraceContext::trace_id), Some(read.trace_id()));
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        let zeros = ("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000");
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("{GOOD}0"),
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replace(zeros.0, zeros.1),
            &GOOD.replace("b7ad6b7169203331", "0000000000000000"),
            &GOOD.replace("-b7", "_b7"),
            &GOOD.replace("c8", "+8"),
            &"\u{e9}".repeat(28),
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_has_a_name_has_a_trace_that_follows_from_it() {
        let session = SessionId::from_bits(0xff);
        let shook = TraceContext::of_handshake(session).text();
        assert_eq!(shook.as_str(), "00-00000000000000ff00000000000000ff-00000000000000ff-01");
        let id = CommandId::of(&DeviceKey::new("t", "d").unwrap(), "app", "k");
        let own = TraceContext::of_command(id);
        assert_eq!(format!("{:032x}", own.trace_id()), id.to_string());
        assert_eq!(own, TraceContext::of_command(id));
        assert_ne!(TraceContext::of_handshake(SessionId::from_bits(0)).trace_id(), 0);
    }
}
