//! Habits of clients that thousands of people use as they are, tried by raw requests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/support.rs"]
mod support;

use std::time::Duration;

use serde_json::json;
use support::gateway::Gateway;
use support::ws::{Incoming, RawClient, Response, opcode};

const PATIENCE: Duration = Duration::from_secs(10);
const ARTICLE: &str =
    r#"{"device_id":"board","type":"temperature_update","value":23.5,"timestamp":"2025-05-29T12:45:00Z"}"#;

/// Opens a WebSocket of the device `board` by a request written out as its library writes it.
fn open(gateway: &Gateway, request: &str) -> (RawClient, Response) {
    let token = gateway.token("board", "acme", &["device"]);
    let mut client = gateway.connect();
    let response = client.request(&request.replace("TOKEN", &token).replace('\n', "\r\n"));
    assert_eq!(response.status, 101, "{}", String::from_utf8_lossy(&response.body));
    client.expect_type("welcome", PATIENCE);
    (client, response)
}

/// The connection takes an article's update and acks a numbered one.
fn works(client: &mut RawClient) {
    client.send_text(ARTICLE);
    client.send_json(&json!({"type": "update", "seq": 1, "value": 1}));
    client.expect_ack(1, PATIENCE);
}

#[test]
fn clients_that_send_more_than_they_need_are_served() {
    let gateway = Gateway::build().set("public.allowed_origins", "['https://app.example.com']").start();
    // arduinoWebSockets: a subprotocol nobody knows, a file as origin, the version before the key.
    let arduino = "GET / HTTP/1.1\nHost: 192.168.4.1:8080\nConnection: Upgrade\nUpgrade: websocket\n\
                   Sec-WebSocket-Version: 13\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\n\
                   Sec-WebSocket-Protocol: arduino\nOrigin: file://\nUser-Agent: arduino-WebSocket-Client\n\
                   Authorization: Bearer TOKEN\n\n";
    let (mut client, response) = open(&gateway, arduino);
    assert_eq!(response.header("sec-websocket-protocol"), None, "an answer it did not ask for by that name");
    assert_eq!(response.header("sec-websocket-extensions"), None);
    works(&mut client);
    // websocket-client for Python: an origin made of the URL, always.
    let python = "GET / HTTP/1.1\nUpgrade: websocket\nHost: localhost:8080\nOrigin: http://localhost:8080\n\
                  Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\nSec-WebSocket-Version: 13\nConnection: Upgrade\n\
                  Authorization: Bearer TOKEN\n\n";
    works(&mut open(&gateway, python).0);
    // MicroPython's uwebsockets: an origin too, and its words in another case.
    let micropython = "GET /v1/device HTTP/1.1\nhost: localhost:8080\nconnection: upgrade\nupgrade: WebSocket\n\
                       sec-websocket-key: x3JJHMbDL1EzLkh9GBhXDw==\nsec-websocket-version: 13\n\
                       origin: http://localhost\nauthorization: bearer TOKEN\n\n";
    works(&mut open(&gateway, micropython).0);
    assert_eq!(gateway.records("telemetry").len(), 6);
}

#[test]
fn a_socket_io_client_is_told_that_this_is_plain_websocket() {
    let gateway = Gateway::start();
    for path in ["/socket.io/?EIO=4&transport=websocket", "/socket.io/?EIO=4&transport=polling"] {
        let answer = gateway.connect().upgrade(path, &[]);
        let body = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 404, "{path}");
        assert!(body.contains("Socket.IO") && body.contains("/v1/device"), "{body}");
    }
}

/// Every message and frame until TCP ends; nobody answers the gateway.
fn to_the_end(client: &mut RawClient) -> (Vec<String>, Option<u16>) {
    let mut types = Vec::new();
    loop {
        match client.frame(Duration::from_secs(30)) {
            Incoming::Frame(frame) if frame.opcode() == opcode::CLOSE => return (types, Some(frame.close_code())),
            Incoming::Frame(frame) if frame.opcode() == opcode::TEXT => {
                let message: serde_json::Value = serde_json::from_slice(&frame.payload).unwrap();
                types.push(message["type"].as_str().unwrap().to_owned());
            }
            Incoming::Frame(_) => {}
            Incoming::End => return (types, None),
            Incoming::Timeout => panic!("neither a close nor the end after {types:?}"),
        }
    }
}

#[test]
fn a_client_that_never_comes_back_after_a_clean_close_gets_none_from_a_restart() {
    let mut gateway = Gateway::start();
    let mut stock = gateway.device("stock", "/v1/device");
    let mut dropped = gateway.device("dropped", "/v1/device?close=drop");
    for client in [&mut stock, &mut dropped] {
        client.send_json(&json!({"type": "update", "seq": 1, "value": 1}));
        client.expect_ack(1, PATIENCE);
    }
    gateway.process.signal("TERM");
    assert_eq!(to_the_end(&mut dropped), (vec!["goaway".to_owned(), "error".to_owned()], None));
    assert_eq!(to_the_end(&mut stock), (vec!["goaway".to_owned(), "error".to_owned()], Some(1012)));
    assert_eq!(gateway.process.wait(Duration::from_secs(30)).code(), Some(0));
    gateway.start_again();
    let mut again = gateway.device("dropped", "/v1/device?close=drop");
    again.send_json(&json!({"type": "update", "seq": 2, "value": 1}));
    again.expect_ack(2, PATIENCE);
    // What is nobody's wish to have it back is said with a close frame, to this one too.
    again.send(b"\x81\x00").unwrap();
    assert_eq!(to_the_end(&mut again), (vec!["error".to_owned()], Some(1002)));
}
