//! What a record says beside its value: the CloudEvents headers, as both logs write them.

use std::cell::Cell;

use super::record::{Kind, Record};

/// A device's clock may be this far behind the receipt, in milliseconds: it buffered while it was offline.
const PAST_MS: i64 = 30 * 24 * 3_600_000;
/// And this far ahead, in milliseconds.
const FUTURE_MS: i64 = 3_600_000;
/// 9999-12-31T23:59:59.999Z, the last moment RFC 3339 can name, in Unix milliseconds.
const LAST_MS: i64 = 253_402_300_799_999;

/// How many headers a record has at most.
pub(super) const MAX_HEADERS: usize = 10;

/// Hands out every header of `record`, in the order they are stored.
pub(super) fn headers(record: &Record<'_>, mut add: impl FnMut(&'static str, &[u8])) {
    let mut text = Text::new();
    let received = Moment::of(record.received_ms);
    add("ce_specversion", b"1.0");
    text.event_id(record);
    add("ce_id", text.take());
    text.push(b"/tidegate/");
    text.push(record.key.as_str().as_bytes());
    add("ce_source", text.take());
    add("ce_type", record.event_type().as_bytes());
    let claimed = record.timestamp_ms;
    let believed = claimed.filter(|claim| is_believable(*claim, record.received_ms));
    match believed {
        Some(claim) => add("ce_time", &Moment::of(claim).0),
        None => add("ce_time", &received.0),
    }
    if claimed.is_some() && believed.is_none() {
        add("tg_clock_suspect", b"true");
    }
    add("tg_received_at", &received.0);
    add("tg_epoch", itoa::Buffer::new().format(record.epoch.0).as_bytes());
    add("content-type", b"application/json");
    if let Some(trace) = record.traceparent {
        add("traceparent", trace.as_bytes());
    }
}

/// A record's `ce_id`; nothing of a report without `seq`, whose id is drawn when it is written.
#[cfg(feature = "kafka")]
pub(super) fn event_id(record: &Record<'_>) -> Option<String> {
    let mut text = Text::new();
    let is_drawn = record.kind == Kind::Report && record.seq.is_none();
    text.event_id(record);
    (!is_drawn).then(|| String::from_utf8_lossy(text.take()).into_owned())
}

/// Hands out every header of a probe made at `now_ms`. It goes to the topic `status` under a key that is no device's (it
/// begins with a slash).
#[cfg(feature = "kafka")]
pub(super) fn probe_headers(now_ms: i64, mut add: impl FnMut(&'static str, &[u8])) {
    let now = Moment::of(now_ms);
    let mut id = [b'0'; 16];
    hex(fastrand::u64(..), &mut id);
    add("ce_specversion", b"1.0");
    add("ce_id", &id);
    add("ce_source", b"/tidegate");
    add("ce_type", b"tidegate.probe.v1");
    add("ce_time", &now.0);
    add("content-type", b"application/json");
}

fn is_believable(claim_ms: i64, received_ms: i64) -> bool {
    let behind = received_ms.saturating_sub(claim_ms);
    (-FUTURE_MS..=PAST_MS).contains(&behind)
}

/// Room on the stack for the longest header: `/tidegate/` and two ids of 128 with a slash between.
struct Text {
    bytes: [u8; 288],
    len: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; 288], len: 0 }
    }

    /// Adds `more`. The types of what goes in are bounded, so it always fits.
    fn push(&mut self, more: &[u8]) {
        let end = self.len + more.len();
        debug_assert!(end <= self.bytes.len(), "a header longer than its parts allow");
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(more);
            self.len = end;
        }
    }

    fn event_id(&mut self, record: &Record<'_>) {
        let (first, state) = match record.kind {
            Kind::Report => return self.report_id(record),
            Kind::Online => (record.epoch.0, &b":online"[..]),
            Kind::Offline => (record.epoch.0, &b":offline"[..]),
            Kind::Command { id, version } => {
                self.push(id.to_string().as_bytes());
                self.push(b":");
                (u64::from(version), &b""[..])
            }
        };
        self.push(itoa::Buffer::new().format(first).as_bytes());
        self.push(state);
    }

    fn report_id(&mut self, record: &Record<'_>) {
        self.push(record.boot.as_str().as_bytes());
        self.push(b":");
        match record.seq {
            Some(seq) => self.push(itoa::Buffer::new().format(seq).as_bytes()),
            None => {
                let mut digits = [b'0'; 16];
                hex(fastrand::u64(..), &mut digits);
                self.push(b"-");
                self.push(&digits);
            }
        }
    }

    /// The text so far; the next `push` begins anew.
    fn take(&mut self) -> &[u8] {
        let len = std::mem::take(&mut self.len);
        self.bytes.get(..len).unwrap_or_default()
    }
}

fn hex(mut value: u64, digits: &mut [u8; 16]) {
    for digit in digits.iter_mut().rev() {
        let nibble = (value & 15) as u8;
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        value >>= 4;
    }
}

/// `2025-05-29T12:45:00.000Z`.
struct Moment([u8; 24]);

thread_local! {
    /// The last second that was written out: most records of a second need only their milliseconds.
    static LAST: Cell<(i64, [u8; 24])> = const { Cell::new((i64::MIN, [0; 24])) };
}

impl Moment {
    /// Unix milliseconds as RFC 3339 in UTC; what lies outside the years 1970 to 9999 becomes the nearest end.
    fn of(unix_ms: i64) -> Self {
        let unix_ms = unix_ms.clamp(0, LAST_MS);
        let (second, ms) = (unix_ms / 1000, unix_ms % 1000);
        let (last, mut text) = LAST.get();
        if last != second {
            text = write_second(second);
            LAST.set((second, text));
        }
        put(&mut text, 20, 3, ms);
        Self(text)
    }
}

fn write_second(second: i64) -> [u8; 24] {
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let (year, month, day) = civil(second / 86_400);
    let of_day = second % 86_400;
    put(&mut text, 0, 4, year);
    put(&mut text, 5, 2, month);
    put(&mut text, 8, 2, day);
    put(&mut text, 11, 2, of_day / 3_600);
    put(&mut text, 14, 2, of_day / 60 % 60);
    put(&mut text, 17, 2, of_day % 60);
    text
}

/// Year, month and day of a count of days since 1970-01-01 (not negative). Years are counted from March, so that the
/// leap day is a year's last and months have a formula; 400 years are 146,097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

fn put(text: &mut [u8; 24], at: usize, digits: usize, mut value: i64) {
    for digit in text.iter_mut().skip(at).take(digits).rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::eventlog::Topic;
    use crate::id::{Boot, DeviceKey, Epoch};

    fn text(ms: i64) -> String {
        String::from_utf8(Moment::of(ms).0.to_vec()).unwrap()
    }

    fn of(record: &Record<'_>) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        headers(record, |name, value| all.push((name, String::from_utf8(value.to_vec()).unwrap())));
        all
    }

    fn value<'a>(all: &'a [(&'static str, String)], name: &str) -> Option<&'a str> {
        all.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn moments_are_rfc_3339() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(1_748_522_700_000), "2025-05-29T12:45:00.000Z");
        assert_eq!(text(1_748_522_700_007), "2025-05-29T12:45:00.007Z");
        assert_eq!(text(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(text(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(text(LAST_MS), "9999-12-31T23:59:59.999Z");
        assert_eq!((text(-5), text(i64::MAX)), (text(0), text(LAST_MS)));
    }

    #[test]
    fn every_day_of_four_centuries_agrees_with_another_calendar() {
        for day in 0..146_097 {
            let other = time::OffsetDateTime::from_unix_timestamp(day * 86_400).unwrap();
            let expected = (i64::from(other.year()), i64::from(u8::from(other.month())), i64::from(other.day()));
            assert_eq!(civil(day), expected);
        }
    }

    #[test]
    fn a_record_carries_what_the_protocol_lists() {
        let (key, boot) = (DeviceKey::new("acme", "sensor-001").unwrap(), Boot::new("b1").unwrap());
        let record = Record {
            topic: Topic::Telemetry,
            kind: Kind::Report,
            key: &key,
            boot: &boot,
            seq: Some(7),
            timestamp_ms: Some(1_748_522_700_000),
            received_ms: 1_748_522_701_234,
            epoch: Epoch(9),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            value: b"{}",
        };
        let expected = [
            ("ce_specversion", "1.0"),
            ("ce_id", "b1:7"),
            ("ce_source", "/tidegate/acme/sensor-001"),
            ("ce_type", "tidegate.update.v1"),
            ("ce_time", "2025-05-29T12:45:00.000Z"),
            ("tg_received_at", "2025-05-29T12:45:01.234Z"),
            ("tg_epoch", "9"),
            ("content-type", "application/json"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ];
        assert_eq!(of(&record), expected.map(|(name, value)| (name, value.to_owned())));
        let fresh = of(&Record { seq: None, ..record.clone() });
        let id = crate::id::CommandId::of(&key, "console", "k1");
        let command = Kind::Command { id, version: 3 };
        let changed = of(&Record { seq: None, kind: command, topic: Topic::CommandEvents, ..record.clone() });
        assert_eq!(value(&changed, "ce_id"), Some("6569b1128f2de97997906fcaf49c3cf0:3"));
        assert_eq!(value(&changed, "ce_type"), Some("tidegate.command.v1"));
        let gone = of(&Record { seq: None, kind: Kind::Offline, topic: Topic::Status, ..record.clone() });
        let presence = (value(&gone, "ce_id"), value(&gone, "ce_type"));
        assert_eq!(presence, (Some("9:offline"), Some("tidegate.presence.v1")));
        let id = value(&fresh, "ce_id").unwrap().strip_prefix("b1:-").unwrap();
        assert!(id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    }

    #[test]
    fn a_clock_that_cannot_be_right_is_marked_and_ours_is_taken() {
        let (key, boot) = (DeviceKey::new("t", "d").unwrap(), Boot::new("b").unwrap());
        let received_ms = 1_748_522_700_000;
        let with = |timestamp_ms| {
            let all = of(&Record {
                topic: Topic::Status,
                kind: Kind::Report,
                key: &key,
                boot: &boot,
                seq: Some(1),
                timestamp_ms,
                received_ms,
                epoch: Epoch(1),
                traceparent: None,
                value: b"{}",
            });
            let ours = value(&all, "ce_time") == value(&all, "tg_received_at");
            (ours, value(&all, "tg_clock_suspect").map(str::to_owned))
        };
        let suspect = (true, Some("true".to_owned()));
        assert_eq!(with(None), (true, None));
        assert_eq!(with(Some(received_ms - PAST_MS)), (false, None));
        assert_eq!(with(Some(received_ms - PAST_MS - 1)), suspect);
        assert_eq!(with(Some(received_ms + FUTURE_MS)), (false, None));
        assert_eq!(with(Some(received_ms + FUTURE_MS + 1)), suspect);
        assert_eq!(with(Some(i64::MIN)), suspect);
        assert_eq!(with(Some(i64::MAX)), suspect);
    }

    #[test]
    fn the_longest_names_fit() {
        let long = "x".repeat(128);
        let (key, boot) = (DeviceKey::new(&long, &long).unwrap(), Boot::new(&"b".repeat(64)).unwrap());
        let all = of(&Record {
            topic: Topic::Telemetry,
            kind: Kind::Report,
            key: &key,
            boot: &boot,
            seq: Some(crate::id::MAX_SEQ),
            timestamp_ms: None,
            received_ms: 0,
            epoch: Epoch(u64::MAX),
            traceparent: None,
            value: b"",
        });
        assert_eq!(value(&all, "ce_source").unwrap(), format!("/tidegate/{long}/{long}"));
        assert_eq!(value(&all, "ce_id").unwrap(), format!("{}:9007199254740991", "b".repeat(64)));
    }
}
