//! Commands over HTTP.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tidegate::commands::{Answer as Said, Answered, Sending};
use tidegate::id::{CommandId, DeviceKey};
use tidegate::ownership::Ownership as _;
use tidegate::protocol::message::CommandStatus;
use tidegate::socket::client::Client;

use super::devices::small;
use super::rig::Rig;

const PATH: &str = "/v1/devices/door-1/commands";

fn open() -> Value {
    json!({ "name": "open", "params": { "angle": 90 }, "ttl_s": 60 })
}

/// What the device does once it has a command: says that it has it, and how it went.
pub async fn answered(rig: &Rig, id: &str, result: &[u8]) {
    let (key, id) = (DeviceKey::new("acme", "door-1").unwrap(), CommandId::parse(id).unwrap());
    let epoch = rig.ownership.row(&key).await.unwrap().unwrap().epoch;
    let sent = rig.commands.mark_sent(&key, id, epoch, false).await.unwrap();
    assert!(matches!(sent, Sending::Write { .. }), "{sent:?}");
    let answer = Said { status: CommandStatus::Succeeded, result: Some(result), message: None };
    assert!(matches!(rig.commands.answer(&key, id, answer).await.unwrap(), Answered::Changed(_)));
}

#[tokio::test]
async fn a_command_is_accepted_looked_at_and_taken_back() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let accepted = rig.ask(&app, "POST", PATH, Some(open())).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let command = accepted.json();
    assert_eq!((command["state"].as_str(), command["device_id"].as_str()), (Some("queued"), Some("door-1")));
    assert_eq!((command["requested_by"].as_str(), command["version"].as_u64()), (Some("console"), Some(1)));
    assert_eq!(command["key"].as_str().unwrap().len(), 32, "one was drawn");
    let place = accepted.headers["location"].to_str().unwrap();
    assert_eq!(place, format!("{PATH}/{}", command["id"].as_str().unwrap()));
    let seen = rig.ask(&app, "GET", place, None).await;
    assert_eq!((seen.status, seen.json()), (200, command.clone()));
    // Case 154: the second time it is the same.
    let canceled = rig.ask(&app, "DELETE", place, None).await;
    assert_eq!((canceled.status, canceled.json()["state"].as_str()), (200, Some("canceled")));
    let again = rig.ask(&app, "DELETE", place, None).await;
    assert_eq!((again.status, again.json()), (200, canceled.json()));
    let states: Vec<_> = again.json()["history"].as_array().unwrap().iter().map(|turn| turn["state"].clone()).collect();
    assert_eq!(states, ["queued", "canceled"]);
}

#[tokio::test]
async fn case_154_what_was_sent_cannot_be_canceled() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let _device = rig.device("acme", "door-1").await;
    let accepted = rig.ask(&app, "POST", PATH, Some(open())).await;
    answered(&rig, accepted.json()["id"].as_str().unwrap(), b"1").await;
    let place = accepted.headers["location"].to_str().unwrap();
    let refused = rig.ask(&app, "DELETE", place, None).await;
    assert_eq!(refused.status, 409);
    assert!(refused.detail().contains("succeeded"), "{}", refused.detail());
}

#[tokio::test]
async fn who_waits_gets_the_devices_own_answer() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let _device = rig.device("acme", "door-1").await;
    let key = DeviceKey::new("acme", "door-1").unwrap();
    let id = CommandId::of(&key, "console", "k1").to_string();
    let mut body = open();
    body["wait_s"] = json!(20);
    let device = async {
        while rig.commands.get(&key, CommandId::parse(&id).unwrap()).await.is_err() {
            tokio::task::yield_now().await;
        }
        answered(&rig, &id, br#"{"angle": 90.50}"#).await;
    };
    let (answer, ()) = tokio::join!(rig.ask_keyed(&app, PATH, "k1", body.clone()), device);
    assert_eq!((answer.status, answer.json()["state"].as_str()), (200, Some("succeeded")));
    let text = String::from_utf8(answer.body).unwrap();
    assert!(text.contains(r#""result":{"angle": 90.50}"#), "as the device wrote it: {text}");
    // Asked for again, it is there at once.
    assert_eq!(rig.ask_keyed(&app, PATH, "k1", body.clone()).await.json()["state"], "succeeded");
    // In time or not at all: then it is 202, and goes on.
    body["wait_s"] = json!(0);
    let late = rig.ask_keyed(&app, "/v1/devices/absent/commands", "k2", body).await;
    assert_eq!((late.status, late.json()["state"].as_str()), (202, Some("queued")));
}

#[tokio::test]
async fn case_145_the_same_key_with_another_body_is_a_conflict() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    assert_eq!(rig.ask_keyed(&app, PATH, "k", open()).await.status, 202);
    let other = rig.ask_keyed(&app, PATH, "k", json!({ "name": "close", "ttl_s": 60 })).await;
    assert_eq!(other.status, 409);
    assert!(other.detail().contains("key"), "{}", other.detail());
    let someone = rig.token_for("other-app", "acme", &["commands:write"], &[]);
    let theirs = rig.ask_keyed(&someone, PATH, "k", json!({ "name": "close", "ttl_s": 60 })).await;
    assert_eq!(theirs.status, 202, "another application's key is another key");
}

#[tokio::test]
async fn case_146_a_thousand_posts_of_one_key_make_one_command() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let mut counts = BTreeMap::new();
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..10 {
        for answer in join_all((0..100).map(|_| rig.ask_keyed(&app, PATH, "one", open()))).await {
            *counts.entry(answer.status).or_insert(0) += 1;
            ids.insert(answer.json()["id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(counts, BTreeMap::from([(200, 999), (202, 1)]));
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn case_151_and_154a_what_cannot_be_is_refused_by_the_name_of_its_field() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let long = "n".repeat(129);
    let cases = [
        (r#"{"name":"open","ttl_s":-1}"#, "`ttl_s`"),
        (r#"{"name":"open","ttl_s":1e99}"#, "`ttl_s`"),
        (r#"{"name":"open","ttl_s":691200}"#, "`ttl_s`"),
        (r#"{"name":"open","ttl_s":"60"}"#, "`ttl_s`"),
        (r#"{"name":"open","ttl_s":1.5}"#, "`ttl_s`"),
        (r#"{"name":"open"}"#, "`ttl_s`"),
        (r#"{"ttl_s":60}"#, "`name`"),
        (r#"{"name":5,"ttl_s":60}"#, "`name`"),
        (r#"{"name":"","ttl_s":60}"#, "name"),
        (&format!(r#"{{"name":"{long}","ttl_s":60}}"#), "name"),
        (r#"{"name":"a\u0000b","ttl_s":60}"#, "control"),
        (r#"{"name":"open","ttl_s":60,"max_attempts":0}"#, "`max_attempts`"),
        (r#"{"name":"open","ttl_s":60,"max_attempts":21}"#, "`max_attempts`"),
        (r#"{"name":"open","ttl_s":60,"replace":1}"#, "`replace`"),
        (r#"{"name":"open","ttl_s":60,"ttl":60}"#, "`ttl`"),
        (r#"{"name":"open","ttl_s":60,"devices":["a"]}"#, "`devices`"),
        (r#"{"name":"open","ttl_s":60,"wait_s":5}"#, "Idempotency-Key"),
        (r#"{"name":"open","ttl_s":60,"ttl_s":61}"#, "twice"),
        (r#"{"name":"open","ttl_s":60,"params":{"a":1,"\u0061":2}}"#, "twice"),
        (r#"{"name":"open","ttl_s":60} {}"#, "JSON"),
        (r#"["name"]"#, "JSON"),
        ("", "JSON"),
    ];
    for (body, named) in cases {
        let answer = rig.ask_with(&app, "POST", PATH, Some(body), &[]).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.detail().contains(named), "{body}: {}", answer.detail());
    }
    let mut waits = open();
    waits["wait_s"] = json!(56);
    assert!(rig.ask_keyed(&app, PATH, "k", waits).await.detail().contains("`wait_s`"));
    let form = rig.ask_with(&app, "POST", PATH, Some("a=b"), &[("content-type", "text/plain")]).await;
    assert_eq!(form.status, 415);
    let key = rig.ask_with(&app, "POST", PATH, Some(&open().to_string()), &[("idempotency-key", "")]).await;
    assert_eq!(key.status, 400);
    let long_key = "k".repeat(257);
    assert_eq!(rig.ask_keyed(&app, PATH, &long_key, open()).await.status, 400);
    let large = format!(r#"{{"name":"open","ttl_s":60,"params":"{}"}}"#, "x".repeat(70_000));
    assert_eq!(rig.ask_with(&app, "POST", PATH, Some(&large), &[]).await.status, 413);
}

#[tokio::test]
async fn case_152_the_hundred_and_first_finds_the_queue_full() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    for _ in 0..100 {
        assert_eq!(rig.ask(&app, "POST", PATH, Some(open())).await.status, 202);
    }
    let full = rig.ask(&app, "POST", PATH, Some(open())).await;
    assert_eq!((full.status, full.headers.contains_key("retry-after")), (429, true));
}

#[tokio::test]
async fn many_devices_are_commanded_at_once_with_an_outcome_each() {
    let rig = Rig::start().await;
    let narrow = rig.token_for("console", "acme", &["commands:write"], &["door-*"]);
    let body = json!({ "devices": ["door-1", "lamp-1", "door-2", "a/b"], "name": "open", "ttl_s": 60 });
    let answer = rig.ask_keyed(&narrow, "/v1/commands", "k", body.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let outcomes = answer.json()["outcomes"].clone();
    let statuses: Vec<_> = outcomes.as_array().unwrap().iter().map(|outcome| outcome["status"].clone()).collect();
    assert_eq!(statuses, [202, 404, 202, 400]);
    let id = outcomes[2]["id"].as_str().unwrap();
    assert_eq!(rig.ask(&narrow, "GET", &format!("/v1/devices/door-2/commands/{id}"), None).await.status, 200);
    let again = rig.ask_keyed(&narrow, "/v1/commands", "k", body).await.json();
    assert_eq!((again["outcomes"][0]["status"].as_u64(), again["key"].as_str()), (Some(200), Some("k")));
    // As many as may be, and one more (case 154a).
    let app = rig.app("acme");
    let crowd = |count| (0..count).map(|number| format!("d-{number}")).collect::<Vec<_>>();
    let body = |count| json!({ "devices": crowd(count), "name": "open", "ttl_s": 60 });
    let answer = rig.ask(&app, "POST", "/v1/commands", Some(body(1_000))).await.json();
    assert!(answer["outcomes"].as_array().unwrap().iter().all(|outcome| outcome["status"] == 202));
    for wrong in [body(1_001), body(0), json!({ "name": "open", "ttl_s": 1 })] {
        let answer = rig.ask(&app, "POST", "/v1/commands", Some(wrong)).await;
        assert_eq!(answer.status, 400);
        assert!(answer.detail().contains("`devices`"));
    }
}

#[tokio::test]
async fn what_a_device_cannot_take_is_not_accepted_for_it() {
    let rig = Rig::start().await;
    let (app, token) = (rig.app("acme"), rig.token_for("door-1", "acme", &["device"], &[]));
    let url = format!("ws://{}/v1/device?max_bytes=600", rig.public);
    let mut device = Client::connect(&url, Some(&token), None).await.unwrap();
    device.receive_text().await.unwrap();
    let command = |bytes| json!({ "name": "open", "params": "x".repeat(bytes), "ttl_s": 60 });
    let refused = rig.ask(&app, "POST", PATH, Some(command(600))).await;
    assert_eq!((refused.status, refused.detail().contains("600 bytes")), (413, true));
    assert_eq!(rig.ask(&app, "POST", PATH, Some(command(400))).await.status, 202);
    // Whichever node has it, and whoever else is meant.
    small(&rig, "acme", "d-9", Some(600)).await;
    let there = rig.ask(&app, "POST", "/v1/devices/d-9/commands", Some(command(600))).await;
    assert_eq!((there.status, there.detail().contains("600 bytes")), (413, true));
    let both = json!({ "devices": ["d-8", "d-9"], "name": "open", "params": "x".repeat(600), "ttl_s": 60 });
    let outcomes = rig.ask(&app, "POST", "/v1/commands", Some(both)).await.json()["outcomes"].clone();
    assert_eq!((&outcomes[0]["status"], &outcomes[1]["status"]), (&json!(202), &json!(413)));
}
