//! A harness for fake vendor libraries: the whole way from the PCI bus to rows, with a library we wrote.
//!
//! A fake is a C file below `tests/fakes` (see `fake.h` there) that has a vendor's functions under their own names.
//! [`Fake::build`] compiles it with the system's C compiler; an [`AcceleratorProbe`] then starts the real worker
//! process, which opens the library as it would open the vendor's. The test ticks the probe by hand, and changes what
//! the library does while it runs.
//!
//! What holds for every vendor is in [`contract`]: each vendor's test calls [`contract::all`].

#![allow(dead_code, unreachable_pub, reason = "every test is a crate of its own, and none needs everything")]
#![allow(clippy::unwrap_used, reason = "it is for tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch, StringArray, new_empty_array};
use nodescope_agent::accelerators::{AcceleratorOptions, AcceleratorProbe, VendorId, WorkerCommand};
use nodescope_agent::host_root::HostRoot;
use nodescope_agent::probe::{ProbeError, Tick};
use nodescope_agent::ticker::{Place, Tables};
use nodescope_model::catalogue::Catalogue;

/// What a library may take for one tick: long enough for a machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// How long [`Fake::until`] waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    /// Equal within a millionth.
    Float(f64),
    Text(String),
    Bool(bool),
    /// Microseconds.
    Timestamp(i64),
}

impl Value {
    /// Whether it is the value wanted.
    pub fn is(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Float(a), Self::Float(b)) => (a - b).abs() <= 1e-6 * b.abs().max(1.0),
            (a, b) => a == b,
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// The value of a column in one row.
pub fn value(batch: &RecordBatch, row: usize, column: &str) -> Value {
    let cells = batch.column_by_name(column).unwrap_or_else(|| panic!("there is no column {column}"));
    if cells.is_null(row) {
        return Value::Null;
    }
    if let Some(cells) = cells.as_primitive_opt::<Int64Type>() {
        Value::Int(cells.value(row))
    } else if let Some(cells) = cells.as_primitive_opt::<Float64Type>() {
        Value::Float(cells.value(row))
    } else if let Some(cells) = cells.as_primitive_opt::<TimestampMicrosecondType>() {
        Value::Timestamp(cells.value(row))
    } else if let Some(cells) = cells.as_boolean_opt() {
        Value::Bool(cells.value(row))
    } else {
        Value::Text(cells.as_string::<i32>().value(row).to_owned())
    }
}

/// An event that came.
#[derive(Debug, Clone)]
pub struct Event {
    pub kind: String,
    pub source: String,
    pub device: Option<String>,
    pub code: Option<i64>,
    pub message: String,
    pub pid: Option<i64>,
}

/// A fake library and a probe that reads it.
pub struct Fake {
    probe: AcceleratorProbe,
    tables: Tables,
    place: Place,
    mode: PathBuf,
    root: PathBuf,
    vendor: VendorId,
    ts_micros: i64,
    first: bool,
    newest: BTreeMap<String, RecordBatch>,
    /// Every event so far.
    pub events: Vec<Event>,
    /// How the newest tick went.
    pub result: Result<(), ProbeError>,
    /// How long the newest tick took.
    pub took: Duration,
    /// Last, so that it is there until the probe has gone.
    _directory: tempfile::TempDir,
}

impl Fake {
    /// Compiles `tests/fakes/<c_file>` with `-D` for each of `defines`, and makes a probe that will use it as that
    /// vendor's library. The host's root is an empty folder: see [`Fake::root`].
    pub fn build(c_file: &str, vendor: VendorId, defines: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fakes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes");
        let library = directory.path().join(format!("lib{}.so", vendor.as_str()));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-o"])
            .arg(&library)
            .args(defines.iter().map(|define| format!("-D{define}")))
            .arg("-I")
            .arg(&fakes)
            .arg(fakes.join(c_file))
            .args(["-ldl", "-lpthread"])
            .output()
            .expect("these tests need a C compiler, `cc`");
        assert!(compiled.status.success(), "{c_file}:\n{}", String::from_utf8_lossy(&compiled.stderr));
        Self::of(directory, vendor, BTreeMap::from([(vendor, library.clone())]), library.with_extension("so.mode"))
    }

    /// A probe of a vendor whose driver tells in files. The host's root is an empty folder to be filled.
    pub fn of_files(vendor: VendorId) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mode = directory.path().join("mode");
        Self::of(directory, vendor, BTreeMap::new(), mode)
    }

    fn of(
        directory: tempfile::TempDir,
        vendor: VendorId,
        libraries: BTreeMap<VendorId, PathBuf>,
        mode: PathBuf,
    ) -> Self {
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let options = AcceleratorOptions {
            worker: WorkerCommand {
                program: env!("CARGO_BIN_EXE_nodescope-agent").into(),
                arguments: vec!["accelerator-worker".into()],
            },
            libraries,
            deadline: DEADLINE,
            kill_after: None,
        };
        let probe = AcceleratorProbe::new(&HostRoot::new(&root), options);
        Self {
            tables: Tables::of(&probe, &Catalogue::built_in()).unwrap(),
            probe,
            place: Place { node: "n".to_owned(), host: "h".to_owned() },
            mode,
            root,
            vendor,
            ts_micros: 1_700_000_000_000_000,
            first: true,
            newest: BTreeMap::new(),
            events: Vec::new(),
            result: Ok(()),
            took: Duration::ZERO,
            _directory: directory,
        }
    }

    /// The host's `/`: a test may put files there (`sys/bus/pci/devices/…`, `proc/4242/stat`) before the first tick.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Sends a signal to the worker of this fake.
    #[track_caller]
    pub fn signal(&self, signal: &str) {
        let root = self.root.to_str().unwrap();
        let is_ours = |pid: &str| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == b"accelerator-worker")
                && String::from_utf8_lossy(&line).contains(root)
        };
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids: Vec<_> =
            processes.filter_map(|entry| entry.file_name().into_string().ok()).filter(|pid| is_ours(pid)).collect();
        assert_eq!(pids.len(), 1, "workers");
        assert!(Command::new("kill").args(["-s", signal, &pids[0]]).status().unwrap().success());
    }

    /// Changes what the library does from its next call on: see `fake.h` for the words.
    pub fn set_mode(&self, mode: &str) {
        // In one step: the library reads at any time.
        let new = self.mode.with_extension("new");
        std::fs::write(&new, mode).unwrap();
        std::fs::rename(&new, &self.mode).unwrap();
    }

    /// Lets this much time go by for the probe, without a tick.
    pub fn skip(&mut self, time: Duration) {
        self.ts_micros += i64::try_from(time.as_micros()).unwrap();
    }

    /// One tick, a second of the probe's time after the one before. It takes as long as the library takes.
    pub fn tick(&mut self) {
        self.ts_micros += 1_000_000;
        let tick = Tick { ts_micros: self.ts_micros, first: std::mem::take(&mut self.first) };
        let began = Instant::now();
        let (batches, result) = self.tables.sample(&mut self.probe, &tick, &self.place);
        self.took = began.elapsed();
        self.result = result;
        self.newest = batches.into_iter().map(|(table, batch)| (table.name.clone(), batch)).collect();
        let events = self.rows("accelerator_event");
        for row in 0..events.num_rows() {
            let text = |column| match value(&events, row, column) {
                Value::Text(text) => Some(text),
                _ => None,
            };
            let int = |column| match value(&events, row, column) {
                Value::Int(int) => Some(int),
                _ => None,
            };
            self.events.push(Event {
                kind: text("kind").unwrap_or_default(),
                source: text("source").unwrap_or_default(),
                device: text("device"),
                code: int("code"),
                message: text("message").unwrap_or_default(),
                pid: int("pid"),
            });
        }
    }

    /// The same in that mode, ticked until both cards are there.
    pub fn begin(c_file: &str, vendor: VendorId, defines: &[&str], mode: &str) -> Self {
        let mut fake = Self::build(c_file, vendor, defines);
        fake.set_mode(mode);
        fake.until("both cards", |fake| fake.cards().len() >= 2);
        fake
    }

    /// A tick with two looks of the worker's before it. Looks are taken by the clock, and what they find is told only with
    /// a tick: so the time has to pass.
    pub fn tick_after_looks(&mut self) {
        std::thread::sleep(Duration::from_millis(600));
        self.tick();
    }

    /// Ticks, some twenty times a second, until what is wanted has come.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut is_there: impl FnMut(&Self) -> bool) {
        let began = Instant::now();
        loop {
            self.tick();
            if is_there(self) {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "never came: {what}; the last tick: {:?}, devices {:?}, events {:#?}",
                self.result,
                self.devices(),
                self.events
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The rows of a table at the newest tick; none is an empty batch.
    pub fn rows(&self, table: &str) -> RecordBatch {
        self.newest.get(table).cloned().unwrap_or_else(|| {
            let catalogue = Catalogue::built_in();
            let table = catalogue.get(table).unwrap_or_else(|| panic!("there is no table {table}"));
            let empty = table.schema().fields().iter().map(|field| new_empty_array(field.data_type())).collect();
            RecordBatch::try_new(table.schema().clone(), empty).unwrap()
        })
    }

    /// Identities of cards and partitions at the newest tick.
    pub fn devices(&self) -> Vec<String> {
        let rows = self.rows("accelerator");
        let devices: &StringArray = rows.column_by_name("device").unwrap().as_string();
        devices.iter().flatten().map(str::to_owned).collect()
    }

    /// Those that are whole cards.
    pub fn cards(&self) -> Vec<String> {
        let rows = self.rows("accelerator");
        let whole = |row: &usize| value(&rows, *row, "parent") == Value::Null;
        self.devices().into_iter().enumerate().filter(|(row, _)| whole(row)).map(|(_, device)| device).collect()
    }

    /// A value of one device's row at the newest tick.
    #[track_caller]
    pub fn value(&self, device: &str, column: &str) -> Value {
        let row = self.devices().iter().position(|d| d == device);
        let row = row.unwrap_or_else(|| panic!("there is no {device} among {:?}", self.devices()));
        value(&self.rows("accelerator"), row, column)
    }

    /// Asserts values of one device's row: `fake.assert("uuid", &[("power_watts", 71.25.into()), …])`.
    #[track_caller]
    pub fn assert(&self, device: &str, wanted: &[(&str, Value)]) {
        let wrong: Vec<String> = wanted
            .iter()
            .map(|(column, wanted)| (column, wanted, self.value(device, column)))
            .filter(|(_, wanted, is)| !is.is(wanted))
            .map(|(column, wanted, is)| format!("{column}: {is:?}, wanted {wanted:?}"))
            .collect();
        assert!(wrong.is_empty(), "{device}:\n{}", wrong.join("\n"));
    }

    /// Events of that kind so far.
    pub fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|event| event.kind == kind).count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // A library that hangs would keep its worker.
        self.set_mode("normal");
    }
}

/// What holds for every vendor.
pub mod contract {
    use super::*;

    /// What one vendor's fake looks like.
    #[derive(Debug, Clone)]
    pub struct Contract<'a> {
        /// Its file below `tests/fakes`.
        pub source: &'a str,
        /// Defines of every library that is built of it.
        pub defines: &'a [&'a str],
        pub vendor: VendorId,
        /// The mode in which all is well: `normal`, or what else the fake needs said.
        pub normal: &'a str,
        /// A function of the library that is called at every tick.
        pub function: &'a str,
        /// Identities of the fake's cards, at least two, in their order.
        pub cards: &'a [&'a str],
        /// Values of the first card in mode `normal`.
        pub values: &'a [(&'a str, Value)],
        /// Columns of the first card that are NULL in mode `sentinel` (and not in `normal`).
        pub sentinels: &'a [&'a str],
        /// A define that leaves functions out of the library, and the columns of the first card this costs.
        pub without: (&'a str, &'a [&'a str]),
        /// Columns of the first card that are there although functions are left out.
        pub still: &'a [&'a str],
        /// Whether the fake knows `partitions N`.
        pub partitions: bool,
    }

    /// All of it.
    pub fn all(of: &Contract<'_>) {
        normal(of);
        hang(of);
        freeze(of);
        crash(of);
        missing(of);
        sentinel(of);
        lost(of);
        if of.partitions {
            partitions(of);
        }
    }

    fn begin(of: &Contract<'_>, defines: &[&str]) -> Fake {
        let mut fake = Fake::build(of.source, of.vendor, &[of.defines, defines].concat());
        fake.set_mode(of.normal);
        fake.until("the first rows", |fake| fake.cards().len() == of.cards.len());
        fake
    }

    /// Values come, one row a card, and nothing happens.
    pub fn normal(of: &Contract<'_>) {
        let mut fake = begin(of, &[]);
        assert_eq!(fake.cards(), of.cards);
        // What is a difference between two ticks comes with the second, and samples take their time.
        fake.tick_after_looks();
        fake.assert(of.cards[0], of.values);
        for card in of.cards {
            fake.assert(card, &[("vendor", of.vendor.as_str().into())]);
        }
        assert!(fake.result.is_ok(), "{:?}", fake.result);
        assert!(fake.events.is_empty(), "{:#?}", fake.events);
    }

    /// A library that hangs is said to within one tick, holds nobody up, and is said to answer again.
    pub fn hang(of: &Contract<'_>) {
        let mut fake = begin(of, &[]);
        fake.set_mode(&format!("{}; hang {}", of.normal, of.function));
        let began = Instant::now();
        // The library may have been past that function in the first of these ticks only if it hangs at a look.
        fake.until("a stall", |fake| fake.count("stalled") == 1);
        assert!(began.elapsed() < DEADLINE * 4, "told after {:?}", began.elapsed());
        assert!(fake.took < DEADLINE * 2, "the tick took {:?}", fake.took);
        assert!(fake.result.is_err());
        for _ in 0..3 {
            fake.tick();
            assert!(fake.took < DEADLINE / 2, "a stalled worker was waited for: {:?}", fake.took);
            assert!(fake.devices().is_empty());
        }
        assert_eq!(fake.count("stalled"), 1, "once");
        assert_eq!(fake.count("lost"), 0, "a stall is no loss");
        fake.set_mode(of.normal);
        fake.until("an end of the stall", |fake| fake.count("resumed") == 1);
        fake.until("rows again", |fake| fake.cards() == of.cards && fake.result.is_ok());
        assert_eq!(fake.count("crashed") + fake.count("started"), 0, "{:#?}", fake.events);
    }

    /// A worker that the system has stopped is one that hangs, and goes on when it is let go on.
    pub fn freeze(of: &Contract<'_>) {
        let mut fake = begin(of, &[]);
        fake.signal("STOP");
        fake.until("a stall", |fake| fake.count("stalled") == 1);
        assert!(fake.took < DEADLINE * 2, "the tick took {:?}", fake.took);
        fake.tick();
        assert!(fake.took < DEADLINE / 2, "a frozen worker was waited for: {:?}", fake.took);
        assert!(fake.devices().is_empty());
        fake.signal("CONT");
        fake.until("an end of the stall", |fake| fake.count("resumed") == 1);
        fake.until("rows again", |fake| fake.cards() == of.cards && fake.result.is_ok());
        assert_eq!(fake.count("crashed") + fake.count("started") + fake.count("lost"), 0, "{:#?}", fake.events);
    }

    /// A library that crashes is said to, and another worker reads on.
    pub fn crash(of: &Contract<'_>) {
        let mut fake = begin(of, &[]);
        fake.set_mode(&format!("{}; crash {}", of.normal, of.function));
        fake.until("a crash", |fake| fake.count("crashed") >= 1);
        assert!(fake.result.is_err());
        fake.set_mode(of.normal);
        fake.until("rows again", |fake| fake.cards() == of.cards && fake.result.is_ok());
        assert!(fake.count("started") >= 1, "{:#?}", fake.events);
        assert_eq!(fake.count("lost"), 0, "{:#?}", fake.events);
    }

    /// A function the library does not have costs its columns and no others.
    pub fn missing(of: &Contract<'_>) {
        let (define, columns) = of.without;
        let mut fake = begin(of, &[define]);
        fake.tick();
        for column in columns {
            fake.assert(of.cards[0], &[(column, Value::Null)]);
        }
        for column in of.still {
            assert_ne!(fake.value(of.cards[0], column), Value::Null, "{column}");
        }
        assert!(fake.result.is_ok(), "{:?}", fake.result);
    }

    /// Numbers that stand for "not known" are NULL.
    pub fn sentinel(of: &Contract<'_>) {
        let mut fake = begin(of, &[]);
        fake.tick();
        for column in of.sentinels {
            assert_ne!(fake.value(of.cards[0], column), Value::Null, "{column} is never there");
        }
        fake.set_mode(&format!("{}; sentinel", of.normal));
        // The first may still have had looks from before in its window.
        fake.tick();
        fake.tick();
        fake.until("rows", |fake| fake.cards() == of.cards);
        for column in of.sentinels {
            fake.assert(of.cards[0], &[(column, Value::Null)]);
        }
    }

    /// A card that is lost is said to be, and takes nothing from the others.
    pub fn lost(of: &Contract<'_>) {
        let mut fake = begin(of, &[]);
        fake.set_mode(&format!("{}; lost 1", of.normal));
        let others: Vec<&str> = of.cards.iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, card)| *card).collect();
        fake.until("a loss", |fake| fake.count("lost") == 1);
        let event = fake.events.iter().find(|event| event.kind == "lost").unwrap();
        assert_eq!(event.device.as_deref(), Some(of.cards[1]));
        assert_eq!(fake.cards(), others);
        fake.tick();
        assert_eq!(fake.cards(), others);
        fake.set_mode(of.normal);
        fake.until("the card again", |fake| fake.cards() == of.cards);
        assert_eq!(fake.count("added"), 1, "{:#?}", fake.events);
        assert_eq!(fake.count("lost"), 1, "{:#?}", fake.events);
    }

    /// Rows of partitions come and go with them.
    pub fn partitions(of: &Contract<'_>) {
        let mut fake = begin(of, &[]);
        let parts = |fake: &Fake| fake.devices().len() - fake.cards().len();
        fake.set_mode(&format!("partitions 2; {}", of.normal));
        fake.until("two partitions", |fake| parts(fake) == 2);
        let rows = fake.rows("accelerator");
        for row in (0..rows.num_rows()).filter(|row| value(&rows, *row, "parent") != Value::Null) {
            assert_eq!(value(&rows, row, "parent"), of.cards[0].into());
            for column in ["partition_id", "partition_type"] {
                assert_ne!(value(&rows, row, column), Value::Null, "{column}");
            }
        }
        fake.set_mode(&format!("partitions 0; {}", of.normal));
        fake.until("none", |fake| parts(fake) == 0 && fake.cards() == of.cards);
        assert!(fake.count("added") >= 1 && fake.count("lost") >= 1, "{:#?}", fake.events);
    }
}
