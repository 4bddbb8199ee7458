//! To be written.

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};

/// What the adapter needs to know.
#[derive(Debug, Clone, Default)]
pub struct ScrapeOptions {}

impl ScrapeOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self {}
    }
}

/// Fills the table `sample` and those that exporters are mapped to.
pub struct ScrapeProbe {}

impl ScrapeProbe {
    /// Reads nothing yet.
    pub fn new(_root: &HostRoot, _options: ScrapeOptions) -> Self {
        Self {}
    }
}

impl Probe for ScrapeProbe {
    fn table(&self) -> &'static str {
        "sample"
    }

    fn sample(&mut self, _tick: &Tick, _rows: &mut Rows) -> Result<(), ProbeError> {
        Err(ProbeError::Absent("not built yet".to_owned()))
    }
}
