//! Applications that command devices: each command goes out when it is due, whatever became of those before it, and is
//! followed to its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::http::{Answer, HttpClient};
use super::identity::{Identities, Name, TOKEN_LIFE_S};
use super::tally::SharedTally;
use crate::figures::{Count, Timing};
use crate::ledger::Ledger;
use crate::profile::Commands;

/// Commands under way at once in one thread: one more is not sent, and counted as failed.
const AT_ONCE: usize = 2_000;
/// What is waited for an answer beyond what was asked for.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks at a command whose end has not come, and before it is asked for again.
const LOOK: Duration = Duration::from_secs(1);
/// How often a command that got no answer is asked for again, as an application would: longer than a load balancer takes
/// to find out that a node is gone.
const REPEATS: u32 = 7;

/// Callers of one thread.
pub(super) struct Caller {
    pub(super) http: HttpClient,
    pub(super) tally: SharedTally,
    pub(super) ledger: Arc<Ledger>,
    pub(super) profile: Arc<Commands>,
    pub(super) identities: Identities,
    /// Begins each idempotency key.
    pub(super) run: String,
    room: Arc<Semaphore>,
    signed: Mutex<Instant>,
}

/// One command.
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) name: Name,
    pub(super) due: Instant,
}

impl Caller {
    pub(super) fn new(
        http: HttpClient,
        tally: SharedTally,
        ledger: Arc<Ledger>,
        profile: Arc<Commands>,
        identities: Identities,
        run: String,
    ) -> Arc<Self> {
        let (room, signed) = (Arc::new(Semaphore::new(AT_ONCE)), Mutex::new(Instant::now()));
        Arc::new(Self { http, tally, ledger, profile, identities, run, room, signed })
    }

    /// How many are under way.
    pub(super) fn busy(&self) -> usize {
        AT_ONCE - self.room.available_permits()
    }

    /// Sends one command and follows it, in a task of its own.
    pub(super) fn call(self: &Arc<Self>, call: Call) {
        {
            let mut tally = self.tally.lock();
            tally.figures.count(Count::CommandsAsked, 1);
            tally.figures.time(Timing::Lateness, call.due.elapsed());
        }
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            return self.failed("command: too many under way");
        };
        self.renew();
        let caller = Arc::clone(self);
        tokio::spawn(async move {
            caller.follow(&call).await;
            drop(permit);
        });
    }

    /// Half-way through the token's life there is another.
    fn renew(&self) {
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if signed.elapsed() > Duration::from_secs(TOKEN_LIFE_S / 2)
            && let Some(Ok(token)) = self.identities.caller()
        {
            self.http.renew(&token);
            *signed = Instant::now();
        }
    }

    fn failed(&self, why: &str) {
        let mut tally = self.tally.lock();
        tally.figures.count(Count::CommandsFailed, 1);
        tally.figures.error(why);
    }

    async fn follow(&self, call: &Call) {
        match self.submit(call).await {
            Ok((id, state)) => {
                self.ledger.accepted(&call.name.tenant, &call.name.device, &id);
                match self.end(call, &id, state).await {
                    Some(state) => self.ended(call, &id, &state),
                    None => self.failed("command: no end in time"),
                }
            }
            Err(why) => self.failed(&format!("command: {why}")),
        }
    }

    /// Asks for it; its id and state. One that got no answer is asked for again with the same key.
    async fn submit(&self, call: &Call) -> Result<(String, String), String> {
        let profile = &self.profile;
        let name = &profile.names[call.number as usize % profile.names.len()];
        let params =
            json!({ "n": call.number, "fill": "x".repeat((profile.params_bytes as usize).saturating_sub(20)) });
        let body =
            json!({"name": name, "params": params, "ttl_s": profile.ttl_s, "wait_s": profile.wait_s}).to_string();
        let path = format!("/v1/devices/{}/commands", call.name.device);
        let key = format!("{}-{}", self.run, call.number);
        let within = Duration::from_secs(u64::from(profile.wait_s)) + GRACE;
        let mut repeats = 0;
        let answer = loop {
            let answer = self.http.send((Method::POST, &path), Some(&key), Some(body.clone()), within).await;
            let unheard = answer.as_ref().map_or(true, |answer| matches!(answer.status, 429 | 502 | 503 | 504));
            if !unheard || repeats == REPEATS || call.due.elapsed() > self.life() {
                break answer?;
            }
            repeats += 1;
            tokio::time::sleep(LOOK).await;
        };
        match (answer.status, read(&answer)) {
            (200 | 202, Some(read)) => Ok(read),
            (status, _) => Err(format!("refused with {status}")),
        }
    }

    /// After this a command has its end, whatever becomes of it.
    fn life(&self) -> Duration {
        Duration::from_secs(u64::from(self.profile.ttl_s).max(5)) + GRACE
    }

    /// Its last state, looked for until it can be no other any more.
    async fn end(&self, call: &Call, id: &str, mut state: String) -> Option<String> {
        let path = format!("/v1/devices/{}/commands/{id}", call.name.device);
        while !is_terminal(&state) {
            if call.due.elapsed() > self.life() {
                return None;
            }
            tokio::time::sleep(LOOK).await;
            if let Ok(answer) = self.http.send((Method::GET, &path), None, None, GRACE).await
                && let Some((_, found)) = read(&answer)
            {
                state = found;
            }
        }
        Some(state)
    }

    fn ended(&self, call: &Call, id: &str, state: &str) {
        let succeeded = state == "succeeded";
        self.ledger.ended(id, succeeded);
        let mut tally = self.tally.lock();
        tally.figures.time(Timing::Command, call.due.elapsed());
        if succeeded {
            tally.figures.count(Count::CommandsDone, 1);
        } else {
            tally.figures.count(Count::CommandsFailed, 1);
            tally.figures.error(&format!("command: {state}"));
        }
    }
}

fn is_terminal(state: &str) -> bool {
    !matches!(state, "queued" | "sent" | "received" | "running")
}

/// A command's id and state.
fn read(answer: &Answer) -> Option<(String, String)> {
    let text = |name: &str| answer.body.get(name).and_then(Value::as_str).map(str::to_owned);
    Some((text("id")?, text("state")?))
}
