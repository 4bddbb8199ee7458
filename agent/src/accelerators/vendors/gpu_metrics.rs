//! `gpu_metrics`: the table that firmware and driver of AMD's cards fill, as sysfs gives it.
//!
//! One small binary file with nearly everything: temperatures, load, power, energy, clocks, why the clocks are low, the
//! PCIe link, XGMI's counts. It begins with its size (two bytes), the revision of its format (one: 1 for cards, 2 and 3
//! for chips with a processor in them) and of its content. Contents are not extensions of each other: fields move, so a
//! revision that is not known here is not read at all, and hwmon must do.
//!
//! From content 9 on the table describes itself: before each field stands its number, type and count, so unknown fields
//! can be skipped.
//!
//! A field that is not known has all its bits set: that is `None` here. Numbers are in the byte order of the machine.
//!
//! | Field | Unit |
//! |---|---|
//! | temperature | °C |
//! | power | W |
//! | activity | per cent |
//! | energy | 2⁻¹⁶ J (15.259 µJ) |
//! | clocks | MHz |
//! | PCIe speed | 0.1 GT/s |
//! | XGMI | KiB |
//! | voltage | mV |
//!
//! `pcie_bandwidth_acc` is left out: in what it counts nobody says.

/// No table is longer: the kernel gives a page.
pub(super) const MAX_TABLE: usize = 4096;

/// Joules in one of `energy`.
pub(super) const ENERGY_UNIT: f64 = 1.0 / 65_536.0;

/// Partitions a card has at the most.
const MAX_PARTITIONS: usize = 8;

/// Fields a self-describing table may have.
const MAX_FIELDS: usize = 256;

/// Time, in ticks of the firmware, for which something held the clocks back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Residency {
    pub(super) external: Option<u64>,
    pub(super) power: Option<u64>,
    pub(super) socket: Option<u64>,
    pub(super) regulator: Option<u64>,
    pub(super) memory: Option<u64>,
}

/// What a table says, in its own units.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Metrics {
    pub(super) edge: Option<u64>,
    pub(super) hotspot: Option<u64>,
    pub(super) memory_temperature: Option<u64>,
    pub(super) power: Option<u64>,
    pub(super) load: Option<u64>,
    pub(super) memory_load: Option<u64>,
    /// Load of the video engines, mean of all.
    pub(super) video_load: Option<f64>,
    pub(super) jpeg_load: Option<f64>,
    pub(super) energy: Option<u64>,
    /// Mean of all parts of the chip.
    pub(super) core_clock: Option<f64>,
    pub(super) memory_clock: Option<u64>,
    pub(super) video_clock: Option<u64>,
    /// What holds the clocks back, by bits that mean the same for all chips.
    pub(super) throttled_by: Option<u64>,
    /// The same by bits that mean something else for each chip: of use is only whether there are any.
    pub(super) is_throttled: Option<bool>,
    pub(super) residency: Residency,
    pub(super) voltage: Option<u64>,
    pub(super) pcie_width: Option<u64>,
    pub(super) pcie_speed: Option<u64>,
    pub(super) pcie_replays: Option<u64>,
    /// Sums over all links.
    pub(super) link_received: Option<u64>,
    pub(super) link_transmitted: Option<u64>,
    /// Links whose state is known, and those that are up.
    pub(super) links: Option<(u32, u32)>,
    /// Load of each partition, in per cent.
    pub(super) partitions: Vec<Option<f64>>,
}

/// Where a field lies that a layout does not have.
const NONE: usize = usize::MAX;

/// Where the fields of one content lie. `(place, count)` for lists.
struct Layout {
    content: u8,
    size: u16,
    edge: usize,
    hotspot: usize,
    memory_temperature: usize,
    power: usize,
    load: usize,
    memory_load: usize,
    video_load: (usize, usize),
    jpeg_load: (usize, usize),
    energy: usize,
    /// Energy had 32 bits at first, and PCIe's fields 8.
    is_narrow: bool,
    core_clock: (usize, usize),
    memory_clock: usize,
    video_clock: (usize, usize),
    throttle: usize,
    throttled_by: usize,
    /// Five numbers of 32 bits, one after the other.
    residency: usize,
    voltage: usize,
    pcie_width: usize,
    pcie_speed: usize,
    pcie_replays: usize,
    link_read: usize,
    link_written: usize,
    link_status: usize,
    partitions: usize,
    /// Where the partitions begin, how long one is, where in it its JPEG and video engines are, and how many of each.
    partition: (usize, usize, (usize, usize), (usize, usize)),
}

const NO_PARTITION: (usize, usize, (usize, usize), (usize, usize)) = (NONE, 0, (NONE, 0), (NONE, 0));

const V1_0: Layout = Layout {
    content: 0,
    size: 80,
    edge: 16,
    hotspot: 18,
    memory_temperature: 20,
    power: 34,
    load: 28,
    memory_load: 30,
    video_load: (32, 1),
    jpeg_load: (NONE, 0),
    energy: 36,
    is_narrow: true,
    core_clock: (54, 1),
    memory_clock: 58,
    video_clock: (60, 1),
    throttle: 68,
    throttled_by: NONE,
    residency: NONE,
    voltage: NONE,
    pcie_width: 74,
    pcie_speed: 75,
    pcie_replays: NONE,
    link_read: NONE,
    link_written: NONE,
    link_status: NONE,
    partitions: NONE,
    partition: NO_PARTITION,
};

const V1_1: Layout = Layout {
    content: 1,
    size: 96,
    edge: 4,
    hotspot: 6,
    memory_temperature: 8,
    power: 22,
    load: 16,
    memory_load: 18,
    video_load: (20, 1),
    energy: 24,
    is_narrow: false,
    core_clock: (54, 1),
    memory_clock: 58,
    video_clock: (60, 1),
    throttle: 68,
    pcie_width: 74,
    pcie_speed: 76,
    ..V1_0
};

const V1_2: Layout = Layout { content: 2, size: 104, ..V1_1 };

const V1_3: Layout = Layout { content: 3, size: 120, throttled_by: 112, voltage: 106, ..V1_1 };

const V1_4: Layout = Layout {
    content: 4,
    size: 288,
    edge: NONE,
    hotspot: 4,
    memory_temperature: 6,
    power: 10,
    load: 12,
    memory_load: 14,
    video_load: (16, 4),
    jpeg_load: (NONE, 0),
    energy: 24,
    is_narrow: false,
    core_clock: (240, 8),
    memory_clock: 280,
    video_clock: (264, 4),
    throttle: 40,
    throttled_by: NONE,
    residency: NONE,
    voltage: NONE,
    pcie_width: 48,
    pcie_speed: 50,
    pcie_replays: 88,
    link_read: 104,
    link_written: 168,
    link_status: NONE,
    partitions: NONE,
    partition: NO_PARTITION,
};

const V1_5: Layout = Layout {
    content: 5,
    size: 328,
    jpeg_load: (24, 32),
    energy: 56,
    core_clock: (280, 8),
    memory_clock: 320,
    video_clock: (304, 4),
    throttle: 72,
    pcie_width: 80,
    pcie_speed: 82,
    pcie_replays: 120,
    link_read: 144,
    link_written: 208,
    ..V1_4
};

const V1_6: Layout = Layout {
    content: 6,
    size: 1664,
    video_load: (NONE, 0),
    energy: 16,
    core_clock: (264, 8),
    memory_clock: 304,
    video_clock: (288, 4),
    throttle: NONE,
    residency: 36,
    pcie_width: 60,
    pcie_speed: 62,
    pcie_replays: 104,
    link_read: 128,
    link_written: 192,
    partitions: 306,
    partition: (312, 168, (32, 32), (96, 4)),
    ..V1_4
};

const V1_7: Layout = Layout {
    content: 7,
    size: 2208,
    energy: 24,
    core_clock: (296, 8),
    memory_clock: 336,
    video_clock: (320, 4),
    residency: 44,
    pcie_width: 68,
    pcie_speed: 70,
    pcie_replays: 112,
    link_read: 136,
    link_written: 200,
    link_status: 264,
    partitions: 338,
    partition: (344, 232, (32, 32), (96, 4)),
    ..V1_6
};

const V1_8: Layout = Layout { content: 8, size: 3360, partition: (344, 376, (32, 40), (112, 4)), ..V1_7 };

const LAYOUTS: [&Layout; 9] = [&V1_0, &V1_1, &V1_2, &V1_3, &V1_4, &V1_5, &V1_6, &V1_7, &V1_8];

/// Links a card has at the most, and parts of the chip that compute.
const LINKS: usize = 8;
const CORES: usize = 8;

/// The numbers of a table, each `None` when it is not known or not there.
struct Table<'b>(&'b [u8]);

impl Table<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u8(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u8::from_ne_bytes).filter(|number| *number != u8::MAX).map(u64::from)
    }

    fn u16(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u16::from_ne_bytes).filter(|number| *number != u16::MAX).map(u64::from)
    }

    fn u32(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u32::from_ne_bytes).filter(|number| *number != u32::MAX).map(u64::from)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_ne_bytes).filter(|number| *number != u64::MAX)
    }

    /// The known ones of a list.
    fn u16s(&self, (at, count): (usize, usize)) -> impl Iterator<Item = u64> {
        (0..count).filter_map(move |n| self.u16(at.checked_add(n * 2)?))
    }

    fn u32s(&self, (at, count): (usize, usize)) -> impl Iterator<Item = u64> {
        (0..count).filter_map(move |n| self.u32(at.checked_add(n * 4)?))
    }

    fn u64s(&self, (at, count): (usize, usize)) -> impl Iterator<Item = u64> {
        (0..count).filter_map(move |n| self.u64(at.checked_add(n * 8)?))
    }
}

#[allow(clippy::cast_precision_loss)] // Per cent and megahertz.
fn mean(numbers: impl Iterator<Item = u64>) -> Option<f64> {
    let (sum, count) = numbers.fold((0.0, 0.0), |(sum, count), number| (sum + number as f64, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

fn sum(numbers: impl Iterator<Item = u64>) -> Option<u64> {
    numbers.fold(None, |sum: Option<u64>, number| Some(sum.unwrap_or(0).saturating_add(number)))
}

/// How many links there are, and how many of them are up: the table says 1 of one that is, 0 of one that is not.
fn links(states: impl Iterator<Item = u64>) -> Option<(u32, u32)> {
    let (all, up) = states.fold((0, 0), |(all, up), state| (all + 1, up + u32::from(state == 1)));
    (all > 0).then_some((all, up))
}

/// Reads a table; `None` for one of an unknown revision, or that is shorter than it says.
pub(super) fn parse_metrics(bytes: &[u8]) -> Option<Metrics> {
    let table = Table(bytes);
    let size = table.u16(0)?;
    let [format, content] = table.bytes(2)?;
    if format != 1 || usize::try_from(size).ok()? > bytes.len() {
        return None;
    }
    if content >= 9 {
        return parse_described(&table);
    }
    let layout = LAYOUTS.iter().find(|layout| layout.content == content)?;
    (size == u64::from(layout.size)).then(|| parse_fixed(&table, layout))
}

fn parse_fixed(table: &Table<'_>, layout: &Layout) -> Metrics {
    let narrow = |at| if layout.is_narrow { table.u8(at) } else { table.u16(at) };
    let residency = |n: usize| table.u32(layout.residency.checked_add(n * 4)?);
    let (first, length, jpeg, video) = layout.partition;
    let count = table.u16(layout.partitions).and_then(|n| usize::try_from(n).ok()).unwrap_or(0).min(MAX_PARTITIONS);
    let parts = || (0..count).filter_map(|n| first.checked_add(n * length));
    let inside = |part: usize, (at, count): (usize, usize)| (part.saturating_add(at), count);
    Metrics {
        edge: table.u16(layout.edge),
        hotspot: table.u16(layout.hotspot),
        memory_temperature: table.u16(layout.memory_temperature),
        power: table.u16(layout.power),
        load: table.u16(layout.load),
        memory_load: table.u16(layout.memory_load),
        video_load: mean(table.u16s(layout.video_load).chain(parts().flat_map(|part| table.u16s(inside(part, video))))),
        jpeg_load: mean(table.u16s(layout.jpeg_load).chain(parts().flat_map(|part| table.u16s(inside(part, jpeg))))),
        energy: if layout.is_narrow { table.u32(layout.energy) } else { table.u64(layout.energy) },
        core_clock: mean(table.u16s(layout.core_clock)),
        memory_clock: table.u16(layout.memory_clock),
        video_clock: table.u16s(layout.video_clock).max(),
        throttled_by: table.u64(layout.throttled_by),
        is_throttled: table.u32(layout.throttle).map(|bits| bits != 0),
        residency: Residency {
            external: residency(0),
            power: residency(1),
            socket: residency(2),
            regulator: residency(3),
            memory: residency(4),
        },
        voltage: table.u16(layout.voltage),
        pcie_width: narrow(layout.pcie_width),
        pcie_speed: narrow(layout.pcie_speed),
        pcie_replays: table.u64(layout.pcie_replays),
        link_received: sum(table.u64s((layout.link_read, LINKS))),
        link_transmitted: sum(table.u64s((layout.link_written, LINKS))),
        links: links(table.u16s((layout.link_status, LINKS))),
        partitions: parts().map(|part| mean(table.u32s((part, CORES)))).collect(),
    }
}

/// Reads a table that describes itself: a number of fields, and before each eight bytes of which bits 0 to 9 are the
/// count of its numbers, 10 to 19 the field's number, 20 to 23 the type, 24 to 31 the unit. Nothing is aligned.
fn parse_described(table: &Table<'_>) -> Option<Metrics> {
    let fields = usize::try_from(table.u32(4)?).ok()?.min(MAX_FIELDS);
    let mut metrics = Metrics::default();
    let mut at = 8usize;
    for _ in 0..fields {
        // A table that ends before its last field is not one.
        let described = u64::from_ne_bytes(table.bytes(at)?);
        let count = usize::try_from(described & 0x3ff).ok()?;
        let first = at.checked_add(8)?;
        // Types go by pairs: without sign and with, of 1, 2, 4 and 8 bytes.
        let kind = (described >> 20) & 0xf;
        let width = match kind {
            0 | 1 => 1usize,
            2 | 3 => 2,
            4 | 5 => 4,
            6 | 7 => 8,
            _ => return None,
        };
        let number = |n: usize| {
            let at = first.checked_add(n * width)?;
            match width {
                1 => table.u8(at),
                2 => table.u16(at),
                4 => table.u32(at),
                _ => table.u64(at),
            }
        };
        let all = || (0..count).filter_map(number);
        let one = number(0);
        match (described >> 10) & 0x3ff {
            0 => metrics.hotspot = one,
            1 => metrics.memory_temperature = one,
            3 => metrics.power = one,
            4 => metrics.load = one,
            5 => metrics.memory_load = one,
            7 => metrics.energy = one,
            10 => metrics.residency.external = one,
            11 => metrics.residency.power = one,
            12 => metrics.residency.socket = one,
            13 => metrics.residency.regulator = one,
            14 => metrics.residency.memory = one,
            16 => metrics.pcie_width = one,
            17 => metrics.pcie_speed = one,
            25 => metrics.pcie_replays = one,
            29 => metrics.link_received = sum(all()),
            30 => metrics.link_transmitted = sum(all()),
            31 => metrics.links = links(all()),
            33 => metrics.core_clock = mean(all()),
            35 => metrics.video_clock = all().max(),
            37 => metrics.memory_clock = all().max(),
            41 => metrics.jpeg_load = mean(all()),
            42 => metrics.video_load = mean(all()),
            _ => {}
        }
        at = first.checked_add(count * width)?;
    }
    Some(metrics)
}

/// Why the clocks are not higher, in the words of the catalogue; `None` where the table does not say. `before` is what
/// the last table counted: newer cards do not say what is now but count for how long it was.
pub(super) fn throttle_reasons(metrics: &Metrics, before: &Residency) -> Option<String> {
    let now = &metrics.residency;
    let grew = |now: Option<u64>, before: Option<u64>| Some(now? > before?);
    let reasons: Vec<(&str, Option<bool>)> = if let Some(bits) = metrics.throttled_by {
        // Sixteen bits each: power, current, temperature, other.
        vec![
            ("power_cap", Some(bits & 0xffff != 0)),
            ("hardware_slowdown", Some(bits & 0xffff_0000_ffff_0000 != 0)),
            ("hardware_thermal", Some(bits & 0xffff_0000_0000 != 0)),
        ]
    } else if now.power.is_some() {
        let thermal =
            [grew(now.socket, before.socket), grew(now.regulator, before.regulator), grew(now.memory, before.memory)];
        vec![
            ("power_cap", grew(now.power, before.power)),
            ("hardware_thermal", thermal.into_iter().flatten().reduce(|a, b| a || b)),
            ("power_brake", grew(now.external, before.external)),
        ]
    } else {
        vec![("hardware_slowdown", metrics.is_throttled)]
    };
    if reasons.iter().all(|(_, is)| is.is_none()) {
        return None;
    }
    let names: Vec<&str> = reasons.iter().filter(|(_, is)| *is == Some(true)).map(|(name, _)| *name).collect();
    Some(if names.is_empty() { "none".to_owned() } else { names.join(",") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A table with all unknown.
    fn table(content: u8, size: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; size];
        bytes[..2].copy_from_slice(&u16::try_from(size).unwrap().to_ne_bytes());
        bytes[2] = 1;
        bytes[3] = content;
        bytes
    }

    fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
        bytes[at..at + value.len()].copy_from_slice(value);
    }

    #[test]
    fn an_empty_table_of_each_content_says_nothing() {
        for layout in LAYOUTS {
            let bytes = table(layout.content, usize::from(layout.size));
            let metrics = parse_metrics(&bytes).unwrap();
            assert_eq!(metrics.partitions, []);
            assert_eq!(metrics, Metrics::default(), "{}", layout.content);
            assert_eq!(parse_metrics(&bytes[..bytes.len() - 1]), None, "cut");
            let longer = table(layout.content, usize::from(layout.size) + 8);
            assert_eq!(parse_metrics(&longer), None, "of another size");
        }
        assert_eq!(parse_metrics(&[]), None);
        let mut apu = table(3, 120);
        apu[2] = 2;
        assert_eq!(parse_metrics(&apu), None);
    }

    #[test]
    fn fields_lie_inside_their_table_and_beside_each_other() {
        for layout in LAYOUTS {
            let size = usize::from(layout.size);
            // Every field is set by itself and is then the only one that is known.
            for at in [
                layout.hotspot,
                layout.memory_temperature,
                layout.power,
                layout.load,
                layout.memory_load,
                layout.memory_clock,
                layout.core_clock.0,
                layout.video_clock.0,
            ] {
                assert!(at + 2 <= size);
                let mut bytes = table(layout.content, size);
                put(&mut bytes, at, &7u16.to_ne_bytes());
                let metrics = parse_metrics(&bytes).unwrap();
                let integers = [
                    metrics.hotspot,
                    metrics.memory_temperature,
                    metrics.power,
                    metrics.load,
                    metrics.memory_load,
                    metrics.memory_clock,
                    metrics.core_clock.map(|_| 7),
                    metrics.video_clock,
                ];
                assert_eq!(integers.iter().filter(|v| **v == Some(7)).count(), 1, "{} at {at}", layout.content);
            }
        }
    }

    #[test]
    fn contents_of_older_cards_are_read() {
        let mut bytes = table(3, 120);
        for (at, value) in
            [(4, 41u16), (6, 47), (8, 52), (16, 93), (18, 40), (20, 5), (22, 301), (54, 2100), (58, 1000)]
        {
            put(&mut bytes, at, &value.to_ne_bytes());
        }
        put(&mut bytes, 24, &(65_536u64 * 1000).to_ne_bytes());
        put(&mut bytes, 68, &3u32.to_ne_bytes());
        put(&mut bytes, 74, &16u16.to_ne_bytes());
        put(&mut bytes, 76, &160u16.to_ne_bytes());
        put(&mut bytes, 106, &881u16.to_ne_bytes());
        put(&mut bytes, 112, &(1u64 << 36 | 1).to_ne_bytes());
        let metrics = parse_metrics(&bytes).unwrap();
        assert_eq!((metrics.edge, metrics.hotspot, metrics.memory_temperature), (Some(41), Some(47), Some(52)));
        assert_eq!((metrics.load, metrics.memory_load, metrics.power), (Some(93), Some(40), Some(301)));
        assert_eq!((metrics.video_load, metrics.core_clock), (Some(5.0), Some(2100.0)));
        assert_eq!((metrics.pcie_width, metrics.pcie_speed, metrics.voltage), (Some(16), Some(160), Some(881)));
        assert!((metrics.energy.unwrap() as f64 * ENERGY_UNIT - 1000.0).abs() < 1e-9);
        assert_eq!(throttle_reasons(&metrics, &Residency::default()).as_deref(), Some("power_cap,hardware_thermal"));
    }

    #[test]
    fn bits_of_throttling_have_names() {
        let of = |bits: u64| {
            throttle_reasons(&Metrics { throttled_by: Some(bits), ..Metrics::default() }, &Residency::default())
                .unwrap()
        };
        assert_eq!(of(0), "none");
        assert_eq!(of(1), "power_cap");
        assert_eq!(of(1 << 16), "hardware_slowdown");
        assert_eq!(of(1 << 35), "hardware_thermal");
        assert_eq!(of(1 << 56), "hardware_slowdown");
        assert_eq!(throttle_reasons(&Metrics::default(), &Residency::default()), None);
        let now = Residency { power: Some(5), socket: Some(7), ..Residency::default() };
        let metrics = Metrics { residency: now, ..Metrics::default() };
        assert_eq!(throttle_reasons(&metrics, &Residency::default()), None, "nothing to compare with");
        assert_eq!(throttle_reasons(&metrics, &now).as_deref(), Some("none"));
        let before = Residency { power: Some(5), socket: Some(6), ..Residency::default() };
        assert_eq!(throttle_reasons(&metrics, &before).as_deref(), Some("hardware_thermal"));
    }

    #[test]
    fn partitions_and_links_are_read() {
        let mut bytes = table(7, 2208);
        put(&mut bytes, 338, &2u16.to_ne_bytes());
        for (n, load) in [(0usize, 30u32), (1, 70)] {
            put(&mut bytes, 344 + n * 232, &load.to_ne_bytes());
            put(&mut bytes, 344 + n * 232 + 4, &(load + 10).to_ne_bytes());
        }
        put(&mut bytes, 344 + 96, &20u16.to_ne_bytes());
        put(&mut bytes, 344 + 232 + 96, &40u16.to_ne_bytes());
        for link in 0..7 {
            put(&mut bytes, 136 + link * 8, &1000u64.to_ne_bytes());
            put(&mut bytes, 200 + link * 8, &2000u64.to_ne_bytes());
            put(&mut bytes, 264 + link * 2, &u16::from(link != 3).to_ne_bytes());
        }
        let metrics = parse_metrics(&bytes).unwrap();
        assert_eq!(metrics.partitions, [Some(35.0), Some(75.0)]);
        assert_eq!(metrics.video_load, Some(30.0));
        assert_eq!((metrics.link_received, metrics.link_transmitted), (Some(7000), Some(14_000)));
        assert_eq!(metrics.links, Some((7, 6)));
    }

    #[test]
    fn a_table_that_describes_itself_is_read_and_unknown_fields_are_skipped() {
        let mut bytes = vec![0, 0, 1, 9];
        bytes.extend(5u32.to_ne_bytes());
        let mut field = |number: u64, kind: u64, values: &[&[u8]]| {
            bytes.extend((number << 10 | kind << 20 | values.len() as u64).to_ne_bytes());
            values.iter().for_each(|value| bytes.extend(*value));
        };
        field(4, 2, &[&64u16.to_ne_bytes()]);
        field(900, 0, &[&[1], &[2], &[3]]);
        field(30, 6, &[&1000u64.to_ne_bytes(), &u64::MAX.to_ne_bytes(), &500u64.to_ne_bytes()]);
        field(33, 2, &[&2000u16.to_ne_bytes(), &1000u16.to_ne_bytes()]);
        field(3, 2, &[&u16::MAX.to_ne_bytes()]);
        let size = u16::try_from(bytes.len()).unwrap();
        put(&mut bytes, 0, &size.to_ne_bytes());
        let metrics = parse_metrics(&bytes).unwrap();
        assert_eq!((metrics.load, metrics.link_transmitted, metrics.power), (Some(64), Some(1500), None));
        assert_eq!(metrics.core_clock, Some(1500.0));
        assert_eq!(parse_metrics(&bytes[..bytes.len() - 1]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(
            mut bytes in prop::collection::vec(any::<u8>(), 4..MAX_TABLE),
            content in 0u8..12,
            says_its_size in any::<bool>(),
        ) {
            parse_metrics(&bytes);
            let fixed = LAYOUTS.iter().find(|layout| layout.content == content).map(|layout| layout.size);
            let size = fixed.unwrap_or(u16::try_from(bytes.len()).unwrap());
            if says_its_size {
                put(&mut bytes, 0, &size.to_ne_bytes());
            }
            bytes[2] = 1;
            bytes[3] = content;
            if let Some(metrics) = parse_metrics(&bytes) {
                throttle_reasons(&metrics, &Residency::default());
            }
        }
    }
}
