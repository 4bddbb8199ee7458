//! To be written.

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};

/// What the probe needs to know.
#[derive(Debug, Clone, Default)]
pub struct ConfigChangeOptions {}

impl ConfigChangeOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self {}
    }
}

/// Fills the table `config_change`.
pub struct ConfigChangeProbe {}

impl ConfigChangeProbe {
    /// Reads nothing yet.
    pub fn new(_root: &HostRoot, _options: ConfigChangeOptions) -> Self {
        Self {}
    }
}

impl Probe for ConfigChangeProbe {
    fn table(&self) -> &'static str {
        "config_change"
    }

    fn sample(&mut self, _tick: &Tick, _rows: &mut Rows) -> Result<(), ProbeError> {
        Err(ProbeError::Absent("not built yet".to_owned()))
    }
}
