//! Programs that were started: waited for, told to leave, and killed when dropped.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::RehearsalError;

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of a log that are shown.
const TAIL: usize = 10;
/// Below what Linux gives to outgoing connections, so that none of them takes a port before it is listened on.
const PORTS: Range<u16> = 10_000..32_000;

/// A program.
pub(super) struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Starts it, with its output in `log` and without the settings of the caller's environment.
    pub(super) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self, RehearsalError> {
        let output = File::create(log).map_err(RehearsalError::io(log.display().to_string()))?;
        let errors = output.try_clone().map_err(RehearsalError::io("sharing a log"))?;
        for (variable, _) in std::env::vars_os() {
            if variable.to_str().is_some_and(|variable| variable.starts_with("TIDEGATE_")) {
                command.env_remove(variable);
            }
        }
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let child =
            child.map_err(RehearsalError::io(format!("starting {name} ({})", command.get_program().display())))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_path_buf() })
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>, RehearsalError> {
        self.child.try_wait().map_err(RehearsalError::io(format!("looking after {}", self.name)))
    }

    /// It is still needed.
    pub(super) fn check(&mut self) -> Result<(), RehearsalError> {
        let Some(status) = self.ended()? else { return Ok(()) };
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        Err(RehearsalError::Ended { name: self.name.clone(), status: status.to_string(), log: self.log.clone(), tail })
    }

    /// Waits until `found`; it must not end before.
    pub(super) fn until(
        &mut self,
        what: &str,
        within: Duration,
        mut found: impl FnMut() -> bool,
    ) -> Result<(), RehearsalError> {
        wait(&format!("{} {what}", self.name), within, || {
            self.check()?;
            Ok(found().then_some(()))
        })
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self, within: Duration) -> Result<ExitStatus, RehearsalError> {
        let name = self.name.clone();
        wait(&format!("{name} ends"), within, || self.ended())
    }

    /// Sends it a signal. One that has ended gets none.
    pub(super) fn signal(&mut self, signal: Signal) -> Result<(), RehearsalError> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let sent = pid.map_or(Ok(()), |pid| kill_process(pid, signal));
        sent.map_err(|error| RehearsalError::io(format!("a signal for {}", self.name))(error.into()))
    }
}

/// Looks again and again until there is something.
pub(super) fn wait<T>(
    what: &str,
    within: Duration,
    mut found: impl FnMut() -> Result<Option<T>, RehearsalError>,
) -> Result<T, RehearsalError> {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = found()? {
            return Ok(found);
        }
        if Instant::now() > end {
            return Err(RehearsalError::Late { what: what.to_owned(), within });
        }
        std::thread::sleep(LOOK);
    }
}

/// Runs a program to its end: what it printed, where it succeeded.
pub(super) fn run(command: &mut Command) -> Result<String, RehearsalError> {
    let name = command.get_program().display().to_string();
    let output = command.output().map_err(RehearsalError::io(format!("running {name}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(RehearsalError::Io { what: name, source: std::io::Error::other(said) })
}

/// A port of this address on which nobody listens.
pub(super) fn free(address: impl Into<IpAddr>) -> Result<SocketAddr, RehearsalError> {
    let address = address.into();
    let mut places = std::iter::repeat_with(|| SocketAddr::new(address, fastrand::u16(PORTS))).take(1_000);
    let free = places.find(|place| TcpListener::bind(place).is_ok());
    free.ok_or_else(|| RehearsalError::io(format!("a port of {address}"))(std::io::Error::other("none is free")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_ended_is_told_with_its_last_words() {
        let log = std::env::temp_dir().join(format!("tidegate-rehearsal-{}.log", std::process::id()));
        let mut program =
            Program::start("a shell", Command::new("sh").args(["-c", "echo gone; exit 7"]), &log).unwrap();
        let error = program.until("listens", Duration::from_secs(20), || false).unwrap_err().to_string();
        assert!(error.contains("a shell ended (exit status: 7)") && error.ends_with("gone"), "{error}");
        assert_eq!(program.wait(Duration::ZERO).unwrap().code(), Some(7));
        program.signal(Signal::TERM).unwrap();
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn what_does_not_come_is_told_by_name() {
        let error = wait::<()>("the tide comes", Duration::ZERO, || Ok(None)).unwrap_err();
        assert_eq!(error.to_string(), "not within 0ns: the tide comes");
    }
}
