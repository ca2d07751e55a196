//! The load tester as people run it: real processes against real gateways, its results, its exit codes and its messages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "run/world.rs"]
mod world;

use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;
use world::{Gateway, LoadTester, Scratch, kafka};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(120);

fn count(summary: &Value, name: &str) -> u64 {
    summary["counts"][name].as_u64().unwrap_or_else(|| panic!("no count {name} in {summary}"))
}

#[test]
fn a_short_run_of_steady_reports_what_happened_and_passes() {
    let gateway = Gateway::start(&[]);
    let done = LoadTester::run("steady", &gateway)
        .args(["--devices", "30", "--duration", "6s", "--rate", "5", "--threshold", "refused == 0"])
        .finish(LONG);
    assert_eq!(done.code, Some(0), "{done}");
    let summary = done.summary();
    assert_eq!(summary["passed"], true, "{done}");
    assert_eq!((summary["devices"].as_u64(), summary["workers"].as_u64()), (Some(30), Some(1)));
    assert_eq!(count(&summary, "connects"), 30);
    assert!(count(&summary, "acked") >= 60, "{summary}");
    assert_eq!(count(&summary, "acked"), count(&summary, "sent"), "all is acked at the end");
    assert!(summary["timings_ms"]["ack"]["p99"].as_f64().is_some_and(|p99| p99 > 0.0), "{summary}");
    assert!(done.out.path().join("report.html").metadata().unwrap().len() > 5_000);
    assert!(done.stdout.lines().count() > 5, "{done}");
}

#[test]
fn a_broken_threshold_is_exit_code_99_and_named() {
    let gateway = Gateway::start(&[]);
    let done = LoadTester::run("steady", &gateway)
        .args(["--devices", "5", "--duration", "3s", "--rate", "10", "--threshold", "p99(ack) < 1us"])
        .finish(LONG);
    assert_eq!(done.code, Some(99), "{done}");
    assert!(done.stdout.contains("p99(ack) < 1us"), "{done}");
}

#[test]
fn commands_reach_the_devices_and_their_answers_the_callers() {
    let gateway = Gateway::start(&[]);
    let done = LoadTester::run("commands", &gateway)
        .args(["--devices", "60", "--duration", "8s", "--threshold", "commands_failed == 0"])
        .finish(LONG);
    assert_eq!(done.code, Some(0), "{done}");
    let summary = done.summary();
    assert!(count(&summary, "commands_done") >= 3, "{summary}");
    assert_eq!(count(&summary, "commands_done"), count(&summary, "commands_asked"));
}

#[test]
fn devices_that_sleep_and_lose_their_connections_come_back() {
    let gateway = Gateway::start(&[]);
    let done = LoadTester::run("churn", &gateway)
        .args(["--devices", "40", "--duration", "10s", "--churn", "0.1", "--threshold", "refused == 0"])
        .finish(LONG);
    assert_eq!(done.code, Some(0), "{done}");
    let summary = done.summary();
    assert!(count(&summary, "reconnects") >= 5, "{summary}");
    assert!(summary["timings_ms"]["reconnect"]["count"].as_u64() >= Some(5), "{summary}");
    assert!(summary["closes"].as_object().is_some_and(serde_json::Map::is_empty), "they ended them themselves");
}

#[test]
fn bad_clients_are_seen_and_the_others_pass() {
    let gateway = Gateway::start(&[]);
    let done = LoadTester::run("bad-clients", &gateway)
        .args(["--devices", "60", "--duration", "8s", "--rate", "4", "--threshold", "acked > 50"])
        .finish(LONG);
    assert_eq!(done.code, Some(0), "{done}");
    let summary = done.summary();
    assert!(!summary["closes"].as_object().unwrap().is_empty() || count(&summary, "refused") > 0, "{summary}");
}

#[test]
fn the_ledger_finds_every_acked_message_in_kafka() {
    let Some(kafka) = kafka() else { return };
    let gateway = Gateway::start(&kafka);
    let done = LoadTester::run("mixed", &gateway)
        .args(["--devices", "60", "--duration", "12s", "--threshold", "lost == 0"])
        .args(["--kafka", &kafka[1], "--topic-prefix", &kafka[3]])
        .finish(LONG);
    assert_eq!(done.code, Some(0), "{done}");
    let ledger = &done.summary()["ledger"];
    assert!(ledger["acked"].as_u64() > Some(50), "{ledger}");
    assert_eq!(ledger["acked"], ledger["stored"], "{ledger}");
}

#[test]
fn ledgers_of_workers_are_one() {
    let Some(kafka) = kafka() else { return };
    let gateway = Gateway::start(&kafka);
    let done = LoadTester::run("churn", &gateway)
        .args(["--devices", "40", "--duration", "8s", "--rate", "5", "--workers", "2", "--threshold", "lost == 0"])
        .args(["--kafka", &kafka[1], "--topic-prefix", &kafka[3]])
        .finish(LONG);
    assert_eq!(done.code, Some(0), "{done}");
    let summary = done.summary();
    let ledger = &summary["ledger"];
    assert_eq!(ledger["acked"].as_u64(), Some(count(&summary, "acked")), "{summary}");
    assert_eq!(ledger["acked"], ledger["stored"], "{ledger}");
}

#[test]
fn several_workers_count_together_with_devices_of_their_own() {
    let gateway = Gateway::start(&[]);
    let done = LoadTester::run("steady", &gateway)
        .args(["--devices", "30", "--duration", "6s", "--rate", "5", "--workers", "3", "--threshold", "refused == 0"])
        .finish(LONG);
    assert_eq!(done.code, Some(0), "{done}");
    let summary = done.summary();
    assert_eq!((summary["workers"].as_u64(), count(&summary, "connects")), (Some(3), 30), "{summary}");
    assert!(count(&summary, "acked") >= 60, "{summary}");
    assert_eq!(count(&summary, "disconnects"), 0, "no two of them are the same device: {summary}");
}

#[test]
fn a_worker_that_dies_is_named_and_the_rest_reported() {
    let gateway = Gateway::start(&[]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let coordinator = LoadTester::coordinator("steady", &gateway)
        .args(["--devices", "20", "--duration", "12s", "--rate", "5", "--threshold", "refused == 0"])
        .args(["--workers", "2", "--listen", &port])
        .start();
    let worker = || LoadTester::worker(&port, &gateway).start();
    let (mut first, second) = (worker(), worker());
    coordinator.wait_for_line("p50", LONG);
    first.kill();
    let done = coordinator.end(LONG);
    assert_eq!(done.code, Some(1), "{done}");
    let summary = done.summary();
    let its_end = format!("(process {}) was lost", first.pid());
    assert!(summary["warnings"].to_string().contains(&its_end), "{summary}");
    // All thresholds hold: it did not pass all the same, and says so wherever one looks.
    assert_eq!((&summary["passed"], &summary["thresholds"][0]["holds"]), (&false.into(), &true.into()), "{summary}");
    assert!(summary["incomplete"][0].as_str().is_some_and(|why| why.contains(&its_end)), "{summary}");
    assert!(summary["verdict"].as_str().is_some_and(|why| why.contains(&its_end)), "{summary}");
    let report = std::fs::read_to_string(done.out.path().join("report.html")).unwrap();
    let last = done.stdout.lines().last().unwrap_or_default();
    for (shown, word) in [(report.as_str(), "<strong>FAILED</strong>"), (last, "FAILED  ")] {
        assert!(shown.contains(word) && shown.contains(&its_end), "{done}");
    }
    assert!(count(&summary, "acked") > 20, "{summary}");
    assert_eq!(second.end(LONG).code, Some(0));
}

#[test]
fn ctrl_c_ends_a_run_early_and_it_is_reported() {
    let gateway = Gateway::start(&[]);
    let running = LoadTester::run("steady", &gateway)
        .args(["--devices", "60", "--duration", "120s", "--rate", "20", "--threshold", "refused == 0"])
        .start();
    running.wait_for_line("p50", LONG);
    running.signal("INT");
    let done = running.end(LONG);
    assert_eq!(done.code, Some(0), "{done}");
    let summary = done.summary();
    assert_eq!(summary["cut_short"], true);
    assert!(summary["took_s"].as_f64().is_some_and(|took| took < 100.0), "{summary}");
    assert!(count(&summary, "acked") > 0, "{summary}");
}

#[test]
fn a_target_that_dies_ends_the_run_with_69_and_a_report() {
    let mut gateway = Gateway::start(&[]);
    let running = LoadTester::run("steady", &gateway)
        .args(["--devices", "60", "--duration", "120s", "--rate", "20", "--give-up", "3s"])
        .start();
    running.wait_for_line("p50", LONG);
    gateway.kill();
    let done = running.end(LONG);
    assert_eq!(done.code, Some(69), "{done}");
    assert!(done.stderr.contains("the target is gone"), "{done}");
    let summary = done.summary();
    assert!(summary["warnings"].to_string().contains("ended early"), "{done}");
    assert_eq!(summary["passed"], false, "{done}");
    assert!(summary["verdict"].as_str().is_some_and(|why| why.contains("ended early")), "{done}");
}

#[test]
fn tokens_the_gateway_does_not_take_are_exit_code_77_with_its_words() {
    let gateway = Gateway::start(&[]);
    let other = Scratch::new();
    let key = world::key_in(other.path());
    let done = LoadTester::plain("steady", &gateway)
        .args(["--devices", "5", "--signing-key", key.to_str().unwrap()])
        .finish(LONG);
    assert_eq!(done.code, Some(77), "{done}");
    assert!(done.stderr.contains("401"), "{done}");
}

#[test]
fn a_certificate_of_an_authority_that_is_not_trusted_ends_the_run_at_once_with_69() {
    let scratch = Scratch::new();
    let key = world::key_in(scratch.path());
    let target = format!("wss://localhost:{}", world::tls_server());
    let done = LoadTester::bare(["run", "steady", "--target", &target, "--devices", "5", "--duration", "120s"])
        .args(["--signing-key", key.to_str().unwrap()])
        .finish(LONG);
    assert_eq!(done.code, Some(69), "{done}");
    assert!(done.stderr.contains("certificate is not trusted") && done.stderr.contains("--ca"), "{done}");
}

#[test]
fn bad_input_is_exit_code_2_and_says_what_to_do() {
    let gateway = Gateway::start(&[]);
    let scratch = Scratch::new();
    let file = scratch.path().join("mine.toml");
    let steady = tidegate_loadtest::profile::toml_of("steady").unwrap();
    std::fs::write(&file, steady.replace("status_every_s", "status_evry_s")).unwrap();
    let cases: [(&str, &[&str], &str); 6] = [
        ("stedy", &[], "did you mean `steady`?"),
        (file.to_str().unwrap(), &[], "did you mean `status_every_s`?"),
        ("steady", &["--threshold", "p99(akc) < 1s"], "ack"),
        ("steady", &["--target", "http://127.0.0.1:1"], "ws:// in place of http://"),
        ("steady", &["--devices", "2", "--signing-key", "/nowhere.pem"], "/nowhere.pem"),
        ("steady", &["--devices", "2"], "--signing-key"),
    ];
    for (profile, flags, expected) in cases {
        let done = LoadTester::plain(profile, &gateway).args(flags.iter().copied()).finish(LONG);
        assert_eq!(done.code, Some(2), "{profile} {flags:?}: {done}");
        assert!(done.stderr.contains(expected), "{profile} {flags:?}: {done}");
    }
}

#[test]
fn nobody_at_the_target_or_at_kafka_is_exit_code_69_within_seconds() {
    let gateway = Gateway::start(&[]);
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let done = LoadTester::run("steady", &gateway).args(["--target", &format!("ws://{gone}")]).finish(LONG);
    assert_eq!(done.code, Some(69), "{done}");
    assert!(done.stderr.contains("Is the gateway listening there?"), "{done}");
    let done = LoadTester::run("steady", &gateway).args(["--kafka", &gone.to_string()]).finish(LONG);
    assert_eq!(done.code, Some(69), "{done}");
    assert!(done.stderr.contains("Kafka"), "{done}");
}

#[test]
fn profiles_are_listed_printed_and_checked() {
    let listed = LoadTester::bare(["profiles"]).finish(LONG);
    assert_eq!((listed.code, listed.stdout.lines().count()), (Some(0), 16), "{listed}");
    let printed = LoadTester::bare(["profile", "fleet"]).finish(LONG);
    assert_eq!(printed.code, Some(0));
    let scratch = Scratch::new();
    let file = scratch.path().join("fleet.toml");
    std::fs::write(&file, &printed.stdout).unwrap();
    let checked = LoadTester::bare(["check", file.to_str().unwrap()]).finish(LONG);
    assert_eq!(checked.code, Some(0), "{checked}");
    std::fs::write(&file, printed.stdout.replace("dead-zone", "ded-zone")).unwrap();
    let checked = LoadTester::bare(["check", file.to_str().unwrap()]).finish(LONG);
    assert_eq!(checked.code, Some(2), "{checked}");
    assert!(checked.stderr.contains("did you mean `dead-zone`?"), "{checked}");
}
