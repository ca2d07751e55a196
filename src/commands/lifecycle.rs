//! The life of a command as a pure state machine: what each event does in each state, and why some do nothing.
//!
//! ```text
//!             +---------- cancel ----------> canceled           (never sent)
//!             |  deadline -----------------> expired            (unsent)
//!  accept -> queued -- send(epoch) --> sent(n) -- received ---> received -> running
//!                                        |  ^ again, by a newer epoch          |
//!                                        +- none of n left -> failed (undeliverable; outcome unknown where n is 1)
//!                                        +- deadline -------> expired (outcome unknown)
//!                                        +- answer ---------> succeeded | failed | rejected <-+
//! ```
//!
//! Each transition makes the version one higher and leaves one line of history and one event; what is not a transition
//! changes no version. The Lua scripts beside this file do the same, and a test drives both with the same histories.

use crate::id::Epoch;
use crate::protocol::message::CommandStatus;

/// How far a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Accepted; no byte of it was sent.
    Queued,
    /// It may be on its way: a connection was allowed to write it.
    Sent,
    /// The device has it.
    Received,
    /// The device is at it.
    Running,
    /// The device did it.
    Succeeded,
    /// The device could not, or it could not be delivered.
    Failed,
    /// The device will not.
    Rejected,
    /// The deadline came first.
    Expired,
    /// Withdrawn before anything was sent.
    Canceled,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Sent,
        Self::Received,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Rejected,
        Self::Expired,
        Self::Canceled,
    ];

    /// Whether nothing can follow.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Rejected | Self::Expired | Self::Canceled)
    }

    /// The word in the API, in events and in Redis.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Received => "received",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Canceled => "canceled",
        }
    }

    /// The state of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// How far along the way: states only go up.
    const fn rank(self) -> u8 {
        match self {
            Self::Queued => 0,
            Self::Sent => 1,
            Self::Received => 2,
            Self::Running => 3,
            _ => 4,
        }
    }
}

impl From<CommandStatus> for State {
    fn from(status: CommandStatus) -> Self {
        match status {
            CommandStatus::Received => Self::Received,
            CommandStatus::Running => Self::Running,
            CommandStatus::Succeeded => Self::Succeeded,
            CommandStatus::Failed => Self::Failed,
            CommandStatus::Rejected => Self::Rejected,
        }
    }
}

/// Why a command ended, where its state alone does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Expired, and no byte was ever sent.
    Unsent,
    /// Expired or failed after it was sent: the device may have done it.
    OutcomeUnknown,
    /// Every attempt was made, and nothing was heard.
    Undeliverable,
    /// Canceled because a newer command of its name took its place.
    Replaced,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Unsent, Self::OutcomeUnknown, Self::Undeliverable, Self::Replaced];

    /// The word in the API, in events and in Redis.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Undeliverable => "undeliverable",
            Self::Replaced => "replaced",
        }
    }

    /// The reason of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// What the machine knows of one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// How far it is.
    pub state: State,
    /// Why it ended, where that needs a word.
    pub reason: Option<Reason>,
    /// 1 when it is accepted, and one more with each transition.
    pub version: u32,
    /// On how many connections it was allowed to be written while nothing was heard of it.
    pub attempts: u32,
    /// How many there may be.
    pub max_attempts: u32,
    /// The connection that was last allowed to write it.
    pub epoch: Option<Epoch>,
    /// From this Unix millisecond on it may not be sent, and it expires.
    pub deadline_ms: i64,
}

impl Life {
    /// A command that was just accepted. `max_attempts` is at least 1.
    pub const fn accepted(max_attempts: u32, deadline_ms: i64) -> Self {
        let max_attempts = if max_attempts == 0 { 1 } else { max_attempts };
        Self { state: State::Queued, reason: None, version: 1, attempts: 0, max_attempts, epoch: None, deadline_ms }
    }
}

/// Something that happens to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A connection asks whether it may write it.
    Send {
        /// The connection's epoch.
        epoch: Epoch,
        /// The epoch of the device's row, where there is a row that is not settled.
        row: Option<Epoch>,
        /// Whether this connection has written it before.
        again: bool,
    },
    /// The device says something about it, on whatever connection.
    Answer(CommandStatus),
    /// An application takes it back.
    Cancel,
    /// An application puts another in its place.
    Replace,
    /// Somebody looks whether its time is over.
    Deadline,
}

/// What an event came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The command from now on.
    pub life: Life,
    /// Whether that is a transition: one version more, one line of history, one event.
    pub changed: bool,
    /// Whether the connection that asked may write the frame, with [`Life::attempts`] as its `attempt`.
    pub frame: bool,
}

/// Why an event changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// It has ended.
    Ended,
    /// The device's row is not, or no longer, this connection's.
    Fenced,
    /// It may no longer be sent; it expires when somebody looks.
    PastDeadline,
    /// Its time is not over.
    NotDue,
    /// This connection has written it, and its last attempt is this one: there is only waiting.
    Spent,
    /// It was never sent: whoever answers has guessed its id.
    NeverSent,
    /// It ended otherwise, or elsewhere: kept as a late result.
    Late,
    /// The device has said this, or more, before.
    Known,
    /// It was sent, so it cannot be taken back.
    AlreadySent,
    /// It is canceled already.
    AlreadyCanceled,
}

/// What `event` at `now_ms` (Unix milliseconds) does to a command.
///
/// # Errors
/// [`Ignored`]: why it does nothing.
pub const fn transition(life: &Life, event: Event, now_ms: i64) -> Result<Step, Ignored> {
    match event {
        Event::Send { epoch, row, again } => send(life, epoch, row, again, now_ms),
        Event::Answer(status) => answer(life, status),
        Event::Cancel | Event::Replace => cancel(life, matches!(event, Event::Replace)),
        Event::Deadline => deadline(life, now_ms),
    }
}

const fn send(life: &Life, epoch: Epoch, row: Option<Epoch>, again: bool, now_ms: i64) -> Result<Step, Ignored> {
    if life.state.is_terminal() {
        return Err(Ignored::Ended);
    }
    if !matches!(row, Some(row) if row.0 == epoch.0) {
        return Err(Ignored::Fenced);
    }
    if now_ms >= life.deadline_ms {
        return Err(Ignored::PastDeadline);
    }
    let (mut here, mut newer) = (false, false);
    if let Some(last) = life.epoch {
        here = last.0 == epoch.0;
        newer = last.0 > epoch.0;
    }
    if newer {
        return Err(Ignored::Fenced);
    }
    let mut next = *life;
    next.epoch = Some(epoch);
    match life.state {
        // The device has it: only its answer or the deadline counts, but a newer connection hears of it too.
        State::Received | State::Running => Ok(Step { life: next, changed: false, frame: true }),
        State::Sent if here && again && life.attempts >= life.max_attempts => Err(Ignored::Spent),
        State::Sent if here => Ok(Step { life: next, changed: false, frame: true }),
        _ if life.attempts >= life.max_attempts => {
            let reason = if life.max_attempts == 1 { Reason::OutcomeUnknown } else { Reason::Undeliverable };
            // Nothing was written by this connection.
            next.epoch = life.epoch;
            Ok(ended(next, State::Failed, Some(reason)))
        }
        _ => {
            next.attempts += 1;
            next.state = State::Sent;
            next.version += 1;
            Ok(Step { life: next, changed: true, frame: true })
        }
    }
}

const fn answer(life: &Life, status: CommandStatus) -> Result<Step, Ignored> {
    // Only what no connection was ever allowed to write has no epoch.
    if life.epoch.is_none() {
        return Err(Ignored::NeverSent);
    }
    let said = match status {
        CommandStatus::Received => State::Received,
        CommandStatus::Running => State::Running,
        CommandStatus::Succeeded => State::Succeeded,
        CommandStatus::Failed => State::Failed,
        CommandStatus::Rejected => State::Rejected,
    };
    if said.is_terminal() {
        return if life.state.is_terminal() { Err(Ignored::Late) } else { Ok(ended(*life, said, None)) };
    }
    if life.state.rank() >= said.rank() {
        return Err(Ignored::Known);
    }
    let mut next = *life;
    next.state = said;
    next.version += 1;
    Ok(Step { life: next, changed: true, frame: false })
}

const fn cancel(life: &Life, replaced: bool) -> Result<Step, Ignored> {
    match life.state {
        State::Queued => {
            let reason = if replaced { Some(Reason::Replaced) } else { None };
            Ok(ended(*life, State::Canceled, reason))
        }
        State::Canceled => Err(Ignored::AlreadyCanceled),
        _ if life.epoch.is_none() => Err(Ignored::Ended),
        _ => Err(Ignored::AlreadySent),
    }
}

const fn deadline(life: &Life, now_ms: i64) -> Result<Step, Ignored> {
    if life.state.is_terminal() {
        return Err(Ignored::Ended);
    }
    if now_ms < life.deadline_ms {
        return Err(Ignored::NotDue);
    }
    let reason = if life.epoch.is_none() { Reason::Unsent } else { Reason::OutcomeUnknown };
    Ok(ended(*life, State::Expired, Some(reason)))
}

const fn ended(mut life: Life, state: State, reason: Option<Reason>) -> Step {
    life.state = state;
    life.reason = reason;
    life.version += 1;
    Step { life, changed: true, frame: false }
}

#[cfg(test)]
mod tests;
