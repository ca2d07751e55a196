//! The directory in memory: for `tidegate dev` and tests, with the same steps as the scripts on Redis.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{
    Claim, Claimed, DEAD_KEPT_MS, Ended, Fence, GONE_KEPT_MS, Held, Inspection, LEASE_MS, Last, Lease, Listed, Member,
    NodeLife, NodeState, Ownership, OwnershipError, OwnershipFuture, Page, Past, Profile, Reasserted, Renewed, Row,
    SETTLE_AFTER_MS, Stretch, TAKEOVER_WINDOW_MS, TAKEOVERS, TAKEOVERS_WITHOUT_BOOT, View,
};
use crate::id::{DeviceKey, Epoch};
use crate::sync::lock;

/// Gives the microseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;
/// Says whether commands wait for a device.
pub type Queues = Arc<dyn Fn(&DeviceKey) -> bool + Send + Sync>;

#[derive(Clone)]
struct Entry {
    row: Row,
    since_ms: u64,
    takeovers: u32,
}

#[derive(Clone, Default)]
struct State {
    members: HashMap<NodeLife, Member>,
    highest: u64,
    /// Drawn anew with each loss.
    identity: u64,
    rows: HashMap<DeviceKey, Entry>,
    /// Of each device the epoch that was released last, and hints.
    last: HashMap<DeviceKey, (Epoch, Option<Last>)>,
    /// Of each device how its last connection ended that is known to have.
    ended: HashMap<DeviceKey, Ended>,
    held: HashMap<NodeLife, BTreeSet<String>>,
}

/// Everything at one moment, to go back to: what a failover that loses the tail does.
#[derive(Clone)]
pub struct Snapshot(State);

/// The directory in memory. Shared by all nodes of one process.
pub struct MemoryOwnership {
    clock: Clock,
    queues: Queues,
    state: Mutex<State>,
}

impl MemoryOwnership {
    /// Empty, by this clock; `queues` is asked at each claim.
    pub fn new(clock: Clock, queues: Queues) -> Self {
        Self { clock, queues, state: Mutex::new(State { identity: 1, ..State::default() }) }
    }

    /// A device's row, for what lies beside it in memory.
    pub fn holder(&self, device: &DeviceKey) -> Option<Row> {
        self.lock().rows.get(device).map(|entry| entry.row.clone())
    }

    /// Forgets everything, as `FLUSHALL` does.
    pub fn flush(&self) {
        let mut state = self.lock();
        *state = State { identity: state.identity + 1, ..State::default() };
    }

    /// Everything as it is.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.lock().clone())
    }

    /// Goes back to it, as a primary does that took over without the last writes.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut state = self.lock();
        *state = State { identity: state.identity + 1, ..snapshot.0.clone() };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn now_ms(&self) -> u64 {
        (self.clock)() / 1_000
    }

    fn do_renew(&self, me: &Profile, highest: Epoch) -> Result<Renewed, OwnershipError> {
        let now_us = (self.clock)();
        let now_ms = now_us / 1_000;
        let mut state = self.lock();
        let lease = match state.members.get(&me.life) {
            Some(member) if matches!(member.profile.state, NodeState::Dead | NodeState::Gone) => {
                return Err(OwnershipError::Buried);
            }
            Some(member) if member.expires_ms <= now_ms => Lease::Lapsed(now_ms - member.expires_ms),
            Some(_) => Lease::Held,
            None => Lease::Absent,
        };
        state.members.retain(|_, member| {
            let kept_ms = if member.profile.state == NodeState::Gone { GONE_KEPT_MS } else { DEAD_KEPT_MS };
            member.expires_ms + kept_ms >= now_ms
        });
        let member = Member { profile: me.clone(), expires_ms: now_ms + LEASE_MS };
        state.members.insert(me.life.clone(), member);
        state.highest = state.highest.max(highest.0);
        Ok(Renewed { view: View::new(now_us, state.highest, state.members.values().cloned()), lease })
    }

    fn do_view(&self) -> View {
        let now_us = (self.clock)();
        let state = self.lock();
        View::new(now_us, state.highest, state.members.values().cloned())
    }

    fn do_claim(&self, claim: &Claim<'_>) -> Result<Claimed, OwnershipError> {
        let now_us = (self.clock)();
        let now_ms = now_us / 1_000;
        let commands_wait = (self.queues)(claim.device);
        let mut state = self.lock();
        let previous = state.rows.get(claim.device).cloned();
        let (mut since_ms, mut takeovers) = previous.as_ref().map_or((0, 0), |p| (p.since_ms, p.takeovers));
        if now_ms.saturating_sub(since_ms) >= TAKEOVER_WINDOW_MS {
            (since_ms, takeovers) = (0, 0);
        }
        let previous = previous.map(|entry| entry.row);
        if let Some(row) = &previous
            && !claim.insist
            && !row.settled
            && row.boot != *claim.boot
        {
            if takeovers >= if claim.boot_given { TAKEOVERS } else { TAKEOVERS_WITHOUT_BOOT } {
                let wait_ms = (since_ms + TAKEOVER_WINDOW_MS).saturating_sub(now_ms).max(1);
                return Err(OwnershipError::Contested { wait_ms, holder: row.owner.clone() });
            }
            if takeovers == 0 {
                since_ms = now_ms;
            }
            takeovers += 1;
        }
        let (released, last) = state.last.get(claim.device).cloned().unwrap_or((Epoch(0), None));
        let stored = previous.as_ref().map_or(released.0, |row| row.epoch.0.max(released.0));
        let epoch = Epoch(now_us.max(stored + 1).max(claim.floor.0 + 1));
        let row = Row {
            owner: claim.life.clone(),
            epoch,
            connection: claim.connection,
            boot: claim.boot.clone(),
            max_bytes: claim.max_bytes,
            settled: false,
        };
        state.rows.insert(claim.device.clone(), Entry { row, since_ms, takeovers });
        state.held.entry(claim.life.clone()).or_default().insert(claim.device.to_string());
        // How it ended is nothing to a device that connects.
        let last = last.map(|last| Last { end: None, ..last });
        Ok(Claimed { epoch, previous, last, commands_wait })
    }

    fn do_release(&self, life: &NodeLife, device: &DeviceKey, fence: Fence, last: Option<&Last>) -> bool {
        let at_ms = self.now_ms();
        let mut state = self.lock();
        let row = state.rows.get(device).map(|entry| &entry.row).filter(|row| row.owner == *life);
        let behind = |row: &Row| match fence {
            Fence::Epoch(epoch) => row.epoch == epoch,
            Fence::Connection(connection) => row.connection == connection,
        };
        let removed = row.is_some_and(behind);
        let stored = state.rows.get(device).map(|entry| entry.row.epoch);
        let was_settled = row.is_some_and(|row| row.settled);
        let ended = match fence {
            _ if removed => stored,
            // The row was lost; that its connection ended is not to be.
            Fence::Epoch(epoch) => (stored < Some(epoch)).then_some(epoch),
            Fence::Connection(_) => None,
        };
        // A newer row of the same life keeps the entry.
        if removed || row.is_none() {
            unlist(&mut state, life, device);
        }
        if removed {
            state.rows.remove(device);
        }
        if let Some(ended) = ended {
            let left = state.last.entry(device.clone()).or_insert((ended, None));
            left.0 = left.0.max(ended);
            if removed && let Some(last) = last {
                left.1 = Some(Last { at_ms, ..last.clone() });
            }
            if removed && (last.is_some() || was_settled) {
                let (node, end) = (life.node.clone(), last.and_then(|last| last.end.clone()));
                state.ended.insert(device.clone(), Ended { node, epoch: ended, at_ms, end });
            }
        }
        removed
    }

    fn do_past(&self, device: &DeviceKey) -> Option<Past> {
        let state = self.lock();
        let ended = state.ended.get(device).cloned();
        state.last.get(device).map(|(epoch, last)| Past { epoch: *epoch, last: last.clone(), ended })
    }

    fn do_list(&self, life: &NodeLife, stretch: Stretch<'_>) -> Listed {
        let state = self.lock();
        let Some(held) = state.held.get(life) else { return Listed::default() };
        let range = (Bound::Excluded(stretch.above.to_owned()), Bound::Excluded(stretch.below.to_owned()));
        // A range that ends before it begins is none to the tree.
        let names = (stretch.above < stretch.below).then(|| held.range(range)).into_iter().flatten();
        let limit = usize::try_from(stretch.limit).unwrap_or(usize::MAX);
        Listed { devices: names.take(limit).filter_map(|name| parse(name)).collect(), all: held.len() as u64 }
    }

    fn do_reassert(&self, life: &NodeLife, held: &Held) -> Reasserted {
        let commands_wait = (self.queues)(&held.device);
        let mut state = self.lock();
        let before = state.rows.get(&held.device).cloned();
        let ended = state.last.get(&held.device).is_some_and(|(ended, _)| *ended >= held.epoch);
        if let Some(Entry { row, .. }) = &before {
            if row.epoch > held.epoch || (row.epoch == held.epoch && row.owner != *life) {
                let row = row.clone();
                if row.owner != *life {
                    unlist(&mut state, life, &held.device);
                }
                return Reasserted::Newer(row);
            }
            if row.epoch == held.epoch {
                let reasserted = if row.settled || ended { Reasserted::Settled } else { Reasserted::Kept };
                state.held.entry(life.clone()).or_default().insert(held.device.to_string());
                return reasserted;
            }
        }
        if ended {
            state.held.entry(life.clone()).or_default().insert(held.device.to_string());
            return Reasserted::Settled;
        }
        let (since_ms, takeovers) = before.map_or((0, 0), |entry| (entry.since_ms, entry.takeovers));
        let row = Row {
            owner: life.clone(),
            epoch: held.epoch,
            connection: held.connection,
            boot: held.boot.clone(),
            max_bytes: held.max_bytes,
            settled: false,
        };
        state.rows.insert(held.device.clone(), Entry { row, since_ms, takeovers });
        state.held.entry(life.clone()).or_default().insert(held.device.to_string());
        Reasserted::Written { commands_wait }
    }

    fn do_inspect(&self, life: &NodeLife, sample: &[Held]) -> Vec<Inspection> {
        let state = self.lock();
        let mine = |held: &&Held| {
            let row = state.rows.get(&held.device).map(|entry| &entry.row);
            row.is_some_and(|row| row.owner == *life && row.epoch == held.epoch && !row.settled)
        };
        let wrong = sample.iter().filter(|held| !mine(held)).map(|held| held.device.clone()).collect();
        vec![Inspection { primary: PRIMARY.into(), identity: Some(state.identity.to_string()), wrong }]
    }

    fn do_bury(&self, dead: &NodeLife, done: bool) -> bool {
        let now_ms = self.now_ms();
        let mut state = self.lock();
        let Some(member) = state.members.get_mut(dead) else { return false };
        let buried = matches!(member.profile.state, NodeState::Dead | NodeState::Gone);
        if !buried && member.expires_ms + SETTLE_AFTER_MS > now_ms {
            return false;
        }
        if done {
            member.profile.state = NodeState::Gone;
        } else if member.profile.state != NodeState::Gone {
            member.profile.state = NodeState::Dead;
        }
        true
    }

    fn do_settle(&self, dead: &NodeLife, after: Option<&DeviceKey>, limit: u32) -> Page {
        let mut state = self.lock();
        let from = after.map_or(Bound::Unbounded, |device| Bound::Excluded(device.to_string()));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let names = state.held.get(dead).into_iter().flat_map(|held| held.range((from.clone(), Bound::Unbounded)));
        let devices: Vec<DeviceKey> = names.take(limit).filter_map(|name| parse(name)).collect();
        let next = devices.last().filter(|_| devices.len() == limit).cloned();
        let mut settled = Vec::new();
        for device in devices {
            match state.rows.get_mut(&device).map(|entry| &mut entry.row).filter(|row| row.owner == *dead) {
                Some(row) => {
                    row.settled = true;
                    let (epoch, connection, boot) = (row.epoch, row.connection, row.boot.clone());
                    settled.push(Held { device, epoch, connection, boot, max_bytes: row.max_bytes });
                }
                None => unlist(&mut state, dead, &device),
            }
        }
        Page { settled, next }
    }
}

/// A device by its name in a list.
fn parse(name: &str) -> Option<DeviceKey> {
    name.split_once('/').and_then(|(tenant, device)| DeviceKey::new(tenant, device).ok())
}

/// The one there is.
const PRIMARY: &str = "memory";

fn unlist(state: &mut State, life: &NodeLife, device: &DeviceKey) {
    if let Some(held) = state.held.get_mut(life) {
        held.remove(device.as_str());
        if held.is_empty() {
            state.held.remove(life);
        }
    }
}

/// A result that is there already.
fn ready<'a, T: Send + 'a>(result: Result<T, OwnershipError>) -> OwnershipFuture<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Ownership for MemoryOwnership {
    fn renew<'a>(&'a self, me: &'a Profile, highest: Epoch) -> OwnershipFuture<'a, Renewed> {
        ready(self.do_renew(me, highest))
    }

    fn view(&self) -> OwnershipFuture<'_, View> {
        ready(Ok(self.do_view()))
    }

    fn claim<'a>(&'a self, claim: &'a Claim<'a>) -> OwnershipFuture<'a, Claimed> {
        ready(self.do_claim(claim))
    }

    fn release<'a>(
        &'a self,
        life: &'a NodeLife,
        device: &'a DeviceKey,
        fence: Fence,
        last: Option<&'a Last>,
    ) -> OwnershipFuture<'a, bool> {
        ready(Ok(self.do_release(life, device, fence, last)))
    }

    fn row<'a>(&'a self, device: &'a DeviceKey) -> OwnershipFuture<'a, Option<Row>> {
        ready(Ok(self.holder(device)))
    }

    fn past<'a>(&'a self, device: &'a DeviceKey) -> OwnershipFuture<'a, Option<Past>> {
        ready(Ok(self.do_past(device)))
    }

    fn list<'a>(&'a self, life: &'a NodeLife, stretch: Stretch<'a>) -> OwnershipFuture<'a, Listed> {
        ready(Ok(self.do_list(life, stretch)))
    }

    fn reassert<'a>(&'a self, life: &'a NodeLife, held: &'a Held) -> OwnershipFuture<'a, Reasserted> {
        ready(Ok(self.do_reassert(life, held)))
    }

    fn inspect<'a>(&'a self, life: &'a NodeLife, sample: &'a [Held]) -> OwnershipFuture<'a, Vec<Inspection>> {
        ready(Ok(self.do_inspect(life, sample)))
    }

    fn primary_of(&self, _: &DeviceKey) -> String {
        PRIMARY.into()
    }

    fn bury<'a>(&'a self, dead: &'a NodeLife, done: bool) -> OwnershipFuture<'a, bool> {
        ready(Ok(self.do_bury(dead, done)))
    }

    fn settle<'a>(&'a self, dead: &'a NodeLife, after: Option<&'a DeviceKey>, limit: u32) -> OwnershipFuture<'a, Page> {
        ready(Ok(self.do_settle(dead, after, limit)))
    }
}
