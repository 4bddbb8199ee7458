//! The kernel as a whole: load, tasks, interrupts, pressure, limits.
//!
//! These are numbers of which a host has one. Most come from `/proc/stat`, the rest from files of a line or two.
//!
//! Pressure says how long work waited for a resource: `some` counts time in which at least one task waited, `full`
//! time in which every task that had work did. We take the running totals only. A query can average a total over any
//! window, but nobody can un-average an average. `full` of the CPU is left out: for a whole machine it is always 0.
//!
//! `/proc/schedstat` is added up over the CPUs. Its lines on scheduling domains, the greater part of it, are passed
//! over.

use nodescope_model::rows::Rows;

use super::in_seconds;
use crate::host_root::{FileReader, first_word};
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};

/// The kinds of software interrupt in the order of `/proc/stat`, their total first.
const SOFTIRQS: [&str; 11] = [
    "softirqs",
    "softirqs_hi",
    "softirqs_timer",
    "softirqs_net_tx",
    "softirqs_net_rx",
    "softirqs_block",
    "softirqs_block_iopoll",
    "softirqs_tasklet",
    "softirqs_sched",
    "softirqs_hrtimer",
    "softirqs_rcu",
];

/// Fills the table `system`.
pub struct SystemProbe {
    stat: FileReader,
    loadavg: FileReader,
    uptime: FileReader,
    schedstat: FileReader,
    pressure_cpu: FileReader,
    pressure_memory: FileReader,
    pressure_io: FileReader,
    pressure_irq: FileReader,
    threads_max: FileReader,
    pid_max: FileReader,
    file_nr: FileReader,
    entropy_available: FileReader,
    entropy_pool_size: FileReader,
}

impl SystemProbe {
    /// Reads nothing yet.
    pub fn new(options: &ProbeOptions) -> Self {
        let open = |file: &str| FileReader::new(options.root.proc(file));
        Self {
            stat: open("stat"),
            loadavg: open("loadavg"),
            uptime: open("uptime"),
            schedstat: open("schedstat"),
            pressure_cpu: open("pressure/cpu"),
            pressure_memory: open("pressure/memory"),
            pressure_io: open("pressure/io"),
            pressure_irq: open("pressure/irq"),
            threads_max: open("sys/kernel/threads-max"),
            pid_max: open("sys/kernel/pid_max"),
            file_nr: open("sys/fs/file-nr"),
            entropy_available: open("sys/kernel/random/entropy_avail"),
            entropy_pool_size: open("sys/kernel/random/poolsize"),
        }
    }
}

impl Probe for SystemProbe {
    fn table(&self) -> &'static str {
        "system"
    }

    fn sample(&mut self, _tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let stat = parse_stat(self.stat.read()?);
        let mut row = rows.begin();
        row.count("interrupts", stat.interrupts)
            .count("context_switches", stat.context_switches)
            .count("boot_time_seconds", stat.boot_time)
            .count("forks", stat.forks)
            .count("procs_running", stat.running)
            .count("procs_blocked", stat.blocked);
        for (column, count) in SOFTIRQS.iter().zip(stat.softirqs) {
            row.count(column, count);
        }

        let load = self.loadavg.read_if_there().map(parse_loadavg).unwrap_or_default();
        row.float("load1", load.averages[0])
            .float("load5", load.averages[1])
            .float("load15", load.averages[2])
            .count("threads", load.threads)
            .count("threads_max", self.threads_max.number())
            .count("pid_max", self.pid_max.number())
            .float("uptime_seconds", self.uptime.read_if_there().and_then(first_word::<f64>));

        let pressure = |file: &mut FileReader| file.read_if_there().map(parse_pressure).unwrap_or_default();
        row.float("pressure_cpu_some_seconds", pressure(&mut self.pressure_cpu).some_seconds);
        let memory = pressure(&mut self.pressure_memory);
        row.float("pressure_memory_some_seconds", memory.some_seconds)
            .float("pressure_memory_full_seconds", memory.full_seconds);
        let io = pressure(&mut self.pressure_io);
        row.float("pressure_io_some_seconds", io.some_seconds).float("pressure_io_full_seconds", io.full_seconds);
        row.float("pressure_irq_full_seconds", pressure(&mut self.pressure_irq).full_seconds);

        let sched = self.schedstat.read_if_there().and_then(parse_schedstat);
        row.float("sched_running_seconds", sched.map(|s| in_seconds(s.running_nanos, NANOS)))
            .float("sched_waiting_seconds", sched.map(|s| in_seconds(s.waiting_nanos, NANOS)))
            .count("sched_timeslices", sched.map(|s| s.timeslices));

        let [open, _, max] = self.file_nr.read_if_there().map(parse_file_nr).unwrap_or_default();
        row.count("file_descriptors", open)
            .count("file_descriptors_max", max)
            .count("entropy_available_bits", self.entropy_available.number())
            .count("entropy_pool_size_bits", self.entropy_pool_size.number());
        Ok(())
    }
}

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;

#[derive(Debug, Default, PartialEq, Eq)]
struct Stat {
    interrupts: Option<u64>,
    context_switches: Option<u64>,
    boot_time: Option<u64>,
    forks: Option<u64>,
    running: Option<u64>,
    blocked: Option<u64>,
    softirqs: [Option<u64>; SOFTIRQS.len()],
}

/// `/proc/stat` without its lines on CPUs. The line on interrupts has thousands of numbers on a large host; the first
/// is their sum.
fn parse_stat(text: &str) -> Stat {
    let mut stat = Stat::default();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(' ') else { continue };
        match name {
            "intr" => stat.interrupts = first_word(rest),
            "ctxt" => stat.context_switches = first_word(rest),
            "btime" => stat.boot_time = first_word(rest),
            "processes" => stat.forks = first_word(rest),
            "procs_running" => stat.running = first_word(rest),
            "procs_blocked" => stat.blocked = first_word(rest),
            "softirq" => {
                let mut numbers = rest.split_ascii_whitespace();
                stat.softirqs = std::array::from_fn(|_| numbers.next().and_then(|n| n.parse().ok()));
            }
            _ => {}
        }
    }
    stat
}

#[derive(Debug, Default, PartialEq)]
struct Load {
    averages: [Option<f64>; 3],
    threads: Option<u64>,
}

/// `4.50 2.25 1.00 3/1204 99123`: averages, tasks running / threads there are, and the newest process id.
fn parse_loadavg(text: &str) -> Load {
    let mut words = text.split_ascii_whitespace();
    let averages: [Option<f64>; 3] = std::array::from_fn(|_| words.next().and_then(|w| w.parse().ok()));
    let threads = words.next().and_then(|w| w.split_once('/')).and_then(|(_, threads)| threads.parse().ok());
    Load { averages, threads }
}

#[derive(Debug, Default, PartialEq)]
struct Pressure {
    some_seconds: Option<f64>,
    full_seconds: Option<f64>,
}

/// `some avg10=0.12 avg60=0.10 avg300=0.02 total=123456`, in microseconds, and such a line beginning with `full`.
fn parse_pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next();
        let total: Option<u64> = words.find_map(|w| w.strip_prefix("total=")).and_then(|t| t.parse().ok());
        let seconds = total.map(|micros| in_seconds(micros, MICROS));
        match kind {
            Some("some") => pressure.some_seconds = seconds,
            Some("full") => pressure.full_seconds = seconds,
            _ => {}
        }
    }
    pressure
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sched {
    running_nanos: u64,
    waiting_nanos: u64,
    timeslices: u64,
}

/// The last three numbers of each `cpuN` line, added up. `None` where no line has them.
fn parse_schedstat(text: &str) -> Option<Sched> {
    let mut sum: Option<Sched> = None;
    for line in text.lines().filter(|line| line.starts_with("cpu")) {
        let mut numbers = line.split_ascii_whitespace().skip(7).map(str::parse::<u64>);
        let (Some(Ok(running)), Some(Ok(waiting)), Some(Ok(timeslices))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            continue;
        };
        let sum = sum.get_or_insert_default();
        sum.running_nanos = sum.running_nanos.saturating_add(running);
        sum.waiting_nanos = sum.waiting_nanos.saturating_add(waiting);
        sum.timeslices = sum.timeslices.saturating_add(timeslices);
    }
    sum
}

/// `1234 0 9223372036854775807`, with tabs: files open, files free (always 0), most there may be.
fn parse_file_nr(text: &str) -> [Option<u64>; 3] {
    let mut words = text.split_ascii_whitespace();
    std::array::from_fn(|_| words.next().and_then(|w| w.parse().ok()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{fixture_options, floats, garbage, ints, sample_once};

    #[test]
    fn the_busy_host() {
        let batch = sample_once(&mut SystemProbe::new(&fixture_options()));
        assert_eq!(batch.num_rows(), 1);
        let counts = [
            ("interrupts", Some(18_812_345_678)),
            ("context_switches", Some(40_123_456_789)),
            ("boot_time_seconds", Some(1_699_950_000)),
            ("forks", Some(3_141_592)),
            ("procs_running", Some(5)),
            ("procs_blocked", Some(2)),
            ("softirqs", Some(9_000_000_055)),
            ("softirqs_hi", Some(1)),
            ("softirqs_net_rx", Some(4)),
            ("softirqs_rcu", Some(10)),
            ("threads", Some(1_204)),
            ("threads_max", Some(4_121_958)),
            ("pid_max", Some(4_194_304)),
            ("sched_timeslices", Some(1_000_010)),
            ("file_descriptors", Some(18_432)),
            ("file_descriptors_max", Some(i64::MAX)),
            ("entropy_available_bits", Some(256)),
            ("entropy_pool_size_bits", Some(256)),
        ];
        for (column, expected) in counts {
            assert_eq!(ints(&batch, column), [expected], "{column}");
        }
        let levels = [
            ("load1", Some(4.5)),
            ("load5", Some(2.25)),
            ("load15", Some(1.0)),
            ("uptime_seconds", Some(50_000.25)),
            ("pressure_cpu_some_seconds", Some(812.345_678)),
            ("pressure_memory_some_seconds", Some(1.5)),
            ("pressure_memory_full_seconds", Some(0.25)),
            ("pressure_io_some_seconds", Some(97.5)),
            ("pressure_io_full_seconds", Some(60.0)),
            ("pressure_irq_full_seconds", None),
            ("sched_running_seconds", Some(10.0)),
            ("sched_waiting_seconds", Some(2.5)),
        ];
        for (column, expected) in levels {
            assert_eq!(floats(&batch, column), [expected], "{column}");
        }
    }

    #[test]
    fn an_old_kernel_says_less() {
        let stat = parse_stat("cpu  1 2 3\nintr 7\nsoftirq 9 1\nprocesses many\n");
        assert_eq!((stat.interrupts, stat.context_switches, stat.forks), (Some(7), None, None));
        assert_eq!(stat.softirqs[..3], [Some(9), Some(1), None]);
        assert_eq!(parse_schedstat("version 15\ntimestamp 5\ncpu0 0 0\n"), None);
        assert_eq!(parse_loadavg("0.5"), Load { averages: [Some(0.5), None, None], threads: None });
        assert_eq!(parse_file_nr("12"), [Some(12), None, None]);
    }

    #[test]
    fn pressure_is_its_total() {
        let parsed = parse_pressure("full avg10=1.00 avg60=2.00 avg300=3.00 total=2500000\nsome avg10=0.00\n");
        assert_eq!(parsed, Pressure { some_seconds: None, full_seconds: Some(2.5) });
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            parse_stat(&text);
            parse_loadavg(&text);
            parse_pressure(&text);
            parse_schedstat(&text);
            parse_file_nr(&text);
            parse_stat(&format!("softirq {text}"));
            parse_schedstat(&format!("cpu0 {text}"));
        }
    }
}
