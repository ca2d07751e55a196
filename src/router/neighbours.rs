//! The other nodes: who can be asked, who is to be told that a device has left it, and whether they answer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::Router;
use crate::id::{DeviceKey, Epoch};
use crate::mailbox::{Letter, Mailbox};
use crate::ownership::{NodeLife, View};
use crate::peer::{Evicted, Peer, PeerError};
use crate::protocol::close::CloseReason;
use crate::sync::lock;
use crate::telemetry::metrics::ProbePath;

/// What was not answered is told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// Evicts to one node at once.
const TELL_AT_ONCE: usize = 32;
/// How often every peer is asked something.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// Which view the peers were last taken from, and in which life of this node.
#[derive(Default)]
pub(super) struct Met {
    view: Arc<View>,
    me: Option<Arc<NodeLife>>,
}

impl Router {
    /// Takes over who can be asked where the membership has changed.
    pub(super) fn meet(&self) {
        let (view, me) = (self.parts.registrar.directory().view(), self.parts.registrar.life());
        let mut met = lock(&self.met);
        if Arc::ptr_eq(&met.view, &view) && met.me.as_ref() == Some(&me) {
            return;
        }
        let live = peers(&view, &me);
        self.parts.metrics.peers.set(i64::try_from(live.len()).unwrap_or(i64::MAX));
        self.parts.peers.set_live(live);
        self.errands.keep(|life| view.member(life).is_some());
        *met = Met { view, me: Some(me) };
    }

    /// Follows the membership.
    pub(super) async fn follow_views(self: Arc<Self>) {
        let mut views = self.parts.registrar.directory().views();
        loop {
            self.meet();
            if views.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells nodes what they have lost: at once, and again until they answer or are gone.
    pub(super) async fn tell_losers(self: Arc<Self>) {
        let evicts = self.parts.registrar.evicts();
        loop {
            tokio::select! {
                () = evicts.noted() => {}
                () = tokio::time::sleep(TELL_AGAIN) => {}
            }
            let sweeps = evicts.take_sweeps();
            if sweeps.is_empty() && evicts.is_empty() {
                continue;
            }
            self.meet();
            sweeps.into_iter().for_each(|life| self.ask_to_sweep(life));
            for life in evicts.lives() {
                if lock(&self.telling).insert(life.clone()) {
                    let router = Arc::clone(&self);
                    tokio::spawn(async move {
                        router.tell_loser(&life).await;
                        lock(&router.telling).remove(&life);
                    });
                }
            }
        }
    }

    /// Until everything is told, or something was not answered.
    async fn tell_loser(&self, life: &NodeLife) {
        let evicts = self.parts.registrar.evicts();
        loop {
            let some = evicts.open(life, TELL_AT_ONCE);
            let told = some.iter().map(|evict| self.parts.peers.evict(life, &evict.device, evict.epoch));
            let answers = join_all(told).await;
            for (evict, answer) in some.iter().zip(&answers) {
                match answer {
                    Ok(_) => evicts.answered(evict),
                    Err(error) => tracing::debug!(%life, device = %evict.device, %error, "an evict was not answered"),
                }
            }
            if answers.is_empty() || answers.iter().any(Result::is_err) {
                return;
            }
        }
    }

    /// More was to be told than is kept.
    fn ask_to_sweep(self: &Arc<Self>, life: NodeLife) {
        let (router, to) = (Arc::clone(self), life.clone());
        let begun = self.errands.to(&life, async move {
            match router.parts.peers.sweep(&to).await {
                Ok(()) => tracing::info!(%to, "a peer is asked to compare what it holds with the directory"),
                Err(PeerError::Gone | PeerError::OtherLife) => {}
                Err(_) => router.parts.registrar.evicts().note_sweep(to),
            }
        });
        if !begun {
            self.parts.registrar.evicts().note_sweep(life);
        }
    }

    /// Proves all the time that peers answer: each is asked for a device that nobody has.
    pub(super) async fn probe_peers(self: Arc<Self>) {
        let Ok(nobody) = DeviceKey::new("-", "-") else { return };
        let mut every = tokio::time::interval(PROBE_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            self.probe_each(&nobody).await;
        }
    }

    /// Asks every peer once for a device.
    pub(super) async fn probe_each(&self, device: &DeviceKey) {
        self.meet();
        let directory = self.parts.registrar.directory();
        let all = peers(&directory.view(), &self.parts.registrar.life());
        let answers = join_all(all.iter().map(|peer| self.parts.peers.ring(&peer.life, device, Epoch(0)))).await;
        let failed = |answer: Result<(), PeerError>| answer.err().filter(|e| !matches!(e, PeerError::NotHere { .. }));
        let mut silent: Vec<(&Peer, PeerError)> =
            all.iter().zip(answers).filter_map(|(peer, answer)| Some((peer, failed(answer)?))).collect();
        // One that has left meanwhile is not missed.
        if !silent.is_empty() && directory.refresh().await.is_ok() {
            silent.retain(|(peer, _)| directory.knows(&peer.life));
        }
        for (peer, error) in &silent {
            tracing::warn!(peer = %peer.life, address = peer.address, %error, "a peer does not answer");
        }
        self.parts.metrics.probed(ProbePath::Peer, silent.is_empty());
    }

    /// Closes a device's connection here if it is older than this epoch. The one that waits for its own claim stays: if
    /// it lives its claim makes it the newest.
    pub(super) fn close_older(&self, device: &DeviceKey, epoch: Epoch) -> Evicted {
        let Some((mailbox, known)) = self.parts.roster.find(device) else { return Evicted::Absent };
        if known >= epoch || mailbox.standing().is_provisional() {
            return Evicted::Newer(known);
        }
        tracing::debug!(%device, epoch = epoch.0, "a device has another owner");
        let (router, own, device) = (self.me.upgrade(), Arc::clone(&mailbox), device.clone());
        let begun = router.is_some_and(|router| {
            let asked = Arc::clone(&router);
            router.errands.here(async move {
                let reason = asked.why_lost(&device, &own, epoch).await;
                close(&own, epoch, reason);
            })
        });
        if !begun {
            close(&mailbox, epoch, CloseReason::Moved);
        }
        Evicted::Closed
    }

    /// What the loser is told: whether another boot has its device. Where nobody knows, to come back.
    async fn why_lost(&self, device: &DeviceKey, mailbox: &Mailbox, epoch: Epoch) -> CloseReason {
        let row = self.parts.registrar.directory().ownership().row(device).await;
        match row {
            Ok(Some(row)) if row.epoch >= epoch && row.boot != *mailbox.boot() => CloseReason::Superseded,
            _ => CloseReason::Moved,
        }
    }
}

/// It may have been claimed anew meanwhile.
fn close(mailbox: &Mailbox, epoch: Epoch, reason: CloseReason) {
    if mailbox.epoch() < epoch {
        // Full or gone: it is ending for another reason already.
        let _ = mailbox.post(Letter::Close(reason));
    }
}

/// Everybody else who lives and says where.
fn peers(view: &View, me: &NodeLife) -> Vec<Peer> {
    let others = view.live.iter().map(|member| &member.profile);
    others
        .filter(|profile| profile.life != *me && !profile.address.is_empty())
        .map(|profile| Peer { life: profile.life.clone(), address: profile.address.clone() })
        .collect()
}
