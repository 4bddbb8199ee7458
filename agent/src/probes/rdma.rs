//! To be written.

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};

/// What the probe needs to know.
#[derive(Debug, Clone, Default)]
pub struct RdmaOptions {}

impl RdmaOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self {}
    }
}

/// Fills the table `rdma`.
pub struct RdmaProbe {}

impl RdmaProbe {
    /// Reads nothing yet.
    pub fn new(_root: &HostRoot, _options: RdmaOptions) -> Self {
        Self {}
    }
}

impl Probe for RdmaProbe {
    fn table(&self) -> &'static str {
        "rdma"
    }

    fn sample(&mut self, _tick: &Tick, _rows: &mut Rows) -> Result<(), ProbeError> {
        Err(ProbeError::Absent("not built yet".to_owned()))
    }
}
