//! A gateway that does what a test tells it, for what the real one does only in trouble: JSON in text frames, no TLS.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidegate_loadtest::frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// Listens on a free port.
pub struct Fake {
    listener: TcpListener,
}

/// One connection of a device to it.
pub struct Session {
    stream: TcpStream,
    input: Vec<u8>,
    /// The request, headers and all.
    pub request: String,
}

impl Fake {
    pub async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.listener.local_addr().unwrap())
    }

    /// The next connection, its request read.
    pub async fn accept(&self) -> Session {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.expect("a device connects").unwrap();
        let mut session = Session { stream, input: Vec::new(), request: String::new() };
        while !session.input.ends_with(b"\r\n\r\n") {
            session.more().await;
        }
        session.request = String::from_utf8(std::mem::take(&mut session.input)).unwrap();
        session
    }

    /// The next connection, welcomed; `fields` are added to the `welcome`.
    pub async fn welcome(&self, fields: Value) -> Session {
        let mut session = self.accept().await;
        session.upgrade().await;
        let mut welcome = json!({"type": "welcome", "device_id": "d1", "session": "s1", "epoch": 1, "heartbeat_s": 25,
            "max_message_bytes": 65_536, "window": 64, "server_time": 1_000_000});
        welcome.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap_or_default());
        session.say(welcome).await;
        session
    }

    /// Whether nobody connects for this long.
    pub async fn is_left_alone(&self, for_ms: u64) -> bool {
        timeout(Duration::from_millis(for_ms), self.listener.accept()).await.is_err()
    }
}

impl Session {
    pub async fn upgrade(&mut self) {
        let key = self.request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{guid}").as_bytes());
        let accept = STANDARD.encode(hash);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: tidegate.v1.json\r\n\r\n"
        );
        self.raw(answer.as_bytes()).await;
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends a message.
    pub async fn say(&mut self, message: Value) {
        let mut bytes = Vec::new();
        frame::put_plain(&mut bytes, frame::TEXT, message.to_string().as_bytes());
        self.raw(&bytes).await;
    }

    pub async fn ack(&mut self, seq: u64) {
        self.say(json!({"type": "ack", "seq": seq})).await;
    }

    pub async fn close(&mut self, code: u16) {
        let mut bytes = Vec::new();
        frame::put_plain(&mut bytes, frame::CLOSE, &code.to_be_bytes());
        self.raw(&bytes).await;
    }

    async fn more(&mut self) -> usize {
        timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await.expect("the device says something").unwrap_or(0)
    }

    /// The next frame: opcode and payload; none at the end of the connection.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(found) = frame::find(&self.input, 0) {
                let mut payload = self.input[found.start..found.end].to_vec();
                frame::unmask(&mut payload, found.mask.expect("a client masks"));
                self.input.drain(..found.end);
                return Some((found.opcode, payload));
            }
            if self.more().await == 0 {
                return None;
            }
        }
    }

    /// The next frame's messages: one, or those of a batch.
    pub async fn heard(&mut self) -> Vec<Value> {
        let (opcode, payload) = self.frame().await.expect("the device says something");
        assert_eq!(opcode, frame::TEXT, "{payload:?}");
        match serde_json::from_slice(&payload).unwrap() {
            Value::Array(batch) => batch,
            one => vec![one],
        }
    }

    /// The numbers of the next frame's updates.
    pub async fn seqs(&mut self) -> Vec<u64> {
        self.heard().await.iter().map(|message| message["seq"].as_u64().unwrap()).collect()
    }

    /// Reads until so many updates came; their numbers.
    pub async fn updates(&mut self, count: usize) -> Vec<u64> {
        let mut seqs = Vec::new();
        while seqs.len() < count {
            seqs.extend(self.seqs().await);
        }
        seqs
    }

    /// Reads up to a close frame; its code. None where there was only an end.
    pub async fn until_close(&mut self) -> Option<u16> {
        loop {
            let (opcode, payload) = self.frame().await?;
            if opcode == frame::CLOSE {
                return Some(u16::from_be_bytes([payload[0], payload[1]]));
            }
        }
    }

    /// Whether the device says nothing for this long.
    pub async fn is_quiet(&mut self, for_ms: u64) -> bool {
        timeout(Duration::from_millis(for_ms), self.frame()).await.is_err()
    }
}
