//! WebSocket frames for load: a masked-frame writer and a frame finder that allocate nothing, so that the generator
//! is neither the bottleneck nor the cause of a server's cost. Only for peers that are trusted to be well-formed.

/// Text frame.
pub const TEXT: u8 = 1;
/// Binary frame.
pub const BINARY: u8 = 2;
/// Close frame.
pub const CLOSE: u8 = 8;
/// Ping frame.
pub const PING: u8 = 9;
/// Pong frame.
pub const PONG: u8 = 10;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Appends the head of a final frame; with `mask` the bytes that follow must be masked with it.
pub fn put_head(out: &mut Vec<u8>, opcode: u8, length: usize, mask: Option<[u8; 4]>) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    if length < 126 {
        out.push(masked | length as u8);
    } else if length <= usize::from(u16::MAX) {
        out.push(masked | 126);
        out.extend_from_slice(&(length as u16).to_be_bytes());
    } else {
        out.push(masked | 127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
    if let Some(mask) = mask {
        out.extend_from_slice(&mask);
    }
}

/// Appends one masked frame, as a client sends it.
pub fn put_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    put_head(out, opcode, payload.len(), Some(MASK));
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], MASK);
}

/// Appends one frame as a server sends it.
pub fn put_plain(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    put_head(out, opcode, payload.len(), None);
    out.extend_from_slice(payload);
}

/// Masks or unmasks in place.
pub fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0_u8; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    for (place, byte) in chunks.into_remainder().iter_mut().enumerate() {
        *byte ^= mask[place % 4];
    }
}

/// One frame found in a buffer: where its payload lies and what masks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The opcode.
    pub opcode: u8,
    /// Where the payload starts.
    pub start: usize,
    /// Where it ends, which is where the next frame starts.
    pub end: usize,
    /// The mask, where there is one.
    pub mask: Option<[u8; 4]>,
}

/// The frame that starts at `at`, if all of it is there.
pub fn find(bytes: &[u8], at: usize) -> Option<Found> {
    let head = bytes.get(at..at + 2)?;
    let opcode = head[0] & 0x0f;
    let masked = head[1] & 0x80 != 0;
    let mut start = at + 2;
    let length = match head[1] & 0x7f {
        126 => {
            let long: [u8; 2] = bytes.get(start..start + 2)?.try_into().ok()?;
            start += 2;
            usize::from(u16::from_be_bytes(long))
        }
        127 => {
            let long: [u8; 8] = bytes.get(start..start + 8)?.try_into().ok()?;
            start += 8;
            usize::try_from(u64::from_be_bytes(long)).ok()?
        }
        short => usize::from(short),
    };
    let mask = if masked {
        let mask: [u8; 4] = bytes.get(start..start + 4)?.try_into().ok()?;
        start += 4;
        Some(mask)
    } else {
        None
    };
    let end = start.checked_add(length)?;
    (end <= bytes.len()).then_some(Found { opcode, start, end, mask })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_masked_is_found_again_at_every_length_form() {
        for length in [0, 1, 125, 126, 150, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut bytes = vec![9, 9, 9];
            put_masked(&mut bytes, TEXT, &payload);
            let found = find(&bytes, 3).unwrap();
            assert_eq!((found.opcode, found.end), (TEXT, bytes.len()));
            unmask(&mut bytes[found.start..found.end], found.mask.unwrap());
            assert_eq!(&bytes[found.start..found.end], payload);
            assert_eq!(find(&bytes[..bytes.len() - 1], 3), None);
        }
    }
}
