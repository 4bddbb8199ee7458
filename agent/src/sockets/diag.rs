//! `NETLINK_SOCK_DIAG`: the kernel's own list of sockets.
//!
//! A request (`inet_diag_req_v2`) names address family, protocol and the states wanted, and may ask for extras, one bit
//! each. The answer is a message a socket: `inet_diag_msg`, 72 bytes, and attributes. Addresses and ports are in network
//! order, the rest in the machine's. `INET_DIAG_INFO` is `struct tcp_info`, which has grown with the kernel: fields are
//! only ever appended, so a field beyond the end is one this kernel does not have.
//!
//! The modules that answer (`tcp_diag`, `udp_diag`, `inet_diag`) are loaded by the kernel when first asked, so the agent's
//! first question may show in the table of modules. A kernel without them refuses with `ENOENT`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Protocol, Socket, State, TcpFacts, Wanted};
use crate::netlink::{Netlink, NetlinkError, attribute, u8_at, u32_at};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const INET_DIAG_INFO: u16 = 2;

/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;

/// A request for one family.
fn request(family: u8, protocol: Protocol, wanted: Wanted) -> Vec<u8> {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let extras = if protocol == Protocol::Tcp && wanted == Wanted::Connections { 1 << (INET_DIAG_INFO - 1) } else { 0 };
    let mut request = vec![family, number, extras, 0];
    request.extend_from_slice(&wanted.states(protocol).to_ne_bytes());
    // `inet_diag_sockid`: of a dump only the ports count, and 0 is any.
    request.resize(8 + 48, 0);
    request
}

/// Gives out the sockets of one protocol, both families.
pub(super) fn dump(
    netlink: &mut Netlink,
    protocol: Protocol,
    wanted: Wanted,
    give: &mut impl FnMut(&Socket),
) -> Result<(), NetlinkError> {
    for family in [AF_INET, AF_INET6] {
        let request = request(family, protocol, wanted);
        netlink.dump(SOCK_DIAG_BY_FAMILY, &request, |header, body| {
            if header.message_type == SOCK_DIAG_BY_FAMILY
                && let Some(socket) = parse_message(protocol, body)
            {
                give(&socket);
            }
        })?;
    }
    Ok(())
}

/// One socket. `None` for a family or state we do not know, and for a message cut short.
pub(crate) fn parse_message(protocol: Protocol, body: &[u8]) -> Option<Socket> {
    let attributes = body.get(MESSAGE..)?;
    let family = u8_at(body, 0)?;
    let state = State::of(u8_at(body, 1)?)?;
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| -> Option<IpAddr> {
        Some(match family {
            AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(body.get(at..at + 4)?).ok()?)),
            AF_INET6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(body.get(at..at + 16)?).ok()?)).to_canonical(),
            _ => return None,
        })
    };
    let inode = u64::from(u32_at(body, 68)?);
    let belongs_to_nobody = inode == 0 && matches!(state, State::TimeWait | State::SynReceived);
    Some(Socket {
        protocol,
        state,
        is_ipv6: family == AF_INET6,
        local_port: port(4)?,
        remote_port: port(6)?,
        local: address(8)?,
        remote: address(24)?,
        interface: u32_at(body, 40)?,
        cookie: u64::from(u32_at(body, 44)?) | u64::from(u32_at(body, 48)?) << 32,
        receive_queue: u32_at(body, 56)?,
        send_queue: u32_at(body, 60)?,
        uid: u32_at(body, 64).filter(|_| !belongs_to_nobody),
        inode,
        tcp: (protocol == Protocol::Tcp)
            .then(|| attribute(attributes, INET_DIAG_INFO).filter(|info| !info.is_empty()).map(parse_tcp_info))
            .flatten(),
    })
}

/// `struct tcp_info`, as much of it as there is.
fn parse_tcp_info(info: &[u8]) -> TcpFacts {
    let wide = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    TcpFacts {
        // 0 before the first answer has come.
        rtt_microseconds: u32_at(info, 68).filter(|rtt| *rtt > 0),
        retransmits: u32_at(info, 100),
        sent_bytes: wide(120),
        received_bytes: wide(128),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::put_attribute;

    /// A message as the kernel makes it.
    pub(crate) fn message(family: u8, state: u8, local: (&[u8], u16), remote: (&[u8], u16), inode: u32) -> Vec<u8> {
        let mut bytes = vec![family, state, 0, 0];
        bytes.extend_from_slice(&local.1.to_be_bytes());
        bytes.extend_from_slice(&remote.1.to_be_bytes());
        for address in [local.0, remote.0] {
            let mut field = address.to_vec();
            field.resize(16, 0);
            bytes.extend_from_slice(&field);
        }
        for number in [3_u32, 0x1111_2222, 7, 0, 5, 6, 1000, inode] {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
        assert_eq!(bytes.len(), MESSAGE);
        bytes
    }

    fn tcp_info(length: usize) -> Vec<u8> {
        let mut info = vec![0; 232];
        info[68..72].copy_from_slice(&1500_u32.to_ne_bytes());
        info[100..104].copy_from_slice(&4_u32.to_ne_bytes());
        info[120..128].copy_from_slice(&5_000_000_000_u64.to_ne_bytes());
        info[128..136].copy_from_slice(&77_u64.to_ne_bytes());
        info.truncate(length);
        info
    }

    #[test]
    fn a_message_is_read_field_by_field() {
        let mut bytes = message(AF_INET, 1, (&[10, 1, 2, 3], 40_000), (&[192, 0, 2, 9], 443), 4711);
        put_attribute(&mut bytes, 8, &[3]);
        put_attribute(&mut bytes, INET_DIAG_INFO, &tcp_info(232));
        let socket = parse_message(Protocol::Tcp, &bytes).unwrap();
        let wanted = Socket {
            protocol: Protocol::Tcp,
            state: State::Established,
            is_ipv6: false,
            local: "10.1.2.3".parse().unwrap(),
            local_port: 40_000,
            remote: "192.0.2.9".parse().unwrap(),
            remote_port: 443,
            interface: 3,
            uid: Some(1000),
            inode: 4711,
            cookie: 0x7_1111_2222,
            receive_queue: 5,
            send_queue: 6,
            tcp: Some(TcpFacts {
                rtt_microseconds: Some(1500),
                retransmits: Some(4),
                sent_bytes: Some(5_000_000_000),
                received_bytes: Some(77),
            }),
        };
        assert_eq!(socket, wanted);
    }

    #[test]
    fn an_older_kernel_says_less() {
        let mut bytes = message(AF_INET, 1, (&[10, 1, 2, 3], 1), (&[10, 1, 2, 4], 2), 1);
        put_attribute(&mut bytes, INET_DIAG_INFO, &tcp_info(104));
        let facts = parse_message(Protocol::Tcp, &bytes).unwrap().tcp.unwrap();
        assert_eq!((facts.retransmits, facts.sent_bytes), (Some(4), None));
        let bare = message(AF_INET, 1, (&[10, 1, 2, 3], 1), (&[10, 1, 2, 4], 2), 1);
        assert_eq!(parse_message(Protocol::Tcp, &bare).unwrap().tcp, None);
    }

    #[test]
    fn mapped_addresses_are_those_of_ipv4_and_nobodys_sockets_have_no_user() {
        let mapped: Vec<u8> = "::ffff:198.51.100.7".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        let bytes = message(AF_INET6, 6, (&mapped, 22), (&mapped, 50_000), 0);
        let socket = parse_message(Protocol::Tcp, &bytes).unwrap();
        assert_eq!(socket.remote, "198.51.100.7".parse::<IpAddr>().unwrap());
        assert_eq!((socket.is_ipv6, socket.uid, socket.state), (true, None, State::TimeWait));
        let unknown = message(1, 1, (&[], 0), (&[], 0), 0);
        assert_eq!(parse_message(Protocol::Tcp, &unknown), None);
    }

    #[test]
    fn a_request_has_the_size_the_kernel_wants() {
        let bytes = request(AF_INET6, Protocol::Tcp, Wanted::Connections);
        assert_eq!((bytes.len(), bytes[0], bytes[1], bytes[2]), (56, 10, 6, 2));
        assert_eq!(request(AF_INET, Protocol::Udp, Wanted::Listeners)[..3], [2, 17, 0]);
    }

    proptest! {
        #[test]
        fn garbage_is_no_socket_or_some_socket(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_message(Protocol::Tcp, &bytes);
            let _ = parse_tcp_info(&bytes);
        }

        #[test]
        fn a_message_cut_short_is_none(length in 0..MESSAGE) {
            let bytes = message(AF_INET, 1, (&[10, 1, 2, 3], 1), (&[10, 1, 2, 4], 2), 1);
            prop_assert_eq!(parse_message(Protocol::Tcp, &bytes[..length]), None);
        }
    }
}
