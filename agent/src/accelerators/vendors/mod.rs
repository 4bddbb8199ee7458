//! The vendors, one file each: what their library tells, put into the rows of one table.
//!
//! A vendor's file asks its library (see `abi`) for one thing at a time, converts it to the catalogue's unit, drops the
//! numbers the vendor uses for "not known", and leaves out what does not come. What is common to all (mean and maximum
//! inside a tick, cards that appear and vanish, whose processes those are) is not its business: `worker` does that.

mod amd;
mod amdgpu_sysfs;
mod ascend;
mod cambricon;
mod common;
mod enflame;
mod gpu_metrics;
mod hygon;
mod iluvatar;
mod metax;
mod moore_threads;
mod nvidia;
mod rsmi;

use std::path::{Path, PathBuf};

use super::readings::Readings;
use super::window::Window;
use crate::abi::OpenError;
use crate::host_root::HostRoot;
use crate::probe::{ProbeError, Tick};

/// Reads the accelerators of one vendor.
pub(crate) trait Vendor {
    /// Appends a row for every card and partition, one for every process on them, and what has happened since.
    ///
    /// # Errors
    /// When the library as a whole does not answer. One card in trouble takes nothing from the others: its row has what
    /// is known, and the trouble in the column `error`.
    fn sample(&mut self, tick: &Tick, window: &mut Window, out: &mut Readings) -> Result<(), ProbeError>;

    /// Called some four times a second between ticks: tells the window each device's load and power now. A vendor
    /// whose library keeps such samples itself reads them at the tick and leaves this out.
    fn glance(&mut self, _window: &mut Window) {}

    /// Whether the library has ceased to fit its driver, which was replaced: this process must end, and another open
    /// the new one.
    fn is_outdated(&self) -> bool {
        false
    }
}

/// What a vendor's reader may want to know when it is made.
#[derive(Debug, Clone)]
pub(crate) struct VendorOptions {
    /// Where the host's files are.
    pub(crate) root: HostRoot,
    /// The library to use instead of looking for one.
    pub(crate) library: Option<PathBuf>,
}

impl VendorOptions {
    /// The library that was configured.
    pub(crate) fn library(&self) -> Option<&Path> {
        self.library.as_deref()
    }
}

/// One of the vendors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
#[allow(missing_docs, reason = "they are names")]
pub enum VendorId {
    Nvidia,
    Amd,
    Hygon,
    Ascend,
    Cambricon,
    Metax,
    MooreThreads,
    Enflame,
    Iluvatar,
}

impl VendorId {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Nvidia,
        Self::Amd,
        Self::Hygon,
        Self::Ascend,
        Self::Cambricon,
        Self::Metax,
        Self::MooreThreads,
        Self::Enflame,
        Self::Iluvatar,
    ];

    /// The word in the column `vendor`, in settings and on the worker's command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia",
            Self::Amd => "amd",
            Self::Hygon => "hygon",
            Self::Ascend => "ascend",
            Self::Cambricon => "cambricon",
            Self::Metax => "metax",
            Self::MooreThreads => "moore-threads",
            Self::Enflame => "enflame",
            Self::Iluvatar => "iluvatar",
        }
    }

    /// The vendor's number on the PCI bus.
    pub fn pci_vendor(self) -> u16 {
        match self {
            Self::Nvidia => 0x10de,
            Self::Amd => 0x1002,
            Self::Hygon => 0x1d94,
            Self::Ascend => 0x19e5,
            Self::Cambricon => 0xcabc,
            Self::Metax => 0x9999,
            Self::MooreThreads => 0x1ed5,
            Self::Enflame => 0x1e36,
            Self::Iluvatar => 0x1e3e,
        }
    }

    /// The vendor of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vendor| vendor.as_str() == text)
    }
}

/// The reader of one vendor's accelerators. Nothing is opened before its first tick.
pub(crate) fn reader(vendor: VendorId, options: VendorOptions) -> Box<dyn Vendor> {
    match vendor {
        VendorId::Nvidia => Box::new(nvidia::Nvidia::new(options)),
        VendorId::Amd => Box::new(amd::Amd::new(options)),
        VendorId::Hygon => Box::new(hygon::Hygon::new(options)),
        VendorId::Ascend => Box::new(ascend::Ascend::new(options)),
        VendorId::Cambricon => Box::new(cambricon::Cambricon::new(options)),
        VendorId::Metax => Box::new(metax::Metax::new(options)),
        VendorId::MooreThreads => Box::new(moore_threads::MooreThreads::new(options)),
        VendorId::Enflame => Box::new(enflame::Enflame::new(options)),
        VendorId::Iluvatar => Box::new(iluvatar::Iluvatar::new(options)),
    }
}

/// A library that is missing is an absence, one that does not open a fault.
pub(crate) fn not_open(library: &'static str, error: &OpenError) -> ProbeError {
    match error {
        OpenError::NotFound(_) => ProbeError::Absent(format!("no driver: {error}")),
        OpenError::Refused { .. } => ProbeError::Driver { library, message: error.to_string() },
    }
}
