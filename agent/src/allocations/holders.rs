//! Which processes have accelerators open, by their open files.
//!
//! A program reaches a card through a device file of its driver, and `/proc/PID/fd` shows what a process has open as
//! links: `5 -> /dev/nvidia0`. The kernel lets those look who may trace the process: the same user, or
//! CAP_SYS_PTRACE. So without that privilege one sees one's own, and the rest are counted as `denied`.
//!
//! What is open is not always what is used. CUDA opens every card it is shown, be it only to count them; inside a
//! job that was given two cards it is shown two. So an open file tells who could use a card, which is what an
//! allocation is; `accelerator_process` tells who uses it. Drivers differ:
//!
//! | vendor | card | counts only beside | not counted |
//! |---|---|---|---|
//! | NVIDIA | `nvidiaN` | `nvidia-uvm` or `nvidia-modeset`: monitors that read NVML open neither | `nvidiactl`, `nvidia-caps/…` |
//! | AMD, Hygon | `dri/renderDN` | `kfd` or `mkfd` | |
//! | MetaX | `dri/renderDN` | `mxcd` | |
//! | Moore Threads | `mtgpu.N`, `dri/renderDN` | | |
//! | Ascend | `davinciN`, `vdavinciN` | | `davinci_manager`, `devmm_svm`, `hisi_hdc` |
//! | Cambricon | `cambricon_devN` | | `cambricon_ctl` |
//! | Enflame | `gcuN`, `dtuN` | | |
//! | Iluvatar | `iluvatarN` | | |
//!
//! Cost. A link is 1 to 2 microseconds, and a busy host has 100,000. So the look is taken once a minute for both
//! tables that want it, only when the bus shows accelerators, and not at everybody: threads of the kernel never, holders
//! each time, and others when they are new and again each time their age has doubled, at least every 16 looks. One
//! look reads [`MAX_LINKS`] links at the most; processes that it did not come to are first at the next.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bdf;
use crate::accelerators::pci::{self, PciAccelerator};
use crate::accelerators::vendors::VendorId;
use crate::attribution::{ProcessFacts, parse_stat};
use crate::host_root::{HostRoot, link_name, read_text};

/// How often a look is taken.
const EVERY: Duration = Duration::from_secs(59);

/// Links that one look reads at the most.
const MAX_LINKS: usize = 50_000;

/// The longest pause between two looks at one process, in looks.
const MAX_PAUSE: u32 = 16;

/// A task of the kernel itself (`PF_KTHREAD`).
pub(crate) const KERNEL_THREAD: u64 = 0x0020_0000;

/// A card as its driver's device file shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Card {
    /// Name below `/dev`.
    pub(crate) file: String,
    /// Its PCI address, where that can be found out without the vendor's library.
    pub(crate) pci_bdf: Option<String>,
    /// The vendor's UUID, likewise.
    pub(crate) uuid: Option<String>,
}

impl Card {
    /// Its name in the column `device`: the one that says most of those that are known.
    pub(crate) fn device(&self) -> &str {
        self.uuid.as_deref().or(self.pci_bdf.as_deref()).unwrap_or(&self.file)
    }
}

/// A process that has cards open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) facts: ProcessFacts,
    pub(crate) cards: Vec<Card>,
}

/// What a look has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Whether the bus shows accelerators: if not, nobody was looked at.
    pub(crate) is_looked: bool,
    pub(crate) holders: Vec<Holder>,
    /// Processes that may not be looked into.
    pub(crate) denied: u64,
    /// Processes that were left for the next look.
    pub(crate) left: u64,
    /// How many looks were taken, this one included.
    pub(crate) look: u64,
}

/// Takes looks.
#[derive(Debug)]
pub(crate) struct Looker {
    root: HostRoot,
    found: Arc<Found>,
    at: Option<Instant>,
    looks: u32,
    known: HashMap<(u32, i64), Known>,
    buffer: Vec<u8>,
}

/// What is remembered of a process.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// The look at which it was first there.
    since: u32,
    /// The look at which it was last looked into.
    at: u32,
    is_holder: bool,
    is_denied: bool,
    /// The look at which it was last there.
    seen: u32,
}

impl Known {
    fn is_due(&self, look: u32) -> bool {
        let age = self.at.saturating_sub(self.since);
        self.is_holder || look.saturating_sub(self.at) >= age.clamp(1, MAX_PAUSE)
    }
}

/// The lookers there are, so that two probes of one host share one.
static LOOKERS: OnceLock<Mutex<Vec<(PathBuf, Weak<Mutex<Looker>>)>>> = OnceLock::new();

impl Looker {
    fn new(root: &HostRoot) -> Self {
        Self {
            root: root.clone(),
            found: Arc::default(),
            at: None,
            looks: 0,
            known: HashMap::new(),
            buffer: Vec::new(),
        }
    }

    /// The looker of this host, shared by all who ask.
    pub(crate) fn of(root: &HostRoot) -> Arc<Mutex<Self>> {
        let path = root.path("");
        let mut lookers = LOOKERS.get_or_init(Mutex::default).lock();
        lookers.retain(|(_, looker)| looker.strong_count() > 0);
        if let Some(looker) = lookers.iter().find(|(of, _)| *of == path).and_then(|(_, looker)| looker.upgrade()) {
            return looker;
        }
        let looker = Arc::new(Mutex::new(Self::new(root)));
        lookers.push((path, Arc::downgrade(&looker)));
        looker
    }

    /// What the newest look has found; takes one if the last is a minute old.
    pub(crate) fn found(&mut self) -> Arc<Found> {
        if self.at.is_none_or(|at| at.elapsed() >= EVERY) {
            self.found = Arc::new(self.look());
            self.at = Some(Instant::now());
        }
        self.found.clone()
    }

    fn look(&mut self) -> Found {
        self.looks = self.looks.saturating_add(1);
        let look = self.looks;
        let mut found = Found { look: u64::from(look), ..Found::default() };
        let bus = pci::scan(&self.root).unwrap_or_default();
        if bus.is_empty() {
            self.known.clear();
            return found;
        }
        found.is_looked = true;
        let mut links = 0;
        // Those that were not come to last time are due first.
        let mut due: Vec<(u32, u32, i64)> = Vec::new();
        for entry in fs::read_dir(self.root.proc("")).into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let Some(start) = self.start_of_program(pid) else { continue };
            let known = self.known.entry((pid, start)).or_insert(Known {
                since: look,
                at: 0,
                is_holder: false,
                is_denied: false,
                seen: look,
            });
            known.seen = look;
            if known.at == 0 || known.is_due(look) {
                due.push((known.at, pid, start));
            }
        }
        self.known.retain(|_, known| known.seen == look);
        due.sort_unstable();
        let mut cards = Cards::new(&self.root, &bus);
        for (_, pid, start) in due {
            let is_holder = self.known.get(&(pid, start)).is_some_and(|known| known.is_holder);
            if links >= MAX_LINKS && !is_holder {
                found.left += 1;
                continue;
            }
            let open = open_cards(&self.root, pid, &mut links);
            let Some(known) = self.known.get_mut(&(pid, start)) else { continue };
            known.at = look;
            known.is_denied = open.is_none();
            let open = open.unwrap_or_default().cards(&mut cards);
            known.is_holder = !open.is_empty();
            if !open.is_empty()
                && let Some(facts) = ProcessFacts::read(&self.root, pid)
                && facts.start_ticks == start
            {
                found.holders.push(Holder { pid, facts, cards: open });
            }
        }
        found.denied = self.known.values().filter(|known| known.is_denied).count() as u64;
        found.holders.sort_by_key(|holder| holder.pid);
        found
    }

    /// When a process started; `None` for one that has ended, and for threads of the kernel, which have no files.
    fn start_of_program(&mut self, pid: u32) -> Option<i64> {
        use std::io::Read;
        self.buffer.clear();
        let path = self.root.proc(format!("{pid}/stat"));
        fs::File::open(path).ok()?.take(4096).read_to_end(&mut self.buffer).ok()?;
        let stat = parse_stat(&self.buffer)?;
        (stat.flags & KERNEL_THREAD == 0).then_some(stat.start_ticks)
    }
}

/// Device files that matter, of one process.
#[derive(Debug, Default, PartialEq, Eq)]
struct Open {
    /// Names below `/dev`.
    cards: Vec<String>,
    has_nvidia_memory: bool,
    has_kfd: bool,
    has_metax: bool,
}

impl Open {
    /// Notes what a link points to.
    fn see(&mut self, target: &str) {
        let Some(name) = target.strip_prefix("/dev/") else { return };
        match name.strip_suffix(" (deleted)").unwrap_or(name) {
            "nvidia-uvm" | "nvidia-modeset" => self.has_nvidia_memory = true,
            "kfd" | "mkfd" => self.has_kfd = true,
            "mxcd" => self.has_metax = true,
            name if is_card(name) && !self.cards.iter().any(|card| card == name) => self.cards.push(name.to_owned()),
            _ => {}
        }
    }

    /// Those of the cards that count.
    fn cards(mut self, cards: &mut Cards<'_>) -> Vec<Card> {
        self.cards.sort();
        let mut found = Vec::new();
        for name in std::mem::take(&mut self.cards) {
            let counts = if name.starts_with("nvidia") {
                self.has_nvidia_memory
            } else if name.starts_with("dri/") {
                match cards.vendor_of_render(&name) {
                    Some(VendorId::Amd | VendorId::Hygon) => self.has_kfd,
                    Some(VendorId::Metax) => self.has_metax,
                    Some(_) => true,
                    None => false,
                }
            } else {
                true
            };
            if counts {
                found.push(cards.card(&name));
            }
        }
        found
    }
}

/// Whether a name below `/dev` is that of a card, and not of what the driver has beside.
fn is_card(name: &str) -> bool {
    let prefixes =
        ["nvidia", "dri/renderD", "davinci", "vdavinci", "cambricon_dev", "mtgpu.", "gcu", "dtu", "iluvatar"];
    prefixes
        .iter()
        .filter_map(|prefix| name.strip_prefix(prefix))
        .any(|number| (1..=4).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit()))
}

/// What a process has open; `None` where that may not be seen.
fn open_cards(root: &HostRoot, pid: u32, links: &mut usize) -> Option<Open> {
    let directory = root.proc(format!("{pid}/fd"));
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return None,
        // It has ended.
        Err(_) => return Some(Open::default()),
    };
    let mut open = Open::default();
    for entry in entries.flatten().take(MAX_LINKS) {
        *links += 1;
        match fs::read_link(entry.path()) {
            Ok(target) => open.see(&target.to_string_lossy()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return None,
            Err(_) => {}
        }
    }
    Some(open)
}

/// What is known of cards beside their device file. Asked for only when somebody has one open.
struct Cards<'r> {
    root: &'r HostRoot,
    bus: &'r [PciAccelerator],
    nvidia: Option<BTreeMap<u32, (String, Option<String>)>>,
    known: BTreeMap<String, Card>,
}

impl<'r> Cards<'r> {
    fn new(root: &'r HostRoot, bus: &'r [PciAccelerator]) -> Self {
        Self { root, bus, nvidia: None, known: BTreeMap::new() }
    }

    fn card(&mut self, name: &str) -> Card {
        if let Some(card) = self.known.get(name) {
            return card.clone();
        }
        let mut card = Card { file: name.to_owned(), pci_bdf: None, uuid: None };
        if let Some(minor) = name.strip_prefix("nvidia").and_then(|minor| minor.parse().ok()) {
            let cards = self.nvidia.get_or_insert_with(|| nvidia_cards(self.root));
            if let Some((bdf, uuid)) = cards.get(&minor) {
                card.pci_bdf = Some(bdf.clone());
                card.uuid.clone_from(uuid);
            }
        } else if name.starts_with("dri/") {
            card.pci_bdf = self.render_bdf(name);
        }
        self.known.insert(name.to_owned(), card.clone());
        card
    }

    fn render_bdf(&self, name: &str) -> Option<String> {
        let node = name.strip_prefix("dri/")?;
        bdf(&link_name(&self.root.sys(format!("class/drm/{node}/device")))?)
    }

    fn vendor_of_render(&self, name: &str) -> Option<VendorId> {
        let address = self.render_bdf(name)?;
        self.bus.iter().find(|card| card.address == address).map(|card| card.vendor)
    }
}

/// NVIDIA's cards by the number of their device file: the driver shows each below `/proc/driver/nvidia/gpus/BDF`.
fn nvidia_cards(root: &HostRoot) -> BTreeMap<u32, (String, Option<String>)> {
    let mut cards = BTreeMap::new();
    for entry in fs::read_dir(root.proc("driver/nvidia/gpus")).into_iter().flatten().flatten().take(256) {
        let text = read_text(&entry.path().join("information")).unwrap_or_default();
        if let Some(bdf) = bdf(&entry.file_name().to_string_lossy())
            && let (Some(minor), uuid) = parse_nvidia_information(&text)
        {
            cards.insert(minor, (bdf, uuid));
        }
    }
    cards
}

/// `Device Minor: 0` and `GPU UUID: GPU-…`, which is question marks while nobody has the card open.
fn parse_nvidia_information(text: &str) -> (Option<u32>, Option<String>) {
    let field = |name: &str| {
        text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name).map(|(_, v)| v.trim())
    };
    let uuid = field("GPU UUID").filter(|uuid| !uuid.is_empty() && !uuid.contains('?'));
    (field("Device Minor").and_then(|minor| minor.parse().ok()), uuid.map(str::to_owned))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    /// A host with a card of NVIDIA's and one of AMD's, and nobody there yet.
    pub(crate) fn host(directory: &Path) -> HostRoot {
        for (address, vendor) in [("0000:17:00.0", "0x10de"), ("0000:65:00.0", "0x1002")] {
            let device = directory.join("sys/bus/pci/devices").join(address);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("vendor"), vendor).unwrap();
            fs::write(device.join("device"), "0x2330").unwrap();
            fs::write(device.join("class"), "0x030200").unwrap();
        }
        let drm = directory.join("sys/class/drm/renderD129");
        fs::create_dir_all(&drm).unwrap();
        symlink("../../../0000:65:00.0", drm.join("device")).unwrap();
        let nvidia = directory.join("proc/driver/nvidia/gpus/0000:17:00.0");
        fs::create_dir_all(&nvidia).unwrap();
        fs::write(nvidia.join("information"), INFORMATION).unwrap();
        HostRoot::new(directory)
    }

    const INFORMATION: &str = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 0\nGPU UUID: \t GPU-6b1f\n\
                               Bus Location: \t 0000:17:00.0\nDevice Minor: \t 0\n";

    /// A process with these files open.
    pub(crate) fn process(root: &HostRoot, pid: u32, cgroup: &str, files: &[&str]) {
        let directory = root.proc(pid.to_string());
        fs::create_dir_all(directory.join("fd")).unwrap();
        let line = format!("{pid} (p{pid}) S 1 0 0 0 -1 0 0 0 0 0 7 0 0 0 20 0 1 0 {} 5000 20", pid * 10);
        fs::write(directory.join("stat"), line).unwrap();
        fs::write(directory.join("status"), "Uid:\t1000\t1001\t1000\t1000\n").unwrap();
        fs::write(directory.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        for (number, file) in files.iter().enumerate() {
            symlink(file, directory.join("fd").join(number.to_string())).unwrap();
        }
    }

    #[test]
    fn those_who_have_cards_open_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let root = host(directory.path());
        process(
            &root,
            10,
            "/slurm/uid_1/job_42/step_0",
            &["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia0"],
        );
        process(&root, 11, "/system.slice/dcgm.service", &["/dev/nvidiactl", "/dev/nvidia0"]);
        process(&root, 12, "/docker/x", &["/dev/kfd", "/dev/dri/renderD129", "socket:[5]"]);
        process(&root, 13, "/", &["/dev/dri/renderD129"]);
        process(&root, 14, "/", &["/dev/null", "pipe:[1]"]);
        let mut looker = Looker::new(&root);
        let found = looker.found();
        assert!(found.is_looked);
        assert_eq!(found.holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [10, 12]);
        let first = &found.holders[0];
        assert_eq!(first.facts.owner.job.as_deref(), Some("42"));
        assert_eq!(first.cards.iter().map(Card::device).collect::<Vec<_>>(), ["GPU-6b1f"]);
        assert_eq!(first.cards[0].pci_bdf.as_deref(), Some("0000:17:00.0"));
        assert_eq!(found.holders[1].cards[0].device(), "0000:65:00.0");
        assert!(Arc::ptr_eq(&found, &looker.found()), "not looked at again within a minute");
        fs::remove_dir_all(root.proc("10")).unwrap();
        let again = looker.look();
        assert_eq!(again.holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [12]);
        assert_eq!(looker.known.len(), 4, "those that ended are forgotten");
    }

    #[test]
    fn those_who_never_had_any_are_looked_at_ever_more_seldom() {
        let mut known = Known { since: 1, at: 1, is_holder: false, is_denied: false, seen: 1 };
        let mut looks = Vec::new();
        for look in 2..=100 {
            if known.is_due(look) {
                looks.push(look);
                known.at = look;
            }
        }
        assert_eq!(looks, [2, 3, 5, 9, 17, 33, 49, 65, 81, 97]);
        known.is_holder = true;
        assert!(known.is_due(98));
    }

    #[test]
    fn a_host_without_accelerators_is_not_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        process(&root, 10, "/", &["/dev/nvidia0", "/dev/nvidia-uvm"]);
        assert_eq!(*Looker::new(&root).found(), Found { look: 1, ..Found::default() });
    }

    #[test]
    fn one_host_has_one_looker() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        let one = Looker::of(&root);
        assert!(Arc::ptr_eq(&one, &Looker::of(&root)));
        assert!(!Arc::ptr_eq(&one, &Looker::of(&HostRoot::new("/elsewhere"))));
    }

    #[test]
    fn names_of_cards_are_known() {
        for name in ["nvidia0", "nvidia15", "dri/renderD128", "davinci7", "vdavinci100", "cambricon_dev0", "iluvatar3"]
        {
            assert!(is_card(name), "{name}");
        }
        for name in ["nvidiactl", "nvidia-uvm", "nvidia", "dri/card0", "davinci_manager", "cambricon_ctl", "null", ""] {
            assert!(!is_card(name), "{name}");
        }
        assert_eq!(parse_nvidia_information(INFORMATION), (Some(0), Some("GPU-6b1f".to_owned())));
        assert_eq!(parse_nvidia_information("GPU UUID: GPU-????????-????\nDevice Minor: 3"), (Some(3), None));
        assert_eq!(parse_nvidia_information(""), (None, None));
    }

    proptest! {
        #[test]
        fn no_text_brings_it_down(text in garbage()) {
            parse_nvidia_information(&text);
            Open::default().see(&text);
            Open::default().see(&format!("/dev/{text}"));
        }
    }
}
