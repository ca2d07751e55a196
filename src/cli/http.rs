//! A client of the HTTP API, one request a connection.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use serde_json::Value;
use serde_json::value::RawValue;
use tower_service::Service;

use crate::socket::client;

/// Most bytes read of an answer.
const ANSWER_BYTES: usize = 1024 * 1024;

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The node cannot be reached, or says that it cannot do it just now.
    #[error("{0}")]
    Away(String),
    /// It was refused.
    #[error("{status}: {detail}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// What the answer says.
        detail: String,
    },
    /// What was asked cannot be asked.
    #[error("{0}")]
    Wrong(String),
}

/// Where the API is, and who asks.
pub(super) struct Api {
    scheme: &'static str,
    host: String,
    token: String,
    ca: Option<PathBuf>,
}

/// A command.
pub(super) struct Order<'a> {
    pub(super) name: &'a str,
    /// JSON.
    pub(super) params: &'a str,
    pub(super) ttl_s: u64,
    pub(super) wait_s: Option<u64>,
}

impl Api {
    /// At the host of a URL, of HTTP or of a WebSocket, whatever its path.
    pub(super) fn new(url: &str, token: &str, ca: Option<&Path>) -> Result<Self, String> {
        let scheme = match url.split_once("://") {
            Some(("http" | "ws", _)) => "http",
            Some(("https" | "wss", _)) => "https",
            _ => return Err(format!("`{url}` is no URL: http://host:port or https://…")),
        };
        let host = url.split("://").nth(1).and_then(|rest| rest.split(['/', '?']).next()).unwrap_or_default();
        if host.is_empty() {
            return Err(format!("`{url}` has no host"));
        }
        Ok(Self { scheme, host: host.to_owned(), token: token.to_owned(), ca: ca.map(Path::to_owned) })
    }

    /// Sends a device a command; the answer says how far it is.
    pub(super) async fn send(&self, device: &str, order: &Order<'_>, key: &str) -> Result<Value, ApiError> {
        if !crate::id::is_id(device) {
            return Err(ApiError::Wrong(format!("`{device}` is no device's id")));
        }
        let params: &RawValue = serde_json::from_str(order.params)
            .map_err(|error| ApiError::Wrong(format!("the params are no JSON: {error}")))?;
        let name = Value::from(order.name);
        let wait = order.wait_s.map(|seconds| format!(",\"wait_s\":{seconds}")).unwrap_or_default();
        let body = format!("{{\"name\":{name},\"params\":{params},\"ttl_s\":{}{wait}}}", order.ttl_s);
        let request = Request::post(format!("/v1/devices/{device}/commands"))
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", key)
            .body(Full::from(body))
            .map_err(|_| ApiError::Wrong("the token or the key holds what no header may".into()))?;
        let (status, answer) = self.call(request).await?;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        let detail = answer.get("detail").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
        match status {
            StatusCode::SERVICE_UNAVAILABLE => Err(ApiError::Away(format!("{status}: {detail}"))),
            _ => Err(ApiError::Refused { status, detail }),
        }
    }

    async fn call(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ApiError> {
        let away = |error: &dyn std::fmt::Display| ApiError::Away(format!("{} does not answer: {error}", self.host));
        let uri: Uri = format!("{}://{}/", self.scheme, self.host)
            .parse()
            .map_err(|_| ApiError::Wrong(format!("`{}` is no host", self.host)))?;
        let tls = client::tls(self.scheme == "https", self.ca.as_deref());
        let tls = tls.map_err(|error| ApiError::Wrong(error.to_string()))?;
        let mut connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let stream = connector.call(uri).await.map_err(|error| away(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(stream).await.map_err(|error| away(&error))?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| away(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await.map_err(|error| away(&error))?;
        Ok((status, body.to_bytes()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_either_kind_names_the_api() {
        for (url, scheme, host) in [
            ("wss://gw:8443/v1/device?boot=x", "https", "gw:8443"),
            ("ws://127.0.0.1:8080", "http", "127.0.0.1:8080"),
            ("https://gw/", "https", "gw"),
        ] {
            let api = Api::new(url, "t", None).unwrap();
            assert_eq!((api.scheme, api.host.as_str()), (scheme, host), "{url}");
        }
        for bad in ["gw:8443", "ftp://gw", "https://", "https:///x"] {
            assert!(Api::new(bad, "t", None).is_err(), "{bad}");
        }
    }
}
