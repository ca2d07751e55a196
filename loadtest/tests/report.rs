//! The report in a real browser: nothing goes wrong in it, its plots hold data, and it reads at both widths.
//!
//! `tests/run` says where a browser is. The pages stay in the target directory's `tmp/report` to be looked at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/sample.rs"]
mod sample;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_loadtest::figures::Outcome;
use tidegate_loadtest::report;

const PATIENCE: Duration = Duration::from_secs(120);

/// Runs before anything of the page: hears whatever goes wrong.
const EARS: &str = "<script>window.wrong = [];
addEventListener('error', (event) => wrong.push(String(event.message)));
addEventListener('unhandledrejection', (event) => wrong.push(String(event.reason)));
addEventListener('securitypolicyviolation', (event) => wrong.push(`blocked ${event.blockedURI}`));
console.error = console.warn = (...words) => wrong.push(words.join(' '));</script>";

/// Runs after everything of the page: writes what it is like into the page.
const PROBE: &str = include_str!("support/probe.js");

struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        // What is called so is often a script that starts the browser, which starts more: they are one group.
        let group = rustix::process::Pid::from_raw(self.0.id().cast_signed()).expect("a process has an id");
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

fn directory(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report").join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Opens a page in a window of this width; what the probe found.
fn opened(dir: &Path, page: &Path, width: u32) -> Value {
    let browser = std::env::var_os("TIDEGATE_TEST_BROWSER")
        .expect("TIDEGATE_TEST_BROWSER is not set: run this by `tests/run -p tidegate-loadtest --test report`");
    let (dom, log) = (dir.join(format!("{width}.dom.html")), dir.join(format!("{width}.log")));
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]);
    command.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
    ]);
    command.args(["--enable-logging=stderr", "--dump-dom"]).arg(format!("--window-size={width},900"));
    command.arg(format!("--user-data-dir={}", profile.path().display())).arg(format!("file://{}", page.display()));
    command.stdout(File::create(&dom).unwrap()).stderr(File::create(&log).unwrap()).process_group(0);
    let mut browser = Browser(command.spawn().expect("the browser starts"));
    let since = Instant::now();
    while browser.0.try_wait().unwrap().is_none() {
        assert!(since.elapsed() < PATIENCE, "the browser does not end: {}", log.display());
        std::thread::sleep(Duration::from_millis(50));
    }
    let (dom, log) =
        (fs::read_to_string(&dom).unwrap(), String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned());
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let found = dom.split("<pre id=\"probe\">").nth(1).unwrap_or_else(|| panic!("the probe did not run:\n{log}"));
    let found = found.split("</pre>").next().unwrap().replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&found).unwrap()
}

/// A report as it is written, and beside it the same with the ears and the probe in it.
fn probed(dir: &Path, outcome: &Outcome) -> PathBuf {
    let written = fs::read_to_string(report::write(dir, outcome).unwrap()).unwrap();
    let (head, body) =
        (written.replacen("<head>", &format!("<head>{EARS}"), 1), format!("<script>{PROBE}</script></body>"));
    let page = dir.join("probed.html");
    fs::write(&page, head.replacen("</body>", &body, 1)).unwrap();
    page
}

fn list<'a>(found: &'a Value, name: &str) -> &'a [Value] {
    found[name].as_array().unwrap_or_else(|| panic!("{name} is not in {found}"))
}

/// What holds of any report at any width.
fn assert_sound(found: &Value, width: u32) {
    assert_eq!(found["width"], width, "the window is as wide as asked");
    for fault in ["wrong", "outside", "cut", "overlapping", "tiny", "unnamed", "faint"] {
        assert_eq!(list(found, fault), &[] as &[Value], "{fault} at {width}");
    }
    assert!(found["page_width"].as_u64().unwrap() <= u64::from(width), "{found}");
}

#[test]
fn a_report_of_a_troubled_run_reads_at_both_widths() {
    let dir = directory("failed");
    let page = probed(&dir, &sample::failed());
    for width in [1280, 400] {
        let found = opened(&dir, &page, width);
        assert_sound(&found, width);
        let plots = list(&found, "plots");
        assert_eq!(plots.len(), 10, "{plots:#?}");
        for plot in plots {
            let (marks, points) = (plot["marks"].as_u64().unwrap(), plot["points"].as_u64().unwrap());
            assert!(marks > 0 && points > 2 && plot["empty"] == false, "{plot}");
            assert!(plot["width"].as_f64().unwrap() >= 300.0, "{plot}");
        }
        let read = &found["readout"];
        assert_eq!(read["before"], "10:00");
        assert_ne!(read["during"], read["before"]);
        assert_eq!((&read["after"], &read["cursor"]), (&read["before"], &Value::from("visible")));
    }
}

#[test]
fn a_report_of_nothing_at_all_breaks_nothing() {
    let dir = directory("empty");
    let page = probed(&dir, &Outcome { profile: "steady".to_owned(), ..Outcome::default() });
    let found = opened(&dir, &page, 400);
    assert_sound(&found, 400);
    assert!(list(&found, "plots").iter().all(|plot| plot["empty"] == true), "{found}");
}

#[test]
fn a_good_run_of_one_second_reads_too() {
    let dir = directory("passed");
    let mut outcome = sample::passed();
    outcome.series.truncate(1);
    let page = probed(&dir, &outcome);
    let found = opened(&dir, &page, 400);
    assert_sound(&found, 400);
    assert!(list(&found, "plots").iter().all(|plot| plot["empty"] == false), "{found}");
}
