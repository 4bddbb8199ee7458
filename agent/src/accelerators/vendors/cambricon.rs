//! Cambricon's MLUs, through the driver's own library (`CNDev`).
//!
//! Every value is asked for by itself and is NULL when it does not come: which functions there are depends on the
//! driver's generation. What never changes is asked once per card, what changes slowly every ten seconds.
//!
//! Traffic (PCIe, MLU-Link) is counted by functions of which some measure for 20 ms on some drivers. So how long they
//! take is watched: where it is little they are asked every second, else every ten, and where it is very much never
//! again.
//!
//! The library keeps no samples, so load and power are looked at between ticks. Newer drivers tell, from two snapshots
//! of a card's counters (MPM), how busy cores and matrix units were in between, and how much went over its links.
//!
//! A card can be cut in two ways. MIM gives each instance cores and memory of its own: it is asked as a card is, by a
//! number of its own. sMLU lets instances take turns on the whole card, and says what each uses. Both are rows.
//!
//! Memory is told in units of 2^20 bytes (that of processes in 2^10, that of sMLU instances in bytes), though the
//! vendor's header says MB; power in whole watts. The UUID is told without the `MLU-` that the vendor's tools and its
//! Kubernetes plugin put before it; we put it there too, so that it is the same word everywhere.
//!
//! Left out: free memory (whether what the driver keeps is part of what is used, the library does not say), a process's
//! share of memory (of its time or of its size, it does not say either), and disconnections of links.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nodescope_model::rows::Row;

use super::VendorOptions;
use super::common::{MAX_CARDS, Obstacle, Reader, Source, Trouble};
use crate::abi::OpenError;
use crate::abi::cndev::{
    Cndev, Code, DriverEvent, FieldValue, Handle, Health, Incident, Instance, Listening, Memory, Mpm, PciAddress,
    ProcessLoad, RemappedRows, Temperature, ThrottleReasons, Verdict, XID,
};
use crate::accelerators::readings::{Event, OnDevice, Readings};
use crate::accelerators::window::Window;
use crate::host_root::{HostRoot, first_word};
use crate::probe::Tick;

/// Its name in errors and events.
const LIBRARY: &str = "CNDev";

/// Where it is looked for, after what the environment says.
const CANDIDATES: [&str; 3] =
    ["libcndev.so", "/usr/local/neuware/lib64/libcndev.so", "/usr/local/neuware/lib/libcndev.so"];

/// Events taken at one tick; the rest comes at the next.
const MAX_EVENTS: usize = 64;

/// Instances of a card looked at: beyond what any card has.
const MAX_INSTANCES: usize = 128;

/// What counting traffic may take to be asked for at every tick, and to be asked for at all.
const CHEAP: Duration = Duration::from_millis(1);
const DEAR: Duration = Duration::from_millis(60);

/// Values that have no function of their own (see `cndevFieldIdNum_t`).
mod fields {
    pub(super) const SLOWDOWN_TEMPERATURE: i32 = 52;
    pub(super) const SHUTDOWN_TEMPERATURE: i32 = 53;
    pub(super) const DRAM_SINGLE: i32 = 56;
    pub(super) const DRAM_DOUBLE: i32 = 57;
    pub(super) const SRAM_SINGLE: i32 = 58;
    pub(super) const SRAM_DOUBLE: i32 = 59;
    pub(super) const SRAM_PARITY: i32 = 60;
    pub(super) const TENSOR_UTILIZATION: i32 = 65;
    pub(super) const ENERGY: i32 = 71;
    pub(super) const POWER_VIOLATION: i32 = 72;
    pub(super) const THERMAL_VIOLATION: i32 = 73;
    /// Asked at every tick.
    pub(super) const FAST: [i32; 4] = [TENSOR_UTILIZATION, ENERGY, POWER_VIOLATION, THERMAL_VIOLATION];
    /// Asked every ten seconds.
    pub(super) const SLOW: [i32; 7] =
        [SLOWDOWN_TEMPERATURE, SHUTDOWN_TEMPERATURE, DRAM_SINGLE, DRAM_DOUBLE, SRAM_SINGLE, SRAM_DOUBLE, SRAM_PARITY];
}

/// What MPM tells: shares in per cent, then rates in MiB/s.
const MPM_METRICS: [i32; 6] = [1, 3, 20, 21, 60, 61];

/// Names of the reasons for lower clocks, in the library's order.
const REASONS: [&str; 6] =
    ["power_cap", "power_cap", "applications_clocks", "applications_clocks", "power_brake", "hardware_thermal"];

/// Reads Cambricon's cards.
pub(crate) type Cambricon = Reader<Library>;

/// The library, as it is open.
pub(crate) struct Library {
    cndev: Cndev,
    root: HostRoot,
    /// What its events come through.
    listening: Option<Listening>,
}

impl Library {
    fn obstacle(&self, code: Code) -> Obstacle {
        match code {
            Code::NO_DRIVER => Obstacle::Absent("the driver is not loaded".to_owned()),
            Code::NO_DEVICES => Obstacle::Absent("the driver shows no card".to_owned()),
            Code::MISSING => Obstacle::Driver(format!("{} lacks functions", self.cndev.path().display())),
            Code::DRIVER_TOO_OLD => Obstacle::Mismatch(self.cndev.describe(code)),
            code => Obstacle::Driver(self.cndev.describe(code)),
        }
    }

    fn stop_listening(&mut self) {
        if let Some(listening) = self.listening.take() {
            self.cndev.stop_listening(listening);
        }
    }
}

impl Source for Library {
    const LIBRARY: &'static str = LIBRARY;

    type Card = Card;

    fn open(options: &VendorOptions) -> Result<Self, OpenError> {
        let home = std::env::var("NEUWARE_HOME").ok().filter(|home| home.starts_with('/'));
        let at_home = home.map(|home| format!("{home}/lib64/libcndev.so"));
        let candidates: Vec<&str> = at_home.as_deref().into_iter().chain(CANDIDATES).collect();
        let cndev = Cndev::open(options.library(), &candidates)?;
        Ok(Self { cndev, root: options.root.clone(), listening: None })
    }

    fn initialize(&mut self) -> Result<(), Obstacle> {
        self.cndev.initialize().map_err(|code| self.obstacle(code))
    }

    fn shut_down(&mut self, cards: Vec<Card>) {
        drop(cards);
        self.stop_listening();
        self.cndev.shut_down();
    }

    fn cards(&mut self, mut known: Vec<Card>, trouble: &mut Option<String>) -> Result<Vec<Card>, Obstacle> {
        let cndev = &self.cndev;
        let count = cndev.count().map_err(|code| self.obstacle(code))?.min(MAX_CARDS);
        let mut cards = Vec::<Card>::new();
        let mut is_new = false;
        for index in 0..count {
            let found = cndev.handle(index).and_then(|handle| Ok((handle, identity(cndev, handle)?)));
            let (handle, device) = match found {
                Ok(found) => found,
                // A card this user may not see (a container with some of the machine's cards) is no trouble.
                Err(Code::NO_PERMISSION) => continue,
                Err(code) => {
                    trouble.get_or_insert_with(|| format!("card {index}: {}", cndev.describe(code)));
                    continue;
                }
            };
            if cards.iter().any(|card| card.facts.device == device) {
                continue;
            }
            let facts = Facts::look(cndev, handle, index, device, &self.root);
            // One we know keeps what has been found out about it.
            let card = match known.iter().position(|card| card.handle == handle && card.facts.device == facts.device) {
                Some(at) => Card { facts, ..known.swap_remove(at) },
                None => {
                    is_new = true;
                    Card::new(cndev, handle, facts)
                }
            };
            cards.push(card.with_questions(cndev));
        }
        if is_new || self.listening.is_none() {
            self.stop_listening();
            self.listening = self.cndev.listen(cards.iter().map(|card| card.handle)).ok();
        }
        Ok(cards)
    }

    fn hear(&mut self, cards: &mut [Card], tick: &Tick, out: &mut Readings) {
        if let Some(listening) = &self.listening {
            hear(&self.cndev, listening, tick, cards, out);
        }
    }

    fn sample(&mut self, card: &mut Card, tick: &Tick, slow: bool, window: &mut Window, out: &mut Readings) -> bool {
        card.sample(&self.cndev, slow, tick, window, out)
    }

    fn glance(&mut self, card: &Card, window: &mut Window) {
        let load = self.cndev.utilization(card.handle).ok().and_then(ratio);
        let power = self.cndev.power(card.handle).ok().and_then(|power| watts(power.usage));
        window.look(&card.facts.device, load, power);
    }
}

/// What names a card for life.
fn identity(cndev: &Cndev, handle: Handle) -> Result<String, Code> {
    match cndev.uuid(handle) {
        Ok(uuid) => return Ok(named(&uuid)),
        Err(code) if !code.is_absence() => return Err(code),
        Err(_) => (),
    }
    if let Ok(serial) = cndev.serial(handle)
        && let Some(serial) = serial_number(serial)
    {
        return Ok(serial);
    }
    cndev.pci(handle).map(pci_bdf)?.ok_or(Code::NOT_FOUND)
}

/// A UUID as the vendor's tools write it.
fn named(uuid: &str) -> String {
    if uuid.starts_with("MLU-") { uuid.to_owned() } else { format!("MLU-{uuid}") }
}

/// Serial numbers are numbers here, which are written in hexadecimal.
fn serial_number(number: u64) -> Option<String> {
    (number != 0 && number != u64::MAX).then(|| format!("{number:x}"))
}

/// Takes what the driver has reported since.
fn hear(cndev: &Cndev, listening: &Listening, tick: &Tick, cards: &mut [Card], out: &mut Readings) {
    for _ in 0..MAX_EVENTS {
        let Some(event) = cndev.next_event(listening) else { return };
        let code = (event.event == XID).then(|| i64::try_from(event.data).ok()).flatten();
        let (device, pci_bdf) = match cards.iter_mut().find(|card| card.handle == event.device) {
            Some(card) => {
                card.last_xid = code.or(card.last_xid);
                (Some(card.facts.device.clone()), card.facts.pci_bdf.clone())
            }
            None => (None, None),
        };
        // A time that is not told, or of another clock, is no time.
        let told = i64::try_from(event.at).ok().filter(|at| (at - tick.ts_micros).abs() < 3_600_000_000);
        out.event(&Event {
            at_micros: told.unwrap_or(tick.ts_micros),
            device,
            pci_bdf,
            kind: "fault",
            source: LIBRARY,
            code,
            message: event_message(&event),
            pid: None,
        });
    }
}

/// Numbers of errors are written as the vendor's tools write them.
fn event_message(event: &DriverEvent) -> String {
    match event.event {
        XID => format!("Xid {:#018x}", event.data),
        other => format!("event {other:#x}, {:#x}", event.data),
    }
}

/// What does not change about a card while its driver is loaded.
struct Facts {
    index: u32,
    device: String,
    driver: Option<String>,
    firmware: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    pci_bdf: Option<String>,
    device_file: Option<String>,
    numa_node: Option<i64>,
    cores: Option<i64>,
    core_clock_max: Option<i64>,
    pcie_generation_max: Option<i64>,
    pcie_width_max: Option<i64>,
    links: Option<i32>,
    has_video_codecs: bool,
    has_image_codecs: bool,
}

impl Facts {
    fn look(cndev: &Cndev, handle: Handle, index: u32, device: String, root: &HostRoot) -> Self {
        let versions = cndev.versions(handle).ok();
        let pci_bdf = cndev.pci(handle).ok().and_then(pci_bdf);
        let numa_node = pci_bdf.as_ref().and_then(|at| {
            let text = std::fs::read_to_string(root.sys(format!("bus/pci/devices/{at}/numa_node"))).ok()?;
            first_word::<u32>(&text).map(i64::from)
        });
        let pcie_max = cndev.pcie_max(handle).ok();
        let frequency = cndev.frequency(handle).ok();
        Self {
            index,
            device,
            driver: versions.and_then(|versions| dotted(versions.driver)),
            firmware: versions.and_then(|versions| dotted(versions.firmware)),
            model: cndev.name(handle),
            serial: cndev.serial(handle).ok().and_then(serial_number),
            pci_bdf,
            device_file: cndev.minor(handle).ok().filter(|n| known(*n)).map(|n| format!("cambricon_dev{n}")),
            numa_node,
            cores: cndev.cores(handle).ok().filter(|n| known(*n) && *n > 0).map(i64::from),
            core_clock_max: frequency.and_then(|f| hertz(f.core_max).or_else(|| hertz(f.core_default))),
            pcie_generation_max: pcie_max.and_then(|pcie| positive(pcie.generation)),
            pcie_width_max: pcie_max.and_then(|pcie| positive(pcie.width)),
            links: cndev.links(handle).ok(),
            has_video_codecs: cndev
                .video_codecs(handle)
                .is_ok_and(|codecs| !codecs.encoders.loads().is_empty() || !codecs.decoders.loads().is_empty()),
            has_image_codecs: cndev.image_codecs(handle).is_ok_and(|codecs| !codecs.all.loads().is_empty()),
        }
    }

    /// What card and instances have in common.
    fn fill(&self, row: &mut Row<'_>) {
        row.int("index", i64::from(self.index))
            .text("model", self.model.as_deref())
            .text("serial", self.serial.as_deref())
            .text("pci_bdf", self.pci_bdf.as_deref())
            .text("driver_version", self.driver.as_deref())
            .text("firmware_version", self.firmware.as_deref())
            .int("numa_node", self.numa_node);
    }
}

/// What is asked for every ten seconds.
#[derive(Debug, Default)]
struct Slow {
    health: Option<Verdict>,
    voltage: Option<f64>,
    fan: Option<f64>,
    compute_mode: Option<&'static str>,
    pcie: (Option<i64>, Option<i64>),
    pcie_replays: Option<i64>,
    slowdown_temperature: Option<f64>,
    shutdown_temperature: Option<f64>,
    /// Errors since the driver was loaded: corrected and uncorrected.
    ecc_volatile: (Option<u64>, Option<u64>),
    /// Errors of its life.
    ecc_sram: (Option<u64>, Option<u64>),
    ecc_dram: (Option<u64>, Option<u64>),
    retired: (Option<i64>, Option<i64>),
    is_retirement_pending: Option<bool>,
    remapped: RemappedRows,
    links_active: Option<i64>,
    /// Damaged packets and repetitions, of all links.
    link_errors: Option<(u64, u64)>,
}

impl Slow {
    fn look(cndev: &Cndev, card: Handle, facts: &Facts, answers: &BTreeMap<i32, u64>, health: Option<&Health>) -> Self {
        let field = |number: i32| answers.get(&number).copied();
        let sum = |a: Option<u64>, b: Option<u64>| a?.checked_add(b?);
        let degrees = |number: i32| field(number).and_then(|value| i32::try_from(value).ok()).and_then(celsius);
        let counted = |answer: Result<u32, Code>| answer.ok().filter(|n| known(*n)).map(i64::from);
        let pcie = cndev.pcie(card).ok();
        let mut links_active = facts.links.map(|_| 0);
        let mut link_errors = facts.links.filter(|links| *links > 0).map(|_| (0u64, 0u64));
        for link in 0..facts.links.unwrap_or(0) {
            let is_up = cndev.link_is_up(card, link).ok();
            links_active = links_active.zip(is_up).map(|(active, is_up)| active + i64::from(is_up));
            // A sum that lacks one of its parts would be a counter that goes back.
            link_errors = link_errors.zip(cndev.link_errors(card, link).ok()).and_then(|((crc, replays), more)| {
                Some((crc.checked_add(known_wide(more.0)?)?, replays.checked_add(known_wide(more.1)?)?))
            });
        }
        Self {
            health: health.and_then(|health| health.verdict),
            voltage: cndev.voltage(card).ok().and_then(|voltage| volts(voltage.core)),
            fan: cndev.fan(card).ok().and_then(ratio),
            compute_mode: cndev.compute_mode(card).ok().and_then(compute_mode),
            pcie: (pcie.and_then(|p| positive(p.generation)), pcie.and_then(|p| positive(p.width))),
            pcie_replays: counted(cndev.pcie_replays(card)),
            slowdown_temperature: degrees(fields::SLOWDOWN_TEMPERATURE),
            shutdown_temperature: degrees(fields::SHUTDOWN_TEMPERATURE),
            ecc_volatile: ecc_volatile(cndev, card),
            ecc_sram: (field(fields::SRAM_SINGLE), sum(field(fields::SRAM_DOUBLE), field(fields::SRAM_PARITY))),
            ecc_dram: (field(fields::DRAM_SINGLE), field(fields::DRAM_DOUBLE)),
            retired: (counted(cndev.retired_pages(card, false)), counted(cndev.retired_pages(card, true))),
            is_retirement_pending: cndev.is_retirement_pending(card).ok(),
            remapped: cndev.remapped_rows(card),
            links_active,
            link_errors,
        }
    }

    fn fill(&self, row: &mut Row<'_>) {
        let sum = |a: Option<u64>, b: Option<u64>| a?.checked_add(b?);
        let rows = |number: Option<u32>| number.filter(|number| known(*number)).map(i64::from);
        row.text("health", self.health.map(health_word))
            .float("voltage_volts", self.voltage)
            .float("fan_ratio", self.fan)
            .text("compute_mode", self.compute_mode)
            .int("pcie_generation", self.pcie.0)
            .int("pcie_width", self.pcie.1)
            .int("pcie_replays", self.pcie_replays)
            .float("slowdown_temperature_celsius", self.slowdown_temperature)
            .float("shutdown_temperature_celsius", self.shutdown_temperature)
            .count("ecc_corrected_volatile", self.ecc_volatile.0)
            .count("ecc_uncorrected_volatile", self.ecc_volatile.1)
            .count("ecc_corrected_sram", self.ecc_sram.0)
            .count("ecc_uncorrected_sram", self.ecc_sram.1)
            .count("ecc_corrected_dram", self.ecc_dram.0)
            .count("ecc_uncorrected_dram", self.ecc_dram.1)
            .count("ecc_corrected_aggregate", sum(self.ecc_sram.0, self.ecc_dram.0))
            .count("ecc_uncorrected_aggregate", sum(self.ecc_sram.1, self.ecc_dram.1))
            .int("retired_pages_corrected", self.retired.0)
            .int("retired_pages_uncorrected", self.retired.1)
            .bool("retired_pages_pending", self.is_retirement_pending)
            .int("remapped_rows_corrected", rows(self.remapped.corrected))
            .int("remapped_rows_uncorrected", rows(self.remapped.uncorrected))
            .bool("remapped_rows_pending", self.remapped.is_pending)
            .bool("remapped_rows_failed", self.remapped.is_failed)
            .int("links_active", self.links_active)
            .count("link_crc_errors", self.link_errors.map(|(crc, _)| crc))
            .count("link_replays", self.link_errors.map(|(_, replays)| replays));
    }
}

/// Memory errors since the driver was loaded, corrected and uncorrected. Older libraries tell only their sums.
fn ecc_volatile(cndev: &Cndev, card: Handle) -> (Option<u64>, Option<u64>) {
    if let Ok(ecc) = cndev.memory_ecc(card) {
        let sum = |parts: &[u32]| parts.iter().try_fold(0u64, |sum, part| known(*part).then(|| sum + u64::from(*part)));
        return (sum(&[ecc.sram_single, ecc.dram_single]), sum(&[ecc.sram_double, ecc.sram_parity, ecc.dram_double]));
    }
    let ecc = cndev.ecc(card).ok();
    (ecc.and_then(|ecc| known_wide(ecc.corrected)), ecc.and_then(|ecc| known_wide(ecc.uncorrected)))
}

/// How often something may be asked for, by how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    EveryTick,
    Slowly,
    Never,
}

impl Pace {
    fn after(took: Duration) -> Self {
        if took <= CHEAP {
            Self::EveryTick
        } else if took <= DEAR {
            Self::Slowly
        } else {
            Self::Never
        }
    }

    fn is_due(self, slow: bool) -> bool {
        self == Self::EveryTick || (slow && self == Self::Slowly)
    }
}

/// Bytes received and transmitted, and how often they may be asked for.
#[derive(Debug, Clone, Copy)]
struct Traffic {
    pace: Pace,
    bytes: Option<(u64, u64)>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { pace: Pace::Slowly, bytes: None }
    }
}

impl Traffic {
    fn look(&mut self, slow: bool, ask: impl FnOnce() -> Option<(u64, u64)>) {
        if !self.pace.is_due(slow) {
            return;
        }
        let began = Instant::now();
        self.bytes = ask();
        self.pace = match self.bytes {
            Some(_) => Pace::after(began.elapsed()),
            // Perhaps it comes yet.
            None => Pace::Slowly,
        };
        if self.pace == Pace::Never {
            self.bytes = None;
        }
    }
}

/// An instance with hardware of its own.
struct MimInstance {
    /// By which it is asked, where the library gives that.
    handle: Option<Handle>,
    instance: Instance,
}

/// A card.
pub(crate) struct Card {
    handle: Handle,
    facts: Facts,
    /// Fields it answers.
    fast: Vec<i32>,
    slowly: Vec<i32>,
    answers: BTreeMap<i32, u64>,
    values: Vec<FieldValue>,
    mpm: Option<Mpm>,
    metrics: Vec<Option<f64>>,
    has_slow: bool,
    slow: Slow,
    pcie: Traffic,
    links: Traffic,
    /// Whether it is cut, in either way; `None` where it cannot be.
    is_mim: Option<bool>,
    is_smlu: Option<bool>,
    mim: Vec<MimInstance>,
    last_xid: Option<i64>,
    /// What the library's own check found the last time.
    incidents: BTreeSet<(i32, i32)>,
}

impl Card {
    fn new(cndev: &Cndev, handle: Handle, facts: Facts) -> Self {
        Self {
            handle,
            facts,
            fast: Vec::new(),
            slowly: Vec::new(),
            answers: BTreeMap::new(),
            values: Vec::new(),
            mpm: cndev.mpm(handle).ok(),
            metrics: Vec::new(),
            has_slow: false,
            slow: Slow::default(),
            pcie: Traffic::default(),
            links: Traffic::default(),
            is_mim: None,
            is_smlu: None,
            mim: Vec::new(),
            last_xid: None,
            incidents: BTreeSet::new(),
        }
    }

    /// Finds out which fields this card answers. One that the library does not know may spoil the others, so each is
    /// asked for by itself.
    fn with_questions(mut self, cndev: &Cndev) -> Self {
        let answers = |field: &i32| {
            let mut value = [FieldValue::ask(*field)];
            cndev.fields(self.handle, &mut value).is_ok() && value.iter().all(|value| value.known().is_some())
        };
        self.fast = fields::FAST.into_iter().filter(answers).collect();
        self.slowly = fields::SLOW.into_iter().filter(answers).collect();
        self
    }

    /// Asks for fields, all in one call.
    fn ask(&mut self, cndev: &Cndev, slow: bool) {
        self.answers.clear();
        self.values.clear();
        let questions = self.fast.iter().chain(self.slowly.iter().filter(|_| slow));
        self.values.extend(questions.clone().map(|field| FieldValue::ask(*field)));
        if self.values.is_empty() || cndev.fields(self.handle, &mut self.values).is_err() {
            return;
        }
        for (field, value) in questions.zip(&self.values) {
            if let Some(value) = value.known() {
                self.answers.insert(*field, value);
            }
        }
    }

    /// What changes slowly.
    fn look_slowly(&mut self, cndev: &Cndev, tick: &Tick, out: &mut Readings) {
        self.has_slow = true;
        let health = cndev.health(self.handle).ok();
        self.slow = Slow::look(cndev, self.handle, &self.facts, &self.answers, health.as_ref());
        if let Some(health) = &health {
            self.tell_incidents(health, tick, out);
        }
        self.is_mim = cndev.is_mim(self.handle).ok();
        self.is_smlu = cndev.is_smlu(self.handle).ok();
        self.mim.clear();
        if self.is_mim == Some(true) {
            let found = cndev.mim_instances(self.handle).unwrap_or_default();
            self.mim.extend(
                found
                    .into_iter()
                    .take(MAX_INSTANCES)
                    .map(|instance| MimInstance { handle: cndev.mim_handle(self.handle, instance.id).ok(), instance }),
            );
        }
    }

    /// What the library's own check has found that it had not the last time is an event.
    fn tell_incidents(&mut self, health: &Health, tick: &Tick, out: &mut Readings) {
        let now: BTreeSet<(i32, i32)> = health.incidents.iter().map(|i| (i.system, i.error)).collect();
        for incident in &health.incidents {
            let key = (incident.system, incident.error);
            if now.contains(&key) && self.incidents.insert(key) {
                out.event(&Event {
                    at_micros: tick.ts_micros,
                    device: Some(self.facts.device.clone()),
                    pci_bdf: self.facts.pci_bdf.clone(),
                    kind: "fault",
                    source: LIBRARY,
                    // Not an Xid: the column is the vendor's number for that.
                    code: None,
                    message: incident_message(incident),
                    pid: None,
                });
            }
        }
        self.incidents = now;
    }

    /// The row of the whole card, then those of its instances and of the processes on them; false when it is lost.
    fn sample(&mut self, cndev: &Cndev, slow: bool, tick: &Tick, window: &mut Window, out: &mut Readings) -> bool {
        let mut trouble = Trouble::default();
        let load = trouble.keep("load", cndev.utilization(self.handle)).and_then(ratio);
        let temperature = trouble.keep("temperature", cndev.temperature(self.handle));
        let memory = trouble.keep("memory", cndev.memory(self.handle));
        let power = trouble.keep("power", cndev.power(self.handle));
        if trouble.is_loss() {
            return false;
        }
        let slow = slow || !self.has_slow;
        self.ask(cndev, slow);
        if slow {
            self.look_slowly(cndev, tick, out);
        }
        self.look_at_traffic(cndev, slow);
        let usage = power.and_then(|power| watts(power.usage));
        window.look(&self.facts.device, load, usage);
        let processes = Processes::list(cndev, self.handle);

        let mut row = out.device(&self.facts.device);
        self.facts.fill(&mut row);
        row.text("device_file", self.facts.device_file.as_deref())
            .bool("mig_enabled", either(self.is_mim, self.is_smlu))
            .int("cores", self.facts.cores)
            .int("core_clock_max_hertz", self.facts.core_clock_max)
            .int("pcie_generation_max", self.facts.pcie_generation_max)
            .int("pcie_width_max", self.facts.pcie_width_max)
            .int("links", self.facts.links.map(i64::from))
            .float("utilization_ratio", load)
            .float("power_watts", usage)
            .float("power_limit_watts", power.and_then(|power| watts(power.cap)).filter(|cap| *cap > 0.0))
            .int("processes", processes.as_ref().map(Processes::count))
            .int("last_error_code", self.last_xid);
        window.fill(&self.facts.device, &mut row);
        fill_temperature(temperature.as_ref(), &mut row);
        fill_memory(memory, &mut row);
        self.fill_levels(cndev, &mut trouble, &mut row);
        self.slow.fill(&mut row);
        self.fill_traffic_and_shares(cndev, &mut row);
        row.text("error", trouble.text(|code| cndev.describe(code)).as_deref());

        let is_listed = processes.is_some();
        if let Some(processes) = processes {
            processes.append(cndev, self.handle, &self.facts.device, out);
        }
        self.sample_mim(cndev, is_listed, out);
        if self.is_smlu == Some(true) {
            self.sample_smlu(cndev, out);
        }
        true
    }

    fn look_at_traffic(&mut self, cndev: &Cndev, slow: bool) {
        let handle = self.handle;
        // The card reads what it receives. Where neither was ever counted, the library is of before the totals.
        self.pcie.look(slow, || {
            let bytes = cndev.pcie_throughput(handle).ok()?;
            let (read, written) = (u64::try_from(bytes.read_total).ok()?, u64::try_from(bytes.write_total).ok()?);
            (read > 0 || written > 0).then_some((read, written))
        });
        let links = self.facts.links.unwrap_or(0);
        if links > 0 {
            self.links.look(slow, || {
                (0..links).try_fold((0u64, 0u64), |(received, transmitted), link| {
                    let more = cndev.link_bytes(handle, link).ok()?;
                    Some((received.checked_add(known_wide(more.0)?)?, transmitted.checked_add(known_wide(more.1)?)?))
                })
            });
        }
    }

    /// How fast it runs, what holds it back, and how busy its codecs are.
    fn fill_levels(&self, cndev: &Cndev, trouble: &mut Trouble<Code>, row: &mut Row<'_>) {
        let frequency = trouble.keep("clock", cndev.frequency(self.handle));
        row.int("core_clock_hertz", frequency.and_then(|f| hertz(f.core)))
            .int("memory_clock_hertz", frequency.and_then(|f| hertz(f.memory)))
            .text("throttle_reasons", cndev.throttle_reasons(self.handle).ok().and_then(|r| reasons(&r)).as_deref());
        if self.facts.has_video_codecs
            && let Ok(codecs) = cndev.video_codecs(self.handle)
        {
            row.float("encoder_utilization_ratio", mean(codecs.encoders.loads()))
                .float("decoder_utilization_ratio", mean(codecs.decoders.loads()));
        }
        if self.facts.has_image_codecs
            && let Ok(codecs) = cndev.image_codecs(self.handle)
        {
            row.float("jpeg_utilization_ratio", mean(codecs.all.loads()));
        }
        let field = |number: i32| self.answers.get(&number).copied();
        let seconds = |ns: u64| crate::probes::in_seconds(ns, 1_000_000_000);
        // Exact up to 2^53 mJ, three hundred years of one kilowatt.
        #[allow(clippy::cast_precision_loss)]
        row.float("energy_joules", field(fields::ENERGY).map(|millijoules| millijoules as f64 / 1e3))
            .float("throttle_power_cap_seconds", field(fields::POWER_VIOLATION).map(seconds))
            .float("throttle_hardware_thermal_seconds", field(fields::THERMAL_VIOLATION).map(seconds));
    }

    /// Bytes, and what MPM tells. Rates are of use only where there is no count.
    fn fill_traffic_and_shares(&mut self, cndev: &Cndev, row: &mut Row<'_>) {
        row.count("pcie_received_bytes", self.pcie.bytes.map(|(received, _)| received))
            .count("pcie_transmitted_bytes", self.pcie.bytes.map(|(_, transmitted)| transmitted))
            .count("link_received_bytes", self.links.bytes.map(|(received, _)| received))
            .count("link_transmitted_bytes", self.links.bytes.map(|(_, transmitted)| transmitted));
        self.metrics.clear();
        if let Some(mpm) = &mut self.mpm {
            // What went wrong is NULL.
            let _ = cndev.mpm_metrics(self.handle, mpm, &MPM_METRICS, &mut self.metrics);
        }
        let metric = |at: usize| self.metrics.get(at).copied().flatten();
        let now = self.answers.get(&fields::TENSOR_UTILIZATION).and_then(|value| i32::try_from(*value).ok());
        row.float("core_active_ratio", metric(0).and_then(share))
            .float("tensor_active_ratio", metric(1).and_then(share).or_else(|| now.and_then(ratio)));
        let rate = |at: usize| metric(at).filter(|rate| *rate >= 0.0).map(|rate| rate * 1_048_576.0);
        if self.pcie.bytes.is_none() {
            row.float("pcie_transmitted_bytes_per_second", rate(2)).float("pcie_received_bytes_per_second", rate(3));
        }
        if self.links.bytes.is_none() {
            row.float("link_transmitted_bytes_per_second", rate(4)).float("link_received_bytes_per_second", rate(5));
        }
    }

    /// Rows of instances with hardware of their own. Their processes are told of them only where they are not told of
    /// the card.
    fn sample_mim(&self, cndev: &Cndev, is_listed: bool, out: &mut Readings) {
        for MimInstance { handle, instance } in &self.mim {
            let load = handle.and_then(|handle| cndev.utilization(handle).ok()).and_then(ratio);
            let memory = handle.and_then(|handle| cndev.memory(handle).ok());
            let processes = handle.filter(|_| !is_listed).and_then(|handle| Processes::list(cndev, handle));
            let device = instance_name(&self.facts.device, "mim", instance);
            let mut row = self.begin_instance(&device, "mim", instance, out);
            row.int("cores", instance.cores.and_then(positive))
                .float("utilization_ratio", load)
                .int("processes", processes.as_ref().map(Processes::count));
            fill_memory(memory, &mut row);
            if let (Some(processes), Some(handle)) = (processes, handle) {
                processes.append(cndev, *handle, &device, out);
            }
        }
    }

    /// Rows of instances that take turns.
    fn sample_smlu(&self, cndev: &Cndev, out: &mut Readings) {
        for instance in cndev.smlu_instances(self.handle).unwrap_or_default().iter().take(MAX_INSTANCES) {
            let device = instance_name(&self.facts.device, "smlu", instance);
            let mut row = self.begin_instance(&device, "smlu", instance, out);
            let Some(share) = instance.share else { continue };
            row.float("utilization_ratio", i32::try_from(share.load).ok().and_then(ratio))
                .count("memory_total_bytes", known_wide(share.memory_bytes))
                .count("memory_used_bytes", known_wide(share.memory_used_bytes));
        }
    }

    fn begin_instance<'o>(&self, device: &str, kind: &str, instance: &Instance, out: &'o mut Readings) -> Row<'o> {
        let mut row = out.device(device);
        self.facts.fill(&mut row);
        let file = instance.device_node.as_deref().map(|node| node.strip_prefix("/dev/").unwrap_or(node));
        row.text("parent", self.facts.device.as_str())
            .text("partition_type", kind)
            .text("partition_id", instance.id.to_string().as_str())
            .text("partition_profile", instance.profile.as_deref())
            .text("device_file", file);
        row
    }
}

/// What names an instance for as long as it is there.
fn instance_name(card: &str, kind: &str, instance: &Instance) -> String {
    match &instance.uuid {
        Some(uuid) => named(uuid),
        None => format!("{card}/{kind}-{}", instance.id),
    }
}

fn incident_message(incident: &Incident) -> String {
    let part = match incident.system {
        0x1 => "PCIe",
        0x2 => "MLU-Link",
        0x4 => "power management unit",
        0x8 => "microcontroller",
        0x10 => "memory",
        0x20 => "temperature",
        0x40 => "power",
        0x80 => "driver",
        _ => "health",
    };
    match &incident.message {
        Some(message) => format!("{part}: {message} ({})", incident.error),
        None => format!("{part}: incident {}", incident.error),
    }
}

fn fill_temperature(temperature: Option<&Temperature>, row: &mut Row<'_>) {
    let hottest = temperature.and_then(|t| t.cluster.iter().filter_map(|cluster| celsius(*cluster)).reduce(f64::max));
    row.float("temperature_celsius", temperature.and_then(|t| celsius(t.chip).or_else(|| celsius(t.board))))
        .float("hotspot_temperature_celsius", hottest)
        .float("memory_temperature_celsius", temperature.and_then(|t| celsius(t.memory)));
}

fn fill_memory(memory: Option<Memory>, row: &mut Row<'_>) {
    // No card without memory.
    let memory = memory.filter(|memory| memory.total > 0);
    row.count("memory_total_bytes", memory.and_then(|memory| mebibytes(memory.total)))
        .count("memory_used_bytes", memory.and_then(|memory| mebibytes(memory.used)))
        .count("memory_reserved_bytes", memory.and_then(|memory| memory.reserved).and_then(mebibytes));
}

/// The processes on a card or instance.
#[derive(Debug)]
struct Processes(BTreeMap<u32, Option<u64>>);

impl Processes {
    /// `None` where the library does not list them.
    fn list(cndev: &Cndev, device: Handle) -> Option<Self> {
        let listed = cndev.processes(device).ok()?;
        let processes = listed.iter().filter(|process| process.pid != 0 && known(process.pid));
        Some(Self(processes.map(|p| (p.pid, known_wide(p.memory).and_then(|kib| kib.checked_mul(1024)))).collect()))
    }

    fn count(&self) -> i64 {
        i64::try_from(self.0.len()).unwrap_or(i64::MAX)
    }

    fn append(&self, cndev: &Cndev, handle: Handle, device: &str, out: &mut Readings) {
        if self.0.is_empty() {
            return;
        }
        let loads = cndev.process_loads(handle).unwrap_or_default();
        let loads: BTreeMap<u32, ProcessLoad> = loads.into_iter().map(|load| (load.pid, load)).collect();
        let percent = |number: u32| i32::try_from(number).ok().and_then(ratio);
        for (pid, memory_used_bytes) in &self.0 {
            let load = loads.get(pid);
            out.process(&OnDevice {
                device,
                pid: *pid,
                work: Some("compute"),
                memory_used_bytes: *memory_used_bytes,
                utilization_ratio: load.and_then(|load| percent(load.core)),
                memory_utilization_ratio: None,
                encoder_utilization_ratio: load.and_then(|load| percent(load.encoder)),
                decoder_utilization_ratio: load.and_then(|load| percent(load.decoder)),
            });
        }
    }
}

fn pci_bdf(at: PciAddress) -> Option<String> {
    let PciAddress { domain, bus, device, function } = at;
    (bus <= 0xff && device <= 0x1f && function <= 7).then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"))
}

/// A version of three numbers; three zeros are none.
fn dotted(version: [u32; 3]) -> Option<String> {
    let [major, minor, build] = version;
    (version != [0; 3] && version.iter().all(|part| known(*part))).then(|| format!("{major}.{minor}.{build}"))
}

fn known(number: u32) -> bool {
    number != u32::MAX
}

fn known_wide(number: u64) -> Option<u64> {
    (number != u64::MAX).then_some(number)
}

fn positive(number: i32) -> Option<i64> {
    (number > 0).then(|| i64::from(number))
}

/// Units of 2^20 bytes as bytes.
fn mebibytes(number: i64) -> Option<u64> {
    u64::try_from(number).ok()?.checked_mul(1 << 20)
}

/// Per cent as a share of one. More than a hundred is no share, and less than nothing is not known.
fn ratio(percent: i32) -> Option<f64> {
    share(f64::from(percent))
}

fn share(percent: f64) -> Option<f64> {
    (0.0..=120.0).contains(&percent).then(|| (percent / 100.0).min(1.0))
}

/// Mean load of several units; those that are not known do not count.
fn mean(loads: &[i32]) -> Option<f64> {
    let known = loads.iter().filter_map(|load| ratio(*load));
    let (sum, count) = known.fold((0.0, 0u32), |(sum, count), load| (sum + load, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// No board draws a hundred kilowatts.
fn watts(watts: i32) -> Option<f64> {
    (0..100_000).contains(&watts).then(|| f64::from(watts))
}

/// No chip that works is at 0 °C or at 200: sensors that a board lacks are told as zero or below.
fn celsius(degrees: i32) -> Option<f64> {
    (1..200).contains(&degrees).then(|| f64::from(degrees))
}

/// Megahertz as hertz. No clock has a hundred gigahertz, and one that stands still is one that is not known.
fn hertz(megahertz: i32) -> Option<i64> {
    (1..100_000).contains(&megahertz).then(|| i64::from(megahertz) * 1_000_000)
}

/// Millivolts as volts.
fn volts(millivolts: i16) -> Option<f64> {
    (millivolts > 0).then(|| f64::from(millivolts) / 1e3)
}

fn either(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (None, None) => None,
        (a, b) => Some(a == Some(true) || b == Some(true)),
    }
}

fn health_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "ok",
        Verdict::Warn => "warning",
        Verdict::Fail => "failed",
    }
}

fn compute_mode(mode: i32) -> Option<&'static str> {
    ["default", "exclusive_process", "prohibited"].get(usize::try_from(mode).ok()?).copied()
}

/// The names of the reasons, each once.
fn reasons(found: &ThrottleReasons) -> Option<String> {
    reason_names(&found.each)
}

fn reason_names(each: &[i32; 6]) -> Option<String> {
    if each.iter().any(|flag| !(0..=1).contains(flag)) {
        return None;
    }
    let mut names: Vec<&str> = each.iter().zip(REASONS).filter(|(flag, _)| **flag == 1).map(|(_, name)| name).collect();
    names.dedup();
    Some(if names.is_empty() { "none".to_owned() } else { names.join(",") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_stands_for_not_known_is_null() {
        assert_eq!((ratio(0), ratio(37), ratio(100), ratio(-1)), (Some(0.0), Some(0.37), Some(1.0), None));
        assert_eq!((share(f64::NAN), share(50.0), ratio(i32::MAX)), (None, Some(0.5), None));
        assert_eq!((watts(-1), watts(0), watts(350)), (None, Some(0.0), Some(350.0)));
        assert_eq!((celsius(-1), celsius(0), celsius(54)), (None, None, Some(54.0)));
        assert_eq!((hertz(-1), hertz(0), hertz(1_300)), (None, None, Some(1_300_000_000)));
        assert_eq!((volts(-1), volts(850)), (None, Some(0.85)));
        assert_eq!((mebibytes(-1), mebibytes(i64::MAX), mebibytes(2)), (None, None, Some(2 << 20)));
        assert_eq!((dotted([0; 3]), dotted([5, 10, 22]).as_deref()), (None, Some("5.10.22")));
        assert_eq!((mean(&[]), mean(&[-1, -1]), mean(&[10, -1, 30])), (None, None, Some(0.2)));
        assert_eq!((serial_number(0), serial_number(0x2029_0001).as_deref()), (None, Some("20290001")));
        let at = PciAddress { domain: 0, bus: 0x17, device: 0, function: 0 };
        assert_eq!(pci_bdf(at).as_deref(), Some("0000:17:00.0"));
        assert_eq!(pci_bdf(PciAddress { bus: 0x100, ..at }), None);
    }

    #[test]
    fn a_uuid_is_written_as_the_vendors_tools_do() {
        assert_eq!(named("20001012-1916"), "MLU-20001012-1916");
        assert_eq!(named("MLU-20001012-1916"), "MLU-20001012-1916");
        let mut instance = Instance { id: 3, uuid: None, profile: None, device_node: None, cores: None, share: None };
        assert_eq!(instance_name("MLU-1", "smlu", &instance), "MLU-1/smlu-3");
        instance.uuid = Some("2".to_owned());
        assert_eq!(instance_name("MLU-1", "smlu", &instance), "MLU-2");
    }

    #[test]
    fn states_have_names() {
        assert_eq!(reason_names(&[0; 6]).as_deref(), Some("none"));
        assert_eq!(reason_names(&[1, 1, 0, 0, 0, 1]).as_deref(), Some("power_cap,hardware_thermal"));
        assert_eq!(reason_names(&[-1, 0, 0, 0, 0, 0]), None);
        assert_eq!((compute_mode(1), compute_mode(0xff), compute_mode(-1)), (Some("exclusive_process"), None, None));
        assert_eq!((either(None, None), either(None, Some(false))), (None, Some(false)));
        assert_eq!(either(Some(false), Some(true)), Some(true));
    }

    #[test]
    fn what_takes_long_is_asked_for_seldom() {
        assert_eq!(Pace::after(Duration::from_micros(100)), Pace::EveryTick);
        assert_eq!(Pace::after(Duration::from_millis(20)), Pace::Slowly);
        assert_eq!(Pace::after(Duration::from_millis(500)), Pace::Never);
        let mut traffic = Traffic::default();
        traffic.look(false, || panic!("before the first slow look"));
        traffic.look(true, || Some((1, 2)));
        assert_eq!((traffic.pace, traffic.bytes), (Pace::EveryTick, Some((1, 2))));
        traffic.look(false, || {
            std::thread::sleep(Duration::from_millis(5));
            Some((3, 4))
        });
        assert_eq!(traffic.bytes, Some((3, 4)));
        traffic.look(false, || panic!("it took long"));
        assert_eq!(traffic.bytes, Some((3, 4)), "a count stays until there is a newer one");
        traffic.look(true, || None);
        assert_eq!((traffic.pace, traffic.bytes), (Pace::Slowly, None));
    }

    proptest! {
        #[test]
        fn no_number_brings_it_down(number in any::<i32>(), each in any::<[i32; 6]>(), wide in any::<i64>()) {
            let share = ratio(number);
            prop_assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)));
            watts(number);
            celsius(number);
            hertz(number);
            compute_mode(number);
            reason_names(&each);
            mebibytes(wide);
            mean(&each);
            let number = number.unsigned_abs();
            pci_bdf(PciAddress { domain: number, bus: number, device: number, function: number });
        }
    }
}
