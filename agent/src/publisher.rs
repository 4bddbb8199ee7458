//! From rows to Kafka: encode, spool, send, and again until the broker has it.
//!
//! One thread owns the spool and the client library's producer. The library is only a short window on the spool: a
//! record is handed to it, and when the library gives up (a broker that is away) the record is back in the spool, to
//! be offered again. What is new goes first, so that dashboards are current as soon as the broker is; what was left
//! behind follows at a bounded rate, after a pause that differs from agent to agent, because after an outage all of
//! them have a backlog.
//!
//! Records may be sent twice. That is by design: (agent, boot, seq) names each, and the collector takes each once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use nodescope_model::accident::{Accidents, Lost};
use nodescope_model::catalogue::{Catalogue, Table};
use nodescope_model::identity::RecordId;
use nodescope_model::record::{Encoder, Envelope};
use nodescope_model::rows::Stamp;
use nodescope_service::errors::chain;
use nodescope_service::http::Health;
use nodescope_service::kafka::KafkaSettings;
use nodescope_service::topic::{self, without_value};
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::util::Timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics::AgentMetrics;
use crate::spool::{self, Spool, SpoolError, SpoolFacts, SpoolLimits, Spooled};
use crate::ticker::now_us;

/// Batches that wait to be encoded. At a dozen tables a second, more than a minute of a disk that does not answer.
const QUEUE: usize = 1024;

/// Records with the client library at one time.
const WINDOW: usize = 256;

/// Of them, records of the backlog.
const BACKLOG_WINDOW: usize = 128;

/// The spool is made durable this often.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// How often losses are declared: neighbouring ones become one row.
const DECLARE_EVERY: Duration = Duration::from_secs(5);

/// Wait for rows while records are under way: the library tells of their fate only when asked.
const WAIT_BUSY: Duration = Duration::from_millis(50);

/// Time from a tick's first rows to its last.
const GATHER: Duration = Duration::from_millis(25);

/// Wait for rows otherwise.
const WAIT_IDLE: Duration = Duration::from_secs(1);

/// At the end, time for what is under way to arrive. The rest is in the spool.
const FAREWELL: Duration = Duration::from_secs(3);

/// The client library gives a record back after this.
const GIVE_BACK: &str = "30000";

/// What a publisher needs to know.
#[derive(Debug, Clone)]
pub struct PublisherOptions {
    /// How to reach Kafka.
    pub kafka: KafkaSettings,
    /// Id of this installation.
    pub agent: String,
    /// This run of it.
    pub boot: u64,
    /// Identification code of the platform node.
    pub node: String,
    /// Name of the host, the key of every record.
    pub host: String,
    /// Folder of the spool.
    pub spool: PathBuf,
    /// Its bounds.
    pub limits: SpoolLimits,
    /// Records of the backlog sent in a second.
    pub backlog_rate: u32,
    /// The backlog waits for a random part of this after an outage.
    pub backlog_jitter: Duration,
}

/// Why a publisher cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PublisherError {
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The client library.
    #[error("Kafka's client library refuses its configuration: {0}")]
    Configuration(String),
    /// The system gives no thread.
    #[error("cannot start the publisher's thread")]
    Thread(#[source] std::io::Error),
}

/// How the client library is set up to send records.
pub fn producer_config(kafka: &KafkaSettings) -> rdkafka::ClientConfig {
    let mut config = topic::client_config(kafka, "nodescope-agent");
    config
        .set("acks", "all")
        // Records are numbered by us, and duplicates dropped by the collector.
        .set("enable.idempotence", "false")
        .set("compression.type", "zstd")
        .set("compression.level", "1")
        .set("linger.ms", "5")
        .set("message.timeout.ms", GIVE_BACK)
        // Larger records are refused by the library before the broker's own limit is asked.
        .set("message.max.bytes", "4194304")
        .set("queue.buffering.max.messages", "10000")
        .set("queue.buffering.max.kbytes", "65536")
        .set("partitioner", "murmur2_random")
        .set("allow.auto.create.topics", "false");
    // Whoever sets a property by name means it.
    for (name, value) in kafka.properties() {
        config.set(name, value);
    }
    config
}

/// Rows to be sent, encoded.
struct Sampled {
    table: Arc<Table>,
    rows: usize,
    tick_micros: Option<i64>,
    value: Vec<u8>,
}

impl Sampled {
    /// Encodes rows, on the thread that made them: dozens of small buffers are then given back where they came from,
    /// which is several times cheaper than from another thread. `None` when they cannot be encoded.
    fn of(table: &Arc<Table>, batch: &RecordBatch) -> Option<Self> {
        thread_local! {
            static ENCODER: RefCell<Encoder> = RefCell::default();
        }
        match ENCODER.with_borrow_mut(|encoder| encoder.encode(batch)) {
            Ok(value) => {
                Some(Self { table: table.clone(), rows: batch.num_rows(), tick_micros: tick_of(batch), value })
            }
            Err(error) => {
                tracing::error!(table = table.name, %error, "rows cannot be encoded");
                None
            }
        }
    }
}

/// What there is to tell of a publisher.
#[derive(Debug, Default, Clone, Copy)]
pub struct PublisherFacts {
    /// The spool's.
    pub spool: SpoolFacts,
    /// Records handed to the library, each attempt counted.
    pub sent: u64,
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Attempts that failed.
    pub retried: u64,
    /// Records that left the spool unsent.
    pub lost: u64,
    /// Records appended to the spool in this run.
    pub spooled: u64,
}

/// A running publisher. Ends when it is told to stop, with what it has.
pub struct Publisher {
    offered: SyncSender<Sampled>,
    facts: Arc<Mutex<PublisherFacts>>,
    metrics: AgentMetrics,
    thread: Mutex<Option<(JoinHandle<()>, Receiver<()>)>>,
    stop: CancellationToken,
}

impl Publisher {
    /// Opens the spool, and begins to send what is in it.
    ///
    /// # Errors
    /// When the spool or the client library cannot be set up. A broker that is away is no error.
    pub fn start(
        options: PublisherOptions,
        catalogue: &Catalogue,
        health: &Health,
        metrics: AgentMetrics,
        stop: &CancellationToken,
    ) -> Result<Self, PublisherError> {
        let spool = Spool::open(&options.spool, &options.agent, options.limits)?;
        let outcomes = Outcomes::default();
        let producer: BaseProducer<Outcomes> = producer_config(&options.kafka)
            .create_with_context(outcomes.clone())
            .map_err(|error| PublisherError::Configuration(without_value(&error)))?;
        let (offered, rows) = sync_channel(QUEUE);
        let (done, over) = sync_channel::<()>(0);
        let health = health.clone();
        let facts = Arc::new(Mutex::new(PublisherFacts::default()));
        let stop = stop.child_token();
        let sending = Sending {
            backlog: Backlog::new(options.backlog_rate, options.backlog_jitter),
            options,
            spool,
            producer,
            outcomes,
            accidents: Accidents::new(catalogue),
            next_seq: 0,
            in_flight: 0,
            in_flight_old: 0,
            facts: facts.clone(),
            metrics: metrics.clone(),
            health: health.clone(),
            stop: stop.clone(),
            is_away: false,
            clock: Clock::default(),
        };
        health.not_ready("agent", "the broker has not acknowledged anything yet");
        let thread = std::thread::Builder::new()
            .name("publisher".into())
            .spawn(move || {
                let (mut sending, health) = (sending, health);
                if catch_unwind(AssertUnwindSafe(|| sending.run(&rows))).is_err() {
                    health.not_ready("agent", "the publisher has failed and sends nothing any more: see the log");
                }
                // Said before the client library is taken down, which waits for its own threads.
                drop((rows, done));
            })
            .map_err(PublisherError::Thread)?;
        Ok(Self { offered, facts, metrics, thread: Mutex::new(Some((thread, over))), stop })
    }

    /// Offers rows. `false` when they were dropped, and counted, because the disk has not answered for a long time.
    pub fn offer(&self, table: &Arc<Table>, batch: &RecordBatch) -> bool {
        let offered = match Sampled::of(table, batch) {
            Some(sampled) => self.offered.try_send(sampled),
            None => return self.dropped(batch.num_rows()),
        };
        match offered {
            Ok(()) => true,
            Err(TrySendError::Full(refused) | TrySendError::Disconnected(refused)) => self.dropped(refused.rows),
        }
    }

    /// Offers rows, and waits for room. `false` when the publisher has ended.
    pub fn offer_blocking(&self, table: &Arc<Table>, batch: &RecordBatch) -> bool {
        match Sampled::of(table, batch) {
            Some(sampled) => self.offered.send(sampled).is_ok(),
            None => self.dropped(batch.num_rows()),
        }
    }

    fn dropped(&self, rows: usize) -> bool {
        self.metrics.rows_dropped.inc_by(rows as u64);
        false
    }

    /// Where it stands.
    pub fn facts(&self) -> PublisherFacts {
        *self.facts.lock()
    }

    /// The same, for whoever reports it later.
    pub fn shared_facts(&self) -> Arc<Mutex<PublisherFacts>> {
        self.facts.clone()
    }

    /// Stops: what is under way may arrive, the rest stays in the spool. Blocks for a few seconds at the most.
    pub fn finish(&self) {
        self.stop.cancel();
        let Some((thread, over)) = self.thread.lock().take() else { return };
        // The spool is done with when the other end is gone; nobody else may open it before.
        let _ = over.recv();
        let until = Instant::now() + FAREWELL;
        while !thread.is_finished() {
            if Instant::now() >= until {
                // Its own threads may be looking up a broker's name, and cannot be told to stop.
                tracing::warn!("Kafka's client library does not end in time and is left to itself");
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if thread.join().is_err() {
            tracing::error!("the publisher's thread ended badly");
        }
    }
}

/// A record with the client library.
struct Sent {
    place: Option<spool::Place>,
    record: Arc<Spooled>,
    is_old: bool,
}

/// What became of records, as the library tells it.
#[derive(Clone, Default)]
struct Outcomes(Arc<Mutex<VecDeque<(Box<Sent>, Result<(), KafkaError>)>>>);

impl ClientContext for Outcomes {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka");
    }
}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        let result = result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone());
        self.0.lock().push_back((sent, result));
    }
}

/// When records of the backlog may go.
struct Backlog {
    pause: Duration,
    jitter: Duration,
    next: Instant,
}

impl Backlog {
    fn new(rate: u32, jitter: Duration) -> Self {
        // No two agents at quite the same rate.
        let pause = Duration::from_secs(1) / rate.max(1);
        Self { pause: pause.mul_f64(rand::random_range(0.8..1.2)), jitter, next: Instant::now() }
    }

    /// Whether one may go now; if so, the next one a little later.
    fn may_go(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        // After a wait, as many as fit into a tenth of a second at once.
        self.next = (self.next + self.pause).max(now.checked_sub(Duration::from_millis(100)).unwrap_or(now));
        true
    }

    fn outage(&mut self, now: Instant) {
        self.next = now + self.jitter.mul_f64(rand::random_range(0.0..1.0));
    }
}

struct Sending {
    options: PublisherOptions,
    spool: Spool,
    producer: BaseProducer<Outcomes>,
    outcomes: Outcomes,
    backlog: Backlog,
    accidents: Accidents,
    next_seq: u64,
    in_flight: usize,
    in_flight_old: usize,
    facts: Arc<Mutex<PublisherFacts>>,
    metrics: AgentMetrics,
    health: Health,
    stop: CancellationToken,
    /// The broker has given records back and not acknowledged any since.
    is_away: bool,
    clock: Clock,
}

/// How far this machine's clock is from the time it is synchronised with: in the head of every record, looked up
/// seldom.
#[derive(Default)]
struct Clock {
    looked: Option<Instant>,
    offset_us: Option<i64>,
}

impl Clock {
    fn offset_us(&mut self) -> Option<i64> {
        if self.looked.is_none_or(|at| at.elapsed() >= Duration::from_secs(10)) {
            self.looked = Some(Instant::now());
            self.offset_us = crate::abi::clock::offset_us();
        }
        self.offset_us
    }
}

impl Sending {
    fn run(&mut self, rows: &Receiver<Sampled>) {
        let (mut synced, mut declared) = (Instant::now(), Instant::now());
        while !self.stop.is_cancelled() {
            let wait = if self.in_flight > 0 || self.spool.facts().records > 0 { WAIT_BUSY } else { WAIT_IDLE };
            match rows.recv_timeout(wait) {
                Ok(sampled) => {
                    self.append(sampled);
                    // The other probes of this tick are about to answer: one request takes all their records.
                    std::thread::sleep(GATHER);
                    self.append_all(rows);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if declared.elapsed() >= DECLARE_EVERY {
                self.declare_lost();
                declared = Instant::now();
            }
            self.take_outcomes();
            self.send();
            if synced.elapsed() >= SYNC_EVERY {
                self.sync();
                synced = Instant::now();
            }
            self.tell();
        }
        self.append_all(rows);
        self.declare_lost();
        self.send_new();
        self.sync();
        let until = Instant::now() + FAREWELL;
        while (self.in_flight > 0 || self.spool.has_memory_only()) && !self.is_away && Instant::now() < until {
            self.producer.poll(Timeout::After(WAIT_BUSY));
            self.take_outcomes();
            self.append_all(rows);
            self.send_new();
        }
        self.append_all(rows);
        self.sync();
        self.tell();
    }

    /// Takes in all that has been offered.
    fn append_all(&mut self, rows: &Receiver<Sampled>) {
        while let Ok(sampled) = rows.try_recv() {
            self.append(sampled);
        }
    }

    fn append(&mut self, sampled: Sampled) {
        let rows = sampled.rows;
        if rows == 0 {
            return;
        }
        let envelope = Envelope {
            table: sampled.table.name.clone(),
            schema: sampled.table.version,
            id: RecordId { agent: self.options.agent.clone(), boot: self.options.boot, seq: self.next_seq },
            clock_offset_us: self.clock.offset_us(),
        };
        self.next_seq += 1;
        self.spool.append(Spooled {
            envelope,
            rows: u32::try_from(rows).unwrap_or(u32::MAX),
            tick_micros: sampled.tick_micros,
            thinnable: sampled.table.every.is_some() && !sampled.table.events,
            value: sampled.value,
        });
        // Told when it is so: whoever reads this may kill us the next moment.
        self.metrics.rows.inc_by(rows as u64);
        self.facts.lock().spooled += 1;
    }

    /// What the spool had to give up becomes rows of `loss`.
    ///
    /// The spool remembers them until those rows are durable.
    fn declare_lost(&mut self) {
        let lost = self.spool.take_lost();
        if lost.is_empty() && !self.spool.has_told() {
            return;
        }
        for stretch in &lost {
            let origin = format!("{}/{}", self.options.agent, stretch.boot);
            let records = (stretch.last - stretch.first).saturating_add(1);
            self.facts.lock().lost += records;
            self.metrics.records_lost.inc_by(records);
            tracing::warn!(origin, stretch.first, stretch.last, reason = stretch.reason, "records were lost");
            self.accidents.lost(&Lost {
                stage: "spool",
                origin: &origin,
                first: stretch.first,
                last: stretch.last,
                reason: stretch.reason,
                rows: stretch.rows,
            });
        }
        let (node, host) = (self.options.node.clone(), self.options.host.clone());
        for (table, batch) in self.accidents.finish(&Stamp { ts_micros: now_us(), node: &node, host: &host }) {
            match Sampled::of(&table, &batch) {
                Some(sampled) => self.append(sampled),
                None => {
                    self.metrics.rows_dropped.inc_by(batch.num_rows() as u64);
                }
            }
        }
        if !self.spool.has_memory_only() && self.sync() {
            self.spool.declared();
        }
    }

    fn take_outcomes(&mut self) {
        self.producer.poll(Timeout::After(Duration::ZERO));
        // Taken out first: the lock is the library's callback's too.
        let outcomes = std::mem::take(&mut *self.outcomes.0.lock());
        for (sent, result) in outcomes {
            self.in_flight -= 1;
            self.in_flight_old -= usize::from(sent.is_old);
            match result {
                Ok(()) => {
                    if let Some(place) = sent.place {
                        self.spool.acknowledged(place);
                    }
                    self.facts.lock().acknowledged += 1;
                    self.metrics.acknowledged.inc();
                    if std::mem::take(&mut self.is_away) {
                        tracing::info!("the broker is back");
                        self.backlog.outage(Instant::now());
                    }
                    self.health.ready("agent");
                }
                Err(error) => self.give_back(&sent, &error),
            }
        }
    }

    fn give_back(&mut self, sent: &Sent, error: &KafkaError) {
        if is_hopeless(error) {
            tracing::error!(record = %sent.record.envelope.id, error = chain(error), "a record can never be sent");
            self.spool.give_up(sent.place, &sent.record, "refused");
            return;
        }
        self.spool.returned(sent.place, &sent.record);
        self.facts.lock().retried += 1;
        self.metrics.retried.inc();
        if !std::mem::replace(&mut self.is_away, true) {
            tracing::warn!(error = chain(error), "the broker does not take records; they wait in the spool");
            self.health.not_ready("agent", format!("the broker does not take records: {}", chain(error)));
        }
    }

    /// Hands over what is new. `false` when the library takes no more.
    fn send_new(&mut self) -> bool {
        while self.in_flight < WINDOW {
            let Some((place, record)) = self.spool.next_new() else { break };
            if !self.hand_over(Sent { place, record, is_old: false }) {
                return false;
            }
        }
        true
    }

    fn send(&mut self) {
        if !self.send_new() {
            return;
        }
        // While nothing is acknowledged, one record at a time asks whether the broker is back; the rest would only
        // wait in memory.
        let most = if self.is_away { 1 } else { BACKLOG_WINDOW };
        let now = Instant::now();
        while self.in_flight < WINDOW && self.in_flight_old < most && self.backlog.may_go(now) {
            let Some((place, record)) = self.spool.next_old() else { break };
            if !self.hand_over(Sent { place, record, is_old: true }) {
                return;
            }
        }
    }

    /// Hands a record to the library. `false` when it takes no more.
    fn hand_over(&mut self, sent: Sent) -> bool {
        let record = sent.record.clone();
        let mut headers = OwnedHeaders::new_with_capacity(6);
        for (key, value) in record.envelope.to_headers() {
            headers = headers.insert(Header { key, value: Some(value.as_bytes()) });
        }
        let is_old = sent.is_old;
        let message = BaseRecord::with_opaque_to(&self.options.kafka.topic, Box::new(sent))
            .key(self.options.host.as_bytes())
            .payload(&record.value)
            .headers(headers);
        match self.producer.send(message) {
            Ok(()) => {
                self.in_flight += 1;
                self.in_flight_old += usize::from(is_old);
                self.facts.lock().sent += 1;
                self.metrics.sent.inc();
                true
            }
            Err((error, message)) => {
                let sent = message.delivery_opaque;
                if error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                    self.spool.returned(sent.place, &sent.record);
                } else {
                    self.give_back(&sent, &error);
                }
                // What can never be sent is done with; the next one may go.
                is_hopeless(&error)
            }
        }
    }

    fn sync(&mut self) -> bool {
        let synced = self.spool.sync();
        if let Err(error) = &synced {
            self.metrics.sync_failures.inc();
            tracing::warn!(%error, "the spool cannot be made durable");
        }
        synced.is_ok()
    }

    fn tell(&self) {
        let spool = self.spool.facts();
        self.metrics.show_spool(&spool);
        self.facts.lock().spool = spool;
    }
}

/// The tick a batch was sampled at.
fn tick_of(batch: &RecordBatch) -> Option<i64> {
    let ts = batch.column(0).as_primitive_opt::<TimestampMicrosecondType>()?;
    ts.iter().next().flatten()
}

/// Whether trying again is of no use: the record is larger than Kafka takes.
fn is_hopeless(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessage)
    )
}

impl Drop for Sending {
    fn drop(&mut self) {
        // Whatever the library still has is in the spool: it need not be waited for.
        self.producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_property_is_named_and_its_value_is_not() {
        for property in ["sasl.pasword=hunter2", "socket.keepalive.enable=hunter2", "acks=hunter2"] {
            let mut settings = nodescope_service::settings::Settings::default();
            settings.flag("kafka.properties", Some(property));
            let config = producer_config(&KafkaSettings::read(&mut settings));
            let Err(error) = config.create::<BaseProducer>() else { panic!("{property} is taken") };
            let said = without_value(&error);
            assert!(said.contains(property.split('=').next().unwrap()) && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn the_backlog_keeps_to_its_rate() {
        let mut backlog = Backlog::new(100, Duration::from_secs(5));
        let began = backlog.next;
        let mut gone = 0;
        for millis in 0..10_000 {
            while backlog.may_go(began + Duration::from_millis(millis)) {
                gone += 1;
            }
        }
        assert!((800..=1_260).contains(&gone), "{gone} in ten seconds at 100 a second");
        backlog.outage(began + Duration::from_secs(10));
        assert!(backlog.next <= began + Duration::from_secs(15));
    }
}
