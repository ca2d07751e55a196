//! O1, O2, O5, C1 and C2 as Redis' own record of what it did shows them.

use std::collections::{BTreeMap, BTreeSet};

use super::super::history::{Entry, Event, Fault};
use super::Findings;
use super::commands::{is_terminal, rank};

/// A row as it stands at some moment of the record.
#[derive(Clone, Copy)]
struct Row<'a> {
    owner: &'a str,
    epoch: u64,
    session: &'a str,
    entry: &'a Entry,
}

#[derive(Default)]
struct Replay<'a> {
    rows: BTreeMap<&'a str, Row<'a>>,
    /// The highest epoch a device ever had: not forgotten by any loss.
    highest: BTreeMap<&'a str, Row<'a>>,
    /// Every row that was ever written: device, session, epoch.
    known: BTreeSet<(&'a str, &'a str, u64)>,
    turns: BTreeMap<(&'a str, &'a str), &'a Entry>,
}

pub(super) fn check(findings: &mut Findings<'_>) {
    let mut replay = Replay::default();
    for entry in findings.index.entries {
        match &entry.event {
            // After a failover it is known what was written, not what is left of it.
            Event::Fault { fault, .. } | Event::Over { fault, .. } if fault.is_loss() => {
                replay.rows.clear();
                replay.turns.clear();
            }
            Event::RowWritten { device, owner, epoch, session } => {
                let row = Row { owner, epoch: *epoch, session, entry };
                written(findings, &mut replay, device, row);
            }
            Event::RowRemoved { device, by, fence, value } => {
                removed(findings, &mut replay, entry, (device, by, fence, value));
            }
            Event::Granted { device, id, epoch } => granted(findings, &replay, entry, (device, id, *epoch)),
            Event::Turned { device, id, .. } => {
                turned(findings, replay.turns.insert((device, id), entry), entry);
            }
            _ => {}
        }
    }
    frames_were_allowed(findings);
}

/// O1: a row that is new has a greater epoch than any before, whatever was lost; what was lost may be entered again.
fn written<'a>(findings: &mut Findings<'a>, replay: &mut Replay<'a>, device: &'a str, row: Row<'a>) {
    replay.rows.insert(device, row);
    let known = !replay.known.insert((device, row.session, row.epoch));
    let lost = findings.index.spells.iter().any(|spell| spell.fault.is_loss() && spell.from <= row.entry.at_us);
    let Some(highest) = replay.highest.get(device).filter(|highest| highest.epoch >= row.epoch) else {
        replay.highest.insert(device, row);
        return;
    };
    if !(known && (lost || highest.epoch == row.epoch)) {
        let what = format!("{device} was given epoch {} although it had {} before", row.epoch, highest.epoch);
        findings.broken("O1", what, &[highest.entry, row.entry]);
    }
}

/// O2: a row is removed by the life that wrote it, and behind the fence it names.
fn removed<'a>(
    findings: &mut Findings<'a>,
    replay: &mut Replay<'a>,
    entry: &'a Entry,
    (device, by, fence, value): (&'a str, &str, &str, &str),
) {
    let Some(row) = replay.rows.remove(device) else { return };
    let behind = match fence {
        "epoch" => value.parse() == Ok(row.epoch),
        "connection" => value == row.session,
        _ => false,
    };
    if by != row.owner {
        let what = format!("the row of {device} was removed by {by}, whose it was not");
        findings.broken("O2", what, &[row.entry, entry]);
    } else if !behind {
        let what = format!("the row of {device} under epoch {} was removed for {fence} {value}", row.epoch);
        findings.broken("O2", what, &[row.entry, entry]);
    }
}

/// O5: who may write a command has the row.
fn granted(findings: &mut Findings<'_>, replay: &Replay<'_>, entry: &Entry, (device, id, epoch): (&str, &str, u64)) {
    let Some(row) = replay.rows.get(device) else { return };
    if row.epoch != epoch {
        let what = format!("command {id} was allowed under epoch {epoch} while the row of {device} has {}", row.epoch);
        findings.broken("O5", what, &[row.entry, entry]);
    }
}

/// C1, C2: one version after the other, onwards, and nothing after the end.
fn turned<'a>(findings: &mut Findings<'a>, before: Option<&'a Entry>, entry: &'a Entry) {
    let Some(Event::Turned { id, version: old, state: from, .. }) = before.map(|entry| &entry.event) else { return };
    let (Some(before), Event::Turned { version, state, .. }) = (before, &entry.event) else { return };
    // A command that was forgotten, or lost, may be asked for anew.
    if *version == 1 {
        return;
    }
    if is_terminal(from) {
        findings.broken_unless_lost(
            "C1",
            format!("command {id} ended as {from}, then turned {state}"),
            &[before, entry],
            (before.at_us, entry.at_us),
        );
    } else if *version != old + 1 || rank(state) < rank(from) {
        findings.broken_unless_lost(
            "C2",
            format!("command {id} went from {from} ({old}) to {state} ({version})"),
            &[before, entry],
            (before.at_us, entry.at_us),
        );
    }
}

/// O5: each frame was allowed, for this command and an epoch of the connection it came on. Only where Redis' record is
/// there at all, and has no gap.
fn frames_were_allowed(findings: &mut Findings<'_>) {
    let allowed = |entry: &&Entry| matches!(entry.event, Event::Granted { .. });
    if !findings.index.entries.iter().any(|entry| allowed(&entry)) {
        return;
    }
    for frame in findings.index.entries {
        let Event::Frame { device, connection, id, .. } = &frame.event else { continue };
        let Some(on) = findings.index.connections.get(connection) else { continue };
        let granted = findings.index.entries.iter().any(|entry| match &entry.event {
            Event::Granted { device: of, id: what, epoch } => {
                of == device && what == id && on.epochs.contains(epoch) && entry.at_us <= frame.at_us
            }
            _ => false,
        });
        // What a primary did that was killed may be missing from its record.
        let near = (frame.at_us.saturating_sub(3_000_000), frame.at_us);
        let gap = findings
            .index
            .is_troubled(near.0, near.1, |spell| matches!(spell.fault, Fault::RedisEmptied | Fault::RedisLostTail));
        if !granted && !gap {
            let what = format!("command {id} came on a connection of {device} that was not allowed to write it");
            findings.broken("O5", what, &[on.welcome.unwrap_or(on.opening), frame]);
        }
    }
}
