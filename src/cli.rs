//! The command line: its flags, which scripts and charts hold on to, and what each command calls.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong flags, 3 not ended in time (`send`), 69 a service cannot be reached, 78 the
//! configuration is wrong.

#![allow(clippy::print_stderr, reason = "the command line is where output belongs")]

mod http;
#[cfg(feature = "kafka")]
mod node;
mod send;
mod smoke;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};

use crate::auth::TokenAlgorithm;
use crate::auth::signing::{self, SigningKey, TokenRequest};
use crate::dev::DevOptions;

#[cfg(feature = "kafka")]
const AFTER_HELP: &str = "";
#[cfg(not(feature = "kafka"))]
const AFTER_HELP: &str = "This build is without Kafka: `cargo build --release` makes one that can `serve`.";

/// A clustered WebSocket gateway for IoT devices: an ack means stored.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything in one process with nothing installed: for trying out.
    Dev(DevOptions),
    #[cfg(feature = "kafka")]
    #[command(flatten)]
    Node(node::NodeCommand),
    /// Print a signed token.
    Token(TokenArgs),
    /// Make keys that sign tokens.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Have a device do something, and print what became of it.
    Send(send::SendArgs),
    /// Try a live node: connect, publish, wait for the ack, send a command and answer it.
    Smoke(smoke::SmokeArgs),
}

#[derive(Debug, Args)]
struct TokenArgs {
    /// The device or application.
    #[arg(long, value_name = "ID")]
    sub: String,
    /// Its tenant.
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
    /// What it may do: device, telemetry:read, commands:write, admin. May be repeated.
    #[arg(long, value_name = "S", default_value = "device")]
    scope: Vec<String>,
    /// Devices an application narrows itself to. May be repeated.
    #[arg(long, value_name = "GLOB")]
    devices: Vec<String>,
    /// Lifetime: a number and s, m, h or d.
    #[arg(long, default_value = "1h", value_parser = parse_seconds)]
    ttl: u64,
    /// The key `tidegate keys new` made.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The token's `iss`.
    #[arg(long, default_value = "tidegate")]
    issuer: String,
    /// The token's `aud`.
    #[arg(long, default_value = "tidegate")]
    audience: String,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Write a new signing key (mode 600) and the JWKS that verifies what it signs.
    New {
        /// Where to; made if need be. Nothing in it is overwritten.
        #[arg(long)]
        dir: PathBuf,
        /// ES256, RS256, EdDSA or HS256.
        #[arg(long, default_value = "ES256", value_parser = parse_algorithm)]
        alg: TokenAlgorithm,
    },
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Dev(options) => crate::dev::run(options),
        #[cfg(feature = "kafka")]
        Command::Node(command) => node::run(command),
        Command::Token(args) => finish(token(args)),
        Command::Keys(KeysCommand::New { dir, alg }) => finish(new_keys(&dir, alg)),
        Command::Send(args) => send::run(&args),
        Command::Smoke(args) => smoke::run(&args),
    }
}

/// Prints to standard output. Whoever closed it (`| head`) has read enough, and that is no failure.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints what a command made, or why it made nothing.
fn finish(result: Result<String, String>) -> ExitCode {
    match result {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn token(args: TokenArgs) -> Result<String, String> {
    let key = SigningKey::from_pem_file(&args.key).map_err(|error| error.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| "the clock stands before 1970".to_owned())?;
    let request = TokenRequest {
        sub: args.sub,
        tenant: args.tenant,
        scopes: args.scope,
        devices: args.devices,
        ttl_s: args.ttl,
        issuer: args.issuer,
        audience: args.audience,
    };
    key.sign_token(&request, now.as_secs()).map(|token| format!("{token}\n")).map_err(|error| error.to_string())
}

fn new_keys(dir: &Path, algorithm: TokenAlgorithm) -> Result<String, String> {
    let keys = signing::generate(dir, algorithm).map_err(|error| error.to_string())?;
    Ok(format!("{}\n{}\n", keys.signing_key.display(), keys.jwks.display()))
}

fn parse_algorithm(text: &str) -> Result<TokenAlgorithm, String> {
    TokenAlgorithm::from_name(text).ok_or_else(|| "one of ES256, RS256, EdDSA, HS256".into())
}

/// Seconds of `90s`, `15m`, `12h` or `1d`; a bare number is seconds.
fn parse_seconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("a number and s, m, h or d: 90s, 15m, 12h, 1d".into()),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    seconds.filter(|seconds| *seconds > 0).ok_or_else(|| "a number above 0 and s, m, h or d: 90s, 15m, 12h".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_do_not_contradict_one_another() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lifetimes_are_read_with_their_unit() {
        assert_eq!(parse_seconds("90"), Ok(90));
        assert_eq!(parse_seconds("12h"), Ok(43_200));
        for bad in ["", "h", "0s", "1w", "-1h", "99999999999999999999h"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scopes_and_devices_may_be_repeated() {
        let line = "tidegate token --sub ops --scope admin --scope commands:write --devices a-* --key k.pem";
        let Command::Token(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else { unreachable!() };
        assert_eq!((args.scope.as_slice(), args.ttl), (&["admin".to_owned(), "commands:write".to_owned()][..], 3_600));
    }
}
