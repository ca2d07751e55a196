//! A run: devices and callers do what a profile says, in an open model. What is due is due by schedule, whatever the target
//! does; latency counts from that moment, and what a generator that waits for answers would have seen stands beside it.
//!
//! Devices live in threads with runtimes of their own; each thread counts by itself, and once a second its figures are
//! merged into what is shown. With workers the threads are in several processes.

mod caller;
mod collector;
mod crew;
mod fleet;
mod hook;
mod http;
mod identity;
mod shard;
mod slot;
mod tally;
mod target;
mod timeline;
mod turns;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch as channel;
use tokio::time::{MissedTickBehavior, interval};

pub use collector::Trouble;
pub use crew::{WorkerSettings, work};
pub use identity::{Claims, Credentials, IdentityError};
pub use target::TargetError;

use crate::figures::{Outcome, Progress, Verdict};
use crate::ledger::{KafkaTarget, Ledger, LedgerError, Marks};
use crate::profile::Profile;
use crate::telemetry::unix_ms;
use collector::Collector;
use crew::{Crew, Job};
use fleet::{Api, Fleet};
use hook::Hook;
use identity::Identities;
use shard::{Order, Plan};
use tally::Sample;
use target::Target;
use timeline::Timeline;
use turns::Turns;

/// How long closing may take after everything was waited for.
const CLOSING: Duration = Duration::from_secs(12);
/// How much longer workers whose devices do not close have to hand over what they noted.
const HANDING_OVER: Duration = Duration::from_secs(60);

/// What is said of a thread that ended by a panic.
const BROKE: &str = "one of the threads broke, with its devices";

/// Everything a run is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the devices do.
    pub profile: Profile,
    /// How many there are.
    pub devices: u32,
    /// Where they go, in turn.
    pub targets: Vec<String>,
    /// Whose certificates are trusted for TLS, PEM; the system's authorities where there is none.
    pub ca: Option<PathBuf>,
    /// The HTTP API, where it is not at the first target.
    pub api: Option<String>,
    /// Who the devices are.
    pub credentials: Credentials,
    /// A token with `commands:write`, where none can be signed.
    pub app_token: Option<String>,
    /// Begins every device's id.
    pub prefix: String,
    /// Where what was acked is looked for.
    pub kafka: Option<KafkaTarget>,
    /// How long the looking may take.
    pub check_within: Duration,
    /// Threads that drive devices.
    pub threads: usize,
    /// Where devices connect from, in turn.
    pub sources: Vec<IpAddr>,
    /// After so long without any connection the run ends.
    pub give_up: Duration,
    /// A shell command that is run as each stage begins, with its name in `TIDEGATE_STAGE`.
    pub hook: Option<String>,
    /// Processes that drive the devices in place of this one.
    pub workers: Workers,
}

/// Who drives the devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workers {
    /// This process.
    None,
    /// So many processes that this one starts, with these arguments for who the devices are.
    Local {
        /// How many.
        count: u32,
        /// `--signing-key …` and the like.
        arguments: Vec<String>,
        /// For callers of commands; not among the arguments, which others can see.
        app_token: Option<String>,
    },
    /// So many that connect here.
    Remote {
        /// Where to.
        listen: SocketAddr,
        /// How many.
        count: u32,
        /// How long they are waited for.
        wait: Duration,
    },
}

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Where it was to go.
    #[error("{0}")]
    Target(#[from] TargetError),
    /// Who the devices were to be.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// Kafka.
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    /// The workers.
    #[error("{0}")]
    Workers(String),
    /// By a person, before anything was sent.
    #[error("interrupted before the run began")]
    Interrupted,
    /// The threads.
    #[error("the devices' threads could not be started: {0}")]
    Threads(#[from] std::io::Error),
}

impl RunError {
    /// Whether something could not be reached, in contrast to something that was told wrongly.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Target(TargetError::Unreachable { .. }) | Self::Workers(_) => true,
            Self::Ledger(error) => matches!(error, LedgerError::Kafka { .. } | LedgerError::Topic { .. }),
            Self::Target(_) | Self::Identity(_) | Self::Interrupted | Self::Threads(_) => false,
        }
    }
}

/// A run that is over.
pub struct Finished {
    /// What came of it; thresholds are not judged yet.
    pub outcome: Outcome,
    /// Why it ended before its time, where that was not a person's wish.
    pub trouble: Option<Trouble>,
}

/// Who drives the devices.
enum Drivers {
    Here(Fleet),
    Crew(Crew),
}

impl Drivers {
    fn sample(&mut self) -> Sample {
        match self {
            Self::Here(fleet) => fleet.sample(),
            Self::Crew(crew) => crew.sample(),
        }
    }

    fn order(&mut self, order: Order) {
        match self {
            Self::Here(fleet) => fleet.order(order),
            Self::Crew(crew) => crew.order(order),
        }
    }

    fn is_over(&mut self) -> bool {
        match self {
            Self::Here(fleet) => fleet.is_over(),
            Self::Crew(crew) => crew.is_over(),
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Here(_) => 1,
            Self::Crew(crew) => crew.count(),
        }
    }
}

/// A run that is about to begin, or on.
struct Run {
    settings: Settings,
    timeline: Timeline,
    collector: Collector,
    drivers: Drivers,
    ledger: Arc<Ledger>,
    marks: Option<Marks>,
    interrupts: channel::Receiver<u32>,
    hook: Hook,
    began_ms: u64,
}

/// Runs a profile: `show` is called about once a second. `interrupts` counts how often a person said stop: at the first
/// the run ends as it would at its time; the second is for the caller to obey.
///
/// # Errors
/// [`RunError`], before anything was sent.
pub async fn run(
    settings: Settings,
    interrupts: channel::Receiver<u32>,
    show: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Finished, RunError> {
    let mut waiting = interrupts.clone();
    let mut run = tokio::select! {
        prepared = Run::prepare(settings, interrupts) => prepared?,
        Ok(_) = waiting.wait_for(|times| *times > 0) => return Err(RunError::Interrupted),
    };
    let (trouble, cut_short) = run.go(show).await;
    let verdict = run.check(show).await;
    Ok(run.finish(trouble, cut_short, verdict))
}

impl Run {
    async fn prepare(mut settings: Settings, interrupts: channel::Receiver<u32>) -> Result<Self, RunError> {
        let mut warnings = Vec::new();
        let targets = target::read(&settings.targets, settings.ca.as_deref())?;
        targets.iter().try_for_each(Target::probe)?;
        // Workers of other machines have what they need themselves, or say that they have not.
        let remote = matches!(settings.workers, Workers::Remote { .. });
        let identities = if remote {
            Identities::Nobody
        } else {
            Identities::of(&settings.credentials, &settings.prefix, settings.devices)?
        };
        let can_call = remote || settings.app_token.is_some() || identities.caller().is_some();
        if settings.profile.commands.is_some() && !can_call {
            settings.profile.commands = None;
            warnings.push("no commands were sent: their callers need --signing-key or --app-token".to_owned());
        }
        let marks = match settings.kafka.clone() {
            Some(kafka) => Some(blocking(move || kafka.mark()).await??),
            None => None,
        };
        let ledger = Arc::new(Ledger::new());
        let timeline = Timeline::of(&settings.profile);
        let drain = Duration::from_secs_f64(settings.profile.drain_s);
        let (drivers, began, began_ms) =
            start(&settings, targets, identities, &ledger, &timeline, &mut warnings).await?;
        let total = Duration::from_secs_f64(timeline.total_s()) + drain;
        let mut collector =
            Collector::new(&settings.profile.name, &settings.targets.join(", "), total, began, settings.give_up);
        warnings.into_iter().for_each(|text| collector.warn(text));
        let hook = Hook::new(settings.hook.clone());
        Ok(Self { settings, timeline, collector, drivers, ledger, marks, interrupts, hook, began_ms })
    }

    /// The stages, then the end: why it ended early, and whether a person wanted that.
    async fn go(&mut self, show: &mut (dyn FnMut(&Progress) + Send)) -> (Option<Trouble>, bool) {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let (mut trouble, mut cut_short) = (None, false);
        while self.collector.began.elapsed().as_secs_f64() < self.timeline.total_s() {
            let left = self.timeline.total_s() - self.collector.began.elapsed().as_secs_f64();
            tokio::select! {
                _ = ticks.tick() => {}
                () = tokio::time::sleep(Duration::from_secs_f64(left.max(0.0))) => break,
                Ok(_) = self.interrupts.wait_for(|times| *times > 0) => {
                    cut_short = true;
                    break;
                }
            }
            let phase = self.phase();
            self.second(&phase, show);
            trouble = self.collector.trouble(Instant::now());
            if trouble.is_some() || self.drivers.is_over() {
                break;
            }
        }
        // Nobody is there who could settle anything.
        self.drivers.order(if trouble.is_some() { Order::Abort } else { Order::Finish });
        let patience = Duration::from_secs_f64(self.settings.profile.drain_s) + CLOSING;
        let (until, mut late) = (Instant::now() + patience, false);
        while !self.drivers.is_over() {
            ticks.tick().await;
            self.second("draining", show);
            if Instant::now() > until + HANDING_OVER {
                break;
            }
            if !late && Instant::now() > until {
                late = true;
                self.collector.warn("devices did not close in time");
                self.drivers.order(Order::Abort);
            }
        }
        self.second("draining", show);
        (trouble, cut_short)
    }

    fn second(&mut self, phase: &str, show: &mut (dyn FnMut(&Progress) + Send)) {
        let sample = self.drivers.sample();
        if let Drivers::Crew(crew) = &mut self.drivers {
            for text in crew.news() {
                self.collector.warn(text);
            }
        }
        show(&self.collector.take(&sample, phase, Instant::now()));
    }

    /// What it is doing. A stage that begins is told to the hook.
    fn phase(&mut self) -> String {
        let at = self.collector.began.elapsed().as_secs_f64();
        let Some((number, stage)) = self.timeline.stage(at) else { return "running".to_owned() };
        if let Some(wrong) = self.hook.stage(number, &stage.name) {
            self.collector.warn(wrong);
        }
        match &stage.hint {
            Some(hint) => format!("{}: {hint}", stage.name),
            None => stage.name.clone(),
        }
    }

    /// Holds the ledger against the topics.
    async fn check(&mut self, show: &mut (dyn FnMut(&Progress) + Send)) -> Option<Verdict> {
        let (kafka, marks) = (self.settings.kafka.clone()?, self.marks.take()?);
        if let Drivers::Crew(crew) = &mut self.drivers {
            crew.ledgers(&self.ledger);
            crew.news().into_iter().for_each(|text| self.collector.warn(text));
        }
        let (told, read) = channel::channel((0, 0));
        let (ledger, within) = (Arc::clone(&self.ledger), self.settings.check_within);
        let mut checking = tokio::task::spawn_blocking(move || {
            ledger.check(&kafka, &marks, within, &mut |read, of| {
                let _ = told.send((read, of));
            })
        });
        let last = self.collector.series.last().copied().unwrap_or_default();
        let mut ticks = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                verdict = &mut checking => return verdict.ok(),
                _ = ticks.tick() => {
                    let (read, of) = *read.borrow();
                    let percent = (read * 100).checked_div(of).unwrap_or(0);
                    let phase = format!("checking the ledger ({percent} %)");
                    show(&self.collector.progress(last, &phase, Instant::now()));
                }
            }
        }
    }

    fn finish(mut self, trouble: Option<Trouble>, cut_short: bool, ledger: Option<Verdict>) -> Finished {
        if let Some(wrong) = self.hook.end() {
            self.collector.warn(wrong);
        }
        let workers = self.drivers.count();
        let incomplete = match self.drivers {
            Drivers::Here(fleet) => {
                let broke = fleet.is_over() && fleet.broke();
                broke.then(|| BROKE.to_owned()).into_iter().collect()
            }
            Drivers::Crew(crew) => crew.lost(),
        };
        let outcome = Outcome {
            profile: self.settings.profile.name.clone(),
            about: self.settings.profile.about.clone(),
            target: self.collector.target.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            began_ms: self.began_ms,
            took: self.collector.began.elapsed(),
            devices: u64::from(self.settings.devices),
            workers,
            figures: Arc::unwrap_or_clone(self.collector.figures),
            series: self.collector.series,
            ledger,
            warnings: self.collector.warnings,
            cut_short,
            incomplete,
            ..Outcome::default()
        };
        Finished { outcome, trouble }
    }
}

/// Starts whoever drives the devices; when they begin, on this clock and in Unix milliseconds.
async fn start(
    settings: &Settings,
    targets: Vec<Target>,
    identities: Identities,
    ledger: &Arc<Ledger>,
    timeline: &Timeline,
    warnings: &mut Vec<String>,
) -> Result<(Drivers, Instant, u64), RunError> {
    let run = format!("r{:08x}", fastrand::u32(..));
    if settings.workers != Workers::None {
        let job = Job::of(settings, &run);
        let (crew, began) =
            Crew::gather(&settings.workers, &job, settings.sources.clone()).await.map_err(RunError::Workers)?;
        return Ok((Drivers::Crew(crew), began, unix_ms()));
    }
    let files = fleet::raise_open_files();
    if u64::from(settings.devices) > files {
        warnings.push(format!(
            "{} devices need as many open files and this process may have {files}: see ulimit -n, or use --workers",
            settings.devices
        ));
    }
    let (url, ca, token) = (settings.api.as_deref(), settings.ca.as_deref(), settings.app_token.as_deref());
    let calls = settings.profile.commands.is_some();
    let api = if calls { api(url, ca, token, &targets, &identities)? } else { None };
    let began = Instant::now() + Duration::from_millis(100);
    let plan = Plan {
        profile: Arc::new(settings.profile.clone()),
        timeline: timeline.clone(),
        targets,
        sources: settings.sources.clone(),
        identities,
        turns: Turns::default(),
        ledger: Arc::clone(ledger),
        noted: settings.kafka.is_some(),
        run,
        seed: SEED,
        began,
        began_ms: unix_ms() as i64 + 100,
    };
    let fleet = Fleet::start(&Arc::new(plan), 0..settings.devices, settings.threads, api.as_ref())?;
    Ok((Drivers::Here(fleet), began, unix_ms() + 100))
}

/// What is random in a profile is the same in every run.
const SEED: u64 = 0x7469_6465_6761_7465;

/// Where callers of commands go: `url`, or the first target.
fn api(
    url: Option<&str>,
    ca: Option<&Path>,
    app_token: Option<&str>,
    targets: &[Target],
    identities: &Identities,
) -> Result<Option<Api>, RunError> {
    let target = match url {
        Some(url) => Some(target::api(url, ca)?),
        None => targets.first().cloned(),
    };
    let token = match (app_token, identities.caller()) {
        (Some(token), _) => Some(token.to_owned()),
        (None, Some(signed)) => Some(signed.map_err(IdentityError::Key)?),
        (None, None) => None,
    };
    Ok(target.zip(token).map(|(target, token)| Api { target, token }))
}

/// Runs something that blocks.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    tokio::task::spawn_blocking(act).await.map_err(|error| RunError::Workers(error.to_string()))
}
