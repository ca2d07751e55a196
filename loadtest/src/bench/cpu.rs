//! CPU of the server per acked update: in a closed loop, one and sixteen in flight, and at 2,000 updates a second.

use std::thread;

use super::BenchError;
use super::peers::{BUSY_CONNECTIONS, Bench, Peer};
use super::report::{Pair, Report, Row, Rule};
use super::servers::{Span, Usage};
use crate::paced::{Found, Pace, Paced};

const SLOW_RATE: f64 = 2_000.0;
/// A server that used less of its core than this was not what held a closed loop back.
const BUSY: f64 = 0.9;

/// One run in a closed loop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Busy {
    /// µs of the server's CPU for an acked update.
    pub(super) us: f64,
    /// Acked updates a second.
    pub(super) per_s: f64,
    usage: Usage,
}

/// One run at a fixed rate.
pub(super) struct Slow {
    /// µs of the server's CPU for an acked update.
    pub(super) us: f64,
    /// From the moment an update was due to its ack.
    pub(super) found: Found,
    /// Updates acked in the span of those due in it: about 1 where the server kept the rate.
    pub(super) kept: f64,
}

/// All rounds of one server with so many in flight.
struct Series {
    peer: Peer,
    in_flight: u64,
    rounds: Vec<Busy>,
}

impl Series {
    fn us(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| round.us).collect()
    }

    fn per_core(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| 1e6 / round.us).collect()
    }

    /// How fast it was, and what held it back where that was not its own core.
    fn note(&self) -> String {
        let mean = |of: fn(&Busy) -> f64| self.rounds.iter().map(of).sum::<f64>() / self.rounds.len() as f64;
        let (per_s, server) = (mean(|round| round.per_s), mean(|round| round.usage.server));
        let (others, generator) = (mean(|round| round.usage.others), mean(|round| round.usage.generator));
        let mut text = format!("{:.1}k/s at {:.0} % of its core", per_s / 1e3, server * 100.0);
        if server < BUSY {
            let why = if others > BUSY { "held back by the other core" } else { "nothing was full" };
            text += &format!(" ({why}: generator {:.0} %, all of it {:.0} %)", generator * 100.0, others * 100.0);
        }
        text
    }
}

impl Bench {
    pub(super) fn busy(&self, peer: Peer, in_flight: u64) -> Result<Busy, BenchError> {
        let (server, target) = self.start(peer)?;
        let running = self.crowd(&target, BUSY_CONNECTIONS)?.closed_loop(in_flight);
        thread::sleep(self.warm());
        let (span, settled) = (Span::begin(&server)?, running.settled());
        thread::sleep(self.window());
        let (usage, settled) = (span.end()?, running.settled() - settled);
        running.stop().map_err(BenchError::io(format!("{peer:?} with {in_flight} in flight")))?;
        if settled == 0 {
            return Err(BenchError::failed(format!("{peer:?} settled nothing with {in_flight} in flight")));
        }
        Ok(Busy { us: usage.server_us / settled as f64, per_s: settled as f64 / usage.seconds, usage })
    }

    /// Everything in turn, round after round; what fails is reported and not tried again.
    pub(super) fn in_turn<K: Copy, T>(
        &self,
        part: &str,
        rounds: usize,
        keys: impl IntoIterator<Item = K>,
        report: &mut Report,
        measure: impl Fn(K) -> Result<T, BenchError>,
    ) -> Vec<(K, Vec<T>)> {
        let mut all: Vec<(K, Vec<T>)> = keys.into_iter().map(|key| (key, Vec::new())).collect();
        for _ in 0..rounds {
            all.retain_mut(|(key, rounds)| match measure(*key) {
                Ok(round) => {
                    rounds.push(round);
                    true
                }
                Err(error) => {
                    report.failures.push(format!("{part}: {error}"));
                    false
                }
            });
        }
        all
    }

    fn closed_loops(&self, keys: &[(Peer, u64)], report: &mut Report) -> Vec<Series> {
        let keys = keys.iter().copied();
        let all = self.in_turn("cpu", self.rounds(), keys, report, |(peer, in_flight)| self.busy(peer, in_flight));
        all.into_iter().map(|((peer, in_flight), rounds)| Series { peer, in_flight, rounds }).collect()
    }

    /// Rows of the first peer beside each of the others, at 2,000 updates a second.
    fn slow(&self, ours: Peer, others: &[(Peer, &str, &str, Rule)], report: &mut Report) {
        let keys = [ours].into_iter().chain(others.iter().map(|other| other.0));
        let all = self.in_turn("cpu at 2,000/s", self.rounds(), keys, report, |peer| self.slow_us(peer));
        let of = |peer| all.iter().find(|(key, _)| *key == peer).map(|(_, rounds)| rounds.clone());
        for (peer, name, against, rule) in others {
            if let (Some(ours), Some(baseline)) = (of(ours), of(*peer)) {
                report.rows.push(Row::new(name, against, "µs CPU/msg", &Pair { ours, baseline }, *rule));
            }
        }
    }

    /// CPU per acked update, one and sixteen in flight.
    pub fn cpu(&self, report: &mut Report) {
        use Peer::{BareEcho, Gateway, GatewayTls, Mosquitto, Obvious};
        let mut keys = vec![(BareEcho, 1), (Gateway, 1), (Obvious, 1), (Mosquitto, 1), (GatewayTls, 1)];
        keys.extend([(Gateway, 16), (Obvious, 16)]);
        if !self.quick {
            // For information only.
            keys.extend([(BareEcho, 16), (Mosquitto, 16), (GatewayTls, 16)]);
        }
        let all = self.closed_loops(&keys, report);
        let of = |(peer, in_flight): (Peer, u64)| {
            all.iter().find(|series| (series.peer, series.in_flight) == (peer, in_flight))
        };
        let row = |name: &str, against: &str, ours, base, rule: Rule| {
            let (ours, base) = (of(ours)?, of(base)?);
            let (unit, pair) = match rule {
                Rule::RatioAtMost(_) => ("µs CPU/msg", Pair { ours: ours.us(), baseline: base.us() }),
                _ => ("acked/s/core", Pair { ours: ours.per_core(), baseline: base.per_core() }),
            };
            let note = format!("{}; baseline {}", ours.note(), base.note());
            Some(Row::new(name, against, unit, &pair, rule).noted(note))
        };
        let least = Rule::RatioAtLeast;
        let rows = [
            row("cpu_one_in_flight_echo", "bare epoll echo", (Gateway, 1), (BareEcho, 1), least(0.55)),
            row("cpu_sixteen_in_flight", "own one in flight", (Gateway, 16), (Gateway, 1), least(4.0)),
            row("cpu_tls_one_in_flight_echo", "bare epoll echo", (GatewayTls, 1), (BareEcho, 1), least(0.40)),
            row("cpu_one_in_flight_mosquitto", "mosquitto PUBACK", (Gateway, 1), (Mosquitto, 1), least(0.70)),
            row("cpu_one_in_flight_obvious", "obvious program", (Gateway, 1), (Obvious, 1), Rule::RatioAtMost(0.6)),
            row(
                "cpu_sixteen_in_flight_obvious",
                "obvious program",
                (Gateway, 16),
                (Obvious, 16),
                Rule::RatioAtMost(0.25),
            ),
            row("cpu_sixteen_in_flight_echo", "bare epoll echo", (Gateway, 16), (BareEcho, 16), Rule::None),
            row("cpu_sixteen_in_flight_mosquitto", "mosquitto PUBACK", (Gateway, 16), (Mosquitto, 16), Rule::None),
            row("cpu_tls_sixteen_in_flight", "own TLS one in flight", (GatewayTls, 16), (GatewayTls, 1), Rule::None),
        ];
        report.rows.extend(rows.into_iter().flatten());
    }

    /// The other build or configuration beside the gateway: what a change costs or saves.
    pub fn builds(&self, report: &mut Report) {
        if self.other.is_none() {
            return report.failures.push("builds: --other or --other-config says what to compare with".to_owned());
        }
        let all =
            self.closed_loops(&[(Peer::Gateway, 1), (Peer::Other, 1), (Peer::Gateway, 16), (Peer::Other, 16)], report);
        for in_flight in [1, 16] {
            let of = |peer| all.iter().find(|series| (series.peer, series.in_flight) == (peer, in_flight));
            let (Some(gateway), Some(other)) = (of(Peer::Gateway), of(Peer::Other)) else { continue };
            let both = Pair { ours: other.us(), baseline: gateway.us() };
            let note = format!("{}; baseline {}", other.note(), gateway.note());
            let name = format!("other_{in_flight}_in_flight");
            report.rows.push(Row::new(&name, "gateway", "µs CPU/msg", &both, Rule::None).noted(note));
        }
        self.slow(Peer::Other, &[(Peer::Gateway, "other_at_2000_per_s", "gateway", Rule::None)], report);
    }

    pub(super) fn slowly(&self, peer: Peer) -> Result<Slow, BenchError> {
        let (server, target) = self.start(peer)?;
        let crowd = self.crowd(&target, BUSY_CONNECTIONS)?;
        // What is sent goes on for a little longer than is measured.
        let pace = Pace { rate: SLOW_RATE, warm: self.warm(), span: self.window() + self.warm() };
        let running = Paced::start(crowd, pace);
        thread::sleep(self.warm());
        let (span, before) = (Span::begin(&server)?, running.settled());
        thread::sleep(self.window());
        let (usage, count) = (span.end()?, running.settled() - before);
        let found = running.finish().map_err(BenchError::io(format!("{peer:?} at 2,000/s")))?;
        if count == 0 {
            return Err(BenchError::failed(format!("{peer:?} settled nothing at 2,000/s")));
        }
        Ok(Slow { us: usage.server_us / count as f64, found, kept: count as f64 / (SLOW_RATE * usage.seconds) })
    }

    /// µs of CPU for an acked update at 2,000 a second, which is a figure only where that rate was kept.
    fn slow_us(&self, peer: Peer) -> Result<f64, BenchError> {
        let slow = self.slowly(peer)?;
        if slow.kept < 0.9 {
            return Err(BenchError::failed(format!("{peer:?} kept only {:.0} % of 2,000/s", slow.kept * 100.0)));
        }
        Ok(slow.us)
    }

    /// CPU per update at 2,000 updates a second in all.
    pub fn paced(&self, report: &mut Report) {
        let others = [
            (Peer::Obvious, "cpu_at_2000_per_s_obvious", "obvious program", Rule::RatioAtMost(0.6)),
            (Peer::BareEcho, "cpu_at_2000_per_s_echo", "bare epoll echo", Rule::None),
            (Peer::Mosquitto, "cpu_at_2000_per_s_mosquitto", "mosquitto PUBACK", Rule::None),
        ];
        // All but the first are for information.
        self.slow(Peer::Gateway, if self.quick { &others[..1] } else { &others }, report);
    }
}
