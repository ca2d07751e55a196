//! Alert rules, dashboards, runbooks and the reference of metrics, by the checks of `tests/watch/run`: that script says what
//! each part looks at, and runs any of them alone. Rules are tried by promtool, which `tests/run` installs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

/// Runs parts of the checks with this build's gateway.
fn run(parts: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("tests/watch/run"));
    command.args(["--bin", env!("CARGO_BIN_EXE_tidegate")]).args(parts).current_dir(root);
    command.output().expect("tests/watch/run needs bash")
}

fn texts(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_is_watched_exists_and_what_alerts_is_explained() {
    let output = run(&[]);
    let text = texts(&output);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("left out"), "a part was not run:\n{text}");
}

#[test]
fn a_part_that_nobody_knows_is_not_taken_for_a_success() {
    let output = run(&["rulse"]);
    assert!(!output.status.success() && texts(&output).contains("rulse"), "{}", texts(&output));
}
