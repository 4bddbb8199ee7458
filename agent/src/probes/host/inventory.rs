//! What is built into the machine: versions of firmware and drivers, and where on the PCI bus the parts sit.
//!
//! Of the hundreds of devices on a server's bus only those are told that work is done with: accelerators, network cards,
//! NVMe disks. Virtual functions (slices that a card shows as devices of their own) are left out.
//!
//! - `current_link_speed` and `current_link_width` say how a device is connected now, `max_…` how it could be. A card in
//!   a bad slot, or with a bad contact, runs at half its width for years and nobody notices. The speed may be low for
//!   another reason: accelerators slow their link down while they rest.
//! - A driver that came with the kernel has no version; one built on its own has one in `/sys/module/NAME/version`.
//! - Firmware of disks and RDMA cards is in files; that of network cards is asked of their drivers, by a call.
//!
//! All of it changes seldom. Links' speeds are told, and are no change.

use std::collections::{BTreeMap, BTreeSet};

use crate::abi::ethtool::Ethtool;
use crate::accelerators::pci;
use crate::host_root::{HostRoot, link_name, names, read_text};

/// Devices beyond this are counted, not told. The largest servers have 16 accelerators, 16 cards and 32 disks.
const MAX_DEVICES: usize = 128;

/// No version is longer. Some are whole sentences.
const MAX_TEXT: usize = 128;

/// Names with a text each.
pub(super) type Texts = BTreeMap<String, String>;

/// What is built into the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inventory {
    /// Version of the firmware by device: `nvme0`, `mlx5_0`, `sda`, `eth0`.
    pub(super) firmware: Texts,
    /// Version of the drivers of the devices in `topology`, by module.
    pub(super) drivers: Texts,
    /// Where the devices sit, by PCI address.
    pub(super) topology: BTreeMap<String, Place>,
    /// Accelerators by vendor; `None` where the bus cannot be seen.
    pub(super) accelerators: Option<BTreeMap<&'static str, i64>>,
    /// Devices left out, there being too many.
    pub(super) omitted: usize,
}

/// Where a device sits on the bus.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    vendor: u32,
    device: u32,
    class: u32,
    speed: Option<String>,
    max_speed: Option<String>,
    width: Option<String>,
    max_width: Option<String>,
    numa_node: Option<String>,
}

impl Place {
    /// `10de:2330 class=0302 speed=16.0/32.0GT/s width=16/16 numa=0`: now, and at most.
    pub(super) fn text(&self) -> String {
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
        let mut text = format!("{:04x}:{:04x} class={:04x}", self.vendor, self.device, self.class);
        if self.speed.is_some() || self.max_speed.is_some() {
            text += &format!(" speed={}/{}GT/s", known(&self.speed), known(&self.max_speed));
        }
        if self.width.is_some() || self.max_width.is_some() {
            text += &format!(" width={}/{}", known(&self.width), known(&self.max_width));
        }
        if let Some(node) = &self.numa_node {
            text += &format!(" numa={node}");
        }
        text
    }
}

impl Inventory {
    /// Looks it all up.
    pub(super) fn find(root: &HostRoot) -> Self {
        let mut found = Self::default();
        found.look_at_bus(root);
        found.look_at_firmware(root);
        found
    }

    /// Whether something was put in, taken out, or replaced; or sits at another width.
    pub(super) fn differs(&self, other: &Self) -> bool {
        let lasting = |inventory: &Self| {
            let mut lasting = inventory.clone();
            lasting.topology.values_mut().for_each(|place| place.speed = None);
            lasting
        };
        lasting(self) != lasting(other)
    }

    fn look_at_bus(&mut self, root: &HostRoot) {
        let accelerators = pci::scan(root);
        let addresses: BTreeSet<String> = accelerators.iter().flatten().map(|found| found.address.clone()).collect();
        self.accelerators = accelerators.map(|accelerators| {
            let mut counts = BTreeMap::new();
            for accelerator in accelerators {
                *counts.entry(accelerator.vendor.as_str()).or_default() += 1;
            }
            counts
        });
        for address in names(&root.sys("bus/pci/devices")) {
            let path = root.sys("bus/pci/devices").join(&address);
            let number = |file: &str| hexadecimal(&read_text(&path.join(file))?);
            let (Some(vendor), Some(device), Some(class)) = (number("vendor"), number("device"), number("class"))
            else {
                continue;
            };
            let class = class >> 8;
            if !addresses.contains(&address) && !is_wanted(class) || path.join("physfn").symlink_metadata().is_ok() {
                continue;
            }
            if self.topology.len() >= MAX_DEVICES {
                self.omitted += 1;
                continue;
            }
            if let Some(module) = link_name(&path.join("driver/module")) {
                let version = read_text(&root.sys("module").join(&module).join("version"));
                self.drivers.insert(module, short(&version.unwrap_or_else(|| "in-tree".to_owned())));
            }
            let speed = |file: &str| parse_speed(&read_text(&path.join(file))?);
            let width = |file: &str| parse_width(&read_text(&path.join(file))?);
            let place = Place {
                vendor,
                device,
                class,
                speed: speed("current_link_speed"),
                max_speed: speed("max_link_speed"),
                width: width("current_link_width"),
                max_width: width("max_link_width"),
                numa_node: read_text(&path.join("numa_node")).filter(|node| node.parse::<u32>().is_ok()),
            };
            self.topology.insert(address, place);
        }
    }

    fn look_at_firmware(&mut self, root: &HostRoot) {
        for (directory, file) in
            [("class/nvme", "firmware_rev"), ("class/infiniband", "fw_ver"), ("block", "device/rev")]
        {
            for name in names(&root.sys(directory)) {
                let Some(version) = read_text(&root.sys(directory).join(&name).join(file)) else { continue };
                self.add_firmware(name, &version);
            }
        }
        // The call is answered for the running machine, whatever the root.
        let Some(mut drivers) = root.is_this_machine().then(|| Ethtool::open().ok()).flatten() else { return };
        let net = root.sys("class/net");
        for interface in names(&net).into_iter().filter(|name| net.join(name).join("device").exists()) {
            let version = drivers.firmware_and_bus(&interface).map(|(firmware, _)| firmware).unwrap_or_default();
            if !matches!(version.as_str(), "" | "N/A") {
                self.add_firmware(interface, &version);
            }
        }
    }

    fn add_firmware(&mut self, device: String, version: &str) {
        if self.firmware.len() >= MAX_DEVICES {
            self.omitted += 1;
        } else {
            self.firmware.insert(device, short(version));
        }
    }
}

/// Network controllers of all kinds, and NVMe.
fn is_wanted(class: u32) -> bool {
    class >> 8 == 0x02 || class == 0x0108
}

fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// `0x10de`, as sysfs writes it.
fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// `32.0` of `32.0 GT/s PCIe`, and of `8 GT/s` as older kernels write it. `Unknown` is unknown.
fn parse_speed(text: &str) -> Option<String> {
    let (number, unit) = text.split_once(' ')?;
    number.parse::<f32>().ok().filter(|speed| speed.is_finite() && unit.starts_with("GT/s"))?;
    Some(number.to_owned())
}

/// A number of lanes. 0 and 255 stand for a link that is down or unknown.
fn parse_width(text: &str) -> Option<String> {
    text.parse::<u8>().ok().filter(|width| !matches!(width, 0 | 255)).map(|width| width.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join("sys").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn parts_are_told_with_their_place_and_versions() {
        let directory = tempfile::tempdir().unwrap();
        let device = |address: &str, files: &[(&str, &str)]| {
            let files: Vec<(String, &str)> =
                files.iter().map(|(file, text)| (format!("bus/pci/devices/{address}/{file}"), *text)).collect();
            let files: Vec<(&str, &str)> = files.iter().map(|(file, text)| (file.as_str(), *text)).collect();
            write(directory.path(), &files);
        };
        let gpu = [
            ("vendor", "0x10de\n"),
            ("device", "0x2330\n"),
            ("class", "0x030200\n"),
            ("current_link_speed", "2.5 GT/s PCIe\n"),
            ("max_link_speed", "32.0 GT/s PCIe\n"),
            ("current_link_width", "8\n"),
            ("max_link_width", "16\n"),
            ("numa_node", "1\n"),
        ];
        device("0000:17:00.0", &gpu);
        device(
            "0000:18:00.0",
            &[("vendor", "0x15b3"), ("device", "0x1021"), ("class", "0x020700"), ("numa_node", "-1")],
        );
        device("0000:18:00.2", &[("vendor", "0x15b3"), ("device", "0x101e"), ("class", "0x020000"), ("physfn/x", "")]);
        device(
            "0000:19:00.0",
            &[("vendor", "0x144d"), ("device", "0xa80a"), ("class", "0x010802"), ("max_link_width", "255")],
        );
        device("0000:1f:00.0", &[("vendor", "0x8086"), ("device", "0x7a06"), ("class", "0x060100")]);
        let sys = directory.path().join("sys");
        for (address, driver) in [("0000:17:00.0", "nvidia"), ("0000:18:00.0", "mlx5_core")] {
            let driver = sys.join("bus/pci/drivers").join(driver);
            fs::create_dir_all(&driver).unwrap();
            symlink(sys.join("module").join(driver.file_name().unwrap()), driver.join("module")).unwrap();
            symlink(&driver, sys.join("bus/pci/devices").join(address).join("driver")).unwrap();
        }
        write(
            directory.path(),
            &[
                ("module/nvidia/version", "570.86.15\n"),
                ("class/nvme/nvme0/firmware_rev", "GDC7302Q\n"),
                ("class/infiniband/mlx5_0/fw_ver", "28.39.3004\n"),
                ("block/sda/device/rev", "GXT5404Q\n"),
                ("block/dm-0/size", "1\n"),
            ],
        );
        let root = HostRoot::new(directory.path());
        let found = Inventory::find(&root);
        let topology: Vec<(&str, String)> =
            found.topology.iter().map(|(bdf, place)| (bdf.as_str(), place.text())).collect();
        let wanted = [
            ("0000:17:00.0", "10de:2330 class=0302 speed=2.5/32.0GT/s width=8/16 numa=1".to_owned()),
            ("0000:18:00.0", "15b3:1021 class=0207".to_owned()),
            ("0000:19:00.0", "144d:a80a class=0108".to_owned()),
        ];
        assert_eq!(topology, wanted);
        let texts = |pairs: &[(&str, &str)]| -> Texts {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        assert_eq!(found.drivers, texts(&[("mlx5_core", "in-tree"), ("nvidia", "570.86.15")]));
        assert_eq!(found.firmware, texts(&[("nvme0", "GDC7302Q"), ("mlx5_0", "28.39.3004"), ("sda", "GXT5404Q")]));
        assert_eq!(found.accelerators, Some(BTreeMap::from([("nvidia", 1)])));

        // The accelerator wakes and its link with it: nothing has changed. A new firmware, or fewer lanes, is a change.
        device("0000:17:00.0", &[("current_link_speed", "32.0 GT/s PCIe\n")]);
        let awake = Inventory::find(&root);
        assert!(awake != found && !awake.differs(&found));
        device("0000:17:00.0", &[("current_link_width", "4\n")]);
        assert!(Inventory::find(&root).differs(&found));
        device("0000:17:00.0", &[("current_link_width", "8\n")]);
        write(directory.path(), &[("class/nvme/nvme0/firmware_rev", "GDC7402Q\n")]);
        assert!(Inventory::find(&root).differs(&found));
    }

    #[test]
    fn devices_beyond_the_limit_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        for at in 0..MAX_DEVICES + 2 {
            let path = format!("class/nvme/nvme{at}/firmware_rev");
            write(directory.path(), &[(path.as_str(), "1")]);
        }
        let found = Inventory::find(&HostRoot::new(directory.path()));
        assert_eq!((found.firmware.len(), found.omitted, found.accelerators), (MAX_DEVICES, 2, None));
    }

    #[test]
    fn speeds_and_widths_that_are_none_are_unknown() {
        assert_eq!(parse_speed("32.0 GT/s PCIe").as_deref(), Some("32.0"));
        assert_eq!(parse_speed("8 GT/s").as_deref(), Some("8"));
        assert_eq!(["Unknown", "Unknown speed", "x GT/s", ""].map(parse_speed), [const { None }; 4]);
        assert_eq!(
            ["16", "0", "255", "x", ""].map(|text| parse_width(text).is_some()),
            [true, false, false, false, false]
        );
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            hexadecimal(&text);
            parse_speed(&text);
            parse_width(&text);
            prop_assert!(short(&text).chars().count() <= MAX_TEXT);
        }
    }
}
