//! What a quiet device holds. Alone in its process, so that nothing else is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tidegate_loadtest::device::{Acked, Connected, Handle, Options, Update, Watcher, start};
use tidegate_loadtest::frame;

const DEVICES: usize = 2_000;
/// More than it is, and far below what one buffer would cost.
const MOST_BYTES: usize = 4_096;

#[derive(Clone, Default)]
struct Counts {
    connected: Arc<AtomicUsize>,
    acked: Arc<AtomicUsize>,
}

impl Watcher for Counts {
    fn connected(&mut self, _: &Connected<'_>) {
        self.connected.fetch_add(1, Ordering::SeqCst);
    }

    fn acked(&mut self, _: &Acked<'_>) {
        self.acked.fetch_add(1, Ordering::SeqCst);
    }
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap() * 4_096
}

/// Welcomes a device and acks its first update; holds nothing but the socket.
fn serve(mut stream: TcpStream) -> TcpStream {
    let mut input = [0; 2_048];
    let mut length = 0;
    while !input[..length].ends_with(b"\r\n\r\n") {
        length += stream.read(&mut input[length..]).unwrap();
    }
    let request = std::str::from_utf8(&input[..length]).unwrap();
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let hashed = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, hashed.as_bytes()));
    let mut answer = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n\r\n").into_bytes();
    frame::put_plain(&mut answer, frame::TEXT, br#"{"type":"welcome","device_id":"d","window":64}"#);
    stream.write_all(&answer).unwrap();
    assert!(stream.read(&mut input).unwrap() > 0, "the device's update");
    let mut ack = Vec::new();
    frame::put_plain(&mut ack, frame::TEXT, br#"{"type":"ack","seq":1}"#);
    stream.write_all(&ack).unwrap();
    stream
}

async fn until(count: &AtomicUsize, wanted: usize) {
    for _ in 0..3_000 {
        if count.load(Ordering::SeqCst) == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} of {wanted}", count.load(Ordering::SeqCst));
}

/// So many devices, each connected and with one update acked.
async fn quiet(url: &str, count: usize) -> Vec<Handle> {
    let counts = Counts::default();
    let mut handles = Vec::with_capacity(count);
    for number in 0..count {
        let handle = start(Options::new(url, &format!("d{number}")).unwrap(), Box::new(counts.clone()));
        handle.update(Update::now("t", "1")).unwrap();
        handles.push(handle);
        // The listen queue is short.
        if number % 50 == 49 {
            until(&counts.acked, number + 1).await;
        }
    }
    until(&counts.acked, count).await;
    assert_eq!(counts.connected.load(Ordering::SeqCst), count);
    handles
}

#[tokio::test]
async fn a_quiet_device_holds_little() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut open = Vec::with_capacity(2 * DEVICES);
        listener.incoming().for_each(|stream| open.push(serve(stream.unwrap())));
    });
    // Whatever is made once is made by now.
    let _first = quiet(&url, 100).await;
    let before = resident();
    let _devices = quiet(&url, DEVICES).await;
    let each = resident().saturating_sub(before) / DEVICES;
    eprintln!("a quiet device holds {each} bytes, over plain TCP");
    assert!(each < MOST_BYTES, "{each} bytes");
}
