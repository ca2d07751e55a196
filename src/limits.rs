//! Every bound of the gateway in one place, and the sum they come to at full load.
//!
//! Each field is a configuration key of the section `limits` under the same name. Sizes are bytes, times are
//! milliseconds or seconds as the name says. [`fixed`] has those that are no keys.

pub mod fixed;

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
    /// Refusals (429, 503) that may wait out their jittered delay at once, each in its place among `max_handshakes`;
    /// further ones are answered at once.
    pub max_delayed_refusals: usize,
    /// Requests of the API at once, most of which may be waiting for a device's answer; one more is answered 503. Where the
    /// API has a port of its own, also the connections to it.
    pub max_api_requests: usize,
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
            max_api_requests: 1_024,
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

/// What a quiet connection holds: its future, its task and registration with the runtime, its rows in the roster, its
/// identity, and where it has TLS the session's keys. Generous; `docs/benchmarks.md` has what is measured.
const CONNECTION_AT_REST: usize = 8 * KIB;
/// TLS and HTTP on top of the head's bytes while a connection is being made: handshake messages, keys, hyper's buffer.
const HANDSHAKE_OVERHEAD: usize = 32 * KIB;
/// A verified token in the cache: its hash, its identity with two ids of 128 bytes, its times, its place in the table.
const CACHED_TOKEN: usize = KIB;

/// The most memory each bound lets the node hold, in bytes, all of it used at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBounds {
    /// Every connection the node takes, quiet: `max_connections` × what one holds at rest.
    pub connections: usize,
    /// Every connection that is being made: `max_handshakes` × (head + what TLS and HTTP need).
    pub handshakes: usize,
    /// Refusals that wait out their delay: `max_delayed_refusals` × (head + what TLS and HTTP need).
    pub delayed_refusals: usize,
    /// Requests of the API: `max_api_requests` × (head + body), and the 32 larger bodies of those for many devices.
    pub api_requests: usize,
    /// Updates taken and not yet stored: `node_budget_bytes`. The windows of all connections together lie below it,
    /// however many there are, because what is beyond is not read.
    pub taken: usize,
    /// Received beyond the windows, unfinished messages, and what waits to be written: `parked_bytes`.
    pub parked: usize,
    /// Verified tokens: `token_cache` × one.
    pub tokens: usize,
    /// What waits of commands: [`fixed::BYTES`].
    pub commands: usize,
    /// Spans of traces: [`fixed::SPAN_BYTES`].
    pub spans: usize,
}

impl MemoryBounds {
    /// The sum of all.
    pub const fn total(&self) -> usize {
        self.connections
            .saturating_add(self.handshakes)
            .saturating_add(self.delayed_refusals)
            .saturating_add(self.api_requests)
            .saturating_add(self.taken)
            .saturating_add(self.parked)
            .saturating_add(self.tokens)
            .saturating_add(self.commands)
            .saturating_add(self.spans)
    }
}

impl Limits {
    /// What each bound comes to.
    ///
    /// One connection alone may hold a window, an unfinished message and a full write buffer
    /// ([`Limits::one_connection_bytes`]); all of them at once may not: windows share `node_budget_bytes`, and what is
    /// beyond shares `parked_bytes`, above which connections are shed.
    pub const fn memory(&self) -> MemoryBounds {
        let handshake = self.header_bytes.saturating_add(HANDSHAKE_OVERHEAD);
        MemoryBounds {
            connections: self.max_connections.saturating_mul(CONNECTION_AT_REST),
            handshakes: self.max_handshakes.saturating_mul(handshake),
            delayed_refusals: self.max_delayed_refusals.saturating_mul(handshake),
            api_requests: self
                .max_api_requests
                .saturating_mul(self.header_bytes.saturating_add(self.message_bytes))
                .saturating_add(self.message_bytes.saturating_mul(4 * 32)),
            taken: self.node_budget_bytes,
            parked: self.parked_bytes,
            tokens: self.token_cache.saturating_mul(CACHED_TOKEN),
            commands: fixed::BYTES,
            spans: fixed::SPAN_BYTES,
        }
    }

    /// The most memory the node holds with every bound reached at once, in bytes.
    pub const fn sum_bytes(&self) -> usize {
        self.memory().total()
    }

    /// The most one connection holds, in bytes: itself, its window, one unfinished message as received and inflated,
    /// and a full write buffer.
    pub const fn one_connection_bytes(&self) -> usize {
        CONNECTION_AT_REST
            .saturating_add(self.window_bytes)
            .saturating_add(self.message_bytes.saturating_mul(2))
            .saturating_add(self.write_buffer_bytes)
    }

    /// Every value that cannot be, as key and reason.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = self.zeros();
        let mut check = |holds: bool, key: &'static str, text: String| {
            if !holds {
                problems.push((key, text));
            }
        };
        check((1..=64).contains(&self.window_messages), "window_messages", "must lie within 1 and 64".into());
        check(
            self.heartbeat_min_s <= self.heartbeat_s,
            "heartbeat_s",
            format!("is below `limits.heartbeat_min_s` ({})", self.heartbeat_min_s),
        );
        check(
            self.heartbeat_s <= self.heartbeat_max_s,
            "heartbeat_max_s",
            format!("is below `limits.heartbeat_s` ({})", self.heartbeat_s),
        );
        check(
            self.message_bytes <= self.window_bytes,
            "window_bytes",
            format!("is below `limits.message_bytes` ({}): such a message could never be taken", self.message_bytes),
        );
        check(self.message_bytes <= 16 * MIB, "message_bytes", "is above 16 MiB: that is a file, not a message".into());
        check(
            self.tenant_budget_bytes <= self.node_budget_bytes,
            "tenant_budget_bytes",
            format!("is above `limits.node_budget_bytes` ({})", self.node_budget_bytes),
        );
        check(
            self.window_bytes <= self.tenant_budget_bytes,
            "tenant_budget_bytes",
            format!("is below `limits.window_bytes` ({})", self.window_bytes),
        );
        check(
            self.token_bytes <= self.header_bytes,
            "token_bytes",
            format!("is above `limits.header_bytes` ({}), in which it must fit", self.header_bytes),
        );
        check(
            self.message_bytes <= self.parked_bytes,
            "parked_bytes",
            format!("is below `limits.message_bytes` ({})", self.message_bytes),
        );
        problems
    }

    /// The bounds that are 0: each would refuse everything. Only the token cache may be off.
    fn zeros(&self) -> Vec<(&'static str, String)> {
        let sizes = [
            ("max_connections", self.max_connections),
            ("max_handshakes", self.max_handshakes),
            ("max_api_requests", self.max_api_requests),
            ("header_bytes", self.header_bytes),
            ("header_lines", self.header_lines),
            ("uri_bytes", self.uri_bytes),
            ("token_bytes", self.token_bytes),
            ("message_bytes", self.message_bytes),
            ("fragments", self.fragments),
            ("batch_items", self.batch_items),
            ("write_buffer_bytes", self.write_buffer_bytes),
            ("node_budget_bytes", self.node_budget_bytes),
        ];
        let times = [
            ("handshake_timeout_ms", self.handshake_timeout_ms),
            ("assembly_timeout_ms", self.assembly_timeout_ms),
            ("slow_reader_timeout_ms", self.slow_reader_timeout_ms),
            ("heartbeat_min_s", self.heartbeat_min_s),
            ("log_stall_ms", self.log_stall_ms),
            ("messages_per_s", u64::from(self.messages_per_s)),
            ("faults_per_minute", u64::from(self.faults_per_minute)),
            ("control_frames_per_s", u64::from(self.control_frames_per_s)),
        ];
        let all = sizes.into_iter().map(|(key, value)| (key, value == 0)).chain(times.map(|(key, v)| (key, v == 0)));
        all.filter(|(_, zero)| *zero).map(|(key, _)| (key, "must be at least 1".into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_come_to_what_is_written_down() {
        let memory = Limits::default().memory();
        assert_eq!(memory.connections, 50_000 * 8 * KIB);
        assert_eq!(memory.handshakes, 1_024 * 48 * KIB);
        assert_eq!(memory.delayed_refusals, 512 * 48 * KIB);
        assert_eq!((memory.taken, memory.parked), (128 * MIB, 64 * MIB));
        assert_eq!(memory.tokens, 10_000 * KIB);
        assert_eq!(memory.api_requests, 1_024 * 80 * KIB + 8 * MIB);
        assert_eq!(memory.commands, (32 + 16 + 16 + 16 * 2) * MIB + 10_000 * 300);
        assert_eq!(memory.spans, 3 * 4_096 * 2 * KIB);
        // 409.6 + 50.3 + 25.2 + 92.3 + 134.2 + 67.1 + 10.2 + 103.7 + 25.2 megabytes: a node of 1 GiB has room for it.
        assert_eq!(Limits::default().sum_bytes(), 917_767_872);
        assert!(Limits::default().sum_bytes() < 1024 * MIB);
    }

    #[test]
    fn the_defaults_have_no_problem_and_every_wrong_value_is_named() {
        assert_eq!(Limits::default().problems(), []);
        let wrong = Limits {
            window_messages: 65,
            heartbeat_s: 60,
            message_bytes: 0,
            tenant_budget_bytes: 256 * MIB,
            ..Limits::default()
        };
        let keys: Vec<_> = wrong.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["message_bytes", "window_messages", "heartbeat_max_s", "tenant_budget_bytes"]);
    }

    #[test]
    fn a_sum_that_overflows_is_the_largest_there_is() {
        let absurd = Limits { max_connections: usize::MAX, ..Limits::default() };
        assert_eq!(absurd.sum_bytes(), usize::MAX);
    }
}
