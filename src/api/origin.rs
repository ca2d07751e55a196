//! Where a request came from and for whom it is: `Origin`, `Host`, and `X-Forwarded-For` behind proxies that are known.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{HOST, ORIGIN};
use http::request::Parts;
use ipnet::IpNet;

/// The proxies whose `X-Forwarded-For` is believed.
#[derive(Debug, Clone, Default)]
pub struct Hops(Vec<IpNet>);

impl Hops {
    /// Reads networks (`10.0.0.0/8`) and single addresses.
    ///
    /// # Errors
    /// The first text that is neither.
    pub fn new(networks: &[String]) -> Result<Self, String> {
        let read = |text: &String| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        networks.iter().map(|text| read(text).map_err(|_| text.clone())).collect::<Result<_, _>>().map(Self)
    }

    /// The address a request came from: from the right, the first that is not one of the known proxies. A client can
    /// write what it likes to the left of what they add.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.knows(peer) {
            return peer;
        }
        let lines = headers.get_all("x-forwarded-for").into_iter().rev().filter_map(|line| line.to_str().ok());
        let mut client = peer;
        for named in lines.flat_map(|line| line.rsplit(',')) {
            match named.trim().parse() {
                Ok(address) => client = address,
                // Nothing to the left of what nobody can read is worth more.
                Err(_) => return client,
            }
            if !self.knows(client) {
                return client;
            }
        }
        client
    }

    fn knows(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Whether the request's `Origin` is one of `allowed`. Without an `Origin` it is no browser's, and another page's browser
/// cannot leave it away.
pub(super) fn is_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    if allowed.is_empty() {
        return true;
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => true,
        // Browsers write it in one way; prefixes, suffixes and `null` are somebody else's.
        (Some(origin), None) => allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()),
        _ => false,
    }
}

/// Whether the request is for one of `hosts`, whatever the port and the case.
pub(super) fn is_served(request: &Parts, hosts: &[String]) -> bool {
    if hosts.is_empty() {
        return true;
    }
    let header = request.headers.get(HOST).and_then(|host| host.to_str().ok());
    let Some(host) = request.uri.authority().map(http::uri::Authority::as_str).or(header) else { return false };
    let Ok(host) = host.parse::<http::uri::Authority>() else { return false };
    hosts.iter().any(|served| served.eq_ignore_ascii_case(host.host()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn the_client_is_the_first_that_no_known_proxy_vouches_for() {
        let hops = Hops::new(&["10.0.0.0/8".into(), "192.168.1.1".into()]).unwrap();
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let cases = [
            ("203.0.113.7", "203.0.113.7"),
            ("6.6.6.6, 203.0.113.7, 192.168.1.1", "203.0.113.7"),
            ("6.6.6.6, nonsense, 10.2.2.2", "10.2.2.2"),
            ("10.3.3.3", "10.3.3.3"),
        ];
        for (line, expected) in cases {
            let client = hops.client(proxy, &headers(&[("x-forwarded-for", line)]));
            assert_eq!(client, expected.parse::<IpAddr>().unwrap(), "{line}");
        }
        let stranger: IpAddr = "203.0.113.9".parse().unwrap();
        assert_eq!(hops.client(stranger, &headers(&[("x-forwarded-for", "127.0.0.1")])), stranger);
        assert_eq!(Hops::new(&["10.0.0.0/33".into()]).unwrap_err(), "10.0.0.0/33");
    }

    #[test]
    fn case_37_and_38_only_an_exact_origin_is_allowed() {
        let allowed = ["https://app.example".to_owned()];
        assert!(is_allowed(&headers(&[("origin", "https://app.example")]), &allowed));
        assert!(is_allowed(&headers(&[]), &allowed));
        for other in ["null", "https://app.example.evil", "https://evil-app.example", "http://app.example", ""] {
            assert!(!is_allowed(&headers(&[("origin", other)]), &allowed), "{other}");
        }
        assert!(!is_allowed(&headers(&[("origin", "https://app.example"), ("origin", "null")]), &allowed));
        assert!(is_allowed(&headers(&[("origin", "null")]), &[]));
    }

    #[test]
    fn case_35_a_host_that_is_not_served_is_known_without_its_port() {
        let request =
            |host: &'static str| http::Request::get("/").header("host", host).body(()).unwrap().into_parts().0;
        let hosts = ["gate.example".to_owned(), "[::1]".to_owned()];
        for served in ["gate.example", "GATE.example:8443", "[::1]:80"] {
            assert!(is_served(&request(served), &hosts), "{served}");
        }
        for other in ["gate.example.evil", "other", "", "gate.example:x:y"] {
            assert!(!is_served(&request(other), &hosts), "{other}");
        }
        assert!(is_served(&request("anything"), &[]));
    }
}
