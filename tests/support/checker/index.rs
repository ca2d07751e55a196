//! A history sorted out: connections, faults, commands, each with the events it is made of.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use tidegate::id::{CommandId, DeviceKey};

use super::super::history::{Entry, Event, Fault, History, Micros};

/// A fault from its beginning to its end.
pub(super) struct Spell<'a> {
    pub(super) fault: Fault,
    pub(super) target: &'a str,
    pub(super) from: Micros,
    /// The end of the history where it never was over.
    pub(super) to: Micros,
    is_open: bool,
    pub(super) entry: &'a Entry,
}

/// One socket of a device.
pub(super) struct Connection<'a> {
    pub(super) device: &'a str,
    pub(super) node: &'a str,
    pub(super) opening: &'a Entry,
    pub(super) welcome: Option<&'a Entry>,
    pub(super) session: &'a str,
    pub(super) registered: bool,
    /// Every epoch it had: that of its `welcome`, and those that were claimed for it later.
    pub(super) epochs: BTreeSet<u64>,
    pub(super) closed: Option<&'a Entry>,
    /// When something was asked that was answered.
    pub(super) served: Vec<(Micros, &'a Entry)>,
}

impl Connection<'_> {
    /// When it was let in.
    pub(super) fn since(&self) -> Option<Micros> {
        self.welcome.map(|entry| entry.at_us)
    }

    /// When it ended, or the last moment there is.
    pub(super) fn until(&self) -> Micros {
        self.closed.map_or(Micros::MAX, |entry| entry.at_us)
    }
}

/// One command, by device and id.
#[derive(Default)]
pub(super) struct Command<'a> {
    /// Each time a caller asked for it, with the answer it had, if any.
    pub(super) calls: Vec<(&'a Entry, Option<&'a Entry>)>,
    pub(super) ttl_ms: u64,
    pub(super) max_attempts: u32,
    pub(super) probe: bool,
    pub(super) frames: Vec<&'a Entry>,
    pub(super) answers: Vec<&'a Entry>,
    pub(super) executions: Vec<&'a Entry>,
    pub(super) reads: Vec<&'a Entry>,
    pub(super) changes: Vec<&'a Entry>,
}

impl<'a> Command<'a> {
    /// The first answer that said it is accepted, with the call.
    pub(super) fn accepted(&self) -> Option<(&'a Entry, &'a Entry)> {
        let taken = self.calls.iter().filter_map(|(call, reply)| Some((*call, (*reply)?)));
        taken.filter(|(_, reply)| is_taken(reply)).min_by_key(|(_, reply)| reply.at_us)
    }

    /// When it may have been accepted at the earliest.
    pub(super) fn first_asked(&self) -> Option<&'a Entry> {
        self.calls.iter().map(|(call, _)| *call).min_by_key(|call| call.at_us)
    }
}

/// The id of whoever asks for a command under a key; empty for what is no device.
pub(super) fn command_id(device: &str, application: &str, key: &str) -> String {
    let device = device.split_once('/').and_then(|(tenant, name)| DeviceKey::new(tenant, name).ok());
    device.map_or_else(String::new, |device| CommandId::of(&device, application, key).to_string())
}

/// Whether a reply says that the command is there.
pub(super) fn is_taken(reply: &Entry) -> bool {
    matches!(reply.event, Event::Replied { status: 200 | 202, .. })
}

/// Everything in its place.
pub(super) struct Index<'a> {
    pub(super) entries: &'a [Entry],
    pub(super) spells: Vec<Spell<'a>>,
    pub(super) connections: BTreeMap<u64, Connection<'a>>,
    pub(super) commands: BTreeMap<(&'a str, Cow<'a, str>), Command<'a>>,
    /// Every call, with its answer.
    pub(super) calls: Vec<(&'a Entry, Option<&'a Entry>)>,
    pub(super) settled: Option<Micros>,
    /// When Kafka and Redis were read for the last time.
    pub(super) collected: Option<Micros>,
    pub(super) end: Micros,
}

impl<'a> Index<'a> {
    pub(super) fn new(history: &'a History) -> Self {
        let entries = &history.entries;
        let moment = |wanted: fn(&Event) -> bool| entries.iter().find(|e| wanted(&e.event)).map(|e| e.at_us);
        let mut index = Self {
            entries,
            spells: Vec::new(),
            connections: BTreeMap::new(),
            commands: BTreeMap::new(),
            calls: Vec::new(),
            settled: moment(|event| matches!(event, Event::Settled)),
            collected: moment(|event| matches!(event, Event::Collected)),
            end: entries.last().map_or(0, |entry| entry.at_us),
        };
        entries.iter().for_each(|entry| index.place_fault(entry));
        entries.iter().for_each(|entry| index.place_connection(entry));
        index.place_epochs();
        index.place_calls();
        entries.iter().for_each(|entry| index.place_command(entry));
        index
    }

    fn place_fault(&mut self, entry: &'a Entry) {
        match &entry.event {
            Event::Fault { fault, target } => {
                let (from, to) = (entry.at_us, self.end);
                self.spells.push(Spell { fault: *fault, target, from, to, is_open: true, entry });
            }
            Event::Over { fault, target } => {
                let mut open = self.spells.iter_mut().rev();
                if let Some(spell) = open.find(|spell| spell.is_open && spell.fault == *fault && spell.target == target)
                {
                    (spell.to, spell.is_open) = (entry.at_us, false);
                }
            }
            _ => {}
        }
    }

    fn place_connection(&mut self, entry: &'a Entry) {
        match &entry.event {
            Event::Opening { device, connection, node, .. } => {
                let new = Connection {
                    device,
                    node,
                    opening: entry,
                    welcome: None,
                    session: "",
                    registered: false,
                    epochs: BTreeSet::new(),
                    closed: None,
                    served: Vec::new(),
                };
                self.connections.insert(*connection, new);
            }
            Event::Welcome { connection, session, epoch, registered, .. } => {
                if let Some(known) = self.connections.get_mut(connection) {
                    (known.welcome, known.session, known.registered) = (Some(entry), session, *registered);
                    known.epochs.extend(registered.then_some(*epoch));
                }
            }
            Event::Served { connection, asked_us, .. } => {
                if let Some(known) = self.connections.get_mut(connection) {
                    known.served.push((*asked_us, entry));
                }
            }
            Event::Closed { connection, .. } => {
                if let Some(known) = self.connections.get_mut(connection) {
                    known.closed.get_or_insert(entry);
                }
            }
            _ => {}
        }
    }

    /// What was claimed for a connection after it was let in.
    fn place_epochs(&mut self) {
        let mut claimed: BTreeMap<(&str, &str), BTreeSet<u64>> = BTreeMap::new();
        for entry in self.entries {
            match &entry.event {
                Event::RowWritten { device, epoch, session, .. } | Event::Row { device, epoch, session, .. } => {
                    claimed.entry((device, session)).or_default().insert(*epoch);
                }
                _ => {}
            }
        }
        for connection in self.connections.values_mut().filter(|connection| !connection.session.is_empty()) {
            let known = claimed.get(&(connection.device, connection.session));
            connection.epochs.extend(known.into_iter().flatten());
        }
    }

    fn place_calls(&mut self) {
        let replies: BTreeMap<u64, &Entry> = self
            .entries
            .iter()
            .filter_map(|entry| match &entry.event {
                Event::Replied { call, .. } => Some((*call, entry)),
                _ => None,
            })
            .collect();
        for entry in self.entries {
            let Event::Submitted { call, device, application, key, ttl_ms, max_attempts, probe, .. } = &entry.event
            else {
                continue;
            };
            let reply = replies.get(call).copied();
            self.calls.push((entry, reply));
            // Whoever had no answer may have asked all the same.
            let id = match reply.map(|reply| &reply.event) {
                Some(Event::Replied { id: Some(id), .. }) => id.clone(),
                _ => command_id(device, application, key),
            };
            let command = self.commands.entry((device, id.into())).or_default();
            command.calls.push((entry, reply));
            (command.ttl_ms, command.max_attempts) = (*ttl_ms, *max_attempts);
            command.probe |= probe;
        }
    }

    fn command(&mut self, device: &'a str, id: &'a str) -> &mut Command<'a> {
        self.commands.entry((device, id.into())).or_default()
    }

    fn place_command(&mut self, entry: &'a Entry) {
        match &entry.event {
            Event::Frame { device, id, .. } => self.command(device, id).frames.push(entry),
            Event::Executed { device, id } => self.command(device, id).executions.push(entry),
            Event::Answered { device, id, .. } => self.command(device, id).answers.push(entry),
            Event::Read { device, id, .. } => self.command(device, id).reads.push(entry),
            Event::Change { device, id, .. } => self.command(device, id).changes.push(entry),
            _ => {}
        }
    }

    /// A loss of what was written at or after `from`, noticed by `to`.
    pub(super) fn loss(&self, from: Micros, to: Micros) -> Option<&'a Entry> {
        let mut lossy = self.spells.iter().filter(|spell| spell.fault.is_loss());
        // Everything before the end of a flush is lost, and what a cut-off replica did not hear of, but nothing that was
        // written when all was over, and nothing is lost to whoever looked before it began.
        let hit = |spell: &&Spell<'_>| from <= spell.to && to >= spell.from;
        lossy.find(hit).map(|spell| spell.entry)
    }

    /// Whether a fault that is `wanted` runs at some moment between the two.
    pub(super) fn is_troubled(&self, from: Micros, to: Micros, wanted: impl Fn(&Spell<'_>) -> bool) -> bool {
        self.spells.iter().any(|spell| spell.from <= to && spell.to >= from && wanted(spell))
    }

    /// A device's connections that were let in, in the order in which they knocked.
    pub(super) fn connections_of<'b>(&'b self, device: &'b str) -> impl Iterator<Item = &'b Connection<'a>> {
        self.connections.values().filter(move |c| c.device == device && c.welcome.is_some())
    }

    /// The devices that were ever let in.
    pub(super) fn devices(&self) -> BTreeSet<&'a str> {
        self.connections.values().filter(|c| c.welcome.is_some()).map(|c| c.device).collect()
    }

    /// A device's connections that the gateway serves after everything has settled, and that nobody closed.
    pub(super) fn living<'b>(&'b self, device: &'b str) -> Vec<&'b Connection<'a>> {
        let Some(settled) = self.settled else { return Vec::new() };
        let lives = |c: &&Connection<'_>| c.closed.is_none() && c.served.iter().any(|(asked, _)| *asked >= settled);
        self.connections_of(device).filter(lives).collect()
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, usize> {
        let of = |wanted: fn(&Event) -> bool| self.entries.iter().filter(|e| wanted(&e.event)).count();
        BTreeMap::from([
            ("faults", self.spells.len()),
            ("connections", of(|event| matches!(event, Event::Welcome { .. }))),
            ("calls", self.calls.len()),
            ("commands", self.commands.values().filter(|command| command.accepted().is_some()).count()),
            ("frames", of(|event| matches!(event, Event::Frame { .. }))),
            ("ends in Kafka", of(|event| matches!(event, Event::Change { .. }))),
            ("presence events", of(|event| matches!(event, Event::Presence { .. }))),
            ("rows written", of(|event| matches!(event, Event::RowWritten { .. }))),
            ("rows removed", of(|event| matches!(event, Event::RowRemoved { .. }))),
            ("commands allowed", of(|event| matches!(event, Event::Granted { .. }))),
            ("living devices", self.devices().iter().filter(|device| !self.living(device).is_empty()).count()),
        ])
    }
}
