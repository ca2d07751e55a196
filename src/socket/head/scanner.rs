//! The head's grammar, a byte at a time if need be: RFC 9112 without what it lets a server forgive.

use std::fmt;

use http::StatusCode;

use crate::limits::Limits;
use crate::socket::upgrade::Problem;

/// The longest method that is looked at; the longest registered one has 18 letters.
const METHOD_BYTES: usize = 32;
/// A blank, and the version a request line ends with.
const VERSION_BYTES: usize = " HTTP/1.1".len();
/// A length with more digits than this is nobody's.
const LENGTH_DIGITS: usize = 18;

/// What is wrong with a request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// More bytes than `limits.header_bytes`.
    TooLarge,
    /// More lines than `limits.header_lines`.
    TooManyLines,
    /// A longer target than `limits.uri_bytes`.
    UriTooLong,
    /// A line that does not end in CRLF, or a carriage return within one.
    LineEnding,
    /// A control character other than a tab.
    Control,
    /// `PRI * HTTP/2.0`, or what asks for an upgrade to it.
    Http2,
    /// HTTP, but not 1.1.
    Version,
    /// The first line is no request line.
    RequestLine,
    /// A line that begins with a blank.
    Folded,
    /// A header line without a name, or with something in it that no name has.
    HeaderLine,
    /// A length that is no number, or two of them.
    ContentLength,
    /// Both ways to say how long the body is.
    TwoLengths,
    /// A GET with a body.
    Body,
    /// No host.
    HostMissing,
    /// More than one.
    HostTwice,
    /// Something that is no host name, address or port.
    Host,
}

impl HeadError {
    /// The answer to it.
    pub const fn problem(self) -> Problem {
        const BAD: StatusCode = StatusCode::BAD_REQUEST;
        const LARGE: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let (status, detail) = match self {
            Self::TooLarge => (LARGE, "the request's head is too large"),
            Self::TooManyLines => (LARGE, "the request has too many header lines"),
            Self::UriTooLong => (StatusCode::URI_TOO_LONG, "the request's target is too long"),
            Self::LineEnding => (BAD, "a line of the request's head must end in CR LF, and hold neither alone"),
            Self::Control => (BAD, "the request's head holds a control character; is this TLS on a plain port?"),
            Self::Http2 => (BAD, "HTTP/2 is not spoken here: use HTTP/1.1"),
            Self::Version => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "use HTTP/1.1"),
            Self::RequestLine => (BAD, "the first line must be METHOD target HTTP/1.1"),
            Self::Folded => (BAD, "a header line must not begin with a blank"),
            Self::HeaderLine => (BAD, "a header line must be a name of letters, digits and hyphens, a colon, a value"),
            Self::ContentLength => (BAD, "Content-Length must be one number"),
            Self::TwoLengths => (BAD, "Content-Length and Transfer-Encoding exclude each other"),
            Self::Body => (BAD, "a GET must not announce a body"),
            Self::HostMissing => (BAD, "the Host header is missing"),
            Self::HostTwice => (BAD, "there must be only one Host header"),
            Self::Host => (BAD, "the Host header must be host or host:port"),
        };
        Problem::new(status, detail)
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.problem().detail)
    }
}

impl std::error::Error for HeadError {}

/// Headers that mean something before there is a request.
#[derive(Debug, Default)]
struct Seen {
    bodiless_method: bool,
    host: bool,
    content_length: Option<bool>,
    transfer_encoding: bool,
}

/// Collects a head and checks each line once, when it is complete.
#[derive(Debug)]
pub struct HeadScanner {
    header_bytes: usize,
    header_lines: usize,
    uri_bytes: usize,
    bytes: Vec<u8>,
    /// Where the line that is not complete yet begins.
    line: usize,
    /// How far its end was looked for.
    looked: usize,
    /// Complete lines, the request line included.
    lines: usize,
    seen: Seen,
    complete: bool,
}

impl HeadScanner {
    /// One that has read nothing, bounded by `header_bytes`, `header_lines` and `uri_bytes`.
    pub fn new(limits: &Limits) -> Self {
        Self {
            header_bytes: limits.header_bytes,
            header_lines: limits.header_lines,
            uri_bytes: limits.uri_bytes,
            bytes: Vec::new(),
            line: 0,
            looked: 0,
            lines: 0,
            seen: Seen::default(),
            complete: false,
        }
    }

    /// Takes what was received; returns whether the head is complete.
    ///
    /// # Errors
    /// [`HeadError`]; the scanner is of no use after it.
    pub fn feed(&mut self, received: &[u8]) -> Result<bool, HeadError> {
        self.bytes.extend_from_slice(received);
        while !self.complete {
            let rest = self.bytes.get(self.looked..).unwrap_or_default();
            let Some(found) = rest.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t') else {
                self.looked = self.bytes.len();
                break;
            };
            self.looked += found;
            match (rest.get(found), rest.get(found + 1)) {
                (Some(b'\r'), Some(b'\n')) => self.end_line()?,
                (Some(b'\r'), None) => break,
                (Some(b'\r' | b'\n'), _) => return Err(HeadError::LineEnding),
                _ => return Err(HeadError::Control),
            }
        }
        self.check_size()?;
        Ok(self.complete)
    }

    /// The head, and what was received behind it.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn end_line(&mut self) -> Result<(), HeadError> {
        let line = self.bytes.get(self.line..self.looked).unwrap_or_default();
        if self.looked + 2 > self.header_bytes {
            return Err(if self.lines == 0 { HeadError::UriTooLong } else { HeadError::TooLarge });
        }
        if self.lines == 0 {
            self.seen.bodiless_method = request_line(line, self.uri_bytes)?;
        } else if line.is_empty() {
            self.seen.check()?;
            self.complete = true;
        } else if self.lines > self.header_lines {
            return Err(HeadError::TooManyLines);
        } else {
            self.seen.header(line)?;
        }
        self.lines += 1;
        self.looked += 2;
        self.line = self.looked;
        Ok(())
    }

    /// An unfinished line is bounded, too.
    fn check_size(&self) -> Result<(), HeadError> {
        if self.complete {
            return Ok(());
        }
        if self.lines == 0 && self.looked > METHOD_BYTES + self.uri_bytes + VERSION_BYTES {
            return Err(HeadError::UriTooLong);
        }
        if self.bytes.len() > self.header_bytes { Err(HeadError::TooLarge) } else { Ok(()) }
    }
}

/// Checks a request line; returns whether its method is one without a body.
fn request_line(line: &[u8], uri_bytes: usize) -> Result<bool, HeadError> {
    if line == b"PRI * HTTP/2.0" {
        return Err(HeadError::Http2);
    }
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(HeadError::RequestLine);
    };
    if target.len() > uri_bytes {
        return Err(HeadError::UriTooLong);
    }
    if !is_token(method) || method.len() > METHOD_BYTES || target.is_empty() || !target.iter().all(u8::is_ascii_graphic)
    {
        return Err(HeadError::RequestLine);
    }
    match version {
        b"HTTP/1.1" => Ok(matches!(method, b"GET" | b"HEAD")),
        [b'H', b'T', b'T', b'P', b'/', major, rest @ ..] if major.is_ascii_digit() && rest.len() <= 2 => {
            Err(HeadError::Version)
        }
        _ => Err(HeadError::RequestLine),
    }
}

impl Seen {
    fn header(&mut self, line: &[u8]) -> Result<(), HeadError> {
        if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(HeadError::Folded);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(HeadError::HeaderLine)?;
        let (name, value) = line.split_at(colon);
        if !is_token(name) {
            return Err(HeadError::HeaderLine);
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"host") {
            return self.host(value);
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let digits = !value.is_empty() && value.len() <= LENGTH_DIGITS && value.iter().all(u8::is_ascii_digit);
            if !digits || self.content_length.is_some() {
                return Err(HeadError::ContentLength);
            }
            self.content_length = Some(value.iter().any(|digit| *digit != b'0'));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.transfer_encoding = true;
        } else if name.eq_ignore_ascii_case(b"http2-settings") {
            return Err(HeadError::Http2);
        }
        Ok(())
    }

    fn host(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.host {
            return Err(HeadError::HostTwice);
        }
        self.host = true;
        if is_host(value) { Ok(()) } else { Err(HeadError::Host) }
    }

    fn check(&self) -> Result<(), HeadError> {
        if self.transfer_encoding && self.content_length.is_some() {
            return Err(HeadError::TwoLengths);
        }
        if self.bodiless_method && (self.transfer_encoding || self.content_length == Some(true)) {
            return Err(HeadError::Body);
        }
        if self.host { Ok(()) } else { Err(HeadError::HostMissing) }
    }
}

/// A name as HTTP has it for methods and headers.
fn is_token(name: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(allowed)
}

/// `host`, `host:port`, `[address]` or `[address]:port`. Narrower than a URI's authority: nobody's name has more in it.
fn is_host(value: &[u8]) -> bool {
    let (host_end, name): (_, fn(&u8) -> bool) = if value.first() == Some(&b'[') {
        let end = value.iter().position(|byte| *byte == b']').map_or(0, |at| at + 1);
        (end, |byte| byte.is_ascii_hexdigit() || b"[]:.".contains(byte))
    } else {
        let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
        (end, |byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(byte))
    };
    let (host, port) = value.split_at(host_end);
    let port_is_good = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && host.iter().all(name) && port_is_good
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "GET /v1/device?boot=b HTTP/1.1\r\nHost: gateway:8443\r\nUpgrade: websocket\r\nX:\r\n\r\n";

    /// How the head is judged, however it is cut.
    fn judge(head: impl AsRef<[u8]>) -> Result<bool, HeadError> {
        let head = head.as_ref();
        let whole = HeadScanner::new(&Limits::default()).feed(head);
        let mut scanner = HeadScanner::new(&Limits::default());
        let bytewise = head.iter().try_fold(false, |_, byte| scanner.feed(&[*byte]));
        assert_eq!(whole, bytewise, "{:?}", String::from_utf8_lossy(head));
        whole
    }

    fn with(line: &str) -> String {
        format!("GET / HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n")
    }

    fn status(head: impl AsRef<[u8]>) -> u16 {
        judge(head).unwrap_err().problem().status.as_u16()
    }

    #[test]
    fn a_head_is_complete_at_its_last_byte() {
        assert_eq!(judge(GOOD), Ok(true));
        assert_eq!(judge(&GOOD[..GOOD.len() - 1]), Ok(false));
        for host in ["h", "10.0.0.1:80", "[::1]", "[::1]:8443", "a_b.example", "xn--bcher-kva.example:"] {
            assert_eq!(judge(GOOD.replace("gateway:8443", host)), Ok(true), "{host}");
        }
        assert_eq!(judge(with("Content-Length: 0")), Ok(true));
        assert_eq!(judge("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"), Ok(true));
    }

    #[test]
    fn case_25_a_hundred_header_lines_are_taken_and_one_more_is_not() {
        let lines = |count: usize| with(&vec!["X-A: b"; count - 1].join("\r\n"));
        assert_eq!(judge(lines(100)), Ok(true));
        assert_eq!(status(lines(101)), 431);
    }

    #[test]
    fn case_26_a_header_without_an_end_is_read_no_further_than_the_bound() {
        let limits = Limits::default();
        let mut scanner = HeadScanner::new(&limits);
        scanner.feed(b"GET / HTTP/1.1\r\nHost: h\r\nX-A: ").unwrap();
        let packets = (0..).take_while(|_| scanner.feed(&[b'a'; 100]).is_ok()).count();
        assert!(packets * 100 <= limits.header_bytes, "{packets}");
        assert_eq!(status(with(&format!("X-A: {}", "a".repeat(1 << 20)))), 431);
    }

    #[test]
    fn case_28_what_hyper_would_forgive_is_not_forgiven() {
        for bad in [
            "GET / HTTP/1.1\nHost: h\n\n",
            "GET / HTTP/1.1\r\nHost: h\r\nX: a\nY: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nX: a\x7f\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\n: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /\t HTTP/1.1\r\nHost: h\r\n\r\n",
            "G(T / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /\r\nHost: h\r\n\r\n",
            "hello\r\n",
        ] {
            assert_eq!(status(bad), 400, "{bad:?}");
        }
        assert_eq!(status(b"GET / HTTP/1.1\r\nHost: h\r\nX\x80: a\r\n\r\n"), 400);
        assert_eq!(status(b"GET /\x80 HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
        assert_eq!(judge(b"GET / HTTP/1.1\r\nHost: h\r\nX: \xc3\xa4\r\n\r\n"), Ok(true));
        // A ClientHello is refused at its first byte.
        assert_eq!(judge([0x16]), Err(HeadError::Control));
    }

    #[test]
    fn case_29_two_ways_to_say_the_length_are_refused() {
        assert_eq!(judge(with("Content-Length: 0\r\nTransfer-Encoding: chunked")), Err(HeadError::TwoLengths));
        for length in ["", "+1", "1,1", "0x1", "1 1", "1\r\nContent-Length: 1", "9999999999999999999"] {
            assert_eq!(judge(with(&format!("Content-Length: {length}"))), Err(HeadError::ContentLength), "{length:?}");
        }
    }

    #[test]
    fn case_31_a_body_on_a_get_is_refused() {
        assert_eq!(judge(with("Transfer-Encoding: chunked")), Err(HeadError::Body));
        assert_eq!(judge(with("content-length: 1")), Err(HeadError::Body));
        assert_eq!(judge(with("Content-Length: 00010")), Err(HeadError::Body));
    }

    #[test]
    fn case_32_a_target_of_8_kib_is_taken_and_one_byte_more_is_not() {
        let target = |bytes: usize| GOOD.replace("/v1/device?boot=b", &format!("/{}", "a".repeat(bytes - 1)));
        assert_eq!(judge(target(8 * 1024)), Ok(true));
        assert_eq!(status(target(8 * 1024 + 1)), 414);
        assert_eq!(status(format!("GET /{}", "a".repeat(9 * 1024))), 414);
    }

    #[test]
    fn case_34_there_is_exactly_one_host_and_it_is_one() {
        assert_eq!(judge("GET / HTTP/1.1\r\nA: b\r\n\r\n"), Err(HeadError::HostMissing));
        assert_eq!(judge(with("hOST: h")), Err(HeadError::HostTwice));
        for host in ["", "a b", "a\tb", "a/b", "a@b", "a?b", "h:x", "h:123456", "[::1", "[::1]x", "a,b", "a\"b", ":80"]
        {
            let head = GOOD.replace("gateway:8443", host);
            assert_eq!(judge(&head), Err(HeadError::Host), "{host:?}");
        }
        assert_eq!(status(GOOD.replace("gateway", "gate\u{1}way")), 400);
    }

    #[test]
    fn case_170_http_2_and_other_versions_are_told_to_use_1_1() {
        assert_eq!(judge("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Err(HeadError::Http2));
        assert_eq!(judge(with("HTTP2-Settings: AAMAAABkAAQAAP__")), Err(HeadError::Http2));
        for version in ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/3"] {
            assert_eq!(status(GOOD.replace("HTTP/1.1", version)), 505, "{version}");
        }
        assert_eq!(status(GOOD.replace("HTTP/1.1", "HTTQ/1.1")), 400);
    }

    proptest! {
        #[test]
        fn a_verdict_does_not_depend_on_how_the_bytes_came(
            head in proptest::collection::vec(prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), Just(b'a'), any::<u8>()
            ], 0..200),
            cut in 0_usize..200,
        ) {
            let head = [b"GET / HTTP/1.1\r\nHost: h\r\n", head.as_slice(), b"\r\n\r\n"].concat();
            let (first, second) = head.split_at(cut.min(head.len()));
            let mut scanner = HeadScanner::new(&Limits::default());
            let cut = scanner.feed(first).and_then(|complete| if complete { Ok(true) } else { scanner.feed(second) });
            prop_assert_eq!(cut, HeadScanner::new(&Limits::default()).feed(&head));
        }
    }
}
