//! Sensors: temperatures, fans, voltages, currents, power, and what the kernel does against heat.
//!
//! Three interfaces of the kernel:
//!
//! - **hwmon** (`/sys/class/hwmon/hwmonN`) shows a directory for each chip with sensors: `coretemp` (CPU), `nvme`,
//!   `mlx5`, `amdgpu`, the board's chip, power supplies on PMBus. A sensor is a group of files with one number,
//!   `temp1_input`, `temp1_max`, `temp1_label`. Values are whole numbers of a small unit: thousandths of degrees, volts
//!   and amperes; millionths of watts and joules; thousandths of per cent of humidity; revolutions per minute as they
//!   are. The numbers of the directories change from boot to boot; the device a chip belongs to does not, so chips are
//!   named by that, as node_exporter names them: type of the device's place and its own name, `platform_coretemp_0`,
//!   `nvme_nvme0`, `pci0000:00_0000:00:18_3`.
//! - **thermal zones** (`/sys/class/thermal/thermal_zoneN`): what the kernel itself looks at to slow down in time. Often
//!   the same sensor once more.
//! - **cooling devices** (`cooling_deviceN`): what it can turn for that: a processor's speed, a fan; 0 is at rest.
//!
//! Everybody may read them. Reading makes the driver ask the hardware: a CPU's sensor wakes that CPU, a disk's is a
//! command to the disk, one on an I2C bus may take a tenth of a second and keep others from the bus. So values are read
//! every ten seconds; a value that took longer than 50 ms only once a minute, and its row comes then. Limits and names
//! are read when a sensor is found, and again every hour. Which sensors there are is looked up every minute.
//!
//! There is a cooling device for each CPU, which nearly always rests: one at rest has a row once a minute, and one when
//! it comes to rest.
//!
//! A sensor that cannot be read now (its device sleeps, its link is down) has a row without a value.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nodescope_model::rows::{Row, Rows};
use nodescope_service::settings::Settings;

use crate::host_root::{HostRoot, first_word, numbered, read_text};
use crate::probe::{Probe, ProbeError, Tick};

/// How often it is looked up which chips and zones there are.
const DISCOVER_EVERY: Duration = Duration::from_secs(60);

/// How often limits and names are read again.
const DESCRIBE_EVERY: Duration = Duration::from_secs(3600);

/// How often a value is read that is slow to read.
const SLOW_EVERY: Duration = Duration::from_secs(60);

/// What is slow.
const SLOW: Duration = Duration::from_millis(50);

/// Sensors beyond this are counted, not read. A server has two hundred: two for each core, a few for each disk.
const MAX_SENSORS: usize = 1024;

/// Files of one chip that are looked at. The largest have some two hundred.
const MAX_FILES: usize = 4096;

/// Trip points of a thermal zone that are looked at.
const MAX_TRIPS: usize = 32;

/// A value of hwmon: which kind of sensor, which file of it, which column, and units of the file in one of the column.
/// Values are read at every tick, limits once.
struct Item {
    kind: &'static str,
    /// What follows the sensor's number: `_input`; nothing for `pwm1`.
    suffix: &'static str,
    column: &'static str,
    per_unit: Unit,
    live: bool,
}

/// What a file's number means.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Unit {
    /// So many of it are one of the column's unit.
    Float(f64),
    Int,
    Flag,
}

const MILLI: Unit = Unit::Float(1e3);
const MICRO: Unit = Unit::Float(1e6);
const WHOLE: Unit = Unit::Float(1.0);
/// Thousandths of per cent.
const HUMIDITY: Unit = Unit::Float(1e5);

const fn live(kind: &'static str, suffix: &'static str, column: &'static str, per_unit: Unit) -> Item {
    Item { kind, suffix, column, per_unit, live: true }
}

const fn limit(kind: &'static str, suffix: &'static str, column: &'static str, per_unit: Unit) -> Item {
    Item { kind, suffix, column, per_unit, live: false }
}

/// All that is read of a chip.
const ITEMS: &[Item] = &[
    live("temp", "_input", "temp_celsius", MILLI),
    limit("temp", "_min", "temp_min_celsius", MILLI),
    limit("temp", "_max", "temp_max_celsius", MILLI),
    limit("temp", "_max_hyst", "temp_max_hyst_celsius", MILLI),
    limit("temp", "_crit", "temp_crit_celsius", MILLI),
    limit("temp", "_crit_hyst", "temp_crit_hyst_celsius", MILLI),
    limit("temp", "_emergency", "temp_emergency_celsius", MILLI),
    live("temp", "_crit_alarm", "temp_crit_alarm", Unit::Flag),
    live("temp", "_alarm", "alarm", Unit::Flag),
    live("temp", "_fault", "fault", Unit::Flag),
    live("fan", "_input", "fan_rpm", WHOLE),
    limit("fan", "_min", "fan_min_rpm", WHOLE),
    limit("fan", "_max", "fan_max_rpm", WHOLE),
    live("fan", "_target", "fan_target_rpm", WHOLE),
    live("fan", "_alarm", "alarm", Unit::Flag),
    live("fan", "_fault", "fault", Unit::Flag),
    live("in", "_input", "in_volts", MILLI),
    limit("in", "_min", "in_min_volts", MILLI),
    limit("in", "_max", "in_max_volts", MILLI),
    limit("in", "_lcrit", "in_lcrit_volts", MILLI),
    limit("in", "_crit", "in_crit_volts", MILLI),
    live("in", "_alarm", "alarm", Unit::Flag),
    live("curr", "_input", "curr_amperes", MILLI),
    limit("curr", "_max", "curr_max_amperes", MILLI),
    limit("curr", "_crit", "curr_crit_amperes", MILLI),
    live("curr", "_alarm", "alarm", Unit::Flag),
    live("power", "_input", "power_watts", MICRO),
    live("power", "_average", "power_average_watts", MICRO),
    limit("power", "_max", "power_max_watts", MICRO),
    limit("power", "_crit", "power_crit_watts", MICRO),
    limit("power", "_cap", "power_cap_watts", MICRO),
    live("power", "_alarm", "alarm", Unit::Flag),
    live("energy", "_input", "energy_joules", MICRO),
    live("humidity", "_input", "humidity_ratio", HUMIDITY),
    live("freq", "_input", "freq_hertz", WHOLE),
    live("pwm", "", "pwm", Unit::Int),
    live("intrusion", "_alarm", "alarm", Unit::Flag),
];

/// What the probe needs to know: nothing.
#[derive(Debug, Clone, Default)]
pub struct SensorOptions {}

impl SensorOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self {}
    }
}

/// Fills the table `sensor`.
pub struct SensorProbe {
    hwmon: PathBuf,
    thermal: PathBuf,
    /// Directories seen last, with the device each belongs to: another set means that sensors came or went.
    seen: Vec<(PathBuf, Option<PathBuf>)>,
    sensors: Vec<Sensor>,
    omitted: usize,
}

impl SensorProbe {
    /// Reads nothing yet.
    pub fn new(root: &HostRoot, _options: SensorOptions) -> Self {
        Self {
            hwmon: root.sys("class/hwmon"),
            thermal: root.sys("class/thermal"),
            seen: Vec::new(),
            sensors: Vec::new(),
            omitted: 0,
        }
    }

    /// Looks for chips, zones and cooling devices; at all of them if any came or went, or if told to.
    fn discover(&mut self, again: bool) {
        let mut directories = Vec::new();
        for (directory, prefix) in
            [(&self.hwmon, "hwmon"), (&self.thermal, "thermal_zone"), (&self.thermal, "cooling_device")]
        {
            for number in numbered(directory, prefix) {
                let path = directory.join(format!("{prefix}{number}"));
                let device = fs::canonicalize(path.join("device")).ok();
                directories.push((path, device));
            }
        }
        if !again && directories == self.seen {
            return;
        }
        let slow: HashSet<String> = self.sensors.iter().filter(|s| s.slow).map(|s| s.name.clone()).collect();
        self.sensors.clear();
        self.omitted = 0;
        let mut names = HashSet::new();
        for (path, device) in &directories {
            for mut sensor in describe(path, device.as_deref()) {
                if self.sensors.len() >= MAX_SENSORS {
                    self.omitted += 1;
                    continue;
                }
                // Two chips of one device are named alike.
                let name = sensor.name.clone();
                let mut others = 1;
                while !names.insert(sensor.name.clone()) {
                    others += 1;
                    sensor.name = format!("{name}#{others}");
                }
                sensor.slow = slow.contains(&sensor.name);
                self.sensors.push(sensor);
            }
        }
        self.seen = directories;
    }
}

impl Probe for SensorProbe {
    fn table(&self) -> &'static str {
        "sensor"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        if tick.is_due(DISCOVER_EVERY) {
            self.discover(tick.is_due(DESCRIBE_EVERY));
        }
        if self.sensors.is_empty() {
            return Err(ProbeError::Absent(
                "the kernel shows no sensors: usual in a virtual machine; on a server, its drivers are not loaded \
                 (coretemp, k10temp, nvme, …)"
                    .to_owned(),
            ));
        }
        let slow_ones_too = tick.is_due(SLOW_EVERY);
        for sensor in &mut self.sensors {
            if slow_ones_too || !(sensor.slow || sensor.rests()) {
                sensor.sample(rows);
            }
        }
        if self.omitted > 0 {
            let omitted = i64::try_from(self.omitted).ok();
            rows.begin().text("name", "omitted").text("kind", "omitted").int("omitted", omitted);
        }
        Ok(())
    }
}

/// One sensor.
#[derive(Debug, Default)]
struct Sensor {
    name: String,
    kind: &'static str,
    /// Labels by column.
    texts: Vec<(&'static str, String)>,
    limits: Vec<(&'static str, Unit, i64)>,
    values: Vec<(&'static str, Unit, PathBuf)>,
    slow: bool,
    /// Of a cooling device: whether it was at rest when last looked at.
    resting: bool,
}

impl Sensor {
    /// Whether it is a cooling device that still does nothing. There is one for each CPU.
    fn rests(&mut self) -> bool {
        let Some((_, _, path)) = self.values.first().filter(|_| self.kind == "cooling_device") else { return false };
        let resting = read_number(path) == Some(0);
        std::mem::replace(&mut self.resting, resting) && resting
    }

    fn sample(&mut self, rows: &mut Rows) {
        let mut row = rows.begin();
        row.text("name", self.name.as_str()).text("kind", self.kind);
        for (column, text) in &self.texts {
            row.text(column, text.as_str());
        }
        for (column, unit, number) in &self.limits {
            fill(&mut row, column, *unit, *number);
        }
        let mut slow = false;
        for (column, unit, path) in &self.values {
            let begun = Instant::now();
            let number = read_number(path);
            slow |= begun.elapsed() > SLOW;
            if let Some(number) = number {
                fill(&mut row, column, *unit, number);
            }
        }
        // Said of the reading that made it so, and of all later ones until one is fast.
        self.slow = slow;
        row.bool("slow", slow);
    }
}

#[allow(clippy::cast_precision_loss)] // 2^53 microjoules are nine gigajoules.
fn fill(row: &mut Row<'_>, column: &str, unit: Unit, number: i64) {
    match unit {
        Unit::Float(per_unit) => row.float(column, number as f64 / per_unit),
        Unit::Int => row.int(column, number),
        Unit::Flag => row.bool(column, number != 0),
    };
}

/// The number a small file begins with. `None` also where the driver answers with an error: no link, asleep, no sensor.
pub(super) fn read_number(path: &Path) -> Option<i64> {
    let mut buffer = [0u8; 64];
    let length = File::open(path).ok()?.read(&mut buffer).ok()?;
    first_word(std::str::from_utf8(buffer.get(..length)?).ok()?)
}

/// The sensors of a chip, a zone or a cooling device.
fn describe(path: &Path, device: Option<&Path>) -> Vec<Sensor> {
    let own = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(number) = own.strip_prefix("thermal_zone") {
        return vec![describe_zone(path, own, number)];
    }
    if let Some(number) = own.strip_prefix("cooling_device") {
        return vec![describe_cooling(path, own, number)];
    }
    describe_chip(path, own, device)
}

fn describe_zone(path: &Path, own: &str, number: &str) -> Sensor {
    let mut sensor = Sensor {
        name: own.to_owned(),
        kind: "thermal_zone",
        texts: vec![("zone", number.to_owned())],
        ..Sensor::default()
    };
    sensor.texts.extend(read_text(&path.join("type")).map(|text| ("type", text)));
    sensor.values.push(("zone_temp_celsius", MILLI, path.join("temp")));
    for (kind, column) in [("passive", "zone_passive_celsius"), ("critical", "zone_critical_celsius")] {
        let trip = (0..MAX_TRIPS)
            .map_while(|at| Some((at, read_text(&path.join(format!("trip_point_{at}_type")))?)))
            .find(|(_, found)| found == kind)
            .and_then(|(at, _)| read_number(&path.join(format!("trip_point_{at}_temp"))))
            // A point that is switched off is at 0 or far below.
            .filter(|millis| *millis > 0);
        sensor.limits.extend(trip.map(|millis| (column, MILLI, millis)));
    }
    sensor
}

fn describe_cooling(path: &Path, own: &str, number: &str) -> Sensor {
    let mut sensor = Sensor {
        name: own.to_owned(),
        kind: "cooling_device",
        texts: vec![("cooling_device", number.to_owned())],
        ..Sensor::default()
    };
    sensor.texts.extend(read_text(&path.join("type")).map(|text| ("type", text)));
    sensor.limits.extend(read_number(&path.join("max_state")).map(|most| ("cooling_max_state", Unit::Int, most)));
    sensor.values.push(("cooling_state", Unit::Int, path.join("cur_state")));
    sensor
}

fn describe_chip(path: &Path, own: &str, device: Option<&Path>) -> Vec<Sensor> {
    let chip_name = read_text(&path.join("name"));
    let chip = name_chip(device, chip_name.as_deref(), own);
    let mut sensors: BTreeMap<(&'static str, u32), Sensor> = BTreeMap::new();
    // Drivers from before Linux 2.6.28 or so have their files in the device's directory.
    for directory in [path.to_path_buf(), path.join("device")] {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten().take(MAX_FILES);
        for file in entries {
            let file = file.file_name();
            let Some((item, number)) = file.to_str().and_then(parse_file) else { continue };
            let sensor = sensors.entry((item.kind, number)).or_insert_with(|| {
                let sensor = format!("{}{number}", item.kind);
                let mut texts = vec![("chip", chip.clone()), ("sensor", sensor.clone())];
                texts.extend(chip_name.clone().map(|name| ("chip_name", name)));
                let label = read_text(&directory.join(format!("{sensor}_label")));
                texts.extend(label.map(|label| ("label", label)));
                Sensor { name: format!("{chip}/{sensor}"), kind: item.kind, texts, ..Sensor::default() }
            });
            sensor.add(item, directory.join(&file));
        }
    }
    // A sensor with limits and nothing else senses nothing.
    sensors.into_values().filter(|sensor| !sensor.values.is_empty()).collect()
}

impl Sensor {
    fn add(&mut self, item: &'static Item, path: PathBuf) {
        let mut columns = self.values.iter().map(|v| v.0).chain(self.limits.iter().map(|l| l.0));
        // The device's directory may show the same file once more.
        if columns.any(|column| column == item.column) {
            return;
        }
        if item.live {
            self.values.push((item.column, item.per_unit, path));
        } else if let Some(number) = read_number(&path) {
            self.limits.push((item.column, item.per_unit, number));
        }
    }
}

/// What a file of a chip is, and the number of its sensor: `temp12_crit`.
fn parse_file(file: &str) -> Option<(&'static Item, u32)> {
    let kind_length = file.bytes().take_while(|byte| !byte.is_ascii_digit()).count();
    let (kind, rest) = file.split_at_checked(kind_length)?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = rest.split_at_checked(digits)?;
    let item = ITEMS.iter().find(|item| item.kind == kind && item.suffix == suffix)?;
    Some((item, number.parse().ok()?))
}

/// The name of a chip that stays the same from boot to boot: by its device, else by its driver, else by its number.
fn name_chip(device: Option<&Path>, chip_name: Option<&str>, own: &str) -> String {
    let part = |path: Option<&Path>| {
        path.and_then(Path::file_name).map(|name| clean(&name.to_string_lossy())).filter(|name| !name.is_empty())
    };
    match (part(device.and_then(Path::parent)), part(device)) {
        (Some(place), Some(name)) => format!("{place}_{name}"),
        (None, Some(name)) => name,
        _ => chip_name.map(clean).filter(|name| !name.is_empty()).unwrap_or_else(|| own.to_owned()),
    }
}

/// A name as node_exporter writes it: small letters, digits, `:` and `_`, and no `_` at either end.
pub(super) fn clean(name: &str) -> String {
    let lower = name.to_lowercase();
    let replaced: String =
        lower.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == ':' { c } else { '_' }).collect();
    replaced.trim_matches('_').to_owned()
}

/// The name of the chip in this directory of hwmon.
pub(super) fn chip_of(path: &Path) -> String {
    let device = fs::canonicalize(path.join("device")).ok();
    let own = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name_chip(device.as_deref(), read_text(&path.join("name")).as_deref(), &own)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{
        FIRST_TICK, assert_sources, bools, fixture_options, floats, garbage, ints, row_of, sample_at, sample_once,
        texts,
    };

    fn probe(root: &HostRoot) -> SensorProbe {
        SensorProbe::new(root, SensorOptions::default())
    }

    #[test]
    fn the_recorded_machine_has_its_sensors() {
        let batch = sample_once(&mut probe(&fixture_options().root));
        let row = |name: &str| row_of(&batch, "name", name);
        let package = row("platform_coretemp_0/temp1");
        assert_eq!(texts(&batch, "chip")[package], Some("platform_coretemp_0"));
        assert_eq!(texts(&batch, "chip_name")[package], Some("coretemp"));
        assert_eq!(texts(&batch, "sensor")[package], Some("temp1"));
        assert_eq!(texts(&batch, "label")[package], Some("Package id 0"));
        assert_eq!(texts(&batch, "kind")[package], Some("temp"));
        assert_eq!(floats(&batch, "temp_celsius")[package], Some(61.0));
        assert_eq!(floats(&batch, "temp_max_celsius")[package], Some(92.0));
        assert_eq!(floats(&batch, "temp_crit_celsius")[package], Some(102.0));
        assert_eq!(bools(&batch, "temp_crit_alarm")[package], Some(false));
        assert_eq!(bools(&batch, "slow")[package], Some(false));
        let disk = row("nvme_nvme0/temp1");
        assert_eq!(floats(&batch, "temp_celsius")[disk], Some(38.85));
        assert_eq!(floats(&batch, "temp_min_celsius")[disk], Some(-273.15));
        assert_eq!(bools(&batch, "alarm")[disk], Some(true));
        let board = |sensor: &str| row(&format!("platform_nct6775_656/{sensor}"));
        assert_eq!(floats(&batch, "fan_rpm")[board("fan1")], Some(8_640.0));
        assert_eq!(floats(&batch, "fan_min_rpm")[board("fan1")], Some(500.0));
        assert_eq!(floats(&batch, "in_volts")[board("in0")], Some(1.784));
        assert_eq!(floats(&batch, "curr_amperes")[board("curr1")], Some(12.5));
        assert_eq!(floats(&batch, "humidity_ratio")[board("humidity1")], Some(0.455));
        assert_eq!(ints(&batch, "pwm")[board("pwm1")], Some(128));
        assert_eq!(bools(&batch, "alarm")[board("intrusion0")], Some(true));
        let meter = row("lnxsybus:00_acpi0000:00/power1");
        assert_eq!(floats(&batch, "power_average_watts")[meter], Some(612.0));
        let zone = row("thermal_zone0");
        assert_eq!(floats(&batch, "zone_temp_celsius")[zone], Some(62.0));
        assert_eq!(floats(&batch, "zone_critical_celsius")[zone], Some(105.0));
        assert_eq!((texts(&batch, "zone")[zone], texts(&batch, "type")[zone]), (Some("0"), Some("x86_pkg_temp")));
        assert_eq!(texts(&batch, "chip")[zone], None);
        let cooling = row("cooling_device0");
        assert_eq!(
            (ints(&batch, "cooling_state")[cooling], ints(&batch, "cooling_max_state")[cooling]),
            (Some(2), Some(10))
        );
        assert_eq!(texts(&batch, "cooling_device")[cooling], Some("0"));
        // `update_interval` and `name` are no sensors.
        assert_eq!(batch.num_rows(), 13);
    }

    #[test]
    fn chips_are_named_by_their_device() {
        let name = |device: &str, chip| name_chip(Some(Path::new(device)), chip, "hwmon3");
        assert_eq!(name("/sys/devices/platform/coretemp.0", None), "platform_coretemp_0");
        assert_eq!(name("/sys/devices/pci0000:00/0000:00:18.3", Some("k10temp")), "pci0000:00_0000:00:18_3");
        assert_eq!(name("/sys/devices/pci0000:00/0000:00:1d.0/0000:3b:00.0/nvme/nvme0", None), "nvme_nvme0");
        assert_eq!(name("/", Some("a b")), "a_b");
        assert_eq!(name_chip(None, Some("acpitz"), "hwmon3"), "acpitz");
        assert_eq!(name_chip(None, Some("--"), "hwmon3"), "hwmon3");
        assert_eq!(name_chip(None, None, "hwmon3"), "hwmon3");
    }

    #[test]
    fn files_are_told_apart() {
        let parsed = |file| parse_file(file).map(|(item, number)| (item.column, number));
        assert_eq!(parsed("temp12_crit_alarm"), Some(("temp_crit_alarm", 12)));
        assert_eq!(parsed("in0_input"), Some(("in_volts", 0)));
        assert_eq!(parsed("pwm3"), Some(("pwm", 3)));
        for file in
            ["temp_input", "temp1_beep", "pwm1_enable", "name", "update_interval", "temp99999999999_input", "", "1"]
        {
            assert_eq!(parsed(file), None, "{file}");
        }
    }

    #[test]
    fn what_cannot_be_read_has_a_row_without_a_value_and_what_comes_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let sys = directory.path().join("sys");
        let device = sys.join("devices/virtual/net-phy");
        let chip = sys.join("class/hwmon/hwmon0");
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(&chip).unwrap();
        symlink(&device, chip.join("device")).unwrap();
        fs::write(chip.join("temp1_input"), "N/A\n").unwrap();
        fs::write(chip.join("temp1_max"), "70000\n").unwrap();
        fs::write(chip.join("temp2_max"), "70000\n").unwrap();
        let mut probe = probe(&HostRoot::new(directory.path()));
        let batch = sample_once(&mut probe);
        assert_eq!(texts(&batch, "name"), [Some("virtual_net-phy/temp1".replace('-', "_").as_str())]);
        assert_eq!((floats(&batch, "temp_celsius")[0], floats(&batch, "temp_max_celsius")[0]), (None, Some(70.0)));
        // A second chip of the same device, found at the next minute and told apart.
        let second = sys.join("class/hwmon/hwmon1");
        fs::create_dir_all(&second).unwrap();
        symlink(&device, second.join("device")).unwrap();
        fs::write(second.join("temp1_input"), "41000\n").unwrap();
        let tick = |seconds: i64| Tick { ts_micros: FIRST_TICK.ts_micros + seconds * 1_000_000, first: false };
        assert_eq!(sample_at(&mut probe, &tick(10)).num_rows(), 1);
        let due = (1..=60).map(tick).find(|tick| tick.is_due(DISCOVER_EVERY)).unwrap();
        let batch = sample_at(&mut probe, &due);
        assert_eq!(texts(&batch, "name"), [Some("virtual_net_phy/temp1"), Some("virtual_net_phy/temp1#2")]);
        assert_eq!(floats(&batch, "temp_celsius"), [None, Some(41.0)]);
    }

    #[test]
    fn what_is_slow_to_read_is_read_once_a_minute() {
        let mut probe = probe(&fixture_options().root);
        let all = sample_once(&mut probe).num_rows();
        for sensor in &mut probe.sensors {
            sensor.slow = sensor.name.starts_with("nvme");
        }
        let tick = |seconds: i64| Tick { ts_micros: FIRST_TICK.ts_micros + seconds * 1_000_000, first: false };
        let not_due = (1..=60).map(tick).find(|tick| !tick.is_due(SLOW_EVERY)).unwrap();
        assert_eq!(sample_at(&mut probe, &not_due).num_rows(), all - 1);
        let due = (1..=60).map(tick).find(|tick| tick.is_due(SLOW_EVERY)).unwrap();
        // It was fast this time.
        assert_eq!(sample_at(&mut probe, &due).num_rows(), all);
        assert_eq!(sample_at(&mut probe, &not_due).num_rows(), all);
    }

    #[test]
    fn a_cooling_device_at_rest_is_told_once_a_minute() {
        let directory = tempfile::tempdir().unwrap();
        let device = directory.path().join("sys/class/thermal/cooling_device7");
        fs::create_dir_all(&device).unwrap();
        let turn = |state: &str| fs::write(device.join("cur_state"), state).unwrap();
        turn("0\n");
        let mut probe = probe(&HostRoot::new(directory.path()));
        let not_due = Tick { ts_micros: 10_000_000, first: false };
        let due = Tick { ts_micros: 60_000_000, first: false };
        assert_eq!(sample_once(&mut probe).num_rows(), 1);
        assert_eq!(sample_at(&mut probe, &not_due).num_rows(), 1, "it has come to rest");
        assert_eq!(sample_at(&mut probe, &not_due).num_rows(), 0);
        assert_eq!(sample_at(&mut probe, &due).num_rows(), 1);
        turn("3\n");
        assert_eq!(ints(&sample_at(&mut probe, &not_due), "cooling_state"), [Some(3)]);
        turn("0\n");
        assert_eq!(ints(&sample_at(&mut probe, &not_due), "cooling_state"), [Some(0)]);
        assert_eq!(sample_at(&mut probe, &not_due).num_rows(), 0);
    }

    #[test]
    fn sensors_beyond_the_limit_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let chip = directory.path().join("sys/class/hwmon/hwmon0");
        fs::create_dir_all(&chip).unwrap();
        for at in 0..MAX_SENSORS + 3 {
            fs::write(chip.join(format!("temp{at}_input")), "1000\n").unwrap();
        }
        let batch = sample_once(&mut probe(&HostRoot::new(directory.path())));
        assert_eq!(batch.num_rows(), MAX_SENSORS + 1);
        assert_eq!(ints(&batch, "omitted")[MAX_SENSORS], Some(3));
    }

    #[test]
    fn a_machine_without_sensors_has_nothing_to_sample() {
        let directory = tempfile::tempdir().unwrap();
        let catalogue = nodescope_model::catalogue::Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("sensor").unwrap());
        let error = probe(&HostRoot::new(directory.path())).sample(&FIRST_TICK, &mut rows).unwrap_err();
        assert!(matches!(error, ProbeError::Absent(_)), "{error}");
    }

    #[test]
    fn every_column_has_the_source_it_is_read_from() {
        let own = ITEMS.iter().filter(|item| !matches!(item.column, "alarm" | "fault"));
        let sources: Vec<(&str, String)> =
            own.map(|item| (item.column, format!("/{}N{}", item.kind, item.suffix))).collect();
        assert_sources("sensor", sources.iter().map(|(column, source)| (*column, source.as_str())));
    }

    #[test]
    fn this_machine_is_read_or_has_nothing() {
        let catalogue = nodescope_model::catalogue::Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("sensor").unwrap());
        let result = SensorProbe::new(&HostRoot::new("/"), SensorOptions::default()).sample(&FIRST_TICK, &mut rows);
        assert!(matches!(result, Ok(()) | Err(ProbeError::Absent(_))), "{result:?}");
        rows.finish(&nodescope_model::rows::Stamp { ts_micros: 0, node: "", host: "" });
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            parse_file(&text);
            parse_file(&format!("temp{text}"));
            let name = name_chip(Some(Path::new(&text)), Some(&text), "hwmon0");
            prop_assert!(!name.is_empty());
            prop_assert!(clean(&text).chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == ':' || c == '_'));
        }
    }
}
