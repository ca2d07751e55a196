//! The ledger: what devices sent and were told, and what callers heard of their commands, held against what lies in
//! Kafka.
//!
//! It is kept while a run goes on and judged at its end. A device's task takes its own [`Entry`] and tells it of
//! everything it writes and hears; a call costs 60 to 150 ns (of one device; of 10,000 in turn), since an entry's lock
//! is its own and nobody waits for it. Callers of commands tell the [`Ledger`] itself. [`Ledger::check`] then reads the
//! topics from where they ended as the run began ([`KafkaTarget::mark`]) to where they end now.
//!
//! **Memory.** A message takes six bytes: 32 bits of its digest, and what became of it (the state of the check
//! included); nine with the room a growing list keeps. A gap in a device's numbers takes 16 more, a device and a boot
//! some 300, a command 120. Ten million messages take 65 to 100 MB, as lists happen to be full, and 40 MB as bytes;
//! judging as many records takes 10 s of one core beside what Kafka's client takes
//! (`ten_million_messages_take_under_500_mb` measures it). [`Ledger::LIMIT`] bounds it: what comes above is not noted,
//! and the verdict says that it is not complete. While topics are read, their records take some 40 MB more.
//!
//! **What is a fault** is said at the fields of [`Verdict`]. An altered message goes unnoticed with a chance of one in
//! four billion, since 32 bits of a digest are kept. A message may stand in the topic as often as it was sent.
//!
//! **Workers** send their ledgers as bytes ([`Ledger::to_bytes`]), which whoever judges merges.

mod audit;
mod book;
mod bytes;
mod commands;
mod digest;
mod topic;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use audit::{Audit, Stored};
pub use digest::digest;
pub use topic::{KafkaTarget, Marks, Pass, Topic};

use crate::figures::{CommandVerdict, Verdict};
use book::{Book, Mark};
use commands::{Call, Calls, Work, Works};

/// Bytes of a device beside its books: its name, its place in the map, its lock.
const DEVICE_BYTES: usize = 160;

/// Why a ledger could not begin, or not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The brokers did not answer, or not as they should.
    #[error("Kafka at {brokers} does not answer: {reason}. Check --kafka and that the brokers run")]
    Kafka {
        /// Where.
        brokers: String,
        /// What was heard.
        reason: String,
    },
    /// A topic is missing.
    #[error("Kafka at {brokers} has no topic {topic}. Check the topic prefix: it is the gateway's kafka.topic_prefix")]
    Topic {
        /// Where.
        brokers: String,
        /// Which.
        topic: String,
    },
    /// A setting that librdkafka does not take.
    #[error("Kafka's settings are not valid: {0}")]
    Settings(String),
    /// Bytes of another version of the load tester, or none of it.
    #[error("not a ledger this version can read: run one version of the load tester everywhere ({0})")]
    Bytes(&'static str),
}

/// What everybody who writes into one ledger shares: its bound.
#[derive(Debug)]
struct Bound {
    limit: usize,
    taken: AtomicUsize,
    missed: AtomicU64,
}

impl Bound {
    /// Whether there is room for `more` bytes; what finds none is counted as missed.
    fn has_room(&self, more: usize) -> bool {
        let room = more == 0 || self.taken.load(Ordering::Relaxed).saturating_add(more) <= self.limit;
        if !room {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
        room
    }

    /// Something grew.
    fn took(&self, before: usize, after: usize) {
        if after > before {
            self.taken.fetch_add(after - before, Ordering::Relaxed);
        }
    }
}

/// Everything of one device.
#[derive(Debug, Default)]
struct Page {
    /// By boot, the latest last.
    books: Vec<Book>,
    works: Works,
}

impl Page {
    fn book(&mut self, boot: &str) -> Option<&mut Book> {
        self.books.iter_mut().rev().find(|book| &*book.boot == boot)
    }

    fn bytes(&self) -> usize {
        self.books.iter().map(Book::bytes).sum::<usize>() + commands::map_bytes(&self.works)
    }

    /// Writes into the book of a boot, which is made where there is none.
    fn write(&mut self, bound: &Bound, boot: &str, write: impl FnOnce(&mut Book)) {
        if self.book(boot).is_none() {
            let book = Book::new(boot);
            if !bound.has_room(book.bytes()) {
                return;
            }
            bound.took(0, book.bytes());
            self.books.reserve_exact(1);
            self.books.push(book);
        }
        let Some(book) = self.book(boot) else { return };
        let (before, growth) = (book.bytes(), book.growth());
        // Growth is rare: only then is there anything to ask for.
        if growth == 0 || bound.has_room(growth) {
            write(book);
            bound.took(before, book.bytes());
        }
    }

    fn work(&mut self, bound: &Bound, id: &str, write: impl FnOnce(&mut Work)) {
        let before = commands::map_bytes(&self.works);
        if bound.has_room(commands::map_growth(&self.works)) {
            write(self.works.entry(commands::id(id)).or_default());
            bound.took(before, commands::map_bytes(&self.works));
        }
    }
}

type Pages = HashMap<Box<str>, Arc<Mutex<Page>>>;

/// What a run's devices and callers did and heard. Shared by reference; see the module's text.
#[derive(Debug)]
pub struct Ledger {
    bound: Arc<Bound>,
    /// By `<tenant>/<device>`.
    pages: Mutex<Pages>,
    calls: Mutex<Calls>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

/// One device's own way into the ledger. Several of one device write into the same page.
#[derive(Debug, Clone)]
pub struct Entry {
    bound: Arc<Bound>,
    page: Arc<Mutex<Page>>,
}

impl Ledger {
    /// Bytes a ledger may take.
    pub const LIMIT: usize = 440_000_000;

    /// An empty one, bounded by [`Ledger::LIMIT`].
    pub fn new() -> Self {
        Self::with_limit(Self::LIMIT)
    }

    /// An empty one that takes at most so many bytes.
    pub fn with_limit(limit: usize) -> Self {
        let bound = Bound { limit, taken: AtomicUsize::new(0), missed: AtomicU64::new(0) };
        Self { bound: Arc::new(bound), pages: Mutex::default(), calls: Mutex::default() }
    }

    /// The entry of a device, by its tenant (that of its token, or the gateway's default) and its id.
    pub fn device(&self, tenant: &str, device: &str) -> Entry {
        let name = format!("{tenant}/{device}").into_boxed_str();
        let mut pages = lock(&self.pages);
        let page = pages.entry(name).or_insert_with_key(|name| {
            self.bound.took(0, DEVICE_BYTES + name.len());
            Arc::default()
        });
        Entry { bound: Arc::clone(&self.bound), page: Arc::clone(page) }
    }

    /// The gateway took a command for this device, under this id. Again under the same id is nothing new.
    pub fn accepted(&self, tenant: &str, device: &str, id: &str) {
        let device = commands::hash_of(&format!("{tenant}/{device}"));
        self.call(id, Call { device, heard: Call::ACCEPTED });
    }

    /// The caller heard a command's end: whether it `succeeded`, or failed in whatever way (expired, rejected,
    /// cancelled). Not for a caller that gave up waiting: what was accepted and has no end is found by that.
    pub fn ended(&self, id: &str, succeeded: bool) {
        let heard = if succeeded { Call::SUCCEEDED } else { Call::FAILED };
        self.call(id, Call { device: 0, heard });
    }

    fn call(&self, id: &str, call: Call) {
        let mut calls = lock(&self.calls);
        let before = commands::map_bytes(&calls);
        if self.bound.has_room(commands::map_growth(&calls)) {
            calls.entry(commands::id(id)).or_default().add(call);
            self.bound.took(before, commands::map_bytes(&calls));
        }
    }

    /// Bytes it takes now.
    pub fn bytes(&self) -> usize {
        self.bound.taken.load(Ordering::Relaxed)
    }

    /// Messages it knows.
    pub fn messages(&self) -> u64 {
        let pages = lock(&self.pages);
        pages.values().map(|page| lock(page).books.iter().map(|book| book.len() as u64).sum::<u64>()).sum()
    }

    /// How much was not noted since the ledger was full.
    pub fn missed(&self) -> u64 {
        self.bound.missed.load(Ordering::Relaxed)
    }

    /// Takes over what another one knows: of other devices, or of the same. Where it would not fit, nothing of it is
    /// taken, and all of it counts as missed.
    pub fn merge(&self, other: Self) {
        self.bound.missed.fetch_add(other.missed(), Ordering::Relaxed);
        if self.bytes().saturating_add(other.bytes()) > self.bound.limit {
            self.bound.missed.fetch_add(other.messages().max(1), Ordering::Relaxed);
            return;
        }
        let mut pages = lock(&self.pages);
        for (name, page) in into_inner(other.pages) {
            let mine = pages.entry(name).or_insert_with_key(|name| {
                self.bound.took(0, DEVICE_BYTES + name.len());
                Arc::default()
            });
            let theirs = std::mem::take(&mut *lock(&page));
            let mut mine = lock(mine);
            let before = mine.bytes();
            merge_pages(&mut mine, theirs);
            self.bound.took(before, mine.bytes());
        }
        let mut calls = lock(&self.calls);
        let before = commands::map_bytes(&calls);
        into_inner(other.calls).into_iter().for_each(|(id, call)| calls.entry(id).or_default().add(call));
        self.bound.took(before, commands::map_bytes(&calls));
    }

    /// Compact bytes of everything, about five a message, for whoever merges.
    pub fn to_bytes(&self) -> Vec<u8> {
        bytes::write(self)
    }

    /// What [`Ledger::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`LedgerError::Bytes`] for anything else, cut or changed bytes included.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LedgerError> {
        bytes::read(bytes).map_err(LedgerError::Bytes)
    }

    /// Reads the topics from `since` to their ends as they are now, and judges everything. Takes `within` at most, and
    /// gives up after 30 s in which nothing came: the verdict is then not complete and says why. Tells `progress` about
    /// every 10,000 records how many of how many were read. Blocks: call it from a thread that may, once the devices
    /// are gone.
    pub fn check(
        &self,
        kafka: &KafkaTarget,
        since: &Marks,
        within: Duration,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Verdict {
        self.check_through(kafka, since, within, progress, &mut |record, pass| pass(record))
    }

    /// [`Ledger::check`] with every record given to `filter` first, which passes on what it likes: for tests of the
    /// ledger itself.
    pub fn check_through(
        &self,
        kafka: &KafkaTarget,
        since: &Marks,
        within: Duration,
        progress: &mut dyn FnMut(u64, u64),
        filter: &mut Pass<'_>,
    ) -> Verdict {
        let mut audit = Audit::begin(self);
        let read = topic::read(kafka, since, within, progress, &mut |record| {
            filter(record, &mut |record| audit.record(record));
        });
        audit.finish(read)
    }

    /// Judges the commands alone, for a run without Kafka.
    pub fn check_commands(&self) -> CommandVerdict {
        let names = self.names();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let works = |name| self.page(name).map(|page| lock(&page).works.clone()).unwrap_or_default();
        commands::judge(&lock(&self.calls), &names, names.iter().map(|name| (*name, works(name))))
    }

    fn page(&self, name: &str) -> Option<Arc<Mutex<Page>>> {
        lock(&self.pages).get(name).map(Arc::clone)
    }

    /// Every device's name, sorted.
    fn names(&self) -> Vec<Box<str>> {
        let mut names: Vec<Box<str>> = lock(&self.pages).keys().cloned().collect();
        names.sort_unstable();
        names
    }
}

fn merge_pages(mine: &mut Page, theirs: Page) {
    for book in theirs.books {
        match mine.book(&book.boot) {
            Some(mine) => book.messages().for_each(|(seq, digest, mark)| mine.take(seq, digest, mark)),
            None => mine.books.push(book),
        }
    }
    if mine.works.is_empty() {
        mine.works = theirs.works;
    } else {
        theirs.works.into_iter().for_each(|(id, work)| mine.works.entry(id).or_default().add(work));
    }
}

impl Entry {
    /// An update was written to the socket, for the first time or again; `digest` is that of [`digest()`]. To be told
    /// before the ack can come. `boot` is what the gateway scopes `seq` by: the device's boot, or the session's id
    /// where it gave none.
    pub fn sent(&self, boot: &str, seq: u64, digest: u64) {
        self.write(boot, |book| book.sent(seq, fold_digest(digest)));
    }

    /// An update was acked: each of those that a cumulative ack covers, and those that a `resume_after` says are
    /// stored.
    pub fn acked(&self, boot: &str, seq: u64) {
        self.write(boot, |book| book.told(seq, Mark::ACKED));
    }

    /// An update was refused.
    pub fn refused(&self, boot: &str, seq: u64) {
        self.write(boot, |book| book.told(seq, Mark::REFUSED));
    }

    /// A command came, be it for the first time or again.
    pub fn received(&self, id: &str, attempt: u32) {
        lock(&self.page).work(&self.bound, id, |work| work.received(attempt));
    }

    /// The device ran a command: once for each id, if it is a good one.
    pub fn ran(&self, id: &str) {
        lock(&self.page).work(&self.bound, id, Work::ran);
    }

    /// The device gave a command's end, for the first time or again: whether it `succeeded`, and the JSON text of
    /// `result`. Not for `received` and `running`.
    pub fn answered(&self, id: &str, succeeded: bool, result: Option<&str>) {
        let answer = result.map_or(0, |result| fold_digest(digest::of_json(result)));
        lock(&self.page).work(&self.bound, id, |work| work.answered(succeeded, answer));
    }

    fn write(&self, boot: &str, write: impl FnOnce(&mut Book)) {
        lock(&self.page).write(&self.bound, boot, write);
    }
}

/// The 32 bits of a digest that are kept.
fn fold_digest(digest: u64) -> u32 {
    (digest ^ digest >> 32) as u32
}

/// What a panic of another thread left is whole: nothing is written in two steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "ledger/tests.rs"]
mod tests;
