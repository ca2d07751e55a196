//! Making keys and signing tokens: `tidegate keys new`, `tidegate token`, `tidegate dev`.

mod files;

use std::path::Path;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;
use serde_json::{Value, json};

pub use self::files::{GeneratedKeys, generate};
use super::claims::base64url;
use super::config::TokenAlgorithm;
use super::identity::DeviceGlob;
use super::keys::Jwk;
use crate::id::is_id;

/// Why a key or a token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// A file is there already.
    #[error("{0} is there already: keys are never overwritten; give another directory or move it away")]
    Exists(String),
    /// A file that cannot be read or written.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What the operating system said.
        reason: std::io::Error,
    },
    /// A text that holds no key.
    #[error(
        "no signing key in it: it must be an unencrypted PKCS#8 PEM (\"BEGIN PRIVATE KEY\") of P-256, Ed25519 or RSA of \
         2048 bits or more, or for HS256 a JWK with kty \"oct\" of 32 bytes or more"
    )]
    NotAKey,
    /// The cryptographic library refused.
    #[error("the cryptographic library could not {0}")]
    Crypto(&'static str),
    /// A value that no gateway would take.
    #[error("{0}")]
    Claim(String),
}

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// The device or application.
    pub sub: String,
    /// Its tenant; none leaves it to the gateway's default.
    pub tenant: Option<String>,
    /// `device`, `telemetry:read`, `commands:write`, `admin`.
    pub scopes: Vec<String>,
    /// Patterns an application's token narrows itself to; empty: the whole tenant.
    pub devices: Vec<String>,
    /// Lifetime, in seconds.
    pub ttl_s: u64,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
}

/// A key that signs tokens. Its `kid` is its thumbprint (RFC 7638), so a key file needs no companion.
pub struct SigningKey {
    algorithm: TokenAlgorithm,
    encoding: EncodingKey,
    kid: String,
    /// What verifies: public, but for HS256 the secret itself.
    jwk: Value,
    /// The form for a file.
    stored: String,
}

impl SigningKey {
    /// Draws a new key.
    ///
    /// # Errors
    /// [`SigningError::Crypto`] when there is no randomness.
    pub fn generate(algorithm: TokenAlgorithm) -> Result<Self, SigningError> {
        let failed = |_| SigningError::Crypto("make a key");
        let random = SystemRandom::new();
        let pkcs8 = match algorithm {
            TokenAlgorithm::ES256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                .map_err(failed)?
                .as_ref()
                .to_vec(),
            TokenAlgorithm::EdDSA => Ed25519KeyPair::generate_pkcs8v1(&random).map_err(failed)?.as_ref().to_vec(),
            TokenAlgorithm::RS256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
                AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).map_err(failed)?.as_ref().to_vec()
            }
            TokenAlgorithm::HS256 => {
                let mut secret = [0; 32];
                aws_lc_rs::rand::fill(&mut secret).map_err(failed)?;
                return Self::from_secret(&secret);
            }
        };
        Self::from_pem(&pem(&pkcs8))
    }

    /// Reads a key file: see [`Self::from_pem`].
    ///
    /// # Errors
    /// [`SigningError::File`] or [`SigningError::NotAKey`].
    pub fn from_pem_file(path: &Path) -> Result<Self, SigningError> {
        let text = std::fs::read_to_string(path)
            .map_err(|reason| SigningError::File { path: path.display().to_string(), reason })?;
        Self::from_pem(&text)
    }

    /// Reads a key: PKCS#8 PEM of P-256, Ed25519 or RSA; or, for HS256, a JWK.
    ///
    /// # Errors
    /// [`SigningError::NotAKey`].
    pub fn from_pem(text: &str) -> Result<Self, SigningError> {
        if text.trim_start().starts_with('{') {
            let jwk: Jwk = serde_json::from_str(text).map_err(|_| SigningError::NotAKey)?;
            let secret = jwk.k.as_deref().filter(|_| jwk.algorithm() == Some(TokenAlgorithm::HS256));
            return Self::from_secret(&secret.and_then(base64url).ok_or(SigningError::NotAKey)?);
        }
        let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| SigningError::NotAKey)?;
        let der = pkcs8.secret_pkcs8_der();
        let url = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            // Uncompressed: 4, then x and y of 32 bytes each.
            let point = pair.public_key().as_ref();
            let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else { return Err(SigningError::NotAKey) };
            let jwk = json!({"kty": "EC", "crv": "P-256", "x": url(x), "y": url(y)});
            return Self::new(TokenAlgorithm::ES256, EncodingKey::from_ec_der(der), jwk, text.to_owned());
        }
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": url(pair.public_key().as_ref())});
            return Self::new(TokenAlgorithm::EdDSA, EncodingKey::from_ed_der(der), jwk, text.to_owned());
        }
        let pair = RsaKeyPair::from_pkcs8(der).map_err(|_| SigningError::NotAKey)?;
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
        let jwk = json!({"kty": "RSA", "n": url(&public.n), "e": url(&public.e)});
        let encoding = EncodingKey::from_rsa_pem(text.as_bytes()).map_err(|_| SigningError::NotAKey)?;
        Self::new(TokenAlgorithm::RS256, encoding, jwk, text.to_owned())
    }

    fn from_secret(secret: &[u8]) -> Result<Self, SigningError> {
        if secret.len() < 32 {
            return Err(SigningError::NotAKey);
        }
        let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret)});
        let mut key = Self::new(TokenAlgorithm::HS256, EncodingKey::from_secret(secret), jwk, String::new())?;
        key.stored = format!("{:#}\n", key.jwk);
        Ok(key)
    }

    fn new(
        algorithm: TokenAlgorithm,
        encoding: EncodingKey,
        mut jwk: Value,
        stored: String,
    ) -> Result<Self, SigningError> {
        let kid = serde_json::from_value::<Jwk>(jwk.clone()).map_err(|_| SigningError::NotAKey)?.thumbprint();
        if let Some(members) = jwk.as_object_mut() {
            members.extend(
                [("kid", kid.as_str()), ("alg", algorithm.name()), ("use", "sig")]
                    .map(|(name, value)| (name.to_owned(), Value::from(value))),
            );
        }
        Ok(Self { algorithm, encoding, kid, jwk, stored })
    }

    /// What it signs with.
    pub const fn algorithm(&self) -> TokenAlgorithm {
        self.algorithm
    }

    /// Its thumbprint.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The JSON Web Key Set that verifies what it signs: to publish, except for HS256, whose set is the secret itself.
    pub fn jwks(&self) -> String {
        format!("{:#}\n", json!({"keys": [self.jwk]}))
    }

    /// Signs claims as they are, with `alg`, `typ: JWT` and `kid` in the header.
    ///
    /// # Errors
    /// [`SigningError::Crypto`] when the claims are no JSON or the key does not work.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, SigningError> {
        let algorithm = match self.algorithm {
            TokenAlgorithm::ES256 => Algorithm::ES256,
            TokenAlgorithm::RS256 => Algorithm::RS256,
            TokenAlgorithm::EdDSA => Algorithm::EdDSA,
            TokenAlgorithm::HS256 => Algorithm::HS256,
        };
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(algorithm) };
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(|_| SigningError::Crypto("sign the token"))
    }

    /// Signs a token that a gateway with default claim names takes, issued at a time given in Unix seconds.
    ///
    /// # Errors
    /// [`SigningError::Claim`] for what no gateway would take.
    pub fn sign_token(&self, request: &TokenRequest, now_unix_s: u64) -> Result<String, SigningError> {
        check(request)?;
        let mut claims = json!({
            "iss": request.issuer, "aud": request.audience, "sub": request.sub, "scope": request.scopes.join(" "),
            "iat": now_unix_s, "exp": now_unix_s.saturating_add(request.ttl_s),
        });
        if let Some(tenant) = &request.tenant {
            claims["tenant"] = json!(tenant);
        }
        if !request.devices.is_empty() {
            claims["devices"] = json!(request.devices);
        }
        self.sign(&claims)
    }
}

fn check(request: &TokenRequest) -> Result<(), SigningError> {
    let no_id = [Some(&request.sub), request.tenant.as_ref()].into_iter().flatten().find(|id| !is_id(id));
    if let Some(bad) = no_id {
        return Err(SigningError::Claim(format!("{bad:?} is no id: 1 to 128 of A-Z a-z 0-9 . _ -")));
    }
    let no_word = |scope: &&String| scope.is_empty() || !scope.bytes().all(|b| b.is_ascii_graphic());
    if let Some(bad) = request.scopes.iter().find(no_word) {
        return Err(SigningError::Claim(format!("{bad:?} is no scope: one word, such as device or telemetry:read")));
    }
    if let Some(bad) = request.devices.iter().find(|glob| DeviceGlob::new(glob).is_none()) {
        return Err(SigningError::Claim(format!(
            "{bad:?} is no pattern of device ids: 1 to 128 of A-Z a-z 0-9 . _ - * ?"
        )));
    }
    if request.ttl_s == 0 {
        return Err(SigningError::Claim("a token must live for at least a second".to_owned()));
    }
    Ok(())
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}
