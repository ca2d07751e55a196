//! The checker of cluster histories is judged itself: event files with one fault planted in each, and whole random
//! histories made with the twins in memory, one of which does something wrong. Every plant must be named, and what is
//! right must be found right.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]
#![allow(dead_code, unreachable_pub, reason = "the parts of one test")]

#[path = "support/checker.rs"]
mod checker;
#[path = "support/history.rs"]
mod history;
#[path = "judge/planted.rs"]
mod planted;
#[path = "support/spoilt.rs"]
mod spoilt;
#[path = "judge/twins.rs"]
mod twins;

use std::fs;
use std::path::Path;

use history::History;
use planted::Plant;

/// The words behind `# <name>:` in an event file.
fn header<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("# {name}:"))).expect("a header");
    line.split(',').map(str::trim).filter(|word| !word.is_empty()).collect()
}

#[test]
fn every_fault_that_is_planted_in_an_event_file_is_named_and_nothing_else_is() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/planted");
    let mut invariants = Vec::new();
    for file in fs::read_dir(dir).unwrap() {
        let file = file.unwrap().path();
        let text = fs::read_to_string(&file).unwrap();
        let verdict = checker::check(&History::parse(&text));
        let mut explained: Vec<_> = verdict.explained.iter().map(|violation| violation.invariant).collect();
        explained.dedup();
        assert_eq!(verdict.broken(), header(&text, "breaks"), "{}: {verdict}", file.display());
        assert_eq!(explained, header(&text, "explained"), "{}: {verdict}", file.display());
        for violation in verdict.violations.iter().chain(&verdict.explained) {
            assert!(!violation.shown_by.is_empty(), "{}: {violation} shows nothing", file.display());
        }
        invariants.extend(verdict.broken());
    }
    invariants.sort_unstable();
    invariants.dedup();
    let all = ["C1", "C10", "C11", "C2", "C3", "C4", "C6", "C7", "C8", "O1", "O2", "O3", "O4", "O5", "O6", "O8"];
    assert_eq!(invariants, all, "each invariant has a file that breaks it");
}

#[test]
fn a_history_is_the_same_when_it_was_written_and_read() {
    let history = twins::run(7, None);
    assert!(history.entries.len() > 100);
    assert_eq!(History::parse(&history.to_string()), history);
}

#[test]
fn histories_of_the_twins_are_clean() {
    for seed in 0..100 {
        let verdict = checker::check(&twins::run(seed, None));
        assert!(verdict.violations.is_empty(), "seed {seed}: {verdict}");
        let enough = verdict.count("commands") > 5 && verdict.count("rows removed") > 0 && verdict.count("frames") > 3;
        assert!(enough, "seed {seed} proves nothing: {verdict}");
    }
}

/// In some of 40 histories the plant shows, and then it is named for what it is; it never looks like something else.
fn is_named(plant: Plant, by: &'static str, besides: &[&str]) {
    let mut named = 0;
    for seed in 0..40 {
        let verdict = checker::check(&twins::run(seed, Some(plant)));
        let broken = verdict.broken();
        named += usize::from(broken.contains(&by));
        let other = broken.iter().find(|name| **name != by && !besides.contains(name));
        assert!(other.is_none(), "{plant:?}, seed {seed}: {verdict}");
    }
    eprintln!("{plant:?}: named {by} in {named} of 40 histories");
    assert!(named >= 10, "{plant:?} is named {by} in {named} of 40 histories only");
}

/// Who lost its row is not found, and gets no command.
const ROWLESS: &[&str] = &["O3", "C11"];

#[test]
fn an_unfenced_release_is_named() {
    is_named(Plant::ReleaseWhatever, "O2", ROWLESS);
}

#[test]
fn a_release_that_compares_only_the_node_is_named() {
    is_named(Plant::ReleaseByNode, "O2", ROWLESS);
}

#[test]
fn a_terminal_state_that_is_written_twice_is_named() {
    is_named(Plant::EndTwice, "C1", &["C2"]);
}

#[test]
fn a_mark_sent_without_the_epoch_is_named() {
    // What the old socket gets, the new one gets no more, or once too often.
    is_named(Plant::SendWhatever, "O5", &["C6"]);
}

#[test]
fn an_offline_event_after_a_newer_online_is_named() {
    is_named(Plant::OfflineWhatever, "O6", &[]);
}
