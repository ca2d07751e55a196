//! Strict reading of one JSON message: every value is walked, a repeated key at any level is noticed, and nothing is
//! built that is not used.
//!
//! A fault of meaning (a repeated key) does not end the walk, so that `seq` and `id` are found wherever they stand.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Containers within containers: what the usual parsers of those who read the records take.
const MAX_DEPTH: u8 = 127;
/// Up to this many keys of an object are compared one by one; more go into a set.
const FEW_KEYS: usize = 16;

/// The value of a field, as far as any field needs it.
#[derive(Debug)]
pub(super) enum Scalar<'a> {
    /// A string.
    Text(Cow<'a, str>),
    /// An integer from 0.
    Unsigned(u64),
    /// A negative integer.
    Signed(i64),
    /// True or false.
    Flag(bool),
    /// Anything else.
    Other,
}

/// The fields of a message that somebody reads.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) kind: Option<Scalar<'a>>,
    pub(super) device_id: Option<Scalar<'a>>,
    pub(super) tenant: Option<Scalar<'a>>,
    pub(super) seq: Option<Scalar<'a>>,
    pub(super) id: Option<Scalar<'a>>,
    pub(super) name: Option<Scalar<'a>>,
    pub(super) timestamp: Option<Scalar<'a>>,
    pub(super) status: Option<Scalar<'a>>,
    pub(super) message: Option<Scalar<'a>>,
    pub(super) token: Option<Scalar<'a>>,
    pub(super) traceparent: Option<Scalar<'a>>,
    pub(super) key: Option<Scalar<'a>>,
    pub(super) ttl_s: Option<Scalar<'a>>,
    pub(super) max_attempts: Option<Scalar<'a>>,
    pub(super) replace: Option<Scalar<'a>>,
    pub(super) has_value: bool,
    pub(super) params: Option<&'a str>,
    pub(super) result: Option<&'a str>,
    /// Some object has one key twice.
    pub(super) repeated_key: bool,
}

impl<'a> Fields<'a> {
    fn slot(&mut self, name: &str) -> Option<&mut Option<Scalar<'a>>> {
        match name {
            "type" => Some(&mut self.kind),
            "device_id" => Some(&mut self.device_id),
            "tenant" => Some(&mut self.tenant),
            "seq" => Some(&mut self.seq),
            "id" => Some(&mut self.id),
            "name" => Some(&mut self.name),
            "timestamp" => Some(&mut self.timestamp),
            "status" => Some(&mut self.status),
            "message" => Some(&mut self.message),
            "token" => Some(&mut self.token),
            "traceparent" => Some(&mut self.traceparent),
            "key" => Some(&mut self.key),
            "ttl_s" => Some(&mut self.ttl_s),
            "max_attempts" => Some(&mut self.max_attempts),
            "replace" => Some(&mut self.replace),
            _ => None,
        }
    }

    fn keep(&mut self, name: &str, value: Scalar<'a>) {
        let Some(slot) = self.slot(name) else { return };
        if slot.is_some() {
            // Which of the two was meant nobody knows, so neither is given back in a refusal.
            *slot = Some(Scalar::Other);
            self.repeated_key = true;
        } else {
            *slot = Some(value);
        }
    }
}

/// Walks the whole of `text`, which must be one object, into `fields`.
///
/// # Errors
/// The parser's, for what is no JSON, too deep, or a number outside the range of a double.
pub(super) fn walk<'a>(text: &'a str, fields: &mut Fields<'a>) -> Result<(), serde_json::Error> {
    let mut input = serde_json::Deserializer::from_str(text);
    Message { fields }.deserialize(&mut input)?;
    input.end()
}

/// Finds `seq` and `id` at the top level of a faulty message, as far as its syntax holds.
pub(super) fn salvage<'a>(text: &'a str, fields: &mut Fields<'a>) {
    let mut input = serde_json::Deserializer::from_str(text);
    // What was found before the break is all there is; the fault itself is reported by who called.
    drop(Salvage { fields }.deserialize(&mut input));
}

struct Message<'f, 'de> {
    fields: &'f mut Fields<'de>,
}

impl<'de> DeserializeSeed<'de> for Message<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let fields = self.fields;
        let mut keys = Keys::default();
        let mut many = None;
        while let Some(key) = map.next_key_seed(Key)? {
            let known = fields.slot(&key).is_some();
            if known {
                let value = map.next_value_seed(Walk { keys: &mut keys, depth: 1, keep: true })?;
                fields.keep(&key, value);
            } else if key == "value" {
                fields.repeated_key |= fields.has_value;
                fields.has_value = true;
                map.next_value_seed(Walk { keys: &mut keys, depth: 1, keep: false })?;
            } else if key == "result" || key == "params" {
                let raw = map.next_value::<&'de RawValue>()?.get();
                let slot = if key == "result" { &mut fields.result } else { &mut fields.params };
                fields.repeated_key |= slot.is_some();
                *slot = Some(raw);
                let mut input = serde_json::Deserializer::from_str(raw);
                Walk { keys: &mut keys, depth: 1, keep: false }.deserialize(&mut input).map_err(A::Error::custom)?;
            } else {
                keys.enter(0, &mut many, key);
                map.next_value_seed(Walk { keys: &mut keys, depth: 1, keep: false })?;
            }
        }
        fields.repeated_key |= keys.repeated;
        Ok(())
    }
}

/// The keys of the objects that are open, innermost last.
#[derive(Default)]
struct Keys<'de> {
    open: Vec<Cow<'de, str>>,
    repeated: bool,
}

impl<'de> Keys<'de> {
    fn enter(&mut self, base: usize, many: &mut Option<HashSet<Cow<'de, str>>>, key: Cow<'de, str>) {
        if let Some(set) = many {
            self.repeated |= !set.insert(key);
        } else if self.open[base..].contains(&key) {
            self.repeated = true;
        } else if self.open.len() - base < FEW_KEYS {
            self.open.push(key);
        } else {
            let mut set: HashSet<_> = self.open.drain(base..).collect();
            set.insert(key);
            *many = Some(set);
        }
    }
}

struct Walk<'k, 'de> {
    keys: &'k mut Keys<'de>,
    depth: u8,
    keep: bool,
}

impl<'de> Walk<'_, 'de> {
    fn deeper<E: serde::de::Error>(&self) -> Result<u8, E> {
        if self.depth < MAX_DEPTH { Ok(self.depth + 1) } else { Err(E::custom("nested too deeply")) }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, 'de> {
    type Value = Scalar<'de>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Scalar<'de>, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, 'de> {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Flag(flag))
    }

    fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Other)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Signed(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Unsigned(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar<'de>, E> {
        Ok(if self.keep { Scalar::Text(Cow::Owned(text.to_owned())) } else { Scalar::Other })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar<'de>, A::Error> {
        let depth = self.deeper()?;
        while seq.next_element_seed(Walk { keys: &mut *self.keys, depth, keep: false })?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar<'de>, A::Error> {
        let depth = self.deeper()?;
        let base = self.keys.open.len();
        let mut many = None;
        while let Some(key) = map.next_key_seed(Key)? {
            self.keys.enter(base, &mut many, key);
            map.next_value_seed(Walk { keys: &mut *self.keys, depth, keep: false })?;
        }
        self.keys.open.truncate(base);
        Ok(Scalar::Other)
    }
}

/// An object's key, borrowed where it holds no escape.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Cow<'de, str>, D::Error> {
        input.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

struct Salvage<'f, 'de> {
    fields: &'f mut Fields<'de>,
}

impl<'de> DeserializeSeed<'de> for Salvage<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Salvage<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key)? {
            if key != "seq" && key != "id" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw = map.next_value::<&'de RawValue>()?.get();
            let value = if let Ok(number) = serde_json::from_str::<u64>(raw) {
                Scalar::Unsigned(number)
            } else if let Ok(text) = serde_json::from_str::<String>(raw) {
                Scalar::Text(Cow::Owned(text))
            } else {
                Scalar::Other
            };
            self.fields.keep(&key, value);
        }
        Ok(())
    }
}
