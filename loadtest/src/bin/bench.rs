//! Runs the benchmarks: every figure beside its baseline of the same run, as a table and as `summary.json`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the figures are its output")]

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::AtomicU64;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_loadtest::bench::identity::Identity;
use tidegate_loadtest::bench::kafka;
use tidegate_loadtest::bench::report::{Report, table};
use tidegate_loadtest::bench::servers::background_load;
use tidegate_loadtest::bench::{Bench, BenchError, Other};

const GROUPS: [&str; 7] = ["memory", "cpu", "paced", "latency", "connects", "cluster", "builds"];
/// Open files that a server with 15,000 connections needs, and the generator.
const FILES: u64 = 16_000;
/// A machine busier than this before anything began gives rough figures.
const QUIET: f64 = 0.05;

/// Benchmarks of the gateway beside their baselines. Exits non-zero when a measurement failed, not when a target is missed.
#[derive(Parser)]
struct Arguments {
    /// Everything in about three minutes: fewer rounds, shorter, 1,000 connections.
    #[arg(long)]
    quick: bool,
    /// Only this group. May be repeated; `builds` compares the gateway with the other one and runs only when asked for.
    #[arg(long, value_parser = GROUPS)]
    only: Vec<String>,
    /// Where logs and summary.json go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// The broker; it should run on the cores that are not the first.
    #[arg(long, env = "TIDEGATE_TEST_KAFKA")]
    kafka: String,
    /// The Redis, of the benchmarks' own.
    #[arg(long, env = "TIDEGATE_TEST_REDIS")]
    redis: String,
    /// The gateway's binary. Absent: the one beside this program.
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// For `builds`: another binary of the gateway. Absent: the same.
    #[arg(long)]
    other: Option<PathBuf>,
    /// For `builds`: lines at the end of the other's configuration, which is in its section `kafka` there.
    #[arg(long, default_value = "")]
    other_config: String,
}

impl Arguments {
    fn wants(&self, group: &str) -> bool {
        if self.only.is_empty() { group != "builds" } else { self.only.iter().any(|only| only == group) }
    }
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
    leave_the_first_core()?;
    if !arguments.quick {
        raise_file_limit()?;
    }
    let load = background_load();
    if load > QUIET {
        eprintln!("the machine is {:.0} % busy with something else: these figures are rough", load * 100.0);
    }
    let bench = prepare(arguments)?;
    bench.check_gateway()?;
    let mut report = Report::default();
    for group in GROUPS.into_iter().filter(|group| arguments.wants(group)) {
        eprintln!("measuring: {group}");
        match group {
            "memory" => bench.memory(&mut report),
            "cpu" => bench.cpu(&mut report),
            "paced" => bench.paced(&mut report),
            "latency" => report.add(group, bench.latency()),
            "cluster" => bench.cluster(&mut report),
            "builds" => bench.builds(&mut report),
            _ => report.add(group, bench.connects()),
        }
    }
    write(&report, &bench.dir)?;
    Ok(report.failures.is_empty())
}

/// The generator leaves the first core to what is measured. Done before any thread exists.
fn leave_the_first_core() -> Result<(), BenchError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let all = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = all.lines().filter(|line| line.starts_with("cpu")).count().saturating_sub(1).max(cores);
    if all < 2 {
        return Err(BenchError::failed("two cores are needed: one for what is measured and one for the rest"));
    }
    let others = [format!("1-{}", all - 1), std::process::id().to_string()];
    let output = Command::new("taskset")
        .args(["-p", "-c"])
        .args(others)
        .output()
        .map_err(BenchError::io("running taskset (Debian: util-linux)"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(BenchError::failed(format!("taskset: {}", String::from_utf8_lossy(&output.stderr))))
}

/// Servers inherit it.
fn raise_file_limit() -> Result<(), BenchError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if maximum.is_some_and(|allowed| allowed < FILES) {
        return Err(BenchError::failed(format!("{FILES} open files are needed and fewer are allowed: see ulimit -Hn")));
    }
    if current.is_none_or(|files| files >= FILES) {
        return Ok(());
    }
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), maximum });
    raised.map_err(|error| BenchError::io("raising the limit of open files")(error.into()))
}

fn prepare(arguments: &Arguments) -> Result<Bench, BenchError> {
    std::fs::create_dir_all(&arguments.out).map_err(BenchError::io(arguments.out.display().to_string()))?;
    let dir = arguments.out.canonicalize().map_err(BenchError::io("the output directory"))?;
    let program = std::env::current_exe().map_err(BenchError::io("finding the baselines"))?;
    let bins = program.parent().map(PathBuf::from).unwrap_or_default();
    let tidegate = arguments.tidegate.clone().unwrap_or_else(|| bins.join("tidegate"));
    for needed in [&tidegate, &bins.join("obvious")] {
        if !needed.exists() {
            let text = format!("{} is not built: cargo build --release --workspace --bins", needed.display());
            return Err(BenchError::failed(text));
        }
    }
    kafka::make_topics(&arguments.kafka)?;
    let compares = arguments.other.is_some() || !arguments.other_config.is_empty();
    let other = compares.then(|| Other {
        tidegate: arguments.other.clone().unwrap_or_else(|| tidegate.clone()),
        config: arguments.other_config.clone(),
    });
    Ok(Bench {
        other,
        quick: arguments.quick,
        tidegate,
        bins,
        brokers: arguments.kafka.clone(),
        redis: arguments.redis.clone(),
        identity: Identity::new(&dir)?,
        numbers: AtomicU64::new(1),
        dir,
    })
}

fn write(report: &Report, dir: &std::path::Path) -> Result<(), BenchError> {
    print!("{}", table(&report.rows));
    for failure in &report.failures {
        println!("FAILED: {failure}");
    }
    let text = serde_json::to_string_pretty(&report.rows).map_err(BenchError::failed)?;
    let file = dir.join("summary.json");
    std::fs::write(&file, text).map_err(BenchError::io(file.display().to_string()))
}
