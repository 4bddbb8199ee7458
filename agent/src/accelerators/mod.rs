//! `accelerator`, `accelerator_process` and `accelerator_event`: GPUs and other accelerators of nine vendors.
//!
//! The PCI bus shows to everybody which vendors' cards are in the machine. For each vendor there is a worker process
//! (`worker`) that opens the vendor's library and reads all its cards; the probe here asks the workers at each tick and
//! watches over them (`watch`). So a library that hangs or crashes costs the rows of its own cards, says so in
//! `accelerator_event` within a tick, and holds up nothing.
//!
//! ```text
//! probe ── watch ──stdin──► worker ── vendors/nvidia ── abi/… ── libnvidia-ml.so.1
//!               ◄─stdout──
//! ```
//!
//! What the kernel's log says of them (`kernel_log`) comes beside: a driver in trouble writes there first.
//!
//! The libraries ask the kernel of the machine the agent runs on. So they are asked only when the root belongs to that
//! machine, be it seen from a container, or when a library was named in the settings. AMD's cards are read from files.

mod frame;
pub mod pci;
pub(crate) mod readings;
pub mod vendors;
mod watch;
pub(crate) mod window;
pub mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

pub use vendors::VendorId;
pub use watch::WorkerCommand;
pub(crate) use watch::workers;

use self::frame::Outcome;
use self::readings::{Event, TABLES};
use self::watch::{Heard, Patience, Watch};
use crate::host_root::HostRoot;
use crate::kernel_log::{Fault, KernelLog};
use crate::probe::{Probe, ProbeError, Tick};
use crate::scrape::arbiter::ARBITER;

/// How often the bus is looked at for vendors that have appeared.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A tick may wait so long for the first answers of all, so that it has rows where that is possible: opening a driver
/// takes a second or two.
const FIRST_WAIT: Duration = Duration::from_secs(5);

/// A library's first answer may take this long before it counts as stalled.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// Devices whose place is remembered.
const MAX_DEVICES: usize = 4096;

/// The vendor's name in events that are no vendor's: errors of the machine itself.
const NOBODY: &str = "host";

/// What the probe needs to know.
#[derive(Debug, Clone)]
pub struct AcceleratorOptions {
    /// How workers are started.
    pub worker: WorkerCommand,
    /// Libraries to use instead of looking for them.
    pub libraries: BTreeMap<VendorId, PathBuf>,
    /// An answer that takes longer is a stall.
    pub deadline: Duration,
    /// A worker stalled for longer is killed; never without it.
    pub kill_after: Option<Duration>,
}

impl AcceleratorOptions {
    /// Reads the settings. `worker` is how this program is started as a worker.
    pub fn read(settings: &mut Settings, worker: WorkerCommand) -> Self {
        let mut libraries = BTreeMap::new();
        let named = settings.list(
            "agent.accelerator_libraries",
            "",
            "Vendors' libraries that are not where they are looked for, as VENDOR=PATH: nvidia, amd, hygon, ascend, \
             cambricon, metax, moore-threads, enflame, iluvatar.",
        );
        for entry in named {
            match entry.split_once('=').map(|(vendor, path)| (VendorId::parse(vendor.trim()), path.trim())) {
                Some((Some(vendor), path)) if path.starts_with('/') => {
                    libraries.insert(vendor, PathBuf::from(path));
                }
                Some((Some(_), _)) => {
                    settings.mistake(format!("agent.accelerator_libraries: `{entry}`: name an absolute path"));
                }
                _ => settings
                    .mistake(format!("agent.accelerator_libraries: `{entry}` is not VENDOR=PATH of a vendor we know")),
            }
        }
        let deadline = settings.duration(
            "agent.accelerator_deadline",
            "500ms",
            "A vendor's library that has not answered a tick by then is stalled, and said to be.",
        );
        if deadline < Duration::from_millis(10) || deadline > Duration::from_secs(60) {
            settings.mistake("agent.accelerator_deadline: between 10ms and 1m");
        }
        let kill_after = settings.duration(
            "agent.accelerator_kill_after",
            "0s",
            "A worker whose library is stalled for longer is killed; 0s for never, because killing a process inside a \
             driver can take the card with it.",
        );
        Self { worker, libraries, deadline, kill_after: (!kill_after.is_zero()).then_some(kill_after) }
    }
}

/// Fills the table `accelerator` and the two beside it.
pub struct AcceleratorProbe {
    root: HostRoot,
    options: AcceleratorOptions,
    is_this_machine: bool,
    watches: Vec<Watch>,
    /// The vendors on the bus, in words.
    seen: String,
    /// What was heard at this tick, for the tables beside.
    beside: [Vec<RecordBatch>; 2],
    events: Vec<(Option<VendorId>, Event)>,
    /// Events of the agent's own so far, counted from far beyond the workers'.
    event_number: i64,
    /// How each vendor's newest tick went.
    outcomes: BTreeMap<VendorId, Outcome>,
    /// What the bus shows, by address.
    bus: BTreeMap<String, VendorId>,
    /// The newest devices by their PCI address: for what the kernel says about them.
    devices: BTreeMap<String, String>,
    kernel_log: Option<KernelLog>,
    faults: Vec<Fault>,
}

impl AcceleratorProbe {
    /// A probe of the accelerators of this machine.
    pub fn new(root: &HostRoot, options: AcceleratorOptions) -> Self {
        let is_this_machine = root.is_this_machine();
        let log = || KernelLog::new(vec![root.path("/dev/kmsg"), "/dev/kmsg".into()]);
        Self {
            root: root.clone(),
            is_this_machine,
            kernel_log: is_this_machine.then(log),
            faults: Vec::new(),
            bus: BTreeMap::new(),
            devices: BTreeMap::new(),
            options,
            watches: Vec::new(),
            seen: String::new(),
            beside: [const { Vec::new() }; 2],
            events: Vec::new(),
            event_number: 0,
            outcomes: BTreeMap::new(),
        }
    }

    /// Starts watching over vendors that have appeared.
    fn look(&mut self, tick: &Tick) {
        let mut wanted: BTreeSet<VendorId> = self.options.libraries.keys().copied().collect();
        let bus = pci::scan(&self.root).unwrap_or_default();
        self.seen = pci::summary(&bus);
        self.bus = bus.into_iter().map(|card| (card.address, card.vendor)).collect();
        // AMD's driver tells in files what others tell through their library, so any root will do.
        let can_tell = |vendor: &VendorId| self.is_this_machine || *vendor == VendorId::Amd;
        wanted.extend(self.bus.values().copied().filter(can_tell));
        for vendor in wanted {
            if self.watches.iter().any(|watch| watch.vendor() == vendor) {
                continue;
            }
            let patience = Patience {
                answer: self.options.deadline,
                first: FIRST_ANSWER.max(self.options.deadline),
                kill_after: self.options.kill_after,
            };
            let library = self.options.libraries.get(&vendor).cloned();
            // Exporters of this vendor wait for what we find.
            ARBITER.own_reads(vendor, tick.ts_micros);
            self.watches.push(Watch::new(vendor, self.options.worker.clone(), self.root.clone(), library, patience));
        }
    }
}

impl AcceleratorProbe {
    /// What the kernel has said since the last tick becomes events.
    fn hear_kernel(&mut self, tick: &Tick) {
        let Some(log) = &mut self.kernel_log else { return };
        let bus = &self.bus;
        let on_bus = |fault: &Fault| fault.pci_bdf.as_ref().and_then(|at| bus.get(at)).copied();
        // Errors that were put right are told of accelerators only: other devices' would be too many.
        let untold = log.read(|fault| !fault.is_corrected || on_bus(fault).is_some(), &mut self.faults);
        // The log counts from the machine's start.
        let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let uptime = uptime.tv_sec.saturating_mul(1_000_000).saturating_add(uptime.tv_nsec / 1000);
        let started = crate::ticker::now_us().saturating_sub(uptime);
        for fault in self.faults.drain(..) {
            let on_bus = on_bus(&fault);
            let event = Event {
                at_micros: started.saturating_add(fault.at_boot_micros),
                device: fault.pci_bdf.as_ref().and_then(|at| self.devices.get(at)).cloned(),
                pci_bdf: fault.pci_bdf,
                kind: "fault",
                source: "kernel",
                code: fault.code,
                message: fault.message,
                pid: fault.pid,
            };
            self.events.push((fault.vendor.or(on_bus), event));
        }
        if untold > 0 {
            let event = Event {
                at_micros: tick.ts_micros,
                device: None,
                pci_bdf: None,
                kind: "fault",
                source: "kernel",
                code: None,
                message: format!("{untold} more lines of the kernel's log were too many to be told"),
                pid: None,
            };
            self.events.push((None, event));
        }
    }
}

/// Keeps which whole device is where.
fn remember(batch: &RecordBatch, devices: &mut BTreeMap<String, String>) {
    let text = |name: &str| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    let (Some(device), Some(at), Some(parent)) = (text("device"), text("pci_bdf"), text("parent")) else { return };
    for ((device, at), _) in device.iter().zip(at).zip(parent).filter(|(_, parent)| parent.is_none()) {
        if let (Some(device), Some(at)) = (device, at)
            && devices.get(at).is_none_or(|known| known != device)
            && devices.len() < MAX_DEVICES
        {
            devices.insert(at.to_owned(), device.to_owned());
        }
    }
}

impl Probe for AcceleratorProbe {
    fn table(&self) -> &'static str {
        TABLES[0]
    }

    fn beside(&self) -> &'static [&'static str] {
        &[TABLES[1], TABLES[2]]
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        if tick.is_due(LOOK_EVERY) {
            self.look(tick);
        }
        if self.watches.is_empty() {
            return Err(ProbeError::Absent(match self.seen.as_str() {
                "" => "the PCI bus shows no accelerator".to_owned(),
                seen => format!("the root is not that of the machine that runs (on its PCI bus: {seen})"),
            }));
        }
        let mut heard: Vec<Heard> = self.watches.iter().map(|_| Heard::default()).collect();
        let now = Instant::now();
        let wait = if tick.first { FIRST_WAIT.max(self.options.deadline) } else { self.options.deadline };
        let deadline = now + wait;
        // All are asked first, so that they work side by side.
        for (watch, heard) in self.watches.iter_mut().zip(&mut heard) {
            watch.ask(tick, now, heard);
        }
        for (watch, heard) in self.watches.iter_mut().zip(&mut heard) {
            watch.hear(tick, deadline, heard);
        }
        let mut stalled = None;
        for (watch, heard) in self.watches.iter().zip(heard) {
            let vendor = watch.vendor();
            let is_scraped = ARBITER.is_scraped(vendor, tick.ts_micros);
            for (table, batch) in heard.rows {
                if table == 0 && batch.num_rows() > 0 {
                    ARBITER.own_reads(vendor, tick.ts_micros);
                }
                // The schema was looked at when the batch was heard.
                match table {
                    // An exporter that goes before us has them.
                    0 | 1 if is_scraped => {}
                    0 => {
                        remember(&batch, &mut self.devices);
                        rows.extend(&batch);
                    }
                    other => self.beside[other - 1].push(batch),
                }
            }
            self.events.extend(heard.events.into_iter().map(|event| (Some(vendor), event)));
            if let Some(outcome) = heard.outcome {
                self.outcomes.insert(vendor, outcome);
            }
            if let Some(since) = heard.stalled {
                stalled = Some(format!("{}: no answer for {} s", vendor.as_str(), since.as_secs()));
            }
        }
        match stalled {
            Some(message) => Err(ProbeError::Driver { library: "a vendor's library", message }),
            None => verdict(&self.outcomes),
        }
    }

    fn sample_beside(&mut self, tick: &Tick, tables: &mut [Rows]) {
        let [process, event] = tables else { return };
        self.hear_kernel(tick);
        for batch in self.beside[0].drain(..) {
            process.extend(&batch);
        }
        for batch in self.beside[1].drain(..) {
            event.extend(&batch);
        }
        for (vendor, happened) in self.events.drain(..) {
            // Below zero, so that they are never named as an event of a worker is.
            self.event_number -= 1;
            event
                .begin()
                .text("vendor", vendor.map_or(NOBODY, VendorId::as_str))
                .int("event", self.event_number)
                .timestamp("at", happened.at_micros)
                .text("device", happened.device.as_deref())
                .text("pci_bdf", happened.pci_bdf.as_deref())
                .text("kind", happened.kind)
                .text("source", happened.source)
                .int("code", happened.code)
                .text("message", happened.message.as_str())
                .int("pid", happened.pid);
        }
    }
}

/// What is said of the tick as a whole: the first trouble, or else the first absence if nobody had anything.
fn verdict(outcomes: &BTreeMap<VendorId, Outcome>) -> Result<(), ProbeError> {
    for (vendor, outcome) in outcomes {
        if let Outcome::Failed(message) = outcome {
            return Err(ProbeError::Driver { library: vendor.as_str(), message: message.clone() });
        }
    }
    if outcomes.values().any(|outcome| *outcome == Outcome::Well) {
        return Ok(());
    }
    match outcomes.iter().next() {
        Some((vendor, Outcome::Absent(reason))) => Err(ProbeError::Absent(format!("{}: {reason}", vendor.as_str()))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use nodescope_model::catalogue::Catalogue;
    use nodescope_model::rows::Stamp;

    use super::*;
    use crate::probes::testing::{fixture_options, ints, texts};

    fn options() -> AcceleratorOptions {
        fixture_options().accelerators
    }

    #[test]
    fn a_recorded_host_has_no_driver_but_says_what_its_bus_shows() {
        let mut rows = Rows::new(Catalogue::built_in().get("accelerator").unwrap());
        let mut probe = AcceleratorProbe::new(&fixture_options().root, options());
        let error = probe.sample(&Tick { ts_micros: 0, first: true }, &mut rows).unwrap_err();
        assert_eq!(rows.finish(&Stamp { ts_micros: 0, node: "n", host: "h" }).num_rows(), 0);
        assert!(matches!(error, ProbeError::Absent(_)), "{error}");
        assert!(error.to_string().ends_with("(on its PCI bus: 1 ascend, 2 nvidia)"), "{error}");
    }

    #[test]
    fn a_worker_that_cannot_be_started_is_a_fault_and_not_the_end() {
        let mut options = options();
        options.libraries.insert(VendorId::Metax, "/nowhere/libmxsml.so".into());
        let mut rows = Rows::new(Catalogue::built_in().get("accelerator").unwrap());
        let mut probe = AcceleratorProbe::new(&fixture_options().root, options);
        let error = probe.sample(&Tick { ts_micros: 0, first: true }, &mut rows).unwrap_err();
        assert!(error.to_string().contains("cannot be started"), "{error}");
    }

    #[test]
    fn what_the_kernel_says_is_an_event_whatever_the_libraries_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kmsg");
        std::fs::write(&path, "").unwrap();
        let mut probe = AcceleratorProbe::new(&fixture_options().root, options());
        probe.kernel_log = Some(KernelLog::new(vec![path.clone()]));
        probe.devices.insert("0000:17:00.0".to_owned(), "GPU-1".to_owned());
        let catalogue = Catalogue::built_in();
        let mut tables =
            ["accelerator_process", "accelerator_event"].map(|name| Rows::new(catalogue.get(name).unwrap()));
        let mut tick = |probe: &mut AcceleratorProbe, first| {
            let tick = Tick { ts_micros: 60_000_000, first };
            let mut rows = Rows::new(catalogue.get("accelerator").unwrap());
            assert!(probe.sample(&tick, &mut rows).is_err(), "there is no library");
            probe.sample_beside(&tick, &mut tables);
            tables[1].finish(&Stamp { ts_micros: 60_000_000, node: "n", host: "h" })
        };
        assert_eq!(tick(&mut probe, true).num_rows(), 0);
        let lines = "4,1,100,-;NVRM: Xid (PCI:0000:17:00): 79, pid=42, GPU has fallen off the bus.\n\
                     4,2,200,-;nvme 0000:02:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer\n\
                     4,3,300,-;pcieport 0000:c1:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer\n\
                     0,4,400,-;mce: [Hardware Error]: Machine check events logged\n";
        std::fs::write(&path, lines).unwrap();
        let events = tick(&mut probe, false);
        assert_eq!(texts(&events, "vendor"), [Some("nvidia"), Some("ascend"), Some("host")]);
        assert_eq!(texts(&events, "device"), [Some("GPU-1"), None, None]);
        assert_eq!(texts(&events, "pci_bdf"), [Some("0000:17:00.0"), Some("0000:c1:00.0"), None]);
        assert_eq!(texts(&events, "kind"), [Some("fault"); 3]);
        assert_eq!(texts(&events, "source"), [Some("kernel"); 3]);
        assert_eq!(ints(&events, "code"), [Some(79), None, None]);
        assert_eq!(ints(&events, "pid"), [Some(42), None, None]);
        assert_eq!(ints(&events, "event"), [Some(-1), Some(-2), Some(-3)]);
    }

    #[test]
    fn settings_name_libraries() {
        let mut settings = Settings::default();
        let named = "ascend=/opt/libdcmi.so, moore-threads=/opt/libmtml.so, what=/x, nvidia=relative";
        settings.flag("agent.accelerator_libraries", Some(named));
        settings.flag("agent.accelerator_deadline", Some("1ms"));
        let read = AcceleratorOptions::read(&mut settings, options().worker);
        assert_eq!(read.libraries.keys().collect::<Vec<_>>(), [&VendorId::Ascend, &VendorId::MooreThreads]);
        assert_eq!(settings.finish().unwrap_err().0.len(), 3);
    }
}
