//! A small WebSocket client: for `tidegate smoke`, the simulated devices of `tidegate dev`, and tests.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, Role, WebSocket, WebSocketError};
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tower_service::Service;

/// What RFC 6455 appends to a key before hashing it.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Most bytes read of a refusal's body.
const REFUSAL_BYTES: usize = 16 * 1024;
/// Largest message taken.
const MESSAGE_BYTES: usize = 1024 * 1024;

/// Why the client could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is not one of a WebSocket.
    #[error("`{0}` is no URL of a WebSocket: ws://host:port/path or wss://…")]
    Url(String),
    /// The authorities' file, or the system's authorities, cannot be used.
    #[error("the trusted authorities cannot be read: {0}")]
    Authorities(String),
    /// No connection: refused, unreachable, or TLS failed.
    #[error("no connection: {0}")]
    Connect(String),
    /// The server said no.
    #[error("refused with {status}: {body}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The answer's body, 16 KiB at most.
        body: String,
    },
    /// What answered does not speak WebSocket.
    #[error("what answered does not speak WebSocket: {0}")]
    Handshake(&'static str),
    /// The connection ended.
    #[error("the connection was closed with code {code}: {reason}")]
    Closed {
        /// The close code; 1005 where there was none.
        code: u16,
        /// The reason, or nothing.
        reason: String,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] WebSocketError),
    /// A message that was not expected.
    #[error("unexpected message: {0}")]
    Unexpected(String),
}

/// One connection. Pings are answered while [`Client::receive_text`] waits.
pub struct Client {
    socket: FragmentCollector<TokioIo<Upgraded>>,
}

impl Client {
    /// Connects to a `ws://` or `wss://` URL, with a token where there is one; `ca` is a PEM file of authorities that
    /// are trusted in place of the system's.
    ///
    /// # Errors
    /// [`ClientError`]: anything up to and with the handshake.
    pub async fn connect(url: &str, token: Option<&str>, ca: Option<&Path>) -> Result<Self, ClientError> {
        let bad = || ClientError::Url(url.to_owned());
        let uri: Uri = match url.split_once("://") {
            Some(("ws", rest)) => format!("http://{rest}").parse().map_err(|_| bad())?,
            Some(("wss", rest)) => format!("https://{rest}").parse().map_err(|_| bad())?,
            _ => return Err(bad()),
        };
        let builder = HttpsConnectorBuilder::new();
        // Loading the system's authorities takes time and may fail: only where TLS is spoken.
        let config = tls(uri.scheme_str() == Some("https"), ca)?;
        let mut connector = builder.with_tls_config(config).https_or_http().enable_http1().build();
        let stream = connector.call(uri.clone()).await.map_err(|error| ClientError::Connect(with_causes(&*error)))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(from_hyper)?;
        tokio::spawn(connection.with_upgrades());

        let key = fastwebsockets::handshake::generate_key();
        let request = upgrade_request(&uri, token, &key).map_err(|_| bad())?;
        let mut response = sender.send_request(request).await.map_err(from_hyper)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if accept.is_none_or(|accept| accept.as_bytes() != accept_of(&key).as_bytes()) {
            return Err(ClientError::Handshake("Sec-WebSocket-Accept is not the one to this key"));
        }
        let upgraded = hyper::upgrade::on(&mut response).await.map_err(from_hyper)?;
        let mut socket = WebSocket::after_handshake(TokioIo::new(upgraded), Role::Client);
        socket.set_max_message_size(MESSAGE_BYTES);
        Ok(Self { socket: FragmentCollector::new(socket) })
    }

    /// Sends one text message.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    pub async fn send_text(&mut self, text: &str) -> Result<(), ClientError> {
        Ok(self.socket.write_frame(Frame::text(Payload::Borrowed(text.as_bytes()))).await?)
    }

    /// Waits for one text message. Not safe to drop while it waits: give it a time limit only where the connection is
    /// given up after it.
    ///
    /// # Errors
    /// [`ClientError::Closed`] when the server ended the connection, [`ClientError::Unexpected`] for a binary message.
    pub async fn receive_text(&mut self) -> Result<String, ClientError> {
        loop {
            let frame = self.socket.read_frame().await?;
            match frame.opcode {
                OpCode::Text => {
                    return String::from_utf8(frame.payload.to_vec())
                        .map_err(|_| ClientError::Unexpected("text that is not UTF-8".into()));
                }
                OpCode::Binary => return Err(ClientError::Unexpected("a binary message".into())),
                OpCode::Close => return Err(closed(&frame.payload)),
                OpCode::Ping | OpCode::Pong | OpCode::Continuation => {}
            }
        }
    }

    /// Says goodbye (1000) and waits for the answer; messages still on their way are passed over.
    ///
    /// # Errors
    /// [`ClientError::Broken`] when the connection ends without a close frame.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.socket.write_frame(Frame::close(1000, b"")).await?;
        while self.socket.read_frame().await?.opcode != OpCode::Close {}
        Ok(())
    }
}

fn upgrade_request(uri: &Uri, token: Option<&str>, key: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::get(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, key);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request.body(Empty::new())
}

async fn refusal(response: Response<Incoming>) -> ClientError {
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), REFUSAL_BYTES).collect().await;
    let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    ClientError::Refused { status, body }
}

fn closed(payload: &[u8]) -> ClientError {
    match payload {
        [high, low, reason @ ..] => ClientError::Closed {
            code: u16::from_be_bytes([*high, *low]),
            reason: String::from_utf8_lossy(reason).into_owned(),
        },
        _ => ClientError::Closed { code: 1005, reason: String::new() },
    }
}

/// What a server must answer to a key.
fn accept_of(key: &str) -> String {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{ACCEPT_GUID}").as_bytes());
    STANDARD.encode(hash)
}

/// What a client speaks TLS with; `ca` is a PEM file of authorities that are trusted in place of the system's. Those are
/// read only where TLS is `spoken`.
///
/// # Errors
/// [`ClientError::Authorities`].
pub fn tls(spoken: bool, ca: Option<&Path>) -> Result<ClientConfig, ClientError> {
    if spoken { tls_config(ca) } else { no_authorities() }
}

fn tls_config(ca: Option<&Path>) -> Result<ClientConfig, ClientError> {
    let failed = |error: &dyn std::fmt::Display| ClientError::Authorities(error.to_string());
    let Some(path) = ca else {
        let builder = config_builder()?.with_native_roots().map_err(|error| failed(&error))?;
        return Ok(builder.with_no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))? {
        roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    }
    Ok(config_builder()?.with_root_certificates(roots).with_no_client_auth())
}

fn no_authorities() -> Result<ClientConfig, ClientError> {
    Ok(config_builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn config_builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, ClientError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.map_err(|error| ClientError::Connect(error.to_string()))
}

fn from_hyper(error: hyper::Error) -> ClientError {
    ClientError::Connect(with_causes(&error))
}

/// An error with what caused it: the outer one alone says only "client error".
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_the_rfcs_own_example() {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_close_frame_is_read_with_its_code_and_without() {
        assert!(matches!(closed(&[0x0f, 0xa0, b'h']), ClientError::Closed { code: 4000, reason } if reason == "h"));
        assert!(matches!(closed(&[]), ClientError::Closed { code: 1005, .. }));
    }

    #[tokio::test]
    async fn what_is_no_websocket_url_is_said_to_be_none() {
        for bad in ["http://localhost", "localhost:8080", "ws://", "wss://a b/"] {
            let error = Client::connect(bad, None, None).await.err().unwrap();
            assert!(matches!(error, ClientError::Url(_)), "{bad}: {error}");
        }
    }
}
