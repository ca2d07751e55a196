//! Devices that show a certificate instead of a token, over real TLS.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use time::OffsetDateTime;

use super::support::gateway::Gateway;
use super::support::kafka::read_all;
use super::support::pki::{Authority, Leaf, Signed, client};
use super::support::wait_until;
use super::support::ws::{RawClient, Response};
use super::{PATIENCE, TENANT, at, stores};

/// What the certificate of `acme/pump-7` says.
fn pump_leaf() -> Leaf<'static> {
    Leaf { names: &[], common_name: "pump-7", organization: Some(TENANT), ..Leaf::default() }
}

struct Rig {
    gateway: Gateway,
    devices: Authority,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        let (devices, dir) = (Authority::new("devices"), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("devices.pem"), &devices.pem).unwrap();
        let build = Gateway::build().tls().set("public.client_ca", &at(dir.path(), "devices.pem"));
        let build = build.set("public.client_tenants", "['acme', 'second']").set("auth.leeway_s", "0");
        Self { gateway: build.start(), devices, _dir: dir }
    }

    fn tls(&self, shown: Option<&Signed>) -> Arc<ClientConfig> {
        client(&std::fs::read_to_string(self.gateway.ca_file()).unwrap(), shown)
    }

    fn connect(&self, shown: Option<&Signed>) -> RawClient {
        RawClient::connect_with(self.gateway.public_addr(), self.tls(shown), "localhost")
    }

    /// The answer to a handshake, with a token or without.
    fn knock(&self, shown: Option<&Signed>, path: &str, token: Option<&str>) -> (RawClient, Response) {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
        let mut client = self.connect(shown);
        let response = client.upgrade(path, &headers);
        (client, response)
    }

    fn status(&self, shown: Option<&Signed>, token: Option<&str>) -> u16 {
        self.knock(shown, "/v1/device", token).1.status
    }

    /// Whether TLS itself ended it.
    fn is_turned_away(&self, shown: &Signed) -> bool {
        let before = self.gateway.metric("tidegate_connection_attempts_total", &["outcome=\"tls\""]);
        let mut client = self.connect(Some(shown));
        drop(client.send(b"GET /v1/device HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let is_silent = client.response(PATIENCE).is_none();
        let counted = || self.gateway.metric("tidegate_connection_attempts_total", &["outcome=\"tls\""]) > before;
        wait_until("the refusal is counted", PATIENCE, counted);
        is_silent
    }
}

#[test]
fn a_device_is_who_its_certificate_says() {
    let rig = Rig::start();
    let pump = rig.devices.sign(pump_leaf());
    let (mut device, answer) = rig.knock(Some(&pump), "/v1/device?boot=b", None);
    assert_eq!(answer.status, 101);
    let welcome = device.expect_type("welcome", PATIENCE);
    assert_eq!(welcome["device_id"], "pump-7", "{welcome}");
    stores(&mut device, 1);
    let records = read_all(rig.gateway.brokers(), &rig.gateway.topic("telemetry"));
    assert_eq!(records.iter().map(|record| record.key.as_str()).collect::<Vec<_>>(), ["acme/pump-7"]);

    // Its certificate opens no application's door, and does not stand in the way of a token there.
    assert_eq!(rig.knock(Some(&pump), "/v1/app", None).1.status, 401);
    let app = rig.gateway.token("console", TENANT, &["telemetry:read"]);
    assert_eq!(rig.knock(Some(&pump), "/v1/app", Some(&app)).1.status, 101);

    // Blocked, it is out and stays out.
    let admin = rig.gateway.token("root", TENANT, &["admin"]);
    let block = rig.connect(None).request(&format!(
        "PUT /v1/devices/pump-7/block HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {admin}\r\nContent-Length: 0\r\n\r\n"
    ));
    assert!(block.status < 300, "{}", block.status);
    assert_eq!(device.expect_close(PATIENCE), Some(4302));
    assert_eq!(rig.status(Some(&pump), None), 403);
}

#[test]
fn certificates_and_tokens_live_side_by_side_and_must_agree() {
    let rig = Rig::start();
    let pump = rig.devices.sign(pump_leaf());
    let own = rig.gateway.token("pump-7", TENANT, &["device"]);
    let other = rig.gateway.token("pump-8", TENANT, &["device"]);
    let namesake = rig.gateway.token("pump-7", "second", &["device"]);
    assert_eq!(rig.status(None, Some(&own)), 101, "a token without a certificate");
    assert_eq!(rig.status(None, None), 401, "neither");
    assert_eq!(rig.status(Some(&pump), Some(&own)), 101, "both, of one device");
    for token in [&other, &namesake] {
        let (_, answer) = rig.knock(Some(&pump), "/v1/device", Some(token));
        let body = String::from_utf8(answer.body).unwrap();
        assert!(answer.status == 403 && body.contains("another device's than the certificate"), "{body}");
    }
    // Without its certificate the token is as good as ever.
    assert_eq!(rig.status(None, Some(&other)), 101);
    for (what, leaf) in [
        ("no id", Leaf { common_name: "Pump 7", ..pump_leaf() }),
        ("no tenant, where there are two", Leaf { organization: None, ..pump_leaf() }),
        ("a tenant that is not among those of certificates", Leaf { organization: Some("third"), ..pump_leaf() }),
    ] {
        let nobodys = rig.devices.sign(leaf);
        assert_eq!(rig.status(Some(&nobodys), None), 401, "{what}");
        assert_eq!(rig.status(Some(&nobodys), Some(&own)), 101, "{what}, with a token");
    }
}

#[test]
fn a_certificate_that_does_not_hold_is_told_by_tls() {
    let rig = Rig::start();
    let others = Authority::new("others").sign(pump_leaf());
    let expired = rig.devices.sign(Leaf { until: OffsetDateTime::now_utc() - Duration::from_secs(60), ..pump_leaf() });
    assert!(rig.is_turned_away(&others), "another authority's");
    assert!(rig.is_turned_away(&expired), "one that has ended");
    // One that ends while its device is connected: as a token that expires.
    let soon = OffsetDateTime::from(SystemTime::now() + Duration::from_secs(4));
    let short = rig.devices.sign(Leaf { until: soon, ..pump_leaf() });
    let (mut device, answer) = rig.knock(Some(&short), "/v1/device?boot=b", None);
    assert_eq!(answer.status, 101);
    stores(&mut device, 1);
    assert_eq!(device.expect_close(PATIENCE), Some(4201));
}
