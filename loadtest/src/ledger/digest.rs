//! What an update says, in 64 bits that do not depend on how it was written: the order of keys, blanks, escapes and the
//! spelling of numbers (`1.0`, `1`, `1e0`) are nothing, so that JSON, CBOR and Protobuf come to one.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const OTHER: u64 = 0xd6e8_feb8_6659_fd93;
/// What tells one kind of value from another.
const NULL: u64 = 1;
const BOOL: u64 = 2;
const POSITIVE: u64 = 3;
const NEGATIVE: u64 = 4;
const FRACTION: u64 = 5;
const TEXT: u64 = 6;
const ARRAY: u64 = 7;
const OBJECT: u64 = 8;
const NOT_JSON: u64 = 9;
const NOTHING: u64 = 10;
/// Below it, a double without a fraction is an integer of 64 bits.
const INTEGERS: f64 = 9_223_372_036_854_775_808.0;

/// The digest of an update: `kind` is its `type` (`update`, `status`, or `<name>_update`, which is `update` with that
/// name), `value` JSON text. It is the same in every process of one version, and costs well under a microsecond.
pub fn digest(kind: &str, name: Option<&str>, value: &str, timestamp_ms: Option<i64>) -> u64 {
    let (kind, name) = match (kind.strip_suffix("_update"), name) {
        (Some(short), None) => ("update", Some(short)),
        _ => (kind, name),
    };
    let moment = timestamp_ms.map_or(NOTHING, |ms| fold(NEGATIVE, ms as u64));
    let named = fold(text(kind), name.map_or(NOTHING, text));
    fold(fold(named, moment), of_json(value))
}

/// The digest of any JSON text; of text that is no JSON, that of its bytes.
pub(super) fn of_json(value: &str) -> u64 {
    let mut input = serde_json::Deserializer::from_str(value);
    let read = Hash.deserialize(&mut input).and_then(|hash| input.end().map(|()| hash));
    read.unwrap_or_else(|_| fold(NOT_JSON, text(value)))
}

/// A message as a record's value holds it.
pub(super) struct Message<'a> {
    /// Its number, where it has one.
    pub(super) seq: Option<u64>,
    /// The device it names.
    pub(super) device_id: Option<Cow<'a, str>>,
    /// `update` or `status`, or what else stands there.
    pub(super) kind: Cow<'a, str>,
    /// What it says.
    pub(super) digest: u64,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    device_id: Option<Cow<'a, str>>,
    seq: Option<u64>,
}

impl<'a> Message<'a> {
    /// Reads a record's value; none where it is no message.
    pub(super) fn read(value: &'a [u8]) -> Option<Self> {
        let fields: Fields<'a> = serde_json::from_slice(value).ok()?;
        // `null` is a value like any other; without one there is nothing to compare.
        let value = fields.value.map_or("null", RawValue::get);
        let timestamp_ms = match fields.timestamp {
            None => None,
            Some(raw) => Some(unix_ms(raw.get())?),
        };
        let digest = digest(&fields.kind, fields.name.as_deref(), value, timestamp_ms);
        let kind = if fields.kind.ends_with("_update") { "update".into() } else { fields.kind };
        Some(Self { seq: fields.seq, device_id: fields.device_id, kind, digest })
    }
}

/// A timestamp as the protocol has it: Unix milliseconds, or RFC 3339.
fn unix_ms(json: &str) -> Option<i64> {
    if let Ok(ms) = json.parse() {
        return Some(ms);
    }
    let text: Cow<'_, str> = serde_json::from_str(json).ok()?;
    let moment = OffsetDateTime::parse(&text, &Rfc3339).ok()?;
    i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

/// Two words into one: the halves of their product.
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ SEED) * u128::from(b ^ OTHER);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Of text.
pub(super) fn text(text: &str) -> u64 {
    bytes(text.as_bytes())
}

/// Of bytes.
pub(super) fn bytes(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let start = fold(TEXT, bytes.len() as u64);
    let hash = words.iter().fold(start, |hash, word| fold(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(hash, u64::from_le_bytes(last))
}

/// Reads a value and keeps nothing of it but its hash.
struct Hash;

impl<'de> DeserializeSeed<'de> for Hash {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<u64, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Hash {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<u64, E> {
        Ok(fold(NULL, 0))
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<u64, E> {
        Ok(fold(BOOL, u64::from(flag)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        Ok(fold(POSITIVE, number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        Ok(u64::try_from(number).map_or(fold(NEGATIVE, number as u64), |number| fold(POSITIVE, number)))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<u64, E> {
        if number.fract() == 0.0 && number.abs() < INTEGERS {
            return self.visit_i64(number as i64);
        }
        Ok(fold(FRACTION, number.to_bits()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<u64, E> {
        Ok(text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<u64, A::Error> {
        let mut hash = ARRAY;
        while let Some(item) = items.next_element_seed(Hash)? {
            hash = fold(hash, item);
        }
        Ok(fold(hash, ARRAY))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<u64, A::Error> {
        // A sum, so that the order of keys is nothing.
        let mut sum = 0_u64;
        while let Some((key, value)) = members.next_entry_seed(Hash, Hash)? {
            sum = sum.wrapping_add(fold(key, value));
        }
        Ok(fold(OBJECT, sum))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use tidegate::protocol::client::ClientMessage;
    use tidegate::protocol::message::DeviceMessage;
    use tidegate::protocol::{CodecLimits, Encoding, read_frame};

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (-1000_i32..1000).prop_map(|number| Value::from(f64::from(number) / 10.0)),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".{0,8}", inner, 0..6)
                    .prop_map(|members| Value::from_iter(members.into_iter().collect::<Vec<_>>())),
            ]
        })
    }

    /// The value of the record that the gateway makes of a frame with one message.
    fn record_of(message: &ClientMessage, encoding: Encoding) -> Vec<u8> {
        let (mut frame, mut record) = (Vec::new(), Vec::new());
        message.encode(encoding, &mut frame);
        let limits = CodecLimits { message_bytes: 65_536, batch_items: 1 };
        read_frame(encoding, &frame, limits, 0, &mut |_, item| {
            match item.unwrap() {
                DeviceMessage::Report(report) => record.extend_from_slice(&report.json),
                other => panic!("{other:?}"),
            }
            true
        });
        record
    }

    proptest! {
        #[test]
        fn an_update_has_one_digest_in_every_encoding(value in any_value(), named: bool, moment: i32, status: bool) {
            let (name, moment) = (named.then_some("climate"), moment.checked_abs().map(i64::from));
            let kind = if status { "status" } else { "update" };
            let mut message = ClientMessage::of_type(kind).seq(7).value(value.clone());
            if let Some(name) = name {
                message = message.name(name);
            }
            if let Some(ms) = moment {
                message = message.timestamp(ms);
            }
            let sent = digest(kind, name, &value.to_string(), moment);
            for encoding in [Encoding::Json, Encoding::Cbor, Encoding::Protobuf] {
                let record = record_of(&message, encoding);
                let read = Message::read(&record).unwrap();
                prop_assert_eq!((read.seq, read.digest), (Some(7), sent), "{:?}", String::from_utf8_lossy(&record));
            }
        }
    }

    #[test]
    fn the_spelling_of_a_value_is_nothing() {
        let same = [
            (r#"{"a":1,"b":[2,3]}"#, r#" { "b" : [2, 3], "a" : 1.0 } "#),
            ("1e2", "100"),
            ("-0", "0.0"),
            ("23.50", "23.5"),
            ("-7", "-7.0"),
            ("1e17", "100000000000000000"),
            (r#""é""#, r#""\u00e9""#),
        ];
        for (one, other) in same {
            assert_eq!(of_json(one), of_json(other), "{one} {other}");
        }
    }

    #[test]
    fn whatever_a_value_says_counts() {
        let unlike = [
            "null",
            "true",
            "false",
            "0",
            "1",
            "-1",
            "0.1",
            "9007199254740993",
            "9007199254740992",
            r#""""#,
            r#""1""#,
            r#""null""#,
            "[]",
            "[[]]",
            "[1]",
            "[1,2]",
            "[2,1]",
            "{}",
            r#"{"a":1}"#,
            r#"{"a":2}"#,
            r#"{"b":1}"#,
            r#"{"a":1,"b":2}"#,
            r#"{"a":2,"b":1}"#,
            r#"{"a":{"b":1}}"#,
            "[{}]",
            r#""aaaaaaaa""#,
            r#""aaaaaaaa\u0000""#,
            "no json",
            "1 2",
        ];
        for (place, one) in unlike.iter().enumerate() {
            for other in &unlike[..place] {
                assert_ne!(of_json(one), of_json(other), "{one} {other}");
            }
        }
    }

    #[test]
    fn type_name_and_time_count_and_a_short_type_is_its_name() {
        let plain = digest("update", None, "1", None);
        assert_ne!(plain, digest("status", None, "1", None));
        assert_ne!(plain, digest("update", Some("x"), "1", None));
        assert_ne!(plain, digest("update", None, "1", Some(1)));
        assert_eq!(digest("x_update", None, "1", None), digest("update", Some("x"), "1", None));
    }

    #[test]
    fn a_record_has_the_digest_of_the_update_it_holds() {
        let read = |text: &'static str| Message::read(text.as_bytes()).map(|message| message.digest);
        let sent = digest("update", Some("t"), "23.5", Some(1_748_522_700_000));
        let as_json = r#"{"type":"update","seq":7,"name":"t","value":23.50,"timestamp":"2025-05-29T12:45:00Z"}"#;
        assert_eq!(read(as_json), Some(sent));
        let as_cbor = r#"{"name":"t","seq":7,"timestamp":1748522700000,"type":"update","value":23.5}"#;
        assert_eq!(read(as_cbor), Some(sent));
        let with_zone = r#"{"type":"t_update","value":23.5,"timestamp":"2025-05-29T14:45:00.000+02:00"}"#;
        assert_eq!(read(with_zone), Some(sent));
        assert!(read(r#"{"type":"update","value":23.5,"timestamp":"soon"}"#).is_none());
        assert!(read("[]").is_none());
        assert_eq!(Message::read(as_json.as_bytes()).unwrap().seq, Some(7));
    }
}
