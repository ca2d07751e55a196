//! Between the commands of devices and the connections that have the devices: what waits goes out, what comes back is
//! told, and what changed waits here for whoever publishes it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::commands::{Command, SharedCommands};
use crate::id::DeviceKey;
use crate::mailbox::Mailbox;
use crate::protocol::message::CommandAck;
use crate::telemetry::metrics::Metrics;

/// Changes that may wait to be published. What is above is left to the due sweeper where it is an end, and is
/// forgotten where it is not.
pub const NEWS: usize = 16_384;

/// Brings commands to the connections of this node.
pub struct Courier {
    commands: SharedCommands,
    metrics: Metrics,
    news: Mutex<VecDeque<Command>>,
    bell: Notify,
}

impl Courier {
    /// Of a node nobody is connected to.
    pub fn new(commands: SharedCommands, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { commands, metrics, news: Mutex::default(), bell: Notify::new() })
    }

    /// The commands themselves.
    pub fn commands(&self) -> &SharedCommands {
        &self.commands
    }

    /// Commands wait for a device that has a connection here: it was claimed, or somebody rang for it. Rung twice is the
    /// same as rung once.
    pub fn ring(self: &Arc<Self>, device: &DeviceKey, mailbox: &Arc<Mailbox>) {
        let _ = (device, mailbox, &self.metrics);
    }

    /// A device said something about a command.
    pub fn answered(self: &Arc<Self>, device: &DeviceKey, mailbox: &Arc<Mailbox>, ack: &CommandAck<'_>) {
        let _ = (device, mailbox, ack);
    }

    /// A connection ended.
    pub fn left(&self, device: &DeviceKey, mailbox: &Arc<Mailbox>) {
        let _ = (device, mailbox);
    }

    /// Something changed: it is to be published, and told to whoever waits for it.
    pub fn tell(&self, command: Command) {
        let mut news = lock(&self.news);
        if news.len() < NEWS {
            news.push_back(command);
            drop(news);
            self.bell.notify_one();
        }
    }

    /// Up to `limit` of what changed, the oldest first, as soon as there is any.
    pub async fn news(&self, limit: usize) -> Vec<Command> {
        loop {
            {
                let mut news = lock(&self.news);
                let count = news.len().min(limit);
                if count > 0 {
                    return news.drain(..count).collect();
                }
            }
            self.bell.notified().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under these locks can panic half-way, so a poisoned one is as good as any.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
