//! What people see of a running node: metrics and logs, their names spelt once.

pub mod logs;
pub mod metrics;
