//! Who works at the lines: tasks that come when something is to be done and go when nothing is, and one timer.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::line::{Address, Ask, Line, Said, Work};
use super::{Courier, Lines, WORKERS, lock, spans};
use crate::commands::{Answer, Answered, Command, CommandError, MAX_QUEUED, Sending, Taken};
use crate::id::{CommandId, DeviceKey};
use crate::mailbox::{FRESH, Letter, Order, PostError, Signal};
use crate::protocol::message::CommandStatus;
use crate::protocol::{Encoding, write_message};
use crate::telemetry::metrics::{AnswerOutcome, SecurityEvent};
use crate::telemetry::traces::{self, Span};

/// Steps of one line before another has its turn.
const STEPS: usize = 64;

impl Courier {
    /// The clock of the lines.
    fn now_ms(&self) -> u64 {
        let passed = (self.clock)().saturating_duration_since(self.started);
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
    }

    /// Has a line worked at, unless it is already.
    pub(super) fn make_ready(self: &Arc<Self>, lines: &mut Lines, device: &DeviceKey) {
        let Some(line) = lines.of.get_mut(device).filter(|line| !line.is_busy) else { return };
        line.is_busy = true;
        if let Some(due) = line.due.take() {
            lines.due.remove(&due);
        }
        lines.ready.push_back(device.clone());
        if lines.workers < WORKERS {
            lines.workers += 1;
            tokio::spawn(Arc::clone(self).work());
        }
    }

    async fn work(self: Arc<Self>) {
        loop {
            let device = {
                let mut lines = lock(&self.lines);
                let Some(device) = lines.ready.pop_front() else {
                    lines.workers -= 1;
                    return;
                };
                device
            };
            self.serve(&device).await;
        }
    }

    async fn serve(self: &Arc<Self>, device: &DeviceKey) {
        for _ in 0..STEPS {
            let Some(work) = self.next(device) else { return };
            match work {
                Work::Answer(said) => self.tell_answer(device, said).await,
                Work::Ask(ask) => self.ask(device, ask).await,
                Work::Look(to, limit) => self.look(device, &to, limit).await,
                Work::Review(to, limit) => self.review(device, &to, limit).await,
            }
        }
        lock(&self.lines).ready.push_back(device.clone());
    }

    /// What is to be done next for a device; nothing: the line rests.
    fn next(self: &Arc<Self>, device: &DeviceKey) -> Option<Work> {
        let now_ms = self.now_ms();
        let mut guard = lock(&self.lines);
        let lines = &mut *guard;
        let line = lines.of.get_mut(device)?;
        match line.work(now_ms) {
            Some(Work::Answer(said)) => {
                lines.answer_bytes -= said.bytes();
                return Some(Work::Answer(said));
            }
            Some(work) => return Some(work),
            None => line.is_busy = false,
        }
        let due_ms = line.due_ms();
        lines.rest_if_idle(device);
        if let (Some(due_ms), Some(line)) = (due_ms, lines.of.get_mut(device)) {
            lines.numbers += 1;
            let due = (due_ms, lines.numbers);
            line.due = Some(due);
            lines.due.insert(due, device.clone());
            if !std::mem::replace(&mut lines.is_ticking, true) {
                tokio::spawn(Arc::clone(self).tick());
            } else if lines.due.first_key_value().is_some_and(|(first, _)| *first == due) {
                self.hurry.notify_one();
            }
        }
        None
    }

    /// The timer, while any line waits for a moment.
    async fn tick(self: Arc<Self>) {
        loop {
            let wait_ms = {
                let (now_ms, mut lines) = (self.now_ms(), lock(&self.lines));
                loop {
                    let Some(first) = lines.due.first_entry() else {
                        lines.is_ticking = false;
                        return;
                    };
                    if first.key().0 > now_ms {
                        break first.key().0 - now_ms;
                    }
                    let device = first.remove();
                    if let Some(line) = lines.of.get_mut(&device) {
                        line.due = None;
                    }
                    self.make_ready(&mut lines, &device);
                }
            };
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
                () = self.hurry.notified() => {}
            }
        }
    }

    /// Does something to a line that is worked at.
    fn with<T>(&self, device: &DeviceKey, something: impl FnOnce(&mut Line, u64) -> T) -> Option<T> {
        let now_ms = self.now_ms();
        lock(&self.lines).of.get_mut(device).map(|line| something(line, now_ms))
    }

    async fn look(&self, device: &DeviceKey, to: &Address, limit: usize) {
        let asked = (self.clock)();
        let Taken { ids, first } = match self.commands.take(device, to.epoch, limit).await {
            Ok(taken) => taken,
            Err(error) => return self.found_nothing_out(device, to, &error),
        };
        let ask = self.with(device, |line, _| line.found(to, &ids, limit)).flatten();
        if let (Some(ask), Some(sending)) = (ask, first) {
            self.send(device, ask, Ok(sending), asked).await;
        }
    }

    /// A look after one whose answer was lost.
    async fn review(&self, device: &DeviceKey, to: &Address, limit: usize) {
        match self.commands.list(device, MAX_QUEUED).await {
            Ok(commands) => drop(self.with(device, |line, _| line.reviewed(to, &commands, limit))),
            Err(error) => self.found_nothing_out(device, to, &error),
        }
    }

    fn found_nothing_out(&self, device: &DeviceKey, to: &Address, error: &CommandError) {
        tracing::debug!(%device, %error, "it cannot be seen which commands wait");
        self.with(device, |line, now_ms| line.found_nothing_out(to, now_ms));
    }

    async fn ask(&self, device: &DeviceKey, ask: Ask) {
        let asked = (self.clock)();
        let sending = self.commands.mark_sent(device, ask.id, ask.to.epoch, ask.again).await;
        self.send(device, ask, sending, asked).await;
    }

    /// Does what the directory said at a moment not before `asked`.
    async fn send(&self, device: &DeviceKey, ask: Ask, sending: Result<Sending, CommandError>, asked: Instant) {
        match sending {
            Ok(Sending::Write { command, changed }) => {
                let mut command = *command;
                spans::adopt(&self.metrics, &mut command, &ask.to.mailbox);
                if changed {
                    // Not copied: they are the largest part, and nobody is told them.
                    let params = std::mem::take(&mut command.params);
                    self.tell(command.clone());
                    command.params = params;
                }
                self.post(device, &ask, command, asked).await;
            }
            Ok(Sending::Undeliverable(command)) => {
                self.with(device, |line, now_ms| line.done(&ask, false, now_ms));
                self.tell(*command);
            }
            Ok(Sending::Fenced) => {
                tracing::debug!(%device, epoch = ask.to.epoch.0, "a connection that has commands is not its device's");
                self.with(device, |line, _| line.fenced(&ask.to));
            }
            Ok(Sending::Spent) => drop(self.with(device, |line, now_ms| line.spent(&ask, now_ms))),
            Ok(Sending::Ended | Sending::PastDeadline | Sending::Gone) => {
                self.with(device, |line, now_ms| line.done(&ask, true, now_ms));
            }
            Err(error) => self.not_now(device, &ask, &error),
        }
    }

    fn not_now(&self, device: &DeviceKey, ask: &Ask, error: &CommandError) {
        tracing::debug!(%device, command = %ask.id, %error, "a command cannot be sent now");
        self.with(device, |line, now_ms| line.not_now(ask, now_ms));
    }

    /// Leaves a command that may be written for its connection.
    async fn post(&self, device: &DeviceKey, ask: &Ask, command: Command, asked: Instant) {
        let mut span = spans::deliver(&self.metrics, &command, ask, asked);
        let context = span.as_ref().map(Span::context);
        let order = match order(command, ask, asked) {
            Ok(order) => order,
            Err(why) => {
                if let Some(span) = &mut span {
                    span.fail(why);
                }
                return traces::within(context, self.fail(device, ask, why)).await;
            }
        };
        if (self.clock)().saturating_duration_since(asked) >= FRESH {
            // The answer came too late to count.
            self.with(device, |line, now_ms| line.not_now(ask, now_ms));
            if let Some(span) = &mut span {
                span.fail("late");
            }
            return;
        }
        let posted = self.with(device, |line, now_ms| {
            if !line.has(&ask.to) {
                return Err(PostError::Gone);
            }
            let posted = ask.to.mailbox.post(Letter::Command(Box::new(order)));
            match posted {
                Ok(()) => line.posted(ask, now_ms),
                Err(PostError::Full) => line.not_now(ask, now_ms),
                Err(PostError::Gone) => line.left(&ask.to.mailbox),
            }
            posted
        });
        if let (Some(span), Some(Err(error))) = (&mut span, posted) {
            span.fail(if error == PostError::Full { "full" } else { "disconnected" });
        }
    }

    /// Ends a command that was allowed to be written and cannot be.
    async fn fail(&self, device: &DeviceKey, ask: &Ask, why: &'static str) {
        tracing::info!(%device, command = %ask.id, why, "a command was not written");
        let answer = Answer { status: CommandStatus::Failed, result: None, message: Some(why) };
        match self.commands.answer(device, ask.id, answer).await {
            Ok(answered) => {
                self.with(device, |line, now_ms| line.done(ask, false, now_ms));
                if let Answered::Changed(command) = answered {
                    self.tell(*command);
                }
            }
            Err(error) => self.not_now(device, ask, &error),
        }
    }

    async fn tell_answer(&self, device: &DeviceKey, said: Said) {
        let asked = (self.clock)();
        let (status, result) = (said.status, said.result.as_deref());
        let answer = Answer { status, result, message: said.message.as_deref() };
        let outcome = match self.commands.answer(device, said.id, answer).await {
            Ok(Answered::Changed(mut command)) => {
                self.heard(device, said.id);
                let span = spans::answer(&self.metrics, &mut command, &said, asked);
                self.tell(*command);
                drop(span);
                AnswerOutcome::Changed
            }
            Ok(Answered::Known) => {
                self.heard(device, said.id);
                AnswerOutcome::Known
            }
            Ok(Answered::Late) => {
                self.heard(device, said.id);
                AnswerOutcome::Late
            }
            Ok(Answered::NeverSent) => self.guessed(device, &said, AnswerOutcome::NeverSent),
            Ok(Answered::Gone) => self.guessed(device, &said, AnswerOutcome::Gone),
            Err(error) => {
                tracing::debug!(%device, command = %said.id, %error, "an answer is dropped: the command comes again");
                self.with(device, |line, now_ms| line.not_told(&said, now_ms));
                AnswerOutcome::Unavailable
            }
        };
        self.metrics.command_answers.of(outcome).inc();
    }

    fn heard(&self, device: &DeviceKey, id: CommandId) -> bool {
        self.with(device, |line, _| line.heard(id)).unwrap_or(false)
    }

    /// Somebody guesses, unless this node wrote the command and the directory lost it.
    fn guessed(&self, device: &DeviceKey, said: &Said, outcome: AnswerOutcome) -> AnswerOutcome {
        if !self.heard(device, said.id) {
            self.with(device, |line, now_ms| line.guessed(now_ms));
            self.metrics.security_events.of(SecurityEvent::GuessedCommand).inc();
            said.mailbox.signal(Signal::Guess);
        }
        outcome
    }
}

/// What goes to the connection. `Err`: it cannot be written there, and why.
fn order(command: Command, ask: &Ask, asked: Instant) -> Result<Order, &'static str> {
    let params = String::from_utf8(command.params).map_err(|_| "not written: its params are not UTF-8")?;
    // In CBOR and Protobuf they are written as what they mean, not as they stand.
    serde_json::from_str::<Value>(&params)
        .map_err(|_| "not written: its params are not JSON that every device reads")?;
    let order = Order {
        id: command.id,
        name: command.name,
        params,
        expires_at_ms: command.life.deadline_ms,
        attempt: command.life.attempts,
        again: ask.again,
        asked,
    };
    match ask.to.mailbox.max_bytes() {
        // As everywhere, the size is that of the JSON form.
        Some(max_bytes) if json_bytes(&order) > max_bytes => {
            Err("not written: it is larger than the max_bytes of the device's connection")
        }
        _ => Ok(order),
    }
}

fn json_bytes(order: &Order) -> usize {
    let mut json = Vec::with_capacity(order.params.len() + 256);
    order.message(|message| write_message(Encoding::Json, message, &mut json));
    json.len()
}
