//! What is plugged into a card: transceivers and cables, and the light in them.
//!
//! Modules have a memory that is read over I2C in halves of 128 bytes. Its first byte says which standard it follows:
//!
//! - SFF-8472 (SFP, SFP+, SFP28): labels at address 0x50, measurements at 0x51;
//! - SFF-8636 (QSFP, QSFP28): measurements of four lanes in the lower half, labels in the upper half of page 0;
//! - CMIS (QSFP-DD, OSFP): temperature in the lower half, labels in the upper half of page 0, light on page 0x11.
//!
//! All three give light in steps of 0.1 µW, temperature in 1/256 °C and supply in 100 µV. A copper cable has labels and
//! measures nothing: everything is 0 then, the supply included, which tells that from a module without light.
//!
//! Asked is the kernel's `ethtool` family of generic netlink, `MODULE_EEPROM_GET` (Linux 5.13), which wants
//! `CAP_NET_ADMIN`. It finds the page itself on drivers that know only the old call.

use std::io;

use nodescope_model::rows::Row;

use crate::netlink::{Netlink, NetlinkError, NetlinkProtocol, attribute, put_attribute, text_of, u8_at, u16_at};

/// Lanes of one module at the most.
const LANES: usize = 8;

const LANE_NAMES: [&str; LANES] = ["1", "2", "3", "4", "5", "6", "7", "8"];

/// Half a page: nothing longer can be read at once.
const HALF: usize = 128;

const LABELS_ADDRESS: u8 = 0x50;
const MEASUREMENTS_ADDRESS: u8 = 0x51;

/// What a module is and measures.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Module {
    kind: Option<&'static str>,
    vendor: Option<String>,
    part: Option<String>,
    serial: Option<String>,
    measured: Measured,
}

/// What a module measures. Lanes without light are left out.
#[derive(Debug, Clone, Default, PartialEq)]
struct Measured {
    celsius: Option<f64>,
    volts: Option<f64>,
    rx_nanowatts: Vec<(&'static str, i64)>,
    tx_nanowatts: Vec<(&'static str, i64)>,
}

impl Module {
    /// Fills the columns of optics.
    pub(super) fn fill(&self, row: &mut Row<'_>) {
        let Measured { celsius, volts, rx_nanowatts, tx_nanowatts } = &self.measured;
        row.text("module", self.kind)
            .text("module_vendor", self.vendor.as_deref())
            .text("module_part", self.part.as_deref())
            .text("module_serial", self.serial.as_deref())
            .float("module_celsius", *celsius)
            .float("module_supply_volts", *volts)
            .float("rx_power_dbm", weakest_dbm(rx_nanowatts))
            .float("tx_power_dbm", weakest_dbm(tx_nanowatts));
        if volts.is_some() {
            row.int_map("rx_lane_nanowatts", rx_nanowatts.iter().copied())
                .int_map("tx_lane_nanowatts", tx_nanowatts.iter().copied());
        }
    }
}

/// Decibels above one milliwatt of the lane with least light.
#[allow(clippy::cast_precision_loss)] // 2^53 nanowatts are nine megawatts.
fn weakest_dbm(lanes: &[(&str, i64)]) -> Option<f64> {
    let weakest = lanes.iter().map(|(_, nanowatts)| *nanowatts).min().filter(|nanowatts| *nanowatts > 0)?;
    Some(10.0 * (weakest as f64 / 1e6).log10())
}

/// A standard that modules follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standard {
    Sff8472,
    Sff8636,
    Cmis,
}

/// What the first byte says, by SFF-8024.
fn standard(identifier: u8) -> Option<(&'static str, Standard)> {
    match identifier {
        0x03 => Some(("SFP", Standard::Sff8472)),
        0x0c => Some(("QSFP", Standard::Sff8636)),
        0x0d => Some(("QSFP+", Standard::Sff8636)),
        0x11 => Some(("QSFP28", Standard::Sff8636)),
        0x18 => Some(("QSFP-DD", Standard::Cmis)),
        0x19 => Some(("OSFP", Standard::Cmis)),
        0x1b => Some(("DSFP", Standard::Cmis)),
        0x1e => Some(("QSFP (CMIS)", Standard::Cmis)),
        0x1f => Some(("SFP-DD (CMIS)", Standard::Cmis)),
        _ => None,
    }
}

/// Numbers in modules have the high byte first.
fn big_endian(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([u8_at(bytes, at)?, u8_at(bytes, at.checked_add(1)?)?]))
}

fn celsius(bytes: &[u8], at: usize) -> Option<f64> {
    Some(f64::from(big_endian(bytes, at)?.cast_signed()) / 256.0)
}

/// The supply; `None` for a module that measures nothing.
fn volts(bytes: &[u8], at: usize) -> Option<f64> {
    big_endian(bytes, at).filter(|raw| *raw != 0).map(|raw| f64::from(raw) / 1e4)
}

fn lanes(bytes: &[u8], at: usize, count: usize) -> Vec<(&'static str, i64)> {
    let light = |lane: usize| big_endian(bytes, at + 2 * lane).filter(|raw| *raw != 0).map(|raw| i64::from(raw) * 100);
    LANE_NAMES.iter().take(count).enumerate().filter_map(|(lane, name)| Some((*name, light(lane)?))).collect()
}

/// Bytes 96 to 105 at the second address. `labels` says whether they are there and need no calibration.
fn parse_sff8472(labels: &[u8], measurements: &[u8]) -> Measured {
    const IMPLEMENTED: u8 = 0x40;
    const CALIBRATED: u8 = 0x20;
    let has = |bit: u8| u8_at(labels, 92).is_some_and(|byte| byte & bit != 0);
    let Some(volts) = volts(measurements, 2).filter(|_| has(IMPLEMENTED) && has(CALIBRATED)) else {
        return Measured::default();
    };
    Measured {
        celsius: celsius(measurements, 0),
        volts: Some(volts),
        tx_nanowatts: lanes(measurements, 6, 1),
        rx_nanowatts: lanes(measurements, 8, 1),
    }
}

/// The lower half.
fn parse_sff8636(lower: &[u8]) -> Measured {
    let Some(volts) = volts(lower, 26) else { return Measured::default() };
    Measured {
        celsius: celsius(lower, 22),
        volts: Some(volts),
        rx_nanowatts: lanes(lower, 34, 4),
        tx_nanowatts: lanes(lower, 50, 4),
    }
}

/// The lower half, and the upper one of page 0x11.
fn parse_cmis(lower: &[u8], light: &[u8]) -> Measured {
    let Some(volts) = volts(lower, 16) else { return Measured::default() };
    Measured {
        celsius: celsius(lower, 14),
        volts: Some(volts),
        tx_nanowatts: lanes(light, 154 - HALF, LANES),
        rx_nanowatts: lanes(light, 186 - HALF, LANES),
    }
}

/// Vendor, part and serial number: text padded with spaces.
fn parse_labels(kind: &'static str, standard: Standard, half: &[u8]) -> Module {
    let [vendor, part, serial] = match standard {
        Standard::Sff8472 => [20, 40, 68],
        Standard::Sff8636 => [148 - HALF, 168 - HALF, 196 - HALF],
        Standard::Cmis => [129 - HALF, 148 - HALF, 166 - HALF],
    };
    let label = |at: usize| {
        let bytes = half.get(at..at + 16)?;
        let text = text_of(bytes)?.trim();
        (!text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() || c == ' ')).then(|| text.to_owned())
    };
    Module {
        kind: Some(kind),
        vendor: label(vendor),
        part: label(part),
        serial: label(serial),
        measured: Measured::default(),
    }
}

const MODULE_EEPROM_GET: u8 = 31;
const HEADER: u16 = 1;
const HEADER_NAME: u16 = 2;
const OFFSET: u16 = 2;
const LENGTH: u16 = 3;
const PAGE: u16 = 4;
const BANK: u16 = 5;
const ADDRESS: u16 = 6;
const DATA: u16 = 7;
const NESTED: u16 = 0x8000;

/// Length of `struct genlmsghdr`: command, version, two bytes reserved.
const GENERIC_HEADER: usize = 4;

/// Asks for modules' memories.
pub(super) struct Optics {
    netlink: Netlink,
    family: u16,
}

/// A part of a module's memory.
#[derive(Debug, Clone, Copy)]
struct Part {
    address: u8,
    page: u8,
    offset: u32,
    length: u32,
}

const LOWER: Part = Part { address: LABELS_ADDRESS, page: 0, offset: 0, length: 128 };
const UPPER: Part = Part { offset: 128, ..LOWER };

impl Optics {
    /// Finds the family.
    ///
    /// # Errors
    /// When this kernel has none.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        const CONTROL: u16 = 0x10;
        const GET_FAMILY: u8 = 3;
        const FAMILY_ID: u16 = 1;
        const FAMILY_NAME: u16 = 2;
        let mut netlink = Netlink::open(NetlinkProtocol::Generic)?;
        let mut payload = vec![GET_FAMILY, 1, 0, 0];
        put_attribute(&mut payload, FAMILY_NAME, b"ethtool\0");
        let mut family = None;
        netlink.ask(CONTROL, &payload, |_, body| {
            let id = body.get(GENERIC_HEADER..).and_then(|attributes| attribute(attributes, FAMILY_ID));
            family = family.or(id.and_then(|id| u16_at(id, 0)));
        })?;
        let family = family.ok_or(NetlinkError::Malformed("a family without number"))?;
        Ok(Self { netlink, family })
    }

    /// Reads a module. Of one that is `known` only the measurements.
    pub(super) fn read(&mut self, interface: &str, known: Option<Module>) -> io::Result<Option<Module>> {
        let lower = self.read_part(interface, LOWER)?;
        let Some((kind, standard)) = u8_at(&lower, 0).and_then(standard) else { return Ok(None) };
        let mut module = match known.filter(|module| module.kind == Some(kind)) {
            Some(module) => module,
            None if standard == Standard::Sff8472 => parse_labels(kind, standard, &lower),
            None => parse_labels(kind, standard, &self.read_part(interface, UPPER).unwrap_or_default()),
        };
        module.measured = match standard {
            Standard::Sff8472 => {
                let part = Part { address: MEASUREMENTS_ADDRESS, page: 0, offset: 96, length: 10 };
                parse_sff8472(&lower, &self.read_part(interface, part).unwrap_or_default())
            }
            Standard::Sff8636 => parse_sff8636(&lower),
            Standard::Cmis => {
                const FLAT: u8 = 0x80;
                let part = Part { page: 0x11, ..UPPER };
                let has_pages = u8_at(&lower, 2).is_some_and(|byte| byte & FLAT == 0);
                let light = if has_pages { self.read_part(interface, part).unwrap_or_default() } else { Vec::new() };
                parse_cmis(&lower, &light)
            }
        };
        Ok(Some(module))
    }

    fn read_part(&mut self, interface: &str, part: Part) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        let payload = request(interface, part);
        self.netlink
            .ask(self.family, &payload, |_, body| {
                let found = body.get(GENERIC_HEADER..).and_then(|attributes| attribute(attributes, DATA));
                data.extend(found.unwrap_or_default().iter().take(HALF));
            })
            .map_err(|error| match error {
                NetlinkError::Refused(error) | NetlinkError::Socket(error) => error,
                NetlinkError::Malformed(what) => io::Error::new(io::ErrorKind::InvalidData, what),
            })?;
        Ok(data)
    }
}

fn request(interface: &str, part: Part) -> Vec<u8> {
    let mut payload = vec![MODULE_EEPROM_GET, 1, 0, 0];
    let mut header = Vec::new();
    let mut name = interface.as_bytes().to_vec();
    name.push(0);
    put_attribute(&mut header, HEADER_NAME, &name);
    put_attribute(&mut payload, HEADER | NESTED, &header);
    put_attribute(&mut payload, OFFSET, &part.offset.to_ne_bytes());
    put_attribute(&mut payload, LENGTH, &part.length.to_ne_bytes());
    put_attribute(&mut payload, PAGE, &[part.page]);
    put_attribute(&mut payload, BANK, &[0]);
    put_attribute(&mut payload, ADDRESS, &[part.address]);
    payload
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn half(values: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; HALF];
        for (at, value) in values {
            bytes[*at..at + value.len()].copy_from_slice(value);
        }
        bytes
    }

    #[test]
    fn a_qsfp28_measures_four_lanes() {
        let lower = half(&[
            (0, &[0x11]),
            (22, &[0x25, 0x80]),
            (26, &[0x80, 0xe8]),
            (34, &[0x27, 0x10, 0x13, 0x88, 0x00, 0x00, 0x03, 0xe8]),
            (50, &[0x27, 0x10, 0x27, 0x10, 0x27, 0x10, 0x27, 0x10]),
        ]);
        let measured = parse_sff8636(&lower);
        assert_eq!((measured.celsius, measured.volts), (Some(37.5), Some(3.3)));
        assert_eq!(measured.rx_nanowatts, [("1", 1_000_000), ("2", 500_000), ("4", 100_000)], "lane 3 is dark");
        assert_eq!(measured.tx_nanowatts.len(), 4);
        assert!((weakest_dbm(&measured.rx_nanowatts).unwrap() + 10.0).abs() < 1e-9);
        assert_eq!(weakest_dbm(&measured.tx_nanowatts), Some(0.0));
    }

    #[test]
    fn a_copper_cable_has_labels_and_measures_nothing() {
        let upper = half(&[(20, b"Mellanox        "), (40, b"MCP1600-C003E30L"), (68, b"MT2012VS01234   ")]);
        let module = parse_labels("QSFP28", Standard::Sff8636, &upper);
        assert_eq!(module.vendor.as_deref(), Some("Mellanox"));
        assert_eq!(module.part.as_deref(), Some("MCP1600-C003E30L"));
        assert_eq!(module.serial.as_deref(), Some("MT2012VS01234"));
        assert_eq!(parse_sff8636(&half(&[(0, &[0x11])])), Measured::default());
        assert_eq!(parse_cmis(&half(&[(0, &[0x18])]), &[]), Measured::default());
    }

    #[test]
    fn an_sfp_measures_only_where_it_says_so() {
        let measurements = [0xff, 0x00, 0x7f, 0x58, 0, 0, 0x17, 0x70, 0x00, 0x64];
        let measured = parse_sff8472(&half(&[(92, &[0x68])]), &measurements);
        assert_eq!((measured.celsius, measured.volts), (Some(-1.0), Some(3.26)));
        assert_eq!(measured.tx_nanowatts, [("1", 600_000)]);
        assert_eq!(measured.rx_nanowatts, [("1", 10_000)]);
        for byte in [0x00, 0x40, 0x20, 0x50] {
            assert_eq!(parse_sff8472(&half(&[(92, &[byte])]), &measurements), Measured::default(), "{byte:#x}");
        }
    }

    #[test]
    fn a_cmis_module_has_its_light_on_another_page() {
        let lower = half(&[(0, &[0x19]), (14, &[0x30, 0x00]), (16, &[0x80, 0xe8])]);
        let light: Vec<u8> = half(&[(26, &[0x27, 0x10].repeat(8)), (58, &[0x13, 0x88].repeat(8))]);
        let measured = parse_cmis(&lower, &light);
        assert_eq!(measured.celsius, Some(48.0));
        assert_eq!(measured.tx_nanowatts[7], ("8", 1_000_000));
        assert_eq!(measured.rx_nanowatts[7], ("8", 500_000));
        assert!(parse_cmis(&lower, &[]).rx_nanowatts.is_empty());
    }

    #[test]
    fn a_request_is_laid_out_as_the_kernel_wants_it() {
        let payload = request("eth0", Part { page: 0x11, ..UPPER });
        assert_eq!(payload[..4], [31, 1, 0, 0]);
        let attributes = &payload[GENERIC_HEADER..];
        assert_eq!(attribute(attributes, HEADER).and_then(|h| attribute(h, HEADER_NAME)), Some(&b"eth0\0"[..]));
        assert_eq!(attribute(attributes, PAGE), Some(&[0x11][..]));
        assert_eq!(attribute(attributes, OFFSET), Some(&128u32.to_ne_bytes()[..]));
    }

    #[test]
    fn the_kernel_is_asked() {
        if let Ok(mut optics) = Optics::open() {
            assert!(optics.read("lo", None).is_err());
            assert!(optics.read("nosuch-if0", None).is_err());
        }
    }

    proptest! {
        #[test]
        fn garbage_is_survived(a in prop::collection::vec(any::<u8>(), 0..140), b in prop::collection::vec(any::<u8>(), 0..140)) {
            for measured in [parse_sff8472(&a, &b), parse_sff8636(&a), parse_cmis(&a, &b)] {
                weakest_dbm(&measured.rx_nanowatts);
            }
            for standard in [Standard::Sff8472, Standard::Sff8636, Standard::Cmis] {
                parse_labels("", standard, &a);
            }
        }
    }
}
