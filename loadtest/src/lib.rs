//! Simulated devices for Tidegate: the device client, the load tester, and the benchmarks with the baselines they are
//! measured against.
//!
//! [`device`] is also the Rust device client: a library for whoever writes a device or simulates one.

// What tests of the library and of what is around it share names the crate as those around it do.
#[cfg(test)]
extern crate self as tidegate_loadtest;

pub mod bench;
pub mod cli;
pub mod client;
pub mod crowd;
pub mod data;
pub mod device;
pub mod exporter;
pub mod figures;
pub mod frame;
pub mod judgement;
pub mod ledger;
pub mod paced;
pub mod page;
pub mod plot;
pub mod profile;
pub mod rehearsal;
pub mod report;
pub mod run;
pub mod summary;
pub mod telemetry;
pub mod threshold;
pub mod units;
pub mod view;
pub mod wire;

#[cfg(test)]
#[path = "../tests/support/sample.rs"]
mod sample;
