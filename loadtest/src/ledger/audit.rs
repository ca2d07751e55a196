//! The judge: one record after the other, then what is missing. Knows no Kafka and no clock.

use super::book::{Book, MANY, Mark};
use super::commands::short;
use super::digest::Message;
use super::topic::Topic;
use super::{Ledger, fold_digest, lock};
use crate::figures::Verdict;

/// A record as it lies in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Where.
    pub topic: Topic,
    /// Partition.
    pub partition: i32,
    /// Offset within it.
    pub offset: i64,
    /// The record's key, `<tenant>/<device>`.
    pub key: &'a [u8],
    /// `ce_source`, `/tidegate/<tenant>/<device>`; empty where there is none.
    pub source: &'a str,
    /// `ce_id`, `<boot>:<seq>`; empty where there is none.
    pub id: &'a str,
    /// The JSON message.
    pub value: &'a [u8],
}

/// A check that goes on.
pub struct Audit<'a> {
    ledger: &'a Ledger,
    verdict: Verdict,
}

impl<'a> Audit<'a> {
    /// Begins one. What an earlier one found is forgotten.
    pub fn begin(ledger: &'a Ledger) -> Self {
        for page in lock(&ledger.pages).values() {
            lock(page).books.iter_mut().for_each(Book::forget_topics);
        }
        Self { ledger, verdict: Verdict::default() }
    }

    /// Takes the next record: those of a partition in their order, partitions in any.
    pub fn record(&mut self, record: &Stored<'_>) {
        self.verdict.records += 1;
        if self.find(record).is_none() {
            self.verdict.skipped += 1;
        }
    }

    /// None where the record is not about anything this run did.
    fn find(&mut self, record: &Stored<'_>) -> Option<()> {
        let device = record.source.strip_prefix("/tidegate/")?;
        let (boot, seq) = record.id.rsplit_once(':')?;
        let seq: u64 = seq.parse().ok()?;
        let page = self.ledger.page(device)?;
        let mut page = lock(&page);
        let book = page.book(boot)?;
        let name = Name { device, seq, record };
        match book.find(seq) {
            Some(place) => judge(book, place, &name, &mut self.verdict),
            // It may be one of those that were not noted.
            None if self.ledger.missed() > 0 => return None,
            None => self.verdict.unsent.add(|| name.says("is there, and was never sent")),
        }
        Some(())
    }

    /// The end: `read` says why the topics were not read whole, where they were not.
    pub fn finish(self, read: Result<(), String>) -> Verdict {
        let Self { ledger, mut verdict } = self;
        verdict.incomplete = read.err().or_else(|| {
            let missed = ledger.missed();
            let full =
                || format!("the ledger was full: {missed} notes were not taken. Let fewer devices send for less long");
            (missed > 0).then(full)
        });
        verdict.complete = verdict.incomplete.is_none();
        for name in ledger.names() {
            let Some(page) = ledger.page(&name) else { continue };
            lock(&page).books.iter().for_each(|book| settle(short(&name), book, &mut verdict));
        }
        verdict.commands = ledger.check_commands();
        verdict
    }
}

/// What a finding is called by.
struct Name<'a> {
    device: &'a str,
    seq: u64,
    record: &'a Stored<'a>,
}

impl Name<'_> {
    fn says(&self, what: &str) -> String {
        let Stored { topic, partition, offset, id, .. } = self.record;
        format!("{} {id}: {what} ({} {partition}, offset {offset})", short(self.device), topic.name())
    }
}

/// Holds a record against what is known of its message.
fn judge(book: &mut Book, place: usize, name: &Name<'_>, verdict: &mut Verdict) {
    let before = book.mark(place);
    book.mark_mut(place).add_stored();
    if before.sent() == 0 {
        return verdict.unsent.add(|| name.says("is there, and was never sent"));
    }
    let wrong = fault_of(name, book.digest(place));
    if before.stored() == 0 {
        if let Some(wrong) = wrong {
            verdict.altered.add(|| name.says(wrong));
        }
        return judge_order(book, before, name, verdict);
    }
    let times = before.stored() + 1;
    if let Some(wrong) = wrong {
        verdict.doubled.add(|| name.says(&format!("is there again, and {wrong}")));
    } else if times > before.sent() && before.sent() < MANY {
        verdict.doubled.add(|| name.says(&format!("is there {times} times, and was sent {}", before.sent())));
    }
}

/// What is wrong with a record by itself.
fn fault_of(name: &Name<'_>, sent: u32) -> Option<&'static str> {
    let record = name.record;
    if record.key != name.device.as_bytes() {
        return Some("has another device's key");
    }
    let Some(message) = Message::read(record.value) else { return Some("holds no message") };
    if message.kind != record.topic.kind() {
        return Some("lies in the wrong topic");
    }
    let seq_differs = message.seq.is_some_and(|seq| seq != name.seq);
    if seq_differs || message.device_id.is_some_and(|id| id != short(name.device)) {
        return Some("holds the message of another id");
    }
    (fold_digest(message.digest) != sent).then_some("holds another payload than was sent")
}

/// The first record of a message has to lie behind those of all lower numbers.
fn judge_order(book: &mut Book, mark: Mark, name: &Name<'_>, verdict: &mut Verdict) {
    let record = name.record;
    let seen = &mut book.seen[record.topic as usize];
    let partition = *seen.partition.get_or_insert(record.partition);
    if partition != record.partition {
        return verdict.reordered.add(|| name.says(&format!("lies apart from those in partition {partition}")));
    }
    if name.seq < seen.highest && !mark.has(Mark::OUT_OF_TURN) {
        verdict.reordered.add(|| name.says(&format!("lies behind {}", seen.highest)));
    }
    seen.highest = seen.highest.max(name.seq);
}

/// What no record tells: what is missing, and what was told wrongly.
fn settle(device: &str, book: &Book, verdict: &mut Verdict) {
    let name = |seq: u64, what: &str| format!("{device} {}:{seq}: {what}", book.boot);
    for (seq, _, mark) in book.messages() {
        if mark.sent() == 0 {
            verdict.unasked.add(|| name(seq, "acked or refused, and never sent"));
            continue;
        }
        if !mark.has(Mark::ACKED) {
            continue;
        }
        verdict.acked += 1;
        if mark.stored() > 0 {
            verdict.stored += 1;
        } else if verdict.complete {
            verdict.lost.add(|| name(seq, "acked, and not in the topic"));
        }
        if mark.has(Mark::REFUSED) {
            verdict.acked_and_refused.add(|| name(seq, "acked and refused"));
        }
    }
}
