//! What can be planted in the twins in memory, and a keeper of commands that does one thing wrong: a wrapper around its twin.

use std::future::ready;
use std::sync::Arc;

use futures_util::FutureExt;
use tidegate::commands::{
    Answer, Answered, Canceled, Command, CommandError, CommandFuture, Commands, Ripe, Row as CommandRow, Sending,
    State, Submission, Submitted, Swept,
};
use tidegate::id::{CommandId, DeviceKey, Epoch};

use super::spoilt::Bug;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A release removes whatever row there is.
    ReleaseWhatever,
    /// A release compares only the node.
    ReleaseByNode,
    /// An answer is applied to a command that has ended.
    EndTwice,
    /// Whether a connection may write a command is decided without its epoch.
    SendWhatever,
    /// A connection that ends is said to be offline, whether or not the row was still its own. The gateway's fault.
    OfflineWhatever,
}

impl Plant {
    /// The directory's part in it.
    pub fn of_directory(self) -> Option<Bug> {
        match self {
            Self::ReleaseWhatever => Some(Bug::ReleaseUnfenced),
            Self::ReleaseByNode => Some(Bug::ReleaseByNode),
            Self::EndTwice | Self::SendWhatever | Self::OfflineWhatever => None,
        }
    }
}

/// What is there already.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the twins in memory never wait")
}

/// The epoch of a device's row, where there is one.
pub type Epochs = Arc<dyn Fn(&DeviceKey) -> Option<Epoch> + Send + Sync>;

/// Commands that may be sent, or ended, wrongly.
pub struct PlantedCommands<C> {
    pub inner: C,
    pub plant: Option<Plant>,
    /// The epoch in a device's row.
    pub epoch: Epochs,
}

impl<C: Commands> Commands for PlantedCommands<C> {
    fn submit<'a>(&'a self, submission: &'a Submission<'a>) -> CommandFuture<'a, Submitted> {
        self.inner.submit(submission)
    }

    fn pending<'a>(&'a self, device: &'a DeviceKey, epoch: Epoch, limit: usize) -> CommandFuture<'a, Vec<CommandId>> {
        self.inner.pending(device, epoch, limit)
    }

    fn mark_sent<'a>(
        &'a self,
        device: &'a DeviceKey,
        id: CommandId,
        epoch: Epoch,
        again: bool,
    ) -> CommandFuture<'a, Sending> {
        let whatever = (self.epoch)(device).filter(|_| self.plant == Some(Plant::SendWhatever));
        self.inner.mark_sent(device, id, whatever.unwrap_or(epoch), again)
    }

    fn answer<'a>(&'a self, device: &'a DeviceKey, id: CommandId, answer: Answer<'a>) -> CommandFuture<'a, Answered> {
        let answered = now(self.inner.answer(device, id, answer));
        let (Some(Plant::EndTwice), Ok(Answered::Late)) = (self.plant, &answered) else {
            return Box::pin(ready(answered));
        };
        let applied = now(self.inner.get(device, id)).map(|mut command| {
            command.life.version += 1;
            command.life.state = State::from(answer.status);
            let mut turn = *command.history.last().expect("a command has a history");
            (turn.version, turn.state) = (command.life.version, command.life.state);
            command.history.push(turn);
            Answered::Changed(Box::new(command))
        });
        Box::pin(ready(applied))
    }

    fn cancel<'a>(&'a self, device: &'a DeviceKey, id: CommandId) -> CommandFuture<'a, Canceled> {
        self.inner.cancel(device, id)
    }

    fn get<'a>(&'a self, device: &'a DeviceKey, id: CommandId) -> CommandFuture<'a, Command> {
        self.inner.get(device, id)
    }

    fn list<'a>(&'a self, device: &'a DeviceKey, limit: usize) -> CommandFuture<'a, Vec<Command>> {
        self.inner.list(device, limit)
    }

    fn ripe<'a>(&'a self, shards: &'a [u8]) -> CommandFuture<'a, Ripe> {
        self.inner.ripe(shards)
    }

    fn sweep<'a>(
        &'a self,
        shard: u8,
        limit: usize,
        live: &'a (dyn Fn(&CommandRow) -> bool + Send + Sync),
    ) -> CommandFuture<'a, Swept> {
        self.inner.sweep(shard, limit, live)
    }

    fn settle_published<'a>(&'a self, device: &'a DeviceKey, id: CommandId, version: u32) -> CommandFuture<'a, ()> {
        self.inner.settle_published(device, id, version)
    }
}

/// The error of a call, as the HTTP API has it.
pub fn status(error: &CommandError) -> u16 {
    match error {
        CommandError::Invalid(_) => 400,
        CommandError::NotFound => 404,
        CommandError::Conflict | CommandError::NotConnected | CommandError::Expired | CommandError::TooLate(_) => 409,
        CommandError::QueueFull => 429,
        CommandError::TooLarge(_) => 413,
        CommandError::Unavailable(_) => 503,
    }
}
