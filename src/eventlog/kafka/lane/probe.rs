//! Round trips through a lane: one probe record at a time, however many ask.

use std::sync::PoisonError;

use rdkafka::message::OwnedHeaders;
use rdkafka::producer::BaseRecord;
use tokio::sync::oneshot;

use super::{Lane, Load, Producer, Slot, insert};
use crate::clock::unix_ms;
use crate::eventlog::encode;
use crate::sync::lock;

/// Probes that may wait for the one under way.
const MAX_WAITERS: usize = 64;

/// Who waits for a probe.
#[derive(Default)]
pub(super) struct Probes {
    under_way: bool,
    waiting: Vec<oneshot::Sender<Result<(), String>>>,
}

impl Lane {
    /// Asks for a round trip. The answer is an error at once where the producer is being replaced.
    pub(in crate::eventlog::kafka) fn probe(&self) -> oneshot::Receiver<Result<(), String>> {
        let (sender, receiver) = oneshot::channel();
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Slot::Open(producer) => self.send_probe(producer, sender),
            Slot::Parking => drop(sender.send(Err(format!("topic {}: {}", self.name, self.reason())))),
            Slot::Closed => drop(sender.send(Err("the event log is closed".to_owned()))),
        }
        receiver
    }

    fn send_probe(&self, producer: &Producer, sender: oneshot::Sender<Result<(), String>>) {
        {
            let mut probes = lock(&self.probes);
            probes.waiting.retain(|waiter| !waiter.is_closed());
            if probes.waiting.len() >= MAX_WAITERS {
                drop(sender.send(Err("too many probes at once".to_owned())));
                return;
            }
            probes.waiting.push(sender);
            // One under way answers for all: while Kafka is away probes must not pile up.
            if std::mem::replace(&mut probes.under_way, true) {
                return;
            }
        }
        let now_ms = unix_ms();
        let mut headers = Some(OwnedHeaders::new_with_capacity(encode::MAX_HEADERS));
        encode::probe_headers(now_ms, |name, value| insert(&mut headers, name, value));
        let key = format!("/probe/{}", fastrand::u8(..32));
        let mut base = BaseRecord::with_opaque_to(&self.name, self.flight_of(Load::Probe, now_ms, None));
        base = base.key(key.as_str()).payload(b"{}".as_slice()).timestamp(now_ms);
        base.headers = headers;
        if let Err((error, _)) = producer.send(base) {
            self.probed(Err(format!("topic {}: {error}", self.name)));
        }
    }

    pub(super) fn probed(&self, outcome: Result<(), String>) {
        let waiting = {
            let mut probes = lock(&self.probes);
            probes.under_way = false;
            std::mem::take(&mut probes.waiting)
        };
        for waiter in waiting {
            // Whoever gave up waiting is no longer there; that is theirs.
            drop(waiter.send(outcome.clone()));
        }
    }
}
