//! Who waits for which command on this node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::commands::Command;
use crate::id::CommandId;
use crate::limits::fixed::WAITERS;
use crate::sync::lock;

/// What was said of a command.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// All of it.
    Told(Arc<Command>),
    /// That it has come to this version.
    Rung(u32),
}

#[derive(Default)]
struct Ear {
    told: Option<Arc<Command>>,
    rung: u32,
}

/// One who waits.
#[derive(Default)]
pub(super) struct Seat {
    ear: Mutex<Ear>,
    bell: Notify,
}

impl Seat {
    /// Waits until something above `seen` was said.
    pub(super) async fn heard(&self, seen: u32) -> Heard {
        loop {
            if let Some(heard) = self.above(seen) {
                return heard;
            }
            self.bell.notified().await;
        }
    }

    fn above(&self, seen: u32) -> Option<Heard> {
        let ear = lock(&self.ear);
        let told = ear.told.as_ref().filter(|command| command.life.version > seen);
        match told {
            Some(command) if command.life.version >= ear.rung => Some(Heard::Told(Arc::clone(command))),
            _ => (ear.rung > seen).then_some(Heard::Rung(ear.rung)),
        }
    }

    fn say(&self, said: &Heard) {
        let mut ear = lock(&self.ear);
        let version = |command: &Arc<Command>| command.life.version;
        match said {
            Heard::Told(command) => {
                if ear.told.as_ref().map_or(0, version) < version(command) {
                    ear.told = Some(Arc::clone(command));
                }
                ear.rung = ear.rung.max(version(command));
            }
            Heard::Rung(rung) => ear.rung = ear.rung.max(*rung),
        }
        drop(ear);
        self.bell.notify_one();
    }
}

#[derive(Default)]
struct Table {
    seats: HashMap<CommandId, Vec<Arc<Seat>>>,
    count: usize,
}

/// All who wait.
#[derive(Default)]
pub(super) struct Waiters(Mutex<Table>);

impl Waiters {
    /// One more; nothing where there are [`WAITERS`]. Has to [`Waiters::leave`].
    pub(super) fn enter(&self, id: CommandId) -> Option<Arc<Seat>> {
        let mut table = lock(&self.0);
        if table.count >= WAITERS {
            return None;
        }
        table.count += 1;
        let seat = Arc::new(Seat::default());
        table.seats.entry(id).or_default().push(Arc::clone(&seat));
        Some(seat)
    }

    /// One less.
    pub(super) fn leave(&self, id: CommandId, seat: &Arc<Seat>) {
        let mut table = lock(&self.0);
        let Some(seats) = table.seats.get_mut(&id) else { return };
        seats.retain(|known| !Arc::ptr_eq(known, seat));
        if seats.is_empty() {
            table.seats.remove(&id);
        }
        table.count -= 1;
    }

    /// Tells a command to whoever waits for it.
    pub(super) fn tell(&self, command: &Command) {
        if let Some(seats) = lock(&self.0).seats.get(&command.id) {
            let said = Heard::Told(Arc::new(command.clone()));
            seats.iter().for_each(|seat| seat.say(&said));
        }
    }

    /// Whether anybody waits for a command.
    pub(super) fn wait_for(&self, id: CommandId) -> bool {
        lock(&self.0).seats.contains_key(&id)
    }

    /// Tells that a command has come to a version.
    pub(super) fn ring(&self, id: CommandId, version: u32) {
        if let Some(seats) = lock(&self.0).seats.get(&id) {
            seats.iter().for_each(|seat| seat.say(&Heard::Rung(version)));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.0).count
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::id::DeviceKey;

    fn id(key: &str) -> CommandId {
        CommandId::of(&DeviceKey::new("t", "d").unwrap(), "app", key)
    }

    #[tokio::test]
    async fn only_who_waits_for_a_command_hears_of_it_and_the_newest_counts() {
        let waiters = Waiters::default();
        let [mine, other] = ["mine", "other"].map(|key| waiters.enter(id(key)).unwrap());
        waiters.ring(id("mine"), 3);
        waiters.ring(id("mine"), 2);
        assert_eq!(mine.heard(2).await, Heard::Rung(3));
        assert_eq!((mine.above(3), other.above(0)), (None, None));
    }

    #[test]
    fn there_are_only_so_many_and_each_makes_room_when_it_leaves() {
        let waiters = Waiters::default();
        let ids: Vec<_> = (0..WAITERS).map(|number| id(&(number / 2).to_string())).collect();
        let seats: Vec<_> = ids.iter().map(|id| waiters.enter(*id).unwrap()).collect();
        assert!(waiters.enter(id("b")).is_none());
        ids.iter().zip(&seats).for_each(|(id, seat)| waiters.leave(*id, seat));
        assert_eq!(waiters.len(), 0);
        assert!(lock(&waiters.0).seats.is_empty());
    }
}
