//! A topic read whole and then followed, by everybody for himself: no group, no commits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::{KafkaConfig, Listener, METADATA_TRY, StartError, check_topics, describe, lacking, serve_token, verdict};

/// How long one poll waits; also how soon a follower notices that it is to stop.
const POLL: Duration = Duration::from_millis(100);
/// How often the brokers are asked whether the topic is there, and in how many partitions.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long they may take to answer: meanwhile nothing is read.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// Who is given what a topic holds. Called on the follower's thread; must not block.
pub trait Reader: Send + 'static {
    /// One record, in the order of its partition.
    fn record(&mut self, key: Option<&[u8]>, value: Option<&[u8]>);

    /// Whether the topic can be read: told every 10 s.
    fn readable(&mut self, is: bool);
}

/// Reads on until it is dropped.
pub struct Follower(Arc<AtomicBool>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Follower {
    /// Reads the topic (a name without its prefix) from its beginning and returns once its end was reached; then follows it
    /// on a thread of its own. Blocks for up to `timeout`: call it from a thread that may (`spawn_blocking`).
    ///
    /// # Errors
    /// [`StartError`]: `Topic` where it is missing or may not be read, `Unreachable` where its end was not reached in time.
    pub fn start(
        config: &KafkaConfig,
        topic: &str,
        timeout: Duration,
        reader: impl Reader,
    ) -> Result<Self, StartError> {
        let end = Instant::now() + timeout;
        let name = config.topic(topic);
        check_topics(config, std::slice::from_ref(&name), timeout)?;
        let stop = Arc::new(AtomicBool::new(false));
        let follower = Self(Arc::clone(&stop));
        let (sender, begun) = sync_channel(1);
        let (config, waited) = (config.clone(), timeout);
        let thread = format!("kafka-{topic}");
        let spawned = std::thread::Builder::new().name(thread).spawn(move || {
            let following = Following::begin(&config, name, end, reader);
            run(following, &config, waited, &stop, &sender);
        });
        spawned.map_err(|error| StartError::Thread(error.to_string()))?;
        // The thread tells how it began, or is gone.
        begun.recv().unwrap_or_else(|_| Err(StartError::Thread("it ended at once".to_owned())))?;
        Ok(follower)
    }
}

fn run<R: Reader>(
    following: Result<Following<R>, StartError>,
    config: &KafkaConfig,
    waited: Duration,
    stop: &AtomicBool,
    begun: &SyncSender<Result<(), StartError>>,
) {
    let told = match following {
        Err(error) => begun.send(Err(error)),
        Ok(mut following) => match following.read_whole(config, waited, stop) {
            Err(error) => begun.send(Err(error)),
            Ok(()) => {
                let told = begun.send(Ok(()));
                following.follow(stop);
                told
            }
        },
    };
    // Nobody hears it where the start was given up.
    let _ = told;
}

struct Following<R> {
    consumer: BaseConsumer<Listener>,
    topic: String,
    partitions: BTreeSet<i32>,
    /// Those that were not yet read to their end.
    unread: BTreeSet<i32>,
    end: Instant,
    reader: R,
    /// Something went wrong since the last look.
    trouble: Option<String>,
    readable: bool,
    /// Why it may not be read at all.
    forbidden: Option<String>,
}

impl<R: Reader> Following<R> {
    fn begin(config: &KafkaConfig, topic: String, end: Instant, reader: R) -> Result<Self, StartError> {
        let client = config.follower()?;
        let consumer: BaseConsumer<Listener> =
            client.create_with_context(Listener::new(config)?).map_err(|error| StartError::Config(describe(&error)))?;
        serve_token(&consumer);
        Ok(Self {
            consumer,
            topic,
            partitions: BTreeSet::new(),
            unread: BTreeSet::new(),
            end,
            reader,
            trouble: None,
            readable: true,
            forbidden: None,
        })
    }

    /// Takes up partitions that are not read yet.
    fn look(&mut self, within: Duration) -> Result<(), String> {
        let found = self.consumer.fetch_metadata(Some(&self.topic), within).map_err(|error| error.to_string())?;
        verdict(&found, &self.topic).map_err(|code| code.to_string())?;
        let topic = found.topics().iter().find(|topic| topic.name() == self.topic);
        let there = topic.into_iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id());
        let new: Vec<i32> = there.filter(|id| !self.partitions.contains(id)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for id in &new {
            let added = list.add_partition_offset(&self.topic, *id, Offset::Beginning);
            added.map_err(|error| error.to_string())?;
        }
        self.consumer.incremental_assign(&list).map_err(|error| error.to_string())?;
        self.unread.extend(&new);
        self.partitions.extend(new);
        Ok(())
    }

    fn read_whole(&mut self, config: &KafkaConfig, waited: Duration, stop: &AtomicBool) -> Result<(), StartError> {
        while self.partitions.is_empty() || !self.unread.is_empty() {
            if self.partitions.is_empty() {
                self.trouble = self.look(METADATA_TRY).err().or(self.trouble.take());
            }
            self.poll();
            if let Some(reason) = self.forbidden.take() {
                return Err(StartError::Topic { topic: self.topic.clone(), reason });
            }
            if Instant::now() >= self.end || stop.load(Ordering::Relaxed) {
                let heard = self.consumer.context().heard();
                let why = self.trouble.take().unwrap_or(heard);
                let reason = format!("topic {} was not read to its end: {why}", self.topic);
                return Err(StartError::Unreachable { brokers: config.brokers.clone(), waited, reason });
            }
        }
        self.trouble = None;
        self.reader.readable(true);
        Ok(())
    }

    fn poll(&mut self) {
        match self.consumer.poll(POLL) {
            None => {}
            Some(Ok(message)) => self.reader.record(message.key(), message.payload()),
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(self.unread.remove(&partition)),
            Some(Err(error)) => {
                if let Some(code @ RDKafkaErrorCode::TopicAuthorizationFailed) = error.rdkafka_error_code() {
                    self.forbidden = Some(lacking(code, "READ"));
                }
                // It has an id of a group, as librdkafka wants, and uses none: whether it might is of no interest.
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
                    self.trouble = Some(error.to_string());
                }
            }
        }
    }

    fn follow(&mut self, stop: &AtomicBool) {
        let mut looked = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            self.poll();
            if looked.elapsed() >= LOOK_EVERY {
                let trouble = self.look(LOOK_WITHIN).err().or(self.trouble.take());
                self.trouble = None;
                self.tell(trouble.as_deref());
                looked = Instant::now();
            }
        }
    }

    fn tell(&mut self, trouble: Option<&str>) {
        match trouble {
            Some(reason) if self.readable => {
                tracing::warn!(topic = self.topic, reason, "a topic cannot be read: what was read last holds");
            }
            None if !self.readable => tracing::info!(topic = self.topic, "the topic is read again"),
            _ => {}
        }
        self.readable = trouble.is_none();
        self.reader.readable(self.readable);
    }
}
