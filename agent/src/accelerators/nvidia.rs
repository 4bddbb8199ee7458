//! NVIDIA's accelerators, through the driver's own library (NVML).
//!
//! The library is opened at run time and may be missing, older than a function, or in trouble with one card. So every
//! value is asked for by itself and is NULL when it does not come. What never changes is asked once per card. Counters
//! are asked for together, as *fields*, which costs one call.
//!
//! Cards and library are looked for anew once a minute, and at once after a card got lost: its number may then belong
//! to another. Numbers the library uses for "not known" (all bits set, more than 100 %) are NULL.
//!
//! Left out: `DeviceGetPcieThroughput`, of which each call measures for 20 ms, and the traffic over NVLink, which the
//! wrapper can only ask of one link.

use std::time::Duration;

use nodescope_model::rows::{Row, Rows};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, ComputeMode, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id;
use nvml_wrapper::{Device, Nvml};

use super::{pci, with_pci};
use crate::host_root::HostRoot;
use crate::probe::{ProbeError, Tick};

/// How often library and cards are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How a field's number becomes a column's value.
#[derive(Debug, Clone, Copy)]
enum Field {
    Count,
    Flag,
    Celsius,
    Millijoules,
}

/// Values that the library gives many of in one call: its number, our column, and what the number means.
const FIELDS: &[(u32, &str, Field)] = &[
    (field_id::NVML_FI_DEV_MEMORY_TEMP, "memory_temperature_celsius", Field::Celsius),
    (field_id::NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, "energy_joules", Field::Millijoules),
    (field_id::NVML_FI_DEV_ECC_SBE_VOL_TOTAL, "ecc_corrected_volatile", Field::Count),
    (field_id::NVML_FI_DEV_ECC_DBE_VOL_TOTAL, "ecc_uncorrected_volatile", Field::Count),
    (field_id::NVML_FI_DEV_ECC_SBE_AGG_TOTAL, "ecc_corrected_aggregate", Field::Count),
    (field_id::NVML_FI_DEV_ECC_DBE_AGG_TOTAL, "ecc_uncorrected_aggregate", Field::Count),
    (field_id::NVML_FI_DEV_RETIRED_SBE, "retired_pages_corrected", Field::Count),
    (field_id::NVML_FI_DEV_RETIRED_DBE, "retired_pages_uncorrected", Field::Count),
    (field_id::NVML_FI_DEV_RETIRED_PENDING, "retired_pages_pending", Field::Flag),
    (field_id::NVML_FI_DEV_REMAPPED_COR, "remapped_rows_corrected", Field::Count),
    (field_id::NVML_FI_DEV_REMAPPED_UNC, "remapped_rows_uncorrected", Field::Count),
    (field_id::NVML_FI_DEV_REMAPPED_PENDING, "remapped_rows_pending", Field::Flag),
    (field_id::NVML_FI_DEV_REMAPPED_FAILURE, "remapped_rows_failed", Field::Flag),
    (field_id::NVML_FI_DEV_PCIE_REPLAY_COUNTER, "pcie_replays", Field::Count),
    (field_id::NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL, "nvlink_crc_errors", Field::Count),
    (field_id::NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, "nvlink_replays", Field::Count),
    (field_id::NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL, "nvlink_recoveries", Field::Count),
];

/// Names of the reasons for lower clocks.
const REASONS: &[(ThrottleReasons, &str)] = &[
    (ThrottleReasons::GPU_IDLE, "idle"),
    (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "applications_clocks"),
    (ThrottleReasons::SW_POWER_CAP, "power_cap"),
    (ThrottleReasons::HW_SLOWDOWN, "hardware_slowdown"),
    (ThrottleReasons::SYNC_BOOST, "sync_boost"),
    (ThrottleReasons::SW_THERMAL_SLOWDOWN, "software_thermal"),
    (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hardware_thermal"),
    (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power_brake"),
    (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display"),
];

/// What stands between us and the cards.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Obstacle {
    /// There is no driver, or no card.
    Absent(String),
    /// The driver is there and does not do its part.
    Driver(String),
}

impl From<Obstacle> for ProbeError {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Absent(reason) => Self::Absent(reason),
            Obstacle::Driver(message) => Self::Driver { library: "NVML", message },
        }
    }
}

/// The library, once it is open, and the cards it has shown.
pub(super) struct Nvidia {
    nvml: Option<Nvml>,
    obstacle: Option<Obstacle>,
    cards: Vec<Card>,
    fields: Vec<FieldId>,
}

impl Nvidia {
    /// Nothing is opened yet.
    pub(super) fn new() -> Self {
        let fields = FIELDS.iter().map(|(number, _, _)| FieldId(*number)).collect();
        Self { nvml: None, obstacle: None, cards: Vec::new(), fields }
    }

    /// Appends a row for every card and partition.
    pub(super) fn sample(&mut self, tick: &Tick, root: &HostRoot, rows: &mut Rows) -> Result<(), ProbeError> {
        let look = tick.is_due(LOOK_EVERY);
        if let Some(obstacle) = &self.obstacle
            && !look
        {
            return Err(obstacle.clone().into());
        }
        if look || self.cards.is_empty() {
            match self.look() {
                Ok(()) => self.obstacle = None,
                Err(obstacle) => {
                    // Opened anew the next time: the driver may have been replaced meanwhile.
                    self.nvml = None;
                    self.cards.clear();
                    let obstacle = obstacle.seen_beside(root);
                    self.obstacle = Some(obstacle.clone());
                    return Err(obstacle.into());
                }
            }
        }
        let Some(nvml) = &self.nvml else { return Ok(()) };
        let mut lost = false;
        for card in &self.cards {
            match card.device(nvml) {
                Some(device) => card.append(&device, &self.fields, rows),
                None => lost = true,
            }
        }
        if lost {
            self.cards.clear();
        }
        Ok(())
    }

    /// Opens the library if need be, and lists the cards.
    fn look(&mut self) -> Result<(), Obstacle> {
        let nvml = match self.nvml.take() {
            Some(nvml) => nvml,
            None => Nvml::init().map_err(|error| obstacle(&error))?,
        };
        let count = nvml.device_count().map_err(|error| obstacle(&error))?;
        let driver = nvml.sys_driver_version().ok();
        let mut trouble = None;
        self.cards.clear();
        for index in 0..count {
            match Card::look(&nvml, index, driver.as_deref()) {
                Ok(card) => self.cards.push(card),
                Err(error) => trouble = Some(format!("card {index}: {error}")),
            }
        }
        self.nvml = Some(nvml);
        match trouble {
            // One card in trouble takes nothing from the others.
            _ if !self.cards.is_empty() => Ok(()),
            Some(message) => Err(Obstacle::Driver(message)),
            None => Err(Obstacle::Absent("the NVIDIA driver shows no card".to_owned())),
        }
    }
}

impl Obstacle {
    /// Says beside an absence what the PCI bus shows.
    fn seen_beside(self, root: &HostRoot) -> Self {
        match self {
            Self::Absent(reason) => {
                Self::Absent(with_pci(&reason, &pci::summary(&pci::scan(root).unwrap_or_default())))
            }
            driver @ Self::Driver(_) => driver,
        }
    }
}

fn obstacle(error: &NvmlError) -> Obstacle {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            Obstacle::Absent("no NVIDIA driver: libnvidia-ml.so.1 is not installed".to_owned())
        }
        NvmlError::DriverNotLoaded => Obstacle::Absent("the NVIDIA driver is not loaded".to_owned()),
        other => Obstacle::Driver(other.to_string()),
    }
}

/// What does not change about a card while its driver is loaded.
struct Card {
    index: u32,
    uuid: String,
    driver: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    pci_bdf: Option<String>,
    device_file: Option<String>,
    firmware: Option<String>,
    core_clock_max: Option<i64>,
    memory_clock_max: Option<i64>,
    pcie_generation_max: Option<i64>,
    pcie_width_max: Option<i64>,
}

impl Card {
    fn look(nvml: &Nvml, index: u32, driver: Option<&str>) -> Result<Self, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let pci = device.pci_info().ok();
        Ok(Self {
            index,
            uuid: device.uuid()?,
            driver: driver.map(str::to_owned),
            model: device.name().ok(),
            serial: device.serial().ok(),
            pci_bdf: pci.map(|pci| format!("{:04x}:{:02x}:{:02x}.0", pci.domain, pci.bus, pci.device)),
            device_file: device.minor_number().ok().map(|minor| format!("nvidia{minor}")),
            firmware: device.vbios_version().ok(),
            core_clock_max: device.max_clock_info(Clock::SM).ok().map(hertz),
            memory_clock_max: device.max_clock_info(Clock::Memory).ok().map(hertz),
            pcie_generation_max: device.max_pcie_link_gen().ok().map(i64::from),
            pcie_width_max: device.max_pcie_link_width().ok().map(i64::from),
        })
    }

    /// The card's handle; `None` when it is lost, or its number has become another's.
    fn device<'nvml>(&self, nvml: &'nvml Nvml) -> Option<Device<'nvml>> {
        let device = nvml.device_by_index(self.index).ok()?;
        device.uuid().is_ok_and(|uuid| uuid == self.uuid).then_some(device)
    }

    /// The row of the whole card, then those of its partitions.
    fn append(&self, device: &Device<'_>, fields: &[FieldId], rows: &mut Rows) {
        let mig = device.mig_mode().ok().map(|mode| mode.current == 1);
        let mut row = rows.begin();
        self.labels(&mut row);
        row.text("device", self.uuid.as_str())
            .bool("mig_enabled", mig)
            .int("core_clock_max_hertz", self.core_clock_max)
            .int("memory_clock_max_hertz", self.memory_clock_max)
            .int("pcie_generation_max", self.pcie_generation_max)
            .int("pcie_width_max", self.pcie_width_max);
        loads(device, &mut row);
        levels(device, &mut row);
        memory(device, &mut row);
        counters(device, fields, &mut row);
        if mig == Some(true) {
            self.append_partitions(device, rows);
        }
    }

    fn append_partitions(&self, device: &Device<'_>, rows: &mut Rows) {
        for number in 0..device.mig_device_count().unwrap_or(0) {
            // Most numbers have no partition: the count is that of the places.
            let Ok(partition) = device.mig_device_by_index(number) else { continue };
            let Ok(uuid) = partition.uuid() else { continue };
            let name = partition.name().unwrap_or_default();
            let mut row = rows.begin();
            self.labels(&mut row);
            row.text("device", uuid.as_str())
                .text("parent", self.uuid.as_str())
                .text("partition_id", number.to_string().as_str())
                .text("partition_profile", partition_profile(&name));
            memory(&partition, &mut row);
        }
    }

    /// What card and partitions have in common.
    fn labels(&self, row: &mut Row<'_>) {
        row.int("index", i64::from(self.index))
            .text("vendor", "nvidia")
            .text("model", self.model.as_deref())
            .text("serial", self.serial.as_deref())
            .text("pci_bdf", self.pci_bdf.as_deref())
            .text("device_file", self.device_file.as_deref())
            .text("driver_version", self.driver.as_deref())
            .text("firmware_version", self.firmware.as_deref());
    }
}

/// How busy it is.
fn loads(device: &Device<'_>, row: &mut Row<'_>) {
    let load = device.utilization_rates().ok();
    row.float("utilization_ratio", load.as_ref().and_then(|load| ratio(load.gpu)))
        .float("memory_utilization_ratio", load.as_ref().and_then(|load| ratio(load.memory)))
        .float("encoder_utilization_ratio", device.encoder_utilization().ok().and_then(|load| ratio(load.utilization)))
        .float("decoder_utilization_ratio", device.decoder_utilization().ok().and_then(|load| ratio(load.utilization)))
        .float("fan_ratio", device.fan_speed(0).ok().and_then(ratio))
        .text("compute_mode", device.compute_mode().ok().map(compute_mode));
}

/// What it draws, how warm it is, how fast it runs.
fn levels(device: &Device<'_>, row: &mut Row<'_>) {
    let clock = |clock| device.clock_info(clock).ok().map(hertz);
    let throttled = device.current_throttle_reasons().ok().map(reasons);
    // Numbers above 15 mean that the state is not known.
    let state = device.performance_state().ok().map(|state| state.as_c()).filter(|state| *state <= 15);
    row.float("power_watts", device.power_usage().ok().and_then(watts))
        .float("power_limit_watts", device.enforced_power_limit().ok().and_then(watts))
        .float("temperature_celsius", device.temperature(TemperatureSensor::Gpu).ok().and_then(celsius))
        .int("core_clock_hertz", clock(Clock::SM))
        .int("memory_clock_hertz", clock(Clock::Memory))
        .int("video_clock_hertz", clock(Clock::Video))
        .int("performance_state", state.map(i64::from))
        .text("throttle_reasons", throttled.as_deref())
        .int("pcie_generation", device.current_pcie_link_gen().ok().map(i64::from))
        .int("pcie_width", device.current_pcie_link_width().ok().map(i64::from));
}

/// How its memory is used, and by how many. Partitions have this too.
fn memory(device: &Device<'_>, row: &mut Row<'_>) {
    let memory = device.memory_info().ok();
    row.count("memory_total_bytes", memory.as_ref().map(|memory| memory.total))
        .count("memory_used_bytes", memory.as_ref().map(|memory| memory.used))
        .count("memory_free_bytes", memory.as_ref().map(|memory| memory.free))
        .count("memory_reserved_bytes", memory.as_ref().map(|memory| memory.reserved))
        .int("processes", device.running_compute_processes_count().ok().map(i64::from));
}

/// All fields, in one call.
fn counters(device: &Device<'_>, fields: &[FieldId], row: &mut Row<'_>) {
    let Ok(samples) = device.field_values_for(fields) else { return };
    for ((_, column, field), sample) in FIELDS.iter().zip(samples) {
        let number = sample.and_then(|sample| sample.value).ok().and_then(|value| known(&value));
        match field {
            Field::Count => row.count(column, number),
            Field::Flag => row.bool(column, number.map(|number| number != 0)),
            Field::Celsius => row.float(column, number.and_then(|number| u32::try_from(number).ok()).and_then(celsius)),
            // Exact up to 2^53 mJ, three hundred years of one kilowatt.
            #[allow(clippy::cast_precision_loss)]
            Field::Millijoules => row.float(column, number.map(|millijoules| millijoules as f64 / 1e3)),
        };
    }
}

/// The number, unless it is one that stands for "not known".
fn known(value: &SampleValue) -> Option<u64> {
    match *value {
        SampleValue::U32(number) => (number != u32::MAX).then_some(u64::from(number)),
        SampleValue::U64(number) => (number != u64::MAX).then_some(number),
        SampleValue::I64(number) => u64::try_from(number).ok(),
        SampleValue::F64(_) => None,
    }
}

/// Per cent as a share of one. More than a hundred is no share (fans may turn a little faster than their nominal
/// most, which counts as all).
fn ratio(percent: u32) -> Option<f64> {
    match percent {
        0..=100 => Some(f64::from(percent) / 100.0),
        101..=120 => Some(1.0),
        _ => None,
    }
}

/// Milliwatts as watts. No board draws a hundred kilowatts.
fn watts(milliwatts: u32) -> Option<f64> {
    (milliwatts < 100_000_000).then(|| f64::from(milliwatts) / 1e3)
}

/// No chip lives at 200 °C.
fn celsius(degrees: u32) -> Option<f64> {
    (degrees < 200).then(|| f64::from(degrees))
}

fn hertz(megahertz: u32) -> i64 {
    i64::from(megahertz) * 1_000_000
}

fn compute_mode(mode: ComputeMode) -> &'static str {
    match mode {
        ComputeMode::Default => "default",
        ComputeMode::ExclusiveThread => "exclusive_thread",
        ComputeMode::ExclusiveProcess => "exclusive_process",
        ComputeMode::Prohibited => "prohibited",
    }
}

fn reasons(found: ThrottleReasons) -> String {
    let names: Vec<&str> =
        REASONS.iter().filter(|(reason, _)| found.contains(*reason)).map(|(_, name)| *name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(",") }
}

/// `NVIDIA H100 80GB HBM3 MIG 1g.10gb` is of profile `1g.10gb`.
fn partition_profile(name: &str) -> Option<&str> {
    name.rsplit_once("MIG ").map(|(_, profile)| profile.trim()).filter(|profile| !profile.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nodescope_model::catalogue::{Catalogue, ColumnType};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_go_to_columns_of_their_type() {
        let catalogue = Catalogue::built_in();
        let table = catalogue.get("accelerator").unwrap();
        for (_, name, field) in FIELDS {
            let wanted = match field {
                Field::Count => ColumnType::Int,
                Field::Flag => ColumnType::Bool,
                Field::Celsius | Field::Millijoules => ColumnType::Float,
            };
            assert_eq!(table.column(name).map(|column| column.column_type), Some(wanted), "{name}");
        }
        assert_eq!(FIELDS.iter().map(|(number, _, _)| number).collect::<BTreeSet<_>>().len(), FIELDS.len());
        assert_eq!(FIELDS.iter().map(|(_, name, _)| name).collect::<BTreeSet<_>>().len(), FIELDS.len());
    }

    #[test]
    fn what_stands_for_not_known_is_null() {
        assert_eq!(known(&SampleValue::U32(0)), Some(0));
        assert_eq!(known(&SampleValue::U32(u32::MAX)), None);
        assert_eq!(known(&SampleValue::U64(u64::from(u32::MAX))), Some(4_294_967_295));
        assert_eq!(known(&SampleValue::U64(u64::MAX)), None);
        assert_eq!(known(&SampleValue::I64(-1)), None);
        assert_eq!((ratio(0), ratio(37), ratio(100), ratio(105)), (Some(0.0), Some(0.37), Some(1.0), Some(1.0)));
        assert_eq!((ratio(u32::MAX), watts(u32::MAX), celsius(u32::MAX)), (None, None, None));
        assert_eq!((watts(71_250), celsius(64), hertz(1_980)), (Some(71.25), Some(64.0), 1_980_000_000));
    }

    #[test]
    fn reasons_are_named_in_one_order() {
        assert_eq!(reasons(ThrottleReasons::empty()), "none");
        assert_eq!(reasons(ThrottleReasons::GPU_IDLE), "idle");
        assert_eq!(
            reasons(ThrottleReasons::HW_THERMAL_SLOWDOWN | ThrottleReasons::SW_POWER_CAP),
            "power_cap,hardware_thermal"
        );
        let all: String = REASONS.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(",");
        assert_eq!(reasons(ThrottleReasons::all()), all);
    }

    #[test]
    fn a_partition_tells_its_profile() {
        assert_eq!(partition_profile("NVIDIA H100 80GB HBM3 MIG 1g.10gb"), Some("1g.10gb"));
        assert_eq!(partition_profile("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb"), Some("1c.3g.20gb"));
        assert_eq!(partition_profile("NVIDIA H100 80GB HBM3"), None);
        assert_eq!(partition_profile("MIG "), None);
    }

    #[test]
    fn what_is_missing_is_told_apart_from_what_is_broken() {
        let absent = |error| matches!(obstacle(&error), Obstacle::Absent(_));
        assert!(absent(NvmlError::LibraryNotFound));
        assert!(absent(NvmlError::DriverNotLoaded));
        assert!(!absent(NvmlError::LibRmVersionMismatch));
        assert_eq!(
            obstacle(&NvmlError::LibraryNotFound),
            Obstacle::Absent("no NVIDIA driver: libnvidia-ml.so.1 is not installed".to_owned())
        );
    }

    #[test]
    fn an_obstacle_is_looked_at_again_only_after_a_minute() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        let mut rows = Rows::new(Catalogue::built_in().get("accelerator").unwrap());
        let mut nvidia = Nvidia::new();
        nvidia.obstacle = Some(Obstacle::Absent("as before".to_owned()));
        let soon = Tick { ts_micros: 1_000_000, first: false };
        let error = nvidia.sample(&soon, &root, &mut rows).unwrap_err();
        assert_eq!(error.to_string(), "as before");
        let later = Tick { ts_micros: 60_000_000, first: false };
        if let Err(error) = nvidia.sample(&later, &root, &mut rows) {
            assert_ne!(error.to_string(), "as before");
        }
    }

    proptest! {
        #[test]
        fn no_number_or_name_brings_it_down(number in any::<u32>(), name in any::<String>()) {
            let share = ratio(number);
            prop_assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)));
            watts(number);
            celsius(number);
            hertz(number);
            partition_profile(&name);
        }
    }
}
