//! The kernel's log: what drivers and the hardware say when something breaks.
//!
//! A driver that reports a fault writes a line into the kernel's log before anything else, and does so even when its
//! library hangs. So faults are read here as well as from the libraries: NVIDIA's Xids, resets and timeouts of AMD's
//! driver, errors of the other vendors' drivers, PCIe errors (AER), and machine checks.
//!
//! `/dev/kmsg` gives one record per read: `level,sequence,microseconds[,flags];message`, then lines with more about it
//! that begin with a space. It is opened without blocking and read to its end at each tick, from the end it had when it
//! was opened: what happened before the agent began is not told again. When the kernel has overwritten what we have not
//! read, it says so (`EPIPE`) and goes on with the oldest it has; the sequence shows how many are missing.
//!
//! Reading needs the capability `CAP_SYSLOG` wherever `kernel.dmesg_restrict` is 1, which is the rule today. Only lines
//! of the kernel itself count: programs can write into this log, too, and are marked there.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::accelerators::VendorId;

/// A record is no longer than two kibibytes; a buffer that is too small is refused.
const RECORD: usize = 8192;

/// Records taken at one tick. A kernel in trouble may write thousands a second.
const MAX_RECORDS: usize = 2000;

/// Faults told at one tick; how many more there were is told in one.
const MAX_FAULTS: usize = 50;

/// Of a message, so many bytes are kept.
const MAX_MESSAGE: usize = 400;

/// How bad a record is: an error or worse.
const ERROR: u64 = 3;

/// The least that a record of the kernel's can be. Above the lowest three bits is who wrote it: 0 is the kernel.
const LOWEST: u64 = 7;

/// Something that broke, as one line told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Microseconds since the machine began.
    pub(crate) at_boot_micros: i64,
    /// Whose driver said it; `None` for the hardware as such.
    pub(crate) vendor: Option<VendorId>,
    /// The device's PCI address.
    pub(crate) pci_bdf: Option<String>,
    /// The vendor's number.
    pub(crate) code: Option<i64>,
    /// The process it names.
    pub(crate) pid: Option<i64>,
    /// Whether it was put right, and is of interest only where it is an accelerator's.
    pub(crate) is_corrected: bool,
    /// The line.
    pub(crate) message: String,
}

/// The log, once it is open.
pub(crate) struct KernelLog {
    paths: Vec<PathBuf>,
    file: Option<File>,
    /// What is said once, when it cannot be read.
    is_refused: bool,
    next: Option<u64>,
    buffer: Vec<u8>,
}

impl KernelLog {
    /// The first of these that can be opened.
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, file: None, is_refused: false, next: None, buffer: Vec::new() }
    }

    /// Faults since the last call that are wanted, and how many lines there were that could not be told. Opens the log
    /// if it is not, at its end.
    pub(crate) fn read(&mut self, is_wanted: impl Fn(&Fault) -> bool, faults: &mut Vec<Fault>) -> u64 {
        faults.clear();
        if self.file.is_none() && !self.is_refused {
            self.open();
        }
        let Some(file) = &mut self.file else { return 0 };
        self.buffer.resize(RECORD, 0);
        let mut untold = 0;
        for _ in 0..MAX_RECORDS {
            let length = match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The kernel has overwritten some; or a signal came.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => continue,
                Err(_) => {
                    self.file = None;
                    break;
                }
            };
            let text = String::from_utf8_lossy(self.buffer.get(..length).unwrap_or_default());
            for record in parse_records(&text) {
                // What was overwritten before we came cannot be told, but that it was there can.
                let missed = self.next.map_or(0, |next| record.sequence.saturating_sub(next));
                untold += missed;
                self.next = Some(record.sequence.saturating_add(1));
                if record.priority > LOWEST {
                    continue;
                }
                // Chosen before they are counted: a device that puts errors right by the thousand must not take the
                // place of one that broke.
                let Some(fault) = parse_fault(&record).filter(&is_wanted) else { continue };
                if faults.len() < MAX_FAULTS {
                    faults.push(fault);
                } else {
                    untold += 1;
                }
            }
        }
        untold
    }

    fn open(&mut self) {
        let mut why = None;
        for path in &self.paths {
            match open_at_end(path) {
                Ok(file) => {
                    self.file = Some(file);
                    return;
                }
                Err(error) => why = Some((path.clone(), error)),
            }
        }
        self.is_refused = true;
        if let Some((path, error)) = why {
            tracing::info!(
                path = %path.display(), %error,
                "the kernel's log is not read, so faults are told by vendors' libraries only; it needs CAP_SYSLOG"
            );
        }
    }
}

fn open_at_end(path: &PathBuf) -> io::Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// 0 is the end of the world, 3 an error, 7 for who looks for one; what is higher was written by a program.
    priority: u64,
    sequence: u64,
    at_boot_micros: i64,
    message: &'a str,
}

/// The records in a text, those of programs too: they have their place in the sequence. Lines that belong to the one
/// before are left out.
fn parse_records(text: &str) -> impl Iterator<Item = Record<'_>> {
    text.lines().filter(|line| !line.starts_with(' ')).filter_map(|line| {
        let (head, message) = line.split_once(';')?;
        let mut head = head.split(',');
        let priority = head.next()?.parse().ok()?;
        let sequence = head.next()?.parse().ok()?;
        let at_boot_micros = head.next()?.parse().ok()?;
        Some(Record { priority, sequence, at_boot_micros, message })
    })
}

/// Words that AMD's driver uses when something has broken.
const AMD: &[&str] = &[
    "GPU reset begin",
    "GPU reset end with ret",
    " timeout, signaled seq",
    " timeout, but soft recovered",
    "VRAM is lost",
    "page fault",
    "uncorrectable hardware error",
    "uncorrectable errors",
    "poison",
    "Fatal error during GPU init",
    "failed to respond to msg",
    "Ring hang",
    "GPU hang",
    "has fallen off the bus",
    "device lost from bus",
];

/// Names by which the other vendors' drivers begin their lines. Of these, errors count.
const DRIVERS: &[(&str, VendorId)] = &[
    ("hydcu", VendorId::Hygon),
    ("hycu", VendorId::Hygon),
    ("ascend", VendorId::Ascend),
    ("davinci", VendorId::Ascend),
    ("devdrv", VendorId::Ascend),
    ("cambricon", VendorId::Cambricon),
    ("cndrv", VendorId::Cambricon),
    ("metax", VendorId::Metax),
    ("mxgpu", VendorId::Metax),
    ("mxcd", VendorId::Metax),
    ("mtgpu", VendorId::MooreThreads),
    ("enflame", VendorId::Enflame),
    ("iluvatar", VendorId::Iluvatar),
];

/// What hardware errors begin with or have in them. The lines that follow with details are left out.
const HARDWARE: &[&str] = &[
    "[Hardware Error]: Machine check events logged",
    "[Hardware Error]: event severity:",
    "Machine Check Exception:",
    "Memory failure:",
    "AER: device recovery failed",
    "DPC: containment event",
    "Link Down",
    "Card not present",
];

/// What broke, if the record says that something did.
fn parse_fault(record: &Record<'_>) -> Option<Fault> {
    let message = record.message;
    let fault = |vendor, code, is_corrected| {
        Some(Fault {
            at_boot_micros: record.at_boot_micros,
            vendor,
            pci_bdf: parse_bdf(message),
            code,
            pid: parse_pid(message),
            is_corrected,
            message: cut(message, MAX_MESSAGE).to_owned(),
        })
    };
    if let Some(code) = parse_xid(message) {
        return fault(Some(VendorId::Nvidia), Some(code), false);
    }
    if message.starts_with("NVRM:")
        && (message.contains("RmInitAdapter failed") || message.contains("rm_init_adapter failed"))
    {
        return fault(Some(VendorId::Nvidia), None, false);
    }
    if (message.starts_with("amdgpu") || message.starts_with("[drm:amdgpu"))
        && AMD.iter().any(|word| message.contains(word))
    {
        return fault(Some(VendorId::Amd), None, false);
    }
    if message.contains("PCIe Bus Error: severity=") {
        return fault(None, None, message.contains("severity=Correct"));
    }
    if HARDWARE.iter().any(|word| message.contains(word)) && (record.priority <= 4 || message.contains("pciehp")) {
        return fault(None, None, false);
    }
    if message.starts_with("EDAC MC") && message.contains(" UE ") {
        return fault(None, None, false);
    }
    if record.priority <= ERROR {
        let head = cut(message, 48).to_ascii_lowercase();
        let begins = |name: &str| head.trim_start_matches(['[', ' ', '<']).starts_with(name);
        if let Some((_, vendor)) = DRIVERS.iter().find(|(name, _)| begins(name)) {
            return fault(Some(*vendor), None, false);
        }
    }
    None
}

/// `NVRM: Xid (PCI:0000:0f:00): 79, …`, and of its switches `nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, …`.
fn parse_xid(message: &str) -> Option<i64> {
    let (before, after) = message.split_once("Xid (PCI:")?;
    if !before.starts_with("NVRM:") && !before.starts_with("nvidia-nvswitch") {
        return None;
    }
    let (_, after) = after.split_once("):")?;
    let digits = after.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// The first PCI address in a line, in the form of sysfs.
fn parse_bdf(message: &str) -> Option<String> {
    message.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':' || c == '.')).find_map(|word| {
        let word = word.trim_matches([':', '.']);
        let mut parts = word.strip_prefix("PCI:").unwrap_or(word).split(':');
        let (domain, bus, device) = (parts.next()?, parts.next()?, parts.next()?);
        let (device, function) = device.split_once('.').unwrap_or((device, "0"));
        let hexadecimal = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
            (lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit()))
                .then(|| u32::from_str_radix(text, 16).ok())
                .flatten()
        };
        let domain = hexadecimal(domain, 4..=8)?;
        let (bus, device) = (hexadecimal(bus, 2..=2)?, hexadecimal(device, 2..=2)?);
        let function = hexadecimal(function, 1..=1)?;
        (parts.next().is_none() && device <= 0x1f && function <= 7)
            .then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"))
    })
}

/// `pid=4242`, `pid='4242'` or `pid 4242`.
fn parse_pid(message: &str) -> Option<i64> {
    message.match_indices("pid").find_map(|(at, word)| {
        let rest = message.get(at + word.len()..)?;
        let rest = rest.strip_prefix('=').or_else(|| rest.strip_prefix(' '))?.trim_start_matches('\'');
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok().filter(|pid| (1..=1 << 22).contains(pid))
    })
}

/// The text, no longer than that.
fn cut(text: &str, length: usize) -> &str {
    text.get(..text.floor_char_boundary(length.min(text.len()))).unwrap_or(text)
}

/// What an Xid stands for, of those that matter for running a fleet.
pub(crate) fn xid_meaning(code: i64) -> Option<&'static str> {
    Some(match code {
        13 => "an engine's exception, mostly a program's mistake",
        31 => "a program accessed memory it has not",
        32 => "a corrupt stream of commands",
        38 => "the driver's firmware failed",
        43 => "a program's channel was reset",
        45 => "a program's work was removed, after another error or its end",
        48 => "an uncorrected memory error",
        61 | 62 => "the card's microcontroller stopped",
        63 => "a row or page of memory is to be replaced",
        64 => "a row or page of memory could not be replaced",
        68 | 69 => "an engine's exception",
        74 => "an NVLink error",
        79 => "the card has fallen off the bus",
        92 => "very many corrected memory errors",
        94 => "an uncorrected memory error, contained",
        95 => "an uncorrected memory error, not contained: the card must be reset",
        109 => "a switch of contexts took too long",
        119 | 120 => "the card's system processor does not answer",
        121 => "a corrected error of the link between chips",
        136 | 137 | 144..=150 => "an NVLink error",
        140 => "uncorrected errors, the card must be reset",
        143 => "the card could not be initialised",
        154 => "what would bring the card back has changed",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    fn fault(message: &str, level: u64) -> Option<Fault> {
        parse_fault(&Record { priority: level, sequence: 1, at_boot_micros: 5, message })
    }

    #[test]
    fn lines_that_go_on_are_left_out() {
        let text = "6,339,5140900,-;NET: Registered protocol family\n SUBSYSTEM=net\n DEVICE=+net:eth0\n\
                    3,340,5140901,-,caller=T1;two; parts\n12,341,5140902,-;a program wrote this\nnothing\n";
        let records: Vec<_> = parse_records(text).collect();
        assert_eq!(records.iter().map(|record| record.priority).collect::<Vec<_>>(), [6, 3, 12]);
        assert_eq!(records[1], Record { priority: 3, sequence: 340, at_boot_micros: 5_140_901, message: "two; parts" });
    }

    #[test]
    fn xids_are_faults_of_nvidia() {
        let cases = [
            (
                "NVRM: Xid (PCI:0000:0f:00): 119, pid=1234, name=python3, Timeout after 6s",
                119,
                "0000:0f:00.0",
                Some(1234),
            ),
            (
                "NVRM: Xid (PCI:0000:3B:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen",
                79,
                "0000:3b:00.0",
                None,
            ),
            ("NVRM: Xid (PCI:0000:65:00): 31, pid='77', name='python3'", 31, "0000:65:00.0", Some(77)),
            ("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32", 12_028, "0000:c1:00.0", None),
        ];
        for (message, code, bdf, pid) in cases {
            let fault = fault(message, 4).unwrap();
            assert_eq!((fault.vendor, fault.code), (Some(VendorId::Nvidia), Some(code)), "{message}");
            assert_eq!((fault.pci_bdf.as_deref(), fault.pid), (Some(bdf), pid), "{message}");
        }
        assert_eq!(fault("say NVRM: Xid (PCI:0000:0f:00): 119", 4), None, "not at the beginning");
        assert_eq!(fault("NVRM: loading NVIDIA UNIX x86_64 Kernel Module", 5), None);
        assert!(fault("NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x26:0x56:1463)", 3).is_some());
    }

    #[test]
    fn other_drivers_errors_are_faults_of_their_vendors() {
        let vendor = |message, level| fault(message, level).map(|fault| fault.vendor);
        assert_eq!(vendor("amdgpu 0000:03:00.0: amdgpu: GPU reset begin!", 6), Some(Some(VendorId::Amd)));
        let hang =
            fault("[drm:amdgpu_job_timedout [amdgpu]] *ERROR* ring gfx timeout, signaled seq=1, emitted seq=3", 3);
        assert_eq!(hang.unwrap().vendor, Some(VendorId::Amd));
        assert_eq!(vendor("amdgpu 0000:03:00.0: amdgpu: SMU is resumed successfully!", 6), None);
        assert_eq!(vendor("[ascend] [devdrv] [ERROR] heartbeat lost", 3), Some(Some(VendorId::Ascend)));
        assert_eq!(vendor("[ascend] [devdrv] ready", 6), None);
        assert_eq!(vendor("cambricon-mlu 0000:c1:00.0: firmware error", 3), Some(Some(VendorId::Cambricon)));
        assert_eq!(vendor("mtgpu: engine hang", 2), Some(Some(VendorId::MooreThreads)));
        assert_eq!(vendor("eth0: link is down", 3), None);
    }

    #[test]
    fn hardware_errors_are_faults_of_nobody() {
        let message = "pcieport 0000:17:01.0: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer";
        let found = fault(message, 3).unwrap();
        assert_eq!((found.vendor, found.is_corrected, found.pci_bdf.as_deref()), (None, false, Some("0000:17:01.0")));
        assert!(
            fault("nvme 0000:01:00.0: AER: PCIe Bus Error: severity=Corrected, type=Physical Layer", 4)
                .unwrap()
                .is_corrected
        );
        assert!(fault("mce: [Hardware Error]: Machine check events logged", 0).is_some());
        assert!(fault("{1}[Hardware Error]: event severity: fatal", 3).is_some());
        assert!(fault("{1}[Hardware Error]:  section_type: memory error", 3).is_none(), "a detail");
        assert!(fault("EDAC MC0: 1 UE memory read error on CPU_SrcID#0", 3).is_some());
        assert!(fault("EDAC MC0: 1 CE memory read error on CPU_SrcID#0", 4).is_none(), "the table edac counts them");
        assert!(fault("pcieport 0000:00:01.0: pciehp: Slot(3): Link Down", 6).is_some());
        assert!(fault("mlx5_core 0000:17:00.0 eth0: Link Down", 6).is_none());
    }

    #[test]
    fn addresses_are_found_and_nothing_else() {
        let bdf = |message| parse_bdf(message);
        assert_eq!(bdf("at 12:34:56.7 the 10000:e1:00.0: nvme").as_deref(), Some("10000:e1:00.0"));
        assert_eq!(bdf("00000000:0F:1f.7").as_deref(), Some("0000:0f:1f.7"));
        assert_eq!(bdf("0000:0f:20.0"), None, "no such device");
        assert_eq!(bdf("fe80:12:34:56"), None);
        assert_eq!(bdf(""), None);
    }

    #[test]
    fn only_what_comes_after_the_beginning_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kmsg");
        let mut file = File::create(&path).unwrap();
        let xid = "NVRM: Xid (PCI:0000:17:00): 79, GPU has fallen off the bus.";
        writeln!(file, "4,1,100,-;{xid}").unwrap();
        let mut log = KernelLog::new(vec![directory.path().join("none"), path]);
        let mut faults = Vec::new();
        assert_eq!((log.read(|fault| !fault.is_corrected, &mut faults), faults.len()), (0, 0));
        writeln!(file, "6,2,200,-;nothing\n4,3,300,-;{xid}").unwrap();
        assert_eq!(log.read(|fault| !fault.is_corrected, &mut faults), 0);
        assert_eq!(faults.iter().map(|fault| fault.at_boot_micros).collect::<Vec<_>>(), [300]);
        assert_eq!((log.read(|fault| !fault.is_corrected, &mut faults), faults.len()), (0, 0));
        // What programs write has its numbers, and is nothing that was missed.
        writeln!(file, "30,4,310,-;systemd[1]: {xid}").unwrap();
        writeln!(file, "30,5,311,-;{xid}\n6,6,312,-;nothing").unwrap();
        assert_eq!((log.read(|fault| !fault.is_corrected, &mut faults), faults.len()), (0, 0));
        writeln!(file, "6,12,400,-;five were overwritten").unwrap();
        assert_eq!((log.read(|fault| !fault.is_corrected, &mut faults), faults.len()), (5, 0));
        for n in 13..13 + MAX_FAULTS + 7 {
            writeln!(file, "4,{n},500,-;{xid}").unwrap();
        }
        assert_eq!(log.read(|fault| !fault.is_corrected, &mut faults) + faults.len() as u64, MAX_FAULTS as u64 + 7);
        let corrected = "nvme 0000:01:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer";
        for n in 200..200 + 2 * MAX_FAULTS {
            writeln!(file, "4,{n},600,-;{corrected}").unwrap();
        }
        writeln!(file, "4,{},700,-;{xid}", 200 + 2 * MAX_FAULTS).unwrap();
        log.next = Some(200);
        assert_eq!((log.read(|fault| !fault.is_corrected, &mut faults), faults.len()), (0, 1), "not crowded out");
    }

    #[test]
    fn a_log_that_cannot_be_read_is_none() {
        let mut log = KernelLog::new(vec!["/nowhere/kmsg".into()]);
        assert_eq!(log.read(|_| true, &mut Vec::new()), 0);
        assert!(log.is_refused);
    }

    proptest! {
        #[test]
        fn no_text_brings_it_down(text in garbage(), level in 0u64..8) {
            for record in parse_records(&text) {
                parse_fault(&record);
            }
            for message in [text.as_str(), &format!("NVRM: Xid (PCI:{text}"), &format!("amdgpu {text} page fault pid={text}")] {
                if let Some(fault) = parse_fault(&Record { priority: level, sequence: 0, at_boot_micros: 0, message }) {
                    prop_assert!(fault.message.len() <= MAX_MESSAGE);
                }
            }
        }
    }
}
