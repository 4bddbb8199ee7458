//! The probes of the host itself, one file each.
//!
//! Every probe keeps reading apart from parsing: functions called `parse_…` take the text of a kernel file and need no
//! machine, so that a kernel nobody here has seen is one more line in a test.

pub mod allocation;
pub mod config_change;
pub mod connection;
pub mod container;
pub mod cpu;
pub mod disk;
pub mod edac;
pub mod executable;
pub mod filesystem;
pub mod host;
pub mod interface;
pub mod link;
pub mod listener;
pub mod login;
pub mod memory;
pub mod module;
pub mod numa;
pub mod power;
pub mod process;
pub mod protocol;
pub mod rdma;
pub mod sensor;
pub mod service;
pub mod stat;
pub mod system;

use nodescope_model::rows::Rows;

use crate::probe::{Probe, ProbeOptions};

/// All probes there are, in the order their tables are documented.
pub fn all(options: &ProbeOptions) -> Vec<Box<dyn Probe>> {
    let stat = stat::StatReader::new(options);
    vec![
        Box::new(host::HostProbe::new(options)),
        Box::new(cpu::CpuProbe::with(options, stat.clone())),
        Box::new(memory::MemoryProbe::new(options)),
        Box::new(numa::NumaProbe::new(&options.root, options.numa.clone())),
        Box::new(edac::EdacProbe::new(&options.root, options.edac.clone())),
        Box::new(system::SystemProbe::with(options, stat)),
        Box::new(disk::DiskProbe::new(options)),
        Box::new(filesystem::FilesystemProbe::new(options)),
        Box::new(interface::InterfaceProbe::new(options)),
        Box::new(protocol::ProtocolProbe::new(options)),
        Box::new(rdma::RdmaProbe::new(&options.root, options.rdma.clone())),
        Box::new(link::LinkProbe::new(&options.root, options.link.clone())),
        Box::new(crate::accelerators::AcceleratorProbe::new(&options.root, options.accelerators.clone())),
        Box::new(allocation::AllocationProbe::new(&options.root, options.allocation.clone())),
        Box::new(process::ProcessProbe::new(options)),
        Box::new(container::ContainerProbe::new(&options.root, options.container.clone())),
        Box::new(service::ServiceProbe::new(&options.root, options.service.clone())),
        Box::new(sensor::SensorProbe::new(&options.root, options.sensor.clone())),
        Box::new(power::PowerProbe::new(&options.root, options.power.clone())),
        Box::new(listener::ListenerProbe::new(&options.root, options.listener.clone())),
        Box::new(connection::ConnectionProbe::new(&options.root, options.connection.clone())),
        Box::new(login::LoginProbe::new(&options.root, options.login.clone())),
        Box::new(module::ModuleProbe::new(&options.root, options.module.clone())),
        Box::new(executable::ExecutableProbe::new(&options.root, options.executable.clone())),
        Box::new(config_change::ConfigChangeProbe::new(&options.root, options.config_change.clone())),
        Box::new(crate::scrape::ScrapeProbe::new(&options.root, options.scrape.clone())),
    ]
}

/// Rows of a table of things that a host can have any number of: a machine with a thousand containers has as many
/// interfaces and mounts. Those that come first in the kernel's own order are the hardware's.
const MAX_ROWS: usize = 1024;

/// Says in a row of its own how many things were left out, if any were.
fn tell_omitted(rows: &mut Rows, entity: &str, omitted: usize) {
    if omitted > 0 {
        rows.begin().text(entity, "omitted").count("omitted", omitted as u64);
    }
}

/// A kernel count of some fraction of a second, in seconds.
#[allow(clippy::cast_precision_loss)] // 2^53 nanoseconds are 104 days, and what is lost then is a nanosecond.
pub(crate) fn in_seconds(count: u64, per_second: u64) -> f64 {
    count as f64 / per_second as f64
}

/// What the tests of probes share: a recorded machine, and reading a batch.
#[cfg(test)]
pub(crate) mod testing {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use arrow_array::RecordBatch;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, Int64Type};
    use nodescope_model::catalogue::Catalogue;
    use nodescope_model::rows::{Rows, Stamp};
    use proptest::prelude::*;

    use crate::accelerators::{AcceleratorOptions, WorkerCommand};
    use crate::host_root::HostRoot;
    use crate::probe::{Probe, ProbeOptions, Tick};

    /// The first tick of every test.
    pub(crate) const FIRST_TICK: Tick = Tick { ts_micros: 1_700_000_000_000_000, first: true };

    /// A recorded machine: 4 CPUs on 2 sockets, 3 disks, 4 interfaces.
    pub(crate) fn fixture_options() -> ProbeOptions {
        ProbeOptions {
            root: HostRoot::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/busy-host")),
            top_processes: 5,
            per_cpu_every: Duration::from_secs(10),
            accelerators: AcceleratorOptions {
                worker: WorkerCommand { program: "/nowhere/worker".into(), arguments: Vec::new() },
                libraries: BTreeMap::new(),
                deadline: Duration::from_millis(500),
                kill_after: None,
            },
            numa: Default::default(),
            edac: Default::default(),
            rdma: Default::default(),
            link: Default::default(),
            allocation: Default::default(),
            container: Default::default(),
            service: Default::default(),
            sensor: Default::default(),
            power: Default::default(),
            listener: Default::default(),
            connection: Default::default(),
            login: Default::default(),
            module: Default::default(),
            executable: Default::default(),
            config_change: Default::default(),
            scrape: Default::default(),
        }
    }

    /// The rows of a probe's first tick.
    pub(crate) fn sample_once(probe: &mut dyn Probe) -> RecordBatch {
        sample_at(probe, &FIRST_TICK)
    }

    /// The rows of one tick. Every column a probe names must be in the catalogue: `Rows` asserts it.
    pub(crate) fn sample_at(probe: &mut dyn Probe, tick: &Tick) -> RecordBatch {
        let catalogue = Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get(probe.table()).expect("the probe's table is in the catalogue"));
        probe.sample(tick, &mut rows).expect("the recorded machine can be read");
        rows.finish(&Stamp { ts_micros: tick.ts_micros, node: "n", host: "h" })
    }

    fn column<'b>(batch: &'b RecordBatch, name: &str) -> &'b arrow_array::ArrayRef {
        batch.column_by_name(name).unwrap_or_else(|| panic!("there is no column {name}"))
    }

    /// The values of an `int` column.
    pub(crate) fn ints(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
        column(batch, name).as_primitive::<Int64Type>().iter().collect()
    }

    /// The values of a `float` column.
    pub(crate) fn floats(batch: &RecordBatch, name: &str) -> Vec<Option<f64>> {
        column(batch, name).as_primitive::<Float64Type>().iter().collect()
    }

    /// The values of a `bool` column.
    pub(crate) fn bools(batch: &RecordBatch, name: &str) -> Vec<Option<bool>> {
        column(batch, name).as_boolean().iter().collect()
    }

    /// The values of a `text` column.
    pub(crate) fn texts<'b>(batch: &'b RecordBatch, name: &str) -> Vec<Option<&'b str>> {
        column(batch, name).as_string::<i32>().iter().collect()
    }

    /// The row whose `entity` column says `value`.
    pub(crate) fn row_of(batch: &RecordBatch, entity: &str, value: &str) -> usize {
        texts(batch, entity).iter().position(|v| *v == Some(value)).unwrap_or_else(|| panic!("there is no {value}"))
    }

    /// The catalogue says where each of these columns comes from, and ends with the name the probe looks for.
    pub(crate) fn assert_sources<'a>(table: &str, columns: impl Iterator<Item = (&'a str, &'a str)>) {
        let catalogue = Catalogue::built_in();
        let table = catalogue.get(table).expect("the table is in the catalogue");
        for (name, ends_with) in columns {
            let column = table.column(name).unwrap_or_else(|| panic!("there is no column {name}"));
            assert!(column.source.ends_with(ends_with), "{name}: source {:?}, read from {ends_with}", column.source);
        }
    }

    /// Text that no kernel would write, and text that one nearly would.
    pub(crate) fn garbage() -> impl Strategy<Value = String> {
        prop_oneof![any::<String>(), "[a-zA-Z0-9:=()/ \n\t.-]{0,400}"]
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::fs;

    use super::testing::{fixture_options, ints, sample_once, texts};
    use super::{MAX_ROWS, disk, filesystem, interface};
    use crate::host_root::HostRoot;
    use crate::probe::{Probe, ProbeOptions};

    #[test]
    fn a_host_with_thousands_of_things_is_told_about_as_many_as_fit_and_how_many_do_not() {
        let root = tempfile::tempdir().unwrap();
        let (mut mounts, mut disks, mut interfaces) = (String::new(), String::new(), "head\nhead\n".to_owned());
        for at in 0..MAX_ROWS + 7 {
            writeln!(mounts, "{at} 0 8:1 / /data/{at:05} rw - ext4 /dev/disk{at} rw").unwrap();
            writeln!(disks, "8 {at} disk{at:05} 1 2 3 4 5 6 7 8 9 10 11").unwrap();
            writeln!(interfaces, "eth{at}: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16").unwrap();
        }
        for (file, text) in [
            ("proc/1/mountinfo", &mounts),
            ("proc/self/mountinfo", &mounts),
            ("proc/diskstats", &disks),
            ("proc/1/net/dev", &interfaces),
            ("proc/net/dev", &interfaces),
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let options = ProbeOptions { root: HostRoot::new(root.path()), ..fixture_options() };
        let probes: [(Box<dyn Probe>, &str); 3] = [
            (Box::new(filesystem::FilesystemProbe::new(&options)), "mountpoint"),
            (Box::new(disk::DiskProbe::new(&options)), "device"),
            (Box::new(interface::InterfaceProbe::new(&options)), "interface"),
        ];
        for (mut probe, entity) in probes {
            let batch = sample_once(probe.as_mut());
            assert_eq!(batch.num_rows(), MAX_ROWS + 1, "{entity}");
            assert_eq!(texts(&batch, entity)[MAX_ROWS], Some("omitted"));
            assert_eq!(ints(&batch, "omitted")[MAX_ROWS], Some(7), "{entity}");
            assert_eq!(ints(&batch, "omitted")[0], None, "{entity}");
        }
    }
}
