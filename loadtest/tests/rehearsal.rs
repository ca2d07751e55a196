//! The rehearsal of a rollout in its short form: one of three nodes behind HAProxy is replaced under load.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "this is test code")]

use std::process::Command;

use serde_json::Value;

#[test]
fn a_node_that_is_replaced_under_load_costs_nothing_that_was_acked() {
    let Ok(brokers) = std::env::var("TIDEGATE_TEST_KAFKA") else {
        println!("skipped: TIDEGATE_TEST_KAFKA is not set; tests/run sets it");
        return;
    };
    let redis = std::env::var("TIDEGATE_TEST_REDIS").expect("tests/run sets it beside Kafka");
    let out = tempfile::tempdir().unwrap();
    let rehearsed = Command::new(env!("CARGO_BIN_EXE_rehearse"))
        .args(["--quick", "--kafka", &brokers, "--redis", &redis, "--out"])
        .arg(out.path())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&rehearsed.stdout), String::from_utf8_lossy(&rehearsed.stderr));
    assert!(rehearsed.status.success(), "{text}");
    let report: Value = serde_json::from_slice(&std::fs::read(out.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(report["passed"], true, "{text}");
    let left_out = report["checks"].as_array().unwrap().iter().filter(|check| check["holds"].is_null()).count();
    assert_eq!(left_out, 1, "only the nodes' shares are not judged: {text}");
    assert!(out.path().join("load/report.html").exists());
}
