//! Tokens verified a moment ago, so that a device that comes back costs no signature check.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use super::Verified;
use crate::sync::lock;

/// SHA-256 of a token: the cache holds no token that somebody could steal from a dump.
pub(super) type Fingerprint = [u8; 32];

/// A bounded cache in two generations: when the young one is full it becomes the old one, and the old one is dropped.
/// What is used moves to the young one and so stays.
pub(super) struct Cache {
    generation_size: usize,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Fingerprint, Verified>,
    old: HashMap<Fingerprint, Verified>,
}

impl Cache {
    /// Holds at most `capacity` tokens; zero or one: none.
    pub(super) fn new(capacity: usize) -> Self {
        Self { generation_size: capacity / 2, generations: Mutex::default() }
    }

    pub(super) fn get(&self, token: &Fingerprint) -> Option<Verified> {
        let mut generations = self.lock();
        if let Some(found) = generations.young.get(token) {
            return Some(found.clone());
        }
        let found = generations.old.remove(token)?;
        self.insert(&mut generations, *token, found.clone());
        Some(found)
    }

    pub(super) fn put(&self, token: Fingerprint, verified: Verified) {
        self.insert(&mut self.lock(), token, verified);
    }

    pub(super) fn remove(&self, token: &Fingerprint) {
        let mut generations = self.lock();
        generations.young.remove(token);
        generations.old.remove(token);
    }

    fn insert(&self, generations: &mut Generations, token: Fingerprint, verified: Verified) {
        if self.generation_size == 0 {
            return;
        }
        if generations.young.len() >= self.generation_size {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(token, verified);
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        // Every change is a single insert or remove, so what a panicking holder left is still a cache.
        lock(&self.generations)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::verified;
    use super::*;

    #[test]
    fn the_cache_never_holds_more_than_it_may_and_keeps_what_is_used() {
        let cache = Cache::new(8);
        cache.put([0; 32], verified());
        for n in 1..100 {
            cache.put([n; 32], verified());
            assert!(cache.get(&[0; 32]).is_some(), "used after each of {n} others");
            let generations = cache.lock();
            assert!(generations.young.len() + generations.old.len() <= 8);
        }
        assert!(cache.get(&[1; 32]).is_none());
    }

    #[test]
    fn a_cache_of_nothing_keeps_nothing() {
        let cache = Cache::new(0);
        cache.put([0; 32], verified());
        assert!(cache.get(&[0; 32]).is_none());
    }
}
