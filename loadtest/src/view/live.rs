//! The live view's thread: it alone touches the terminal, hears keys, and gives the terminal back however it ends.

use std::io;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::watch;

use super::draw::{Screen, draw};
use crate::figures::Progress;

/// How long a key, a resize or news wait at most.
const TICK: Duration = Duration::from_millis(100);

/// What the thread and the view share.
#[derive(Default)]
struct Shared {
    /// The newest that is not drawn.
    news: Mutex<Option<Progress>>,
    over: AtomicBool,
}

/// A live view.
pub(super) struct Live {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Live")
    }
}

impl Live {
    /// Takes the terminal. A panic anywhere gives it back before its text appears.
    pub(super) fn start(asks: watch::Sender<bool>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        end_at_a_panic(Arc::clone(&shared));
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore())?;
        let theirs = Arc::clone(&shared);
        let spawned = thread::Builder::new().name("view".to_owned()).spawn(move || {
            // A terminal that went away takes no more: the run goes on without it.
            let _ = run(terminal, &theirs, &asks);
            ratatui::restore();
        });
        let thread = spawned.inspect_err(|_| ratatui::restore())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Shows this next.
    pub(super) fn show(&self, progress: &Progress) {
        *self.shared.news.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress.clone());
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Ratatui gives the terminal back at a panic; a panic that a task survives must not be drawn over.
fn end_at_a_panic(shared: Arc<Shared>) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        shared.over.store(true, Ordering::Release);
        before(panic);
    }));
}

fn run(mut terminal: DefaultTerminal, shared: &Shared, asks: &watch::Sender<bool>) -> io::Result<()> {
    let mut screen = Screen::default();
    let mut stale = true;
    while !shared.over.load(Ordering::Acquire) {
        if let Some(progress) = shared.news.lock().unwrap_or_else(PoisonError::into_inner).take() {
            screen.add(progress);
            stale = true;
        }
        if stale {
            terminal.draw(|frame| draw(frame, &screen))?;
            stale = false;
        }
        if !event::poll(TICK)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if ends(key) => {
                screen.ending = true;
                asks.send_replace(true);
                stale = true;
            }
            Event::Resize(..) => stale = true,
            _ => {}
        }
    }
    Ok(())
}

/// Whether a key asks for the end.
fn ends(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let asked = match key.code {
        KeyCode::Char('q' | 'Q') => true,
        KeyCode::Char('c' | 'C') => control,
        _ => false,
    };
    asked && key.kind != KeyEventKind::Release
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_and_control_c_end_a_run_and_other_keys_do_not() {
        let key = |code, modifiers| ends(KeyEvent::new(KeyCode::Char(code), modifiers));
        assert!(key('q', KeyModifiers::NONE) && key('c', KeyModifiers::CONTROL));
        assert!(!key('c', KeyModifiers::NONE) && !key('x', KeyModifiers::CONTROL));
        assert!(!ends(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE)));
    }
}
