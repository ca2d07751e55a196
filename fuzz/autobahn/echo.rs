//! The server the Autobahn test suite is run against: the gateway's frame reader and writer on a blocking socket, one
//! thread a connection, every message sent back as it came. `echo [address]`, default 127.0.0.1:9001.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};

use base64::Engine;
use sha1::{Digest, Sha1};
use tidegate_fuzz::socket::decoder::{Decoder, DecoderConfig, Event};
use tidegate_fuzz::socket::deflate::{self, Negotiated};
use tidegate_fuzz::socket::encoder;

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    for stream in TcpListener::bind(address)?.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || {
            if let Ok(negotiated) = upgrade(&mut stream) {
                // A client that goes away is part of the suite.
                let _ = serve(stream, negotiated);
            }
        });
    }
    Ok(())
}

/// Reads the request's head and answers 101.
fn upgrade(stream: &mut TcpStream) -> Result<Option<Negotiated>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let key = header("Sec-WebSocket-Key").ok_or(ErrorKind::InvalidData)?;
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = base64::engine::general_purpose::STANDARD.encode(hash.finalize());
    let negotiated = header("Sec-WebSocket-Extensions").and_then(deflate::negotiate);
    let extension = negotiated.map_or(String::new(), |it| format!("Sec-WebSocket-Extensions: {}\r\n", it.response()));
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{extension}\r\n"
    )?;
    Ok(negotiated)
}

fn serve(mut stream: TcpStream, negotiated: Option<Negotiated>) -> Result<()> {
    let config = DecoderConfig { message_bytes: 64 << 20, fragments: 1 << 20, deflate: negotiated.is_some() };
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        let mut out = Vec::new();
        let closed = answer(&mut decoder, &config, negotiated, &mut buffer[..read], &mut out);
        stream.write_all(&out)?;
        if closed {
            stream.shutdown(std::net::Shutdown::Write)?;
            // What the client still sends is read away, so that it gets our close and no reset.
            while stream.read(&mut buffer)? > 0 {}
            return Ok(());
        }
    }
}

/// Answers the events of `input`; whether the connection is over.
fn answer(
    decoder: &mut Decoder,
    config: &DecoderConfig,
    negotiated: Option<Negotiated>,
    mut input: &mut [u8],
    out: &mut Vec<u8>,
) -> bool {
    loop {
        let used = match decoder.decode(config, input, 0) {
            Ok((_, None)) => return false,
            Ok((used, Some(event))) => {
                match event {
                    Event::Message { text, payload } => encoder::message(out, text, payload, negotiated),
                    Event::Ping(payload) => encoder::pong(out, payload),
                    Event::Pong(_) => {}
                    Event::Close(body) => {
                        encoder::close(out, body.map_or(1000, |(code, _)| code), "");
                        return true;
                    }
                }
                used
            }
            Err(violation) => {
                encoder::close(out, violation.close.code(), violation.what);
                return true;
            }
        };
        input = &mut input[used..];
    }
}
