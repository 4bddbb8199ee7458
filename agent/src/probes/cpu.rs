//! CPUs: where their time goes, how fast they run, whether heat slows them down, how long tasks wait for them.
//!
//! `/proc/stat` begins with a line for the whole machine and one for each logical CPU: time since boot in each of ten
//! modes, in clock ticks (hundredths of a second, nearly everywhere). The machine's line is sampled at every tick. The
//! lines of single CPUs are 192 rows on a large host, so they come less often, and with them what else there is of each
//! CPU: frequency and throttling, which are a file each below `/sys/devices/system/cpu`, the scheduler's own account in
//! `/proc/schedstat`, and the packets it took from network cards in `/proc/net/softnet_stat`.
//!
//! `schedstat` is long on a large host, and its lines on scheduling domains, the greater part of it, are passed over.
//! `softnet_stat` has hexadecimal numbers of 32 bits without names, in a line for each CPU that is switched on; since
//! Linux 5.10 the 13th number says which, before that only the order does.
//!
//! Asking for the frequency of a busy x86 CPU puts the asker to sleep for 10 ms and more on kernels before 5.18, which
//! measure it while one waits: with 192 CPUs that is two seconds. So reading frequencies has [`FREQUENCY_TIME`] at each
//! tick; CPUs that it did not come to have none at this tick and are first at the next.
//!
//! Time spent idle and waiting for disks goes back a little now and then: the kernel works both out anew from several
//! clocks each time the file is read (proc(5) says so of `iowait`). Whoever takes a smaller number for a counter that
//! began anew would add the machine's whole life to an interval, so what went back by less than [`WAVERS_SECONDS`] stays
//! where it was until it is passed.
//!
//! The kernel counts throttling by core and by package, and shows it at each of their CPUs. Where a CPU sits (core,
//! socket, NUMA node) is read once, the limits of its frequency every minute. Idle states and the governor's name are
//! left out: nobody asked for them yet.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nodescope_model::rows::{Row, Rows};

use super::in_seconds;
use super::stat::{MODES, StatReader, Ticks};
use crate::host_root::{FileReader, HostRoot, read_text, read_u64};
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};

/// Columns in the order of `/proc/stat`.
const MODE_COLUMNS: [&str; MODES] = [
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

/// Columns and the place of their number in a line of `softnet_stat`.
const SOFTNET: [(&str, usize); 7] = [
    ("softnet_processed", 0),
    ("softnet_dropped", 1),
    ("softnet_times_squeezed", 2),
    ("softnet_collisions", 8),
    ("softnet_received_rps", 9),
    ("softnet_flow_limits", 10),
    ("softnet_backlog", 11),
];

/// The place of the CPU's number.
const SOFTNET_CPU: usize = 12;

/// How often the limits of the frequency are read: somebody has to set them.
const LIMITS_EVERY: Duration = Duration::from_secs(60);

/// The time that reading frequencies may take at one tick: the machine's own row must not miss the next one.
const FREQUENCY_TIME: Duration = Duration::from_millis(200);

/// What went back further was set anew, as when a CPU was switched off and on.
const WAVERS_SECONDS: u64 = 3;

const NANOS: u64 = 1_000_000_000;

/// Fills the table `cpu`.
pub struct CpuProbe {
    root: HostRoot,
    stat: StatReader,
    schedstat: FileReader,
    softnet: FileReader,
    ticks_per_second: u64,
    /// The machine's times as last told.
    all: Ticks,
    cpus: BTreeMap<u32, Cpu>,
    sched: Vec<(u32, Sched)>,
    packets: Vec<(u32, Softnet)>,
    frequencies: Turn,
}

impl CpuProbe {
    /// Reads nothing yet.
    pub fn new(options: &ProbeOptions) -> Self {
        Self::with(options, StatReader::new(options))
    }

    /// The same, with a reader of `/proc/stat` that others use too.
    pub fn with(options: &ProbeOptions, stat: StatReader) -> Self {
        Self {
            root: options.root.clone(),
            stat,
            schedstat: FileReader::new(options.root.proc("schedstat")),
            softnet: FileReader::new(options.root.proc("net/softnet_stat")),
            ticks_per_second: rustix::param::clock_ticks_per_second(),
            all: Ticks::default(),
            cpus: BTreeMap::new(),
            sched: Vec::new(),
            packets: Vec::new(),
            frequencies: Turn::default(),
        }
    }
}

impl Probe for CpuProbe {
    fn table(&self) -> &'static str {
        "cpu"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let wants_cpus = self.stat.wants_cpus(tick);
        let (all, times) =
            self.stat.at(tick, |stat| (stat.all, if wants_cpus { stat.cpus.clone() } else { Vec::new() }))?;
        let wavers = WAVERS_SECONDS.saturating_mul(self.ticks_per_second);
        if let Some(ticks) = all {
            // Each of the CPUs it is the sum of may go back.
            let ticks = steady(&mut self.all, ticks, wavers.saturating_mul(self.cpus.len().max(1) as u64));
            let mut row = rows.begin();
            row.text("cpu", "all");
            set_modes(&mut row, &ticks, self.ticks_per_second);
        }
        if !wants_cpus {
            return Ok(());
        }
        parse_schedstat(self.schedstat.read_if_there().unwrap_or_default(), &mut self.sched);
        parse_softnet(self.softnet.read_if_there().unwrap_or_default(), &mut self.packets);
        let limits_are_due = tick.is_due(LIMITS_EVERY);
        let mut nodes = None;
        let mut packages = BTreeMap::new();
        let deadline = Instant::now() + FREQUENCY_TIME;
        for (place, (number, ticks)) in times.into_iter().enumerate() {
            let cpu = self.cpus.entry(number).or_insert_with(|| {
                let nodes = nodes.get_or_insert_with(|| numa_nodes(&self.root));
                Cpu::find(&self.root, number, nodes)
            });
            if limits_are_due {
                cpu.read_limits();
            }
            let mut row = rows.begin();
            row.text("cpu", cpu.name.as_str());
            let ticks = steady(&mut cpu.told, ticks, wavers);
            set_modes(&mut row, &ticks, self.ticks_per_second);
            cpu.fill(&mut row, &mut packages);
            if self.frequencies.is_at(place, || Instant::now() < deadline) {
                row.count("frequency_hertz", read_kilohertz(&cpu.frequency));
            }
            if let Some(sched) = of(&self.sched, number) {
                row.float("sched_running_seconds", in_seconds(sched.running_nanos, NANOS))
                    .float("sched_waiting_seconds", in_seconds(sched.waiting_nanos, NANOS))
                    .count("sched_timeslices", sched.timeslices);
            }
            if let Some(counts) = of(&self.packets, number) {
                for ((column, _), count) in SOFTNET.iter().zip(counts) {
                    row.int(column, count.map(i64::from));
                }
            }
        }
        self.frequencies.end();
        Ok(())
    }
}

/// Whose turn it is, where there may not be time for all.
#[derive(Debug, Default)]
struct Turn {
    /// The place to begin at.
    from: usize,
    /// Where time was up, at this tick.
    up: Option<usize>,
}

impl Turn {
    /// Whether this place is among those to whom the turn comes at this tick. Places are asked about in order.
    fn is_at(&mut self, place: usize, is_time: impl FnOnce() -> bool) -> bool {
        if self.up.is_some() || place < self.from {
            return false;
        }
        // Whoever begins always has time, so that everyone's turn comes.
        let is_time = place == self.from || is_time();
        if !is_time {
            self.up = Some(place);
        }
        is_time
    }

    /// The next tick goes on where time was up, or begins anew.
    fn end(&mut self) {
        self.from = self.up.take().unwrap_or(0);
    }
}

/// What a list that is in order of CPU says of this one.
fn of<T>(list: &[(u32, T)], number: u32) -> Option<&T> {
    let at = list.binary_search_by_key(&number, |(cpu, _)| *cpu).ok()?;
    list.get(at).map(|(_, of)| of)
}

/// What is told of times that are so now, when those were told last: none goes back by less than `wavers`.
fn steady(told: &mut Ticks, now: Ticks, wavers: u64) -> Ticks {
    for (told, now) in told.iter_mut().zip(now) {
        let goes_back = told.zip(now).is_some_and(|(told, now)| (1..wavers).contains(&told.saturating_sub(now)));
        if !goes_back {
            *told = now;
        }
    }
    *told
}

fn set_modes(row: &mut Row<'_>, ticks: &Ticks, ticks_per_second: u64) {
    for (mode, ticks) in MODE_COLUMNS.iter().zip(ticks) {
        row.float(mode, ticks.map(|t| in_seconds(t, ticks_per_second)));
    }
}

/// What is known of one logical CPU beside its times. The paths are kept because joining them anew, three for each
/// of 192 CPUs, costs more than reading.
struct Cpu {
    name: String,
    /// Its times as last told.
    told: Ticks,
    core: Option<u64>,
    package: Option<u64>,
    numa_node: Option<u64>,
    directory: PathBuf,
    frequency: PathBuf,
    frequency_min: Option<u64>,
    frequency_max: Option<u64>,
    core_throttles: PathBuf,
    package_throttles: PathBuf,
}

impl Cpu {
    fn find(root: &HostRoot, number: u32, nodes: &[NumaNode]) -> Self {
        let directory = root.sys(format!("devices/system/cpu/cpu{number}"));
        let mut cpu = Self {
            name: number.to_string(),
            told: Ticks::default(),
            core: read_u64(&directory.join("topology/core_id")),
            package: read_u64(&directory.join("topology/physical_package_id")),
            numa_node: nodes.iter().find(|n| n.cpus.iter().any(|r| r.contains(&number))).map(|n| n.number),
            frequency: directory.join("cpufreq/scaling_cur_freq"),
            frequency_min: None,
            frequency_max: None,
            core_throttles: directory.join("thermal_throttle/core_throttle_count"),
            package_throttles: directory.join("thermal_throttle/package_throttle_count"),
            directory,
        };
        cpu.read_limits();
        cpu
    }

    fn read_limits(&mut self) {
        self.frequency_min = read_kilohertz(&self.directory.join("cpufreq/scaling_min_freq"));
        self.frequency_max = read_kilohertz(&self.directory.join("cpufreq/scaling_max_freq"));
    }

    /// `packages` is what has been read of them at this tick: a package is the same to all its CPUs.
    fn fill(&self, row: &mut Row<'_>, packages: &mut BTreeMap<u64, Option<u64>>) {
        let package_throttles = match self.package {
            Some(package) => *packages.entry(package).or_insert_with(|| read_u64(&self.package_throttles)),
            None => read_u64(&self.package_throttles),
        };
        row.count("core_id", self.core)
            .count("package_id", self.package)
            .count("numa_node", self.numa_node)
            .count("frequency_min_hertz", self.frequency_min)
            .count("frequency_max_hertz", self.frequency_max)
            .count("core_throttles", read_u64(&self.core_throttles))
            .count("package_throttles", package_throttles);
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

/// The scheduler's account of one CPU.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sched {
    running_nanos: u64,
    waiting_nanos: u64,
    timeslices: u64,
}

/// The last three numbers of each `cpuN` line, in order of CPU.
fn parse_schedstat(text: &str, sched: &mut Vec<(u32, Sched)>) {
    sched.clear();
    for line in text.lines() {
        let Some((number, rest)) = line.strip_prefix("cpu").and_then(|line| line.split_once(' ')) else { continue };
        let mut numbers = rest.split_ascii_whitespace().skip(6).map_while(|n| n.parse::<u64>().ok());
        let (Ok(number), Some(running_nanos), Some(waiting_nanos), Some(timeslices)) =
            (number.parse(), numbers.next(), numbers.next(), numbers.next())
        else {
            continue;
        };
        sched.push((number, Sched { running_nanos, waiting_nanos, timeslices }));
    }
    sched.sort_by_key(|(number, _)| *number);
}

/// Numbers in the order of [`SOFTNET`].
type Softnet = [Option<u32>; SOFTNET.len()];

/// A line for each CPU, in order of CPU.
fn parse_softnet(text: &str, packets: &mut Vec<(u32, Softnet)>) {
    packets.clear();
    for (line_number, line) in (0..).zip(text.lines()) {
        let mut counts = Softnet::default();
        let mut number = line_number;
        for (place, word) in line.split_ascii_whitespace().enumerate() {
            let Ok(value) = u32::from_str_radix(word, 16) else { continue };
            if place == SOFTNET_CPU {
                number = value;
            }
            for (count, (_, wanted)) in counts.iter_mut().zip(SOFTNET) {
                if place == wanted {
                    *count = Some(value);
                }
            }
        }
        packets.push((number, counts));
    }
    packets.sort_by_key(|(number, _)| *number);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{
        FIRST_TICK, assert_sources, fixture_options, floats, garbage, ints, sample_at, sample_once, texts,
    };

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
        assert_eq!(
            ints(&batch, "package_throttles"),
            [None, Some(19), Some(19), Some(8), Some(8)],
            "a package is the same to all its CPUs"
        );
    }

    #[test]
    fn between_the_ticks_of_single_cpus_there_is_the_machine_alone() {
        let mut probe = probe();
        let at = |seconds: i64| Tick { ts_micros: FIRST_TICK.ts_micros + seconds * 1_000_000, first: false };
        assert_eq!(sample_at(&mut probe, &at(1)).num_rows(), 1);
        assert_eq!(sample_at(&mut probe, &at(10)).num_rows(), 5);
    }

    #[test]
    fn what_the_scheduler_and_the_network_say_of_each_cpu() {
        let batch = sample_once(&mut probe());
        assert_eq!(floats(&batch, "sched_running_seconds"), [None, Some(1.0), Some(2.0), Some(3.0), Some(4.0)]);
        assert_eq!(floats(&batch, "sched_waiting_seconds")[1..3], [Some(0.1), Some(0.4)]);
        assert_eq!(ints(&batch, "sched_timeslices")[3..], [Some(350_000), Some(400_000)]);
        assert_eq!(ints(&batch, "softnet_processed"), [None, Some(0x0100_0000), Some(0x20), Some(0x300), Some(0x4000)]);
        assert_eq!(ints(&batch, "softnet_dropped")[1..], [Some(1), Some(0), Some(4), Some(0)]);
        assert_eq!(ints(&batch, "softnet_times_squeezed")[1..3], [Some(15), Some(16)]);
        assert_eq!(ints(&batch, "softnet_backlog")[1..3], [Some(3), Some(0)]);
        let numbered: Vec<_> = SOFTNET.iter().map(|(column, at)| (*column, format!("number {}", at + 1))).collect();
        assert_sources("cpu", numbered.iter().map(|(column, number)| (*column, number.as_str())));
    }

    #[test]
    fn times_that_waver_do_not_go_back_and_those_set_anew_do() {
        let mut told = Ticks::default();
        let mut tell =
            |idle: Option<u64>| steady(&mut told, [None, None, None, idle, None, None, None, None, None, None], 300)[3];
        assert_eq!(tell(Some(1000)), Some(1000));
        assert_eq!(tell(Some(998)), Some(1000));
        assert_eq!(tell(Some(999)), Some(1000));
        assert_eq!(tell(Some(1001)), Some(1001));
        assert_eq!(tell(Some(701)), Some(701), "so far back is anew");
        assert_eq!(tell(None), None);
        assert_eq!(tell(Some(5)), Some(5));
    }

    #[test]
    fn where_time_is_short_everyones_turn_comes() {
        let mut turn = Turn::default();
        let mut tick = |time_for: usize| -> Vec<usize> {
            let mut left = time_for;
            let mut is_time = || {
                left = left.saturating_sub(1);
                left > 0
            };
            let places = (0..5).filter(|place| turn.is_at(*place, &mut is_time)).collect();
            turn.end();
            places
        };
        assert_eq!(tick(9), [0, 1, 2, 3, 4]);
        assert_eq!(tick(2), [0, 1]);
        assert_eq!(tick(2), [2, 3]);
        assert_eq!(tick(0), [4]);
        assert_eq!(tick(0), [0]);
        assert_eq!(tick(9), [1, 2, 3, 4]);
    }

    #[test]
    fn lines_belong_to_the_cpus_they_name() {
        let mut sched = Vec::new();
        parse_schedstat(
            "version 15\ncpu2 0 0 0 0 0 0 5 6 7\ndomain0 f 1\ncpu0 0 0\ncpu1 0 0 0 0 0 0 1 2 3\n",
            &mut sched,
        );
        assert_eq!(sched.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(of(&sched, 2), Some(&Sched { running_nanos: 5, waiting_nanos: 6, timeslices: 7 }));
        assert_eq!(of(&sched, 0), None);
        let mut packets = Vec::new();
        // CPU 1 is switched off.
        parse_softnet("a 0 0 0 0 0 0 0 0 0 0 0 0\nb 0 0 0 0 0 0 0 0 0 0 0 2\n", &mut packets);
        assert_eq!(of(&packets, 2).map(|counts| counts[0]), Some(Some(11)));
        assert_eq!(of(&packets, 1), None);
        parse_softnet("a 1\nffffffff x 3\n", &mut packets);
        assert_eq!(of(&packets, 1), Some(&[Some(u32::MAX), None, Some(3), None, None, None, None]));
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
            parse_schedstat(&text, &mut Vec::new());
            parse_schedstat(&format!("cpu0 {text}"), &mut Vec::new());
            parse_softnet(&text, &mut Vec::new());
            parse_cpu_list(&text);
        }
    }
}
