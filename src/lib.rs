//! Tidegate: a clustered WebSocket gateway for IoT devices in which an ack means stored.
//!
//! `docs/architecture.md` is the map: what each module is for, which way things flow and what always holds.
//! `tests/architecture.rs` holds the table of tiers, so a module can only use what lies below it.

pub mod clock;
pub mod https;
pub mod id;
pub mod limits;
pub mod sync;

pub mod telemetry;

pub mod protocol;
#[cfg(feature = "redis")]
pub mod store;

pub mod auth;
pub mod commands;
pub mod eventlog;
pub mod mailbox;
pub mod ownership;

pub mod courier;
pub mod receipts;
pub mod registrar;
pub mod revocations;
pub mod roster;
pub mod session;
pub mod socket;

pub mod connection;
pub mod keeper;
pub mod peer;

pub mod router;

pub mod api;
pub mod inbox;

pub mod app;
pub mod cli;
#[cfg(feature = "kafka")]
pub mod config;
pub mod dev;
