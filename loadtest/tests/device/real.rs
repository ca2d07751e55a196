//! Devices of the real gateway.

use tidegate_loadtest::device::{Encoding, How, Then, TokenSource, trusting};

use super::gateway::Gateway;
use super::*;

/// An update too large to go uncompressed.
fn large(seq: u64) -> Update {
    Update { value: format!("{{\"n\":{seq},\"text\":\"{}\"}}", "tide ".repeat(100)), ..update(seq) }
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_are_acked_in_every_encoding_compressed_or_not_alone_and_in_batches() {
    let gateway = Gateway::dev(&[]);
    for (encoding, deflate) in Encoding::ALL.into_iter().flat_map(|encoding| [(encoding, false), (encoding, true)]) {
        let (handle, log) = device(Options { encoding, deflate, ..options(&gateway.device_url) });
        log.wait(&format!("connected first=true deflate={deflate}"), 1).await;
        for seq in 1..=100 {
            assert_eq!(handle.update(if seq % 10 == 0 { large(seq) } else { update(seq) }), Ok(seq));
        }
        assert_eq!(handle.flush(PATIENCE).await, 0, "{encoding:?} {:#?}", log.lines());
        assert_eq!((log.count("acked"), log.count("refused"), log.count("violation")), (100, 0, 0), "{encoding:?}");
        assert_eq!(handle.stop().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_resumed_and_nothing_is_lost() {
    let gateway = Gateway::dev(&[]);
    let (handle, log) = device(options(&gateway.device_url));
    for round in 0..5 {
        log.wait("connected", round + 1).await;
        let first = 1 + 200 * round as u64;
        give(&handle, first..=first + 199);
        log.wait("sent", 200 * round + 64).await;
        handle.disconnect(How::Cut, Then::ComeBack);
        handle.connect();
    }
    assert_eq!(handle.flush(PATIENCE).await, 0);
    let acked: Vec<u64> =
        log.lines().iter().filter_map(|line| line.strip_prefix("acked ")?.split(' ').next()?.parse().ok()).collect();
    assert_eq!(acked, (1..=1_000).collect::<Vec<_>>(), "each once, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_an_application_is_answered() {
    let gateway = Gateway::dev(&[]);
    for encoding in Encoding::ALL {
        let (handle, log) = device(Options { encoding, ..options(&gateway.device_url) });
        log.wait("connected", 1).await;
        let sent = tokio::task::block_in_place(|| gateway.send("sensor-001", "blink", "{\"times\":3}"));
        assert_eq!((&sent["state"], &sent["result"]["done"]), (&"succeeded".into(), &true.into()), "{sent}");
        assert_eq!((log.count("command"), log.count("answered")), (1, 1));
        handle.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_is_refused_and_said_to_be() {
    let gateway = Gateway::dev(&[]);
    let token = TokenSource::Fixed("e30.e30.bad".into());
    let (_handle, log) = device(Options { token, ..options(&gateway.device_url) });
    let said = log.wait("failed", 1).await;
    assert!(said.starts_with("failed refused with 401") && said.ends_with("tries again"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_not_there_is_said_not_to_be() {
    let url = format!("ws://127.0.0.1:{}", super::gateway::free_port());
    let (_handle, log) = device(options(&url));
    assert!(log.wait("failed", 1).await.starts_with("failed no connection"));
}

#[test]
fn the_example_stores_what_it_measures() {
    let program = super::gateway::program().parent().unwrap().join("examples/device");
    if !program.exists() {
        eprintln!("NOT RUN: {} is missing; `cargo test` without `--test` builds it", program.display());
        return;
    }
    let gateway = Gateway::dev(&[]);
    let mut command = std::process::Command::new(program);
    command.args([&gateway.device_url, "sensor-001"]);
    let dir = tempfile::tempdir().unwrap();
    let device = super::gateway::Process::start(command, &dir.path().join("device.log"), false);
    super::gateway::wait_for("it stores", PATIENCE, || device.log().contains("stored: 2 of boot").then_some(()));
}

/// With the tokens of this gateway, each for its device.
fn with_token(gateway: &Gateway, device_id: &str) -> Options {
    let token = TokenSource::Fixed(gateway.token(device_id, &["device"]).into());
    let tls = gateway.device_url.starts_with("wss").then(|| trusting(Some(&gateway.ca_file())).unwrap());
    let address = Some(gateway.address());
    Options { token, tls, address, ..Options::new(&gateway.device_url, device_id).unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_with_a_token_updates_are_acked_and_above_the_rate_it_pauses() {
    let gateway = Gateway::serve(true, &["limits.messages_per_s = 20"]);
    let (handle, log) = device(Options { batch: 1, ..with_token(&gateway, "d1") });
    give(&handle, 1..=60);
    assert_eq!(handle.flush(PATIENCE).await, 0, "{:#?}", log.lines());
    assert_eq!((log.count("acked"), log.count("sent")), (60, 60));
    assert!(log.count("paused rate") > 0 && log.count("paused") == log.count("resumed"), "{:#?}", log.lines());
    let stranger = Options { tls: Some(trusting(None).unwrap()), ..with_token(&gateway, "d2") };
    let (_handle, log) = device(stranger);
    assert!(log.wait("failed", 1).await.starts_with("failed TLS failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_sends_its_devices_to_the_other_and_nothing_is_lost() {
    let mut leaving = Gateway::serve(false, &[]);
    let staying = leaving.beside(&[]);
    let balancer = balance(&[leaving.address(), staying.address()]).await;
    let (handle, log) = device(Options { address: Some(balancer), ..with_token(&leaving, "d1") });
    log.wait("connected", 1).await;
    for seq in 1..=300 {
        give(&handle, seq..=seq);
        if seq == 50 {
            leaving.process.signal("TERM");
        }
        // Updates flow all the while; how fast does not matter.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(handle.flush(PATIENCE).await, 0, "{:#?}", log.lines());
    assert_eq!((log.count("acked"), log.count("refused"), log.count("violation")), (300, 0, 0));
    assert_eq!((log.count("goaway"), log.count("connected")), (1, 2), "{:#?}", log.lines());
    assert_eq!(log.count("closed None by Device: it moved; replaced"), 1);
    let status = tokio::task::block_in_place(|| leaving.process.wait(PATIENCE));
    assert!(status.success(), "{status}");
}

/// Passes each connection on to the next of these in turn.
async fn balance(nodes: &[std::net::SocketAddr]) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let nodes = nodes.to_vec();
    tokio::spawn(async move {
        for node in nodes.iter().cycle().copied() {
            let Ok((mut device, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let mut gateway = tokio::net::TcpStream::connect(node).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut device, &mut gateway).await);
            });
        }
    });
    address
}
