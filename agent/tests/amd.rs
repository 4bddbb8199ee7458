//! AMD's cards: from a recorded tree of the driver's files, and through a fake of ROCm SMI where there are none.

#![allow(clippy::unwrap_used, reason = "it is for tests")]

#[path = "support/fakes.rs"]
mod fakes;

use fakes::contract::{self, Contract};
use fakes::{Fake, Value, value};
use nodescope_agent::accelerators::VendorId;
use std::path::Path;

/// An Instinct cut into two, and a Radeon, which has no number for life.
const INSTINCT: &str = "GPU-d4f3e9b7a1c20586";
const RADEON: &str = "0000:e3:00.0";

const CARD: &str = "sys/class/drm/card1/device";

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A table of `gpu_metrics` in which all is unknown but what is put there.
fn table(content: u8, size: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0xff; size];
    let header = [u16::try_from(size).unwrap().to_ne_bytes(), [1, content]].concat();
    for (at, value) in fields.iter().copied().chain([(0, header.as_slice())]) {
        bytes[at..at + value.len()].copy_from_slice(value);
    }
    bytes
}

/// Content 7, of a card of two partitions.
fn instinct(throttled_for: u32) -> Vec<u8> {
    let (kib, down) = (1_000_000u64.to_ne_bytes(), 0u16.to_ne_bytes());
    let up = 1u16.to_ne_bytes();
    table(
        7,
        2208,
        &[
            (4, &62u16.to_ne_bytes()),
            (6, &56u16.to_ne_bytes()),
            (12, &80u16.to_ne_bytes()),
            (14, &45u16.to_ne_bytes()),
            (24, &(65_536u64 * 2000).to_ne_bytes()),
            (48, &throttled_for.to_ne_bytes()),
            (52, &7u32.to_ne_bytes()),
            (68, &16u16.to_ne_bytes()),
            (70, &320u16.to_ne_bytes()),
            (136, &kib),
            (144, &kib),
            (200, &kib),
            (264, &up),
            (266, &up),
            (268, &down),
            (296, &2000u16.to_ne_bytes()),
            (298, &2100u16.to_ne_bytes()),
            (336, &1300u16.to_ne_bytes()),
            (338, &2u16.to_ne_bytes()),
            (344, &90u32.to_ne_bytes()),
            (348, &70u32.to_ne_bytes()),
            (344 + 96, &12u16.to_ne_bytes()),
            (576, &10u32.to_ne_bytes()),
        ],
    )
}

/// Content 3, of a card for consumers.
fn radeon() -> Vec<u8> {
    table(
        3,
        120,
        &[
            (4, &42u16.to_ne_bytes()),
            (16, &4u16.to_ne_bytes()),
            (54, &98u16.to_ne_bytes()),
            (24, &0u64.to_ne_bytes()),
            (74, &8u16.to_ne_bytes()),
            (76, &80u16.to_ne_bytes()),
            (112, &1u64.to_ne_bytes()),
        ],
    )
}

fn begin() -> Fake {
    begin_with(|_| {})
}

/// `change` has the tree before it is first looked at.
fn begin_with(change: impl FnOnce(&Path)) -> Fake {
    let mut fake = Fake::of_files(VendorId::Amd);
    let root = fake.root().to_owned();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/amd-host"), &root);
    std::fs::write(root.join(CARD).join("gpu_metrics"), instinct(100)).unwrap();
    std::fs::write(root.join("sys/class/drm/card2/device/gpu_metrics"), radeon()).unwrap();
    let open = root.join("proc/7001/fd");
    std::fs::create_dir_all(&open).unwrap();
    for (file, target) in [("0", "/dev/null"), ("5", "/dev/dri/renderD129"), ("6", "/dev/dri/renderD129")] {
        std::os::unix::fs::symlink(target, open.join(file)).unwrap();
    }
    change(&root);
    fake.until("both cards", |fake| fake.cards().len() == 2);
    fake
}

#[test]
fn cards_are_read_from_files_alone() {
    let mut fake = begin();
    fake.tick_after_looks();
    assert!(fake.result.is_ok(), "{:?}", fake.result);
    fake.assert(
        INSTINCT,
        &[
            ("vendor", "amd".into()),
            ("index", 0.into()),
            ("model", "AMD Instinct MI300X OAM".into()),
            ("serial", "692251001124".into()),
            ("pci_bdf", "0000:c1:00.0".into()),
            ("device_file", "dri/renderD128".into()),
            ("driver_version", "6.8.5".into()),
            ("firmware_version", "113-M3000100-102".into()),
            ("numa_node", 0.into()),
            ("parent", Value::Null),
            ("utilization_ratio", 0.87.into()),
            ("utilization_mean_ratio", 0.87.into()),
            ("utilization_max_ratio", 0.87.into()),
            ("memory_utilization_ratio", 0.45.into()),
            ("decoder_utilization_ratio", 0.12.into()),
            ("memory_total_bytes", (192i64 << 30).into()),
            ("memory_used_bytes", (96i64 << 30).into()),
            ("memory_free_bytes", (96i64 << 30).into()),
            ("power_watts", 412.0.into()),
            ("power_max_watts", 412.0.into()),
            ("power_limit_watts", 750.0.into()),
            ("energy_joules", 2000.0.into()),
            // It has no sensor at its edge.
            ("temperature_celsius", 62.0.into()),
            ("hotspot_temperature_celsius", 62.0.into()),
            ("memory_temperature_celsius", 56.0.into()),
            ("slowdown_temperature_celsius", 100.0.into()),
            ("shutdown_temperature_celsius", 105.0.into()),
            ("core_clock_hertz", 2_050_000_000.into()),
            ("memory_clock_hertz", 1_300_000_000.into()),
            ("core_clock_max_hertz", 2_100_000_000.into()),
            ("memory_clock_max_hertz", 1_300_000_000.into()),
            ("ecc_corrected_volatile", 15.into()),
            ("ecc_uncorrected_volatile", 1.into()),
            ("retired_pages_uncorrected", 1.into()),
            ("retired_pages_pending", true.into()),
            ("pcie_generation", 5.into()),
            ("pcie_width", 16.into()),
            ("pcie_width_max", 16.into()),
            ("pcie_replays", 3.into()),
            ("links", 3.into()),
            ("links_active", 2.into()),
            ("link_received_bytes", 2_048_000_000.into()),
            ("link_transmitted_bytes", 1_024_000_000.into()),
            ("cores", 304.into()),
            ("mig_enabled", true.into()),
            ("processes", Value::Null),
            ("throttle_reasons", "none".into()),
            ("fan_ratio", Value::Null),
            ("voltage_volts", Value::Null),
            ("error", Value::Null),
        ],
    );
    fake.assert(
        RADEON,
        &[
            ("index", 1.into()),
            ("model", "AMD Radeon RX 7900 XTX".into()),
            ("serial", Value::Null),
            ("utilization_ratio", 0.05.into()),
            ("memory_utilization_ratio", 0.02.into()),
            ("power_watts", 23.5.into()),
            ("energy_joules", Value::Null),
            ("temperature_celsius", 42.0.into()),
            // Not in its table, so from the sensor.
            ("hotspot_temperature_celsius", 45.0.into()),
            ("core_clock_hertz", 98_000_000.into()),
            ("memory_clock_hertz", 96_000_000.into()),
            ("voltage_volts", 0.725.into()),
            ("fan_ratio", 0.2.into()),
            ("throttle_reasons", "power_cap".into()),
            // Of the slot, which the table knows better than the bus.
            ("pcie_generation", 3.into()),
            ("pcie_generation_max", 4.into()),
            ("pcie_width", 8.into()),
            ("ecc_corrected_volatile", Value::Null),
            ("retired_pages_pending", Value::Null),
            ("links", Value::Null),
            ("mig_enabled", Value::Null),
            ("processes", 1.into()),
            ("cores", 96.into()),
        ],
    );
    assert!(fake.events.is_empty(), "{:#?}", fake.events);
}

#[test]
fn partitions_have_what_is_their_own() {
    let fake = begin();
    assert_eq!(fake.devices().len(), 4);
    let second = format!("{INSTINCT}-xcp1");
    fake.assert(
        &format!("{INSTINCT}-xcp0"),
        &[
            ("parent", INSTINCT.into()),
            ("partition_type", "xcp".into()),
            ("partition_id", "0".into()),
            ("partition_profile", "DPX NPS1".into()),
            ("cores", 152.into()),
            ("utilization_ratio", 0.8.into()),
            ("memory_total_bytes", (96i64 << 30).into()),
            ("memory_used_bytes", (40i64 << 30).into()),
            ("processes", 1.into()),
        ],
    );
    fake.assert(&second, &[("utilization_ratio", 0.1.into()), ("processes", 0.into()), ("power_watts", Value::Null)]);
}

#[test]
fn processes_compute_or_draw() {
    let mut fake = begin();
    let told = |fake: &Fake| {
        let rows = fake.rows("accelerator_process");
        let mut all: Vec<[String; 4]> = (0..rows.num_rows())
            .map(|row| {
                ["pid", "device", "work", "memory_used_bytes"].map(|column| match value(&rows, row, column) {
                    Value::Text(text) => text,
                    Value::Int(number) => number.to_string(),
                    other => format!("{other:?}"),
                })
            })
            .collect();
        all.sort();
        all
    };
    let first = format!("{INSTINCT}-xcp0");
    let wanted = [
        ["4242", &first, "compute", "32212254720"],
        ["7001", RADEON, "graphics", "209715200"],
        ["977", RADEON, "compute", "536870912"],
    ];
    assert_eq!(told(&fake), wanted);
    // Three seconds of work in ten.
    let path = fake.root().join("proc/7001/fdinfo/5");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("gfx:\t1000000000", "gfx:\t4000000000")).unwrap();
    let until = |fake: &Fake| {
        let rows = fake.rows("accelerator_process");
        (0..rows.num_rows())
            .any(|row| matches!(value(&rows, row, "utilization_ratio"), Value::Float(load) if load > 0.2))
    };
    fake.until("a share", until);
    std::fs::remove_dir_all(fake.root().join("proc/7001")).unwrap();
    fake.until("its end", |fake| told(fake).len() == 2);
}

#[test]
fn a_load_that_cannot_be_read_is_not_a_load_of_nothing() {
    let mut fake = begin_with(|root| {
        // A file that is there and cannot be read.
        let load = root.join(CARD).join("gpu_busy_percent");
        std::fs::remove_file(&load).unwrap();
        std::fs::create_dir(&load).unwrap();
    });
    // The table has it too.
    fake.assert(INSTINCT, &[("utilization_ratio", 0.8.into())]);
    std::fs::write(fake.root().join(CARD).join("gpu_metrics"), [0u8; 8]).unwrap();
    fake.tick_after_looks();
    fake.tick();
    fake.assert(INSTINCT, &[("utilization_ratio", Value::Null), ("power_watts", 412.0.into())]);
    let Value::Text(error) = fake.value(INSTINCT, "error") else { panic!("no error") };
    assert!(error.contains("gpu_busy_percent"), "{error}");
}

#[test]
fn what_the_firmware_counts_is_why_the_clocks_are_low() {
    let mut fake = begin();
    fake.tick();
    fake.assert(INSTINCT, &[("throttle_reasons", "none".into())]);
    std::fs::write(fake.root().join(CARD).join("gpu_metrics"), instinct(150)).unwrap();
    fake.tick();
    fake.assert(INSTINCT, &[("throttle_reasons", "power_cap".into())]);
    fake.tick();
    fake.assert(INSTINCT, &[("throttle_reasons", "none".into())]);
}

#[test]
fn a_card_that_sleeps_is_left_asleep() {
    let mut fake = begin();
    std::fs::write(fake.root().join("sys/class/drm/card2/device/power/runtime_status"), "suspended\n").unwrap();
    fake.tick();
    fake.assert(
        RADEON,
        &[
            ("power_watts", Value::Null),
            ("utilization_ratio", Value::Null),
            ("memory_total_bytes", (24i64 << 30).into()),
        ],
    );
}

#[test]
fn a_card_that_goes_is_lost() {
    let mut fake = begin();
    std::fs::remove_dir_all(fake.root().join("sys/class/drm/card2")).unwrap();
    // Nothing can be read of a card that has gone, but its open files here still can.
    fake.until("a loss", |fake| fake.count("lost") == 1);
    assert_eq!(fake.cards(), [INSTINCT]);
    assert_eq!(fake.events.iter().find(|event| event.kind == "lost").unwrap().device.as_deref(), Some(RADEON));
}

#[test]
fn without_files_the_library_keeps_the_contract() {
    let of = Contract {
        source: "rsmi.c",
        defines: &[],
        vendor: VendorId::Amd,
        normal: "normal",
        function: "rsmi_dev_busy_percent_get",
        cards: &["GPU-000000000000abc0", "GPU-000000000000abc1"],
        values: &[
            ("pci_bdf", "0000:17:00.0".into()),
            ("utilization_ratio", 0.4.into()),
            ("utilization_max_ratio", 0.4.into()),
            ("power_watts", 71.25.into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("core_clock_hertz", 1_500_000_000.into()),
        ],
        sentinels: &["utilization_ratio", "power_watts", "memory_used_bytes", "core_clock_hertz"],
        without: ("WITHOUT_BUSY", &["utilization_ratio"]),
        still: &["memory_used_bytes", "power_watts"],
        partitions: false,
    };
    contract::all(&of);
}
