//! Disks: requests to block devices, and how long they took.
//!
//! `/proc/diskstats` has a line for every block device, partitions included: eleven numbers, fifteen since Linux 4.18
//! (discards), seventeen since 5.5 (flushes). Sectors are 512 bytes here, whatever the device's own are. We keep whole
//! devices, since a partition's requests are its disk's too, and leave out RAM disks and loop devices that nobody uses.
//!
//! What a device is (model, serial number, size) comes from `/sys/block` and is read again every minute, because a
//! disk may be pulled and another one put in its place. Health (SMART) needs privileges and is left to others.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use nodescope_model::rows::{Row, Rows};

use super::{MAX_ROWS, in_seconds, tell_omitted};
use crate::host_root::{FileReader, HostRoot, read_bool, read_bytes, read_text, read_u64};
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};

/// Bytes in what the kernel counts as a sector.
const SECTOR: u64 = 512;

const MILLIS: u64 = 1000;

/// How often it is looked up what a device is.
const DESCRIBE_EVERY: Duration = Duration::from_secs(60);

/// Fills the table `disk`.
pub struct DiskProbe {
    root: HostRoot,
    diskstats: FileReader,
    devices: BTreeMap<String, Device>,
}

impl DiskProbe {
    /// Reads nothing yet.
    pub fn new(options: &ProbeOptions) -> Self {
        Self {
            root: options.root.clone(),
            diskstats: FileReader::new(options.root.proc("diskstats")),
            devices: BTreeMap::new(),
        }
    }
}

impl Probe for DiskProbe {
    fn table(&self) -> &'static str {
        "disk"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        if tick.is_due(DESCRIBE_EVERY) {
            self.devices.clear();
        }
        let mut omitted = 0;
        for Line { major, minor, name, numbers } in self.diskstats.read()?.lines().filter_map(parse_line) {
            if is_unused(name, &numbers) {
                continue;
            }
            if self.devices.len() >= MAX_KNOWN && !self.devices.contains_key(name) {
                omitted += 1;
                continue;
            }
            // Looked up first: a name that is known costs no allocation.
            if !self.devices.contains_key(name) {
                self.devices.insert(name.to_owned(), Device::find(&self.root, name));
            }
            let Some(device) = self.devices.get(name) else { continue };
            if device.whole && rows.len() >= MAX_ROWS {
                omitted += 1;
            } else if device.whole {
                let mut row = rows.begin();
                row.text("device", name).int("major", i64::from(major)).int("minor", i64::from(minor));
                device.fill(&mut row);
                fill_numbers(&mut row, &numbers);
            }
        }
        tell_omitted(rows, "device", omitted);
        Ok(())
    }
}

/// Devices that are looked up at the most: disks and their partitions.
const MAX_KNOWN: usize = 16 * MAX_ROWS;

/// What a device is.
struct Device {
    whole: bool,
    model: Option<String>,
    serial: Option<String>,
    revision: Option<String>,
    wwn: Option<String>,
    mapped_name: Option<String>,
    mapped_uuid: Option<String>,
    rotational: Option<bool>,
    size_bytes: Option<u64>,
}

impl Device {
    fn find(root: &HostRoot, name: &str) -> Self {
        let all = root.sys("block");
        // The kernel writes the slash of `cciss/c0d0` as an exclamation mark where it would make a directory.
        let own = all.join(name.replace('/', "!"));
        Self {
            whole: own.is_dir() || !all.is_dir(),
            model: read_text(&own.join("device/model")),
            serial: find_serial(&own),
            revision: read_text(&own.join("device/rev")).or_else(|| read_text(&own.join("device/firmware_rev"))),
            wwn: read_text(&own.join("wwid")).or_else(|| read_text(&own.join("device/wwid"))),
            mapped_name: read_text(&own.join("dm/name")),
            mapped_uuid: read_text(&own.join("dm/uuid")),
            rotational: read_bool(&own.join("queue/rotational")),
            size_bytes: read_u64(&own.join("size")).and_then(|sectors| sectors.checked_mul(SECTOR)),
        }
    }

    fn fill(&self, row: &mut Row<'_>) {
        row.text("model", self.model.as_deref())
            .text("serial", self.serial.as_deref())
            .text("revision", self.revision.as_deref())
            .text("wwn", self.wwn.as_deref())
            .text("mapped_name", self.mapped_name.as_deref())
            .text("mapped_uuid", self.mapped_uuid.as_deref())
            .bool("rotational", self.rotational)
            .count("size_bytes", self.size_bytes);
    }
}

/// virtio has the serial number beside the device, NVMe in it, SCSI in a page of its own.
fn find_serial(own: &Path) -> Option<String> {
    read_text(&own.join("serial"))
        .or_else(|| read_text(&own.join("device/serial")))
        .or_else(|| parse_vpd_page_80(&read_bytes(&own.join("device/vpd_pg80"))?))
}

/// SCSI's page of vital product data with the unit's serial number: four bytes of head, then text.
fn parse_vpd_page_80(page: &[u8]) -> Option<String> {
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let text = &page[4..];
    let text = String::from_utf8_lossy(&text[..length.min(text.len())]);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// The numbers of a line in the kernel's order.
type Numbers = [Option<u64>; 17];

/// `259 0 nvme0n1 1 2 3 …`: two numbers of the device, its name, its counts.
struct Line<'t> {
    major: u32,
    minor: u32,
    name: &'t str,
    numbers: Numbers,
}

fn parse_line(line: &str) -> Option<Line<'_>> {
    let mut words = line.split_ascii_whitespace();
    let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let name = words.next()?;
    Some(Line { major, minor, name, numbers: std::array::from_fn(|_| words.next().and_then(|w| w.parse().ok())) })
}

/// Kernels make a row of these in advance.
fn is_unused(name: &str, numbers: &Numbers) -> bool {
    (name.starts_with("loop") || name.starts_with("ram")) && numbers.iter().all(|n| n.unwrap_or(0) == 0)
}

fn fill_numbers(row: &mut Row<'_>, numbers: &Numbers) {
    let [
        reads,
        reads_merged,
        read_sectors,
        read_millis,
        writes,
        writes_merged,
        written_sectors,
        write_millis,
        io_now,
        io_millis,
        io_weighted_millis,
        discards,
        discards_merged,
        discarded_sectors,
        discard_millis,
        flushes,
        flush_millis,
    ] = *numbers;
    let bytes = |sectors: Option<u64>| sectors.and_then(|s| s.checked_mul(SECTOR));
    let seconds = |millis: Option<u64>| millis.map(|m| in_seconds(m, MILLIS));
    row.count("reads", reads)
        .count("reads_merged", reads_merged)
        .count("read_bytes", bytes(read_sectors))
        .float("read_seconds", seconds(read_millis))
        .count("writes", writes)
        .count("writes_merged", writes_merged)
        .count("written_bytes", bytes(written_sectors))
        .float("write_seconds", seconds(write_millis))
        .count("io_now", io_now)
        .float("io_seconds", seconds(io_millis))
        .float("io_weighted_seconds", seconds(io_weighted_millis))
        .count("discards", discards)
        .count("discards_merged", discards_merged)
        .count("discarded_sectors", discarded_sectors)
        .count("discarded_bytes", bytes(discarded_sectors))
        .float("discard_seconds", seconds(discard_millis))
        .count("flushes", flushes)
        .float("flush_seconds", seconds(flush_millis));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{
        FIRST_TICK, bools, fixture_options, floats, garbage, ints, row_of, sample_at, sample_once, texts,
    };

    #[test]
    fn whole_devices_in_use_have_a_row() {
        let batch = sample_once(&mut DiskProbe::new(&fixture_options()));
        assert_eq!(texts(&batch, "device"), [Some("nvme0n1"), Some("sda"), Some("loop1"), Some("dm-0")]);
        assert_eq!(texts(&batch, "model"), [Some("SAMSUNG MZQL23T8HCLS-00A07"), Some("HGST HUS726T4TAL"), None, None]);
        assert_eq!(texts(&batch, "serial"), [Some("S64HNE0R501234"), Some("V8G6X4RL"), None, None]);
        assert_eq!(ints(&batch, "major")[..2], [Some(259), Some(8)]);
        assert_eq!(ints(&batch, "minor")[..2], [Some(0), Some(0)]);
        assert_eq!(texts(&batch, "mapped_name"), [None, None, None, Some("vg0-data")]);
        assert_eq!(bools(&batch, "rotational"), [Some(false), Some(true), None, Some(false)]);
        assert_eq!(
            ints(&batch, "size_bytes"),
            [Some(3_840_755_982_336), Some(4_000_787_030_016), None, Some(1_099_511_627_776)]
        );
    }

    #[test]
    fn sectors_are_512_bytes_and_times_are_seconds() {
        let batch = sample_once(&mut DiskProbe::new(&fixture_options()));
        let row = row_of(&batch, "device", "nvme0n1");
        let counts = [
            ("reads", Some(47_114_200)),
            ("reads_merged", Some(4)),
            ("read_bytes", Some(4_643_973_000 * 512)),
            ("writes", Some(1_078_320)),
            ("writes_merged", Some(43_950)),
            ("written_bytes", Some(39_451_633 * 512)),
            ("io_now", Some(3)),
            ("discards", Some(5_000)),
            ("discards_merged", Some(2)),
            ("discarded_bytes", Some(1_000_000 * 512)),
            ("flushes", Some(70_123)),
        ];
        for (column, expected) in counts {
            assert_eq!(ints(&batch, column)[row], expected, "{column}");
        }
        let times = [
            ("read_seconds", Some(2_165.0)),
            ("write_seconds", Some(1_010.775)),
            ("io_seconds", Some(222.766)),
            ("io_weighted_seconds", Some(1_032.546)),
            ("discard_seconds", Some(0.25)),
            ("flush_seconds", Some(12.5)),
        ];
        for (column, expected) in times {
            assert_eq!(floats(&batch, column)[row], expected, "{column}");
        }
    }

    #[test]
    fn what_an_old_kernel_does_not_count_is_unknown() {
        let batch = sample_once(&mut DiskProbe::new(&fixture_options()));
        let row = row_of(&batch, "device", "sda");
        assert_eq!(ints(&batch, "writes")[row], Some(812_345));
        for column in ["discards", "discarded_bytes", "flushes"] {
            assert_eq!(ints(&batch, column)[row], None, "{column}");
        }
        assert_eq!(floats(&batch, "flush_seconds")[row], None);
    }

    #[test]
    fn later_ticks_give_the_same_rows() {
        let mut probe = DiskProbe::new(&fixture_options());
        sample_once(&mut probe);
        for seconds in [1, 40] {
            let tick = Tick { ts_micros: FIRST_TICK.ts_micros + seconds * 1_000_000, first: false };
            let batch = sample_at(&mut probe, &tick);
            assert_eq!(batch.num_rows(), 4);
            assert_eq!(texts(&batch, "serial")[0], Some("S64HNE0R501234"));
        }
    }

    #[test]
    fn serial_numbers_of_scsi() {
        assert_eq!(parse_vpd_page_80(b"\0\x80\0\x08 V8G6X4R").as_deref(), Some("V8G6X4R"));
        assert_eq!(parse_vpd_page_80(b"\0\x80\0\x02ABCD").as_deref(), Some("AB"));
        assert_eq!(parse_vpd_page_80(b"\0\x80\xff\xffAB").as_deref(), Some("AB"));
        for page in [&b""[..], b"\0\x80\0", b"\0\x80\0\x00", b"\0\x80\0\x02  "] {
            assert_eq!(parse_vpd_page_80(page), None, "{page:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage(), page in proptest::collection::vec(any::<u8>(), 0..64)) {
            for line in text.lines() {
                if let Some(Line { name, numbers, .. }) = parse_line(line) {
                    is_unused(name, &numbers);
                }
            }
            parse_line(&format!("8 0 sda {text}"));
            parse_vpd_page_80(&page);
        }
    }
}
