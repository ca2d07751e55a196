//! What several nodes cost and how fast they are whole again: Redis' load, a loss of all its keys, a storm of reconnects
//! after a node was killed, and a command through another node.

mod command;

use std::thread;
use std::time::{Duration, Instant};

use super::BenchError;
use super::peers::{Bench, Peer};
use super::redis::Redis;
use super::report::{Pair, Report, Row, Rule};
use crate::crowd::Crowd;

/// Keys that are no device's: the members, the epoch, the primary's name, and what one node holds.
const OTHER_KEYS: usize = 4;
/// When all rows are to be back at the latest after Redis lost them: a lease, a renewal, and the sweep at 5,000 a second.
const LEASE_S: f64 = 15.0;
const RENEWAL_S: f64 = 5.0;
const SWEEP_PER_S: f64 = 5_000.0;
/// Commands of one look for what came due, which there is once a second: a count may have one more or less.
const LOOK_COMMANDS: f64 = 64.0;
const LOOK_EVERY: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_secs(120);

impl Bench {
    /// Everything about several nodes.
    pub fn cluster(&self, report: &mut Report) {
        report.add("cluster, Redis' load", self.redis_load());
        report.add("cluster, after FLUSHALL", self.flushed());
        report.add("cluster, reconnect storm", self.storm());
        report.add("cluster, command round trip", self.command());
    }

    fn empty_redis(&self) -> Result<Redis, BenchError> {
        let mut redis = Redis::connect(&self.redis)?;
        redis.flush()?;
        Ok(redis)
    }

    /// Redis commands a second with idle devices: with many as with few.
    fn redis_load(&self) -> Result<Vec<Row>, BenchError> {
        let [few, many] = if self.quick { [100, 1_000] } else { [1_000, 15_000] };
        // None at all is for information.
        let counts: &[usize] = if self.quick { &[few, many] } else { &[few, many, 0] };
        let mut loads = vec![Vec::new(); counts.len()];
        for _ in 0..if self.quick { 1 } else { 2 } {
            for (count, load) in counts.iter().zip(&mut loads) {
                load.push(self.load_of(*count)?);
            }
        }
        let row = |count: usize, ours: &[f64], rule| {
            let pair = Pair { ours: ours.to_vec(), baseline: loads[0].clone() };
            let against = format!("own, {few} devices");
            let row = Row::new(&format!("redis_per_s_idle_{count}"), &against, "commands/s", &pair, rule);
            row.noted(
                "by INFO commandstats, with what scripts call; a node looks at up to 20 of its rows at each renewal"
                    .into(),
            )
        };
        let each =
            loads[0].iter().zip(&loads[1]).map(|(with_few, with_many)| (with_many - with_few) / (many - few) as f64);
        let pair = Pair { ours: each.collect(), baseline: vec![0.0] };
        // One look more in the one count and one less in the other, and half as much for what else comes and goes.
        let unseen = 3.0 * LOOK_COMMANDS / (self.counted().as_secs_f64() * (many - few) as f64);
        let unseen = (unseen * 1e5).ceil() / 1e5;
        let each = Row::new("redis_per_s_and_idle_device", "none", "commands/s", &pair, Rule::AtMost(unseen));
        let mut rows = vec![
            each.noted(format!(
                "what {many} devices cause over {few}, for each; the bound is what counting cannot tell from 0"
            )),
            row(many, &loads[1], Rule::RatioAtMost(1.2)),
        ];
        rows.extend(loads.get(2).map(|none| row(0, none, Rule::None)));
        Ok(rows)
    }

    /// How long commands are counted.
    fn counted(&self) -> Duration {
        Duration::from_secs(if self.quick { 12 } else { 60 })
    }

    fn load_of(&self, count: usize) -> Result<f64, BenchError> {
        let mut redis = self.empty_redis()?;
        let (_server, target) = self.start(Peer::Gateway)?;
        let idle = self.crowd(&target, count)?.hold();
        thread::sleep(Duration::from_secs(if self.quick { 4 } else { 20 }));
        // Several renewals: one more or less at an edge is not to be seen.
        let (before, begin) = (redis.commands()?, Instant::now());
        thread::sleep(self.counted());
        let (after, seconds) = (redis.commands()?, begin.elapsed().as_secs_f64());
        idle.stop().map_err(BenchError::io("holding idle devices"))?;
        Ok((after - before) as f64 / seconds)
    }

    /// Seconds until the rows of all devices are back after Redis lost everything.
    fn flushed(&self) -> Result<Vec<Row>, BenchError> {
        let count = if self.quick { 1_000 } else { 15_000 };
        let mut pair = Pair::default();
        for _ in 0..self.few_rounds() {
            let mut redis = self.empty_redis()?;
            let (_server, target) = self.start(Peer::Gateway)?;
            let idle = self.crowd(&target, count)?.hold();
            rows(&mut redis, count)?;
            redis.flush()?;
            let begin = Instant::now();
            rows(&mut redis, count)?;
            pair.ours.push(begin.elapsed().as_secs_f64());
            pair.baseline.push(LEASE_S + RENEWAL_S + count as f64 / SWEEP_PER_S);
            idle.stop().map_err(BenchError::io("holding devices through FLUSHALL"))?;
        }
        let name = format!("rows_back_after_flushall_{count}");
        Ok(vec![Row::new(&name, "lease, renewal, sweep", "s", &pair, Rule::RatioAtMost(1.0))])
    }

    /// Seconds until all devices of a node that was killed are on another one, against the seconds the same devices took to
    /// connect in the first place.
    fn storm(&self) -> Result<Vec<Row>, BenchError> {
        let count = if self.quick { 1_000 } else { 10_000 };
        let mut pair = Pair::default();
        for _ in 0..self.few_rounds() {
            let _redis = self.empty_redis()?;
            let (killed, from) = self.start_node(Peer::GatewayTls, "bench-a")?;
            let (_server, to) = self.start_node(Peer::GatewayTls, "bench-b")?;
            let first = self.take(count);
            let begin = Instant::now();
            let devices = Crowd::open(&from, first, count).map_err(BenchError::io("connecting"))?;
            pair.baseline.push(begin.elapsed().as_secs_f64());
            // SIGKILL.
            drop(killed);
            drop(devices);
            let begin = Instant::now();
            let back = Crowd::open(&to, first, count).map_err(BenchError::io("reconnecting"))?;
            pair.ours.push(begin.elapsed().as_secs_f64());
            drop(back);
        }
        let name = format!("reconnect_storm_{count}");
        let row = Row::new(&name, "the same, first connects", "s", &pair, Rule::RatioAtMost(1.3));
        Ok(vec![row.noted("WSS, token and claim, 16 at a time; their rows are still the killed node's".into())])
    }
}

/// Waits until so many devices have their rows.
fn rows(redis: &mut Redis, count: usize) -> Result<(), BenchError> {
    let begin = Instant::now();
    while redis.keys()? < count + OTHER_KEYS {
        if begin.elapsed() > TIMEOUT {
            let keys = redis.keys()?;
            return Err(BenchError::failed(format!("{keys} keys in Redis after {TIMEOUT:?}, of {count} devices")));
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
