//! A key set over HTTP: one GET, five seconds, one mebibyte, no redirects.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};

use super::MAX_SET_BYTES;
use crate::auth::config::AuthSetupError;

/// From the name look-up to the last byte.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One URL and the client for it.
pub(super) struct Fetcher {
    url: http::Uri,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Fetcher {
    pub(super) fn new(text: &str) -> Result<Self, AuthSetupError> {
        let bad = || AuthSetupError::Url(text.to_owned());
        let url: http::Uri = text.parse().map_err(|_| bad())?;
        let is_https = url.scheme_str() == Some("https");
        if url.host().is_none_or(str::is_empty) || !(is_https || url.scheme_str() == Some("http")) {
            return Err(bad());
        }
        if !is_https {
            tracing::warn!(
                "auth.jwks is a plain http:// URL: whoever sits on the way can put a key of their own in it"
            );
        }
        let tls = tls_config(is_https).map_err(|reason| AuthSetupError::Roots { url: text.to_owned(), reason })?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { url, client })
    }

    /// Fetches the set.
    pub(super) async fn fetch(&self) -> Result<Vec<u8>, String> {
        tokio::time::timeout(TIMEOUT, self.get()).await.map_err(|_| "no answer within 5 s".to_owned())?
    }

    async fn get(&self) -> Result<Vec<u8>, String> {
        let request = http::Request::get(self.url.clone())
            .header(http::header::ACCEPT, "application/jwk-set+json, application/json")
            .header(http::header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|e| e.to_string())?;
        let answer = self.client.request(request).await.map_err(|e| chain(&e))?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("answered {}", answer.status()));
        }
        let limit = usize::try_from(MAX_SET_BYTES).unwrap_or(usize::MAX);
        let body = Limited::new(answer.into_body(), limit).collect().await.map_err(|e| e.to_string())?;
        Ok(body.to_bytes().into())
    }
}

/// The operating system's root certificates; none for a URL that needs none.
fn tls_config(is_https: bool) -> std::io::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?;
    let builder =
        if is_https { builder.with_native_roots()? } else { builder.with_root_certificates(RootCertStore::empty()) };
    Ok(builder.with_no_client_auth())
}

/// An error with its causes: hyper-util's own text says no more than "client error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
