//! Flags, and what becomes of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::ledger::KafkaTarget;
use crate::profile::Profile;
use crate::run::{Claims, Credentials, Settings, Workers};
use crate::threshold::{Threshold, ThresholdError};

/// Source addresses at most.
const MAX_SOURCES: u32 = 1_024;
/// Devices that one thread drives without being late, on the machines this was measured on.
const PER_THREAD: u32 = 10_000;

/// `run`.
#[derive(Debug, Args)]
pub(super) struct RunFlags {
    #[command(flatten)]
    pub(super) load: LoadFlags,
    #[command(flatten)]
    pub(super) who: WhoFlags,
    /// So many processes of this machine drive the devices, each from an address of its own (127.0.0.x) where the target
    /// is on loopback.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) workers: Option<u32>,
}

/// `coordinator`.
#[derive(Debug, Args)]
pub(super) struct CoordinatorFlags {
    #[command(flatten)]
    pub(super) load: LoadFlags,
    #[command(flatten)]
    pub(super) who: WhoFlags,
    /// Where workers connect to. Whoever reaches this port can take part: in a trusted network only.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7900")]
    pub(super) listen: SocketAddr,
    /// How many workers there are.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) workers: u32,
    /// How long they are waited for.
    #[arg(long, default_value = "60s", value_parser = seconds)]
    pub(super) wait: f64,
}

/// What is run, against what, and where the results go.
#[derive(Debug, Args)]
pub(super) struct LoadFlags {
    /// A profile's name (see `profiles`) or its file.
    pub(super) profile: String,
    /// The gateway: ws://host:port or wss://host:port. Several: devices go to them in turn.
    #[arg(long, value_name = "URL", required = true, env = "TIDEGATE_LOADTEST_TARGET", value_delimiter = ',')]
    pub(super) target: Vec<String>,
    /// How many devices, in place of the profile's number.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) devices: Option<u32>,
    /// How long the profile's stages take together: each is stretched or shrunk alike. 90s, 15m, 12h.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(super) duration: Option<f64>,
    /// How much faster than the profile says devices send.
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    pub(super) rate: Option<f64>,
    /// The share of the connected devices that lose their connection each second, in place of the profile's.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(super) churn: Option<f64>,
    /// Kafka's brokers: every update that was acked is looked for in the topics.
    #[arg(long, value_name = "BROKERS", env = "TIDEGATE_LOADTEST_KAFKA")]
    pub(super) kafka: Option<String>,
    /// What the topics' names begin with: the gateway's kafka.topic_prefix.
    #[arg(long, value_name = "P", default_value = "tidegate.")]
    pub(super) topic_prefix: String,
    /// A setting of librdkafka, such as security.protocol=ssl. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = property)]
    pub(super) kafka_property: Vec<(String, String)>,
    /// How long the looking may take.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = seconds)]
    pub(super) check_within: f64,
    /// What must hold at the end, in place of the profile's thresholds: 'p99(ack) < 250ms', 'lost == 0'. May be repeated.
    #[arg(long, value_name = "THRESHOLD")]
    pub(super) threshold: Vec<String>,
    /// Where summary.json and report.html go; made if need be.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Serve /metrics there while it runs.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) metrics: Option<SocketAddr>,
    /// Lines in place of the live view, also in a terminal.
    #[arg(long)]
    pub(super) plain: bool,
    /// The HTTP API for commands, where it is not at the first target: http://host:port.
    #[arg(long, value_name = "URL")]
    pub(super) api: Option<String>,
    /// Begins every device's id, where tokens are signed here.
    #[arg(long, value_name = "P", default_value = "load-")]
    pub(super) prefix: String,
    /// Addresses that devices connect from, in turn: each has its own 28,000 ports. 127.0.0.2-127.0.0.9, or some with
    /// commas.
    #[arg(long, value_name = "ADDRESSES", default_value = "")]
    pub(super) sources: Sources,
    /// End the run when no device had a connection for this long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = seconds)]
    pub(super) give_up: f64,
    /// A shell command that is run as each stage begins, with its name in TIDEGATE_STAGE: for what restarts nodes.
    #[arg(long, value_name = "COMMAND")]
    pub(super) hook: Option<String>,
}

/// Who the devices are. Each worker has these for itself.
#[derive(Debug, Args)]
pub(super) struct WhoFlags {
    /// Sign the devices' tokens with this key (PKCS#8 PEM of P-256, RSA or Ed25519), as `tidegate keys new` makes it.
    #[arg(long, value_name = "PEM", conflicts_with = "tokens")]
    pub(super) signing_key: Option<PathBuf>,
    /// The tokens' `iss`.
    #[arg(long, default_value = "tidegate")]
    pub(super) issuer: String,
    /// The tokens' `aud`.
    #[arg(long, default_value = "tidegate")]
    pub(super) audience: String,
    /// The tokens' `kid`, where it is not the key's thumbprint (RFC 7638).
    #[arg(long)]
    pub(super) kid: Option<String>,
    /// The tokens' `tenant`.
    #[arg(long, default_value = "load")]
    pub(super) tenant: String,
    /// Tokens of devices, one a line.
    #[arg(long, value_name = "FILE")]
    pub(super) tokens: Option<PathBuf>,
    /// A token with `commands:write` for callers of commands, where none is signed here.
    #[arg(long, value_name = "TOKEN", env = "TIDEGATE_LOADTEST_APP_TOKEN", hide_env_values = true)]
    pub(super) app_token: Option<String>,
    /// Authorities that are trusted for wss://, PEM, in place of the system's.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Threads that drive devices. Absent: half the cores, and one for each 10,000 devices at least.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) threads: Option<u16>,
}

impl WhoFlags {
    pub(super) fn credentials(&self) -> Credentials {
        match (&self.signing_key, &self.tokens) {
            (Some(file), _) => {
                let (issuer, audience) = (self.issuer.clone(), self.audience.clone());
                let claims = Claims { issuer, audience, tenant: self.tenant.clone(), kid: self.kid.clone() };
                Credentials::Key { file: file.clone(), claims }
            }
            (None, Some(file)) => Credentials::Tokens(file.clone()),
            (None, None) => Credentials::None,
        }
    }

    /// As told, else half the cores: the rest is for a target on the same machine, and for the network.
    pub(super) fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or((cores / 2).max(1), usize::from)
    }

    /// The same flags for a worker of this machine.
    pub(super) fn arguments(&self) -> Vec<String> {
        let path = |path: &PathBuf| path.display().to_string();
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            arguments.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
        };
        add("--signing-key", self.signing_key.as_ref().map(path));
        add("--issuer", Some(self.issuer.clone()));
        add("--audience", Some(self.audience.clone()));
        add("--kid", self.kid.clone());
        add("--tenant", Some(self.tenant.clone()));
        add("--tokens", self.tokens.as_ref().map(path));
        add("--ca", self.ca.as_ref().map(path));
        add("--threads", self.threads.map(|threads| threads.to_string()));
        arguments
    }
}

impl LoadFlags {
    /// The profile as it is to be run, and its thresholds.
    pub(super) fn profile(&self) -> Result<(Profile, Vec<Threshold>), String> {
        let mut profile = Profile::load(&self.profile).map_err(|error| error.to_string())?;
        if let Some(duration) = self.duration {
            profile.last(duration);
        }
        if let Some(rate) = self.rate {
            profile.stages.iter_mut().for_each(|stage| stage.rate *= rate);
        }
        if let Some(per_s) = self.churn {
            let churn = profile.churn.get_or_insert(crate::profile::Churn {
                per_s,
                how: crate::profile::Leaving::default(),
                gone_s: [0.0, 2.0],
            });
            churn.per_s = per_s;
        }
        if !self.threshold.is_empty() {
            profile.thresholds.clone_from(&self.threshold);
        }
        let thresholds = thresholds(&profile.thresholds).map_err(|error| error.to_string())?;
        Ok((profile, thresholds))
    }

    pub(super) fn settings(&self, profile: Profile, who: &WhoFlags, workers: Workers) -> Settings {
        let kafka = self.kafka.as_ref().map(|brokers| KafkaTarget {
            brokers: brokers.clone(),
            topic_prefix: self.topic_prefix.clone(),
            properties: self.kafka_property.clone(),
        });
        let devices = self.devices.unwrap_or(profile.devices);
        let least = devices.div_ceil(PER_THREAD) as usize;
        let threads = if who.threads.is_some() { who.threads() } else { who.threads().max(least) };
        Settings {
            profile,
            devices,
            targets: self.target.clone(),
            ca: who.ca.clone(),
            api: self.api.clone(),
            credentials: who.credentials(),
            app_token: who.app_token.clone(),
            prefix: self.prefix.clone(),
            kafka,
            check_within: Duration::from_secs_f64(self.check_within),
            threads,
            sources: self.sources.0.clone(),
            give_up: Duration::from_secs_f64(self.give_up),
            hook: self.hook.clone(),
            workers,
        }
    }
}

/// Reads thresholds.
pub(super) fn thresholds(texts: &[String]) -> Result<Vec<Threshold>, ThresholdError> {
    texts.iter().map(|text| text.parse()).collect()
}

/// Source addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sources(pub(super) Vec<IpAddr>);

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let one = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("`{text}` is no address"));
            match part.split_once('-') {
                None => all.push(one(part)?),
                Some((first, last)) => {
                    let (IpAddr::V4(first), IpAddr::V4(last)) = (one(first)?, one(last)?) else {
                        return Err("a range is one of IPv4 addresses".to_owned());
                    };
                    let (first, last) = (u32::from(first), u32::from(last));
                    if first > last || last - first >= MAX_SOURCES {
                        return Err(format!("`{part}` is no range of at most {MAX_SOURCES} addresses"));
                    }
                    all.extend((first..=last).map(|address| IpAddr::V4(Ipv4Addr::from(address))));
                }
            }
        }
        Ok(Self(all))
    }
}

/// Seconds of `90s`, `1.5m`, `500ms`, `12h`, `1d`; a bare number is seconds.
fn seconds(text: &str) -> Result<f64, String> {
    let bad = || "a number above 0 and ms, s, m, h or d: 90s, 15m, 12h".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(bad()),
    };
    let seconds = digits.parse::<f64>().map_err(|_| bad())? * unit;
    if seconds > 0.0 && seconds <= 2_592_000.0 { Ok(seconds) } else { Err(bad()) }
}

fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "a number".to_owned())?;
    if (0.0..=1_000.0).contains(&factor) { Ok(factor) } else { Err("a number between 0 and 1000".to_owned()) }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "a number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("a number between 0 and 1".to_owned()) }
}

fn property(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "key=value".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        for (text, expected) in [("90", 90.0), ("10s", 10.0), ("1.5m", 90.0), ("500ms", 0.5), ("2h", 7_200.0)] {
            assert_eq!(seconds(text), Ok(expected));
        }
        for bad in ["", "s", "0s", "-1s", "1w", "inf", "nan"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sources_are_addresses_and_ranges() {
        let sources: Sources = "127.0.0.2-127.0.0.4, ::1".parse().unwrap();
        assert_eq!(sources.0.len(), 4);
        assert!("".parse::<Sources>().unwrap().0.is_empty());
        for bad in ["x", "127.0.0.4-127.0.0.2", "1.0.0.0-2.0.0.0", "::1-::2"] {
            assert!(bad.parse::<Sources>().is_err(), "{bad}");
        }
    }
}
