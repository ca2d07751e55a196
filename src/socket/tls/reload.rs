//! The certificate that is served follows its files.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use super::settings::{Contents, Loaded, TlsFiles, TlsFilesError};
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

/// What new handshakes are answered with.
pub struct CertReloader {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
    /// What the files held when they were last looked at; none where they could not be read.
    seen: Mutex<Option<u64>>,
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
        let seen = Mutex::new(Some(contents.fingerprint()));
        Ok(Self { current: ArcSwap::new(loaded.config), files, seen, metrics })
    }

    /// What a handshake that begins now is answered with.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Looks at the files and takes what is new and usable. Reads files: not for a runtime's worker. Logs once for each
    /// change.
    pub fn look(&self) -> Reload {
        let contents = Contents::read(&self.files);
        let fingerprint = contents.as_ref().ok().map(Contents::fingerprint);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == fingerprint {
            return Reload::Unchanged;
        }
        *seen = fingerprint;
        match contents.and_then(|contents| contents.load(&self.files)) {
            Ok(Loaded { config, not_after }) => {
                self.current.store(config);
                self.metrics.certificate_expiry.set(not_after);
                tracing::info!(expires_unix_s = not_after, "the certificate was replaced; new connections use it");
                Reload::Loaded
            }
            Err(error) => {
                tracing::error!(%error, "the new certificate cannot be used; the one before is served on");
                Reload::Kept
            }
        }
    }

    /// Looks every five seconds, for as long as it is polled.
    pub async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let this = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.look()).await {
                tracing::error!(%error, "the certificate's files could not be looked at");
            }
        }
    }
}
