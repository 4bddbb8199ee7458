//! CPUs: where their time goes, how fast they run, whether heat slows them down.
//!
//! `/proc/stat` begins with a line for the whole machine and one for each logical CPU: time since boot in each of ten
//! modes, in clock ticks (hundredths of a second, nearly everywhere). The machine's line is sampled at every tick. The
//! lines of single CPUs are 192 rows on a large host, so they come less often, and with them frequency and throttling,
//! which are a file each below `/sys/devices/system/cpu`.
//!
//! Where a CPU sits (core, socket, NUMA node) is read once. Idle states and the governor's name are left out: nobody
//! asked for them yet.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nodescope_model::rows::{Row, Rows};

use super::in_seconds;
use crate::host_root::{FileReader, HostRoot, read_text, read_u64};
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};

/// The modes in the order of `/proc/stat`.
const MODES: [&str; 10] = [
    "user_seconds",
    "nice_seconds",
    "system_seconds",
    "idle_seconds",
    "iowait_seconds",
    "irq_seconds",
    "softirq_seconds",
    "steal_seconds",
    "guest_seconds",
    "guest_nice_seconds",
];

/// Fills the table `cpu`.
pub struct CpuProbe {
    root: HostRoot,
    stat: FileReader,
    ticks_per_second: u64,
    per_cpu_every: Duration,
    cpus: BTreeMap<u32, Cpu>,
}

impl CpuProbe {
    /// Reads nothing yet.
    pub fn new(options: &ProbeOptions) -> Self {
        Self {
            root: options.root.clone(),
            stat: FileReader::new(options.root.proc("stat")),
            ticks_per_second: rustix::param::clock_ticks_per_second(),
            per_cpu_every: options.per_cpu_every,
            cpus: BTreeMap::new(),
        }
    }
}

impl Probe for CpuProbe {
    fn table(&self) -> &'static str {
        "cpu"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let text = self.stat.read()?;
        let mut lines = text.lines().map_while(parse_cpu);
        match lines.next() {
            Some((Which::All, ticks)) => {
                let mut row = rows.begin();
                row.text("cpu", "all");
                set_modes(&mut row, &ticks, self.ticks_per_second);
            }
            _ => {
                let path = self.stat.path().display().to_string();
                return Err(ProbeError::Malformed { path, what: "a first line `cpu` with numbers" });
            }
        }
        if !tick.is_due(self.per_cpu_every) {
            return Ok(());
        }
        let mut nodes = None;
        for (which, ticks) in lines {
            let Which::One(number) = which else { continue };
            let cpu = self.cpus.entry(number).or_insert_with(|| {
                let nodes = nodes.get_or_insert_with(|| numa_nodes(&self.root));
                Cpu::find(&self.root, number, nodes)
            });
            let mut row = rows.begin();
            row.text("cpu", cpu.name.as_str());
            set_modes(&mut row, &ticks, self.ticks_per_second);
            cpu.fill(&mut row);
        }
        Ok(())
    }
}

fn set_modes(row: &mut Row<'_>, ticks: &Ticks, ticks_per_second: u64) {
    for (mode, ticks) in MODES.iter().zip(ticks) {
        row.float(mode, ticks.map(|t| in_seconds(t, ticks_per_second)));
    }
}

/// What is known of one logical CPU beside its times. The paths are kept because joining them anew, five for each of
/// 192 CPUs, costs more than reading.
struct Cpu {
    name: String,
    core: Option<u64>,
    package: Option<u64>,
    numa_node: Option<u64>,
    frequency: PathBuf,
    frequency_min: PathBuf,
    frequency_max: PathBuf,
    core_throttles: PathBuf,
    package_throttles: PathBuf,
}

impl Cpu {
    fn find(root: &HostRoot, number: u32, nodes: &[NumaNode]) -> Self {
        let directory = root.sys(format!("devices/system/cpu/cpu{number}"));
        Self {
            name: number.to_string(),
            core: read_u64(&directory.join("topology/core_id")),
            package: read_u64(&directory.join("topology/physical_package_id")),
            numa_node: nodes.iter().find(|n| n.cpus.iter().any(|r| r.contains(&number))).map(|n| n.number),
            frequency: directory.join("cpufreq/scaling_cur_freq"),
            frequency_min: directory.join("cpufreq/scaling_min_freq"),
            frequency_max: directory.join("cpufreq/scaling_max_freq"),
            core_throttles: directory.join("thermal_throttle/core_throttle_count"),
            package_throttles: directory.join("thermal_throttle/package_throttle_count"),
        }
    }

    fn fill(&self, row: &mut Row<'_>) {
        row.count("core_id", self.core)
            .count("package_id", self.package)
            .count("numa_node", self.numa_node)
            .count("frequency_hertz", read_kilohertz(&self.frequency))
            .count("frequency_min_hertz", read_kilohertz(&self.frequency_min))
            .count("frequency_max_hertz", read_kilohertz(&self.frequency_max))
            .count("core_throttles", read_u64(&self.core_throttles))
            .count("package_throttles", read_u64(&self.package_throttles));
    }
}

/// cpufreq counts in kilohertz, and some drivers say 0 for a frequency they do not know.
fn read_kilohertz(path: &Path) -> Option<u64> {
    read_u64(path)?.checked_mul(1000).filter(|hertz| *hertz > 0)
}

struct NumaNode {
    number: u64,
    cpus: Vec<RangeInclusive<u32>>,
}

fn numa_nodes(root: &HostRoot) -> Vec<NumaNode> {
    let Ok(entries) = std::fs::read_dir(root.sys("devices/system/node")) else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            Some(NumaNode { number, cpus: parse_cpu_list(&read_text(&entry.path().join("cpulist"))?) })
        })
        .collect()
}

/// `0-3,8,10-11`: what the kernel calls a list. Parts that are none are left out.
fn parse_cpu_list(text: &str) -> Vec<RangeInclusive<u32>> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .collect()
}

/// Clock ticks in each of [`MODES`]. Old kernels know fewer modes.
type Ticks = [Option<u64>; MODES.len()];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    One(u32),
}

/// One line of `/proc/stat`, if it is one of the CPU lines, which come first.
fn parse_cpu(line: &str) -> Option<(Which, Ticks)> {
    let (name, rest) = line.strip_prefix("cpu")?.split_once(' ')?;
    let which = if name.is_empty() { Which::All } else { Which::One(name.parse().ok()?) };
    let mut numbers = rest.split_ascii_whitespace();
    let ticks: Ticks = std::array::from_fn(|_| numbers.next().and_then(|n| n.parse().ok()));
    ticks[0].map(|_| (which, ticks))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{FIRST_TICK, fixture_options, floats, garbage, ints, sample_at, sample_once, texts};

    fn probe() -> CpuProbe {
        CpuProbe { ticks_per_second: 100, ..CpuProbe::new(&fixture_options()) }
    }

    #[test]
    fn the_machine_and_each_cpu_have_a_row() {
        let batch = sample_once(&mut probe());
        assert_eq!(texts(&batch, "cpu"), [Some("all"), Some("0"), Some("1"), Some("2"), Some("3")]);
        assert_eq!(floats(&batch, "user_seconds")[..2], [Some(17_415.54), Some(4_350.11)]);
        assert_eq!(floats(&batch, "idle_seconds")[0], Some(180_442.25));
        assert_eq!(floats(&batch, "steal_seconds")[4], Some(0.07));
        assert_eq!(floats(&batch, "guest_seconds")[0], Some(1_202.5));
        assert_eq!(floats(&batch, "guest_nice_seconds")[0], Some(0.0));
    }

    #[test]
    fn where_a_cpu_sits_and_how_fast_it_runs() {
        let batch = sample_once(&mut probe());
        assert_eq!(ints(&batch, "core_id"), [None, Some(0), Some(1), Some(0), None]);
        assert_eq!(ints(&batch, "package_id"), [None, Some(0), Some(0), Some(1), Some(1)]);
        assert_eq!(ints(&batch, "numa_node"), [None, Some(0), Some(0), Some(1), Some(1)]);
        let gigahertz = [None, Some(3_500_000_000), Some(2_100_000_000), None, None];
        assert_eq!(ints(&batch, "frequency_hertz"), gigahertz, "0 and no file are both unknown");
        assert_eq!(ints(&batch, "frequency_min_hertz")[1], Some(800_000_000));
        assert_eq!(ints(&batch, "frequency_max_hertz")[1], Some(3_900_000_000));
        assert_eq!(ints(&batch, "core_throttles"), [None, Some(12), Some(0), Some(7), None]);
        assert_eq!(ints(&batch, "package_throttles"), [None, Some(19), Some(19), Some(8), None]);
    }

    #[test]
    fn between_the_ticks_of_single_cpus_there_is_the_machine_alone() {
        let mut probe = probe();
        let at = |seconds: i64| Tick { ts_micros: FIRST_TICK.ts_micros + seconds * 1_000_000, first: false };
        assert_eq!(sample_at(&mut probe, &at(1)).num_rows(), 1);
        assert_eq!(sample_at(&mut probe, &at(10)).num_rows(), 5);
    }

    #[test]
    fn an_old_kernel_knows_fewer_modes() {
        let (which, ticks) = parse_cpu("cpu3 1 2 3 4 5 6 7").unwrap();
        assert_eq!(which, Which::One(3));
        assert_eq!(ticks[6..], [Some(7), None, None, None]);
        assert_eq!(parse_cpu("cpu  9 8").unwrap().0, Which::All);
        for line in ["", "cpu", "cpu ", "cpufreq 1 2", "intr 1 2", "cpu0 x", "cpu-1 5"] {
            assert_eq!(parse_cpu(line), None, "{line:?}");
        }
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_cpu_list("0-3,8,10-11\n"), [0..=3u32, 8..=8, 10..=11]);
        assert!(parse_cpu_list("").is_empty());
        assert_eq!(parse_cpu_list("x,1-y,5,0-4294967295"), [5..=5u32, 0..=u32::MAX]);
    }

    #[test]
    fn a_file_that_is_something_else_is_said_to_be() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("proc")).unwrap();
        std::fs::write(directory.path().join("proc/stat"), "intr 5\n").unwrap();
        let options = ProbeOptions { root: HostRoot::new(directory.path()), ..fixture_options() };
        let catalogue = nodescope_model::catalogue::Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("cpu").unwrap());
        let result = CpuProbe::new(&options).sample(&FIRST_TICK, &mut rows);
        assert!(matches!(result, Err(ProbeError::Malformed { .. })));
        assert!(rows.is_empty());
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            for line in text.lines() {
                parse_cpu(line);
            }
            parse_cpu(&format!("cpu {text}"));
            parse_cpu_list(&text);
        }
    }
}
