//! The handbook and the README, by the checks of `tests/docs/run`: links lead somewhere, names exist, and what is to be run does
//! what is shown. That script says how a page marks it, and runs any part alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

/// Runs parts of the checks with this build's gateway.
fn run(parts: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("tests/docs/run"));
    command.args(["--bin", env!("CARGO_BIN_EXE_tidegate")]).args(parts).current_dir(root);
    command.output().expect("tests/docs/run needs bash")
}

fn texts(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_the_handbook_says_is_what_the_program_does() {
    let output = run(&[]);
    let text = texts(&output);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("left out"), "a part was not run:\n{text}");
}

#[test]
fn a_part_that_nobody_knows_is_not_taken_for_a_success() {
    let output = run(&["pagse"]);
    assert!(!output.status.success() && texts(&output).contains("pagse"), "{}", texts(&output));
}
