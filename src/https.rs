//! Questions to other people's services over HTTP or HTTPS: one request, five seconds, one mebibyte, no redirects.
//!
//! Used where a node needs little and seldom: an issuer's keys, a token for Kafka.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// The longest answer, in bytes.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// From the name look-up to the last byte.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why nothing can be asked there.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// It is no URL of the kind.
    #[error("is not an http:// or https:// URL with a host name")]
    Url,
    /// There are no certificates to check the server's with.
    #[error("no root certificates to check it with: {0}")]
    Roots(std::io::Error),
}

/// One URL and the client for it.
pub struct Endpoint {
    url: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// A status and a body of at most [`MAX_ANSWER_BYTES`].
pub type Answer = (StatusCode, Vec<u8>);

/// The parts of a text that can be asked something: `http` or `https`, and a host.
pub fn parse_url(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    (known && url.host().is_some_and(|host| !host.is_empty())).then_some(url)
}

impl Endpoint {
    /// Makes a client for `url`, whose certificate is checked against those of the PEM file `ca`, or without one against the
    /// operating system's.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn new(url: &str, ca: Option<&Path>) -> Result<Self, EndpointError> {
        let url = parse_url(url).ok_or(EndpointError::Url)?;
        let tls = tls_config(is_https(&url), ca).map_err(EndpointError::Roots)?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { url, client })
    }

    /// Whether it is asked over TLS.
    pub fn is_https(&self) -> bool {
        is_https(&self.url)
    }

    /// Fetches what is there; `accept` are the media types wanted.
    ///
    /// # Errors
    /// Why there was no answer, for people.
    pub async fn get(&self, accept: &'static str) -> Result<Answer, String> {
        let request = Request::get(self.url.clone()).header(ACCEPT, accept).body(Full::default());
        self.ask(request.map_err(|error| error.to_string())?).await
    }

    /// Sends a form (`a=b&c=d`) and wants JSON; `authorization` is kept out of every log.
    ///
    /// # Errors
    /// Why there was no answer, for people.
    pub async fn post_form(&self, authorization: &str, form: String) -> Result<Answer, String> {
        let mut secret = HeaderValue::from_str(authorization).map_err(|_| "credentials that no header can hold")?;
        secret.set_sensitive(true);
        let request = Request::post(self.url.clone())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(AUTHORIZATION, secret)
            .body(Full::from(form));
        self.ask(request.map_err(|error| error.to_string())?).await
    }

    async fn ask(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let agent = HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        let asked = async {
            let answer = self.client.request(request).await.map_err(|error| chain(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| error.to_string())?;
            Ok((status, body.to_bytes().into()))
        };
        tokio::time::timeout(TIMEOUT, asked).await.map_err(|_| "no answer within 5 s".to_owned())?
    }
}

fn is_https(url: &Uri) -> bool {
    url.scheme_str() == Some("https")
}

/// The roots of a file, or else the operating system's; none for a URL that needs none.
fn tls_config(is_https: bool, ca: Option<&Path>) -> std::io::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?;
    let builder = match ca {
        _ if !is_https => builder.with_root_certificates(RootCertStore::empty()),
        None => builder.with_native_roots()?,
        Some(path) => builder.with_root_certificates(roots(path)?),
    };
    Ok(builder.with_no_client_auth())
}

fn roots(path: &Path) -> std::io::Result<RootCertStore> {
    let bad = |error: &dyn std::fmt::Display| std::io::Error::other(format!("`{}`: {error}", path.display()));
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(path).map_err(|error| bad(&error))? {
        let cert = cert.map_err(|error| bad(&error))?;
        roots.add(cert).map_err(|error| bad(&error))?;
    }
    if roots.is_empty() { Err(bad(&"there is no certificate in it")) } else { Ok(roots) }
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
