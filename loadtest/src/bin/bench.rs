//! Runs the benchmarks: every figure beside its baseline of the same run, as a table and as `summary.json`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the figures are its output")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_loadtest::bench::identity::Identity;
use tidegate_loadtest::bench::kafka;
use tidegate_loadtest::bench::machine::Machine;
use tidegate_loadtest::bench::markdown::Section;
use tidegate_loadtest::bench::report::{Report, table};
use tidegate_loadtest::bench::servers::background_load;
use tidegate_loadtest::bench::{Bench, BenchError, Other, html, markdown};

const GROUPS: [&str; 8] = ["memory", "cpu", "paced", "latency", "connects", "cluster", "peers", "builds"];
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
    /// Only this group. May be repeated. `peers` and `builds`, which compares the gateway with another one, run only when asked for.
    #[arg(long, value_parser = GROUPS)]
    only: Vec<String>,
    /// The peers too: NATS, RabbitMQ, the articles' Node server. `loadtest/peers/install` installs them.
    #[arg(long)]
    peers: bool,
    /// Writes what was found into this file too, between its marks; only with all groups of the targets, or with the peers.
    #[arg(long)]
    update_docs: Option<PathBuf>,
    /// How this was started, for whoever reads what it wrote. Absent: the arguments that count.
    #[arg(long = "as")]
    called: Option<String>,
    /// Where logs, summary.json and report.html go.
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
        match group {
            "peers" if self.peers => true,
            "peers" | "builds" if self.only.is_empty() => false,
            _ => self.only.is_empty() || self.only.iter().any(|only| only == group),
        }
    }

    /// Which sections of the documentation this run can write.
    fn sections(&self) -> Result<Vec<Section>, BenchError> {
        let mut sections = Vec::new();
        if GROUPS.into_iter().all(|group| ["peers", "builds"].contains(&group) || self.wants(group)) {
            sections.push(Section::Targets);
        }
        if self.wants("peers") {
            sections.push(Section::Peers);
        }
        if self.update_docs.is_some() && sections.is_empty() {
            let text = "--update-docs writes whole sections: leave --only out, or ask for --only peers";
            return Err(BenchError::failed(text));
        }
        Ok(sections)
    }

    fn called(&self) -> String {
        let flags = [("--quick", self.quick), ("--peers", self.peers)];
        let flags = flags.into_iter().filter(|(_, set)| *set).map(|(flag, _)| flag.to_owned());
        let only = self.only.iter().map(|group| format!("--only {group}"));
        let words: Vec<String> = std::iter::once("bench".to_owned()).chain(flags).chain(only).collect();
        self.called.clone().unwrap_or_else(|| words.join(" "))
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
    let sections = arguments.sections()?;
    leave_the_first_core()?;
    if !arguments.quick {
        raise_file_limit()?;
    }
    let (begin, mut machine) = (Instant::now(), Machine::here(arguments.called()));
    let load = background_load();
    if load > QUIET {
        let text = format!("the machine was {:.0} % busy with something else: these figures are rough", load * 100.0);
        eprintln!("{text}");
        machine.remarks.push(text);
    }
    let bench = prepare(arguments)?;
    bench.check_gateway()?;
    let mut report = Report::default();
    for group in GROUPS.into_iter().filter(|group| arguments.wants(group)) {
        eprintln!("measuring: {group}");
        let begin = Instant::now();
        measure(&bench, group, &mut report);
        eprintln!("measured: {group}, in {:.0} s", begin.elapsed().as_secs_f64());
    }
    if cfg!(debug_assertions) {
        machine.remarks.push("this is a debug build: its figures mean nothing".to_owned());
    }
    machine.remarks.push(format!("it took {:.0} s", begin.elapsed().as_secs_f64()));
    write(&report, &machine, &bench.dir)?;
    if let Some(file) = &arguments.update_docs {
        markdown::update(file, &sections, &report, &machine)?;
    }
    Ok(report.failures.is_empty())
}

fn measure(bench: &Bench, group: &str, report: &mut Report) {
    match group {
        "memory" => bench.memory(report),
        "cpu" => bench.cpu(report),
        "paced" => bench.paced(report),
        "latency" => report.add(group, bench.latency()),
        "cluster" => bench.cluster(report),
        "peers" => bench.beside(report),
        "builds" => bench.builds(report),
        _ => report.add(group, bench.connects()),
    }
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
    for needed in [&tidegate, &bins.join("obvious"), &bins.join("tcp-echo")] {
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
        peers: peers_dir(),
        brokers: arguments.kafka.clone(),
        redis: arguments.redis.clone(),
        identity: Identity::new(&dir)?,
        numbers: AtomicU64::new(1),
        dir,
    })
}

fn write(report: &Report, machine: &Machine, dir: &Path) -> Result<(), BenchError> {
    println!("{}\n{}\n", machine.command, machine.text());
    print!("{}", table(&report.rows));
    for failure in &report.failures {
        println!("FAILED: {failure}");
    }
    for remark in &machine.remarks {
        println!("{remark}");
    }
    let text = serde_json::to_string_pretty(&report.rows).map_err(BenchError::failed)?;
    for (name, text) in [("summary.json", text), ("report.html", html::page(report, machine))] {
        let file = dir.join(name);
        std::fs::write(&file, text).map_err(BenchError::io(file.display().to_string()))?;
    }
    Ok(())
}

/// Where `loadtest/peers/install` puts what it builds.
fn peers_dir() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home);
    cache.unwrap_or_default().join("tidegate/peers-1")
}
