//! Enflame's cards through a fake EFML, with each of its two interfaces.

#[path = "support/fakes.rs"]
mod fakes;

use fakes::contract::{self, Contract};
use fakes::{Fake, Value, value};
use nodescope_agent::accelerators::VendorId;

const FIRST: &str = "GCU-S60-0";
const SECOND: &str = "GCU-S60-1";

fn begin(defines: &[&str], mode: &str) -> Fake {
    Fake::begin("efml.c", VendorId::Enflame, defines, mode)
}

#[test]
fn the_second_interface_keeps_the_contract() {
    contract::all(&Contract {
        source: "efml.c",
        defines: &[],
        vendor: VendorId::Enflame,
        normal: "normal",
        function: "efmlDeviceGetUtilizationRates",
        cards: &[FIRST, SECOND],
        values: &[
            ("index", 0.into()),
            ("model", "Enflame S60".into()),
            ("pci_bdf", "0000:1a:00.0".into()),
            ("parent", Value::Null),
            ("utilization_ratio", 0.4.into()),
            ("utilization_max_ratio", 0.4.into()),
            ("memory_utilization_ratio", 0.3.into()),
            ("core_occupancy_ratio", 0.25.into()),
            ("vector_utilization_ratio", 0.15.into()),
            ("tensor_active_ratio", 0.35.into()),
            ("encoder_utilization_ratio", 0.05.into()),
            ("decoder_utilization_ratio", 0.06.into()),
            ("memory_total_bytes", (48i64 << 30).into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("memory_free_bytes", (28i64 << 30).into()),
            ("power_watts", 71.25.into()),
            ("power_max_watts", 71.25.into()),
            ("power_limit_watts", 300.0.into()),
            ("temperature_celsius", 54.0.into()),
            ("memory_temperature_celsius", Value::Null),
            ("slowdown_temperature_celsius", 95.0.into()),
            ("shutdown_temperature_celsius", 105.0.into()),
            ("core_clock_hertz", 1_300_000_000.into()),
            ("memory_clock_hertz", 1_600_000_000.into()),
            ("video_clock_hertz", 900_000_000.into()),
            ("core_clock_max_hertz", 1_400_000_000.into()),
            ("memory_clock_max_hertz", 1_700_000_000.into()),
            ("fan_ratio", Value::Null),
            ("pcie_generation", 4.into()),
            ("pcie_generation_max", 5.into()),
            ("pcie_width", 8.into()),
            ("pcie_width_max", 16.into()),
            ("links", 4.into()),
            ("links_active", 3.into()),
            ("health", Value::Null),
            ("processes", 2.into()),
            ("error", Value::Null),
        ],
        sentinels: &[
            "utilization_ratio",
            "utilization_max_ratio",
            "memory_utilization_ratio",
            "core_occupancy_ratio",
            "encoder_utilization_ratio",
            "memory_total_bytes",
            "memory_used_bytes",
            "power_watts",
            "power_max_watts",
            "temperature_celsius",
            "core_clock_hertz",
        ],
        without: ("WITHOUT_OCCUPANCY", &["core_occupancy_ratio", "tensor_active_ratio"]),
        still: &["utilization_ratio", "memory_used_bytes", "power_watts", "links"],
        partitions: false,
    });
}

#[test]
fn the_first_interface_has_values_losses_and_slices() {
    let mut fake = begin(&["FIRST"], "normal");
    fake.tick_after_looks();
    fake.assert(
        "T20000000000",
        &[
            ("model", "T20".into()),
            ("serial", "EF0123456789".into()),
            ("pci_bdf", "0000:1a:00.0".into()),
            ("device_file", "gcu0".into()),
            ("driver_version", "1.2.3".into()),
            ("firmware_version", "31.2".into()),
            ("utilization_ratio", 0.4.into()),
            ("utilization_mean_ratio", 0.4.into()),
            ("core_active_ratio", 0.25.into()),
            ("encoder_utilization_ratio", 0.05.into()),
            ("memory_total_bytes", (32i64 << 30).into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("power_watts", 71.25.into()),
            ("power_limit_watts", 300.0.into()),
            ("temperature_celsius", 54.0.into()),
            ("memory_temperature_celsius", 61.0.into()),
            ("core_clock_hertz", 1_300_000_000.into()),
            ("core_clock_max_hertz", 1_400_000_000.into()),
            ("memory_clock_hertz", 1_600_000_000.into()),
            ("pcie_generation", 3.into()),
            ("pcie_width_max", 16.into()),
            ("ecc_corrected_volatile", 3.into()),
            ("ecc_uncorrected_volatile", 4.into()),
            ("ecc_uncorrected_aggregate", 6.into()),
            ("retired_pages_pending", true.into()),
            ("health", "ok".into()),
            ("links", 4.into()),
            ("links_active", 3.into()),
            ("link_received_bytes_per_second", 80e6.into()),
            ("link_transmitted_bytes_per_second", 40e6.into()),
            ("processes", 2.into()),
            ("error", Value::Null),
        ],
    );
    // A card of a newer architecture has another structure for temperatures.
    fake.assert("T20000000001", &[("temperature_celsius", 74.0.into()), ("memory_temperature_celsius", 81.0.into())]);
    fake.set_mode("sentinel");
    fake.tick();
    fake.tick();
    for column in ["utilization_ratio", "memory_used_bytes", "power_watts", "temperature_celsius", "core_clock_hertz"] {
        fake.assert("T20000000000", &[(column, Value::Null)]);
    }
    // A card that should be sent back.
    fake.set_mode("faulty");
    fake.until("a warning", |fake| fake.value("T20000000000", "health") == "warning".into());
    // A loss, of which the library only says that something failed.
    fake.set_mode("lost 1");
    fake.until("a loss", |fake| fake.count("lost") == 1);
    assert_eq!(fake.cards(), ["T20000000000"]);
    fake.tick();
    assert_eq!(fake.cards(), ["T20000000000"]);
    fake.set_mode("normal");
    fake.until("the card again", |fake| fake.cards().len() == 2);
    assert_eq!((fake.count("added"), fake.count("lost"), fake.count("crashed")), (1, 1, 0), "{:#?}", fake.events);
    // Slices.
    fake.set_mode("partitions 2");
    fake.until("slices", |fake| fake.devices().len() == 4);
    fake.assert(
        "T20000000000-vgcu6",
        &[
            ("parent", "T20000000000".into()),
            ("partition_type", "vgcu".into()),
            ("partition_id", "6".into()),
            ("utilization_ratio", 0.125.into()),
            ("memory_total_bytes", (8i64 << 30).into()),
            ("memory_used_bytes", (2i64 << 30).into()),
        ],
    );
    fake.set_mode("normal");
    fake.until("no slices", |fake| fake.devices().len() == 2);
}

#[test]
fn the_first_interface_hangs_freezes_and_crashes_as_the_second_does() {
    let first = Contract {
        source: "efml.c",
        defines: &["FIRST"],
        vendor: VendorId::Enflame,
        normal: "normal",
        function: "EfmlGetDevDtuUsageAsync",
        cards: &["T20000000000", "T20000000001"],
        values: &[],
        sentinels: &[],
        without: ("WITHOUT_LINKS", &["links", "links_active", "link_received_bytes_per_second"]),
        still: &["utilization_ratio", "memory_used_bytes", "power_watts"],
        partitions: false,
    };
    contract::normal(&first);
    contract::hang(&first);
    contract::freeze(&first);
    contract::crash(&first);
    contract::missing(&first);
}

#[test]
fn links_may_be_missing_from_the_first_interface() {
    let fake = begin(&["FIRST", "WITHOUT_LINKS"], "normal");
    fake.assert(
        "T20000000000",
        &[("links", Value::Null), ("link_received_bytes_per_second", Value::Null), ("utilization_ratio", 0.4.into())],
    );
}

#[test]
fn of_both_interfaces_the_second_is_used() {
    let mut fake = begin(&["BOTH"], "normal");
    fake.tick();
    assert_eq!(fake.cards(), [FIRST, SECOND]);
    assert_eq!(fake.count("crashed"), 0, "{:#?}", fake.events);
}

#[test]
fn an_older_form_of_the_second_will_do() {
    let mut fake = begin(&["OLD"], "normal");
    fake.tick();
    fake.assert(
        SECOND,
        &[
            ("pci_bdf", "0000:3b:00.0".into()),
            ("memory_used_bytes", (20i64 << 30).into()),
            ("links", Value::Null),
            ("processes", 2.into()),
            ("error", Value::Null),
        ],
    );
}

#[test]
fn processes_are_told_with_what_they_use() {
    for (defines, load) in [(&[][..], Value::Float(0.6)), (&["OLD"][..], Value::Null)] {
        let mut fake = begin(defines, "normal");
        fake.tick();
        let rows = fake.rows("accelerator_process");
        let mut found: Vec<_> = (0..rows.num_rows())
            .filter(|row| value(&rows, *row, "device") == FIRST.into())
            .map(|row| ["pid", "work", "memory_used_bytes", "utilization_ratio"].map(|c| value(&rows, row, c)))
            .collect();
        found.sort_by_key(|row| format!("{:?}", row[0]));
        let wanted: [[Value; 4]; 2] = [
            [4242.into(), "compute".into(), (1i64 << 30).into(), load],
            [977.into(), "compute".into(), Value::Null, Value::Null],
        ];
        assert_eq!(found.len(), wanted.len());
        for (row, wanted) in found.iter().zip(&wanted) {
            assert!(row.iter().zip(wanted).all(|(is, wanted)| is.is(wanted)), "{row:?}, wanted {wanted:?}");
        }
    }
}

#[test]
fn a_driver_that_was_replaced_gets_another_worker() {
    for defines in [&[][..], &["FIRST"][..]] {
        let mut fake = begin(defines, "normal");
        fake.set_mode("lost 1; outdated");
        fake.until("the end of a worker", |fake| {
            fake.result.as_ref().is_err_and(|error| error.to_string().contains("opened anew"))
        });
        fake.set_mode("normal");
        fake.until("rows of another worker", |fake| fake.cards().len() == 2 && fake.result.is_ok());
        assert_eq!((fake.count("crashed"), fake.count("started")), (0, 1), "{:#?}", fake.events);
    }
}
