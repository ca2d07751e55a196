//! Traces of real nodes, on a real Kafka and a real Redis, at a collector that speaks OTLP; and what becomes of the nodes when
//! it is not there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "traces/collector.rs"]
mod collector;
#[path = "support/support.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use collector::{Collector, Seen, frozen};
use serde_json::{Value, json};
use support::callers::http;
use support::gateway::{Builder, Gateway, write_certificate};
use support::ws::RawClient;
use support::{ports, wait_for, wait_until};

const SOON: Duration = Duration::from_secs(60);
/// Client and server of the same call have the same name.
const RING: &str = "tidegate.peer.v1.Peer/Ring";
const ENDED: &str = "tidegate.peer.v1.Peer/Ended";
const POST: &str = "POST /v1/devices/{device}/commands";
/// As OTLP numbers them.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

fn traced(builder: Builder, endpoint: &str, ratio: &str) -> Builder {
    builder.set("telemetry.otlp_endpoint", endpoint).set("telemetry.sample_ratio", ratio)
}

/// A request of an application that may everything.
fn ask(gateway: &Gateway, what: (&str, &str), key: Option<&str>, body: &Value) -> (u16, Value) {
    let token = gateway.token("console", "acme", &["commands:write", "telemetry:read", "admin"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(http(gateway.public_addr(), what, &token, key, Some(body)))
}

/// Sends a command and has its device answer it; gives the command as it has ended.
fn command(through: &Gateway, device: &mut RawClient, name: &str, key: &str) -> Value {
    std::thread::scope(|scope| {
        let body = json!({ "name": "open", "params": { "secret": "pssst" }, "ttl_s": 60, "wait_s": 4 });
        let path = format!("/v1/devices/{name}/commands");
        let asked = scope.spawn(move || ask(through, ("POST", &path), Some(key), &body));
        let order = device.expect_type("command", SOON);
        device.send_json(&json!({ "type": "ack", "id": order["id"], "status": "succeeded", "result": 7 }));
        let (status, ended) = asked.join().unwrap();
        assert_eq!((status, ended["state"].as_str()), (200, Some("succeeded")), "{ended}");
        ended
    })
}

#[track_caller]
fn one<'a>(spans: &'a [Seen], what: &str, is_it: impl Fn(&Seen) -> bool) -> &'a Seen {
    let found: Vec<_> = spans.iter().filter(|span| is_it(span)).collect();
    assert_eq!(found.len(), 1, "{what} in {spans:#?}");
    found[0]
}

/// The session of the device's connection, as the handshake's span has it.
fn handshake(collector: &Collector, device: &str) -> Seen {
    wait_for("the span of the handshake", SOON, || {
        collector.all().into_iter().find(|span| span.name == "GET /v1/device" && span.of("tidegate.device") == device)
    })
}

#[test]
fn a_command_is_one_trace_over_both_nodes_and_goes_on_in_kafka() {
    let collector = Collector::start();
    let a = traced(Gateway::build(), &collector.endpoint(), "1.0").start();
    let b = traced(Gateway::build().beside(&a), &collector.endpoint(), "1.0").start();
    for gateway in [&a, &b] {
        wait_until("each knows the other", SOON, || gateway.metric("tidegate_peers", &[]) == 1.0);
    }
    let mut device = b.device("d-1", "/v1/device?boot=one");
    let ended = command(&a, &mut device, "d-1", "order-1");
    let id = ended["id"].as_str().unwrap();
    let send = format!("send {}", a.topic("command-events"));
    let names = [POST, "create command", RING, "deliver command", "settle command", ENDED, &send];
    collector.trace(id, &names);
    // Both ends of each call, and an event for each of the three states.
    let spans = wait_for("all of its spans", SOON, || {
        let spans = collector.trace(id, &names);
        let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
        (count(RING) == 2 && count(&send) == 3 && count(ENDED) >= 2).then_some(spans)
    });
    let (on_a, on_b) = (a.name(), b.name());
    let named = |name: &'static str| move |span: &Seen| span.name == name;
    let post = one(&spans, "the request", named(POST));
    assert_eq!((post.node.as_str(), post.parent.as_str(), post.kind), (on_a.as_str(), "", SERVER));
    assert_eq!(post.of("http.response.status_code"), "200");
    let create = one(&spans, "the acceptance", named("create command"));
    assert_eq!((&create.node, &create.parent), (&on_a, &post.span));
    assert_eq!((create.of("messaging.operation.type"), create.of("messaging.message.id")), ("create", id));
    for (call, caller, answerer) in [(RING, &on_a, &on_b), (ENDED, &on_b, &on_a)] {
        let asked: Vec<_> = spans.iter().filter(|span| span.name == call && span.kind == CLIENT).collect();
        for asked in &asked {
            assert_eq!((&asked.node, &asked.parent), (caller, &create.span), "{call}");
            let answered = one(&spans, "the other end", |span| span.parent == asked.span);
            assert_eq!((&answered.node, answered.kind, answered.name.as_str()), (answerer, SERVER, call));
            assert_eq!((answered.of("rpc.system"), answered.of("rpc.service")), ("grpc", "tidegate.peer.v1.Peer"));
        }
        assert!(!asked.is_empty(), "{call}");
    }
    let shook = handshake(&collector, "d-1");
    assert_eq!((&shook.node, shook.trace.as_str()), (&on_b, shook.of("tidegate.session").repeat(2).as_str()));
    for name in ["deliver command", "settle command"] {
        let span = one(&spans, name, |span| span.name == name);
        assert_eq!((&span.node, &span.parent), (&on_b, &create.span), "{name}");
        assert_eq!(span.links, [(shook.trace.clone(), shook.span.clone())], "{name}");
        assert_eq!(span.of("tidegate.session"), shook.of("tidegate.session"), "{name}");
    }
    let events: Vec<_> = spans.iter().filter(|span| span.name == send).collect();
    assert!(events.iter().all(|event| event.parent == create.span && event.of("messaging.system") == "kafka"));
    let records = a.records("command-events");
    assert_eq!(records.len(), 3);
    for record in &records {
        let span = one(&spans, "the record's", |span| span.traceparent() == record.header("traceparent"));
        assert_eq!((span.name.as_str(), span.of("messaging.message.id")), (send.as_str(), record.header("ce_id")));
        assert_eq!(record.json()["requested_by"], "console");
    }
    assert!(spans.iter().all(|span| !span.is_error && span.took < Duration::from_secs(60)), "{spans:#?}");
    let all = format!("{:?}", collector.all());
    assert!(!all.contains("pssst") && !all.contains("eyJ"), "a payload, or a token");
}

#[test]
fn a_message_is_a_trace_from_its_receipt_to_its_ack_and_only_a_traced_device_is_sampled_at_ratio_0() {
    let collector = Collector::start();
    let gateway = traced(Gateway::build(), &collector.endpoint(), "0").start();
    let mut device = gateway.device("d-1", "/v1/device?boot=one");
    let brought = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    device.send_json(&json!({ "type": "update", "seq": 1, "value": 1, "traceparent": brought }));
    device.expect_ack(1, SOON);
    let (status, answer) = ask(&gateway, ("PUT", "/v1/devices/d-1/trace"), None, &json!({ "for_s": 60 }));
    assert_eq!(status, 200, "{answer}");
    device.send_json(&json!({ "type": "update", "seq": 2, "value": "pssst" }));
    device.expect_ack(2, SOON);
    let received = wait_for("its span", SOON, || collector.all().into_iter().find(|s| s.name == "receive update"));
    let send = format!("send {}", gateway.topic("telemetry"));
    let spans = collector.trace(&received.trace, &["receive update", &send]);
    assert_eq!(spans.len(), 2, "{spans:#?}");
    let shook = handshake(&collector, "d-1");
    assert_eq!((received.parent.as_str(), received.links.as_slice()), ("", &[(shook.trace, shook.span)][..]));
    assert_eq!(received.of("messaging.message.id"), "one:2");
    let sent = one(&spans, "the way to Kafka", |span| span.name == send);
    assert_eq!((&sent.parent, sent.of("messaging.destination.name")), (&received.span, &*gateway.topic("telemetry")));
    assert!(received.took >= sent.took, "the ack waits for Kafka");
    let mut records = gateway.records("telemetry");
    records.sort_by_key(|record| record.boot_and_seq().map(|(_, seq)| seq));
    let headers: Vec<_> = records.iter().map(|record| record.header("traceparent").to_owned()).collect();
    assert_eq!(headers, [String::new(), sent.traceparent()], "what a device brings is not believed");
    let log = gateway.process.log();
    let line = log.lines().find(|line| line.contains(r#""kind":"update""#)).expect("its outline is in the log");
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((line["trace_id"].as_str(), line["span_id"].as_str()), (Some(&*received.trace), Some(&*received.span)));
    assert_eq!(line["session"].as_str(), Some(received.of("tidegate.session")));
    assert!(!log.contains("pssst") && !format!("{:?}", collector.all()).contains("pssst"));

    // A command for it is sampled too, under its own id.
    let ended = command(&gateway, &mut device, "d-1", "order-1");
    let spans = collector.trace(ended["id"].as_str().unwrap(), &[POST, "create command", "deliver command"]);
    assert_eq!(spans.iter().filter(|span| span.parent.is_empty()).count(), 1, "{spans:#?}");
}

#[test]
fn what_a_device_brings_goes_on_here_where_it_is_believed() {
    let collector = Collector::start();
    let builder = traced(Gateway::build(), &collector.endpoint(), "0").set("telemetry.trust_traceparent", "true");
    let gateway = builder.start();
    let mut device = gateway.device("d-1", "/v1/device?boot=one");
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    for (seq, brought) in [(1, format!("00-{trace}-{span}-01")), (2, format!("00-{trace}-{span}-00")), (3, "x".into())]
    {
        device.send_json(&json!({ "type": "update", "seq": seq, "value": 1, "traceparent": brought }));
        device.expect_ack(seq, SOON);
    }
    let send = format!("send {}", gateway.topic("telemetry"));
    let spans = collector.trace(trace, &["receive update", &send]);
    let received = one(&spans, "of the one that is sampled", |span| span.name == "receive update");
    assert_eq!(received.parent, span);
    let sent = one(&spans, "its way to Kafka", |span| span.name == send);
    let mut records = gateway.records("telemetry");
    records.sort_by_key(|record| record.boot_and_seq().map(|(_, seq)| seq));
    let headers: Vec<_> = records.iter().map(|record| record.header("traceparent").to_owned()).collect();
    assert_eq!(headers, [sent.traceparent(), format!("00-{trace}-{span}-00"), String::new()]);
}

#[test]
fn a_collector_behind_tls_is_asked_for_its_certificate() {
    let (mine, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_certificate(mine.path());
    write_certificate(others.path());
    let collector = Collector::start_tls(mine.path());
    let counted = |ca: &Path, outcome: &str| {
        let ca = format!("'{}'", ca.join("ca.pem").display());
        let gateway = traced(Gateway::build(), &collector.endpoint(), "1.0").set("telemetry.otlp_ca", &ca).start();
        let _device = gateway.device("d-1", "/v1/device?boot=one");
        wait_until("the handshake's span is counted", SOON, || {
            gateway.metric("tidegate_trace_spans_total", &[&format!("outcome=\"{outcome}\"")]) > 0.0
        });
    };
    counted(others.path(), "lost");
    assert!(collector.all().is_empty());
    counted(mine.path(), "exported");
    handshake(&collector, "d-1");
}

/// Sends so many updates in batches, each acked before the next.
fn send_many(device: &mut RawClient, batches: u64, each: u64) {
    for batch in 0..batches {
        let seqs = batch * each + 1..=(batch + 1) * each;
        let updates: Vec<_> = seqs.map(|seq| json!({ "type": "update", "seq": seq, "value": seq })).collect();
        device.send_json(&Value::from(updates));
        device.expect_ack((batch + 1) * each, SOON);
    }
}

/// A node whose collector is not well serves as any other, and leaves in time.
fn serves_without(endpoint: &str, batches: u64, counted: &str) {
    let builder = traced(Gateway::build(), endpoint, "1.0").set("limits.messages_per_s", "100000");
    let mut gateway = builder.start();
    let mut device = gateway.device("d-1", "/v1/device?boot=one");
    send_many(&mut device, batches, 500);
    wait_until("the spans are counted", SOON, || {
        gateway.metric("tidegate_trace_spans_total", &[&format!("outcome=\"{counted}\"")]) > 0.0
    });
    assert_eq!(gateway.metric("tidegate_trace_spans_total", &["outcome=\"exported\""]), 0.0);
    assert_eq!(gateway.records("telemetry").len() as u64, batches * 500);
    drop(device);
    // Its budget is 10 s, and what follows it is bounded; without traces it takes about a second.
    let began = Instant::now();
    assert_eq!(gateway.sigterm_and_wait(SOON), Some(0));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_collector_that_is_gone_costs_spans_and_nothing_else() {
    serves_without(&format!("'http://127.0.0.1:{}'", ports::free()), 2, "lost");
}

#[test]
fn a_collector_that_never_answers_costs_spans_and_nothing_else() {
    let (_listener, endpoint) = frozen();
    // Two spans each: more than may wait.
    serves_without(&endpoint, 8, "dropped");
}
