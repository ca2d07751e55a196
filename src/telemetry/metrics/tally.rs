//! What one turn of a connection received and sent, added up before it is counted: a series that changed costs one
//! atomic addition a turn, however many messages the turn had.

use super::{Label, Metrics, ReceivedType, SentType};

/// Messages and bytes by the index of a label.
#[derive(Debug)]
struct Counts<const N: usize> {
    /// A bit for each index that is not zero.
    touched: u32,
    of: [(u64, u64); N],
}

impl<const N: usize> Counts<N> {
    const fn new() -> Self {
        Self { touched: 0, of: [(0, 0); N] }
    }

    fn add(&mut self, index: usize, bytes: usize) {
        if let Some((messages, sum)) = self.of.get_mut(index) {
            *messages += 1;
            *sum += bytes as u64;
            self.touched |= 1 << index;
        }
    }

    fn drain(&mut self, mut each: impl FnMut(usize, u64, u64)) {
        while self.touched != 0 {
            let index = self.touched.trailing_zeros() as usize;
            self.touched &= self.touched - 1;
            if let Some(counts) = self.of.get_mut(index) {
                let (messages, bytes) = std::mem::take(counts);
                each(index, messages, bytes);
            }
        }
    }
}

/// Counts of one turn.
#[derive(Debug)]
pub struct Tally {
    received: Counts<{ ReceivedType::ALL.len() }>,
    sent: Counts<{ SentType::ALL.len() }>,
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// Nothing counted.
    pub const fn new() -> Self {
        Self { received: Counts::new(), sent: Counts::new() }
    }

    /// A message or control frame came, with its payload's bytes.
    pub fn received(&mut self, kind: ReceivedType, bytes: usize) {
        self.received.add(kind.index(), bytes);
    }

    /// A message or control frame goes out, with its payload's bytes.
    pub fn sent(&mut self, kind: SentType, bytes: usize) {
        self.sent.add(kind.index(), bytes);
    }

    /// How many of a kind go out in this turn.
    pub fn sent_of(&self, kind: SentType) -> u64 {
        self.sent.of.get(kind.index()).map_or(0, |(messages, _)| *messages)
    }

    /// Adds everything to `metrics` and begins anew.
    pub fn flush(&mut self, metrics: &Metrics) {
        self.received.drain(|index, messages, bytes| {
            if let Some(kind) = ReceivedType::ALL.get(index) {
                metrics.messages_received.of(*kind).inc_by(messages);
                metrics.received_bytes.of(*kind).inc_by(bytes);
            }
        });
        self.sent.drain(|index, messages, bytes| {
            if let Some(kind) = SentType::ALL.get(index) {
                metrics.messages_sent.of(*kind).inc_by(messages);
                metrics.sent_bytes.of(*kind).inc_by(bytes);
            }
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_up_is_counted_once() {
        let metrics = Metrics::new().unwrap();
        let mut tally = Tally::new();
        tally.received(ReceivedType::Update, 100);
        tally.received(ReceivedType::Update, 50);
        tally.received(ReceivedType::WsClose, 2);
        tally.sent(SentType::WsClose, 9);
        assert_eq!(tally.sent_of(SentType::WsClose), 1);
        tally.flush(&metrics);
        tally.flush(&metrics);
        assert_eq!(metrics.messages_received.of(ReceivedType::Update).get(), 2);
        assert_eq!(metrics.received_bytes.of(ReceivedType::Update).get(), 150);
        assert_eq!(metrics.messages_received.of(ReceivedType::WsClose).get(), 1);
        assert_eq!(metrics.sent_bytes.of(SentType::WsClose).get(), 9);
        assert_eq!(metrics.messages_sent.of(SentType::Ack).get(), 0);
    }
}
