//! From a GET to a WebSocket: what a client asked for, why it may not have it, and the 101.
//!
//! Everything here happens before the connection exists, so every refusal is an HTTP answer (RFC 9457).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;

use super::deflate::{self, Negotiated};
use crate::id::Boot;
use crate::limits::Limits;
use crate::limits::fixed::LEAST_MAX_BYTES;
use crate::protocol::Encoding;

/// What goes before a token that comes as a subprotocol.
const BEARER_PROTOCOL: &str = "tidegate.bearer.";

/// Why a handshake got no 101; becomes `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {detail}")]
pub struct Problem {
    /// The answer's status.
    pub status: StatusCode,
    /// What to do about it.
    pub detail: &'static str,
    /// After how many seconds it may be worth trying again.
    pub retry_after_s: Option<u64>,
}

impl Problem {
    /// A problem that waiting does not solve.
    pub const fn new(status: StatusCode, detail: &'static str) -> Self {
        Self { status, detail, retry_after_s: None }
    }

    /// One that waiting may solve.
    pub const fn later(status: StatusCode, detail: &'static str, retry_after_s: u64) -> Self {
        Self { status, detail, retry_after_s: Some(retry_after_s) }
    }

    /// The answer. Ends the connection, as all answers here do but the 101.
    pub fn response(&self) -> Response<Full<Bytes>> {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = serde_json::json!({ "title": title, "status": self.status.as_u16(), "detail": self.detail });
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/problem+json"));
        headers.insert("connection", HeaderValue::from_static("close"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert("retry-after", HeaderValue::from(seconds));
        }
        // What HTTP and RFC 6455 want beside these.
        let (name, value) = match self.status {
            StatusCode::BAD_REQUEST => ("sec-websocket-version", "13"),
            StatusCode::UNAUTHORIZED => ("www-authenticate", "Bearer"),
            StatusCode::METHOD_NOT_ALLOWED => ("allow", "GET"),
            StatusCode::UPGRADE_REQUIRED => ("upgrade", "websocket"),
            _ => return response,
        };
        headers.insert(name, HeaderValue::from_static(value));
        response
    }
}

/// How the token came: a browser, which sees no status, is told in frames why it was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenBy {
    /// `Authorization: Bearer`.
    Header,
    /// A subprotocol.
    Subprotocol,
    /// `?access_token=`.
    Query,
}

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// How messages are written.
    pub encoding: Encoding,
    /// Whether the encoding was asked for by name, and is to be named in the answer.
    pub encoding_named: bool,
    /// Compression, where the offer can be honoured.
    pub deflate: Option<Negotiated>,
    /// The token and how it came.
    pub token: Option<(String, TokenBy)>,
    /// The device's boot.
    pub boot: Option<Boot>,
    /// The heartbeat, within its bounds.
    pub heartbeat_s: u64,
    /// The largest message the device can take.
    pub max_bytes: Option<usize>,
    /// Closes that mean *come back* end without a close frame.
    pub close_drop: bool,
}

/// Reads a handshake's request.
///
/// # Errors
/// [`Problem`]: the answer to send instead.
pub fn read(request: &Parts, limits: &Limits, query_token: bool) -> Result<Wish, Problem> {
    check_method_and_upgrade(request)?;
    check_key(&request.headers)?;
    let mut wish = Wish {
        encoding: Encoding::default(),
        encoding_named: false,
        deflate: extensions(&request.headers),
        token: None,
        boot: None,
        heartbeat_s: limits.heartbeat_s,
        max_bytes: None,
        close_drop: false,
    };
    subprotocols(&request.headers, limits, &mut wish)?;
    query(request.uri.query().unwrap_or_default(), limits, query_token, &mut wish)?;
    if let Some(token) = bearer(&request.headers)? {
        wish.token = Some((token, TokenBy::Header));
    }
    if wish.token.as_ref().is_some_and(|(token, _)| token.len() > limits.token_bytes) {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "a valid token is needed"));
    }
    Ok(wish)
}

/// Completes the handshake: the 101, and the future that gives the stream back once it has been sent.
///
/// # Errors
/// [`Problem`] where the request is no handshake after all.
pub fn accept<B>(request: &mut Request<B>, wish: &Wish) -> Result<(Response<Full<Bytes>>, OnUpgrade), Problem> {
    let on_upgrade = hyper::upgrade::on(&mut *request);
    let (response, _unused) = fastwebsockets::upgrade::upgrade(&mut *request)
        .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "not a WebSocket handshake of version 13"))?;
    let mut response = response.map(|_| Full::default());
    if wish.encoding_named {
        let name = HeaderValue::from_static(wish.encoding.subprotocol());
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
    }
    if let Some(deflate) = wish.deflate {
        let answer = HeaderValue::from_static(deflate.response());
        response.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, answer);
    }
    Ok((response, on_upgrade))
}

fn check_method_and_upgrade(request: &Parts) -> Result<(), Problem> {
    if request.method != Method::GET {
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket handshake is a GET"));
    }
    if request.version != Version::HTTP_11 {
        return Err(Problem::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "a WebSocket handshake is HTTP/1.1"));
    }
    if !lists(&request.headers, "upgrade", "websocket") {
        return Err(Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            "this is a WebSocket endpoint: send Upgrade: websocket",
        ));
    }
    if !lists(&request.headers, "connection", "upgrade") {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "Connection: Upgrade is missing; does a proxy strip it?"));
    }
    if request.headers.get("sec-websocket-version").map(HeaderValue::as_bytes) != Some(b"13") {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "Sec-WebSocket-Version must be 13"));
    }
    Ok(())
}

fn check_key(headers: &HeaderMap) -> Result<(), Problem> {
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = match (keys.next(), keys.next()) {
        (Some(key), None) => key.as_bytes(),
        _ => return Err(Problem::new(StatusCode::BAD_REQUEST, "one Sec-WebSocket-Key is needed")),
    };
    match STANDARD.decode(key) {
        Ok(bytes) if bytes.len() == 16 => Ok(()),
        _ => Err(Problem::new(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64")),
    }
}

fn lists(headers: &HeaderMap, name: &str, wanted: &str) -> bool {
    items(headers, name).any(|item| item.eq_ignore_ascii_case(wanted))
}

fn items<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

fn extensions(headers: &HeaderMap) -> Option<Negotiated> {
    let offers: Vec<&str> =
        headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().filter_map(|value| value.to_str().ok()).collect();
    if offers.is_empty() { None } else { deflate::negotiate(&offers.join(",")) }
}

fn subprotocols(headers: &HeaderMap, limits: &Limits, wish: &mut Wish) -> Result<(), Problem> {
    let mut bearer = None;
    for (count, offered) in items(headers, "sec-websocket-protocol").enumerate() {
        if count >= limits.subprotocols {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Err(Problem::new(status, "too many subprotocols offered"));
        }
        if let Some(token) = offered.strip_prefix(BEARER_PROTOCOL) {
            bearer = Some(token.to_owned());
        } else if !wish.encoding_named
            && let Some(encoding) = Encoding::from_subprotocol(offered)
        {
            (wish.encoding, wish.encoding_named) = (encoding, true);
        }
    }
    if let Some(token) = bearer {
        if !wish.encoding_named {
            let detail = "tidegate.bearer.* is no encoding: offer tidegate.v1.json (or .cbor, .protobuf) beside it";
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
        wish.token = Some((token, TokenBy::Subprotocol));
    }
    Ok(())
}

/// The token of an `Authorization` header; nothing where there is none.
///
/// # Errors
/// [`Problem`]: it is not one `Bearer <token>`.
pub fn bearer(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let unauthorized = Problem::new(StatusCode::UNAUTHORIZED, "Authorization must be one `Bearer <token>`");
    let mut values = headers.get_all("authorization").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(unauthorized);
    }
    let token = value.to_str().ok().and_then(|text| text.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.to_owned())),
        _ => Err(unauthorized),
    }
}

fn query(query: &str, limits: &Limits, query_token: bool, wish: &mut Wish) -> Result<(), Problem> {
    let bad = |detail| Problem::new(StatusCode::BAD_REQUEST, detail);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match name {
            "boot" => {
                let boot = Boot::new(value).map_err(|_| bad("boot must be 1 to 64 of A-Z a-z 0-9 _ -"))?;
                wish.boot = Some(boot);
            }
            "heartbeat_s" => {
                let asked: u64 = value.parse().map_err(|_| bad("heartbeat_s must be a number of seconds"))?;
                wish.heartbeat_s = asked.clamp(limits.heartbeat_min_s, limits.heartbeat_max_s);
            }
            "max_bytes" => {
                let asked: usize = value.parse().map_err(|_| bad("max_bytes must be a number of bytes"))?;
                if asked < LEAST_MAX_BYTES {
                    return Err(bad("max_bytes must be at least 512: the welcome has to fit"));
                }
                wish.max_bytes = Some(asked);
            }
            "close" => wish.close_drop = value == "drop",
            "access_token" if query_token => wish.token = Some((value.to_owned(), TokenBy::Query)),
            "access_token" => {
                return Err(bad("access_token is off here (auth.query_token): send Authorization: Bearer"));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::get(uri);
        let stock = [
            ("host", "localhost"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in stock.iter().filter(|(name, _)| !headers.iter().any(|(other, _)| other == name)) {
            request = request.header(*name, *value);
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn wish(uri: &str, headers: &[(&str, &str)]) -> Result<Wish, Problem> {
        read(&parts(uri, headers), &Limits::default(), false)
    }

    fn status(uri: &str, headers: &[(&str, &str)]) -> u16 {
        wish(uri, headers).unwrap_err().status.as_u16()
    }

    #[test]
    fn what_is_no_handshake_is_answered_with_what_is_wrong() {
        let mut post = parts("/", &[]);
        post.method = Method::POST;
        let answer = read(&post, &Limits::default(), false).unwrap_err();
        assert_eq!(answer.status, 405, "case 14");
        assert_eq!(status("/", &[("upgrade", "")]), 426, "case 16");
        assert_eq!(wish("/", &[("upgrade", "")]).unwrap_err().response().headers()["upgrade"], "websocket");
        assert_eq!(status("/", &[("connection", "close")]), 400, "case 17");
        assert_eq!(status("/", &[("sec-websocket-key", "")]), 400, "case 19");
        for key in ["short", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSE=", "!!!!"] {
            assert_eq!(status("/", &[("sec-websocket-key", key)]), 400, "case 20: {key}");
        }
        assert_eq!(status("/", &[("sec-websocket-version", "8")]), 400);
        assert_eq!(status("/", &[("sec-websocket-protocol", &"a,".repeat(5000))]), 431, "case 23");
        assert_eq!(status("/", &[("authorization", "Basic eDp5")]), 401);
    }

    #[test]
    fn stock_clients_get_json_and_no_protocol_header() {
        let wish = wish("/", &[("sec-websocket-protocol", "arduino"), ("origin", "file://")]).unwrap();
        assert_eq!((wish.encoding, wish.encoding_named, wish.token), (Encoding::Json, false, None));
    }

    #[test]
    fn the_first_known_encoding_is_taken_and_a_browsers_token_found() {
        let offer = "x, tidegate.v1.cbor, tidegate.v1.json, tidegate.bearer.a.b.c";
        let wish = wish("/v1/device", &[("sec-websocket-protocol", offer)]).unwrap();
        assert_eq!((wish.encoding, wish.encoding_named), (Encoding::Cbor, true));
        assert_eq!(wish.token, Some(("a.b.c".to_owned(), TokenBy::Subprotocol)));
        assert_eq!(status("/", &[("sec-websocket-protocol", "tidegate.bearer.a.b.c")]), 400);
    }

    #[test]
    fn the_querys_words_are_bounded() {
        let asked = wish("/?boot=b-1&heartbeat_s=9999&max_bytes=600&close=drop&unknown=1", &[]).unwrap();
        assert_eq!(asked.boot, Some(Boot::new("b-1").unwrap()));
        assert_eq!((asked.heartbeat_s, asked.max_bytes, asked.close_drop), (50, Some(600), true));
        for bad in ["boot=", "boot=a.b", "heartbeat_s=x", "max_bytes=1", "access_token=t"] {
            assert_eq!(status(&format!("/?{bad}"), &[]), 400, "{bad}");
        }
    }

    #[test]
    fn an_offer_that_cannot_be_honoured_is_declined_not_refused() {
        for (offer, honoured) in [
            ("permessage-deflate; client_max_window_bits", true),
            ("permessage-deflate; client_max_window_bits=99", false),
            ("permessage-deflate; =;;;", false),
        ] {
            let wish = wish("/", &[("sec-websocket-extensions", offer)]).unwrap();
            assert_eq!(wish.deflate.is_some(), honoured, "cases 41, 43: {offer}");
        }
    }

    #[test]
    fn the_101_names_only_what_was_agreed() {
        let request = parts("/", &[("sec-websocket-protocol", "arduino, tidegate.v1.json")]);
        let wish = read(&request, &Limits::default(), false).unwrap();
        let (response, _) = accept(&mut Request::from_parts(request, ()), &wish).unwrap();
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["sec-websocket-protocol"], "tidegate.v1.json");
        assert!(!response.headers().contains_key("sec-websocket-extensions"));
    }
}
