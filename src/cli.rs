//! The command line: its flags, which scripts and charts hold on to, and what each command calls.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong flags, 69 a service cannot be reached, 78 the configuration is wrong.

#![allow(clippy::print_stderr, reason = "the command line is where output belongs")]

mod smoke;
mod topics;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};

use crate::auth::TokenAlgorithm;
use crate::auth::signing::{self, SigningKey, TokenRequest};
use crate::config::{self, Config};
use crate::dev::DevOptions;

/// The configuration is wrong (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;
/// Kafka cannot be reached (`EX_UNAVAILABLE`).
pub const EXIT_UNAVAILABLE: u8 = 69;

/// A clustered WebSocket gateway for IoT devices: an ack means stored.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything in one process with nothing installed: for trying out.
    Dev(DevArgs),
    /// A node of a cluster.
    Serve(ConfigArgs),
    /// Print a signed token.
    Token(TokenArgs),
    /// Make keys that sign tokens.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Print or make the Kafka topics.
    Topics(topics::TopicsArgs),
    /// Check the configuration and print what is in force, secrets masked.
    CheckConfig(ConfigArgs),
    /// Print the default configuration, every key explained.
    DefaultConfig,
    /// Print the JSON Schema of the configuration.
    ConfigSchema,
    /// Try a live node: connect, publish, wait for the ack.
    Smoke(smoke::SmokeArgs),
}

#[derive(Debug, Args)]
struct DevArgs {
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Listen on every address, for a board on the same network; every device then needs a token.
    #[arg(long)]
    lan: bool,
    /// Simulated devices.
    #[arg(long, default_value_t = 3)]
    devices: usize,
    /// Nodes in the process.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Make the first line of output one JSON object with the addresses and tokens.
    #[arg(long)]
    json: bool,
    /// Brokers of a real Kafka, in place of the log in memory.
    #[arg(long, value_name = "BROKERS")]
    kafka: Option<String>,
    /// What the topics' names begin with.
    #[arg(long, value_name = "P", default_value = "tidegate.")]
    topic_prefix: String,
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The TOML file; the environment (TIDEGATE_SECTION__KEY) counts over it.
    #[arg(long, env = "TIDEGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
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
        Command::Dev(args) => run_dev(args),
        Command::Serve(args) => with_config(args.config.as_deref(), run_serve),
        Command::Token(args) => finish(token(args)),
        Command::Keys(KeysCommand::New { dir, alg }) => finish(new_keys(&dir, alg)),
        Command::Topics(args) => topics::run(&args),
        Command::CheckConfig(args) => with_config(args.config.as_deref(), |config| {
            say(&config::effective_toml(&config));
            ExitCode::SUCCESS
        }),
        Command::DefaultConfig => finish(Ok(config::default_toml())),
        Command::ConfigSchema => finish(Ok(format!("{:#}\n", config::json_schema()))),
        Command::Smoke(args) => smoke::run(&args),
    }
}

fn run_dev(args: DevArgs) -> ExitCode {
    let DevArgs { listen, lan, devices, nodes, json, kafka, topic_prefix } = args;
    crate::dev::run(DevOptions { listen, lan, devices, nodes, json, kafka, topic_prefix })
}

fn run_serve(config: Config) -> ExitCode {
    crate::app::serve(config)
}

/// Reads the configuration and goes on with it, or says what is wrong.
fn with_config(file: Option<&Path>, then: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match config::load(file, environment()) {
        Ok(config) => then(config),
        Err(error) => {
            eprint!("{error}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// The environment's variables.
fn environment() -> impl Iterator<Item = (String, String)> {
    // One that is not UTF-8 cannot be one of ours and must not stop the node.
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
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
