//! `sample`, and rows of `accelerator` and `accelerator_process`: what exporters on this host tell.
//!
//! Wherever the vendor's own exporter runs already, or a program tells of itself in Prometheus' format, its numbers are
//! worth having beside ours: at the same ticks, in the same tables, on the same way to the store. What a mapping knows
//! becomes columns of our tables, in their units (`mapping`); all the rest becomes rows of `sample`, a series each.
//!
//! ```text
//! probe ── asks at a tick ──► a thread per target ── fetch ── text ── mapping ──► rows, stamped with that tick
//! ```
//!
//! The probe asks all targets at once and waits for them, so that rows carry the tick at which they were taken. A target
//! that did not answer in time is given only a moment at the next tick, until it answers again: it holds up nobody but
//! itself. What was not answered is not made up from what was answered before.
//!
//! Whether a card's row comes from here or from our own reader is for [`arbiter`] to say.

pub(crate) mod arbiter;
mod fetch;
mod mapping;
mod store;
mod text;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

use nodescope_model::rows::Rows;
use nodescope_service::errors::chain;
use nodescope_service::settings::Settings;

pub use fetch::Source;

use self::arbiter::{ARBITER, Arbiter};
use self::fetch::{FetchError, Limits};
use self::mapping::{Cell, FILLED, Mapped, MappedRow, Mapping};
use self::store::Store;
use self::text::{Exposition, Labels, Line, parse_line};
use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};

/// Targets of one agent.
const MAX_TARGETS: usize = 64;

/// How long the probe waits for a target that did not answer in time the last time.
const A_MOMENT: Duration = Duration::from_millis(500);

/// And beyond the deadline of a fetch, for putting its answer into rows.
const GRACE: Duration = Duration::from_millis(500);

/// A record of `sample` is about as large as this at the most: the broker takes 4 MiB, and other rows have to be sent too.
const RECORD_BYTES: usize = 2_500_000;

/// What a row costs beside its texts.
const ROW_BYTES: usize = 120;

/// The series of what the adapter tells of itself, when the exporter is not the point.
const OWN: &str = "nodescope";

/// One exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name in `sample.exporter`.
    pub name: String,
    /// Where it is.
    pub source: Source,
}

/// What the adapter needs to know.
#[derive(Debug, Clone)]
pub struct ScrapeOptions {
    /// Exporters, in the order named.
    pub targets: Vec<Target>,
    /// Names of those that go before our own readers.
    pub prefer: BTreeSet<String>,
    /// How often they are asked.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Bytes of an answer.
    pub body: u64,
    /// Whether addresses that are neither loopback nor private are asked.
    pub anywhere: bool,
    /// Files written longer ago are left out.
    pub file_age: Duration,
    /// The site's mappings.
    pub mappings_dir: Option<PathBuf>,
}

impl Default for ScrapeOptions {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            prefer: BTreeSet::new(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            body: 16 << 20,
            anywhere: false,
            file_age: Duration::from_secs(3_600),
            mappings_dir: None,
        }
    }
}

impl ScrapeOptions {
    /// Reads the settings.
    pub fn read(settings: &mut Settings) -> Self {
        let mut targets: Vec<Target> = Vec::new();
        let named = settings.list(
            "agent.scrape",
            "",
            "Exporters to read, as NAME=http://HOST:PORT/PATH or NAME=file:/PATH (a file, or a directory of *.prom files).",
        );
        for (at, entry) in named.iter().enumerate() {
            let parsed = entry.split_once('=').ok_or_else(|| "it is not NAME=ADDRESS".to_owned());
            let parsed = parsed.and_then(|(name, source)| {
                let name = name.trim();
                let is_name = !name.is_empty()
                    && name.len() <= 63
                    && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
                if !is_name || name == OWN {
                    return Err("a name is of lower-case letters, digits, - and _, and not `nodescope`".to_owned());
                }
                if targets.iter().any(|target| target.name == name) {
                    return Err("there are two of this name".to_owned());
                }
                Ok(Target { name: name.to_owned(), source: Source::parse(source.trim())? })
            });
            match parsed {
                Ok(target) => targets.push(target),
                // An address may hold a password or a token, so it is not shown.
                Err(why) => settings.mistake(format!("agent.scrape, exporter {}: {why}", at + 1)),
            }
        }
        if targets.len() > MAX_TARGETS {
            settings.mistake(format!("agent.scrape: {MAX_TARGETS} exporters are the most"));
        }
        let prefer: BTreeSet<String> = settings
            .list(
                "agent.scrape_prefer",
                "",
                "Exporters whose rows of a vendor's cards go before those of our own reader of that vendor.",
            )
            .into_iter()
            .collect();
        for name in prefer.iter().filter(|name| targets.iter().all(|target| target.name != **name)) {
            settings.mistake(format!("agent.scrape_prefer: agent.scrape names no `{name}`"));
        }
        let interval = settings.duration("agent.scrape_interval", "10s", "How often exporters are read.");
        if interval.is_zero() || !interval.as_micros().is_multiple_of(10_000_000) {
            settings.mistake("agent.scrape_interval: 10s, or a multiple of it");
        }
        let timeout = settings.duration(
            "agent.scrape_timeout",
            "5s",
            "An exporter that has not answered whole by then has no rows at that tick.",
        );
        if timeout < Duration::from_millis(100) || timeout > Duration::from_secs(8) {
            settings.mistake("agent.scrape_timeout: between 100ms and 8s");
        }
        let body = settings.bytes("agent.scrape_body", "16MiB", "An exporter's answer that is longer is not taken.");
        if !(1 << 10..=64 << 20).contains(&body) {
            settings.mistake("agent.scrape_body: between 1KiB and 64MiB");
        }
        Self {
            targets,
            prefer,
            interval,
            timeout,
            body,
            anywhere: settings.get(
                "agent.scrape_anywhere",
                "false",
                "Whether exporters at addresses that are neither loopback nor private are read too.",
            ),
            file_age: settings.duration(
                "agent.scrape_file_age",
                "1h",
                "Files of `file:` exporters that nobody has written for longer are left out.",
            ),
            mappings_dir: settings.optional(
                "agent.mappings_dir",
                "Directory of the site's mappings of exporters, NAME.toml each; they are in force as soon as they are there.",
            ),
        }
    }
}

/// What a target's thread is told.
struct Ask {
    number: u64,
    mappings: Arc<Vec<Arc<Mapping>>>,
}

/// What it says.
struct Answer {
    target: usize,
    number: u64,
    spent: Duration,
    result: Result<(Exposition, Mapped), FetchError>,
}

/// A target with its thread.
struct Worker {
    target: Target,
    asks: SyncSender<Ask>,
    is_busy: bool,
    /// It did not answer in time.
    is_slow: bool,
    last_wrong: Option<String>,
}

struct Running {
    store: Store,
    workers: Vec<Worker>,
    answers: Receiver<Answer>,
    number: u64,
}

/// Fills the table `sample` and those that exporters are mapped to.
pub struct ScrapeProbe {
    options: ScrapeOptions,
    arbiter: &'static Arbiter,
    running: Option<Running>,
    /// For the tables beside.
    mapped: Vec<MappedRow>,
}

impl ScrapeProbe {
    /// A probe of these exporters. Nothing is asked before the first tick. Files are named as the agent sees them: they
    /// are not below the host's root.
    pub fn new(_root: &HostRoot, options: ScrapeOptions) -> Self {
        Self { options, arbiter: &ARBITER, running: None, mapped: Vec::new() }
    }

    #[cfg(test)]
    fn with_arbiter(options: ScrapeOptions, arbiter: &'static Arbiter) -> Self {
        Self { options, arbiter, running: None, mapped: Vec::new() }
    }

    fn start(&self) -> Result<Running, ProbeError> {
        let (sent, answers) = channel();
        let limits = Limits {
            timeout: self.options.timeout,
            body: self.options.body,
            anywhere: self.options.anywhere,
            file_age: self.options.file_age,
        };
        let mut workers = Vec::new();
        for (at, target) in self.options.targets.iter().enumerate() {
            let (asks, told) = sync_channel(1);
            let (source, sent) = (target.source.clone(), sent.clone());
            std::thread::Builder::new()
                .name(format!("scrape-{}", target.name))
                .stack_size(256 << 10)
                .spawn(move || answer(at, &source, &limits, &told, &sent))
                .map_err(|source| ProbeError::Read { path: "a thread for an exporter".to_owned(), source })?;
            workers.push(Worker { target: target.clone(), asks, is_busy: false, is_slow: false, last_wrong: None });
        }
        Ok(Running { store: Store::new(self.options.mappings_dir.clone()), workers, answers, number: 0 })
    }
}

/// A target's thread: answers until nobody asks any more.
fn answer(target: usize, source: &Source, limits: &Limits, told: &Receiver<Ask>, sent: &Sender<Answer>) {
    while let Ok(ask) = told.recv() {
        let began = Instant::now();
        let result = fetch::fetch(source, limits).map(|exposition| {
            let mapped = mapping::apply(&ask.mappings, &exposition);
            (exposition, mapped)
        });
        if sent.send(Answer { target, number: ask.number, spent: began.elapsed(), result }).is_err() {
            return;
        }
    }
}

impl Running {
    /// Asks all targets and takes what they answer in time, target by target.
    fn ask(&mut self, timeout: Duration) -> Vec<Option<Answer>> {
        self.number += 1;
        while let Ok(late) = self.answers.try_recv() {
            self.take(&late);
        }
        for worker in self.workers.iter_mut().filter(|worker| !worker.is_busy) {
            match worker.asks.try_send(Ask { number: self.number, mappings: self.store.current() }) {
                Ok(()) | Err(TrySendError::Full(_)) => worker.is_busy = true,
                // Its thread has gone: it panicked. It stays silent, and is told to be.
                Err(TrySendError::Disconnected(_)) => worker.is_slow = true,
            }
        }
        let began = Instant::now();
        let mut answers: Vec<Option<Answer>> = self.workers.iter().map(|_| None).collect();
        loop {
            let waited_for = |slow: bool| self.workers.iter().any(|w| w.is_busy && w.is_slow == slow);
            let patience = match (waited_for(false), waited_for(true)) {
                (true, _) => timeout + GRACE,
                (false, true) => A_MOMENT.min(timeout),
                (false, false) => break,
            };
            let Some(left) = patience.checked_sub(began.elapsed()) else { break };
            let Ok(answer) = self.answers.recv_timeout(left) else { break };
            self.take(&answer);
            if answer.number == self.number {
                let at = answer.target;
                if let Some(slot) = answers.get_mut(at) {
                    *slot = Some(answer);
                }
            }
        }
        for worker in &mut self.workers {
            worker.is_slow |= worker.is_busy;
        }
        answers
    }

    /// A target has answered, now or late.
    fn take(&mut self, answer: &Answer) {
        if let Some(worker) = self.workers.get_mut(answer.target) {
            worker.is_busy = false;
            worker.is_slow = matches!(answer.result, Err(FetchError::Deadline));
        }
    }
}

impl Probe for ScrapeProbe {
    fn table(&self) -> &'static str {
        "sample"
    }

    fn beside(&self) -> &'static [&'static str] {
        &FILLED
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        self.mapped.clear();
        if self.options.targets.is_empty() {
            return Err(ProbeError::Absent("agent.scrape names no exporter".to_owned()));
        }
        if !tick.is_due(self.options.interval) {
            return Ok(());
        }
        let mut running = match self.running.take() {
            Some(running) => running,
            None => self.start()?,
        };
        running.store.look();
        let answers = running.ask(self.options.timeout);
        let mut troubles: Vec<String> = running.store.trouble().map(str::to_owned).into_iter().collect();
        for (name, mistakes) in running.store.mistakes() {
            troubles.push(format!("mapping {name}: {}", mistakes.join("; ")));
            let labels = format!("mapping=\"{name}\"");
            #[allow(clippy::cast_precision_loss, reason = "few")]
            own_row(rows, OWN, "nodescope_scrape_mapping_mistakes", &labels, mistakes.len() as f64);
        }
        let allowance = RECORD_BYTES / running.workers.len().max(1);
        let mut keys = HashSet::new();
        for (worker, answer) in running.workers.iter_mut().zip(answers) {
            let is_preferred = self.options.prefer.contains(&worker.target.name);
            let result = answer.map_or(Err((FetchError::Deadline, self.options.timeout)), |answer| {
                answer.result.map(|got| (got, answer.spent)).map_err(|error| (error, answer.spent))
            });
            match result {
                Ok(((exposition, mut mapped), spent)) => {
                    let mut wrong = exposition.first_wrong.clone();
                    if wrong.is_some() && wrong != worker.last_wrong {
                        let (exporter, wrong) = (&worker.target.name, wrong.as_deref());
                        tracing::info!(
                            exporter,
                            wrong,
                            lines = exposition.wrong,
                            "an exporter writes what is no sample"
                        );
                    }
                    std::mem::swap(&mut worker.last_wrong, &mut wrong);
                    let made = mapped.rows.len();
                    mapped.rows.retain(|row| {
                        self.is_wanted(row, tick, is_preferred) && keys.insert((row.table, row.key.clone()))
                    });
                    let kept = mapped.rows.len();
                    self.mapped.append(&mut mapped.rows);
                    let beyond = put_samples(rows, &worker.target.name, &exposition, &mapped, allowance);
                    let told = Told {
                        up: true,
                        spent,
                        samples: exposition.len() as u64 + exposition.beyond + exposition.twice,
                        errors: exposition.wrong + exposition.twice,
                        dropped: exposition.beyond + beyond,
                        rows: kept as u64,
                        rows_dropped: (made - kept) as u64 + mapped.beyond,
                    };
                    told.put(rows, &worker.target.name);
                    for (mapping, made) in &mapped.recognised {
                        let labels = format!("mapping=\"{mapping}\"");
                        #[allow(clippy::cast_precision_loss, reason = "few")]
                        own_row(rows, &worker.target.name, "nodescope_scrape_mapping_rows", &labels, *made as f64);
                    }
                }
                Err((error, spent)) => {
                    troubles.push(format!("{}: {}", worker.target.name, chain(&error)));
                    Told { up: false, spent, ..Told::default() }.put(rows, &worker.target.name);
                }
            }
        }
        self.running = Some(running);
        if troubles.is_empty() {
            Ok(())
        } else {
            Err(ProbeError::Driver { library: "exporters", message: troubles.join("; ") })
        }
    }

    fn sample_beside(&mut self, _: &Tick, tables: &mut [Rows]) {
        for mapped in self.mapped.drain(..) {
            let Some(rows) = tables.get_mut(mapped.table) else { continue };
            let mut row = rows.begin();
            for (column, cell) in &mapped.cells {
                match cell {
                    Cell::Int(number) => row.int(column, *number),
                    Cell::Float(number) => row.float(column, *number),
                    Cell::Text(text) => row.text(column, text.as_str()),
                    Cell::Bool(flag) => row.bool(column, *flag),
                };
            }
        }
    }
}

impl ScrapeProbe {
    /// Whether a card's row comes from here. See [`arbiter`].
    fn is_wanted(&self, row: &MappedRow, tick: &Tick, is_preferred: bool) -> bool {
        match row.vendor {
            None => true,
            Some(vendor) if is_preferred => {
                self.arbiter.preferred_reads(vendor, tick.ts_micros, self.options.interval);
                true
            }
            Some(vendor) => !self.arbiter.is_read(vendor, tick.ts_micros),
        }
    }
}

/// Puts what no mapping used into rows. How many there was no room for.
fn put_samples(rows: &mut Rows, exporter: &str, exposition: &Exposition, mapped: &Mapped, allowance: usize) -> u64 {
    let (mut spent, mut beyond) = (0, 0);
    for (sample, is_used) in exposition.samples().zip(&mapped.used) {
        if *is_used {
            continue;
        }
        spent += ROW_BYTES + exporter.len() + sample.name.len() + sample.labels.length();
        if spent > allowance {
            beyond += 1;
            continue;
        }
        let labels: Vec<_> = sample.labels.filled().collect();
        rows.begin()
            .text("exporter", exporter)
            .text("name", sample.name)
            .int("series", sample.series)
            .text_map("labels", labels.iter().map(|(name, value)| (*name, value.as_ref())))
            .float("value", Some(sample.value).filter(|value| !value.is_nan()))
            .text("type", sample.kind.as_str())
            .timestamp("at", sample.at_micros);
    }
    beyond
}

/// What the adapter tells of a target at a tick.
#[derive(Debug, Default)]
struct Told {
    up: bool,
    spent: Duration,
    samples: u64,
    errors: u64,
    dropped: u64,
    rows: u64,
    rows_dropped: u64,
}

impl Told {
    #[allow(clippy::cast_precision_loss, reason = "few")]
    fn put(&self, rows: &mut Rows, exporter: &str) {
        own_row(rows, exporter, "nodescope_scrape_up", "", f64::from(u8::from(self.up)));
        own_row(rows, exporter, "nodescope_scrape_duration_seconds", "", self.spent.as_secs_f64());
        if self.up {
            for (name, value) in [
                ("nodescope_scrape_samples", self.samples),
                ("nodescope_scrape_errors", self.errors),
                ("nodescope_scrape_samples_dropped", self.dropped),
                ("nodescope_scrape_rows", self.rows),
                ("nodescope_scrape_rows_dropped", self.rows_dropped),
            ] {
                own_row(rows, exporter, name, "", value as f64);
            }
        }
    }
}

/// A row of the adapter's own. Labels as an exporter would write them.
fn own_row(rows: &mut Rows, exporter: &str, name: &str, labels: &str, value: f64) {
    let line = format!("{name}{{{labels}}} 0");
    let labels = match parse_line(&line) {
        Ok(Line::Sample { labels, .. }) => labels,
        _ => Labels::NONE,
    };
    let pairs: Vec<_> = labels.iter().collect();
    rows.begin()
        .text("exporter", exporter)
        .text("name", name)
        .int("series", labels.hash())
        .text_map("labels", pairs.iter().map(|(name, value)| (*name, value.as_ref())))
        .float("value", value)
        .text("type", "gauge");
}

#[cfg(test)]
mod tests;
