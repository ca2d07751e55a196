//! Bounds that nobody configures: what is kept of commands for the event log, the directory and other nodes while one of
//! them is slow or away, and of traces for their collector.

use super::{KIB, MIB};

/// Changes of commands that the courier keeps for whoever publishes them. What is above is left to the due sweeper where
/// it is an end, and is forgotten where it is not.
pub const NEWS: usize = 16_384;
/// Bytes of the same.
pub const NEWS_BYTES: usize = 32 * MIB;
/// Answers of one device that may wait. One more is dropped, and its command is asked for again: the device has its
/// answer still.
pub const ANSWERS: usize = 32;
/// Bytes of all answers that may wait; what is above is dropped in the same way.
pub const ANSWER_BYTES: usize = 16 * MIB;
/// Events of commands that may wait for the log. With the log away those of ends come again by the due sweep, and the
/// others are lost.
pub const EVENTS: usize = 16_384;
/// Bytes of their values.
pub const EVENT_BYTES: usize = 16 * MIB;
/// Most that wait for commands at once; one more is told to come again. Each looks at its command once a second.
pub const WAITERS: usize = 10_000;
/// Errands to one peer at once, and those to nobody else. Each ends within a few seconds; one more is left undone, and
/// done by the due sweep.
pub const ERRANDS: usize = 1_024;

/// Spans that have ended and wait for the collector; one more is dropped and counted. As many may be on their way to it.
pub const SPANS: usize = 4_096;
/// Sampled messages whose spans wait for their acks; of one more none is made.
pub const OPEN_SPANS: usize = 4_096;

/// The least a device may say it can take, in bytes: its `welcome` has to fit.
pub const LEAST_MAX_BYTES: usize = 512;

/// One who waits: a place in the table, and the command that is told.
const WAITER: usize = 300;
/// An errand's task, with the device and the row it is about.
const ERRAND: usize = 2 * KIB;
/// A span with what is known of it: a dozen attributes, of which ids are the longest.
const SPAN: usize = 2 * KIB;
/// Peers that are slow at once: as many as there are others in a cluster of 16.
const SLOW_PEERS: usize = 15;

/// The most memory they let the node hold, in bytes, all of it used at once.
pub const BYTES: usize =
    NEWS_BYTES + ANSWER_BYTES + EVENT_BYTES + WAITERS * WAITER + (SLOW_PEERS + 1) * ERRANDS * ERRAND;
/// The same of spans.
pub const SPAN_BYTES: usize = (2 * SPANS + OPEN_SPANS) * SPAN;
