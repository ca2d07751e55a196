//! The topic in memory, for `tidegate dev` and for tests: what is written is applied at once by every node of the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{MAX_REVOCATIONS, TOPIC};
use crate::eventlog::{Entry, Ledger, LogFuture, WriteError};
use crate::sync::lock;

/// A node that follows: takes key and value of each record in their order.
pub type Follower = Arc<dyn Fn(Option<&[u8]>, Option<&[u8]>) + Send + Sync>;

#[derive(Default)]
struct Kept {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    followers: Vec<Follower>,
}

/// The compacted topic in memory.
#[derive(Default)]
pub struct MemoryTopic(Mutex<Kept>);

impl MemoryTopic {
    /// Gives a follower everything there is, and from here on everything that comes, before the one who writes it hears.
    pub fn follow(&self, follower: Follower) {
        let mut kept = self.lock();
        kept.records.iter().for_each(|(key, value)| follower(Some(key), Some(value)));
        kept.followers.push(follower);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        lock(&self.0)
    }

    fn put(&self, entry: &Entry<'_>) -> Result<(), WriteError> {
        let refused = |text: &str| Err(WriteError::Refused(text.to_owned()));
        let Some(key) = entry.key.filter(|_| entry.topic == TOPIC) else {
            return refused("this log keeps nothing but revocations, each with a key");
        };
        let mut kept = self.lock();
        if kept.records.len() >= MAX_REVOCATIONS && !kept.records.contains_key(key) {
            return refused("it holds as many revocations as fit");
        }
        match entry.value {
            Some(value) => drop(kept.records.insert(key.to_vec(), value.to_vec())),
            None => drop(kept.records.remove(key)),
        }
        kept.followers.iter().for_each(|follower| follower(Some(key), entry.value));
        Ok(())
    }
}

impl Ledger for MemoryTopic {
    fn write<'a>(&'a self, entry: &'a Entry<'a>) -> LogFuture<'a, Result<(), WriteError>> {
        Box::pin(async move { self.put(entry) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::id::DeviceKey;
    use crate::revocations::{Denial, Revocation, RevocationWriter, Revocations};

    fn node(topic: &MemoryTopic) -> Arc<Revocations> {
        let node = Arc::new(Revocations::default());
        let own = Arc::clone(&node);
        topic.follow(Arc::new(move |key, value| drop(own.apply(key, value))));
        node
    }

    #[tokio::test]
    async fn what_is_written_holds_on_every_node_and_on_one_that_starts_later() {
        let topic = Arc::new(MemoryTopic::default());
        let writer = RevocationWriter::new(Arc::clone(&topic) as _);
        let key = DeviceKey::new("acme", "d1").unwrap();
        let first = node(&topic);
        writer.publish(&Revocation::Device { key: key.clone(), blocked: true }).await.unwrap();
        let later = node(&topic);
        for node in [&first, &later] {
            assert_eq!(node.denial(&key, true, None), Some(Denial::Blocked));
        }
        writer.publish(&Revocation::Device { key: key.clone(), blocked: false }).await.unwrap();
        assert!(first.is_empty() && later.is_empty() && node(&topic).is_empty());
        let bad = Revocation::KeyId { tenant: None, issuer: None, kid: String::new() };
        assert!(!writer.publish(&bad).await.unwrap_err().is_retryable());
    }
}
