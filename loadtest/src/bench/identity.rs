//! What the runs identify themselves with: a certificate for `localhost`, and devices' tokens signed here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{CertifiedKey, KeyPair};
use serde::Serialize;

use super::BenchError;
use crate::telemetry::device_id;

/// The tokens' issuer.
pub const ISSUER: &str = "tidegate-bench";
/// Their audience.
pub const AUDIENCE: &str = "tidegate";
const KEY_ID: &str = "bench-1";
const LIFETIME_S: u64 = 12 * 3600;

/// Files and keys of one run.
pub struct Identity {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The key set that verifies the tokens.
    pub jwks: PathBuf,
    /// A client's TLS configuration that trusts the certificate and resumes nothing.
    pub client: Arc<rustls::ClientConfig>,
    signing: EncodingKey,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    tenant: &'a str,
    scope: &'a str,
    iat: u64,
    exp: u64,
}

impl Identity {
    /// Makes everything new in `dir`.
    ///
    /// # Errors
    /// When a key cannot be made or a file not written.
    pub fn new(dir: &Path) -> Result<Arc<Self>, BenchError> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(names).map_err(BenchError::failed)?;
        let (certificate, key, jwks) = (dir.join("cert.pem"), dir.join("key.pem"), dir.join("jwks.json"));
        let write = |path: &Path, text: &str| {
            std::fs::write(path, text).map_err(BenchError::io(format!("writing {}", path.display())))
        };
        write(&certificate, &cert.pem())?;
        write(&key, &signing_key.serialize_pem())?;
        let pair = KeyPair::generate().map_err(BenchError::failed)?;
        write(&jwks, &key_set(pair.public_key_raw())?)?;
        let signing = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).map_err(BenchError::failed)?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cert.der().clone()).map_err(BenchError::failed)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(BenchError::failed)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(Self { certificate, key, jwks, client: Arc::new(client), signing }))
    }

    /// A token of the device with this number.
    ///
    /// # Errors
    /// When signing fails, in words.
    pub fn token(&self, number: u64) -> Result<String, String> {
        self.sign(&device_id(number), "device")
    }

    /// A token of an application that may command every device.
    ///
    /// # Errors
    /// When signing fails, in words.
    pub fn caller(&self) -> Result<String, String> {
        self.sign("bench-caller", "commands:write")
    }

    fn sign(&self, sub: &str, scope: &str) -> Result<String, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?.as_secs();
        let claims =
            Claims { iss: ISSUER, aud: AUDIENCE, sub, tenant: "bench", scope, iat: now, exp: now + LIFETIME_S };
        let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.signing).map_err(|error| error.to_string())
    }
}

/// The public key as a JWK set. `point` is the uncompressed P-256 point.
fn key_set(point: &[u8]) -> Result<String, BenchError> {
    let [0x04, coordinates @ ..] = point else { return Err(BenchError::failed("not an uncompressed P-256 point")) };
    let (x, y) = coordinates.split_at(coordinates.len() / 2);
    let key = serde_json::json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) });
    Ok(serde_json::json!({ "keys": [key] }).to_string())
}
