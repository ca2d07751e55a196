//! Devices that were taken over from other nodes which have not been told yet.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::id::{DeviceKey, Epoch};
use crate::ownership::NodeLife;
use crate::sync::lock;

/// Most that are kept; of one more its node is asked to sweep instead.
pub const KEPT: usize = 10_000;

/// One node to be told that a device has another owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evict {
    /// The loser.
    pub from: NodeLife,
    /// The device.
    pub device: DeviceKey,
    /// The winner's epoch.
    pub epoch: Epoch,
}

#[derive(Default)]
struct State {
    kept: HashMap<NodeLife, HashMap<DeviceKey, Epoch>>,
    count: usize,
    /// Nodes of which more was to be told than is kept.
    to_sweep: Vec<NodeLife>,
}

/// What is to be told, until it is answered or the incarnation is gone. A node that is never told finds out by itself
/// when it inspects its rows.
#[derive(Default)]
pub struct Evicts {
    state: Mutex<State>,
    bell: Notify,
}

impl Evicts {
    /// Notes one.
    pub fn note(&self, evict: Evict) {
        let mut state = self.lock();
        let State { kept, count, to_sweep } = &mut *state;
        match kept.get_mut(&evict.from).and_then(|devices| devices.get_mut(&evict.device)) {
            Some(known) => *known = evict.epoch.max(*known),
            None if *count < KEPT => {
                kept.entry(evict.from).or_default().insert(evict.device, evict.epoch);
                *count += 1;
            }
            None if to_sweep.contains(&evict.from) => {}
            None => to_sweep.push(evict.from),
        }
        drop(state);
        self.bell.notify_one();
    }

    /// Notes that a node is to be asked to sweep.
    pub fn note_sweep(&self, life: NodeLife) {
        let mut state = self.lock();
        if !state.to_sweep.contains(&life) {
            state.to_sweep.push(life);
        }
    }

    /// Waits until one was noted; for one task.
    pub async fn noted(&self) {
        self.bell.notified().await;
    }

    /// The nodes that are to be told something.
    pub fn lives(&self) -> Vec<NodeLife> {
        self.lock().kept.keys().cloned().collect()
    }

    /// Up to `limit` that are to be told to one node now, or again.
    pub fn open(&self, from: &NodeLife, limit: usize) -> Vec<Evict> {
        let state = self.lock();
        let some = state.kept.get(from).into_iter().flatten().take(limit);
        some.map(|(device, epoch)| Evict { from: from.clone(), device: device.clone(), epoch: *epoch }).collect()
    }

    /// The nodes that are to be asked to sweep; they are forgotten with this.
    pub fn take_sweeps(&self) -> Vec<NodeLife> {
        std::mem::take(&mut self.lock().to_sweep)
    }

    /// It was answered.
    pub fn answered(&self, evict: &Evict) {
        let mut state = self.lock();
        let Some(devices) = state.kept.get_mut(&evict.from) else { return };
        if devices.get(&evict.device).is_some_and(|epoch| *epoch <= evict.epoch) {
            devices.remove(&evict.device);
            if devices.is_empty() {
                state.kept.remove(&evict.from);
            }
            state.count -= 1;
        }
    }

    /// Forgets what was for incarnations that are gone.
    pub fn keep(&self, mut lives: impl FnMut(&NodeLife) -> bool) {
        let mut state = self.lock();
        state.kept.retain(|from, _| lives(from));
        state.count = state.kept.values().map(HashMap::len).sum();
        state.to_sweep.retain(lives);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lock().count
    }

    /// Whether nobody is to be told anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::id::NodeName;

    fn evict(from: &NodeLife, device: usize, epoch: u64) -> Evict {
        Evict { from: from.clone(), device: DeviceKey::new("t", &device.to_string()).unwrap(), epoch: Epoch(epoch) }
    }

    #[test]
    fn it_is_kept_until_it_is_answered_or_the_incarnation_is_gone() {
        let [a, b] = ["a", "b"].map(|name| NodeLife::begin(NodeName::new(name).unwrap()));
        let evicts = Evicts::default();
        evicts.note(evict(&a, 1, 5));
        evicts.note(evict(&a, 1, 7));
        evicts.note(evict(&b, 1, 6));
        evicts.answered(&evict(&a, 1, 5));
        assert_eq!(evicts.len(), 2, "an answer to an older one ends nothing");
        assert_eq!(evicts.lives().len(), 2);
        evicts.keep(|life| *life == a);
        assert_eq!((evicts.lives(), evicts.len()), (vec![a.clone()], 1));
        assert_eq!(evicts.open(&a, 10), [evict(&a, 1, 7)]);
        evicts.answered(&evict(&a, 1, 7));
        assert!(evicts.is_empty() && evicts.lives().is_empty());
    }

    #[test]
    fn of_more_than_are_kept_the_node_is_asked_to_sweep() {
        let life = NodeLife::begin(NodeName::new("a").unwrap());
        let evicts = Evicts::default();
        (0..KEPT + 2).for_each(|device| evicts.note(evict(&life, device, 1)));
        assert_eq!((evicts.len(), evicts.take_sweeps(), evicts.take_sweeps()), (KEPT, vec![life.clone()], vec![]));
        evicts.note_sweep(life.clone());
        assert_eq!(evicts.take_sweeps(), [life]);
    }
}
