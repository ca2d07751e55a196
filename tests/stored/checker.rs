//! The checker itself: a clean history is found clean, and each planted fault is caught and named.

use super::support::kafka::Stored;
use super::support::ledger::{Connection, Event, Fault, Id, Ledger};

fn payload(seq: u64) -> String {
    format!(r#"{{"type":"update","seq":{seq},"value":{seq}}}"#)
}

fn sent(seq: u64) -> Event {
    Event::Sent { seq, payload: payload(seq).into_bytes().into() }
}

fn id(seq: u64) -> Id {
    Id { device: "d1".into(), boot: "b1".into(), seq }
}

fn connection(events: impl IntoIterator<Item = Event>) -> Connection {
    Connection { boot: "b1".into(), events: events.into_iter().collect() }
}

/// One device that sent 1 to 4, was acked up to 2, lost its connection and sent 3 and 4 again.
fn ledger() -> Ledger {
    let first = connection([sent(1), sent(2), sent(3), Event::Acked(2), sent(4)]);
    let second = connection([sent(3), sent(4), Event::Acked(4)]);
    Ledger { tenant: "acme".into(), devices: [("d1".into(), vec![first, second])].into() }
}

/// The records of these numbers, in this order.
fn records(seqs: &[u64]) -> Vec<Stored> {
    let record = |(offset, seq): (usize, &u64)| Stored {
        partition: 0,
        offset: offset as i64,
        key: "acme/d1".into(),
        headers: [("ce_id".into(), format!("b1:{seq}")), ("ce_source".into(), "/tidegate/acme/d1".into())].into(),
        value: payload(*seq).into_bytes(),
    };
    seqs.iter().enumerate().map(record).collect()
}

#[test]
fn a_clean_history_with_repeats_after_a_reconnect_is_clean() {
    let verdict = ledger().check(&records(&[1, 2, 3, 4, 3, 4]));
    verdict.assert_clean();
    let counts = (verdict.sent, verdict.acked, verdict.refused, verdict.stored, verdict.repeats, verdict.most_repeats);
    assert_eq!(counts, (4, 4, 0, 4, 2, 2));
}

#[test]
fn what_was_sent_and_never_acked_may_be_stored_or_not() {
    let ledger = Ledger {
        tenant: "acme".into(),
        devices: [("d1".into(), vec![connection([sent(1), sent(2), Event::Acked(1)])])].into(),
    };
    assert_eq!(ledger.check(&records(&[1])).faults, []);
    assert_eq!(ledger.check(&records(&[1, 2])).faults, []);
}

#[test]
fn a_planted_loss_is_named() {
    assert_eq!(ledger().check(&records(&[1, 2, 4])).faults, [Fault::Lost(id(3))]);
    assert_eq!(ledger().check(&[]).faults.len(), 4);
}

#[test]
fn what_a_welcome_said_is_stored_counts_as_acked() {
    let spared = |upto| {
        let second = connection([Event::Resumed(upto), sent(4), Event::Acked(4)]);
        let first = connection([sent(1), sent(2), sent(3), Event::Acked(1)]);
        Ledger { tenant: "acme".into(), devices: [("d1".into(), vec![first, second])].into() }
    };
    let verdict = spared(3).check(&records(&[1, 2, 3, 4]));
    verdict.assert_clean();
    assert_eq!(verdict.acked, 4);
    assert_eq!(spared(3).check(&records(&[1, 2, 4])).faults, [Fault::Lost(id(3))]);
    assert_eq!(spared(2).check(&records(&[1, 2, 4])).faults, [], "nobody said that 3 is stored");
    assert_eq!(spared(9).check(&records(&[1, 2, 3, 4])).faults, [Fault::Unasked(id(9))]);
}

#[test]
fn a_planted_duplicate_with_another_payload_is_named() {
    let mut records = records(&[1, 2, 3, 4, 3]);
    records[4].value = payload(33).into_bytes();
    assert_eq!(ledger().check(&records).faults, [Fault::Doubled(id(3))]);
}

#[test]
fn a_value_that_is_not_the_one_sent_is_named() {
    let mut records = records(&[1, 2, 3, 4]);
    records[1].value = payload(22).into_bytes();
    assert_eq!(ledger().check(&records).faults, [Fault::Altered(id(2))]);
}

#[test]
fn a_planted_reorder_is_named_and_a_repeat_is_none() {
    let faults = ledger().check(&records(&[1, 3, 2, 4, 1])).faults;
    assert_eq!(faults, [Fault::Reordered { id: id(2), after: 3 }]);
}

#[test]
fn one_device_in_two_partitions_has_no_order_and_is_named() {
    let mut records = records(&[1, 2, 3, 4]);
    records[3].partition = 1;
    assert_eq!(ledger().check(&records).faults, [Fault::Scattered("d1".into())]);
}

#[test]
fn acked_and_refused_is_named_whichever_came_first_and_a_refusal_before_the_ack_is_covered() {
    let with = |events: [Event; 4]| Ledger {
        tenant: "acme".into(),
        devices: [("d1".into(), vec![connection(events)])].into(),
    };
    let covered = with([sent(1), sent(2), Event::Refused(1), Event::Acked(2)]);
    assert_eq!(covered.check(&records(&[2])).faults, []);
    assert_eq!(covered.check(&records(&[1, 2])).faults, [Fault::RefusedAndStored(id(1))]);
    let both = with([sent(1), sent(2), Event::Acked(2), Event::Refused(1)]);
    let faults = both.check(&records(&[1, 2])).faults;
    assert_eq!(faults, [Fault::AckedAndRefused(id(1)), Fault::RefusedAndStored(id(1))]);
    let mut later = with([sent(1), sent(2), Event::Refused(1), Event::Acked(2)]);
    later.devices.get_mut("d1").unwrap().push(connection([sent(1), Event::Acked(1)]));
    assert!(later.check(&records(&[2, 1])).faults.contains(&Fault::AckedAndRefused(id(1))));
}

#[test]
fn an_ack_or_a_refusal_of_what_was_not_sent_on_that_connection_is_named() {
    for event in [Event::Acked(9), Event::Refused(9)] {
        let mut ledger = ledger();
        ledger.devices.get_mut("d1").unwrap()[1].events.push(event);
        assert_eq!(ledger.check(&records(&[1, 2, 3, 4])).faults, [Fault::Unasked(id(9))]);
    }
    let mut ledger = ledger();
    ledger.devices.get_mut("d1").unwrap()[1].events.insert(0, Event::Acked(2));
    assert_eq!(ledger.check(&records(&[1, 2, 3, 4])).faults, [Fault::Unasked(id(2))]);
}

#[test]
fn an_ack_that_goes_back_is_named() {
    let mut ledger = ledger();
    ledger.devices.get_mut("d1").unwrap()[1].events.push(Event::Acked(3));
    let faults = ledger.check(&records(&[1, 2, 3, 4])).faults;
    assert_eq!(faults, [Fault::AckWentBack { id: id(3), from: 4 }]);
}

#[test]
fn a_record_that_nobody_sent_or_that_names_nobody_is_named() {
    assert_eq!(ledger().check(&records(&[1, 2, 3, 4, 5])).faults, [Fault::NeverSent(id(5))]);
    for (key, source, ce_id) in [
        ("other/d1", "/tidegate/acme/d1", "b1:1"),
        ("acme/d1", "/tidegate/other/d1", "b1:1"),
        ("acme/d1", "/tidegate/acme/d1", "b1:-0123"),
    ] {
        let mut records = records(&[1, 2, 3, 4, 1]);
        records[4].key = key.into();
        records[4].headers.insert("ce_source".into(), source.into());
        records[4].headers.insert("ce_id".into(), ce_id.into());
        assert_eq!(ledger().check(&records).faults, [Fault::Nameless { partition: 0, offset: 4 }]);
    }
}
