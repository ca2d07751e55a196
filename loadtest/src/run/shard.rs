//! One thread's devices: they come, measure, go and are cut off at the moments that the profile's curves say, whatever the
//! target does meanwhile.

mod agenda;
mod close;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::watch;

use super::caller::{Call, Caller};
use super::identity::Identities;
use super::slot::{self, Place, Slot};
use super::tally::SharedTally;
use super::target::Target;
use super::timeline::Timeline;
use super::turns::Turns;
use super::watch::Watch;
use crate::device::{self, Handle, How, Kind, NotTaken, Then};
use crate::figures::{Count, Timing};
use crate::ledger::Ledger;
use crate::profile::{AwayKind, Commands, Profile};
use agenda::{Agenda, Event, Poisson, What};

/// How often the curves are looked at.
const TICK: Duration = Duration::from_millis(10);
/// Between two looks at whether a device that wants to sleep has its acks, s.
const LOOK_S: f64 = 0.1;
/// Events that happen before other tasks get their turn.
const AT_ONCE: usize = 128;

/// What a shard is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// What the profile says.
    Run,
    /// Nothing new; wait for what is under way, then close.
    Finish,
    /// Close now.
    Abort,
}

/// What all shards of a process have in common.
pub(super) struct Plan {
    pub(super) profile: Arc<Profile>,
    pub(super) timeline: Timeline,
    pub(super) targets: Vec<Target>,
    /// Where devices connect from, in turn; any address where there is none.
    pub(super) sources: Vec<IpAddr>,
    pub(super) identities: Identities,
    pub(super) turns: Turns,
    pub(super) ledger: Arc<Ledger>,
    /// Whether what devices send is written into the ledger.
    pub(super) noted: bool,
    /// Begins every boot and idempotency key: no other run's.
    pub(super) run: String,
    pub(super) seed: u64,
    /// When the run begins.
    pub(super) began: Instant,
    /// The same in Unix milliseconds.
    pub(super) began_ms: i64,
}

impl Plan {
    fn instant(&self, at_s: f64) -> Instant {
        self.began + Duration::from_secs_f64(at_s.max(0.0))
    }

    fn unix_ms(&self, at_s: f64) -> i64 {
        self.began_ms + (at_s * 1e3) as i64
    }

    fn now_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

/// One thread's part of a run.
pub(super) struct Shard {
    plan: Arc<Plan>,
    tally: SharedTally,
    caller: Option<Arc<Caller>>,
    slots: Vec<Slot>,
    /// The first so many of them are in.
    present: usize,
    /// Of them those that are away by their own plan.
    away: usize,
    commands: Option<Arc<Commands>>,
    agenda: Agenda,
    churn: Poisson,
    calls: Poisson,
    called: u64,
    /// The stage that is on.
    stage: Option<usize>,
    rng: Rng,
}

impl Shard {
    /// The devices with these numbers.
    pub(super) fn new(
        plan: Arc<Plan>,
        tally: SharedTally,
        caller: Option<Arc<Caller>>,
        numbers: impl Iterator<Item = u32>,
    ) -> Self {
        let slot = |number| {
            let group = plan.profile.group_of(number);
            Slot::new(number, plan.seed, group, plan.profile.groups[group].data)
        };
        let slots: Vec<Slot> = numbers.map(slot).collect();
        let rng = Rng::with_seed(plan.seed ^ slots.first().map_or(0, |slot| u64::from(slot.number)));
        let (agenda, churn, calls) = (Agenda::default(), Poisson::default(), Poisson::default());
        // One for all devices.
        let commands = plan.profile.commands.clone().map(Arc::new);
        let (present, away, called, stage) = (0, 0, 0, None);
        Self { plan, tally, caller, slots, present, away, commands, agenda, churn, calls, called, stage, rng }
    }

    /// Runs until it is told to finish, then closes everything.
    pub(super) async fn drive(mut self, mut orders: watch::Receiver<Order>) {
        let begin = tokio::time::Instant::from_std(self.plan.began);
        tokio::select! {
            () = tokio::time::sleep_until(begin) => {}
            _ = orders.wait_for(|order| *order > Order::Run) => {}
        }
        while *orders.borrow() == Order::Run {
            let now = self.plan.now_s();
            self.follow(now);
            self.cut(now);
            self.end_some(now);
            self.call(now);
            let more = self.happen(now);
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            let next = self.agenda.next().map_or(TICK, |at| Duration::from_secs_f64((at - self.plan.now_s()).max(0.0)));
            tokio::select! {
                () = tokio::time::sleep(next.min(TICK)) => {}
                // Whoever gave the orders is gone: then there is nothing to run for.
                changed = orders.changed() => if changed.is_err() { break },
            }
        }
        close::close(self, orders).await;
    }

    /// Lets devices come and go as the curve says.
    fn follow(&mut self, now: f64) {
        let share = self.plan.timeline.share(now);
        let wanted = ((share * self.slots.len() as f64).round() as usize).min(self.slots.len());
        while self.present < wanted {
            self.arrive(self.present, now);
            self.present += 1;
        }
        while self.present > wanted {
            self.present -= 1;
            self.depart(self.present);
        }
        self.tally.lock().gauges.wanted = (self.present - self.away) as u64;
    }

    fn arrive(&mut self, index: usize, now: f64) {
        let plan = Arc::clone(&self.plan);
        let slot = &mut self.slots[index];
        let group = &plan.profile.groups[slot.group];
        slot.visit += 1;
        slot.come_back((now * 1e6) as u64);
        let due = slot.first_due(group, plan.timeline.clock(now));
        let visit = slot.visit;
        if let Some(at) = plan.timeline.when(due) {
            self.agenda.add(at, index, visit, What::Update);
        }
        if let Some(every) = group.status_every_s {
            let first = now + slot.rng.f64() * every;
            self.agenda.add(first, index, visit, What::Status);
        }
        if slot.handle.is_none() {
            self.start(index);
        }
        self.plan_absence(index, now);
    }

    fn depart(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.visit += 1;
        self.away -= usize::from(matches!(slot.place, Place::Away(_)));
        slot.place = Place::Out;
        if let Some(handle) = &slot.handle {
            handle.disconnect(How::Close, Then::StayAway);
        }
    }

    /// Begins the device's task, under the boot it has.
    fn start(&mut self, index: usize) {
        let plan = &self.plan;
        let slot = &mut self.slots[index];
        let name = plan.identities.name(slot.number);
        let target = &plan.targets[slot.number as usize % plan.targets.len()];
        let group = &plan.profile.groups[slot.group];
        let mut options = match slot::options(slot, group, &plan.run, &target.url, &name) {
            Ok(options) => options,
            Err(error) => return self.tally.lock().figures.error(&format!("starting: {error}")),
        };
        options.address = Some(target.address);
        options.tls.clone_from(&target.tls);
        options.turns = Some(Arc::clone(&plan.turns.devices));
        options.token = plan.identities.tokens(slot.number);
        if !plan.sources.is_empty() {
            // Not in step with the targets, or each source would know one target only.
            let at = slot.number as usize / plan.targets.len() % plan.sources.len();
            options.source = Some(plan.sources[at]);
        }
        let entry = plan.noted.then(|| plan.ledger.device(&name.tenant, &name.device));
        let commands = self.commands.clone();
        let (first, returns) = (slot.boot == 0, Arc::clone(&slot.returns));
        let watch = Watch::new(self.tally.clone(), first, plan.began, returns, commands, entry);
        slot.handle = Some(device::start(options, Box::new(watch)));
    }

    fn plan_absence(&mut self, index: usize, now: f64) {
        let slot = &mut self.slots[index];
        let group = &self.plan.profile.groups[slot.group];
        slot.stay += 1;
        slot.since = now;
        let Some(away) = slot.absences(group).copied() else { return };
        let here = match away.kind {
            AwayKind::DeadZone => slot.between(away.here_s),
            AwayKind::Sleep => away.here_s[0],
        };
        self.agenda.add(now + here, index, slot.stay, What::Leave);
    }

    /// Everything that is due; whether there is more.
    fn happen(&mut self, now: f64) -> bool {
        for _ in 0..AT_ONCE {
            let Some(event) = self.agenda.due(now) else { return false };
            self.event(event);
        }
        true
    }

    fn event(&mut self, event: Event) {
        let slot = &self.slots[event.slot];
        let valid = match event.what {
            What::Update | What::Status => slot.visit == event.mark,
            What::Leave | What::Return => slot.stay == event.mark && slot.place != Place::Out,
        };
        if !valid {
            return;
        }
        match event.what {
            What::Update => self.update(event),
            What::Status => self.status(event),
            What::Leave => self.leave(event),
            What::Return => self.come_back(event.slot, event.at),
        }
    }

    fn update(&mut self, event: Event) {
        let plan = Arc::clone(&self.plan);
        let group = &plan.profile.groups[self.slots[event.slot].group];
        for _ in 0..group.batch {
            self.hand_over(event.slot, event.at, Kind::Update);
        }
        let due = self.slots[event.slot].next_due(group);
        if let Some(at) = plan.timeline.when(due) {
            self.agenda.add(at, event.slot, event.mark, What::Update);
        }
    }

    fn status(&mut self, event: Event) {
        self.hand_over(event.slot, event.at, Kind::Status);
        let group = &self.plan.profile.groups[self.slots[event.slot].group];
        if let Some(every) = group.status_every_s {
            self.agenda.add(event.at + every, event.slot, event.mark, What::Status);
        }
    }

    fn hand_over(&mut self, index: usize, at: f64, kind: Kind) {
        let plan = &self.plan;
        let slot = &mut self.slots[index];
        let group = &plan.profile.groups[slot.group];
        // A device that is being rebooted measures nothing.
        if slot.handle.is_none() {
            return;
        }
        let due = plan.instant(slot.sendable(at));
        let update = slot.measure(group, kind, due, plan.unix_ms(at));
        let late = plan.instant(at).elapsed();
        let taken = slot.handle.as_ref().map(|handle| handle.update(update));
        let mut tally = self.tally.lock();
        tally.figures.time(Timing::Lateness, late);
        match taken {
            Some(Err(NotTaken::Full)) => tally.figures.count(Count::Dropped, 1),
            Some(Err(error)) => tally.figures.error(&format!("update: {error}")),
            Some(Ok(_)) | None => {}
        }
    }

    /// The device goes to sleep, if it has its acks or cannot wait any longer, or drives into a tunnel.
    fn leave(&mut self, event: Event) {
        let slot = &mut self.slots[event.slot];
        let group = &self.plan.profile.groups[slot.group];
        let (Some(away), Place::Here) = (slot.absences(group).copied(), slot.place) else { return };
        let how = match away.kind {
            AwayKind::DeadZone => How::Cut,
            AwayKind::Sleep => {
                let unacked = slot.handle.as_ref().map_or(0, Handle::unacked);
                if unacked > 0 && event.at < slot.since + away.here_s[1] {
                    return self.agenda.add(event.at + LOOK_S, event.slot, event.mark, What::Leave);
                }
                How::Close
            }
        };
        let gone = slot.between(away.gone_s);
        self.go(event.slot, how, event.at + gone);
    }

    /// Away until then.
    fn go(&mut self, index: usize, how: How, until: f64) {
        let slot = &mut self.slots[index];
        self.away += usize::from(slot.place == Place::Here);
        slot.leave(how, until);
        slot.stay += 1;
        self.agenda.add(until, index, slot.stay, What::Return);
    }

    fn come_back(&mut self, index: usize, at: f64) {
        self.away -= usize::from(matches!(self.slots[index].place, Place::Away(_)));
        self.slots[index].come_back((at * 1e6) as u64);
        if self.slots[index].handle.is_none() {
            self.start(index);
        }
        self.plan_absence(index, at);
    }

    /// Where a stage begins with it, devices lose their connections.
    fn cut(&mut self, now: f64) {
        let Some((number, stage)) = self.plan.timeline.stage(now) else { return };
        if self.stage.replace(number) == Some(number) || stage.cut <= 0.0 {
            return;
        }
        for slot in self.slots.iter().filter(|slot| slot.place == Place::Here) {
            if self.rng.f64() < stage.cut
                && let Some(handle) = &slot.handle
            {
                handle.disconnect(How::Cut, Then::ComeBack);
            }
        }
    }

    /// Devices end their connections at random, as the profile's churn says.
    fn end_some(&mut self, now: f64) {
        let Some(churn) = self.plan.profile.churn else { return };
        let factor = self.plan.timeline.stage(now).map_or(0.0, |(_, stage)| stage.churn);
        let rate = churn.per_s * factor * self.slots.len() as f64;
        while let Some(at) = self.churn.next(now, rate, &mut self.rng) {
            let index = self.rng.usize(..self.slots.len());
            if self.slots[index].place != Place::Here {
                continue;
            }
            let gone = self.slots[index].between(churn.gone_s);
            let mut chance = self.rng.f64() * (churn.how.clean + churn.how.cut + churn.how.reboot);
            chance -= churn.how.clean;
            if chance < 0.0 {
                self.go(index, How::Close, at + gone);
            } else if chance < churn.how.cut {
                self.go(index, How::Cut, at + gone);
            } else {
                let slot = &mut self.slots[index];
                slot.boot += 1;
                slot::end_without_a_word(slot.handle.take());
                self.go(index, How::Cut, at + gone);
            }
        }
    }

    /// Commands that are due.
    fn call(&mut self, now: f64) {
        let (Some(caller), Some(commands)) = (&self.caller, &self.plan.profile.commands) else { return };
        let rate = self.slots.len() as f64 / commands.every_s;
        while let Some(at) = self.calls.next(now, rate, &mut self.rng) {
            let slot = &self.slots[self.rng.usize(..self.slots.len())];
            let there = match slot.place {
                Place::Here => true,
                Place::Away(_) => commands.absent,
                Place::Out => false,
            };
            if there {
                self.called += 1;
                let (name, due) = (self.plan.identities.name(slot.number), self.plan.instant(at));
                // Each shard has numbers of its own.
                let number = self.called << 32 | u64::from(self.slots[0].number);
                caller.call(Call { number, name, due });
            }
        }
    }
}
