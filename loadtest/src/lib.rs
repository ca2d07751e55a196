//! Simulated devices for Tidegate: the load client, and the benchmarks with the baselines they are measured against.

pub mod bench;
pub mod client;
pub mod crowd;
pub mod data;
pub mod device;
pub mod figures;
pub mod frame;
pub mod ledger;
pub mod paced;
pub mod profile;
pub mod run;
pub mod telemetry;
pub mod wire;
