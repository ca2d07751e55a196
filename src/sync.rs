//! The one way to a mutex.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for the mutex, also where somebody panicked under it: nothing that runs under a lock here stops half-way through
/// a change, so what was left behind is as good as any.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
