//! Peers within one process: a network that calls directly, and that delays, loses and cuts where it is told to.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Ending, Evicted, Peer, PeerError, PeerFuture, PeerHandler, PeerLink, PeerTimes, Rung, Traced};
use crate::id::{DeviceKey, Epoch};
use crate::ownership::NodeLife;
use crate::sync::lock;

/// What the network does to calls.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Faults {
    /// How many milliseconds a call takes to arrive; drawn for each.
    pub delay_ms: Range<u64>,
    /// Which part of the calls never arrives, 0 to 1.
    pub calls_lost: f64,
    /// Which part of the answers never arrives, 0 to 1; the call was done.
    pub answers_lost: f64,
}

/// The network. Its nodes are known by their addresses.
pub struct MemoryNetwork {
    deadline: Duration,
    inner: Mutex<Inner>,
}

struct Inner {
    nodes: HashMap<String, Arc<dyn PeerHandler>>,
    faults: Faults,
    /// From whom to whom nothing arrives.
    cuts: HashSet<(String, String)>,
    random: fastrand::Rng,
}

/// What happens to one call.
struct Fate {
    handler: Option<Arc<dyn PeerHandler>>,
    delay: Duration,
    call_lost: bool,
    answer_lost: bool,
}

impl MemoryNetwork {
    /// A network without faults. What it draws follows from `seed`.
    pub fn new(times: PeerTimes, seed: u64) -> Arc<Self> {
        let inner = Inner {
            nodes: HashMap::new(),
            faults: Faults::default(),
            cuts: HashSet::new(),
            random: fastrand::Rng::with_seed(seed),
        };
        Arc::new(Self { deadline: times.deadline, inner: Mutex::new(inner) })
    }

    /// A node appears at an address, in place of any that was there. Its own calls go through the link.
    pub fn join(self: &Arc<Self>, address: &str, handler: Arc<dyn PeerHandler>) -> MemoryLink {
        self.answer(address, handler);
        self.link(address)
    }

    /// What answers at an address from now on.
    pub fn answer(&self, address: &str, handler: Arc<dyn PeerHandler>) {
        self.inner().nodes.insert(address.into(), handler);
    }

    /// The calls of who is at an address.
    pub fn link(self: &Arc<Self>, address: &str) -> MemoryLink {
        MemoryLink { network: Arc::clone(self), address: address.into(), live: Mutex::default() }
    }

    /// The node at an address is gone.
    pub fn leave(&self, address: &str) {
        self.inner().nodes.remove(address);
    }

    /// What happens to calls from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.inner().faults = faults;
    }

    /// Nothing arrives from one address at the other any more, neither calls nor answers. The other way is open.
    pub fn cut(&self, from: &str, to: &str) {
        self.inner().cuts.insert((from.into(), to.into()));
    }

    /// No faults and no cuts any more.
    pub fn heal(&self) {
        let mut inner = self.inner();
        inner.faults = Faults::default();
        inner.cuts.clear();
    }

    fn fate(&self, from: &str, to: &str) -> Fate {
        let mut inner = self.inner();
        let Inner { nodes, faults, cuts, random } = &mut *inner;
        let is_cut = |from: &str, to: &str| cuts.contains(&(from.to_owned(), to.to_owned()));
        let delay_ms = if faults.delay_ms.is_empty() { 0 } else { random.u64(faults.delay_ms.clone()) };
        Fate {
            handler: nodes.get(to).map(Arc::clone),
            delay: Duration::from_millis(delay_ms),
            call_lost: is_cut(from, to) || random.f64() < faults.calls_lost,
            answer_lost: is_cut(to, from) || random.f64() < faults.answers_lost,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

/// One node's way to its peers.
pub struct MemoryLink {
    network: Arc<MemoryNetwork>,
    address: String,
    live: Mutex<HashMap<NodeLife, String>>,
}

impl MemoryLink {
    async fn call<T>(&self, to: &NodeLife, act: impl FnOnce(&dyn PeerHandler) -> T) -> Result<T, PeerError> {
        let address = lock(&self.live).get(to).cloned().ok_or(PeerError::Gone)?;
        let fate = self.network.fate(&self.address, &address);
        let done = async {
            if !fate.delay.is_zero() {
                sleep(fate.delay).await;
            }
            if fate.call_lost {
                return std::future::pending().await;
            }
            let Some(handler) = fate.handler else {
                return Err(PeerError::Unreachable(format!("nobody is at {address}")));
            };
            if !handler.is_me(to) {
                return Err(PeerError::OtherLife);
            }
            let answer = act(&*handler);
            if fate.answer_lost {
                return std::future::pending().await;
            }
            Ok(answer)
        };
        timeout(self.network.deadline, done).await.unwrap_or(Err(PeerError::Deadline))
    }
}

impl PeerLink for MemoryLink {
    fn set_live(&self, live: Vec<Peer>) {
        *lock(&self.live) = live.into_iter().map(|peer| (peer.life, peer.address)).collect();
    }

    fn ring<'a>(&'a self, to: &'a NodeLife, device: &'a DeviceKey, epoch: Epoch) -> PeerFuture<'a, ()> {
        Box::pin(async move {
            match self.call(to, |node| node.ring(device, epoch)).await? {
                Rung::Delivered => Ok(()),
                Rung::NotHere { known } => Err(PeerError::NotHere { known }),
            }
        })
    }

    fn evict<'a>(&'a self, to: &'a NodeLife, device: &'a DeviceKey, epoch: Epoch) -> PeerFuture<'a, Evicted> {
        Box::pin(self.call(to, move |node| node.evict(device, epoch)))
    }

    fn ended<'a>(&'a self, to: &'a NodeLife, ending: &'a Ending) -> PeerFuture<'a, ()> {
        Box::pin(async move {
            ending.check()?;
            self.call(to, |node| node.ended(ending.clone())).await
        })
    }

    fn sweep<'a>(&'a self, to: &'a NodeLife) -> PeerFuture<'a, ()> {
        Box::pin(self.call(to, |node| node.sweep()))
    }

    fn trace<'a>(
        &'a self,
        to: &'a NodeLife,
        device: &'a DeviceKey,
        epoch: Epoch,
        for_s: u32,
    ) -> PeerFuture<'a, Traced> {
        Box::pin(self.call(to, move |node| node.trace(device, epoch, for_s)))
    }
}
