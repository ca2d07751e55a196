//! Who owns a device, with real nodes on a real Redis and a real Kafka: it moves, its node dies, Redis goes and comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/support.rs"]
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::gateway::Gateway;
use support::redis::Redis;
use support::wait_for;
use support::ws::RawClient;

/// What takes a few renewals.
const SOON: Duration = Duration::from_secs(30);
/// A lease, twice that, a renewal, and time for a busy machine.
const SETTLED: Duration = Duration::from_secs(120);

/// Opens a device's socket and gives its `welcome` too.
fn open(gateway: &Gateway, token: &str, path: &str) -> (RawClient, Value) {
    let mut client = gateway.connect();
    client.open(path, &[("Authorization", &format!("Bearer {token}"))]);
    let welcome = client.expect_type("welcome", SOON);
    (client, welcome)
}

/// The node and epoch in a device's row.
fn row(redis: &Redis, device: &str) -> Option<(String, u64)> {
    let key = format!("tg:{{acme/{device}}}:own");
    let fields = redis.cli(&["HMGET", &key, "node", "epoch"]);
    let (node, epoch) = fields.split_once('\n')?;
    Some((node.to_owned(), epoch.parse().ok()?))
}

/// The presence of a device as the topic tells it, in its order: online, epoch, reason.
fn presence(gateway: &Gateway, device: &str) -> Vec<(bool, u64, String)> {
    let records = gateway.records("status");
    let of = records.into_iter().filter(|record| record.header("ce_type") == "tidegate.presence.v1");
    of.filter(|record| record.key == format!("acme/{device}"))
        .map(|record| {
            let event = record.json();
            assert_eq!(record.header("tg_epoch"), event["epoch"].to_string());
            let reason = event["reason"].as_str().unwrap().to_owned();
            (event["online"].as_bool().unwrap(), event["epoch"].as_u64().unwrap(), reason)
        })
        .collect()
}

/// What a reader makes of it: the highest epoch counts, and `offline` where both have it.
fn folded(events: &[(bool, u64, String)]) -> Option<&(bool, u64, String)> {
    events.iter().max_by_key(|(online, epoch, _)| (*epoch, !online))
}

/// Waits for something while clients answer their pings; none of them may be closed meanwhile.
fn while_open<T>(what: &str, clients: &mut [&mut RawClient], mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SETTLED;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        for client in clients.iter_mut() {
            let said = client.json(Duration::from_millis(50));
            assert!(said.is_none_or(|said| said["type"] != "error"), "a connection was closed: {what}");
        }
    }
}

fn stores(client: &mut RawClient, seq: u64) {
    client.send_text(&format!(r#"{{"type":"update","seq":{seq},"value":{seq}}}"#));
    client.expect_ack(seq, SOON);
}

#[test]
fn a_device_that_moves_is_where_it_came_last_and_the_loser_is_told_why() {
    let mut a = Gateway::start();
    let b = Gateway::build().beside(&a).start();
    let token = a.token("mover", "acme", &["device"]);
    let (mut first, welcome) = open(&a, &token, "/v1/device?boot=one");
    assert_eq!(row(a.redis(), "mover"), Some((a.name(), welcome["epoch"].as_u64().unwrap())));
    assert!(welcome.get("registered").is_none());
    // The same boot on another node.
    let (mut second, moved) = open(&b, &token, "/v1/device?boot=one");
    assert!(moved["epoch"].as_u64() > welcome["epoch"].as_u64());
    assert_eq!(row(a.redis(), "mover"), Some((b.name(), moved["epoch"].as_u64().unwrap())));
    assert_eq!(first.expect_close(SOON), Some(4002));
    assert_eq!(row(a.redis(), "mover").unwrap().0, b.name(), "the loser's release removes nothing");
    stores(&mut second, 7);
    // Another boot.
    let (mut third, _) = open(&a, &token, "/v1/device?boot=two");
    assert_eq!(second.expect_close(SOON), Some(4301));
    third.send_close(1000);
    wait_for("the row is removed", SOON, || row(a.redis(), "mover").is_none().then_some(()));
    let events = wait_for("offline is published", SOON, || {
        let events = presence(&a, "mover");
        folded(&events).is_some_and(|(online, ..)| !online).then_some(events)
    });
    let online: Vec<_> = events.iter().filter(|(online, ..)| *online).map(|(_, epoch, _)| *epoch).collect();
    assert_eq!(online.len(), 3, "{events:?}");
    assert_eq!(folded(&events), Some(&(false, *online.iter().max().unwrap(), "normal".to_owned())), "{events:?}");
}

#[test]
fn a_device_is_told_what_is_stored_on_whichever_node_it_lands() {
    let mut a = Gateway::start();
    let b = Gateway::build().beside(&a).start();
    let token = a.token("resumer", "acme", &["device"]);
    let (mut first, welcome) = open(&a, &token, "/v1/device?boot=one");
    assert!(welcome.get("resume_after").is_none());
    stores(&mut first, 41);
    first.send_close(1000);
    wait_for("the row is removed", SOON, || row(a.redis(), "resumer").is_none().then_some(()));
    let (_second, welcome) = open(&b, &token, "/v1/device?boot=one");
    assert_eq!(welcome["resume_after"], 41);
    let (_third, welcome) = open(&b, &token, "/v1/device?boot=two");
    assert!(welcome.get("resume_after").is_none(), "{welcome}");
}

#[test]
fn the_devices_of_a_killed_node_go_offline_once_and_those_that_came_back_do_not() {
    let redis = Redis::start();
    let mut a = Gateway::build().redis(&redis.url()).start();
    let b = Gateway::build().beside(&a).start();
    let token = |device: &str| a.token(device, "acme", &["device"]);
    let (gone, back) = (token("gone"), token("back"));
    let _gone = open(&a, &gone, "/v1/device?boot=one");
    let _back = open(&a, &back, "/v1/device?boot=one");
    a.process.kill();
    let (mut again, welcome) = open(&b, &back, "/v1/device?boot=one");
    let events = while_open("the dead node's device is said to be offline", &mut [&mut again], || {
        let events = presence(&b, "gone");
        folded(&events).is_some_and(|(online, ..)| !online).then_some(events)
    });
    assert_eq!(events.iter().filter(|(online, ..)| !online).count(), 1, "{events:?}");
    assert_eq!(folded(&events).unwrap().2, "node_lost");
    while_open("its row is removed", &mut [&mut again], || row(&redis, "gone").is_none().then_some(()));
    assert_eq!(row(&redis, "back"), Some((b.name(), welcome["epoch"].as_u64().unwrap())));
    let events = presence(&b, "back");
    assert!(folded(&events).unwrap().0, "{events:?}");
}

#[test]
fn while_redis_is_away_nobody_is_closed_acks_go_on_and_who_comes_is_registered_later() {
    let mut a = Gateway::start();
    let (old_token, new_token) = (a.token("old", "acme", &["device"]), a.token("new", "acme", &["device"]));
    let (mut old, welcome) = open(&a, &old_token, "/v1/device?boot=one");
    let epoch = welcome["epoch"].as_u64().unwrap();
    a.redis().kill();
    stores(&mut old, 1);
    let (mut new, welcome) = open(&a, &new_token, "/v1/device?boot=one");
    assert_eq!(welcome["registered"], false);
    stores(&mut new, 1);
    let (status, body) = a.internal("/readyz?verbose");
    assert_eq!(status, 200, "an outage that everybody has takes no node out: {body}");
    while_open("the probe tells it", &mut [&mut old, &mut new], || {
        let body: Value = serde_json::from_str(&a.internal("/readyz?verbose").1).unwrap();
        (body["redis"]["probe"] == false).then_some(())
    });
    stores(&mut old, 2);
    a.redis().restart();
    let name = a.name();
    let provisional = welcome["epoch"].as_u64().unwrap();
    while_open("the new device is registered", &mut [&mut old, &mut new], || {
        row(a.redis(), "new").filter(|(node, epoch)| *node == name && *epoch > provisional)
    });
    while_open("the old device is entered again", &mut [&mut old, &mut new], || {
        row(a.redis(), "old").filter(|row| *row == (name.clone(), epoch))
    });
    stores(&mut old, 3);
    stores(&mut new, 2);
    let events = while_open("the new device is said to be online", &mut [&mut old, &mut new], || {
        Some(presence(&a, "new")).filter(|events| !events.is_empty())
    });
    assert_eq!((events[0].0, events[0].2.as_str()), (true, "registered"));
    assert!(presence(&a, "old").iter().all(|(online, ..)| *online));
}

#[test]
fn rows_that_redis_lost_are_entered_again() {
    let mut a = Gateway::start();
    let mut clients: Vec<_> = (0..40)
        .map(|number| {
            let token = a.token(&format!("d{number}"), "acme", &["device"]);
            open(&a, &token, "/v1/device?boot=one")
        })
        .collect();
    a.redis().cli(&["FLUSHALL"]);
    assert_eq!(row(a.redis(), "d0"), None);
    let name = a.name();
    for number in 0..clients.len() {
        let epoch = clients[number].1["epoch"].as_u64().unwrap();
        let mut all: Vec<_> = clients.iter_mut().map(|(client, _)| client).collect();
        let entered = while_open("a row is there again", &mut all[..1], || row(a.redis(), &format!("d{number}")));
        assert_eq!(entered, (name.clone(), epoch));
    }
    let (_, welcome) = clients.first().unwrap();
    assert_eq!(presence(&a, "d0").len(), 1, "{welcome}");
}

#[test]
fn who_takes_a_device_over_again_and_again_is_told_to_wait() {
    let a = Gateway::start();
    let token = a.token("shared", "acme", &["device"]);
    let bearer = format!("Bearer {token}");
    let mut clients = Vec::new();
    let statuses: Vec<u16> = (0..8)
        .map(|number| {
            let mut client = a.connect();
            let answer = client.upgrade(&format!("/v1/device?boot=b{number}"), &[("Authorization", &bearer)]);
            if answer.status == 429 {
                assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
            }
            clients.push(client);
            answer.status
        })
        .collect();
    assert_eq!(statuses[..6], [101; 6], "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(a.metric("tidegate_connection_attempts_total", &["rate_limited"]) >= 1.0);
}

/// What `tidegate serve` says and its exit code, with the configuration of a node that works but for its Redis.
fn refused(like: &Gateway, redis: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(like.dir().join("tidegate.toml")).unwrap();
    let lines = config.lines().filter(|line| !line.starts_with("redis.urls"));
    let mut text: String = lines.map(|line| format!("{line}\n")).collect();
    text += &format!("redis.urls = ['{redis}']\nnode.start_timeout_s = 2\n");
    std::fs::write(dir.path().join("tidegate.toml"), text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["serve", "--config"])
        .arg(dir.path().join("tidegate.toml"))
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_node_without_a_fit_redis_does_not_start_and_says_why() {
    let a = Gateway::start();
    let (code, text) = refused(&a, &format!("redis://127.0.0.1:{}", support::ports::free()));
    assert!(code == Some(69) && text.contains("no Redis at 127.0.0.1:"), "{code:?} {text}");
    let redis = Redis::with(&["maxmemory 50mb", "maxmemory-policy allkeys-lru"]);
    let (code, text) = refused(&a, &redis.url());
    assert!(code == Some(78) && text.contains("allkeys-lru") && text.contains("noeviction"), "{code:?} {text}");
}
