//! NVIDIA's cards through a fake NVML, and Iluvatar's through the same as it was some years ago.

#[path = "support/fakes.rs"]
mod fakes;

use fakes::contract::{self, Contract};
use fakes::{Fake, Value, value};
use nodescope_agent::accelerators::VendorId;

const FIRST: &str = "GPU-00000000";
const SECOND: &str = "GPU-00000001";

fn begin(defines: &[&str], mode: &str) -> Fake {
    Fake::begin("nvml.c", VendorId::Nvidia, defines, mode)
}

#[test]
fn nvidia_keeps_the_contract() {
    contract::all(&Contract {
        source: "nvml.c",
        defines: &[],
        vendor: VendorId::Nvidia,
        normal: "normal",
        function: "nvmlDeviceGetUtilizationRates",
        cards: &[FIRST, SECOND],
        values: &[
            ("index", 0.into()),
            ("model", "NVIDIA H100 80GB HBM3".into()),
            ("serial", "1650422000000".into()),
            ("pci_bdf", "0000:17:00.0".into()),
            ("device_file", "nvidia0".into()),
            ("driver_version", "570.86.15".into()),
            ("firmware_version", "96.00.74.00.01".into()),
            ("parent", Value::Null),
            ("mig_enabled", false.into()),
            ("cores", 16_896.into()),
            ("utilization_ratio", 0.4.into()),
            ("memory_utilization_ratio", 0.3.into()),
            ("encoder_utilization_ratio", 0.05.into()),
            ("decoder_utilization_ratio", 0.06.into()),
            ("jpeg_utilization_ratio", 0.07.into()),
            ("optical_flow_utilization_ratio", 0.08.into()),
            ("memory_total_bytes", (80i64 << 30).into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("memory_free_bytes", (59i64 << 30).into()),
            ("memory_reserved_bytes", (1i64 << 30).into()),
            ("power_watts", 71.25.into()),
            ("power_limit_watts", 700.0.into()),
            ("energy_joules", 123_456.789.into()),
            ("temperature_celsius", 54.0.into()),
            ("memory_temperature_celsius", 61.0.into()),
            ("slowdown_temperature_celsius", 87.0.into()),
            ("shutdown_temperature_celsius", 92.0.into()),
            ("core_clock_hertz", 1_980_000_000.into()),
            ("memory_clock_hertz", 2_619_000_000.into()),
            ("video_clock_hertz", 1_545_000_000.into()),
            ("core_clock_max_hertz", 1_980_000_000.into()),
            ("performance_state", 0.into()),
            ("throttle_reasons", "power_cap,hardware_thermal".into()),
            ("throttle_power_cap_seconds", 1.5.into()),
            ("throttle_software_thermal_seconds", 2.5.into()),
            ("throttle_hardware_thermal_seconds", 3.5.into()),
            ("throttle_power_brake_seconds", 0.0.into()),
            ("throttle_sync_boost_seconds", Value::Null),
            ("fan_ratio", Value::Null),
            ("compute_mode", "exclusive_process".into()),
            ("ecc_corrected_volatile", 3.into()),
            ("ecc_uncorrected_aggregate", 6.into()),
            ("ecc_corrected_sram", 7.into()),
            ("ecc_uncorrected_sram", 3.into()),
            ("ecc_corrected_dram", 210.into()),
            ("ecc_uncorrected_dram", 211.into()),
            ("retired_pages_corrected", Value::Null),
            ("remapped_rows_corrected", 2.into()),
            ("remapped_rows_pending", false.into()),
            ("remapped_rows_failed", true.into()),
            ("pcie_generation", 5.into()),
            ("pcie_width_max", 16.into()),
            ("pcie_replays", 9.into()),
            ("pcie_transmitted_bytes", 1_970_000.into()),
            ("pcie_received_bytes", 1_980_000.into()),
            ("pcie_received_bytes_per_second", Value::Null),
            ("links", 4.into()),
            ("links_active", 3.into()),
            // Four links, in KiB.
            ("link_transmitted_bytes", ((4 * 1000 + 6) * 1024).into()),
            ("link_received_bytes", ((4 * 2000 + 6) * 1024).into()),
            ("link_crc_errors", 3.into()),
            ("link_replays", Value::Null),
            ("fabric_state", "completed".into()),
            ("recovery_action", "gpu_reset".into()),
            ("processes", 2.into()),
            ("core_active_ratio", 0.02.into()),
            ("core_occupancy_ratio", 0.03.into()),
            ("tensor_active_ratio", 0.05.into()),
            ("dram_active_ratio", 0.10.into()),
            ("fp64_active_ratio", Value::Null),
            ("fp32_active_ratio", 0.12.into()),
            ("fp16_active_ratio", 0.13.into()),
            ("utilization_max_ratio", 0.75.into()),
            ("power_max_watts", 80.0.into()),
            ("error", Value::Null),
        ],
        sentinels: &[
            "utilization_ratio",
            "memory_utilization_ratio",
            "utilization_mean_ratio",
            "utilization_max_ratio",
            "power_mean_watts",
            "power_max_watts",
            "memory_total_bytes",
            "memory_used_bytes",
            "power_watts",
            "power_limit_watts",
            "temperature_celsius",
            "memory_temperature_celsius",
            "core_clock_hertz",
            "energy_joules",
            "performance_state",
            "throttle_reasons",
            "compute_mode",
            "pcie_generation",
            "pcie_replays",
            "encoder_utilization_ratio",
            "core_active_ratio",
        ],
        without: ("WITHOUT_FIELDS", &["memory_temperature_celsius", "link_crc_errors", "throttle_power_cap_seconds"]),
        still: &[
            "utilization_ratio",
            "memory_used_bytes",
            "power_watts",
            "core_active_ratio",
            "ecc_corrected_volatile",
        ],
        partitions: true,
    });
}

#[test]
fn iluvatar_keeps_the_contract() {
    // The older library has neither rings of samples, nor fields, nor partitions.
    let mut fake = Fake::begin("nvml.c", VendorId::Iluvatar, &["OLD"], "normal");
    fake.tick_after_looks();
    fake.assert(
        FIRST,
        &[
            ("vendor", "iluvatar".into()),
            ("device_file", "iluvatar0".into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("memory_reserved_bytes", Value::Null),
            ("throttle_reasons", "power_cap".into()),
            ("ecc_corrected_volatile", 1.into()),
            ("ecc_uncorrected_aggregate", 4.into()),
            ("pcie_replays", 2.into()),
            ("processes", 1.into()),
            ("utilization_mean_ratio", 0.4.into()),
            ("utilization_max_ratio", 0.4.into()),
            ("power_mean_watts", 71.25.into()),
            ("energy_joules", Value::Null),
            ("core_active_ratio", Value::Null),
            ("error", Value::Null),
        ],
    );
    let processes = fake.rows("accelerator_process");
    assert_eq!(value(&processes, 0, "pid"), 4242.into());
    assert_eq!(value(&processes, 0, "memory_used_bytes"), (1i64 << 30).into());
    drop(fake);
    let of = Contract {
        source: "nvml.c",
        defines: &[],
        vendor: VendorId::Iluvatar,
        normal: "normal",
        function: "nvmlDeviceGetPowerUsage",
        cards: &[FIRST, SECOND],
        values: &[("vendor", "iluvatar".into())],
        sentinels: &[
            "utilization_ratio",
            "memory_used_bytes",
            "power_watts",
            "temperature_celsius",
            "core_clock_hertz",
        ],
        without: ("OLD", &["energy_joules", "core_active_ratio", "memory_reserved_bytes"]),
        still: &["utilization_ratio", "memory_used_bytes", "power_watts", "ecc_corrected_volatile"],
        partitions: true,
    };
    contract::all(&of);
}

#[test]
fn mean_and_maximum_come_from_the_drivers_samples() {
    let mut fake = begin(&[], "normal");
    fake.tick_after_looks();
    let float = |fake: &Fake, device: &str, column: &str| match fake.value(device, column) {
        Value::Float(value) => value,
        other => panic!("{column}: {other:?}"),
    };
    // Every other sample is 25 % and 60 W, the rest 75 % and 80 W; the number of samples may be odd.
    assert!((float(&fake, FIRST, "utilization_mean_ratio") - 0.5).abs() < 0.02);
    assert!((float(&fake, FIRST, "power_mean_watts") - 70.0).abs() < 1.0);
    fake.assert(FIRST, &[("utilization_max_ratio", 0.75.into()), ("power_max_watts", 80.0.into())]);
    // One sample of fifty is a burst, which the level of the tick does not show.
    fake.set_mode("burst");
    fake.tick_after_looks();
    fake.assert(
        FIRST,
        &[("utilization_ratio", 0.4.into()), ("utilization_max_ratio", 1.0.into()), ("power_max_watts", 690.0.into())],
    );
    let mean = float(&fake, FIRST, "utilization_mean_ratio");
    assert!((0.005..0.05).contains(&mean), "{mean}");
    let mean = float(&fake, FIRST, "power_mean_watts");
    assert!((95.0..125.0).contains(&mean), "{mean}");
    fake.assert(SECOND, &[("utilization_max_ratio", 0.75.into())]);
    // A ring with nothing new: the level of the tick is all that is known.
    fake.set_mode("quiet");
    fake.tick();
    fake.assert(FIRST, &[("utilization_mean_ratio", 0.4.into()), ("utilization_max_ratio", 0.4.into())]);
    fake.assert(FIRST, &[("power_mean_watts", 71.25.into()), ("power_max_watts", 71.25.into())]);
}

#[test]
fn processes_are_told_with_what_they_use() {
    let mut fake = begin(&[], "normal");
    fake.tick();
    let rows = fake.rows("accelerator_process");
    let mut found: Vec<_> = (0..rows.num_rows())
        .filter(|row| value(&rows, *row, "device") == FIRST.into())
        .map(|row| ["pid", "work", "memory_used_bytes", "utilization_ratio"].map(|column| value(&rows, row, column)))
        .collect();
    found.sort_by_key(|row| format!("{:?}", row[0]));
    assert_eq!(found.len(), 3);
    let wanted: [[Value; 4]; 3] = [
        [4242.into(), "both".into(), (1i64 << 30).into(), 0.6.into()],
        [4243.into(), "graphics".into(), (1i64 << 20).into(), Value::Null],
        [977.into(), "compute".into(), Value::Null, Value::Null],
    ];
    for (row, wanted) in found.iter().zip(&wanted) {
        assert!(row.iter().zip(wanted).all(|(is, wanted)| is.is(wanted)), "{row:?}, wanted {wanted:?}");
    }
    // More than there is room for at first.
    fake.set_mode("more 1000");
    fake.tick();
    fake.assert(FIRST, &[("processes", 1002.into())]);
    assert_eq!(fake.rows("accelerator_process").num_rows(), 1003 + 3);
}

#[test]
fn an_xid_is_an_event_of_its_card() {
    let mut fake = begin(&[], "normal");
    fake.set_mode("recovered 63");
    fake.tick();
    fake.tick();
    let faults: Vec<_> = fake.events.iter().filter(|event| event.kind == "fault").collect();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert_eq!(
        (faults[0].code, faults[0].device.as_deref(), faults[0].source.as_str()),
        (Some(63), Some(SECOND), "NVML")
    );
    fake.assert(SECOND, &[("last_error_code", 63.into())]);
    fake.assert(FIRST, &[("last_error_code", Value::Null)]);
}

#[test]
fn partitions_have_what_is_their_own() {
    let mut fake = begin(&[], "partitions 3");
    fake.tick();
    assert_eq!(fake.devices().len(), 5);
    fake.assert(
        "MIG-00000000-2",
        &[
            ("parent", FIRST.into()),
            ("partition_id", "2".into()),
            ("partition_type", "mig".into()),
            ("partition_profile", "1g.10gb".into()),
            ("pci_bdf", "0000:17:00.0".into()),
            ("memory_total_bytes", (10i64 << 30).into()),
            ("core_active_ratio", 0.52.into()),
            ("utilization_ratio", Value::Null),
            ("processes", 2.into()),
        ],
    );
    // A card that is cut has no load, nor processes, of its own.
    fake.assert(
        FIRST,
        &[
            ("mig_enabled", true.into()),
            ("utilization_ratio", Value::Null),
            ("utilization_mean_ratio", Value::Null),
            ("processes", Value::Null),
            ("power_watts", 71.25.into()),
        ],
    );
    fake.assert(SECOND, &[("mig_enabled", false.into()), ("utilization_ratio", 0.4.into())]);
}

#[test]
fn an_older_form_of_memory_will_do() {
    let mut fake = begin(&["WITHOUT_MEMORY_V2"], "normal");
    fake.tick();
    fake.assert(FIRST, &[("memory_used_bytes", (20i64 << 30).into()), ("memory_reserved_bytes", Value::Null)]);
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
