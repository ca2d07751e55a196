//! What a device at level 2 does and when: everything but the bytes. No I/O and no clock.

use std::time::{Duration, Instant};

use tidegate::protocol::client::OwnedGatewayMessage;

use super::answers::Answers;
use super::options::Options;
use super::outbox::{Kept, Outbox};
use super::plan::Plan;

/// The window where the `welcome` names none.
const WINDOW: usize = 64;
/// The heartbeat where it names none.
const HEARTBEAT: Duration = Duration::from_secs(25);
/// The message size where it names none.
const MESSAGE_BYTES: usize = 64 * 1024;

/// Why the device itself ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// Nothing came for two heartbeats and a half: the peer is gone, or the way to it.
    Silence,
    /// Nothing was acked for too long, and it is not paused.
    NoAck,
}

impl Overdue {
    /// In words.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Silence => "nothing was heard for two heartbeats",
            Self::NoAck => "no ack came in time",
        }
    }
}

/// Why it is paused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pauses {
    log: bool,
    rate: bool,
    other: bool,
}

impl Pauses {
    fn of(&mut self, reason: &str) -> &mut bool {
        match reason {
            "log" => &mut self.log,
            "rate" => &mut self.rate,
            _ => &mut self.other,
        }
    }

    fn any(self) -> bool {
        self.log || self.rate || self.other
    }
}

/// The state of a device.
#[derive(Debug)]
pub struct State {
    /// Updates that are not settled.
    pub outbox: Outbox,
    /// Commands.
    pub answers: Answers,
    /// When it comes back.
    pub plan: Plan,
    /// The largest message the gateway takes.
    pub max_message_bytes: usize,
    pauses: Pauses,
    window: usize,
    heartbeat: Duration,
    ack_timeout: Duration,
    heard_at: Instant,
    /// The last time there was no reason to expect an ack earlier than `ack_timeout` from then.
    progress_at: Instant,
    /// The gateway's clock at the `welcome`, Unix milliseconds, and when that was.
    server_time: Option<(i64, Instant)>,
}

impl State {
    /// Of a device that begins now.
    pub fn new(options: &Options, rng: fastrand::Rng, now: Instant) -> Self {
        Self {
            outbox: Outbox::new(options.buffer),
            answers: Answers::default(),
            plan: Plan::new(options.reconnect, rng),
            max_message_bytes: MESSAGE_BYTES,
            pauses: Pauses::default(),
            window: WINDOW,
            heartbeat: HEARTBEAT,
            ack_timeout: options.ack_timeout,
            heard_at: now,
            progress_at: now,
            server_time: None,
        }
    }

    /// A new connection has its `welcome`: nothing is written on it. What it says is stored goes to `settled`.
    pub fn welcomed(&mut self, welcome: &OwnedGatewayMessage, now: Instant, settled: impl FnMut(Kept)) {
        self.outbox.rewind();
        if let Some(seq) = welcome.resume_after {
            self.outbox.resume_after(seq, settled);
        }
        self.pauses = Pauses::default();
        let size =
            |number: Option<u64>, default| number.and_then(|number| usize::try_from(number).ok()).unwrap_or(default);
        self.window = size(welcome.window, WINDOW).max(1);
        self.max_message_bytes = size(welcome.max_message_bytes, MESSAGE_BYTES);
        self.heartbeat = welcome.heartbeat_s.map_or(HEARTBEAT, |seconds| Duration::from_secs(seconds.clamp(1, 86_400)));
        self.server_time = welcome.server_time.map(|at| (at, now));
        (self.heard_at, self.progress_at) = (now, now);
        self.plan.opened(now);
    }

    /// The gateway's ping interval.
    pub fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// How many updates may be unacked.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Something came.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// Whether updates are to be held.
    pub fn is_paused(&self) -> bool {
        self.pauses.any()
    }

    /// It is to hold its updates.
    pub fn pause(&mut self, reason: &str) {
        *self.pauses.of(reason) = true;
    }

    /// It need not for this reason.
    pub fn resume(&mut self, reason: &str, now: Instant) {
        *self.pauses.of(reason) = false;
        self.progress_at = now;
    }

    /// Whether another update may be written.
    pub fn may_send(&self) -> bool {
        !self.is_paused() && self.outbox.in_flight() < self.window
    }

    /// The next update was written.
    pub fn wrote(&mut self, now: Instant) -> Option<(&Kept, bool)> {
        if self.outbox.in_flight() == 0 {
            self.progress_at = now;
        }
        self.outbox.wrote(now)
    }

    /// An ack came.
    ///
    /// # Errors
    /// [`super::outbox::AckBeyond`].
    pub fn acked(&mut self, seq: u64, now: Instant, each: impl FnMut(Kept)) -> Result<(), super::outbox::AckBeyond> {
        self.progress_at = now;
        self.outbox.ack(seq, each)
    }

    /// How long a command lives on.
    pub fn time_left(&self, expires_at_ms: i64, now: Instant) -> Duration {
        let Some((at, when)) = self.server_time else { return Duration::from_secs(3_600) };
        let passed = i64::try_from(now.saturating_duration_since(when).as_millis()).unwrap_or(i64::MAX);
        let left = expires_at_ms.saturating_sub(at.saturating_add(passed));
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }

    fn silent_at(&self) -> Instant {
        self.heard_at + self.heartbeat.mul_f64(2.5) + Duration::from_secs(2)
    }

    fn ack_by(&self) -> Option<Instant> {
        (self.outbox.in_flight() > 0 && !self.is_paused()).then(|| self.progress_at + self.ack_timeout)
    }

    /// Whether the connection is to be given up. One that does not read all the time cannot tell silence.
    pub fn overdue(&self, now: Instant, reads: bool) -> Option<Overdue> {
        if reads && self.silent_at() <= now {
            return Some(Overdue::Silence);
        }
        self.ack_by().is_some_and(|by| by <= now).then_some(Overdue::NoAck)
    }

    /// When to look again while connected.
    pub fn deadline(&self, reads: bool) -> Option<Instant> {
        let silent_at = reads.then(|| self.silent_at());
        silent_at.into_iter().chain(self.ack_by()).min()
    }
}

#[cfg(test)]
mod tests;
