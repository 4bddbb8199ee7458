//! Huawei's Ascend accelerators (NPUs), through the driver's own library (DCMI).
//!
//! A row is a chip: a card may carry two. The controllers of boards are left out. Cut chips have rows for their
//! partitions (vNPU), with what the driver tells of them.
//!
//! What moves is asked for every second: load, power, temperature, memory, errors, processes, links. Between ticks load
//! and power are looked at, as the driver keeps no samples. What changes slowly is asked for every ten seconds.
//!
//! The library writes a line into its log file for every question that does not apply to a board. So a refusal is
//! remembered, and the question is put again only after ten minutes.
//!
//! Two things take time, so that one chip at a tick has its turn: the board's serial number (once) and the traffic on
//! PCIe, which the chip measures while the call lasts.
//!
//! Faults are codes that the driver holds for as long as an error stands. A code that was not there at the tick before
//! is an event; those that stand when the agent starts are no news, and only in the row. An error that comes and goes
//! within a second is missed: the driver's queue of events, which would tell it, is not made for several readers.
//!
//! The library lists cards once, when it is initialised, and keeps their numbers. A chip that is reset comes back under
//! its own, so chips are looked for each minute. When all that was there has gone, the driver was taken out, and this
//! process ends for another to begin anew.

use std::time::Duration;

use nodescope_model::rows::Row;

use super::common::Trouble;
use super::{Vendor, VendorOptions, not_open};
use crate::abi::dcmi::{
    Activity, Chip, ChipName, Clock, Code, Dcmi, EccInfo, HCCS_PIECE, HccsCounters, Load, Memory, PcieBandwidth,
    ProcessInfo,
};
use crate::accelerators::readings::{Event, OnDevice, Readings};
use crate::accelerators::window::Window;
use crate::host_root::{HostRoot, first_word};
use crate::probe::{ProbeError, Tick};

/// The library's name in errors and events.
const LIBRARY: &str = "DCMI";

/// The file through which the driver is managed.
const MANAGER: &str = "/dev/davinci_manager";

/// How often library and chips are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How often what changes slowly is asked for: partitions, errors of memory, voltage, the state of links.
const SLOW_EVERY: Duration = Duration::from_secs(10);

/// After what time a question that was refused is put again.
const RETRY_EVERY: Duration = Duration::from_secs(600);

/// For how long a chip measures its traffic on PCIe.
const PCIE_PERIOD_MILLISECONDS: i32 = 10;

/// Partitions of a chip looked at.
const MAX_PARTITIONS: usize = 32;

/// Codes of errors told of as events of one chip at one tick.
const MAX_EVENTS: usize = 32;

/// What is asked of a chip and may not apply to it.
#[derive(Debug, Clone, Copy)]
enum Question {
    Loads,
    AiCore,
    Vector,
    Overall,
    Cube,
    DdrBandwidth,
    Media,
    Hbm,
    Memory,
    Power,
    Temperature,
    Voltage,
    Clock,
    Health,
    NetworkHealth,
    ErrorCodes,
    EccHbm,
    EccDdr,
    EccSram,
    Processes,
    PcieBandwidth,
    HccsCounters,
    HccsLanes,
    Partitions,
    Activity,
}

/// Reads Ascend's chips.
pub(crate) struct Ascend {
    options: VendorOptions,
    dcmi: Option<Dcmi>,
    is_initialized: bool,
    obstacle: Option<Obstacle>,
    chips: Vec<Npu>,
    /// Whose turn it is with what takes time.
    turn: usize,
    look_now: bool,
    has_worked: bool,
    is_outdated: bool,
}

/// What stands between us and the chips.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Obstacle {
    /// There is no driver, or no chip.
    Absent(String),
    /// The driver is there and does not do its part.
    Driver(String),
}

impl Obstacle {
    fn error(&self) -> ProbeError {
        match self {
            Self::Absent(reason) => ProbeError::Absent(reason.clone()),
            Self::Driver(message) => ProbeError::Driver { library: LIBRARY, message: message.clone() },
        }
    }
}

impl Ascend {
    /// Nothing is opened yet.
    pub(crate) fn new(options: VendorOptions) -> Self {
        Self {
            options,
            dcmi: None,
            is_initialized: false,
            obstacle: None,
            chips: Vec::new(),
            turn: 0,
            look_now: true,
            has_worked: false,
            is_outdated: false,
        }
    }

    /// Opens and initialises the library if need be, and lists the chips.
    fn look(&mut self) -> Result<(), Obstacle> {
        if self.dcmi.is_none() {
            let dcmi = Dcmi::open(self.options.library());
            self.dcmi = Some(dcmi.map_err(|error| match not_open(LIBRARY, &error) {
                ProbeError::Absent(reason) => Obstacle::Absent(reason),
                other => Obstacle::Driver(other.to_string()),
            })?);
        }
        let Some(dcmi) = &self.dcmi else { return Ok(()) };
        let root = &self.options.root;
        if !self.is_initialized {
            dcmi.initialize().map_err(|code| match code {
                Code::MISSING => Obstacle::Driver(format!("{} lacks functions", dcmi.path().display())),
                _ if !root.path(MANAGER).exists() => {
                    Obstacle::Absent(format!("the driver is not loaded: there is no {MANAGER}"))
                }
                code => Obstacle::Driver(code.describe()),
            })?;
            self.is_initialized = true;
        }
        let (found, trouble) = dcmi.chips().map_err(|code| Obstacle::Driver(code.describe()))?;
        let mut trouble = trouble.map(Code::describe);
        let driver = dcmi.driver_version();
        let mut known = std::mem::take(&mut self.chips);
        for chip in found {
            let (uuid, pci_bdf) = match identity(dcmi, chip) {
                Ok(identity) => identity,
                Err(code) => {
                    trouble.get_or_insert_with(|| format!("{}: {}", described(chip), code.describe()));
                    continue;
                }
            };
            if self.chips.iter().any(|npu| npu.facts.uuid == uuid) {
                continue;
            }
            let facts = Facts::look(dcmi, chip, uuid, pci_bdf, driver.as_deref(), root);
            // One we know keeps what it remembers.
            let npu = match known.iter().position(|npu| npu.chip == chip && npu.facts.uuid == facts.uuid) {
                Some(at) => Npu { facts, ..known.swap_remove(at) },
                None => Npu::new(chip, facts),
            };
            self.chips.push(npu);
        }
        match trouble {
            // One chip in trouble takes nothing from the others.
            _ if !self.chips.is_empty() => Ok(()),
            trouble => {
                self.is_outdated = self.has_worked;
                Err(match trouble {
                    Some(message) => Obstacle::Driver(message),
                    None => Obstacle::Absent("the driver shows no chip".to_owned()),
                })
            }
        }
    }
}

impl Vendor for Ascend {
    fn sample(&mut self, tick: &Tick, window: &mut Window, out: &mut Readings) -> Result<(), ProbeError> {
        if std::mem::take(&mut self.look_now) || tick.is_due(LOOK_EVERY) {
            self.obstacle = self.look().err();
        }
        if let Some(obstacle) = &self.obstacle {
            return Err(obstacle.error());
        }
        let Some(dcmi) = &self.dcmi else { return Ok(()) };
        self.has_worked = true;
        if tick.is_due(RETRY_EVERY) {
            self.chips.iter_mut().for_each(|npu| npu.refused = Refused::default());
        }
        self.turn = if self.turn + 1 < self.chips.len() { self.turn + 1 } else { 0 };
        if let Some(npu) = self.chips.get_mut(self.turn) {
            npu.take_turn(dcmi, &self.options.root);
        }
        let slow = tick.is_due(SLOW_EVERY);
        self.chips.retain_mut(|npu| npu.sample(dcmi, tick, slow, window, out));
        if self.chips.is_empty() {
            self.look_now = true;
        }
        Ok(())
    }

    fn glance(&mut self, window: &mut Window) {
        let Some(dcmi) = &self.dcmi else { return };
        for npu in &mut self.chips {
            let load = npu.loads(dcmi, &mut Trouble::default()).utilization();
            let power = npu.ask(Question::Power, &mut Trouble::default(), "power", |chip| dcmi.power(chip));
            window.look(&npu.facts.uuid, load, power.and_then(watts));
        }
    }

    fn is_outdated(&self) -> bool {
        self.is_outdated
    }
}

/// Where a chip is, for people.
fn described(chip: Chip) -> String {
    match chip {
        Chip::OnCard { card, chip } => format!("card {card}, chip {chip}"),
        Chip::ByNumber(number) => format!("chip {number}"),
    }
}

/// A chip's identity for life, and its PCI address.
fn identity(dcmi: &Dcmi, chip: Chip) -> Result<(String, Option<String>), Code> {
    let pcie = dcmi.pcie_info(chip);
    let pci_bdf = pcie.as_ref().ok().and_then(|pcie| pci_bdf(pcie.domain, pcie.bus, pcie.device, pcie.function));
    let die = dcmi.die(chip);
    if let Some(uuid) = die.ok().and_then(die_text) {
        return Ok((uuid, pci_bdf));
    }
    match (&pci_bdf, die, pcie) {
        (Some(address), ..) => Ok((address.clone(), pci_bdf)),
        (None, Err(code), _) | (None, _, Err(code)) => Err(code),
        (None, Ok(_), Ok(_)) => Err(Code::NO_DATA),
    }
}

/// What does not change about a chip while its driver is loaded.
struct Facts {
    index: Option<u32>,
    uuid: String,
    driver: Option<String>,
    model: Option<String>,
    pci_bdf: Option<String>,
    device_file: Option<String>,
    numa_node: Option<i64>,
    cores: Option<i64>,
    core_clock_max: Option<i64>,
    power_limit: Option<f64>,
    thresholds: Option<(f64, f64)>,
    pcie_generation_max: Option<i64>,
    pcie_width_max: Option<i64>,
}

impl Facts {
    fn look(
        dcmi: &Dcmi,
        chip: Chip,
        uuid: String,
        pci_bdf: Option<String>,
        driver: Option<&str>,
        root: &HostRoot,
    ) -> Self {
        let name = dcmi.name(chip).ok();
        let physical = dcmi.physical_id(chip).ok().filter(|number| known(*number));
        let (pcie_generation_max, pcie_width_max) = pcie_link(root, pci_bdf.as_deref(), "max");
        Self {
            index: physical.or_else(|| dcmi.logic_id(chip).ok()).filter(|number| known(*number)),
            uuid,
            driver: driver.map(str::to_owned),
            model: name.as_ref().and_then(model),
            device_file: physical.map(|number| format!("davinci{number}")),
            numa_node: pci_file(root, pci_bdf.as_deref(), "numa_node")
                .and_then(|text| first_word::<u32>(&text).map(i64::from)),
            cores: name.map(|name| name.aicores).filter(|cores| (1..1000).contains(cores)).map(i64::from),
            core_clock_max: dcmi.clock(chip, Clock::AiCoreMax).ok().and_then(hertz),
            power_limit: dcmi.rated_power(chip).ok().and_then(rated_watts),
            thresholds: dcmi.thresholds(chip).ok().and_then(thresholds),
            pci_bdf,
            pcie_generation_max,
            pcie_width_max,
        }
    }
}

/// Questions that a chip has refused.
#[derive(Debug, Clone, Copy, Default)]
struct Refused(u32);

/// A chip.
struct Npu {
    chip: Chip,
    facts: Facts,
    refused: Refused,
    /// Serial number of the board, once it was asked for.
    serial: Option<Option<String>>,
    /// Mean traffic on PCIe: sent and received, in bytes a second.
    pcie_rates: Option<(f64, f64)>,
    /// Codes of the errors that stood at the tick before; `None` before the first.
    codes: Option<Vec<u32>>,
    codes_now: Vec<u32>,
    last_code: Option<u32>,
    slow: Option<Slow>,
    partitions: Vec<Partition>,
    processes: Vec<ProcessInfo>,
}

/// What changes slowly.
#[derive(Default)]
struct Slow {
    voltage: Option<f64>,
    network: Option<&'static str>,
    ecc: Option<EccInfo>,
    ecc_sram: Option<EccInfo>,
    /// Links it has, and those that are up.
    links: Option<(i64, i64)>,
    pcie_generation: Option<i64>,
    pcie_width: Option<i64>,
    is_cut: Option<bool>,
}

/// A partition of a chip.
struct Partition {
    number: u32,
    uuid: String,
    template: Option<String>,
    cores: Option<i64>,
    memory: Option<u64>,
}

/// Loads of a chip and of its parts, each a share of one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Shares {
    overall: Option<f64>,
    aicore: Option<f64>,
    vector: Option<f64>,
    cube: Option<f64>,
}

impl Shares {
    /// Share of time in which something ran: what the driver says of the whole chip, and where it does not (older
    /// ones), of its AI cores.
    fn utilization(&self) -> Option<f64> {
        self.overall.or(self.aicore)
    }
}

/// Memory of a chip: bytes, hertz, degrees and shares of one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct MemoryState {
    total: Option<u64>,
    used: Option<u64>,
    free: Option<u64>,
    clock: Option<i64>,
    temperature: Option<f64>,
    utilization: Option<f64>,
}

impl Npu {
    fn new(chip: Chip, facts: Facts) -> Self {
        Self {
            chip,
            facts,
            refused: Refused::default(),
            serial: None,
            pcie_rates: None,
            codes: None,
            codes_now: Vec::new(),
            last_code: None,
            slow: None,
            partitions: Vec::new(),
            processes: Vec::new(),
        }
    }

    /// Puts a question, unless it was refused before; keeps what went wrong.
    fn ask<T>(
        &mut self,
        question: Question,
        trouble: &mut Trouble<Code>,
        what: &'static str,
        ask: impl FnOnce(Chip) -> Result<T, Code>,
    ) -> Option<T> {
        let bit = 1u32 << question as u32;
        if self.refused.0 & bit != 0 {
            return None;
        }
        let answer = ask(self.chip);
        if answer.as_ref().is_err_and(|code| code.is_absence()) {
            self.refused.0 |= bit;
        }
        trouble.keep(what, answer)
    }

    /// Newer drivers tell all loads at once, older ones one by one.
    fn loads(&mut self, dcmi: &Dcmi, trouble: &mut Trouble<Code>) -> Shares {
        if let Some(loads) = self.ask(Question::Loads, trouble, "load", |chip| dcmi.loads(chip)) {
            return Shares {
                overall: ratio(loads.overall),
                aicore: ratio(loads.aicore),
                vector: ratio(loads.vector),
                cube: ratio(loads.cube),
            };
        }
        let mut one =
            |question, which| self.ask(question, trouble, "load", |chip| dcmi.load_of(chip, which)).and_then(ratio);
        Shares {
            overall: one(Question::Overall, Load::Overall),
            aicore: one(Question::AiCore, Load::AiCore),
            vector: one(Question::Vector, Load::Vector),
            cube: one(Question::Cube, Load::Cube),
        }
    }

    /// The stacked memory, or where there is none (inference cards), the other.
    fn memory(&mut self, dcmi: &Dcmi, trouble: &mut Trouble<Code>) -> MemoryState {
        let hbm = self.ask(Question::Hbm, trouble, "memory", |chip| dcmi.hbm(chip));
        if let Some(hbm) = hbm.filter(|hbm| mebibytes(hbm.total).is_some()) {
            let (total, used) = (mebibytes(hbm.total), mebibytes_or_none(hbm.used));
            return MemoryState {
                total,
                used,
                free: difference(total, used),
                clock: hertz(hbm.clock),
                temperature: celsius(hbm.celsius),
                utilization: ratio(hbm.bandwidth),
            };
        }
        let Some(memory) = self.ask(Question::Memory, trouble, "memory", |chip| dcmi.memory(chip)) else {
            return MemoryState::default();
        };
        let total = mebibytes(memory.total);
        let free = mebibytes_or_none(memory.available).filter(|_| total.is_some());
        let busy = self.ask(Question::DdrBandwidth, trouble, "memory", |chip| dcmi.load_of(chip, Load::DdrBandwidth));
        MemoryState {
            total,
            used: difference(total, free),
            free,
            clock: hertz(memory.clock),
            temperature: None,
            utilization: busy.and_then(ratio),
        }
    }

    /// What takes time.
    fn take_turn(&mut self, dcmi: &Dcmi, root: &HostRoot) {
        if self.serial.is_none() {
            let serial = dcmi.serial(self.chip).ok();
            self.serial = Some(serial.filter(|serial| !["NA", "N/A", "0"].contains(&serial.as_str())));
        }
        let mut none = Trouble::default();
        let bandwidth = self.ask(Question::PcieBandwidth, &mut none, "PCIe", |chip| {
            dcmi.pcie_bandwidth(chip, PCIE_PERIOD_MILLISECONDS)
        });
        self.pcie_rates = bandwidth.and_then(|bandwidth| pcie_rates(&bandwidth));
        let (generation, width) = pcie_link(root, self.facts.pci_bdf.as_deref(), "current");
        if let Some(slow) = &mut self.slow {
            (slow.pcie_generation, slow.pcie_width) = (generation, width);
        }
    }

    /// What changes slowly.
    fn look_slowly(&mut self, dcmi: &Dcmi, trouble: &mut Trouble<Code>) {
        let before = self.slow.take().unwrap_or_default();
        let voltage = self.ask(Question::Voltage, trouble, "voltage", |chip| dcmi.voltage(chip)).and_then(volts);
        let network = self.ask(Question::NetworkHealth, trouble, "network", |chip| dcmi.network_health(chip));
        let mut ecc = |question, which| {
            let info = self.ask(question, trouble, "ECC", |chip| dcmi.ecc(chip, which));
            info.filter(|info: &EccInfo| info.is_enabled != 0)
        };
        let hbm = ecc(Question::EccHbm, Memory::Hbm);
        let ecc_sram = ecc(Question::EccSram, Memory::Sram);
        let ecc = hbm.or_else(|| ecc(Question::EccDdr, Memory::Ddr));
        let lanes = self.ask(Question::HccsLanes, trouble, "links", |chip| dcmi.hccs_lanes(chip));
        let numbers = self.ask(Question::Partitions, trouble, "partitions", |chip| dcmi.partitions(chip));
        let is_cut = numbers.as_ref().map(|numbers| !numbers.is_empty());
        if is_cut != before.is_cut {
            // Cut chips refuse much that whole ones tell.
            self.refused = Refused::default();
        }
        self.look_for_partitions(dcmi, numbers.unwrap_or_default());
        self.slow = Some(Slow {
            voltage,
            network: network.and_then(network_health),
            ecc,
            ecc_sram,
            links: lanes.and_then(|found| links(found.ports, &found.lanes)),
            is_cut,
            ..before
        });
    }

    fn look_for_partitions(&mut self, dcmi: &Dcmi, numbers: Vec<u32>) {
        let uuid = &self.facts.uuid;
        self.partitions.clear();
        for number in numbers.into_iter().take(MAX_PARTITIONS) {
            if self.partitions.iter().any(|partition| partition.number == number) {
                continue;
            }
            let info = dcmi.partition(self.chip, number).ok();
            self.partitions.push(Partition {
                number,
                uuid: format!("{uuid}-{number}"),
                cores: info.as_ref().and_then(|info| whole_cores(info.aicores)),
                memory: info.as_ref().and_then(|info| mebibytes(info.memory)),
                template: info.and_then(|info| info.template),
            });
        }
    }

    /// The row of the whole chip, then those of its partitions and of the processes on it; false when it is lost.
    fn sample(&mut self, dcmi: &Dcmi, tick: &Tick, slow: bool, window: &mut Window, out: &mut Readings) -> bool {
        let mut trouble = Trouble::default();
        let loads = self.loads(dcmi, &mut trouble);
        let temperature = self.ask(Question::Temperature, &mut trouble, "temperature", |chip| dcmi.temperature(chip));
        let power = self.ask(Question::Power, &mut trouble, "power", |chip| dcmi.power(chip)).and_then(watts);
        let memory = self.memory(dcmi, &mut trouble);
        let health = self.ask(Question::Health, &mut trouble, "health", |chip| dcmi.health(chip));
        if trouble.is_loss() {
            return false;
        }
        if slow || self.slow.is_none() {
            self.look_slowly(dcmi, &mut trouble);
        }
        self.compare_codes(dcmi, tick, &mut trouble, out);
        let clock = self.ask(Question::Clock, &mut trouble, "clock", |chip| dcmi.clock(chip, Clock::AiCore));
        let media = self.ask(Question::Media, &mut trouble, "load", |chip| dcmi.media_loads(chip));
        let counters = self.ask(Question::HccsCounters, &mut trouble, "links", |chip| dcmi.hccs_counters(chip));
        let processes = self.list_processes(dcmi, &mut trouble);
        window.look(&self.facts.uuid, loads.utilization(), power);

        let facts = &self.facts;
        let mut row = out.device(&facts.uuid);
        self.fill_facts(&mut row);
        row.int("cores", facts.cores)
            .int("core_clock_max_hertz", facts.core_clock_max)
            .int("pcie_generation_max", facts.pcie_generation_max)
            .int("pcie_width_max", facts.pcie_width_max)
            .float("power_limit_watts", facts.power_limit)
            .float("slowdown_temperature_celsius", facts.thresholds.map(|(slowdown, _)| slowdown))
            .float("shutdown_temperature_celsius", facts.thresholds.map(|(_, shutdown)| shutdown))
            .float("utilization_ratio", loads.utilization())
            .float("core_active_ratio", loads.aicore)
            .float("vector_utilization_ratio", loads.vector)
            .float("tensor_active_ratio", loads.cube)
            .float("power_watts", power)
            .float("temperature_celsius", temperature.and_then(celsius))
            .int("core_clock_hertz", clock.and_then(hertz))
            .text("health", health.and_then(health_text))
            .int("last_error_code", self.last_code.map(i64::from))
            .int("processes", processes);
        window.fill(&facts.uuid, &mut row);
        fill_memory(&memory, &mut row);
        if let Some(media) = media {
            let jpeg = [media.jpeg_decoder, media.jpeg_encoder].into_iter().filter_map(signed_ratio).reduce(f64::max);
            row.float("encoder_utilization_ratio", signed_ratio(media.video_encoder))
                .float("decoder_utilization_ratio", signed_ratio(media.video_decoder))
                .float("jpeg_utilization_ratio", jpeg);
        }
        row.float("pcie_transmitted_bytes_per_second", self.pcie_rates.map(|(sent, _)| sent))
            .float("pcie_received_bytes_per_second", self.pcie_rates.map(|(_, received)| received));
        if let Some(counters) = &counters {
            fill_counters(counters, &mut row);
        }
        if let Some(slow) = &self.slow {
            slow.fill(&mut row);
        }
        row.text("error", trouble.text(Code::describe).as_deref());
        for process in self.processes.iter().filter_map(|process| on_device(&facts.uuid, process)) {
            out.process(&process);
        }
        self.sample_partitions(dcmi, out);
        true
    }

    /// What chip and partitions have in common.
    fn fill_facts(&self, row: &mut Row<'_>) {
        let facts = &self.facts;
        row.int("index", facts.index.map(i64::from))
            .text("model", facts.model.as_deref())
            .text("serial", self.serial.as_ref().and_then(Option::as_deref))
            .text("pci_bdf", facts.pci_bdf.as_deref())
            .text("device_file", facts.device_file.as_deref())
            .text("driver_version", facts.driver.as_deref())
            .int("numa_node", facts.numa_node);
    }

    /// Errors that stand now and did not at the tick before are events.
    fn compare_codes(&mut self, dcmi: &Dcmi, tick: &Tick, trouble: &mut Trouble<Code>, out: &mut Readings) {
        let mut now = std::mem::take(&mut self.codes_now);
        let answer = self.ask(Question::ErrorCodes, trouble, "errors", |chip| dcmi.error_codes(chip, &mut now));
        if answer.is_none() {
            self.codes_now = now;
            return;
        }
        let new = match &self.codes {
            Some(before) => appeared(before, &now),
            None => Vec::new(),
        };
        self.last_code = new.last().copied().or(self.last_code).or_else(|| now.last().copied());
        for code in new.into_iter().take(MAX_EVENTS) {
            let message = match dcmi.error_text(self.chip, code) {
                Ok(text) => format!("error {code:#010x}: {text}"),
                Err(_) => format!("error {code:#010x}"),
            };
            out.event(&Event {
                at_micros: tick.ts_micros,
                device: Some(self.facts.uuid.clone()),
                pci_bdf: self.facts.pci_bdf.clone(),
                kind: "fault",
                source: LIBRARY,
                code: Some(i64::from(code)),
                message,
                pid: None,
            });
        }
        self.codes_now = self.codes.replace(now).unwrap_or_default();
    }

    /// Processes on the chip, and how many they are.
    fn list_processes(&mut self, dcmi: &Dcmi, trouble: &mut Trouble<Code>) -> Option<i64> {
        let mut processes = std::mem::take(&mut self.processes);
        let answer = self.ask(Question::Processes, trouble, "processes", |chip| dcmi.processes(chip, &mut processes));
        if answer.is_none() {
            processes.clear();
        }
        self.processes = processes;
        answer?;
        i64::try_from(self.processes.iter().filter(|process| process.pid > 0).count()).ok()
    }

    fn sample_partitions(&mut self, dcmi: &Dcmi, out: &mut Readings) {
        for at in 0..self.partitions.len() {
            let Some(number) = self.partitions.get(at).map(|partition| partition.number) else { return };
            let activity = self.ask(Question::Activity, &mut Trouble::default(), "partitions", |chip| {
                dcmi.partition_activity(chip, number)
            });
            let Some(partition) = self.partitions.get(at) else { return };
            let mut row = out.device(&partition.uuid);
            self.fill_facts(&mut row);
            row.text("parent", self.facts.uuid.as_str())
                .text("partition_type", "vnpu")
                .text("partition_id", partition.number.to_string().as_str())
                .text("partition_profile", partition.template.as_deref())
                .int("cores", partition.cores);
            let (total, free) = activity.map_or((None, None), |activity| partition_memory(&activity));
            row.float("utilization_ratio", activity.and_then(|activity| ratio(activity.load)))
                .count("memory_total_bytes", total.or(partition.memory))
                .count("memory_used_bytes", difference(total, free))
                .count("memory_free_bytes", free);
        }
    }
}

impl Slow {
    fn fill(&self, row: &mut Row<'_>) {
        let count = |info: &Option<EccInfo>, of: fn(&EccInfo) -> u32| {
            info.as_ref().map(of).filter(|number| known(*number)).map(i64::from)
        };
        row.float("voltage_volts", self.voltage)
            .bool("mig_enabled", self.is_cut)
            .int("ecc_corrected_volatile", count(&self.ecc, |info| info.single_bit))
            .int("ecc_uncorrected_volatile", count(&self.ecc, |info| info.double_bit))
            .int("ecc_corrected_aggregate", count(&self.ecc, |info| info.single_bit_total))
            .int("ecc_uncorrected_aggregate", count(&self.ecc, |info| info.double_bit_total))
            .int("ecc_corrected_dram", count(&self.ecc, |info| info.single_bit_total))
            .int("ecc_uncorrected_dram", count(&self.ecc, |info| info.double_bit_total))
            .int("ecc_corrected_sram", count(&self.ecc_sram, |info| info.single_bit_total))
            .int("ecc_uncorrected_sram", count(&self.ecc_sram, |info| info.double_bit_total))
            .int("retired_pages_corrected", count(&self.ecc, |info| info.single_bit_pages))
            .int("retired_pages_uncorrected", count(&self.ecc, |info| info.double_bit_pages))
            .text("network_health", self.network)
            .int("links", self.links.map(|(links, _)| links))
            .int("links_active", self.links.map(|(_, active)| active))
            .int("pcie_generation", self.pcie_generation)
            .int("pcie_width", self.pcie_width);
    }
}

fn fill_memory(memory: &MemoryState, row: &mut Row<'_>) {
    row.count("memory_total_bytes", memory.total)
        .count("memory_used_bytes", memory.used)
        .count("memory_free_bytes", memory.free)
        .int("memory_clock_hertz", memory.clock)
        .float("memory_temperature_celsius", memory.temperature)
        .float("memory_utilization_ratio", memory.utilization);
}

/// Counters of all links together.
fn fill_counters(counters: &HccsCounters, row: &mut Row<'_>) {
    row.count("link_transmitted_bytes", sum(&counters.sent).and_then(|pieces| pieces.checked_mul(HCCS_PIECE)))
        .count("link_received_bytes", sum(&counters.received).and_then(|pieces| pieces.checked_mul(HCCS_PIECE)))
        .count("link_crc_errors", sum(&counters.crc_errors))
        .count("link_replays", sum(&counters.retries));
}

/// A sum that lacks one of its parts would be a counter that goes back.
fn sum(counts: &[u64]) -> Option<u64> {
    counts.iter().try_fold(0u64, |sum, count| sum.checked_add((*count != u64::MAX).then_some(*count)?))
}

fn on_device<'d>(device: &'d str, process: &ProcessInfo) -> Option<OnDevice<'d>> {
    Some(OnDevice {
        device,
        pid: u32::try_from(process.pid).ok().filter(|pid| *pid > 0)?,
        work: Some("compute"),
        memory_used_bytes: Some(process.memory).filter(|bytes| *bytes < MAX_BYTES),
        ..OnDevice::default()
    })
}

/// Codes that are there now and were not before, each once.
fn appeared(before: &[u32], now: &[u32]) -> Vec<u32> {
    let mut new = Vec::new();
    for code in now.iter().filter(|code| !before.contains(code)) {
        if !new.contains(code) {
            new.push(*code);
        }
    }
    new
}

/// The five words of a die's number, as the vendor's own exporter writes them; nothing where all are zero or all bits
/// set.
fn die_text(words: [u32; 5]) -> Option<String> {
    if words.iter().all(|word| *word == 0) || words.iter().all(|word| *word == u32::MAX) {
        return None;
    }
    Some(words.map(|word| format!("{word:08X}")).join("-"))
}

fn pci_bdf(domain: i32, bus: u32, device: u32, function: u32) -> Option<String> {
    let domain = u32::try_from(domain).ok()?;
    // A chip within the processor itself (SoC) has none, and says zero.
    let is_there = (domain, bus, device, function) != (0, 0, 0, 0);
    let fits = bus <= 0xff && device <= 0x1f && function <= 7;
    (is_there && fits).then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
}

fn pci_file(root: &HostRoot, pci_bdf: Option<&str>, name: &str) -> Option<String> {
    std::fs::read_to_string(root.sys(format!("bus/pci/devices/{}/{name}", pci_bdf?))).ok()
}

/// Generation and width of the link, `current` or `max`: the library does not tell them, the bus does.
fn pcie_link(root: &HostRoot, pci_bdf: Option<&str>, which: &str) -> (Option<i64>, Option<i64>) {
    let speed = pci_file(root, pci_bdf, &format!("{which}_link_speed"));
    let width = pci_file(root, pci_bdf, &format!("{which}_link_width"));
    let width = width.and_then(|text| first_word::<u32>(&text)).filter(|lanes| (1..=32).contains(lanes));
    (speed.and_then(|text| pcie_generation(&text)), width.map(i64::from))
}

/// `16.0 GT/s PCIe` is generation 4.
fn pcie_generation(speed: &str) -> Option<i64> {
    let speeds = ["2.5", "5.0", "8.0", "16.0", "32.0", "64.0"];
    let word = speed.split_whitespace().next()?;
    let at = speeds.iter().position(|speed| *speed == word || speed.strip_suffix(".0") == Some(word))?;
    i64::try_from(at + 1).ok()
}

/// `Ascend910B3`. The parts of a name come in several ways.
fn model(name: &ChipName) -> Option<String> {
    let kind = name.kind.as_deref().unwrap_or("Ascend");
    let chip = name.name.as_deref()?;
    let begun = chip.to_lowercase().starts_with(&kind.to_lowercase());
    let chip = if begun { chip.to_owned() } else { format!("{kind}{chip}") };
    match name.npu.as_deref() {
        Some(npu) if !chip.contains(npu) => Some(format!("{chip}_{npu}")),
        _ => Some(chip),
    }
}

/// Ports of HCCS, and those that are up.
fn links(ports: u32, lanes: &[u32]) -> Option<(i64, i64)> {
    if ports == 0 || !known(ports) {
        return None;
    }
    let ports = ports.count_ones().min(u32::try_from(lanes.len()).unwrap_or(0));
    // Up, and with a width.
    let is_up = |lane: &&u32| **lane & 1 != 0 && (**lane >> 9) & 3 != 0;
    let active = lanes.iter().take(ports as usize).filter(is_up).count();
    Some((i64::from(ports), i64::try_from(active).ok()?))
}

/// Writes, and answers to what the other side reads, in each direction: requests carry no data. Of each the mean, in
/// MiB per millisecond, which is coarse.
fn pcie_rates(bandwidth: &PcieBandwidth) -> Option<(f64, f64)> {
    let rate = |writes: [u32; 3], answers: [u32; 3]| {
        let ([.., writes], [.., answers]) = (writes, answers);
        // No link carries ten terabytes a second.
        (writes < 10_000 && answers < 10_000).then(|| f64::from(writes + answers) * 1_048_576.0 * 1000.0)
    };
    Some((
        rate(bandwidth.sent_writes, bandwidth.sent_answers)?,
        rate(bandwidth.received_writes, bandwidth.received_answers)?,
    ))
}

fn health_text(health: u32) -> Option<&'static str> {
    match health {
        0 => Some("ok"),
        1 => Some("warning"),
        2 | 3 => Some("failed"),
        _ => None,
    }
}

fn network_health(result: u32) -> Option<&'static str> {
    let results = [
        "ok",
        "socket_failed",
        "receive_timeout",
        "unreachable",
        "time_exceeded",
        "fault",
        "starting",
        "thread_failed",
        "no_address",
    ];
    results.get(result as usize).copied()
}

fn known(number: u32) -> bool {
    number != u32::MAX
}

/// Per cent as a share of one.
fn ratio(percent: u32) -> Option<f64> {
    (percent <= 100).then(|| f64::from(percent) / 100.0)
}

fn signed_ratio(percent: i32) -> Option<f64> {
    u32::try_from(percent).ok().and_then(ratio)
}

/// What the driver says for a number it does not have (0x7ffd to 0x7fff), as other numbers.
const NOT_KNOWN: std::ops::RangeInclusive<u32> = 0x7ffd..=0x7fff;

/// Tenths of a watt as watts. No chip draws three kilowatts.
fn watts(tenths: i32) -> Option<f64> {
    let tenths = u32::try_from(tenths).ok().filter(|tenths| !NOT_KNOWN.contains(tenths) && *tenths < 30_000)?;
    Some(f64::from(tenths) / 10.0)
}

/// Milliwatts as watts, within what cards are made for: older drivers tell other things here.
fn rated_watts(milliwatts: u32) -> Option<f64> {
    (20_000..=3_000_000).contains(&milliwatts).then(|| f64::from(milliwatts) / 1e3)
}

/// Hundredths of a volt as volts.
fn volts(hundredths: u32) -> Option<f64> {
    (!NOT_KNOWN.contains(&hundredths) && hundredths < 100_000).then(|| f64::from(hundredths) / 100.0)
}

fn celsius(degrees: i32) -> Option<f64> {
    (-100..200).contains(&degrees).then(|| f64::from(degrees))
}

/// Temperatures at which a chip slows down and switches off: the lower and the higher of two.
fn thresholds([first, second]: [u8; 2]) -> Option<(f64, f64)> {
    let (low, high) = (first.min(second), first.max(second));
    (low >= 40 && high < 200).then(|| (f64::from(low), f64::from(high)))
}

/// Megahertz as hertz. No clock has a hundred gigahertz, and none that runs has zero.
fn hertz(megahertz: u32) -> Option<i64> {
    (!NOT_KNOWN.contains(&megahertz) && (1..100_000).contains(&megahertz)).then(|| i64::from(megahertz) * 1_000_000)
}

/// More bytes than any memory has.
const MAX_BYTES: u64 = 1 << 50;

/// A size in MiB; none has zero.
fn mebibytes(size: u64) -> Option<u64> {
    mebibytes_or_none(size).filter(|bytes| *bytes > 0)
}

fn mebibytes_or_none(size: u64) -> Option<u64> {
    size.checked_mul(1 << 20).filter(|bytes| *bytes < MAX_BYTES)
}

fn difference(total: Option<u64>, part: Option<u64>) -> Option<u64> {
    total?.checked_sub(part?)
}

/// Total and free memory of a partition.
fn partition_memory(activity: &Activity) -> (Option<u64>, Option<u64>) {
    let bytes = |kibibytes: u64| kibibytes.checked_mul(1024).filter(|bytes| *bytes < MAX_BYTES);
    let total = bytes(activity.memory_total).filter(|bytes| *bytes > 0);
    (total, bytes(activity.memory_free).filter(|free| total.is_some_and(|total| *free <= total)))
}

/// AI cores of a partition, where they are whole.
fn whole_cores(cores: f32) -> Option<i64> {
    // In range, so nothing is cut off.
    #[allow(clippy::cast_possible_truncation)]
    ((1.0..1000.0).contains(&cores) && cores.fract() == 0.0).then_some(cores as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_stands_for_not_known_is_null() {
        assert_eq!((ratio(0), ratio(37), ratio(101), ratio(u32::MAX)), (Some(0.0), Some(0.37), None, None));
        assert_eq!((watts(3123), watts(-1), watts(0x7fff), watts(i32::MAX)), (Some(312.3), None, None, None));
        assert_eq!((volts(78), volts(0x7ffd), volts(u32::MAX)), (Some(0.78), None, None));
        assert_eq!((celsius(-5), celsius(0x7ffd), celsius(-275)), (Some(-5.0), None, None));
        assert_eq!((hertz(1800), hertz(0), hertz(u32::MAX)), (Some(1_800_000_000), None, None));
        assert_eq!((mebibytes(65_536), mebibytes(0), mebibytes(u64::MAX)), (Some(64 << 30), None, None));
        assert_eq!((rated_watts(350_000), rated_watts(350), rated_watts(u32::MAX)), (Some(350.0), None, None));
        assert_eq!((health_text(3), health_text(u32::MAX)), (Some("failed"), None));
        assert_eq!((network_health(3), network_health(0xff)), (Some("unreachable"), None));
        assert_eq!(thresholds([105, 115]), thresholds([115, 105]));
        assert_eq!((thresholds([105, 115]), thresholds([0, 0])), (Some((105.0, 115.0)), None));
        assert_eq!((whole_cores(4.0), whole_cores(0.5), whole_cores(f32::NAN)), (Some(4), None, None));
        assert_eq!((sum(&[1, 2]), sum(&[1, u64::MAX])), (Some(3), None));
    }

    #[test]
    fn a_die_has_a_number_or_none() {
        let words = [0x1234_ABCD, 0x20, 0, 0xF, 0x8000_0000];
        assert_eq!(die_text(words).as_deref(), Some("1234ABCD-00000020-00000000-0000000F-80000000"));
        assert_eq!((die_text([0; 5]), die_text([u32::MAX; 5])), (None, None));
    }

    #[test]
    fn names_are_put_together() {
        let name = |kind: &str, name: &str, npu: Option<&str>| ChipName {
            kind: Some(kind.to_owned()),
            name: Some(name.to_owned()),
            npu: npu.map(str::to_owned),
            aicores: 0,
        };
        assert_eq!(model(&name("Ascend", "910B3", None)).as_deref(), Some("Ascend910B3"));
        assert_eq!(model(&name("Ascend", "910B3", Some("910B3"))).as_deref(), Some("Ascend910B3"));
        assert_eq!(model(&name("Ascend", "Ascend910", Some("9382"))).as_deref(), Some("Ascend910_9382"));
        assert_eq!(model(&ChipName { kind: None, name: None, npu: None, aicores: 0 }), None);
    }

    #[test]
    fn links_are_counted() {
        // Three ports, of which the second is down and the third has no width yet.
        assert_eq!(links(0b1110, &[1 | 2 << 9, 2 << 9, 1, 0]), Some((3, 1)));
        assert_eq!((links(0, &[0; 16]), links(u32::MAX, &[0; 16])), (None, None));
    }

    #[test]
    fn addresses_and_speeds_are_as_the_bus_has_them() {
        assert_eq!(pci_bdf(0, 0xc1, 0, 0).as_deref(), Some("0000:c1:00.0"));
        assert_eq!((pci_bdf(0, 0, 0, 0), pci_bdf(-1, 1, 0, 0), pci_bdf(0, 0x100, 0, 0)), (None, None, None));
        assert_eq!(pcie_generation("16.0 GT/s PCIe\n"), Some(4));
        assert_eq!((pcie_generation("2.5 GT/s"), pcie_generation("32 GT/s")), (Some(1), Some(5)));
        assert_eq!((pcie_generation("Unknown"), pcie_generation("")), (None, None));
    }

    #[test]
    fn new_codes_are_news() {
        assert_eq!(appeared(&[1, 2], &[2, 3, 3, 4]), [3, 4]);
        assert!(appeared(&[1], &[]).is_empty());
    }

    proptest! {
        #[test]
        fn no_number_or_name_brings_it_down(
            number in any::<u32>(),
            signed in any::<i32>(),
            wide in any::<u64>(),
            words in any::<[u32; 5]>(),
            lanes in any::<[u32; 16]>(),
            cores in any::<f32>(),
            text in any::<String>(),
            codes in prop::collection::vec(0u32..8, 0..40),
        ) {
            prop_assert!(ratio(number).is_none_or(|share| (0.0..=1.0).contains(&share)));
            signed_ratio(signed);
            watts(signed);
            rated_watts(number);
            volts(number);
            celsius(signed);
            hertz(number);
            mebibytes(wide);
            whole_cores(cores);
            die_text(words);
            health_text(number);
            network_health(number);
            pcie_generation(&text);
            links(number, &lanes);
            partition_memory(&Activity { load: number, memory_total: wide, memory_free: !wide });
            model(&ChipName { kind: Some(text.clone()), name: Some(text.clone()), npu: Some(text), aicores: number });
            pci_bdf(signed, number, number, number);
            prop_assert!(appeared(&codes[..codes.len() / 2], &codes).len() <= 8);
            sum(&[wide, wide, 1]);
        }
    }
}
