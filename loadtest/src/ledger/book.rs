//! What one device sent and was told under one boot: six bytes a message, and 16 for each gap in its numbers.

use std::mem::size_of;

/// Where a boot's messages can be: the two topics.
pub(super) const TOPICS: usize = 2;

/// What is known of one message: how often it was sent (bits 0 to 3) and found in the topic (4 to 7), and what it was
/// told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark(pub(super) u16);

/// A count of four bits: that many and more.
pub(super) const MANY: u16 = 15;

impl Mark {
    pub(super) const ACKED: u16 = 1 << 8;
    pub(super) const REFUSED: u16 = 1 << 9;
    /// First sent after one with a higher number: says nothing about the order of the topic.
    pub(super) const OUT_OF_TURN: u16 = 1 << 10;
    /// All that is known before a topic is read.
    pub(super) const TOLD: u16 = 0xff0f;

    pub(super) fn has(self, what: u16) -> bool {
        self.0 & what == what
    }

    pub(super) fn set(&mut self, what: u16) {
        self.0 |= what;
    }

    pub(super) fn sent(self) -> u16 {
        self.0 & 15
    }

    pub(super) fn stored(self) -> u16 {
        self.0 >> 4 & 15
    }

    pub(super) fn add_sent(&mut self, times: u16) {
        self.0 = self.0 & !15 | (self.sent() + times).min(MANY);
    }

    pub(super) fn add_stored(&mut self) {
        if self.stored() < MANY {
            self.0 += 1 << 4;
        }
    }
}

/// Numbers that follow one another, whose messages do so too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    place: u32,
    len: u32,
}

/// How far a boot's messages in one topic were read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// The highest number so far.
    pub(super) highest: u64,
    /// Where they lie.
    pub(super) partition: Option<i32>,
}

/// The messages of one boot, found by their number.
#[derive(Debug)]
pub(super) struct Book {
    /// As it stands in the id of a record.
    pub(super) boot: Box<str>,
    /// By their first number; they do not overlap.
    runs: Vec<Run>,
    /// Both by place: in the order in which they came here.
    digests: Vec<u32>,
    marks: Vec<Mark>,
    highest_sent: u64,
    /// By topic; nothing until a topic is read.
    pub(super) seen: [Seen; TOPICS],
}

impl Book {
    pub(super) fn new(boot: &str) -> Self {
        let (runs, digests, marks) = (Vec::new(), Vec::new(), Vec::new());
        Self { boot: boot.into(), runs, digests, marks, highest_sent: 0, seen: [Seen::default(); TOPICS] }
    }

    /// How many messages.
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    /// Bytes it takes, the room it keeps to grow included.
    pub(super) fn bytes(&self) -> usize {
        let messages = self.digests.capacity() * size_of::<u32>() + self.marks.capacity() * size_of::<Mark>();
        size_of::<Self>() + self.boot.len() + self.runs.capacity() * size_of::<Run>() + messages
    }

    /// Bytes by which it grows at most with one message more.
    pub(super) fn growth(&self) -> usize {
        let full = |len, capacity| if len == capacity { growth_of(capacity) } else { 0 };
        full(self.digests.len(), self.digests.capacity()) * (size_of::<u32>() + size_of::<Mark>())
            + full(self.runs.len(), self.runs.capacity()) * size_of::<Run>()
    }

    /// Makes room for exactly so many messages.
    pub(super) fn reserve(&mut self, messages: usize) {
        self.digests.reserve_exact(messages);
        self.marks.reserve_exact(messages);
    }

    /// Where the message with this number is.
    pub(super) fn find(&self, seq: u64) -> Option<usize> {
        let at = self.runs.partition_point(|run| run.first <= seq).checked_sub(1)?;
        let run = self.runs[at];
        let offset = seq - run.first;
        (offset < u64::from(run.len)).then(|| run.place as usize + offset as usize)
    }

    /// Adds a message that is not there yet. Numbers that rise are appended; others move what is behind them.
    pub(super) fn add(&mut self, seq: u64, digest: u32, mark: Mark) {
        let place = self.marks.len() as u32;
        make_room(&mut self.digests);
        make_room(&mut self.marks);
        self.digests.push(digest);
        self.marks.push(mark);
        let at = self.runs.partition_point(|run| run.first <= seq);
        if let Some(before) = at.checked_sub(1).map(|at| &mut self.runs[at])
            && before.first + u64::from(before.len) == seq
            && before.place + before.len == place
        {
            before.len += 1;
            return;
        }
        make_room(&mut self.runs);
        self.runs.insert(at, Run { first: seq, place, len: 1 });
    }

    /// A message was written, for the first time or again. What counts is what it said the first time.
    pub(super) fn sent(&mut self, seq: u64, digest: u32) {
        let out_of_turn = seq < self.highest_sent;
        self.highest_sent = self.highest_sent.max(seq);
        let Some(place) = self.find(seq) else {
            return self.add(seq, digest, Mark(if out_of_turn { 1 | Mark::OUT_OF_TURN } else { 1 }));
        };
        if self.marks[place].sent() == 0 {
            self.digests[place] = digest;
            self.marks[place].set(if out_of_turn { Mark::OUT_OF_TURN } else { 0 });
        }
        self.marks[place].add_sent(1);
    }

    /// A message was acked or refused.
    pub(super) fn told(&mut self, seq: u64, what: u16) {
        match self.find(seq) {
            Some(place) => self.marks[place].set(what),
            None => self.add(seq, 0, Mark(what)),
        }
    }

    /// Takes over what another knows of a message.
    pub(super) fn take(&mut self, seq: u64, digest: u32, mark: Mark) {
        self.highest_sent = self.highest_sent.max(seq);
        let Some(place) = self.find(seq) else { return self.add(seq, digest, mark) };
        if self.marks[place].sent() == 0 {
            self.digests[place] = digest;
        }
        self.marks[place].add_sent(mark.sent());
        self.marks[place].set(mark.0 & (Mark::ACKED | Mark::REFUSED | Mark::OUT_OF_TURN));
    }

    pub(super) fn digest(&self, place: usize) -> u32 {
        self.digests[place]
    }

    pub(super) fn mark(&self, place: usize) -> Mark {
        self.marks[place]
    }

    pub(super) fn mark_mut(&mut self, place: usize) -> &mut Mark {
        &mut self.marks[place]
    }

    /// Every message by its number: `(seq, digest, mark)`.
    pub(super) fn messages(&self) -> impl Iterator<Item = (u64, u32, Mark)> + '_ {
        self.runs.iter().flat_map(move |run| {
            let place = run.place as usize;
            let places = place..place + run.len as usize;
            places.map(move |at| (run.first + (at - place) as u64, self.digests[at], self.marks[at]))
        })
    }

    /// Forgets what was read of the topics.
    pub(super) fn forget_topics(&mut self) {
        self.marks.iter_mut().for_each(|mark| mark.0 &= Mark::TOLD);
        self.seen = [Seen::default(); TOPICS];
    }
}

/// By how many items a full list grows: half, so that little lies idle.
fn growth_of(capacity: usize) -> usize {
    (capacity / 2).max(4)
}

fn make_room<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(growth_of(list.capacity()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_stop_at_many_and_touch_nothing_else() {
        let mut mark = Mark(Mark::ACKED);
        for _ in 0..40 {
            mark.add_sent(1);
            mark.add_stored();
        }
        assert_eq!((mark.sent(), mark.stored()), (MANY, MANY));
        assert!(mark.has(Mark::ACKED) && !mark.has(Mark::REFUSED));
        assert_eq!(Mark(mark.0 & Mark::TOLD).stored(), 0);
    }

    #[test]
    fn numbers_that_rise_by_one_are_one_run() {
        let mut book = Book::new("b");
        (1..=10_000).for_each(|seq| book.sent(seq, 7));
        assert_eq!(book.runs, [Run { first: 1, place: 0, len: 10_000 }]);
        assert!(book.bytes() < 10_000 * 9 + 500, "{}", book.bytes());
    }

    proptest! {
        #[test]
        fn a_book_is_a_map_by_number(steps in prop::collection::vec((0_u8..4, 1_u64..60, any::<u32>()), 0..300)) {
            let (mut book, mut model, mut highest) = (Book::new("b"), BTreeMap::<u64, (u32, Mark)>::new(), 0);
            for (step, seq, digest) in steps {
                // What it may take is never less than what it takes.
                let allowed = book.bytes() + book.growth();
                let entry = model.get(&seq).copied();
                match step {
                    0 | 1 => {
                        let (old, mut mark) = entry.unwrap_or_default();
                        let said = if mark.sent() == 0 { digest } else { old };
                        if mark.sent() == 0 && seq < highest {
                            mark.set(Mark::OUT_OF_TURN);
                        }
                        mark.add_sent(1);
                        highest = highest.max(seq);
                        model.insert(seq, (said, mark));
                        book.sent(seq, digest);
                    }
                    _ => {
                        let what = if step == 2 { Mark::ACKED } else { Mark::REFUSED };
                        let (old, mut mark) = entry.unwrap_or_default();
                        mark.set(what);
                        model.insert(seq, (old, mark));
                        book.told(seq, what);
                    }
                }
                prop_assert!(book.bytes() <= allowed);
            }
            let all: Vec<_> = model.iter().map(|(seq, (digest, mark))| (*seq, *digest, *mark)).collect();
            prop_assert_eq!(book.messages().collect::<Vec<_>>(), all);
            prop_assert!((1..60).all(|seq| book.find(seq).is_some() == model.contains_key(&seq)));
        }
    }
}
