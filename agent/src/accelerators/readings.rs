//! What one tick of one vendor's accelerators gives: rows of three tables.

use std::collections::HashSet;

use nodescope_model::catalogue::Catalogue;
use nodescope_model::rows::{Row, Rows};

use super::vendors::VendorId;
use crate::attribution::ProcessFacts;
use crate::host_root::HostRoot;

/// The tables, in the order in which they are sent.
pub(crate) const TABLES: [&str; 3] = ["accelerator", "accelerator_process", "accelerator_event"];

/// Which of them is that of events.
pub(crate) const EVENTS: usize = 2;

/// Processes on one vendor's devices told at one tick; `accelerator.processes` counts all.
const MAX_PROCESSES: usize = 4096;

/// Something that happened to a device or to what stands between us and it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Microseconds since 1970.
    pub(crate) at_micros: i64,
    /// The device's identity as in `accelerator.device`; `None` for the vendor as a whole.
    pub(crate) device: Option<String>,
    /// Its PCI address.
    pub(crate) pci_bdf: Option<String>,
    /// `fault` (the vendor's own error codes), `lost`, `added`, `stalled`, `resumed`, `crashed`, `started`.
    pub(crate) kind: &'static str,
    /// Who says so: the name of a library, `kernel` or `agent`.
    pub(crate) source: &'static str,
    /// The vendor's number for it (XID).
    pub(crate) code: Option<i64>,
    /// A sentence.
    pub(crate) message: String,
    /// The process it is about.
    pub(crate) pid: Option<i64>,
}

/// A process on a device, as the library tells it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct OnDevice<'a> {
    pub(crate) device: &'a str,
    pub(crate) pid: u32,
    /// `compute`, `graphics` or `both`.
    pub(crate) work: Option<&'static str>,
    pub(crate) memory_used_bytes: Option<u64>,
    pub(crate) utilization_ratio: Option<f64>,
    pub(crate) memory_utilization_ratio: Option<f64>,
    pub(crate) encoder_utilization_ratio: Option<f64>,
    pub(crate) decoder_utilization_ratio: Option<f64>,
}

/// Rows of the three tables.
pub(crate) struct Readings {
    vendor: VendorId,
    root: HostRoot,
    accelerator: Rows,
    process: Rows,
    event: Rows,
    /// Processes of this tick, so that none is told twice.
    told: HashSet<(String, u32)>,
    /// Events so far, so that no two have one name.
    events: i64,
}

impl Readings {
    pub(crate) fn new(catalogue: &Catalogue, vendor: VendorId, root: HostRoot) -> Self {
        let rows = |name: &str| Rows::new(catalogue.get(name).expect("a built-in table"));
        Self {
            vendor,
            root,
            accelerator: rows(TABLES[0]),
            process: rows(TABLES[1]),
            event: rows(TABLES[2]),
            told: HashSet::new(),
            events: 0,
        }
    }

    /// Begins the row of a device or partition. `device` is its identity for life: UUID, or serial number, or PCI
    /// address, in this order of preference, never an index alone.
    pub(crate) fn device(&mut self, device: &str) -> Row<'_> {
        let mut row = self.accelerator.begin();
        row.text("device", device).text("vendor", self.vendor.as_str());
        row
    }

    /// Appends the row of a process on a device, with who it is and whose.
    pub(crate) fn process(&mut self, on: &OnDevice<'_>) {
        if self.told.len() >= MAX_PROCESSES || !self.told.insert((on.device.to_owned(), on.pid)) {
            return;
        }
        let facts = ProcessFacts::read(&self.root, on.pid);
        let mut row = self.process.begin();
        row.text("device", on.device)
            .int("pid", i64::from(on.pid))
            .text("vendor", self.vendor.as_str())
            .text("work", on.work)
            .count("memory_used_bytes", on.memory_used_bytes)
            .float("utilization_ratio", on.utilization_ratio)
            .float("memory_utilization_ratio", on.memory_utilization_ratio)
            .float("encoder_utilization_ratio", on.encoder_utilization_ratio)
            .float("decoder_utilization_ratio", on.decoder_utilization_ratio);
        if let Some(facts) = &facts {
            row.int("start_ticks", facts.start_ticks)
                .text("name", facts.name.as_str())
                .int("uid", facts.uid)
                .text("cgroup", facts.cgroup.as_deref())
                .text("container", facts.owner.container.as_deref())
                .text("pod", facts.owner.pod.as_deref())
                .text("job", facts.owner.job.as_deref());
        }
    }

    /// Appends an event.
    pub(crate) fn event(&mut self, event: &Event) {
        self.events += 1;
        self.event
            .begin()
            .text("vendor", self.vendor.as_str())
            .int("event", self.events)
            .timestamp("at", event.at_micros)
            .text("device", event.device.as_deref())
            .text("pci_bdf", event.pci_bdf.as_deref())
            .text("kind", event.kind)
            .text("source", event.source)
            .int("code", event.code)
            .text("message", event.message.as_str())
            .int("pid", event.pid);
    }

    /// The rows, table by table, in the order of [`TABLES`].
    pub(crate) fn tables(&mut self) -> [&mut Rows; 3] {
        self.told.clear();
        [&mut self.accelerator, &mut self.process, &mut self.event]
    }
}
