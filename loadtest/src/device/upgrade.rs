//! The handshake of a device: its request, and what the gateway answered.

use std::io;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::Error;
use super::options::Options;
use super::stream::Stream;

/// What RFC 6455 appends to a key before hashing it.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The largest head, and the most read of a refusal's body.
const HEAD_BYTES: usize = 16 * 1024;
const HEADER_LINES: usize = 64;
/// How long the rest of a refusal is waited for.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
const OFFER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What was agreed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Both sides may compress.
    pub(super) deflate: bool,
    /// What came behind the answer.
    pub(super) rest: Vec<u8>,
}

/// Asks for the WebSocket.
pub(super) async fn upgrade(
    stream: &mut Stream,
    options: &Options,
    boot: &str,
    token: Option<&str>,
    key: [u8; 16],
) -> Result<Agreed, Error> {
    let key = STANDARD.encode(key);
    let request = request(options, boot, token, &key)?;
    stream.write_all(request.as_bytes()).await.map_err(Error::Broken)?;
    stream.flush().await.map_err(Error::Broken)?;
    let mut input = Vec::new();
    loop {
        if read_more(stream, &mut input).await.map_err(Error::Broken)? == 0 {
            return Err(Error::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        let Some(head) = Head::parse(&input)? else {
            if input.len() > HEAD_BYTES {
                return Err(Error::Handshake("the answer's head is above 16 KiB".into()));
            }
            continue;
        };
        if head.status != 101 {
            // What there is of a body is worth a moment, and no failure.
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, body(stream, &mut input, &head)).await;
            return Err(head.refusal(input.get(head.end..).unwrap_or_default()));
        }
        let deflate = head.check(options, &key)?;
        input.drain(..head.end);
        return Ok(Agreed { deflate, rest: input });
    }
}

async fn read_more(stream: &mut Stream, input: &mut Vec<u8>) -> io::Result<usize> {
    let mut bytes = [0; 1024];
    let read = stream.read(&mut bytes).await?;
    input.extend_from_slice(&bytes[..read]);
    Ok(read)
}

async fn body(stream: &mut Stream, input: &mut Vec<u8>, head: &Head) -> io::Result<()> {
    let wanted = head.end + head.length.unwrap_or(HEAD_BYTES).min(HEAD_BYTES);
    while input.len() < wanted && read_more(stream, input).await? > 0 {}
    Ok(())
}

fn request(options: &Options, boot: &str, token: Option<&str>, key: &str) -> Result<String, Error> {
    let authority = options.uri.authority().map_or("", |authority| authority.as_str());
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {}\r\n",
        target(options, boot),
        options.encoding.subprotocol(),
    );
    if options.deflate {
        request.push_str(&format!("Sec-WebSocket-Extensions: {OFFER}\r\n"));
    }
    if let Some(token) = token {
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Token("it holds blanks or characters no token has".into()));
        }
        request.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    request.push_str("\r\n");
    Ok(request)
}

/// The path with the device's words behind it.
fn target(options: &Options, boot: &str) -> String {
    let path = if options.uri.path() == "/" { "/v1/device" } else { options.uri.path() };
    let mut target = path.to_owned();
    let mut separator = '?';
    let mut add = |text: &str| {
        target.push(separator);
        target.push_str(text);
        separator = '&';
    };
    if let Some(query) = options.uri.query().filter(|query| !query.is_empty()) {
        add(query);
    }
    add(&format!("boot={boot}"));
    if let Some(seconds) = options.heartbeat_s {
        add(&format!("heartbeat_s={seconds}"));
    }
    if let Some(bytes) = options.max_bytes {
        add(&format!("max_bytes={bytes}"));
    }
    if options.close_drop {
        add("close=drop");
    }
    target
}

/// The head of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    status: u16,
    end: usize,
    accept: Option<String>,
    protocol: Option<String>,
    extensions: Option<String>,
    length: Option<usize>,
    retry_after_s: Option<u64>,
}

impl Head {
    /// The head at the front of `input`, where it is whole.
    fn parse(input: &[u8]) -> Result<Option<Self>, Error> {
        let mut headers = [httparse::EMPTY_HEADER; HEADER_LINES];
        let mut response = httparse::Response::new(&mut headers);
        let bad = |error| Error::Handshake(format!("the answer is no HTTP: {error}"));
        let httparse::Status::Complete(end) = response.parse(input).map_err(bad)? else { return Ok(None) };
        let mut head = Self { status: response.code.unwrap_or_default(), end, ..Self::default() };
        for header in response.headers.iter() {
            let Ok(value) = std::str::from_utf8(header.value) else { continue };
            match header.name.to_ascii_lowercase().as_str() {
                "sec-websocket-accept" => head.accept = Some(value.to_owned()),
                "sec-websocket-protocol" => head.protocol = Some(value.to_owned()),
                "sec-websocket-extensions" => head.extensions = Some(value.to_owned()),
                "content-length" => head.length = value.parse().ok(),
                "retry-after" => head.retry_after_s = value.parse().ok(),
                _ => {}
            }
        }
        Ok(Some(head))
    }

    /// Holds a 101 against what was asked for: whether compression was agreed.
    fn check(&self, options: &Options, key: &str) -> Result<bool, Error> {
        let failed = |what: String| Err(Error::Handshake(what));
        if self.accept.as_deref() != Some(&accept_of(key)) {
            return failed("Sec-WebSocket-Accept is not the one to this key".into());
        }
        let wanted = options.encoding.subprotocol();
        match self.protocol.as_deref() {
            Some(protocol) if protocol == wanted => {}
            // A gateway that knows none speaks JSON.
            None if options.encoding.is_text() => {}
            other => return failed(format!("asked for {wanted}, and the answer says {other:?}")),
        }
        let Some(extensions) = &self.extensions else { return Ok(false) };
        let mut words = extensions.split(';').map(str::trim);
        let known = options.deflate && words.next() == Some("permessage-deflate") && !extensions.contains(',');
        if !known || !words.any(|word| word == "server_no_context_takeover") {
            return failed(format!("the extensions `{extensions}` are not those that were offered"));
        }
        Ok(true)
    }

    fn refusal(&self, body: &[u8]) -> Error {
        let problem: Option<Value> = serde_json::from_slice(body).ok();
        let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str().or(problem["title"].as_str()));
        let detail = detail.map_or_else(|| String::from_utf8_lossy(body).trim().to_owned(), str::to_owned);
        Error::Refused { status: self.status, detail, retry_after_s: self.retry_after_s }
    }
}

/// What a server must answer to a key.
fn accept_of(key: &str) -> String {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{ACCEPT_GUID}").as_bytes());
    STANDARD.encode(hash)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tidegate::protocol::Encoding;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const OK: &str = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

    fn options(url: &str) -> Options {
        Options::new(url, "d1").unwrap()
    }

    #[test]
    fn the_target_has_all_the_words_a_device_says() {
        let mut options = options("ws://h:1?site=a");
        assert_eq!(target(&options, "b1"), "/v1/device?site=a&boot=b1");
        (options.heartbeat_s, options.max_bytes, options.close_drop) = (Some(40), Some(4_096), true);
        assert_eq!(target(&options, "b1"), "/v1/device?site=a&boot=b1&heartbeat_s=40&max_bytes=4096&close=drop");
        assert_eq!(target(&self::options("wss://h/gate"), "b"), "/gate?boot=b");
    }

    #[test]
    fn a_token_cannot_add_headers() {
        let options = options("ws://h");
        assert!(matches!(request(&options, "b", Some("a\r\nX: y"), KEY), Err(Error::Token(_))));
        let request = request(&options, "b", Some("abc"), KEY).unwrap();
        assert!(request.contains("\r\nAuthorization: Bearer abc\r\n") && request.ends_with("\r\n\r\n"));
        assert!(
            request.contains("\r\nSec-WebSocket-Protocol: tidegate.v1.json\r\n") && !request.contains("Extensions")
        );
    }

    #[test]
    fn an_answer_is_held_against_what_was_asked() {
        let check = |answer: &str, encoding, deflate| {
            let mut options = options("ws://h");
            (options.encoding, options.deflate) = (encoding, deflate);
            Head::parse(format!("{answer}\r\n").as_bytes()).unwrap().unwrap().check(&options, KEY)
        };
        let cbor = format!("{OK}Sec-WebSocket-Protocol: tidegate.v1.cbor\r\n");
        let deflate = format!("{OK}Sec-WebSocket-Extensions: {OFFER}\r\n");
        assert!(matches!(check(OK, Encoding::Json, true), Ok(false)));
        assert!(matches!(check(&cbor, Encoding::Cbor, false), Ok(false)));
        assert!(matches!(check(&deflate, Encoding::Json, true), Ok(true)));
        for (answer, encoding, deflate) in [
            (OK, Encoding::Cbor, false),
            (cbor.as_str(), Encoding::Json, false),
            (deflate.as_str(), Encoding::Json, false),
            (&format!("{OK}Sec-WebSocket-Extensions: permessage-deflate\r\n"), Encoding::Json, true),
            ("HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: x\r\n", Encoding::Json, false),
        ] {
            assert!(matches!(check(answer, encoding, deflate), Err(Error::Handshake(_))), "{answer}");
        }
    }

    #[test]
    fn a_refusal_says_why_and_when_to_come_again() {
        let text =
            "HTTP/1.1 503 No\r\nRetry-After: 3\r\nContent-Length: 29\r\n\r\n{\"detail\":\"full up\",\"status\":503}";
        let head = Head::parse(text.as_bytes()).unwrap().unwrap();
        let Error::Refused { status, detail, retry_after_s } = head.refusal(&text.as_bytes()[head.end..]) else {
            panic!("refused")
        };
        assert_eq!((status, detail.as_str(), retry_after_s, head.length), (503, "full up", Some(3), Some(29)));
        assert!(Head::parse(b"HTTP/1.1 101 Swi").unwrap().is_none());
        assert!(matches!(Head::parse(b"SSH-2.0-OpenSSH\r\n\r\n"), Err(Error::Handshake(_))));
    }
}
