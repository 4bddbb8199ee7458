//! The sockets of this host: who listens where, and who talks to whom.
//!
//! Two sources. The running kernel answers over netlink ([`diag`]): binary structures, only the states asked for, and
//! with TCP's own counts of each connection. For a recorded machine, for a kernel without the answering module and for
//! an agent that lives in a network namespace of its own there are the files `/proc/net/{tcp,tcp6,udp,udp6}` ([`text`]),
//! which hold less and cost more.
//!
//! A socket has a user and an inode number, and no process: several may hold it. Which one does is found by looking
//! through the open files of all processes ([`owners`]), which is dear and is done seldom.
//!
//! **Traps.** All of this is about one network namespace: sockets of containers that have a namespace of their own are
//! not seen from the host's. A socket that waits for late packets (`TIME_WAIT`) and one whose handshake is not finished
//! (`SYN_RECV`) belong to nobody: their user and inode read 0. UDP has no state of listening; a socket with a port and
//! without a peer is as near as it gets. IPv4 peers of an IPv6 socket appear as `::ffff:a.b.c.d` and are given here as the
//! IPv4 addresses that they are.

pub(crate) mod diag;
pub(crate) mod owners;
pub(crate) mod text;

use std::fs;
use std::net::IpAddr;

use crate::host_root::HostRoot;
use crate::netlink::{Netlink, NetlinkError, NetlinkProtocol};
use crate::probe::ProbeError;

/// Sockets looked at in one go. A host with more is told about these, and how many were left out.
pub(crate) const MAX_SOCKETS: u64 = 200_000;

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub(crate) const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As it is written in rows.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The states of TCP, by the kernel's numbers. UDP borrows two of them: `Established` has a peer, `Close` has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Established = 1,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl State {
    /// How many there are, and one for the number 0 that none has.
    pub(crate) const COUNT: usize = 12;

    /// By the kernel's number.
    pub(crate) fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            2 => Self::SynSent,
            // 12 is how the kernel keeps a handshake that it answers; it reports it as 3, and newer ones may not.
            3 | 12 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => return None,
        })
    }
}

/// What TCP has counted for one connection. What this kernel does not say is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TcpFacts {
    /// Smoothed round-trip time.
    pub(crate) rtt_microseconds: Option<u32>,
    /// Segments sent again.
    pub(crate) retransmits: Option<u32>,
    /// Bytes the peer has acknowledged.
    pub(crate) sent_bytes: Option<u64>,
    /// Bytes received in order.
    pub(crate) received_bytes: Option<u64>,
}

/// One socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) protocol: Protocol,
    pub(crate) state: State,
    /// Whether it is a socket of IPv6, whatever its addresses.
    pub(crate) is_ipv6: bool,
    pub(crate) local: IpAddr,
    pub(crate) local_port: u16,
    pub(crate) remote: IpAddr,
    pub(crate) remote_port: u16,
    /// Number of the interface it is bound to; 0 for none.
    pub(crate) interface: u32,
    /// `None` where the socket belongs to nobody.
    pub(crate) uid: Option<u32>,
    /// 0 where the socket belongs to nobody.
    pub(crate) inode: u64,
    /// Tells it apart from every other since boot. The inode, where the source has no such number; 0 for none at all.
    pub(crate) cookie: u64,
    /// Bytes received and not yet taken by the program; of a listening one, connections that wait to be accepted.
    pub(crate) receive_queue: u32,
    /// Bytes not yet acknowledged; of a listening one, how many may wait.
    pub(crate) send_queue: u32,
    pub(crate) tcp: Option<TcpFacts>,
}

/// Which sockets are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Those that wait for others.
    Listeners,
    /// Those with a peer.
    Connections,
}

impl Wanted {
    /// The states that count, one bit each.
    pub(crate) fn states(self, protocol: Protocol) -> u32 {
        let bit = |state: State| 1_u32 << state as u32;
        match (self, protocol) {
            (Self::Listeners, Protocol::Tcp) => bit(State::Listen),
            (Self::Listeners, Protocol::Udp) => bit(State::Close),
            (Self::Connections, Protocol::Tcp) => 0b1111_1111_1110 & !bit(State::Listen) & !bit(State::Close),
            (Self::Connections, Protocol::Udp) => bit(State::Established),
        }
    }

    /// Whether a socket is one of them.
    pub(crate) fn includes(self, socket: &Socket) -> bool {
        // A UDP socket without a port has not been used yet.
        self.states(socket.protocol) & (1 << socket.state as u32) != 0
            && (socket.protocol == Protocol::Tcp || socket.local_port != 0)
    }
}

/// How a reading went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Sockets given out.
    pub(crate) sockets: u64,
    /// Sockets beyond [`MAX_SOCKETS`]. The files are not read on to count them: then it is 1 for "some".
    pub(crate) left_out: u64,
}

/// The sockets of one host.
#[derive(Debug)]
pub(crate) struct Sockets {
    root: HostRoot,
    source: Option<Source>,
}

#[derive(Debug)]
struct Source {
    /// Below `/proc`.
    directory: &'static str,
    netlink: Option<Netlink>,
    /// Protocols about which this kernel answers nothing. Asking again would have it look for a module again.
    refused: Vec<Protocol>,
}

impl Sockets {
    /// Those of the host below `root`.
    pub(crate) fn new(root: &HostRoot) -> Self {
        Self { root: root.clone(), source: None }
    }

    /// Gives out every socket wanted.
    ///
    /// # Errors
    /// When neither source has anything to say.
    pub(crate) fn each(&mut self, wanted: Wanted, mut each: impl FnMut(&Socket)) -> Result<Reading, ProbeError> {
        let root = &self.root;
        let source = self.source.get_or_insert_with(|| Source::of(root));
        let mut reading = Reading::default();
        let mut give = |socket: &Socket| {
            if !wanted.includes(socket) {
                return;
            }
            if reading.sockets < MAX_SOCKETS {
                reading.sockets += 1;
                each(socket);
            } else {
                reading.left_out += 1;
            }
        };
        for protocol in Protocol::ALL {
            if let Some(netlink) = &mut source.netlink
                && !source.refused.contains(&protocol)
            {
                match diag::dump(netlink, protocol, wanted, &mut give) {
                    Ok(()) => continue,
                    Err(NetlinkError::Refused(_)) => source.refused.push(protocol),
                    // Half an answer would read as sockets gone.
                    Err(error) => {
                        return Err(ProbeError::Driver { library: "sock_diag", message: error.to_string() });
                    }
                }
            }
            text::read(&root.proc(source.directory), protocol, &mut give)?;
        }
        Ok(reading)
    }
}

impl Source {
    fn of(root: &HostRoot) -> Self {
        let is_live = root.is_this_machine();
        // Where the host's first process lives in another network namespace than we do, netlink would tell of ours.
        let elsewhere = is_live
            && fs::read_link("/proc/self/ns/net")
                .is_ok_and(|ours| fs::read_link(root.proc("1/ns/net")).is_ok_and(|theirs| theirs != ours));
        Self {
            directory: if elsewhere { "1/net" } else { "net" },
            netlink: (is_live && !elsewhere).then(|| Netlink::open(NetlinkProtocol::SockDiag).ok()).flatten(),
            refused: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn all(sockets: &mut Sockets, wanted: Wanted) -> Vec<Socket> {
        let mut found = Vec::new();
        sockets.each(wanted, |socket| found.push(*socket)).unwrap();
        found
    }

    /// The same questions to both sources of the machine the test runs on.
    #[test]
    fn our_own_sockets_are_seen_by_netlink_and_in_the_files() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let port = listener.local_addr().unwrap().port();
        let root = HostRoot::new("/");
        let files = Source { directory: "net", netlink: None, refused: Vec::new() };
        for source in [Source::of(&root), files] {
            let mut sockets = Sockets { root: root.clone(), source: Some(source) };
            let listening = all(&mut sockets, Wanted::Listeners);
            assert!(listening.iter().any(|s| s.protocol == Protocol::Tcp && s.local_port == port));
            let udp_port = udp.local_addr().unwrap().port();
            assert!(listening.iter().any(|s| s.protocol == Protocol::Udp && s.local_port == udp_port));
            let connected = all(&mut sockets, Wanted::Connections);
            let ours = connected.iter().find(|s| s.local_port == client.local_addr().unwrap().port()).unwrap();
            assert_eq!((ours.remote_port, ours.state), (port, State::Established));
            assert_ne!((ours.inode, ours.cookie), (0, 0));
            assert!(!connected.iter().any(|s| s.state == State::Listen));
        }
        drop(server);
    }

    #[test]
    fn a_host_without_the_files_is_an_error_and_states_are_the_kernels() {
        let directory = tempfile::tempdir().unwrap();
        let mut sockets = Sockets::new(&HostRoot::new(directory.path()));
        assert!(sockets.each(Wanted::Listeners, |_| {}).is_err());
        assert_eq!(Wanted::Listeners.states(Protocol::Tcp), 1 << 10);
        assert_eq!(Wanted::Connections.states(Protocol::Tcp), 0b1011_0111_1110);
        for number in 1..=11 {
            assert_eq!(State::of(number).unwrap() as u8, number);
        }
        assert_eq!(State::of(0), None);
        assert_eq!(State::of(13), None);
    }
}
