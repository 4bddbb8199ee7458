//! Network interfaces: whether they are up, what went through them, what their cards and optics say.
//!
//! One dump of `RTM_GETLINK` over netlink is all that is asked at every tick: state, signal, the counts of its changes
//! and all counters of every interface, without a file for each value (see [`message`]). Where netlink does not answer,
//! and for a machine that is not this one, the same comes out of `/proc/net/dev` and `/sys/class/net`.
//!
//! What only `/sys` has is read seldom. What belongs to the interface as it was made (driver, how it got its name) once;
//! speed and duplex when the signal has come or gone, and every ten seconds: they make the kernel ask the driver under a
//! lock that all configuration of the network takes, and nobody should do that every second on a host with hundreds of
//! interfaces.
//!
//! A counter belongs to the interface as it is now: it begins at 0 when a driver makes the interface anew.
//!
//! Two tables come out of the same reading, every ten seconds: `nic`, what the driver of a real card counts and what its
//! optics measure (see [`nic`]), and `bond` (see [`bond`]).

mod bond;
mod message;
mod nic;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nodescope_model::rows::{Row, Rows};

use self::message::{Link, parse_line, parse_link};
use self::nic::Cards;
use super::{MAX_ROWS, tell_omitted};
use crate::host_root::{FileReader, HostRoot, link_name, read_bool, read_text, read_u64};
use crate::netlink::{Netlink, NetlinkError, NetlinkProtocol};
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

/// How often what `/sys` says of an interface is read though nothing seems to have changed; and how often `nic` and
/// `bond` are filled.
const DESCRIBE_EVERY: Duration = Duration::from_secs(10);

/// Fills the tables `interface`, `nic` and `bond`.
pub struct InterfaceProbe {
    root: HostRoot,
    dev: FileReader,
    netlink: Option<Netlink>,
    links: Vec<Link>,
    interfaces: BTreeMap<String, Interface>,
    cards: Cards,
}

impl InterfaceProbe {
    /// Reads nothing yet.
    pub fn new(options: &ProbeOptions) -> Self {
        let is_here = options.root.is_this_machine();
        Self {
            root: options.root.clone(),
            dev: FileReader::new(options.root.proc("net/dev")),
            netlink: is_here.then(|| Netlink::open(NetlinkProtocol::Route).ok()).flatten(),
            links: Vec::new(),
            interfaces: BTreeMap::new(),
            cards: Cards::new(is_here),
        }
    }

    /// Fills `links` from files.
    fn read_files(&mut self) -> Result<(), ProbeError> {
        for (name, counters) in self.dev.read()?.lines().filter_map(parse_line) {
            let mut link = read_link(&self.root.sys("class/net").join(name));
            name.clone_into(&mut link.name);
            link.counters.dev = counters;
            self.links.push(link);
        }
        Ok(())
    }
}

/// Fills `links` from the kernel.
fn ask_kernel(netlink: &mut Netlink, links: &mut Vec<Link>) -> Result<(), NetlinkError> {
    netlink.dump(message::RTM_GETLINK, &[0; message::INFO], |header, body| {
        if header.message_type == message::RTM_NEWLINK {
            links.extend(parse_link(body));
        }
    })?;
    // An interface that came while the kernel was at it may be there twice.
    links.sort_by(|a, b| a.name.cmp(&b.name));
    links.dedup_by(|a, b| a.name == b.name);
    if links.iter().any(|link| link.master_index.is_some()) {
        let names: BTreeMap<u64, String> =
            links.iter().filter_map(|link| Some((link.index?, link.name.clone()))).collect();
        for link in links {
            link.master = link.master_index.and_then(|index| names.get(&index).cloned());
        }
    }
    Ok(())
}

impl Probe for InterfaceProbe {
    fn table(&self) -> &'static str {
        "interface"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        self.links.clear();
        let answered = self.netlink.as_mut().is_some_and(|netlink| {
            let answer = ask_kernel(netlink, &mut self.links);
            if let Err(error) = &answer {
                tracing::debug!(%error, "interfaces are read from files");
            }
            answer.is_ok()
        });
        if !answered {
            self.links.clear();
            self.read_files()?;
        }
        let omitted = self.links.len().saturating_sub(MAX_ROWS);
        self.links.truncate(MAX_ROWS);
        let is_described = tick.is_due(DESCRIBE_EVERY);
        // Those that went; rarely looked for.
        if self.interfaces.len() > self.links.len() || is_described {
            let there: BTreeSet<&str> = self.links.iter().map(|link| link.name.as_str()).collect();
            self.interfaces.retain(|name, _| there.contains(name.as_str()));
        }
        for link in &self.links {
            let found = match self.interfaces.get_mut(&link.name) {
                Some(found) if found.index == link.index => found,
                _ => {
                    let found = Interface::find(self.root.sys("class/net").join(&link.name), link);
                    self.interfaces.entry(link.name.clone()).insert_entry(found).into_mut()
                }
            };
            if found.carrier_changes != link.carrier_changes || is_described && !tick.first {
                found.carrier_changes = link.carrier_changes;
                found.line = Line::read(&found.directory);
            }
            let mut row = rows.begin();
            fill(&mut row, link);
            found.fill(&mut row);
        }
        tell_omitted(rows, "interface", omitted);
        Ok(())
    }

    fn beside(&self) -> &'static [&'static str] {
        &["nic", "bond"]
    }

    fn sample_beside(&mut self, tick: &Tick, tables: &mut [Rows]) {
        let cards = || self.interfaces.iter().filter(|(_, found)| found.properties.is_card);
        self.cards.measure(tick, &cards().map(|(name, found)| (name.as_str(), found.carrier_changes)));
        if !tick.is_due(DESCRIBE_EVERY) {
            return;
        }
        let [nics, bonds, ..] = tables else { return };
        for (name, found) in cards() {
            self.cards.fill(name, found.properties.driver.as_deref(), nics);
        }
        bond::fill(&self.root, bonds);
    }
}

fn fill(row: &mut Row<'_>, link: &Link) {
    let operstate = link.operstate.as_deref();
    row.text("interface", link.name.as_str())
        .text("address", link.address.as_deref())
        .text("master", link.master.as_deref())
        .text("alias", link.alias.as_deref())
        .text("alternative_names", link.alternative_names.as_deref())
        .text("kind", link.kind.as_deref())
        .text("operstate", operstate)
        .bool("up", operstate.map(|state| state == "up"))
        .bool("admin_up", link.flags.map(|flags| flags & u64::from(message::IFF_UP) != 0))
        .bool("carrier", link.carrier)
        .bool("dormant", link.dormant)
        .count("mtu_bytes", link.mtu)
        .count("flags", link.flags)
        .count("interface_index", link.index)
        .count("link_index", link.link_index)
        .count("link_mode", link.link_mode)
        .count("hardware_type", link.hardware_type)
        .count("device_group", link.group)
        .count("transmit_queue_length", link.queue_length)
        .count("carrier_changes", link.carrier_changes)
        .count("carrier_up_changes", link.carrier_up)
        .count("carrier_down_changes", link.carrier_down)
        .count("rx_nohandler", link.counters.unhandled)
        .count("rx_missed_errors", link.counters.missed)
        .count("rx_crc_errors", link.counters.checksum);
    for (column, count) in COUNTERS.iter().zip(link.counters.dev) {
        row.count(column, count);
    }
}

/// What files say of an interface, its counters of `/proc/net/dev` apart.
fn read_link(directory: &Path) -> Link {
    let hexadecimal = |file: &str| {
        let text = read_text(&directory.join(file))?;
        u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    let number = |file: &str| read_u64(&directory.join(file));
    let mut link = Link {
        index: number("ifindex"),
        hardware_type: number("type"),
        flags: hexadecimal("flags"),
        address: read_text(&directory.join("address")),
        alias: read_text(&directory.join("ifalias")),
        mtu: number("mtu"),
        link_index: number("iflink"),
        master: link_name(&directory.join("master")),
        queue_length: number("tx_queue_len"),
        operstate: read_text(&directory.join("operstate")),
        link_mode: number("link_mode"),
        group: number("netdev_group"),
        dormant: read_bool(&directory.join("dormant")),
        carrier: read_bool(&directory.join("carrier")),
        carrier_changes: number("carrier_changes"),
        carrier_up: number("carrier_up_count"),
        carrier_down: number("carrier_down_count"),
        ..Link::default()
    };
    link.counters.unhandled = number("statistics/rx_nohandler");
    link.counters.missed = number("statistics/rx_missed_errors");
    link.counters.checksum = number("statistics/rx_crc_errors");
    link
}

/// What is known of an interface beside what every tick says.
struct Interface {
    index: Option<u64>,
    directory: PathBuf,
    carrier_changes: Option<u64>,
    properties: Properties,
    line: Line,
}

impl Interface {
    fn find(directory: PathBuf, link: &Link) -> Self {
        Self {
            index: link.index,
            carrier_changes: link.carrier_changes,
            properties: Properties::read(&directory),
            line: Line::read(&directory),
            directory,
        }
    }

    fn fill(&self, row: &mut Row<'_>) {
        let Properties { driver, device_id, address_assign_type, name_assign_type, .. } = &self.properties;
        let Line { duplex, megabits } = &self.line;
        row.text("driver", driver.as_deref())
            .count("device_id", *device_id)
            .count("address_assign_type", *address_assign_type)
            .count("name_assign_type", *name_assign_type)
            .text("duplex", duplex.as_deref())
            .count("speed_bits_per_second", megabits.and_then(|m| m.checked_mul(1_000_000)))
            .count("speed_bytes_per_second", megabits.and_then(|m| m.checked_mul(125_000)));
    }
}

/// What an interface is made with.
struct Properties {
    driver: Option<String>,
    device_id: Option<u64>,
    address_assign_type: Option<u64>,
    name_assign_type: Option<u64>,
    /// There is hardware behind it, be it a virtual function of one.
    is_card: bool,
}

impl Properties {
    fn read(directory: &Path) -> Self {
        let device_id = read_text(&directory.join("dev_id"));
        Self {
            driver: link_name(&directory.join("device/driver")),
            device_id: device_id.and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()),
            address_assign_type: read_u64(&directory.join("addr_assign_type")),
            name_assign_type: read_u64(&directory.join("name_assign_type")),
            is_card: directory.join("device").exists(),
        }
    }
}

/// What is agreed with the other side of the line.
struct Line {
    duplex: Option<String>,
    megabits: Option<u64>,
}

impl Line {
    fn read(directory: &Path) -> Self {
        Self {
            duplex: read_text(&directory.join("duplex")).filter(|duplex| duplex != "unknown"),
            megabits: read_u64(&directory.join("speed")).filter(|megabits| is_speed(*megabits)),
        }
    }
}

/// "Unknown" is -1, which some kernels write without its sign, in 16 or in 32 bits.
fn is_speed(megabits: u64) -> bool {
    megabits != u64::from(u16::MAX) && megabits != u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::testing::{FIRST_TICK, bools, fixture_options, ints, row_of, sample_at, sample_once, texts};

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
    fn cards_and_bonds_come_beside_every_ten_seconds() {
        let catalogue = nodescope_model::catalogue::Catalogue::built_in();
        let rows_of = |table: &str| Rows::new(catalogue.get(table).unwrap());
        let mut probe = InterfaceProbe::new(&fixture_options());
        for (second, expected) in [(0, [2, 1]), (1, [0, 0]), (10, [2, 1])] {
            let mut own = rows_of("interface");
            let mut beside: Vec<Rows> = probe.beside().iter().map(|table| rows_of(table)).collect();
            let tick = Tick { ts_micros: FIRST_TICK.ts_micros + second * 1_000_000, first: second == 0 };
            probe.sample(&tick, &mut own).unwrap();
            probe.sample_beside(&tick, &mut beside);
            assert_eq!([beside[0].len(), beside[1].len()], expected, "second {second}");
            assert_eq!(own.len(), 4);
        }
    }

    #[test]
    fn an_interface_that_went_is_forgotten_and_one_made_anew_is_described_anew() {
        let host = tempfile::tempdir().unwrap();
        let class = host.path().join("sys/class/net");
        std::fs::create_dir_all(host.path().join("proc/net")).unwrap();
        let set = |name: &str, index: &str, speed: &str| {
            std::fs::create_dir_all(class.join(name)).unwrap();
            std::fs::write(class.join(name).join("ifindex"), index).unwrap();
            std::fs::write(class.join(name).join("speed"), speed).unwrap();
            std::fs::write(host.path().join("proc/net/dev"), format!("{name}: 1\n")).unwrap();
        };
        let options = ProbeOptions { root: HostRoot::new(host.path()), ..fixture_options() };
        let mut probe = InterfaceProbe::new(&options);
        let mut speed_at = |second: i64| {
            let tick = Tick { ts_micros: FIRST_TICK.ts_micros + second * 1_000_000, first: second == 0 };
            let speed = ints(&sample_at(&mut probe, &tick), "speed_bytes_per_second")[0];
            (speed.map(|bytes| bytes / 125_000), probe.interfaces.len())
        };
        set("a", "2\n", "1000\n");
        assert_eq!(speed_at(0), (Some(1000), 1));
        set("a", "3\n", "2500\n");
        assert_eq!(speed_at(1), (Some(2500), 1), "the same name, another interface");
        set("b", "4\n", "10\n");
        assert_eq!(speed_at(2).0, Some(10));
        assert_eq!(speed_at(3), (Some(10), 1));
    }

    #[test]
    fn what_the_fixture_lacks_is_null() {
        let batch = sample_once(&mut InterfaceProbe::new(&fixture_options()));
        for column in ["flags", "interface_index", "rx_nohandler", "device_group"] {
            assert!(ints(&batch, column).iter().all(Option::is_none), "{column}");
        }
    }

    #[test]
    fn the_kernel_and_its_files_agree() {
        let options = ProbeOptions { root: HostRoot::new("/"), ..fixture_options() };
        let mut asked = InterfaceProbe::new(&options);
        assert!(asked.netlink.is_some());
        let mut read = InterfaceProbe { netlink: None, ..InterfaceProbe::new(&options) };
        let (asked, read) = (sample_once(&mut asked), sample_once(&mut read));
        let lo = (row_of(&asked, "interface", "lo"), row_of(&read, "interface", "lo"));
        let unchanging = ["flags", "interface_index", "link_index", "mtu_bytes", "hardware_type", "device_group"];
        let more = ["link_mode", "transmit_queue_length", "address_assign_type", "carrier_changes", "device_id"];
        for column in unchanging.iter().chain(&more) {
            assert_eq!(ints(&asked, column)[lo.0], ints(&read, column)[lo.1], "{column}");
        }
        for column in ["address", "operstate", "duplex", "driver"] {
            assert_eq!(texts(&asked, column)[lo.0], texts(&read, column)[lo.1], "{column}");
        }
        for column in ["up", "carrier", "dormant"] {
            assert_eq!(bools(&asked, column)[lo.0], bools(&read, column)[lo.1], "{column}");
        }
        for column in COUNTERS.iter().chain(&["rx_nohandler", "rx_missed_errors", "rx_crc_errors"]) {
            assert!(ints(&asked, column)[lo.0].is_some(), "{column}");
            assert!(ints(&asked, column)[lo.0] <= ints(&read, column)[lo.1], "{column}");
        }
    }
}
