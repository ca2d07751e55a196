//! How many may be connecting at once. What is beyond waits: those that connect all at once spend a processor on handshakes
//! none of which is done in time.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Devices: so few that one core finishes their handshakes long before the 10 s that a gateway gives each. Without a bound
/// 60,000 devices on two cores lost their connections one by one and never came back.
const DEVICES: usize = 512;
/// Callers of commands: each asks again for what is not answered, and more of them would make a slow target ever slower.
const CALLERS: usize = 16;

/// The turns of one process.
pub(super) struct Turns {
    pub(super) devices: Arc<Semaphore>,
    /// Turns of their own: a command is not to wait for a fleet that comes back.
    pub(super) callers: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { devices: Arc::new(Semaphore::new(DEVICES)), callers: Arc::new(Semaphore::new(CALLERS)) }
    }
}
