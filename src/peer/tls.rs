//! The certificates of peers: one for both directions, checked on both sides, following its files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, InconsistentKeys, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::PeerConfig;
use crate::socket::tls::{self, Reload, TlsFilesError, Watched};
use crate::telemetry::metrics::Metrics;

/// TLS between peers: 1.3 only, with certificates on both sides, each of an authority in `tls_ca` and carrying
/// `server_name`. A certificate that restricts its use must be for servers and for clients.
pub struct PeerTls {
    files: Files,
    name: ServerName<'static>,
    current: ArcSwap<Both>,
    watched: Watched,
    /// Where it is shown when the certificate expires.
    metrics: Option<Metrics>,
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

struct Both {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// When the certificate expires, Unix seconds.
    not_after: i64,
}

impl PeerTls {
    /// Loads the files; none where the configuration says plaintext.
    ///
    /// # Errors
    /// [`TlsFilesError`]: the node cannot have peers with them.
    pub fn load(config: &PeerConfig) -> Result<Option<Self>, TlsFilesError> {
        let Some((cert, key, ca)) = config.files() else { return Ok(None) };
        let files = Files { cert: cert.into(), key: key.into(), ca: ca.into() };
        let name = ServerName::try_from(config.server_name.clone()).map_err(|error| unusable(&files.cert, error))?;
        let contents = Contents::read(&files)?;
        let both = contents.load(&files, &name)?;
        let watched = Watched::new("the certificate for peers", &contents);
        Ok(Some(Self { current: ArcSwap::from_pointee(both), files, name, watched, metrics: None }))
    }

    /// The same, and shows in `tidegate_peer_certificate_expiry_timestamp_seconds` when its certificate expires.
    #[must_use]
    pub fn shown_in(self, metrics: &Metrics) -> Self {
        metrics.peer_certificate_expiry.set(self.current.load().not_after);
        Self { metrics: Some(metrics.clone()), ..self }
    }

    /// What a connection to here that begins now is answered with.
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().server)
    }

    /// What a connection from here is made with, and the name it must find.
    pub(super) fn client(&self) -> (Arc<ClientConfig>, ServerName<'static>) {
        (Arc::clone(&self.current.load().client), self.name.clone())
    }

    /// Looks at the files and takes what is new and usable, for connections made from then on. Reads files: not for a
    /// runtime's worker.
    pub fn look(&self) -> Reload {
        self.watched.look(Contents::read(&self.files), |contents| {
            let both = contents.load(&self.files, &self.name)?;
            if let Some(metrics) = &self.metrics {
                metrics.peer_certificate_expiry.set(both.not_after);
            }
            self.current.store(Arc::new(both));
            Ok(())
        })
    }

    /// Looks every five seconds, for as long as it is polled.
    pub async fn watch(self: Arc<Self>) {
        tls::watch(move || self.look()).await;
    }
}

/// The files' contents at one moment.
#[derive(Hash)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl Contents {
    fn read(files: &Files) -> Result<Self, TlsFilesError> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|error| TlsFilesError::Read { path: path.to_owned(), error });
        Ok(Self { cert: read(&files.cert)?, key: read(&files.key)?, ca: read(&files.ca)? })
    }

    fn load(&self, files: &Files, name: &ServerName<'static>) -> Result<Both, TlsFilesError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(&self.cert, &files.cert)?;
        let first = chain.first().and_then(|cert| ParsedCertificate::try_from(cert).ok());
        if first.is_none_or(|cert| verify_server_name(&cert, name).is_err()) {
            return Err(unusable(&files.cert, format!("it does not carry the name `{}`", name.to_str())));
        }
        let not_after = chain.first().and_then(tls::not_after).unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| TlsFilesError::Pem {
            path: files.key.clone(),
            what: "private key",
            error,
        })?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&self.ca, &files.ca)? {
            roots.add(root).map_err(|error| unusable(&files.ca, error))?;
        }
        let roots = Arc::new(roots);
        let server = server(files, name, &provider, &roots, chain.clone(), key.clone_key())?;
        let client = client(files, provider, roots, chain, key)?;
        Ok(Both { server: Arc::new(server), client: Arc::new(client), not_after })
    }
}

fn server(
    files: &Files,
    name: &ServerName<'static>,
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsFilesError> {
    let chains = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .build()
        .map_err(|error| unusable(&files.ca, error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unusable(&files.cert, error))?
        .with_client_cert_verifier(Arc::new(Named { chains, name: name.clone() }))
        .with_single_cert(chain, key)
        .map_err(|error| unusable_key(files, error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would be let in by a certificate that has expired since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client(
    files: &Files,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, TlsFilesError> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unusable(&files.cert, error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| unusable_key(files, error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Takes clients whose certificate is of a known authority and carries the peers' name: an authority may sign others too.
#[derive(Debug)]
struct Named {
    chains: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chains.verify_client_cert(own, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(own)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let failed = |error| TlsFilesError::Pem { path: path.to_owned(), what: "certificate", error };
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if found.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn unusable(path: &Path, why: impl ToString) -> TlsFilesError {
    TlsFilesError::Unusable { path: path.to_owned(), why: why.to_string() }
}

fn unusable_key(files: &Files, error: rustls::Error) -> TlsFilesError {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsFilesError::Mismatch { cert: files.cert.clone(), key: files.key.clone() }
        }
        error => unusable(&files.key, error),
    }
}
