//! Where a client comes from, told by a real HAProxy: PROXY protocol, version 2, and `X-Forwarded-For`. Loopback has many
//! addresses, so that the client, the proxy and a liar each have one.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::support::gateway::Gateway;
use super::support::haproxy::{Haproxy, Speaks};
use super::support::wait_until;
use super::support::ws::RawClient;
use super::{PATIENCE, TENANT, stores};

/// A connection from one address of loopback to another.
fn connect(from: &str, to: SocketAddr) -> RawClient {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from: IpAddr = from.parse().unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect_timeout(&to.into(), PATIENCE).unwrap();
    RawClient::over(socket.into())
}

/// Knocks without a token, and waits for the log's line about it.
fn knocked_from(gateway: &Gateway, client: &mut RawClient, headers: &[(&str, &str)], expected: &str) {
    let refused = |log: &str| {
        let lines = log.lines().filter(|line| line.contains("a handshake was refused"));
        lines
            .map(|line| {
                line.split("\"peer\":\"").nth(1).unwrap_or_default().split('"').next().unwrap_or_default().to_owned()
            })
            .collect::<Vec<_>>()
    };
    let before = refused(&gateway.process.log()).len();
    assert_eq!(client.upgrade("/v1/device", headers).status, 401);
    wait_until("the refusal is logged", PATIENCE, || refused(&gateway.process.log()).len() > before);
    assert_eq!(refused(&gateway.process.log())[before], expected, "{headers:?}");
}

/// A device lives behind it.
fn lives_behind(gateway: &Gateway, proxy: &Haproxy) {
    let token = gateway.token("d", TENANT, &["device"]);
    let mut device = RawClient::connect(proxy.addr());
    device.open("/v1/device?boot=b", &[("Authorization", &format!("Bearer {token}"))]);
    stores(&mut device, 1);
}

#[test]
fn the_proxy_protocol_names_the_client_and_nobody_else_can() {
    let gateway = Gateway::build().set("public.proxy_protocol", "true").start();
    let proxy = Haproxy::speaking(Speaks::ProxyV2, &[&gateway]);
    lives_behind(&gateway, &proxy);
    let spoofed = [("X-Forwarded-For", "203.0.113.9")];
    knocked_from(&gateway, &mut connect("127.0.0.5", proxy.addr()), &[], "127.0.0.5");
    knocked_from(&gateway, &mut connect("127.0.0.6", proxy.addr()), &spoofed, "127.0.0.6");
    // Who brings a header of its own brings it behind the proxy's, where it is no request.
    let mut liar = connect("127.0.0.7", proxy.addr());
    liar.send(b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 443\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let answer = liar.response(PATIENCE).expect("an answer");
    assert_eq!(answer.status, 400);
    // And who comes past the proxy without a header is not heard at all.
    let mut past = connect("127.0.0.8", gateway.public_addr());
    past.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(past.ends_within(Duration::from_secs(15)));
    assert!(!gateway.process.log().contains("203.0.113.9"));
}

#[test]
fn x_forwarded_for_counts_from_trusted_proxies_only() {
    // HAProxy comes from the address that connections to loopback have by themselves.
    let gateway = Gateway::build().set("public.trusted_proxies", "['127.0.0.1']").start();
    let proxy = Haproxy::speaking(Speaks::Http, &[&gateway]);
    lives_behind(&gateway, &proxy);
    let (client, liar) = ("127.0.0.5", "127.0.0.6");
    knocked_from(&gateway, &mut connect(client, proxy.addr()), &[], client);
    // What the client wrote stands to the left of what the proxy adds.
    for spoofed in ["203.0.113.9", "203.0.113.9, 127.0.0.1", "127.0.0.1"] {
        let headers = [("X-Forwarded-For", spoofed)];
        knocked_from(&gateway, &mut connect(client, proxy.addr()), &headers, client);
        // Not a proxy that is trusted: what it writes counts for nothing.
        knocked_from(&gateway, &mut connect(liar, gateway.public_addr()), &headers, liar);
    }
    // The same from the trusted address is believed: it is the network that vouches, not the header.
    let headers = [("X-Forwarded-For", "203.0.113.9")];
    knocked_from(&gateway, &mut connect("127.0.0.1", gateway.public_addr()), &headers, "203.0.113.9");
}
