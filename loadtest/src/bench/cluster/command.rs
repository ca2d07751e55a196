//! A command from its caller through another node to its device and back, beside one round trip over loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::super::BenchError;
use super::super::peers::{Bench, Peer};
use super::super::report::{Pair, Row, Rule};
use crate::client::{Device, DeviceError, DeviceOptions};
use crate::telemetry::{device_id, unix_ms};

const TIMEOUT: Duration = Duration::from_secs(20);
/// A message as long as a small command.
const ECHO_BYTES: usize = 150;

impl Bench {
    /// Caller to one node, by HTTP with `wait_s`; that node to the other, where the device is; and all the way back.
    pub(super) fn command(&self) -> Result<Vec<Row>, BenchError> {
        let count = if self.quick { 300 } else { 3_000 };
        let (mut median, mut tail) = (Pair::default(), Pair::default());
        for _ in 0..if self.quick { 1 } else { 3 } {
            let echoes = self.echoes(count)?;
            median.baseline.push(ms(&echoes, 0.5));
            tail.baseline.push(ms(&echoes, 0.99));
            let commands = self.commands(count)?;
            median.ours.push(ms(&commands, 0.5));
            tail.ours.push(ms(&commands, 0.99));
        }
        let note = "one at a time, each by HTTP over a connection of its own, to a device on the other node; both nodes on \
                    one core; the round trip is that of one WebSocket message to the bare echo";
        let row = |name, pair, bound| {
            Row::new(name, "loopback round trip", "ms", pair, Rule::RatioAtMost(bound)).noted(note.to_owned())
        };
        Ok(vec![row("command_round_trip_p50", &median, 5.0), row("command_round_trip_p99", &tail, 15.0)])
    }

    fn echoes(&self, count: usize) -> Result<Histogram<u64>, BenchError> {
        let (_server, target) = self.start(Peer::BareEcho)?;
        let mut crowd = self.crowd(&target, 1)?;
        measured(count, |_| crowd.one_each(ECHO_BYTES).map_err(BenchError::io("echoing")))
    }

    fn commands(&self, count: usize) -> Result<Histogram<u64>, BenchError> {
        let _redis = self.empty_redis()?;
        let (_a, near) = self.start_node(Peer::Gateway, "bench-a")?;
        let (_b, far) = self.start_node(Peer::Gateway, "bench-b")?;
        let number = self.take(1);
        let token = self.identity.token(number).map_err(BenchError::Failed)?;
        let boot = Some(format!("b{number}"));
        answer(DeviceOptions { address: far.address, tls: None, token: Some(token), boot })?;
        let caller = self.identity.caller().map_err(BenchError::Failed)?;
        let name = device_id(number);
        // A key of each command's own, also where the records of an earlier run are still read.
        let run = unix_ms();
        measured(count, |turn| send(near.address, &caller, &name, &format!("{run}-{number}-{turn}")))
    }
}

/// Calls `one` so many times after a tenth as many that are not counted; µs each.
fn measured(count: usize, mut one: impl FnMut(usize) -> Result<(), BenchError>) -> Result<Histogram<u64>, BenchError> {
    // What is above the bound would count as next to nothing.
    let mut found = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(BenchError::failed)?;
    for turn in 0..count + count / 10 {
        let begin = Instant::now();
        one(turn)?;
        if turn >= count / 10 {
            found.saturating_record(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX).max(1));
        }
    }
    Ok(found)
}

fn ms(found: &Histogram<u64>, quantile: f64) -> f64 {
    found.value_at_quantile(quantile) as f64 / 1_000.0
}

/// A device that answers every command at once, on a thread of its own, until its connection ends. Returns when it is
/// connected.
fn answer(options: DeviceOptions) -> Result<(), BenchError> {
    let (sender, connected) = std::sync::mpsc::sync_channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BenchError::io("starting a runtime"))?;
    thread::spawn(move || {
        runtime.block_on(async {
            match Device::connect(&options).await {
                Ok(device) => {
                    drop(sender.send(Ok(())));
                    // It ends with its server.
                    drop(answer_all(device).await);
                }
                Err(error) => drop(sender.send(Err(error.to_string()))),
            }
        });
    });
    let answer = connected.recv_timeout(TIMEOUT).map_err(BenchError::failed)?;
    answer.map_err(BenchError::Failed)
}

async fn answer_all(mut device: Device) -> Result<(), DeviceError> {
    loop {
        let message: Value = serde_json::from_str(&device.next().await?).unwrap_or_default();
        if message["type"] == "command" {
            let ack = json!({"type": "ack", "id": message["id"], "status": "succeeded", "result": message["params"]});
            device.send(&ack.to_string()).await?;
        }
    }
}

/// One command, awaited.
fn send(address: SocketAddr, token: &str, device: &str, key: &str) -> Result<(), BenchError> {
    let body = json!({"name": "set", "params": {"level": 3}, "ttl_s": 30, "wait_s": 10}).to_string();
    let request = format!(
        "POST /v1/devices/{device}/commands HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Idempotency-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let text = exchange(address, &request).map_err(BenchError::io("sending a command"))?;
    let status = text.get(9..12).unwrap_or_default();
    if status == "200" && text.contains("succeeded") {
        return Ok(());
    }
    if status == "404" || status == "405" {
        return Err(BenchError::failed("this build has no HTTP API for commands: not run"));
    }
    let end: String = text.lines().last().unwrap_or_default().chars().take(200).collect();
    Err(BenchError::failed(format!("a command was answered by {status}: {end}")))
}

fn exchange(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
