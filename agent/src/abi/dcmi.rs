//! DCMI, the management library of Huawei's Ascend accelerators (NPUs).
//!
//! Four things to know about its C interface:
//!
//! - A *card* carries one or more *chips*, and maybe a controller of the board (MCU) which is numbered among them. What
//!   computes is a chip; it is addressed by both numbers. Boards from the 950 on are addressed by one number instead,
//!   by functions of a second generation (`dcmiv2_…`) with the same structures. A driver has one or both.
//! - There are no handles and nothing is closed. The cards are listed once, when the library is initialised.
//! - Structures have grown over the years, with no version in them, and no function is told how much room there is. So
//!   what is filled gets room behind it ([`Roomy`]). What an old library leaves alone is zero.
//! - A function that does not apply to a board says so in the library's log file, each time. Who asks every second
//!   must remember the refusals.
//!
//! Left out: `dcmi_get_fault_event`. The driver keeps one queue of events for each process, of which there may be
//! some tens, and reading for one chip throws away what is there of the others. Codes of errors that stand
//! ([`Dcmi::error_codes`]) are the same numbers, and reading them takes nothing from anybody.

use std::ffi::{c_char, c_float, c_int, c_uchar, c_uint, c_ulong, c_ulonglong, c_ushort, c_void};
use std::path::Path;

use super::{Library, OpenError, functions, text};

/// Where the library lies: the driver's installer puts it into one of the latter two.
const CANDIDATES: &[&str] =
    &["libdcmi.so", "/usr/local/dcmi/libdcmi.so", "/usr/local/Ascend/driver/lib64/driver/libdcmi.so"];

/// What a function answered instead of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) c_int);

impl Code {
    pub(crate) const INVALID_PARAMETER: Self = Self(-8001);
    pub(crate) const NOT_PERMITTED: Self = Self(-8002);
    pub(crate) const INVALID_DEVICE: Self = Self(-8007);
    pub(crate) const NO_DEVICE: Self = Self(-8008);
    pub(crate) const NOT_IN_CONTAINER: Self = Self(-8013);
    pub(crate) const NO_CONFIGURATION: Self = Self(-8023);
    pub(crate) const NOT_SUPPORTED: Self = Self(-8255);
    /// The library does not have the function. A number of our own.
    pub(crate) const MISSING: Self = Self(-1_000_001);
    /// The function said nothing. A number of our own.
    pub(crate) const NO_DATA: Self = Self(-1_000_002);

    /// Whether it says that there is no such value here, which is no trouble.
    pub(crate) fn is_absence(self) -> bool {
        [
            Self::INVALID_PARAMETER, // a number this library does not know, as of a newer kind of load
            Self::NOT_PERMITTED,     // also: not while the chip is cut
            Self::NOT_IN_CONTAINER,
            Self::NO_CONFIGURATION,
            Self::NOT_SUPPORTED,
            Self::MISSING,
            Self::NO_DATA,
        ]
        .contains(&self)
    }

    /// Whether the chip has gone.
    pub(crate) fn is_loss(self) -> bool {
        [Self::INVALID_DEVICE, Self::NO_DEVICE].contains(&self)
    }

    /// In words: the library has none of its own for these.
    pub(crate) fn describe(self) -> String {
        let words = match self.0 {
            -8001 => "invalid parameter",
            -8002 => "operation not permitted",
            -8003 => "memory operation failed",
            -8004 => "secure function failed",
            -8005 => "inner error",
            -8006 => "time out",
            -8007 => "invalid device",
            -8008 => "the device does not exist",
            -8009 => "the driver refused",
            -8010 => "sending to the device failed",
            -8011 => "receiving from the device failed",
            -8012 => "not ready",
            -8013 => "not supported in a container",
            -8014 => "file operation failed",
            -8015 => "reset failed",
            -8016 => "operation aborted",
            -8017 => "an upgrade is under way",
            -8020 => "resource occupied",
            -8022 => "inconsistent partitions",
            -8023 => "no such configuration",
            -8255 => "not supported",
            _ if self == Self::MISSING => return "the library lacks the function".to_owned(),
            _ if self == Self::NO_DATA => return "no answer".to_owned(),
            other => return format!("error {other}"),
        };
        format!("{words} (error {})", self.0)
    }
}

fn checked(ret: c_int) -> Result<(), Code> {
    if ret == 0 { Ok(()) } else { Err(Code(ret)) }
}

/// A chip: on a card, or by the number the driver gives it (second generation).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chip {
    OnCard { card: c_int, chip: c_int },
    ByNumber(c_int),
}

/// A structure to be filled, and room behind it for what a newer library has there.
#[repr(C)]
struct Roomy<T> {
    value: T,
    beyond: [u64; ROOM_BEYOND],
}

/// In words of eight bytes. The longest growth known is of some dozen bytes.
const ROOM_BEYOND: usize = 64;

impl<T> Roomy<T> {
    fn new(value: T) -> Self {
        Self { value, beyond: [0; ROOM_BEYOND] }
    }

    /// To be filled. The pointer is to the whole, so that writing into the room is allowed too.
    fn pointer(&mut self) -> *mut T {
        (&raw mut *self).cast()
    }
}

/// `struct dcmi_chip_info_v2`; the older form ends before `npu_name`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ChipInfo {
    chip_type: [c_char; 32],
    chip_name: [c_char; 32],
    chip_version: [c_char; 32],
    aicores: c_uint,
    npu_name: [c_char; 32],
}

/// What a chip is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChipName {
    /// `Ascend`.
    pub(crate) kind: Option<String>,
    /// `910B3`, or `Ascend910` with the rest in `npu`.
    pub(crate) name: Option<String>,
    pub(crate) npu: Option<String>,
    pub(crate) aicores: u32,
}

/// `struct dcmi_pcie_info_all`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PcieInfo {
    vendor: c_uint,
    subvendor: c_uint,
    device_model: c_uint,
    subdevice: c_uint,
    pub(crate) domain: c_int,
    pub(crate) bus: c_uint,
    pub(crate) device: c_uint,
    pub(crate) function: c_uint,
    reserved: [u8; 32],
}

/// `struct dcmi_die_id`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct DieId {
    words: [c_uint; 5],
}

/// `struct dcmi_elabel_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Label {
    product: [c_char; 256],
    model: [c_char; 256],
    manufacturer: [c_char; 256],
    made: [c_char; 256],
    serial: [c_char; 256],
}

/// `struct dcmi_multi_utilization_info`, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Loads {
    /// Matrix units.
    pub(crate) cube: c_uint,
    pub(crate) vector: c_uint,
    pub(crate) aicore: c_uint,
    /// The chip as a whole.
    pub(crate) overall: c_uint,
    reserved: [c_uint; 8],
}

/// `struct dcmi_hbm_info`. Sizes are in MiB, though its header says MB: 64 GiB are 65,536.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HbmInfo {
    pub(crate) total: c_ulonglong,
    /// In MHz.
    pub(crate) clock: c_uint,
    pub(crate) used: c_ulonglong,
    pub(crate) celsius: c_int,
    /// Per cent of the bandwidth.
    pub(crate) bandwidth: c_uint,
}

/// `struct dcmi_get_memory_info_stru`, in MiB.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryInfo {
    pub(crate) total: c_ulonglong,
    pub(crate) available: c_ulonglong,
    /// In MHz.
    pub(crate) clock: c_uint,
    huge_page: c_ulong,
    huge_pages: c_ulong,
    huge_pages_free: c_ulong,
    used_percent: c_uint,
    reserved: [u8; 60],
}

/// `struct dcmi_ecc_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EccInfo {
    pub(crate) is_enabled: c_int,
    pub(crate) single_bit: c_uint,
    pub(crate) double_bit: c_uint,
    pub(crate) single_bit_total: c_uint,
    pub(crate) double_bit_total: c_uint,
    pub(crate) single_bit_pages: c_uint,
    pub(crate) double_bit_pages: c_uint,
    /// From here on only newer libraries write.
    next_single_bit_pages: c_uint,
    next_double_bit_pages: c_uint,
}

/// `struct dcmi_dvpp_ratio`, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MediaLoads {
    pub(crate) video_decoder: c_int,
    vision: c_int,
    pub(crate) video_encoder: c_int,
    pub(crate) jpeg_encoder: c_int,
    pub(crate) jpeg_decoder: c_int,
}

/// `struct dcmi_proc_mem_info`: memory in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProcessInfo {
    pub(crate) pid: c_int,
    pub(crate) memory: c_ulong,
}

/// `struct dcmi_pcie_link_bandwidth_info`: least, most and mean, in MiB per millisecond.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PcieBandwidth {
    /// For how long to measure, in milliseconds.
    period: c_int,
    /// Writes of the chip, its requests for reading, and its answers to reads of others.
    pub(crate) sent_writes: [c_uint; 3],
    sent_requests: [c_uint; 3],
    pub(crate) sent_answers: [c_uint; 3],
    request_latency: [c_uint; 3],
    pub(crate) received_writes: [c_uint; 3],
    received_requests: [c_uint; 3],
    pub(crate) received_answers: [c_uint; 3],
}

/// Ports of HCCS a chip may have.
pub(crate) const HCCS_PORTS: usize = 16;

/// Bytes of one piece of data on HCCS, in which its counters count.
pub(crate) const HCCS_PIECE: u64 = 20;

/// `struct dcmi_hccs_statistic_info_u64`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct HccsCounters {
    pub(crate) sent: [c_ulonglong; HCCS_PORTS],
    pub(crate) received: [c_ulonglong; HCCS_PORTS],
    pub(crate) crc_errors: [c_ulonglong; HCCS_PORTS],
    pub(crate) retries: [c_ulonglong; HCCS_PORTS],
    reserved: [c_ulonglong; 64],
}

/// `struct dcmi_hccs_lane_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HccsLanes {
    /// Ports that are used for HCCS.
    pub(crate) ports: c_uint,
    /// One for each bit that is set in `ports`, from the lowest. Bit 0: the port is up; bits 9 and 10: its width.
    pub(crate) lanes: [c_uint; HCCS_PORTS],
    reserved: [c_uint; 16],
}

/// `struct dcmi_lp_power_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct PowerInfo {
    /// In milliwatts.
    rated: c_uint,
    reserved: [u8; 32],
}

/// `union dcmi_sensor_info`: sixteen words, of which the first tells.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct SensorInfo {
    words: [c_uint; 16],
}

/// `struct dcmi_base_resource`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct BaseResource {
    token: c_ulonglong,
    token_max: c_ulonglong,
    task_timeout: c_ulonglong,
    group: c_uint,
    mode: c_uchar,
    reserved: [u8; 31],
}

/// `struct dcmi_computing_resource`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct ComputingResource {
    aicores: c_float,
    vector_cores: c_float,
    units: [c_ushort; 8],
    /// In MiB.
    memory: c_ulonglong,
    ids: [c_uint; 4],
    cpus: [c_ushort; 5],
    /// In per cent.
    load: c_uint,
    /// In KiB.
    memory_total: c_ulonglong,
    memory_free: c_ulonglong,
    reserved: [u8; 12],
}

/// `struct dcmi_media_resource`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct MediaResource {
    units: [c_float; 6],
    reserved: [u8; 32],
}

/// `struct dcmi_vdev_query_stru`: a number, and a structure that begins at a multiple of eight.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct PartitionInfo {
    number: c_uint,
    padding: c_uint,
    name: [c_char; 16],
    status: c_uint,
    is_in_container: c_uint,
    function: c_uint,
    group: c_uint,
    container: c_ulonglong,
    base: BaseResource,
    computing: ComputingResource,
    media: MediaResource,
}

/// `struct dcmi_soc_total_resource`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct TotalResource {
    count: c_uint,
    numbers: [c_uint; 32],
    group_count: c_uint,
    groups: c_uint,
    base: BaseResource,
    computing: ComputingResource,
    media: MediaResource,
}

/// What a partition (vNPU) has been given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Partition {
    /// The template it was cut by, as `vir04`.
    pub(crate) template: Option<String>,
    /// AI cores; parts of one are possible.
    pub(crate) aicores: f32,
    /// In MiB.
    pub(crate) memory: u64,
}

/// What goes on in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Load of its AI cores in per cent.
    pub(crate) load: u32,
    /// In KiB.
    pub(crate) memory_total: u64,
    pub(crate) memory_free: u64,
}

/// Kinds of load that can be asked for one by one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    AiCore = 2,
    DdrBandwidth = 5,
    Vector = 12,
    Overall = 13,
    Cube = 14,
}

/// Kinds of clock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    AiCore = 7,
    AiCoreMax = 9,
}

/// Kinds of memory that count errors.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Memory {
    Ddr = 0,
    Sram = 1,
    Hbm = 2,
}

/// Groups of things that `dcmi_get_device_info` tells, and those that we ask for.
mod info {
    use super::c_uint;

    pub(super) const LOW_POWER: c_uint = 8;
    pub(super) const RATED_POWER: c_uint = 10;
    pub(super) const HCCS: c_uint = 16;
    pub(super) const HCCS_LANES: c_uint = 1;
    pub(super) const HCCS_COUNTERS: c_uint = 5;
    pub(super) const PARTITIONS: c_uint = 52;
    pub(super) const PARTITION: c_uint = 0;
    pub(super) const ALL_PARTITIONS: c_uint = 1;
    pub(super) const PARTITION_ACTIVITY: c_uint = 5;
}

/// The kind of die whose number we take as the chip's name: the one that computes.
const COMPUTE_DIE: c_uint = 1;

/// The sensor that knows the temperatures at which the chip helps itself.
const THRESHOLDS: c_uint = 9;

/// Cards a machine may have, and chips on one of them.
const MAX_CARDS: usize = 64;
const MAX_CHIPS: c_int = 16;

/// Codes of errors that stand: the library tells 128 at the most.
const MAX_ERRORS: usize = 128;

/// Processes on a chip: the library tells no more than some tens, and is not told how much room there is.
const MAX_PROCESSES: usize = 1024;

/// Longest text we take.
const TEXT: usize = 256;

/// A function of the first generation that fills one structure, and one of the second.
type Of<T> = Option<unsafe extern "C" fn(c_int, c_int, *mut T) -> c_int>;
type By<T> = Option<unsafe extern "C" fn(c_int, *mut T) -> c_int>;

functions! {
    /// What we call of DCMI.
    pub(crate) struct Dcmi {
        init = "dcmi_init": fn() -> c_int;
        init_v2 = "dcmiv2_init": fn() -> c_int;
        driver_version = "dcmi_get_driver_version": fn(out: *mut c_char, length: c_uint) -> c_int;
        driver_version_v2 = "dcmiv2_get_driver_version": fn(out: *mut c_char, length: c_uint) -> c_int;
        cards = "dcmi_get_card_list": fn(count: *mut c_int, out: *mut c_int, length: c_int) -> c_int;
        cards_old = "dcmi_get_card_num_list": fn(count: *mut c_int, out: *mut c_int, length: c_int) -> c_int;
        chips_on_card = "dcmi_get_device_num_in_card": fn(card: c_int, out: *mut c_int) -> c_int;
        chips_v2 = "dcmiv2_get_device_list": fn(out: *mut c_int, count: *mut c_int, length: c_int) -> c_int;
        kind = "dcmi_get_device_type": fn(card: c_int, chip: c_int, out: *mut c_uint) -> c_int;
        kind_v2 = "dcmiv2_get_device_type": fn(chip: c_int, out: *mut c_uint) -> c_int;
        logic_id = "dcmi_get_device_logic_id": fn(out: *mut c_int, card: c_int, chip: c_int) -> c_int;
        physical_id = "dcmi_get_device_phyid_from_logicid": fn(logic: c_uint, out: *mut c_uint) -> c_int;
        physical_id_v2 = "dcmiv2_get_chip_phy_id_by_dev_id": fn(chip: c_int, out: *mut c_uint) -> c_int;
        chip_info = "dcmi_get_device_chip_info_v2": fn(card: c_int, chip: c_int, out: *mut ChipInfo) -> c_int;
        chip_info_old = "dcmi_get_device_chip_info": fn(card: c_int, chip: c_int, out: *mut ChipInfo) -> c_int;
        chip_info_v2 = "dcmiv2_get_device_chip_info": fn(chip: c_int, out: *mut ChipInfo) -> c_int;
        pcie_info = "dcmi_get_device_pcie_info_v2": fn(card: c_int, chip: c_int, out: *mut PcieInfo) -> c_int;
        pcie_info_v2 = "dcmiv2_get_device_pcie_info": fn(chip: c_int, out: *mut PcieInfo) -> c_int;
        die = "dcmi_get_device_die_v2": fn(card: c_int, chip: c_int, which: c_uint, out: *mut DieId) -> c_int;
        die_v2 = "dcmiv2_get_device_die_id": fn(chip: c_int, which: c_uint, out: *mut DieId) -> c_int;
        label_of_card = "dcmi_get_card_elabel_v2": fn(card: c_int, out: *mut Label) -> c_int;
        label = "dcmi_get_device_elabel_info": fn(card: c_int, chip: c_int, out: *mut Label) -> c_int;
        label_v2 = "dcmiv2_get_device_elabel_info": fn(chip: c_int, out: *mut Label) -> c_int;
        loads = "dcmi_get_device_multi_utilization_rate": fn(card: c_int, chip: c_int, out: *mut Loads) -> c_int;
        loads_v2 = "dcmiv2_get_device_multi_utilization_rate": fn(chip: c_int, out: *mut Loads) -> c_int;
        load = "dcmi_get_device_utilization_rate": fn(
            card: c_int, chip: c_int, which: c_int, out: *mut c_uint,
        ) -> c_int;
        load_v2 = "dcmiv2_get_device_utilization_rate": fn(chip: c_int, which: c_int, out: *mut c_uint) -> c_int;
        media = "dcmi_get_device_dvpp_ratio_info": fn(card: c_int, chip: c_int, out: *mut MediaLoads) -> c_int;
        hbm = "dcmi_get_device_hbm_info": fn(card: c_int, chip: c_int, out: *mut HbmInfo) -> c_int;
        hbm_v2 = "dcmiv2_get_device_hbm_info": fn(chip: c_int, out: *mut HbmInfo) -> c_int;
        memory = "dcmi_get_device_memory_info_v3": fn(card: c_int, chip: c_int, out: *mut MemoryInfo) -> c_int;
        power = "dcmi_get_device_power_info": fn(card: c_int, chip: c_int, out: *mut c_int) -> c_int;
        power_v2 = "dcmiv2_get_device_power_info": fn(chip: c_int, out: *mut c_int) -> c_int;
        temperature = "dcmi_get_device_temperature": fn(card: c_int, chip: c_int, out: *mut c_int) -> c_int;
        temperature_v2 = "dcmiv2_get_device_temperature": fn(chip: c_int, out: *mut c_int) -> c_int;
        voltage = "dcmi_get_device_voltage": fn(card: c_int, chip: c_int, out: *mut c_uint) -> c_int;
        voltage_v2 = "dcmiv2_get_device_voltage": fn(chip: c_int, out: *mut c_uint) -> c_int;
        clock = "dcmi_get_device_frequency": fn(card: c_int, chip: c_int, which: c_uint, out: *mut c_uint) -> c_int;
        clock_v2 = "dcmiv2_get_device_frequency": fn(chip: c_int, which: c_uint, out: *mut c_uint) -> c_int;
        sensor = "dcmi_get_device_sensor_info": fn(
            card: c_int, chip: c_int, which: c_uint, out: *mut SensorInfo,
        ) -> c_int;
        sensor_v2 = "dcmiv2_get_device_sensor_info": fn(chip: c_int, which: c_uint, out: *mut SensorInfo) -> c_int;
        health = "dcmi_get_device_health": fn(card: c_int, chip: c_int, out: *mut c_uint) -> c_int;
        health_v2 = "dcmiv2_get_device_health": fn(chip: c_int, out: *mut c_uint) -> c_int;
        network_health = "dcmi_get_device_network_health": fn(card: c_int, chip: c_int, out: *mut c_uint) -> c_int;
        network_health_v2 = "dcmiv2_get_device_network_health": fn(chip: c_int, out: *mut c_uint) -> c_int;
        error_codes = "dcmi_get_device_errorcode_v2": fn(
            card: c_int, chip: c_int, count: *mut c_int, out: *mut c_uint, length: c_uint,
        ) -> c_int;
        error_codes_v2 = "dcmiv2_get_device_error_code_list": fn(
            chip: c_int, count: *mut c_int, out: *mut c_uint, length: c_uint,
        ) -> c_int;
        error_text = "dcmi_get_device_errorcode_string": fn(
            card: c_int, chip: c_int, code: c_uint, out: *mut c_char, length: c_int,
        ) -> c_int;
        error_text_v2 = "dcmiv2_get_device_error_info": fn(
            chip: c_int, code: c_uint, out: *mut c_char, length: c_int,
        ) -> c_int;
        ecc = "dcmi_get_device_ecc_info": fn(card: c_int, chip: c_int, which: c_uint, out: *mut EccInfo) -> c_int;
        ecc_v2 = "dcmiv2_get_device_ecc_info": fn(chip: c_int, which: c_uint, out: *mut EccInfo) -> c_int;
        processes = "dcmi_get_device_resource_info": fn(
            card: c_int, chip: c_int, out: *mut ProcessInfo, count: *mut c_int,
        ) -> c_int;
        processes_v2 = "dcmiv2_get_device_proc_mem_info": fn(
            chip: c_int, out: *mut ProcessInfo, count: *mut c_int,
        ) -> c_int;
        pcie_bandwidth = "dcmi_get_pcie_link_bandwidth_info": fn(
            card: c_int, chip: c_int, out: *mut PcieBandwidth,
        ) -> c_int;
        pcie_bandwidth_v2 = "dcmiv2_get_pcie_link_bandwidth_info": fn(chip: c_int, out: *mut PcieBandwidth) -> c_int;
        info = "dcmi_get_device_info": fn(
            card: c_int, chip: c_int, group: c_uint, which: c_uint, out: *mut c_void, length: *mut c_uint,
        ) -> c_int;
        info_v2 = "dcmiv2_get_device_info": fn(
            chip: c_int, group: c_uint, which: c_uint, out: *mut c_void, length: *mut c_uint,
        ) -> c_int;
    }
}

/// Calls a function of the generation by which the chip is addressed.
macro_rules! call {
    ($chip:expr, $first:expr, $second:expr, $($argument:expr),+) => {
        match $chip {
            Chip::OnCard { card, chip } => {
                let function = $first.ok_or(Code::MISSING)?;
                // SAFETY: what is filled has room behind it, or the function is told its length, and lives until it
                // returns.
                checked(unsafe { function(card, chip, $($argument),+) })
            }
            Chip::ByNumber(chip) => {
                let function = $second.ok_or(Code::MISSING)?;
                // SAFETY: as above.
                checked(unsafe { function(chip, $($argument),+) })
            }
        }
    };
}

fn get<T: Copy>(first: Of<T>, second: By<T>, chip: Chip, empty: T) -> Result<T, Code> {
    let mut out = Roomy::new(empty);
    call!(chip, first, second, out.pointer())?;
    Ok(out.value)
}

impl Dcmi {
    /// Opens the library. Nothing is asked of the driver yet.
    pub(crate) fn open(configured: Option<&Path>) -> Result<Self, OpenError> {
        Library::open(configured, CANDIDATES).map(Self::load)
    }

    /// To be called first. Lists the cards, as they are from then on.
    pub(crate) fn initialize(&self) -> Result<(), Code> {
        let mut answer = Err(Code::MISSING);
        for init in [self.init, self.init_v2].into_iter().flatten() {
            // SAFETY: it takes nothing and may be called at any time.
            answer = checked(unsafe { init() });
            if answer.is_ok() {
                return Ok(());
            }
        }
        answer
    }

    pub(crate) fn driver_version(&self) -> Option<String> {
        let function = self.driver_version.or(self.driver_version_v2)?;
        let mut out: [c_char; TEXT] = [0; TEXT];
        // SAFETY: the function is told how much room there is. One byte less, so that the text ends in any case.
        checked(unsafe { function(out.as_mut_ptr(), TEXT as c_uint - 1) }).ok()?;
        text(&out)
    }

    /// The chips there are, but not controllers of boards; and the first trouble met on the way.
    pub(crate) fn chips(&self) -> Result<(Vec<Chip>, Option<Code>), Code> {
        let mut trouble = None;
        let (cards, answer) = match self.card_numbers() {
            Ok(cards) => (cards, Ok(())),
            Err(code) => (Vec::new(), Err(code)),
        };
        let mut chips = Vec::new();
        for card in cards {
            match self.count_on_card(card) {
                Ok(count) => chips.extend((0..count.min(MAX_CHIPS)).map(|chip| Chip::OnCard { card, chip })),
                Err(code) => trouble = trouble.or(Some(code)),
            }
        }
        if chips.is_empty()
            && let Some(Ok(numbers)) = self.chips_v2.map(numbers_v2)
        {
            chips.extend(numbers.into_iter().map(Chip::ByNumber));
        }
        if chips.is_empty() {
            answer?;
        }
        chips.retain(|chip| self.is_npu(*chip));
        Ok((chips, trouble))
    }

    fn card_numbers(&self) -> Result<Vec<c_int>, Code> {
        let function = self.cards.or(self.cards_old).ok_or(Code::MISSING)?;
        let mut out = [0; MAX_CARDS];
        let mut count = 0;
        // SAFETY: the library is told how many there is room for.
        checked(unsafe { function(&raw mut count, out.as_mut_ptr(), MAX_CARDS as c_int) })?;
        Ok(first(&out, count).iter().copied().filter(|card| *card >= 0).collect())
    }

    fn count_on_card(&self, card: c_int) -> Result<c_int, Code> {
        let function = self.chips_on_card.ok_or(Code::MISSING)?;
        let mut count = 0;
        // SAFETY: `count` is what it fills, and lives until it returns.
        checked(unsafe { function(card, &raw mut count) })?;
        Ok(count)
    }

    /// Whether it computes. A library that does not say has nothing else.
    fn is_npu(&self, chip: Chip) -> bool {
        get(self.kind, self.kind_v2, chip, 0).unwrap_or(0) == 0
    }

    /// Number the driver gives it.
    pub(crate) fn logic_id(&self, chip: Chip) -> Result<u32, Code> {
        let number = match chip {
            Chip::ByNumber(number) => number,
            Chip::OnCard { card, chip } => {
                let function = self.logic_id.ok_or(Code::MISSING)?;
                let mut out = 0;
                // SAFETY: as in `count_on_card`.
                checked(unsafe { function(&raw mut out, card, chip) })?;
                out
            }
        };
        u32::try_from(number).map_err(|_| Code::NO_DATA)
    }

    /// Number of its file below `/dev`.
    pub(crate) fn physical_id(&self, chip: Chip) -> Result<u32, Code> {
        let mut out = 0;
        match chip {
            Chip::ByNumber(number) => {
                let function = self.physical_id_v2.ok_or(Code::MISSING)?;
                // SAFETY: as in `count_on_card`.
                checked(unsafe { function(number, &raw mut out) })?;
            }
            Chip::OnCard { .. } => {
                let function = self.physical_id.ok_or(Code::MISSING)?;
                // SAFETY: as above.
                checked(unsafe { function(self.logic_id(chip)?, &raw mut out) })?;
            }
        }
        Ok(out)
    }

    pub(crate) fn name(&self, chip: Chip) -> Result<ChipName, Code> {
        let nothing = [0; 32];
        let empty =
            ChipInfo { chip_type: nothing, chip_name: nothing, chip_version: nothing, aicores: 0, npu_name: nothing };
        // The older form is shorter, and the rest stays empty.
        let info = get(self.chip_info.or(self.chip_info_old), self.chip_info_v2, chip, empty)?;
        Ok(ChipName {
            kind: text(&info.chip_type),
            name: text(&info.chip_name),
            npu: text(&info.npu_name),
            aicores: info.aicores,
        })
    }

    pub(crate) fn pcie_info(&self, chip: Chip) -> Result<PcieInfo, Code> {
        get(self.pcie_info, self.pcie_info_v2, chip, PcieInfo::default())
    }

    /// The number burnt into the die that computes: five words, all zero where there is none.
    pub(crate) fn die(&self, chip: Chip) -> Result<[u32; 5], Code> {
        let mut out = Roomy::new(DieId::default());
        call!(chip, self.die, self.die_v2, COMPUTE_DIE, out.pointer())?;
        Ok(out.value.words)
    }

    /// Serial number of the board. Asking the board's controller for it may take a good part of a second.
    pub(crate) fn serial(&self, chip: Chip) -> Result<String, Code> {
        let nothing = [0; 256];
        let empty = Label { product: nothing, model: nothing, manufacturer: nothing, made: nothing, serial: nothing };
        let of_card = match (chip, self.label_of_card) {
            (Chip::OnCard { card, .. }, Some(function)) => {
                let mut out = Roomy::new(empty);
                // SAFETY: as in `call`.
                checked(unsafe { function(card, out.pointer()) }).map(|()| out.value)
            }
            _ => Err(Code::MISSING),
        };
        let label = of_card.or_else(|_| get(self.label, self.label_v2, chip, empty))?;
        text(&label.serial).ok_or(Code::NO_DATA)
    }

    /// All loads at once (newer drivers).
    pub(crate) fn loads(&self, chip: Chip) -> Result<Loads, Code> {
        get(self.loads, self.loads_v2, chip, Loads::default())
    }

    /// One load, in per cent.
    pub(crate) fn load_of(&self, chip: Chip, which: Load) -> Result<u32, Code> {
        let mut out = 0;
        call!(chip, self.load, self.load_v2, which as c_int, &raw mut out)?;
        Ok(out)
    }

    pub(crate) fn media_loads(&self, chip: Chip) -> Result<MediaLoads, Code> {
        get(self.media, None, chip, MediaLoads::default())
    }

    pub(crate) fn hbm(&self, chip: Chip) -> Result<HbmInfo, Code> {
        get(self.hbm, self.hbm_v2, chip, HbmInfo::default())
    }

    pub(crate) fn memory(&self, chip: Chip) -> Result<MemoryInfo, Code> {
        let empty = MemoryInfo {
            total: 0,
            available: 0,
            clock: 0,
            huge_page: 0,
            huge_pages: 0,
            huge_pages_free: 0,
            used_percent: 0,
            reserved: [0; 60],
        };
        get(self.memory, None, chip, empty)
    }

    /// In tenths of a watt.
    pub(crate) fn power(&self, chip: Chip) -> Result<i32, Code> {
        get(self.power, self.power_v2, chip, 0)
    }

    /// In degrees.
    pub(crate) fn temperature(&self, chip: Chip) -> Result<i32, Code> {
        get(self.temperature, self.temperature_v2, chip, 0)
    }

    /// In hundredths of a volt.
    pub(crate) fn voltage(&self, chip: Chip) -> Result<u32, Code> {
        get(self.voltage, self.voltage_v2, chip, 0)
    }

    /// In megahertz.
    pub(crate) fn clock(&self, chip: Chip, which: Clock) -> Result<u32, Code> {
        let mut out = 0;
        call!(chip, self.clock, self.clock_v2, which as c_uint, &raw mut out)?;
        Ok(out)
    }

    /// Temperatures at which the chip slows down and switches off, in either order.
    pub(crate) fn thresholds(&self, chip: Chip) -> Result<[u8; 2], Code> {
        let mut out = Roomy::new(SensorInfo::default());
        call!(chip, self.sensor, self.sensor_v2, THRESHOLDS, out.pointer())?;
        let [word, ..] = out.value.words;
        let [first, second, ..] = word.to_ne_bytes();
        Ok([first, second])
    }

    /// 0 well, 1 to 3 worse and worse; all bits set where there is no such chip.
    pub(crate) fn health(&self, chip: Chip) -> Result<u32, Code> {
        get(self.health, self.health_v2, chip, 0)
    }

    /// What the chip's network port has found out about its way to the gateway.
    pub(crate) fn network_health(&self, chip: Chip) -> Result<u32, Code> {
        get(self.network_health, self.network_health_v2, chip, c_uint::MAX)
    }

    /// Codes of the errors that stand.
    pub(crate) fn error_codes(&self, chip: Chip, out: &mut Vec<u32>) -> Result<(), Code> {
        // The driver itself takes no length and writes up to 128. Twice the room.
        let mut codes: [c_uint; 2 * MAX_ERRORS] = [0; 2 * MAX_ERRORS];
        let mut count = 0;
        let (pointer, room) = (codes.as_mut_ptr(), MAX_ERRORS as c_uint);
        call!(chip, self.error_codes, self.error_codes_v2, &raw mut count, pointer, room)?;
        out.clear();
        out.extend(first(&codes[..MAX_ERRORS], count).iter().filter(|code| **code != 0));
        Ok(())
    }

    /// What a code means, in the library's words.
    pub(crate) fn error_text(&self, chip: Chip, code: u32) -> Result<String, Code> {
        let mut out: [c_char; 2 * TEXT] = [0; 2 * TEXT];
        let pointer = out.as_mut_ptr();
        call!(chip, self.error_text, self.error_text_v2, code, pointer, TEXT as c_int)?;
        let [.., end] = &mut out;
        *end = 0;
        text(&out).ok_or(Code::NO_DATA)
    }

    pub(crate) fn ecc(&self, chip: Chip, which: Memory) -> Result<EccInfo, Code> {
        let mut out = Roomy::new(EccInfo::default());
        call!(chip, self.ecc, self.ecc_v2, which as c_uint, out.pointer())?;
        Ok(out.value)
    }

    /// Processes on the chip and the memory they hold.
    pub(crate) fn processes(&self, chip: Chip, out: &mut Vec<ProcessInfo>) -> Result<(), Code> {
        out.clear();
        out.resize(MAX_PROCESSES, ProcessInfo::default());
        let mut count = 0;
        let pointer = out.as_mut_ptr();
        let answer: Result<(), Code> = (|| call!(chip, self.processes, self.processes_v2, pointer, &raw mut count))();
        out.truncate(if answer.is_ok() { usize::try_from(count).unwrap_or(0) } else { 0 });
        answer
    }

    /// What goes over PCIe, measured for that many milliseconds, for which the call lasts.
    pub(crate) fn pcie_bandwidth(&self, chip: Chip, milliseconds: i32) -> Result<PcieBandwidth, Code> {
        let ask = PcieBandwidth { period: milliseconds, ..PcieBandwidth::default() };
        get(self.pcie_bandwidth, self.pcie_bandwidth_v2, chip, ask)
    }

    /// One thing of the many that one function tells.
    fn info<T: Copy>(&self, chip: Chip, group: c_uint, which: c_uint, empty: T) -> Result<T, Code> {
        let mut out = Roomy::new(empty);
        // The length must be exactly that of the structure; it comes back as what was written.
        let mut length = c_uint::try_from(size_of::<T>()).map_err(|_| Code::NO_DATA)?;
        let pointer: *mut c_void = out.pointer().cast();
        call!(chip, self.info, self.info_v2, group, which, pointer, &raw mut length)?;
        Ok(out.value)
    }

    /// Counters of the links to other chips.
    pub(crate) fn hccs_counters(&self, chip: Chip) -> Result<HccsCounters, Code> {
        let none = [0; HCCS_PORTS];
        let empty = HccsCounters { sent: none, received: none, crc_errors: none, retries: none, reserved: [0; 64] };
        self.info(chip, info::HCCS, info::HCCS_COUNTERS, empty)
    }

    pub(crate) fn hccs_lanes(&self, chip: Chip) -> Result<HccsLanes, Code> {
        self.info(chip, info::HCCS, info::HCCS_LANES, HccsLanes::default())
    }

    /// Power it is made for, in milliwatts.
    pub(crate) fn rated_power(&self, chip: Chip) -> Result<u32, Code> {
        self.info(chip, info::LOW_POWER, info::RATED_POWER, PowerInfo::default()).map(|power| power.rated)
    }

    /// Numbers of the chip's partitions.
    pub(crate) fn partitions(&self, chip: Chip) -> Result<Vec<u32>, Code> {
        let empty = TotalResource {
            count: 0,
            numbers: [0; 32],
            group_count: 0,
            groups: 0,
            base: BaseResource::default(),
            computing: ComputingResource::default(),
            media: MediaResource::default(),
        };
        let total = self.info(chip, info::PARTITIONS, info::ALL_PARTITIONS, empty)?;
        Ok(total.numbers.iter().copied().take(total.count as usize).collect())
    }

    fn partition_info(&self, chip: Chip, number: u32, which: c_uint) -> Result<PartitionInfo, Code> {
        let ask = PartitionInfo {
            number,
            padding: 0,
            name: [0; 16],
            status: 0,
            is_in_container: 0,
            function: 0,
            group: 0,
            container: 0,
            base: BaseResource::default(),
            computing: ComputingResource::default(),
            media: MediaResource::default(),
        };
        self.info(chip, info::PARTITIONS, which, ask)
    }

    pub(crate) fn partition(&self, chip: Chip, number: u32) -> Result<Partition, Code> {
        let info = self.partition_info(chip, number, info::PARTITION)?;
        Ok(Partition { template: text(&info.name), aicores: info.computing.aicores, memory: info.computing.memory })
    }

    /// What goes on in a partition (310P, root only).
    pub(crate) fn partition_activity(&self, chip: Chip, number: u32) -> Result<Activity, Code> {
        let info = self.partition_info(chip, number, info::PARTITION_ACTIVITY)?.computing;
        Ok(Activity { load: info.load, memory_total: info.memory_total, memory_free: info.memory_free })
    }
}

fn numbers_v2(function: unsafe extern "C" fn(*mut c_int, *mut c_int, c_int) -> c_int) -> Result<Vec<c_int>, Code> {
    let mut out = [0; MAX_CARDS];
    let mut count = 0;
    // SAFETY: the library is told how many there is room for.
    checked(unsafe { function(out.as_mut_ptr(), &raw mut count, MAX_CARDS as c_int) })?;
    Ok(first(&out, count).iter().copied().filter(|number| *number >= 0).collect())
}

/// As many as the library says, of those there was room for.
fn first<T>(of: &[T], count: c_int) -> &[T] {
    let count = usize::try_from(count).unwrap_or(0).min(of.len());
    of.get(..count).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn structures_are_laid_out_as_the_library_has_them() {
        assert_eq!(
            (size_of::<ChipInfo>(), offset_of!(ChipInfo, aicores), offset_of!(ChipInfo, npu_name)),
            (132, 96, 100)
        );
        assert_eq!((size_of::<PcieInfo>(), offset_of!(PcieInfo, domain), offset_of!(PcieInfo, function)), (64, 16, 28));
        assert_eq!(size_of::<DieId>(), 20);
        assert_eq!((size_of::<Label>(), offset_of!(Label, serial)), (1280, 1024));
        assert_eq!((size_of::<Loads>(), offset_of!(Loads, overall)), (48, 12));
        assert_eq!((size_of::<HbmInfo>(), offset_of!(HbmInfo, used)), (32, 16));
        assert_eq!((offset_of!(HbmInfo, celsius), offset_of!(HbmInfo, bandwidth)), (24, 28));
        assert_eq!((size_of::<MemoryInfo>(), offset_of!(MemoryInfo, available)), (112, 8));
        assert_eq!((offset_of!(MemoryInfo, clock), offset_of!(MemoryInfo, huge_page)), (16, 24));
        assert_eq!((offset_of!(MemoryInfo, used_percent), offset_of!(MemoryInfo, reserved)), (48, 52));
        assert_eq!((size_of::<EccInfo>(), offset_of!(EccInfo, double_bit_pages)), (36, 24));
        assert_eq!((size_of::<MediaLoads>(), offset_of!(MediaLoads, video_encoder)), (20, 8));
        assert_eq!((size_of::<ProcessInfo>(), offset_of!(ProcessInfo, memory)), (16, 8));
        assert_eq!((size_of::<PcieBandwidth>(), offset_of!(PcieBandwidth, sent_answers)), (88, 28));
        assert_eq!(offset_of!(PcieBandwidth, received_writes), 52);
        assert_eq!((size_of::<HccsCounters>(), offset_of!(HccsCounters, retries)), (1024, 384));
        assert_eq!((size_of::<HccsLanes>(), offset_of!(HccsLanes, lanes)), (132, 4));
        assert_eq!(size_of::<PowerInfo>(), 36);
        assert_eq!(size_of::<SensorInfo>(), 64);
        assert_eq!((size_of::<BaseResource>(), offset_of!(BaseResource, mode)), (64, 28));
        assert_eq!((size_of::<ComputingResource>(), offset_of!(ComputingResource, memory)), (96, 24));
        assert_eq!((offset_of!(ComputingResource, cpus), offset_of!(ComputingResource, load)), (48, 60));
        assert_eq!(offset_of!(ComputingResource, memory_free), 72);
        assert_eq!(size_of::<MediaResource>(), 56);
        assert_eq!((size_of::<PartitionInfo>(), offset_of!(PartitionInfo, name)), (264, 8));
        assert_eq!((size_of::<TotalResource>(), offset_of!(TotalResource, group_count)), (360, 132));
        assert_eq!((offset_of!(TotalResource, base), offset_of!(TotalResource, computing)), (144, 208));
    }

    #[test]
    fn what_there_is_room_for_is_taken() {
        assert_eq!(first(&[1, 2, 3], 2), [1, 2]);
        assert_eq!(first(&[1, 2, 3], 99), [1, 2, 3]);
        assert!(first(&[1, 2, 3], -1).is_empty());
    }

    #[test]
    fn codes_are_told_apart() {
        assert!(Code::NOT_SUPPORTED.is_absence() && !Code::NOT_SUPPORTED.is_loss());
        assert!(Code::NO_DEVICE.is_loss() && !Code::NO_DEVICE.is_absence());
        assert!(!Code(-8012).is_absence() && !Code(-8012).is_loss());
        assert_eq!(Code(-8012).describe(), "not ready (error -8012)");
        assert_eq!(Code(-1).describe(), "error -1");
        assert_eq!(Code::MISSING.describe(), "the library lacks the function");
    }
}
