//! A device from outside: updates go in, and it is told to come and go.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::Update;
use super::events::Reply;
use super::options::OnFull;

/// Answers that may wait to be taken by the device's task.
const ANSWERS: usize = 64;
/// The largest `seq`: what every JSON reader can hold.
const MAX_SEQ: u64 = (1 << 53) - 1;
/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// How a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// With a close frame, 1000.
    Close,
    /// Without a word, as when the power goes.
    Cut,
}

/// What a device does after it ended its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Comes back with the back-off.
    ComeBack,
    /// Stays away until [`Handle::connect`]; updates are kept meanwhile.
    StayAway,
}

/// Why something was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// The buffer is full: by [`OnFull::Refuse`], or because the device's task had no time to look for that long.
    #[error("the device's buffer is full")]
    Full,
    /// The device was stopped.
    #[error("the device was stopped")]
    Stopped,
    /// The value or result is not one JSON value.
    #[error("the value is not one JSON value")]
    NotJson,
    /// The name is empty or longer than 128 bytes.
    #[error("the name has to have 1 to 128 bytes")]
    Name,
    /// Its numbers are used up: 2^53 updates in one boot.
    #[error("the last `seq` is used up: begin another boot")]
    NoSeqLeft,
}

/// What waits for the device's task.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) updates: VecDeque<(u64, Update)>,
    pub(super) answers: VecDeque<(String, Reply)>,
    pub(super) disconnect: Option<(How, Then)>,
    pub(super) connect: bool,
    pub(super) stop: Option<How>,
    /// `stop` was taken: nothing more is.
    pub(super) stopped: bool,
    next_seq: u64,
    waker: Option<Waker>,
    over: bool,
}

impl Inbox {
    /// Whether nothing waits. Then `waker` is woken when something does.
    pub(super) fn is_quiet(&mut self, waker: &Waker) -> bool {
        let quiet = self.updates.is_empty()
            && self.answers.is_empty()
            && self.disconnect.is_none()
            && !self.connect
            && self.stop.is_none();
        if quiet && self.waker.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
        quiet
    }
}

/// What a handle and its task share.
#[derive(Debug)]
pub(super) struct Shared {
    inbox: Mutex<Inbox>,
    boot: Arc<str>,
    buffer: usize,
    on_full: OnFull,
    /// Updates in the task's buffer.
    held: AtomicUsize,
    /// Told when `held` falls to 0, and when the task is over.
    settled: Notify,
}

impl Shared {
    pub(super) fn new(boot: Arc<str>, buffer: usize, on_full: OnFull, first_seq: u64) -> Arc<Self> {
        let inbox = Inbox {
            updates: VecDeque::new(),
            answers: VecDeque::new(),
            disconnect: None,
            connect: false,
            stop: None,
            stopped: false,
            next_seq: first_seq.max(1),
            waker: None,
            over: false,
        };
        let (inbox, held) = (Mutex::new(inbox), AtomicUsize::new(0));
        Arc::new(Self { inbox, boot, buffer: buffer.max(1), on_full, held, settled: Notify::new() })
    }

    pub(super) fn boot(&self) -> &Arc<str> {
        &self.boot
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the task's buffer holds by now. To be called with the inbox locked where updates move into it.
    pub(super) fn holds(&self, updates: usize) {
        if self.held.swap(updates, Ordering::AcqRel) != updates && updates == 0 {
            self.settled.notify_waiters();
        }
    }

    /// The task is over.
    pub(super) fn end(&self) {
        let mut inbox = self.inbox();
        inbox.over = true;
        inbox.waker = None;
        drop(inbox);
        self.settled.notify_waiters();
    }

    fn unacked(&self, inbox: &Inbox) -> usize {
        inbox.updates.len() + self.held.load(Ordering::Acquire)
    }

    /// Changes what waits and wakes the task.
    fn tell<T>(&self, change: impl FnOnce(&mut Inbox) -> Result<T, NotTaken>) -> Result<T, NotTaken> {
        let mut inbox = self.inbox();
        if inbox.over || inbox.stopped || inbox.stop.is_some() {
            return Err(NotTaken::Stopped);
        }
        let done = change(&mut inbox)?;
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(done)
    }
}

/// A running device. Dropped, the device ends its connection without a word and is gone.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What scopes its updates' `seq`.
    pub fn boot(&self) -> &str {
        &self.shared.boot
    }

    /// Gives it an update, to be sent as soon as may be and again until it is acked; its `seq`. Never waits.
    ///
    /// # Errors
    /// [`NotTaken`]; no `seq` is used up then.
    pub fn update(&self, update: Update) -> Result<u64, NotTaken> {
        check(&update)?;
        let shared = &*self.shared;
        shared.tell(|inbox| {
            let held = match shared.on_full {
                OnFull::DropOldest => inbox.updates.len(),
                OnFull::Refuse => shared.unacked(inbox),
            };
            if held >= shared.buffer {
                return Err(NotTaken::Full);
            }
            let seq = inbox.next_seq;
            if seq > MAX_SEQ {
                return Err(NotTaken::NoSeqLeft);
            }
            inbox.next_seq += 1;
            inbox.updates.push_back((seq, update));
            Ok(seq)
        })
    }

    /// Updates that are neither acked nor refused nor dropped.
    pub fn unacked(&self) -> usize {
        self.shared.unacked(&self.shared.inbox())
    }

    /// Answers a command, or says how far it is. Only the first final answer to a command counts; one to a command that
    /// the device does not know, or no longer, goes nowhere.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn answer(&self, id: &str, reply: Reply) -> Result<(), NotTaken> {
        if reply.result.as_deref().is_some_and(|result| !is_json(result)) {
            return Err(NotTaken::NotJson);
        }
        self.shared.tell(|inbox| {
            if inbox.answers.len() >= ANSWERS {
                return Err(NotTaken::Full);
            }
            inbox.answers.push_back((id.to_owned(), reply));
            Ok(())
        })
    }

    /// Ends its connection. The last word counts where the task has not yet looked.
    pub fn disconnect(&self, how: How, then: Then) {
        let _stopped = self.shared.tell(|inbox| {
            inbox.disconnect = Some((how, then));
            inbox.connect = false;
            Ok(())
        });
    }

    /// Connects now, whatever it was waiting for; nothing where it is connected.
    pub fn connect(&self) {
        let _stopped = self.shared.tell(|inbox| {
            inbox.connect = true;
            Ok(())
        });
    }

    /// Waits until nothing is unacked, at most this long; how many still are.
    pub async fn flush(&self, timeout: Duration) -> usize {
        let flushed = async {
            loop {
                let settled = self.shared.settled.notified();
                tokio::pin!(settled);
                settled.as_mut().enable();
                if self.unacked() == 0 || self.is_over() {
                    return;
                }
                settled.await;
            }
        };
        let _late = tokio::time::timeout(timeout, flushed).await;
        self.unacked()
    }

    /// Ends it with a clean close, within two seconds; how many updates are left unacked.
    pub async fn stop(self) -> usize {
        self.end(How::Close).await
    }

    /// Ends it without a word.
    pub async fn kill(self) -> usize {
        self.end(How::Cut).await
    }

    async fn end(&self, how: How) -> usize {
        let _over = self.shared.tell(|inbox| {
            inbox.stop = Some(how);
            Ok(())
        });
        loop {
            let over = self.shared.settled.notified();
            tokio::pin!(over);
            over.as_mut().enable();
            if self.is_over() {
                return self.unacked();
            }
            over.await;
        }
    }

    fn is_over(&self) -> bool {
        self.shared.inbox().over
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _over = self.shared.tell(|inbox| {
            inbox.stop = Some(How::Cut);
            Ok(())
        });
    }
}

fn check(update: &Update) -> Result<(), NotTaken> {
    if update.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > MAX_NAME_BYTES) {
        return Err(NotTaken::Name);
    }
    if is_json(&update.value) { Ok(()) } else { Err(NotTaken::NotJson) }
}

/// Whether `text` is exactly one JSON value.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}
