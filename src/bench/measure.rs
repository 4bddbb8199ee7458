//! The measurements.
//!
//! 1. *In*: all hosts' ticks, built, encoded and sent as fast as the broker takes them.
//! 2. *Bare consumer*: the same records read back, and nothing done with them. No collector can be faster.
//! 3. *Collector*: the same records taken into an empty store.
//! 4. *Live*: every host sampled once a second, while a client asks for the newest row of each. How long after its tick
//!    a row is first seen is its freshness.
//! 5. *Size*: bytes per value on Kafka, in hot segments, and sealed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nodescope_agent::publisher::producer_config;
use nodescope_model::catalogue::Catalogue;
use nodescope_model::identity::RecordId;
use nodescope_model::record::{Envelope, encode};
use nodescope_service::http::Health;
use nodescope_service::kafka::KafkaSettings;
use nodescope_service::topic;
use nodescope_store::Store;
use nodescope_store::layout::PartitionId;
use nodescope_store::seal::Sealer;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::util::Timeout;
use tokio_util::sync::CancellationToken;

use super::BenchOptions;
use super::hosts::{SimulatedHost, values};
use crate::broker::{BrokerOptions, BrokerTopic, EmbeddedBroker};
use crate::settings::{AllSettings, load};
use crate::{block_on, chain, say};

/// How often the newest rows are asked for.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Longest wait for anything to happen.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the command.
pub(super) fn main(options: &BenchOptions) -> Result<(), String> {
    let temporary = std::env::temp_dir().join(format!("nodescope-bench-{}", uuid::Uuid::new_v4()));
    let data = options.data.clone().unwrap_or_else(|| temporary.clone());
    let topic = format!("bench-{}", uuid::Uuid::new_v4().simple());
    let mut settings = load(options.config.config.as_deref());
    settings.flag("kafka.brokers", options.brokers.as_ref());
    settings.flag("kafka.topic", Some(&topic));
    settings.flag("store.url", Some(data.join("store").display()));
    settings.flag("query.postgres_address", Some("127.0.0.1:0"));
    settings.preset("kafka.partitions", if options.brokers.is_some() { "4" } else { "1" });
    settings.preset("log.filter", "warn");
    let settings = AllSettings::read(settings)?;
    settings.common.logs.start();
    let result = block_on(run(options, settings, &data));
    if data == temporary {
        // A folder that stays behind is worth a word, not a failure.
        if let Err(error) = std::fs::remove_dir_all(&temporary) {
            tracing::warn!(%error, folder = %temporary.display(), "cannot delete the temporary folder");
        }
    }
    let figures = result?;
    if options.json {
        say(&figures.json().to_string());
    } else {
        say(&figures.text());
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Figures {
    hosts: usize,
    records: u64,
    values: u64,
    in_seconds: f64,
    bare_seconds: f64,
    collector_seconds: f64,
    kafka_bytes: u64,
    hot_bytes: u64,
    sealed_bytes: u64,
    live_seconds: f64,
    live_values: u64,
    freshness: Vec<f64>,
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
impl Figures {
    fn rate(&self, seconds: f64) -> f64 {
        self.values as f64 / seconds
    }

    fn per_value(&self, bytes: u64) -> f64 {
        bytes as f64 / self.values as f64
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
    fn freshness(&self, share: f64) -> Option<f64> {
        let last = self.freshness.len().checked_sub(1)?;
        self.freshness.get((last as f64 * share).ceil() as usize).copied()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "hosts": self.hosts,
            "records": self.records,
            "values": self.values,
            "in_values_per_second": self.rate(self.in_seconds),
            "bare_consumer_values_per_second": self.rate(self.bare_seconds),
            "collector_values_per_second": self.rate(self.collector_seconds),
            "collector_of_bare_consumer": self.bare_seconds / self.collector_seconds,
            "kafka_bytes_per_value": self.per_value(self.kafka_bytes),
            "hot_bytes_per_value": self.per_value(self.hot_bytes),
            "sealed_bytes_per_value": self.per_value(self.sealed_bytes),
            "live_values_per_second": self.live_values as f64 / self.live_seconds,
            "freshness_seen": self.freshness.len(),
            "freshness_p50_seconds": self.freshness(0.5),
            "freshness_p99_seconds": self.freshness(0.99),
            "freshness_max_seconds": self.freshness(1.0),
        })
    }

    fn text(&self) -> String {
        let million = |rate: f64| rate / 1e6;
        let seconds = |share: f64| self.freshness(share).map_or_else(|| "?".to_owned(), |s| format!("{s:.3} s"));
        format!(
            "{} hosts, {} records, {} values\n\n\
             in (build, encode, send)  {:>8.3} M values/s\n\
             bare consumer             {:>8.3} M values/s\n\
             collector                 {:>8.3} M values/s   {:.2} of the bare consumer\n\n\
             on Kafka                  {:>8.2} bytes/value\n\
             hot                       {:>8.2} bytes/value\n\
             sealed                    {:>8.2} bytes/value\n\n\
             live, every host every second: {:.0} values/s\n\
             freshness (tick to readable in SQL, {} rows seen)   p50 {}   p99 {}   max {}",
            self.hosts,
            self.records,
            self.values,
            million(self.rate(self.in_seconds)),
            million(self.rate(self.bare_seconds)),
            million(self.rate(self.collector_seconds)),
            self.bare_seconds / self.collector_seconds,
            self.per_value(self.kafka_bytes),
            self.per_value(self.hot_bytes),
            self.per_value(self.sealed_bytes),
            self.live_values as f64 / self.live_seconds,
            self.freshness.len(),
            seconds(0.5),
            seconds(0.99),
            seconds(1.0),
        )
    }
}

async fn run(options: &BenchOptions, mut settings: AllSettings, data: &Path) -> Result<Figures, String> {
    let stop_broker = CancellationToken::new();
    let broker = if options.brokers.is_none() {
        let kafka = &settings.collector.kafka;
        let broker = EmbeddedBroker::start(
            BrokerOptions {
                address: ([127, 0, 0, 1], 0).into(),
                advertised_host: None,
                data_dir: data.join("broker"),
                cluster_id: "bench".to_owned(),
                topics: vec![BrokerTopic {
                    name: kafka.topic.clone(),
                    partitions: kafka.partitions,
                    retention: kafka.retention,
                    next_offsets: Vec::new(),
                }],
            },
            stop_broker.clone(),
        )
        .await
        .map_err(|e| chain(&e))?;
        settings.collector.kafka.brokers = broker.address().to_string();
        Some(broker)
    } else {
        None
    };
    let kafka = settings.collector.kafka.clone();
    topic::ensure(&kafka).await.map_err(|e| chain(&e))?;
    let mut figures = Figures { hosts: options.hosts, ..Figures::default() };
    let mut sender = Sender::new(&kafka, &settings.common.catalogue, options.hosts)?;

    step(options, "sending as fast as the broker takes it");
    let began = Instant::now();
    let mut ts = now_us() - 1_000_000 * i64::try_from(options.ticks).unwrap_or(0);
    for _ in 0..options.ticks {
        figures.values += sender.tick(ts)?;
        ts += 1_000_000;
    }
    sender.flush()?;
    figures.in_seconds = began.elapsed().as_secs_f64();
    figures.records = sender.records;
    figures.kafka_bytes = sender.bytes_sent();

    step(options, "reading it back with a bare consumer");
    let bare = tokio::task::spawn_blocking({
        let (kafka, records) = (kafka.clone(), figures.records);
        move || bare_consumer(&kafka, records)
    });
    figures.bare_seconds = bare.await.map_err(|e| e.to_string())??;

    step(options, "taking it with a collector");
    let store = settings.common.open_store()?;
    let health = Health::default();
    let stop_collector = CancellationToken::new();
    let began = Instant::now();
    let mut collector_settings = settings.collector;
    // Nothing is sealed meanwhile: hot and sealed sizes are those of the same rows.
    collector_settings.upkeep.seal_every = Duration::from_secs(3_600);
    let mut collector = tokio::spawn(nodescope_collector::run(
        collector_settings,
        store.clone(),
        health.clone(),
        stop_collector.clone(),
    ));
    let mut footers = Footers::default();
    while footers.offsets < figures.records {
        tokio::select! {
            ended = &mut collector => return Err(format!("the collector ended: {ended:?}")),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        footers.follow(&store).await?;
        if began.elapsed() > PATIENCE {
            return Err(format!(
                "the collector took {} of {} records in {PATIENCE:?}",
                footers.offsets, figures.records
            ));
        }
    }
    figures.collector_seconds = began.elapsed().as_secs_f64();
    (figures.hot_bytes, figures.sealed_bytes) = sizes(&store, &footers).await?;

    step(options, "sampling live");
    let server = nodescope_query::server::open(settings.query, store, &health).await.map_err(|e| chain(&e))?;
    let address = server.local_addr();
    let stop_query = CancellationToken::new();
    let server = tokio::spawn(server.serve(stop_query.clone()));
    let (seen, stop_seeing) = (Arc::new(parking_lot::Mutex::new(Vec::new())), CancellationToken::new());
    let seeing = tokio::spawn(see(address.to_string(), seen.clone(), stop_seeing.clone()));
    let live = options.live;
    let live = tokio::task::spawn_blocking(move || live_part(sender, live));
    (figures.live_values, figures.live_seconds) = live.await.map_err(|e| e.to_string())??;
    // The last tick's rows may take a moment.
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop_seeing.cancel();
    seeing.await.map_err(|e| e.to_string())??;
    figures.freshness = std::mem::take(&mut *seen.lock());
    figures.freshness.sort_by(f64::total_cmp);

    stop_query.cancel();
    stop_collector.cancel();
    let _ = (server.await, collector.await);
    stop_broker.cancel();
    if let Some(broker) = broker {
        broker.stopped().await.map_err(|e| chain(&e))?;
    }
    Ok(figures)
}

/// Progress, on standard error, so that what is printed is the figures alone.
#[allow(clippy::print_stderr, reason = "progress of a long command")]
fn step(options: &BenchOptions, what: &str) {
    if !options.json {
        eprintln!("… {what}");
    }
}

fn now_us() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
}

#[derive(Clone, Default)]
struct Sending {
    bytes: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl ClientContext for Sending {
    fn stats(&self, statistics: Statistics) {
        self.bytes.store(u64::try_from(statistics.tx_bytes).unwrap_or(0), Ordering::Relaxed);
    }
}

impl ProducerContext for Sending {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Simulated hosts with one producer.
struct Sender {
    hosts: Vec<SimulatedHost>,
    seqs: Vec<u64>,
    producer: BaseProducer<Sending>,
    sending: Sending,
    topic: String,
    records: u64,
}

impl Sender {
    fn new(kafka: &KafkaSettings, catalogue: &Catalogue, hosts: usize) -> Result<Self, String> {
        let sending = Sending::default();
        let producer = producer_config(kafka)
            .set("statistics.interval.ms", "100")
            .create_with_context(sending.clone())
            .map_err(|e: KafkaError| chain(&e))?;
        let hosts: Vec<_> = (0..hosts).map(|n| SimulatedHost::new(catalogue, n)).collect();
        Ok(Self { seqs: vec![0; hosts.len()], hosts, producer, sending, topic: kafka.topic.clone(), records: 0 })
    }

    /// One tick of every host. Gives the values sent.
    fn tick(&mut self, ts: i64) -> Result<u64, String> {
        let mut sent = 0;
        for (host, seq) in self.hosts.iter_mut().zip(&mut self.seqs) {
            for (table, batch) in host.tick(ts) {
                sent += values(&table, &batch);
                let value = encode(&batch).map_err(|e| e.to_string())?;
                let id = RecordId { agent: host.name.clone(), boot: 1, seq: *seq };
                let envelope = Envelope { table: table.name.clone(), schema: table.version, id, clock_offset_us: None };
                *seq += 1;
                let mut headers = OwnedHeaders::new_with_capacity(6);
                for (key, value) in envelope.to_headers() {
                    headers = headers.insert(Header { key, value: Some(value.as_bytes()) });
                }
                let mut record = BaseRecord::to(&self.topic).key(host.name.as_bytes()).payload(&value).headers(headers);
                loop {
                    match self.producer.send(record) {
                        Ok(()) => break,
                        Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                            record = back;
                            self.producer.poll(Timeout::After(Duration::from_millis(5)));
                        }
                        Err((error, _)) => return Err(chain(&error)),
                    }
                }
                self.records += 1;
            }
            self.producer.poll(Timeout::After(Duration::ZERO));
        }
        Ok(sent)
    }

    fn flush(&self) -> Result<(), String> {
        self.producer.flush(Timeout::After(PATIENCE)).map_err(|e| chain(&e))?;
        match self.sending.failed.load(Ordering::Relaxed) {
            0 => Ok(()),
            failed => Err(format!("the broker did not take {failed} records")),
        }
    }

    /// Bytes that went over the wire, as the client library counts them.
    fn bytes_sent(&self) -> u64 {
        let until = Instant::now() + Duration::from_millis(400);
        while Instant::now() < until {
            self.producer.poll(Timeout::After(Duration::from_millis(50)));
        }
        self.sending.bytes.load(Ordering::Relaxed)
    }
}

/// A tick of every host, every second, for so long. Gives values and seconds.
fn live_part(mut sender: Sender, length: Duration) -> Result<(u64, f64), String> {
    let began = Instant::now();
    let mut sent = 0;
    let mut ts = (now_us() / 1_000_000 + 1) * 1_000_000;
    while began.elapsed() < length {
        let wait = Duration::from_micros(u64::try_from(ts - now_us()).unwrap_or(0));
        std::thread::sleep(wait);
        sent += sender.tick(ts)?;
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            sender.producer.poll(Timeout::After(Duration::from_millis(20)));
        }
        ts += 1_000_000;
    }
    sender.flush()?;
    Ok((sent, began.elapsed().as_secs_f64()))
}

/// Reads so many records, and nothing more. Gives seconds.
fn bare_consumer(kafka: &KafkaSettings, records: u64) -> Result<f64, String> {
    let consumer: BaseConsumer = topic::client_config(kafka, "nodescope-bench")
        .set("group.id", "nodescope-bench")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "50")
        .set("queued.max.messages.kbytes", "65536")
        .create()
        .map_err(|e| chain(&e))?;
    let partitions = topic::partitions(kafka).map_err(|e| chain(&e))?.unwrap_or_default();
    let mut all = TopicPartitionList::new();
    for partition in partitions {
        all.add_partition_offset(&kafka.topic, partition, Offset::Beginning).map_err(|e| chain(&e))?;
    }
    consumer.assign(&all).map_err(|e| chain(&e))?;
    let began = Instant::now();
    let mut read = 0;
    while read < records {
        match consumer.poll(Timeout::After(Duration::from_millis(100))) {
            Some(Ok(_)) => read += 1,
            Some(Err(error)) => tracing::debug!(%error, "Kafka"),
            None => {}
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("the bare consumer read {read} of {records} records in {PATIENCE:?}"));
        }
    }
    Ok(began.elapsed().as_secs_f64())
}

/// The segments written so far.
#[derive(Default)]
struct Footers {
    next: HashMap<PartitionId, u64>,
    all: Vec<Arc<nodescope_store::segment::Footer>>,
    offsets: u64,
}

impl Footers {
    async fn follow(&mut self, store: &Store) -> Result<(), String> {
        for partition in store.list_partitions().await.map_err(|e| chain(&e))?.into_keys() {
            let next = self.next.entry(partition.clone()).or_default();
            while let Some(footer) = store.footer(&partition.segment(*next)).await.map_err(|e| chain(&e))? {
                *next = footer.next;
                self.offsets += footer.next - footer.first;
                self.all.push(Arc::new(footer));
            }
        }
        Ok(())
    }
}

/// Bytes of the hot segments, and of the same rows sealed. What is sealed is sealed into a store of its own.
async fn sizes(store: &Store, footers: &Footers) -> Result<(u64, u64), String> {
    use object_store::ObjectStoreExt;
    let mut hot = 0;
    let copy = Store::new(Arc::new(object_store::memory::InMemory::new()), store.catalogue().clone(), "memory:");
    for footer in &footers.all {
        let segment = store.objects().get(&footer.path()).await.map_err(|e| chain(&e))?;
        let bytes = segment.bytes().await.map_err(|e| chain(&e))?;
        hot += bytes.len() as u64;
        copy.put_segment(footer, bytes).await.map_err(|e| chain(&e))?;
    }
    let sealed = Sealer::new(copy).seal(&footers.all).await.map_err(|e| chain(&e))?;
    Ok((hot, sealed.bytes))
}

/// Asks for the newest row of every host again and again; notes how old a row was when it was first seen.
async fn see(server: String, seen: Arc<parking_lot::Mutex<Vec<f64>>>, stop: CancellationToken) -> Result<(), String> {
    let client = crate::sql::connect(&server).await?;
    let ask = "select host, (extract(epoch from max(ts)) * 1000000)::bigint from memory \
               where ts > now() - interval '15 seconds' group by host";
    let mut newest: HashMap<String, i64> = HashMap::new();
    let mut first = true;
    while !stop.is_cancelled() {
        let rows = client.query(ask, &[]).await.map_err(|e| chain(&e))?;
        let now = now_us();
        for row in &rows {
            let (host, ts): (String, i64) = (row.get(0), row.get(1));
            let last = newest.insert(host, ts).unwrap_or(0);
            // Rows of the parts before are as old as they are.
            if ts > last && !first && ts % 1_000_000 == 0 {
                #[allow(clippy::cast_precision_loss, reason = "seconds")]
                seen.lock().push((now - ts) as f64 / 1e6);
            }
        }
        first = false;
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(())
}
