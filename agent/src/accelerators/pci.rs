//! Accelerators on the PCI bus, with or without a driver.
//!
//! sysfs shows vendor, device and class of everything on the bus to everybody, so this is the one inventory that does
//! not depend on any vendor's library: it says what should be there when a library says nothing.

use std::collections::BTreeMap;
use std::fs;

use super::vendors::VendorId;
use crate::host_root::HostRoot;

/// Classes that accelerators report: VGA, 3D and other display controllers, and processing accelerators.
const CLASSES: &[u16] = &[0x0300, 0x0302, 0x0380, PROCESSING];

const PROCESSING: u16 = 0x1200;

/// One accelerator as the bus shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAccelerator {
    /// `domain:bus:device.function`, as below `/sys/bus/pci/devices`.
    pub address: String,
    /// Who made it.
    pub vendor: VendorId,
    /// The vendor's number for the model.
    pub device: u16,
}

/// The accelerators on the bus, by address; `None` where the bus cannot be seen. Slices that a card shows as devices
/// of their own (virtual functions) are not counted again.
pub fn scan(root: &HostRoot) -> Option<Vec<PciAccelerator>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.sys("bus/pci/devices")).ok()?.flatten() {
        let path = entry.path();
        let number = |file: &str| hexadecimal(&fs::read_to_string(path.join(file)).ok()?);
        let (Some(vendor), Some(device), Some(class)) = (number("vendor"), number("device"), number("class")) else {
            continue;
        };
        if path.join("physfn").symlink_metadata().is_ok() {
            continue;
        }
        // The class file has three bytes: class, subclass, programming interface.
        if let Some(vendor) = accelerator_vendor(vendor, class >> 8)
            && let Ok(device) = u16::try_from(device)
        {
            found.push(PciAccelerator { address: entry.file_name().to_string_lossy().into_owned(), vendor, device });
        }
    }
    found.sort();
    Some(found)
}

/// How many of which vendor: `8 ascend, 2 nvidia`. Empty when there are none.
pub fn summary(accelerators: &[PciAccelerator]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for accelerator in accelerators {
        *counts.entry(accelerator.vendor.as_str()).or_default() += 1;
    }
    counts.iter().map(|(vendor, count)| format!("{count} {vendor}")).collect::<Vec<_>>().join(", ")
}

fn accelerator_vendor(vendor: u32, class: u32) -> Option<VendorId> {
    let (number, class) = (u16::try_from(vendor).ok()?, u16::try_from(class).ok()?);
    let vendor = VendorId::ALL.into_iter().find(|vendor| vendor.pci_vendor() == number)?;
    // Huawei's servers carry a display chip of Huawei's for their remote console, which computes nothing.
    let counts = if vendor == VendorId::Ascend { class == PROCESSING } else { CLASSES.contains(&class) };
    counts.then_some(vendor)
}

/// `0x10de`, as sysfs writes it.
fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::fixture_options;

    #[test]
    fn the_recorded_bus_has_its_accelerators_and_nothing_else() {
        let found = scan(&fixture_options().root).unwrap();
        let wanted = [
            ("0000:17:00.0", VendorId::Nvidia, 0x2330),
            ("0000:65:00.0", VendorId::Nvidia, 0x2330),
            ("0000:c1:00.0", VendorId::Ascend, 0xd802),
        ];
        let wanted =
            wanted.map(|(address, vendor, device)| PciAccelerator { address: address.to_owned(), vendor, device });
        assert_eq!(found, wanted);
        assert_eq!(summary(&found), "1 ascend, 2 nvidia");
        assert_eq!(summary(&[]), "");
    }

    #[test]
    fn without_a_bus_nothing_is_known() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(scan(&HostRoot::new(directory.path())), None);
    }

    #[test]
    fn vendor_and_class_decide() {
        let cases = [
            (0x10de, 0x0302, Some(VendorId::Nvidia)),
            (0x10de, 0x0403, None), // its sound
            (0x10de, 0x0680, None), // NVSwitch
            (0x1002, 0x0380, Some(VendorId::Amd)),
            (0x19e5, 0x1200, Some(VendorId::Ascend)),
            (0x19e5, 0x0300, None), // the remote console's display
            (0x8086, 0x0300, None),
            (0x0001_10de, 0x0302, None),
        ];
        for (vendor, class, wanted) in cases {
            assert_eq!(accelerator_vendor(vendor, class), wanted, "{vendor:#x} {class:#x}");
        }
    }

    proptest! {
        #[test]
        fn no_text_brings_it_down(text in any::<String>(), vendor in any::<u32>(), class in any::<u32>()) {
            hexadecimal(&text);
            accelerator_vendor(vendor, class);
        }
    }
}
