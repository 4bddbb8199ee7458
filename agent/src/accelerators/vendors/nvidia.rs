//! NVIDIA's accelerators, through the driver's own library (NVML); and the reader that Iluvatar shares.
//!
//! The library may be missing, older than a function, or in trouble with one card. So every value is asked for by
//! itself and is NULL when it does not come. What never changes is asked once per card, what changes slowly every ten
//! seconds. Counters are asked for together, as *fields*, which costs one call; fields that a card does not answer are
//! found out once a minute and then left out.
//!
//! Mean and maximum within a tick come from the rings of samples that the driver keeps (load each sixth of a second,
//! power more often); where it keeps none, the card is looked at between ticks.
//!
//! From Hopper on, a card tells how busy its parts are (GPM): the difference of two snapshots of its counters. This
//! takes no lock from profilers, unlike the older way of DCGM, so it is always on.
//!
//! Partitions (MIG) are rows of their own, with what they have of their own: memory, GPM, processes. A card that is cut
//! has no load of its own.
//!
//! Cards and library are looked for anew once a minute, and at once after a card got lost: its number may then belong
//! to another. The driver lists cards when the library is initialised, so after a loss it is initialised again. When
//! the driver was replaced under the open library, this process ends and another opens the new one.
//!
//! Left out: `DeviceGetPcieThroughput`, of which each call measures for 20 ms; PCIe traffic comes as fields.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use nodescope_model::rows::Row;

use super::VendorOptions;
use super::common::{MAX_CARDS, Obstacle, Reader, Source, Trouble};
use crate::abi::OpenError;
use crate::abi::nvml::{Clock, Code, EventSet, FieldValue, Gpm, Handle, Nvml, ProcessSample, Ring, Sample, events};
use crate::accelerators::readings::{Event, OnDevice, Readings};
use crate::accelerators::window::Window;
use crate::host_root::{HostRoot, first_word};
use crate::kernel_log::xid_meaning;
use crate::probe::Tick;

/// Links a card has at the most.
const MAX_LINKS: u32 = 18;

/// Events taken at one tick; the rest comes at the next.
const MAX_EVENTS: usize = 64;

/// Partitions of a card looked at: beyond what any card has.
const MAX_PARTITIONS: u32 = 64;

/// Which library of this pattern.
pub(crate) trait Flavour {
    /// Its name in errors and events.
    const LIBRARY: &'static str;

    /// Where it is looked for.
    const CANDIDATES: &'static [&'static str];

    /// Names of the cards' files below `/dev`, before their number.
    const DEVICE_FILE: &'static str;
}

/// The driver's own.
pub(crate) struct Original;

impl Flavour for Original {
    const LIBRARY: &'static str = "NVML";
    const CANDIDATES: &'static [&'static str] = &["libnvidia-ml.so.1", "libnvidia-ml.so"];
    const DEVICE_FILE: &'static str = "nvidia";
}

/// How a field's number becomes a column's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Count,
    Flag,
    Celsius,
    Millijoules,
    Nanoseconds,
    Recovery,
}

/// Values that the library gives many of in one call: its number, our column, and what the number means. Where a column
/// is here twice, the first that the card answers is taken.
const FIELDS: &[(u32, &str, Field)] = &[
    (82, "memory_temperature_celsius", Field::Celsius),
    (83, "energy_joules", Field::Millijoules),
    (3, "ecc_corrected_volatile", Field::Count),
    (4, "ecc_uncorrected_volatile", Field::Count),
    (5, "ecc_corrected_aggregate", Field::Count),
    (6, "ecc_uncorrected_aggregate", Field::Count),
    (29, "retired_pages_corrected", Field::Count),
    (30, "retired_pages_uncorrected", Field::Count),
    (31, "retired_pages_pending", Field::Flag),
    (142, "remapped_rows_corrected", Field::Count),
    (143, "remapped_rows_uncorrected", Field::Count),
    (144, "remapped_rows_pending", Field::Flag),
    (145, "remapped_rows_failed", Field::Flag),
    (94, "pcie_replays", Field::Count),
    (197, "pcie_transmitted_bytes", Field::Count),
    (198, "pcie_received_bytes", Field::Count),
    (74, "throttle_power_cap_seconds", Field::Nanoseconds),
    (251, "throttle_software_thermal_seconds", Field::Nanoseconds),
    (75, "throttle_software_thermal_seconds", Field::Nanoseconds),
    (252, "throttle_hardware_thermal_seconds", Field::Nanoseconds),
    (253, "throttle_power_brake_seconds", Field::Nanoseconds),
    (76, "throttle_sync_boost_seconds", Field::Nanoseconds),
    (230, "recovery_action", Field::Recovery),
];

/// What a field about links is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// All links together, by its number.
    Card,
    /// All links or one, by what it is asked with.
    Link,
}

/// Counters of links: our column, the library's number, what it counts in, and what it is of. Which of them a card has
/// depends on its generation; the first that answers is taken.
const LINKS: &[(&str, u32, u64, Scope)] = &[
    ("link_received_bytes", 204, 1, Scope::Link),    // NVLink 5
    ("link_received_bytes", 139, 1024, Scope::Link), // up to NVLink 4, in KiB
    ("link_transmitted_bytes", 202, 1, Scope::Link),
    ("link_transmitted_bytes", 138, 1024, Scope::Link),
    ("link_crc_errors", 38, 1, Scope::Card),
    ("link_crc_errors", 163, 1, Scope::Link),
    ("link_replays", 52, 1, Scope::Card),
    ("link_replays", 161, 1, Scope::Link),
    ("link_recoveries", 59, 1, Scope::Card),
    ("link_recoveries", 162, 1, Scope::Link),
    ("link_recoveries", 215, 1, Scope::Link),
];

/// The scope that stands for all links.
const ALL_LINKS: u32 = u32::MAX;

/// What GPM tells in per cent: its number and our column.
const GPM_SHARES: &[(u32, &str)] = &[
    (2, "core_active_ratio"),
    (3, "core_occupancy_ratio"),
    (5, "tensor_active_ratio"),
    (10, "dram_active_ratio"),
    (11, "fp64_active_ratio"),
    (12, "fp32_active_ratio"),
    (13, "fp16_active_ratio"),
];

/// What GPM tells in MiB/s: its number, our column, and the count without which the rate is of use.
const GPM_RATES: &[(u32, &str, &str)] = &[
    (20, "pcie_transmitted_bytes_per_second", "pcie_transmitted_bytes"),
    (21, "pcie_received_bytes_per_second", "pcie_received_bytes"),
    (60, "link_received_bytes_per_second", "link_received_bytes"),
    (61, "link_transmitted_bytes_per_second", "link_transmitted_bytes"),
];

/// Names of the reasons for lower clocks.
const REASONS: &[(u64, &str)] = &[
    (0x1, "idle"),
    (0x2, "applications_clocks"),
    (0x4, "power_cap"),
    (0x8, "hardware_slowdown"),
    (0x10, "sync_boost"),
    (0x20, "software_thermal"),
    (0x40, "hardware_thermal"),
    (0x80, "power_brake"),
    (0x100, "display"),
];

/// Reads NVIDIA's cards.
pub(crate) type Nvidia = Reader<Library<Original>>;

/// The library, as it is open.
pub(crate) struct Library<F> {
    nvml: Nvml,
    root: HostRoot,
    /// What its events come through.
    events: Option<EventSet>,
    flavour: PhantomData<F>,
}

impl<F: Flavour> Library<F> {
    fn obstacle(&self, code: Code) -> Obstacle {
        match code {
            Code::DRIVER_NOT_LOADED => Obstacle::Absent("the driver is not loaded".to_owned()),
            Code::MISSING => Obstacle::Driver(format!("{} lacks functions", self.nvml.path().display())),
            Code::VERSION_MISMATCH => Obstacle::Mismatch(self.nvml.describe(code)),
            code => Obstacle::Driver(self.nvml.describe(code)),
        }
    }

    fn stop_listening(&mut self) {
        if let Some(set) = self.events.take() {
            self.nvml.stop_listening(set);
        }
    }
}

impl<F: Flavour> Source for Library<F> {
    const LIBRARY: &'static str = F::LIBRARY;

    type Card = Card;

    fn open(options: &VendorOptions) -> Result<Self, OpenError> {
        let nvml = Nvml::open(options.library(), F::CANDIDATES)?;
        Ok(Self { nvml, root: options.root.clone(), events: None, flavour: PhantomData })
    }

    fn initialize(&mut self) -> Result<(), Obstacle> {
        self.nvml.initialize().map_err(|code| self.obstacle(code))
    }

    fn shut_down(&mut self, cards: Vec<Card>) {
        drop(cards);
        self.stop_listening();
        self.nvml.shut_down();
    }

    fn cards(&mut self, mut known: Vec<Card>, trouble: &mut Option<String>) -> Result<Vec<Card>, Obstacle> {
        let nvml = &self.nvml;
        let count = nvml.count().map_err(|code| self.obstacle(code))?.min(MAX_CARDS);
        let driver = nvml.driver_version();
        let mut cards = Vec::<Card>::new();
        let mut is_new = false;
        for index in 0..count {
            let found = nvml.handle(index).and_then(|handle| Ok((handle, nvml.uuid(handle)?)));
            let (handle, uuid) = match found {
                Ok(found) => found,
                // A card this user may not see (a container with some of the machine's cards) is no trouble.
                Err(Code::NO_PERMISSION) => continue,
                Err(code) => {
                    trouble.get_or_insert_with(|| format!("card {index}: {}", nvml.describe(code)));
                    continue;
                }
            };
            if cards.iter().any(|card| card.facts.uuid == uuid) {
                continue;
            }
            let facts = Facts::look(nvml, handle, index, uuid, driver.as_deref(), F::DEVICE_FILE, &self.root);
            // One we know keeps where it has read to.
            let card = match known.iter().position(|card| card.handle == handle && card.facts.uuid == facts.uuid) {
                Some(at) => Card { facts, ..known.swap_remove(at) },
                None => {
                    is_new = true;
                    Card::new(nvml, handle, facts)
                }
            };
            cards.push(card.with_questions(nvml));
        }
        if is_new || self.events.is_none() {
            self.stop_listening();
            self.events = self.nvml.listen(cards.iter().map(|card| card.handle)).ok();
        }
        Ok(cards)
    }

    fn hear(&mut self, cards: &mut [Card], tick: &Tick, out: &mut Readings) {
        if let Some(set) = &self.events {
            hear(&self.nvml, set, F::LIBRARY, tick, cards, out);
        }
    }

    fn sample(&mut self, card: &mut Card, _: &Tick, slow: bool, window: &mut Window, out: &mut Readings) -> bool {
        card.sample(&self.nvml, slow, window, out)
    }

    fn glance(&mut self, card: &Card, window: &mut Window) {
        if card.is_cut != Some(true) {
            card.glance(&self.nvml, window);
        }
    }
}

/// Takes what the driver has reported since.
fn hear(nvml: &Nvml, set: &EventSet, source: &'static str, tick: &Tick, cards: &mut [Card], out: &mut Readings) {
    for _ in 0..MAX_EVENTS {
        let Some(event) = nvml.next_event(set) else { return };
        let card = cards.iter_mut().find(|card| card.handle == event.device);
        let code = (event.event == events::XID).then(|| i64::try_from(event.data).ok()).flatten();
        let (device, pci_bdf) = match card {
            Some(card) => {
                card.last_xid = code.or(card.last_xid);
                (Some(card.facts.uuid.clone()), card.facts.pci_bdf.clone())
            }
            None => (None, None),
        };
        let message = event_message(event.event, code);
        out.event(&Event {
            at_micros: tick.ts_micros,
            device,
            pci_bdf,
            kind: "fault",
            source,
            code,
            message,
            pid: None,
        });
    }
}

fn event_message(event: u64, code: Option<i64>) -> String {
    match (event, code) {
        (events::XID, Some(code)) => match xid_meaning(code) {
            Some(meaning) => format!("Xid {code}: {meaning}"),
            None => format!("Xid {code}"),
        },
        (events::DOUBLE_BIT_ECC, _) => "an uncorrected memory error".to_owned(),
        (events::SINGLE_BIT_ECC_STORM, _) => "very many corrected memory errors".to_owned(),
        (events::DRAM_RETIREMENT, _) => "a piece of memory was retired".to_owned(),
        (events::DRAM_RETIREMENT_FAILURE, _) => "a piece of memory could not be retired".to_owned(),
        (events::POISON, _) => "poisoned data were used".to_owned(),
        (events::FATAL_POISON, _) => "poisoned data were used, with no way back".to_owned(),
        (events::UNAVAILABLE, _) => "the card is not available".to_owned(),
        (events::RECOVERY_ACTION, _) => "what would bring the card back has changed".to_owned(),
        (other, _) => format!("event {other:#x}"),
    }
}

/// What does not change about a card while its driver is loaded.
struct Facts {
    index: u32,
    uuid: String,
    driver: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    pci_bdf: Option<String>,
    device_file: Option<String>,
    firmware: Option<String>,
    numa_node: Option<i64>,
    cores: Option<i64>,
    core_clock_max: Option<i64>,
    memory_clock_max: Option<i64>,
    pcie_generation_max: Option<i64>,
    pcie_width_max: Option<i64>,
    slowdown_temperature: Option<f64>,
    shutdown_temperature: Option<f64>,
}

impl Facts {
    fn look(
        nvml: &Nvml,
        handle: Handle,
        index: u32,
        uuid: String,
        driver: Option<&str>,
        device_file: &str,
        root: &HostRoot,
    ) -> Self {
        let pci_bdf = nvml.pci(handle).ok().and_then(|pci| pci_bdf(pci.domain, pci.bus, pci.device));
        let numa_node = pci_bdf.as_ref().and_then(|at| {
            let text = std::fs::read_to_string(root.sys(format!("bus/pci/devices/{at}/numa_node"))).ok()?;
            first_word::<u32>(&text).map(i64::from)
        });
        Self {
            index,
            uuid,
            driver: driver.map(str::to_owned),
            model: nvml.name(handle).ok(),
            serial: nvml.serial(handle).ok().filter(|serial| serial != "0"),
            pci_bdf,
            device_file: nvml.minor(handle).ok().filter(|n| known(*n)).map(|n| format!("{device_file}{n}")),
            firmware: nvml.vbios(handle).ok(),
            numa_node,
            cores: count(nvml.cores(handle)),
            core_clock_max: nvml.clock_max(handle, Clock::Core).ok().and_then(hertz),
            memory_clock_max: nvml.clock_max(handle, Clock::Memory).ok().and_then(hertz),
            pcie_generation_max: count(nvml.pcie_generation_max(handle)),
            pcie_width_max: count(nvml.pcie_width_max(handle)),
            slowdown_temperature: nvml.slowdown_temperature(handle).ok().and_then(celsius),
            shutdown_temperature: nvml.shutdown_temperature(handle).ok().and_then(celsius),
        }
    }

    /// What card and partitions have in common.
    fn fill(&self, row: &mut Row<'_>) {
        row.int("index", i64::from(self.index))
            .text("model", self.model.as_deref())
            .text("serial", self.serial.as_deref())
            .text("pci_bdf", self.pci_bdf.as_deref())
            .text("device_file", self.device_file.as_deref())
            .text("driver_version", self.driver.as_deref())
            .text("firmware_version", self.firmware.as_deref())
            .int("numa_node", self.numa_node);
    }
}

/// What a field is asked for.
#[derive(Debug, Clone, Copy)]
enum Target {
    Column(&'static str, Field),
    /// A column that is the sum of several answers, each times this.
    Sum(&'static str, u64),
}

/// What a card's driver keeps samples of.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    has_ring: bool,
    /// Microseconds since 1970 of the newest sample read.
    last: u64,
}

/// A card.
pub(crate) struct Card {
    handle: Handle,
    facts: Facts,
    /// Whether it is cut into partitions; `None` where it cannot be.
    is_cut: Option<bool>,
    partitions: Vec<Partition>,
    /// Fields it answers, and where they go.
    questions: Vec<(u32, u32, Target)>,
    fields: Vec<FieldValue>,
    load: Kept,
    power: Kept,
    samples: Vec<Sample>,
    last_process: u64,
    gpm: Option<Gpm>,
    metrics: Vec<Option<f64>>,
    last_xid: Option<i64>,
    has_slow: bool,
    ecc_sram: (Option<u64>, Option<u64>),
    ecc_dram: (Option<u64>, Option<u64>),
    /// Links it has, and those that are up.
    links: Option<(u32, u32)>,
    fabric: Option<&'static str>,
}

/// A partition of a card.
struct Partition {
    handle: Handle,
    uuid: String,
    place: u32,
    profile: Option<String>,
    gpu_instance: Option<u32>,
    gpm: Option<Gpm>,
}

impl Card {
    fn new(nvml: &Nvml, handle: Handle, facts: Facts) -> Self {
        Self {
            handle,
            facts,
            is_cut: None,
            partitions: Vec::new(),
            questions: Vec::new(),
            fields: Vec::new(),
            load: Kept::default(),
            power: Kept::default(),
            samples: Vec::new(),
            last_process: 0,
            gpm: nvml.gpm(handle).ok(),
            metrics: Vec::new(),
            last_xid: None,
            has_slow: false,
            ecc_sram: (None, None),
            ecc_dram: (None, None),
            links: None,
            fabric: None,
        }
    }

    /// Finds out which fields this card answers.
    fn with_questions(mut self, nvml: &Nvml) -> Self {
        self.questions = answered(LINKS, |questions| {
            let mut values: Vec<FieldValue> = questions.iter().map(|(f, s)| FieldValue::ask(*f, *s)).collect();
            match nvml.fields(self.handle, &mut values) {
                Ok(()) => values.iter().map(|value| value.known().is_some()).collect(),
                Err(_) => vec![false; questions.len()],
            }
        });
        self
    }

    /// What changes slowly.
    fn look_slowly(&mut self, nvml: &Nvml) {
        self.has_slow = true;
        let known = |value: Result<u64, Code>| value.ok().filter(|value| *value != u64::MAX);
        let (corrected, uncorrected) = nvml.ecc_sram(self.handle);
        self.ecc_sram = (known(corrected), known(uncorrected));
        self.ecc_dram = (known(nvml.ecc_dram(self.handle, false)), known(nvml.ecc_dram(self.handle, true)));
        let states: Vec<bool> = (0..MAX_LINKS).map_while(|link| nvml.link_is_up(self.handle, link).ok()).collect();
        let count = |up: &dyn Fn(&bool) -> bool| u32::try_from(states.iter().filter(|s| up(s)).count()).unwrap_or(0);
        self.links = (!states.is_empty()).then(|| (count(&|_| true), count(&|up| *up)));
        self.fabric = nvml.fabric(self.handle).ok().and_then(|fabric| fabric_state(fabric.state));
        self.is_cut = nvml.is_mig(self.handle).ok();
        self.look_for_partitions(nvml);
    }

    fn look_for_partitions(&mut self, nvml: &Nvml) {
        let mut known = std::mem::take(&mut self.partitions);
        if self.is_cut != Some(true) {
            return;
        }
        for place in 0..nvml.mig_places(self.handle).unwrap_or(0).min(MAX_PARTITIONS) {
            // Most places have no partition.
            let Ok(handle) = nvml.mig_handle(self.handle, place) else { continue };
            let Ok(uuid) = nvml.uuid(handle) else { continue };
            let found = known.iter().position(|partition| partition.uuid == uuid);
            let gpm = match found.map(|at| known.swap_remove(at)) {
                Some(before) => before.gpm,
                None => nvml.gpm(self.handle).ok(),
            };
            let name = nvml.name(handle).unwrap_or_default();
            let gpu_instance = nvml.gpu_instance(handle).ok();
            let profile = partition_profile(&name).map(str::to_owned);
            self.partitions.push(Partition { handle, uuid, place, profile, gpu_instance, gpm });
        }
    }

    /// The row of the whole card, then those of its partitions and of the processes on them; false when it is lost.
    fn sample(&mut self, nvml: &Nvml, slow: bool, window: &mut Window, out: &mut Readings) -> bool {
        let mut trouble = Trouble::default();
        let load = trouble.keep("load", nvml.utilization(self.handle));
        let temperature = trouble.keep("temperature", nvml.temperature(self.handle));
        let memory = trouble.keep("memory", nvml.memory(self.handle));
        let power = trouble.keep("power", nvml.power(self.handle)).and_then(watts);
        if trouble.is_loss() {
            return false;
        }
        if slow || !self.has_slow {
            self.look_slowly(nvml);
        }
        let is_cut = self.is_cut == Some(true);
        let utilization = load.and_then(|load| ratio(load.gpu)).filter(|_| !is_cut);
        self.look_back(nvml, is_cut, utilization, power, window);
        let processes = if is_cut { Processes::default() } else { Processes::list(nvml, self.handle) };

        let mut row = out.device(&self.facts.uuid);
        self.facts.fill(&mut row);
        row.bool("mig_enabled", self.is_cut)
            .int("cores", self.facts.cores)
            .int("core_clock_max_hertz", self.facts.core_clock_max)
            .int("memory_clock_max_hertz", self.facts.memory_clock_max)
            .int("pcie_generation_max", self.facts.pcie_generation_max)
            .int("pcie_width_max", self.facts.pcie_width_max)
            .float("slowdown_temperature_celsius", self.facts.slowdown_temperature)
            .float("shutdown_temperature_celsius", self.facts.shutdown_temperature)
            .float("utilization_ratio", utilization)
            .float("memory_utilization_ratio", load.and_then(|load| ratio(load.memory)).filter(|_| !is_cut))
            .float("power_watts", power)
            .float("temperature_celsius", temperature.and_then(celsius))
            .int("last_error_code", self.last_xid);
        window.fill(&self.facts.uuid, &mut row);
        fill_memory(memory, &mut row);
        self.fill_levels(nvml, &mut trouble, &mut row);
        let has = self.fill_fields(nvml, &mut row);
        self.fill_slow(&mut row);
        if !is_cut {
            row.int("processes", processes.computing);
            if let Some(gpm) = &mut self.gpm {
                fill_gpm(nvml, self.handle, None, gpm, &mut self.metrics, &has, &mut row);
            }
        }
        row.text("error", trouble.text(|code| nvml.describe(code)).as_deref());
        if is_cut {
            self.sample_partitions(nvml, out);
        } else {
            let samples = processes.samples(nvml, self.handle, &mut self.last_process);
            processes.append(&self.facts.uuid, &samples, out);
        }
        true
    }

    /// Tells the window what has been since the last tick: the driver's samples, or else the value of now.
    fn look_back(&mut self, nvml: &Nvml, is_cut: bool, load: Option<f64>, power: Option<f64>, window: &mut Window) {
        let uuid = &self.facts.uuid;
        if !is_cut {
            let answer = nvml.samples(self.handle, Ring::Utilization, self.load.last, &mut self.samples);
            let new = new_samples(&mut self.load, answer, &self.samples);
            let mut any = false;
            for sample in new.iter().filter(|sample| sample.value <= 100.0) {
                any = true;
                window.look(uuid, Some(sample.value / 100.0), None);
            }
            if !any {
                window.look(uuid, load, None);
            }
        }
        let answer = nvml.samples(self.handle, Ring::Power, self.power.last, &mut self.samples);
        let new = new_samples(&mut self.power, answer, &self.samples);
        let mut any = false;
        for sample in new.iter().filter(|sample| sample.value < MAX_MILLIWATTS) {
            any = true;
            window.look(uuid, None, Some(sample.value / 1e3));
        }
        if !any {
            window.look(uuid, None, power);
        }
    }

    /// Between ticks: what the driver keeps no samples of.
    fn glance(&self, nvml: &Nvml, window: &mut Window) {
        if !self.load.has_ring {
            let load = nvml.utilization(self.handle).ok().and_then(|load| ratio(load.gpu));
            window.look(&self.facts.uuid, load, None);
        }
        if !self.power.has_ring {
            window.look(&self.facts.uuid, None, nvml.power(self.handle).ok().and_then(watts));
        }
    }

    /// How busy its engines are, how fast it runs, and what holds it back.
    fn fill_levels(&self, nvml: &Nvml, trouble: &mut Trouble<Code>, row: &mut Row<'_>) {
        let handle = self.handle;
        let mut clock = |which| trouble.keep("clock", nvml.clock(handle, which)).and_then(hertz);
        row.int("core_clock_hertz", clock(Clock::Core))
            .int("memory_clock_hertz", clock(Clock::Memory))
            .int("video_clock_hertz", clock(Clock::Video));
        let share = |answer: Result<u32, Code>| answer.ok().and_then(ratio);
        row.float("encoder_utilization_ratio", share(nvml.encoder(handle)))
            .float("decoder_utilization_ratio", share(nvml.decoder(handle)))
            .float("jpeg_utilization_ratio", share(nvml.jpeg(handle)))
            .float("optical_flow_utilization_ratio", share(nvml.optical_flow(handle)))
            .float("fan_ratio", share(nvml.fan(handle)));
        // Numbers above 15 mean that the state is not known.
        let state = nvml.performance_state(handle).ok().filter(|state| *state <= 15);
        let reasons = nvml.throttle_reasons(handle).ok().filter(|mask| *mask != u64::MAX).map(reasons);
        row.float("power_limit_watts", nvml.power_limit(handle).ok().and_then(watts))
            .int("performance_state", state.map(i64::from))
            .text("throttle_reasons", reasons.as_deref())
            .text("compute_mode", nvml.compute_mode(handle).ok().and_then(compute_mode))
            .int("pcie_generation", count(nvml.pcie_generation(handle)))
            .int("pcie_width", count(nvml.pcie_width(handle)));
    }

    /// All fields, in one call. Says which columns are filled.
    fn fill_fields(&mut self, nvml: &Nvml, row: &mut Row<'_>) -> Vec<&'static str> {
        if self.questions.is_empty() {
            return self.fill_without_fields(nvml, row);
        }
        self.fields.clear();
        self.fields.extend(self.questions.iter().map(|(field, scope, _)| FieldValue::ask(*field, *scope)));
        if nvml.fields(self.handle, &mut self.fields).is_err() {
            return Vec::new();
        }
        let mut has = Vec::new();
        let mut sums: BTreeMap<&'static str, Option<u64>> = BTreeMap::new();
        for ((_, _, target), value) in self.questions.iter().zip(&self.fields) {
            let number = value.known();
            match target {
                Target::Sum(column, factor) => {
                    let sum = sums.entry(column).or_insert(Some(0));
                    // A sum that lacks one of its parts would be a counter that goes back.
                    *sum = sum.and_then(|sum| sum.checked_add(number?.checked_mul(*factor)?));
                }
                Target::Column(column, field) => {
                    has.push(*column);
                    fill_field(column, *field, number, row);
                }
            }
        }
        for (column, sum) in sums {
            has.push(column);
            row.count(column, sum);
        }
        has
    }

    /// What libraries without fields tell by functions of their own.
    fn fill_without_fields(&self, nvml: &Nvml, row: &mut Row<'_>) -> Vec<&'static str> {
        let handle = self.handle;
        let known = |value: Result<u64, Code>| value.ok().filter(|value| *value != u64::MAX);
        fill_field("energy_joules", Field::Millijoules, known(nvml.energy(handle)), row);
        row.int("pcie_replays", count(nvml.pcie_replays(handle)))
            .count("ecc_corrected_volatile", known(nvml.ecc_total(handle, false, false)))
            .count("ecc_uncorrected_volatile", known(nvml.ecc_total(handle, true, false)))
            .count("ecc_corrected_aggregate", known(nvml.ecc_total(handle, false, true)))
            .count("ecc_uncorrected_aggregate", known(nvml.ecc_total(handle, true, true)));
        Vec::new()
    }

    fn fill_slow(&self, row: &mut Row<'_>) {
        row.count("ecc_corrected_sram", self.ecc_sram.0)
            .count("ecc_uncorrected_sram", self.ecc_sram.1)
            .count("ecc_corrected_dram", self.ecc_dram.0)
            .count("ecc_uncorrected_dram", self.ecc_dram.1)
            .int("links", self.links.map(|(links, _)| i64::from(links)))
            .int("links_active", self.links.map(|(_, active)| i64::from(active)))
            .text("fabric_state", self.fabric);
    }

    fn sample_partitions(&mut self, nvml: &Nvml, out: &mut Readings) {
        for partition in &mut self.partitions {
            let memory = nvml.memory(partition.handle);
            if memory.as_ref().is_err_and(|code| !code.is_absence() || *code == Code::NOT_FOUND) {
                // It has been given up since it was last looked for.
                continue;
            }
            let processes = Processes::list(nvml, partition.handle);
            let mut row = out.device(&partition.uuid);
            self.facts.fill(&mut row);
            row.text("parent", self.facts.uuid.as_str())
                .text("partition_type", "mig")
                .text("partition_id", partition.place.to_string().as_str())
                .text("partition_profile", partition.profile.as_deref())
                .int("processes", processes.computing);
            fill_memory(memory.ok(), &mut row);
            if let (Some(gpm), Some(instance)) = (&mut partition.gpm, partition.gpu_instance) {
                fill_gpm(nvml, self.handle, Some(instance), gpm, &mut self.metrics, &[], &mut row);
            }
            processes.append(&partition.uuid, &BTreeMap::new(), out);
        }
    }
}

/// Of all fields, those that answer, with where they go: for each column the first that does. `ask` says which of some
/// questions (field, scope) are answered.
fn answered(
    links: &[(&'static str, u32, u64, Scope)],
    mut ask: impl FnMut(&[(u32, u32)]) -> Vec<bool>,
) -> Vec<(u32, u32, Target)> {
    let mut chosen: Vec<(u32, u32, Target)> = Vec::new();
    let mut filled: Vec<&str> = Vec::new();
    let questions: Vec<(u32, u32)> = FIELDS.iter().map(|(field, ..)| (*field, 0)).collect();
    for ((field, column, meaning), answers) in FIELDS.iter().zip(ask(&questions)) {
        if answers && !filled.contains(column) {
            filled.push(column);
            chosen.push((*field, 0, Target::Column(column, *meaning)));
        }
    }
    for (column, field, factor, scope) in links {
        if filled.contains(column) {
            continue;
        }
        let target = Target::Sum(column, *factor);
        let all = if *scope == Scope::Card { 0 } else { ALL_LINKS };
        if ask(&[(*field, all)]).first() == Some(&true) {
            filled.push(column);
            chosen.push((*field, all, target));
        } else if *scope == Scope::Link {
            let each: Vec<(u32, u32)> = (0..MAX_LINKS).map(|link| (*field, link)).collect();
            let before = chosen.len();
            let answers = ask(&each);
            chosen.extend(each.iter().zip(answers).filter(|(_, a)| *a).map(|((f, link), _)| (*f, *link, target)));
            if chosen.len() > before {
                filled.push(column);
            }
        }
    }
    chosen
}

/// Of what the ring holds, the samples that are new; the first time, those of its last second.
fn new_samples<'s>(kept: &mut Kept, answer: Result<(), Code>, samples: &'s [Sample]) -> Vec<&'s Sample> {
    kept.has_ring = match answer {
        Ok(()) | Err(Code::NOT_FOUND | Code::NO_DATA) => true,
        Err(code) => !code.is_absence(),
    };
    if answer.is_err() {
        return Vec::new();
    }
    let Some(newest) = samples.iter().map(|sample| sample.at).max() else { return Vec::new() };
    let after = if kept.last == 0 { newest.saturating_sub(1_000_000) } else { kept.last };
    // A clock that was set back would leave everything old.
    kept.last = newest;
    samples.iter().filter(|sample| sample.at > after).collect()
}

fn fill_memory(memory: Option<crate::abi::nvml::Memory>, row: &mut Row<'_>) {
    let known = |value: u64| (value != u64::MAX).then_some(value);
    row.count("memory_total_bytes", memory.and_then(|memory| known(memory.total)))
        .count("memory_used_bytes", memory.and_then(|memory| known(memory.used)))
        .count("memory_free_bytes", memory.and_then(|memory| known(memory.free)))
        .count("memory_reserved_bytes", memory.and_then(|memory| memory.reserved).and_then(known));
}

fn fill_field(column: &str, field: Field, number: Option<u64>, row: &mut Row<'_>) {
    match field {
        Field::Count => row.count(column, number),
        Field::Flag => row.bool(column, number.map(|number| number != 0)),
        Field::Celsius => row.float(column, number.and_then(|number| u32::try_from(number).ok()).and_then(celsius)),
        // Exact up to 2^53 mJ, three hundred years of one kilowatt.
        #[allow(clippy::cast_precision_loss)]
        Field::Millijoules => row.float(column, number.map(|millijoules| millijoules as f64 / 1e3)),
        Field::Nanoseconds => row.float(column, number.map(|ns| crate::probes::in_seconds(ns, 1_000_000_000))),
        Field::Recovery => row.text(column, number.and_then(recovery_action)),
    };
}

/// How busy the parts of a card or of a GPU instance have been since the last tick. Rates are of use only where there is
/// no count.
fn fill_gpm(
    nvml: &Nvml,
    card: Handle,
    gpu_instance: Option<u32>,
    gpm: &mut Gpm,
    metrics: &mut Vec<Option<f64>>,
    counted: &[&str],
    row: &mut Row<'_>,
) {
    let mut wanted = [0; GPM_SHARES.len() + GPM_RATES.len()];
    let numbers = GPM_SHARES.iter().map(|(number, _)| number).chain(GPM_RATES.iter().map(|(number, ..)| number));
    wanted.iter_mut().zip(numbers).for_each(|(place, number)| *place = *number);
    if nvml.gpm_metrics(card, gpu_instance, gpm, &wanted, metrics).is_err() {
        return;
    }
    let (shares, rates) = metrics.split_at(GPM_SHARES.len().min(metrics.len()));
    for ((_, column), value) in GPM_SHARES.iter().zip(shares) {
        row.float(column, value.and_then(share));
    }
    for ((_, column, count), value) in GPM_RATES.iter().zip(rates) {
        if !counted.contains(count) {
            row.float(column, value.filter(|value| *value >= 0.0).map(|value| value * 1_048_576.0));
        }
    }
}

/// The processes on a card or partition.
#[derive(Debug, Default)]
struct Processes {
    /// By number: what they do, and the memory they hold.
    all: BTreeMap<u32, (&'static str, Option<u64>)>,
    /// How many compute; `None` where the library does not list them.
    computing: Option<i64>,
}

impl Processes {
    fn list(nvml: &Nvml, device: Handle) -> Self {
        let mut found = Self::default();
        let compute = nvml.compute_processes(device);
        let is_listed = compute.is_ok();
        for (pid, memory) in compute.into_iter().chain(nvml.mps_processes(device)).flatten() {
            found.all.entry(pid).or_insert(("compute", memory));
        }
        found.computing = is_listed.then(|| i64::try_from(found.all.len()).unwrap_or(i64::MAX));
        for (pid, memory) in nvml.graphics_processes(device).into_iter().flatten() {
            // The same memory is told in both lists.
            found.all.entry(pid).and_modify(|(work, _)| *work = "both").or_insert(("graphics", memory));
        }
        found
    }

    /// How much of the device each has had since `last`.
    fn samples(&self, nvml: &Nvml, device: Handle, last: &mut u64) -> BTreeMap<u32, Shares> {
        if self.all.is_empty() {
            return BTreeMap::new();
        }
        let Ok(samples) = nvml.process_samples(device, *last) else { return BTreeMap::new() };
        let shares = process_shares(&samples, *last);
        *last = samples.iter().map(|sample| sample.at).max().unwrap_or(0).max(*last);
        shares
    }

    fn append(&self, device: &str, samples: &BTreeMap<u32, Shares>, out: &mut Readings) {
        for (&pid, &(work, memory_used_bytes)) in &self.all {
            let [gpu, memory, encoder, decoder] = samples.get(&pid).map_or([None; 4], Shares::mean);
            out.process(&OnDevice {
                device,
                pid,
                work: Some(work),
                memory_used_bytes,
                utilization_ratio: gpu,
                memory_utilization_ratio: memory,
                encoder_utilization_ratio: encoder,
                decoder_utilization_ratio: decoder,
            });
        }
    }
}

/// Sums of a process's samples.
#[derive(Debug, Clone, Copy, Default)]
struct Shares {
    sums: [f64; 4],
    counts: [u32; 4],
}

impl Shares {
    fn mean(&self) -> [Option<f64>; 4] {
        std::array::from_fn(|at| (self.counts[at] > 0).then(|| self.sums[at] / f64::from(self.counts[at])))
    }
}

/// The library gives several samples of a process within a second, old ones among them.
fn process_shares(samples: &[ProcessSample], last: u64) -> BTreeMap<u32, Shares> {
    let mut shares: BTreeMap<u32, Shares> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.pid != 0 && sample.at > last) {
        let of = shares.entry(sample.pid).or_default();
        for (at, percent) in [sample.gpu, sample.memory, sample.encoder, sample.decoder].into_iter().enumerate() {
            if let Some(share) = ratio(percent) {
                of.sums[at] += share;
                of.counts[at] += 1;
            }
        }
    }
    shares
}

fn pci_bdf(domain: u32, bus: u32, device: u32) -> Option<String> {
    (bus <= 0xff && device <= 0x1f).then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.0"))
}

fn known(number: u32) -> bool {
    number != u32::MAX
}

fn count(answer: Result<u32, Code>) -> Option<i64> {
    answer.ok().filter(|number| known(*number)).map(i64::from)
}

/// Per cent as a share of one. More than a hundred is no share (fans may turn a little faster than their nominal
/// most, which counts as all).
fn ratio(percent: u32) -> Option<f64> {
    share(f64::from(percent))
}

fn share(percent: f64) -> Option<f64> {
    (0.0..=120.0).contains(&percent).then(|| (percent / 100.0).min(1.0))
}

/// No board draws a hundred kilowatts.
const MAX_MILLIWATTS: f64 = 1e8;

/// Milliwatts as watts.
fn watts(milliwatts: u32) -> Option<f64> {
    let milliwatts = f64::from(milliwatts);
    (milliwatts < MAX_MILLIWATTS).then_some(milliwatts / 1e3)
}

/// No chip lives at 200 °C.
fn celsius(degrees: u32) -> Option<f64> {
    (degrees < 200).then(|| f64::from(degrees))
}

/// Megahertz as hertz. No clock has a hundred gigahertz.
fn hertz(megahertz: u32) -> Option<i64> {
    (megahertz < 100_000).then(|| i64::from(megahertz) * 1_000_000)
}

fn compute_mode(mode: u32) -> Option<&'static str> {
    ["default", "exclusive_thread", "prohibited", "exclusive_process"].get(mode as usize).copied()
}

fn fabric_state(state: u8) -> Option<&'static str> {
    ["not_supported", "not_started", "in_progress", "completed"].get(usize::from(state)).copied()
}

fn recovery_action(action: u64) -> Option<&'static str> {
    let actions = ["none", "gpu_reset", "node_reboot", "drain_p2p", "drain_and_reset"];
    actions.get(usize::try_from(action).ok()?).copied()
}

fn reasons(found: u64) -> String {
    let names: Vec<&str> = REASONS.iter().filter(|(reason, _)| found & reason != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(",") }
}

/// `NVIDIA H100 80GB HBM3 MIG 1g.10gb` is of profile `1g.10gb`.
fn partition_profile(name: &str) -> Option<&str> {
    name.rsplit_once("MIG ").map(|(_, profile)| profile.trim()).filter(|profile| !profile.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nodescope_model::catalogue::{Catalogue, ColumnType};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_go_to_columns_of_their_type() {
        let catalogue = Catalogue::built_in();
        let table = catalogue.get("accelerator").unwrap();
        let type_of = |name: &str| table.column(name).map(|column| column.column_type);
        for (_, name, field) in FIELDS {
            let wanted = match field {
                Field::Count => ColumnType::Int,
                Field::Flag => ColumnType::Bool,
                Field::Celsius | Field::Millijoules | Field::Nanoseconds => ColumnType::Float,
                Field::Recovery => ColumnType::Text,
            };
            assert_eq!(type_of(name), Some(wanted), "{name}");
        }
        assert_eq!(FIELDS.iter().map(|(number, ..)| number).collect::<BTreeSet<_>>().len(), FIELDS.len());
        for (name, ..) in LINKS {
            assert_eq!(type_of(name), Some(ColumnType::Int), "{name}");
        }
        for name in GPM_SHARES.iter().map(|(_, name)| name).chain(GPM_RATES.iter().map(|(_, name, _)| name)) {
            assert_eq!(type_of(name), Some(ColumnType::Float), "{name}");
        }
        for (_, _, count) in GPM_RATES {
            assert_eq!(type_of(count), Some(ColumnType::Int), "{count}");
        }
    }

    #[test]
    fn only_fields_that_answer_are_asked_for() {
        let fields = |questions: &[(u32, u32, Target)]| questions.iter().map(|(f, s, _)| (*f, *s)).collect::<Vec<_>>();
        assert!(answered(LINKS, |questions| vec![false; questions.len()]).is_empty());
        // An Ampere card: no newer thermal counter, links one by one.
        let found = answered(LINKS, |questions| {
            questions
                .iter()
                .map(|(field, scope)| match field {
                    75 | 83 | 38 => *scope == 0,
                    139 => *scope < 4,
                    _ => false,
                })
                .collect()
        });
        assert_eq!(fields(&found), [(83, 0), (75, 0), (139, 0), (139, 1), (139, 2), (139, 3), (38, 0)]);
        // A Blackwell card: sums over its links.
        let found = answered(LINKS, |questions| {
            questions.iter().map(|(field, scope)| [204, 139].contains(field) && *scope == ALL_LINKS).collect()
        });
        assert_eq!(fields(&found), [(204, ALL_LINKS)]);
        let all = answered(LINKS, |questions| vec![true; questions.len()]);
        assert!(!fields(&all).contains(&(75, 0)), "the newer one is there");
    }

    #[test]
    fn only_new_samples_count() {
        let samples: Vec<Sample> = (0..30)
            .map(|n| Sample { at: 10_000_000 + n * 100_000, value: f64::from(u32::try_from(n).unwrap()) })
            .collect();
        let mut kept = Kept::default();
        let values = |samples: Vec<&Sample>| samples.iter().map(|sample| sample.value).collect::<Vec<_>>();
        assert_eq!(new_samples(&mut kept, Ok(()), &samples).len(), 10, "the ring's last second");
        assert!(kept.has_ring);
        assert_eq!(new_samples(&mut kept, Ok(()), &samples).len(), 0);
        kept.last = 12_700_000;
        assert_eq!(values(new_samples(&mut kept, Ok(()), &samples)), [28.0, 29.0]);
        assert_eq!(new_samples(&mut kept, Err(Code::NOT_FOUND), &samples).len(), 0);
        assert!(kept.has_ring);
        assert_eq!(new_samples(&mut kept, Err(Code::NOT_SUPPORTED), &samples).len(), 0);
        assert!(!kept.has_ring);
    }

    #[test]
    fn a_process_has_the_mean_of_its_new_samples() {
        let sample = |pid, at, gpu| ProcessSample { pid, at, gpu, memory: 10, encoder: u32::MAX, decoder: 0 };
        let samples =
            [sample(7, 100, 90), sample(7, 200, 20), sample(7, 300, 40), sample(0, 300, 50), sample(8, 300, 130)];
        let shares = process_shares(&samples, 100);
        let [gpu, memory, encoder, decoder] = shares[&7].mean();
        assert!((gpu.unwrap() - 0.3).abs() < 1e-9 && (memory.unwrap() - 0.1).abs() < 1e-9);
        assert_eq!((encoder, decoder), (None, Some(0.0)));
        assert_eq!(shares[&8].mean()[0], None);
        assert_eq!(shares.len(), 2);
    }

    #[test]
    fn what_stands_for_not_known_is_null() {
        assert_eq!((ratio(0), ratio(37), ratio(100), ratio(105)), (Some(0.0), Some(0.37), Some(1.0), Some(1.0)));
        assert_eq!((ratio(u32::MAX), watts(u32::MAX), celsius(u32::MAX)), (None, None, None));
        assert_eq!((watts(71_250), celsius(64), hertz(1_980)), (Some(71.25), Some(64.0), Some(1_980_000_000)));
        assert_eq!((hertz(u32::MAX), count(Ok(u32::MAX)), count(Ok(16))), (None, None, Some(16)));
        assert_eq!((share(-1.0), share(f64::NAN), share(50.0)), (None, None, Some(0.5)));
        assert_eq!(pci_bdf(0, 0x17, 0).as_deref(), Some("0000:17:00.0"));
        assert_eq!(pci_bdf(0x1_0000, 0xc1, 0x1f).as_deref(), Some("10000:c1:1f.0"));
        assert_eq!(pci_bdf(0, 0x100, 0), None);
    }

    #[test]
    fn states_have_names() {
        assert_eq!(reasons(0), "none");
        assert_eq!(reasons(1), "idle");
        assert_eq!(reasons(0x44), "power_cap,hardware_thermal");
        let all: String = REASONS.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(",");
        assert_eq!(reasons(u64::MAX), all);
        assert_eq!((compute_mode(3), compute_mode(4)), (Some("exclusive_process"), None));
        assert_eq!((fabric_state(3), fabric_state(4)), (Some("completed"), None));
        assert_eq!((recovery_action(1), recovery_action(u64::MAX)), (Some("gpu_reset"), None));
        assert_eq!(event_message(events::XID, Some(79)), "Xid 79: the card has fallen off the bus");
        assert_eq!(event_message(events::XID, Some(9_999)), "Xid 9999");
        assert_eq!(event_message(1 << 40, None), "event 0x10000000000");
    }

    #[test]
    fn a_partition_tells_its_profile() {
        assert_eq!(partition_profile("NVIDIA H100 80GB HBM3 MIG 1g.10gb"), Some("1g.10gb"));
        assert_eq!(partition_profile("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb"), Some("1c.3g.20gb"));
        assert_eq!(partition_profile("NVIDIA H100 80GB HBM3"), None);
        assert_eq!(partition_profile("MIG "), None);
    }

    proptest! {
        #[test]
        fn no_number_or_name_brings_it_down(number in any::<u32>(), wide in any::<u64>(), name in any::<String>()) {
            let share = ratio(number);
            prop_assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)));
            watts(number);
            celsius(number);
            hertz(number);
            compute_mode(number);
            recovery_action(wide);
            reasons(wide);
            event_message(wide, i64::try_from(wide).ok());
            pci_bdf(number, number, number);
            partition_profile(&name);
        }
    }
}
