//! Moore Threads' cards through a fake MTML.

#[path = "support/fakes.rs"]
mod fakes;

use fakes::contract::{self, Contract};
use fakes::{Fake, Value};
use nodescope_agent::accelerators::VendorId;

const FIRST: &str = "MTT-00000000";
const SECOND: &str = "MTT-00000001";

fn begin(defines: &[&str], mode: &str) -> Fake {
    Fake::begin("mtml.c", VendorId::MooreThreads, defines, mode)
}

#[test]
fn moore_threads_keeps_the_contract() {
    contract::all(&Contract {
        source: "mtml.c",
        defines: &[],
        vendor: VendorId::MooreThreads,
        normal: "normal",
        function: "mtmlGpuGetUtilization",
        cards: &[FIRST, SECOND],
        values: &[
            ("index", 0.into()),
            ("model", "MTT S4000".into()),
            ("serial", "S40001234567".into()),
            ("pci_bdf", "0000:1a:00.0".into()),
            ("device_file", "dri/card1".into()),
            ("driver_version", "2.7.0".into()),
            ("firmware_version", "3.2.1".into()),
            ("parent", Value::Null),
            ("cores", 8192.into()),
            ("utilization_ratio", 0.4.into()),
            ("utilization_max_ratio", 0.4.into()),
            ("memory_utilization_ratio", 0.42.into()),
            ("encoder_utilization_ratio", 0.05.into()),
            ("decoder_utilization_ratio", 0.06.into()),
            ("memory_total_bytes", (48i64 << 30).into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("memory_reserved_bytes", (1i64 << 30).into()),
            ("power_watts", 71.25.into()),
            ("power_max_watts", 71.25.into()),
            ("power_limit_watts", 450.0.into()),
            ("voltage_volts", 0.85.into()),
            ("temperature_celsius", 54.0.into()),
            ("memory_temperature_celsius", 61.0.into()),
            ("slowdown_temperature_celsius", 95.0.into()),
            ("shutdown_temperature_celsius", 105.0.into()),
            ("core_clock_hertz", 1_600_000_000.into()),
            ("core_clock_max_hertz", 1_750_000_000.into()),
            ("memory_clock_hertz", 2_000_000_000.into()),
            ("memory_clock_max_hertz", 2_100_000_000.into()),
            ("video_clock_hertz", 1_000_000_000.into()),
            ("performance_state", 2.into()),
            ("fan_ratio", 0.3.into()),
            ("ecc_corrected_volatile", 1.into()),
            ("ecc_uncorrected_volatile", 2.into()),
            ("ecc_corrected_aggregate", 3.into()),
            ("ecc_uncorrected_dram", 4.into()),
            ("retired_pages_corrected", 7.into()),
            ("retired_pages_uncorrected", 8.into()),
            ("retired_pages_pending", true.into()),
            ("pcie_generation", 4.into()),
            ("pcie_width", 8.into()),
            ("pcie_generation_max", 5.into()),
            ("pcie_width_max", 16.into()),
            ("pcie_replays", 9.into()),
            ("links", 4.into()),
            ("links_active", 3.into()),
            ("processes", Value::Null),
            ("error", Value::Null),
        ],
        sentinels: &[
            "utilization_ratio",
            "utilization_max_ratio",
            "memory_utilization_ratio",
            "encoder_utilization_ratio",
            "memory_total_bytes",
            "memory_used_bytes",
            "power_watts",
            "power_max_watts",
            "voltage_volts",
            "temperature_celsius",
            "memory_temperature_celsius",
            "core_clock_hertz",
            "memory_clock_hertz",
            "performance_state",
        ],
        without: ("WITHOUT_ECC", &["ecc_corrected_volatile", "retired_pages_corrected", "retired_pages_pending"]),
        still: &["utilization_ratio", "memory_used_bytes", "power_watts", "links"],
        partitions: true,
    });
}

#[test]
fn what_is_not_documented_may_be_missing() {
    let mut fake = begin(&["DOCUMENTED_ONLY"], "normal");
    fake.tick();
    fake.assert(
        SECOND,
        &[
            ("pci_bdf", "0000:3b:00.0".into()),
            ("utilization_ratio", 0.4.into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("power_limit_watts", Value::Null),
            ("memory_temperature_celsius", Value::Null),
            ("error", Value::Null),
        ],
    );
}

#[test]
fn instances_have_what_is_their_own() {
    // The library may list them among the devices, or not.
    for mode in ["partitions 3", "partitions 3; listed"] {
        let mut fake = begin(&[], mode);
        fake.tick();
        assert_eq!(fake.devices().len(), 5, "{mode}");
        fake.assert(
            "MPC-00000000-2",
            &[
                ("parent", FIRST.into()),
                ("partition_id", "2".into()),
                ("partition_type", "mpc".into()),
                ("partition_profile", "1c.12gb".into()),
                ("pci_bdf", "0000:1a:00.0".into()),
                ("cores", 2048.into()),
                ("memory_total_bytes", (12i64 << 30).into()),
                ("memory_used_bytes", (3i64 << 30).into()),
                ("utilization_ratio", 0.55.into()),
            ],
        );
        fake.assert(FIRST, &[("parent", Value::Null), ("utilization_ratio", 0.4.into())]);
    }
}

#[test]
fn an_instance_alone_is_a_card() {
    let mut fake = begin(&[], "partitions 1; hidden");
    fake.tick();
    assert_eq!(fake.cards(), [SECOND, "MPC-00000000-0"]);
    fake.assert("MPC-00000000-0", &[("utilization_ratio", 0.55.into()), ("parent", Value::Null)]);
}

#[test]
fn a_driver_that_was_replaced_gets_another_worker() {
    let mut fake = begin(&[], "normal");
    // The library is initialised again after a loss, and then belongs to another driver.
    fake.set_mode("lost 1; outdated");
    fake.until("the end of a worker", |fake| {
        fake.result.as_ref().is_err_and(|error| error.to_string().contains("opened anew"))
    });
    fake.set_mode("normal");
    fake.until("rows of another worker", |fake| fake.cards().len() == 2 && fake.result.is_ok());
    assert_eq!((fake.count("crashed"), fake.count("started")), (0, 1), "{:#?}", fake.events);
}
