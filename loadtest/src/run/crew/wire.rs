//! What coordinator and workers say to each other: frames with a length, a kind and JSON or bytes.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Job;
use crate::figures::Figures;
use crate::run::collector::Trouble;
use crate::run::tally::Gauges;

/// Of all this. Both sides must have the same.
pub(super) const VERSION: u32 = 1;
/// Largest frame: a ledger of some hundred million messages.
const FRAME_BYTES: u32 = 1 << 29;

/// The first word of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) process: u32,
}

/// The word to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Start {
    /// After this long: clocks of several machines differ, the way there takes a fraction of a millisecond.
    pub(super) in_ms: u64,
}

/// How a worker stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) gauges: Gauges,
    pub(super) unwelcome: Option<Trouble>,
    pub(super) cpu: f64,
}

/// A message.
pub(super) enum Frame {
    Hello(Hello),
    Job(Box<Job>),
    Ready,
    Start(Start),
    /// What was counted since the last one.
    Sample {
        told: Told,
        figures: Box<Figures>,
    },
    /// Finish, or close at once.
    Order {
        abort: bool,
    },
    Ledger(Vec<u8>),
    Done,
    /// It cannot go on, and why.
    Failed(String),
}

impl Frame {
    fn encode(&self) -> io::Result<(u8, Vec<u8>)> {
        Ok(match self {
            Self::Hello(hello) => (1, serde_json::to_vec(hello)?),
            Self::Job(job) => (2, serde_json::to_vec(job)?),
            Self::Ready => (3, Vec::new()),
            Self::Start(start) => (4, serde_json::to_vec(start)?),
            Self::Sample { told, figures } => {
                let json = serde_json::to_vec(told)?;
                let length = u32::try_from(json.len()).map_err(io::Error::other)?;
                (5, [&length.to_be_bytes()[..], &json, &figures.to_bytes()].concat())
            }
            Self::Order { abort } => (6, vec![u8::from(*abort)]),
            Self::Ledger(bytes) => (7, bytes.clone()),
            Self::Done => (8, Vec::new()),
            Self::Failed(why) => (9, why.as_bytes().to_vec()),
        })
    }

    fn decode(kind: u8, body: Vec<u8>) -> io::Result<Self> {
        Ok(match kind {
            1 => Self::Hello(json(&body)?),
            2 => Self::Job(Box::new(json(&body)?)),
            3 => Self::Ready,
            4 => Self::Start(json(&body)?),
            5 => {
                let (length, rest) = body.split_first_chunk::<4>().ok_or_else(wrong)?;
                let length = u32::from_be_bytes(*length) as usize;
                let (told, figures) = rest.split_at_checked(length).ok_or_else(wrong)?;
                let figures = Figures::from_bytes(figures).map_err(io::Error::other)?;
                Self::Sample { told: json(told)?, figures: Box::new(figures) }
            }
            6 => Self::Order { abort: body == [1] },
            7 => Self::Ledger(body),
            8 => Self::Done,
            9 => Self::Failed(String::from_utf8_lossy(&body).into_owned()),
            _ => return Err(wrong()),
        })
    }
}

fn json<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(io::Error::other)
}

fn wrong() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not what a load tester of this version says")
}

/// Writes a frame.
pub(super) async fn write(out: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let (kind, body) = frame.encode()?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length < FRAME_BYTES);
    let length = length.ok_or_else(|| io::Error::other("larger than a frame may be"))?;
    let mut head = [0; 5];
    head[..4].copy_from_slice(&length.to_be_bytes());
    head[4] = kind;
    out.write_all(&head).await?;
    out.write_all(&body).await?;
    out.flush().await
}

/// Reads a frame. Not to be dropped half-way.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let mut head = [0; 5];
    from.read_exact(&mut head).await?;
    let [length @ .., kind] = head;
    let length = u32::from_be_bytes(length);
    if length >= FRAME_BYTES {
        return Err(wrong());
    }
    let mut body = Vec::new();
    // Grows with what really comes, not with what was announced.
    let read = from.take(u64::from(length)).read_to_end(&mut body).await?;
    if read < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Frame::decode(kind, body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::figures::Count;

    #[tokio::test]
    async fn frames_come_back_as_they_were() {
        let mut figures = Figures::default();
        figures.count(Count::Acked, 7);
        let told = Told { unwelcome: Some(Trouble::Unwelcome("no".into())), cpu: 0.5, ..Told::default() };
        let mut bytes = Vec::new();
        write(&mut bytes, &Frame::Sample { told: told.clone(), figures: Box::new(figures) }).await.unwrap();
        write(&mut bytes, &Frame::Failed("why".into())).await.unwrap();
        let mut rest = &bytes[..];
        let Frame::Sample { told: back, figures } = read(&mut rest).await.unwrap() else { panic!("a sample") };
        assert_eq!((back, figures.counted(Count::Acked)), (told, 7));
        let Frame::Failed(why) = read(&mut rest).await.unwrap() else { panic!("a failure") };
        assert_eq!(why, "why");
        assert!(read(&mut rest).await.is_err());
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 0, 0, 77], &[0, 0, 0, 9, 1, b'{'], &[0, 0, 0, 2, 5, 0, 0]]
        {
            assert!(read(&mut &bytes[..]).await.is_err(), "{bytes:?}");
        }
    }
}
