//! Node to node: what one node asks of another. Whoever is asked looks among its own connections and never asks on.
//!
//! [`PeerLink`] is the seam, [`PeerHandler`] what answers at the other end. Between processes [`GrpcPeers`] and
//! [`PeerServer`] speak the gRPC of `peer.proto`; [`memory`] is the twin within one process.
//!
//! Every call may be repeated: done twice is the same as done once.

#[cfg(feature = "peers")]
mod client;
mod config;
pub mod memory;
#[cfg(feature = "peers")]
mod server;
#[cfg(feature = "peers")]
mod spans;
#[cfg(feature = "peers")]
mod tls;
#[cfg(feature = "peers")]
mod wire;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "peers")]
pub use client::GrpcPeers;
pub use config::PeerConfig;
#[cfg(feature = "peers")]
pub use server::PeerServer;
#[cfg(feature = "peers")]
pub use tls::PeerTls;

use crate::id::{CommandId, DeviceKey, Epoch};
use crate::ownership::NodeLife;
use crate::telemetry::metrics::PeerOutcome;
use crate::telemetry::traces::Tracer;

/// Largest [`Ending::detail`], in bytes: a result as large as a message may be, and what is said around it.
pub const MAX_DETAIL_BYTES: usize = 128 * 1024;
/// Calls in flight from here to one peer; further ones wait for a place within their own deadline.
pub const MAX_IN_FLIGHT: usize = 64;
/// Calls a node answers at once, whoever they are from; further ones are [`PeerError::Busy`] at once.
pub const MAX_ANSWERING: usize = 256;

/// A node that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub life: NodeLife,
    /// Where, as `host:port`.
    pub address: String,
}

/// How far a command has come, for the node where somebody waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The command's device.
    pub device: DeviceKey,
    /// The command.
    pub command: CommandId,
    /// The version it has now.
    pub version: u32,
    /// The command as the API shows it, JSON, at most [`MAX_DETAIL_BYTES`]. Empty: whoever waits reads it himself.
    pub detail: Vec<u8>,
}

impl Ending {
    /// # Errors
    /// [`PeerError::TooLarge`].
    fn check(&self) -> Result<(), PeerError> {
        if self.detail.len() <= MAX_DETAIL_BYTES { Ok(()) } else { Err(PeerError::TooLarge) }
    }
}

/// What became of a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// The connection was told.
    Delivered,
    /// The device is not connected here under this epoch.
    NotHere {
        /// The epoch under which it is, or last was, where one is known.
        known: Option<Epoch>,
    },
}

/// What became of an evict. Each of them is an answer: it need not be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evicted {
    /// An older connection was closed.
    Closed,
    /// The device is not connected here.
    Absent,
    /// It is, under this epoch, which is not older: that connection stays.
    Newer(Epoch),
}

/// What became of a trace that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traced {
    /// It begins.
    Begun,
    /// The device is not connected here under this epoch.
    NotHere {
        /// The epoch under which it is, where one is known.
        known: Option<Epoch>,
    },
    /// The node traces as many devices as it may.
    Full,
}

/// Why a call came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The node is not, or no longer, among the live ones; nothing was sent.
    #[error("the node is not among the live ones")]
    Gone,
    /// At its address another node answers, or another life of it.
    #[error("another node, or another life of it, answers at its address")]
    OtherLife,
    /// The device is not connected there under the epoch asked for.
    #[error("the device is not connected there under this epoch")]
    NotHere {
        /// The epoch which the node knows of.
        known: Option<Epoch>,
    },
    /// There is no connection to the node, or it broke before an answer; the call may have been done.
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time; the call may have been done.
    #[error("the node did not answer in time")]
    Deadline,
    /// Too many calls are under way, here or there; nothing was done.
    #[error("too many calls are under way")]
    Busy,
    /// It is larger than [`MAX_DETAIL_BYTES`] and what belongs to it; nothing was done.
    #[error("the call is too large")]
    TooLarge,
    /// The node does not know such a call, as an older version would not, or does not understand it.
    #[error("the node refused the call: {0}")]
    Refused(String),
}

impl PeerError {
    /// Whether the same call to the same node may yet succeed.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Deadline | Self::Busy)
    }

    /// Its value of the label `outcome`.
    pub const fn metric_label(&self) -> PeerOutcome {
        match self {
            Self::Gone => PeerOutcome::Gone,
            Self::OtherLife => PeerOutcome::OtherLife,
            Self::NotHere { .. } => PeerOutcome::NotHere,
            Self::Unreachable(_) => PeerOutcome::Unreachable,
            Self::Deadline => PeerOutcome::Deadline,
            Self::Busy => PeerOutcome::Busy,
            Self::TooLarge => PeerOutcome::TooLarge,
            Self::Refused(_) => PeerOutcome::Refused,
        }
    }
}

/// A future of the seam.
pub type PeerFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, PeerError>> + Send + 'a>>;

/// What a node can ask of others. Every call ends within its deadline ([`PeerTimes::deadline`]).
pub trait PeerLink: Send + Sync + 'static {
    /// Takes over who can be asked: the live nodes of the newest view. Calls to others are [`PeerError::Gone`], and
    /// connections to others are closed.
    fn set_live(&self, live: Vec<Peer>);

    /// Tells the owner of a device that commands wait for it.
    ///
    /// # Errors
    /// [`PeerError`]; [`PeerError::NotHere`] where it is not the owner under this epoch.
    fn ring<'a>(&'a self, to: &'a NodeLife, device: &'a DeviceKey, epoch: Epoch) -> PeerFuture<'a, ()>;

    /// Tells the previous owner of a device that it has a newer one, under this epoch.
    ///
    /// # Errors
    /// [`PeerError`].
    fn evict<'a>(&'a self, to: &'a NodeLife, device: &'a DeviceKey, epoch: Epoch) -> PeerFuture<'a, Evicted>;

    /// Tells the origin of a command how far it has come.
    ///
    /// # Errors
    /// [`PeerError`].
    fn ended<'a>(&'a self, to: &'a NodeLife, ending: &'a Ending) -> PeerFuture<'a, ()>;

    /// Asks a node to compare all it holds with the directory: it may have missed evicts.
    ///
    /// # Errors
    /// [`PeerError`].
    fn sweep<'a>(&'a self, to: &'a NodeLife) -> PeerFuture<'a, ()>;

    /// Has the owner of a device write the outlines of its messages into its log for so many seconds.
    ///
    /// # Errors
    /// [`PeerError`].
    fn trace<'a>(&'a self, to: &'a NodeLife, device: &'a DeviceKey, epoch: Epoch, for_s: u32)
    -> PeerFuture<'a, Traced>;
}

/// Peers as everything above holds them.
pub type SharedPeers = Arc<dyn PeerLink>;

/// What answers. None of it waits, so none of it can ask a third node: it looks, leaves a letter and returns.
pub trait PeerHandler: Send + Sync + 'static {
    /// Whether this is the node's present life. Calls for any other are refused before they come here.
    fn is_me(&self, life: &NodeLife) -> bool;

    /// Tells the device's connection, if it is here under exactly this epoch, that commands wait.
    fn ring(&self, device: &DeviceKey, epoch: Epoch) -> Rung;

    /// Closes the device's connection here if it is older than this epoch.
    fn evict(&self, device: &DeviceKey, epoch: Epoch) -> Evicted;

    /// Wakes whoever waits for the command; nobody may.
    fn ended(&self, ending: Ending);

    /// Has everything that is held here compared with the directory, soon.
    fn sweep(&self);

    /// Traces the device's connection for so many seconds, if it is here under exactly this epoch.
    fn trace(&self, device: &DeviceKey, epoch: Epoch, for_s: u32) -> Traced;

    /// What makes spans of calls that are part of a trace; nothing: there are none.
    fn tracer(&self) -> Option<&Tracer> {
        None
    }
}

/// How long things take at most. The defaults are what a node uses; tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerTimes {
    /// A call, with the wait for a place and for a connection; also how long an answer may take at the other end.
    pub deadline: Duration,
    /// A connection with its TLS handshake. Below the deadline, so that a caller hears why there is none.
    pub connect: Duration,
    /// How often a connection is proved to live, idle or not.
    pub keep_alive_every: Duration,
    /// How long that proof may take. With the above: a silent peer is noticed within 10 s.
    pub keep_alive_timeout: Duration,
    /// Rest after a connection failed; doubles with each failure, half of it drawn.
    pub backoff: Duration,
    /// The longest such rest.
    pub longest_backoff: Duration,
    /// How long after it was made a connection may bring no call before it is closed.
    pub first_call: Duration,
}

impl Default for PeerTimes {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(2),
            connect: Duration::from_secs(1),
            keep_alive_every: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(5),
            backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_secs(5),
            first_call: Duration::from_secs(10),
        }
    }
}

impl PeerTimes {
    /// The rest after so many failures in a row.
    #[cfg(feature = "peers")]
    fn rest(&self, failures: u32) -> Duration {
        let doubled = self.backoff.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(self.longest_backoff).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(all(test, feature = "peers"))]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_the_longest_and_half_of_each_is_drawn() {
        let times = PeerTimes::default();
        for (failures, most_ms) in [(0, 100), (1, 100), (2, 200), (4, 800), (7, 5_000), (u32::MAX, 5_000)] {
            for _ in 0..100 {
                let rest = times.rest(failures);
                let most = Duration::from_millis(most_ms);
                assert!((most / 2..=most).contains(&rest), "{failures}: {rest:?}");
            }
        }
    }
}
