//! `connection`: who this host talks to.
//!
//! A host may hold a hundred thousand connections, and a row for each would be a flood that says who visited what. So
//! connections are put together: all of one protocol and direction, to one port, with one prefix of remote addresses
//! (a /24 of IPv4, a /48 of IPv6). What stays is what is asked for: which services talk to which networks, how much, how
//! well, and what is new.
//!
//! *Direction.* A connection is inbound when its local port is one that somebody listens on, and its port is then the
//! local one; else outbound, with the remote port. Where nobody listens any more (as with libraries that open a port,
//! take a few peers and close it) the side with the port that was not drawn at random is the server's. Where both were
//! drawn at random (`ip_local_port_range`) the port is 0, so that such peers make one row and not one each.
//!
//! *Counts over time.* TCP counts bytes for each connection and forgets them when it closes. Each connection has a number
//! that no other gets (the cookie), by which the agent knows it again a minute later and adds what it has moved since. So
//! the totals are lower bounds: what a connection moved after it was last looked at is lost, and one that lived for less
//! than a minute may never have been seen. What had been moved before the agent started is not counted. The protocol
//! counters of the whole host (`protocol`) miss nothing; these say with whom.
//!
//! No name is looked up: a monitor that asks DNS for every peer tells the peers that they are watched.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nodescope_model::rows::{Row, Rows};
use nodescope_service::settings::Settings;

use crate::attribution::ProcessFacts;
use crate::host_root::{HostRoot, read_text};
use crate::probe::{Probe, ProbeError, Tick};
use crate::sockets::owners::Owners;
use crate::sockets::{Protocol, Reading, Socket, Sockets, State, Wanted};

/// Groups remembered: those beyond are counted together.
const MAX_GROUPS: usize = 4_096;

/// Connections known again from tick to tick. Fills a map of 32,768 places, which is 1.6 MiB.
const MAX_TRACKED: usize = 28_000;

/// A group without connections is remembered for so long, so that its totals go on.
const KEEP_MICROS: i64 = 600_000_000;

/// Where the ports drawn at random begin, unless the host says otherwise.
const FIRST_RANDOM_PORT: u16 = 32_768;

/// What the probe needs to know.
#[derive(Debug, Clone)]
pub struct ConnectionOptions {
    /// Bits of a remote address of IPv4 that are kept.
    pub prefix_ipv4: u8,
    /// Bits of a remote address of IPv6 that are kept.
    pub prefix_ipv6: u8,
    /// Groups listed.
    pub groups: usize,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self { prefix_ipv4: 24, prefix_ipv6: 48, groups: 500 }
    }
}

impl ConnectionOptions {
    /// Reads the settings.
    pub fn read(settings: &mut Settings) -> Self {
        let default = Self::default();
        let lengths = settings.list(
            "agent.connection_prefix",
            "24,48",
            "Bits of remote addresses that are kept, of IPv4 and of IPv6: `32,128` for whole addresses.",
        );
        let (prefix_ipv4, prefix_ipv6) = parse_lengths(&lengths).unwrap_or_else(|| {
            settings.mistake("agent.connection_prefix: two numbers, up to 32 and up to 128, as in 24,48");
            (default.prefix_ipv4, default.prefix_ipv6)
        });
        let groups = settings.get(
            "agent.connection_groups",
            "500",
            "Groups of connections listed, those with most connections first; the others are one row.",
        );
        Self { prefix_ipv4, prefix_ipv6, groups }
    }
}

fn parse_lengths(lengths: &[String]) -> Option<(u8, u8)> {
    let [ipv4, ipv6] = lengths else { return None };
    Some((ipv4.parse().ok().filter(|bits| *bits <= 32)?, ipv6.parse().ok().filter(|bits| *bits <= 128)?))
}

/// Fills the table `connection`.
pub struct ConnectionProbe {
    root: HostRoot,
    options: ConnectionOptions,
    sockets: Sockets,
    owners: Owners,
    /// Numbers of groups.
    numbers: HashMap<Key, u32>,
    groups: HashMap<u32, Group>,
    next_number: u32,
    /// Connections known again, by cookie.
    tracked: HashMap<u64, Tracked>,
    /// Whether there may have been more at the tick before: what is new to us need not be new then.
    is_crowded: bool,
    /// Counts the ticks.
    generation: u32,
}

/// Whose port it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Direction {
    In,
    Out,
}

/// What makes connections one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    protocol: Protocol,
    direction: Direction,
    port: u16,
    network: IpAddr,
}

/// What is known of a group.
#[derive(Debug, Default)]
struct Group {
    now: Now,
    total: Total,
    seen_at: i64,
    process: Option<Process>,
    /// A socket by which its process is looked for.
    inode: u64,
}

/// What is so at this tick.
#[derive(Debug, Default)]
struct Now {
    states: [u32; State::COUNT],
    sockets: u64,
    /// Remote addresses, a bit each: by their last byte, or a sum of all.
    addresses: [u64; 4],
    users: Users,
    receive_queue: u64,
    send_queue: u64,
    sent: Option<u64>,
    received: Option<u64>,
    rtt_microseconds: u64,
    rtts: u64,
    /// When the oldest connection was first seen.
    oldest: Option<i64>,
    inode: u64,
    has_inode_before: bool,
}

/// Whose the sockets are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Users {
    #[default]
    Unknown,
    One(u32),
    Several,
}

/// What adds up.
#[derive(Debug, Default)]
struct Total {
    opened: u64,
    closed: u64,
    given_up: u64,
    /// Whether the source has counts of bytes at all.
    is_counted: bool,
    sent: u64,
    received: u64,
    retransmits: u64,
}

/// A connection seen before.
#[derive(Debug)]
struct Tracked {
    group: u32,
    generation: u32,
    is_opening: bool,
    retransmits: u32,
    sent: u64,
    received: u64,
    since: i64,
}

#[derive(Debug)]
struct Process {
    pid: u32,
    facts: ProcessFacts,
}

/// The ports on which somebody listens. No address is for all of them.
type Listening = HashSet<(Protocol, u16, Option<IpAddr>)>;

impl ConnectionProbe {
    /// A probe of the sockets below `root`.
    pub fn new(root: &HostRoot, options: ConnectionOptions) -> Self {
        Self {
            root: root.clone(),
            options,
            sockets: Sockets::new(root),
            owners: Owners::new(root),
            numbers: HashMap::new(),
            groups: HashMap::new(),
            next_number: 0,
            tracked: HashMap::new(),
            is_crowded: false,
            generation: 0,
        }
    }

    /// Reads all connections. What found no group comes back as one.
    fn look(&mut self, tick: &Tick) -> Result<(Now, Reading), ProbeError> {
        let mut listening = Listening::new();
        self.sockets.each(Wanted::Listeners, |socket| {
            let address = (!socket.local.is_unspecified()).then_some(socket.local);
            listening.insert((socket.protocol, socket.local_port, address));
        })?;
        let first_random = read_text(&self.root.proc("sys/net/ipv4/ip_local_port_range"))
            .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok())
            .unwrap_or(FIRST_RANDOM_PORT);
        for group in self.groups.values_mut() {
            group.now = Now::default();
        }
        self.generation = self.generation.wrapping_add(1);
        let mut others = Now::default();
        // Of one that may be older than the agent, counting begins now.
        let tick = &Tick { first: tick.first || self.is_crowded, ..*tick };
        let Self { options, sockets, numbers, groups, next_number, tracked, generation, .. } = self;
        let reading = sockets.each(Wanted::Connections, |socket| {
            let key = Key::of(socket, &listening, first_random, options);
            let number = match numbers.get(&key) {
                Some(number) => *number,
                None if numbers.len() < MAX_GROUPS => {
                    *next_number = next_number.wrapping_add(1);
                    numbers.insert(key, *next_number);
                    *next_number
                }
                None => return others.see(socket, None),
            };
            let group = groups.entry(number).or_default();
            group.seen_at = tick.ts_micros;
            let since = group.total.follow(socket, number, tick, *generation, tracked);
            group.now.has_inode_before |= socket.inode != 0 && socket.inode == group.inode;
            group.now.see(socket, since);
        })?;
        self.is_crowded = self.tracked.len() >= MAX_TRACKED;
        self.close();
        self.forget(tick);
        Ok((others, reading))
    }

    /// Takes leave of the connections that were not seen any more.
    fn close(&mut self) {
        let (groups, generation) = (&mut self.groups, self.generation);
        self.tracked.retain(|_, tracked| {
            let is_there = tracked.generation == generation;
            if !is_there && let Some(group) = groups.get_mut(&tracked.group) {
                let total = &mut group.total;
                *(if tracked.is_opening { &mut total.given_up } else { &mut total.closed }) += 1;
            }
            is_there
        });
        if self.tracked.capacity() > 4 * self.tracked.len().max(1024) {
            self.tracked.shrink_to(2 * self.tracked.len());
        }
    }

    /// Forgets groups that have been empty for long.
    fn forget(&mut self, tick: &Tick) {
        let now = tick.ts_micros;
        let groups = &mut self.groups;
        groups.retain(|_, group| now.saturating_sub(group.seen_at).unsigned_abs() <= KEEP_MICROS.unsigned_abs());
        self.numbers.retain(|_, number| groups.contains_key(number));
    }

    /// Follows the groups listed to the processes that hold their sockets.
    fn follow(&mut self, tick: &Tick, listed: &[(Key, u32)]) {
        let root = &self.root;
        let mut wanted = HashSet::new();
        for (_, number) in listed {
            let Some(group) = self.groups.get_mut(number) else { continue };
            if !group.now.has_inode_before {
                group.inode = group.now.inode;
            }
            if group.process.as_ref().is_some_and(|process| !root.proc(process.pid.to_string()).exists()) {
                group.process = None;
            }
            if group.process.is_none() && group.inode != 0 {
                wanted.insert(group.inode);
            }
        }
        self.owners.look_for(tick.ts_micros, &wanted);
        for (_, number) in listed {
            if let Some(group) = self.groups.get_mut(number)
                && group.process.is_none()
                && let Some(pid) = self.owners.pid(group.inode)
            {
                group.process = ProcessFacts::read(root, pid).map(|facts| Process { pid, facts });
            }
        }
    }
}

impl Key {
    fn of(socket: &Socket, listening: &Listening, first_random: u16, options: &ConnectionOptions) -> Self {
        let listens = |address| listening.contains(&(socket.protocol, socket.local_port, address));
        let is_random = |port: u16| port >= first_random;
        let (direction, port) = if listens(None) || listens(Some(socket.local)) {
            (Direction::In, socket.local_port)
        } else if !is_random(socket.remote_port) {
            (Direction::Out, socket.remote_port)
        } else if !is_random(socket.local_port) {
            (Direction::In, socket.local_port)
        } else {
            (Direction::Out, 0)
        };
        Self { protocol: socket.protocol, direction, port, network: network(socket.remote, options) }
    }
}

impl Total {
    /// Adds what the connection has moved since it was last seen. Gives back since when it is known.
    fn follow(
        &mut self,
        socket: &Socket,
        group: u32,
        tick: &Tick,
        generation: u32,
        tracked: &mut HashMap<u64, Tracked>,
    ) -> Option<i64> {
        let counts = socket.tcp.unwrap_or_default();
        self.is_counted |= counts.sent_bytes.is_some();
        // Those get another number when they become a connection, or have got it when they ceased to be one.
        if socket.cookie == 0 || matches!(socket.state, State::TimeWait | State::SynReceived) {
            return None;
        }
        let (sent, received) = (counts.sent_bytes.unwrap_or(0), counts.received_bytes.unwrap_or(0));
        let retransmits = counts.retransmits.unwrap_or(0);
        let is_full = tracked.len() >= MAX_TRACKED;
        let known = match tracked.entry(socket.cookie) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(_) if is_full => return None,
            std::collections::hash_map::Entry::Vacant(place) => {
                let was_before = tick.first;
                self.opened += u64::from(!was_before);
                place.insert(Tracked {
                    group,
                    generation,
                    is_opening: false,
                    retransmits: if was_before { retransmits } else { 0 },
                    sent: if was_before { sent } else { 0 },
                    received: if was_before { received } else { 0 },
                    since: tick.ts_micros,
                })
            }
        };
        self.sent += sent.saturating_sub(known.sent);
        self.received += received.saturating_sub(known.received);
        self.retransmits += u64::from(retransmits.saturating_sub(known.retransmits));
        (known.sent, known.received, known.retransmits) = (sent, received, retransmits);
        (known.group, known.generation) = (group, generation);
        known.is_opening = socket.state == State::SynSent;
        Some(known.since)
    }
}

impl Now {
    fn see(&mut self, socket: &Socket, since: Option<i64>) {
        if let Some(count) = self.states.get_mut(socket.state as usize) {
            *count += 1;
        }
        self.sockets += 1;
        let bit = address_bit(socket.remote);
        if let Some(word) = self.addresses.get_mut(usize::from(bit / 64)) {
            *word |= 1 << (bit % 64);
        }
        self.users = match (self.users, socket.uid) {
            (users, None) => users,
            (Users::Unknown, Some(uid)) => Users::One(uid),
            (Users::One(before), Some(uid)) if before == uid => self.users,
            _ => Users::Several,
        };
        self.receive_queue += u64::from(socket.receive_queue);
        self.send_queue += u64::from(socket.send_queue);
        if let Some(counts) = socket.tcp {
            let add = |sum: &mut Option<u64>, more: Option<u64>| {
                if let Some(more) = more {
                    *sum = Some(sum.unwrap_or(0).saturating_add(more));
                }
            };
            add(&mut self.sent, counts.sent_bytes);
            add(&mut self.received, counts.received_bytes);
            if let Some(rtt) = counts.rtt_microseconds.filter(|_| socket.state == State::Established) {
                self.rtt_microseconds += u64::from(rtt);
                self.rtts += 1;
            }
        }
        self.oldest = match (self.oldest, since) {
            (Some(oldest), Some(since)) => Some(oldest.min(since)),
            (oldest, since) => oldest.or(since),
        };
        if self.inode == 0 {
            self.inode = socket.inode;
        }
    }

    /// Puts another group to this one.
    fn merge(&mut self, other: &Self) {
        for (count, more) in self.states.iter_mut().zip(other.states) {
            *count += more;
        }
        self.sockets += other.sockets;
        self.receive_queue += other.receive_queue;
        self.send_queue += other.send_queue;
        self.rtt_microseconds += other.rtt_microseconds;
        self.rtts += other.rtts;
        let add = |sum: Option<u64>, more: Option<u64>| sum.map_or(more, |sum| Some(sum + more.unwrap_or(0)));
        (self.sent, self.received) = (add(self.sent, other.sent), add(self.received, other.received));
    }

    #[allow(clippy::cast_precision_loss, reason = "microseconds of round trips")]
    fn append(&self, row: &mut Row<'_>) {
        let of = |states: &[State]| -> i64 {
            states.iter().filter_map(|state| self.states.get(*state as usize)).copied().map(i64::from).sum()
        };
        row.count("connections", self.sockets)
            .int("established", of(&[State::Established]))
            .int("syn_sent", of(&[State::SynSent]))
            .int("syn_received", of(&[State::SynReceived]))
            .int("fin_wait", of(&[State::FinWait1, State::FinWait2]))
            .int("time_wait", of(&[State::TimeWait]))
            .int("close_wait", of(&[State::CloseWait]))
            .int("last_ack", of(&[State::LastAck, State::Closing]))
            .count("open_sent_bytes", self.sent)
            .count("open_received_bytes", self.received)
            .count("send_queue_bytes", self.send_queue)
            .count("receive_queue_bytes", self.receive_queue)
            .float("rtt_seconds", (self.rtts > 0).then(|| self.rtt_microseconds as f64 / self.rtts as f64 / 1e6));
    }
}

impl Group {
    #[allow(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
    fn append(&self, key: &Key, options: &ConnectionOptions, tick: &Tick, rows: &mut Rows) {
        let facts = self.process.as_ref().map(|process| &process.facts);
        let owner = facts.map(|facts| &facts.owner);
        let total = &self.total;
        let counted = |count: u64| total.is_counted.then_some(count);
        let length = if key.network.is_ipv4() { options.prefix_ipv4 } else { options.prefix_ipv6 };
        let uid = if let Users::One(uid) = self.now.users { Some(i64::from(uid)) } else { None };
        let mut row = rows.begin();
        row.text("protocol", key.protocol.as_str())
            .text("direction", if key.direction == Direction::In { "in" } else { "out" })
            .int("port", i64::from(key.port))
            .text("remote_prefix", format!("{}/{length}", key.network).as_str())
            .text("remote_scope", scope(key.network))
            .int("uid", uid)
            .int("pid", self.process.as_ref().map(|process| i64::from(process.pid)))
            .text("process", facts.map(|facts| facts.name.as_str()))
            .text("unit", owner.and_then(|owner| owner.unit.as_deref()))
            .text("container", owner.and_then(|owner| owner.container.as_deref()))
            .text("pod", owner.and_then(|owner| owner.pod.as_deref()))
            .text("job", owner.and_then(|owner| owner.job.as_deref()))
            .int("remote_addresses", self.now.addresses.iter().map(|word| i64::from(word.count_ones())).sum::<i64>())
            .count("opened", total.opened)
            .count("closed", total.closed)
            .count("given_up", total.given_up)
            .count("sent_bytes", counted(total.sent))
            .count("received_bytes", counted(total.received))
            .count("retransmits", counted(total.retransmits))
            .float("oldest_seconds", self.now.oldest.map(|since| (tick.ts_micros - since).max(0) as f64 / 1e6));
        self.now.append(&mut row);
    }
}

impl Probe for ConnectionProbe {
    fn table(&self) -> &'static str {
        "connection"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let (mut others, reading) = self.look(tick)?;
        let now = |number: &u32| self.groups.get(number).map(|group| &group.now);
        let mut listed: Vec<(Key, u32)> = self.numbers.iter().map(|(key, number)| (*key, *number)).collect();
        listed.retain(|(_, number)| now(number).is_some_and(|now| now.sockets > 0));
        listed.sort_unstable_by_key(|(key, number)| (Reverse(now(number).map_or(0, |now| now.sockets)), *key));
        let rest = listed.split_off(listed.len().min(self.options.groups));
        for (_, number) in &rest {
            if let Some(now) = now(number) {
                others.merge(now);
            }
        }
        self.follow(tick, &listed);
        for (key, number) in &listed {
            if let Some(group) = self.groups.get(number) {
                group.append(key, &self.options, tick, rows);
            }
        }
        if others.sockets > 0 || reading.left_out > 0 {
            let mut row = rows.begin();
            row.text("protocol", "all")
                .text("direction", "all")
                .int("port", 0)
                .text("remote_prefix", "others")
                .count("groups", rest.len() as u64)
                .count("left_out", reading.left_out);
            others.append(&mut row);
        }
        Ok(())
    }
}

/// The network of an address: its first bits.
fn network(address: IpAddr, options: &ConnectionOptions) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(options.prefix_ipv4.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(options.prefix_ipv6.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

/// Which of 256 bits stands for an address: the last byte of IPv4, and a sum over all bytes of IPv6.
fn address_bit(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => {
            address.octets().iter().fold(0, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(*byte))
        }
    }
}

/// How far away an address is, as its standard says.
fn scope(address: IpAddr) -> &'static str {
    let (is_shared, is_unique_local, is_link_local) = match address {
        IpAddr::V4(ip) => (ip.is_private() || (ip.to_bits() >> 22) == (0x6440_0000 >> 22), false, ip.is_link_local()),
        IpAddr::V6(ip) => (false, ip.is_unique_local(), ip.is_unicast_link_local()),
    };
    if address.is_loopback() || is_loopback_network(address) {
        "loopback"
    } else if is_link_local {
        "link"
    } else if is_shared || is_unique_local {
        "private"
    } else if address.is_multicast() {
        "multicast"
    } else {
        "global"
    }
}

/// `::1` cut to its first 48 bits is `::`, and nobody else's address begins so.
fn is_loopback_network(address: IpAddr) -> bool {
    address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{FIRST_TICK, floats, ints, sample_at, texts};
    use crate::sockets::TcpFacts;

    fn at(minutes: i64) -> Tick {
        Tick { ts_micros: FIRST_TICK.ts_micros + minutes * 60_000_000, first: minutes == 0 }
    }

    fn socket(local_port: u16, remote: &str, state: State, cookie: u64) -> Socket {
        let (remote, remote_port) = remote.rsplit_once(':').unwrap();
        Socket {
            protocol: Protocol::Tcp,
            state,
            is_ipv6: false,
            local: "10.0.0.1".parse().unwrap(),
            local_port,
            remote: remote.parse().unwrap(),
            remote_port: remote_port.parse().unwrap(),
            interface: 0,
            uid: Some(1000),
            inode: cookie,
            cookie,
            receive_queue: 0,
            send_queue: 0,
            tcp: None,
        }
    }

    fn key(socket: &Socket, listening: &Listening) -> (Direction, u16, String) {
        let key = Key::of(socket, listening, 32_768, &ConnectionOptions::default());
        (key.direction, key.port, key.network.to_string())
    }

    #[test]
    fn the_servers_port_names_the_group() {
        let listening =
            Listening::from([(Protocol::Tcp, 22, None), (Protocol::Tcp, 40_001, Some("10.0.0.1".parse().unwrap()))]);
        let of = |port, remote: &str| key(&socket(port, remote, State::Established, 1), &listening);
        assert_eq!(of(22, "192.0.2.77:50000"), (Direction::In, 22, "192.0.2.0".to_owned()));
        assert_eq!(of(40_001, "192.0.2.77:50000").0, Direction::In);
        assert_eq!(of(50_000, "198.51.100.1:3333"), (Direction::Out, 3333, "198.51.100.0".to_owned()));
        assert_eq!(of(29_500, "10.0.3.1:45000"), (Direction::In, 29_500, "10.0.3.0".to_owned()));
        assert_eq!(of(45_001, "10.0.3.1:45000"), (Direction::Out, 0, "10.0.3.0".to_owned()));
        assert_eq!(of(45_001, "2001:db8:7:8::1:443").2, "2001:db8:7::");
    }

    #[test]
    fn totals_add_what_moved_since_and_begin_with_the_agent() {
        let mut tracked = HashMap::new();
        let mut total = Total::default();
        let with = |sent, state| Socket {
            tcp: Some(TcpFacts {
                sent_bytes: Some(sent),
                received_bytes: Some(1),
                retransmits: Some(2),
                rtt_microseconds: None,
            }),
            ..socket(50_000, "192.0.2.1:443", state, 9)
        };
        assert_eq!(total.follow(&with(1000, State::Established), 1, &at(0), 1, &mut tracked), Some(at(0).ts_micros));
        assert_eq!((total.opened, total.sent, total.retransmits), (0, 0, 0));
        total.follow(&with(1500, State::Established), 1, &at(1), 2, &mut tracked);
        assert_eq!((total.opened, total.sent, total.is_counted), (0, 500, true));
        let new = Socket { cookie: 10, ..with(70, State::SynSent) };
        assert_eq!(total.follow(&new, 1, &at(1), 2, &mut tracked), Some(at(1).ts_micros));
        assert_eq!((total.opened, total.sent, total.received, total.retransmits), (1, 570, 1, 2));
        assert!(tracked[&10].is_opening);
        let gone = Socket { cookie: 11, ..with(70, State::TimeWait) };
        assert_eq!(total.follow(&gone, 1, &at(1), 2, &mut tracked), None);
        assert_eq!(tracked.len(), 2);
    }

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn hexadecimal(end: &str) -> String {
        let (address, port) = end.split_once(':').unwrap();
        let address: Ipv4Addr = address.parse().unwrap();
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.octets()), port.parse::<u16>().unwrap())
    }

    /// Local end, remote end, state, user, inode.
    fn set(root: &Path, sockets: &[(&str, &str, u8, u32, u64)]) {
        let line = |(local, remote, state, uid, inode): &(&str, &str, u8, u32, u64)| {
            let (local, remote) = (hexadecimal(local), hexadecimal(remote));
            format!("0: {local} {remote} {state:02X} 00000003:00000004 0:0 0 {uid} 0 {inode} 1\n")
        };
        write(root, "proc/net/tcp", &sockets.iter().map(line).collect::<String>());
        write(root, "proc/net/udp", "");
    }

    #[test]
    fn what_found_no_room_before_is_not_taken_for_new() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mut probe = ConnectionProbe::new(&HostRoot::new(root), ConnectionOptions::default());
        set(root, &[("10.0.0.1:50000", "192.0.2.1:443", 1, 1000, 15)]);
        sample_at(&mut probe, &at(0));
        let both = [("10.0.0.1:50000", "192.0.2.1:443", 1, 1000, 15), ("10.0.0.1:50001", "192.0.2.1:443", 1, 1000, 16)];
        set(root, &both);
        probe.is_crowded = true;
        assert_eq!(ints(&sample_at(&mut probe, &at(1)), "opened"), [Some(0)]);
        assert!(!probe.is_crowded);
    }

    #[test]
    fn connections_are_grouped_counted_and_followed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "proc/800/stat", "800 (xmr) S 1 1 1 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 50 100 10");
        write(root, "proc/800/status", "Uid:\t1000\t1000\t1000\t1000\n");
        write(root, "proc/800/cgroup", "0::/user.slice/user-1000.slice/session-3.scope\n");
        fs::create_dir_all(root.join("proc/800/fd")).unwrap();
        std::os::unix::fs::symlink("socket:[15]", root.join("proc/800/fd/5")).unwrap();
        let before = [
            ("0.0.0.0:22", "0.0.0.0:0", 10, 0, 1),
            ("10.0.0.1:22", "10.0.9.5:50000", 1, 0, 11),
            ("10.0.0.1:22", "10.0.9.6:50001", 8, 0, 12),
            ("10.0.0.1:22", "10.0.9.6:50002", 6, 0, 0),
            ("10.0.0.1:51000", "203.0.113.9:3333", 1, 1000, 15),
        ];
        set(root, &before);
        let mut probe = ConnectionProbe::new(&HostRoot::new(root), ConnectionOptions::default());
        let batch = sample_at(&mut probe, &at(0));
        assert_eq!(texts(&batch, "direction"), [Some("in"), Some("out")]);
        assert_eq!(ints(&batch, "port"), [Some(22), Some(3333)]);
        assert_eq!(texts(&batch, "remote_prefix"), [Some("10.0.9.0/24"), Some("203.0.113.0/24")]);
        assert_eq!(texts(&batch, "remote_scope"), [Some("private"), Some("global")]);
        assert_eq!(ints(&batch, "connections"), [Some(3), Some(1)]);
        assert_eq!(ints(&batch, "established"), [Some(1), Some(1)]);
        assert_eq!(ints(&batch, "time_wait"), [Some(1), Some(0)]);
        assert_eq!(ints(&batch, "close_wait"), [Some(1), Some(0)]);
        assert_eq!(ints(&batch, "remote_addresses"), [Some(2), Some(1)]);
        assert_eq!(ints(&batch, "uid"), [Some(0), Some(1000)], "one that waits belongs to nobody");
        assert_eq!(texts(&batch, "process"), [None, Some("xmr")]);
        assert_eq!(texts(&batch, "unit"), [None, Some("session-3.scope")]);
        assert_eq!(ints(&batch, "opened"), [Some(0), Some(0)]);
        assert_eq!(ints(&batch, "sent_bytes"), [None, None], "the files have no counts");
        assert_eq!(ints(&batch, "send_queue_bytes"), [Some(9), Some(3)]);
        // One closes, one is opened, one is tried in vain.
        set(
            root,
            &[
                before[0],
                before[1],
                ("10.0.0.1:22", "10.0.9.7:50003", 1, 0, 13),
                before[4],
                ("10.0.0.1:52000", "203.0.113.10:3333", 2, 1000, 16),
            ],
        );
        let batch = sample_at(&mut probe, &at(1));
        assert_eq!(ints(&batch, "opened"), [Some(1), Some(1)]);
        assert_eq!(ints(&batch, "closed"), [Some(1), Some(0)]);
        assert_eq!(ints(&batch, "syn_sent"), [Some(0), Some(1)]);
        assert_eq!(floats(&batch, "oldest_seconds"), [Some(60.0), Some(60.0)]);
        set(root, &[before[0], before[4]]);
        let batch = sample_at(&mut probe, &at(2));
        assert_eq!(ints(&batch, "given_up"), [Some(1)]);
        // The totals of the empty group go on when it comes back.
        set(root, &before);
        let batch = sample_at(&mut probe, &at(5));
        assert_eq!(ints(&batch, "closed"), [Some(3), Some(0)]);
        set(root, &[]);
        assert_eq!(sample_at(&mut probe, &at(30)).num_rows(), 0);
        assert!(probe.groups.is_empty() && probe.tracked.is_empty());
    }

    #[test]
    fn beyond_the_bound_groups_are_one_row() {
        let directory = tempfile::tempdir().unwrap();
        let ends: Vec<String> = (1..=5).map(|number| format!("10.0.{number}.1:{}", 1000 + number)).collect();
        let sockets: Vec<_> =
            ends.iter().zip(20..).map(|(end, inode)| ("10.0.0.1:50000", end.as_str(), 1, 0, inode)).collect();
        set(directory.path(), &sockets);
        let options = ConnectionOptions { groups: 3, ..ConnectionOptions::default() };
        let mut probe = ConnectionProbe::new(&HostRoot::new(directory.path()), options);
        let batch = sample_at(&mut probe, &at(0));
        assert_eq!(batch.num_rows(), 4);
        assert_eq!(texts(&batch, "remote_prefix")[3], Some("others"));
        assert_eq!((ints(&batch, "groups")[3], ints(&batch, "connections")[3]), (Some(2), Some(2)));
        assert_eq!(ints(&batch, "opened")[3], None);
    }

    #[test]
    fn our_own_connection_is_seen_with_its_bytes() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut probe =
            ConnectionProbe::new(&HostRoot::new("/"), ConnectionOptions { groups: 5000, ..Default::default() });
        sample_at(&mut probe, &at(0));
        let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(&[7; 10_000]).unwrap();
        let (server, _) = listener.accept().unwrap();
        let batch = sample_at(&mut probe, &at(1));
        let row = ints(&batch, "port").iter().position(|p| *p == Some(i64::from(port))).unwrap();
        assert_eq!(texts(&batch, "direction")[row], Some("in"));
        assert_eq!(texts(&batch, "remote_scope")[row], Some("loopback"));
        assert_eq!(ints(&batch, "opened")[row], Some(1));
        if let Some(received) = ints(&batch, "received_bytes")[row] {
            assert!(received >= 10_000, "{received}");
        }
        drop(server);
    }

    #[test]
    fn settings_are_read_and_mistakes_told() {
        let read = |prefix: &str| {
            let mut settings = Settings::default();
            settings.flag("agent.connection_prefix", Some(prefix));
            let options = ConnectionOptions::read(&mut settings);
            ((options.prefix_ipv4, options.prefix_ipv6), settings.finish().is_ok())
        };
        assert_eq!(read("32,128"), ((32, 128), true));
        assert_eq!(read("33,48"), ((24, 48), false));
        assert_eq!(read("24"), ((24, 48), false));
    }

    #[test]
    fn addresses_have_a_scope() {
        for (address, wanted) in [
            ("127.0.0.0", "loopback"),
            ("::1", "loopback"),
            ("169.254.0.0", "link"),
            ("fe80::", "link"),
            ("172.20.1.0", "private"),
            ("100.64.3.0", "private"),
            ("fd00:1::", "private"),
            ("224.0.0.0", "multicast"),
            ("8.8.8.0", "global"),
            ("2400:3200::", "global"),
        ] {
            assert_eq!(scope(address.parse().unwrap()), wanted, "{address}");
        }
    }

    proptest! {
        #[test]
        fn any_length_makes_a_network(bits: u32, wide: u128, prefix_ipv4: u8, prefix_ipv6: u8) {
            let options = ConnectionOptions { prefix_ipv4, prefix_ipv6, groups: 1 };
            for address in [IpAddr::V4(Ipv4Addr::from_bits(bits)), IpAddr::V6(Ipv6Addr::from_bits(wide))] {
                let once = network(address, &options);
                prop_assert_eq!(network(once, &options), once);
            }
        }
    }
}
