//! What a run counts and times: kept by whoever drives devices, merged over threads and workers, read by whoever shows it.
//!
//! Percentiles are taken from merged histograms and never averaged.

mod bytes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate::protocol::close::CloseReason;

pub use bytes::BytesError;

const DIGITS: u8 = 3;
/// No latency is longer, µs: what takes longer counts as this.
pub const LONGEST_US: u64 = 3_600_000_000;

macro_rules! names {
    ($(#[$about:meta])* $kind:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $kind { $($(#[$doc])* $variant,)* }

        impl $kind {
            /// All of them, in the order they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in thresholds, summaries and metrics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

names! {
    /// Something that is counted; totals over the whole run.
    Count {
        /// Connections that got their `welcome`.
        Connects = "connects",
        /// Attempts that did not.
        ConnectFailures = "connect_failures",
        /// Connects that were not a device's first.
        Reconnects = "reconnects",
        /// Connections that ended, for whatever reason but the run's own end.
        Disconnects = "disconnects",
        /// Updates written to a socket, repeats included.
        Sent = "sent",
        /// Updates written again on a later connection.
        Repeats = "repeats",
        /// Updates acked for the first time.
        Acked = "acked",
        /// Updates refused.
        Refused = "refused",
        /// Updates dropped by the device itself since its buffer was full.
        Dropped = "dropped",
        /// `pause` messages.
        Pauses = "pauses",
        /// `goaway` messages.
        Goaways = "goaways",
        /// Commands that were asked for by the run's callers.
        CommandsAsked = "commands_asked",
        /// Commands whose caller saw them succeed.
        CommandsDone = "commands_done",
        /// Commands whose caller saw another end, or none in time.
        CommandsFailed = "commands_failed",
        /// Commands that devices received, each attempt.
        CommandsReceived = "commands_received",
        /// Connections on which something happened that the protocol does not allow.
        ProtocolErrors = "protocol_errors",
        /// Bytes written to sockets, before TLS.
        BytesSent = "bytes_sent",
        /// Bytes read from sockets, after TLS.
        BytesReceived = "bytes_received",
    }
}

names! {
    /// Something that is timed; each has a histogram of µs.
    Timing {
        /// From the first SYN to the `welcome`.
        Connect = "connect",
        /// The TLS handshake alone.
        Tls = "tls",
        /// From the moment an update was due to its ack.
        Ack = "ack",
        /// From the moment an update was really written to its ack: what a closed model would have seen.
        AckUncorrected = "ack_uncorrected",
        /// From the moment a command was due to its caller's hearing of its end.
        Command = "command",
        /// From the end of a connection to the next `welcome`, the back-off included.
        Reconnect = "reconnect",
        /// By how much the generator was late with what was due: part of `ack` and `command`.
        Lateness = "lateness",
    }
}

/// Everything that is counted and timed. 200 KiB and more: one for each thread and worker, not for each device.
#[derive(Clone)]
pub struct Figures {
    counts: Vec<u64>,
    timings: Vec<Histogram<u64>>,
    /// Connections ended by the gateway with a close code, by code; without one under 1006.
    pub closes: BTreeMap<u16, u64>,
    /// What went wrong, by a short text that names no device; at most [`Figures::ERRORS`] different ones, then "others".
    pub errors: BTreeMap<String, u64>,
}

impl Default for Figures {
    #[expect(clippy::expect_used, reason = "three significant digits are always valid")]
    fn default() -> Self {
        let histogram = || Histogram::new(DIGITS).expect("a histogram of three digits");
        Self {
            counts: vec![0; Count::ALL.len()],
            timings: Timing::ALL.iter().map(|_| histogram()).collect(),
            closes: BTreeMap::new(),
            errors: BTreeMap::new(),
        }
    }
}

impl Figures {
    /// How many different errors are told apart.
    pub const ERRORS: usize = 100;

    /// Counts `n` of something.
    pub fn count(&mut self, what: Count, n: u64) {
        self.counts[what as usize] += n;
    }

    /// How many there were.
    pub fn counted(&self, what: Count) -> u64 {
        self.counts[what as usize]
    }

    /// Times something.
    pub fn time(&mut self, what: Timing, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(LONGEST_US).min(LONGEST_US);
        // Cannot fail: it grows by itself, up to far above the longest. What saturates would not grow.
        let _ = self.timings[what as usize].record(us);
    }

    /// Its histogram, µs.
    pub fn timing(&self, what: Timing) -> &Histogram<u64> {
        &self.timings[what as usize]
    }

    /// Counts the end of a connection.
    pub fn closed(&mut self, code: Option<u16>) {
        *self.closes.entry(code.unwrap_or(1006)).or_default() += 1;
    }

    /// Counts an error.
    pub fn error(&mut self, text: &str) {
        self.errors_of(text, 1);
    }

    fn errors_of(&mut self, text: &str, n: u64) {
        let known = self.errors.contains_key(text) || self.errors.len() < Self::ERRORS;
        *self.errors.entry(if known { text } else { "others" }.to_owned()).or_default() += n;
    }

    /// Adds what another counted and timed.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        for (mine, theirs) in self.timings.iter_mut().zip(&other.timings) {
            // Cannot fail: it grows by itself.
            let _ = mine.add(theirs);
        }
        other.closes.iter().for_each(|(code, n)| *self.closes.entry(*code).or_default() += n);
        other.errors.iter().for_each(|(text, n)| self.errors_of(text, *n));
    }
}

/// What a close code means, in a word or three; empty for one that nobody defined.
pub fn close_name(code: u16) -> &'static str {
    let known = CloseReason::ALL.iter().find(|reason| reason.code() == code);
    known.map_or(if code == 1006 { "no close frame" } else { "" }, |reason| reason.text())
}

/// One second of a run, for curves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Moment {
    /// Seconds since the run began.
    pub at_s: f64,
    /// Devices that the profile wants connected now.
    pub wanted: u64,
    /// Devices that are connected now.
    pub connected: u64,
    /// Of them those that were told to hold their updates.
    pub paused: u64,
    /// Updates that are written and not settled.
    pub in_flight: u64,
    /// In this second: connects that succeeded.
    pub connects: u64,
    /// In this second: connects that failed and connections that ended.
    pub failures: u64,
    /// In this second: updates written.
    pub sent: u64,
    /// In this second: updates acked.
    pub acked: u64,
    /// In this second: updates refused.
    pub refused: u64,
    /// In this second: commands that ended as they should.
    pub commands: u64,
    /// Of the updates acked in this second, from the due moment: ms; 0 where there were none.
    pub ack_p50_ms: f64,
    /// The same, 99 of 100.
    pub ack_p99_ms: f64,
}

/// What a check of everything that was promised found. Produced by the ledger; zero where nothing was looked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Updates that were acked.
    pub acked: u64,
    /// Of them those that were found in the topic.
    pub stored: u64,
    /// Acked and not in the topic.
    pub lost: Finding,
    /// In the topic twice under one id with unlike payloads, or twice though they were sent once.
    pub doubled: Finding,
    /// In the topic for the first time behind one with a higher `seq` of the same boot, or in another partition than
    /// that: a device that sends the lowest first, as it must, never causes it.
    pub reordered: Finding,
    /// Acked and refused.
    pub acked_and_refused: Finding,
    /// In the topic, with another payload than was sent.
    pub altered: Finding,
    /// In the topic under a boot of this run, with a `seq` that its device never sent.
    #[serde(default)]
    pub unsent: Finding,
    /// Acked or refused, and never sent.
    #[serde(default)]
    pub unasked: Finding,
    /// About commands.
    pub commands: CommandVerdict,
    /// Records that were read from the topics.
    #[serde(default)]
    pub records: u64,
    /// Of them those of other devices and boots, presence, and updates without a `seq`.
    #[serde(default)]
    pub skipped: u64,
    /// Whether the topics were read to their end and everything sent was noted: false makes the counts above worth
    /// nothing, and `lost` is not even looked for.
    pub complete: bool,
    /// Why it is not complete.
    #[serde(default)]
    pub incomplete: Option<String>,
}

impl Verdict {
    /// Whether all was looked for and nothing is wrong.
    pub fn is_clean(&self) -> bool {
        let updates = [&self.lost, &self.doubled, &self.reordered, &self.acked_and_refused, &self.altered];
        let commands = &self.commands;
        let commands = [&commands.unfounded, &commands.answered_twice, &commands.misdelivered, &commands.without_end];
        let all = updates.into_iter().chain([&self.unsent, &self.unasked]).chain(commands);
        self.complete && all.into_iter().all(|finding| finding.count == 0)
    }
}

/// What became of commands, from the device's log and the caller's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CommandVerdict {
    /// Accepted by the gateway.
    pub accepted: u64,
    /// Succeeded as the caller heard it.
    pub succeeded: u64,
    /// Succeeded for the caller, and no device had it, or none that had it answered so.
    pub unfounded: Finding,
    /// Run by a device more than once, or answered in two ways, or two ends heard by its caller.
    pub answered_twice: Finding,
    /// Received by another device than the one it was for.
    pub misdelivered: Finding,
    /// Accepted, and no end was heard in time.
    pub without_end: Finding,
}

/// How often something was found, and the first hundred by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// How often.
    pub count: u64,
    /// The first of them, by name (`device boot:seq`, or `device command`), with what is wrong.
    pub first: Vec<String>,
}

impl Finding {
    /// How many are named.
    pub const NAMED: usize = 100;

    /// Adds one.
    pub fn add(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < Self::NAMED {
            self.first.push(name());
        }
    }

    /// Adds those of another.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        let room = Self::NAMED.saturating_sub(self.first.len());
        self.first.extend(other.first.iter().take(room).cloned());
    }
}

/// A run as it is seen while it goes on: given once a second to whoever shows it.
#[derive(Clone)]
pub struct Progress {
    /// The profile's name.
    pub profile: String,
    /// Where it runs against.
    pub target: String,
    /// What it is doing: `connecting`, `running`, `draining`, `checking the ledger`, or a step of the profile.
    pub phase: String,
    /// How long it has run.
    pub elapsed: Duration,
    /// How long it will, all in all.
    pub total: Duration,
    /// The last second.
    pub now: Moment,
    /// Everything so far.
    pub figures: Arc<Figures>,
    /// What the reader should know, such as that the generator is the bottleneck.
    pub warnings: Vec<String>,
}

/// A run that is over: what the summary and the report are made of.
#[derive(Clone, Default)]
pub struct Outcome {
    /// The profile's name.
    pub profile: String,
    /// What it is for, in a line.
    pub about: String,
    /// Where it ran against.
    pub target: String,
    /// The version of the load tester.
    pub version: String,
    /// The command line, without what is secret; empty where there was none.
    pub command: String,
    /// The profile as it was run, TOML; empty where it is not known.
    pub profile_text: String,
    /// When it began, Unix milliseconds.
    pub began_ms: u64,
    /// How long it ran.
    pub took: Duration,
    /// Devices of all workers.
    pub devices: u64,
    /// How many workers drove them.
    pub workers: u64,
    /// Everything counted and timed.
    pub figures: Figures,
    /// Second by second.
    pub series: Vec<Moment>,
    /// What the ledger found; none where it was not asked to look.
    pub ledger: Option<Verdict>,
    /// Thresholds and what they came to.
    pub thresholds: Vec<Judged>,
    /// What the reader should know, such as that the generator was the bottleneck.
    pub warnings: Vec<String>,
    /// True where it was cut short by a signal.
    pub cut_short: bool,
    /// Why this is not the whole run, such as that a worker was lost with what it knew: it did not pass, whatever thresholds
    /// say of the rest.
    pub incomplete: Vec<String>,
}

/// A threshold after the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Judged {
    /// As it was written, such as `p99(ack) < 250ms`.
    pub text: String,
    /// What was found, in the threshold's unit; none where there was nothing to judge, which is a breach.
    pub found: Option<f64>,
    /// Whether it holds.
    pub holds: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_told_from_what_takes_short() {
        let (mut figures, mut other) = (Figures::default(), Figures::default());
        [3, 250_000].into_iter().for_each(|us| figures.time(Timing::Ack, Duration::from_micros(us)));
        [90_000_000, u64::MAX].into_iter().for_each(|us| other.time(Timing::Ack, Duration::from_micros(us)));
        figures.merge(&other);
        let times = figures.timing(Timing::Ack);
        let near = |quantile: f64, wanted: u64| times.value_at_quantile(quantile).abs_diff(wanted) <= wanted / 1000;
        assert_eq!(times.len(), 4);
        assert!(near(0.25, 3) && near(0.5, 250_000) && near(0.75, 90_000_000) && near(1.0, LONGEST_US), "{times:?}");
    }
}
