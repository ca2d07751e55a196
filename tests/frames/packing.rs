//! permessage-deflate: what is negotiated, and that it reads and writes real deflate streams.

use super::*;
use deflate::{deflate, inflate, negotiate};

const PLAIN_ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

fn json(items: usize) -> Vec<u8> {
    br#"{"device_id":"sensor-001","type":"temperature_update","value":23.5,"seq":17},"#.repeat(items)
}

fn packed(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    deflate(payload, 15, &mut out);
    out
}

/// The payload of the one frame in `bytes`, as the server wrote it.
fn server_payload(bytes: &[u8]) -> &[u8] {
    match bytes[1] {
        126 => &bytes[4..],
        127 => &bytes[10..],
        _ => &bytes[2..],
    }
}

#[test]
fn offers_are_answered_without_context_takeover() {
    let plain = [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=8",
        "permessage-deflate;client_max_window_bits=\"10\"",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "x-webkit-deflate-frame, permessage-deflate",
        " , permessage-deflate ,",
        "permessage-deflate; server_max_window_bits=8, permessage-deflate",
        "permessage-deflate; unknown=1, permessage-deflate; client_max_window_bits",
    ];
    for offer in plain {
        assert_eq!(negotiate(offer).map(|it| it.response()), Some(PLAIN_ANSWER), "{offer}");
    }
    for bits in 9..=15 {
        let negotiated = negotiate(&format!("permessage-deflate; server_max_window_bits={bits}")).unwrap();
        assert_eq!(negotiated.window_bits(), bits);
        assert_eq!(negotiated.response(), format!("{PLAIN_ANSWER}; server_max_window_bits={bits}"));
    }
}

#[test]
fn cases_41_and_43_bad_offers_are_declined() {
    let declined = [
        "",
        "permessage-deflate; client_max_window_bits=99",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=08",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; unknown",
        "permessage-bzip2",
        // Malformed: nothing of the header counts.
        "permessage-deflate, ;",
        "permessage-deflate;",
        "permessage-deflate; =",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits=\"10",
        "permessage-deflate permessage-deflate",
        "permessage-deflate, ü",
        "permessage-deflate, (",
    ];
    for offer in declined {
        assert_eq!(negotiate(offer), None, "{offer}");
    }
}

#[test]
fn messages_survive_packing_at_every_window() {
    for bits in 9..=15 {
        let offer = format!("permessage-deflate; server_max_window_bits={bits}");
        let negotiated = negotiate(&offer);
        for items in [4, 40, 400, 4000] {
            let payload = json(items);
            let mut out = Vec::new();
            encoder::message(&mut out, true, &payload, negotiated);
            assert_eq!(out[0], FIN | RSV1 | TEXT);
            assert!(out.len() < payload.len() / 2);
            let config = DecoderConfig { message_bytes: payload.len(), ..PACKED };
            let wire = frame(out[0], server_payload(&out));
            assert_eq!(read(&config, &wire), [Got::Message(true, payload)], "{items} items, window {bits}");
        }
    }
}

#[test]
fn a_window_asked_for_is_kept() {
    // Random bytes that come again after 600: only a window above 512 bytes can say so.
    let block: Vec<u8> = (0..600_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let payload = block.repeat(20);
    let mut out = Vec::new();
    deflate(&payload, 9, &mut out);
    out.extend([0, 0, 0xff, 0xff]);
    let mut narrow = flate2::Decompress::new_with_window_bits(false, 9);
    let mut back = Vec::new();
    // Room for a little at a time, so that the inflater has nothing but its window to look back into.
    while back.len() < payload.len() {
        let mut some = Vec::with_capacity(64);
        let taken = narrow.total_in() as usize;
        narrow.decompress_vec(&out[taken..], &mut some, flate2::FlushDecompress::None).unwrap();
        assert!(!some.is_empty());
        back.extend(some);
    }
    assert!(back == payload);
}

#[test]
fn small_and_incompressible_messages_go_uncompressed() {
    let negotiated = negotiate("permessage-deflate");
    let mut out = Vec::new();
    encoder::message(&mut out, true, &[b'x'; 255], negotiated);
    assert_eq!((out[0], out.len()), (FIN | TEXT, 4 + 255));
    out.clear();
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(5000)
    .collect();
    encoder::message(&mut out, false, &noise, negotiated);
    assert_eq!((out[0], out.len()), (FIN | BINARY, 4 + 5000));
    assert_eq!(out[4..], noise);
}

#[test]
fn headers_of_all_lengths_stand_before_packed_messages() {
    let negotiated = negotiate("permessage-deflate");
    // Digits of a counter pack to about a third: the largest makes more than 64 KiB of it.
    for (count, head) in [(300, 126), (90_000, 127)] {
        let payload: Vec<u8> =
            (0..count).flat_map(|at: u32| at.wrapping_mul(2_654_435_761).to_string().into_bytes()).collect();
        let mut out = b"before".to_vec();
        encoder::message(&mut out, true, &payload, negotiated);
        assert_eq!((out[6], out[7]), (FIN | RSV1 | TEXT, head));
        let mut back = Vec::new();
        inflate(server_payload(&out[6..]), payload.len(), &mut back).unwrap();
        assert!(back == payload);
    }
    let mut out = b"before".to_vec();
    encoder::message(&mut out, true, &[b'x'; 1000], negotiated);
    assert_eq!(usize::from(out[7]), out.len() - 8, "less than 126 bytes: a header of two");
}

#[test]
fn the_examples_of_rfc_7692_are_read() {
    let hello: [&[u8]; 4] = [
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        // A stored block.
        &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
        // A block marked as the last one, then another.
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        // Two blocks.
        &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
    ];
    for bytes in hello {
        let expected = [Got::Message(true, b"Hello".to_vec())];
        assert_eq!(read(&PACKED, &frame(FIN | RSV1 | TEXT, bytes)), expected);
        for cut in 0..bytes.len() {
            assert_eq!(read(&PACKED, &fragments(&[&bytes[..cut], &bytes[cut..]], RSV1 | TEXT)), expected);
        }
    }
    for empty in [&[0x00][..], &[0x02, 0x00], &[]] {
        assert_eq!(read(&PACKED, &frame(FIN | RSV1 | BINARY, empty)), [Got::Message(false, vec![])]);
    }
}

#[test]
fn a_stream_of_the_c_zlib_is_read() {
    // zlib 1.3 at level 9, flushed, without its last four bytes.
    let hex = "aa564a492dcb4c4e8dcf4c51b2522a4ecd2bce2fd235303054d2512aa92c48058a95a4e616a41625969416a5c69716a4\
               2496a402e5ca12734a819246c67aa63a405d854a5686e6b53ad5a386916c1800";
    let digits: Vec<char> = hex.chars().filter(char::is_ascii_hexdigit).collect();
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| (pair[0].to_digit(16).unwrap() * 16 + pair[1].to_digit(16).unwrap()) as u8)
        .collect();
    assert_eq!(read(&PACKED, &frame(FIN | RSV1 | TEXT, &bytes)), [Got::Message(true, json(5))]);
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let bomb = packed(&vec![0; 4 << 20]);
    assert!(bomb.len() < LIMIT);
    violates("bomb", &PACKED, &frame(FIN | RSV1 | BINARY, &bomb), 1009);
    let mut out = Vec::new();
    inflate(&bomb, LIMIT, &mut out).unwrap_err();
    assert!(out.capacity() <= LIMIT + 1, "{}", out.capacity());
    violates("one byte above", &PACKED, &frame(FIN | RSV1 | BINARY, &packed(&[7; LIMIT + 1])), 1009);
    let fits = frame(FIN | RSV1 | BINARY, &packed(&[7; LIMIT]));
    assert_eq!(read(&PACKED, &fits), [Got::Message(false, vec![7; LIMIT])]);
}

#[test]
fn what_is_no_deflate_stream_is_refused() {
    violates("block of no kind", &PACKED, &frame(FIN | RSV1 | TEXT, &[0xff; 20]), 1007);
    let whole = packed(&json(50));
    for end in 1..whole.len() - 1 {
        violates("cut off", &PACKED, &frame(FIN | RSV1 | TEXT, &whole[..end]), 1007);
    }
    violates("text not UTF-8", &PACKED, &frame(FIN | RSV1 | TEXT, &packed(&[0xff; 300])), 1007);
    // Streams that end at once: 128 are taken.
    assert_eq!(read(&PACKED, &frame(FIN | RSV1 | TEXT, &[3, 0].repeat(128))), [Got::Message(true, vec![])]);
    violates("streams without end", &PACKED, &frame(FIN | RSV1 | TEXT, &[3, 0].repeat(129)), 1007);
    // What went wrong leaves nothing behind in the thread's inflater.
    assert_eq!(read(&PACKED, &frame(FIN | RSV1 | TEXT, &whole)), [Got::Message(true, json(50))]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn anything_packed_comes_back(payload in proptest::collection::vec(0_u8..8, 0..3000), bits in 9_u8..=15) {
        let mut out = Vec::new();
        deflate(&payload, bits, &mut out);
        let mut back = Vec::new();
        prop_assert!(inflate(&out, payload.len(), &mut back).is_ok());
        prop_assert_eq!(back, payload);
    }
}
