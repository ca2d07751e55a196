//! What changed, to whoever waits for it and to the event log.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Router;
use crate::commands::{Command, CommandEvent, Reason, State};
use crate::eventlog::{EventLog, Kind, Record, SharedLog, Topic};
use crate::id::{Boot, CommandId, Epoch};
use crate::keeper::publish::settled;
use crate::mailbox::{Mailbox, Settled, WINDOW};
use crate::ownership::NodeLife;
use crate::receipts::{Receipts, Seat};
use crate::telemetry::metrics::{CommandOutcome, CommandRoute};

/// When it is tried again what found no room.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Changes taken at once.
const NEWS: usize = 256;
/// Events that may wait for the log, and the bytes of their values. With the log away those of ends come again by the due
/// sweep, and the others are lost.
const WAITING: usize = 16_384;
const WAITING_BYTES: usize = 16 * 1024 * 1024;
/// Ends whose storing is being noted.
const SETTLING: usize = 256;

/// An event on its way.
struct Outgoing {
    id: CommandId,
    epoch: Epoch,
    event: CommandEvent,
    /// Of an end: what metrics show.
    end: Option<End>,
}

#[derive(Clone, Copy)]
struct End {
    route: CommandRoute,
    outcome: CommandOutcome,
    after: Duration,
}

impl Outgoing {
    fn of(command: &Command, me: &NodeLife) -> Self {
        let epoch = command.history.last().and_then(|turn| turn.epoch).unwrap_or(Epoch(0));
        let event = command.event();
        let end = outcome(command).map(|outcome| {
            let took_ms = u64::try_from(event.at_ms - command.created_ms).unwrap_or_default();
            End { route: route(command, me), outcome, after: Duration::from_millis(took_ms) }
        });
        Self { id: command.id, epoch, event, end }
    }

    fn name(&self) -> (CommandId, u32) {
        (self.id, self.event.version)
    }
}

fn route(command: &Command, me: &NodeLife) -> CommandRoute {
    let accepted_here = command.origin.as_deref().is_none_or(|origin| NodeLife::parse(origin).as_ref() == Some(me));
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
}

impl Desk {
    fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            known: HashSet::new(),
            under_way: [const { None }; WINDOW],
            dropped: 0,
        }
    }

    /// Takes an event, where it is not here and there is room.
    fn take(&mut self, outgoing: Outgoing) {
        let bytes = outgoing.event.value.len();
        if self.known.contains(&outgoing.name()) {
            return;
        }
        if self.waiting.len() >= WAITING || self.bytes + bytes > WAITING_BYTES {
            self.dropped += 1;
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
            let bytes = next.event.value.len();
            let Some(ticket) = seat.ticket(number, bytes) else { return false };
            let record = Record {
                topic: Topic::CommandEvents,
                kind: Kind::Command { id: next.id, version: next.event.version },
                key: &next.event.device,
                boot,
                seq: None,
                timestamp_ms: None,
                received_ms: next.event.at_ms,
                epoch: next.epoch,
                traceparent: None,
                value: &next.event.value,
            };
            if log.append(&record, ticket).is_err() {
                seat.give_back(bytes);
                return false;
            }
            self.bytes -= bytes;
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
    /// Takes what changed, for as long as the node lives: tells it, and publishes it, at most [`WINDOW`] at a time.
    pub(super) async fn publish_events(self: Arc<Self>, log: SharedLog, receipts: Arc<Receipts>) {
        let mailbox = Arc::new(Mailbox::default());
        let seat = receipts.clerk(Arc::clone(&mailbox));
        let boot = Boot::from(mailbox.session());
        let mut desk = Desk::new();
        let mut settling = FuturesUnordered::new();
        loop {
            let busy = settling.len() >= SETTLING;
            let blocked = !busy && !desk.append_some(&*log, &seat, &boot);
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
                settled = settled(&mailbox) => {
                    settling.extend(desk.settle(settled).into_iter().map(|end| self.settle_end(end)));
                }
                Some(name) = settling.next(), if !settling.is_empty() => {
                    desk.known.remove(&name);
                }
                () = tokio::time::sleep(AGAIN_AFTER), if blocked => {}
            }
        }
    }

    /// The event of an end is stored, or never will be.
    async fn settle_end(&self, outgoing: Outgoing) -> (CommandId, u32) {
        let Outgoing { id, ref event, end, .. } = outgoing;
        let noted = self.parts.courier.commands().settle_published(&event.device, id, event.version).await;
        match noted {
            Ok(()) => {
                if let Some(End { route, outcome, after }) = end {
                    self.parts.metrics.command_ended(route, outcome, after);
                }
            }
            Err(error) => tracing::debug!(event = event.id, %error, "the event of an end is published once more"),
        }
        outgoing.name()
    }
}
