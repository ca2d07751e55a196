//! Commands in memory, for `tidegate dev` and for tests: the same promises, until the process ends.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard};

use super::lifecycle::{Event, Ignored, Life, Reason, State, Step, transition};
use super::{
    ACCEPT_MS, Answer, Answered, Canceled, Clock, Command, CommandError, CommandFuture, Commands, DANGLING_MS, Due,
    KEPT_MS, Late, MAX_QUEUED, RING_MS, Ripe, Row, SHARDS, Sending, Submission, Submitted, Swept, Turn, due_member,
    parse_due_member, shard_of,
};
use crate::id::{CommandId, DeviceKey, Epoch};
use crate::sync::lock;

/// Ended and published commands that are kept at most; the oldest go first.
const KEPT: usize = 10_000;

/// Who holds a device, as the directory has it; nobody where the row is settled.
pub type Rows = Arc<dyn Fn(&DeviceKey) -> Option<Row> + Send + Sync>;

type Key = (DeviceKey, CommandId);

struct Stored {
    command: Command,
    body: String,
    /// When it is forgotten, Unix milliseconds.
    forget_ms: Option<i64>,
}

/// When an entry comes due, in half milliseconds: an odd one was without its command when it was last looked at.
type Score = i64;

const fn at(ms: i64) -> Score {
    ms * 2
}

const fn at_once_more(ms: i64) -> Score {
    ms * 2 + 1
}

#[derive(Default)]
struct Shelves {
    commands: HashMap<Key, Stored>,
    queues: HashMap<DeviceKey, VecDeque<CommandId>>,
    due: BTreeMap<u8, BTreeMap<String, Score>>,
    /// Published ends, in the order in which they are forgotten.
    published: VecDeque<Key>,
}

/// The twin in memory. Its time is the clock it was given, its rows are those of the directory it was given.
pub struct MemoryCommands {
    shelves: Mutex<Shelves>,
    clock: Clock,
    rows: Rows,
}

impl MemoryCommands {
    /// An empty one.
    pub fn new(clock: Clock, rows: Rows) -> Self {
        Self { shelves: Mutex::default(), clock, rows }
    }

    /// How many entries the lists of what comes due have.
    pub fn due_entries(&self) -> usize {
        self.shelves().due.values().map(BTreeMap::len).sum()
    }

    /// Whether a device has commands that have not ended: what the directory in memory asks at a claim.
    pub fn waits(&self, device: &DeviceKey) -> bool {
        self.shelves().queues.contains_key(device)
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        lock(&self.shelves)
    }

    /// The shelves and the time.
    fn open(&self) -> (MutexGuard<'_, Shelves>, i64) {
        let (now, mut shelves) = ((self.clock)(), self.shelves());
        shelves.forget(now);
        (shelves, now)
    }

    fn submit_now(&self, submission: &Submission<'_>) -> Result<Submitted, CommandError> {
        submission.check()?;
        let (id, device) = (submission.id(), submission.device);
        let ttl = i64::try_from(submission.ttl_ms).unwrap_or(i64::MAX);
        let deadline = submission.since_ms.map(|since| since.saturating_add(ttl));
        // The entry first, as in Redis: a command without one would never end.
        let (mut shelves, first_ms) = self.open();
        let end = deadline.unwrap_or(first_ms.saturating_add(ttl));
        let score = at(end.max(first_ms + ACCEPT_MS).min(first_ms + RING_MS));
        shelves.lower_due(device, id, score);
        drop(shelves);

        let (mut shelves, now) = self.open();
        let row = (self.rows)(device);
        let body = submission.body_hash();
        if let Some(stored) = shelves.commands.get(&(device.clone(), id)) {
            let known = Submitted { command: stored.command.clone(), new: false, row, replaced: Vec::new() };
            return if stored.body == body { Ok(known) } else { Err(CommandError::Conflict) };
        }
        if now - first_ms > ACCEPT_MS {
            return Err(CommandError::Unavailable("the directory is slow".to_owned()));
        }
        let deadline_ms = deadline.unwrap_or(now.saturating_add(ttl));
        let away = submission.only_epoch.is_some_and(|only| row.as_ref().is_none_or(|row| row.epoch != only));
        let replaced = shelves.replaceable(submission);
        let queued = shelves.queues.get(device).map_or(0, VecDeque::len) - replaced.len();
        let refusal = match () {
            () if deadline_ms <= now => Some(CommandError::Expired),
            () if away => Some(CommandError::NotConnected),
            () if queued >= MAX_QUEUED => Some(CommandError::QueueFull),
            () => None,
        };
        if let Some(refusal) = refusal {
            let soon = at_once_more(first_ms + ACCEPT_MS + 1_000);
            shelves.move_due(device, id, score, Some(soon));
            return Err(refusal);
        }
        let replaced = replaced.into_iter().filter_map(|id| shelves.step(device, id, Event::Replace, now).ok()?.1);
        let replaced = replaced.collect();
        let command = accepted(submission, id, deadline_ms, now);
        let stored = Stored { command: command.clone(), body, forget_ms: None };
        shelves.commands.insert((device.clone(), id), stored);
        shelves.queues.entry(device.clone()).or_default().push_back(id);
        Ok(Submitted { command, new: true, row, replaced })
    }

    fn mark_now(&self, device: &DeviceKey, id: CommandId, epoch: Epoch, again: bool) -> Sending {
        let (mut shelves, now) = self.open();
        let row = (self.rows)(device).map(|row| row.epoch);
        let event = Event::Send { epoch, row, again };
        let (step, command) = match shelves.step(device, id, event, now) {
            Ok((step, _)) => (step, shelves.command(device, id)),
            Err(None) => return Sending::Gone,
            Err(Some(Ignored::Fenced)) => return Sending::Fenced,
            Err(Some(Ignored::PastDeadline)) => return Sending::PastDeadline,
            Err(Some(Ignored::Spent)) => return Sending::Spent,
            Err(Some(_)) => return Sending::Ended,
        };
        let Some(command) = command.map(Box::new) else { return Sending::Gone };
        shelves.hasten(&command, now);
        if step.frame { Sending::Write { command, changed: step.changed } } else { Sending::Undeliverable(command) }
    }

    fn answer_now(&self, device: &DeviceKey, id: CommandId, answer: Answer<'_>) -> Answered {
        let (mut shelves, now) = self.open();
        let (result, message) = (answer.result.map(<[u8]>::to_vec), answer.kept_message().map(str::to_owned));
        match shelves.step(device, id, Event::Answer(answer.status), now) {
            Ok(_) => {}
            Err(None) => return Answered::Gone,
            Err(Some(Ignored::NeverSent)) => return Answered::NeverSent,
            Err(Some(Ignored::Late)) => return shelves.late(device, id, answer, now),
            Err(Some(_)) => return Answered::Known,
        }
        let Some(stored) = shelves.commands.get_mut(&(device.clone(), id)) else { return Answered::Gone };
        if stored.command.life.state.is_terminal() {
            (stored.command.result, stored.command.message) = (result, message);
        }
        let command = Box::new(stored.command.clone());
        shelves.hasten(&command, now);
        Answered::Changed(command)
    }

    fn cancel_now(&self, device: &DeviceKey, id: CommandId) -> Result<Canceled, CommandError> {
        let (mut shelves, now) = self.open();
        let changed = match shelves.step(device, id, Event::Cancel, now) {
            Ok(_) => true,
            Err(Some(Ignored::AlreadyCanceled)) => false,
            Err(None) => return Err(CommandError::NotFound),
            Err(Some(_)) => {
                let command = shelves.command(device, id).ok_or(CommandError::NotFound)?;
                return Err(CommandError::TooLate(command.life.state));
            }
        };
        let command = shelves.command(device, id).ok_or(CommandError::NotFound)?;
        if changed {
            shelves.hasten(&command, now);
        }
        Ok(Canceled { command, changed })
    }

    fn pending_now(&self, device: &DeviceKey, epoch: Epoch, limit: usize) -> Vec<CommandId> {
        let (shelves, now) = self.open();
        let sendable = |id: &CommandId| {
            let life = shelves.commands.get(&(device.clone(), *id)).map(|stored| stored.command.life);
            life.is_some_and(|life| life.epoch != Some(epoch) && now < life.deadline_ms)
        };
        shelves.queue(device).filter(sendable).take(limit).collect()
    }

    fn ripe_now(&self, shards: &[u8]) -> Ripe {
        let (shelves, now) = self.open();
        let mut ripe = Ripe { shards: Vec::new(), quiet_ms: ACCEPT_MS };
        for shard in shards {
            let first = shelves.due.get(shard).into_iter().flat_map(BTreeMap::values).min();
            match first {
                Some(score) if *score <= at(now) => ripe.shards.push(*shard),
                Some(score) => ripe.quiet_ms = ripe.quiet_ms.min((score - at(now)) / 2),
                None => {}
            }
        }
        ripe
    }

    fn sweep_now(&self, shard: u8, limit: usize, live: &dyn Fn(&Row) -> bool) -> Swept {
        let (mut shelves, now) = self.open();
        let mut due: Vec<(Score, String)> = shelves
            .due
            .get(&shard)
            .into_iter()
            .flatten()
            .filter(|(_, score)| **score <= at(now))
            .map(|(member, score)| (*score, member.clone()))
            .collect();
        due.sort();
        due.truncate(limit);
        let mut swept = Swept { work: Vec::new(), looked: due.len() };
        for (score, member) in due {
            let Some((device, id)) = parse_due_member(&member) else { continue };
            let (next, work) = self.look(&mut shelves, (&device, id), score, now, live);
            shelves.move_due(&device, id, score, next);
            swept.work.extend(work);
        }
        swept
    }

    /// What is to be done about one entry that is due, and when it is due again; never: `None`.
    fn look(
        &self,
        shelves: &mut Shelves,
        (device, id): (&DeviceKey, CommandId),
        score: Score,
        now: i64,
        live: &dyn Fn(&Row) -> bool,
    ) -> (Option<Score>, Option<Due>) {
        drop(shelves.step(device, id, Event::Deadline, now));
        let Some(command) = shelves.command(device, id) else {
            let once_more = (score % 2 == 0).then_some(at_once_more(now + DANGLING_MS));
            return (once_more, None);
        };
        if command.published {
            return (None, None);
        }
        if command.life.state.is_terminal() {
            return (Some(at(now + RING_MS)), Some(Due::Publish(Box::new(command))));
        }
        let deadline_ms = command.life.deadline_ms;
        match (self.rows)(device).filter(|row| live(row)) {
            Some(row) => {
                let ring = Due::Ring { device: device.clone(), id, row };
                (Some(at(deadline_ms.min(now + RING_MS))), Some(ring))
            }
            None => (Some(at(deadline_ms)), None),
        }
    }

    fn settle_now(&self, device: &DeviceKey, id: CommandId, version: u32) {
        let (mut shelves, now) = self.open();
        let key = (device.clone(), id);
        let Some(stored) = shelves.commands.get_mut(&key) else { return };
        let life = stored.command.life;
        if !life.state.is_terminal() || life.version != version {
            return;
        }
        if !stored.command.published {
            stored.command.published = true;
            stored.forget_ms = Some(now + KEPT_MS);
            shelves.published.push_back(key);
        }
        if let Some(entries) = shelves.due.get_mut(&shard_of(id)) {
            entries.remove(&due_member(device, id));
        }
    }
}

fn accepted(submission: &Submission<'_>, id: CommandId, deadline_ms: i64, now: i64) -> Command {
    let life = Life::accepted(submission.max_attempts, deadline_ms);
    Command {
        id,
        device: submission.device.clone(),
        name: submission.name.to_owned(),
        params: submission.params.to_vec(),
        life,
        created_ms: now,
        requested_by: submission.application.to_owned(),
        key: submission.key.to_owned(),
        origin: submission.origin.map(str::to_owned),
        result: None,
        message: None,
        history: vec![turn(&life, now)],
        late: None,
        published: false,
    }
}

const fn turn(life: &Life, at_ms: i64) -> Turn {
    let Life { version, state, attempts, epoch, reason, .. } = *life;
    Turn { version, state, at_ms, attempts, epoch, reason }
}

impl Shelves {
    /// Makes the step that an event is, and gives it with the command when that is a transition. `Err(None)`: there is no
    /// such command.
    fn step(
        &mut self,
        device: &DeviceKey,
        id: CommandId,
        event: Event,
        now: i64,
    ) -> Result<(Step, Option<Command>), Option<Ignored>> {
        let stored = self.commands.get_mut(&(device.clone(), id)).ok_or(None)?;
        let step = transition(&stored.command.life, event, now).map_err(Some)?;
        stored.command.life = step.life;
        if !step.changed {
            return Ok((step, None));
        }
        stored.command.history.push(turn(&step.life, now));
        let command = stored.command.clone();
        if step.life.state.is_terminal()
            && let Some(queue) = self.queues.get_mut(device)
        {
            queue.retain(|queued| *queued != id);
            if queue.is_empty() {
                self.queues.remove(device);
            }
        }
        Ok((step, Some(command)))
    }

    fn command(&self, device: &DeviceKey, id: CommandId) -> Option<Command> {
        self.commands.get(&(device.clone(), id)).map(|stored| stored.command.clone())
    }

    fn queue(&self, device: &DeviceKey) -> impl Iterator<Item = CommandId> {
        self.queues.get(device).into_iter().flatten().copied()
    }

    fn replaceable(&self, submission: &Submission<'_>) -> Vec<CommandId> {
        if !submission.replace {
            return Vec::new();
        }
        let same = |id: &CommandId| {
            let stored = self.commands.get(&(submission.device.clone(), *id));
            stored.is_some_and(|s| s.command.life.state == State::Queued && s.command.name == submission.name)
        };
        self.queue(submission.device).filter(same).collect()
    }

    fn late(&mut self, device: &DeviceKey, id: CommandId, answer: Answer<'_>, now: i64) -> Answered {
        let Some(stored) = self.commands.get_mut(&(device.clone(), id)) else { return Answered::Gone };
        let command = &mut stored.command;
        let (result, message) = (answer.result, answer.kept_message());
        let said = (command.result.as_deref(), command.message.as_deref());
        // An expired or undeliverable command may have failed by our word alone: then this is the device's first.
        let by_device = !matches!(command.life.reason, Some(Reason::Undeliverable | Reason::OutcomeUnknown));
        if by_device && command.life.state == State::from(answer.status) && said == (result, message) {
            return Answered::Known;
        }
        match &mut command.late {
            Some(late) => late.count = late.count.saturating_add(1),
            None => {
                let (result, message) = (result.map(<[u8]>::to_vec), message.map(str::to_owned));
                command.late = Some(Late { count: 1, status: answer.status, at_ms: now, result, message });
            }
        }
        Answered::Late
    }

    /// Makes an entry, or brings one forward; never puts one off.
    fn lower_due(&mut self, device: &DeviceKey, id: CommandId, score: Score) {
        let entries = self.due.entry(shard_of(id) % SHARDS).or_default();
        let entry = entries.entry(due_member(device, id)).or_insert(score);
        *entry = score.min(*entry);
    }

    /// Moves or removes an entry, unless somebody else has moved it.
    fn move_due(&mut self, device: &DeviceKey, id: CommandId, from: Score, to: Option<Score>) {
        let Some(entries) = self.due.get_mut(&shard_of(id)) else { return };
        let member = due_member(device, id);
        if entries.get(&member) != Some(&from) {
            return;
        }
        match to {
            Some(score) => drop(entries.insert(member, score)),
            None => drop(entries.remove(&member)),
        }
    }

    /// Sees that a command is looked at within [`RING_MS`]: an older one's entry may wait for its deadline.
    fn hasten(&mut self, command: &Command, now: i64) {
        if now - command.created_ms > RING_MS {
            self.lower_due(&command.device, command.id, at(now + RING_MS));
        }
    }

    fn forget(&mut self, now: i64) {
        while let Some(key) = self.published.front() {
            let over = self.commands.get(key).and_then(|stored| stored.forget_ms).is_none_or(|at| at <= now);
            if !over && self.published.len() <= KEPT {
                return;
            }
            self.commands.remove(key);
            self.published.pop_front();
        }
    }
}

impl Commands for MemoryCommands {
    fn submit<'a>(&'a self, submission: &'a Submission<'a>) -> CommandFuture<'a, Submitted> {
        Box::pin(ready(self.submit_now(submission)))
    }

    fn pending<'a>(&'a self, device: &'a DeviceKey, epoch: Epoch, limit: usize) -> CommandFuture<'a, Vec<CommandId>> {
        Box::pin(ready(Ok(self.pending_now(device, epoch, limit))))
    }

    fn mark_sent<'a>(
        &'a self,
        device: &'a DeviceKey,
        id: CommandId,
        epoch: Epoch,
        again: bool,
    ) -> CommandFuture<'a, Sending> {
        Box::pin(ready(Ok(self.mark_now(device, id, epoch, again))))
    }

    fn answer<'a>(&'a self, device: &'a DeviceKey, id: CommandId, answer: Answer<'a>) -> CommandFuture<'a, Answered> {
        Box::pin(ready(Ok(self.answer_now(device, id, answer))))
    }

    fn cancel<'a>(&'a self, device: &'a DeviceKey, id: CommandId) -> CommandFuture<'a, Canceled> {
        Box::pin(ready(self.cancel_now(device, id)))
    }

    fn get<'a>(&'a self, device: &'a DeviceKey, id: CommandId) -> CommandFuture<'a, Command> {
        let found = self.open().0.command(device, id).ok_or(CommandError::NotFound);
        Box::pin(ready(found))
    }

    fn list<'a>(&'a self, device: &'a DeviceKey, limit: usize) -> CommandFuture<'a, Vec<Command>> {
        let (shelves, _) = self.open();
        let all = shelves.queue(device).filter_map(|id| shelves.command(device, id)).take(limit).collect();
        Box::pin(ready(Ok(all)))
    }

    fn ripe<'a>(&'a self, shards: &'a [u8]) -> CommandFuture<'a, Ripe> {
        Box::pin(ready(Ok(self.ripe_now(shards))))
    }

    fn sweep<'a>(
        &'a self,
        shard: u8,
        limit: usize,
        live: &'a (dyn Fn(&Row) -> bool + Send + Sync),
    ) -> CommandFuture<'a, Swept> {
        Box::pin(ready(Ok(self.sweep_now(shard, limit, live))))
    }

    fn settle_published<'a>(&'a self, device: &'a DeviceKey, id: CommandId, version: u32) -> CommandFuture<'a, ()> {
        self.settle_now(device, id, version);
        Box::pin(ready(Ok(())))
    }
}
