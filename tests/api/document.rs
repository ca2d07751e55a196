//! The published text of the API, held against the router and against what it answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidegate::api;
use tidegate::protocol::close::CloseReason;
use tidegate::telemetry::metrics::{DisconnectReason, Label};

use super::rig::Rig;

fn document() -> Value {
    serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap()
}

/// A validator of one of the published schemas.
fn published(name: &str) -> jsonschema::Validator {
    let components = document()["components"].clone();
    jsonschema::validator_for(&json!({ "$ref": format!("#/components/schemas/{name}"), "components": components }))
        .unwrap()
}

#[track_caller]
fn assert_is(name: &str, value: &Value) {
    let problems: Vec<_> = published(name).iter_errors(value).map(|error| error.to_string()).collect();
    assert!(problems.is_empty(), "{name}: {problems:?} {value}");
}

#[tokio::test]
async fn every_route_and_method_is_in_the_document_and_no_other() {
    let rig = Rig::start().await;
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let written: BTreeSet<_> = paths.keys().map(String::as_str).collect();
    assert_eq!(written, api::paths().into_iter().collect());
    for (path, item) in paths {
        let real = path.replace("{device}", "d-1").replace("{id}", "0123456789abcdef0123456789abcdef");
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let described = item.get(method.to_lowercase()).is_some();
            let status = rig.ask("", method, &real, None).await.status;
            assert_eq!(status, if described { 401 } else { 405 }, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn what_is_answered_is_as_the_document_says() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let device = rig.device("acme", "d-1").await;
    let command = json!({ "name": "open", "params": {}, "ttl_s": 60 });
    let made = rig.ask(&app, "POST", "/v1/devices/d-2/commands", Some(command)).await;
    assert_is("Command", &made.json());
    let canceled = rig.ask(&app, "DELETE", made.headers["location"].to_str().unwrap(), None).await;
    assert_is("Command", &canceled.json());
    let many = json!({ "devices": ["d-3", "a/b"], "name": "open", "ttl_s": 60 });
    for outcome in rig.ask(&app, "POST", "/v1/commands", Some(many)).await.json()["outcomes"].as_array().unwrap() {
        assert_is("Outcome", outcome);
    }
    assert_is("Device", &rig.ask(&app, "GET", "/v1/devices", None).await.json()["devices"][0]);
    assert_is("Device", &rig.ask(&app, "GET", "/v1/devices/d-1", None).await.json());
    device.close().await.unwrap();
    rig.make_releases().await;
    let gone = rig.ask(&app, "GET", "/v1/devices/d-1", None).await.json();
    assert!(gone.get("last_disconnect").is_some());
    assert_is("Device", &gone);
    for node in rig.ask(&app, "GET", "/v1/cluster", None).await.json()["nodes"].as_array().unwrap() {
        assert_is("Node", node);
    }
    assert_is("Problem", &rig.ask("", "GET", "/v1/cluster", None).await.json());
    assert!(!published("Command").is_valid(&json!({ "id": "x" })), "a schema that takes everything holds nothing");
}

#[test]
fn every_way_a_connection_ends_is_explained_on_the_page_about_it() {
    let page = include_str!("../../docs/why-did-this-device-drop.md");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .skip_while(|line| *line != "## Reasons")
        .take_while(|line| *line != "## Traces")
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let row = |reason: &str| {
        let found: Vec<_> = rows.iter().filter(|row| row[0] == format!("`{reason}`")).collect();
        assert_eq!(found.len(), 1, "{reason}");
        found[0]
    };
    for reason in CloseReason::ALL {
        let named = DisconnectReason::from_code(reason.code()).as_str();
        assert_eq!(row(named)[1], reason.code().to_string(), "{named}");
    }
    for reason in DisconnectReason::ALL {
        let row = row(reason.as_str());
        assert!(row.len() == 4 && row[2..].iter().all(|text| text.len() > 5), "{row:?}");
        if let Ok(code) = row[1].parse() {
            assert_eq!(DisconnectReason::from_code(code), *reason);
        }
    }
    assert_eq!(row("node_lost").len(), 4);
    assert_eq!(rows.len(), DisconnectReason::ALL.len() + 1, "a row for what is not there any more");
}
