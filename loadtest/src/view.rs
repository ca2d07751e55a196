//! What a person sees of a run while it goes on and when it is over: a live view in a terminal, plain lines elsewhere.
//!
//! ```no_run
//! # use tidegate_loadtest::figures::{Outcome, Progress};
//! # use tidegate_loadtest::view::{Kind, View};
//! # fn show(progress: &Progress, outcome: &Outcome) -> Result<(), tidegate_loadtest::view::ViewError> {
//! let mut view = View::start(Kind::Auto)?;
//! let end = view.end_asked(); // a run watches this beside its signals: in the live view Ctrl-C is a key like `q`
//! view.show(progress); // once a second
//! assert!(!*end.borrow());
//! view.finish(outcome);
//! # Ok(())
//! # }
//! ```

mod draw;
mod live;
mod plain;
mod text;

use std::io::{IsTerminal, Write};

use tokio::sync::watch;

use crate::figures::{Outcome, Progress};

pub use text::table;

/// How a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Live where standard output is a terminal that can, else plain.
    #[default]
    Auto,
    /// Live, or an error.
    Live,
    /// A line every five seconds.
    Plain,
    /// Only the table at the end.
    Quiet,
}

/// Why there is no live view.
#[derive(Debug, thiserror::Error)]
#[error("this terminal takes no live view: {0}; show plain lines instead")]
pub struct ViewError(#[from] std::io::Error);

/// A view of one run. Dropped before its end, it gives the terminal back.
#[derive(Debug)]
pub struct View {
    shown: Shown,
    end_asked: watch::Receiver<bool>,
    /// Alive as long as the view, so that whoever waits for an answer where none can come waits on.
    _asks: watch::Sender<bool>,
}

#[derive(Debug)]
enum Shown {
    Live(live::Live),
    Plain(plain::Plain),
    Quiet,
}

impl View {
    /// Begins to show. [`Kind::Auto`] never fails.
    pub fn start(kind: Kind) -> Result<Self, ViewError> {
        let (asks, end_asked) = watch::channel(false);
        let live = || live::Live::start(asks.clone()).map(Shown::Live);
        let shown = match kind {
            Kind::Live => live()?,
            Kind::Auto if takes_live() => live().unwrap_or_else(|_| Shown::Plain(plain::Plain::default())),
            Kind::Auto | Kind::Plain => Shown::Plain(plain::Plain::default()),
            Kind::Quiet => Shown::Quiet,
        };
        Ok(Self { shown, end_asked, _asks: asks })
    }

    /// Becomes true when the reader asks for the end of the run with `q` or Ctrl-C. Only the live view hears keys: elsewhere
    /// Ctrl-C is a signal, as ever.
    pub fn end_asked(&self) -> watch::Receiver<bool> {
        self.end_asked.clone()
    }

    /// Shows how far a run is. Cheap: drawing happens on a thread of its own.
    pub fn show(&mut self, progress: &Progress) {
        match &mut self.shown {
            Shown::Live(live) => live.show(progress),
            Shown::Plain(plain) => plain.lines(progress).iter().for_each(|line| say(&format!("{line}\n"))),
            Shown::Quiet => {}
        }
    }

    /// Gives the terminal back and prints how the run went.
    pub fn finish(self, outcome: &Outcome) {
        drop(self);
        say(&table(outcome));
    }
}

fn takes_live() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal.is_empty() || terminal == "dumb");
    !dumb && std::io::stdout().is_terminal() && std::io::stdin().is_terminal()
}

/// To standard output. Whoever closed it does not want to hear more.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Text of others without what would move a cursor.
fn harmless(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn without_a_terminal_a_live_view_is_refused_and_auto_is_plain() {
        // Tests run with their output captured or piped; in a terminal there is nothing to see here.
        if takes_live() {
            return;
        }
        let view = View::start(Kind::Auto).unwrap();
        assert!(matches!(view.shown, Shown::Plain(_)) && !*view.end_asked().borrow());
    }

    #[test]
    fn text_of_strangers_moves_no_cursor() {
        assert_eq!(harmless("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
    }
}
