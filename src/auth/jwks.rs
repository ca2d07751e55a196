//! Where an issuer's keys come from, and how they stay fresh.
//!
//! A set that cannot be read changes nothing: a key leaves only by a set that was read and does not have it.

mod fetch;
mod pace;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::{Mutex, watch};

use self::fetch::Fetcher;
use self::pace::Pace;
pub(super) use self::pace::Reason;
use super::config::{AuthSetupError, IssuerConfig};
use super::keys::{KeyRef, KeySet};
use super::why::Why;

/// Longest key set, in bytes.
const MAX_SET_BYTES: u64 = 1024 * 1024;
/// How often a file is read again.
const FILE_POLL: Duration = Duration::from_secs(2);
/// How often the pace is asked whether a URL is due.
const URL_POLL: Duration = Duration::from_secs(1);

enum Source {
    Url(Box<Fetcher>),
    File(PathBuf),
    Inline,
}

/// One issuer with its keys.
pub(super) struct Issuer {
    pub(super) config: IssuerConfig,
    name: Arc<str>,
    source: Source,
    keys: ArcSwapOption<KeySet>,
    /// Held while a set is read, so that one reading serves everybody who waits for it.
    pace: Mutex<Pace>,
    failures: AtomicU64,
    revocations: watch::Sender<u64>,
}

/// No key to check a token with, and no way to get it now.
pub(super) struct Unavailable {
    pub(super) retry_after_s: u64,
}

impl Issuer {
    /// Sets the source up. A file or an inline set is read now; a URL at the first token or by `keep_fresh`.
    pub(super) fn new(config: IssuerConfig, revocations: watch::Sender<u64>) -> Result<Self, AuthSetupError> {
        let source = if config.jwks.trim_start().starts_with('{') {
            Source::Inline
        } else if config.jwks.contains("://") {
            Source::Url(Box::new(Fetcher::new(&config.jwks)?))
        } else {
            Source::File(PathBuf::from(&config.jwks))
        };
        let issuer = Self {
            name: config.issuer.as_str().into(),
            keys: ArcSwapOption::empty(),
            pace: Mutex::new(Pace::default()),
            failures: AtomicU64::new(0),
            config,
            source,
            revocations,
        };
        issuer.read_at_start()?;
        Ok(issuer)
    }

    fn read_at_start(&self) -> Result<(), AuthSetupError> {
        let text = match &self.source {
            Source::Url(_) => return Ok(()),
            Source::Inline => self.config.jwks.clone().into_bytes(),
            Source::File(path) => {
                read_bounded(path).map_err(|reason| AuthSetupError::File { path: path.clone(), reason })?
            }
        };
        let issuer = self.config.issuer.clone();
        match self.take(&text) {
            Ok(0) => Err(AuthSetupError::NoUsableKey { issuer }),
            Ok(_) => Ok(()),
            Err(reason) => Err(AuthSetupError::Set { issuer, reason: place(&reason) }),
        }
    }

    /// Whether its keys were read at least once.
    pub(super) fn has_keys(&self) -> bool {
        self.keys.load().is_some()
    }

    /// Readings that failed.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn known(&self, kid: Option<&str>, algorithm: super::TokenAlgorithm) -> Result<Vec<KeyRef>, Why> {
        self.keys.load().as_ref().map_or(Err(Why::UnknownKey), |keys| keys.candidates(kid, algorithm))
    }

    /// The keys a token may be signed with; reads the set again where it does not have them and that is due.
    pub(super) async fn candidates(
        self: &Arc<Self>,
        kid: Option<&str>,
        algorithm: super::TokenAlgorithm,
    ) -> Result<Result<Vec<KeyRef>, Why>, Unavailable> {
        match self.known(kid, algorithm) {
            Err(Why::UnknownKey) if matches!(self.source, Source::Url(_)) => {}
            found => return Ok(found),
        }
        // In a task of its own: a client that hangs up must not take the reading that others wait for with it.
        let reader = Arc::clone(self);
        let reading = tokio::spawn(async move { reader.refresh(Reason::UnknownKey).await });
        let state = reading.await.unwrap_or(Err(Unavailable { retry_after_s: 1 }));
        match (self.known(kid, algorithm), state) {
            (Err(Why::UnknownKey), Err(unavailable)) => Err(unavailable),
            (found, _) => Ok(found),
        }
    }

    /// Reads the set again when that is due. An error says that the last reading failed, be it this one or one before.
    pub(super) async fn refresh(&self, reason: Reason) -> Result<(), Unavailable> {
        let mut pace = self.pace.lock().await;
        if pace.may_start(reason, Instant::now(), self.has_keys()) {
            match self.read_again().await {
                Ok(()) if pace.ended(true) => tracing::info!(issuer = %self.name, "the JWKS can be read again"),
                Ok(()) => {}
                Err(problem) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    if !pace.ended(false) {
                        tracing::warn!(issuer = %self.name, problem, "the JWKS cannot be read: the last keys stay");
                    }
                }
            }
        }
        match pace.retry_after_s(Instant::now(), self.has_keys()) {
            None => Ok(()),
            Some(retry_after_s) => Err(Unavailable { retry_after_s }),
        }
    }

    async fn read_again(&self) -> Result<(), String> {
        let text = match &self.source {
            Source::Inline => return Ok(()),
            Source::Url(fetcher) => fetcher.fetch().await?,
            Source::File(path) => {
                let path = path.clone();
                let reading = tokio::task::spawn_blocking(move || read_bounded(&path)).await;
                reading.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?
            }
        };
        self.take(&text).map(drop).map_err(|e| format!("not a JSON Web Key Set: {}", place(&e)))
    }

    /// Puts a set that was read in the place of the former one. Returns how many keys it has.
    fn take(&self, text: &[u8]) -> Result<usize, serde_json::Error> {
        let former = self.keys.load_full();
        if let Some(same) = former.as_ref().filter(|former| former.is_of(text)) {
            return Ok(same.len());
        }
        let mut keys = KeySet::parse(text, &self.name, &self.config.algorithms)?;
        let count = keys.len();
        let revoked = former.as_ref().is_some_and(|former| keys.succeed(former));
        if keys.is_empty() {
            tracing::error!(issuer = %self.name, "the JWKS has no usable key: no token of this issuer is accepted");
        }
        self.keys.store(Some(Arc::new(keys)));
        if revoked {
            self.revocations.send_modify(|generation| *generation += 1);
        }
        Ok(count)
    }

    /// Keeps the keys fresh for ever.
    pub(super) async fn keep_fresh(self: Arc<Self>) {
        let (reason, poll) = match self.source {
            Source::Inline => return,
            Source::File(_) => (Reason::Asked, FILE_POLL),
            Source::Url(_) => (Reason::Schedule, URL_POLL),
        };
        loop {
            // A failure is counted and logged where it happens.
            let _ = self.refresh(reason).await;
            tokio::time::sleep(poll).await;
        }
    }
}

/// Where a text is no key set, without quoting it: there may be a shared secret in it.
fn place(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "it needs an object with a list `keys`",
        _ => "it is no JSON",
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(MAX_SET_BYTES + 1).read_to_end(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_SET_BYTES {
        return Err(std::io::Error::other("longer than 1 MiB"));
    }
    Ok(text)
}
