//! Debian's HAProxy in front of some nodes: TLS goes through untouched, and a node that is not ready gets nothing new.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::gateway::Gateway;
use super::process::Process;
use super::{ports, wait_until};

/// A running HAProxy; killed when dropped.
pub struct Haproxy {
    process: Process,
    port: u16,
    _dir: TempDir,
}

impl Haproxy {
    /// In front of these nodes, which it asks for `/readyz` twice a second.
    pub fn start(nodes: &[&Gateway]) -> Self {
        let (dir, port) = (tempfile::tempdir().expect("a directory"), ports::free());
        let mut text = format!(
            "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 10m\n    timeout server 10m\n\
             frontend public\n    bind 127.0.0.1:{port}\n    default_backend nodes\n\
             backend nodes\n    balance roundrobin\n    option redispatch\n    option httpchk GET /readyz\n"
        );
        for node in nodes {
            let (public, internal) = (node.public_addr(), node.internal_addr().port());
            let line = format!("    server {} {public} check port {internal} inter 500ms fall 1 rise 1\n", node.name());
            text.write_str(&line).expect("text grows");
        }
        let file = dir.path().join("haproxy.cfg");
        std::fs::write(&file, text).expect("the configuration is written");
        // Debian has it where only root's PATH leads.
        let debian = Path::new("/usr/sbin/haproxy");
        let mut command = Command::new(if debian.exists() { debian } else { Path::new("haproxy") });
        command.arg("-db").arg("-f").arg(&file);
        let process = Process::start("haproxy", &mut command, &dir.path().join("log"));
        let mut haproxy = Self { process, port, _dir: dir };
        wait_until("HAProxy accepts", Duration::from_secs(20), || {
            if let Some(status) = haproxy.process.ended() {
                panic!("HAProxy ended with {status}: {}", haproxy.process.log_tail());
            }
            std::net::TcpStream::connect(haproxy.addr()).is_ok()
        });
        haproxy
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
}
