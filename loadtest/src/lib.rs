//! Simulated devices for Tidegate: the load client, and the benchmarks with the baselines they are measured against.

pub mod bench;
pub mod client;
pub mod crowd;
pub mod figures;
pub mod frame;
pub mod paced;
pub mod page;
pub mod plot;
pub mod telemetry;
pub mod units;
pub mod wire;
