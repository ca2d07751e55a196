//! Reading the file and the environment key by key, so that one mistake does not hide the next.

use std::collections::BTreeMap;
use std::path::Path;

use figment::Figment;
use figment::providers::Serialized;
use figment::value::Value;
use toml::de::DeTable;

use super::describe::known_keys;
use super::{Config, Mistake};

const PREFIX: &str = "TIDEGATE_";
/// Two names are alike enough to suggest one for the other.
const ALIKE: f64 = 0.7;

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
}

/// Reads both. Later settings win.
pub(super) fn read(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Read {
    let mut mistakes = Vec::new();
    let mut settings = file.map(|path| from_file(path, &mut mistakes)).unwrap_or_default();
    settings.extend(from_env(env, &mut mistakes));

    let known = known_keys();
    let mut sources = BTreeMap::new();
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    for setting in settings {
        if !known.contains(&setting.key) {
            let text = unknown(&setting.key, &known);
            mistakes.push(Mistake { key: setting.key, text, source: setting.source });
            continue;
        }
        match accept(&figment, &setting) {
            Ok(next) => {
                figment = next;
                sources.insert(setting.key, setting.source);
            }
            Err(text) => mistakes.push(Mistake { key: setting.key, text, source: setting.source }),
        }
    }
    Read { config: figment.extract().unwrap_or_default(), mistakes, sources }
}

/// The figment with the first reading of the setting that fits its type.
fn accept(figment: &Figment, setting: &Setting) -> Result<Figment, String> {
    let mut last = String::from("has no value");
    for candidate in &setting.candidates {
        let next = figment.clone().merge(Serialized::default(&setting.key, candidate));
        match next.extract::<Config>() {
            Ok(_) => return Ok(next),
            Err(error) => last = error.kind.to_string(),
        }
    }
    Err(last)
}

fn unknown(key: &str, known: &[String]) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::jaro_winkler(key, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness >= ALIKE);
    match nearest {
        Some((_, name)) => format!("is not known; did you mean `{name}`?"),
        None => "is not known; `tidegate default-config` lists every key".into(),
    }
}

fn from_file(path: &Path, mistakes: &mut Vec<Mistake>) -> Vec<Setting> {
    let name = path.display().to_string();
    let mut fail = |text: String| {
        mistakes.push(Mistake { key: name.clone(), text, source: "the configuration file".into() });
        Vec::new()
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return fail(format!("cannot be read: {error}")),
    };
    let (spans, table) = match (DeTable::parse(&text), toml::from_str::<toml::Table>(&text)) {
        (Ok(spans), Ok(table)) => (spans, table),
        (Err(error), _) | (_, Err(error)) => return fail(format!("is not TOML: {}", error.to_string().trim_end())),
    };
    let place = |start: usize| {
        let line = text.as_bytes().iter().take(start).filter(|byte| **byte == b'\n').count() + 1;
        format!("{name}:{line}")
    };
    let mut settings = Vec::new();
    for (section, content) in spans.get_ref() {
        let section_name = section.get_ref().as_ref();
        let value = |key: &str| table.get(section_name).and_then(|s| s.get(key)).and_then(|v| Value::serialize(v).ok());
        match content.get_ref().as_table() {
            Some(keys) => settings.extend(keys.keys().map(|key| Setting {
                key: format!("{section_name}.{}", key.get_ref()),
                candidates: value(key.get_ref()).into_iter().collect(),
                source: place(key.span().start),
            })),
            None => settings.push(Setting {
                key: section_name.to_owned(),
                candidates: Vec::new(),
                source: place(section.span().start),
            }),
        }
    }
    settings
}

fn from_env(env: impl IntoIterator<Item = (String, String)>, mistakes: &mut Vec<Mistake>) -> Vec<Setting> {
    let mut variables: Vec<_> = env.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    let known = known_keys();
    let mut settings = Vec::new();
    for (name, text) in variables {
        let rest = name.trim_start_matches(PREFIX).to_ascii_lowercase();
        let source = format!("environment variable {name}");
        let Some((section, key)) = rest.split_once("__") else {
            // `TIDEGATE_KAFKA_BROKERS` would be passed over in silence; other variables of that prefix are not ours.
            if let Some(key) = rest.split_once('_').map(|(s, k)| format!("{s}.{k}")).filter(|key| known.contains(key)) {
                let right = format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"));
                mistakes.push(Mistake { key, text: format!("is not read from there; did you mean {right}?"), source });
            }
            continue;
        };
        let full = format!("{section}.{}", key.replace("__", "."));
        match full.strip_suffix("_file").filter(|stem| !known.contains(&full) && known.iter().any(|k| k == stem)) {
            None => settings.push(Setting { key: full, candidates: readings(&text), source }),
            Some(stem) => match std::fs::read_to_string(&text) {
                Ok(content) => {
                    let value = content.trim_end_matches(['\n', '\r']);
                    let source = format!("file {text}, named by {source}");
                    settings.push(Setting { key: stem.to_owned(), candidates: readings(value), source });
                }
                Err(error) => {
                    let text = format!("its file `{text}` cannot be read: {error}");
                    mistakes.push(Mistake { key: stem.to_owned(), text, source });
                }
            },
        }
    }
    settings
}

/// A text as itself, as what it looks like (`true`, `12`, `[a, b]`), and as a list with commas.
fn readings(text: &str) -> Vec<Value> {
    let list: Vec<&str> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    let mut readings = vec![Value::from(text)];
    readings.extend(text.parse::<Value>().ok());
    readings.push(Value::from(list));
    readings
}
