//! Section C: tokens that are not good, and what is answered: the same to all. Which check each one fails is proved in
//! `tests/tokens.rs`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tidegate::auth::TokenAlgorithm;
use tidegate::auth::signing::SigningKey;

use super::support::after::{Case, PATIENCE, check_log, unix_s};
use super::support::gateway::Gateway;
use super::support::ws::{RawClient, Response};
use super::{NODE, STOCK, comes_back_later};

fn part(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// The gateway's key, signing any header over any payload.
struct Forge<'a> {
    case: &'a Case<'a>,
    key: EncodingKey,
    kid: String,
}

impl<'a> Forge<'a> {
    fn of(case: &'a Case<'a>) -> Self {
        let pem = std::fs::read(case.gateway().dir().join("signing-key.pem")).unwrap();
        Self { case, key: EncodingKey::from_ec_pem(&pem).unwrap(), kid: case.key().kid().to_owned() }
    }

    fn claims(&self) -> Value {
        let now = unix_s();
        json!({"iss": "tidegate", "aud": "tidegate", "sub": self.case.device_id(), "tenant": "acme", "scope": "device",
               "iat": now, "exp": now + 3_600})
    }

    fn sign(&self, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
        let signed = format!("{}.{}", part(header), part(payload));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.key, Algorithm::ES256).unwrap();
        self.case.hide(format!("{signed}.{signature}"))
    }

    fn header(&self) -> Value {
        json!({"alg": "ES256", "kid": self.kid})
    }

    /// Good claims under a header with some members changed.
    fn under(&self, changed: Value) -> String {
        let mut header = self.header();
        header.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        self.sign(header.to_string(), self.claims().to_string())
    }

    /// A payload written by hand under a good header.
    fn payload(&self, payload: impl AsRef<[u8]>) -> String {
        self.sign(self.header().to_string(), payload)
    }

    /// A member in front of the good claims, as text.
    fn before(&self, member: &str) -> String {
        self.payload(self.claims().to_string().replacen('{', &format!("{{{member},"), 1))
    }
}

/// Every bad token that fits into a header, with its case's number.
fn bad_tokens(case: &Case<'_>) -> Vec<(u32, String)> {
    let forge = Forge::of(case);
    let now = unix_s();
    let changed = |claims: Value| case.token(&claims);
    let good = case.token(&json!({}));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let stranger = SigningKey::generate(TokenAlgorithm::ES256).unwrap();
    let mut bad = vec![
        (50, hs256_with_the_public_key(&forge)),
        (52, case.hide(stranger.sign(&forge.claims()).unwrap())),
        (55, forge.under(json!({"crit": ["exp"]}))),
        (55, forge.under(json!({"b64": false}))),
        (56, forge.under(json!({"typ": "id+jwt"}))),
        (58, format!("{signed}.")),
        (58, format!("{signed}.{}", part([0; 64]))),
        (58, format!("{signed}.{}", part(flipped(signature)))),
        (59, format!("{good}=")),
        (59, format!("{good} ") + "x"),
        (59, good.replacen('.', "+.", 1)),
        (59, "no.token".to_owned()),
        (59, ".".to_owned()),
        (61, changed(json!({"nbf": now + 60}))),
        (62, changed(json!({"nbf": now.to_string()}))),
        (62, changed(json!({"exp": (now + 60).to_string()}))),
        (64, changed(json!({"exp": u64::MAX}))),
        (64, changed(json!({"exp": now + 25 * 3_600}))),
        (64, changed(json!({"iat": now + 60}))),
        (67, changed(json!({"iss": "tidegate/"}))),
        (67, changed(json!({"iss": null}))),
        (70, changed(json!({"tenant": "another"}))),
        (74, forge.payload(b"{\"sub\":\"\xff\"}")),
    ];
    bad.extend(["none", "NoNe", "es256"].map(|alg| (49, forge.under(json!({"alg": alg})))));
    bad.push((49, format!("{}.{}.", part(r#"{"alg":"none"}"#), part(forge.claims().to_string()))));
    bad.extend(
        [json!("../../dev/null"), json!("' OR 1=1"), json!(7)].map(|kid| (53, forge.under(json!({"kid": kid})))),
    );
    bad.extend([json!(null), json!("other"), json!(7), json!([])].map(|aud| (65, changed(json!({"aud": aud})))));
    let twice = [r#""sub":"other""#, r#""tenant":"acme""#, r#""exp":1"#];
    bad.extend(twice.map(|member| (68, forge.before(member))));
    bad.push((
        68,
        forge.sign(forge.header().to_string().replacen('{', r#"{"alg":"none","#, 1), forge.claims().to_string()),
    ));
    let long = "x".repeat(129);
    for id in ["a{b", "a}b", "a:b", "a/b", "a\0", "a\n", "sens\u{43e}r", &long] {
        bad.push((71, changed(json!({"sub": id}))));
        bad.push((71, changed(json!({"tenant": id}))));
    }
    bad.push((73, forge.before(&format!("\"x\":{}1{}", "[".repeat(1_000), "]".repeat(1_000)))));
    // Above 8 KiB, and good besides.
    bad.push((53, changed(json!({"x": "y".repeat(7_000)}))));
    bad.push((0, changed(json!({"exp": now - 60, "iat": now - 100}))));
    bad
}

fn flipped(signature: &str) -> Vec<u8> {
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[40] ^= 1;
    bytes
}

fn hs256_with_the_public_key(forge: &Forge<'_>) -> String {
    let signed =
        format!("{}.{}", part(json!({"alg": "HS256", "kid": forge.kid}).to_string()), part(forge.claims().to_string()));
    let secret = EncodingKey::from_secret(forge.case.key().jwks().as_bytes());
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &secret, Algorithm::HS256).unwrap();
    forge.case.hide(format!("{signed}.{signature}"))
}

/// What a client can tell one refusal from another by.
fn shown(answer: &Response) -> (u16, Vec<(String, String)>, String) {
    let headers = answer.headers.iter().filter(|(name, _)| name != "date");
    (answer.status, headers.cloned().collect(), String::from_utf8_lossy(&answer.body).into_owned())
}

#[test]
fn cases_49_to_74_all_bad_tokens_get_one_and_the_same_401() {
    NODE.case("49", |case| {
        let bad = bad_tokens(case);
        let request = |authorization: &str| format!("GET /v1/device HTTP/1.1\r\n{}{authorization}\r\n", STOCK.concat());
        let first = shown(&case.refused(401, request("")));
        assert_eq!(first.1.iter().filter(|(name, _)| name == "www-authenticate").count(), 1, "{first:?}");
        for (number, token) in &bad {
            if token.len() > 16 {
                case.is_secret(token);
            }
            let answer = case.refused(401, request(&format!("Authorization: Bearer {token}\r\n")));
            assert_eq!(shown(&answer), first, "case {number}: {token}");
        }
        case.logs_at_most(bad.len() + 10);
    });
}

#[test]
fn case_44_a_token_in_a_cookie_is_no_token() {
    NODE.case("44", |case| {
        let token = case.token(&json!({}));
        let cookie = format!("Cookie: token={token}; access_token={token}\r\n");
        case.refused(401, format!("GET /v1/device HTTP/1.1\r\n{}{cookie}\r\n", STOCK.concat()));
    });
}

#[test]
fn a_token_in_the_query_is_not_taken_unless_configured() {
    NODE.case("query", |case| {
        let token = case.token(&json!({}));
        case.refused(400, format!("GET /v1/device?access_token={token} HTTP/1.1\r\n{}\r\n", STOCK.concat()));
    });
}

#[test]
fn a_browser_is_told_in_frames_what_it_cannot_see_as_a_status() {
    NODE.case("browser", |case| {
        let good = case.token(&json!({}));
        let offer = |token: &str| format!("tidegate.v1.json, tidegate.bearer.{token}");
        let mut client = case.connect();
        let response = client.open("/v1/device", &[("Sec-WebSocket-Protocol", &offer(&good))]);
        assert_eq!(response.header("sec-websocket-protocol"), Some("tidegate.v1.json"));
        client.expect_type("welcome", PATIENCE);
        let expired = case.token(&json!({"exp": unix_s() - 100, "iat": unix_s() - 200}));
        let mut client = case.connect();
        client.open("/v1/device", &[("Sec-WebSocket-Protocol", &offer(&expired))]);
        assert_eq!(client.json(PATIENCE).expect("an error before the close")["type"], "error");
        let code = client.expect_close(PATIENCE);
        assert!(code.is_some_and(|code| (4200..4300).contains(&code)), "{code:?}");
        let alone = format!("tidegate.bearer.{good}");
        let answer = case.connect().upgrade("/v1/device", &[("Sec-WebSocket-Protocol", &alone)]);
        assert_eq!(answer.status, 400, "{}", String::from_utf8_lossy(&answer.body));
    });
}

#[test]
fn case_76_known_keys_outlive_their_endpoint_and_unknown_ones_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let key = tidegate::auth::signing::generate(dir.path(), TokenAlgorithm::ES256).unwrap();
    let signing = SigningKey::from_pem_file(&key.signing_key).unwrap();
    let endpoint = Endpoint::start(signing.jwks());
    let gateway = Gateway::build().set("auth.jwks", &format!("'{}'", endpoint.url)).start();
    let token = |key: &SigningKey, sub: &str| {
        let now = unix_s();
        key.sign(&json!({"iss": "tidegate", "aud": "tidegate", "sub": sub, "tenant": "acme", "scope": "device",
                         "iat": now, "exp": now + 600}))
            .unwrap()
    };
    let upgrade = |token: &str| {
        let start = Instant::now();
        let authorization = format!("Bearer {token}");
        (gateway.connect().upgrade("/v1/device", &[("Authorization", &authorization)]), start.elapsed())
    };
    let known = token(&signing, "known");
    assert_eq!(upgrade(&known).0.status, 101);
    let mut opened = gateway.connect();
    opened.open("/v1/device", &[("Authorization", &format!("Bearer {}", token(&signing, "opened")))]);
    let acked = |client: &mut RawClient, seq: u64| {
        client.send_json(&json!({"type": "update", "seq": seq, "value": 1}));
        client.expect_ack(seq, PATIENCE);
    };
    acked(&mut opened, 1);
    endpoint.works.store(500, Ordering::SeqCst);
    assert_eq!(upgrade(&known).0.status, 101, "a token seen before");
    assert_eq!(upgrade(&token(&signing, "next")).0.status, 101, "a token of a key that is known");
    let (before, stranger) =
        (endpoint.fetches.load(Ordering::SeqCst), SigningKey::generate(TokenAlgorithm::ES256).unwrap());
    let (answer, delay) = upgrade(&token(&stranger, "stranger"));
    comes_back_later(&answer, delay);
    // Case 52: many unknown keys are one fetch.
    let authorizations: Vec<_> =
        (0..50).map(|at| token(&SigningKey::generate(TokenAlgorithm::ES256).unwrap(), &format!("s{at}"))).collect();
    let mut clients: Vec<_> = authorizations
        .iter()
        .map(|token| {
            let mut client = gateway.connect();
            let request = format!("GET / HTTP/1.1\r\n{}Authorization: Bearer {token}\r\n\r\n", STOCK.concat());
            client.send(request.as_bytes()).unwrap();
            client
        })
        .collect();
    for client in &mut clients {
        let status = client.response(PATIENCE).expect("an answer").status;
        assert!([401, 503].contains(&status), "{status}");
    }
    let fetches = endpoint.fetches.load(Ordering::SeqCst) - before;
    assert!(fetches <= 2, "{fetches} fetches of the key set");
    let other = token(&signing, "after");
    assert_eq!(upgrade(&other).0.status, 101);
    acked(&mut opened, 2);
    assert_eq!(gateway.records("telemetry").len(), 2);
    let tokens = authorizations.iter().chain([&known, &other]);
    let secrets: Vec<_> = tokens.flat_map(|token| token.split('.').skip(1)).map(str::to_owned).collect();
    assert!(check_log("76", &gateway, 0, &secrets) > 50);
}

/// An issuer's key set over HTTP, which can be told to fail, and counts.
struct Endpoint {
    url: String,
    works: Arc<AtomicU32>,
    fetches: Arc<AtomicU32>,
}

impl Endpoint {
    /// Serves until the process ends.
    fn start(set: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let (works, fetches) = (Arc::new(AtomicU32::new(200)), Arc::new(AtomicU32::new(0)));
        let endpoint = Self { url, works: Arc::clone(&works), fetches: Arc::clone(&fetches) };
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4_096]);
                fetches.fetch_add(1, Ordering::SeqCst);
                let status = works.load(Ordering::SeqCst);
                let length = set.len();
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all((head + &set).as_bytes());
            }
        });
        endpoint
    }
}
