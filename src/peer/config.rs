//! The section `peer` of the configuration.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

/// The section `peer`: how the nodes of a cluster reach each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PeerConfig {
    /// Address and port that peers connect to.
    pub listen: String,
    /// Where peers reach this node, `host:port`. Empty: the address of `listen`, or where that is any, the host's name,
    /// with the port of `listen`.
    pub advertise: String,
    /// This node's certificate chain, a PEM file, for both directions; read again when it changes.
    pub tls_cert: PathBuf,
    /// The certificate's key, a PEM file; read again when it changes.
    pub tls_key: PathBuf,
    /// The authorities of peers' certificates, a PEM file; read again when it changes.
    pub tls_ca: PathBuf,
    /// The one name that every peer's certificate carries: peers are found by address.
    pub server_name: String,
    /// Without certificates: whoever reaches the port can command every device.
    pub plaintext: bool,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:7443".into(),
            advertise: String::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_ca: PathBuf::new(),
            server_name: "tidegate-peer".into(),
            plaintext: false,
        }
    }
}

impl PeerConfig {
    /// Everything that is wrong, as pairs of key and text. Files are not looked at.
    pub fn mistakes(&self) -> Vec<(String, String)> {
        let mut found = self.certificate_mistakes();
        let mut add = |key: &str, text: String| found.push((format!("peer.{key}"), text));
        if self.listen.parse::<SocketAddr>().is_err() {
            add("listen", format!("`{}` is no address and port, as 0.0.0.0:7443 is", self.listen));
        }
        if !self.advertise.is_empty()
            && let Err(text) = check_advertised(&self.advertise)
        {
            add("advertise", format!("`{}` {text}", self.advertise));
        }
        if !matches!(ServerName::try_from(self.server_name.as_str()), Ok(ServerName::DnsName(_))) {
            add("server_name", format!("`{}` is no name that a certificate can carry", self.server_name));
        }
        found
    }

    fn certificate_mistakes(&self) -> Vec<(String, String)> {
        let files = [("tls_cert", &self.tls_cert), ("tls_key", &self.tls_key), ("tls_ca", &self.tls_ca)];
        let (given, missing): (Vec<_>, Vec<_>) = files.iter().partition(|(_, path)| !path.as_os_str().is_empty());
        let mistake = |key: &str, text: &str| (format!("peer.{key}"), text.to_owned());
        match (given.first(), self.plaintext) {
            (None, true) => Vec::new(),
            (None, false) => vec![mistake(
                "tls_cert",
                "is missing: set `peer.tls_cert`, `peer.tls_key` and `peer.tls_ca`, or `peer.plaintext = true` where \
                 only nodes can reach the port",
            )],
            (Some((key, _)), true) => {
                vec![mistake("plaintext", &format!("contradicts `peer.{key}`: take one of them away"))]
            }
            (Some(_), false) => missing
                .iter()
                .map(|(key, _)| mistake(key, "is missing: certificate, key and authorities go together"))
                .collect(),
        }
    }

    /// What this node tells the others of where it is, `listening` being where it listens and `host` its host's name.
    pub fn effective_advertise(&self, listening: SocketAddr, host: &str) -> String {
        if !self.advertise.is_empty() {
            return self.advertise.clone();
        }
        if listening.ip().is_unspecified() { format!("{host}:{}", listening.port()) } else { listening.to_string() }
    }

    /// Where the three files are, or none without TLS.
    pub fn files(&self) -> Option<(&Path, &Path, &Path)> {
        (!self.plaintext).then_some((&self.tls_cert, &self.tls_key, &self.tls_ca))
    }
}

fn check_advertised(text: &str) -> Result<(), &'static str> {
    let wrong = Err("is not as 10.0.0.7:7443 or gateway-1.peers:7443");
    let Some((host, port)) = text.rsplit_once(':') else { return wrong };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let fits = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 253 && host.chars().all(is_name),
    };
    if !fits || !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return wrong;
    }
    match bracketed.unwrap_or(host).parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => Err("is no address that others could reach"),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mistakes(toml: &str) -> Vec<String> {
        let config: PeerConfig = toml::from_str(toml).unwrap();
        config.mistakes().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn mistakes_are_named_all_at_once() {
        assert_eq!(mistakes(""), ["peer.tls_cert"]);
        assert_eq!(mistakes("plaintext = true"), [""; 0]);
        assert_eq!(mistakes("tls_cert = 'c'\ntls_key = 'k'\ntls_ca = 'a'"), [""; 0]);
        assert_eq!(mistakes("tls_key = 'k'"), ["peer.tls_cert", "peer.tls_ca"]);
        assert_eq!(mistakes("tls_ca = 'a'\nplaintext = true"), ["peer.plaintext"]);
        assert_eq!(
            mistakes("plaintext = true\nlisten = '7443'\nadvertise = 'gw'\nserver_name = 'a b'"),
            ["peer.listen", "peer.advertise", "peer.server_name"]
        );
        assert!(toml::from_str::<PeerConfig>("certificate = 'c'").is_err());
    }

    #[test]
    fn only_an_address_that_others_can_reach_is_advertised() {
        for good in ["10.0.0.7:7443", "gw-1.peers:1", "[::1]:7443"] {
            assert_eq!(check_advertised(good), Ok(()), "{good}");
        }
        for bad in ["0.0.0.0:7443", "[::]:7443", "gw:0", "gw", ":7443", "a,b:7443", "::1:7443", "gw:70000"] {
            assert!(check_advertised(bad).is_err(), "{bad}");
        }
        let config = PeerConfig::default();
        assert_eq!(config.effective_advertise("0.0.0.0:7443".parse().unwrap(), "gw-1"), "gw-1:7443");
        assert_eq!(config.effective_advertise("10.0.0.7:9".parse().unwrap(), "gw-1"), "10.0.0.7:9");
        let config = PeerConfig { advertise: "here:1".into(), ..config };
        assert_eq!(config.effective_advertise("10.0.0.7:9".parse().unwrap(), "gw-1"), "here:1");
    }
}
