//! What people see of a running node: metrics, logs and traces, their names spelt once.

pub mod logs;
pub mod metrics;
pub mod traces;
