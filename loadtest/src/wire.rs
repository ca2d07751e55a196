//! Many raw client connections: plain or TLS, WebSocket with JSON or MQTT inside, a closed loop (a fixed number in
//! flight) and an open one (a fixed rate, latency from the scheduled send).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::frame;

/// Bytes of one update.
pub const UPDATE_BYTES: usize = 150;
const SOURCES: usize = 8;
const CONNECTING_AT_ONCE: usize = 32;
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// What the peer speaks inside its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// Every frame comes back.
    Echo,
    /// A `welcome`, then cumulative acks.
    Tidegate,
    /// One ack a message, in any order.
    AckEach,
    /// MQTT 3.1.1, QoS 1.
    Mqtt,
}

/// Gives the token of the connection with this number.
pub type TokenSource = Arc<dyn Fn(u64) -> Result<String, String> + Send + Sync>;

/// Where to connect and how.
#[derive(Clone)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// Set for TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// What it speaks.
    pub speech: Speech,
    /// Makes a device's token from its number, where one is needed.
    pub token: Option<TokenSource>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One open connection.
pub struct Connection {
    stream: Box<dyn Stream>,
    speech: Speech,
    device: String,
    input: Vec<u8>,
    /// Not written yet; survives a dropped future.
    output: Vec<u8>,
    sent: u64,
    acked: u64,
}

fn failed(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

/// A TCP connection from one of a few loopback addresses, so that no address runs out of ports.
async fn dial(address: SocketAddr, number: u64) -> io::Result<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + (number as usize % SOURCES) as u8));
    socket.bind(SocketAddr::new(source, 0))?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn tls(stream: tokio::net::TcpStream, config: &Arc<rustls::ClientConfig>) -> io::Result<impl Stream + use<>> {
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    TlsConnector::from(config.clone()).connect(name, stream).await
}

/// A TLS handshake and nothing else.
///
/// # Errors
/// When the peer cannot be reached or its certificate is not the expected one.
pub async fn handshake_only(target: &Target, number: u64) -> io::Result<()> {
    let config = target.tls.as_ref().ok_or_else(|| failed("a TLS handshake needs a TLS configuration"))?;
    let stream = dial(target.address, number).await?;
    tls(stream, config).await.map(drop)
}

impl Connection {
    /// Connects and waits until the peer has said all that it says first.
    ///
    /// # Errors
    /// When the peer cannot be reached, refuses, or takes longer than 20 s.
    pub async fn open(target: &Target, number: u64) -> io::Result<Self> {
        tokio::time::timeout(STEP_TIMEOUT, Self::open_now(target, number)).await.map_err(io::Error::other)?
    }

    async fn open_now(target: &Target, number: u64) -> io::Result<Self> {
        let stream = dial(target.address, number).await?;
        let stream: Box<dyn Stream> = match &target.tls {
            Some(config) => Box::new(tls(stream, config).await?),
            None => Box::new(stream),
        };
        let device = format!("bench-{number}");
        let mut connection =
            Self { stream, speech: target.speech, device, input: Vec::new(), output: Vec::new(), sent: 0, acked: 0 };
        let token = match &target.token {
            Some(token) => Some(token(number).map_err(failed)?),
            None => None,
        };
        connection.upgrade(token).await?;
        match target.speech {
            Speech::Tidegate => connection.first_frame(b"\"welcome\"").await?,
            Speech::Mqtt => connection.mqtt_connect().await?,
            Speech::Echo | Speech::AckEach => {}
        }
        Ok(connection)
    }

    async fn upgrade(&mut self, token: Option<String>) -> io::Result<()> {
        let path = if self.speech == Speech::Tidegate { "/v1/device?boot=bench" } else { "/" };
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        );
        if self.speech == Speech::Mqtt {
            request.push_str("Sec-WebSocket-Protocol: mqtt\r\n");
        }
        if let Some(token) = token {
            request.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        request.push_str("\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        loop {
            self.fill().await?;
            if let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                if !self.input.starts_with(b"HTTP/1.1 101") {
                    let text = String::from_utf8_lossy(&self.input).into_owned();
                    return Err(failed(format!("the upgrade was refused: {text}")));
                }
                self.input.drain(..end + 4);
                return Ok(());
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.input.reserve(1024);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn first_frame(&mut self, what: &[u8]) -> io::Result<()> {
        loop {
            if let Some(found) = frame::find(&self.input, 0) {
                let payload = &self.input[found.start..found.end];
                if !payload.windows(what.len()).any(|window| window == what) {
                    return Err(failed(format!("unexpected first frame: {}", String::from_utf8_lossy(payload))));
                }
                self.input.drain(..found.end);
                // Quiet connections are held by the thousand: none of them keeps a buffer.
                self.input.shrink_to_fit();
                return Ok(());
            }
            self.fill().await?;
        }
    }

    async fn mqtt_connect(&mut self) -> io::Result<()> {
        let id = self.device.as_bytes();
        let mut packet = vec![0x10, (12 + id.len()) as u8, 0, 4];
        packet.extend_from_slice(b"MQTT\x04\x02\x00\x00\x00");
        packet.push(id.len() as u8);
        packet.extend_from_slice(id);
        let mut out = Vec::new();
        frame::put_masked(&mut out, frame::BINARY, &packet);
        self.stream.write_all(&out).await?;
        self.first_frame(&[0x20, 2, 0, 0]).await
    }

    /// Appends the next update to `out`, padded to `bytes`.
    fn put_update(&mut self, bytes: usize, out: &mut Vec<u8>) {
        self.sent += 1;
        let seq = self.sent;
        let value = 20.0 + (seq % 100) as f64 / 10.0;
        let mut payload = format!(
            "{{\"type\":\"update\",\"seq\":{seq},\"name\":\"temperature\",\"value\":{value},\
             \"timestamp\":\"2026-01-01T00:00:00Z\",\"device_id\":\"{}\",\"note\":\"",
            self.device
        );
        payload.extend(std::iter::repeat_n('x', bytes.saturating_sub(payload.len() + 2)));
        payload.push_str("\"}");
        if self.speech != Speech::Mqtt {
            return frame::put_masked(out, frame::TEXT, payload.as_bytes());
        }
        let topic = b"bench/temperature";
        let rest = 2 + topic.len() + 2 + payload.len();
        let mut packet = vec![0x32, (rest % 128) as u8 | 0x80, (rest / 128) as u8, 0, topic.len() as u8];
        packet.extend_from_slice(topic);
        packet.extend_from_slice(&((seq % 65_535 + 1) as u16).to_be_bytes());
        packet.extend_from_slice(payload.as_bytes());
        frame::put_masked(out, frame::BINARY, &packet);
    }

    /// Waits for acks; returns how many updates they settle. Answers pings on the way.
    async fn acks(&mut self) -> io::Result<u64> {
        loop {
            self.flush().await?;
            self.fill().await?;
            let (mut at, mut settled) = (0, 0);
            while let Some(found) = frame::find(&self.input, at) {
                let payload = &self.input[found.start..found.end];
                match found.opcode {
                    frame::PING => frame::put_masked(&mut self.output, frame::PONG, payload),
                    frame::PONG => {}
                    frame::CLOSE => return Err(failed(format!("closed: {}", String::from_utf8_lossy(payload)))),
                    _ => settled += settles(self.speech, self.acked + settled, payload)?,
                }
                at = found.end;
            }
            self.input.drain(..at);
            if settled > 0 {
                self.acked += settled;
                return Ok(settled);
            }
        }
    }

    async fn publish(&mut self, count: u64, bytes: usize) -> io::Result<()> {
        let mut out = std::mem::take(&mut self.output);
        for _ in 0..count {
            self.put_update(bytes, &mut out);
        }
        self.output = out;
        self.flush().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let written = self.stream.write(&self.output).await?;
            self.output.drain(..written);
        }
        self.stream.flush().await
    }
}

fn settles(speech: Speech, acked: u64, payload: &[u8]) -> io::Result<u64> {
    match speech {
        Speech::Echo => Ok(1),
        Speech::Mqtt => Ok(payload.chunks(4).filter(|packet| packet[0] == 0x40).count() as u64),
        Speech::AckEach => seq_of(payload).map(|_| 1).ok_or_else(|| failed("not an ack")),
        Speech::Tidegate => match seq_of(payload) {
            Some(seq) => Ok(seq.saturating_sub(acked)),
            None if contains(payload, b"\"pause\"") || contains(payload, b"\"resume\"") => Ok(0),
            None => Err(failed(format!("not an ack: {}", String::from_utf8_lossy(payload)))),
        },
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// The `seq` of an ack in JSON.
fn seq_of(payload: &[u8]) -> Option<u64> {
    if !contains(payload, b"\"ack\"") {
        return None;
    }
    let key = b"\"seq\":";
    let at = payload.windows(key.len()).position(|window| window == key)? + key.len();
    let digits = payload[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |seq, digit| seq * 10 + u64::from(digit - b'0')))
}

/// Opens connections numbered from `first`, a few at a time.
///
/// # Errors
/// The first that fails.
pub async fn open_all(target: &Target, first: u64, count: usize) -> io::Result<Vec<Connection>> {
    let mut opening = JoinSet::new();
    let mut open = Vec::with_capacity(count);
    for number in 0..count as u64 {
        if opening.len() == CONNECTING_AT_ONCE {
            open.push(joined(opening.join_next().await)?);
        }
        let target = target.clone();
        opening.spawn(async move { Connection::open(&target, first + number).await });
    }
    while !opening.is_empty() {
        open.push(joined(opening.join_next().await)?);
    }
    Ok(open)
}

fn joined<T>(joined: Option<Result<io::Result<T>, tokio::task::JoinError>>) -> io::Result<T> {
    joined.ok_or_else(|| failed("nothing to wait for"))?.map_err(io::Error::other)?
}

/// One message of `bytes` on every connection, a few at a time, each awaited.
///
/// # Errors
/// The first connection that fails.
pub async fn one_each(connections: &mut [Connection], bytes: usize) -> io::Result<()> {
    for group in connections.chunks_mut(CONNECTING_AT_ONCE) {
        for connection in group.iter_mut() {
            connection.publish(1, bytes).await?;
        }
        for connection in group {
            tokio::time::timeout(STEP_TIMEOUT, connection.acks()).await.map_err(io::Error::other)??;
            connection.input.shrink_to_fit();
            connection.output = Vec::new();
        }
    }
    Ok(())
}

/// Keeps every connection answered (pings) until dropped.
pub fn hold(connections: Vec<Connection>) -> JoinSet<io::Result<()>> {
    let mut held = JoinSet::new();
    for mut connection in connections {
        held.spawn(async move {
            loop {
                connection.acks().await?;
            }
        });
    }
    held
}

/// A running closed loop: `settled` counts acks for as long as it is not dropped.
pub struct ClosedLoop {
    /// Updates settled so far.
    pub settled: Arc<AtomicU64>,
    tasks: JoinSet<io::Result<()>>,
}

impl ClosedLoop {
    /// Starts it: each connection keeps `in_flight` updates unanswered and sends as many as it got acks for, in one write.
    pub fn start(connections: Vec<Connection>, in_flight: u64) -> Self {
        let settled = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for mut connection in connections {
            let settled = settled.clone();
            tasks.spawn(async move {
                connection.publish(in_flight, UPDATE_BYTES).await?;
                loop {
                    let count = connection.acks().await?;
                    settled.fetch_add(count, Ordering::Relaxed);
                    connection.publish(count, UPDATE_BYTES).await?;
                }
            });
        }
        Self { settled, tasks }
    }

    /// The first failure of a connection, if there was one.
    ///
    /// # Errors
    /// That failure.
    pub fn check(&mut self) -> io::Result<()> {
        match self.tasks.try_join_next() {
            Some(ended) => ended.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }
}

/// A running open loop: `rate` updates a second over all connections, whatever the peer does.
pub struct OpenLoop {
    /// Updates settled so far.
    pub settled: Arc<AtomicU64>,
    tasks: JoinSet<io::Result<Histogram<u64>>>,
    end: Instant,
}

impl OpenLoop {
    /// Starts it for `length`; latencies before `warm` are not counted.
    pub fn start(connections: Vec<Connection>, rate: f64, warm: Duration, length: Duration) -> Self {
        let settled = Arc::new(AtomicU64::new(0));
        let begin = Instant::now() + Duration::from_millis(50);
        let period = Duration::from_secs_f64(connections.len() as f64 / rate);
        let count = connections.len() as u32;
        let mut tasks = JoinSet::new();
        for (place, connection) in connections.into_iter().enumerate() {
            let first = begin + period * place as u32 / count;
            let plan = Plan { first, period, warm: begin + warm, end: begin + length };
            tasks.spawn(plan.follow(connection, settled.clone()));
        }
        Self { settled, tasks, end: begin + length }
    }

    /// Waits for the end and gives the latencies in µs, from the scheduled send, of all connections together.
    ///
    /// # Errors
    /// When a connection failed.
    pub async fn finish(mut self) -> io::Result<Histogram<u64>> {
        tokio::time::sleep_until(self.end.into()).await;
        let mut all = Histogram::new(3).map_err(io::Error::other)?;
        while let Some(one) = self.tasks.join_next().await {
            all.add(one.map_err(io::Error::other)??).map_err(io::Error::other)?;
        }
        Ok(all)
    }
}

#[derive(Clone, Copy)]
struct Plan {
    first: Instant,
    period: Duration,
    warm: Instant,
    end: Instant,
}

impl Plan {
    async fn follow(self, mut connection: Connection, settled: Arc<AtomicU64>) -> io::Result<Histogram<u64>> {
        let mut latencies = Histogram::new(3).map_err(io::Error::other)?;
        let before = connection.acked;
        let mut due = self.first;
        loop {
            let now = Instant::now();
            if now >= self.end {
                return Ok(latencies);
            }
            if now >= due {
                connection.publish(1, UPDATE_BYTES).await?;
                due += self.period;
                continue;
            }
            // `acks` may be dropped between reads: what was read stays in the connection.
            let until = due.min(self.end);
            let Ok(count) = tokio::time::timeout_at(until.into(), connection.acks()).await else { continue };
            let count = count?;
            settled.fetch_add(count, Ordering::Relaxed);
            let now = Instant::now();
            for place in connection.acked - before - count..connection.acked - before {
                let scheduled = self.first + self.period * place as u32;
                if scheduled >= self.warm {
                    let late = now.saturating_duration_since(scheduled).as_micros();
                    latencies.record(late as u64).map_err(io::Error::other)?;
                }
            }
        }
    }
}
