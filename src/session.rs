//! What a connection does, without doing any of it: pure state machines. Time is an argument; input goes in, and what is
//! to be done comes out. No async, no clock, no I/O.

pub mod device;
pub mod heartbeat;
pub mod rate;
pub mod window;

/// One moment, on both of the clocks that matter: intervals go by the first, tokens and events by the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Milliseconds since the node started, never going back.
    pub mono_ms: u64,
    /// Unix milliseconds.
    pub unix_ms: i64,
}
