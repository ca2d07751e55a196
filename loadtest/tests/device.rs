//! The device client against a gateway that does what it is told, against `tidegate dev`, and against `tidegate serve`, for
//! which `tests/run` has a Kafka.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

#[path = "device/behaves.rs"]
mod behaves;
#[path = "support/fake.rs"]
mod fake;
#[path = "support/gateway.rs"]
mod gateway;
#[path = "device/real.rs"]
mod real;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_loadtest::device::{
    Acked, Answer, Answered, Closed, Command, Connected, Dropped, Error, Goaway, Handle, Next, Options, Refused, Reply,
    Sent, Update, Watcher, start,
};
use tokio::sync::Notify;

const PATIENCE: Duration = Duration::from_secs(30);

/// Writes down what it is told, a word and a number each.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    changed: Arc<Notify>,
    /// How commands are answered; at once and well where nothing is set.
    answer: Option<Answer>,
}

impl Log {
    fn add(&self, line: String) {
        self.lines.lock().unwrap().push(line);
        self.changed.notify_waiters();
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// How many lines begin so.
    fn count(&self, start: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(start)).count()
    }

    /// Waits until so many lines begin so; the last of them.
    async fn wait(&self, start: &str, count: usize) -> String {
        let seen = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.count(start) >= count {
                    return self.lines().into_iter().filter(|line| line.starts_with(start)).nth(count - 1).unwrap();
                }
                changed.await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        seen.unwrap_or_else(|_| panic!("`{start}` was not told {count} times: {:#?}", self.lines()))
    }
}

impl Watcher for Log {
    fn connected(&mut self, connected: &Connected<'_>) {
        let Connected { first, deflate, unacked, .. } = connected;
        self.add(format!("connected first={first} deflate={deflate} unacked={unacked}"));
    }

    fn connect_failed(&mut self, error: &Error, next: Next) {
        self.add(format!("failed {error}; {}", if next == Next::Nothing { "gives up" } else { "tries again" }));
    }

    fn sent(&mut self, sent: &Sent<'_>) {
        assert!(sent.at >= sent.due);
        self.add(format!("sent {} repeat={}", sent.seq, sent.repeat));
    }

    fn acked(&mut self, acked: &Acked<'_>) {
        assert!(acked.at >= acked.sent && acked.sent >= acked.due && acked.digest == 40 + acked.seq);
        self.add(format!("acked {} resumed={}", acked.seq, acked.resumed));
    }

    fn refused(&mut self, refused: &Refused<'_>) {
        self.add(format!("refused {:?} {} unsent={}", refused.seq, refused.code, refused.unsent));
    }

    fn dropped(&mut self, dropped: &Dropped<'_>) {
        self.add(format!("dropped {} sent={}", dropped.seq, dropped.sent));
    }

    fn paused(&mut self, reason: &str, _: Option<Duration>) {
        self.add(format!("paused {reason}"));
    }

    fn resumed(&mut self, reason: &str) {
        self.add(format!("resumed {reason}"));
    }

    fn goaway(&mut self, goaway: &Goaway<'_>) {
        self.add(format!("goaway {}", goaway.reason));
    }

    fn command(&mut self, command: &Command<'_>) -> Answer {
        self.add(format!("command {} {} {}", command.id, command.name, command.params));
        self.answer.clone().unwrap_or(Answer::Now(Reply::with_result("{\"done\":true}")))
    }

    fn repeated(&mut self, command: &Command<'_>) {
        self.add(format!("repeated {}", command.id));
    }

    fn answered(&mut self, answered: &Answered<'_>) {
        self.add(format!("answered {} {} repeat={}", answered.id, answered.status.as_str(), answered.repeat));
    }

    fn closed(&mut self, closed: &Closed<'_>) {
        let next = match closed.next {
            Next::After(_) => "comes back",
            Next::Replaced => "replaced",
            Next::Nothing => "stays away",
        };
        self.add(format!("closed {:?} by {:?}: {}; {next}", closed.code, closed.by, closed.reason));
    }

    fn violation(&mut self, what: &str) {
        self.add(format!("violation {what}"));
    }
}

fn options(url: &str) -> Options {
    Options::new(url, "d1").unwrap()
}

/// A device and what it says.
fn device(options: Options) -> (Handle, Log) {
    let log = Log::default();
    (start(options, Box::new(log.clone())), log)
}

/// The update that gets this number.
fn update(seq: u64) -> Update {
    Update { digest: 40 + seq, due: Instant::now(), ..Update::now("temperature", format!("{{\"n\":{seq}}}")) }
}

fn give(handle: &Handle, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        assert_eq!(handle.update(update(seq)), Ok(seq));
    }
}
