//! `host`: what the machine is.
//!
//! The facts lie in many small files: DMI tables (made by the firmware, shown below `/sys/class/dmi`), the
//! distribution's `os-release`, and the kernel's own. All are read below the host's root and none needs a privilege,
//! except the serial numbers, which the kernel shows to root alone.
//!
//! `/etc/machine-id` names an installation for ever, and its manual asks not to send it over networks. What is sent is
//! derived from it as systemd derives an application's: the same for the same machine, of no use elsewhere, and to be had
//! on the machine itself by `systemd-id128 machine-id --app-specific=6b0f6c9e3f0b4c559d0a5a1f4e3c7b21`.
//!
//! A row comes every minute, so that a look at any few minutes finds every host there is. What is built into the machine
//! (see [`inventory`]) makes long texts that hardly ever change: it is looked up every ten minutes, and in the row when it
//! has changed, and else once an hour.
//!
//! Makers of boards often leave DMI fields as they came (`To Be Filled By O.E.M.`). Such values are NULL.

mod inventory;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use nodescope_model::rows::{Row, Rows};
use sha2::{Digest, Sha256};

use self::inventory::Inventory;
use crate::host_root::{HostRoot, read_text};
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};

/// As much of `/proc/cpuinfo` as surely holds its first CPU. The rest says the same again, and on machines with many
/// CPUs making it takes the kernel milliseconds.
const CPUINFO_BYTES: u64 = 16 * 1024;

/// How often it is looked up what is built into the machine.
const INVENTORY_EVERY: Duration = Duration::from_secs(600);

/// How often that is told although nothing has changed.
const TELL_EVERY: Duration = Duration::from_secs(3600);

/// What stands for this program when a machine's id is derived: drawn by chance once, and never to be changed.
const APPLICATION: [u8; 16] = 0x6b0f_6c9e_3f0b_4c55_9d0a_5a1f_4e3c_7b21_u128.to_be_bytes();

/// Columns and the fields of DMI they come from.
const DMI: &[(&str, &str)] = &[
    ("vendor", "sys_vendor"),
    ("product_version", "product_version"),
    ("product_family", "product_family"),
    ("product_sku", "product_sku"),
    ("serial", "product_serial"),
    ("board_vendor", "board_vendor"),
    ("board", "board_name"),
    ("board_version", "board_version"),
    ("board_serial", "board_serial"),
    ("chassis_vendor", "chassis_vendor"),
    ("chassis_serial", "chassis_serial"),
    ("asset_tag", "chassis_asset_tag"),
    ("bios_vendor", "bios_vendor"),
    ("bios_version", "bios_version"),
    ("bios_release", "bios_release"),
    ("bios_date", "bios_date"),
];

/// Columns and the fields of `os-release` they come from, beside those that stand in for each other.
const OS: &[(&str, &str)] = &[
    ("os_name", "NAME"),
    ("os_id", "ID"),
    ("os_like", "ID_LIKE"),
    ("os_version", "VERSION_ID"),
    ("os_version_name", "VERSION"),
    ("os_codename", "VERSION_CODENAME"),
    ("os_variant", "VARIANT_ID"),
    ("os_build", "BUILD_ID"),
];

/// Fills the table `host`.
pub struct HostProbe {
    root: HostRoot,
    inventory: Option<Inventory>,
}

impl HostProbe {
    /// A probe of the machine below `options.root`.
    pub fn new(options: &ProbeOptions) -> Self {
        Self { root: options.root.clone(), inventory: None }
    }

    fn dmi(&self, field: &str) -> Option<String> {
        read_text(&self.root.sys(format!("class/dmi/id/{field}"))).filter(|value| is_told(value))
    }

    fn os_release(&self) -> String {
        let text = |path: &str| fs::read_to_string(self.root.path(path));
        text("/etc/os-release").or_else(|_| text("/usr/lib/os-release")).unwrap_or_default()
    }

    fn cpuinfo(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(file) = File::open(self.root.proc("cpuinfo")) {
            // What was read before an error is as good as the whole.
            let _ = file.take(CPUINFO_BYTES).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The hypervisor this machine runs on, or `none`.
    fn virtualization(&self, cpuinfo: &str) -> Option<&'static str> {
        let sources = read_text(&self.root.sys("devices/system/clocksource/clocksource0/available_clocksource"));
        let makers = ["sys_vendor", "product_name", "board_vendor", "bios_vendor"].map(|field| self.dmi(field));
        let xen = read_text(&self.root.sys("hypervisor/type")).is_some_and(|kind| kind == "xen");
        let named = if xen { Some("xen") } else { hypervisor(sources.as_deref(), &makers) };
        match runs_virtual(cpuinfo) {
            Some(false) if !xen => Some("none"),
            Some(true) => named.or(Some("unknown")),
            // This architecture's CPUs do not say. Firmware that names no hypervisor then means that there is none.
            _ => named.or(makers.iter().any(Option::is_some).then_some("none")),
        }
    }

    fn is_container(&self) -> Option<bool> {
        let root = &self.root;
        if root.path("/run/.containerenv").exists() || root.path("/.dockerenv").exists() {
            return Some(true);
        }
        // Shown to root alone; systemd's convention, which all runtimes keep.
        let environment = fs::read(root.proc("1/environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(b"container=")) {
            return Some(true);
        }
        fs::read_to_string(root.proc("1/cgroup")).ok().map(|groups| names_container(&groups))
    }
}

impl Probe for HostProbe {
    fn table(&self) -> &'static str {
        "host"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let root = &self.root;
        let hostname = root.proc("sys/kernel/hostname");
        let hostname = fs::read_to_string(&hostname)
            .map_err(|source| ProbeError::Read { path: hostname.display().to_string(), source })?;
        let release = self.os_release();
        let cpuinfo = self.cpuinfo();
        let stat = fs::read_to_string(root.proc("stat")).unwrap_or_default();
        let meminfo = fs::read_to_string(root.proc("meminfo")).unwrap_or_default();
        let architecture = read_text(&root.proc("sys/kernel/arch"));
        let product = self.dmi("product_name").or_else(|| read_text(&root.sys("firmware/devicetree/base/model")));
        let topology = topology(&root.sys("devices/system/cpu"));
        let nodes = crate::host_root::numbered(&root.sys("devices/system/node"), "node").len();
        let microcode = cpu_field(&cpuinfo, "microcode").map(str::to_owned);
        let machine_id = read_text(&root.path("/etc/machine-id")).and_then(|id| derived_id(&id, APPLICATION));
        let mut row = rows.begin();
        row.text("hostname", hostname.trim())
            .text("machine_id", machine_id.as_deref())
            .text("os", os_field(&release, "PRETTY_NAME").or_else(|| os_field(&release, "NAME")).as_deref())
            .text("kernel", read_text(&root.proc("sys/kernel/osrelease")).as_deref())
            .text("kernel_version", read_text(&root.proc("sys/kernel/version")).as_deref())
            .text("domain", read_text(&root.proc("sys/kernel/domainname")).as_deref())
            .text("architecture", architecture.as_deref().unwrap_or(std::env::consts::ARCH))
            .text("virtualization", self.virtualization(&cpuinfo))
            .bool("container", self.is_container())
            .text("product", product.as_deref())
            .text("cpu_model", cpu_model(&cpuinfo).as_deref())
            .text(
                "microcode",
                microcode.or_else(|| read_text(&root.sys("devices/system/cpu/cpu0/microcode/version"))).as_deref(),
            )
            .text("agent_version", env!("CARGO_PKG_VERSION"))
            .int("boot_time_seconds", boot_time(&stat))
            .int("sockets", topology.map(|(sockets, _)| sockets))
            .int("cores", topology.map(|(_, cores)| cores))
            .int("threads", threads(&stat))
            .int("numa_nodes", i64::try_from(nodes).ok().filter(|nodes| *nodes > 0))
            .int("memory_bytes", kibibytes(&meminfo, "MemTotal:"))
            .int("swap_bytes", kibibytes(&meminfo, "SwapTotal:"));
        for (column, field) in OS {
            row.text(column, os_field(&release, field).as_deref());
        }
        for (column, field) in DMI {
            row.text(column, self.dmi(field).as_deref());
        }
        let mut tell = tick.is_due(TELL_EVERY);
        if tick.is_due(INVENTORY_EVERY) || self.inventory.is_none() {
            let found = Inventory::find(&self.root);
            tell |= self.inventory.as_ref().is_none_or(|before| found.differs(before));
            self.inventory = Some(found);
        }
        if let Some(inventory) = &self.inventory {
            fill(&mut row, inventory, tell);
        }
        Ok(())
    }
}

fn fill(row: &mut Row<'_>, inventory: &Inventory, tell: bool) {
    row.int("accelerators", inventory.accelerators.as_ref().map(|counts| counts.values().sum::<i64>()));
    if !tell {
        return;
    }
    if let Some(counts) = &inventory.accelerators {
        row.int_map("accelerators_by_vendor", counts.iter().map(|(vendor, count)| (*vendor, *count)));
    }
    let texts = |texts: &inventory::Texts| -> Vec<(String, String)> { texts.clone().into_iter().collect() };
    let topology = inventory.topology.iter().map(|(address, place)| (address.clone(), place.text())).collect();
    for (column, entries) in
        [("firmware", texts(&inventory.firmware)), ("drivers", texts(&inventory.drivers)), ("topology", topology)]
    {
        row.text_map(column, entries.iter().map(|(name, text)| (name.as_str(), text.as_str())));
    }
    row.int("devices_omitted", i64::try_from(inventory.omitted).ok());
}

/// What stands for a machine in one application: HMAC-SHA-256 of the application by the machine's id, cut to 128 bits and
/// marked as a random UUID. That is how systemd's `sd_id128_get_machine_app_specific` does it.
fn derived_id(machine_id: &str, application: [u8; 16]) -> Option<String> {
    let well_formed = machine_id.len() == 32 && machine_id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u128::from_str_radix(machine_id, 16).ok().filter(|id| well_formed && *id != 0)?.to_be_bytes();
    let padded = |pad: u8| {
        let mut block = [pad; 64];
        block.iter_mut().zip(id).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(application).finalize();
    let outer = Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize();
    let mut bytes = [0u8; 16];
    bytes.iter_mut().zip(outer).for_each(|(byte, from)| *byte = from);
    Some(uuid::Builder::from_random_bytes(bytes).into_uuid().simple().to_string())
}

/// Whether a DMI field was filled in by somebody.
fn is_told(value: &str) -> bool {
    const NOTHING: &[&str] = &[
        "0",
        "0123456789",
        "default string",
        "empty",
        "n/a",
        "none",
        "not applicable",
        "not available",
        "not specified",
        "o.e.m.",
        "oem",
        "system manufacturer",
        "system product name",
        "system serial number",
        "to be filled by o.e.m.",
        "unknown",
        "unspecified",
    ];
    !NOTHING.contains(&value.to_ascii_lowercase().as_str())
}

/// A value of `os-release`, which is written as for a shell: `NAME="Debian GNU/Linux"`.
fn os_field(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix('='))?.trim();
    let quoted = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let value = match (quoted('"'), quoted('\'')) {
        (Some(inner), _) => {
            let mut out = String::with_capacity(inner.len());
            let mut escaped = false;
            for c in inner.chars() {
                if c == '\\' && !escaped {
                    escaped = true;
                } else {
                    out.push(c);
                    escaped = false;
                }
            }
            out
        }
        (None, Some(inner)) => inner.to_owned(),
        (None, None) => value.to_owned(),
    };
    (!value.is_empty()).then_some(value)
}

/// The value after `key   :` in `/proc/cpuinfo`, of the first CPU.
fn cpu_field<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then_some(value.trim()).filter(|value| !value.is_empty())
    })
}

/// The model of the CPUs. Arm's give numbers instead of names.
fn cpu_model(cpuinfo: &str) -> Option<String> {
    if let Some(name) = ["model name", "Model Name", "cpu model", "cpu"].iter().find_map(|key| cpu_field(cpuinfo, key))
    {
        return Some(name.to_owned());
    }
    let (implementer, part) = (cpu_field(cpuinfo, "CPU implementer")?, cpu_field(cpuinfo, "CPU part")?);
    Some(match (implementer, part) {
        ("0x48", "0xd01") => "Kunpeng 920".to_owned(),
        ("0x48", "0xd02") => "Kunpeng 920 (second generation)".to_owned(),
        ("0x41", "0xd0c") => "Neoverse N1".to_owned(),
        ("0x41", "0xd40") => "Neoverse V1".to_owned(),
        ("0x41", "0xd49") => "Neoverse N2".to_owned(),
        ("0x41", "0xd4f") => "Neoverse V2".to_owned(),
        ("0x70", _) => format!("Phytium part {part}"),
        _ => format!("implementer {implementer} part {part}"),
    })
}

/// Whether the CPU says that it is a virtual one; `None` on architectures where it cannot say.
fn runs_virtual(cpuinfo: &str) -> Option<bool> {
    cpu_field(cpuinfo, "flags").map(|flags| flags.split_ascii_whitespace().any(|flag| flag == "hypervisor"))
}

/// The hypervisor, from the clocks it offers, else from the names its firmware gives.
fn hypervisor(clock_sources: Option<&str>, makers: &[Option<String>]) -> Option<&'static str> {
    const CLOCKS: &[(&str, &str)] = &[("kvm-clock", "kvm"), ("hyperv_clocksource", "microsoft"), ("xen", "xen")];
    const MAKERS: &[(&str, &str)] = &[
        ("KVM", "kvm"),
        ("OpenStack", "kvm"),
        ("KubeVirt", "kvm"),
        ("Google Compute Engine", "kvm"),
        ("Alibaba Cloud", "kvm"),
        ("Amazon EC2", "amazon"),
        ("QEMU", "qemu"),
        ("Bochs", "qemu"),
        ("VMware", "vmware"),
        ("VMW", "vmware"),
        ("VirtualBox", "virtualbox"),
        ("innotek GmbH", "virtualbox"),
        ("Xen", "xen"),
        ("Parallels", "parallels"),
        ("BHYVE", "bhyve"),
        ("Microsoft Corporation", "microsoft"),
    ];
    let sources = clock_sources.unwrap_or_default();
    let by_clock = CLOCKS.iter().find(|(clock, _)| sources.split_ascii_whitespace().any(|s| s.starts_with(clock)));
    let by_maker = || MAKERS.iter().find(|(prefix, _)| makers.iter().flatten().any(|maker| maker.starts_with(prefix)));
    by_clock.or_else(by_maker).map(|(_, name)| *name)
}

/// Whether the control group of the first process is one that a container runtime made.
fn names_container(cgroup: &str) -> bool {
    ["/docker", "/kubepods", "/lxc", "/libpod", "/containerd", "/machine.slice/libpod"]
        .iter()
        .any(|mark| cgroup.lines().any(|line| line.splitn(3, ':').nth(2).is_some_and(|path| path.starts_with(mark))))
}

fn boot_time(stat: &str) -> Option<i64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Logical CPUs in use: the lines `cpu0`, `cpu1`, … of `/proc/stat`.
fn threads(stat: &str) -> Option<i64> {
    let is_cpu =
        |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    i64::try_from(stat.lines().filter(is_cpu).count()).ok().filter(|count| *count > 0)
}

/// A number of kB in `/proc/meminfo`, in bytes.
fn kibibytes(meminfo: &str, key: &str) -> Option<i64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_ascii_whitespace().next()?.parse::<i64>().ok()?.checked_mul(1024)
}

/// How many packages and how many cores the CPUs lie in; `None` where the machine does not tell (virtual Arm ones).
fn topology(cpus: &Path) -> Option<(i64, i64)> {
    let mut packages = BTreeSet::new();
    let mut cores = BTreeSet::new();
    for entry in fs::read_dir(cpus).ok()?.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("cpu"));
        if !number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())) {
            continue;
        }
        let topology = entry.path().join("topology");
        let read = |file: &str| read_text(&topology.join(file))?.parse::<i64>().ok();
        // A CPU that is switched off has no topology.
        let (Some(package), Some(core)) = (read("physical_package_id"), read("core_id")) else { continue };
        // Cores of different dies of a package may have one number.
        let die = read("die_id").unwrap_or(0);
        packages.insert(package);
        cores.insert((package, die, core));
    }
    packages.remove(&-1);
    if packages.is_empty() {
        return None;
    }
    Some((i64::try_from(packages.len()).ok()?, i64::try_from(cores.len()).ok()?))
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{Array, RecordBatch};
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{FIRST_TICK, assert_sources, fixture_options, ints, sample_at, sample_once};

    fn text<'a>(batch: &'a RecordBatch, column: &str) -> Option<&'a str> {
        batch.column_by_name(column).unwrap().as_string::<i32>().iter().next().unwrap()
    }

    fn int(batch: &RecordBatch, column: &str) -> Option<i64> {
        batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().iter().next().unwrap()
    }

    /// A host with just these files.
    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, ProbeOptions) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files.iter().chain(&[("proc/sys/kernel/hostname", "h\n")]) {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = HostRoot::new(directory.path());
        (directory, ProbeOptions { root, ..fixture_options() })
    }

    #[test]
    fn the_recorded_host_is_described() {
        let batch = sample_once(&mut HostProbe::new(&fixture_options()));
        assert_eq!(batch.num_rows(), 1);
        let wanted = [
            ("hostname", Some("busy-host")),
            ("os", Some("openEuler 24.03 (LTS-SP1)")),
            ("os_id", Some("openEuler")),
            ("os_version", Some("24.03")),
            ("kernel", Some("6.6.0-72.0.0.76.oe2403sp1.x86_64")),
            ("architecture", Some("x86_64")),
            ("virtualization", Some("none")),
            ("vendor", Some("Inspur")),
            ("product", Some("NF5688M7")),
            ("serial", None),
            ("bios_version", Some("05.11.00")),
            ("bios_date", Some("03/18/2024")),
            ("board", Some("NF5688M7-MB")),
            ("microcode", Some("0x2b000590")),
            ("machine_id", Some("8d8a6f4cd09743138fd6cc0022ac8b75")),
            ("kernel_version", Some("#1 SMP Tue Jan  7 10:12:51 UTC 2025")),
            ("cpu_model", Some("Intel(R) Xeon(R) Platinum 8468")),
            ("agent_version", Some(env!("CARGO_PKG_VERSION"))),
        ];
        for (column, value) in wanted {
            assert_eq!(text(&batch, column), value, "{column}");
        }
        assert_eq!(batch.column_by_name("container").unwrap().as_boolean().iter().next().unwrap(), Some(false));
        assert_eq!(int(&batch, "accelerators"), Some(3));
        assert_eq!(int(&batch, "threads"), Some(4));
        assert_eq!(int(&batch, "numa_nodes"), Some(2));
        let told = |column: &str| format!("{:?}", batch.column_by_name(column).unwrap().as_map().value(0));
        for (column, part) in [
            ("accelerators_by_vendor", "ascend"),
            ("topology", "10de:2330 class=0302"),
            ("firmware", "GDC7302Q"),
            ("drivers", ""),
        ] {
            assert!(told(column).contains(part), "{column}: {}", told(column));
        }
        assert!(int(&batch, "memory_bytes").unwrap() > 0);
        assert!(int(&batch, "boot_time_seconds").unwrap() > 0);
    }

    #[test]
    fn what_cannot_be_read_is_null() {
        let (_directory, options) = host(&[]);
        let batch = sample_once(&mut HostProbe::new(&options));
        for column in ["os", "os_version", "kernel", "vendor", "serial", "cpu_model", "virtualization"] {
            assert_eq!(text(&batch, column), None, "{column}");
        }
        for column in ["boot_time_seconds", "sockets", "cores", "threads", "memory_bytes", "accelerators"] {
            assert_eq!(int(&batch, column), None, "{column}");
        }
        let directory = tempfile::tempdir().unwrap();
        let options = ProbeOptions { root: HostRoot::new(directory.path()), ..fixture_options() };
        let mut rows = Rows::new(nodescope_model::catalogue::Catalogue::built_in().get("host").unwrap());
        let error = HostProbe::new(&options).sample(&Tick { ts_micros: 0, first: true }, &mut rows).unwrap_err();
        assert!(matches!(error, ProbeError::Read { .. }), "{error}");
    }

    #[test]
    fn what_is_built_in_is_told_once_an_hour_and_when_it_changes() {
        let (directory, options) = host(&[("sys/class/nvme/nvme0/firmware_rev", "1\n")]);
        let mut probe = HostProbe::new(&options);
        let told = |batch: &RecordBatch| batch.column_by_name("firmware").unwrap().is_valid(0);
        let tick = |seconds: i64| Tick { ts_micros: seconds * 1_000_000, first: false };
        assert!(told(&sample_at(&mut probe, &FIRST_TICK)));
        assert!(!told(&sample_at(&mut probe, &tick(60))));
        assert!(!told(&sample_at(&mut probe, &tick(600))));
        fs::write(directory.path().join("sys/class/nvme/nvme0/firmware_rev"), "2\n").unwrap();
        assert!(!told(&sample_at(&mut probe, &tick(660))));
        let batch = sample_at(&mut probe, &tick(1200));
        assert!(told(&batch));
        assert_eq!(ints(&batch, "devices_omitted"), [Some(0)]);
        assert!(!told(&sample_at(&mut probe, &tick(1800))));
        assert!(told(&sample_at(&mut probe, &tick(3600))));
    }

    #[test]
    fn a_machine_is_known_by_an_id_derived_as_systemd_does() {
        let wanted = Some("8d8a6f4cd09743138fd6cc0022ac8b75");
        assert_eq!(derived_id("b08dfa6083e7567a1921a715000001fb", APPLICATION).as_deref(), wanted);
        for none in ["", "uninitialized", "00000000000000000000000000000000", "+08dfa6083e7567a1921a715000001fb"] {
            assert_eq!(derived_id(none, APPLICATION), None, "{none}");
        }
    }

    #[test]
    fn every_column_has_the_source_it_is_read_from() {
        assert_sources("host", DMI.iter().chain(OS).copied());
    }

    #[test]
    fn packages_and_cores_are_counted_and_dies_kept_apart() {
        let cpus: Vec<(String, String)> = (0..16)
            .flat_map(|cpu| {
                // Two packages of two dies of two cores of two threads; the number of a core is that in its die.
                let file = move |file: &str, value: i32| {
                    (format!("sys/devices/system/cpu/cpu{cpu}/topology/{file}"), format!("{value}\n"))
                };
                [file("physical_package_id", cpu / 8), file("die_id", cpu / 4 % 2), file("core_id", cpu / 2 % 2)]
            })
            .collect();
        let mut files: Vec<(&str, &str)> = cpus.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        files.push(("sys/devices/system/cpu/cpufreq/boost", "1"));
        files.push(("sys/devices/system/cpu/cpu16/online", "0"));
        let (_directory, options) = host(&files);
        let batch = sample_once(&mut HostProbe::new(&options));
        assert_eq!((int(&batch, "sockets"), int(&batch, "cores")), (Some(2), Some(8)));
    }

    #[test]
    fn hypervisors_are_known_by_flag_clock_and_firmware() {
        let flag = ("proc/cpuinfo", "processor : 0\nflags\t\t: fpu hypervisor sse\n");
        let no_flag = ("proc/cpuinfo", "processor : 0\nflags\t\t: fpu sse\n");
        let arm = ("proc/cpuinfo", "processor : 0\nCPU implementer : 0x48\nCPU part : 0xd01\n");
        let kvm = ("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc kvm-clock acpi_pm \n");
        let hyper_v =
            ("sys/devices/system/clocksource/clocksource0/available_clocksource", "hyperv_clocksource_tsc_page tsc\n");
        let maker = |name: &'static str| ("sys/class/dmi/id/sys_vendor", name);
        let cases: Vec<(Vec<(&str, &str)>, Option<&str>)> = vec![
            (vec![no_flag], Some("none")),
            (vec![no_flag, maker("Amazon EC2")], Some("none")),
            (vec![flag], Some("unknown")),
            (vec![flag, kvm], Some("kvm")),
            (vec![flag, hyper_v, maker("Microsoft Corporation")], Some("microsoft")),
            (vec![flag, maker("VMware, Inc.")], Some("vmware")),
            (vec![flag, ("sys/hypervisor/type", "xen\n")], Some("xen")),
            (vec![arm, maker("QEMU")], Some("qemu")),
            (vec![arm, maker("Huawei")], Some("none")),
            (vec![arm], None),
        ];
        for (files, wanted) in cases {
            let (_directory, options) = host(&files);
            let batch = sample_once(&mut HostProbe::new(&options));
            assert_eq!(text(&batch, "virtualization"), wanted, "{files:?}");
        }
    }

    #[test]
    fn containers_are_known_by_their_marks() {
        let cases: [(&[(&str, &str)], Option<bool>); 8] = [
            (&[], None),
            (&[("proc/1/cgroup", "0::/init.scope\n")], Some(false)),
            (&[("proc/1/cgroup", "0::/kubepods/burstable/pod1/c\n")], Some(true)),
            (&[("proc/1/cgroup", "3:memory:/docker/0af\n")], Some(true)),
            (&[("proc/1/cgroup", "0::/\n"), (".dockerenv", "")], Some(true)),
            (&[("proc/1/cgroup", "0::/\n"), ("run/.containerenv", "")], Some(true)),
            (&[("proc/1/cgroup", "0::/\n"), ("proc/1/environ", "A=1\0container=oci\0")], Some(true)),
            (&[("proc/1/cgroup", "0::/\n"), ("proc/1/environ", "A=container=\0")], Some(false)),
        ];
        for (files, wanted) in cases {
            let (_directory, options) = host(files);
            let batch = sample_once(&mut HostProbe::new(&options));
            let found = batch.column_by_name("container").unwrap().as_boolean().iter().next().unwrap();
            assert_eq!(found, wanted, "{files:?}");
        }
    }

    #[test]
    fn values_of_os_release_lose_their_quotes() {
        let text = "NAME='A B'\nPRETTY_NAME=\"He said \\\"so\\\" \\\\ \"\n ID=debian\nVERSION_ID=\"\"\nIDX=no\n";
        let cases = [("NAME", Some("A B")), ("PRETTY_NAME", Some("He said \"so\" \\ ")), ("ID", Some("debian"))];
        for (key, value) in cases.into_iter().chain([("VERSION_ID", None), ("I", None), ("HOME_URL", None)]) {
            assert_eq!(os_field(text, key).as_deref(), value, "{key}");
        }
    }

    #[test]
    fn cpus_without_a_name_are_known_by_number() {
        let arm = |implementer, part| cpu_model(&format!("CPU implementer\t: {implementer}\nCPU part\t: {part}\n"));
        assert_eq!(arm("0x48", "0xd01").as_deref(), Some("Kunpeng 920"));
        assert_eq!(arm("0x63", "0x001").as_deref(), Some("implementer 0x63 part 0x001"));
        assert_eq!(cpu_model("cpu\t\t: POWER9, altivec supported\n").as_deref(), Some("POWER9, altivec supported"));
        assert_eq!(cpu_model("processor: 0\n"), None);
    }

    #[test]
    fn fields_nobody_filled_in_are_not_told() {
        for value in ["To Be Filled By O.E.M.", "Default string", "None", "Not Specified", "0123456789"] {
            assert!(!is_told(value), "{value}");
        }
        assert!(is_told("Inspur"));
    }

    #[test]
    fn this_machine_is_described() {
        let options = ProbeOptions { root: HostRoot::new("/"), ..fixture_options() };
        let batch = sample_once(&mut HostProbe::new(&options));
        assert!(text(&batch, "kernel").is_some());
    }

    proptest! {
        #[test]
        fn no_text_brings_it_down(text in any::<String>(), key in "[A-Z]{1,3}") {
            os_field(&text, &key);
            derived_id(&text, APPLICATION);
            os_field(&format!("{key}={text}"), &key);
            cpu_model(&text);
            runs_virtual(&text);
            hypervisor(Some(&text), &[Some(text.clone())]);
            names_container(&text);
            boot_time(&text);
            threads(&text);
            kibibytes(&text, &key);
        }
    }
}
