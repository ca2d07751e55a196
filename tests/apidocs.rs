//! The documents of the interfaces, by the checks of `tests/apidocs/run`: made from the code, valid by public tools, and
//! true of what a live node says. That script says what each part looks at, and runs any of them alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

/// Runs parts of the checks with this build's gateway.
fn run(parts: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("tests/apidocs/run"));
    command.args(["--bin", env!("CARGO_BIN_EXE_tidegate")]).args(parts).current_dir(root);
    command.output().expect("tests/apidocs/run needs bash")
}

fn texts(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_is_written_of_the_interfaces_is_what_goes_over_the_wire() {
    let output = run(&[]);
    let text = texts(&output);
    assert!(output.status.success(), "{text}");
    let services = ["TIDEGATE_TEST_KAFKA", "TIDEGATE_TEST_REDIS"];
    let has_services = services.iter().all(|name| std::env::var_os(name).is_some());
    assert!(!has_services || !text.contains("left out"), "a part was not run:\n{text}");
}

#[test]
fn a_part_that_nobody_knows_is_not_taken_for_a_success() {
    let output = run(&["trafic"]);
    assert!(!output.status.success() && texts(&output).contains("trafic"), "{}", texts(&output));
}
