//! What the rest of the node may leave for one connection, and the one way to wake it.
//!
//! A mailbox is shared by the connection, the roster and the receipts; it is a few words while nothing is in it, and
//! everything in it is bounded: a bit for each record of the window, a bit for each signal, and a short queue of letters.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use crate::id::{Boot, CommandId, Epoch, SessionId};
use crate::protocol::close::CloseReason;
use crate::protocol::message::GatewayMessage;
use crate::sync::lock;

/// Most letters that wait for one connection.
pub const LETTERS: usize = 16;

/// Most commands among them.
pub const ORDERS: usize = 8;

/// How long after it was allowed a command may be written; then it has to be asked for again.
pub const FRESH: Duration = Duration::from_secs(2);

/// Records of one connection that can be outstanding: the bits of a word.
pub const WINDOW: usize = 64;

/// Beside the count of outstanding records: whether the connection's messages are in the log.
const TRACED: u32 = 1 << 31;
/// And whether some of those records are sampled.
const SAMPLED: u32 = 1 << 30;
/// The count without both.
const COUNT: u32 = SAMPLED - 1;

/// Something the node tells every connection, or asks of one; told twice is the same as told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Signal {
    /// The event log began or ceased to take records: look at the node's flow.
    Flow = 1,
    /// A moment the connection asked for has come, or is worth looking at.
    Tick = 2,
    /// Signing keys were withdrawn, tokens revoked or devices blocked: look at yours.
    Keys = 4,
    /// The node is stopping: read no more, settle what is outstanding, close.
    Stop = 8,
    /// It is time to connect elsewhere: say so, work on until the deadline, then close.
    Leave = 256,
    /// The same for this connection alone: others are to have it, and the node goes on.
    Move = 512,
    /// A letter was left. Set by [`Mailbox::post`], so that a turn without letters takes no lock.
    Letter = 16,
    /// The directory is back and this connection is provisional: ping the device, and say when it answered
    /// ([`Mailbox::answered`]).
    Prove = 32,
    /// Commands were written and nothing was heard of them: ping the device, and close when it stays silent for 10 s.
    Demand = 64,
    /// The device answered a command that was never sent.
    Guess = 128,
}

/// A set of [`Signal`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signals(u32);

impl Signals {
    /// Whether `signal` is among them.
    pub const fn has(self, signal: Signal) -> bool {
        self.0 & signal as u32 != 0
    }
}

/// Something for one connection alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Letter {
    /// End, for this reason.
    Close(CloseReason),
    /// Say this to an application.
    Say(Box<GatewayMessage<'static>>),
    /// Write this command, if it is still fresh.
    Command(Box<Order>),
}

/// A command that this connection may write, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The command.
    pub id: CommandId,
    /// What to do.
    pub name: String,
    /// With what: one JSON value.
    pub params: String,
    /// Until when it makes sense, Unix milliseconds.
    pub expires_at_ms: i64,
    /// On how many connections it was sent, this one counted.
    pub attempt: u32,
    /// Whether this connection has written it before.
    pub again: bool,
    /// When it was asked whether it may be written: not later than [`FRESH`] after this.
    pub asked: Instant,
}

impl Order {
    /// Hands over the frame's message.
    pub fn message<T>(&self, with: impl FnOnce(&GatewayMessage<'_>) -> T) -> T {
        with(&GatewayMessage::Command {
            id: &self.id.to_string(),
            name: &self.name,
            params: &self.params,
            expires_at: self.expires_at_ms,
            attempt: self.attempt,
        })
    }

    /// About how much memory it holds.
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.name.len() + self.params.len()
    }
}

/// What there is of commands.
#[derive(Debug, PartialEq, Eq)]
pub enum NextOrder {
    /// This one is to be written now.
    Write(Box<Order>),
    /// The oldest waited too long: none may be written until whoever posts them has taken them back.
    Stale,
    /// None waits.
    None,
}

/// Why a letter was not taken. The two go to different places: one is retried or counted, the other is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// [`LETTERS`] wait already, or it is a command and [`ORDERS`] do.
    #[error("the connection's mailbox is full")]
    Full,
    /// The connection has ended.
    #[error("the connection is gone")]
    Gone,
}

/// Records that ended since the connection last looked, as bits by their number modulo [`WINDOW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settled {
    /// All that ended.
    pub ended: u64,
    /// Those among them that the log refused.
    pub refused: u64,
}

#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "a word in each of many mailboxes, which are mostly empty")]
enum Queue {
    #[default]
    Empty,
    Some(Box<VecDeque<Letter>>),
    Closed,
}

impl Queue {
    /// Gives the memory back with the last letter.
    fn tidy(&mut self) {
        if matches!(self, Self::Some(letters) if letters.is_empty()) {
            *self = Self::Empty;
        }
    }
}

const fn is_order(letter: &Letter) -> bool {
    matches!(letter, Letter::Command(_))
}

fn orders(letters: &VecDeque<Letter>) -> impl Iterator<Item = &Order> {
    letters.iter().filter_map(|letter| match letter {
        Letter::Command(order) => Some(&**order),
        Letter::Close(_) | Letter::Say(_) => None,
    })
}

/// How a connection stands with the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// It is in no directory: an application's, or nobody claims here.
    Alone,
    /// Its row was written.
    Registered,
    /// The directory was away when it came.
    Provisional,
    /// The same, and its device was asked for a sign of life.
    Asked,
    /// The same, and it gave one.
    Proven,
}

impl Standing {
    /// Whether its row is still to be claimed.
    pub const fn is_provisional(self) -> bool {
        matches!(self, Self::Provisional | Self::Asked | Self::Proven)
    }

    const fn of(bits: u8) -> Self {
        match bits {
            1 => Self::Registered,
            2 => Self::Provisional,
            3 => Self::Asked,
            4 => Self::Proven,
            _ => Self::Alone,
        }
    }
}

/// One connection's mailbox, and what the node knows of the connection.
#[derive(Debug)]
pub struct Mailbox {
    ended: AtomicU64,
    refused: AtomicU64,
    signals: AtomicU32,
    /// The node's tick at which the connection wants [`Signal::Tick`]; `u32::MAX` for never.
    due: AtomicU32,
    /// Records appended and not settled. Outlives the connection, as the log does not forget them. The highest bits are
    /// [`TRACED`] and [`SAMPLED`].
    outstanding: AtomicU32,
    standing: AtomicU8,
    /// The largest message its peer can take; 0: any. Three bytes, which fill a gap.
    max_bytes: [u8; 3],
    session: SessionId,
    /// Under which epoch it has its device; 0 before it has it.
    epoch: AtomicU64,
    boot: Boot,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

/// That of a connection nobody named.
impl Default for Mailbox {
    fn default() -> Self {
        let session = SessionId::draw();
        Self::new(session, session.into(), Standing::Alone)
    }
}

impl Mailbox {
    /// An empty one.
    pub fn new(session: SessionId, boot: Boot, standing: Standing) -> Self {
        Self {
            ended: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            signals: AtomicU32::new(0),
            due: AtomicU32::new(0),
            outstanding: AtomicU32::new(0),
            standing: AtomicU8::new(standing as u8),
            max_bytes: [0; 3],
            session,
            epoch: AtomicU64::new(0),
            boot,
            queue: Mutex::default(),
            waker: AtomicWaker::new(),
        }
    }

    /// The same for a peer that takes messages of so many bytes at most.
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: Option<usize>) -> Self {
        let [bytes @ .., top] = u32::try_from(max_bytes.unwrap_or(0)).unwrap_or(u32::MAX).to_le_bytes();
        // What is larger than three bytes tell is larger than any message.
        self.max_bytes = if top == 0 { bytes } else { [0; 3] };
        self
    }

    /// The largest message its peer can take, where it said so.
    pub fn max_bytes(&self) -> Option<usize> {
        let [a, b, c] = self.max_bytes;
        let bytes = u32::from_le_bytes([a, b, c, 0]) as usize;
        (bytes != 0).then_some(bytes)
    }

    /// The connection's name.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The boot of its peer.
    pub const fn boot(&self) -> &Boot {
        &self.boot
    }

    /// The epoch under which it has its device; 0 of an application.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Gives it an epoch: the roster's to do.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Release);
    }

    /// Whether somebody wants its messages in the log.
    pub fn is_traced(&self) -> bool {
        self.outstanding.load(Ordering::Relaxed) & TRACED != 0
    }

    /// Has its messages in the log, or no longer.
    pub fn set_traced(&self, traced: bool) {
        if traced {
            self.outstanding.fetch_or(TRACED, Ordering::Relaxed);
        } else {
            self.outstanding.fetch_and(!TRACED, Ordering::Relaxed);
        }
    }

    /// Whether records that are outstanding may be sampled.
    pub fn is_sampled(&self) -> bool {
        self.outstanding.load(Ordering::Relaxed) & SAMPLED != 0
    }

    /// Some are, or none any longer.
    pub fn set_sampled(&self, sampled: bool) {
        if sampled {
            self.outstanding.fetch_or(SAMPLED, Ordering::Relaxed);
        } else {
            self.outstanding.fetch_and(!SAMPLED, Ordering::Relaxed);
        }
    }

    /// How it stands with the directory.
    pub fn standing(&self) -> Standing {
        Standing::of(self.standing.load(Ordering::Acquire))
    }

    /// Its row was written.
    pub fn set_registered(&self) {
        self.standing.store(Standing::Registered as u8, Ordering::Release);
    }

    /// Asks for a sign of life of a device whose row is still to be claimed, once.
    pub fn ask(&self) {
        if self.step(Standing::Provisional, Standing::Asked) {
            self.signal(Signal::Prove);
        }
    }

    /// The device gave a sign of life after it was asked for one.
    pub fn answered(&self) {
        self.step(Standing::Asked, Standing::Proven);
    }

    fn step(&self, from: Standing, to: Standing) -> bool {
        self.standing.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Remembers whom to wake. To be called before looking at what is here, at each turn.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Wakes the connection.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Leaves a signal and wakes the connection.
    pub fn signal(&self, signal: Signal) {
        self.signals.fetch_or(signal as u32, Ordering::Release);
        self.wake();
    }

    /// Leaves a signal for the next turn, whenever that comes.
    pub fn keep(&self, signal: Signal) {
        self.signals.fetch_or(signal as u32, Ordering::Release);
    }

    /// Takes the signals.
    pub fn take_signals(&self) -> Signals {
        if self.signals.load(Ordering::Relaxed) == 0 {
            return Signals(0);
        }
        Signals(self.signals.swap(0, Ordering::Acquire))
    }

    /// Leaves a letter and wakes the connection.
    ///
    /// # Errors
    /// [`PostError`].
    pub fn post(&self, letter: Letter) -> Result<(), PostError> {
        {
            let mut queue = lock(&self.queue);
            match &mut *queue {
                Queue::Closed => return Err(PostError::Gone),
                Queue::Empty => *queue = Queue::Some(Box::new(VecDeque::from([letter]))),
                Queue::Some(letters) if letters.len() >= LETTERS => return Err(PostError::Full),
                Queue::Some(letters) if is_order(&letter) && orders(letters).count() >= ORDERS => {
                    return Err(PostError::Full);
                }
                Queue::Some(letters) => letters.push_back(letter),
            }
        }
        self.signal(Signal::Letter);
        Ok(())
    }

    /// Takes the oldest letter that is no command; the queue's memory goes with the last.
    pub fn take_letter(&self) -> Option<Letter> {
        let mut queue = lock(&self.queue);
        let Queue::Some(letters) = &mut *queue else { return None };
        let letter = letters.iter().position(|letter| !is_order(letter)).and_then(|place| letters.remove(place));
        queue.tidy();
        letter
    }

    /// Takes the oldest command, if at `now` it is still fresh.
    pub fn take_order(&self, now: Instant) -> NextOrder {
        let mut queue = lock(&self.queue);
        let Queue::Some(letters) = &mut *queue else { return NextOrder::None };
        let Some(place) = letters.iter().position(is_order) else { return NextOrder::None };
        match letters.remove(place) {
            Some(Letter::Command(order)) if now.saturating_duration_since(order.asked) < FRESH => {
                queue.tidy();
                NextOrder::Write(order)
            }
            Some(letter) => {
                letters.insert(place, letter);
                NextOrder::Stale
            }
            None => NextOrder::None,
        }
    }

    /// Takes back every command that waits, the oldest first: for whoever posted them.
    pub fn recall_orders(&self) -> Vec<Order> {
        let mut queue = lock(&self.queue);
        let Queue::Some(letters) = &mut *queue else { return Vec::new() };
        let mut recalled = Vec::new();
        for letter in std::mem::take(&mut **letters) {
            match letter {
                Letter::Command(order) => recalled.push(*order),
                other => letters.push_back(other),
            }
        }
        queue.tidy();
        recalled
    }

    /// How many commands wait, and about how much memory they hold in bytes.
    pub fn waiting_orders(&self) -> (usize, usize) {
        match &*lock(&self.queue) {
            Queue::Some(letters) => orders(letters).fold((0, 0), |sum, order| (sum.0 + 1, sum.1 + order.bytes())),
            Queue::Empty | Queue::Closed => (0, 0),
        }
    }

    /// Takes no more letters: the connection has ended.
    pub fn close(&self) {
        *lock(&self.queue) = Queue::Closed;
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        matches!(*lock(&self.queue), Queue::Closed)
    }

    /// Says at which tick the connection wants to be woken.
    pub fn set_due(&self, tick: u32) {
        self.due.store(tick, Ordering::Relaxed);
    }

    /// Wakes the connection if its moment has come.
    pub fn tick(&self, now: u32) {
        if self.due.load(Ordering::Relaxed) <= now {
            self.due.store(u32::MAX, Ordering::Relaxed);
            self.signal(Signal::Tick);
        }
    }

    /// Counts a record that is about to be appended.
    pub fn appended(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes back [`Mailbox::appended`], where the log did not take the record.
    pub fn not_appended(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records appended and not settled.
    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Acquire) & COUNT
    }

    /// Notes the end of the record with number `index` (modulo [`WINDOW`]). Does not wake. Returns whether it was the
    /// last outstanding one.
    pub fn settle(&self, index: u8, refused: bool) -> bool {
        let bit = 1u64 << (u32::from(index) % WINDOW as u32);
        if refused {
            self.refused.fetch_or(bit, Ordering::Relaxed);
        }
        self.ended.fetch_or(bit, Ordering::Release);
        self.outstanding.fetch_sub(1, Ordering::AcqRel) & COUNT == 1
    }

    /// Waits until something was settled, and takes it. For one who has no turns of his own.
    pub async fn settled(&self) -> Settled {
        poll_fn(|cx| {
            self.register(cx.waker());
            let settled = self.take_settled();
            if settled.ended == 0 { Poll::Pending } else { Poll::Ready(settled) }
        })
        .await
    }

    /// Takes what was settled.
    pub fn take_settled(&self) -> Settled {
        if self.ended.load(Ordering::Relaxed) == 0 {
            return Settled::default();
        }
        let ended = self.ended.swap(0, Ordering::Acquire);
        // A record's refusal is written before its end, so what is seen ended has its refusal seen; a refusal whose end
        // is not yet seen stays for the next time.
        let refused = self.refused.load(Ordering::Relaxed) & ended;
        if refused != 0 {
            self.refused.fetch_and(!refused, Ordering::Relaxed);
        }
        Settled { ended, refused }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn full_is_not_gone() {
        let mailbox = Mailbox::default();
        for _ in 0..LETTERS {
            mailbox.post(Letter::Close(CloseReason::Blocked)).unwrap();
        }
        assert_eq!(mailbox.post(Letter::Close(CloseReason::Blocked)), Err(PostError::Full));
        mailbox.close();
        assert_eq!(mailbox.post(Letter::Close(CloseReason::Blocked)), Err(PostError::Gone));
    }

    #[test]
    fn a_letter_is_announced_by_its_signal() {
        let mailbox = Mailbox::default();
        assert!(!mailbox.take_signals().has(Signal::Letter));
        mailbox.post(Letter::Close(CloseReason::Moved)).unwrap();
        assert!(mailbox.take_signals().has(Signal::Letter));
        assert_eq!(mailbox.take_letter(), Some(Letter::Close(CloseReason::Moved)));
        assert_eq!(mailbox.take_letter(), None);
    }

    fn order(number: u32, asked: Instant) -> Box<Order> {
        let device = crate::id::DeviceKey::new("t", "d").unwrap();
        Box::new(Order {
            id: CommandId::of(&device, "a", &number.to_string()),
            name: "open".to_owned(),
            params: "1".to_owned(),
            expires_at_ms: 0,
            attempt: number,
            again: false,
            asked,
        })
    }

    #[test]
    fn commands_leave_room_for_other_letters_and_are_passed_over_by_them() {
        let (mailbox, now) = (Mailbox::default(), Instant::now());
        for number in 0..ORDERS as u32 {
            mailbox.post(Letter::Command(order(number, now))).unwrap();
        }
        assert_eq!(mailbox.post(Letter::Command(order(99, now))), Err(PostError::Full));
        mailbox.post(Letter::Close(CloseReason::Moved)).unwrap();
        assert_eq!(mailbox.take_letter(), Some(Letter::Close(CloseReason::Moved)));
        assert_eq!(mailbox.take_letter(), None);
        assert_eq!(mailbox.take_order(now), NextOrder::Write(order(0, now)));
        assert_eq!(mailbox.waiting_orders().0, ORDERS - 1);
    }

    #[test]
    fn behind_a_stale_command_none_is_written_until_all_are_taken_back() {
        let (mailbox, now) = (Mailbox::default(), Instant::now());
        let later = now + FRESH;
        mailbox.post(Letter::Command(order(1, now))).unwrap();
        mailbox.post(Letter::Close(CloseReason::Moved)).unwrap();
        mailbox.post(Letter::Command(order(2, later))).unwrap();
        assert_eq!(mailbox.take_order(later), NextOrder::Stale);
        assert_eq!(mailbox.take_order(later), NextOrder::Stale);
        assert_eq!(mailbox.recall_orders(), [*order(1, now), *order(2, later)]);
        assert_eq!((mailbox.take_order(later), mailbox.waiting_orders()), (NextOrder::None, (0, 0)));
        assert_eq!(mailbox.take_letter(), Some(Letter::Close(CloseReason::Moved)));
    }

    #[test]
    fn the_largest_message_is_kept_in_three_bytes() {
        let kept = |asked| Mailbox::default().with_max_bytes(asked).max_bytes();
        assert_eq!([None, Some(512), Some(0x12_3456)].map(kept), [None, Some(512), Some(0x12_3456)]);
        assert_eq!([Some(1 << 24), Some(usize::MAX)].map(kept), [None, None]);
    }

    #[test]
    fn what_was_settled_is_taken_once() {
        let mailbox = Mailbox::default();
        for _ in 0..3 {
            mailbox.appended();
        }
        assert!(!mailbox.settle(1, false));
        assert!(!mailbox.settle(63, true));
        assert_eq!(mailbox.take_settled(), Settled { ended: 1 << 1 | 1 << 63, refused: 1 << 63 });
        assert_eq!(mailbox.take_settled(), Settled::default());
        assert!(mailbox.settle(0, false));
        assert_eq!(mailbox.outstanding(), 0);
    }

    #[test]
    fn a_trace_changes_nothing_of_what_is_outstanding() {
        let mailbox = Mailbox::default();
        mailbox.appended();
        mailbox.set_traced(true);
        assert_eq!((mailbox.outstanding(), mailbox.is_traced()), (1, true));
        assert!(mailbox.settle(0, false), "the last one");
        mailbox.set_traced(false);
        assert_eq!((mailbox.outstanding(), mailbox.is_traced()), (0, false));
    }

    #[test]
    fn a_tick_comes_once_and_not_before_it_is_due() {
        let mailbox = Mailbox::default();
        mailbox.set_due(7);
        mailbox.tick(6);
        assert!(!mailbox.take_signals().has(Signal::Tick));
        mailbox.tick(7);
        assert!(mailbox.take_signals().has(Signal::Tick));
        mailbox.tick(8);
        assert!(!mailbox.take_signals().has(Signal::Tick));
    }

    #[test]
    fn an_empty_mailbox_is_small() {
        // With the two counts of its `Arc` it fits 128 bytes.
        assert!(size_of::<Mailbox>() <= 112, "{}", size_of::<Mailbox>());
    }
}
