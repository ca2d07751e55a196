//! Checks that are scripts of their own, `tests/NAME/run`, run from a test with this build's gateway.

#![allow(unreachable_pub, missing_docs, reason = "a module of tests")]

use std::path::Path;
use std::process::Command;

/// Runs parts of `tests/NAME/run`, all of them where none is named: whether they passed, and everything they said.
pub fn run(name: &str, parts: &[&str]) -> (bool, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("tests").join(name).join("run"));
    command.args(["--bin", env!("CARGO_BIN_EXE_tidegate")]).args(parts).current_dir(root);
    let output = command.output().unwrap_or_else(|error| panic!("tests/{name}/run needs bash: {error}"));
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), said.concat())
}
