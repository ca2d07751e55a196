//! The commands of a node: they need Kafka, or what is configured for it.

mod topics;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{finish, say};
use crate::config::{self, Config};

/// The configuration is wrong (`EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;
/// Kafka cannot be reached (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;

/// What a node is asked for.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// A node of a cluster.
    Serve(ConfigArgs),
    /// Print or make the Kafka topics.
    Topics(topics::TopicsArgs),
    /// Check the configuration and print what is in force, secrets masked.
    CheckConfig(ConfigArgs),
    /// Print the default configuration, every key explained.
    DefaultConfig,
    /// Print the JSON Schema of the configuration.
    ConfigSchema,
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The TOML file; the environment (TIDEGATE_SECTION__KEY) counts over it.
    #[arg(long, env = "TIDEGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Does what is asked.
pub(super) fn run(command: NodeCommand) -> ExitCode {
    match command {
        NodeCommand::Serve(args) => with_config(args.config.as_deref(), crate::app::serve),
        NodeCommand::Topics(args) => topics::run(&args),
        NodeCommand::CheckConfig(args) => with_config(args.config.as_deref(), |config| {
            say(&config::effective_toml(&config));
            ExitCode::SUCCESS
        }),
        NodeCommand::DefaultConfig => finish(Ok(config::default_toml())),
        NodeCommand::ConfigSchema => finish(Ok(format!("{:#}\n", config::json_schema()))),
    }
}

/// Reads the configuration and goes on with it, or says what is wrong.
fn with_config(file: Option<&Path>, then: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match config::load(file, environment()) {
        Ok(config) => then(config),
        Err(error) => {
            eprint!("{error}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// The environment's variables.
fn environment() -> impl Iterator<Item = (String, String)> {
    // One that is not UTF-8 cannot be one of ours and must not stop the node.
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
