//! Writes frames of the server: whole, never fragmented, without a mask. Each function appends to the bytes that leave
//! with the next write.

use crate::socket::deflate::{self, Negotiated};

/// Messages below this many bytes are not compressed: it would cost more than it saves.
pub const COMPRESS_FROM_BYTES: usize = 256;

/// Largest payload of a control frame (RFC 6455, section 5.5).
const CONTROL_BYTES: usize = 125;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Appends a message, compressed when that was negotiated and makes it smaller. `payload` of a text message must be
/// UTF-8.
pub fn message(out: &mut Vec<u8>, text: bool, payload: &[u8], compression: Option<Negotiated>) {
    let first = FIN | if text { TEXT } else { BINARY };
    match compression {
        Some(negotiated) if payload.len() >= COMPRESS_FROM_BYTES => compressed(out, first, payload, negotiated),
        _ => frame(out, first, payload),
    }
}

/// Appends a ping. What is above 125 bytes is cut off.
pub fn ping(out: &mut Vec<u8>, payload: &[u8]) {
    frame(out, FIN | PING, &payload[..payload.len().min(CONTROL_BYTES)]);
}

/// Appends a pong. What is above 125 bytes is cut off.
pub fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    frame(out, FIN | PONG, &payload[..payload.len().min(CONTROL_BYTES)]);
}

/// Appends a close frame with `code` and as much of `reason` as fits into it. Nothing may be appended after it.
pub fn close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let fits = (0..=reason.len().min(CONTROL_BYTES - 2)).rev().find(|&end| reason.is_char_boundary(end));
    let reason = &reason[..fits.unwrap_or(0)];
    out.reserve(4 + reason.len());
    out.extend_from_slice(&[FIN | CLOSE, 2 + reason.len() as u8]);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    let (head, len) = header(first, payload.len());
    out.reserve(len + payload.len());
    out.extend_from_slice(&head[..len]);
    out.extend_from_slice(payload);
}

/// Compresses straight into `out`, behind room for the header: its length is known only afterwards.
fn compressed(out: &mut Vec<u8>, first: u8, payload: &[u8], negotiated: Negotiated) {
    /// The header of most messages that are compressed: 126 bytes to 64 KiB.
    const ROOM: usize = 4;
    let start = out.len();
    out.extend_from_slice(&[0; ROOM]);
    deflate::deflate(payload, negotiated.window_bits(), out);
    let packed = out.len() - start - ROOM;
    if packed >= payload.len() {
        out.truncate(start);
        return frame(out, first, payload);
    }
    let (head, len) = header(first | RSV1, packed);
    if len == ROOM {
        out[start..start + ROOM].copy_from_slice(&head[..ROOM]);
    } else {
        out.splice(start..start + ROOM, head[..len].iter().copied());
    }
}

/// The header of a frame of `length` bytes, and how many of its bytes count.
fn header(first: u8, length: usize) -> ([u8; 10], usize) {
    let mut head = [0; 10];
    head[0] = first;
    let len = if length < 126 {
        head[1] = length as u8;
        2
    } else if let Ok(length) = u16::try_from(length) {
        head[1] = 126;
        head[2..4].copy_from_slice(&length.to_be_bytes());
        4
    } else {
        head[1] = 127;
        head[2..10].copy_from_slice(&(length as u64).to_be_bytes());
        10
    };
    (head, len)
}
