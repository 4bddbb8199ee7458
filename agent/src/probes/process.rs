//! `process`: the processes that use most CPU, those that hold most memory, and all that have an accelerator open.
//!
//! `/proc/PID/stat` has in one line nearly all that the table shows, so it is read for every process, and the ranking
//! is made from it. User, control group, storage traffic and open files lie in files of their own and are read for
//! the chosen few only. The row `others` stands for all that are not listed, so that memory, threads and processes
//! add up to what there is. Their CPU time does not: a sum whose members change is no counter, and the table `cpu` has
//! the total.
//!
//! What the kernel shows to the same user and to CAP_SYS_PTRACE only is NULL for the rest: storage traffic
//! (`/proc/PID/io`), the proportional share of memory (`smaps_rollup`), and which accelerators are open
//! (`/proc/PID/fd`, see `crate::allocations`).
//!
//! Cost. Making one `stat` costs the kernel 5 to 20 microseconds, more with many threads, and ours is little beside
//! it: the directory's descriptor stays open, the file is opened relative to it, and one buffer serves all. Nothing is
//! allocated per process. A server of 200 CPUs runs 2,000 threads of the kernel, which do next to nothing: they are
//! read once a minute, and in between are taken to be as they were. So 500 programs cost some 5 ms in 10 s, half a
//! thousandth of one CPU. `smaps_rollup` walks the page table, some 5 ms a gigabyte: it is read every five minutes, for
//! processes of up to [`PSS_MAX_BYTES`], until [`PSS_TIME`] is spent. Before Linux 6.2 open files have to be listed to be
//! counted, some 2 microseconds each, and a proxy has 100,000: see [`FEW_FILES`].
//!
//! `smaps_rollup` waits for the lock on the process's memory, and one that hangs in a driver holds that for ever. So a
//! thread of its own reads it; while that hangs there are no shares, and all the rest is as ever.
//!
//! Command lines and environments are never read: people pass passwords in them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nodescope_model::rows::Rows;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, RawDir, openat};

use crate::allocations::holders::{Found, Holder, KERNEL_THREAD, Looker};
use crate::attribution::{Stat, parse_effective_uid, parse_stat, placement};
use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};
use crate::probes::in_seconds;

/// How often threads of the kernel are read.
const SELDOM: Duration = Duration::from_secs(60);

/// How often shares of memory are: the kernel walks all pages of a process for one.
const SHARES_EVERY: Duration = Duration::from_secs(300);

/// The largest process whose proportional share of memory is read.
const PSS_MAX_BYTES: u64 = 2 << 30;

/// By so much, in microseconds, the time of the kernel's start changes while the clock is only steered.
const CLOCK_WAVERS: u64 = 5_000_000;

/// The time that reading shares may take, each time.
const PSS_TIME: Duration = Duration::from_millis(30);

/// What that thread needs.
const SHARES_STACK: usize = 128 * 1024;

/// How long shares are waited for: they are read by then, or the thread that reads them hangs.
const PSS_PATIENCE: Duration = Duration::from_secs(1);

/// Where open files are counted by listing them: a process with room for more is counted once a minute, and one with
/// room for more than [`MANY_FILES`] not at all.
const FEW_FILES: i64 = 4096;
const MANY_FILES: i64 = 32_768;

/// Owners of accelerators listed at the most; more are among the others.
const MAX_OWNERS: usize = 256;

/// Room for entries of `/proc`, of which one is some 24 bytes.
const DIRECTORY_BUFFER: usize = 8192;

/// The longest name kept: `stat` gives threads of the kernel up to 64 bytes, and programs 15.
const MAX_NAME: usize = 63;

/// Letters of states, and how they are called.
const STATES: &[(u8, &str)] = &[
    (b'R', "running"),
    (b'S', "sleeping"),
    (b'D', "disk"),
    (b'T', "stopped"),
    (b't', "traced"),
    (b'Z', "zombie"),
    (b'X', "dead"),
    (b'x', "dead"),
    (b'I', "idle"),
];

/// Fills the table `process`.
pub struct ProcessProbe {
    root: HostRoot,
    /// How many to list by CPU, and again by memory.
    top: usize,
    /// `/proc`, opened once.
    directory: Option<File>,
    /// All processes at this tick and at the one before, by number.
    now: Vec<Process>,
    before: Vec<Process>,
    /// Places and measures, for ranking.
    order: Vec<(u64, usize)>,
    /// The bytes of one file, kept to be used again.
    buffer: Vec<u8>,
    path: String,
    entries: Vec<MaybeUninit<u8>>,
    looker: Arc<Mutex<Looker>>,
    shares: Shares,
    /// When the kernel started, microseconds since 1970. Kept, so that `started` does not waver with the clock, unless
    /// that was set.
    booted: Option<i64>,
    ticks_per_second: u64,
    page_size: u64,
    /// Whether `/proc` is the kernel's own, which tells the number of open files without listing them.
    is_procfs: bool,
}

impl ProcessProbe {
    /// A probe of the processes below `options.root`.
    pub fn new(options: &ProbeOptions) -> Self {
        let is_procfs =
            rustix::fs::statfs(options.root.proc("")).is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC);
        Self {
            root: options.root.clone(),
            top: options.top_processes,
            directory: None,
            now: Vec::new(),
            before: Vec::new(),
            order: Vec::new(),
            buffer: Vec::with_capacity(2048),
            path: String::with_capacity(64),
            entries: vec![MaybeUninit::uninit(); DIRECTORY_BUFFER],
            looker: Looker::of(&options.root),
            shares: Shares::new(&options.root),
            booted: None,
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
            page_size: rustix::param::page_size() as u64,
            is_procfs,
        }
    }

    /// Reads all processes, as their `stat` shows them, into `now`.
    fn read_all(&mut self, reads_kernel_threads: bool) -> Result<(), ProbeError> {
        let wrong = |root: &HostRoot, source| ProbeError::Read { path: root.proc("").display().to_string(), source };
        std::mem::swap(&mut self.now, &mut self.before);
        self.now.clear();
        let directory = match self.directory.take() {
            Some(mut directory) => directory.rewind().map(|()| directory),
            None => File::open(self.root.proc("")),
        }
        .map_err(|source| wrong(&self.root, source))?;
        let mut entries = RawDir::new(&directory, &mut self.entries);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|source| wrong(&self.root, source.into()))?;
            let Some(pid) = entry.file_name().to_str().ok().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if !reads_kernel_threads
                && let Some(before) = find(&self.before, pid)
                && before.is_kernel_thread
            {
                self.now.push(*before);
                continue;
            }
            self.path.clear();
            let _ = write!(self.path, "{pid}/stat");
            // A process may end at any moment; one that cannot be read has ended.
            if let Ok(file) = openat(&directory, &*self.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                && read(&File::from(file), &mut self.buffer).is_ok()
                && let Some(stat) = parse_stat(&self.buffer)
            {
                self.now.push(Process::new(pid, &stat));
            }
        }
        self.directory = Some(directory);
        self.now.sort_unstable_by_key(|process| process.pid);
        Ok(())
    }

    /// CPU time since the tick before. One that was not there before has used all of its since; so have all, at the
    /// first tick.
    fn used(&self, process: &Process) -> u64 {
        let before = find(&self.before, process.pid).filter(|before| before.start_ticks == process.start_ticks);
        process.cpu_ticks.saturating_sub(before.map_or(0, |before| before.cpu_ticks))
    }

    /// Places of those of which `measure` is largest. One that measures nothing is never among them.
    fn top(&mut self, measure: impl Fn(&Self, &Process) -> u64) -> Vec<usize> {
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(self.now.iter().enumerate().map(|(at, process)| (measure(self, process), at)));
        order.retain(|(measure, _)| *measure > 0);
        // The largest first; of equals the older, whose number is mostly the lower.
        let largest = |a: &(u64, usize), b: &(u64, usize)| b.0.cmp(&a.0).then(a.1.cmp(&b.1));
        if order.len() > self.top {
            if self.top > 0 {
                order.select_nth_unstable_by(self.top - 1, largest);
            }
            order.truncate(self.top);
        }
        let places = order.iter().map(|(_, at)| *at).collect();
        self.order = order;
        places
    }

    /// Appends the row of one process.
    fn append(
        &self,
        process: &Process,
        top_by: &'static str,
        holder: Option<&Holder>,
        is_seldom: bool,
        pss: Option<u64>,
        rows: &mut Rows,
    ) {
        let directory = self.root.proc(process.pid.to_string());
        let text =
            |file: &str| String::from_utf8_lossy(&fs::read(directory.join(file)).unwrap_or_default()).into_owned();
        let (status, cgroups, io) = (text("status"), text("cgroup"), text("io"));
        let (cgroup, owner) = placement(&cgroups);
        // The room that its table of files has is never less than what it has open.
        let room = parse_number(&status, "FDSize:").unwrap_or(0);
        let may_list = room <= if is_seldom { MANY_FILES } else { FEW_FILES };
        let accelerators = holder.map(|holder| i64::try_from(holder.cards.len()).unwrap_or(i64::MAX));
        rows.begin()
            .int("pid", i64::from(process.pid))
            .int("start_ticks", process.start_ticks)
            .text("name", process.name().as_ref())
            .int("parent_pid", process.parent_pid)
            .int("uid", parse_effective_uid(&status))
            .text("cgroup", cgroup)
            .text("container", owner.container.as_deref())
            .text("pod", owner.pod.as_deref())
            .text("scheduler", owner.scheduler)
            .text("job", owner.job.as_deref())
            .text("step", owner.step.as_deref())
            .text("unit", owner.unit.as_deref())
            .timestamp("started", self.started(process.start_ticks))
            .text("top_by", top_by)
            .int("processes", 1)
            .text("state", state_word(process.state))
            .float("cpu_seconds", in_seconds(process.cpu_ticks, self.ticks_per_second))
            .count("resident_bytes", process.resident_pages.checked_mul(self.page_size))
            .count("proportional_bytes", pss)
            .count("virtual_bytes", process.virtual_bytes)
            .int("threads", process.threads)
            .count("major_faults", process.major_faults)
            .int("read_bytes", parse_number(&io, "read_bytes:"))
            .int("write_bytes", parse_number(&io, "write_bytes:"))
            .int("open_files", open_files(&directory.join("fd"), self.is_procfs, may_list))
            .int("accelerators", accelerators);
    }

    /// Appends the row of all that are not listed.
    fn append_others(&self, listed: &BTreeMap<usize, &'static str>, rows: &mut Rows) {
        let mut states: BTreeMap<&str, i64> = BTreeMap::new();
        let (mut processes, mut threads, mut resident) = (0_i64, 0_i64, 0_u64);
        for (at, process) in self.now.iter().enumerate() {
            if listed.contains_key(&at) {
                continue;
            }
            processes += 1;
            threads = threads.saturating_add(process.threads.unwrap_or(0));
            resident = resident.saturating_add(process.resident_pages);
            *states.entry(state_word(process.state)).or_default() += 1;
        }
        rows.begin()
            .int("pid", -1)
            .int("start_ticks", 0)
            .text("name", "others")
            .int("processes", processes)
            .int_map("states", states)
            .int("threads", threads)
            .count("resident_bytes", resident.checked_mul(self.page_size));
    }

    /// When a process started, microseconds since 1970.
    fn started(&self, start_ticks: i64) -> Option<i64> {
        let per_second = i64::try_from(self.ticks_per_second).ok()?;
        self.booted?.checked_add(start_ticks.checked_mul(1_000_000)? / per_second)
    }

    /// The shares of the memory that these hold.
    fn pss(&mut self, listed: &BTreeMap<usize, &'static str>) -> BTreeMap<u32, u64> {
        let is_small = |process: &&Process| {
            let bytes = process.resident_pages.saturating_mul(self.page_size);
            (1..=PSS_MAX_BYTES).contains(&bytes)
        };
        let processes = listed.keys().filter_map(|at| self.now.get(*at));
        self.shares.read(processes.filter(is_small).map(|process| process.pid).collect())
    }
}

/// Reads shares of memory, in which pages that several processes hold count for each in part. A process that hangs can
/// hold up the reading, so that it is done by a thread that can be left to wait.
struct Shares {
    root: HostRoot,
    thread: Option<(SyncSender<Vec<u32>>, Receiver<BTreeMap<u32, u64>>)>,
    /// Whether the answer to an earlier question has not come.
    is_waiting: bool,
}

impl Shares {
    fn new(root: &HostRoot) -> Self {
        Self { root: root.clone(), thread: None, is_waiting: false }
    }

    /// The shares of those processes that could be read in the time there is, by number.
    fn read(&mut self, pids: Vec<u32>) -> BTreeMap<u32, u64> {
        if self.thread.is_none() {
            self.thread = start_reading(self.root.clone());
        }
        let Some((ask, answers)) = &self.thread else { return BTreeMap::new() };
        let mut answer = Ok(BTreeMap::new());
        if self.is_waiting {
            // What it says so late is of the minute before.
            answer = answers.recv_timeout(Duration::ZERO);
        }
        if answer.is_ok() && ask.try_send(pids).is_ok() {
            answer = answers.recv_timeout(PSS_PATIENCE);
        }
        self.is_waiting = matches!(answer, Err(RecvTimeoutError::Timeout));
        if matches!(answer, Err(RecvTimeoutError::Disconnected)) {
            self.thread = None;
        }
        answer.unwrap_or_default()
    }
}

/// Starts the thread, which ends with whoever asks it; `None` when the system gives none.
fn start_reading(root: HostRoot) -> Option<(SyncSender<Vec<u32>>, Receiver<BTreeMap<u32, u64>>)> {
    let (ask, asked) = sync_channel::<Vec<u32>>(1);
    let (answer, answers) = sync_channel(1);
    let work = move || {
        while let Ok(pids) = asked.recv() {
            let since = Instant::now();
            let in_time = pids.into_iter().take_while(|_| since.elapsed() < PSS_TIME);
            let shares = in_time.filter_map(|pid| {
                let text = fs::read_to_string(root.proc(format!("{pid}/smaps_rollup"))).ok()?;
                Some((pid, parse_pss(&text)?))
            });
            if answer.send(shares.collect()).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("shares".to_owned()).stack_size(SHARES_STACK).spawn(work).ok()?;
    Some((ask, answers))
}

impl Probe for ProcessProbe {
    fn table(&self) -> &'static str {
        "process"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let is_seldom = tick.is_due(SELDOM);
        if self.booted.is_none() || is_seldom {
            let stat = fs::read_to_string(self.root.proc("stat")).unwrap_or_default();
            let booted = parse_number(&stat, "btime").and_then(|seconds| seconds.checked_mul(1_000_000));
            let is_set = |kept: i64| booted.is_some_and(|booted| booted.abs_diff(kept) > CLOCK_WAVERS);
            if self.booted.is_none_or(is_set) {
                self.booted = booted;
            }
        }
        self.read_all(is_seldom)?;
        let mut listed: BTreeMap<usize, &'static str> = BTreeMap::new();
        for at in self.top(Self::used) {
            listed.insert(at, "cpu");
        }
        for at in self.top(|_, process| process.resident_pages) {
            listed.entry(at).and_modify(|by| *by = "both").or_insert("memory");
        }
        let found: Arc<Found> = self.looker.lock().found();
        let holder_of = |process: &Process| {
            let at = found.holders.binary_search_by_key(&process.pid, |holder| holder.pid).ok()?;
            found.holders.get(at).filter(|holder| holder.facts.start_ticks == process.start_ticks)
        };
        for holder in found.holders.iter().take(MAX_OWNERS) {
            if let Ok(at) = self.now.binary_search_by_key(&holder.pid, |process| process.pid)
                && self.now[at].start_ticks == holder.facts.start_ticks
            {
                listed.entry(at).or_insert("accelerator");
            }
        }
        let shares = if tick.is_due(SHARES_EVERY) { self.pss(&listed) } else { BTreeMap::new() };
        for (at, top_by) in &listed {
            let process = &self.now[*at];
            let pss = shares.get(&process.pid).copied();
            self.append(process, top_by, holder_of(process), is_seldom, pss, rows);
        }
        self.append_others(&listed, rows);
        Ok(())
    }
}

/// What is kept of a process from tick to tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: u32,
    name: [u8; MAX_NAME],
    name_length: u8,
    state: u8,
    is_kernel_thread: bool,
    parent_pid: Option<i64>,
    major_faults: Option<u64>,
    /// User and system time.
    cpu_ticks: u64,
    threads: Option<i64>,
    start_ticks: i64,
    virtual_bytes: Option<u64>,
    resident_pages: u64,
}

impl Process {
    fn new(pid: u32, stat: &Stat<'_>) -> Self {
        let mut name = [0; MAX_NAME];
        let mut name_length = 0;
        for (slot, byte) in name.iter_mut().zip(stat.name) {
            *slot = *byte;
            name_length += 1;
        }
        Self {
            pid,
            name,
            name_length,
            state: stat.state,
            is_kernel_thread: stat.flags & KERNEL_THREAD != 0,
            parent_pid: stat.parent_pid,
            major_faults: stat.major_faults,
            cpu_ticks: stat.cpu_ticks,
            threads: stat.threads,
            start_ticks: stat.start_ticks,
            virtual_bytes: stat.virtual_bytes,
            resident_pages: stat.resident_pages,
        }
    }

    fn name(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.name.get(..usize::from(self.name_length)).unwrap_or_default())
    }
}

/// The process of that number among those sorted by it.
fn find(processes: &[Process], pid: u32) -> Option<&Process> {
    let at = processes.binary_search_by_key(&pid, |process| process.pid).ok()?;
    processes.get(at)
}

/// Reads a small file whole into `buffer`.
fn read(mut file: &File, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.resize(2048, 0);
    // `stat` is made in one piece, and one line is far shorter.
    let length = file.read(buffer)?;
    buffer.truncate(length);
    Ok(())
}

fn state_word(state: u8) -> &'static str {
    STATES.iter().find(|(letter, _)| *letter == state).map_or("unknown", |(_, word)| word)
}

/// The first number after `key` at the beginning of a line.
fn parse_number(text: &str, key: &str) -> Option<i64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// `Pss:  1234 kB`
fn parse_pss(text: &str) -> Option<u64> {
    u64::try_from(parse_number(text, "Pss:")?).ok()?.checked_mul(1024)
}

/// How many files a process holds open. The kernel's own directory tells it as its size since Linux 6.2; else the
/// entries are counted, if they may be listed, which only the owner and root may do.
fn open_files(directory: &Path, is_procfs: bool, may_list: bool) -> Option<i64> {
    if is_procfs
        && let Ok(metadata) = fs::metadata(directory)
        && metadata.len() > 0
    {
        return i64::try_from(metadata.len()).ok();
    }
    if !may_list {
        return None;
    }
    i64::try_from(fs::read_dir(directory).ok()?.count()).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow_array::RecordBatch;
    use arrow_array::cast::AsArray;
    use arrow_array::types::TimestampMicrosecondType;
    use nodescope_model::catalogue::Catalogue;
    use nodescope_model::rows::Stamp;
    use proptest::prelude::*;

    use super::*;
    use crate::allocations::holders::tests as holders;
    use crate::probes::testing::{fixture_options, floats, ints, sample_at, sample_once, texts};

    /// Those that are listed, without the others.
    fn listed(batch: &RecordBatch) -> Vec<Option<i64>> {
        ints(batch, "pid").into_iter().filter(|pid| *pid != Some(-1)).collect()
    }

    fn sample(probe: &mut ProcessProbe) -> RecordBatch {
        let mut rows = Rows::new(Catalogue::built_in().get("process").unwrap());
        probe.sample(&Tick { ts_micros: 10_000_000, first: false }, &mut rows).unwrap();
        rows.finish(&Stamp { ts_micros: 10_000_000, node: "n", host: "h" })
    }

    #[test]
    fn the_recorded_processes_are_ranked_and_read() {
        let options = ProbeOptions { top_processes: 2, ..fixture_options() };
        let mut probe = ProcessProbe::new(&options);
        let batch = sample_once(&mut probe);
        // By CPU: the trainer (4242) and systemd (1); by memory: the trainer and the pause container's (977).
        let found: BTreeMap<i64, usize> =
            ints(&batch, "pid").into_iter().enumerate().map(|(at, pid)| (pid.unwrap(), at)).collect();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [-1, 1, 977, 4242]);
        let (init, pause, trainer) = (found[&1], found[&977], found[&4242]);
        let by = texts(&batch, "top_by");
        assert_eq!((by[init], by[pause], by[trainer]), (Some("cpu"), Some("memory"), Some("both")));
        let others = found[&-1];
        assert_eq!(by[others], None);
        assert_eq!((ints(&batch, "processes")[others], ints(&batch, "threads")[others]), (Some(1), Some(1)));
        assert_eq!(ints(&batch, "processes").iter().flatten().sum::<i64>(), 4, "all that there are");
        assert_eq!(texts(&batch, "unit")[init], Some("init.scope"));
        let names = texts(&batch, "name");
        assert_eq!((names[init], names[pause]), (Some("systemd"), Some("a) R (x")));
        assert_eq!(texts(&batch, "state")[trainer], Some("disk"));
        let cgroups = texts(&batch, "cgroup");
        assert_eq!(cgroups[trainer], Some("/kubepods.slice/pod1/trainer"));
        assert_eq!(cgroups[pause], Some("/docker/abc"));
        assert_eq!(ints(&batch, "uid")[trainer], Some(1001));
        assert_eq!(ints(&batch, "parent_pid")[trainer], Some(977));
        assert_eq!(ints(&batch, "threads")[trainer], Some(64));
        assert_eq!(ints(&batch, "major_faults")[trainer], Some(12));
        assert_eq!(ints(&batch, "start_ticks")[trainer], Some(90_000));
        let page = i64::try_from(probe.page_size).unwrap();
        assert_eq!(ints(&batch, "resident_bytes")[trainer], Some(500_000 * page));
        assert_eq!(ints(&batch, "virtual_bytes")[trainer], Some(80_000_000_000));
        assert_eq!(ints(&batch, "read_bytes")[trainer], Some(7_000_000));
        assert_eq!(ints(&batch, "write_bytes")[trainer], Some(4096));
        assert_eq!(ints(&batch, "read_bytes")[pause], None);
        assert_eq!(ints(&batch, "open_files")[trainer], Some(3));
        assert_eq!(ints(&batch, "open_files")[pause], None);
        let cpu = in_seconds(1_234_500, probe.ticks_per_second);
        assert_eq!(floats(&batch, "cpu_seconds")[trainer], Some(cpu));
        let started = batch.column_by_name("started").unwrap().as_primitive::<TimestampMicrosecondType>();
        let per_second = i64::try_from(probe.ticks_per_second).unwrap();
        assert_eq!(started.value(trainer), probe.booted.unwrap() + 90_000 * 1_000_000 / per_second);
    }

    #[test]
    fn the_busiest_are_those_of_the_last_interval_and_a_number_used_again_is_another_process() {
        let directory = tempfile::tempdir().unwrap();
        let write = |pid: u32, start: u32, ticks: u32| {
            let process = directory.path().join("proc").join(pid.to_string());
            fs::create_dir_all(&process).unwrap();
            let line = format!("{pid} (p{pid}) S 1 0 0 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 {start} 0 0");
            fs::write(process.join("stat"), line).unwrap();
        };
        let root = HostRoot::new(directory.path());
        let mut probe = ProcessProbe::new(&ProbeOptions { root, top_processes: 1, ..fixture_options() });
        write(10, 5, 1000);
        write(11, 6, 10);
        assert_eq!(listed(&sample(&mut probe)), [Some(10)], "most since their start");
        write(11, 6, 40);
        assert_eq!(listed(&sample(&mut probe)), [Some(11)], "most since the tick before");
        assert!(listed(&sample(&mut probe)).is_empty(), "nobody did anything, and nobody holds memory");
        write(10, 700, 3);
        write(11, 6, 41);
        assert_eq!(listed(&sample(&mut probe)), [Some(10)], "another process of the same number, all of it new");
        fs::remove_dir_all(directory.path().join("proc/10")).unwrap();
        write(11, 6, 42);
        assert_eq!(listed(&sample(&mut probe)), [Some(11)]);
        assert_eq!(probe.now.len(), 1, "those that ended are forgotten");
    }

    #[test]
    fn this_process_is_found_with_its_open_files() {
        let options = ProbeOptions { root: HostRoot::new("/"), top_processes: 1_000_000, ..fixture_options() };
        let mut probe = ProcessProbe::new(&options);
        let batch = sample_once(&mut probe);
        let me = i64::from(std::process::id());
        let at = ints(&batch, "pid").iter().position(|pid| *pid == Some(me)).unwrap();
        assert!(ints(&batch, "open_files")[at].unwrap() > 0);
        assert!(ints(&batch, "resident_bytes")[at].unwrap() > 0);
        assert!(ints(&batch, "uid")[at].is_some());
    }

    #[test]
    fn a_clock_that_is_set_sets_the_times_of_starts() {
        let directory = tempfile::tempdir().unwrap();
        let process = directory.path().join("proc/10");
        fs::create_dir_all(&process).unwrap();
        fs::write(process.join("stat"), "10 (p) S 1 0 0 0 -1 0 0 0 0 0 7 0 0 0 20 0 1 0 0 5000 20").unwrap();
        let mut probe = ProcessProbe::new(&ProbeOptions { root: HostRoot::new(directory.path()), ..fixture_options() });
        for (btime, started) in [(36_000, 36_000), (36_003, 36_000), (7_200, 7_200)] {
            fs::write(directory.path().join("proc/stat"), format!("cpu 1\nbtime {btime}\n")).unwrap();
            let batch = sample_once(&mut probe);
            let times = batch.column_by_name("started").unwrap().as_primitive::<TimestampMicrosecondType>();
            assert_eq!(times.value(0), started * 1_000_000);
        }
    }

    #[test]
    fn many_open_files_are_listed_seldom() {
        let directory = tempfile::tempdir().unwrap();
        let process = directory.path().join("proc/10");
        fs::create_dir_all(process.join("fd/3")).unwrap();
        fs::write(process.join("stat"), "10 (p) S 1 0 0 0 -1 0 0 0 0 0 7 0 0 0 20 0 1 0 1 5000 20").unwrap();
        let mut probe = ProcessProbe::new(&ProbeOptions { root: HostRoot::new(directory.path()), ..fixture_options() });
        for (room, then, at_the_minute) in [(256, Some(1), Some(1)), (8192, None, Some(1)), (65_536, None, None)] {
            fs::write(process.join("status"), format!("Uid:\t1\t1\t1\t1\nFDSize:\t{room}\n")).unwrap();
            assert_eq!(ints(&sample(&mut probe), "open_files")[0], then, "{room}");
            assert_eq!(ints(&sample_once(&mut probe), "open_files")[0], at_the_minute, "{room}");
        }
    }

    #[test]
    fn a_root_without_processes_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        let mut probe = ProcessProbe::new(&ProbeOptions { root, ..fixture_options() });
        let mut rows = Rows::new(Catalogue::built_in().get("process").unwrap());
        let error = probe.sample(&Tick { ts_micros: 0, first: true }, &mut rows).unwrap_err();
        assert!(matches!(error, ProbeError::Read { .. }), "{error}");
    }

    #[test]
    fn owners_of_accelerators_are_listed_though_they_use_little() {
        let directory = tempfile::tempdir().unwrap();
        let root = holders::host(directory.path());
        let id = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d";
        holders::process(&root, 10, &format!("/docker/{id}"), &["/dev/nvidia-uvm", "/dev/nvidia0"]);
        holders::process(&root, 11, "/", &[]);
        let mut probe = ProcessProbe::new(&ProbeOptions { root, top_processes: 0, ..fixture_options() });
        let batch = sample(&mut probe);
        assert_eq!(ints(&batch, "pid"), [Some(10), Some(-1)]);
        assert_eq!(texts(&batch, "top_by"), [Some("accelerator"), None]);
        assert_eq!(ints(&batch, "accelerators"), [Some(1), None]);
        assert_eq!(texts(&batch, "container")[0], Some(id));
    }

    #[test]
    fn threads_of_the_kernel_are_read_once_a_minute() {
        let directory = tempfile::tempdir().unwrap();
        let process = directory.path().join("proc/2");
        fs::create_dir_all(&process).unwrap();
        let write = |ticks: u32| {
            let line = format!("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 {ticks} 0 0 0 20 0 1 0 20 0 0 0");
            fs::write(process.join("stat"), line).unwrap();
        };
        write(5);
        let root = HostRoot::new(directory.path());
        let mut probe = ProcessProbe::new(&ProbeOptions { root, top_processes: 1, ..fixture_options() });
        let mut at =
            |seconds: i64| listed(&sample_at(&mut probe, &Tick { ts_micros: seconds * 1_000_000, first: false }));
        assert_eq!(at(10), [Some(2)], "new");
        write(6);
        assert!(at(20).is_empty());
        assert_eq!(at(60), [Some(2)]);
        fs::remove_dir_all(&process).unwrap();
        assert!(at(70).is_empty());
        assert!(probe.now.is_empty());
    }

    #[test]
    fn a_process_that_hangs_costs_only_the_shares() {
        let directory = tempfile::tempdir().unwrap();
        let process = directory.path().join("proc/10");
        fs::create_dir_all(&process).unwrap();
        fs::write(process.join("stat"), "10 (p) S 1 0 0 0 -1 0 0 0 0 0 7 0 0 0 20 0 1 0 1 5000 20").unwrap();
        // Who opens a pipe waits for whoever writes to it.
        let (pipe, file) = (process.join("smaps_rollup"), process.join("kept"));
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        fs::write(&file, "Pss:  12 kB\n").unwrap();
        let mut probe = ProcessProbe::new(&ProbeOptions { root: HostRoot::new(directory.path()), ..fixture_options() });
        let mut pss = || ints(&sample_once(&mut probe), "proportional_bytes")[0];
        assert_eq!(pss(), None);
        let since = Instant::now();
        assert_eq!(pss(), None);
        assert!(since.elapsed() < PSS_PATIENCE, "it is not waited for again");
        drop(fs::OpenOptions::new().write(true).open(&pipe).unwrap());
        fs::rename(&file, &pipe).unwrap();
        let found = (0..100).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            pss()
        });
        assert_eq!(found, Some(12 * 1024));
    }

    #[test]
    fn a_share_of_memory_is_read() {
        assert_eq!(parse_pss("Rss:  20 kB\nPss:      12 kB\nPss_Anon: 5 kB\n"), Some(12 * 1024));
        assert_eq!(parse_pss("Pss: -1 kB"), None);
        assert_eq!(state_word(b'?'), "unknown");
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(bytes in any::<Vec<u8>>(), text in any::<String>(), key in "[a-z:]{0,9}") {
            parse_stat(&bytes).map(|stat| Process::new(1, &stat));
            parse_number(&text, &key);
            parse_pss(&text);
        }

        #[test]
        fn any_name_is_given_back(name in "[^\u{0}]{0,20}") {
            let line = format!("7 ({name}) R 1 0 0 0 -1 0 0 0 3 0 4 5 0 0 20 0 2 0 6 8 9");
            let process = Process::new(7, &parse_stat(line.as_bytes()).unwrap());
            if name.len() <= MAX_NAME {
                prop_assert_eq!(process.name(), name);
            }
        }
    }
}
