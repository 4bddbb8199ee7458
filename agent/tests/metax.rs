//! MetaX's cards through a fake MXSML.

#[path = "support/fakes.rs"]
mod fakes;

use std::time::Duration;

use fakes::contract::{self, Contract};
use fakes::{Fake, Value, value};
use nodescope_agent::accelerators::VendorId;

const FIRST: &str = "GPU-00000000";
const SECOND: &str = "GPU-00000001";

fn begin(defines: &[&str], mode: &str) -> Fake {
    Fake::begin("mxsml.c", VendorId::Metax, defines, mode)
}

#[test]
fn metax_keeps_the_contract() {
    contract::all(&Contract {
        source: "mxsml.c",
        defines: &[],
        vendor: VendorId::Metax,
        normal: "normal",
        function: "mxSmlGetDeviceIpUsage",
        cards: &[FIRST, SECOND],
        values: &[
            ("index", 0.into()),
            ("model", "MXC500".into()),
            ("serial", "MX0123456789".into()),
            ("pci_bdf", "0000:1a:00.0".into()),
            ("driver_version", "2.4.1".into()),
            ("firmware_version", "1.20.3.0".into()),
            ("parent", Value::Null),
            ("utilization_ratio", 0.4.into()),
            ("utilization_max_ratio", 0.4.into()),
            ("encoder_utilization_ratio", 0.05.into()),
            ("decoder_utilization_ratio", 0.06.into()),
            ("tensor_active_ratio", 0.3.into()),
            ("dram_active_ratio", 0.25.into()),
            ("memory_total_bytes", (64i64 << 30).into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("memory_free_bytes", Value::Null),
            ("power_watts", 71.25.into()),
            ("power_mean_watts", 71.25.into()),
            ("power_limit_watts", 350.0.into()),
            ("temperature_celsius", 54.25.into()),
            ("hotspot_temperature_celsius", 54.25.into()),
            ("memory_temperature_celsius", 61.0.into()),
            ("slowdown_temperature_celsius", 95.0.into()),
            ("core_clock_hertz", 1_600_000_000.into()),
            ("core_clock_max_hertz", 1_700_000_000.into()),
            ("memory_clock_hertz", 1_800_000_000.into()),
            ("video_clock_hertz", 1_000_000_000.into()),
            ("throttle_reasons", "power_cap,chip_thermal".into()),
            ("ecc_corrected_sram", 1.into()),
            ("ecc_uncorrected_sram", 2.into()),
            ("ecc_corrected_dram", 3.into()),
            ("ecc_uncorrected_dram", 4.into()),
            ("retired_pages", 5.into()),
            ("pcie_generation", 4.into()),
            ("pcie_width", 8.into()),
            ("pcie_generation_max", 5.into()),
            ("pcie_width_max", 16.into()),
            ("pcie_replays", 9.into()),
            ("pcie_received_bytes_per_second", 12e6.into()),
            ("pcie_transmitted_bytes_per_second", 34e6.into()),
            ("links", 6.into()),
            ("links_active", 5.into()),
            ("link_received_bytes", (7 * 1000 + 21).into()),
            ("link_transmitted_bytes", (7 * 2000 + 21).into()),
            ("link_received_bytes_per_second", Value::Null),
            ("link_replays", 7.into()),
            ("link_recoveries", 14.into()),
            ("link_crc_errors", 21.into()),
            ("health", "ok".into()),
            ("last_error_code", Value::Null),
            ("processes", 2.into()),
            ("error", Value::Null),
        ],
        sentinels: &[
            "utilization_ratio",
            "utilization_mean_ratio",
            "encoder_utilization_ratio",
            "dram_active_ratio",
            "memory_total_bytes",
            "memory_used_bytes",
            "power_watts",
            "power_mean_watts",
            "temperature_celsius",
            "memory_temperature_celsius",
            "core_clock_hertz",
            "throttle_reasons",
            "pcie_received_bytes_per_second",
            "link_received_bytes",
        ],
        without: ("WITHOUT_LINKS", &["links", "link_received_bytes", "link_replays"]),
        still: &["utilization_ratio", "memory_used_bytes", "power_watts", "link_received_bytes_per_second"],
        partitions: true,
    });
}

#[test]
fn an_older_library_tells_less() {
    let mut fake = begin(&["OLD"], "normal");
    fake.tick();
    fake.assert(
        FIRST,
        &[
            ("utilization_ratio", 0.4.into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("power_watts", 71.25.into()),
            ("pcie_generation", 4.into()),
            ("power_limit_watts", Value::Null),
            ("health", Value::Null),
            ("links", Value::Null),
            ("processes", 1.into()),
            ("error", Value::Null),
        ],
    );
    let processes = fake.rows("accelerator_process");
    assert_eq!(value(&processes, 0, "pid"), 4242.into());
    assert_eq!(value(&processes, 0, "memory_used_bytes"), (1i64 << 30).into());
}

#[test]
fn a_card_of_several_dies_is_one_row() {
    let mut fake = begin(&[], "dies 2");
    fake.tick();
    fake.assert(
        FIRST,
        &[
            ("utilization_ratio", 0.5.into()),
            ("utilization_max_ratio", 0.5.into()),
            ("memory_used_bytes", (40i64 << 30).into()),
            ("memory_total_bytes", (128i64 << 30).into()),
            ("temperature_celsius", 53.0.into()),
            ("dram_active_ratio", 0.25.into()),
            ("ecc_uncorrected_dram", 8.into()),
            ("power_watts", 71.25.into()),
            ("encoder_utilization_ratio", Value::Null),
            ("error", Value::Null),
        ],
    );
}

#[test]
fn virtual_functions_belong_to_their_physical_one() {
    let mut fake = begin(&[], "slices 2");
    fake.until("slices and the card behind them", |fake| fake.devices().len() == 5);
    fake.assert(
        "GPU-00000003",
        &[
            ("parent", "GPU-0000000100".into()),
            ("partition_id", "1".into()),
            ("partition_type", "vf".into()),
            ("pci_bdf", "0000:5c:00.2".into()),
            ("utilization_ratio", 0.4.into()),
        ],
    );
    fake.assert(
        "GPU-0000000100",
        &[("index", 100.into()), ("parent", Value::Null), ("power_watts", 71.25.into()), ("processes", Value::Null)],
    );
    assert_eq!(fake.cards(), [FIRST, SECOND, "GPU-0000000100"]);
}

#[test]
fn slices_have_what_is_their_own() {
    let mut fake = begin(&[], "partitions 3");
    fake.tick();
    assert_eq!(fake.devices().len(), 5);
    fake.assert(
        "GPU-00000000-2",
        &[
            ("parent", FIRST.into()),
            ("partition_id", "2".into()),
            ("partition_type", "sgpu".into()),
            ("partition_profile", "25%.16384mib".into()),
            ("pci_bdf", "0000:1a:00.0".into()),
            ("memory_total_bytes", (16i64 << 30).into()),
            ("memory_used_bytes", (4i64 << 30).into()),
            ("utilization_ratio", 0.125.into()),
            ("processes", 0.into()),
        ],
    );
    fake.assert("GPU-00000000-1", &[("processes", 1.into())]);
    fake.assert(FIRST, &[("processes", 2.into()), ("utilization_ratio", 0.4.into())]);
}

#[test]
fn processes_are_told_with_what_they_hold() {
    let mut fake = begin(&[], "partitions 1");
    fake.tick();
    let rows = fake.rows("accelerator_process");
    let mut found: Vec<_> = (0..rows.num_rows())
        .map(|row| ["device", "pid", "work", "memory_used_bytes"].map(|column| value(&rows, row, column)))
        .collect();
    found.sort_by_key(|row| format!("{row:?}"));
    let wanted: [[Value; 4]; 4] = [
        [FIRST.into(), 977.into(), "compute".into(), (2i64 << 30).into()],
        ["GPU-00000000-1".into(), 4242.into(), "compute".into(), (1i64 << 30).into()],
        [SECOND.into(), 4242.into(), "compute".into(), (1i64 << 30).into()],
        [SECOND.into(), 977.into(), "compute".into(), (2i64 << 30).into()],
    ];
    assert_eq!(found, wanted);
    // More than there is room for at first.
    fake.set_mode("more 500");
    fake.tick();
    fake.assert(FIRST, &[("processes", 502.into())]);
}

#[test]
fn a_card_that_cannot_be_used_is_an_event() {
    let mut fake = begin(&[], "normal");
    fake.set_mode("fault 17");
    fake.until("a fault", |fake| fake.count("fault") > 0);
    fake.skip(Duration::from_secs(60));
    fake.tick();
    let faults: Vec<_> = fake.events.iter().filter(|event| event.kind == "fault").collect();
    assert_eq!(faults.len(), 1, "once: {faults:#?}");
    assert_eq!(
        (faults[0].code, faults[0].device.as_deref(), faults[0].source.as_str()),
        (Some(17), Some(FIRST), "MXSML")
    );
    assert!(faults[0].message.contains("hbm training failed"), "{}", faults[0].message);
    fake.assert(FIRST, &[("health", "failed".into()), ("last_error_code", 17.into())]);
    fake.assert(SECOND, &[("health", "ok".into())]);
}

#[test]
fn what_takes_long_is_asked_for_seldom() {
    let mut fake = begin(&[], "slow");
    fake.tick();
    let mut told = Vec::new();
    for tick in 0..20 {
        fake.tick();
        if fake.value(FIRST, "pcie_received_bytes_per_second") != Value::Null {
            told.push(tick);
        }
    }
    assert!(matches!(told[..], [first, second] if second - first == 10), "once in ten seconds: {told:?}");
}
