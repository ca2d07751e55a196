//! Lines with commands in memory and mailboxes without connections; time stands until a test moves it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::commands::memory::MemoryCommands;
use crate::commands::{
    Answer, Answered, Canceled, CommandError, CommandFuture, Commands, Ripe, Row, Sending, State, Submission,
    Submitted, Swept, Taken,
};
use crate::id::{Epoch, Incarnation, NodeName};
use crate::mailbox::{FRESH, Letter, NextOrder, Order, Signal};
use crate::protocol::message::CommandStatus;
use crate::telemetry::metrics::{EventLoss, SecurityEvent};

/// Commands in memory behind a directory that can be away or slow.
struct Weather {
    inner: MemoryCommands,
    away: AtomicBool,
    /// So much time passes within the next `take` or `mark_sent`.
    slow_ms: AtomicU64,
    /// While it is up, both wait.
    gate: tokio::sync::RwLock<()>,
    asked: AtomicU64,
    /// While it is up, every other call to a directory that is away is done, and its answer lost.
    is_lossy: AtomicBool,
    lost: AtomicU64,
    hands: Arc<AtomicU64>,
}

impl Weather {
    fn away<'a, T: Send + 'a>(&self, call: CommandFuture<'a, T>) -> Result<CommandFuture<'a, T>, CommandFuture<'a, T>> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if !self.away.load(Ordering::Relaxed) {
            return Ok(call);
        }
        let is_done = self.is_lossy.load(Ordering::Relaxed) && asked.is_multiple_of(2);
        self.lost.fetch_add(u64::from(is_done), Ordering::Relaxed);
        Err(Box::pin(async move {
            if is_done {
                drop(call.await);
            }
            Err(CommandError::Unavailable("away".to_owned()))
        }))
    }
}

impl Weather {
    /// What allows something to be written.
    fn slowly<'a, T: Send + 'a>(&'a self, call: CommandFuture<'a, T>) -> CommandFuture<'a, T> {
        let call = match self.away(call) {
            Ok(call) => call,
            Err(away) => return away,
        };
        let slow_ms = self.slow_ms.swap(0, Ordering::Relaxed);
        Box::pin(async move {
            let allowed = call.await;
            drop(self.gate.read().await);
            self.hands.fetch_add(slow_ms, Ordering::Relaxed);
            allowed
        })
    }
}

impl Commands for Weather {
    fn submit<'a>(&'a self, submission: &'a Submission<'a>) -> CommandFuture<'a, Submitted> {
        self.inner.submit(submission)
    }

    fn pending<'a>(&'a self, device: &'a DeviceKey, epoch: Epoch, limit: usize) -> CommandFuture<'a, Vec<CommandId>> {
        self.away(self.inner.pending(device, epoch, limit)).unwrap_or_else(|away| away)
    }

    fn mark_sent<'a>(
        &'a self,
        device: &'a DeviceKey,
        id: CommandId,
        epoch: Epoch,
        again: bool,
    ) -> CommandFuture<'a, Sending> {
        // In memory a call is done when it is made.
        self.slowly(Box::pin(async move { self.inner.mark_sent(device, id, epoch, again).await }))
    }

    fn take<'a>(&'a self, device: &'a DeviceKey, epoch: Epoch, limit: usize) -> CommandFuture<'a, Taken> {
        self.slowly(Box::pin(async move { self.inner.take(device, epoch, limit).await }))
    }

    fn answer<'a>(&'a self, device: &'a DeviceKey, id: CommandId, answer: Answer<'a>) -> CommandFuture<'a, Answered> {
        let call = Box::pin(async move { self.inner.answer(device, id, answer).await });
        self.away(call).unwrap_or_else(|away| away)
    }

    fn cancel<'a>(&'a self, device: &'a DeviceKey, id: CommandId) -> CommandFuture<'a, Canceled> {
        self.inner.cancel(device, id)
    }

    fn get<'a>(&'a self, device: &'a DeviceKey, id: CommandId) -> CommandFuture<'a, Command> {
        self.inner.get(device, id)
    }

    fn list<'a>(&'a self, device: &'a DeviceKey, limit: usize) -> CommandFuture<'a, Vec<Command>> {
        let call = Box::pin(async move { self.inner.list(device, limit).await });
        self.away(call).unwrap_or_else(|away| away)
    }

    fn ripe<'a>(&'a self, shards: &'a [u8]) -> CommandFuture<'a, Ripe> {
        self.inner.ripe(shards)
    }

    fn sweep<'a>(
        &'a self,
        shard: u8,
        limit: usize,
        live: &'a (dyn Fn(&Row) -> bool + Send + Sync),
    ) -> CommandFuture<'a, Swept> {
        self.inner.sweep(shard, limit, live)
    }

    fn settle_published<'a>(&'a self, device: &'a DeviceKey, id: CommandId, version: u32) -> CommandFuture<'a, ()> {
        self.inner.settle_published(device, id, version)
    }
}

mod histories;

struct Rig {
    courier: Arc<Courier>,
    weather: Arc<Weather>,
    epoch: Arc<AtomicI64>,
    device: DeviceKey,
    metrics: Metrics,
    began: Instant,
    hands: Arc<AtomicU64>,
}

impl Rig {
    fn new() -> Self {
        let began = Instant::now();
        let epoch = Arc::new(AtomicI64::new(0));
        let row = Arc::clone(&epoch);
        let rows = move |_: &DeviceKey| match row.load(Ordering::Relaxed) {
            0 => None,
            epoch => Some(Row {
                node: NodeName::new("n1").unwrap(),
                incarnation: Incarnation::parse(&"0".repeat(32)).unwrap(),
                epoch: Epoch(epoch.unsigned_abs()),
            }),
        };
        let hands = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&hands);
        let unix = move || 1_748_522_700_000 + clock.load(Ordering::Relaxed).cast_signed();
        let weather = Arc::new(Weather {
            inner: MemoryCommands::new(Arc::new(unix), Arc::new(rows)),
            away: AtomicBool::new(false),
            slow_ms: AtomicU64::new(0),
            gate: tokio::sync::RwLock::default(),
            asked: AtomicU64::new(0),
            is_lossy: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            hands: Arc::clone(&hands),
        });
        let metrics = Metrics::new().unwrap();
        let clock = Arc::clone(&hands);
        let clock = move || began + Duration::from_millis(clock.load(Ordering::Relaxed));
        let courier = Courier::with_clock(Arc::clone(&weather) as _, metrics.clone(), Arc::new(clock));
        Self { courier, weather, epoch, device: DeviceKey::new("acme", "door-1").unwrap(), metrics, began, hands }
    }

    fn now(&self) -> Instant {
        self.began + Duration::from_millis(self.hands.load(Ordering::Relaxed))
    }

    async fn pass(&self, ms: u64) {
        self.hands.fetch_add(ms, Ordering::Relaxed);
        self.courier.hurry.notify_one();
        settle().await;
    }

    /// The same in steps, for what happens again and again.
    async fn pass_slowly(&self, ms: u64) {
        for _ in 0..ms / 100 {
            self.pass(100).await;
        }
    }

    /// What the connection would write now.
    fn written(&self, mailbox: &Mailbox) -> Vec<Order> {
        let next = || match mailbox.take_order(self.now()) {
            NextOrder::Write(order) => Some(*order),
            NextOrder::Stale | NextOrder::None => None,
        };
        std::iter::from_fn(next).collect()
    }

    /// A connection that has the device.
    fn connect(&self, epoch: u64) -> Arc<Mailbox> {
        self.epoch.store(epoch.cast_signed(), Ordering::Relaxed);
        let mailbox = Arc::new(Mailbox::default());
        mailbox.set_epoch(Epoch(epoch));
        mailbox
    }

    fn submission<'a>(&'a self, key: &'a str, max_attempts: u32) -> Submission<'a> {
        Submission {
            device: &self.device,
            application: "console",
            key,
            name: "open",
            params: br#"{"angle":90}"#,
            ttl_ms: 3_600_000,
            since_ms: None,
            max_attempts,
            replace: false,
            only_epoch: None,
            origin: None,
        }
    }

    async fn submit(&self, number: usize) -> CommandId {
        let key = number.to_string();
        self.weather.submit(&self.submission(&key, 3)).await.unwrap().command.id
    }

    fn ring(&self, mailbox: &Arc<Mailbox>) {
        self.courier.ring(&self.device, mailbox);
    }

    fn say(&self, mailbox: &Arc<Mailbox>, id: CommandId, status: CommandStatus) {
        let ack = CommandAck { id: id.to_string().into(), status, result: None, message: None };
        self.courier.answered(&self.device, mailbox, &ack);
    }

    async fn state(&self, id: CommandId) -> State {
        self.weather.get(&self.device, id).await.unwrap().life.state
    }

    /// Every change so far, as number of the version and state.
    async fn told(&self) -> Vec<(CommandId, State)> {
        let news = futures_util::FutureExt::now_or_never(self.courier.news(1_000));
        news.unwrap_or_default().into_iter().map(|command| (command.id, command.life.state)).collect()
    }
}

/// Lets everything that can be done now be done.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn ids(orders: &[Order]) -> Vec<CommandId> {
    orders.iter().map(|order| order.id).collect()
}

#[tokio::test]
async fn eight_go_out_in_order_and_each_that_is_heard_of_lets_the_next_go() {
    let rig = Rig::new();
    let mailbox = rig.connect(7);
    let mut all = Vec::new();
    for number in 0..20 {
        all.push(rig.submit(number).await);
    }
    rig.ring(&mailbox);
    rig.ring(&mailbox);
    settle().await;
    let mut seen = rig.written(&mailbox);
    assert_eq!(ids(&seen), all[..8]);
    assert_eq!((seen[0].name.as_str(), seen[0].params.as_str(), seen[0].attempt), ("open", r#"{"angle":90}"#, 1));
    while seen.len() < 20 {
        for order in std::mem::take(&mut seen.clone()).iter().skip(seen.len() - 8) {
            rig.say(&mailbox, order.id, CommandStatus::Received);
            settle().await;
            seen.extend(rig.written(&mailbox));
        }
    }
    assert_eq!(ids(&seen), all, "each once, in the order in which they were accepted");
    assert_eq!(rig.told().await.iter().filter(|(_, state)| *state == State::Sent).count(), 20);
    for id in &all {
        rig.say(&mailbox, *id, CommandStatus::Succeeded);
        settle().await;
    }
    assert_eq!(rig.told().await.iter().filter(|(_, state)| *state == State::Succeeded).count(), 20);
    assert_eq!(rig.courier.lines(), 0, "a device without commands costs nothing");
}

#[tokio::test]
async fn what_comes_while_others_go_out_goes_behind_them() {
    let rig = Rig::new();
    let mailbox = rig.connect(7);
    let first = rig.submit(0).await;
    let gate = rig.weather.gate.write().await;
    rig.ring(&mailbox);
    settle().await;
    let second = rig.submit(1).await;
    rig.ring(&mailbox);
    settle().await;
    assert_eq!(rig.written(&mailbox), []);
    drop(gate);
    settle().await;
    assert_eq!(ids(&rig.written(&mailbox)), [first, second]);
}

#[tokio::test]
async fn what_is_not_heard_of_is_written_again_and_the_second_time_proof_is_demanded() {
    let rig = Rig::new();
    let mailbox = rig.connect(7);
    let id = rig.submit(0).await;
    rig.ring(&mailbox);
    let mut seen = Vec::new();
    for second in 0..100 {
        rig.pass(1_000).await;
        for order in rig.written(&mailbox) {
            let demanded = mailbox.take_signals().has(Signal::Demand);
            seen.push((second, order.id, order.attempt, order.again, demanded));
        }
    }
    assert_eq!(
        seen,
        [(0, id, 1, false, false), (10, id, 1, true, false), (30, id, 1, true, true), (70, id, 1, true, true)]
    );
    assert_eq!(rig.told().await, [(id, State::Sent)], "a repeat on one connection is no transition");
    let mailbox = rig.connect(8);
    rig.ring(&mailbox);
    settle().await;
    let again = rig.written(&mailbox);
    assert_eq!((again[0].id, again[0].attempt, again[0].again), (id, 2, false));
}

#[tokio::test]
async fn with_one_attempt_nothing_is_written_twice_and_a_new_connection_ends_it() {
    let rig = Rig::new();
    let mailbox = rig.connect(7);
    let id = rig.weather.submit(&rig.submission("once", 1)).await.unwrap().command.id;
    rig.ring(&mailbox);
    settle().await;
    assert_eq!(ids(&rig.written(&mailbox)), [id]);
    for _ in 0..100 {
        rig.pass(1_000).await;
        assert_eq!(rig.written(&mailbox), []);
    }
    let newer = rig.connect(8);
    rig.ring(&newer);
    settle().await;
    assert_eq!((rig.written(&newer).len(), rig.courier.lines()), (0, 0));
    assert_eq!(rig.told().await, [(id, State::Sent), (id, State::Failed)]);
}

#[tokio::test]
async fn who_lost_the_device_writes_nothing_more_until_it_is_rung_for() {
    let rig = Rig::new();
    let mailbox = rig.connect(7);
    let id = rig.submit(0).await;
    rig.epoch.store(8, Ordering::Relaxed);
    rig.ring(&mailbox);
    rig.pass(60_000).await;
    assert_eq!((rig.written(&mailbox), rig.state(id).await), (vec![], State::Queued));
    let asked = rig.weather.asked.load(Ordering::Relaxed);
    rig.pass(600_000).await;
    assert_eq!(rig.weather.asked.load(Ordering::Relaxed), asked, "nobody asks in vain");
    rig.epoch.store(7, Ordering::Relaxed);
    rig.ring(&mailbox);
    settle().await;
    assert_eq!(ids(&rig.written(&mailbox)), [id]);
    mailbox.close();
    rig.courier.left(&rig.device, &mailbox);
    rig.ring(&mailbox);
    assert_eq!(rig.courier.lines(), 0, "who has left is not rung for");
}

#[tokio::test]
async fn an_older_connections_ring_does_not_take_the_line_from_a_newer_one() {
    let rig = Rig::new();
    let (older, newer) = (rig.connect(7), rig.connect(8));
    let id = rig.submit(0).await;
    rig.ring(&newer);
    rig.ring(&older);
    settle().await;
    assert_eq!((ids(&rig.written(&newer)), rig.written(&older)), (vec![id], vec![]));
    rig.courier.left(&rig.device, &older);
    rig.pass(10_000).await;
    assert_eq!(ids(&rig.written(&newer)), [id], "and its leaving ends nothing");
}

#[tokio::test]
async fn what_was_allowed_too_long_ago_is_asked_for_again() {
    let rig = Rig::new();
    let mailbox = rig.connect(7);
    let id = rig.weather.submit(&rig.submission("once", 1)).await.unwrap().command.id;
    rig.weather.slow_ms.store(3_000, Ordering::Relaxed);
    rig.ring(&mailbox);
    settle().await;
    assert_eq!(rig.written(&mailbox), []);
    rig.pass(400).await;
    let orders = rig.written(&mailbox);
    assert_eq!((ids(&orders), orders[0].attempt), (vec![id], 1), "nothing was written, so one attempt is enough");
    assert!(rig.now() - orders[0].asked < FRESH);
}

#[tokio::test]
async fn what_waited_in_a_mailbox_too_long_is_taken_back_and_goes_out_in_its_order() {
    let rig = Rig::new();
    let mailbox = rig.connect(7);
    let mut all = Vec::new();
    for number in 0..3 {
        all.push(rig.submit(number).await);
    }
    rig.ring(&mailbox);
    settle().await;
    rig.pass(2_000).await;
    all.push(rig.submit(3).await);
    rig.ring(&mailbox);
    settle().await;
    assert_eq!(mailbox.waiting_orders().0, 4);
    assert_eq!(mailbox.take_order(rig.now()), NextOrder::Stale);
    rig.courier.recall(&rig.device, &mailbox);
    settle().await;
    let orders = rig.written(&mailbox);
    assert_eq!(ids(&orders), all);
    assert!(orders.iter().all(|order| order.attempt == 1 && !order.again));
}

#[tokio::test]
async fn while_the_directory_is_away_nothing_is_written_and_then_all_in_order() {
    let rig = Rig::new();
    let mailbox = rig.connect(7);
    let all = [rig.submit(0).await, rig.submit(1).await];
    rig.weather.away.store(true, Ordering::Relaxed);
    rig.ring(&mailbox);
    rig.pass_slowly(60_000).await;
    assert_eq!(rig.written(&mailbox), []);
    let asked = rig.weather.asked.load(Ordering::Relaxed);
    assert!((10..40).contains(&asked), "{asked} times in a minute");
    rig.weather.away.store(false, Ordering::Relaxed);
    rig.ring(&mailbox);
    settle().await;
    assert_eq!(ids(&rig.written(&mailbox)), all, "at the next ring, not at the end of the pause");
}

#[tokio::test]
async fn an_answer_the_directory_did_not_hear_makes_the_command_come_again() {
    let rig = Rig::new();
    let mailbox = rig.connect(7);
    let id = rig.submit(0).await;
    rig.ring(&mailbox);
    settle().await;
    assert_eq!(ids(&rig.written(&mailbox)), [id]);
    rig.say(&mailbox, id, CommandStatus::Received);
    settle().await;
    rig.weather.away.store(true, Ordering::Relaxed);
    rig.say(&mailbox, id, CommandStatus::Succeeded);
    settle().await;
    rig.weather.away.store(false, Ordering::Relaxed);
    assert_eq!(rig.state(id).await, State::Received);
    rig.pass(1_000).await;
    assert_eq!(ids(&rig.written(&mailbox)), [id]);
    rig.say(&mailbox, id, CommandStatus::Succeeded);
    settle().await;
    assert_eq!((rig.state(id).await, rig.courier.lines()), (State::Succeeded, 0));
    assert_eq!(rig.metrics.command_answers.of(AnswerOutcome::Unavailable).get(), 1);
}

#[tokio::test]
async fn an_answer_counts_on_whatever_connection_of_the_device_and_for_no_other_device() {
    let rig = Rig::new();
    let (first, second) = (rig.connect(7), Arc::new(Mailbox::default()));
    let id = rig.submit(0).await;
    rig.ring(&first);
    settle().await;
    let other = DeviceKey::new("umbrella", "door-1").unwrap();
    let ack = CommandAck { id: id.to_string().into(), status: CommandStatus::Failed, result: None, message: None };
    rig.courier.answered(&other, &second, &ack);
    settle().await;
    assert_eq!(rig.state(id).await, State::Sent);
    assert!(second.take_signals().has(Signal::Guess));
    assert_eq!(rig.metrics.security_events.of(SecurityEvent::GuessedCommand).get(), 1);
    rig.say(&second, id, CommandStatus::Succeeded);
    settle().await;
    rig.say(&second, id, CommandStatus::Succeeded);
    rig.say(&second, id, CommandStatus::Failed);
    settle().await;
    assert_eq!((rig.state(id).await, rig.courier.lines()), (State::Succeeded, 0));
    let count = |outcome| rig.metrics.command_answers.of(outcome).get();
    assert_eq!([AnswerOutcome::Changed, AnswerOutcome::Known, AnswerOutcome::Late].map(count), [1, 1, 1]);
    assert!(!second.take_signals().has(Signal::Guess));
}

#[tokio::test]
async fn a_guessed_answer_changes_nothing_and_guesses_wait_for_one_another() {
    let rig = Rig::new();
    let mailbox = rig.connect(7);
    let id = rig.submit(0).await;
    for _ in 0..ANSWERS {
        rig.say(&mailbox, id, CommandStatus::Succeeded);
    }
    settle().await;
    let guesses = || rig.metrics.security_events.of(SecurityEvent::GuessedCommand).get();
    assert_eq!(guesses(), 1);
    rig.pass_slowly(5_000).await;
    assert_eq!((guesses(), rig.state(id).await), (ANSWERS as u64, State::Queued));
    assert_eq!(rig.metrics.command_answers.of(AnswerOutcome::Dropped).get(), 0);
    assert_eq!((rig.courier.lines(), lock(&rig.courier.lines).answer_bytes), (0, 0));
}

#[tokio::test]
async fn of_a_flood_of_answers_some_are_dropped_and_their_commands_come_again() {
    let rig = Rig::new();
    let mailbox = rig.connect(7);
    let mut all = Vec::new();
    for number in 0..ANSWERS + 8 {
        all.push(rig.submit(number).await);
    }
    rig.ring(&mailbox);
    settle().await;
    let mut received = Vec::new();
    while received.len() < all.len() {
        for order in rig.written(&mailbox) {
            rig.say(&mailbox, order.id, CommandStatus::Received);
            settle().await;
            received.push(order.id);
        }
    }
    assert_eq!((received, rig.courier.lines()), (all.clone(), 0));
    for id in &all {
        rig.say(&mailbox, *id, CommandStatus::Succeeded);
    }
    settle().await;
    assert_eq!(rig.metrics.command_answers.of(AnswerOutcome::Dropped).get(), 8);
    let again = ids(&rig.written(&mailbox));
    assert_eq!(again, all[ANSWERS..]);
    for id in again {
        rig.say(&mailbox, id, CommandStatus::Succeeded);
    }
    settle().await;
    for id in all {
        assert_eq!(rig.state(id).await, State::Succeeded);
    }
    assert_eq!(rig.courier.lines(), 0);
}

#[tokio::test]
async fn a_command_above_what_the_device_takes_is_not_written_and_fails_clearly() {
    let rig = Rig::new();
    rig.epoch.store(7, Ordering::Relaxed);
    let mailbox = Arc::new(Mailbox::default().with_max_bytes(Some(512)));
    mailbox.set_epoch(Epoch(7));
    let params = format!("\"{}\"", "x".repeat(512));
    let large = Submission { params: params.as_bytes(), ..rig.submission("large", 3) };
    let large = rig.weather.submit(&large).await.unwrap().command.id;
    let small = rig.submit(0).await;
    rig.ring(&mailbox);
    settle().await;
    assert_eq!(ids(&rig.written(&mailbox)), [small]);
    let command = rig.weather.get(&rig.device, large).await.unwrap();
    assert_eq!(command.life.state, State::Failed);
    assert!(command.message.unwrap().contains("max_bytes"));
    assert!(rig.told().await.contains(&(large, State::Failed)));
}

#[tokio::test]
async fn a_full_mailbox_and_a_socket_that_takes_nothing_lose_no_command() {
    let rig = Rig::new();
    let mailbox = rig.connect(7);
    let first = rig.submit(0).await;
    rig.ring(&mailbox);
    rig.pass_slowly(60_000).await;
    assert_eq!(mailbox.waiting_orders().0, 1, "what is not taken is not posted again");
    for _ in 0..16 {
        let _ = mailbox.post(Letter::Close(crate::protocol::close::CloseReason::Moved));
    }
    let second = rig.submit(1).await;
    rig.ring(&mailbox);
    rig.pass(1_000).await;
    while mailbox.take_letter().is_some() {}
    rig.courier.recall(&rig.device, &mailbox);
    rig.pass(10_000).await;
    let mut seen = ids(&rig.written(&mailbox));
    rig.courier.recall(&rig.device, &mailbox);
    settle().await;
    seen.extend(ids(&rig.written(&mailbox)));
    assert_eq!(seen, [first, second]);
}

#[tokio::test]
async fn a_thousand_devices_are_worked_at_by_a_bounded_number_of_tasks() {
    let rig = Rig::new();
    rig.epoch.store(7, Ordering::Relaxed);
    let mut all = Vec::new();
    for number in 0..1_000 {
        let device = DeviceKey::new("acme", &format!("d-{number}")).unwrap();
        rig.weather.submit(&Submission { device: &device, ..rig.submission("k", 3) }).await.unwrap();
        let mailbox = rig.connect(7);
        rig.courier.ring(&device, &mailbox);
        assert!(lock(&rig.courier.lines).workers <= WORKERS);
        all.push(mailbox);
    }
    rig.pass(10).await;
    assert!(all.iter().all(|mailbox| rig.written(mailbox).len() == 1));
    assert_eq!(lock(&rig.courier.lines).workers, 0);
    assert_eq!(rig.courier.lines(), 1_000);
}

#[tokio::test]
async fn what_changed_waits_without_its_params_and_is_bounded_by_its_bytes() {
    let rig = Rig::new();
    let id = rig.submit(0).await;
    let command = rig.weather.get(&rig.device, id).await.unwrap();
    rig.courier.tell(command.clone());
    assert_eq!(rig.courier.news(9).await, [Command { params: Vec::new(), ..command.clone() }]);
    let large = Command { result: Some(vec![b'1'; 1 << 20]), ..command };
    for _ in 0..100 {
        rig.courier.tell(large.clone());
    }
    assert_eq!(rig.courier.news(1_000).await.len(), 31, "each is a little above a mebibyte");
    assert_eq!(rig.metrics.command_events_dropped.of(EventLoss::Backlog).get(), 69);
    rig.courier.tell(large);
    assert_eq!(rig.courier.news(1_000).await.len(), 1);
}
