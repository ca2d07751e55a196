//! An open loop: a fixed rate of updates over all connections, whatever the peer does. Latency counts from the moment an
//! update was due, so that neither a slow peer nor a late generator makes it smaller.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::crowd::{Crowd, wait};
use crate::telemetry::unix_ms;
use crate::wire::failed;

const TIMER: Token = Token(usize::MAX);
/// How long acks are awaited after the last update.
const GRACE: Duration = Duration::from_secs(5);

/// No latency is longer: runs are over before. A histogram of fixed bounds, as one that grows would do so while it counts.
const LONGEST_US: u64 = 600_000_000;

/// A rate and how long it is kept.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Updates a second, over all connections.
    pub rate: f64,
    /// Updates due before this are sent and not counted.
    pub warm: Duration,
    /// How long updates are counted after that.
    pub span: Duration,
}

/// What was found.
pub struct Found {
    /// µs from the moment an update was due to its ack, of every update due in the span. One that was never acked counts
    /// with the time until it was given up.
    pub latencies: Histogram<u64>,
    /// Updates of the span that were not acked five seconds after its end.
    pub unacked: u64,
    /// µs by which the generator itself was late with a send, of the same updates: part of `latencies`.
    pub lateness: Histogram<u64>,
}

/// An open loop at work on a thread of its own.
pub struct Paced {
    settled: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<Found>>,
}

impl Paced {
    /// Starts it.
    pub fn start(crowd: Crowd, pace: Pace) -> Self {
        let settled = Arc::<AtomicU64>::default();
        let count = settled.clone();
        Self { settled, thread: thread::spawn(move || Schedule::new(pace, crowd)?.run(&count)) }
    }

    /// Updates settled so far.
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When a connection failed, or nothing was sent at all.
    pub fn finish(self) -> io::Result<Found> {
        self.thread.join().map_err(|_| failed("the generator's thread panicked"))?
    }
}

/// Who sends when: update `place` of all is due `place` periods after the beginning, on connection `place % connections`.
struct Schedule {
    crowd: Crowd,
    begin: Instant,
    period: Duration,
    warm: u64,
    total: u64,
    found: Found,
}

impl Schedule {
    fn new(pace: Pace, crowd: Crowd) -> io::Result<Self> {
        let histogram = || Histogram::new_with_max(LONGEST_US, 3).map_err(io::Error::other);
        let updates = |length: Duration| (pace.rate * length.as_secs_f64()) as u64;
        Ok(Self {
            crowd,
            begin: Instant::now() + Duration::from_millis(20),
            period: Duration::from_secs_f64(1.0 / pace.rate),
            warm: updates(pace.warm),
            total: updates(pace.warm + pace.span),
            found: Found { latencies: histogram()?, unacked: 0, lateness: histogram()? },
        })
    }

    fn due(&self, place: u64) -> Instant {
        self.begin + Duration::from_nanos(self.period.as_nanos() as u64 * place)
    }

    fn run(mut self, settled: &AtomicU64) -> io::Result<Found> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let descriptor = timer.as_raw_fd();
        self.crowd.poll.registry().register(&mut SourceFd(&descriptor), TIMER, Interest::READABLE)?;
        let mut events = Events::with_capacity(1024);
        let (mut next, mut answered) = (0, 0);
        let last = self.due(self.total) + GRACE;
        while answered < self.total && Instant::now() < last {
            if next < self.total {
                // Epoll's own timeout is in milliseconds, which is longer than what is measured.
                let left = self.due(next).saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
                let it_value = Timespec::try_from(left).map_err(io::Error::other)?;
                let once = Itimerspec { it_interval: Timespec::default(), it_value };
                timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
            }
            wait(&mut self.crowd.poll, &mut events, Some(GRACE))?;
            for event in events.iter().filter(|event| event.token() != TIMER) {
                let count = self.receive(event.token().0)?;
                answered += count;
                settled.fetch_add(count, Ordering::Relaxed);
            }
            next = self.send_due(next)?;
        }
        self.count_unacked();
        if self.found.latencies.is_empty() { Err(failed("no update was due in the span")) } else { Ok(self.found) }
    }

    /// Sends what is due and gives the place of what is not.
    fn send_due(&mut self, mut next: u64) -> io::Result<u64> {
        let (now, unix) = (Instant::now(), unix_ms());
        while next < self.total && self.due(next) <= now {
            let who = (next % self.crowd.members.len() as u64) as usize;
            self.crowd.members[who].publish(1, unix)?;
            if next >= self.warm {
                let late = now.saturating_duration_since(self.due(next)).as_micros() as u64;
                self.found.lateness.saturating_record(late);
            }
            next += 1;
        }
        Ok(next)
    }

    fn receive(&mut self, who: usize) -> io::Result<u64> {
        let mut settled: Vec<Range<u64>> = Vec::new();
        let Some(member) = self.crowd.members.get_mut(who) else { return Ok(0) };
        member.flush()?;
        member.receive(&mut self.crowd.scratch, |range| settled.push(range))?;
        let now = Instant::now();
        let mut count = 0;
        for own in settled.into_iter().flatten() {
            self.record(own, who, now);
            count += 1;
        }
        Ok(count)
    }

    /// Update `own` of connection `who`, counted from 0 on each, was settled or given up `at` this moment.
    fn record(&mut self, own: u64, who: usize, at: Instant) {
        let place = own * self.crowd.members.len() as u64 + who as u64;
        if place >= self.warm {
            let took = at.saturating_duration_since(self.due(place)).as_micros() as u64;
            self.found.latencies.saturating_record(took);
        }
    }

    fn count_unacked(&mut self) {
        let now = Instant::now();
        for who in 0..self.crowd.members.len() {
            let (settled, sent) = (self.crowd.members[who].settled(), self.crowd.members[who].sent());
            for own in settled..sent {
                self.record(own, who, now);
                self.found.unacked += 1;
            }
        }
    }
}
