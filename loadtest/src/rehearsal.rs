//! The rehearsal of a rollout without Kubernetes: nodes on 127.0.0.x behind a real HAProxy, load on, then step by step what
//! a rolling update, a scale-out and a crash do to them. What devices and callers were promised is looked for afterwards.

mod cluster;
mod files;
mod front;
mod judge;
mod load;
mod program;
mod report;
mod scrape;
mod steps;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use report::{Check, Report};
pub use steps::rehearse;

/// Why a rehearsal could not be held to its end.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// The operating system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// A certificate could not be made.
    #[error("making certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A program ended that should not have.
    #[error("{name} ended ({status}) though it was still needed; its log is {log}, and ends with:\n{tail}")]
    Ended {
        /// Which.
        name: String,
        /// How.
        status: String,
        /// Where its log is.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// Something did not come.
    #[error("not within {within:?}: {what}")]
    Late {
        /// What was waited for.
        what: String,
        /// For how long.
        within: Duration,
    },
    /// What the load tester left behind cannot be read.
    #[error("{path}: {reason}")]
    Summary {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl RehearsalError {
    /// Says what was being done.
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// What is rehearsed.
#[derive(Debug, Clone)]
pub struct Options {
    /// The gateway's program.
    pub tidegate: PathBuf,
    /// The load tester's.
    pub loadtest: PathBuf,
    /// Where everything that is written goes.
    pub out: PathBuf,
    /// Kafka.
    pub brokers: String,
    /// Redis, `redis://host:port`.
    pub redis: String,
    /// How many devices there are.
    pub devices: u32,
    /// How many of the three nodes are replaced, one after the other.
    pub restarts: usize,
    /// From the moment a node is to go until its SIGTERM.
    pub pre_stop: Duration,
    /// How long HAProxy takes to notice, in whole seconds: as many failed checks, one a second.
    pub lag_s: u64,
    /// How HAProxy chooses among nodes: `leastconn`, or `roundrobin`, much as a Service of Kubernetes does.
    pub balance: String,
    /// `drain.propagation_s`.
    pub propagation_s: u64,
    /// `drain.rate_per_s`.
    pub rate_per_s: u32,
    /// `drain.budget_s`.
    pub budget_s: u64,
    /// Whether a fourth node joins.
    pub scale_out: bool,
    /// Whether the nodes are told to rebalance, and that they did is checked.
    pub rebalance: bool,
    /// Whether a node is killed.
    pub kill: bool,
    /// Lines at the end of each node's configuration.
    pub extra_config: String,
    /// How it was started, for whoever reads the report.
    pub command: String,
}

/// Nodes there are to begin with.
const NODES: usize = 3;
/// A node is within this of the mean where it has its share.
const SHARE: f64 = 1.1;

impl Options {
    /// How many nodes there ever are: each replacement is another one, as pods are.
    fn nodes_ever(&self) -> usize {
        NODES + self.restarts + usize::from(self.scale_out) + usize::from(self.kill)
    }
}

/// Where a node is.
#[derive(Debug, Clone)]
struct Spot {
    name: String,
    public: SocketAddr,
    internal: SocketAddr,
    peer: SocketAddr,
}
