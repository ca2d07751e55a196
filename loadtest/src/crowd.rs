//! Many connections on one thread and one epoll: held quiet, given one message each, or in a closed loop (a fixed number
//! of updates in flight on each).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::telemetry::unix_ms;
use crate::wire::{Connection, SCRATCH_BYTES, STEP_TIMEOUT, Target, failed};

/// How many connections are being made at once.
pub const AT_ONCE: usize = 16;
/// How long a thread may not look whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Open connections and what drives them.
pub struct Crowd {
    pub(crate) members: Vec<Connection>,
    pub(crate) poll: Poll,
    pub(crate) scratch: Vec<u8>,
}

/// Calls `make` for each number from `first` on, [`AT_ONCE`] at once, and gives what came of it in any order.
///
/// # Errors
/// The first failure.
pub fn many<T: Send>(first: u64, count: usize, make: impl Fn(u64) -> io::Result<T> + Sync) -> io::Result<Vec<T>> {
    let next = AtomicU64::new(first);
    let end = first + count as u64;
    let work = || -> io::Result<Vec<T>> {
        let mut made = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= end {
                return Ok(made);
            }
            // Whoever fails ends the others' work too.
            made.push(make(number).inspect_err(|_| next.store(end, Ordering::Relaxed))?);
        }
    };
    let mut all = Vec::with_capacity(count);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            all.extend(worker.join().map_err(|_| failed("a connecting thread panicked"))??);
        }
        Ok(all)
    })
}

impl Crowd {
    /// Opens connections for the devices numbered from `first`.
    ///
    /// # Errors
    /// The first that fails.
    pub fn open(target: &Target, first: u64, count: usize) -> io::Result<Self> {
        let mut members = many(first, count, |number| Connection::open(target, number))?;
        let poll = Poll::new()?;
        for (place, member) in members.iter_mut().enumerate() {
            poll.registry().register(member.socket(), Token(place), Interest::READABLE | Interest::WRITABLE)?;
        }
        Ok(Self { members, poll, scratch: vec![0; SCRATCH_BYTES] })
    }

    /// Waits for something to happen and handles it; `on` gets each connection that settled updates, and how many.
    fn turn(
        &mut self,
        events: &mut Events,
        mut on: impl FnMut(&mut Connection, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        wait(&mut self.poll, events, Some(LOOK_EVERY))?;
        for event in &*events {
            let Some(member) = self.members.get_mut(event.token().0) else { continue };
            let mut settled = 0;
            member.receive(&mut self.scratch, |range| settled += range.end - range.start)?;
            if settled > 0 {
                on(member, settled)?;
            }
            member.flush()?;
        }
        Ok(())
    }

    /// One update of `bytes` on every connection, a few at a time, each awaited.
    ///
    /// # Errors
    /// When a connection fails or its ack takes longer than 20 s.
    pub fn one_each(&mut self, bytes: usize) -> io::Result<()> {
        let mut events = Events::with_capacity(AT_ONCE);
        for first in (0..self.members.len()).step_by(AT_ONCE) {
            let places = first..self.members.len().min(first + AT_ONCE);
            for member in &mut self.members[places.clone()] {
                member.publish_large(bytes)?;
            }
            let begin = Instant::now();
            while self.members[places.clone()].iter().any(|member| member.settled() < member.sent()) {
                self.turn(&mut events, |_, _| Ok(()))?;
                if begin.elapsed() > STEP_TIMEOUT {
                    return Err(failed(format!("no ack of a message of {bytes} bytes within 20 s")));
                }
            }
            self.members[places].iter_mut().for_each(Connection::shrink);
        }
        Ok(())
    }

    /// Keeps every connection answered (pings) until stopped.
    pub fn hold(self) -> Running {
        Running::start(self, 0)
    }

    /// Keeps `in_flight` updates unanswered on each connection; as many as were settled are sent again, in one write.
    pub fn closed_loop(self, in_flight: u64) -> Running {
        Running::start(self, in_flight)
    }
}

/// Polls, again where a signal came between.
pub(crate) fn wait(poll: &mut Poll, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
    match poll.poll(events, timeout) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other,
    }
}

/// A crowd at work on a thread of its own.
pub struct Running {
    stop: Arc<AtomicBool>,
    settled: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<Crowd>>,
}

impl Running {
    fn start(mut crowd: Crowd, in_flight: u64) -> Self {
        let (stop, settled) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, count) = (stop.clone(), settled.clone());
        let thread = thread::spawn(move || {
            let mut events = Events::with_capacity(1024);
            for member in &mut crowd.members {
                member.publish(in_flight, unix_ms())?;
            }
            while !stopped.load(Ordering::Relaxed) {
                let now = unix_ms();
                crowd.turn(&mut events, |member, settled| {
                    count.fetch_add(settled, Ordering::Relaxed);
                    if in_flight == 0 { Ok(()) } else { member.publish(settled, now) }
                })?;
            }
            Ok(crowd)
        });
        Self { stop, settled, thread }
    }

    /// Updates settled so far.
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// Stops it and gives the connections back.
    ///
    /// # Errors
    /// What a connection failed of on the way: a figure over connections of which some are gone would flatter.
    pub fn stop(self) -> io::Result<Crowd> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| failed("the generator's thread panicked"))?
    }
}
