//! Profiles: what a run's devices do, as TOML files. `docs/loadtest.md` explains every key; the schema made from these
//! types is `docs/loadtest/profile.schema.json`.

mod check;
mod ready;

use std::path::Path;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};

pub use crate::data::Kind;
pub use ready::{READY, find, toml_of};

/// Why there is no profile to run.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The name of neither a profile nor a file.
    #[error("there is no profile `{name}` and no such file{suggestion}; `tidegate-loadtest profiles` lists them")]
    Unknown {
        /// As it was given.
        name: String,
        /// What may have been meant.
        suggestion: String,
    },
    /// A file that cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What the operating system said.
        reason: std::io::Error,
    },
    /// What is wrong in it, one line for each mistake.
    #[error("{0}")]
    Wrong(String),
}

/// A load profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it is called.
    pub name: String,
    /// What it is for, in a line.
    pub about: String,
    /// How many devices there are where `--devices` does not say. Stages and groups have shares of them.
    #[serde(default = "devices")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub devices: u32,
    /// How long the end waits for acks that are still missing, s.
    #[serde(default = "drain_s")]
    #[schemars(range(min = 0.0, max = 600.0))]
    pub drain_s: f64,
    /// What happens one after the other. `--duration` stretches or shrinks all of them alike.
    pub stages: Vec<Stage>,
    /// Kinds of devices, by their shares of all.
    pub groups: Vec<Group>,
    /// Connections that are ended again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub churn: Option<Churn>,
    /// Applications that command the devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<Commands>,
    /// What must hold at the end where `--threshold` does not say, such as `p99(ack) < 250ms`.
    #[serde(default)]
    pub thresholds: Vec<String>,
}

/// A part of a run's time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// What is shown while it goes on.
    pub name: String,
    /// How long it takes, s.
    #[schemars(range(min = 0.1, max = 2_592_000.0))]
    pub for_s: f64,
    /// The share of the devices that are there at its end: the way there from the stage before is a straight line.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub devices: f64,
    /// How much faster than their group says devices send.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 1_000.0))]
    pub rate: f64,
    /// How much stronger than `churn` says connections are ended.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 1_000.0))]
    pub churn: f64,
    /// The share of the devices that lose their connection as it begins, without a word.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub cut: f64,
    /// What the person at the keyboard is to do, such as restarting a node: shown while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A kind of devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// What they are.
    pub name: String,
    /// Their part of all devices, beside those of the other groups.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub share: f64,
    /// What they measure.
    #[serde(default)]
    pub data: Kind,
    /// A device sends once in this time, s.
    #[schemars(range(min = 0.001, max = 86_400.0))]
    pub every_s: f64,
    /// How the moments of sending lie.
    #[serde(default)]
    pub spacing: Spacing,
    /// How many updates are due at once each time: they may travel in one frame.
    #[serde(default = "one_update")]
    #[schemars(range(min = 1, max = 1_000))]
    pub batch: u32,
    /// A status report once in this time, s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.1, max = 86_400.0))]
    pub status_every_s: Option<f64>,
    /// Each value is filled up to a size between these, bytes of JSON. Without it values are as large as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<[u32; 2]>,
    /// How the sizes between those lie.
    #[serde(default)]
    pub sizes: Sizes,
    /// How many devices speak which encoding, as shares.
    #[serde(default)]
    pub encodings: Encodings,
    /// The share of the devices that offer compression.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub deflate: f64,
    /// The heartbeat they ask for, s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub heartbeat_s: Option<u32>,
    /// The largest message they take, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 256, max = 16_777_216))]
    pub max_bytes: Option<u32>,
    /// The share of the devices that ask for closes without a close frame (`?close=drop`).
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub close_drop: f64,
    /// Updates they keep until they are acked; the oldest goes when there are more.
    #[serde(default = "buffer")]
    #[schemars(range(min = 1, max = 100_000))]
    pub buffer: u32,
    /// Times without a connection that are theirs and not the gateway's fault: sleep, or nothing to hear in a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<Away>,
    /// How they treat the gateway.
    #[serde(default)]
    pub manners: Manners,
    /// How fast those read that read slowly, bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub bytes_per_s: Option<u32>,
}

/// How moments lie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Spacing {
    /// Each device on its own beat, at the same distance.
    #[default]
    Even,
    /// At random, as independent events come: a Poisson process.
    Random,
    /// All devices of the group on the same beat: on the full interval of the run's clock.
    Together,
}

/// How sizes lie between the smallest and the largest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sizes {
    /// Each as often as another.
    #[default]
    Even,
    /// Mostly small, few large.
    Skewed,
}

/// Shares of the encodings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Encodings {
    /// JSON in text frames.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub json: f64,
    /// CBOR.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub cbor: f64,
    /// Protobuf.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub protobuf: f64,
}

impl Default for Encodings {
    fn default() -> Self {
        Self { json: 1.0, cbor: 0.0, protobuf: 0.0 }
    }
}

/// Absences.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Away {
    /// What kind.
    pub kind: AwayKind,
    /// The share of the group's devices that have them.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// How long they are there before each, s: at least, at most.
    pub here_s: [f64; 2],
    /// How long each takes, s: at least, at most. What is measured meanwhile is sent afterwards, and its latency
    /// counts from the end of the absence.
    pub gone_s: [f64; 2],
}

/// Kinds of absences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AwayKind {
    /// The network is gone without a word.
    DeadZone,
    /// The device awaits its acks, at most as long as `here_s` says, and closes.
    Sleep,
}

/// How a device treats the gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Manners {
    /// As the protocol says.
    #[default]
    Good,
    /// Reads `bytes_per_s` and no more.
    ReadsSlowly,
    /// Reads nothing.
    ReadsNothing,
    /// Sends what is no message: it is refused again and again.
    Malformed,
    /// Does not know `goaway`, and never comes back after a close frame: `close_drop` asks for closes without one.
    Stock,
}

/// Connections that are ended from the device's side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// The share of the connected devices that leave each second.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub per_s: f64,
    /// How they leave.
    #[serde(default)]
    pub how: Leaving,
    /// How long they are gone, s: at least, at most.
    #[serde(default = "away_s")]
    pub gone_s: [f64; 2],
}

/// Shares of the ways to leave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Leaving {
    /// A close frame, 1000.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub clean: f64,
    /// The connection ends without a word.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub cut: f64,
    /// The same, and the device forgets everything: a new boot. What was not acked is gone with it.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub reboot: f64,
}

impl Default for Leaving {
    fn default() -> Self {
        Self { clean: 1.0, cut: 1.0, reboot: 0.0 }
    }
}

/// Commands that callers send by schedule, whatever the answers take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Commands {
    /// Each device gets one in this time on average, s.
    #[schemars(range(min = 0.01, max = 86_400.0))]
    pub every_s: f64,
    /// Their names.
    #[serde(default = "names")]
    pub names: Vec<String>,
    /// Size of the params, bytes of JSON.
    #[serde(default = "params_bytes")]
    #[schemars(range(min = 2, max = 65_536))]
    pub params_bytes: u32,
    /// How long one lives, s; 0: now or never.
    #[serde(default = "ttl_s")]
    #[schemars(range(min = 0, max = 86_400))]
    pub ttl_s: u32,
    /// How long the caller waits for the device's answer in its request, s. After it it asks now and then.
    #[serde(default = "wait_s")]
    #[schemars(range(min = 0, max = 55))]
    pub wait_s: u32,
    /// The way in.
    #[serde(default)]
    pub way: Way,
    /// Whether devices that are not there are commanded too: they find the command when they come.
    #[serde(default)]
    pub absent: bool,
    /// How long a device works on one, s: at least, at most.
    #[serde(default)]
    pub work_s: [f64; 2],
    /// The share of commands that devices answer with `failed`.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub fails: f64,
    /// The share of commands that devices never answer.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub ignored: f64,
}

/// Ways by which commands come to the gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The HTTP API: `POST /v1/devices/{device}/commands`, on connections that are kept.
    #[default]
    Http,
}

fn devices() -> u32 {
    1_000
}

fn drain_s() -> f64 {
    10.0
}

fn one() -> f64 {
    1.0
}

fn one_update() -> u32 {
    1
}

fn buffer() -> u32 {
    1_000
}

fn away_s() -> [f64; 2] {
    [0.0, 2.0]
}

fn names() -> Vec<String> {
    vec!["set".to_owned()]
}

fn params_bytes() -> u32 {
    64
}

fn ttl_s() -> u32 {
    30
}

fn wait_s() -> u32 {
    20
}

impl Profile {
    /// Reads a profile; `place` is what mistakes are said to be in.
    ///
    /// # Errors
    /// [`ProfileError::Wrong`] with a line for each mistake: a key nobody knows with the nearest one, or every value
    /// that is out of its range.
    pub fn parse(text: &str, place: &str) -> Result<Self, ProfileError> {
        let profile: Self =
            toml::from_str(text).map_err(|error| ProfileError::Wrong(check::explain(text, place, &error)))?;
        let wrong = check::values(&profile);
        if wrong.is_empty() {
            return Ok(profile);
        }
        let lines: Vec<String> = wrong.iter().map(|wrong| format!("{place}: {wrong}")).collect();
        Err(ProfileError::Wrong(lines.join("\n")))
    }

    /// A profile by its name, or from a file.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn load(name: &str) -> Result<Self, ProfileError> {
        if let Some(text) = toml_of(name) {
            return Self::parse(text, name);
        }
        let path = Path::new(name);
        // A bare word that is no file was meant to be a profile.
        if !path.exists() && path.extension().is_none() && !name.contains('/') {
            return Err(ProfileError::Unknown { name: name.to_owned(), suggestion: check::suggestion(name) });
        }
        Self::load_file(path)
    }

    /// A profile from a file.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn load_file(path: &Path) -> Result<Self, ProfileError> {
        let place = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|reason| ProfileError::File { path: place.clone(), reason })?;
        Self::parse(&text, &place)
    }

    /// How long its stages take, s.
    pub fn stages_s(&self) -> f64 {
        self.stages.iter().map(|stage| stage.for_s).sum()
    }

    /// Stretches or shrinks its stages so that they take this long together.
    pub fn last(&mut self, seconds: f64) {
        let factor = seconds / self.stages_s();
        self.stages.iter_mut().for_each(|stage| stage.for_s *= factor);
    }

    /// The group a device belongs to: spread evenly, the same in every process.
    pub fn group_of(&self, device: u32) -> usize {
        let whole: f64 = self.groups.iter().map(|group| group.share).sum();
        // Steps of the golden ratio: any run of devices has each group in its share.
        let mut at = (f64::from(device) * 0.618_033_988_749_894_9).fract() * whole;
        for (number, group) in self.groups.iter().enumerate() {
            if at < group.share {
                return number;
            }
            at -= group.share;
        }
        self.groups.len().saturating_sub(1)
    }
}

/// The JSON Schema (2020-12) of a profile.
pub fn json_schema() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Profile>().to_value()
}

#[cfg(test)]
mod tests;
