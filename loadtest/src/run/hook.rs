//! A command of the user's that is run as each stage begins, such as one that restarts nodes.

use std::process::{Child, Command, Stdio};

/// The command, and those of its runs that are not over.
pub(super) struct Hook {
    command: Option<String>,
    stage: Option<usize>,
    running: Vec<(String, Child)>,
}

impl Hook {
    pub(super) fn new(command: Option<String>) -> Self {
        Self { command, stage: None, running: Vec::new() }
    }

    /// This stage is on. Where it has just begun the command is run; what is wrong with it or with one before.
    pub(super) fn stage(&mut self, number: usize, name: &str) -> Option<String> {
        let wrong = self.look();
        let begins = self.stage.replace(number) != Some(number);
        let Some(command) = self.command.as_ref().filter(|_| begins) else { return wrong };
        // What it writes would tear the screen.
        let started = Command::new("sh")
            .args(["-c", command])
            .env("TIDEGATE_STAGE", name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(child) => {
                self.running.push((name.to_owned(), child));
                wrong
            }
            Err(error) => Some(format!("the hook could not be run at stage `{name}`: {error}")),
        }
    }

    /// Those that ended with a failure.
    fn look(&mut self) -> Option<String> {
        let mut wrong = None;
        self.running.retain_mut(|(name, child)| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                if !status.success() {
                    wrong = Some(format!("the hook of stage `{name}` failed: {status}"));
                }
                false
            }
            Err(_) => false,
        });
        wrong
    }

    /// The run is over: what is still to be said.
    pub(super) fn end(&mut self) -> Option<String> {
        let wrong = self.look();
        wrong.or_else(|| self.running.first().map(|(name, _)| format!("the hook of stage `{name}` still runs")))
    }
}
