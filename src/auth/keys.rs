//! The keys of an issuer: read from a JSON Web Key Set, each for exactly one algorithm.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::claims::{MAX_KID_BYTES, base64url};
use super::config::TokenAlgorithm;
use super::why::Why;

/// Shortest RSA modulus, in bytes.
const MIN_RSA_BYTES: usize = 256;
/// Longest RSA modulus, in bytes: a longer one costs a signature check too much.
const MAX_RSA_BYTES: usize = 1_024;
/// Shortest secret of HS256, in bytes (RFC 7518, 3.2).
const MIN_SECRET_BYTES: usize = 32;
/// Keys read from one set; the rest are skipped.
const MAX_KEYS: usize = 1_000;

/// One key, as long as somebody's token hangs on it.
struct Key {
    issuer: Arc<str>,
    kid: Option<Box<str>>,
    algorithm: TokenAlgorithm,
    thumbprint: String,
    decoding: DecodingKey,
    revoked: AtomicBool,
}

/// The key a token was verified with and when that token was issued: a cheap handle to ask later whether it still counts.
#[derive(Clone)]
pub struct KeyRef {
    key: Arc<Key>,
    /// `iat` in Unix seconds; 0 where the token has none.
    issued_s: u32,
}

impl KeyRef {
    /// Whether a later reading of the issuer's set no longer had this key. Never becomes false again.
    pub fn is_revoked(&self) -> bool {
        self.key.revoked.load(Ordering::Acquire)
    }

    /// The key's `kid`, where its set gives one.
    pub fn kid(&self) -> Option<&str> {
        self.key.kid.as_deref()
    }

    /// Whose key it is: the `iss` of the tokens it signs.
    pub fn issuer(&self) -> &str {
        &self.key.issuer
    }

    /// When the token was issued, Unix milliseconds; 0 where it does not say.
    pub fn issued_at_ms(&self) -> i64 {
        i64::from(self.issued_s) * 1_000
    }

    /// The same key, of a token issued at this moment.
    pub(super) fn issued_at(self, issued_at_ms: Option<i64>) -> Self {
        let issued_s = u32::try_from(issued_at_ms.unwrap_or_default() / 1_000).unwrap_or(u32::MAX);
        Self { issued_s, ..self }
    }

    /// Checks a signature in base64url over the bytes it was made of.
    pub(super) fn verify(&self, signed: &str, signature: &str) -> Result<(), Why> {
        let algorithm = match self.key.algorithm {
            TokenAlgorithm::ES256 => Algorithm::ES256,
            TokenAlgorithm::RS256 => Algorithm::RS256,
            TokenAlgorithm::EdDSA => Algorithm::EdDSA,
            TokenAlgorithm::HS256 => Algorithm::HS256,
        };
        match jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &self.key.decoding, algorithm) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Why::Signature),
        }
    }

    fn is_same_as(&self, other: &Self) -> bool {
        (&self.key.kid, &self.key.thumbprint) == (&other.key.kid, &other.key.thumbprint)
    }
}

impl fmt::Debug for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key { issuer, kid, algorithm, .. } = self.key.as_ref();
        f.debug_struct("KeyRef").field("issuer", issuer).field("kid", kid).field("algorithm", algorithm).finish()
    }
}

/// The usable keys of one issuer.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<KeyRef>,
    /// SHA-256 of the text they were read from.
    text: Vec<u8>,
}

impl KeySet {
    /// Reads a set. A key that is of no use here is skipped with a log line; a text that is no set is an error.
    pub(super) fn parse(text: &[u8], issuer: &Arc<str>, allowed: &[TokenAlgorithm]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Raw {
            keys: Vec<Value>,
        }
        let raw: Raw = serde_json::from_slice(text)?;
        let mut keys = Vec::new();
        for (at, value) in raw.keys.into_iter().enumerate().take(MAX_KEYS) {
            match read_key(value, issuer, allowed) {
                Ok(key) => keys.push(key),
                Err(reason) => tracing::warn!(issuer = %issuer, at, reason, "key of a JWKS skipped"),
            }
        }
        Ok(Self { keys, text: digest(&SHA256, text).as_ref().to_vec() })
    }

    /// Whether these are the keys of exactly this text.
    pub(super) fn is_of(&self, text: &[u8]) -> bool {
        self.text == digest(&SHA256, text).as_ref()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Takes over the handles of keys that were in the former set, so that tokens verified with them stay verified, and
    /// marks the former keys that are gone. True when there are such.
    pub(super) fn succeed(&mut self, former: &Self) -> bool {
        for key in &mut self.keys {
            if let Some(same) = former.keys.iter().find(|old| old.is_same_as(key) && !old.is_revoked()) {
                *key = same.clone();
            }
        }
        let mut any = false;
        for old in former.keys.iter().filter(|old| !self.keys.iter().any(|key| Arc::ptr_eq(&key.key, &old.key))) {
            old.key.revoked.store(true, Ordering::Release);
            tracing::info!(
                issuer = old.issuer(),
                kid = old.kid(),
                "a key is gone from its JWKS: its tokens are revoked"
            );
            any = true;
        }
        any
    }

    /// The keys a token may have been signed with: those of its `kid`, or without one the only one that fits.
    ///
    /// # Errors
    /// [`Why::UnknownKey`] when there is none, [`Why::KeyId`] when it could be several and the token does not say.
    pub(super) fn candidates(&self, kid: Option<&str>, algorithm: TokenAlgorithm) -> Result<Vec<KeyRef>, Why> {
        let fits = |key: &&KeyRef| key.key.algorithm == algorithm && (kid.is_none() || key.kid() == kid);
        let found: Vec<_> = self.keys.iter().filter(fits).cloned().collect();
        match found.len() {
            0 => Err(Why::UnknownKey),
            1 => Ok(found),
            _ if kid.is_none() => Err(Why::KeyId),
            _ => Ok(found),
        }
    }
}

/// The members of a JWK (RFC 7517, 7518, 8037) that matter here.
#[derive(Deserialize)]
pub(super) struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    pub(super) k: Option<String>,
    d: Option<String>,
}

impl Jwk {
    /// The algorithm that this kind of key is for.
    pub(super) fn algorithm(&self) -> Option<TokenAlgorithm> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("EC", Some("P-256")) => Some(TokenAlgorithm::ES256),
            ("OKP", Some("Ed25519")) => Some(TokenAlgorithm::EdDSA),
            ("RSA", _) => Some(TokenAlgorithm::RS256),
            ("oct", _) => Some(TokenAlgorithm::HS256),
            _ => None,
        }
    }

    fn decoding(&self, algorithm: TokenAlgorithm) -> Option<DecodingKey> {
        let sized = |text: &str, sizes: std::ops::RangeInclusive<usize>| {
            base64url(text).filter(|bytes| sizes.contains(&bytes.len()))
        };
        match algorithm {
            TokenAlgorithm::ES256 => {
                let (x, y) = (self.x.as_deref()?, self.y.as_deref()?);
                sized(x, 32..=32).and(sized(y, 32..=32))?;
                DecodingKey::from_ec_components(x, y).ok()
            }
            TokenAlgorithm::EdDSA => Some(DecodingKey::from_ed_der(&sized(self.x.as_deref()?, 32..=32)?)),
            TokenAlgorithm::RS256 => {
                let exponent = sized(self.e.as_deref()?, 1..=8)?;
                let modulus = sized(self.n.as_deref()?, MIN_RSA_BYTES..=MAX_RSA_BYTES)?;
                Some(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
            }
            TokenAlgorithm::HS256 => {
                Some(DecodingKey::from_secret(&sized(self.k.as_deref()?, MIN_SECRET_BYTES..=MAX_RSA_BYTES)?))
            }
        }
    }

    /// The thumbprint of RFC 7638: SHA-256 over the members that make the key, in base64url.
    pub(super) fn thumbprint(&self) -> String {
        let members: [(&str, Option<&str>); 4] = match self.kty.as_str() {
            "EC" => {
                [("crv", self.crv.as_deref()), ("kty", Some("EC")), ("x", self.x.as_deref()), ("y", self.y.as_deref())]
            }
            "RSA" => [("e", self.e.as_deref()), ("kty", Some("RSA")), ("n", self.n.as_deref()), ("", None)],
            "oct" => [("k", self.k.as_deref()), ("kty", Some("oct")), ("", None), ("", None)],
            kty => [("crv", self.crv.as_deref()), ("kty", Some(kty)), ("x", self.x.as_deref()), ("", None)],
        };
        let pairs: Vec<String> = members
            .into_iter()
            .filter_map(|(name, value)| Some(format!("\"{name}\":{}", Value::from(value?))))
            .collect();
        URL_SAFE_NO_PAD.encode(digest(&SHA256, format!("{{{}}}", pairs.join(",")).as_bytes()))
    }
}

fn read_key(value: Value, issuer: &Arc<str>, allowed: &[TokenAlgorithm]) -> Result<KeyRef, &'static str> {
    let jwk = serde_json::from_value::<Jwk>(value).map_err(|_| "not a JWK")?;
    let algorithm = jwk.algorithm().ok_or("of a kind that is not supported")?;
    if !allowed.contains(&algorithm) {
        return Err("its algorithm is not one of the issuer's algorithms");
    }
    if jwk.alg.as_deref().is_some_and(|alg| alg != algorithm.name()) {
        return Err("its alg does not fit its kty, or is not supported");
    }
    if jwk.usage.as_deref().is_some_and(|usage| usage != "sig")
        || jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify"))
    {
        return Err("not meant for signatures");
    }
    if jwk.d.is_some() {
        return Err("a private key in a public set: whoever can read the set can sign, so replace it");
    }
    if jwk.kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > MAX_KID_BYTES) {
        return Err("its kid is not 1 to 256 bytes");
    }
    let decoding = jwk.decoding(algorithm).ok_or("members missing, malformed, too short or too long")?;
    Ok(KeyRef {
        issued_s: 0,
        key: Arc::new(Key {
            issuer: Arc::clone(issuer),
            thumbprint: jwk.thumbprint(),
            kid: jwk.kid.map(Into::into),
            algorithm,
            decoding,
            revoked: AtomicBool::new(false),
        }),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const ALL: [TokenAlgorithm; 4] =
        [TokenAlgorithm::ES256, TokenAlgorithm::RS256, TokenAlgorithm::EdDSA, TokenAlgorithm::HS256];
    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    fn parse(keys: &str, allowed: &[TokenAlgorithm]) -> KeySet {
        KeySet::parse(format!("{{\"keys\":[{keys}]}}").as_bytes(), &"me".into(), allowed).unwrap()
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3ok\
                 njhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6q\
                 MQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJ\
                 zKnqDKgw";
        let jwk: Jwk = serde_json::from_value(serde_json::json!({"kty": "RSA", "n": n, "e": "AQAB"})).unwrap();
        assert_eq!(jwk.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn a_key_of_no_use_is_skipped_and_the_rest_is_used() {
        let set = parse(
            &format!(
                r#"7, {{"kty":"EC","crv":"P-521"}}, {{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}},
                {{"kty":"EC","crv":"P-256","x":"{X}","y":"{Y}","use":"enc"}}, {{"kty":"EC","crv":"P-256","x":"{X}","y":"{Y}","alg":"HS256"}},
                {{"kty":"EC","crv":"P-256","x":"{X}","y":"{Y}","d":"{X}"}}, {{"kty":"oct","k":"c2hvcnQ"}},
                {{"kty":"EC","crv":"P-256","x":"{X}","y":"{Y}","kid":"good","use":"sig","alg":"ES256"}}"#
            ),
            &ALL,
        );
        assert_eq!(set.len(), 1);
        assert_eq!(set.candidates(Some("good"), TokenAlgorithm::ES256).unwrap().len(), 1);
        assert_eq!(set.candidates(None, TokenAlgorithm::ES256).unwrap().len(), 1);
        assert_eq!(set.candidates(Some("good"), TokenAlgorithm::HS256).unwrap_err(), Why::UnknownKey);
        assert_eq!(set.candidates(Some("other"), TokenAlgorithm::ES256).unwrap_err(), Why::UnknownKey);
    }

    #[test]
    fn a_shared_secret_counts_only_where_it_is_allowed() {
        let secret = format!(r#"{{"kty":"oct","k":"{X}"}}"#);
        assert!(parse(&secret, &[TokenAlgorithm::ES256]).is_empty());
        assert_eq!(parse(&secret, &ALL).len(), 1);
    }

    #[test]
    fn a_key_that_stays_keeps_its_handle_and_one_that_goes_is_revoked() {
        let key = |kid: &str| format!(r#"{{"kty":"EC","crv":"P-256","x":"{X}","y":"{Y}","kid":"{kid}"}}"#);
        let first = parse(&format!("{},{}", key("a"), key("b")), &ALL);
        let handle = |set: &KeySet, kid| set.candidates(Some(kid), TokenAlgorithm::ES256).unwrap().remove(0);
        let (a, b) = (handle(&first, "a"), handle(&first, "b"));
        let mut second = parse(&key("b"), &ALL);
        assert!(second.succeed(&first));
        assert!(a.is_revoked() && !b.is_revoked());
        let mut third = parse(&format!("{},{}", key("b"), key("a")), &ALL);
        assert!(!third.succeed(&second));
        assert!(a.is_revoked() && !handle(&third, "a").is_revoked(), "a key that comes back is a new one");
    }
}
