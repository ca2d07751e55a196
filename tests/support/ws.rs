//! A deliberately dumb WebSocket client: it sends any bytes, well-formed or not, and shows what comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// Opcodes of RFC 6455.
pub mod opcode {
    /// Goes on with a fragmented message.
    pub const CONTINUATION: u8 = 0;
    /// Text.
    pub const TEXT: u8 = 1;
    /// Binary.
    pub const BINARY: u8 = 2;
    /// Close.
    pub const CLOSE: u8 = 8;
    /// Ping.
    pub const PING: u8 = 9;
    /// Pong.
    pub const PONG: u8 = 10;
}

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const PATIENCE: Duration = Duration::from_secs(10);

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A frame.
    Frame(Frame),
    /// The gateway ended the connection, cleanly or by a reset.
    End,
    /// Nothing (or half a frame) in time.
    Timeout,
}

/// A frame from the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// FIN, RSV and opcode as they stand in the first byte.
    pub first: u8,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The opcode.
    pub fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    /// Whether it is the last of its message.
    pub fn is_final(&self) -> bool {
        self.first & 0x80 != 0
    }

    /// The code of a close frame; 1005 where it has none.
    pub fn close_code(&self) -> u16 {
        self.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))
    }
}

/// An HTTP response's head and what came with it.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Header names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body as far as Content-Length says; empty for a 101.
    pub body: Vec<u8>,
}

impl Response {
    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

enum Io {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// One connection. Sending never panics (the gateway may have closed, which is often the point); reading has deadlines.
pub struct RawClient {
    io: Io,
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl RawClient {
    /// A TCP connection.
    pub fn connect(addr: SocketAddr) -> Self {
        let socket = tcp(addr);
        Self { io: Io::Plain(socket.try_clone().expect("a file descriptor is free")), socket, buffer: Vec::new() }
    }

    /// A TCP connection that somebody made.
    pub fn over(socket: TcpStream) -> Self {
        socket.set_write_timeout(Some(PATIENCE)).expect("an open socket");
        Self { io: Io::Plain(socket.try_clone().expect("a file descriptor is free")), socket, buffer: Vec::new() }
    }

    /// A TLS connection that trusts the authorities of `ca_pem`.
    pub fn connect_tls(addr: SocketAddr, ca_pem: &[u8], name: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(ca_pem) {
            roots.add(cert.expect("PEM")).expect("a certificate");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = versions.expect("versions").with_root_certificates(roots).with_no_client_auth();
        Self::connect_with(addr, Arc::new(config), name)
    }

    /// A TLS connection with a configuration of the test's own.
    pub fn connect_with(addr: SocketAddr, config: Arc<ClientConfig>, name: &str) -> Self {
        let socket = tcp(addr);
        let name = ServerName::try_from(name.to_owned()).expect("a server name");
        let tls = ClientConnection::new(config, name).expect("a TLS client");
        let stream = StreamOwned::new(tls, socket.try_clone().expect("a file descriptor is free"));
        Self { io: Io::Tls(Box::new(stream)), socket, buffer: Vec::new() }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// Those of the socket: the gateway closed, or does not read.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.io {
            Io::Plain(stream) => stream.write_all(bytes),
            Io::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Sends an upgrade request as a correct client does, with further headers, and reads the response.
    pub fn upgrade(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        let further = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
        self.request(&format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{further}\r\n"
        ))
    }

    /// Sends a request's bytes as they are and reads the response.
    pub fn request(&mut self, head: &str) -> Response {
        self.send(head.as_bytes()).expect("the request is sent");
        self.response(PATIENCE).unwrap_or_else(|| panic!("no response to {head:?}"))
    }

    /// Upgrades and asserts the 101.
    pub fn open(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        let response = self.upgrade(path, headers);
        let body = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(response.status, 101, "{path}: {body}");
        response
    }

    /// The next HTTP response; nothing when the connection ended without one, or in time.
    pub fn response(&mut self, timeout: Duration) -> Option<Response> {
        let end = Instant::now() + timeout;
        let head_len = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill(end).ok()?;
        };
        let head = String::from_utf8_lossy(self.buffer.get(..head_len)?).into_owned();
        self.buffer.drain(..head_len);
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let header = |line: &str| line.split_once(':').map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()));
        let mut response = Response { status, headers: lines.filter_map(header).collect(), body: Vec::new() };
        if status != 101 {
            let length = response.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
            while self.buffer.len() < length && self.fill(end).is_ok() {}
            let length = length.min(self.buffer.len());
            response.body = self.buffer.drain(..length).collect();
        }
        Some(response)
    }

    /// Sends a masked frame; `first` is FIN, RSV and opcode.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn send_frame(&mut self, first: u8, payload: &[u8]) -> std::io::Result<()> {
        self.send(&frame(first, payload))
    }

    /// Sends a text message in one frame.
    pub fn send_text(&mut self, text: &str) {
        self.send_frame(0x80 | opcode::TEXT, text.as_bytes()).expect("the gateway reads");
    }

    /// Sends a JSON message in one frame.
    pub fn send_json(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    /// Sends a close frame.
    pub fn send_close(&mut self, code: u16) {
        drop(self.send_frame(0x80 | opcode::CLOSE, &code.to_be_bytes()));
    }

    /// The next frame, whatever it is.
    pub fn frame(&mut self, timeout: Duration) -> Incoming {
        let end = Instant::now() + timeout;
        loop {
            if let Some(frame) = take_frame(&mut self.buffer) {
                return Incoming::Frame(frame);
            }
            match self.fill(end) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => return Incoming::Timeout,
                Err(_) => return Incoming::End,
            }
        }
    }

    /// The next message that is text, as JSON; pings are answered and passed over. Nothing on a close or in time.
    pub fn json(&mut self, timeout: Duration) -> Option<Value> {
        let end = Instant::now() + timeout;
        loop {
            let Incoming::Frame(frame) = self.frame(end.saturating_duration_since(Instant::now())) else { return None };
            match frame.opcode() {
                opcode::TEXT => return Some(serde_json::from_slice(&frame.payload).expect("the gateway sends JSON")),
                opcode::PING => drop(self.send_frame(0x80 | opcode::PONG, &frame.payload)),
                opcode::CLOSE => return None,
                _ => {}
            }
        }
    }

    /// The next message of a type; others are passed over.
    pub fn expect_type(&mut self, kind: &str, timeout: Duration) -> Value {
        self.expect(&format!("a message of type {kind}"), timeout, |message| message["type"] == kind)
    }

    /// Reads acks until one covers `seq`.
    pub fn expect_ack(&mut self, seq: u64, timeout: Duration) -> Value {
        let covers = |message: &Value| message["type"] == "ack" && message["seq"].as_u64() >= Some(seq);
        self.expect(&format!("an ack of {seq}"), timeout, covers)
    }

    fn expect(&mut self, what: &str, timeout: Duration, is_it: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + timeout;
        let mut others = Vec::new();
        while let Some(message) = self.json(end.saturating_duration_since(Instant::now())) {
            if is_it(&message) {
                return message;
            }
            others.push(message);
        }
        panic!("not within {timeout:?}: {what}; there came {others:?}");
    }

    /// The code of the gateway's close frame; nothing when the connection ends without one.
    ///
    /// # Panics
    /// When neither happens in time.
    pub fn expect_close(&mut self, timeout: Duration) -> Option<u16> {
        let end = Instant::now() + timeout;
        loop {
            match self.frame(end.saturating_duration_since(Instant::now())) {
                Incoming::Frame(frame) if frame.opcode() == opcode::CLOSE => return Some(frame.close_code()),
                Incoming::Frame(_) => {}
                Incoming::End => return None,
                Incoming::Timeout => panic!("the connection did not end within {timeout:?}"),
            }
        }
    }

    /// Reads (and drops) until TCP ends; whether it did in time.
    pub fn ends_within(&mut self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        loop {
            self.buffer.clear();
            match self.fill(end) {
                Ok(()) => {}
                Err(error) => return error.kind() != ErrorKind::TimedOut,
            }
        }
    }

    /// Ends one or both directions of TCP without a word.
    pub fn shutdown(&self, how: Shutdown) {
        drop(self.socket.shutdown(how));
    }

    /// The TCP socket.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Reads once. `TimedOut`: nothing by `end`; `UnexpectedEof` and resets: the end.
    fn fill(&mut self, end: Instant) -> std::io::Result<()> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        let mut chunk = [0; 16 * 1024];
        let read = match &mut self.io {
            Io::Plain(stream) => stream.read(&mut chunk),
            Io::Tls(stream) => stream.read(&mut chunk),
        };
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        }
    }
}

/// Takes the first frame out of what was received; nothing where it is not whole yet.
pub fn take_frame(buffer: &mut Vec<u8>) -> Option<Frame> {
    let (first, second) = (*buffer.first()?, *buffer.get(1)?);
    assert_eq!(second & 0x80, 0, "the gateway never masks");
    let (header, length) = match second {
        126 => (4, usize::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, usize::from(short)),
    };
    let payload = buffer.get(header..header + length)?.to_vec();
    buffer.drain(..header + length);
    Some(Frame { first, payload })
}

/// The bytes of a masked frame with the shortest length; `first` is FIN, RSV and opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | u8::try_from(short).expect("at most 125")),
        medium @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(medium).expect("at most 65535").to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend(u64::try_from(long).expect("64 bits").to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn tcp(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&addr, PATIENCE).expect("the gateway accepts");
    socket.set_nodelay(true).expect("an open socket");
    socket.set_write_timeout(Some(PATIENCE)).expect("an open socket");
    socket
}
