//! `accelerator`: GPUs and other accelerators.
//!
//! Every vendor has a library of its own that its driver brings along. None is needed to build the agent: what is
//! installed is opened at run time, and where nothing is, the reason is given together with what the PCI bus shows.
//! NVIDIA's is read today (`nvidia`); another vendor is another module here that fills the same rows.
//!
//! The libraries ask the kernel of the machine the agent runs on. So they are asked only when the root belongs to that
//! machine, be it seen from a container, and never for a recorded one.

mod nvidia;
pub mod pci;

use std::fs;

use nodescope_model::rows::Rows;

use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};

/// Fills the table `accelerator`.
pub struct AcceleratorProbe {
    root: HostRoot,
    is_this_machine: bool,
    nvidia: nvidia::Nvidia,
}

impl AcceleratorProbe {
    /// A probe of the accelerators of this machine.
    pub fn new(options: &ProbeOptions) -> Self {
        Self {
            root: options.root.clone(),
            is_this_machine: is_this_machine(&options.root),
            nvidia: nvidia::Nvidia::new(),
        }
    }
}

impl Probe for AcceleratorProbe {
    fn table(&self) -> &'static str {
        "accelerator"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        if self.is_this_machine {
            self.nvidia.sample(tick, &self.root, rows)
        } else {
            let seen = pci::summary(&pci::scan(&self.root).unwrap_or_default());
            Err(ProbeError::Absent(with_pci("no driver: the root is not that of the machine that runs", &seen)))
        }
    }
}

/// A reason, with what the PCI bus shows.
fn with_pci(reason: &str, seen: &str) -> String {
    if seen.is_empty() { reason.to_owned() } else { format!("{reason} (on the PCI bus: {seen})") }
}

/// Whether the kernel below `root` is the one that runs: it draws a number at every start.
fn is_this_machine(root: &HostRoot) -> bool {
    let number = |root: &HostRoot| fs::read_to_string(root.proc("sys/kernel/random/boot_id")).ok();
    root.is_real() || number(root).is_some_and(|theirs| number(&HostRoot::new("/")).is_some_and(|ours| ours == theirs))
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use nodescope_model::catalogue::Catalogue;
    use nodescope_model::rows::Stamp;

    use super::*;
    use crate::probes::testing::fixture_options;

    fn sample(options: &ProbeOptions) -> (Result<(), ProbeError>, arrow_array::RecordBatch) {
        let mut rows = Rows::new(Catalogue::built_in().get("accelerator").unwrap());
        let result = AcceleratorProbe::new(options).sample(&Tick { ts_micros: 0, first: true }, &mut rows);
        (result, rows.finish(&Stamp { ts_micros: 0, node: "n", host: "h" }))
    }

    #[test]
    fn a_recorded_host_has_no_driver_but_says_what_its_bus_shows() {
        let (result, batch) = sample(&fixture_options());
        assert_eq!(batch.num_rows(), 0);
        let error = result.unwrap_err();
        assert!(matches!(error, ProbeError::Absent(_)), "{error}");
        assert!(error.to_string().ends_with("(on the PCI bus: 1 Huawei, 2 NVIDIA)"), "{error}");
    }

    #[test]
    fn this_machine_has_accelerators_or_a_reason() {
        let (result, batch) = sample(&ProbeOptions { root: HostRoot::new("/"), ..fixture_options() });
        match result {
            Ok(()) => {
                assert!(batch.num_rows() > 0);
                assert_eq!(batch.column_by_name("vendor").unwrap().null_count(), 0);
                let devices: std::collections::BTreeSet<_> =
                    batch.column_by_name("device").unwrap().as_string::<i32>().iter().collect();
                assert_eq!(devices.len(), batch.num_rows(), "no device twice");
            }
            Err(ProbeError::Absent(reason)) => assert!(!reason.is_empty()),
            Err(ProbeError::Driver { message, .. }) => assert!(!message.is_empty()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_root_is_this_machine_when_its_kernel_is() {
        assert!(is_this_machine(&HostRoot::new("/")));
        let directory = tempfile::tempdir().unwrap();
        let random = directory.path().join("proc/sys/kernel/random");
        fs::create_dir_all(&random).unwrap();
        let root = HostRoot::new(directory.path());
        assert!(!is_this_machine(&root));
        fs::write(random.join("boot_id"), "00000000-0000-4000-8000-000000000000\n").unwrap();
        assert!(!is_this_machine(&root));
        if let Ok(ours) = fs::read("/proc/sys/kernel/random/boot_id") {
            fs::write(random.join("boot_id"), ours).unwrap();
            assert!(is_this_machine(&root));
        }
    }
}
