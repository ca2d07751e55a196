//! The least a WebSocket server can do: one thread, epoll, no timers, no limits. It answers the handshake, echoes each
//! frame and gathers the replies of one readiness event in one write. A baseline for the gateway's CPU per message.
//!
//! `bare-echo ADDRESS`

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use tidegate_loadtest::frame;

const LISTENER: Token = Token(usize::MAX);
const SCRATCH_BYTES: usize = 64 * 1024;
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

struct Peer {
    stream: TcpStream,
    open: bool,
    tail: Vec<u8>,
    unsent: Vec<u8>,
}

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut peers: HashMap<usize, Peer> = HashMap::new();
    let mut next = 0;
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut out = Vec::with_capacity(SCRATCH_BYTES);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                accept_all(&poll, &listener, &mut peers, &mut next)?;
                continue;
            }
            let key = event.token().0;
            let Some(peer) = peers.get_mut(&key) else { continue };
            if serve(peer, &mut scratch, &mut out).is_err() {
                peers.remove(&key);
            }
        }
    }
}

fn accept_all(
    poll: &Poll,
    listener: &TcpListener,
    peers: &mut HashMap<usize, Peer>,
    next: &mut usize,
) -> io::Result<()> {
    loop {
        let (mut stream, _) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        poll.registry().register(&mut stream, Token(*next), Interest::READABLE | Interest::WRITABLE)?;
        peers.insert(*next, Peer { stream, open: false, tail: Vec::new(), unsent: Vec::new() });
        *next += 1;
    }
}

/// Reads what is there, answers it, and writes once for each read.
fn serve(peer: &mut Peer, scratch: &mut [u8], out: &mut Vec<u8>) -> io::Result<()> {
    flush_unsent(peer)?;
    loop {
        let tail = peer.tail.len();
        if tail == scratch.len() {
            return Err(io::Error::other("a frame larger than the scratch buffer"));
        }
        scratch[..tail].copy_from_slice(&peer.tail);
        let read = match peer.stream.read(&mut scratch[tail..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        peer.tail.clear();
        out.clear();
        let filled = tail + read;
        let used =
            if peer.open { echo(&mut scratch[..filled], out)? } else { handshake(peer, &scratch[..filled], out)? };
        peer.tail.extend_from_slice(&scratch[used..filled]);
        send(peer, out)?;
        // Edge-triggered: a read that did not fill the buffer has emptied the socket.
        if filled < scratch.len() {
            return Ok(());
        }
    }
}

fn handshake(peer: &mut Peer, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(0) };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let key = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .map(|(_, value)| value.trim().to_owned())
        .ok_or_else(|| io::Error::other("no Sec-WebSocket-Key"))?;
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    let accept = STANDARD.encode(hash.finish());
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    out.extend_from_slice(format!("Sec-WebSocket-Accept: {accept}\r\n\r\n").as_bytes());
    peer.open = true;
    Ok(end + 4)
}

fn echo(bytes: &mut [u8], out: &mut Vec<u8>) -> io::Result<usize> {
    let mut at = 0;
    while let Some(found) = frame::find(bytes, at) {
        let payload = &mut bytes[found.start..found.end];
        if let Some(mask) = found.mask {
            frame::unmask(payload, mask);
        }
        match found.opcode {
            frame::CLOSE => return Err(io::ErrorKind::ConnectionAborted.into()),
            frame::PING => frame::put_plain(out, frame::PONG, payload),
            frame::PONG => {}
            opcode => frame::put_plain(out, opcode, payload),
        }
        at = found.end;
    }
    Ok(at)
}

fn send(peer: &mut Peer, out: &[u8]) -> io::Result<()> {
    if !peer.unsent.is_empty() {
        peer.unsent.extend_from_slice(out);
        return flush_unsent(peer);
    }
    let written = write_some(&mut peer.stream, out)?;
    peer.unsent.extend_from_slice(&out[written..]);
    Ok(())
}

fn flush_unsent(peer: &mut Peer) -> io::Result<()> {
    if !peer.unsent.is_empty() {
        let written = write_some(&mut peer.stream, &peer.unsent)?;
        peer.unsent.drain(..written);
    }
    Ok(())
}

fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
