//! Commands on the sockets of applications.

use serde_json::{Value, json};
use tidegate::id::{CommandId, DeviceKey};
use tidegate::socket::client::Client;

use super::commands::answered;
use super::rig::Rig;

async fn next(client: &mut Client) -> Value {
    serde_json::from_str(&client.receive_text().await.unwrap()).unwrap()
}

fn command(key: &str, device: &str, ttl_s: u64) -> String {
    let params = json!({ "angle": 90 });
    json!({"type": "command", "key": key, "device_id": device, "name": "open", "params": params, "ttl_s": ttl_s})
        .to_string()
}

#[tokio::test]
async fn an_application_is_told_of_its_commands_until_they_end() {
    let rig = Rig::start().await;
    let _device = rig.device("acme", "door-1").await;
    let mut app = rig.socket(&rig.app("acme")).await;
    app.send_text(&command("k", "door-1", 60)).await.unwrap();
    let queued = next(&mut app).await;
    let id = CommandId::of(&DeviceKey::new("acme", "door-1").unwrap(), "console", "k").to_string();
    let expected =
        json!({"type": "command_state", "key": "k", "id": id, "device_id": "door-1", "state": "queued", "version": 1});
    assert_eq!(queued, expected);
    answered(&rig, &id, br#"{"angle":90}"#).await;
    let mut versions = vec![1];
    let last = loop {
        let state = next(&mut app).await;
        assert_eq!((&state["type"], &state["key"]), (&json!("command_state"), &json!("k")));
        versions.push(state["version"].as_u64().unwrap());
        if state["state"] == "succeeded" {
            break state;
        }
    };
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    assert_eq!((last["result"].clone(), last["version"].as_u64()), (json!({"angle": 90}), Some(3)));
    // The same key again: its end at once.
    app.send_text(&command("k", "door-1", 60)).await.unwrap();
    assert_eq!(next(&mut app).await, last);
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_its_key() {
    let rig = Rig::start().await;
    let narrow = rig.token_for("console", "acme", &["commands:write"], &["door-*"]);
    let mut app = rig.socket(&narrow).await;
    let refused = async |app: &mut Client, text: &str| {
        app.send_text(text).await.unwrap();
        let answer = next(app).await;
        assert_eq!(answer["type"], "refused", "{answer}");
        (answer["code"].as_str().unwrap().to_owned(), answer["id"].as_str().map(str::to_owned))
    };
    let of = |code: &str, key: &str| (code.to_owned(), Some(key.to_owned()));
    assert_eq!(refused(&mut app, &command("k1", "lamp-1", 60)).await, of("forbidden", "k1"));
    assert_eq!(refused(&mut app, &command("k2", "a/b", 60)).await, of("forbidden", "k2"));
    let bad = r#"{"type":"command","key":"k3","device_id":"door-1","name":"","ttl_s":1}"#;
    assert_eq!(refused(&mut app, bad).await, of("malformed", "k3"));
    app.send_text(&command("k4", "door-1", 60)).await.unwrap();
    assert_eq!(next(&mut app).await["state"], "queued");
    assert_eq!(refused(&mut app, &command("k4", "door-1", 61)).await, of("conflict", "k4"));
    let reader = rig.token_for("reader", "acme", &["telemetry:read"], &[]);
    let mut reader = rig.socket(&reader).await;
    assert_eq!(refused(&mut reader, &command("k", "door-1", 60)).await, of("forbidden", "k"));
    let mut device = rig.device("acme", "door-1").await;
    let answer = refused(&mut device, &command("k", "door-1", 60)).await;
    assert_eq!(answer, of("unknown_type", "k"), "devices command nobody");
}

#[tokio::test]
async fn a_socket_has_64_commands_that_have_not_ended_at_most() {
    let rig = Rig::start().await;
    let mut app = rig.socket(&rig.app("acme")).await;
    for number in 0..64 {
        app.send_text(&command("k", &format!("d-{number}"), 60)).await.unwrap();
        assert_eq!(next(&mut app).await["state"], "queued");
    }
    app.send_text(&command("k", "d-64", 60)).await.unwrap();
    assert_eq!(next(&mut app).await["code"], "rate");
    let other = rig.socket(&rig.app("acme")).await;
    drop(other);
    // One that ends makes room.
    let key = DeviceKey::new("acme", "d-0").unwrap();
    rig.commands.cancel(&key, CommandId::of(&key, "console", "k")).await.unwrap();
    assert_eq!(next(&mut app).await["state"], "canceled");
    loop {
        app.send_text(&command("k", "d-64", 60)).await.unwrap();
        if next(&mut app).await["state"] == "queued" {
            break;
        }
    }
}

#[tokio::test]
async fn a_token_that_was_renewed_counts_with_what_it_may() {
    let rig = Rig::start().await;
    let mut app = rig.socket(&rig.token_for("console", "acme", &["telemetry:read"], &[])).await;
    app.send_text(&command("k", "d-1", 60)).await.unwrap();
    assert_eq!(next(&mut app).await["code"], "forbidden");
    let auth = json!({"type": "auth", "id": "a", "token": rig.app("acme")}).to_string();
    app.send_text(&auth).await.unwrap();
    assert_eq!(next(&mut app).await["type"], "ack");
    app.send_text(&command("k", "d-1", 60)).await.unwrap();
    assert_eq!(next(&mut app).await["state"], "queued");
}
