//! To be written.

use super::{Vendor, VendorOptions};
use crate::accelerators::readings::Readings;
use crate::accelerators::window::Window;
use crate::probe::{ProbeError, Tick};

/// Reads the cards of this vendor.
pub(crate) struct MooreThreads {}

impl MooreThreads {
    pub(crate) fn new(_options: VendorOptions) -> Self {
        Self {}
    }
}

impl Vendor for MooreThreads {
    fn sample(&mut self, _tick: &Tick, _window: &mut Window, _out: &mut Readings) -> Result<(), ProbeError> {
        Err(ProbeError::Absent("not built yet".to_owned()))
    }
}
