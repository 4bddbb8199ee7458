//! Netlink: asking the running kernel over a socket instead of reading text out of `/proc`.
//!
//! One request and the answer is a *dump*: every interface with all its counters, every TCP socket with its state, as
//! binary structures. That is one system call where `/sys` would cost a file for each value, and for sockets it is the
//! only cheap way there is: `/proc/net/tcp` takes the lock of every hash bucket and formats each line.
//!
//! What goes over the socket is a chain of messages. A message is a header of 16 bytes (length, type, flags, sequence
//! number, port), then a structure that depends on the type, then attributes: length, type, value, each padded to four
//! bytes. Numbers are in the machine's own byte order unless a protocol says otherwise (addresses and ports of sockets
//! are in the network's). Attributes may hold attributes. Newer kernels append fields and attributes, so every length is
//! taken from the message, and what is not known is passed over.
//!
//! A dump ends with a message `DONE`. Each receive carries as many messages as fit 32 KiB, which is as much as the kernel
//! packs into one. It is made while we receive, so it is not a snapshot: where something changed in between, the kernel
//! marks it and [`Dumped::is_interrupted`] says so. No privilege is needed for what the agent asks.
//!
//! After any error the socket is thrown away and the next request opens another: a dump left half read would mix with
//! the next.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with};

/// Which part of the kernel is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetlinkProtocol {
    /// Interfaces, addresses, routes, neighbours: `NETLINK_ROUTE`.
    Route,
    /// Sockets: `NETLINK_SOCK_DIAG`.
    SockDiag,
    /// Families that are numbered at run time: `NETLINK_GENERIC`.
    Generic,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// The socket: opening, sending, receiving. `WouldBlock` is a kernel that did not answer in time.
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused: not permitted, no such device, not built in.
    #[error("the kernel refuses a netlink request: {0}")]
    Refused(io::Error),
    /// The answer is not in the form documented, or longer than anything sensible.
    #[error("netlink: {0}")]
    Malformed(&'static str),
}

/// What the header of a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// What the body is: `RTM_NEWLINK`, …
    pub(crate) message_type: u16,
    /// `NLM_F_…`.
    pub(crate) flags: u16,
    /// Number of the request it answers.
    pub(crate) sequence: u32,
}

/// How a dump went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dumped {
    /// Messages given out.
    pub(crate) messages: u64,
    /// Something changed while the kernel was at it: an entry may be missing or come twice.
    pub(crate) is_interrupted: bool,
}

const HEADER: usize = 16;

/// The kernel packs no more than this into one receive, and never less than a message.
const BUFFER: usize = 32 << 10;

/// The kernel answers at once or waits for a lock.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// A dump that takes longer is given up: a million sockets take a second.
const DUMP_TIMEOUT: Duration = Duration::from_secs(10);

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;

const NOOP: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const OVERRUN: u16 = 4;

/// One conversation with one part of the kernel.
#[derive(Debug)]
pub(crate) struct Netlink {
    protocol: NetlinkProtocol,
    socket: Option<OwnedFd>,
    sequence: u32,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens the socket.
    ///
    /// # Errors
    /// When this kernel has none of the kind.
    pub(crate) fn open(protocol: NetlinkProtocol) -> Result<Self, NetlinkError> {
        let socket = Some(open_socket(protocol)?);
        Ok(Self { protocol, socket, sequence: 0, request: Vec::new(), buffer: vec![0; BUFFER] })
    }

    /// Asks for everything of a kind and gives each message of the answer, header and body. `payload` is what follows
    /// the header of the request: the structure that the type wants, then attributes (see [`put_attribute`]).
    ///
    /// # Errors
    /// When the answer does not come whole. Messages given out before are as good as any.
    pub(crate) fn dump(
        &mut self,
        message_type: u16,
        payload: &[u8],
        each: impl FnMut(Header, &[u8]),
    ) -> Result<Dumped, NetlinkError> {
        self.exchange(message_type, REQUEST | DUMP, payload, each)
    }

    /// Asks about one thing.
    ///
    /// # Errors
    /// As [`Netlink::dump`].
    pub(crate) fn ask(
        &mut self,
        message_type: u16,
        payload: &[u8],
        each: impl FnMut(Header, &[u8]),
    ) -> Result<Dumped, NetlinkError> {
        self.exchange(message_type, REQUEST | ACKNOWLEDGE, payload, each)
    }

    fn exchange(
        &mut self,
        message_type: u16,
        flags: u16,
        payload: &[u8],
        mut each: impl FnMut(Header, &[u8]),
    ) -> Result<Dumped, NetlinkError> {
        // Taken out, and put back only after an answer that came whole.
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => open_socket(self.protocol)?,
        };
        self.sequence = self.sequence.wrapping_add(1).max(1);
        put_message(&mut self.request, message_type, flags, self.sequence, payload)?;
        retried(|| send(&socket, &self.request, SendFlags::empty()))?;
        let deadline = Instant::now() + DUMP_TIMEOUT;
        let mut dumped = Dumped::default();
        loop {
            // With TRUNC the length is that of what was sent, also where the buffer was too short for it.
            let (kept, length) = retried(|| recv(&socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC))?;
            if length > kept {
                return Err(NetlinkError::Malformed("a message longer than the kernel's own bound"));
            }
            let received = self.buffer.get(..kept).unwrap_or_default();
            match take_in(received, self.sequence, &mut dumped, &mut each) {
                Ok(true) => break,
                Ok(false) => {}
                // A refusal ends the exchange too: nothing more comes.
                Err(error @ NetlinkError::Refused(_)) => {
                    self.socket = Some(socket);
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
        }
        self.socket = Some(socket);
        Ok(dumped)
    }
}

fn open_socket(protocol: NetlinkProtocol) -> io::Result<OwnedFd> {
    let protocol = match protocol {
        NetlinkProtocol::Route => None, // Number 0, which is also the default.
        NetlinkProtocol::SockDiag => Some(netlink::SOCK_DIAG),
        NetlinkProtocol::Generic => Some(netlink::GENERIC),
    };
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    // Port 0 is the kernel. Connected to it, the socket takes nothing from other processes.
    connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(RECEIVE_TIMEOUT))?;
    Ok(socket)
}

/// A signal is no reason to give up.
fn retried<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// Gives out the messages of one receive. Whether the answer ended with it.
fn take_in(
    received: &[u8],
    sequence: u32,
    dumped: &mut Dumped,
    each: &mut impl FnMut(Header, &[u8]),
) -> Result<bool, NetlinkError> {
    for (header, body) in messages(received) {
        // What is left of an earlier request, and what nobody asked for.
        if header.sequence != sequence {
            continue;
        }
        dumped.is_interrupted |= header.flags & DUMP_INTERRUPTED != 0;
        match header.message_type {
            NOOP => {}
            // Both carry a negative error number, or 0: then `ERROR` is an acknowledgement.
            DONE | ERROR => match i32_at(body, 0) {
                Some(code) if code < 0 => {
                    return Err(NetlinkError::Refused(io::Error::from_raw_os_error(code.saturating_neg())));
                }
                None if header.message_type == ERROR => return Err(NetlinkError::Malformed("an error without number")),
                _ => return Ok(true),
            },
            OVERRUN => return Err(NetlinkError::Malformed("data were lost")),
            _ => {
                dumped.messages += 1;
                each(header, body);
            }
        }
    }
    Ok(false)
}

fn put_message(
    request: &mut Vec<u8>,
    message_type: u16,
    flags: u16,
    sequence: u32,
    payload: &[u8],
) -> Result<(), NetlinkError> {
    let length = u32::try_from(HEADER + payload.len()).map_err(|_| NetlinkError::Malformed("a request too long"))?;
    request.clear();
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&message_type.to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.extend_from_slice(&sequence.to_ne_bytes());
    request.extend_from_slice(&[0; 4]); // Our port: the kernel knows it.
    request.extend_from_slice(payload);
    Ok(())
}

/// The messages of one receive: header and body. Ends at the first whose length cannot be.
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let header = Header { message_type: u16_at(rest, 4)?, flags: u16_at(rest, 6)?, sequence: u32_at(rest, 8)? };
        let body = rest.get(HEADER..length)?;
        rest = rest.get(padded(length)..).unwrap_or_default();
        Some((header, body))
    })
}

/// The attributes of a message's tail, or of an attribute that holds others: type, without its flags, and value. Ends
/// at the first whose length cannot be.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const ATTRIBUTE_HEADER: usize = 4;
    /// The two bits above say that the value is nested, and that it is in the network's byte order.
    const TYPE: u16 = 0x3fff;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let attribute_type = u16_at(rest, 2)? & TYPE;
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        rest = rest.get(padded(length)..).unwrap_or_default();
        Some((attribute_type, value))
    })
}

/// The first attribute of that type.
pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(attribute_type, _)| *attribute_type == wanted).map(|(_, value)| value)
}

/// Appends an attribute, padded. One longer than 64 KiB is left out: there is no such thing.
pub(crate) fn put_attribute(payload: &mut Vec<u8>, attribute_type: u16, value: &[u8]) {
    let Ok(length) = u16::try_from(4 + value.len()) else { return };
    payload.extend_from_slice(&length.to_ne_bytes());
    payload.extend_from_slice(&attribute_type.to_ne_bytes());
    payload.extend_from_slice(value);
    payload.resize(padded(payload.len()), 0);
}

fn padded(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// So many bytes from there on, as they lie.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A number of one byte.
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// A number of two bytes, in the machine's order.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

/// A number of four bytes, in the machine's order.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

/// A signed number of four bytes, in the machine's order.
pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array_at(bytes, at).map(i32::from_ne_bytes)
}

/// A number of eight bytes, in the machine's order. The kernel aligns them to four only.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_ne_bytes)
}

/// Text up to its NUL; `None` for what is empty or no UTF-8.
pub(crate) fn text_of(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(bytes.get(..end)?).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
pub(crate) mod testing {
    use super::{NetlinkError, put_message};

    /// A message as the kernel would send it.
    pub(crate) fn message(message_type: u16, flags: u16, sequence: u32, body: &[u8]) -> Result<Vec<u8>, NetlinkError> {
        let mut bytes = Vec::new();
        put_message(&mut bytes, message_type, flags, sequence, body)?;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::message;
    use super::*;

    /// What `take_in` makes of these bytes: types and bodies of the messages given out, and the outcome.
    fn taken(received: &[u8], sequence: u32) -> (Vec<(u16, Vec<u8>)>, Dumped, Result<bool, NetlinkError>) {
        let mut given = Vec::new();
        let mut dumped = Dumped::default();
        let outcome = take_in(received, sequence, &mut dumped, &mut |header, body: &[u8]| {
            given.push((header.message_type, body.to_vec()));
        });
        (given, dumped, outcome)
    }

    #[test]
    fn a_dump_is_its_messages_and_an_end() {
        let mut received = message(16, 2, 7, &[1, 2, 3]).unwrap();
        received.extend(message(16, 2 | DUMP_INTERRUPTED, 7, &[4; 8]).unwrap());
        received.extend(message(16, 2, 6, &[9; 4]).unwrap());
        let (given, dumped, outcome) = taken(&received, 7);
        assert_eq!(given, [(16, vec![1, 2, 3]), (16, vec![4; 8])], "a message of another request is passed over");
        assert_eq!(dumped, Dumped { messages: 2, is_interrupted: true });
        assert!(matches!(outcome, Ok(false)), "there is more to come");
        received.extend(message(DONE, 2, 7, &0i32.to_ne_bytes()).unwrap());
        assert!(matches!(taken(&received, 7).2, Ok(true)));
    }

    #[test]
    fn a_refusal_has_the_kernels_number() {
        for message_type in [ERROR, DONE] {
            let (_, _, outcome) = taken(&message(message_type, 0, 1, &(-1i32).to_ne_bytes()).unwrap(), 1);
            match outcome {
                Err(NetlinkError::Refused(error)) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(taken(&message(ERROR, 0, 1, &0i32.to_ne_bytes()).unwrap(), 1).2, Ok(true)));
        assert!(matches!(taken(&message(ERROR, 0, 1, &[]).unwrap(), 1).2, Err(NetlinkError::Malformed(_))));
        assert!(matches!(taken(&message(OVERRUN, 0, 1, &[]).unwrap(), 1).2, Err(NetlinkError::Malformed(_))));
        let smallest = message(ERROR, 0, 1, &i32::MIN.to_ne_bytes()).unwrap();
        assert!(matches!(taken(&smallest, 1).2, Err(NetlinkError::Refused(_))));
    }

    #[test]
    fn attributes_are_padded_and_their_flags_no_part_of_the_type() {
        let mut payload = Vec::new();
        put_attribute(&mut payload, 3, b"eth0\0");
        put_attribute(&mut payload, 0x8000 | 18, &[1]);
        put_attribute(&mut payload, 4, &1500u32.to_ne_bytes());
        assert_eq!(payload.len() % 4, 0);
        let found: Vec<_> = attributes(&payload).collect();
        assert_eq!(found, [(3, &b"eth0\0"[..]), (18, &[1][..]), (4, &1500u32.to_ne_bytes()[..])]);
        assert_eq!(attribute(&payload, 3).and_then(text_of), Some("eth0"));
        assert_eq!(attribute(&payload, 5), None);
        put_attribute(&mut payload, 9, &vec![0; 70_000]);
        assert_eq!(attributes(&payload).count(), 3, "what has no place in the length is left out");
    }

    #[test]
    fn the_last_attribute_may_lack_its_padding_and_a_length_that_cannot_be_ends_all() {
        let bytes = [6u16.to_ne_bytes(), 1u16.to_ne_bytes(), [7, 8]].concat();
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(1, &[7, 8][..])]);
        for length in [0u16, 3, 7, u16::MAX] {
            let bytes = [length.to_ne_bytes(), 1u16.to_ne_bytes(), [7, 8]].concat();
            assert_eq!(attributes(&bytes).count(), 0, "{length}");
        }
    }

    #[test]
    fn the_kernel_answers() {
        let mut netlink = Netlink::open(NetlinkProtocol::Route).unwrap();
        for _ in 0..2 {
            let mut names = Vec::new();
            // RTM_GETLINK with an empty ifinfomsg; IFLA_IFNAME is 3.
            let dumped = netlink
                .dump(18, &[0; 16], |_, body| {
                    names.extend(body.get(16..).and_then(|b| attribute(b, 3)).and_then(text_of).map(str::to_owned));
                })
                .unwrap();
            assert_eq!(dumped.messages, u64::try_from(names.len()).unwrap());
            assert!(names.iter().any(|name| name == "lo"), "{names:?}");
        }
        // RTM_GETLINK of an interface that is not there: refused, and the conversation goes on.
        let mut payload = vec![0; 16];
        put_attribute(&mut payload, 3, b"nosuch-if0\0");
        assert!(matches!(netlink.ask(18, &payload, |_, _| ()), Err(NetlinkError::Refused(_))));
        assert!(netlink.dump(18, &[0; 16], |_, _| ()).is_ok());
        assert!(Netlink::open(NetlinkProtocol::Generic).is_ok());
        assert!(Netlink::open(NetlinkProtocol::SockDiag).is_ok());
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..400), sequence in 0u32..3) {
            for (_, body) in messages(&bytes) {
                attributes(body).count();
            }
            for (_, value) in attributes(&bytes) {
                attributes(value).count();
            }
            let _ = taken(&bytes, sequence);
            text_of(&bytes);
            for at in [0, 1, 399, usize::MAX] {
                u8_at(&bytes, at);
                u64_at(&bytes, at);
            }
        }

        #[test]
        fn what_is_put_is_found(parts in prop::collection::vec((0u16..0x3fff, prop::collection::vec(any::<u8>(), 0..40)), 0..10)) {
            let mut payload = Vec::new();
            for (attribute_type, value) in &parts {
                put_attribute(&mut payload, *attribute_type, value);
            }
            let found: Vec<_> = attributes(&payload).map(|(t, v)| (t, v.to_vec())).collect();
            prop_assert_eq!(found, parts);
        }
    }
}
