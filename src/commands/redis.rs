//! Commands in Redis: each step is one script beside the device's row, on Redis' own time. In a cluster the clocks of the
//! primaries must agree within [`ACCEPT_MS`]; where they do not, commands are refused as unavailable.

mod read;

use futures_util::future::join_all;

use super::{
    ACCEPT_MS, Answer, Answered, Canceled, Clock, Command, CommandError, CommandFuture, Commands, DANGLING_MS, Due,
    KEPT_MS, MAX_QUEUED, RING_MS, Row, Sending, Submission, Submitted, Swept, due_member, parse_due_member, shard_of,
};
use crate::id::{CommandId, DeviceKey, Epoch};
use crate::store::{Arg, Script, Store, StoreError, Value, keys};

/// A script of this directory behind what all of them have in common.
macro_rules! script {
    ($name:literal) => {
        Script::new($name, concat!(include_str!("common.lua"), include_str!(concat!($name, ".lua"))))
    };
}

/// The same where it moves a command towards its end: that must go on when Redis is at `maxmemory`, since only ended
/// commands ever give memory back.
macro_rules! ending_script {
    ($name:literal) => {
        Script::new(
            $name,
            concat!("#!lua flags=allow-oom\n", include_str!("common.lua"), include_str!(concat!($name, ".lua"))),
        )
    };
}

static SUBMIT: Script = script!("submit");
static PENDING: Script = script!("pending");
static MARK_SENT: Script = ending_script!("mark_sent");
static ANSWER: Script = ending_script!("answer");
static CANCEL: Script = ending_script!("cancel");
static LOOK: Script = ending_script!("look");
static SETTLE: Script = ending_script!("settle");
static DUE_ADD: Script = script!("due_add");
static DUE_TAKE: Script = script!("due_take");
static GET: Script = Script::new("get", include_str!("get.lua"));
static DUE_MOVE: Script = Script::new("due_move", concat!("#!lua flags=allow-oom\n", include_str!("due_move.lua")));

/// What a script gives that is of no known shape.
const STRANGE: StoreError = StoreError::Malformed("something no script of the commands gives");

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// The twin in Redis.
pub struct RedisCommands {
    store: std::sync::Arc<Store>,
    clock: Option<Clock>,
}

/// The keys of one device and one command of it.
struct Keys {
    own: String,
    queue: String,
    command: String,
}

impl Keys {
    fn of(device: &DeviceKey, id: CommandId) -> Self {
        Self {
            own: keys::device(device, "own"),
            queue: keys::device(device, "q"),
            command: keys::device(device, &format!("c:{id}")),
        }
    }
}

fn due_key(shard: u8) -> String {
    format!("{{tg:due:{shard}}}")
}

impl RedisCommands {
    /// On a store, with its servers' time.
    pub const fn new(store: std::sync::Arc<Store>) -> Self {
        Self { store, clock: None }
    }

    /// The same with another time, for tests.
    pub fn with_clock(store: std::sync::Arc<Store>, clock: Clock) -> Self {
        Self { store, clock: Some(clock) }
    }

    /// The time for a script: empty for its server's own.
    fn now(&self) -> String {
        self.clock.as_ref().map(|clock| clock().to_string()).unwrap_or_default()
    }

    /// Makes an entry, or brings one forward. Returns the server's time and the entry's.
    async fn due_add(
        &self,
        device: &DeviceKey,
        id: CommandId,
        deadline_ms: Option<i64>,
        ttl_ms: u64,
    ) -> Result<(i64, String), StoreError> {
        let (now, member) = (self.now(), due_member(device, id));
        let deadline = deadline_ms.map(|at| at.to_string()).unwrap_or_default();
        let args: [Arg<'_>; 6] =
            [(&now).into(), (&member).into(), RING_MS.into(), ACCEPT_MS.into(), (&deadline).into(), ttl_ms.into()];
        let answer = self.store.run(&DUE_ADD, &[&due_key(shard_of(id))], &args).await?;
        let [now, score] = answer.items::<2>()?;
        Ok((read::number(now)?, score.text()?))
    }

    /// Sees that a command is looked at within [`RING_MS`]: an older one's entry may wait for its deadline.
    async fn hasten(&self, device: &DeviceKey, id: CommandId) -> Result<(), StoreError> {
        let ttl = u64::try_from(RING_MS).unwrap_or_default();
        self.due_add(device, id, None, ttl).await.map(drop)
    }

    /// The same where the transition is made already, and its event is on its way: then only a crash would need it.
    async fn hasten_if_possible(&self, device: &DeviceKey, id: CommandId, far: bool) {
        if far && let Err(error) = self.hasten(device, id).await {
            tracing::warn!(device = %device, command = %id, %error, "an ended command keeps its distant due time");
        }
    }

    async fn due_move(&self, shard: u8, member: &str, from: &str, to: &str) -> Result<(), StoreError> {
        let args: [Arg<'_>; 3] = [member.into(), from.into(), to.into()];
        self.store.run(&DUE_MOVE, &[&due_key(shard)], &args).await.map(drop)
    }

    async fn submit_to(&self, submission: &Submission<'_>) -> Result<Submitted, CommandError> {
        submission.check()?;
        let (id, device) = (submission.id(), submission.device);
        let ttl = i64::try_from(submission.ttl_ms).unwrap_or(i64::MAX);
        let deadline = submission.since_ms.map(|since| since.saturating_add(ttl));
        // The entry first: a command without one would never end.
        let (first_ms, score) = self.due_add(device, id, deadline, submission.ttl_ms).await?;
        let parts = self.accept(submission, id, first_ms).await?.list()?;
        let refusal = match read::verdict(&parts)? {
            "accepted" => return Ok(read::submitted(device, parts, true)?),
            "known" => return Ok(read::submitted(device, parts, false)?),
            "conflict" => return Err(CommandError::Conflict),
            "slow" => return Err(CommandError::Unavailable("the directory is slow".to_owned())),
            "expired" => CommandError::Expired,
            "away" => CommandError::NotConnected,
            "full" => CommandError::QueueFull,
            _ => return Err(STRANGE.into()),
        };
        // Nothing was made, so the entry is looked at once more and goes; many refusals leave no heap behind.
        let soon = format!("{}.5", first_ms + ACCEPT_MS + 1_000);
        if let Err(error) = self.due_move(shard_of(id), &due_member(device, id), &score, &soon).await {
            tracing::debug!(device = %device, command = %id, %error, "a refused command's due entry stays longer");
        }
        Err(refusal)
    }

    async fn accept(&self, submission: &Submission<'_>, id: CommandId, first_ms: i64) -> Result<Value, StoreError> {
        let (now, id_text, body) = (self.now(), id.to_string(), submission.body_hash());
        let since = submission.since_ms.map(|since| since.to_string()).unwrap_or_default();
        let only = submission.only_epoch.map(|epoch| epoch.to_string()).unwrap_or_default();
        let args: [Arg<'_>; 16] = [
            (&now).into(),
            (&id_text).into(),
            first_ms.into(),
            ACCEPT_MS.into(),
            (&body).into(),
            submission.ttl_ms.into(),
            (&since).into(),
            submission.max_attempts.into(),
            submission.replace.into(),
            (&only).into(),
            (MAX_QUEUED as u64).into(),
            submission.name.into(),
            submission.params.into(),
            submission.application.into(),
            submission.key.into(),
            submission.origin.unwrap_or_default().into(),
        ];
        let keys = Keys::of(submission.device, id);
        self.store.run_replicated(&SUBMIT, &[&keys.own, &keys.queue, &keys.command], &args).await
    }

    async fn ids(&self, device: &DeviceKey, epoch: Option<Epoch>, limit: usize) -> Result<Vec<CommandId>, StoreError> {
        let (now, epoch) = (self.now(), epoch.map(|epoch| epoch.to_string()).unwrap_or_default());
        let (queue, stem) = (keys::device(device, "q"), keys::device(device, "c:"));
        let args: [Arg<'_>; 3] = [(&now).into(), (&epoch).into(), (limit as u64).into()];
        let ids = self.store.run(&PENDING, &[&queue, &stem], &args).await?.list()?;
        ids.into_iter().map(read::id).collect()
    }

    async fn mark(
        &self,
        device: &DeviceKey,
        id: CommandId,
        epoch: Epoch,
        again: bool,
    ) -> Result<Sending, CommandError> {
        let (keys, now) = (Keys::of(device, id), self.now());
        let args: [Arg<'_>; 4] = [(&now).into(), epoch.0.into(), again.into(), RING_MS.into()];
        let answer = self.store.run(&MARK_SENT, &[&keys.own, &keys.queue, &keys.command], &args).await?;
        let parts = answer.list()?;
        let written = match read::verdict(&parts)? {
            "write" => true,
            "undeliverable" => false,
            "gone" => return Ok(Sending::Gone),
            "ended" => return Ok(Sending::Ended),
            "fenced" => return Ok(Sending::Fenced),
            "past" => return Ok(Sending::PastDeadline),
            "spent" => return Ok(Sending::Spent),
            _ => return Err(STRANGE.into()),
        };
        let read::Moved { command, changed, far } = read::moved(device, parts)?;
        let command = Box::new(command);
        if !written {
            self.hasten_if_possible(device, id, far).await;
            return Ok(Sending::Undeliverable(command));
        }
        if far {
            self.hasten(device, id).await?;
        }
        Ok(Sending::Write { command, changed })
    }

    async fn take_answer(
        &self,
        device: &DeviceKey,
        id: CommandId,
        answer: Answer<'_>,
    ) -> Result<Answered, CommandError> {
        let (keys, now) = (Keys::of(device, id), self.now());
        let message = answer.kept_message();
        let args: [Arg<'_>; 7] = [
            (&now).into(),
            answer.status.as_str().into(),
            RING_MS.into(),
            answer.result.is_some().into(),
            answer.result.unwrap_or_default().into(),
            message.is_some().into(),
            message.unwrap_or_default().into(),
        ];
        let parts = self.store.run(&ANSWER, &[&keys.queue, &keys.command], &args).await?.list()?;
        match read::verdict(&parts)? {
            "changed" => {}
            "gone" => return Ok(Answered::Gone),
            "never_sent" => return Ok(Answered::NeverSent),
            "known" => return Ok(Answered::Known),
            "late" => return Ok(Answered::Late),
            _ => return Err(STRANGE.into()),
        }
        let read::Moved { command, far, .. } = read::moved(device, parts)?;
        self.hasten_if_possible(device, id, far).await;
        Ok(Answered::Changed(Box::new(command)))
    }

    async fn take_back(&self, device: &DeviceKey, id: CommandId) -> Result<Canceled, CommandError> {
        let (keys, now) = (Keys::of(device, id), self.now());
        let args: [Arg<'_>; 2] = [(&now).into(), RING_MS.into()];
        let parts = self.store.run(&CANCEL, &[&keys.queue, &keys.command], &args).await?.list()?;
        match read::verdict(&parts)? {
            "canceled" => {}
            "gone" => return Err(CommandError::NotFound),
            "late" => return Err(CommandError::TooLate(read::state(parts)?)),
            _ => return Err(STRANGE.into()),
        }
        let read::Moved { command, changed, far } = read::moved(device, parts)?;
        self.hasten_if_possible(device, id, far).await;
        Ok(Canceled { command, changed })
    }

    async fn one(&self, device: &DeviceKey, id: CommandId) -> Result<Option<Command>, StoreError> {
        let fields = self.store.run(&GET, &[&Keys::of(device, id).command], &[]).await?;
        read::command(device, fields)
    }

    async fn sweep_shard(
        &self,
        shard: u8,
        limit: usize,
        live: &(dyn Fn(&Row) -> bool + Send + Sync),
    ) -> Result<Swept, CommandError> {
        let now = self.now();
        let args: [Arg<'_>; 2] = [(&now).into(), (limit as u64).into()];
        let mut due = self.store.run(&DUE_TAKE, &[&due_key(shard)], &args).await?.list()?.into_iter();
        let now = read::number(due.next().ok_or(STRANGE)?)?;
        let mut entries = Vec::new();
        while let (Some(member), Some(score)) = (due.next(), due.next()) {
            entries.push((member.text()?, score.text()?));
        }
        let looked = entries.len();
        let looks = entries.iter().map(|(member, score)| self.look(shard, member, score, now, live));
        let mut work = Vec::new();
        let mut failed = Vec::new();
        for found in join_all(looks).await {
            match found {
                Ok(found) => work.extend(found),
                Err(error) => failed.push(error),
            }
        }
        // What failed stays due; what was found must not be lost with it.
        match failed.pop() {
            Some(error) if failed.len() + 1 == looked => Err(error.into()),
            _ => Ok(Swept { work, looked }),
        }
    }

    /// Looks at one entry and sets when it is due again.
    async fn look(
        &self,
        shard: u8,
        member: &str,
        score: &str,
        now: i64,
        live: &(dyn Fn(&Row) -> bool + Send + Sync),
    ) -> Result<Option<Due>, StoreError> {
        let Some((device, id)) = parse_due_member(member) else {
            // Not one of ours.
            return self.due_move(shard, member, score, "").await.map(|()| None);
        };
        let (keys, time) = (Keys::of(&device, id), self.now());
        let answer = self.store.run(&LOOK, &[&keys.own, &keys.queue, &keys.command], &[(&time).into()]).await?;
        let parts = answer.list()?;
        let (next, work) = match read::verdict(&parts)? {
            // The half says: it was without its command before.
            "gone" if score.ends_with(".5") => (String::new(), None),
            "gone" => (format!("{}.5", now + DANGLING_MS), None),
            "done" => (String::new(), None),
            "publish" => {
                let command = read::published(&device, parts)?;
                ((now + RING_MS).to_string(), Some(Due::Publish(Box::new(command))))
            }
            "waiting" => {
                let (row, deadline_ms) = read::waiting(parts)?;
                match row.filter(|row| live(row)) {
                    Some(row) => (deadline_ms.min(now + RING_MS).to_string(), Some(Due::Ring { device, id, row })),
                    None => (deadline_ms.to_string(), None),
                }
            }
            _ => return Err(STRANGE),
        };
        match self.due_move(shard, member, score, &next).await {
            Err(error) if work.is_none() => Err(error),
            // It stays due, so this comes once more; it is to be done all the same.
            _ => Ok(work),
        }
    }

    async fn settle(&self, device: &DeviceKey, id: CommandId, version: u32) -> Result<(), CommandError> {
        let now = self.now();
        let args: [Arg<'_>; 3] = [(&now).into(), version.into(), KEPT_MS.into()];
        let settled = self.store.run(&SETTLE, &[&Keys::of(device, id).command], &args).await?;
        if settled.unsigned()? == 1 {
            self.due_move(shard_of(id), &due_member(device, id), "", "").await?;
        }
        Ok(())
    }
}

impl Commands for RedisCommands {
    fn submit<'a>(&'a self, submission: &'a Submission<'a>) -> CommandFuture<'a, Submitted> {
        Box::pin(self.submit_to(submission))
    }

    fn pending<'a>(&'a self, device: &'a DeviceKey, epoch: Epoch, limit: usize) -> CommandFuture<'a, Vec<CommandId>> {
        Box::pin(async move { Ok(self.ids(device, Some(epoch), limit).await?) })
    }

    fn mark_sent<'a>(
        &'a self,
        device: &'a DeviceKey,
        id: CommandId,
        epoch: Epoch,
        again: bool,
    ) -> CommandFuture<'a, Sending> {
        Box::pin(self.mark(device, id, epoch, again))
    }

    fn answer<'a>(&'a self, device: &'a DeviceKey, id: CommandId, answer: Answer<'a>) -> CommandFuture<'a, Answered> {
        Box::pin(self.take_answer(device, id, answer))
    }

    fn cancel<'a>(&'a self, device: &'a DeviceKey, id: CommandId) -> CommandFuture<'a, Canceled> {
        Box::pin(self.take_back(device, id))
    }

    fn get<'a>(&'a self, device: &'a DeviceKey, id: CommandId) -> CommandFuture<'a, Command> {
        Box::pin(async move { self.one(device, id).await?.ok_or(CommandError::NotFound) })
    }

    fn list<'a>(&'a self, device: &'a DeviceKey, limit: usize) -> CommandFuture<'a, Vec<Command>> {
        Box::pin(async move {
            let ids = self.ids(device, None, limit).await?;
            let found = join_all(ids.into_iter().map(|id| self.one(device, id))).await;
            let mut commands = Vec::with_capacity(found.len());
            for command in found {
                // One that ended in between is no longer in the queue.
                commands.extend(command?.filter(|command| !command.life.state.is_terminal()));
            }
            Ok(commands)
        })
    }

    fn sweep<'a>(
        &'a self,
        shard: u8,
        limit: usize,
        live: &'a (dyn Fn(&Row) -> bool + Send + Sync),
    ) -> CommandFuture<'a, Swept> {
        Box::pin(self.sweep_shard(shard, limit, live))
    }

    fn settle_published<'a>(&'a self, device: &'a DeviceKey, id: CommandId, version: u32) -> CommandFuture<'a, ()> {
        Box::pin(self.settle(device, id, version))
    }
}
