//! One connection of a device: its socket, its frames, and what waits to be written.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tidegate::protocol::client::{OwnedGatewayMessage, decode_gateway};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::error::Error;
use super::frames::{self, Event, Go, Reader};
use super::options::{Options, TokenRequest, TokenSource};
use super::stream::{self, Stream};
use super::upgrade;
use crate::frame;

/// The largest message taken where the options say nothing.
const MESSAGE_BYTES: usize = 1024 * 1024;
/// Bytes read at once, into a buffer that all connections of a thread share.
const SCRATCH_BYTES: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// A connection with its `welcome` read.
#[derive(Debug)]
pub(super) struct Link {
    stream: Stream,
    pub(super) reader: Reader,
    out: Vec<u8>,
    written: usize,
    unflushed: bool,
    pub(super) deflate: bool,
    pub(super) opened: Instant,
    fresh: bool,
}

/// A new connection and what is known about it.
pub(super) struct Opened {
    pub(super) link: Box<Link>,
    pub(super) welcome: OwnedGatewayMessage,
    pub(super) took: Duration,
    pub(super) tls: Option<Duration>,
}

/// Connects when it is its turn, and awaits the `welcome` within the time the options allow.
pub(super) async fn open(options: Arc<Options>, boot: Arc<str>, fresh: bool, key: [u8; 16]) -> Result<Opened, Error> {
    let _turn = match &options.turns {
        Some(turns) => turns.acquire().await.ok(),
        None => None,
    };
    let opening = async {
        let token = token(&options.token, &options.device_id, fresh).await.map_err(Error::Token)?;
        let stream::Opened { mut stream, began, tls } = stream::open(&options).await?;
        let agreed = upgrade::upgrade(&mut stream, &options, &boot, token.as_deref(), key).await?;
        let limit = options.max_bytes.unwrap_or(MESSAGE_BYTES);
        let mut reader = Reader::new(limit, agreed.deflate);
        let welcome = welcome(&mut stream, &mut reader, &options, &agreed.rest).await?;
        let opened = Instant::now();
        let link = Link {
            stream,
            reader,
            out: Vec::new(),
            written: 0,
            unflushed: false,
            deflate: agreed.deflate,
            opened,
            fresh: true,
        };
        Ok(Opened { link: Box::new(link), welcome, took: opened - began, tls })
    };
    tokio::time::timeout(options.connect_timeout, opening).await.unwrap_or(Err(Error::Timeout))
}

/// A token from where the device has them.
pub(super) async fn token(source: &TokenSource, device_id: &str, fresh: bool) -> Result<Option<String>, String> {
    let request = TokenRequest { device_id, fresh };
    match source {
        TokenSource::None => Ok(None),
        TokenSource::Fixed(token) => Ok(Some(token.as_ref().to_owned())),
        TokenSource::Make(make) => make(request).map(Some),
        TokenSource::Fetch(fetch) => fetch(request).await.map(Some),
    }
}

/// Reads up to the first message, which has to be the `welcome`; what came behind it stays in the reader.
async fn welcome(
    stream: &mut Stream,
    reader: &mut Reader,
    options: &Options,
    rest: &[u8],
) -> Result<OwnedGatewayMessage, Error> {
    let mut pongs = Vec::new();
    let mut said: Option<String> = None;
    let mut bytes = rest.to_vec();
    loop {
        let mut found = None;
        let read = reader.read(&bytes, &mut |event| {
            found = Some(first(event, options, &mut pongs, &mut said));
            Go::Wait
        });
        bytes.clear();
        read.map_err(|breach| Error::Handshake(breach.what.into()))?;
        if !pongs.is_empty() {
            stream.write_all(&std::mem::take(&mut pongs)).await.map_err(Error::Broken)?;
            stream.flush().await.map_err(Error::Broken)?;
        }
        match found {
            Some(Some(done)) => return done,
            // Something, and not the welcome: there may be more.
            Some(None) if reader.has_rest() => continue,
            _ => {}
        }
        bytes.resize(1024, 0);
        let read = stream.read(&mut bytes).await.map_err(Error::Broken)?;
        bytes.truncate(read);
        if read == 0 {
            return Err(match said {
                Some(reason) => Error::Closed { code: None, reason },
                None => Error::Broken(io::ErrorKind::UnexpectedEof.into()),
            });
        }
    }
}

/// What the first things that come mean: the `welcome`, a failure, or nothing yet.
fn first(
    event: Event<'_>,
    options: &Options,
    pongs: &mut Vec<u8>,
    said: &mut Option<String>,
) -> Option<Result<OwnedGatewayMessage, Error>> {
    match event {
        Event::Message { payload, .. } => match decode_gateway(options.encoding, payload) {
            Ok(message) if message.kind == "welcome" => Some(Ok(message)),
            Ok(message) if message.kind == "error" => {
                *said = Some(words(&message));
                None
            }
            Ok(message) => Some(Err(Error::Handshake(format!("its first message is `{}`", message.kind)))),
            Err(error) => Some(Err(Error::Handshake(error.to_string()))),
        },
        Event::Close(close) => {
            let reason = said.take().or(close.map(|(_, reason)| reason.to_owned())).unwrap_or_default();
            Some(Err(Error::Closed { code: close.map(|(code, _)| code), reason }))
        }
        Event::Ping(payload) => {
            frames::put(pongs, frame::PONG, payload, [0; 4]);
            None
        }
        Event::Pong => None,
    }
}

/// Code and text of an `error`.
pub(super) fn words(message: &OwnedGatewayMessage) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}: {}", part(&message.code), part(&message.message))
}

impl Link {
    /// Whether nothing was read since the `welcome`; once.
    pub(super) fn is_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// What is written next goes behind the rest of it.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Reads at most `most` bytes, and hands them to `each` with the reader; how many there were. 0: the end.
    pub(super) fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        each: impl FnOnce(&mut Reader, &[u8]) -> T,
    ) -> Poll<io::Result<(usize, T)>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let most = most.min(scratch.len());
            let mut into = ReadBuf::new(&mut scratch[..most]);
            ready!(tokio::io::AsyncRead::poll_read(Pin::new(&mut self.stream), cx, &mut into))?;
            let filled = into.filled();
            Poll::Ready(Ok((filled.len(), each(&mut self.reader, filled))))
        })
    }

    /// Writes what waits; how many bytes went. Pending where the peer takes no more.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, went: &mut usize) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            *went += written;
            self.unflushed = true;
        }
        if self.out.capacity() > 0 {
            // A quiet connection holds no buffer.
            (self.out, self.written) = (Vec::new(), 0);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}
