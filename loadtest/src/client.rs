//! A device as a user would write one: hyper's handshake, fastwebsockets' frames, JSON in text frames.

use std::net::SocketAddr;
use std::sync::Arc;

use fastwebsockets::{Frame, OpCode, Payload, WebSocket, WebSocketError, handshake};
use http::Request;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where and as whom a device connects.
#[derive(Clone)]
pub struct DeviceOptions {
    /// The gateway.
    pub address: SocketAddr,
    /// Set for `wss`; the certificate must be for `localhost`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Goes into `Authorization: Bearer`.
    pub token: Option<String>,
    /// Scopes `seq`: drawn anew at each boot of the device.
    pub boot: Option<String>,
}

/// Why a device got no further.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// TCP or TLS.
    #[error("connecting failed: {0}; is the gateway listening there?")]
    Connect(#[from] std::io::Error),
    /// The request could not be written down.
    #[error("the request is not valid HTTP: {0}; look at the token and the boot")]
    Request(#[from] http::Error),
    /// The upgrade or a frame.
    #[error("the WebSocket failed: {0}")]
    Socket(#[from] WebSocketError),
    /// The gateway closed; its code and reason, where it gave them.
    #[error("closed by the gateway: {code:?} {reason}")]
    Closed {
        /// The close code.
        code: Option<u16>,
        /// The reason's text.
        reason: String,
    },
    /// The first message was another.
    #[error("the gateway's first message is no welcome: {0}")]
    NoWelcome(String),
}

/// A connected device.
pub struct Device {
    socket: WebSocket<TokioIo<Upgraded>>,
    /// The `welcome`, as it came.
    pub welcome: String,
}

impl Device {
    /// Connects and awaits the `welcome`.
    ///
    /// # Errors
    /// When the gateway cannot be reached, refuses, or says something else first.
    pub async fn connect(options: &DeviceOptions) -> Result<Self, DeviceError> {
        let stream = TcpStream::connect(options.address).await?;
        stream.set_nodelay(true)?;
        let socket = match &options.tls {
            None => upgrade(options, stream).await?,
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
                upgrade(options, TlsConnector::from(config.clone()).connect(name, stream).await?).await?
            }
        };
        let mut device = Self { socket, welcome: String::new() };
        let first = device.next().await?;
        if !first.contains("\"welcome\"") {
            return Err(DeviceError::NoWelcome(first));
        }
        device.welcome = first;
        Ok(device)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, message: &str) -> Result<(), DeviceError> {
        Ok(self.socket.write_frame(Frame::text(Payload::Borrowed(message.as_bytes()))).await?)
    }

    /// The next message. Pings are answered on the way. Not to be dropped half-way: fastwebsockets would lose its
    /// place in the stream.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn next(&mut self) -> Result<String, DeviceError> {
        loop {
            let frame = self.socket.read_frame().await?;
            match frame.opcode {
                OpCode::Text => return Ok(String::from_utf8_lossy(&frame.payload).into_owned()),
                OpCode::Close => return Err(closed(&frame.payload)),
                _ => {}
            }
        }
    }

    /// Closes with 1000.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub async fn close(mut self) -> Result<(), DeviceError> {
        Ok(self.socket.write_frame(Frame::close(1000, b"")).await?)
    }
}

fn closed(payload: &[u8]) -> DeviceError {
    let code = payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code));
    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
    DeviceError::Closed { code, reason }
}

async fn upgrade<S>(options: &DeviceOptions, stream: S) -> Result<WebSocket<TokioIo<Upgraded>>, DeviceError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let path = options.boot.as_ref().map_or_else(|| "/v1/device".to_owned(), |boot| format!("/v1/device?boot={boot}"));
    let mut request = Request::get(path)
        .header("Host", options.address.to_string())
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Key", handshake::generate_key())
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Protocol", "tidegate.v1.json");
    if let Some(token) = &options.token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let (socket, _) = handshake::client(&TokioExecutor::new(), request.body(Empty::<Bytes>::new())?, stream).await?;
    Ok(socket)
}
