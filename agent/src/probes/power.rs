//! To be written.

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};

/// What the probe needs to know.
#[derive(Debug, Clone, Default)]
pub struct PowerOptions {}

impl PowerOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self {}
    }
}

/// Fills the table `power`.
pub struct PowerProbe {}

impl PowerProbe {
    /// Reads nothing yet.
    pub fn new(_root: &HostRoot, _options: PowerOptions) -> Self {
        Self {}
    }
}

impl Probe for PowerProbe {
    fn table(&self) -> &'static str {
        "power"
    }

    fn sample(&mut self, _tick: &Tick, _rows: &mut Rows) -> Result<(), ProbeError> {
        Err(ProbeError::Absent("not built yet".to_owned()))
    }
}
