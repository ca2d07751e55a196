//! One at a time for each device, and nothing kept for those nobody is busy with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::OwnedMutexGuard;

use crate::id::DeviceKey;
use crate::sync::lock;

/// Whose turn it is with each device.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<DeviceKey, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the device's turn; it lasts until the result is dropped.
    pub(super) async fn take(&self, device: &DeviceKey) -> Turn<'_> {
        let mutex = Arc::clone(lock(&self.0).entry(device.clone()).or_default());
        // Made before the wait, so that one who gives up waiting clears up too.
        let mut turn = Turn { turns: self, device: device.clone(), guard: None };
        turn.guard = Some(mutex.lock_owned().await);
        turn
    }
}

/// A turn; given back when dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    device: DeviceKey,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = lock(&self.turns.0);
        self.guard = None;
        // The table's own: nobody has it and nobody waits. New ones come only under the lock.
        if turns.get(&self.device).is_some_and(|mutex| Arc::strong_count(mutex) == 1) {
            turns.remove(&self.device);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_device_waits_another_does_not_and_nothing_stays() {
        let (turns, a, b) = (Turns::default(), DeviceKey::new("t", "a").unwrap(), DeviceKey::new("t", "b").unwrap());
        let first = turns.take(&a).await;
        let other = turns.take(&b).await;
        assert!(tokio::time::timeout(Duration::from_millis(5), turns.take(&a)).await.is_err());
        drop((first, other));
        drop(turns.take(&a).await);
        assert!(lock(&turns.0).is_empty());
    }
}
