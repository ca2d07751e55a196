//! What becomes of records, with the commands in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::*;
use crate::commands::MAX_QUEUED;
use crate::commands::SharedCommands;
use crate::commands::memory::MemoryCommands;
use crate::id::DeviceKey;

const NOW: i64 = 1_800_000_000_000;

/// The commands in memory, away for as many calls as it is told.
struct Door {
    commands: SharedCommands,
    away: AtomicU32,
}

impl Taker for Arc<Door> {
    fn submit<'a>(&'a self, submission: Submission<'a>) -> CommandFuture<'a, Submitted> {
        Box::pin(async move {
            if self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                return Err(CommandError::Unavailable("away".into()));
            }
            self.commands.submit(&submission).await
        })
    }
}

/// What a dead letter tells: key, value, headers.
type Letter = (Option<String>, Option<Vec<u8>>, Vec<(String, String)>);

/// Dead letters, refused when longer than it takes.
#[derive(Default)]
struct Morgue {
    letters: Mutex<Vec<Letter>>,
    away: AtomicU32,
    most: AtomicUsize,
}

impl Ledger for Morgue {
    fn write<'a>(&'a self, entry: &'a Entry<'a>) -> LogFuture<'a, Result<(), WriteError>> {
        Box::pin(async move {
            if self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                return Err(WriteError::Unavailable("away".into()));
            }
            if entry.value.map_or(0, <[u8]>::len) > self.most.load(Ordering::SeqCst) {
                return Err(WriteError::Refused("too large".into()));
            }
            assert_eq!(entry.topic, "dead-letter");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let headers = entry.headers.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
            self.letters.lock().unwrap().push((entry.key.map(text), entry.value.map(<[u8]>::to_vec), headers));
            Ok(())
        })
    }
}

struct Rig {
    door: Arc<Door>,
    morgue: Arc<Morgue>,
    metrics: Metrics,
    inbox: Inbox,
}

impl Rig {
    fn new() -> Self {
        let commands = Arc::new(MemoryCommands::new(Arc::new(|| NOW), Arc::new(|_| None)));
        let door = Arc::new(Door { commands, away: AtomicU32::new(0) });
        let morgue = Arc::new(Morgue { most: AtomicUsize::new(1_000), ..Morgue::default() });
        let metrics = Metrics::new().unwrap();
        let now = Arc::new(|| NOW);
        let inbox = Inbox::new(Arc::clone(&door), Arc::clone(&morgue) as _, metrics.clone(), "t.commands", now);
        Self { door, morgue, metrics, inbox }
    }

    async fn queued(&self) -> Vec<String> {
        let device = DeviceKey::new("acme", "d1").unwrap();
        let list = self.door.commands.list(&device, 1_000).await.unwrap();
        list.into_iter().map(|command| command.name).collect()
    }

    fn reasons(&self) -> Vec<String> {
        let letters = self.morgue.letters.lock().unwrap();
        letters.iter().map(|letter| header(letter, "tg_reason")).collect()
    }

    fn count(&self, outcome: ReadOutcome) -> u64 {
        self.metrics.commands_read.of(outcome).get()
    }
}

fn header(letter: &Letter, name: &str) -> String {
    letter.2.iter().filter(|(have, _)| have == name).map(|(_, value)| value.clone()).collect::<Vec<_>>().join("|")
}

fn record(offset: i64, value: &str) -> Fetched {
    Fetched {
        partition: 3,
        offset,
        timestamp_ms: Some(NOW - 1_000),
        key: Some(b"acme/d1".to_vec()),
        value: Content::Bytes(value.as_bytes().to_vec()),
        headers: Vec::new(),
    }
}

fn order(name: &str) -> String {
    format!(r#"{{"name":"{name}","ttl_s":60}}"#)
}

#[tokio::test]
async fn a_record_read_twice_is_one_command() {
    let rig = Rig::new();
    for _ in 0..2 {
        rig.inbox.handle(record(1, &order("open"))).await;
    }
    rig.inbox.handle(record(2, &order("close"))).await;
    assert_eq!(rig.queued().await, ["open", "close"]);
    assert_eq!((rig.count(ReadOutcome::Accepted), rig.reasons().len()), (3, 0));
}

#[tokio::test]
async fn a_record_waits_while_nobody_takes_commands() {
    let rig = Rig::new();
    rig.door.away.store(2, Ordering::SeqCst);
    rig.inbox.handle(record(1, &order("open"))).await;
    assert_eq!(rig.queued().await, ["open"]);
    assert!(rig.reasons().is_empty());
}

#[tokio::test]
async fn what_is_not_taken_is_a_dead_letter_with_reason_and_origin() {
    let rig = Rig::new();
    rig.morgue.away.store(2, Ordering::SeqCst);
    let mut bad = record(7, "no json");
    bad.headers = vec![("ce_id".into(), b"x".to_vec()), ("tg_offset".into(), b"forged".to_vec())];
    rig.inbox.handle(bad).await;
    let letter = rig.morgue.letters.lock().unwrap().pop().unwrap();
    assert_eq!((letter.0.as_deref(), letter.1.as_deref()), (Some("acme/d1"), Some(&b"no json"[..])));
    let of = |name| header(&letter, name);
    assert_eq!([of("ce_id"), of("tg_reason"), of("tg_topic")], ["x", "malformed", "t.commands"]);
    assert_eq!([of("tg_partition"), of("tg_offset")], ["3", "7"]);
    assert!(of("tg_detail").contains("cannot be read"), "{letter:?}");
}

#[tokio::test]
async fn every_reason_has_its_name() {
    let rig = Rig::new();
    let named = |offset, name: &str| {
        let headers = vec![("ce_id".to_owned(), b"same".to_vec())];
        Fetched { headers, ..record(offset, &order(name)) }
    };
    rig.inbox.handle(named(1, "open")).await;
    rig.inbox.handle(named(2, "other")).await;
    rig.inbox.handle(Fetched { timestamp_ms: Some(NOW - 60_000), ..record(3, &order("late")) }).await;
    rig.inbox.handle(Fetched { value: Content::TooLarge(70_000), ..record(4, "") }).await;
    for offset in 0..MAX_QUEUED as i64 {
        rig.inbox.handle(record(100 + offset, &order("fill"))).await;
    }
    assert_eq!(rig.reasons(), ["conflict", "expired", "too_large", "queue_full"]);
    assert_eq!(rig.queued().await.len(), MAX_QUEUED);
    for outcome in [ReadOutcome::Conflict, ReadOutcome::Expired, ReadOutcome::TooLarge, ReadOutcome::QueueFull] {
        assert_eq!(rig.count(outcome), 1, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_dead_letter_that_does_not_fit_leaves_its_value_where_it_is() {
    let rig = Rig::new();
    rig.inbox.handle(record(7, &"x".repeat(2_000))).await;
    let letter = rig.morgue.letters.lock().unwrap().pop().unwrap();
    assert_eq!((letter.0.as_deref(), letter.1.as_deref()), (Some("acme/d1"), None));
    assert_eq!(header(&letter, "tg_offset"), "7");
}
