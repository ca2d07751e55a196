//! The chart, the manifests made from it and the image's content, by the checks of `tests/helm/run`: that script says what
//! each part looks at, and runs any of them alone. The tools it needs (helm, kubeconform, kustomize) it builds once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/checks.rs"]
mod checks;

#[test]
fn the_chart_is_what_its_tests_and_the_schemas_of_kubernetes_say() {
    let (passed, text) = checks::run("helm", &[]);
    assert!(passed, "{text}");
    assert!(!text.contains("left out"), "a part was not run:\n{text}");
}

#[test]
fn a_part_that_nobody_knows_is_not_taken_for_a_success() {
    let (passed, text) = checks::run("helm", &["untis"]);
    assert!(!passed && text.contains("untis"), "{text}");
}
