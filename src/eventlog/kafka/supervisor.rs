//! The thread of a lane: polls the producer for delivery reports and, when the producer has failed or gave something
//! back, replaces it. What the old one had goes into the new one in its old order before anything newer of that topic.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::{Producer as _, PurgeConfig};
use tokio::sync::oneshot;

use super::LaneState;
use super::lane::{Context, Lane, Producer, is_forbidden, said};

/// How long one poll handles delivery reports; trouble and closing do not end it. A little more than whole milliseconds:
/// what is left of the time is rounded down to those, so that the last one of 100 would be spent asking again and again.
pub(super) const POLL: Duration = Duration::from_micros(100_100);
/// The same while something is to be finished.
const SHORT_POLL: Duration = Duration::from_micros(5_100);
/// What is on the wire when a producer is given up may still be answered for this long, which saves repeats.
const ANSWERS: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Makes a producer for a lane.
pub(super) fn create(config: &ClientConfig, lane: &Arc<Lane>) -> rdkafka::error::KafkaResult<Arc<Producer>> {
    config.create_with_context(Context::new(Arc::clone(lane))).map(Arc::new)
}

/// Runs a lane until it is closed; `ended` then gets the number of records still waiting.
pub(super) fn run(lane: &Arc<Lane>, config: &ClientConfig, first: Arc<Producer>, ended: oneshot::Sender<usize>) {
    let mut producer = Some(first);
    while !is_over(lane) {
        match &producer {
            Some(running) if !lane.in_trouble() => {
                running.poll(if lane.is_closing() { SHORT_POLL } else { POLL });
                lane.settle_refused();
                look_for_fatal(lane, running);
            }
            _ => producer = replace(lane, config, producer.take()),
        }
    }
    let waiting = lane.pending().messages;
    if let Some(last) = producer {
        drop(last);
    }
    lane.abandon();
    if waiting > 0 {
        tracing::warn!(topic = lane.name, waiting, "closed with records that Kafka has not stored");
    }
    // Nobody waits where the log was dropped without `close`.
    let _ = ended.send(waiting);
}

/// A producer that failed for good says so only when asked: its error event carries the reason's code, not that.
fn look_for_fatal(lane: &Lane, producer: &Producer) {
    if let Some((code, reason)) = producer.client().fatal_error() {
        if is_forbidden(code) {
            lane.forbid(&said(code));
        }
        lane.set_state(LaneState::Fatal);
        lane.give_up(&format!("the producer failed for good: {reason}"));
    }
}

fn is_over(lane: &Lane) -> bool {
    lane.is_closing() && (lane.pending().messages == 0 || lane.is_past_deadline())
}

/// Takes everything out of `old` and puts it into a new producer, trying again with longer and longer waits. `None`
/// only where the lane is over.
fn replace(lane: &Arc<Lane>, config: &ClientConfig, old: Option<Arc<Producer>>) -> Option<Arc<Producer>> {
    lane.enter_parking();
    if lane.state.load(Relaxed) != LaneState::Fatal as u8 {
        lane.set_state(LaneState::Degraded);
    }
    let mut given_up = old;
    let mut backoff = Duration::ZERO;
    loop {
        lane.alert("the event log cannot store into this topic; its producer is replaced and nothing is lost");
        if let Some(old) = given_up.take() {
            empty(lane, &old);
            retire(old);
        }
        wait(lane, backoff);
        if is_over(lane) {
            return None;
        }
        backoff = (backoff * 2).clamp(FIRST_BACKOFF, MAX_BACKOFF);
        lane.clear_trouble();
        let next = match create(config, lane) {
            Ok(next) => next,
            Err(error) => {
                lane.give_up(&error.to_string());
                continue;
            }
        };
        lane.replaced();
        let before = lane.settled();
        if refill(lane, &next) {
            if !is_over(lane) {
                tracing::info!(topic = lane.name, "the event log stores into this topic through a new producer");
            }
            lane.set_state(LaneState::Running);
            return Some(next);
        }
        // One that got on before it ended, if only by a record Kafka refused, is no reason to wait.
        if lane.settled() != before {
            backoff = Duration::ZERO;
        }
        given_up = Some(next);
    }
}

/// Has `old` give back everything it holds.
fn empty(lane: &Lane, old: &Producer) {
    old.purge(PurgeConfig::default().queue());
    let patience = Instant::now() + ANSWERS;
    while old.in_flight_count() > 0 && Instant::now() < patience && old.client().fatal_error().is_none() {
        old.poll(SHORT_POLL);
    }
    old.purge(PurgeConfig::default().queue().inflight());
    let mut warn_at = Instant::now() + 5 * ANSWERS;
    while old.in_flight_count() > 0 {
        old.poll(SHORT_POLL);
        if Instant::now() > warn_at {
            tracing::warn!(topic = lane.name, left = old.in_flight_count(), "the old producer is slow to give back");
            warn_at += 30 * ANSWERS;
        }
    }
}

/// Drops a producer on a thread of its own: it can take as long as its connections need to end.
fn retire(old: Arc<Producer>) {
    let spawned = std::thread::Builder::new().name("kafka-retire".to_owned()).spawn(move || drop(old));
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread to end an old producer on; ended where it was");
    }
}

/// Puts what is parked into `next`. The first record goes alone, and so does each that may be why its batch was
/// refused. True when appends go into `next` again (or the lane is over); false when `next` is in trouble as well.
fn refill(lane: &Lane, next: &Arc<Producer>) -> bool {
    let mut tried = false;
    while !lane.open(next) {
        let alone = !tried || lane.first_is_suspect() == Some(true);
        if alone && !settle_all(lane, next) {
            return is_over(lane);
        }
        let sent = lane.send_parked(next, alone);
        if alone && !settle_all(lane, next) {
            return is_over(lane);
        }
        if !sent {
            next.poll(SHORT_POLL);
        }
        if lane.in_trouble() || is_over(lane) {
            return is_over(lane);
        }
        tried = true;
    }
    true
}

/// Polls until nothing is under way. False when that does not come: in trouble, or over.
fn settle_all(lane: &Lane, producer: &Producer) -> bool {
    while producer.in_flight_count() > 0 {
        producer.poll(SHORT_POLL);
        lane.settle_refused();
        if lane.in_trouble() || is_over(lane) {
            return false;
        }
    }
    !lane.in_trouble()
}

/// Waits, but not beyond the end of the lane.
fn wait(lane: &Lane, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end && !is_over(lane) {
        std::thread::sleep(SHORT_POLL.min(time));
    }
}
