//! Hygon's cards through fakes of its two libraries.

#[path = "support/fakes.rs"]
mod fakes;

use fakes::contract::{self, Contract};
use fakes::{Fake, Value, value};
use nodescope_agent::accelerators::VendorId;

const FIRST: &str = "GPU-000000000000abc0";
const SECOND: &str = "GPU-000000000000abc1";

fn begin(defines: &[&str], mode: &str) -> Fake {
    Fake::begin("hydmi.c", VendorId::Hygon, defines, mode)
}

#[test]
fn hygon_keeps_the_contract() {
    contract::all(&Contract {
        source: "hydmi.c",
        defines: &[],
        vendor: VendorId::Hygon,
        normal: "normal",
        function: "rsmi_dev_busy_percent_get",
        cards: &[FIRST, SECOND],
        values: &[
            ("index", 0.into()),
            ("model", "K100_AI".into()),
            ("serial", "T7A0001".into()),
            ("pci_bdf", "0000:17:00.0".into()),
            ("driver_version", "6.8.5".into()),
            ("firmware_version", "113-D67301".into()),
            ("parent", Value::Null),
            ("utilization_ratio", 0.4.into()),
            ("memory_utilization_ratio", 0.3.into()),
            ("utilization_mean_ratio", 0.4.into()),
            ("utilization_max_ratio", 0.4.into()),
            ("memory_total_bytes", (64i64 << 30).into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("memory_free_bytes", (44i64 << 30).into()),
            ("power_watts", 71.25.into()),
            ("power_max_watts", 71.25.into()),
            ("power_limit_watts", 300.0.into()),
            ("energy_joules", 15.25.into()),
            ("temperature_celsius", 54.0.into()),
            ("hotspot_temperature_celsius", 59.0.into()),
            ("memory_temperature_celsius", 64.0.into()),
            ("slowdown_temperature_celsius", 100.0.into()),
            ("shutdown_temperature_celsius", 105.0.into()),
            ("core_clock_hertz", 1_500_000_000.into()),
            ("core_clock_max_hertz", 1_500_000_000.into()),
            ("memory_clock_hertz", 1_800_000_000.into()),
            ("voltage_volts", 0.881.into()),
            ("fan_ratio", 0.2.into()),
            // Of the memory and of the part that computes: 3 + 12, 1 + 4.
            ("ecc_corrected_volatile", 15.into()),
            ("ecc_uncorrected_volatile", 5.into()),
            ("pcie_replays", 4.into()),
            ("pcie_generation", Value::Null),
            ("processes", 1.into()),
            ("error", Value::Null),
        ],
        sentinels: &[
            "utilization_ratio",
            "utilization_mean_ratio",
            "memory_utilization_ratio",
            "memory_used_bytes",
            "power_watts",
            "temperature_celsius",
            "memory_temperature_celsius",
            "core_clock_hertz",
            "voltage_volts",
            "energy_joules",
        ],
        without: ("WITHOUT_BUSY", &["utilization_ratio", "utilization_max_ratio"]),
        still: &["memory_used_bytes", "power_watts", "core_clock_hertz", "ecc_corrected_volatile"],
        partitions: true,
    });
}

#[test]
fn a_load_that_cannot_be_read_is_not_a_load_of_nothing() {
    let mut fake = begin(&[], "busy");
    fake.tick();
    fake.assert(
        FIRST,
        &[
            ("utilization_ratio", Value::Null),
            ("utilization_mean_ratio", Value::Null),
            ("power_watts", 71.25.into()),
            ("error", "load: RSMI_STATUS_BUSY: Some resource was busy (error 16)".into()),
        ],
    );
}

#[test]
fn an_older_library_will_do() {
    let mut fake = begin(&["OLD"], "normal");
    fake.tick();
    fake.assert(
        FIRST,
        &[
            ("core_clock_hertz", 1_500_000_000.into()),
            ("memory_clock_hertz", 1_800_000_000.into()),
            ("core_clock_max_hertz", 1_500_000_000.into()),
            ("utilization_ratio", 0.4.into()),
        ],
    );
}

#[test]
fn processes_are_told_with_what_they_hold() {
    let mut fake = begin(&[], "normal");
    fake.tick();
    let rows = fake.rows("accelerator_process");
    assert_eq!(rows.num_rows(), 1);
    for (column, wanted) in [
        ("device", FIRST.into()),
        ("pid", Value::Int(4242)),
        ("work", "compute".into()),
        ("memory_used_bytes", (1i64 << 30).into()),
        ("utilization_ratio", 0.25.into()),
    ] {
        assert!(value(&rows, 0, column).is(&wanted), "{column}: {:?}", value(&rows, 0, column));
    }
}

#[test]
fn virtual_devices_have_what_is_their_own() {
    let mut fake = begin(&[], "partitions 2");
    fake.until("two virtual devices", |fake| fake.devices().len() == 4);
    fake.tick();
    // Number 1 was given up.
    fake.assert(
        "GPU-000000000000abc0-vdcu2",
        &[
            ("parent", FIRST.into()),
            ("partition_type", "vdcu".into()),
            ("partition_id", "2".into()),
            ("pci_bdf", "0000:17:00.0".into()),
            ("cores", 30.into()),
            ("utilization_ratio", 0.52.into()),
            ("memory_total_bytes", (16i64 << 30).into()),
            ("memory_used_bytes", (1i64 << 30).into()),
            ("memory_free_bytes", (15i64 << 30).into()),
            ("power_watts", Value::Null),
        ],
    );
}
