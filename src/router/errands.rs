//! What is done beside: calls to peers nobody waits for. Bounded for each peer, so that one that is silent costs the others
//! nothing.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use crate::limits::fixed::ERRANDS;
use crate::ownership::NodeLife;
use crate::sync::lock;

/// Starts errands.
pub(super) struct Errands {
    to: Mutex<HashMap<NodeLife, Arc<Semaphore>>>,
    here: Arc<Semaphore>,
}

impl Default for Errands {
    fn default() -> Self {
        Self { to: Mutex::default(), here: Arc::new(Semaphore::new(ERRANDS)) }
    }
}

impl Errands {
    /// Starts one that calls a peer. `false`: too many are under way, and it is left undone.
    pub(super) fn to(&self, peer: &NodeLife, errand: impl Future<Output = ()> + Send + 'static) -> bool {
        let places = {
            let mut to = lock(&self.to);
            Arc::clone(to.entry(peer.clone()).or_insert_with(|| Arc::new(Semaphore::new(ERRANDS))))
        };
        start(places, errand)
    }

    /// Starts one that calls none. `false`: too many are under way, and it is left undone.
    pub(super) fn here(&self, errand: impl Future<Output = ()> + Send + 'static) -> bool {
        start(Arc::clone(&self.here), errand)
    }

    /// Forgets the peers that are gone.
    pub(super) fn keep(&self, mut lives: impl FnMut(&NodeLife) -> bool) {
        lock(&self.to).retain(|peer, _| lives(peer));
    }
}

fn start(places: Arc<Semaphore>, errand: impl Future<Output = ()> + Send + 'static) -> bool {
    let Ok(place) = places.try_acquire_owned() else { return false };
    tokio::spawn(async move {
        errand.await;
        drop(place);
    });
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::id::NodeName;

    #[tokio::test]
    async fn a_silent_peer_takes_only_its_own_places() {
        let errands = Errands::default();
        let [silent, other] = ["a", "b"].map(|name| NodeLife::begin(NodeName::new(name).unwrap()));
        for _ in 0..ERRANDS {
            assert!(errands.to(&silent, std::future::pending()));
        }
        assert!(!errands.to(&silent, std::future::pending()));
        assert!(errands.to(&other, async {}) && errands.here(async {}));
    }
}
