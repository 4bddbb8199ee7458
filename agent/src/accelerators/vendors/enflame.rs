//! Enflame's cards (GCU: T20, S60 and their kin), through EFML.
//!
//! The library has two interfaces (see `abi::efml`), and what a card tells depends on which of them there is. The first
//! tells health, ECC errors, links and slices (vGCU); the second tells limits of temperature, how full the cores are, and
//! the load of each process. Where the library has both, the second is used: it is the one that is kept up.
//!
//! The first interface has no code for a card that has gone. So a card that answers none of the first questions, and not
//! who it is either, counts as lost.
//!
//! Counts of ECC errors are the library's; whether a restart clears them it does not say. Uncorrected errors in the
//! board's life come from what it says about sending the board back.

use std::collections::BTreeMap;

use nodescope_model::rows::Row;

use super::VendorOptions;
use super::common::{
    Asking, MAX_CARDS, Obstacle, Reader, Source, celsius, megahertz, milliwatts, numa_node, pci_address, share, small,
};
use crate::abi::OpenError;
use crate::abi::efml::{Clock, Code, Device, Efml, Info, Memory, ProcessSample};
use crate::accelerators::readings::{OnDevice, Readings};
use crate::accelerators::window::Window;
use crate::host_root::HostRoot;
use crate::probe::Tick;

const CANDIDATES: &[&str] =
    &["libefml.so.1", "libefml.so", "libefml.so.2", "/usr/lib/libefml.so", "/usr/lib64/libefml.so"];

/// Ports for links and slices of a card that are looked at.
const MAX_PORTS: u32 = 32;
const MAX_SLICES: usize = 64;

/// Reads Enflame's cards.
pub(crate) type Enflame = Reader<Library>;

/// The library, as it is open.
pub(crate) struct Library {
    efml: Efml,
    root: HostRoot,
}

/// A card.
pub(crate) struct Card {
    index: u32,
    identity: String,
    device: Device,
    facts: Facts,
    asking: Asking<Code>,
    has_slow: bool,
    slow: Slow,
    /// Numbers of what it is cut into.
    slices: Vec<u32>,
    /// Microseconds since 1970 of the newest sample of a process.
    last_process: u64,
}

/// What does not change about a card.
struct Facts {
    driver: Option<String>,
    info: Info,
    pci_bdf: Option<String>,
    numa_node: Option<i64>,
    core_clock_max: Option<i64>,
    memory_clock_max: Option<i64>,
    slowdown_temperature: Option<f64>,
    shutdown_temperature: Option<f64>,
}

/// What changes slowly.
#[derive(Default)]
struct Slow {
    power_limit: Option<f64>,
    /// Generation and width, each now and at the most.
    pcie: [Option<i64>; 4],
    /// Corrected and uncorrected.
    ecc: Option<(u32, u32)>,
    uncorrected_in_life: Option<u32>,
    retirement_pending: Option<bool>,
    health: Option<&'static str>,
    ports: u32,
    links: Option<(i64, i64)>,
}

impl Source for Library {
    const LIBRARY: &'static str = "EFML";

    type Card = Card;

    fn open(options: &VendorOptions) -> Result<Self, OpenError> {
        Ok(Self { efml: Efml::open(options.library(), CANDIDATES)?, root: options.root.clone() })
    }

    fn initialize(&mut self) -> Result<(), Obstacle> {
        self.efml.initialize().map_err(|code| self.obstacle(code))
    }

    fn shut_down(&mut self, _cards: Vec<Card>) {
        self.efml.shut_down();
    }

    fn cards(&mut self, known: Vec<Card>, trouble: &mut Option<String>) -> Result<Vec<Card>, Obstacle> {
        let efml = &self.efml;
        let count = efml.count().map_err(|code| self.obstacle(code))?.min(MAX_CARDS);
        let driver = efml.driver_version();
        let (mut known, mut cards) = (known, Vec::<Card>::new());
        for index in 0..count {
            let found = efml.device(index).and_then(|device| Ok((device, efml.info(device)?)));
            let (device, info) = match found {
                Ok(found) => found,
                Err(code) if code.is_hidden() => continue,
                Err(code) => {
                    trouble.get_or_insert_with(|| format!("card {index}: {}", efml.describe(code)));
                    continue;
                }
            };
            let pci_bdf = info.address.as_deref().and_then(pci_address);
            let Some(identity) = info.uuid.clone().or(info.serial.clone()).or(pci_bdf.clone()) else {
                trouble.get_or_insert_with(|| format!("card {index} has no identity"));
                continue;
            };
            if cards.iter().any(|card| card.identity == identity) {
                continue;
            }
            let (slowdown, shutdown) = efml.thresholds(device);
            let degrees = |found: Option<u32>| found.and_then(|degrees| celsius(f64::from(degrees)));
            let maximum = |which| efml.clock_max(device, which).ok().and_then(frequency);
            let facts = Facts {
                driver: driver.clone(),
                numa_node: numa_node(&self.root, pci_bdf.as_deref()),
                pci_bdf,
                info,
                core_clock_max: maximum(Clock::Core),
                memory_clock_max: maximum(Clock::Memory),
                slowdown_temperature: degrees(slowdown),
                shutdown_temperature: degrees(shutdown),
            };
            let mut card = match known.iter().position(|card| card.device == device && card.identity == identity) {
                Some(at) => Card { index, facts, ..known.swap_remove(at) },
                None => Card {
                    index,
                    identity,
                    device,
                    facts,
                    asking: Asking::default(),
                    has_slow: false,
                    slow: Slow::default(),
                    slices: Vec::new(),
                    last_process: 0,
                },
            };
            card.asking.forget();
            cards.push(card);
        }
        Ok(cards)
    }

    fn sample(&mut self, card: &mut Card, _: &Tick, slow: bool, window: &mut Window, out: &mut Readings) -> bool {
        let efml = &self.efml;
        let device = card.device;
        let asking = &mut card.asking;
        asking.begin();
        let load = asking.ask("load", || efml.load_of(device));
        let memory = asking.ask("memory", || efml.memory(device));
        let temperatures = asking.ask("temperature", || efml.temperatures(device));
        let power = asking.ask("power", || efml.power(device)).and_then(watts);
        if asking.is_loss() || (asking.is_mute() && efml.info(device).is_err()) {
            return false;
        }
        if slow || !std::mem::replace(&mut card.has_slow, true) {
            self.look_slowly(card);
        }
        let utilization = load.and_then(|(load, _)| share(load));
        window.look(&card.identity, utilization, power);
        let processes = card.asking.ask("processes", || efml.processes(device));
        let count = processes.as_ref().map(|found| i64::try_from(found.len()).unwrap_or(i64::MAX));

        let asking = &mut card.asking;
        let cores = asking.ask("cores", || efml.cores(device)).and_then(share);
        let occupancy = asking.ask("occupancy", || efml.occupancy(device));
        let video = asking.ask("video", || efml.video(device));
        let fan = asking.ask("fan", || efml.fan(device)).and_then(percent);
        let mut clock = |what, which| asking.ask(what, || efml.clock(device, which)).and_then(frequency);
        let clocks = [
            clock("core clock", Clock::Core),
            clock("memory clock", Clock::Memory),
            clock("video clock", Clock::Video),
        ];
        let traffic = link_traffic(efml, device, card.slow.ports, asking);
        let mut row = out.device(&card.identity);
        card.facts.fill(&mut row);
        row.int("index", i64::from(card.index))
            .float("utilization_ratio", utilization)
            .float("memory_utilization_ratio", load.and_then(|(_, memory)| memory).and_then(share))
            .float("core_active_ratio", cores)
            .float("core_occupancy_ratio", occupancy.and_then(|o| percent(o.cores)))
            .float("vector_utilization_ratio", occupancy.and_then(|o| percent(o.vector)))
            .float("tensor_active_ratio", occupancy.and_then(|o| percent(o.matrix)))
            .float("encoder_utilization_ratio", video.and_then(|(encoder, _)| percent(encoder)))
            .float("decoder_utilization_ratio", video.and_then(|(_, decoder)| percent(decoder)))
            .float("power_watts", power)
            .float("temperature_celsius", temperatures.and_then(|(chip, _)| celsius(chip)))
            .float("memory_temperature_celsius", temperatures.and_then(|(_, memory)| memory).and_then(warm))
            .int("core_clock_hertz", clocks[0])
            .int("memory_clock_hertz", clocks[1])
            .int("video_clock_hertz", clocks[2])
            .float("fan_ratio", fan)
            .float("link_received_bytes_per_second", traffic.map(|(received, _)| received))
            .float("link_transmitted_bytes_per_second", traffic.map(|(_, transmitted)| transmitted))
            .int("processes", count);
        fill_memory(memory, &mut row);
        window.fill(&card.identity, &mut row);
        card.slow.fill(&mut row);
        row.text("error", card.asking.error(|code| efml.describe(code)).as_deref());
        self.sample_slices(card, out);
        self.tell_processes(card, processes.unwrap_or_default(), out);
        true
    }

    fn glance(&mut self, card: &Card, window: &mut Window) {
        let load = self.efml.load_of(card.device).ok().and_then(|(load, _)| share(load));
        let power = self.efml.power(card.device).ok().and_then(watts);
        window.look(&card.identity, load, power);
    }
}

impl Library {
    fn obstacle(&self, code: Code) -> Obstacle {
        match code {
            code if code.is_no_driver() => Obstacle::Absent(format!("no driver or card: {}", self.efml.describe(code))),
            Code::Missing => Obstacle::Driver(format!("{} lacks functions", self.efml.path().display())),
            code if code.is_mismatch() => Obstacle::Mismatch(self.efml.describe(code)),
            code => Obstacle::Driver(self.efml.describe(code)),
        }
    }

    fn look_slowly(&self, card: &mut Card) {
        let efml = &self.efml;
        let device = card.device;
        let asking = &mut card.asking;
        let pcie = asking.ask("PCIe", || efml.pcie(device)).unwrap_or_default();
        let ecc = asking.ask("ECC", || efml.ecc(device));
        let should_return = asking.ask("return", || efml.should_return(device)).flatten();
        let is_healthy = asking.ask("health", || efml.is_healthy(device));
        let is_tried = efml.ports(device).is_ok_and(|ports| ports.is_none());
        let ports = asking.ask("ports", || efml.ports(device)).map(|ports| ports.unwrap_or(MAX_PORTS).min(MAX_PORTS));
        let states: Vec<bool> = (0..ports.unwrap_or(0)).map_while(|port| efml.link_is_up(device, port).ok()).collect();
        let up = states.iter().filter(|up| **up).count();
        let links = ports.filter(|_| !is_tried || !states.is_empty());
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        card.slow = Slow {
            power_limit: asking.ask("power limit", || efml.power_limit(device)).and_then(watts),
            pcie: [pcie.generation, pcie.width, pcie.generation_max, pcie.width_max].map(small),
            ecc: ecc.filter(|ecc| ecc.corrected != u32::MAX).map(|ecc| (ecc.corrected, ecc.uncorrected)),
            uncorrected_in_life: should_return.map(|(_, errors)| errors),
            retirement_pending: ecc.map(|ecc| ecc.is_retirement_pending()),
            health: health(is_healthy, should_return.map(|(hint, _)| hint)),
            ports: if is_tried { 0 } else { ports.unwrap_or(0) },
            links: links.map(|ports| (if is_tried { count(states.len()) } else { i64::from(ports) }, count(up))),
        };
        card.slices = asking.ask("slices", || efml.slices(device)).unwrap_or_default();
        card.slices.truncate(MAX_SLICES);
        card.slices.sort_unstable();
        card.slices.dedup();
    }

    fn sample_slices(&self, card: &Card, out: &mut Readings) {
        for slice in &card.slices {
            let memory = match self.efml.slice_memory(card.device, *slice) {
                Ok(memory) => Some(memory),
                Err(Code::Missing) => None,
                // It has been given up since it was last looked for.
                Err(_) => continue,
            };
            let load = self.efml.slice_load(card.device, *slice).ok().and_then(share);
            let mut row = out.device(&format!("{}-vgcu{slice}", card.identity));
            card.facts.fill(&mut row);
            row.int("index", i64::from(card.index))
                .text("parent", card.identity.as_str())
                .text("partition_type", "vgcu")
                .text("partition_id", slice.to_string().as_str())
                .float("utilization_ratio", load);
            fill_memory(memory, &mut row);
        }
    }

    fn tell_processes(&self, card: &mut Card, processes: Vec<(u32, Option<u64>)>, out: &mut Readings) {
        let (device, last) = (card.device, card.last_process);
        let samples = match processes.is_empty() {
            true => Vec::new(),
            false => card.asking.ask("samples", || self.efml.process_samples(device, last)).unwrap_or_default(),
        };
        let shares = process_shares(&samples, last);
        card.last_process = samples.iter().map(|sample| sample.at).max().unwrap_or(0).max(last);
        for (pid, memory_used_bytes) in processes {
            let [cores, memory, encoder, decoder] = shares.get(&pid).copied().unwrap_or_default();
            out.process(&OnDevice {
                device: &card.identity,
                pid,
                work: Some("compute"),
                memory_used_bytes,
                utilization_ratio: cores,
                memory_utilization_ratio: memory,
                encoder_utilization_ratio: encoder,
                decoder_utilization_ratio: decoder,
            });
        }
    }
}

impl Facts {
    /// What card and slices have in common.
    fn fill(&self, row: &mut Row<'_>) {
        let file = self.info.logical.map(|number| format!("gcu{number}"));
        row.text("model", self.info.name.as_deref())
            .text("serial", self.info.serial.as_deref())
            .text("pci_bdf", self.pci_bdf.as_deref())
            .text("device_file", file.as_deref())
            .text("driver_version", self.driver.as_deref())
            .text("firmware_version", self.info.firmware.as_deref())
            .int("numa_node", self.numa_node)
            .int("core_clock_max_hertz", self.core_clock_max)
            .int("memory_clock_max_hertz", self.memory_clock_max)
            .float("slowdown_temperature_celsius", self.slowdown_temperature)
            .float("shutdown_temperature_celsius", self.shutdown_temperature);
    }
}

impl Slow {
    fn fill(&self, row: &mut Row<'_>) {
        let [generation, width, generation_max, width_max] = self.pcie;
        row.float("power_limit_watts", self.power_limit)
            .int("pcie_generation", generation)
            .int("pcie_width", width)
            .int("pcie_generation_max", generation_max)
            .int("pcie_width_max", width_max)
            .int("ecc_corrected_volatile", self.ecc.map(|(corrected, _)| i64::from(corrected)))
            .int("ecc_uncorrected_volatile", self.ecc.map(|(_, uncorrected)| i64::from(uncorrected)))
            .int("ecc_uncorrected_aggregate", self.uncorrected_in_life.map(i64::from))
            .bool("retired_pages_pending", self.retirement_pending)
            .text("health", self.health)
            .int("links", self.links.map(|(links, _)| links))
            .int("links_active", self.links.map(|(_, active)| active));
    }
}

/// What goes over all links; `None` when one of them does not tell it.
fn link_traffic(efml: &Efml, device: Device, ports: u32, asking: &mut Asking<Code>) -> Option<(f64, f64)> {
    let mut sums = None;
    for port in 0..ports {
        let found = asking.ask("link traffic", || efml.throughput(device, port))?;
        let received = megabytes(found.received.into())?;
        let transmitted = megabytes(found.transmitted.into())?;
        let (a, b) = sums.unwrap_or((0.0, 0.0));
        sums = Some((a + received, b + transmitted));
    }
    sums
}

fn fill_memory(memory: Option<Memory>, row: &mut Row<'_>) {
    // No card has a petabyte, and one without any memory does not tell it.
    let memory = memory.filter(|memory| (1..1 << 50).contains(&memory.total) && memory.used < 1 << 50);
    row.count("memory_total_bytes", memory.map(|memory| memory.total))
        .count("memory_used_bytes", memory.map(|memory| memory.used))
        .count("memory_free_bytes", memory.and_then(|memory| memory.free));
}

/// The mean of each process's new samples: of cores, memory, encoder and decoder.
fn process_shares(samples: &[ProcessSample], last: u64) -> BTreeMap<u32, [Option<f64>; 4]> {
    let mut sums: BTreeMap<u32, [(f64, f64); 4]> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.pid != 0 && sample.at > last) {
        let of = sums.entry(sample.pid).or_default();
        for (sum, value) in of.iter_mut().zip([sample.cores, sample.memory, sample.encoder, sample.decoder]) {
            if let Some(share) = percent(value) {
                *sum = (sum.0 + share, sum.1 + 1.0);
            }
        }
    }
    let mean = |(sum, count): (f64, f64)| (count > 0.0).then(|| sum / count);
    sums.into_iter().map(|(pid, of)| (pid, of.map(mean))).collect()
}

/// What the library's check says, and whether it would have the board sent back.
fn health(is_healthy: Option<bool>, should_return: Option<bool>) -> Option<&'static str> {
    match (is_healthy, should_return) {
        (Some(false), _) => Some("failed"),
        (_, Some(true)) => Some("warning"),
        (Some(true), _) => Some("ok"),
        (None, _) => None,
    }
}

fn percent(percent: u32) -> Option<f64> {
    share(f64::from(percent))
}

fn watts(watts: f64) -> Option<f64> {
    milliwatts(watts * 1e3)
}

/// A clock that stands still is one that is not told.
fn frequency(frequency: u32) -> Option<i64> {
    megahertz(frequency).filter(|hertz| *hertz > 0)
}

/// A memory at 0 °C is one without a sensor.
fn warm(degrees: f64) -> Option<f64> {
    celsius(degrees).filter(|degrees| *degrees != 0.0)
}

/// Millions of bytes a second.
fn megabytes(value: f64) -> Option<f64> {
    (0.0..1e9).contains(&value).then_some(value * 1e6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_stands_for_not_known_is_null() {
        assert_eq!((percent(40), percent(u32::MAX)), (Some(0.4), None));
        assert_eq!((watts(71.25), watts(-1.0), watts(4_294_967.295)), (Some(71.25), None, None));
        assert_eq!((frequency(1_300), frequency(0), frequency(u32::MAX)), (Some(1_300_000_000), None, None));
        assert_eq!((warm(61.0), warm(0.0), warm(f64::NAN)), (Some(61.0), None, None));
        assert_eq!((megabytes(12.5), megabytes(-1.0), megabytes(f64::NAN)), (Some(12.5e6), None, None));
    }

    #[test]
    fn health_is_the_worst_that_is_known() {
        assert_eq!(health(Some(true), None), Some("ok"));
        assert_eq!(health(Some(true), Some(true)), Some("warning"));
        assert_eq!(health(Some(false), Some(true)), Some("failed"));
        assert_eq!((health(None, None), health(None, Some(false))), (None, None));
    }

    #[test]
    fn a_process_has_the_mean_of_its_new_samples() {
        let sample = |pid, at, cores| ProcessSample { pid, at, cores, memory: 10, ..ProcessSample::default() };
        let samples = [sample(7, 100, 90), sample(7, 200, 20), sample(7, 300, 40), sample(8, 300, 130)];
        let shares = process_shares(&samples, 100);
        assert!((shares[&7][0].unwrap() - 0.3).abs() < 1e-9 && (shares[&7][1].unwrap() - 0.1).abs() < 1e-9);
        assert_eq!(shares[&8][0], None);
    }

    proptest! {
        #[test]
        fn no_number_brings_it_down(number in any::<u32>(), float in any::<f64>(), at in any::<u64>()) {
            percent(number);
            frequency(number);
            watts(float);
            warm(float);
            megabytes(float);
            let sample = ProcessSample { pid: number, at, cores: number, memory: number, ..ProcessSample::default() };
            process_shares(&[sample, sample], at / 2);
        }
    }
}
