//! Applications that command devices over HTTP, through whatever node, and write down what they asked and were told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::devices::{Places, any_place};
use super::history::{Event, Recorder, now_us};

/// The application's id.
pub const APPLICATION: &str = "console";
const ANSWER: Duration = Duration::from_secs(5);

/// How a command's device is to behave: the commands' names.
const NAMES: &[&str] = &["blink", "blink", "blink", "blink", "slow", "twice", "fail", "reject", "mute"];

/// A request on a connection of its own: status and body; status 0 where there was no answer.
pub async fn http(
    addr: SocketAddr,
    (method, path): (&str, &str),
    token: &str,
    key: Option<&str>,
    body: Option<&Value>,
) -> (u16, Value) {
    let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
    let body = body.map(Value::to_string).unwrap_or_default();
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n{key}\
         {kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let asked = async {
        let mut stream = TcpStream::connect(addr).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1)?.parse().ok()?;
        let (_, body) = text.split_once("\r\n\r\n")?;
        Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
    };
    timeout(ANSWER, asked).await.ok().flatten().unwrap_or((0, Value::Null))
}

/// What was asked for: device, key, id where there was one, time to live in milliseconds.
type Known = (String, String, Option<String>, u64);

/// Who has tokens and a memory of what was asked for.
pub struct Caller {
    recorder: Arc<Recorder>,
    places: Places,
    /// A token for each tenant.
    tokens: Vec<(String, String)>,
    devices: Vec<String>,
    calls: AtomicU64,
    known: Mutex<Vec<Known>>,
    resting: AtomicBool,
}

impl Caller {
    /// Of applications with these tokens, by tenant, for these devices, each `<tenant>/<device>`.
    pub fn new(
        recorder: Arc<Recorder>,
        places: Places,
        tokens: Vec<(String, String)>,
        devices: Vec<String>,
    ) -> Arc<Self> {
        let (calls, known, resting) = (AtomicU64::new(1), Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { recorder, places, tokens, devices, calls, known, resting })
    }

    /// Commands flow from now on, until [`rest`](Self::rest).
    pub fn begin(self: &Arc<Self>, runtime: &Handle) -> JoinHandle<()> {
        let caller = Arc::clone(self);
        runtime.spawn(async move {
            while !caller.resting.load(Ordering::Relaxed) {
                caller.something().await;
                sleep(Duration::from_millis(fastrand::u64(20..250))).await;
            }
        })
    }

    /// No more of it.
    pub fn rest(&self) {
        self.resting.store(true, Ordering::Relaxed);
    }

    fn token(&self, tenant: &str) -> &str {
        self.tokens.iter().find(|(of, _)| of == tenant).map_or("", |(_, token)| token)
    }

    fn any_known(&self) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Something recent.
        let from = known.len().saturating_sub(20);
        (!known.is_empty()).then(|| known[fastrand::usize(from..known.len())].clone())
    }

    async fn something(&self) {
        let device = &self.devices[fastrand::usize(..self.devices.len())];
        match (fastrand::u8(..12), self.any_known()) {
            (0, Some((device, key, _, ttl_ms))) => self.submit(&device, &key, ttl_ms, false).await,
            (1 | 2, Some((device, _, Some(id), _))) => self.read(&device, &id, false).await,
            (3, Some((device, _, Some(id), _))) => self.read(&device, &id, true).await,
            // Another tenant asks for what is not its own.
            (4, Some((device, _, Some(id), _))) => self.read_as_another(&device, &id).await,
            _ => {
                let ttl_ms = [3_000, 10_000, 20_000][fastrand::usize(..3)];
                let key = format!("k{:016x}", fastrand::u64(..));
                self.submit(device, &key, ttl_ms, false).await;
            }
        }
    }

    /// Asks for a command by its key, which also says what is asked for: a repeat is the same.
    pub async fn submit(&self, device: &str, key: &str, ttl_ms: u64, probe: bool) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let sum = key.bytes().map(usize::from).sum::<usize>();
        let name = if probe { "blink" } else { NAMES[sum % NAMES.len()] };
        let max_attempts = if probe || sum % 5 > 0 { 5 } else { 1 };
        let Some(place) = any_place(&self.places) else { return };
        let body =
            json!({"name": name, "params": {"for": device}, "ttl_s": ttl_ms / 1_000, "max_attempts": max_attempts});
        self.recorder.note(Event::Submitted {
            call,
            application: APPLICATION.to_owned(),
            device: device.to_owned(),
            key: key.to_owned(),
            body: body.to_string(),
            ttl_ms,
            max_attempts,
            probe,
        });
        let (tenant, name) = device.split_once('/').expect("a tenant and a device");
        let path = format!("/v1/devices/{name}/commands");
        let (status, answer) = http(place.addr, ("POST", &path), self.token(tenant), Some(key), Some(&body)).await;
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        let id = if matches!(status, 200 | 202) { text("id") } else { None };
        self.recorder.note(Event::Replied { call, status, id: id.clone(), state: text("state") });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.push((device.to_owned(), key.to_owned(), id, ttl_ms));
    }

    async fn read(&self, device: &str, id: &str, cancel: bool) {
        let tenant = device.split('/').next().unwrap_or_default();
        self.read_as(tenant, device, id, cancel).await;
    }

    async fn read_as_another(&self, device: &str, id: &str) {
        let own = device.split('/').next().unwrap_or_default();
        if let Some((other, _)) = self.tokens.iter().find(|(tenant, _)| tenant != own) {
            self.read_as(other, device, id, false).await;
        }
    }

    async fn read_as(&self, tenant: &str, device: &str, id: &str, cancel: bool) -> Option<(u16, String)> {
        let place = any_place(&self.places)?;
        let (_, name) = device.split_once('/').expect("a tenant and a device");
        let path = format!("/v1/devices/{name}/commands/{id}");
        let method = if cancel { "DELETE" } else { "GET" };
        let asked_us = now_us();
        let (status, answer) = http(place.addr, (method, &path), self.token(tenant), None, None).await;
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        // A refusal to cancel (409) says nothing that could be judged.
        let state = text("state").filter(|_| status == 200);
        self.recorder.note(Event::Read {
            tenant: tenant.to_owned(),
            device: device.to_owned(),
            id: id.to_owned(),
            asked_us,
            cancel,
            status,
            state: state.clone(),
            version: answer["version"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_default(),
            reason: text("reason"),
        });
        Some((status, state.unwrap_or_default()))
    }

    /// Reads every command that was ever taken until it has ended, or is not there, or `patience` is over. Gives the ids
    /// of those that have ended.
    pub async fn read_all(&self, patience: Duration) -> Vec<String> {
        let mut ended = Vec::new();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut left: Vec<_> = known.into_iter().filter_map(|(device, _, id, _)| Some((device, id?))).collect();
        left.sort();
        left.dedup();
        let end = tokio::time::Instant::now() + patience;
        loop {
            let mut still = Vec::new();
            for (device, id) in left {
                let tenant = device.split('/').next().unwrap_or_default().to_owned();
                match self.read_as(&tenant, &device, &id, false).await {
                    Some((200, state)) if super::checker::is_terminal(&state) => ended.push(id),
                    Some((404, _)) => {}
                    _ => still.push((device, id)),
                }
            }
            left = still;
            if left.is_empty() || tokio::time::Instant::now() > end {
                return ended;
            }
            sleep(Duration::from_secs(2)).await;
        }
    }
}
