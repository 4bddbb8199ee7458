//! A fleet that does not exist: its telemetry, its troubles, and what is true of it.
//!
//! Nobody can try a monitor of ten thousand accelerators without having them. This crate makes them up: regions and
//! nodes, hosts with accelerators of several vendors, jobs that come and go by the hour of the day, failures at
//! published rates, links, agents that fall silent, people who log in, and attacks that are known to be ones. From one
//! seed comes one fleet with one fate, whoever asks, in whatever order.
//!
//! - [`world`]: what is built: nodes, racks, fabrics, hosts, devices ([`models`]: data sheets).
//! - [`failures`], [`jobs`], [`attacks`] ([`plan`]): what happens, over the whole life of the fleet.
//! - [`load`], [`machine`], [`links`], [`agents`], [`security`]: the rows that follow ([`series`] for what moves,
//!   [`events`] for what happens once), and [`registry`]: what was registered.
//! - [`oracle`]: what is true, in plain values, for tests that must not ask SQL.
//! - [`history`]: into a store, straight. [`live`]: through Kafka, as agents do.

pub mod agents;
pub mod attacks;
pub mod chance;
pub mod events;
pub mod failures;
pub mod history;
pub mod jobs;
pub mod links;
pub mod live;
pub mod load;
pub mod machine;
pub mod models;
pub mod oracle;
pub mod plan;
pub mod registry;
pub mod security;
pub mod series;
pub mod sheet;
pub mod told;
pub mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use nodescope_model::catalogue::Catalogue;

use crate::attacks::Attacks;
use crate::events::Event;
use crate::failures::{HostLife, Standing};
use crate::jobs::Schedule;
use crate::series::Series;
use crate::sheet::Sheet;
use crate::world::{Options, World};

/// Why rows could not be made, or not be put anywhere.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The catalogue lacks a table that the fleet fills.
    #[error("the catalogue has no table {0}, which the simulation fills")]
    NoTable(String),
    /// A table lacks a column.
    #[error("the catalogue has no column {0}, which the simulation fills")]
    NoColumn(String),
    /// Arrow refused rows.
    #[error("rows of {table} do not fit together")]
    Rows {
        /// The table.
        table: String,
        /// Why not.
        #[source]
        source: arrow_schema::ArrowError,
    },
    /// The store refused them.
    #[error("the store did not take the history; begin again with an empty one")]
    Store(#[from] nodescope_store::StoreError),
    /// The store refused what the registry says.
    #[error("the store did not take what the registry says")]
    Registry(#[source] nodescope_store::StoreError),
    /// Kafka's client could not be made.
    #[error("Kafka cannot be reached")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// A record was not taken.
    #[error("Kafka did not take a record: {0}")]
    NotTaken(String),
    /// A thread of ours ended early.
    #[error("a part of the simulation died: {0}")]
    Died(String),
    /// There is simulated history already.
    #[error("table {0} holds simulated history already; take an empty store, or leave --history out")]
    There(String),
}

impl SimulateError {
    pub(crate) fn rows(table: &str, source: arrow_schema::ArrowError) -> Self {
        Self::Rows { table: table.to_owned(), source }
    }
}

/// How much of what is told again and again is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What agents state anew every hour, only four times a day: for the distant past.
    Quarters,
    /// What happens, and what is stated anew every hour.
    Hours,
    /// Also what is told every minute.
    Minutes,
}

impl Detail {
    /// Seconds between two statements of the same.
    pub fn restated(self) -> i64 {
        if self == Self::Quarters { 6 * world::HOUR } else { world::HOUR }
    }
}

/// A fleet with its whole life.
#[derive(Debug)]
pub struct Fleet {
    /// What is built.
    pub world: World,
    /// What befalls each host.
    pub lives: Vec<HostLife>,
    /// What runs.
    pub schedule: Schedule,
    /// Who does what they should not.
    pub attacks: Attacks,
}

impl Fleet {
    /// A fleet without attacks.
    pub fn new(options: Options) -> Arc<Self> {
        Self::with_attacks(options, |_, _, _| Attacks::default())
    }

    /// A fleet with attacks, which are planned when its peaceful life is known.
    pub fn with_attacks(options: Options, plan: impl FnOnce(&World, &[HostLife], &Schedule) -> Attacks) -> Arc<Self> {
        let world = World::new(options);
        let mut lives: Vec<HostLife> = world.hosts.iter().map(|host| failures::host_life(&world, host)).collect();
        let schedule = jobs::schedule(&world, &lives);
        let attacks = plan(&world, &lives, &schedule);
        attacks.silence(&mut lives);
        Arc::new(Self { world, lives, schedule, attacks })
    }

    /// The series of one table of a host, in the order of the table's rows.
    pub fn series(self: &Arc<Self>, host: usize, table: &str, every: i64) -> Vec<Series> {
        match table {
            "accelerator" => {
                let mut all: Vec<Series> = (0..self.world.hosts[host].devices.len())
                    .map(|d| load::accelerator(self, host, d, every))
                    .collect();
                all.extend(self.attacks.shown_by(host).map(|double| load::double(self, double, every)));
                all.sort_by(|a, b| match (&a.labels[0], &b.labels[0]) {
                    (series::Label::Text(a), series::Label::Text(b)) => a.cmp(b),
                    _ => std::cmp::Ordering::Equal,
                });
                all
            }
            "link" => links::links(self, host, every),
            "agent" | "service" => agents::series(self, host, table, every),
            "connection" => security::connections(self, host, every),
            _ => machine::machine(self, host, table, every),
        }
    }

    /// Seconds between two rows of a table's entity: as the catalogue says, or as agents are told to be rarer.
    pub fn interval(&self, catalogue: &Catalogue, table: &str) -> i64 {
        catalogue_interval(catalogue, table).max(self.world.options.interval)
    }

    /// Everything that is told once of a host with a time in `[from, to)`, seconds.
    pub fn events(&self, host: usize, from: i64, to: i64, detail: Detail) -> Vec<Event> {
        let mut all = told::told(self, host, from, to);
        if detail == Detail::Minutes {
            all.extend(told::minutely(self, host, from, to));
        }
        all.extend(agents::events(self, host, from, to, detail));
        all.extend(security::events(self, host, from, to, detail));
        self.attacks.events(self, host, from, to, &mut all);
        // Nobody hears of a host whose agent is silent or that is down.
        let life = &self.lives[host];
        all.retain(|e| {
            let at = e.ts.div_euclid(1_000_000);
            life.standing(at) == Standing::Up && !self.attacks.withheld(host, e.table, at)
        });
        all.sort_by(|a, b| (a.table, a.ts).cmp(&(b.table, b.ts)));
        all
    }

    /// Everything that is told of nodes rather than hosts.
    pub fn node_events(&self, from: i64, to: i64) -> Vec<Event> {
        let mut all = told::demand(self, from, to);
        all.extend(registry::entries(self, from, to));
        all.sort_by(|a, b| (a.table, &a.node, a.ts).cmp(&(b.table, &b.node, b.ts)));
        all
    }

    /// All rows of one host in `[from, to)`, by table, in the whole schema: for tests and small fleets. `every` says how
    /// often a table is sampled; by default as the catalogue says.
    ///
    /// # Errors
    /// When the catalogue is not the one this was written for.
    pub fn rows(
        self: &Arc<Self>,
        catalogue: &Catalogue,
        host: usize,
        from: i64,
        to: i64,
        every: impl Fn(&str) -> i64,
    ) -> Result<BTreeMap<&'static str, RecordBatch>, SimulateError> {
        let mut all = events::batches(catalogue, &self.events(host, from, to, Detail::Minutes))?;
        let row = &self.world.hosts[host];
        let node = &self.world.node_of(row).code;
        for table in SERIES {
            let mut sheet: Option<Sheet> = None;
            for mut series in self.series(host, table, every(table)) {
                let sheet = match &mut sheet {
                    Some(sheet) => sheet,
                    none => none.insert(sheet_of(catalogue, &series)?),
                };
                series.rows(from, to, node, &row.name, sheet);
            }
            if let Some(mut sheet) = sheet.filter(|s| !s.is_empty()) {
                let batch = sheet.finish().map_err(|source| SimulateError::rows(table, source))?;
                match all.get_mut(table) {
                    Some(there) => {
                        *there = arrow_select::concat::concat_batches(batch.schema_ref(), [&*there, &batch])
                            .map_err(|source| SimulateError::rows(table, source))?;
                    }
                    None => drop(all.insert(table, batch)),
                }
            }
        }
        Ok(all)
    }
}

/// Tables that are series.
pub const SERIES: [&str; 16] = [
    "accelerator",
    "agent",
    "connection",
    "cpu",
    "disk",
    "filesystem",
    "interface",
    "link",
    "memory",
    "nic",
    "power",
    "protocol",
    "rdma",
    "sensor",
    "service",
    "system",
];

/// How often a table is sampled by the catalogue, seconds; 60 where it does not say.
pub fn catalogue_interval(catalogue: &Catalogue, table: &str) -> i64 {
    catalogue.get(table).and_then(|t| t.every).map_or(60, |every| every.as_secs().max(1) as i64)
}

pub(crate) fn sheet_of(catalogue: &Catalogue, series: &Series) -> Result<Sheet, SimulateError> {
    let name = series.layout.table;
    let table = catalogue.get(name).ok_or_else(|| SimulateError::NoTable(name.to_owned()))?;
    Sheet::new(table, &series.layout.names()).map_err(SimulateError::NoColumn)
}
