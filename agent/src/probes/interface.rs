//! Network interfaces: whether they are up, and what went through them.
//!
//! `/proc/net/dev` has a line of sixteen counters for each interface. The rest is below `/sys/class/net`, a file for
//! each value. State, signal and the count of its changes are read at every tick. What changes only with the line
//! itself (speed, duplex, the halves of that count) is read when the count has changed, and with the interface's other
//! properties every ten seconds: speed and duplex make the kernel ask the driver under a lock that all configuration of
//! the network takes, and nobody should do that every second on a host with hundreds of interfaces.
//!
//! A counter belongs to the interface as it is now: it begins at 0 when a driver makes the interface anew. Counters of
//! single drivers (ethtool) and optics are another subject.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nodescope_model::rows::{Row, Rows};

use crate::host_root::{FileReader, HostRoot, link_name, read_bool, read_text, read_u64};
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};

/// Columns in the order of `/proc/net/dev`.
const COUNTERS: [&str; 16] = [
    "rx_bytes",
    "rx_packets",
    "rx_errors",
    "rx_drops",
    "rx_fifo_errors",
    "rx_frame_errors",
    "rx_compressed",
    "rx_multicast",
    "tx_bytes",
    "tx_packets",
    "tx_errors",
    "tx_drops",
    "tx_fifo_errors",
    "tx_collisions",
    "tx_carrier_errors",
    "tx_compressed",
];

/// How often the properties of an interface are read though nothing seems to have changed.
const DESCRIBE_EVERY: Duration = Duration::from_secs(10);

/// Fills the table `interface`.
pub struct InterfaceProbe {
    root: HostRoot,
    dev: FileReader,
    interfaces: BTreeMap<String, Interface>,
}

impl InterfaceProbe {
    /// Reads nothing yet.
    pub fn new(options: &ProbeOptions) -> Self {
        Self {
            root: options.root.clone(),
            dev: FileReader::new(options.root.proc("net/dev")),
            interfaces: BTreeMap::new(),
        }
    }
}

impl Probe for InterfaceProbe {
    fn table(&self) -> &'static str {
        "interface"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        if tick.is_due(DESCRIBE_EVERY) {
            self.interfaces.clear();
        }
        for (name, counters) in self.dev.read()?.lines().filter_map(parse_line) {
            let interface = self.interfaces.entry(name.to_owned()).or_insert_with(|| Interface::find(&self.root, name));
            let mut row = rows.begin();
            row.text("interface", name);
            interface.fill(&mut row);
            for (column, count) in COUNTERS.iter().zip(counters) {
                row.count(column, count);
            }
        }
        Ok(())
    }
}

/// What is known of an interface beside its counters.
struct Interface {
    directory: PathBuf,
    carrier_changes: Option<u64>,
    properties: Properties,
}

impl Interface {
    fn find(root: &HostRoot, name: &str) -> Self {
        let directory = root.sys("class/net").join(name);
        Self {
            carrier_changes: read_u64(&directory.join("carrier_changes")),
            properties: Properties::read(&directory),
            directory,
        }
    }

    fn fill(&mut self, row: &mut Row<'_>) {
        let changes = read_u64(&self.directory.join("carrier_changes"));
        if changes != self.carrier_changes {
            self.carrier_changes = changes;
            self.properties = Properties::read(&self.directory);
        }
        let operstate = read_text(&self.directory.join("operstate"));
        row.text("operstate", operstate.as_deref())
            .bool("up", operstate.as_deref().map(|state| state == "up"))
            .bool("carrier", read_bool(&self.directory.join("carrier")))
            .count("carrier_changes", changes);
        self.properties.fill(row);
    }
}

/// What hardly changes unless the signal comes or goes.
struct Properties {
    address: Option<String>,
    driver: Option<String>,
    master: Option<String>,
    duplex: Option<String>,
    megabits: Option<u64>,
    mtu: Option<u64>,
    carrier_up: Option<u64>,
    carrier_down: Option<u64>,
}

impl Properties {
    fn read(directory: &Path) -> Self {
        Self {
            address: read_text(&directory.join("address")),
            driver: link_name(&directory.join("device/driver")),
            master: link_name(&directory.join("master")),
            duplex: read_text(&directory.join("duplex")).filter(|duplex| duplex != "unknown"),
            megabits: read_u64(&directory.join("speed")).filter(|megabits| is_speed(*megabits)),
            mtu: read_u64(&directory.join("mtu")),
            carrier_up: read_u64(&directory.join("carrier_up_count")),
            carrier_down: read_u64(&directory.join("carrier_down_count")),
        }
    }

    fn fill(&self, row: &mut Row<'_>) {
        row.text("address", self.address.as_deref())
            .text("driver", self.driver.as_deref())
            .text("master", self.master.as_deref())
            .text("duplex", self.duplex.as_deref())
            .count("speed_bits_per_second", self.megabits.and_then(|m| m.checked_mul(1_000_000)))
            .count("speed_bytes_per_second", self.megabits.and_then(|m| m.checked_mul(125_000)))
            .count("mtu_bytes", self.mtu)
            .count("carrier_up_changes", self.carrier_up)
            .count("carrier_down_changes", self.carrier_down);
    }
}

/// "Unknown" is -1, which some kernels write without its sign, in 16 or in 32 bits.
fn is_speed(megabits: u64) -> bool {
    megabits != u64::from(u16::MAX) && megabits != u64::from(u32::MAX)
}

/// `  eth0: 1 2 3 …`. The two lines of headings have no colon.
fn parse_line(line: &str) -> Option<(&str, [Option<u64>; COUNTERS.len()])> {
    let (name, rest) = line.split_once(':')?;
    let name = name.trim();
    // A name becomes part of a path below.
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return None;
    }
    let mut words = rest.split_ascii_whitespace();
    Some((name, std::array::from_fn(|_| words.next().and_then(|w| w.parse().ok()))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{
        FIRST_TICK, bools, fixture_options, garbage, ints, row_of, sample_at, sample_once, texts,
    };

    #[test]
    fn every_interface_has_a_row() {
        let batch = sample_once(&mut InterfaceProbe::new(&fixture_options()));
        assert_eq!(texts(&batch, "interface"), [Some("lo"), Some("eth0"), Some("eth1"), Some("bond0")]);
        let cases = [
            (
                "address",
                [
                    Some("00:00:00:00:00:00"),
                    Some("b8:ce:f6:0a:1b:2c"),
                    Some("b8:ce:f6:0a:1b:2d"),
                    Some("b8:ce:f6:0a:1b:2c"),
                ],
            ),
            ("driver", [None, Some("mlx5_core"), Some("mlx5_core"), None]),
            ("master", [None, Some("bond0"), Some("bond0"), None]),
            ("operstate", [Some("unknown"), Some("up"), Some("down"), Some("up")]),
            ("duplex", [None, Some("full"), None, Some("full")]),
        ];
        for (column, expected) in cases {
            assert_eq!(texts(&batch, column), expected, "{column}");
        }
        assert_eq!(bools(&batch, "up"), [Some(false), Some(true), Some(false), Some(true)]);
        assert_eq!(bools(&batch, "carrier"), [Some(true), Some(true), None, Some(true)]);
    }

    #[test]
    fn a_speed_nobody_knows_is_unknown() {
        let batch = sample_once(&mut InterfaceProbe::new(&fixture_options()));
        let gigabits = 1_000_000_000;
        assert_eq!(ints(&batch, "speed_bits_per_second"), [None, Some(100 * gigabits), None, Some(100 * gigabits)]);
        assert_eq!(ints(&batch, "speed_bytes_per_second")[1], Some(12_500_000_000));
        for (megabits, known) in [(0, true), (10, true), (800_000, true), (65_535, false), (4_294_967_295, false)] {
            assert_eq!(is_speed(megabits), known, "{megabits}");
        }
    }

    #[test]
    fn every_counter_has_its_column() {
        let batch = sample_once(&mut InterfaceProbe::new(&fixture_options()));
        let eth0 = row_of(&batch, "interface", "eth0");
        for (at, column) in COUNTERS.iter().enumerate() {
            let expected = match *column {
                "rx_bytes" => 91_827_364_554_637,
                "tx_bytes" => 81_726_354_453_627,
                _ => i64::try_from(at).unwrap() + 101,
            };
            assert_eq!(ints(&batch, column)[eth0], Some(expected), "{column}");
        }
        assert_eq!(ints(&batch, "mtu_bytes"), [Some(65_536), Some(9_000), Some(9_000), Some(9_000)]);
        assert_eq!(ints(&batch, "carrier_changes")[eth0], Some(7));
        assert_eq!(ints(&batch, "carrier_up_changes")[eth0], Some(4));
        assert_eq!(ints(&batch, "carrier_down_changes")[eth0], Some(3));
        assert_eq!(ints(&batch, "carrier_up_changes")[0], None, "an old kernel has no such file");
    }

    #[test]
    fn speed_is_read_again_once_the_signal_has_changed() {
        let host = tempfile::tempdir().unwrap();
        let files = host.path().join("sys/class/net/eth0");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::create_dir_all(host.path().join("proc/net")).unwrap();
        std::fs::write(host.path().join("proc/net/dev"), "Inter-|\n face |\n  eth0: 1 2 3\n").unwrap();
        let set = |changes: &str, speed: &str| {
            std::fs::write(files.join("carrier_changes"), changes).unwrap();
            std::fs::write(files.join("speed"), speed).unwrap();
        };
        let options = ProbeOptions { root: HostRoot::new(host.path()), ..fixture_options() };
        let mut probe = InterfaceProbe::new(&options);
        let mut gigabits_at = |second: i64, first: bool| {
            let tick = Tick { ts_micros: FIRST_TICK.ts_micros + second * 1_000_000, first };
            ints(&sample_at(&mut probe, &tick), "speed_bits_per_second")[0].map(|bits| bits / 1_000_000_000)
        };
        set("2\n", "25000\n");
        assert_eq!(gigabits_at(0, true), Some(25));
        set("2\n", "10000\n");
        assert_eq!(gigabits_at(1, false), Some(25));
        set("4\n", "100000\n");
        assert_eq!(gigabits_at(2, false), Some(100));
        set("4\n", "-1\n");
        assert_eq!(gigabits_at(10, false), None);
    }

    #[test]
    fn lines_that_are_no_interface_are_passed_over() {
        for line in ["", "Inter-|   Receive", ": 1 2", "../../etc: 1", "..: 1"] {
            assert!(parse_line(line).is_none(), "{line:?}");
        }
        let (name, counters) = parse_line("eth0:1 x 3").unwrap();
        assert_eq!((name, &counters[..4]), ("eth0", &[Some(1), None, Some(3), None][..]));
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            for line in text.lines() {
                parse_line(line);
            }
            parse_line(&format!("eth0:{text}"));
        }
    }
}
