//! What changed, to whoever waits for it and to the event log.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::Router;
use crate::commands::{Command, CommandEvent, Reason, State, Turn};
use crate::eventlog::{EventLog, Kind, Record, SharedLog, Topic};
use crate::id::{Boot, CommandId, Epoch};
use crate::limits::fixed::{EVENT_BYTES, EVENTS};
use crate::mailbox::{Mailbox, Settled, WINDOW};
use crate::ownership::NodeLife;
use crate::receipts::{Receipts, Seat};
use crate::sync::lock;
use crate::telemetry::metrics::{CommandOutcome, CommandRoute, EventLoss, Metrics};
use crate::telemetry::traces::{TraceContext, TraceText};

/// When it is tried again what found no room.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Changes taken at once.
const NEWS: usize = 256;
/// Who wait at once until everything is published.
const ASKERS: usize = 4;
/// Ends whose storing is being noted.
const SETTLING: usize = 256;

/// Who waits until everything is published, on the way to the one task that knows.
pub(super) struct Flushes {
    ask: mpsc::Sender<oneshot::Sender<()>>,
    /// Until that task takes it.
    asked: Mutex<Option<mpsc::Receiver<oneshot::Sender<()>>>>,
}

impl Default for Flushes {
    fn default() -> Self {
        let (ask, asked) = mpsc::channel(ASKERS);
        Self { ask, asked: Mutex::new(Some(asked)) }
    }
}

/// An event on its way.
struct Outgoing {
    id: CommandId,
    epoch: Epoch,
    event: CommandEvent,
    /// Of an end: what metrics show.
    end: Option<End>,
    /// Of one that is sampled.
    trace: Option<TraceContext>,
}

#[derive(Clone, Copy)]
struct End {
    route: CommandRoute,
    outcome: CommandOutcome,
    after: Duration,
    /// From its acceptance to its first sending.
    delivery: Option<Duration>,
    /// From that to what its device said first.
    answer: Option<Duration>,
}

/// From one Unix millisecond to another; 0 where a clock was set back in between.
fn span(from_ms: i64, to_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(to_ms - from_ms).unwrap_or_default())
}

impl End {
    fn of(command: &Command, outcome: CommandOutcome, me: &NodeLife) -> Self {
        let ended_ms = command.history.last().map_or(command.created_ms, |turn| turn.at_ms);
        let mut turns = command.history.iter();
        let sent_ms = turns.find(|turn| turn.state == State::Sent).map(|turn| turn.at_ms);
        let said_ms = turns.find(|turn| is_answer(turn)).map(|turn| turn.at_ms);
        Self {
            route: route(command, me),
            outcome,
            after: span(command.created_ms, ended_ms),
            delivery: sent_ms.map(|sent_ms| span(command.created_ms, sent_ms)),
            answer: sent_ms.zip(said_ms).map(|(sent_ms, said_ms)| span(sent_ms, said_ms)),
        }
    }
}

/// Whether it is what the device said, and not what became of a command that it said nothing about.
const fn is_answer(turn: &Turn) -> bool {
    match turn.state {
        State::Received | State::Running | State::Succeeded | State::Rejected => true,
        State::Failed => turn.reason.is_none(),
        State::Queued | State::Sent | State::Expired | State::Canceled => false,
    }
}

impl Outgoing {
    fn of(command: &Command, me: &NodeLife) -> Self {
        let epoch = command.history.last().and_then(|turn| turn.epoch).unwrap_or(Epoch(0));
        let event = command.event();
        let end = outcome(command).map(|outcome| End::of(command, outcome, me));
        Self { id: command.id, epoch, event, end, trace: command.trace() }
    }

    fn name(&self) -> (CommandId, u32) {
        (self.id, self.event.version)
    }
}

fn route(command: &Command, me: &NodeLife) -> CommandRoute {
    let accepted_here = command.waits().is_none_or(|life| NodeLife::parse(life).as_ref() == Some(me));
    match command.life.attempts {
        0 => CommandRoute::Queued,
        _ if accepted_here => CommandRoute::Local,
        _ => CommandRoute::Peer,
    }
}

/// How a command ended; nothing where it has not.
fn outcome(command: &Command) -> Option<CommandOutcome> {
    Some(match (command.life.state, command.life.reason) {
        (State::Succeeded, _) => CommandOutcome::Succeeded,
        (State::Rejected, _) => CommandOutcome::Rejected,
        (State::Canceled, _) => CommandOutcome::Canceled,
        (State::Expired, Some(Reason::Unsent)) => CommandOutcome::Unsent,
        (State::Failed, Some(Reason::Undeliverable)) => CommandOutcome::Undeliverable,
        (State::Expired, _) | (State::Failed, Some(Reason::OutcomeUnknown)) => CommandOutcome::Unknown,
        (State::Failed, _) => CommandOutcome::Failed,
        (State::Queued | State::Sent | State::Received | State::Running, _) => return None,
    })
}

/// The events that wait, and those the log has not stored yet, by their numbers.
struct Desk {
    waiting: VecDeque<Outgoing>,
    bytes: usize,
    /// Everything here and everything whose storing is being noted: the sweep brings ends again meanwhile.
    known: HashSet<(CommandId, u32)>,
    under_way: [Option<Outgoing>; WINDOW],
    dropped: u64,
    metrics: Metrics,
}

impl Desk {
    fn new(metrics: Metrics) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            known: HashSet::new(),
            under_way: [const { None }; WINDOW],
            dropped: 0,
            metrics,
        }
    }

    /// Takes an event, where it is not here and there is room.
    fn take(&mut self, outgoing: Outgoing) {
        let bytes = outgoing.event.value.len();
        if self.known.contains(&outgoing.name()) {
            return;
        }
        if self.waiting.len() >= EVENTS || self.bytes + bytes > EVENT_BYTES {
            self.dropped += 1;
            self.metrics.command_events_dropped.of(EventLoss::Queue).inc();
            // The first, and then one line for every thousand.
            if self.dropped % 1_000 == 1 {
                tracing::warn!(dropped = self.dropped, "too many events of commands wait for the event log");
            }
            return;
        }
        self.known.insert(outgoing.name());
        self.bytes += bytes;
        self.waiting.push_back(outgoing);
    }

    /// Appends while there is something and room for it. `false`: the log, or a budget, took no more.
    fn append_some(&mut self, log: &dyn EventLog, seat: &Seat, boot: &Boot) -> bool {
        for (number, place) in (0..).zip(self.under_way.iter_mut()).filter(|(_, place)| place.is_none()) {
            let Some(next) = self.waiting.front() else { return true };
            let trace = next.trace.map(TraceContext::text);
            let record = Record {
                topic: Topic::CommandEvents,
                kind: Kind::Command { id: next.id, version: next.event.version },
                key: &next.event.device,
                boot,
                seq: None,
                timestamp_ms: None,
                received_ms: next.event.at_ms,
                epoch: next.epoch,
                traceparent: trace.as_ref().map(TraceText::as_str),
                value: &next.event.value,
            };
            if !seat.append(number, &record, log) {
                return false;
            }
            self.bytes -= next.event.value.len();
            *place = self.waiting.pop_front();
        }
        true
    }

    /// Takes off what the log reported, and gives the ends.
    fn settle(&mut self, settled: Settled) -> Vec<Outgoing> {
        let mut ends = Vec::new();
        for (number, place) in self.under_way.iter_mut().enumerate() {
            if settled.ended >> number & 1 == 0 {
                continue;
            }
            let Some(outgoing) = place.take() else { continue };
            if settled.refused >> number & 1 == 1 {
                tracing::error!(event = outgoing.event.id, "the event log refused an event of a command");
                self.metrics.command_events_dropped.of(EventLoss::Refused).inc();
            }
            if outgoing.end.is_some() {
                ends.push(outgoing);
            } else {
                self.known.remove(&outgoing.name());
            }
        }
        ends
    }
}

impl Router {
    /// Waits until every answer that came is told, and every change up to then published and noted as such, or until
    /// `end`; whether it was. To be called when no more come.
    pub async fn flush(&self, end: Instant) -> bool {
        let (asker, answer) = oneshot::channel();
        let flushed = async { self.flushes.ask.send(asker).await.is_ok() && answer.await.is_ok() };
        timeout_at(end, flushed).await.unwrap_or(false)
    }

    /// Takes what changed, for as long as the node lives: tells it, and publishes it, at most [`WINDOW`] at a time. One
    /// task of a router does.
    pub(super) async fn publish_events(self: Arc<Self>, log: SharedLog, receipts: Arc<Receipts>) {
        let Some(mut asked) = lock(&self.flushes.asked).take() else { return };
        let mut askers: Vec<oneshot::Sender<()>> = Vec::new();
        let mailbox = Arc::new(Mailbox::default());
        let seat = receipts.clerk(Arc::clone(&mailbox));
        let boot = Boot::from(mailbox.session());
        let mut desk = Desk::new(self.parts.metrics.clone());
        let mut settling = FuturesUnordered::new();
        loop {
            let busy = settling.len() >= SETTLING;
            let blocked = !busy && !desk.append_some(&*log, &seat, &boot);
            if desk.known.is_empty() && !askers.is_empty() && self.parts.courier.is_at_rest() {
                for asker in askers.drain(..) {
                    // Who does not listen any more has given up.
                    let _ = asker.send(());
                }
            }
            tokio::select! {
                news = self.parts.courier.news(NEWS) => {
                    let me = self.parts.registrar.life();
                    for command in news {
                        let outgoing = Outgoing::of(&command, &me);
                        self.spread(&command, &outgoing.event.value);
                        desk.take(outgoing);
                    }
                    // Somebody may wait for what was told; nobody waits for the log.
                    tokio::task::yield_now().await;
                }
                settled = mailbox.settled() => {
                    settling.extend(desk.settle(settled).into_iter().map(|end| self.settle_end(end)));
                }
                Some(name) = settling.next(), if !settling.is_empty() => {
                    desk.known.remove(&name);
                }
                Some(asker) = asked.recv(), if askers.len() < ASKERS => askers.push(asker),
                () = tokio::time::sleep(AGAIN_AFTER), if blocked || !askers.is_empty() => {}
            }
        }
    }

    /// The event of an end is stored, or never will be.
    async fn settle_end(&self, outgoing: Outgoing) -> (CommandId, u32) {
        let Outgoing { id, ref event, end, .. } = outgoing;
        let noted = self.parts.courier.commands().settle_published(&event.device, id, event.version).await;
        match noted {
            Ok(()) => {
                if let Some(End { route, outcome, after, delivery, answer }) = end {
                    self.parts.metrics.command_ended(route, outcome, after);
                    self.parts.metrics.command_answered(route, delivery, answer);
                }
            }
            Err(error) => tracing::debug!(event = event.id, %error, "the event of an end is published once more"),
        }
        outgoing.name()
    }
}
