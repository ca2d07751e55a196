//! Nodes that leave, and nodes that cannot reach Kafka: real processes, a real Redis and a real Kafka.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

#[path = "support/support.rs"]
mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::fleet::{Fleet, Load, WENT};
use support::gateway::Gateway;
use support::kafka::{self, Broker};
use support::proxy::Proxy;
use support::redis::Redis;
use support::ws::RawClient;
use support::{ports, sign, wait_for, wait_until};
use tidegate::auth::signing::SigningKey;

const PATIENCE: Duration = Duration::from_secs(120);
const TENANT: &str = "acme";
/// A device that measures often and keeps to the protocol.
const LIVELY: Load = Load { every: Duration::from_millis(20), bytes: 150, heeds: true };

fn is_ready(gateway: &Gateway) -> bool {
    gateway.internal("/readyz").0 == 200
}

/// What `/readyz?verbose` says.
fn state(gateway: &Gateway) -> Value {
    serde_json::from_str(&gateway.internal("/readyz?verbose").1).unwrap()
}

/// Opens a device's socket; its status where it is refused.
fn try_device(gateway: &Gateway, token: &str) -> Result<RawClient, u16> {
    let mut client = gateway.connect();
    let answer = client.upgrade("/v1/device?boot=b", &[("Authorization", &format!("Bearer {token}"))]);
    if answer.status == 101 { Ok(client) } else { Err(answer.status) }
}

/// Answers pings for a moment; nobody is closed meanwhile.
fn breathe(client: &mut RawClient) {
    let said = client.json(Duration::from_millis(50));
    assert!(said.as_ref().is_none_or(|said| said["type"] != "error"), "{said:?}");
}

fn stores(client: &mut RawClient, seq: u64) {
    client.send_json(&json!({"type": "update", "seq": seq, "value": seq}));
    client.expect_ack(seq, PATIENCE);
}

/// F2, O6 and `resume_after`: devices are told at a bounded pace, go where they are steered to, and send again only what is
/// not stored.
#[test]
fn a_node_that_leaves_under_load_hands_its_devices_over_at_its_pace_and_nothing_is_lost() {
    const DEVICES: usize = 120;
    const RATE: usize = 30;
    let redis = Redis::start();
    let mut a = Gateway::build()
        .redis(&redis.url())
        .set("drain.rate_per_s", &RATE.to_string())
        .set("drain.budget_s", "60")
        .start();
    let b = Gateway::build().beside(&a).start();
    let key = SigningKey::from_pem_file(&a.dir().join("signing-key.pem")).unwrap();
    let fleet = Fleet::start(a.public_addr(), TENANT, DEVICES, |device| sign(&key, device, TENANT, &["device"]));
    fleet.send(LIVELY);
    fleet.wait_acked(DEVICES * 20, PATIENCE);
    fleet.steer(b.public_addr());
    let began = Instant::now();
    assert_eq!(a.sigterm_and_wait(PATIENCE), Some(0));
    eprintln!("drained {DEVICES} devices at {RATE}/s within {:?}", began.elapsed());
    assert_said_goodbye(&redis, &a);
    fleet.wait_each_acked(Instant::now(), PATIENCE);
    fleet.rest();
    fleet.wait_settled(PATIENCE);
    let told = fleet.goaways();
    assert_eq!(told.len(), DEVICES, "each is told once");
    let took = told.last().unwrap().0.duration_since(told[0].0);
    assert!(took.as_secs_f64() >= 0.8 * (DEVICES - RATE) as f64 / RATE as f64, "all told within {took:?}");
    assert!(told.iter().all(|(_, deadline_ms)| (10_000..=30_000).contains(deadline_ms)), "{told:?}");
    for (number, ends) in fleet.ends_of_each().iter().enumerate() {
        let went = |end: &String| end.starts_with(WENT);
        assert!(ends.len() == 1 && ends.iter().all(went), "device {number} was not left the time to go: {ends:?}");
    }
    let (resent, spared, resumed) = fleet.resumption();
    eprintln!("{resent} sent again, {spared} spared by resume_after, which {resumed} of {DEVICES} were told");
    assert!(resumed > DEVICES / 2, "resume_after was told to {resumed} of {DEVICES}");
    for number in 0..DEVICES {
        let node = redis.cli(&["HGET", &format!("tg:{{{TENANT}/dev-{number:03}}}:own"), "node"]);
        assert_eq!(node, b.name(), "device {number}");
    }
    assert_nothing_held_by(&redis, &a);
    assert_all_online(&b, DEVICES);
    let verdict = fleet.leave().check(&b.records("telemetry"));
    verdict.assert_clean();
    assert!(verdict.repeats <= resent, "{verdict}, {resent} sent again");
}

/// No entry of a device is left behind by a node that ended.
fn assert_nothing_held_by(redis: &Redis, gone: &Gateway) {
    let held = redis.cli(&["KEYS", "tg:*:held"]);
    for key in held.lines().filter(|key| key.contains(&gone.name())) {
        assert_eq!(redis.cli(&["ZCARD", key]), "0", "{key}");
    }
}

/// The others do not take a node that ended for alive until its lease is over.
fn assert_said_goodbye(redis: &Redis, gone: &Gateway) {
    let members = redis.cli(&["ZRANGE", "{tg}:nodes", "0", "-1"]);
    let its = members.lines().find(|member| member.starts_with(&format!("{},", gone.name()))).unwrap();
    assert!(its.contains(",dead,") || its.contains(",gone,"), "{its}");
}

/// O6: presence folded as readers do says that every device is online.
fn assert_all_online(gateway: &Gateway, devices: usize) {
    let folded = || {
        let mut newest = std::collections::BTreeMap::new();
        for record in gateway.records("status") {
            if record.header("ce_type") == "tidegate.presence.v1" {
                let event = record.json();
                let rank = (event["epoch"].as_u64().unwrap(), !event["online"].as_bool().unwrap());
                let known = newest.entry(record.key.clone()).or_insert(rank);
                *known = rank.max(*known);
            }
        }
        newest
    };
    wait_until("every device is said to be online", PATIENCE, || {
        let newest = folded();
        newest.len() == devices && newest.values().all(|(_, offline)| !offline)
    });
}

#[test]
fn while_load_balancers_find_out_devices_are_let_in_and_then_served_until_their_deadline() {
    let mut a = Gateway::build().set("drain.propagation_s", "4").set("drain.budget_s", "40").start();
    let token = a.token("d", TENANT, &["device"]);
    a.process.signal("TERM");
    wait_until("it is unready", PATIENCE, || !is_ready(&a));
    let mut device = try_device(&a, &token).expect("let in while others still send devices here");
    device.expect_type("welcome", PATIENCE);
    stores(&mut device, 1);
    let goaway = device.expect_type("goaway", PATIENCE);
    assert_eq!(goaway["reason"], "restart");
    assert!(goaway["retry_after_ms"].as_u64().unwrap() < goaway["deadline_ms"].as_u64().unwrap(), "{goaway}");
    assert_eq!(a.metric("tidegate_draining", &[]), 1.0);
    assert_eq!(a.metric("tidegate_shed_total", &["reason=\"drain\""]), 1.0);
    assert_eq!(a.metric("tidegate_leaving_connections", &["device"]), 1.0);
    assert_eq!(a.metric("tidegate_drain_budget_seconds", &[]), 44.0);
    assert_eq!(a.metric("tidegate_readiness", &["reason=\"leaving\""]), 1.0);
    assert!(a.metric("tidegate_drain_began_timestamp_seconds", &[]) > 1e9);
    assert_eq!(state(&a)["state"], "leaving");
    // Case 46.
    assert_eq!(try_device(&a, &token).map(|_| ()), Err(503));
    stores(&mut device, 2);
    device.send_close(1000);
    drop(device);
    assert_eq!(a.process.wait(PATIENCE).code(), Some(0));
    let seqs: Vec<_> = a.records("telemetry").iter().map(|record| record.json()["value"].clone()).collect();
    assert_eq!(seqs, [1, 2]);
    assert!(a.process.log().contains("connections are told to leave"), "{}", a.process.log());
}

/// What the API answers to a request with a body.
fn post(gateway: &Gateway, app: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let response = gateway.connect().request(&format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {app}\r\nIdempotency-Key: {:x}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        fastrand::u64(..),
        body.len(),
    ));
    (response.status, serde_json::from_slice(&response.body).unwrap())
}

/// Answers the next command, and gives it.
fn obey(device: &mut RawClient) -> Value {
    let command = device.expect_type("command", PATIENCE);
    device.send_json(&json!({"type": "ack", "id": command["id"], "status": "succeeded", "result": command["params"]}));
    command
}

#[test]
fn a_device_that_was_told_to_leave_and_is_still_there_is_commanded_as_before() {
    let mut a = Gateway::build().set("drain.propagation_s", "0").set("drain.budget_s", "60").start();
    let b = Gateway::build().beside(&a).start();
    let app = a.token("console", TENANT, &["commands:write"]);
    let mut device = a.device("d", "/v1/device?boot=b");
    a.process.signal("TERM");
    device.expect_type("goaway", PATIENCE);
    // By the node that leaves, and by another.
    for gateway in [&a, &b] {
        let (path, body) = ("/v1/devices/d/commands", json!({"name": "open", "params": 7, "ttl_s": 60, "wait_s": 50}));
        let answer = std::thread::scope(|scope| {
            let asking = scope.spawn(|| post(gateway, &app, path, &body));
            obey(&mut device);
            asking.join().unwrap()
        });
        assert_eq!((answer.0, &answer.1["state"], &answer.1["result"]), (200, &json!("succeeded"), &json!(7)));
        assert_eq!(answer.1["attempts"], 1, "{}", answer.1);
    }
    device.send_close(1000);
    drop(device);
    assert_eq!(a.process.wait(PATIENCE).code(), Some(0));
}

/// More events than are under way at once: those that wait in the node are stored before it ends.
#[test]
fn what_became_of_commands_is_published_by_the_node_that_leaves() {
    const COMMANDS: usize = 300;
    let broker = Broker::start();
    let mut a = Gateway::build().brokers(&broker.brokers()).set("drain.propagation_s", "0").start();
    let app = a.token("console", TENANT, &["commands:write"]);
    let mut device = a.device("d", "/v1/device?boot=b");
    broker.freeze();
    for _ in 0..COMMANDS {
        let (path, body) = ("/v1/devices/d/commands", json!({"name": "open", "params": 7, "ttl_s": 60}));
        assert_eq!(post(&a, &app, path, &body).0, 202);
        obey(&mut device);
    }
    let ended = || a.metric("tidegate_command_answers_total", &["changed"]);
    wait_until("every answer is taken", PATIENCE, || ended() == COMMANDS as f64);
    device.send_close(1000);
    drop(device);
    a.process.signal("TERM");
    wait_until("it is unready", PATIENCE, || !is_ready(&a));
    broker.thaw();
    assert_eq!(a.process.wait(PATIENCE).code(), Some(0));
    let events = kafka::read_all(&broker.brokers(), &a.topic("command-events"));
    let ends = events.iter().filter(|event| event.json()["state"] == "succeeded").count();
    assert_eq!((ends, events.len()), (COMMANDS, 3 * COMMANDS), "{}", a.process.log());
}

#[test]
fn every_further_signal_cuts_short_what_is_waited_for() {
    let mut a = Gateway::build().set("drain.propagation_s", "600").set("drain.budget_s", "600").start();
    let mut device = a.device("d", "/v1/device");
    a.process.signal("TERM");
    wait_until("it is unready", PATIENCE, || !is_ready(&a));
    a.process.signal("TERM");
    device.expect_type("goaway", PATIENCE);
    stores(&mut device, 1);
    a.process.signal("TERM");
    assert_eq!(device.expect_close(PATIENCE), Some(1012));
    drop(device);
    assert_eq!(a.process.wait(PATIENCE).code(), Some(0));
}

#[test]
fn an_outage_of_kafka_that_all_share_leaves_every_node_ready() {
    let mut broker = Broker::start();
    let a = Gateway::build().brokers(&broker.brokers()).set("drain.cut_off_s", "0").start();
    let b = Gateway::build().beside(&a).set("drain.cut_off_s", "0").start();
    let mut device = a.device("d", "/v1/device?boot=b");
    stores(&mut device, 1);
    broker.kill();
    let without_kafka = |gateway: &Gateway| state(gateway)["kafka"]["probe"] == false;
    let mut ready_all_the_time = true;
    let mut look = || ready_all_the_time &= is_ready(&a) && is_ready(&b);
    wait_until("both have found out", PATIENCE, || {
        look();
        without_kafka(&a) && without_kafka(&b)
    });
    // As long as a node takes to conclude that it alone is without Kafka, and more.
    let until = Instant::now() + Duration::from_secs(25);
    while Instant::now() < until {
        look();
        std::thread::sleep(Duration::from_millis(200));
        breathe(&mut device);
    }
    assert!(ready_all_the_time, "an outage that everybody has takes no node out");
    let age = state(&a)["kafka"]["probe_age_s"].as_f64().unwrap();
    assert!(age > 20.0, "the last probe that came back is {age} s old");
    broker.restart();
    stores(&mut device, 2);
    wait_until("both have it again", PATIENCE, || !without_kafka(&a) && !without_kafka(&b));
}

/// F34.
#[test]
fn a_node_that_alone_lacks_kafka_is_unready_sends_its_devices_away_and_takes_them_again_later() {
    let (behind, door) = (ports::free(), ports::free());
    let broker = Broker::start_with_second_door(behind, door);
    let proxy = Proxy::start(door, behind);
    let b = Gateway::build().brokers(&broker.brokers()).start();
    let a = Gateway::build().beside(&b).brokers(&proxy.address()).set("drain.cut_off_s", "2").start();
    let token = a.token("d", TENANT, &["device"]);
    let mut device = try_device(&a, &token).unwrap();
    device.expect_type("welcome", PATIENCE);
    stores(&mut device, 1);
    proxy.cut();
    device.send_json(&json!({"type": "update", "seq": 2, "value": 2}));
    wait_until("the node that is cut off is unready", PATIENCE, || {
        breathe(&mut device);
        !is_ready(&a)
    });
    let goaway = device.expect_type("goaway", PATIENCE);
    assert_eq!(goaway["reason"], "moved");
    assert!(is_ready(&b) && a.internal("/livez").0 == 200, "the other one is ready, and this one lives");
    assert!(state(&a)["state"].as_str().unwrap().contains("sending devices to the others"));
    assert_eq!(a.metric("tidegate_draining", &[]), 1.0);
    assert_eq!(try_device(&a, &token).map(|_| ()), Err(503));
    // What is unacked is sent first on the other node.
    let mut moved = try_device(&b, &token).unwrap();
    moved.expect_type("welcome", PATIENCE);
    stores(&mut moved, 2);
    drop(device);
    proxy.mend();
    wait_until("it takes devices again", PATIENCE, || {
        breathe(&mut moved);
        is_ready(&a) && a.metric("tidegate_draining", &[]) == 0.0
    });
    let mut back = wait_for("it lets a device in", PATIENCE, || try_device(&a, &token).ok());
    back.expect_type("welcome", PATIENCE);
    stores(&mut back, 3);
    let values = kafka::read_all(&broker.brokers(), &a.topic("telemetry"));
    let mut values: Vec<_> = values.iter().map(|record| record.json()["value"].as_u64().unwrap()).collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!(values, [1, 2, 3]);
}
