//! Certificates and passwords that are replaced while devices live on two nodes: nobody is sent away, no command is lost,
//! and who comes then meets what is new.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::redis::Guarded;
use super::support::gateway::{Builder, Gateway, write_certificate};
use super::support::pki::{Authority, Leaf, client};
use super::support::wait_until;
use super::support::ws::RawClient;
use super::{PATIENCE, TENANT, at, commands, stores};

/// A node that speaks with its peers by the certificate in a directory.
fn node(guarded: &Guarded, peers: &Path, build: Builder) -> Gateway {
    let build = build.tls().set("peer.plaintext", "false").set("peer.tls_ca", &at(peers, "authorities.pem"));
    let build = build.set("peer.tls_cert", &at(peers, "peer.pem")).set("peer.tls_key", &at(peers, "peer-key.pem"));
    guarded.node(build)
}

/// How often a node took up a new certificate of a kind.
fn replaced(gateway: &Gateway, what: &str) -> usize {
    gateway.process.log().lines().filter(|line| line.contains(&format!("\"{what} was replaced"))).count()
}

fn leaf() -> Leaf<'static> {
    Leaf { names: &["tidegate-peer"], common_name: "tidegate-peer", ..Leaf::default() }
}

/// Two nodes, and what they are shown and show.
struct Rig {
    guarded: Guarded,
    peers: tempfile::TempDir,
    a: Gateway,
    b: Gateway,
}

impl Rig {
    fn start(authority: &Authority) -> Self {
        let (guarded, peers) = (Guarded::start(), tempfile::tempdir().unwrap());
        std::fs::write(peers.path().join("authorities.pem"), &authority.pem).unwrap();
        authority.sign(leaf()).write(peers.path(), "peer");
        let a = node(&guarded, peers.path(), Gateway::build());
        let b = node(&guarded, peers.path(), Gateway::build().beside(&a));
        Self { guarded, peers, a, b }
    }

    /// Replaces the certificates of peers by `write`, and waits until both nodes use what is new.
    fn peers(&self, times: usize, write: impl FnOnce(&Path)) {
        write(self.peers.path());
        wait_until("both nodes took it up", PATIENCE, || {
            [&self.a, &self.b].iter().all(|node| replaced(node, "the certificate for peers") >= times)
        });
    }

    /// Another password of Redis, which forgets the one before and everybody who came by it.
    fn password(&self) {
        let redis = &self.guarded.redis;
        assert_eq!(redis.cli(&["ACL", "SETUSER", "tidegate", "resetpass", ">the-next-password"]), "OK");
        std::fs::write(self.guarded.dir.path().join("password"), "the-next-password\n").unwrap();
        redis.cli(&["CLIENT", "KILL", "USER", "tidegate"]);
    }
}

/// A device of one node that stores and is commanded by way of another, until it is told to stop; how often.
fn load(device: &mut RawClient, from: &Gateway, stop: &AtomicBool) -> u64 {
    let mut seq = 0;
    while !stop.load(Ordering::Relaxed) {
        seq += 1;
        stores(device, seq);
        commands(from, device, "d");
    }
    seq
}

#[test]
fn certificates_and_passwords_are_replaced_under_load_and_nobody_notices() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let rig = Rig::start(&first);
    let old = std::fs::read_to_string(rig.a.ca_file()).unwrap();
    let mut device = rig.a.device("d", "/v1/device?boot=b");
    let stop = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let load = scope.spawn(|| load(&mut device, &rig.b, &stop));
        write_certificate(rig.a.dir());
        // Both are trusted, then the new one signs, then the old one goes.
        rig.peers(1, |dir| {
            std::fs::write(dir.join("authorities.pem"), format!("{}{}", first.pem, second.pem)).unwrap()
        });
        wait_until("the public one is new", PATIENCE, || replaced(&rig.a, "the certificate") == 1);
        rig.peers(2, |dir| second.sign(leaf()).write(dir, "peer"));
        rig.peers(3, |dir| std::fs::write(dir.join("authorities.pem"), &second.pem).unwrap());
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    assert!(rounds > 3, "{rounds}");
    assert!(rig.b.metric("tidegate_peer_requests_total", &[]) >= rounds as f64, "commands went by peers");
    // New handshakes meet the new certificate, and the old one's authority no more.
    let token = format!("Bearer {}", rig.a.token("e", TENANT, &["device"]));
    let new = std::fs::read_to_string(rig.a.ca_file()).unwrap();
    let mut other = RawClient::connect_with(rig.a.public_addr(), client(&new, None), "localhost");
    assert_eq!(other.upgrade("/v1/device", &[("Authorization", &token)]).status, 101);
    let mut other = RawClient::connect_with(rig.a.public_addr(), client(&old, None), "localhost");
    assert!(other.send(b"GET / HTTP/1.1\r\n\r\n").is_err(), "the old authority is still good");
    // So do peers: a node that knows only the second authority reaches the device.
    let c = node(&rig.guarded, rig.peers.path(), Gateway::build().beside(&rig.a));
    commands(&c, &mut device, "d");
    // Redis forgets the password and its clients: the file is read again, nobody is sent away.
    rig.password();
    stores(&mut device, rounds + 1);
    wait_until("commands are taken again", PATIENCE, || {
        let app = rig.b.token("console", TENANT, &["telemetry:read"]);
        let list = format!("GET /v1/devices HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {app}\r\n\r\n");
        rig.b.connect().request(&list).status == 200
    });
    commands(&rig.b, &mut device, "d");
    assert_eq!(rig.a.metric("tidegate_disconnects_total", &[]), 0.0, "nobody was disconnected");
}
