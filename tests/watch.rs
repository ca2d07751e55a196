//! Alert rules, dashboards, runbooks and the reference of metrics, by the checks of `tests/watch/run`: that script says what
//! each part looks at, and runs any of them alone. Rules are tried by promtool, which `tests/run` installs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/checks.rs"]
mod checks;

#[test]
fn what_is_watched_exists_and_what_alerts_is_explained() {
    let (passed, text) = checks::run("watch", &[]);
    assert!(passed, "{text}");
    assert!(!text.contains("left out"), "a part was not run:\n{text}");
}

#[test]
fn a_part_that_nobody_knows_is_not_taken_for_a_success() {
    let (passed, text) = checks::run("watch", &["rulse"]);
    assert!(!passed && text.contains("rulse"), "{text}");
}
