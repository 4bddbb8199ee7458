//! Hygon's accelerators (DCU), through the library that Hygon has built after AMD's ROCm SMI.
//!
//! The driver installs it below `/opt/hyhal`, older ones leave that to the toolkit (DTK). A second library beside it,
//! `libhydmi`, tells of the virtual devices that a card may be cut into: they are rows of their own, with their compute
//! units, memory and load. Temperature and power are the card's.
//!
//! A node whose cards are cut the newer way (`libhydmi_mig`, instances as NVIDIA's MIG has them) shows its whole cards.

use std::path::PathBuf;
use std::time::Duration;

use super::rsmi::{Flavour, Reader, ratio};
use super::{Vendor, VendorOptions};
use crate::abi::hydmi::{Hydmi, VirtualDevice};
use crate::accelerators::readings::Readings;
use crate::accelerators::window::Window;
use crate::probe::{ProbeError, Tick};

const HYGON: Flavour = Flavour {
    library: "ROCm SMI",
    candidates: &[
        "/opt/hyhal/lib/librocm_smi64.so.2",
        "/opt/hyhal/lib/librocm_smi64.so",
        "/usr/local/hyhal/lib/librocm_smi64.so",
        "/opt/dtk/.hyhal/rocm_smi/lib/librocm_smi64.so",
        "/opt/dtk/rocm_smi/lib/librocm_smi64.so",
        "/opt/dtk/lib/librocm_smi64.so",
        "librocm_smi64.so.2",
        "librocm_smi64.so",
    ],
    modules: &["hycu", "hydcu"],
};

/// Where the library of virtual devices is looked for.
const HYDMI: &[&str] = &[
    "/opt/hyhal/lib/libhydmi.so.1",
    "/opt/hyhal/lib/libhydmi.so",
    "/usr/local/hyhal/lib/libhydmi.so",
    "/opt/dtk/.hyhal/lib/libhydmi.so",
    "libhydmi.so.1",
    "libhydmi.so",
];

/// How often virtual devices are looked for.
const SLOW_EVERY: Duration = Duration::from_secs(10);

/// How often the library that tells of them is.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Numbers of virtual devices tried.
const MAX_VIRTUAL: u32 = 512;

/// Reads the cards of this vendor.
pub(crate) struct Hygon {
    reader: Reader,
    options: VendorOptions,
    hydmi: Option<Hydmi>,
    virtual_devices: Vec<VirtualDevice>,
    has_looked: bool,
}

impl Hygon {
    pub(crate) fn new(options: VendorOptions) -> Self {
        Self {
            reader: Reader::new(&HYGON, options.clone()),
            options,
            hydmi: None,
            virtual_devices: Vec::new(),
            has_looked: false,
        }
    }

    /// Opens the library of virtual devices: where one was named for the cards, the one beside it, or the same if it
    /// has both; else the installed one. Most machines have no virtual devices, so that there is none is no trouble.
    fn open(&self) -> Option<Hydmi> {
        let Some(named) = self.options.library() else { return Hydmi::open(None, HYDMI).ok().flatten() };
        let beside: PathBuf = named.with_file_name("libhydmi.so");
        let paths = if beside.exists() { [beside, named.to_owned()] } else { [named.to_owned(), beside] };
        paths.iter().find_map(|path| Hydmi::open(Some(path), &[]).ok().flatten())
    }

    fn look_for_virtual_devices(&mut self) {
        self.virtual_devices.clear();
        let Some(hydmi) = &self.hydmi else { return };
        let cards = u32::try_from(self.reader.count()).unwrap_or(0);
        // Numbers go through the whole machine and have gaps.
        let most = hydmi.max_per_card().saturating_mul(cards).min(MAX_VIRTUAL);
        self.virtual_devices.extend((0..most).filter_map(|number| hydmi.device(number)));
    }
}

impl Vendor for Hygon {
    fn sample(&mut self, tick: &Tick, window: &mut Window, out: &mut Readings) -> Result<(), ProbeError> {
        self.reader.sample(tick, window, out, &[])?;
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        if self.hydmi.is_none() && (is_first || tick.is_due(LOOK_EVERY)) {
            self.hydmi = self.open();
        }
        if is_first || tick.is_due(SLOW_EVERY) {
            self.look_for_virtual_devices();
        }
        let Some(hydmi) = &self.hydmi else { return Ok(()) };
        for known in &self.virtual_devices {
            // It may have been given up since, and its memory changes at any time.
            let Some(now) = hydmi.device(known.number).filter(|now| now.card == known.card) else { continue };
            let Some(card) = self.reader.device_of(now.card) else { continue };
            let number = now.number.to_string();
            let device = format!("{}-vdcu{number}", card.device);
            let load = hydmi.busy(now.number).and_then(ratio);
            window.look(&device, load, None);
            let mut row = out.device(&device);
            card.fill(&mut row);
            row.text("model", now.name.as_deref().or(card.model()))
                .text("parent", card.device.as_str())
                .text("partition_type", "vdcu")
                .text("partition_id", number.as_str())
                .int("cores", now.compute_units)
                .float("utilization_ratio", load)
                .count("memory_total_bytes", now.memory_bytes)
                .count("memory_used_bytes", now.memory_used_bytes)
                .count(
                    "memory_free_bytes",
                    now.memory_bytes.zip(now.memory_used_bytes).and_then(|(total, used)| total.checked_sub(used)),
                );
            window.fill(&device, &mut row);
        }
        Ok(())
    }

    fn glance(&mut self, window: &mut Window) {
        self.reader.glance(window);
    }
}
