//! "Ack means stored", on a real Kafka: 200 devices keep sending while the broker is frozen, killed and restarted, and
//! while producers fail for good. What they were told is then held against what lies in the topic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

#[path = "stored/checker.rs"]
mod checker;
#[path = "stored/library.rs"]
mod library;
#[path = "support/support.rs"]
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use library::Library;
use support::fleet::{Fleet, Load};
use support::gateway::Gateway;
use support::kafka::{self, Broker};
use support::ledger::Verdict;
use support::{sign, wait_until};
use tidegate::auth::signing::SigningKey;

const TENANT: &str = "acme";
const DEVICES: usize = 200;
const WINDOW: usize = 64;

/// Updates that each test has acked at least: those about Kafka together 10^5.
const FROZEN_ACKED: usize = 20_000;
const KILLED_ACKED: usize = 45_000;
const REPLACED_ACKED: usize = 35_000;
const CRASHED_ACKED: usize = 12_000;
const LEFT_ACKED: usize = 12_000;
const _: () = assert!(FROZEN_ACKED + KILLED_ACKED + REPLACED_ACKED >= 100_000);

/// What the promise says about the first `pause` and the first `ack`, and what is asserted: several times as much, since
/// a debug build on a busy machine is no place to measure. What was measured is printed.
const PROMISED: Duration = Duration::from_secs(2);
const ASSERTED: Duration = Duration::from_secs(8);
/// After a crash Kafka has to read its log first.
const RECOVERY: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(120);

/// A device that measures something now and then, and does not listen.
const HEEDLESS: Load = Load { every: Duration::from_millis(250), bytes: 1_024, heeds: false };
/// A device that sends whatever TCP takes.
const FLOOD: Load = Load { every: Duration::ZERO, bytes: 4_096, heeds: false };
/// A device that keeps its window full and to the protocol.
const BUSY: Load = Load { every: Duration::ZERO, bytes: 120, heeds: true };

/// Each test has a broker, a node and 200 devices: one at a time, or their times say nothing.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fleet_of(gateway: &Gateway) -> Fleet {
    let key = SigningKey::from_pem_file(&gateway.dir().join("signing-key.pem")).unwrap();
    Fleet::start(gateway.public_addr(), TENANT, DEVICES, |device| sign(&key, device, TENANT, &["device"]))
}

/// Has more updates acked until there are `acked`, and waits until nothing is unacked.
fn settle(fleet: &Fleet, acked: usize) {
    fleet.send(BUSY);
    fleet.wait_acked(acked.saturating_sub(fleet.acked()), PATIENCE);
    fleet.rest();
    fleet.wait_settled(PATIENCE);
}

/// What holds whatever happened to Kafka: nothing refused, everything sent is acked, stored, in order and unchanged.
fn assert_kept(what: &str, verdict: &Verdict, acked: usize, most_repeats: usize) {
    eprintln!("{what}: {verdict}");
    verdict.assert_clean();
    assert_eq!(verdict.refused, 0, "{what}: an outage is no device's fault");
    assert_eq!((verdict.sent, verdict.sent), (verdict.acked, verdict.stored), "{what}: what was taken is stored");
    assert!(verdict.acked >= acked, "{what}: only {} were acked", verdict.acked);
    assert!(verdict.most_repeats <= most_repeats, "{what}: more than a window repeated for each fault");
}

#[test]
fn a_frozen_kafka_pauses_every_device_and_loses_nothing() {
    freeze(Duration::from_secs(20));
}

#[test]
#[ignore = "takes three minutes: `make test-chaos`"]
fn a_kafka_frozen_for_two_minutes_loses_nothing() {
    freeze(Duration::from_secs(120));
}

fn freeze(time: Duration) {
    let _alone = alone();
    let broker = Broker::start();
    // Less than what 200 full windows of 4 KiB messages would hold, so that the budget is what stops the reading.
    let (budget, parked) = (32 << 20, 24 << 20);
    let gateway = Gateway::build()
        .brokers(&broker.brokers())
        .set("limits.node_budget_bytes", &budget.to_string())
        .set("limits.tenant_budget_bytes", &budget.to_string())
        .set("limits.parked_bytes", &parked.to_string())
        .start();
    let fleet = fleet_of(&gateway);
    let began = Instant::now();
    fleet.send(HEEDLESS);
    fleet.wait_each_acked(began, PATIENCE);
    let before_kib = gateway.process.rss_kib();

    broker.freeze();
    let frozen = Instant::now();
    let paused = fleet.each_told(true, frozen, ASSERTED);
    eprintln!("frozen: the last of {DEVICES} was told to pause after {paused:?} ({PROMISED:?} promised)");
    fleet.send(FLOOD);
    let most_kib = watch(&gateway, frozen + time);
    // What Kafka had answered before it froze may still have been on its way.
    let acks = fleet.acks_between(frozen + Duration::from_secs(1), Instant::now());
    assert_eq!(acks, 0, "acked while Kafka was frozen");
    assert_eq!(fleet.ends(), Vec::<String>::new(), "a lost Kafka closes no socket");
    let (held, grown_kib) = (fleet.unacked(), most_kib.saturating_sub(before_kib));
    eprintln!("frozen: {held} updates held, {before_kib} KiB before, {grown_kib} KiB more at most");
    assert!(held > DEVICES * WINDOW / 2, "the devices did not send on");
    let budget_kib = (budget + parked) / 1_024;
    assert!(grown_kib <= budget_kib, "{grown_kib} KiB grown, {budget_kib} KiB budgeted");

    fleet.rest();
    broker.thaw();
    let thawed = Instant::now();
    let first = fleet.first_ack_after(thawed, ASSERTED);
    let resumed = fleet.each_told(false, thawed, PATIENCE);
    eprintln!("thawed: the first ack after {first:?} ({PROMISED:?} promised), all told to resume after {resumed:?}");
    settle(&fleet, FROZEN_ACKED);
    assert_eq!(fleet.ends(), Vec::<String>::new(), "a Kafka that is back closes no socket");
    let verdict = fleet.leave().check(&gateway.records("telemetry"));
    assert_kept("frozen", &verdict, FROZEN_ACKED, WINDOW);
}

/// Until `end`: the node stays ready, and how large it gets, in KiB.
fn watch(gateway: &Gateway, end: Instant) -> u64 {
    let mut most = 0;
    while Instant::now() < end {
        most = most.max(gateway.process.rss_kib());
        let (status, body) = gateway.internal("/readyz");
        assert_eq!(status, 200, "a Kafka that everybody lost makes no node unready: {body}");
        std::thread::sleep(Duration::from_millis(250));
    }
    most
}

#[test]
fn a_kafka_killed_under_load_and_restarted_on_its_data_loses_nothing() {
    const KILLS: usize = 3;
    let _alone = alone();
    let mut broker = Broker::start();
    let gateway = Gateway::build().brokers(&broker.brokers()).start();
    let fleet = fleet_of(&gateway);
    fleet.send(BUSY);
    for kill in 1..=KILLS {
        fleet.wait_acked(KILLED_ACKED / (KILLS + 1), PATIENCE);
        broker.kill();
        assert_eq!(gateway.internal("/readyz").0, 200, "a Kafka that everybody lost makes no node unready");
        broker.restart();
        let first = fleet.first_ack_after(Instant::now(), RECOVERY);
        eprintln!("killed, {kill} of {KILLS}: the first ack {first:?} after Kafka answered again");
    }
    settle(&fleet, KILLED_ACKED);
    assert_eq!(fleet.ends(), Vec::<String>::new(), "a crash of Kafka closes no socket");
    let verdict = fleet.leave().check(&gateway.records("telemetry"));
    assert_kept("killed", &verdict, KILLED_ACKED, KILLS * WINDOW);
}

#[test]
fn a_node_that_crashes_under_load_loses_nothing_it_acked() {
    const CRASHES: usize = 2;
    let _alone = alone();
    let broker = Broker::start();
    let mut gateway = Gateway::build().brokers(&broker.brokers()).start();
    let fleet = fleet_of(&gateway);
    fleet.send(BUSY);
    for crash in 1..=CRASHES {
        fleet.wait_acked(CRASHED_ACKED / (CRASHES + 1), PATIENCE);
        // So that there is much which the node holds and Kafka does not have.
        broker.freeze();
        std::thread::sleep(Duration::from_millis(300));
        gateway.process.kill();
        broker.thaw();
        gateway.start_again();
        let first = fleet.first_ack_after(Instant::now(), RECOVERY);
        eprintln!("crashed, {crash} of {CRASHES}: an ack {first:?} after the node was ready again");
    }
    settle(&fleet, CRASHED_ACKED);
    let verdict = fleet.leave().check(&gateway.records("telemetry"));
    assert_kept("crashed", &verdict, CRASHED_ACKED, CRASHES * WINDOW);
}

/// Every other device asks to be dropped without a close frame, as those do that would never come back after one.
#[test]
fn a_node_told_to_leave_under_load_acks_what_it_took_and_tells_every_device() {
    const LEAVES: usize = 2;
    let _alone = alone();
    let mut gateway = Gateway::start();
    let key = SigningKey::from_pem_file(&gateway.dir().join("signing-key.pem")).unwrap();
    let query = |number| if number % 2 == 0 { "" } else { "&close=drop" };
    let fleet = Fleet::start_asking(gateway.public_addr(), TENANT, DEVICES, query, |device| {
        sign(&key, device, TENANT, &["device"])
    });
    fleet.send(BUSY);
    for leave in 1..=LEAVES {
        fleet.wait_acked(LEFT_ACKED / (LEAVES + 1), PATIENCE);
        let began = Instant::now();
        assert_eq!(gateway.sigterm_and_wait(PATIENCE), Some(0), "a node that is told to leave does");
        eprintln!("left, {leave} of {LEAVES}: within {:?}", began.elapsed());
        // Not what the next node makes good: what was acked by now is stored by now.
        fleet.ledger().check(&gateway.records("telemetry")).assert_clean();
        gateway.start_again();
        // Whoever is not back yet would not be told by the next one to leave.
        fleet.wait_each_acked(Instant::now(), PATIENCE);
    }
    settle(&fleet, LEFT_ACKED);
    for (number, mut ends) in fleet.ends_of_each().into_iter().enumerate() {
        // Who came back while the node was not there.
        ends.retain(|end| !end.starts_with("not connected"));
        let end = if query(number).is_empty() { "closed with 1012" } else { "ended without a close" };
        let told = format!("{end} after a goaway");
        assert!(ends.len() >= LEAVES && ends.iter().all(|end| *end == told), "device {number}: {ends:?}");
    }
    let verdict = fleet.leave().check(&gateway.records("telemetry"));
    assert_kept("left", &verdict, LEFT_ACKED, 0);
}

#[test]
fn producers_that_fail_for_good_are_replaced_and_lose_nothing() {
    const FAILURES: usize = 4;
    let _alone = alone();
    let (broker, prefix) = (Broker::start(), kafka::new_prefix());
    kafka::create_topics(&broker.brokers(), &prefix);
    let library = Library::start(&broker.brokers(), &prefix);
    let fleet = Fleet::start(library.addr, TENANT, DEVICES, |device| sign(&library.key, device, TENANT, &["device"]));
    fleet.send(BUSY);
    for failure in 1..=FAILURES {
        fleet.wait_acked(REPLACED_ACKED / (FAILURES + 1), PATIENCE);
        // Every other one fails with all its records on the wire and unanswered.
        let frozen = failure % 2 == 0;
        if frozen {
            broker.freeze();
            fleet.each_told(true, Instant::now(), ASSERTED);
        }
        let (before, began) = (library.log.replacements(), Instant::now());
        library.log.replace_producer("the test asks for it");
        if frozen {
            std::thread::sleep(PROMISED);
            broker.thaw();
        }
        let first = fleet.first_ack_after(Instant::now(), RECOVERY);
        wait_until("the producers are replaced", ASSERTED, || library.log.replacements() >= before + 3);
        eprintln!("replaced, {failure} of {FAILURES}, frozen: {frozen}: {:?}, then an ack {first:?}", began.elapsed());
    }
    settle(&fleet, REPLACED_ACKED);
    assert_eq!(fleet.ends(), Vec::<String>::new(), "a failed producer closes no socket");
    let ledger = fleet.leave();
    assert_eq!(library.stop(), 0, "nothing is left behind");
    let verdict = ledger.check(&kafka::read_all(&broker.brokers(), &format!("{prefix}telemetry")));
    assert_kept("replaced", &verdict, REPLACED_ACKED, FAILURES * WINDOW);
}
