//! Why a device did not get its connection.

use std::io;

/// Why an attempt to connect failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token's source gave none.
    #[error("no token: {0}")]
    Token(String),
    /// The URL's host has no address.
    #[error("`{host}` has no address: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// TCP.
    #[error("no connection: {0}; is the gateway listening there?")]
    Connect(#[source] io::Error),
    /// TLS.
    #[error("TLS failed: {0}; does the device trust the authority of the gateway's certificate?")]
    Tls(#[source] io::Error),
    /// `wss://` and nothing to speak TLS with.
    #[error("the URL is wss:// and the options have no `tls`: see `device::trusting`")]
    NoTls,
    /// The connection ended before the `welcome`.
    #[error("the connection broke before the welcome: {0}")]
    Broken(#[source] io::Error),
    /// Longer than the options allow.
    #[error("no welcome in time")]
    Timeout,
    /// The gateway said no, before the 101.
    #[error("refused with {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// `detail` of the answer, or what there was of a body.
        detail: String,
        /// `Retry-After`, seconds.
        retry_after_s: Option<u64>,
    },
    /// The gateway closed after the 101 and before the `welcome`.
    #[error("closed with {code:?} before the welcome: {reason}")]
    Closed {
        /// The close code, where it gave one.
        code: Option<u16>,
        /// The reason, or the `error` before it.
        reason: String,
    },
    /// What answered does not speak this protocol.
    #[error("what answered is no gateway: {0}")]
    Handshake(String),
}

impl Error {
    /// A short name for metrics and tables, without anything of the device in it.
    pub fn label(&self) -> String {
        match self {
            Self::Token(_) => "no token".into(),
            Self::Resolve { .. } => "host without an address".into(),
            Self::Connect(error) => format!("connect: {}", error.kind()),
            Self::Tls(_) => "tls".into(),
            Self::NoTls => "tls not configured".into(),
            Self::Broken(_) => "broken before the welcome".into(),
            Self::Timeout => "no welcome in time".into(),
            Self::Refused { status, .. } => format!("refused with {status}"),
            Self::Closed { code: Some(code), .. } => format!("closed with {code} before the welcome"),
            Self::Closed { code: None, .. } => "closed before the welcome".into(),
            Self::Handshake(_) => "no gateway".into(),
        }
    }

    /// Whether the gateway's certificate is what is wrong: another authority's, expired, for another name.
    pub fn is_untrusted(&self) -> bool {
        let Self::Tls(error) = self else { return false };
        let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(rustls, Some(rustls::Error::InvalidCertificate(_)))
    }

    /// Whether trying again with nothing changed can help: false for what is wrong with the options, the token or the URL.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoTls | Self::Handshake(_) => false,
            Self::Refused { status, .. } => matches!(status, 429 | 500..=599),
            _ => true,
        }
    }
}
