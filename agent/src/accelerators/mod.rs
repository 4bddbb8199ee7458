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
//! The libraries ask the kernel of the machine the agent runs on. So they are asked only when the root belongs to that
//! machine, be it seen from a container, or when a library was named in the settings.

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
use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

pub use vendors::VendorId;
pub use watch::WorkerCommand;

use self::frame::Outcome;
use self::readings::{Event, TABLES};
use self::watch::{Heard, Patience, Watch};
use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};
use crate::scrape::arbiter::ARBITER;

/// How often the bus is looked at for vendors that have appeared.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A library's first answer may take this long before it counts as stalled.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

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
                    settings.mistake(format!("agent.accelerator_libraries: `{entry}`: name an absolute path"))
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
    /// What was heard at this tick, for the tables beside.
    beside: [Vec<RecordBatch>; 2],
    events: Vec<(VendorId, Event)>,
    /// Events of the agent's own so far, counted from far beyond the workers'.
    event_number: i64,
    /// How each vendor's newest tick went.
    outcomes: BTreeMap<VendorId, Outcome>,
}

impl AcceleratorProbe {
    /// A probe of the accelerators of this machine.
    pub fn new(root: &HostRoot, options: AcceleratorOptions) -> Self {
        Self {
            root: root.clone(),
            is_this_machine: root.is_this_machine(),
            options,
            watches: Vec::new(),
            beside: [const { Vec::new() }; 2],
            events: Vec::new(),
            event_number: 0,
            outcomes: BTreeMap::new(),
        }
    }

    /// Starts watching over vendors that have appeared.
    fn look(&mut self, tick: &Tick) {
        let mut wanted: BTreeSet<VendorId> = self.options.libraries.keys().copied().collect();
        if self.is_this_machine {
            wanted.extend(pci::scan(&self.root).unwrap_or_default().iter().map(|card| card.vendor));
        }
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
            let seen = pci::summary(&pci::scan(&self.root).unwrap_or_default());
            return Err(ProbeError::Absent(match seen.as_str() {
                "" => "the PCI bus shows no accelerator".to_owned(),
                seen => format!("the root is not that of the machine that runs (on its PCI bus: {seen})"),
            }));
        }
        let mut heard: Vec<Heard> = self.watches.iter().map(|_| Heard::default()).collect();
        let deadline = Instant::now() + self.options.deadline;
        // All are asked first, so that they work side by side.
        for (watch, heard) in self.watches.iter_mut().zip(&mut heard) {
            watch.ask(tick, heard);
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
                match table {
                    // An exporter that goes before us has them.
                    0 | 1 if is_scraped => {}
                    0 => rows.extend(&batch),
                    other => self.beside[other - 1].push(batch),
                }
            }
            self.events.extend(heard.events.into_iter().map(|event| (vendor, event)));
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

    fn sample_beside(&mut self, _: &Tick, tables: &mut [Rows]) {
        let [process, event] = tables else { return };
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
                .text("vendor", vendor.as_str())
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
    use crate::probes::testing::fixture_options;

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
