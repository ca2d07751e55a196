//! The load: `tidegate-loadtest` as people run it, with its ledger on, and the summary it leaves behind.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::files::Files;
use super::program::{Program, free};
use super::{Options, RehearsalError};
use crate::summary;

/// Most devices of all behave. The others are those that a rollout is hard on: stock clients, which do not know `goaway` and
/// never come back after a close frame, so that they ask for none; and some that read slowly.
const PROFILE: &str = include_str!("profile.toml");
/// Devices that come in a second at the beginning.
const ARRIVALS_PER_S: f64 = 100.0;
/// Acks that are missing, commands under way, closes, and then the ledger.
const ENDED_WITHIN: Duration = Duration::from_secs(420);

/// A running load tester.
pub(super) struct Load {
    program: Program,
    out: PathBuf,
    metrics: SocketAddr,
}

impl Load {
    /// Starts it against HAProxy. `dir` is where its results go.
    pub(super) fn start(
        options: &Options,
        files: &Files,
        front: SocketAddr,
        dir: &Path,
    ) -> Result<Self, RehearsalError> {
        let metrics = free(Ipv4Addr::LOCALHOST)?;
        let profile = files.path("profile.toml");
        let connecting = (f64::from(options.devices) / ARRIVALS_PER_S).max(2.0);
        let text = PROFILE.replace("CONNECTING_S", &format!("{connecting:.1}"));
        std::fs::write(&profile, text).map_err(RehearsalError::io(profile.display().to_string()))?;
        let mut command = Command::new(&options.loadtest);
        command.arg("run").arg(&profile).args(["--plain", "--tenant", "rehearsal", "--give-up", "60s"]);
        command.args(["--target", &format!("wss://{front}"), "--devices", &options.devices.to_string()]);
        command.arg("--ca").arg(files.path("public-ca.pem")).arg("--signing-key").arg(files.path("signing-key.pem"));
        command.args(["--kafka", &options.brokers, "--topic-prefix", &files.prefix, "--check-within", "5m"]);
        command.args(["--metrics", &metrics.to_string()]).arg("--out").arg(dir);
        // A summary of an earlier rehearsal must not be taken for this one's.
        let _ = std::fs::remove_file(dir.join(summary::FILE));
        let program = Program::start("the load tester", &mut command, &files.path("load.log"))?;
        Ok(Self { program, out: dir.to_path_buf(), metrics })
    }

    /// Where its metrics are.
    pub(super) fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// It is still needed.
    pub(super) fn check(&mut self) -> Result<(), RehearsalError> {
        self.program.check()
    }

    /// Ends the load: devices get their acks and close, the ledger is held against the topics.
    pub(super) fn end(mut self) -> Result<Summary, RehearsalError> {
        self.program.check()?;
        self.program.signal(Signal::INT)?;
        let code = self.program.wait(ENDED_WITHIN)?.code();
        let path = self.out.join(summary::FILE);
        let wrong = |reason: String| RehearsalError::Summary { path: path.clone(), reason };
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        let value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        Ok(Summary { value, path, code })
    }
}

/// What the load tester found.
pub(super) struct Summary {
    value: Value,
    path: PathBuf,
    /// Its exit code.
    pub(super) code: Option<i32>,
}

impl Summary {
    /// Some value, by its path as in `/ledger/lost`.
    pub(super) fn at(&self, pointer: &str) -> Result<&Value, RehearsalError> {
        let reason = || RehearsalError::Summary { path: self.path.clone(), reason: format!("there is no {pointer}") };
        self.value.pointer(pointer).ok_or_else(reason)
    }

    /// A number.
    pub(super) fn number(&self, pointer: &str) -> Result<u64, RehearsalError> {
        let reason = || RehearsalError::Summary { path: self.path.clone(), reason: format!("{pointer} is no number") };
        self.at(pointer)?.as_u64().ok_or_else(reason)
    }

    /// How often there was an error with these words.
    pub(super) fn errors(&self, words: &str) -> u64 {
        let errors = self.value["errors"].as_object().into_iter().flatten();
        errors.filter(|(text, _)| text.contains(words)).filter_map(|(_, count)| count.as_u64()).sum()
    }

    /// Errors and how often they were, in a line; `-` where there were none.
    pub(super) fn all_errors(&self) -> String {
        let errors = self.value["errors"].as_object().into_iter().flatten();
        let errors: Vec<String> = errors.map(|(text, count)| format!("{count} x {text}")).collect();
        if errors.is_empty() { "-".to_owned() } else { errors.join(", ") }
    }
}
