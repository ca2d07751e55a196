//! What Redis itself says it did: `MONITOR` shows every command of every script, in its order, so that who wrote and
//! removed a row, and who was allowed to write a command, need not be guessed.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::history::{Entry, Event};
use super::process::Process;
use super::wait_until;

/// Watches one server; each of its lives has a file of its own.
pub struct Monitor {
    port: u16,
    dir: TempDir,
    files: Vec<PathBuf>,
    process: Option<Process>,
}

impl Monitor {
    /// Watches the server on this port from now on.
    pub fn start(port: u16) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut monitor = Self { port, dir, files: Vec::new(), process: None };
        monitor.start_again();
        monitor
    }

    /// Watches the server that took its place.
    pub fn start_again(&mut self) {
        let file = self.dir.path().join(format!("{}.txt", self.files.len()));
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string(), "MONITOR"]);
        let process = Process::start("redis-cli MONITOR", &mut command, &file);
        wait_until("Redis is watched", Duration::from_secs(10), || process.log().starts_with("OK"));
        self.files.push(file);
        self.process = Some(process);
    }

    /// Everything it did so far that matters here.
    pub fn entries(&self) -> Vec<Entry> {
        let text = |file: &PathBuf| String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned();
        self.files.iter().flat_map(|file| parse(&text(file))).collect()
    }
}

/// The events in what `MONITOR` printed. A script's call stands before the commands of the script.
pub fn parse(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut call: Vec<String> = Vec::new();
    for line in text.lines() {
        let Some((at_us, by_script, words)) = split(line) else { continue };
        if !by_script {
            call = words;
            continue;
        }
        if let Some(event) = event(&call, &words) {
            entries.push(Entry { at_us, event });
        }
    }
    entries
}

fn split(line: &str) -> Option<(u64, bool, Vec<String>)> {
    let (time, rest) = line.split_once(" [")?;
    let (source, words) = rest.split_once("] ")?;
    let (seconds, micros) = time.split_once('.')?;
    let at_us = seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
    Some((at_us, source.ends_with(" lua"), unquote(words)))
}

/// The words of a line, each in quotation marks, with C's escapes.
fn unquote(text: &str) -> Vec<String> {
    let (mut words, mut word, mut chars) = (Vec::new(), None::<String>, text.chars());
    while let Some(next) = chars.next() {
        match (&mut word, next) {
            (None, '"') => word = Some(String::new()),
            (None, _) => {}
            (Some(_), '"') => words.extend(word.take()),
            (Some(word), '\\') => match chars.next() {
                Some('n') => word.push('\n'),
                Some('r') => word.push('\r'),
                Some('t') => word.push('\t'),
                Some('x') => {
                    let hex: String = chars.by_ref().take(2).collect();
                    word.push(char::from(u8::from_str_radix(&hex, 16).unwrap_or(b'?')));
                }
                Some(other) => word.push(other),
                None => {}
            },
            (Some(word), other) => word.push(other),
        }
    }
    words
}

/// `tenant/device` and the name behind it of `tg:{tenant/device}:name`.
fn key_of(key: &str) -> Option<(String, &str)> {
    let (device, name) = key.strip_prefix("tg:{")?.split_once("}:")?;
    device.contains('/').then(|| (device.to_owned(), name))
}

fn event(call: &[String], words: &[String]) -> Option<Event> {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let (device, name) = key_of(word(1))?;
    let field = |name: &str| {
        let at = words.iter().skip(2).step_by(2).position(|field| field == name)?;
        words.get(3 + 2 * at).cloned()
    };
    match (word(0).to_ascii_uppercase().as_str(), name.strip_prefix("c:")) {
        ("HSET", None) if name == "own" => match (field("epoch"), field("connection")) {
            (Some(epoch), Some(session)) => {
                let owner = format!("{},{}", field("node")?, field("incarnation")?);
                Some(Event::RowWritten { device, owner, epoch: epoch.parse().ok()?, session })
            }
            _ => field("settled").map(|_| Event::RowSettled { device }),
        },
        ("DEL", None) if name == "own" => {
            // EVALSHA sha keys KEYS... ARGV: node, incarnation, what must be the same, its value.
            let keys: usize = call.get(2)?.parse().ok()?;
            let arg = |at: usize| call.get(3 + keys + at).cloned();
            let by = format!("{},{}", arg(0)?, arg(1)?);
            Some(Event::RowRemoved { device, by, fence: arg(2)?, value: arg(3)? })
        }
        ("HSET", Some(id)) => {
            let id = id.to_owned();
            if let (Some(state), Some(history)) = (field("state"), field("history")) {
                let version = history.lines().last()?.split(' ').next()?.parse().ok()?;
                return Some(Event::Turned { device, id, version, state });
            }
            Some(Event::Granted { device, id, epoch: field("epoch")?.parse().ok()? })
        }
        _ => None,
    }
}
