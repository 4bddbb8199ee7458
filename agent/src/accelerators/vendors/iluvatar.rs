//! Iluvatar CoreX's accelerators, through IXML.
//!
//! IXML has the functions of NVIDIA's library under the same names, those of some years ago: so the reader is the same,
//! and what this library lacks (fields, GPM, events, rings of samples) is NULL or asked for by the older functions. It
//! comes with the CoreX toolkit and not with the driver, so a machine without the toolkit has only the PCI bus to tell.

use super::nvidia::{Flavour, Reader};
use super::{Vendor, VendorOptions};
use crate::accelerators::readings::Readings;
use crate::accelerators::window::Window;
use crate::probe::{ProbeError, Tick};

const IXML: Flavour = Flavour {
    library: "IXML",
    candidates: &["/usr/local/corex/lib64/libixml.so", "/usr/local/corex/lib/libixml.so", "libixml.so"],
    device_file: "iluvatar",
};

/// Reads Iluvatar's cards.
pub(crate) struct Iluvatar(Reader);

impl Iluvatar {
    pub(crate) fn new(options: VendorOptions) -> Self {
        Self(Reader::new(&IXML, options))
    }
}

impl Vendor for Iluvatar {
    fn sample(&mut self, tick: &Tick, window: &mut Window, out: &mut Readings) -> Result<(), ProbeError> {
        self.0.sample(tick, window, out)
    }

    fn glance(&mut self, window: &mut Window) {
        self.0.glance(window);
    }

    fn is_outdated(&self) -> bool {
        self.0.is_outdated
    }
}
