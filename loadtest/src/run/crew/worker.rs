//! A worker: does what a coordinator tells it, says every second what it counted, and at the end what it noted.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};

use super::Job;
use super::wire::{self, Frame, Hello, Told};
use crate::ledger::Ledger;
use crate::run::fleet::{self, Api, Fleet};
use crate::run::identity::{Credentials, Identities};
use crate::run::shard::{Order, Plan};
use crate::run::target::{self, Target};
use crate::run::timeline::Timeline;
use crate::run::turns::Turns;
use crate::run::{BROKE, RunError, SEED};
use crate::telemetry::unix_ms;

/// How long a coordinator that is not there yet is tried for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a job is waited for: until the last worker came.
const GATHERING: Duration = Duration::from_secs(3_600);
/// How long the coordinator takes at the end to hang up.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a worker is told by its command line: nothing of it goes over the network.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Where the coordinator listens.
    pub coordinator: SocketAddr,
    /// Who the devices are.
    pub credentials: Credentials,
    /// A token with `commands:write`, where none can be signed.
    pub app_token: Option<String>,
    /// Whose certificates are trusted for TLS.
    pub ca: Option<PathBuf>,
    /// Threads that drive devices.
    pub threads: usize,
}

/// Works for a coordinator until the run is over.
///
/// # Errors
/// When there is no coordinator, it hangs up, or what it wants cannot be done.
pub async fn work(settings: WorkerSettings) -> Result<(), RunError> {
    let lost = |error: io::Error| RunError::Workers(format!("the coordinator at {}: {error}", settings.coordinator));
    let stream = connect(settings.coordinator).await.map_err(lost)?;
    stream.set_nodelay(true).map_err(lost)?;
    let (mut read, mut write) = stream.into_split();
    let hello = Hello { version: wire::VERSION, process: std::process::id() };
    wire::write(&mut write, &Frame::Hello(hello)).await.map_err(lost)?;
    let job = match timeout(GATHERING, wire::read(&mut read)).await {
        Ok(Ok(Frame::Job(job))) => job,
        Ok(Ok(Frame::Failed(why))) => return Err(RunError::Workers(why)),
        Ok(Ok(_)) => return Err(lost(io::Error::other("it gave no job"))),
        Ok(Err(error)) => return Err(lost(error)),
        Err(_) => return Err(lost(io::Error::other("it gave no job within an hour"))),
    };
    let (plan, api) = match prepare(&settings, &job) {
        Ok(prepared) => prepared,
        Err(error) => {
            wire::write(&mut write, &Frame::Failed(error.to_string())).await.map_err(lost)?;
            return Err(error);
        }
    };
    wire::write(&mut write, &Frame::Ready).await.map_err(lost)?;
    let Ok(Frame::Start(start)) = wire::read(&mut read).await else {
        return Err(lost(io::Error::other("it did not say when to begin")));
    };
    let ahead = Duration::from_millis(start.in_ms);
    let plan = Plan { began: Instant::now() + ahead, began_ms: (unix_ms() + start.in_ms) as i64, ..plan };
    let plan = Arc::new(plan);
    let fleet = Fleet::start(&plan, job.devices.0..job.devices.1, settings.threads, api.as_ref())?;
    drive(fleet, &plan.ledger, job.noted, read, write).await.map_err(lost)
}

async fn connect(coordinator: SocketAddr) -> io::Result<TcpStream> {
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(coordinator).await {
            Err(_) if Instant::now() < until => sleep(Duration::from_millis(200)).await,
            done => return done,
        }
    }
}

/// Everything but the moment of the beginning.
fn prepare(settings: &WorkerSettings, job: &Job) -> Result<(Plan, Option<Api>), RunError> {
    let targets = target::read(&job.targets, settings.ca.as_deref())?;
    targets.iter().try_for_each(Target::probe)?;
    let identities = Identities::of(&settings.credentials, &job.prefix, job.devices.1)?;
    let mine = u64::from(job.devices.1 - job.devices.0);
    let files = fleet::raise_open_files();
    if mine > files {
        return Err(RunError::Workers(format!("{mine} devices need as many open files and {files} are allowed")));
    }
    let api = if job.profile.commands.is_some() { api(settings, job, &targets, &identities)? } else { None };
    if api.is_none() && job.profile.commands.is_some() {
        return Err(RunError::Workers("its callers of commands need --signing-key or --app-token".to_owned()));
    }
    let plan = Plan {
        profile: Arc::new(job.profile.clone()),
        timeline: Timeline::of(&job.profile),
        targets,
        sources: job.sources.clone(),
        identities,
        turns: Turns::default(),
        ledger: Arc::new(Ledger::new()),
        noted: job.noted,
        run: job.run.clone(),
        seed: SEED,
        began: Instant::now(),
        began_ms: 0,
    };
    Ok((plan, api))
}

fn api(
    settings: &WorkerSettings,
    job: &Job,
    targets: &[Target],
    identities: &Identities,
) -> Result<Option<Api>, RunError> {
    crate::run::api(job.api.as_deref(), settings.ca.as_deref(), settings.app_token.as_deref(), targets, identities)
}

/// Lets the devices run, says what they count, and ends when the coordinator says so or is gone.
async fn drive(
    mut fleet: Fleet,
    ledger: &Ledger,
    noted: bool,
    read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
) -> io::Result<()> {
    let (orders, mut received) = watch::channel(Order::Run);
    let reading = tokio::spawn(obey(read, orders));
    let mut ticks = interval(Duration::from_secs(1));
    while !fleet.is_over() {
        tokio::select! {
            _ = ticks.tick() => {}
            // Whoever reads orders tells Abort when the coordinator is gone, before it ends.
            _ = received.changed(), if !reading.is_finished() => {}
        }
        fleet.order(*received.borrow());
        say(&mut fleet, &mut write).await.inspect_err(|_| fleet.order(Order::Abort))?;
    }
    say(&mut fleet, &mut write).await?;
    if noted {
        wire::write(&mut write, &Frame::Ledger(ledger.to_bytes())).await?;
    }
    if fleet.broke() {
        wire::write(&mut write, &Frame::Failed(BROKE.to_owned())).await?;
        return Err(io::Error::other("a thread broke"));
    }
    wire::write(&mut write, &Frame::Done).await?;
    let _ = timeout(FAREWELL, reading).await;
    Ok(())
}

async fn say(fleet: &mut Fleet, write: &mut OwnedWriteHalf) -> io::Result<()> {
    let sample = fleet.sample();
    let told = Told { gauges: sample.gauges, unwelcome: sample.unwelcome, cpu: sample.cpu };
    wire::write(write, &Frame::Sample { told, figures: Box::new(sample.figures) }).await
}

async fn obey(mut read: OwnedReadHalf, orders: watch::Sender<Order>) {
    loop {
        let order = match wire::read(&mut read).await {
            Ok(Frame::Order { abort: false }) => Order::Finish,
            Ok(_) | Err(_) => Order::Abort,
        };
        orders.send_replace(order);
        if order == Order::Abort {
            return;
        }
    }
}
