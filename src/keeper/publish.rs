//! Presence to the event log.

use std::sync::Arc;
use std::time::Duration;

use super::Keeper;
use crate::eventlog::{Kind, Record, Topic};
use crate::mailbox::{Mailbox, WINDOW};
use crate::receipts::Seat;
use crate::registrar::presence::Presence;

/// When it is tried again what found no room.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The events that were appended and are not stored yet, by their number.
type UnderWay = [Option<Presence>; WINDOW];

impl Keeper {
    /// Publishes what is noted, at most [`WINDOW`] at a time.
    pub(super) async fn publish_presence(self: Arc<Self>) {
        let mailbox = Arc::new(Mailbox::default());
        let seat = self.parts.receipts.clerk(Arc::clone(&mailbox));
        let book = self.parts.registrar.presence();
        let mut under_way: UnderWay = [const { None }; WINDOW];
        loop {
            let blocked = !self.append_some(&seat, &mut under_way);
            let free = under_way.iter().any(Option::is_none);
            tokio::select! {
                settled = mailbox.settled() => {
                    for (number, place) in under_way.iter_mut().enumerate() {
                        if settled.ended >> number & 1 == 1 && let Some(event) = place.take() {
                            if settled.refused >> number & 1 == 1 {
                                tracing::error!(device = %event.device, "the event log refused a presence event");
                            }
                            book.done(event);
                        }
                    }
                }
                () = book.rung(), if free && !blocked => {}
                () = tokio::time::sleep(AGAIN_AFTER), if blocked => {}
            }
        }
    }

    /// Appends while there is something and room for it. `false`: the log, or a budget, took no more.
    fn append_some(&self, seat: &Seat, under_way: &mut UnderWay) -> bool {
        let book = self.parts.registrar.presence();
        for (number, place) in (0..).zip(under_way.iter_mut()).filter(|(_, place)| place.is_none()) {
            let Some(event) = book.take() else { return true };
            let value = event.json();
            let record = Record {
                topic: Topic::Status,
                kind: if event.online { Kind::Online } else { Kind::Offline },
                key: &event.device,
                boot: &event.boot,
                seq: None,
                timestamp_ms: None,
                received_ms: event.at_ms,
                epoch: event.epoch,
                traceparent: None,
                value: &value,
            };
            if !seat.append(number, &record, &*self.parts.log) {
                book.put_back(event);
                return false;
            }
            *place = Some(event);
        }
        true
    }
}
