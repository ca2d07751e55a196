//! Memory per quiet connection, and what is left of a large message on each.

use std::thread;
use std::time::Duration;

use super::BenchError;
use super::peers::{Bench, Peer};
use super::report::{Pair, Report, Row, Rule};

/// Connections before the first look: what is made for the first few is not counted for the many.
const FEW: usize = 16;
const BIG_BYTES: usize = 60_000;

/// Plain or TLS, and what each is held against.
struct Kind {
    name: &'static str,
    gateway: Peer,
    baseline: Peer,
    against: &'static str,
    bound: f64,
}

const PLAIN: Kind =
    Kind { name: "plain", gateway: Peer::Gateway, baseline: Peer::Mosquitto, against: "mosquitto", bound: 0.25 };
const TLS: Kind =
    Kind { name: "tls", gateway: Peer::GatewayTls, baseline: Peer::TlsEcho, against: "hyper example", bound: 0.40 };

/// What one server held.
struct Held {
    /// KiB a connection.
    each: f64,
    /// MiB of the process with all connections quiet, and after a large message on each.
    burst: Option<[f64; 2]>,
}

impl Bench {
    fn settle(&self) -> Duration {
        Duration::from_millis(if self.quick { 3_000 } else { 15_000 })
    }

    /// KiB of an idle connection.
    pub(super) fn idle_kib(&self, peer: Peer, count: usize) -> Result<f64, BenchError> {
        Ok(self.held(peer, count, false)?.each)
    }

    fn held(&self, peer: Peer, count: usize, burst: bool) -> Result<Held, BenchError> {
        let lost = || BenchError::io(format!("holding {count} connections to {peer:?}"));
        let (server, target) = self.start(peer)?;
        let few = self.crowd(&target, FEW)?.hold();
        thread::sleep(self.settle() / 4);
        let before = server.rss_kib()?;
        let many = self.crowd(&target, count)?.hold();
        thread::sleep(self.settle());
        let quiet = server.rss_kib()?;
        let mut crowd = many.stop().map_err(lost())?;
        let mut after = None;
        if burst {
            crowd.one_each(BIG_BYTES).map_err(BenchError::io("sending 60 KB each"))?;
            let many = crowd.hold();
            thread::sleep(self.settle());
            after = Some([quiet / 1024.0, server.rss_kib()? / 1024.0]);
            many.stop().map_err(lost())?;
        }
        few.stop().map_err(lost())?;
        Ok(Held { each: (quiet - before) / count as f64, burst: after })
    }

    /// Memory of quiet connections, and after a 60,000 byte message on each; plain and TLS.
    pub fn memory(&self, report: &mut Report) {
        let counts: &[usize] = if self.quick { &[1_000] } else { &[1_000, 15_000] };
        for kind in [&PLAIN, &TLS] {
            for &count in counts {
                report.add(&format!("memory, {}, {count} connections", kind.name), self.memory_of(kind, count));
            }
        }
    }

    fn memory_of(&self, kind: &Kind, count: usize) -> Result<Vec<Row>, BenchError> {
        let (mut idle, mut burst) = (Pair::default(), Pair::default());
        for _ in 0..self.few_rounds() {
            idle.baseline.push(self.held(kind.baseline, count, false)?.each);
            let held = self.held(kind.gateway, count, true)?;
            idle.ours.push(held.each);
            if let Some([before, after]) = held.burst {
                burst.baseline.push(before);
                burst.ours.push(after);
            }
        }
        let names = [format!("idle_rss_{}_{count}", kind.name), format!("rss_after_60kb_{}_{count}", kind.name)];
        Ok(vec![
            Row::new(&names[0], kind.against, "KiB/conn", &idle, Rule::RatioAtMost(kind.bound)),
            Row::new(&names[1], "own idle RSS", "MiB", &burst, Rule::RatioAtMost(1.10)),
        ])
    }
}
