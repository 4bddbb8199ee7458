//! The records of `wtmp`, `btmp` and `utmp`: who has a terminal, and who failed to get one.
//!
//! All three are plain sequences of one C structure that has been the same since glibc 2. It is 384 bytes where the
//! 64-bit system had to share its files with a 32-bit one (x86-64, POWER, s390): times are 32-bit seconds, which end in
//! 2038. Elsewhere (Arm, RISC-V, LoongArch) it is 400 bytes with 64-bit times. Distributions are leaving these files for
//! databases (`wtmpdb`, `lastlog2`: SQLite), which are not read here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where the times are, and how long a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// 384 bytes.
    Narrow,
    /// 400 bytes.
    Wide,
}

impl Layout {
    /// That of the machine this is built for.
    pub(super) const HERE: Self = if cfg!(any(
        target_arch = "x86_64",
        target_arch = "powerpc64",
        target_arch = "s390x",
        target_pointer_width = "32"
    )) {
        Self::Narrow
    } else {
        Self::Wide
    };

    /// Bytes of a record.
    pub(super) const fn size(self) -> usize {
        match self {
            Self::Narrow => 384,
            Self::Wide => 400,
        }
    }
}

/// A terminal was taken.
pub(super) const USER_PROCESS: i16 = 7;

/// A terminal was given back.
pub(super) const DEAD_PROCESS: i16 = 8;

/// One record. In `btmp` the type is that of a login that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: i16,
    pub(super) pid: i64,
    /// Terminal without `/dev/`; `ssh:notty` in `btmp`.
    pub(super) line: String,
    pub(super) user: String,
    pub(super) host: String,
    pub(super) address: Option<IpAddr>,
    /// Microseconds since 1970.
    pub(super) at: i64,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A field ends with its first NUL, or is full.
fn field(bytes: &[u8], at: usize, length: usize) -> Option<String> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect())
}

/// The record that these bytes begin with. Numbers are in the machine's own order.
pub(super) fn parse(bytes: &[u8], layout: Layout) -> Option<Record> {
    let (seconds, micros, address) = match layout {
        Layout::Narrow => (
            i64::from(i32::from_ne_bytes(number(bytes, 340)?)),
            i64::from(i32::from_ne_bytes(number(bytes, 344)?)),
            348,
        ),
        Layout::Wide => (i64::from_ne_bytes(number(bytes, 344)?), i64::from_ne_bytes(number(bytes, 352)?), 360),
    };
    let address: [u8; 16] = number(bytes, address)?;
    let address = if address == [0; 16] {
        None
    } else if address[4..] == [0; 12] {
        Some(IpAddr::V4(Ipv4Addr::new(address[0], address[1], address[2], address[3])))
    } else {
        Some(IpAddr::V6(Ipv6Addr::from(address)).to_canonical())
    };
    Some(Record {
        kind: i16::from_ne_bytes(number(bytes, 0)?),
        pid: i64::from(i32::from_ne_bytes(number(bytes, 4)?)),
        line: field(bytes, 8, 32)?,
        user: field(bytes, 44, 32)?,
        host: field(bytes, 76, 256)?,
        address,
        at: seconds.checked_mul(1_000_000)?.checked_add(micros.clamp(0, 999_999))?,
    })
}

/// Whole records only; what is torn at the end is left.
pub(super) fn parse_all(bytes: &[u8], layout: Layout) -> impl Iterator<Item = Record> {
    bytes.chunks_exact(layout.size()).filter_map(move |bytes| parse(bytes, layout))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record as login writes it.
    pub(in crate::probes::login) fn record(
        layout: Layout,
        kind: i16,
        pid: i32,
        line: &str,
        user: &str,
        ip: [u8; 4],
        seconds: i32,
    ) -> Vec<u8> {
        let mut bytes = vec![0; layout.size()];
        bytes[..2].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&pid.to_ne_bytes());
        bytes[8..8 + line.len()].copy_from_slice(line.as_bytes());
        bytes[44..44 + user.len()].copy_from_slice(user.as_bytes());
        let (at, address) = if layout == Layout::Narrow { (340, 348) } else { (344, 360) };
        if layout == Layout::Narrow {
            bytes[at..at + 4].copy_from_slice(&seconds.to_ne_bytes());
        } else {
            bytes[at..at + 8].copy_from_slice(&i64::from(seconds).to_ne_bytes());
        }
        bytes[address..address + 4].copy_from_slice(&ip);
        bytes
    }

    #[test]
    fn both_layouts_say_the_same() {
        for layout in [Layout::Narrow, Layout::Wide] {
            let bytes = record(layout, USER_PROCESS, 812, "pts/0", "alice", [10, 0, 0, 5], 1_700_000_000);
            let mut two = bytes.clone();
            two.extend(&bytes[..100]);
            let records: Vec<_> = parse_all(&two, layout).collect();
            assert_eq!(records.len(), 1);
            let record = &records[0];
            assert_eq!((record.kind, record.pid, record.at), (USER_PROCESS, 812, 1_700_000_000_000_000));
            assert_eq!((record.line.as_str(), record.user.as_str()), ("pts/0", "alice"));
            assert_eq!(record.address, Some(IpAddr::from([10, 0, 0, 5])));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_records(bytes in prop::collection::vec(any::<u8>(), 0..1_000)) {
            for layout in [Layout::Narrow, Layout::Wide] {
                let _ = parse_all(&bytes, layout).count();
            }
        }
    }
}
