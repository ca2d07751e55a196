//! A small issuer of tokens for Kafka: `/token` over TLS, where a client's id and secret are asked for, and `/jwks` in the
//! clear, where the brokers find its key.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use tidegate::auth::TokenAlgorithm;
use tidegate::auth::signing::SigningKey;

use super::support::pki::Signed;

/// Whose tokens they are.
pub(crate) const ISSUER: &str = "https://issuer.example";
/// For whom.
pub(crate) const AUDIENCE: &str = "kafka";
/// The scope that is asked for.
pub(crate) const SCOPE: &str = "kafka write";

/// It answers for as long as the process lives.
#[derive(Clone)]
pub(crate) struct Issuer {
    key: Arc<SigningKey>,
    client: &'static str,
    secret: &'static str,
    lives_s: u64,
    /// Every token there was.
    given: Arc<Mutex<Vec<String>>>,
    refused: Arc<AtomicUsize>,
    plain: u16,
    tls: u16,
}

impl Issuer {
    /// Starts it; each token lives for some seconds.
    pub(crate) fn start(signed: &Signed, client: &'static str, secret: &'static str, lives_s: u64) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (plain, tls) = (listen(), listen());
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let issuer = Self {
            key: Arc::new(SigningKey::generate(TokenAlgorithm::ES256).unwrap()),
            client,
            secret,
            lives_s,
            given: Arc::default(),
            refused: Arc::default(),
            plain: port(&plain),
            tls: port(&tls),
        };
        let (config, own) = (signed.server(), issuer.clone());
        std::thread::spawn(move || plain.incoming().flatten().for_each(|stream| own.serve(stream)));
        let own = issuer.clone();
        std::thread::spawn(move || tls.incoming().flatten().for_each(|stream| own.serve(wrap(&config, stream))));
        issuer
    }

    /// Where brokers find the key.
    pub(crate) fn jwks(&self) -> String {
        format!("http://127.0.0.1:{}/jwks", self.plain)
    }

    /// Where clients get tokens.
    pub(crate) fn token_url(&self) -> String {
        format!("https://localhost:{}/token", self.tls)
    }

    /// Every token there was.
    pub(crate) fn given(&self) -> Vec<String> {
        self.given.lock().unwrap().clone()
    }

    /// How many were refused.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// One request, whatever comes of it.
    fn serve(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        let (mut head, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            head.push(line.trim().to_owned());
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let (status, answer) = self.answer(&head, &String::from_utf8_lossy(&body));
        let stream = stream.get_mut();
        drop(write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        ));
        drop(stream.flush());
    }

    fn answer(&self, head: &[String], body: &str) -> (&'static str, String) {
        let first = head.first().map_or("", String::as_str);
        if first.starts_with("GET /jwks ") {
            return ("200 OK", self.key.jwks());
        }
        let expected = format!("Basic {}", STANDARD.encode(format!("{}:{}", self.client, self.secret)));
        let has = |value: &str| head.iter().any(|line| line.split_once(": ").is_some_and(|(_, v)| v == value));
        if !first.starts_with("POST /token ") || !has(&expected) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return ("401 Unauthorized", json!({"error": "invalid_client"}).to_string());
        }
        assert_eq!(body, "grant_type=client_credentials&scope=kafka%20write");
        let token = self.token();
        self.given.lock().unwrap().push(token.clone());
        let answer = json!({"access_token": token, "token_type": "Bearer", "expires_in": self.lives_s});
        ("200 OK", answer.to_string())
    }

    fn token(&self) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": self.client, "scope": SCOPE, "iat": now, "exp": now + self.lives_s,
        });
        self.key.sign(&claims).unwrap()
    }
}

fn wrap(config: &Arc<ServerConfig>, stream: std::net::TcpStream) -> impl Read + Write {
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream)
}
