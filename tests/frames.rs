//! The frame reader against the rules (numbers are those of the list of bad input, section "Frames"), against itself
//! under any cutting of its input, and against fastwebsockets; the writer and permessage-deflate against the reader,
//! fastwebsockets and plain zlib streams.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use tidegate::socket::decoder::{Decoder, DecoderConfig, Event};
use tidegate::socket::{deflate, encoder};

#[path = "frames/differential.rs"]
mod differential;
#[path = "frames/packing.rs"]
mod packing;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LIMIT: usize = 64 * 1024;
const PLAIN: DecoderConfig = DecoderConfig { message_bytes: LIMIT, fragments: 128, deflate: false };
const PACKED: DecoderConfig = DecoderConfig { deflate: true, ..PLAIN };

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const CONT: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// An event, kept.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Got {
    Message(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Violation(u16, &'static str),
}

impl From<Event<'_>> for Got {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message { text, payload } => Self::Message(text, payload.to_vec()),
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong(payload) => Self::Pong(payload.to_vec()),
            Event::Close(body) => Self::Close(body.map(|(code, reason)| (code, reason.to_owned()))),
        }
    }
}

/// A client's frame in its shortest form.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = announce(first, payload.len());
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// The header of a client's frame of `length` bytes.
fn announce(first: u8, length: usize) -> Vec<u8> {
    let mut out = vec![first];
    match length {
        0..126 => out.push(0x80 | length as u8),
        126..0x1_0000 => {
            out.push(0xfe);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(0xff);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out
}

/// Reads on until there is no event, a close or a violation; whether there may be more.
fn feed(decoder: &mut Decoder, config: &DecoderConfig, mut input: &mut [u8], got: &mut Vec<Got>) -> bool {
    loop {
        match decoder.decode(config, input, 1) {
            Ok((used, None)) => {
                assert_eq!(used, input.len(), "without an event everything is used");
                return true;
            }
            Ok((used, Some(event))) => {
                let event = Got::from(event);
                let closed = matches!(event, Got::Close(_));
                got.push(event);
                input = &mut input[used..];
                if closed {
                    return false;
                }
            }
            Err(violation) => {
                got.push(Got::Violation(violation.close.code(), violation.what));
                return false;
            }
        }
        let slack = config.message_bytes / 64 + 64 + 512;
        assert!(decoder.held_bytes() <= config.message_bytes + slack, "held {}", decoder.held_bytes());
    }
}

/// Reads `bytes` in pieces of the sizes `cuts`, in turn.
fn read_cut(config: &DecoderConfig, bytes: &[u8], cuts: &[usize]) -> (Vec<Got>, Decoder) {
    let (mut decoder, mut got, mut rest) = (Decoder::new(), Vec::new(), bytes);
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
        rest = after;
        if !feed(&mut decoder, config, &mut piece.to_vec(), &mut got) {
            break;
        }
    }
    (got, decoder)
}

/// Reads `bytes` at once, in single bytes, and in sevens; the events must be the same.
fn read(config: &DecoderConfig, bytes: &[u8]) -> Vec<Got> {
    let (whole, _) = read_cut(config, bytes, &[usize::MAX]);
    for cut in [1, 7] {
        assert_eq!(read_cut(config, bytes, &[cut]).0, whole, "in pieces of {cut}");
    }
    whole
}

fn violates(case: &str, config: &DecoderConfig, bytes: &[u8], code: u16) {
    match read(config, bytes).last() {
        Some(Got::Violation(got, what)) => assert_eq!(*got, code, "{case}: {what}"),
        other => panic!("{case}: no violation but {other:?}"),
    }
}

fn fragments(pieces: &[&[u8]], first: u8) -> Vec<u8> {
    let last = pieces.len() - 1;
    let opcode = |at| if at == 0 { first } else { CONT };
    let each = pieces.iter().enumerate();
    each.flat_map(|(at, piece)| frame(opcode(at) | if at == last { FIN } else { 0 }, piece)).collect()
}

#[test]
fn frames_of_every_length_form_are_read() {
    for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536] {
        let payload = vec![b'x'; length];
        for (first, text) in [(FIN | TEXT, true), (FIN | BINARY, false)] {
            assert_eq!(read(&PLAIN, &frame(first, &payload)), [Got::Message(text, payload.clone())], "{length}");
        }
    }
}

#[test]
fn case_79_reserved_bits_are_a_protocol_error() {
    for bits in [0x20, 0x10, 0x30, 0x50, 0x70] {
        violates("RSV2, RSV3", &PACKED, &frame(FIN | bits | TEXT, b"x"), 1002);
    }
    for opcode in [TEXT, BINARY, PING, PONG, CLOSE] {
        violates("RSV1, nothing negotiated", &PLAIN, &frame(FIN | RSV1 | opcode, &[]), 1002);
    }
    for opcode in [PING, PONG, CLOSE] {
        violates("RSV1 on a control frame", &PACKED, &frame(FIN | RSV1 | opcode, &[]), 1002);
    }
    let inside = [frame(TEXT, b"a"), frame(FIN | RSV1 | CONT, b"b")].concat();
    violates("RSV1 on a later frame", &PACKED, &inside, 1002);
}

#[test]
fn case_80_reserved_opcodes_are_a_protocol_error() {
    for opcode in (3..8).chain(11..16) {
        violates("opcode", &PLAIN, &frame(FIN | opcode, &[]), 1002);
    }
}

#[test]
fn a_frame_without_a_mask_is_a_protocol_error() {
    for opcode in [TEXT, BINARY, PING, PONG, CLOSE] {
        violates("unmasked", &PLAIN, &[FIN | opcode, 0], 1002);
    }
}

#[test]
fn control_frames_are_whole_and_small() {
    for opcode in [PING, PONG, CLOSE] {
        violates("126 bytes", &PLAIN, &frame(FIN | opcode, &[b'x'; 126]), 1002);
        violates("fragmented", &PLAIN, &frame(opcode, &[]), 1002);
    }
}

#[test]
fn cases_85_and_86_fragment_129_is_abuse() {
    for piece in [&b"x"[..], b""] {
        let fits = fragments(&[piece; 128], TEXT);
        assert_eq!(read(&PLAIN, &fits), [Got::Message(true, piece.repeat(128))]);
        violates("fragment 129", &PLAIN, &fragments(&[piece; 129], TEXT), 1008);
    }
}

#[test]
fn fragments_are_in_order() {
    violates("continuation of nothing", &PLAIN, &frame(FIN | CONT, b"x"), 1002);
    violates("open continuation of nothing", &PLAIN, &frame(CONT, b"x"), 1002);
    let done = [frame(FIN | TEXT, b"a"), frame(FIN | CONT, b"b")].concat();
    violates("continuation of a whole message", &PLAIN, &done, 1002);
    for first in [TEXT, BINARY, FIN | TEXT, FIN | BINARY] {
        let inside = [frame(TEXT, b"a"), frame(first, b"b")].concat();
        violates("message inside a message", &PLAIN, &inside, 1002);
    }
}

#[test]
fn cases_88_and_89_lengths_are_sane_and_in_their_shortest_form() {
    let header = |code: u8, length: &[u8]| [&[FIN | BINARY, 0x80 | code], length, &MASK].concat();
    violates("top bit", &PLAIN, &header(127, &[0xff; 8]), 1002);
    violates("top bit alone", &PLAIN, &header(127, &[0x80, 0, 0, 0, 0, 0, 0, 0]), 1002);
    violates("2^63 - 1", &PLAIN, &header(127, &i64::MAX.to_be_bytes()), 1009);
    violates("125 in two bytes", &PLAIN, &header(126, &125_u16.to_be_bytes()), 1002);
    violates("0 in two bytes", &PLAIN, &header(126, &[0, 0]), 1002);
    violates("65,535 in eight bytes", &PLAIN, &header(127, &65_535_u64.to_be_bytes()), 1002);
}

#[test]
fn the_announced_length_is_refused_before_its_bytes_come() {
    violates("one frame", &PLAIN, &announce(FIN | BINARY, LIMIT + 1), 1009);
    let second = [frame(BINARY, &[0; LIMIT]), announce(FIN | CONT, 1)].concat();
    violates("the sum of fragments", &PLAIN, &second, 1009);
    let fits = fragments(&[&[7; LIMIT / 2], &[7; LIMIT / 2]], BINARY);
    assert_eq!(read(&PLAIN, &fits), [Got::Message(false, vec![7; LIMIT])]);
}

#[test]
fn an_announced_length_reserves_nothing() {
    let mut decoder = Decoder::new();
    let mut start = [announce(FIN | BINARY, LIMIT), vec![0; 100]].concat();
    assert!(matches!(decoder.decode(&PLAIN, &mut start, 5), Ok((_, None))));
    assert!(decoder.held_bytes() < 1024, "held {}", decoder.held_bytes());
}

#[test]
fn cases_91_and_103_show_since_when_a_message_is_assembled() {
    let mut decoder = Decoder::new();
    let mut at = |mut bytes: Vec<u8>, now_ms| {
        let mut input = &mut bytes[..];
        while let Ok((used, Some(_))) = decoder.decode(&PLAIN, input, now_ms) {
            input = &mut input[used..];
        }
        decoder.assembling_since()
    };
    assert_eq!(at(frame(FIN | TEXT, b"whole"), 10), None);
    assert_eq!(at(vec![TEXT], 20), Some(20), "the first byte counts");
    assert_eq!(at(frame(TEXT, b"part")[1..].to_vec(), 30), Some(20));
    assert_eq!(at(frame(FIN | PING, b"p"), 40), Some(20), "a ping between fragments does not start it anew");
    assert_eq!(at(frame(FIN | PING, b"pp")[..3].to_vec(), 45), Some(20), "nor half of one");
    assert_eq!(at(frame(FIN | PING, b"pp")[3..].to_vec(), 47), Some(20));
    assert_eq!(at(frame(FIN | CONT, b"end"), 50), None);
    assert_eq!(at(frame(FIN | PING, b"p")[..6].to_vec(), 60), Some(60), "a ping alone that is not whole");
    assert_eq!(at(frame(FIN | PING, b"p")[6..].to_vec(), 70), None);
}

#[test]
fn time_in_which_nothing_is_read_does_not_count_against_a_message() {
    let mut decoder = Decoder::new();
    decoder.not_reading(10);
    assert_eq!(decoder.assembling_since(), None);
    assert!(decoder.decode(&PLAIN, &mut [TEXT], 20).unwrap().1.is_none());
    decoder.not_reading(90);
    assert_eq!(decoder.assembling_since(), Some(90));
}

#[test]
fn case_92_text_is_utf8() {
    let smile = "κόσμε 🌊".as_bytes();
    for cut in 0..smile.len() {
        let cut_inside = fragments(&[&smile[..cut], &smile[cut..]], TEXT);
        assert_eq!(read(&PLAIN, &cut_inside), [Got::Message(true, smile.to_vec())], "cut at {cut}");
    }
    let bad: [&[u8]; 9] = [
        b"\xff",
        b"\x80",
        b"ok \xce",
        b"\xed\xa0\x80",     // a surrogate
        b"\xed\xbf\xbf",     // another
        b"\xc0\xaf",         // overlong
        b"\xf0\x80\x80\xaf", // overlong
        b"\xf4\x90\x80\x80", // above U+10FFFF
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80\x65\x64",
    ];
    for text in bad {
        violates("whole", &PLAIN, &frame(FIN | TEXT, text), 1007);
        for cut in 0..=text.len() {
            violates("split", &PLAIN, &fragments(&[&text[..cut], &text[cut..]], TEXT), 1007);
        }
        assert_eq!(read(&PLAIN, &frame(FIN | BINARY, text)), [Got::Message(false, text.to_vec())]);
    }
}

#[test]
fn case_94_close_bodies_are_checked() {
    let close = |code: u16, reason: &[u8]| frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat());
    violates("one byte", &PLAIN, &frame(FIN | CLOSE, b"x"), 1002);
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        violates("code", &PLAIN, &close(code, b""), 1002);
    }
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        assert_eq!(read(&PLAIN, &close(code, b"bye")), [Got::Close(Some((code, "bye".to_owned())))]);
    }
    assert_eq!(read(&PLAIN, &frame(FIN | CLOSE, b"")), [Got::Close(None)]);
}

#[test]
fn case_95_close_reasons_are_utf8_and_small() {
    let close = |reason: &[u8]| frame(FIN | CLOSE, &[&1000_u16.to_be_bytes(), reason].concat());
    violates("not UTF-8", &PLAIN, &close(b"\xff"), 1007);
    violates("124 bytes", &PLAIN, &close(&[b'x'; 124]), 1002);
    assert_eq!(read(&PLAIN, &close(&[b'x'; 123])), [Got::Close(Some((1000, "x".repeat(123))))]);
}

#[test]
fn case_137_control_frames_between_fragments_leave_the_message_intact() {
    let bytes = [
        frame(TEXT, b"a"),
        frame(FIN | PING, &[b'p'; 125]),
        frame(CONT, b"b"),
        frame(FIN | PONG, b""),
        frame(FIN | CONT, b"c"),
    ];
    let expected = [Got::Ping(vec![b'p'; 125]), Got::Pong(vec![]), Got::Message(true, b"abc".to_vec())];
    assert_eq!(read(&PLAIN, &bytes.concat()), expected);
}

#[test]
fn case_139_a_message_in_single_bytes_is_accepted() {
    let payload = vec![b'm'; 1000];
    let (got, _) = read_cut(&PLAIN, &frame(FIN | TEXT, &payload), &[1]);
    assert_eq!(got, [Got::Message(true, payload)]);
}

#[test]
fn nothing_is_held_between_messages() {
    assert!(size_of::<Decoder>() <= 24);
    let packed = {
        let mut out = Vec::new();
        deflate::deflate(&[b'x'; LIMIT], 15, &mut out);
        out
    };
    let all = [
        frame(FIN | TEXT, &[b'x'; LIMIT]),
        fragments(&[&[b'x'; 9_000], &[b'y'; 9_000]], TEXT),
        frame(FIN | RSV1 | TEXT, &packed),
        fragments(&[&packed], TEXT | RSV1),
        frame(FIN | PING, &[b'x'; 125]),
    ];
    for bytes in all {
        for cut in [1, 1000, usize::MAX] {
            let (got, decoder) = read_cut(&PACKED, &bytes, &[cut]);
            assert_eq!(got.len(), 1);
            assert_eq!(decoder.held_bytes(), 0, "after {} bytes in pieces of {cut}", bytes.len());
            assert_eq!(decoder.assembling_since(), None);
        }
    }
}

/// Frames as clients send them, right and wrong: kind, flags and payload.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => proptest::sample::select(vec![TEXT, BINARY, CONT, FIN | TEXT, FIN | BINARY, FIN | CONT]),
        4 => proptest::sample::select(vec![FIN | PING, FIN | PONG]),
        1 => proptest::sample::select(vec![FIN | CLOSE, FIN | RSV1 | TEXT, PING, FIN | 3, FIN | 0x20 | TEXT]),
    ];
    let payload = prop_oneof![
        "\\PC{0,40}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..6),
        (100_usize..300).prop_map(|length| vec![b'x'; length]),
        Just(vec![3, 0xe8, b'o', b'k']),
    ];
    (first, payload).prop_map(|(first, payload)| frame(first, &payload))
}

/// A stream that makes sense: fragmented and whole messages with control frames between, some of it then overwritten.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let text = "\\PC{0,30}".prop_map(String::into_bytes);
    let message =
        (any::<bool>(), proptest::collection::vec(text, 1..5), any::<bool>()).prop_map(|(text, parts, ping)| {
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let mut bytes = if ping { frame(FIN | PING, b"alive") } else { Vec::new() };
            bytes.extend(fragments(&parts, if text { TEXT } else { BINARY }));
            bytes
        });
    let piece = prop_oneof![3 => message, 1 => any_frame()];
    let stream = proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    let mutations = prop_oneof![
        2 => Just(Vec::new()),
        1 => proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ];
    (stream, mutations).prop_map(|(mut bytes, mutations)| {
        for (at, byte) in mutations {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cutting_of_a_stream_gives_the_same_events(
        bytes in any_stream(),
        cuts in proptest::collection::vec(1_usize..40, 1..20),
        inflating in any::<bool>(),
    ) {
        let config = DecoderConfig { message_bytes: 400, fragments: 6, deflate: inflating };
        let (whole, _) = read_cut(&config, &bytes, &[usize::MAX]);
        prop_assert_eq!(&read_cut(&config, &bytes, &cuts).0, &whole);
        prop_assert_eq!(&read_cut(&config, &bytes, &[1]).0, &whole);
    }
}

#[test]
fn close_frames_fit_whatever_the_reason() {
    let mut out = Vec::new();
    encoder::close(&mut out, 1008, &"ü".repeat(100));
    assert_eq!(out.len(), 2 + 2 + 122, "cut at a character's boundary");
    assert_eq!(out[1], 124);
}
