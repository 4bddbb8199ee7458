//! To be written.

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};

/// What the probe needs to know.
#[derive(Debug, Clone, Default)]
pub struct ExecutableOptions {}

impl ExecutableOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self {}
    }
}

/// Fills the table `executable`.
pub struct ExecutableProbe {}

impl ExecutableProbe {
    /// Reads nothing yet.
    pub fn new(_root: &HostRoot, _options: ExecutableOptions) -> Self {
        Self {}
    }
}

impl Probe for ExecutableProbe {
    fn table(&self) -> &'static str {
        "executable"
    }

    fn sample(&mut self, _tick: &Tick, _rows: &mut Rows) -> Result<(), ProbeError> {
        Err(ProbeError::Absent("not built yet".to_owned()))
    }
}
