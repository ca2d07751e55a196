//! O6: presence, folded as readers do (the highest epoch counts, and `offline` where both have it), never says offline
//! for a device that is connected.

use super::super::history::{Entry, Event, Micros, SECOND};
use super::Findings;

/// What lies between a thing and its note, on a busy machine.
const NEAR: Micros = 5 * SECOND;

/// One presence event.
#[derive(Clone, Copy)]
struct Said<'a> {
    entry: &'a Entry,
    online: bool,
    epoch: u64,
}

pub(super) fn check(findings: &mut Findings<'_>) {
    for device in findings.index.devices() {
        let said: Vec<Said<'_>> = findings
            .index
            .entries
            .iter()
            .filter_map(|entry| match &entry.event {
                Event::Presence { device: of, online, epoch, .. } if of == device => {
                    Some(Said { entry, online: *online, epoch: *epoch })
                }
                _ => None,
            })
            .collect();
        in_the_end(findings, device, &said);
        while_connected(findings, device, &said);
        after_a_newer_online(findings, device, &said);
    }
}

fn folded<'b, 'a>(said: impl IntoIterator<Item = &'b Said<'a>>) -> Option<&'b Said<'a>> {
    said.into_iter().max_by_key(|said| (said.epoch, !said.online))
}

fn in_the_end(findings: &mut Findings<'_>, device: &str, said: &[Said<'_>]) {
    let [connection] = findings.index.living(device)[..] else { return };
    let welcome = connection.welcome.unwrap_or(connection.opening);
    match folded(said) {
        Some(Said { online: true, .. }) => {}
        Some(last) => {
            findings.broken("O6", format!("{device} is connected and said to be offline"), &[welcome, last.entry])
        }
        None => findings.broken("O6", format!("{device} is connected and nothing says so"), &[welcome]),
    }
}

/// `offline` with the epoch of a connection that goes on to be served, and no newer word by then.
fn while_connected(findings: &mut Findings<'_>, device: &str, said: &[Said<'_>]) {
    let connections: Vec<_> = findings.index.connections_of(device).collect();
    for connection in connections {
        for gone in said.iter().filter(|said| !said.online && connection.epochs.contains(&said.epoch)) {
            let after = gone.entry.at_us + NEAR;
            let Some((asked, served)) = connection.served.iter().find(|(asked, _)| *asked > after) else { continue };
            let known = said.iter().filter(|said| said.entry.at_us <= *asked);
            if folded(known).is_some_and(|last| std::ptr::eq(last.entry, gone.entry)) {
                let welcome = connection.welcome.unwrap_or(connection.opening);
                let what = format!("{device} is said to be offline while its socket is served");
                findings.broken("O6", what, &[welcome, gone.entry, served]);
            }
        }
    }
}

/// `offline` under an older epoch, of a time at which the device had long been online under a newer: whoever says so did
/// not ask whether the row was still its own.
fn after_a_newer_online(findings: &mut Findings<'_>, device: &str, said: &[Said<'_>]) {
    for gone in said.iter().filter(|said| !said.online) {
        let at = gone.entry.at_us;
        let newer = |said: &&Said<'_>| said.online && said.epoch > gone.epoch && said.entry.at_us + NEAR < at;
        let Some(newer) = said.iter().find(newer) else { continue };
        // While Redis does not answer, a node says what it knows: that its own connection is gone.
        let near = (at.saturating_sub(6 * NEAR), at + 6 * NEAR);
        if !findings.index.is_troubled(near.0, near.1, |spell| spell.fault.is_redis()) {
            let what = format!("{device} goes offline under an epoch that was over: a newer one is online");
            findings.broken("O6", what, &[newer.entry, gone.entry]);
        }
    }
}
