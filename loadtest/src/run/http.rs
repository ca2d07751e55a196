//! A small HTTP client for callers of commands: connections that are kept, as many as there are requests at once.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::target::Target;
use crate::device::connect;

/// Connections that are kept for later.
const KEPT: usize = 256;
/// Largest answer read.
const ANSWER_BYTES: usize = 1024 * 1024;

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// Sends requests to one place.
pub(super) struct HttpClient {
    target: Target,
    source: Option<IpAddr>,
    token: Mutex<Arc<str>>,
    kept: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    /// Whose turn it is to connect.
    turns: Arc<Semaphore>,
}

impl HttpClient {
    pub(super) fn new(target: Target, source: Option<IpAddr>, token: &str, turns: Arc<Semaphore>) -> Self {
        Self { target, source, token: Mutex::new(token.into()), kept: Mutex::default(), turns }
    }

    /// Uses another token from now on.
    pub(super) fn renew(&self, token: &str) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token.into();
    }

    /// Sends a request and reads the answer, within this time. An error is a short text for a table.
    pub(super) async fn send(
        &self,
        (method, path): (Method, &str),
        key: Option<&str>,
        body: Option<String>,
        within: Duration,
    ) -> Result<Answer, String> {
        let exchanged = timeout(within, self.exchange(method, path, key, body)).await;
        exchanged.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<String>,
    ) -> Result<Answer, String> {
        let mut sender = match self.kept() {
            Some(sender) => sender,
            None => {
                let _turn = self.turns.acquire().await.map_err(|error| error.to_string())?;
                // One may have become free meanwhile.
                match self.kept() {
                    Some(sender) => sender,
                    None => self.connect().await?,
                }
            }
        };
        sender.ready().await.map_err(|_| "the connection ended".to_owned())?;
        let request = self.request(method, path, key, body)?;
        let response = sender.send_request(request).await.map_err(|error| short(&error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        let body = body.map_err(|_| "the answer broke off".to_owned())?.to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT && !sender.is_closed() {
            kept.push(sender);
        }
        Ok(Answer { status, body })
    }

    /// A connection that is open and free.
    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| kept.pop()).find(|sender| !sender.is_closed())
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<String>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let token = Arc::clone(&self.token.lock().unwrap_or_else(PoisonError::into_inner));
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.target.authority)
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(body.unwrap_or_default().into())).map_err(|error| error.to_string())
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let address = self.target.address;
        let said = |error: std::io::Error| format!("connect: {}", error.kind());
        let stream = connect(address, self.source).await.map_err(said)?;
        let Some(tls) = &self.target.tls else { return spoken(TokioIo::new(stream)).await };
        let name = ServerName::try_from(self.target.host.clone()).map_err(|_| "no name for TLS".to_owned())?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.map_err(|_| "tls".to_owned())?;
        spoken(TokioIo::new(stream)).await
    }
}

async fn spoken<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(stream).await.map_err(|error| short(&error))?;
    tokio::spawn(async move {
        // Whoever sends a request hears of it.
        let _ = connection.await;
    });
    Ok(sender)
}

fn short(error: &hyper::Error) -> String {
    use std::error::Error as _;
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    match io {
        _ if error.is_closed() || error.is_incomplete_message() => "the connection ended".to_owned(),
        Some(error) => format!("the connection broke: {}", error.kind()),
        None => "HTTP failed".to_owned(),
    }
}
