//! A span while it is under way, and what is left of it at its end.

use std::borrow::Cow;
use std::time::{Instant, SystemTime};

use super::{TraceContext, Tracer};

/// On which side of what a span stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Answers somebody.
    Server,
    /// Asks somebody and waits.
    Client,
    /// Hands something over that is worked at later.
    Producer,
    /// Works at what was handed over.
    Consumer,
    /// Neither.
    Internal,
}

/// What an attribute says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::from(number as u64)
    }
}

/// A span that has ended.
#[derive(Debug, Clone)]
pub struct SpanRecord {
    /// What was done.
    pub name: Cow<'static, str>,
    /// On which side.
    pub kind: SpanKind,
    /// Its own place.
    pub context: TraceContext,
    /// What it is a part of.
    pub parent: Option<TraceContext>,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// What else has to do with it.
    pub links: Vec<TraceContext>,
    /// Why it came to nothing, where it did.
    pub error: Option<Cow<'static, str>>,
}

#[derive(Debug)]
struct Open {
    tracer: Tracer,
    began: Instant,
    record: Option<SpanRecord>,
}

/// A span under way. It ends when it is dropped.
#[derive(Debug)]
pub struct Span(Box<Open>);

impl Span {
    pub(super) fn begin(
        tracer: Tracer,
        name: Cow<'static, str>,
        kind: SpanKind,
        context: TraceContext,
        parent: Option<TraceContext>,
    ) -> Self {
        let start = SystemTime::now();
        let (attributes, links) = (Vec::with_capacity(12), Vec::new());
        let record = SpanRecord { name, kind, context, parent, start, end: start, attributes, links, error: None };
        Self(Box::new(Open { tracer, began: Instant::now(), record: Some(record) }))
    }

    /// Its place, for what is done below it.
    pub fn context(&self) -> TraceContext {
        // It is there until the span ends.
        self.0.record.as_ref().map_or_else(TraceContext::draw, |record| record.context)
    }

    /// Notes something about it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) -> &mut Self {
        if let Some(record) = &mut self.0.record {
            record.attributes.push((key, value.into()));
        }
        self
    }

    /// Notes that something else has to do with it.
    pub fn link(&mut self, context: TraceContext) -> &mut Self {
        if let Some(record) = &mut self.0.record {
            record.links.push(context);
        }
        self
    }

    /// Notes that it began at an earlier moment.
    pub fn since(&mut self, began: Instant) -> &mut Self {
        let open = &mut *self.0;
        if let Some(record) = &mut open.record {
            let earlier = open.began.saturating_duration_since(began);
            record.start = record.start.checked_sub(earlier).unwrap_or(record.start);
            open.began = open.began.min(began);
        }
        self
    }

    /// Notes that it came to nothing, and why: a word or two that come from a closed list. The first reason stands.
    pub fn fail(&mut self, why: impl Into<Cow<'static, str>>) -> &mut Self {
        if let Some(record) = self.0.record.as_mut().filter(|record| record.error.is_none()) {
            record.error = Some(why.into());
        }
        self
    }

    /// Makes it never have been.
    pub fn discard(mut self) {
        self.0.record = None;
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Open { tracer, began, record } = &mut *self.0;
        if let Some(mut record) = record.take() {
            // By the clock that does not jump.
            record.end = record.start.checked_add(began.elapsed()).unwrap_or(record.start);
            tracer.send(record);
        }
    }
}
