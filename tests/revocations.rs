//! Blocks and revocations, with real nodes on a real Kafka: written to the topic, in force on every node within 5 s, and
//! still when Redis has lost everything or a node starts later. Case 77, fault F12.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/produce.rs"]
mod produce;
#[path = "support/support.rs"]
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::gateway::Gateway;
use support::ws::RawClient;
use support::{kafka, wait_until};
use tidegate::eventlog::kafka::{KafkaConfig, KafkaWriter};
use tidegate::id::DeviceKey;
use tidegate::revocations::{Revocation, RevocationWriter};

/// How soon a revocation is in force on every node, from its record on.
const IN_FORCE: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(20);
/// What follows a frozen or thawed broker: readers look every 10 s, and may have to look twice.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(gateway: &Gateway, token: &str, path: &str) -> RawClient {
    let mut client = gateway.connect();
    client.open(path, &[("Authorization", &format!("Bearer {token}"))]);
    client.expect_type("welcome", SOON);
    client
}

fn status(gateway: &Gateway, token: &str, path: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    gateway.connect().upgrade(path, &[("Authorization", &bearer)]).status
}

fn stores(client: &mut RawClient, seq: u64) {
    client.send_text(&format!(r#"{{"type":"update","seq":{seq},"value":{seq}}}"#));
    client.expect_ack(seq, SOON);
}

fn revoke(gateway: &Gateway, key: &str, value: Option<&Value>) {
    let value = value.map(Value::to_string);
    produce::put(gateway.brokers(), &gateway.topic("revocations"), key, value.as_deref());
}

/// Each of these is closed with this code, all of them within this time: the record is stored now.
fn all_closed(within: Duration, code: u16, clients: &mut [&mut RawClient]) {
    let end = Instant::now() + within;
    for client in clients {
        assert_eq!(client.expect_close(end.saturating_duration_since(Instant::now())), Some(code));
    }
}

/// The payload of a token.
fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// What the API of a gateway would write with.
fn writer(gateway: &Gateway) -> RevocationWriter {
    let (brokers, topic_prefix) = (gateway.brokers().to_owned(), gateway.topic(""));
    let config = KafkaConfig { brokers, topic_prefix, ..KafkaConfig::default() };
    RevocationWriter::new(std::sync::Arc::new(KafkaWriter::start(&config).unwrap()))
}

fn publish(writer: &RevocationWriter, revocation: &Revocation) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(writer.publish(revocation)).unwrap();
}

#[test]
fn case_77_a_blocked_device_is_closed_everywhere_and_stays_out_whatever_redis_forgets() {
    let mut a = Gateway::start();
    let b = Gateway::build().beside(&a).start();
    let token = |sub: &str, tenant: &str| a.token(sub, tenant, &["device"]);
    let (stolen, other, namesake) = (token("stolen", "acme"), token("other", "acme"), token("stolen", "second"));
    let mut live = open(&a, &stolen, "/v1/device");
    let (mut bystander, mut stranger) = (open(&b, &other, "/v1/device"), open(&a, &namesake, "/v1/device"));
    let block = json!({"type": "device", "tenant": "acme", "device": "stolen", "blocked": true});
    revoke(&a, "device:acme/stolen", Some(&block));
    all_closed(IN_FORCE, 4302, &mut [&mut live]);
    wait_until("the other node knows", IN_FORCE, || b.metric("tidegate_revocations", &[]) > 0.5);
    assert_eq!([status(&a, &stolen, "/v1/device"), status(&b, &stolen, "/v1/device")], [403; 2]);
    a.redis().cli(&["FLUSHALL"]);
    let c = Gateway::build().beside(&a).start();
    for gateway in [&a, &b, &c] {
        assert_eq!(status(gateway, &stolen, "/v1/device"), 403);
        assert!(gateway.metric("tidegate_revocations_readable", &[]) > 0.5);
    }
    stores(&mut bystander, 1);
    stores(&mut stranger, 1);
    // A record that cannot be read frees nobody.
    revoke(&a, "device:acme/stolen", Some(&json!({"type": "device"})));
    revoke(
        &a,
        "device:acme/unrelated",
        Some(&json!({"type": "device", "tenant": "acme", "device": "unrelated", "blocked": true})),
    );
    wait_until("the next record is read", IN_FORCE, || a.metric("tidegate_revocations", &[]) > 1.5);
    assert_eq!(status(&a, &stolen, "/v1/device"), 403);
    revoke(&a, "device:acme/stolen", None);
    for gateway in [&a, &b, &c] {
        wait_until("the tombstone frees it", IN_FORCE, || status(gateway, &stolen, "/v1/device") == 101);
    }
}

#[test]
fn what_was_issued_before_a_moment_is_closed_and_refused_and_a_new_token_is_taken() {
    let a = Gateway::start();
    let b = Gateway::build().beside(&a).start();
    let old = a.token("sensor", "acme", &["device"]);
    let console = a.token("console", "acme", &["telemetry:read"]);
    let foreign = a.token("sensor", "second", &["device"]);
    let (mut device, mut app) = (open(&a, &old, "/v1/device"), open(&b, &console, "/v1/app"));
    let mut second = open(&b, &foreign, "/v1/device");
    let at_ms = (claims(&console)["iat"].as_i64().unwrap() + 1) * 1_000;
    let writer = writer(&a);
    publish(&writer, &Revocation::IssuedBefore { tenant: "acme".into(), device: None, at_ms });
    all_closed(IN_FORCE, 4202, &mut [&mut device, &mut app]);
    for gateway in [&a, &b] {
        assert_eq!((status(gateway, &old, "/v1/device"), status(gateway, &console, "/v1/app")), (401, 401));
    }
    stores(&mut second, 1);
    wait_until("a token of later is minted", SOON, || {
        claims(&a.token("sensor", "acme", &["device"]))["iat"].as_i64().unwrap() * 1_000 >= at_ms
    });
    let mut back = open(&b, &a.token("sensor", "acme", &["device"]), "/v1/device");
    back.send_json(&json!({"type": "auth", "id": "x", "token": old}));
    assert_eq!(back.expect_type("refused", SOON)["id"], "x");
    stores(&mut back, 1);
    // Of one device alone.
    let key = DeviceKey::new("acme", "sensor").unwrap();
    let later = Revocation::IssuedBefore { tenant: "acme".into(), device: Some(key), at_ms: at_ms + 3_600_000 };
    publish(&writer, &later);
    all_closed(IN_FORCE, 4202, &mut [&mut back]);
    let others = a.token("another", "acme", &["device"]);
    assert_eq!(status(&b, &others, "/v1/device"), 101);
}

#[test]
fn a_withdrawn_key_ends_its_tokens_on_every_node_until_a_tombstone() {
    let a = Gateway::start();
    let b = Gateway::build().beside(&a).start();
    let token = a.token("sensor", "acme", &["device"]);
    let foreign = a.token("sensor", "second", &["device"]);
    let jwks: Value = serde_json::from_slice(&std::fs::read(a.dir().join("jwks.json")).unwrap()).unwrap();
    let kid = jwks["keys"][0]["kid"].as_str().unwrap();
    let (mut mine, mut others) = (open(&a, &token, "/v1/device"), open(&b, &foreign, "/v1/device"));
    let writer = writer(&a);
    let of_tenant = Revocation::KeyId { tenant: Some("acme".into()), issuer: Some("tidegate".into()), kid: kid.into() };
    publish(&writer, &of_tenant);
    all_closed(IN_FORCE, 4202, &mut [&mut mine]);
    assert_eq!(status(&a, &token, "/v1/device"), 401);
    wait_until("the other node knows", IN_FORCE, || status(&b, &token, "/v1/device") == 401);
    stores(&mut others, 1);
    revoke(&a, &format!("key:*:*:{kid}"), Some(&json!({"type": "key", "kid": kid})));
    all_closed(IN_FORCE, 4202, &mut [&mut others]);
    assert_eq!(status(&b, &foreign, "/v1/device"), 401);
    revoke(&a, &format!("key:*:*:{kid}"), None);
    revoke(&a, &of_tenant.record_key(), None);
    wait_until("the tombstones free the key", IN_FORCE, || {
        [status(&a, &token, "/v1/device"), status(&b, &foreign, "/v1/device")] == [101; 2]
    });
}

#[test]
fn while_the_topic_cannot_be_read_the_last_state_holds_and_then_it_is_followed_again() {
    let broker = kafka::Broker::start();
    let a = Gateway::build().brokers(&broker.brokers()).start();
    let (stolen, other) = (a.token("stolen", "acme", &["device"]), a.token("other", "acme", &["device"]));
    let block = |device: &str| json!({"type": "device", "tenant": "acme", "device": device, "blocked": true});
    let mut live = open(&a, &other, "/v1/device");
    revoke(&a, "device:acme/stolen", Some(&block("stolen")));
    wait_until("it is in force", SOON, || status(&a, &stolen, "/v1/device") == 403);
    broker.freeze();
    let readable = |a: &Gateway| a.metric("tidegate_revocations_readable", &[]) > 0.5;
    wait_until("it is said that the topic cannot be read", PATIENCE, || {
        let _ = live.json(Duration::from_millis(50));
        !readable(&a)
    });
    assert_eq!(status(&a, &stolen, "/v1/device"), 403);
    broker.thaw();
    // The broker sorts itself out first: how long that takes is not the node's to promise.
    wait_until("it can be read again", PATIENCE, || {
        let _ = live.json(Duration::from_millis(50));
        readable(&a)
    });
    revoke(&a, "device:acme/other", Some(&block("other")));
    all_closed(SOON, 4302, &mut [&mut live]);
    assert_eq!(status(&a, &stolen, "/v1/device"), 403);
}

#[test]
fn a_node_without_the_topic_does_not_start_and_says_what_to_do() {
    let a = Gateway::start();
    let (dir, prefix) = (tempfile::tempdir().unwrap(), kafka::new_prefix());
    for topic in ["telemetry", "status", "command-events"] {
        kafka::create_topic(a.brokers(), &format!("{prefix}{topic}"), 1);
    }
    let config = std::fs::read_to_string(a.dir().join("tidegate.toml")).unwrap();
    let lines = config.lines().filter(|line| !line.starts_with("kafka.topic_prefix") && !line.starts_with("node.name"));
    let mut text: String = lines.map(|line| format!("{line}\n")).collect();
    text += &format!("kafka.topic_prefix = '{prefix}'\nnode.name = 'lonely'\nnode.start_timeout_s = 5\n");
    std::fs::write(dir.path().join("tidegate.toml"), text).unwrap();
    let serve = ["serve", "--config"];
    let output =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(serve).arg(dir.path().join("tidegate.toml")).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains(&format!("{prefix}revocations")) && said.contains("tidegate topics --apply"), "{said}");
}

#[test]
fn the_records_are_what_the_schema_says() {
    let schema: Value = serde_json::from_str(include_str!("../docs/protocol/schemas/revocation.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let key = DeviceKey::new("acme", "d1").unwrap();
    for revocation in [
        Revocation::Device { key: key.clone(), blocked: true },
        Revocation::KeyId { tenant: None, issuer: None, kid: "k".into() },
        Revocation::KeyId { tenant: Some("acme".into()), issuer: Some("https://id".into()), kid: "k".into() },
        Revocation::IssuedBefore { tenant: "acme".into(), device: None, at_ms: 1 },
        Revocation::IssuedBefore { tenant: "acme".into(), device: Some(key), at_ms: 1 },
    ] {
        let value: Value = serde_json::from_str(&revocation.record_value().unwrap()).unwrap();
        assert!(schema.is_valid(&value), "{value}");
    }
    for bad in [json!({}), json!({"type": "device", "tenant": "acme"}), json!({"type": "key"}), json!({"type": "x"})] {
        assert!(!schema.is_valid(&bad), "{bad}");
    }
}
