//! History, straight into a store: what a fleet's agents and schedule would have left there by now.
//!
//! Hours for its whole life, minutes for a day, raw rows for the newest minutes, and everything that was told once. It
//! is written as sealed files, in one commit after the other, under the watermark of a partition of its own
//! ([`PARTITION`]): so a second history in the same store is refused, and readers see files like all others.
//!
//! The work is cut by table, time and hosts into pieces that make one file each, of the times that compaction leaves:
//! whoever asks for a day then reads no other. Pieces are independent (every value follows from the seed), so they are
//! made on all cores; what waits to be written is bounded by their number. Columns that a
//! fleet never fills are left out of the files, and are NULL to whoever reads them.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use futures::StreamExt;
use nodescope_model::catalogue::{Catalogue, Grain, Kind, Table};
use nodescope_store::Store;
use nodescope_store::layout::PartitionId;
use nodescope_store::parquet_file::{self, EncodedFile};
use nodescope_store::sealed::{Advance, SealedTable};

use crate::series::{Rolled, Roller, Series, Window};
use crate::sheet::{Datum, Sheet};
use crate::world::{DAY, HOUR, MINUTE};
use crate::{Detail, Fleet, SERIES, SimulateError, catalogue_interval, events};

/// Topic of the partition under whose watermark simulated history is sealed.
pub const PARTITION: &str = "journal.simulate";

/// Rows of one file, about.
const FILE_ROWS: i64 = 250_000;

/// Bytes of files that are put before they are committed together.
const COMMIT_BYTES: u64 = 48 << 20;

/// What history to make.
#[derive(Debug, Clone)]
pub struct HistoryOptions {
    /// Until when; a whole minute.
    pub now: i64,
    /// Raw rows of so many seconds before that.
    pub raw: i64,
    /// Minutes of so many.
    pub minutes: i64,
    /// Files made at once.
    pub workers: usize,
}

impl HistoryOptions {
    /// Ten minutes raw, a day of minutes, all hours, on all cores.
    pub fn until(now: i64) -> Self {
        let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self { now: now.div_euclid(MINUTE) * MINUTE, raw: 10 * MINUTE, minutes: DAY, workers }
    }
}

/// How far it has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Pieces of work done.
    pub done: usize,
    /// Pieces of work in all.
    pub all: usize,
    /// Rows written.
    pub rows: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Since the begin.
    pub took: Duration,
}

impl Progress {
    /// How long it will still take, if it goes on as it has.
    pub fn left(&self) -> Option<Duration> {
        (self.done > 0).then(|| self.took.mul_f64((self.all - self.done) as f64 / self.done as f64))
    }
}

/// One file's worth of work.
#[derive(Debug, Clone)]
struct Piece {
    what: What,
    /// Hosts, counted in the store's order.
    hosts: Range<usize>,
    /// Seconds since 1970.
    time: Range<i64>,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Raw(&'static str),
    Rolled(&'static str, Grain),
    Available(Grain),
    Told,
    OfNodes,
}

/// A file that is made and not yet put.
struct Made {
    table: Arc<Table>,
    file: EncodedFile,
}

/// Writes the history.
///
/// # Errors
/// When the store holds simulated history already, or fails.
pub async fn write(
    fleet: &Arc<Fleet>,
    store: &Store,
    options: &HistoryOptions,
    mut report: impl FnMut(&Progress),
) -> Result<Progress, SimulateError> {
    let began = Instant::now();
    let pieces = pieces(fleet, store.catalogue(), options);
    let mut progress = Progress { done: 0, all: pieces.len(), rows: 0, bytes: 0, took: Duration::ZERO };
    let order = Arc::new(fleet.world.in_store_order());
    let mut made = futures::stream::iter(pieces)
        .map(|piece| {
            let (fleet, order, options) = (fleet.clone(), order.clone(), options.clone());
            let catalogue = store.catalogue().clone();
            async move {
                tokio::task::spawn_blocking(move || make(&fleet, &catalogue, &order, &options, piece))
                    .await
                    .map_err(|error| SimulateError::Died(error.to_string()))?
            }
        })
        .buffered(options.workers.max(1));
    let mut tables: Vec<Writer> = Vec::new();
    while let Some(files) = made.next().await {
        for Made { table, file } in files? {
            progress.rows += file.facts.num_records;
            progress.bytes += file.bytes.len() as u64;
            let place = match tables.iter().position(|w| w.sealed.table().name == table.name) {
                Some(place) => place,
                None => {
                    tables.push(Writer::open(store, &table).await?);
                    tables.len() - 1
                }
            };
            tables[place].take(file).await?;
        }
        progress.done += 1;
        progress.took = began.elapsed();
        report(&progress);
    }
    for table in &mut tables {
        table.commit().await?;
    }
    progress.took = began.elapsed();
    report(&progress);
    Ok(progress)
}

/// One table that is being written.
struct Writer {
    sealed: SealedTable,
    waiting: Vec<EncodedFile>,
    bytes: u64,
    commits: u64,
}

impl Writer {
    async fn open(store: &Store, table: &Arc<Table>) -> Result<Self, SimulateError> {
        let mut sealed = SealedTable::open_for_writing(store, table).await?;
        if sealed.watermark(&PartitionId::new(PARTITION, 0)).await?.is_some() {
            return Err(SimulateError::There(table.name.clone()));
        }
        Ok(Self { sealed, waiting: Vec::new(), bytes: 0, commits: 0 })
    }

    async fn take(&mut self, file: EncodedFile) -> Result<(), SimulateError> {
        self.bytes += file.bytes.len() as u64;
        self.waiting.push(file);
        if self.bytes >= COMMIT_BYTES { self.commit().await } else { Ok(()) }
    }

    async fn commit(&mut self) -> Result<(), SimulateError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let advance = Advance {
            partition: PartitionId::new(PARTITION, 0),
            from: (self.commits > 0).then_some(self.commits),
            to: self.commits + 1,
        };
        self.bytes = 0;
        self.sealed.append(std::mem::take(&mut self.waiting), &[advance]).await?;
        self.commits += 1;
        Ok(())
    }
}

/// The work, table by table, so that few tables are open with files that wait.
fn pieces(fleet: &Fleet, catalogue: &Catalogue, options: &HistoryOptions) -> Vec<Piece> {
    let hosts = fleet.world.hosts.len();
    let (start, now) = (fleet.world.options.start, options.now);
    let mut all = vec![];
    // Files of `slice` seconds and some of the hosts, or of all hosts and some slices.
    let mut cut = |what: What, time: Range<i64>, slice: i64, rows_of_host: i64| {
        let many = (FILE_ROWS / rows_of_host.max(1)).max(1);
        let slices = (many / hosts as i64).max(1);
        let many = usize::try_from(many).map_or(hosts, |many| many.min(hosts));
        let mut from = time.start;
        while from < time.end {
            let to = ((from.div_euclid(slice) + slices) * slice).min(time.end);
            let pieces = (0..hosts).step_by(many).map(|at| at..(at + many).min(hosts));
            all.extend(pieces.map(|hosts| Piece { what, hosts, time: from..to }));
            from = to;
        }
    };
    let (raw, minutes) = (now - options.raw..now, now - options.minutes..now);
    let hours = start..now.div_euclid(HOUR) * HOUR;
    for table in SERIES {
        let many = entities(fleet, table);
        cut(What::Raw(table), raw.clone(), MINUTE, MINUTE / catalogue_interval(catalogue, table) * many);
        if catalogue.get(table).is_some_and(|t| t.moves()) {
            cut(What::Rolled(table, Grain::Minute), minutes.clone(), HOUR, HOUR / MINUTE * many);
            cut(What::Rolled(table, Grain::Hour), hours.clone(), DAY, DAY / HOUR * many);
        }
    }
    cut(What::Available(Grain::Minute), minutes, HOUR, HOUR / MINUTE);
    cut(What::Available(Grain::Hour), hours, DAY, DAY / HOUR);
    cut(What::Told, start..now, DAY, DAY / HOUR * entities(fleet, "accelerator"));
    let weeks = (start..now).step_by(7 * DAY as usize).map(|from| from..(from + 7 * DAY).min(now));
    all.extend(weeks.map(|time| Piece { what: What::OfNodes, hosts: 0..0, time }));
    all
}

/// Rows of a tick of a host, about.
fn entities(fleet: &Fleet, table: &str) -> i64 {
    match table {
        "accelerator" => fleet.world.options.accelerators.max(1) as i64,
        "rdma" => (fleet.world.options.accelerators / 2).max(1) as i64,
        "agent" | "connection" => 5,
        "link" | "power" | "sensor" => 3,
        "interface" | "nic" | "filesystem" => 2,
        _ => 1,
    }
}

fn make(
    fleet: &Arc<Fleet>,
    catalogue: &Catalogue,
    order: &[usize],
    options: &HistoryOptions,
    piece: Piece,
) -> Result<Vec<Made>, SimulateError> {
    let Piece { what, hosts, time: Range { start: from, end: to } } = piece;
    let hosts = order[hosts].iter().copied();
    match what {
        What::Raw(table) => raw(fleet, catalogue, table, hosts, from, to),
        What::Rolled(table, grain) => rolled(fleet, catalogue, table, grain, hosts, from, to),
        What::Available(grain) => available(fleet, catalogue, grain, hosts, from, to),
        What::Told => {
            let raw = options.now - options.raw;
            let day = raw.min(options.now - DAY);
            let mut all = Vec::new();
            for host in hosts {
                for (since, until, detail) in
                    [(from, day, Detail::Quarters), (day, raw, Detail::Hours), (raw, to, Detail::Minutes)]
                {
                    let (since, until) = (since.max(from), until.min(to));
                    if since < until {
                        all.extend(fleet.events(host, since, until, detail));
                    }
                }
            }
            told(catalogue, &all)
        }
        What::OfNodes => told(catalogue, &fleet.node_events(from, to)),
    }
}

fn told(catalogue: &Catalogue, all: &[events::Event]) -> Result<Vec<Made>, SimulateError> {
    let mut made = Vec::new();
    for (name, batch) in events::batches(catalogue, all)? {
        if let Some(table) = catalogue.get(name) {
            made.push(encoded(table, &parquet_file::sort(table, &[batch])?)?);
        }
    }
    Ok(made)
}

fn encoded(table: &Arc<Table>, batch: &RecordBatch) -> Result<Made, SimulateError> {
    Ok(Made { table: table.clone(), file: parquet_file::encode(table, batch)? })
}

fn finished(sheet: Option<Sheet>) -> Result<Vec<Made>, SimulateError> {
    let Some(mut sheet) = sheet.filter(|s| !s.is_empty()) else { return Ok(Vec::new()) };
    let table = sheet.table().clone();
    let batch = sheet.finish_lean().map_err(|source| SimulateError::rows(&table.name, source))?;
    Ok(vec![encoded(&table, &batch)?])
}

fn raw(
    fleet: &Arc<Fleet>,
    catalogue: &Catalogue,
    table: &str,
    hosts: impl Iterator<Item = usize>,
    from: i64,
    to: i64,
) -> Result<Vec<Made>, SimulateError> {
    let every = catalogue_interval(catalogue, table);
    let mut sheet: Option<Sheet> = None;
    for host in hosts {
        let row = &fleet.world.hosts[host];
        for mut series in fleet.series(host, table, every) {
            let sheet = match &mut sheet {
                Some(sheet) => sheet,
                none => none.insert(crate::sheet_of(catalogue, &series)?),
            };
            series.rows(from, to, &fleet.world.node_of(row).code, &row.name, sheet);
        }
    }
    finished(sheet)
}

/// Where the parts of a rollup come from: the columns of its sheet, in order.
enum Source {
    Label(usize),
    /// A gauge that never moves.
    Constant(usize, &'static str),
    State(usize),
    Folded(usize, &'static str),
}

/// The columns of a series' rollup, after `revision`, `samples` and `expected`.
fn sources(table: &Table, series: &Series) -> (Vec<String>, Vec<Source>) {
    let (mut names, mut sources) = (Vec::new(), Vec::new());
    let mut add = |name: String, source: Source| {
        names.push(name);
        sources.push(source);
    };
    for (place, label) in series.layout.labels.iter().enumerate() {
        let Some(column) = table.column(label) else { continue };
        if column.is_folded() {
            for part in ["min", "max", "mean", "last", "count"] {
                add(format!("{label}_{part}"), Source::Constant(place, part));
            }
        } else {
            add((*label).to_owned(), Source::Label(place));
        }
    }
    for (place, cell) in series.layout.cells.iter().enumerate() {
        let Some(column) = table.column(cell) else { continue };
        if !column.is_folded() {
            if column.is_kept() {
                add((*cell).to_owned(), Source::State(place));
            }
            continue;
        }
        let parts: &[&'static str] = if column.kind == Kind::Counter {
            &["increase", "last", "count"]
        } else {
            &["min", "max", "mean", "last", "count"]
        };
        for part in parts {
            add(format!("{cell}_{part}"), Source::Folded(place, part));
        }
    }
    (names, sources)
}

fn rolled(
    fleet: &Arc<Fleet>,
    catalogue: &Catalogue,
    table: &'static str,
    grain: Grain,
    hosts: impl Iterator<Item = usize>,
    from: i64,
    to: i64,
) -> Result<Vec<Made>, SimulateError> {
    let of = catalogue.get(table).ok_or_else(|| SimulateError::NoTable(table.to_owned()))?;
    let name = format!("{table}{}", grain.suffix());
    let into = catalogue.get(&name).ok_or_else(|| SimulateError::NoTable(name.clone()))?;
    let (every, length) = (catalogue_interval(catalogue, table), grain.length().as_secs() as i64);
    let mut open: Option<(Sheet, Vec<Source>)> = None;
    for host in hosts {
        let row = &fleet.world.hosts[host];
        let node = &fleet.world.node_of(row).code;
        for mut series in fleet.series(host, table, every) {
            if open.is_none() {
                let (mut names, sources) = sources(of, &series);
                names.splice(0..0, ["revision", "samples", "expected"].map(str::to_owned));
                open = Some((Sheet::new(into, &names).map_err(SimulateError::NoColumn)?, sources));
            }
            let Some((sheet, sources)) = &mut open else { continue };
            let mut roller = Roller::of(every);
            // What came before the first window belongs to its growth.
            roller.window(&mut series, (from - 5 * MINUTE).max(fleet.world.options.start), from);
            let mut at = from;
            while at < to {
                let window = roller.window(&mut series, at, at + length);
                if window.samples > 0 {
                    sheet.begin(at * 1_000_000, node, &row.name);
                    push(sheet, sources, &series, &window, length as f64 / series.every as f64);
                }
                at += length;
            }
        }
    }
    finished(open.map(|(sheet, _)| sheet))
}

fn push(sheet: &mut Sheet, sources: &[Source], series: &Series, window: &Window, expected: f64) {
    sheet.push(0, Datum::Int(0));
    sheet.push(1, Datum::Int(window.samples));
    sheet.push(2, Datum::Float(expected));
    for (at, source) in sources.iter().enumerate() {
        let at = at + 3;
        match source {
            Source::Label(place) => sheet.push(at, series.labels[*place].datum()),
            Source::Constant(place, part) => {
                let value =
                    if let Datum::Int(value) = series.labels[*place].datum() { Some(value as f64) } else { None };
                sheet.push_number(at, if *part == "count" { Some(window.samples as f64) } else { value });
            }
            Source::State(place) => sheet.push(at, window.last[*place]),
            Source::Folded(place, part) => {
                let value = match (&window.columns[*place], *part) {
                    (Rolled::Gauge(sum), "min") => Some(sum.min),
                    (Rolled::Gauge(sum), "max") => Some(sum.max),
                    (Rolled::Gauge(sum), "mean") => sum.mean(),
                    (Rolled::Gauge(sum), "last") => Some(sum.last),
                    (Rolled::Gauge(sum), "count") => Some(sum.count as f64),
                    (Rolled::Counter(sum), "increase") => sum.increase,
                    (Rolled::Counter(sum), "last") => Some(sum.last),
                    (Rolled::Counter(sum), "count") => Some(sum.count as f64),
                    (Rolled::Other, "count") => Some(0.0),
                    _ => None,
                };
                sheet.push_number(at, value);
            }
        }
    }
}

fn available(
    fleet: &Arc<Fleet>,
    catalogue: &Catalogue,
    grain: Grain,
    hosts: impl Iterator<Item = usize>,
    from: i64,
    to: i64,
) -> Result<Vec<Made>, SimulateError> {
    let name = format!("availability{}", grain.suffix());
    let table = catalogue.get(&name).ok_or_else(|| SimulateError::NoTable(name.clone()))?;
    let columns = ["revision", "up_seconds", "down_seconds", "unknown_seconds", "maintenance_seconds"];
    let mut sheet = Sheet::new(table, &columns).map_err(SimulateError::NoColumn)?;
    let length = grain.length().as_secs() as i64;
    for host in hosts.filter(|host| !fleet.attacks.is_unregistered(*host)) {
        let row = &fleet.world.hosts[host];
        let mut at = from;
        while at < to {
            let sum = fleet.availability(host, at, at + length);
            sheet.begin(at * 1_000_000, &fleet.world.node_of(row).code, &row.name);
            for (place, value) in [0, sum.up, sum.down, sum.unknown, sum.maintenance].into_iter().enumerate() {
                sheet.push(place, Datum::Int(value));
            }
            at += length;
        }
    }
    finished(Some(sheet))
}
