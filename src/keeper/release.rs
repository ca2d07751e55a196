//! Removing the rows of connections that ended.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::Keeper;
use crate::registrar::Release;

/// Rows removed at once.
const AT_ONCE: usize = 64;
/// How long it is waited before those that failed are tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

impl Keeper {
    /// Makes the releases as connections end.
    pub(super) async fn make_releases(self: Arc<Self>) {
        loop {
            let some = self.parts.registrar.due_releases(AT_ONCE).await;
            let done = join_all(some.into_iter().map(|release| self.make_release(release))).await;
            let failed = done.iter().any(Option::is_some);
            done.into_iter().for_each(|again| self.parts.registrar.released(again));
            if failed {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }

    /// Gives it back where it has to be tried again.
    async fn make_release(&self, mut release: Release) -> Option<Release> {
        let (registrar, last) = (&self.parts.registrar, release.last.as_ref());
        let ownership = registrar.directory().ownership();
        let result = ownership.release(&release.life, &release.device, release.fence, last).await;
        // Also where nobody could say: that the device is gone is true, and its epoch says of which connection.
        if !matches!(result, Ok(false)) {
            release.offline.take().into_iter().for_each(|offline| registrar.presence().note(offline));
        }
        match result {
            Ok(_) => None,
            Err(error) if error.is_retryable() => Some(release),
            Err(error) => {
                tracing::error!(device = %release.device, %error, "a row stays although its connection ended");
                None
            }
        }
    }
}
