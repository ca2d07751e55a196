//! The decisions of a device, and what holds whatever happens in whatever order.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::device::Reconnect;

const SECOND: Duration = Duration::from_secs(1);

fn state(buffer: usize) -> State {
    let mut options = Options::new("ws://h", "d1").unwrap();
    options.buffer = buffer;
    options.reconnect = Reconnect::Advised;
    State::new(&options, fastrand::Rng::with_seed(1), Instant::now())
}

fn welcome(window: u64, resume_after: Option<u64>) -> OwnedGatewayMessage {
    OwnedGatewayMessage { window: Some(window), resume_after, heartbeat_s: Some(10), ..Default::default() }
}

fn kept(seq: u64) -> Kept {
    Kept::new(seq, 0, Instant::now(), Box::default())
}

#[test]
fn it_holds_its_updates_while_any_reason_to_pause_stands() {
    let (mut state, now) = (state(9), Instant::now());
    state.welcomed(&welcome(64, None), now, drop);
    state.pause("log");
    state.pause("rate");
    state.resume("rate", now);
    assert!(!state.may_send());
    state.resume("log", now);
    assert!(state.may_send());
    state.pause("log");
    state.welcomed(&welcome(64, None), now, drop);
    assert!(state.may_send(), "a new connection begins anew");
}

#[test]
fn the_window_is_kept() {
    let (mut state, now) = (state(9), Instant::now());
    state.welcomed(&welcome(2, None), now, drop);
    (1..=3).for_each(|seq| drop(state.outbox.push(kept(seq))));
    while state.may_send() {
        state.wrote(now);
    }
    assert_eq!(state.outbox.in_flight(), 2);
    state.acked(1, now, drop).unwrap();
    assert!(state.may_send());
}

#[test]
fn a_minute_without_an_ack_ends_the_connection_but_not_while_paused() {
    let (mut state, start) = (state(9), Instant::now());
    state.welcomed(&welcome(64, None), start, drop);
    state.outbox.push(kept(1));
    let sent = start + 10 * SECOND;
    state.wrote(sent);
    let quiet = |state: &mut State, at| {
        state.heard(at);
        state.overdue(at, true)
    };
    assert_eq!(quiet(&mut state, sent + 59 * SECOND), None);
    assert_eq!(quiet(&mut state, sent + 60 * SECOND), Some(Overdue::NoAck));
    state.pause("log");
    assert_eq!(quiet(&mut state, sent + 600 * SECOND), None);
    state.resume("log", sent + 600 * SECOND);
    assert_eq!(quiet(&mut state, sent + 659 * SECOND), None);
    state.acked(1, sent + 659 * SECOND, drop).unwrap();
    assert_eq!(quiet(&mut state, sent + 6_000 * SECOND), None, "nothing is expected");
}

#[test]
fn silence_of_more_than_two_heartbeats_is_the_end() {
    let (mut state, start) = (state(9), Instant::now());
    state.welcomed(&welcome(64, None), start, drop);
    assert_eq!(state.overdue(start + 26 * SECOND, true), None);
    assert_eq!(state.overdue(start + 27 * SECOND, true), Some(Overdue::Silence));
    assert_eq!(state.overdue(start + 27 * SECOND, false), None, "who does not read hears nothing");
    assert_eq!(state.deadline(true), Some(start + 27 * SECOND));
}

#[test]
fn a_commands_time_is_told_by_the_gateways_clock() {
    let (mut state, start) = (state(9), Instant::now());
    state.welcomed(&OwnedGatewayMessage { server_time: Some(5_000_000), ..welcome(64, None) }, start, drop);
    assert_eq!(state.time_left(5_009_000, start + 4 * SECOND), 5 * SECOND);
    assert_eq!(state.time_left(5_000_000, start + 4 * SECOND), Duration::ZERO);
}

/// What may happen to a device.
#[derive(Debug, Clone)]
enum Step {
    Update,
    Write(usize),
    /// Of what is in flight, this share is acked.
    Ack(u8),
    /// Of all there is, this one is refused.
    Refuse(u8),
    Pause,
    Resume,
    /// The connection ends and another comes, of which the gateway says it has the first so many of what was written.
    Reconnect(Option<u8>, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => Just(Step::Update),
        4 => (1_usize..8).prop_map(Step::Write),
        3 => any::<u8>().prop_map(Step::Ack),
        1 => any::<u8>().prop_map(Step::Refuse),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
        2 => (proptest::option::of(any::<u8>()), 1_u64..6).prop_map(|(resumed, window)| Step::Reconnect(resumed, window)),
    ];
    proptest::collection::vec(step, 1..200)
}

/// A device and all that is known about its updates.
struct Model {
    state: State,
    next: u64,
    open: BTreeSet<u64>,
    /// Written on this connection, in order.
    written: Vec<u64>,
    ever: BTreeSet<u64>,
    dropped: usize,
    buffer: usize,
}

impl Model {
    fn new(buffer: usize) -> Self {
        let mut state = state(buffer);
        state.welcomed(&welcome(3, None), Instant::now(), drop);
        let (open, ever) = (BTreeSet::new(), BTreeSet::new());
        Self { state, next: 1, open, written: Vec::new(), ever, dropped: 0, buffer }
    }

    fn step(&mut self, step: &Step) {
        let now = Instant::now();
        match step {
            Step::Update => {
                let full = self.open.len() == self.buffer;
                let oldest = self.state.outbox.push(kept(self.next)).map(|kept| kept.seq);
                assert_eq!(
                    oldest,
                    full.then(|| self.open.pop_first()).flatten(),
                    "only a full buffer drops, the oldest"
                );
                self.dropped += usize::from(full);
                self.open.insert(self.next);
                self.next += 1;
            }
            Step::Write(most) => self.write(*most, now),
            Step::Ack(share) => {
                let Some(seq) = pick(&self.written, *share) else { return };
                let mut settled = Vec::new();
                self.state.acked(seq, now, |kept| settled.push(kept.seq)).unwrap();
                self.settle(seq, &settled);
            }
            Step::Refuse(share) => {
                let all: Vec<u64> = self.open.iter().copied().collect();
                let Some(seq) = pick(&all, *share) else { return };
                let refused = self.state.outbox.refused(seq).is_some();
                assert_eq!(refused, self.written.contains(&seq), "only what was written can be refused");
                if refused {
                    self.open.remove(&seq);
                }
            }
            Step::Pause => self.state.pause("log"),
            Step::Resume => self.state.resume("log", now),
            Step::Reconnect(resumed, window) => {
                let ever: Vec<u64> = self.ever.iter().copied().collect();
                let seq = resumed.and_then(|share| pick(&ever, share));
                let mut settled = Vec::new();
                self.state.welcomed(&welcome(*window, seq), now, |kept| settled.push(kept.seq));
                self.written.clear();
                self.settle(seq.unwrap_or(0), &settled);
            }
        }
    }

    fn write(&mut self, most: usize, now: Instant) {
        for _ in 0..most {
            if !self.state.may_send() {
                return;
            }
            let Some((kept, repeat)) = self.state.wrote(now) else { return };
            let seq = kept.seq;
            assert!(self.written.last().is_none_or(|last| *last < seq), "in order on one connection");
            let skipped = self.open.range(..seq).find(|open| !self.written.contains(open));
            assert_eq!(skipped, None, "what is unacked comes first");
            assert_eq!(repeat, !self.ever.insert(seq));
            self.written.push(seq);
        }
    }

    fn settle(&mut self, seq: u64, settled: &[u64]) {
        let wanted: Vec<u64> = self.open.range(..=seq).copied().filter(|open| self.ever.contains(open)).collect();
        assert_eq!(settled, wanted, "an ack settles what was written up to it, and nothing else");
        for seq in settled {
            self.open.remove(seq);
        }
    }
}

fn pick(from: &[u64], share: u8) -> Option<u64> {
    let last = from.len().checked_sub(1)?;
    from.get(usize::from(share) * last / 255).copied()
}

proptest! {
    /// Whatever the order of updates, acks, refusals, pauses and reconnects: nothing unacked is lost but by a full buffer,
    /// and on one connection `seq` rises.
    #[test]
    fn nothing_unacked_is_lost_and_nothing_goes_out_of_order(buffer in 1_usize..12, steps in steps()) {
        let mut model = Model::new(buffer);
        for step in &steps {
            model.step(step);
            prop_assert_eq!(model.state.outbox.len(), model.open.len());
            prop_assert!(model.open.len() <= buffer);
        }
        // A last connection brings all that is left.
        model.step(&Step::Reconnect(None, 1_000));
        model.step(&Step::Write(1_000));
        let left: Vec<u64> = model.open.iter().copied().collect();
        prop_assert_eq!(&model.written, &left);
        model.step(&Step::Ack(255));
        prop_assert!(model.state.outbox.is_empty());
    }
}
