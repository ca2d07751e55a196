//! Commands: what their callers heard, what devices did with them, and whether the two agree.

use std::collections::HashMap;
use std::mem::size_of;

use super::digest;
use crate::figures::CommandVerdict;

/// A command's id: as the gateway writes it (32 hexadecimal digits), or a hash of it where it does not look so.
pub(super) type Id = u128;

pub(super) fn id(text: &str) -> Id {
    match u128::from_str_radix(text, 16) {
        Ok(id) if text.len() == 32 && !text.starts_with('+') => id,
        _ => u128::from(digest::text(text)) << 64 | u128::from(digest::fold(digest::text(text), 1)),
    }
}

/// A command as its caller saw it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Call {
    /// A hash of the device it is for; 0 where nobody said.
    pub(super) device: u64,
    pub(super) heard: u8,
}

impl Call {
    pub(super) const ACCEPTED: u8 = 1;
    pub(super) const SUCCEEDED: u8 = 2;
    pub(super) const FAILED: u8 = 4;

    fn has(self, what: u8) -> bool {
        self.heard & what != 0
    }

    pub(super) fn add(&mut self, other: Self) {
        self.heard |= other.heard;
        self.device = if self.device == 0 { other.device } else { self.device };
    }
}

/// A command as one device saw it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// How often it came, and the highest `attempt` it had.
    pub(super) received: u8,
    pub(super) attempt: u8,
    /// How often the device ran it.
    pub(super) runs: u8,
    pub(super) answers: u8,
    /// What the first answer said.
    pub(super) answer: u32,
}

impl Work {
    pub(super) const SUCCEEDED: u8 = 1;
    pub(super) const OTHERWISE: u8 = 2;
    pub(super) const TWO_WAYS: u8 = 4;

    pub(super) fn received(&mut self, attempt: u32) {
        self.received = self.received.saturating_add(1);
        self.attempt = self.attempt.max(attempt.min(255) as u8);
    }

    pub(super) fn ran(&mut self) {
        self.runs = self.runs.saturating_add(1);
    }

    pub(super) fn answered(&mut self, succeeded: bool, answer: u32) {
        let way = if succeeded { Self::SUCCEEDED } else { Self::OTHERWISE };
        if self.answers == 0 {
            self.answer = answer;
        } else if self.answer != answer || self.answers & way == 0 {
            self.answers |= Self::TWO_WAYS;
        }
        self.answers |= way;
    }

    pub(super) fn add(&mut self, other: Self) {
        if other.answers != 0 {
            self.answered(other.answers & Self::SUCCEEDED != 0, other.answer);
            self.answers |= other.answers;
        }
        self.received = self.received.saturating_add(other.received);
        self.attempt = self.attempt.max(other.attempt);
        self.runs = self.runs.saturating_add(other.runs);
    }

    fn has(self, what: u8) -> bool {
        self.answers & what != 0
    }
}

pub(super) type Calls = HashMap<Id, Call>;
pub(super) type Works = HashMap<Id, Work>;

/// Bytes a map takes: an entry and a byte of its table for each place, of which one in eight stays free.
pub(super) fn map_bytes<V>(map: &HashMap<Id, V>) -> usize {
    bytes_at::<V>(map.capacity())
}

/// Bytes by which a map grows at most with one entry more.
pub(super) fn map_growth<V>(map: &HashMap<Id, V>) -> usize {
    if map.len() < map.capacity() { 0 } else { bytes_at::<V>((map.capacity() * 2).max(3)) - map_bytes(map) + 64 }
}

fn bytes_at<V>(capacity: usize) -> usize {
    capacity * 8 / 7 * (size_of::<(Id, V)>() + 1)
}

/// A command in words.
fn name(device: &str, id: Id) -> String {
    format!("{} {id:032x}", short(device))
}

/// A device without its tenant.
pub(super) fn short(device: &str) -> &str {
    device.split_once('/').map_or(device, |(_, device)| device)
}

/// A hash of a device's name, `<tenant>/<device>`; never 0.
pub(super) fn hash_of(device: &str) -> u64 {
    digest::text(device).max(1)
}

/// Holds callers against devices: their names, and what each did by its name.
pub(super) fn judge<'a>(
    calls: &Calls,
    names: &[&'a str],
    works: impl Iterator<Item = (&'a str, Works)>,
) -> CommandVerdict {
    let mut verdict = CommandVerdict::default();
    // Those that some device had: whether one of them said that it succeeded.
    let mut had: HashMap<Id, bool> = HashMap::new();
    for (device, works) in works {
        let mut works: Vec<(Id, Work)> = works.into_iter().collect();
        works.sort_unstable_by_key(|(id, _)| *id);
        for (id, work) in works {
            *had.entry(id).or_default() |= work.has(Work::SUCCEEDED);
            judge_work(device, id, work, calls.get(&id), &mut verdict);
        }
    }
    let devices: HashMap<u64, &str> = names.iter().map(|device| (hash_of(device), *device)).collect();
    judge_calls(calls, &had, &devices, &mut verdict);
    verdict
}

fn judge_calls(calls: &Calls, had: &HashMap<Id, bool>, devices: &HashMap<u64, &str>, verdict: &mut CommandVerdict) {
    let mut calls: Vec<(&Id, &Call)> = calls.iter().collect();
    calls.sort_unstable_by_key(|(id, _)| **id);
    for (id, call) in calls {
        let device = devices.get(&call.device).copied().unwrap_or("?");
        verdict.accepted += u64::from(call.has(Call::ACCEPTED));
        let (succeeded, failed) = (call.has(Call::SUCCEEDED), call.has(Call::FAILED));
        if succeeded {
            verdict.succeeded += 1;
            match had.get(id) {
                None => verdict.unfounded.add(|| format!("{}: succeeded, and no device had it", name(device, *id))),
                Some(false) => {
                    verdict.unfounded.add(|| format!("{}: succeeded, and no device said so", name(device, *id)));
                }
                Some(true) => {}
            }
        }
        if succeeded && failed {
            verdict.answered_twice.add(|| format!("{}: its caller heard two ends", name(device, *id)));
        }
        if call.has(Call::ACCEPTED) && !succeeded && !failed {
            verdict.without_end.add(|| format!("{}: accepted, and no end was heard", name(device, *id)));
        }
    }
}

fn judge_work(device: &str, id: Id, work: Work, call: Option<&Call>, verdict: &mut CommandVerdict) {
    if work.runs > 1 {
        verdict.answered_twice.add(|| format!("{}: run {} times", name(device, id), work.runs));
    } else if work.has(Work::TWO_WAYS) {
        verdict.answered_twice.add(|| format!("{}: answered in two ways", name(device, id)));
    }
    if call.is_some_and(|call| call.device != 0 && call.device != hash_of(device)) {
        let times = (work.received, work.attempt);
        verdict.misdelivered.add(|| {
            format!("{}: came here {} times (attempt {}), and is another device's", name(device, id), times.0, times.1)
        });
    }
}
