//! Commands that come by the log: each record of the topic `commands` is taken, or goes to the dead letters with the reason.
//!
//! A record counts as read once its command is in the directory, or its dead letter stored; while neither can be had it
//! waits, and those behind it. Read twice it is the same command, because its key is its own. What records look like is
//! in `docs/protocol/commands-topic.md`.

mod order;

use std::sync::Arc;
use std::time::Duration;

use crate::commands::{Clock, CommandError, CommandFuture, Submission, Submitted};
use crate::eventlog::{Content, Entry, Fetched, Handler, Ledger, LogFuture, WriteError};
use crate::router::Router;
use crate::telemetry::metrics::{Label, Metrics, ReadOutcome};
use crate::telemetry::traces;

use order::Order;

/// The topic's name without its prefix.
pub const TOPIC: &str = "commands";
/// Where what was not taken goes, without its prefix.
pub const DEAD_LETTERS: &str = "dead-letter";
/// Who asks, as `requested_by` has it: who may write to the topic is not known here.
pub const APPLICATION: &str = "kafka";

/// First and longest wait before something that was away is tried again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Every how many tries of one record its log line is repeated: with the longest wait about once a minute.
const SAY_EVERY: u32 = 30;
/// A longer key is left out of a dead letter that was refused whole.
const SHORT_KEY_BYTES: usize = 1_024;

/// Who takes commands.
pub trait Taker: Send + Sync + 'static {
    /// Takes one, as [`Router::submit`] does.
    fn submit<'a>(&'a self, submission: Submission<'a>) -> CommandFuture<'a, Submitted>;
}

impl Taker for Arc<Router> {
    fn submit<'a>(&'a self, submission: Submission<'a>) -> CommandFuture<'a, Submitted> {
        Box::pin(Router::submit(self, submission))
    }
}

/// Reads commands from the log.
pub struct Inbox {
    taker: Box<dyn Taker>,
    dead_letters: Arc<dyn Ledger>,
    metrics: Metrics,
    /// The full name of the topic that is read.
    topic: String,
    now: Clock,
}

/// Why a record is no command.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    outcome: ReadOutcome,
    detail: String,
}

impl Fault {
    fn malformed(detail: impl Into<String>) -> Self {
        Self { outcome: ReadOutcome::Malformed, detail: detail.into() }
    }
}

impl Inbox {
    /// One that reads the topic of this full name.
    pub fn new(
        taker: impl Taker,
        dead_letters: Arc<dyn Ledger>,
        metrics: Metrics,
        topic: impl Into<String>,
        now: Clock,
    ) -> Self {
        Self { taker: Box::new(taker), dead_letters, metrics, topic: topic.into(), now }
    }

    async fn take(&self, record: &Fetched) -> Result<(), Fault> {
        let order = Order::read(record, &self.topic)?;
        let mut wait = Wait::default();
        loop {
            let submitted = self.taker.submit(order.submission((self.now)()));
            let error = match traces::within(order.trace(), submitted).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let outcome = match &error {
                CommandError::Unavailable(reason) => {
                    if wait.is_worth_a_line() {
                        tracing::warn!(reason, "commands of the log wait until they can be taken");
                    }
                    wait.a_while().await;
                    continue;
                }
                CommandError::Conflict => ReadOutcome::Conflict,
                CommandError::QueueFull => ReadOutcome::QueueFull,
                CommandError::Expired => ReadOutcome::Expired,
                CommandError::TooLarge(_) => ReadOutcome::TooLarge,
                _ => ReadOutcome::Malformed,
            };
            return Err(Fault { outcome, detail: error.to_string() });
        }
    }

    /// Stores a record with the reason, and as it was as far as it fits.
    async fn bury(&self, record: &Fetched, fault: &Fault) {
        let (partition, offset) = (record.partition.to_string(), record.offset.to_string());
        let about = [
            ("tg_reason", fault.outcome.as_str().as_bytes()),
            ("tg_detail", fault.detail.as_bytes()),
            ("tg_topic", self.topic.as_bytes()),
            ("tg_partition", partition.as_bytes()),
            ("tg_offset", offset.as_bytes()),
        ];
        let own = record.headers.iter().filter(|(name, _)| !name.starts_with("tg_"));
        let headers: Vec<_> = own.map(|(name, value)| (name.as_str(), value.as_slice())).chain(about).collect();
        let value = match &record.value {
            Content::Bytes(value) => Some(value.as_slice()),
            Content::None | Content::TooLarge(_) => None,
        };
        let key = record.key.as_deref();
        let whole = Entry { topic: DEAD_LETTERS, key, value, headers: &headers };
        let short = key.filter(|key| key.len() <= SHORT_KEY_BYTES);
        let bare = Entry { topic: DEAD_LETTERS, key: short, value: None, headers: &about };
        let stored = self.store(&whole).await.is_ok() || self.store(&bare).await.is_ok();
        if stored {
            tracing::info!(reason = fault.outcome.as_str(), partition, offset, "a command of the log is a dead letter");
        } else {
            tracing::error!(
                reason = fault.outcome.as_str(),
                partition,
                offset,
                "a dead letter was refused: passed over"
            );
        }
    }

    /// Until it is stored or refused for good.
    async fn store(&self, entry: &Entry<'_>) -> Result<(), String> {
        let mut wait = Wait::default();
        loop {
            match self.dead_letters.write(entry).await {
                Ok(()) => return Ok(()),
                Err(WriteError::Refused(reason)) => return Err(reason),
                Err(WriteError::Unavailable(reason)) => {
                    if wait.is_worth_a_line() {
                        tracing::warn!(reason, "a dead letter waits until it can be stored");
                    }
                    wait.a_while().await;
                }
            }
        }
    }
}

impl Handler for Inbox {
    fn handle(&self, record: Fetched) -> LogFuture<'_, ()> {
        Box::pin(async move {
            let outcome = match self.take(&record).await {
                Ok(()) => ReadOutcome::Accepted,
                Err(fault) => {
                    self.bury(&record, &fault).await;
                    fault.outcome
                }
            };
            self.metrics.commands_read.of(outcome).inc();
        })
    }
}

/// Longer and longer waits.
#[derive(Default)]
struct Wait {
    tries: u32,
}

impl Wait {
    fn is_worth_a_line(&self) -> bool {
        self.tries.is_multiple_of(SAY_EVERY)
    }

    async fn a_while(&mut self) {
        let wait = FIRST_WAIT.saturating_mul(1 << self.tries.min(8)).min(LONGEST_WAIT);
        self.tries += 1;
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests;
