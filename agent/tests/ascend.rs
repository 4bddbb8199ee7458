//! Ascend's chips through a fake DCMI: as it is, as it was some years ago, and in its second generation.

#[path = "support/fakes.rs"]
mod fakes;

use std::time::Duration;

use fakes::contract::{self, Contract};
use fakes::{Fake, Value, value};
use nodescope_agent::accelerators::VendorId;

const FIRST: &str = "1234ABCD-00000000-00000000-00000000-00000000";
const SECOND: &str = "1234ABCD-00000000-00000000-00000000-00000001";

/// An error that stands from the beginning.
const STANDING: i64 = 0x80cd_8008;

fn begin(defines: &[&str], mode: &str) -> Fake {
    Fake::begin("dcmi.c", VendorId::Ascend, defines, mode)
}

#[test]
fn ascend_keeps_the_contract() {
    contract::all(&Contract {
        source: "dcmi.c",
        defines: &[],
        vendor: VendorId::Ascend,
        normal: "normal",
        function: "dcmi_get_device_temperature",
        cards: &[FIRST, SECOND],
        values: &[
            ("index", 4.into()),
            ("model", "Ascend910B3".into()),
            ("serial", "033XYZ10P1000001".into()),
            ("pci_bdf", "0000:c1:00.0".into()),
            ("device_file", "davinci4".into()),
            ("driver_version", "24.1.rc3".into()),
            ("parent", Value::Null),
            ("mig_enabled", false.into()),
            ("cores", 20.into()),
            ("utilization_ratio", 0.45.into()),
            ("core_active_ratio", 0.4.into()),
            ("vector_utilization_ratio", 0.3.into()),
            ("tensor_active_ratio", 0.35.into()),
            ("utilization_mean_ratio", 0.45.into()),
            ("utilization_max_ratio", 0.45.into()),
            ("memory_utilization_ratio", 0.33.into()),
            ("encoder_utilization_ratio", Value::Null),
            ("memory_total_bytes", (64i64 << 30).into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("memory_free_bytes", (44i64 << 30).into()),
            ("power_watts", 312.3.into()),
            ("power_mean_watts", 312.3.into()),
            ("power_limit_watts", 350.0.into()),
            ("voltage_volts", 0.78.into()),
            ("temperature_celsius", 54.0.into()),
            ("memory_temperature_celsius", 61.0.into()),
            ("slowdown_temperature_celsius", 105.0.into()),
            ("shutdown_temperature_celsius", 115.0.into()),
            ("core_clock_hertz", 1_650_000_000.into()),
            ("core_clock_max_hertz", 1_800_000_000.into()),
            ("memory_clock_hertz", 1_600_000_000.into()),
            ("ecc_corrected_volatile", 1.into()),
            ("ecc_uncorrected_volatile", 2.into()),
            ("ecc_corrected_aggregate", 3.into()),
            ("ecc_uncorrected_aggregate", 4.into()),
            ("ecc_uncorrected_dram", 4.into()),
            // It is switched off there.
            ("ecc_corrected_sram", Value::Null),
            ("retired_pages_corrected", 5.into()),
            ("retired_pages_uncorrected", 6.into()),
            // Writes and answers, not requests.
            ("pcie_transmitted_bytes_per_second", (3.0 * 1_048_576_000.0).into()),
            ("pcie_received_bytes_per_second", (5.0 * 1_048_576_000.0).into()),
            ("links", 7.into()),
            ("links_active", 6.into()),
            ("link_transmitted_bytes", (7 * 1000 * 20).into()),
            ("link_received_bytes", (7 * 2000 * 20).into()),
            ("link_crc_errors", 7.into()),
            ("link_replays", 0.into()),
            ("health", "ok".into()),
            ("network_health", "ok".into()),
            ("last_error_code", STANDING.into()),
            ("processes", 2.into()),
            ("error", Value::Null),
        ],
        sentinels: &[
            "utilization_ratio",
            "core_active_ratio",
            "vector_utilization_ratio",
            "tensor_active_ratio",
            "utilization_mean_ratio",
            "utilization_max_ratio",
            "memory_utilization_ratio",
            "power_watts",
            "power_mean_watts",
            "temperature_celsius",
            "memory_temperature_celsius",
            "memory_total_bytes",
            "memory_used_bytes",
            "memory_free_bytes",
            "core_clock_hertz",
            "memory_clock_hertz",
            "health",
            "link_received_bytes",
            "link_crc_errors",
        ],
        without: ("WITHOUT_SENSORS", &["power_watts", "power_mean_watts", "temperature_celsius"]),
        still: &["utilization_ratio", "memory_used_bytes", "memory_temperature_celsius", "health", "processes"],
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
            ("model", "Ascend910B3".into()),
            // AI cores stand for the whole chip.
            ("utilization_ratio", 0.4.into()),
            ("core_active_ratio", 0.4.into()),
            ("vector_utilization_ratio", Value::Null),
            // Inference cards have no stacked memory.
            ("memory_total_bytes", (24i64 << 30).into()),
            ("memory_used_bytes", (4i64 << 30).into()),
            ("memory_free_bytes", (20i64 << 30).into()),
            ("memory_utilization_ratio", 0.22.into()),
            ("power_watts", 312.3.into()),
            ("processes", Value::Null),
            ("last_error_code", Value::Null),
            ("mig_enabled", Value::Null),
            ("error", Value::Null),
        ],
    );
}

#[test]
fn the_second_generation_is_asked_by_number() {
    let mut fake = begin(&["NUMBERED"], "normal");
    fake.tick();
    fake.assert(
        SECOND,
        &[
            ("index", 1.into()),
            ("pci_bdf", "0000:c2:00.0".into()),
            ("utilization_ratio", 0.45.into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("power_watts", 312.3.into()),
            ("network_health", "unreachable".into()),
            ("links", 7.into()),
            ("error", Value::Null),
        ],
    );
    fake.set_mode("partitions 1");
    fake.until("a partition", |fake| fake.devices().len() == 3);
}

#[test]
fn the_bus_tells_what_the_library_does_not() {
    let mut fake = Fake::build("dcmi.c", VendorId::Ascend, &[]);
    let device = fake.root().join("sys/bus/pci/devices/0000:c1:00.0");
    std::fs::create_dir_all(&device).unwrap();
    for (file, text) in [
        ("numa_node", "1\n"),
        ("current_link_speed", "16.0 GT/s PCIe\n"),
        ("current_link_width", "8\n"),
        ("max_link_speed", "32.0 GT/s PCIe\n"),
        ("max_link_width", "16\n"),
    ] {
        std::fs::write(device.join(file), text).unwrap();
    }
    fake.set_mode("normal");
    fake.until("the link", |fake| fake.cards().len() == 2 && fake.value(FIRST, "pcie_width") != Value::Null);
    fake.assert(
        FIRST,
        &[
            ("numa_node", 1.into()),
            ("pcie_generation", 4.into()),
            ("pcie_width", 8.into()),
            ("pcie_generation_max", 5.into()),
            ("pcie_width_max", 16.into()),
        ],
    );
    fake.assert(SECOND, &[("numa_node", Value::Null), ("pcie_width", Value::Null)]);
}

#[test]
fn bursts_between_ticks_are_seen() {
    let mut fake = begin(&[], "normal");
    std::thread::sleep(Duration::from_millis(600));
    fake.set_mode("idle");
    fake.tick();
    fake.assert(FIRST, &[("utilization_ratio", 0.0.into()), ("utilization_max_ratio", 0.45.into())]);
}

#[test]
fn an_error_that_appears_is_an_event_of_its_chip() {
    let mut fake = begin(&[], "normal");
    fake.tick();
    assert!(fake.events.is_empty(), "what stands at the start is no news: {:#?}", fake.events);
    fake.set_mode("code 0x80e01801");
    fake.tick();
    fake.tick();
    let faults: Vec<_> = fake.events.iter().filter(|event| event.kind == "fault").collect();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    let code = 0x80e0_1801i64;
    assert_eq!(
        (faults[0].code, faults[0].device.as_deref(), faults[0].source.as_str(), faults[0].message.as_str()),
        (Some(code), Some(SECOND), "DCMI", "error 0x80e01801: node 80 is in trouble")
    );
    fake.assert(SECOND, &[("last_error_code", code.into()), ("health", "failed".into())]);
    fake.assert(FIRST, &[("last_error_code", STANDING.into()), ("health", "ok".into())]);
    // It goes, and comes again.
    fake.set_mode("normal");
    fake.tick();
    fake.set_mode("code 0x80e01801");
    fake.tick();
    assert_eq!(fake.count("fault"), 2);
}

#[test]
fn processes_are_told_with_their_memory() {
    let mut fake = begin(&[], "normal");
    fake.tick();
    let rows = fake.rows("accelerator_process");
    let mut found: Vec<_> = (0..rows.num_rows())
        .map(|row| ["device", "pid", "work", "memory_used_bytes"].map(|column| value(&rows, row, column)))
        .collect();
    found.sort_by_key(|row| format!("{row:?}"));
    let wanted: [[Value; 4]; 2] = [
        [FIRST.into(), 4242.into(), "compute".into(), (1i64 << 30).into()],
        [FIRST.into(), 977.into(), "compute".into(), (1i64 << 20).into()],
    ];
    assert_eq!(found, wanted);
}

#[test]
fn partitions_have_what_is_their_own() {
    let mut fake = begin(&[], "partitions 3");
    fake.tick();
    assert_eq!(fake.devices().len(), 5);
    let third = format!("{FIRST}-102");
    fake.assert(
        &third,
        &[
            ("parent", FIRST.into()),
            ("partition_id", "102".into()),
            ("partition_type", "vnpu".into()),
            ("partition_profile", "vir04".into()),
            ("pci_bdf", "0000:c1:00.0".into()),
            ("cores", 4.into()),
            ("utilization_ratio", 0.12.into()),
            ("memory_total_bytes", (6i64 << 30).into()),
            ("memory_used_bytes", (1i64 << 30).into()),
            ("memory_free_bytes", (5i64 << 30).into()),
        ],
    );
    fake.assert(FIRST, &[("mig_enabled", true.into()), ("utilization_ratio", 0.45.into())]);
    fake.assert(SECOND, &[("mig_enabled", false.into())]);
    fake.set_mode("partitions 3; sentinel");
    fake.tick();
    // What it was cut with is known still.
    fake.assert(
        &third,
        &[
            ("utilization_ratio", Value::Null),
            ("memory_total_bytes", (6i64 << 30).into()),
            ("memory_used_bytes", Value::Null),
        ],
    );
}

#[test]
fn a_driver_that_was_taken_out_gets_another_worker() {
    let mut fake = begin(&[], "normal");
    fake.set_mode("gone");
    fake.until("the end of a worker", |fake| {
        fake.result.as_ref().is_err_and(|error| error.to_string().contains("opened anew"))
    });
    fake.set_mode("normal");
    fake.until("rows of another worker", |fake| fake.cards().len() == 2 && fake.result.is_ok());
    assert_eq!(fake.count("crashed"), 0, "{:#?}", fake.events);
}
