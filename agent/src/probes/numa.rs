//! NUMA: memory by node.
//!
//! A machine with several sockets, or several groups of cores on one, has its memory in nodes: every CPU reaches all of
//! it, its own node's sooner. Memory without CPUs (CXL cards, memory of a GPU that the CPU can address) is a node too.
//! `/sys/devices/system/node/nodeN` tells of each:
//!
//! - `meminfo` has lines as in `/proc/meminfo`, each with `Node 0` before it, and in kibibytes. It knows `MemUsed`,
//!   which is all that is not free, but no `MemAvailable`, `Cached` or `Buffers`.
//! - `numastat` counts pages handed out. Hit, miss and foreign are about the node that was wanted: a page wanted on
//!   node 0 that came from node 1 is a miss of node 1 and foreign to node 0. Local and other are about the CPU that
//!   asked: a process bound to far memory has hits that are not local.
//! - `distance` is the firmware's table: 10 is the node itself, 20 twice as far. Often invented.
//! - `hugepages` has a directory for every size, which `meminfo` has not: it tells of the default size alone.
//!
//! A kernel without NUMA has no such directory; one on a machine without shows one node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nodescope_model::rows::{Row, Rows};
use nodescope_service::settings::Settings;

use crate::host_root::{FileReader, HostRoot, first_word, names, numbered, read_text, read_u64};
use crate::probe::{Probe, ProbeError, Tick};

/// Columns and the lines of a node's `meminfo` they come from, in the usual order of the file.
const MEMINFO: &[(&str, &str)] = &[
    ("total_bytes", "MemTotal"),
    ("free_bytes", "MemFree"),
    ("used_bytes", "MemUsed"),
    ("swap_cached_bytes", "SwapCached"),
    ("active_bytes", "Active"),
    ("inactive_bytes", "Inactive"),
    ("active_anon_bytes", "Active(anon)"),
    ("inactive_anon_bytes", "Inactive(anon)"),
    ("active_file_bytes", "Active(file)"),
    ("inactive_file_bytes", "Inactive(file)"),
    ("unevictable_bytes", "Unevictable"),
    ("mlocked_bytes", "Mlocked"),
    ("dirty_bytes", "Dirty"),
    ("writeback_bytes", "Writeback"),
    ("file_pages_bytes", "FilePages"),
    ("mapped_bytes", "Mapped"),
    ("anon_pages_bytes", "AnonPages"),
    ("shmem_bytes", "Shmem"),
    ("kernel_stack_bytes", "KernelStack"),
    ("page_tables_bytes", "PageTables"),
    ("secondary_page_tables_bytes", "SecPageTables"),
    ("nfs_unstable_bytes", "NFS_Unstable"),
    ("bounce_bytes", "Bounce"),
    ("writeback_temporary_bytes", "WritebackTmp"),
    ("kernel_reclaimable_bytes", "KReclaimable"),
    ("slab_bytes", "Slab"),
    ("slab_reclaimable_bytes", "SReclaimable"),
    ("slab_unreclaimable_bytes", "SUnreclaim"),
    ("anon_huge_pages_bytes", "AnonHugePages"),
    ("shmem_huge_pages_bytes", "ShmemHugePages"),
    ("shmem_pmd_mapped_bytes", "ShmemPmdMapped"),
    ("file_huge_pages_bytes", "FileHugePages"),
    ("file_pmd_mapped_bytes", "FilePmdMapped"),
    ("huge_pages", "HugePages_Total"),
    ("huge_pages_free", "HugePages_Free"),
    ("huge_pages_surplus", "HugePages_Surp"),
];

/// Columns and the lines of a node's `numastat`.
const NUMASTAT: &[(&str, &str)] = &[
    ("hits", "numa_hit"),
    ("misses", "numa_miss"),
    ("foreign", "numa_foreign"),
    ("interleave_hits", "interleave_hit"),
    ("local_pages", "local_node"),
    ("remote_pages", "other_node"),
];

/// Columns and the files of a size of huge pages.
const HUGE_PAGES: [(&str, &str); 3] = [
    ("huge_pages_by_size", "nr_hugepages"),
    ("huge_pages_free_by_size", "free_hugepages"),
    ("huge_pages_surplus_by_size", "surplus_hugepages"),
];

/// How often it is looked up which nodes there are and what they consist of: memory and CPUs may be plugged in.
const DESCRIBE_EVERY: Duration = Duration::from_secs(60);

/// Kernels are built for 1,024 nodes at most (`CONFIG_NODES_SHIFT`), of which few exist anywhere.
const MAX_NODES: usize = 1024;

/// Sizes of huge pages an architecture may have; Arm with all page sizes has seven.
const MAX_SIZES: usize = 16;

/// What the probe needs to know: nothing.
#[derive(Debug, Clone, Default)]
pub struct NumaOptions {}

impl NumaOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self {}
    }
}

/// Fills the table `numa`.
pub struct NumaProbe {
    directory: PathBuf,
    nodes: BTreeMap<u32, Node>,
    values: Vec<Option<u64>>,
}

impl NumaProbe {
    /// Reads nothing yet.
    pub fn new(root: &HostRoot, _options: NumaOptions) -> Self {
        Self { directory: root.sys("devices/system/node"), nodes: BTreeMap::new(), values: Vec::new() }
    }

    /// Takes note of nodes that came and went; those that stay keep their open files.
    fn describe(&mut self) {
        let mut before = std::mem::take(&mut self.nodes);
        for number in numbered(&self.directory, "node").into_iter().take(MAX_NODES) {
            let directory = self.directory.join(format!("node{number}"));
            let mut node = before.remove(&number).unwrap_or_else(|| Node::new(&directory));
            node.describe(&directory);
            self.nodes.insert(number, node);
        }
    }
}

impl Probe for NumaProbe {
    fn table(&self) -> &'static str {
        "numa"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        if tick.is_due(DESCRIBE_EVERY) || self.nodes.is_empty() {
            self.describe();
        }
        if self.nodes.is_empty() {
            return Err(ProbeError::Absent("the kernel shows no NUMA nodes: it was built without".to_owned()));
        }
        for (number, node) in &mut self.nodes {
            let mut row = rows.begin();
            row.int("numa_node", i64::from(*number));
            node.fill(&mut row, &mut self.values);
        }
        Ok(())
    }
}

/// One node.
struct Node {
    meminfo: FileReader,
    numastat: FileReader,
    cpus: Option<String>,
    distances: Option<String>,
    sizes: Vec<HugePageSize>,
}

impl Node {
    fn new(directory: &Path) -> Self {
        Self {
            meminfo: FileReader::new(directory.join("meminfo")),
            numastat: FileReader::new(directory.join("numastat")),
            cpus: None,
            distances: None,
            sizes: Vec::new(),
        }
    }

    fn describe(&mut self, directory: &Path) {
        self.cpus = read_text(&directory.join("cpulist"));
        self.distances = read_text(&directory.join("distance")).map(|text| spaced(&text));
        let hugepages = directory.join("hugepages");
        let mut sizes: Vec<HugePageSize> = names(&hugepages)
            .into_iter()
            .filter_map(|name| {
                let size = name.strip_prefix("hugepages-")?;
                let kibibytes = size.strip_suffix("kB")?.parse().ok()?;
                Some(HugePageSize { size: size.to_owned(), kibibytes, directory: hugepages.join(&name) })
            })
            .collect();
        sizes.sort_by_key(|size| size.kibibytes);
        sizes.truncate(MAX_SIZES);
        self.sizes = sizes;
    }

    fn fill(&mut self, row: &mut Row<'_>, values: &mut Vec<Option<u64>>) {
        row.text("cpus", self.cpus.as_deref()).text("distances", self.distances.as_deref());
        find(MEMINFO, parse_meminfo(self.meminfo.read_if_there().unwrap_or_default()), values);
        for ((column, _), value) in MEMINFO.iter().zip(values.iter()) {
            row.count(column, *value);
        }
        find(NUMASTAT, parse_numastat(self.numastat.read_if_there().unwrap_or_default()), values);
        for ((column, _), value) in NUMASTAT.iter().zip(values.iter()) {
            row.count(column, *value);
        }
        if self.sizes.is_empty() {
            return;
        }
        for (column, file) in HUGE_PAGES {
            let counts = self.sizes.iter().filter_map(|size| {
                let count = i64::try_from(read_u64(&size.directory.join(file))?).ok()?;
                Some((size.size.as_str(), count))
            });
            row.int_map(column, counts);
        }
    }
}

/// A size of huge pages on one node.
struct HugePageSize {
    /// `2048kB`, as the kernel writes it.
    size: String,
    kibibytes: u64,
    directory: PathBuf,
}

/// Words with one space between.
fn spaced(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// The wanted ones of these lines, in the order wanted.
fn find<'t>(
    wanted: &[(&str, &str)],
    lines: impl Iterator<Item = (&'t str, Option<u64>)>,
    values: &mut Vec<Option<u64>>,
) {
    values.clear();
    values.resize(wanted.len(), None);
    for (name, value) in lines {
        if let Some(place) = wanted.iter().position(|(_, w)| *w == name).and_then(|at| values.get_mut(at)) {
            *place = value;
        }
    }
}

/// Lines of a node's `meminfo`: `Node 0 MemTotal:  1024 kB`. Amounts in bytes, or as they are where there is no unit.
fn parse_meminfo(text: &str) -> impl Iterator<Item = (&str, Option<u64>)> {
    text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let name = name.split_ascii_whitespace().nth(2)?;
        let amount: Option<u64> = first_word(rest);
        let value = if rest.trim_end().ends_with(" kB") { amount.and_then(|a| a.checked_mul(1024)) } else { amount };
        Some((name, value))
    })
}

/// Lines of `numastat`: name and count.
fn parse_numastat(text: &str) -> impl Iterator<Item = (&str, Option<u64>)> {
    text.lines().filter_map(|line| {
        let (name, rest) = line.trim_start().split_once(' ')?;
        Some((name, first_word(rest)))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{Array, RecordBatch};
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{FIRST_TICK, assert_sources, fixture_options, garbage, ints, sample_once, texts};

    fn probe(root: &HostRoot) -> NumaProbe {
        NumaProbe::new(root, NumaOptions::default())
    }

    fn map(batch: &RecordBatch, column: &str, row: usize) -> Vec<(String, i64)> {
        let map = batch.column_by_name(column).unwrap().as_map().value(row);
        let (keys, values) = (map.column(0).as_string::<i32>(), map.column(1).as_primitive::<Int64Type>());
        (0..map.len()).map(|at| (keys.value(at).to_owned(), values.value(at))).collect()
    }

    #[test]
    fn every_node_of_the_recorded_machine_has_its_memory_and_its_misses() {
        let batch = sample_once(&mut probe(&fixture_options().root));
        assert_eq!(ints(&batch, "numa_node"), [Some(0), Some(1)]);
        assert_eq!(texts(&batch, "distances"), [Some("10 21"), Some("21 10")]);
        assert_eq!(texts(&batch, "cpus")[0], Some("0-1"));
        assert_eq!(ints(&batch, "total_bytes"), [Some(263_935_236 * 1024), Some(264_344_872 * 1024)]);
        assert_eq!(ints(&batch, "active_anon_bytes")[0], Some(30_611_594 * 1024));
        assert_eq!(ints(&batch, "huge_pages"), [Some(512), Some(512)]);
        assert_eq!(ints(&batch, "hits"), [Some(5_123_456_789), Some(4_987_654_321)]);
        assert_eq!(ints(&batch, "foreign"), [Some(1_204_331), Some(22_012)]);
        assert_eq!(ints(&batch, "remote_pages"), [Some(9_120_044), Some(8_812_330)]);
        // This kernel has no such line.
        assert_eq!(ints(&batch, "file_huge_pages_bytes"), [None, None]);
        let wanted = [("2048kB".to_owned(), 512), ("1048576kB".to_owned(), 4)];
        assert_eq!(map(&batch, "huge_pages_by_size", 0), wanted);
        assert_eq!(
            map(&batch, "huge_pages_free_by_size", 0),
            [("2048kB".to_owned(), 500), ("1048576kB".to_owned(), 0)]
        );
    }

    #[test]
    fn what_a_node_does_not_tell_is_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let nodes = directory.path().join("sys/devices/system/node");
        fs::create_dir_all(nodes.join("node10")).unwrap();
        fs::create_dir_all(nodes.join("node2")).unwrap();
        fs::create_dir_all(nodes.join("nodes")).unwrap();
        fs::write(nodes.join("node2/cpulist"), "\n").unwrap();
        fs::write(nodes.join("node2/numastat"), "numa_hit 7\nnuma_miss -1\n").unwrap();
        let batch = sample_once(&mut probe(&HostRoot::new(directory.path())));
        assert_eq!(ints(&batch, "numa_node"), [Some(2), Some(10)]);
        assert_eq!(texts(&batch, "cpus"), [None, None]);
        assert_eq!(ints(&batch, "hits"), [Some(7), None]);
        assert_eq!(ints(&batch, "misses"), [None, None]);
        assert_eq!(batch.column_by_name("huge_pages_by_size").unwrap().null_count(), 2);
    }

    #[test]
    fn a_kernel_without_numa_has_nothing_to_sample() {
        let directory = tempfile::tempdir().unwrap();
        let catalogue = nodescope_model::catalogue::Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("numa").unwrap());
        let error = probe(&HostRoot::new(directory.path())).sample(&FIRST_TICK, &mut rows).unwrap_err();
        assert!(matches!(error, ProbeError::Absent(_)), "{error}");
        assert!(rows.is_empty());
    }

    #[test]
    fn every_column_has_the_source_it_is_read_from() {
        assert_sources("numa", MEMINFO.iter().chain(NUMASTAT).chain(&HUGE_PAGES).copied());
    }

    #[test]
    fn this_machine_is_read_or_has_nothing() {
        let catalogue = nodescope_model::catalogue::Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("numa").unwrap());
        let result = NumaProbe::new(&HostRoot::new("/"), NumaOptions::default()).sample(&FIRST_TICK, &mut rows);
        assert!(matches!(result, Ok(()) | Err(ProbeError::Absent(_))), "{result:?}");
        rows.finish(&nodescope_model::rows::Stamp { ts_micros: 0, node: "", host: "" });
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            let mut values = Vec::new();
            find(MEMINFO, parse_meminfo(&text), &mut values);
            prop_assert_eq!(values.len(), MEMINFO.len());
            find(NUMASTAT, parse_numastat(&text), &mut values);
            prop_assert_eq!(values.len(), NUMASTAT.len());
            spaced(&text);
        }
    }
}
