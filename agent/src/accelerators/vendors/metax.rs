//! MetaX's cards (C500 and its kin, and the older N100), through MXSML.
//!
//! A card may be cut in two ways. *sGPUs* are shares of one card that the driver keeps to their quota of memory and
//! time: rows with their own load and memory, and the processes on them. *Virtual functions* (SR-IOV) are devices of
//! their own; the physical function behind them has the board's power and temperature and runs nothing. Inside a
//! virtual machine or container a virtual function is all there is, and its row is that of a card.
//!
//! Some modules have several chips on a card. A card is one row: the load is the mean of its chips', memory and errors
//! are their sums, temperature is that of the hottest.
//!
//! The chip's temperature is that of its hottest point; there is no other. What the board draws is the sum of its
//! supplies, two or three. Counts of ECC errors are those the library calls total; whether a restart clears them it does
//! not say.
//!
//! Most answers are files that the driver makes up when they are read, so little is asked each second. Traffic over PCIe
//! and the list of processes may be slow: where an answer takes long, it is asked for every ten seconds only.

use std::time::{Duration, Instant};

use nodescope_model::rows::Row;

use super::VendorOptions;
use super::common::{
    Asking, MAX_CARDS, Obstacle, Reader, Source, celsius, megahertz, milliwatts, numa_node, pci_address, share, small,
};
use crate::abi::OpenError;
use crate::abi::mxsml::{
    Clock, Code, EccErrors, Info, LinkError, List, Mode, Mxsml, Part, Place, Process, Sensor, Sgpu, Version, Way, port,
};
use crate::accelerators::readings::{Event, OnDevice, Readings};
use crate::accelerators::window::Window;
use crate::host_root::HostRoot;
use crate::probe::Tick;

const CANDIDATES: &[&str] =
    &["libmxsml.so", "/opt/mxdriver/lib/libmxsml.so", "/opt/maca/lib/libmxsml.so", "/opt/mxn100/lib/libmxsml.so"];

/// Number of the first physical function.
const PHYSICAL: u32 = 100;

/// Chips of a card looked at.
const MAX_DIES: u32 = 8;

/// An answer that takes longer than this is not asked for each second.
const LONG: Duration = Duration::from_millis(5);

/// Names of the reasons for lower clocks.
const REASONS: &[(u64, &str)] = &[
    (0x1, "idle"),
    (0x2, "applications_clocks"),
    (0x4, "power_cap"),
    (0x8, "chip_thermal"),
    (0x10, "regulator_thermal"),
    (0x20, "memory_thermal"),
    (0x40, "thermal"),
    (0x80, "peak_current"),
    (0x100, "power_brake"),
    (0x200, "di_dt"),
    (0x400, "low_usage"),
    (0x8000_0800, "other"),
];

/// Reads MetaX's cards.
pub(crate) type Metax = Reader<Library>;

/// The library, as it is open.
pub(crate) struct Library {
    mxsml: Mxsml,
    root: HostRoot,
    /// Room for lists of processes.
    buffer: Vec<u64>,
}

/// A card, or a virtual function of one.
pub(crate) struct Card {
    number: u32,
    identity: String,
    facts: Facts,
    /// The whole card, or each of its dies.
    places: Vec<Place>,
    asking: Asking<Code>,
    has_slow: bool,
    slow: Slow,
    sgpus: Vec<Sgpu>,
    processes: Vec<Process>,
    has_long_throughput: bool,
    has_long_processes: bool,
    /// What stood against its use at the last look, so that it is told once.
    reason: Option<i32>,
}

/// What does not change about a card.
struct Facts {
    is_n: bool,
    mode: Mode,
    /// For a virtual function, the physical one's identity and its number among its kin.
    parent: Option<(String, String)>,
    model: Option<String>,
    serial: Option<String>,
    pci_bdf: Option<String>,
    driver: Option<String>,
    firmware: Option<String>,
    numa_node: Option<i64>,
    core_clock_max: Option<i64>,
    pcie_max: (Option<i64>, Option<i64>),
    temperature_limit: Option<f64>,
}

/// What changes slowly.
#[derive(Default)]
struct Slow {
    power_limit: Option<f64>,
    pcie: (Option<i64>, Option<i64>),
    pcie_replays: Option<u64>,
    ecc: Option<[u64; 5]>,
    links: Option<(i64, i64)>,
    link_errors: [Option<u64>; 3],
}

impl Source for Library {
    const LIBRARY: &'static str = "MXSML";

    type Card = Card;

    fn open(options: &VendorOptions) -> Result<Self, OpenError> {
        let mxsml = Mxsml::open(options.library(), CANDIDATES)?;
        Ok(Self { mxsml, root: options.root.clone(), buffer: Vec::new() })
    }

    fn initialize(&mut self) -> Result<(), Obstacle> {
        self.mxsml.initialize().map_err(|code| self.obstacle(code))
    }

    /// The library has nothing of the kind: it is initialised again instead.
    fn shut_down(&mut self, _cards: Vec<Card>) {}

    fn cards(&mut self, known: Vec<Card>, trouble: &mut Option<String>) -> Result<Vec<Card>, Obstacle> {
        let count = self.mxsml.count().map_err(|code| self.obstacle(code))?.min(MAX_CARDS);
        let physical = self.mxsml.physical_count().min(MAX_CARDS);
        let (mut known, mut cards) = (known, Vec::<Card>::new());
        let mut parents: Vec<(u32, String, String)> = Vec::new();
        // Physical functions first: they tell whose the virtual ones are.
        for number in (PHYSICAL..PHYSICAL + physical).chain(0..count) {
            let info = match self.mxsml.info(number) {
                Ok(info) => info,
                // A card this user may not see is no trouble.
                Err(code) if code.is_absence() && code != Code::MISSING => continue,
                Err(code) => {
                    trouble.get_or_insert_with(|| format!("card {number}: {}", self.mxsml.describe(code)));
                    continue;
                }
            };
            let serial = self.mxsml.serial(number).ok();
            let address = info.bdf.as_deref().and_then(pci_address);
            let Some(identity) = info.uuid.clone().or(serial.clone()).or(address) else {
                trouble.get_or_insert_with(|| format!("card {number} has no identity"));
                continue;
            };
            if cards.iter().any(|card| card.identity == identity) {
                continue;
            }
            if number >= PHYSICAL {
                let slices = self.mxsml.virtual_devices(number).unwrap_or_default();
                let slices = slices.into_iter().zip(0u32..);
                parents.extend(slices.map(|(slice, at)| (slice, identity.clone(), at.to_string())));
            }
            let parent = parents.iter().find(|(slice, ..)| *slice == number && number < PHYSICAL);
            let parent = parent.map(|(_, parent, at)| (parent.clone(), at.clone()));
            let facts = self.facts(number, &info, serial, parent);
            let places = self.places(number);
            let mut card = match known.iter().position(|card| card.number == number && card.identity == identity) {
                Some(at) => Card { facts, places, ..known.swap_remove(at) },
                None => Card::new(number, identity, facts, places),
            };
            card.asking.forget();
            cards.push(card);
        }
        // As the library counts them: native and virtual ones, then physical ones.
        cards.sort_by_key(|card| card.number);
        Ok(cards)
    }

    fn sample(&mut self, card: &mut Card, tick: &Tick, slow: bool, window: &mut Window, out: &mut Readings) -> bool {
        card.asking.begin();
        let number = card.number;
        let is_there = card.asking.ask("state", || self.mxsml.is_available(number));
        if is_there == Some(false) || card.asking.is_loss() {
            return false;
        }
        let slow = slow || !std::mem::replace(&mut card.has_slow, true);
        if slow {
            self.look_slowly(card, tick, out);
        }
        let load = self.load(card);
        let power = card.asking.ask("power", || self.mxsml.supplies(number)).as_ref().and_then(power);
        if card.asking.is_loss() {
            return false;
        }
        window.look(&card.identity, load, power);
        if slow || !card.has_long_processes {
            self.list_processes(card);
        }
        self.fill(card, load, power, slow, window, out);
        self.sample_sgpus(card, out);
        for process in &card.processes {
            let device = match process.sgpu.and_then(|id| card.sgpus.iter().find(|sgpu| sgpu.id == id)) {
                Some(sgpu) => sgpu_identity(&card.identity, sgpu),
                None => card.identity.clone(),
            };
            out.process(&OnDevice {
                device: &device,
                pid: process.pid,
                work: Some("compute"),
                memory_used_bytes: process.memory,
                ..OnDevice::default()
            });
        }
        true
    }

    fn glance(&mut self, card: &Card, window: &mut Window) {
        let part = card.cores();
        let mut sum = Some(0.0);
        for place in &card.places {
            let load = self.mxsml.usage(*place, part).ok().and_then(|percent| share(f64::from(percent)));
            sum = sum.zip(load).map(|(sum, load)| sum + load);
        }
        let power = self.mxsml.supplies(card.number).ok().as_ref().and_then(power);
        window.look(&card.identity, sum.map(|sum| sum / card.dies()), power);
    }
}

impl Library {
    fn obstacle(&self, code: Code) -> Obstacle {
        match code {
            code if code.is_no_device() => Obstacle::Absent("the driver shows no card".to_owned()),
            Code::MISSING => Obstacle::Driver(format!("{} lacks functions", self.mxsml.path().display())),
            code => Obstacle::Driver(self.mxsml.describe(code)),
        }
    }

    fn facts(&self, number: u32, info: &Info, serial: Option<String>, parent: Option<(String, String)>) -> Facts {
        let mxsml = &self.mxsml;
        let is_n = info.brand == 1;
        let pci_bdf = info.bdf.as_deref().and_then(pci_address);
        let limit = mxsml.temperature(Place { device: number, die: None }, Sensor::Limit).ok();
        Facts {
            is_n,
            mode: info.mode,
            parent,
            model: info.name.clone(),
            serial,
            numa_node: numa_node(&self.root, pci_bdf.as_deref()),
            pci_bdf,
            driver: mxsml.version(number, Version::Driver).ok(),
            firmware: mxsml.version(number, Version::Bios).ok(),
            core_clock_max: mxsml.clock_max(number, is_n).ok().and_then(clock),
            pcie_max: mxsml.pcie_max(number).map_or((None, None), |link| (generation(link.speed), small(link.width))),
            temperature_limit: limit.and_then(hundredths),
        }
    }

    fn places(&self, device: u32) -> Vec<Place> {
        match self.mxsml.dies(device) {
            Ok(dies) if dies > 1 => (0..dies.min(MAX_DIES)).map(|die| Place { device, die: Some(die) }).collect(),
            _ => vec![Place { device, die: None }],
        }
    }

    /// Mean load of the cores of its dies.
    fn load(&self, card: &mut Card) -> Option<f64> {
        let part = card.cores();
        let dies = card.dies();
        card.of_dies("load", |place| self.mxsml.usage(place, part), percent, |a, b| a + b).map(|sum| sum / dies)
    }

    fn look_slowly(&mut self, card: &mut Card, tick: &Tick, out: &mut Readings) {
        let mxsml = &self.mxsml;
        let number = card.number;
        let asking = &mut card.asking;
        let limit = asking.ask("power limit", || mxsml.power_limit(number));
        let pcie = asking.ask("PCIe", || mxsml.pcie(number));
        let replays = asking.ask("PCIe errors", || mxsml.pcie_replays(number));
        let links = match asking.ask("links", || mxsml.ports(number)) {
            Some(ports) => used_ports(&ports),
            None => asking.ask("links by speed", || mxsml.links(number)).and_then(|links| {
                let up = links.iter().filter(|link| link.width > 0 && link.speed > 0.0).count();
                count_pair(links.len(), up)
            }),
        };
        let mut errors = |what, which| asking.ask(what, || mxsml.link_errors(number, which)).and_then(|e| sum(&e));
        let link_errors = [
            errors("link CRC errors", LinkError::Crc),
            errors("link replays", LinkError::Replay),
            errors("link recoveries", LinkError::Recovery),
        ];
        let ecc = card.of_dies(
            "ECC",
            |place| mxsml.ecc(place),
            ecc,
            |a, b| std::array::from_fn(|at| a[at].saturating_add(b[at])),
        );
        card.slow = Slow {
            power_limit: limit.map(f64::from).and_then(milliwatts),
            pcie: pcie.map_or((None, None), |link| (generation(link.speed), small(link.width))),
            pcie_replays: replays.filter(|replays| *replays != u64::MAX),
            ecc,
            links,
            link_errors,
        };
        card.sgpus = mxsml.sgpus(number);
        Self::look_for_reason(mxsml, card, tick, out);
    }

    /// What stands against the card's use is an event when it comes.
    fn look_for_reason(mxsml: &Mxsml, card: &mut Card, tick: &Tick, out: &mut Readings) {
        let mut worst = None;
        for place in card.places.clone() {
            let Some((code, text)) = card.asking.ask("reason", || mxsml.reason(place)) else { continue };
            if worst.as_ref().is_none_or(|(known, _)| *known == 0) {
                worst = Some((code, text));
            }
        }
        let before = std::mem::replace(&mut card.reason, worst.as_ref().map(|(code, _)| *code));
        if let Some((code, text)) = worst.filter(|(code, _)| *code != 0 && before != Some(*code)) {
            out.event(&Event {
                at_micros: tick.ts_micros,
                device: Some(card.identity.clone()),
                pci_bdf: card.facts.pci_bdf.clone(),
                kind: "fault",
                source: Self::LIBRARY,
                code: Some(i64::from(code)),
                message: format!("the card is not available: {}", text.as_deref().unwrap_or("no reason given")),
                pid: None,
            });
        }
    }

    fn list_processes(&mut self, card: &mut Card) {
        let address = card.facts.pci_bdf.clone().unwrap_or_default();
        let (mxsml, buffer, number) = (&self.mxsml, &mut self.buffer, card.number);
        let began = Instant::now();
        let found = card.asking.ask("processes", || mxsml.processes(number, &address, buffer));
        card.has_long_processes = began.elapsed() > LONG;
        card.has_processes(found);
    }

    fn fill(
        &self,
        card: &mut Card,
        load: Option<f64>,
        power: Option<f64>,
        slow: bool,
        window: &mut Window,
        out: &mut Readings,
    ) {
        let mxsml = &self.mxsml;
        let (number, is_n) = (card.number, card.facts.is_n);
        let kibibytes = |value: i64| u64::try_from(value).ok().filter(|value| *value < 1 << 40).map(|v| v * 1024);
        let of_memory = card.of_dies(
            "memory",
            |place| mxsml.memory(place),
            |memory| Some((kibibytes(memory.total).filter(|total| *total > 0)?, kibibytes(memory.used)?)),
            |a, b| (a.0.saturating_add(b.0), a.1.saturating_add(b.1)),
        );
        let mut temperature =
            |what, sensor| card.of_dies(what, |place| mxsml.temperature(place, sensor), hundredths, f64::max);
        let hotspot = temperature("temperature", Sensor::Hotspot);
        let memory_temperature = temperature("memory temperature", Sensor::Memory);
        let dies = card.dies();
        let mut mean = |what, part| {
            card.of_dies(what, |place| mxsml.usage(place, part), percent, |a, b| a + b).map(|sum| sum / dies)
        };
        let encoder = mean("encoder", Part::Encoder);
        let decoder = mean("decoder", Part::Decoder);
        let matrix = mean("matrix units", Part::Matrix);
        let bandwidth = card.of_dies(
            "memory bandwidth",
            |place| mxsml.bandwidth(place),
            |percent| share(f64::from(percent)),
            |a, b| a + b,
        );
        let place = card.places.first().copied().unwrap_or(Place { device: number, die: None });
        let mut frequency = |what, which| card.asking.ask(what, || mxsml.clock(place, which)).and_then(clock);
        let core_clock = frequency("core clock", if is_n { Clock::Dla } else { Clock::Xcore });
        let memory_clock = frequency("memory clock", if is_n { Clock::Memory } else { Clock::Memory0 });
        let video_clock = frequency("video clock", Clock::Decoder);
        let reasons = card.of_dies(
            "throttle reasons",
            |place| mxsml.throttle_reasons(place),
            |mask| (mask != u64::MAX).then_some(mask),
            |a, b| a | b,
        );
        let throughput = (slow || !card.has_long_throughput).then(|| {
            let began = Instant::now();
            let found = card.asking.ask("PCIe traffic", || mxsml.pcie_throughput(number));
            card.has_long_throughput = began.elapsed() > LONG;
            found
        });
        let throughput = throughput.flatten();
        let mut traffic = |what, way| {
            let found = card.asking.ask(what, || mxsml.link_traffic(number, way))?;
            total(found.iter().map(|link| link.requests))
        };
        let traffic = [traffic("received over links", Way::In), traffic("sent over links", Way::Out)];
        let mut rate = |what, way| {
            let found = card.asking.ask(what, || mxsml.link_rates(number, way))?;
            total(found.iter().map(|link| i64::from(link.requests))).and_then(megabytes)
        };
        // Rates are of use only where there is no count.
        let rates = match traffic {
            [Some(_), Some(_)] => [None, None],
            _ => [rate("rate received over links", Way::In), rate("rate sent over links", Way::Out)],
        };

        let mut row = out.device(&card.identity);
        card.facts.fill(&mut row);
        row.int("index", i64::from(number))
            .text("parent", card.facts.parent.as_ref().map(|(parent, _)| parent.as_str()))
            .text("partition_id", card.facts.parent.as_ref().map(|(_, id)| id.as_str()))
            .text("partition_type", card.facts.parent.as_ref().map(|_| "vf"))
            .float("utilization_ratio", load)
            .float("encoder_utilization_ratio", encoder)
            .float("decoder_utilization_ratio", decoder)
            .float("tensor_active_ratio", matrix)
            .float("dram_active_ratio", bandwidth.map(|sum| sum / dies))
            .count("memory_total_bytes", of_memory.map(|(total, _)| total))
            .count("memory_used_bytes", of_memory.map(|(_, used)| used))
            .float("power_watts", power)
            .float("temperature_celsius", hotspot)
            .float("hotspot_temperature_celsius", hotspot)
            .float("memory_temperature_celsius", memory_temperature)
            .int("core_clock_hertz", core_clock)
            .int("memory_clock_hertz", memory_clock)
            .int("video_clock_hertz", video_clock)
            .text("throttle_reasons", reasons.map(self::reasons).as_deref())
            .float("pcie_received_bytes_per_second", throughput.and_then(|t| megabytes(t.received.into())))
            .float("pcie_transmitted_bytes_per_second", throughput.and_then(|t| megabytes(t.transmitted.into())))
            .int("link_received_bytes", traffic[0])
            .int("link_transmitted_bytes", traffic[1])
            .float("link_received_bytes_per_second", rates[0])
            .float("link_transmitted_bytes_per_second", rates[1]);
        window.fill(&card.identity, &mut row);
        card.slow.fill(&mut row);
        let processes = card.process_count();
        // A physical function runs nothing; its slices do.
        row.int("processes", processes.filter(|_| card.facts.mode != Mode::Physical))
            .text("health", card.reason.map(|code| if code == 0 { "ok" } else { "failed" }))
            .int("last_error_code", card.reason.filter(|code| *code != 0).map(i64::from))
            .text("error", card.asking.error(|code| mxsml.describe(code)).as_deref());
    }

    fn sample_sgpus(&self, card: &Card, out: &mut Readings) {
        for sgpu in &card.sgpus {
            let memory = match self.mxsml.sgpu_memory(card.number, sgpu.id) {
                Ok(memory) => Some(memory),
                // It has been given up since it was last looked for.
                Err(code) if code != Code::MISSING => continue,
                Err(_) => None,
            };
            let known = |value: i64| u64::try_from(value).ok();
            let usage = self.mxsml.sgpu_usage(card.number, sgpu.id).ok();
            let processes = card.processes.iter().filter(|process| process.sgpu == Some(sgpu.id)).count();
            let mut row = out.device(&sgpu_identity(&card.identity, sgpu));
            card.facts.fill(&mut row);
            row.int("index", i64::from(card.number))
                .text("parent", card.identity.as_str())
                .text("partition_type", "sgpu")
                .text("partition_id", sgpu.id.to_string().as_str())
                .text("partition_profile", format!("{}%.{}mib", sgpu.compute_quota, sgpu.memory_quota).as_str())
                .float("utilization_ratio", usage.and_then(|usage| share(f64::from(usage) / 100.0)))
                .count("memory_total_bytes", memory.and_then(|memory| known(memory.total)))
                .count("memory_used_bytes", memory.and_then(|memory| known(memory.used)))
                .count("memory_free_bytes", memory.and_then(|memory| known(memory.free)))
                .int("processes", i64::try_from(processes).ok());
        }
    }
}

impl Card {
    fn new(number: u32, identity: String, facts: Facts, places: Vec<Place>) -> Self {
        Self {
            number,
            identity,
            facts,
            places,
            asking: Asking::default(),
            has_slow: false,
            slow: Slow::default(),
            sgpus: Vec::new(),
            processes: Vec::new(),
            has_long_throughput: false,
            has_long_processes: false,
            reason: None,
        }
    }

    /// The part whose load is the card's.
    fn cores(&self) -> Part {
        if self.facts.is_n { Part::Dla } else { Part::Xcore }
    }

    fn dies(&self) -> f64 {
        u32::try_from(self.places.len()).map_or(1.0, f64::from)
    }

    /// One value of all dies together; `None` when one of them does not tell it.
    fn of_dies<T, V: Copy>(
        &mut self,
        what: &'static str,
        ask: impl Fn(Place) -> Result<T, Code>,
        value: impl Fn(T) -> Option<V>,
        join: impl Fn(V, V) -> V,
    ) -> Option<V> {
        let mut all = None;
        for place in &self.places {
            let one = value(self.asking.ask(what, || ask(*place))?)?;
            all = Some(all.map_or(one, |all| join(all, one)));
        }
        all
    }

    fn has_processes(&mut self, found: Option<Vec<Process>>) {
        self.processes = found.unwrap_or_default();
    }

    /// How many processes; `None` where the library does not list them.
    fn process_count(&self) -> Option<i64> {
        let is_listed = !self.asking.has_no("processes");
        is_listed.then(|| i64::try_from(self.processes.len()).unwrap_or(i64::MAX))
    }
}

impl Facts {
    /// What card and slices have in common.
    fn fill(&self, row: &mut Row<'_>) {
        row.text("model", self.model.as_deref())
            .text("serial", self.serial.as_deref())
            .text("pci_bdf", self.pci_bdf.as_deref())
            .text("driver_version", self.driver.as_deref())
            .text("firmware_version", self.firmware.as_deref())
            .int("numa_node", self.numa_node)
            .int("core_clock_max_hertz", self.core_clock_max)
            .int("pcie_generation_max", self.pcie_max.0)
            .int("pcie_width_max", self.pcie_max.1)
            .float("slowdown_temperature_celsius", self.temperature_limit);
    }
}

impl Slow {
    fn fill(&self, row: &mut Row<'_>) {
        let [sram_corrected, sram_uncorrected, dram_corrected, dram_uncorrected, retired] =
            self.ecc.map_or([None; 5], |errors| errors.map(Some));
        let [crc_errors, replays, recoveries] = self.link_errors;
        row.float("power_limit_watts", self.power_limit)
            .int("pcie_generation", self.pcie.0)
            .int("pcie_width", self.pcie.1)
            .count("pcie_replays", self.pcie_replays)
            .count("ecc_corrected_sram", sram_corrected)
            .count("ecc_uncorrected_sram", sram_uncorrected)
            .count("ecc_corrected_dram", dram_corrected)
            .count("ecc_uncorrected_dram", dram_uncorrected)
            .count("retired_pages", retired)
            .int("links", self.links.map(|(links, _)| links))
            .int("links_active", self.links.map(|(_, active)| active))
            .count("link_crc_errors", crc_errors)
            .count("link_replays", replays)
            .count("link_recoveries", recoveries);
    }
}

/// Its UUID, or what tells it among its kin.
fn sgpu_identity(card: &str, sgpu: &Sgpu) -> String {
    sgpu.uuid.clone().filter(|uuid| uuid != card).unwrap_or_else(|| format!("{card}-sgpu{}", sgpu.id))
}

fn percent(percent: i32) -> Option<f64> {
    share(f64::from(percent))
}

fn clock(frequency: u32) -> Option<i64> {
    megahertz(frequency)
}

/// Hundredths of a degree.
fn hundredths(value: i32) -> Option<f64> {
    celsius(f64::from(value) / 100.0)
}

/// What the board draws: all its supplies.
fn power(supplies: &List<crate::abi::mxsml::Supply>) -> Option<f64> {
    let mut sum = 0.0;
    for supply in supplies.iter() {
        if supply.milliwatts == u32::MAX {
            return None;
        }
        sum += f64::from(supply.milliwatts);
    }
    milliwatts(sum)
}

/// Millions of bytes a second.
fn megabytes(value: i64) -> Option<f64> {
    // No link has a petabyte a second.
    #[allow(clippy::cast_precision_loss)]
    (0..1_000_000_000).contains(&value).then_some(value as f64 * 1e6)
}

/// A sum of counts that are none of them unknown (below zero); `None` of nothing.
fn total(mut counts: impl Iterator<Item = i64>) -> Option<i64> {
    let first = counts.next()?;
    let sum = counts.try_fold(first, |sum, count| if count < 0 { None } else { sum.checked_add(count) });
    sum.filter(|_| first >= 0)
}

fn sum(counts: &[u64]) -> Option<u64> {
    let (first, rest) = counts.split_first()?;
    rest.iter().try_fold(*first, |sum, count| sum.checked_add(*count))
}

/// The generation of PCIe that has this many billion transfers a second.
fn generation(speed: f32) -> Option<i64> {
    let speeds = [2.5, 5.0, 8.0, 16.0, 32.0, 64.0];
    let at = speeds.iter().position(|of: &f32| (of - speed).abs() < 0.1)?;
    i64::try_from(at + 1).ok()
}

/// Ports that are used, and of them those that are up.
fn used_ports(ports: &[u32]) -> Option<(i64, i64)> {
    let used = ports.iter().filter(|state| **state < port::UNUSED).count();
    count_pair(used, ports.iter().filter(|state| **state == port::UP).count())
}

fn count_pair(all: usize, some: usize) -> Option<(i64, i64)> {
    Some((i64::try_from(all).ok()?, i64::try_from(some).ok()?))
}

/// Counts in the order corrected, uncorrected of SRAM, the same of DRAM, retired pages; all bits set is not known.
fn ecc(errors: EccErrors) -> Option<[u64; 5]> {
    let all = [
        errors.sram_corrected,
        errors.sram_uncorrected,
        errors.dram_corrected,
        errors.dram_uncorrected,
        errors.retired_pages,
    ];
    (!all.contains(&u32::MAX)).then(|| all.map(u64::from))
}

fn reasons(found: u64) -> String {
    let names: Vec<&str> = REASONS.iter().filter(|(reason, _)| found & reason != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(",") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sums_are_of_what_is_known() {
        assert_eq!(total([1, 2, 3].into_iter()), Some(6));
        assert_eq!(total([0].into_iter()), Some(0));
        assert_eq!((total([-1, 2].into_iter()), total([2, -1].into_iter()), total([].into_iter())), (None, None, None));
        assert_eq!(total([i64::MAX, 1].into_iter()), None);
        assert_eq!((sum(&[1, 2]), sum(&[]), sum(&[u64::MAX, 1])), (Some(3), None, None));
        let errors = EccErrors { dram_corrected: 4, ..EccErrors::default() };
        assert_eq!(ecc(errors), Some([0, 0, 4, 0, 0]));
        assert_eq!(ecc(EccErrors { retired_pages: u32::MAX, ..errors }), None);
    }

    #[test]
    fn numbers_have_the_librarys_units() {
        assert_eq!((hundredths(4_550), hundredths(-100_000)), (Some(45.5), None));
        assert_eq!((megabytes(12), megabytes(-1)), (Some(12e6), None));
        assert_eq!((generation(32.0), generation(2.5), generation(0.0)), (Some(5), Some(1), None));
        assert_eq!(used_ports(&[1, 1, 0, 5, 2]), Some((4, 2)));
    }

    #[test]
    fn reasons_have_names() {
        assert_eq!(
            (reasons(0), reasons(1), reasons(0x84)),
            ("none".into(), "idle".into(), "power_cap,peak_current".into())
        );
        assert_eq!((reasons(0x8000_0000), reasons(0x800)), ("other".into(), "other".into()));
    }

    #[test]
    fn a_slice_has_an_identity_of_its_own() {
        let sgpu =
            |uuid: Option<&str>| Sgpu { id: 3, uuid: uuid.map(str::to_owned), memory_quota: 0, compute_quota: 0 };
        assert_eq!(sgpu_identity("GPU-1", &sgpu(Some("GPU-1-3"))), "GPU-1-3");
        assert_eq!(sgpu_identity("GPU-1", &sgpu(Some("GPU-1"))), "GPU-1-sgpu3");
        assert_eq!(sgpu_identity("GPU-1", &sgpu(None)), "GPU-1-sgpu3");
    }

    proptest! {
        #[test]
        fn no_number_brings_it_down(
            counts in prop::collection::vec(any::<i64>(), 0..20),
            wide in prop::collection::vec(any::<u64>(), 0..20),
            ports in prop::collection::vec(any::<u32>(), 0..20),
            speed in any::<f32>(),
            number in any::<i32>(),
        ) {
            prop_assert!(total(counts.iter().copied()).is_none_or(|sum| sum >= 0));
            counts.iter().copied().map(megabytes).for_each(drop);
            sum(&wide);
            wide.iter().copied().map(reasons).for_each(drop);
            used_ports(&ports);
            generation(speed);
            hundredths(number);
            percent(number);
        }
    }
}
