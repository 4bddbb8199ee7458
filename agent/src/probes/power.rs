//! Power: what the machine draws, and from where.
//!
//! Four sources, none of which every machine has:
//!
//! - **RAPL** (Running Average Power Limit): counters of energy inside the CPU, shown below `/sys/class/powercap` as zones:
//!   a package `intel-rapl:0`, in it `intel-rapl:0:0` (cores, memory, graphics). AMD's packages have the same names. The
//!   counter `energy_uj` counts microjoules and begins anew at `max_energy_range_uj`, at full load after a few minutes on
//!   some CPUs; it is unwrapped here, so that the column only rises while the agent runs. Since Linux 5.10 (and in the
//!   distributions' kernels since November 2020) only root may read it, because a program's secrets can be had from its
//!   power (CVE-2020-8694); limits and names are for all. The zones `intel-rapl-mmio` are the same packages read another
//!   way, and left out.
//! - An **ACPI power meter**, a chip of hwmon called `power_meter`: the whole machine, averaged by the board. It may be
//!   slow, being a question to the management controller in disguise.
//! - The **management controller** (BMC), asked by DCMI's *Get Power Reading* through `/dev/ipmi0`: the whole machine, in
//!   whole watts. Root only. A BMC may hang, so it is asked from a thread of its own, once a minute.
//! - **Power supplies** below `/sys/class/power_supply`: batteries and mains as ACPI sees them. Laptops have them, servers
//!   rarely (their supplies are known to the BMC alone). One file, `uevent`, tells all.
//!
//! Powers of these sources overlap: the machine's includes its packages', a package's its cores'. So each has a column.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use super::sensor::{chip_of, read_number};
use crate::abi::ipmi::{self, Bmc, PowerReading, PowerReadingError};
use crate::host_root::{HostRoot, first_word, names, numbered, read_text, read_u64};
use crate::probe::{Probe, ProbeError, Tick};

/// How often it is looked up which sources there are, and the BMC asked.
const DISCOVER_EVERY: Duration = Duration::from_secs(60);

/// A BMC that does not measure power is asked again this often: its firmware may have been replaced.
const UNSUPPORTED_EVERY: Duration = Duration::from_secs(3600);

/// A meter whose value took longer is read once a minute.
const SLOW: Duration = Duration::from_millis(50);

/// Longest wait for the BMC's answer, on the thread that waits.
const BMC_DEADLINE: Duration = Duration::from_secs(5);

/// Longest wait of the probe for it; an answer that comes later has its row at the next tick.
const BMC_PATIENCE: Duration = Duration::from_secs(1);

/// Zones, meters and supplies beyond this are counted, not read. Eight packages have forty zones.
const MAX_OF_EACH: usize = 128;

/// What the thread that asks the BMC needs.
const BMC_STACK: usize = 128 * 1024;

/// What the probe needs to know.
#[derive(Debug, Clone)]
pub struct PowerOptions {
    /// Whether the BMC is asked for the machine's power.
    pub ask_bmc: bool,
}

impl Default for PowerOptions {
    fn default() -> Self {
        Self { ask_bmc: true }
    }
}

impl PowerOptions {
    /// Reads the settings.
    pub fn read(settings: &mut Settings) -> Self {
        let ask_bmc = settings.get(
            "agent.ask_bmc",
            "true",
            "Whether the management controller is asked once a minute for the machine's power, through /dev/ipmi0 (DCMI). \
             Needs root.",
        );
        Self { ask_bmc }
    }
}

/// Fills the table `power`.
pub struct PowerProbe {
    root: HostRoot,
    options: PowerOptions,
    zones: BTreeMap<String, Zone>,
    meters: Vec<Meter>,
    supplies: Vec<String>,
    omitted: usize,
    bmc: Option<BmcThread>,
}

impl PowerProbe {
    /// Reads nothing yet.
    pub fn new(root: &HostRoot, options: PowerOptions) -> Self {
        Self {
            root: root.clone(),
            options,
            zones: BTreeMap::new(),
            meters: Vec::new(),
            supplies: Vec::new(),
            omitted: 0,
            bmc: None,
        }
    }

    fn discover(&mut self) {
        let (zones, meters, supplies) =
            (zone_names(&self.root), find_meters(&self.root), names(&self.root.sys("class/power_supply")));
        let beyond = |count: usize| count.saturating_sub(MAX_OF_EACH);
        self.omitted = beyond(zones.len()) + beyond(meters.len()) + beyond(supplies.len());
        let mut before = std::mem::take(&mut self.zones);
        let mut index = Indices::default();
        for name in zones.into_iter().take(MAX_OF_EACH) {
            let directory = self.root.sys("class/powercap").join(&name);
            let Some(description) = ZoneDescription::find(&directory, &name, &mut index) else { continue };
            let energy = before.remove(&name).map(|zone| zone.energy).unwrap_or_default();
            self.zones.insert(name, Zone { directory, description, energy });
        }
        let slow: Vec<PathBuf> = self.meters.iter().filter(|m| m.slow).map(|m| m.directory.clone()).collect();
        self.meters = meters
            .into_iter()
            .take(MAX_OF_EACH)
            .map(|directory| Meter { chip: chip_of(&directory), slow: slow.contains(&directory), directory })
            .collect();
        self.supplies = supplies.into_iter().take(MAX_OF_EACH).collect();
        if self.options.ask_bmc && self.bmc.is_none() {
            let device = ["/dev/ipmi0", "/dev/ipmi/0", "/dev/ipmidev/0"].map(|path| self.root.path(path));
            self.bmc = device.into_iter().find(|path| path.exists()).and_then(BmcThread::start);
        }
    }
}

impl Probe for PowerProbe {
    fn table(&self) -> &'static str {
        "power"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let is_due = tick.is_due(DISCOVER_EVERY);
        if is_due {
            self.discover();
        }
        let mut troubles = Troubles::default();
        for (name, zone) in &mut self.zones {
            zone.sample(name, rows, &mut troubles);
        }
        for meter in &mut self.meters {
            if is_due || !meter.slow {
                meter.sample(rows);
            }
        }
        for name in &self.supplies {
            let uevent = self.root.sys("class/power_supply").join(name).join("uevent");
            sample_supply(name, &read_text(&uevent).unwrap_or_default(), rows);
        }
        if let Some(bmc) = &mut self.bmc {
            bmc.sample(tick, rows, &mut troubles);
        }
        if self.omitted > 0 {
            rows.begin()
                .text("source", "omitted")
                .text("domain", "omitted")
                .int("omitted", i64::try_from(self.omitted).ok());
        }
        let nothing = self.zones.is_empty() && self.meters.is_empty() && self.supplies.is_empty() && self.bmc.is_none();
        troubles.told(nothing)
    }
}

/// What may not be read, or does not answer. Rows of the other sources are given all the same.
#[derive(Debug, Default)]
struct Troubles {
    rapl_denied: bool,
    bmc: Option<String>,
}

impl Troubles {
    fn told(self, nothing: bool) -> Result<(), ProbeError> {
        if nothing {
            return Err(ProbeError::Absent(
                "nothing here measures power: no RAPL zones, no ACPI power meter, no /dev/ipmi0 (is ipmi_devintf \
                 loaded?), no power supplies. Usual in a virtual machine"
                    .to_owned(),
            ));
        }
        let rapl = self.rapl_denied.then(|| {
            "energy of the CPUs (RAPL) is for root alone since Linux 5.10: grant CAP_DAC_READ_SEARCH, or read access to \
             /sys/class/powercap/*/energy_uj by a udev rule"
                .to_owned()
        });
        let troubles: Vec<String> = rapl.into_iter().chain(self.bmc).collect();
        if troubles.is_empty() { Ok(()) } else { Err(ProbeError::Absent(troubles.join("; "))) }
    }
}

/// A zone of RAPL.
#[derive(Debug)]
struct Zone {
    directory: PathBuf,
    description: ZoneDescription,
    energy: Unwrapped,
}

impl Zone {
    fn sample(&mut self, name: &str, rows: &mut Rows, troubles: &mut Troubles) {
        let zone = &self.description;
        let joules = match read_counter(&self.directory.join("energy_uj")) {
            Ok(raw) => Some(self.energy.next(raw, zone.range)),
            Err(error) => {
                troubles.rapl_denied |= error.kind() == ErrorKind::PermissionDenied;
                None
            }
        };
        rows.begin()
            .text("source", "rapl")
            .text("domain", name)
            .text("zone", zone.name.as_str())
            .int("package", zone.package)
            .text("rapl_index", zone.index.as_str())
            .text("rapl_path", format!("/sys/class/powercap/{name}").as_str())
            .float("limit_watts", zone.limit_watts)
            .float("short_term_limit_watts", zone.short_term_limit_watts)
            .float(zone.column, joules.map(in_units));
    }
}

/// What a zone is.
#[derive(Debug)]
struct ZoneDescription {
    name: String,
    package: Option<i64>,
    index: String,
    column: &'static str,
    range: Option<u64>,
    limit_watts: Option<f64>,
    short_term_limit_watts: Option<f64>,
}

impl ZoneDescription {
    /// `None` for what has no name, as the directory `intel-rapl` that stands for all.
    fn find(directory: &Path, own: &str, index: &mut Indices) -> Option<Self> {
        let name = read_text(&directory.join("name"))?;
        let range = read_u64(&directory.join("max_energy_range_uj"));
        if range.is_none() && !directory.join("energy_uj").exists() {
            return None;
        }
        // A zone within a package has the package's name in front of its last colon.
        let package = package_number(&name).or_else(|| {
            let (outer, _) = own.rsplit_once(':')?;
            package_number(&read_text(&directory.parent()?.join(outer).join("name"))?)
        });
        let limit = |wanted: &str| {
            (0..4).find_map(|at| {
                let is_it = read_text(&directory.join(format!("constraint_{at}_name")))? == wanted;
                is_it.then(|| read_u64(&directory.join(format!("constraint_{at}_power_limit_uw"))))?
            })
        };
        Some(Self {
            package,
            index: index.next(&name).to_string(),
            column: column_of(&name),
            range,
            limit_watts: limit("long_term").map(in_units),
            short_term_limit_watts: limit("short_term").map(in_units),
            name,
        })
    }
}

/// Zones of RAPL by name, in order.
fn zone_names(root: &HostRoot) -> Vec<String> {
    let mut names = names(&root.sys("class/powercap"));
    names.retain(|name| name.starts_with("intel-rapl:") || name.starts_with("amd-rapl:"));
    names
}

/// 1 of `package-1` and of `package-1-die-0`.
fn package_number(name: &str) -> Option<i64> {
    name.strip_prefix("package-")?.split('-').next()?.parse().ok()
}

/// Where the energy of a zone of that name goes.
fn column_of(name: &str) -> &'static str {
    match name.split('-').next() {
        Some("package") => "package_joules",
        Some("core") => "core_joules",
        Some("uncore") => "uncore_joules",
        Some("dram") => "dram_joules",
        Some("psys") => "psys_joules",
        _ => "other_joules",
    }
}

/// Numbers zones of one name as node_exporter does: by the number in the name, else by those that came before.
#[derive(Debug, Default)]
struct Indices(BTreeMap<String, u64>);

impl Indices {
    fn next(&mut self, name: &str) -> u64 {
        let parts: Vec<&str> = name.split('-').collect();
        let numbered = match parts.as_slice() {
            [kind, number] => number.parse::<u32>().ok().map(|number| (*kind, u64::from(number))),
            _ => None,
        };
        let (kind, index) = numbered.unwrap_or_else(|| (name, self.0.get(name).copied().unwrap_or(0)));
        self.0.insert(kind.to_owned(), index + 1);
        index
    }
}

/// A counter that begins anew at a known number, made into one that does not.
#[derive(Debug, Default)]
struct Unwrapped {
    last: Option<u64>,
    total: u64,
}

impl Unwrapped {
    /// What has been counted in all, given what the counter says now. The first time that is the counter itself.
    fn next(&mut self, raw: u64, range: Option<u64>) -> u64 {
        let more = match self.last {
            None => raw,
            Some(last) if raw >= last => raw - last,
            // Without a range, or beyond it, the counter was set to zero.
            Some(last) => range.and_then(|range| range.checked_sub(last)).unwrap_or(0).saturating_add(raw),
        };
        self.last = Some(raw);
        self.total = self.total.saturating_add(more);
        self.total
    }
}

/// Millionths in units.
#[allow(clippy::cast_precision_loss)] // 2^53 microjoules are nine gigajoules: 90 days at a kilowatt, and then a microjoule.
fn in_units(millionths: u64) -> f64 {
    millionths as f64 / 1e6
}

/// A counter, or why it cannot be read.
fn read_counter(path: &Path) -> io::Result<u64> {
    let mut buffer = [0u8; 64];
    let length = File::open(path)?.read(&mut buffer)?;
    let text = buffer.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.and_then(first_word).ok_or_else(|| ErrorKind::InvalidData.into())
}

/// An ACPI power meter.
#[derive(Debug)]
struct Meter {
    directory: PathBuf,
    chip: String,
    slow: bool,
}

/// Chips of hwmon that are power meters.
fn find_meters(root: &HostRoot) -> Vec<PathBuf> {
    let hwmon = root.sys("class/hwmon");
    let chips = numbered(&hwmon, "hwmon").into_iter().map(|number| hwmon.join(format!("hwmon{number}")));
    chips.filter(|chip| read_text(&chip.join("name")).is_some_and(|name| name == "power_meter")).collect()
}

impl Meter {
    fn sample(&mut self, rows: &mut Rows) {
        let number = |file: &str| read_number(&self.directory.join(file)).and_then(|number| u64::try_from(number).ok());
        let begun = Instant::now();
        let watts = number("power1_average").map(in_units);
        self.slow = begun.elapsed() > SLOW;
        rows.begin()
            .text("source", "power_meter")
            .text("domain", self.chip.as_str())
            .float("power_watts", watts)
            .float("power_cap_watts", number("power1_cap").map(in_units))
            // Milliseconds.
            .float(
                "average_seconds",
                number("power1_average_interval").map(|millis| in_units(millis.saturating_mul(1000))),
            )
            .bool("slow", self.slow);
    }
}

/// The lines of a power supply's `uevent`, without their common beginning: `STATUS`, `Full`.
fn parse_uevent(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.strip_prefix("POWER_SUPPLY_")?.split_once('=')?;
        Some((key, value.trim())).filter(|(_, value)| !value.is_empty())
    })
}

#[allow(clippy::cast_precision_loss)] // Volts and watts of a power supply.
fn sample_supply(name: &str, uevent: &str, rows: &mut Rows) {
    let text = |key: &str| parse_uevent(uevent).find(|(found, _)| *found == key).map(|(_, value)| value);
    let number = |key: &str| text(key)?.parse::<i64>().ok();
    let millionths = |key: &str| number(key).map(|number| number as f64 / 1e6);
    rows.begin()
        .text("source", "power_supply")
        .text("domain", name)
        .text("power_supply", name)
        .text("supply_type", text("TYPE"))
        .text("model", text("MODEL_NAME"))
        .text("manufacturer", text("MANUFACTURER"))
        .text("serial", text("SERIAL_NUMBER"))
        // A USB supply says 2 when its voltage can be chosen.
        .bool("online", number("ONLINE").map(|online| online > 0))
        .bool("present", number("PRESENT").map(|present| present > 0))
        .text("status", text("STATUS"))
        .text("health", text("HEALTH"))
        .int("capacity_percent", number("CAPACITY"))
        .int("cycles", number("CYCLE_COUNT"))
        .float("supply_volts", millionths("VOLTAGE_NOW"))
        .float("supply_amperes", millionths("CURRENT_NOW"))
        .float("supply_watts", millionths("POWER_NOW"))
        .float("energy_watt_hours", millionths("ENERGY_NOW"))
        .float("energy_full_watt_hours", millionths("ENERGY_FULL"))
        // Tenths of degrees.
        .float("temp_celsius", number("TEMP").map(|tenths| tenths as f64 / 10.0));
}

type Answer = Result<PowerReading, PowerReadingError>;

/// The thread that asks the BMC.
struct BmcThread {
    device: PathBuf,
    ask: SyncSender<()>,
    answers: Receiver<Answer>,
    waiting: bool,
    unsupported: bool,
    trouble: Option<String>,
}

impl BmcThread {
    /// `None` when the system gives no thread; it is tried again.
    fn start(device: PathBuf) -> Option<Self> {
        let (ask, asked) = sync_channel::<()>(1);
        let (answer, answers) = sync_channel(1);
        let path = device.clone();
        let thread = move || {
            while asked.recv().is_ok() {
                // Opened each time, so that the driver can be unloaded in between.
                let reading = Bmc::open(&path)
                    .map_err(PowerReadingError::from)
                    .and_then(|mut bmc| ipmi::power_reading(&mut bmc, BMC_DEADLINE));
                if answer.send(reading).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("ipmi".to_owned()).stack_size(BMC_STACK).spawn(thread).ok()?;
        Some(Self { device, ask, answers, waiting: false, unsupported: false, trouble: None })
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows, troubles: &mut Troubles) {
        let every = if self.unsupported { UNSUPPORTED_EVERY } else { DISCOVER_EVERY };
        let mut patience = Duration::ZERO;
        // One question at a time: a BMC that hangs holds one thread and no more.
        if tick.is_due(every) && !self.waiting && self.ask.try_send(()).is_ok() {
            self.waiting = true;
            patience = BMC_PATIENCE;
        }
        if self.waiting {
            match self.answers.recv_timeout(patience) {
                Ok(answer) => self.take(answer, rows),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.trouble = Some("the thread that asks the BMC is gone".to_owned());
                }
            }
        }
        troubles.bmc.clone_from(&self.trouble);
    }

    fn take(&mut self, answer: Answer, rows: &mut Rows) {
        self.waiting = false;
        self.unsupported = matches!(answer, Err(PowerReadingError::Unsupported(_)));
        self.trouble = None;
        match answer {
            Ok(reading) => fill_reading(&reading, rows),
            Err(error) => self.trouble = Some(explain(&error, &self.device)),
        }
    }
}

fn fill_reading(reading: &PowerReading, rows: &mut Rows) {
    let watts = |watts: u16| Some(f64::from(watts)).filter(|_| reading.is_active);
    rows.begin()
        .text("source", "dcmi")
        .text("domain", "system")
        .bool("measuring", reading.is_active)
        .float("power_watts", watts(reading.current))
        .float("power_min_watts", watts(reading.minimum))
        .float("power_max_watts", watts(reading.maximum))
        .float("power_average_watts", watts(reading.average))
        .float("average_seconds", f64::from(reading.period_millis) / 1e3);
}

/// Why there is no reading, and what to do.
fn explain(error: &PowerReadingError, device: &Path) -> String {
    let device = device.display();
    match error {
        PowerReadingError::Io(error) if error.kind() == ErrorKind::PermissionDenied => {
            format!("{device} is for root alone: give the agent's user the right to read and write it, or do without")
        }
        PowerReadingError::Io(error) => format!("{device}: {error}"),
        other => format!("{device}: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{
        FIRST_TICK, bools, fixture_options, floats, garbage, ints, row_of, sample_at, sample_once, texts,
    };

    fn probe(root: &HostRoot) -> PowerProbe {
        PowerProbe::new(root, PowerOptions::default())
    }

    fn rows() -> Rows {
        Rows::new(nodescope_model::catalogue::Catalogue::built_in().get("power").unwrap())
    }

    /// A host with these files below `sys`.
    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, HostRoot) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join("sys").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = HostRoot::new(directory.path());
        (directory, root)
    }

    #[test]
    fn the_recorded_machine_has_its_sources() {
        let batch = sample_once(&mut probe(&fixture_options().root));
        let domains = ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1", "intel-rapl:1:0", "lnxsybus:00_acpi0000:00"];
        assert_eq!(texts(&batch, "domain"), domains.map(Some));
        assert_eq!(texts(&batch, "zone")[..4], ["package-0", "dram", "package-1", "dram"].map(Some));
        assert_eq!(ints(&batch, "package")[..4], [Some(0), Some(0), Some(1), Some(1)]);
        assert_eq!(texts(&batch, "rapl_index")[..4], ["0", "0", "1", "1"].map(Some));
        assert_eq!(texts(&batch, "rapl_path")[1], Some("/sys/class/powercap/intel-rapl:0:0"));
        let energy = |column: &str| floats(&batch, column);
        assert_eq!(energy("package_joules")[..4], [Some(184_220.513_127), None, Some(201_004.0), None]);
        assert_eq!(energy("dram_joules")[..4], [None, Some(30_112.5), None, Some(31_000.25)]);
        assert_eq!(energy("limit_watts")[0], Some(350.0));
        assert_eq!(energy("short_term_limit_watts")[0], Some(420.0));
        let meter = row_of(&batch, "source", "power_meter");
        assert_eq!(energy("power_watts")[meter], Some(612.0));
        assert_eq!(energy("power_cap_watts")[meter], Some(1200.0));
        assert_eq!(energy("average_seconds")[meter], Some(1.0));
    }

    #[test]
    fn energy_goes_on_when_its_counter_begins_anew() {
        let mut energy = Unwrapped::default();
        let range = Some(1000);
        let totals = [900, 950, 50, 60, 10].map(|raw| energy.next(raw, range));
        assert_eq!(totals, [900, 950, 1050, 1060, 2010]);
        // A counter that nobody knows the range of was set to zero.
        let mut energy = Unwrapped::default();
        assert_eq!([900, 950, 50].map(|raw| energy.next(raw, None)), [900, 950, 1000]);
        // So was one that had left its range.
        let mut energy = Unwrapped::default();
        assert_eq!([2000, 50].map(|raw| energy.next(raw, range)), [2000, 2050]);
    }

    #[test]
    fn a_zone_keeps_its_energy_from_minute_to_minute() {
        let zone = "class/powercap/intel-rapl:0";
        let (directory, root) = host(&[
            ("class/powercap/intel-rapl/enabled", "1\n"),
            ("class/powercap/intel-rapl-mmio:0/name", "package-0\n"),
            ("class/powercap/intel-rapl-mmio:0/energy_uj", "7\n"),
            (&format!("{zone}/name"), "package-0-die-1\n"),
            (&format!("{zone}/energy_uj"), "9000000\n"),
            (&format!("{zone}/max_energy_range_uj"), "10000000\n"),
        ]);
        let mut probe = probe(&root);
        let batch = sample_once(&mut probe);
        assert_eq!(floats(&batch, "package_joules"), [Some(9.0)]);
        assert_eq!(ints(&batch, "package"), [Some(0)]);
        fs::write(directory.path().join("sys").join(zone).join("energy_uj"), "2000000\n").unwrap();
        let due = Tick { ts_micros: 60_000_000, first: false };
        assert_eq!(floats(&sample_at(&mut probe, &due), "package_joules"), [Some(12.0)]);
    }

    #[test]
    fn energy_that_may_not_be_read_is_unknown_and_told_with_the_remedy() {
        let (directory, root) = host(&[
            ("class/powercap/intel-rapl:0/name", "package-0\n"),
            ("class/powercap/intel-rapl:0/energy_uj", "9000000\n"),
            ("class/powercap/intel-rapl:0/max_energy_range_uj", "10000000\n"),
            ("class/power_supply/BAT0/uevent", "POWER_SUPPLY_NAME=BAT0\nPOWER_SUPPLY_PRESENT=1\n"),
        ]);
        let file = directory.path().join("sys/class/powercap/intel-rapl:0/energy_uj");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
        let mut rows = rows();
        let result = probe(&root).sample(&FIRST_TICK, &mut rows);
        assert_eq!(rows.len(), 2);
        if rustix::process::geteuid().is_root() {
            // Root reads it all the same.
            assert!(result.is_ok());
        } else {
            assert!(result.unwrap_err().to_string().contains("CAP_DAC_READ_SEARCH"));
        }
        let denied = Troubles { rapl_denied: true, bmc: Some("no".to_owned()) }.told(false).unwrap_err();
        assert!(matches!(denied, ProbeError::Absent(ref why) if why.contains("udev") && why.ends_with("; no")));
        let device = Path::new("/dev/ipmi0");
        let why = explain(&PowerReadingError::Io(ErrorKind::PermissionDenied.into()), device);
        assert!(why.starts_with("/dev/ipmi0 is for root alone"), "{why}");
        assert!(explain(&PowerReadingError::Unsupported(0xc1), device).contains("0xc1"));
    }

    #[test]
    fn batteries_are_told_in_their_units() {
        let uevent = "POWER_SUPPLY_NAME=BAT0\nPOWER_SUPPLY_TYPE=Battery\nPOWER_SUPPLY_STATUS=Discharging\n\
            POWER_SUPPLY_PRESENT=1\nPOWER_SUPPLY_VOLTAGE_NOW=11742000\nPOWER_SUPPLY_POWER_NOW=9500000\n\
            POWER_SUPPLY_ENERGY_NOW=40120000\nPOWER_SUPPLY_CAPACITY=81\nPOWER_SUPPLY_MODEL_NAME=UPS 5\n\
            POWER_SUPPLY_SERIAL_NUMBER= \nPOWER_SUPPLY_TEMP=312\nPOWER_SUPPLY_CURRENT_NOW=-800000\n";
        let (_directory, root) = host(&[("class/power_supply/BAT0/uevent", uevent), ("class/power_supply/AC/x", "")]);
        let batch = sample_once(&mut probe(&root));
        assert_eq!(texts(&batch, "power_supply"), [Some("AC"), Some("BAT0")]);
        assert_eq!(floats(&batch, "supply_volts"), [None, Some(11.742)]);
        assert_eq!(floats(&batch, "supply_amperes")[1], Some(-0.8));
        assert_eq!(floats(&batch, "supply_watts")[1], Some(9.5));
        assert_eq!(floats(&batch, "energy_watt_hours")[1], Some(40.12));
        assert_eq!(floats(&batch, "temp_celsius")[1], Some(31.2));
        assert_eq!(ints(&batch, "capacity_percent")[1], Some(81));
        assert_eq!(texts(&batch, "model")[1], Some("UPS 5"));
        assert_eq!(texts(&batch, "serial")[1], None);
        assert_eq!(bools(&batch, "present"), [None, Some(true)]);
        assert_eq!(bools(&batch, "online"), [None, None]);
    }

    #[test]
    fn the_bmc_is_asked_on_a_thread_and_what_is_none_is_told() {
        let mut bmc = BmcThread::start("/dev/null".into()).unwrap();
        let (mut rows, mut troubles) = (rows(), Troubles::default());
        bmc.sample(&FIRST_TICK, &mut rows, &mut troubles);
        assert!(rows.is_empty());
        assert!(troubles.bmc.unwrap().starts_with("/dev/null: "));
        assert!(!bmc.waiting);
        let reading = PowerReading {
            current: 612,
            minimum: 388,
            maximum: 1044,
            average: 590,
            period_millis: 1000,
            is_active: true,
        };
        bmc.take(Ok(reading), &mut rows);
        bmc.take(Ok(PowerReading { is_active: false, ..reading }), &mut rows);
        assert_eq!(bmc.trouble, None);
        let stamp = nodescope_model::rows::Stamp { ts_micros: 0, node: "", host: "" };
        let batch = rows.finish(&stamp);
        assert_eq!(floats(&batch, "power_watts"), [Some(612.0), None]);
        assert_eq!(floats(&batch, "power_max_watts"), [Some(1044.0), None]);
        assert_eq!(bools(&batch, "measuring"), [Some(true), Some(false)]);
        bmc.take(Err(PowerReadingError::Unsupported(0xc1)), &mut rows);
        assert!(bmc.unsupported);
    }

    #[test]
    fn a_machine_that_measures_nothing_has_nothing_to_sample() {
        let (_directory, root) = host(&[]);
        let error = probe(&root).sample(&FIRST_TICK, &mut rows()).unwrap_err();
        assert!(matches!(error, ProbeError::Absent(_)), "{error}");
    }

    #[test]
    fn zones_are_numbered_as_node_exporter_does() {
        let mut indices = Indices::default();
        let numbered =
            ["package-0", "dram", "package-1", "dram", "psys", "package-0-die-1"].map(|name| indices.next(name));
        assert_eq!(numbered, [0, 0, 1, 1, 0, 0]);
    }

    #[test]
    fn this_machine_is_read_or_has_nothing() {
        let catalogue = nodescope_model::catalogue::Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("power").unwrap());
        let result =
            PowerProbe::new(&HostRoot::new("/"), PowerOptions { ask_bmc: false }).sample(&FIRST_TICK, &mut rows);
        assert!(matches!(result, Ok(()) | Err(ProbeError::Absent(_))), "{result:?}");
        rows.finish(&nodescope_model::rows::Stamp { ts_micros: 0, node: "", host: "" });
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage(), numbers in prop::collection::vec(any::<u64>(), 0..8), range: Option<u64>) {
            sample_supply("x", &text, &mut rows());
            sample_supply("x", &format!("POWER_SUPPLY_{text}"), &mut rows());
            package_number(&text);
            column_of(&text);
            Indices::default().next(&text);
            let mut energy = Unwrapped::default();
            let mut before = 0;
            for raw in numbers {
                let total = energy.next(raw, range);
                prop_assert!(total >= before);
                before = total;
            }
        }
    }
}
