//! Servers as child processes: started pinned to a core, waited for, measured through `/proc`, ended when dropped.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::BenchError;

const START_TIMEOUT: Duration = Duration::from_secs(40);

/// A running server.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    /// Starts `program` on `cores` (as `taskset -c` takes them), its output in `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(cores: &str, program: &Path, arguments: &[String], log: &Path) -> Result<Self, BenchError> {
        let output = File::create(log).map_err(BenchError::io(format!("creating {}", log.display())))?;
        let errors = output.try_clone().map_err(BenchError::io("sharing the log file"))?;
        let child = Command::new("taskset")
            .args(["-c", cores])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(BenchError::io(format!("starting {} by taskset", program.display())))?;
        Ok(Self { child, log: log.to_path_buf() })
    }

    /// Waits until `address` takes connections.
    ///
    /// # Errors
    /// When the server ends first or takes longer than 40 s; the text names its log.
    pub fn wait_for(&mut self, address: SocketAddr) -> Result<(), BenchError> {
        self.wait_until(|| TcpStream::connect(address).is_ok())
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// When the server ends first or takes longer than 40 s; the text names its log.
    pub fn wait_until(&mut self, ready: impl Fn() -> bool) -> Result<(), BenchError> {
        let begin = Instant::now();
        loop {
            if ready() {
                return Ok(());
            }
            let ended = self.child.try_wait().map_err(BenchError::io("looking after a server"))?;
            if ended.is_some() || begin.elapsed() > START_TIMEOUT {
                let text = fs::read_to_string(&self.log).unwrap_or_default();
                let end: Vec<&str> = text.lines().rev().take(5).collect();
                let log = self.log.display();
                return Err(BenchError::failed(format!("a server did not get ready, see {log}: {end:?}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Resident memory, KiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn rss_kib(&self) -> Result<f64, BenchError> {
        let text = self.proc("status")?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        kib.ok_or_else(|| BenchError::failed("a server ended while its memory was read"))
    }

    /// CPU time of all its threads, µs. From the scheduler's own nanoseconds where the kernel tells them.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_us(&self) -> Result<f64, BenchError> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut nanoseconds = 0.0;
        for task in fs::read_dir(&tasks).map_err(BenchError::io("reading a server's threads"))?.flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            nanoseconds += text.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        }
        if nanoseconds > 0.0 { Ok(nanoseconds / 1000.0) } else { self.cpu_ticks_us() }
    }

    fn cpu_ticks_us(&self) -> Result<f64, BenchError> {
        const TICK_US: f64 = 10_000.0;
        let text = self.proc("stat")?;
        let fields = text.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok());
        Ok(ticks.sum::<f64>() * TICK_US)
    }

    fn proc(&self, file: &str) -> Result<String, BenchError> {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path).map_err(BenchError::io(path))
    }
}
