//! Which commands a device had, and what it said: each is run once, and its answer repeated as often as it is asked for,
//! until the command expires. No I/O and no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::events::Reply;

/// Commands remembered; the one that expires first gives way.
pub const REMEMBERED: usize = 256;
/// How long after its time a command is remembered: clocks and networks are not exact.
const GRACE: Duration = Duration::from_secs(5);
/// No command is remembered longer.
const LONGEST: Duration = Duration::from_secs(8 * 24 * 3_600);

#[derive(Debug)]
enum Stage {
    /// Being run.
    Running,
    /// Will be answered so at this time.
    Due(Instant, Reply),
    /// Was answered.
    Answered(Reply),
}

#[derive(Debug)]
struct Known {
    id: Box<str>,
    until: Instant,
    stage: Stage,
}

/// What is to be done about a command that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Run it.
    New,
    /// It is being run: nothing.
    Running,
    /// It was answered: say the same again.
    Answered(Reply),
}

/// The commands of a device that have not expired.
#[derive(Debug, Default)]
pub struct Answers {
    known: VecDeque<Known>,
}

impl Answers {
    /// A command came that lives for `ttl` from now.
    pub fn heard(&mut self, id: &str, ttl: Duration, now: Instant) -> Heard {
        self.known.retain(|known| known.until > now);
        if let Some(known) = self.known.iter().find(|known| &*known.id == id) {
            return match &known.stage {
                Stage::Answered(reply) => Heard::Answered(reply.clone()),
                Stage::Running | Stage::Due(..) => Heard::Running,
            };
        }
        if self.known.len() >= REMEMBERED {
            let first = self.known.iter().enumerate().min_by_key(|(_, known)| known.until).map(|(place, _)| place);
            first.and_then(|place| self.known.remove(place));
        }
        let until = now + ttl.min(LONGEST) + GRACE;
        self.known.push_back(Known { id: id.into(), until, stage: Stage::Running });
        Heard::New
    }

    /// Whether this is to be said: not for a command nobody knows, nor one that was answered. A final answer is kept.
    pub fn answer(&mut self, id: &str, reply: &Reply) -> bool {
        let Some(known) = self.known.iter_mut().find(|known| &*known.id == id) else { return false };
        if matches!(known.stage, Stage::Answered(_)) {
            return false;
        }
        if reply.is_final() {
            known.stage = Stage::Answered(reply.clone());
        }
        true
    }

    /// It will be answered so at `at`, unless it is answered before.
    pub fn answer_at(&mut self, id: &str, at: Instant, reply: Reply) {
        if let Some(known) = self.known.iter_mut().find(|known| &*known.id == id) {
            known.stage = Stage::Due(at, reply);
        }
    }

    /// When the next answer is due.
    pub fn next_due(&self) -> Option<Instant> {
        let due = |known: &Known| if let Stage::Due(at, _) = &known.stage { Some(*at) } else { None };
        self.known.iter().filter_map(due).min()
    }

    /// An answer that is due, once.
    pub fn due(&mut self, now: Instant) -> Option<(String, Reply)> {
        let is_due = |known: &&mut Known| matches!(&known.stage, Stage::Due(at, _) if *at <= now);
        let known = self.known.iter_mut().find(is_due)?;
        let Stage::Due(_, reply) = std::mem::replace(&mut known.stage, Stage::Running) else { return None };
        if reply.is_final() {
            known.stage = Stage::Answered(reply.clone());
        }
        Some((known.id.to_string(), reply))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_command_is_run_once_and_its_answer_repeated_until_it_expires() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        assert_eq!(answers.heard("c1", MINUTE, now), Heard::New);
        assert_eq!(answers.heard("c1", MINUTE, now), Heard::Running);
        let reply = Reply::with_result("1");
        assert!(answers.answer("c1", &reply));
        assert_eq!(answers.heard("c1", MINUTE, now + MINUTE), Heard::Answered(reply));
        assert!(!answers.answer("c1", &Reply::failed("no")), "the first answer counts");
        assert_eq!(answers.heard("c1", MINUTE, now + 2 * MINUTE), Heard::New);
    }

    #[test]
    fn words_on_the_way_are_no_answer() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        answers.heard("c1", MINUTE, now);
        assert!(answers.answer("c1", &Reply::running()) && answers.answer("c1", &Reply::succeeded()));
        assert!(!answers.answer("c2", &Reply::succeeded()), "nobody asked");
    }

    #[test]
    fn an_answer_that_takes_time_comes_when_it_is_due_and_once() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        answers.heard("c1", MINUTE, now);
        answers.answer_at("c1", now + MINUTE / 2, Reply::succeeded());
        assert_eq!((answers.next_due(), answers.due(now)), (Some(now + MINUTE / 2), None));
        assert_eq!(answers.due(now + MINUTE / 2), Some(("c1".to_owned(), Reply::succeeded())));
        assert_eq!((answers.next_due(), answers.due(now + MINUTE)), (None, None));
        assert_eq!(answers.heard("c1", MINUTE, now + MINUTE / 2), Heard::Answered(Reply::succeeded()));
    }

    #[test]
    fn the_number_remembered_is_bounded_and_what_expires_first_gives_way() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        answers.heard("short", MINUTE, now);
        for number in 0..REMEMBERED {
            answers.heard(&format!("c{number}"), 2 * MINUTE, now);
        }
        assert_eq!(answers.known.len(), REMEMBERED);
        assert_eq!(answers.heard("short", MINUTE, now), Heard::New);
    }
}
