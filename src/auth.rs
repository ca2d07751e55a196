//! The only birthplace of an identity: a verified token, or a certificate that TLS has accepted.
//!
//! jsonwebtoken checks signatures and nothing else; every other check is in `claims` and stricter than its defaults.
//! A token is taken apart, its claims are judged, its key is looked up among its issuer's, its signature is checked, and
//! only then is there an [`Identity`]. To a client all refusals are one; [`Why`] is for logs and metrics.

mod cache;
mod certificate;
mod claims;
mod config;
mod identity;
mod jwks;
mod keys;
pub mod signing;
mod why;

use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::watch;

use self::cache::{Cache, Fingerprint};
pub use self::certificate::Certified;
use self::claims::Parsed;
pub use self::config::{AuthConfig, AuthSetupError, IssuerConfig, TokenAlgorithm};
pub use self::identity::{AppIdentity, DeviceGlob, DeviceIdentity, Identity, Scope};
use self::jwks::{Issuer, Reason, Unavailable};
pub use self::keys::KeyRef;
pub use self::why::Why;

/// What a verified token says.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Who it speaks for.
    pub identity: Identity,
    /// Its `exp`, in Unix milliseconds. It is good until then and [`Authenticator::leeway_ms`] more.
    pub expires_at_ms: i64,
    /// Its `iat`, in Unix milliseconds.
    pub issued_at_ms: Option<i64>,
    /// The key it is signed with: when that is revoked, so is the token.
    pub key: KeyRef,
}

/// What was taken back although it would be good by itself: asked for each token, whether it was verified before or not.
pub trait Revoker: Send + Sync + 'static {
    /// Whether this token still counts.
    ///
    /// # Errors
    /// [`AuthError::Unauthorized`] with [`Why::Revoked`], or [`AuthError::Blocked`].
    fn judge(&self, verified: &Verified) -> Result<(), AuthError>;
}

/// Why a token was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// 401. What exactly failed is ours to know; the text is the same for all.
    #[error("the token was not accepted")]
    Unauthorized(Why),
    /// 403. The token is good, and its device is blocked.
    #[error("this device is blocked")]
    Blocked,
    /// 503 with `Retry-After`: the key that would decide cannot be had now.
    #[error("the issuer's keys cannot be read now: try again in {retry_after_s} s")]
    KeysUnavailable {
        /// Seconds until the next try makes sense; at least 1.
        retry_after_s: u64,
    },
}

impl AuthError {
    /// A word of a closed set for metrics and logs.
    pub const fn metric_label(&self) -> &'static str {
        match self {
            Self::Unauthorized(why) => why.label(),
            Self::Blocked => "blocked",
            Self::KeysUnavailable { .. } => "keys_unavailable",
        }
    }

    /// Whether the same token may be taken later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::KeysUnavailable { .. })
    }
}

impl From<Why> for AuthError {
    fn from(why: Why) -> Self {
        Self::Unauthorized(why)
    }
}

/// Judges tokens.
pub struct Authenticator {
    config: AuthConfig,
    issuers: Vec<Arc<Issuer>>,
    token_bytes: usize,
    cache: Cache,
    revocations: watch::Sender<u64>,
    revoker: OnceLock<Arc<dyn Revoker>>,
}

impl Authenticator {
    /// Checks the configuration and reads the key sets that are files. A URL is fetched by [`Self::spawn_refresh`], or
    /// when the first token needs it. `token_bytes` and `cache` are `limits.token_bytes` and `limits.token_cache`.
    ///
    /// # Errors
    /// [`AuthSetupError`], whose text names the key to change.
    pub fn new(config: AuthConfig, token_bytes: usize, cache: usize) -> Result<Self, AuthSetupError> {
        let revocations = watch::Sender::new(0);
        let issuers = config
            .checked_issuers()?
            .into_iter()
            .map(|issuer| Issuer::new(issuer, revocations.clone()).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let revoker = OnceLock::new();
        Ok(Self { config, issuers, token_bytes, cache: Cache::new(cache), revocations, revoker })
    }

    /// Has this one asked for every token that is good by itself. The first who is given stays.
    pub fn obey(&self, revoker: Arc<dyn Revoker>) {
        let _ = self.revoker.set(revoker);
    }

    /// Verifies a token at a time given in Unix milliseconds. May wait up to 5 s for an issuer's keys.
    ///
    /// # Errors
    /// [`AuthError::Unauthorized`] for a token that is not good, [`AuthError::Blocked`] for a good one of a blocked
    /// device, [`AuthError::KeysUnavailable`] for one that cannot be judged because its issuer's keys cannot be read.
    pub async fn verify(&self, token: &str, now_unix_ms: i64) -> Result<Verified, AuthError> {
        let verified = self.verify_by_itself(token, now_unix_ms).await?;
        self.revoker.get().map_or(Ok(()), |revoker| revoker.judge(&verified))?;
        Ok(verified)
    }

    async fn verify_by_itself(&self, token: &str, now_unix_ms: i64) -> Result<Verified, AuthError> {
        if token.len() > self.token_bytes {
            return Err(Why::TooLong.into());
        }
        let fingerprint = fingerprint(token);
        if let Some(known) = self.cached(&fingerprint, now_unix_ms)? {
            return Ok(known);
        }
        let parsed = Parsed::new(token)?;
        let named = parsed.issuer()?;
        let issuer = self.issuers.iter().find(|issuer| issuer.config.issuer == named).ok_or(Why::Issuer)?;
        if !issuer.config.algorithms.contains(&parsed.algorithm) {
            return Err(Why::Algorithm.into());
        }
        let judged = parsed.judge(&self.config, &issuer.config, now_unix_ms)?;
        let candidates = issuer
            .candidates(parsed.kid.as_deref(), parsed.algorithm)
            .await
            .map_err(|Unavailable { retry_after_s }| AuthError::KeysUnavailable { retry_after_s })??;
        let signer = candidates.into_iter().find(|key| key.verify(parsed.signed, parsed.signature).is_ok());
        let key = signer.ok_or(Why::Signature)?;
        if key.is_revoked() {
            return Err(Why::Revoked.into());
        }
        let verified = Verified {
            identity: judged.identity,
            expires_at_ms: judged.expires_at_ms,
            issued_at_ms: judged.issued_at_ms,
            key: key.issued_at(judged.issued_at_ms),
        };
        self.cache.put(fingerprint, verified.clone());
        Ok(verified)
    }

    /// A token verified before, if it is still good. One whose key is gone is judged anew: the key may have come back.
    fn cached(&self, fingerprint: &Fingerprint, now_unix_ms: i64) -> Result<Option<Verified>, Why> {
        let Some(known) = self.cache.get(fingerprint) else { return Ok(None) };
        let expired = now_unix_ms >= known.expires_at_ms.saturating_add(self.leeway_ms());
        if expired || known.key.is_revoked() {
            self.cache.remove(fingerprint);
        }
        match (expired, known.key.is_revoked()) {
            (true, _) => Err(Why::Expired),
            (false, true) => Ok(None),
            (false, false) => Ok(Some(known)),
        }
    }

    /// How much longer than to its `exp` a token is good: `auth.leeway_s` in milliseconds.
    pub fn leeway_ms(&self) -> i64 {
        i64::try_from(self.config.leeway_s).unwrap_or(i64::MAX).saturating_mul(1_000)
    }

    /// Starts to keep the keys fresh: files are read every 2 s, URLs fetched every 30 s. Ends when the handle is aborted.
    pub fn spawn_refresh(self: &Arc<Self>) -> tokio::task::JoinHandle<()> {
        let fresh: Vec<_> = self.issuers.iter().map(|issuer| Arc::clone(issuer).keep_fresh()).collect();
        tokio::spawn(async move {
            futures_util::future::join_all(fresh).await;
        })
    }

    /// Reads every key set again now, whatever the pace. Returns how many could not be read.
    pub async fn refresh_now(&self) -> usize {
        let readings = self.issuers.iter().map(|issuer| issuer.refresh(Reason::Asked));
        futures_util::future::join_all(readings).await.iter().filter(|reading| reading.is_err()).count()
    }

    /// Changes whenever keys were revoked: then ask the [`KeyRef`] of each open connection. The value counts.
    pub fn on_change(&self) -> watch::Receiver<u64> {
        self.revocations.subscribe()
    }

    /// Whether the keys of every issuer were read at least once.
    pub fn is_ready(&self) -> bool {
        self.issuers.iter().all(|issuer| issuer.has_keys())
    }

    /// Readings of key sets that failed, since the start.
    pub fn refresh_failures(&self) -> u64 {
        self.issuers.iter().map(|issuer| issuer.failures()).sum()
    }
}

fn fingerprint(token: &str) -> Fingerprint {
    let mut bytes = Fingerprint::default();
    bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod test_support {
    use super::keys::KeySet;
    use super::*;
    use crate::id::DeviceKey;

    /// Something to put into a cache.
    pub(super) fn verified() -> Verified {
        let key = signing::SigningKey::generate(TokenAlgorithm::ES256).unwrap();
        let set = KeySet::parse(key.jwks().as_bytes(), &"me".into(), &[TokenAlgorithm::ES256]).unwrap();
        Verified {
            identity: Identity::Device(DeviceIdentity::for_development(DeviceKey::new("t", "d").unwrap())),
            expires_at_ms: 0,
            issued_at_ms: None,
            key: set.candidates(None, TokenAlgorithm::ES256).unwrap().remove(0),
        }
    }
}
