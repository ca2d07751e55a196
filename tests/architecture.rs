//! Style is a test: which module may use which, where the large dependencies live, and what no source file may hold.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The tier of each module: one may use its own children and what is in a lower tier, never its own tier's neighbours.
const TIERS: &[(u8, &[&str])] = &[
    (0, &["clock", "https", "id", "limits", "sync"]),
    (1, &["telemetry"]),
    (2, &["protocol", "store"]),
    (3, &["auth", "eventlog", "mailbox", "ownership", "commands"]),
    (4, &["courier", "roster", "receipts", "registrar", "revocations", "session", "socket"]),
    (5, &["connection", "keeper", "peer"]),
    (6, &["router"]),
    (7, &["api", "inbox"]),
    // The composition root: these alone know which implementation is used, and one another.
    (8, &["config", "app", "dev", "cli", "main"]),
];

/// A dependency that may be named only below one module.
const HOMES: &[(&str, &str)] = &[
    ("fastwebsockets", "socket"),
    ("rdkafka", "eventlog/kafka"),
    ("jsonwebtoken", "auth"),
    ("redis", "store"),
    ("tonic", "peer"),
    ("opentelemetry", "telemetry/traces/otlp"),
    ("opentelemetry_sdk", "telemetry/traces/otlp"),
    ("opentelemetry_otlp", "telemetry/traces/otlp"),
];

const MAX_LINES: usize = 700;

fn tier(module: &str) -> Option<u8> {
    TIERS.iter().find(|(_, modules)| modules.contains(&module)).map(|(tier, _)| *tier)
}

/// What is wrong with one source file, whose path is relative to `src/`.
fn faults(path: &str, source: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let module = path.split('/').next().unwrap().trim_end_matches(".rs");
    if !source.starts_with("//!") {
        faults.push(format!("{path} does not open with //!"));
    }
    if source.lines().count() > MAX_LINES {
        faults.push(format!("{path} is longer than {MAX_LINES} lines"));
    }
    // What tests use is not what the program is made of.
    let code: String = source
        .split("#[cfg(test)]")
        .next()
        .unwrap()
        .lines()
        .map(|line| line.split("//").next().unwrap())
        .collect::<Vec<_>>()
        .join("\n");
    for leftover in ["dbg!(", "todo!(", "unimplemented!("] {
        if code.contains(leftover) {
            faults.push(format!("{path} holds {leftover}"));
        }
    }
    for (dependency, home) in HOMES {
        let named = names(&code, dependency);
        if named && !path.starts_with(home) {
            faults.push(format!("{path} names {dependency}, whose home is {home}"));
        }
    }
    if module == "session" {
        for impure in ["async ", "tokio", "Instant", "SystemTime", ".await", "std::net", "std::io"] {
            if code.contains(impure) {
                faults.push(format!("{path} is in session and holds {impure}"));
            }
        }
    }
    if module != "lib" {
        faults.extend(edges(path, module, &code));
    }
    faults
}

/// Whether a crate is named; a module of ours may have the same name behind `::`.
fn names(code: &str, dependency: &str) -> bool {
    let whole = |at: usize| {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        !before.is_alphanumeric() && !matches!(before, '_' | ':')
    };
    let path = format!("{dependency}::");
    code.contains(&format!("use {dependency}")) || code.match_indices(&path).any(|(at, _)| whole(at))
}

fn edges(path: &str, module: &str, code: &str) -> Vec<String> {
    let Some(own) = tier(module) else { return vec![format!("{path}: {module} is in no tier")] };
    let mut faults = Vec::new();
    for used in used_modules(code) {
        let Some(other) = tier(&used) else {
            faults.push(format!("{path} uses {used}, which is in no tier"));
            continue;
        };
        if used != module && other >= own && own != 8 {
            faults.push(format!("{path} (tier {own}) uses {used} (tier {other})"));
        }
    }
    faults
}

/// The modules named after `crate::` or `tidegate::`, also within braces right behind it.
fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for prefix in ["crate::", "tidegate::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            let name = |text: &str| -> String {
                text.trim_start().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
            };
            let names: Vec<String> = match rest.strip_prefix('{') {
                Some(list) => top_level_items(list).iter().map(|item| name(item)).collect(),
                None => vec![name(rest)],
            };
            used.extend(names.into_iter().filter(|name| !name.is_empty()));
        }
    }
    used
}

fn top_level_items(list: &str) -> Vec<String> {
    let (mut depth, mut items) = (0, vec![String::new()]);
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ => {}
        }
        items.last_mut().unwrap().push(c);
    }
    items.iter().map(|item| item.trim_start_matches([',', ' ', '\n']).to_owned()).collect()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_source_file_keeps_to_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    assert!(found.len() > 20, "only {} source files found", found.len());
    let mut all = Vec::new();
    for path in found {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        all.extend(faults(&name, &std::fs::read_to_string(&path).unwrap()));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn a_planted_fault_is_found() {
    let planted = [
        ("roster.rs", "//! x\nuse crate::session::Now;", "uses session"),
        ("protocol/json.rs", "//! x\nuse crate::{id, auth::Verified};", "uses auth"),
        ("auth/x.rs", "//! x\nfn f() { crate::connection::serve(); }", "uses connection"),
        ("connection.rs", "//! x\nuse rdkafka::ClientConfig;", "names rdkafka"),
        ("peer.rs", "//! x\nuse crate::connection::Node;", "uses connection"),
        ("app.rs", "//! x\nuse tonic::Status;", "names tonic"),
        ("router.rs", "//! x\nuse opentelemetry_sdk::trace::SpanData;", "names opentelemetry_sdk"),
        ("ownership/redis.rs", "//! x\nfn f(value: redis::Value) {}", "names redis"),
        ("session/device.rs", "//! x\nuse std::time::Instant;", "holds Instant"),
        ("id.rs", "use std::fmt;", "open with"),
        ("id.rs", "//! x\nfn f() { todo!() }", "holds todo!("),
        ("stranger.rs", "//! x", "in no tier"),
    ];
    for (path, source, expected) in planted {
        let found = faults(path, source);
        assert!(found.iter().any(|fault| fault.contains(expected)), "{path}: {found:?}");
    }
    assert!(faults("id.rs", &format!("//! x\n{}", "\n".repeat(MAX_LINES))).len() == 1);
    assert_eq!(faults("cli.rs", "//! x\nuse crate::ownership::redis::RedisOwnership;"), [""; 0]);
    assert_eq!(faults("socket/x.rs", "//! x\nuse fastwebsockets::unmask;\nuse crate::protocol::close;"), [""; 0]);
}
