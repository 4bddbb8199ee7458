//! What `RTM_GETLINK` says of an interface, and the same out of files.
//!
//! A message `RTM_NEWLINK` begins with `struct ifinfomsg`: family, hardware type, index, flags, change mask; 16 bytes.
//! Attributes follow, `IFLA_…`. The counters are `IFLA_STATS64`: 64-bit numbers in the order of `struct
//! rtnl_link_stats64`, of which older kernels have fewer at the end.
//!
//! `/proc/net/dev` shows sums of some of those counters, and the columns are those of `/proc/net/dev`, which everybody
//! knows: dropped includes what the card missed, frame errors are those of length, overrun, checksum and alignment.

use crate::netlink::{attribute, attributes, text_of, u8_at, u16_at, u32_at, u64_at};

/// The request: links.
pub(super) const RTM_GETLINK: u16 = 18;

/// The answer.
pub(super) const RTM_NEWLINK: u16 = 16;

/// Length of `struct ifinfomsg`.
pub(super) const INFO: usize = 16;

const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK: u16 = 5;
const MASTER: u16 = 10;
const QUEUE_LENGTH: u16 = 13;
const OPERSTATE: u16 = 16;
const LINK_MODE: u16 = 17;
const LINK_INFO: u16 = 18;
const ALIAS: u16 = 20;
const STATS64: u16 = 23;
const GROUP: u16 = 27;
const CARRIER: u16 = 33;
const CARRIER_CHANGES: u16 = 35;
const CARRIER_UP: u16 = 47;
const CARRIER_DOWN: u16 = 48;
const PROPERTIES: u16 = 52;
const ALTERNATIVE_NAME: u16 = 53;

/// Within `LINK_INFO`.
const INFO_KIND: u16 = 1;

/// The interface is switched on.
pub(super) const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 0x40;
const IFF_LOWER_UP: u32 = 0x1_0000;
const IFF_DORMANT: u32 = 0x2_0000;

/// Alternative names are shown up to so many bytes.
const MAX_NAMES: usize = 256;

/// One interface at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) index: Option<u64>,
    pub(super) hardware_type: Option<u64>,
    /// As `/sys/class/net/IF/flags` shows them.
    pub(super) flags: Option<u64>,
    pub(super) address: Option<String>,
    pub(super) alias: Option<String>,
    pub(super) alternative_names: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) mtu: Option<u64>,
    pub(super) link_index: Option<u64>,
    pub(super) master_index: Option<u64>,
    pub(super) master: Option<String>,
    pub(super) queue_length: Option<u64>,
    pub(super) operstate: Option<String>,
    pub(super) link_mode: Option<u64>,
    pub(super) group: Option<u64>,
    pub(super) dormant: Option<bool>,
    pub(super) carrier: Option<bool>,
    pub(super) carrier_changes: Option<u64>,
    pub(super) carrier_up: Option<u64>,
    pub(super) carrier_down: Option<u64>,
    pub(super) counters: Counters,
}

/// What went through an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// In the order of `/proc/net/dev`.
    pub(super) dev: [Option<u64>; 16],
    /// `rx_nohandler`.
    pub(super) unhandled: Option<u64>,
    /// `rx_missed_errors`, a part of the drops.
    pub(super) missed: Option<u64>,
    /// `rx_crc_errors`, a part of the frame errors.
    pub(super) checksum: Option<u64>,
}

/// One message `RTM_NEWLINK`. `None` without a name, or for one that is none.
pub(super) fn parse_link(body: &[u8]) -> Option<Link> {
    let flags = u32_at(body, 8)?;
    let is_on = flags & IFF_UP != 0;
    let mut link = Link {
        hardware_type: u16_at(body, 2).map(u64::from),
        index: u32_at(body, 4).map(u64::from),
        flags: Some(u64::from(flags & !(IFF_RUNNING | IFF_LOWER_UP | IFF_DORMANT))),
        // As the files do it: of an interface that is switched off, nothing is known of its line.
        dormant: is_on.then_some(flags & IFF_DORMANT != 0),
        ..Link::default()
    };
    for (attribute_type, value) in attributes(body.get(INFO..)?) {
        let number = || u32_at(value, 0).map(u64::from);
        match attribute_type {
            NAME => link.name = text_of(value).filter(|name| is_name(name))?.to_owned(),
            ADDRESS => link.address = hardware_address(value),
            ALIAS => link.alias = text_of(value).map(str::to_owned),
            MTU => link.mtu = number(),
            LINK => link.link_index = number(),
            MASTER => link.master_index = number(),
            QUEUE_LENGTH => link.queue_length = number(),
            OPERSTATE => link.operstate = u8_at(value, 0).and_then(operstate).map(str::to_owned),
            LINK_MODE => link.link_mode = u8_at(value, 0).map(u64::from),
            LINK_INFO => link.kind = attribute(value, INFO_KIND).and_then(text_of).map(str::to_owned),
            GROUP => link.group = number(),
            CARRIER => link.carrier = u8_at(value, 0).filter(|_| is_on).map(|carrier| carrier != 0),
            CARRIER_CHANGES => link.carrier_changes = number(),
            CARRIER_UP => link.carrier_up = number(),
            CARRIER_DOWN => link.carrier_down = number(),
            PROPERTIES => link.alternative_names = alternative_names(value),
            STATS64 => link.counters = parse_counters(value),
            _ => {}
        }
    }
    // The kernel leaves it out where it is the interface itself; the file shows that.
    link.link_index = link.link_index.or(link.index);
    (!link.name.is_empty()).then_some(link)
}

/// `struct rtnl_link_stats64`, in the terms of `/proc/net/dev`.
fn parse_counters(stats: &[u8]) -> Counters {
    let at = |number: usize| u64_at(stats, number * 8);
    let sum = |numbers: &[usize]| numbers.iter().try_fold(0u64, |sum, number| Some(sum.wrapping_add(at(*number)?)));
    Counters {
        dev: [
            at(2),                  // rx_bytes
            at(0),                  // rx_packets
            at(4),                  // rx_errors
            sum(&[6, 15]),          // rx_dropped, rx_missed_errors
            at(14),                 // rx_fifo_errors
            sum(&[10, 11, 12, 13]), // rx_length_errors, rx_over_errors, rx_crc_errors, rx_frame_errors
            at(21),                 // rx_compressed
            at(8),                  // multicast
            at(3),                  // tx_bytes
            at(1),                  // tx_packets
            at(5),                  // tx_errors
            at(7),                  // tx_dropped
            at(18),                 // tx_fifo_errors
            at(9),                  // collisions
            sum(&[16, 17, 19, 20]), // tx_aborted_errors, tx_carrier_errors, tx_heartbeat_errors, tx_window_errors
            at(22),                 // tx_compressed
        ],
        unhandled: at(23),
        missed: at(15),
        checksum: at(12),
    }
}

/// A line of `/proc/net/dev`: `  eth0: 1 2 3 …`. The two lines of headings have no colon.
pub(super) fn parse_line(line: &str) -> Option<(&str, [Option<u64>; 16])> {
    let (name, rest) = line.split_once(':')?;
    let name = name.trim();
    if !is_name(name) {
        return None;
    }
    let mut words = rest.split_ascii_whitespace();
    Some((name, std::array::from_fn(|_| words.next().and_then(|w| w.parse().ok()))))
}

/// A name becomes part of a path.
fn is_name(name: &str) -> bool {
    !(name.is_empty() || name.contains('/') || name == "." || name == "..")
}

/// `b8:ce:f6:0a:1b:2c`; InfiniBand's have 20 bytes.
fn hardware_address(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() || bytes.len() > 32 {
        return None;
    }
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(parts.join(":"))
}

/// RFC 2863, numbered as the kernel does.
fn operstate(number: u8) -> Option<&'static str> {
    const NAMES: [&str; 7] = ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];
    NAMES.get(usize::from(number)).copied()
}

fn alternative_names(properties: &[u8]) -> Option<String> {
    let mut names = String::new();
    for name in attributes(properties).filter(|(t, _)| *t == ALTERNATIVE_NAME).filter_map(|(_, v)| text_of(v)) {
        if names.len() + name.len() >= MAX_NAMES {
            names.push_str(" …");
            break;
        }
        if !names.is_empty() {
            names.push(' ');
        }
        names.push_str(name);
    }
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::netlink::put_attribute;

    /// The body of a message about a bonded interface, as a kernel of version 6 sends it; counters 100, 101, …
    pub(crate) fn recorded_link() -> Vec<u8> {
        let mut body = Vec::new();
        body.extend([0, 0]);
        body.extend(1u16.to_ne_bytes());
        body.extend(3u32.to_ne_bytes());
        body.extend((IFF_UP | 0x2 | IFF_RUNNING | 0x800 | 0x1000 | IFF_LOWER_UP).to_ne_bytes());
        body.extend([0; 4]);
        put_attribute(&mut body, NAME, b"eth1\0");
        put_attribute(&mut body, QUEUE_LENGTH, &1000u32.to_ne_bytes());
        put_attribute(&mut body, OPERSTATE, &[6]);
        put_attribute(&mut body, LINK_MODE, &[0]);
        put_attribute(&mut body, MTU, &9000u32.to_ne_bytes());
        put_attribute(&mut body, GROUP, &0u32.to_ne_bytes());
        put_attribute(&mut body, MASTER, &5u32.to_ne_bytes());
        put_attribute(&mut body, CARRIER, &[1]);
        put_attribute(&mut body, CARRIER_CHANGES, &7u32.to_ne_bytes());
        put_attribute(&mut body, CARRIER_UP, &4u32.to_ne_bytes());
        put_attribute(&mut body, CARRIER_DOWN, &3u32.to_ne_bytes());
        put_attribute(&mut body, ADDRESS, &[0xb8, 0xce, 0xf6, 0x0a, 0x1b, 0x2d]);
        put_attribute(&mut body, ALIAS, b"rail 1\0");
        let stats: Vec<u8> = (100u64..125).flat_map(u64::to_ne_bytes).collect();
        put_attribute(&mut body, STATS64, &stats);
        let mut names = Vec::new();
        put_attribute(&mut names, ALTERNATIVE_NAME, b"enp23s0f1np1\0");
        put_attribute(&mut names, ALTERNATIVE_NAME, b"rail1\0");
        put_attribute(&mut body, 0x8000 | PROPERTIES, &names);
        let mut info = Vec::new();
        put_attribute(&mut info, INFO_KIND, b"vlan\0");
        put_attribute(&mut body, LINK_INFO, &info);
        body
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::recorded_link;
    use super::*;
    use crate::probes::testing::garbage;

    #[test]
    fn a_message_says_what_the_files_would() {
        let link = parse_link(&recorded_link()).unwrap();
        let expected = Link {
            name: "eth1".to_owned(),
            index: Some(3),
            hardware_type: Some(1),
            flags: Some(0x1803),
            address: Some("b8:ce:f6:0a:1b:2d".to_owned()),
            alias: Some("rail 1".to_owned()),
            alternative_names: Some("enp23s0f1np1 rail1".to_owned()),
            kind: Some("vlan".to_owned()),
            mtu: Some(9000),
            link_index: Some(3),
            master_index: Some(5),
            master: None,
            queue_length: Some(1000),
            operstate: Some("up".to_owned()),
            link_mode: Some(0),
            group: Some(0),
            dormant: Some(false),
            carrier: Some(true),
            carrier_changes: Some(7),
            carrier_up: Some(4),
            carrier_down: Some(3),
            counters: Counters {
                dev: [
                    102,
                    100,
                    104,
                    106 + 115,
                    114,
                    110 + 111 + 112 + 113,
                    121,
                    108,
                    103,
                    101,
                    105,
                    107,
                    118,
                    109,
                    116 + 117 + 119 + 120,
                    122,
                ]
                .map(Some),
                unhandled: Some(123),
                missed: Some(115),
                checksum: Some(112),
            },
        };
        assert_eq!(link, expected);
    }

    #[test]
    fn of_an_interface_that_is_switched_off_the_line_is_unknown() {
        let mut body = recorded_link();
        body[8..12].copy_from_slice(&0x1002u32.to_ne_bytes());
        let link = parse_link(&body).unwrap();
        assert_eq!((link.carrier, link.dormant, link.flags), (None, None, Some(0x1002)));
    }

    #[test]
    fn counters_that_an_older_kernel_lacks_are_unknown() {
        let stats: Vec<u8> = (0u64..23).flat_map(u64::to_ne_bytes).collect();
        let counters = parse_counters(&stats);
        assert_eq!((counters.dev[15], counters.unhandled), (Some(22), None));
        assert_eq!(parse_counters(&stats[..16 * 8]).dev[14], None, "a part of the sum is missing");
        assert_eq!(parse_counters(&[]), Counters::default());
    }

    #[test]
    fn a_name_that_would_leave_its_folder_is_none() {
        for name in ["..", ".", "a/b", ""] {
            let mut body = vec![0; INFO];
            crate::netlink::put_attribute(&mut body, NAME, name.as_bytes());
            assert_eq!(parse_link(&body), None, "{name:?}");
        }
        assert_eq!(parse_link(&[0; INFO]), None);
    }

    #[test]
    fn lines_that_are_no_interface_are_passed_over() {
        for line in ["", "Inter-|   Receive", ": 1 2", "../../etc: 1", "..: 1"] {
            assert!(parse_line(line).is_none(), "{line:?}");
        }
        let (name, counters) = parse_line("eth0:1 x 3").unwrap();
        assert_eq!((name, &counters[..4]), ("eth0", &[Some(1), None, Some(3), None][..]));
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage(), bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..600) {
            for line in text.lines() {
                parse_line(line);
            }
            parse_line(&format!("eth0:{text}"));
            parse_link(&bytes);
            let mut body = recorded_link();
            body.truncate(cut);
            parse_link(&body);
            for (at, byte) in bytes.iter().enumerate() {
                if let Some(place) = body.get_mut(INFO + at * 3) {
                    *place = *byte;
                }
            }
            parse_link(&body);
            alternative_names(&bytes);
        }
    }
}
