//! Who a device is, where it connects and how it behaves.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::ClientConfig;
use tidegate::protocol::Encoding;
use tokio::sync::Semaphore;

/// A token being fetched.
pub type TokenFuture = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// Makes tokens.
pub type TokenMaker = dyn Fn(TokenRequest<'_>) -> Result<String, String> + Send + Sync;

/// Fetches tokens.
pub type TokenFetcher = dyn Fn(TokenRequest<'_>) -> TokenFuture + Send + Sync;

/// What is asked of a [`TokenSource`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRequest<'a> {
    /// The device it is for.
    pub device_id: &'a str,
    /// The last one expired, is about to, or was refused: one from a cache would not do.
    pub fresh: bool,
}

/// Where a device's token comes from. It is asked at each connect and at each `auth_due`, and nothing is kept: a source
/// that does much for a token keeps it itself.
#[derive(Clone, Default)]
pub enum TokenSource {
    /// No token: for a gateway that wants none, such as `tidegate dev` on loopback.
    #[default]
    None,
    /// Always the same.
    Fixed(Arc<str>),
    /// Made on the spot; the call must not block.
    Make(Arc<TokenMaker>),
    /// Fetched from somewhere.
    Fetch(Arc<TokenFetcher>),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Fixed(_) => "Fixed",
            Self::Make(_) => "Make",
            Self::Fetch(_) => "Fetch",
        })
    }
}

/// Whether a device comes back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reconnect {
    /// As the close codes advise, with the published back-off.
    #[default]
    Advised,
    /// The same, but also with the back-off where the advice is not to: for bad clients, which never learn.
    Stubborn,
    /// With the back-off where a connection just ended, and never after a close frame, whatever its code says: so do stock
    /// clients that take each close for wanted. They ask for closes without one ([`Options::close_drop`]).
    UnlessClosed,
    /// Not before [`crate::device::Handle::connect`].
    Never,
}

/// What happens to an update for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFull {
    /// The oldest is dropped, and told to the watcher.
    #[default]
    DropOldest,
    /// It is not taken: [`crate::device::NotTaken::Full`].
    Refuse,
}

/// How well a device behaves. All but the first are for tests of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manners {
    /// As the protocol says.
    #[default]
    Good,
    /// Reads so many bytes a second and leaves the rest to TCP.
    ReadsSlowly {
        /// Bytes a second.
        bytes_per_s: u32,
    },
    /// Reads nothing after its `welcome`.
    ReadsNothing,
    /// Sends on while it is told to pause, and beyond the window.
    IgnoresPause,
    /// Does not know `goaway`, and stays until it is closed.
    IgnoresGoaway,
    /// Sends this in place of each update, which is thereby over and told as dropped.
    Malformed(Malformed),
}

/// What a bad client sends in place of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A frame that is no message of the encoding.
    Garbage,
    /// A message whose `type` nobody knows.
    UnknownType,
    /// A message of another device.
    WrongDevice,
    /// A message above the size limit.
    TooLarge,
    /// A text frame that is not UTF-8.
    NotUtf8,
    /// A frame without a mask.
    Unmasked,
    /// A frame with reserved bits.
    ReservedBits,
    /// Two hundred pings at once.
    PingFlood,
    /// A message begun and never finished.
    Unfinished,
}

impl Malformed {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Garbage,
        Self::UnknownType,
        Self::WrongDevice,
        Self::TooLarge,
        Self::NotUtf8,
        Self::Unmasked,
        Self::ReservedBits,
        Self::PingFlood,
        Self::Unfinished,
    ];
}

/// Why a URL is none of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no URL of a WebSocket: ws://host:port/path or wss://host:port/path")]
pub struct UrlError(pub String);

/// Who a device is, where it connects and how it behaves. A clone is cheap: what is large is shared.
#[derive(Clone)]
pub struct Options {
    /// The gateway, `ws://` or `wss://`, which [`Options::new`] sees to. Without a path: `/v1/device`.
    pub uri: Uri,
    /// Connects here whatever the URL's host resolves to, which still goes into TLS and the request.
    pub address: Option<SocketAddr>,
    /// Connects from here, such as one of 127.0.0.x, each of which has ports of its own.
    pub source: Option<IpAddr>,
    /// What TLS is spoken with, needed for `wss://`: see [`trusting`].
    pub tls: Option<Arc<ClientConfig>>,
    /// Who it is; the token says the same. Goes into events and to the token's source.
    pub device_id: Arc<str>,
    /// Where its tokens come from.
    pub token: TokenSource,
    /// Scopes `seq`: 1 to 64 of `A-Z a-z 0-9 _ -`. Drawn at random where there is none, as at each boot of a device.
    pub boot: Option<Arc<str>>,
    /// The `seq` of the first update: where a boot goes on that an earlier [`crate::device::start`] began.
    pub first_seq: u64,
    /// How messages are written.
    pub encoding: Encoding,
    /// Offers `permessage-deflate`.
    pub deflate: bool,
    /// Asks for this heartbeat.
    pub heartbeat_s: Option<u64>,
    /// The largest message it can take: tells the gateway, and ends the connection at a larger one. 1 MiB where not set.
    pub max_bytes: Option<usize>,
    /// Asks for closes without a close frame, as clients do that never come back after a clean one.
    pub close_drop: bool,
    /// How many updates it keeps until they are acked, at least 1.
    pub buffer: usize,
    /// What happens when those are too many.
    pub on_full: OnFull,
    /// The most updates in one frame; 1: no batches.
    pub batch: usize,
    /// Whether it comes back.
    pub reconnect: Reconnect,
    /// Does not connect before [`crate::device::Handle::connect`].
    pub starts_offline: bool,
    /// Its attempts to connect wait for one of these: devices that share a processor and all connect at once would spend it
    /// on handshakes that none of them finishes in time. No bound where there is none.
    pub turns: Option<Arc<Semaphore>>,
    /// From the first SYN to the `welcome`, else the attempt failed.
    pub connect_timeout: Duration,
    /// With something unacked, not paused, and no ack for this long it reconnects.
    pub ack_timeout: Duration,
    /// How well it behaves.
    pub manners: Manners,
}

impl Options {
    /// A device that connects to this URL without a token, and behaves. The rest is set field by field.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn new(url: &str, device_id: &str) -> Result<Self, UrlError> {
        let bad = || UrlError(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let spoken = matches!(uri.scheme_str(), Some("ws" | "wss"));
        if !spoken || uri.host().is_none_or(str::is_empty) {
            return Err(bad());
        }
        Ok(Self {
            uri,
            address: None,
            source: None,
            tls: None,
            device_id: device_id.into(),
            token: TokenSource::None,
            boot: None,
            first_seq: 1,
            encoding: Encoding::Json,
            deflate: false,
            heartbeat_s: None,
            max_bytes: None,
            close_drop: false,
            buffer: 1_000,
            on_full: OnFull::DropOldest,
            batch: 64,
            reconnect: Reconnect::Advised,
            starts_offline: false,
            turns: None,
            connect_timeout: Duration::from_secs(20),
            ack_timeout: Duration::from_secs(60),
            manners: Manners::Good,
        })
    }

    /// Whether TLS is spoken.
    pub fn is_tls(&self) -> bool {
        self.uri.scheme_str() == Some("wss")
    }

    /// The URL, without what the device adds to it.
    pub fn url(&self) -> &Uri {
        &self.uri
    }
}

/// What TLS is spoken with: trusts the authorities of this PEM file, or those of the system. Make it once and share it
/// among all devices of a process.
///
/// # Errors
/// In words, when the authorities cannot be read.
pub fn trusting(authorities: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    tidegate::socket::client::tls(true, authorities).map(Arc::new).map_err(|error| error.to_string())
}
