//! Real network cards: what their drivers count, and what is plugged into them.
//!
//! **Counters.** Every driver names its own: thousands of them on a card with many queues, most of them of single queues.
//! Those that tell something are few, and go by different names for the same thing: [`classify`] knows those of mlx5,
//! mlx4, bnxt, ice, i40e, ixgbe, ena and hns3. The common ones have columns; pause frames come by priority; what only one
//! driver has, and is worth knowing, goes to the map `driver_counters` under the driver's name. Priority flow control is
//! what keeps RoCE from losing packets, and its pause frames are how one slow host stops a whole network.
//!
//! Names are asked for once; after that one call brings all values. The call makes the driver ask the card's firmware
//! under the lock that all configuration of the network takes, so it is made every ten seconds and not every second. It
//! needs no privilege.
//!
//! **Optics.** Modules measure the light they send and receive and their temperature: a fibre that is bent or dirty shows
//! there before packets are lost (see [`optics`]). Reading them goes over a bus of 100 kHz, tens of milliseconds, so each
//! tick asks one card at most and each card once a minute. It needs `CAP_NET_ADMIN`; without it those columns are NULL.

mod optics;

use std::collections::BTreeMap;

use nodescope_model::rows::{Row, Rows};

use self::optics::{Module, Optics};
use crate::abi::ethtool::{Ethtool, NAME};
use crate::netlink::u64_at;
use crate::probe::Tick;

/// How often each module is read.
const MEASURE_EVERY_MICROS: i64 = 60_000_000;

/// How often the labels of a module are read though its line has not changed.
const IDENTIFY_EVERY_MICROS: i64 = 3_600_000_000;

/// Names in `driver_counters` at the most. The list of what is wanted is shorter, but for priorities and lanes.
const MAX_OTHERS: usize = 128;

/// A counter, in our terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counter {
    /// A column of that name.
    Column(&'static str),
    /// An entry of a map by priority.
    Priority(&'static str, u8),
    /// An entry of `driver_counters`.
    Other,
}

const PFC_RX: &str = "rx_pfc_frames";
const PFC_TX: &str = "tx_pfc_frames";
const PFC_RX_TIME: &str = "rx_pfc_pause_microseconds";
const PFC_TX_TIME: &str = "tx_pfc_pause_microseconds";
const PRIORITY_MAPS: [&str; 4] = [PFC_RX, PFC_TX, PFC_RX_TIME, PFC_TX_TIME];
const PRIORITIES: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "7"];

/// What stands before and behind the number of a priority.
const BY_PRIORITY: &[(&str, &str, &str)] = &[
    // mlx5
    ("rx_prio", "_pause", PFC_RX),
    ("tx_prio", "_pause", PFC_TX),
    ("rx_prio", "_pause_duration", PFC_RX_TIME),
    ("tx_prio", "_pause_duration", PFC_TX_TIME),
    // mlx4
    ("rx_pause_prio_", "", PFC_RX),
    ("tx_pause_prio_", "", PFC_TX),
    ("rx_pause_duration_prio_", "", PFC_RX_TIME),
    ("tx_pause_duration_prio_", "", PFC_TX_TIME),
    // bnxt
    ("rx_pfc_ena_frames_pri", "", PFC_RX),
    ("tx_pfc_ena_frames_pri", "", PFC_TX),
    ("pfc_pri", "_rx_duration_us", PFC_RX_TIME),
    ("pfc_pri", "_tx_duration_us", PFC_TX_TIME),
    // ice and i40e: frames that stop (xoff); those that let go again (xon) are counted apart.
    ("rx_priority_", "_xoff", PFC_RX),
    ("tx_priority_", "_xoff", PFC_TX),
    ("rx_priority_", "_xoff_rx", PFC_RX),
    ("tx_priority_", "_xoff_tx", PFC_TX),
    // ixgbe
    ("rx_pb_", "_pxoff", PFC_RX),
    ("tx_pb_", "_pxoff", PFC_TX),
    // hns3
    ("mac_rx_pfc_pri", "_pkt_num", PFC_RX),
    ("mac_tx_pfc_pri", "_pkt_num", PFC_TX),
];

/// Columns, and what drivers call them.
const COLUMNS: &[(&str, &[&str])] = &[
    (
        "rx_pause_frames",
        &["rx_pause_ctrl_phy", "rx_pause_frames", "link_xoff_rx", "rx_flow_control_xoff", "mac_rx_mac_pause_num"],
    ),
    (
        "tx_pause_frames",
        &["tx_pause_ctrl_phy", "tx_pause_frames", "link_xoff_tx", "tx_flow_control_xoff", "mac_tx_mac_pause_num"],
    ),
    ("rx_discards_phy", &["rx_discards_phy", "rx_stat_discard", "rx_dropped"]),
    ("tx_discards_phy", &["tx_discards_phy", "tx_stat_discard"]),
    ("rx_out_of_buffer", &["rx_out_of_buffer", "rx_no_dma_resources"]),
    ("link_down_events_phy", &["link_down_events_phy", "link_down_events"]),
    ("rx_crc_errors_phy", &["rx_crc_errors_phy", "rx_fcs_err_frames", "rx_crc_errors", "mac_rx_fcs_err_pkt_num"]),
    ("rx_symbol_errors_phy", &["rx_symbol_err_phy", "mac_rx_symbol_err_pkt_num"]),
    ("rx_pcs_symbol_errors_phy", &["rx_pcs_symbol_err_phy", "rx_pcs_symbol_err"]),
    ("rx_corrected_bits_phy", &["rx_corrected_bits_phy", "rx_corrected_bits"]),
    ("rx_ecn_marked_packets", &["rx_ecn_mark"]),
    ("tx_pause_storm_warnings", &["tx_pause_storm_warning_events"]),
    ("tx_pause_storm_errors", &["tx_pause_storm_error_events"]),
];

/// Names worth knowing that have no column.
const OTHERS: &[&str] = &[
    // mlx5: modules, the PCI bus, the physical layer
    "module_unplug",
    "module_bus_stuck",
    "module_high_temp",
    "module_bad_shorted",
    "outbound_pci_stalled_rd",
    "outbound_pci_stalled_wr",
    "outbound_pci_stalled_rd_events",
    "outbound_pci_stalled_wr_events",
    "outbound_pci_buffer_overflow",
    "rx_pci_signal_integrity",
    "tx_pci_signal_integrity",
    "dev_internal_queue_oob",
    "dev_out_of_buffer",
    "rx_steer_missed_packets",
    "rx_in_range_len_errors_phy",
    "rx_out_of_range_len_phy",
    "rx_oversize_pkts_phy",
    "rx_undersize_pkts_phy",
    "rx_jabbers_phy",
    "rx_unsupported_op_phy",
    "rx_buffer_passed_thres_phy",
    "tx_errors_phy",
    "rx_global_pause",
    "tx_global_pause",
    "rx_global_pause_duration",
    "tx_global_pause_duration",
    // bnxt
    "continuous_pause_events",
    "resume_pause_events",
    "continuous_roce_pause_events",
    "resume_roce_pause_events",
    "rx_total_discard_pkts",
    "tx_total_discard_pkts",
    "rx_align_err_frames",
    "rx_ovrsz_frames",
    "rx_runt_frames",
    // ice, i40e, ixgbe
    "mac_local_faults",
    "mac_remote_faults",
    "illegal_bytes",
    "rx_length_errors",
    "rx_missed_errors",
    "rx_no_buffer_count",
    "tx_dropped_link_down",
    "link_xon_rx",
    "link_xon_tx",
    "rx_flow_control_xon",
    "tx_flow_control_xon",
    // ena: what the cloud held back
    "bw_in_allowance_exceeded",
    "bw_out_allowance_exceeded",
    "pps_allowance_exceeded",
    "conntrack_allowance_exceeded",
    "linklocal_allowance_exceeded",
    "wd_expired",
    "tx_timeout",
];

/// The same, with a number in the middle: priorities, lanes, classes.
const OTHERS_NUMBERED: &[(&str, &str)] = &[
    ("rx_prio", "_discards"),
    ("rx_prio", "_buf_discard"),
    ("rx_prio", "_cong_discard"),
    ("rx_prio", "_marked"),
    ("rx_prio", "_pause_transition"),
    ("tx_prio", "_pause_transition"),
    ("rx_err_lane_", "_phy"),
    ("pfc_pri", "_rx_transitions"),
    ("pfc_pri", "_tx_transitions"),
    ("rx_discard_packets_cos", ""),
    ("rx_priority_", "_xon"),
    ("tx_priority_", "_xon"),
    ("rx_priority_", "_xon_rx"),
    ("tx_priority_", "_xon_tx"),
    ("rx_pb_", "_pxon"),
    ("tx_pb_", "_pxon"),
];

/// Forward error correction, whatever the rest of the name.
const FEC: [&str; 2] = ["rx_fec_", "fec_"];

/// What a driver's counter is to us; `None` for nothing.
fn classify(name: &str) -> Option<Counter> {
    // i40e and ice mark what is the port's and not the queues'.
    let name = name.strip_prefix("port.").unwrap_or(name);
    let name = name.strip_suffix(".nic").unwrap_or(name);
    if let Some((column, _)) = COLUMNS.iter().find(|(_, names)| names.contains(&name)) {
        return Some(Counter::Column(column));
    }
    for (before, after, map) in BY_PRIORITY {
        if let Some(priority) = number_between(name, before, after).filter(|p| usize::from(*p) < PRIORITIES.len()) {
            return Some(Counter::Priority(map, priority));
        }
    }
    let is_wanted = OTHERS.contains(&name)
        || OTHERS_NUMBERED.iter().any(|(before, after)| number_between(name, before, after).is_some())
        || FEC.iter().any(|prefix| name.starts_with(prefix));
    is_wanted.then_some(Counter::Other)
}

fn number_between(name: &str, before: &str, after: &str) -> Option<u8> {
    let digits = name.strip_prefix(before)?.strip_suffix(after)?;
    (digits.len() <= 2 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// A counter that is wanted: its place among all, its name, and what it is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    at: usize,
    name: String,
    counter: Counter,
}

/// Which of a driver's names are wanted; each thing once.
fn parse_names(names: &[u8]) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut others = 0;
    for (at, name) in names.chunks_exact(NAME).enumerate() {
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let Some(name) = std::str::from_utf8(name).ok().map(str::trim) else { continue };
        let Some(counter) = classify(name) else { continue };
        let is_known = wanted.iter().any(|known| match counter {
            Counter::Other => known.name == name,
            _ => known.counter == counter,
        });
        if is_known || (counter == Counter::Other && others == MAX_OTHERS) {
            continue;
        }
        others += usize::from(counter == Counter::Other);
        wanted.push(Wanted { at, name: name.to_owned(), counter });
    }
    wanted
}

/// The cards of this host.
pub(super) struct Cards {
    ethtool: Option<Ethtool>,
    optics: Option<Optics>,
    cards: BTreeMap<String, Card>,
}

/// One card.
#[derive(Default)]
struct Card {
    carrier_changes: Option<u64>,
    firmware_and_bus: Option<(String, String)>,
    /// Counters it had when their names were asked for.
    count: usize,
    wanted: Vec<Wanted>,
    module: Option<Module>,
    measured_at: Option<i64>,
    identified_at: Option<i64>,
}

impl Cards {
    /// Asks drivers, or nobody: only this machine's can be asked.
    pub(super) fn new(is_here: bool) -> Self {
        Self {
            ethtool: is_here.then(|| Ethtool::open().ok()).flatten(),
            optics: is_here.then(|| Optics::open().ok()).flatten(),
            cards: BTreeMap::new(),
        }
    }

    /// Takes note of the cards there are, with the count of their signals' changes, and reads the module of that one
    /// which has waited longest.
    pub(super) fn measure<'n>(
        &mut self,
        tick: &Tick,
        present: &(impl Iterator<Item = (&'n str, Option<u64>)> + Clone),
    ) {
        for (name, carrier_changes) in present.clone() {
            let card = match self.cards.get_mut(name) {
                Some(card) => card,
                None => self.cards.entry(name.to_owned()).or_default(),
            };
            if card.carrier_changes != carrier_changes {
                // Another cable, perhaps.
                card.carrier_changes = carrier_changes;
                (card.measured_at, card.identified_at) = (None, None);
            }
        }
        if self.cards.len() > present.clone().count() {
            self.cards.retain(|name, _| present.clone().any(|(there, _)| there == name));
        }
        let Some(optics) = &mut self.optics else { return };
        // A time yet to come is of a clock that was set back since, and no reason to wait for it.
        let waited = |at: Option<i64>| {
            at.map(|at| tick.ts_micros.saturating_sub(at)).filter(|waited| *waited >= 0).unwrap_or(i64::MAX)
        };
        let longest = self.cards.iter_mut().max_by_key(|(_, card)| waited(card.measured_at));
        let Some((name, card)) = longest.filter(|(_, card)| waited(card.measured_at) >= MEASURE_EVERY_MICROS) else {
            return;
        };
        card.measured_at = Some(tick.ts_micros);
        let known = card.module.take().filter(|_| waited(card.identified_at) < IDENTIFY_EVERY_MICROS);
        if known.is_none() {
            card.identified_at = Some(tick.ts_micros);
        }
        match optics.read(name, known) {
            Ok(module) => card.module = module,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                tracing::info!("optics are not read: that needs CAP_NET_ADMIN");
                self.optics = None;
            }
            // No module, or a card that has no place for one.
            Err(error) => tracing::debug!(interface = name, %error, "no optics"),
        }
    }

    /// The row of one card.
    pub(super) fn fill(&mut self, interface: &str, driver: Option<&str>, rows: &mut Rows) {
        let Some(card) = self.cards.get_mut(interface) else { return };
        let mut row = rows.begin();
        row.text("interface", interface).text("driver", driver);
        if let Some(ethtool) = &mut self.ethtool {
            if card.firmware_and_bus.is_none() {
                card.firmware_and_bus = ethtool.firmware_and_bus(interface).ok();
            }
            if let Some((firmware, bus)) = &card.firmware_and_bus {
                let known = |text: &&str| !text.is_empty() && *text != "N/A";
                row.text("firmware", Some(firmware.as_str()).filter(known))
                    .text("bus_address", Some(bus.as_str()).filter(known));
            }
            match card.read(ethtool, interface) {
                Ok(values) => {
                    let value = |wanted: &Wanted| i64::try_from(u64_at(&values, wanted.at.checked_mul(8)?)?).ok();
                    fill_counters(&mut row, &card.wanted, value);
                }
                Err(error) => tracing::debug!(interface, %error, "no counters of the driver"),
            }
        }
        if let Some(module) = &card.module {
            module.fill(&mut row);
        }
    }
}

impl Card {
    /// All values of the card, and the names if there are more or fewer than before.
    fn read(&mut self, ethtool: &mut Ethtool, interface: &str) -> std::io::Result<Vec<u8>> {
        let count = ethtool.counters(interface)?;
        if count == 0 {
            (self.count, self.wanted) = (0, Vec::new());
            return Ok(Vec::new());
        }
        if count != self.count {
            self.wanted = parse_names(ethtool.names(interface, count)?);
            self.count = count;
        }
        if self.wanted.is_empty() {
            return Ok(Vec::new());
        }
        let values = ethtool.values(interface, count)?.to_vec();
        if values.len() != count * 8 {
            // It changed in between: the names may be others by now.
            self.count = 0;
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        Ok(values)
    }
}

fn fill_counters(row: &mut Row<'_>, wanted: &[Wanted], value: impl Fn(&Wanted) -> Option<i64>) {
    if wanted.is_empty() {
        return;
    }
    for one in wanted {
        if let Counter::Column(column) = one.counter {
            row.int(column, value(one));
        }
    }
    for map in PRIORITY_MAPS {
        let of_map = wanted.iter().filter_map(|one| match one.counter {
            Counter::Priority(to, priority) if to == map => {
                Some((*PRIORITIES.get(usize::from(priority))?, value(one)?))
            }
            _ => None,
        });
        let mut of_map = of_map.peekable();
        if of_map.peek().is_some() {
            row.int_map(map, of_map);
        }
    }
    let others = wanted.iter().filter(|one| one.counter == Counter::Other);
    row.int_map("driver_counters", others.filter_map(|one| Some((one.name.as_str(), value(one)?))));
}

#[cfg(test)]
mod tests {
    use nodescope_model::catalogue::Catalogue;
    use nodescope_model::rows::Stamp;
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{garbage, ints};

    fn names(names: &[&str]) -> Vec<u8> {
        names
            .iter()
            .flat_map(|name| {
                let mut bytes = [0u8; NAME];
                bytes[..name.len()].copy_from_slice(name.as_bytes());
                bytes
            })
            .collect()
    }

    #[test]
    fn the_same_thing_has_one_column_whatever_the_driver_calls_it() {
        let cases = [
            ("rx_prio3_pause", Some(Counter::Priority(PFC_RX, 3))),
            ("tx_prio0_pause_duration", Some(Counter::Priority(PFC_TX_TIME, 0))),
            ("rx_pfc_ena_frames_pri7", Some(Counter::Priority(PFC_RX, 7))),
            ("pfc_pri2_rx_duration_us", Some(Counter::Priority(PFC_RX_TIME, 2))),
            ("tx_priority_5_xoff.nic", Some(Counter::Priority(PFC_TX, 5))),
            ("port.rx_priority_1_xoff_rx", Some(Counter::Priority(PFC_RX, 1))),
            ("rx_pb_4_pxoff", Some(Counter::Priority(PFC_RX, 4))),
            ("mac_tx_pfc_pri6_pkt_num", Some(Counter::Priority(PFC_TX, 6))),
            ("rx_prio9_pause", None),
            ("rx_prio_pause", None),
            ("rx_prio3_packets", None),
            ("rx_pause_ctrl_phy", Some(Counter::Column("rx_pause_frames"))),
            ("link_xoff_tx.nic", Some(Counter::Column("tx_pause_frames"))),
            ("rx_fcs_err_frames", Some(Counter::Column("rx_crc_errors_phy"))),
            ("port.rx_crc_errors", Some(Counter::Column("rx_crc_errors_phy"))),
            ("rx_prio3_discards", Some(Counter::Other)),
            ("rx_err_lane_2_phy", Some(Counter::Other)),
            ("bw_in_allowance_exceeded", Some(Counter::Other)),
            ("rx_fec_uncorrectable_blocks", Some(Counter::Other)),
            ("rx0_packets", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(classify(name), expected, "{name}");
        }
    }

    #[test]
    fn every_counter_has_its_place() {
        let text = names(&[
            "rx0_packets",
            "rx_prio3_pause",
            "rx_crc_errors",
            "port.rx_crc_errors",
            "module_unplug",
            "module_unplug",
            "rx_prio4_pause",
            "tx_prio3_pause",
            "rx_discards_phy",
            "link_down_events_phy",
        ]);
        let wanted = parse_names(&text);
        assert_eq!(wanted.iter().map(|w| w.at).collect::<Vec<_>>(), [1, 2, 4, 6, 7, 8, 9], "each thing once");
        let mut rows = Rows::new(Catalogue::built_in().get("nic").unwrap());
        let mut row = rows.begin();
        row.text("interface", "eth0");
        fill_counters(&mut row, &wanted, |wanted| i64::try_from(wanted.at + 100).ok());
        let batch = rows.finish(&Stamp { ts_micros: 0, node: "", host: "" });
        for (column, expected) in [("rx_crc_errors_phy", 102), ("rx_discards_phy", 108), ("link_down_events_phy", 109)]
        {
            assert_eq!(ints(&batch, column), [Some(expected)], "{column}");
        }
        assert_eq!(ints(&batch, "tx_discards_phy"), [None]);
        for (column, count) in [(PFC_RX, 2), (PFC_TX, 1), ("driver_counters", 1)] {
            use arrow_array::cast::AsArray;
            assert_eq!(batch.column_by_name(column).unwrap().as_map().value_length(0), count, "{column}");
        }
        assert_eq!(batch.column_by_name(PFC_TX_TIME).unwrap().null_count(), 1);
    }

    #[test]
    fn every_column_is_in_the_catalogue() {
        let catalogue = Catalogue::built_in();
        let table = catalogue.get("nic").unwrap();
        for column in COLUMNS.iter().map(|(column, _)| *column).chain(PRIORITY_MAPS) {
            assert!(table.column(column).is_some(), "{column}");
        }
    }

    #[test]
    fn this_machines_cards_are_asked() {
        let mut cards = Cards::new(true);
        let mut rows = Rows::new(Catalogue::built_in().get("nic").unwrap());
        let tick = Tick { ts_micros: 1_700_000_000_000_000, first: true };
        cards.measure(&tick, &[("lo", None), ("nosuch-if0", Some(1))].into_iter());
        cards.fill("lo", None, &mut rows);
        cards.fill("nosuch-if0", None, &mut rows);
        cards.fill("nosuch-if1", None, &mut rows);
        assert_eq!(rows.len(), 2);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            classify(&text);
            number_between(&text, "a", "a");
            parse_names(&bytes);
            parse_names(text.as_bytes());
        }
    }
}
