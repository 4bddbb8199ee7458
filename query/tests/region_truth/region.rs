//! The region: which it is, its store, and what of its truth several questions need.

use std::fmt::Debug;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use nodescope_model::catalogue::Catalogue;
use nodescope_query::engine::{Engine, Spill};
use nodescope_query::limits::Limits;
use nodescope_simulate::failures::{Ailment, Standing};
use nodescope_simulate::history::{self, HistoryOptions};
use nodescope_simulate::kept::Kept;
use nodescope_simulate::oracle::DeviceRows;
use nodescope_simulate::world::{DAY, HOUR, Host, MINUTE, Options};
use nodescope_simulate::{Fleet, SimulateError, catalogue_interval};
use nodescope_store::cut::Reader;
use nodescope_store::location::Location;

use crate::held::{self, Held};
use crate::store::Asked;

/// Days of the history.
const DAYS: i64 = 30;

/// Which region is looked at, and how. Each part is chosen by `NODESCOPE_TEST_REGION_` and its name in capitals.
pub struct Choice {
    pub seed: u64,
    pub hosts: usize,
    pub accelerators: usize,
    /// How much more often than published things fail. The command's own default is 1; a small region would show little.
    pub failures: f64,
    /// The moment at which the history was made, as `--until` says.
    pub until: i64,
    /// So many seconds after the end of the history is now.
    pub after: i64,
    /// Folder of a store; in memory without it. A history that is there is used, and its own options with it; without
    /// one it is written.
    pub store: Option<PathBuf>,
    /// How often each question is asked.
    pub runs: usize,
}

impl Default for Choice {
    /// A region in which much goes wrong, on a Monday at 06:40 in Beijing: a host is down, one is silent, devices are lost
    /// or ill, and some hosts are free.
    fn default() -> Self {
        let until = 1_772_923_217;
        Self { seed: 1729, hosts: 36, accelerators: 8, failures: 60.0, until, after: 23, store: None, runs: 1 }
    }
}

fn chosen<T: FromStr<Err: Debug>>(name: &str) -> Option<T> {
    let name = format!("NODESCOPE_TEST_REGION_{name}");
    let text = std::env::var(&name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e:?}")))
}

/// Fails where something else was chosen than what the store has.
fn agrees<T: FromStr<Err: Debug> + PartialEq + Debug>(name: &str, there: &T, same: impl Fn(&T) -> T) {
    if let Some(chosen) = chosen::<T>(name) {
        assert_eq!(same(&chosen), *there, "the store has a history of another fleet: {name}");
    }
}

impl Choice {
    pub fn by_environment() -> Self {
        let usual = Self::default();
        Self {
            seed: chosen("SEED").unwrap_or(usual.seed),
            hosts: chosen("HOSTS").unwrap_or(usual.hosts),
            accelerators: chosen("ACCELERATORS").unwrap_or(usual.accelerators),
            failures: chosen("FAILURES").unwrap_or(usual.failures),
            until: chosen("UNTIL").unwrap_or(usual.until),
            after: chosen("AFTER").unwrap_or(usual.after),
            store: chosen("STORE"),
            runs: chosen("RUNS").unwrap_or(usual.runs).max(1),
        }
    }

    /// As the command makes them.
    fn kept(&self) -> Kept {
        let around = Options::around(self.seed, self.hosts, self.accelerators, self.until, DAYS);
        let HistoryOptions { now, raw, .. } = HistoryOptions::until(self.until);
        Kept { options: Options { failures: self.failures, ..around }, until: now, raw, has_overlays: false }
    }
}

pub struct Region {
    pub fleet: Arc<Fleet>,
    /// When questions are asked. All times are seconds since 1970.
    pub now: i64,
    /// Rows are of times before this: a whole minute.
    pub end: i64,
    /// Begin of the raw rows.
    pub raw: i64,
    pub asked: Asked,
    catalogue: Arc<Catalogue>,
    held: OnceLock<Vec<Vec<Vec<Held>>>>,
    week: OnceLock<Vec<Vec<Vec<DeviceRows>>>>,
}

impl Region {
    pub async fn open(choice: &Choice) -> Self {
        let catalogue = Arc::new(Catalogue::built_in());
        let location = choice.store.clone().map_or(Location::Memory, Location::Directory);
        let store = location.open(catalogue.clone()).expect("a store");
        let there = Kept::read(&store).await.expect("what the store remembers");
        let kept = there.clone().unwrap_or_else(|| choice.kept());
        if let Some(Kept { options, until, .. }) = &there {
            agrees("SEED", &options.seed, |seed| *seed);
            agrees("HOSTS", &options.hosts, |hosts| *hosts);
            agrees("ACCELERATORS", &options.accelerators, |devices| *devices);
            agrees("FAILURES", &options.failures, |times| *times);
            agrees("UNTIL", until, |until| until.div_euclid(MINUTE) * MINUTE);
        }
        assert!(!kept.has_overlays, "what attacks lay over the region is not in its truth");
        let options = kept.options.clone();
        let fleet = tokio::task::spawn_blocking(move || Fleet::new(options)).await.expect("a fleet");
        if there.is_none() {
            match history::write(&fleet, &store, &HistoryOptions::until(kept.until), |_| {}).await {
                // Made by a program that wrote no note: then the variables of the environment say whose it is.
                Ok(_) | Err(SimulateError::There(_)) => {}
                Err(error) => panic!("the history cannot be written: {error:?}"),
            }
        }
        let spill = Spill { folder: None, bytes: 1 << 34 };
        let engine = Engine::new(Reader::new(store, 1 << 28), Limits::default(), spill).expect("an engine");
        Self {
            fleet,
            now: kept.until + choice.after,
            end: kept.until,
            raw: kept.until - kept.raw,
            asked: Asked::over(engine),
            catalogue,
            held: OnceLock::new(),
            week: OnceLock::new(),
        }
    }

    /// What to call it.
    pub fn name(&self) -> String {
        let Options { seed, hosts, accelerators, failures, .. } = self.fleet.world.options;
        format!("seed {seed}, {hosts} hosts of {accelerators}, failures times {failures}, at {}", self.now)
    }

    /// Seconds between rows of a table.
    pub fn every(&self, table: &str) -> i64 {
        catalogue_interval(&self.catalogue, table)
    }

    /// Index and facts of every host.
    pub fn hosts(&self) -> impl Iterator<Item = (usize, &Host)> {
        self.fleet.world.hosts.iter().enumerate()
    }

    /// Indices of every host and device.
    pub fn devices(&self) -> impl Iterator<Item = (usize, usize)> {
        self.hosts().flat_map(|(number, host)| (0..host.devices.len()).map(move |device| (number, device)))
    }

    /// Code of a host's node.
    pub fn node(&self, host: usize) -> &str {
        &self.fleet.world.nodes[self.fleet.world.hosts[host].node].code
    }

    /// Region of a host's node.
    pub fn region(&self, host: usize) -> &str {
        self.fleet.world.nodes[self.fleet.world.hosts[host].node].region
    }

    /// Begins of the whole hours of which rows are there, from a moment on.
    pub fn hours(&self, from: i64) -> impl Iterator<Item = i64> + use<> {
        let first = (from.max(self.fleet.world.options.start) + HOUR - 1).div_euclid(HOUR);
        (first..self.end.div_euclid(HOUR)).map(|hour| hour * HOUR)
    }

    /// The newest second, up to the end of rows and not before `since`, at which something is told.
    pub fn newest(&self, every: i64, since: i64, is_told: impl Fn(i64) -> bool) -> Option<i64> {
        let last = (self.end - 1).div_euclid(every) * every;
        (0..).map(|n| last - n * every).take_while(|at| *at >= since.max(self.raw)).find(|at| is_told(*at))
    }

    /// From when on a row is fresh.
    pub fn fresh_since(&self) -> i64 {
        self.now - 2 * MINUTE
    }

    /// Whether the registry has a host in service, at a moment.
    pub fn is_cordoned(&self, host: usize, at: i64) -> bool {
        self.fleet.world.hosts[host].cordoned.is_some_and(|since| since <= at && since < self.end)
    }

    /// Who held a device, as it was told.
    pub fn held(&self, host: usize, device: usize) -> &[Held] {
        let all = self.held.get_or_init(|| {
            self.each_host(|host| (0..self.devices_of(host)).map(|d| held::held(self, host, d)).collect())
        });
        &all[host][device]
    }

    /// Seconds in `[from, to)` that a device was held, as it was told.
    pub fn held_seconds(&self, host: usize, device: usize, from: i64, to: i64) -> i64 {
        self.held(host, device).iter().map(|h| (h.to.min(to) - h.from.max(from)).max(0)).sum()
    }

    /// First of the hours that [`Region::hour`] knows: the one in which the last seven days begin.
    fn first_hour(&self) -> i64 {
        (self.now - 7 * DAY).div_euclid(HOUR) * HOUR
    }

    /// What rows of a device say in an hour of the last seven days.
    pub fn hour(&self, host: usize, device: usize, hour: i64) -> DeviceRows {
        let every = self.every("accelerator");
        let all = self.week.get_or_init(|| {
            self.each_host(|host| {
                let of = |device| {
                    let hours = self.hours(self.first_hour());
                    hours.map(|at| self.fleet.device_rows(host, device, every, at, at + HOUR)).collect()
                };
                (0..self.devices_of(host)).map(of).collect()
            })
        });
        all[host][device][usize::try_from((hour - self.first_hour()) / HOUR).expect("an hour of the week")]
    }

    /// Rows of a device in a time, one each `every` seconds.
    pub fn rows_of(&self, host: usize, device: usize, from: i64, to: i64) -> i64 {
        let every = self.every("accelerator");
        let ticks = |from: i64, to: i64| {
            let upto = |at: i64| (at + every - 1).div_euclid(every);
            if from < to { upto(to) - upto(from) } else { 0 }
        };
        let life = &self.fleet.lives[host];
        let lost = life.devices[device].troubles.iter().filter(|t| t.ailment == Ailment::Lost);
        let lost: Vec<_> = lost.filter(|t| t.at < to && t.until > from).collect();
        let first = life.stretches.partition_point(|s| s.to <= from);
        let up = life.stretches[first..].iter().take_while(|s| s.from < to).filter(|s| s.standing == Standing::Up);
        up.map(|s| {
            let (from, to) = (s.from.max(from), s.to.min(to));
            let gone: i64 = lost.iter().map(|t| ticks(t.at.max(from), t.until.min(to))).sum();
            ticks(from, to) - gone
        })
        .sum()
    }

    pub fn devices_of(&self, host: usize) -> usize {
        self.fleet.world.hosts[host].devices.len()
    }

    /// Something of every host, calculated on all cores.
    pub fn each_host<T: Send>(&self, of: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let many = self.fleet.world.hosts.len();
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let each = many.div_ceil(cores).max(1);
        std::thread::scope(|scope| {
            let of = &of;
            let parts: Vec<_> = (0..many)
                .step_by(each)
                .map(|from| scope.spawn(move || (from..(from + each).min(many)).map(of).collect::<Vec<T>>()))
                .collect();
            parts.into_iter().flat_map(|part| part.join().expect("a calculation")).collect()
        })
    }
}
