//! MXSML, the management library of MetaX.
//!
//! Cards are told by number. Native cards and virtual functions (slices that SR-IOV makes) are counted from 0, and the
//! physical functions behind those slices from 100. Newer modules have several chips (*dies*) on one card; for them
//! functions with `Die` in their name take the die's number too, and [`Place`] says which is meant.
//!
//! Units: memory in KiB, memory of processes and of sGPUs in bytes, power in milliwatts, temperature in hundredths of a
//! degree, clocks in MHz, traffic in MB/s, the load of a card in per cent and that of an sGPU in hundredths of one.
//!
//! Structures have grown in this library, and published declarations differ by a few bytes (the UUID of an sGPU has 94
//! characters in one and 96 in another). So whatever is filled lies before some room of ours ([`Roomy`]).

use std::ffi::{CStr, c_char, c_float, c_int, c_long, c_uint, c_ulonglong, c_void};
use std::ops::Deref;
use std::path::Path;

use super::{Library, OpenError, functions, text};

type Ret = c_uint;

/// What a function answered instead of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) c_uint);

impl Code {
    const NO_DEVICE: Self = Self(2);
    const NOT_SUPPORTED: Self = Self(3);
    const INVALID_DEVICE: Self = Self(6);
    const INVALID_DIE: Self = Self(7);
    const NO_PERMISSION: Self = Self(8);
    /// An argument this library does not know: a sensor or part that came later, or is another series'.
    const INVALID_INPUT: Self = Self(9);
    const INSUFFICIENT_SIZE: Self = Self(10);
    const VF_NOT_FOUND: Self = Self(18);
    /// Our own, for a function the library does not have.
    pub(crate) const MISSING: Self = Self(999);

    /// Whether it says that there is no such value here, which is no trouble.
    pub(crate) fn is_absence(self) -> bool {
        [Self::NOT_SUPPORTED, Self::INVALID_DIE, Self::NO_PERMISSION, Self::INVALID_INPUT, Self::MISSING]
            .contains(&self)
    }

    /// Whether the card has gone.
    pub(crate) fn is_loss(self) -> bool {
        [Self::NO_DEVICE, Self::INVALID_DEVICE, Self::VF_NOT_FOUND].contains(&self)
    }

    /// Whether there is no card at all, as initialisation says it.
    pub(crate) fn is_no_device(self) -> bool {
        self == Self::NO_DEVICE
    }
}

fn checked(ret: Ret) -> Result<(), Code> {
    if ret == 0 { Ok(()) } else { Err(Code(ret)) }
}

/// A card, or one of its dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) device: u32,
    pub(crate) die: Option<u32>,
}

/// What the library fills, and room behind it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Roomy<T> {
    value: T,
    room: [u64; 32],
}

impl<T> Roomy<T> {
    fn new(value: T) -> Self {
        Self { value, room: [0; 32] }
    }
}

/// `mxSmlDeviceInfo_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawInfo {
    device: c_uint,
    kind: c_uint,
    bdf: [c_char; 32],
    gpu: c_uint,
    node: c_uint,
    uuid: [c_char; 96],
    brand: c_uint,
    mode: c_uint,
    name: [c_char; 32],
}

/// Who a card is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) bdf: Option<String>,
    pub(crate) uuid: Option<String>,
    pub(crate) name: Option<String>,
    /// 1 is the N series, whose parts have other numbers than those of C and later.
    pub(crate) brand: u32,
    pub(crate) mode: Mode,
}

/// What virtualisation has made of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Native,
    Physical,
    Virtual,
}

/// `mxSmlMemoryInfo_t`, in KiB.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    visible_total: c_long,
    visible_used: c_long,
    pub(crate) total: c_long,
    pub(crate) used: c_long,
    system_total: c_long,
    system_used: c_long,
}

/// `mxSmlBoardWayElectricInfo_t`: one of the board's supplies, in millivolts, milliamperes and milliwatts.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Supply {
    millivolts: c_uint,
    milliamperes: c_uint,
    pub(crate) milliwatts: c_uint,
}

/// `mxSmlPcieInfo_t`, and one link's `mxSmlSingleMxlkInfo_t`: billions of transfers a second, and lanes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LinkInfo {
    pub(crate) speed: c_float,
    pub(crate) width: c_uint,
}

/// `mxSmlPcieThroughput_t`, in MB/s.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Throughput {
    pub(crate) received: c_int,
    pub(crate) transmitted: c_int,
}

/// `mxSmlMetaXLinkBandwidth_t`, in MB/s.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LinkRate {
    pub(crate) requests: c_int,
    responses: c_int,
}

/// `mxSmlMetaXLinkTrafficStat_t`, in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LinkTraffic {
    pub(crate) requests: c_long,
    responses: c_long,
}

/// `mxSmlEccErrorCount_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EccErrors {
    pub(crate) sram_corrected: c_uint,
    pub(crate) sram_uncorrected: c_uint,
    pub(crate) dram_corrected: c_uint,
    pub(crate) dram_uncorrected: c_uint,
    pub(crate) retired_pages: c_uint,
}

/// `mxSmlDeviceUnavailableReasonInfo_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawReason {
    code: c_int,
    reason: [c_char; 64],
}

/// `mxSmlVirtualDeviceIds_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct VirtualDevices {
    number: c_int,
    devices: [c_int; 128],
}

/// `mxSmlSgpuInfo_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawSgpu {
    parent: c_uint,
    id: c_uint,
    vram_quota: c_uint,
    software_priority: c_uint,
    compute_quota: c_uint,
    minor: c_uint,
    hardware_priority: c_uint,
    uuid: [c_char; 96],
}

/// A slice of a card that the driver shares out by time and memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sgpu {
    pub(crate) id: u32,
    pub(crate) uuid: Option<String>,
    /// In MiB.
    pub(crate) memory_quota: u32,
    /// In per cent.
    pub(crate) compute_quota: u32,
}

/// `mxSmlSgpuMemoryInfo_t`, in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SgpuMemory {
    pub(crate) total: c_long,
    pub(crate) used: c_long,
    pub(crate) free: c_long,
}

/// A process on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// In bytes.
    pub(crate) memory: Option<u64>,
    /// The sGPU it runs on.
    pub(crate) sgpu: Option<u32>,
}

/// A part of the chip that can be busy.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// The cores of the N series.
    Dla = 0,
    Encoder = 1,
    Decoder = 2,
    /// The cores of all later series.
    Xcore = 4,
    /// Matrix units; counted only where somebody has switched that on.
    Matrix = 5,
}

/// A sensor of temperature.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sensor {
    /// The hottest point of the chip.
    Hotspot = 0,
    /// The temperature above which the chip slows down.
    Limit = 1,
    Memory = 15,
}

/// A clock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    Dla = 1,
    /// Memory of the N series.
    Memory = 2,
    /// Memory of all later series.
    Memory0 = 3,
    Decoder = 6,
    Xcore = 11,
}

/// Which way over links. What others ask of this card comes in, what it asks of others goes out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    In = 0,
    Out = 1,
}

/// Errors of links.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LinkError {
    Replay = 0,
    Recovery = 1,
    Crc = 2,
}

/// States of a port of a link.
pub(crate) mod port {
    pub(crate) const UP: u32 = 1;
    pub(crate) const UNUSED: u32 = 5;
}

/// Which version.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Version {
    Bios = 0,
    Driver = 1,
}

functions! {
    /// What we call of MXSML.
    pub(crate) struct Mxsml {
        init = "mxSmlInit": fn() -> Ret;
        init_with_flags = "mxSmlInitWithFlags": fn(flags: c_uint) -> Ret;
        error_string = "mxSmlGetErrorString": fn(code: Ret) -> *const c_char;
        count = "mxSmlGetDeviceCount": fn() -> c_uint;
        physical_count = "mxSmlGetPfDeviceCount": fn() -> c_uint;
        info = "mxSmlGetDeviceInfo": fn(device: c_uint, out: *mut RawInfo) -> Ret;
        virtual_devices = "mxSmlGetVirtualDevicesByPhysicalId": fn(device: c_uint, out: *mut VirtualDevices) -> Ret;
        dies = "mxSmlGetDeviceDieCount": fn(device: c_uint, out: *mut c_uint) -> Ret;
        version = "mxSmlGetDeviceVersion": fn(
            device: c_uint, which: c_uint, out: *mut c_char, size: *mut c_uint,
        ) -> Ret;
        serial = "mxSmlGetBoardSerial": fn(device: c_uint, out: *mut c_char, size: *mut c_uint) -> Ret;
        state = "mxSmlGetDeviceState": fn(device: c_uint, out: *mut c_int) -> Ret;
        reason = "mxSmlGetDeviceUnavailableReason": fn(device: c_uint, out: *mut RawReason) -> Ret;
        die_reason = "mxSmlGetDieUnavailableReason": fn(device: c_uint, die: c_uint, out: *mut RawReason) -> Ret;
        usage = "mxSmlGetDeviceIpUsage": fn(device: c_uint, part: c_uint, out: *mut c_int) -> Ret;
        die_usage = "mxSmlGetDieIpUsage": fn(device: c_uint, die: c_uint, part: c_uint, out: *mut c_int) -> Ret;
        die_bandwidth = "mxSmlGetDieHbmBandwidthUtilization": fn(
            device: c_uint, die: c_uint, out: *mut c_uint,
        ) -> Ret;
        memory = "mxSmlGetMemoryInfo": fn(device: c_uint, out: *mut Memory) -> Ret;
        die_memory = "mxSmlGetDieMemoryInfo": fn(device: c_uint, die: c_uint, out: *mut Memory) -> Ret;
        supplies = "mxSmlGetBoardPowerInfo": fn(device: c_uint, size: *mut c_uint, out: *mut Supply) -> Ret;
        power_limit = "mxSmlGetBoardPowerLimit": fn(device: c_uint, out: *mut c_uint) -> Ret;
        temperature = "mxSmlGetTemperatureInfo": fn(device: c_uint, sensor: c_uint, out: *mut c_int) -> Ret;
        die_temperature = "mxSmlGetDieTemperatureInfo": fn(
            device: c_uint, die: c_uint, sensor: c_uint, out: *mut c_int,
        ) -> Ret;
        clocks = "mxSmlGetClocks": fn(device: c_uint, which: c_uint, size: *mut c_uint, out: *mut c_uint) -> Ret;
        die_clocks = "mxSmlGetDieClocks": fn(
            device: c_uint, die: c_uint, which: c_uint, size: *mut c_uint, out: *mut c_uint,
        ) -> Ret;
        clock_levels = "mxSmlGetDpmIpClockInfo": fn(
            device: c_uint, which: c_uint, out: *mut c_uint, size: *mut c_uint,
        ) -> Ret;
        throttle = "mxSmlGetCurrentClocksThrottleReason": fn(device: c_uint, out: *mut c_ulonglong) -> Ret;
        die_throttle = "mxSmlGetDieCurrentClocksThrottleReason": fn(
            device: c_uint, die: c_uint, out: *mut c_ulonglong,
        ) -> Ret;
        ecc = "mxSmlGetTotalEccErrors": fn(device: c_uint, out: *mut EccErrors) -> Ret;
        die_ecc = "mxSmlGetDieTotalEccErrors": fn(device: c_uint, die: c_uint, out: *mut EccErrors) -> Ret;
        pcie = "mxSmlGetPcieInfo": fn(device: c_uint, out: *mut LinkInfo) -> Ret;
        pcie_max = "mxSmlGetPcieMaxLinkInfo": fn(device: c_uint, out: *mut LinkInfo) -> Ret;
        pcie_throughput = "mxSmlGetPcieThroughput": fn(device: c_uint, out: *mut Throughput) -> Ret;
        pcie_errors = "mxSmlGetPcieErrorCounter": fn(device: c_uint, which: c_uint, out: *mut c_ulonglong) -> Ret;
        ports = "mxSmlGetMetaXLinkPortState": fn(device: c_uint, out: *mut c_uint, size: *mut c_uint) -> Ret;
        links = "mxSmlGetMetaXLinkInfo_v2": fn(device: c_uint, size: *mut c_uint, out: *mut LinkInfo) -> Ret;
        link_rates = "mxSmlGetMetaXLinkBandwidth": fn(
            device: c_uint, way: c_uint, size: *mut c_uint, out: *mut LinkRate,
        ) -> Ret;
        link_traffic = "mxSmlGetMetaXLinkTrafficStat": fn(
            device: c_uint, way: c_uint, size: *mut c_uint, out: *mut LinkTraffic,
        ) -> Ret;
        link_errors = "mxSmlGetMetaXLinkErrorCounter": fn(
            device: c_uint, which: c_uint, size: *mut c_uint, out: *mut c_ulonglong,
        ) -> Ret;
        processes_v3 = "mxSmlGetSingleGpuProcess_v3": fn(
            device: c_uint, number: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        processes_v2 = "mxSmlGetSingleGpuProcess_v2": fn(
            device: c_uint, number: *mut c_uint, out: *mut c_void,
        ) -> Ret;
        processes_v1 = "mxSmlGetSingleGpuProcess": fn(device: c_uint, number: *mut c_uint, out: *mut c_void) -> Ret;
        sgpu_count = "mxSmlGetSgpuCount": fn(device: c_uint) -> c_uint;
        sgpu_info = "mxSmlGetSgpuInfo": fn(device: c_uint, sgpu: c_uint, out: *mut RawSgpu) -> Ret;
        sgpu_memory = "mxSmlGetSgpuMemory": fn(device: c_uint, sgpu: c_uint, out: *mut SgpuMemory) -> Ret;
        sgpu_usage = "mxSmlGetSgpuUsage": fn(device: c_uint, sgpu: c_uint, out: *mut c_int) -> Ret;
    }
}

type OfDevice<T> = Option<unsafe extern "C" fn(c_uint, *mut T) -> Ret>;
/// With the number of a die, an sGPU or some other thing.
type OfPart<T> = Option<unsafe extern "C" fn(c_uint, c_uint, *mut T) -> Ret>;
type OfDiesPart<T> = Option<unsafe extern "C" fn(c_uint, c_uint, c_uint, *mut T) -> Ret>;

fn get<T: Copy>(function: OfDevice<T>, device: u32, empty: T) -> Result<T, Code> {
    let function = function.ok_or(Code::MISSING)?;
    let mut out = Roomy::new(empty);
    // SAFETY: `out` begins with what the function fills, and lives until it returns.
    checked(unsafe { function(device, (&raw mut out).cast()) })?;
    Ok(out.value)
}

fn select<T: Copy>(function: OfPart<T>, device: u32, which: u32, empty: T) -> Result<T, Code> {
    let function = function.ok_or(Code::MISSING)?;
    let mut out = Roomy::new(empty);
    // SAFETY: as in `get`.
    checked(unsafe { function(device, which, (&raw mut out).cast()) })?;
    Ok(out.value)
}

/// Of a card by the one function or of its die by the other, whichever there is.
fn get_at<T: Copy>(of_device: OfDevice<T>, of_die: OfPart<T>, place: Place, empty: T) -> Result<T, Code> {
    match place.die {
        None if of_device.is_some() => get(of_device, place.device, empty),
        die => select(of_die, place.device, die.unwrap_or(0), empty),
    }
}

fn select_at<T: Copy>(
    of_device: OfPart<T>,
    of_die: OfDiesPart<T>,
    place: Place,
    which: u32,
    empty: T,
) -> Result<T, Code> {
    if place.die.is_none() && of_device.is_some() {
        return select(of_device, place.device, which, empty);
    }
    let function = of_die.ok_or(Code::MISSING)?;
    let mut out = Roomy::new(empty);
    // SAFETY: as in `get`.
    checked(unsafe { function(place.device, place.die.unwrap_or(0), which, (&raw mut out).cast()) })?;
    Ok(out.value)
}

/// Room for a list. The longest that is documented has twelve entries.
const LIST: usize = 64;

/// A short list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List<T> {
    items: [T; LIST],
    length: usize,
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.items.get(..self.length).unwrap_or(&self.items)
    }
}

/// A list that `call` fills: it is given where its size stands and where it goes.
fn list<T: Copy>(empty: T, call: impl FnOnce(*mut c_uint, *mut T) -> Ret) -> Result<List<T>, Code> {
    let mut items = [empty; LIST];
    let mut size = LIST as c_uint;
    checked(call(&raw mut size, items.as_mut_ptr()))?;
    Ok(List { items, length: LIST.min(size as usize) })
}

/// Text of up to 256 characters; the library's own limits are lower.
fn text_by(call: impl FnOnce(*mut c_char, *mut c_uint) -> Ret) -> Result<String, Code> {
    let mut out: [c_char; 257] = [0; 257];
    let mut size: c_uint = 256;
    checked(call(out.as_mut_ptr(), &raw mut size))?;
    text(&out).ok_or(Code::NOT_SUPPORTED)
}

/// Processes there is room for at first, and at the most.
const ROOM: usize = 32;
const MAX_ROOM: usize = 1024;

impl Mxsml {
    /// Opens the library. Nothing is asked of the driver yet.
    pub(crate) fn open(configured: Option<&Path>, candidates: &[&str]) -> Result<Self, OpenError> {
        Library::open(configured, candidates).map(Self::load)
    }

    /// To be called first. Called again, it lists the cards anew, where the library can.
    pub(crate) fn initialize(&self) -> Result<(), Code> {
        match (self.init_with_flags, self.init) {
            // SAFETY: it takes a number and may be called at any time; 1 asks for the cards to be listed anew.
            (Some(init), _) => checked(unsafe { init(1) }),
            // SAFETY: it takes nothing and may be called at any time.
            (None, Some(init)) => checked(unsafe { init() }),
            (None, None) => Err(Code::MISSING),
        }
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

    /// Native cards and virtual functions: their numbers go up from 0.
    pub(crate) fn count(&self) -> Result<u32, Code> {
        // SAFETY: it takes nothing.
        self.count.map(|count| unsafe { count() }).ok_or(Code::MISSING)
    }

    /// Physical functions: their numbers go up from 100.
    pub(crate) fn physical_count(&self) -> u32 {
        // SAFETY: it takes nothing.
        self.physical_count.map_or(0, |count| unsafe { count() })
    }

    pub(crate) fn info(&self, device: u32) -> Result<Info, Code> {
        let empty = RawInfo {
            device: 0,
            kind: 0,
            bdf: [0; 32],
            gpu: 0,
            node: 0,
            uuid: [0; 96],
            brand: 0,
            mode: 0,
            name: [0; 32],
        };
        let info = get(self.info, device, empty)?;
        let mode = match info.mode {
            1 => Mode::Physical,
            2 => Mode::Virtual,
            _ => Mode::Native,
        };
        Ok(Info { bdf: text(&info.bdf), uuid: text(&info.uuid), name: text(&info.name), brand: info.brand, mode })
    }

    /// Numbers of the virtual functions of a physical one.
    pub(crate) fn virtual_devices(&self, device: u32) -> Result<Vec<u32>, Code> {
        let found = get(self.virtual_devices, device, VirtualDevices { number: 0, devices: [0; 128] })?;
        let number = usize::try_from(found.number).unwrap_or(0);
        Ok(found.devices.iter().take(number).filter_map(|device| u32::try_from(*device).ok()).collect())
    }

    pub(crate) fn dies(&self, device: u32) -> Result<u32, Code> {
        get(self.dies, device, 0)
    }

    pub(crate) fn version(&self, device: u32, which: Version) -> Result<String, Code> {
        let function = self.version.ok_or(Code::MISSING)?;
        // SAFETY: the function is told how much room there is.
        text_by(|out, size| unsafe { function(device, which as c_uint, out, size) })
    }

    pub(crate) fn serial(&self, device: u32) -> Result<String, Code> {
        let function = self.serial.ok_or(Code::MISSING)?;
        // SAFETY: as above.
        text_by(|out, size| unsafe { function(device, out, size) })
    }

    /// Whether the card is there to be used.
    pub(crate) fn is_available(&self, device: u32) -> Result<bool, Code> {
        get(self.state, device, 1).map(|state| state != 0)
    }

    /// What stands against its use, as a number and in words; 0 is nothing.
    pub(crate) fn reason(&self, place: Place) -> Result<(i32, Option<String>), Code> {
        let found = get_at(self.reason, self.die_reason, place, RawReason { code: 0, reason: [0; 64] })?;
        Ok((found.code, text(&found.reason)))
    }

    /// How busy a part is, in per cent.
    pub(crate) fn usage(&self, place: Place, part: Part) -> Result<i32, Code> {
        select_at(self.usage, self.die_usage, place, part as c_uint, -1)
    }

    /// Share of the memory's bandwidth in use, in per cent.
    pub(crate) fn bandwidth(&self, place: Place) -> Result<u32, Code> {
        get_at(None, self.die_bandwidth, place, c_uint::MAX)
    }

    pub(crate) fn memory(&self, place: Place) -> Result<Memory, Code> {
        get_at(self.memory, self.die_memory, place, Memory::default())
    }

    /// The board's supplies; together they are what it draws.
    pub(crate) fn supplies(&self, device: u32) -> Result<List<Supply>, Code> {
        let function = self.supplies.ok_or(Code::MISSING)?;
        // SAFETY: the function is told how many there is room for.
        list(Supply::default(), |size, out| unsafe { function(device, size, out) })
    }

    /// In milliwatts.
    pub(crate) fn power_limit(&self, device: u32) -> Result<u32, Code> {
        get(self.power_limit, device, 0)
    }

    /// In hundredths of a degree.
    pub(crate) fn temperature(&self, place: Place, sensor: Sensor) -> Result<i32, Code> {
        select_at(self.temperature, self.die_temperature, place, sensor as c_uint, c_int::MIN)
    }

    /// In MHz. Some clocks are told of each unit; the first stands for all.
    pub(crate) fn clock(&self, place: Place, which: Clock) -> Result<u32, Code> {
        let found = match (place.die, self.clocks, self.die_clocks) {
            (None, Some(function), _) => {
                // SAFETY: as in `supplies`.
                list(0, |size, out| unsafe { function(place.device, which as c_uint, size, out) })?
            }
            (die, _, Some(function)) => {
                let die = die.unwrap_or(0);
                // SAFETY: as in `supplies`.
                list(0, |size, out| unsafe { function(place.device, die, which as c_uint, size, out) })?
            }
            _ => return Err(Code::MISSING),
        };
        found.first().copied().ok_or(Code::NOT_SUPPORTED)
    }

    /// The highest clock of the cores, in MHz.
    pub(crate) fn clock_max(&self, device: u32, is_n: bool) -> Result<u32, Code> {
        let function = self.clock_levels.ok_or(Code::MISSING)?;
        // SAFETY: as in `supplies`.
        let levels = list(0, |size, out| unsafe { function(device, u32::from(!is_n), out, size) })?;
        levels.iter().copied().max().ok_or(Code::NOT_SUPPORTED)
    }

    /// Why the clocks are not higher, a bit each.
    pub(crate) fn throttle_reasons(&self, place: Place) -> Result<u64, Code> {
        get_at(self.throttle, self.die_throttle, place, 0)
    }

    pub(crate) fn ecc(&self, place: Place) -> Result<EccErrors, Code> {
        get_at(self.ecc, self.die_ecc, place, EccErrors::default())
    }

    pub(crate) fn pcie(&self, device: u32) -> Result<LinkInfo, Code> {
        get(self.pcie, device, LinkInfo::default())
    }

    pub(crate) fn pcie_max(&self, device: u32) -> Result<LinkInfo, Code> {
        get(self.pcie_max, device, LinkInfo::default())
    }

    pub(crate) fn pcie_throughput(&self, device: u32) -> Result<Throughput, Code> {
        get(self.pcie_throughput, device, Throughput { received: -1, transmitted: -1 })
    }

    pub(crate) fn pcie_replays(&self, device: u32) -> Result<u64, Code> {
        select(self.pcie_errors, device, LinkError::Replay as c_uint, 0)
    }

    /// States of the ports of its links.
    pub(crate) fn ports(&self, device: u32) -> Result<List<u32>, Code> {
        let function = self.ports.ok_or(Code::MISSING)?;
        // SAFETY: as in `supplies`.
        list(port::UNUSED, |size, out| unsafe { function(device, out, size) })
    }

    pub(crate) fn links(&self, device: u32) -> Result<List<LinkInfo>, Code> {
        let function = self.links.ok_or(Code::MISSING)?;
        // SAFETY: as in `supplies`.
        list(LinkInfo::default(), |size, out| unsafe { function(device, size, out) })
    }

    pub(crate) fn link_rates(&self, device: u32, way: Way) -> Result<List<LinkRate>, Code> {
        let function = self.link_rates.ok_or(Code::MISSING)?;
        // SAFETY: as in `supplies`.
        list(LinkRate::default(), |size, out| unsafe { function(device, way as c_uint, size, out) })
    }

    pub(crate) fn link_traffic(&self, device: u32, way: Way) -> Result<List<LinkTraffic>, Code> {
        let function = self.link_traffic.ok_or(Code::MISSING)?;
        // SAFETY: as in `supplies`.
        list(LinkTraffic::default(), |size, out| unsafe { function(device, way as c_uint, size, out) })
    }

    pub(crate) fn link_errors(&self, device: u32, which: LinkError) -> Result<List<u64>, Code> {
        let function = self.link_errors.ok_or(Code::MISSING)?;
        // SAFETY: as in `supplies`.
        list(0, |size, out| unsafe { function(device, which as c_uint, size, out) })
    }

    /// Processes on a card that has this address. `buffer` is room to be used again.
    pub(crate) fn processes(&self, device: u32, bdf: &str, buffer: &mut Vec<u64>) -> Result<Vec<Process>, Code> {
        let (function, form) = match (self.processes_v3, self.processes_v2, self.processes_v1) {
            (Some(function), ..) => (function, Form { entry_words: 7, has_sgpu: true }),
            (None, Some(function), _) => (function, Form { entry_words: 7, has_sgpu: false }),
            (None, None, Some(function)) => (function, Form { entry_words: 6, has_sgpu: false }),
            (None, None, None) => return Err(Code::MISSING),
        };
        let mut room = ROOM;
        loop {
            buffer.clear();
            // One more than the library is told of.
            buffer.resize((room + 1) * form.words(), 0);
            let mut number = c_uint::try_from(room).unwrap_or(c_uint::MAX);
            // SAFETY: the library is told how many there is room for, and there is room for the form it writes.
            let answer = checked(unsafe { function(device, &raw mut number, buffer.as_mut_ptr().cast()) });
            let number = number as usize;
            let is_full = answer == Err(Code::INSUFFICIENT_SIZE) || (answer.is_ok() && number >= room);
            if is_full && room < MAX_ROOM {
                room = (room * 4).max(number + 1).min(MAX_ROOM);
                continue;
            }
            answer?;
            return Ok(parse_processes(buffer, number.min(room), form, bdf));
        }
    }

    /// The slices of a card; none where it has not been cut.
    pub(crate) fn sgpus(&self, device: u32) -> Vec<Sgpu> {
        // SAFETY: it takes a number.
        let count = self.sgpu_count.map_or(0, |count| unsafe { count(device) }) as usize;
        let empty = RawSgpu {
            parent: 0,
            id: 0,
            vram_quota: 0,
            software_priority: 0,
            compute_quota: 0,
            minor: 0,
            hardware_priority: 0,
            uuid: [0; 96],
        };
        // A card has 16 at the most; their numbers have gaps where some were given up.
        let found = (0..16).filter(|_| count > 0).filter_map(|id| {
            let raw = select(self.sgpu_info, device, id, empty).ok()?;
            let uuid = text(&raw.uuid);
            Some(Sgpu { id, uuid, memory_quota: raw.vram_quota, compute_quota: raw.compute_quota })
        });
        found.take(count).collect()
    }

    pub(crate) fn sgpu_memory(&self, device: u32, sgpu: u32) -> Result<SgpuMemory, Code> {
        select(self.sgpu_memory, device, sgpu, SgpuMemory { total: -1, used: -1, free: -1 })
    }

    /// In hundredths of a per cent.
    pub(crate) fn sgpu_usage(&self, device: u32, sgpu: u32) -> Result<i32, Code> {
        select(self.sgpu_usage, device, sgpu, -1)
    }
}

/// A form of the structure for a process: number and name of the process, how many cards it uses, and then 64 entries
/// with the address, number and memory of a card, from the second form on with die and sGPU.
#[derive(Debug, Clone, Copy)]
struct Form {
    entry_words: usize,
    has_sgpu: bool,
}

/// Words before the entries: 72 bytes.
const HEAD: usize = 9;
const ENTRIES: usize = 64;

impl Form {
    fn words(self) -> usize {
        HEAD + ENTRIES * self.entry_words
    }
}

/// The processes, each once for a card or sGPU, with its memory on the card of that address.
fn parse_processes(words: &[u64], number: usize, form: Form, bdf: &str) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    for process in words.chunks_exact(form.words()).take(number) {
        let (head, entries) = process.split_at(HEAD.min(process.len()));
        let pid = head.first().map_or(0, |word| half(*word, 0));
        let cards = head.last().map_or(0, |word| half(*word, 1)) as usize;
        if !(1..=1 << 22).contains(&pid) {
            continue;
        }
        let entries = entries.chunks_exact(form.entry_words).take(cards);
        let mut is_here = false;
        for entry in entries {
            let [a, b, c, d, _, memory, rest @ ..] = entry else { continue };
            let address = [a, b, c, d].map(|word| word.to_ne_bytes()).concat();
            let address = address.split(|byte| *byte == 0).next().unwrap_or_default();
            // A process on one card only is on this one, however its address is written.
            if cards > 1 && !address.eq_ignore_ascii_case(bdf.as_bytes()) {
                continue;
            }
            is_here = true;
            let sgpu = rest.first().map(|word| half(*word, 1)).filter(|id| form.has_sgpu && *id < 16);
            let memory = (*memory < 1 << 56).then_some(*memory);
            match found.iter_mut().find(|process| process.pid == pid && process.sgpu == sgpu) {
                // It is on several dies.
                Some(process) => process.memory = process.memory.zip(memory).map(|(a, b)| a.saturating_add(b)),
                None => found.push(Process { pid, memory, sgpu }),
            }
        }
        if !is_here {
            found.push(Process { pid, memory: None, sgpu: None });
        }
    }
    found
}

/// The first or second half of a word, as it lies in memory.
fn half(word: u64, which: usize) -> u32 {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    u32::from_ne_bytes(if which == 0 { [a, b, c, d] } else { [e, f, g, h] })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn structures_are_laid_out_as_the_library_has_them() {
        assert_eq!((size_of::<RawInfo>(), offset_of!(RawInfo, bdf), offset_of!(RawInfo, uuid)), (184, 8, 48));
        assert_eq!((offset_of!(RawInfo, brand), offset_of!(RawInfo, name)), (144, 152));
        assert_eq!((size_of::<Memory>(), offset_of!(Memory, total), offset_of!(Memory, used)), (48, 16, 24));
        assert_eq!((size_of::<Supply>(), offset_of!(Supply, milliwatts)), (12, 8));
        assert_eq!((size_of::<LinkInfo>(), size_of::<Throughput>(), size_of::<LinkRate>()), (8, 8, 8));
        assert_eq!(size_of::<LinkTraffic>(), 16);
        assert_eq!((size_of::<EccErrors>(), offset_of!(EccErrors, retired_pages)), (20, 16));
        assert_eq!((size_of::<RawReason>(), offset_of!(RawReason, reason)), (68, 4));
        assert_eq!((size_of::<VirtualDevices>(), offset_of!(VirtualDevices, devices)), (516, 4));
        assert_eq!(
            (size_of::<RawSgpu>(), offset_of!(RawSgpu, compute_quota), offset_of!(RawSgpu, uuid)),
            (124, 16, 28)
        );
        assert_eq!(size_of::<SgpuMemory>(), 24);
        assert_eq!(offset_of!(Roomy<RawInfo>, value), 0);
        assert_eq!(Form { entry_words: 6, has_sgpu: false }.words() * 8, 3144);
        assert_eq!(Form { entry_words: 7, has_sgpu: true }.words() * 8, 3656);
    }

    /// Words of a process, with an address, memory, die and sGPU for each card.
    fn process(form: Form, pid: u32, cards: &[(&str, u64, u32, u32)]) -> Vec<u64> {
        let pair = |a: u32, b: u32| {
            let ([a, b, c, d], [e, f, g, h]) = (a.to_ne_bytes(), b.to_ne_bytes());
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        };
        let mut words = vec![0; form.words()];
        words[0] = pair(pid, 0);
        words[8] = pair(0, u32::try_from(cards.len()).unwrap());
        for (at, (bdf, memory, die, sgpu)) in cards.iter().enumerate() {
            let entry = &mut words[HEAD + at * form.entry_words..][..form.entry_words];
            for (word, bytes) in entry.iter_mut().zip(bdf.as_bytes().chunks(8)) {
                let mut eight = [0; 8];
                eight[..bytes.len()].copy_from_slice(bytes);
                *word = u64::from_ne_bytes(eight);
            }
            entry[5] = *memory;
            if form.entry_words > 6 {
                entry[6] = pair(*die, *sgpu);
            }
        }
        words
    }

    #[test]
    fn processes_come_in_several_forms() {
        let here = "0000:1a:00.0";
        let v1 = Form { entry_words: 6, has_sgpu: false };
        let words = [
            process(v1, 7, &[(here, 100, 0, 0)]),
            process(v1, 8, &[("0000:02:00.0", 50, 0, 0), ("0000:1A:00.0", 60, 0, 0)]),
            process(v1, 9, &[("0000:02:00.0", 50, 0, 0), ("0000:03:00.0", 60, 0, 0)]),
            process(v1, 0, &[]),
        ]
        .concat();
        let found: Vec<_> = parse_processes(&words, 4, v1, here).iter().map(|p| (p.pid, p.memory)).collect();
        assert_eq!(found, [(7, Some(100)), (8, Some(60)), (9, None)]);
        assert_eq!(parse_processes(&words, 1, v1, here).len(), 1);
        let v3 = Form { entry_words: 7, has_sgpu: true };
        let words =
            [process(v3, 7, &[(here, 100, 0, u32::MAX), (here, 20, 1, u32::MAX)]), process(v3, 8, &[(here, 5, 0, 3)])]
                .concat();
        let wanted =
            [Process { pid: 7, memory: Some(120), sgpu: None }, Process { pid: 8, memory: Some(5), sgpu: Some(3) }];
        assert_eq!(parse_processes(&words, 2, v3, here), wanted);
        assert_eq!(parse_processes(&words, 99, v3, here), wanted, "no more than there is room for");
    }

    proptest! {
        #[test]
        fn no_words_bring_it_down(
            words in prop::collection::vec(any::<u64>(), 0..1000),
            number in 0usize..300,
            has_sgpu in any::<bool>(),
            bdf in any::<String>(),
        ) {
            for entry_words in [6, 7] {
                parse_processes(&words, number, Form { entry_words, has_sgpu }, &bdf);
            }
        }
    }
}
