//! Cambricon's cards through a fake of their library, as it is now and as it was some years ago.

#[path = "support/fakes.rs"]
mod fakes;

use fakes::contract::{self, Contract};
use fakes::{Fake, Value, value};
use nodescope_agent::accelerators::VendorId;

const FIRST: &str = "MLU-20001012-1916-0000-0000-000000000000";
const SECOND: &str = "MLU-20001012-1916-0000-0000-000000000001";

fn begin(defines: &[&str], mode: &str) -> Fake {
    Fake::begin("cndev.c", VendorId::Cambricon, defines, mode)
}

/// So many that what changes slowly has been looked at again.
fn ten_seconds(fake: &mut Fake) {
    for _ in 0..10 {
        fake.tick();
    }
}

#[test]
fn cambricon_keeps_the_contract() {
    contract::all(&Contract {
        source: "cndev.c",
        defines: &[],
        vendor: VendorId::Cambricon,
        normal: "normal",
        function: "cndevGetDeviceUtilizationInfo",
        cards: &[FIRST, SECOND],
        values: &[
            ("index", 0.into()),
            ("model", "MLU590-M9".into()),
            ("serial", "202900010000".into()),
            ("pci_bdf", "0000:17:00.0".into()),
            ("device_file", "cambricon_dev0".into()),
            ("driver_version", "5.10.22".into()),
            ("firmware_version", "1.1.4".into()),
            ("parent", Value::Null),
            ("mig_enabled", false.into()),
            ("cores", 24.into()),
            ("utilization_ratio", 0.4.into()),
            ("utilization_mean_ratio", 0.4.into()),
            ("utilization_max_ratio", 0.4.into()),
            ("memory_utilization_ratio", Value::Null),
            ("encoder_utilization_ratio", 0.05.into()),
            ("decoder_utilization_ratio", 0.07.into()),
            // Of two units, one is not known.
            ("jpeg_utilization_ratio", 0.03.into()),
            ("memory_total_bytes", (80i64 << 30).into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("memory_reserved_bytes", (1i64 << 30).into()),
            ("memory_free_bytes", Value::Null),
            ("power_watts", 271.0.into()),
            ("power_mean_watts", 271.0.into()),
            ("power_max_watts", 271.0.into()),
            ("power_limit_watts", 550.0.into()),
            ("energy_joules", 123_456.789.into()),
            ("temperature_celsius", 54.0.into()),
            ("hotspot_temperature_celsius", 59.0.into()),
            ("memory_temperature_celsius", 61.0.into()),
            ("slowdown_temperature_celsius", 90.0.into()),
            ("shutdown_temperature_celsius", 100.0.into()),
            ("core_clock_hertz", 1_300_000_000.into()),
            ("core_clock_max_hertz", 1_400_000_000.into()),
            ("memory_clock_hertz", 1_600_000_000.into()),
            ("voltage_volts", 0.85.into()),
            ("fan_ratio", Value::Null),
            ("compute_mode", "exclusive_process".into()),
            ("health", "ok".into()),
            ("throttle_reasons", "power_cap,hardware_thermal".into()),
            ("throttle_power_cap_seconds", 1.5.into()),
            ("throttle_hardware_thermal_seconds", Value::Null),
            ("ecc_corrected_volatile", 9.into()),
            ("ecc_uncorrected_volatile", 22.into()),
            ("ecc_corrected_dram", 56.into()),
            ("ecc_uncorrected_dram", 57.into()),
            ("ecc_corrected_sram", 58.into()),
            ("ecc_uncorrected_sram", (59 + 60).into()),
            ("ecc_corrected_aggregate", (56 + 58).into()),
            ("ecc_uncorrected_aggregate", (57 + 59 + 60).into()),
            ("retired_pages_corrected", 2.into()),
            ("retired_pages_uncorrected", 3.into()),
            ("retired_pages_pending", false.into()),
            ("remapped_rows_corrected", 2.into()),
            ("remapped_rows_uncorrected", 1.into()),
            ("remapped_rows_pending", false.into()),
            ("remapped_rows_failed", true.into()),
            ("pcie_generation", 4.into()),
            ("pcie_generation_max", 5.into()),
            ("pcie_width", 16.into()),
            ("pcie_width_max", 16.into()),
            ("pcie_replays", 9.into()),
            ("pcie_received_bytes", 1_000_000.into()),
            ("pcie_transmitted_bytes", 2_000_000.into()),
            ("pcie_received_bytes_per_second", Value::Null),
            ("links", 4.into()),
            ("links_active", 3.into()),
            ("link_received_bytes", 4_000.into()),
            ("link_transmitted_bytes", (4 * 2_000 + 6).into()),
            ("link_received_bytes_per_second", Value::Null),
            ("link_crc_errors", 6.into()),
            ("link_replays", 8.into()),
            ("core_active_ratio", 0.21.into()),
            ("tensor_active_ratio", 0.23.into()),
            ("processes", 2.into()),
            ("last_error_code", Value::Null),
            ("error", Value::Null),
        ],
        sentinels: &[
            "utilization_ratio",
            "utilization_mean_ratio",
            "utilization_max_ratio",
            "encoder_utilization_ratio",
            "decoder_utilization_ratio",
            "jpeg_utilization_ratio",
            "memory_total_bytes",
            "memory_used_bytes",
            "memory_reserved_bytes",
            "power_watts",
            "power_mean_watts",
            "power_max_watts",
            "power_limit_watts",
            "energy_joules",
            "temperature_celsius",
            "hotspot_temperature_celsius",
            "memory_temperature_celsius",
            "core_clock_hertz",
            "memory_clock_hertz",
            "core_active_ratio",
            "tensor_active_ratio",
            "throttle_reasons",
            "pcie_received_bytes",
            "link_received_bytes",
        ],
        without: (
            "WITHOUT_FIELDS",
            &[
                "energy_joules",
                "slowdown_temperature_celsius",
                "ecc_corrected_aggregate",
                "core_active_ratio",
                "tensor_active_ratio",
            ],
        ),
        still: &["utilization_ratio", "memory_used_bytes", "power_watts", "ecc_corrected_volatile", "health"],
        partitions: true,
    });
}

#[test]
fn what_changes_slowly_has_sentinels_too() {
    let mut fake = begin(&[], "sentinel");
    ten_seconds(&mut fake);
    let slow = [
        "voltage_volts",
        "compute_mode",
        "health",
        "slowdown_temperature_celsius",
        "shutdown_temperature_celsius",
        "ecc_corrected_volatile",
        "ecc_uncorrected_volatile",
        "ecc_corrected_dram",
        "ecc_corrected_aggregate",
        "remapped_rows_corrected",
        "remapped_rows_uncorrected",
        "pcie_generation",
        "pcie_width",
        "pcie_replays",
    ];
    for column in slow {
        fake.assert(FIRST, &[(column, Value::Null)]);
    }
}

#[test]
fn a_library_of_the_older_interface_will_do() {
    let mut fake = begin(&["OLD"], "normal");
    fake.tick_after_looks();
    fake.assert(
        FIRST,
        &[
            ("model", "MLU370".into()),
            ("pci_bdf", "0000:17:00.0".into()),
            ("device_file", Value::Null),
            ("mig_enabled", Value::Null),
            ("utilization_ratio", 0.4.into()),
            ("utilization_mean_ratio", 0.4.into()),
            ("memory_total_bytes", (16i64 << 30).into()),
            ("memory_used_bytes", (4i64 << 30).into()),
            ("memory_reserved_bytes", Value::Null),
            ("power_watts", 71.0.into()),
            ("power_limit_watts", 150.0.into()),
            ("energy_joules", Value::Null),
            ("temperature_celsius", 54.0.into()),
            ("core_clock_hertz", 1_300_000_000.into()),
            ("core_clock_max_hertz", Value::Null),
            ("fan_ratio", 0.3.into()),
            ("health", "ok".into()),
            ("ecc_corrected_volatile", 3.into()),
            ("ecc_uncorrected_volatile", 1.into()),
            ("ecc_corrected_aggregate", Value::Null),
            ("remapped_rows_corrected", 2.into()),
            ("remapped_rows_pending", false.into()),
            ("remapped_rows_failed", true.into()),
            ("pcie_received_bytes", Value::Null),
            ("links", 2.into()),
            ("links_active", 1.into()),
            ("link_received_bytes", 2_000.into()),
            ("link_transmitted_bytes", 4_000.into()),
            ("link_crc_errors", 4.into()),
            ("link_replays", 6.into()),
            ("processes", 2.into()),
            ("error", Value::Null),
        ],
    );
    drop(fake);
    let of = Contract {
        source: "cndev.c",
        defines: &[],
        vendor: VendorId::Cambricon,
        normal: "normal",
        function: "cndevGetPowerInfo",
        cards: &[FIRST, SECOND],
        values: &[],
        sentinels: &[],
        without: ("OLD", &[]),
        still: &[],
        partitions: false,
    };
    let mut fake = begin(&["OLD"], "normal");
    fake.set_mode("sick");
    ten_seconds(&mut fake);
    fake.assert(FIRST, &[("health", "failed".into())]);
    drop(fake);
    contract::lost(&of);
}

#[test]
fn processes_are_told_with_what_they_use() {
    let mut fake = begin(&[], "normal");
    fake.tick();
    let rows = fake.rows("accelerator_process");
    let columns = [
        "pid",
        "work",
        "memory_used_bytes",
        "utilization_ratio",
        "encoder_utilization_ratio",
        "memory_utilization_ratio",
    ];
    let mut found: Vec<_> = (0..rows.num_rows())
        .filter(|row| value(&rows, *row, "device") == FIRST.into())
        .map(|row| columns.map(|column| value(&rows, row, column)))
        .collect();
    found.sort_by_key(|row| format!("{:?}", row[0]));
    let wanted: [[Value; 6]; 2] = [
        [4242.into(), "compute".into(), (1i64 << 30).into(), 0.6.into(), 0.03.into(), Value::Null],
        [977.into(), "compute".into(), Value::Null, Value::Null, Value::Null, Value::Null],
    ];
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    for (row, wanted) in found.iter().zip(&wanted) {
        assert!(row.iter().zip(wanted).all(|(is, wanted)| is.is(wanted)), "{row:?}, wanted {wanted:?}");
    }
    // More than there is room for at first.
    fake.set_mode("more 1000");
    fake.tick();
    fake.assert(FIRST, &[("processes", 1002.into())]);
    assert_eq!(fake.rows("accelerator_process").num_rows(), 1002 + 2);
}

#[test]
fn an_xid_is_an_event_of_its_card() {
    let mut fake = begin(&[], "normal");
    fake.set_mode("xid 0x2000002");
    fake.tick();
    fake.tick();
    let faults: Vec<_> = fake.events.iter().filter(|event| event.kind == "fault").collect();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert_eq!(
        (faults[0].code, faults[0].device.as_deref(), faults[0].source.as_str(), faults[0].message.as_str()),
        (Some(0x200_0002), Some(SECOND), "CNDev", "Xid 0x0000000002000002")
    );
    fake.assert(SECOND, &[("last_error_code", 0x200_0002.into())]);
    fake.assert(FIRST, &[("last_error_code", Value::Null)]);
}

#[test]
fn what_the_library_finds_is_told_once() {
    let mut fake = begin(&[], "normal");
    fake.set_mode("sick");
    for _ in 0..3 {
        ten_seconds(&mut fake);
    }
    let faults: Vec<_> = fake.events.iter().filter(|event| event.kind == "fault").collect();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert_eq!(
        (faults[0].code, faults[0].device.as_deref(), faults[0].message.as_str()),
        (None, Some(FIRST), "MLU-Link: An MLU-Link is down (9)")
    );
    fake.assert(FIRST, &[("health", "failed".into())]);
    fake.assert(SECOND, &[("health", "ok".into())]);
}

#[test]
fn a_card_in_problem_is_there_and_says_so() {
    let mut fake = begin(&[], "normal");
    fake.set_mode("problem");
    fake.tick();
    fake.assert(
        FIRST,
        &[
            ("utilization_ratio", Value::Null),
            ("power_watts", Value::Null),
            ("error", "load: In Problem (error 18)".into()),
        ],
    );
    fake.assert(SECOND, &[("utilization_ratio", 0.4.into()), ("error", Value::Null)]);
    assert_eq!(fake.count("lost"), 0, "{:#?}", fake.events);
}

#[test]
fn instances_that_take_turns_have_what_they_use() {
    let mut fake = begin(&[], "partitions 40");
    fake.until("forty instances", |fake| fake.devices().len() == 42);
    fake.assert(
        "MLU-smlu-2",
        &[
            ("parent", FIRST.into()),
            ("partition_id", "259".into()),
            ("partition_type", "smlu".into()),
            ("partition_profile", "25.20Gb".into()),
            ("pci_bdf", "0000:17:00.0".into()),
            ("utilization_ratio", 0.2.into()),
            ("memory_total_bytes", (20i64 << 30).into()),
            ("memory_used_bytes", (5i64 << 30).into()),
            ("power_watts", Value::Null),
        ],
    );
    fake.assert(FIRST, &[("mig_enabled", true.into()), ("utilization_ratio", 0.4.into())]);
    fake.assert(SECOND, &[("mig_enabled", false.into())]);
}

#[test]
fn instances_with_hardware_of_their_own_are_asked_as_cards_are() {
    let mut fake = begin(&[], "mim 2");
    fake.until("two instances", |fake| fake.devices().len() == 4);
    fake.assert(
        "MLU-mim-2",
        &[
            ("parent", FIRST.into()),
            ("partition_id", "2".into()),
            ("partition_type", "mim".into()),
            ("partition_profile", "1m.20gb".into()),
            ("device_file", "cambricon_dev0mi2".into()),
            ("cores", 6.into()),
            ("utilization_ratio", 0.25.into()),
            ("memory_total_bytes", (20i64 << 30).into()),
            ("memory_used_bytes", (5i64 << 30).into()),
        ],
    );
    fake.assert(FIRST, &[("mig_enabled", true.into())]);
}

#[test]
fn a_count_that_takes_long_is_asked_for_every_ten_seconds() {
    let mut fake = begin(&[], "slow_pcie");
    let mut values: Vec<Value> = Vec::new();
    for _ in 0..20 {
        fake.tick();
        values.push(fake.value(FIRST, "pcie_received_bytes"));
    }
    values.dedup();
    assert!((2..=3).contains(&values.len()), "{values:?}");
}

#[test]
fn a_driver_that_was_replaced_gets_another_worker() {
    let mut fake = begin(&[], "normal");
    // The library is initialised again after a loss, and then belongs to another driver.
    fake.set_mode("lost 1; old_driver");
    fake.until("the end of a worker", |fake| {
        fake.result.as_ref().is_err_and(|error| error.to_string().contains("opened anew"))
    });
    fake.set_mode("normal");
    fake.until("rows of another worker", |fake| fake.cards().len() == 2 && fake.result.is_ok());
    assert_eq!((fake.count("crashed"), fake.count("started")), (0, 1), "{:#?}", fake.events);
}
