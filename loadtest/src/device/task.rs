//! The task of a device: one future, polled when there is something to read, to write, to take in or to wait for no longer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::codec;
use super::conduct::{Conduct, Ending};
use super::error::Error;
use super::events::{By, Closed, Connected, Next, Watcher};
use super::frames;
use super::handle::{Handle, How, Shared, Then};
use super::link::{self, Link, Opened};
use super::options::{Manners, Options};
use super::state::State;

/// How long a connection that is being closed is waited for.
const LEAVING: Duration = Duration::from_secs(2);
/// How long after a token could not be had it is tried again.
const TOKEN_AGAIN: Duration = Duration::from_secs(10);
/// Reads in a row before others get their turn.
const READS: usize = 16;
/// With more than this waiting for the socket nothing is read.
const UNREAD: usize = 1024 * 1024;
/// How often one that reads slowly reads.
const SLOW_TICK: Duration = Duration::from_millis(100);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Begins a device on the present tokio runtime: it connects at once, unless the options say otherwise.
///
/// # Panics
/// Outside a tokio runtime.
pub fn start(options: Options, watcher: Box<dyn Watcher>) -> Handle {
    let mut rng = fastrand::Rng::new();
    let boot = options.boot.clone().unwrap_or_else(|| {
        let drawn: String = std::iter::repeat_with(|| rng.alphanumeric()).take(16).collect();
        drawn.into()
    });
    let shared = Shared::new(boot, options.buffer, options.on_full, options.first_seq);
    let now = Instant::now();
    let conduct = Conduct {
        state: State::new(&options, rng, now),
        shared: Arc::clone(&shared),
        watcher,
        ending: None,
        said: None,
        move_at: None,
        auth_at: None,
        options: Arc::new(options),
    };
    let retry_at = (!conduct.options.starts_offline).then_some(now);
    let task = Task {
        conduct,
        link: None,
        leaving: None,
        opening: None,
        token: None,
        retry_at,
        ended_at: None,
        was_connected: false,
        allowance: Allowance { have: 0.0, at: now },
        timer: None,
        armed: None,
        stopping: false,
    };
    tokio::spawn(task);
    Handle::new(shared)
}

/// What one that reads slowly may read.
struct Allowance {
    have: f64,
    at: Instant,
}

struct Task {
    conduct: Conduct,
    /// The connection that updates go over.
    link: Option<Box<Link>>,
    /// One that is being closed, and until when.
    leaving: Option<(Box<Link>, Instant)>,
    /// One that is being opened: the first, or the next while the present one still works.
    opening: Option<Boxed<Result<Opened, Error>>>,
    /// A fresh token for the present connection.
    token: Option<Boxed<Result<Option<String>, String>>>,
    retry_at: Option<Instant>,
    ended_at: Option<Instant>,
    was_connected: bool,
    allowance: Allowance,
    timer: Option<Pin<Box<Sleep>>>,
    armed: Option<Instant>,
    stopping: bool,
}

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let task = self.get_mut();
        loop {
            let now = Instant::now();
            task.take_in(cx, now);
            task.begin_opening(now);
            task.poll_opening(cx);
            task.poll_token(cx, now);
            task.do_what_is_due(now);
            task.read(cx, now);
            task.write(cx);
            task.poll_leaving(cx, now);
            task.conduct.shared.holds(task.conduct.state.outbox.len());
            if task.stopping && task.leaving.is_none() {
                return Poll::Ready(());
            }
            if task.wait(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Task {
    /// Takes in what the handle was given.
    fn take_in(&mut self, cx: &mut Context<'_>, now: Instant) {
        let mut inbox = self.conduct.shared.inbox();
        if inbox.is_quiet(cx.waker()) {
            return;
        }
        let (updates, answers) = (std::mem::take(&mut inbox.updates), std::mem::take(&mut inbox.answers));
        let (disconnect, connect, stop) =
            (inbox.disconnect.take(), std::mem::take(&mut inbox.connect), inbox.stop.take());
        inbox.stopped |= stop.is_some();
        inbox.is_quiet(cx.waker());
        self.conduct.shared.holds(self.conduct.state.outbox.len() + updates.len());
        drop(inbox);
        updates.iter().for_each(|(seq, update)| self.conduct.take(*seq, update));
        for (id, reply) in answers {
            let (deflate, out) = self.link.as_mut().map_or((false, None), |link| (link.deflate, Some(link.out())));
            self.conduct.answer(&id, &reply, deflate, out);
        }
        if let Some((how, then)) = disconnect {
            self.disconnect(how, then, now);
        }
        if let Some(how) = stop {
            self.disconnect(how, Then::StayAway, now);
            self.stopping = true;
        } else if connect && self.link.is_none() && self.opening.is_none() {
            self.retry_at = Some(now);
        }
    }

    fn disconnect(&mut self, how: How, then: Then, now: Instant) {
        (self.opening, self.retry_at, self.conduct.move_at) = (None, None, None);
        let wait = match then {
            Then::ComeBack => self.conduct.state.plan.ended(None, now),
            Then::StayAway => {
                self.conduct.state.plan.left(now);
                None
            }
        };
        self.retry_at = wait.map(|wait| now + wait);
        let Some(link) = self.link.take() else { return };
        let next = wait.map_or(Next::Nothing, Next::After);
        self.closed(&link, None, "it was told to", By::Device, next, now);
        if how == How::Close {
            self.leave(link, 1000, now);
        }
    }

    /// Opens a connection where it is time to.
    fn begin_opening(&mut self, now: Instant) {
        if self.opening.is_some() || self.stopping {
            return;
        }
        let at = if self.link.is_some() { &mut self.conduct.move_at } else { &mut self.retry_at };
        if at.take_if(|at| *at <= now).is_none() {
            return;
        }
        let (options, boot) = (Arc::clone(&self.conduct.options), Arc::clone(self.conduct.shared.boot()));
        let plan = &mut self.conduct.state.plan;
        let (fresh, key) = (plan.wants_fresh_token(), plan.bytes());
        self.opening = Some(Box::pin(link::open(options, boot, fresh, key)));
    }

    fn poll_opening(&mut self, cx: &mut Context<'_>) {
        let Some(opening) = &mut self.opening else { return };
        let Poll::Ready(opened) = opening.as_mut().poll(cx) else { return };
        self.opening = None;
        let now = Instant::now();
        match opened {
            Ok(opened) => self.welcomed(opened, now),
            Err(error) => {
                let wait = self.conduct.state.plan.failed(&error, now);
                let at = if self.link.is_some() { &mut self.conduct.move_at } else { &mut self.retry_at };
                *at = wait.map(|wait| now + wait);
                self.conduct.watcher.connect_failed(&error, wait.map_or(Next::Nothing, Next::After));
            }
        }
    }

    /// The new connection takes the place of the old.
    fn welcomed(&mut self, opened: Opened, now: Instant) {
        let Opened { link, welcome, took, tls } = opened;
        let away = match self.link.take() {
            Some(old) => {
                self.closed(&old, None, "it moved", By::Device, Next::Replaced, now);
                self.leave(old, 1000, now);
                self.conduct.state.plan.left(now);
                Some(Duration::ZERO)
            }
            None => self.ended_at.map(|ended| now.saturating_duration_since(ended)),
        };
        let mut settled = Vec::new();
        self.conduct.state.welcomed(&welcome, now, |kept| settled.push(kept));
        let state = &self.conduct.state;
        let (heartbeat, window, unacked) = (state.heartbeat(), state.window(), state.outbox.len());
        let connected = Connected {
            boot: self.conduct.shared.boot(),
            device_id: welcome.device_id.as_deref().unwrap_or_default(),
            session: welcome.session.as_deref().unwrap_or_default(),
            epoch: welcome.epoch.unwrap_or_default(),
            first: !std::mem::replace(&mut self.was_connected, true),
            took,
            tls,
            away,
            heartbeat,
            window,
            resume_after: welcome.resume_after,
            deflate: link.deflate,
            unacked,
        };
        self.conduct.watcher.connected(&connected);
        settled.iter().for_each(|kept| self.conduct.acked(kept, now, true));
        self.link = Some(link);
        (self.conduct.said, self.conduct.move_at, self.conduct.auth_at, self.token) = (None, None, None, None);
        (self.retry_at, self.ended_at) = (None, None);
        self.allowance = Allowance { have: 0.0, at: now };
    }

    fn poll_token(&mut self, cx: &mut Context<'_>, now: Instant) {
        if self.conduct.auth_at.take_if(|at| *at <= now).is_some() {
            let options = Arc::clone(&self.conduct.options);
            self.token = Some(Box::pin(async move { link::token(&options.token, &options.device_id, true).await }));
        }
        let Some(token) = &mut self.token else { return };
        let Poll::Ready(token) = token.as_mut().poll(cx) else { return };
        self.token = None;
        match (token, &mut self.link) {
            (Ok(Some(token)), Some(link)) => {
                let payload = codec::auth(self.conduct.options.encoding, &token);
                let deflate = link.deflate;
                self.conduct.put(&payload, deflate, link.out());
            }
            (Err(_), Some(_)) => self.conduct.auth_at = Some(now + TOKEN_AGAIN),
            _ => {}
        }
    }

    fn do_what_is_due(&mut self, now: Instant) {
        while let Some((id, reply)) = self.conduct.state.answers.due(now) {
            if let Some(link) = &mut self.link {
                let deflate = link.deflate;
                self.conduct.say(&id, &reply, deflate, link.out(), false);
            }
        }
        if self.link.is_some()
            && let Some(overdue) = self.conduct.state.overdue(now, self.reads())
        {
            self.end(Ending::Ours { code: 1000, reason: overdue.what().to_owned() }, now);
        }
    }

    fn reads(&self) -> bool {
        !matches!(self.conduct.options.manners, Manners::ReadsNothing | Manners::ReadsSlowly { .. })
    }

    /// How much may be read now.
    fn may_read(&mut self, now: Instant) -> usize {
        match self.conduct.options.manners {
            Manners::ReadsNothing => 0,
            Manners::ReadsSlowly { bytes_per_s } => {
                let rate = f64::from(bytes_per_s.max(1));
                let passed = now.saturating_duration_since(self.allowance.at).as_secs_f64();
                self.allowance = Allowance { have: (self.allowance.have + passed * rate).min(rate), at: now };
                self.allowance.have as usize
            }
            _ => usize::MAX,
        }
    }

    fn read(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Some(mut link) = self.link.take() else { return };
        if link.is_fresh() {
            // What came behind the welcome.
            let (mut out, deflate, conduct) = (Vec::new(), link.deflate, &mut self.conduct);
            if let Err(breach) = link.reader.read(&[], &mut |event| conduct.event(event, now, deflate, &mut out)) {
                conduct.breach(breach);
            }
            link.out().append(&mut out);
        }
        for turn in 0.. {
            let most = self.may_read(now);
            // Who sends without reading the answers is read no further.
            if most == 0 || self.conduct.ending.is_some() || link.waiting() > UNREAD {
                break;
            }
            if turn == READS {
                cx.waker().wake_by_ref();
                break;
            }
            if self.read_once(&mut link, cx, most).is_pending() {
                break;
            }
        }
        self.link = Some(link);
        if let Some(ending) = self.conduct.ending.take() {
            self.end(ending, Instant::now());
        }
    }

    fn read_once(&mut self, link: &mut Link, cx: &mut Context<'_>, most: usize) -> Poll<()> {
        let (mut out, deflate, conduct) = (Vec::new(), link.deflate, &mut self.conduct);
        let read = link.poll_read(cx, most, |reader, bytes| {
            let now = Instant::now();
            conduct.state.heard(now);
            conduct.watcher.bytes(0, bytes.len());
            reader.read(bytes, &mut |event| conduct.event(event, now, deflate, &mut out))
        });
        let Poll::Ready(read) = read else { return Poll::Pending };
        match read {
            Ok((0, _)) => conduct.ending = Some(Ending::Lost("the connection ended".into())),
            Ok((_, Err(breach))) => conduct.breach(breach),
            Ok((bytes, Ok(()))) => {
                self.allowance.have = (self.allowance.have - bytes as f64).max(0.0);
                link.out().append(&mut out);
            }
            Err(error) => conduct.ending = Some(Ending::Lost(error.to_string())),
        }
        Poll::Ready(())
    }

    fn write(&mut self, cx: &mut Context<'_>) {
        loop {
            let Some(link) = &mut self.link else { return };
            self.conduct.fill(link, Instant::now());
            let mut went = 0;
            let written = link.poll_write(cx, &mut went);
            if went > 0 {
                self.conduct.watcher.bytes(went, 0);
            }
            match written {
                Poll::Ready(Err(error)) => return self.end(Ending::Lost(error.to_string()), Instant::now()),
                // There may be more than fits at once.
                Poll::Ready(Ok(())) if went > 0 => {}
                _ => return,
            }
        }
    }

    /// The connection is over.
    fn end(&mut self, ending: Ending, now: Instant) {
        let Some(mut link) = self.link.take() else { return };
        let hinted = self.conduct.state.plan.has_hint();
        let said = self.conduct.said.take();
        let (code, reason, by) = match &ending {
            Ending::Told { code, reason } => (*code, said.as_ref().unwrap_or(reason), By::Gateway),
            Ending::Lost(_) if said.is_some() || hinted => {
                (None, said.as_ref().unwrap_or(reason_of(&ending)), By::Gateway)
            }
            Ending::Lost(reason) => (None, reason, By::Network),
            Ending::Ours { reason, .. } => (None, reason, By::Device),
        };
        let next = if self.opening.is_some() {
            // The next connection is on its way already.
            self.conduct.state.plan.left(now);
            Next::After(Duration::ZERO)
        } else {
            let wait = self.conduct.state.plan.ended(code, now);
            self.retry_at = wait.map(|wait| now + wait);
            wait.map_or(Next::Nothing, Next::After)
        };
        self.closed(&link, code, reason, by, next, now);
        match ending {
            Ending::Lost(_) => {}
            Ending::Ours { code, .. } => self.leave(link, code, now),
            Ending::Told { code, .. } => {
                // The answer to its close frame, as far as the socket takes it.
                let mask = self.conduct.state.plan.bytes();
                frames::put_close(link.out(), code.unwrap_or(1000), mask);
                let mut cx = Context::from_waker(std::task::Waker::noop());
                let _gone = link.poll_write(&mut cx, &mut 0);
            }
        }
    }

    fn closed(&mut self, link: &Link, code: Option<u16>, reason: &str, by: By, next: Next, now: Instant) {
        let in_flight = self.conduct.state.outbox.in_flight();
        let lasted = now.saturating_duration_since(link.opened);
        self.conduct.watcher.closed(&Closed { code, reason, by, lasted, in_flight, next });
        self.conduct.state.outbox.rewind();
        self.ended_at = Some(now);
        (self.conduct.move_at, self.conduct.auth_at, self.token) = (None, None, None);
    }

    /// Says goodbye and waits a little for the answer.
    fn leave(&mut self, mut link: Box<Link>, code: u16, now: Instant) {
        let mask = self.conduct.state.plan.bytes();
        frames::put_close(link.out(), code, mask);
        self.leaving = Some((link, now + LEAVING));
    }

    fn poll_leaving(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Some((link, until)) = &mut self.leaving else { return };
        let mut over = *until <= now || matches!(link.poll_write(cx, &mut 0), Poll::Ready(Err(_)));
        while !over {
            let mut closed = false;
            let read = link.poll_read(cx, usize::MAX, |reader, bytes| {
                reader.read(bytes, &mut |event| {
                    closed |= matches!(event, frames::Event::Close(_));
                    frames::Go::On
                })
            });
            match read {
                Poll::Pending => return,
                Poll::Ready(Ok((1.., Ok(())))) => over = closed,
                Poll::Ready(_) => over = true,
            }
        }
        self.leaving = None;
    }

    /// When something is to be done though nothing comes.
    fn deadline(&self) -> Option<Instant> {
        let conduct = &self.conduct;
        let open = match (&self.link, &self.opening) {
            (_, Some(_)) => None,
            (Some(_), None) => conduct.move_at,
            (None, None) => self.retry_at,
        };
        let link = self.link.as_ref().map(|_| conduct.state.deadline(self.reads()));
        let slow = match conduct.options.manners {
            Manners::ReadsSlowly { .. } if self.link.is_some() => Some(self.allowance.at + SLOW_TICK),
            _ => None,
        };
        let leaving = self.leaving.as_ref().map(|(_, until)| *until);
        let all = [open, link.flatten(), slow, leaving, conduct.auth_at, conduct.state.answers.next_due()];
        all.into_iter().flatten().min()
    }

    /// Ready when it is time for something; else the timer is set. A timer that is set for earlier stays as it is: moving
    /// it with every message would cost more than waking once too often.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline() else { return Poll::Pending };
        if deadline <= Instant::now() {
            return Poll::Ready(());
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        if self.armed.is_none_or(|armed| armed > deadline) {
            timer.as_mut().reset(deadline.into());
            self.armed = Some(deadline);
        }
        let rung = timer.as_mut().poll(cx);
        if rung.is_ready() {
            self.armed = None;
        }
        rung
    }
}

fn reason_of(ending: &Ending) -> &String {
    match ending {
        Ending::Told { reason, .. } | Ending::Lost(reason) | Ending::Ours { reason, .. } => reason,
    }
}
