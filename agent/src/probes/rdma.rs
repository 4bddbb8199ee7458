//! RDMA cards: InfiniBand, RoCE and iWARP.
//!
//! Their traffic goes past the kernel's network, and `/sys/class/net` does not count it. `/sys/class/infiniband` has a
//! folder for each device and port, with a file for each value:
//!
//! - `state`, `phys_state`, `rate`: number and name, `4: ACTIVE`, `5: LinkUp`, `200 Gb/sec (4X HDR)`;
//! - `counters`: those of the InfiniBand standard. Data is counted in words of four bytes, on RoCE as well. A value the
//!   device does not have reads `N/A (no PMA)`, or cannot be read: NULL;
//! - `hw_counters`: what the driver adds, above all congestion (ECN, CNP) and losses of RoCE. They are fetched together
//!   and kept for `lifespan` milliseconds (10 by default), so that reading faster brings the same numbers and costs the
//!   device nothing.
//!
//! Names that nobody here knows go to the map `other_counters`, so that a new card is not lost.
//!
//! **Cost.** Eight ports of mlx5 are some 480 files. Each is kept open, and read with one system call into a buffer on
//! the stack; more than [`KEPT_OPEN`] are opened each time, because descriptors are few. Each file of `counters` makes the
//! driver ask the firmware: `agent.rdma_interval` makes that rarer on hosts with many virtual functions.
//!
//! Counters are the device's own since it was reset; a smaller value than before is a reset.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nodescope_model::rows::{Row, Rows};
use nodescope_service::settings::Settings;

use crate::host_root::{HostRoot, link_name, names, read_text, read_u64};
use crate::probe::{Probe, ProbeError, Tick};

/// What the probe needs to know.
#[derive(Debug, Clone)]
pub struct RdmaOptions {
    /// How often ports are read.
    pub every: Duration,
}

impl Default for RdmaOptions {
    fn default() -> Self {
        Self { every: Duration::from_secs(1) }
    }
}

impl RdmaOptions {
    /// Reads the settings.
    pub fn read(settings: &mut Settings) -> Self {
        let every = settings.duration(
            "agent.rdma_interval",
            "1s",
            "How often the counters of RDMA ports are read. Each makes the driver ask the card's firmware.",
        );
        if ![1, 2, 5, 10, 30, 60].map(Duration::from_secs).contains(&every) {
            settings
                .mistake("agent.rdma_interval: 1s, 2s, 5s, 10s, 30s or 1m, so that all intervals meet on the minute");
        }
        Self { every }
    }
}

/// A file of a counter, and its column.
struct Known {
    file: &'static str,
    column: &'static str,
    factor: u64,
}

/// Files of `counters`. The two of data count words of four bytes.
const COUNTERS: &[Known] = &[
    Known { file: "port_rcv_data", column: "rx_bytes", factor: 4 },
    Known { file: "port_xmit_data", column: "tx_bytes", factor: 4 },
    Known { file: "port_rcv_packets", column: "rx_packets", factor: 1 },
    Known { file: "port_xmit_packets", column: "tx_packets", factor: 1 },
    Known { file: "unicast_rcv_packets", column: "rx_unicast_packets", factor: 1 },
    Known { file: "unicast_xmit_packets", column: "tx_unicast_packets", factor: 1 },
    Known { file: "multicast_rcv_packets", column: "rx_multicast_packets", factor: 1 },
    Known { file: "multicast_xmit_packets", column: "tx_multicast_packets", factor: 1 },
    Known { file: "port_rcv_discards", column: "rx_discards", factor: 1 },
    Known { file: "port_xmit_discards", column: "tx_discards", factor: 1 },
    Known { file: "port_rcv_errors", column: "rx_errors", factor: 1 },
    Known { file: "port_rcv_constraint_errors", column: "rx_constraint_errors", factor: 1 },
    Known { file: "port_xmit_constraint_errors", column: "tx_constraint_errors", factor: 1 },
    Known { file: "port_rcv_remote_physical_errors", column: "rx_remote_physical_errors", factor: 1 },
    Known { file: "port_rcv_switch_relay_errors", column: "rx_switch_relay_errors", factor: 1 },
    Known { file: "port_xmit_wait", column: "tx_wait_ticks", factor: 1 },
    Known { file: "symbol_error", column: "symbol_errors", factor: 1 },
    Known { file: "link_error_recovery", column: "link_error_recoveries", factor: 1 },
    Known { file: "link_downed", column: "link_downs", factor: 1 },
    Known { file: "local_link_integrity_errors", column: "local_link_integrity_errors", factor: 1 },
    Known { file: "excessive_buffer_overrun_errors", column: "excessive_buffer_overruns", factor: 1 },
    Known { file: "VL15_dropped", column: "vl15_drops", factor: 1 },
];

/// Files of `hw_counters`, by the names of mlx5, which others have taken over.
const HARDWARE: &[Known] = &[
    Known { file: "np_cnp_sent", column: "np_cnp_sent", factor: 1 },
    Known { file: "np_ecn_marked_roce_packets", column: "np_ecn_marked_roce_packets", factor: 1 },
    Known { file: "rp_cnp_handled", column: "rp_cnp_handled", factor: 1 },
    Known { file: "rp_cnp_ignored", column: "rp_cnp_ignored", factor: 1 },
    Known { file: "out_of_buffer", column: "out_of_buffer", factor: 1 },
    Known { file: "out_of_sequence", column: "out_of_sequence", factor: 1 },
    Known { file: "packet_seq_err", column: "packet_sequence_errors", factor: 1 },
    Known { file: "rnr_nak_retry_err", column: "rnr_nak_retries", factor: 1 },
    Known { file: "local_ack_timeout_err", column: "local_ack_timeouts", factor: 1 },
    Known { file: "implied_nak_seq_err", column: "implied_nak_sequence_errors", factor: 1 },
    Known { file: "duplicate_request", column: "duplicate_requests", factor: 1 },
    Known { file: "roce_adp_retrans", column: "roce_adaptive_retransmissions", factor: 1 },
    Known { file: "roce_adp_retrans_to", column: "roce_adaptive_retransmission_timeouts", factor: 1 },
    Known { file: "roce_slow_restart", column: "roce_slow_restarts_used", factor: 1 },
    Known { file: "roce_slow_restart_cnps", column: "roce_slow_restart_cnps", factor: 1 },
    Known { file: "roce_slow_restart_trans", column: "roce_slow_restarts", factor: 1 },
    Known { file: "rx_icrc_encapsulated", column: "rx_icrc_errors", factor: 1 },
    Known { file: "req_cqe_error", column: "requester_cqe_errors", factor: 1 },
    Known { file: "req_cqe_flush_error", column: "requester_cqe_flush_errors", factor: 1 },
    Known { file: "req_remote_access_errors", column: "requester_remote_access_errors", factor: 1 },
    Known { file: "req_remote_invalid_request", column: "requester_remote_invalid_requests", factor: 1 },
    Known { file: "req_rnr_retries_exceeded", column: "requester_rnr_retries_exceeded", factor: 1 },
    Known { file: "resp_cqe_error", column: "responder_cqe_errors", factor: 1 },
    Known { file: "resp_cqe_flush_error", column: "responder_cqe_flush_errors", factor: 1 },
    Known { file: "resp_local_length_error", column: "responder_local_length_errors", factor: 1 },
    Known { file: "resp_remote_access_errors", column: "responder_remote_access_errors", factor: 1 },
    Known { file: "resp_rnr_nak", column: "responder_rnr_naks", factor: 1 },
    Known { file: "rx_read_requests", column: "rx_read_requests", factor: 1 },
    Known { file: "rx_write_requests", column: "rx_write_requests", factor: 1 },
    Known { file: "rx_atomic_requests", column: "rx_atomic_requests", factor: 1 },
    Known { file: "rx_dct_connect", column: "rx_dct_connects", factor: 1 },
];

/// Files of `hw_counters` for drivers that have no traffic in `counters`: bnxt_re, mana, efa, zxdh.
const TRAFFIC: &[Known] = &[
    Known { file: "rx_bytes", column: "rx_bytes", factor: 1 },
    Known { file: "tx_bytes", column: "tx_bytes", factor: 1 },
    Known { file: "rx_pkts", column: "rx_packets", factor: 1 },
    Known { file: "tx_pkts", column: "tx_packets", factor: 1 },
    Known { file: "rx_packets", column: "rx_packets", factor: 1 },
    Known { file: "tx_packets", column: "tx_packets", factor: 1 },
    Known { file: "rdma_rx_bytes", column: "rx_bytes", factor: 1 },
    Known { file: "rdma_tx_bytes", column: "tx_bytes", factor: 1 },
    Known { file: "rdma_rx_pkts", column: "rx_packets", factor: 1 },
    Known { file: "rdma_tx_pkts", column: "tx_packets", factor: 1 },
];

/// How often devices and ports are looked for.
const FIND_EVERY: Duration = Duration::from_secs(10);

/// How often what hardly changes is read.
const DESCRIBE_EVERY: Duration = Duration::from_secs(60);

/// Ports at the most; a card with many virtual functions has one for each.
const MAX_PORTS: usize = 256;

/// Counters of one port without a column.
const MAX_OTHERS: usize = 128;

/// Files kept open, of all ports together.
const KEPT_OPEN: usize = 512;

/// Fills the table `rdma`.
pub struct RdmaProbe {
    class: PathBuf,
    options: RdmaOptions,
    ports: Vec<Port>,
}

impl RdmaProbe {
    /// Reads nothing yet.
    pub fn new(root: &HostRoot, options: RdmaOptions) -> Self {
        Self { class: root.sys("class/infiniband"), options, ports: Vec::new() }
    }

    /// Looks which ports there are; those known stay.
    fn find(&mut self) {
        let mut found = Vec::new();
        for device in names(&self.class) {
            for port in names(&self.class.join(&device).join("ports")) {
                if let Ok(number) = port.parse::<u32>() {
                    found.push((device.clone(), number));
                }
            }
        }
        found.sort();
        if found.len() > MAX_PORTS {
            tracing::warn!(ports = found.len(), read = MAX_PORTS, "more RDMA ports than are read");
            found.truncate(MAX_PORTS);
        }
        if self.ports.iter().map(|port| (&port.device, port.number)).eq(found.iter().map(|(d, n)| (d, *n))) {
            return;
        }
        let mut open = KEPT_OPEN;
        self.ports =
            found.into_iter().map(|(device, number)| Port::find(&self.class, device, number, &mut open)).collect();
    }
}

impl Probe for RdmaProbe {
    fn table(&self) -> &'static str {
        "rdma"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        if tick.is_due(FIND_EVERY) {
            self.find();
        }
        if self.ports.is_empty() {
            return Err(ProbeError::Absent(format!("no RDMA device: {} has none", self.class.display())));
        }
        if !tick.is_due(self.options.every) {
            return Ok(());
        }
        for port in &mut self.ports {
            if tick.is_due(DESCRIBE_EVERY) {
                port.description = Description::read(&self.class.join(&port.device), &port.directory, port.number);
            }
            port.fill(&mut rows.begin());
        }
        Ok(())
    }
}

/// One port of one device.
struct Port {
    device: String,
    number: u32,
    directory: PathBuf,
    description: Description,
    state: Value,
    physical_state: Value,
    rate: Value,
    lid: Value,
    lifespan: Value,
    counters: Vec<Counter>,
    left_out: usize,
}

/// A counter that is read at every tick.
struct Counter {
    value: Value,
    name: String,
    known: Option<&'static Known>,
}

impl Port {
    fn find(class: &Path, device: String, number: u32, open: &mut usize) -> Self {
        let directory = class.join(&device).join("ports").join(number.to_string());
        let mut value = |file: PathBuf| {
            let keep = *open > 0;
            *open = open.saturating_sub(1);
            Value::new(file, keep)
        };
        let mut counters: Vec<Counter> = Vec::new();
        let mut left_out = 0;
        let mut others = 0;
        for (folder, lists) in [("counters", &[COUNTERS][..]), ("hw_counters", &[HARDWARE, TRAFFIC])] {
            let folder = directory.join(folder);
            for name in names(&folder) {
                // It is no counter, though it lies among them.
                if name == "lifespan" {
                    continue;
                }
                let known = lists.iter().flat_map(|list| list.iter()).find(|known| known.file == name);
                // What two files would fill is the first one's, which is the standard's.
                let known = known.filter(|k| !counters.iter().any(|c| c.known.is_some_and(|o| o.column == k.column)));
                if known.is_none() {
                    // The same name in both folders would be twice in the map.
                    if others == MAX_OTHERS || counters.iter().any(|c| c.known.is_none() && c.name == name) {
                        left_out += 1;
                        continue;
                    }
                    others += 1;
                }
                counters.push(Counter { value: value(folder.join(&name)), name, known });
            }
        }
        Self {
            description: Description::read(&class.join(&device), &directory, number),
            state: value(directory.join("state")),
            physical_state: value(directory.join("phys_state")),
            rate: value(directory.join("rate")),
            lid: value(directory.join("lid")),
            lifespan: value(directory.join("hw_counters/lifespan")),
            device,
            number,
            directory,
            counters,
            left_out,
        }
    }

    fn fill(&mut self, row: &mut Row<'_>) {
        let mut buffer: Buffer = [0; 64];
        row.text("device", self.device.as_str()).int("port", i64::from(self.number));
        self.description.fill(row);
        let state = self.state.read(&mut buffer).and_then(parse_state);
        row.int("state_id", state.map(|(number, _)| number))
            .text("state", state.map(|(_, name)| name))
            .bool("up", state.map(|(number, _)| number == 4));
        let state = self.physical_state.read(&mut buffer).and_then(parse_state);
        row.int("physical_state_id", state.map(|(number, _)| number))
            .text("physical_state", state.map(|(_, name)| name));
        let rate = self.rate.read(&mut buffer).map(parse_rate).unwrap_or_default();
        row.text("link_width_and_speed", rate.line)
            .count("rate_bits_per_second", rate.bits)
            .count("rate_bytes_per_second", rate.bits.map(|bits| bits / 8));
        row.count("lid", self.lid.read(&mut buffer).and_then(parse_lid));
        let lifespan = self.lifespan.read(&mut buffer).and_then(parse_count).and_then(|ms| u32::try_from(ms).ok());
        row.float("counter_lifespan_seconds", lifespan.map(|ms| f64::from(ms) / 1e3));
        let mut others: Vec<(usize, i64)> = Vec::new();
        for (at, counter) in self.counters.iter_mut().enumerate() {
            let count = counter.value.read(&mut buffer).and_then(parse_count);
            match counter.known {
                Some(known) => {
                    row.count(known.column, count.and_then(|count| count.checked_mul(known.factor)));
                }
                None => others.extend(count.and_then(|count| i64::try_from(count).ok()).map(|count| (at, count))),
            }
        }
        let name = |at: usize| self.counters.get(at).map_or("", |counter| counter.name.as_str());
        row.int_map("other_counters", others.iter().map(|(at, count)| (name(*at), *count)))
            .int("counters_left_out", i64::try_from(self.left_out).ok());
    }
}

/// What hardly changes.
#[derive(Debug, Clone, Default)]
struct Description {
    link_layer: Option<String>,
    netdev: Option<String>,
    board_id: Option<String>,
    firmware: Option<String>,
    hca_type: Option<String>,
    node_guid: Option<String>,
    driver: Option<String>,
    bus_address: Option<String>,
    numa_node: Option<u64>,
}

impl Description {
    fn read(device: &Path, port: &Path, number: u32) -> Self {
        let text = |file: &str| read_text(&device.join(file));
        Self {
            link_layer: read_text(&port.join("link_layer")),
            netdev: read_text(&port.join("gid_attrs/ndevs/0")).or_else(|| interface_of(device, number)),
            board_id: text("board_id"),
            firmware: text("fw_ver"),
            hca_type: text("hca_type"),
            node_guid: text("node_guid"),
            driver: link_name(&device.join("device/driver")),
            bus_address: link_name(&device.join("device")),
            numa_node: read_u64(&device.join("device/numa_node")),
        }
    }

    fn fill(&self, row: &mut Row<'_>) {
        row.text("link_layer", self.link_layer.as_deref())
            .text("netdev", self.netdev.as_deref())
            .text("board_id", self.board_id.as_deref())
            .text("firmware", self.firmware.as_deref())
            .text("hca_type", self.hca_type.as_deref())
            .text("node_guid", self.node_guid.as_deref())
            .text("driver", self.driver.as_deref())
            .text("bus_address", self.bus_address.as_deref())
            .count("numa_node", self.numa_node);
    }
}

/// The interface of an InfiniBand port: of those of the same device, the one of the same port, counted there from 0.
fn interface_of(device: &Path, number: u32) -> Option<String> {
    let directory = device.join("device/net");
    let interfaces = names(&directory);
    let is_of_port = |name: &&String| read_u64(&directory.join(name).join("dev_port")) == Some(u64::from(number) - 1);
    if number == 0 {
        return None;
    }
    interfaces.iter().find(is_of_port).cloned()
}

/// Room for what one file says.
type Buffer = [u8; 64];

/// A small file that is read at every tick.
struct Value {
    path: PathBuf,
    file: Option<File>,
    is_kept: bool,
}

impl Value {
    fn new(path: PathBuf, is_kept: bool) -> Self {
        Self { path, file: None, is_kept }
    }

    /// What the file says now. After an error it is opened anew at the next tick.
    fn read<'b>(&mut self, buffer: &'b mut Buffer) -> Option<&'b str> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path).ok()?,
        };
        let length = file.read_at(buffer, 0).ok()?;
        if self.is_kept {
            self.file = Some(file);
        }
        std::str::from_utf8(buffer.get(..length)?).ok()
    }
}

/// A counter; `N/A (no PMA)` and the like are none.
fn parse_count(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// `4: ACTIVE`.
fn parse_state(text: &str) -> Option<(i64, &str)> {
    let (number, name) = text.split_once(':')?;
    let name = name.trim();
    let number: u8 = number.trim().parse().ok()?;
    (!name.is_empty()).then_some((i64::from(number), name))
}

/// A line's speed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rate<'t> {
    bits: Option<u64>,
    line: Option<&'t str>,
}

/// `200 Gb/sec (4X HDR)`, `2.5 Gb/sec (1X SDR)`.
fn parse_rate(text: &str) -> Rate<'_> {
    let mut words = text.split_ascii_whitespace();
    let number = words.next().unwrap_or_default();
    let bits = (words.next() == Some("Gb/sec")).then(|| in_bits(number)).flatten();
    let line = text.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(line, _)| line.trim());
    Rate { bits: bits.filter(|bits| *bits > 0), line: line.filter(|line| !line.is_empty()) }
}

/// Gigabits with at most three decimals, in bits.
fn in_bits(gigabits: &str) -> Option<u64> {
    let (whole, part) = gigabits.split_once('.').unwrap_or((gigabits, ""));
    if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: u64 = format!("{part:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1_000)?.checked_add(thousandths)?.checked_mul(1_000_000)
}

/// `0x1a`; 0 is none.
fn parse_lid(text: &str) -> Option<u64> {
    let text = text.trim();
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok().filter(|lid| *lid != 0)
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{
        FIRST_TICK, assert_sources, bools, fixture_options, floats, garbage, ints, sample_at, sample_once, texts,
    };

    fn probe() -> RdmaProbe {
        RdmaProbe::new(&fixture_options().root, RdmaOptions::default())
    }

    #[test]
    fn every_port_has_a_row() {
        let batch = sample_once(&mut probe());
        assert_eq!(texts(&batch, "device"), [Some("bnxt_re0"), Some("mlx5_0"), Some("mlx5_1")]);
        assert_eq!(ints(&batch, "port"), [Some(1); 3]);
        let cases = [
            ("link_layer", [Some("Ethernet"), Some("InfiniBand"), Some("Ethernet")]),
            ("netdev", [None, Some("ib0"), Some("eth1")]),
            ("state", [Some("ACTIVE"), Some("ACTIVE"), Some("DOWN")]),
            ("physical_state", [Some("LinkUp"), Some("LinkUp"), Some("Disabled")]),
            ("link_width_and_speed", [Some("4X EDR"), Some("4X NDR"), Some("1X SDR")]),
            ("firmware", [Some("228.0.128.0"), Some("28.39.1002"), Some("28.39.1002")]),
            ("board_id", [None, Some("MT_0000000838"), Some("MT_0000000838")]),
        ];
        for (column, expected) in cases {
            assert_eq!(texts(&batch, column), expected, "{column}");
        }
        assert_eq!(bools(&batch, "up"), [Some(true), Some(true), Some(false)]);
        assert_eq!(ints(&batch, "state_id"), [Some(4), Some(4), Some(1)]);
        assert_eq!(ints(&batch, "physical_state_id"), [Some(5), Some(5), Some(3)]);
        let gigabit = 1_000_000_000;
        assert_eq!(
            ints(&batch, "rate_bits_per_second"),
            [Some(100 * gigabit), Some(400 * gigabit), Some(2_500_000_000)]
        );
        assert_eq!(ints(&batch, "rate_bytes_per_second")[1], Some(50_000_000_000));
        assert_eq!(ints(&batch, "lid"), [None, Some(0x1a), None]);
        assert_eq!(floats(&batch, "counter_lifespan_seconds"), [Some(0.01), Some(0.01), None]);
    }

    #[test]
    fn every_counter_has_its_column() {
        let batch = sample_once(&mut probe());
        for (list, first) in [(COUNTERS, 1000), (HARDWARE, 2000)] {
            for (at, known) in list.iter().enumerate() {
                let raw = first + i64::try_from(at).unwrap();
                let expected = raw * i64::try_from(known.factor).unwrap();
                let expected = (known.column != "vl15_drops").then_some(expected);
                assert_eq!(ints(&batch, known.column)[1], expected, "{}", known.column);
                if known.column != "rx_bytes" {
                    assert_eq!(ints(&batch, known.column)[2], None, "{}: the port has no counters", known.column);
                }
            }
        }
        assert_eq!(ints(&batch, "rx_bytes"), [Some(777), Some(4000), None], "of bnxt_re the driver's count, in bytes");
        assert_sources("rdma", COUNTERS.iter().chain(HARDWARE).map(|known| (known.column, known.file)));
    }

    #[test]
    fn what_nobody_knows_goes_to_the_map() {
        let batch = sample_once(&mut probe());
        let others = batch.column_by_name("other_counters").unwrap().as_map();
        assert_eq!([0, 1, 2].map(|row| others.value_length(row)), [2, 1, 0]);
        let of_mlx5 = format!("{:?}", others.value(1));
        assert!(of_mlx5.contains("brand_new_counter") && of_mlx5.contains("31"), "{of_mlx5}");
    }

    #[test]
    fn a_host_without_cards_says_so_and_a_card_that_comes_is_found() {
        let host = tempfile::tempdir().unwrap();
        let mut probe = RdmaProbe::new(&HostRoot::new(host.path()), RdmaOptions::default());
        let mut rows = Rows::new(nodescope_model::catalogue::Catalogue::built_in().get("rdma").unwrap());
        assert!(matches!(probe.sample(&FIRST_TICK, &mut rows), Err(ProbeError::Absent(_))));
        let port = host.path().join("sys/class/infiniband/mlx5_0/ports/1");
        std::fs::create_dir_all(port.join("counters")).unwrap();
        std::fs::write(port.join("counters/port_rcv_data"), "10\n").unwrap();
        let at = |second: i64| Tick { ts_micros: FIRST_TICK.ts_micros + second * 1_000_000, first: false };
        assert_eq!(ints(&sample_at(&mut probe, &at(10)), "rx_bytes"), [Some(40)]);
        std::fs::write(port.join("counters/port_rcv_data"), "3\n").unwrap();
        assert_eq!(ints(&sample_at(&mut probe, &at(11)), "rx_bytes"), [Some(12)], "a reset is shown as it is");
        std::fs::write(port.join("counters/port_rcv_data"), "N/A (no PMA)\n").unwrap();
        assert_eq!(ints(&sample_at(&mut probe, &at(12)), "rx_bytes"), [None]);
    }

    #[test]
    fn the_interval_can_be_longer() {
        let options = RdmaOptions { every: Duration::from_secs(5) };
        let mut probe = RdmaProbe::new(&fixture_options().root, options);
        let mut rows_at = |second: i64| {
            let tick = Tick { ts_micros: FIRST_TICK.ts_micros + second * 1_000_000, first: second == 0 };
            sample_at(&mut probe, &tick).num_rows()
        };
        assert_eq!([0, 1, 4, 5, 6, 10].map(&mut rows_at), [3, 0, 0, 3, 0, 3]);
    }

    #[test]
    fn counters_without_end_are_counted_and_not_read() {
        let host = tempfile::tempdir().unwrap();
        let folder = host.path().join("sys/class/infiniband/new0/ports/1/hw_counters");
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..MAX_OTHERS + 3 {
            std::fs::write(folder.join(format!("c{number}")), "1\n").unwrap();
        }
        let batch = sample_once(&mut RdmaProbe::new(&HostRoot::new(host.path()), RdmaOptions::default()));
        assert_eq!(ints(&batch, "counters_left_out"), [Some(3)]);
    }

    #[test]
    fn rates_and_states_are_read_as_the_kernel_writes_them() {
        let cases = [
            ("200 Gb/sec (4X HDR)\n", Some(200_000_000_000), Some("4X HDR")),
            ("2.5 Gb/sec (1X SDR)", Some(2_500_000_000), Some("1X SDR")),
            ("53.125 Gb/sec (1X)", Some(53_125_000_000), Some("1X")),
            ("0 Gb/sec (4X)", None, Some("4X")),
            ("100 Mb/sec (1X)", None, Some("1X")),
            ("99999999999999999999 Gb/sec", None, None),
            ("1.2.3 Gb/sec", None, None),
            ("", None, None),
        ];
        for (text, bits, line) in cases {
            assert_eq!(parse_rate(text), Rate { bits, line }, "{text:?}");
        }
        assert_eq!(parse_state("4: ACTIVE\n"), Some((4, "ACTIVE")));
        assert_eq!(parse_state("4:"), None);
        assert_eq!(parse_state("ACTIVE"), None);
        assert_eq!(parse_count("N/A (no PMA)\n"), None);
        assert_eq!(parse_count("18446744073709551615\n"), Some(u64::MAX));
        assert_eq!((parse_lid("0x1a\n"), parse_lid("0x0"), parse_lid("26")), (Some(26), None, None));
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            parse_count(&text);
            parse_state(&text);
            parse_rate(&text);
            in_bits(&text);
            parse_lid(&text);
        }
    }
}
