//! The rehearsal itself, step by step.

use std::time::{Duration, Instant};

use super::cluster::{Node, spots};
use super::files::Files;
use super::front::Front;
use super::judge::{self, Drained, STRETCH, Seen};
use super::load::Load;
use super::program::wait;
use super::report::Report;
use super::watch::Watch;
use super::{NODES, Options, RehearsalError, SHARE, Spot};
use crate::bench::servers::background_load;

/// A machine busier than this before anything began gives rough times.
const QUIET: f64 = 0.1;
/// All devices are connected within this.
const CONNECTED_WITHIN: Duration = Duration::from_secs(300);
/// How long devices that lost their connection are waited for.
const BACK_WITHIN: Duration = Duration::from_secs(120);
/// How long nothing happens before, between and after.
const CALM: Duration = Duration::from_secs(5);
/// Until everything about a node that was killed is settled: its lease, the sweep that finds its commands, and more.
const SETTLED: Duration = Duration::from_secs(40);
/// How long the shares of the nodes may take to be even.
const EVEN_WITHIN: Duration = Duration::from_secs(300);

/// Everything that runs. What is dropped first ends first.
struct Stage<'a> {
    options: &'a Options,
    say: &'a mut dyn FnMut(&str),
    report: Report,
    seen: Seen,
    watch: Watch,
    load: Load,
    front: Front,
    nodes: Vec<Node>,
    spots: std::vec::IntoIter<Spot>,
    files: Files,
}

/// Holds a rehearsal; `say` gets each line as it happens.
///
/// # Errors
/// [`RehearsalError`], where it could not be held to its end. What does not hold is in the report.
pub fn rehearse(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Report, RehearsalError> {
    let mut stage = Stage::set(options, say)?;
    stage.connected()?;
    for _ in 0..options.restarts {
        stage.replace()?;
    }
    if options.scale_out {
        stage.scale_out()?;
    }
    if options.kill {
        stage.crash()?;
    }
    stage.even()?;
    stage.end()
}

impl<'a> Stage<'a> {
    /// Nodes, HAProxy and the load, from nothing.
    fn set(options: &'a Options, say: &'a mut dyn FnMut(&str)) -> Result<Self, RehearsalError> {
        let mut report = Report::begin(&options.command);
        let load = background_load();
        if load > QUIET {
            let text = "the machine is busy with something else, which is in every time below";
            say(&report.step(format!("{text}: {:.0} %", load * 100.0)));
        }
        let (site, results) = (options.out.join("nodes"), options.out.join("load"));
        let files = Files::make(options, &site)?;
        let all = spots(options.nodes_ever())?;
        let front = Front::start(options, &site, &all)?;
        let (watch, mut nodes, mut spots) = (Watch::start(), Vec::new(), all.into_iter());
        for spot in spots.by_ref().take(NODES) {
            nodes.push(begin(options, &files, &front, &watch, &spot)?);
        }
        let names: Vec<&str> = nodes.iter().map(|node| node.spot.name.as_str()).collect();
        say(&report.step(format!("{} are ready behind HAProxy at {}", names.join(", "), front.address())));
        let load = Load::start(options, &files, front.address(), &results)?;
        watch.load(load.metrics());
        Ok(Self { options, say, report, seen: Seen::default(), watch, load, front, nodes, spots, files })
    }

    fn tell(&mut self, text: impl Into<String>) {
        (self.say)(&self.report.step(text.into()));
    }

    /// Everything that should run does.
    fn check(&mut self) -> Result<(), RehearsalError> {
        self.front.check()?;
        self.load.check()?;
        self.nodes.iter_mut().try_for_each(Node::check)
    }

    /// So long nothing is done.
    fn calm(&mut self, time: Duration) -> Result<(), RehearsalError> {
        let end = Instant::now() + time;
        wait("time passes", time + CALM, || {
            self.check()?;
            Ok((Instant::now() >= end).then_some(()))
        })
    }

    /// Waits until all devices are there: how long that took.
    fn all_there(&mut self, within: Duration) -> Result<Option<Duration>, RehearsalError> {
        // What is known already may be of before.
        let (began, mark) = (Instant::now(), self.watch.mark());
        let there = wait("all devices are there", within, || {
            self.check()?;
            let seconds = self.watch.since(mark + 1);
            let connected = seconds.last().and_then(|second| second.devices).map_or(0, |devices| devices.connected);
            Ok((connected >= u64::from(self.options.devices)).then(|| began.elapsed()))
        });
        match there {
            Ok(took) => Ok(Some(took)),
            Err(RehearsalError::Late { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn connected(&mut self) -> Result<(), RehearsalError> {
        let devices = self.options.devices;
        self.tell(format!("{devices} devices connect through it"));
        if self.all_there(CONNECTED_WITHIN)?.is_none() {
            let what = format!("{devices} devices are connected; see {}", self.files.path("load.log").display());
            return Err(RehearsalError::Late { what, within: CONNECTED_WITHIN });
        }
        self.calm(CALM)?;
        let spread = self.spread();
        self.tell(format!("all are connected: {spread}"));
        Ok(())
    }

    /// Connections of each node, in words.
    fn spread(&self) -> String {
        let Some(second) = self.watch.last() else { return "-".to_owned() };
        let each: Vec<String> = self
            .nodes
            .iter()
            .map(|node| {
                let seen = second.nodes.get(&node.spot.name);
                format!(
                    "{} {}",
                    node.spot.name,
                    seen.map_or_else(|| "?".to_owned(), |seen| seen.connections.to_string())
                )
            })
            .collect();
        each.join(", ")
    }

    /// The fullest node's connections beside the mean, now.
    fn share(&self) -> f64 {
        let Some(second) = self.watch.last() else { return f64::INFINITY };
        let seen = |node: &Node| second.nodes.get(&node.spot.name).map_or(0, |seen| seen.connections);
        let (most, sum) = self.nodes.iter().map(seen).fold((0, 0), |(most, sum), count| (count.max(most), sum + count));
        if sum == 0 { f64::INFINITY } else { most as f64 * self.nodes.len() as f64 / sum as f64 }
    }

    /// Another node.
    fn join(&mut self) -> Result<(), RehearsalError> {
        let Some(spot) = self.spots.next() else { return Ok(()) };
        let node = begin(self.options, &self.files, &self.front, &self.watch, &spot)?;
        self.nodes.push(node);
        self.tell(format!("{} is ready and takes connections", spot.name));
        Ok(())
    }

    /// A node is told to leave and another takes its place.
    fn replace(&mut self) -> Result<(), RehearsalError> {
        let mut node = self.nodes.remove(0);
        let name = node.spot.name.clone();
        let count =
            |watch: &Watch| watch.last().and_then(|second| second.nodes.get(&name).copied()).unwrap_or_default();
        self.tell(format!(
            "{name} is to go ({} devices): preStop, {:?}",
            count(&self.watch).connections,
            self.options.pre_stop
        ));
        self.calm(self.options.pre_stop)?;
        let (mark, devices) = (self.watch.mark(), count(&self.watch).connections);
        let before = self.failures();
        self.tell(format!("{name} gets SIGTERM"));
        let options = self.options;
        let left = node.leave(options, || self.check())?;
        let code = left.code.map_or_else(|| "by a signal".to_owned(), |code| format!("with {code}"));
        self.tell(format!("{name} ended {code} after {:.1} s", left.took.as_secs_f64()));
        let (peak, failures) = (self.peak(mark), self.failures().saturating_sub(before));
        let seconds = self.watch.since(mark);
        let turned_away = seconds.iter().filter_map(|second| second.nodes.get(&name)).map(|seen| seen.turned_away);
        let turned_away = turned_away.max().unwrap_or(0);
        let cut = node.said("the rest is closed at once") > 0;
        self.watch.remove(&name);
        self.join()?;
        let back = self.all_there(BACK_WITHIN)?;
        self.seen.drained.push(Drained { name, devices, left, peak, turned_away, failures, cut, back });
        self.calm(CALM)?;
        let spread = self.spread();
        self.tell(format!("devices are where they went: {spread}"));
        Ok(())
    }

    fn peak(&self, mark: usize) -> (f64, f64) {
        (self.watch.peak(mark, STRETCH), self.watch.peak(mark, 1))
    }

    /// Attempts to connect that failed until now.
    fn failures(&self) -> u64 {
        self.watch.last().and_then(|second| second.devices).map_or(0, |devices| devices.failures)
    }

    fn scale_out(&mut self) -> Result<(), RehearsalError> {
        self.tell("one more node than before");
        self.join()?;
        self.even()
    }

    /// Where nodes rebalance: waits until each has its share.
    fn even(&mut self) -> Result<(), RehearsalError> {
        if self.options.rebalance {
            let (began, mark) = (Instant::now(), self.watch.mark());
            let even = wait("the nodes' shares are even", EVEN_WITHIN, || {
                self.check()?;
                Ok((self.share() <= SHARE).then_some(()))
            });
            match even {
                Ok(()) | Err(RehearsalError::Late { .. }) => {}
                Err(error) => return Err(error),
            }
            self.calm(CALM)?;
            let (stretch, _) = self.peak(mark);
            let took = began.elapsed().as_secs_f64();
            self.tell(format!("after {took:.0} s of rebalancing, at {stretch:.1} reconnects/s at most"));
        }
        let (share, spread) = (self.share(), self.spread());
        self.seen.share = share;
        self.tell(format!("the fullest node has {share:.2} of the mean: {spread}"));
        Ok(())
    }

    /// A node is killed and another takes its place.
    fn crash(&mut self) -> Result<(), RehearsalError> {
        let mut node = self.nodes.remove(0);
        let name = node.spot.name.clone();
        self.tell(format!("{name} gets SIGKILL"));
        let began = Instant::now();
        node.kill()?;
        self.watch.remove(&name);
        self.join()?;
        let back = self.all_there(BACK_WITHIN)?.map(|_| began.elapsed());
        let word = back.map_or_else(
            || "not all devices are back".to_owned(),
            |back| format!("all devices are back {:.1} s after the SIGKILL", back.as_secs_f64()),
        );
        self.seen.killed = Some(back);
        self.tell(word);
        self.calm(SETTLED)
    }

    /// The load ends, and what came of it is judged.
    fn end(mut self) -> Result<Report, RehearsalError> {
        self.all_there(BACK_WITHIN)?;
        let devices = self.watch.last().and_then(|second| second.devices).unwrap_or_default();
        self.seen.there = devices.connected;
        self.tell("the load ends, and the ledger is held against Kafka");
        let Self { options, say, mut report, seen, load, nodes, front, watch, .. } = self;
        let summary = load.end()?;
        drop((watch, front, nodes));
        report.end(judge::checks(options, &seen, &summary)?, judge::figures(&summary)?);
        say(&report.step("over".to_owned()));
        Ok(report)
    }
}

/// Starts a node, and lets it have its part.
fn begin(options: &Options, files: &Files, front: &Front, watch: &Watch, spot: &Spot) -> Result<Node, RehearsalError> {
    let node = Node::start(options, files, spot)?;
    watch.add(&spot.name, spot.internal);
    front.add(&spot.name)?;
    Ok(node)
}
