//! The wire is pinned: golden bytes, what is refused and why, the same meaning in all encodings, and the published
//! schemas held against the code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate::protocol::client::{ClientMessage, decode_gateway};
use tidegate::protocol::fields::Field;
use tidegate::protocol::message::{
    CommandState, CommandStatus, DeviceMessage, GatewayMessage, PauseReason, Refusal, RefusalCode, Report, ReportKind,
    Welcome,
};
use tidegate::protocol::{CodecLimits, Encoding, read_frame, write_message};

const LIMITS: CodecLimits = CodecLimits { message_bytes: 64 * 1024, batch_items: 1_000 };

type Outcome = Result<DeviceMessage<'static>, Refusal>;

fn read_from(encoding: Encoding, frame: &[u8], limits: CodecLimits, skip: usize) -> Vec<(usize, Outcome)> {
    let mut all = Vec::new();
    read_frame(encoding, frame, limits, skip, &mut |place, outcome| {
        all.push((place, outcome.map(DeviceMessage::into_owned)));
        true
    });
    all
}

fn read_one(encoding: Encoding, frame: &[u8]) -> Outcome {
    let mut all = read_from(encoding, frame, LIMITS, 0);
    assert_eq!(all.len(), 1, "{all:?}");
    let (place, outcome) = all.remove(0);
    assert_eq!(place, 0);
    outcome
}

fn json_report(frame: &str) -> Report<'static> {
    report(read_one(Encoding::Json, frame.as_bytes()))
}

fn report(outcome: Outcome) -> Report<'static> {
    match outcome {
        Ok(DeviceMessage::Report(report)) => report,
        other => panic!("{other:?}"),
    }
}

fn refused(encoding: Encoding, frame: &[u8]) -> Refusal {
    match read_one(encoding, frame) {
        Err(refusal) => refusal,
        Ok(message) => panic!("taken: {message:?}"),
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gateway_messages() -> Vec<(&'static str, GatewayMessage<'static>)> {
    vec![
        (
            "welcome",
            GatewayMessage::Welcome(Welcome {
                message: "hello",
                device_id: "sensor-001",
                session: "00000000000000ff",
                epoch: 7,
                heartbeat_s: 25,
                max_message_bytes: 65_536,
                window: 64,
                server_time: 1_748_522_700_000,
                token_expires_at: Some(1_748_526_300_000),
                resume_after: Some(41),
                registered: Some(false),
            }),
        ),
        ("ack", GatewayMessage::Ack { seq: 9_007_199_254_740_991 }),
        ("auth_ack", GatewayMessage::AuthAck { id: Some("a1".into()), expires_at: 1_748_526_300_000 }),
        (
            "refused",
            GatewayMessage::Refused {
                seq: Some(3),
                id: Some("x".into()),
                code: RefusalCode::TooLarge,
                message: "say \"less\"\n".into(),
            },
        ),
        (
            "refused_bare",
            GatewayMessage::Refused { seq: None, id: None, code: RefusalCode::Malformed, message: "no".into() },
        ),
        ("pause", GatewayMessage::Pause { reason: PauseReason::Log, retry_after_ms: Some(500) }),
        ("resume", GatewayMessage::Resume { reason: PauseReason::Rate }),
        (
            "command",
            GatewayMessage::Command {
                id: "6569b1128f2de97997906fcaf49c3cf0",
                name: "open",
                params: r#"{"angle":90,"fast":null}"#,
                expires_at: 1_748_522_760_000,
                attempt: 2,
            },
        ),
        ("command_bare", GatewayMessage::Command { id: "c", name: "", params: "-1.5", expires_at: 0, attempt: 1 }),
        ("auth_due", GatewayMessage::AuthDue { token_expires_at: -1 }),
        ("goaway", GatewayMessage::Goaway { reason: "restart", retry_after_ms: 200, deadline_ms: 30_000 }),
        ("error", GatewayMessage::Error { code: "overloaded", message: "later".into(), retry_after_ms: Some(70_000) }),
        ("pong", GatewayMessage::Pong { id: Some("p".into()), server_time: 1_748_522_700_000 }),
    ]
}

/// Those that only applications get.
fn gateway_app_messages() -> Vec<(&'static str, GatewayMessage<'static>)> {
    let state = CommandState {
        key: Some("order 1".into()),
        id: "6569b1128f2de97997906fcaf49c3cf0".into(),
        device_id: "door-1".into(),
        state: "succeeded",
        version: 4,
        reason: None,
        result: Some(r#"{"angle":90}"#.into()),
        message: Some("open".into()),
    };
    let bare = CommandState {
        key: None,
        state: "expired",
        reason: Some("unsent"),
        result: None,
        message: None,
        ..state.clone()
    };
    vec![
        ("command_state", GatewayMessage::CommandState(state)),
        ("command_state_bare", GatewayMessage::CommandState(bare)),
    ]
}

/// What only applications send.
fn app_messages() -> Vec<(&'static str, ClientMessage)> {
    let full = ClientMessage::command("order 1", "door-1", "open", 60).params(json!({"angle": 90}));
    vec![
        ("command", full.max_attempts(3).replacing()),
        ("command_bare", ClientMessage::command("k", "door-1", "open", 0)),
    ]
}

fn device_messages() -> Vec<(&'static str, ClientMessage)> {
    vec![
        (
            "update",
            ClientMessage::update(json!({"n": null, "t": 23.5}))
                .seq(5)
                .name("climate")
                .timestamp(1_748_522_700_000)
                .device_id("sensor-001")
                .traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ),
        ("named_update", ClientMessage::of_type("temperature_update").value(-3)),
        ("status", ClientMessage::status(json!("ok")).seq(1)),
        ("command_ack", ClientMessage::ack("c1", Some(CommandStatus::Failed)).result(json!([true])).message("jammed")),
        ("auth", ClientMessage::auth("e30.e30.x").id("a1")),
        ("ping", ClientMessage::ping()),
    ]
}

/// The golden file's line for each message and encoding: text for JSON, hex for the others.
fn golden_lines() -> String {
    let mut lines = String::new();
    let mut put = |name: &str, encoding: Encoding, bytes: &[u8]| {
        let shown = if encoding.is_text() { String::from_utf8(bytes.to_vec()).unwrap() } else { hex(bytes) };
        lines.push_str(&format!("{name} {encoding:?} {shown}\n"));
    };
    for encoding in Encoding::ALL {
        for (name, message) in gateway_messages() {
            let mut bytes = Vec::new();
            write_message(encoding, &message, &mut bytes);
            put(&format!("gateway/{name}"), encoding, &bytes);
        }
        for (name, message) in gateway_app_messages() {
            let mut bytes = Vec::new();
            write_message(encoding, &message, &mut bytes);
            put(&format!("gateway-to-app/{name}"), encoding, &bytes);
        }
        for (name, message) in app_messages() {
            let mut bytes = Vec::new();
            message.encode(encoding, &mut bytes);
            put(&format!("app/{name}"), encoding, &bytes);
        }
        for (name, message) in device_messages() {
            let mut bytes = Vec::new();
            message.encode(encoding, &mut bytes);
            put(&format!("device/{name}"), encoding, &bytes);
        }
    }
    lines
}

#[test]
fn every_message_has_its_golden_bytes_in_every_encoding() {
    let golden = include_str!("golden/wire.txt");
    let written = golden_lines();
    for (ours, pinned) in written.lines().zip(golden.lines()) {
        assert_eq!(ours, pinned);
    }
    assert_eq!(written.lines().count(), golden.lines().count(), "written:\n{written}");
}

#[test]
fn a_client_reads_back_what_the_gateway_wrote_alike_in_every_encoding() {
    for (name, message) in gateway_messages().into_iter().chain(gateway_app_messages()) {
        let decoded = Encoding::ALL.map(|encoding| {
            let mut bytes = Vec::new();
            write_message(encoding, &message, &mut bytes);
            decode_gateway(encoding, &bytes).unwrap()
        });
        assert_eq!(decoded[0], decoded[1], "{name}");
        assert_eq!(decoded[0], decoded[2], "{name}");
        let kind = name.trim_end_matches("_bare");
        assert_eq!(decoded[0].kind, if name == "auth_ack" { "ack" } else { kind });
    }
    assert!(decode_gateway(Encoding::Json, b"{\"seq\":1}").is_err());
    assert!(decode_gateway(Encoding::Protobuf, b"").is_err());
}

#[test]
fn a_welcome_with_the_longest_id_is_under_512_bytes_even_in_json() {
    let id = "d".repeat(128);
    let welcome = GatewayMessage::Welcome(Welcome {
        message: "welcome to tidegate",
        device_id: &id,
        session: "0123456789abcdef",
        epoch: u64::MAX >> 11,
        heartbeat_s: 50,
        max_message_bytes: 65_536,
        window: 64,
        server_time: 1_748_522_700_000,
        token_expires_at: Some(1_748_522_700_000),
        resume_after: Some((1 << 53) - 1),
        registered: Some(false),
    });
    let mut out = Vec::new();
    write_message(Encoding::Json, &welcome, &mut out);
    assert!(out.len() < 512, "{}", out.len());
}

#[test]
fn the_example_of_the_protocol_works_as_it_stands() {
    let text =
        r#"{"device_id":"sensor-001","type":"temperature_update","value":23.5,"timestamp":"2025-05-29T12:45:00Z"}"#;
    let report = json_report(text);
    assert_eq!(report.kind, ReportKind::Update);
    assert_eq!(report.device_id.as_deref(), Some("sensor-001"));
    assert_eq!((report.timestamp_ms, report.seq), (Some(1_748_522_700_000), None));
    assert_eq!(report.json.as_ref(), text.as_bytes());
}

#[test]
fn a_json_report_borrows_the_frame_without_the_space_around_it() {
    let mut borrowed = false;
    read_frame(Encoding::Json, b" \n{\"type\":\"status\",\"value\":[ ]}\t", LIMITS, 0, &mut |_, outcome| {
        if let Ok(DeviceMessage::Report(report)) = outcome {
            borrowed = matches!(report.json, Cow::Borrowed(bytes) if bytes == b"{\"type\":\"status\",\"value\":[ ]}");
        }
        true
    });
    assert!(borrowed);
}

#[test]
fn a_refusal_of_json_names_its_cause_and_gives_back_seq_and_id() {
    use RefusalCode::{Malformed, UnknownType};
    let deep = format!(r#"{{"type":"update","seq":8,"value":{}1{}}}"#, "[".repeat(127), "]".repeat(127));
    let many: String = (0..40).map(|n| format!(r#""k{}":0,"#, n % 39)).collect();
    let many = format!(r#"{{"type":"update","seq":8,"value":{{{many}"z":1}}}}"#);
    let long = format!(r#"{{"type":"ping","id":"{}"}}"#, "x".repeat(129));
    let cases: &[(&str, RefusalCode, Option<u64>)] = &[
        ("", Malformed, None),
        ("null", Malformed, None),
        ("17", Malformed, None),
        ("\"update\"", Malformed, None),
        ("{}", Malformed, None),
        (r#"{"type":"update","value":1} x"#, Malformed, None),
        (r#"{"type":"update","value":1e400,"seq":4}"#, Malformed, Some(4)),
        (r#"{"type":"update","value":1,"seq":18446744073709551616}"#, Malformed, None),
        (r#"{"type":"update","value":1,"seq":9007199254740992}"#, Malformed, None),
        (r#"{"type":"update","value":1,"seq":-0}"#, Malformed, None),
        (r#"{"type":"update","value":1,"seq":0}"#, Malformed, None),
        (r#"{"type":"update","value":1,"seq":1.0}"#, Malformed, None),
        (r#"{"type":"update","value":1,"seq":null}"#, Malformed, None),
        (r#"{"type":"update","value":1,"seq":2,"seq":2}"#, Malformed, None),
        (r#"{"type":"update","value":{"a":1,"\u0061":2},"seq":3}"#, Malformed, Some(3)),
        (r#"{"type":"update","value":1,"x":1,"x":2,"seq":3}"#, Malformed, Some(3)),
        (r#"{"type":"update","value":1,"value":1,"seq":3}"#, Malformed, Some(3)),
        (r#"{"type":"update","value":[{"a":[{"b":0,"b":0}]}],"seq":3}"#, Malformed, Some(3)),
        (r#"{"type":"update","timestamp":{},"value":1,"seq":3}"#, Malformed, Some(3)),
        (r#"{"type":"update","timestamp":"yesterday","value":1,"seq":3}"#, Malformed, Some(3)),
        (r#"{"type":"update","timestamp":8640000000000001,"value":1,"seq":3}"#, Malformed, Some(3)),
        (r#"{"type":"update","name":5,"value":1,"seq":3}"#, Malformed, Some(3)),
        (r#"{"type":"update","seq":3}"#, Malformed, Some(3)),
        (r#"{"type":7,"value":1,"seq":3}"#, Malformed, Some(3)),
        (r#"{"type":"upgrade","value":1,"seq":3}"#, UnknownType, Some(3)),
        (r#"{"type":"_update","value":1,"seq":3}"#, UnknownType, Some(3)),
        (r#"{"type":"ack","status":"done","id":"c"}"#, Malformed, None),
        (r#"{"type":"ack"}"#, Malformed, None),
        (r#"{"type":"ack","id":"c","result":{"a":1,"a":1}}"#, Malformed, None),
        (r#"{"type":"auth"}"#, Malformed, None),
        (&long, Malformed, None),
        (&deep, Malformed, Some(8)),
        (&many, Malformed, Some(8)),
    ];
    for (frame, code, seq) in cases {
        let refusal = refused(Encoding::Json, frame.as_bytes());
        assert_eq!((refusal.code, refusal.seq), (*code, *seq), "{frame} {refusal:?}");
    }
    assert_eq!(refused(Encoding::Json, br#"{"type":"ack","status":1,"id":"c9"}"#).id.as_deref(), Some("c9"));
    assert!(refused(Encoding::Json, br#"{"type":"update","value":1,"name":[]}"#).message.contains("`name`"));
    assert_eq!(refused(Encoding::Json, b"{\"type\":\"update\",\"value\":\"\xff\"}").code, Malformed);
}

#[test]
fn strange_but_sound_json_is_taken() {
    json_report(r#"{"type":"update","value":null,"__proto__":{"__proto__":1},"constructor":2}"#);
    json_report(r#"{"type":"a_update","value":18446744073709551616,"timestamp":-5}"#);
    let nested = format!(r#"{{"type":"update","value":{}1{}}}"#, "[".repeat(126), "]".repeat(126));
    json_report(&nested);
    let escaped = json_report(r#"{"\u0074ype":"up\u0064ate","value":1,"device_id":"\u0061"}"#);
    assert_eq!(escaped.device_id.as_deref(), Some("a"));
    let siblings = r#"{"type":"update","value":[{"a":1},{"a":2},{"b":{"a":3}}],"a":4}"#;
    json_report(siblings);
    assert_eq!(
        json_report(r#"{"type":"update","value":1,"timestamp":"1969-12-31T23:59:59.9995Z"}"#).timestamp_ms,
        Some(-1)
    );
}

#[test]
fn what_is_larger_than_the_limit_in_its_json_form_is_too_large() {
    let limits = CodecLimits { message_bytes: 60, batch_items: 3 };
    let text = format!(r#"{{"type":"update","value":"{}","seq":6}}"#, "x".repeat(40));
    let all = read_from(Encoding::Json, text.as_bytes(), limits, 0);
    let refusal = all[0].1.clone().unwrap_err();
    assert_eq!((refusal.code, refusal.seq), (RefusalCode::TooLarge, Some(6)));
    // 27 bytes of quotes are 54 in JSON.
    for encoding in [Encoding::Cbor, Encoding::Protobuf] {
        let mut frame = Vec::new();
        ClientMessage::update("\"".repeat(27)).seq(6).encode(encoding, &mut frame);
        assert!(frame.len() <= 60, "{}", frame.len());
        let refusal = read_from(encoding, &frame, limits, 0)[0].1.clone().unwrap_err();
        assert_eq!((refusal.code, refusal.seq), (RefusalCode::TooLarge, Some(6)), "{encoding:?}");
    }
}

#[test]
fn a_batch_is_taken_up_where_it_was_left_and_one_too_many_refuses_it_whole() {
    let limits = CodecLimits { message_bytes: 1_000, batch_items: 3 };
    let batch: Vec<_> = (1..=4).map(|seq| ClientMessage::update(1).seq(seq)).collect();
    for encoding in Encoding::ALL {
        let mut frame = Vec::new();
        ClientMessage::encode_batch(&batch[..3], encoding, &mut frame);
        let rest = read_from(encoding, &frame, limits, 1);
        let seqs: Vec<_> = rest.into_iter().map(|(place, outcome)| (place, report(outcome).seq)).collect();
        assert_eq!(seqs, [(1, Some(2)), (2, Some(3))], "{encoding:?}");

        let mut seen = 0;
        read_frame(encoding, &frame, limits, 0, &mut |_, _| {
            seen += 1;
            seen < 2
        });
        assert_eq!(seen, 2);

        frame.clear();
        ClientMessage::encode_batch(&batch, encoding, &mut frame);
        let all = read_from(encoding, &frame, limits, 0);
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].0, all[0].1.clone().unwrap_err().code), (0, RefusalCode::TooMany));

        frame.clear();
        ClientMessage::encode_batch(&[], encoding, &mut frame);
        assert!(read_from(encoding, &frame, limits, 0).is_empty());
    }
}

#[test]
fn each_message_of_a_batch_is_judged_by_itself() {
    let all = read_from(Encoding::Json, br#"[1, {"type":"ping"}, [], {"type":"x","seq":2}]"#, LIMITS, 0);
    let taken: Vec<bool> = all.iter().map(|(_, outcome)| outcome.is_ok()).collect();
    assert_eq!(taken, [false, true, false, false]);
    assert_eq!(all[3].1.clone().unwrap_err().seq, Some(2));
    // [1, {"type": "ping"}]
    let all = read_from(Encoding::Cbor, &unhex("82 01 a1 64 74797065 64 70696e67"), LIMITS, 0);
    assert!(all[0].1.is_err() && all[1].1.is_ok());
    assert_eq!(refused(Encoding::Json, br#"[{"type":"ping"},"#).code, RefusalCode::Malformed);
}

/// A CBOR update with `seq` 3 whose `value` is the given item: `{0: "update", 5: …, 2: 3}`.
fn cbor_update(value: &str) -> Vec<u8> {
    unhex(&format!("a3 00 66 757064617465 05 {value} 02 03"))
}

#[test]
fn cbor_values_have_one_json_form() {
    for (value, form) in [
        ("fb4037800000000000", "23.5"),
        ("fa3dcccccd", "0.1"),
        ("f92e66", "0.1"),
        ("f93c00", "1.0"),
        ("f98000", "-0.0"),
        ("f90001", "6e-8"),
        ("f97bff", "65500.0"),
        ("1bffffffffffffffff", "18446744073709551615"),
        ("3bffffffffffffffff", "-18446744073709551616"),
        ("44 00ff10fb", r#""AP8Q-w""#),
        ("5f 42 00ff 42 10fb ff", r#""AP8Q-w""#),
        ("7f 61 61 61 0a ff", r#""a\n""#),
        ("9f 01 bf 61 61 f6 ff ff", r#"[1,{"a":null}]"#),
    ] {
        let report = report(read_one(Encoding::Cbor, &cbor_update(value)));
        assert_eq!(
            std::str::from_utf8(&report.json).unwrap(),
            format!(r#"{{"type":"update","value":{form},"seq":3}}"#),
            "{value}"
        );
        assert_eq!(report.seq, Some(3));
    }
}

#[test]
fn cbor_without_a_json_form_is_malformed_and_gives_back_seq() {
    for value in
        ["f97e00", "f97c00", "fa7f800000", "fb7ff8000000000000", "c1 01", "f7", "e0", "a1 01 01", "a1 41 00 01"]
    {
        let refusal = refused(Encoding::Cbor, &cbor_update(value));
        assert_eq!((refusal.code, refusal.seq), (RefusalCode::Malformed, Some(3)), "{value} {refusal:?}");
    }
    let deep = format!("{}01", "81".repeat(127));
    assert_eq!(refused(Encoding::Cbor, &cbor_update(&deep)).code, RefusalCode::Malformed);
    let deepest = format!("{}01", "81".repeat(126));
    report(read_one(Encoding::Cbor, &cbor_update(&deepest)));
    let repeated = refused(Encoding::Cbor, &cbor_update("a2 61 61 01 61 61 02"));
    assert_eq!((repeated.code, repeated.seq), (RefusalCode::Malformed, Some(3)));
    // Both spellings of `seq`; bytes after; cut short; no message; a length that is not there.
    for frame in [
        "a4 00 66 757064617465 05 01 02 03 63 736571 03",
        "a1 00 64 70696e67 00",
        "a3 00 66 7570",
        "",
        "01",
        "bb ffffffffffffffff",
        "9f",
        "ff",
    ] {
        assert_eq!(refused(Encoding::Cbor, &unhex(frame)).code, RefusalCode::Malformed, "{frame}");
    }
}

#[test]
fn protobuf_that_is_broken_is_malformed_and_gives_back_what_stands_before() {
    // Frame { seq: 3, type: "update", value: { double: NaN } }
    let nan = unhex("0a 15 18 03 0a 06 757064617465 32 09 11 000000000000f87f");
    let refusal = refused(Encoding::Protobuf, &nan);
    assert_eq!((refusal.code, refusal.seq), (RefusalCode::Malformed, Some(3)));
    // `json` that would close the object; a value without a kind; `type` as a number.
    for frame in [
        "0a 12 18 03 0a 06 757064617465 32 06 32 04 317d2c31",
        "0a 0c 18 03 0a 06 757064617465 32 00",
        "0a 04 18 03 08 01",
    ] {
        let refusal = refused(Encoding::Protobuf, &unhex(frame));
        assert_eq!((refusal.code, refusal.seq), (RefusalCode::Malformed, Some(3)), "{frame}");
    }
    for frame in ["0a 05 18", "08 01", "ff", "0a ff ff ff ff ff ff ff ff ff 01"] {
        assert_eq!(refused(Encoding::Protobuf, &unhex(frame)).code, RefusalCode::Malformed, "{frame}");
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    value_with(any::<f64>().prop_filter("finite", |number| number.is_finite()))
}

fn value_with(floats: impl Strategy<Value = f64> + 'static) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        floats.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..20)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_report_means_the_same_in_every_encoding(
        value in any_value(),
        seq in prop::option::of(1_u64..(1 << 53)),
        timestamp in prop::option::of(-8_640_000_000_000_000_i64..=8_640_000_000_000_000),
        status in any::<bool>(),
    ) {
        let mut message = if status { ClientMessage::status(value) } else { ClientMessage::update(value) };
        if let Some(seq) = seq {
            message = message.seq(seq);
        }
        if let Some(timestamp) = timestamp {
            message = message.timestamp(timestamp);
        }
        let mut forms = Vec::new();
        for encoding in Encoding::ALL {
            let mut frame = Vec::new();
            message.encode(encoding, &mut frame);
            let report = report(read_one(encoding, &frame));
            prop_assert_eq!(report.seq, seq);
            prop_assert_eq!(report.timestamp_ms, timestamp);
            prop_assert_eq!(report.kind, if status { ReportKind::Status } else { ReportKind::Update });
            forms.push(serde_json::from_slice::<Value>(&report.json).unwrap());
        }
        prop_assert_eq!(&forms[0], &forms[1]);
        prop_assert_eq!(&forms[0], &forms[2]);
    }

    #[test]
    fn a_command_means_the_same_in_every_encoding(
        // Whatever reads them as decimals reads these alike.
        params in value_with(any::<i32>().prop_map(|number| f64::from(number) / 4.0)),
        name in any::<String>(),
        expires_at in any::<i64>(),
        attempt in any::<u32>(),
    ) {
        let text = params.to_string();
        let message = GatewayMessage::Command { id: "c1", name: &name, params: &text, expires_at, attempt };
        for encoding in Encoding::ALL {
            let mut frame = Vec::new();
            write_message(encoding, &message, &mut frame);
            let read = decode_gateway(encoding, &frame).unwrap();
            prop_assert_eq!((read.kind.as_str(), read.id.as_deref()), ("command", Some("c1")));
            prop_assert_eq!(read.name.as_deref(), Some(name.as_str()));
            prop_assert_eq!(read.params.clone().unwrap_or_default(), params.clone(), "{:?}", encoding);
            prop_assert_eq!((read.expires_at, read.attempt), (Some(expires_at), Some(u64::from(attempt))));
        }
    }

    #[test]
    fn no_bytes_make_a_codec_panic(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        for encoding in Encoding::ALL {
            read_from(encoding, &frame, LIMITS, 0);
            let _ = decode_gateway(encoding, &frame);
        }
    }

    #[test]
    fn no_change_of_a_sound_message_makes_a_codec_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for encoding in Encoding::ALL {
            for (_, message) in device_messages().into_iter().chain(app_messages()) {
                let mut frame = Vec::new();
                message.encode(encoding, &mut frame);
                let at = at.index(frame.len());
                frame[at] = byte;
                read_from(encoding, &frame, LIMITS, 0);
                read_from(encoding, &frame[..at], LIMITS, 0);
            }
        }
    }
}

#[test]
fn the_numbers_of_a_command_arrive_exactly() {
    for text in ["-9.481356300824487e-170", "1180837433079074.25", "0.1", "-0", "-0.0", "18446744073709551616", "1E2"] {
        let message = GatewayMessage::Command { id: "c", name: "n", params: text, expires_at: 0, attempt: 1 };
        let double: f64 = text.parse().unwrap();
        for (encoding, bytes) in [(Encoding::Cbor, double.to_be_bytes()), (Encoding::Protobuf, double.to_le_bytes())] {
            let mut frame = Vec::new();
            write_message(encoding, &message, &mut frame);
            assert!(frame.windows(8).any(|window| window == bytes), "{encoding:?} {text}: {}", hex(&frame));
        }
    }
    for (text, cbor) in [("18446744073709551615", "1bffffffffffffffff"), ("-1", "20"), (" [ ] ", "80")] {
        let message = GatewayMessage::Command { id: "c", name: "n", params: text, expires_at: 0, attempt: 1 };
        let mut frame = Vec::new();
        write_message(Encoding::Cbor, &message, &mut frame);
        assert!(hex(&frame).contains(&format!("706172616d73{cbor}6a")), "{text}: {}", hex(&frame));
    }
}

fn proto_pool() -> prost_reflect::DescriptorPool {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol");
    let files = protox::compile(["tidegate.proto"], [dir]).unwrap();
    prost_reflect::DescriptorPool::from_file_descriptor_set(files).unwrap()
}

#[test]
fn the_published_proto_has_our_fields_and_reads_and_writes_our_bytes() {
    use prost_reflect::{DynamicMessage, prost::Message as _};
    let pool = proto_pool();
    let message_type = pool.get_message_by_name("tidegate.v1.Message").unwrap();
    assert_eq!(message_type.fields().count(), Field::ALL.len());
    for field in Field::ALL {
        let published = message_type.get_field(field.protobuf_number()).unwrap();
        assert_eq!(published.name(), field.name());
        assert!(published.supports_presence());
    }
    let frame_type = pool.get_message_by_name("tidegate.v1.Frame").unwrap();
    let only = |bytes: &[u8]| {
        let frame = DynamicMessage::decode(frame_type.clone(), bytes).unwrap();
        let messages = frame.get_field_by_name("messages").unwrap().into_owned();
        let message = messages.as_list().unwrap()[0].as_message().unwrap().clone();
        assert_eq!(message.unknown_fields().count(), 0);
        (frame, message)
    };
    for (name, message) in gateway_messages().into_iter().chain(gateway_app_messages()) {
        let (mut ours, mut text) = (Vec::new(), Vec::new());
        write_message(Encoding::Protobuf, &message, &mut ours);
        write_message(Encoding::Json, &message, &mut text);
        let (_, seen) = only(&ours);
        let expected: Value = serde_json::from_slice(&text).unwrap();
        for (key, value) in expected.as_object().unwrap() {
            let field = seen.get_field_by_name(key).unwrap();
            let found = match field.as_ref() {
                prost_reflect::Value::String(text) => json!(text),
                prost_reflect::Value::U64(number) => json!(number),
                prost_reflect::Value::I64(number) => json!(number),
                prost_reflect::Value::Bool(flag) => json!(flag),
                prost_reflect::Value::Message(value) if value.has_field_by_name("json") => {
                    let json = value.get_field_by_name("json").unwrap().into_owned();
                    serde_json::from_str(json.as_str().unwrap()).unwrap()
                }
                prost_reflect::Value::Message(value) => {
                    json!(value.get_field_by_name("double").unwrap().as_f64().unwrap())
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(&found, value, "{name} {key}");
        }
    }
    for (name, message) in device_messages().into_iter().chain(app_messages()) {
        let mut ours = Vec::new();
        message.encode(Encoding::Protobuf, &mut ours);
        let (theirs, _) = only(&ours);
        let again = theirs.encode_to_vec();
        assert_eq!(read_one(Encoding::Protobuf, &again), read_one(Encoding::Protobuf, &ours), "{name}");
        assert!(read_one(Encoding::Protobuf, &again).is_ok(), "{name}");
    }
}

fn schema(text: &str) -> jsonschema::Validator {
    jsonschema::validator_for(&serde_json::from_str(text).unwrap()).unwrap()
}

#[test]
fn the_published_schemas_take_what_we_take_and_write_and_nothing_planted() {
    let from_device = schema(include_str!("../docs/protocol/schemas/device-to-gateway.json"));
    let to_device = schema(include_str!("../docs/protocol/schemas/gateway-to-device.json"));
    for (name, message) in gateway_messages() {
        let mut text = Vec::new();
        write_message(Encoding::Json, &message, &mut text);
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert!(to_device.is_valid(&value), "{name} {value}");
        assert!(!from_device.is_valid(&value) || name == "auth_ack", "{name}");
    }
    for (name, message) in device_messages() {
        let mut text = Vec::new();
        message.encode(Encoding::Json, &mut text);
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert!(from_device.is_valid(&value), "{name} {value}");
        assert!(from_device.is_valid(&json!([value])), "{name}");
        assert!(!to_device.is_valid(&value), "{name}");
    }
    for wrong in [
        json!(null),
        json!({"type": "update"}),
        json!({"type": "update", "value": 1, "seq": 0}),
        json!({"type": "update", "value": 1, "seq": "1"}),
        json!({"type": "update", "value": 1, "name": 5}),
        json!({"type": "update", "value": 1, "timestamp": {}}),
        json!({"type": "update", "value": 1, "timestamp": "yesterday"}),
        json!({"type": "_update", "value": 1}),
        json!({"type": "ack"}),
        json!({"type": "ack", "id": "c", "status": "done"}),
        json!({"type": "ping", "id": ""}),
        json!({"type": "auth"}),
        json!({"type": "nothing"}),
    ] {
        assert!(!from_device.is_valid(&wrong), "{wrong}");
        let outcome = read_one(Encoding::Json, wrong.to_string().as_bytes());
        assert!(outcome.is_err(), "the schema refuses what the gateway takes: {wrong}");
    }
    for wrong in [
        json!({"type": "ack"}),
        json!({"type": "ack", "seq": 1, "expires_at": 1}),
        json!({"type": "pause", "reason": "mood"}),
        json!({"type": "refused", "code": "mood", "message": ""}),
        json!({"type": "welcome"}),
        json!({"type": "command", "id": "c", "name": "open", "expires_at": 1, "attempt": 1}),
    ] {
        assert!(!to_device.is_valid(&wrong), "{wrong}");
    }
}

#[test]
fn the_schemas_of_applications_take_what_they_send_and_get_and_nothing_planted() {
    let from_app = schema(include_str!("../docs/protocol/schemas/app-to-gateway.json"));
    let to_app = schema(include_str!("../docs/protocol/schemas/gateway-to-app.json"));
    let to_device = schema(include_str!("../docs/protocol/schemas/gateway-to-device.json"));
    for (name, message) in gateway_app_messages() {
        let mut text = Vec::new();
        write_message(Encoding::Json, &message, &mut text);
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert!(to_app.is_valid(&value) && !to_device.is_valid(&value), "{name} {value}");
    }
    for (name, message) in app_messages() {
        let mut text = Vec::new();
        message.encode(Encoding::Json, &mut text);
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert!(from_app.is_valid(&value) && from_app.is_valid(&json!([value])), "{name} {value}");
    }
    for (field, wrong) in [
        ("key", json!(5)),
        ("key", json!("k".repeat(257))),
        ("device_id", json!(null)),
        ("name", json!("n".repeat(129))),
        ("ttl_s", json!(-1)),
        ("ttl_s", json!(1.5)),
        ("ttl_s", json!("60")),
        ("ttl_s", json!(604_801)),
        ("max_attempts", json!(0)),
        ("max_attempts", json!(21)),
        ("replace", json!(1)),
    ] {
        let mut value = json!({"type": "command", "key": "k", "device_id": "d", "name": "n", "ttl_s": 1});
        assert!(from_app.is_valid(&value));
        value[field] = wrong;
        assert!(!from_app.is_valid(&value), "{value}");
        let refusal = refused(Encoding::Json, value.to_string().as_bytes());
        assert_eq!(refusal.code, RefusalCode::Malformed);
        assert_eq!(refusal.id.as_deref(), (field != "key").then_some("k"), "a refusal gives the key back: {value}");
        assert!(refusal.message.contains(&format!("`{field}`")), "{value}: {}", refusal.message);
    }
    for missing in ["key", "device_id", "name", "ttl_s"] {
        let mut value = json!({"type": "command", "key": "k", "device_id": "d", "name": "n", "ttl_s": 1});
        value.as_object_mut().unwrap().remove(missing);
        assert!(!from_app.is_valid(&value));
        assert!(refused(Encoding::Json, value.to_string().as_bytes()).message.contains(missing));
    }
}

#[test]
fn a_command_of_an_application_means_the_same_in_every_encoding() {
    for (name, message) in app_messages() {
        let read = Encoding::ALL.map(|encoding| {
            let mut frame = Vec::new();
            message.encode(encoding, &mut frame);
            read_one(encoding, &frame).unwrap()
        });
        let DeviceMessage::Command(command) = &read[0] else { panic!("{name}") };
        assert_eq!((&read[0], &read[0]), (&read[1], &read[2]), "{name}");
        let expected: (u64, Option<u32>, bool, &[u8]) =
            if name == "command" { (60, Some(3), true, br#"{"angle":90}"#) } else { (0, None, false, b"null") };
        assert_eq!((command.ttl_s, command.max_attempts, command.replace, command.params.as_ref()), expected);
    }
}

#[test]
fn the_published_cddl_has_our_keys_and_no_others() {
    let cddl = include_str!("../docs/protocol/tidegate.cddl");
    let keys: Vec<&str> = cddl.lines().filter(|line| line.starts_with("key-of-")).collect();
    let ours: Vec<String> =
        Field::ALL.iter().map(|field| format!("key-of-{0} = \"{0}\" / {1}", field.name(), field.cbor_key())).collect();
    assert_eq!(keys, ours);
    for field in Field::ALL {
        let used = cddl.matches(&format!("key-of-{} => ", field.name())).count();
        assert_eq!(used, 1, "{}", field.name());
    }
}
