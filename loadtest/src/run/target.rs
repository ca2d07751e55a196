//! Where a run goes: the gateway's addresses, looked up and tried before anything begins.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use crate::device;

const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is nothing to run against.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No URL of a gateway.
    #[error("--target {url}: {reason}; it is ws://host:port or wss://host:port")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The authorities for TLS.
    #[error("--ca: {0}")]
    Authorities(String),
    /// Nobody there.
    #[error("--target {url}: {reason}. Is the gateway listening there?")]
    Unreachable {
        /// As it was given.
        url: String,
        /// What the operating system said.
        reason: String,
    },
}

/// One address to run against.
#[derive(Clone)]
pub(super) struct Target {
    /// For devices.
    pub(super) url: String,
    pub(super) address: SocketAddr,
    /// Where TLS is spoken: with what, and the name in the certificate.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    /// Host and port, for a request's `Host`.
    pub(super) authority: String,
    /// The host alone.
    pub(super) host: String,
}

impl Target {
    /// Reads a URL and looks up its address.
    pub(super) fn read(url: &str, tls: Option<&Arc<rustls::ClientConfig>>) -> Result<Self, TargetError> {
        let wrong = |reason: &str| TargetError::Url { url: url.to_owned(), reason: reason.to_owned() };
        let uri: Uri = url.parse().map_err(|_| wrong("no URL"))?;
        let secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            Some("http" | "https") => return Err(wrong("devices speak WebSocket: ws:// in place of http://")),
            Some(_) => return Err(wrong("an unknown scheme")),
            None => return Err(wrong("without ws:// or wss://")),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("without a host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let lost = |reason: String| TargetError::Unreachable { url: url.to_owned(), reason };
        let address = (host.as_str(), port).to_socket_addrs().map_err(|error| lost(error.to_string()))?.next();
        let address = address.ok_or_else(|| lost(format!("`{host}` has no address")))?;
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let tls = if secure { tls.map(Arc::clone) } else { None };
        Ok(Self { url: url.to_owned(), address, tls, authority, host })
    }

    /// Tries whether somebody accepts there.
    pub(super) fn probe(&self) -> Result<(), TargetError> {
        match TcpStream::connect_timeout(&self.address, PATIENCE) {
            Ok(_) => Ok(()),
            Err(error) => {
                let reason = format!("{} does not answer: {error}", self.address);
                Err(TargetError::Unreachable { url: self.url.clone(), reason })
            }
        }
    }
}

/// Reads all of them.
pub(super) fn read(urls: &[String], ca: Option<&Path>) -> Result<Vec<Target>, TargetError> {
    // The system's authorities take time to load, and may be missing: only where TLS is spoken.
    let secure = urls.iter().any(|url| url.starts_with("wss:") || url.starts_with("https:"));
    let tls = if secure { Some(device::trusting(ca).map_err(TargetError::Authorities)?) } else { None };
    urls.iter().map(|url| Target::read(url, tls.as_ref())).collect()
}

/// The HTTP API's address: as given (`http://` or `https://`), or that of the target.
pub(super) fn api(url: &str, ca: Option<&Path>) -> Result<Target, TargetError> {
    let wrong =
        || TargetError::Url { url: url.to_owned(), reason: "--api is http://host:port or https://…".to_owned() };
    let rest = url.strip_prefix("http").ok_or_else(wrong)?;
    let mut targets = read(&[format!("ws{rest}")], ca)?;
    targets.pop().ok_or_else(wrong)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_none_of_a_gateway_is_refused_with_what_is_wrong() {
        let error = |url: &str| Target::read(url, None).err().unwrap().to_string();
        assert!(error("http://127.0.0.1:1").contains("ws:// in place of http://"));
        assert!(error("127.0.0.1:8080").contains("it is ws://host:port"));
        assert!(error("ftp://x").contains("an unknown scheme"));
        assert!(error("ws://").contains("it is ws://host:port"));
        assert!(error("not a url").contains("it is ws://host:port"));
    }

    #[test]
    fn host_and_port_are_read_with_their_defaults() {
        let target = Target::read("ws://127.0.0.1:8080/v1/device", None).unwrap();
        assert_eq!((target.address.port(), target.authority.as_str()), (8080, "127.0.0.1:8080"));
        assert_eq!(Target::read("ws://127.0.0.1", None).unwrap().address.port(), 80);
        assert_eq!(api("http://127.0.0.1:9", None).unwrap().address.port(), 9);
        assert!(api("ws://127.0.0.1:9", None).is_err());
    }
}
