//! To be written.

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};

/// What the probe needs to know.
#[derive(Debug, Clone, Default)]
pub struct SensorOptions {}

impl SensorOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self {}
    }
}

/// Fills the table `sensor`.
pub struct SensorProbe {}

impl SensorProbe {
    /// Reads nothing yet.
    pub fn new(_root: &HostRoot, _options: SensorOptions) -> Self {
        Self {}
    }
}

impl Probe for SensorProbe {
    fn table(&self) -> &'static str {
        "sensor"
    }

    fn sample(&mut self, _tick: &Tick, _rows: &mut Rows) -> Result<(), ProbeError> {
        Err(ProbeError::Absent("not built yet".to_owned()))
    }
}
