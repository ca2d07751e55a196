//! `summary.json`: a run for other programs. Names are stable; its schema is docs/loadtest/summary.schema.json and comes from
//! the types here. Times are milliseconds where a name ends in `_ms`, seconds where it ends in `_s`.

mod machine;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::{Value, json};

use crate::figures::{Count, Figures, Finding, Judged, Moment, Outcome, Timing, Verdict};
use crate::judgement::{Judgement, findings};

pub use machine::Machine;

/// Its name within the directory of results.
pub const FILE: &str = "summary.json";

/// Why results are not on disk.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file system said no.
    #[error("cannot write {path}: {source}; give another directory with --out")]
    File {
        /// What was to be written.
        path: PathBuf,
        /// Why it was not.
        source: std::io::Error,
    },
    /// It cannot be made JSON.
    #[error("cannot make a summary of this run: {0}")]
    Json(#[from] serde_json::Error),
}

/// The results of a load test run.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, title = "Summary of a load test run")]
pub struct Summary {
    /// Whether this is the whole run, every threshold held, the ledger (if asked) is complete and clean, and a device got through.
    passed: bool,
    /// Why, in words.
    verdict: String,
    /// The profile's name.
    profile: String,
    /// What the profile is for.
    about: String,
    /// Where it ran against.
    target: String,
    /// The version of the load tester.
    version: String,
    /// The command line; empty where there was none.
    command: String,
    /// When the run began, RFC 3339 in UTC.
    began: String,
    /// How long it ran.
    took_s: f64,
    /// Devices of all workers.
    devices: u64,
    /// How many workers drove them.
    workers: u64,
    /// Whether a signal or a key ended it early.
    cut_short: bool,
    /// Why this is not the whole run, such as that a worker was lost with what it knew; empty where it is.
    incomplete: Vec<String>,
    /// Totals over the run.
    counts: BTreeMap<&'static str, u64>,
    /// The same, a second of the run.
    rates_per_s: BTreeMap<&'static str, f64>,
    /// Latencies, from merged histograms.
    timings_ms: BTreeMap<&'static str, Latency>,
    /// Connections the gateway ended, by close code; 1006 where there was none.
    closes: BTreeMap<String, u64>,
    /// Errors by their text.
    errors: BTreeMap<String, u64>,
    /// What became of what was acked; null where the ledger was not asked to look.
    ledger: Option<Ledger>,
    /// Thresholds, in their order.
    thresholds: Vec<Judged>,
    /// What a reader should know, such as that the generator was the bottleneck.
    warnings: Vec<String>,
    /// Where the load tester ran.
    machine: Machine,
    /// Second by second.
    series: Vec<Moment>,
}

/// One latency; null where nothing was timed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Latency {
    /// How many were timed.
    count: u64,
    /// The shortest.
    min: Option<f64>,
    /// The mean.
    mean: Option<f64>,
    /// Half took at most this.
    p50: Option<f64>,
    /// 90 % took at most this.
    p90: Option<f64>,
    /// 95 % took at most this.
    p95: Option<f64>,
    /// 99 % took at most this.
    p99: Option<f64>,
    /// 99.9 % took at most this.
    #[serde(rename = "p99.9")]
    p99_9: Option<f64>,
    /// The longest.
    max: Option<f64>,
}

/// What a check of everything that was promised found.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Ledger {
    /// Whether Kafka was read to its end; if not, the rest is worth nothing.
    complete: bool,
    /// Updates that were acked.
    acked: u64,
    /// Of them those that were found in Kafka.
    stored: u64,
    /// Acked, and not in Kafka.
    lost: u64,
    /// In Kafka twice with unlike payloads, or twice though sent once.
    doubled: u64,
    /// In Kafka behind a later one of the same device and boot, though sent once.
    reordered: u64,
    /// In Kafka with another payload than was sent.
    altered: u64,
    /// Acked and refused.
    acked_and_refused: u64,
    /// About commands.
    commands: Commands,
    /// The first hundred of each kind by name, with what is wrong.
    named: BTreeMap<&'static str, Vec<String>>,
}

/// What became of commands.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Commands {
    /// Accepted by the gateway.
    accepted: u64,
    /// Succeeded as the caller heard it.
    succeeded: u64,
    /// Succeeded for the caller, and no device had it.
    unfounded: u64,
    /// Run more than once, or answered in two ways.
    answered_twice: u64,
    /// Received by another device than theirs.
    misdelivered: u64,
    /// Accepted, and no end was heard in time.
    without_end: u64,
}

impl Summary {
    /// Of a run that is over.
    pub fn of(outcome: &Outcome) -> Self {
        let Judgement { passed, sentence } = Judgement::of(outcome);
        let (figures, took_s) = (&outcome.figures, outcome.took.as_secs_f64());
        let rate = |count: Count| if took_s > 0.0 { figures.counted(count) as f64 / took_s } else { 0.0 };
        Self {
            passed,
            verdict: sentence,
            profile: outcome.profile.clone(),
            about: outcome.about.clone(),
            target: outcome.target.clone(),
            version: outcome.version.clone(),
            command: outcome.command.clone(),
            began: rfc3339(outcome.began_ms),
            took_s,
            devices: outcome.devices,
            workers: outcome.workers,
            cut_short: outcome.cut_short,
            incomplete: outcome.incomplete.clone(),
            counts: Count::ALL.iter().map(|count| (count.name(), figures.counted(*count))).collect(),
            rates_per_s: Count::ALL.iter().map(|count| (count.name(), rate(*count))).collect(),
            timings_ms: Timing::ALL.iter().map(|timing| (timing.name(), Latency::of(figures, *timing))).collect(),
            closes: figures.closes.iter().map(|(code, count)| (code.to_string(), *count)).collect(),
            errors: figures.errors.clone(),
            ledger: outcome.ledger.as_ref().map(Ledger::of),
            thresholds: outcome.thresholds.clone(),
            warnings: outcome.warnings.clone(),
            machine: Machine::here(),
            series: outcome.series.clone(),
        }
    }
}

impl Latency {
    /// Of everything that was timed.
    pub fn of(figures: &Figures, timing: Timing) -> Self {
        let histogram = figures.timing(timing);
        let ms = |us: f64| (!histogram.is_empty()).then_some(us / 1e3);
        let quantile = |quantile: f64| ms(histogram.value_at_quantile(quantile) as f64);
        Self {
            count: histogram.len(),
            min: ms(histogram.min() as f64),
            mean: ms(histogram.mean()),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p95: quantile(0.95),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: ms(histogram.max() as f64),
        }
    }

    /// How many were timed, and the columns of [`Latency::COLUMNS`] in ms.
    pub(crate) fn row(&self) -> (u64, [Option<f64>; 8]) {
        (self.count, [self.min, self.mean, self.p50, self.p90, self.p95, self.p99, self.p99_9, self.max])
    }

    /// What the columns of a table of latencies are called.
    pub(crate) const COLUMNS: [&'static str; 8] = ["min", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"];
}

impl Ledger {
    fn of(verdict: &Verdict) -> Self {
        let count = |finding: &Finding| finding.count;
        let commands = &verdict.commands;
        Self {
            complete: verdict.complete,
            acked: verdict.acked,
            stored: verdict.stored,
            lost: count(&verdict.lost),
            doubled: count(&verdict.doubled),
            reordered: count(&verdict.reordered),
            altered: count(&verdict.altered),
            acked_and_refused: count(&verdict.acked_and_refused),
            commands: Commands {
                accepted: commands.accepted,
                succeeded: commands.succeeded,
                unfounded: count(&commands.unfounded),
                answered_twice: count(&commands.answered_twice),
                misdelivered: count(&commands.misdelivered),
                without_end: count(&commands.without_end),
            },
            named: findings(verdict).into_iter().map(|row| (row.name, row.finding.first.clone())).collect(),
        }
    }
}

/// Unix milliseconds as RFC 3339, to the second.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(0);
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    time.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

/// The JSON Schema (2020-12) of the summary.
pub fn json_schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Summary>().to_value();
    // Maps whose keys are all known.
    let counts: Vec<&str> = Count::ALL.iter().map(|count| count.name()).collect();
    let timings: Vec<&str> = Timing::ALL.iter().map(|timing| timing.name()).collect();
    let named: Vec<&str> = findings(&Verdict::default()).iter().map(|row| row.name).collect();
    close(schema.pointer_mut("/properties/counts"), &counts);
    close(schema.pointer_mut("/properties/rates_per_s"), &counts);
    close(schema.pointer_mut("/properties/timings_ms"), &timings);
    close(schema.pointer_mut("/properties/ledger/properties/named"), &named);
    close(schema.pointer_mut("/properties/ledger/anyOf/0/properties/named"), &named);
    schema
}

/// Makes a map of anything one of these names only, all of them required.
fn close(map: Option<&mut Value>, names: &[&str]) {
    let Some(map) = map else { return };
    let value = map["additionalProperties"].take();
    let properties: serde_json::Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), value.clone())).collect();
    map["properties"] = Value::Object(properties);
    map["required"] = json!(names);
    map["additionalProperties"] = json!(false);
}

/// Writes `summary.json` into a directory, which is made where it is missing. Blocks.
pub fn write(dir: &Path, outcome: &Outcome) -> Result<PathBuf, WriteError> {
    let text = serde_json::to_string_pretty(&Summary::of(outcome))? + "\n";
    write_file(dir, FILE, &text)
}

/// Writes a file of results whole: a reader never sees half of it.
pub(crate) fn write_file(dir: &Path, name: &str, text: &str) -> Result<PathBuf, WriteError> {
    let (path, unfinished) = (dir.join(name), dir.join(format!(".{name}.part")));
    let written = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&unfinished, text))
        .and_then(|()| std::fs::rename(&unfinished, &path));
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(WriteError::File { path, source }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sample;

    fn errors(value: &Value) -> Vec<String> {
        let validator = jsonschema::validator_for(&json_schema()).unwrap();
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path)).collect()
    }

    #[test]
    fn real_summaries_are_as_the_schema_says() {
        for outcome in [sample::passed(), sample::failed(), Outcome::default()] {
            let value = serde_json::to_value(Summary::of(&outcome)).unwrap();
            assert_eq!(errors(&value), Vec::<String>::new());
        }
    }

    #[test]
    fn the_schema_lets_nothing_else_through() {
        let good = serde_json::to_value(Summary::of(&sample::failed())).unwrap();
        for path in [
            "",
            "/counts",
            "/timings_ms",
            "/timings_ms/ack",
            "/ledger",
            "/ledger/commands",
            "/ledger/named",
            "/machine",
        ] {
            let mut bad = good.clone();
            bad.pointer_mut(path).unwrap()["surplus"] = json!(1);
            assert_eq!(errors(&bad).len(), 1, "{path:?}");
        }
        let mut bad = good;
        bad["counts"].as_object_mut().unwrap().remove("acked");
        assert_eq!(errors(&bad).len(), 1);
    }

    #[test]
    fn the_schema_in_the_docs_is_this_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/loadtest/summary.schema.json");
        let wanted = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == wanted,
            "docs/loadtest/summary.schema.json is not what the types say; it has to be:\n{wanted}"
        );
    }

    #[test]
    fn the_names_that_others_read_are_there() {
        let outcome = sample::failed();
        let summary = serde_json::to_value(Summary::of(&outcome)).unwrap();
        let ledger = &summary["ledger"];
        assert_eq!(ledger["lost"], 3);
        assert_eq!(ledger["named"]["lost"].as_array().unwrap().len(), 3);
        for name in ["acked", "stored", "doubled", "reordered"] {
            assert!(ledger[name].is_u64(), "{name}");
        }
        assert!(ledger["commands"]["accepted"].is_u64());
        assert!(summary["timings_ms"]["ack"]["p99.9"].is_f64());
        assert_eq!(summary["began"], "2026-03-01T09:30:00Z");
        assert_eq!(summary["passed"], false);
    }

    #[test]
    fn a_summary_is_written_whole_and_a_directory_that_cannot_be_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(&dir.path().join("new"), &sample::passed()).unwrap();
        let read: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read["passed"], true);
        let error = write(&path, &sample::passed()).unwrap_err().to_string();
        assert!(error.contains("summary.json") && error.contains("--out"), "{error}");
    }
}
