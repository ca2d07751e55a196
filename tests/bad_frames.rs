//! Bad frames over a socket, by the numbers of the list of bad input (section D), each with what must hold after every
//! case. What the decoder makes of each byte is in `frames.rs`; here it is what a client sees, and what it costs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/support.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::SockRef;
use support::after::{Case, PATIENCE, Proving, unix_s};
use support::gateway::Gateway;
use support::wait_until;
use support::ws::{Incoming, RawClient, frame, opcode};

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const DEFLATE: (&str, &str) = ("Sec-WebSocket-Extensions", "permessage-deflate");
/// A message takes no longer from its first byte to its last (30 s by default), and a client that reads nothing is
/// given as long (20 s by default).
const SHORT: Duration = Duration::from_millis(1_500);

static NODE: LazyLock<Proving> = LazyLock::new(|| {
    let short = SHORT.as_millis().to_string();
    let gateway = Gateway::build().set("limits.assembly_timeout_ms", &short).set("auth.leeway_s", "1");
    Proving::start(gateway.set("limits.slow_reader_timeout_ms", &short))
});

/// Each of these, on a connection of its own, is closed with this code.
fn all_closed<'a>(case: &Case<'_>, code: u16, inputs: impl IntoIterator<Item = &'a [u8]>) {
    for input in inputs {
        let mut client = case.device("/v1/device");
        client.send(input).unwrap();
        case.is_closed(code, &mut client);
    }
}

fn slices(inputs: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    inputs.iter().map(Vec::as_slice)
}

/// A frame's first two bytes and a length of eight bytes, and a mask.
fn long_header(length: [u8; 8]) -> Vec<u8> {
    [&[FIN | opcode::TEXT, 0x80 | 127][..], &length, b"mask"].concat()
}

fn close_frame(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | opcode::CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// Sends until the gateway takes no more, or everything is sent.
fn pour(client: &mut RawClient, bytes: &[u8]) {
    for chunk in bytes.chunks(64 * 1024) {
        if client.send(chunk).is_err() {
            return;
        }
    }
}

/// Otherwise none of these tests is worth much.
#[test]
fn what_must_hold_after_every_case_is_noticed_where_it_does_not() {
    let noticed = |act: &dyn Fn(&Case<'_>)| -> String {
        let caught = catch_unwind(AssertUnwindSafe(|| NODE.case("planted", act)));
        *caught.expect_err("the case fails").downcast().expect("a panic with a text")
    };
    let text = noticed(&|case| {
        let mut client = case.device("/v1/device");
        client.send_json(&json!({"type": "update", "seq": 1, "value": 1}));
        client.expect_ack(1, PATIENCE);
        case.is_fine();
    });
    assert!(text.contains("records in Kafka"), "{text}");
    let text = noticed(&|case| {
        let mut client = case.device("/v1/device");
        client.send_text("no JSON");
        client.expect_type("refused", PATIENCE);
        case.is_secret("malformed");
    });
    assert!(text.contains("is in the log"), "{text}");
    let text = noticed(&|_| {});
    assert!(text.contains("log lines"), "{text}");
}

#[test]
fn case_79_reserved_bits_nobody_agreed_on_are_a_protocol_error() {
    NODE.case("79", |case| {
        let marker = case.marker.as_bytes();
        let bits = [0x10, 0x20, 0x30, 0x40].map(|bits| frame(FIN | bits | opcode::TEXT, marker));
        all_closed(case, 1002, slices(&bits));
        let under_deflate = [
            frame(FIN | RSV1 | 0x20 | opcode::TEXT, marker),
            frame(FIN | 0x10 | opcode::TEXT, marker),
            frame(FIN | RSV1 | opcode::PING, marker),
            [frame(opcode::TEXT, b"\"a"), frame(FIN | RSV1 | opcode::CONTINUATION, b"b\"")].concat(),
        ];
        for input in under_deflate {
            let mut client = case.device_with("/v1/device", &[DEFLATE]);
            client.send(&input).unwrap();
            case.is_closed(1002, &mut client);
        }
    });
}

#[test]
fn case_80_reserved_opcodes_are_a_protocol_error() {
    NODE.case("80", |case| {
        let inputs: Vec<_> = (3..8).chain(11..16).map(|code| frame(FIN | code, case.marker.as_bytes())).collect();
        all_closed(case, 1002, slices(&inputs));
    });
}

#[test]
fn a_frame_without_a_mask_is_a_protocol_error() {
    NODE.case("unmasked", |case| all_closed(case, 1002, [&b"\x81\x02{}"[..], b"\x89\x00", b"\x88\x00"]));
}

#[test]
fn a_binary_frame_where_text_was_agreed_is_the_wrong_kind() {
    NODE.case("binary", |case| {
        all_closed(case, 1003, slices(&[frame(FIN | opcode::BINARY, br#"{"type":"update","value":1}"#)]));
    });
}

#[test]
fn a_message_above_the_limit_is_closed_before_it_is_received() {
    NODE.case("too-big", |case| {
        all_closed(case, 1009, slices(&[long_header((64 * 1024 + 1_u64).to_be_bytes())]));
        let half = vec![b' '; 40 * 1024];
        let two = [frame(opcode::TEXT, &half), frame(FIN | opcode::CONTINUATION, &half)].concat();
        all_closed(case, 1009, slices(&[two]));
    });
}

#[test]
fn case_82_a_flood_of_pings_is_abuse() {
    NODE.case("82", |case| {
        let mut client = case.device("/v1/device");
        pour(&mut client, &frame(FIN | opcode::PING, case.marker.as_bytes()).repeat(10_000));
        let mut pongs = 0;
        let code = loop {
            match client.frame(PATIENCE) {
                Incoming::Frame(frame) if frame.opcode() == opcode::PONG => pongs += 1,
                Incoming::Frame(frame) if frame.opcode() == opcode::CLOSE => break frame.close_code(),
                Incoming::Frame(_) => {}
                other => panic!("{other:?} after {pongs} pongs"),
            }
        };
        assert_eq!(code, 1008);
        // A hundred are allowed in a second, and a second may have ended amid the flood.
        assert!(pongs <= 200, "{pongs} pongs");
    });
}

#[test]
fn case_83_floods_of_pongs_and_of_empty_messages_are_abuse() {
    NODE.case("83", |case| {
        for (first, payload, count) in
            [(FIN | opcode::PONG, case.marker.as_bytes(), 10_000), (FIN | opcode::TEXT, b"", 100_000)]
        {
            let mut client = case.device("/v1/device");
            pour(&mut client, &frame(first, payload).repeat(count));
            case.is_closed(1008, &mut client);
        }
    });
}

#[test]
fn case_85_fragment_129_is_abuse_and_the_128_before_it_cost_next_to_nothing() {
    NODE.case("85", |case| {
        // Thrice: what only the first one costs is not the fragments'.
        let growth = [(); 3].map(|()| {
            let mut client = case.device("/v1/device");
            let before = case.gateway().process.rss_kib();
            client.send_frame(opcode::TEXT, b" ").unwrap();
            client.send(&frame(opcode::CONTINUATION, b" ").repeat(127)).unwrap();
            // Answered: what was sent before it has been read.
            client.send_frame(FIN | opcode::PING, b"here").unwrap();
            assert!(matches!(client.frame(PATIENCE), Incoming::Frame(pong) if pong.opcode() == opcode::PONG));
            let growth = case.gateway().process.rss_kib().saturating_sub(before);
            client.send_frame(opcode::CONTINUATION, b" ").unwrap();
            case.is_closed(1008, &mut client);
            growth
        });
        assert!(growth.iter().any(|kib| *kib <= 1_024), "{growth:?} KiB");
    });
}

#[test]
fn case_86_a_million_empty_fragments_end_at_the_129th() {
    NODE.case("86", |case| {
        let mut client = case.device("/v1/device");
        client.send_frame(opcode::TEXT, b"").unwrap();
        pour(&mut client, &frame(opcode::CONTINUATION, b"").repeat(1_000_000));
        case.is_closed(1008, &mut client);
    });
}

#[test]
fn case_88_lengths_that_overflow_are_a_protocol_error() {
    NODE.case("88", |case| {
        let inputs = [1 << 63, u64::MAX, u64::MAX - 13].map(|length: u64| long_header(length.to_be_bytes()));
        all_closed(case, 1002, slices(&inputs));
    });
}

#[test]
fn case_89_lengths_in_more_bytes_than_they_need_are_a_protocol_error() {
    NODE.case("89", |case| {
        let medium = |length: u16| [&[FIN | opcode::TEXT, 0x80 | 126][..], &length.to_be_bytes(), b"mask"].concat();
        all_closed(case, 1002, slices(&[medium(0), medium(125)]));
        let long = [0, 125, 126, 65_535_u64].map(|length| long_header(length.to_be_bytes()));
        all_closed(case, 1002, slices(&long));
    });
}

#[test]
fn case_91_a_fragment_and_then_silence_is_abuse() {
    NODE.case("91", |case| {
        let mut client = case.device("/v1/device");
        let start = Instant::now();
        client.send_frame(opcode::TEXT, case.marker.as_bytes()).unwrap();
        case.is_closed(1008, &mut client);
        assert!(start.elapsed() >= SHORT, "{:?}", start.elapsed());
    });
}

#[test]
fn case_92_text_that_is_not_utf_8_is_an_invalid_payload() {
    NODE.case("92", |case| {
        let bad: [&[u8]; 6] =
            [b"\xff", b"ok \xce", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf0\x80\x80\xaf", b"\xf4\x90\x80\x80"];
        let quoted = bad.map(|text| [b"\"", text, b"\""].concat());
        let inputs = quoted.each_ref().map(|text| frame(FIN | opcode::TEXT, text));
        all_closed(case, 1007, slices(&inputs));
        let split = quoted.each_ref().map(|text| {
            let (start, end) = text.split_at(2);
            [frame(opcode::TEXT, start), frame(FIN | opcode::CONTINUATION, end)].concat()
        });
        all_closed(case, 1007, slices(&split));
        all_closed(case, 1007, slices(&[frame(FIN | opcode::TEXT, "\u{e9}".as_bytes().split_last().unwrap().1)]));
    });
}

#[test]
fn a_code_point_cut_in_two_by_fragments_is_whole_again() {
    NODE.case("cut", |case| {
        let message = r#"{"type":"update","seq":1,"value":"κόσμε"}"#.as_bytes();
        let (start, end) = message.split_at(message.len() - 5);
        let mut client = case.device("/v1/device");
        client.send(&[frame(opcode::TEXT, start), frame(FIN | opcode::CONTINUATION, end)].concat()).unwrap();
        client.expect_ack(1, PATIENCE);
        case.stores(1);
        case.is_fine();
    });
}

#[test]
fn case_94_close_frames_with_half_a_code_or_a_forbidden_one_are_a_protocol_error() {
    NODE.case("94", |case| {
        all_closed(case, 1002, slices(&[frame(FIN | opcode::CLOSE, b"x")]));
        let codes = [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535];
        all_closed(case, 1002, slices(&codes.map(|code| close_frame(code, case.marker.as_bytes()))));
    });
}

#[test]
fn case_95_close_reasons_are_utf_8_and_short() {
    NODE.case("95", |case| {
        all_closed(case, 1007, slices(&[close_frame(1000, b"\xff\xfe")]));
        all_closed(case, 1002, slices(&[close_frame(1000, &[b'x'; 124])]));
    });
}

#[test]
fn a_close_is_answered_with_its_own_code() {
    NODE.case("close", |case| {
        all_closed(case, 1000, slices(&[frame(FIN | opcode::CLOSE, &[])]));
        for code in [1000, 1001, 3000, 4999] {
            all_closed(case, code, slices(&[close_frame(code, case.marker.as_bytes())]));
        }
        case.is_fine();
    });
}

/// Commands come later; what waits for the device here are refusals of what it may ask only once a second.
#[test]
fn case_97_a_device_that_never_reads_is_closed_and_read_no_further() {
    NODE.case("97", |case| {
        let closed = || case.gateway().metric("tidegate_disconnects_total", &["slow_consumer"]);
        let closed_before = closed();
        let mut client = case.device("/v1/device");
        SockRef::from(client.socket()).set_recv_buffer_size(4 * 1024).unwrap();
        client.socket().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let auth = json!({"type": "auth", "token": "x", "id": "x".repeat(128)}).to_string();
        let batch = format!("[{}]", vec![auth; 300].join(","));
        let bytes = frame(FIN | opcode::TEXT, batch.as_bytes());
        let before = case.gateway().process.rss_kib();
        let mut sent = 0;
        while client.send(&bytes).is_ok() {
            sent += bytes.len();
            assert!(sent < 256 << 20, "everything is read although nothing is taken");
        }
        let growth = case.gateway().process.rss_kib().saturating_sub(before);
        assert!(growth <= 4 * 1024, "{growth} KiB");
        wait_until("it is closed, though this side has read nothing", SHORT + PATIENCE, || closed() > closed_before);
        assert!(client.ends_within(PATIENCE), "TCP goes on");
    });
}

#[test]
fn case_98_a_stream_of_garbage_ends_at_its_first_frame() {
    NODE.case("98", |case| {
        let garbage: Vec<u8> = (0..1 << 20).map(|_| fastrand::u8(..)).collect();
        for (first, codes) in [(0xff, &[1002][..]), (0x82, &[1002, 1003, 1009])] {
            let mut client = case.device("/v1/device");
            let start = Instant::now();
            client.send(&[first, 0xff]).unwrap();
            let mut taken = 0;
            while taken < 1 << 30 && client.send(&garbage).is_ok() {
                taken += garbage.len();
            }
            assert!(taken < 1 << 30, "a gigabyte was taken");
            let code = client.expect_close(PATIENCE);
            assert!(code.is_some_and(|code| codes.contains(&code)), "{first:#x}: {code:?}");
            assert!(start.elapsed() < PATIENCE, "it took {:?}", start.elapsed());
        }
    });
}

#[test]
fn case_100_a_token_that_expires_ends_its_connection() {
    NODE.case("100", |case| {
        let expires = unix_s() + 3;
        let mut client = case.device_of(&case.token(&json!({ "exp": expires })), "/v1/device", &[]);
        let due = client.expect_type("auth_due", PATIENCE);
        assert_eq!(due["token_expires_at"], expires * 1_000);
        case.is_closed(4201, &mut client);
        let leeway = 1;
        assert!((expires + leeway..=expires + leeway + 5).contains(&unix_s()), "{expires}, closed at {}", unix_s());
    });
}

#[test]
fn case_103_a_frame_that_trickles_is_abuse() {
    NODE.case("103", |case| {
        let mut client = case.device("/v1/device");
        let start = Instant::now();
        for byte in frame(FIN | opcode::TEXT, case.marker.as_bytes()).iter().cycle() {
            if client.send(&[*byte]).is_err() || matches!(client.frame(Duration::from_millis(100)), Incoming::Frame(_))
            {
                break;
            }
            assert!(start.elapsed() < SHORT + PATIENCE, "it goes on");
        }
        assert!(start.elapsed() >= SHORT, "{:?}", start.elapsed());
        case.is_closed(1008, &mut client);
    });
}
