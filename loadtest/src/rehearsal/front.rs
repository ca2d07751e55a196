//! HAProxy in front of the nodes as the documentation recommends it: TLS goes through untouched, the client's address comes
//! by PROXY protocol v2, and who gets new connections is decided by `/readyz` alone.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::program::{Program, free};
use super::{Options, RehearsalError, Spot};

const STARTED_WITHIN: Duration = Duration::from_secs(20);
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// Connections it takes beyond the devices': of callers, and of those that come back before they left.
const SPARE: u32 = 1_000;

/// A running HAProxy.
pub(super) struct Front {
    program: Program,
    address: SocketAddr,
    socket: PathBuf,
}

impl Front {
    /// In front of all these places, of which none counts before [`Front::add`]. `lag_s` failed checks, one a second, make a
    /// node one that gets nothing new.
    pub(super) fn start(options: &Options, dir: &Path, spots: &[Spot]) -> Result<Self, RehearsalError> {
        let Options { lag_s, devices, balance, .. } = options;
        let address = free(Ipv4Addr::LOCALHOST)?;
        // Paths of sockets are short, and the directory's may be long.
        let socket = std::env::temp_dir().join(format!("rehearsal-{:08x}.sock", fastrand::u32(..)));
        let connections = 2 * devices + SPARE;
        let mut text = format!(
            "global\n    maxconn {connections}\n    stats socket {} mode 600 level admin\n\
             defaults\n    mode tcp\n    maxconn {connections}\n    retries 0\n\
             \x20   timeout connect 5s\n    timeout client 10m\n    timeout server 10m\n\
             frontend public\n    bind {address}\n    default_backend nodes\n\
             backend nodes\n    balance {balance}\n    option httpchk GET /readyz\n    http-check expect status 200\n",
            socket.display()
        );
        for Spot { name, public, internal, .. } in spots {
            let check = format!("check addr {} port {} inter 1s fall {lag_s} rise 1", internal.ip(), internal.port());
            let _ = writeln!(text, "    server {name} {public} send-proxy-v2 {check} disabled");
        }
        let file = dir.join("haproxy.cfg");
        std::fs::write(&file, text).map_err(RehearsalError::io(file.display().to_string()))?;
        // Debian has it where only root's PATH leads.
        let debian = Path::new("/usr/sbin/haproxy");
        let mut command = Command::new(if debian.exists() { debian } else { Path::new("haproxy") });
        let program = Program::start("haproxy", command.arg("-db").arg("-f").arg(&file), &dir.join("haproxy.log"))?;
        let mut front = Self { program, address, socket };
        front.program.until("accepts", STARTED_WITHIN, || TcpStream::connect(address).is_ok())?;
        Ok(front)
    }

    /// Where devices and callers connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A node that is ready gets its part from now on, for as long as it is.
    pub(super) fn add(&self, name: &str) -> Result<(), RehearsalError> {
        let said = self.ask(&format!("set server nodes/{name} state ready\n"));
        let said = said.map_err(RehearsalError::io("HAProxy's socket"))?;
        let said = said.trim();
        if said.is_empty() {
            return Ok(());
        }
        Err(RehearsalError::io(format!("HAProxy and {name}"))(std::io::Error::other(said.to_owned())))
    }

    fn ask(&self, command: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
        stream.write_all(command.as_bytes())?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    }

    /// It is still needed.
    pub(super) fn check(&mut self) -> Result<(), RehearsalError> {
        self.program.check()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}
