//! The kernel as a whole: load, tasks, interrupts, pressure, limits, and its clock.
//!
//! These are numbers of which a host has one. Most come from `/proc/stat`, which `stat` reads for two tables, the rest
//! from files of a line or two. Limits that an administrator sets, the time zone and the clock's source are looked up
//! every minute and told in every row.
//!
//! Pressure says how long work waited for a resource: `some` counts time in which at least one task waited, `full`
//! time in which every task that had work did. We take the running totals only. A query can average a total over any
//! window, but nobody can un-average an average. `full` of the CPU is left out: for a whole machine it is always 0.
//!
//! The clock is asked with a call and belongs to the kernel, not to a namespace. The time zone is the agent's own, so it
//! is told only where the agent's root is the host's.

use std::time::Duration;

use nodescope_model::rows::{Row, Rows};
use rustix::time::{ClockId, clock_gettime};

use super::in_seconds;
use super::stat::{SOFTIRQS, StatReader};
use crate::abi::clock;
use crate::host_root::{FileReader, HostRoot, first_word, read_text, read_u64};
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};

/// Columns in the order of `/proc/stat`.
const SOFTIRQ_COLUMNS: [&str; SOFTIRQS] = [
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

/// How often it is looked up what hardly changes.
const SETTLED_EVERY: Duration = Duration::from_secs(60);

/// Fills the table `system`.
pub struct SystemProbe {
    root: HostRoot,
    stat: StatReader,
    loadavg: FileReader,
    uptime: FileReader,
    pressure_cpu: FileReader,
    pressure_memory: FileReader,
    pressure_io: FileReader,
    pressure_irq: FileReader,
    file_nr: FileReader,
    entropy_available: FileReader,
    settled: Settled,
}

/// What hardly changes.
#[derive(Debug, Default)]
struct Settled {
    threads_max: Option<u64>,
    pid_max: Option<u64>,
    entropy_pool_size: Option<u64>,
    clock_source: Option<String>,
    time_zone: Option<(String, i64)>,
    is_this_machine: bool,
}

impl Settled {
    fn read(root: &HostRoot, tick: &Tick) -> Self {
        Self {
            threads_max: read_u64(&root.proc("sys/kernel/threads-max")),
            pid_max: read_u64(&root.proc("sys/kernel/pid_max")),
            entropy_pool_size: read_u64(&root.proc("sys/kernel/random/poolsize")),
            clock_source: read_text(&root.sys("devices/system/clocksource/clocksource0/current_clocksource")),
            time_zone: root.is_real().then(|| clock::zone_at(tick.ts_micros.div_euclid(1_000_000))).flatten(),
            is_this_machine: root.is_this_machine(),
        }
    }
}

impl SystemProbe {
    /// Reads nothing yet.
    pub fn new(options: &ProbeOptions) -> Self {
        Self::with(options, StatReader::new(options))
    }

    /// The same, with a reader of `/proc/stat` that others use too.
    pub fn with(options: &ProbeOptions, stat: StatReader) -> Self {
        let open = |file: &str| FileReader::new(options.root.proc(file));
        Self {
            root: options.root.clone(),
            stat,
            loadavg: open("loadavg"),
            uptime: open("uptime"),
            pressure_cpu: open("pressure/cpu"),
            pressure_memory: open("pressure/memory"),
            pressure_io: open("pressure/io"),
            pressure_irq: open("pressure/irq"),
            file_nr: open("sys/fs/file-nr"),
            entropy_available: open("sys/kernel/random/entropy_avail"),
            settled: Settled::default(),
        }
    }
}

impl Probe for SystemProbe {
    fn table(&self) -> &'static str {
        "system"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        if tick.is_due(SETTLED_EVERY) {
            self.settled = Settled::read(&self.root, tick);
        }
        let mut row = self.stat.at(tick, |stat| {
            let mut row = rows.begin();
            row.count("interrupts", stat.interrupts)
                .count("context_switches", stat.context_switches)
                .count("boot_time_seconds", stat.boot_time)
                .count("forks", stat.forks)
                .count("procs_running", stat.running)
                .count("procs_blocked", stat.blocked);
            for (column, count) in SOFTIRQ_COLUMNS.iter().zip(stat.softirqs) {
                row.count(column, count);
            }
            row
        })?;

        let load = self.loadavg.read_if_there().map(parse_loadavg).unwrap_or_default();
        row.float("load1", load.averages[0])
            .float("load5", load.averages[1])
            .float("load15", load.averages[2])
            .count("threads", load.threads)
            .count("threads_max", self.settled.threads_max)
            .count("pid_max", self.settled.pid_max)
            .float(
                "uptime_seconds",
                match self.settled.is_this_machine {
                    true => Some(uptime_seconds()),
                    false => self.uptime.read_if_there().and_then(first_word::<f64>),
                },
            );

        let pressure = |file: &mut FileReader| file.read_if_there().map(parse_pressure).unwrap_or_default();
        row.float("pressure_cpu_some_seconds", pressure(&mut self.pressure_cpu).some_seconds);
        let memory = pressure(&mut self.pressure_memory);
        row.float("pressure_memory_some_seconds", memory.some_seconds)
            .float("pressure_memory_full_seconds", memory.full_seconds);
        let io = pressure(&mut self.pressure_io);
        row.float("pressure_io_some_seconds", io.some_seconds).float("pressure_io_full_seconds", io.full_seconds);
        row.float("pressure_irq_full_seconds", pressure(&mut self.pressure_irq).full_seconds);

        let [open, _, max] = self.file_nr.read_if_there().map(parse_file_nr).unwrap_or_default();
        row.count("file_descriptors", open)
            .count("file_descriptors_max", max)
            .count("entropy_available_bits", self.entropy_available.number())
            .count("entropy_pool_size_bits", self.settled.entropy_pool_size);
        row.text("clock_source", self.settled.clock_source.as_deref());
        if let Some((zone, offset)) = &self.settled.time_zone {
            row.text("time_zone", zone.as_str()).int("time_zone_offset_seconds", *offset);
        }
        if self.settled.is_this_machine
            && let Some(clock) = clock::read()
        {
            fill_clock(&mut row, &clock);
        }
        Ok(())
    }
}

/// Time since the kernel started, sleep included. The same as `/proc/uptime`, which adds up the idle time of every CPU
/// for its second number each time it is read.
#[allow(clippy::cast_precision_loss, reason = "2^53 seconds are enough")]
fn uptime_seconds() -> f64 {
    let since_boot = clock_gettime(ClockId::Boottime);
    since_boot.tv_sec as f64 + since_boot.tv_nsec as f64 / 1e9
}

fn fill_clock(row: &mut Row<'_>, clock: &clock::Clock) {
    row.bool("clock_synchronised", clock.is_synchronised)
        .int("clock_status", clock.status)
        .float("clock_offset_seconds", clock.offset_seconds)
        .float("clock_max_error_seconds", clock.max_error_seconds)
        .float("clock_estimated_error_seconds", clock.estimated_error_seconds)
        .float("clock_frequency_adjustment_ratio", clock.frequency_ratio)
        .int("clock_loop_time_constant", clock.loop_time_constant)
        .float("clock_tick_seconds", clock.tick_seconds)
        .int("clock_tai_offset_seconds", clock.tai_offset_seconds)
        .float("pulse_frequency_hertz", clock.pulse.frequency_hertz)
        .float("pulse_jitter_seconds", clock.pulse.jitter_seconds)
        .int("pulse_shift_seconds", clock.pulse.shift_seconds)
        .float("pulse_stability_hertz", clock.pulse.stability_hertz)
        .int("pulse_jitters", clock.pulse.jitters)
        .int("pulse_calibrations", clock.pulse.calibrations)
        .int("pulse_errors", clock.pulse.errors)
        .int("pulse_stability_exceeded", clock.pulse.stability_exceeded);
}

const MICROS: u64 = 1_000_000;

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

/// `1234 0 9223372036854775807`, with tabs: files open, files free (always 0), most there may be.
fn parse_file_nr(text: &str) -> [Option<u64>; 3] {
    let mut words = text.split_ascii_whitespace();
    std::array::from_fn(|_| words.next().and_then(|w| w.parse().ok()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{
        FIRST_TICK, bools, fixture_options, floats, garbage, ints, sample_at, sample_once, texts,
    };

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
        ];
        for (column, expected) in levels {
            assert_eq!(floats(&batch, column), [expected], "{column}");
        }
        assert_eq!(texts(&batch, "clock_source"), [Some("tsc")]);
        // Another machine's kernel cannot be asked.
        assert_eq!(floats(&batch, "clock_offset_seconds"), [None]);
        assert_eq!(texts(&batch, "time_zone"), [None]);
    }

    #[test]
    fn this_machine_has_a_clock() {
        let options = ProbeOptions { root: HostRoot::new("/"), ..fixture_options() };
        let batch = sample_once(&mut SystemProbe::new(&options));
        assert!(bools(&batch, "clock_synchronised")[0].is_some());
        assert!(floats(&batch, "clock_tick_seconds")[0].is_some_and(|tick| tick > 0.0));
        assert!(ints(&batch, "time_zone_offset_seconds")[0].is_some());
        let file: f64 = first_word(&std::fs::read_to_string("/proc/uptime").unwrap()).unwrap();
        assert!(floats(&batch, "uptime_seconds")[0].is_some_and(|uptime| (file - uptime).abs() < 60.0));
    }

    #[test]
    fn limits_are_told_between_the_minutes_too() {
        let mut probe = SystemProbe::new(&fixture_options());
        sample_once(&mut probe);
        let tick = Tick { ts_micros: FIRST_TICK.ts_micros + 1_000_000, first: false };
        assert_eq!(ints(&sample_at(&mut probe, &tick), "pid_max"), [Some(4_194_304)]);
    }

    #[test]
    fn an_old_kernel_says_less() {
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
            parse_loadavg(&text);
            parse_pressure(&text);
            parse_file_nr(&text);
        }
    }
}
