//! Neighbours that ask who is there: a real Kafka, a real Redis, peers and devices with certificates, a real HAProxy in front.
//! Whole nodes live with them, say what they lack, and take what is renewed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

#[path = "secured/devices.rs"]
mod devices;
#[path = "secured/issuer.rs"]
mod issuer;
#[path = "secured/kafka.rs"]
mod kafka;
#[path = "support/produce.rs"]
mod produce;
#[path = "secured/proxies.rs"]
mod proxies;
#[path = "secured/redis.rs"]
mod redis;
#[path = "secured/renewal.rs"]
mod renewal;
#[path = "support/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use support::gateway::Gateway;
use support::ws::RawClient;
use tidegate::auth::TokenAlgorithm;
use tidegate::auth::signing::generate;

const PATIENCE: Duration = Duration::from_secs(60);
const TENANT: &str = "acme";

/// A device publishes and is acked.
fn stores(client: &mut RawClient, seq: u64) {
    client.send_json(&json!({"type": "update", "seq": seq, "value": seq}));
    client.expect_ack(seq, PATIENCE);
}

/// A command for a device that is connected to one node, asked for at another: it is answered.
fn commands(asked: &Gateway, device: &mut RawClient, id: &str) {
    let app = asked.token("console", TENANT, &["commands:write"]);
    let body = json!({"name": "open", "params": 7, "ttl_s": 60, "wait_s": 50}).to_string();
    let request = format!(
        "POST /v1/devices/{id}/commands HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {app}\r\n\
         Idempotency-Key: {:x}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        fastrand::u64(..),
        body.len(),
    );
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| asked.connect().request(&request));
        obeys(device);
        let answer = asking.join().unwrap();
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, &body["result"]), (200, &json!(7)), "{body}");
    });
}

/// A device answers the next command.
fn obeys(device: &mut RawClient) {
    let command = device.expect_type("command", PATIENCE);
    device.send_json(&json!({"type": "ack", "id": command["id"], "status": "succeeded", "result": command["params"]}));
}

/// A TOML text.
fn quoted(text: impl std::fmt::Display) -> String {
    format!("'{text}'")
}

/// A file's name as a TOML text.
fn at(dir: &Path, name: &str) -> String {
    quoted(dir.join(name).display())
}

/// What `tidegate serve` comes to with a configuration it does not get far with.
fn refused(keys: &[(&str, String)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    generate(dir.path(), TokenAlgorithm::ES256).unwrap();
    let mut all = BTreeMap::from([
        ("public.listen", quoted("127.0.0.1:0")),
        ("internal.listen", quoted("127.0.0.1:0")),
        ("peer.listen", quoted("127.0.0.1:0")),
        ("public.plaintext", "true".to_owned()),
        ("peer.plaintext", "true".to_owned()),
        ("auth.jwks", at(dir.path(), "jwks.json")),
        ("node.start_timeout_s", "8".to_owned()),
    ]);
    all.extend(keys.iter().map(|(key, value)| (*key, value.clone())));
    let text: String = all.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    std::fs::write(dir.path().join("tidegate.toml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["serve", "--config"]).arg(dir.path().join("tidegate.toml")).env_clear().output().unwrap()
}

/// Its exit code and what it said.
fn told(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// No secret shows in what a node wrote and tells.
fn assert_silent_about(gateway: &Gateway, secrets: &[&str]) {
    let metrics = gateway.internal("/metrics").1 + &gateway.internal("/readyz?verbose").1;
    for secret in secrets {
        assert!(!secret.is_empty() && !metrics.contains(secret), "{secret} shows at the internal port");
        let log = gateway.process.log();
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} shows in the log: {}", line.unwrap_or_default());
    }
}
