//! `/proc/net/{tcp,tcp6,udp,udp6}`: the sockets as lines of text.
//!
//! A line is `sl: LOCAL:PORT REMOTE:PORT ST TX:RX TR:WHEN RETRANSMITS UID TIMEOUT INODE …`, all but the last three in
//! hexadecimal. Ports are numbers; an address is one 32-bit word (four for IPv6), printed as this machine reads the bytes
//! that lie in network order: on x86, 127.0.0.1 is `0100007F`.
//!
//! The kernel makes these files while they are read, bucket by bucket. They are read line by line and no further than
//! [`MAX_SOCKETS`], so that a host with a million connections costs no more than that.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::{MAX_SOCKETS, Protocol, Socket, State};
use crate::probe::ProbeError;

/// A line is some 150 bytes.
const MAX_LINE: u64 = 1024;

/// Gives out the sockets of one protocol, both families. A host may have no IPv6, so only the first file must be there.
pub(super) fn read(directory: &Path, protocol: Protocol, give: &mut impl FnMut(&Socket)) -> Result<(), ProbeError> {
    let name = protocol.as_str();
    let mut lines = 0;
    for (name, is_ipv6) in [(name.to_owned(), false), (format!("{name}6"), true)] {
        let path = directory.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(_) if is_ipv6 => continue,
            Err(source) => return Err(ProbeError::Read { path: path.display().to_string(), source }),
        };
        let mut reader = BufReader::with_capacity(16 << 10, file);
        let mut line = Vec::with_capacity(256);
        loop {
            line.clear();
            let length = (&mut reader)
                .take(MAX_LINE)
                .read_until(b'\n', &mut line)
                .map_err(|source| ProbeError::Read { path: path.display().to_string(), source })?;
            if length == 0 {
                break;
            }
            if let Some(socket) = std::str::from_utf8(&line).ok().and_then(|line| parse_line(protocol, is_ipv6, line)) {
                give(&socket);
            }
            lines += 1;
            // One more than is given out, so that it is seen that some were left out.
            if lines > MAX_SOCKETS {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// One line. `None` for the heading and for what is no such line.
pub(super) fn parse_line(protocol: Protocol, is_ipv6: bool, line: &str) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, local_port) = parse_end(is_ipv6, words.next()?)?;
    let (remote, remote_port) = parse_end(is_ipv6, words.next()?)?;
    let state = State::of(u8::from_str_radix(words.next()?, 16).ok()?)?;
    let (send_queue, receive_queue) = words.next()?.split_once(':')?;
    let mut words = words.skip(2);
    let uid: u32 = words.next()?.parse().ok()?;
    let mut words = words.skip(1);
    let inode: u64 = words.next()?.parse().ok()?;
    Some(Socket {
        protocol,
        state,
        is_ipv6,
        local,
        local_port,
        remote,
        remote_port,
        interface: 0,
        uid: (inode != 0).then_some(uid),
        inode,
        cookie: inode,
        receive_queue: u32::from_str_radix(receive_queue, 16).ok()?,
        send_queue: u32::from_str_radix(send_queue, 16).ok()?,
        tcp: None,
    })
}

/// `0100007F:0016`
fn parse_end(is_ipv6: bool, word: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = word.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let four = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    if is_ipv6 {
        let mut bytes = [0_u8; 16];
        for (place, part) in bytes.chunks_exact_mut(4).enumerate() {
            part.copy_from_slice(&four(place * 8)?);
        }
        (address.len() == 32).then(|| (IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical(), port))
    } else {
        (address.len() == 8).then_some((IpAddr::V4(Ipv4Addr::from(four(0)?)), port))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    #[test]
    fn lines_are_read() {
        let word = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let line = format!(
            "   0: {}:0016 {}:C350 01 00000010:00000002 02:000A 00000000  1001        0 31337 2 0 20 4 30 10 -1",
            word([10, 0, 0, 1]),
            word([10, 0, 0, 2])
        );
        let socket = parse_line(Protocol::Tcp, false, &line).unwrap();
        assert_eq!((socket.local, socket.local_port), ("10.0.0.1".parse().unwrap(), 22));
        assert_eq!((socket.remote, socket.remote_port), ("10.0.0.2".parse().unwrap(), 50_000));
        assert_eq!((socket.state, socket.uid, socket.inode), (State::Established, Some(1001), 31_337));
        assert_eq!((socket.send_queue, socket.receive_queue), (16, 2));
        let nothing = word([0; 4]);
        let wide = nothing.repeat(4);
        let line = format!("1: {wide}:0050 {wide}:0000 0A 0:0 0:0 0 0 0 99");
        let socket = parse_line(Protocol::Tcp, true, &line).unwrap();
        assert!(socket.local.is_unspecified() && socket.is_ipv6 && socket.state == State::Listen);
        let line = format!("1: {nothing}:0050 {nothing}:0000 06 0:0 0:0 0 0 0 0");
        assert_eq!(parse_line(Protocol::Tcp, false, &line).unwrap().uid, None);
        assert_eq!(parse_line(Protocol::Tcp, false, "  sl  local_address rem_address   st tx_queue"), None);
    }

    proptest! {
        #[test]
        fn garbage_is_no_socket(text in garbage(), is_ipv6: bool) {
            for line in text.lines() {
                let _ = parse_line(Protocol::Udp, is_ipv6, line);
            }
        }

        #[test]
        fn nearly_a_line(text in "1: [0-9A-F]{7,33}:[0-9A-F]{1,5} [0-9A-F]{8}:[0-9A-F]{4} [0-9A-F]{2} 0:0 0:0 0 [0-9]{1,12} 0 [0-9]{1,22}") {
            let _ = parse_line(Protocol::Tcp, false, &text);
            let _ = parse_line(Protocol::Tcp, true, &text);
        }
    }
}
