//! Any bytes, cut anyhow: no panic, memory within the limit, nothing held between messages, and the same events as from
//! the bytes in one piece.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::socket::decoder::{Decoder, DecoderConfig, Event};

/// Beside the message itself: the books of an unfinished one, and what deflate may add to incompressible data.
const SLACK: usize = 1024;

/// An event or violation as text; its bytes count, its place in memory does not.
fn read(config: &DecoderConfig, bytes: &[u8], mut cut: impl FnMut() -> usize) -> Vec<String> {
    let mut decoder = Decoder::new();
    let mut seen = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(cut().clamp(1, rest.len()));
        rest = after;
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            let used = match decoder.decode(config, input, 1) {
                Ok((used, None)) => {
                    assert_eq!(used, input.len());
                    break;
                }
                Ok((used, Some(event))) => {
                    if let Event::Message { payload, .. } = event {
                        assert!(payload.len() <= config.message_bytes);
                    }
                    seen.push(format!("{event:?}"));
                    if matches!(event, Event::Close(_)) {
                        return seen;
                    }
                    used
                }
                Err(violation) => {
                    seen.push(format!("{violation:?}"));
                    return seen;
                }
            };
            input = &mut input[used..];
            assert!(decoder.held_bytes() <= config.message_bytes + SLACK);
        }
        assert!(decoder.held_bytes() <= config.message_bytes + SLACK);
        assert_eq!(decoder.held_bytes() == 0, decoder.assembling_since().is_none());
    }
    seen
}

fuzz_target!(|data: &[u8]| {
    // The first bytes choose the cuts, the rest is what the client sends.
    let Some((setup, bytes)) = data.split_first_chunk::<8>() else { return };
    let config = DecoderConfig { message_bytes: 2048, fragments: 8, deflate: setup[0] & 1 == 1 };
    let whole = read(&config, bytes, || usize::MAX);
    let mut at = 0;
    let cut = || {
        at = (at + 1) % setup.len();
        usize::from(setup[at])
    };
    assert_eq!(read(&config, bytes, cut), whole);
    assert_eq!(read(&config, bytes, || 1), whole);
});
