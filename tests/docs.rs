//! The handbook and the README, by the checks of `tests/docs/run`: links lead somewhere, names exist, and what is to be run does
//! what is shown. That script says how a page marks it, and runs any part alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/checks.rs"]
mod checks;

#[test]
fn what_the_handbook_says_is_what_the_program_does() {
    let (passed, text) = checks::run("docs", &[]);
    assert!(passed, "{text}");
    assert!(!text.contains("left out"), "a part was not run:\n{text}");
}

#[test]
fn a_part_that_nobody_knows_is_not_taken_for_a_success() {
    let (passed, text) = checks::run("docs", &["pagse"]);
    assert!(!passed && text.contains("pagse"), "{text}");
}
