//! The documents of the interfaces, by the checks of `tests/apidocs/run`: made from the code, valid by public tools, and
//! true of what a live node says. That script says what each part looks at, and runs any of them alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/checks.rs"]
mod checks;

#[test]
fn what_is_written_of_the_interfaces_is_what_goes_over_the_wire() {
    let (passed, text) = checks::run("apidocs", &[]);
    assert!(passed, "{text}");
    let services = ["TIDEGATE_TEST_KAFKA", "TIDEGATE_TEST_REDIS"];
    let has_services = services.iter().all(|name| std::env::var_os(name).is_some());
    assert!(!has_services || !text.contains("left out"), "a part was not run:\n{text}");
}

#[test]
fn a_part_that_nobody_knows_is_not_taken_for_a_success() {
    let (passed, text) = checks::run("apidocs", &["trafic"]);
    assert!(!passed && text.contains("trafic"), "{text}");
}
