//! `CNDev`, Cambricon's management library.
//!
//! Four things to know about its C interface:
//!
//! - Most structures begin with `version`, the number of the interface (not of the structure) that the caller was
//!   written for, and the library refuses one that it does not know. Drivers of version 5 and 6 take 6, older ones 5.
//!   Which it is, is found out once ([`Cndev::count`]). Structures whose name ends in `V2` have no version, but room
//!   kept free at their end.
//! - A device is a number. It is asked for by index; libraries before interface 6 take the index itself. An instance of
//!   a card that is cut (MIM) has such a number too.
//! - The result comes first and the device last, unlike with other vendors; only fields and events have it otherwise.
//! - A number below zero stands for "not known".
//!
//! Structures have grown within one version of the interface (`cndevFrequencyInfo_t`, `cndevMemEccCounter_t`,
//! `cndevMLULinkCounter_t`). So every one is lent to the library with room behind it ([`Roomy`]), and what an older
//! library leaves alone stays zero.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::path::Path;

use super::{Library, OpenError, functions, text};

/// A card, or an instance of one. Valid for as long as the library is initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle(c_int);

type Ret = c_int;

/// What a function answered instead of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) c_int);

impl Code {
    pub(crate) const NO_DRIVER: Self = Self(1);
    /// The driver in the kernel is older than the library: one of the two was replaced.
    pub(crate) const DRIVER_TOO_OLD: Self = Self(2);
    pub(crate) const VERSION_REFUSED: Self = Self(3);
    pub(crate) const INVALID_ARGUMENT: Self = Self(5);
    pub(crate) const INVALID_DEVICE: Self = Self(6);
    pub(crate) const INSUFFICIENT_SPACE: Self = Self(9);
    pub(crate) const NOT_SUPPORTED: Self = Self(10);
    pub(crate) const INVALID_LINK: Self = Self(11);
    pub(crate) const NO_DEVICES: Self = Self(12);
    pub(crate) const NO_PERMISSION: Self = Self(13);
    pub(crate) const NOT_FOUND: Self = Self(14);
    pub(crate) const TIMEOUT: Self = Self(17);
    /// Ours: the library lacks the function.
    pub(crate) const MISSING: Self = Self(-1);

    /// Whether it says that there is no such value here, which is no trouble.
    pub(crate) fn is_absence(self) -> bool {
        [
            Self::VERSION_REFUSED,
            Self::INVALID_ARGUMENT,
            Self::NOT_SUPPORTED,
            Self::INVALID_LINK,
            Self::NO_PERMISSION,
            Self::NOT_FOUND,
            Self::TIMEOUT,
            Self::MISSING,
        ]
        .contains(&self)
    }

    /// Whether the card has gone. One that is merely "in problem" (18) is still there.
    pub(crate) fn is_loss(self) -> bool {
        [Self::INVALID_DEVICE, Self::NO_DEVICES].contains(&self)
    }
}

fn checked(ret: Ret) -> Result<(), Code> {
    if ret == 0 { Ok(()) } else { Err(Code(ret)) }
}

/// A structure that the library fills.
///
/// # Safety
/// It is `repr(C)` and of numbers alone, so any bits are one, and all zero is. If it is versioned, it begins with the
/// version, an `int`.
unsafe trait Plain: Copy {
    const IS_VERSIONED: bool;
}

macro_rules! plain {
    (versioned: $($versioned:ident),*; free: $($free:ident),* $(,)?) => {
        $(
            // SAFETY: see its declaration: numbers alone, the first of them the version.
            unsafe impl Plain for $versioned {
                const IS_VERSIONED: bool = true;
            }
        )*
        $(
            // SAFETY: see its declaration: numbers alone.
            unsafe impl Plain for $free {
                const IS_VERSIONED: bool = false;
            }
        )*
    };
}

plain! {
    versioned: CardInfo, Uuid, MemoryV1, VersionInfo, EccTotals, PowerV1, Temperature, Utilization, Frequency, Process,
        Count, Mode, SerialNumber, PciInfoV1, PcieLink, HealthV1, VideoCodecs, ImageCodecs, LinkStatusV1, LinkCounterV1,
        RetiredPages, RetiredPagesStatus, RemappedRowsV1, RemappedRowsV2, RepairStatus, ThrottleReasons, FanSpeed,
        MimInstance, SmluInstance, MemoryEcc, RawEvent, ProcessUtilizationV1;
    free: MemoryV2, PowerV2, PciInfoV2, PcieThroughput, HealthV2, Voltage, LinkStatusV2, LinkBytes, LinkErrors,
        LinkEvents, ProcessUtilizationV2,
}

/// `cndevCardInfo_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct CardInfo {
    version: c_int,
    number: c_uint,
}

/// `cndevUUID_t`. The text need not end in NUL.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Uuid {
    version: c_int,
    uuid: [c_char; 37],
    ncs_uuid: u64,
}

/// `cndevMemoryInfo_t`, in MiB. It has grown by another number at its end.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct MemoryV1 {
    version: c_int,
    total: i64,
    used: i64,
    virtual_total: i64,
    virtual_used: i64,
    channels: i64,
    channel_used: [i64; 20],
}

/// `cndevMemoryInfoV2_t`, in MiB.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct MemoryV2 {
    total: i64,
    used: i64,
    kept: i64,
    virtual_total: i64,
    virtual_used: i64,
    global: u64,
    reserved: [u64; 16],
}

/// Memory of a card or instance, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: i64,
    pub(crate) used: i64,
    /// What the driver keeps.
    pub(crate) reserved: Option<i64>,
}

/// `cndevVersionInfo_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct VersionInfo {
    version: c_int,
    /// Of the board's controller: major, minor, build.
    pub(crate) firmware: [c_uint; 3],
    pub(crate) driver: [c_uint; 3],
}

/// `cndevECCInfo_t`: errors since the driver was loaded.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct EccTotals {
    version: c_int,
    single: [u64; 4],
    pub(crate) corrected: u64,
    pub(crate) uncorrected: u64,
    total: u64,
    forbidden: u64,
}

/// `cndevPowerInfo_t`, in whole watts. What its fractions are of is not said, so they are left alone.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct PowerV1 {
    version: c_int,
    usage: c_int,
    cap: c_int,
    usage_fraction: c_int,
    machine: c_int,
    cap_fraction: c_int,
    design: u16,
    instantaneous: u16,
    instantaneous_fraction: u16,
}

/// `cndevDevicePowerInfo_t`, in watts.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct PowerV2 {
    usage: c_int,
    cap: c_int,
    machine: c_int,
    design: c_int,
    max: c_int,
    reserved: [c_int; 16],
}

/// Power of a card, in watts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Power {
    pub(crate) usage: i32,
    pub(crate) cap: i32,
}

/// `cndevTemperatureInfo_t`, in degrees Celsius.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Temperature {
    version: c_int,
    pub(crate) board: c_int,
    pub(crate) cluster: [c_int; 20],
    memory_die: [c_int; 8],
    pub(crate) chip: c_int,
    air_inlet: c_int,
    air_outlet: c_int,
    pub(crate) memory: c_int,
    video_input: c_int,
    cpu: c_int,
    isp: c_int,
}

/// `cndevUtilizationInfo_t`, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Utilization {
    version: c_int,
    average: c_int,
    core: [c_int; 80],
}

/// `cndevFrequencyInfo_t`, in MHz. Up to interface 5 it ended before `clusters`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frequency {
    version: c_int,
    pub(crate) core: c_int,
    pub(crate) memory: c_int,
    over_temperature: u8,
    fast: u8,
    clusters: u16,
    cluster: [u16; 20],
    pub(crate) core_default: c_int,
    core_min: c_int,
    pub(crate) core_max: c_int,
}

/// `cndevProcessInfo_t`, in KiB.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    version: c_int,
    pub(crate) pid: c_uint,
    pub(crate) memory: u64,
    virtual_memory: u64,
}

/// `cndevCardCoreCount_t`, and others that are a version and a count (`cndevPcieReplayCounter_t`).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Count {
    version: c_int,
    count: c_uint,
}

/// `cndevMimMode_t`, `cndevSMLUMode_t`, `cndevComputeMode_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Mode {
    version: c_int,
    mode: c_int,
}

/// `cndevCardSN_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct SerialNumber {
    version: c_int,
    card: u64,
    board: u64,
}

/// `cndevPCIeInfo_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct PciInfoV1 {
    version: c_int,
    ids: [c_uint; 2],
    vendors: [u16; 2],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    function: c_uint,
    /// A pointer to text of the library's, never followed.
    slot_name: usize,
    slot: c_int,
}

/// `cndevPCIeInfoV2_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct PciInfoV2 {
    ids: [c_uint; 2],
    vendors: [u16; 2],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    function: c_uint,
    module: u16,
    slot: u16,
    reserved: [c_uint; 8],
}

/// Where on the PCI bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PciAddress {
    pub(crate) domain: u32,
    pub(crate) bus: u32,
    pub(crate) device: u32,
    pub(crate) function: u32,
}

/// `cndevCurrentPCIInfo_t` and `cndevPCIInfo_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct PcieLink {
    version: c_int,
    pub(crate) generation: c_int,
    pub(crate) width: c_int,
}

/// `cndevPCIethroughputV2_t`, in bytes: the last 20 ms, and all since the driver was loaded.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct PcieThroughput {
    read: i64,
    write: i64,
    pub(crate) read_total: i64,
    pub(crate) write_total: i64,
    timestamp: u64,
    reserved: [i64; 8],
}

/// `cndevCardHealthState_t`. Up to interface 5 it ended after `health`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct HealthV1 {
    version: c_int,
    health: c_int,
    device: c_int,
    driver: c_int,
}

/// `cndevIncidentInfo_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawIncident {
    system: c_int,
    verdict: c_int,
    message: [c_char; 512],
    device: c_uint,
    bdf: c_uint,
    error: c_int,
    category: c_uint,
    severity: c_uint,
}

/// Incidents there is room for in [`HealthV2`].
const INCIDENTS: usize = 64;

/// `cndevCardHealthStateV2_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct HealthV2 {
    health: c_int,
    device: c_int,
    driver: c_int,
    overall: c_int,
    count: c_uint,
    incidents: [RawIncident; INCIDENTS],
    reserved: [c_uint; 8],
}

/// What the library's own check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Warn,
    Fail,
}

impl Verdict {
    fn of(number: c_int) -> Option<Self> {
        match number {
            0 => Some(Self::Pass),
            10 => Some(Self::Warn),
            20 => Some(Self::Fail),
            _ => None,
        }
    }
}

/// Something the check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Incident {
    /// One bit that stands for a part of the card.
    pub(crate) system: i32,
    /// The library's number for it.
    pub(crate) error: i32,
    pub(crate) message: Option<String>,
}

/// Health of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) verdict: Option<Verdict>,
    pub(crate) incidents: Vec<Incident>,
}

/// How busy each of several units is, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Units {
    count: c_int,
    load: [c_int; 20],
}

impl Units {
    /// Those there are.
    pub(crate) fn loads(&self) -> &[c_int] {
        let count = usize::try_from(self.count).unwrap_or(0);
        self.load.get(..count).unwrap_or(&self.load)
    }
}

/// `cndevVideoCodecUtilization_t`. Up to interface 5 it ended after `all`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct VideoCodecs {
    version: c_int,
    all: Units,
    pub(crate) encoders: Units,
    pub(crate) decoders: Units,
}

/// `cndevImageCodecUtilization_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageCodecs {
    version: c_int,
    pub(crate) all: Units,
}

/// `cndevVoltageInfo_t`, in millivolts.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Voltage {
    pub(crate) core: i16,
    soc: i16,
    memory_vcc: i16,
    memory_vdd: i16,
    reserved: [i16; 16],
}

/// `cndevMLULinkStatus_t`. Up to interface 5 it ended before `cable`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct LinkStatusV1 {
    version: c_int,
    is_active: c_int,
    serdes: c_int,
    cable: c_int,
}

/// `cndevMLULinkStatusV2_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct LinkStatusV2 {
    mac: c_int,
    serdes: c_int,
    presence: c_int,
    progress: c_uint,
    reserved: [c_uint; 7],
}

/// `cndevMLULinkCounter_t`. It ended after `err_uncorrected` once, and then after two others.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct LinkCounterV1 {
    version: c_int,
    read_bytes: u64,
    read_packets: u64,
    write_bytes: u64,
    write_packets: u64,
    replays: u64,
    fatal: u64,
    ecc_double: u64,
    crc24: u64,
    crc32: u64,
    err_corrected: u64,
    err_uncorrected: u64,
    rest: [u64; 7],
}

/// `cndevMLULinkBasicCounter_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct LinkBytes {
    received_bytes: u64,
    received_packets: u64,
    transmitted_bytes: u64,
    transmitted_packets: u64,
    roce_packets: [u64; 2],
    timestamp: u64,
    reserved: [u64; 25],
}

/// `cndevMLULinkErrorCounter_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct LinkErrors {
    fec_corrected: u64,
    fec_uncorrected: u64,
    received_bad_fcs: u64,
    transmitted_bad_fcs: u64,
    illegal_access: u64,
    reserved: [u64; 11],
}

/// `cndevMLULinkEventCounter_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct LinkEvents {
    down: u64,
    replays: u64,
    failed_replays: u64,
    reserved: [u64; 13],
}

/// `cndevRetiredPageInfo_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RetiredPages {
    version: c_int,
    cause: c_int,
    count: c_uint,
    addresses: [u64; 512],
}

/// `cndevRetiredPageStatus_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RetiredPagesStatus {
    version: c_int,
    is_pending: c_uint,
    is_failed: c_uint,
}

/// `cndevRemappedRow_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RemappedRowsV1 {
    version: c_int,
    corrected: c_uint,
    uncorrected: c_uint,
    pending: c_uint,
    failed: c_uint,
}

/// `cndevRemappedRowV2_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RemappedRowsV2 {
    version: c_int,
    corrected: c_uint,
    uncorrected: c_uint,
    histogram: [c_uint; 3],
}

/// `cndevRepairStatus_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RepairStatus {
    version: c_int,
    is_retirement_pending: u8,
    is_pending: u8,
    is_failed: u8,
}

/// Rows of memory that were replaced by spare ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RemappedRows {
    pub(crate) corrected: Option<u32>,
    pub(crate) uncorrected: Option<u32>,
    pub(crate) is_pending: Option<bool>,
    pub(crate) is_failed: Option<bool>,
}

/// `cndevPerformanceThrottleReason_t`, each 0 or 1.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct ThrottleReasons {
    version: c_int,
    /// Thermal design power, power setting, clock setting, locked frequency, power brake, thermal slowdown.
    pub(crate) each: [c_int; 6],
}

/// `cndevFanSpeedInfo_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct FanSpeed {
    version: c_int,
    percent: c_int,
    chassis_count: c_int,
    chassis: [c_int; 28],
}

/// `cndevMluInstanceInfo_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct MimInstance {
    version: c_int,
    parent: c_int,
    id: c_int,
    profile_id: c_int,
    uuid: [c_char; 37],
    pci: [c_int; 4],
    /// Version, start, size.
    placement: [c_int; 3],
    cores: c_int,
    video_codecs: c_int,
    image_codecs: c_int,
    dma_engines: c_int,
    memory: c_int,
    profile: [c_char; 100],
    device_node: [c_char; 100],
    message_node: [c_char; 100],
    name: [c_char; 100],
    reserved: [c_uint; 128],
}

/// `cndevSMluInfo_t`. Of quota and memory, the first is what it may have and the second what it uses.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct SmluInstance {
    version: c_int,
    profile_id: c_int,
    id: c_int,
    uuid: [c_char; 37],
    pci: [c_int; 4],
    profile: [c_char; 100],
    name: [c_char; 100],
    device_node: [c_char; 100],
    quota: [c_uint; 2],
    memory: [u64; 2],
    reserved: [c_uint; 128],
}

/// An instance of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) id: i32,
    pub(crate) uuid: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) device_node: Option<String>,
    /// Cores it has; not told of an sMLU instance.
    pub(crate) cores: Option<i32>,
    /// What an sMLU instance uses and may use.
    pub(crate) share: Option<Share>,
}

/// What an sMLU instance has of its card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    /// Of the card's time, in per cent, that was used.
    pub(crate) load: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_used_bytes: u64,
}

/// `cndevMemEccCounter_t`. In older libraries it ends before the errors of the device's life.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryEcc {
    version: c_int,
    pub(crate) sram_single: c_uint,
    pub(crate) sram_double: c_uint,
    pub(crate) sram_parity: c_uint,
    pub(crate) dram_single: c_uint,
    pub(crate) dram_double: c_uint,
    life: [u64; 5],
    is_over_threshold: u8,
    reserved: [u64; 11],
}

/// `cndevEventData_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawEvent {
    version: c_int,
    device: c_int,
    data: u64,
    event: u64,
    timestamp: u64,
    instances: [c_uint; 2],
    reserved: [u64; 8],
}

/// Something the driver reported.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DriverEvent {
    pub(crate) device: Handle,
    /// One of [`XID`] and others that have no name yet.
    pub(crate) event: u64,
    /// For an XID, its number.
    pub(crate) data: u64,
    /// Microseconds since 1970; zero where it is not told.
    pub(crate) at: u64,
}

/// Kind of event: an error of the card's.
pub(crate) const XID: u64 = 1;

/// `cndevProcessUtilization_t`, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ProcessUtilizationV1 {
    version: c_int,
    load: ProcessLoad,
}

/// `cndevProcessUtilizationInfo_t`: the mean between two calls.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ProcessUtilizationV2 {
    load: ProcessLoad,
    timestamp: u64,
}

/// How much of a card one process has, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ProcessLoad {
    pub(crate) pid: c_uint,
    pub(crate) core: c_uint,
    pub(crate) jpeg: c_uint,
    pub(crate) decoder: c_uint,
    pub(crate) encoder: c_uint,
    /// Whether of the memory's time or of its size, the library does not say.
    memory: c_uint,
}

/// `cndevFieldValue_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FieldValue {
    field: c_int,
    ret: Ret,
    value: u64,
    value_type: c_int,
    latency: i64,
    timestamp: i64,
    scope: c_uint,
}

impl FieldValue {
    /// A question for a field.
    pub(crate) fn ask(field: i32) -> Self {
        // What a library leaves alone is not an answer.
        Self { field, ret: Code::NOT_SUPPORTED.0, ..Self::default() }
    }

    /// The answer, unless it is below zero or otherwise stands for "not known".
    pub(crate) fn known(&self) -> Option<u64> {
        checked(self.ret).ok()?;
        let bytes = self.value.to_ne_bytes();
        let [a, b, c, d, ..] = bytes;
        let half = [a, b, c, d];
        match self.value_type {
            0 => whole(f64::from_bits(self.value)),
            1 => Some(u32::from_ne_bytes(half)).filter(|number| *number != u32::MAX).map(u64::from),
            2 | 3 => Some(self.value).filter(|number| *number != u64::MAX),
            4 => u64::try_from(i32::from_ne_bytes(half)).ok(),
            5 | 6 => u64::try_from(i64::from_ne_bytes(bytes)).ok(),
            _ => None,
        }
    }
}

/// A number that came as a fraction.
fn whole(number: f64) -> Option<u64> {
    // Beyond this a fraction cannot tell neighbours apart.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (0.0..9e15).contains(&number).then_some(number as u64)
}

/// `cndevMpmMetric_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct MpmMetric {
    metric: c_int,
    ret: Ret,
    value: f64,
    names: [*mut c_char; 3],
}

/// Metrics there is room for: the library's own structure has room for 256, and it may touch all.
const MPM_ROOM: usize = 512;

/// `cndevMpmMetricsGet_t`.
#[repr(C)]
struct MpmMetricsGet {
    version: c_uint,
    count: c_uint,
    before: *mut c_void,
    after: *mut c_void,
    metrics: [MpmMetric; MPM_ROOM],
}

/// Two of the library's snapshots of a card's counters, the newer and the older in turn, and room for what it makes
/// of them. To be dropped before the library is shut down.
pub(crate) struct Mpm {
    snapshots: [*mut c_void; 2],
    free: Option<unsafe extern "C" fn(*mut c_void) -> Ret>,
    /// How many snapshots have been taken; the newest is in `(taken - 1) % 2`.
    taken: usize,
    get: Box<MpmMetricsGet>,
}

impl Drop for Mpm {
    fn drop(&mut self) {
        if let Some(free) = self.free {
            for snapshot in self.snapshots.into_iter().filter(|snapshot| !snapshot.is_null()) {
                // SAFETY: the library made it, and nobody else has it.
                let _ = unsafe { free(snapshot) };
            }
        }
    }
}

functions! {
    /// What we call of libcndev.
    struct Calls {
        init = "cndevInit": fn(reserved: c_int) -> Ret;
        release = "cndevRelease": fn() -> Ret;
        error_string = "cndevGetErrorString": fn(code: Ret) -> *const c_char;
        count = "cndevGetDeviceCount": fn(out: *mut CardInfo) -> Ret;
        handle = "cndevGetDeviceHandleByIndex": fn(index: c_int, out: *mut c_int) -> Ret;
        uuid = "cndevGetUUID": fn(out: *mut Uuid, device: c_int) -> Ret;
        serial = "cndevGetCardSN": fn(out: *mut SerialNumber, device: c_int) -> Ret;
        pci_v2 = "cndevGetPCIeInfoV2": fn(out: *mut PciInfoV2, device: c_int) -> Ret;
        pci_v1 = "cndevGetPCIeInfo": fn(out: *mut PciInfoV1, device: c_int) -> Ret;
        minor = "cndevDeviceGetMinorNumber": fn(out: *mut c_uint, device: c_int) -> Ret;
        name_of_device = "cndevGetCardNameStringByDevId": fn(device: c_int) -> *const c_char;
        name_number = "cndevGetCardName": fn(out: *mut Mode, device: c_int) -> Ret;
        name_of_number = "cndevGetCardNameString": fn(number: c_int) -> *const c_char;
        versions = "cndevGetVersionInfo": fn(out: *mut VersionInfo, device: c_int) -> Ret;
        cores = "cndevGetCoreCount": fn(out: *mut Count, device: c_int) -> Ret;
        utilization = "cndevGetDeviceUtilizationInfo": fn(out: *mut Utilization, device: c_int) -> Ret;
        memory_v2 = "cndevGetMemoryUsageV2": fn(out: *mut MemoryV2, device: c_int) -> Ret;
        memory_v1 = "cndevGetMemoryUsage": fn(out: *mut MemoryV1, device: c_int) -> Ret;
        power_v2 = "cndevGetDevicePowerInfo": fn(out: *mut PowerV2, device: c_int) -> Ret;
        power_v1 = "cndevGetPowerInfo": fn(out: *mut PowerV1, device: c_int) -> Ret;
        temperature = "cndevGetTemperatureInfo": fn(out: *mut Temperature, device: c_int) -> Ret;
        frequency = "cndevGetFrequencyInfo": fn(out: *mut Frequency, device: c_int) -> Ret;
        fan = "cndevGetFanSpeedInfo": fn(out: *mut FanSpeed, device: c_int) -> Ret;
        voltage = "cndevGetVoltageInfo": fn(out: *mut Voltage, device: c_int) -> Ret;
        video_codecs = "cndevGetVideoCodecUtilization": fn(out: *mut VideoCodecs, device: c_int) -> Ret;
        image_codecs = "cndevGetImageCodecUtilization": fn(out: *mut ImageCodecs, device: c_int) -> Ret;
        throttle_reasons = "cndevGetPerformanceThrottleReason": fn(out: *mut ThrottleReasons, device: c_int) -> Ret;
        compute_mode = "cndevGetComputeMode": fn(out: *mut Mode, device: c_int) -> Ret;
        health_v2 = "cndevGetCardHealthStateV2": fn(out: *mut HealthV2, device: c_int) -> Ret;
        health_v1 = "cndevGetCardHealthState": fn(out: *mut HealthV1, device: c_int) -> Ret;
        memory_ecc = "cndevGetMemEccCounter": fn(out: *mut MemoryEcc, device: c_int) -> Ret;
        ecc = "cndevGetECCInfo": fn(out: *mut EccTotals, device: c_int) -> Ret;
        retired = "cndevGetRetiredPages": fn(out: *mut RetiredPages, device: c_int) -> Ret;
        retired_status = "cndevGetRetiredPagesStatus": fn(out: *mut RetiredPagesStatus, device: c_int) -> Ret;
        remapped_v2 = "cndevGetRemappedRowsV2": fn(out: *mut RemappedRowsV2, device: c_int) -> Ret;
        remapped_v1 = "cndevGetRemappedRows": fn(out: *mut RemappedRowsV1, device: c_int) -> Ret;
        repair = "cndevGetRepairStatus": fn(out: *mut RepairStatus, device: c_int) -> Ret;
        pcie_current = "cndevGetCurrentPCIInfo": fn(out: *mut PcieLink, device: c_int) -> Ret;
        pcie_max = "cndevGetMaxPCIInfo": fn(out: *mut PcieLink, device: c_int) -> Ret;
        pcie_replays = "cndevGetPcieReplayCounter": fn(out: *mut Count, device: c_int) -> Ret;
        pcie_throughput = "cndevGetPCIethroughputV2": fn(out: *mut PcieThroughput, device: c_int) -> Ret;
        links = "cndevGetMLULinkPortNumber": fn(device: c_int) -> c_int;
        link_status_v2 = "cndevGetMLULinkStatusV2": fn(out: *mut LinkStatusV2, device: c_int, link: c_int) -> Ret;
        link_status_v1 = "cndevGetMLULinkStatus": fn(out: *mut LinkStatusV1, device: c_int, link: c_int) -> Ret;
        link_bytes = "cndevGetMLULinkBasicCounter": fn(out: *mut LinkBytes, device: c_int, link: c_int) -> Ret;
        link_errors = "cndevGetMLULinkErrorCounter": fn(out: *mut LinkErrors, device: c_int, link: c_int) -> Ret;
        link_events = "cndevGetMLULinkEventCounter": fn(out: *mut LinkEvents, device: c_int, link: c_int) -> Ret;
        link_counter = "cndevGetMLULinkCounter": fn(out: *mut LinkCounterV1, device: c_int, link: c_int) -> Ret;
        processes = "cndevGetProcessInfo": fn(count: *mut c_uint, out: *mut Process, device: c_int) -> Ret;
        process_load_v2 = "cndevGetProcessUtilizationInfo": fn(
            count: *mut c_uint, out: *mut ProcessUtilizationV2, device: c_int,
        ) -> Ret;
        process_load_v1 = "cndevGetProcessUtilization": fn(
            count: *mut c_uint, out: *mut ProcessUtilizationV1, device: c_int,
        ) -> Ret;
        fields = "cndevDeviceGetFieldValues": fn(device: c_int, count: c_int, values: *mut FieldValue) -> Ret;
        mim_mode = "cndevGetMimMode": fn(out: *mut Mode, device: c_int) -> Ret;
        mim_instances = "cndevGetAllMluInstanceInfo": fn(
            count: *mut c_uint, out: *mut MimInstance, device: c_int,
        ) -> Ret;
        mim_handle = "cndevGetMluInstanceById": fn(out: *mut c_int, id: c_int, device: c_int) -> Ret;
        smlu_mode = "cndevGetSMLUMode": fn(out: *mut Mode, device: c_int) -> Ret;
        smlu_instances = "cndevGetAllSMluInstanceInfo": fn(
            count: *mut c_uint, out: *mut SmluInstance, device: c_int,
        ) -> Ret;
        event_create = "cndevEventHandleCreate": fn(out: *mut *mut c_void) -> Ret;
        event_destroy = "cndevEventHandleDestroy": fn(handle: *mut c_void) -> Ret;
        event_register = "cndevRegisterEvents": fn(handle: *mut c_void, types: c_ulonglong, device: c_int) -> Ret;
        event_wait = "cndevEventWait": fn(handle: *mut c_void, out: *mut RawEvent, timeout_ms: c_int) -> Ret;
        mpm_support = "cndevMpmQueryDeviceSupport": fn(device: c_int, out: *mut u8) -> Ret;
        mpm_alloc = "cndevMpmSampleAlloc": fn(out: *mut *mut c_void) -> Ret;
        mpm_free = "cndevMpmSampleFree": fn(snapshot: *mut c_void) -> Ret;
        mpm_sample = "cndevMpmSampleGet": fn(snapshot: *mut c_void, device: c_int) -> Ret;
        mpm_metrics = "cndevMpmMetricsGet": fn(get: *mut MpmMetricsGet) -> Ret;
    }
}

/// A function that fills one structure about a device.
type Getter<T> = Option<unsafe extern "C" fn(*mut T, c_int) -> Ret>;

/// A function that fills one structure about a link of a device.
type LinkGetter<T> = Option<unsafe extern "C" fn(*mut T, c_int, c_int) -> Ret>;

/// A function that fills a list about a device.
type Lister<T> = Option<unsafe extern "C" fn(*mut c_uint, *mut T, c_int) -> Ret>;

/// A structure with room behind it, in case that the library's is longer.
#[repr(C)]
struct Roomy<T> {
    value: T,
    room: [u64; 64],
}

/// A structure with nothing in it but its version, for `fill`, which gives it to the library.
fn filled<T: Plain>(version: c_int, prepare: impl FnOnce(&mut T), fill: impl FnOnce(*mut T) -> Ret) -> Result<T, Code> {
    // SAFETY: numbers alone (`Plain`), and all zero is a number.
    let mut out: Roomy<T> = unsafe { std::mem::zeroed() };
    if T::IS_VERSIONED {
        // SAFETY: it begins with its version, an `int` (`Plain`), and so does what it lies in.
        unsafe { (&raw mut out).cast::<c_int>().write(version) };
    }
    prepare(&mut out.value);
    checked(fill((&raw mut out).cast()))?;
    Ok(out.value)
}

/// Processes or instances there is room for at first. The library tells when there are more.
const ROOM: usize = 32;

/// And at the most.
const MAX_ROOM: usize = 16_384;

/// Links a card is asked about: beyond what any has.
const MAX_LINKS: c_int = 64;

/// How long the library may wait for an event. Zero would do, but what it makes of zero is not written anywhere.
const EVENT_WAIT_MS: c_int = 1;

/// `cndevEventTypeAll`.
const ALL_EVENTS: c_ulonglong = c_ulonglong::MAX;

/// The library.
pub(crate) struct Cndev {
    calls: Calls,
    /// Version of the interface that it understands.
    version: Cell<c_int>,
}

impl Cndev {
    /// Versions of the interface that we know, the newest first.
    const VERSIONS: [c_int; 2] = [6, 5];

    /// Opens the library. Nothing is asked of the driver yet.
    pub(crate) fn open(configured: Option<&Path>, candidates: &[&str]) -> Result<Self, OpenError> {
        let calls = Calls::load(Library::open(configured, candidates)?);
        Ok(Self { calls, version: Cell::new(Self::VERSIONS[0]) })
    }

    /// Which library it is.
    pub(crate) fn path(&self) -> &Path {
        self.calls.path()
    }

    /// To be called first, and again after [`Cndev::shut_down`].
    pub(crate) fn initialize(&self) -> Result<(), Code> {
        let init = self.calls.init.ok_or(Code::MISSING)?;
        // SAFETY: it takes a number that must be zero, and may be called at any time.
        checked(unsafe { init(0) })
    }

    /// Gives up all handles.
    pub(crate) fn shut_down(&self) {
        if let Some(release) = self.calls.release {
            // SAFETY: it takes nothing; the caller has dropped what it had.
            let _ = unsafe { release() };
        }
    }

    /// A code in the library's words.
    pub(crate) fn describe(&self, code: Code) -> String {
        if code == Code::MISSING {
            return "the library lacks the function".to_owned();
        }
        let number = code.0;
        // SAFETY: it takes a number, and gives a text of its own.
        let said = self.calls.error_string.and_then(|function| own_text(unsafe { function(number) }));
        match said {
            Some(said) => format!("{said} (error {number})"),
            None => format!("error {number}"),
        }
    }

    fn get<T: Plain>(&self, function: Getter<T>, device: Handle) -> Result<T, Code> {
        self.get_prepared(function, device, |_| ())
    }

    fn get_prepared<T: Plain>(
        &self,
        function: Getter<T>,
        device: Handle,
        prepare: impl FnOnce(&mut T),
    ) -> Result<T, Code> {
        let function = function.ok_or(Code::MISSING)?;
        // SAFETY: the function fills this structure, and there is room behind it.
        filled(self.version.get(), prepare, |out| unsafe { function(out, device.0) })
    }

    fn of_link<T: Plain>(&self, function: LinkGetter<T>, device: Handle, link: c_int) -> Result<T, Code> {
        let function = function.ok_or(Code::MISSING)?;
        // SAFETY: as in `get_prepared`.
        filled(self.version.get(), |_| (), |out| unsafe { function(out, device.0, link) })
    }

    fn list<T: Plain>(&self, function: Lister<T>, device: Handle) -> Result<Vec<T>, Code> {
        let function = function.ok_or(Code::MISSING)?;
        // SAFETY: numbers alone (`Plain`), and all zero is a number.
        let mut empty: T = unsafe { std::mem::zeroed() };
        if T::IS_VERSIONED {
            // SAFETY: it begins with its version (`Plain`).
            unsafe { (&raw mut empty).cast::<c_int>().write(self.version.get()) };
        }
        let mut room = ROOM;
        loop {
            // Some more than the library is told of.
            let mut out = vec![empty; room + room / 4];
            let mut count = in_c(room);
            // SAFETY: the library is told how many there is room for.
            let answer = checked(unsafe { function(&raw mut count, out.as_mut_ptr(), device.0) });
            if answer == Err(Code::INSUFFICIENT_SPACE) && room < MAX_ROOM {
                room = (count as usize).max(room * 2).min(MAX_ROOM);
                continue;
            }
            answer?;
            out.truncate((count as usize).min(room));
            return Ok(out);
        }
    }

    /// How many cards there are; finds out which version of the interface the library understands.
    pub(crate) fn count(&self) -> Result<u32, Code> {
        let function = self.calls.count.ok_or(Code::MISSING)?;
        let mut refused = Code::VERSION_REFUSED;
        for version in Self::VERSIONS {
            // SAFETY: as in `get_prepared`.
            match filled(version, |_: &mut CardInfo| (), |out| unsafe { function(out) }) {
                Ok(info) => {
                    self.version.set(version);
                    return Ok(info.number);
                }
                Err(Code::VERSION_REFUSED) => (),
                Err(code) => {
                    refused = code;
                    break;
                }
            }
        }
        Err(refused)
    }

    /// Whether the library is of the older interface, in which some structures are shorter.
    pub(crate) fn is_old(&self) -> bool {
        self.version.get() < Self::VERSIONS[0]
    }

    pub(crate) fn handle(&self, index: u32) -> Result<Handle, Code> {
        let index = c_int::try_from(index).map_err(|_| Code::INVALID_DEVICE)?;
        let Some(function) = self.calls.handle else {
            // Older libraries take the index itself.
            return Ok(Handle(index));
        };
        let mut out = 0;
        // SAFETY: it fills one number.
        checked(unsafe { function(index, &raw mut out) })?;
        Ok(Handle(out))
    }

    /// Without the `MLU-` that the vendor's tools put before it.
    pub(crate) fn uuid(&self, device: Handle) -> Result<String, Code> {
        text(&self.get(self.calls.uuid, device)?.uuid).ok_or(Code::NOT_FOUND)
    }

    pub(crate) fn serial(&self, device: Handle) -> Result<u64, Code> {
        Ok(self.get(self.calls.serial, device)?.card)
    }

    pub(crate) fn pci(&self, device: Handle) -> Result<PciAddress, Code> {
        if self.calls.pci_v2.is_some() {
            let PciInfoV2 { domain, bus, device, function, .. } = self.get(self.calls.pci_v2, device)?;
            return Ok(PciAddress { domain, bus, device, function });
        }
        let PciInfoV1 { domain, bus, device, function, .. } = self.get(self.calls.pci_v1, device)?;
        Ok(PciAddress { domain, bus, device, function })
    }

    pub(crate) fn minor(&self, device: Handle) -> Result<u32, Code> {
        let function = self.calls.minor.ok_or(Code::MISSING)?;
        let mut out = 0;
        // SAFETY: it fills one number.
        checked(unsafe { function(&raw mut out, device.0) })?;
        Ok(out)
    }

    pub(crate) fn name(&self, device: Handle) -> Option<String> {
        // SAFETY: it takes a number, and gives a text of its own.
        let name = self.calls.name_of_device.and_then(|function| own_text(unsafe { function(device.0) }));
        name.or_else(|| {
            let number = self.get(self.calls.name_number, device).ok()?.mode;
            // SAFETY: as above.
            self.calls.name_of_number.and_then(|function| own_text(unsafe { function(number) }))
        })
    }

    pub(crate) fn versions(&self, device: Handle) -> Result<VersionInfo, Code> {
        self.get(self.calls.versions, device)
    }

    pub(crate) fn cores(&self, device: Handle) -> Result<u32, Code> {
        Ok(self.get(self.calls.cores, device)?.count)
    }

    /// Mean load of the cores, in per cent.
    pub(crate) fn utilization(&self, device: Handle) -> Result<i32, Code> {
        Ok(self.get(self.calls.utilization, device)?.average)
    }

    pub(crate) fn memory(&self, device: Handle) -> Result<Memory, Code> {
        match self.get(self.calls.memory_v2, device) {
            Ok(memory) => Ok(Memory { total: memory.total, used: memory.used, reserved: Some(memory.kept) }),
            Err(code) if code.is_absence() => {
                let memory = self.get(self.calls.memory_v1, device)?;
                Ok(Memory { total: memory.total, used: memory.used, reserved: None })
            }
            Err(code) => Err(code),
        }
    }

    pub(crate) fn power(&self, device: Handle) -> Result<Power, Code> {
        match self.get(self.calls.power_v2, device) {
            Ok(power) => Ok(Power { usage: power.usage, cap: power.cap }),
            Err(code) if code.is_absence() => {
                let power = self.get(self.calls.power_v1, device)?;
                Ok(Power { usage: power.usage, cap: power.cap })
            }
            Err(code) => Err(code),
        }
    }

    pub(crate) fn temperature(&self, device: Handle) -> Result<Temperature, Code> {
        self.get(self.calls.temperature, device)
    }

    pub(crate) fn frequency(&self, device: Handle) -> Result<Frequency, Code> {
        self.get(self.calls.frequency, device)
    }

    /// In per cent of the fastest. From interface 6 on the library keeps the place free, so it is an error there.
    pub(crate) fn fan(&self, device: Handle) -> Result<i32, Code> {
        if !self.is_old() {
            return Err(Code::NOT_SUPPORTED);
        }
        Ok(self.get(self.calls.fan, device)?.percent)
    }

    pub(crate) fn voltage(&self, device: Handle) -> Result<Voltage, Code> {
        self.get(self.calls.voltage, device)
    }

    pub(crate) fn video_codecs(&self, device: Handle) -> Result<VideoCodecs, Code> {
        self.get(self.calls.video_codecs, device)
    }

    pub(crate) fn image_codecs(&self, device: Handle) -> Result<ImageCodecs, Code> {
        self.get(self.calls.image_codecs, device)
    }

    pub(crate) fn throttle_reasons(&self, device: Handle) -> Result<ThrottleReasons, Code> {
        self.get(self.calls.throttle_reasons, device)
    }

    pub(crate) fn compute_mode(&self, device: Handle) -> Result<i32, Code> {
        Ok(self.get(self.calls.compute_mode, device)?.mode)
    }

    pub(crate) fn health(&self, device: Handle) -> Result<Health, Code> {
        match self.get(self.calls.health_v2, device) {
            Ok(health) => Ok(Health {
                verdict: Verdict::of(health.overall),
                incidents: health.incidents.iter().take(health.count as usize).map(RawIncident::told).collect(),
            }),
            Err(code) if code.is_absence() => {
                let verdict = match self.get(self.calls.health_v1, device)?.health {
                    0 => Some(Verdict::Fail),
                    1 => Some(Verdict::Pass),
                    _ => None,
                };
                Ok(Health { verdict, incidents: Vec::new() })
            }
            Err(code) => Err(code),
        }
    }

    pub(crate) fn memory_ecc(&self, device: Handle) -> Result<MemoryEcc, Code> {
        self.get(self.calls.memory_ecc, device)
    }

    pub(crate) fn ecc(&self, device: Handle) -> Result<EccTotals, Code> {
        self.get(self.calls.ecc, device)
    }

    /// Pages retired for several single-bit errors, or for a double-bit error.
    pub(crate) fn retired_pages(&self, device: Handle, double: bool) -> Result<u32, Code> {
        Ok(self.get_prepared(self.calls.retired, device, |out| out.cause = double.into())?.count)
    }

    pub(crate) fn is_retirement_pending(&self, device: Handle) -> Result<bool, Code> {
        match self.get(self.calls.retired_status, device) {
            Ok(status) => Ok(status.is_pending != 0),
            Err(_) => Ok(self.get(self.calls.repair, device)?.is_retirement_pending != 0),
        }
    }

    pub(crate) fn remapped_rows(&self, device: Handle) -> RemappedRows {
        if let Ok(rows) = self.get(self.calls.remapped_v2, device) {
            let repair = self.get(self.calls.repair, device).ok();
            return RemappedRows {
                corrected: Some(rows.corrected),
                uncorrected: Some(rows.uncorrected),
                is_pending: repair.map(|repair| repair.is_pending != 0),
                is_failed: repair.map(|repair| repair.is_failed != 0),
            };
        }
        let rows = self.get(self.calls.remapped_v1, device).ok();
        RemappedRows {
            corrected: rows.map(|rows| rows.corrected),
            uncorrected: rows.map(|rows| rows.uncorrected),
            is_pending: rows.map(|rows| rows.pending != 0),
            is_failed: rows.map(|rows| rows.failed != 0),
        }
    }

    pub(crate) fn pcie(&self, device: Handle) -> Result<PcieLink, Code> {
        self.get(self.calls.pcie_current, device)
    }

    pub(crate) fn pcie_max(&self, device: Handle) -> Result<PcieLink, Code> {
        self.get(self.calls.pcie_max, device)
    }

    pub(crate) fn pcie_replays(&self, device: Handle) -> Result<u32, Code> {
        Ok(self.get(self.calls.pcie_replays, device)?.count)
    }

    /// May take 20 ms, over which it measures.
    pub(crate) fn pcie_throughput(&self, device: Handle) -> Result<PcieThroughput, Code> {
        self.get(self.calls.pcie_throughput, device)
    }

    /// How many links (ports) the card has.
    pub(crate) fn links(&self, device: Handle) -> Result<i32, Code> {
        let function = self.calls.links.ok_or(Code::MISSING)?;
        // SAFETY: it takes a number and gives one.
        let links = unsafe { function(device.0) };
        if (0..=MAX_LINKS).contains(&links) { Ok(links) } else { Err(Code::NOT_SUPPORTED) }
    }

    pub(crate) fn link_is_up(&self, device: Handle, link: i32) -> Result<bool, Code> {
        match self.of_link(self.calls.link_status_v2, device, link) {
            // Beyond up: neighbours heard of, address given.
            Ok(status) => Ok(status.mac >= 1),
            Err(code) if code.is_absence() => Ok(self.of_link(self.calls.link_status_v1, device, link)?.is_active == 1),
            Err(code) => Err(code),
        }
    }

    /// Bytes that a link has received and transmitted. The older function calls it read and written.
    pub(crate) fn link_bytes(&self, device: Handle, link: i32) -> Result<(u64, u64), Code> {
        match self.of_link(self.calls.link_bytes, device, link) {
            Ok(bytes) => Ok((bytes.received_bytes, bytes.transmitted_bytes)),
            Err(code) if code.is_absence() => {
                let counter = self.of_link(self.calls.link_counter, device, link)?;
                Ok((counter.read_bytes, counter.write_bytes))
            }
            Err(code) => Err(code),
        }
    }

    /// Packets with a wrong checksum that a link has received, and transfers that were repeated.
    pub(crate) fn link_errors(&self, device: Handle, link: i32) -> Result<(u64, u64), Code> {
        let errors = self.of_link(self.calls.link_errors, device, link);
        let events = self.of_link(self.calls.link_events, device, link);
        if let (Ok(errors), Ok(events)) = (errors, events) {
            return Ok((errors.received_bad_fcs, events.replays));
        }
        let counter = self.of_link(self.calls.link_counter, device, link)?;
        Ok((counter.crc24.saturating_add(counter.crc32), counter.replays))
    }

    pub(crate) fn processes(&self, device: Handle) -> Result<Vec<Process>, Code> {
        self.list(self.calls.processes, device)
    }

    /// How much of the card its processes have: the mean since the last call, or, of older libraries, the last.
    pub(crate) fn process_loads(&self, device: Handle) -> Result<Vec<ProcessLoad>, Code> {
        match self.list(self.calls.process_load_v2, device) {
            Ok(processes) => Ok(processes.iter().map(|process| process.load).collect()),
            Err(code) if code.is_absence() => {
                let processes = self.list(self.calls.process_load_v1, device)?;
                Ok(processes.iter().map(|process| process.load).collect())
            }
            Err(code) => Err(code),
        }
    }

    /// Answers the questions.
    pub(crate) fn fields(&self, device: Handle, values: &mut [FieldValue]) -> Result<(), Code> {
        let function = self.calls.fields.ok_or(Code::MISSING)?;
        let count = c_int::try_from(values.len()).map_err(|_| Code::INVALID_ARGUMENT)?;
        // SAFETY: the library is told how many there are. The structure has no version and none was ever longer.
        checked(unsafe { function(device.0, count, values.as_mut_ptr()) })
    }

    /// Whether the card is cut into instances with hardware of their own, or ready to be.
    pub(crate) fn is_mim(&self, device: Handle) -> Result<bool, Code> {
        Ok(self.get(self.calls.mim_mode, device)?.mode == 1)
    }

    pub(crate) fn mim_instances(&self, device: Handle) -> Result<Vec<Instance>, Code> {
        let instances = self.list(self.calls.mim_instances, device)?;
        Ok(instances
            .iter()
            .map(|instance| Instance {
                id: instance.id,
                uuid: text(&instance.uuid),
                profile: text(&instance.profile),
                device_node: text(&instance.device_node),
                cores: Some(instance.cores),
                share: None,
            })
            .collect())
    }

    /// The number by which an instance with hardware of its own is asked like a card.
    pub(crate) fn mim_handle(&self, device: Handle, id: i32) -> Result<Handle, Code> {
        let function = self.calls.mim_handle.ok_or(Code::MISSING)?;
        let mut out = 0;
        // SAFETY: it fills one number.
        checked(unsafe { function(&raw mut out, id, device.0) })?;
        Ok(Handle(out))
    }

    /// Whether the card is shared by instances that take turns, or ready to be.
    pub(crate) fn is_smlu(&self, device: Handle) -> Result<bool, Code> {
        Ok(self.get(self.calls.smlu_mode, device)?.mode == 1)
    }

    pub(crate) fn smlu_instances(&self, device: Handle) -> Result<Vec<Instance>, Code> {
        let instances = self.list(self.calls.smlu_instances, device)?;
        Ok(instances
            .iter()
            .map(|instance| Instance {
                id: instance.id,
                uuid: text(&instance.uuid),
                profile: text(&instance.profile),
                device_node: text(&instance.device_node),
                cores: None,
                share: Some(Share {
                    load: instance.quota[1],
                    memory_bytes: instance.memory[0],
                    memory_used_bytes: instance.memory[1],
                }),
            })
            .collect())
    }

    /// Something to hear events of these devices by. Given up before the library is shut down.
    pub(crate) fn listen(&self, devices: impl Iterator<Item = Handle>) -> Result<Listening, Code> {
        let create = self.calls.event_create.ok_or(Code::MISSING)?;
        let register = self.calls.event_register.ok_or(Code::MISSING)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: it fills one pointer.
        checked(unsafe { create(&raw mut handle) })?;
        for device in devices {
            // SAFETY: the handle was made above. A card that refuses is one we hear nothing of.
            let _ = unsafe { register(handle, ALL_EVENTS, device.0) };
        }
        Ok(Listening(handle))
    }

    /// The next event there is.
    pub(crate) fn next_event(&self, listening: &Listening) -> Option<DriverEvent> {
        let wait = self.calls.event_wait?;
        // SAFETY: as in `get_prepared`; the handle is one of `listen`.
        let fill = |out| unsafe { wait(listening.0, out, EVENT_WAIT_MS) };
        let event: RawEvent = filled(self.version.get(), |_| (), fill).ok()?;
        Some(DriverEvent { device: Handle(event.device), event: event.event, data: event.data, at: event.timestamp })
    }

    /// Gives up what [`Cndev::listen`] made.
    pub(crate) fn stop_listening(&self, Listening(handle): Listening) {
        if let Some(destroy) = self.calls.event_destroy {
            // SAFETY: the handle is one of `listen`, and gone after this.
            let _ = unsafe { destroy(handle) };
        }
    }

    /// Room for two snapshots of a card's counters; an error where the card has none.
    pub(crate) fn mpm(&self, card: Handle) -> Result<Mpm, Code> {
        let support = self.calls.mpm_support.ok_or(Code::MISSING)?;
        let alloc = self.calls.mpm_alloc.ok_or(Code::MISSING)?;
        let mut is_supported = 0;
        // SAFETY: it fills one byte.
        checked(unsafe { support(card.0, &raw mut is_supported) })?;
        if is_supported == 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        let empty = MpmMetric { metric: 0, ret: Code::NOT_SUPPORTED.0, value: 0.0, names: [std::ptr::null_mut(); 3] };
        let (before, after) = (std::ptr::null_mut(), std::ptr::null_mut());
        let get = Box::new(MpmMetricsGet { version: 1, count: 0, before, after, metrics: [empty; MPM_ROOM] });
        let mut mpm = Mpm { snapshots: [std::ptr::null_mut(); 2], free: self.calls.mpm_free, taken: 0, get };
        for snapshot in &mut mpm.snapshots {
            // SAFETY: it fills one pointer.
            checked(unsafe { alloc(snapshot) })?;
        }
        Ok(mpm)
    }

    /// Takes a snapshot, and says what has been between it and the one before: one number for each of `metrics`, in
    /// their order.
    pub(crate) fn mpm_metrics(
        &self,
        card: Handle,
        mpm: &mut Mpm,
        metrics: &[i32],
        out: &mut Vec<Option<f64>>,
    ) -> Result<(), Code> {
        out.clear();
        let take = self.calls.mpm_sample.ok_or(Code::MISSING)?;
        let function = self.calls.mpm_metrics.ok_or(Code::MISSING)?;
        let snapshot = mpm.snapshots[mpm.taken % 2];
        // SAFETY: the library made the snapshot.
        if let Err(code) = checked(unsafe { take(snapshot, card.0) }) {
            mpm.taken = 0;
            return Err(code);
        }
        mpm.taken += 1;
        if mpm.taken < 2 {
            return Err(Code::NOT_FOUND);
        }
        let get = &mut *mpm.get;
        get.before = mpm.snapshots[mpm.taken % 2];
        get.after = snapshot;
        for (place, metric) in get.metrics.iter_mut().zip(metrics) {
            (place.metric, place.ret) = (*metric, Code::NOT_SUPPORTED.0);
        }
        get.count = in_c(metrics.len().min(MPM_ROOM));
        // SAFETY: the structure is the library's, with more room than any version of it.
        checked(unsafe { function(&raw mut *get) })?;
        // Snapshots less than 100 ms apart give no numbers.
        let values = get.metrics.iter().take(metrics.len());
        out.extend(values.map(|metric| (metric.ret == 0 && metric.value.is_finite()).then_some(metric.value)));
        Ok(())
    }
}

impl RawIncident {
    fn told(&self) -> Incident {
        Incident { system: self.system, error: self.error, message: text(&self.message) }
    }
}

/// What events come by.
#[derive(Debug)]
pub(crate) struct Listening(*mut c_void);

/// A text of the library's own, with its end, that is never freed.
fn own_text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the callers got it from a function that gives such a text.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn in_c(number: usize) -> c_uint {
    c_uint::try_from(number).unwrap_or(c_uint::MAX)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn structures_are_laid_out_as_the_library_has_them() {
        assert_eq!(size_of::<CardInfo>(), 8);
        assert_eq!((size_of::<Uuid>(), offset_of!(Uuid, uuid), offset_of!(Uuid, ncs_uuid)), (56, 4, 48));
        assert_eq!((size_of::<MemoryV1>(), offset_of!(MemoryV1, total)), (208, 8));
        assert_eq!((size_of::<MemoryV2>(), offset_of!(MemoryV2, global)), (176, 40));
        assert_eq!((size_of::<VersionInfo>(), offset_of!(VersionInfo, driver)), (28, 16));
        assert_eq!((size_of::<EccTotals>(), offset_of!(EccTotals, corrected)), (72, 40));
        assert_eq!((size_of::<PowerV1>(), offset_of!(PowerV1, design)), (32, 24));
        assert_eq!(size_of::<PowerV2>(), 84);
        assert_eq!((size_of::<Temperature>(), offset_of!(Temperature, chip)), (148, 120));
        assert_eq!(offset_of!(Temperature, memory), 132);
        assert_eq!((size_of::<Utilization>(), offset_of!(Utilization, average)), (328, 4));
        assert_eq!((size_of::<Frequency>(), offset_of!(Frequency, cluster)), (68, 16));
        assert_eq!((offset_of!(Frequency, core_default), offset_of!(Frequency, core_max)), (56, 64));
        assert_eq!((size_of::<Process>(), offset_of!(Process, memory)), (24, 8));
        assert_eq!((size_of::<Count>(), size_of::<Mode>()), (8, 8));
        assert_eq!((size_of::<SerialNumber>(), offset_of!(SerialNumber, card)), (24, 8));
        assert_eq!((size_of::<PciInfoV1>(), offset_of!(PciInfoV1, domain)), (48, 16));
        assert_eq!((size_of::<PciInfoV2>(), offset_of!(PciInfoV2, domain)), (64, 12));
        assert_eq!(size_of::<PcieLink>(), 12);
        assert_eq!((size_of::<PcieThroughput>(), offset_of!(PcieThroughput, timestamp)), (104, 32));
        assert_eq!(size_of::<HealthV1>(), 16);
        assert_eq!((size_of::<RawIncident>(), offset_of!(RawIncident, error)), (540, 528));
        assert_eq!((size_of::<HealthV2>(), offset_of!(HealthV2, incidents)), (34_612, 20));
        assert_eq!((size_of::<VideoCodecs>(), offset_of!(VideoCodecs, decoders)), (256, 172));
        assert_eq!(size_of::<ImageCodecs>(), 88);
        assert_eq!(size_of::<Voltage>(), 40);
        assert_eq!((size_of::<LinkStatusV1>(), size_of::<LinkStatusV2>()), (16, 44));
        assert_eq!((size_of::<LinkCounterV1>(), offset_of!(LinkCounterV1, crc24)), (152, 64));
        assert_eq!((size_of::<LinkBytes>(), size_of::<LinkErrors>(), size_of::<LinkEvents>()), (256, 128, 128));
        assert_eq!((size_of::<RetiredPages>(), offset_of!(RetiredPages, addresses)), (4112, 16));
        assert_eq!(size_of::<RetiredPagesStatus>(), 12);
        assert_eq!((size_of::<RemappedRowsV1>(), size_of::<RemappedRowsV2>()), (20, 24));
        assert_eq!((size_of::<RepairStatus>(), offset_of!(RepairStatus, is_failed)), (8, 6));
        assert_eq!(size_of::<ThrottleReasons>(), 28);
        assert_eq!(size_of::<FanSpeed>(), 124);
        assert_eq!((size_of::<MimInstance>(), offset_of!(MimInstance, uuid)), (1016, 16));
        assert_eq!((offset_of!(MimInstance, pci), offset_of!(MimInstance, profile)), (56, 104));
        assert_eq!((size_of::<SmluInstance>(), offset_of!(SmluInstance, pci)), (904, 52));
        assert_eq!((offset_of!(SmluInstance, quota), offset_of!(SmluInstance, memory)), (368, 376));
        assert_eq!((size_of::<MemoryEcc>(), offset_of!(MemoryEcc, life)), (160, 24));
        assert_eq!((size_of::<RawEvent>(), offset_of!(RawEvent, timestamp)), (104, 24));
        assert_eq!((size_of::<ProcessUtilizationV1>(), size_of::<ProcessUtilizationV2>()), (28, 32));
        assert_eq!((size_of::<FieldValue>(), offset_of!(FieldValue, value)), (48, 8));
        assert_eq!((offset_of!(FieldValue, value_type), offset_of!(FieldValue, scope)), (16, 40));
        assert_eq!((size_of::<MpmMetric>(), offset_of!(MpmMetric, value)), (40, 8));
        assert_eq!((offset_of!(MpmMetricsGet, before), offset_of!(MpmMetricsGet, metrics)), (8, 24));
    }

    #[test]
    fn versioned_structures_get_their_version_and_nothing_else() {
        let filled_with = |version| {
            filled(
                version,
                |_: &mut Count| (),
                |out| {
                    // SAFETY: what it points to is lent to this function.
                    unsafe { (*out).count = 7 };
                    0
                },
            )
        };
        let count = filled_with(6).unwrap();
        assert_eq!((count.version, count.count), (6, 7));
        let power = filled(6, |_: &mut PowerV2| (), |_| 0).unwrap();
        assert_eq!(power.usage, 0, "no version is written into a structure without one");
        assert_eq!(filled(6, |_: &mut Count| (), |_| 10).unwrap_err(), Code::NOT_SUPPORTED);
    }

    #[test]
    fn what_stands_for_not_known_is_none() {
        let known = |value: u64, value_type| FieldValue { value, value_type, ..FieldValue::default() }.known();
        assert_eq!(known(7, 1), Some(7));
        assert_eq!(known(u64::from(u32::MAX), 1), None);
        assert_eq!(known(u64::from(u32::MAX), 4), None, "-1");
        assert_eq!(known(u64::MAX, 3), None);
        assert_eq!(known(u64::MAX, 6), None, "-1");
        assert_eq!(known(2.0f64.to_bits(), 0), Some(2));
        assert_eq!(known(f64::NAN.to_bits(), 0), None);
        assert_eq!(known(7, 99), None);
        assert_eq!(FieldValue::ask(71).known(), None, "unanswered");
    }

    #[test]
    fn units_are_as_many_as_are_told() {
        let units = |count| Units { count, load: [5; 20] };
        assert_eq!((units(3).loads().len(), units(-1).loads().len(), units(99).loads().len()), (3, 0, 20));
    }

    proptest! {
        #[test]
        fn no_number_brings_it_down(value in any::<u64>(), value_type in -2i32..9, count in any::<i32>()) {
            FieldValue { value, value_type, ..FieldValue::default() }.known();
            let units = Units { count, load: [0; 20] };
            prop_assert!(units.loads().len() <= 20);
            prop_assert!(Verdict::of(count).is_none() || [0, 10, 20].contains(&count));
        }
    }
}
