//! O1, O3, O4, O5 and O8 as devices see them.

use super::super::history::{Entry, Event, Fault, Micros, SECOND};
use super::Findings;
use super::index::Connection;

/// A connection that lost its device is closed by then: an evict that has to be repeated, and a renewal or two.
const EVICTED: Micros = 20 * SECOND;
/// How old the permission to write a command may be, and what a busy machine adds until the device has read it.
const FENCED: Micros = 3 * SECOND;
/// A routed command is there by then.
const ROUTED: Micros = 10 * SECOND;
/// An ack is there by then, on a machine that does other work too.
const ACKED: Micros = 10 * SECOND;

pub(super) fn check(findings: &mut Findings<'_>) {
    for device in findings.index.devices() {
        epochs_grow(findings, device);
        one_socket(findings, device);
        fenced_sockets_are_silent(findings, device);
        in_the_end_its_row_is_its_own(findings, device);
    }
    probes_arrive(findings);
    no_fault_of_redis_closes_a_socket(findings);
    no_fault_of_redis_delays_an_ack(findings);
}

fn welcome_epoch(connection: &Connection<'_>) -> Option<u64> {
    match connection.welcome.map(|entry| &entry.event) {
        Some(Event::Welcome { epoch, registered: true, .. }) => Some(*epoch),
        _ => None,
    }
}

/// O1: who knocks after another was let in gets a greater epoch, whatever Redis forgot meanwhile.
fn epochs_grow(findings: &mut Findings<'_>, device: &str) {
    let connections: Vec<_> = findings.index.connections_of(device).collect();
    let claimed: Vec<_> = connections.into_iter().filter_map(|c| Some((c, welcome_epoch(c)?))).collect();
    for (at, (later, new)) in claimed.iter().enumerate() {
        let before = claimed[..at].iter().filter(|(c, _)| c.since() < Some(later.opening.at_us));
        let Some((earlier, old)) = before.max_by_key(|(_, epoch)| *epoch) else { continue };
        if new <= old {
            let what = format!("{device} was given epoch {new} after {old}");
            let shown = [earlier.welcome, Some(later.opening), later.welcome];
            findings.broken("O1", what, &shown.into_iter().flatten().collect::<Vec<_>>());
        }
    }
}

/// O4: what another connection took over is not served for long, and at the end there is one.
fn one_socket(findings: &mut Findings<'_>, device: &str) {
    let living = findings.index.living(device);
    if living.len() > 1 {
        let shown: Vec<_> = living.iter().flat_map(|c| [c.welcome, c.served.last().map(|last| last.1)]).collect();
        let shown: Vec<_> = shown.into_iter().flatten().collect();
        findings.broken("O4", format!("{device} has {} sockets in the end", living.len()), &shown);
    }
    let connections: Vec<_> = findings.index.connections_of(device).collect();
    for (at, winner) in connections.iter().enumerate() {
        let (Some(since), true) = (winner.since(), winner.registered) else { continue };
        for loser in connections[..at].iter().filter(|loser| loser.since() < Some(winner.opening.at_us)) {
            let late = loser.served.iter().find(|(asked, _)| *asked > since + EVICTED);
            let Some((asked, served)) = late else { continue };
            // Whoever died or stood still told nobody, and nobody heard.
            if !findings
                .index
                .is_troubled(since.saturating_sub(2 * EVICTED), *asked, |spell| spell.fault != Fault::KafkaPaused)
            {
                let what = format!("{device} is served on a socket that another took over long ago");
                let shown = [loser.welcome, winner.welcome, Some(*served)];
                findings.broken("O4", what, &shown.into_iter().flatten().collect::<Vec<_>>());
            }
        }
    }
}

/// O5: no command on a socket whose device is elsewhere, but for what was allowed just before, or before its node stood
/// still.
fn fenced_sockets_are_silent(findings: &mut Findings<'_>, device: &str) {
    let connections: Vec<_> = findings.index.connections_of(device).collect();
    let frames: Vec<(&Entry, u64)> = findings
        .index
        .entries
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::Frame { device: of, connection, .. } if of == device => Some((entry, *connection)),
            _ => None,
        })
        .collect();
    for (frame, number) in frames {
        let Some(on) = findings.index.connections.get(&number) else { continue };
        let is_newer = |c: &&&Connection<'_>| {
            c.registered && c.epochs.first() > on.epochs.last() && c.since().is_some_and(|at| at + FENCED < frame.at_us)
        };
        let Some(winner) = connections.iter().find(is_newer) else { continue };
        let since = winner.since().unwrap_or_default();
        // While rows are lost the older one may have been the first to write its again.
        let excused = findings.index.is_troubled(since.saturating_sub(FENCED), frame.at_us, |spell| {
            spell.fault.is_redis() || (spell.fault == Fault::Paused && spell.target == on.node)
        });
        if !excused && on.registered {
            let what = format!("a command on a socket of {device} that was taken over");
            findings.broken("O5", what, &[on.opening, winner.welcome.unwrap_or(winner.opening), frame]);
        }
    }
}

/// O3: the row of a device that is connected names its connection and a node that lives.
fn in_the_end_its_row_is_its_own(findings: &mut Findings<'_>, device: &str) {
    let [connection] = findings.index.living(device)[..] else { return };
    let is_row = |entry: &&Entry| matches!(&entry.event, Event::Row { device: of, .. } if of == device);
    let row = findings.index.entries.iter().rev().find(is_row);
    let opening = connection.welcome.unwrap_or(connection.opening);
    match row.map(|entry| (entry, &entry.event)) {
        Some((_, Event::Row { session, live: true, .. })) if session == connection.session => {}
        Some((row, _)) => findings.broken("O3", format!("the row of {device} is not its own"), &[opening, row]),
        None => findings.broken("O3", format!("{device} is connected and has no row"), &[opening]),
    }
}

/// O3: a probe reaches it.
fn probes_arrive(findings: &mut Findings<'_>) {
    let calls = findings.index.calls.iter();
    for (call, reply) in calls.filter(|(call, _)| matches!(call.event, Event::Submitted { probe: true, .. })) {
        let Event::Submitted { device, .. } = &call.event else { continue };
        let [connection] = findings.index.living(device)[..] else { continue };
        let id = match reply.map(|reply| &reply.event) {
            Some(Event::Replied { id: Some(id), status: 200 | 202, .. }) => id.as_str(),
            _ => {
                let shown: Vec<_> = [Some(*call), *reply].into_iter().flatten().collect();
                findings.broken("O3", format!("a probe of {device} was not taken"), &shown);
                continue;
            }
        };
        let command = findings.index.commands.get(&(device.as_str(), id.into()));
        let arrived = command.into_iter().flat_map(|command| &command.frames).any(|frame| {
            let Event::Frame { connection: on, .. } = frame.event else { return false };
            let here = findings.index.connections.get(&on).is_some_and(|c| std::ptr::eq(c.opening, connection.opening));
            here && frame.at_us <= call.at_us + ROUTED
        });
        if !arrived {
            let opening = connection.welcome.unwrap_or(connection.opening);
            findings.broken("O3", format!("a probe did not reach {device}"), &[opening, call]);
        }
    }
}

/// O8: a gateway closes a socket while Redis has a fault only where another connection took its device.
fn no_fault_of_redis_closes_a_socket(findings: &mut Findings<'_>) {
    for connection in findings.index.connections.values() {
        let (Some(closed), Some(_)) = (connection.closed, connection.welcome) else { continue };
        let Event::Closed { code, by_device: false, .. } = closed.event else { continue };
        let at = closed.at_us;
        let Some(spell) =
            findings.index.spells.iter().find(|spell| spell.fault.is_redis() && spell.from <= at && at <= spell.to)
        else {
            continue;
        };
        let mut others = findings.index.connections_of(connection.device);
        let superseded = matches!(code, Some(4002 | 4301))
            && others.any(|other| !std::ptr::eq(other.opening, connection.opening) && other.opening.at_us < at);
        let node_fault = findings.index.is_troubled(at.saturating_sub(60 * SECOND), at, |spell| {
            spell.target == connection.node && !spell.fault.is_redis()
        });
        if !superseded && !node_fault {
            let what = format!("a socket of {} was closed while Redis was not itself", connection.device);
            findings.broken("O8", what, &[connection.opening, spell.entry, closed]);
        }
    }
}

fn no_fault_of_redis_delays_an_ack(findings: &mut Findings<'_>) {
    for said in findings.index.entries {
        let Event::Said { connection: on, seq, .. } = said.event else { continue };
        let (at, until) = (said.at_us, said.at_us + ACKED);
        let Some(connection) = findings.index.connections.get(&on) else { continue };
        let during = findings.index.is_troubled(at, at, |spell| spell.fault.is_redis());
        let otherwise = findings
            .index
            .is_troubled(at, until, |spell| spell.fault == Fault::KafkaPaused || spell.target == connection.node);
        if !during || otherwise || connection.until() < until || findings.index.end < until {
            continue;
        }
        let acked = findings.index.entries.iter().any(|entry| {
            matches!(entry.event, Event::Acked { connection, seq: acked, .. } if connection == on && acked >= seq)
                && (at..=until).contains(&entry.at_us)
        });
        if !acked {
            let what = format!("an update of {} is not acked while Redis is not itself", connection.device);
            findings.broken("O8", what, &[said]);
        }
    }
}
