//! Bad messages over a socket, by the numbers of the list of bad input (section E), each with what must hold after every
//! case. Those about commands come with commands; each encoding's own ways to be wrong are in `wire.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/support.rs"]
mod support;

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::after::{Case, PATIENCE, Proving, check_log, unix_s};
use support::gateway::Gateway;
use support::kafka::{Broker, Stored};
use support::wait_for;
use support::ws::{Incoming, RawClient, frame, opcode};
use tidegate::auth::TokenAlgorithm;
use tidegate::auth::signing::SigningKey;

const FIN: u8 = 0x80;
const UPDATE: &str = r#"{"type":"update","seq":1,"value":1}"#;

/// How long after its `exp` a token is honoured, in seconds.
const LEEWAY_S: u64 = 3;

static NODE: LazyLock<Proving> =
    LazyLock::new(|| Proving::start(Gateway::build().set("auth.leeway_s", &LEEWAY_S.to_string())));

/// Each of these is refused with this code and nothing else happens: an update sent behind it is acked.
fn all_refused<'a>(case: &Case<'_>, code: &str, inputs: impl IntoIterator<Item = &'a str>) {
    for input in inputs {
        let mut client = case.device("/v1/device");
        client.send_text(input);
        let shown = &input[..input.len().min(200)];
        let answer = client.json(PATIENCE).unwrap_or_else(|| panic!("no answer to {shown}"));
        assert_eq!((&answer["type"], &answer["code"]), (&json!("refused"), &json!(code)), "{shown}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|text| text.len() > 8), "{shown}: {answer}");
        assert!(!answer.to_string().contains(&case.marker), "{shown}: what was sent comes back: {answer}");
        goes_on(case, &mut client, 1);
    }
}

/// The connection takes an update still.
fn goes_on(case: &Case<'_>, client: &mut RawClient, seq: u64) {
    client.send_json(&json!({"type": "update", "seq": seq, "value": 1}));
    client.expect_ack(seq, PATIENCE);
    case.stores(1);
}

/// What Kafka has of a device.
fn records(case: &Case<'_>, device: &str) -> Vec<Stored> {
    let mut records = case.gateway().records("telemetry");
    records.retain(|record| record.key == format!("acme/{device}"));
    records
}

#[test]
fn case_104_what_is_no_message_is_malformed_and_an_empty_batch_is_nothing() {
    NODE.case("104", |case| {
        let marked = format!("{{{}", case.marker);
        let bad = [&marked, "", "null", "7", "true", "\"text\"", "{}x", "[null]", "[", "{\"type\":\"update\""];
        all_refused(case, "malformed", bad);
        let mut client = case.device("/v1/device");
        client.send_text("[]");
        goes_on(case, &mut client, 1);
    });
}

#[test]
fn case_106_a_key_that_stands_twice_is_malformed() {
    NODE.case("106", |case| {
        let twice = [
            r#"{"type":"update","type":"update","value":1}"#,
            r#"{"type":"update","seq":1,"seq":2,"value":1}"#,
            r#"{"type":"update","value":1,"value":2}"#,
            r#"{"type":"update","value":{"a":{"t":1,"t":2}}}"#,
            r#"{"type":"update","value":1,"t":1,"\u0074":2}"#,
        ];
        all_refused(case, "malformed", twice);
    });
}

#[test]
fn case_107_numbers_nobody_can_hold_are_malformed() {
    NODE.case("107", |case| {
        let number = |seq: &str, value: &str| format!(r#"{{"type":"update","seq":{seq},"value":{value}}}"#);
        let bad = [
            number("1", "1e400"),
            number("1", "NaN"),
            number("1", "[-Infinity]"),
            number("1", "01"),
            number("18446744073709551616", "1"),
            number("9007199254740992", "1"),
            number("-0", "1"),
            number("0", "1"),
            number("-1", "1"),
            number("1.5", "1"),
            number("\"1\"", "1"),
        ];
        all_refused(case, "malformed", bad.iter().map(String::as_str));
    });
}

#[test]
fn case_109_a_type_nobody_knows_or_none_and_an_id_too_long_are_refused() {
    NODE.case("109", |case| {
        let planted = format!(r#"{{"type":"{}","value":1}}"#, case.marker);
        all_refused(
            case,
            "unknown_type",
            [&planted, r#"{"type":"_update","value":1}"#, r#"{"type":"UPDATE","value":1}"#],
        );
        let long = format!(r#"{{"type":"ping","id":"{}"}}"#, "x".repeat(129));
        let bad = [r#"{"value":1}"#, r#"{"type":null,"value":1}"#, r#"{"type":7,"value":1}"#, &long];
        all_refused(case, "malformed", bad);
    });
}

#[test]
fn case_110_a_batch_above_the_limit_is_refused_whole() {
    NODE.case("110", |case| {
        let batch = |items: usize| format!("[{}]", vec!["{}"; items].join(","));
        let updates = format!("[{}]", vec![r#"{"type":"update","value":1}"#; 1_001].join(","));
        all_refused(case, "too_many", [&*batch(10_001), &*batch(1_001), &*updates]);
        // Its sender's own fault, once: not one for each of its items.
        let mut client = case.device("/v1/device");
        let whole: Vec<Value> = (1..=1_000).map(|seq| json!({"type": "update", "seq": seq, "value": 1})).collect();
        client.send_json(&json!(whole));
        client.expect_ack(1_000, PATIENCE);
        case.stores(1_000);
    });
}

#[test]
fn ten_messages_refused_in_a_minute_end_the_connection() {
    NODE.case("ten", |case| {
        let mut client = case.device("/v1/device");
        // A minute of the gateway's clock may end amid ten, not amid twenty.
        client.send(&frame(FIN | opcode::TEXT, case.marker.as_bytes()).repeat(20)).unwrap();
        let mut refused = 0;
        let error = loop {
            let message = client.json(PATIENCE).unwrap();
            if message["type"] == "error" {
                break message;
            }
            assert_eq!(message["type"], "refused");
            refused += 1;
        };
        assert!((10..20).contains(&refused), "{refused}");
        assert_eq!(error["code"], "policy_violation");
        case.is_closed(1008, &mut client);
    });
}

#[test]
fn case_112_a_repeat_is_acked_again_and_has_the_same_id_in_kafka() {
    NODE.case("112", |case| {
        case.is_fine();
        let device = case.device_id();
        let token = case.token(&json!({ "sub": device }));
        let mut client = case.device_of(&token, "/v1/device?boot=b112", &[]);
        for _ in 0..2 {
            client.send_text(UPDATE);
            client.expect_ack(1, PATIENCE);
        }
        client.send_json(&json!({"type": "update", "seq": 2, "value": 1}));
        client.expect_ack(2, PATIENCE);
        client.send_text(UPDATE);
        goes_on(case, &mut client, 3);
        case.stores(4);
        let records = records(case, &device);
        assert_eq!(records.len(), 5);
        let ids: BTreeSet<_> = records.iter().map(|record| record.header("ce_id")).collect();
        assert_eq!(ids, BTreeSet::from(["b112:1", "b112:2", "b112:3"]));
        let of_first = records.iter().filter(|record| record.header("ce_id") == "b112:1");
        assert!(of_first.clone().all(|record| record.value == UPDATE.as_bytes()));
    });
}

#[test]
fn case_116_a_clock_that_cannot_be_right_is_marked_and_ours_counts() {
    NODE.case("116", |case| {
        case.is_fine();
        let device = case.device_id();
        let mut client = case.device_of(&case.token(&json!({ "sub": device })), "/v1/device", &[]);
        let now_ms = unix_s() * 1_000;
        let ten_years_ms = 10 * 365 * 24 * 3_600_000;
        let wrong =
            [json!(now_ms + ten_years_ms), json!(-1), json!("1969-12-31T23:59:59Z"), json!("2099-01-01T00:00:00Z")];
        for (seq, timestamp) in (1..).zip(&wrong) {
            client.send_json(&json!({"type": "update", "seq": seq, "value": 1, "timestamp": timestamp}));
        }
        client.send_json(&json!({"type": "update", "seq": 5, "value": 1, "timestamp": now_ms - 60_000}));
        client.expect_ack(5, PATIENCE);
        case.stores(5);
        for record in records(case, &device) {
            let (_, seq) = record.boot_and_seq().unwrap();
            let ours = record.header("ce_time") == record.header("tg_received_at");
            assert_eq!((record.header("tg_clock_suspect") == "true", ours), (seq < 5, seq < 5), "{record:?}");
        }
    });
}

#[test]
fn case_118_a_small_frame_whose_json_form_is_too_large_is_refused() {
    NODE.case("118", |case| {
        let cbor = ("Sec-WebSocket-Protocol", "tidegate.v1.cbor");
        let mut client = case.device_of(&case.token(&json!({})), "/v1/device", &[cbor]);
        // {"type": "update", "seq": 1, "value": h'00…'}: 50,000 bytes are 66,667 characters of base64url.
        let message = [&b"\xa3\x00\x66update\x02\x01\x05\x59\xc3\x50"[..], &[0; 50_000]].concat();
        client.send_frame(FIN | opcode::BINARY, &message).unwrap();
        let refused = binary(&mut client, b"refused");
        assert!(contains(&refused, b"too_large"), "{}", String::from_utf8_lossy(&refused));
        client.send_frame(FIN | opcode::BINARY, b"\xa3\x00\x66update\x02\x02\x05\x01").unwrap();
        binary(&mut client, b"ack");
        case.stores(1);
    });
}

/// The next binary message that contains `what`.
fn binary(client: &mut RawClient, what: &[u8]) -> Vec<u8> {
    loop {
        match client.frame(PATIENCE) {
            Incoming::Frame(frame) if frame.opcode() == opcode::BINARY && contains(&frame.payload, what) => {
                return frame.payload;
            }
            Incoming::Frame(_) => {}
            other => panic!("{other:?} where {} was expected", String::from_utf8_lossy(what)),
        }
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[test]
fn case_119_ten_windows_sent_at_once_are_all_acked_in_the_end() {
    NODE.case("119", |case| {
        case.is_fine();
        let mut client = case.device("/v1/device");
        let update = |seq: u64, value: &str| {
            frame(FIN | opcode::TEXT, json!({"type": "update", "seq": seq, "value": value}).to_string().as_bytes())
        };
        client.send(&(1..=640).flat_map(|seq| update(seq, "")).collect::<Vec<_>>()).unwrap();
        client.expect_ack(640, PATIENCE);
        // Ten times what the window holds in bytes: 256 KiB.
        let large = "x".repeat(60_000);
        client.send(&(641..=684).flat_map(|seq| update(seq, &large)).collect::<Vec<_>>()).unwrap();
        client.expect_ack(684, PATIENCE);
        case.stores(684);
    });
}

#[test]
fn case_121_a_message_that_names_another_device_or_tenant_is_forbidden() {
    NODE.case("121", |case| {
        let before = case.gateway().metric("tidegate_security_events_total", &["foreign_identity"]);
        let device = format!(r#"{{"type":"update","seq":1,"value":1,"device_id":"{}"}}"#, case.marker);
        let tenant = r#"{"type":"update","seq":1,"value":1,"tenant":"other"}"#;
        let status = r#"{"type":"status","seq":1,"value":1,"device_id":"other"}"#;
        all_refused(case, "forbidden", [&*device, tenant, status]);
        let events = case.gateway().metric("tidegate_security_events_total", &["foreign_identity"]) - before;
        assert_eq!(events, 3.0, "security events");
        let foreign = case.gateway().records("status").into_iter().find(|record| record.value == status.as_bytes());
        assert_eq!(foreign, None);
    });
}

#[test]
fn cases_124_and_125_answers_to_commands_nobody_sent_are_ignored() {
    NODE.case("124", |case| {
        let before = case.gateway().metric("tidegate_security_events_total", &["guessed_command"]);
        let mut client = case.device("/v1/device");
        let ack = json!({"type": "ack", "id": case.marker, "status": "succeeded", "result": {"done": case.marker}});
        client.send_json(&ack);
        client.send_json(&ack);
        client.send_json(&json!({"type": "ack", "id": case.marker}));
        client.send_json(&json!({"type": "ping", "id": "behind"}));
        assert_eq!(client.json(PATIENCE).unwrap()["type"], "pong", "nothing else was answered");
        goes_on(case, &mut client, 1);
        let events = case.gateway().metric("tidegate_security_events_total", &["guessed_command"]) - before;
        assert!(events >= 1.0, "security events: {events}");
    });
}

/// Sends `auth` and gives the answer.
fn auth(client: &mut RawClient, token: &str, id: &str) -> Value {
    client.send_json(&json!({"type": "auth", "token": token, "id": id}));
    loop {
        let message = client.json(PATIENCE).expect("an answer to auth");
        if message["type"] != "auth_due" {
            assert_eq!(message["id"], id, "{message}");
            return message;
        }
    }
}

#[test]
fn case_130_a_bad_auth_is_refused_and_the_old_expiry_stands() {
    NODE.case("130", |case| {
        let (device, now) = (case.device_id(), unix_s());
        let expires = now + 5;
        let token = case.token(&json!({"sub": device, "exp": expires}));
        let mut client = case.device_of(&token, "/v1/device", &[]);
        let stranger = SigningKey::generate(TokenAlgorithm::ES256).unwrap();
        let claims = json!({"iss": "tidegate", "aud": "tidegate", "sub": device, "tenant": "acme", "scope": "device",
                            "iat": now, "exp": now + 3_600});
        let bad = [
            (case.token(&json!({"sub": device, "iat": now - 100, "exp": now - 50})), "invalid_token"),
            (case.hide(stranger.sign(&claims).unwrap()), "invalid_token"),
            (case.hide("no.token".to_owned()), "invalid_token"),
        ];
        for (at, (token, code)) in bad.iter().enumerate() {
            // One a second: what comes sooner is refused for that.
            let answer = loop {
                let answer = auth(&mut client, token, &format!("a{at}"));
                if answer["code"] != "rate" {
                    break answer;
                }
                std::thread::sleep(Duration::from_millis(100));
            };
            assert_eq!((&answer["type"], &answer["code"]), (&json!("refused"), &json!(code)), "{answer}");
        }
        goes_on(case, &mut client, 1);
        case.is_closed(4201, &mut client);
        assert!(closed_for(expires), "{expires}, closed at {}", unix_s());
    });
}

/// Whether now is when a connection ends whose token expired at `expires`: 5 s at most after its leeway.
fn closed_for(expires: u64) -> bool {
    (expires + LEEWAY_S..=expires + LEEWAY_S + 5).contains(&unix_s())
}

#[test]
fn an_auth_for_another_identity_ends_the_connection() {
    NODE.case("identity", |case| {
        let mut client = case.device("/v1/device");
        let answer = auth(&mut client, &case.token(&json!({"sub": "somebody-else"})), "a");
        assert_eq!((&answer["type"], &answer["code"]), (&json!("refused"), &json!("forbidden")), "{answer}");
        case.is_closed(4203, &mut client);
    });
}

#[test]
fn case_131_a_hundred_auths_in_a_second_are_verified_once_or_twice() {
    NODE.case("131", |case| {
        let device = case.device_id();
        let tokens = (0..100).map(|at| case.token(&json!({"sub": device, "exp": unix_s() + 1_000 + at})));
        let tokens: Vec<_> = tokens.collect();
        let mut client = case.device_of(&case.token(&json!({ "sub": device })), "/v1/device", &[]);
        let all = tokens.iter().flat_map(|token| {
            frame(FIN | opcode::TEXT, json!({"type": "auth", "token": token, "id": "a"}).to_string().as_bytes())
        });
        let start = Instant::now();
        client.send(&all.collect::<Vec<_>>()).unwrap();
        let (mut taken, mut refused) = (0, 0);
        while taken + refused < 100 {
            let answer = client.json(PATIENCE).expect("an answer to each");
            match (answer["type"].as_str(), answer["code"].as_str()) {
                (Some("ack"), None) => taken += 1,
                (Some("refused"), Some("rate")) => refused += 1,
                _ => panic!("{answer}"),
            }
        }
        // A second of the gateway's clock may end amid the hundred.
        let seconds = start.elapsed().as_secs();
        assert!((1..=2 + seconds).contains(&taken), "{taken} in {seconds} s");
        goes_on(case, &mut client, 1);
        case.logs_at_most(110);
    });
}

#[test]
fn case_133_names_make_no_metric_labels() {
    NODE.case("133", |case| {
        case.is_fine();
        let series = || -> BTreeSet<String> {
            let (_, text) = case.gateway().internal("/metrics");
            let names = text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned());
            names.filter(|series| !series.starts_with('#')).collect()
        };
        let before = series();
        let planted = format!("label{:016x}", fastrand::u64(..));
        for _ in 0..50 {
            let device = format!("{}.{planted}", case.device_id());
            let mut client = case.device_of(&case.token(&json!({ "sub": device })), "/v1/device?boot=evil", &[]);
            let name = format!("x\",code=\"{planted}\"}} 1\n# ");
            client.send_json(&json!({"type": "update", "seq": 1, "value": 1, "name": name}));
            client.send_json(&json!({"type": format!("{planted}_update"), "seq": 2, "value": 1}));
            client.expect_ack(2, PATIENCE);
        }
        case.stores(100);
        let after = series();
        assert!(after.iter().all(|series| !series.contains(&planted) && !series.contains("acme")));
        let added: Vec<_> = after.difference(&before).collect();
        assert!(added.is_empty(), "{added:?}");
    });
}

#[test]
fn case_134_keys_that_mean_something_elsewhere_are_plain_data() {
    NODE.case("134", |case| {
        let device = case.device_id();
        let mut client = case.device_of(&case.token(&json!({ "sub": device })), "/v1/device", &[]);
        let message = format!(
            r#"{{"__proto__":{{"type":"auth"}},"constructor":1,"type":"update","seq":1,"value":{{"__proto__":1,"{}":2}}}}"#,
            "k".repeat(30_000)
        );
        client.send_text(&message);
        client.expect_ack(1, PATIENCE);
        case.stores(1);
        assert_eq!(records(case, &device)[0].value, message.as_bytes());
        let deep = format!(r#"{{"type":"update","value":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        all_refused(case, "malformed", [&*deep]);
    });
}

#[test]
fn case_137_a_ping_between_fragments_is_answered_and_the_message_stays_whole() {
    NODE.case("137", |case| {
        case.is_fine();
        let mut client = case.device("/v1/device");
        let (start, end) = UPDATE.as_bytes().split_at(9);
        let ping = [b'p'; 125];
        let parts = [
            frame(opcode::TEXT, start),
            frame(FIN | opcode::PING, &ping),
            frame(FIN | opcode::PONG, b""),
            frame(FIN | opcode::CONTINUATION, end),
        ];
        client.send(&parts.concat()).unwrap();
        let Incoming::Frame(pong) = client.frame(PATIENCE) else { panic!("no pong") };
        assert_eq!((pong.opcode(), &pong.payload[..]), (opcode::PONG, &ping[..]));
        client.expect_ack(1, PATIENCE);
        case.stores(1);
    });
}

#[test]
fn case_139_a_message_in_segments_of_one_byte_is_accepted() {
    NODE.case("139", |case| {
        case.is_fine();
        let mut client = case.device("/v1/device");
        for byte in frame(FIN | opcode::TEXT, UPDATE.as_bytes()) {
            client.send(&[byte]).unwrap();
        }
        client.expect_ack(1, PATIENCE);
        case.stores(1);
    });
}

#[test]
fn case_140_a_token_refreshed_at_the_last_second_keeps_the_socket_until_its_own_end() {
    NODE.case("140", |case| {
        case.is_fine();
        let device = case.device_id();
        let token = |expires: u64| case.token(&json!({"sub": device, "exp": expires}));
        let first = unix_s() + 3;
        let mut client = case.device_of(&token(first), "/v1/device", &[]);
        while unix_s() < first {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Expired, and still within the leeway.
        let second = unix_s() + 5;
        let answer = auth(&mut client, &token(second), "late");
        assert_eq!((&answer["type"], &answer["expires_at"]), (&json!("ack"), &json!(second * 1_000)), "{answer}");
        while unix_s() < first + LEEWAY_S + 2 {
            goes_on(case, &mut client, unix_s());
            std::thread::sleep(Duration::from_millis(200));
        }
        case.is_closed(4201, &mut client);
        assert!(closed_for(second), "{second}, closed at {}", unix_s());
    });
}

#[test]
fn case_142_a_signing_key_taken_away_ends_the_connections_of_its_tokens() {
    let gateway = Gateway::start();
    let jwks = gateway.dir().join("jwks.json");
    let next = SigningKey::generate(TokenAlgorithm::ES256).unwrap();
    let set = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    let old_set = set(&std::fs::read_to_string(&jwks).unwrap());
    let mut both = set(&next.jwks());
    both["keys"].as_array_mut().unwrap().extend(old_set["keys"].as_array().unwrap().clone());
    let replace = |text: &str| {
        std::fs::write(gateway.dir().join("next.json"), text).unwrap();
        std::fs::rename(gateway.dir().join("next.json"), &jwks).unwrap();
    };
    let open = |token: &str| {
        let mut client = gateway.connect();
        let status = client.upgrade("/v1/device", &[("Authorization", &format!("Bearer {token}"))]).status;
        (client, status)
    };
    let next_token = |device: &str| {
        let claims = json!({"iss": "tidegate", "aud": "tidegate", "sub": device, "tenant": "acme", "scope": "device",
                            "iat": unix_s(), "exp": unix_s() + 600});
        next.sign(&claims).unwrap()
    };
    let mut old = gateway.device("old", "/v1/device");
    let old_token = gateway.token("late", "acme", &["device"]);
    replace(&both.to_string());
    let kept_token = next_token("kept");
    let mut kept = wait_for("the second key counts", Duration::from_secs(60), || {
        let (client, status) = open(&kept_token);
        (status == 101).then_some(client)
    });
    let mut acked = |seq: u64| {
        kept.send_json(&json!({"type": "update", "seq": seq, "value": 1}));
        kept.expect_ack(seq, PATIENCE);
    };
    acked(1);
    replace(&next.jwks());
    assert_eq!(old.expect_close(Duration::from_secs(60)), Some(4202));
    assert!(old.ends_within(PATIENCE));
    assert_eq!(open(&old_token).1, 401);
    acked(2);
    assert_eq!(open(&next_token("new")).1, 101);
    assert_eq!(gateway.records("telemetry").len(), 2);
    let tokens = [&old_token, &kept_token];
    let secrets: Vec<_> = tokens.iter().flat_map(|token| token.split('.').skip(1)).map(str::to_owned).collect();
    assert!(check_log("142", &gateway, 0, &secrets) > 0);
}

/// Twenty devices that heed no pause, against a log that takes nothing. What 200 of them lose is in the tests of acks.
#[test]
fn case_136_a_flood_while_kafka_is_away_is_paused_and_read_no_further() {
    let broker = Broker::start();
    let budget: u64 = 8 << 20;
    let build = Gateway::build().brokers(&broker.brokers()).set("limits.node_budget_bytes", &budget.to_string());
    let node = Proving::start(build.set("limits.tenant_budget_bytes", &budget.to_string()));
    node.case("136", |case| {
        let mut devices: Vec<_> = (0..20).map(|_| case.device("/v1/device")).collect();
        for client in &mut devices {
            client.send_text(UPDATE);
            client.expect_ack(1, PATIENCE);
        }
        let before = case.gateway().process.rss_kib();
        broker.freeze();
        // Three windows each, and twice what the node may hold.
        let large = format!("{}{}", case.marker, "x".repeat(20_000));
        for client in &mut devices {
            for seq in 2..=40 {
                client.send_json(&json!({"type": "update", "seq": seq, "value": large}));
            }
        }
        for client in &mut devices {
            assert_eq!(client.expect_type("pause", PATIENCE)["reason"], "log");
        }
        let growth = case.gateway().process.rss_kib().saturating_sub(before);
        broker.thaw();
        assert!(growth * 1_024 <= 2 * budget, "{growth} KiB for a budget of {budget} bytes");
        for client in &mut devices {
            loop {
                let message = client.json(Duration::from_secs(30)).expect("nobody is closed");
                assert_ne!(message["type"], "refused", "{message}");
                if message["type"] == "ack" && message["seq"] == 40 {
                    break;
                }
            }
        }
        case.stores(20 * 40);
    });
}
