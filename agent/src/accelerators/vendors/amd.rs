//! AMD's cards, from the driver's files; and through ROCm SMI where those cannot be seen.
//!
//! The files (see `amdgpu_sysfs` and `gpu_metrics`) have all that the library has: it reads the same ones. And the
//! library keeps a lock in shared memory that all its users on the machine share, so one that is killed in the wrong
//! moment leaves the others waiting. So it is opened only where it adds something: where files show no card, or one
//! without a name, or where it was named in the settings. Since these are files, they are read below any root.
//!
//! `gpu_metrics` is one file for many values, so it is asked first, and a sensor's own file only for what it lacks. Load
//! is from the driver's own file, because the table has it only as a mean of longer.
//!
//! A card cut into partitions keeps its row; each partition has one of its own, with its compute units, memory, load
//! and processes. Processes that compute are those the compute driver lists, which anybody may read. Processes that
//! draw are found by the files they have open.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nodescope_model::rows::Row;

use super::amdgpu_sysfs::{
    self, Node, Place, SEARCH_EVERY, Search, Sensors, TableReader, error_files, errors, highest_clock, is_trouble,
    location, name, parse_bad_pages,
};
use super::gpu_metrics::{ENERGY_UNIT, Metrics, Residency, parse_metrics, throttle_reasons};
use super::rsmi::{Flavour, PciLink, Reader, driver_version, generation_of, identity, numa_node, ratio, render_file};
use super::{Vendor, VendorOptions};
use crate::accelerators::readings::{OnDevice, Readings};
use crate::accelerators::window::Window;
use crate::host_root::{FileReader, HostRoot, first_word, read_text, read_u64};
use crate::probe::{ProbeError, Tick};

const AMD: Flavour = Flavour {
    library: "ROCm SMI",
    candidates: &[
        "librocm_smi64.so.1",
        "librocm_smi64.so",
        "/opt/rocm/lib/librocm_smi64.so",
        "/opt/rocm/rocm_smi/lib/librocm_smi64.so",
    ],
    modules: &["amdgpu"],
};

/// How often cards are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How often what changes slowly is read: limits, errors, links, partitions.
const SLOW_EVERY: Duration = Duration::from_secs(10);

/// Longest list of bad pages read: some thousand of them.
const MAX_BAD_PAGES: u64 = 256 << 10;

/// Reads the cards of this vendor.
pub(crate) struct Amd {
    options: VendorOptions,
    cards: Vec<Card>,
    look_now: bool,
    /// The library, where it adds something.
    library: Option<Reader>,
    search: Search,
    has_searched: bool,
}

impl Amd {
    pub(crate) fn new(options: VendorOptions) -> Self {
        Self {
            options,
            cards: Vec::new(),
            look_now: true,
            library: None,
            search: Search::default(),
            has_searched: false,
        }
    }

    /// Lists the cards.
    fn look(&mut self) {
        let root = &self.options.root;
        let driver = driver_version(root, AMD.modules);
        let mut known = std::mem::take(&mut self.cards);
        for (index, place) in amdgpu_sysfs::places(root).into_iter().enumerate() {
            let facts = Facts::look(root, index, &place, driver.as_deref());
            let position = known.iter().position(|card| card.place == place && card.facts.device == facts.device);
            let card = match position {
                Some(at) => Card { facts, ..known.swap_remove(at) },
                None => Card::new(place, facts),
            };
            self.cards.push(card);
        }
        let lacks_something = self.cards.is_empty() || self.cards.iter().any(|card| card.facts.model.is_none());
        let is_named = self.options.library().is_some();
        if self.library.is_none() && (is_named || lacks_something && root.is_this_machine()) {
            self.library = Some(Reader::new(&AMD, self.options.clone()));
        }
    }
}

impl Vendor for Amd {
    fn sample(&mut self, tick: &Tick, window: &mut Window, out: &mut Readings) -> Result<(), ProbeError> {
        if std::mem::take(&mut self.look_now) || tick.is_due(LOOK_EVERY) {
            self.look();
        }
        let root = &self.options.root;
        let is_first = !std::mem::replace(&mut self.has_searched, true);
        let slow = tick.is_due(SLOW_EVERY);
        if !self.cards.is_empty() && (is_first || tick.is_due(SEARCH_EVERY)) {
            self.search.go(root, tick.ts_micros);
        }
        // The library first: a card without a name gets the one it has.
        let told: Vec<&str> = self.cards.iter().map(|card| card.place.pci_bdf.as_str()).collect();
        let by_library = self.library.as_mut().map(|library| library.sample(tick, window, out, &told));
        if let Some(library) = &self.library {
            for card in &mut self.cards {
                if let Some((model, serial)) = library.name_at(&card.place.pci_bdf) {
                    let owned = |text: Option<&str>| text.map(str::to_owned);
                    card.facts.model = card.facts.model.take().or_else(|| owned(model));
                    card.facts.serial = card.facts.serial.take().or_else(|| owned(serial));
                }
            }
        }
        let nodes = if slow || self.cards.iter().any(|card| card.slow.is_none()) {
            Some(amdgpu_sysfs::nodes(root))
        } else {
            None
        };
        let computing = if self.cards.is_empty() { None } else { amdgpu_sysfs::computing(root) };
        let before = self.cards.len();
        let search = &self.search;
        self.cards.retain_mut(|card| card.sample(root, nodes.as_deref(), computing.as_ref(), search, window, out));
        self.look_now = self.cards.len() < before;
        if !self.cards.is_empty() {
            return Ok(());
        }
        match by_library {
            Some(result) => result,
            None => Err(ProbeError::Absent("no card is driven by amdgpu".to_owned())),
        }
    }

    fn glance(&mut self, window: &mut Window) {
        for card in self.cards.iter_mut().filter(|card| !card.is_asleep) {
            let load = card.load.number().and_then(percent);
            let power = card.sensors.power();
            window.look(&card.facts.device, load, power);
        }
        // Those that files tell of are looked at already.
        if let Some(library) = &self.library
            && self.cards.is_empty()
        {
            library.glance(window);
        }
    }
}

/// What does not change about a card while its driver is loaded.
struct Facts {
    index: i64,
    device: String,
    driver: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    device_file: Option<String>,
    firmware: Option<String>,
    numa_node: Option<i64>,
    memory_total: Option<u64>,
}

impl Facts {
    fn look(root: &HostRoot, index: usize, place: &Place, driver: Option<&str>) -> Self {
        let of = |file: &str| read_text(&place.device.join(file));
        let serial = of("serial_number").filter(|serial| serial.chars().any(|c| c != '0'));
        let unique_id = of("unique_id").and_then(|id| u64::from_str_radix(id.trim_start_matches("0x"), 16).ok());
        let device = unique_id.and_then(identity).or_else(|| serial.clone());
        Self {
            index: i64::try_from(index).unwrap_or(i64::MAX),
            device: device.unwrap_or_else(|| place.pci_bdf.clone()),
            driver: driver.map(str::to_owned),
            model: name(root, &place.device),
            serial,
            device_file: render_file(&place.device),
            firmware: of("vbios_version"),
            numa_node: numa_node(root, &place.pci_bdf),
            memory_total: read_u64(&place.device.join("mem_info_vram_total")).filter(|bytes| *bytes > 0),
        }
    }

    /// What card and partitions have in common.
    fn fill(&self, pci_bdf: &str, row: &mut Row<'_>) {
        row.int("index", self.index)
            .text("model", self.model.as_deref())
            .text("serial", self.serial.as_deref())
            .text("pci_bdf", pci_bdf)
            .text("device_file", self.device_file.as_deref())
            .text("driver_version", self.driver.as_deref())
            .text("firmware_version", self.firmware.as_deref())
            .int("numa_node", self.numa_node);
    }
}

/// What was read in the last ten seconds.
#[derive(Debug, Default)]
struct Slow {
    power_limit: Option<f64>,
    core_clock_max: Option<i64>,
    memory_clock_max: Option<i64>,
    errors: Option<(u64, u64)>,
    /// Pages out of use, and whether others will be.
    bad_pages: Option<(u64, bool)>,
    link: PciLink,
    /// What computes here: one for a whole card, more for one that is cut.
    nodes: Vec<Node>,
    /// How it is cut, such as `CPX NPS4`; `None` where it cannot be.
    cut: Option<String>,
}

/// A card.
struct Card {
    place: Place,
    facts: Facts,
    sleep: FileReader,
    is_asleep: bool,
    load: FileReader,
    memory_load: FileReader,
    memory_used: FileReader,
    replays: FileReader,
    metrics: TableReader,
    sensors: Sensors,
    error_files: Vec<PathBuf>,
    /// What the last table counted.
    residency: Residency,
    slow: Option<Slow>,
}

impl Card {
    fn new(place: Place, facts: Facts) -> Self {
        let of = |file: &str| FileReader::new(place.device.join(file));
        Self {
            sleep: of("power/runtime_status"),
            is_asleep: false,
            load: of("gpu_busy_percent"),
            memory_load: of("mem_busy_percent"),
            memory_used: of("mem_info_vram_used"),
            replays: of("pcie_replay_count"),
            metrics: TableReader::new(place.device.join("gpu_metrics")),
            sensors: Sensors::find(&place.device),
            error_files: error_files(&place.device),
            residency: Residency::default(),
            slow: None,
            place,
            facts,
        }
    }

    fn look_slowly(&mut self, root: &HostRoot, nodes: &[Node]) {
        let device = &self.place.device;
        let max = |file: &str| read_text(&device.join(file)).and_then(|text| highest_clock(&text));
        let at = location(&self.place.pci_bdf);
        let compute = read_text(&device.join("current_compute_partition"));
        let memory = read_text(&device.join("current_memory_partition"));
        self.slow = Some(Slow {
            power_limit: self.sensors.power_cap(),
            core_clock_max: max("pp_dpm_sclk"),
            memory_clock_max: max("pp_dpm_mclk"),
            errors: errors(&self.error_files),
            bad_pages: read_long(&device.join("ras/gpu_vram_bad_pages")).map(|text| parse_bad_pages(&text)),
            link: PciLink::read(root, &self.place.pci_bdf),
            nodes: nodes.iter().filter(|node| Some(node.at) == at).cloned().collect(),
            cut: compute.map(|compute| match memory {
                Some(memory) => format!("{compute} {memory}"),
                None => compute,
            }),
        });
    }

    /// The rows of the card, its partitions and the processes on them; false when it is lost.
    fn sample(
        &mut self,
        root: &HostRoot,
        nodes: Option<&[Node]>,
        computing: Option<&BTreeMap<u32, BTreeMap<u64, Option<u64>>>>,
        search: &Search,
        window: &mut Window,
        out: &mut Readings,
    ) -> bool {
        self.is_asleep = self.sleep.read_if_there().is_some_and(|status| status.trim() == "suspended");
        if self.is_asleep {
            let mut row = out.device(&self.facts.device);
            self.facts.fill(&self.place.pci_bdf, &mut row);
            row.count("memory_total_bytes", self.facts.memory_total);
            return true;
        }
        let mut trouble = None;
        let load = match self.load.read() {
            Ok(text) => first_word(text).and_then(percent),
            Err(error) => {
                if is_trouble(&error) {
                    trouble = Some(error.to_string());
                }
                None
            }
        };
        let used = self.memory_used.number();
        let power = self.sensors.power();
        let metrics = self.metrics.read().and_then(parse_metrics);
        if load.is_none() && used.is_none() && power.is_none() && metrics.is_none() && !self.place.device.exists() {
            return false;
        }
        let metrics = metrics.unwrap_or_default();
        if let Some(nodes) = nodes {
            self.look_slowly(root, nodes);
        }
        let load = load.or_else(|| metrics.load.and_then(percent));
        #[allow(clippy::cast_precision_loss)] // Some hundred watts.
        let power = power.or_else(|| metrics.power.filter(|watts| *watts > 0).map(|watts| watts as f64));
        window.look(&self.facts.device, load, power);
        let processes = self.processes(computing, search);
        let mut row = out.device(&self.facts.device);
        self.facts.fill(&self.place.pci_bdf, &mut row);
        let total = self.facts.memory_total;
        row.float("utilization_ratio", load)
            .count("memory_total_bytes", total)
            .count("memory_used_bytes", used)
            .count("memory_free_bytes", total.zip(used).and_then(|(total, used)| total.checked_sub(used)))
            .float("power_watts", power);
        window.fill(&self.facts.device, &mut row);
        self.fill_levels(&metrics, &mut row);
        self.fill_slow(&metrics, &mut row);
        // Those on a card that is cut are its partitions'; of a card that the compute driver does not show nothing is known.
        let is_listed = computing.is_some() && self.slow.as_ref().is_some_and(|slow| slow.nodes.len() == 1);
        let count = processes.values().filter(|on| on.computes).count();
        row.int("processes", is_listed.then(|| i64::try_from(count).unwrap_or(i64::MAX)));
        row.text("error", trouble.as_deref());
        self.residency = metrics.residency;
        for (pid, on) in &processes {
            out.process(&OnDevice {
                device: &self.facts.device,
                pid: *pid,
                work: Some(on.work()),
                memory_used_bytes: on.memory,
                utilization_ratio: on.load,
                encoder_utilization_ratio: on.encoder_load,
                decoder_utilization_ratio: on.decoder_load,
                ..OnDevice::default()
            });
        }
        self.sample_partitions(&metrics, computing, window, out);
        true
    }

    /// Processes on the whole card, by their number.
    fn processes(
        &self,
        computing: Option<&BTreeMap<u32, BTreeMap<u64, Option<u64>>>>,
        search: &Search,
    ) -> BTreeMap<u32, OnCard> {
        let mut found: BTreeMap<u32, OnCard> = BTreeMap::new();
        let nodes = self.slow.as_ref().map(|slow| slow.nodes.as_slice()).unwrap_or_default();
        // On a card that is cut, processes are told with the partition they use.
        if let ([node], Some(computing)) = (nodes, computing) {
            for (pid, memory) in computing {
                // Every process has a file for every card it may use; one that holds nothing does not use it.
                if let Some(held) = memory.get(&node.gpu_id).filter(|held| **held != Some(0)) {
                    found.insert(*pid, OnCard { computes: true, memory: *held, ..OnCard::default() });
                }
            }
        }
        for drawing in search.found().iter().filter(|drawing| drawing.pci_bdf == self.place.pci_bdf) {
            let has_drawn = drawing.load.is_some_and(|load| load > 0.0);
            let on = found.entry(drawing.pid).or_default();
            // One that computes has the card's file open too, without drawing.
            on.draws = !on.computes || has_drawn;
            on.memory = on.memory.or(drawing.memory_bytes);
            // The work of queues that programs fill themselves, as those that compute do, is not counted there.
            on.load = drawing.load.filter(|_| !on.computes || has_drawn);
            on.encoder_load = drawing.encoder_load;
            on.decoder_load = drawing.decoder_load;
        }
        found
    }

    /// Temperatures, clocks and what holds them back.
    #[allow(clippy::cast_precision_loss)] // Degrees, volts, joules since the driver was loaded.
    fn fill_levels(&mut self, metrics: &Metrics, row: &mut Row<'_>) {
        let sensors = &mut self.sensors;
        let degrees = |value: Option<u64>| value.filter(|degrees| (1..200).contains(degrees)).map(|n| n as f64);
        let megahertz = |value: Option<f64>| {
            let clock = value.filter(|clock| (0.0..100_000.0).contains(clock))?;
            #[allow(clippy::cast_possible_truncation)] // Looked at above.
            Some((clock * 1e6).round() as i64)
        };
        let mut of = |known: Option<u64>, which: fn(&mut Sensors) -> Option<&mut amdgpu_sysfs::Thermometer>| {
            degrees(known).or_else(|| which(sensors)?.read())
        };
        let edge = of(metrics.edge, |sensors| sensors.edge.as_mut());
        let hotspot = of(metrics.hotspot, |sensors| sensors.junction.as_mut());
        let memory = of(metrics.memory_temperature, |sensors| sensors.memory.as_mut());
        row.float("temperature_celsius", edge.or(hotspot))
            .float("hotspot_temperature_celsius", hotspot)
            .float("memory_temperature_celsius", memory)
            .float("slowdown_temperature_celsius", sensors.chip().and_then(|chip| chip.critical))
            .float("shutdown_temperature_celsius", sensors.chip().and_then(|chip| chip.emergency))
            .int("core_clock_hertz", megahertz(metrics.core_clock).or_else(|| sensors.core_clock()))
            .int(
                "memory_clock_hertz",
                megahertz(metrics.memory_clock.map(|clock| clock as f64)).or_else(|| sensors.memory_clock()),
            )
            .int("video_clock_hertz", megahertz(metrics.video_clock.map(|clock| clock as f64)))
            .float(
                "voltage_volts",
                metrics.voltage.filter(|mv| *mv > 0).map(|mv| mv as f64 / 1e3).or_else(|| sensors.voltage()),
            )
            .float("fan_ratio", sensors.fan())
            .text("throttle_reasons", throttle_reasons(metrics, &self.residency).as_deref())
            // A card that does not count has 0.
            .float("energy_joules", metrics.energy.filter(|n| *n > 0).map(|n| n as f64 * ENERGY_UNIT));
        let share = |percent: Option<f64>| percent.filter(|p| (0.0..=120.0).contains(p)).map(|p| (p / 100.0).min(1.0));
        let memory_load = metrics.memory_load.and_then(percent);
        row.float("memory_utilization_ratio", memory_load.or_else(|| self.memory_load.number().and_then(percent)))
            // The video engine encodes as well, on cards that can.
            .float("decoder_utilization_ratio", share(metrics.video_load))
            .float("jpeg_utilization_ratio", share(metrics.jpeg_load));
    }

    fn fill_slow(&mut self, metrics: &Metrics, row: &mut Row<'_>) {
        let replays = self.replays.number().or(metrics.pcie_replays);
        row.count("pcie_replays", replays)
            // XGMI counts in KiB.
            .count("link_received_bytes", metrics.link_received.and_then(|n| n.checked_mul(1024)))
            .count("link_transmitted_bytes", metrics.link_transmitted.and_then(|n| n.checked_mul(1024)));
        let slow = self.slow.get_or_insert_with(Slow::default);
        // Links of the whole card: partitions show the same ones.
        let to_others = slow.nodes.iter().map(|node| node.links).max().filter(|links| *links > 0);
        row.int("links", metrics.links.map(|(all, _)| all).or(to_others).map(i64::from))
            .int("links_active", metrics.links.map(|(_, up)| i64::from(up)));
        // The table tells of the link to the slot; a card with a switch on it has another behind that.
        #[allow(clippy::cast_precision_loss)] // Tenths of GT/s.
        let generation = metrics.pcie_speed.and_then(|tenths| generation_of(tenths as f64 / 10.0));
        let width = metrics.pcie_width.and_then(|n| i64::try_from(n).ok()).filter(|n| (1..=32).contains(n));
        let link =
            PciLink { generation: generation.or(slow.link.generation), width: width.or(slow.link.width), ..slow.link };
        link.fill(row);
        let cores: Option<i64> = slow.nodes.iter().map(|node| node.cores).sum();
        row.float("power_limit_watts", slow.power_limit)
            .int("core_clock_max_hertz", slow.core_clock_max)
            .int("memory_clock_max_hertz", slow.memory_clock_max)
            .count("ecc_corrected_volatile", slow.errors.map(|(corrected, _)| corrected))
            .count("ecc_uncorrected_volatile", slow.errors.map(|(_, uncorrected)| uncorrected))
            .count("retired_pages_uncorrected", slow.bad_pages.map(|(retired, _)| retired))
            .bool("retired_pages_pending", slow.bad_pages.map(|(_, pending)| pending))
            .int("cores", cores.filter(|cores| *cores > 0))
            .bool("mig_enabled", slow.cut.as_ref().map(|_| slow.nodes.len() > 1));
    }

    fn sample_partitions(
        &self,
        metrics: &Metrics,
        computing: Option<&BTreeMap<u32, BTreeMap<u64, Option<u64>>>>,
        window: &mut Window,
        out: &mut Readings,
    ) {
        let Some(slow) = self.slow.as_ref().filter(|slow| slow.nodes.len() > 1) else { return };
        for (number, node) in slow.nodes.iter().enumerate() {
            let device = format!("{}-xcp{number}", self.facts.device);
            let load = metrics.partitions.get(number).copied().flatten();
            let load = load.filter(|p| (0.0..=120.0).contains(p)).map(|p| (p / 100.0).min(1.0));
            let used = node.memory_used();
            let on: Vec<(u32, Option<u64>)> = computing
                .into_iter()
                .flatten()
                .filter_map(|(pid, memory)| Some((*pid, *memory.get(&node.gpu_id).filter(|held| **held != Some(0))?)))
                .collect();
            window.look(&device, load, None);
            let mut row = out.device(&device);
            self.facts.fill(&self.place.pci_bdf, &mut row);
            row.text("parent", self.facts.device.as_str())
                .text("partition_type", "xcp")
                .text("partition_id", number.to_string().as_str())
                .text("partition_profile", slow.cut.as_deref())
                .int("cores", node.cores)
                .float("utilization_ratio", load)
                .count("memory_total_bytes", node.memory_bytes)
                .count("memory_used_bytes", used)
                .count(
                    "memory_free_bytes",
                    node.memory_bytes.zip(used).and_then(|(total, used)| total.checked_sub(used)),
                )
                .int("processes", computing.is_some().then(|| i64::try_from(on.len()).unwrap_or(i64::MAX)));
            window.fill(&device, &mut row);
            for (pid, memory_used_bytes) in on {
                out.process(&OnDevice {
                    device: &device,
                    pid,
                    work: Some("compute"),
                    memory_used_bytes,
                    ..OnDevice::default()
                });
            }
        }
    }
}

/// A process on a card.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct OnCard {
    computes: bool,
    draws: bool,
    memory: Option<u64>,
    load: Option<f64>,
    encoder_load: Option<f64>,
    decoder_load: Option<f64>,
}

impl OnCard {
    fn work(&self) -> &'static str {
        match (self.computes, self.draws) {
            (true, true) => "both",
            (true, false) => "compute",
            (false, _) => "graphics",
        }
    }
}

/// Per cent as a share of one.
fn percent(percent: u64) -> Option<f64> {
    ratio(u32::try_from(percent).ok()?)
}

/// A text file that may have more than a page.
fn read_long(path: &std::path::Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_BAD_PAGES).read_to_string(&mut text).ok()?;
    Some(text)
}
