//! What the nodes of one process share in place of Redis.

use std::sync::{Arc, OnceLock, Weak};

use crate::commands::Row;
use crate::commands::memory::MemoryCommands;
use crate::id::DeviceKey;
use crate::ownership::memory::{Clock, MemoryOwnership};

/// A directory and commands in memory that know of each other, by a clock in microseconds.
pub fn memory_pair(now_us: Clock) -> (Arc<MemoryOwnership>, Arc<MemoryCommands>) {
    let known: Arc<OnceLock<Weak<MemoryCommands>>> = Arc::default();
    let asked = Arc::clone(&known);
    let waits = move |device: &DeviceKey| {
        let commands = asked.get().and_then(Weak::upgrade);
        commands.is_some_and(|commands| commands.waits(device))
    };
    let ownership = Arc::new(MemoryOwnership::new(Arc::clone(&now_us), Arc::new(waits)));
    let rows = Arc::clone(&ownership);
    let row = move |device: &DeviceKey| {
        let row = rows.holder(device).filter(|row| !row.settled)?;
        Some(Row { node: row.owner.node, incarnation: row.owner.incarnation, epoch: row.epoch })
    };
    let now_ms = move || i64::try_from(now_us() / 1_000).unwrap_or(i64::MAX);
    let commands = Arc::new(MemoryCommands::new(Arc::new(now_ms), Arc::new(row)));
    // Set nowhere else.
    let _ = known.set(Arc::downgrade(&commands));
    (ownership, commands)
}
