//! MTML, the management library of Moore Threads.
//!
//! Everything is reached from a handle: the library's, from it the system's and each device's, and from a device those
//! of its parts, the GPU, its memory and its video unit. Handles of parts are made once and given back before the
//! device's, and the device's before the library is shut down.
//!
//! Functions that give text are told how much room there is, most after the place it goes to, and a few before it.
//!
//! Units: bytes, milliwatts, degrees, MHz, per cent. Counts of errors are since the driver was loaded or in the board's
//! life, as asked.
//!
//! Temperatures of memory, limits of power and temperature, the core's voltage, the performance state and PCIe replays are
//! told by functions that the library has from driver 2.7 on and that its documentation leaves out; where they are
//! missing, so are the values. There is no list of processes, nor a count of traffic or energy.

use std::ffi::{CStr, c_char, c_float, c_int, c_uint, c_ulonglong, c_void};
use std::path::Path;

use super::{Library, OpenError, functions, text};

type Ret = c_uint;
type Raw = *mut c_void;

/// A device: a card, or an instance it was cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device(Raw);

/// A part of a device, of which each has its own functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gpu(Raw);

/// See [`Gpu`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory(Raw);

/// The unit for video. See [`Gpu`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Video(Raw);

/// The initialised library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session(Raw);

/// What a function answered instead of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) c_uint);

impl Code {
    pub(crate) const DRIVER_NOT_LOADED: Self = Self(1);
    const INVALID_ARGUMENT: Self = Self(3);
    pub(crate) const NOT_SUPPORTED: Self = Self(4);
    const NO_PERMISSION: Self = Self(5);
    const NOT_FOUND: Self = Self(7);
    const DRIVER_TOO_OLD: Self = Self(9);
    const DRIVER_TOO_NEW: Self = Self(10);
    /// Not in the library's own list, but bindings know it.
    const GPU_IS_LOST: Self = Self(669);
    /// Our own, for a function the library does not have.
    pub(crate) const MISSING: Self = Self(667);

    /// Whether it says that there is no such value here, which is no trouble.
    pub(crate) fn is_absence(self) -> bool {
        [Self::INVALID_ARGUMENT, Self::NOT_SUPPORTED, Self::NO_PERMISSION, Self::MISSING].contains(&self)
    }

    /// Whether the card has gone.
    pub(crate) fn is_loss(self) -> bool {
        [Self::NOT_FOUND, Self::GPU_IS_LOST].contains(&self)
    }

    /// Whether this user may not see the card.
    pub(crate) fn is_hidden(self) -> bool {
        self == Self::NO_PERMISSION
    }

    /// Whether library and driver do not fit each other.
    pub(crate) fn is_mismatch(self) -> bool {
        [Self::DRIVER_TOO_OLD, Self::DRIVER_TOO_NEW].contains(&self)
    }
}

fn checked(ret: Ret) -> Result<(), Code> {
    if ret == 0 { Ok(()) } else { Err(Code(ret)) }
}

/// What the library fills, and room behind it: its structures end in room that it keeps for later.
#[repr(C)]
#[derive(Clone, Copy)]
struct Roomy<T> {
    value: T,
    room: [u64; 16],
}

/// Where a device is on the bus, and how fast.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawPci {
    address: [c_char; 32],
    segment: c_uint,
    bus: c_uint,
    device: c_uint,
    device_id: c_uint,
    subsystem_id: c_uint,
    bus_width: c_uint,
    max_speed: c_float,
    speed: c_float,
    max_width: c_uint,
    width: c_uint,
    max_generation: c_uint,
    generation: c_uint,
    reserved: [c_int; 6],
}

/// Where a device is on the bus, and how wide and new its link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pci {
    pub(crate) address: Option<String>,
    pub(crate) max_width: u32,
    pub(crate) width: u32,
    pub(crate) max_generation: u32,
    pub(crate) generation: u32,
}

/// Bits that say what a device is.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RawProperty {
    bits: c_uint,
    reserved: c_uint,
}

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Property {
    /// A slice for a virtual machine.
    pub(crate) is_virtual: bool,
    /// An instance of a card that was cut (MPC).
    pub(crate) is_instance: bool,
    /// A card that was cut.
    pub(crate) is_cut: bool,
    /// Whether it can be cut.
    pub(crate) can_be_cut: bool,
}

/// Load of the video unit, in per cent.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct VideoLoad {
    load: c_uint,
    period: c_uint,
    pub(crate) encoder: c_uint,
    pub(crate) decoder: c_uint,
    reserved: [c_int; 2],
}

/// Links of a device: the last number is how many.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RawLinks {
    version: c_uint,
    bandwidth: c_uint,
    count: c_uint,
    reserved: [c_uint; 4],
}

/// Pages retired after several corrected errors, and after one that could not be corrected.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RetiredPages {
    pub(crate) corrected: c_uint,
    pub(crate) uncorrected: c_uint,
}

/// What an instance was cut by.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawProfile {
    id: c_uint,
    cores: c_uint,
    memory: c_ulonglong,
    name: [c_char; 32],
    reserved: [c_uint; 10],
}

/// What an instance was cut by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) name: Option<String>,
    pub(crate) cores: u32,
}

functions! {
    /// What we call of MTML.
    pub(crate) struct Mtml {
        init = "mtmlLibraryInit": fn(out: *mut Raw) -> Ret;
        shut_down = "mtmlLibraryShutDown": fn(session: Raw) -> Ret;
        error_string = "mtmlErrorString": fn(code: Ret) -> *const c_char;
        count = "mtmlLibraryCountDevice": fn(session: Raw, out: *mut c_uint) -> Ret;
        device = "mtmlLibraryInitDeviceByIndex": fn(session: Raw, index: c_uint, out: *mut Raw) -> Ret;
        free_device = "mtmlLibraryFreeDevice": fn(device: Raw) -> Ret;
        system = "mtmlLibraryInitSystem": fn(session: Raw, out: *mut Raw) -> Ret;
        free_system = "mtmlLibraryFreeSystem": fn(system: Raw) -> Ret;
        driver_version = "mtmlSystemGetDriverVersion": fn(system: Raw, out: *mut c_char, length: c_uint) -> Ret;
        uuid = "mtmlDeviceGetUUID": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        name = "mtmlDeviceGetName": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        serial = "mtmlDeviceGetSerialNumber": fn(device: Raw, length: c_uint, out: *mut c_char) -> Ret;
        bios = "mtmlDeviceGetMtBiosVersion": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        old_bios = "mtmlDeviceGetVbiosVersion": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        primary_path = "mtmlDeviceGetPrimaryPath": fn(device: Raw, out: *mut c_char, length: c_uint) -> Ret;
        pci = "mtmlDeviceGetPciInfo": fn(device: Raw, out: *mut RawPci) -> Ret;
        property = "mtmlDeviceGetProperty": fn(device: Raw, out: *mut RawProperty) -> Ret;
        cores = "mtmlDeviceCountGpuCores": fn(device: Raw, out: *mut c_uint) -> Ret;
        power = "mtmlDeviceGetPowerUsage": fn(device: Raw, out: *mut c_uint) -> Ret;
        pcie_replays = "mtmlDeviceGetPcieReplayCounter": fn(device: Raw, out: *mut c_uint) -> Ret;
        performance_state = "mtmlDeviceGetPerformanceState": fn(device: Raw, out: *mut c_int) -> Ret;
        fan = "mtmlDeviceGetFanSpeed": fn(device: Raw, index: c_uint, out: *mut c_uint) -> Ret;
        links = "mtmlDeviceGetMtLinkSpec": fn(device: Raw, out: *mut RawLinks) -> Ret;
        link_state = "mtmlDeviceGetMtLinkState": fn(device: Raw, link: c_uint, out: *mut c_uint) -> Ret;
        mpc_mode = "mtmlDeviceGetMpcMode": fn(device: Raw, out: *mut c_uint) -> Ret;
        mpc_count = "mtmlDeviceCountMpcInstances": fn(device: Raw, out: *mut c_uint) -> Ret;
        mpc_instance = "mtmlDeviceGetMpcInstanceByIndex": fn(device: Raw, index: c_uint, out: *mut Raw) -> Ret;
        mpc_profile = "mtmlDeviceGetMpcProfileInfo": fn(device: Raw, out: *mut RawProfile) -> Ret;
        gpu = "mtmlDeviceInitGpu": fn(device: Raw, out: *mut Raw) -> Ret;
        free_gpu = "mtmlDeviceFreeGpu": fn(gpu: Raw) -> Ret;
        gpu_load = "mtmlGpuGetUtilization": fn(gpu: Raw, out: *mut c_uint) -> Ret;
        gpu_temperature = "mtmlGpuGetTemperature": fn(gpu: Raw, out: *mut c_uint) -> Ret;
        threshold = "mtmlGpuGetTemperatureThreshold": fn(gpu: Raw, which: c_uint, out: *mut c_uint) -> Ret;
        power_limit = "mtmlGpuGetEnforcedPowerLimit": fn(gpu: Raw, out: *mut c_uint) -> Ret;
        voltage = "mtmlGpuGetVoltage": fn(gpu: Raw, out: *mut c_uint) -> Ret;
        gpu_clock = "mtmlGpuGetClock": fn(gpu: Raw, out: *mut c_uint) -> Ret;
        gpu_clock_max = "mtmlGpuGetMaxClock": fn(gpu: Raw, out: *mut c_uint) -> Ret;
        memory = "mtmlDeviceInitMemory": fn(device: Raw, out: *mut Raw) -> Ret;
        free_memory = "mtmlDeviceFreeMemory": fn(memory: Raw) -> Ret;
        memory_total = "mtmlMemoryGetTotal": fn(memory: Raw, out: *mut c_ulonglong) -> Ret;
        memory_used = "mtmlMemoryGetUsed": fn(memory: Raw, out: *mut c_ulonglong) -> Ret;
        memory_reserved = "mtmlMemoryGetUsedSystem": fn(memory: Raw, out: *mut c_ulonglong) -> Ret;
        memory_temperature = "mtmlMemoryGetTemperature": fn(memory: Raw, out: *mut c_uint) -> Ret;
        memory_load = "mtmlMemoryGetUtilization": fn(memory: Raw, out: *mut c_uint) -> Ret;
        memory_clock = "mtmlMemoryGetClock": fn(memory: Raw, out: *mut c_uint) -> Ret;
        memory_clock_max = "mtmlMemoryGetMaxClock": fn(memory: Raw, out: *mut c_uint) -> Ret;
        ecc = "mtmlMemoryGetEccErrorCounter": fn(
            memory: Raw, error: c_uint, counter: c_uint, place: c_uint, out: *mut c_ulonglong,
        ) -> Ret;
        retired_pages = "mtmlMemoryGetRetiredPagesCount": fn(memory: Raw, out: *mut RetiredPages) -> Ret;
        retired_pending = "mtmlMemoryGetRetiredPagesPendingStatus": fn(memory: Raw, out: *mut c_uint) -> Ret;
        video = "mtmlDeviceInitVpu": fn(device: Raw, out: *mut Raw) -> Ret;
        free_video = "mtmlDeviceFreeVpu": fn(video: Raw) -> Ret;
        video_load = "mtmlVpuGetUtilization": fn(video: Raw, out: *mut VideoLoad) -> Ret;
        video_clock = "mtmlVpuGetClock": fn(video: Raw, out: *mut c_uint) -> Ret;
    }
}

/// A function that fills one value of what a handle stands for.
type Getter<T> = Option<unsafe extern "C" fn(Raw, *mut T) -> Ret>;

fn get<T: Copy>(function: Getter<T>, of: Raw, empty: T) -> Result<T, Code> {
    let function = function.ok_or(Code::MISSING)?;
    let mut out = Roomy { value: empty, room: [0; 16] };
    // SAFETY: `out` begins with what the function fills, and lives until it returns; the handle is one of the library's.
    checked(unsafe { function(of, (&raw mut out).cast()) })?;
    Ok(out.value)
}

fn select(
    function: Option<unsafe extern "C" fn(Raw, c_uint, *mut c_uint) -> Ret>,
    of: Raw,
    which: u32,
) -> Result<u32, Code> {
    let function = function.ok_or(Code::MISSING)?;
    let mut out = c_uint::MAX;
    // SAFETY: as in `get`.
    checked(unsafe { function(of, which, &raw mut out) })?;
    Ok(out)
}

/// A handle that the library makes.
fn made(function: Getter<Raw>, of: Raw) -> Result<Raw, Code> {
    let out = get(function, of, std::ptr::null_mut())?;
    if out.is_null() { Err(Code::NOT_SUPPORTED) } else { Ok(out) }
}

fn give_back(function: Option<unsafe extern "C" fn(Raw) -> Ret>, what: Raw) {
    if let Some(free) = function {
        // SAFETY: the library made it, and the caller gives it up.
        let _ = unsafe { free(what) };
    }
}

/// Room for text; the library's own limit is 80.
const TEXT: usize = 256;

fn text_of(function: Option<unsafe extern "C" fn(Raw, *mut c_char, c_uint) -> Ret>, of: Raw) -> Result<String, Code> {
    let function = function.ok_or(Code::MISSING)?;
    let mut out: [c_char; TEXT] = [0; TEXT];
    // SAFETY: the function is told how much room there is. One byte less, so that the text ends in any case.
    checked(unsafe { function(of, out.as_mut_ptr(), TEXT as c_uint - 1) })?;
    text(&out).ok_or(Code::NOT_SUPPORTED)
}

impl Mtml {
    /// Opens the library. Nothing is asked of the driver yet.
    pub(crate) fn open(configured: Option<&Path>, candidates: &[&str]) -> Result<Self, OpenError> {
        Library::open(configured, candidates).map(Self::load)
    }

    /// To be called first, and again after [`Mtml::shut_down`].
    pub(crate) fn initialize(&self) -> Result<Session, Code> {
        let init = self.init.ok_or(Code::MISSING)?;
        let mut out: Raw = std::ptr::null_mut();
        // SAFETY: it fills a handle.
        checked(unsafe { init(&raw mut out) })?;
        Ok(Session(out))
    }

    /// Gives up all that was initialised; the caller has given back all handles.
    pub(crate) fn shut_down(&self, Session(session): Session) {
        give_back(self.shut_down, session);
    }

    /// A code in the library's words.
    pub(crate) fn describe(&self, Code(number): Code) -> String {
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

    pub(crate) fn count(&self, session: Session) -> Result<u32, Code> {
        get(self.count, session.0, 0)
    }

    pub(crate) fn device(&self, session: Session, index: u32) -> Result<Device, Code> {
        let function = self.device.ok_or(Code::MISSING)?;
        let mut out: Raw = std::ptr::null_mut();
        // SAFETY: as in `get`.
        checked(unsafe { function(session.0, index, &raw mut out) })?;
        if out.is_null() { Err(Code::NOT_FOUND) } else { Ok(Device(out)) }
    }

    pub(crate) fn give_back_device(&self, Device(device): Device) {
        give_back(self.free_device, device);
    }

    pub(crate) fn driver_version(&self, session: Session) -> Option<String> {
        let system = made(self.system, session.0).ok()?;
        let version = text_of(self.driver_version, system).ok();
        give_back(self.free_system, system);
        version
    }

    pub(crate) fn uuid(&self, device: Device) -> Result<String, Code> {
        text_of(self.uuid, device.0)
    }

    pub(crate) fn name(&self, device: Device) -> Result<String, Code> {
        text_of(self.name, device.0)
    }

    pub(crate) fn serial(&self, device: Device) -> Result<String, Code> {
        let function = self.serial.ok_or(Code::MISSING)?;
        let mut out: [c_char; TEXT] = [0; TEXT];
        // SAFETY: as in `text_of`.
        checked(unsafe { function(device.0, TEXT as c_uint - 1, out.as_mut_ptr()) })?;
        text(&out).ok_or(Code::NOT_SUPPORTED)
    }

    pub(crate) fn firmware(&self, device: Device) -> Result<String, Code> {
        text_of(self.bios, device.0).or_else(|_| text_of(self.old_bios, device.0))
    }

    /// Its file below `/dev`.
    pub(crate) fn device_path(&self, device: Device) -> Result<String, Code> {
        text_of(self.primary_path, device.0)
    }

    pub(crate) fn pci(&self, device: Device) -> Result<Pci, Code> {
        let empty = RawPci {
            address: [0; 32],
            segment: 0,
            bus: 0,
            device: 0,
            device_id: 0,
            subsystem_id: 0,
            bus_width: 0,
            max_speed: 0.0,
            speed: 0.0,
            max_width: 0,
            width: 0,
            max_generation: 0,
            generation: 0,
            reserved: [0; 6],
        };
        let found = get(self.pci, device.0, empty)?;
        let by_number = || format!("{:04x}:{:02x}:{:02x}.0", found.segment, found.bus, found.device);
        let is_known = found.bus != 0 || found.device != 0;
        Ok(Pci {
            // Some drivers leave the text empty.
            address: text(&found.address).or_else(|| is_known.then(by_number)),
            max_width: found.max_width,
            width: found.width,
            max_generation: found.max_generation,
            generation: found.generation,
        })
    }

    pub(crate) fn property(&self, device: Device) -> Result<Property, Code> {
        get(self.property, device.0, RawProperty::default()).map(|property| parse_property(property.bits))
    }

    pub(crate) fn cores(&self, device: Device) -> Result<u32, Code> {
        get(self.cores, device.0, 0)
    }

    /// In milliwatts.
    pub(crate) fn power(&self, device: Device) -> Result<u32, Code> {
        get(self.power, device.0, 0)
    }

    pub(crate) fn pcie_replays(&self, device: Device) -> Result<u32, Code> {
        get(self.pcie_replays, device.0, c_uint::MAX)
    }

    pub(crate) fn performance_state(&self, device: Device) -> Result<i32, Code> {
        get(self.performance_state, device.0, -1)
    }

    /// Of the first fan, in per cent.
    pub(crate) fn fan(&self, device: Device) -> Result<u32, Code> {
        select(self.fan, device.0, 0)
    }

    /// How many links it has.
    pub(crate) fn links(&self, device: Device) -> Result<u32, Code> {
        get(self.links, device.0, RawLinks::default()).map(|links| links.count)
    }

    /// Whether that link is up, if only with less than its speed.
    pub(crate) fn link_is_up(&self, device: Device, link: u32) -> Result<bool, Code> {
        select(self.link_state, device.0, link).map(|state| state == 1 || state == 2)
    }

    /// Whether the card is cut into instances.
    pub(crate) fn is_cut(&self, device: Device) -> Result<bool, Code> {
        get(self.mpc_mode, device.0, 0).map(|mode| mode == 1)
    }

    pub(crate) fn instances(&self, device: Device) -> Result<u32, Code> {
        get(self.mpc_count, device.0, 0)
    }

    pub(crate) fn instance(&self, device: Device, index: u32) -> Result<Device, Code> {
        let function = self.mpc_instance.ok_or(Code::MISSING)?;
        let mut out: Raw = std::ptr::null_mut();
        // SAFETY: as in `get`.
        checked(unsafe { function(device.0, index, &raw mut out) })?;
        if out.is_null() { Err(Code::NOT_FOUND) } else { Ok(Device(out)) }
    }

    pub(crate) fn profile(&self, instance: Device) -> Result<Profile, Code> {
        let empty = RawProfile { id: 0, cores: 0, memory: 0, name: [0; 32], reserved: [0; 10] };
        let found = get(self.mpc_profile, instance.0, empty)?;
        Ok(Profile { name: text(&found.name), cores: found.cores })
    }

    pub(crate) fn gpu(&self, device: Device) -> Result<Gpu, Code> {
        made(self.gpu, device.0).map(Gpu)
    }

    pub(crate) fn give_back_gpu(&self, Gpu(gpu): Gpu) {
        give_back(self.free_gpu, gpu);
    }

    /// In per cent.
    pub(crate) fn load_of(&self, gpu: Gpu) -> Result<u32, Code> {
        get(self.gpu_load, gpu.0, c_uint::MAX)
    }

    /// In degrees.
    pub(crate) fn temperature(&self, gpu: Gpu) -> Result<u32, Code> {
        get(self.gpu_temperature, gpu.0, c_uint::MAX)
    }

    /// In degrees.
    pub(crate) fn shutdown_temperature(&self, gpu: Gpu) -> Result<u32, Code> {
        select(self.threshold, gpu.0, 0)
    }

    /// In degrees.
    pub(crate) fn slowdown_temperature(&self, gpu: Gpu) -> Result<u32, Code> {
        select(self.threshold, gpu.0, 1)
    }

    /// In milliwatts.
    pub(crate) fn power_limit(&self, gpu: Gpu) -> Result<u32, Code> {
        get(self.power_limit, gpu.0, 0)
    }

    /// In millivolts.
    pub(crate) fn voltage(&self, gpu: Gpu) -> Result<u32, Code> {
        get(self.voltage, gpu.0, 0)
    }

    /// In MHz.
    pub(crate) fn gpu_clock(&self, gpu: Gpu) -> Result<u32, Code> {
        get(self.gpu_clock, gpu.0, c_uint::MAX)
    }

    /// In MHz.
    pub(crate) fn gpu_clock_max(&self, gpu: Gpu) -> Result<u32, Code> {
        get(self.gpu_clock_max, gpu.0, c_uint::MAX)
    }

    pub(crate) fn memory(&self, device: Device) -> Result<Memory, Code> {
        made(self.memory, device.0).map(Memory)
    }

    pub(crate) fn give_back_memory(&self, Memory(memory): Memory) {
        give_back(self.free_memory, memory);
    }

    /// In bytes.
    pub(crate) fn memory_total(&self, memory: Memory) -> Result<u64, Code> {
        get(self.memory_total, memory.0, c_ulonglong::MAX)
    }

    /// In bytes.
    pub(crate) fn memory_used(&self, memory: Memory) -> Result<u64, Code> {
        get(self.memory_used, memory.0, c_ulonglong::MAX)
    }

    /// What the driver keeps for itself, in bytes.
    pub(crate) fn memory_reserved(&self, memory: Memory) -> Result<u64, Code> {
        get(self.memory_reserved, memory.0, c_ulonglong::MAX)
    }

    /// In degrees.
    pub(crate) fn memory_temperature(&self, memory: Memory) -> Result<u32, Code> {
        get(self.memory_temperature, memory.0, c_uint::MAX)
    }

    /// How busy it is, in per cent.
    pub(crate) fn memory_load(&self, memory: Memory) -> Result<u32, Code> {
        get(self.memory_load, memory.0, c_uint::MAX)
    }

    /// In MHz.
    pub(crate) fn memory_clock(&self, memory: Memory) -> Result<u32, Code> {
        get(self.memory_clock, memory.0, c_uint::MAX)
    }

    /// In MHz.
    pub(crate) fn memory_clock_max(&self, memory: Memory) -> Result<u32, Code> {
        get(self.memory_clock_max, memory.0, c_uint::MAX)
    }

    /// Errors of device memory: corrected or not, since the driver was loaded or in the board's life.
    pub(crate) fn ecc(&self, memory: Memory, uncorrected: bool, in_life: bool) -> Result<u64, Code> {
        let function = self.ecc.ok_or(Code::MISSING)?;
        let mut out = c_ulonglong::MAX;
        // SAFETY: as in `get`. Places of memory are bits, of which the first is device memory.
        checked(unsafe { function(memory.0, uncorrected.into(), in_life.into(), 1, &raw mut out) })?;
        Ok(out)
    }

    pub(crate) fn retired_pages(&self, memory: Memory) -> Result<RetiredPages, Code> {
        get(self.retired_pages, memory.0, RetiredPages::default())
    }

    /// Whether pages wait to be retired.
    pub(crate) fn is_retirement_pending(&self, memory: Memory) -> Result<bool, Code> {
        get(self.retired_pending, memory.0, 0).map(|state| state == 1)
    }

    pub(crate) fn video(&self, device: Device) -> Result<Video, Code> {
        made(self.video, device.0).map(Video)
    }

    pub(crate) fn give_back_video(&self, Video(video): Video) {
        give_back(self.free_video, video);
    }

    pub(crate) fn video_load(&self, video: Video) -> Result<VideoLoad, Code> {
        get(self.video_load, video.0, VideoLoad::default())
    }

    /// In MHz.
    pub(crate) fn video_clock(&self, video: Video) -> Result<u32, Code> {
        get(self.video_clock, video.0, c_uint::MAX)
    }
}

/// From the lowest bit: can be virtualised (1), its part in that (3), can be cut (1), its part in that (3), has links (1).
fn parse_property(bits: u32) -> Property {
    let (role, can_be_cut, kind) = (bits >> 1 & 7, bits >> 4 & 1, bits >> 5 & 7);
    Property { is_virtual: role == 1, can_be_cut: can_be_cut == 1, is_cut: kind == 1, is_instance: kind == 2 }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn structures_are_laid_out_as_the_library_has_them() {
        assert_eq!((size_of::<RawPci>(), offset_of!(RawPci, segment), offset_of!(RawPci, max_speed)), (104, 32, 56));
        assert_eq!((offset_of!(RawPci, max_width), offset_of!(RawPci, generation)), (64, 76));
        assert_eq!(size_of::<RawProperty>(), 8);
        assert_eq!((size_of::<VideoLoad>(), offset_of!(VideoLoad, encoder)), (24, 8));
        assert_eq!((size_of::<RawLinks>(), offset_of!(RawLinks, count)), (28, 8));
        assert_eq!(size_of::<RetiredPages>(), 8);
        assert_eq!(
            (size_of::<RawProfile>(), offset_of!(RawProfile, memory), offset_of!(RawProfile, name)),
            (88, 8, 16)
        );
        assert_eq!(offset_of!(Roomy<RawPci>, value), 0);
    }

    #[test]
    fn bits_say_what_a_device_is() {
        let whole = Property { is_virtual: false, is_instance: false, is_cut: false, can_be_cut: false };
        assert_eq!(parse_property(0), whole);
        assert_eq!(parse_property(0b1_0000_0001), whole, "what can be virtualised, with links");
        assert_eq!(parse_property(0b0010), Property { is_virtual: true, ..whole });
        assert_eq!(parse_property(0b0011_0000), Property { is_cut: true, can_be_cut: true, ..whole });
        assert_eq!(parse_property(0b0100_0000), Property { is_instance: true, ..whole });
    }

    proptest! {
        #[test]
        fn no_bits_bring_it_down(bits in any::<u32>()) {
            let property = parse_property(bits);
            prop_assert!(!(property.is_cut && property.is_instance));
        }
    }
}
