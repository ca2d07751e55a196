//! The profiles that come with the load tester.

macro_rules! ready {
    ($($name:literal,)*) => {
        /// Each profile's name and text, in the order in which they are listed.
        pub const READY: &[(&str, &str)] = &[
            $(($name, include_str!(concat!("../../profiles/", $name, ".toml"))),)*
        ];
    };
}

ready! {
    "steady",
    "ramp",
    "spike",
    "soak",
    "churn",
    "reconnect-storm",
    "rolling-restart",
    "commands",
    "mixed",
    "crowd",
    "slow-readers",
    "bad-clients",
    "smart-home",
    "industrial",
    "wearables",
    "fleet",
}

/// The text of a profile that comes with the load tester.
pub fn toml_of(name: &str) -> Option<&'static str> {
    READY.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The nearest of a few names, where one is near.
pub fn find<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Two names are alike enough to suggest one for the other.
    const ALIKE: f64 = 0.75;
    let scored = known.into_iter().map(|other| (strsim::jaro_winkler(name, other), other));
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(alike, _)| *alike >= ALIKE).map(|(_, other)| other)
}
