//! How connections are sent to other nodes while this one still works: a few at a time, each to be gone within its own
//! deadline. All of them, where the node lets nobody in any more; some, where others are to have them; one, where it is old.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::per_second::PerSecond;
use super::pump::{Desk, Pump, State, tick};
use super::{Node, STOP_STALLED_MS, STOP_WITHIN_MS, TICK_MS, Transport};
use crate::mailbox::Signal;
use crate::protocol::close::CloseReason;
use crate::protocol::message::GatewayMessage;
use crate::session::Now;
use crate::sync::lock;
use crate::telemetry::metrics::{PeerKind, ShedReason};

/// How long a connection works on after it was told to leave, where nothing makes it shorter, in milliseconds.
pub const GRACE_MS: u64 = 30_000;
/// How long one that is old enough waits until it asks again whether it may leave, in milliseconds.
const AGE_AGAIN_MS: u64 = 5_000;

/// How connections leave that are told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// What they are told, and closed with when they stay.
    pub reason: CloseReason,
    /// How long each works on after it was told, in milliseconds.
    pub grace_ms: u64,
    /// When the last one has to go, on the monotonic clock, however late it was told.
    pub until_ms: u64,
}

impl Departure {
    /// Of one connection, while the node stays.
    pub(super) const fn alone(reason: CloseReason) -> Self {
        Self { reason, grace_ms: GRACE_MS, until_ms: u64::MAX }
    }

    /// How long one that is told at `now` works on, in milliseconds.
    pub(super) fn deadline_ms(&self, now: Now) -> u64 {
        self.grace_ms.min(self.until_ms.saturating_sub(now.mono_ms))
    }

    /// Why all of them leave.
    const fn why(&self) -> ShedReason {
        match self.reason {
            CloseReason::Moved => ShedReason::CutOff,
            _ => ShedReason::Drain,
        }
    }
}

/// Where it stands whether, and how, connections leave.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<Option<Departure>>);

impl Board {
    fn lock(&self) -> MutexGuard<'_, Option<Departure>> {
        lock(&self.0)
    }
}

/// How old the connections of devices may become, and how many of them are told to leave for it in a second. By default
/// as old as they like.
#[derive(Debug, Default)]
pub struct Ages {
    /// 0: as old as they like.
    max_ms: u64,
    rate_per_s: u32,
    held: AtomicBool,
    told: PerSecond,
}

impl Ages {
    /// Each is told somewhere in the last quarter of `max_age_s` (0: never), and not more than `rate_per_s` a second.
    pub fn new(max_age_s: u64, rate_per_s: u32) -> Self {
        Self { max_ms: max_age_s.saturating_mul(1_000), rate_per_s, ..Self::default() }
    }

    /// Has nobody told for now, or no longer so: while a node drains its devices need the room and the quiet.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// When one that began at `since_ms` is old, on the same clock: `random` draws the moment.
    fn due_ms(&self, since_ms: u64, random: u64) -> Option<u64> {
        // Of 1,024 parts of a quarter.
        let sooner_ms = (self.max_ms / 4).saturating_mul(random % 1_024) / 1_024;
        (self.max_ms > 0).then(|| since_ms.saturating_add(self.max_ms - sooner_ms))
    }

    fn take(&self, now: Now) -> bool {
        !self.held.load(Ordering::Relaxed) && self.told.take(u64::from(self.rate_per_s), now)
    }
}

impl Node {
    /// Lets nobody in any more; who is told to leave does so like this. Who is already told keeps its deadline.
    pub fn close_doors(&self, departure: Departure) {
        *self.departure.lock() = Some(departure);
    }

    /// Lets devices in again, where the doors were closed for this reason and not for another since.
    pub fn open_doors(&self, reason: CloseReason) {
        self.departure.lock().take_if(|departure| departure.reason == reason);
    }

    /// Whether anybody is let in.
    pub fn lets_in(&self) -> bool {
        !self.is_stopping() && self.departure().is_none()
    }

    /// How connections leave, while they are to.
    pub fn departure(&self) -> Option<Departure> {
        *self.departure.lock()
    }

    /// Tells up to `count` connections from place `from` on to leave, and gives the place to go on from; nothing where
    /// everybody is told. Who comes meanwhile finds out by itself.
    pub fn send_away(&self, from: usize, count: usize) -> Option<usize> {
        self.receipts.some(from, count, |mailbox| {
            mailbox.signal(Signal::Leave);
            true
        })
    }

    /// Tells up to `count` devices from place `from` on to move to other nodes while this one goes on, and gives the place
    /// to go on from; nothing where none lie behind. Applications stay: they are few, and wait here for their commands.
    pub fn shed(&self, from: usize, count: usize) -> Option<usize> {
        self.receipts.some(from, count, |mailbox| {
            // Only devices have an epoch.
            let is_device = mailbox.epoch().0 != 0;
            if is_device {
                mailbox.signal(Signal::Move);
            }
            is_device
        })
    }
}

impl<S: Transport> Pump<S> {
    /// Leaves where everybody is to.
    pub(super) fn leave_with_the_others(&mut self, desk: &mut Desk) {
        if let Some(departure) = self.node.departure() {
            self.begin_leave(departure, departure.why(), desk);
        }
    }

    /// Says that it is time to connect elsewhere. Until the deadline everything goes on as before. Whoever was told
    /// already keeps that deadline.
    pub(super) fn begin_leave(&mut self, departure: Departure, why: ShedReason, desk: &mut Desk) {
        if !matches!(self.state, State::Open) {
            return;
        }
        let deadline_ms = departure.deadline_ms(desk.now);
        // Rather half a second late than early.
        let until = tick(desk.now.mono_ms + deadline_ms) + 1;
        self.say_goaway(departure.reason, why, (deadline_ms, deadline_ms / 2), desk);
        self.state = State::Leaving { until, reason: departure.reason };
    }

    /// The node stops: whoever was not told to leave is told now.
    pub(super) fn begin_stop(&mut self, desk: &mut Desk) {
        match self.state {
            State::Open => {
                self.say_goaway(CloseReason::Restart, ShedReason::Drain, (STOP_WITHIN_MS, u64::MAX), desk);
            }
            State::Leaving { .. } => {}
            _ => return,
        }
        self.read_no_more(CloseReason::Restart, desk);
    }

    fn say_goaway(
        &self,
        reason: CloseReason,
        why: ShedReason,
        (deadline_ms, retry_within_ms): (u64, u64),
        desk: &mut Desk,
    ) {
        let retry_after_ms = self.node.retry_after_ms(retry_within_ms);
        self.put(&GatewayMessage::Goaway { reason: reason.text(), retry_after_ms, deadline_ms }, desk);
        self.node.metrics.shed.of(why).inc();
        self.node.metrics.leaving_connections.of(self.session.kind()).inc();
    }

    /// From here on only what was taken is settled: what was received and not taken is the device's to send again.
    pub(super) fn read_no_more(&mut self, reason: CloseReason, desk: &Desk) {
        self.held = None;
        let within_ms = if self.node.is_stalled() { STOP_STALLED_MS } else { STOP_WITHIN_MS };
        self.state = State::Stopping { until: tick(desk.now.mono_ms + within_ms), reason };
    }

    /// Leaves where it is a device's, old, and not too many leave for that in this second.
    pub(super) fn look_at_age(&mut self, desk: &mut Desk) {
        let is_old = self.old_ms().is_some_and(|old_ms| old_ms <= desk.now.mono_ms);
        if is_old && self.node.lets_in() && self.node.ages.take(desk.now) {
            self.begin_leave(Departure::alone(CloseReason::MaxAge), ShedReason::MaxAge, desk);
        }
    }

    /// When to look at that next.
    pub(super) fn look_at_age_ms(&self, now: Now) -> Option<u64> {
        Some(self.old_ms()?.max(now.mono_ms + AGE_AGAIN_MS))
    }

    fn old_ms(&self) -> Option<u64> {
        let may = matches!(self.state, State::Open) && self.session.kind() == PeerKind::Device;
        // Its name was drawn at random, and tells the same each time.
        if may { self.node.ages.due_ms(u64::from(self.since) * TICK_MS, self.place.id().bits()) } else { None }
    }
}

impl<S> Pump<S> {
    /// It is not one any more that was told to leave and is still here.
    pub(super) fn count_gone(&self) {
        if matches!(self.state, State::Leaving { .. } | State::Stopping { .. }) {
            self.node.metrics.leaving_connections.of(self.session.kind()).dec();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_ends_with_the_departure() {
        let departure = Departure { reason: CloseReason::Restart, grace_ms: 30_000, until_ms: 100_000 };
        let at = |mono_ms| departure.deadline_ms(Now { mono_ms, unix_ms: 0 });
        assert_eq!((at(0), at(70_000), at(95_000), at(200_000)), (30_000, 30_000, 5_000, 0));
    }

    #[test]
    fn connections_grow_old_somewhere_in_the_last_quarter_and_a_few_a_second() {
        let ages = Ages::new(1_000, 2);
        let draws = (0..4_096).map(|random| ages.due_ms(5_000, random).unwrap());
        let (first, last) = (draws.clone().min().unwrap(), draws.max().unwrap());
        assert!((755_000..757_000).contains(&first) && last == 1_005_000, "{first} to {last}");
        assert_eq!(Ages::default().due_ms(5_000, 7), None);
        let told = |mono_ms| (0..10).filter(|_| ages.take(Now { mono_ms, unix_ms: 0 })).count();
        assert_eq!((told(0), told(999), told(1_000)), (2, 0, 2));
        ages.hold(true);
        assert_eq!(told(2_000), 0);
        ages.hold(false);
        assert_eq!(told(2_000), 2);
    }
}
