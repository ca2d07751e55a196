//! Plain lines, for logs and pipes: one every five seconds of the run and at each new phase, and each warning once.

use std::collections::BTreeSet;

use super::harmless;
use crate::figures::{Figures, Moment, Progress};
use crate::units::{clock, grouped, latency, short};

const EVERY_S: u64 = 5;

/// What was said already.
#[derive(Debug, Default)]
pub(super) struct Plain {
    began: bool,
    phase: String,
    /// The last multiple of [`EVERY_S`] that had its line.
    step: u64,
    warned: BTreeSet<String>,
}

impl Plain {
    /// What there is to say now; often nothing.
    pub(super) fn lines(&mut self, progress: &Progress) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.began {
            self.began = true;
            let total = clock(progress.total.as_secs_f64());
            lines.push(harmless(&format!("{} against {} for {total}", progress.profile, progress.target)));
        }
        for warning in &progress.warnings {
            // As bounded as what is warned of: a text with a changing figure in it is said again.
            if self.warned.len() < Figures::ERRORS && self.warned.insert(warning.clone()) {
                lines.push(format!("warning: {}", harmless(warning)));
            }
        }
        let step = progress.elapsed.as_secs() / EVERY_S;
        if step != self.step || progress.phase != self.phase {
            (self.step, self.phase) = (step, progress.phase.clone());
            lines.push(line(progress));
        }
        lines
    }
}

fn line(progress: &Progress) -> String {
    let Moment { wanted, connected, in_flight, failures, sent, acked, ack_p50_ms, ack_p99_ms, .. } = progress.now;
    let (at, phase) = (clock(progress.elapsed.as_secs_f64()), harmless(&progress.phase));
    let latencies = if ack_p99_ms > 0.0 {
        format!("p50 {} p99 {}", latency(ack_p50_ms), latency(ack_p99_ms))
    } else {
        "no acks".to_owned()
    };
    format!(
        "{at:>7} {phase:<11} connected {}/{}  sent {}/s acked {}/s  {latencies}  in flight {}  failures {}/s",
        grouped(connected),
        grouped(wanted),
        short(sent as f64),
        short(acked as f64),
        grouped(in_flight),
        grouped(failures),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sample;

    #[test]
    fn there_is_a_line_every_five_seconds_and_at_each_phase() {
        let mut plain = Plain::default();
        let mut progress = sample::progress();
        progress.warnings.clear();
        let mut count = |seconds: u64, phase: &str| {
            progress.elapsed = Duration::from_secs(seconds);
            progress.phase = phase.to_owned();
            plain.lines(&progress).len()
        };
        assert_eq!(count(0, "connecting"), 2, "the heading and the first line");
        let lines: Vec<usize> = (1..=10).map(|second| count(second, "connecting")).collect();
        assert_eq!(lines, [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
        assert_eq!((count(11, "running"), count(12, "running")), (1, 0));
    }

    #[test]
    fn a_line_says_what_matters_and_a_warning_comes_once() {
        let (mut plain, progress) = (Plain::default(), sample::progress());
        let lines = plain.lines(&progress);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[0], "steady against wss://gateway.example:8443 for 10:00");
        assert!(lines[1].starts_with("warning: The generator was the bottleneck"), "{lines:?}");
        let now = progress.now;
        let connected = format!("5:05 running     connected {}/1,500  sent ", grouped(now.connected));
        assert!(lines[2].contains(&connected), "{lines:?}");
        assert!(lines[2].contains(&format!("p99 {}", latency(now.ack_p99_ms))), "{lines:?}");
        assert_eq!(plain.lines(&progress), Vec::<String>::new());
    }
}
