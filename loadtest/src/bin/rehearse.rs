//! Rehearses a rollout: `make rehearse`. A line for each step, then each check with its figure and bound; exits non-zero
//! where one does not hold.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it found is its output")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tidegate_loadtest::rehearsal::{Options, RehearsalError, rehearse};

/// Three nodes behind HAProxy under load: each is replaced, a fourth joins, one is killed. Nothing acked may be lost.
#[derive(Debug, Parser)]
struct Arguments {
    /// One node is replaced and nothing else happens: for tests, within a minute.
    #[arg(long)]
    quick: bool,
    /// How many devices there are.
    #[arg(long, value_parser = clap::value_parser!(u32).range(30..=8_000))]
    devices: Option<u32>,
    /// drain.rate_per_s of the nodes.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: Option<u32>,
    /// The nodes rebalance after the scale-out, and their shares are checked.
    #[arg(long)]
    rebalance: bool,
    /// How HAProxy chooses among nodes.
    #[arg(long, default_value = "leastconn", value_parser = ["roundrobin", "leastconn"])]
    balance: String,
    /// Lines at the end of each node's configuration.
    #[arg(long, default_value = "")]
    node_config: String,
    /// The broker.
    #[arg(long, env = "TIDEGATE_TEST_KAFKA")]
    kafka: String,
    /// The Redis, of the rehearsal's own.
    #[arg(long, env = "TIDEGATE_TEST_REDIS")]
    redis: String,
    /// The gateway's program. Absent: the one beside this.
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// The load tester's program. Absent: the one beside this.
    #[arg(long)]
    loadtest: Option<PathBuf>,
    /// Where report.txt, report.json, the load tester's results and all logs go.
    #[arg(long, default_value = "target/rehearsal")]
    out: PathBuf,
    /// How this was started, for whoever reads the report.
    #[arg(long = "as", default_value = "rehearse")]
    called: String,
}

impl Arguments {
    fn options(&self) -> Result<Options, RehearsalError> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| RehearsalError::Io { what, source }
        };
        std::fs::create_dir_all(&self.out).map_err(io("the output directory"))?;
        let beside = std::env::current_exe().map_err(io("finding the programs"))?;
        let program = |given: &Option<PathBuf>, name| given.clone().unwrap_or_else(|| beside.with_file_name(name));
        let whole = !self.quick;
        let pick = |long, short| if whole { long } else { short };
        Ok(Options {
            tidegate: program(&self.tidegate, "tidegate"),
            loadtest: program(&self.loadtest, "tidegate-loadtest"),
            out: self.out.canonicalize().map_err(io("the output directory"))?,
            brokers: self.kafka.clone(),
            redis: self.redis.clone(),
            devices: self.devices.unwrap_or(if whole { 3_000 } else { 300 }),
            restarts: if whole { 3 } else { 1 },
            pre_stop: Duration::from_secs(pick(5, 1)),
            lag_s: pick(4, 3),
            balance: self.balance.clone(),
            propagation_s: pick(10, 8),
            rate_per_s: self.rate.unwrap_or(if whole { 100 } else { 30 }),
            budget_s: pick(120, 30),
            scale_out: whole,
            rebalance: self.rebalance,
            kill: whole,
            extra_config: self.node_config.clone(),
            command: self.called.clone(),
        })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let held = arguments.options().and_then(|options| {
        let report = rehearse(&options, &mut |line| println!("{line}"))?;
        let [text, json] = report.write(&options.out)?;
        print!("\n{}", report.verdict());
        println!("{}, {}, {}", text.display(), json.display(), options.out.join("load/report.html").display());
        Ok(report.passed)
    });
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the rehearsal could not be held: {error}");
            ExitCode::FAILURE
        }
    }
}
