//! The HTTP API against a node in this process on the memory twins: the cases F (143 to 155), two tenants with the same
//! device ids, and what does not belong on the public port.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]
#![allow(unreachable_pub, reason = "the parts of one test file")]

#[path = "api/commands.rs"]
mod commands;
#[path = "api/devices.rs"]
mod devices;
#[path = "api/document.rs"]
mod document;
#[path = "api/programs.rs"]
mod programs;
#[path = "api/rig.rs"]
mod rig;
#[path = "api/http.rs"]
mod robust;
#[path = "api/socket.rs"]
mod socket;
#[path = "api/tenants.rs"]
mod tenants;
