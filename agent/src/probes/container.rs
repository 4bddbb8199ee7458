//! `container`: what containers, pods, batch jobs and system services use, by their control groups.
//!
//! A control group is a directory below `/sys/fs/cgroup`, and the kernel counts for it, and for all below it, what
//! its processes use. Which directories are containers, pods, jobs and steps is told by their paths (see
//! `crate::attribution`); units of systemd are the rest. Nothing of any runtime is asked, so the row has no name of an
//! image: join by `container` or `pod`.
//!
//! There are two versions. Version 2 has one tree with all files in one directory. Version 1 has a tree for each
//! controller, mostly with the same paths; where both are mounted, the controllers are with one of them, mostly the
//! first. Traps:
//!
//! * A file is there only where its controller is switched on; without it the values are NULL. The root of the tree
//!   has hardly any, and is left out: that is the machine.
//! * `max`, and in version 1 a number near 2^63, is no limit: NULL.
//! * `memory.current` contains the page cache. Kubernetes evicts by the working set, which is that without the
//!   inactive part of the cache.
//! * Version 2 counts processor time in microseconds, version 1 in nanoseconds and clock ticks.
//! * In version 1, `cpuacct.stat` and the totals of `memory.stat` (`total_…`) include children, the plain ones do not.
//!
//! Cost. A group is 8 to 10 small files, each some 5 to 20 microseconds for the kernel to make, `memory.stat` most. So
//! containers, pods, jobs and steps are read every 10 s, units once a minute, and 200 containers cost some 20 ms in
//! 10 s: two thousandths of one CPU. Files are opened anew each time: kept open, they would take ten descriptors a
//! group. The tree is walked every 10 s to [`MAX_DEPTH`] levels and [`MAX_DIRECTORIES`] directories, and not into
//! containers; a directory whose link count says that it has no children is not listed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nodescope_model::rows::{Row, Rows};
use nodescope_service::settings::Settings;

use crate::attribution::{Owner, owner};
use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};
use crate::probes::in_seconds;

/// How often groups that are units of systemd are read.
const UNITS_EVERY: Duration = Duration::from_secs(60);

/// Levels of the tree that are walked.
const MAX_DEPTH: usize = 12;

/// Directories that one walk enters at the most.
const MAX_DIRECTORIES: usize = 10_000;

/// The largest file that is read whole: `memory.stat` has some 2 KiB, `io.stat` a line a device.
const MAX_FILE: u64 = 64 << 10;

/// A limit beyond this is none: version 1 writes the largest number of pages there is.
const NO_LIMIT: u64 = 1 << 62;

/// What the probe needs to know.
#[derive(Debug, Clone)]
pub struct ContainerOptions {
    /// How many groups are read at the most.
    pub groups: usize,
}

impl Default for ContainerOptions {
    fn default() -> Self {
        Self { groups: 500 }
    }
}

impl ContainerOptions {
    /// Reads the settings.
    pub fn read(settings: &mut Settings) -> Self {
        let groups = settings.get(
            "agent.containers",
            "500",
            "Control groups (containers, pods, jobs, units) that are read at the most; containers and jobs first. How \
             many were left out is told.",
        );
        Self { groups }
    }
}

/// What a group is. In this order they are given room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum GroupKind {
    Container,
    Job,
    Pod,
    Step,
    Service,
    Scope,
    Slice,
}

impl GroupKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Job => "job",
            Self::Pod => "pod",
            Self::Step => "step",
            Self::Service => "service",
            Self::Scope => "scope",
            Self::Slice => "slice",
        }
    }

    fn is_unit(self) -> bool {
        matches!(self, Self::Service | Self::Scope | Self::Slice)
    }
}

/// A directory that gets a row.
#[derive(Debug, Clone)]
struct Group {
    kind: GroupKind,
    owner: Owner,
    /// The walk at which it was last there.
    seen: u64,
}

/// Where the files of the tree are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hierarchy {
    /// One directory for all.
    Unified(PathBuf),
    /// One for each controller.
    Controllers { tree: PathBuf, cpu: PathBuf, accounting: PathBuf, memory: PathBuf, io: PathBuf, tasks: PathBuf },
}

impl Hierarchy {
    fn find(root: &HostRoot) -> Option<Self> {
        let mount = root.sys("fs/cgroup");
        if mount.join("cgroup.controllers").exists() {
            return Some(Self::Unified(mount));
        }
        let find = |names: &[&str]| names.iter().map(|name| mount.join(name)).find(|path| path.is_dir());
        let tree =
            find(&["memory", "cpuacct", "cpu,cpuacct", "cpuacct,cpu", "freezer", "cpuset", "devices", "systemd"])?;
        let or_nowhere = |names: &[&str]| find(names).unwrap_or_else(|| mount.join("nowhere"));
        Some(Self::Controllers {
            cpu: or_nowhere(&["cpu", "cpu,cpuacct", "cpuacct,cpu"]),
            accounting: or_nowhere(&["cpuacct", "cpu,cpuacct", "cpuacct,cpu"]),
            memory: or_nowhere(&["memory"]),
            io: or_nowhere(&["blkio"]),
            tasks: or_nowhere(&["pids"]),
            tree,
        })
    }

    fn tree(&self) -> &Path {
        match self {
            Self::Unified(tree) | Self::Controllers { tree, .. } => tree,
        }
    }
}

/// Fills the table `container`.
pub struct ContainerProbe {
    root: HostRoot,
    options: ContainerOptions,
    groups: BTreeMap<String, Group>,
    walks: u64,
    directories: usize,
    ticks_per_second: u64,
    reader: Reader,
}

impl ContainerProbe {
    /// Reads nothing yet.
    pub fn new(root: &HostRoot, options: ContainerOptions) -> Self {
        Self {
            root: root.clone(),
            options,
            groups: BTreeMap::new(),
            walks: 0,
            directories: 0,
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
            reader: Reader::default(),
        }
    }

    /// Finds the groups there are, and forgets those that are gone.
    fn walk(&mut self, tree: &Path) -> std::io::Result<()> {
        self.walks += 1;
        self.directories = 0;
        let mut path = String::new();
        let mut directory = tree.to_owned();
        // The top must be readable; what is below may vanish at any moment.
        fs::read_dir(tree)?;
        self.enter(&mut directory, &mut path, 0, &Owner::default(), false);
        let walk = self.walks;
        self.groups.retain(|_, group| group.seen == walk);
        Ok(())
    }

    /// Looks at the children of one directory. Below a service only work is a group of its own: what a service makes
    /// for itself is its own affair.
    fn enter(&mut self, directory: &mut PathBuf, path: &mut String, depth: usize, parent: &Owner, in_service: bool) {
        if depth >= MAX_DEPTH || self.directories >= MAX_DIRECTORIES {
            return;
        }
        // Two links are a directory's own; file systems that do not count them have one.
        if depth > 0 && fs::metadata(&*directory).is_ok_and(|metadata| metadata.nlink() == 2) {
            return;
        }
        for entry in fs::read_dir(&*directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            self.directories += 1;
            let name = entry.file_name();
            let Ok(name) = str::from_utf8(name.as_bytes()) else { continue };
            let length = path.len();
            path.push('/');
            path.push_str(name);
            directory.push(name);
            let (kind, owner) = match self.groups.get_mut(&**path) {
                Some(group) => {
                    group.seen = self.walks;
                    (Some(group.kind), group.owner.clone())
                }
                None => {
                    let owner = owner(path);
                    let kind = kind_of(name, &owner, parent).filter(|kind| !(in_service && kind.is_unit()));
                    if let Some(kind) = kind {
                        let group = Group { kind, owner: owner.clone(), seen: self.walks };
                        self.groups.insert(path.clone(), group);
                    }
                    (kind, owner)
                }
            };
            if kind != Some(GroupKind::Container) {
                let in_service = in_service || kind == Some(GroupKind::Service);
                self.enter(directory, path, depth + 1, &owner, in_service);
            }
            directory.pop();
            path.truncate(length);
        }
    }
}

/// What a directory is, by what its path says that its parent's did not.
fn kind_of(name: &str, owner: &Owner, parent: &Owner) -> Option<GroupKind> {
    if owner.container.is_some() && owner.container != parent.container {
        Some(GroupKind::Container)
    } else if owner.step.is_some() && owner.step != parent.step {
        Some(GroupKind::Step)
    } else if owner.job.is_some() && owner.job != parent.job {
        Some(GroupKind::Job)
    } else if owner.pod.is_some() && owner.pod != parent.pod {
        Some(GroupKind::Pod)
    } else if parent.is_work() {
        None
    } else if name.ends_with(".service") {
        Some(GroupKind::Service)
    } else if name.ends_with(".scope") {
        Some(GroupKind::Scope)
    } else if name.ends_with(".slice") {
        Some(GroupKind::Slice)
    } else {
        None
    }
}

impl Probe for ContainerProbe {
    fn table(&self) -> &'static str {
        "container"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let Some(hierarchy) = Hierarchy::find(&self.root) else {
            return Err(ProbeError::Absent("no control groups are mounted at /sys/fs/cgroup".to_owned()));
        };
        self.walk(hierarchy.tree())
            .map_err(|source| ProbeError::Read { path: hierarchy.tree().display().to_string(), source })?;
        let mut order: Vec<(GroupKind, &str)> =
            self.groups.iter().map(|(path, group)| (group.kind, path.as_str())).collect();
        order.sort_unstable();
        let left = order.len().saturating_sub(self.options.groups);
        order.truncate(self.options.groups);
        let with_units = tick.is_due(UNITS_EVERY);
        for (kind, path) in order {
            if kind.is_unit() && !with_units {
                continue;
            }
            let Some(group) = self.groups.get(path) else { continue };
            let usage = match &hierarchy {
                Hierarchy::Unified(tree) => self.reader.unified(tree, path),
                Hierarchy::Controllers { cpu, accounting, memory, io, tasks, .. } => {
                    let folders = [cpu, accounting, memory, io, tasks].map(PathBuf::as_path);
                    self.reader.controllers(folders, path, self.ticks_per_second)
                }
            };
            let mut row = rows.begin();
            row.text("cgroup", path)
                .text("kind", kind.as_str())
                .text("container", group.owner.container.as_deref())
                .text("runtime", group.owner.runtime)
                .text("pod", group.owner.pod.as_deref())
                .text("scheduler", group.owner.scheduler)
                .text("job", group.owner.job.as_deref())
                .text("step", group.owner.step.as_deref())
                .text("unit", group.owner.unit.as_deref())
                .int("groups", 1);
            usage.append(&mut row);
        }
        if left > 0 {
            rows.begin()
                .text("cgroup", "others")
                .text("kind", "others")
                .int("groups", i64::try_from(left).unwrap_or(i64::MAX));
        }
        Ok(())
    }
}

/// What a group uses, in the catalogue's units.
#[derive(Debug, Clone, Default, PartialEq)]
struct Usage {
    cpu: Cpu,
    cpu_limit: Option<f64>,
    memory: Memory,
    memory_usage: Option<u64>,
    memory_limit: Option<u64>,
    memory_peak: Option<u64>,
    memory_limit_hits: Option<u64>,
    oom_kills: Option<u64>,
    io: Io,
    tasks: Option<u64>,
    tasks_limit: Option<u64>,
    pressure_cpu: Pressure,
    pressure_memory: Pressure,
    pressure_io: Pressure,
}

impl Usage {
    fn append(&self, row: &mut Row<'_>) {
        let working_set = self.memory_usage.zip(self.memory.inactive_file);
        row.float("cpu_usage_seconds", self.cpu.usage)
            .float("cpu_user_seconds", self.cpu.user)
            .float("cpu_system_seconds", self.cpu.system)
            .count("cpu_periods", self.cpu.periods)
            .count("cpu_throttled_periods", self.cpu.throttled_periods)
            .float("cpu_throttled_seconds", self.cpu.throttled)
            .float("cpu_limit", self.cpu_limit)
            .count("memory_usage_bytes", self.memory_usage)
            .count("memory_working_set_bytes", working_set.map(|(usage, inactive)| usage.saturating_sub(inactive)))
            .count("memory_limit_bytes", self.memory_limit)
            .count("memory_peak_bytes", self.memory_peak)
            .count("memory_anon_bytes", self.memory.anon)
            .count("memory_file_bytes", self.memory.file)
            .count("memory_shmem_bytes", self.memory.shmem)
            .count("memory_mapped_bytes", self.memory.mapped)
            .count("memory_kernel_bytes", self.memory.kernel)
            .count("memory_swap_bytes", self.memory.swap)
            .count("page_faults", self.memory.faults)
            .count("major_faults", self.memory.major_faults)
            .count("memory_limit_hits", self.memory_limit_hits)
            .count("oom_kills", self.oom_kills)
            .count("io_read_bytes", self.io.read_bytes)
            .count("io_write_bytes", self.io.write_bytes)
            .count("io_reads", self.io.reads)
            .count("io_writes", self.io.writes)
            .count("tasks", self.tasks)
            .count("tasks_limit", self.tasks_limit)
            .float("pressure_cpu_some_seconds", self.pressure_cpu.some)
            .float("pressure_cpu_full_seconds", self.pressure_cpu.full)
            .float("pressure_memory_some_seconds", self.pressure_memory.some)
            .float("pressure_memory_full_seconds", self.pressure_memory.full)
            .float("pressure_io_some_seconds", self.pressure_io.some)
            .float("pressure_io_full_seconds", self.pressure_io.full);
    }
}

/// Reads files of groups into one buffer.
#[derive(Debug, Default)]
struct Reader {
    path: PathBuf,
    buffer: Vec<u8>,
}

impl Reader {
    /// What a file says; empty where it is not there.
    fn text(&mut self, file: &str) -> &str {
        self.text_if_there(file).unwrap_or_default()
    }

    fn text_if_there(&mut self, file: &str) -> Option<&str> {
        self.buffer.clear();
        self.path.push(file);
        let read = File::open(&self.path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut self.buffer));
        self.path.pop();
        read.ok()?;
        str::from_utf8(&self.buffer).ok()
    }

    fn number(&mut self, file: &str) -> Option<u64> {
        self.text(file).trim().parse().ok()
    }

    /// Goes to the directory of a group.
    fn go(&mut self, tree: &Path, group: &str) {
        self.path.clear();
        self.path.push(tree);
        self.path.push(group.trim_start_matches('/'));
    }

    /// Version 2.
    fn unified(&mut self, tree: &Path, group: &str) -> Usage {
        self.go(tree, group);
        let mut memory = parse_memory_stat(self.text("memory.stat"));
        memory.swap = self.number("memory.swap.current");
        let (memory_limit_hits, oom_kills) = parse_memory_events(self.text("memory.events"));
        Usage {
            cpu: parse_cpu_stat(self.text("cpu.stat")),
            cpu_limit: parse_cpu_max(self.text("cpu.max")),
            memory,
            memory_usage: self.number("memory.current"),
            memory_limit: self.number("memory.max"),
            memory_peak: self.number("memory.peak"),
            memory_limit_hits,
            oom_kills,
            io: self.text_if_there("io.stat").map(parse_io_stat).unwrap_or_default(),
            tasks: self.number("pids.current"),
            tasks_limit: self.number("pids.max"),
            pressure_cpu: parse_pressure(self.text("cpu.pressure")),
            pressure_memory: parse_pressure(self.text("memory.pressure")),
            pressure_io: parse_pressure(self.text("io.pressure")),
        }
    }

    /// Version 1: folders of cpu, cpuacct, memory, blkio and pids.
    fn controllers(&mut self, folders: [&Path; 5], group: &str, ticks_per_second: u64) -> Usage {
        let [cpu, accounting, memory, io, tasks] = folders;
        let mut usage = Usage::default();
        self.go(cpu, group);
        usage.cpu = parse_cpu_stat_v1(self.text("cpu.stat"));
        // -1 is no limit, and no number from 0 up.
        let quota = self.number("cpu.cfs_quota_us");
        let period = self.number("cpu.cfs_period_us").filter(|period| *period > 0);
        usage.cpu_limit = quota.zip(period).map(|(quota, period)| in_seconds(quota, period));
        self.go(accounting, group);
        usage.cpu.usage = self.number("cpuacct.usage").map(|nanos| in_seconds(nanos, 1_000_000_000));
        let stat = self.text("cpuacct.stat");
        usage.cpu.user = field(stat, "user").map(|ticks| in_seconds(ticks, ticks_per_second));
        usage.cpu.system = field(stat, "system").map(|ticks| in_seconds(ticks, ticks_per_second));
        self.go(memory, group);
        usage.memory = parse_memory_stat_v1(self.text("memory.stat"));
        usage.memory.kernel = self.number("memory.kmem.usage_in_bytes");
        usage.memory_usage = self.number("memory.usage_in_bytes");
        usage.memory_limit = self.number("memory.limit_in_bytes").filter(|limit| *limit < NO_LIMIT);
        usage.memory_peak = self.number("memory.max_usage_in_bytes");
        usage.memory_limit_hits = self.number("memory.failcnt");
        usage.oom_kills = field(self.text("memory.oom_control"), "oom_kill");
        self.go(io, group);
        for (bytes, operations) in [
            ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
            ("blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"),
        ] {
            (usage.io.read_bytes, usage.io.write_bytes) =
                self.text_if_there(bytes).map(parse_blkio).unwrap_or_default();
            (usage.io.reads, usage.io.writes) = self.text_if_there(operations).map(parse_blkio).unwrap_or_default();
            if usage.io.read_bytes.is_some() {
                break;
            }
        }
        self.go(tasks, group);
        usage.tasks = self.number("pids.current");
        usage.tasks_limit = self.number("pids.max");
        usage
    }
}

/// The number beside a name, in a file of lines `name number`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// Calls `take` with each line `name number`.
fn each_field(text: &str, mut take: impl FnMut(&str, u64)) {
    for (name, number) in text.lines().filter_map(|line| line.split_once(' ')) {
        if let Ok(number) = number.trim().parse() {
            take(name, number);
        }
    }
}

/// Processor time, in seconds, and periods.
#[derive(Debug, Clone, Default, PartialEq)]
struct Cpu {
    usage: Option<f64>,
    user: Option<f64>,
    system: Option<f64>,
    periods: Option<u64>,
    throttled_periods: Option<u64>,
    throttled: Option<f64>,
}

/// `usage_usec 1234`, and so on; what is about throttling is there only with the controller.
fn parse_cpu_stat(text: &str) -> Cpu {
    let mut cpu = Cpu::default();
    let seconds = |micros| Some(in_seconds(micros, 1_000_000));
    each_field(text, |name, number| match name {
        "usage_usec" => cpu.usage = seconds(number),
        "user_usec" => cpu.user = seconds(number),
        "system_usec" => cpu.system = seconds(number),
        "nr_periods" => cpu.periods = Some(number),
        "nr_throttled" => cpu.throttled_periods = Some(number),
        "throttled_usec" => cpu.throttled = seconds(number),
        _ => {}
    });
    cpu
}

fn parse_cpu_stat_v1(text: &str) -> Cpu {
    let mut cpu = Cpu::default();
    each_field(text, |name, number| match name {
        "nr_periods" => cpu.periods = Some(number),
        "nr_throttled" => cpu.throttled_periods = Some(number),
        "throttled_time" => cpu.throttled = Some(in_seconds(number, 1_000_000_000)),
        _ => {}
    });
    cpu
}

/// `max 100000` or `150000 100000`: microseconds in a period of microseconds.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.trim().parse().ok()?);
    (period > 0).then(|| in_seconds(quota, period))
}

/// Bytes of memory by what they are for, and page faults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Memory {
    anon: Option<u64>,
    file: Option<u64>,
    shmem: Option<u64>,
    mapped: Option<u64>,
    kernel: Option<u64>,
    swap: Option<u64>,
    inactive_file: Option<u64>,
    faults: Option<u64>,
    major_faults: Option<u64>,
}

fn parse_memory_stat(text: &str) -> Memory {
    let mut memory = Memory::default();
    each_field(text, |name, number| {
        let place = match name {
            "anon" => &mut memory.anon,
            "file" => &mut memory.file,
            "shmem" => &mut memory.shmem,
            "file_mapped" => &mut memory.mapped,
            "kernel" => &mut memory.kernel,
            "inactive_file" => &mut memory.inactive_file,
            "pgfault" => &mut memory.faults,
            "pgmajfault" => &mut memory.major_faults,
            _ => return,
        };
        *place = Some(number);
    });
    memory
}

fn parse_memory_stat_v1(text: &str) -> Memory {
    let mut memory = Memory::default();
    each_field(text, |name, number| {
        let place = match name {
            "total_rss" => &mut memory.anon,
            "total_cache" => &mut memory.file,
            "total_shmem" => &mut memory.shmem,
            "total_mapped_file" => &mut memory.mapped,
            "total_swap" => &mut memory.swap,
            "total_inactive_file" => &mut memory.inactive_file,
            "total_pgfault" => &mut memory.faults,
            "total_pgmajfault" => &mut memory.major_faults,
            _ => return,
        };
        *place = Some(number);
    });
    memory
}

/// How often the limit was met, and processes killed for it.
fn parse_memory_events(text: &str) -> (Option<u64>, Option<u64>) {
    (field(text, "max"), field(text, "oom_kill"))
}

/// Traffic to block devices, all of them together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Io {
    read_bytes: Option<u64>,
    write_bytes: Option<u64>,
    reads: Option<u64>,
    writes: Option<u64>,
}

fn add(sum: &mut Option<u64>, number: u64) {
    *sum = Some(sum.unwrap_or(0).saturating_add(number));
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`, a line a device; a device that did nothing has none, so that
/// an empty file is a group that did nothing.
fn parse_io_stat(text: &str) -> Io {
    let mut io = Io { read_bytes: Some(0), write_bytes: Some(0), reads: Some(0), writes: Some(0) };
    for word in text.lines().flat_map(|line| line.split_ascii_whitespace().skip(1)) {
        let Some((name, Ok(number))) = word.split_once('=').map(|(name, number)| (name, number.parse())) else {
            continue;
        };
        match name {
            "rbytes" => add(&mut io.read_bytes, number),
            "wbytes" => add(&mut io.write_bytes, number),
            "rios" => add(&mut io.reads, number),
            "wios" => add(&mut io.writes, number),
            _ => {}
        }
    }
    io
}

/// `8:0 Read 4096` and `8:0 Write 0`, a line a device and kind, where it did something.
fn parse_blkio(text: &str) -> (Option<u64>, Option<u64>) {
    let (mut reads, mut writes) = (Some(0), Some(0));
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().skip(1);
        if let (Some(kind), Some(Ok(number))) = (words.next(), words.next().map(str::parse)) {
            match kind {
                "Read" => add(&mut reads, number),
                "Write" => add(&mut writes, number),
                _ => {}
            }
        }
    }
    (reads, writes)
}

/// Time in which some, and all, tasks waited, seconds.
#[derive(Debug, Clone, Default, PartialEq)]
struct Pressure {
    some: Option<f64>,
    full: Option<f64>,
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=1234`, in microseconds, and the same of `full`.
fn parse_pressure(text: &str) -> Pressure {
    let total = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let micros = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()?;
        Some(in_seconds(micros, 1_000_000))
    };
    Pressure { some: total("some"), full: total("full") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{fixture_options, floats, garbage, ints, row_of, sample_at, sample_once, texts};

    const CONTAINER: &str = "/kubepods.slice/kubepods-burstable.slice/\
        kubepods-burstable-pod74c13223_5a00_11e9_b385_42010a80018d.slice/\
        cri-containerd-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope";

    #[test]
    fn the_recorded_groups_are_read() {
        let mut probe = ContainerProbe::new(&fixture_options().root, ContainerOptions::default());
        let batch = sample_once(&mut probe);
        let found: Vec<(&str, &str)> = texts(&batch, "kind")
            .into_iter()
            .zip(texts(&batch, "cgroup"))
            .map(|(kind, path)| (kind.unwrap(), path.unwrap().rsplit('/').next().unwrap()))
            .collect();
        let wanted = [
            ("container", CONTAINER.rsplit('/').next().unwrap()),
            ("job", "job_42"),
            ("pod", "kubepods-burstable-pod74c13223_5a00_11e9_b385_42010a80018d.slice"),
            ("step", "step_0"),
            ("service", "sshd.service"),
            ("scope", "init.scope"),
            ("scope", "slurmstepd.scope"),
            ("slice", "kubepods.slice"),
            ("slice", "kubepods-burstable.slice"),
            ("slice", "system.slice"),
        ];
        assert_eq!(found, wanted);
        let at = row_of(&batch, "cgroup", CONTAINER);
        assert_eq!(texts(&batch, "runtime")[at], Some("containerd"));
        assert_eq!(texts(&batch, "pod")[at], Some("74c13223-5a00-11e9-b385-42010a80018d"));
        let number = |name: &str| ints(&batch, name)[at].unwrap();
        assert_eq!(floats(&batch, "cpu_usage_seconds")[at], Some(1234.5));
        assert_eq!(floats(&batch, "cpu_throttled_seconds")[at], Some(1.5));
        assert_eq!(floats(&batch, "cpu_limit")[at], Some(2.5));
        assert_eq!(number("memory_usage_bytes"), 5_000_000_000);
        assert_eq!(number("memory_working_set_bytes"), 4_000_000_000);
        assert_eq!(number("memory_limit_bytes"), 8_589_934_592);
        assert_eq!((number("memory_limit_hits"), number("oom_kills")), (7, 1));
        assert_eq!((number("io_read_bytes"), number("io_writes")), (4096 + 8192, 5));
        assert_eq!(number("tasks"), 64);
        assert_eq!(ints(&batch, "tasks_limit")[at], None, "max is none");
        assert_eq!(floats(&batch, "pressure_memory_full_seconds")[at], Some(0.25));
        let service = row_of(&batch, "cgroup", "/system.slice/sshd.service");
        assert_eq!(ints(&batch, "memory_usage_bytes")[service], None, "a controller that is off");
    }

    #[test]
    fn units_come_once_a_minute_and_there_is_an_end_to_groups() {
        let mut probe = ContainerProbe::new(&fixture_options().root, ContainerOptions { groups: 3 });
        let batch = sample_at(&mut probe, &Tick { ts_micros: 10_000_000, first: false });
        assert_eq!(texts(&batch, "kind"), [Some("container"), Some("job"), Some("pod"), Some("others")]);
        assert_eq!(ints(&batch, "groups"), [Some(1), Some(1), Some(1), Some(7)]);
        let mut probe = ContainerProbe::new(&fixture_options().root, ContainerOptions::default());
        let batch = sample_at(&mut probe, &Tick { ts_micros: 10_000_000, first: false });
        assert_eq!(batch.num_rows(), 4);
        assert_eq!(probe.groups.len(), 10);
    }

    #[test]
    fn version_1_is_read_from_its_controllers() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        let group = "docker/9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d";
        let write = |controller: &str, file: &str, text: &str| {
            let folder = directory.path().join("sys/fs/cgroup").join(controller).join(group);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(file), text).unwrap();
        };
        write("cpu,cpuacct", "cpuacct.usage", "1500000000\n");
        write("cpu,cpuacct", "cpuacct.stat", "user 100\nsystem 50\n");
        write("cpu,cpuacct", "cpu.stat", "nr_periods 9\nnr_throttled 2\nthrottled_time 500000000\n");
        write("cpu,cpuacct", "cpu.cfs_quota_us", "-1\n");
        write("cpu,cpuacct", "cpu.cfs_period_us", "100000\n");
        write("memory", "memory.usage_in_bytes", "1000\n");
        write("memory", "memory.limit_in_bytes", "9223372036854771712\n");
        write("memory", "memory.stat", "cache 1\nrss 2\ntotal_cache 600\ntotal_rss 400\ntotal_inactive_file 250\n");
        write("memory", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
        write("blkio", "blkio.throttle.io_service_bytes", "8:0 Read 10\n8:0 Write 20\n8:16 Read 5\nTotal 35\n");
        write("pids", "pids.current", "4\n");
        write("pids", "pids.max", "max\n");
        let mut probe = ContainerProbe::new(&root, ContainerOptions::default());
        let batch = sample_once(&mut probe);
        assert_eq!(texts(&batch, "runtime"), [Some("docker")]);
        assert_eq!(floats(&batch, "cpu_usage_seconds"), [Some(1.5)]);
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(floats(&batch, "cpu_user_seconds"), [Some(in_seconds(100, ticks))]);
        assert_eq!(floats(&batch, "cpu_throttled_seconds"), [Some(0.5)]);
        assert_eq!(floats(&batch, "cpu_limit"), [None]);
        assert_eq!(ints(&batch, "memory_working_set_bytes"), [Some(750)]);
        assert_eq!(ints(&batch, "memory_limit_bytes"), [None]);
        assert_eq!(ints(&batch, "memory_anon_bytes"), [Some(400)]);
        assert_eq!(ints(&batch, "oom_kills"), [Some(3)]);
        assert_eq!((ints(&batch, "io_read_bytes"), ints(&batch, "io_write_bytes")), (vec![Some(15)], vec![Some(20)]));
        assert_eq!((ints(&batch, "tasks"), ints(&batch, "tasks_limit")), (vec![Some(4)], vec![None]));
        fs::remove_dir_all(directory.path().join("sys/fs/cgroup/memory/docker")).unwrap();
        assert_eq!(sample_once(&mut probe).num_rows(), 0, "those that are gone are forgotten");
    }

    #[test]
    fn a_group_that_did_nothing_is_not_one_of_which_nothing_is_known() {
        assert_eq!(parse_io_stat("").read_bytes, Some(0));
        assert_eq!(parse_io_stat("8:0 rbytes=1 wbytes=2\n").reads, Some(0));
        assert_eq!(parse_blkio("Total 0\n"), (Some(0), Some(0)));
        let directory = tempfile::tempdir().unwrap();
        let (with, without) = (directory.path().join("with"), directory.path().join("without"));
        fs::create_dir_all(&with).unwrap();
        fs::create_dir_all(&without).unwrap();
        fs::write(with.join("io.stat"), "").unwrap();
        let mut reader = Reader::default();
        assert_eq!(reader.unified(directory.path(), "/with").io.write_bytes, Some(0));
        assert_eq!(reader.unified(directory.path(), "/without").io.write_bytes, None);
    }

    #[test]
    fn without_control_groups_there_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut probe = ContainerProbe::new(&HostRoot::new(directory.path()), ContainerOptions::default());
        let catalogue = nodescope_model::catalogue::Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("container").unwrap());
        let result = probe.sample(&Tick { ts_micros: 0, first: true }, &mut rows);
        assert!(matches!(result, Err(ProbeError::Absent(_))));
    }

    #[test]
    fn this_machine_can_be_walked() {
        let mut probe = ContainerProbe::new(&HostRoot::new("/"), ContainerOptions::default());
        let catalogue = nodescope_model::catalogue::Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("container").unwrap());
        let _ = probe.sample(&Tick { ts_micros: 0, first: true }, &mut rows);
    }

    proptest! {
        #[test]
        fn no_text_brings_it_down(text in garbage()) {
            parse_cpu_stat(&text);
            parse_cpu_stat_v1(&text);
            parse_cpu_max(&text);
            parse_memory_stat(&text);
            parse_memory_stat_v1(&text);
            parse_memory_events(&text);
            parse_io_stat(&text);
            parse_blkio(&text);
            parse_pressure(&text);
        }
    }
}
