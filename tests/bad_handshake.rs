//! Bad handshakes over a socket, by the numbers of the list of bad input (section B), each with what must hold after
//! every case; the tokens of section C are in `bad_handshake/tokens.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/support.rs"]
mod support;

#[path = "bad_handshake/tokens.rs"]
mod tokens;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::json;
use support::after::{Case, PATIENCE, Proving, check_log};
use support::gateway::Gateway;
use support::ws::{RawClient, Response};
use support::{wait_for, wait_until};

static NODE: LazyLock<Proving> = LazyLock::new(|| Proving::start(Gateway::build().set("auth.tenants", "['acme']")));

/// One that serves some hosts and some origins only.
static CHOOSY: LazyLock<Proving> = LazyLock::new(|| {
    let origins = "['https://app.example.com', 'https://allowed.example']";
    Proving::start(
        Gateway::build().set("public.hosts", "['localhost', 'gw.example.com']").set("public.allowed_origins", origins),
    )
});

const HOST: &str = "Host: localhost\r\n";
const CONNECTION: &str = "Connection: Upgrade\r\n";
const UPGRADE: &str = "Upgrade: websocket\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const STOCK: [&str; 5] = [HOST, CONNECTION, UPGRADE, VERSION, KEY];

/// A request of a device that may come in, with the stock headers but `without`, and with others behind them.
fn request(case: &Case<'_>, line: &str, without: &str, others: &str) -> String {
    let stock: String = STOCK.into_iter().filter(|header| *header != without).collect();
    format!("{line} HTTP/1.1\r\n{stock}{}{others}\r\n", case.authorization())
}

/// A handshake with further headers.
fn with(case: &Case<'_>, others: &str) -> String {
    request(case, "GET /v1/device", "", others)
}

/// A handshake with a header in place of a stock one.
fn instead(case: &Case<'_>, without: &str, other: &str) -> String {
    request(case, "GET /v1/device", without, other)
}

/// Sends a request that must be granted, and gives the 101.
fn granted(case: &Case<'_>, request: &str) -> (Response, RawClient) {
    let mut client = case.connect();
    let response = client.request(request);
    assert_eq!(response.status, 101, "{}", String::from_utf8_lossy(&response.body));
    client.expect_type("welcome", PATIENCE);
    (response, client)
}

/// A well-formed header with the marker in it.
fn marked(case: &Case<'_>, name: &str) -> String {
    format!("{name}: {}\r\n", case.marker)
}

#[test]
fn case_14_other_methods_are_not_allowed() {
    NODE.case("14", |case| {
        for method in ["POST", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH", "BREW"] {
            let answer = case.refused(405, request(case, &format!("{method} /v1/device"), "", &marked(case, "X-A")));
            assert_eq!(answer.header("allow"), Some("GET"), "{method}");
        }
        case.refused(405, request(case, "POST /v1/device", UPGRADE, "Content-Length: 2\r\n") + "{}");
        case.refused(405, request(case, "CONNECT /v1/device", "", ""));
    });
}

#[test]
fn case_16_a_get_without_upgrade_is_told_what_is_needed() {
    NODE.case("16", |case| {
        for upgrade in ["", "Upgrade: h2c\r\n"] {
            let answer = case.refused(426, instead(case, UPGRADE, upgrade));
            assert_eq!(answer.header("upgrade"), Some("websocket"));
        }
        case.refused(426, format!("GET / HTTP/1.1\r\n{HOST}\r\n"));
    });
}

#[test]
fn case_17_a_connection_header_without_upgrade_is_a_bad_request() {
    NODE.case("17", |case| {
        for connection in ["", "Connection: keep-alive\r\n", "Connection: upgraded\r\n"] {
            case.refused(400, instead(case, CONNECTION, connection));
        }
        granted(case, &instead(case, CONNECTION, "Connection: keep-alive, upgrade\r\n"));
    });
}

#[test]
fn case_19_a_handshake_without_its_key_is_a_bad_request() {
    NODE.case("19", |case| {
        case.refused(400, instead(case, KEY, ""));
        case.refused(400, with(case, KEY));
    });
}

#[test]
fn case_20_a_key_that_is_not_16_bytes_of_base64_is_a_bad_request() {
    NODE.case("20", |case| {
        let bad =
            ["", "short", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSE=", "dGhlIHNhbXBsZSBub25j!Q==", "===="];
        for key in bad {
            case.refused(400, instead(case, KEY, &format!("Sec-WebSocket-Key: {key}\r\n")));
        }
    });
}

#[test]
fn another_version_of_the_protocol_is_a_bad_request() {
    NODE.case("version", |case| {
        for version in ["", "Sec-WebSocket-Version: 8\r\n", "Sec-WebSocket-Version: 13, 8\r\n"] {
            let answer = case.refused(400, instead(case, VERSION, version));
            assert_eq!(answer.header("sec-websocket-version"), Some("13"));
        }
    });
}

#[test]
fn case_23_too_many_subprotocols_are_too_large_a_header() {
    NODE.case("23", |case| {
        for name in ["a", "a-longer-name"] {
            let offer = vec![name; 5_000].join(",");
            case.refused(431, with(case, &format!("Sec-WebSocket-Protocol: {offer}\r\n")));
        }
    });
}

#[test]
fn case_25_a_hundred_header_lines_are_taken_and_one_more_is_not() {
    NODE.case("25", |case| {
        // Five stock headers and the token.
        let lines = |count: usize| (0..count - 6).map(|at| format!("X-{at}: {}\r\n", case.marker)).collect::<String>();
        granted(case, &with(case, &lines(100)));
        case.refused(431, with(case, &lines(101)));
        case.refused(431, with(case, &lines(2_000)));
    });
}

#[test]
fn case_26_one_header_of_a_mebibyte_in_small_packets_costs_next_to_nothing() {
    NODE.case("26", |case| {
        let head = request(case, "GET /v1/device", "", &format!("X-A: {}", case.marker));
        let head = head.trim_end();
        let mut client = case.connect();
        let before = cpu_ms(case);
        client.send(head.as_bytes()).unwrap();
        for _ in 0..(1 << 20) / 100 {
            if client.send(&[b'x'; 100]).is_err() {
                break;
            }
        }
        case.is_refused(431, &mut client);
        // The rest of the node goes on too: what it needs in the time is in the figure.
        let cpu = cpu_ms(case) - before;
        assert!(cpu < 100, "{cpu} ms of CPU");
    });
}

/// Processor time of the gateway so far, in milliseconds.
fn cpu_ms(case: &Case<'_>) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", case.gateway().process.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime and stime, in ticks of 10 ms.
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum()
}

#[test]
fn case_28_a_head_that_others_might_read_differently_is_a_bad_request() {
    NODE.case("28", |case| {
        let marker = &case.marker;
        let bad = [
            format!("X-A: {marker}\n"),
            format!("X-A: {marker}\r\n folded\r\n"),
            format!("X-A: {marker}\r\n\tfolded\r\n"),
            format!("X-A : {marker}\r\n"),
            format!("X-A: {marker}\0\r\n"),
            format!("X-\0A: {marker}\r\n"),
            format!("X-A: {marker}\r\r\n"),
            format!("X A: {marker}\r\n"),
            format!(": {marker}\r\n"),
            format!("{marker}\r\n"),
        ];
        for header in bad {
            case.refused(400, with(case, &header));
        }
        let (start, end) = (with(case, ""), format!(": {marker}\r\n\r\n"));
        case.refused(400, [start.trim_end().as_bytes(), b"\r\nX-\x80", end.as_bytes()].concat());
        case.refused(400, with(case, "").replace("\r\n", "\n"));
        case.refused(400, with(case, "").replacen(' ', "  ", 1));
    });
}

#[test]
fn case_29_two_lengths_are_a_bad_request_and_nothing_behind_it_is_read() {
    NODE.case("29", |case| {
        let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
        let smuggled = format!("0\r\n\r\n{}", with(case, ""));
        case.refused(400, with(case, both) + &smuggled);
        case.refused(400, with(case, "Content-Length: 5\r\nContent-Length: 6\r\n") + "hello");
    });
}

#[test]
fn case_31_a_body_on_a_get_is_a_bad_request() {
    NODE.case("31", |case| {
        let chunked = "Transfer-Encoding: chunked\r\n";
        for body in ["5\r\nhello\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\n", "-1\r\n"] {
            case.refused(400, with(case, chunked) + body);
        }
        case.refused(400, with(case, "Content-Length: 5\r\n") + "hello");
        case.refused(400, with(case, "Content-Length: 18446744073709551616\r\n"));
    });
}

#[test]
fn case_32_a_target_of_8_kib_is_taken_and_one_byte_more_is_too_long() {
    NODE.case("32", |case| {
        let line = |bytes: usize| {
            let start = "/v1/device?x=";
            format!("GET {start}{}", "y".repeat(bytes - start.len()))
        };
        granted(case, &request(case, &line(8 * 1024), "", ""));
        case.refused(414, request(case, &line(8 * 1024 + 1), "", ""));
    });
}

#[test]
fn case_34_there_is_one_host_and_it_is_a_name() {
    NODE.case("34", |case| {
        let marker = &case.marker;
        let bad = [
            String::new(),
            format!("{HOST}Host: {marker}\r\n"),
            format!("{HOST}{HOST}"),
            format!("Host: {marker}\x01\r\n"),
            format!("Host: {marker}\x7f\r\n"),
        ];
        for host in bad {
            case.refused(400, instead(case, HOST, &host));
        }
    });
}

#[test]
fn case_35_a_host_that_is_not_served_here_is_misdirected() {
    CHOOSY.case("35", |case| {
        for host in ["other.example.com", "gw.example.com.evil.example", "evil-gw.example.com", "127.0.0.1"] {
            case.refused(421, instead(case, HOST, &format!("Host: {host}\r\n")));
        }
        for host in ["gw.example.com", "GW.example.COM", "gw.example.com:8443"] {
            granted(case, &instead(case, HOST, &format!("Host: {host}\r\n")));
        }
    });
}

#[test]
fn cases_37_and_38_applications_come_from_an_allowed_origin() {
    CHOOSY.case("37", |case| {
        let app = |origin: &str| {
            let token = case.token(&json!({"sub": "console", "scope": "telemetry:read"}));
            let stock = STOCK.concat();
            format!("GET /v1/app HTTP/1.1\r\n{stock}Authorization: Bearer {token}\r\nOrigin: {origin}\r\n\r\n")
        };
        let bad = [
            "null",
            "https://allowed.example.evil",
            "https://evil.allowed.example",
            "https://evil-allowed.example",
            "https://allowed.exampl",
            "http://allowed.example",
            "https://allowed.example:8443",
            "https://allowed.example/",
            "https://allowed.example, https://evil.example",
        ];
        for origin in bad {
            case.refused(403, app(origin));
        }
        let two = app("https://allowed.example").replace("\r\n\r\n", "\r\nOrigin: https://evil.example\r\n\r\n");
        case.refused(403, two);
        for origin in ["https://app.example.com", "https://allowed.example"] {
            assert_eq!(case.connect().request(&app(origin)).status, 101, "{origin}");
        }
        // Stock clients of devices send nonsense.
        granted(case, &with(case, "Origin: null\r\n"));
    });
}

#[test]
fn cases_41_and_43_offers_that_cannot_be_taken_are_declined() {
    NODE.case("41", |case| {
        case.is_fine();
        let declined =
            ["permessage-deflate; client_max_window_bits=99", "permessage-deflate; =;;;", "\"", ";", "x; y=z"];
        for offer in declined {
            let (response, mut client) = granted(case, &with(case, &format!("Sec-WebSocket-Extensions: {offer}\r\n")));
            assert_eq!(response.header("sec-websocket-extensions"), None, "{offer}");
            client.send_json(&json!({"type": "update", "seq": 1, "value": 1}));
            client.expect_ack(1, PATIENCE);
            case.stores(1);
        }
        let (response, _) = granted(case, &with(case, "Sec-WebSocket-Extensions: permessage-deflate\r\n"));
        let answer = response.header("sec-websocket-extensions").expect("deflate is agreed");
        assert!(answer.contains("server_no_context_takeover") && answer.contains("client_no_context_takeover"));
    });
}

#[test]
fn case_46_a_node_that_drains_lets_nobody_in_and_says_when() {
    let mut gateway = Gateway::start();
    let token = gateway.token("late", "acme", &["device"]);
    // Each is waited for until it answers its close, which none of them does.
    let mut devices: Vec<_> = (0..10).map(|at| gateway.device(&format!("d{at}"), "/v1/device")).collect();
    gateway.process.signal("TERM");
    let authorization = format!("Bearer {token}");
    // Those who were on their way are let in until the node has begun to drain.
    let (answer, delay) = wait_for("a refusal", PATIENCE, || {
        let (mut client, start) = (gateway.connect(), Instant::now());
        let answer = client.upgrade("/v1/device", &[("Authorization", &authorization)]);
        devices.push(client);
        (answer.status != 101).then(|| (answer, start.elapsed()))
    });
    comes_back_later(&answer, delay);
    assert_eq!(gateway.process.wait(Duration::from_secs(45)).code(), Some(0));
    let secrets: Vec<_> = token.split('.').skip(1).map(str::to_owned).collect();
    assert!(check_log("46", &gateway, 0, &secrets) > 0);
    assert!(gateway.process.log().contains("this node is leaving"));
    assert_eq!(gateway.records("telemetry"), []);
}

#[test]
fn case_47_a_full_node_says_so_before_it_looks_at_any_token() {
    let node = Proving::start(Gateway::build().set("limits.max_connections", "5"));
    node.case("47", |case| {
        // With the one that is always there.
        let devices: Vec<_> = (0..4).map(|_| case.device("/v1/device")).collect();
        let good = with(case, "");
        let tokens =
            [good, with(case, "").replace("Bearer ", "Bearer x"), format!("GET / HTTP/1.1\r\n{}\r\n", STOCK.concat())];
        let start = Instant::now();
        let mut waiting: Vec<_> = tokens.iter().map(|request| (case.connect(), request)).collect();
        for (client, request) in &mut waiting {
            client.send(request.as_bytes()).unwrap();
        }
        for (client, _) in &mut waiting {
            let answer = case.is_refused(503, client);
            comes_back_later(&answer, start.elapsed());
        }
        // Room again for those who look after the case.
        drop(devices);
        wait_until("they are gone", PATIENCE, || case.gateway().metric("tidegate_connections", &[]) <= 1.0);
    });
}

/// A 503 that says when, and was itself held back for 1 to 4 s: small clients cannot read `Retry-After`.
fn comes_back_later(answer: &Response, delay: Duration) {
    assert_eq!(answer.status, 503, "{}", String::from_utf8_lossy(&answer.body));
    let seconds = answer.header("retry-after").expect("Retry-After").parse::<u64>().expect("seconds");
    assert!((1..=60).contains(&seconds), "Retry-After: {seconds}");
    // The upper end with room for a busy machine.
    assert!((Duration::from_millis(990)..Duration::from_secs(8)).contains(&delay), "after {delay:?}");
}
