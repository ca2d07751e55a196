//! The judge of a cluster: pure functions over a history that prove the invariants O1 to O6, O8 and C1 to C8, C10 and C11
//! of the design, or name the one that is broken with the events that show it.
//!
//! O7 is a matter of load and measured in the benchmarks. What Redis itself lost (a flush, an empty restart, a failover
//! without the last writes) excuses C1 to C3 and what follows from them, and is counted apart: each excuse names its loss.

#[path = "checker/commands.rs"]
mod commands;
#[path = "checker/index.rs"]
mod index;
#[path = "checker/ownership.rs"]
mod ownership;
#[path = "checker/presence.rs"]
mod presence;
#[path = "checker/store.rs"]
mod store;

#[allow(unused_imports, reason = "for who reads states, not for the judge's own test")]
pub use commands::is_terminal;

use std::collections::BTreeMap;
use std::fmt;

use super::history::{Entry, History, Micros};
use index::Index;

/// A broken promise.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// Which: `O1` to `O8`, `C1` to `C11`.
    pub invariant: &'static str,
    /// What is wrong, in words.
    pub what: String,
    /// The events that show it.
    pub shown_by: Vec<Entry>,
    /// The loss of Redis that explains it, if any.
    pub loss: Option<Entry>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)?;
        for entry in &self.shown_by {
            write!(f, "\n    {entry}")?;
        }
        match &self.loss {
            Some(loss) => write!(f, "\n    explained by {loss}"),
            None => Ok(()),
        }
    }
}

/// What a checker found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Promises that were broken.
    pub violations: Vec<Violation>,
    /// Promises that a loss of Redis broke.
    pub explained: Vec<Violation>,
    /// How much there was to judge, by what it is: a history in which nothing happened proves nothing.
    pub counts: BTreeMap<&'static str, usize>,
}

impl Verdict {
    /// The invariants that were broken, each once.
    pub fn broken(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.violations.iter().map(|violation| violation.invariant).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// How much there was of something.
    pub fn count(&self, what: &'static str) -> usize {
        self.counts.get(what).copied().unwrap_or_default()
    }

    /// # Panics
    /// Naming everything that is broken.
    pub fn assert_clean(&self) {
        assert!(self.violations.is_empty(), "{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        write!(f, "{}; {} explained by a loss", counts.join(", "), self.explained.len())?;
        // One that is broken everywhere shall not hide another.
        let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
        for violation in &self.violations {
            let shown = shown.entry(violation.invariant).or_default();
            *shown += 1;
            if *shown <= 5 {
                write!(f, "\n{violation}")?;
            }
        }
        shown
            .iter()
            .filter(|(_, count)| **count > 5)
            .try_for_each(|(name, count)| write!(f, "\n{name}: {count} in all"))
    }
}

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let index = Index::new(history);
    let mut findings = Findings { index: &index, verdict: Verdict::default() };
    ownership::check(&mut findings);
    presence::check(&mut findings);
    store::check(&mut findings);
    commands::check(&mut findings);
    findings.verdict.counts = index.counts();
    findings.verdict
}

/// Where the parts of the checker write what they find.
struct Findings<'a> {
    index: &'a Index<'a>,
    verdict: Verdict,
}

impl<'a> Findings<'a> {
    /// Something is broken whatever Redis lost.
    fn broken(&mut self, invariant: &'static str, what: String, shown_by: &[&Entry]) {
        let shown_by = shown_by.iter().map(|entry| (*entry).clone()).collect();
        self.verdict.violations.push(Violation { invariant, what, shown_by, loss: None });
    }

    /// Something is broken, unless Redis lost what was written at `from` before it was seen at `to`.
    fn broken_unless_lost(
        &mut self,
        invariant: &'static str,
        what: String,
        shown_by: &[&Entry],
        (from, to): (Micros, Micros),
    ) {
        let loss = self.index.loss(from, to).cloned();
        let shown_by = shown_by.iter().map(|entry| (*entry).clone()).collect();
        let explained = loss.is_some();
        let violation = Violation { invariant, what, shown_by, loss };
        if explained { self.verdict.explained.push(violation) } else { self.verdict.violations.push(violation) }
    }
}
