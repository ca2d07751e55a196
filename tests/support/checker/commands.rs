//! C1 to C4, C6 to C8, C10 and C11: what callers, devices and Kafka say about commands.

use std::collections::{BTreeMap, BTreeSet};

use tidegate::commands::State;

use super::super::history::{Entry, Event, Fault, Micros, SECOND};
use super::Findings;
use super::index::{Command, command_id, is_taken};

/// A command has ended so long after its deadline at the latest.
const ENDED: Micros = 60 * SECOND;
/// A healthy device's command does not wait longer.
const WAITED: Micros = 35 * SECOND;
/// After a fault it takes so long until everybody is healthy.
const HEALED: Micros = 30 * SECOND;
/// Commands a device may leave unanswered before no more come.
const WINDOW: usize = 8;

/// How far along the way a state is.
pub(super) fn rank(state: &str) -> u8 {
    match state {
        "queued" => 0,
        "sent" => 1,
        "received" => 2,
        "running" => 3,
        _ => 4,
    }
}

/// Whether nothing can follow.
pub fn is_terminal(state: &str) -> bool {
    State::parse(state).is_some_and(State::is_terminal)
}

/// What somebody was told about a command, at some time.
struct Told<'a> {
    entry: &'a Entry,
    version: u32,
    state: &'a str,
    reason: Option<&'a str>,
}

/// Everything that was ever said about how far it is; a history in Kafka says many things at once.
fn told<'a>(command: &Command<'a>) -> Vec<Told<'a>> {
    let reads = command.reads.iter().filter_map(|entry| match &entry.event {
        Event::Read { status: 200, state: Some(state), version, reason, .. } => {
            Some(Told { entry, version: *version, state, reason: reason.as_deref() })
        }
        _ => None,
    });
    let changes = command.changes.iter().flat_map(|entry| match &entry.event {
        Event::Change { history, .. } => history
            .iter()
            .map(|step| Told { entry, version: step.version, state: &step.state, reason: step.reason.as_deref() })
            .collect(),
        _ => Vec::new(),
    });
    reads.chain(changes).collect()
}

pub(super) fn check(findings: &mut Findings<'_>) {
    let index = findings.index;
    for ((device, id), command) in &index.commands {
        let of = (*device, id.as_ref());
        let told = told(command);
        one_end(findings, of, command, &told);
        an_end_in_time(findings, of, command);
        onwards(findings, of, command);
        what_was_taken_back_was_not_sent(findings, of, command, &told);
        only_the_device_answers(findings, of, command, &told);
        done_once(findings, of, command);
        for_nobody_else(findings, of, command);
        nothing_waits_for_long(findings, of, command, &told);
    }
    in_the_order_of_the_queue(findings);
    one_command_for_a_key(findings);
}

/// When a command began and when this was seen: a loss in between explains much.
fn span(command: &Command<'_>, seen: Micros) -> (Micros, Micros) {
    (command.first_asked().map_or(0, |entry| entry.at_us), seen)
}

/// C1: never two ends.
fn one_end(findings: &mut Findings<'_>, (device, id): (&str, &str), command: &Command<'_>, told: &[Told<'_>]) {
    let mut ends = told.iter().filter(|told| is_terminal(told.state));
    let Some(first) = ends.next() else { return };
    let other = ends.find(|end| (end.state, end.version) != (first.state, first.version));
    let after = told.iter().find(|told| told.version > first.version);
    if let Some(other) = other.or(after) {
        let what = format!("command {id} of {device} ended as {}, and then it is {}", first.state, other.state);
        let seen = first.entry.at_us.max(other.entry.at_us);
        findings.broken_unless_lost("C1", what, &[first.entry, other.entry], span(command, seen));
    }
}

/// C1: an end by the deadline and a minute, which is in Kafka; a command that is not there was lost by Redis.
fn an_end_in_time(findings: &mut Findings<'_>, (device, id): (&str, &str), command: &Command<'_>) {
    let Some((call, reply)) = command.accepted() else { return };
    let own = device.split('/').next().unwrap_or_default();
    let last = command.reads.iter().rfind(|entry| match &entry.event {
        Event::Read { tenant, status, .. } => tenant == own && !matches!(status, 0 | 503),
        _ => false,
    });
    let Some(last) = last else { return };
    let Event::Read { status, state, version, asked_us, .. } = &last.event else { return };
    let due = reply.at_us + command.ttl_ms * 1_000 + ENDED;
    match (status, state.as_deref()) {
        (200, Some(state)) if is_terminal(state) => {
            let stored = command.changes.iter().any(|entry| {
                matches!(&entry.event, Event::Change { version: stored, history, .. }
                    if stored == version && history.last().is_some_and(|step| step.state == *state))
            });
            let judged = findings.index.collected.is_some_and(|at| at > last.at_us);
            if judged && !stored {
                let what = format!("command {id} of {device} is {state}, and Kafka does not say so");
                findings.broken_unless_lost("C1", what, &[call, last], span(command, findings.index.end));
            }
        }
        (200, _) if *asked_us > due => {
            let what = format!("command {id} of {device} has no end a minute after its deadline");
            findings.broken_unless_lost("C1", what, &[call, reply, last], span(command, last.at_us));
        }
        (404, _) => {
            let what = format!("command {id} of {device} was accepted and is not there");
            findings.broken_unless_lost("C1", what, &[call, reply, last], span(command, last.at_us));
        }
        _ => {}
    }
}

/// C2: who reads twice reads no older state, and every history goes up.
fn onwards(findings: &mut Findings<'_>, (device, id): (&str, &str), command: &Command<'_>) {
    let mut highest: Option<(&Entry, u32)> = None;
    let mut reads = command.reads.clone();
    reads.sort_by_key(|entry| entry.at_us);
    for (at, read) in reads.iter().enumerate() {
        let Event::Read { status: 200, version, asked_us, state: Some(state), .. } = &read.event else { continue };
        let before = reads[..at].iter().filter(|other| other.at_us < *asked_us);
        for other in before {
            let Event::Read { status: 200, version: old, state: Some(from), .. } = &other.event else { continue };
            if old > version || rank(from) > rank(state) {
                highest = Some((other, *old));
            }
        }
        if let Some((other, _)) = highest.take() {
            let what = format!("command {id} of {device} went back to {state}");
            findings.broken_unless_lost("C2", what, &[other, read], span(command, read.at_us));
        }
    }
    for change in &command.changes {
        let Event::Change { history, version, .. } = &change.event else { continue };
        let steps = history.windows(2).all(|two| {
            two[1].version == two[0].version + 1
                && rank(&two[0].state) <= rank(&two[1].state)
                && !is_terminal(&two[0].state)
        });
        let begins = history.first().is_some_and(|step| step.version == 1 && step.state == "queued");
        if !steps || !begins || history.last().map(|step| step.version) != Some(*version) {
            findings.broken("C2", format!("the history of command {id} of {device} does not go on"), &[change]);
        }
    }
}

/// C3: what was canceled, or expired unsent, never was on a socket.
fn what_was_taken_back_was_not_sent(
    findings: &mut Findings<'_>,
    (device, id): (&str, &str),
    command: &Command<'_>,
    told: &[Told<'_>],
) {
    let unsent =
        told.iter().find(|told| told.state == "canceled" || (told.state == "expired" && told.reason == Some("unsent")));
    if let (Some(unsent), Some(frame)) = (unsent, command.frames.first()) {
        let what = format!("command {id} of {device} is {}, and it was on a socket", unsent.state);
        let seen = unsent.entry.at_us.max(frame.at_us);
        findings.broken_unless_lost("C3", what, &[unsent.entry, frame], span(command, seen));
    }
}

/// C4: what only the device can say, it has said.
fn only_the_device_answers(
    findings: &mut Findings<'_>,
    (device, id): (&str, &str),
    command: &Command<'_>,
    told: &[Told<'_>],
) {
    let mut named = BTreeSet::new();
    for told in told {
        let by_device = matches!(told.state, "received" | "running" | "succeeded" | "rejected")
            || (told.state == "failed" && told.reason.is_none());
        let said = command.answers.iter().any(|entry| {
            matches!(&entry.event, Event::Answered { status, .. } if status == told.state)
                && (entry.at_us <= told.entry.at_us || matches!(told.entry.event, Event::Change { .. }))
        });
        if by_device && !said && named.insert(told.state) {
            let what = format!("command {id} of {device} is {}, which the device never said", told.state);
            findings.broken("C4", what, &[told.entry]);
        }
    }
}

/// C6: executed once; on no more connections than it may be tried on.
fn done_once(findings: &mut Findings<'_>, (device, id): (&str, &str), command: &Command<'_>) {
    if let [first, again, ..] = command.executions[..] {
        findings.broken("C6", format!("{device} executed command {id} more than once"), &[first, again]);
    }
    if command.max_attempts == 0 {
        return;
    }
    let answered = command.answers.first().map_or(Micros::MAX, |entry| entry.at_us);
    let mut on = BTreeSet::new();
    for frame in command.frames.iter().filter(|frame| frame.at_us < answered) {
        let Event::Frame { connection, attempt, .. } = &frame.event else { continue };
        let again = !on.insert(*connection) && command.max_attempts == 1;
        if again || on.len() > command.max_attempts as usize || *attempt > command.max_attempts {
            let what = format!("command {id} was sent to {device} more often than {} times", command.max_attempts);
            let shown = [command.frames.first().copied(), Some(*frame)];
            let shown: Vec<_> = shown.into_iter().flatten().collect();
            findings.broken_unless_lost("C6", what, &shown, span(command, frame.at_us));
            return;
        }
    }
}

/// C10: a device gets what was meant for it, and nobody reads what is another tenant's.
fn for_nobody_else(findings: &mut Findings<'_>, (device, id): (&str, &str), command: &Command<'_>) {
    for frame in &command.frames {
        if matches!(&frame.event, Event::Frame { mark, .. } if !mark.is_empty() && mark != device) {
            findings.broken("C10", format!("{device} got a command for somebody else"), &[frame]);
        }
    }
    let tenant = device.split('/').next().unwrap_or_default();
    for read in &command.reads {
        if matches!(&read.event, Event::Read { tenant: of, status: 200 | 409, .. } if of != tenant) {
            findings.broken("C10", format!("command {id} of {device} was shown to another tenant"), &[read]);
        }
    }
    if let (true, Some(frame)) = (command.calls.is_empty(), command.frames.first()) {
        findings.broken("C10", format!("{device} got command {id}, for which nobody asked"), &[frame]);
    }
}

/// C11: of a device that is connected and answers, with nothing amiss for as long.
fn nothing_waits_for_long(
    findings: &mut Findings<'_>,
    (device, id): (&str, &str),
    command: &Command<'_>,
    told: &[Told<'_>],
) {
    let Some((call, reply)) = command.accepted() else { return };
    let (from, to) = (reply.at_us, reply.at_us + WAITED);
    let first = command.frames.first().map_or(Micros::MAX, |frame| frame.at_us);
    let ended = told.iter().any(|told| is_terminal(told.state) && told.entry.at_us <= to);
    let short = command.ttl_ms * 1_000 < WAITED;
    if first <= to || ended || short || findings.index.end < to {
        return;
    }
    let troubled = |spell: &super::index::Spell<'_>| spell.fault != Fault::KafkaPaused;
    if findings.index.is_troubled(from.saturating_sub(HEALED), to, troubled) {
        return;
    }
    let mut there = findings.index.connections_of(device).filter(|c| c.since() < Some(to) && c.until() > from);
    let (Some(connection), None) = (there.next(), there.next()) else { return };
    let healthy = connection.registered && connection.since() < Some(from) && connection.until() > to;
    let silent = findings.index.commands.iter().filter(|((of, _), other)| {
        *of == device && other.answers.is_empty() && other.frames.first().is_some_and(|frame| frame.at_us <= to)
    });
    if healthy && silent.count() < WINDOW {
        let what = format!("command {id} waits although {device} is connected and well");
        let welcome = connection.welcome.unwrap_or(connection.opening);
        findings.broken("C11", what, &[welcome, call, reply]);
    }
}

/// C7: what was accepted before another was asked for comes first, the first time.
fn in_the_order_of_the_queue(findings: &mut Findings<'_>) {
    let index = findings.index;
    let mut queues: BTreeMap<&str, Vec<&Command<'_>>> = BTreeMap::new();
    for ((device, _), command) in &index.commands {
        if command.accepted().is_some() && !command.frames.is_empty() {
            queues.entry(device).or_default().push(command);
        }
    }
    for (device, queue) in queues {
        for later in &queue {
            let (Some(asked), Some(frame)) = (later.first_asked(), later.frames.first()) else { continue };
            let out_of_order = queue.iter().find(|earlier| {
                let accepted = earlier.accepted().map(|(_, reply)| reply.at_us);
                accepted < Some(asked.at_us) && earlier.frames.first().is_some_and(|first| first.at_us > frame.at_us)
            });
            let Some((earlier, late)) = out_of_order.and_then(|e| Some((e, e.frames.first()?))) else { continue };
            // A node that stood still between permission and frame writes it when it goes on.
            let Event::Frame { connection, .. } = late.event else { continue };
            let node = index.connections.get(&connection).map_or("", |c| c.node);
            let paused = index.is_troubled(frame.at_us.saturating_sub(60 * SECOND), late.at_us, |spell| {
                spell.fault == Fault::Paused && spell.target == node
            });
            if !paused {
                let what = format!("{device} got a later command first");
                findings.broken_unless_lost("C7", what, &[asked, frame, late], span(earlier, late.at_us));
            }
        }
    }
}

/// A device, an application, and its key for a command.
type Key<'a> = (&'a str, &'a str, &'a str);

/// C8: one id for a key, which is the one that follows from it; one 202; one body.
fn one_command_for_a_key(findings: &mut Findings<'_>) {
    let mut keys: BTreeMap<Key<'_>, Vec<(&Entry, &Entry)>> = BTreeMap::new();
    for (call, reply) in &findings.index.calls {
        let (Event::Submitted { device, application, key, .. }, Some(reply)) = (&call.event, reply) else { continue };
        if is_taken(reply) {
            keys.entry((device, application, key)).or_default().push((call, reply));
        }
    }
    for ((device, application, key), mut taken) in keys {
        taken.sort_by_key(|(_, reply)| reply.at_us);
        let expected = Some(command_id(device, application, key));
        let wrong =
            taken.iter().find(|(_, reply)| !matches!(&reply.event, Event::Replied { id, .. } if *id == expected));
        if let Some((call, reply)) = wrong {
            findings.broken("C8", format!("key {key} of {device} made another command"), &[call, reply]);
        }
        let body = |call: &Entry| match &call.event {
            Event::Submitted { body, ttl_ms, max_attempts, .. } => Some((body.clone(), *ttl_ms, *max_attempts)),
            _ => None,
        };
        let new: Vec<_> =
            taken.iter().filter(|(_, reply)| matches!(reply.event, Event::Replied { status: 202, .. })).collect();
        for two in new.windows(2) {
            let what = format!("key {key} of {device} was new twice");
            let ((_, first), (_, again)) = (two[0], two[1]);
            findings.broken_unless_lost("C8", what, &[first, again], (two[0].0.at_us, again.at_us));
        }
        for two in taken.windows(2).filter(|two| body(two[0].0) != body(two[1].0)) {
            let what = format!("key {key} of {device} was taken with two bodies");
            let span = (taken[0].0.at_us, two[1].1.at_us);
            findings.broken_unless_lost("C8", what, &[two[0].0, two[1].0], span);
        }
    }
    let mut ids: BTreeMap<Key<'_>, (&str, &Entry)> = BTreeMap::new();
    for entry in findings.index.entries {
        let Event::Change { device, id, key, requested_by, .. } = &entry.event else { continue };
        let (known, first) = *ids.entry((device, requested_by, key)).or_insert((id, entry));
        if known != id {
            findings.broken("C8", format!("key {key} of {device} made two commands"), &[first, entry]);
        }
    }
}
