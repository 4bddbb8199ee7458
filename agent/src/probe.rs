//! What a probe is: it reads one subject of this host and fills rows of one table.
//!
//! A probe runs on a thread of its own (see `ticker`), because reading a host can block for ever: a dead mount, a
//! driver that hangs. It keeps between ticks whatever saves work: open files, buffers, identities. It reads below a
//! [`HostRoot`], so that a test can show it a recorded machine, and it parses in functions that need no machine.

use std::time::Duration;

use nodescope_model::rows::Rows;

use crate::accelerators::AcceleratorOptions;
use crate::host_root::HostRoot;
use crate::probes::{
    allocation, config_change, connection, container, edac, executable, link, listener, login, module, numa, power,
    rdma, sensor, service,
};
use crate::scrape::ScrapeOptions;

/// One moment at which probes sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The aligned wall-clock time, microseconds since 1970, UTC. It stamps every row.
    pub ts_micros: i64,
    /// Whether this is the probe's first tick: tables that change slowly are sampled at once.
    pub first: bool,
}

impl Tick {
    /// Whether something that happens `every` so often is due at this tick: on multiples of the wall clock, and on
    /// the first tick.
    pub fn is_due(&self, every: Duration) -> bool {
        let every = i64::try_from(every.as_micros()).unwrap_or(i64::MAX).max(1);
        self.first || self.ts_micros % every == 0
    }
}

/// Reads one subject of this host.
pub trait Probe: Send {
    /// Name of the table it fills, which is also the probe's name.
    fn table(&self) -> &'static str;

    /// Appends this tick's rows. May block: it has a thread of its own. Rows appended before an error are kept.
    ///
    /// # Errors
    /// When the subject could not be read at all. A single value that is not there is NULL, not an error.
    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError>;

    /// Further tables that come out of the same reading.
    fn beside(&self) -> &'static [&'static str] {
        &[]
    }

    /// Appends this tick's rows of those tables, in their order. Called after [`Probe::sample`], whatever that said.
    fn sample_beside(&mut self, _tick: &Tick, _tables: &mut [Rows]) {}
}

/// Why a probe has no rows to give.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not look as the kernel documents it.
    #[error("{path} is not in the form expected: {what}")]
    Malformed {
        /// Which.
        path: String,
        /// What was looked for.
        what: &'static str,
    },
    /// There is nothing of this kind here. Not a fault: said once, and shown by `--once` and the `agent` table.
    #[error("{0}")]
    Absent(String),
    /// A driver's library answered with an error.
    #[error("{library}: {message}")]
    Driver {
        /// Which.
        library: &'static str,
        /// What it said.
        message: String,
    },
}

/// What a probe may want to know when it is made.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// Where the host's files are.
    pub root: HostRoot,
    /// How many processes to list, by CPU and again by memory.
    pub top_processes: usize,
    /// How often the rows of single CPUs are sampled (the total is sampled at every tick).
    pub per_cpu_every: Duration,
    /// How accelerators are read.
    pub accelerators: AcceleratorOptions,
    /// The probe of that name.
    pub numa: numa::NumaOptions,
    /// The probe of that name.
    pub edac: edac::EdacOptions,
    /// The probe of that name.
    pub rdma: rdma::RdmaOptions,
    /// The probe of that name.
    pub link: link::LinkOptions,
    /// The probe of that name.
    pub allocation: allocation::AllocationOptions,
    /// The probe of that name.
    pub container: container::ContainerOptions,
    /// The probe of that name.
    pub service: service::ServiceOptions,
    /// The probe of that name.
    pub sensor: sensor::SensorOptions,
    /// The probe of that name.
    pub power: power::PowerOptions,
    /// The probe of that name.
    pub listener: listener::ListenerOptions,
    /// The probe of that name.
    pub connection: connection::ConnectionOptions,
    /// The probe of that name.
    pub login: login::LoginOptions,
    /// The probe of that name.
    pub module: module::ModuleOptions,
    /// The probe of that name.
    pub executable: executable::ExecutableOptions,
    /// The probe of that name.
    pub config_change: config_change::ConfigChangeOptions,
    /// Exporters that are read.
    pub scrape: ScrapeOptions,
}
