//! A record of the topic of commands, read strictly.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{APPLICATION, Fault};
use crate::commands::{ATTEMPTS, MAX_KEY_BYTES, Submission};
use crate::eventlog::{Content, Fetched};
use crate::id::DeviceKey;
use crate::telemetry::metrics::ReadOutcome;
use crate::telemetry::traces::TraceContext;

/// The header that names a command: CloudEvents' id.
const ID_HEADER: &str = "ce_id";

/// What a value says. A name that is not known may mean something that would not be done: so it is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    name: String,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    ttl_s: u64,
    #[serde(default)]
    max_attempts: Option<u32>,
    #[serde(default)]
    replace: bool,
}

/// A command as a record asks for it.
#[derive(Debug)]
pub(super) struct Order {
    device: DeviceKey,
    key: String,
    name: String,
    params: String,
    ttl_ms: u64,
    max_attempts: u32,
    replace: bool,
    /// The record's time, Unix milliseconds.
    at_ms: Option<i64>,
    /// Its producer's place in a sampled trace: who may command every device may be believed that.
    trace: Option<TraceContext>,
}

impl Order {
    /// Reads a record of a topic.
    pub(super) fn read(record: &Fetched, topic: &str) -> Result<Self, Fault> {
        let device = device(record.key.as_deref())?;
        let value = match &record.value {
            Content::Bytes(value) => value,
            Content::None => return Err(Fault::malformed("it has no value")),
            Content::TooLarge(bytes) => {
                let detail = format!("its value has {bytes} bytes and is left out here: see its origin");
                return Err(Fault { outcome: ReadOutcome::TooLarge, detail });
            }
        };
        let unreadable = |error: serde_json::Error| Fault::malformed(format!("its value cannot be read: {error}"));
        let body: Body<'_> = serde_json::from_slice(value).map_err(unreadable)?;
        let params = body.params.map_or("null", RawValue::get);
        // Not deeper than anybody can read.
        serde_json::from_str::<serde_json::Value>(params).map_err(unreadable)?;
        let ttl_ms = body.ttl_s.checked_mul(1_000).ok_or_else(|| Fault::malformed("ttl_s is too large"))?;
        let order = Self {
            device,
            key: key(record, topic)?,
            name: body.name,
            params: params.to_owned(),
            ttl_ms,
            max_attempts: body.max_attempts.unwrap_or(ATTEMPTS),
            replace: body.replace,
            at_ms: record.timestamp_ms,
            trace: trace(record),
        };
        order.submission(i64::MAX).check().map_err(|error| Fault::malformed(error.to_string()))?;
        Ok(order)
    }

    /// The trace it is to be a part of.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// What is asked of the router. Its time runs from the record's, so that a backlog opens no stale doors; a record
    /// from the future gets no longer for it.
    pub(super) fn submission(&self, now_ms: i64) -> Submission<'_> {
        Submission {
            device: &self.device,
            application: APPLICATION,
            key: &self.key,
            name: &self.name,
            params: self.params.as_bytes(),
            ttl_ms: self.ttl_ms,
            since_ms: self.at_ms.filter(|at_ms| *at_ms < now_ms),
            max_attempts: self.max_attempts,
            replace: self.replace,
            only_epoch: None,
            origin: None,
        }
    }
}

fn device(key: Option<&[u8]>) -> Result<DeviceKey, Fault> {
    let parts = key.and_then(|key| std::str::from_utf8(key).ok()).and_then(|key| key.split_once('/'));
    let device = parts.and_then(|(tenant, device)| DeviceKey::new(tenant, device).ok());
    device.ok_or_else(|| Fault::malformed("its key is not TENANT/DEVICE, two ids"))
}

fn trace(record: &Fetched) -> Option<TraceContext> {
    let (_, text) = record.headers.iter().find(|(name, _)| name == "traceparent")?;
    TraceContext::parse(std::str::from_utf8(text).ok()?).filter(|context| context.is_sampled())
}

/// The command's own name: what the producer gave it, else where it lies.
fn key(record: &Fetched, topic: &str) -> Result<String, Fault> {
    let mut given = record.headers.iter().filter(|(name, _)| name == ID_HEADER).map(|(_, value)| value);
    let Some(id) = given.next() else { return Ok(format!("{topic}-{}-{}", record.partition, record.offset)) };
    if given.next().is_some() {
        return Err(Fault::malformed("it has ce_id more than once"));
    }
    let id = std::str::from_utf8(id).ok().filter(|id| (1..=MAX_KEY_BYTES).contains(&id.len()));
    id.map(str::to_owned).ok_or_else(|| Fault::malformed("its ce_id is not 1 to 256 bytes of UTF-8"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn record(value: &str) -> Fetched {
        Fetched {
            partition: 3,
            offset: 41,
            timestamp_ms: Some(1_000),
            key: Some(b"acme/d1".to_vec()),
            value: Content::Bytes(value.as_bytes().to_vec()),
            headers: Vec::new(),
        }
    }

    const GOOD: &str = r#"{"name":"open","params":{"a":[1.0,"x"]},"ttl_s":60}"#;

    #[test]
    fn a_record_is_the_command_it_says() {
        let read = Order::read(&record(GOOD), "t.commands").unwrap();
        let asked = read.submission(5_000);
        assert_eq!((asked.device.as_str(), asked.application, asked.key), ("acme/d1", "kafka", "t.commands-3-41"));
        assert_eq!((asked.name, asked.params), ("open", br#"{"a":[1.0,"x"]}"#.as_slice()));
        assert_eq!((asked.ttl_ms, asked.since_ms, asked.max_attempts, asked.replace), (60_000, Some(1_000), 5, false));
        assert_eq!(read.submission(999).since_ms, None, "a record from the future lives no longer for it");
        let mut named = record(r#"{"name":"n","ttl_s":1,"max_attempts":1,"replace":true}"#);
        named.headers = vec![("ce_type".into(), b"x".to_vec()), ("ce_id".into(), b"order-7".to_vec())];
        let read = Order::read(&named, "t.commands").unwrap();
        let asked = read.submission(5_000);
        assert_eq!((asked.key, asked.params, asked.max_attempts, asked.replace), ("order-7", &b"null"[..], 1, true));
    }

    #[test]
    fn whatever_could_be_meant_otherwise_is_no_command() {
        let deep = format!(r#"{{"name":"n","ttl_s":1,"params":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"name":"n"}"#,
            r#"{"ttl_s":1}"#,
            r#"{"name":"","ttl_s":1}"#,
            r#"{"name":"n","ttl_s":0}"#,
            r#"{"name":"n","ttl_s":-1}"#,
            r#"{"name":"n","ttl_s":1.5}"#,
            r#"{"name":"n","ttl_s":604801}"#,
            r#"{"name":"n","ttl_s":18446744073709551615}"#,
            r#"{"name":"n","ttl_s":1,"max_attempts":21}"#,
            r#"{"name":"n","ttl_s":1,"wait_s":5}"#,
            r#"{"name":"n","name":"m","ttl_s":1}"#,
            r#"{"name":"n","ttl_s":1} x"#,
            &deep,
        ] {
            let fault = Order::read(&record(bad), "t").expect_err(bad);
            assert_eq!(fault.outcome, ReadOutcome::Malformed, "{bad}");
        }
        for key in [None, Some(""), Some("acme"), Some("acme/"), Some("acme/a/b"), Some("/d1"), Some("a c/d")] {
            let bad = Fetched { key: key.map(|key| key.as_bytes().to_vec()), ..record(GOOD) };
            assert!(Order::read(&bad, "t").is_err(), "{key:?}");
        }
        let header = |value: &[u8]| ("ce_id".to_owned(), value.to_vec());
        for headers in [
            vec![header(b"")],
            vec![header(&[0xff])],
            vec![header(&[b'x'; 257])],
            vec![header(b"a\nb")],
            vec![header(b"a"), header(b"a")],
        ] {
            assert!(Order::read(&Fetched { headers: headers.clone(), ..record(GOOD) }, "t").is_err(), "{headers:?}");
        }
        assert!(Order::read(&Fetched { value: Content::None, ..record(GOOD) }, "t").is_err());
        let large = Order::read(&Fetched { value: Content::TooLarge(9), ..record(GOOD) }, "t").unwrap_err();
        assert_eq!(large.outcome, ReadOutcome::TooLarge);
    }
}
