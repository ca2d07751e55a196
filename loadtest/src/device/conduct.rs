//! Between the frames and the state: what each message means, who is told of it, and what is written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::protocol::client::OwnedGatewayMessage;

use super::answers;
use super::codec::{self, Batch, Heard};
use super::events::{Acked, Answer, Answered, Command, Dropped, Goaway, Refused, Reply, Sent, Watcher};
use super::frames::{self, Breach, Event, Go};
use super::handle::Shared;
use super::link::{Link, words};
use super::options::{Malformed, Manners, Options, TokenSource};
use super::outbox::Kept;
use super::state::State;
use super::{Update, misbehave};
use crate::frame;

/// With more than this waiting for the socket nothing is added.
const WAITING: usize = 64 * 1024;
/// Chance adds at most this to the renewal of a token.
const AUTH_JITTER: Duration = Duration::from_secs(1);
/// Most messages in a frame, by the protocol.
const BATCH: usize = 1_000;

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// The gateway closed it.
    Told { code: Option<u16>, reason: String },
    /// It broke.
    Lost(String),
    /// The device closes it with this code.
    Ours { code: u16, reason: String },
}

/// A device but for its sockets.
pub(super) struct Conduct {
    pub(super) options: Arc<Options>,
    pub(super) shared: Arc<Shared>,
    pub(super) watcher: Box<dyn Watcher>,
    pub(super) state: State,
    /// Set where what was read ends the connection.
    pub(super) ending: Option<Ending>,
    /// What an `error` said on this connection.
    pub(super) said: Option<String>,
    /// When the next connection is to be opened, by a `goaway`.
    pub(super) move_at: Option<Instant>,
    /// When a fresh token is to be fetched.
    pub(super) auth_at: Option<Instant>,
}

impl Drop for Conduct {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Conduct {
    /// Takes an update in.
    pub(super) fn take(&mut self, seq: u64, update: &Update) {
        let bytes = codec::update(self.options.encoding, update, seq).into_boxed_slice();
        let oldest = self.state.outbox.push(Kept::new(seq, update.digest, update.due, bytes));
        if let Some(kept) = oldest {
            self.dropped(&kept);
        }
    }

    pub(super) fn dropped(&mut self, kept: &Kept) {
        let (boot, sent) = (&**self.shared.boot(), kept.times > 0);
        self.watcher.dropped(&Dropped { boot, seq: kept.seq, digest: kept.digest, due: kept.due, sent });
    }

    pub(super) fn acked(&mut self, kept: &Kept, at: Instant, resumed: bool) {
        self.watcher.acked(&Acked {
            boot: self.shared.boot(),
            seq: kept.seq,
            digest: kept.digest,
            due: kept.due,
            sent: kept.first_sent.unwrap_or(at),
            at,
            times: kept.times,
            resumed,
        });
    }

    /// Ends the connection for what the gateway did.
    pub(super) fn breach(&mut self, breach: Breach) {
        self.watcher.violation(breach.what);
        self.ending = Some(Ending::Ours { code: breach.code, reason: breach.what.to_owned() });
    }

    /// Something came. What is answered goes to `out`.
    pub(super) fn event(&mut self, event: Event<'_>, now: Instant, deflate: bool, out: &mut Vec<u8>) -> Go {
        match event {
            Event::Ping(payload) => {
                let mask = self.state.plan.bytes();
                frames::put(out, frame::PONG, payload, mask);
            }
            Event::Pong => {}
            Event::Close(close) => {
                let (code, reason) = close.map_or((None, ""), |(code, reason)| (Some(code), reason));
                self.ending = Some(Ending::Told { code, reason: reason.to_owned() });
            }
            Event::Message { text, payload } => {
                if text != self.options.encoding.is_text() {
                    self.breach(Breach {
                        code: 1003,
                        what: "the gateway sent the wrong kind of frame for the encoding",
                    });
                } else {
                    match codec::decode(self.options.encoding, payload) {
                        Ok(Heard::Ack(seq)) => self.ack(seq, now),
                        Ok(Heard::Other(message)) => self.message(&message, now, deflate, out),
                        Err(_) => self.breach(Breach { code: 1007, what: "the gateway sent what is no message" }),
                    }
                }
            }
        }
        if self.ending.is_some() { Go::Wait } else { Go::On }
    }

    fn ack(&mut self, seq: u64, now: Instant) {
        let mut settled = Vec::new();
        if self.state.acked(seq, now, |kept| settled.push(kept)).is_err() {
            return self.breach(Breach { code: 1002, what: "the gateway acked what was never sent" });
        }
        settled.iter().for_each(|kept| self.acked(kept, now, false));
    }

    fn message(&mut self, message: &OwnedGatewayMessage, now: Instant, deflate: bool, out: &mut Vec<u8>) {
        let reason = message.reason.as_deref().unwrap_or_default();
        let wait = message.retry_after_ms.map(Duration::from_millis);
        match message.kind.as_str() {
            "refused" => self.refused(message),
            "pause" => {
                self.state.pause(reason);
                self.watcher.paused(reason, wait);
            }
            "resume" => {
                self.state.resume(reason, now);
                self.watcher.resumed(reason);
            }
            "command" => self.command(message, now, deflate, out),
            // The only token there is would not be a fresh one.
            "auth_due" if matches!(self.options.token, TokenSource::Make(_) | TokenSource::Fetch(_)) => {
                self.auth_at = Some(now + self.state.plan.share(AUTH_JITTER));
            }
            "goaway" => self.goaway(reason, wait, message.deadline_ms, now),
            "error" => {
                self.said = Some(words(message));
                self.state.plan.hint(wait.unwrap_or_default(), now);
            }
            "welcome" => self.breach(Breach { code: 1002, what: "the gateway welcomed twice" }),
            // An ack of `auth`, a `pong`, or from a newer gateway.
            _ => {}
        }
    }

    fn refused(&mut self, message: &OwnedGatewayMessage) {
        let kept = message.seq.and_then(|seq| self.state.outbox.refused(seq));
        self.watcher.refused(&Refused {
            boot: self.shared.boot(),
            seq: message.seq,
            digest: kept.map(|kept| kept.digest),
            id: message.id.as_deref(),
            code: message.code.as_deref().unwrap_or_default(),
            message: message.message.as_deref().unwrap_or_default(),
            unsent: false,
        });
    }

    fn goaway(&mut self, reason: &str, wait: Option<Duration>, deadline_ms: Option<u64>, now: Instant) {
        let (wait, deadline) = (wait.unwrap_or_default(), Duration::from_millis(deadline_ms.unwrap_or_default()));
        if self.options.manners == Manners::IgnoresGoaway {
            return self.watcher.goaway(&Goaway { reason, deadline, moves_after: deadline });
        }
        self.state.plan.hint(wait, now);
        let moves_after = self.state.plan.moves_after(wait, deadline);
        if self.options.reconnect != super::Reconnect::Never {
            self.move_at = Some(now + moves_after);
        }
        self.watcher.goaway(&Goaway { reason, deadline, moves_after });
    }

    fn command(&mut self, message: &OwnedGatewayMessage, now: Instant, deflate: bool, out: &mut Vec<u8>) {
        let (Some(id), Some(name)) = (message.id.as_deref(), message.name.as_deref()) else {
            return self.breach(Breach { code: 1002, what: "the gateway sent a command without id or name" });
        };
        let nothing = serde_json::Value::Null;
        let command = Command {
            id,
            name,
            params: message.params.as_ref().unwrap_or(&nothing),
            expires_at_ms: message.expires_at.unwrap_or_default(),
            attempt: message.attempt.unwrap_or(1),
        };
        let ttl = message.expires_at.map_or(Duration::from_secs(60), |at| self.state.time_left(at, now));
        match self.state.answers.heard(id, ttl, now) {
            answers::Heard::New => match self.watcher.command(&command) {
                Answer::Now(reply) => self.answer(id, &reply, deflate, Some(out)),
                Answer::After(wait, reply) => self.state.answers.answer_at(id, now + wait, reply),
                Answer::Later | Answer::Never => {}
            },
            answers::Heard::Running => self.watcher.repeated(&command),
            answers::Heard::Answered(reply) => {
                self.watcher.repeated(&command);
                self.say(id, &reply, deflate, out, true);
            }
        }
    }

    /// Answers a command, where that is still to be done; without a connection the answer is kept for when it comes again.
    pub(super) fn answer(&mut self, id: &str, reply: &Reply, deflate: bool, out: Option<&mut Vec<u8>>) {
        if self.state.answers.answer(id, reply)
            && let Some(out) = out
        {
            self.say(id, reply, deflate, out, false);
        }
    }

    /// Writes an answer.
    pub(super) fn say(&mut self, id: &str, reply: &Reply, deflate: bool, out: &mut Vec<u8>, repeat: bool) {
        let payload = codec::answer(self.options.encoding, id, reply);
        self.put(&payload, deflate, out);
        self.watcher.answered(&Answered { id, status: reply.status, repeat });
    }

    /// Writes a frame.
    pub(super) fn put(&mut self, payload: &[u8], deflate: bool, out: &mut Vec<u8>) {
        let mask = self.state.plan.bytes();
        frames::put_message(out, self.options.encoding.is_text(), payload, deflate, mask);
    }

    /// Writes as many updates as may be written now.
    pub(super) fn fill(&mut self, link: &mut Link, now: Instant) {
        if let Manners::Malformed(kind) = self.options.manners {
            return self.misbehave(kind, link);
        }
        while link.waiting() <= WAITING {
            let batch = self.batch(now);
            if batch.is_empty() {
                return;
            }
            let deflate = link.deflate;
            self.put(&batch.finish(), deflate, link.out());
        }
    }

    fn batch(&mut self, now: Instant) -> Batch {
        let (most, limit) = (self.options.batch.clamp(1, BATCH), self.state.max_message_bytes);
        let heedless = self.options.manners == Manners::IgnoresPause;
        let mut batch = Batch::new(self.options.encoding);
        while batch.len() < most && (heedless || self.state.may_send()) {
            let Some(next) = self.state.outbox.unsent() else { break };
            if next.bytes.len() > limit {
                self.too_large(limit);
                continue;
            }
            if !batch.has_room(next.bytes.len(), limit) {
                break;
            }
            batch.push(&next.bytes);
            let Some((kept, repeat)) = self.state.wrote(now) else { break };
            let (boot, seq, digest, due) = (&**self.shared.boot(), kept.seq, kept.digest, kept.due);
            self.watcher.sent(&Sent { boot, seq, digest, due, at: now, repeat });
        }
        batch
    }

    /// Settles what the gateway would only end the connection for.
    fn too_large(&mut self, limit: usize) {
        let Some(kept) = self.state.outbox.give_up() else { return };
        self.watcher.refused(&Refused {
            boot: self.shared.boot(),
            seq: Some(kept.seq),
            digest: Some(kept.digest),
            id: None,
            code: "too_large",
            message: &format!("{} bytes; the gateway takes {limit}", kept.bytes.len()),
            unsent: true,
        });
    }

    fn misbehave(&mut self, kind: Malformed, link: &mut Link) {
        while link.waiting() <= WAITING {
            let Some(kept) = self.state.outbox.give_up() else { return };
            let mask = self.state.plan.bytes();
            misbehave::put(kind, self.options.encoding, self.state.max_message_bytes, mask, link.out());
            self.dropped(&Kept { times: 1, ..kept });
        }
    }
}
