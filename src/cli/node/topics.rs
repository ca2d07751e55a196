//! `tidegate topics`: prints the topics the gateway needs, or makes them. Only the section `kafka` is read, so that
//! whoever may make topics needs neither certificates nor keys.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{EXIT_CONFIG, EXIT_UNAVAILABLE, environment};
use crate::app::Signals;
use crate::cli::{parse_seconds, say};
use crate::config;
use crate::eventlog::kafka::KafkaConfig;
use crate::eventlog::kafka::topics::{self, Applied, TopicOptions, TopicSpec, TopicsError};

/// Wrong flags, as for flags that nobody knows.
const EXIT_FLAGS: u8 = 2;
/// Told to end, as shells say it of SIGTERM.
const EXIT_TOLD: u8 = 143;

/// Flags of `tidegate topics`.
#[derive(Debug, Args)]
pub(in crate::cli) struct TopicsArgs {
    /// Print the topics as a table and as commands.
    #[arg(long, required_unless_present = "apply")]
    print: bool,
    /// Make what is missing, and say what differs. What is there is never changed.
    #[arg(long, conflicts_with = "print")]
    apply: bool,
    /// Copies of each partition, for small clusters.
    #[arg(long)]
    replication_factor: Option<i32>,
    /// Partitions of each topic.
    #[arg(long)]
    partitions: Option<i32>,
    /// How long Kafka may take to answer: a number and s, m, h or d.
    #[arg(long, default_value = "30s", value_parser = parse_seconds)]
    timeout: u64,
    /// The TOML file; only its section `kafka` counts.
    #[arg(long, env = "TIDEGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why nothing, or not everything, was made: exit code and text.
struct Failure(u8, String);

impl From<TopicsError> for Failure {
    fn from(error: TopicsError) -> Self {
        let code = match &error {
            TopicsError::Options(_) => EXIT_FLAGS,
            TopicsError::Config(start) if !start.is_retryable() => EXIT_CONFIG,
            TopicsError::Config(_) | TopicsError::Brokers(_) => EXIT_UNAVAILABLE,
            TopicsError::Refused { .. } => 1,
        };
        Self(code, error.to_string())
    }
}

/// Does what the flags say.
pub(super) fn run(args: &TopicsArgs) -> ExitCode {
    match topics(args) {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(Failure(code, text)) => {
            eprintln!("tidegate topics: {}", text.trim_end());
            ExitCode::from(code)
        }
    }
}

fn topics(args: &TopicsArgs) -> Result<String, Failure> {
    let kafka = config::load_kafka(args.config.as_deref(), environment());
    let kafka = kafka.map_err(|error| Failure(EXIT_CONFIG, error.to_string()))?;
    let options = TopicOptions { partitions: args.partitions, replication_factor: args.replication_factor };
    let specs = topics::specs(&kafka.topic_prefix, options)?;
    if args.print {
        return Ok(topics::print(&specs, &kafka.brokers));
    }
    apply(&kafka, &specs, Duration::from_secs(args.timeout))
}

fn apply(kafka: &KafkaConfig, specs: &[TopicSpec], timeout: Duration) -> Result<String, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure(1, format!("no runtime to wait in: {error}")))?;
    let applied = runtime.block_on(async {
        // The first process of a container is not ended by a signal that it does not take, and a pod waits for it.
        let signals = Signals::listen();
        let mut signals = signals.map_err(|error| Failure(1, format!("signals cannot be received: {error}")))?;
        tokio::select! {
            applied = topics::apply(kafka, specs, timeout) => Ok(applied?),
            () = signals.leave() => Err(Failure(EXIT_TOLD, "told to end before Kafka had answered".into())),
        }
    })?;
    Ok(report(&applied))
}

fn report(applied: &[Applied]) -> String {
    let mut text = String::new();
    for topic in applied {
        // Writing into a string cannot fail.
        let _ = match topic {
            Applied::Created(name) => writeln!(text, "{name}: made"),
            Applied::Same(name) => writeln!(text, "{name}: there, as it should be"),
            Applied::Differs(name, differences) => {
                writeln!(text, "{name}: there, left as it is: {}", differences.join("; "))
            }
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventlog::kafka::StartError;

    #[test]
    fn each_error_has_the_code_that_scripts_go_by() {
        let code = |error: TopicsError| Failure::from(error).0;
        assert_eq!(code(TopicsError::Options(String::new())), 2);
        assert_eq!(code(StartError::Config(String::new()).into()), 78);
        assert_eq!(code(TopicsError::Brokers(String::new())), 69);
        assert_eq!(code(TopicsError::Refused { topic: String::new(), reason: String::new() }), 1);
    }

    #[test]
    fn a_topic_that_differs_is_told_with_what_differs() {
        let differs = Applied::Differs("b".into(), vec!["copies: is 1, should be 3".into(), "x: is y".into()]);
        let text = report(&[Applied::Created("a".into()), differs, Applied::Same("c".into())]);
        let lines: Vec<&str> = text.lines().collect();
        let second = "b: there, left as it is: copies: is 1, should be 3; x: is y";
        assert_eq!(lines, ["a: made", second, "c: there, as it should be"]);
    }
}
