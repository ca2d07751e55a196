//! HTTP itself: paths, heads, bodies, browsers, and what is kept alive.

use std::time::Duration;

use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tidegate::limits::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::rig::{Rig, answer};

/// What comes back for bytes as they are.
async fn raw(rig: &Rig, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(rig.public).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn case_148_strange_paths_are_no_device_and_a_hosts_case_does_not_matter() {
    let rig = Rig::with(Limits::default(), |gate| gate.hosts = vec!["gateway.example".into()]).await;
    let app = rig.app("acme");
    for id in ["%2e%2e", "%2E", "..", ".", "a%2fb", "a%2Fb", "d-1;x", "d-1%00", "%ff", "%zz", "d%201", "ä"] {
        let path = format!("/v1/devices/{}", id.replace('ä', "%C3%A4"));
        let status = rig.ask(&app, "GET", &path, None).await.status;
        assert!(matches!(status, 400 | 404), "{path}: {status}");
        let status =
            rig.ask(&app, "POST", &format!("{path}/commands"), Some(json!({"name":"x","ttl_s":1}))).await.status;
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
    for path in ["/v1//devices", "/v1/devices/", "/V1/devices", "/v1/%64evices", "/v1/devices/d-1/commands/x/y"] {
        assert_eq!(rig.ask(&app, "GET", path, None).await.status, 404, "{path}");
    }
    assert_eq!(rig.ask(&app, "GET", "/v1/devices/d-1/commands/XYZ", None).await.status, 400);
    for (host, status) in [("GATEWAY.Example", 200), ("gateway.example:8443", 200), ("evil.example", 421)] {
        let answer = rig.ask_with(&app, "GET", "/v1/devices", None, &[("host", host)]).await;
        assert_eq!(answer.status, status, "{host}");
    }
    // What is percent-encoded without need is the same.
    let plain = rig.ask(&app, "POST", "/v1/devices/d%2D1/commands", Some(json!({"name":"x","ttl_s":1}))).await;
    assert_eq!(plain.json()["device_id"], "d-1");
}

#[tokio::test]
async fn case_155_bombs_are_refused_cheaply() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    let deep = format!(r#"{{"name":"x","ttl_s":1,"params":{}{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
    let answer = rig.ask_with(&app, "POST", "/v1/devices/d-1/commands", Some(&deep), &[]).await;
    assert_eq!(answer.status, 400);
    let head = format!("GET /v1/devices HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let mut stream = TcpStream::connect(rig.public).await.unwrap();
    // It is answered before all of it was sent.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut first = vec![0; 64];
    let count = stream.read(&mut first).await.unwrap();
    assert!(first[..count].starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&first));
    assert_eq!(rig.ask(&app, "GET", "/v1/devices", None).await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_or_is_too_long_ends_the_request() {
    let limits = Limits { handshake_timeout_ms: 300, ..Limits::default() };
    let rig = Rig::with(limits, |_| {}).await;
    let app = rig.app("acme");
    let head = |length: &str| {
        format!(
            "POST /v1/devices/d-1/commands HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {app}\r\n\
             content-type: application/json\r\n{length}\r\n\r\n"
        )
    };
    let slow = raw(&rig, format!("{}{{", head("content-length: 100")).as_bytes()).await;
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
    let announced = raw(&rig, format!("{}{}", head("content-length: 70000"), "a".repeat(70_000)).as_bytes()).await;
    assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
    let chunk = format!("ffff\r\n{}\r\n", "a".repeat(0xffff));
    let chunks = format!("{}{chunk}{chunk}0\r\n\r\n", head("transfer-encoding: chunked"));
    let chunked = raw(&rig, chunks.as_bytes()).await;
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    let both = raw(&rig, head("content-length: 2\r\ntransfer-encoding: chunked").as_bytes()).await;
    assert!(both.starts_with("HTTP/1.1 400"), "{both}");
}

#[tokio::test]
async fn case_169_and_170_the_public_port_has_nothing_internal_and_speaks_no_http_2() {
    let rig = Rig::start().await;
    let app = rig.app("acme");
    for path in ["/metrics", "/livez", "/readyz", "/tidegate.peer.v1.Peer/Ring"] {
        assert_eq!(rig.ask(&app, "GET", path, None).await.status, 404, "{path}");
        assert_eq!(rig.ask(&app, "POST", path, None).await.status, 404, "{path}");
    }
    let known = raw(&rig, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(known.starts_with("HTTP/1.1 400"), "{known}");
    let upgrade = b"GET /v1/devices HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\
                    http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    assert!(raw(&rig, upgrade).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn another_method_is_answered_with_those_there_are() {
    let rig = Rig::start().await;
    let answer = rig.ask(&rig.app("acme"), "PATCH", "/v1/devices/d-1/block", None).await;
    assert_eq!(answer.status, 405);
    answer.detail();
    let allow = answer.headers["allow"].to_str().unwrap();
    assert!(allow.contains("PUT") && allow.contains("DELETE"), "{allow}");
}

#[tokio::test]
async fn browsers_of_allowed_origins_may_ask_and_read() {
    let allowed = "https://app.example";
    let rig = Rig::with(Limits::default(), |gate| gate.allowed_origins = vec![allowed.into()]).await;
    let app = rig.app("acme");
    let preflight = |origin: &'static str| {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        let rig = &rig;
        async move { rig.ask_with("", "OPTIONS", "/v1/devices/d-1/commands", None, &headers).await }
    };
    let asked = preflight(allowed).await;
    assert_eq!((asked.status, asked.headers["access-control-allow-origin"].as_bytes()), (204, allowed.as_bytes()));
    let headers = asked.headers["access-control-allow-headers"].to_str().unwrap();
    assert!(headers.contains("authorization") && headers.contains("idempotency-key"), "{headers}");
    let read = rig.ask_with(&app, "GET", "/v1/devices", None, &[("origin", allowed)]).await;
    assert_eq!((read.status, read.headers["access-control-allow-origin"].as_bytes()), (200, allowed.as_bytes()));
    let refused = rig.ask_with("", "GET", "/v1/devices", None, &[("origin", allowed)]).await;
    assert_eq!((refused.status, refused.headers.contains_key("access-control-allow-origin")), (401, true));
    for other in ["null", "https://app.example.evil"] {
        assert_eq!(preflight(other).await.status, 403, "cases 37 and 38: {other}");
        let read = rig.ask_with(&app, "GET", "/v1/devices", None, &[("origin", other)]).await;
        assert_eq!((read.status, read.headers.contains_key("access-control-allow-origin")), (403, false));
    }
    let any = Rig::start().await;
    let read = any.ask_with(&any.app("acme"), "GET", "/v1/devices", None, &[("origin", "https://x.example")]).await;
    assert_eq!(read.headers["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn the_public_port_answers_once_and_a_port_of_its_own_keeps_connections() {
    let rig = Rig::with(Limits { handshake_timeout_ms: 500, ..Limits::default() }, |_| {}).await;
    let app = rig.app("acme");
    let request = || {
        let request = Request::get("/v1/devices").header("host", "a").header("authorization", format!("Bearer {app}"));
        request.body(Full::<bytes::Bytes>::default()).unwrap()
    };
    let once = rig.ask(&app, "GET", "/v1/devices", None).await;
    assert_eq!(once.headers["connection"], "close");
    let stream = TcpStream::connect(rig.alone).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let open = tokio::spawn(connection);
    for _ in 0..3 {
        sender.ready().await.unwrap();
        let seen = answer(sender.send_request(request()).await.unwrap()).await;
        assert_eq!((seen.status, seen.headers.contains_key("connection")), (200, false));
    }
    assert_eq!(rig.node.metrics.handshakes.get(), 0, "it takes no place of those that connect");
    // One that nobody uses ends.
    let ended = tokio::time::timeout(Duration::from_secs(20), open).await;
    assert!(ended.is_ok(), "an idle connection stays");
}

#[tokio::test]
async fn who_waits_for_a_device_takes_no_place_from_those_that_connect() {
    let limits = Limits { max_handshakes: 2, max_api_requests: 4, ..Limits::default() };
    let rig = Rig::with(limits, |_| {}).await;
    let app = rig.app("acme");
    let wait = json!({ "name": "open", "ttl_s": 60, "wait_s": 3 });
    let path = "/v1/devices/d-1/commands";
    let waiting = ["a", "b", "c", "d"].map(|key| rig.ask_keyed(&app, path, key, wait.clone()));
    let beside = async {
        let key = tidegate::id::DeviceKey::new("acme", "d-1").unwrap();
        while rig.commands.list(&key, 10).await.unwrap().len() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let device = rig.device("acme", "d-2").await;
        let full = rig.ask(&app, "GET", "/v1/devices", None).await;
        assert_eq!((full.status, full.headers["retry-after"].as_bytes()), (503, &b"1"[..]));
        device.close().await.unwrap();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(waiting), beside);
    assert!(answers.iter().all(|answer| answer.status == 202));
}
