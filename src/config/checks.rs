//! What is wrong only in the light of several keys, or with a text that is well-formed and never matches anything.

use std::net::SocketAddr;

use super::{Config, PublicConfig};
use crate::id::is_id;

/// Ports that two listeners would want: the key of the later one, and what is wrong with it.
pub(super) fn shared_ports(config: &Config) -> Vec<(String, String)> {
    let listeners = [
        ("public.listen", &config.public.listen),
        ("internal.listen", &config.internal.listen),
        ("peer.listen", &config.peer.listen),
        ("api.listen", &config.api.listen),
    ];
    // What is no address is told elsewhere; port 0 is any that is free.
    let parsed = listeners.map(|(key, text)| (key, text.parse::<SocketAddr>().ok().filter(|at| at.port() != 0)));
    let mut found = Vec::new();
    for (at, (key, address)) in parsed.iter().enumerate() {
        let Some(address) = address else { continue };
        let before = parsed.iter().take(at).find(|(_, other)| other.is_some_and(|other| collide(other, *address)));
        if let Some((other, _)) = before {
            found.push(((*key).to_owned(), format!("`{address}` is `{other}`'s already: give each a port of its own")));
        }
    }
    found
}

/// Whether both cannot be listened on.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let everywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (everywhere || one.ip() == other.ip())
}

/// Origins and host names that no browser and no request would ever name so.
pub(super) fn names(public: &PublicConfig) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Some(bad) = public.allowed_origins.iter().find(|origin| !is_origin(origin)) {
        found.push((
            "public.allowed_origins".to_owned(),
            format!(
                "`{bad}` is no origin as browsers send it: write https://app.example.com, without a path or a slash"
            ),
        ));
    }
    // The port is not looked at in requests, so none may stand here.
    let is_host = |host: &str| host.parse::<http::uri::Authority>().is_ok_and(|authority| authority.host() == host);
    if let Some(bad) = public.hosts.iter().find(|host| !is_host(host)) {
        found.push((
            "public.hosts".to_owned(),
            format!("`{bad}` is no host name: write gateway.example.com, without a scheme, a port or a path"),
        ));
    }
    if let Some(bad) = public.client_tenants.iter().find(|tenant| !is_id(tenant)) {
        found.push(("public.client_tenants".to_owned(), format!("`{bad}` is no id: 1 to 128 of A-Z a-z 0-9 . _ -")));
    }
    if !public.client_tenants.is_empty() && public.client_ca.as_os_str().is_empty() {
        found.push((
            "public.client_tenants".to_owned(),
            "is for device certificates: set `public.client_ca`, or take it away".to_owned(),
        ));
    }
    found
}

fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let is_scheme =
        !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.'));
    is_scheme && !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ', '*'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_and_hosts_are_those_that_requests_can_name() {
        let keys = |origin: &str, host: &str| {
            let public = PublicConfig {
                allowed_origins: vec![origin.to_owned()],
                hosts: vec![host.to_owned()],
                ..PublicConfig::default()
            };
            names(&public).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        for (origin, host) in [("https://a.example", "a.example"), ("http://localhost:3000", "[::1]")] {
            assert_eq!(keys(origin, host), [""; 0], "{origin} {host}");
        }
        for origin in ["a.example", "https://a.example/", "https://", "*", "https://*.a.example", "null"] {
            assert_eq!(keys(origin, "a"), ["public.allowed_origins"], "{origin}");
        }
        for host in ["https://a.example", "a.example:8443", "a/b", "", "u@a"] {
            assert_eq!(keys("https://a", host), ["public.hosts"], "{host}");
        }
    }

    #[test]
    fn two_listeners_need_two_ports() {
        let mut config = Config::default();
        assert_eq!(shared_ports(&config), []);
        config.api.listen = "10.0.0.1:8443".into();
        assert_eq!(shared_ports(&config)[0].0, "api.listen");
        config.public.listen = "10.0.0.2:8443".into();
        config.internal.listen = "127.0.0.1:0".into();
        config.peer.listen = "127.0.0.1:0".into();
        assert_eq!(shared_ports(&config), []);
    }
}
