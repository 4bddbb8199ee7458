//! To be written.

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};

/// What the probe needs to know.
#[derive(Debug, Clone, Default)]
pub struct ServiceOptions {}

impl ServiceOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self {}
    }
}

/// Fills the table `service`.
pub struct ServiceProbe {}

impl ServiceProbe {
    /// Reads nothing yet.
    pub fn new(_root: &HostRoot, _options: ServiceOptions) -> Self {
        Self {}
    }
}

impl Probe for ServiceProbe {
    fn table(&self) -> &'static str {
        "service"
    }

    fn sample(&mut self, _tick: &Tick, _rows: &mut Rows) -> Result<(), ProbeError> {
        Err(ProbeError::Absent("not built yet".to_owned()))
    }
}
