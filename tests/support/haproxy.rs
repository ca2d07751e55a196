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

/// What it is to the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// Bytes, and nothing about whose they are.
    Tcp,
    /// The PROXY protocol, version 2, in front of the bytes.
    ProxyV2,
    /// HTTP, with the client behind whatever stands in `X-Forwarded-For`.
    Http,
}

/// A running HAProxy; killed when dropped.
pub struct Haproxy {
    process: Process,
    port: u16,
    _dir: TempDir,
}

impl Haproxy {
    /// In front of these nodes, which it asks for `/readyz` twice a second.
    pub fn start(nodes: &[&Gateway]) -> Self {
        Self::speaking(Speaks::Tcp, nodes)
    }

    /// The same, speaking to them as is said.
    pub fn speaking(speaks: Speaks, nodes: &[&Gateway]) -> Self {
        let (mode, line) = match speaks {
            Speaks::Tcp => ("tcp", ""),
            Speaks::ProxyV2 => ("tcp", " send-proxy-v2"),
            Speaks::Http => ("http\n    option forwardfor\n    timeout tunnel 10m", ""),
        };
        let (dir, port) = (tempfile::tempdir().expect("a directory"), ports::free());
        let mut text = format!(
            "defaults\n    mode {mode}\n    timeout connect 5s\n    timeout client 10m\n    timeout server 10m\n\
             frontend public\n    bind 127.0.0.1:{port}\n    default_backend nodes\n\
             backend nodes\n    balance roundrobin\n    option redispatch\n    option httpchk GET /readyz\n"
        );
        for node in nodes {
            let (public, internal) = (node.public_addr(), node.internal_addr().port());
            let (name, check) = (node.name(), "inter 500ms fall 1 rise 1");
            writeln!(text, "    server {name} {public}{line} check port {internal} {check}").expect("text grows");
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
