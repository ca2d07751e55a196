//! `tidegate smoke`: tries a live node from outside, as a device would, and says how long each step took.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::http::{Api, Order};
use crate::socket::client::{Client, ClientError};

/// How long each step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of `tidegate smoke`.
#[derive(Debug, Args)]
pub(super) struct SmokeArgs {
    /// The node: `wss://host/v1/device`; without a path `/v1/device` is asked for.
    #[arg(long)]
    url: String,
    /// A device's token.
    #[arg(long, env = "TIDEGATE_SMOKE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// An application's token with `commands:write`: with it a command is sent through the API, and answered.
    #[arg(long, env = "TIDEGATE_SMOKE_APP_TOKEN", hide_env_values = true)]
    app_token: Option<String>,
    /// The API, where it has a port of its own: `https://host`.
    #[arg(long, value_name = "URL")]
    api_url: Option<String>,
    /// An authority to trust besides the system's, a PEM file.
    #[arg(long, value_name = "FILE")]
    ca: Option<std::path::PathBuf>,
}

/// Runs all steps; the first that fails ends it.
pub(super) fn run(args: &SmokeArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(steps(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("failed   {text}");
            ExitCode::FAILURE
        }
    }
}

async fn steps(args: &SmokeArgs) -> Result<(), String> {
    let url = device_url(&args.url);
    let mut client = step("connect", Client::connect(&url, args.token.as_deref(), args.ca.as_deref())).await?;
    let welcome = step("welcome", receive(&mut client, "welcome")).await?;
    super::say(&format!("         session {} of {}\n", text_of(&welcome, "session"), text_of(&welcome, "device_id")));
    let update = json!({"type": "update", "name": "smoke", "seq": 1, "value": true}).to_string();
    step("publish", client.send_text(&update)).await?;
    let ack = step("ack", receive(&mut client, "ack")).await?;
    if ack.get("seq").and_then(Value::as_u64) != Some(1) {
        return Err(format!("ack: expected seq 1, got {ack}"));
    }
    if let Some(token) = &args.app_token {
        let api = Api::new(args.api_url.as_deref().unwrap_or(&args.url), token, args.ca.as_deref())?;
        step("command", command(&api, &mut client, text_of(&welcome, "device_id"))).await?;
    }
    step("close", client.close()).await
}

/// Runs one step within its time and prints how long it took.
async fn step<T>(name: &str, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, String> {
    let start = Instant::now();
    let done = tokio::time::timeout(STEP_TIMEOUT, work).await;
    let result = done.map_err(|_| format!("{name}: nothing within {STEP_TIMEOUT:?}"))?;
    let value = result.map_err(|error| format!("{name}: {error}"))?;
    super::say(&format!("ok       {name:<8} {:>9.3} ms\n", start.elapsed().as_secs_f64() * 1e3));
    Ok(value)
}

/// Has the API send this device a command, answers it, and looks whether the API has the answer.
async fn command(api: &Api, client: &mut Client, device: &str) -> Result<(), ClientError> {
    let said = format!("{:016x}", fastrand::u64(..));
    let order = Order { name: "smoke", params: &Value::String(said.clone()).to_string(), ttl_s: 10, wait_s: Some(10) };
    let asked = async {
        let answer = api.send(device, &order, &format!("smoke-{said}")).await;
        answer.map_err(|error| ClientError::Unexpected(error.to_string()))
    };
    let answered = async {
        loop {
            let command = receive(client, "command").await?;
            let is_ours = command.get("params").and_then(Value::as_str) == Some(&said);
            let status = if is_ours { "succeeded" } else { "rejected" };
            let id = text_of(&command, "id");
            let ack = json!({"type": "ack", "id": id, "status": status, "result": said});
            client.send_text(&ack.to_string()).await?;
            if is_ours {
                return Ok(());
            }
        }
    };
    let (answer, ()) = tokio::try_join!(asked, answered)?;
    match (answer.get("state").and_then(Value::as_str), answer.get("result").and_then(Value::as_str)) {
        (Some("succeeded"), Some(result)) if result == said => Ok(()),
        _ => Err(ClientError::Unexpected(answer.to_string())),
    }
}

/// The next message of a type; `refused` and `error` end the wait.
async fn receive(client: &mut Client, wanted: &str) -> Result<Value, ClientError> {
    loop {
        let text = client.receive_text().await?;
        let message: Value = serde_json::from_str(&text).map_err(|_| ClientError::Unexpected(text.clone()))?;
        match message.get("type").and_then(Value::as_str) {
            Some(kind) if kind == wanted => return Ok(message),
            Some("refused" | "error") => return Err(ClientError::Unexpected(text)),
            _ => {}
        }
    }
}

fn text_of<'a>(message: &'a Value, field: &str) -> &'a str {
    message.get(field).and_then(Value::as_str).unwrap_or("?")
}

/// The URL with the devices' path where it has none.
fn device_url(url: &str) -> String {
    let bare = url.split_once("://").is_some_and(|(_, rest)| !rest.trim_end_matches('/').contains('/'));
    if bare { format!("{}/v1/device", url.trim_end_matches('/')) } else { url.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::device_url;

    #[test]
    fn a_url_without_a_path_gets_the_devices_one() {
        assert_eq!(device_url("wss://host:1/"), "wss://host:1/v1/device");
        assert_eq!(device_url("wss://host:1"), "wss://host:1/v1/device");
        assert_eq!(device_url("ws://host/v1/device?boot=x"), "ws://host/v1/device?boot=x");
    }
}
