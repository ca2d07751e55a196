//! Workers: processes that drive the devices for one that coordinates them. Each has a range of devices of its own; all
//! begin at one instant; figures and ledgers are merged, percentiles never averaged.
//!
//! They speak over TCP, without encryption or authentication, and no keys or tokens go over it: each worker has its own.

mod wire;
mod worker;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};

pub use worker::{WorkerSettings, work};

use super::collector::Trouble;
use super::shard::Order;
use super::tally::{Gauges, Sample};
use super::{Settings, Workers};
use crate::figures::Figures;
use crate::ledger::Ledger;
use crate::profile::Profile;
use wire::{Frame, Hello, Start};

/// How long workers of this machine take to come at most.
const LOCAL: Duration = Duration::from_secs(20);
/// How long a worker takes at most to read its keys and to try the target.
const PREPARING: Duration = Duration::from_secs(60);
/// A worker that says nothing for this long is lost: it has something to say every second.
const SILENCE: Duration = Duration::from_secs(20);
/// From the word to begin to the beginning.
const START_MS: u64 = 500;
/// Where a worker finds the token of callers.
const APP_TOKEN: &str = "TIDEGATE_LOADTEST_APP_TOKEN";
/// How long children get to end by themselves.
const ENDING: Duration = Duration::from_secs(3);

/// What a worker is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) profile: Profile,
    pub(super) targets: Vec<String>,
    pub(super) api: Option<String>,
    pub(super) prefix: String,
    pub(super) run: String,
    pub(super) noted: bool,
    pub(super) sources: Vec<IpAddr>,
    /// Its devices: from, up to and without.
    pub(super) devices: (u32, u32),
}

impl Job {
    /// The job of all workers together.
    pub(super) fn of(settings: &Settings, run: &str) -> Self {
        Self {
            profile: settings.profile.clone(),
            targets: settings.targets.clone(),
            api: settings.api.clone(),
            prefix: settings.prefix.clone(),
            run: run.to_owned(),
            noted: settings.kafka.is_some(),
            sources: Vec::new(),
            devices: (0, settings.devices),
        }
    }

    /// The part of one of them.
    fn part(&self, number: u32, of: u32, sources: &[IpAddr]) -> Self {
        let all = u64::from(self.devices.1);
        let edge = |number: u32| (all * u64::from(number) / u64::from(of)) as u32;
        let sources = if sources.is_empty() {
            // Each source address has ports of its own, and on loopback every one of 127.0.0.x is there.
            let local = self.targets.iter().all(|url| url.contains("://127.") || url.contains("://localhost"));
            if local { vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + (number % 250) as u8))] } else { Vec::new() }
        } else {
            let mine = sources.iter().skip(number as usize).step_by(of as usize);
            let mine: Vec<IpAddr> = mine.copied().collect();
            if mine.is_empty() { vec![sources[number as usize % sources.len()]] } else { mine }
        };
        Self { sources, devices: (edge(number), edge(number + 1)), ..self.clone() }
    }
}

/// What is known of one worker.
#[derive(Default)]
struct Known {
    figures: Figures,
    gauges: Gauges,
    unwelcome: Option<Trouble>,
    cpu: f64,
    ledger: Option<Vec<u8>>,
    done: bool,
    /// Why it is lost.
    lost: Option<String>,
}

type SharedKnown = Arc<Mutex<Known>>;

fn lock(known: &SharedKnown) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker as the coordinator has it.
struct Member {
    known: SharedKnown,
    orders: mpsc::Sender<Order>,
    told: bool,
}

/// A connection of a worker that is about to begin.
struct Candidate {
    name: String,
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
}

/// All workers.
pub(super) struct Crew {
    members: Vec<Member>,
    _children: Children,
}

/// Processes started here, which do not outlive this one.
#[derive(Default)]
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        let until = Instant::now() + ENDING;
        for child in &mut self.0 {
            while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            // One that is over cannot be killed any more.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Crew {
    /// Waits until all are there, gives each its part, and lets them begin; when that is.
    pub(super) async fn gather(workers: &Workers, job: &Job, sources: Vec<IpAddr>) -> Result<(Self, Instant), String> {
        let (listen, count, wait) = match workers {
            Workers::None => return Err("there are no workers".to_owned()),
            Workers::Local { count, .. } => (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), *count, LOCAL),
            Workers::Remote { listen, count, wait } => (*listen, *count, *wait),
        };
        let no = |error: io::Error| format!("the coordinator cannot listen on {listen}: {error}");
        let listener = TcpListener::bind(listen).await.map_err(no)?;
        let children = match workers {
            Workers::Local { count, arguments, app_token } => {
                spawn(listener.local_addr().map_err(no)?, *count, arguments, app_token.as_deref())?
            }
            _ => Children::default(),
        };
        let until = tokio::time::Instant::now() + wait;
        let mut candidates = Vec::new();
        while candidates.len() < count as usize {
            let there = candidates.len();
            let late = || format!("{there} of {count} workers came within {} s", wait.as_secs());
            let (stream, address) = timeout_at(until, listener.accept()).await.map_err(|_| late())?.map_err(no)?;
            // Whatever else connects is no worker, and is let go.
            if let Some(candidate) = greet(stream, address).await {
                candidates.push(candidate);
            }
        }
        for (number, candidate) in candidates.iter_mut().enumerate() {
            let part = job.part(number as u32, count, &sources);
            wire::write(&mut candidate.write, &Frame::Job(Box::new(part)))
                .await
                .map_err(|error| candidate.gone(&error))?;
        }
        for candidate in &mut candidates {
            candidate.prepared().await?;
        }
        for candidate in &mut candidates {
            let start = Frame::Start(Start { in_ms: START_MS });
            wire::write(&mut candidate.write, &start).await.map_err(|error| candidate.gone(&error))?;
        }
        let began = Instant::now() + Duration::from_millis(START_MS);
        let members = candidates.into_iter().map(Candidate::begin).collect();
        Ok((Self { members, _children: children }, began))
    }

    /// What all of them counted since the last time.
    pub(super) fn sample(&mut self) -> Sample {
        let mut all = Sample::default();
        for member in &self.members {
            let mut known = lock(&member.known);
            let figures = std::mem::take(&mut known.figures);
            let gauges = if known.done || known.lost.is_some() { Gauges::default() } else { known.gauges };
            all.add(&Sample { figures, gauges, unwelcome: known.unwelcome.clone(), cpu: known.cpu });
        }
        all
    }

    pub(super) fn order(&mut self, order: Order) {
        for member in &mut self.members {
            // There is room for each order once; one that is lost needs none.
            let _ = member.orders.try_send(order);
        }
    }

    /// Those that are lost and were not told of before.
    pub(super) fn news(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        for member in &mut self.members {
            let lost = lock(&member.known).lost.clone();
            if let Some(why) = lost.filter(|_| !member.told) {
                member.told = true;
                news.push(why);
            }
        }
        news
    }

    pub(super) fn is_over(&self) -> bool {
        self.members.iter().all(|member| {
            let known = lock(&member.known);
            known.done || known.lost.is_some()
        })
    }

    /// Of each that did not come to its end, why.
    pub(super) fn lost(&self) -> Vec<String> {
        self.members.iter().filter_map(|member| lock(&member.known).lost.clone()).collect()
    }

    pub(super) fn count(&self) -> u64 {
        self.members.len() as u64
    }

    /// Merges what they noted. One that handed nothing over is lost: the verdict knows nothing of its devices.
    pub(super) fn ledgers(&mut self, ledger: &Ledger) {
        for member in &self.members {
            let mut known = lock(&member.known);
            let Some(bytes) = known.ledger.take() else {
                known.lost.get_or_insert_with(|| "a worker did not hand over its ledger in time".to_owned());
                continue;
            };
            match Ledger::from_bytes(&bytes) {
                Ok(other) => ledger.merge(other),
                Err(error) => known.lost = Some(format!("a worker's ledger: {error}")),
            }
        }
    }
}

impl Candidate {
    fn gone(&self, error: &io::Error) -> String {
        format!("{} is gone: {error}", self.name)
    }

    /// Waits until it has its keys and knows the target.
    async fn prepared(&mut self) -> Result<(), String> {
        let name = self.name.clone();
        match timeout(PREPARING, wire::read(&mut self.read)).await {
            Ok(Ok(Frame::Ready)) => Ok(()),
            Ok(Ok(Frame::Failed(why))) => Err(format!("{name}: {why}")),
            Ok(Ok(_)) => Err(format!("{name} said something else than that it is ready")),
            Ok(Err(error)) => Err(self.gone(&error)),
            Err(_) => Err(format!("{name} was not ready within {} s", PREPARING.as_secs())),
        }
    }

    /// From now on it is listened to, and told.
    fn begin(self) -> Member {
        let known = SharedKnown::default();
        // Run is never told; Finish and Abort are, each once.
        let (orders, received) = mpsc::channel(4);
        tokio::spawn(listen(self.name, self.read, Arc::clone(&known)));
        tokio::spawn(tell(self.write, received));
        Member { known, orders, told: false }
    }
}

/// Reads a greeting; none from what is no worker of this version.
async fn greet(stream: TcpStream, address: SocketAddr) -> Option<Candidate> {
    stream.set_nodelay(true).ok()?;
    let (mut read, mut write) = stream.into_split();
    let greeting = timeout(Duration::from_secs(5), wire::read(&mut read)).await.ok()?.ok()?;
    let Frame::Hello(Hello { version, process }) = greeting else { return None };
    if version != wire::VERSION {
        let ours = format!("the coordinator has version {}, this worker {version}", wire::VERSION);
        let _ = wire::write(&mut write, &Frame::Failed(ours)).await;
        return None;
    }
    Some(Candidate { name: format!("the worker at {address} (process {process})"), read, write })
}

async fn listen(name: String, mut read: OwnedReadHalf, known: SharedKnown) {
    let lost = loop {
        match timeout(SILENCE, wire::read(&mut read)).await {
            Ok(Ok(Frame::Sample { told, figures })) => {
                let mut known = lock(&known);
                known.figures.merge(&figures);
                known.gauges = told.gauges;
                known.unwelcome = told.unwelcome;
                known.cpu = told.cpu;
            }
            Ok(Ok(Frame::Ledger(bytes))) => lock(&known).ledger = Some(bytes),
            Ok(Ok(Frame::Done)) => {
                lock(&known).done = true;
                return;
            }
            Ok(Ok(Frame::Failed(why))) => break why,
            Ok(Ok(_)) => break "it said what no worker says".to_owned(),
            Ok(Err(error)) => break format!("its connection broke: {error}"),
            Err(_) => break format!("it said nothing for {} s", SILENCE.as_secs()),
        }
    };
    lock(&known).lost = Some(format!("{name} was lost, with what it knew of its devices: {lost}"));
}

async fn tell(mut write: OwnedWriteHalf, mut orders: mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if wire::write(&mut write, &Frame::Order { abort: order == Order::Abort }).await.is_err() {
            return;
        }
    }
}

/// Starts workers on this machine. A Ctrl-C at the terminal is for the coordinator, which tells them: so they are in
/// process groups of their own.
fn spawn(address: SocketAddr, count: u32, arguments: &[String], app_token: Option<&str>) -> Result<Children, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
    let mut children = Children::default();
    for _ in 0..count {
        let child = Command::new(&program)
            .arg("worker")
            .args(["--coordinator", &address.to_string()])
            .args(arguments)
            .envs(app_token.map(|token| (APP_TOKEN, token)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        children.0.push(child.map_err(|error| format!("a worker could not be started: {error}"))?);
    }
    Ok(children)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn job(devices: u32) -> Job {
        Job {
            profile: Profile::load("steady").unwrap(),
            targets: vec!["ws://127.0.0.1:1".to_owned()],
            api: None,
            prefix: "load-".to_owned(),
            run: "r".to_owned(),
            noted: true,
            sources: Vec::new(),
            devices: (0, devices),
        }
    }

    #[test]
    fn parts_are_disjoint_and_together_the_whole() {
        for (devices, workers) in [(10, 3), (15_000, 2), (2, 5)] {
            let job = job(devices);
            let parts: Vec<Job> = (0..workers).map(|number| job.part(number, workers, &[])).collect();
            assert_eq!((parts[0].devices.0, parts.last().unwrap().devices.1), (0, devices));
            assert!(parts.windows(2).all(|pair| pair[0].devices.1 == pair[1].devices.0));
            assert!(parts.windows(2).all(|pair| pair[0].sources != pair[1].sources), "ports of their own");
        }
    }

    #[test]
    fn sources_that_were_given_are_dealt_out() {
        let sources: Vec<IpAddr> = (2..7).map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))).collect();
        let parts: Vec<Job> = (0..2).map(|number| job(10).part(number, 2, &sources)).collect();
        assert_eq!((parts[0].sources.len(), parts[1].sources.len()), (3, 2));
        assert!(parts[0].sources.iter().all(|source| !parts[1].sources.contains(source)));
        let few: Vec<Job> = (0..3).map(|number| job(10).part(number, 3, &sources[..2])).collect();
        assert!(few.iter().all(|part| part.sources.len() == 1));
    }
}
