//! The reader and the writer against fastwebsockets.

use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket, WebSocketError};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

/// What fastwebsockets lets pass and we do not, by the words of our violation.
const STRICTER: [&str; 7] = [
    "client frame without a mask",
    "control frame above 125 bytes",
    "length not in its shortest form",
    "new message inside a fragmented one",
    // It drops a character that the last fragment leaves unfinished.
    "text that is not UTF-8",
    // Its limit is that of one frame.
    "message above the size limit",
    "message in too many fragments",
];

/// What we find in a header that is not whole, or before the payload came, and fastwebsockets only afterwards.
const EARLIER: [&str; 6] = [
    "reserved bit set",
    "RSV1 set where nothing was negotiated for it",
    "reserved opcode",
    "fragmented control frame",
    "continuation of no message",
    "length with its top bit set",
];

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn socket(stream: DuplexStream, role: Role) -> WebSocket<DuplexStream> {
    let mut socket = WebSocket::after_handshake(stream, role);
    socket.set_auto_pong(false);
    socket.set_max_message_size(1 << 20);
    socket
}

fn keep(frame: &Frame<'_>) -> Got {
    let payload = frame.payload.to_vec();
    match frame.opcode {
        OpCode::Text => Got::Message(true, payload),
        OpCode::Binary => Got::Message(false, payload),
        OpCode::Ping => Got::Ping(payload),
        OpCode::Pong => Got::Pong(payload),
        OpCode::Close => Got::Close(
            payload
                .split_first_chunk::<2>()
                .map(|(code, reason)| (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).unwrap())),
        ),
        OpCode::Continuation => panic!("a collector gives whole messages"),
    }
}

/// What fastwebsockets reads from `bytes` in `role`, and how it ends, if not by a close.
fn theirs(bytes: &[u8], role: Role) -> (Vec<Got>, Option<WebSocketError>) {
    run(async {
        let (mut client, server) = tokio::io::duplex(bytes.len() + (1 << 20));
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let mut socket = fastwebsockets::FragmentCollector::new(socket(server, role));
        let mut got = Vec::new();
        loop {
            match socket.read_frame().await {
                Ok(frame) => got.push(keep(&frame)),
                Err(error) => return (got, Some(error)),
            }
            if matches!(got.last(), Some(Got::Close(_))) {
                return (got, None);
            }
        }
    })
}

/// Holds what we read against what they read; the rule that explains a difference.
fn compare(bytes: &[u8]) -> Result<Option<&'static str>, TestCaseError> {
    let config = DecoderConfig { message_bytes: 1 << 20, fragments: 128, deflate: false };
    let (mut ours, _) = read_cut(&config, bytes, &[usize::MAX]);
    let verdict = match ours.last() {
        Some(Got::Violation(_, what)) => Some(*what),
        _ => None,
    };
    if verdict.is_some() {
        ours.pop();
    }
    let (got, end) = theirs(bytes, Role::Server);
    let common = ours.len().min(got.len());
    prop_assert_eq!(&ours[..common], &got[..common]);
    let eof = matches!(end, Some(WebSocketError::UnexpectedEOF));
    match (verdict, end) {
        // Both took everything, or both refused the same frame.
        (None, None) => prop_assert_eq!(ours.len(), got.len()),
        (None, Some(_)) if eof => prop_assert_eq!(ours.len(), got.len()),
        (Some(_), Some(_)) if !eof && ours.len() == got.len() => {}
        // They look at the text of each fragment as it comes, we at the end of the message.
        (_, Some(WebSocketError::InvalidUTF8)) if ours.len() >= got.len() => return Ok(Some("late")),
        // 1014 has been registered since.
        (None, Some(WebSocketError::InvalidCloseCode)) => {
            prop_assert!(matches!(ours.last(), Some(Got::Close(Some((1014, _))))));
        }
        (Some(what), _) if STRICTER.contains(&what) && got.len() >= ours.len() => return Ok(Some(what)),
        (Some(what), Some(_)) if eof && EARLIER.contains(&what) => prop_assert_eq!(ours.len(), got.len()),
        (verdict, end) => prop_assert!(false, "ours {verdict:?} after {ours:?}, theirs {end:?} after {got:?}"),
    }
    Ok(None)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_fastwebsockets_reads_differently_is_on_the_list(bytes in any_stream()) {
        compare(&bytes)?;
    }
}

#[test]
fn the_list_of_stricter_rules_is_true() {
    let cases = [
        (vec![FIN | TEXT, 1, b'x'], STRICTER[0]),
        (frame(FIN | PONG, &[0; 126]), STRICTER[1]),
        ([&[FIN | TEXT, 0xfe, 0, 1], &MASK[..], &[b'x' ^ MASK[0]]].concat(), STRICTER[2]),
        ([frame(TEXT, b"a"), frame(FIN | CONT, b"b"), frame(TEXT, b"a"), frame(TEXT, b"b")].concat(), STRICTER[3]),
        (fragments(&[b"a", b"\xce"], TEXT), STRICTER[4]),
        (fragments(&[&[0; 600_000], &[0; 600_000]], BINARY), STRICTER[5]),
        (fragments(&[&b"x"[..]; 129], TEXT), STRICTER[6]),
    ];
    for (bytes, rule) in cases {
        assert_eq!(compare(&bytes).unwrap(), Some(rule));
    }
}

#[test]
fn a_fastwebsockets_client_reads_what_the_writer_writes() {
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
        let payload = vec![b'x'; length];
        encoder::message(&mut bytes, length % 2 == 0, &payload, None);
        expected.push(Got::Message(length % 2 == 0, payload));
    }
    encoder::ping(&mut bytes, b"");
    encoder::pong(&mut bytes, &[7; 200]);
    encoder::close(&mut bytes, 4001, "slow_consumer");
    expected.extend([Got::Ping(vec![]), Got::Pong(vec![7; 125]), Got::Close(Some((4001, "slow_consumer".to_owned())))]);
    let (got, end) = theirs(&bytes, Role::Client);
    assert!(end.is_none(), "{end:?}");
    assert_eq!(got, expected);
}

#[test]
fn the_reader_reads_what_a_fastwebsockets_client_writes() {
    let bytes = run(async {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        let mut client = socket(client, Role::Client);
        let payload = vec![b'x'; 60_000];
        client.write_frame(Frame::text(Payload::Borrowed("κόσμε".as_bytes()))).await.unwrap();
        client.write_frame(Frame::new(false, OpCode::Binary, None, Payload::Borrowed(&payload))).await.unwrap();
        client.write_frame(Frame::new(true, OpCode::Ping, None, Payload::Borrowed(b"p"))).await.unwrap();
        client.write_frame(Frame::new(true, OpCode::Continuation, None, Payload::Borrowed(b"end"))).await.unwrap();
        client.write_frame(Frame::close(1000, b"bye")).await.unwrap();
        drop(client);
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).await.unwrap();
        bytes
    });
    let long = [&[b'x'; 60_000][..], b"end"].concat();
    let expected = [
        Got::Message(true, "κόσμε".into()),
        Got::Ping(b"p".to_vec()),
        Got::Message(false, long),
        Got::Close(Some((1000, "bye".to_owned()))),
    ];
    assert_eq!(read(&PLAIN, &bytes), expected);
}
