//! What is to be done for one device, as a pure state machine. Times are milliseconds of a clock that does not go back.

use std::collections::VecDeque;
use std::sync::Arc;

use super::ANSWERS;
use crate::commands::window::Window;
use crate::commands::{Command, Life, State};
use crate::id::{CommandId, Epoch};
use crate::mailbox::{Mailbox, Signal};
use crate::protocol::message::{CommandAck, CommandStatus};

/// Commands that may be asked for again out of turn, since an answer to them got lost.
const LOST: usize = 16;
/// How long after a guess the device's next answer waits.
const GUESS_PAUSE_MS: u64 = 10;
/// The first pause after a failure, and the longest.
const PAUSE_MS: (u64, u64) = (100, 5_000);

/// An answer of a device.
pub(super) struct Said {
    pub(super) id: CommandId,
    pub(super) status: CommandStatus,
    pub(super) result: Option<Box<[u8]>>,
    pub(super) message: Option<Box<str>>,
    /// By whom.
    pub(super) mailbox: Arc<Mailbox>,
}

impl Said {
    pub(super) fn new(id: CommandId, ack: &CommandAck<'_>, mailbox: &Arc<Mailbox>) -> Self {
        let (result, message) = (ack.result.as_deref().map(Into::into), ack.message.as_deref().map(Into::into));
        Self { id, status: ack.status, result, message, mailbox: Arc::clone(mailbox) }
    }

    /// About how much memory it holds.
    pub(super) fn bytes(&self) -> usize {
        let (result, message) =
            (self.result.as_ref().map_or(0, |r| r.len()), self.message.as_ref().map_or(0, |m| m.len()));
        size_of::<Self>() + result + message
    }
}

/// A question whether a command may be written.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) id: CommandId,
    pub(super) to: Address,
    /// Whether this connection has written it before.
    pub(super) again: bool,
}

/// Which connection something is for: what comes of it when another has taken its place is void.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) epoch: Epoch,
}

/// What is to be done next.
pub(super) enum Work {
    /// Tell what the device said.
    Answer(Said),
    /// Ask whether this may be written, and have it written.
    Ask(Ask),
    /// See which commands wait, so many at most, and whether the first may be written.
    Look(Address, usize),
    /// See which commands have not ended: those that wait, so many at most, are among them.
    Review(Address, usize),
}

/// A command that is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    id: CommandId,
    written: bool,
}

/// The connection that has the device.
struct Outlet {
    to: Address,
    window: Window,
    next: VecDeque<Turn>,
    /// Commands may wait beyond those.
    more: bool,
    /// The directory says that it is not, or no longer, this connection's: nothing until somebody rings.
    is_fenced: bool,
    /// What is in its mailbox is to be taken back.
    recall: bool,
    /// A look's answer was lost: what it allowed is no longer said to wait, and was not written.
    in_doubt: bool,
    failures: u32,
    after_ms: u64,
}

/// One device.
#[derive(Default)]
pub(super) struct Line {
    outlet: Option<Outlet>,
    answers: VecDeque<Said>,
    answers_after_ms: u64,
    /// It is ready or worked at.
    pub(super) is_busy: bool,
    /// When the timer comes for it.
    pub(super) due: Option<(u64, u64)>,
}

impl Outlet {
    fn new(to: Address) -> Self {
        let (window, next) = (Window::default(), VecDeque::new());
        let (more, is_fenced, recall, in_doubt) = (true, false, false, false);
        Self { to, window, next, more, is_fenced, recall, in_doubt, failures: 0, after_ms: 0 }
    }

    /// Puts a command behind those that are to be asked for, once.
    fn enqueue(&mut self, id: CommandId, written: bool) {
        if !self.next.iter().any(|turn| turn.id == id) {
            self.next.push_back(Turn { id, written });
        }
    }

    fn forget(&mut self, id: CommandId) -> bool {
        self.next.retain(|turn| turn.id != id);
        self.window.heard(id)
    }

    fn back_off(&mut self, now_ms: u64) {
        let pause_ms = (PAUSE_MS.0 << self.failures.min(10)).min(PAUSE_MS.1);
        self.failures += 1;
        self.after_ms = now_ms + pause_ms + fastrand::u64(..=pause_ms / 4);
    }

    /// What was posted and not written goes to the front, in its order.
    fn take_back(&mut self) {
        for order in self.to.mailbox.recall_orders().into_iter().rev() {
            if !order.again {
                self.window.heard(order.id);
            }
            self.next.retain(|turn| turn.id != order.id);
            self.next.push_front(Turn { id: order.id, written: order.again });
        }
    }

    fn ask(&self, id: CommandId, written: bool) -> Ask {
        Ask { id, to: self.to.clone(), again: written || self.window.holds(id) }
    }

    fn work(&mut self, now_ms: u64) -> Option<Work> {
        if self.is_fenced || now_ms < self.after_ms {
            return None;
        }
        if std::mem::take(&mut self.recall) {
            self.take_back();
        }
        while let Some(overdue) = self.window.overdue(now_ms) {
            if self.to.mailbox.waiting_orders().0 > 0 {
                // Its socket takes nothing: another frame would not be read earlier.
                self.window.wait_on(overdue.id, now_ms);
                continue;
            }
            if overdue.probe {
                self.to.mailbox.signal(Signal::Demand);
            }
            return Some(Work::Ask(self.ask(overdue.id, true)));
        }
        if !self.has_turn() {
            return None;
        }
        if let Some(turn) = self.next.front() {
            return Some(Work::Ask(self.ask(turn.id, turn.written)));
        }
        self.more = false;
        let (to, room) = (self.to.clone(), self.window.room());
        Some(if self.in_doubt { Work::Review(to, room) } else { Work::Look(to, room) })
    }

    /// Whether something may be asked for, or looked for, as far as the window goes.
    fn has_turn(&self) -> bool {
        match self.next.front() {
            Some(turn) => self.window.room() > 0 || self.window.holds(turn.id),
            None => self.more && self.window.room() > 0,
        }
    }

    /// When there is something to be done if nothing happens.
    fn due_ms(&self) -> Option<u64> {
        if self.is_fenced {
            return None;
        }
        let soon = (self.recall || self.has_turn()).then_some(self.after_ms);
        let window = self.window.next_due().map(|due_ms| due_ms.max(self.after_ms));
        soon.into_iter().chain(window).min()
    }

    fn is_idle(&self) -> bool {
        self.window.is_empty() && self.next.is_empty() && (self.is_fenced || !self.more)
    }
}

impl Line {
    /// Commands wait for the device of this connection. Whether that is news.
    pub(super) fn ring(&mut self, mailbox: &Arc<Mailbox>) -> bool {
        let epoch = mailbox.epoch();
        match &mut self.outlet {
            Some(outlet) if outlet.to.epoch > epoch => return false,
            Some(outlet) if outlet.to.epoch == epoch && Arc::ptr_eq(&outlet.to.mailbox, mailbox) => {
                (outlet.more, outlet.is_fenced, outlet.after_ms) = (true, false, 0);
            }
            outlet => *outlet = Some(Outlet::new(Address { mailbox: Arc::clone(mailbox), epoch })),
        }
        true
    }

    /// Keeps an answer until it is told. `false`: too many wait.
    pub(super) fn say(&mut self, said: Said) -> bool {
        let fits = self.answers.len() < ANSWERS;
        if fits {
            self.answers.push_back(said);
        }
        fits
    }

    /// An answer that came by this connection got lost: the command is to be written again, so that the device repeats
    /// it.
    pub(super) fn lost(&mut self, id: CommandId, mailbox: &Arc<Mailbox>) {
        if self.outlet.is_none() && !mailbox.is_closed() {
            // Everything was heard of, and the device was at it: nobody knew that there is more to be done.
            self.ring(mailbox);
        }
        if let Some(outlet) = &mut self.outlet
            && !outlet.window.holds(id)
            && outlet.next.len() < LOST
        {
            outlet.enqueue(id, true);
        }
    }

    /// Whether there is something to be taken back.
    pub(super) fn recall(&mut self, mailbox: &Arc<Mailbox>) -> bool {
        let Some(outlet) = self.outlet.as_mut().filter(|outlet| Arc::ptr_eq(&outlet.to.mailbox, mailbox)) else {
            return false;
        };
        outlet.recall = true;
        true
    }

    /// The connection ended.
    pub(super) fn left(&mut self, mailbox: &Arc<Mailbox>) {
        self.outlet.take_if(|outlet| Arc::ptr_eq(&outlet.to.mailbox, mailbox));
    }

    /// What is to be done now.
    pub(super) fn work(&mut self, now_ms: u64) -> Option<Work> {
        if now_ms >= self.answers_after_ms
            && let Some(said) = self.answers.pop_front()
        {
            return Some(Work::Answer(said));
        }
        self.outlet.as_mut().and_then(|outlet| outlet.work(now_ms))
    }

    /// When there is something to be done if nothing happens.
    pub(super) fn due_ms(&self) -> Option<u64> {
        let answers = (!self.answers.is_empty()).then_some(self.answers_after_ms);
        answers.into_iter().chain(self.outlet.as_ref().and_then(Outlet::due_ms)).min()
    }

    /// Whether nothing is to be done any more.
    pub(super) fn is_idle(&self) -> bool {
        self.answers.is_empty() && self.outlet.as_ref().is_none_or(Outlet::is_idle)
    }

    fn outlet(&mut self, to: &Address) -> Option<&mut Outlet> {
        self.outlet.as_mut().filter(|o| o.to.epoch == to.epoch && Arc::ptr_eq(&o.to.mailbox, &to.mailbox))
    }

    /// Whether the connection still has the device, as far as is known here.
    pub(super) fn has(&mut self, to: &Address) -> bool {
        self.outlet(to).is_some()
    }

    /// These wait, of so many asked for at most. Gives the question about the first of them.
    pub(super) fn found(&mut self, to: &Address, ids: &[CommandId], limit: usize) -> Option<Ask> {
        let outlet = self.outlet(to)?;
        outlet.more |= ids.len() >= limit;
        ids.iter().for_each(|id| outlet.enqueue(*id, false));
        ids.first().map(|id| outlet.ask(*id, false))
    }

    /// It could not be seen which wait.
    pub(super) fn found_nothing_out(&mut self, to: &Address, now_ms: u64) {
        if let Some(outlet) = self.outlet(to) {
            (outlet.more, outlet.in_doubt) = (true, true);
            outlet.back_off(now_ms);
        }
    }

    /// These have not ended. Those that wait are asked for, and those this connection may have been allowed to write and has
    /// not written; so many at most.
    pub(super) fn reviewed(&mut self, to: &Address, commands: &[Command], limit: usize) {
        let Some(outlet) = self.outlet(to) else { return };
        outlet.in_doubt = false;
        let is_wanted = |command: &&Command| {
            let Life { state, epoch, .. } = command.life;
            epoch != Some(to.epoch) || (state == State::Sent && !outlet.window.holds(command.id))
        };
        let ids: Vec<_> = commands.iter().filter(is_wanted).map(|command| command.id).take(limit).collect();
        outlet.more |= ids.len() >= limit;
        ids.into_iter().for_each(|id| outlet.enqueue(id, false));
    }

    /// The command's frame was left for the connection.
    pub(super) fn posted(&mut self, ask: &Ask, now_ms: u64) {
        if let Some(outlet) = self.outlet(&ask.to) {
            outlet.failures = 0;
            outlet.next.retain(|turn| turn.id != ask.id);
            outlet.window.wrote(ask.id, now_ms);
        }
    }

    /// It has to be asked for again after a while.
    pub(super) fn not_now(&mut self, ask: &Ask, now_ms: u64) {
        if let Some(outlet) = self.outlet(&ask.to) {
            outlet.back_off(now_ms);
        }
    }

    /// It is not to be written any more. `is_strange`: it was said to wait, so the next look takes its time.
    pub(super) fn done(&mut self, ask: &Ask, is_strange: bool, now_ms: u64) {
        if let Some(outlet) = self.outlet(&ask.to) {
            let waited_for = outlet.forget(ask.id);
            if is_strange && !waited_for {
                outlet.back_off(now_ms);
            }
        }
    }

    /// There is only waiting left for it.
    pub(super) fn spent(&mut self, ask: &Ask, now_ms: u64) {
        if let Some(outlet) = self.outlet(&ask.to) {
            outlet.next.retain(|turn| turn.id != ask.id);
            outlet.window.wait_on(ask.id, now_ms);
        }
    }

    /// The directory does not know this connection as the device's: nothing goes out until somebody rings.
    pub(super) fn fenced(&mut self, to: &Address) {
        if let Some(outlet) = self.outlet(to) {
            outlet.is_fenced = true;
        }
    }

    /// The device's answer counts, or needs no counting: its command is heard of. Whether it was waited for here.
    pub(super) fn heard(&mut self, id: CommandId) -> bool {
        self.outlet.as_mut().is_some_and(|outlet| outlet.forget(id))
    }

    /// The device's answer could not be told.
    pub(super) fn not_told(&mut self, said: &Said, now_ms: u64) {
        self.lost(said.id, &said.mailbox);
        if let Some(outlet) = &mut self.outlet {
            outlet.back_off(now_ms);
        }
    }

    /// The device guesses: its next answer waits a little.
    pub(super) fn guessed(&mut self, now_ms: u64) {
        self.answers_after_ms = now_ms + GUESS_PAUSE_MS;
    }
}
