//! The devices of this process: threads, each with a runtime of its own, a share of the devices and a tally.

use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use super::caller::Caller;
use super::http::HttpClient;
use super::shard::{Order, Plan, Shard};
use super::tally::{Sample, SharedTally};
use super::target::Target;

/// Open files beside those of devices.
const OTHER_FILES: u64 = 600;

/// Where callers of commands go, and as whom.
pub(super) struct Api {
    pub(super) target: Target,
    pub(super) token: String,
}

/// The threads.
pub(super) struct Fleet {
    tallies: Vec<SharedTally>,
    orders: watch::Sender<Order>,
    threads: Vec<JoinHandle<()>>,
    /// The process's CPU time at the last sample, and when that was.
    cpu: (Duration, Instant),
}

impl Fleet {
    /// Starts them; devices begin when the plan says.
    ///
    /// # Errors
    /// When the operating system has no thread or no runtime to give.
    pub(super) fn start(plan: &Arc<Plan>, numbers: Range<u32>, threads: usize, api: Option<&Api>) -> io::Result<Self> {
        let (orders, received) = watch::channel(Order::Run);
        let mut fleet = Self { tallies: Vec::new(), orders, threads: Vec::new(), cpu: (cpu_time(), Instant::now()) };
        let threads = threads.clamp(1, numbers.len().max(1));
        for thread in 0..threads {
            let tally = SharedTally::default();
            let source = plan.sources.first().copied();
            let caller = api.and_then(|api| caller(plan, api, &tally, source, thread));
            let numbers = numbers.clone().skip(thread).step_by(threads);
            let shard = Shard::new(Arc::clone(plan), tally.clone(), caller, numbers);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let received = received.clone();
            let drive = move || runtime.block_on(shard.drive(received));
            fleet.threads.push(std::thread::Builder::new().name(format!("devices-{thread}")).spawn(drive)?);
            fleet.tallies.push(tally);
        }
        Ok(fleet)
    }

    /// What was counted since the last time.
    pub(super) fn sample(&mut self) -> Sample {
        let mut sample = Sample::default();
        self.tallies.iter().for_each(|tally| sample.add(&tally.take()));
        let (cpu, now) = (cpu_time(), Instant::now());
        let wall = now.duration_since(self.cpu.1).as_secs_f64() * self.threads.len() as f64;
        if wall > 0.0 {
            sample.cpu = (cpu - self.cpu.0).as_secs_f64() / wall;
        }
        self.cpu = (cpu, now);
        sample
    }

    /// Tells all threads. A later stage of the end is never taken back.
    pub(super) fn order(&self, order: Order) {
        self.orders.send_if_modified(|known| {
            let new = order > *known;
            *known = order.max(*known);
            new
        });
    }

    /// Whether all devices are closed.
    pub(super) fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Whether a thread ended by a panic: what it had to say is on standard error.
    pub(super) fn broke(self) -> bool {
        self.threads.into_iter().any(|thread| thread.join().is_err())
    }
}

fn caller(
    plan: &Arc<Plan>,
    api: &Api,
    tally: &SharedTally,
    source: Option<IpAddr>,
    thread: usize,
) -> Option<Arc<Caller>> {
    let profile = plan.profile.commands.clone()?;
    let http = HttpClient::new(api.target.clone(), source, &api.token, Arc::clone(&plan.turns.callers));
    let run = format!("{}-{thread}", plan.run);
    let (ledger, identities) = (Arc::clone(&plan.ledger), plan.identities.clone());
    Some(Caller::new(http, tally.clone(), ledger, Arc::new(profile), identities, run))
}

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap_or(0))
}

/// Raises the limit of open files as far as it may be; the number of devices for which it is enough.
pub(super) fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let files = if raised.is_ok() { maximum } else { current };
    files.unwrap_or(u64::MAX).saturating_sub(OTHER_FILES)
}
