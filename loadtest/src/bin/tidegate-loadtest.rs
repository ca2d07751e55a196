//! `tidegate-loadtest`: see `tidegate_loadtest::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate_loadtest::cli::main()
}
