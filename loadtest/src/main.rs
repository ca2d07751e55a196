//! The load tester's command. Profiles come with a later issue; until then this says where the benchmarks are.

use std::process::ExitCode;

#[allow(clippy::print_stderr, reason = "the command's own output")]
fn main() -> ExitCode {
    eprintln!("tidegate-loadtest has no profiles yet; `make bench` runs the benchmarks (docs/benchmarks.md)");
    ExitCode::from(64)
}
