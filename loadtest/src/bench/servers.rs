//! Servers as child processes: started pinned to a core, waited for, measured from outside, ended when dropped.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::BenchError;

/// What is measured runs here and nothing else does.
pub const SERVER_CORE: &str = "0";
const START_TIMEOUT: Duration = Duration::from_secs(40);
/// `/proc` counts in hundredths of a second.
const TICK_US: f64 = 10_000.0;

/// A running server: a process and all that it started.
pub struct Server {
    child: Child,
    log: PathBuf,
    /// What it needs and is not measured with it; ends after it.
    helper: Option<Box<Server>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let all = tree(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in all.into_iter().skip(1).filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A process and its descendants, parents before children.
fn tree(root: u32) -> Vec<u32> {
    let stats = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = text.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    });
    let parents: Vec<(u32, u32)> = stats.collect();
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&pid) = found.get(at) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        at += 1;
    }
    found
}

/// A loopback address with a port that is free now.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<SocketAddr, BenchError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(BenchError::io("finding a free port"))?;
    listener.local_addr().map_err(BenchError::io("finding a free port"))
}

impl Server {
    /// Starts `program` on the server's core, its output in `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, arguments: &[String], log: &Path) -> Result<Self, BenchError> {
        Self::start_with(program, arguments, &[], log)
    }

    /// The same with more in its environment.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(
        program: &Path,
        arguments: &[String],
        environment: &[(&str, String)],
        log: &Path,
    ) -> Result<Self, BenchError> {
        let output = File::create(log).map_err(BenchError::io(format!("creating {}", log.display())))?;
        let errors = output.try_clone().map_err(BenchError::io("sharing the log file"))?;
        let child = Command::new("taskset")
            .args(["-c", SERVER_CORE])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(BenchError::io(format!("starting {} by taskset", program.display())))?;
        Ok(Self { child, log: log.to_path_buf(), helper: None })
    }

    /// The same with a process that it needs.
    pub fn helped_by(mut self, helper: Self) -> Self {
        self.helper = Some(Box::new(helper));
        self
    }

    /// Waits until `address` takes connections.
    ///
    /// # Errors
    /// When the server ends first or takes longer than 40 s; the text names its log.
    pub fn wait_for(&mut self, address: SocketAddr) -> Result<(), BenchError> {
        self.wait_until(|| TcpStream::connect(address).is_ok())
    }

    /// Waits until `/readyz` on the internal port says 200.
    ///
    /// # Errors
    /// When the server ends first or takes longer than 40 s; the text names its log.
    pub fn wait_ready(&mut self, internal: SocketAddr) -> Result<(), BenchError> {
        self.wait_until(|| is_ready(internal))
    }

    fn wait_until(&mut self, ready: impl Fn() -> bool) -> Result<(), BenchError> {
        let begin = Instant::now();
        while !ready() {
            let ended = self.child.try_wait().map_err(BenchError::io("looking after a server"))?;
            if ended.is_some() || begin.elapsed() > START_TIMEOUT {
                let text = fs::read_to_string(&self.log).unwrap_or_default();
                let end: Vec<&str> = text.lines().rev().take(5).collect();
                let log = self.log.display();
                return Err(BenchError::failed(format!("a server did not get ready, see {log}: {end:?}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Resident memory of all its processes, KiB, counted page by page (`VmRSS` lags behind).
    ///
    /// # Errors
    /// When the process is gone.
    pub fn rss_kib(&self) -> Result<f64, BenchError> {
        let own = rss_kib(self.child.id())?;
        // A child may end while it is looked at.
        Ok(own + tree(self.child.id()).into_iter().skip(1).filter_map(|pid| rss_kib(pid).ok()).sum::<f64>())
    }

    fn cpu(&self) -> Result<Cpu, BenchError> {
        Cpu::of(&self.child.id().to_string())
    }

    /// CPU of what it started.
    fn children_cpu(&self) -> HashMap<u32, Cpu> {
        let children = tree(self.child.id()).into_iter().skip(1);
        children.filter_map(|pid| Some((pid, Cpu::of(&pid.to_string()).ok()?))).collect()
    }
}

fn rss_kib(pid: u32) -> Result<f64, BenchError> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(BenchError::io(path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.ok_or_else(|| BenchError::failed("a server ended while its memory was read"))
}

fn is_ready(internal: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(internal) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut answer = [0; 12];
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer.ends_with(b"200")
}

/// CPU time of a process.
#[derive(Debug, Clone, Copy, Default)]
struct Cpu {
    /// User and system time of all its threads, those that have ended too, in steps of 10 ms.
    process_us: f64,
    /// The scheduler's nanoseconds of the threads that live: exact, where none has ended.
    threads_us: f64,
}

impl Cpu {
    fn of(pid: &str) -> Result<Self, BenchError> {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).map_err(BenchError::io(path))?;
        let fields = text.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok());
        let tasks = format!("/proc/{pid}/task");
        let mut nanoseconds = 0.0;
        for task in fs::read_dir(&tasks).map_err(BenchError::io(tasks))?.flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            nanoseconds += text.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        }
        Ok(Self { process_us: ticks.sum::<f64>() * TICK_US, threads_us: nanoseconds / 1000.0 })
    }

    /// µs since `before`: by the threads, unless the process says more than its steps explain.
    fn since(self, before: Self) -> f64 {
        let (process, threads) = (self.process_us - before.process_us, self.threads_us - before.threads_us);
        if (process - threads).abs() > 3.0 * TICK_US { process } else { threads }
    }
}

/// What a span of time used.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// µs of CPU of the server, user and system, all its processes.
    pub server_us: f64,
    /// How much of its core the server used, 0 to 1.
    pub server: f64,
    /// How much of a core the generator used.
    pub generator: f64,
    /// How busy the machine was beside the server, per core that is left for generator and broker.
    pub others: f64,
    /// Seconds.
    pub seconds: f64,
}

/// A span that began.
pub struct Span<'a> {
    server: &'a Server,
    server_cpu: Cpu,
    children_cpu: HashMap<u32, Cpu>,
    generator_cpu: Cpu,
    machine: [f64; 2],
    begin: Instant,
}

impl<'a> Span<'a> {
    /// Begins a span.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn begin(server: &'a Server) -> Result<Self, BenchError> {
        let (machine, generator_cpu) = (machine_seconds(), Cpu::of("self")?);
        let children_cpu = server.children_cpu();
        Ok(Self { server, server_cpu: server.cpu()?, children_cpu, generator_cpu, machine, begin: Instant::now() })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn end(self) -> Result<Usage, BenchError> {
        let own_us = self.server.cpu()?.since(self.server_cpu);
        let children = self.server.children_cpu().into_iter();
        // One that was not there before did all its work since.
        let before = |pid: u32| self.children_cpu.get(&pid).copied().unwrap_or_default();
        let server_us = own_us + children.map(|(pid, cpu)| cpu.since(before(pid))).sum::<f64>();
        let seconds = self.begin.elapsed().as_secs_f64();
        let [busy, all] = machine_seconds();
        let (busy, all) = (busy - self.machine[0], all - self.machine[1]);
        let cores = (all / seconds).round().max(2.0);
        Ok(Usage {
            server_us,
            server: server_us / 1e6 / seconds,
            generator: Cpu::of("self")?.since(self.generator_cpu) / 1e6 / seconds,
            others: ((busy - server_us / 1e6) / seconds / (cores - 1.0)).clamp(0.0, 1.0),
            seconds,
        })
    }
}

/// Seconds that all cores together were busy, and that passed on them, since the machine started.
fn machine_seconds() -> [f64; 2] {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> = text.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let all: f64 = fields.iter().sum();
    let idle: f64 = fields.iter().skip(3).take(2).sum();
    [(all - idle) * TICK_US / 1e6, all * TICK_US / 1e6]
}

/// How busy the machine is while nothing is measured, 0 to 1, looked at for a second.
pub fn background_load() -> f64 {
    let [busy, all] = machine_seconds();
    std::thread::sleep(Duration::from_secs(1));
    let [busy_after, all_after] = machine_seconds();
    (busy_after - busy) / (all_after - all).max(0.01)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn threads_tell_the_cpu_exactly_unless_one_has_ended() {
        let at = |process_us, threads_us| Cpu { process_us, threads_us };
        assert_eq!(at(520_000.0, 514_321.0).since(at(10_000.0, 4_321.0)), 510_000.0);
        assert_eq!(at(1_520_000.0, 514_321.0).since(at(10_000.0, 4_321.0)), 1_510_000.0);
    }

    #[test]
    fn what_a_process_started_is_found_and_ends_with_it() {
        let log = std::env::temp_dir().join(format!("tidegate-tree-{}.log", std::process::id()));
        // A shell that waits for what it starts, which sleeps; behind the background one it cannot become it.
        let words = ["-c".to_owned(), "sleep 600 & sleep 601; true".to_owned()];
        let server = Server::start_with(Path::new("sh"), &words, &[("NAME", "value".to_owned())], &log).unwrap();
        let begin = Instant::now();
        while tree(server.child.id()).len() < 3 && begin.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        let all = tree(server.child.id());
        assert_eq!(all.len(), 3);
        assert!(server.rss_kib().unwrap() > rss_kib(all[0]).unwrap());
        drop(server);
        let lives = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while all.iter().any(lives) {
            assert!(begin.elapsed() < Duration::from_secs(20), "{all:?} outlive what started them");
            std::thread::yield_now();
        }
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn the_cpu_of_a_process_holds_that_of_threads_that_ended() {
        let before = Cpu::of("self").unwrap();
        std::thread::spawn(|| {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(200) {
                std::hint::spin_loop();
            }
        })
        .join()
        .unwrap();
        // How much it got of its core is the machine's matter.
        assert!(Cpu::of("self").unwrap().since(before) > 0.0);
    }
}
