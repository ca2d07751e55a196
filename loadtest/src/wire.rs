//! One raw client connection: plain or TLS, WebSocket with JSON, MQTT or NATS inside. Opened with blocking calls, then
//! driven by [`crate::crowd`] and [`crate::paced`] without blocking.

mod speech;

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
pub use speech::{NATS_SUBJECT, Speech};

/// How long one step of connecting may take.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of the buffer that connections are read into, one for all of them.
pub const SCRATCH_BYTES: usize = 64 * 1024;

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
    /// A message that goes on in the next frame, where the peer cuts them so.
    part: Vec<u8>,
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
        if let Some(mut first) = target.speech.greeting(number) {
            pipe.write(&mut first)?;
        }
        if let Some(what) = target.speech.awaits() {
            await_frame(&mut pipe, &mut input, target.speech, what)?;
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
            part: Vec::new(),
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
            let update = self.telemetry.update(FIRST_SEQ + self.sent, unix_ms);
            self.speech.put(&mut self.output, self.number, self.sent, update);
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
        self.speech.put(&mut self.output, self.number, self.sent, &text);
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
                _ => self.take_message(payload, on)?,
            }
            at = found.end;
        }
        Ok(at)
    }

    fn take_message(&mut self, payload: &[u8], on: &mut impl FnMut(Range<u64>)) -> io::Result<()> {
        let (sent, settled) = (self.sent, &mut self.settled);
        self.speech.take(*settled, payload, &mut self.part, &mut self.output, |range| {
            if range.end > sent {
                return Err(failed(format!("an ack of what was not sent: {range:?} of {sent}")));
            }
            *settled += range.end - range.start;
            on(range);
            Ok(())
        })
    }
}

/// Asks for the upgrade; what came behind the answer.
fn upgrade(pipe: &mut Pipe<TcpStream>, speech: Speech, token: Option<String>) -> io::Result<Vec<u8>> {
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
        speech.path()
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

/// Waits for the message that says that updates may be sent.
fn await_frame(pipe: &mut Pipe<TcpStream>, input: &mut Vec<u8>, speech: Speech, what: &[u8]) -> io::Result<()> {
    loop {
        while let Some(found) = frame::find(input, 0) {
            let payload = &input[found.start..found.end];
            let (wanted, passed) = (contains(payload, what), speech.passes(payload));
            if !wanted && !passed {
                return Err(failed(format!("unexpected first frame: {}", String::from_utf8_lossy(payload))));
            }
            input.drain(..found.end);
            if wanted {
                return Ok(());
            }
        }
        fill(pipe, input)?;
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}
