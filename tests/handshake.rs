//! The handshake as bytes, as small clients see it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/support.rs"]
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use support::gateway::Gateway;

/// Sends a request and returns the answer's head.
fn head(gateway: &Gateway, request: &str) -> String {
    let mut stream = TcpStream::connect(gateway.public_addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap().to_ascii_lowercase()
}

#[test]
fn stock_clients_get_a_101_they_understand_and_every_other_answer_ends_the_connection() {
    let gateway = Gateway::start();
    let token = gateway.token("esp-1", "acme", &["device"]);
    let upgrade = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: arduino\r\nOrigin: file://\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    let answer = head(&gateway, &upgrade);
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    // Compared as a whole by small clients: nothing may stand beside it.
    assert!(answer.contains("\r\nconnection: upgrade\r\n"), "{answer}");
    assert!(answer.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{answer}");
    assert!(!answer.contains("sec-websocket-protocol"), "an offer nobody knows is not echoed: {answer}");

    let plain = head(&gateway, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(plain.starts_with("http/1.1 426 ") && plain.contains("\r\nconnection: close\r\n"), "{plain}");
    let socket_io = head(&gateway, "GET /socket.io/?EIO=4 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(socket_io.starts_with("http/1.1 404 ") && socket_io.contains("\r\nconnection: close\r\n"), "{socket_io}");
    let folded = head(&gateway, "GET / HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n");
    assert!(folded.starts_with("http/1.1 400 "), "{folded}");
}

#[test]
fn applications_enter_by_their_own_door_from_an_allowed_origin() {
    let gateway = Gateway::build().set("public.allowed_origins", r#"["https://app.example"]"#).start();
    let token = |scope: &str| gateway.token("someone", "acme", &[scope]);
    let ask = |path: &str, scope: &str, origin: &str| {
        head(
            &gateway,
            &format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{origin}\
                 Authorization: Bearer {}\r\n\r\n",
                token(scope)
            ),
        )
    };
    let status = |answer: String| answer[9..12].to_owned();
    let app = "telemetry:read";
    assert_eq!(status(ask("/v1/app", app, "Origin: https://app.example\r\n")), "101");
    assert_eq!(status(ask("/v1/app", app, "")), "101", "what is no browser has no origin");
    assert_eq!(status(ask("/v1/app", app, "Origin: https://app.example.evil\r\n")), "403");
    assert_eq!(status(ask("/v1/app", "device", "")), "403", "a device's token");
    assert_eq!(status(ask("/v1/device", app, "")), "403", "an application's token");
    assert_eq!(status(ask("/v1/device", "device", "Origin: https://elsewhere.example\r\n")), "101");
}
