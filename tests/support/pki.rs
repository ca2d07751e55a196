//! Somebody who signs certificates, and what they sign.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use time::OffsetDateTime;

/// An authority.
pub struct Authority {
    /// Its own certificate, PEM.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate says.
#[derive(Clone, Copy)]
pub struct Leaf<'a> {
    /// Names and addresses of a server.
    pub names: &'a [&'a str],
    /// `CN`.
    pub common_name: &'a str,
    /// `O`.
    pub organization: Option<&'a str>,
    /// When it ends.
    pub until: OffsetDateTime,
}

impl Default for Leaf<'_> {
    fn default() -> Self {
        Self {
            names: &["localhost", "127.0.0.1"],
            common_name: "localhost",
            organization: None,
            until: date_time_ymd(2090, 1, 1),
        }
    }
}

/// A certificate and its key, PEM.
pub struct Signed {
    /// The certificate.
    pub cert: String,
    /// Its key, PKCS#8.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("the authority signs itself").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Signs a certificate with a key of its own.
    pub fn sign(&self, leaf: Leaf<'_>) -> Signed {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = leaf.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.use_authority_key_identifier_extension = true;
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = leaf.until;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, leaf.common_name);
        if let Some(organization) = leaf.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        let cert = params.signed_by(&key, &self.issuer).expect("the authority signs");
        Signed { cert: cert.pem(), key: key.serialize_pem() }
    }
}

/// A client that trusts the authority of a PEM text and shows a certificate, where it is given one.
pub fn client(ca_pem: &str, shown: Option<&Signed>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("PEM")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.expect("versions").with_root_certificates(roots);
    Arc::new(match shown {
        Some(signed) => builder.with_client_auth_cert(signed.chain(), signed.key()).expect("a key of its own"),
        None => builder.with_no_client_auth(),
    })
}

impl Signed {
    /// Writes `NAME.pem` and `NAME-key.pem`.
    pub fn write(&self, dir: &Path, name: &str) {
        std::fs::write(dir.join(format!("{name}.pem")), &self.cert).expect("written");
        std::fs::write(dir.join(format!("{name}-key.pem")), &self.key).expect("written");
    }

    /// A server that shows it and asks nobody who they are.
    pub fn server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = versions.expect("versions").with_no_client_auth();
        Arc::new(builder.with_single_cert(self.chain(), self.key()).expect("a key of its own"))
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("PEM")]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM")
    }
}
