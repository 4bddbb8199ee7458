//! What AMD's driver tells of its cards in files, without any library.
//!
//! - `/sys/class/drm/cardN/device` is the card: load, memory, identity, clocks it can have (`pp_dpm_…`), errors of its
//!   parts (`ras/…_err_count`), how it is cut (`current_compute_partition`), and `gpu_metrics` (see its own file).
//! - `hwmon/hwmonN` below it are its sensors: µW, m°C, Hz, mV.
//! - `/sys/class/kfd/kfd/topology/nodes` is what computes: a node for each card, or for each partition of one. Its
//!   links to others are there (type 11 is XGMI), and its compute units.
//! - `/sys/class/kfd/kfd/proc/PID` are the processes that compute, with the memory each holds of each node.
//! - `/proc/PID/fdinfo` of who has a card's file open tells what it holds and how long its engines have worked for it:
//!   this is where processes are that draw. Others' may be read only with `CAP_SYS_PTRACE`. To look through all open
//!   files of a machine is dear, so it is done every ten seconds, a limited number of files at a time.
//!
//! Traps: `pcie_bw` measures for a whole second when it is read, so it is left alone. A card that sleeps
//! (`power/runtime_status`) is woken by nearly every read, so a sleeping one is asked nothing. Cards for consumers have
//! no `product_name`: their name is in a list that the graphics libraries bring (`amdgpu.ids`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::gpu_metrics::MAX_TABLE;
use super::rsmi::hertz;
use crate::host_root::{FileReader, HostRoot, read_bytes, read_text, read_u64};
use crate::probe::ProbeError;

/// Cards, nodes and links looked at: beyond what any machine has.
const MAX_CARDS: usize = 256;
const MAX_NODES: usize = 1024;
const MAX_LINKS: usize = 256;

/// Processes that compute.
const MAX_PROCESSES: usize = 1024;

/// Longest list of names of cards read.
const MAX_NAMES: u64 = 1 << 20;

/// Links to open files looked at in one search for processes that draw.
const MAX_OPEN: usize = 4096;

/// Processes that draw which are kept in sight, and files of each.
const MAX_DRAWING: usize = 256;
const MAX_FDS: usize = 64;

/// Where a card is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of `cardN`.
    pub(super) card: u32,
    pub(super) pci_bdf: String,
    /// `/sys/class/drm/cardN/device`.
    pub(super) device: PathBuf,
}

/// The cards that AMD's driver drives, by their address on the bus.
pub(super) fn places(root: &HostRoot) -> Vec<Place> {
    let Ok(entries) = std::fs::read_dir(root.sys("class/drm")) else { return Vec::new() };
    let mut found: Vec<Place> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            // `card0-DP-1` is a connector of card 0.
            let card: u32 = name.to_str()?.strip_prefix("card")?.parse().ok()?;
            let device = entry.path().join("device");
            let uevent = read_text(&device.join("uevent"))?;
            // Partitions are cards of a driver of another name, without any of these files.
            (value_of(&uevent, '=', "DRIVER")? == "amdgpu").then_some(())?;
            let pci_bdf = value_of(&uevent, '=', "PCI_SLOT_NAME")?.to_owned();
            Some(Place { card, pci_bdf, device })
        })
        .take(MAX_CARDS)
        .collect();
    found.sort_by(|a, b| a.pci_bdf.cmp(&b.pci_bdf));
    found
}

/// The value of `name` in lines of name, separator and value.
fn value_of<'t>(text: &'t str, separator: char, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(separator)?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// One sensor of temperature: `temp1_input` and what belongs to it.
#[derive(Debug)]
pub(super) struct Thermometer {
    input: FileReader,
    pub(super) critical: Option<f64>,
    pub(super) emergency: Option<f64>,
}

/// The card's sensors. What there is none of is `None`; nothing is read before it is asked for.
#[derive(Debug, Default)]
pub(super) struct Sensors {
    pub(super) edge: Option<Thermometer>,
    pub(super) junction: Option<Thermometer>,
    pub(super) memory: Option<Thermometer>,
    power: Option<FileReader>,
    core_clock: Option<FileReader>,
    memory_clock: Option<FileReader>,
    voltage: Option<FileReader>,
    fan: Option<(FileReader, u64)>,
    cap: Option<PathBuf>,
}

impl Thermometer {
    pub(super) fn read(&mut self) -> Option<f64> {
        signed(&mut self.input).and_then(super::rsmi::celsius)
    }
}

fn signed(reader: &mut FileReader) -> Option<i64> {
    crate::host_root::first_word(reader.read_if_there()?)
}

impl Sensors {
    /// Finds them; the first hwmon of the driver's is the card's.
    pub(super) fn find(device: &Path) -> Self {
        let hwmons = std::fs::read_dir(device.join("hwmon")).into_iter().flatten().flatten();
        let Some(hwmon) = hwmons.map(|entry| entry.path()).find(|path| path.join("name").exists()) else {
            return Self::default();
        };
        let reader = |file: &str| Some(hwmon.join(file)).filter(|path| path.exists()).map(FileReader::new);
        let mut sensors = Self {
            // The first is a mean, of newer cards the second the power of now.
            power: reader("power1_average").or_else(|| reader("power1_input")),
            core_clock: reader("freq1_input"),
            memory_clock: reader("freq2_input"),
            voltage: reader("in0_input"),
            // The highest speed in turns, or else 255 of what drives it.
            fan: match read_u64(&hwmon.join("fan1_max")).filter(|max| *max > 0) {
                Some(max) => reader("fan1_input").map(|fan| (fan, max)),
                None => reader("pwm1").map(|pwm| (pwm, 255)),
            },
            cap: Some(hwmon.join("power1_cap")),
            ..Self::default()
        };
        for number in 1..=3u32 {
            let Some(input) = reader(&format!("temp{number}_input")) else { continue };
            let limit = |what: &str| {
                let limit = read_u64(&hwmon.join(format!("temp{number}_{what}")))?;
                super::rsmi::celsius(i64::try_from(limit).ok()?).filter(|limit| *limit > 0.0)
            };
            let thermometer = Thermometer { critical: limit("crit"), emergency: limit("emergency"), input };
            let label = read_text(&hwmon.join(format!("temp{number}_label")));
            // Older drivers have no labels, and the first sensor alone, or all in this order.
            let usual = ["edge", "junction", "mem"].get(number as usize - 1).copied();
            match label.as_deref().or(usual) {
                Some("edge") => sensors.edge = Some(thermometer),
                Some("junction") => sensors.junction = Some(thermometer),
                Some("mem") => sensors.memory = Some(thermometer),
                _ => {}
            }
        }
        sensors
    }

    /// The thermometer that stands for the chip: at its edge, or where there is none at its hottest point.
    pub(super) fn chip(&self) -> Option<&Thermometer> {
        self.edge.as_ref().or(self.junction.as_ref())
    }

    pub(super) fn power(&mut self) -> Option<f64> {
        self.power.as_mut()?.number().and_then(super::rsmi::watts)
    }

    pub(super) fn power_cap(&self) -> Option<f64> {
        read_u64(self.cap.as_ref()?).and_then(super::rsmi::watts).filter(|watts| *watts > 0.0)
    }

    pub(super) fn core_clock(&mut self) -> Option<i64> {
        self.core_clock.as_mut()?.number().and_then(hertz)
    }

    pub(super) fn memory_clock(&mut self) -> Option<i64> {
        self.memory_clock.as_mut()?.number().and_then(hertz)
    }

    pub(super) fn voltage(&mut self) -> Option<f64> {
        signed(self.voltage.as_mut()?).and_then(super::rsmi::volts)
    }

    #[allow(clippy::cast_precision_loss)] // Turns per minute, or 255.
    pub(super) fn fan(&mut self) -> Option<f64> {
        let (fan, max) = self.fan.as_mut()?;
        let speed = fan.number()?;
        Some((speed as f64 / *max as f64).min(1.0))
    }
}

/// A binary file that is read again and again.
#[derive(Debug)]
pub(super) struct TableReader {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl TableReader {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, buffer: Vec::new() }
    }

    pub(super) fn read(&mut self) -> Option<&[u8]> {
        if self.file.is_none() {
            self.file = Some(File::open(&self.path).ok()?);
        }
        self.buffer.resize(MAX_TABLE, 0);
        let mut length = 0;
        while let Some(room) = self.buffer.get_mut(length..).filter(|room| !room.is_empty()) {
            match self.file.as_ref()?.read_at(room, length as u64) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // The driver may have been loaded anew, with another file of this name.
                    self.file = None;
                    return None;
                }
            }
        }
        self.buffer.get(..length)
    }
}

/// Whether what the driver answered says that there is no such value here, or that the device is gone, which is told
/// otherwise.
pub(super) fn is_trouble(error: &ProbeError) -> bool {
    let ProbeError::Read { source, .. } = error else { return true };
    let absences = [
        ErrorKind::NotFound,
        ErrorKind::PermissionDenied,
        ErrorKind::Unsupported,
        ErrorKind::InvalidInput,
        ErrorKind::InvalidData,
    ];
    let no_device = source.raw_os_error() == Some(libc::ENODEV);
    !absences.contains(&source.kind()) && !no_device
}

/// The highest clock of a `pp_dpm_…` file, in hertz: lines as `1: 1500Mhz *`, the star at the one in use.
pub(super) fn highest_clock(text: &str) -> Option<i64> {
    let clocks = text.lines().filter_map(|line| {
        let (_, value) = line.split_once(':')?;
        let word = value.split_ascii_whitespace().next()?.to_ascii_lowercase();
        let megahertz: u64 = word.strip_suffix("mhz")?.parse().ok()?;
        hertz(megahertz.checked_mul(1_000_000)?)
    });
    clocks.max().filter(|clock| *clock > 0)
}

/// `ue: 0` and `ce: 3` of a `…_err_count` file: errors that were put right, and the others.
pub(super) fn parse_errors(text: &str) -> Option<(u64, u64)> {
    let of = |name| value_of(text, ':', name)?.split_ascii_whitespace().next()?.parse().ok();
    Some((of("ce")?, of("ue")?))
}

/// Parts of the chip with memory of their own, by their file's name: links and buses count errors too, which are of
/// another kind.
const PARTS: &[&str] = &["umc", "sdma", "gfx", "mmhub", "vcn", "jpeg"];

/// The files that count errors of memory.
pub(super) fn error_files(device: &Path) -> Vec<PathBuf> {
    let of = |part: &&str| device.join(format!("ras/{part}_err_count"));
    PARTS.iter().map(of).filter(|path| read_text(path).is_some_and(|t| parse_errors(&t).is_some())).collect()
}

/// Errors of all these files together; `None` when one does not tell: a sum without it would go back.
pub(super) fn errors(files: &[PathBuf]) -> Option<(u64, u64)> {
    let each = files.iter().map(|path| parse_errors(&read_text(path)?));
    each.reduce(|a, b| {
        let ((a, b), (c, d)) = (a?, b?);
        Some((a.saturating_add(c), b.saturating_add(d)))
    })?
}

/// Pages of memory that are out of use, and whether others will be: `0x… : 0x1000 : R` (retired), `P` (to be), `F` (could
/// not be).
pub(super) fn parse_bad_pages(text: &str) -> (u64, bool) {
    let states = text.lines().filter_map(|line| line.rsplit_once(':').map(|(_, state)| state.trim()));
    states.fold((0, false), |(retired, pending), state| {
        (retired + u64::from(state == "R"), pending || state == "P" || state == "F")
    })
}

/// A card's name in the list that the graphics libraries bring: lines as `73BF, C1, AMD Radeon RX 6900 XT`.
fn parse_name(list: &str, device: u32, revision: u32) -> Option<String> {
    list.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = line.splitn(3, ',').map(str::trim);
        let number = |text: Option<&str>| u32::from_str_radix(text?, 16).ok();
        let is_it = number(fields.next())? == device && number(fields.next())? == revision;
        is_it.then(|| fields.next()).flatten().filter(|name| !name.is_empty()).map(str::to_owned)
    })
}

/// A card's name: what its own memory says, or what the list has for its number.
pub(super) fn name(root: &HostRoot, device: &Path) -> Option<String> {
    if let Some(name) = read_text(&device.join("product_name")) {
        return Some(name);
    }
    let number = |file: &str| {
        let text = read_text(&device.join(file))?;
        u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
    };
    let (device, revision) = (number("device")?, number("revision")?);
    ["/usr/share/libdrm/amdgpu.ids", "/opt/amdgpu/share/libdrm/amdgpu.ids"].iter().find_map(|path| {
        use std::io::Read;
        let mut list = String::new();
        File::open(root.path(path)).ok()?.take(MAX_NAMES).read_to_string(&mut list).ok()?;
        parse_name(&list, device, revision)
    })
}

/// What computes: a card, or a partition of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Its number among the nodes, processors' included.
    pub(super) number: u32,
    /// The driver's number for it, which changes with every load.
    pub(super) gpu_id: u64,
    /// PCI domain, bus and device of its card.
    pub(super) at: (u64, u64),
    /// Compute units.
    pub(super) cores: Option<i64>,
    pub(super) memory_bytes: Option<u64>,
    memory_used: PathBuf,
    /// XGMI links to other accelerators.
    pub(super) links: u32,
}

impl Node {
    pub(super) fn memory_used(&self) -> Option<u64> {
        read_u64(&self.memory_used)
    }
}

/// Reads `properties` of a node; `None` for a processor.
fn parse_node(text: &str) -> Option<Node> {
    let number = |name| value_of(text, ' ', name)?.parse::<u64>().ok();
    let simds = number("simd_count").filter(|count| *count > 0)?;
    // Where the card is on the bus; a partition's number is in the function's bits or in the highest.
    let location = number("location_id")? & 0xfff8;
    let cores = number("simd_per_cu").and_then(|per| simds.checked_div(per)).and_then(|n| i64::try_from(n).ok());
    Some(Node { at: (number("domain").unwrap_or(0), location), cores, ..Node::default() })
}

/// Nodes that are accelerators, in their order.
pub(super) fn nodes(root: &HostRoot) -> Vec<Node> {
    let Ok(entries) = std::fs::read_dir(root.sys("class/kfd/kfd/topology/nodes")) else { return Vec::new() };
    let mut found: Vec<(Node, PathBuf)> = entries
        .flatten()
        .take(MAX_NODES)
        .filter_map(|entry| {
            let path = entry.path();
            let number = entry.file_name().to_str()?.parse().ok()?;
            let node = parse_node(&read_text(&path.join("properties"))?)?;
            // A card that this user, or this container, may not use says 0.
            let gpu_id = read_u64(&path.join("gpu_id")).filter(|id| *id != 0)?;
            let bank = read_text(&path.join("mem_banks/0/properties"));
            let memory_bytes = bank.and_then(|text| value_of(&text, ' ', "size_in_bytes")?.parse().ok());
            let memory_used = path.join("mem_banks/0/used_memory");
            Some((Node { number, gpu_id, memory_bytes, memory_used, ..node }, path))
        })
        .collect();
    found.sort_by_key(|(node, _)| node.number);
    let accelerators: BTreeSet<u64> = found.iter().map(|(node, _)| u64::from(node.number)).collect();
    found
        .into_iter()
        .map(|(node, path)| {
            let links = std::fs::read_dir(path.join("io_links")).into_iter().flatten().flatten().take(MAX_LINKS);
            let xgmi = links.filter(|link| {
                let Some(text) = read_text(&link.path().join("properties")) else { return false };
                let number = |name| value_of(&text, ' ', name).and_then(|value| value.parse::<u64>().ok());
                number("type") == Some(11) && number("node_to").is_some_and(|node| accelerators.contains(&node))
            });
            Node { links: u32::try_from(xgmi.count()).unwrap_or(0), ..node }
        })
        .collect()
}

/// PCI domain, bus and device as nodes write it.
pub(super) fn location(pci_bdf: &str) -> Option<(u64, u64)> {
    let (domain, rest) = pci_bdf.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, _function) = rest.split_once('.')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let (domain, bus, device) = (number(domain)?, number(bus)?, number(device)?);
    (bus <= 0xff && device <= 0x1f).then_some((domain, bus << 8 | device << 3))
}

/// Processes that compute, and the memory each holds of each node, by the node's `gpu_id`.
pub(super) fn computing(root: &HostRoot) -> Option<BTreeMap<u32, BTreeMap<u64, Option<u64>>>> {
    let entries = std::fs::read_dir(root.sys("class/kfd/kfd/proc")).ok()?;
    let processes = entries.flatten().take(MAX_PROCESSES).filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let files = std::fs::read_dir(entry.path()).ok()?.flatten().take(MAX_LINKS);
        let memory = files.filter_map(|file| {
            let gpu_id = file.file_name().to_str()?.strip_prefix("vram_")?.parse().ok()?;
            Some((gpu_id, read_u64(&file.path())))
        });
        Some((pid, memory.collect()))
    });
    Some(processes.collect())
}

/// What one open file of a card says of who has it open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Client {
    pci_bdf: String,
    /// Several files may be of one client, each with all its numbers.
    id: u64,
    memory_bytes: Option<u64>,
    /// Nanoseconds for which each engine has worked for it.
    engines: BTreeMap<String, u64>,
}

/// Engines kept of one client: the driver has some ten.
const MAX_ENGINES: usize = 32;

/// Reads `/proc/PID/fdinfo/FD`: lines as `drm-engine-gfx: 1234 ns` and `drm-memory-vram: 4096 KiB`. `None` for other
/// drivers' files.
fn parse_client(text: &str) -> Option<Client> {
    (value_of(text, ':', "drm-driver")? == "amdgpu").then_some(())?;
    let id = value_of(text, ':', "drm-client-id")?.parse().ok()?;
    let pci_bdf = value_of(text, ':', "drm-pdev")?.to_owned();
    let memory = value_of(text, ':', "drm-memory-vram").or_else(|| value_of(text, ':', "drm-resident-vram"));
    let engines = text.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("drm-engine-")?.split_once(':')?;
        // `drm-engine-capacity-…` says how many there are.
        let time = value.trim().strip_suffix("ns")?.trim().parse().ok()?;
        Some((name.trim().to_owned(), time))
    });
    Some(Client { pci_bdf, id, memory_bytes: memory.and_then(bytes), engines: engines.take(MAX_ENGINES).collect() })
}

/// `4096 KiB` in bytes; without a unit it is bytes.
fn bytes(text: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    let unit = match words.next() {
        None => 1,
        Some("KiB") => 1 << 10,
        Some("MiB") => 1 << 20,
        Some("GiB") => 1 << 30,
        Some(_) => return None,
    };
    number.checked_mul(unit)
}

/// A process that has a card's file open.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Drawing {
    pub(super) pid: u32,
    pub(super) pci_bdf: String,
    pub(super) memory_bytes: Option<u64>,
    /// Share of the time for which the engine that worked most for it did, encoders and decoders apart.
    pub(super) load: Option<f64>,
    pub(super) encoder_load: Option<f64>,
    pub(super) decoder_load: Option<f64>,
    /// Nanoseconds of each engine so far.
    engines: BTreeMap<String, u64>,
}

/// Finds processes that draw, and what they use.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Where the search goes on: numbers of processes are gone through in turn.
    after: u32,
    found: Vec<Drawing>,
    at_micros: i64,
}

impl Search {
    pub(super) fn found(&self) -> &[Drawing] {
        &self.found
    }

    /// Looks at those known, and at as many others as one search may.
    pub(super) fn go(&mut self, root: &HostRoot, at_micros: i64) {
        let elapsed = at_micros.saturating_sub(std::mem::replace(&mut self.at_micros, at_micros));
        let Ok(entries) = std::fs::read_dir(root.proc("")) else { return };
        let mut pids: Vec<u32> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        pids.sort_unstable();
        let known: BTreeSet<u32> = self.found.iter().map(|drawing| drawing.pid).collect();
        let before = std::mem::take(&mut self.found);
        let split = pids.partition_point(|pid| *pid <= self.after);
        let (earlier, later) = pids.split_at(split);
        let others = later.iter().chain(earlier).filter(|pid| !known.contains(pid));
        let mut open = 0;
        for pid in known.iter().chain(others) {
            if open >= MAX_OPEN || self.found.len() >= MAX_DRAWING {
                break;
            }
            if !known.contains(pid) {
                self.after = *pid;
            }
            for mut drawing in clients(root, *pid, &mut open) {
                let last = before.iter().find(|b| b.pid == drawing.pid && b.pci_bdf == drawing.pci_bdf);
                drawing.compare(last, elapsed);
                self.found.push(drawing);
            }
        }
    }
}

impl Drawing {
    /// How much of the time since it was last looked at its engines have worked for it.
    #[allow(clippy::cast_precision_loss)] // Shares.
    fn compare(&mut self, before: Option<&Self>, elapsed_micros: i64) {
        let Some(before) = before.filter(|_| elapsed_micros > 0) else { return };
        let elapsed = elapsed_micros as f64 * 1e3;
        for (engine, time) in &self.engines {
            let Some(worked) = before.engines.get(engine).and_then(|last| time.checked_sub(*last)) else { continue };
            let share = (worked as f64 / elapsed).min(1.0);
            let load = match engine.as_str() {
                "enc" | "enc_1" => &mut self.encoder_load,
                "dec" | "jpeg" => &mut self.decoder_load,
                _ => &mut self.load,
            };
            *load = Some(load.unwrap_or(0.0).max(share));
        }
    }
}

/// What a process has of each card, from the files it has open.
fn clients(root: &HostRoot, pid: u32, open: &mut usize) -> Vec<Drawing> {
    let Ok(files) = std::fs::read_dir(root.proc(format!("{pid}/fd"))) else { return Vec::new() };
    let mut seen: BTreeSet<(String, u64)> = BTreeSet::new();
    let mut found: Vec<Drawing> = Vec::new();
    let mut read = 0;
    for file in files.flatten() {
        *open += 1;
        if *open >= MAX_OPEN || read >= MAX_FDS {
            break;
        }
        if !std::fs::read_link(file.path()).is_ok_and(|target| target.starts_with("/dev/dri")) {
            continue;
        }
        read += 1;
        let info = root.proc(format!("{pid}/fdinfo/{}", file.file_name().to_string_lossy()));
        let Some(client) = read_bytes(&info).and_then(|bytes| parse_client(&String::from_utf8_lossy(&bytes))) else {
            continue;
        };
        if !seen.insert((client.pci_bdf.clone(), client.id)) {
            continue;
        }
        let at = found.iter().position(|drawing| drawing.pci_bdf == client.pci_bdf).unwrap_or_else(|| {
            found.push(Drawing { pid, pci_bdf: client.pci_bdf.clone(), ..Drawing::default() });
            found.len() - 1
        });
        let Some(drawing) = found.get_mut(at) else { continue };
        if let Some(memory) = client.memory_bytes {
            drawing.memory_bytes = Some(drawing.memory_bytes.unwrap_or(0).saturating_add(memory));
        }
        for (engine, time) in client.engines {
            let of = drawing.engines.entry(engine).or_default();
            *of = of.saturating_add(time);
        }
    }
    found
}

/// How often processes that draw are looked for.
pub(super) const SEARCH_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    #[test]
    fn clocks_errors_and_pages_are_read() {
        assert_eq!(highest_clock("0: 500Mhz\n1: 2105Mhz *\n"), Some(2_105_000_000));
        assert_eq!(highest_clock("S: 19Mhz *\n0: 615Mhz\n"), Some(615_000_000));
        assert_eq!(highest_clock("0: 2.5GT/s, x1\n"), None);
        assert_eq!(parse_errors("ue: 1\nce: 3\n"), Some((3, 1)));
        assert_eq!(parse_errors("ue: 1\nce: 3\nde: 9\n"), Some((3, 1)));
        assert_eq!(parse_errors("Query currently inaccessible\n"), None);
        assert_eq!(errors(&[]), None);
        assert_eq!(parse_bad_pages("0x00001 : 0x01000 : R\n0x00002 : 0x01000 : P\n0x00003 : 0x01000 : R\n"), (2, true));
        assert_eq!(parse_bad_pages(""), (0, false));
    }

    #[test]
    fn names_are_looked_up_by_number_and_revision() {
        let list = "# comment\n1.0.0\n73BF,\tC0,\tAMD Radeon RX 6900 XT\n73BF,\tC1,\tAMD Radeon RX 6800 XT\n";
        assert_eq!(parse_name(list, 0x73bf, 0xc1).as_deref(), Some("AMD Radeon RX 6800 XT"));
        assert_eq!(parse_name(list, 0x73bf, 0xff), None);
    }

    #[test]
    fn nodes_lie_where_their_card_is() {
        let text = "cpu_cores_count 0\nsimd_count 152\nsimd_per_cu 4\nlocation_id 49408\ndomain 1\n";
        let node = parse_node(text).unwrap();
        assert_eq!((node.at, node.cores), ((1, 0xc100), Some(38)));
        assert_eq!(location("0001:c1:00.0"), Some(node.at));
        let second = parse_node("simd_count 152\nsimd_per_cu 4\nlocation_id 268484864\n").unwrap();
        assert_eq!(second.at, (0, 0xc100), "the partition's number is left out");
        assert_eq!(parse_node("cpu_cores_count 64\nsimd_count 0\nlocation_id 0\n"), None);
        assert_eq!((location("c1:00.0"), location(""), location("0000:1c1:00.0")), (None, None, None));
    }

    #[test]
    fn clients_tell_memory_and_engines() {
        let text = "pos:\t0\nflags:\t02100002\ndrm-driver:\tamdgpu\ndrm-client-id:\t7\ndrm-pdev:\t0000:c1:00.0\n\
                    drm-memory-vram:\t2048 KiB\ndrm-engine-gfx:\t5000 ns\ndrm-engine-capacity-gfx:\t1\n";
        let client = parse_client(text).unwrap();
        assert_eq!((client.id, client.pci_bdf.as_str(), client.memory_bytes), (7, "0000:c1:00.0", Some(2 << 20)));
        assert_eq!(client.engines, BTreeMap::from([("gfx".to_owned(), 5000)]));
        assert_eq!(parse_client("drm-driver:\ti915\ndrm-client-id:\t7\ndrm-pdev:\t0000:00:02.0\n"), None);
        assert_eq!((bytes("7"), bytes("7 parsecs"), bytes("9 GiB")), (Some(7), None, Some(9 << 30)));
    }

    #[test]
    fn a_share_is_of_the_time_that_went_by() {
        let drawing = |gfx, dec| Drawing {
            engines: BTreeMap::from([("gfx".to_owned(), gfx), ("dec".to_owned(), dec)]),
            ..Drawing::default()
        };
        let mut now = drawing(600_000_000, 50);
        now.compare(Some(&drawing(100_000_000, 60)), 1_000_000);
        assert_eq!((now.load, now.decoder_load, now.encoder_load), (Some(0.5), None, None));
        let mut now = drawing(1, 1);
        now.compare(None, 1_000_000);
        assert_eq!(now.load, None);
    }

    proptest! {
        #[test]
        fn no_text_brings_it_down(text in garbage(), number in any::<u32>()) {
            highest_clock(&text);
            parse_errors(&text);
            parse_bad_pages(&text);
            parse_name(&text, number, number);
            parse_node(&text);
            parse_client(&text);
            location(&text);
            bytes(&text);
            value_of(&text, ' ', "x");
        }
    }
}
