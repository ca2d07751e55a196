//! One device of a run: whether it is there, what it measures, and when.

use std::sync::atomic::Ordering;
use std::time::Instant;

use fastrand::Rng;

use super::identity::Name;
use super::watch::Return;
use crate::data::Instrument;
use crate::device::{Encoding, Handle, How, Kind, Malformed, Manners, Options, Reconnect, Then, Update};
use crate::ledger::digest;
use crate::profile::{self, Away, Encodings, Group, Sizes, Spacing};

/// Where a device is by its own will.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Place {
    /// Not come yet, or gone since fewer are wanted.
    Out,
    /// There, so far as it can be.
    Here,
    /// Asleep, in a dead zone, or away by churn, until this moment, s since the run began.
    Away(f64),
}

/// A device.
pub(super) struct Slot {
    pub(super) number: u32,
    pub(super) group: usize,
    pub(super) place: Place,
    /// Told apart from what was planned before it went out the last time.
    pub(super) visit: u32,
    /// Counts its absences and returns: told apart from what was planned before the last of them.
    pub(super) stay: u32,
    /// When it came the last time, s since the run began.
    pub(super) since: f64,
    pub(super) boot: u32,
    pub(super) handle: Option<Handle>,
    pub(super) returns: Return,
    pub(super) rng: Rng,
    instrument: Instrument,
    /// When its last update was due, on its clock.
    last: f64,
}

impl Slot {
    pub(super) fn new(number: u32, seed: u64, group: usize, data: profile::Kind) -> Self {
        let seed = seed ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            number,
            group,
            place: Place::Out,
            visit: 0,
            stay: 0,
            since: 0.0,
            boot: 0,
            handle: None,
            returns: Return::default(),
            rng: Rng::with_seed(seed),
            instrument: Instrument::new(data, seed),
            last: 0.0,
        }
    }

    /// A number between two.
    pub(super) fn between(&mut self, [low, high]: [f64; 2]) -> f64 {
        low + self.rng.f64() * (high - low)
    }

    /// When its first update is due on its clock, which shows `clock` as it comes.
    pub(super) fn first_due(&mut self, group: &Group, clock: f64) -> f64 {
        self.last = match group.spacing {
            Spacing::Even => clock + self.rng.f64() * group.every_s,
            Spacing::Random => clock + self.exponential() * group.every_s,
            Spacing::Together => (clock / group.every_s).ceil() * group.every_s,
        };
        self.last
    }

    /// When the next one is due, on its clock.
    pub(super) fn next_due(&mut self, group: &Group) -> f64 {
        self.last += match group.spacing {
            Spacing::Even | Spacing::Together => group.every_s,
            Spacing::Random => self.exponential() * group.every_s,
        };
        self.last
    }

    fn exponential(&mut self) -> f64 {
        -(1.0 - self.rng.f64()).ln()
    }

    /// When updates that were due at `at` could first be sent.
    pub(super) fn sendable(&self, at: f64) -> f64 {
        match self.place {
            Place::Away(until) => at.max(until),
            Place::Out | Place::Here => at,
        }
    }

    /// What is due: an update, or a status report.
    pub(super) fn measure(&mut self, group: &Group, kind: Kind, due: Instant, timestamp_ms: i64) -> Update {
        let (name, value) = match kind {
            Kind::Update => {
                let bytes = self.size(group);
                let reading = self.instrument.read(group.every_s as f32 / group.batch as f32, bytes);
                (Some(reading.name.to_owned()), reading.value)
            }
            Kind::Status => (None, self.instrument.status(group.status_every_s.unwrap_or(60.0) as f32)),
        };
        let digest = digest(kind.as_str(), name.as_deref(), &value, Some(timestamp_ms));
        Update { kind, name, value, timestamp_ms: Some(timestamp_ms), due, digest }
    }

    fn size(&mut self, group: &Group) -> usize {
        let Some([low, high]) = group.bytes else { return 0 };
        let chance = match group.sizes {
            Sizes::Even => self.rng.f64(),
            // One in ten is above half-way, one in a hundred above nine tenths.
            Sizes::Skewed => self.rng.f64().powi(4),
        };
        (f64::from(low) + chance * f64::from(high - low)) as usize
    }

    /// Whether this device has the group's absences.
    pub(super) fn absences<'a>(&self, group: &'a Group) -> Option<&'a Away> {
        // Another step than that of the groups, so that every part of a group has its share.
        let chance = (f64::from(self.number) * 0.754_877_666_246_692_8).fract();
        group.away.as_ref().filter(|away| chance < away.share)
    }

    /// Ends its connection and stays away until then; where a connection is to come by itself that is at once.
    pub(super) fn leave(&mut self, how: How, until: f64) {
        self.place = Place::Away(until);
        if let Some(handle) = &self.handle {
            handle.disconnect(how, Then::StayAway);
        }
    }

    /// Comes back, as was planned for `at_us`.
    pub(super) fn come_back(&mut self, at_us: u64) {
        self.place = Place::Here;
        self.returns.store(at_us.max(1), Ordering::Relaxed);
        if let Some(handle) = &self.handle {
            handle.connect();
        }
    }
}

/// How a device connects and behaves: the same for its number in every run of a profile.
pub(super) fn options(slot: &Slot, group: &Group, run: &str, url: &str, name: &Name) -> Result<Options, String> {
    let mut options = Options::new(url, &name.device).map_err(|error| error.to_string())?;
    options.boot = Some(format!("{run}-{}", slot.boot).into());
    let mut rng = Rng::with_seed(u64::from(slot.number) ^ 0x7469_6465);
    options.encoding = encoding(&group.encodings, rng.f64());
    options.deflate = rng.f64() < group.deflate;
    options.close_drop = rng.f64() < group.close_drop;
    options.heartbeat_s = group.heartbeat_s.map(u64::from);
    options.max_bytes = group.max_bytes.map(|bytes| bytes as usize);
    options.buffer = group.buffer as usize;
    options.batch = 64.max(group.batch as usize);
    options.manners = match group.manners {
        profile::Manners::Good => Manners::Good,
        profile::Manners::ReadsSlowly => Manners::ReadsSlowly { bytes_per_s: group.bytes_per_s.unwrap_or(1) },
        profile::Manners::ReadsNothing => Manners::ReadsNothing,
        profile::Manners::Stock => Manners::IgnoresGoaway,
        profile::Manners::Malformed => Manners::Malformed(Malformed::ALL[rng.usize(..Malformed::ALL.len())]),
    };
    options.reconnect = match group.manners {
        profile::Manners::Malformed => Reconnect::Stubborn,
        profile::Manners::Stock => Reconnect::UnlessClosed,
        _ => Reconnect::Advised,
    };
    Ok(options)
}

/// The encoding of a device by its place between 0 and 1.
fn encoding(shares: &Encodings, place: f64) -> Encoding {
    let at = place * (shares.json + shares.cbor + shares.protobuf);
    if at < shares.json {
        Encoding::Json
    } else if at < shares.json + shares.cbor {
        Encoding::Cbor
    } else {
        Encoding::Protobuf
    }
}

/// A handle is ended without a word, and nobody waits for it.
pub(super) fn end_without_a_word(handle: Option<Handle>) {
    if let Some(handle) = handle {
        tokio::spawn(handle.kill());
    }
}
