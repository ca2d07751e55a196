//! A topic read by all nodes together: each record by one of them, committed once it was handled.
//!
//! A thread of its own polls; each partition has a task that handles its records one after another, and a short queue in
//! front. Where the queue is full the partition is paused. A record whose partition goes to another node while it is
//! handled is handled there once more: handling must bear that.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::oauth::{self, Tokens};
use super::{KafkaConfig, StartError};
use crate::eventlog::{Content, Fetched, Handler};
use crate::sync::lock;

/// Records of a partition that wait for its task.
const QUEUE: usize = 16;
/// Headers kept of a record, and their bytes.
const HEADERS: usize = 64;
const HEADER_BYTES: usize = 16 * 1024;
/// How long one poll waits: what was handled is noted in between.
const POLL: Duration = Duration::from_millis(100);
/// Between two log lines about the same trouble.
const ALERT_EVERY: Duration = Duration::from_secs(30);
/// After this a member that failed for good joins anew.
const JOIN_AGAIN: Duration = Duration::from_secs(5);

/// Who reads what.
#[derive(Debug, Clone)]
pub struct GroupSettings {
    /// The topic's name without its prefix, which also ends the group's name: `tidegate-commands`.
    pub topic: &'static str,
    /// This node's name: it has the same partitions again when it comes back within the session's 15 s.
    pub member: String,
    /// A longer key or value is not handed over.
    pub value_bytes: usize,
}

/// Reads until it is stopped or dropped.
pub struct GroupReader {
    shared: Arc<Shared>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

struct Shared {
    /// Full name.
    topic: String,
    /// The group's.
    group: String,
    tokens: Option<Arc<Tokens>>,
    value_bytes: usize,
    handler: Arc<dyn Handler>,
    runtime: Handle,
    stop: AtomicBool,
    lanes: Mutex<HashMap<i32, Lane>>,
    /// The last offset of each partition that was handled and not noted yet.
    handled: Mutex<HashMap<i32, i64>>,
    alerted: Mutex<Option<Instant>>,
}

/// One partition. Ends its task when it is dropped.
struct Lane {
    queue: mpsc::Sender<Fetched>,
    /// What found the queue full; the partition is paused while there is any.
    waiting: VecDeque<Fetched>,
    paused: bool,
    task: AbortHandle,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl GroupReader {
    /// Joins the group from a thread of its own. Neither missing topics nor brokers that are away are errors: it is tried
    /// until it works, and said in the log.
    ///
    /// # Errors
    /// [`StartError`]: `Config`, `Thread`.
    pub fn start(
        config: &KafkaConfig,
        settings: &GroupSettings,
        handler: Arc<dyn Handler>,
        runtime: Handle,
    ) -> Result<Self, StartError> {
        let client = config.group_member(settings.topic, &settings.member)?;
        let shared = Arc::new(Shared {
            topic: config.topic(settings.topic),
            group: config.group(settings.topic),
            tokens: config.tokens()?,
            value_bytes: settings.value_bytes,
            handler,
            runtime,
            stop: AtomicBool::new(false),
            lanes: Mutex::default(),
            handled: Mutex::default(),
            alerted: Mutex::default(),
        });
        let (sender, ended) = oneshot::channel();
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("kafka-{}", settings.topic))
            .spawn(move || {
                run(&own, &client);
                // Nobody waits where it was only dropped.
                let _ = sender.send(());
            })
            .map_err(|error| StartError::Thread(error.to_string()))?;
        Ok(Self { shared, ended: Mutex::new(Some(ended)) })
    }

    /// Stops reading, commits what was handled and waits for that, but not longer than `within`.
    pub async fn stop(&self, within: Duration) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = lock(&self.ended).take();
        if let Some(ended) = ended
            && tokio::time::timeout(within, ended).await.is_err()
        {
            tracing::warn!(topic = self.shared.topic, "what was handled last may not be committed: it is read again");
        }
    }
}

impl Drop for GroupReader {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

struct Member(Arc<Shared>);

type Joined = BaseConsumer<Member>;

impl ClientContext for Member {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        oauth::give(self.0.tokens.as_ref())
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        if (level as i32) <= (RDKafkaLogLevel::Error as i32) {
            tracing::warn!(topic = self.0.topic, facility, "librdkafka: {text}");
        } else {
            tracing::debug!(topic = self.0.topic, facility, "librdkafka: {text}");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(topic = self.0.topic, %error, reason, "Kafka is not well");
    }
}

impl ConsumerContext for Member {
    /// Called within a poll.
    fn pre_rebalance(&self, consumer: &Joined, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(revoked) = rebalance {
            self.0.note_handled(consumer);
            let mut lanes = lock(&self.0.lanes);
            for partition in revoked.elements() {
                lanes.remove(&partition.partition());
            }
        }
    }
}

fn run(shared: &Arc<Shared>, config: &ClientConfig) {
    while !shared.is_stopped() {
        let joined: Result<Joined, _> = config.create_with_context(Member(Arc::clone(shared)));
        match joined.and_then(|consumer| consumer.subscribe(&[&shared.topic]).map(|()| consumer)) {
            Ok(consumer) => {
                shared.read(&consumer);
                shared.note_handled(&consumer);
                lock(&shared.lanes).clear();
                // Commits what was noted.
                drop(consumer);
            }
            Err(error) => shared.alert(&error),
        }
        let again = Instant::now() + JOIN_AGAIN;
        while !shared.is_stopped() && Instant::now() < again {
            std::thread::sleep(POLL);
        }
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Until it is to stop, or the member has failed for good.
    fn read(self: &Arc<Self>, consumer: &Joined) {
        while !self.is_stopped() {
            match consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => self.take(consumer, &message),
                Some(Err(error)) => {
                    self.alert(&error);
                    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
                        return;
                    }
                }
            }
            self.note_handled(consumer);
            self.go_on(consumer);
        }
    }

    fn take(self: &Arc<Self>, consumer: &Joined, message: &BorrowedMessage<'_>) {
        let fetched = fetched(message, self.value_bytes);
        let mut lanes = lock(&self.lanes);
        let lane = lanes.entry(fetched.partition).or_insert_with(|| self.lane());
        let partition = fetched.partition;
        if lane.waiting.is_empty() {
            match lane.queue.try_send(fetched) {
                Ok(()) => return,
                Err(TrySendError::Full(fetched) | TrySendError::Closed(fetched)) => lane.waiting.push_back(fetched),
            }
        } else {
            lane.waiting.push_back(fetched);
        }
        if !lane.paused {
            lane.paused = true;
            self.check(consumer.pause(&self.list(partition)));
        }
    }

    fn lane(self: &Arc<Self>) -> Lane {
        let (queue, mut records) = mpsc::channel::<Fetched>(QUEUE);
        let shared = Arc::clone(self);
        let task = self.runtime.spawn(async move {
            while let Some(record) = records.recv().await {
                let (partition, offset) = (record.partition, record.offset);
                shared.handler.handle(record).await;
                lock(&shared.handled).insert(partition, offset);
            }
        });
        Lane { queue, waiting: VecDeque::new(), paused: false, task: task.abort_handle() }
    }

    /// Has what was handled committed with the next commit.
    fn note_handled(&self, consumer: &Joined) {
        for (partition, offset) in std::mem::take(&mut *lock(&self.handled)) {
            // One that is no longer this node's is read again by another.
            if let Err(error) = consumer.store_offset(&self.topic, partition, offset) {
                tracing::debug!(topic = self.topic, partition, %error, "a record handled here is another node's now");
            }
        }
    }

    /// Moves what waits into the queues, and lets partitions go on whose queue is half empty.
    fn go_on(&self, consumer: &Joined) {
        let mut lanes = lock(&self.lanes);
        for (partition, lane) in lanes.iter_mut().filter(|(_, lane)| lane.paused) {
            while let Some(fetched) = lane.waiting.pop_front() {
                if let Err(TrySendError::Full(fetched) | TrySendError::Closed(fetched)) = lane.queue.try_send(fetched) {
                    lane.waiting.push_front(fetched);
                    break;
                }
            }
            if lane.waiting.is_empty() && lane.queue.capacity() >= QUEUE / 2 {
                lane.paused = false;
                self.check(consumer.resume(&self.list(*partition)));
            }
        }
    }

    fn list(&self, partition: i32) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        list
    }

    fn check(&self, result: Result<(), KafkaError>) {
        if let Err(error) = result {
            self.alert(&error);
        }
    }

    fn alert(&self, error: &KafkaError) {
        let mut alerted = lock(&self.alerted);
        if alerted.is_some_and(|at| at.elapsed() < ALERT_EVERY) {
            return;
        }
        *alerted = Some(Instant::now());
        let what = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {
                "this topic is missing: make it with `tidegate topics --apply`; it is looked for again"
            }
            Some(RDKafkaErrorCode::FencedInstanceId) => {
                "another node has this node's name (node.name): it reads in its place; joined again"
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                "this user may not read this topic: let it (the right READ); it is tried again"
            }
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                "this user may not read as this group: let it (the right READ on the group); it is tried again"
            }
            _ => "this topic cannot be read just now; it is tried again",
        };
        tracing::warn!(topic = self.topic, group = self.group, %error, "{what}");
    }
}

fn fetched(message: &BorrowedMessage<'_>, value_bytes: usize) -> Fetched {
    let value = match message.payload() {
        None => Content::None,
        Some(value) if value.len() > value_bytes => Content::TooLarge(value.len()),
        Some(value) => Content::Bytes(value.to_vec()),
    };
    let mut room = HEADER_BYTES;
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter()).take(HEADERS);
    let headers = headers.map_while(|header| {
        let value = header.value.unwrap_or_default();
        room = room.checked_sub(header.key.len() + value.len())?;
        Some((header.key.to_owned(), value.to_vec()))
    });
    Fetched {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().filter(|key| key.len() <= value_bytes).map(<[u8]>::to_vec),
        value,
        headers: headers.collect(),
    }
}
