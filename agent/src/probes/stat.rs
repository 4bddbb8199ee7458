//! `/proc/stat`, read once for two tables.
//!
//! The file is the dearest of those read every second: to write its line of interrupts, the kernel adds up the counts of
//! every CPU for every interrupt there is, which takes a large host a millisecond. `cpu` and `system` both come out of
//! it, and their threads are told of a tick at the same moment; so the first to come reads, and the other one takes what
//! it read.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::host_root::{FileReader, first_word};
use crate::probe::{ProbeError, ProbeOptions, Tick};

/// Modes of CPU time in the order of the file.
pub(super) const MODES: usize = 10;

/// Kinds of software interrupt in the order of the file, their total first.
pub(super) const SOFTIRQS: usize = 11;

/// Clock ticks in each mode. Old kernels know fewer modes.
pub(super) type Ticks = [Option<u64>; MODES];

/// What the file says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    /// All CPUs together.
    pub(super) all: Option<Ticks>,
    /// Each by its number, where they were asked for.
    pub(super) cpus: Vec<(u32, Ticks)>,
    pub(super) interrupts: Option<u64>,
    pub(super) context_switches: Option<u64>,
    pub(super) boot_time: Option<u64>,
    pub(super) forks: Option<u64>,
    pub(super) running: Option<u64>,
    pub(super) blocked: Option<u64>,
    pub(super) softirqs: [Option<u64>; SOFTIRQS],
}

/// The file, and what it said at the last tick. Clones are the same file.
#[derive(Debug, Clone)]
pub struct StatReader {
    shared: Arc<Mutex<Shared>>,
    per_cpu_every: Duration,
}

#[derive(Debug)]
struct Shared {
    file: FileReader,
    /// The tick it was read at, and whether single CPUs were wanted.
    read_at: Option<(i64, bool)>,
    stat: Stat,
}

impl StatReader {
    /// Reads nothing yet.
    pub fn new(options: &ProbeOptions) -> Self {
        let file = FileReader::new(options.root.proc("stat"));
        Self {
            shared: Arc::new(Mutex::new(Shared { file, read_at: None, stat: Stat::default() })),
            per_cpu_every: options.per_cpu_every,
        }
    }

    /// Whether single CPUs are due.
    pub(super) fn wants_cpus(&self, tick: &Tick) -> bool {
        tick.is_due(self.per_cpu_every)
    }

    /// What the file says at this tick.
    pub(super) fn at<T>(&self, tick: &Tick, take: impl FnOnce(&Stat) -> T) -> Result<T, ProbeError> {
        let wants_cpus = self.wants_cpus(tick);
        let mut shared = self.shared.lock();
        let Shared { file, read_at, stat } = &mut *shared;
        let is_fresh = read_at.is_some_and(|(at, had_cpus)| at == tick.ts_micros && (had_cpus || !wants_cpus));
        if !is_fresh {
            *read_at = None;
            parse_stat(file.read()?, wants_cpus, stat);
            *read_at = Some((tick.ts_micros, wants_cpus));
        }
        if stat.all.is_none() {
            let path = file.path().display().to_string();
            return Err(ProbeError::Malformed { path, what: "a first line `cpu` with numbers" });
        }
        Ok(take(stat))
    }
}

/// The line on interrupts has thousands of numbers on a large host; the first is their sum.
fn parse_stat(text: &str, wants_cpus: bool, stat: &mut Stat) {
    let mut cpus = std::mem::take(&mut stat.cpus);
    cpus.clear();
    *stat = Stat { cpus, ..Stat::default() };
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(' ') else { continue };
        match name {
            "cpu" => stat.all = parse_ticks(rest),
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
            other if wants_cpus => {
                let number = other.strip_prefix("cpu").and_then(|number| number.parse().ok());
                if let (Some(number), Some(ticks)) = (number, parse_ticks(rest)) {
                    stat.cpus.push((number, ticks));
                }
            }
            _ => {}
        }
    }
}

fn parse_ticks(rest: &str) -> Option<Ticks> {
    let mut numbers = rest.split_ascii_whitespace();
    let ticks: Ticks = std::array::from_fn(|_| numbers.next().and_then(|n| n.parse().ok()));
    ticks[0].map(|_| ticks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host_root::HostRoot;
    use crate::probes::testing::{FIRST_TICK, fixture_options, garbage};

    fn parse(text: &str) -> Stat {
        let mut stat = Stat { cpus: vec![(9, Ticks::default())], forks: Some(1), ..Stat::default() };
        parse_stat(text, true, &mut stat);
        stat
    }

    #[test]
    fn an_old_kernel_says_less() {
        let stat = parse("cpu  1 2 3\ncpu3 1 2 3 4 5 6 7\nintr 7\nsoftirq 9 1\nprocesses many\n");
        assert_eq!((stat.interrupts, stat.context_switches, stat.forks), (Some(7), None, None));
        assert_eq!(stat.softirqs[..3], [Some(9), Some(1), None]);
        assert_eq!(stat.all.unwrap()[..4], [Some(1), Some(2), Some(3), None]);
        assert_eq!(stat.cpus.len(), 1);
        assert_eq!(stat.cpus[0].0, 3);
        assert_eq!(stat.cpus[0].1[6..], [Some(7), None, None, None]);
        assert_eq!(parse("cpu\ncpu \ncpufreq 1 2\ncpu0 x\ncpu-1 5\n"), Stat::default());
    }

    #[test]
    fn it_is_read_once_a_tick_and_again_for_single_cpus() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proc/stat");
        std::fs::create_dir(directory.path().join("proc")).unwrap();
        let reader = StatReader::new(&ProbeOptions { root: HostRoot::new(directory.path()), ..fixture_options() });
        let at = |seconds: i64, first| Tick { ts_micros: FIRST_TICK.ts_micros + seconds * 1_000_000, first };
        let read = |text: &str, tick: Tick| {
            std::fs::write(&path, text).unwrap();
            reader.at(&tick, |stat| (stat.forks, stat.cpus.len())).ok()
        };
        assert_eq!(read("cpu  1\ncpu0 1\nprocesses 1\n", at(1, false)), Some((Some(1), 0)));
        assert_eq!(read("cpu  1\ncpu0 1\nprocesses 2\n", at(1, false)), Some((Some(1), 0)), "the same tick");
        assert_eq!(read("cpu  1\ncpu0 1\nprocesses 3\n", at(1, true)), Some((Some(3), 1)), "with single CPUs");
        assert_eq!(read("cpu  1\ncpu0 1\nprocesses 4\n", at(1, false)), Some((Some(3), 1)), "which are more");
        assert_eq!(read("intr 1\n", at(2, false)), None, "something else");
        assert_eq!(read("cpu  1\nprocesses 5\n", at(3, false)), Some((Some(5), 0)));
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            parse(&text);
            parse(&format!("cpu {text}"));
            parse(&format!("cpu0 {text}"));
            parse(&format!("softirq {text}"));
        }
    }
}
