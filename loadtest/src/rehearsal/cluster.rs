//! The nodes: real processes, each at an address of its own.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::files::Files;
use super::program::{Program, free};
use super::{Options, RehearsalError, Spot, scrape};

const READY_WITHIN: Duration = Duration::from_secs(60);
/// The first node is at 127.0.0.11, the next at 127.0.0.12.
const FIRST: usize = 11;
/// What a node may take beyond its budget before it is taken for stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Places for all nodes there ever are.
pub(super) fn spots(count: usize) -> Result<Vec<Spot>, RehearsalError> {
    let spot = |number: usize| {
        let ip = Ipv4Addr::from([127, 0, 0, u8::try_from(FIRST + number).unwrap_or(u8::MAX)]);
        Ok(Spot { name: format!("gw-{}", number + 1), public: free(ip)?, internal: free(ip)?, peer: free(ip)? })
    };
    (0..count).map(spot).collect()
}

/// A running node.
pub(super) struct Node {
    pub(super) spot: Spot,
    program: Program,
    log: PathBuf,
}

/// How a node left that was told to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    /// From SIGTERM to its end.
    pub(super) took: Duration,
    /// Its exit code, where it has one.
    pub(super) code: Option<i32>,
}

impl Node {
    /// Starts one and waits until it is ready.
    pub(super) fn start(options: &Options, files: &Files, spot: &Spot) -> Result<Self, RehearsalError> {
        let config = files.config(options, spot)?;
        let log = files.path(&format!("{}.log", spot.name));
        let mut command = Command::new(&options.tidegate);
        command.args(["serve", "--config"]).arg(config);
        let mut program = Program::start(&spot.name, &mut command, &log)?;
        program.until("is ready", READY_WITHIN, || scrape::is_ready(spot.internal))?;
        Ok(Self { spot: spot.clone(), program, log })
    }

    /// It is still needed.
    pub(super) fn check(&mut self) -> Result<(), RehearsalError> {
        self.program.check()
    }

    /// SIGTERM, and waits for its end. `meanwhile` is called again and again.
    pub(super) fn leave(
        &mut self,
        options: &Options,
        mut meanwhile: impl FnMut() -> Result<(), RehearsalError>,
    ) -> Result<Left, RehearsalError> {
        self.program.signal(Signal::TERM)?;
        let began = Instant::now();
        let within = Duration::from_secs(options.propagation_s + options.budget_s) + STUCK_AFTER;
        let program = &mut self.program;
        let status = super::program::wait(&format!("{} leaves", self.spot.name), within, || {
            meanwhile()?;
            program.ended()
        })?;
        Ok(Left { took: began.elapsed(), code: status.code() })
    }

    /// Ends it as a crash does.
    pub(super) fn kill(&mut self) -> Result<(), RehearsalError> {
        self.program.signal(Signal::KILL)?;
        self.program.wait(STUCK_AFTER).map(drop)
    }

    /// How often its log has this.
    pub(super) fn said(&self, words: &str) -> usize {
        std::fs::read_to_string(&self.log).unwrap_or_default().matches(words).count()
    }
}
