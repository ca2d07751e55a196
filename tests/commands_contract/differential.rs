//! Random histories on both twins: every answer must be the same, and so must everything that is kept.

use fastrand::Rng;
use tidegate::commands::{Answer, SHARDS, Submission};
use tidegate::id::{CommandId, DeviceKey, Epoch};
use tidegate::protocol::message::CommandStatus;

use super::bench::{self, Bench, device, order};
use super::support::redis::Redis;

const HISTORIES: u64 = 80;
const STEPS: usize = 80;

/// One thing that happens; drawn once and done to both.
#[derive(Debug, Clone)]
enum Act {
    Pass(i64),
    Hold { node: &'static str, epoch: u64 },
    LetGo,
    Submit { key: usize, name: &'static str, ttl_ms: u64, age_ms: Option<i64>, attempts: u32, replace: bool, slow: i64 },
    SubmitFor { key: usize, epoch: u64 },
    Pending { epoch: u64, limit: usize },
    Take { epoch: u64, limit: usize },
    Mark { key: usize, epoch: u64, again: bool },
    Answer { key: usize, status: CommandStatus, result: bool, message: bool },
    Cancel { key: usize },
    Sweep,
    Ripe,
    Settle { key: usize, version: u32 },
    List { limit: usize },
}

const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const NAMES: [&str; 2] = ["blink", "dim"];

fn draw(rng: &mut Rng) -> Act {
    let (key, epoch) = (rng.usize(..KEYS.len()), rng.u64(1..6));
    match rng.u32(..100) {
        0..14 => Act::Pass(*rng.choice(&[1, 900, 4_000, 5_001, 12_000, 30_000, 31_000, 95_000, 660_000]).unwrap()),
        14..24 => Act::Hold { node: rng.choice(["n1", "n2", "dead"]).unwrap(), epoch },
        24..26 => Act::LetGo,
        26..42 => Act::Submit {
            key,
            name: rng.choice(NAMES).unwrap(),
            ttl_ms: *rng.choice(&[1_000, 20_000, 20_000, 600_000]).unwrap(),
            age_ms: rng.choice([None, None, Some(500), Some(30_000)]).unwrap(),
            attempts: rng.u32(1..4),
            replace: rng.u8(..5) == 0,
            slow: *rng.choice(&[0, 0, 0, 0, 0, 3_000, 5_001]).unwrap(),
        },
        42..44 => Act::SubmitFor { key, epoch },
        44..47 => Act::Pending { epoch, limit: rng.usize(1..9) },
        47..54 => Act::Take { epoch, limit: rng.usize(1..9) },
        54..68 => Act::Mark { key, epoch, again: rng.bool() },
        68..82 => Act::Answer {
            key,
            status: *rng.choice(&CommandStatus::ALL).unwrap(),
            result: rng.bool(),
            message: rng.u8(..4) == 0,
        },
        82..86 => Act::Cancel { key },
        86..92 => Act::Sweep,
        92..94 => Act::Ripe,
        94..98 => Act::Settle { key, version: rng.u32(1..7) },
        _ => Act::List { limit: rng.usize(1..9) },
    }
}

/// Does one thing and tells what came of it, as text.
async fn act(bench: &Bench, device: &DeviceKey, act: &Act) -> String {
    let commands = bench.commands();
    let id = |key: usize| CommandId::of(device, "console", KEYS[key]);
    match act.clone() {
        Act::Pass(ms) => bench.pass(ms),
        Act::Hold { node, epoch } => bench.hold(device, node, epoch).await,
        Act::LetGo => bench.let_go(device).await,
        Act::Submit { key, name, ttl_ms, age_ms, attempts, replace, slow } => {
            let since_ms = age_ms.map(|age| bench.now() - age);
            bench.pass_within_next_call(slow);
            let max_attempts = attempts;
            let asked = Submission { name, ttl_ms, since_ms, max_attempts, replace, ..order(device, KEYS[key]) };
            return format!("{:?}", commands.submit(&asked).await);
        }
        Act::SubmitFor { key, epoch } => {
            let asked = Submission { only_epoch: Some(Epoch(epoch)), ..order(device, KEYS[key]) };
            return format!("{:?}", commands.submit(&asked).await);
        }
        Act::Pending { epoch, limit } => return format!("{:?}", commands.pending(device, Epoch(epoch), limit).await),
        Act::Take { epoch, limit } => return format!("{:?}", commands.take(device, Epoch(epoch), limit).await),
        Act::Mark { key, epoch, again } => {
            return format!("{:?}", commands.mark_sent(device, id(key), Epoch(epoch), again).await);
        }
        Act::Answer { key, status, result, message } => {
            let answer = Answer { status, result: result.then_some(b"{}"), message: message.then_some("words") };
            return format!("{:?}", commands.answer(device, id(key), answer).await);
        }
        Act::Cancel { key } => return format!("{:?}", commands.cancel(device, id(key)).await),
        Act::Sweep => return format!("{:?}", bench.sweep().await),
        Act::Ripe => {
            let all: Vec<u8> = (0..SHARDS).collect();
            return format!("{:?}", commands.ripe(&all).await);
        }
        Act::Settle { key, version } => {
            return format!("{:?}", commands.settle_published(device, id(key), version).await);
        }
        Act::List { limit } => return format!("{:?}", commands.list(device, limit).await),
    }
    String::new()
}

async fn everything(bench: &Bench, devices: &[DeviceKey]) -> Vec<String> {
    let (commands, mut all) = (bench.commands(), vec![format!("{} entries", bench.due_entries().await)]);
    for device in devices {
        for key in KEYS {
            all.push(format!("{:?}", commands.get(device, CommandId::of(device, "console", key)).await));
        }
        all.push(format!("{:?}", commands.list(device, 100).await));
    }
    all
}

#[tokio::test]
async fn redis_and_memory_give_the_same_answers_to_random_histories() {
    let server = Redis::start();
    let (memory, redis) = (bench::memory(), bench::redis("redis", &server.url()).await);
    let seed = std::env::var("TIDEGATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = seed.unwrap_or_else(|| fastrand::u64(..u64::MAX - HISTORIES));
    eprintln!("histories from TIDEGATE_TEST_SEED={first}");
    let devices = [device("lamp"), device("door")];
    for seed in first..first + HISTORIES {
        memory.empty().await;
        redis.empty().await;
        let mut rng = Rng::with_seed(seed);
        let mut past = Vec::new();
        for _ in 0..STEPS {
            let (device, next) = (&devices[usize::from(rng.u8(..4) == 0)], draw(&mut rng));
            let (ours, theirs) = (act(&memory, device, &next).await, act(&redis, device, &next).await);
            past.push(format!("{} {device} {next:?}", memory.now()));
            let tail = past[past.len().saturating_sub(25)..].join("\n");
            assert_eq!(ours, theirs, "memory and Redis differ, TIDEGATE_TEST_SEED={seed}, after\n{tail}");
            assert_eq!(memory.now(), redis.now());
        }
        let (ours, theirs) = (everything(&memory, &devices).await, everything(&redis, &devices).await);
        assert_eq!(ours, theirs, "memory and Redis differ at the end of TIDEGATE_TEST_SEED={seed}");
    }
}
