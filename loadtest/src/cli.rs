//! The command line of the load tester: its flags, which scripts hold on to, and its exit codes.
//!
//! 0: the run passed. 99: a threshold was broken, or the ledger found something. 2: wrong flags, profile or thresholds.
//! 69: the target, Kafka or the workers cannot be reached, or could not be any more. 77: the gateway takes none of the
//! tokens. 1: anything else, such as a report that could not be written or a worker that was lost. 130: told to stop twice.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command line is where output belongs")]

mod flags;
mod go;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::profile::{self, Profile, READY};
use crate::run::{WorkerSettings, work};
use flags::{CoordinatorFlags, RunFlags, WhoFlags};

/// Everything went as it should.
pub const PASSED: u8 = 0;
/// Something of this machine or of a worker.
pub const FAILED: u8 = 1;
/// The command line, the profile or a threshold.
pub const USAGE: u8 = 2;
/// Something could not be reached.
pub const UNREACHABLE: u8 = 69;
/// The gateway takes none of the tokens.
pub const UNWELCOME: u8 = 77;
/// A threshold was broken, or something was lost.
pub const BREACH: u8 = 99;
/// Told to stop twice.
pub const ABORTED: u8 = 130;

/// Thousands of simulated devices against a Tidegate, and what became of everything they sent.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate-loadtest",
    version,
    after_help = "Profiles, flags, thresholds, exit codes: docs/loadtest.md"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a profile against a gateway.
    Run(RunFlags),
    /// The same with workers that connect from other machines.
    Coordinator(CoordinatorFlags),
    /// Drive devices for a coordinator.
    Worker(WorkerFlags),
    /// List the profiles that come along.
    Profiles,
    /// Print one of them, to be changed and run as a file.
    Profile {
        /// Its name.
        name: String,
    },
    /// Say what is wrong in a profile's file.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print the JSON Schema of profiles.
    Schema,
}

#[derive(Debug, clap::Args)]
struct WorkerFlags {
    /// Where the coordinator listens.
    #[arg(long, value_name = "ADDRESS:PORT")]
    coordinator: std::net::SocketAddr,
    #[command(flatten)]
    who: WhoFlags,
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Run(flags) => go::run(&flags),
        Command::Coordinator(flags) => go::coordinate(&flags),
        Command::Worker(flags) => worker(&flags),
        Command::Profiles => {
            profiles();
            PASSED
        }
        Command::Profile { name } => print_profile(&name),
        Command::Check { file } => check(&file),
        Command::Schema => {
            println!("{:#}", profile::json_schema());
            PASSED
        }
    };
    ExitCode::from(code)
}

fn worker(flags: &WorkerFlags) -> u8 {
    let who = &flags.who;
    let settings = WorkerSettings {
        coordinator: flags.coordinator,
        credentials: who.credentials(),
        app_token: who.app_token.clone(),
        ca: who.ca.clone(),
        threads: who.threads(),
    };
    match go::block_on(work(settings)) {
        Ok(Ok(())) => PASSED,
        Ok(Err(error)) => {
            eprintln!("tidegate-loadtest: {error}");
            if error.is_unreachable() { UNREACHABLE } else { USAGE }
        }
        Err(code) => code,
    }
}

fn profiles() {
    for (name, text) in READY {
        if let Ok(profile) = Profile::parse(text, name) {
            let minutes = profile.stages_s() / 60.0;
            println!("{name:16} {} ({} devices, {minutes:.1} min)", profile.about, profile.devices);
        }
    }
}

fn print_profile(name: &str) -> u8 {
    match (profile::toml_of(name), Profile::load(name)) {
        (Some(text), _) => {
            print!("{text}");
            PASSED
        }
        (None, Err(error)) => {
            eprintln!("tidegate-loadtest: {error}");
            USAGE
        }
        (None, Ok(_)) => {
            eprintln!("tidegate-loadtest: {name} is a file, not a profile that comes along");
            USAGE
        }
    }
}

fn check(file: &std::path::Path) -> u8 {
    match Profile::load_file(file).map_err(|error| error.to_string()).and_then(|profile| {
        flags::thresholds(&profile.thresholds).map(|_| profile).map_err(|error| format!("{}: {error}", file.display()))
    }) {
        Ok(profile) => {
            let seconds = profile.stages_s();
            println!("{}: good: {} devices, {seconds} s, {}", file.display(), profile.devices, profile.about);
            PASSED
        }
        Err(error) => {
            eprintln!("{error}");
            USAGE
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_do_not_contradict_one_another() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_flags_of_the_plan_are_read() {
        let line = "tidegate-loadtest run steady --target wss://a --target wss://b --devices 50 --duration 10s --workers 2 \
                    --signing-key k.pem --issuer i --audience a --kid k --ca ca.pem --kafka b:1 --out dir \
                    --sources 127.0.0.2-127.0.0.4 --metrics 127.0.0.1:0";
        let words = line.split_whitespace().map(str::to_owned).chain(["--threshold".into(), "p99(ack) < 250ms".into()]);
        let Command::Run(flags) = Cli::try_parse_from(words).unwrap().command else { panic!("it is a run") };
        assert_eq!((flags.load.target.len(), flags.load.duration, flags.workers), (2, Some(10.0), Some(2)));
        assert_eq!(flags.load.sources.0.len(), 3);
    }

    #[test]
    fn tokens_come_from_one_place() {
        let line = "tidegate-loadtest run steady --target ws://a --signing-key k --tokens t";
        assert!(Cli::try_parse_from(line.split(' ')).is_err());
    }

    #[test]
    fn every_flag_is_in_the_handbook() {
        let book = include_str!("../../docs/loadtest.md");
        let mut command = Cli::command();
        command.build();
        for command in command.get_subcommands() {
            for flag in command.get_arguments().filter_map(clap::Arg::get_long).filter(|flag| *flag != "help") {
                assert!(book.contains(&format!("--{flag}")), "{} --{flag}", command.get_name());
            }
        }
    }

    #[test]
    fn every_profile_and_exit_code_is_in_the_handbook() {
        let book = include_str!("../../docs/loadtest.md");
        for (name, _) in READY {
            assert!(book.contains(&format!("| `{name}` |")), "{name}");
        }
        for code in [PASSED, FAILED, USAGE, UNREACHABLE, UNWELCOME, BREACH, ABORTED] {
            assert!(book.contains(&format!("| {code} |")), "{code}");
        }
    }
}
