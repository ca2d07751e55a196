//! The directories under test: what they share, and how a test moves their time, loses their data, spoils them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::id::{Boot, DeviceKey, Epoch, NodeName, SessionId};
use tidegate::ownership::memory::{MemoryOwnership, Snapshot};
use tidegate::ownership::redis::RedisOwnership;
use tidegate::ownership::{Claim, Claimed, Held, NodeLife, NodeState, OwnershipError, Profile, SharedOwnership};
use tidegate::store::{Primary, RedisConfig, Store, keys};
use tidegate::telemetry::metrics::Metrics;

use super::spoilt::{Bug, Spoilt};

/// A directory, and what a test does to it.
#[allow(async_fn_in_trait, reason = "never used as an object")]
pub(crate) trait Twin {
    fn ownership(&self) -> SharedOwnership;
    /// Lets time pass, as far as leases and windows are concerned.
    async fn age(&self, ms: u64);
    /// Loses everything.
    async fn flush(&self);
    /// Remembers everything as it is.
    async fn save(&self);
    /// Goes back to what was remembered.
    async fn go_back(&self);
    /// The clock of a new primary is behind; where that can be arranged.
    fn set_clock_back(&self, ms: u64);
    /// Lets a command wait.
    async fn queue(&self, device: &DeviceKey);

    fn life(&self, node: &str) -> NodeLife {
        NodeLife::begin(NodeName::new(node).unwrap())
    }
}

/// What a node says of itself.
pub(crate) fn profile(life: &NodeLife, state: NodeState) -> Profile {
    let address = format!("{}:7443", life.node);
    Profile { life: life.clone(), address, state, version: "1".into(), sees_kafka: true, devices: None }
}

/// A device with one connection.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) key: DeviceKey,
    pub(crate) boot: Boot,
    pub(crate) connection: SessionId,
}

impl Device {
    pub(crate) fn new(name: &str) -> Self {
        let (key, boot) = (DeviceKey::new("t", name).unwrap(), Boot::new(&format!("boot-{name}")).unwrap());
        Self { key, boot, connection: SessionId::draw() }
    }

    /// The same device with another connection, of another boot if given.
    pub(crate) fn again(&self, boot: Option<&str>) -> Self {
        let boot = boot.map_or_else(|| self.boot.clone(), |boot| Boot::new(boot).unwrap());
        Self { key: self.key.clone(), boot, connection: SessionId::draw() }
    }

    pub(crate) fn asks<'a>(&'a self, life: &'a NodeLife) -> Claim<'a> {
        let (device, connection, boot) = (&self.key, self.connection, &self.boot);
        Claim { life, device, connection, boot, boot_given: true, max_bytes: Some(600), floor: Epoch(0), insist: false }
    }

    pub(crate) async fn claim(&self, twin: &impl Twin, life: &NodeLife) -> Result<Claimed, OwnershipError> {
        twin.ownership().claim(&self.asks(life)).await
    }
}

/// What a node holds after a claim.
pub(crate) fn held(device: &Device, claimed: &Claimed) -> Held {
    let (connection, boot) = (device.connection, device.boot.clone());
    Held { device: device.key.clone(), epoch: claimed.epoch, connection, boot, max_bytes: Some(600) }
}

pub(crate) struct MemoryTwin {
    clock_us: Arc<AtomicU64>,
    queues: Arc<Mutex<HashSet<DeviceKey>>>,
    memory: Arc<MemoryOwnership>,
    bug: Option<Bug>,
    saved: Mutex<Option<Snapshot>>,
}

impl MemoryTwin {
    pub(crate) fn new() -> Self {
        let clock_us = Arc::new(AtomicU64::new(1_748_522_701_234_567));
        let queues: Arc<Mutex<HashSet<DeviceKey>>> = Arc::default();
        let (clock, asked) = (Arc::clone(&clock_us), Arc::clone(&queues));
        let memory = MemoryOwnership::new(
            Arc::new(move || clock.fetch_add(1, Ordering::Relaxed)),
            Arc::new(move |device| asked.lock().unwrap().contains(device)),
        );
        Self { clock_us, queues, memory: Arc::new(memory), bug: None, saved: Mutex::default() }
    }

    pub(crate) fn with(bug: Bug) -> Self {
        Self { bug: Some(bug), ..Self::new() }
    }
}

impl Twin for MemoryTwin {
    fn ownership(&self) -> SharedOwnership {
        match self.bug {
            None => Arc::clone(&self.memory) as SharedOwnership,
            bug => Arc::new(Spoilt { inner: Arc::clone(&self.memory), bug }),
        }
    }

    async fn age(&self, ms: u64) {
        self.clock_us.fetch_add(ms * 1_000, Ordering::Relaxed);
    }

    async fn flush(&self) {
        self.queues.lock().unwrap().clear();
        self.memory.flush();
    }

    async fn save(&self) {
        *self.saved.lock().unwrap() = Some(self.memory.snapshot());
    }

    async fn go_back(&self) {
        if let Some(snapshot) = &*self.saved.lock().unwrap() {
            self.memory.restore(snapshot);
        }
    }

    fn set_clock_back(&self, ms: u64) {
        self.clock_us.fetch_sub(ms * 1_000, Ordering::Relaxed);
    }

    async fn queue(&self, device: &DeviceKey) {
        self.queues.lock().unwrap().insert(device.clone());
    }
}

pub(crate) struct RedisTwin {
    pub(crate) store: Arc<Store>,
    ownership: Arc<RedisOwnership>,
    pub(crate) metrics: Metrics,
    saved: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
}

/// Leases end sooner and windows began sooner by ARGV[1] milliseconds, on the primary it is sent to.
const AGE: &str = "local cursor = '0'
repeat
  local found = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = found[1]
  for _, key in ipairs(found[2]) do
    if key == '{tg}:nodes' then
      for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
        redis.call('ZINCRBY', key, '-' .. ARGV[1], member)
      end
    elseif string.sub(key, -4) == ':own' and redis.call('HEXISTS', key, 'since') == 1 then
      redis.call('HINCRBY', key, 'since', '-' .. ARGV[1])
    end
  end
until cursor == '0'
return 1";

impl RedisTwin {
    pub(crate) async fn open(config: &RedisConfig) -> Self {
        let store = Arc::new(Store::connect(config, Duration::from_secs(20)).await.unwrap());
        let metrics = Metrics::new().unwrap();
        let ownership = Arc::new(RedisOwnership::new(Arc::clone(&store), metrics.clone()));
        Self { store, ownership, metrics, saved: Mutex::default() }
    }

    async fn keys_of(&self, primary: &Primary) -> Vec<Vec<u8>> {
        let (mut cursor, mut all) = ("0".to_owned(), Vec::new());
        loop {
            let args = [(&cursor).into(), "COUNT".into(), 1_000_u64.into()];
            let [next, keys] = self.store.on(primary, "SCAN", &args).await.unwrap().items().unwrap();
            all.extend(keys.list().unwrap().into_iter().map(|key| key.bytes().unwrap()));
            cursor = next.text().unwrap();
            if cursor == "0" {
                return all;
            }
        }
    }
}

impl Twin for RedisTwin {
    fn ownership(&self) -> SharedOwnership {
        Arc::clone(&self.ownership) as SharedOwnership
    }

    async fn age(&self, ms: u64) {
        for primary in self.store.primaries() {
            self.store.on(&primary, "EVAL", &[AGE.into(), "0".into(), ms.into()]).await.unwrap();
        }
    }

    async fn flush(&self) {
        for primary in self.store.primaries() {
            self.store.on(&primary, "FLUSHALL", &[]).await.unwrap();
        }
    }

    async fn save(&self) {
        let mut saved = Vec::new();
        for primary in self.store.primaries() {
            for key in self.keys_of(&primary).await {
                let dump = self.store.on(&primary, "DUMP", &[key.as_slice().into()]).await.unwrap();
                saved.push((key, dump.bytes().unwrap()));
            }
        }
        *self.saved.lock().unwrap() = saved;
    }

    async fn go_back(&self) {
        let saved = std::mem::take(&mut *self.saved.lock().unwrap());
        if saved.is_empty() {
            return;
        }
        self.flush().await;
        for (key, dump) in &saved {
            // A new primary draws nothing, but it has a replication id of its own, which one server cannot show.
            if key.starts_with(b"tg:gen:") {
                continue;
            }
            let args = [key.as_slice().into(), 0_u64.into(), dump.as_slice().into()];
            self.store.command("RESTORE", std::str::from_utf8(key).unwrap(), &args).await.unwrap();
        }
        *self.saved.lock().unwrap() = saved;
    }

    fn set_clock_back(&self, _: u64) {}

    async fn queue(&self, device: &DeviceKey) {
        let queue = keys::device(device, "q");
        let args = [(&queue).into(), "*".into(), "id".into(), "1".into()];
        self.store.command("XADD", &queue, &args).await.unwrap();
    }
}
