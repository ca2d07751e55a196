//! Two tenants with the same device ids go through everything; nothing crosses. And who may what.

use serde_json::json;

use super::rig::Rig;

const ALL: [(&str, &str); 12] = [
    ("GET", "/v1/devices"),
    ("GET", "/v1/devices/d-1"),
    ("POST", "/v1/devices/d-1/commands"),
    ("GET", "/v1/devices/d-1/commands/0123456789abcdef0123456789abcdef"),
    ("DELETE", "/v1/devices/d-1/commands/0123456789abcdef0123456789abcdef"),
    ("DELETE", "/v1/devices/d-1/session"),
    ("PUT", "/v1/devices/d-1/block"),
    ("DELETE", "/v1/devices/d-1/block"),
    ("PUT", "/v1/devices/d-1/trace"),
    ("POST", "/v1/commands"),
    ("PUT", "/v1/revocations"),
    ("GET", "/v1/cluster"),
];

#[tokio::test]
async fn case_143_without_a_token_of_an_application_nothing_is_told() {
    let rig = Rig::start().await;
    let device = rig.token_for("d-1", "acme", &["device", "admin", "commands:write"], &[]);
    let nothing = rig.token_for("c", "acme", &["something"], &[]);
    let app = rig.app("acme");
    let mut bodies = std::collections::BTreeSet::new();
    for (method, path) in ALL {
        for bad in ["", "nonsense", "a.b.c", &app[..app.len() - 3]] {
            let answer = rig.ask(bad, method, path, None).await;
            assert_eq!((answer.status, answer.headers["www-authenticate"].as_bytes()), (401, &b"Bearer"[..]));
            bodies.insert(answer.body);
        }
        for weak in [&device, &nothing] {
            let answer = rig.ask(weak, method, path, None).await;
            assert_eq!(answer.status, 403, "{method} {path}");
            answer.detail();
        }
    }
    assert_eq!(bodies.len(), 1, "no hint which check failed");
}

#[tokio::test]
async fn each_scope_opens_its_own_doors() {
    let rig = Rig::start().await;
    let writer = rig.token_for("w", "acme", &["commands:write"], &[]);
    let reader = rig.token_for("r", "acme", &["telemetry:read"], &[]);
    let admin = rig.token_for("a", "acme", &["admin"], &[]);
    for (method, path) in ALL {
        let mut allowed = Vec::new();
        for (name, token) in [("writer", &writer), ("reader", &reader), ("admin", &admin)] {
            if rig.ask(token, method, path, None).await.status != 403 {
                allowed.push(name);
            }
        }
        let expected: &[&str] = match (method, path) {
            ("GET", "/v1/devices" | "/v1/devices/d-1") => &["writer", "reader", "admin"],
            ("GET", path) if path.contains("/commands/") => &["writer", "reader"],
            (_, path) if path.contains("/commands") => &["writer"],
            _ => &["admin"],
        };
        assert_eq!(allowed, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn two_tenants_with_the_same_device_ids_see_nothing_of_each_other() {
    let rig = Rig::start().await;
    let (acme, beta) = (rig.app("acme"), rig.app("beta"));
    let _device = rig.device("acme", "d-1").await;
    let body = json!({ "name": "open", "ttl_s": 60 });
    let path = "/v1/devices/d-1/commands";
    let first = rig.ask_keyed(&acme, path, "k", body.clone()).await;
    let second = rig.ask_keyed(&beta, path, "k", json!({ "name": "close", "ttl_s": 9 })).await;
    assert_eq!((first.status, second.status), (202, 202), "the same application's name and key");
    let (first, second) = (first.json(), second.json());
    assert_ne!(first["id"], second["id"]);
    for (token, own, foreign) in [(&acme, &first, &second), (&beta, &second, &first)] {
        let at = |command: &serde_json::Value| format!("{path}/{}", command["id"].as_str().unwrap());
        assert_eq!(rig.ask(token, "GET", &at(own), None).await.json()["id"], own["id"]);
        // Case 149: as one that never was.
        let missing = rig.ask(token, "GET", &format!("{path}/0123456789abcdef0123456789abcdef"), None).await;
        for method in ["GET", "DELETE"] {
            let seen = rig.ask(token, method, &at(foreign), None).await;
            assert_eq!((seen.status, &seen.body), (404, &missing.body));
        }
    }
    assert_eq!(rig.ask(&acme, "GET", path.trim_end_matches("/commands"), None).await.json()["online"], true);
    assert_eq!(rig.ask(&beta, "GET", "/v1/devices/d-1", None).await.status, 404);
    assert_eq!(rig.ask(&beta, "GET", "/v1/devices", None).await.json()["devices"], json!([]));
    for (method, path) in [("DELETE", "/v1/devices/d-1/session"), ("PUT", "/v1/devices/d-1/trace")] {
        assert_eq!(rig.ask(&beta, method, path, None).await.status, 404);
    }
    assert_eq!(rig.ask(&acme, "GET", "/v1/devices/d-1", None).await.json()["online"], true);
    let both = json!({ "devices": ["d-1"], "name": "x", "ttl_s": 60 });
    for (token, own) in [(&acme, &first), (&beta, &second)] {
        let outcome = rig.ask_keyed(token, "/v1/commands", "k2", both.clone()).await.json()["outcomes"][0].clone();
        assert_eq!(outcome["status"], 202);
        assert_ne!(outcome["id"], own["id"]);
    }
}

#[tokio::test]
async fn what_a_narrowed_token_does_not_reach_is_not_there() {
    let rig = Rig::start().await;
    let (app, narrow) = (rig.app("acme"), rig.token_for("n", "acme", &["commands:write", "admin"], &["door-*"]));
    let _device = rig.device("acme", "lamp-1").await;
    let body = json!({ "name": "open", "ttl_s": 60 });
    let made = rig.ask(&app, "POST", "/v1/devices/lamp-1/commands", Some(body.clone())).await;
    let place = made.headers["location"].to_str().unwrap().to_owned();
    for (method, path) in [
        ("GET", "/v1/devices/lamp-1"),
        ("POST", "/v1/devices/lamp-1/commands"),
        ("GET", place.as_str()),
        ("DELETE", place.as_str()),
        ("DELETE", "/v1/devices/lamp-1/session"),
        ("PUT", "/v1/devices/lamp-1/block"),
        ("PUT", "/v1/devices/lamp-1/trace"),
    ] {
        let answer = rig.ask(&narrow, method, path, (method == "POST").then(|| body.clone())).await;
        assert_eq!(answer.status, 404, "{method} {path}");
    }
    assert_ne!(rig.ask(&app, "GET", &place, None).await.json()["state"], "canceled");
    assert_eq!(rig.ask(&narrow, "POST", "/v1/devices/door-1/commands", Some(body)).await.status, 202);
}
