//! A command from its caller through another node to its device and back, beside one round trip over loopback.
//!
//! What a round trip takes depends on how long the two cores slept before it: back to back it is a third of what it is when
//! one is made every two milliseconds, since a core that just worked wakes up sooner and has everything in its caches. Commands
//! come one after another but wait for many hops, so that the round trips they are held against are made as far apart as they are:
//! each begins as long after the one before as a command took. The back-to-back figure stands in the note.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::super::BenchError;
use super::super::peers::{Bench, Peer};
use super::super::report::{Pair, Row, Rule, Spread};
use super::super::servers::{Server, free_address};
use crate::client::{Device, DeviceError, DeviceOptions};
use crate::telemetry::{device_id, unix_ms};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Round trips may be this far apart at most, so that a slow build's baseline does not take for ever.
const LONGEST_GAP: Duration = Duration::from_millis(20);

/// Bytes of a command's request and of the answer to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sizes {
    request: usize,
    answer: usize,
}

impl Bench {
    /// Caller to one node, by HTTP with `wait_s`; that node to the other, where the device is; and all the way back.
    pub(super) fn command(&self) -> Result<Vec<Row>, BenchError> {
        let count = if self.quick { 300 } else { 3_000 };
        let (mut median, mut tail, mut busy) = (Pair::default(), Pair::default(), Vec::new());
        let mut sizes = Sizes::default();
        for _ in 0..self.few_rounds() {
            let commands;
            (commands, sizes) = self.commands(count)?;
            median.ours.push(ms(&commands, 0.5));
            tail.ours.push(ms(&commands, 0.99));
            let gap = Duration::from_micros(commands.value_at_quantile(0.5)).min(LONGEST_GAP);
            let echoes = self.echoes(count, sizes, gap)?;
            median.baseline.push(ms(&echoes, 0.5));
            tail.baseline.push(ms(&echoes, 0.99));
            busy.push(ms(&self.echoes(count, sizes, Duration::ZERO)?, 0.5));
        }
        let note = format!(
            "one at a time, each by HTTP over a connection of its own, to a device on the other node; both nodes on one core, the \
             rest on the others. The round trip: TCP between two processes on the same cores, blocking reads, {} bytes there and {} \
             back, as far apart as the commands are; back to back its p50 is {:.3} ms",
            sizes.request,
            sizes.answer,
            Spread::of(&busy).median
        );
        let row = |name, pair, bound| {
            Row::new(name, "loopback round trip", "ms", pair, Rule::RatioAtMost(bound)).noted(note.clone())
        };
        Ok(vec![row("command_round_trip_p50", &median, 5.0), row("command_round_trip_p99", &tail, 15.0)])
    }

    /// Round trips to a process on the nodes' core, each begun `gap` after the one before began, or at once where that took longer.
    fn echoes(&self, count: usize, sizes: Sizes, gap: Duration) -> Result<Histogram<u64>, BenchError> {
        let address = free_address()?;
        let words = [address.to_string(), sizes.request.to_string(), sizes.answer.to_string()];
        let mut server = Server::start(&self.bins.join("tcp-echo"), &words, &self.dir.join("tcp-echo.log"))?;
        server.wait_for(address)?;
        let mut stream = TcpStream::connect(address).map_err(BenchError::io("connecting to tcp-echo"))?;
        stream.set_nodelay(true).map_err(BenchError::io("TCP_NODELAY"))?;
        let (request, mut answer) = (vec![b'a'; sizes.request], vec![0; sizes.answer]);
        let mut due = Instant::now();
        measured(count, |_| {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due = Instant::now() + gap;
            let begin = Instant::now();
            let done = stream.write_all(&request).and_then(|()| stream.read_exact(&mut answer));
            done.map(|()| begin.elapsed()).map_err(BenchError::io("a round trip to tcp-echo"))
        })
    }

    fn commands(&self, count: usize) -> Result<(Histogram<u64>, Sizes), BenchError> {
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
        let mut sizes = Sizes::default();
        let found = measured(count, |turn| {
            let begin = Instant::now();
            sizes = send(near.address, &caller, &name, &format!("{run}-{number}-{turn}"))?;
            Ok(begin.elapsed())
        })?;
        Ok((found, sizes))
    }
}

/// Calls `one` so many times after a tenth as many that are not counted; µs each.
fn measured(
    count: usize,
    mut one: impl FnMut(usize) -> Result<Duration, BenchError>,
) -> Result<Histogram<u64>, BenchError> {
    // What is above the bound would count as next to nothing.
    let mut found = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(BenchError::failed)?;
    for turn in 0..count + count / 10 {
        let took = one(turn)?;
        if turn >= count / 10 {
            found.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
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

/// One command, awaited; what was written and read for it.
fn send(address: SocketAddr, token: &str, device: &str, key: &str) -> Result<Sizes, BenchError> {
    let body = json!({"name": "set", "params": {"level": 3}, "ttl_s": 30, "wait_s": 10}).to_string();
    let request = format!(
        "POST /v1/devices/{device}/commands HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Idempotency-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let text = exchange(address, &request).map_err(BenchError::io("sending a command"))?;
    let status = text.get(9..12).unwrap_or_default();
    if status == "200" && text.contains("succeeded") {
        return Ok(Sizes { request: request.len(), answer: text.len() });
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
