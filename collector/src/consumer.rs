//! Reading partitions, and keeping each at its own pace.
//!
//! One thread reads all partitions of this collector: Kafka's client library has fetched ahead, so reading is a matter
//! of taking from memory, and decoding is what costs. Segments are written elsewhere, and their completion comes back
//! to this thread, so that nothing here needs a lock.
//!
//! The position comes from the store. The broker is told a position too, but only after the rows are durable, and only
//! so that its own tools can show the lag.
//!
//! Three things a broker may do are met here. It may deliver again what lies before the position: dropped. It may have
//! forgotten records that were not read: that stretch becomes a row of `loss`, and reading goes on. And it may know
//! fewer records than we have read (a topic made anew under the old name): then reading on would drop new records as
//! old ones, so the collector stops and says so.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nodescope_service::errors::chain;
use nodescope_service::http::Health;
use nodescope_service::topic::{self, TopicError, without_value};
use nodescope_store::layout::PartitionId;
use nodescope_store::segment::Footer;
use nodescope_store::taken::Recovered;
use nodescope_store::{Store, StoreError};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::util::Timeout;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::assembler::{Assembler, Outcome};
use crate::decoder::{MessageDecoder, Raw};
use crate::ledger::Ledger;
use crate::metrics::CollectorMetrics;
use crate::settings::{CollectorSettings, Partitions};
use crate::writer::{Writer, Written};

/// Longest wait for a message before other duties are looked at.
const POLL: Duration = Duration::from_millis(20);

/// Messages taken between two looks at other duties.
const BURST: usize = 500;

/// How often the broker is told our position.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// How often new partitions of the topic are looked for.
const PARTITIONS_EVERY: Duration = Duration::from_secs(60);

/// Pause before asking a broker again that did not answer.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How long one question to the broker may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a collector stops by itself.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// The store holds something that must not be, or somebody else writes to it.
    #[error("the store cannot be written without risk")]
    Store(#[from] StoreError),
    /// The configuration of the client library is wrong.
    #[error("Kafka's client library refuses its configuration: {0}")]
    Configuration(String),
    /// The broker knows fewer records than have been read from it.
    #[error(
        "{partition} ends at {end} on the broker, before our position {position}: the topic was made anew, or the \
         broker lost records. Give the new topic another name (kafka.topic), so that its records are not taken for old ones"
    )]
    BrokerWentBack {
        /// Which.
        partition: PartitionId,
        /// Next offset on the broker.
        end: u64,
        /// Next offset by the store.
        position: u64,
    },
    /// A partition that the configuration names is not there.
    #[error("topic {topic} has no partition {partition}; see collector.partitions")]
    NoSuchPartition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// A thread could not be started, or died.
    #[error("the consumer's thread ended: {0}")]
    Thread(String),
}

/// Now, microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Reads until told to stop.
///
/// # Errors
/// See [`CollectorError`].
pub async fn run(
    settings: CollectorSettings,
    store: Store,
    ledger: Arc<Ledger>,
    metrics: CollectorMetrics,
    health: Health,
    shutdown: CancellationToken,
) -> Result<(), CollectorError> {
    let (done, ended) = tokio::sync::oneshot::channel();
    let runtime = Handle::current();
    std::thread::Builder::new()
        .name("consumer".into())
        .spawn(move || {
            let (report, reports) = channel();
            let consumer = Reading { settings, store, ledger, metrics, health, shutdown, runtime, report, reports };
            // Nobody waits any more when the process is going down.
            let _ = done.send(consumer.read());
        })
        .map_err(|e| CollectorError::Thread(e.to_string()))?;
    ended.await.unwrap_or_else(|_| Err(CollectorError::Thread("it panicked".into())))
}

/// Takes lag from the library's statistics and its log into ours.
struct Context {
    metrics: CollectorMetrics,
}

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        for topic in statistics.topics.values() {
            for (partition, facts) in &topic.partitions {
                if *partition >= 0 && facts.consumer_lag >= 0 {
                    self.metrics.set_lag(*partition, facts.consumer_lag);
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka");
    }
}

impl ConsumerContext for Context {}

struct Reading {
    settings: CollectorSettings,
    store: Store,
    ledger: Arc<Ledger>,
    metrics: CollectorMetrics,
    health: Health,
    shutdown: CancellationToken,
    runtime: Handle,
    report: Sender<Written>,
    reports: Receiver<Written>,
}

/// One partition that is being read.
struct Lane {
    assembler: Assembler,
    /// A segment is on its way: how many bytes of records it holds.
    writing: Option<usize>,
    /// Position to tell the broker, when it has moved.
    durable: Option<u64>,
    /// A fetch failed because the broker no longer has, or does not have, our position.
    out_of_range: bool,
}

impl Reading {
    fn read(self) -> Result<(), CollectorError> {
        self.health.not_ready("collector", "looking for Kafka");
        let consumer = self.consumer()?;
        let mut lanes: BTreeMap<i32, Lane> = BTreeMap::new();
        if !self.await_partitions(&consumer, &mut lanes)? {
            return Ok(());
        }
        self.health.ready("collector");
        let mut decoder = MessageDecoder::new(self.store.catalogue().clone());
        // The id of this run in every segment it writes.
        let writer_id = uuid::Uuid::now_v7().to_string();
        let writer = Writer::new(self.store.clone(), self.runtime.clone(), self.report.clone(), self.metrics.clone());
        let mut unknown = HashSet::new();
        let (mut committed, mut looked) = (Instant::now(), Instant::now());
        while !self.shutdown.is_cancelled() {
            self.take_reports(&mut lanes)?;
            let buffered: usize = lanes.values().map(|l| l.assembler.bytes() + l.writing.unwrap_or(0)).sum();
            self.metrics.buffered_bytes.set(i64::try_from(buffered).unwrap_or(i64::MAX));
            if buffered < self.settings.buffer_bytes {
                self.take_messages(&consumer, &mut lanes, &mut decoder, &mut unknown);
            } else if let Ok(written) = self.reports.recv_timeout(POLL) {
                self.written(&mut lanes, written)?;
            }
            for (number, lane) in &mut lanes {
                if lane.out_of_range {
                    lane.out_of_range = false;
                    self.meet_out_of_range(&consumer, *number, lane)?;
                }
            }
            self.write_due(&mut lanes, &writer, &writer_id);
            if committed.elapsed() >= COMMIT_EVERY {
                self.tell_broker(&consumer, &mut lanes);
                committed = Instant::now();
            }
            if looked.elapsed() >= PARTITIONS_EVERY {
                looked = Instant::now();
                if let Ok(Some(found)) = topic::partitions_seen_by(&consumer, &self.settings.kafka.topic, PATIENCE) {
                    self.open_lanes(&consumer, &found, &mut lanes)?;
                }
            }
        }
        Ok(())
    }

    fn consumer(&self) -> Result<BaseConsumer<Context>, CollectorError> {
        topic::client_config(&self.settings.kafka, "nodescope-collector")
            // Partitions are assigned by hand; the group only gives the broker's tools a name to show lag under.
            .set("group.id", "nodescope-collector")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "false")
            .set("isolation.level", "read_committed")
            // Take what is there at once; wait a moment only when there is nothing.
            .set("fetch.wait.max.ms", "50")
            .set("fetch.min.bytes", "1")
            .set("fetch.error.backoff.ms", "100")
            .set("queued.max.messages.kbytes", "65536")
            .set("statistics.interval.ms", "5000")
            .create_with_context(Context { metrics: self.metrics.clone() })
            .map_err(|error| misconfigured(&error))
    }

    /// Waits for the topic, and opens its partitions. `false` when told to stop meanwhile.
    fn await_partitions(
        &self,
        consumer: &BaseConsumer<Context>,
        lanes: &mut BTreeMap<i32, Lane>,
    ) -> Result<bool, CollectorError> {
        let mut said = false;
        while !self.shutdown.is_cancelled() {
            let problem = match self.runtime.block_on(topic::ensure(&self.settings.kafka)) {
                Ok(()) => match topic::partitions_seen_by(consumer, &self.settings.kafka.topic, PATIENCE) {
                    Ok(Some(found)) => {
                        self.open_lanes(consumer, &found, lanes)?;
                        return Ok(true);
                    }
                    Ok(None) => format!("topic {} is not there yet", self.settings.kafka.topic),
                    Err(error) => chain(&TopicError::unreachable(&self.settings.kafka, &error)),
                },
                Err(error) => chain(&error),
            };
            self.health.not_ready("collector", problem.clone());
            if !std::mem::replace(&mut said, true) {
                tracing::warn!(problem, "waiting for Kafka");
            }
            std::thread::sleep(ASK_AGAIN);
        }
        Ok(false)
    }

    /// Recovers the partitions that are ours and not yet read, and begins to read them.
    fn open_lanes(
        &self,
        consumer: &BaseConsumer<Context>,
        found: &[i32],
        lanes: &mut BTreeMap<i32, Lane>,
    ) -> Result<(), CollectorError> {
        let topic = &self.settings.kafka.topic;
        let ours: Vec<i32> = match &self.settings.partitions {
            Partitions::All => found.to_vec(),
            Partitions::These(these) => these.clone(),
        };
        let new: Vec<i32> = ours.into_iter().filter(|p| !lanes.contains_key(p)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut assignment = TopicPartitionList::new();
        for number in new {
            if !found.contains(&number) {
                return Err(CollectorError::NoSuchPartition { topic: topic.clone(), partition: number });
            }
            let partition = PartitionId::new(topic.clone(), number);
            let Some(recovered) = self.recover(&partition)? else { return Ok(()) };
            tracing::info!(
                %partition,
                next = recovered.next,
                segments = recovered.segments.len(),
                agents = recovered.taken.runs(),
                "reading"
            );
            self.ledger.begin(partition.clone(), &recovered);
            let start = match recovered.next {
                Some(next) => Offset::Offset(i64::try_from(next).unwrap_or(i64::MAX)),
                None => Offset::Beginning,
            };
            assignment.add_partition_offset(topic, number, start).map_err(|error| misconfigured(&error))?;
            let node = self.settings.node.clone();
            let next = recovered.next.unwrap_or(0);
            let assembler = Assembler::new(self.store.catalogue(), partition, node, next, recovered.taken);
            lanes.insert(number, Lane { assembler, writing: None, durable: None, out_of_range: false });
        }
        consumer.incremental_assign(&assignment).map_err(|error| misconfigured(&error))
    }

    /// What the store knows of a partition, as soon as it answers. `None` when told to stop meanwhile.
    fn recover(&self, partition: &PartitionId) -> Result<Option<Recovered>, CollectorError> {
        while !self.shutdown.is_cancelled() {
            match self.runtime.block_on(self.store.recover(partition)) {
                Ok(recovered) => {
                    self.health.ready("store");
                    return Ok(Some(recovered));
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!(%partition, error = chain(&error), "waiting for the store");
                    self.health.not_ready("store", chain(&error));
                    std::thread::sleep(ASK_AGAIN);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn take_messages(
        &self,
        consumer: &BaseConsumer<Context>,
        lanes: &mut BTreeMap<i32, Lane>,
        decoder: &mut MessageDecoder,
        unknown: &mut HashSet<String>,
    ) {
        let mut wait = POLL;
        for _ in 0..BURST {
            match consumer.poll(Timeout::After(wait)) {
                None => return,
                Some(Ok(message)) => {
                    if let Some(lane) = lanes.get_mut(&message.partition()) {
                        self.take(&message, lane, decoder, unknown, consumer);
                    }
                }
                Some(Err(error)) => {
                    if is_out_of_range(&error) {
                        // The library does not say which partition; asking about each is cheap and rare.
                        lanes.values_mut().for_each(|lane| lane.out_of_range = true);
                    } else {
                        tracing::debug!(%error, "Kafka");
                    }
                    return;
                }
            }
            wait = Duration::ZERO;
        }
    }

    fn take(
        &self,
        message: &BorrowedMessage<'_>,
        lane: &mut Lane,
        decoder: &mut MessageDecoder,
        unknown: &mut HashSet<String>,
        consumer: &BaseConsumer<Context>,
    ) {
        let Ok(offset) = u64::try_from(message.offset()) else { return };
        if offset > lane.assembler.next() {
            // Markers of transactions leave gaps that mean nothing. Records that have expired leave one too.
            self.skip_forgotten(consumer, message.partition(), lane, offset);
        }
        let headers: Vec<(&str, Option<&[u8]>)> =
            message.headers().map(|h| h.iter().map(|h| (h.key, h.value)).collect()).unwrap_or_default();
        let raw = Raw { key: message.key(), headers: &headers, value: message.payload() };
        self.metrics.records.inc();
        self.metrics.record_bytes.inc_by(message.payload_len() as u64);
        match lane.assembler.take(decoder, offset, raw) {
            Outcome::Taken { rows, table, unknown: columns } => {
                self.metrics.took(&table, rows);
                for column in &columns {
                    self.metrics.unknown_column(&table, column, unknown);
                }
            }
            Outcome::Duplicate => self.metrics.dropped("duplicate"),
            Outcome::Past => self.metrics.dropped("past"),
            Outcome::SetAside(reason) => self.metrics.set_aside(reason),
        }
    }

    /// Looks whether the broker's oldest record lies beyond our position, and notes what lies between as lost.
    fn skip_forgotten(&self, consumer: &BaseConsumer<Context>, number: i32, lane: &mut Lane, offset: u64) {
        let topic = &self.settings.kafka.topic;
        let low = consumer.fetch_watermarks(topic, number, Timeout::After(PATIENCE)).ok().map(|(low, _)| low);
        if let Some(low) = low.and_then(|low| u64::try_from(low).ok()) {
            self.count_loss(number, lane.assembler.skip_to(low.min(offset)));
        }
    }

    fn count_loss(&self, number: i32, lost: u64) {
        if lost > 0 {
            self.metrics.lost_offsets.inc_by(lost);
            tracing::error!(
                partition = number,
                records = lost,
                "the broker had forgotten records before they were read"
            );
        }
    }

    /// The broker does not have our position: it forgot what lies there, or never had it.
    fn meet_out_of_range(
        &self,
        consumer: &BaseConsumer<Context>,
        number: i32,
        lane: &mut Lane,
    ) -> Result<(), CollectorError> {
        let topic = &self.settings.kafka.topic;
        let position = lane.assembler.next();
        let Ok((low, high)) = consumer.fetch_watermarks(topic, number, Timeout::After(PATIENCE)) else {
            lane.out_of_range = true;
            return Ok(());
        };
        let (low, high) = (u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0));
        if position > high {
            let partition = PartitionId::new(topic.clone(), number);
            return Err(CollectorError::BrokerWentBack { partition, end: high, position });
        }
        self.count_loss(number, lane.assembler.skip_to(position.max(low)));
        // The library has stopped reading this partition, and seeking does not start it again; assigning it anew does.
        let next = Offset::Offset(i64::try_from(position.max(low)).unwrap_or(i64::MAX));
        let mut again = TopicPartitionList::new();
        again.add_partition_offset(topic, number, next).map_err(|error| misconfigured(&error))?;
        if let Err(error) = consumer.incremental_unassign(&again).and_then(|()| consumer.incremental_assign(&again)) {
            tracing::warn!(partition = number, %error, "cannot go on at the oldest record yet");
            lane.out_of_range = true;
        }
        Ok(())
    }

    fn write_due(&self, lanes: &mut BTreeMap<i32, Lane>, writer: &Writer, writer_id: &str) {
        for lane in lanes.values_mut() {
            let due = lane.assembler.bytes() >= self.settings.segment_bytes
                || lane.assembler.opened().is_some_and(|at| at.elapsed() >= self.settings.segment_every);
            if lane.writing.is_some() || !due {
                continue;
            }
            let bytes = lane.assembler.bytes();
            if let Some(draft) = lane.assembler.cut(writer_id, now_us()) {
                lane.writing = Some(bytes);
                writer.write(draft);
            }
        }
    }

    fn take_reports(&self, lanes: &mut BTreeMap<i32, Lane>) -> Result<(), CollectorError> {
        while let Ok(written) = self.reports.try_recv() {
            self.written(lanes, written)?;
        }
        Ok(())
    }

    fn written(&self, lanes: &mut BTreeMap<i32, Lane>, written: Written) -> Result<(), CollectorError> {
        let footer: Footer = written?;
        if let Some(oldest) = footer.parts.iter().map(|p| p.ts.0).min() {
            let age = Duration::from_micros(u64::try_from(now_us() - oldest).unwrap_or(0));
            self.metrics.durable_after_seconds.observe(age.as_secs_f64());
        }
        if let Some(lane) = lanes.get_mut(&footer.partition.partition) {
            lane.writing = None;
            lane.durable = Some(footer.next);
        }
        self.ledger.add(footer);
        Ok(())
    }

    /// Tells the broker how far we are. Only for its tools: nothing depends on it.
    fn tell_broker(&self, consumer: &BaseConsumer<Context>, lanes: &mut BTreeMap<i32, Lane>) {
        let mut positions = TopicPartitionList::new();
        for (number, lane) in lanes {
            if let Some(next) = lane.durable.take() {
                let offset = Offset::Offset(i64::try_from(next).unwrap_or(i64::MAX));
                let _ = positions.add_partition_offset(&self.settings.kafka.topic, *number, offset);
            }
        }
        if positions.count() > 0
            && let Err(error) = consumer.commit(&positions, CommitMode::Async)
        {
            tracing::debug!(%error, "the broker was not told our position");
        }
    }
}

fn misconfigured(error: &KafkaError) -> CollectorError {
    CollectorError::Configuration(without_value(error))
}

fn is_out_of_range(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::NoOffset)
    )
}
