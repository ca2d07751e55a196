//! What a device tells is counted, timed and written into the ledger; and what it is told to do, it does as the profile
//! says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::collector::Trouble;
use super::tally::SharedTally;
use crate::device::{
    Acked, Answer, Answered, By, Closed, Command, CommandStatus, Connected, Dropped, Error, Goaway, Next, Refused,
    Reply, Sent, Watcher,
};
use crate::figures::{Count, Timing};
use crate::ledger::Entry;
use crate::profile::Commands;

/// When a device that was away on purpose was to come back: µs since the run began, and 0 where it was not.
pub(super) type Return = Arc<AtomicU64>;

/// Watches one device.
pub(super) struct Watch {
    pub(super) tally: SharedTally,
    /// Whether this boot is the device's first.
    pub(super) first_boot: bool,
    pub(super) began: Instant,
    pub(super) returns: Return,
    pub(super) commands: Option<Arc<Commands>>,
    /// Where a ledger is kept.
    pub(super) entry: Option<Entry>,
    connections: u32,
    paused: Vec<String>,
    in_flight: u64,
}

impl Watch {
    pub(super) fn new(
        tally: SharedTally,
        first_boot: bool,
        began: Instant,
        returns: Return,
        commands: Option<Arc<Commands>>,
        entry: Option<Entry>,
    ) -> Self {
        Self { tally, first_boot, began, returns, commands, entry, connections: 0, paused: Vec::new(), in_flight: 0 }
    }

    /// An update is settled, one way or the other.
    fn settled(&mut self) {
        if self.in_flight > 0 {
            self.in_flight -= 1;
            let mut tally = self.tally.lock();
            tally.gauges.in_flight = tally.gauges.in_flight.saturating_sub(1);
        }
    }

    fn resume(&mut self) {
        if !self.paused.is_empty() {
            self.paused.clear();
            let mut tally = self.tally.lock();
            tally.gauges.paused = tally.gauges.paused.saturating_sub(1);
        }
    }

    /// How long it was without a connection through no wish of its own.
    fn missed(&self, connected: &Connected<'_>) -> Option<Duration> {
        let returns = self.returns.swap(0, Ordering::Relaxed);
        if returns == 0 {
            return connected.away.filter(|_| !connected.first);
        }
        Some(Instant::now().saturating_duration_since(self.began + Duration::from_micros(returns)))
    }
}

impl Watcher for Watch {
    fn connected(&mut self, connected: &Connected<'_>) {
        let missed = self.missed(connected);
        let again = !connected.first || !self.first_boot;
        self.connections += 1;
        let mut tally = self.tally.lock();
        // One that moves has two for a moment, and is one device all the same.
        tally.gauges.connected += u64::from(self.connections == 1);
        tally.figures.count(Count::Connects, 1);
        tally.figures.count(Count::Reconnects, u64::from(again));
        tally.figures.time(Timing::Connect, connected.took);
        if let Some(tls) = connected.tls {
            tally.figures.time(Timing::Tls, tls);
        }
        if let Some(missed) = missed.filter(|_| again) {
            tally.figures.time(Timing::Reconnect, missed);
        }
    }

    fn connect_failed(&mut self, error: &Error, _next: Next) {
        let mut tally = self.tally.lock();
        if tally.ending {
            return;
        }
        tally.figures.count(Count::ConnectFailures, 1);
        tally.figures.error(&format!("connecting: {}", error.label()));
        match error {
            Error::Refused { status: 401 | 403, .. } | Error::Token(_) => {
                tally.unwelcome = Some(Trouble::Unwelcome(error.to_string()));
            }
            error if error.is_untrusted() => tally.unwelcome = Some(Trouble::Untrusted(error.to_string())),
            _ => {}
        }
    }

    fn sent(&mut self, sent: &Sent<'_>) {
        if let Some(entry) = &self.entry {
            entry.sent(sent.boot, sent.seq, sent.digest);
        }
        self.in_flight += u64::from(!sent.repeat);
        let mut tally = self.tally.lock();
        tally.gauges.in_flight += u64::from(!sent.repeat);
        tally.figures.count(Count::Sent, 1);
        tally.figures.count(Count::Repeats, u64::from(sent.repeat));
    }

    fn acked(&mut self, acked: &Acked<'_>) {
        if let Some(entry) = &self.entry {
            entry.acked(acked.boot, acked.seq);
        }
        self.settled();
        let mut tally = self.tally.lock();
        tally.figures.count(Count::Acked, 1);
        // What was due at the end of an absence and left earlier, since the run ended, was due as it left.
        tally.figures.time(Timing::Ack, acked.at.saturating_duration_since(acked.due.min(acked.sent)));
        tally.figures.time(Timing::AckUncorrected, acked.at.saturating_duration_since(acked.sent));
    }

    fn refused(&mut self, refused: &Refused<'_>) {
        if let (Some(entry), Some(seq), false) = (&self.entry, refused.seq, refused.unsent) {
            entry.refused(refused.boot, seq);
        }
        if refused.digest.is_some() && !refused.unsent {
            self.settled();
        }
        let mut tally = self.tally.lock();
        tally.figures.count(Count::Refused, 1);
        tally.figures.error(&format!("refused: {}", refused.code));
    }

    fn dropped(&mut self, dropped: &Dropped<'_>) {
        if dropped.sent {
            self.settled();
        }
        self.tally.lock().figures.count(Count::Dropped, 1);
    }

    fn paused(&mut self, reason: &str, _retry_after: Option<Duration>) {
        let first = self.paused.is_empty();
        if !self.paused.iter().any(|known| known == reason) {
            self.paused.push(reason.to_owned());
        }
        let mut tally = self.tally.lock();
        tally.figures.count(Count::Pauses, 1);
        tally.gauges.paused += u64::from(first);
    }

    fn resumed(&mut self, reason: &str) {
        let before = self.paused.len();
        self.paused.retain(|known| known != reason);
        if before > 0 && self.paused.is_empty() {
            let mut tally = self.tally.lock();
            tally.gauges.paused = tally.gauges.paused.saturating_sub(1);
        }
    }

    fn goaway(&mut self, _goaway: &Goaway<'_>) {
        self.tally.lock().figures.count(Count::Goaways, 1);
    }

    fn command(&mut self, command: &Command<'_>) -> Answer {
        if let Some(entry) = &self.entry {
            entry.received(command.id, command.attempt as u32);
            entry.ran(command.id);
        }
        self.tally.lock().figures.count(Count::CommandsReceived, 1);
        let Some(profile) = &self.commands else { return Answer::Now(Reply::succeeded()) };
        let chance = fastrand::f64();
        if chance < profile.ignored {
            return Answer::Never;
        }
        let [low, high] = profile.work_s;
        let work = Duration::from_secs_f64(low + fastrand::f64() * (high - low));
        let reply = if chance < profile.ignored + profile.fails {
            Reply::failed("as the profile says")
        } else {
            Reply::with_result(format!("{{\"did\":{}}}", serde_json::Value::from(command.name)))
        };
        if work.is_zero() { Answer::Now(reply) } else { Answer::After(work, reply) }
    }

    fn repeated(&mut self, command: &Command<'_>) {
        if let Some(entry) = &self.entry {
            entry.received(command.id, command.attempt as u32);
        }
        self.tally.lock().figures.count(Count::CommandsReceived, 1);
    }

    fn answered(&mut self, answered: &Answered<'_>) {
        if let Some(entry) = &self.entry
            && !matches!(answered.status, CommandStatus::Received | CommandStatus::Running)
        {
            entry.answered(answered.id, answered.status == CommandStatus::Succeeded, None);
        }
    }

    fn closed(&mut self, closed: &Closed<'_>) {
        self.resume();
        self.connections = self.connections.saturating_sub(1);
        let mut tally = self.tally.lock();
        if self.connections == 0 {
            tally.gauges.connected = tally.gauges.connected.saturating_sub(1);
        }
        if tally.ending {
            return;
        }
        tally.figures.count(Count::Disconnects, 1);
        match closed.by {
            By::Gateway | By::Network => tally.figures.closed(closed.code),
            By::Device => {}
        }
    }

    fn violation(&mut self, what: &str) {
        let mut tally = self.tally.lock();
        tally.figures.count(Count::ProtocolErrors, 1);
        tally.figures.error(&format!("protocol: {what}"));
    }

    fn bytes(&mut self, written: usize, read: usize) {
        let mut tally = self.tally.lock();
        tally.figures.count(Count::BytesSent, written as u64);
        tally.figures.count(Count::BytesReceived, read as u64);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.resume();
        let mut tally = self.tally.lock();
        tally.gauges.in_flight = tally.gauges.in_flight.saturating_sub(self.in_flight);
        tally.gauges.connected = tally.gauges.connected.saturating_sub(u64::from(self.connections > 0));
    }
}
