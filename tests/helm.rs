//! The chart, the manifests made from it and the image's content, by the checks of `tests/helm/run`: that script says what
//! each part looks at, and runs any of them alone. The tools it needs (helm, kubeconform, kustomize) it builds once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

/// Runs parts of the checks with this build's gateway.
fn run(parts: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("tests/helm/run"));
    command.args(["--bin", env!("CARGO_BIN_EXE_tidegate")]).args(parts).current_dir(root);
    command.output().expect("tests/helm/run needs bash")
}

fn texts(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_chart_is_what_its_tests_and_the_schemas_of_kubernetes_say() {
    let output = run(&[]);
    let text = texts(&output);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("left out"), "a part was not run:\n{text}");
}

#[test]
fn a_part_that_nobody_knows_is_not_taken_for_a_success() {
    let output = run(&["untis"]);
    assert!(!output.status.success() && texts(&output).contains("untis"), "{}", texts(&output));
}
