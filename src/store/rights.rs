//! What the gateway's user has to be allowed, and what it lacks.

use std::fmt::Write as _;

use tokio::time::Instant;

use super::topology::Server;
use super::{ANSWER_WITHIN, Arg, Script, StoreError, Value};

/// The patterns of every key there is, and a key of each.
const KEYS: [(&str, &str); 3] = [("tg:*", "tg:{tg}:rights"), ("{tg}:*", KEY), ("{tg:due:*}", "{tg:due:0}")];
/// Every command that scripts and code run on keys, and those without a key that cannot be done without.
const COMMANDS: [&str; 25] = [
    "DEL", "EVAL", "EVALSHA", "EXISTS", "EXPIRE", "GET", "HDEL", "HGET", "HGETALL", "HINCRBY", "HMGET", "HSET",
    "PEXPIRE", "PING", "SET", "TIME", "XADD", "XDEL", "XLEN", "XRANGE", "ZADD", "ZCARD", "ZRANGE", "ZREM", "ZSCORE",
];

/// Those that have no key.
const KEYLESS: [&str; 3] = ["PING", "TIME", "WAIT"];
/// A key of the cluster's.
pub(super) const KEY: &str = "{tg}:rights";

/// What who may not even ask is told.
pub(super) const TO_ASK: &str = "+eval +evalsha ~tg:* ~{tg}:* ~{tg:due:*}";

static ASK: Script = Script::new("rights", include_str!("rights.lua"));

/// The rules (`+zadd ~tg:*`) that this server's user lacks; empty where nothing is missing or the server cannot tell.
///
/// # Errors
/// [`StoreError`]; `Refused` where not even this may be asked.
pub(super) async fn missing(server: &Server, with_wait: bool) -> Result<String, StoreError> {
    let keys = KEYS.map(|(_, key)| key).join(" ");
    let commands: Vec<&str> = COMMANDS.into_iter().chain(with_wait.then_some("WAIT")).collect();
    let args: Vec<Arg<'_>> = std::iter::once(keys.as_str()).chain(commands.iter().copied()).map(Arg::from).collect();
    let asked = server.link.call(&ASK.call(true, &[], &args), false, Instant::now() + 2 * ANSWER_WITHIN).await;
    let refused = asked.map_err(StoreError::from)?.list()?;
    let refused = refused.into_iter().map(Value::text).collect::<Result<Vec<_>, _>>()?;
    Ok(rules(&refused, commands.len()))
}

/// The refused pairs as the fewest rules: of a pattern on which nothing is allowed only the pattern is missing.
fn rules(refused: &[String], commands: usize) -> String {
    let mut rules = String::new();
    let mut told = Vec::new();
    for (pattern, key) in KEYS {
        let of_key: Vec<&str> =
            refused.iter().filter_map(|pair| pair.split_once(' ')).filter(|(_, k)| *k == key).map(|(c, _)| c).collect();
        // Those without keys are never refused for a key.
        if of_key.len() + KEYLESS.len() >= commands {
            let _ = write!(rules, " ~{pattern}");
            continue;
        }
        for command in of_key {
            if !told.contains(&command) {
                told.push(command);
                let _ = write!(rules, " +{}", command.to_ascii_lowercase());
            }
        }
    }
    rules.trim_start().to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The names in `redis.call('NAME'` of every script below a directory.
    fn called(dir: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                called(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "lua") {
                let text = std::fs::read_to_string(&path).unwrap();
                for part in ["call('", "call(\""].iter().flat_map(|begin| text.split(begin).skip(1)) {
                    names.insert(part.chars().take_while(char::is_ascii_uppercase).collect());
                }
            }
        }
    }

    #[test]
    fn every_command_of_every_script_is_asked_for() {
        let mut names = BTreeSet::new();
        called(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
        assert!(names.len() > 15, "{names:?}");
        for name in &names {
            assert!(COMMANDS.contains(&name.as_str()), "{name} is in a script and not among the rights");
        }
        for name in COMMANDS.iter().chain(&["WAIT"]) {
            assert!(ASK.text.contains(&format!("{name} = '")), "{name} has no shape");
        }
    }

    #[test]
    fn what_is_missing_is_told_in_as_few_rules_as_can_be() {
        let pairs = |commands: &[&str], keys: &[&str]| -> Vec<String> {
            keys.iter().flat_map(|key| commands.iter().map(move |command| format!("{command} {key}"))).collect()
        };
        let all_keys = KEYS.map(|(_, key)| key);
        assert_eq!(rules(&[], COMMANDS.len()), "");
        assert_eq!(rules(&pairs(&["XADD", "ZADD"], &all_keys), COMMANDS.len()), "+xadd +zadd");
        let with_keys: Vec<_> = COMMANDS.into_iter().filter(|name| !KEYLESS.contains(name)).collect();
        assert_eq!(rules(&pairs(&with_keys, &all_keys[1..]), COMMANDS.len()), "~{tg}:* ~{tg:due:*}");
        let all = [pairs(&with_keys, &all_keys[1..2]), pairs(&["XADD"], &all_keys[..1])].concat();
        assert_eq!(rules(&all, COMMANDS.len()), "+xadd ~{tg}:*");
    }
}
