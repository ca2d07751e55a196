//! Where a connection enters the node and leaves it again: mailbox, receipts, roster, directory.

use std::sync::Arc;

use super::Node;
use super::pump::Place;
use super::witness::End;
use crate::id::{Boot, DeviceKey, Epoch, SessionId};
use crate::mailbox::{Mailbox, Standing};
use crate::registrar::{Left, Tenure};
use crate::session::Now;
use crate::telemetry::metrics::{DisconnectReason, Label, PeerKind};

/// What `welcome` says that is not needed after it.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) heartbeat_s: u32,
    pub(super) resume_after: Option<u64>,
    pub(super) registered: Option<bool>,
    /// Whether commands wait for it.
    pub(super) commands_wait: bool,
}

/// Who comes: of which device or application, and what it brought from the door.
pub(super) struct Comer<'a> {
    pub(super) kind: PeerKind,
    pub(super) key: &'a DeviceKey,
    pub(super) boot: Option<Boot>,
    pub(super) tenure: Option<Box<Tenure>>,
    pub(super) heartbeat_s: u32,
    pub(super) max_bytes: Option<usize>,
}

/// Gives a connection its mailbox, and a device its place in the roster. [`leave`] undoes it.
pub(super) fn enter(node: &Node, comer: Comer<'_>, now: Now) -> (Arc<Mailbox>, Greeting) {
    let Comer { kind, key, boot, tenure, heartbeat_s, max_bytes } = comer;
    let mut greeting = Greeting { heartbeat_s, resume_after: None, registered: None, commands_wait: false };
    let now_us = Epoch(now.unix_ms.unsigned_abs() * 1_000);
    let Some((tenure, registrar)) = tenure.zip(node.registrar.as_ref()) else {
        let session = SessionId::draw();
        let boot = boot.unwrap_or_else(|| session.into());
        let mailbox = Arc::new(Mailbox::new(session, boot, Standing::Alone).with_max_bytes(max_bytes));
        if kind == PeerKind::Device {
            node.roster.enter(key, Arc::clone(&mailbox), now_us);
        }
        return (mailbox, greeting);
    };
    let (mailbox, claimed) = tenure.begin();
    match claimed {
        Some(claimed) => {
            let last = claimed.last.filter(|last| last.boot == *mailbox.boot());
            greeting.resume_after = last.and_then(|last| last.acked);
            if node.roster.install(key, Arc::clone(&mailbox), claimed.epoch) {
                registrar.registered(key, &mailbox, claimed.previous.as_ref(), "connected", now.unix_ms);
                greeting.commands_wait = claimed.commands_wait;
            }
        }
        None => {
            greeting.registered = Some(false);
            node.roster.enter(key, Arc::clone(&mailbox), now_us.max(registrar.directory().highest()));
            registrar.admitted(key, &mailbox);
        }
    }
    (mailbox, greeting)
}

/// A device has ended its connection.
pub(super) fn leave(node: &Node, place: &Place, acked: Option<u64>, end: End) {
    let had = node.roster.leave(&place.key, place.mailbox());
    if let Some(courier) = &node.courier {
        place.mailbox().close();
        courier.left(&place.key, place.mailbox());
    }
    let Some(registrar) = &node.registrar else { return };
    registrar.left(&Left {
        device: &place.key,
        mailbox: place.mailbox(),
        had,
        acked,
        reason: DisconnectReason::from_code(end.code()).as_str(),
        end: (end.code(), end.initiator().as_str()),
        at_ms: node.now().unix_ms,
    });
}
