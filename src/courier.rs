//! Between the commands of devices and the connections that have the devices: what waits goes out, what comes back is
//! told, and what changed waits here for whoever publishes it.
//!
//! A device has a line here only while something is to be done for it: commands to be written, commands written and not
//! heard of, answers to be told. A device without any costs nothing. Each line is worked at by one task at a time, so its
//! commands go out in the order of its queue; at most [`WORKERS`] lines are worked at at once, and one timer wakes those
//! that wait for a moment.

mod line;
mod rounds;
mod spans;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::commands::{Command, SharedCommands};
use crate::id::{CommandId, DeviceKey};
use crate::limits::fixed::{ANSWER_BYTES, ANSWERS, NEWS, NEWS_BYTES};
use crate::mailbox::Mailbox;
use crate::protocol::message::CommandAck;
use crate::sync::lock;
use crate::telemetry::metrics::{AnswerOutcome, EventLoss, Metrics};
use line::{Line, Said};

/// Lines worked at at once.
pub const WORKERS: usize = 64;

/// Brings commands to the connections of this node.
pub struct Courier {
    commands: SharedCommands,
    metrics: Metrics,
    news: Mutex<News>,
    bell: Notify,
    lines: Mutex<Lines>,
    /// The timer has to look earlier than it wanted to.
    hurry: Notify,
    clock: Clock,
    started: Instant,
}

/// What time it is.
type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// What changed, and about how many bytes it is.
#[derive(Default)]
struct News {
    queue: VecDeque<Command>,
    bytes: usize,
}

/// The lines, and who is to do something about them.
#[derive(Default)]
struct Lines {
    of: HashMap<DeviceKey, Line>,
    /// Lines that nobody works at and that have something to be done now.
    ready: VecDeque<DeviceKey>,
    workers: usize,
    /// Lines that wait for a moment, in milliseconds since the start; the second number tells those of one moment apart.
    due: BTreeMap<(u64, u64), DeviceKey>,
    numbers: u64,
    is_ticking: bool,
    answer_bytes: usize,
}

impl Courier {
    /// Of a node nobody is connected to.
    pub fn new(commands: SharedCommands, metrics: Metrics) -> Arc<Self> {
        Self::with_clock(commands, metrics, Arc::new(Instant::now))
    }

    fn with_clock(commands: SharedCommands, metrics: Metrics, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            commands,
            metrics,
            news: Mutex::default(),
            bell: Notify::new(),
            lines: Mutex::default(),
            hurry: Notify::new(),
            started: clock(),
            clock,
        })
    }

    /// The commands themselves.
    pub fn commands(&self) -> &SharedCommands {
        &self.commands
    }

    /// Commands wait for a device that has a connection here: it was claimed, or somebody rang for it. Rung twice is the
    /// same as rung once. To be called on the runtime.
    pub fn ring(self: &Arc<Self>, device: &DeviceKey, mailbox: &Arc<Mailbox>) {
        let mut lines = lock(&self.lines);
        // Who leaves closes its mailbox and then says so here: behind that nobody would clear the line away.
        if !mailbox.is_closed() && lines.of.entry(device.clone()).or_default().ring(mailbox) {
            self.make_ready(&mut lines, device);
        }
    }

    /// A device said something about a command, on whatever connection. Never waits: above [`ANSWERS`] and
    /// [`ANSWER_BYTES`] it is dropped, and the command asked for again. An id that is none is ignored. To be called on the
    /// runtime.
    pub fn answered(self: &Arc<Self>, device: &DeviceKey, mailbox: &Arc<Mailbox>, ack: &CommandAck<'_>) {
        let Ok(id) = CommandId::parse(&ack.id) else { return };
        let said = Said::new(id, ack, mailbox);
        let mut lines = lock(&self.lines);
        let fits = lines.answer_bytes + said.bytes() <= ANSWER_BYTES;
        let bytes = said.bytes();
        let line = lines.of.entry(device.clone()).or_default();
        if fits && line.say(said) {
            lines.answer_bytes += bytes;
        } else {
            line.lost(id, mailbox);
            self.metrics.command_answers.of(AnswerOutcome::Dropped).inc();
        }
        self.make_ready(&mut lines, device);
    }

    /// A connection found that the commands in its mailbox waited too long to be written: they are taken back and asked
    /// for anew.
    pub fn recall(self: &Arc<Self>, device: &DeviceKey, mailbox: &Arc<Mailbox>) {
        let mut lines = lock(&self.lines);
        if lines.of.get_mut(device).is_some_and(|line| line.recall(mailbox)) {
            self.make_ready(&mut lines, device);
        } else {
            // Heard of meanwhile on another connection, or another's by now.
            drop(mailbox.recall_orders());
        }
    }

    /// A connection ended; its mailbox is closed.
    pub fn left(&self, device: &DeviceKey, mailbox: &Arc<Mailbox>) {
        let mut lines = lock(&self.lines);
        if let Some(line) = lines.of.get_mut(device) {
            line.left(mailbox);
            lines.rest_if_idle(device);
        }
    }

    /// Devices something is to be done for.
    pub fn lines(&self) -> usize {
        lock(&self.lines).of.len()
    }

    /// Whether no answer of a device waits or is being told, and nobody has to hear of a change.
    pub fn is_at_rest(&self) -> bool {
        let lines = lock(&self.lines);
        // Who tells an answer puts the change among the news before it goes: so they are looked at last.
        lines.workers == 0 && lines.answer_bytes == 0 && lock(&self.news).queue.is_empty()
    }

    /// Something changed: it is to be published, and told to whoever waits for it. Its params are in neither, and not
    /// kept.
    pub fn tell(&self, mut command: Command) {
        command.params = Vec::new();
        let bytes = bytes_of(&command);
        let mut news = lock(&self.news);
        if news.queue.len() < NEWS && news.bytes + bytes <= NEWS_BYTES {
            news.queue.push_back(command);
            news.bytes += bytes;
            drop(news);
            self.bell.notify_one();
        } else {
            self.metrics.command_events_dropped.of(EventLoss::Backlog).inc();
        }
    }

    /// Up to `limit` of what changed, the oldest first, as soon as there is any.
    pub async fn news(&self, limit: usize) -> Vec<Command> {
        loop {
            {
                let mut news = lock(&self.news);
                let count = news.queue.len().min(limit);
                if count > 0 {
                    let some: Vec<Command> = news.queue.drain(..count).collect();
                    news.bytes -= some.iter().map(bytes_of).sum::<usize>();
                    return some;
                }
            }
            self.bell.notified().await;
        }
    }
}

impl Lines {
    /// Removes a line with which nothing is to be done any more; not while somebody works at it.
    fn rest_if_idle(&mut self, device: &DeviceKey) {
        let Some(line) = self.of.get_mut(device) else { return };
        if line.is_busy || !line.is_idle() {
            return;
        }
        if let Some(due) = line.due.take() {
            self.due.remove(&due);
        }
        self.of.remove(device);
    }
}

/// About how much memory a command without its params holds.
fn bytes_of(command: &Command) -> usize {
    let texts = [Some(&command.name), Some(&command.key), command.origin.as_ref(), command.message.as_ref()];
    let texts: usize = texts.into_iter().flatten().map(String::len).sum();
    let late = command.late.as_ref().and_then(|late| late.result.as_ref());
    let results: usize = command.result.iter().chain(late).map(Vec::len).sum();
    size_of::<Command>() + texts + results + size_of_val(command.history.as_slice())
}

#[cfg(test)]
mod tests;
