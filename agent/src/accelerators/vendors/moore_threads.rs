//! Moore Threads' cards (MTT S and their kin), through MTML.
//!
//! A card may be cut into instances (MPC): rows of their own, with their own load and memory. The library also shows
//! instances, and slices for virtual machines, among the devices; an instance is told once, under its card, and a slice
//! for a virtual machine not at all on the host. In a container that sees only an instance, its row is that of a card.
//!
//! The library lists devices when it is initialised, and does not say that one has gone: calls fail as on any trouble
//! of the driver. So a card that answers none of the first questions, and not who it is either, counts as lost.
//!
//! There is no list of processes.

use nodescope_model::rows::Row;

use super::VendorOptions;
use super::common::{
    Asking, MAX_CARDS, Obstacle, Reader, Source, celsius, megahertz, milliwatts, numa_node, pci_address, share, small,
};
use crate::abi::OpenError;
use crate::abi::mtml::{Code, Device, Gpu, Memory, Mtml, Profile, Session, Video};
use crate::accelerators::readings::Readings;
use crate::accelerators::window::Window;
use crate::host_root::HostRoot;
use crate::probe::Tick;

const CANDIDATES: &[&str] = &["libmtml.so.2", "libmtml.so"];

/// Links of a card, and instances it is cut into, that are looked at.
const MAX_LINKS: u32 = 32;
const MAX_INSTANCES: u32 = 64;

/// Reads Moore Threads' cards.
pub(crate) type MooreThreads = Reader<Library>;

/// The library, as it is open.
pub(crate) struct Library {
    mtml: Mtml,
    root: HostRoot,
    session: Option<Session>,
}

/// A card.
pub(crate) struct Card {
    index: u32,
    identity: String,
    handles: Handles,
    facts: Facts,
    is_instance: bool,
    /// An instance that is told under its card. Its handle is kept: it may be the one that its card has given.
    is_told: bool,
    asking: Asking<Code>,
    has_slow: bool,
    slow: Slow,
    instances: Vec<Instance>,
}

/// Handles of a device and its parts; a part that it does not have has none.
#[derive(Clone, Copy)]
struct Handles {
    device: Device,
    gpu: Option<Gpu>,
    memory: Option<Memory>,
    video: Option<Video>,
}

/// What a card was cut into.
struct Instance {
    index: u32,
    identity: String,
    handles: Handles,
    profile: Option<Profile>,
}

/// What does not change about a card.
struct Facts {
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
    pcie_max: (Option<i64>, Option<i64>),
    slowdown_temperature: Option<f64>,
    shutdown_temperature: Option<f64>,
}

/// What changes slowly.
#[derive(Default)]
struct Slow {
    pcie: (Option<i64>, Option<i64>),
    pcie_replays: Option<i64>,
    power_limit: Option<f64>,
    /// Corrected and uncorrected, since the driver was loaded and then in the board's life.
    ecc: [Option<u64>; 4],
    retired: (Option<i64>, Option<i64>),
    retirement_pending: Option<bool>,
    links: Option<(i64, i64)>,
}

impl Source for Library {
    const LIBRARY: &'static str = "MTML";

    type Card = Card;

    fn open(options: &VendorOptions) -> Result<Self, OpenError> {
        let mtml = Mtml::open(options.library(), CANDIDATES)?;
        Ok(Self { mtml, root: options.root.clone(), session: None })
    }

    fn initialize(&mut self) -> Result<(), Obstacle> {
        let session = self.mtml.initialize().map_err(|code| self.obstacle(code))?;
        self.session = Some(session);
        Ok(())
    }

    fn shut_down(&mut self, cards: Vec<Card>) {
        cards.iter().for_each(|card| self.give_back(card));
        if let Some(session) = self.session.take() {
            self.mtml.shut_down(session);
        }
    }

    fn cards(&mut self, known: Vec<Card>, trouble: &mut Option<String>) -> Result<Vec<Card>, Obstacle> {
        let Some(session) = self.session else { return Ok(Vec::new()) };
        let mtml = &self.mtml;
        let count = mtml.count(session).map_err(|code| self.obstacle(code))?.min(MAX_CARDS);
        let driver = mtml.driver_version(session);
        let (mut known, mut cards, mut gone) = (known, Vec::<Card>::new(), Vec::new());
        for index in 0..count {
            // A handle is made once: whether a second would be another, the library does not say.
            let before = known.iter().position(|card| card.index == index).map(|at| known.swap_remove(at));
            let found = match before.as_ref().map(|card| card.handles.device) {
                Some(device) => Ok(device),
                None => mtml.device(session, index),
            };
            let named = found.and_then(|device| Ok((device, mtml.uuid(device)?)));
            let (device, identity) = match named {
                Ok(found) => found,
                Err(code) => {
                    if !code.is_hidden() {
                        trouble.get_or_insert_with(|| format!("card {index}: {}", mtml.describe(code)));
                    }
                    gone.extend(before);
                    continue;
                }
            };
            let property = mtml.property(device).ok();
            if property.is_some_and(|property| property.is_virtual && !property.is_instance)
                || cards.iter().any(|card| card.identity == identity)
            {
                match before {
                    Some(card) => gone.push(card),
                    None => mtml.give_back_device(device),
                }
                continue;
            }
            let mut card = match before {
                Some(card) if card.identity == identity => card,
                // The same place, and another device in it.
                before => {
                    before.into_iter().for_each(|card| self.give_back_all_parts(&card));
                    self.card(index, identity, device, driver.clone())
                }
            };
            card.is_instance = property.is_some_and(|property| property.is_instance);
            card.asking.forget();
            if property.is_none_or(|property| property.can_be_cut || property.is_cut) && !card.is_instance {
                self.look_for_instances(&mut card);
            }
            cards.push(card);
        }
        let told: Vec<String> =
            cards.iter().flat_map(|card| card.instances.iter().map(|instance| instance.identity.clone())).collect();
        for card in &mut cards {
            card.is_told = card.is_instance && told.contains(&card.identity);
        }
        gone.extend(known);
        gone.iter().for_each(|card| self.give_back(card));
        Ok(cards)
    }

    fn sample(&mut self, card: &mut Card, _: &Tick, slow: bool, window: &mut Window, out: &mut Readings) -> bool {
        if card.is_told {
            return true;
        }
        let mtml = &self.mtml;
        let Handles { device, gpu, memory, .. } = card.handles;
        let asking = &mut card.asking;
        asking.begin();
        let load = gpu.and_then(|gpu| asking.ask("load", || mtml.load_of(gpu))).and_then(percent);
        let temperature = gpu.and_then(|gpu| asking.ask("temperature", || mtml.temperature(gpu)));
        let used = memory.and_then(|memory| asking.ask("memory used", || mtml.memory_used(memory)));
        let power = asking.ask("power", || mtml.power(device)).map(f64::from).and_then(milliwatts);
        if asking.is_loss() || (asking.is_mute() && mtml.uuid(device).is_err()) {
            return false;
        }
        if slow || !std::mem::replace(&mut card.has_slow, true) {
            self.look_slowly(card);
        }
        window.look(&card.identity, load, power);
        self.fill(card, (load, power), temperature, used, window, out);
        for instance in &card.instances {
            self.sample_instance(card, instance, window, out);
        }
        true
    }

    fn glance(&mut self, card: &Card, window: &mut Window) {
        if card.is_told {
            return;
        }
        let load = |handles: &Handles| self.mtml.load_of(handles.gpu?).ok().and_then(percent);
        let power = self.mtml.power(card.handles.device).ok().map(f64::from).and_then(milliwatts);
        window.look(&card.identity, load(&card.handles), power);
        for instance in &card.instances {
            window.look(&instance.identity, load(&instance.handles), None);
        }
    }
}

impl Library {
    fn obstacle(&self, code: Code) -> Obstacle {
        match code {
            Code::DRIVER_NOT_LOADED => Obstacle::Absent("the driver is not loaded".to_owned()),
            Code::MISSING => Obstacle::Driver(format!("{} lacks functions", self.mtml.path().display())),
            code if code.is_mismatch() => Obstacle::Mismatch(self.mtml.describe(code)),
            code => Obstacle::Driver(self.mtml.describe(code)),
        }
    }

    fn handles(&self, device: Device) -> Handles {
        let mtml = &self.mtml;
        let (gpu, memory, video) = (mtml.gpu(device).ok(), mtml.memory(device).ok(), mtml.video(device).ok());
        Handles { device, gpu, memory, video }
    }

    /// Parts first, as they belong to the device.
    fn give_back_parts(&self, handles: Handles) {
        handles.gpu.into_iter().for_each(|gpu| self.mtml.give_back_gpu(gpu));
        handles.memory.into_iter().for_each(|memory| self.mtml.give_back_memory(memory));
        handles.video.into_iter().for_each(|video| self.mtml.give_back_video(video));
    }

    fn give_back_all_parts(&self, card: &Card) {
        // Instances are their card's: nothing gives them back.
        card.instances.iter().for_each(|instance| self.give_back_parts(instance.handles));
        self.give_back_parts(card.handles);
    }

    fn give_back(&self, card: &Card) {
        self.give_back_all_parts(card);
        self.mtml.give_back_device(card.handles.device);
    }

    fn card(&self, index: u32, identity: String, device: Device, driver: Option<String>) -> Card {
        let mtml = &self.mtml;
        let handles = self.handles(device);
        let pci = mtml.pci(device).ok();
        let pci_bdf = pci.as_ref().and_then(|pci| pci_address(pci.address.as_deref()?));
        let of_gpu = |question: fn(&Mtml, Gpu) -> Result<u32, Code>| question(mtml, handles.gpu?).ok();
        let path = mtml.device_path(device).ok();
        let facts = Facts {
            driver,
            model: mtml.name(device).ok(),
            serial: mtml.serial(device).ok(),
            device_file: path.map(|path| path.trim_start_matches("/dev/").to_owned()),
            firmware: mtml.firmware(device).ok(),
            numa_node: numa_node(&self.root, pci_bdf.as_deref()),
            pci_bdf,
            cores: mtml.cores(device).ok().filter(|cores| *cores > 0 && *cores != u32::MAX).map(i64::from),
            core_clock_max: of_gpu(Mtml::gpu_clock_max).and_then(megahertz),
            memory_clock_max: handles.memory.and_then(|m| mtml.memory_clock_max(m).ok()).and_then(megahertz),
            pcie_max: pci.map_or((None, None), |pci| (small(pci.max_generation), small(pci.max_width))),
            slowdown_temperature: of_gpu(Mtml::slowdown_temperature).and_then(degrees),
            shutdown_temperature: of_gpu(Mtml::shutdown_temperature).and_then(degrees),
        };
        Card {
            index,
            identity,
            handles,
            facts,
            is_instance: false,
            is_told: false,
            asking: Asking::default(),
            has_slow: false,
            slow: Slow::default(),
            instances: Vec::new(),
        }
    }

    /// What the card is cut into. Handles that still are who they were are kept: there is no way to give them back.
    fn look_for_instances(&self, card: &mut Card) {
        let mtml = &self.mtml;
        let device = card.handles.device;
        let is_cut = mtml.is_cut(device).unwrap_or(false);
        let count = if is_cut { mtml.instances(device).unwrap_or(0).min(MAX_INSTANCES) } else { 0 };
        let is_same =
            |instance: &Instance| mtml.uuid(instance.handles.device).ok().as_ref() == Some(&instance.identity);
        let have = u32::try_from(card.instances.len()).unwrap_or(u32::MAX);
        if have == count && card.instances.iter().all(is_same) {
            return;
        }
        card.instances.drain(..).for_each(|instance| self.give_back_parts(instance.handles));
        for index in 0..count {
            let Ok(device) = mtml.instance(device, index) else { continue };
            let Ok(identity) = mtml.uuid(device) else { continue };
            if identity == card.identity || card.instances.iter().any(|instance| instance.identity == identity) {
                continue;
            }
            let profile = mtml.profile(device).ok();
            card.instances.push(Instance { index, identity, handles: self.handles(device), profile });
        }
    }

    fn look_slowly(&self, card: &mut Card) {
        let mtml = &self.mtml;
        let Handles { device, gpu, memory, .. } = card.handles;
        let asking = &mut card.asking;
        let pci = asking.ask("PCIe", || mtml.pci(device));
        let mut errors = |what, uncorrected, in_life| {
            let count = memory.and_then(|memory| asking.ask(what, || mtml.ecc(memory, uncorrected, in_life)));
            count.filter(|count| *count != u64::MAX)
        };
        let ecc = [
            errors("ECC corrected", false, false),
            errors("ECC uncorrected", true, false),
            errors("ECC corrected in life", false, true),
            errors("ECC uncorrected in life", true, true),
        ];
        let retired = memory.and_then(|memory| asking.ask("retired pages", || mtml.retired_pages(memory)));
        let links = asking.ask("links", || mtml.links(device)).map(|links| links.min(MAX_LINKS));
        let links = links.and_then(|links| {
            let states = (0..links).map_while(|link| asking.ask("link", || mtml.link_is_up(device, link)));
            let up = states.filter(|up| *up).count();
            Some((i64::from(links), i64::try_from(up).ok()?))
        });
        let limit = gpu.and_then(|gpu| asking.ask("power limit", || mtml.power_limit(gpu)));
        card.slow = Slow {
            pcie: pci.map_or((None, None), |pci| (small(pci.generation), small(pci.width))),
            pcie_replays: asking.ask("PCIe replays", || mtml.pcie_replays(device)).and_then(counted),
            power_limit: limit.map(f64::from).and_then(milliwatts),
            ecc,
            retired: retired.map_or((None, None), |pages| (counted(pages.corrected), counted(pages.uncorrected))),
            retirement_pending: memory.and_then(|m| asking.ask("retirement", || mtml.is_retirement_pending(m))),
            links,
        };
        if !card.is_instance {
            self.look_for_instances(card);
        }
    }

    fn fill(
        &self,
        card: &mut Card,
        (load, power): (Option<f64>, Option<f64>),
        temperature: Option<u32>,
        used: Option<u64>,
        window: &mut Window,
        out: &mut Readings,
    ) {
        let mtml = &self.mtml;
        let Handles { device, gpu, memory, video } = card.handles;
        let asking = &mut card.asking;
        let mut of_memory = |what, question: fn(&Mtml, Memory) -> Result<u32, Code>| {
            memory.and_then(|memory| asking.ask(what, || question(mtml, memory)))
        };
        let memory_load = of_memory("memory load", Mtml::memory_load).and_then(percent);
        let memory_clock = of_memory("memory clock", Mtml::memory_clock).and_then(megahertz);
        let memory_temperature = of_memory("memory temperature", Mtml::memory_temperature).and_then(degrees);
        let total = memory.and_then(|memory| asking.ask("memory", || mtml.memory_total(memory)));
        let reserved = memory.and_then(|memory| asking.ask("memory kept", || mtml.memory_reserved(memory)));
        let core_clock = gpu.and_then(|gpu| asking.ask("core clock", || mtml.gpu_clock(gpu))).and_then(megahertz);
        let voltage = gpu.and_then(|gpu| asking.ask("voltage", || mtml.voltage(gpu))).and_then(millivolts);
        let video_load = video.and_then(|video| asking.ask("video", || mtml.video_load(video)));
        let video_clock = video.and_then(|v| asking.ask("video clock", || mtml.video_clock(v))).and_then(megahertz);
        let fan = asking.ask("fan", || mtml.fan(device)).and_then(percent);
        let state = asking.ask("performance state", || mtml.performance_state(device));

        let mut row = out.device(&card.identity);
        card.facts.fill(&mut row);
        row.int("index", i64::from(card.index))
            .int("cores", card.facts.cores)
            .float("utilization_ratio", load)
            .float("memory_utilization_ratio", memory_load)
            .float("encoder_utilization_ratio", video_load.and_then(|load| percent(load.encoder)))
            .float("decoder_utilization_ratio", video_load.and_then(|load| percent(load.decoder)))
            .count("memory_total_bytes", total.and_then(bytes))
            .count("memory_used_bytes", used.and_then(bytes))
            .count("memory_reserved_bytes", reserved.and_then(bytes))
            .float("power_watts", power)
            .float("voltage_volts", voltage)
            .float("temperature_celsius", temperature.and_then(degrees))
            .float("memory_temperature_celsius", memory_temperature)
            .int("core_clock_hertz", core_clock)
            .int("memory_clock_hertz", memory_clock)
            .int("video_clock_hertz", video_clock)
            .int("performance_state", state.filter(|state| (0..16).contains(state)).map(i64::from))
            .float("fan_ratio", fan);
        window.fill(&card.identity, &mut row);
        card.slow.fill(&mut row);
        row.text("error", card.asking.error(|code| mtml.describe(code)).as_deref());
    }

    fn sample_instance(&self, card: &Card, instance: &Instance, window: &mut Window, out: &mut Readings) {
        let mtml = &self.mtml;
        let Handles { gpu, memory, .. } = instance.handles;
        let load = gpu.and_then(|gpu| mtml.load_of(gpu).ok()).and_then(percent);
        let of_memory = |question: fn(&Mtml, Memory) -> Result<u64, Code>| question(mtml, memory?).ok().and_then(bytes);
        window.look(&instance.identity, load, None);
        let profile = instance.profile.as_ref();
        let cores = profile.map(|profile| i64::from(profile.cores)).filter(|cores| *cores > 0);
        let mut row = out.device(&instance.identity);
        card.facts.fill(&mut row);
        row.int("index", i64::from(card.index))
            .text("parent", card.identity.as_str())
            .text("partition_type", "mpc")
            .text("partition_id", instance.index.to_string().as_str())
            .text("partition_profile", profile.and_then(|profile| profile.name.as_deref()))
            .int("cores", cores)
            .float("utilization_ratio", load)
            .count("memory_total_bytes", of_memory(Mtml::memory_total))
            .count("memory_used_bytes", of_memory(Mtml::memory_used));
        window.fill(&instance.identity, &mut row);
    }
}

impl Facts {
    /// What card and instances have in common.
    fn fill(&self, row: &mut Row<'_>) {
        row.text("model", self.model.as_deref())
            .text("serial", self.serial.as_deref())
            .text("pci_bdf", self.pci_bdf.as_deref())
            .text("device_file", self.device_file.as_deref())
            .text("driver_version", self.driver.as_deref())
            .text("firmware_version", self.firmware.as_deref())
            .int("numa_node", self.numa_node)
            .int("core_clock_max_hertz", self.core_clock_max)
            .int("memory_clock_max_hertz", self.memory_clock_max)
            .int("pcie_generation_max", self.pcie_max.0)
            .int("pcie_width_max", self.pcie_max.1)
            .float("slowdown_temperature_celsius", self.slowdown_temperature)
            .float("shutdown_temperature_celsius", self.shutdown_temperature);
    }
}

impl Slow {
    fn fill(&self, row: &mut Row<'_>) {
        let [corrected, uncorrected, corrected_in_life, uncorrected_in_life] = self.ecc;
        row.int("pcie_generation", self.pcie.0)
            .int("pcie_width", self.pcie.1)
            .int("pcie_replays", self.pcie_replays)
            .float("power_limit_watts", self.power_limit)
            .count("ecc_corrected_volatile", corrected)
            .count("ecc_uncorrected_volatile", uncorrected)
            .count("ecc_corrected_aggregate", corrected_in_life)
            .count("ecc_uncorrected_aggregate", uncorrected_in_life)
            .count("ecc_corrected_dram", corrected_in_life)
            .count("ecc_uncorrected_dram", uncorrected_in_life)
            .int("retired_pages_corrected", self.retired.0)
            .int("retired_pages_uncorrected", self.retired.1)
            .bool("retired_pages_pending", self.retirement_pending)
            .int("links", self.links.map(|(links, _)| links))
            .int("links_active", self.links.map(|(_, active)| active));
    }
}

fn percent(percent: u32) -> Option<f64> {
    share(f64::from(percent))
}

/// The library means a signed number where it gives temperatures.
fn degrees(degrees: u32) -> Option<f64> {
    celsius(f64::from(degrees.cast_signed()))
}

/// No chip takes a hundred volts.
fn millivolts(millivolts: u32) -> Option<f64> {
    (1..100_000).contains(&millivolts).then(|| f64::from(millivolts) / 1e3)
}

fn counted(count: u32) -> Option<i64> {
    (count != u32::MAX).then(|| i64::from(count))
}

/// No card has a petabyte.
fn bytes(bytes: u64) -> Option<u64> {
    (bytes < 1 << 50).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_stands_for_not_known_is_null() {
        assert_eq!((percent(40), percent(u32::MAX)), (Some(0.4), None));
        assert_eq!((degrees(54), degrees(0u32.wrapping_sub(5)), degrees(1 << 31)), (Some(54.0), Some(-5.0), None));
        assert_eq!((millivolts(850), millivolts(0), millivolts(u32::MAX)), (Some(0.85), None, None));
        assert_eq!((counted(0), counted(u32::MAX)), (Some(0), None));
        assert_eq!((bytes(16 << 30), bytes(u64::MAX)), (Some(16 << 30), None));
    }

    proptest! {
        #[test]
        fn no_number_brings_it_down(number in any::<u32>(), wide in any::<u64>()) {
            percent(number);
            degrees(number);
            millivolts(number);
            counted(number);
            bytes(wide);
        }
    }
}
