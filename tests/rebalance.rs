//! New nodes get their share: real processes, a real Redis and a real Kafka, devices that go where they are told to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

#[path = "support/support.rs"]
mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use support::fleet::{Fleet, Load, WENT};
use support::gateway::{Builder, Gateway};
use support::redis::Redis;
use support::ws::RawClient;
use support::{sign, wait_until};
use tidegate::auth::signing::SigningKey;

const PATIENCE: Duration = Duration::from_secs(240);
const TENANT: &str = "acme";
const DEVICES: usize = 120;
/// A device that measures now and then and keeps to the protocol.
const CALM: Load = Load { every: Duration::from_millis(500), bytes: 150, heeds: true };

/// A node that takes small numbers seriously and waits no longer than it has to.
fn small(builder: Builder) -> Builder {
    builder.set("rebalance.minimum", "10").set("rebalance.settle_s", "10").set("rebalance.rate_per_s", "100")
}

fn fleet_over(gateways: &[&Gateway], count: usize) -> Fleet {
    let key = SigningKey::from_pem_file(&gateways[0].dir().join("signing-key.pem")).unwrap();
    let addrs: Vec<_> = gateways.iter().map(|gateway| gateway.public_addr()).collect();
    Fleet::start_over(&addrs, TENANT, count, |device| sign(&key, device, TENANT, &["device"]))
}

fn devices(gateway: &Gateway) -> usize {
    gateway.metric("tidegate_connections", &["kind=\"device\"", "state=\"open\""]) as usize
}

/// What a node has on average, as this one knows it.
fn mean(gateway: &Gateway) -> usize {
    gateway.metric("tidegate_rebalance_mean_connections", &[]) as usize
}

fn shed(gateway: &Gateway) -> usize {
    gateway.metric("tidegate_shed_total", &["reason=\"rebalance\""]) as usize
}

fn is(gateway: &Gateway, state: &str) -> bool {
    gateway.metric("tidegate_rebalance_state", &[&format!("state=\"{state}\"")]) == 1.0
}

/// Names and labels of all series.
fn series(gateway: &Gateway) -> BTreeSet<String> {
    let text = gateway.internal("/metrics").1;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

/// A device that is told to go and does not.
fn stubborn(gateway: &Gateway) -> RawClient {
    gateway.device("stubborn", "/v1/device?boot=s")
}

#[test]
fn a_node_that_joins_gets_its_share_from_those_above_the_mean_and_then_nobody_moves() {
    let redis = Redis::start();
    let a = small(Gateway::build().redis(&redis.url())).start();
    let few = series(&a);
    let (mut stays, mut closed) = (stubborn(&a), None);
    let b = small(Gateway::build().beside(&a)).start();
    let fleet = fleet_over(&[&a, &b], DEVICES);
    fleet.send(CALM);
    wait_until("both know what the other has", PATIENCE, || [&a, &b].iter().all(|node| mean(node) >= DEVICES / 2));
    let joined = Instant::now();
    let c = small(Gateway::build().beside(&a)).start();
    let nodes = [&a, &b, &c];
    // As a load balancer that prefers the emptiest. (What others do to it is tried with the scales alone.)
    fleet.spread(&[c.public_addr()]);
    // Of 121 devices 40 and a third on average, 44 with a tenth more.
    wait_until("all three have their share", PATIENCE, || {
        closed = closed.or_else(|| close_of(&mut stays));
        let counts = nodes.map(devices);
        let here = counts.iter().sum::<usize>() == DEVICES + usize::from(closed.is_none());
        here && counts.iter().all(|count| *count <= 44) && nodes.iter().all(|node| is(node, "balanced"))
    });
    eprintln!("{:?} after {:?}, {} told", nodes.map(devices), joined.elapsed(), fleet.goaways().len());
    // Who is on the way counts nowhere, so that the mean is lower while many move.
    assert!(devices(&a) >= 30 && devices(&b) >= 30, "nobody gives away much more: {:?}", nodes.map(devices));
    assert_eq!(shed(&c), 0, "it was never above the mean");
    assert!(fleet.goaways().iter().all(|(_, deadline_ms)| *deadline_ms == 30_000), "{:?}", fleet.goaways());
    assert!(fleet.goaways().len() >= 32, "as many as the third one lacked");
    for (number, ends) in fleet.ends_of_each().iter().enumerate() {
        assert!(ends.iter().all(|end| end.starts_with(WENT)), "device {number} was not left the time to go: {ends:?}");
    }
    // The first connection of the node that had too many was told first. It is closed when its time is over.
    let told = fleet.goaways().len();
    wait_until("who was told and stayed is closed", PATIENCE, || {
        closed = closed.or_else(|| close_of(&mut stays));
        closed.is_some()
    });
    assert_eq!(closed, Some(4002));
    let mut elsewhere = stubborn(&c);
    assert!(elsewhere.json(Duration::from_millis(50)).is_none(), "it is welcome there");
    assert_eq!(fleet.goaways().len(), told, "the others are left in peace");
    assert_eq!(series(&a), few, "devices make no series");
    fleet.rest();
    fleet.wait_settled(PATIENCE);
    fleet.leave().check(&a.records("telemetry")).assert_clean();
}

/// The close code of who was told to move and stayed, once it is there.
fn close_of(client: &mut RawClient) -> Option<u16> {
    while let Some(said) = client.json(Duration::from_millis(5)) {
        match said["type"].as_str() {
            Some("goaway") => assert_eq!(said["reason"], "moved"),
            Some("error") => {
                assert_eq!(said["code"], "moved");
                return client.expect_close(PATIENCE);
            }
            _ => {}
        }
    }
    None
}

#[test]
fn while_a_node_drains_nobody_is_told_to_move_and_afterwards_they_are() {
    let redis = Redis::start();
    let a = small(Gateway::build().redis(&redis.url())).start();
    let b = small(Gateway::build().beside(&a)).start();
    let mut c = small(Gateway::build().beside(&a)).set("drain.propagation_s", "600").start();
    c.process.signal("TERM");
    wait_until("the others know", PATIENCE, || is(&a, "held") && is(&b, "held"));
    let fleet = fleet_over(&[&a], 60);
    fleet.spread(&[b.public_addr()]);
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        assert!(is(&a, "held") && shed(&a) == 0, "a node drains");
        std::thread::sleep(Duration::from_millis(100));
    }
    c.process.signal("TERM");
    assert_eq!(c.process.wait(PATIENCE).code(), Some(0));
    wait_until("the two share the devices", PATIENCE, || devices(&b) >= 27 && is(&a, "balanced"));
    assert!(devices(&a) >= 30 && shed(&b) == 0, "{} and {}", devices(&a), devices(&b));
    fleet.leave();
}
