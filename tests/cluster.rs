//! The cluster as users have it: three `tidegate serve`, one Redis, one Kafka, HAProxy with TLS passthrough in front;
//! devices on Python's websocket-client and on a client in Rust, commands by `curl`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]
#![allow(unreachable_pub, reason = "the parts of one test file")]

#[path = "cluster/rig.rs"]
mod rig;
#[path = "support/support.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rig::{PATIENCE, Rig};
use serde_json::{Value, json};
use support::wait_until;
use support::ws::RawClient;

/// The next command of a device, taken within `PATIENCE`.
fn next_command(client: &mut RawClient) -> Value {
    client.expect_type("command", PATIENCE)
}

fn ack(client: &mut RawClient, id: &str, status: &str) {
    client.send_json(&json!({"type": "ack", "id": id, "status": status, "result": {"said": status}}));
}

#[test]
fn devices_behind_the_load_balancer_are_spread_and_each_has_its_row() {
    let rig = Rig::start();
    let devices: Vec<_> = (0..6).map(|number| rig.python(&format!("spread-{number}"))).collect();
    let nodes: BTreeSet<_> = (0..6).map(|number| rig.node_of(&format!("spread-{number}"))).collect();
    assert_eq!(nodes.len(), 3, "round robin over three nodes: {nodes:?}");
    assert!(devices.iter().all(|device| device.told("welcome").len() == 1));
}

#[test]
fn a_device_gets_its_commands_through_any_node_and_its_own_answer_goes_back() {
    let rig = Rig::start();
    let device = rig.python("lamp");
    let home = rig.node_of("lamp");
    // The same node, both others, and whichever HAProxy picks.
    for (number, through) in [Some(home), Some((home + 1) % 3), Some((home + 2) % 3), None].into_iter().enumerate() {
        let key = format!("any-{number}");
        let body = json!({"name": "open", "params": {"number": number}, "ttl_s": 60, "wait_s": 20});
        let began = Instant::now();
        let answer = rig.post(through, "lamp", &key, &body);
        eprintln!("through {through:?}, the device at {home}: {:?}", began.elapsed());
        assert_eq!((answer.status, answer.state()), (200, "succeeded"), "{answer:?}");
        assert_eq!(answer.body["result"], json!({"did": {"number": number}}));
        assert_eq!(device.did(&answer.id()), 1);
    }
    assert_eq!(device.told("command").len(), 4);
}

#[test]
fn a_trace_asked_of_any_node_is_in_the_log_of_the_one_that_has_the_device() {
    let rig = Rig::start();
    let mut device = rig.device(0, "outlined");
    let answer = rig.trace(1, "outlined");
    assert_eq!((answer.status, answer.body["node"].as_str()), (200, Some(rig.cluster.nodes[0].name().as_str())));
    device.send_json(&json!({"type": "update", "seq": 77_077, "value": "not told"}));
    device.expect_ack(77_077, PATIENCE);
    let log = |node: usize| rig.cluster.nodes[node].process.log();
    let outlines = |log: String| log.lines().filter(|line| line.contains("outlined") && line.contains("77077")).count();
    wait_until("the update and its ack are outlined", PATIENCE, || outlines(log(0)) == 2);
    assert!(!log(0).contains("not told") && outlines(log(1)) == 0);
    assert_eq!(rig.trace(2, "nobody").status, 404);
}

#[test]
fn commands_for_a_device_of_a_node_that_is_drained_follow_it() {
    let mut rig = Rig::start();
    let device = rig.python("mover");
    let home = rig.node_of("mover");
    rig.cluster.nodes[home].process.signal("TERM");
    let through = Some((home + 1) % 3);
    let mut ids = Vec::new();
    let end = Instant::now() + PATIENCE;
    while rig.cluster.nodes[home].process.ended().is_none() {
        assert!(Instant::now() < end, "the node does not leave");
        let body = json!({"name": "open", "params": {}, "ttl_s": 60, "wait_s": 20});
        let answer = rig.post(through, "mover", &format!("drain-{}", ids.len()), &body);
        assert_eq!((answer.status, answer.state()), (200, "succeeded"), "{answer:?}");
        ids.push(answer.id());
    }
    assert_eq!(rig.cluster.nodes[home].process.wait(PATIENCE).code(), Some(0));
    assert!(!ids.is_empty());
    assert_ne!(rig.node_of("mover"), home);
    assert!(ids.iter().all(|id| device.did(id) == 1), "each is done once");
    assert!(device.told("goaway").len() == 1 && device.told("welcome").len() >= 2);
}

#[test]
fn a_command_for_a_device_of_a_node_that_was_just_killed_waits_for_its_return() {
    let mut rig = Rig::start();
    let device = rig.python("orphan");
    let home = rig.node_of("orphan");
    rig.cluster.kill(home);
    let through = Some((home + 1) % 3);
    let id = rig.command(through, "orphan", 60).id();
    let answer = rig.wait_state("orphan", &id, "succeeded");
    assert_eq!(answer.body["result"]["did"]["key"], "key-0");
    assert_eq!(device.did(&id), 1);
    assert_ne!(rig.node_of("orphan"), home);
}

#[test]
fn a_device_that_was_away_finds_what_waits_in_its_order_and_nothing_that_is_over() {
    let rig = Rig::start();
    let waiting: Vec<_> = (0..3).map(|node| rig.command(Some(node), "sleeper", 60).id()).collect();
    let expired = rig.command(None, "sleeper", 1).id();
    let canceled = rig.command(None, "sleeper", 60).id();
    assert!(waiting.iter().all(|id| rig.get("sleeper", id).state() == "queued"));
    // Canceled twice it is the same; canceled after it was sent it is too late.
    for _ in 0..2 {
        let answer = rig.cancel("sleeper", &canceled);
        assert_eq!((answer.status, answer.state()), (200, "canceled"), "{answer:?}");
    }
    let answer = rig.wait_state("sleeper", &expired, "expired");
    assert_eq!(answer.body["reason"], "unsent");

    let mut client = rig.device(1, "sleeper");
    for id in &waiting {
        let command = next_command(&mut client);
        assert_eq!((command["id"].as_str(), command["attempt"].as_u64()), (Some(id.as_str()), Some(1)));
        assert_eq!(rig.cancel("sleeper", id).status, 409, "it was sent");
        ack(&mut client, id, "succeeded");
    }
    for id in &waiting {
        assert_eq!(rig.wait_state("sleeper", id, "succeeded").body["result"], json!({"said": "succeeded"}));
    }
    assert!(client.json(Duration::from_secs(2)).is_none(), "nothing else comes");
    assert_eq!(rig.get("sleeper", &expired).state(), "expired");
}

#[test]
fn of_a_thousand_equal_requests_at_once_one_makes_the_command_and_all_know_it() {
    let rig = Rig::start();
    let mut client = rig.device(0, "popular");
    // It answers while they still ask: a command without an answer is sent again after a while.
    let device = thread::spawn(move || {
        let command = next_command(&mut client);
        ack(&mut client, command["id"].as_str().unwrap(), "succeeded");
        (client, command)
    });
    let dir = rig.file("answers");
    fs::create_dir(&dir).unwrap();
    let body = json!({"name": "open", "params": {}, "ttl_s": 60}).to_string();
    let mut curl = rig.curl();
    curl.args(["-H", "Idempotency-Key: the-same", "-H", "Content-Type: application/json", "-d", &body]);
    curl.args(["-Z", "--parallel-max", "200", "--retry", "3", "-w", "%{http_code}\\n", "-o"]);
    // What stands behind `#` is not sent; it only makes a thousand of one.
    curl.arg(dir.join("#1")).arg(format!("{}/v1/devices/popular/commands#[1-1000]", rig.base(None)));
    let output = curl.output().unwrap();
    let statuses = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = |status: &str| statuses.lines().filter(|line| *line == status).count();
    let counts = (count("202"), count("200"));
    assert_eq!(counts, (1, 999), "{statuses} {}", String::from_utf8_lossy(&output.stderr));
    let id = |number: usize| {
        let body: Value = serde_json::from_slice(&fs::read(dir.join(number.to_string())).unwrap()).unwrap();
        body["id"].as_str().unwrap().to_owned()
    };
    let ids: BTreeSet<_> = (1..=1000).map(id).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let id = ids.first().unwrap();
    let (mut client, command) = device.join().unwrap();
    assert_eq!(command["id"], **id);
    rig.wait_state("popular", id, "succeeded");
    let more = client.json(Duration::from_secs(2));
    assert!(more.is_none(), "it comes once: {more:?}");
    // The same key for something else.
    let other = rig.post(None, "popular", "the-same", &json!({"name": "close", "params": {}, "ttl_s": 60}));
    assert_eq!(other.status, 409, "{other:?}");
}

#[test]
fn an_answer_that_comes_late_or_twice_is_recorded_and_changes_nothing() {
    let rig = Rig::start();
    let mut client = rig.device(0, "slow");
    let late = rig.command(Some(1), "slow", 2).id();
    assert_eq!(next_command(&mut client)["id"], *late);
    let answer = rig.wait_state("slow", &late, "expired");
    assert_eq!(answer.body["reason"], "outcome_unknown");
    ack(&mut client, &late, "succeeded");
    let twice = rig.command(Some(2), "slow", 60).id();
    while next_command(&mut client)["id"] != *twice {}
    ack(&mut client, &twice, "succeeded");
    rig.wait_state("slow", &twice, "succeeded");
    ack(&mut client, &twice, "failed");
    for (id, state, said) in [(&late, "expired", "succeeded"), (&twice, "succeeded", "failed")] {
        let answer = support::wait_for("the late answer is recorded", PATIENCE, || {
            Some(rig.get("slow", id)).filter(|answer| answer.body["late"]["count"] == 1)
        });
        assert_eq!((answer.state(), &answer.body["late"]["status"]), (state, &json!(said)), "{answer:?}");
    }
}

#[test]
fn a_command_may_be_answered_from_a_second_connection_on_another_node() {
    let rig = Rig::start();
    let mut first = rig.device(0, "twofold");
    let id = rig.command(Some(0), "twofold", 60).id();
    assert_eq!(next_command(&mut first)["attempt"], 1);
    let mut second = rig.device(1, "twofold");
    let again = next_command(&mut second);
    assert_eq!((again["id"].as_str(), again["attempt"].as_u64()), (Some(id.as_str()), Some(2)));
    ack(&mut second, &id, "succeeded");
    rig.wait_state("twofold", &id, "succeeded");
    assert_eq!(first.expect_close(PATIENCE), Some(4002), "the same boot has a newer connection");
}
