//! TLS for the public port: which versions and suites, and the certificate, read again when its files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How often the files are looked at. Looked at rather than watched: a mounted secret changes by a link being swapped.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What TLS is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The authorities of device certificates, PEM. `None`: none is asked for.
    pub client_ca: Option<PathBuf>,
    /// The largest record sent, in bytes.
    pub record_bytes: usize,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of its kind.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What the files hold does not go together, as a key of another certificate.
    #[error("certificate and key cannot be served: {0}")]
    Unusable(String),
}

/// The contents of the files, to see whether they changed.
#[derive(PartialEq, Eq)]
struct Contents([Vec<u8>; 3]);

/// Serves TLS with the newest certificate that was usable.
pub struct Tls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub fn new(files: TlsFiles) -> Result<Self, TlsError> {
        let config = build(&files)?;
        Ok(Self { files, config: ArcSwap::from(config) })
    }

    /// The server's side of a handshake. The certificate is the newest one; open connections keep theirs.
    ///
    /// # Errors
    /// What the client did wrong, or the transport's end; the alert has been sent.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config.load_full()).accept(stream).await
    }

    /// Looks at the files every few seconds, for ever. A certificate that cannot be used changes nothing but the log.
    pub async fn keep_fresh(&self) {
        let mut known = self.contents();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.contents();
            if now == known {
                continue;
            }
            known = now;
            match self.reload() {
                Ok(()) => tracing::info!(cert = %self.files.cert.display(), "a new certificate is served"),
                Err(error) => {
                    tracing::error!(%error, "the changed certificate cannot be used: the old one is served on")
                }
            }
        }
    }

    /// Reads the files again now.
    ///
    /// # Errors
    /// [`TlsError`]; the old certificate is served on.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.config.store(build(&self.files)?);
        Ok(())
    }

    fn contents(&self) -> Contents {
        let read = |path: Option<&Path>| path.and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        let TlsFiles { cert, key, client_ca, .. } = &self.files;
        Contents([read(Some(cert)), read(Some(key)), read(client_ca.as_deref())])
    }
}

fn build(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unreadable(&files.key, error))?;
    let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| unreadable(path, error))?;
            }
            // A device may still come with a token instead of a certificate.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(|error| unreadable(path, error))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.max_fragment_size = Some(files.record_bytes);
    // With ECDSA certificates a resumed handshake costs as much as a new one, and tickets cost memory and bytes.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(chain) if chain.is_empty() => Err(unreadable(path, "there is no certificate in it")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(unreadable(path, error)),
    }
}

fn unreadable(path: &Path, reason: impl ToString) -> TlsError {
    TlsError::File { path: path.into(), reason: reason.to_string() }
}
