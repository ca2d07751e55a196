//! Every bound of the gateway in one place, and the sum they come to at full load.
//!
//! Each field is a configuration key of the section `limits` under the same name. Sizes are bytes, times are
//! milliseconds or seconds as the name says.

use serde::{Deserialize, Serialize};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The bounds of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections a node holds; one more is answered 503 before any token is looked at.
    pub max_connections: usize,
    /// Connections that may be in TLS or HTTP at once; further ones wait in the listen queue.
    pub max_handshakes: usize,
    /// Refusals (429, 503) that may wait out their jittered delay at once; further ones are closed at once.
    pub max_delayed_refusals: usize,
    /// TLS and the request's head together, from accept to the last header.
    pub handshake_timeout_ms: u64,
    /// A request's head: request line and headers.
    pub header_bytes: usize,
    /// Header lines in a request.
    pub header_lines: usize,
    /// The request target.
    pub uri_bytes: usize,
    /// A token, wherever it stands.
    pub token_bytes: usize,
    /// Subprotocols a client may offer.
    pub subprotocols: usize,
    /// One message, as received and in its JSON form.
    pub message_bytes: usize,
    /// Frames one message may come in.
    pub fragments: usize,
    /// From a message's first byte to its last.
    pub assembly_timeout_ms: u64,
    /// Messages in one batch.
    pub batch_items: usize,
    /// Updates of one connection that are taken and not yet stored: 1 to 64.
    pub window_messages: usize,
    /// Bytes of the same.
    pub window_bytes: usize,
    /// Updates a second one connection may send before it is read more slowly.
    pub messages_per_s: u32,
    /// What waits to be written to one connection.
    pub write_buffer_bytes: usize,
    /// How long a connection with something to read may read nothing.
    pub slow_reader_timeout_ms: u64,
    /// Messages refused for the sender's own fault in a minute before the connection ends with 1008.
    pub faults_per_minute: u32,
    /// Pings, pongs and empty messages of one connection in a second before it ends with 1008.
    pub control_frames_per_s: u32,
    /// How often the gateway pings, where the device does not ask for another interval.
    pub heartbeat_s: u64,
    /// The shortest interval a device may ask for.
    pub heartbeat_min_s: u64,
    /// The longest interval a device may ask for; common load balancers cut idle connections at 60 s.
    pub heartbeat_max_s: u64,
    /// Bytes taken from devices and not yet stored, on the whole node. At half of it devices are told to pause.
    pub node_budget_bytes: usize,
    /// The same for one tenant.
    pub tenant_budget_bytes: usize,
    /// Bytes received beyond the windows, on the whole node; above it the connection that brings more is shed (4100).
    pub parked_bytes: usize,
    /// With records outstanding and none stored for this long, devices are told to pause.
    pub log_stall_ms: u64,
    /// Distinct verified tokens kept, so that a reconnecting device costs no signature check.
    pub token_cache: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 50_000,
            max_handshakes: 1_024,
            max_delayed_refusals: 512,
            handshake_timeout_ms: 10_000,
            header_bytes: 16 * KIB,
            header_lines: 100,
            uri_bytes: 8 * KIB,
            token_bytes: 8 * KIB,
            subprotocols: 32,
            message_bytes: 64 * KIB,
            fragments: 128,
            assembly_timeout_ms: 30_000,
            batch_items: 1_000,
            window_messages: 64,
            window_bytes: 256 * KIB,
            messages_per_s: 10_000,
            write_buffer_bytes: 256 * KIB,
            slow_reader_timeout_ms: 20_000,
            faults_per_minute: 10,
            control_frames_per_s: 100,
            heartbeat_s: 25,
            heartbeat_min_s: 5,
            heartbeat_max_s: 50,
            node_budget_bytes: 128 * MIB,
            tenant_budget_bytes: 96 * MIB,
            parked_bytes: 64 * MIB,
            log_stall_ms: 1_500,
            token_cache: 10_000,
        }
    }
}
