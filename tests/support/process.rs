//! A program a test started: its log, its size, its signals, its end.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A running program; killed and waited for when dropped. Its output goes to a file.
pub struct Process {
    child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; standard output and error are appended to `log`.
    pub fn start(name: &'static str, command: &mut Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("the log file opens");
        let err = out.try_clone().expect("a file descriptor is free");
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start ({command:?}): {error}"));
        Self { child, name, log: log.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal by name: `STOP`, `CONT`, `TERM`, `KILL`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{signal} {} ({})", self.pid(), self.name);
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let what = format!("{} ends; its log:\n{}", self.name, self.log_tail());
        super::wait_for(&what, timeout, || self.ended())
    }

    /// Ends it at once, as a crash would; with all that it started, where it was given a process group of its own.
    pub fn kill(&mut self) {
        if self.leads_a_group() {
            self.signal_group();
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Not after its end was waited for: the number may be somebody else's by then.
    fn leads_a_group(&mut self) -> bool {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return false;
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // Behind the name, which may hold anything: state, parent, group.
        let group = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(2));
        group == Some(self.pid().to_string().as_str())
    }

    fn signal_group(&self) {
        drop(Command::new("kill").args(["-KILL", "--", &format!("-{}", self.pid())]).status());
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Threads.
    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// Open file descriptors, without the TCP sockets that are at none of these local ports: those it opened itself.
    pub fn fds_but_outgoing(&self, ports: &[u16]) -> usize {
        let outgoing: HashSet<String> = ["tcp", "tcp6"].iter().flat_map(|kind| self.sockets(kind, ports)).collect();
        let links = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process lives");
        let links = links.flatten().map(|entry| std::fs::read_link(entry.path()).unwrap_or_default());
        links.filter(|link| !outgoing.contains(link.to_string_lossy().as_ref())).count()
    }

    /// `socket:[inode]` of each TCP socket of its network that is at none of these local ports.
    fn sockets(&self, kind: &str, ports: &[u16]) -> Vec<String> {
        let text = std::fs::read_to_string(format!("/proc/{}/net/{kind}", self.pid())).unwrap_or_default();
        let outgoing = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, port) = fields.get(1)?.rsplit_once(':')?;
            let port = u16::from_str_radix(port, 16).ok()?;
            (!ports.contains(&port)).then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
        };
        text.lines().skip(1).filter_map(outgoing).collect()
    }

    fn status(&self, key: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process lives");
        let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("a line of /proc/<pid>/status");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let skip = log.lines().count().saturating_sub(40);
        log.lines().skip(skip).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the end of the log of {}:\n{}\n---", self.name, self.log_tail());
        }
    }
}
