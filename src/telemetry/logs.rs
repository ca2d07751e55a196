//! Logs: one line an event, JSON or text, on standard error. A line carries ids, never a token or a payload.

use std::io::{self, Write};

use prometheus::IntCounter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The filter is not one.
    #[error("`telemetry.log` is no log filter ({0}); `info` or `info,tidegate=debug` are")]
    Filter(String),
    /// Logging was set up before.
    #[error("logging is set up already: {0}")]
    Twice(String),
}

/// Begins to log what passes `filter`, as JSON with UTC timestamps or as text. Lines that cannot be written (the disk
/// behind standard error is full) are counted in `lost`, and the service goes on.
///
/// # Errors
/// [`LogsError`].
pub fn init(filter: &str, json: bool, lost: IntCounter) -> Result<(), LogsError> {
    let filter = EnvFilter::try_new(filter).map_err(|error| LogsError::Filter(error.to_string()))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Stderr { lost });
    let done = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        builder.with_ansi(false).try_init()
    };
    done.map_err(|error| LogsError::Twice(error.to_string()))
}

/// Standard error, with a count of what it did not take.
struct Stderr {
    lost: IntCounter,
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Counting<'a, io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        Counting { inner: io::stderr(), lost: &self.lost }
    }
}

/// Writes through, and turns a failure into a count: whoever logs has no use for the error.
struct Counting<'a, W> {
    inner: W,
    lost: &'a IntCounter,
}

impl<W: Write> Write for Counting<'_, W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.inner.write_all(line).is_err() {
            self.lost.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A disk without room.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_costs_a_count_and_nothing_else() {
        let lost = IntCounter::new("lost", "lost").unwrap();
        assert_eq!(Counting { inner: Full, lost: &lost }.write(b"line\n").unwrap(), 5);
        assert_eq!(lost.get(), 1);
        let mut kept = Vec::new();
        Counting { inner: &mut kept, lost: &lost }.write_all(b"line\n").unwrap();
        assert_eq!((kept.as_slice(), lost.get()), (&b"line\n"[..], 1));
    }

    #[test]
    fn a_wrong_filter_is_said_before_anything_is_set_up() {
        let lost = IntCounter::new("lost", "lost").unwrap();
        assert!(matches!(init("tidegate=loud=er", true, lost), Err(LogsError::Filter(_))));
    }
}
