//! What is wrong in a profile, said so that it can be mended.

use std::ops::RangeInclusive;

use super::{AwayKind, Group, Manners, Profile, READY, find};

const MOST_STAGES: usize = 1_000;
const MOST_GROUPS: usize = 100;
/// Largest value a device is made to send, bytes.
const MOST_BYTES: u32 = 1024 * 1024;
/// Longest absence, s.
const LONGEST_S: f64 = 86_400.0;
/// Longest run, s.
const LONGEST_RUN_S: f64 = 2_592_000.0;

/// What TOML or the types had against a text: the line, and for a name nobody knows the nearest one.
pub(super) fn explain(text: &str, place: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let place = line.map_or_else(|| place.to_owned(), |line| format!("{place}:{line}"));
    let message = error.message();
    match suggested(message) {
        Some((what, name, known)) => match find(name, known.iter().copied()) {
            Some(near) => format!("{place}: {what} `{name}` is not known; did you mean `{near}`?"),
            None => format!("{place}: {what} `{name}` is not known; there are {}", known.join(", ")),
        },
        None => format!("{place}: {message}"),
    }
}

/// Of serde's "unknown field `a`, expected one of `b`, `c`": the kind of name, the name, and the known ones.
fn suggested(message: &str) -> Option<(&'static str, &str, Vec<&str>)> {
    let what = match message {
        text if text.starts_with("unknown field ") => "the key",
        text if text.starts_with("unknown variant ") => "the value",
        _ => return None,
    };
    // Every other piece between backticks is a name.
    let mut names = message.split('`').skip(1).step_by(2);
    Some((what, names.next()?, names.collect()))
}

/// ", did you mean …" of a profile's name.
pub(super) fn suggestion(name: &str) -> String {
    let near = find(name, READY.iter().map(|(name, _)| *name));
    near.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default()
}

/// Collects what is wrong.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.0.push(text());
        }
    }

    fn within(&mut self, key: &str, value: f64, range: RangeInclusive<f64>) {
        let (low, high) = (*range.start(), *range.end());
        self.unless(range.contains(&value), || format!("{key} is {value}: it must be between {low} and {high}"));
    }

    fn pair(&mut self, key: &str, [low, high]: [f64; 2]) {
        let holds = (0.0..=LONGEST_S).contains(&low) && (low..=LONGEST_S).contains(&high);
        self.unless(holds, || {
            format!("{key} is [{low}, {high}]: it must be [at least, at most], both between 0 and {LONGEST_S}")
        });
    }

    fn shares(&mut self, key: &str, shares: &[f64]) {
        let holds = shares.iter().all(|share| share.is_finite() && *share >= 0.0) && shares.iter().sum::<f64>() > 0.0;
        self.unless(holds, || format!("{key}: the shares must be 0 or more, and one of them above 0"));
    }
}

/// Everything that the types cannot say.
pub(super) fn values(profile: &Profile) -> Vec<String> {
    let mut wrong = Wrong::default();
    let bare = |text: &str| !text.is_empty() && text.len() <= 64 && !text.contains(char::is_control);
    wrong.unless(bare(&profile.name), || "name: 1 to 64 characters".to_owned());
    wrong.within("devices", f64::from(profile.devices), 1.0..=10_000_000.0);
    wrong.within("drain_s", profile.drain_s, 0.0..=600.0);
    stages(&mut wrong, profile);
    wrong.unless((1..=MOST_GROUPS).contains(&profile.groups.len()), || {
        format!("groups: there must be 1 to {MOST_GROUPS} [[groups]]")
    });
    profile.groups.iter().for_each(|each| group(&mut wrong, each));
    wrong.shares("groups: share", &profile.groups.iter().map(|group| group.share).collect::<Vec<_>>());
    if let Some(churn) = &profile.churn {
        wrong.within("churn: per_s", churn.per_s, 0.0..=1.0);
        wrong.pair("churn: gone_s", churn.gone_s);
        wrong.shares("churn: how", &[churn.how.clean, churn.how.cut, churn.how.reboot]);
    }
    commands(&mut wrong, profile);
    wrong.0
}

fn stages(wrong: &mut Wrong, profile: &Profile) {
    wrong.unless((1..=MOST_STAGES).contains(&profile.stages.len()), || {
        format!("stages: there must be 1 to {MOST_STAGES} [[stages]]")
    });
    for stage in &profile.stages {
        let key = |key: &str| format!("stage `{}`: {key}", stage.name);
        wrong.within(&key("for_s"), stage.for_s, 0.1..=LONGEST_RUN_S);
        wrong.within(&key("devices"), stage.devices, 0.0..=1.0);
        wrong.within(&key("rate"), stage.rate, 0.0..=1_000.0);
        wrong.within(&key("churn"), stage.churn, 0.0..=1_000.0);
        wrong.within(&key("cut"), stage.cut, 0.0..=1.0);
    }
    wrong.unless(profile.stages_s() <= LONGEST_RUN_S, || format!("stages: longer than {LONGEST_RUN_S} s together"));
    wrong.unless(profile.stages.iter().any(|stage| stage.devices > 0.0), || {
        "stages: in none of them is there a device".to_owned()
    });
}

fn group(wrong: &mut Wrong, group: &Group) {
    let key = |key: &str| format!("group `{}`: {key}", group.name);
    wrong.within(&key("share"), group.share, 0.0..=1_000_000.0);
    wrong.within(&key("every_s"), group.every_s, 0.001..=86_400.0);
    wrong.within(&key("batch"), f64::from(group.batch), 1.0..=1_000.0);
    wrong.within(&key("status_every_s"), group.status_every_s.unwrap_or(1.0), 0.1..=86_400.0);
    if let Some([low, high]) = group.bytes {
        wrong.unless(low <= high && high <= MOST_BYTES, || {
            format!("{} is [{low}, {high}]: it must be [at least, at most], at most {MOST_BYTES}", key("bytes"))
        });
    }
    let encodings = group.encodings;
    wrong.shares(&key("encodings"), &[encodings.json, encodings.cbor, encodings.protobuf]);
    wrong.within(&key("deflate"), group.deflate, 0.0..=1.0);
    wrong.within(&key("heartbeat_s"), f64::from(group.heartbeat_s.unwrap_or(1)), 1.0..=86_400.0);
    wrong.within(&key("max_bytes"), f64::from(group.max_bytes.unwrap_or(256)), 256.0..=16_777_216.0);
    wrong.within(&key("close_drop"), group.close_drop, 0.0..=1.0);
    wrong.within(&key("buffer"), f64::from(group.buffer), 1.0..=100_000.0);
    if let Some(away) = &group.away {
        wrong.within(&key("away: share"), away.share, 0.0..=1.0);
        wrong.pair(&key("away: here_s"), away.here_s);
        wrong.pair(&key("away: gone_s"), away.gone_s);
        wrong.unless(away.kind == AwayKind::Sleep || away.here_s[1] > 0.0, || {
            format!("{}: a device that is never there cannot go away", key("away: here_s"))
        });
    }
    wrong.unless((group.manners == Manners::ReadsSlowly) == group.bytes_per_s.is_some(), || {
        format!("{}: goes with manners = \"reads-slowly\", and those need it", key("bytes_per_s"))
    });
    wrong.within(&key("bytes_per_s"), f64::from(group.bytes_per_s.unwrap_or(1)), 1.0..=1_000_000.0);
}

fn commands(wrong: &mut Wrong, profile: &Profile) {
    let Some(commands) = &profile.commands else { return };
    wrong.within("commands: every_s", commands.every_s, 0.01..=86_400.0);
    let named = |name: &String| (1..=64).contains(&name.len()) && !name.contains(char::is_control);
    wrong.unless(!commands.names.is_empty() && commands.names.iter().all(named), || {
        "commands: names: one or more, each of 1 to 64 characters".to_owned()
    });
    wrong.within("commands: params_bytes", f64::from(commands.params_bytes), 2.0..=65_536.0);
    wrong.within("commands: ttl_s", f64::from(commands.ttl_s), 0.0..=86_400.0);
    wrong.within("commands: wait_s", f64::from(commands.wait_s), 0.0..=55.0);
    wrong.pair("commands: work_s", commands.work_s);
    wrong.within("commands: fails", commands.fails, 0.0..=1.0);
    wrong.within("commands: ignored", commands.ignored, 0.0..=1.0);
    wrong.unless(commands.fails + commands.ignored <= 1.0, || {
        "commands: fails and ignored are more than all of them together".to_owned()
    });
}
