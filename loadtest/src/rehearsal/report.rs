//! What a rehearsal came to: a line for each step and for each check with its figure and its bound.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::RehearsalError;
use crate::bench::machine::Machine;
use crate::summary::write_file;

/// Something that has to hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// What was found.
    pub figure: String,
    /// What was to be found.
    pub bound: String,
    /// Whether it was; null where it was not looked for, and the bound says why.
    pub holds: Option<bool>,
}

impl Check {
    /// A check of a figure.
    pub(super) fn new(name: impl Into<String>, figure: impl ToString, bound: impl ToString, holds: bool) -> Self {
        Self { name: name.into(), figure: figure.to_string(), bound: bound.to_string(), holds: Some(holds) }
    }

    /// A figure that must be zero.
    pub(super) fn zero(name: impl Into<String>, figure: u64) -> Self {
        Self::new(name, figure, "0", figure == 0)
    }

    /// What was not looked for, and why.
    pub(super) fn left_out(name: impl Into<String>, figure: impl ToString, why: impl ToString) -> Self {
        Self { name: name.into(), figure: figure.to_string(), bound: why.to_string(), holds: None }
    }
}

/// A line about what was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Seconds since the beginning.
    pub at_s: f64,
    /// What.
    pub text: String,
}

/// A rehearsal, on or over.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every check holds, and there are any.
    pub passed: bool,
    /// How it was started.
    pub command: String,
    /// Where it ran.
    pub machine: String,
    /// The day, UTC.
    pub day: String,
    /// What was done.
    pub steps: Vec<Step>,
    /// What was looked for.
    pub checks: Vec<Check>,
    /// Other figures: name and value.
    pub figures: Vec<(String, String)>,
    #[serde(skip)]
    began: Instant,
}

impl Report {
    /// One that begins.
    pub(super) fn begin(command: &str) -> Self {
        let machine = Machine::here(command.to_owned());
        Self {
            passed: false,
            command: command.to_owned(),
            machine: machine.text(),
            day: machine.day,
            steps: Vec::new(),
            checks: Vec::new(),
            figures: Vec::new(),
            began: Instant::now(),
        }
    }

    /// Notes what is being done; the line as it is shown.
    pub(super) fn step(&mut self, text: String) -> String {
        let at_s = self.began.elapsed().as_secs_f64();
        let line = line_of(at_s, &text);
        self.steps.push(Step { at_s, text });
        line
    }

    /// Judges.
    pub(super) fn end(&mut self, checks: Vec<Check>, figures: Vec<(String, String)>) {
        self.passed = !checks.is_empty() && checks.iter().all(|check| check.holds != Some(false));
        (self.checks, self.figures) = (checks, figures);
    }

    /// The checks, the figures and the verdict, for people.
    pub fn verdict(&self) -> String {
        let mut text = String::new();
        let width =
            |of: fn(&Check) -> &str| self.checks.iter().map(|check| of(check).chars().count()).max().unwrap_or(0);
        let (name, figure) = (width(|check| &check.name), width(|check| &check.figure));
        for check in &self.checks {
            let (word, joint) = match check.holds {
                Some(true) => ("ok    ", "bound: "),
                Some(false) => ("FAILED", "bound: "),
                None => ("-     ", ""),
            };
            let (what, found, bound) = (&check.name, &check.figure, &check.bound);
            let _ = writeln!(text, "{word}  {what:name$}  {found:figure$}  {joint}{bound}");
        }
        for (name, value) in &self.figures {
            let _ = writeln!(text, "        {name}: {value}");
        }
        let count = |holds| self.checks.iter().filter(|check| check.holds == Some(holds)).count();
        let _ = match (count(true), count(false)) {
            (holding, 0) => writeln!(text, "PASSED: all {holding} checks hold"),
            (holding, failed) => writeln!(text, "FAILED: {failed} of {} checks do not hold", holding + failed),
        };
        text
    }

    /// Everything, for people.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}, {}\n\n", self.command, self.machine, self.day);
        for step in &self.steps {
            text += &line_of(step.at_s, &step.text);
            text.push('\n');
        }
        text.push('\n');
        text + &self.verdict()
    }

    /// Writes `report.txt` and `report.json` into a directory.
    ///
    /// # Errors
    /// When the file system says no.
    pub fn write(&self, dir: &Path) -> Result<[PathBuf; 2], RehearsalError> {
        let failed = |error: &dyn std::fmt::Display| {
            RehearsalError::io("writing the report")(std::io::Error::other(error.to_string()))
        };
        let json = serde_json::to_string_pretty(self).map_err(|error| failed(&error))? + "\n";
        let text = write_file(dir, "report.txt", &self.text()).map_err(|error| failed(&error))?;
        Ok([text, write_file(dir, "report.json", &json).map_err(|error| failed(&error))?])
    }
}

fn line_of(at_s: f64, text: &str) -> String {
    format!("{at_s:7.1} s  {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_check_that_fails_fails_the_rehearsal_and_one_left_out_does_not() {
        let mut report = Report::begin("rehearse");
        report.end(Vec::new(), Vec::new());
        assert!(!report.passed, "nothing was checked");
        report.end(vec![Check::zero("lost", 0), Check::left_out("share", "1.4", "no rebalance")], Vec::new());
        assert!(report.passed && report.verdict().ends_with("PASSED: all 1 checks hold\n"), "{}", report.verdict());
        report.end(vec![Check::zero("lost", 0), Check::zero("doubled", 1)], Vec::new());
        assert!(!report.passed && report.verdict().contains("FAILED  doubled  1  bound: 0"), "{}", report.verdict());
    }
}
