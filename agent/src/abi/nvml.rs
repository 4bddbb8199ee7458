//! NVML, NVIDIA's management library, and what other vendors have built after its pattern (Iluvatar's IXML).
//!
//! Three things to know about its C interface:
//!
//! - A function that changed got a new name, `…_v2`, and the old one stays. So each is asked for under its newest name
//!   and then under its older ones: an old driver, or a library that imitates one, has only those.
//! - Newer structures begin with a version, which is the structure's size and the number of its form in the highest
//!   byte ([`version`]). A library that does not know the form refuses, and writes nothing.
//! - A list is asked for with the room there is; the library says how many there are, and refuses if they are more.
//!
//! One trap: drivers 535.43 to 535.98 write a longer structure for processes than all others under the same name
//! (see [`parse_processes`]). Room is given for the longest, so nothing is overwritten.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::path::Path;

use super::{Library, OpenError, functions, text};

/// A card or a partition of one. Valid for as long as the library is initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle(Raw);

type Raw = *mut c_void;
type Ret = c_uint;

/// What a function answered instead of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) c_uint);

impl Code {
    pub(crate) const NOT_SUPPORTED: Self = Self(3);
    pub(crate) const NO_PERMISSION: Self = Self(4);
    pub(crate) const NOT_FOUND: Self = Self(6);
    pub(crate) const INSUFFICIENT_SIZE: Self = Self(7);
    pub(crate) const DRIVER_NOT_LOADED: Self = Self(9);
    pub(crate) const MISSING: Self = Self(13);
    pub(crate) const GPU_IS_LOST: Self = Self(15);
    /// The library is of another version than the driver in the kernel: one of the two was replaced.
    pub(crate) const VERSION_MISMATCH: Self = Self(18);
    pub(crate) const NO_DATA: Self = Self(21);
    pub(crate) const VERSION_REFUSED: Self = Self(25);
    pub(crate) const DEPRECATED: Self = Self(26);
    pub(crate) const GPU_NOT_FOUND: Self = Self(28);

    /// Whether it says that there is no such value here, which is no trouble.
    pub(crate) fn is_absence(self) -> bool {
        [
            Self(2), // an argument this library does not know, as of a newer form
            Self::NOT_SUPPORTED,
            Self::NO_PERMISSION,
            Self::NOT_FOUND,
            Self::MISSING,
            Self::NO_DATA,
            Self::VERSION_REFUSED,
            Self::DEPRECATED,
        ]
        .contains(&self)
    }

    /// Whether the card has gone.
    pub(crate) fn is_loss(self) -> bool {
        [Self::GPU_IS_LOST, Self::GPU_NOT_FOUND].contains(&self)
    }
}

fn checked(ret: Ret) -> Result<(), Code> {
    if ret == 0 { Ok(()) } else { Err(Code(ret)) }
}

/// The version a structure begins with.
const fn version<T>(form: u32) -> c_uint {
    #[allow(clippy::cast_possible_truncation)] // Structures are some hundred bytes.
    let size = size_of::<T>() as u32;
    size | (form << 24)
}

/// `nvmlPciInfo_t`. Its oldest form ends before `bus_id`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct PciInfo {
    bus_id_legacy: [c_char; 16],
    pub(crate) domain: c_uint,
    pub(crate) bus: c_uint,
    pub(crate) device: c_uint,
    pci_device_id: c_uint,
    pci_subsystem_id: c_uint,
    bus_id: [c_char; 32],
}

/// `nvmlUtilization_t`, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Utilization {
    pub(crate) gpu: c_uint,
    pub(crate) memory: c_uint,
}

/// `nvmlMemory_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct MemoryV1 {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct MemoryV2 {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// Memory of a card or partition, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) free: u64,
    pub(crate) used: u64,
    /// What the driver keeps; older libraries count it as used.
    pub(crate) reserved: Option<u64>,
}

/// Eight bytes that hold a number of one of several types (`nvmlValue_t`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Value(u64);

/// A number as the library typed it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Unsigned32(u32),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

impl Value {
    fn number(self, value_type: c_uint) -> Option<Number> {
        let bytes = self.0.to_ne_bytes();
        let [a, b, c, d, ..] = bytes;
        Some(match value_type {
            0 => Number::Float(f64::from_bits(self.0)),
            1 => Number::Unsigned32(u32::from_ne_bytes([a, b, c, d])),
            2 | 3 => Number::Unsigned(self.0),
            4 => Number::Signed(i64::from_ne_bytes(bytes)),
            5 => Number::Signed(i64::from(i32::from_ne_bytes([a, b, c, d]))),
            6 => Number::Unsigned32(u32::from(u16::from_ne_bytes([a, b]))),
            _ => return None,
        })
    }
}

impl Number {
    /// The number, unless it is one that stands for "not known" (all bits set) or below zero.
    pub(crate) fn known(self) -> Option<u64> {
        match self {
            Self::Unsigned32(number) => (number != u32::MAX).then_some(u64::from(number)),
            Self::Unsigned(number) => (number != u64::MAX).then_some(number),
            Self::Signed(number) => u64::try_from(number).ok(),
            Self::Float(_) => None,
        }
    }
}

/// `nvmlFieldValue_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FieldValue {
    field: c_uint,
    scope: c_uint,
    timestamp: i64,
    latency: i64,
    value_type: c_uint,
    ret: Ret,
    value: Value,
}

impl FieldValue {
    /// A question for a field; `scope` is a link's number, or 0.
    pub(crate) fn ask(field: u32, scope: u32) -> Self {
        // What a library leaves alone is not an answer.
        Self { field, scope, ret: Code::NOT_SUPPORTED.0, ..Self::default() }
    }

    /// The answer.
    pub(crate) fn known(&self) -> Option<u64> {
        checked(self.ret).ok()?;
        self.value.number(self.value_type)?.known()
    }
}

/// `nvmlSample_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RawSample {
    at: c_ulonglong,
    value: Value,
}

/// One of the samples that the driver keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Microseconds since 1970.
    pub(crate) at: u64,
    pub(crate) value: f64,
}

/// `nvmlProcessUtilizationSample_t`, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProcessSample {
    pub(crate) pid: c_uint,
    pub(crate) at: c_ulonglong,
    pub(crate) gpu: c_uint,
    pub(crate) memory: c_uint,
    pub(crate) encoder: c_uint,
    pub(crate) decoder: c_uint,
}

/// `nvmlEventData_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawEvent {
    device: Raw,
    event: c_ulonglong,
    data: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// Something the driver reported.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DriverEvent {
    pub(crate) device: Handle,
    /// One bit of [`events`].
    pub(crate) event: u64,
    /// For an XID, its number.
    pub(crate) data: u64,
}

/// Kinds of events.
pub(crate) mod events {
    pub(crate) const DOUBLE_BIT_ECC: u64 = 0x2;
    pub(crate) const XID: u64 = 0x8;
    pub(crate) const SINGLE_BIT_ECC_STORM: u64 = 0x200;
    pub(crate) const DRAM_RETIREMENT: u64 = 0x400;
    pub(crate) const DRAM_RETIREMENT_FAILURE: u64 = 0x800;
    pub(crate) const POISON: u64 = 0x1000;
    pub(crate) const FATAL_POISON: u64 = 0x2000;
    pub(crate) const UNAVAILABLE: u64 = 0x4000;
    pub(crate) const RECOVERY_ACTION: u64 = 0x8000;
    /// All that we want to hear of.
    pub(crate) const ALL: u64 = DOUBLE_BIT_ECC
        | XID
        | SINGLE_BIT_ECC_STORM
        | DRAM_RETIREMENT
        | DRAM_RETIREMENT_FAILURE
        | POISON
        | FATAL_POISON
        | UNAVAILABLE
        | RECOVERY_ACTION;
}

/// `nvmlEccSramErrorStatus_v1_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SramErrors {
    version: c_uint,
    pub(crate) aggregate_uncorrected_parity: c_ulonglong,
    pub(crate) aggregate_uncorrected_secded: c_ulonglong,
    pub(crate) aggregate_corrected: c_ulonglong,
    volatile_uncorrected_parity: c_ulonglong,
    volatile_uncorrected_secded: c_ulonglong,
    volatile_corrected: c_ulonglong,
    buckets: [c_ulonglong; 5],
    threshold_exceeded: c_uint,
}

/// `nvmlGpuFabricInfo_v2_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FabricInfo {
    version: c_uint,
    cluster: [u8; 16],
    pub(crate) status: Ret,
    clique: c_uint,
    pub(crate) state: u8,
    health: c_uint,
}

/// `nvmlGpmSupport_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct GpmSupport {
    version: c_uint,
    is_supported: c_uint,
}

/// `nvmlGpmMetric_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct GpmMetric {
    metric: c_uint,
    ret: Ret,
    value: f64,
    names: [*mut c_char; 3],
}

/// Metrics there is room for: the library's own structure had room for 98, then 210, then 333, and it may touch all.
const GPM_ROOM: usize = 512;

/// `nvmlGpmMetricsGet_t`.
#[repr(C)]
struct GpmMetricsGet {
    version: c_uint,
    count: c_uint,
    before: Raw,
    after: Raw,
    metrics: [GpmMetric; GPM_ROOM],
}

/// Two of the library's snapshots of a card's counters, the newer and the older in turn, and room for what it makes
/// of them. To be dropped before the library is shut down.
pub(crate) struct Gpm {
    snapshots: [Raw; 2],
    free: Option<unsafe extern "C" fn(Raw) -> Ret>,
    /// How many snapshots have been taken; the newest is in `(taken - 1) % 2`.
    taken: usize,
    get: Box<GpmMetricsGet>,
}

impl Drop for Gpm {
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
    /// What we call of NVML.
    pub(crate) struct Nvml {
        init_v2 = "nvmlInit_v2": fn() -> Ret;
        init_v1 = "nvmlInit": fn() -> Ret;
        shutdown = "nvmlShutdown": fn() -> Ret;
        error_string = "nvmlErrorString": fn(code: Ret) -> *const c_char;
        driver_version = "nvmlSystemGetDriverVersion": fn(out: *mut c_char, length: c_uint) -> Ret;
        count_v2 = "nvmlDeviceGetCount_v2": fn(out: *mut c_uint) -> Ret;
        count_v1 = "nvmlDeviceGetCount": fn(out: *mut c_uint) -> Ret;
        handle_v2 = "nvmlDeviceGetHandleByIndex_v2": fn(index: c_uint, out: *mut Raw) -> Ret;
        handle_v1 = "nvmlDeviceGetHandleByIndex": fn(index: c_uint, out: *mut Raw) -> Ret;
        uuid = "nvmlDeviceGetUUID": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        name = "nvmlDeviceGetName": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        serial = "nvmlDeviceGetSerial": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        vbios = "nvmlDeviceGetVbiosVersion": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        pci_v3 = "nvmlDeviceGetPciInfo_v3": fn(device: Raw, out: *mut PciInfo) -> Ret;
        pci_v2 = "nvmlDeviceGetPciInfo_v2": fn(device: Raw, out: *mut PciInfo) -> Ret;
        pci_v1 = "nvmlDeviceGetPciInfo": fn(device: Raw, out: *mut PciInfo) -> Ret;
        minor = "nvmlDeviceGetMinorNumber": fn(device: Raw, out: *mut c_uint) -> Ret;
        cores = "nvmlDeviceGetNumGpuCores": fn(device: Raw, out: *mut c_uint) -> Ret;
        utilization = "nvmlDeviceGetUtilizationRates": fn(device: Raw, out: *mut Utilization) -> Ret;
        encoder = "nvmlDeviceGetEncoderUtilization": fn(device: Raw, out: *mut c_uint, period: *mut c_uint) -> Ret;
        decoder = "nvmlDeviceGetDecoderUtilization": fn(device: Raw, out: *mut c_uint, period: *mut c_uint) -> Ret;
        jpeg = "nvmlDeviceGetJpgUtilization": fn(device: Raw, out: *mut c_uint, period: *mut c_uint) -> Ret;
        optical_flow = "nvmlDeviceGetOfaUtilization": fn(device: Raw, out: *mut c_uint, period: *mut c_uint) -> Ret;
        samples = "nvmlDeviceGetSamples": fn(
            device: Raw, kind: c_uint, last: c_ulonglong, value_type: *mut c_uint, count: *mut c_uint,
            out: *mut RawSample,
        ) -> Ret;
        memory_v2 = "nvmlDeviceGetMemoryInfo_v2": fn(device: Raw, out: *mut MemoryV2) -> Ret;
        memory_v1 = "nvmlDeviceGetMemoryInfo": fn(device: Raw, out: *mut MemoryV1) -> Ret;
        power = "nvmlDeviceGetPowerUsage": fn(device: Raw, out: *mut c_uint) -> Ret;
        power_limit = "nvmlDeviceGetEnforcedPowerLimit": fn(device: Raw, out: *mut c_uint) -> Ret;
        energy = "nvmlDeviceGetTotalEnergyConsumption": fn(device: Raw, out: *mut c_ulonglong) -> Ret;
        temperature = "nvmlDeviceGetTemperature": fn(device: Raw, sensor: c_uint, out: *mut c_uint) -> Ret;
        threshold = "nvmlDeviceGetTemperatureThreshold": fn(device: Raw, which: c_uint, out: *mut c_uint) -> Ret;
        clock = "nvmlDeviceGetClockInfo": fn(device: Raw, which: c_uint, out: *mut c_uint) -> Ret;
        clock_max = "nvmlDeviceGetMaxClockInfo": fn(device: Raw, which: c_uint, out: *mut c_uint) -> Ret;
        performance_state = "nvmlDeviceGetPerformanceState": fn(device: Raw, out: *mut c_uint) -> Ret;
        event_reasons = "nvmlDeviceGetCurrentClocksEventReasons": fn(device: Raw, out: *mut c_ulonglong) -> Ret;
        throttle_reasons = "nvmlDeviceGetCurrentClocksThrottleReasons": fn(device: Raw, out: *mut c_ulonglong) -> Ret;
        fan = "nvmlDeviceGetFanSpeed": fn(device: Raw, out: *mut c_uint) -> Ret;
        compute_mode = "nvmlDeviceGetComputeMode": fn(device: Raw, out: *mut c_uint) -> Ret;
        pcie_generation = "nvmlDeviceGetCurrPcieLinkGeneration": fn(device: Raw, out: *mut c_uint) -> Ret;
        pcie_generation_max = "nvmlDeviceGetMaxPcieLinkGeneration": fn(device: Raw, out: *mut c_uint) -> Ret;
        pcie_width = "nvmlDeviceGetCurrPcieLinkWidth": fn(device: Raw, out: *mut c_uint) -> Ret;
        pcie_width_max = "nvmlDeviceGetMaxPcieLinkWidth": fn(device: Raw, out: *mut c_uint) -> Ret;
        pcie_replays = "nvmlDeviceGetPcieReplayCounter": fn(device: Raw, out: *mut c_uint) -> Ret;
        fields = "nvmlDeviceGetFieldValues": fn(device: Raw, count: c_int, values: *mut FieldValue) -> Ret;
        ecc_total = "nvmlDeviceGetTotalEccErrors": fn(
            device: Raw, error: c_uint, counter: c_uint, out: *mut c_ulonglong,
        ) -> Ret;
        ecc_of_memory = "nvmlDeviceGetMemoryErrorCounter": fn(
            device: Raw, error: c_uint, counter: c_uint, place: c_uint, out: *mut c_ulonglong,
        ) -> Ret;
        ecc_of_sram = "nvmlDeviceGetSramEccErrorStatus": fn(device: Raw, out: *mut SramErrors) -> Ret;
        link_state = "nvmlDeviceGetNvLinkState": fn(device: Raw, link: c_uint, out: *mut c_uint) -> Ret;
        fabric = "nvmlDeviceGetGpuFabricInfoV": fn(device: Raw, out: *mut FabricInfo) -> Ret;
        mig_mode = "nvmlDeviceGetMigMode": fn(device: Raw, current: *mut c_uint, pending: *mut c_uint) -> Ret;
        mig_places = "nvmlDeviceGetMaxMigDeviceCount": fn(device: Raw, out: *mut c_uint) -> Ret;
        mig_handle = "nvmlDeviceGetMigDeviceHandleByIndex": fn(device: Raw, index: c_uint, out: *mut Raw) -> Ret;
        gpu_instance = "nvmlDeviceGetGpuInstanceId": fn(device: Raw, out: *mut c_uint) -> Ret;
        compute_v3 = "nvmlDeviceGetComputeRunningProcesses_v3": fn(
            device: Raw, count: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        compute_v2 = "nvmlDeviceGetComputeRunningProcesses_v2": fn(
            device: Raw, count: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        compute_v1 = "nvmlDeviceGetComputeRunningProcesses": fn(
            device: Raw, count: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        graphics_v3 = "nvmlDeviceGetGraphicsRunningProcesses_v3": fn(
            device: Raw, count: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        graphics_v2 = "nvmlDeviceGetGraphicsRunningProcesses_v2": fn(
            device: Raw, count: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        graphics_v1 = "nvmlDeviceGetGraphicsRunningProcesses": fn(
            device: Raw, count: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        mps_v3 = "nvmlDeviceGetMPSComputeRunningProcesses_v3": fn(
            device: Raw, count: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        mps_v2 = "nvmlDeviceGetMPSComputeRunningProcesses_v2": fn(
            device: Raw, count: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        mps_v1 = "nvmlDeviceGetMPSComputeRunningProcesses": fn(
            device: Raw, count: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        process_utilization = "nvmlDeviceGetProcessUtilization": fn(
            device: Raw, out: *mut ProcessSample, count: *mut c_uint, last: c_ulonglong,
        ) -> Ret;
        event_set_create = "nvmlEventSetCreate": fn(out: *mut Raw) -> Ret;
        event_set_free = "nvmlEventSetFree": fn(set: Raw) -> Ret;
        event_types = "nvmlDeviceGetSupportedEventTypes": fn(device: Raw, out: *mut c_ulonglong) -> Ret;
        event_register = "nvmlDeviceRegisterEvents": fn(device: Raw, types: c_ulonglong, set: Raw) -> Ret;
        event_wait_v2 = "nvmlEventSetWait_v2": fn(set: Raw, out: *mut RawEvent, timeout_ms: c_uint) -> Ret;
        event_wait_v1 = "nvmlEventSetWait": fn(set: Raw, out: *mut RawEvent, timeout_ms: c_uint) -> Ret;
        gpm_support = "nvmlGpmQueryDeviceSupport": fn(device: Raw, out: *mut GpmSupport) -> Ret;
        gpm_alloc = "nvmlGpmSampleAlloc": fn(out: *mut Raw) -> Ret;
        gpm_free = "nvmlGpmSampleFree": fn(snapshot: Raw) -> Ret;
        gpm_sample = "nvmlGpmSampleGet": fn(device: Raw, snapshot: Raw) -> Ret;
        gpm_sample_mig = "nvmlGpmMigSampleGet": fn(device: Raw, gpu_instance: c_uint, snapshot: Raw) -> Ret;
        gpm_metrics = "nvmlGpmMetricsGet": fn(get: *mut GpmMetricsGet) -> Ret;
    }
}

/// A function that fills one value of a device.
type Getter<T> = Option<unsafe extern "C" fn(Raw, *mut T) -> Ret>;

/// A function that fills one value of a device, of several that are told apart by a number.
type Selector = Option<unsafe extern "C" fn(Raw, c_uint, *mut c_uint) -> Ret>;

/// A function that fills a list of processes.
type Lister = Option<unsafe extern "C" fn(Raw, *mut c_uint, *mut c_void) -> Ret>;

fn get<T: Copy>(function: Getter<T>, device: Handle, mut out: T) -> Result<T, Code> {
    let function = function.ok_or(Code::MISSING)?;
    // SAFETY: `out` is what the function fills, and lives until it returns.
    checked(unsafe { function(device.0, &raw mut out) })?;
    Ok(out)
}

fn select(function: Selector, device: Handle, which: c_uint) -> Result<u32, Code> {
    let function = function.ok_or(Code::MISSING)?;
    let mut out = 0;
    // SAFETY: as in `get`.
    checked(unsafe { function(device.0, which, &raw mut out) })?;
    Ok(out)
}

/// Longest text the library gives; its own constants end at 96.
const TEXT: usize = 256;

fn text_of(
    function: Option<unsafe extern "C" fn(Raw, *mut c_char, c_uint) -> Ret>,
    device: Handle,
) -> Result<String, Code> {
    let function = function.ok_or(Code::MISSING)?;
    let mut out: [c_char; TEXT] = [0; TEXT];
    // SAFETY: the function is told how much room there is. One byte less, so that the text ends in any case.
    checked(unsafe { function(device.0, out.as_mut_ptr(), TEXT as c_uint - 1) })?;
    text(&out).ok_or(Code::NO_DATA)
}

/// Which of the rings of samples.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ring {
    /// In milliwatts.
    Power = 0,
    /// In per cent.
    Utilization = 1,
}

/// Which clock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    Core = 1,
    Memory = 2,
    Video = 3,
}

/// Samples, processes or process samples there is room for at first. The library tells when there are more.
const ROOM: usize = 256;

/// And at the most.
const MAX_ROOM: usize = 16_384;

impl Nvml {
    /// Opens the library. Nothing is asked of the driver yet.
    pub(crate) fn open(configured: Option<&Path>, candidates: &[&str]) -> Result<Self, OpenError> {
        Library::open(configured, candidates).map(Self::load)
    }

    /// To be called first, and again after [`Nvml::shut_down`].
    pub(crate) fn initialize(&self) -> Result<(), Code> {
        let init = self.init_v2.or(self.init_v1).ok_or(Code::MISSING)?;
        // SAFETY: it takes nothing and may be called at any time.
        checked(unsafe { init() })
    }

    /// Gives up all handles.
    pub(crate) fn shut_down(&self) {
        if let Some(shutdown) = self.shutdown {
            // SAFETY: it takes nothing; the caller has dropped what it had.
            let _ = unsafe { shutdown() };
        }
    }

    /// A code in the library's words.
    pub(crate) fn describe(&self, code: Code) -> String {
        let number = code.0;
        let Some(error_string) = self.error_string else { return format!("error {number}") };
        // SAFETY: it takes a number.
        let text = unsafe { error_string(number) };
        if text.is_null() {
            return format!("error {number}");
        }
        // SAFETY: a text of the library's own, with its end, that is never freed.
        let text = unsafe { CStr::from_ptr(text) };
        format!("{} (error {number})", text.to_string_lossy())
    }

    pub(crate) fn driver_version(&self) -> Option<String> {
        let function = self.driver_version?;
        let mut out: [c_char; TEXT] = [0; TEXT];
        // SAFETY: as in `text_of`.
        checked(unsafe { function(out.as_mut_ptr(), TEXT as c_uint - 1) }).ok()?;
        text(&out)
    }

    pub(crate) fn count(&self) -> Result<u32, Code> {
        let function = self.count_v2.or(self.count_v1).ok_or(Code::MISSING)?;
        let mut out = 0;
        // SAFETY: as in `get`.
        checked(unsafe { function(&raw mut out) })?;
        Ok(out)
    }

    pub(crate) fn handle(&self, index: u32) -> Result<Handle, Code> {
        let function = self.handle_v2.or(self.handle_v1).ok_or(Code::MISSING)?;
        let mut out: Raw = std::ptr::null_mut();
        // SAFETY: as in `get`.
        checked(unsafe { function(index, &raw mut out) })?;
        if out.is_null() { Err(Code::NOT_FOUND) } else { Ok(Handle(out)) }
    }

    pub(crate) fn uuid(&self, device: Handle) -> Result<String, Code> {
        text_of(self.uuid, device)
    }

    pub(crate) fn name(&self, device: Handle) -> Result<String, Code> {
        text_of(self.name, device)
    }

    pub(crate) fn serial(&self, device: Handle) -> Result<String, Code> {
        text_of(self.serial, device)
    }

    pub(crate) fn vbios(&self, device: Handle) -> Result<String, Code> {
        text_of(self.vbios, device)
    }

    pub(crate) fn pci(&self, device: Handle) -> Result<PciInfo, Code> {
        let empty = PciInfo {
            bus_id_legacy: [0; 16],
            domain: 0,
            bus: 0,
            device: 0,
            pci_device_id: 0,
            pci_subsystem_id: 0,
            bus_id: [0; 32],
        };
        get(self.pci_v3.or(self.pci_v2).or(self.pci_v1), device, empty)
    }

    pub(crate) fn minor(&self, device: Handle) -> Result<u32, Code> {
        get(self.minor, device, 0)
    }

    pub(crate) fn cores(&self, device: Handle) -> Result<u32, Code> {
        get(self.cores, device, 0)
    }

    pub(crate) fn utilization(&self, device: Handle) -> Result<Utilization, Code> {
        get(self.utilization, device, Utilization::default())
    }

    fn engine(
        function: Option<unsafe extern "C" fn(Raw, *mut c_uint, *mut c_uint) -> Ret>,
        device: Handle,
    ) -> Result<u32, Code> {
        let function = function.ok_or(Code::MISSING)?;
        let (mut out, mut period) = (0, 0);
        // SAFETY: as in `get`.
        checked(unsafe { function(device.0, &raw mut out, &raw mut period) })?;
        Ok(out)
    }

    pub(crate) fn encoder(&self, device: Handle) -> Result<u32, Code> {
        Self::engine(self.encoder, device)
    }

    pub(crate) fn decoder(&self, device: Handle) -> Result<u32, Code> {
        Self::engine(self.decoder, device)
    }

    pub(crate) fn jpeg(&self, device: Handle) -> Result<u32, Code> {
        Self::engine(self.jpeg, device)
    }

    pub(crate) fn optical_flow(&self, device: Handle) -> Result<u32, Code> {
        Self::engine(self.optical_flow, device)
    }

    /// Samples newer than `last` (microseconds since 1970), in `out`.
    pub(crate) fn samples(&self, device: Handle, ring: Ring, last: u64, out: &mut Vec<Sample>) -> Result<(), Code> {
        out.clear();
        let function = self.samples.ok_or(Code::MISSING)?;
        let mut room = ROOM;
        loop {
            let mut raw = vec![RawSample::default(); room];
            let (mut value_type, mut count) = (0, in_c(room));
            // SAFETY: the library is told how many there is room for.
            let answer = checked(unsafe {
                function(device.0, ring as c_uint, last, &raw mut value_type, &raw mut count, raw.as_mut_ptr())
            });
            if let Some(more) = enlarged(answer, room, count) {
                room = more;
                continue;
            }
            answer?;
            out.extend(raw.iter().take(count as usize).filter_map(|sample| {
                let number = sample.value.number(value_type)?.known()?;
                // Loads and milliwatts.
                let value = f64::from(u32::try_from(number).ok()?);
                Some(Sample { at: sample.at, value })
            }));
            return Ok(());
        }
    }

    pub(crate) fn memory(&self, device: Handle) -> Result<Memory, Code> {
        let v2 = MemoryV2 { version: version::<MemoryV2>(2), ..MemoryV2::default() };
        match get(self.memory_v2, device, v2) {
            Ok(memory) => Ok(Memory {
                total: memory.total,
                free: memory.free,
                used: memory.used,
                reserved: Some(memory.reserved),
            }),
            Err(code) if code.is_absence() => {
                let memory = get(self.memory_v1, device, MemoryV1::default())?;
                Ok(Memory { total: memory.total, free: memory.free, used: memory.used, reserved: None })
            }
            Err(code) => Err(code),
        }
    }

    /// In milliwatts.
    pub(crate) fn power(&self, device: Handle) -> Result<u32, Code> {
        get(self.power, device, 0)
    }

    /// In milliwatts.
    pub(crate) fn power_limit(&self, device: Handle) -> Result<u32, Code> {
        get(self.power_limit, device, 0)
    }

    /// In millijoules.
    pub(crate) fn energy(&self, device: Handle) -> Result<u64, Code> {
        get(self.energy, device, 0)
    }

    pub(crate) fn temperature(&self, device: Handle) -> Result<u32, Code> {
        select(self.temperature, device, 0)
    }

    pub(crate) fn shutdown_temperature(&self, device: Handle) -> Result<u32, Code> {
        select(self.threshold, device, 0)
    }

    pub(crate) fn slowdown_temperature(&self, device: Handle) -> Result<u32, Code> {
        select(self.threshold, device, 1)
    }

    /// In megahertz.
    pub(crate) fn clock(&self, device: Handle, which: Clock) -> Result<u32, Code> {
        select(self.clock, device, which as c_uint)
    }

    /// In megahertz.
    pub(crate) fn clock_max(&self, device: Handle, which: Clock) -> Result<u32, Code> {
        select(self.clock_max, device, which as c_uint)
    }

    pub(crate) fn performance_state(&self, device: Handle) -> Result<u32, Code> {
        get(self.performance_state, device, 0)
    }

    /// Why the clocks are not higher, a bit each.
    pub(crate) fn throttle_reasons(&self, device: Handle) -> Result<u64, Code> {
        get(self.event_reasons.or(self.throttle_reasons), device, 0)
    }

    pub(crate) fn fan(&self, device: Handle) -> Result<u32, Code> {
        get(self.fan, device, 0)
    }

    pub(crate) fn compute_mode(&self, device: Handle) -> Result<u32, Code> {
        get(self.compute_mode, device, 0)
    }

    pub(crate) fn pcie_generation(&self, device: Handle) -> Result<u32, Code> {
        get(self.pcie_generation, device, 0)
    }

    pub(crate) fn pcie_generation_max(&self, device: Handle) -> Result<u32, Code> {
        get(self.pcie_generation_max, device, 0)
    }

    pub(crate) fn pcie_width(&self, device: Handle) -> Result<u32, Code> {
        get(self.pcie_width, device, 0)
    }

    pub(crate) fn pcie_width_max(&self, device: Handle) -> Result<u32, Code> {
        get(self.pcie_width_max, device, 0)
    }

    pub(crate) fn pcie_replays(&self, device: Handle) -> Result<u32, Code> {
        get(self.pcie_replays, device, 0)
    }

    /// Answers all these questions, each with its own success.
    pub(crate) fn fields(&self, device: Handle, values: &mut [FieldValue]) -> Result<(), Code> {
        let function = self.fields.ok_or(Code::MISSING)?;
        let count = c_int::try_from(values.len()).map_err(|_| Code::INSUFFICIENT_SIZE)?;
        // SAFETY: the library is told how many there are, and fills them in their places.
        checked(unsafe { function(device.0, count, values.as_mut_ptr()) })
    }

    /// Errors of all memories: corrected or not, since the driver was loaded or in the board's life.
    pub(crate) fn ecc_total(&self, device: Handle, uncorrected: bool, in_life: bool) -> Result<u64, Code> {
        let function = self.ecc_total.ok_or(Code::MISSING)?;
        let mut out = 0;
        // SAFETY: as in `get`.
        checked(unsafe { function(device.0, uncorrected.into(), in_life.into(), &raw mut out) })?;
        Ok(out)
    }

    /// Errors of device memory in the board's life.
    pub(crate) fn ecc_dram(&self, device: Handle, uncorrected: bool) -> Result<u64, Code> {
        self.ecc_of(device, uncorrected, 2)
    }

    /// Errors of on-chip memory in the board's life: corrected, uncorrected.
    pub(crate) fn ecc_sram(&self, device: Handle) -> (Result<u64, Code>, Result<u64, Code>) {
        let empty = SramErrors { version: version::<SramErrors>(1), ..SramErrors::default() };
        match get(self.ecc_of_sram, device, empty) {
            Ok(errors) => {
                let (parity, secded) = (errors.aggregate_uncorrected_parity, errors.aggregate_uncorrected_secded);
                (Ok(errors.aggregate_corrected), Ok(parity.saturating_add(secded)))
            }
            Err(_) => (self.ecc_of(device, false, 7), self.ecc_of(device, true, 7)),
        }
    }

    fn ecc_of(&self, device: Handle, uncorrected: bool, place: c_uint) -> Result<u64, Code> {
        let function = self.ecc_of_memory.ok_or(Code::MISSING)?;
        let mut out = 0;
        // SAFETY: as in `get`.
        checked(unsafe { function(device.0, uncorrected.into(), 1, place, &raw mut out) })?;
        Ok(out)
    }

    /// Whether that link is up.
    pub(crate) fn link_is_up(&self, device: Handle, link: u32) -> Result<bool, Code> {
        select(self.link_state, device, link).map(|state| state == 1)
    }

    pub(crate) fn fabric(&self, device: Handle) -> Result<FabricInfo, Code> {
        get(self.fabric, device, FabricInfo { version: version::<FabricInfo>(2), ..FabricInfo::default() })
    }

    /// Whether the card is cut into partitions, or ready to be.
    pub(crate) fn is_mig(&self, device: Handle) -> Result<bool, Code> {
        let function = self.mig_mode.ok_or(Code::MISSING)?;
        let (mut current, mut pending) = (0, 0);
        // SAFETY: as in `get`.
        checked(unsafe { function(device.0, &raw mut current, &raw mut pending) })?;
        Ok(current == 1)
    }

    /// Places for partitions: most have none.
    pub(crate) fn mig_places(&self, device: Handle) -> Result<u32, Code> {
        get(self.mig_places, device, 0)
    }

    pub(crate) fn mig_handle(&self, device: Handle, place: u32) -> Result<Handle, Code> {
        let function = self.mig_handle.ok_or(Code::MISSING)?;
        let mut out: Raw = std::ptr::null_mut();
        // SAFETY: as in `get`.
        checked(unsafe { function(device.0, place, &raw mut out) })?;
        if out.is_null() { Err(Code::NOT_FOUND) } else { Ok(Handle(out)) }
    }

    /// Number of the GPU instance that a partition lies in.
    pub(crate) fn gpu_instance(&self, device: Handle) -> Result<u32, Code> {
        get(self.gpu_instance, device, 0)
    }

    /// Processes that compute, on their own.
    pub(crate) fn compute_processes(&self, device: Handle) -> Result<Vec<(u32, Option<u64>)>, Code> {
        list(self.compute_v3.or(self.compute_v2), self.compute_v1, device)
    }

    /// Processes that draw.
    pub(crate) fn graphics_processes(&self, device: Handle) -> Result<Vec<(u32, Option<u64>)>, Code> {
        list(self.graphics_v3.or(self.graphics_v2), self.graphics_v1, device)
    }

    /// Processes that compute through a server that shares the card (MPS).
    pub(crate) fn mps_processes(&self, device: Handle) -> Result<Vec<(u32, Option<u64>)>, Code> {
        list(self.mps_v3.or(self.mps_v2), self.mps_v1, device)
    }

    /// Processes' samples newer than `last` (microseconds since 1970).
    pub(crate) fn process_samples(&self, device: Handle, last: u64) -> Result<Vec<ProcessSample>, Code> {
        let function = self.process_utilization.ok_or(Code::MISSING)?;
        let mut room = ROOM;
        loop {
            let mut out = vec![ProcessSample::default(); room];
            let mut count = in_c(room);
            // SAFETY: the library is told how many there is room for.
            let answer = checked(unsafe { function(device.0, out.as_mut_ptr(), &raw mut count, last) });
            if let Some(more) = enlarged(answer, room, count) {
                room = more;
                continue;
            }
            answer?;
            out.truncate(count as usize);
            return Ok(out);
        }
    }

    /// Something to hear events of these devices by. Given up before the library is shut down.
    pub(crate) fn listen(&self, devices: impl Iterator<Item = Handle>) -> Result<EventSet, Code> {
        let create = self.event_set_create.ok_or(Code::MISSING)?;
        let register = self.event_register.ok_or(Code::MISSING)?;
        let mut set: Raw = std::ptr::null_mut();
        // SAFETY: as in `get`.
        checked(unsafe { create(&raw mut set) })?;
        for device in devices {
            let types = get(self.event_types, device, 0).unwrap_or(events::XID) & events::ALL;
            if types != 0 {
                // SAFETY: the set was made above. A card that refuses is one we hear nothing of.
                let _ = unsafe { register(device.0, types, set) };
            }
        }
        Ok(EventSet(set))
    }

    /// The next event there is; does not wait.
    pub(crate) fn next_event(&self, set: &EventSet) -> Option<DriverEvent> {
        let wait = self.event_wait_v2.or(self.event_wait_v1)?;
        let mut out =
            RawEvent { device: std::ptr::null_mut(), event: 0, data: 0, gpu_instance: 0, compute_instance: 0 };
        // SAFETY: as in `get`; the set is one of `listen`. The oldest form of the structure ends after `data`.
        checked(unsafe { wait(set.0, &raw mut out, 0) }).ok()?;
        Some(DriverEvent { device: Handle(out.device), event: out.event, data: out.data })
    }

    /// Gives up what [`Nvml::listen`] made.
    pub(crate) fn stop_listening(&self, EventSet(set): EventSet) {
        if let Some(free) = self.event_set_free {
            // SAFETY: the set is one of `listen`, and gone after this.
            let _ = unsafe { free(set) };
        }
    }

    /// Room for two snapshots of a card's counters; an error where the card has none (before Hopper).
    pub(crate) fn gpm(&self, card: Handle) -> Result<Gpm, Code> {
        let support = get(self.gpm_support, card, GpmSupport { version: 1, is_supported: 0 })?;
        if support.is_supported == 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        let alloc = self.gpm_alloc.ok_or(Code::MISSING)?;
        let empty = GpmMetric { metric: 0, ret: Code::NOT_SUPPORTED.0, value: 0.0, names: [std::ptr::null_mut(); 3] };
        let get = GpmMetricsGet {
            version: 1,
            count: 0,
            before: std::ptr::null_mut(),
            after: std::ptr::null_mut(),
            metrics: [empty; GPM_ROOM],
        };
        let mut gpm = Gpm { snapshots: [std::ptr::null_mut(); 2], free: self.gpm_free, taken: 0, get: Box::new(get) };
        for snapshot in &mut gpm.snapshots {
            // SAFETY: as in `get`.
            checked(unsafe { alloc(snapshot) })?;
        }
        Ok(gpm)
    }

    /// Takes a snapshot, of the card or of one of its GPU instances, and says what has been between it and the one
    /// before: one number for each of `metrics`, in their order.
    pub(crate) fn gpm_metrics(
        &self,
        card: Handle,
        gpu_instance: Option<u32>,
        gpm: &mut Gpm,
        metrics: &[u32],
        out: &mut Vec<Option<f64>>,
    ) -> Result<(), Code> {
        out.clear();
        let snapshot = gpm.snapshots[gpm.taken % 2];
        let taken = match gpu_instance {
            None => {
                let function = self.gpm_sample.ok_or(Code::MISSING)?;
                // SAFETY: the library made the snapshot.
                unsafe { function(card.0, snapshot) }
            }
            Some(instance) => {
                let function = self.gpm_sample_mig.ok_or(Code::MISSING)?;
                // SAFETY: as above.
                unsafe { function(card.0, instance, snapshot) }
            }
        };
        if let Err(code) = checked(taken) {
            gpm.taken = 0;
            return Err(code);
        }
        gpm.taken += 1;
        if gpm.taken < 2 {
            return Err(Code::NO_DATA);
        }
        let function = self.gpm_metrics.ok_or(Code::MISSING)?;
        let get = &mut *gpm.get;
        get.before = gpm.snapshots[gpm.taken % 2];
        get.after = snapshot;
        for (place, metric) in get.metrics.iter_mut().zip(metrics) {
            (place.metric, place.ret) = (*metric, Code::NOT_SUPPORTED.0);
        }
        get.count = in_c(metrics.len().min(GPM_ROOM));
        // SAFETY: the structure is the library's, with more room than any version of it.
        checked(unsafe { function(&raw mut *get) })?;
        let values = get.metrics.iter().take(metrics.len());
        out.extend(values.map(|metric| (metric.ret == 0 && metric.value.is_finite()).then_some(metric.value)));
        Ok(())
    }
}

/// What events come by.
#[derive(Debug)]
pub(crate) struct EventSet(Raw);

fn in_c(number: usize) -> c_uint {
    c_uint::try_from(number).unwrap_or(c_uint::MAX)
}

/// How much room to try again with, if it was too little.
fn enlarged(answer: Result<(), Code>, room: usize, wanted: c_uint) -> Option<usize> {
    let wanted = (wanted as usize).max(room * 2);
    (answer == Err(Code::INSUFFICIENT_SIZE) && room < MAX_ROOM).then_some(wanted.min(MAX_ROOM))
}

/// Longest form of a process, in words of eight bytes.
const PROCESS_WORDS: usize = 5;

/// Lists processes by the newest function there is: `v2` and later give structures with the instance, `v1` without.
fn list(newer: Lister, older: Lister, device: Handle) -> Result<Vec<(u32, Option<u64>)>, Code> {
    let (function, sizes): (_, &[usize]) = match (newer, older) {
        (Some(newer), _) => (newer, &[24, 32, 40]),
        (None, Some(older)) => (older, &[16]),
        (None, None) => return Err(Code::MISSING),
    };
    let mut room = ROOM;
    loop {
        // Words, so that it is aligned.
        let mut out = vec![0u64; room * PROCESS_WORDS];
        let mut count = in_c(room);
        // SAFETY: the library is told how many there is room for, and there is room for the longest form.
        let answer = checked(unsafe { function(device.0, &raw mut count, out.as_mut_ptr().cast()) });
        if let Some(more) = enlarged(answer, room, count) {
            room = more;
            continue;
        }
        answer?;
        return parse_processes(&out, count as usize, sizes).ok_or(Code::VERSION_REFUSED);
    }
}

/// Numbers of processes and the memory each holds. Which of the forms of the structure was written nobody says, but
/// numbers of processes are above zero and below 2^22, and what lies there in a wrong form is not.
fn parse_processes(words: &[u64], count: usize, sizes: &[usize]) -> Option<Vec<(u32, Option<u64>)>> {
    sizes.iter().find_map(|size| {
        let rows = words.chunks_exact(size / 8).take(count);
        let processes: Vec<_> = rows
            .filter_map(|row| {
                let [pid, memory, ..] = row else { return None };
                let [a, b, c, d, ..] = pid.to_ne_bytes();
                let pid = u32::from_ne_bytes([a, b, c, d]);
                (1..=1 << 22).contains(&pid).then_some((pid, (*memory != u64::MAX).then_some(*memory)))
            })
            .collect();
        (processes.len() == count).then_some(processes)
    })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn structures_are_laid_out_as_the_library_has_them() {
        assert_eq!((size_of::<PciInfo>(), offset_of!(PciInfo, domain), offset_of!(PciInfo, bus_id)), (68, 16, 36));
        assert_eq!(size_of::<Utilization>(), 8);
        assert_eq!((size_of::<MemoryV1>(), offset_of!(MemoryV1, used)), (24, 16));
        assert_eq!((size_of::<MemoryV2>(), offset_of!(MemoryV2, total), offset_of!(MemoryV2, used)), (40, 8, 32));
        assert_eq!((size_of::<FieldValue>(), offset_of!(FieldValue, timestamp)), (40, 8));
        assert_eq!((offset_of!(FieldValue, value_type), offset_of!(FieldValue, ret)), (24, 28));
        assert_eq!(offset_of!(FieldValue, value), 32);
        assert_eq!((size_of::<RawSample>(), offset_of!(RawSample, value)), (16, 8));
        assert_eq!((size_of::<ProcessSample>(), offset_of!(ProcessSample, at)), (32, 8));
        assert_eq!((offset_of!(ProcessSample, gpu), offset_of!(ProcessSample, decoder)), (16, 28));
        assert_eq!(
            (size_of::<RawEvent>(), offset_of!(RawEvent, data), offset_of!(RawEvent, gpu_instance)),
            (32, 16, 24)
        );
        assert_eq!((size_of::<SramErrors>(), offset_of!(SramErrors, aggregate_corrected)), (104, 24));
        assert_eq!((offset_of!(SramErrors, buckets), offset_of!(SramErrors, threshold_exceeded)), (56, 96));
        assert_eq!((size_of::<FabricInfo>(), offset_of!(FabricInfo, status)), (36, 20));
        assert_eq!((offset_of!(FabricInfo, state), offset_of!(FabricInfo, health)), (28, 32));
        assert_eq!(size_of::<GpmSupport>(), 8);
        assert_eq!((size_of::<GpmMetric>(), offset_of!(GpmMetric, value), offset_of!(GpmMetric, names)), (40, 8, 16));
        assert_eq!((offset_of!(GpmMetricsGet, before), offset_of!(GpmMetricsGet, metrics)), (8, 24));
    }

    #[test]
    fn versions_are_size_and_form() {
        assert_eq!(version::<MemoryV2>(2), 0x0200_0028);
        assert_eq!(version::<SramErrors>(1), 0x0100_0068);
        assert_eq!(version::<FabricInfo>(2), 0x0200_0024);
    }

    #[test]
    fn what_stands_for_not_known_is_none() {
        let known = |value, value_type| Value(value).number(value_type).and_then(Number::known);
        assert_eq!(known(0, 1), Some(0));
        assert_eq!(known(u64::from(u32::MAX), 1), None);
        assert_eq!(known(u64::from(u32::MAX), 3), Some(4_294_967_295));
        assert_eq!(known(u64::MAX, 3), None);
        assert_eq!(known(u64::MAX, 4), None, "-1");
        assert_eq!(known(7, 5), Some(7));
        assert_eq!(known(7, 6), Some(7));
        assert_eq!(known(7, 0), None);
        assert_eq!(known(7, 99), None);
        assert_eq!(FieldValue::ask(83, 0).known(), None, "unanswered");
    }

    #[test]
    fn processes_come_in_several_forms() {
        let two = [(4242, Some(1 << 30)), (977, None)];
        let v1 = [4242, 1 << 30, 977, u64::MAX];
        let v2 = [4242, 1 << 30, u64::MAX, 977, u64::MAX, u64::MAX];
        let v535 = [4242, 1 << 30, u64::MAX, 0, 977, u64::MAX, u64::MAX, 0];
        assert_eq!(parse_processes(&v1, 2, &[16]).unwrap(), two);
        assert_eq!(parse_processes(&v2, 2, &[24, 32, 40]).unwrap(), two);
        assert_eq!(parse_processes(&v535, 2, &[24, 32, 40]).unwrap(), two);
        assert_eq!(parse_processes(&[0; 40], 0, &[24, 32, 40]).unwrap(), []);
        assert_eq!(parse_processes(&[0; 40], 2, &[24, 32, 40]), None);
        assert_eq!(parse_processes(&v1, 9, &[16]), None, "more than there is room for");
    }

    proptest! {
        #[test]
        fn no_words_bring_it_down(
            words in prop::collection::vec(any::<u64>(), 0..200),
            count in 0usize..300,
            value_type in any::<u32>(),
        ) {
            for size in [16, 24, 32, 40] {
                parse_processes(&words, count, &[size]);
            }
            for word in words {
                Value(word).number(value_type).and_then(Number::known);
            }
        }
    }
}
