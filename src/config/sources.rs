//! Reading the file and the environment key by key, so that one mistake does not hide the next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::error::Kind;
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use toml::de::DeTable;

use super::describe::{SECTIONS, is_secret, known_keys, may_hold_a_secret};
use super::suggest::{nearest, unknown};
use super::{Config, Mistake};

const PREFIX: &str = "TIDEGATE_";
/// The one key that is a table of free names, which themselves have dots.
const TABLE: &str = "kafka.properties";
/// librdkafka's only property with an underscore that a text can set.
const WITH_UNDERSCORE: &str = "log_level";
/// The key whose file is read again later, at every connect.
const READ_AGAIN: &str = "redis.password";
/// The source of mistakes that hide the whole file.
pub(super) const WHOLE_FILE: &str = "the configuration file";

/// What could be read, and what could not.
pub(super) struct Read {
    /// The configuration, defaults where a value was wrong.
    pub(super) config: Config,
    /// Every mistake.
    pub(super) mistakes: Vec<Mistake>,
    /// Where each key that was set came from.
    pub(super) sources: BTreeMap<String, String>,
}

/// One key that was set. `candidates` are the readings of its text, most literal first: in the environment everything
/// is text, and a password `12345` must stay one where a port is a number.
struct Setting {
    key: String,
    candidates: Vec<Value>,
    source: String,
    /// The file that held the value, where the environment named one.
    file: Option<PathBuf>,
}

impl Setting {
    /// What is merged for one candidate, and under which key.
    fn place<'a>(&'a self, candidate: &Value) -> (&'a str, Value) {
        match property(&self.key) {
            Some(name) => (TABLE, Value::from(Dict::from([(name.to_owned(), candidate.clone())]))),
            None => (&self.key, candidate.clone()),
        }
    }
}

/// The name of a property of librdkafka.
fn property(key: &str) -> Option<&str> {
    key.strip_prefix(TABLE)?.strip_prefix('.').filter(|name| !name.is_empty())
}

fn is_known(key: &str, known: &[String]) -> bool {
    property(key).is_some() || known.iter().any(|name| name == key)
}

/// Reads both. Later settings win.
pub(super) fn read(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Read {
    let known = known_keys();
    let mut mistakes = Vec::new();
    let mut settings = file.map(|path| from_file(path, &mut mistakes)).unwrap_or_default();
    settings.extend(from_env(env, &known, &mut mistakes));

    let mut sources = BTreeMap::new();
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    let mut password_file = None;
    for setting in settings {
        let outcome = match is_known(&setting.key, &known) {
            true => accept(&figment, &setting),
            false => Err(unknown(&setting.key, &known, &SECTIONS)),
        };
        match outcome {
            Ok(next) => {
                figment = next;
                if setting.key == READ_AGAIN {
                    password_file = setting.file;
                }
                sources.insert(setting.key, setting.source);
            }
            Err(text) => mistakes.push(Mistake { key: setting.key, text, source: setting.source }),
        }
    }
    let mut config: Config = figment.extract().unwrap_or_default();
    config.redis.password_file = password_file;
    Read { config, mistakes, sources }
}

/// The figment with the first reading of the setting that fits its type.
fn accept(figment: &Figment, setting: &Setting) -> Result<Figment, String> {
    let mut kinds = Vec::new();
    for candidate in &setting.candidates {
        let (key, value) = setting.place(candidate);
        let next = figment.clone().merge(Serialized::default(key, value));
        match next.extract::<Config>() {
            Ok(_) => return Ok(next),
            Err(error) => kinds.push(error.kind),
        }
    }
    // A reading of the right type with a wrong value tells more than one of a wrong type, and of those the one that
    // looks through the quotes of the environment.
    let telling = kinds.iter().find(|kind| !matches!(kind, Kind::InvalidType(..)));
    let kind = telling.or(kinds.get(1)).or(kinds.first());
    Err(kind.map_or_else(|| "has no value".to_owned(), |kind| explain(kind, &setting.key)))
}

/// What does not fit, in the words of somebody who writes a configuration; with the value only where it is no secret.
fn explain(kind: &Kind, key: &str) -> String {
    let shown = !may_hold_a_secret(key);
    match kind {
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let wanted = match expected.as_str() {
                "a boolean" => "true or false",
                "a string" => "a text",
                "a sequence" if key != "auth.issuers" => "a list",
                "a sequence" | "struct IssuerConfig" => {
                    "a list of issuers, in the environment as JSON: [{\"jwks\":\"…\",\"issuer\":\"…\"}]"
                }
                number if number.starts_with(['u', 'i']) => "a whole number that is not negative",
                number if number.starts_with('f') => "a number",
                other => other,
            };
            if shown {
                format!("is {actual}, but must be {wanted}")
            } else {
                format!("must be {wanted}, which it is not")
            }
        }
        // Texts of others may quote what they were given.
        _ if !shown && !matches!(kind, Kind::UnknownField(..) | Kind::UnknownVariant(..)) => {
            "is not what it must be (its value is not shown: it may hold a secret)".to_owned()
        }
        Kind::UnknownVariant(variant, known) => format!("`{variant}` is none of {}", known.join(", ")),
        Kind::UnknownField(field, known) => match nearest(field, known) {
            Some(name) => format!("has a `{field}`, which is not known; did you mean `{name}`?"),
            None => format!("has a `{field}`, which is not known; known are {}", known.join(", ")),
        },
        other => other.to_string(),
    }
}

fn from_file(path: &Path, mistakes: &mut Vec<Mistake>) -> Vec<Setting> {
    let name = path.display().to_string();
    let mut fail = |text: String| {
        mistakes.push(Mistake { key: name.clone(), text, source: WHOLE_FILE.into() });
        Vec::new()
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return fail(format!("cannot be read: {error}")),
    };
    let (spans, table) = match (DeTable::parse(&text), toml::from_str::<toml::Table>(&text)) {
        (Ok(spans), Ok(table)) => (spans, table),
        (Err(error), _) | (_, Err(error)) => return fail(not_toml(&error, &text)),
    };
    let mut lines = BTreeMap::new();
    note_lines(spans.get_ref(), "", &text, &mut lines);
    let source = |key: &str| lines.get(key).map_or_else(|| name.clone(), |line| format!("{name}:{line}"));
    let mut settings = Vec::new();
    for (section, content) in &table {
        match content {
            toml::Value::Table(keys) => add_keys(section, keys, &source, &mut settings),
            // Whatever it is, it is no section: reported as a key that nobody knows.
            _ => settings.push(Setting {
                key: section.clone(),
                candidates: Vec::new(),
                source: source(section),
                file: None,
            }),
        }
    }
    settings
}

/// Where a file is no TOML, without the line itself: a password may stand in it.
fn not_toml(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map(|span| line_of(text, span.start));
    let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    format!("is not TOML: {line}{}", error.message().replace('\n', ", ").trim_end())
}

/// The number of the line in which a byte stands.
fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// The line of each key, by its full name.
fn note_lines(table: &DeTable<'_>, above: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let line = line_of(text, key.span().start);
        let full = if above.is_empty() { key.get_ref().to_string() } else { format!("{above}.{}", key.get_ref()) };
        if let Some(inner) = value.get_ref().as_table() {
            note_lines(inner, &full, text, lines);
        }
        lines.insert(full, line);
    }
}

fn add_keys(above: &str, keys: &toml::Table, source: &dyn Fn(&str) -> String, settings: &mut Vec<Setting>) {
    for (key, value) in keys {
        let key = format!("{above}.{key}");
        match value {
            // Names with dots may be written with quotes or without.
            toml::Value::Table(inner) if key == TABLE || property(&key).is_some() => {
                add_keys(&key, inner, source, settings);
            }
            _ => {
                let mut candidates: Vec<Value> = Value::serialize(value).into_iter().collect();
                if property(&key).is_some() && matches!(value, toml::Value::Integer(_) | toml::Value::Boolean(_)) {
                    candidates.insert(0, Value::from(value.to_string()));
                }
                settings.push(Setting { source: source(&key), key, candidates, file: None });
            }
        }
    }
}

fn from_env(
    env: impl IntoIterator<Item = (String, String)>,
    known: &[String],
    mistakes: &mut Vec<Mistake>,
) -> Vec<Setting> {
    let ours = env.into_iter().filter_map(|(name, text)| Some((name.strip_prefix(PREFIX)?.to_owned(), text)));
    let mut variables: Vec<_> = ours.collect();
    variables.sort();
    let mut settings: Vec<Setting> = Vec::new();
    for (name, text) in variables {
        let source = format!("environment variable {PREFIX}{name}");
        match from_variable(&name.to_ascii_lowercase(), text, source, known) {
            Some(Ok(setting)) => match settings.iter().find(|earlier| earlier.key == setting.key) {
                Some(earlier) => {
                    let text = format!("is set twice, the other time by {}: take one of them away", earlier.source);
                    mistakes.push(Mistake { key: setting.key, text, source: setting.source });
                }
                None => settings.push(setting),
            },
            Some(Err(mistake)) => mistakes.push(mistake),
            None => {}
        }
    }
    settings
}

/// A variable by its name without prefix, in lower case. `None`: somebody else's.
fn from_variable(name: &str, text: String, source: String, known: &[String]) -> Option<Result<Setting, Mistake>> {
    let Some((section, rest)) = name.split_once("__") else {
        // `TIDEGATE_KAFKA_BROKERS` would be passed over in silence; other variables of that prefix are not ours.
        let (section, rest) = name.split_once('_')?;
        let key = format!("{section}.{rest}");
        let right = format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"));
        let text = format!("is not read from there; did you mean {right}?");
        return known.contains(&key).then_some(Err(Mistake { key, text, source }));
    };
    let full = format!("{section}.{}", rest.replace("__", "."));
    let stem = full.strip_suffix("_file").filter(|stem| !known.contains(&full) && is_known(stem, known));
    let Some(stem) = stem else {
        return Some(Ok(Setting { key: spelt(&full), candidates: readings(&text), source, file: None }));
    };
    let key = spelt(stem);
    Some(match std::fs::read_to_string(&text) {
        Ok(content) if content.trim().is_empty() && is_secret(&key) => {
            Err(Mistake { key, text: format!("its file `{text}` is empty: put the secret into it"), source })
        }
        Ok(content) => {
            let candidates = readings(content.trim_end_matches(['\n', '\r']));
            let source = format!("file {text}, named by {source}");
            Ok(Setting { key, candidates, source, file: Some(text.into()) })
        }
        Err(error) => Err(Mistake { key, text: format!("its file `{text}` cannot be read: {error}"), source }),
    })
}

/// A key of the environment as it is spelt: a variable's name has no dots, librdkafka's names have hardly anything else.
fn spelt(key: &str) -> String {
    match property(key) {
        Some(name) if name != WITH_UNDERSCORE => format!("{TABLE}.{}", name.replace('_', ".")),
        _ => key.to_owned(),
    }
}

/// A text as itself, as what it looks like (`true`, `12`, `[…]`), and as a list with commas.
fn readings(text: &str) -> Vec<Value> {
    let list: Vec<&str> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    let looks = serde_json::from_str(text).ok().or_else(|| text.parse::<Value>().ok());
    let mut readings = vec![Value::from(text)];
    readings.extend(looks);
    readings.push(Value::from(list));
    readings
}
