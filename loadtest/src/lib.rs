//! Simulated devices for Tidegate: the load client, and the benchmarks with the baselines they are measured against.
//!
//! [`device`] is also the Rust device client: a library for whoever writes a device or simulates one.

pub mod bench;
pub mod client;
pub mod crowd;
pub mod device;
pub mod figures;
pub mod frame;
pub mod paced;
pub mod telemetry;
pub mod wire;
