//! Who owns a device: the seam, and its promise.
//!
//! A device's **row** names the node, the incarnation and the connection that own it, under an **epoch** that only grows,
//! across flush and failover too. A row counts while its incarnation's **lease** runs; it is written when a device
//! connects and never refreshed, so quiet devices cost nothing. Whoever writes or removes says under which epoch, and an
//! older one changes nothing.

mod directory;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
pub mod rendezvous;

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use directory::{Directory, Whereabouts};

use crate::id::{Boot, DeviceKey, Epoch, Incarnation, NodeName, SessionId};

/// How long a node is believed to live after it last said so.
pub const LEASE_MS: u64 = 15_000;
/// How often it says so.
pub const RENEW_EVERY_MS: u64 = 5_000;
/// A node that renewed nothing for so long draws a new incarnation and claims its devices anew: the others may have
/// settled what it had. One lease sooner than they do.
pub const LAPSED_MS: u64 = 2 * LEASE_MS;
/// For how long a lease must have ended before the node's devices are settled.
pub const SETTLE_AFTER_MS: u64 = 2 * LEASE_MS;
/// The window in which takeovers are counted.
pub const TAKEOVER_WINDOW_MS: u64 = 60_000;
/// Takeovers of a live row in a window by another boot.
pub const TAKEOVERS: u32 = 5;
/// The same where the device gives no boot, so that every connection of it looks like another.
pub const TAKEOVERS_WITHOUT_BOOT: u32 = 20;
/// How long the epoch of a closed connection, and its hints, are kept.
pub const LAST_KEPT_S: u64 = 7 * 86_400;
/// How long a dead member is kept whose devices nobody settled.
const DEAD_KEPT_MS: u64 = 86_400_000;
/// How long one is kept whose devices are settled.
const GONE_KEPT_MS: u64 = 600_000;

/// One life of one node: who rows name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeLife {
    /// The node.
    pub node: NodeName,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

impl NodeLife {
    /// A new life of a node.
    pub fn begin(node: NodeName) -> Self {
        Self { node, incarnation: Incarnation::draw() }
    }
}

impl NodeLife {
    /// Reads one as it is printed.
    pub fn parse(text: &str) -> Option<Self> {
        let (node, incarnation) = text.split_once(',')?;
        Some(Self { node: NodeName::new(node).ok()?, incarnation: Incarnation::parse(incarnation)? })
    }
}

impl fmt::Display for NodeLife {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.node, self.incarnation)
    }
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// It does not take devices yet.
    Starting,
    /// It takes devices.
    Ready,
    /// It is leaving.
    Draining,
    /// It was declared dead, by another or by itself as it left, and the others settle its devices.
    Dead,
    /// They have.
    Gone,
}

impl NodeState {
    /// As it stands among the members.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Dead => "dead",
            Self::Gone => "gone",
        }
    }
}

/// What a node says of itself with each renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Who it is.
    pub life: NodeLife,
    /// Where its peers reach it, `host:port`.
    pub address: String,
    /// What it is doing: starting, ready or draining; dead is the last that one says which leaves, for the others to settle at
    /// once what it may have left behind.
    pub state: NodeState,
    /// Its version.
    pub version: String,
    /// Whether its last probe of Kafka came back.
    pub sees_kafka: bool,
    /// Devices that are connected to it; nothing where it does not say.
    pub devices: Option<u64>,
}

/// A node as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it last said of itself.
    pub profile: Profile,
    /// When its lease ends, milliseconds by the store's clock.
    pub expires_ms: u64,
}

/// The membership at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The store's clock, microseconds since 1970.
    pub now_us: u64,
    /// The highest epoch any node reported.
    pub highest: u64,
    /// Those whose lease runs, in the order of their names.
    pub live: Vec<Member>,
    /// Those whose lease ended [`SETTLE_AFTER_MS`] ago, or who were declared dead, and whose devices are not settled.
    pub dead: Vec<Member>,
}

impl View {
    /// The live member with this life.
    pub fn member(&self, life: &NodeLife) -> Option<&Member> {
        self.live.iter().find(|member| member.profile.life == *life)
    }

    fn new(now_us: u64, highest: u64, members: impl IntoIterator<Item = Member>) -> Self {
        let now_ms = now_us / 1_000;
        let mut view = Self { now_us, highest, ..Self::default() };
        for member in members {
            match member.profile.state {
                NodeState::Gone => {}
                NodeState::Dead => view.dead.push(member),
                _ if member.expires_ms > now_ms => view.live.push(member),
                _ if member.expires_ms.saturating_add(SETTLE_AFTER_MS) <= now_ms => view.dead.push(member),
                _ => {}
            }
        }
        for members in [&mut view.live, &mut view.dead] {
            members.sort_by(|a, b| a.profile.life.cmp(&b.profile.life));
        }
        view
    }
}

/// How a renewal found the node's own lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// It ran.
    Held,
    /// It had ended so many milliseconds ago: the others took the node's rows for invalid meanwhile.
    Lapsed(u64),
    /// There was none: the first renewal, or Redis lost it.
    Absent,
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The membership, with the node itself.
    pub view: View,
    /// How its own lease was.
    pub lease: Lease,
}

/// A device's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Whose it is.
    pub owner: NodeLife,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Which connection of it.
    pub connection: SessionId,
    /// The boot of the device.
    pub boot: Boot,
    /// The largest message that connection can take, in bytes, where it said so.
    pub max_bytes: Option<usize>,
    /// Whether its node was dead and `offline` was, or is being, published.
    pub settled: bool,
}

/// What the last close of a device left behind: only hints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// The boot it was of.
    pub boot: Boot,
    /// The last `seq` that was acked.
    pub acked: Option<u64>,
    /// When, milliseconds since 1970 by the store's clock; nobody sets it.
    pub at_ms: u64,
    /// Its close code and who ended it.
    pub end: Option<(u16, Cow<'static, str>)>,
}

/// What is known of a device whose connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// The highest epoch that ended.
    pub epoch: Epoch,
    /// The last close, where a node told it: not where a node died.
    pub last: Option<Last>,
    /// The newest end of a connection that is known.
    pub ended: Option<Ended>,
}

/// How a connection ended, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// On which node.
    pub node: NodeName,
    /// Under which epoch: that is the time of its claim in microseconds, or a little later.
    pub epoch: Epoch,
    /// When, milliseconds since 1970 by the store's clock.
    pub at_ms: u64,
    /// Its close code and who ended it; nothing where its node died.
    pub end: Option<(u16, Cow<'static, str>)>,
}

/// Part of a node's list of devices, in the order of their names (`<tenant>/<device>`).
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    /// Only names above this.
    pub above: &'a str,
    /// Only names below this.
    pub below: &'a str,
    /// So many at most; 0: only how many there are in all.
    pub limit: u32,
}

/// The answer to a [`Stretch`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// The devices; of some the row is not, or no longer, that node's.
    pub devices: Vec<DeviceKey>,
    /// Devices in the whole list.
    pub all: u64,
}

/// A connection that asks for its device.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// For whom.
    pub life: &'a NodeLife,
    /// The device.
    pub device: &'a DeviceKey,
    /// The connection.
    pub connection: SessionId,
    /// The device's boot.
    pub boot: &'a Boot,
    /// Whether the device gave it, or the connection's id stands in.
    pub boot_given: bool,
    /// The largest message the connection can take, in bytes, where it said so.
    pub max_bytes: Option<usize>,
    /// The epoch to be given is above this.
    pub floor: Epoch,
    /// The holder is known to be dead: takeovers are neither limited nor counted.
    pub insist: bool,
}

/// A device that is the caller's now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Under this epoch.
    pub epoch: Epoch,
    /// The row that stood there; where its node lives it has to be told.
    pub previous: Option<Row>,
    /// Hints of the last close.
    pub last: Option<Last>,
    /// Whether commands wait for the device.
    pub commands_wait: bool,
}

/// What must be the same for a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// The epoch that was claimed.
    Epoch(Epoch),
    /// The connection, where it is not known whether its claim was done.
    Connection(SessionId),
}

/// What became of a row that was written again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reasserted {
    /// It was there.
    Kept,
    /// It was missing or older: it was written, and what waits for the device has to be sent as after a claim.
    Written {
        /// Whether commands wait.
        commands_wait: bool,
    },
    /// This epoch or a later one ended already, and the device may have been said to be offline with it: claim anew.
    Settled,
    /// Another owns the device: close the connection.
    Newer(Row),
}

/// A device this node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The device.
    pub device: DeviceKey,
    /// Under which epoch.
    pub epoch: Epoch,
    /// By which connection.
    pub connection: SessionId,
    /// Of which boot.
    pub boot: Boot,
    /// The largest message that connection can take, in bytes, where it said so.
    pub max_bytes: Option<usize>,
}

/// How one primary was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Which one ([`Ownership::primary_of`]).
    pub primary: String,
    /// What only this primary in this life with these data has: where it is another than last time, rows may be lost.
    /// Nothing where it did not answer.
    pub identity: Option<String>,
    /// Devices of the sample whose row is not the caller's.
    pub wrong: Vec<DeviceKey>,
}

/// Some of a dead node's devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Those whose row was still its; each is marked now. `offline` with this epoch is theirs, then
    /// [`Ownership::release`] with it.
    pub settled: Vec<Held>,
    /// Where to go on; nothing at the end.
    pub next: Option<DeviceKey>,
}

/// Why the directory did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnershipError {
    /// Nothing was done: the store is away or full.
    #[error("the directory is away: {0}")]
    Unavailable(String),
    /// It may have been done, and may yet be.
    #[error("the directory did not answer: {0}")]
    Unknown(String),
    /// The store will not do it, or answered what nobody understands.
    #[error("the directory is broken: {0}")]
    Broken(String),
    /// Other boots took the device over too often: 429.
    #[error("the device was taken over too often: again in {wait_ms} ms")]
    Contested {
        /// Until the window ends.
        wait_ms: u64,
        /// Who has it.
        holder: NodeLife,
    },
    /// This incarnation was declared dead and its devices settled: draw another, and claim all anew.
    #[error("this node was declared dead")]
    Buried,
}

impl OwnershipError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_) | Self::Contested { .. })
    }
}

/// A boxed future of the seam.
pub type OwnershipFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, OwnershipError>> + Send + 'a>>;

/// The directory of owners.
///
/// **Order**: each method is one atomic step on the row it is about. **Epochs** of a device only grow, whatever the store
/// forgets, as long as claims give a true floor ([`Directory`] does). **Time**: every call ends within about 600 ms; one
/// that is dropped may still be done. **Held**: beside a row there is an entry in the list of its incarnation, written
/// before a claim returns and removed after the row, so that a dead node's devices can be found.
pub trait Ownership: Send + Sync + 'static {
    /// Extends the node's lease and gives the membership; `highest` is the highest epoch it knows.
    ///
    /// # Errors
    /// [`OwnershipError::Buried`] where it was declared dead.
    fn renew<'a>(&'a self, me: &'a Profile, highest: Epoch) -> OwnershipFuture<'a, Renewed>;

    /// The membership.
    fn view(&self) -> OwnershipFuture<'_, View>;

    /// Makes a connection its device's owner.
    ///
    /// # Errors
    /// [`OwnershipError::Contested`]. After [`OwnershipError::Unknown`] the caller claims again, or releases by
    /// [`Fence::Connection`].
    fn claim<'a>(&'a self, claim: &'a Claim<'a>) -> OwnershipFuture<'a, Claimed>;

    /// Removes the row where it is still this life's and behind the fence; whether it was. `last` is kept as hints.
    fn release<'a>(
        &'a self,
        life: &'a NodeLife,
        device: &'a DeviceKey,
        fence: Fence,
        last: Option<&'a Last>,
    ) -> OwnershipFuture<'a, bool>;

    /// The row as it stands, whoever is alive.
    fn row<'a>(&'a self, device: &'a DeviceKey) -> OwnershipFuture<'a, Option<Row>>;

    /// What the device's last connections left behind; nothing where it was not here for a week, or never.
    fn past<'a>(&'a self, device: &'a DeviceKey) -> OwnershipFuture<'a, Option<Past>>;

    /// Devices by the list of the node's life that holds them: for people who look. A row decides.
    fn list<'a>(&'a self, life: &'a NodeLife, stretch: Stretch<'a>) -> OwnershipFuture<'a, Listed>;

    /// Writes a row that may have been lost.
    fn reassert<'a>(&'a self, life: &'a NodeLife, held: &'a Held) -> OwnershipFuture<'a, Reasserted>;

    /// Looks at every primary, and at the rows of a sample of what this life holds.
    fn inspect<'a>(&'a self, life: &'a NodeLife, sample: &'a [Held]) -> OwnershipFuture<'a, Vec<Inspection>>;

    /// Which primary has a device's row.
    fn primary_of(&self, device: &DeviceKey) -> String;

    /// Declares a node dead whose lease ended [`SETTLE_AFTER_MS`] ago (before [`Ownership::settle`]), or, with `done`,
    /// all of its devices settled. Whether it is so now.
    fn bury<'a>(&'a self, dead: &'a NodeLife, done: bool) -> OwnershipFuture<'a, bool>;

    /// Marks the rows of up to `limit` devices of a buried node, after `after` in the order of their names, and forgets
    /// those that are not its any more.
    fn settle<'a>(&'a self, dead: &'a NodeLife, after: Option<&'a DeviceKey>, limit: u32) -> OwnershipFuture<'a, Page>;
}

/// The directory as everything above holds it.
pub type SharedOwnership = Arc<dyn Ownership>;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn profile(node: &str, state: NodeState) -> Profile {
        let life = NodeLife::begin(NodeName::new(node).unwrap());
        Profile {
            life,
            address: "[::1]:7443".into(),
            state,
            version: "0.1.0+x,y".into(),
            sees_kafka: true,
            devices: None,
        }
    }

    #[test]
    fn a_view_tells_the_living_from_the_dead_and_from_those_of_whom_nobody_knows() {
        let now_ms = 1_000_000;
        let member = |node, state, expires_ms| Member { profile: profile(node, state), expires_ms };
        let view = View::new(
            now_ms * 1_000,
            7,
            [
                member("b", NodeState::Ready, now_ms + 1),
                member("a", NodeState::Starting, now_ms + LEASE_MS),
                member("just-ended", NodeState::Ready, now_ms),
                member("long-ended", NodeState::Ready, now_ms - SETTLE_AFTER_MS),
                member("buried", NodeState::Dead, now_ms - 1),
                member("gone", NodeState::Gone, now_ms - SETTLE_AFTER_MS),
            ],
        );
        let names = |members: &[Member]| members.iter().map(|m| m.profile.life.node.to_string()).collect::<Vec<_>>();
        assert_eq!(
            (names(&view.live), names(&view.dead)),
            (vec!["a".into(), "b".into()], vec!["buried".into(), "long-ended".into()])
        );
        assert!(view.member(&view.live[0].profile.life).is_some() && view.member(&view.dead[0].profile.life).is_none());
    }
}
