//! Which commands one connection has written and not heard of: eight at most, each written again when nothing comes.

use crate::id::CommandId;

/// Commands of one connection that are written and unheard of.
pub const WINDOW: usize = 8;
/// How long the first writing of a command waits for any answer, in milliseconds; each further one waits twice as long.
pub const ACK_TIMEOUT_MS: u64 = 10_000;
/// The longest such wait, in milliseconds.
const LAST_TIMEOUT_MS: u64 = 160_000;
/// After so many writings of one command without an answer the peer is asked whether it is still there.
const UNHEARD: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    id: CommandId,
    /// Writings without an answer.
    writings: u8,
    due_ms: u64,
}

/// What is to be done about a command whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdue {
    /// Ask for it again, as written before, and write it.
    pub id: CommandId,
    /// Ping as well, and end the connection where nothing at all is heard for 10 s.
    pub probe: bool,
}

/// The window of one connection. Times are milliseconds of any clock that does not go back.
#[derive(Debug, Clone, Default)]
pub struct Window {
    slots: Vec<Slot>,
}

impl Window {
    /// How many more commands may be written.
    pub fn room(&self) -> usize {
        WINDOW.saturating_sub(self.slots.len())
    }

    /// Whether nothing is waited for.
    pub const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether a command was written here and not heard of: then [`super::Commands::mark_sent`] is asked for it `again`.
    pub fn holds(&self, id: CommandId) -> bool {
        self.slots.iter().any(|slot| slot.id == id)
    }

    /// A frame was written, for the first time or again.
    pub fn wrote(&mut self, id: CommandId, now_ms: u64) {
        match self.slots.iter_mut().find(|slot| slot.id == id) {
            Some(slot) => {
                slot.writings = slot.writings.saturating_add(1);
                slot.due_ms = now_ms.saturating_add(timeout_ms(slot.writings));
            }
            None => self.slots.push(Slot { id, writings: 1, due_ms: now_ms.saturating_add(timeout_ms(1)) }),
        }
    }

    /// The command needs no more writing: it was heard of, or may not be written. `true`: it was waited for.
    pub fn heard(&mut self, id: CommandId) -> bool {
        let before = self.slots.len();
        self.slots.retain(|slot| slot.id != id);
        self.slots.len() < before
    }

    /// There is only waiting left for it ([`super::Sending::Spent`]): it keeps its place, and is not due for a while.
    pub fn wait_on(&mut self, id: CommandId, now_ms: u64) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) {
            slot.writings = slot.writings.saturating_add(1);
            slot.due_ms = now_ms.saturating_add(timeout_ms(slot.writings));
        }
    }

    /// When [`Window::overdue`] is worth asking.
    pub fn next_due(&self) -> Option<u64> {
        self.slots.iter().map(|slot| slot.due_ms).min()
    }

    /// The command that is due the longest. It stays so until it is [`wrote`](Self::wrote) or [`heard`](Self::heard) of.
    pub fn overdue(&self, now_ms: u64) -> Option<Overdue> {
        let due = self.slots.iter().filter(|slot| slot.due_ms <= now_ms).min_by_key(|slot| slot.due_ms)?;
        Some(Overdue { id: due.id, probe: due.writings >= UNHEARD })
    }
}

/// How long the writing of that number waits.
fn timeout_ms(writings: u8) -> u64 {
    let doublings = u32::from(writings.saturating_sub(1)).min(8);
    (ACK_TIMEOUT_MS << doublings).min(LAST_TIMEOUT_MS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "this is test code")]
mod tests {
    use super::*;
    use crate::id::DeviceKey;

    fn id(n: usize) -> CommandId {
        CommandId::of(&DeviceKey::new("t", "d").unwrap(), "a", &n.to_string())
    }

    #[test]
    fn eight_may_be_unheard_of_and_any_word_frees_a_place() {
        let mut window = Window::default();
        for n in 0..WINDOW {
            assert_eq!(window.room(), WINDOW - n);
            window.wrote(id(n), 0);
        }
        window.wrote(id(0), 5);
        assert_eq!(window.room(), 0);
        assert!(window.holds(id(3)) && window.heard(id(3)) && !window.heard(id(3)));
        assert_eq!(window.room(), 1);
    }

    #[test]
    fn each_wait_is_twice_as_long_and_the_second_ends_in_a_ping() {
        let mut window = Window::default();
        window.wrote(id(1), 0);
        assert_eq!((window.next_due(), window.overdue(9_999)), (Some(10_000), None));
        assert_eq!(window.overdue(10_000), Some(Overdue { id: id(1), probe: false }));
        window.wrote(id(1), 10_000);
        assert_eq!(window.overdue(29_999), None);
        assert_eq!(window.overdue(30_000), Some(Overdue { id: id(1), probe: true }));
        window.wait_on(id(1), 30_000);
        assert_eq!(window.next_due(), Some(70_000));
        for _ in 0..300 {
            window.wrote(id(1), 0);
        }
        assert_eq!(window.next_due(), Some(LAST_TIMEOUT_MS));
    }

    #[test]
    fn the_longest_overdue_comes_first() {
        let mut window = Window::default();
        window.wrote(id(2), 7);
        window.wrote(id(1), 3);
        assert_eq!(window.overdue(50_000).unwrap().id, id(1));
        assert!(window.heard(id(1)));
        assert_eq!(window.overdue(50_000).unwrap().id, id(2));
    }
}
