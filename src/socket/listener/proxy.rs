//! The PROXY protocol, versions 1 and 2: what a load balancer says about whom it forwards.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 2 begins with; no other protocol does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// The longest header of version 1, CRLF included.
const TEXT_BYTES: usize = 107;
/// The longest of version 2 that is taken: addresses are at most 36 bytes, what is beyond are extensions nobody here reads.
const BINARY_BYTES: usize = 1_024;
/// Bytes read at once; what is behind the header is handed on.
const CHUNK_BYTES: usize = 512;

/// Why a connection that had to begin with a PROXY header is closed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It begins with something else.
    #[error("missing or malformed; is `public.proxy_protocol` meant to be on, and is it on in the load balancer?")]
    Malformed,
    /// More extensions than anybody sends.
    #[error("longer than {BINARY_BYTES} bytes")]
    TooLong,
    /// The other side left, or the transport failed.
    #[error("the connection ended: {0}")]
    Gone(#[from] io::Error),
}

/// What a header says: the client's address, where it names one, and its own length in bytes.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    source: Option<SocketAddr>,
    bytes: usize,
}

/// Reads a header. Returns the client's address, where one is named (a health check has none), and what was received
/// behind the header. Takes as long as the other side does: the deadline is the caller's.
///
/// # Errors
/// [`ProxyError`]; nothing is to be answered.
pub(super) async fn read<S>(stream: &mut S) -> Result<(Option<SocketAddr>, Vec<u8>), ProxyError>
where
    S: AsyncRead + Unpin,
{
    let mut received = Vec::new();
    loop {
        if let Some(header) = parse(&received)? {
            received.drain(..header.bytes);
            return Ok((header.source, received));
        }
        let mut chunk = [0; CHUNK_BYTES];
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        received.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
}

/// The header that `received` begins with; none where it is not complete.
fn parse(received: &[u8]) -> Result<Option<Header>, ProxyError> {
    let begins = |with: &[u8]| received.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        binary(received)
    } else if begins(b"PROXY ") {
        text(received)
    } else {
        Err(ProxyError::Malformed)
    }
}

fn binary(received: &[u8]) -> Result<Option<Header>, ProxyError> {
    let Some(&[command, family, high, low]) = received.get(SIGNATURE.len()..FIXED_BYTES) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if command & 0xF0 != 0x20 {
        return Err(ProxyError::Malformed);
    }
    if FIXED_BYTES + length > BINARY_BYTES {
        return Err(ProxyError::TooLong);
    }
    let Some(body) = received.get(FIXED_BYTES..FIXED_BYTES + length) else { return Ok(None) };
    let source = match (command & 0x0F, family) {
        // LOCAL: the load balancer itself, for a health check.
        (0, _) => None,
        (1, 0x11 | 0x12) => Some(address::<4>(body, 8)?),
        (1, 0x21 | 0x22) => Some(address::<16>(body, 32)?),
        (1, _) => None,
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Some(Header { source, bytes: FIXED_BYTES + length }))
}

/// The source out of source address, destination address, source port, destination port.
fn address<const N: usize>(body: &[u8], port_at: usize) -> Result<SocketAddr, ProxyError>
where
    IpAddr: From<[u8; N]>,
{
    let ip = body.first_chunk::<N>().ok_or(ProxyError::Malformed)?;
    let Some(&[high, low, _, _]) = body.get(port_at..port_at + 4) else { return Err(ProxyError::Malformed) };
    Ok(SocketAddr::new(IpAddr::from(*ip), u16::from_be_bytes([high, low])))
}

fn text(received: &[u8]) -> Result<Option<Header>, ProxyError> {
    let head = received.get(..received.len().min(TEXT_BYTES)).unwrap_or_default();
    let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") else {
        return if received.len() < TEXT_BYTES { Ok(None) } else { Err(ProxyError::Malformed) };
    };
    let line = head.get(..end).and_then(|line| std::str::from_utf8(line).ok()).ok_or(ProxyError::Malformed)?;
    let bytes = end + 2;
    let words: Vec<&str> = line.split(' ').collect();
    let source = match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4", source, destination, port, other_port] => {
            Some(pair::<Ipv4Addr>(source, destination, port, other_port)?)
        }
        ["PROXY", "TCP6", source, destination, port, other_port] => {
            Some(pair::<Ipv6Addr>(source, destination, port, other_port)?)
        }
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Some(Header { source, bytes }))
}

fn pair<A>(source: &str, destination: &str, port: &str, other_port: &str) -> Result<SocketAddr, ProxyError>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let ip = |text: &str| text.parse::<A>().map_err(|_| ProxyError::Malformed);
    let number = |text: &str| text.parse::<u16>().map_err(|_| ProxyError::Malformed);
    let source = SocketAddr::new(ip(source)?.into(), number(port)?);
    ip(destination)?;
    number(other_port)?;
    Ok(source)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn binary_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, body].concat()
    }

    /// How a header is judged, byte by byte: incomplete until its last one.
    fn judge(header: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end])?, None, "{end} bytes");
        }
        let behind = [header, b"\x16\x03\x01"].concat();
        let parsed = parse(&behind)?.expect("it is complete");
        assert_eq!(parsed.bytes, header.len());
        Ok(parsed.source)
    }

    #[test]
    fn both_versions_name_the_client() {
        let v4 = Some("192.0.2.7:40000".parse().unwrap());
        let v6 = Some("[2001:db8::7]:40000".parse().unwrap());
        assert_eq!(judge(b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 443\r\n").unwrap(), v4);
        assert_eq!(judge(b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\n").unwrap(), v6);
        let body = [&[192, 0, 2, 7, 192, 0, 2, 1][..], &40_000_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat();
        assert_eq!(judge(&binary_header(0x21, 0x11, &body)).unwrap(), v4);
        assert_eq!(judge(&binary_header(0x21, 0x11, &[&body[..], &[4, 0, 1, 9]].concat())).unwrap(), v4);
        let from: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let body = [&from.octets()[..], &[0; 16], &40_000_u16.to_be_bytes(), &[0, 0]].concat();
        assert_eq!(judge(&binary_header(0x21, 0x21, &body)).unwrap(), v6);
    }

    #[test]
    fn a_health_check_names_nobody() {
        assert_eq!(judge(b"PROXY UNKNOWN\r\n").unwrap(), None);
        assert_eq!(judge(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n").unwrap(), None);
        assert_eq!(judge(&binary_header(0x20, 0, &[])).unwrap(), None);
        assert_eq!(judge(&binary_header(0x21, 0x31, &[0; 216])).unwrap(), None);
    }

    #[test]
    fn case_13_garbage_is_refused_at_its_first_wrong_byte_and_length_is_bounded() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01\x02\x00",
            b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            &[b"PROXY UNKNOWN ", [b'x'; 200].as_slice()].concat(),
            &binary_header(0x31, 0x11, &[0; 12]),
            &binary_header(0x22, 0x11, &[0; 12]),
            &binary_header(0x21, 0x11, &[0; 11]),
        ] {
            assert!(matches!(parse(bad), Err(ProxyError::Malformed)), "{bad:?}");
        }
        assert!(matches!(parse(b"X"), Err(ProxyError::Malformed)));
        assert!(matches!(parse(&binary_header(0x21, 0x11, &[0; 65_000])), Err(ProxyError::TooLong)));
    }
}
