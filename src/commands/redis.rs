//! Commands in Redis: each step is one script beside the device's row, on Redis' own time. In a cluster the clocks of the
//! primaries must agree within [`ACCEPT_MS`]; where they do not, commands are refused as unavailable.

mod read;

use futures_util::future::join_all;

use super::{
    ACCEPT_MS, Answer, Answered, Canceled, Clock, Command, CommandError, CommandFuture, Commands, DANGLING_MS, Due,
    KEPT_MS, MAX_QUEUED, RING_MS, Ripe, Row, Sending, Submission, Submitted, Swept, Taken, due_member,
    parse_due_member, shard_of,
};
use crate::id::{CommandId, DeviceKey, Epoch};
use crate::store::{Arg, Script, Store, StoreError, Value, keys};

/// A script of this directory behind what all of them have in common, and what it has in common with some.
macro_rules! script {
    ($name:literal $(, $part:literal)*) => {
        Script::new($name, concat!(
            include_str!("common.lua"), $(include_str!(concat!($part, ".lua")),)* include_str!(concat!($name, ".lua"))
        ))
    };
}

/// The same where it moves a command towards its end: that must go on when Redis is at `maxmemory`, since only ended
/// commands ever give memory back.
macro_rules! ending_script {
    ($name:literal $(, $part:literal)*) => {
        Script::new($name, concat!(
            "#!lua flags=allow-oom\n",
            include_str!("common.lua"), $(include_str!(concat!($part, ".lua")),)* include_str!(concat!($name, ".lua"))
        ))
    };
}

static SUBMIT: Script = script!("submit");
static ACCEPT: Script = Script::new(
    "accept",
    concat!(
        include_str!("common.lua"),
        include_str!("due.lua"),
        "local function submit()\n",
        include_str!("submit.lua"),
        "end\n",
        include_str!("accept.lua")
    ),
);
static PENDING: Script = script!("pending", "waiting");
static MARK_SENT: Script = ending_script!("mark_sent", "mark");
static TAKE: Script = ending_script!("take", "waiting", "mark");
static ANSWER: Script = ending_script!("answer");
static CANCEL: Script = ending_script!("cancel");
static LOOK: Script = ending_script!("look");
static SETTLE: Script = ending_script!("settle");
static DUE_ADD: Script = script!("due_add", "due");
static DUE_SOON: Script = script!("due_soon");
static DUE_TAKE: Script = script!("due_take");
static GET: Script = Script::new("get", include_str!("get.lua"));
static DUE_MOVE: Script = Script::new("due_move", concat!("#!lua flags=allow-oom\n", include_str!("due_move.lua")));

/// Due lists looked at at once where each needs a call of its own.
const LOOKS: usize = 8;
/// How long the entry of a command that was refused stays, in milliseconds.
const REFUSED_MS: i64 = ACCEPT_MS + 1_000;

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
        if self.store.is_whole() {
            let beside = Beside {
                list: due_key(shard_of(id)),
                member: due_member(device, id),
                deadline: deadline.map(|at| at.to_string()).unwrap_or_default(),
            };
            match self.accept(submission, id, &self.now(), Some(&beside)).await {
                Err(error) if error.is_cross_slot() => {}
                answer => return judged(device, answer?.list()?),
            }
        }
        // The entry first: a command without one would never end.
        let (first_ms, score) = self.due_add(device, id, deadline, submission.ttl_ms).await?;
        let answer = self.accept(submission, id, &first_ms.to_string(), None).await?;
        let judged = judged(device, answer.list()?);
        if let Err(CommandError::Expired | CommandError::NotConnected | CommandError::QueueFull) = judged {
            // Nothing was made, so the entry is looked at once more and goes; many refusals leave no heap behind.
            let soon = format!("{}.5", first_ms + REFUSED_MS);
            if let Err(error) = self.due_move(shard_of(id), &due_member(device, id), &score, &soon).await {
                tracing::debug!(device = %device, command = %id, %error, "a refused command's due entry stays longer");
            }
        }
        judged
    }

    /// `first`: when the entry in the due list was made; empty with an entry that is made `beside`, at once.
    async fn accept(
        &self,
        submission: &Submission<'_>,
        id: CommandId,
        first: &str,
        beside: Option<&Beside>,
    ) -> Result<Value, StoreError> {
        let (now, id_text, body) = (self.now(), id.to_string(), submission.body_hash());
        let since = submission.since_ms.map(|since| since.to_string()).unwrap_or_default();
        let only = submission.only_epoch.map(|epoch| epoch.to_string()).unwrap_or_default();
        let mut args: Vec<Arg<'_>> = vec![
            (&now).into(),
            (&id_text).into(),
            first.into(),
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
        let mut names = vec![&*keys.own, &*keys.queue, &*keys.command];
        let mut script = &SUBMIT;
        if let Some(Beside { list, member, deadline }) = beside {
            names.push(list);
            args.extend([member.into(), RING_MS.into(), deadline.into(), Arg::from(REFUSED_MS)]);
            script = &ACCEPT;
        }
        self.store.run_replicated(script, &names, &args).await
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
        self.marked(device, id, answer.list()?).await
    }

    async fn take_some(&self, device: &DeviceKey, epoch: Epoch, limit: usize) -> Result<Taken, CommandError> {
        let (now, [own, queue, stem]) = (self.now(), ["own", "q", "c:"].map(|name| keys::device(device, name)));
        let args: [Arg<'_>; 4] = [(&now).into(), epoch.0.into(), (limit as u64).into(), RING_MS.into()];
        let mut parts = self.store.run(&TAKE, &[&own, &queue, &stem], &args).await?.list()?.into_iter();
        let ids = parts.next().ok_or(STRANGE)?.list()?;
        let ids: Vec<_> = ids.into_iter().map(read::id).collect::<Result<_, _>>()?;
        let first = match (ids.first(), parts.next()) {
            // Where it cannot be said after all, it is asked for like the others.
            (Some(id), Some(marked)) => self.marked(device, *id, marked.list()?).await.ok(),
            _ => None,
        };
        Ok(Taken { ids, first })
    }

    /// What `mark` gave.
    async fn marked(&self, device: &DeviceKey, id: CommandId, parts: Vec<Value>) -> Result<Sending, CommandError> {
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
        let (now, key) = (self.now(), Keys::of(device, id).command);
        let (list, member) = (due_key(shard_of(id)), due_member(device, id));
        let args: [Arg<'_>; 4] = [(&now).into(), version.into(), KEPT_MS.into(), (&member).into()];
        if self.store.is_whole() {
            match self.store.run(&SETTLE, &[&key, &list], &args).await {
                Err(error) if error.is_cross_slot() => {}
                settled => return Ok(settled.map(drop)?),
            }
        }
        if self.store.run(&SETTLE, &[&key], &args).await?.unsigned()? == 1 {
            self.due_move(shard_of(id), &member, "", "").await?;
        }
        Ok(())
    }

    async fn ripe(&self, shards: &[u8]) -> Result<Ripe, CommandError> {
        if self.store.is_whole() {
            match self.ripe_among(shards).await {
                Err(error) if error.is_cross_slot() => {}
                ripe => return Ok(ripe?),
            }
        }
        let mut all = Ripe { shards: Vec::new(), quiet_ms: ACCEPT_MS };
        for some in shards.chunks(LOOKS) {
            let looks = some.chunks(1).map(|one| self.ripe_among(one));
            for one in join_all(looks).await {
                let one = one?;
                all.shards.extend(one.shards);
                all.quiet_ms = all.quiet_ms.min(one.quiet_ms);
            }
        }
        Ok(all)
    }

    /// The same in one call.
    async fn ripe_among(&self, shards: &[u8]) -> Result<Ripe, StoreError> {
        let (now, lists) = (self.now(), shards.iter().map(|shard| due_key(*shard)).collect::<Vec<_>>());
        if lists.is_empty() {
            return Ok(Ripe { shards: Vec::new(), quiet_ms: ACCEPT_MS });
        }
        let lists: Vec<_> = lists.iter().map(String::as_str).collect();
        let answer = self.store.run(&DUE_SOON, &lists, &[(&now).into(), ACCEPT_MS.into()]).await?;
        let mut numbers = answer.list()?.into_iter();
        let quiet_ms = read::number(numbers.next().ok_or(STRANGE)?)?;
        let mut ripe = Vec::new();
        for number in numbers {
            let at = usize::try_from(number.unsigned()?).unwrap_or_default().wrapping_sub(1);
            ripe.push(*shards.get(at).ok_or(STRANGE)?);
        }
        Ok(Ripe { shards: ripe, quiet_ms })
    }
}

/// The entry that is made with a command, at once.
struct Beside {
    list: String,
    member: String,
    /// Unix milliseconds; empty: from now on.
    deadline: String,
}

/// What became of a submission.
fn judged(device: &DeviceKey, parts: Vec<Value>) -> Result<Submitted, CommandError> {
    match read::verdict(&parts)? {
        "accepted" => Ok(read::submitted(device, parts, true)?),
        "known" => Ok(read::submitted(device, parts, false)?),
        "conflict" => Err(CommandError::Conflict),
        "slow" => Err(CommandError::Unavailable("the directory is slow".to_owned())),
        "expired" => Err(CommandError::Expired),
        "away" => Err(CommandError::NotConnected),
        "full" => Err(CommandError::QueueFull),
        _ => Err(STRANGE.into()),
    }
}

impl Commands for RedisCommands {
    fn submit<'a>(&'a self, submission: &'a Submission<'a>) -> CommandFuture<'a, Submitted> {
        Box::pin(self.submit_to(submission))
    }

    fn pending<'a>(&'a self, device: &'a DeviceKey, epoch: Epoch, limit: usize) -> CommandFuture<'a, Vec<CommandId>> {
        Box::pin(async move { Ok(self.ids(device, Some(epoch), limit).await?) })
    }

    fn take<'a>(&'a self, device: &'a DeviceKey, epoch: Epoch, limit: usize) -> CommandFuture<'a, Taken> {
        Box::pin(self.take_some(device, epoch, limit))
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

    fn ripe<'a>(&'a self, shards: &'a [u8]) -> CommandFuture<'a, Ripe> {
        Box::pin(self.ripe(shards))
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
