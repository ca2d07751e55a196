//! From PEM files to what rustls serves with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// What TLS is served with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first, PEM.
    pub cert: PathBuf,
    /// Its key, PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
    /// The authorities of clients' certificates, PEM. A client without a certificate is let through: it may have a
    /// token. None: no certificate is asked for.
    pub client_ca: Option<PathBuf>,
    /// The largest record sent, in bytes, its header included.
    pub record_bytes: usize,
}

/// Why files cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// One cannot be read.
    #[error("`{}` cannot be read: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// One is no PEM file, or has in it nothing of what it is for.
    #[error("`{}` holds no {what} in PEM: {error}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why it does not.
        error: pem::Error,
    },
    /// The key is another certificate's.
    #[error("the key in `{}` does not belong to the first certificate in `{}`", key.display(), cert.display())]
    Mismatch {
        /// The certificates.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// rustls does not take them.
    #[error("`{}` cannot be served with: {why}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// The files' contents at one moment.
#[derive(Hash)]
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What contents come to.
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    /// When the certificate expires, Unix seconds.
    pub(super) not_after: i64,
}

impl Contents {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsFilesError> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|error| TlsFilesError::Read { path: path.to_owned(), error });
        Ok(Self {
            cert: read(&files.cert)?,
            key: read(&files.key)?,
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    pub(super) fn load(&self, files: &TlsFiles) -> Result<Loaded, TlsFilesError> {
        let chain = certificates(&self.cert, &files.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| TlsFilesError::Pem {
            path: files.key.clone(),
            what: "private key",
            error,
        })?;
        let not_after = chain.first().and_then(|cert| not_after(cert)).ok_or_else(|| TlsFilesError::Unusable {
            path: files.cert.clone(),
            why: "its first certificate is none".into(),
        })?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let unusable = |path: &Path, why: String| TlsFilesError::Unusable { path: path.to_owned(), why };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| unusable(&files.cert, error.to_string()))?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(pem), Some(path)) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(pem, path)? {
                    roots.add(root).map_err(|error| unusable(path, error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| unusable(path, error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsFilesError::Mismatch { cert: files.cert.clone(), key: files.key.clone() }
            }
            error => unusable(&files.key, error.to_string()),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.max_fragment_size = Some(files.record_bytes);
        // With ECDSA and Ed25519 certificates resuming a session saves no time, so none is remembered and no ticket sent.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Loaded { config: Arc::new(config), not_after })
    }
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let failed = |error| TlsFilesError::Pem { path: path.to_owned(), what: "certificate", error };
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if found.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(found) }
}

/// When a certificate expires, Unix seconds; nothing where it is none.
pub fn not_after(cert: &CertificateDer<'_>) -> Option<i64> {
    let (_, cert) = x509_parser::parse_x509_certificate(cert).ok()?;
    Some(cert.validity().not_after.timestamp())
}
