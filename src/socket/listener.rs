//! From a TCP connection to a request: accept, PROXY header, TLS and the request's head, all within one deadline.
//!
//! Nothing here knows what is served: who calls [`serve`] is handed each request that is worth answering.

mod proxy;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use super::head::{self, HeadError, HeadFailure, Replay};
use super::tls::{self, CertReloader, TlsError, TlsStream};
use crate::limits::Limits;
use crate::telemetry::metrics::{AttemptOutcome, Metrics};

pub use proxy::ProxyError;

/// Connections the kernel completes before they are accepted; it takes fewer where `net.core.somaxconn` is lower.
const BACKLOG: i32 = 4_096;
/// A dead peer is found after 30 s of silence and three probes, or 30 s after something sent went unacknowledged.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long accepting rests after it failed for want of descriptors or memory, and at most.
const REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// What is under HTTP.
#[derive(Debug)]
pub enum Stream {
    /// TCP; something in front of the node terminates TLS.
    Plain(TcpStream),
    /// TLS over TCP; apart, so that a connection's future is no larger for it.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The socket underneath: its options, and whether its peer is still there. Not for reading and writing.
    pub const fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref(),
        }
    }

    /// The certificate the client showed and TLS accepted, where it was asked for one.
    pub fn client_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.peer_certificates()?.first(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
        }
    }
}

/// How connections are taken.
pub struct ListenerSettings {
    limits: Limits,
    metrics: Metrics,
    tls: Option<Arc<CertReloader>>,
    proxy_protocol: bool,
    handshakes: Arc<Semaphore>,
}

impl ListenerSettings {
    /// Takes connections by TLS where there is a certificate; each begins with a PROXY header where `proxy_protocol`.
    /// Of the bounds it keeps `max_handshakes`, `handshake_timeout_ms` and those of the head.
    pub fn new(limits: Limits, metrics: Metrics, tls: Option<Arc<CertReloader>>, proxy_protocol: bool) -> Self {
        let handshakes = Arc::new(Semaphore::new(limits.max_handshakes.min(Semaphore::MAX_PERMITS)));
        Self { limits, metrics, tls, proxy_protocol, handshakes }
    }
}

/// A place among the `max_handshakes` connections that are being made, and its count in `tidegate_handshakes`. To be
/// dropped when the connection is made or refused; a refusal that waits out a delay has a bound of its own.
pub struct Slot {
    metrics: Metrics,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    fn new(permit: OwnedSemaphorePermit, metrics: &Metrics) -> Self {
        metrics.handshakes.inc();
        Self { metrics: metrics.clone(), _permit: permit }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.metrics.handshakes.dec();
    }
}

/// A connection whose first request is here.
pub struct Incoming {
    /// Yields the request's head first, which is complete and within its bounds.
    pub stream: Replay<Stream>,
    /// The other end, or the address a PROXY header named.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub at: Instant,
    /// Its place among the handshakes.
    pub slot: Slot,
}

/// Why a connection came to no request.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("PROXY header: {0}")]
    Proxy(#[from] ProxyError),
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("HTTP: {0}")]
    Head(HeadError),
    #[error("nothing complete within limits.handshake_timeout_ms")]
    Timeout,
    #[error("the client left: {0}")]
    Left(io::Error),
}

impl Refused {
    const fn outcome(&self) -> AttemptOutcome {
        match self {
            Self::Proxy(ProxyError::Gone(_)) | Self::Tls(TlsError::Gone(_)) | Self::Left(_) => AttemptOutcome::Left,
            Self::Proxy(_) => AttemptOutcome::Proxy,
            Self::Tls(_) => AttemptOutcome::Tls,
            Self::Head(_) => AttemptOutcome::BadRequest,
            Self::Timeout => AttemptOutcome::Timeout,
        }
    }
}

/// Binds `address` and listens. Sockets that are accepted inherit its options: no delay, keep-alive, user timeout.
///
/// # Errors
/// What the system says: the address is taken, or not this machine's.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    configure(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn configure(socket: &SockRef<'_>) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

/// Takes connections for as long as it is polled, each in a task of its own that ends with `handler`'s future. To stop
/// accepting, drop it: what was accepted goes on.
///
/// Connections beyond `max_handshakes` wait in the kernel's queue. What comes to no request is counted in
/// `tidegate_connection_attempts_total`, logged, and never reaches `handler`.
pub async fn serve<H, F>(listener: TcpListener, settings: Arc<ListenerSettings>, handler: H)
where
    H: Fn(Incoming) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut rest = REST;
    loop {
        let Ok(permit) = Arc::clone(&settings.handshakes).acquire_owned().await else { return };
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_the_clients(&error) => continue,
            Err(error) => {
                // Out of descriptors or memory: trying again at once would only burn the core that could free some.
                tracing::error!(%error, rest_ms = rest.as_millis() as u64, "connections cannot be accepted");
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(LONGEST_REST);
                continue;
            }
        };
        rest = REST;
        let slot = Slot::new(permit, &settings.metrics);
        let (settings, handler) = (Arc::clone(&settings), handler.clone());
        tokio::spawn(async move {
            if let Some(incoming) = prepare(tcp, peer, slot, &settings).await {
                handler(incoming).await;
            }
        });
    }
}

/// Whether accepting failed for something one client did.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | TimedOut)
}

/// Brings a connection as far as its request; counts and logs where that fails.
async fn prepare(tcp: TcpStream, peer: SocketAddr, slot: Slot, settings: &ListenerSettings) -> Option<Incoming> {
    let at = Instant::now();
    let mut named = peer;
    match request(tcp, &mut named, settings).await {
        Ok(stream) => Some(Incoming { stream, peer: named, at, slot }),
        Err(refused) => {
            let outcome = refused.outcome();
            settings.metrics.connection_attempts.of(outcome).inc();
            // Whoever only knocks, as load balancers do, is not worth a line of its own in the log.
            if matches!(outcome, AttemptOutcome::Left) {
                tracing::debug!(peer = %named.ip(), reason = %refused, "a connection came to no request");
            } else {
                tracing::info!(peer = %named.ip(), reason = %refused, "a connection was refused");
            }
            None
        }
    }
}

async fn request(
    tcp: TcpStream,
    peer: &mut SocketAddr,
    settings: &ListenerSettings,
) -> Result<Replay<Stream>, Refused> {
    let deadline = tokio::time::Instant::now() + Duration::from_millis(settings.limits.handshake_timeout_ms);
    let opened = timeout_at(deadline, open(tcp, peer, settings)).await;
    let (mut stream, early) = opened.map_err(|_| Refused::Timeout)??;
    let read = timeout_at(deadline, head::read(&mut stream, &settings.limits, &early)).await;
    match read.map_err(|_| Refused::Timeout)? {
        Ok(head) => Ok(Replay::new(stream, head)),
        Err(HeadFailure::Gone(error)) => Err(Refused::Left(error)),
        Err(HeadFailure::Bad(error)) => {
            head::refuse(&mut stream, &error.problem()).await;
            Err(Refused::Head(error))
        }
    }
}

/// PROXY header and TLS. Returns the stream and what of its plaintext was received already.
async fn open(
    mut tcp: TcpStream,
    peer: &mut SocketAddr,
    settings: &ListenerSettings,
) -> Result<(Stream, Vec<u8>), Refused> {
    #[cfg(not(target_os = "linux"))]
    configure(&SockRef::from(&tcp)).map_err(Refused::Left)?;
    let mut early = Vec::new();
    if settings.proxy_protocol {
        let (source, behind) = proxy::read(&mut tcp).await?;
        *peer = source.unwrap_or(*peer);
        early = behind;
    }
    match &settings.tls {
        Some(tls) => Ok((Stream::Tls(Box::new(tls::accept(tcp, tls.current(), early).await?)), Vec::new())),
        None => Ok((Stream::Plain(tcp), early)),
    }
}
