//! `tidegate send`: has a device do something through the HTTP API.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::http::{Api, ApiError, Order};

/// The command has not ended within `--wait`: it goes on.
const EXIT_NOT_ENDED: u8 = 3;
/// The node cannot be reached, or cannot do it just now (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;

/// Flags of `tidegate send`.
///
/// Prints the command as the API shows it, one JSON object. Exit codes: 0 the device did it, or, without --wait, the
/// command is accepted; 1 it was refused, failed, expired or canceled; 3 it has not ended within --wait and goes on; 69 the
/// node cannot be reached or cannot take it just now: the same line again is the same command where it has a --key.
#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// The device.
    device: String,
    /// What it is to do.
    name: String,
    /// With what: JSON.
    #[arg(default_value = "null")]
    params: String,
    /// How long to wait for its end: a number and s or m, 55s at most.
    #[arg(long, value_parser = parse_ttl)]
    wait: Option<u64>,
    /// How long the command may wait for the device: a number and s, m, h or d, 7d at most; 0: now or never.
    #[arg(long, default_value = "60s", value_parser = parse_ttl)]
    ttl: u64,
    /// The command's own name: the same key is the same command, however often it is sent. One is drawn where none is given.
    #[arg(long)]
    key: Option<String>,
    /// The node, or what stands before it: `https://host`.
    #[arg(long, env = "TIDEGATE_URL")]
    url: String,
    /// An application's token with `commands:write`.
    #[arg(long, env = "TIDEGATE_APP_TOKEN", hide_env_values = true)]
    token: String,
    /// An authority to trust in place of the system's, a PEM file.
    #[arg(long, value_name = "FILE")]
    ca: Option<std::path::PathBuf>,
}

fn parse_ttl(text: &str) -> Result<u64, String> {
    if matches!(text, "0" | "0s") { Ok(0) } else { super::parse_seconds(text) }
}

/// Sends it and prints what became of it.
pub(super) fn run(args: &SendArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(send(args)) {
        Ok(answer) => {
            super::say(&format!("{answer}\n"));
            exit_code(&answer, args.wait.is_some())
        }
        Err(error) => {
            eprintln!("{error}");
            if matches!(error, ApiError::Away(_)) { ExitCode::from(EXIT_UNAVAILABLE) } else { ExitCode::FAILURE }
        }
    }
}

async fn send(args: &SendArgs) -> Result<Value, ApiError> {
    let api = Api::new(&args.url, &args.token, args.ca.as_deref()).map_err(ApiError::Wrong)?;
    let key = args.key.clone().unwrap_or_else(|| format!("send-{:032x}", fastrand::u128(..)));
    let order = Order { name: &args.name, params: &args.params, ttl_s: args.ttl, wait_s: args.wait };
    api.send(&args.device, &order, &key).await
}

fn exit_code(answer: &Value, waited: bool) -> ExitCode {
    match answer.get("state").and_then(Value::as_str) {
        Some("succeeded") => ExitCode::SUCCESS,
        Some("failed" | "rejected" | "expired" | "canceled") => ExitCode::FAILURE,
        _ if waited => ExitCode::from(EXIT_NOT_ENDED),
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_it_is_the_exit_code() {
        let code = |state: &str, waited| exit_code(&serde_json::json!({ "state": state }), waited);
        assert_eq!(code("succeeded", true), ExitCode::SUCCESS);
        assert_eq!(code("rejected", false), ExitCode::FAILURE);
        assert_eq!(code("running", true), ExitCode::from(EXIT_NOT_ENDED));
        assert_eq!(code("queued", false), ExitCode::SUCCESS);
    }

    #[test]
    fn now_or_never_is_a_time_to_live_too() {
        assert_eq!((parse_ttl("0"), parse_ttl("0s"), parse_ttl("2m")), (Ok(0), Ok(0), Ok(120)));
    }
}
