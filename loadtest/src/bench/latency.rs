//! Publish to ack at half load, beside Kafka's own produce round trip at the same rate.

use std::process::Command;

use super::BenchError;
use super::peers::{BUSY_CONNECTIONS, Bench, Peer};
use super::report::{Pair, Row, Rule};
use super::servers::SERVER_CORE;
use crate::paced::{Found, Pace, Paced};

/// Half load is never taken above this: beyond it generator and broker have too little of what is left of two cores.
const HALF_LOAD_CAP: f64 = 10_000.0;

impl Bench {
    /// Publish to ack at half of what a closed loop with one in flight reaches, at most 10,000 updates a second.
    ///
    /// # Errors
    /// When a server or connection fails.
    pub fn latency(&self) -> Result<Vec<Row>, BenchError> {
        let rate = (self.busy(Peer::Gateway, 1)?.per_s / 2.0).min(HALF_LOAD_CAP).round();
        let (mut median, mut tail) = (Pair::default(), Pair::default());
        let (mut unacked, mut late_ms) = (0, 0.0_f64);
        for _ in 0..self.rounds() {
            let [p50, p99] = self.bare_produce(rate)?;
            median.baseline.push(p50);
            tail.baseline.push(p99);
            let found = self.publish_to_ack(rate)?;
            median.ours.push(found.latencies.value_at_quantile(0.5) as f64 / 1000.0);
            tail.ours.push(found.latencies.value_at_quantile(0.99) as f64 / 1000.0);
            unacked += found.unacked;
            late_ms = late_ms.max(found.lateness.value_at_quantile(0.99) as f64 / 1000.0);
        }
        let note =
            format!("{rate:.0}/s; {unacked} never acked; generator late by {late_ms:.2} ms at p99, which counts");
        let row =
            |name, pair, over| Row::new(name, "bare producer", "ms", pair, Rule::OverAtMost(over)).noted(note.clone());
        Ok(vec![row("publish_to_ack_p50", &median, 1.5), row("publish_to_ack_p99", &tail, 4.0)])
    }

    fn publish_to_ack(&self, rate: f64) -> Result<Found, BenchError> {
        let (_server, target) = self.start(Peer::Gateway)?;
        let crowd = self.crowd(&target, BUSY_CONNECTIONS)?;
        let running = Paced::start(crowd, Pace { rate, warm: self.warm(), span: self.window() });
        running.finish().map_err(BenchError::io("at half load"))
    }

    /// A child on the gateway's core, so that producer and gateway have the same core to themselves.
    fn bare_produce(&self, rate: f64) -> Result<[f64; 2], BenchError> {
        let [warm, span] = [self.warm(), self.window()].map(|time| time.as_secs_f64().to_string());
        let output = Command::new("taskset")
            .args(["-c", SERVER_CORE])
            .arg(self.bins.join("bare-producer"))
            .args([self.brokers.clone(), rate.to_string(), warm, span])
            .output()
            .map_err(BenchError::io("running bare-producer"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let figures: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match figures.as_slice() {
            [p50, p99] => Ok([*p50, *p99]),
            _ => {
                let errors = String::from_utf8_lossy(&output.stderr);
                Err(BenchError::failed(format!("bare-producer said {said:?} {errors}")))
            }
        }
    }
}
