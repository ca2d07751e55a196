//! The judge of "ack means stored": what devices sent and were told, held against what lies in the topic.
//!
//! A pure function: [`Ledger::check`] knows no clock, no network and no gateway. The letters and numbers (T1 …) are those
//! of the promises about telemetry.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use super::kafka::Stored;

/// What happened on a connection, as its device saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The device handed this update to its socket.
    Sent {
        /// Its number.
        seq: u64,
        /// The message.
        payload: Arc<[u8]>,
    },
    /// `ack` up to this number.
    Acked(u64),
    /// `refused` of this number.
    Refused(u64),
    /// The connection's `welcome` said that everything up to this number, of the same boot, is stored: as good as an ack of
    /// what earlier connections sent.
    Resumed(u64),
}

/// One connection of a device, with its events in their order.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// The device's boot.
    pub boot: String,
    /// What happened.
    pub events: Vec<Event>,
}

/// What the devices of one tenant did and saw.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// The tenant.
    pub tenant: String,
    /// Each device's connections, oldest first.
    pub devices: BTreeMap<String, Vec<Connection>>,
}

/// Names an update for ever.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The device.
    pub device: String,
    /// Its boot.
    pub boot: String,
    /// Its number.
    pub seq: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}", self.device, self.boot, self.seq)
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Acked, and not in the topic (T1).
    Lost(Id),
    /// Acked and refused (T2).
    AckedAndRefused(Id),
    /// An ack or a refusal of a number that this connection never sent (T2).
    Unasked(Id),
    /// Refused, and in the topic nevertheless.
    RefusedAndStored(Id),
    /// Its first record lies behind the first record of a higher number of the same boot (T3).
    Reordered {
        /// What came too late.
        id: Id,
        /// The higher number before it.
        after: u64,
    },
    /// The records of one device lie in several partitions, where they have no order (T3).
    Scattered(String),
    /// Stored twice, with different values (T4).
    Doubled(Id),
    /// Stored with another value than was sent.
    Altered(Id),
    /// In the topic, and no device sent it.
    NeverSent(Id),
    /// A record whose key, source and id do not name one update of one device of this tenant (T7).
    Nameless {
        /// Partition of the record.
        partition: i32,
        /// Its offset.
        offset: i64,
    },
    /// An ack below an earlier one of the same connection (T8).
    AckWentBack {
        /// The later ack.
        id: Id,
        /// The earlier one.
        from: u64,
    },
}

/// What the checker found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Every broken promise, sorted.
    pub faults: Vec<Fault>,
    /// Distinct updates sent.
    pub sent: usize,
    /// Distinct updates acked.
    pub acked: usize,
    /// Distinct updates refused.
    pub refused: usize,
    /// Distinct updates in the topic.
    pub stored: usize,
    /// Records beyond the first of their update.
    pub repeats: usize,
    /// The most of those that one device has.
    pub most_repeats: usize,
}

impl Verdict {
    /// Says what was found.
    ///
    /// # Panics
    /// When a promise was broken, naming the first twenty cases.
    pub fn assert_clean(&self) {
        let some: Vec<_> = self.faults.iter().take(20).collect();
        assert!(some.is_empty(), "{} broken promises, of {self}: {some:#?}", self.faults.len());
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, acked, refused, stored, repeats, most_repeats, .. } = self;
        write!(f, "{sent} sent, {acked} acked, {refused} refused, {stored} stored, ")?;
        write!(f, "{repeats} repeats ({most_repeats} at most of one device)")
    }
}

/// What every device sent and was told, all its connections together.
#[derive(Default)]
struct Told<'a> {
    sent: HashMap<Id, &'a [u8]>,
    acked: BTreeSet<Id>,
    refused: BTreeSet<Id>,
}

impl Ledger {
    /// Holds the ledger against every record of the topic, given by partition and offset.
    ///
    /// # Panics
    /// When a device sent two messages under one number: then the ledger says nothing about the gateway.
    pub fn check(&self, records: &[Stored]) -> Verdict {
        let (mut told, mut faults) = (Told::default(), Vec::new());
        for (device, connections) in &self.devices {
            let mut before = BTreeMap::new();
            for connection in connections {
                fold(device, connection, &mut before, &mut told, &mut faults);
            }
        }
        let mut topic = Topic::default();
        for record in records {
            match self.name(record) {
                Some(id) => topic.add(id, record, &told, &mut faults),
                None => faults.push(Fault::Nameless { partition: record.partition, offset: record.offset }),
            }
        }
        faults.extend(told.acked.intersection(&told.refused).cloned().map(Fault::AckedAndRefused));
        let is_stored = |id: &&Id| topic.first.contains_key(*id);
        faults.extend(told.acked.iter().filter(|id| !is_stored(id)).cloned().map(Fault::Lost));
        faults.extend(told.refused.iter().filter(is_stored).cloned().map(Fault::RefusedAndStored));
        faults.sort();
        faults.dedup();
        Verdict {
            faults,
            sent: told.sent.len(),
            acked: told.acked.len(),
            refused: told.refused.len(),
            stored: topic.first.len(),
            repeats: topic.repeats.values().sum(),
            most_repeats: topic.repeats.values().copied().max().unwrap_or_default(),
        }
    }

    /// Whose update a record is: key, source and id must agree.
    fn name(&self, record: &Stored) -> Option<Id> {
        let device = record.key.strip_prefix(&self.tenant)?.strip_prefix('/')?;
        let (boot, seq) = record.boot_and_seq()?;
        let agree = record.header("ce_source") == format!("/tidegate/{}/{device}", self.tenant);
        agree.then(|| Id { device: device.to_owned(), boot: boot.to_owned(), seq })
    }
}

/// Goes through one connection: an ack covers what was sent before it, up to its number, and not refused before it.
/// `before` has what the device's connections sent so far and was not refused, by boot.
fn fold<'a>(
    device: &str,
    connection: &'a Connection,
    before: &mut BTreeMap<&'a str, BTreeSet<u64>>,
    told: &mut Told<'a>,
    faults: &mut Vec<Fault>,
) {
    let before = before.entry(&connection.boot).or_default();
    let id = |seq| Id { device: device.to_owned(), boot: connection.boot.clone(), seq };
    let (mut sent_here, mut open, mut last) = (BTreeSet::new(), BTreeSet::new(), 0);
    for event in &connection.events {
        match event {
            Event::Sent { seq, payload } => {
                sent_here.insert(*seq);
                open.insert(*seq);
                before.insert(*seq);
                let before = told.sent.insert(id(*seq), payload);
                assert!(before.is_none_or(|before| before == &**payload), "{} was sent with two payloads", id(*seq));
            }
            Event::Acked(upto) => {
                if !sent_here.contains(upto) {
                    faults.push(Fault::Unasked(id(*upto)));
                }
                if *upto < last {
                    faults.push(Fault::AckWentBack { id: id(*upto), from: last });
                }
                last = last.max(*upto);
                let above = open.split_off(&(upto + 1));
                told.acked.extend(std::mem::replace(&mut open, above).into_iter().map(id));
            }
            Event::Refused(seq) => {
                if !sent_here.contains(seq) {
                    faults.push(Fault::Unasked(id(*seq)));
                }
                open.remove(seq);
                before.remove(seq);
                told.refused.insert(id(*seq));
            }
            Event::Resumed(upto) => {
                if !before.contains(upto) {
                    faults.push(Fault::Unasked(id(*upto)));
                }
                told.acked.extend(before.range(..=*upto).copied().map(id));
            }
        }
    }
}

/// What is in the topic, as far as it was gone through.
#[derive(Default)]
struct Topic<'a> {
    first: HashMap<Id, &'a [u8]>,
    highest: HashMap<(String, String), u64>,
    partitions: HashMap<String, i32>,
    repeats: HashMap<String, usize>,
}

impl<'a> Topic<'a> {
    fn add(&mut self, id: Id, record: &'a Stored, told: &Told<'_>, faults: &mut Vec<Fault>) {
        let partition = *self.partitions.entry(id.device.clone()).or_insert(record.partition);
        if partition != record.partition {
            faults.push(Fault::Scattered(id.device.clone()));
        }
        if let Some(first) = self.first.get(&id) {
            *self.repeats.entry(id.device.clone()).or_default() += 1;
            if *first != record.value {
                faults.push(Fault::Doubled(id));
            }
            return;
        }
        match told.sent.get(&id) {
            None => faults.push(Fault::NeverSent(id.clone())),
            Some(payload) if *payload != record.value => faults.push(Fault::Altered(id.clone())),
            Some(_) => {}
        }
        let highest = self.highest.entry((id.device.clone(), id.boot.clone())).or_default();
        if id.seq < *highest {
            faults.push(Fault::Reordered { id: id.clone(), after: *highest });
        }
        *highest = id.seq.max(*highest);
        self.first.insert(id, &record.value);
    }
}
