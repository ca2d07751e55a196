//! Random histories of one device: connections that come, block, lose the device and go, a directory that is away, answers
//! that come late, twice or never. After each all is healed, and every command must end without another connection.

use std::collections::{HashMap, HashSet};

use super::*;

/// The device and the connection it has.
struct Device {
    rig: Rig,
    random: fastrand::Rng,
    mailbox: Arc<Mailbox>,
    epoch: u64,
    accepted: Vec<CommandId>,
    /// What the device was ever sent, in the order in which it first came.
    seen: Vec<CommandId>,
    /// The highest attempt of each.
    attempts: HashMap<CommandId, u32>,
}

impl Device {
    fn new(seed: u64) -> Self {
        let rig = Rig::new();
        rig.weather.is_lossy.store(true, Ordering::Relaxed);
        let mailbox = rig.connect(1);
        let (accepted, seen, attempts) = (Vec::new(), Vec::new(), HashMap::new());
        Self { rig, random: fastrand::Rng::with_seed(seed), mailbox, epoch: 1, accepted, seen, attempts }
    }

    async fn submit(&mut self) {
        let key = self.accepted.len().to_string();
        let attempts = self.random.u32(1..4);
        // The hundredth that waits is refused: then there are enough.
        if let Ok(submitted) = self.rig.weather.submit(&self.rig.submission(&key, attempts)).await {
            self.accepted.push(submitted.command.id);
            self.rig.ring(&self.mailbox);
        }
    }

    /// The connection's turn: it writes what is fresh, and says so where something is not.
    async fn take(&mut self, most: usize) {
        for _ in 0..most {
            match self.mailbox.take_order(self.rig.now()) {
                NextOrder::Write(order) => self.see(&order).await,
                NextOrder::Stale => return self.rig.courier.recall(&self.rig.device, &self.mailbox),
                NextOrder::None => return,
            }
        }
    }

    async fn see(&mut self, order: &Order) {
        assert!(self.rig.now() - order.asked < FRESH);
        let highest = self.attempts.entry(order.id).or_default();
        assert!(order.attempt >= *highest, "an attempt does not go back");
        *highest = order.attempt;
        let command = self.rig.weather.get(&self.rig.device, order.id).await.unwrap();
        assert!(command.life.attempts <= command.life.max_attempts);
        if !self.seen.contains(&order.id) {
            self.seen.push(order.id);
        }
    }

    fn answer(&mut self) {
        let Some(id) = self.random.choice(&self.seen).copied() else { return };
        let status = self.random.choice(CommandStatus::ALL).unwrap();
        let elsewhere = Arc::new(Mailbox::default());
        let by = if self.random.u8(..8) == 0 { elsewhere } else { Arc::clone(&self.mailbox) };
        self.rig.say(&by, id, status);
    }

    fn leave(&mut self) {
        self.mailbox.close();
        self.rig.courier.left(&self.rig.device, &self.mailbox);
    }

    fn come(&mut self) {
        self.epoch += 1;
        self.mailbox = self.rig.connect(self.epoch);
        self.rig.ring(&self.mailbox);
    }

    /// The same connection is claimed anew.
    fn promote(&mut self) {
        self.epoch += 1;
        self.rig.epoch.store(self.epoch.cast_signed(), Ordering::Relaxed);
        self.mailbox.set_epoch(Epoch(self.epoch));
        self.rig.ring(&self.mailbox);
    }

    async fn step(&mut self) {
        match self.random.u8(..40) {
            0..8 => self.submit().await,
            8..18 => self.take(3).await,
            18..26 => self.answer(),
            26..30 => {
                let ms = self.random.u64(..15_000);
                self.rig.pass(ms).await;
            }
            30..32 => self.rig.pass(2_000).await,
            32 => self.rig.weather.away.store(true, Ordering::Relaxed),
            33..35 => self.rig.weather.away.store(false, Ordering::Relaxed),
            35 => self.rig.weather.slow_ms.store(3_000, Ordering::Relaxed),
            36 => {
                self.leave();
                self.come();
            }
            37 => {
                // Somebody else has the device for a while.
                self.epoch += 1;
                self.rig.epoch.store(self.epoch.cast_signed(), Ordering::Relaxed);
            }
            38 => self.promote(),
            _ => self.rig.ring(&self.mailbox),
        }
        if self.random.bool() {
            settle_briefly().await;
        }
    }

    async fn check(&self) {
        let commands = self.rig.weather.inner.list(&self.rig.device, 200).await.unwrap();
        let here =
            |command: &&Command| command.life.state == State::Sent && command.life.epoch == Some(self.mailbox.epoch());
        let unheard = commands.iter().filter(here).count();
        // One may be allowed just now, after the answer that made room for it and before that answer is told.
        assert!(unheard <= 8 + 1, "{unheard} are sent on one connection and not heard of");
        let places: Vec<_> = self.seen.iter().map(|id| self.accepted.iter().position(|other| other == id)).collect();
        assert!(places.is_sorted(), "first attempts go in the order of the queue: {places:?}");
    }

    /// Everything is well from here on, and nobody rings again.
    async fn heal(&mut self) {
        self.rig.weather.away.store(false, Ordering::Relaxed);
        self.rig.weather.slow_ms.store(0, Ordering::Relaxed);
        if self.rig.epoch.load(Ordering::Relaxed) == self.mailbox.epoch().0.cast_signed() {
            self.rig.ring(&self.mailbox);
        } else {
            self.promote();
        }
        for _ in 0..200 {
            settle().await;
            self.take(usize::MAX).await;
            settle().await;
            for id in self.seen.clone() {
                if !self.rig.state(id).await.is_terminal() {
                    self.rig.say(&self.mailbox, id, CommandStatus::Succeeded);
                    settle_briefly().await;
                }
            }
            self.rig.pass(1_000).await;
            if self.rig.courier.lines() == 0 {
                break;
            }
        }
    }
}

async fn settle_briefly() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

async fn history(seed: u64) {
    let mut device = Device::new(seed);
    for _ in 0..device.random.usize(5..120) {
        device.step().await;
        device.check().await;
    }
    device.heal().await;
    device.check().await;
    for id in &device.accepted {
        let command = device.rig.weather.get(&device.rig.device, *id).await.unwrap();
        assert!(command.life.state.is_terminal(), "{id} waits for ever: {:?}", command.life);
    }
    assert_eq!(device.rig.courier.lines(), 0);
    // Of every command that ended, each transition was told once, in its order.
    let told = device.rig.told().await;
    assert_eq!(told.iter().collect::<HashSet<_>>().len(), told.len() - repeats(&told), "a state is told once");
    let mut untold = 0;
    for id in &device.accepted {
        let ends = told.iter().filter(|(other, state)| other == id && state.is_terminal()).count();
        assert!(ends <= 1, "{id} ended once");
        untold += 1 - ends as u64;
    }
    // What the directory did and could not say is left to the due sweeper.
    let lost = device.rig.weather.lost.load(Ordering::Relaxed);
    assert!(untold <= lost, "{untold} ends were not told, {lost} words of the directory were lost");
}

/// A command that is sent on several connections is told to be sent as often.
fn repeats(told: &[(CommandId, State)]) -> usize {
    let mut seen = HashSet::new();
    told.iter().filter(|(id, state)| *state == State::Sent && !seen.insert(*id)).count()
}

#[tokio::test]
async fn whatever_happens_every_command_goes_out_in_order_and_ends() {
    let first = fastrand::u64(..1 << 48);
    for seed in first..first + 100 {
        let run = tokio::spawn(history(seed));
        if let Err(error) = run.await {
            panic!("the history of seed {seed}: {error}");
        }
    }
}
