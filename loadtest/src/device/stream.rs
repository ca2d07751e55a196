//! The socket of a device, with TLS or without.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::Error;
use super::options::Options;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A socket that was just connected.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: Stream,
    /// When the first SYN went out.
    pub(super) began: Instant,
    /// What TLS took.
    pub(super) tls: Option<Duration>,
}

/// TCP, and TLS where the URL has it.
pub(super) async fn open(options: &Options) -> Result<Opened, Error> {
    let config = match (options.is_tls(), &options.tls) {
        (false, _) => None,
        (true, Some(config)) => Some(config.clone()),
        (true, None) => return Err(Error::NoTls),
    };
    let host = options.uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let address = match options.address {
        Some(address) => address,
        None => resolve(options, host).await?,
    };
    let began = Instant::now();
    let tcp = connect(address, options.source).await.map_err(Error::Connect)?;
    let Some(config) = config else { return Ok(Opened { stream: Stream::Plain(tcp), began, tls: None }) };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Error::Tls(io::Error::other(error)))?;
    let before = Instant::now();
    let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(Error::Tls)?;
    Ok(Opened { stream: Stream::Tls(Box::new(tls)), began, tls: Some(before.elapsed()) })
}

async fn resolve(options: &Options, host: &str) -> Result<SocketAddr, Error> {
    let port = options.uri.port_u16().unwrap_or(if options.is_tls() { 443 } else { 80 });
    let failed = |source| Error::Resolve { host: host.to_owned(), source };
    let mut found = tokio::net::lookup_host((host, port)).await.map_err(failed)?;
    let fits = |address: &SocketAddr| options.source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
    found.find(fits).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// Connects from an address, or from whichever the system takes; without Nagle's delay.
///
/// # Errors
/// Those of the system: no such address here, no port left, refused, unreachable.
pub(crate) async fn connect(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = from {
        // A port that `bind` takes has to be free towards every address. Linux looks for it among all that are in use, which
        // was most of the load tester's CPU at 30,000 devices that churn; `connect` looks for one that is free towards `to`.
        #[cfg(target_os = "linux")]
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.set_nodelay(true)?;
    socket.connect(to).await
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, into),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_write(cx, bytes),
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
