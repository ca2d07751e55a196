//! The gateway beside what else one could take: the same figures of each, in the same rounds.

use super::BenchError;
use super::peers::{Bench, Peer};
use super::report::{Beside, Pair, Report, Row, Rule, Spread};

/// Everyone the gateway is held against, and the name in the figures'.
const OTHERS: [(Peer, &str); 5] = [
    (Peer::Mosquitto, "mosquitto"),
    (Peer::Nats, "nats"),
    (Peer::RabbitMq, "rabbitmq"),
    (Peer::Node, "node"),
    (Peer::Obvious, "obvious"),
];
const IDLE_CONNECTIONS: usize = 1_000;

/// A run, which gives one or more figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    Idle,
    InFlight(u64),
    /// At 2,000 updates a second, which every one of them can keep.
    Slow,
}

/// Where a round of [`Load::Slow`] has, behind its figures, how much of the rate was kept.
const KEPT: usize = 3;

const LOADS: [Load; 4] = [Load::Idle, Load::InFlight(1), Load::InFlight(16), Load::Slow];

impl Load {
    /// Names and units of its figures.
    fn figures(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Idle => &[("idle_rss", "KiB/conn")],
            Self::InFlight(1) => &[("cpu_one_in_flight", "µs CPU/msg")],
            Self::InFlight(_) => &[("cpu_sixteen_in_flight", "µs CPU/msg")],
            Self::Slow => {
                &[("cpu_at_2000_per_s", "µs CPU/msg"), ("ack_p50_at_2000_per_s", "ms"), ("ack_p99_at_2000_per_s", "ms")]
            }
        }
    }
}

/// One server's figures, in the order of [`COLUMNS`].
pub struct Line {
    /// Its name.
    pub name: &'static str,
    /// What its ack says.
    pub ack: &'static str,
    /// The rounds' spread, where they succeeded.
    pub cells: Vec<Option<Spread>>,
}

/// The names of the figures within [`Beside`], what they are in words, and in few.
pub const COLUMNS: [(&str, &str, &str); 6] = [
    ("idle_rss", "Memory of an idle device, KiB", "KiB idle"),
    ("cpu_one_in_flight", "CPU with one in flight, µs an acked update", "one in flight, µs"),
    ("cpu_sixteen_in_flight", "CPU with sixteen in flight, µs an acked update", "sixteen, µs"),
    ("cpu_at_2000_per_s", "CPU at 2,000/s in all, µs an acked update", "at 2,000/s, µs"),
    ("ack_p50_at_2000_per_s", "Publish to ack at 2,000/s, p50", "ack p50, ms"),
    ("ack_p99_at_2000_per_s", "Publish to ack at 2,000/s, p99", "ack p99, ms"),
];

/// The rows of the comparison as one line a server, the gateway first; empty where there are none.
pub fn lines(rows: &[Row]) -> Vec<Line> {
    let compared = || rows.iter().filter_map(|row| Some((row, row.beside?)));
    let mut lines: Vec<Line> = Vec::new();
    for (row, beside) in compared() {
        for (name, ack, spread) in
            [("tidegate", beside.own_ack, row.spread), (beside.peer, beside.ack, row.baseline_spread)]
        {
            let place = lines.iter().position(|line| line.name == name).unwrap_or(lines.len());
            if place == lines.len() {
                lines.push(Line { name, ack, cells: vec![None; COLUMNS.len()] });
            }
            if let Some(column) = COLUMNS.iter().position(|(figure, ..)| *figure == beside.figure) {
                lines[place].cells[column] = Some(spread);
            }
        }
    }
    lines
}

impl Bench {
    /// Memory of an idle device, CPU of an acked update, and publish to ack: the gateway's beside every peer's.
    pub fn beside(&self, report: &mut Report) {
        let mut peers = vec![Peer::Gateway];
        for (peer, name) in OTHERS {
            match self.check(peer) {
                Ok(()) => peers.push(peer),
                Err(error) => report.failures.push(format!("peers, {name}: {error}")),
            }
        }
        let peers = &peers;
        let keys =
            |loads: &'static [Load]| loads.iter().flat_map(move |load| peers.iter().map(move |peer| (*peer, *load)));
        let mut all = self.in_turn("peers", self.few_rounds(), keys(&LOADS[..1]), report, |key| self.beside_once(key));
        all.extend(self.in_turn("peers", self.rounds(), keys(&LOADS[1..]), report, |key| self.beside_once(key)));
        let rounds = |peer: Peer, load: Load, place: usize| -> Option<Vec<f64>> {
            let (_, rounds) = all.iter().find(|(key, _)| *key == (peer, load))?;
            Some(rounds.iter().filter_map(|round| round.get(place).copied()).collect())
        };
        for (peer, name) in OTHERS {
            let figures = LOADS.iter().flat_map(|load| load.figures().iter().enumerate().map(move |at| (*load, at)));
            for (load, (place, (figure, unit))) in figures {
                let both = (rounds(Peer::Gateway, load, place), rounds(peer, load, place));
                let (Some(ours), Some(baseline)) = both else { continue };
                let pair = Pair { ours, baseline };
                let row = Row::new(&format!("peer_{name}_{figure}"), name, unit, &pair, Rule::None);
                let beside = Beside { peer: name, figure, ack: peer.ack(), own_ack: Peer::Gateway.ack() };
                let kept = |peer| Some(Spread::of(&rounds(peer, load, KEPT)?).minimum).filter(|kept| *kept < 0.9);
                let late = [(Peer::Gateway, "the gateway"), (peer, name)].into_iter().filter_map(|(peer, name)| {
                    let percent = kept(peer)? * 100.0;
                    Some(format!("{name} did not keep the rate: in its worst round it acked {percent:.0} % of what was sent in time"))
                });
                let note = late.collect::<Vec<_>>().join("; ");
                report.rows.push(Row { beside: Some(beside), note, ..row });
            }
        }
    }

    fn beside_once(&self, (peer, load): (Peer, Load)) -> Result<Vec<f64>, BenchError> {
        match load {
            Load::Idle => Ok(vec![self.idle_kib(peer, IDLE_CONNECTIONS)?]),
            Load::InFlight(count) => Ok(vec![self.busy(peer, count)?.us]),
            Load::Slow => {
                let slow = self.slowly(peer)?;
                let ms = |quantile| slow.found.latencies.value_at_quantile(quantile) as f64 / 1_000.0;
                Ok(vec![slow.us, ms(0.5), ms(0.99), slow.kept])
            }
        }
    }
}
