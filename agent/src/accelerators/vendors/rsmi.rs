//! The reader of cards through ROCm SMI: Hygon's, and AMD's where the driver's files cannot be seen.
//!
//! Every value is asked for by itself and is NULL when it does not come, a load no less than a serial number: a load that
//! could not be read is not a load of nothing.
//!
//! The library has no word for a card that is gone. One that has answered before and now answers none of the questions
//! of every tick is taken for lost; the library counts its devices when it is initialised, so after a loss it is
//! initialised again, ever more seldom while that changes nothing.
//!
//! The library goes through files for every question, so what changes slowly (limits, errors, processes) is asked for
//! every ten seconds.

use std::time::Duration;

use nodescope_model::rows::Row;

use super::common::Trouble;
use super::{VendorOptions, not_open};
use crate::abi::rsmi::{Clock, Code, MEMORY_CONTROLLER, Metric, Process, Rsmi, Sensor};
use crate::accelerators::readings::{OnDevice, Readings};
use crate::accelerators::window::Window;
use crate::host_root::{HostRoot, read_text, read_u64};
use crate::probe::{ProbeError, Tick};

/// How often library and cards are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How often what changes slowly is asked for.
const SLOW_EVERY: Duration = Duration::from_secs(10);

/// Looks between two new beginnings, at the most.
const MAX_LOOKS: u32 = 16;

/// Cards looked at: beyond what any machine has.
const MAX_CARDS: u32 = 256;

/// From this version of the library on its structure of clocks begins with a `bool`.
const NEW_FORM: u32 = 6;

/// Parts of the chip with memory whose errors are summed: memory itself, copying, computing, memory's hub.
const BLOCKS: [u64; 4] = [MEMORY_CONTROLLER, 0x2, 0x4, 0x8];

/// Whose library.
pub(super) struct Flavour {
    /// Its name in errors.
    pub(super) library: &'static str,
    /// Where it is looked for.
    pub(super) candidates: &'static [&'static str],
    /// Kernel modules, whose version is the driver's.
    pub(super) modules: &'static [&'static str],
}

/// The library, once it is open, and the cards it has shown.
pub(super) struct Reader {
    flavour: &'static Flavour,
    options: VendorOptions,
    rsmi: Option<Rsmi>,
    is_initialized: bool,
    /// Which form of its structures the library should have.
    is_new_form: bool,
    /// Why there is nothing: absence, or trouble.
    obstacle: Option<(bool, String)>,
    cards: Vec<Card>,
    /// Something is not as it should be, so the library is initialised again at the next look.
    begin_anew: bool,
    /// Looks until then, and how many it was the last time.
    anew_in: u32,
    anew_after: u32,
    look_now: bool,
}

impl Reader {
    /// Nothing is opened yet.
    pub(super) fn new(flavour: &'static Flavour, options: VendorOptions) -> Self {
        Self {
            flavour,
            options,
            rsmi: None,
            is_initialized: false,
            is_new_form: true,
            obstacle: None,
            cards: Vec::new(),
            begin_anew: false,
            anew_in: 0,
            anew_after: 0,
            look_now: true,
        }
    }

    /// Appends the rows of all cards but those whose PCI address is among `told`.
    pub(super) fn sample(
        &mut self,
        tick: &Tick,
        window: &mut Window,
        out: &mut Readings,
        told: &[&str],
    ) -> Result<(), ProbeError> {
        if std::mem::take(&mut self.look_now) || tick.is_due(LOOK_EVERY) {
            self.obstacle = self.look().err();
        }
        match &self.obstacle {
            Some((true, reason)) => return Err(ProbeError::Absent(reason.clone())),
            Some((false, message)) => {
                return Err(ProbeError::Driver { library: self.flavour.library, message: message.clone() });
            }
            None => {}
        }
        let Some(rsmi) = &self.rsmi else { return Ok(()) };
        let is_told = |card: &Card| card.facts.pci_bdf.as_deref().is_some_and(|at| told.contains(&at));
        let mut asked = self.cards.iter().filter(|card| !is_told(card)).peekable();
        let slow = asked.peek().is_some() && (tick.is_due(SLOW_EVERY) || asked.any(|card| card.slow.is_none()));
        let pids = if slow { rsmi.processes().ok() } else { None };
        let before = self.cards.len();
        let is_new_form = self.is_new_form;
        self.cards.retain_mut(|card| {
            is_told(card) || card.sample(rsmi, slow, pids.as_deref(), is_new_form, &self.options.root, window, out)
        });
        if self.cards.len() < before {
            self.look_now = true;
            self.begin_anew = true;
        }
        Ok(())
    }

    /// Between ticks: load and power now.
    pub(super) fn glance(&self, window: &mut Window) {
        let Some(rsmi) = &self.rsmi else { return };
        for card in &self.cards {
            let load = rsmi.busy(card.number).ok().and_then(ratio);
            let power = rsmi.power(card.number).ok().and_then(watts);
            window.look(&card.facts.device, load, power);
        }
    }

    /// Identity and model of the library's devices, by their number.
    pub(super) fn device_of(&self, number: u32) -> Option<&Facts> {
        self.cards.iter().find(|card| card.number == number).map(|card| &card.facts)
    }

    /// How many cards the library has shown.
    pub(super) fn count(&self) -> usize {
        self.cards.len()
    }

    /// The name and the serial number that the library has of the card at that PCI address.
    pub(super) fn name_at(&self, pci_bdf: &str) -> Option<(Option<&str>, Option<&str>)> {
        let card = self.cards.iter().find(|card| card.facts.pci_bdf.as_deref() == Some(pci_bdf))?;
        Some((card.facts.model.as_deref(), card.facts.serial.as_deref()))
    }

    /// Opens and initialises the library if need be, and lists the cards. An error says whether it is an absence.
    fn look(&mut self) -> Result<(), (bool, String)> {
        if self.rsmi.is_none() {
            let rsmi = Rsmi::open(self.options.library(), self.flavour.candidates);
            self.rsmi = Some(rsmi.map_err(|error| match not_open(self.flavour.library, &error) {
                ProbeError::Absent(reason) => (true, reason),
                other => (false, other.to_string()),
            })?);
        }
        let Some(rsmi) = &self.rsmi else { return Ok(()) };
        self.anew_in = self.anew_in.saturating_sub(1);
        if self.begin_anew && self.is_initialized && self.anew_in == 0 {
            self.begin_anew = false;
            self.anew_after = (self.anew_after * 2).clamp(1, MAX_LOOKS);
            self.anew_in = self.anew_after;
            rsmi.shut_down();
            self.is_initialized = false;
        }
        if !self.is_initialized {
            rsmi.initialize().map_err(|code| match code {
                Code::INIT_ERROR | Code::NOT_FOUND => (true, "the driver is not loaded, or shows no card".to_owned()),
                Code::MISSING => (false, format!("{} lacks functions", rsmi.path().display())),
                code => (false, rsmi.describe(code)),
            })?;
            self.is_initialized = true;
            self.is_new_form = rsmi.version().is_none_or(|(major, _)| major >= NEW_FORM);
        }
        let count = match rsmi.count() {
            Ok(count) => count.min(MAX_CARDS),
            Err(code) => {
                self.begin_anew = true;
                self.cards.clear();
                return Err((false, rsmi.describe(code)));
            }
        };
        let driver = driver_version(&self.options.root, self.flavour.modules).or_else(|| rsmi.driver_version());
        let mut known = std::mem::take(&mut self.cards);
        let mut trouble = None;
        for number in 0..count {
            if let Err(code) = answers(rsmi, number) {
                trouble.get_or_insert_with(|| format!("card {number}: {}", rsmi.describe(code)));
                continue;
            }
            let facts = Facts::look(rsmi, number, driver.as_deref(), self.is_new_form, &self.options.root);
            if self.cards.iter().any(|card| card.facts.device == facts.device) {
                continue;
            }
            let slow = match known.iter().position(|card| card.number == number && card.facts.device == facts.device) {
                Some(at) => known.swap_remove(at).slow,
                None => None,
            };
            self.cards.push(Card { number, facts, slow });
        }
        match &trouble {
            Some(_) => self.begin_anew = true,
            None => (self.anew_in, self.anew_after) = (0, 0),
        }
        match trouble {
            // One card in trouble takes nothing from the others.
            _ if !self.cards.is_empty() => Ok(()),
            Some(message) => Err((false, message)),
            None => Err((true, "the driver shows no card".to_owned())),
        }
    }
}

/// Whether a card answers any question of every tick.
fn answers(rsmi: &Rsmi, number: u32) -> Result<(), Code> {
    rsmi.busy(number)
        .map(|_| ())
        .or_else(|_| rsmi.memory_usage(number).map(|_| ()))
        .or_else(|_| rsmi.power(number).map(|_| ()))
        .or_else(|_| chip_temperature(rsmi, number, Metric::Current).map(|_| ()).ok_or(Code::NO_DATA))
}

/// What does not change about a card while its driver is loaded.
pub(super) struct Facts {
    index: u32,
    /// Its identity.
    pub(super) device: String,
    driver: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    pub(super) pci_bdf: Option<String>,
    device_file: Option<String>,
    firmware: Option<String>,
    numa_node: Option<i64>,
    memory_total: Option<u64>,
    core_clock_max: Option<i64>,
    memory_clock_max: Option<i64>,
    slowdown_temperature: Option<f64>,
    shutdown_temperature: Option<f64>,
    /// Parts of the chip that count errors.
    blocks: Vec<u64>,
}

impl Facts {
    fn look(rsmi: &Rsmi, number: u32, driver: Option<&str>, is_new_form: bool, root: &HostRoot) -> Self {
        let pci_bdf = rsmi.pci_bdf(number).ok();
        let serial = rsmi.serial(number).filter(|serial| serial.chars().any(|c| c != '0'));
        let device = rsmi.unique_id(number).ok().and_then(identity);
        // A number alone would be another card's after a restart, but some name there must be.
        let device = device.or_else(|| serial.clone()).or_else(|| pci_bdf.clone());
        let max = |clock| rsmi.frequencies(number, clock, is_new_form).ok().and_then(|clocks| hertz(clocks.max));
        Self {
            index: number,
            device: device.unwrap_or_else(|| format!("card{number}")),
            driver: driver.map(str::to_owned),
            model: rsmi.name(number),
            serial,
            device_file: pci_bdf.as_ref().and_then(|at| render_file(&root.sys(format!("bus/pci/devices/{at}")))),
            numa_node: pci_bdf.as_ref().and_then(|at| numa_node(root, at)),
            pci_bdf,
            firmware: rsmi.vbios(number),
            memory_total: rsmi.memory_total(number).ok().filter(|bytes| *bytes != u64::MAX && *bytes != 0),
            core_clock_max: max(Clock::Core),
            memory_clock_max: max(Clock::Memory),
            slowdown_temperature: chip_temperature(rsmi, number, Metric::Critical),
            shutdown_temperature: chip_temperature(rsmi, number, Metric::Emergency),
            blocks: BLOCKS.into_iter().filter(|block| rsmi.ecc(number, *block).is_ok()).collect(),
        }
    }

    /// What card and virtual devices have in common.
    pub(super) fn fill(&self, row: &mut Row<'_>) {
        row.int("index", i64::from(self.index))
            .text("serial", self.serial.as_deref())
            .text("pci_bdf", self.pci_bdf.as_deref())
            .text("driver_version", self.driver.as_deref())
            .text("firmware_version", self.firmware.as_deref())
            .int("numa_node", self.numa_node);
    }

    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

/// What was asked for in the last ten seconds.
#[derive(Debug, Default)]
struct Slow {
    power_limit: Option<f64>,
    ecc: Option<(u64, u64)>,
    pcie_replays: Option<u64>,
    link: PciLink,
    processes: Option<Vec<Process>>,
}

/// A card.
struct Card {
    number: u32,
    facts: Facts,
    slow: Option<Slow>,
}

impl Card {
    fn look_slowly(&mut self, rsmi: &Rsmi, pids: Option<&[u32]>, root: &HostRoot) {
        let number = self.number;
        let errors = || {
            let mut sum = None;
            for block in &self.facts.blocks {
                // A sum that lacks one of its parts would be a counter that goes back.
                let (corrected, uncorrected) = rsmi.ecc(number, *block).ok()?;
                if corrected == u64::MAX || uncorrected == u64::MAX {
                    return None;
                }
                let (a, b): (u64, u64) = sum.unwrap_or_default();
                sum = Some((a.saturating_add(corrected), b.saturating_add(uncorrected)));
            }
            sum
        };
        let on_card = |pid: &u32| rsmi.process_on(*pid, number).ok();
        self.slow = Some(Slow {
            power_limit: rsmi.power_cap(number).ok().and_then(watts),
            ecc: errors(),
            pcie_replays: rsmi.pci_replays(number).ok().filter(|count| *count != u64::MAX),
            link: self.facts.pci_bdf.as_ref().map(|at| PciLink::read(root, at)).unwrap_or_default(),
            processes: pids.map(|pids| pids.iter().filter_map(on_card).collect()),
        });
    }

    /// The rows of the card and of the processes on it; false when it is lost.
    #[allow(clippy::too_many_arguments)]
    fn sample(
        &mut self,
        rsmi: &Rsmi,
        slow: bool,
        pids: Option<&[u32]>,
        is_new_form: bool,
        root: &HostRoot,
        window: &mut Window,
        out: &mut Readings,
    ) -> bool {
        let number = self.number;
        let mut trouble = Trouble::default();
        let busy = rsmi.busy(number);
        let used = rsmi.memory_usage(number);
        let power = rsmi.power(number);
        let temperature = chip_temperature(rsmi, number, Metric::Current);
        if busy.is_err() && used.is_err() && power.is_err() && temperature.is_none() {
            return false;
        }
        if slow || self.slow.is_none() {
            self.look_slowly(rsmi, pids, root);
        }
        let slow = self.slow.as_ref();
        let load = trouble.keep("load", busy).and_then(ratio);
        let power = trouble.keep("power", power).and_then(watts);
        let used = trouble.keep("memory", used).filter(|bytes| *bytes != u64::MAX);
        let facts = &self.facts;
        window.look(&facts.device, load, power);
        let mut row = out.device(&facts.device);
        facts.fill(&mut row);
        row.text("model", facts.model.as_deref())
            .text("device_file", facts.device_file.as_deref())
            .int("core_clock_max_hertz", facts.core_clock_max)
            .int("memory_clock_max_hertz", facts.memory_clock_max)
            .float("slowdown_temperature_celsius", facts.slowdown_temperature)
            .float("shutdown_temperature_celsius", facts.shutdown_temperature)
            .float("utilization_ratio", load)
            .float("memory_utilization_ratio", rsmi.memory_busy(number).ok().and_then(ratio))
            .count("memory_total_bytes", facts.memory_total)
            .count("memory_used_bytes", used)
            .count("memory_free_bytes", facts.memory_total.zip(used).and_then(|(total, used)| total.checked_sub(used)))
            .float("power_watts", power)
            .float("temperature_celsius", temperature);
        window.fill(&facts.device, &mut row);
        let mut clock = |which| trouble.keep("clock", rsmi.frequencies(number, which, is_new_form));
        let core = clock(Clock::Core).and_then(|clocks| hertz(clocks.current));
        let memory = clock(Clock::Memory).and_then(|clocks| hertz(clocks.current));
        let degrees = |sensor| rsmi.temperature(number, sensor, Metric::Current).ok().and_then(celsius);
        row.int("core_clock_hertz", core)
            .int("memory_clock_hertz", memory)
            .float("hotspot_temperature_celsius", degrees(Sensor::Junction))
            .float("memory_temperature_celsius", degrees(Sensor::Memory))
            .float("voltage_volts", rsmi.voltage(number).ok().and_then(volts))
            .float("fan_ratio", rsmi.fan(number).ok().and_then(|(speed, max)| fan(speed, max)))
            .float("energy_joules", rsmi.energy(number).ok().and_then(|(count, unit)| joules(count, unit)))
            .float("power_limit_watts", slow.and_then(|slow| slow.power_limit))
            .count("ecc_corrected_volatile", slow.and_then(|slow| slow.ecc).map(|(corrected, _)| corrected))
            .count("ecc_uncorrected_volatile", slow.and_then(|slow| slow.ecc).map(|(_, uncorrected)| uncorrected))
            .count("pcie_replays", slow.and_then(|slow| slow.pcie_replays));
        slow.map(|slow| slow.link).unwrap_or_default().fill(&mut row);
        let processes = slow.and_then(|slow| slow.processes.as_deref());
        row.int("processes", processes.map(|list| i64::try_from(list.len()).unwrap_or(i64::MAX)));
        let text = trouble.text(|code| rsmi.describe(code));
        row.text("error", text.as_deref());
        for process in processes.unwrap_or_default() {
            out.process(&OnDevice {
                device: &facts.device,
                pid: process.pid,
                work: Some("compute"),
                memory_used_bytes: process.memory,
                // What the library has is the share of compute units it holds at the moment.
                utilization_ratio: process.occupancy.and_then(ratio),
                ..OnDevice::default()
            });
        }
        true
    }
}

/// Temperature of the chip: at its edge, or where there is no such sensor at its hottest point.
fn chip_temperature(rsmi: &Rsmi, number: u32, metric: Metric) -> Option<f64> {
    let of = |sensor| rsmi.temperature(number, sensor, metric).ok().and_then(celsius);
    of(Sensor::Edge).or_else(|| of(Sensor::Junction))
}

/// The chip's number as the runtime writes it in its UUID. Cards without one say 0.
pub(super) fn identity(unique_id: u64) -> Option<String> {
    (unique_id != 0 && unique_id != u64::MAX).then(|| format!("GPU-{unique_id:016x}"))
}

/// Version of the first of these modules that is loaded and has one: those of the kernel's own tree have none.
pub(super) fn driver_version(root: &HostRoot, modules: &[&str]) -> Option<String> {
    modules.iter().find_map(|module| read_text(&root.sys(format!("module/{module}/version"))))
}

pub(super) fn numa_node(root: &HostRoot, pci_bdf: &str) -> Option<i64> {
    let node = read_u64(&root.sys(format!("bus/pci/devices/{pci_bdf}/numa_node")))?;
    i64::try_from(node).ok()
}

/// Name below `/dev` of the file by which programs use a card: `dri/renderD128`.
pub(super) fn render_file(device: &std::path::Path) -> Option<String> {
    let names = std::fs::read_dir(device.join("drm")).ok()?.flatten();
    let name =
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).find(|n| n.starts_with("renderD"))?;
    Some(format!("dri/{name}"))
}

/// What the PCI bus says of a card's link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PciLink {
    pub(super) generation: Option<i64>,
    pub(super) generation_max: Option<i64>,
    pub(super) width: Option<i64>,
    pub(super) width_max: Option<i64>,
}

impl PciLink {
    pub(super) fn read(root: &HostRoot, pci_bdf: &str) -> Self {
        let of = |file: &str| root.sys(format!("bus/pci/devices/{pci_bdf}/{file}"));
        let speed = |file| read_text(&of(file)).and_then(|text| generation(&text));
        // A link that is down has 0 lanes, one that is not known 255.
        let width = |file| read_u64(&of(file)).and_then(|n| i64::try_from(n).ok()).filter(|n| (1..=32).contains(n));
        Self {
            generation: speed("current_link_speed"),
            generation_max: speed("max_link_speed"),
            width: width("current_link_width"),
            width_max: width("max_link_width"),
        }
    }

    pub(super) fn fill(self, row: &mut Row<'_>) {
        row.int("pcie_generation", self.generation)
            .int("pcie_generation_max", self.generation_max)
            .int("pcie_width", self.width)
            .int("pcie_width_max", self.width_max);
    }
}

/// `16.0 GT/s PCIe`, or `8 GT/s` as older kernels write it, as a generation of PCIe.
fn generation(text: &str) -> Option<i64> {
    let speed: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    generation_of(speed)
}

/// Transfers per second and lane, in thousands of millions, as a generation of PCIe.
pub(super) fn generation_of(speed: f64) -> Option<i64> {
    let speeds = [2.5, 5.0, 8.0, 16.0, 32.0, 64.0];
    let at = speeds.iter().position(|of| (of - speed).abs() < 0.05)?;
    i64::try_from(at + 1).ok()
}

/// Per cent as a share of one. A little more than a hundred counts as all, much more is no share.
pub(super) fn ratio(percent: u32) -> Option<f64> {
    (percent <= 120).then(|| (f64::from(percent) / 100.0).min(1.0))
}

/// Microwatts as watts. No board draws a hundred kilowatts.
#[allow(clippy::cast_precision_loss)] // Far below 2^53.
pub(super) fn watts(microwatts: u64) -> Option<f64> {
    (microwatts < 100_000_000_000).then(|| microwatts as f64 / 1e6)
}

/// Thousandths of a degree as degrees. No chip lives at 200 °C, nor at −100 °C.
#[allow(clippy::cast_precision_loss)] // Far below 2^53.
pub(super) fn celsius(thousandths: i64) -> Option<f64> {
    (-100_000..200_000).contains(&thousandths).then(|| thousandths as f64 / 1e3)
}

/// Millivolts as volts. No core has a hundred.
#[allow(clippy::cast_precision_loss)] // Far below 2^53.
pub(super) fn volts(millivolts: i64) -> Option<f64> {
    (1..100_000).contains(&millivolts).then(|| millivolts as f64 / 1e3)
}

/// No clock has a hundred gigahertz.
pub(super) fn hertz(hertz: u64) -> Option<i64> {
    i64::try_from(hertz).ok().filter(|hertz| *hertz < 100_000_000_000)
}

/// A count of energy, of which each is worth `unit` microjoules. A count of 0 is that of a card that does not count.
#[allow(clippy::cast_precision_loss)] // A millionth of a joule in 2^53.
fn joules(count: u64, unit: f32) -> Option<f64> {
    let is_known = count != 0 && count != u64::MAX && unit.is_finite() && unit > 0.0;
    is_known.then(|| count as f64 * f64::from(unit) / 1e6)
}

#[allow(clippy::cast_precision_loss)] // Revolutions per minute, or 255.
fn fan(speed: i64, max: u64) -> Option<f64> {
    let speed = u64::try_from(speed).ok()?;
    (max > 0 && max < 1_000_000 && speed < 1_000_000).then(|| (speed as f64 / max as f64).min(1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_stands_for_not_known_is_null() {
        assert_eq!((ratio(0), ratio(37), ratio(101), ratio(u32::MAX)), (Some(0.0), Some(0.37), Some(1.0), None));
        assert_eq!((watts(71_250_000), watts(u64::MAX)), (Some(71.25), None));
        assert_eq!((celsius(64_000), celsius(-5000), celsius(i64::MAX)), (Some(64.0), Some(-5.0), None));
        assert_eq!((volts(881), volts(0), volts(i64::MIN)), (Some(0.881), None, None));
        assert_eq!((hertz(1_500_000_000), hertz(u64::MAX)), (Some(1_500_000_000), None));
        assert_eq!((joules(0, 15.3), joules(u64::MAX, 15.3), joules(1, f32::NAN)), (None, None, None));
        assert!((joules(1_000_000, 15.259).unwrap() - 15.259).abs() < 1e-5);
        assert_eq!((fan(51, 255), fan(-1, 255), fan(1, 0)), (Some(0.2), None, None));
        assert_eq!((identity(0), identity(0xabc).as_deref()), (None, Some("GPU-0000000000000abc")));
    }

    #[test]
    fn speeds_are_generations() {
        assert_eq!(
            (generation("16.0 GT/s PCIe"), generation("8 GT/s"), generation("2.5 GT/s PCIe")),
            (Some(4), Some(3), Some(1))
        );
        assert_eq!((generation("Unknown"), generation(""), generation("7 GT/s")), (None, None, None));
    }

    proptest! {
        #[test]
        fn no_number_brings_it_down(
            a in any::<u64>(), b in any::<i64>(), c in any::<u32>(), d in any::<f32>(), text in any::<String>(),
        ) {
            prop_assert!(ratio(c).is_none_or(|share| (0.0..=1.0).contains(&share)));
            watts(a);
            celsius(b);
            volts(b);
            hertz(a);
            joules(a, d);
            fan(b, a);
            generation(&text);
        }
    }
}
