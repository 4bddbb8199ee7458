//! Live rows, through Kafka, as the fleet's agents would send them.
//!
//! What the registry says goes into the store, as its own program writes it, for a collector takes none of it from Kafka.
//! Each simulated host has an agent with an id of its own, which numbers its records densely and begins a new boot when
//! its host does. A record is one table's rows, keyed by host, as in [`nodescope_model::record`]; a collector cannot
//! tell it from a real one. What some agents send late waits here for as long as they lag.
//!
//! Time can go faster than the clock, to catch up with the past; from the present on it goes as the clock does. Records
//! then hold the rows of several ticks, as an agent's do that comes back after an outage.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use futures::StreamExt;
use futures::channel::oneshot::Canceled;
use futures::stream::FuturesUnordered;
use nodescope_model::catalogue::{Catalogue, Table};
use nodescope_model::identity::RecordId;
use nodescope_model::record::{Encoder, Envelope};
use nodescope_service::kafka::KafkaSettings;
use nodescope_store::journal::{Journal, REGISTRY};
use nodescope_store::{Store, StoreError};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::{DeliveryFuture, OwnedDeliveryResult};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio_util::sync::CancellationToken;

use crate::series::Series;
use crate::sheet::Sheet;
use crate::world::HOUR;
use crate::{Detail, Fleet, PASSING, SERIES, SimulateError, agents, events};

/// Records on their way at the most.
const IN_FLIGHT: usize = 4_096;

/// Name of the agent that tells what schedulers say.
const PLATFORM: &str = "simulate-platform";

/// How time goes.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Second at which it begins.
    pub from: i64,
    /// Second before which it ends; the fleet's horizon at the latest.
    pub until: i64,
    /// Simulated seconds in a second, until the present is reached.
    pub speed: u32,
    /// Number that grows from run to run: begins the agents' boots.
    pub run: u64,
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Records that Kafka has taken.
    pub records: u64,
    /// Their rows.
    pub rows: u64,
}

/// A record that is ready.
struct Ready {
    host: usize,
    key: String,
    table: Arc<Table>,
    value: Vec<u8>,
    rows: u64,
}

/// What one stretch of time brings.
#[derive(Default)]
struct Made {
    /// For Kafka.
    records: Vec<(Ready, RecordId)>,
    /// For the registry.
    entries: Vec<(Arc<Table>, Vec<RecordBatch>)>,
}

/// A host's series, kept where they are in time.
struct Playing {
    series: Vec<(&'static str, i64, Vec<Series>)>,
    /// Until when all is there that comes and goes.
    passing_until: i64,
    /// Of the agent: number of its boot, and of its next record.
    boot: u64,
    seq: u64,
    /// What its agent holds back: until when, and what.
    late: VecDeque<(i64, Ready)>,
}

/// Makes the rows of a fleet, stretch after stretch.
pub struct Player {
    fleet: Arc<Fleet>,
    catalogue: Arc<Catalogue>,
    hosts: Vec<Playing>,
    sheets: HashMap<&'static str, Sheet>,
    encoder: Encoder,
    run: u64,
    platform_seq: u64,
}

impl Player {
    /// All hosts at their begin.
    pub fn new(fleet: &Arc<Fleet>, catalogue: &Arc<Catalogue>, run: u64) -> Self {
        let hosts = (0..fleet.world.hosts.len())
            .map(|host| Playing {
                series: SERIES
                    .into_iter()
                    .map(|table| {
                        let every = fleet.interval(catalogue, table);
                        let life = fleet.world.options.start..fleet.world.options.horizon;
                        let is_passing = PASSING.contains(&table);
                        (table, every, if is_passing { Vec::new() } else { fleet.series(host, table, every, &life) })
                    })
                    .collect(),
                passing_until: i64::MIN,
                boot: 0,
                seq: 0,
                late: VecDeque::new(),
            })
            .collect();
        Self {
            fleet: fleet.clone(),
            catalogue: catalogue.clone(),
            hosts,
            sheets: HashMap::new(),
            encoder: Encoder::default(),
            run,
            platform_seq: 0,
        }
    }

    /// The records of `[from, to)`: those that are made then and not late, and those that are due.
    fn records(&mut self, from: i64, to: i64) -> Result<Made, SimulateError> {
        let mut all = Vec::new();
        for host in 0..self.hosts.len() {
            let made = self.host_records(host, from, to)?;
            let late = agents::lag(&self.fleet, &self.fleet.world.hosts[host], from);
            let due = to + late;
            let playing = &mut self.hosts[host];
            playing.late.extend(made.into_iter().map(|ready| (due, ready)));
            // In their order: nothing overtakes what is late.
            while let Some((_, ready)) = playing.late.pop_front_if(|(due, _)| *due <= to) {
                all.push(ready);
            }
        }
        let records = all.into_iter().map(|ready| self.number(ready, from)).collect();
        let mut made = Made { records, entries: Vec::new() };
        let told = self.fleet.node_events(from, to);
        for (table, batch) in events::batches(&self.catalogue, &told)? {
            let Some(table) = self.catalogue.get(table).cloned() else { continue };
            if table.own {
                made.entries.push((table, vec![batch]));
                continue;
            }
            let rows = batch.num_rows() as u64;
            let value = self.encoder.encode(&batch).map_err(|source| SimulateError::rows(&table.name, source))?;
            let id = RecordId { agent: PLATFORM.to_owned(), boot: self.run, seq: self.platform_seq };
            self.platform_seq += 1;
            made.records.push((Ready { host: usize::MAX, key: String::new(), table, value, rows }, id));
        }
        Ok(made)
    }

    /// The record's name: a new boot begins when the host has been started since.
    fn number(&mut self, ready: Ready, at: i64) -> (Ready, RecordId) {
        let boots = &self.fleet.lives[ready.host].boots;
        let boot = self.run * 1_000 + boots.partition_point(|b| *b <= at) as u64;
        let playing = &mut self.hosts[ready.host];
        if playing.boot != boot {
            (playing.boot, playing.seq) = (boot, 0);
        }
        let seq = playing.seq;
        playing.seq += 1;
        let agent = self.fleet.world.hosts[ready.host].agent.clone();
        (ready, RecordId { agent, boot, seq })
    }

    /// What comes and goes is looked for once an hour.
    fn renew(&mut self, host: usize, from: i64, to: i64) {
        let until = (to.div_euclid(HOUR) + 1) * HOUR;
        let playing = &mut self.hosts[host];
        playing.passing_until = until;
        for (table, every, series) in playing.series.iter_mut().filter(|(table, _, _)| PASSING.contains(table)) {
            *series = self.fleet.series(host, table, *every, &(from..until));
        }
    }

    fn host_records(&mut self, host: usize, from: i64, to: i64) -> Result<Vec<Ready>, SimulateError> {
        if to > self.hosts[host].passing_until {
            self.renew(host, from, to);
        }
        let row = &self.fleet.world.hosts[host];
        let node = &self.fleet.world.node_of(row).code;
        let told = self.fleet.events(host, from, to, Detail::Minutes);
        let mut batches: Vec<_> = events::batches(&self.catalogue, &told)?.into_iter().collect();
        for (table, every, series) in &mut self.hosts[host].series {
            // No tick, no work.
            if (to - 1).div_euclid(*every) == (from - 1).div_euclid(*every) {
                continue;
            }
            for one in series {
                let sheet = match self.sheets.get_mut(table) {
                    Some(sheet) => sheet,
                    None => {
                        let sheet = crate::sheet_of(&self.catalogue, one)?;
                        self.sheets.entry(table).or_insert(sheet)
                    }
                };
                one.rows(from, to, node, &row.name, sheet);
            }
            if let Some(sheet) = self.sheets.get_mut(table).filter(|s| !s.is_empty()) {
                let batch = sheet.finish_lean().map_err(|source| SimulateError::rows(table, source))?;
                batches.push((*table, batch));
            }
        }
        let mut all = Vec::with_capacity(batches.len());
        for (name, batch) in batches {
            let Some(table) = self.catalogue.get(name).cloned() else { continue };
            let rows = batch.num_rows() as u64;
            let value = self.encoder.encode(&batch).map_err(|source| SimulateError::rows(name, source))?;
            all.push(Ready { host, key: row.name.clone(), table, value, rows });
        }
        Ok(all)
    }
}

/// Sends the fleet's rows until the pace's end, or until it is stopped. What has been handed to Kafka's client is
/// delivered before it returns.
///
/// # Errors
/// When Kafka refuses records for good, or the store what the registry says.
pub async fn send(
    fleet: &Arc<Fleet>,
    store: &Store,
    kafka: &KafkaSettings,
    pace: &Pace,
    stop: &CancellationToken,
) -> Result<Sent, SimulateError> {
    let mut config = ClientConfig::new();
    for (name, value) in kafka.properties() {
        config.set(name, value);
    }
    config.set("client.id", "nodescope-simulate").set("linger.ms", "20").set("compression.type", "zstd");
    config.set("message.timeout.ms", "0").set("queue.buffering.max.messages", "20000");
    let producer: FutureProducer = config.create()?;
    let mut player = {
        let (fleet, catalogue, run) = (fleet.clone(), store.catalogue().clone(), pace.run);
        tokio::task::spawn_blocking(move || Player::new(&fleet, &catalogue, run))
            .await
            .map_err(|e| SimulateError::Died(e.to_string()))?
    };
    let mut flying: FuturesUnordered<DeliveryFuture> = FuturesUnordered::new();
    let mut sent = Sent::default();
    let until = pace.until.min(fleet.world.options.horizon);
    let mut at = pace.from;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while at < until {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        // Whole seconds that are over: never a row of the future.
        let present = now();
        let ahead = if at + i64::from(pace.speed) < present { i64::from(pace.speed) } else { present - at };
        let to = (at + ahead).min(until);
        if to <= at {
            continue;
        }
        let made = tokio::task::spawn_blocking(move || {
            let made = player.records(at, to);
            (player, made)
        })
        .await
        .map_err(|e| SimulateError::Died(e.to_string()))?;
        player = made.0;
        let made = made.1?;
        register(store, made.entries).await.map_err(SimulateError::Registry)?;
        for (ready, id) in made.records {
            while flying.len() >= IN_FLIGHT {
                delivered(flying.next().await)?;
            }
            flying.push(offer(&producer, &kafka.topic, &ready, id).await?);
            sent.records += 1;
            sent.rows += ready.rows;
        }
        at = to;
    }
    while !flying.is_empty() {
        delivered(flying.next().await)?;
    }
    Ok(sent)
}

/// Writes what the registry says. Somebody else may import meanwhile; neither minds what the other wrote.
async fn register(store: &Store, entries: Vec<(Arc<Table>, Vec<RecordBatch>)>) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut journal = Journal::open(store, REGISTRY).await?;
    loop {
        match journal.append(entries.clone()).await {
            Err(StoreError::AlreadyWritten { .. }) => journal.catch_up().await?,
            done => return done,
        }
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn delivered(answer: Option<Result<OwnedDeliveryResult, Canceled>>) -> Result<(), SimulateError> {
    match answer {
        None | Some(Ok(Ok(_))) => Ok(()),
        Some(Ok(Err((error, _)))) => Err(SimulateError::NotTaken(error.to_string())),
        Some(Err(_)) => Err(SimulateError::NotTaken("the client ended".to_owned())),
    }
}

/// Hands a record to the client; waits while its queue is full.
async fn offer(
    producer: &FutureProducer,
    topic: &str,
    ready: &Ready,
    id: RecordId,
) -> Result<DeliveryFuture, SimulateError> {
    let envelope = Envelope { table: ready.table.name.clone(), schema: ready.table.version, id, clock_offset_us: None };
    let headers = envelope.to_headers();
    loop {
        let owned = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value.as_str()) }));
        let record = FutureRecord::to(topic).key(&ready.key).payload(&ready.value).headers(owned);
        match producer.send_result(record) {
            Ok(delivery) => return Ok(delivery),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::world::{DAY, MINUTE, Options};

    const NOW: i64 = 1_790_000_000 / HOUR * HOUR;

    #[test]
    fn what_is_sent_is_what_there_is() {
        // Over two turns of the hour, where what comes and goes is looked for anew. No agent lags.
        let (from, to) = (NOW - HOUR - 20 * MINUTE, NOW + 20 * MINUTE);
        let options = Options { horizon: NOW + DAY, failures: 0.0, ..Options::around(21, 4, 4, NOW, 2) };
        let (fleet, catalogue) = (Fleet::new(options), Arc::new(Catalogue::built_in()));
        let mut player = Player::new(&fleet, &catalogue, 1);
        let mut sent: BTreeMap<(usize, String), u64> = BTreeMap::new();
        for at in (from..to).step_by(90) {
            let made = player.records(at, (at + 90).min(to)).unwrap_or_else(|e| panic!("{e}"));
            for (ready, _) in made.records.iter().filter(|(ready, _)| ready.host < 4) {
                *sent.entry((ready.host, ready.table.name.clone())).or_default() += ready.rows;
            }
        }
        let mut there: BTreeMap<(usize, String), u64> = BTreeMap::new();
        for host in 0..4 {
            let rows = fleet.rows(&catalogue, host, from, to, |table| fleet.interval(&catalogue, table));
            for (table, batch) in rows.unwrap_or_else(|e| panic!("{e}")) {
                there.insert((host, table.to_owned()), batch.num_rows() as u64);
            }
        }
        let jobs: std::collections::BTreeSet<i64> =
            fleet.schedule.uses[..4].iter().flatten().flatten().map(|u| u.from).collect();
        assert!(jobs.range(from..to).next().is_some(), "no job began");
        assert_eq!(sent, there);
    }
}
