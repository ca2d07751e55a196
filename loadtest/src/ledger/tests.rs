//! The ledger without Kafka: histories against a simple reference, planted faults, bytes, bounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::figures::Finding;

/// A record that owns what it holds.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    topic: Topic,
    partition: i32,
    device: String,
    boot: String,
    seq: u64,
    value: i64,
}

impl Record {
    fn new(device: &str, boot: &str, seq: u64, value: i64) -> Self {
        let (device, boot) = (device.to_owned(), boot.to_owned());
        Self { topic: Topic::Telemetry, partition: 0, device, boot, seq, value }
    }

    fn give(&self, audit: &mut Audit<'_>) {
        let (key, id) = (format!("t/{}", self.device), format!("{}:{}", self.boot, self.seq));
        let source = format!("/tidegate/{key}");
        let kind = self.topic.kind();
        let value = format!(r#"{{"type":"{kind}","seq":{},"value":{}}}"#, self.seq, self.value);
        let (topic, partition) = (self.topic, self.partition);
        let (key, value) = (key.as_bytes(), value.as_bytes());
        audit.record(&Stored { topic, partition, offset: 0, key, source: &source, id: &id, value });
    }
}

fn said(value: i64) -> u64 {
    digest("update", None, &value.to_string(), None)
}

fn check(ledger: &Ledger, records: &[Record]) -> Verdict {
    let mut audit = Audit::begin(ledger);
    records.iter().for_each(|record| record.give(&mut audit));
    audit.finish(Ok(()))
}

/// The messages a finding names, without what is said about them.
fn named(finding: &Finding) -> Vec<&str> {
    assert_eq!(finding.count as usize, finding.first.len(), "{finding:?}");
    finding.first.iter().map(|text| text.split_once(": ").unwrap().0).collect()
}

/// Device `a` sent 1 to 9 of boot `b` once, and each was acked; the value is the number.
fn nine() -> (Ledger, Vec<Record>) {
    let ledger = Ledger::new();
    let entry = ledger.device("t", "a");
    for seq in 1..10 {
        entry.sent("b", seq, said(seq as i64));
        entry.acked("b", seq);
    }
    (ledger, (1..10).map(|seq| Record::new("a", "b", seq, seq as i64)).collect())
}

#[test]
fn what_is_there_once_in_order_and_unchanged_is_clean() {
    let (ledger, records) = nine();
    for _ in 0..2 {
        let verdict = check(&ledger, &records);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((verdict.acked, verdict.stored, verdict.records, verdict.skipped), (9, 9, 9, 0));
    }
}

#[test]
fn what_was_acked_and_is_not_there_is_lost() {
    let (ledger, mut records) = nine();
    records.remove(3);
    let verdict = check(&ledger, &records);
    assert_eq!(named(&verdict.lost), ["a b:4"]);
    assert_eq!(verdict.stored, 8);
    let unfinished = Audit::begin(&ledger).finish(Err("Kafka went away".to_owned()));
    assert!(!unfinished.complete && !unfinished.is_clean());
    assert_eq!((unfinished.lost.count, unfinished.incomplete.as_deref()), (0, Some("Kafka went away")));
}

#[test]
fn two_that_changed_places_are_reordered() {
    let (ledger, mut records) = nine();
    records.swap(4, 5);
    let verdict = check(&ledger, &records);
    assert_eq!(verdict.reordered.first, ["a b:5: lies behind 6 (telemetry 0, offset 0)"]);
    assert_eq!(verdict.lost.count + verdict.doubled.count + verdict.altered.count, 0);
}

#[test]
fn a_device_in_two_partitions_has_no_order() {
    let (ledger, mut records) = nine();
    records[8].partition = 1;
    assert_eq!(named(&check(&ledger, &records).reordered), ["a b:9"]);
}

#[test]
fn another_payload_is_altered_and_beside_the_right_one_doubled() {
    let (ledger, mut records) = nine();
    let mut again = records[6].clone();
    again.value = 70;
    records.push(again);
    records[2].value = 30;
    let verdict = check(&ledger, &records);
    assert_eq!((named(&verdict.doubled), named(&verdict.altered)), (vec!["a b:7"], vec!["a b:3"]));
    assert_eq!(verdict.reordered.count, 0, "only a first record has a place");
}

#[test]
fn a_message_may_be_there_as_often_as_it_was_sent() {
    let (ledger, mut records) = nine();
    records.push(records[4].clone());
    assert_eq!(named(&check(&ledger, &records).doubled), ["a b:5"]);
    ledger.device("t", "a").sent("b", 5, said(5));
    assert!(check(&ledger, &records).is_clean());
    records.push(records[4].clone());
    assert_eq!(named(&check(&ledger, &records).doubled), ["a b:5"]);
}

#[test]
fn the_wrong_topic_key_or_number_in_the_message_is_altered() {
    let (ledger, records) = nine();
    let give = |change: &dyn Fn(&mut Stored<'_>)| {
        let mut audit = Audit::begin(&ledger);
        let value: &[u8] = br#"{"type":"update","seq":1,"value":1,"device_id":"a"}"#;
        let (topic, source) = (Topic::Telemetry, "/tidegate/t/a");
        let mut record = Stored { topic, partition: 0, offset: 0, key: b"t/a", source, id: "b:1", value };
        change(&mut record);
        audit.record(&record);
        records[1..].iter().for_each(|record| record.give(&mut audit));
        audit.finish(Ok(()))
    };
    assert!(give(&|_| {}).is_clean());
    let faults: [&dyn Fn(&mut Stored<'_>); 5] = [
        &|record| record.topic = Topic::Status,
        &|record| record.key = b"t/z",
        &|record| record.value = br#"{"type":"update","seq":2,"value":1}"#,
        &|record| record.value = br#"{"type":"update","seq":1,"value":1,"device_id":"z"}"#,
        &|record| record.value = b"",
    ];
    for fault in faults {
        let verdict = give(fault);
        assert_eq!((named(&verdict.altered), verdict.lost.count), (vec!["a b:1"], 0));
    }
}

#[test]
fn what_is_not_of_this_run_is_skipped_and_what_nobody_sent_is_named() {
    let (ledger, mut records) = nine();
    records.push(Record::new("other", "b", 1, 1));
    records.push(Record::new("a", "earlier", 1, 1));
    records.push(Record::new("a", "b", 10, 10));
    let mut audit = Audit::begin(&ledger);
    records.iter().for_each(|record| record.give(&mut audit));
    let presence = (b"t/a", "/tidegate/t/a", "7:online");
    let mut other = Stored {
        topic: Topic::Status,
        partition: 0,
        offset: 0,
        key: presence.0,
        source: presence.1,
        id: presence.2,
        value: b"{}",
    };
    audit.record(&other);
    (other.source, other.id) = ("/tidegate", "0123456789abcdef");
    audit.record(&other);
    let verdict = audit.finish(Ok(()));
    assert_eq!((named(&verdict.unsent), verdict.skipped, verdict.records), (vec!["a b:10"], 4, 14));
    assert_eq!(verdict.lost.count, 0);
}

#[test]
fn acks_and_refusals_that_contradict_are_named() {
    let (ledger, records) = nine();
    let entry = ledger.device("t", "a");
    entry.refused("b", 2);
    entry.acked("b", 20);
    entry.sent("b", 11, said(11));
    entry.refused("b", 11);
    let verdict = check(&ledger, &records);
    assert_eq!((named(&verdict.acked_and_refused), named(&verdict.unasked)), (vec!["a b:2"], vec!["a b:20"]));
    assert_eq!((verdict.acked, verdict.lost.count), (9, 0));
}

#[test]
fn a_device_that_sends_a_higher_number_first_is_not_held_to_the_order() {
    let ledger = Ledger::new();
    let entry = ledger.device("t", "a");
    for seq in [5, 3, 6] {
        entry.sent("b", seq, said(0));
        entry.acked("b", seq);
    }
    let records = [5, 3, 6].map(|seq| Record::new("a", "b", seq, 0));
    assert!(check(&ledger, &records).is_clean());
    let records = [6, 5, 3].map(|seq| Record::new("a", "b", seq, 0));
    assert_eq!(named(&check(&ledger, &records).reordered), ["a b:5"]);
}

#[test]
fn a_full_ledger_says_so_and_accuses_nobody() {
    let ledger = Ledger::with_limit(4_000);
    let entry = ledger.device("t", "a");
    let mut records = Vec::new();
    for seq in 1..=2_000 {
        entry.sent("b", seq, said(1));
        entry.acked("b", seq);
        records.push(Record::new("a", "b", seq, 1));
    }
    assert!(ledger.bytes() <= 4_200 && ledger.missed() > 1_000, "{} {}", ledger.bytes(), ledger.missed());
    let verdict = check(&ledger, &records);
    assert!(!verdict.complete && verdict.incomplete.as_ref().unwrap().contains("full"));
    assert_eq!((verdict.unsent.count, verdict.unasked.count, verdict.lost.count), (0, 0, 0));
    // And the whole of another one finds no room either.
    let small = Ledger::with_limit(100);
    small.merge(nine().0);
    assert_eq!((small.messages(), small.missed()), (0, 9));
}

#[test]
fn only_the_first_hundred_are_named() {
    let ledger = Ledger::new();
    let entry = ledger.device("t", "a");
    (1..=250).for_each(|seq| {
        entry.sent("b", seq, 0);
        entry.acked("b", seq);
    });
    let lost = check(&ledger, &[]).lost;
    assert_eq!((lost.count, lost.first.len()), (250, 100));
}

const ID: &str = "6569b1128f2de97997906fcaf49c3cf0";

/// A command for device `a`, which another device `z` may see too.
fn command(does: impl FnOnce(&Ledger, Entry, Entry)) -> CommandVerdict {
    let ledger = Ledger::new();
    ledger.accepted("t", "a", ID);
    does(&ledger, ledger.device("t", "a"), ledger.device("t", "z"));
    let judged = ledger.check_commands();
    assert_eq!(Ledger::from_bytes(&ledger.to_bytes()).unwrap().check_commands(), judged);
    judged
}

fn counts(verdict: &CommandVerdict) -> [u64; 6] {
    let CommandVerdict { accepted, succeeded, unfounded, answered_twice, misdelivered, without_end } = verdict;
    [*accepted, *succeeded, unfounded.count, answered_twice.count, misdelivered.count, without_end.count]
}

#[test]
fn a_command_that_went_well_is_clean_though_it_came_twice() {
    let verdict = command(|ledger, device, _| {
        device.received(ID, 1);
        device.ran(ID);
        device.answered(ID, true, Some("{\"a\":1}"));
        device.received(ID, 2);
        device.answered(ID, true, Some("{ \"a\": 1.0 }"));
        ledger.accepted("t", "a", ID);
        ledger.ended(ID, true);
        ledger.ended(ID, true);
    });
    assert_eq!(counts(&verdict), [1, 1, 0, 0, 0, 0]);
}

#[test]
fn each_way_a_command_can_go_wrong_is_named() {
    let nobody = command(|ledger, _, _| ledger.ended(ID, true));
    assert_eq!((counts(&nobody), named(&nobody.unfounded)), ([1, 1, 1, 0, 0, 0], vec![&*format!("a {ID}")]));
    let failed = command(|ledger, device, _| {
        device.received(ID, 1);
        device.answered(ID, false, None);
        ledger.ended(ID, true);
    });
    assert_eq!(counts(&failed), [1, 1, 1, 0, 0, 0]);
    let endless = command(|_, device, _| device.received(ID, 1));
    assert_eq!((counts(&endless), named(&endless.without_end)), ([1, 0, 0, 0, 0, 1], vec![&*format!("a {ID}")]));
    let run_twice = command(|ledger, device, _| {
        device.ran(ID);
        device.ran(ID);
        ledger.ended(ID, false);
    });
    assert_eq!(counts(&run_twice), [1, 0, 0, 1, 0, 0]);
    let two_ways = command(|ledger, device, _| {
        device.answered(ID, true, Some("1"));
        device.answered(ID, true, Some("2"));
        ledger.ended(ID, true);
    });
    assert_eq!(counts(&two_ways), [1, 1, 0, 1, 0, 0]);
    let two_ends = command(|ledger, device, _| {
        device.answered(ID, true, None);
        ledger.ended(ID, true);
        ledger.ended(ID, false);
    });
    assert_eq!(counts(&two_ends), [1, 1, 0, 1, 0, 0]);
    let astray = command(|ledger, _, other| {
        other.received(ID, 1);
        ledger.ended(ID, false);
    });
    assert_eq!((counts(&astray), named(&astray.misdelivered)), ([1, 0, 0, 0, 1, 0], vec![&*format!("z {ID}")]));
}

#[test]
fn ids_that_are_no_hexadecimal_are_told_apart_too() {
    let ledger = Ledger::new();
    ["one", "two", "", "+569b1128f2de97997906fcaf49c3cf0"].iter().for_each(|id| ledger.accepted("t", "a", id));
    assert_eq!(ledger.check_commands().accepted, 4);
}

#[test]
fn bytes_that_were_cut_or_changed_are_refused_and_never_crash() {
    let (ledger, _) = nine();
    ledger.accepted("t", "a", ID);
    ledger.device("t", "a").received(ID, 1);
    let bytes = ledger.to_bytes();
    for at in 0..bytes.len() {
        assert!(Ledger::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(Ledger::from_bytes(&changed).is_err(), "changed at {at}");
        // Whoever seals it anew may write what he likes: it is read or refused, and reserves nothing for what is not
        // there.
        let (body, _) = changed.split_last_chunk::<8>().unwrap();
        let mut sealed = body.to_vec();
        sealed.extend_from_slice(&digest::bytes(body).to_le_bytes());
        let _ = Ledger::from_bytes(&sealed);
    }
    let said = Ledger::from_bytes(b"").unwrap_err().to_string();
    assert!(said.contains("one version"), "{said}");
}

/// What happens in a history: a device sends, is told, and something lies in the topic.
#[derive(Debug, Clone)]
enum Step {
    Sent(usize, usize, u64, i64),
    Acked(usize, usize, u64),
    Refused(usize, usize, u64),
    Stored(usize, usize, u64, i64),
}

const DEVICES: [&str; 2] = ["a", "b"];
const BOOTS: [&str; 2] = ["x", "y"];

fn step() -> impl Strategy<Value = Step> {
    let place = || (0_usize..2, 0_usize..2, 1_u64..12);
    prop_oneof![
        4 => (place(), 0_i64..2).prop_map(|((device, boot, seq), value)| Step::Sent(device, boot, seq, value)),
        3 => place().prop_map(|(device, boot, seq)| Step::Acked(device, boot, seq)),
        1 => place().prop_map(|(device, boot, seq)| Step::Refused(device, boot, seq)),
        4 => (place(), 0_i64..2).prop_map(|((device, boot, seq), value)| Step::Stored(device, boot, seq, value)),
    ]
}

#[derive(Debug, Clone, Default)]
struct Known {
    sent: u16,
    said: i64,
    early: bool,
    acked: bool,
    refused: bool,
    stored: u16,
}

/// The reference: maps, and the rules one by one. Gives names by finding, in a set.
fn reference(steps: &[Step]) -> BTreeMap<&'static str, Vec<String>> {
    let mut known = BTreeMap::<(usize, usize, u64), Known>::new();
    let mut sent_up_to = BTreeMap::new();
    let mut faults = BTreeMap::<&'static str, Vec<String>>::new();
    for step in steps {
        match *step {
            Step::Sent(device, boot, seq, value) => {
                let highest = sent_up_to.entry((device, boot)).or_insert(0);
                let one = known.entry((device, boot, seq)).or_default();
                if one.sent == 0 {
                    (one.said, one.early) = (value, seq < *highest);
                }
                *highest = seq.max(*highest);
                one.sent += 1;
            }
            Step::Acked(device, boot, seq) => known.entry((device, boot, seq)).or_default().acked = true,
            Step::Refused(device, boot, seq) => known.entry((device, boot, seq)).or_default().refused = true,
            Step::Stored(..) => {}
        }
    }
    let boots: BTreeSet<(usize, usize)> = known.keys().map(|(device, boot, _)| (*device, *boot)).collect();
    let name = |device: usize, boot: usize, seq: u64| format!("{} {}:{seq}", DEVICES[device], BOOTS[boot]);
    let mut highest = BTreeMap::new();
    let mut fault = |what, name| faults.entry(what).or_default().push(name);
    for step in steps {
        let Step::Stored(device, boot, seq, value) = *step else { continue };
        if !boots.contains(&(device, boot)) {
            continue;
        }
        let name = name(device, boot, seq);
        let Some(one) = known.get_mut(&(device, boot, seq)).filter(|one| one.sent > 0) else {
            fault("unsent", name);
            continue;
        };
        one.stored += 1;
        if one.stored > 1 {
            if one.said != value || one.stored > one.sent {
                fault("doubled", name);
            }
            continue;
        }
        let highest = highest.entry((device, boot)).or_insert(0);
        if one.said != value {
            fault("altered", name.clone());
        }
        if seq < *highest && !one.early {
            fault("reordered", name);
        }
        *highest = seq.max(*highest);
    }
    for ((device, boot, seq), one) in &known {
        let name = name(*device, *boot, *seq);
        match one {
            Known { sent: 0, .. } => fault("unasked", name),
            Known { acked: true, refused, stored, .. } => {
                if *stored == 0 {
                    fault("lost", name.clone());
                }
                if *refused {
                    fault("acked_and_refused", name);
                }
            }
            _ => {}
        }
    }
    faults.values_mut().for_each(|names| names.sort());
    faults
}

fn found(verdict: &Verdict) -> BTreeMap<&'static str, Vec<String>> {
    let findings = [
        ("lost", &verdict.lost),
        ("doubled", &verdict.doubled),
        ("reordered", &verdict.reordered),
        ("acked_and_refused", &verdict.acked_and_refused),
        ("altered", &verdict.altered),
        ("unsent", &verdict.unsent),
        ("unasked", &verdict.unasked),
    ];
    let named = findings.into_iter().filter(|(_, finding)| finding.count > 0);
    named.map(|(what, finding)| (what, named_all(finding))).collect()
}

fn named_all(finding: &Finding) -> Vec<String> {
    let mut names: Vec<String> = named(finding).into_iter().map(str::to_owned).collect();
    names.sort();
    names
}

fn play(ledger: &Ledger, steps: &[Step]) {
    for step in steps {
        match *step {
            Step::Sent(device, boot, seq, value) => {
                ledger.device("t", DEVICES[device]).sent(BOOTS[boot], seq, said(value));
            }
            Step::Acked(device, boot, seq) => ledger.device("t", DEVICES[device]).acked(BOOTS[boot], seq),
            Step::Refused(device, boot, seq) => ledger.device("t", DEVICES[device]).refused(BOOTS[boot], seq),
            Step::Stored(..) => {}
        }
    }
}

fn records(steps: &[Step]) -> Vec<Record> {
    let stored = steps.iter().filter_map(|step| match *step {
        Step::Stored(device, boot, seq, value) => Some(Record::new(DEVICES[device], BOOTS[boot], seq, value)),
        _ => None,
    });
    stored.collect()
}

proptest! {
    #[test]
    fn every_history_is_judged_as_the_reference_does(steps in prop::collection::vec(step(), 0..120)) {
        let ledger = Ledger::new();
        play(&ledger, &steps);
        let (records, expected) = (records(&steps), reference(&steps));
        prop_assert_eq!(&found(&check(&ledger, &records)), &expected);
        // The same after a journey, in bytes that say the same each time.
        let (bytes, taken) = (ledger.to_bytes(), ledger.bytes());
        let copy = Ledger::from_bytes(&bytes).unwrap();
        prop_assert!(copy.bytes() <= taken);
        prop_assert_eq!(&found(&check(&copy, &records)), &expected);
        prop_assert_eq!(copy.to_bytes(), bytes);
    }

    #[test]
    fn what_workers_saw_apart_is_judged_as_if_one_had(steps in prop::collection::vec(step(), 0..120)) {
        let workers = [Ledger::new(), Ledger::new()];
        let of = |step: &Step| match step {
            Step::Sent(device, ..) | Step::Acked(device, ..) | Step::Refused(device, ..) => *device,
            Step::Stored(..) => 0,
        };
        steps.iter().for_each(|step| play(&workers[of(step)], std::slice::from_ref(step)));
        let whole = Ledger::new();
        workers.into_iter().for_each(|worker| whole.merge(worker));
        prop_assert_eq!(found(&check(&whole, &records(&steps))), reference(&steps));
    }

    #[test]
    fn one_device_in_two_ledgers_is_one_device(steps in prop::collection::vec(step(), 0..120), at in 0_usize..120) {
        // What was told in one half about a message that was sent in the other still finds it.
        let (first, second) = steps.split_at(at.min(steps.len()));
        let (one, other) = (Ledger::new(), Ledger::new());
        play(&one, first);
        play(&other, second);
        one.merge(other);
        let (mut merged, mut expected) = (found(&check(&one, &records(&steps))), reference(&steps));
        // A half does not know what the other sent before: whether a number came early is not the same to it.
        merged.remove("reordered");
        expected.remove("reordered");
        prop_assert_eq!(merged, expected);
    }
}

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// CPU time of this thread.
fn busy() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// `messages` of `devices`, sent and acked as devices do, in turn.
fn fill(ledger: &Ledger, devices: u64, messages: u64, digest: impl Fn(u64) -> u64) {
    let entries: Vec<Entry> = (0..devices).map(|device| ledger.device("t", &format!("d-{device:06}"))).collect();
    for seq in 1..=messages / devices {
        let digest = digest(seq);
        for entry in &entries {
            entry.sent("boot-0001", seq, digest);
            entry.acked("boot-0001", seq);
        }
    }
}

#[test]
fn a_message_takes_nine_bytes_at_most_and_a_device_some_hundreds() {
    let ledger = Ledger::new();
    fill(&ledger, 100, 100_000, |seq| seq);
    assert!(ledger.bytes() < 100_000 * 9 + 100 * 500, "{}", ledger.bytes());
    let real: usize =
        lock(&ledger.pages).iter().map(|(name, page)| name.len() + DEVICE_BYTES + lock(page).bytes()).sum();
    assert_eq!(ledger.bytes(), real);
    let bytes = ledger.to_bytes();
    assert!(bytes.len() < 100_000 * 5, "{}", bytes.len());
    assert!(Ledger::from_bytes(&bytes).unwrap().bytes() < 100_000 * 6 + 100 * 500);
}

/// `cargo test -p tidegate-loadtest --lib -- --ignored --nocapture ten_million`
#[test]
#[ignore = "some minutes: ten million messages, kept and checked"]
#[allow(clippy::print_stdout)]
fn ten_million_messages_take_under_500_mb() {
    const MESSAGES: u64 = 10_000_000;
    for devices in [10_000, 1] {
        let (ledger, before) = (Ledger::new(), resident());
        let begun = busy();
        fill(&ledger, devices, MESSAGES, |seq| said(seq as i64));
        let took = (busy() - begun).as_nanos() as u64 / (2 * MESSAGES);
        let kept = resident().saturating_sub(before);
        println!("{devices} devices: {} bytes counted, {kept} resident, {took} ns a call", ledger.bytes());
        let (begun, mut audit) = (busy(), Audit::begin(&ledger));
        for device in 0..devices {
            for seq in 1..=MESSAGES / devices {
                Record::new(&format!("d-{device:06}"), "boot-0001", seq, seq as i64).give(&mut audit);
            }
        }
        let checked = resident().saturating_sub(before);
        let verdict = audit.finish(Ok(()));
        assert!(verdict.is_clean() && verdict.stored == MESSAGES, "{verdict:?}");
        println!("  checked in {:?}: {} bytes counted, {checked} resident", busy() - begun, ledger.bytes());
        let bytes = ledger.to_bytes();
        println!("  {} bytes to another process", bytes.len());
        assert!(ledger.bytes() < 500_000_000 && checked < 500_000_000);
    }
}
