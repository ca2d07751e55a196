//! Devices, traces, blocks, revocations and the cluster over HTTP.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tidegate::id::{Boot, DeviceKey, Epoch, SessionId};
use tidegate::limits::Limits;
use tidegate::ownership::{Claim, Ownership as _};
use tidegate::revocations::memory::MemoryTopic;
use tidegate::revocations::{Revocation, RevocationWriter};
use tidegate::socket::client::ClientError;

use super::rig::Rig;

/// A device that the other node has.
pub(crate) async fn elsewhere(rig: &Rig, tenant: &str, device: &str) -> u64 {
    small(rig, tenant, device, None).await
}

/// One that can take messages of so many bytes at most.
pub(crate) async fn small(rig: &Rig, tenant: &str, device: &str, max_bytes: Option<usize>) -> u64 {
    let (key, boot) = (DeviceKey::new(tenant, device).unwrap(), Boot::new("b").unwrap());
    let claim = Claim {
        life: &rig.other_life,
        device: &key,
        connection: SessionId::draw(),
        boot: &boot,
        boot_given: true,
        max_bytes,
        floor: Epoch(0),
        insist: false,
    };
    rig.ownership.claim(&claim).await.unwrap().epoch.0
}

#[tokio::test]
async fn the_connected_devices_of_all_nodes_are_listed_in_pages() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let _here = [rig.device("acme", "d-2").await, rig.device("acme", "d-4").await];
    for device in ["d-1", "d-3", "x-5"] {
        elsewhere(&rig, "acme", device).await;
    }
    elsewhere(&rig, "acme.b", "d-0").await;
    let page = rig.ask(&app, "GET", "/v1/devices?limit=2", None).await.json();
    let ids = |page: &serde_json::Value| {
        let devices = page["devices"].as_array().unwrap().iter();
        devices.map(|device| device["device_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((ids(&page), page["next"].as_str()), (vec!["d-1".to_owned(), "d-2".to_owned()], Some("d-2")));
    assert_eq!(
        (page["devices"][0]["node"].as_str(), page["devices"][1]["node"].as_str()),
        (Some("gw-b"), Some("gw-a"))
    );
    let rest = rig.ask(&app, "GET", "/v1/devices?after=d-2", None).await.json();
    assert_eq!((ids(&rest), rest.get("next")), (vec!["d-3".into(), "d-4".into(), "x-5".into()], None));
    let narrow = rig.token_for("c", "acme", &["telemetry:read"], &["d-4", "x-*"]);
    let mine = rig.ask(&narrow, "GET", "/v1/devices?limit=1", None).await.json();
    assert_eq!(ids(&mine), ["d-4"]);
    let more = rig.ask(&narrow, "GET", "/v1/devices?limit=1&after=d-4", None).await.json();
    assert_eq!(ids(&more), ["x-5"]);
    for wrong in ["limit=0", "limit=1001", "limit=x", "after=a/b", "after=", "page=2"] {
        assert_eq!(rig.ask(&app, "GET", &format!("/v1/devices?{wrong}"), None).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_device_is_shown_while_it_is_connected_and_after() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    assert_eq!(rig.ask(&app, "GET", "/v1/devices/d-1", None).await.status, 404, "never seen");
    let device = rig.device("acme", "d-1").await;
    let seen = rig.ask(&app, "GET", "/v1/devices/d-1", None).await.json();
    assert_eq!((seen["online"].as_bool(), seen["node"].as_str()), (Some(true), Some("gw-a")));
    let epoch = seen["epoch"].as_u64().unwrap();
    assert_eq!(seen["since"].as_u64(), Some(epoch / 1_000));
    device.close().await.unwrap();
    rig.make_releases().await;
    let gone = rig.ask(&app, "GET", "/v1/devices/d-1", None).await.json();
    assert_eq!((gone["online"].as_bool(), gone["epoch"].as_u64()), (Some(false), Some(epoch)));
    let last = &gone["last_disconnect"];
    assert_eq!((last["code"].as_u64(), last["initiator"].as_str()), (Some(1000), Some("client")), "{gone}");
    assert!(last["at"].as_u64().unwrap() >= epoch / 1_000 - 1);
    assert_eq!((last["reason"].as_str(), last["node"].as_str()), (Some("normal"), Some("gw-a")), "{gone}");
    assert_eq!((last["epoch"].as_u64(), last["lived_s"].as_u64().map(|s| s < 60)), (Some(epoch), Some(true)), "{gone}");
}

#[tokio::test]
async fn a_device_that_is_blocked_is_shown_as_such_also_while_it_is_online() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let _device = rig.device("acme", "d-1").await;
    let shown = async || {
        let one = rig.ask(&app, "GET", "/v1/devices/d-1", None).await.json();
        let all = rig.ask(&app, "GET", "/v1/devices", None).await.json()["devices"][0].clone();
        assert_eq!((one["online"].as_bool(), all["online"].as_bool()), (Some(true), Some(true)));
        (one["blocked"].as_bool(), all["blocked"].as_bool())
    };
    assert_eq!(shown().await, (Some(false), Some(false)));
    let key = DeviceKey::new("acme", "d-1").unwrap();
    let (name, value) = record(&Revocation::Device { key, blocked: true });
    // The table alone, so that its connection stays.
    rig.node.revocations.apply(Some(name.as_bytes()), value.as_deref().map(str::as_bytes)).unwrap();
    assert_eq!(shown().await, (Some(true), Some(true)));
}

#[tokio::test]
async fn a_device_is_disconnected_here_and_on_another_node() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let mut device = rig.device("acme", "d-1").await;
    assert_eq!(rig.ask(&app, "DELETE", "/v1/devices/d-1/session", None).await.status, 204);
    let closed = loop {
        match device.receive_text().await {
            Ok(_) => {}
            Err(ClientError::Closed { code, .. }) => break code,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(closed, 4002);
    let epoch = elsewhere(&rig, "acme", "d-2").await;
    assert_eq!(rig.ask(&app, "DELETE", "/v1/devices/d-2/session", None).await.status, 204);
    assert_eq!(*rig.other.0.lock().unwrap(), [("acme/d-2".to_owned(), epoch + 1)]);
    assert_eq!(rig.ask(&app, "DELETE", "/v1/devices/d-3/session", None).await.status, 404);
}

#[tokio::test]
async fn a_trace_ends_after_a_quarter_of_an_hour_at_most() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let mut device = rig.device("acme", "d-1").await;
    let path = "/v1/devices/d-1/trace";
    let answer = rig.ask(&app, "PUT", path, Some(json!({ "for_s": 60 }))).await;
    assert_eq!((answer.status, answer.json()["node"].as_str()), (200, Some("gw-a")));
    let (mailbox, _) = rig.node.roster.find(&DeviceKey::new("acme", "d-1").unwrap()).unwrap();
    assert!(mailbox.is_traced());
    assert_eq!(rig.ask(&app, "PUT", path, Some(json!({ "for_s": 0 }))).await.status, 200);
    device.send_text(r#"{"type":"ping"}"#).await.unwrap();
    device.receive_text().await.unwrap();
    assert!(!mailbox.is_traced(), "it was over when the next message came");
    assert_eq!(rig.ask(&app, "PUT", path, Some(json!({ "for_s": 901 }))).await.status, 400);
    assert_eq!(rig.ask(&app, "PUT", "/v1/devices/d-2/trace", None).await.status, 404);
}

#[tokio::test]
async fn a_trace_is_begun_on_the_node_that_has_the_device() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let (epoch, path) = (elsewhere(&rig, "acme", "d-3").await, "/v1/devices/d-3/trace");
    let there = rig.ask(&app, "PUT", path, None).await;
    assert_eq!((there.status, there.json()["node"].as_str()), (200, Some("gw-b")));
    assert_eq!(*rig.other.0.lock().unwrap(), [("acme/d-3".to_owned(), epoch)]);
    let full = rig.ask(&app, "PUT", path, Some(json!({ "for_s": 1 }))).await;
    assert_eq!((full.status, full.headers["retry-after"].to_str().unwrap()), (429, "60"));
    let narrow = rig.token_for("c", "acme", &["admin"], &["x-*"]);
    assert_eq!(rig.ask(&narrow, "PUT", path, None).await.status, 404);
    assert_eq!(rig.other.0.lock().unwrap().len(), 2, "whoever does not reach it asks nobody");
}

/// A record's key and value.
type Published = (String, Option<String>);

fn record(revocation: &Revocation) -> Published {
    (revocation.record_key(), revocation.record_value())
}

#[tokio::test]
async fn blocks_and_revocations_are_published_for_the_tokens_tenant() {
    let topic = Arc::new(MemoryTopic::default());
    let published: Arc<Mutex<Vec<Published>>> = Arc::default();
    let told = Arc::clone(&published);
    topic.follow(Arc::new(move |key, value| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        told.lock().unwrap().push((key.map(text).unwrap(), value.map(text)));
    }));
    let writer = RevocationWriter::new(topic);
    let rig = Rig::with(Limits::default(), |gate| gate.revocations = Some(writer)).await;
    let app = rig.app("acme");
    let take = || std::mem::take(&mut *published.lock().unwrap());
    let key = DeviceKey::new("acme", "d-1").unwrap();
    assert_eq!(rig.ask(&app, "PUT", "/v1/devices/d-1/block", None).await.status, 204);
    assert_eq!(rig.ask(&app, "DELETE", "/v1/devices/d-1/block", None).await.status, 204);
    assert_eq!(take(), [true, false].map(|blocked| record(&Revocation::Device { key: key.clone(), blocked })));
    let path = "/v1/revocations";
    for (body, expected) in [
        (json!({ "device_id": "d-1" }), Revocation::Device { key: key.clone(), blocked: true }),
        (json!({ "kid": "k1" }), Revocation::KeyId { tenant: Some("acme".into()), issuer: None, kid: "k1".into() }),
        (
            json!({ "kid": "k1", "issuer": "i" }),
            Revocation::KeyId { tenant: Some("acme".into()), issuer: Some("i".into()), kid: "k1".into() },
        ),
        (
            json!({ "issued_before": 1_700_000_000_000_u64 }),
            Revocation::IssuedBefore { tenant: "acme".into(), device: None, at_ms: 1_700_000_000_000 },
        ),
        (
            json!({ "issued_before": 5, "device_id": "d-1" }),
            Revocation::IssuedBefore { tenant: "acme".into(), device: Some(key.clone()), at_ms: 5 },
        ),
    ] {
        let answer = rig.ask(&app, "PUT", path, Some(body.clone())).await;
        assert_eq!((answer.status, take()), (200, vec![record(&expected)]), "{body}");
    }
    let future = json!({ "issued_before": 9_999_999_999_999_u64 });
    for wrong in
        [json!({}), json!({ "kid": "k", "device_id": "d" }), json!({ "kid": "" }), json!({ "issuer": "i" }), future]
    {
        assert_eq!(rig.ask(&app, "PUT", path, Some(wrong.clone())).await.status, 400, "{wrong}");
    }
    let narrow = rig.token_for("c", "acme", &["admin"], &["d-*"]);
    for all in [json!({ "kid": "k" }), json!({ "issued_before": 5 })] {
        assert_eq!(rig.ask(&narrow, "PUT", path, Some(all)).await.status, 403);
    }
    assert_eq!(rig.ask(&narrow, "PUT", "/v1/devices/x-1/block", None).await.status, 404);
    assert_eq!(take(), []);
}

#[tokio::test]
async fn the_cluster_is_shown_with_what_each_node_says_of_itself() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let _device = rig.device("acme", "d-1").await;
    elsewhere(&rig, "acme", "d-2").await;
    elsewhere(&rig, "other", "d-2").await;
    let nodes = rig.ask(&app, "GET", "/v1/cluster", None).await.json()["nodes"].clone();
    let shown: Vec<_> = nodes.as_array().unwrap().iter().map(|node| (&node["name"], &node["connections"])).collect();
    assert_eq!(shown, [(&json!("gw-a"), &json!(1)), (&json!("gw-b"), &json!(2))]);
    assert_eq!((nodes[0]["answers"].as_bool(), nodes[1]["answers"].as_bool()), (Some(true), Some(false)));
    assert_eq!((nodes[0]["draining"].as_bool(), nodes[0]["sees_kafka"].as_bool()), (Some(false), Some(true)));
}
