//! The configuration as people read it: its schema, its commented default, and what is in force with secrets masked.
//! All three come from the fields and their documentation, so they cannot drift from the code.

use std::fmt::Write as _;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Config;

const MASK: &str = "********";
/// Sections in the order in which they are explained.
pub(super) const SECTIONS: [&str; 12] = [
    "node",
    "public",
    "api",
    "internal",
    "peer",
    "auth",
    "kafka",
    "redis",
    "limits",
    "drain",
    "rebalance",
    "telemetry",
];

/// The JSON Schema (2020-12) of the configuration file.
pub fn json_schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Config>().to_value()
}

/// Every `section.key` there is.
pub(super) fn known_keys() -> Vec<String> {
    let schema = json_schema();
    let keys = |section: &'static str| properties(&schema, section).map(move |(key, _)| format!("{section}.{key}"));
    SECTIONS.into_iter().flat_map(keys).collect()
}

fn properties<'a>(schema: &'a Value, section: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let found = schema.pointer(&format!("/properties/{section}/properties")).and_then(Value::as_object);
    found.into_iter().flatten()
}

/// The default configuration as TOML, every key with its explanation.
pub fn default_toml() -> String {
    let schema = json_schema();
    let mut out = String::from(
        "# The configuration of a Tidegate node, with every key at its default.\n\
         # Each is also read from TIDEGATE_SECTION__KEY, or from the file that TIDEGATE_SECTION__KEY_FILE names.\n\
         # There lists are written with commas, auth.issuers as JSON, and a property `linger.ms` of librdkafka as\n\
         # TIDEGATE_KAFKA__PROPERTIES__LINGER_MS.\n",
    );
    let config = serde_json::to_value(Config::default()).unwrap_or_default();
    for section in SECTIONS {
        let described = |key: &str| schema.pointer(&format!("/properties/{section}/properties/{key}/description"));
        out.push('\n');
        comment(&mut out, schema.pointer(&format!("/properties/{section}/description")));
        let _ = writeln!(out, "[{section}]");
        let values = config.get(section);
        let (tables, plain): (Vec<_>, Vec<_>) = properties(&schema, section)
            .map(|(key, _)| (key, values.and_then(|v| v.get(key)).unwrap_or(&Value::Null)))
            .partition(|(_, value)| value.is_object());
        for (key, value) in plain {
            comment(&mut out, described(key));
            let _ = match toml_text(value) {
                Some(text) => writeln!(out, "{key} = {text}"),
                None => writeln!(out, "# {key} ="),
            };
        }
        for (key, value) in tables {
            comment(&mut out, described(key));
            let _ = writeln!(out, "[{section}.{key}]");
            for (name, value) in value.as_object().into_iter().flatten() {
                let _ = writeln!(out, "{:?} = {}", name, toml_text(value).unwrap_or_default());
            }
        }
    }
    out
}

/// The configuration in force as TOML, secrets masked.
pub fn effective_toml(config: &Config) -> String {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    mask(&mut value);
    without_nulls(&mut value);
    toml::to_string_pretty(&value).unwrap_or_default()
}

fn comment(out: &mut String, description: Option<&Value>) {
    for line in description.and_then(Value::as_str).unwrap_or_default().lines() {
        let _ = writeln!(out, "# {line}");
    }
}

/// A value in TOML's spelling; nothing where TOML has none.
fn toml_text(value: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    toml::Value::try_from(value).ok().map(|value| value.to_string())
}

/// Whether a key's value is a secret, by its name.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let words = ["password", "passphrase", "secret", "credential", "jaas"];
    words.iter().any(|word| key.contains(word)) || key.ends_with(".pem") || key == "sasl.oauthbearer.config"
}

/// Whether there may be a secret in a key's value: in itself, in a URL, in a key set, among librdkafka's properties.
pub(super) fn may_hold_a_secret(key: &str) -> bool {
    let holds = ["redis.urls", "auth.jwks", "auth.issuers"].contains(&key) || key.starts_with("kafka.properties");
    holds || is_secret(key)
}

/// Masks what must not be seen: passwords, librdkafka's secret properties, a JWKS given inline (it can hold a shared
/// secret) and the user part of URLs.
fn mask(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| match value {
            Value::String(text) if text.is_empty() => {}
            Value::String(text) if is_secret(key) || (key == "jwks" && text.trim_start().starts_with('{')) => {
                *text = MASK.into();
            }
            other => mask(other),
        }),
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::String(text) => {
            if let (Some(scheme), Some(at)) = (text.find("://"), text.rfind('@'))
                && scheme < at
            {
                text.replace_range(scheme + 3..at, MASK);
            }
        }
        _ => {}
    }
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}
