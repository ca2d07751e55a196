//! One raw client connection: plain or TLS, WebSocket with JSON or MQTT inside. Opened with blocking calls, then
//! driven by [`crate::crowd`] and [`crate::paced`] without blocking.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream as Socket;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::frame;
use crate::telemetry::{self, FIRST_SEQ, Telemetry};

/// How long one step of connecting may take.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of the buffer that connections are read into, one for all of them.
pub const SCRATCH_BYTES: usize = 64 * 1024;

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

/// A stream, and TLS where it has that.
pub struct Pipe<S> {
    stream: S,
    tls: Option<Box<ClientConnection>>,
}

/// An open connection of one device.
pub struct Connection {
    pipe: Pipe<Socket>,
    speech: Speech,
    /// Which device it is.
    pub number: u64,
    telemetry: Box<Telemetry>,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: u64,
    settled: u64,
}

/// An error in words.
pub fn failed(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

impl Pipe<TcpStream> {
    /// TCP, and the TLS handshake where the target has TLS; blocking.
    ///
    /// # Errors
    /// When the peer cannot be reached, its certificate is not the expected one, or a step takes longer than 20 s.
    pub fn open(target: &Target) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&target.address, STEP_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STEP_TIMEOUT))?;
        stream.set_write_timeout(Some(STEP_TIMEOUT))?;
        let Some(config) = &target.tls else { return Ok(Self { stream, tls: None }) };
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        tls.set_buffer_limit(None);
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        Ok(Self { stream, tls: Some(Box::new(tls)) })
    }
}

impl<S: Read + Write> Pipe<S> {
    /// Reads into `scratch`; 0 at the end of the stream.
    fn read(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.read(scratch) };
        loop {
            match tls.reader().read(scratch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if tls.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Writes what the peer takes; what it does not take stays in `output` or in the TLS layer.
    fn write(&mut self, output: &mut Vec<u8>) -> io::Result<()> {
        let done = match &mut self.tls {
            None => write_all_it_takes(&mut self.stream, output),
            Some(tls) => {
                tls.writer().write_all(output)?;
                output.clear();
                write_tls(tls, &mut self.stream)
            }
        };
        match done {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }
}

fn write_all_it_takes(stream: &mut impl Write, output: &mut Vec<u8>) -> io::Result<()> {
    while !output.is_empty() {
        let written = stream.write(output)?;
        output.drain(..written);
    }
    Ok(())
}

fn write_tls(tls: &mut ClientConnection, stream: &mut impl Write) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(stream)?;
    }
    Ok(())
}

impl Connection {
    /// Connects and waits until the peer has said all that it says first.
    ///
    /// # Errors
    /// When the peer cannot be reached, refuses, or a step takes longer than 20 s.
    pub fn open(target: &Target, number: u64) -> io::Result<Self> {
        let mut pipe = Pipe::open(target)?;
        let token = target.token.as_ref().map(|token| token(number)).transpose().map_err(failed)?;
        let mut input = upgrade(&mut pipe, target.speech, token)?;
        match target.speech {
            Speech::Tidegate => first_frame(&mut pipe, &mut input, b"\"welcome\"")?,
            Speech::Mqtt => {
                pipe.write(&mut mqtt_connect(&telemetry::device_id(number)))?;
                first_frame(&mut pipe, &mut input, &[0x20, 2, 0, 0])?;
            }
            Speech::Echo | Speech::AckEach => {}
        }
        // Quiet connections are held by the thousand: none of them keeps a buffer.
        input.shrink_to_fit();
        pipe.stream.set_nonblocking(true)?;
        Ok(Self {
            pipe: Pipe { stream: Socket::from_std(pipe.stream), tls: pipe.tls },
            speech: target.speech,
            number,
            telemetry: Box::new(Telemetry::new(number, telemetry::unix_ms())),
            input,
            output: Vec::new(),
            sent: 0,
            settled: 0,
        })
    }

    /// The socket, for registering it.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.pipe.stream
    }

    /// Updates sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Updates that the peer has settled so far.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Sends the next `count` updates in one write.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn publish(&mut self, count: u64, unix_ms: u64) -> io::Result<()> {
        for _ in 0..count {
            let (seq, speech) = (FIRST_SEQ + self.sent, self.speech);
            put_message(&mut self.output, speech, seq, self.telemetry.update(seq, unix_ms));
            self.sent += 1;
        }
        self.flush()
    }

    /// Sends one update of `bytes`.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn publish_large(&mut self, bytes: usize) -> io::Result<()> {
        let seq = FIRST_SEQ + self.sent;
        let text = telemetry::large_update(&telemetry::device_id(self.number), seq, bytes);
        put_message(&mut self.output, self.speech, seq, &text);
        self.sent += 1;
        self.flush()
    }

    /// Writes what could not be written before.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        self.pipe.write(&mut self.output)
    }

    /// Gives the buffers back.
    pub fn shrink(&mut self) {
        self.input.shrink_to_fit();
        self.output.shrink_to_fit();
    }

    /// Reads all there is and answers pings. `on` gets the numbers of the updates that are settled by it, counted
    /// from 0 in the order they were sent.
    ///
    /// # Errors
    /// When the connection ended or the peer said what it should not.
    pub fn receive(&mut self, scratch: &mut [u8], mut on: impl FnMut(Range<u64>)) -> io::Result<()> {
        loop {
            let read = match self.pipe.read(scratch) {
                Ok(0) => return Err(failed("the peer ended the connection")),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            if self.input.is_empty() {
                let used = self.take_frames(&scratch[..read], &mut on)?;
                self.input.extend_from_slice(&scratch[used..read]);
            } else {
                let mut input = std::mem::take(&mut self.input);
                input.extend_from_slice(&scratch[..read]);
                let used = self.take_frames(&input, &mut on)?;
                input.drain(..used);
                self.input = input;
            }
            // Edge-triggered: a read that did not fill the buffer has emptied a plain socket.
            if self.pipe.tls.is_none() && read < scratch.len() {
                break;
            }
        }
        Ok(())
    }

    fn take_frames(&mut self, bytes: &[u8], on: &mut impl FnMut(Range<u64>)) -> io::Result<usize> {
        let mut at = 0;
        while let Some(found) = frame::find(bytes, at) {
            let payload = &bytes[found.start..found.end];
            match found.opcode {
                frame::PING => frame::put_masked(&mut self.output, frame::PONG, payload),
                frame::PONG => {}
                frame::CLOSE => return Err(failed(format!("closed: {}", String::from_utf8_lossy(payload)))),
                _ => {
                    let settled = settles(self.speech, self.settled, payload)?;
                    if settled.end > self.sent {
                        return Err(failed(format!("an ack of what was not sent: {settled:?} of {}", self.sent)));
                    }
                    self.settled += settled.end - settled.start;
                    on(settled);
                }
            }
            at = found.end;
        }
        Ok(at)
    }
}

/// The updates that a message of the peer settles, `before` of them being settled already.
fn settles(speech: Speech, before: u64, payload: &[u8]) -> io::Result<Range<u64>> {
    match speech {
        Speech::Echo => Ok(before..before + 1),
        Speech::Mqtt => {
            let acks = payload.chunks(4).filter(|packet| packet[0] == 0x40).count() as u64;
            Ok(before..before + acks)
        }
        Speech::AckEach => seq_of(payload).map(|place| place..place + 1).ok_or_else(|| not_an_ack(payload)),
        Speech::Tidegate => match seq_of(payload) {
            Some(place) => Ok(before..before.max(place + 1)),
            None if contains(payload, b"\"pause\"") || contains(payload, b"\"resume\"") => Ok(before..before),
            None => Err(not_an_ack(payload)),
        },
    }
}

fn not_an_ack(payload: &[u8]) -> io::Error {
    failed(format!("not an ack: {}", String::from_utf8_lossy(payload)))
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// Which update an ack in JSON is about, counted from 0.
fn seq_of(payload: &[u8]) -> Option<u64> {
    if !contains(payload, b"\"ack\"") {
        return None;
    }
    let key = b"\"seq\":";
    let at = payload.windows(key.len()).position(|window| window == key)? + key.len();
    let digits = payload[at..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0_u64, |seq, digit| seq * 10 + u64::from(digit - b'0')).checked_sub(FIRST_SEQ)
}

/// Asks for the upgrade; what came behind the answer.
fn upgrade(pipe: &mut Pipe<TcpStream>, speech: Speech, token: Option<String>) -> io::Result<Vec<u8>> {
    let path = if speech == Speech::Tidegate { "/v1/device?boot=bench" } else { "/" };
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    );
    if speech == Speech::Mqtt {
        request.push_str("Sec-WebSocket-Protocol: mqtt\r\n");
    }
    if let Some(token) = token {
        request.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    request.push_str("\r\n");
    pipe.write(&mut request.into_bytes())?;
    let mut input = Vec::new();
    loop {
        fill(pipe, &mut input)?;
        if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            if !input.starts_with(b"HTTP/1.1 101") {
                return Err(failed(format!("the upgrade was refused: {}", String::from_utf8_lossy(&input))));
            }
            input.drain(..end + 4);
            return Ok(input);
        }
    }
}

fn fill(pipe: &mut Pipe<TcpStream>, input: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = [0; 1024];
    match pipe.read(&mut bytes)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => {
            input.extend_from_slice(&bytes[..read]);
            Ok(())
        }
    }
}

fn first_frame(pipe: &mut Pipe<TcpStream>, input: &mut Vec<u8>, what: &[u8]) -> io::Result<()> {
    loop {
        if let Some(found) = frame::find(input, 0) {
            let payload = &input[found.start..found.end];
            if !contains(payload, what) {
                return Err(failed(format!("unexpected first frame: {}", String::from_utf8_lossy(payload))));
            }
            input.drain(..found.end);
            return Ok(());
        }
        fill(pipe, input)?;
    }
}

fn mqtt_connect(id: &str) -> Vec<u8> {
    let mut packet = vec![0x10, (12 + id.len()) as u8, 0, 4];
    packet.extend_from_slice(b"MQTT\x04\x02\x00\x00\x00");
    packet.push(id.len() as u8);
    packet.extend_from_slice(id.as_bytes());
    let mut out = Vec::new();
    frame::put_masked(&mut out, frame::BINARY, &packet);
    out
}

/// One update as the peer wants it.
fn put_message(out: &mut Vec<u8>, speech: Speech, seq: u64, payload: &[u8]) {
    if speech != Speech::Mqtt {
        return frame::put_masked(out, frame::TEXT, payload);
    }
    let topic = b"bench/climate";
    let mut packet = vec![0x32];
    let mut rest = 2 + topic.len() + 2 + payload.len();
    while rest >= 128 {
        packet.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    packet.extend_from_slice(&[rest as u8, 0, topic.len() as u8]);
    packet.extend_from_slice(topic);
    packet.extend_from_slice(&((seq % 65_535 + 1) as u16).to_be_bytes());
    packet.extend_from_slice(payload);
    frame::put_masked(out, frame::BINARY, &packet);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn acks_settle_what_they_name_and_nothing_else_passes_for_one() {
        let ack = |seq: u64| format!("{{\"type\":\"ack\",\"seq\":{}}}", FIRST_SEQ + seq).into_bytes();
        assert_eq!(settles(Speech::Tidegate, 2, &ack(4)).unwrap(), 2..5);
        assert_eq!(settles(Speech::Tidegate, 5, &ack(4)).unwrap(), 5..5, "said again");
        assert_eq!(settles(Speech::AckEach, 2, &ack(4)).unwrap(), 4..5);
        assert_eq!(settles(Speech::Mqtt, 2, &[0x40, 2, 0, 1, 0x40, 2, 0, 2]).unwrap(), 2..4);
        assert_eq!(settles(Speech::Tidegate, 2, br#"{"type":"pause","reason":"log"}"#).unwrap(), 2..2);
        assert!(settles(Speech::Tidegate, 2, br#"{"type":"refused","seq":1000003}"#).is_err());
    }

    #[test]
    fn an_mqtt_publish_says_its_own_length() {
        for bytes in [100, 150, 20_000] {
            let mut out = Vec::new();
            put_message(&mut out, Speech::Mqtt, FIRST_SEQ, &vec![b'x'; bytes]);
            let found = frame::find(&out, 0).unwrap();
            frame::unmask(&mut out[found.start..found.end], found.mask.unwrap());
            let packet = &out[found.start..found.end];
            let ends = packet[1..].iter().position(|byte| byte & 0x80 == 0).unwrap();
            let says = packet[1..=ends + 1].iter().rev().fold(0, |sum, byte| sum * 128 + usize::from(byte & 0x7f));
            assert_eq!(says, packet.len() - ends - 2);
        }
    }
}
