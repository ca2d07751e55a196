//! Runs the benchmarks: every figure beside its baseline of the same run, as a table and as `summary.json`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the figures are its output")]

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::AtomicU64;

use clap::Parser;
use tidegate_loadtest::bench::BenchError;
use tidegate_loadtest::bench::identity::Identity;
use tidegate_loadtest::bench::kafka::Kafka;
use tidegate_loadtest::bench::measures::Bench;
use tidegate_loadtest::bench::report::{Row, heading};

const GROUPS: [&str; 6] = ["idle", "burst", "cpu", "paced", "latency", "connects"];

/// Benchmarks of the gateway beside their baselines. Exits non-zero when a measurement failed, not when a target is missed.
#[derive(Parser)]
struct Arguments {
    /// Everything in about three minutes: fewer rounds, shorter, 1,000 connections.
    #[arg(long)]
    quick: bool,
    /// Only this group: idle, burst, cpu, paced, latency or connects. May be repeated.
    #[arg(long, value_parser = GROUPS)]
    only: Vec<String>,
    /// Where logs and summary.json go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// A broker to use instead of starting one.
    #[arg(long)]
    kafka: Option<String>,
    /// The gateway's binary.
    #[arg(long, default_value = "target/release/tidegate")]
    tidegate: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the benchmarks could not run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything asked for; whether every measurement succeeded.
fn run(arguments: &Arguments) -> Result<bool, BenchError> {
    // The generator keeps to the second core and leaves the first to what is measured. Done before any thread exists.
    let pinned = Command::new("taskset").args(["-p", "-c", "1", &std::process::id().to_string()]).output();
    pinned.map_err(BenchError::io("running taskset (Debian: util-linux)"))?;
    std::fs::create_dir_all(&arguments.out).map_err(BenchError::io(arguments.out.display().to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BenchError::io("starting the runtime"))?;
    runtime.block_on(measure(arguments))
}

async fn measure(arguments: &Arguments) -> Result<bool, BenchError> {
    let dir = arguments.out.canonicalize().map_err(BenchError::io("the output directory"))?;
    let program = std::env::current_exe().map_err(BenchError::io("finding the baselines"))?;
    let bench = Bench {
        quick: arguments.quick,
        tidegate: arguments.tidegate.clone(),
        bins: program.parent().map(PathBuf::from).unwrap_or_default(),
        kafka: Kafka::get(arguments.kafka.as_deref(), &dir).await?,
        identity: Identity::new(&dir)?,
        numbers: AtomicU64::new(1),
        dir,
    };
    bench.check_gateway().await?;
    let (mut rows, mut whole) = (Vec::new(), true);
    for group in GROUPS {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == group) {
            continue;
        }
        eprintln!("measuring: {group}");
        let found = match group {
            "idle" => bench.idle().await,
            "burst" => bench.burst().await,
            "cpu" => bench.cpu().await,
            "paced" => bench.paced().await,
            "latency" => bench.latency().await,
            _ => bench.connects().await,
        };
        match found {
            Ok(found) => rows.extend(found),
            Err(error) => {
                eprintln!("FAILED: {group}: {error}");
                whole = false;
            }
        }
    }
    report(&rows, &bench.dir)?;
    Ok(whole)
}

fn report(rows: &[Row], dir: &std::path::Path) -> Result<(), BenchError> {
    println!("{}", heading());
    for row in rows {
        println!("{}", row.line());
    }
    let missed = rows.iter().filter(|row| row.met == Some(false)).map(|row| row.name.as_str());
    let missed: Vec<&str> = missed.collect();
    println!("targets missed: {}", if missed.is_empty() { "none".to_owned() } else { missed.join(", ") });
    let text = serde_json::to_string_pretty(rows).map_err(BenchError::failed)?;
    let file = dir.join("summary.json");
    std::fs::write(&file, text).map_err(BenchError::io(file.display().to_string()))
}
