//! Memory: what there is, what it is used for, and how hard the kernel works to free some.
//!
//! `/proc/meminfo` lists amounts in kibibytes, and numbers of huge pages without a unit. Which lines there are depends
//! on the kernel's version and build; a line that is not there is NULL here. `/proc/vmstat` counts events since boot:
//! of its hundred and more we take faults, paging, swapping and kills for want of memory. Watermarks, zones and
//! compaction are left to those who debug the kernel.

use nodescope_model::rows::Rows;

use crate::host_root::{FileReader, first_word};
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};

/// Columns and the lines of `/proc/meminfo` they come from, in the usual order of the file.
const MEMINFO: &[(&str, &str)] = &[
    ("total_bytes", "MemTotal"),
    ("free_bytes", "MemFree"),
    ("available_bytes", "MemAvailable"),
    ("buffers_bytes", "Buffers"),
    ("cached_bytes", "Cached"),
    ("swap_cached_bytes", "SwapCached"),
    ("active_bytes", "Active"),
    ("inactive_bytes", "Inactive"),
    ("active_anon_bytes", "Active(anon)"),
    ("inactive_anon_bytes", "Inactive(anon)"),
    ("active_file_bytes", "Active(file)"),
    ("inactive_file_bytes", "Inactive(file)"),
    ("unevictable_bytes", "Unevictable"),
    ("mlocked_bytes", "Mlocked"),
    ("swap_total_bytes", "SwapTotal"),
    ("swap_free_bytes", "SwapFree"),
    ("zswap_bytes", "Zswap"),
    ("zswapped_bytes", "Zswapped"),
    ("dirty_bytes", "Dirty"),
    ("writeback_bytes", "Writeback"),
    ("anon_pages_bytes", "AnonPages"),
    ("mapped_bytes", "Mapped"),
    ("shmem_bytes", "Shmem"),
    ("kernel_reclaimable_bytes", "KReclaimable"),
    ("slab_bytes", "Slab"),
    ("slab_reclaimable_bytes", "SReclaimable"),
    ("slab_unreclaimable_bytes", "SUnreclaim"),
    ("kernel_stack_bytes", "KernelStack"),
    ("page_tables_bytes", "PageTables"),
    ("secondary_page_tables_bytes", "SecPageTables"),
    ("nfs_unstable_bytes", "NFS_Unstable"),
    ("bounce_bytes", "Bounce"),
    ("writeback_temporary_bytes", "WritebackTmp"),
    ("commit_limit_bytes", "CommitLimit"),
    ("committed_bytes", "Committed_AS"),
    ("vmalloc_total_bytes", "VmallocTotal"),
    ("vmalloc_used_bytes", "VmallocUsed"),
    ("vmalloc_chunk_bytes", "VmallocChunk"),
    ("percpu_bytes", "Percpu"),
    ("hardware_corrupted_bytes", "HardwareCorrupted"),
    ("anon_huge_pages_bytes", "AnonHugePages"),
    ("shmem_huge_pages_bytes", "ShmemHugePages"),
    ("shmem_pmd_mapped_bytes", "ShmemPmdMapped"),
    ("file_huge_pages_bytes", "FileHugePages"),
    ("file_pmd_mapped_bytes", "FilePmdMapped"),
    ("cma_total_bytes", "CmaTotal"),
    ("cma_free_bytes", "CmaFree"),
    ("huge_pages", "HugePages_Total"),
    ("huge_pages_free", "HugePages_Free"),
    ("huge_pages_reserved", "HugePages_Rsvd"),
    ("huge_pages_surplus", "HugePages_Surp"),
    ("huge_page_size_bytes", "Hugepagesize"),
    ("hugetlb_bytes", "Hugetlb"),
    ("direct_map_4k_bytes", "DirectMap4k"),
    ("direct_map_2m_bytes", "DirectMap2M"),
    ("direct_map_1g_bytes", "DirectMap1G"),
    ("balloon_bytes", "Balloon"),
];

/// Columns and the lines of `/proc/vmstat` they come from.
const VMSTAT: &[(&str, &str)] = &[
    ("page_faults", "pgfault"),
    ("major_page_faults", "pgmajfault"),
    ("paged_in_kibibytes", "pgpgin"),
    ("paged_out_kibibytes", "pgpgout"),
    ("swapped_in_pages", "pswpin"),
    ("swapped_out_pages", "pswpout"),
    ("oom_kills", "oom_kill"),
];

/// Fills the table `memory`.
pub struct MemoryProbe {
    meminfo: FileReader,
    vmstat: FileReader,
    values: Vec<Option<u64>>,
}

impl MemoryProbe {
    /// Reads nothing yet.
    pub fn new(options: &ProbeOptions) -> Self {
        Self {
            meminfo: FileReader::new(options.root.proc("meminfo")),
            vmstat: FileReader::new(options.root.proc("vmstat")),
            values: Vec::new(),
        }
    }
}

impl Probe for MemoryProbe {
    fn table(&self) -> &'static str {
        "memory"
    }

    fn sample(&mut self, _tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let meminfo = self.meminfo.read()?;
        let mut row = rows.begin();
        find(MEMINFO, parse_meminfo(meminfo), &mut self.values);
        for ((column, _), value) in MEMINFO.iter().zip(&self.values) {
            row.count(column, *value);
        }
        find(VMSTAT, parse_vmstat(self.vmstat.read_if_there().unwrap_or_default()), &mut self.values);
        for ((column, _), value) in VMSTAT.iter().zip(&self.values) {
            row.count(column, *value);
        }
        Ok(())
    }
}

/// The wanted ones of these lines, in the order wanted. Both lists have mostly the same order, so the search begins
/// behind the last hit.
fn find<'t>(
    wanted: &[(&str, &str)],
    lines: impl Iterator<Item = (&'t str, Option<u64>)>,
    values: &mut Vec<Option<u64>>,
) {
    values.clear();
    values.resize(wanted.len(), None);
    let mut next = 0;
    for (name, value) in lines {
        let (before, behind) = wanted.split_at(next);
        let hit = behind
            .iter()
            .position(|(_, w)| *w == name)
            .map(|at| next + at)
            .or_else(|| before.iter().position(|(_, w)| *w == name));
        if let Some(at) = hit {
            values[at] = value;
            next = at + 1;
        }
    }
}

/// Lines of `/proc/meminfo`: name, and amount in bytes, or as it is where it has no unit.
fn parse_meminfo(text: &str) -> impl Iterator<Item = (&str, Option<u64>)> {
    text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let amount: Option<u64> = first_word(rest);
        let value = if rest.trim_end().ends_with(" kB") { amount.and_then(|a| a.checked_mul(1024)) } else { amount };
        Some((name, value))
    })
}

/// Lines of `/proc/vmstat`: name and count.
fn parse_vmstat(text: &str) -> impl Iterator<Item = (&str, Option<u64>)> {
    text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(' ')?;
        Some((name, first_word(rest)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{assert_sources, fixture_options, garbage, ints, sample_once};

    #[test]
    fn amounts_are_bytes_and_lines_that_are_not_there_are_unknown() {
        let batch = sample_once(&mut MemoryProbe::new(&fixture_options()));
        assert_eq!(batch.num_rows(), 1);
        let cases = [
            ("total_bytes", Some(528_280_108 * 1024)),
            ("free_bytes", Some(41_310_764 * 1024)),
            ("available_bytes", Some(402_518_932 * 1024)),
            ("active_bytes", Some(98_112_440 * 1024)),
            ("active_anon_bytes", Some(61_223_188 * 1024)),
            ("slab_reclaimable_bytes", Some(9_812_004 * 1024)),
            ("committed_bytes", Some(120_340_112 * 1024)),
            ("hardware_corrupted_bytes", Some(8 * 1024)),
            ("huge_pages", Some(1024)),
            ("huge_pages_free", Some(1000)),
            ("huge_page_size_bytes", Some(2048 * 1024)),
            ("direct_map_1g_bytes", Some(501_219_328 * 1024)),
            ("zswap_bytes", None),
            ("cma_total_bytes", None),
            ("page_faults", Some(9_182_734_455)),
            ("major_page_faults", Some(81_223)),
            ("paged_in_kibibytes", Some(71_234_567)),
            ("swapped_out_pages", Some(45_012)),
            ("oom_kills", Some(2)),
        ];
        for (column, expected) in cases {
            assert_eq!(ints(&batch, column), [expected], "{column}");
        }
    }

    #[test]
    fn every_column_has_the_source_it_is_read_from() {
        assert_sources("memory", MEMINFO.iter().chain(VMSTAT).copied());
    }

    #[test]
    fn lines_out_of_order_are_found_too() {
        let mut values = Vec::new();
        let lines = [("Dirty", Some(3)), ("MemTotal", Some(1)), ("Unheard", Some(9)), ("MemFree", None)];
        find(MEMINFO, lines.into_iter(), &mut values);
        let at = |name: &str| values[MEMINFO.iter().position(|(_, n)| *n == name).unwrap()];
        assert_eq!([at("Dirty"), at("MemTotal"), at("MemFree"), at("Slab")], [Some(3), Some(1), None, None]);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            let mut values = Vec::new();
            find(MEMINFO, parse_meminfo(&text), &mut values);
            prop_assert_eq!(values.len(), MEMINFO.len());
            find(VMSTAT, parse_vmstat(&text), &mut values);
            prop_assert_eq!(values.len(), VMSTAT.len());
        }
    }
}
