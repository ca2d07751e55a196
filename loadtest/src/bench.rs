//! The benchmarks: what each measures, the servers it starts, and the report.

pub mod beside;
mod cluster;
mod connects;
mod cpu;
pub mod html;
pub mod identity;
pub mod kafka;
mod latency;
pub mod machine;
pub mod markdown;
mod memory;
mod peers;
mod redis;
pub mod report;
pub mod servers;

pub use peers::{Bench, Other};

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The operating system or a peer refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

impl BenchError {
    /// Says what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// An error of another kind.
    pub fn failed(what: impl std::fmt::Display) -> Self {
        Self::Failed(what.to_string())
    }
}
