//! A run from the command line: shown, ended by signals, judged, written down.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use super::flags::{CoordinatorFlags, LoadFlags, RunFlags, WhoFlags};
use super::{ABORTED, BREACH, FAILED, PASSED, UNREACHABLE, UNWELCOME, USAGE};
use crate::exporter::Exporter;
use crate::figures::{Outcome, Progress};
use crate::judgement::Judgement;
use crate::run::{Finished, RunError, Settings, Trouble, Workers, run as run_profile};
use crate::threshold::{self, Threshold};
use crate::view::{Kind, View};
use crate::{report, summary};

/// Flags whose value is nobody else's business.
const SECRET: [&str; 2] = ["--app-token", "--kafka-property"];

pub(super) fn run(flags: &RunFlags) -> u8 {
    let workers = match flags.workers {
        None => Workers::None,
        Some(count) => {
            Workers::Local { count, arguments: flags.who.arguments(), app_token: flags.who.app_token.clone() }
        }
    };
    begin(&flags.load, &flags.who, workers)
}

pub(super) fn coordinate(flags: &CoordinatorFlags) -> u8 {
    let wait = Duration::from_secs_f64(flags.wait);
    let workers = Workers::Remote { listen: flags.listen, count: flags.workers, wait };
    begin(&flags.load, &flags.who, workers)
}

fn begin(load: &LoadFlags, who: &WhoFlags, workers: Workers) -> u8 {
    let (profile, thresholds) = match load.profile() {
        Ok(read) => read,
        Err(text) => return complain(&text, USAGE),
    };
    // What cannot be written at the end is better known now.
    if let Some(out) = &load.out
        && let Err(error) = std::fs::create_dir_all(out)
    {
        return complain(&format!("--out {}: {error}", out.display()), USAGE);
    }
    let settings = load.settings(profile, who, workers);
    match block_on(go(load, settings, &thresholds)) {
        Ok(code) | Err(code) => code,
    }
}

/// Runs something on a runtime of its own. Devices have others.
pub(super) fn block_on<F: Future>(future: F) -> Result<F::Output, u8> {
    match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => {
            let output = runtime.block_on(future);
            // What still blocks, such as a question to a broker that is gone, is not waited for.
            runtime.shutdown_timeout(Duration::from_millis(200));
            Ok(output)
        }
        Err(error) => Err(complain(&format!("no threads to run on: {error}"), FAILED)),
    }
}

fn complain(text: &str, code: u8) -> u8 {
    eprintln!("tidegate-loadtest: {text}");
    code
}

async fn go(load: &LoadFlags, settings: Settings, thresholds: &[Threshold]) -> u8 {
    let exporter = match load.metrics {
        Some(address) => match Exporter::start(address).await {
            Ok(exporter) => Some(exporter),
            Err(error) => return complain(&error.to_string(), USAGE),
        },
        None => None,
    };
    let profile_text = toml::to_string_pretty(&settings.profile).unwrap_or_default();
    let mut view = match View::start(if load.plain { Kind::Plain } else { Kind::Auto }) {
        Ok(view) => view,
        Err(error) => return complain(&error.to_string(), USAGE),
    };
    let interrupts = interrupts(view.end_asked());
    let mut show = |progress: &Progress| {
        view.show(progress);
        if let Some(exporter) = &exporter {
            exporter.show(progress);
        }
    };
    let finished = tokio::select! {
        finished = run_profile(settings, interrupts.clone(), &mut show) => finished,
        () = twice(interrupts) => {
            drop(view);
            return complain("aborted: nothing is reported", ABORTED);
        }
    };
    match finished {
        Ok(mut finished) => {
            finished.outcome.command = command();
            finished.outcome.profile_text = profile_text;
            end(load, view, finished, thresholds)
        }
        Err(error) => {
            drop(view);
            complain(&error.to_string(), code_of(&error))
        }
    }
}

fn code_of(error: &RunError) -> u8 {
    match error {
        RunError::Interrupted => ABORTED,
        RunError::Threads(_) => FAILED,
        error if error.is_unreachable() => UNREACHABLE,
        _ => USAGE,
    }
}

/// Judges, shows, writes down; the exit code.
fn end(load: &LoadFlags, view: View, mut finished: Finished, thresholds: &[Threshold]) -> u8 {
    let outcome = &mut finished.outcome;
    let early = finished.trouble.as_ref().map(|trouble| match trouble {
        Trouble::Unwelcome(text) => format!("the run ended early: the gateway takes none of the tokens: {text}"),
        Trouble::Untrusted(text) | Trouble::Gone(text) => format!("the run ended early: {text}"),
    });
    outcome.warnings.extend(early.clone());
    outcome.incomplete.extend(early);
    outcome.thresholds = threshold::judge(thresholds, outcome);
    view.finish(outcome);
    if let Some(out) = &load.out
        && let Err(error) = write(out, outcome)
    {
        return complain(&error, FAILED);
    }
    let incomplete = outcome.ledger.as_ref().and_then(|ledger| ledger.incomplete.as_deref());
    match (&finished.trouble, incomplete) {
        (Some(Trouble::Unwelcome(text)), _) => complain(
            &format!(
                "the gateway takes none of the tokens: {text}. Look at --signing-key, --issuer, --audience, --kid and --tenant"
            ),
            UNWELCOME,
        ),
        (Some(Trouble::Untrusted(text)), _) => {
            complain(&format!("the target's certificate is not trusted: {text} Look at --ca"), UNREACHABLE)
        }
        (Some(Trouble::Gone(text)), _) => complain(&format!("the target is gone: {text}"), UNREACHABLE),
        (None, Some(why)) => complain(&format!("the ledger could not be checked: {why}"), UNREACHABLE),
        (None, None) if !outcome.incomplete.is_empty() => complain("the run is incomplete", FAILED),
        (None, None) if Judgement::of(outcome).passed => PASSED,
        (None, None) => BREACH,
    }
}

fn write(out: &Path, outcome: &Outcome) -> Result<(), String> {
    summary::write(out, outcome).map_err(|error| error.to_string())?;
    report::write(out, outcome).map_err(|error| error.to_string())?;
    Ok(())
}

/// How often a person asked for the end: by signals, or by a key in the live view.
fn interrupts(mut asked: watch::Receiver<bool>) -> watch::Receiver<u32> {
    let (told, interrupts) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                signal = tokio::signal::ctrl_c() => if signal.is_err() { return },
                changed = asked.changed() => if changed.is_err() { std::future::pending::<()>().await },
                () = terminated() => {}
            }
            told.send_modify(|times| *times += 1);
        }
    });
    interrupts
}

/// SIGTERM, as container platforms send it.
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}

async fn twice(mut interrupts: watch::Receiver<u32>) {
    if interrupts.wait_for(|times| *times > 1).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The command line, without what is secret.
fn command() -> String {
    let mut words: Vec<String> = Vec::new();
    for word in std::env::args() {
        let hidden = words.last().is_some_and(|before| SECRET.contains(&before.as_str()));
        let joined = SECRET.iter().find(|flag| word.starts_with(&format!("{flag}=")));
        words.push(match joined {
            Some(flag) => format!("{flag}=…"),
            None if hidden => "…".to_owned(),
            None => word,
        });
    }
    words.join(" ")
}
