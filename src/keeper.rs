//! What keeps this node true in the directory: its lease, the rows of its devices when Redis lost some, devices that came
//! while Redis was away, the devices of nodes that died, and the events that tell who is online.

mod anew;
mod publish;
mod release;
mod settle;
mod sweep;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::courier::Courier;
use crate::eventlog::SharedLog;
use crate::id::{DeviceKey, NodeName};
use crate::mailbox::Mailbox;
use crate::ownership::{
    LAPSED_MS, LEASE_MS, Lease, NodeLife, NodeState, OwnershipError, Profile, RENEW_EVERY_MS, View,
};
use crate::receipts::Receipts;
use crate::registrar::Registrar;
use crate::roster::Roster;
use crate::sync::lock;
use crate::telemetry::metrics::{ConnectionState, Metrics, PeerKind, ProbePath};
use sweep::Sweeps;

/// A renewal that failed is tried again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long it has to be so that this node lacks Kafka and another has it before anything follows. Where all lose it they
/// find out one after the other, within a probe (5 s) and a renewal; and who died with it is believed to the end of its lease.
const CUT_OFF_AFTER: Duration = Duration::from_millis(LEASE_MS + RENEW_EVERY_MS);
/// How often a leaving node looks whether everything is told.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the keeper works on.
pub struct Parts {
    /// What connections left to be done.
    pub registrar: Arc<Registrar>,
    /// Who is connected.
    pub roster: Arc<Roster>,
    /// Where presence goes.
    pub log: SharedLog,
    /// Who waits for what.
    pub receipts: Arc<Receipts>,
    /// What brings commands; nothing where none can come.
    pub courier: Option<Arc<Courier>>,
    /// What people see.
    pub metrics: Metrics,
    /// Where peers reach this node, `host:port`.
    pub address: String,
}

/// Keeps one node.
pub struct Keeper {
    parts: Parts,
    name: NodeName,
    state: Mutex<NodeState>,
    /// When the lease was last extended in this life; never before the first time.
    renewed: Mutex<Option<Instant>>,
    /// Of each primary what only it has in this life.
    identities: Mutex<HashMap<String, String>>,
    /// The dead whose devices this node settles.
    settling: Mutex<HashSet<NodeLife>>,
    sweeps: Sweeps,
    /// Since when this node lacks Kafka and another has it.
    lacking: Mutex<Option<Instant>>,
    is_cut_off: AtomicBool,
    /// What the others were told last.
    told_kafka: AtomicBool,
    /// Renew at once.
    hurry: Notify,
    /// Whose turn it is to renew; none has one after the node has said that it is gone.
    renewals: Semaphore,
}

impl Keeper {
    /// Of a node that starts.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            name: parts.registrar.life().node.clone(),
            parts,
            state: Mutex::new(NodeState::Starting),
            renewed: Mutex::default(),
            identities: Mutex::default(),
            settling: Mutex::default(),
            sweeps: Sweeps::default(),
            lacking: Mutex::default(),
            is_cut_off: AtomicBool::new(false),
            told_kafka: AtomicBool::new(false),
            hurry: Notify::new(),
            renewals: Semaphore::new(1),
        })
    }

    /// Makes the node known. To be called before it takes a device, and again where it failed.
    ///
    /// # Errors
    /// [`OwnershipError`].
    pub async fn begin(self: &Arc<Self>) -> Result<(), OwnershipError> {
        self.renew().await
    }

    /// Starts everything that goes on all the time; it ends with the runtime.
    pub fn spawn(self: &Arc<Self>) {
        tokio::spawn(Arc::clone(self).keep());
        tokio::spawn(Arc::clone(self).sweep());
        tokio::spawn(Arc::clone(self).claim_provisional());
        tokio::spawn(Arc::clone(self).make_releases());
        tokio::spawn(Arc::clone(self).publish_presence());
    }

    /// Says what the node is doing; the others hear of it at once.
    pub fn set_state(&self, state: NodeState) {
        if std::mem::replace(&mut *lock(&self.state), state) != state {
            self.hurry.notify_one();
        }
    }

    /// Whether this node lacks Kafka while a live peer reports having it, and has for a while.
    pub fn is_cut_off(&self) -> bool {
        let cut_off = lock(&self.lacking).is_some_and(|since| since.elapsed() >= CUT_OFF_AFTER);
        if self.is_cut_off.swap(cut_off, Ordering::Relaxed) != cut_off {
            if cut_off {
                tracing::warn!("this node cannot reach Kafka and others can: it is unready");
            } else {
                tracing::info!("this node is not the only one any more that lacks Kafka, or has it again");
            }
        }
        cut_off
    }

    /// Has the others told at once where this node lost or found Kafka. To be called all the time.
    pub fn tell_kafka(&self) {
        if self.told_kafka.load(Ordering::Relaxed) != self.sees_kafka() {
            self.hurry.notify_one();
        }
    }

    fn sees_kafka(&self) -> bool {
        self.parts.metrics.probe_state(ProbePath::Kafka).0
    }

    /// Compares everything that is held here with the directory, soon: a peer could not tell what it had to.
    pub fn sweep_all(&self) {
        self.sweeps.add(None);
    }

    /// Waits until every release is made and all presence published, or until `end`.
    pub async fn finish(&self, end: Instant) {
        while !self.parts.registrar.is_settled() && Instant::now() < end {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Has the others take this node for dead now and not when its lease ends, where it left in good order: one of them looks
    /// whether anything of it is left. To be called last.
    pub async fn depart(&self) {
        if !self.parts.registrar.is_settled() || self.parts.receipts.connections() > 0 {
            return;
        }
        let Ok(_turn) = self.renewals.acquire().await else { return };
        self.renewals.close();
        let dead = Profile { state: NodeState::Dead, ..self.profile() };
        if let Err(error) = self.parts.registrar.directory().renew(&dead).await {
            tracing::debug!(%error, "the others believe that this node lives until its lease ends");
        }
    }

    async fn keep(self: Arc<Self>) {
        while let Ok(turn) = self.renewals.acquire().await {
            let pause = match self.renew().await {
                // Not all nodes at once.
                Ok(()) => Duration::from_millis(RENEW_EVERY_MS - fastrand::u64(..RENEW_EVERY_MS / 10)),
                Err(_) => AGAIN_AFTER,
            };
            drop(turn);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.hurry.notified() => {}
            }
        }
    }

    fn profile(&self) -> Profile {
        let sees_kafka = self.sees_kafka();
        self.told_kafka.store(sees_kafka, Ordering::Relaxed);
        let devices = self.parts.metrics.connections.of(ConnectionState::Open, PeerKind::Device);
        Profile {
            life: (*self.parts.registrar.life()).clone(),
            address: self.parts.address.clone(),
            state: *lock(&self.state),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sees_kafka,
            devices: u64::try_from(devices.get()).ok(),
        }
    }

    /// Extends the lease once, and does what follows from the answer.
    async fn renew(self: &Arc<Self>) -> Result<(), OwnershipError> {
        let profile = self.profile();
        let renewed = self.parts.registrar.directory().renew(&profile).await;
        let answered = matches!(renewed, Ok(_) | Err(OwnershipError::Buried));
        self.parts.metrics.probed(ProbePath::Redis, answered);
        let renewed = match renewed {
            Ok(renewed) => renewed,
            Err(OwnershipError::Buried) => return self.begin_another_life("it was declared dead").await,
            Err(error) => {
                tracing::warn!(%error, "the node's lease could not be extended");
                return Err(error);
            }
        };
        let before = lock(&self.renewed).replace(Instant::now());
        let silent_ms = match renewed.lease {
            Lease::Lapsed(ms) => ms + LEASE_MS,
            Lease::Held | Lease::Absent => 0,
        };
        let silent = before.is_some_and(|at| at.elapsed() >= Duration::from_millis(LAPSED_MS));
        if silent || silent_ms >= LAPSED_MS {
            return self.begin_another_life("its lease had ended long ago").await;
        }
        if before.is_some() && renewed.lease == Lease::Absent {
            tracing::warn!("Redis does not know this node any more: all devices are entered again");
            self.sweeps.add(None);
        }
        self.look_around(&renewed.view, &profile);
        self.inspect().await;
        Ok(())
    }

    /// The rows of the old life may have been settled: from now on this is another node to the others, and all devices
    /// are claimed anew.
    async fn begin_another_life(self: &Arc<Self>, why: &'static str) -> Result<(), OwnershipError> {
        let life = NodeLife::begin(self.name.clone());
        tracing::warn!(why, %life, "this node begins another life: its devices are claimed anew");
        self.parts.registrar.begin_life(life);
        let renewed = self.parts.registrar.directory().renew(&self.profile()).await;
        // Where it fails the next renewal is of the new life all the same.
        *lock(&self.renewed) = renewed.is_ok().then(Instant::now);
        self.sweeps.add(None);
        renewed.map(|_| ())
    }

    /// Commands wait for a device that was just entered.
    fn ring(&self, device: &DeviceKey, mailbox: &Arc<Mailbox>) {
        if let Some(courier) = &self.parts.courier {
            courier.ring(device, mailbox);
        }
    }

    fn look_around(self: &Arc<Self>, view: &View, me: &Profile) {
        let others = view.live.iter().filter(|member| member.profile.life != me.life);
        // Who leaves takes nobody.
        let takes = |state| state != NodeState::Draining;
        let somebody_sees = others.into_iter().any(|member| member.profile.sees_kafka && takes(member.profile.state));
        let lacks = !me.sees_kafka && somebody_sees && me.state != NodeState::Starting;
        let mut lacking = lock(&self.lacking);
        *lacking = if lacks { lacking.or_else(|| Some(Instant::now())) } else { None };
        drop(lacking);
        self.parts.registrar.evicts().keep(|life| view.member(life).is_some());
        for (_, mailbox) in self.parts.registrar.provisional() {
            mailbox.ask();
        }
        self.settle_the_dead(view);
    }
}
