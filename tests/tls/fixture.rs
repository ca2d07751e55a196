//! Certificates, a client, and a wire that can be held shut.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tidegate::socket::tls::{CertReloader, TlsFiles, TlsStream, accept};
use tidegate::telemetry::metrics::Metrics;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

pub(crate) type Client<S> = tokio_rustls::client::TlsStream<S>;

/// Somebody who signs certificates.
pub(crate) struct Authority {
    pub(crate) cert: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

pub(crate) fn authority(name: &str, under: Option<&Authority>) -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let cert = match under {
        Some(above) => params.signed_by(&key, &above.issuer),
        None => params.self_signed(&key),
    };
    Authority { cert: cert.unwrap(), issuer: Issuer::new(params, key) }
}

/// A certificate and its key.
pub(crate) struct Leaf {
    pub(crate) cert: Certificate,
    pub(crate) key: KeyPair,
}

pub(crate) fn leaf(under: &Authority, last_year: i32) -> Leaf {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(last_year, 1, 1);
    let cert = params.signed_by(&key, &under.issuer).unwrap();
    Leaf { cert, key }
}

impl Leaf {
    pub(crate) fn write(&self, dir: &Path) {
        std::fs::write(dir.join("cert.pem"), self.cert.pem()).unwrap();
        std::fs::write(dir.join("key.pem"), self.key.serialize_pem()).unwrap();
    }

    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

/// What a server serves with, and who signed it.
pub(crate) struct Served {
    pub(crate) dir: TempDir,
    pub(crate) authority: Authority,
    pub(crate) reloader: Arc<CertReloader>,
    pub(crate) metrics: Metrics,
}

pub(crate) fn served() -> Served {
    served_with(4_096, None)
}

pub(crate) fn served_with(record_bytes: usize, client_ca: Option<&Authority>) -> Served {
    let (dir, authority, metrics) = (TempDir::new().unwrap(), authority("servers", None), Metrics::new().unwrap());
    leaf(&authority, 2090).write(dir.path());
    let client_ca = client_ca.map(|ca| {
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, ca.cert.pem()).unwrap();
        path
    });
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let files = TlsFiles { cert, key, client_ca, record_bytes };
    let reloader = Arc::new(CertReloader::load(files, metrics.clone()).unwrap());
    Served { dir, authority, reloader, metrics }
}

/// A client that trusts `authority` and shows `identity`.
pub(crate) fn client(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    }
}

pub(crate) async fn connect<S>(io: S, config: ClientConfig) -> io::Result<Client<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, io).await
}

/// Both sides of a connection over a pipe of `pipe_bytes`; the server's side goes through a [`Gate`].
pub(crate) async fn pair(
    served: &Served,
    config: ClientConfig,
    pipe_bytes: usize,
) -> (Client<DuplexStream>, TlsStream<Gate>, Arc<Controls>) {
    let (near, far) = duplex(pipe_bytes);
    let controls = Arc::new(Controls::default());
    let gate = Gate { inner: far, controls: Arc::clone(&controls) };
    let (client, server) = tokio::join!(connect(near, config), accept(gate, served.reloader.current(), Vec::new()));
    (client.unwrap(), server.unwrap(), controls)
}

/// What a [`Gate`] lets through.
pub(crate) struct Controls {
    /// Bytes that may still be read, and written.
    pub(crate) read: AtomicUsize,
    pub(crate) write: AtomicUsize,
    /// The most one read, and one write, comes to.
    pub(crate) step: AtomicUsize,
    /// Everything that was written.
    pub(crate) written: Mutex<Vec<u8>>,
}

impl Default for Controls {
    fn default() -> Self {
        let open = || AtomicUsize::new(usize::MAX);
        Self { read: open(), write: open(), step: open(), written: Mutex::default() }
    }
}

impl Controls {
    fn room(&self, which: &AtomicUsize, wanted: usize) -> usize {
        wanted.min(which.load(Ordering::Relaxed)).min(self.step.load(Ordering::Relaxed))
    }
}

/// A stream that reads and writes no more than it is told to. It wakes nobody: who tests with it polls again.
pub(crate) struct Gate {
    pub(crate) inner: DuplexStream,
    pub(crate) controls: Arc<Controls>,
}

impl AsyncRead for Gate {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut some = vec![0; this.controls.room(&this.controls.read, buf.remaining())];
        if some.is_empty() {
            return Poll::Pending;
        }
        let mut some = ReadBuf::new(&mut some);
        std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, &mut some))?;
        if this.controls.read.load(Ordering::Relaxed) != usize::MAX {
            this.controls.read.fetch_sub(some.filled().len(), Ordering::Relaxed);
        }
        buf.put_slice(some.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gate {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let room = this.controls.room(&this.controls.write, buf.len());
        if room == 0 {
            return Poll::Pending;
        }
        let written = std::task::ready!(Pin::new(&mut this.inner).poll_write(cx, &buf[..room]))?;
        if this.controls.write.load(Ordering::Relaxed) != usize::MAX {
            this.controls.write.fetch_sub(written, Ordering::Relaxed);
        }
        this.controls.written.lock().unwrap().extend_from_slice(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// A ClientHello for at most `version`, with these cipher suites, as one record.
pub(crate) fn client_hello(version: u16, suites: &[u16]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let extension = |id: u16, body: &[u8]| [&id.to_be_bytes()[..], &sized(body)].concat();
    let extensions = [
        extension(0x000a, &sized(&[0, 0x1d, 0, 0x17])),
        extension(0x000b, &[1, 0]),
        extension(0x000d, &sized(&[4, 3, 8, 4, 4, 1])),
    ]
    .concat();
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let body = [&version.to_be_bytes()[..], &[7; 32], &[0], &sized(&suites), &[1, 0], &sized(&extensions)].concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}
