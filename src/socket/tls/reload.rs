//! Certificates follow their files.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use super::settings::{Contents, Loaded, TlsFiles, TlsFilesError};
use crate::sync::lock;
use crate::telemetry::metrics::Metrics;

/// How often the files are looked at. By content, not by time of change: Kubernetes swaps a link above them.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a look at the files came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// They are as they were.
    Unchanged,
    /// New handshakes use what they hold now.
    Loaded,
    /// They hold nothing usable; what was served before is served on.
    Kept,
}

/// Files that hold a certificate, as they were when they were last looked at.
pub struct Watched {
    /// For people.
    name: &'static str,
    /// What tells their contents from others; none where they could not be read.
    seen: Mutex<Option<u64>>,
}

impl Watched {
    /// Files whose contents were read and are in use.
    pub fn new(name: &'static str, contents: &impl Hash) -> Self {
        Self { name, seen: Mutex::new(Some(fingerprint(contents))) }
    }

    /// Has what is new taken by `take`. Logs once for each change.
    pub fn look<C: Hash>(
        &self,
        contents: Result<C, TlsFilesError>,
        take: impl FnOnce(C) -> Result<(), TlsFilesError>,
    ) -> Reload {
        let found = contents.as_ref().ok().map(fingerprint);
        // Held while it is taken: of two looks at once the later one counts.
        let mut seen = lock(&self.seen);
        if *seen == found {
            return Reload::Unchanged;
        }
        *seen = found;
        match contents.and_then(take) {
            Ok(()) => {
                tracing::info!("{} was replaced; new connections use it", self.name);
                Reload::Loaded
            }
            Err(error) => {
                tracing::error!(%error, "{} cannot be replaced; the one before is used on", self.name);
                Reload::Kept
            }
        }
    }
}

fn fingerprint(contents: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    hasher.finish()
}

/// Has `look` called every five seconds where it may read files, for as long as it is polled.
pub async fn watch(look: impl Fn() -> Reload + Send + Sync + 'static) {
    let look = Arc::new(look);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let look = Arc::clone(&look);
        if let Err(error) = tokio::task::spawn_blocking(move || look()).await {
            tracing::error!(%error, "a certificate's files could not be looked at");
        }
    }
}

/// What new handshakes are answered with.
pub struct CertReloader {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
    watched: Watched,
    metrics: Metrics,
}

impl CertReloader {
    /// Loads the files and sets `tidegate_certificate_expiry_timestamp_seconds`.
    ///
    /// # Errors
    /// [`TlsFilesError`]: nothing can be served with them.
    pub fn load(files: TlsFiles, metrics: Metrics) -> Result<Self, TlsFilesError> {
        let contents = Contents::read(&files)?;
        let loaded = contents.load(&files)?;
        metrics.certificate_expiry.set(loaded.not_after);
        let watched = Watched::new("the certificate", &contents);
        Ok(Self { current: ArcSwap::new(loaded.config), files, watched, metrics })
    }

    /// What a handshake that begins now is answered with.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Looks at the files and takes what is new and usable. Reads files: not for a runtime's worker.
    pub fn look(&self) -> Reload {
        self.watched.look(Contents::read(&self.files), |contents| {
            let Loaded { config, not_after } = contents.load(&self.files)?;
            self.current.store(config);
            self.metrics.certificate_expiry.set(not_after);
            Ok(())
        })
    }

    /// Looks every five seconds, for as long as it is polled.
    pub async fn watch(self: Arc<Self>) {
        watch(move || self.look()).await;
    }
}
