//! What a case has at hand: the commands, the clock, the rows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::commands::memory::{MemoryCommands, Rows};
use tidegate::commands::redis::RedisCommands;
use tidegate::commands::{
    Answer, Answered, Clock, Command, CommandError, Commands, Due, Row, SHARDS, Sending, State, Submission, Submitted,
};
use tidegate::id::{CommandId, DeviceKey, Epoch, Incarnation, NodeName};
use tidegate::protocol::message::CommandStatus;
use tidegate::store::{Mode, RedisConfig, Store, keys};

/// When every case begins, Unix milliseconds.
pub const START: i64 = 1_748_522_700_000;
pub const MINUTE: i64 = 60_000;
/// The incarnation of every node.
pub const LIFE: &str = "000000000000000000000000000000ff";

/// A store on what stands at these urls.
pub async fn store(url: &str) -> Arc<Store> {
    store_as(url, Mode::Auto).await
}

async fn store_as(url: &str, mode: Mode) -> Arc<Store> {
    let config = RedisConfig { urls: vec![url.to_owned()], mode, ..RedisConfig::default() };
    Arc::new(Store::connect(&config, Duration::from_secs(30)).await.unwrap())
}

/// A clock that stands until it is moved.
#[derive(Clone, Default)]
pub struct Hands {
    now: Arc<AtomicI64>,
    /// Added right behind the next look at it.
    jump: Arc<AtomicI64>,
}

impl Hands {
    fn clock(&self) -> Clock {
        let hands = self.clone();
        Arc::new(move || hands.now.fetch_add(hands.jump.swap(0, Ordering::SeqCst), Ordering::SeqCst))
    }
}

enum Twin {
    Memory { commands: Mutex<Arc<MemoryCommands>>, rows: Arc<Mutex<HashMap<DeviceKey, Row>>> },
    Redis { commands: Arc<RedisCommands>, store: Arc<Store> },
}

/// Commands under test.
pub struct Bench {
    pub name: &'static str,
    hands: Hands,
    twin: Twin,
}

fn fresh_memory(hands: &Hands, rows: &Arc<Mutex<HashMap<DeviceKey, Row>>>) -> Arc<MemoryCommands> {
    let rows = Arc::clone(rows);
    let look: Rows = Arc::new(move |device| rows.lock().unwrap().get(device).cloned());
    Arc::new(MemoryCommands::new(hands.clock(), look))
}

pub fn memory() -> Bench {
    let (hands, rows) = (Hands::default(), Arc::default());
    let commands = Mutex::new(fresh_memory(&hands, &rows));
    Bench { name: "memory", hands, twin: Twin::Memory { commands, rows } }
}

pub async fn redis(name: &'static str, url: &str) -> Bench {
    redis_as(name, url, Mode::Auto).await
}

/// The same, taken for this kind whatever it is.
pub async fn redis_as(name: &'static str, url: &str, mode: Mode) -> Bench {
    let store = store_as(url, mode).await;
    let hands = Hands::default();
    let commands = Arc::new(RedisCommands::with_clock(Arc::clone(&store), hands.clock()));
    Bench { name, hands, twin: Twin::Redis { commands, store } }
}

impl Bench {
    /// Empties everything and sets the clock back.
    pub async fn empty(&self) {
        self.hands.now.store(START, Ordering::SeqCst);
        match &self.twin {
            Twin::Memory { commands, rows } => {
                rows.lock().unwrap().clear();
                *commands.lock().unwrap() = fresh_memory(&self.hands, rows);
            }
            Twin::Redis { store, .. } => {
                for primary in store.primaries() {
                    store.on(&primary, "FLUSHALL", &[]).await.unwrap();
                }
            }
        }
    }

    pub fn commands(&self) -> Arc<dyn Commands> {
        match &self.twin {
            Twin::Memory { commands, .. } => Arc::clone(&*commands.lock().unwrap()) as Arc<dyn Commands>,
            Twin::Redis { commands, .. } => Arc::clone(commands) as Arc<dyn Commands>,
        }
    }

    pub fn now(&self) -> i64 {
        self.hands.now.load(Ordering::SeqCst)
    }

    pub fn pass(&self, ms: i64) {
        self.hands.now.fetch_add(ms, Ordering::SeqCst);
    }

    /// Lets `ms` pass right behind the next look at the clock: between the first and the second step of a call.
    pub fn pass_within_next_call(&self, ms: i64) {
        self.hands.jump.store(ms, Ordering::SeqCst);
    }

    /// The device is connected to `node` under `epoch`.
    pub async fn hold(&self, device: &DeviceKey, node: &str, epoch: u64) {
        let row = Row {
            node: NodeName::new(node).unwrap(),
            incarnation: Incarnation::parse(LIFE).unwrap(),
            epoch: Epoch(epoch),
        };
        match &self.twin {
            Twin::Memory { rows, .. } => drop(rows.lock().unwrap().insert(device.clone(), row)),
            Twin::Redis { store, .. } => {
                let key = keys::device(device, "own");
                let epoch = epoch.to_string();
                let args = [key.as_str(), "node", node, "incarnation", LIFE, "epoch", &epoch, "connection", "c1"];
                store.command("HSET", &key, &args.map(Into::into)).await.unwrap();
            }
        }
    }

    /// The device's row is marked: its node was found dead. Only Redis keeps such rows apart.
    pub async fn settle_row(&self, device: &DeviceKey) {
        match &self.twin {
            Twin::Memory { .. } => self.let_go(device).await,
            Twin::Redis { store, .. } => {
                let key = keys::device(device, "own");
                store.command("HSET", &key, &[key.as_str(), "settled", "1"].map(Into::into)).await.unwrap();
            }
        }
    }

    /// The device is not connected.
    pub async fn let_go(&self, device: &DeviceKey) {
        match &self.twin {
            Twin::Memory { rows, .. } => drop(rows.lock().unwrap().remove(device)),
            Twin::Redis { store, .. } => {
                let key = keys::device(device, "own");
                store.command("DEL", &key, &[key.as_str().into()]).await.unwrap();
            }
        }
    }

    /// Entries in all due lists.
    pub async fn due_entries(&self) -> u64 {
        match &self.twin {
            Twin::Memory { commands, .. } => commands.lock().unwrap().due_entries() as u64,
            Twin::Redis { store, .. } => {
                let mut entries = 0;
                for shard in 0..SHARDS {
                    let key = format!("{{tg:due:{shard}}}");
                    entries += store.command("ZCARD", &key, &[key.as_str().into()]).await.unwrap().unsigned().unwrap();
                }
                entries
            }
        }
    }

    /// Sweeps every shard once; nodes whose name begins with `dead` are not live.
    pub async fn sweep(&self) -> Vec<Due> {
        let (commands, mut work) = (self.commands(), Vec::new());
        for shard in 0..SHARDS {
            work.extend(commands.sweep(shard, 200, &|row| !row.node.as_str().starts_with("dead")).await.unwrap().work);
        }
        work
    }

    pub async fn submit(&self, submission: &Submission<'_>) -> Result<Submitted, CommandError> {
        self.commands().submit(submission).await
    }

    /// Submits what must be taken.
    pub async fn accept(&self, submission: &Submission<'_>) -> CommandId {
        let submitted = self.submit(submission).await.unwrap();
        assert!(submitted.new, "{submitted:?}");
        submitted.command.id
    }

    pub async fn mark(&self, device: &DeviceKey, id: CommandId, epoch: u64) -> Sending {
        self.commands().mark_sent(device, id, Epoch(epoch), false).await.unwrap()
    }

    pub async fn mark_again(&self, device: &DeviceKey, id: CommandId, epoch: u64) -> Sending {
        self.commands().mark_sent(device, id, Epoch(epoch), true).await.unwrap()
    }

    /// Marks what must be allowed, and returns the attempt.
    pub async fn write(&self, device: &DeviceKey, id: CommandId, epoch: u64) -> u32 {
        match self.mark(device, id, epoch).await {
            Sending::Write { command, .. } => command.life.attempts,
            other => panic!("{id} may not be written: {other:?}"),
        }
    }

    pub async fn pending(&self, device: &DeviceKey, epoch: u64) -> Vec<CommandId> {
        self.commands().pending(device, Epoch(epoch), 1_000).await.unwrap()
    }

    pub async fn answer(&self, device: &DeviceKey, id: CommandId, status: CommandStatus) -> Answered {
        let answer = Answer { status, result: Some(b"{\"ok\":true}"), message: None };
        self.commands().answer(device, id, answer).await.unwrap()
    }

    pub async fn get(&self, device: &DeviceKey, id: CommandId) -> Command {
        self.commands().get(device, id).await.unwrap()
    }

    pub async fn state(&self, device: &DeviceKey, id: CommandId) -> State {
        self.get(device, id).await.life.state
    }
}

pub fn device(name: &str) -> DeviceKey {
    DeviceKey::new("acme", name).unwrap()
}

/// A command of an hour for `device` under `key`.
pub fn order<'a>(device: &'a DeviceKey, key: &'a str) -> Submission<'a> {
    Submission {
        device,
        application: "console",
        key,
        name: "blink",
        params: b"{\"times\": 3}",
        ttl_ms: 3_600_000,
        since_ms: None,
        max_attempts: 3,
        replace: false,
        only_epoch: None,
        origin: None,
    }
}
