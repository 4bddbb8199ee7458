//! EFML, the management library of Enflame.
//!
//! It has had two interfaces, and newer libraries have both. The first names its functions `Efml…` and tells cards by
//! number; the second is made after NVML, names them `efml…` and tells cards by handle. Either is initialised by itself.
//! Here they are one: the second is used where the library has it, and [`Efml::is_first`] says which it is.
//!
//! Traps:
//!
//! - The first takes signals 10 and 12 (`SIGUSR1`, `SIGUSR2`) for itself; whoever uses it has to ignore them.
//! - The first writes text of up to 128 characters without being told how much room there is.
//! - The first counts all memory in bytes and used memory in MiB, in one structure.
//! - The second's structure for PCI addresses is published in two forms, so the address is looked for as text in what
//!   was written ([`address_in`]). Its newer structure for memory is published with two orders of the same numbers, so
//!   only the older is asked for.
//! - The codes of the two mean different things ([`Code`]).
//!
//! Units of the first: per cent, watts, degrees and MHz, links in MB/s. In which unit it tells traffic over PCIe and
//! memory of processes is not known, so these are left out. Units of the second are those of NVML. Its function for
//! traffic over PCIe waits for a millisecond to measure, which says nothing about a second, and is left out too.

use std::ffi::{CStr, c_char, c_float, c_uint, c_ulonglong, c_void};
use std::path::Path;

use super::{Library, OpenError, functions, text};

type Ret = c_uint;
type Raw = *mut c_void;

/// A card, as either interface tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    First(u32),
    Second(Raw),
}

/// What a function answered instead of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    First(c_uint),
    Second(c_uint),
    /// The library does not have the function.
    Missing,
}

impl Code {
    /// Whether it says that there is no such value here, which is no trouble.
    pub(crate) fn is_absence(self) -> bool {
        match self {
            // Wrong argument, not supported, wrong input, no function, given up.
            Self::First(code) => [2, 3, 8, 9, 13].contains(&code),
            // Wrong argument, not supported, no permission, not found, no function, no data, wrong form, given up.
            Self::Second(code) => [2, 3, 4, 6, 13, 21, 25, 26].contains(&code),
            Self::Missing => true,
        }
    }

    /// Whether the card has gone. The first interface has no code for it.
    pub(crate) fn is_loss(self) -> bool {
        matches!(self, Self::Second(15 | 28))
    }

    /// Whether there is no driver, or no card.
    pub(crate) fn is_no_driver(self) -> bool {
        matches!(self, Self::First(6 | 12) | Self::Second(9 | 28))
    }

    /// Whether library and driver do not fit each other.
    pub(crate) fn is_mismatch(self) -> bool {
        matches!(self, Self::First(11) | Self::Second(18))
    }

    /// Whether this user may not see the card.
    pub(crate) fn is_hidden(self) -> bool {
        self == Self::Second(4)
    }
}

fn first(ret: Ret) -> Result<(), Code> {
    if ret == 0 { Ok(()) } else { Err(Code::First(ret)) }
}

fn second(ret: Ret) -> Result<(), Code> {
    if ret == 0 { Ok(()) } else { Err(Code::Second(ret)) }
}

/// What the library fills, and room behind it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Roomy<T> {
    value: T,
    room: [u64; 32],
}

/// Identity of a card in the first interface.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawInfo {
    name: [c_char; 128],
    vendor: c_uint,
    device: c_uint,
    domain: c_uint,
    bus: c_uint,
    slot: c_uint,
    function: c_uint,
    logical: c_uint,
}

/// Power, in watts: what it may draw and what it draws.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RawPower {
    limit: c_float,
    power: c_float,
}

/// All memory in bytes, and used memory in MiB.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct FirstMemory {
    total: c_ulonglong,
    used: c_uint,
}

/// In bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct SecondMemory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// Memory of a card or slice, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) used: u64,
    pub(crate) free: Option<u64>,
}

/// Clocks of memory and cores, in MHz.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RawClocks {
    memory: c_uint,
    core: c_uint,
}

/// Degrees: of the chip, of memory, and of a second memory or the board.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawTemperatures {
    chip: c_float,
    memory: c_float,
    other: c_float,
}

/// Generation and lanes of a link: now, and at the most.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pcie {
    pub(crate) generation: c_uint,
    pub(crate) generation_max: c_uint,
    pub(crate) width: c_uint,
    pub(crate) width_max: c_uint,
}

/// What goes over a link, in MB/s, and packets refused.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Throughput {
    pub(crate) transmitted: c_float,
    pub(crate) received: c_float,
    refused_sent: c_ulonglong,
    refused_received: c_ulonglong,
}

/// State of ECC and errors since an unknown time.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ecc {
    enabled: u8,
    pending: u8,
    blacklist_pending: u8,
    pub(crate) corrected: c_uint,
    pub(crate) uncorrected: c_uint,
}

impl Ecc {
    /// Whether memory waits to be taken out of use.
    pub(crate) fn is_retirement_pending(&self) -> bool {
        self.blacklist_pending != 0
    }
}

/// Whether the board should go back, and errors in its life that say so.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RawReturn {
    is_supported: u8,
    is_hinted: u8,
    uncorrected: c_uint,
}

/// Load of the video units, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RawVideo {
    encoder: c_uint,
    decoder: c_uint,
}

/// Load of a card and of its memory, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RawLoad {
    card: c_uint,
    memory: c_uint,
}

/// How full the cores and their units are, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occupancy {
    pub(crate) cores: c_uint,
    pub(crate) vector: c_uint,
    pub(crate) matrix: c_uint,
    special: c_uint,
    memory: c_uint,
}

/// A process of the first interface.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct FirstProcess {
    pid: c_uint,
    device_memory: c_ulonglong,
    system_memory: c_ulonglong,
}

/// A process's load within some time, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProcessSample {
    pub(crate) pid: c_uint,
    /// Microseconds since 1970.
    pub(crate) at: c_ulonglong,
    pub(crate) cores: c_uint,
    pub(crate) memory: c_uint,
    pub(crate) encoder: c_uint,
    pub(crate) decoder: c_uint,
}

/// Who a card is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Info {
    pub(crate) uuid: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) serial: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) firmware: Option<String>,
    /// Number of its file below `/dev`.
    pub(crate) logical: Option<u32>,
}

/// A clock of the second interface.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    Core = 1,
    Memory = 2,
    Video = 3,
}

functions! {
    /// What we call of EFML.
    pub(crate) struct Efml {
        init_1 = "EfmlInit": fn(without_driver: bool) -> Ret;
        shut_down_1 = "EfmlShutdown": fn();
        error_1 = "EfmlErrorString": fn(code: Ret, out: *mut c_char) -> Ret;
        driver_1 = "EfmlGetDriverVer": fn(out: *mut c_char) -> Ret;
        count_1 = "EfmlGetDevCount": fn(out: *mut c_uint) -> Ret;
        uuid_1 = "EfmlGetDevUuid": fn(device: c_uint, out: *mut c_char) -> Ret;
        name_1 = "EfmlGetDevName": fn(device: c_uint, out: *mut c_char) -> Ret;
        serial_1 = "EfmlGetDevSn": fn(device: c_uint, out: *mut c_char) -> Ret;
        firmware_1 = "EfmlGetFwVersion": fn(device: c_uint, out: *mut c_char) -> Ret;
        info_1 = "EfmlGetDevInfo": fn(device: c_uint, out: *mut RawInfo) -> Ret;
        architecture_1 = "EfmlGetHwArch": fn(device: c_uint, out: *mut c_uint) -> Ret;
        load_sampled_1 = "EfmlGetDevDtuUsageAsync": fn(device: c_uint, out: *mut c_float) -> Ret;
        load_1 = "EfmlGetDevDtuUsage": fn(device: c_uint, out: *mut c_float) -> Ret;
        cores_1 = "EfmlGetDevSipUsage": fn(device: c_uint, out: *mut c_float) -> Ret;
        video_1 = "EfmlGetVpuUsage": fn(device: c_uint, out: *mut RawVideo) -> Ret;
        memory_1 = "EfmlGetDevMem": fn(device: c_uint, out: *mut FirstMemory) -> Ret;
        power_1 = "EfmlGetDevPwr": fn(device: c_uint, out: *mut RawPower) -> Ret;
        temperatures_1 = "EfmlGetDevTemp": fn(device: c_uint, out: *mut RawTemperatures) -> Ret;
        temperatures_new_1 = "EfmlGetDevTempV2": fn(device: c_uint, out: *mut RawTemperatures) -> Ret;
        clocks_1 = "EfmlGetDevClk": fn(device: c_uint, out: *mut RawClocks) -> Ret;
        clock_max_1 = "EfmlGetMaxFreq": fn(device: c_uint, out: *mut c_uint) -> Ret;
        pcie_1 = "EfmlGetPcieLinkInfo": fn(device: c_uint, out: *mut Pcie) -> Ret;
        ecc_1 = "EfmlGetDevEccStatus": fn(device: c_uint, out: *mut Ecc) -> Ret;
        return_1 = "EfmlGetDevRmaDetails": fn(device: c_uint, out: *mut RawReturn) -> Ret;
        health_1 = "EfmlGetDevHealth": fn(device: c_uint, out: *mut u8) -> Ret;
        links_old_1 = "EfmlGetEslPortNum": fn(device: c_uint, out: *mut c_uint) -> Ret;
        link_old_1 = "EfmlGetEslPortInfo": fn(device: c_uint, port: c_uint, out: *mut c_uint) -> Ret;
        throughput_old_1 = "EfmlGetEslThroughput": fn(device: c_uint, port: c_uint, out: *mut Throughput) -> Ret;
        links_1 = "EfmlGetGcuLarePortNum": fn(device: c_uint, out: *mut c_uint) -> Ret;
        link_1 = "EfmlGetGcuLarePortInfo": fn(device: c_uint, port: c_uint, out: *mut c_uint) -> Ret;
        throughput_1 = "EfmlGetGcuLareThroughput": fn(device: c_uint, port: c_uint, out: *mut Throughput) -> Ret;
        slices_1 = "EfmlGetVdevList": fn(device: c_uint, out: *mut c_uint, count: *mut c_uint) -> Ret;
        slice_memory_1 = "EfmlGetVdevMem": fn(device: c_uint, slice: c_uint, out: *mut FirstMemory) -> Ret;
        slice_load_1 = "EfmlGetVdevDtuUsage": fn(device: c_uint, slice: c_uint, out: *mut c_float) -> Ret;
        processes_1 = "EfmlGetProcessInfo": fn(device: c_uint, count: *mut c_uint, out: *mut FirstProcess) -> Ret;
        init_2_new = "efmlInit_v2": fn() -> Ret;
        init_2 = "efmlInit": fn() -> Ret;
        shut_down_2 = "efmlShutdown": fn() -> Ret;
        error_2 = "efmlErrorString": fn(code: Ret) -> *const c_char;
        driver_2 = "efmlSystemGetDriverVersion": fn(out: *mut c_char, length: c_uint) -> Ret;
        count_2_new = "efmlDeviceGetCount_v2": fn(out: *mut c_uint) -> Ret;
        count_2 = "efmlDeviceGetCount": fn(out: *mut c_uint) -> Ret;
        handle_2_new = "efmlDeviceGetHandleByIndex_v2": fn(index: c_uint, out: *mut Raw) -> Ret;
        handle_2 = "efmlDeviceGetHandleByIndex": fn(index: c_uint, out: *mut Raw) -> Ret;
        uuid_2 = "efmlDeviceGetUUID": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        name_2 = "efmlDeviceGetName": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        serial_2 = "efmlDeviceGetSerial": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        firmware_2 = "efmlDeviceGetVbiosVersion": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        pci_2_v3 = "efmlDeviceGetPciInfo_v3": fn(device: Raw, out: *mut c_char) -> Ret;
        pci_2_v2 = "efmlDeviceGetPciInfo_v2": fn(device: Raw, out: *mut c_char) -> Ret;
        pci_2 = "efmlDeviceGetPciInfo": fn(device: Raw, out: *mut c_char) -> Ret;
        minor_2 = "efmlDeviceGetMinorNumber": fn(device: Raw, out: *mut c_uint) -> Ret;
        load_2 = "efmlDeviceGetUtilizationRates": fn(device: Raw, out: *mut RawLoad) -> Ret;
        occupancy_2 = "efmlDeviceGetOccupancy": fn(device: Raw, out: *mut Occupancy) -> Ret;
        encoder_2 = "efmlDeviceGetEncoderUtilization": fn(device: Raw, out: *mut c_uint, period: *mut c_uint) -> Ret;
        decoder_2 = "efmlDeviceGetDecoderUtilization": fn(device: Raw, out: *mut c_uint, period: *mut c_uint) -> Ret;
        memory_2 = "efmlDeviceGetMemoryInfo": fn(device: Raw, out: *mut SecondMemory) -> Ret;
        power_2 = "efmlDeviceGetPowerUsage": fn(device: Raw, out: *mut c_uint) -> Ret;
        power_limit_2 = "efmlDeviceGetEnforcedPowerLimit": fn(device: Raw, out: *mut c_uint) -> Ret;
        temperature_2 = "efmlDeviceGetTemperature": fn(device: Raw, sensor: c_uint, out: *mut c_uint) -> Ret;
        threshold_2 = "efmlDeviceGetTemperatureThreshold": fn(device: Raw, which: c_uint, out: *mut c_uint) -> Ret;
        clock_2 = "efmlDeviceGetClockInfo": fn(device: Raw, which: c_uint, out: *mut c_uint) -> Ret;
        clock_max_2 = "efmlDeviceGetMaxClockInfo": fn(device: Raw, which: c_uint, out: *mut c_uint) -> Ret;
        generation_2 = "efmlDeviceGetCurrPcieLinkGeneration": fn(device: Raw, out: *mut c_uint) -> Ret;
        generation_max_2 = "efmlDeviceGetMaxPcieLinkGeneration": fn(device: Raw, out: *mut c_uint) -> Ret;
        width_2 = "efmlDeviceGetCurrPcieLinkWidth": fn(device: Raw, out: *mut c_uint) -> Ret;
        width_max_2 = "efmlDeviceGetMaxPcieLinkWidth": fn(device: Raw, out: *mut c_uint) -> Ret;
        fan_2 = "efmlDeviceGetFanSpeed": fn(device: Raw, out: *mut c_uint) -> Ret;
        link_2 = "efmlDeviceGetGcuLareState": fn(device: Raw, port: c_uint, out: *mut c_uint) -> Ret;
        processes_2_v3 = "efmlDeviceGetComputeRunningProcesses_v3": fn(
            device: Raw, count: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        processes_2_v2 = "efmlDeviceGetComputeRunningProcesses_v2": fn(
            device: Raw, count: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        processes_2 = "efmlDeviceGetComputeRunningProcesses": fn(
            device: Raw, count: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        process_load_2 = "efmlDeviceGetProcessUtilization": fn(
            device: Raw, out: *mut ProcessSample, count: *mut c_uint, last: c_ulonglong,
        ) -> Ret;
    }
}

type First<T> = Option<unsafe extern "C" fn(c_uint, *mut T) -> Ret>;
type FirstPart<T> = Option<unsafe extern "C" fn(c_uint, c_uint, *mut T) -> Ret>;
type Second<T> = Option<unsafe extern "C" fn(Raw, *mut T) -> Ret>;
type SecondPart = Option<unsafe extern "C" fn(Raw, c_uint, *mut c_uint) -> Ret>;

fn get_1<T: Copy>(function: First<T>, device: u32, empty: T) -> Result<T, Code> {
    let function = function.ok_or(Code::Missing)?;
    let mut out = Roomy { value: empty, room: [0; 32] };
    // SAFETY: `out` begins with what the function fills, and lives until it returns.
    first(unsafe { function(device, (&raw mut out).cast()) })?;
    Ok(out.value)
}

fn part_1<T: Copy>(function: FirstPart<T>, device: u32, part: u32, empty: T) -> Result<T, Code> {
    let function = function.ok_or(Code::Missing)?;
    let mut out = Roomy { value: empty, room: [0; 32] };
    // SAFETY: as in `get_1`.
    first(unsafe { function(device, part, (&raw mut out).cast()) })?;
    Ok(out.value)
}

fn get_2<T: Copy>(function: Second<T>, device: Raw, empty: T) -> Result<T, Code> {
    let function = function.ok_or(Code::Missing)?;
    let mut out = Roomy { value: empty, room: [0; 32] };
    // SAFETY: as in `get_1`; the handle is the library's.
    second(unsafe { function(device, (&raw mut out).cast()) })?;
    Ok(out.value)
}

fn part_2(function: SecondPart, device: Raw, part: u32) -> Result<u32, Code> {
    let function = function.ok_or(Code::Missing)?;
    let mut out = c_uint::MAX;
    // SAFETY: as in `get_2`.
    second(unsafe { function(device, part, &raw mut out) })?;
    Ok(out)
}

/// Eight times what the first interface writes at the most.
const TEXT: usize = 1024;

fn text_1(function: Option<unsafe extern "C" fn(c_uint, *mut c_char) -> Ret>, device: u32) -> Result<String, Code> {
    let function = function.ok_or(Code::Missing)?;
    let mut out: [c_char; TEXT] = [0; TEXT];
    // SAFETY: there is far more room than the interface writes.
    first(unsafe { function(device, out.as_mut_ptr()) })?;
    text(&out).ok_or(Code::Missing)
}

fn text_2(
    function: Option<unsafe extern "C" fn(Raw, *mut c_char, c_uint) -> Ret>,
    device: Raw,
) -> Result<String, Code> {
    let function = function.ok_or(Code::Missing)?;
    let mut out: [c_char; TEXT] = [0; TEXT];
    // SAFETY: the function is told of a quarter of the room.
    second(unsafe { function(device, out.as_mut_ptr(), TEXT as c_uint / 4) })?;
    text(&out).ok_or(Code::Missing)
}

/// Processes and slices there is room for.
const ROOM: usize = 1024;

impl Efml {
    /// Opens the library. Nothing is asked of the driver yet.
    pub(crate) fn open(configured: Option<&Path>, candidates: &[&str]) -> Result<Self, OpenError> {
        Library::open(configured, candidates).map(Self::load)
    }

    /// Whether it has the first interface only.
    pub(crate) fn is_first(&self) -> bool {
        self.handle_2_new.or(self.handle_2).is_none()
    }

    /// To be called first, and again after [`Efml::shut_down`].
    pub(crate) fn initialize(&self) -> Result<(), Code> {
        for signal in [libc::SIGUSR1, libc::SIGUSR2] {
            // SAFETY: nobody else in this process uses these signals; unignored, the library's own would end it.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        if self.is_first() {
            let init = self.init_1.ok_or(Code::Missing)?;
            // SAFETY: it may be called at any time. It is to use the driver.
            return first(unsafe { init(false) });
        }
        let init = self.init_2_new.or(self.init_2).ok_or(Code::Missing)?;
        // SAFETY: it takes nothing and may be called at any time.
        second(unsafe { init() })
    }

    /// Gives up all handles.
    pub(crate) fn shut_down(&self) {
        match (self.is_first(), self.shut_down_1, self.shut_down_2) {
            // SAFETY: it takes nothing; the caller has dropped what it had.
            (true, Some(shut_down), _) => unsafe { shut_down() },
            (false, _, Some(shut_down)) => {
                // SAFETY: as above.
                let _ = unsafe { shut_down() };
            }
            _ => {}
        }
    }

    /// A code in the library's words.
    pub(crate) fn describe(&self, code: Code) -> String {
        let (number, words) = match (code, self.error_1, self.error_2) {
            (Code::Missing, ..) => return "the library lacks the function".to_owned(),
            (Code::First(number), Some(error_string), _) => {
                let mut out: [c_char; TEXT] = [0; TEXT];
                // SAFETY: as in `text_1`.
                let _ = unsafe { error_string(number, out.as_mut_ptr()) };
                (number, text(&out))
            }
            (Code::Second(number), _, Some(error_string)) => {
                // SAFETY: it takes a number.
                let text = unsafe { error_string(number) };
                // SAFETY: a text of the library's own, with its end, that is never freed.
                let text = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
                (number, text)
            }
            (Code::First(number) | Code::Second(number), ..) => (number, None),
        };
        match words {
            Some(words) => format!("{words} (error {number})"),
            None => format!("error {number}"),
        }
    }

    pub(crate) fn driver_version(&self) -> Option<String> {
        let mut out: [c_char; TEXT] = [0; TEXT];
        if self.is_first() {
            let function = self.driver_1?;
            // SAFETY: as in `text_1`.
            first(unsafe { function(out.as_mut_ptr()) }).ok()?;
        } else {
            let function = self.driver_2?;
            // SAFETY: as in `text_2`.
            second(unsafe { function(out.as_mut_ptr(), TEXT as c_uint / 4) }).ok()?;
        }
        text(&out)
    }

    pub(crate) fn count(&self) -> Result<u32, Code> {
        let mut out = 0;
        if self.is_first() {
            let function = self.count_1.ok_or(Code::Missing)?;
            // SAFETY: it fills a number.
            first(unsafe { function(&raw mut out) })?;
        } else {
            let function = self.count_2_new.or(self.count_2).ok_or(Code::Missing)?;
            // SAFETY: as above.
            second(unsafe { function(&raw mut out) })?;
        }
        Ok(out)
    }

    pub(crate) fn device(&self, index: u32) -> Result<Device, Code> {
        let Some(function) = self.handle_2_new.or(self.handle_2) else { return Ok(Device::First(index)) };
        let mut out: Raw = std::ptr::null_mut();
        // SAFETY: it fills a handle.
        second(unsafe { function(index, &raw mut out) })?;
        if out.is_null() { Err(Code::Second(6)) } else { Ok(Device::Second(out)) }
    }

    /// Who it is; an error when it tells neither UUID nor address.
    pub(crate) fn info(&self, device: Device) -> Result<Info, Code> {
        match device {
            Device::First(number) => {
                let empty = RawInfo {
                    name: [0; 128],
                    vendor: 0,
                    device: 0,
                    domain: 0,
                    bus: 0,
                    slot: 0,
                    function: 0,
                    logical: c_uint::MAX,
                };
                let (uuid, raw) = (text_1(self.uuid_1, number), get_1(self.info_1, number, empty));
                if let (Err(code), Err(_)) = (&uuid, &raw) {
                    return Err(*code);
                }
                let raw = raw.ok();
                Ok(Info {
                    uuid: uuid.ok(),
                    name: text_1(self.name_1, number).ok().or_else(|| text(&raw?.name)),
                    serial: text_1(self.serial_1, number).ok(),
                    address: raw.map(|r| format!("{:04x}:{:02x}:{:02x}.{:x}", r.domain, r.bus, r.slot, r.function)),
                    firmware: text_1(self.firmware_1, number).ok(),
                    logical: raw.map(|raw| raw.logical).filter(|number| *number < 1024),
                })
            }
            Device::Second(handle) => {
                let pci = self.pci_2_v3.or(self.pci_2_v2).or(self.pci_2).ok_or(Code::Missing);
                let mut out: [c_char; TEXT] = [0; TEXT];
                // SAFETY: there is far more room than any form of the structure takes.
                let pci = pci.and_then(|function| second(unsafe { function(handle, out.as_mut_ptr()) }));
                let uuid = text_2(self.uuid_2, handle);
                if let (Err(code), Err(_)) = (pci, &uuid) {
                    return Err(code);
                }
                let bytes = out.map(|character| character.to_ne_bytes()[0]);
                Ok(Info {
                    uuid: uuid.ok(),
                    name: text_2(self.name_2, handle).ok(),
                    serial: text_2(self.serial_2, handle).ok(),
                    address: address_in(&bytes),
                    firmware: text_2(self.firmware_2, handle).ok(),
                    logical: get_2(self.minor_2, handle, c_uint::MAX).ok().filter(|number| *number < 1024),
                })
            }
        }
    }

    /// Load of the card, and of its memory where it is told, in per cent.
    pub(crate) fn load_of(&self, device: Device) -> Result<(f64, Option<f64>), Code> {
        match device {
            Device::First(number) => {
                let load = get_1(self.load_sampled_1.or(self.load_1), number, -1.0)?;
                Ok((load.into(), None))
            }
            Device::Second(handle) => {
                let load = get_2(self.load_2, handle, RawLoad { card: c_uint::MAX, memory: c_uint::MAX })?;
                Ok((load.card.into(), Some(load.memory.into())))
            }
        }
    }

    /// Share of the cores with work, in per cent.
    pub(crate) fn cores(&self, device: Device) -> Result<f64, Code> {
        let Device::First(number) = device else { return Err(Code::Missing) };
        get_1(self.cores_1, number, -1.0).map(f64::from)
    }

    pub(crate) fn occupancy(&self, device: Device) -> Result<Occupancy, Code> {
        let Device::Second(handle) = device else { return Err(Code::Missing) };
        let (cores, vector, matrix) = (c_uint::MAX, c_uint::MAX, c_uint::MAX);
        get_2(self.occupancy_2, handle, Occupancy { cores, vector, matrix, special: 0, memory: 0 })
    }

    /// Load of encoder and decoder, in per cent.
    pub(crate) fn video(&self, device: Device) -> Result<(u32, u32), Code> {
        match device {
            Device::First(number) => {
                let empty = RawVideo { encoder: c_uint::MAX, decoder: c_uint::MAX };
                get_1(self.video_1, number, empty).map(|video| (video.encoder, video.decoder))
            }
            Device::Second(handle) => {
                let engine = |function: Option<unsafe extern "C" fn(Raw, *mut c_uint, *mut c_uint) -> Ret>| {
                    let function = function.ok_or(Code::Missing)?;
                    let (mut out, mut period) = (c_uint::MAX, 0);
                    // SAFETY: as in `get_2`.
                    second(unsafe { function(handle, &raw mut out, &raw mut period) })?;
                    Ok(out)
                };
                Ok((engine(self.encoder_2)?, engine(self.decoder_2)?))
            }
        }
    }

    pub(crate) fn memory(&self, device: Device) -> Result<Memory, Code> {
        match device {
            Device::First(number) => get_1(self.memory_1, number, FirstMemory::default()).map(Memory::of_first),
            Device::Second(handle) => {
                let memory = get_2(self.memory_2, handle, SecondMemory::default())?;
                Ok(Memory { total: memory.total, used: memory.used, free: Some(memory.free) })
            }
        }
    }

    /// In watts.
    pub(crate) fn power(&self, device: Device) -> Result<f64, Code> {
        match device {
            Device::First(number) => {
                get_1(self.power_1, number, RawPower { limit: -1.0, power: -1.0 }).map(|power| power.power.into())
            }
            Device::Second(handle) => get_2(self.power_2, handle, c_uint::MAX).map(|power| f64::from(power) / 1e3),
        }
    }

    /// In watts.
    pub(crate) fn power_limit(&self, device: Device) -> Result<f64, Code> {
        match device {
            Device::First(number) => {
                get_1(self.power_1, number, RawPower { limit: -1.0, power: -1.0 }).map(|power| power.limit.into())
            }
            Device::Second(handle) => {
                get_2(self.power_limit_2, handle, c_uint::MAX).map(|limit| f64::from(limit) / 1e3)
            }
        }
    }

    /// Of the chip, and of memory where it is told, in degrees.
    pub(crate) fn temperatures(&self, device: Device) -> Result<(f64, Option<f64>), Code> {
        match device {
            Device::First(number) => {
                // The newer structure holds for the third architecture (GCU300, number 2) and later.
                let is_new = get_1(self.architecture_1, number, 0).is_ok_and(|architecture| architecture >= 2);
                let function = match (is_new, self.temperatures_1, self.temperatures_new_1) {
                    (true, older, newer) => newer.or(older),
                    (false, older, newer) => older.or(newer),
                };
                let empty = RawTemperatures { chip: c_float::NAN, memory: c_float::NAN, other: c_float::NAN };
                let found = get_1(function, number, empty)?;
                Ok((found.chip.into(), Some(found.memory.into())))
            }
            Device::Second(handle) => {
                // It is a signed number that is filled.
                part_2(self.temperature_2, handle, 0).map(|found| (f64::from(found.cast_signed()), None))
            }
        }
    }

    /// Temperatures at which it slows down and at which it switches itself off, in degrees.
    pub(crate) fn thresholds(&self, device: Device) -> (Option<u32>, Option<u32>) {
        let Device::Second(handle) = device else { return (None, None) };
        (part_2(self.threshold_2, handle, 1).ok(), part_2(self.threshold_2, handle, 0).ok())
    }

    /// In MHz.
    pub(crate) fn clock(&self, device: Device, which: Clock) -> Result<u32, Code> {
        match (device, which) {
            (Device::First(number), which) => {
                let clocks = get_1(self.clocks_1, number, RawClocks::default())?;
                match which {
                    Clock::Core => Ok(clocks.core),
                    Clock::Memory => Ok(clocks.memory),
                    Clock::Video => Err(Code::Missing),
                }
            }
            (Device::Second(handle), which) => part_2(self.clock_2, handle, which as c_uint),
        }
    }

    /// In MHz.
    pub(crate) fn clock_max(&self, device: Device, which: Clock) -> Result<u32, Code> {
        match (device, which) {
            (Device::First(number), Clock::Core) => get_1(self.clock_max_1, number, 0),
            (Device::First(_), _) => Err(Code::Missing),
            (Device::Second(handle), which) => part_2(self.clock_max_2, handle, which as c_uint),
        }
    }

    pub(crate) fn pcie(&self, device: Device) -> Result<Pcie, Code> {
        match device {
            Device::First(number) => get_1(self.pcie_1, number, Pcie::default()),
            Device::Second(handle) => {
                let number = |function| get_2(function, handle, 0);
                Ok(Pcie {
                    generation: number(self.generation_2)?,
                    generation_max: number(self.generation_max_2).unwrap_or(0),
                    width: number(self.width_2)?,
                    width_max: number(self.width_max_2).unwrap_or(0),
                })
            }
        }
    }

    /// In per cent.
    pub(crate) fn fan(&self, device: Device) -> Result<u32, Code> {
        let Device::Second(handle) = device else { return Err(Code::Missing) };
        get_2(self.fan_2, handle, c_uint::MAX)
    }

    pub(crate) fn ecc(&self, device: Device) -> Result<Ecc, Code> {
        let Device::First(number) = device else { return Err(Code::Missing) };
        get_1(self.ecc_1, number, Ecc::default())
    }

    /// Whether the board should go back, and uncorrected errors in its life; `None` where it does not count them.
    pub(crate) fn should_return(&self, device: Device) -> Result<Option<(bool, u32)>, Code> {
        let Device::First(number) = device else { return Err(Code::Missing) };
        let found = get_1(self.return_1, number, RawReturn::default())?;
        Ok((found.is_supported != 0).then_some((found.is_hinted != 0, found.uncorrected)))
    }

    pub(crate) fn is_healthy(&self, device: Device) -> Result<bool, Code> {
        let Device::First(number) = device else { return Err(Code::Missing) };
        get_1(self.health_1, number, 0).map(|health| health != 0)
    }

    /// How many ports for links it has; `None` where the second interface does not say, and they are tried out.
    pub(crate) fn ports(&self, device: Device) -> Result<Option<u32>, Code> {
        let Device::First(number) = device else { return Ok(None) };
        get_1(self.links_1.or(self.links_old_1), number, 0).map(Some)
    }

    /// Whether the link at that port is up.
    pub(crate) fn link_is_up(&self, device: Device, port: u32) -> Result<bool, Code> {
        match device {
            // The structure begins with it.
            Device::First(number) => {
                part_1(self.link_1.or(self.link_old_1), number, port, 0).map(|connected| connected != 0)
            }
            Device::Second(handle) => part_2(self.link_2, handle, port).map(|state| state == 1),
        }
    }

    pub(crate) fn throughput(&self, device: Device, port: u32) -> Result<Throughput, Code> {
        let Device::First(number) = device else { return Err(Code::Missing) };
        let empty = Throughput { transmitted: -1.0, received: -1.0, refused_sent: 0, refused_received: 0 };
        part_1(self.throughput_1.or(self.throughput_old_1), number, port, empty)
    }

    /// Numbers of the slices of a card.
    pub(crate) fn slices(&self, device: Device) -> Result<Vec<u32>, Code> {
        let Device::First(number) = device else { return Err(Code::Missing) };
        let function = self.slices_1.ok_or(Code::Missing)?;
        let mut out = vec![c_uint::MAX; ROOM];
        let mut count = 0;
        // SAFETY: the function is not told how much room there is; no card has near that many slices.
        first(unsafe { function(number, out.as_mut_ptr(), &raw mut count) })?;
        out.truncate(count as usize);
        Ok(out)
    }

    pub(crate) fn slice_memory(&self, device: Device, slice: u32) -> Result<Memory, Code> {
        let Device::First(number) = device else { return Err(Code::Missing) };
        part_1(self.slice_memory_1, number, slice, FirstMemory::default()).map(Memory::of_first)
    }

    /// In per cent.
    pub(crate) fn slice_load(&self, device: Device, slice: u32) -> Result<f64, Code> {
        let Device::First(number) = device else { return Err(Code::Missing) };
        part_1(self.slice_load_1, number, slice, -1.0).map(f64::from)
    }

    /// Processes on a card, with the memory each holds in bytes where that is told.
    pub(crate) fn processes(&self, device: Device) -> Result<Vec<(u32, Option<u64>)>, Code> {
        match device {
            Device::First(number) => {
                let function = self.processes_1.ok_or(Code::Missing)?;
                let mut out = vec![FirstProcess::default(); ROOM];
                let mut count = 0;
                // SAFETY: the function is not told how much room there is; it writes 64 at the most.
                first(unsafe { function(number, &raw mut count, out.as_mut_ptr()) })?;
                Ok(out.iter().take(count as usize).filter(|p| is_pid(p.pid)).map(|p| (p.pid, None)).collect())
            }
            Device::Second(handle) => {
                let (function, words) = match (self.processes_2_v3.or(self.processes_2_v2), self.processes_2) {
                    (Some(newer), _) => (newer, 3),
                    (None, Some(older)) => (older, 2),
                    (None, None) => return Err(Code::Missing),
                };
                // Twice the room that the library is told of.
                let mut out = vec![0u64; ROOM * words * 2];
                let mut count = ROOM as c_uint;
                // SAFETY: the library is told how many there is room for, and there is more.
                second(unsafe { function(handle, &raw mut count, out.as_mut_ptr().cast()) })?;
                Ok(parse_processes(&out, count as usize, words))
            }
        }
    }

    /// Processes' samples newer than `last` (microseconds since 1970).
    pub(crate) fn process_samples(&self, device: Device, last: u64) -> Result<Vec<ProcessSample>, Code> {
        let Device::Second(handle) = device else { return Err(Code::Missing) };
        let function = self.process_load_2.ok_or(Code::Missing)?;
        let mut out = vec![ProcessSample::default(); ROOM];
        let mut count = ROOM as c_uint;
        // SAFETY: as in `processes`.
        second(unsafe { function(handle, out.as_mut_ptr(), &raw mut count, last) })?;
        out.truncate(count as usize);
        Ok(out)
    }
}

impl Memory {
    fn of_first(memory: FirstMemory) -> Self {
        Self { total: memory.total, used: u64::from(memory.used) << 20, free: None }
    }
}

fn is_pid(pid: u32) -> bool {
    (1..=1 << 22).contains(&pid)
}

/// Numbers of processes and the memory each holds, from structures of that many words.
fn parse_processes(words: &[u64], count: usize, size: usize) -> Vec<(u32, Option<u64>)> {
    let rows = words.chunks_exact(size).take(count);
    rows.filter_map(|row| {
        let [pid, memory, ..] = row else { return None };
        let [a, b, c, d, ..] = pid.to_ne_bytes();
        let pid = u32::from_ne_bytes([a, b, c, d]);
        is_pid(pid).then_some((pid, (*memory < 1 << 56).then_some(*memory)))
    })
    .collect()
}

/// The address on the bus that stands somewhere in a structure as text: `0000:1a:00.0`, the longest there is.
fn address_in(bytes: &[u8]) -> Option<String> {
    let is_part = |byte: &u8| byte.is_ascii_hexdigit() || [b':', b'.'].contains(byte);
    let texts = bytes.split(|byte| !is_part(byte));
    let is_address = |text: &&[u8]| text.iter().filter(|b| **b == b':').count() == 2 && text.contains(&b'.');
    let longest = texts.filter(is_address).max_by_key(|text| text.len())?;
    Some(String::from_utf8_lossy(longest).into_owned())
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn structures_are_laid_out_as_the_library_has_them() {
        assert_eq!((size_of::<RawInfo>(), offset_of!(RawInfo, domain), offset_of!(RawInfo, logical)), (156, 136, 152));
        assert_eq!((size_of::<RawPower>(), size_of::<RawClocks>(), size_of::<RawTemperatures>()), (8, 8, 12));
        assert_eq!((size_of::<FirstMemory>(), offset_of!(FirstMemory, used)), (16, 8));
        assert_eq!((size_of::<SecondMemory>(), offset_of!(SecondMemory, used)), (24, 16));
        assert_eq!((size_of::<Pcie>(), offset_of!(Pcie, width)), (16, 8));
        assert_eq!((size_of::<Throughput>(), offset_of!(Throughput, refused_sent)), (24, 8));
        assert_eq!((size_of::<Ecc>(), offset_of!(Ecc, corrected), offset_of!(Ecc, blacklist_pending)), (12, 4, 2));
        assert_eq!((size_of::<RawReturn>(), offset_of!(RawReturn, uncorrected)), (8, 4));
        assert_eq!((size_of::<RawVideo>(), size_of::<RawLoad>(), size_of::<Occupancy>()), (8, 8, 20));
        assert_eq!((size_of::<FirstProcess>(), offset_of!(FirstProcess, system_memory)), (24, 16));
        assert_eq!((size_of::<ProcessSample>(), offset_of!(ProcessSample, cores)), (32, 16));
    }

    #[test]
    fn codes_are_each_interfaces_own() {
        assert!(Code::First(3).is_absence() && Code::Second(3).is_absence() && Code::Missing.is_absence());
        assert!(Code::First(6).is_no_driver() && !Code::Second(6).is_no_driver() && Code::Second(6).is_absence());
        assert!(Code::Second(15).is_loss() && !Code::First(15).is_loss());
        assert!(Code::First(11).is_mismatch() && Code::Second(18).is_mismatch() && !Code::Second(11).is_mismatch());
    }

    #[test]
    fn an_address_is_found_in_either_form_of_the_structure() {
        let mut older = [0u8; 68];
        older[..12].copy_from_slice(b"0000:1A:00.0");
        older[36..52].copy_from_slice(b"00000000:1A:00.0");
        assert_eq!(address_in(&older).as_deref(), Some("00000000:1A:00.0"));
        let mut newer = [0u8; 56];
        newer[4] = 0x3b;
        newer[24..36].copy_from_slice(b"0000:3b:00.0");
        assert_eq!(address_in(&newer).as_deref(), Some("0000:3b:00.0"));
        assert_eq!(address_in(&[0; 68]), None);
    }

    #[test]
    fn processes_come_in_two_forms() {
        let words = [4242, 1 << 30, u64::MAX, 977, u64::MAX, u64::MAX, 0, 0, 0];
        assert_eq!(parse_processes(&words, 3, 3), [(4242, Some(1 << 30)), (977, None)]);
        assert_eq!(parse_processes(&[4242, 7, 977, 8], 1, 2), [(4242, Some(7))]);
        assert_eq!(parse_processes(&[4242, 7], 99, 2), [(4242, Some(7))]);
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            words in prop::collection::vec(any::<u64>(), 0..200),
            count in 0usize..300,
            code in any::<u32>(),
        ) {
            address_in(&bytes);
            for size in [2, 3] {
                parse_processes(&words, count, size);
            }
            for code in [Code::First(code), Code::Second(code)] {
                let _ = (code.is_absence(), code.is_loss(), code.is_no_driver(), code.is_mismatch(), code.is_hidden());
            }
        }
    }
}
