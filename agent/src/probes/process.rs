//! `process`: the processes that use most CPU, and those that hold most memory.
//!
//! `/proc/PID/stat` has in one line nearly all that the table shows, so it is read for every process, and the ranking
//! is made from it. User, control group, storage traffic and open files lie in files of their own and are read for
//! the chosen few only. Storage traffic is shown to the owner and to root; for others it is NULL.
//!
//! Command lines and environments are never read: people pass passwords in them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use nodescope_model::rows::Rows;

use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};
use crate::probes::in_seconds;

/// Fills the table `process`.
pub struct ProcessProbe {
    root: HostRoot,
    /// How many to list by CPU, and again by memory.
    top: usize,
    /// CPU time at the tick before, by process.
    cpu_before: HashMap<Identity, u64>,
    /// The bytes of one file, kept to be used again.
    buffer: Vec<u8>,
    /// When the kernel started, microseconds since 1970. Read once, so that `started` does not waver with the clock.
    booted: Option<i64>,
    ticks_per_second: u64,
    page_size: u64,
    /// Whether `/proc` is the kernel's own, which tells the number of open files without listing them.
    is_procfs: bool,
}

/// A process number and the start of its process, in ticks after boot: numbers are used again.
type Identity = (u32, i64);

impl ProcessProbe {
    /// A probe of the processes below `options.root`.
    pub fn new(options: &ProbeOptions) -> Self {
        let is_procfs =
            rustix::fs::statfs(options.root.proc("")).is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC);
        Self {
            root: options.root.clone(),
            top: options.top_processes,
            cpu_before: HashMap::new(),
            buffer: Vec::with_capacity(4096),
            booted: None,
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
            page_size: rustix::param::page_size() as u64,
            is_procfs,
        }
    }

    /// All processes, as their `stat` shows them.
    fn processes(&mut self) -> Result<Vec<Process>, ProbeError> {
        let directory = self.root.proc("");
        let entries = fs::read_dir(&directory)
            .map_err(|source| ProbeError::Read { path: directory.display().to_string(), source })?;
        let mut processes = Vec::with_capacity(self.cpu_before.len());
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process may end at any moment; one that cannot be read has ended.
            if read(&entry.path().join("stat"), &mut self.buffer).is_ok()
                && let Some(process) = parse_stat(pid, &self.buffer)
            {
                processes.push(process);
            }
        }
        Ok(processes)
    }

    /// Appends the row of one process.
    fn append(&self, process: &Process, top_by: &'static str, rows: &mut Rows) {
        let directory = self.root.proc(process.pid.to_string());
        let text =
            |file: &str| String::from_utf8_lossy(&fs::read(directory.join(file)).unwrap_or_default()).into_owned();
        let (status, cgroup, io) = (text("status"), text("cgroup"), text("io"));
        rows.begin()
            .int("pid", i64::from(process.pid))
            .int("start_ticks", process.start_ticks)
            .text("name", process.name.as_str())
            .int("parent_pid", process.parent_pid)
            .int("uid", parse_effective_uid(&status))
            .text("cgroup", parse_cgroup(&cgroup))
            .timestamp("started", self.started(process.start_ticks))
            .text("top_by", top_by)
            .text("state", state_word(&process.state))
            .float("cpu_seconds", in_seconds(process.cpu_ticks, self.ticks_per_second))
            .count("resident_bytes", process.resident_pages.checked_mul(self.page_size))
            .count("virtual_bytes", process.virtual_bytes)
            .int("threads", process.threads)
            .count("major_faults", process.major_faults)
            .int("read_bytes", parse_number(&io, "read_bytes:"))
            .int("write_bytes", parse_number(&io, "write_bytes:"))
            .int("open_files", open_files(&directory.join("fd"), self.is_procfs));
    }

    /// When a process started, microseconds since 1970.
    fn started(&self, start_ticks: i64) -> Option<i64> {
        let per_second = i64::try_from(self.ticks_per_second).ok()?;
        self.booted?.checked_add(start_ticks.checked_mul(1_000_000)? / per_second)
    }
}

impl Probe for ProcessProbe {
    fn table(&self) -> &'static str {
        "process"
    }

    fn sample(&mut self, _tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        if self.booted.is_none() {
            let stat = fs::read_to_string(self.root.proc("stat")).unwrap_or_default();
            self.booted = parse_number(&stat, "btime").and_then(|seconds| seconds.checked_mul(1_000_000));
        }
        let processes = self.processes()?;
        // One that was not there before has used all its CPU time since. So have all, at the first tick.
        let used = |process: &Process| {
            process.cpu_ticks.saturating_sub(self.cpu_before.get(&process.identity()).copied().unwrap_or(0))
        };
        let mut listed: BTreeMap<usize, &'static str> = BTreeMap::new();
        for at in top(&processes, self.top, used) {
            listed.insert(at, "cpu");
        }
        for at in top(&processes, self.top, |process| process.resident_pages) {
            listed.entry(at).and_modify(|by| *by = "both").or_insert("memory");
        }
        for (at, top_by) in listed {
            self.append(&processes[at], top_by, rows);
        }
        self.cpu_before = processes.iter().map(|process| (process.identity(), process.cpu_ticks)).collect();
        Ok(())
    }
}

/// What `stat` says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: u32,
    name: String,
    state: String,
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
    fn identity(&self) -> Identity {
        (self.pid, self.start_ticks)
    }
}

/// Reads a small file whole into `buffer`.
fn read(path: &Path, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    File::open(path)?.read_to_end(buffer).map(|_| ())
}

/// One line: the number, the name in parentheses, and many fields. The name may hold spaces, parentheses and line
/// ends, so what counts is the first parenthesis and the last.
fn parse_stat(pid: u32, bytes: &[u8]) -> Option<Process> {
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let name = String::from_utf8_lossy(bytes.get(open + 1..close)?).into_owned();
    let fields: Vec<&str> = str::from_utf8(&bytes[close + 1..]).ok()?.split_ascii_whitespace().collect();
    let signed = |at: usize| fields.get(at).and_then(|field| field.parse::<i64>().ok());
    let unsigned = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    // proc(5) counts fields from 1 and the name is the second: its field n is ours n - 3.
    Some(Process {
        pid,
        name,
        state: (*fields.first()?).to_owned(),
        parent_pid: signed(1),
        major_faults: unsigned(9),
        cpu_ticks: unsigned(11)?.saturating_add(unsigned(12)?),
        threads: signed(17),
        start_ticks: signed(19)?,
        virtual_bytes: unsigned(20),
        resident_pages: unsigned(21)?,
    })
}

/// Places of the `count` processes of which `measure` is largest. One that measures nothing is never among them.
fn top(processes: &[Process], count: usize, measure: impl Fn(&Process) -> u64) -> Vec<usize> {
    let mut order: Vec<(Reverse<u64>, u32, usize)> = processes
        .iter()
        .enumerate()
        .map(|(at, process)| (Reverse(measure(process)), process.pid, at))
        .filter(|(measure, _, _)| measure.0 > 0)
        .collect();
    order.sort_unstable();
    order.truncate(count);
    order.into_iter().map(|(_, _, at)| at).collect()
}

fn state_word(state: &str) -> &str {
    match state {
        "R" => "running",
        "S" => "sleeping",
        "D" => "disk",
        "T" => "stopped",
        "t" => "traced",
        "Z" => "zombie",
        "X" | "x" => "dead",
        "I" => "idle",
        other => other,
    }
}

/// The first number after `key` at the beginning of a line.
fn parse_number(text: &str, key: &str) -> Option<i64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// `Uid: real effective saved file-system`
fn parse_effective_uid(status: &str) -> Option<i64> {
    let rest = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The path that says most: that of the one hierarchy (`0::/path`), or, where control groups of the first version
/// are in use and that one is empty, the longest of theirs (`4:memory:/path`).
fn parse_cgroup(text: &str) -> Option<&str> {
    let mut unified = text.lines().filter_map(|line| line.strip_prefix("0::"));
    let any = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    unified.find(|path| path.len() > 1).or_else(|| any.max_by_key(|path| path.len()))
}

/// How many files a process holds open. The kernel's own directory tells it as its size since Linux 6.2; else the
/// entries are counted, which only the owner and root may do.
fn open_files(directory: &Path, is_procfs: bool) -> Option<i64> {
    if is_procfs
        && let Ok(metadata) = fs::metadata(directory)
        && metadata.len() > 0
    {
        return i64::try_from(metadata.len()).ok();
    }
    i64::try_from(fs::read_dir(directory).ok()?.count()).ok()
}

#[cfg(test)]
mod tests {
    use arrow_array::RecordBatch;
    use arrow_array::cast::AsArray;
    use arrow_array::types::TimestampMicrosecondType;
    use nodescope_model::catalogue::Catalogue;
    use nodescope_model::rows::Stamp;
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{fixture_options, floats, ints, sample_once, texts};

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
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [1, 977, 4242]);
        let (init, pause, trainer) = (found[&1], found[&977], found[&4242]);
        let by = texts(&batch, "top_by");
        assert_eq!((by[init], by[pause], by[trainer]), (Some("cpu"), Some("memory"), Some("both")));
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
        assert_eq!(ints(&sample(&mut probe), "pid"), [Some(10)], "most since their start");
        write(11, 6, 40);
        assert_eq!(ints(&sample(&mut probe), "pid"), [Some(11)], "most since the tick before");
        assert!(ints(&sample(&mut probe), "pid").is_empty(), "nobody did anything, and nobody holds memory");
        write(10, 700, 3);
        write(11, 6, 41);
        assert_eq!(ints(&sample(&mut probe), "pid"), [Some(10)], "another process of the same number, all of it new");
        fs::remove_dir_all(directory.path().join("proc/10")).unwrap();
        write(11, 6, 42);
        assert_eq!(ints(&sample(&mut probe), "pid"), [Some(11)]);
        assert_eq!(probe.cpu_before.len(), 1, "those that ended are forgotten");
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
    fn a_root_without_processes_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        let mut probe = ProcessProbe::new(&ProbeOptions { root, ..fixture_options() });
        let mut rows = Rows::new(Catalogue::built_in().get("process").unwrap());
        let error = probe.sample(&Tick { ts_micros: 0, first: true }, &mut rows).unwrap_err();
        assert!(matches!(error, ProbeError::Read { .. }), "{error}");
    }

    #[test]
    fn control_groups_of_both_versions_are_named() {
        let cases = [
            ("0::/system.slice/sshd.service\n", Some("/system.slice/sshd.service")),
            ("0::/\n", Some("/")),
            ("12:cpu:/a\n4:memory:/docker/abc\n0::/\n", Some("/docker/abc")),
            ("1:name=systemd:/a:b\n", Some("/a:b")),
            ("nonsense", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse_cgroup(text), wanted, "{text}");
        }
    }

    #[test]
    fn broken_lines_are_no_processes() {
        for text in [
            "",
            "1",
            "1 (a",
            "1 a) S",
            "1 )a( S 1",
            "1 (a) S 1 2 3",
            "1 (a) S 1 0 0 0 -1 0 0 0 0 0 x 0 0 0 0 0 1 0 5 0 0",
        ] {
            assert_eq!(parse_stat(1, text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(bytes in any::<Vec<u8>>(), text in any::<String>(), key in "[a-z:]{0,9}") {
            parse_stat(1, &bytes);
            parse_stat(1, text.as_bytes());
            parse_cgroup(&text);
            parse_effective_uid(&text);
            parse_number(&text, &key);
        }

        #[test]
        fn any_name_is_given_back(name in "[^\u{0}]{0,20}") {
            let line = format!("7 ({name}) R 1 0 0 0 -1 0 0 0 3 0 4 5 0 0 20 0 2 0 6 8 9");
            let process = parse_stat(7, line.as_bytes()).unwrap();
            prop_assert_eq!(process.name, name);
            prop_assert_eq!((process.cpu_ticks, process.start_ticks, process.resident_pages), (9, 6, 9));
        }
    }
}
