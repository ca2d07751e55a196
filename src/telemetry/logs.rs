//! Logs: one line an event, JSON or text, on standard error. A line carries ids, never a token or a payload; one that is
//! written while something sampled is done carries the ids of its trace and span.

use std::fmt;
use std::io::{self, Write};

use prometheus::IntCounter;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::traces::{self, TraceContext};

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
        let builder = builder.json().flatten_event(true).with_current_span(true).with_span_list(false);
        builder.map_event_format(|inner| Traced { inner, json }).try_init()
    } else {
        builder.with_ansi(false).map_event_format(|inner| Traced { inner, json }).try_init()
    };
    done.map_err(|error| LogsError::Twice(error.to_string()))
}

/// Lines as they were, and with the ids of what is sampled where they are about that.
struct Traced<F> {
    inner: F,
    json: bool,
}

impl<S, N, F> FormatEvent<S, N> for Traced<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, fields: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(context) = traces::current() else { return self.inner.format_event(fields, writer, event) };
        let mut line = String::new();
        self.inner.format_event(fields, Writer::new(&mut line), event)?;
        writer.write_str(&with_ids(&line, context, self.json))
    }
}

/// A line and the ids.
fn with_ids(line: &str, context: TraceContext, json: bool) -> String {
    let (trace, span) = (context.trace_id(), context.span_id());
    match line.strip_prefix('{').filter(|_| json) {
        Some(rest) => format!(r#"{{"trace_id":"{trace:032x}","span_id":"{span:016x}",{rest}"#),
        None => format!("{} trace_id={trace:032x} span_id={span:016x}\n", line.trim_end()),
    }
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

    /// A buffer that can be looked at.
    #[derive(Clone, Default)]
    struct Kept(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_about_something_sampled_carries_its_ids_and_no_other_does() {
        let kept = Kept::default();
        let to = kept.clone();
        let builder = tracing_subscriber::fmt().with_writer(move || to.clone()).json().flatten_event(true);
        let subscriber = builder.map_event_format(|inner| Traced { inner, json: true }).finish();
        let context = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        tracing::subscriber::with_default(subscriber, || {
            traces::enter(context, || tracing::info!(session = "ff", "sampled"));
            tracing::info!("not sampled");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines[0]["message"].as_str(), lines[0]["session"].as_str()), (Some("sampled"), Some("ff")));
        assert_eq!(lines[0]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(lines[0]["span_id"], "b7ad6b7169203331");
        assert_eq!((lines[1]["message"].as_str(), lines[1].get("trace_id")), (Some("not sampled"), None));
        let line = with_ids("INFO a line\n", context.unwrap(), false);
        assert_eq!(line, "INFO a line trace_id=0af7651916cd43dd8448eb211c80319c span_id=b7ad6b7169203331\n");
    }

    #[test]
    fn a_wrong_filter_is_said_before_anything_is_set_up() {
        let lost = IntCounter::new("lost", "lost").unwrap();
        assert!(matches!(init("tidegate=loud=er", true, lost), Err(LogsError::Filter(_))));
    }
}
