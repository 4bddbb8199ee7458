//! Protocols: what TCP, UDP and IP of this host's network namespace have counted.
//!
//! The kernel counts in several files of several forms. `snmp` and `netstat` write two lines for a protocol, names and
//! then values; `snmp6` one line for a value; `sockstat` one line for a protocol with names and values alternating.
//! All three become the same thing here, a [`Reading`], and lists say which readings fill which columns.
//!
//! `softnet_stat` and `stat/nf_conntrack` are tables in hexadecimal with a line for each CPU, which we add up (the table
//! `cpu` has packets by CPU). Their counts are 32 bits wide and wrap on a busy host within minutes; adding them in 32 bits keeps the sum a counter that
//! wraps the same way, which looks like a reset and does no harm, where a wider sum would take a leap backwards from
//! far up.
//!
//! TCP sockets by state come over netlink (`sock_diag(7)`), for reading `/proc/net/tcp` costs a busy host dearly. A
//! socket is a message of about a hundred bytes. Nearly all of them are open or in `TIME_WAIT`, and of those the kernel
//! keeps counts anyway; so beyond [`ALL_SOCKETS`] only the others are asked for, and the bytes in queues, which only each
//! socket knows, are NULL. Kernels without the module `tcp_diag`, which an agent without privileges cannot load, leave
//! all of them NULL.

use std::time::Duration;

use nodescope_model::rows::{Row, Rows};

use crate::host_root::{FileReader, HostRoot};
use crate::netlink::{Netlink, NetlinkProtocol, u8_at, u32_at};
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};

/// Column, protocol, name of the value.
type Wanted = (&'static str, &'static str, &'static str);

/// Protocol, name of the value, value.
type Reading<'t> = (&'t str, &'t str, &'t str);

const SNMP: &[Wanted] = &[
    ("ip_forwarding", "Ip", "Forwarding"),
    ("ip_in_receives", "Ip", "InReceives"),
    ("ip_in_delivers", "Ip", "InDelivers"),
    ("ip_in_discards", "Ip", "InDiscards"),
    ("ip_out_requests", "Ip", "OutRequests"),
    ("ip_out_discards", "Ip", "OutDiscards"),
    ("ip_out_no_routes", "Ip", "OutNoRoutes"),
    ("ip_reassembly_failures", "Ip", "ReasmFails"),
    ("icmp_in_messages", "Icmp", "InMsgs"),
    ("icmp_in_errors", "Icmp", "InErrors"),
    ("icmp_out_messages", "Icmp", "OutMsgs"),
    ("tcp_established", "Tcp", "CurrEstab"),
    ("tcp_active_opens", "Tcp", "ActiveOpens"),
    ("tcp_passive_opens", "Tcp", "PassiveOpens"),
    ("tcp_attempt_failures", "Tcp", "AttemptFails"),
    ("tcp_established_resets", "Tcp", "EstabResets"),
    ("tcp_in_segments", "Tcp", "InSegs"),
    ("tcp_out_segments", "Tcp", "OutSegs"),
    ("tcp_retransmitted_segments", "Tcp", "RetransSegs"),
    ("tcp_in_errors", "Tcp", "InErrs"),
    ("tcp_out_resets", "Tcp", "OutRsts"),
    ("udp_in_datagrams", "Udp", "InDatagrams"),
    ("udp_out_datagrams", "Udp", "OutDatagrams"),
    ("udp_no_ports", "Udp", "NoPorts"),
    ("udp_in_errors", "Udp", "InErrors"),
    ("udp_receive_buffer_errors", "Udp", "RcvbufErrors"),
    ("udp_send_buffer_errors", "Udp", "SndbufErrors"),
    ("udplite_in_errors", "UdpLite", "InErrors"),
];

const NETSTAT: &[Wanted] = &[
    ("tcp_listen_overflows", "TcpExt", "ListenOverflows"),
    ("tcp_listen_drops", "TcpExt", "ListenDrops"),
    ("tcp_syncookies_sent", "TcpExt", "SyncookiesSent"),
    ("tcp_syncookies_received", "TcpExt", "SyncookiesRecv"),
    ("tcp_syncookies_failed", "TcpExt", "SyncookiesFailed"),
    ("tcp_timeouts", "TcpExt", "TCPTimeouts"),
    ("tcp_syn_retransmits", "TcpExt", "TCPSynRetrans"),
    ("tcp_lost_retransmits", "TcpExt", "TCPLostRetransmit"),
    ("tcp_fast_retransmits", "TcpExt", "TCPFastRetrans"),
    ("tcp_receive_queue_drops", "TcpExt", "TCPRcvQDrop"),
    ("tcp_out_of_order", "TcpExt", "TCPOFOQueue"),
    ("tcp_backlog_drops", "TcpExt", "TCPBacklogDrop"),
    ("tcp_memory_pressures", "TcpExt", "TCPMemoryPressures"),
    ("tcp_aborts_on_memory", "TcpExt", "TCPAbortOnMemory"),
    ("tcp_aborts_on_timeout", "TcpExt", "TCPAbortOnTimeout"),
    ("ip_in_bytes", "IpExt", "InOctets"),
    ("ip_out_bytes", "IpExt", "OutOctets"),
    ("ip_in_congestion_packets", "IpExt", "InCEPkts"),
];

const SNMP6: &[Wanted] = &[
    ("ip6_in_bytes", "", "Ip6InOctets"),
    ("ip6_out_bytes", "", "Ip6OutOctets"),
    ("icmp6_in_messages", "", "Icmp6InMsgs"),
    ("icmp6_in_errors", "", "Icmp6InErrors"),
    ("icmp6_out_messages", "", "Icmp6OutMsgs"),
    ("udp6_in_datagrams", "", "Udp6InDatagrams"),
    ("udp6_out_datagrams", "", "Udp6OutDatagrams"),
    ("udp6_no_ports", "", "Udp6NoPorts"),
    ("udp6_in_errors", "", "Udp6InErrors"),
    ("udp6_receive_buffer_errors", "", "Udp6RcvbufErrors"),
    ("udp6_send_buffer_errors", "", "Udp6SndbufErrors"),
    ("udplite6_in_errors", "", "UdpLite6InErrors"),
];

const SOCKSTAT: &[Wanted] = &[
    ("sockets", "sockets", "used"),
    ("tcp_sockets", "TCP", "inuse"),
    ("tcp_sockets_orphaned", "TCP", "orphan"),
    ("tcp_sockets_time_wait", "TCP", "tw"),
    ("tcp_sockets_allocated", "TCP", "alloc"),
    ("tcp_memory_pages", "TCP", "mem"),
    ("udp_sockets", "UDP", "inuse"),
    ("udp_memory_pages", "UDP", "mem"),
    ("udplite_sockets", "UDPLITE", "inuse"),
    ("raw_sockets", "RAW", "inuse"),
    ("ip_fragment_queues", "FRAG", "inuse"),
    ("ip_fragment_memory_bytes", "FRAG", "memory"),
];

const SOCKSTAT6: &[Wanted] = &[
    ("tcp6_sockets", "TCP6", "inuse"),
    ("udp6_sockets", "UDP6", "inuse"),
    ("udplite6_sockets", "UDPLITE6", "inuse"),
    ("raw6_sockets", "RAW6", "inuse"),
    ("ip6_fragment_queues", "FRAG6", "inuse"),
    ("ip6_fragment_memory_bytes", "FRAG6", "memory"),
];

/// Columns of `/proc/net/softnet_stat`, which has no names.
const SOFTNET: &[(&str, usize)] = &[
    ("softnet_processed", 0),
    ("softnet_dropped", 1),
    ("softnet_times_squeezed", 2),
    ("softnet_received_rps", 9),
    ("softnet_flow_limits", 10),
    ("softnet_backlog", 11),
];

/// Columns of `/proc/net/stat/nf_conntrack` and their names there.
const CONNTRACK: &[(&str, &str)] = &[
    ("conntrack_found", "found"),
    ("conntrack_invalid", "invalid"),
    ("conntrack_ignore", "ignore"),
    ("conntrack_insert", "insert"),
    ("conntrack_insert_failed", "insert_failed"),
    ("conntrack_drop", "drop"),
    ("conntrack_early_drop", "early_drop"),
    ("conntrack_search_restart", "search_restart"),
];

/// Columns of TCP states, from number 1 up.
const TCP_STATES: [&str; 11] = [
    "tcp_state_established",
    "tcp_state_syn_sent",
    "tcp_state_syn_recv",
    "tcp_state_fin_wait1",
    "tcp_state_fin_wait2",
    "tcp_state_time_wait",
    "tcp_state_close",
    "tcp_state_close_wait",
    "tcp_state_last_ack",
    "tcp_state_listen",
    "tcp_state_closing",
];

const ESTABLISHED: usize = 1;
const TIME_WAIT: usize = 6;
const CLOSE_WAIT: usize = 8;
const LISTEN: usize = 10;

/// So many TCP sockets are asked one by one.
const ALL_SOCKETS: u64 = 20_000;

/// A kernel that has refused is asked again so often.
const REFUSED_EVERY: Duration = Duration::from_secs(60);

/// Neighbours on more interfaces than this are counted in the sum alone.
const MAX_ARP_INTERFACES: usize = 256;

/// Fills the table `protocol`.
pub struct ProtocolProbe {
    snmp: FileReader,
    netstat: FileReader,
    snmp6: FileReader,
    sockstat: FileReader,
    sockstat6: FileReader,
    softnet: FileReader,
    conntrack: FileReader,
    conntrack_count: FileReader,
    conntrack_max: FileReader,
    arp: FileReader,
    udp: FileReader,
    udp6: FileReader,
    page_size: u64,
    root: HostRoot,
    tcp: Tcp,
}

impl ProtocolProbe {
    /// Reads nothing yet.
    pub fn new(options: &ProbeOptions) -> Self {
        let open = |root: &HostRoot, file: &str| FileReader::new(root.proc(file));
        let root = &options.root;
        Self {
            snmp: open(root, "net/snmp"),
            netstat: open(root, "net/netstat"),
            snmp6: open(root, "net/snmp6"),
            sockstat: open(root, "net/sockstat"),
            sockstat6: open(root, "net/sockstat6"),
            softnet: open(root, "net/softnet_stat"),
            conntrack: open(root, "net/stat/nf_conntrack"),
            conntrack_count: open(root, "sys/net/netfilter/nf_conntrack_count"),
            conntrack_max: open(root, "sys/net/netfilter/nf_conntrack_max"),
            arp: open(root, "net/arp"),
            udp: open(root, "net/udp"),
            udp6: open(root, "net/udp6"),
            page_size: rustix::param::page_size() as u64,
            root: root.clone(),
            tcp: Tcp::default(),
        }
    }
}

impl Probe for ProtocolProbe {
    fn table(&self) -> &'static str {
        "protocol"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let snmp = self.snmp.read()?;
        let open_or_half_closed = find(&[("", "Tcp", "CurrEstab")], parse_pairs(snmp))[0];
        let mut row = rows.begin();
        fill(&mut row, SNMP, parse_pairs(snmp));
        fill(&mut row, NETSTAT, parse_pairs(self.netstat.read_if_there().unwrap_or_default()));
        fill(&mut row, SNMP6, parse_snmp6(self.snmp6.read_if_there().unwrap_or_default()));
        let sockstat = self.sockstat.read_if_there().unwrap_or_default();
        fill(&mut row, SOCKSTAT, parse_sockstat(sockstat));
        for (column, protocol) in [("tcp_memory_bytes", "TCP"), ("udp_memory_bytes", "UDP")] {
            let pages = find(&[(column, protocol, "mem")], parse_sockstat(sockstat))[0];
            row.count(column, pages.and_then(|p| p.checked_mul(self.page_size)));
        }
        let sockstat6 = self.sockstat6.read_if_there().unwrap_or_default();
        fill(&mut row, SOCKSTAT6, parse_sockstat(sockstat6));
        let [in_use, time_wait] =
            [("", "TCP", "inuse"), ("", "TCP", "tw")].map(|w| find(&[w], parse_sockstat(sockstat))[0]);
        let in_use_6 = find(&[("", "TCP6", "inuse")], parse_sockstat(sockstat6))[0];
        let sockets = [in_use, in_use_6, time_wait].into_iter().flatten().fold(0, u64::saturating_add);
        let known = Known { sockets, open_or_half_closed, time_wait };

        let softnet = self.softnet.read_if_there().unwrap_or_default();
        let positions: Vec<_> = SOFTNET.iter().map(|(_, at)| Some(*at)).collect();
        for ((column, _), sum) in SOFTNET.iter().zip(sum_hexadecimal(softnet.lines(), &positions)) {
            row.int(column, sum.map(i64::from));
        }
        let conntrack = self.conntrack.read_if_there().unwrap_or_default();
        for ((column, _), sum) in CONNTRACK.iter().zip(parse_conntrack(conntrack)) {
            row.int(column, sum.map(i64::from));
        }
        row.count("conntrack_entries", self.conntrack_count.number());
        row.count("conntrack_entries_max", self.conntrack_max.number());
        if let Some(arp) = self.arp.read_if_there() {
            let neighbours = parse_arp(arp);
            row.count("arp_entries", neighbours.all);
            row.int_map("arp_entries_by_interface", neighbours.by_interface);
        }
        for (file, receive, send) in [
            (&mut self.udp, "udp_receive_queue_bytes", "udp_send_queue_bytes"),
            (&mut self.udp6, "udp6_receive_queue_bytes", "udp6_send_queue_bytes"),
        ] {
            if let Some(queues) = file.read_if_there().map(parse_udp) {
                row.count(receive, queues.receive_bytes).count(send, queues.send_bytes);
            }
        }
        if let Some(states) = self.tcp.count(tick, &self.root, &known) {
            states.fill(&mut row);
        }
        Ok(())
    }
}

fn fill<'t>(row: &mut Row<'_>, wanted: &[Wanted], readings: impl Iterator<Item = Reading<'t>>) {
    for ((column, _, _), value) in wanted.iter().zip(find(wanted, readings)) {
        row.count(column, value);
    }
}

/// The wanted ones of these readings, in the order wanted. Negative values are the kernel's way of saying "no limit"
/// or "unknown", and are NULL.
fn find<'t>(wanted: &[Wanted], readings: impl Iterator<Item = Reading<'t>>) -> Vec<Option<u64>> {
    let mut values = vec![None; wanted.len()];
    for (protocol, name, value) in readings {
        if let Some(at) = wanted.iter().position(|(_, p, n)| *n == name && *p == protocol) {
            values[at] = value.parse().ok();
        }
    }
    values
}

/// `/proc/net/snmp` and `netstat`: `Tcp: Name Name` and below it `Tcp: 1 2`.
fn parse_pairs(text: &str) -> impl Iterator<Item = Reading<'_>> {
    let mut lines = text.lines();
    std::iter::from_fn(move || Some((lines.next()?, lines.next()?))).flat_map(|(names, values)| {
        let (protocol, names, values) = match (names.split_once(':'), values.split_once(':')) {
            (Some((above, names)), Some((below, values))) if above == below => (above, names, values),
            _ => ("", "", ""),
        };
        names.split_ascii_whitespace().zip(values.split_ascii_whitespace()).map(move |(n, v)| (protocol, n, v))
    })
}

/// `/proc/net/snmp6`: `Ip6InOctets 5`.
fn parse_snmp6(text: &str) -> impl Iterator<Item = Reading<'_>> {
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        Some(("", words.next()?, words.next()?))
    })
}

/// `/proc/net/sockstat`: `TCP: inuse 5 orphan 0`.
fn parse_sockstat(text: &str) -> impl Iterator<Item = Reading<'_>> {
    text.lines().filter_map(|line| line.split_once(':')).flat_map(|(protocol, rest)| {
        let mut words = rest.split_ascii_whitespace();
        std::iter::from_fn(move || Some((protocol, words.next()?, words.next()?)))
    })
}

/// `/proc/net/stat/nf_conntrack`: a line of names, then one for each CPU.
fn parse_conntrack(text: &str) -> Vec<Option<u32>> {
    let mut lines = text.lines();
    let names: Vec<_> = lines.next().unwrap_or_default().split_ascii_whitespace().collect();
    let positions: Vec<_> = CONNTRACK.iter().map(|(_, wanted)| names.iter().position(|n| n == wanted)).collect();
    sum_hexadecimal(lines, &positions)
}

/// Adds up the numbers at these positions of all lines, in 32 bits.
fn sum_hexadecimal<'t>(lines: impl Iterator<Item = &'t str>, positions: &[Option<usize>]) -> Vec<Option<u32>> {
    let mut sums: Vec<Option<u32>> = vec![None; positions.len()];
    for line in lines {
        let numbers: Vec<_> = line.split_ascii_whitespace().map(|n| u32::from_str_radix(n, 16).ok()).collect();
        for (sum, position) in sums.iter_mut().zip(positions) {
            if let Some(number) = position.and_then(|at| numbers.get(at).copied().flatten()) {
                *sum = Some(sum.unwrap_or(0).wrapping_add(number));
            }
        }
    }
    sums
}

/// What the ARP table holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Neighbours<'t> {
    all: u64,
    by_interface: Vec<(&'t str, i64)>,
}

/// `/proc/net/arp`: a heading, then a line for each neighbour, which ends with its interface.
fn parse_arp(text: &str) -> Neighbours<'_> {
    let mut neighbours = Neighbours::default();
    for line in text.lines().skip(1) {
        let Some(interface) = line.split_ascii_whitespace().last() else { continue };
        neighbours.all += 1;
        // Neighbours on one interface mostly follow one another.
        let by_interface = &mut neighbours.by_interface;
        match by_interface.iter().rposition(|(known, _)| *known == interface) {
            Some(at) => by_interface[at].1 += 1,
            None if by_interface.len() < MAX_ARP_INTERFACES => by_interface.push((interface, 1)),
            None => {}
        }
    }
    neighbours
}

/// What waits in the queues of all UDP sockets.
#[derive(Debug, Default, PartialEq, Eq)]
struct UdpQueues {
    receive_bytes: u64,
    send_bytes: u64,
}

/// `/proc/net/udp`: a heading, then a line for each socket, of which the fifth word is `send:receive` in hexadecimal.
fn parse_udp(text: &str) -> UdpQueues {
    let mut queues = UdpQueues::default();
    for line in text.lines().skip(1) {
        let Some((send, receive)) = line.split_ascii_whitespace().nth(4).and_then(|word| word.split_once(':')) else {
            continue;
        };
        let bytes = |hexadecimal: &str| u64::from_str_radix(hexadecimal, 16).unwrap_or(0);
        queues.send_bytes = queues.send_bytes.saturating_add(bytes(send));
        queues.receive_bytes = queues.receive_bytes.saturating_add(bytes(receive));
    }
    queues
}

/// What is known of TCP sockets without asking them.
#[derive(Debug, Default)]
struct Known {
    sockets: u64,
    open_or_half_closed: Option<u64>,
    time_wait: Option<u64>,
}

/// Asks the kernel for TCP sockets.
#[derive(Default)]
struct Tcp {
    netlink: Option<Netlink>,
    has_refused: bool,
}

impl Tcp {
    /// How many there are in each state. `None` where this kernel does not say, or another one is looked at.
    fn count(&mut self, tick: &Tick, root: &HostRoot, known: &Known) -> Option<TcpStates> {
        if self.has_refused && !tick.is_due(REFUSED_EVERY) {
            return None;
        }
        self.has_refused = true;
        if self.netlink.is_none() {
            let opened = root.is_this_machine().then(|| Netlink::open(NetlinkProtocol::SockDiag).ok()).flatten();
            self.netlink = Some(opened?);
        }
        let netlink = self.netlink.as_mut()?;
        let wants_all = known.sockets <= ALL_SOCKETS;
        let mut states = TcpStates { receive_bytes: Some(0), send_bytes: Some(0), ..TcpStates::default() };
        netlink.dump(TCPDIAG_GETSOCK, &tcp_request(wants_all), |_, body| states.add(body)).ok()?;
        self.has_refused = false;
        if !wants_all {
            states.complete(known);
        }
        Some(states)
    }
}

/// The older of the two questions about TCP sockets: it is answered for IPv4 and IPv6 at once. The newer one is about one
/// family, and the kernel walks its whole table of sockets, which is large on an idle machine too, for each.
const TCPDIAG_GETSOCK: u16 = 18;

/// `struct inet_diag_req`: family and lengths of addresses, which are not looked at, extensions, a socket's address, which
/// is zero for all of them, a bit for each state, and one field more.
fn tcp_request(wants_all: bool) -> [u8; 60] {
    let mut request = [0; 60];
    let mut states: u32 = (1 << (TCP_STATES.len() + 1)) - 2;
    if !wants_all {
        states &= !(1 << ESTABLISHED | 1 << TIME_WAIT);
    }
    request[52..56].copy_from_slice(&states.to_ne_bytes());
    request
}

/// Sockets by state, and what waits in their queues.
#[derive(Debug, Default, PartialEq, Eq)]
struct TcpStates {
    /// By the kernel's number.
    sockets: [u64; TCP_STATES.len() + 1],
    receive_bytes: Option<u64>,
    send_bytes: Option<u64>,
}

impl TcpStates {
    /// `struct inet_diag_msg`: family, state, timer, retransmissions, 48 bytes of address, expiry, both queues, …
    fn add(&mut self, message: &[u8]) {
        let Some(state) = u8_at(message, 1).map(usize::from) else { return };
        if let Some(count) = self.sockets.get_mut(state).filter(|_| state > 0) {
            *count += 1;
        }
        // A listening socket has connections in these places.
        if state != LISTEN
            && let (Some(receive), Some(send)) = (u32_at(message, 56), u32_at(message, 60))
        {
            self.receive_bytes = Some(self.receive_bytes.unwrap_or(0).saturating_add(receive.into()));
            self.send_bytes = Some(self.send_bytes.unwrap_or(0).saturating_add(send.into()));
        }
    }

    /// Puts in what was not asked for.
    fn complete(&mut self, known: &Known) {
        let half_closed = self.sockets[CLOSE_WAIT];
        self.sockets[ESTABLISHED] = known.open_or_half_closed.unwrap_or(0).saturating_sub(half_closed);
        self.sockets[TIME_WAIT] = known.time_wait.unwrap_or(0);
        (self.receive_bytes, self.send_bytes) = (None, None);
    }

    fn fill(&self, row: &mut Row<'_>) {
        for (column, count) in TCP_STATES.iter().zip(self.sockets.iter().skip(1)) {
            row.count(column, *count);
        }
        row.count("tcp_receive_queue_bytes", self.receive_bytes).count("tcp_send_queue_bytes", self.send_bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{assert_sources, fixture_options, garbage, ints, sample_once};

    #[test]
    fn every_file_fills_its_columns() {
        let batch = sample_once(&mut ProtocolProbe { page_size: 4096, ..ProtocolProbe::new(&fixture_options()) });
        assert_eq!(batch.num_rows(), 1);
        let cases = [
            ("ip_forwarding", Some(2)),
            ("tcp_established", Some(318)),
            ("tcp_in_segments", Some(81_234_567_890)),
            ("tcp_retransmitted_segments", Some(40_213)),
            ("tcp_in_errors", Some(17)),
            ("udp_receive_buffer_errors", Some(12)),
            ("udplite_in_errors", Some(0)),
            ("tcp_listen_overflows", Some(7)),
            ("tcp_syncookies_received", Some(3)),
            ("ip_in_bytes", Some(918_273_645_546_372)),
            ("tcp_aborts_on_memory", None),
            ("ip6_in_bytes", Some(5_512_345)),
            ("udp6_no_ports", Some(4)),
            ("sockets", Some(1_404)),
            ("tcp_sockets", Some(340)),
            ("tcp_sockets_time_wait", Some(56)),
            ("tcp_memory_pages", Some(94)),
            ("tcp_memory_bytes", Some(94 * 4096)),
            ("udp_memory_bytes", Some(11 * 4096)),
            ("ip_fragment_memory_bytes", Some(0)),
            ("tcp6_sockets", Some(22)),
            ("softnet_processed", Some(0x0100_0000 + 0x20 + 0x300 + 0x4000)),
            ("softnet_dropped", Some(5)),
            ("softnet_times_squeezed", Some(0x1f)),
            ("softnet_received_rps", Some(0)),
            ("softnet_backlog", Some(3)),
            ("conntrack_entries", Some(2_811)),
            ("conntrack_entries_max", Some(262_144)),
            ("conntrack_found", Some(9)),
            ("conntrack_invalid", Some(0x1b2)),
            ("conntrack_insert_failed", Some(4)),
            ("conntrack_drop", Some(2)),
            ("arp_entries", Some(3)),
            ("udp_receive_queue_bytes", Some(0x300 + 0x1)),
            ("udp_send_queue_bytes", Some(0x20)),
            ("udp6_receive_queue_bytes", None),
            // Another machine's kernel cannot be asked.
            ("tcp_state_established", None),
        ];
        for (column, expected) in cases {
            assert_eq!(ints(&batch, column), [expected], "{column}");
        }
    }

    #[test]
    fn every_column_has_the_source_it_is_read_from() {
        let named =
            [SNMP, NETSTAT, SNMP6, SOCKSTAT, SOCKSTAT6].into_iter().flatten().map(|(column, _, name)| (*column, *name));
        assert_sources("protocol", named.chain(CONNTRACK.iter().copied()));
        let numbered: Vec<_> = SOFTNET.iter().map(|(column, at)| (*column, format!("number {}", at + 1))).collect();
        assert_sources("protocol", numbered.iter().map(|(column, number)| (*column, number.as_str())));
    }

    #[test]
    fn neighbours_are_counted_by_interface() {
        let text =
            "IP address HW type Flags HW address Mask Device\n1 2 3 4 * eth0\n1 2 3 4 * eth1\n\n1 2 3 4 * eth0\n";
        let neighbours = Neighbours { all: 3, by_interface: vec![("eth0", 2), ("eth1", 1)] };
        assert_eq!(parse_arp(text), neighbours);
        assert_eq!(parse_arp(""), Neighbours::default());
        let many: String = (0..300).map(|n| format!("\nx eth{n}")).collect();
        assert_eq!((parse_arp(&many).all, parse_arp(&many).by_interface.len()), (300, MAX_ARP_INTERFACES));
    }

    fn socket(state: u8, receive: u32, send: u32) -> Vec<u8> {
        let mut message = vec![0; 72];
        message[1] = state;
        message[56..60].copy_from_slice(&receive.to_ne_bytes());
        message[60..64].copy_from_slice(&send.to_ne_bytes());
        message
    }

    #[test]
    fn sockets_are_counted_by_state() {
        let mut states = TcpStates::default();
        for message in [socket(1, 5, 7), socket(1, 1, 0), socket(8, 0, 0), socket(10, 128, 4096), socket(12, 0, 0)] {
            states.add(&message);
        }
        states.add(&[]);
        states.add(&[2, 7]);
        assert_eq!((states.receive_bytes, states.send_bytes), (Some(6), Some(7)));
        assert_eq!(states.sockets, [0, 2, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0]);
        states.complete(&Known { sockets: 90_000, open_or_half_closed: Some(50_001), time_wait: Some(30_000) });
        assert_eq!((states.sockets[1], states.sockets[6], states.sockets[8]), (50_000, 30_000, 1));
        assert_eq!((states.receive_bytes, states.send_bytes), (None, None));
        assert_eq!(tcp_request(true)[52..56], 0xffe_u32.to_ne_bytes());
        assert_eq!(tcp_request(false)[52..56], (0xffe_u32 - 2 - 64).to_ne_bytes());
    }

    #[test]
    fn this_machine_is_asked() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (root, tick) = (HostRoot::new("/"), Tick { ts_micros: 1_000_000, first: true });
        // A kernel without the module answers nothing.
        let Some(states) = Tcp::default().count(&tick, &root, &Known::default()) else { return };
        assert!(states.sockets[LISTEN] >= 1 && states.sockets[ESTABLISHED] >= 2, "{states:?}");
        let many = Known { sockets: ALL_SOCKETS + 1, open_or_half_closed: Some(100_000), time_wait: Some(7) };
        let states = Tcp::default().count(&tick, &root, &many).unwrap();
        assert!(states.sockets[LISTEN] >= 1 && states.sockets[ESTABLISHED] > 90_000, "{states:?}");
        assert_eq!(states.sockets[TIME_WAIT], 7);
    }

    #[test]
    fn values_belong_to_the_names_above_them() {
        let text = "Tcp: MaxConn InErrs\nTcp: -1 5\nUdp: InErrors\nTcp: 9\nIcmpMsg:\nIcmpMsg:\nIp: Forwarding\n";
        let readings: Vec<_> = parse_pairs(text).collect();
        assert_eq!(readings, [("Tcp", "MaxConn", "-1"), ("Tcp", "InErrs", "5")]);
        let wanted = [("a", "Tcp", "MaxConn"), ("b", "Tcp", "InErrs"), ("c", "Udp", "InErrs")];
        assert_eq!(find(&wanted, readings.into_iter()), [None, Some(5), None]);
    }

    #[test]
    fn sums_wrap_as_their_parts_do() {
        let lines = ["ffffffff 1 x", "00000002 1"];
        let sums = sum_hexadecimal(lines.into_iter(), &[Some(0), Some(1), Some(2), Some(7), None]);
        assert_eq!(sums, [Some(1), Some(2), None, None, None]);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            find(SNMP, parse_pairs(&text));
            find(SNMP6, parse_snmp6(&text));
            find(SOCKSTAT, parse_sockstat(&text));
            parse_conntrack(&text);
            parse_conntrack(&format!("found drop\n{text}"));
            parse_arp(&text);
            parse_udp(&text);
            parse_udp(&format!("\n1 2 3 4 {text}"));
        }

        #[test]
        fn no_message_brings_it_down(message in prop::collection::vec(any::<u8>(), 0..100)) {
            TcpStates::default().add(&message);
        }
    }
}
