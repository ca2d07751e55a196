//! Whether devices are online, as events that are still to be published: of each device the newest state.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::{Notify, oneshot};

use crate::id::{Boot, DeviceKey, Epoch, NodeName, SessionId};
use crate::sync::lock;

/// Devices whose state may wait; of one more the oldest is given up. About 250 bytes each.
pub const WAITING: usize = 100_000;

/// A device came or went.
#[derive(Debug)]
pub struct Presence {
    /// The device.
    pub device: DeviceKey,
    /// Which of the two.
    pub online: bool,
    /// Under which epoch: readers keep the highest, and `offline` where both have it.
    pub epoch: Epoch,
    /// The connection.
    pub session: SessionId,
    /// The boot it was of.
    pub boot: Boot,
    /// The node that had it.
    pub node: NodeName,
    /// Why: a close's name, `connected`, `registered` (the directory had been away, or had lost it) or `node_lost`.
    pub reason: &'static str,
    /// Of an end: its close code, and who ended it.
    pub end: Option<(u16, &'static str)>,
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// Told once it is stored; dropped where a newer state of the device took its place.
    pub stored: Option<oneshot::Sender<()>>,
}

impl Presence {
    /// The JSON message. A repeat is the same.
    pub fn json(&self) -> Vec<u8> {
        let mut value = serde_json::json!({
            "type": "presence",
            "device_id": self.device.device(),
            "online": self.online,
            "epoch": self.epoch.0,
            "reason": self.reason,
            "at": self.at_ms,
            "node": self.node.as_str(),
            "session": self.session.to_string(),
            "boot": self.boot.as_str(),
        });
        if let (Some((code, initiator)), Some(fields)) = (self.end, value.as_object_mut()) {
            fields.insert("code".into(), code.into());
            fields.insert("initiator".into(), initiator.into());
        }
        value.to_string().into_bytes()
    }

    fn rank(&self) -> (Epoch, bool) {
        (self.epoch, !self.online)
    }
}

#[derive(Default)]
struct State {
    waiting: HashMap<DeviceKey, Presence>,
    /// The devices above in the order in which they came to wait, and some that wait no more.
    order: VecDeque<DeviceKey>,
    given_up: u64,
}

/// The events that wait to be published.
#[derive(Default)]
pub struct Book {
    state: Mutex<State>,
    under_way: AtomicUsize,
    bell: Notify,
}

impl Book {
    /// Notes a state; an older one of the same device that waits is forgotten, and so is this one where it is the older.
    pub fn note(&self, event: Presence) {
        let mut state = self.lock();
        match state.waiting.get_mut(&event.device) {
            Some(known) if known.rank() < event.rank() => *known = event,
            Some(_) => {}
            None => {
                if state.waiting.len() >= WAITING {
                    give_up_oldest(&mut state);
                }
                state.order.push_back(event.device.clone());
                state.waiting.insert(event.device.clone(), event);
            }
        }
        drop(state);
        self.bell.notify_one();
    }

    /// Takes the one that waits longest; to be given back by [`Book::put_back`] or settled by [`Book::done`].
    pub fn take(&self) -> Option<Presence> {
        let mut state = self.lock();
        while let Some(device) = state.order.pop_front() {
            if let Some(event) = state.waiting.remove(&device) {
                self.under_way.fetch_add(1, Ordering::Relaxed);
                return Some(event);
            }
        }
        None
    }

    /// Gives back what could not be published now; it is the next, unless a newer state of the device came meanwhile.
    pub fn put_back(&self, event: Presence) {
        let mut state = self.lock();
        if !state.waiting.contains_key(&event.device) {
            state.order.push_front(event.device.clone());
            state.waiting.insert(event.device.clone(), event);
        }
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// It is stored, or never will be.
    pub fn done(&self, event: Presence) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        if let Some(stored) = event.stored {
            // Who does not wait any more has lost nothing.
            let _ = stored.send(());
        }
    }

    /// Waits until something was noted.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// States that are not published yet.
    pub fn len(&self) -> usize {
        let state = self.lock();
        state.waiting.len() + self.under_way.load(Ordering::Relaxed)
    }

    /// Whether all are published.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn give_up_oldest(state: &mut State) {
    while let Some(oldest) = state.order.pop_front() {
        if state.waiting.remove(&oldest).is_some() {
            state.given_up += 1;
            // The first, and then one line for every thousand.
            if state.given_up % 1_000 == 1 {
                tracing::warn!(given_up = state.given_up, "too many presence events wait for the event log");
            }
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn event(device: &str, online: bool, epoch: u64) -> Presence {
        let session = SessionId::from_bits(7);
        Presence {
            device: DeviceKey::new("t", device).unwrap(),
            online,
            epoch: Epoch(epoch),
            session,
            boot: session.into(),
            node: NodeName::new("n").unwrap(),
            reason: if online { "connected" } else { "lost" },
            end: (!online).then_some((1006, "network")),
            at_ms: 5,
            stored: None,
        }
    }

    fn taken(book: &Book) -> Vec<(String, bool, u64)> {
        let all = std::iter::from_fn(|| book.take());
        all.map(|event| (event.device.device().to_owned(), event.online, event.epoch.0)).collect()
    }

    #[test]
    fn of_each_device_the_newest_state_waits_in_its_place() {
        let book = Book::default();
        book.note(event("a", true, 1));
        book.note(event("b", true, 1));
        book.note(event("a", false, 1));
        book.note(event("a", true, 1));
        book.note(event("b", true, 3));
        book.note(event("b", false, 2));
        assert_eq!(taken(&book), [("a".into(), false, 1), ("b".into(), true, 3)]);
    }

    #[test]
    fn what_is_given_back_comes_first_unless_it_is_old() {
        let book = Book::default();
        book.note(event("a", true, 1));
        book.note(event("b", true, 1));
        let first = book.take().unwrap();
        assert_eq!(book.len(), 2);
        book.put_back(first);
        assert_eq!(taken(&book), [("a".into(), true, 1), ("b".into(), true, 1)]);
        book.note(event("a", false, 1));
        book.put_back(event("a", true, 1));
        assert_eq!(taken(&book), [("a".into(), false, 1)]);
    }

    #[test]
    fn it_is_bounded_and_gives_up_the_oldest() {
        let book = Book::default();
        for number in 0..=WAITING {
            book.note(event(&number.to_string(), true, 1));
        }
        assert_eq!((book.len(), book.take().unwrap().device.device()), (WAITING, "1"));
    }

    #[test]
    fn who_waits_hears_when_it_is_stored_or_overtaken() {
        let book = Book::default();
        let (sender, mut told) = oneshot::channel();
        book.note(Presence { stored: Some(sender), ..event("a", false, 1) });
        let (second, mut overtaken) = oneshot::channel();
        book.note(Presence { stored: Some(second), ..event("b", false, 1) });
        book.note(event("b", true, 2));
        assert_eq!(overtaken.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(told.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        book.done(book.take().unwrap());
        assert_eq!(told.try_recv(), Ok(()));
    }

    #[test]
    fn an_event_says_what_the_protocol_lists() {
        let json: serde_json::Value = serde_json::from_slice(&event("a", false, 9).json()).unwrap();
        let expected = serde_json::json!({
            "type": "presence", "device_id": "a", "online": false, "epoch": 9, "reason": "lost", "at": 5, "node": "n",
            "session": "0000000000000007", "boot": "0000000000000007", "code": 1006, "initiator": "network",
        });
        assert_eq!(json, expected);
    }
}
