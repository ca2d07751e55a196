//! The command line and the examples, as users run them, against a device that answers.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use super::rig::Rig;

const DEVICE: &str = "lamp-1";

/// A node with a device that does what it is told, and gives the params back; `jam` it cannot do.
async fn with_device() -> Rig {
    let rig = Rig::start().await;
    let mut device = rig.device("acme", DEVICE).await;
    tokio::spawn(async move {
        while let Ok(text) = device.receive_text().await {
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["type"] == "command" {
                let status = if message["name"] == "jam" { "failed" } else { "succeeded" };
                let ack = json!({"type": "ack", "id": message["id"], "status": status, "result": message["params"]});
                device.send_text(&ack.to_string()).await.unwrap();
            }
        }
    });
    rig.ring(DEVICE);
    rig
}

/// Runs a program to its end beside the node.
async fn run(mut command: Command) -> Output {
    let done = tokio::task::spawn_blocking(move || command.output().expect("the program is there"));
    tokio::time::timeout(Duration::from_secs(60), done).await.expect("it ends").unwrap()
}

fn tidegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments);
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_sent_from_the_command_line_and_its_end_is_the_exit_code() {
    let rig = with_device().await;
    let (url, app) = (format!("http://{}", rig.public), rig.app("acme"));
    let send = |arguments: &[&str]| run(tidegate(&[&["send"], arguments, &["--url", &url, "--token", &app]].concat()));
    let done = send(&[DEVICE, "set", r#"{"level": 7}"#, "--wait", "20s"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((answer["state"].as_str(), &answer["result"]), (Some("succeeded"), &json!({ "level": 7 })));
    assert_eq!(send(&[DEVICE, "jam", "--wait", "20s"]).await.status.code(), Some(1));
    let absent = send(&["absent", "set", "--wait", "1s", "--key", "k"]).await;
    assert_eq!(absent.status.code(), Some(3), "{}", text(&absent));
    let other = send(&["absent", "other", "--key", "k"]).await;
    assert_eq!((other.status.code(), text(&other).contains("409")), (Some(1), true));
    for wrong in [&["a/b", "set"][..], &[DEVICE, "set", "{"], &[DEVICE, "set", "--wait", "56s"]] {
        let refused = send(wrong).await;
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    }
    let nobody = run(tidegate(&["send", DEVICE, "set", "--url", "http://127.0.0.1:1", "--token", &app])).await;
    assert_eq!(nobody.status.code(), Some(69), "{}", text(&nobody));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smoke_test_sends_itself_a_command_and_answers_it() {
    let rig = Rig::start().await;
    rig.ring("smoker");
    let (url, app) = (format!("ws://{}", rig.public), rig.app("acme"));
    let token = rig.token_for("smoker", "acme", &["device"], &[]);
    let smoke = |app: &str| run(tidegate(&["smoke", "--url", &url, "--token", &token, "--app-token", app]));
    let done = smoke(&app).await;
    assert!(done.status.success() && text(&done).contains("ok       command"), "{}", text(&done));
    let weak = rig.token_for("c", "acme", &["telemetry:read"], &[]);
    let refused = smoke(&weak).await;
    assert!(!refused.status.success() && text(&refused).contains("commands:write"), "{}", text(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_command_a_device_and_tell_what_became_of_it() {
    let rig = with_device().await;
    let (url, app) = (format!("http://{}", rig.public), rig.app("acme"));
    let directory: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/command");
    for (program, file) in [("bash", "command.sh"), ("python3", "command.py"), ("node", "command.js")] {
        let example = |arguments: &[&str]| {
            let mut command = Command::new(program);
            command.arg(directory.join(file)).args([url.as_str(), &app]).args(arguments);
            run(command)
        };
        let done = example(&[DEVICE]).await;
        assert!(done.status.success(), "{file}: {}", text(&done));
        let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!((answer["name"].as_str(), &answer["result"]), (Some("blink"), &json!({ "times": 3 })), "{file}");
        let failed = example(&[DEVICE, "jam", "1"]).await;
        assert_eq!(failed.status.code(), Some(1), "{file}: {}", text(&failed));
        let refused = example(&["a%2Fb"]).await;
        assert!(refused.status.code() == Some(1) && text(&refused).contains("400"), "{file}: {}", text(&refused));
    }
}
