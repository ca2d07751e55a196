//! Tests of profiles: those that come along, and what is said of wrong ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use super::*;

const SMALL: &str =
    "name = 'x'\nabout = 'y'\n[[stages]]\nname = 'all'\nfor_s = 10\n[[groups]]\nname = 'g'\nevery_s = 1\n";

fn wrong(text: &str) -> String {
    Profile::parse(text, "x.toml").expect_err("it is wrong").to_string()
}

#[test]
fn every_profile_that_comes_along_is_valid_and_has_its_name() {
    for (name, text) in READY {
        let profile = Profile::parse(text, name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(&profile.name, name);
        assert!(profile.about.len() > 20, "{name} does not say what it is for");
        assert!(!profile.thresholds.is_empty(), "{name} has no thresholds");
    }
}

#[test]
fn the_published_schema_is_the_one_of_the_code_and_holds_every_profile() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/loadtest/profile.schema.json");
    let ours = format!("{:#}\n", json_schema());
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        std::fs::write(&path, &ours).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(published == ours, "{} is old: run this test with TIDEGATE_BLESS=1", path.display());
    let schema = jsonschema::validator_for(&json_schema()).unwrap();
    for (name, text) in READY {
        let value: toml::Value = toml::from_str(text).unwrap();
        let value = serde_json::to_value(value).unwrap();
        let faults: Vec<String> = schema.iter_errors(&value).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{name}: {faults:?}");
    }
}

#[test]
fn a_key_nobody_knows_is_refused_with_the_nearest_one_and_its_line() {
    assert_eq!(
        wrong(&SMALL.replace("every_s", "evry_s")),
        "x.toml:8: the key `evry_s` is not known; did you mean `every_s`?"
    );
    let text = wrong(&format!("{SMALL}spacing = 'evn'\n"));
    assert_eq!(text, "x.toml:9: the value `evn` is not known; did you mean `even`?");
    let text = wrong(&format!("zzz = 1\n{SMALL}"));
    assert!(text.starts_with("x.toml:1: the key `zzz` is not known; there are name, about, devices"), "{text}");
}

#[test]
fn a_value_out_of_range_is_named_with_its_range_and_all_of_them_at_once() {
    let text = format!(
        "{SMALL}deflate = 1.5\nbytes = [100, 10]\n[groups.away]\nkind = 'sleep'\nhere_s = [3, 1]\ngone_s = [1, 2]\n"
    );
    let said = wrong(&text);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert_eq!(lines[0].matches("bytes is [100, 10]").count(), 1, "{said}");
    assert!(lines[1].ends_with("deflate is 1.5: it must be between 0 and 1"), "{said}");
    assert!(lines[2].contains("here_s is [3, 1]"), "{said}");
}

#[test]
fn a_missing_or_mistyped_value_says_where() {
    let text = wrong(&SMALL.replace("for_s = 10", "for_s = 'long'"));
    assert!(text.starts_with("x.toml:5: invalid type"), "{text}");
    let text = wrong("name = 'x'\nabout = 'y'\n");
    assert!(text.contains("missing field `stages`"), "{text}");
}

#[test]
fn a_profile_nobody_knows_is_refused_with_the_nearest_one() {
    let text = Profile::load("stedy").expect_err("there is none").to_string();
    assert!(text.contains("did you mean `steady`?"), "{text}");
    let text = Profile::load("nowhere/at-all.toml").expect_err("there is none").to_string();
    assert!(text.starts_with("nowhere/at-all.toml: "), "{text}");
}

#[test]
fn groups_have_their_shares_in_any_range_of_devices() {
    let group = |share: u32| format!("[[groups]]\nname = 'g'\nevery_s = 1\nshare = {share}\n");
    let text = format!("name = 'x'\nabout = 'y'\n[[stages]]\nname = 'all'\nfor_s = 10\n{}{}", group(3), group(1));
    let profile = Profile::parse(&text, "x").unwrap();
    for from in [0, 500, 12_345] {
        let first = (from..from + 400).filter(|device| profile.group_of(*device) == 0).count();
        assert!((295..=305).contains(&first), "{first} of 400 from {from} on");
    }
}

#[test]
fn stages_stretch_alike() {
    let mut profile = Profile::load("ramp").unwrap();
    let before: Vec<f64> = profile.stages.iter().map(|stage| stage.for_s / profile.stages_s()).collect();
    profile.last(7.0);
    assert!((profile.stages_s() - 7.0).abs() < 1e-9);
    for (stage, share) in profile.stages.iter().zip(before) {
        assert!((stage.for_s / 7.0 - share).abs() < 1e-9);
    }
}
