//! The section `redis` of the configuration.

use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, IntoConnectionInfo};
use serde::{Deserialize, Serialize};

/// How many addresses one configuration may name.
const MAX_URLS: usize = 64;

/// The section `redis`: where the directory and the commands are kept.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// Where to begin: `redis://host:port`, or `rediss://host:port` for TLS. Of a cluster one address is enough; with
    /// Sentinel these are the sentinels'.
    pub urls: Vec<String>,
    /// What is at these addresses. `auto` asks (`INFO`), and takes them for sentinels where `sentinel_master` is set.
    pub mode: Mode,
    /// The name under which the sentinels know the primary.
    pub sentinel_master: String,
    /// The ACL user. Empty: the default user, or the one in the url.
    pub username: String,
    /// The user's password. Where it is given as a file the file is read again at every connect. Sentinels are given
    /// only what stands in their own urls.
    pub password: String,
    /// File with the certificates (PEM) that servers are checked against. Empty: the system's.
    pub ca: String,
    /// Replicas that must have a command before it is accepted (202). 0: the primary is enough.
    pub wait_replicas: u32,
    /// Where `password` came from, if from a file: set by whoever read the configuration.
    #[serde(skip)]
    pub password_file: Option<PathBuf>,
}

/// What kind of Redis it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Ask.
    #[default]
    Auto,
    /// One primary, with or without replicas.
    Single,
    /// Redis Cluster.
    Cluster,
    /// One primary that sentinels know.
    Sentinel,
}

/// Leaves out the password, and those that may stand in urls.
impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("urls", &self.places())
            .field("mode", &self.mode)
            .field("sentinel_master", &self.sentinel_master)
            .field("username", &self.username)
            .field("password", &if self.password.is_empty() { "" } else { "***" })
            .field("ca", &self.ca)
            .field("wait_replicas", &self.wait_replicas)
            .field("password_file", &self.password_file)
            .finish()
    }
}

/// One of `redis.urls`, taken apart.
#[derive(Clone)]
pub(super) struct Seed {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    pub(super) db: i64,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

impl Seed {
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let wrong = "is not as redis://host:6379 or rediss://host:6379";
        let info = url.into_connection_info().map_err(|_| wrong.to_owned())?;
        let (host, port, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host.clone(), *port, false),
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                return Err("asks for TLS without checking the server: name its authority in `redis.ca`".into());
            }
            ConnectionAddr::TcpTls { host, port, .. } => (host.clone(), *port, true),
            _ => return Err(wrong.into()),
        };
        let settings = info.redis_settings();
        let own = |text: Option<&str>| text.map(str::to_owned);
        let (username, password) = (own(settings.username()), own(settings.password()));
        Ok(Self { host, port, tls, db: settings.db(), username, password })
    }
}

impl RedisConfig {
    /// Everything that is wrong, as pairs of key and text. Files and servers are not looked at.
    pub fn mistakes(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut add = |key: &str, text: String| found.push((format!("redis.{key}"), text));
        if self.urls.is_empty() {
            add("urls", "is empty: name at least one, as redis://host:6379".into());
        }
        if self.urls.len() > MAX_URLS {
            add("urls", format!("has more than {MAX_URLS} entries"));
        }
        let seeds: Vec<_> = self.urls.iter().map(|url| Seed::parse(url)).collect();
        for (at, error) in seeds.iter().enumerate().filter_map(|(at, seed)| Some((at, seed.as_ref().err()?))) {
            add("urls", format!("entry {} {error}", at + 1));
        }
        let tls: Vec<_> = seeds.iter().flatten().map(|seed| seed.tls).collect();
        if tls.contains(&true) && tls.contains(&false) {
            add("urls", "mixes redis:// and rediss://: take one of them".into());
        }
        if self.mode == Mode::Cluster && seeds.iter().flatten().any(|seed| seed.db != 0) {
            add("urls", "names a database, of which a cluster has only 0".into());
        }
        if self.mode == Mode::Sentinel && self.sentinel_master.is_empty() {
            add("sentinel_master", "is needed with `redis.mode = \"sentinel\"`".into());
        }
        if matches!(self.mode, Mode::Single | Mode::Cluster) && !self.sentinel_master.is_empty() {
            add("sentinel_master", "is for `redis.mode = \"sentinel\"`: take it away or change the mode".into());
        }
        if !self.username.is_empty() && self.password.is_empty() && self.password_file.is_none() {
            add("password", "is needed with `redis.username`".into());
        }
        if !self.ca.is_empty() && tls.contains(&false) {
            add("ca", "is for rediss:// addresses".into());
        }
        if self.wait_replicas > 16 {
            add("wait_replicas", "is at most 16".into());
        }
        found
    }

    /// Host and port of each url, which is what may be shown.
    pub(super) fn places(&self) -> Vec<String> {
        let place = |url: &String| Seed::parse(url).map_or_else(|_| "?".into(), |s| format!("{}:{}", s.host, s.port));
        self.urls.iter().map(place).collect()
    }

    /// The ACL user, whichever way it is named.
    pub(super) fn user(&self) -> String {
        let own = Some(self.username.clone()).filter(|name| !name.is_empty());
        let of_url = || self.urls.first().and_then(|url| Seed::parse(url).ok()?.username);
        own.or_else(of_url).unwrap_or_else(|| "default".to_owned())
    }

    /// The password as it is now.
    pub(super) fn current_password(&self) -> Result<String, String> {
        match &self.password_file {
            None => Ok(self.password.clone()),
            Some(file) => std::fs::read_to_string(file)
                .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("the password's file {} cannot be read: {error}", file.display())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(toml: &str) -> RedisConfig {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn the_defaults_lack_only_an_address() {
        let mistakes = RedisConfig::default().mistakes();
        assert_eq!(mistakes, [("redis.urls".into(), "is empty: name at least one, as redis://host:6379".into())]);
        assert_eq!(config("urls = ['redis://a', 'redis://b:7000']").mistakes(), []);
        assert_eq!(config("urls = ['rediss://u:p@a:1/2']\nca = 'ca.pem'").mistakes(), []);
    }

    #[test]
    fn each_mistake_is_named_by_its_key() {
        let keys = |toml: &str| config(toml).mistakes().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        for (toml, key) in [
            ("urls = ['http://a']", "redis.urls"),
            ("urls = ['unix:///run/redis.sock']", "redis.urls"),
            ("urls = ['rediss://a:1/#insecure']", "redis.urls"),
            ("urls = ['redis://a', 'rediss://b']", "redis.urls"),
            ("urls = ['redis://a/3']\nmode = 'cluster'", "redis.urls"),
            ("urls = ['redis://a']\nmode = 'sentinel'", "redis.sentinel_master"),
            ("urls = ['redis://a']\nmode = 'cluster'\nsentinel_master = 'm'", "redis.sentinel_master"),
            ("urls = ['redis://a']\nusername = 'u'", "redis.password"),
            ("urls = ['redis://a']\nca = 'ca.pem'", "redis.ca"),
            ("urls = ['redis://a']\nwait_replicas = 17", "redis.wait_replicas"),
        ] {
            assert_eq!(keys(toml), [key], "{toml}");
        }
    }

    #[test]
    fn no_password_is_ever_shown() {
        let shown = format!("{:?}", config("urls = ['redis://u:secret@h:1']\nusername = 'u'\npassword = 'hidden'"));
        assert!(shown.contains("h:1") && !shown.contains("secret") && !shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn a_password_in_a_file_is_read_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\n").unwrap();
        let config = RedisConfig { password_file: Some(file.path().to_owned()), ..RedisConfig::default() };
        assert_eq!(config.current_password().unwrap(), "one");
        std::fs::write(file.path(), "two").unwrap();
        assert_eq!(config.current_password().unwrap(), "two");
    }
}
