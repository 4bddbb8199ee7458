//! ROCm SMI (`librocm_smi64`): AMD's library, and Hygon's, who has built it after AMD's.
//!
//! Four things to know about its C interface:
//!
//! - Devices are numbers from 0. They are counted when the library is initialised, and what appears or goes later is
//!   seen only after it was shut down and initialised again.
//! - A structure may have grown under the same name. So what the library fills is given more zeroed room than any known
//!   form needs, and which form was written is told from what is in it: see [`parse_frequencies`] (a leading `bool` came
//!   in), [`parse_processes`] (fields were appended).
//! - "Not supported" has many names: the library reads files of the driver's, and a file that is not there may be
//!   `NOT_SUPPORTED`, `FILE_ERROR` or `NO_DATA`.
//! - It keeps a lock in shared memory (`/dev/shm/rocm_smi_card…`) that all its users on the machine share, and some calls
//!   take long: `rsmi_dev_pci_throughput_get` measures for a whole second, so it is not here.
//!
//! Units: per cent, bytes, microwatts, thousandths of a degree, millivolts, hertz.

use std::ffi::{CStr, c_char, c_int};
use std::path::Path;

use super::{Library, OpenError, functions, text};

type Ret = u32;

/// What a function answered instead of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u32);

impl Code {
    /// Ours: the library has no such function.
    pub(crate) const MISSING: Self = Self(0xffff_fffe);
    /// Ours: the library said something that it cannot mean.
    pub(crate) const UNREADABLE: Self = Self(0xffff_fffd);
    pub(crate) const NOT_SUPPORTED: Self = Self(2);
    pub(crate) const FILE_ERROR: Self = Self(3);
    pub(crate) const PERMISSION: Self = Self(4);
    /// Nothing to initialise: there is no driver or no device.
    pub(crate) const INIT_ERROR: Self = Self(8);
    pub(crate) const NOT_YET_IMPLEMENTED: Self = Self(9);
    pub(crate) const NOT_FOUND: Self = Self(10);
    pub(crate) const INSUFFICIENT_SIZE: Self = Self(11);
    pub(crate) const NO_DATA: Self = Self(14);
    pub(crate) const UNEXPECTED_DATA: Self = Self(15);
    pub(crate) const SETTING_UNAVAILABLE: Self = Self(18);

    /// Whether it says that there is no such value here, which is no trouble.
    pub(crate) fn is_absence(self) -> bool {
        [
            Self::MISSING,
            Self::NOT_SUPPORTED,
            Self::FILE_ERROR,
            Self::PERMISSION,
            Self::NOT_YET_IMPLEMENTED,
            Self::NOT_FOUND,
            Self::NO_DATA,
            Self::UNEXPECTED_DATA,
            Self::SETTING_UNAVAILABLE,
            Self(1), // an argument this library does not know, as a sensor of a newer form
        ]
        .contains(&self)
    }
}

fn checked(ret: Ret) -> Result<(), Code> {
    if ret == 0 { Ok(()) } else { Err(Code(ret)) }
}

/// `rsmi_version_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Version {
    major: u32,
    minor: u32,
    patch: u32,
    build: *const c_char,
}

/// Which sensor of temperature.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sensor {
    Edge = 0,
    /// The hottest point.
    Junction = 1,
    Memory = 2,
}

/// Which temperature of a sensor.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Metric {
    Current = 0,
    Critical = 5,
    Emergency = 7,
}

/// Which clock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    Core = 0,
    Memory = 4,
}

/// What a clock can be and is, in hertz.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frequencies {
    pub(crate) current: u64,
    pub(crate) max: u64,
}

/// Parts of a chip that count errors, by the bit that names them: those of memory.
pub(crate) const MEMORY_CONTROLLER: u64 = 0x1;

/// A process that computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Bytes of the device's memory; `None` where the library does not tell.
    pub(crate) memory: Option<u64>,
    /// Compute units in use, in per cent of the device's.
    pub(crate) occupancy: Option<u32>,
}

functions! {
    /// What we call of ROCm SMI.
    pub(crate) struct Rsmi {
        init = "rsmi_init": fn(flags: u64) -> Ret;
        shut_down = "rsmi_shut_down": fn() -> Ret;
        status_string = "rsmi_status_string": fn(status: Ret, out: *mut *const c_char) -> Ret;
        version = "rsmi_version_get": fn(out: *mut Version) -> Ret;
        component_version = "rsmi_version_str_get": fn(component: c_int, out: *mut c_char, length: u32) -> Ret;
        count = "rsmi_num_monitor_devices": fn(out: *mut u32) -> Ret;
        unique_id = "rsmi_dev_unique_id_get": fn(device: u32, out: *mut u64) -> Ret;
        name = "rsmi_dev_name_get": fn(device: u32, out: *mut c_char, length: usize) -> Ret;
        serial = "rsmi_dev_serial_number_get": fn(device: u32, out: *mut c_char, length: u32) -> Ret;
        vbios = "rsmi_dev_vbios_version_get": fn(device: u32, out: *mut c_char, length: u32) -> Ret;
        pci_id = "rsmi_dev_pci_id_get": fn(device: u32, out: *mut u64) -> Ret;
        pci_replays = "rsmi_dev_pci_replay_counter_get": fn(device: u32, out: *mut u64) -> Ret;
        busy = "rsmi_dev_busy_percent_get": fn(device: u32, out: *mut u32) -> Ret;
        memory_busy = "rsmi_dev_memory_busy_percent_get": fn(device: u32, out: *mut u32) -> Ret;
        memory_total = "rsmi_dev_memory_total_get": fn(device: u32, kind: c_int, out: *mut u64) -> Ret;
        memory_usage = "rsmi_dev_memory_usage_get": fn(device: u32, kind: c_int, out: *mut u64) -> Ret;
        power_now = "rsmi_dev_power_get": fn(device: u32, out: *mut u64, kind: *mut c_int) -> Ret;
        power_average = "rsmi_dev_power_ave_get": fn(device: u32, sensor: u32, out: *mut u64) -> Ret;
        power_cap = "rsmi_dev_power_cap_get": fn(device: u32, sensor: u32, out: *mut u64) -> Ret;
        energy = "rsmi_dev_energy_count_get": fn(
            device: u32, out: *mut u64, resolution: *mut f32, at: *mut u64,
        ) -> Ret;
        temperature = "rsmi_dev_temp_metric_get": fn(device: u32, sensor: u32, metric: c_int, out: *mut i64) -> Ret;
        voltage = "rsmi_dev_volt_metric_get": fn(device: u32, which: c_int, metric: c_int, out: *mut i64) -> Ret;
        fan = "rsmi_dev_fan_speed_get": fn(device: u32, sensor: u32, out: *mut i64) -> Ret;
        fan_max = "rsmi_dev_fan_speed_max_get": fn(device: u32, sensor: u32, out: *mut u64) -> Ret;
        frequencies = "rsmi_dev_gpu_clk_freq_get": fn(device: u32, clock: c_int, out: *mut u64) -> Ret;
        ecc = "rsmi_dev_ecc_count_get": fn(device: u32, block: u64, out: *mut u64) -> Ret;
        processes = "rsmi_compute_process_info_get": fn(out: *mut u64, count: *mut u32) -> Ret;
        process_on = "rsmi_compute_process_info_by_device_get": fn(pid: u32, device: u32, out: *mut u64) -> Ret;
    }
}

/// Longest text the library gives; its own callers use 256.
const TEXT: usize = 256;

/// Words of eight bytes that the library may fill with clocks: the longest known form has 35.
const FREQUENCY_WORDS: usize = 128;

/// Clocks a device has at the most: 32, and one of deep sleep.
const MAX_FREQUENCIES: u32 = 33;

/// Words for one process: the longest known form has 4.
const PROCESS_WORDS: usize = 16;

/// Processes there is room for at first, and at the most.
const PROCESSES: usize = 256;
const MAX_PROCESSES: usize = 4096;

impl Rsmi {
    /// Opens the library. Nothing is asked of the driver yet.
    pub(crate) fn open(configured: Option<&Path>, candidates: &[&str]) -> Result<Self, OpenError> {
        Library::open(configured, candidates).map(Self::load)
    }

    /// To be called first, and again after [`Rsmi::shut_down`]. Counts the devices.
    pub(crate) fn initialize(&self) -> Result<(), Code> {
        let init = self.init.ok_or(Code::MISSING)?;
        // SAFETY: it takes a number and may be called at any time.
        checked(unsafe { init(0) })
    }

    pub(crate) fn shut_down(&self) {
        if let Some(shut_down) = self.shut_down {
            // SAFETY: it takes nothing, and nothing of the library's is kept.
            let _ = unsafe { shut_down() };
        }
    }

    /// A code in the library's words.
    pub(crate) fn describe(&self, code: Code) -> String {
        let number = code.0;
        if code == Code::MISSING {
            return "the library lacks a function".to_owned();
        }
        let Some(status_string) = self.status_string else { return format!("error {number}") };
        let mut out: *const c_char = std::ptr::null();
        // SAFETY: it takes a number and a place for a pointer.
        if checked(unsafe { status_string(number, &raw mut out) }).is_err() || out.is_null() {
            return format!("error {number}");
        }
        // SAFETY: a text of the library's own, with its end, that is never freed.
        let words = unsafe { CStr::from_ptr(out) };
        // The library's sentences begin with the code's name and a colon, and are long.
        format!("{} (error {number})", words.to_string_lossy().chars().take(160).collect::<String>().trim())
    }

    /// Version of the library: main and minor number.
    pub(crate) fn version(&self) -> Option<(u32, u32)> {
        let function = self.version?;
        // Room for more than the structure has.
        let mut out = [Version { major: 0, minor: 0, patch: 0, build: std::ptr::null() }; 4];
        // SAFETY: the function fills the first; the others are room for what a newer form may have.
        checked(unsafe { function(out.as_mut_ptr()) }).ok()?;
        Some((out[0].major, out[0].minor))
    }

    /// Version of the driver.
    pub(crate) fn driver_version(&self) -> Option<String> {
        let function = self.component_version?;
        let mut out: [c_char; TEXT] = [0; TEXT];
        // SAFETY: the function is told how much room there is; one byte less, so that the text ends in any case.
        checked(unsafe { function(0, out.as_mut_ptr(), TEXT as u32 - 1) }).ok()?;
        text(&out)
    }

    pub(crate) fn count(&self) -> Result<u32, Code> {
        let function = self.count.ok_or(Code::MISSING)?;
        let mut out = 0;
        // SAFETY: `out` is what the function fills, and lives until it returns.
        checked(unsafe { function(&raw mut out) })?;
        Ok(out)
    }

    /// The chip's number for life.
    pub(crate) fn unique_id(&self, device: u32) -> Result<u64, Code> {
        get(self.unique_id, device)
    }

    pub(crate) fn name(&self, device: u32) -> Option<String> {
        let function = self.name?;
        let mut out: [c_char; TEXT] = [0; TEXT];
        // SAFETY: as in `driver_version`. A name that is too long is cut, and the code says so.
        match checked(unsafe { function(device, out.as_mut_ptr(), TEXT - 1) }) {
            Ok(()) | Err(Code::INSUFFICIENT_SIZE) => text(&out),
            Err(_) => None,
        }
    }

    pub(crate) fn serial(&self, device: u32) -> Option<String> {
        text_of(self.serial, device)
    }

    pub(crate) fn vbios(&self, device: u32) -> Option<String> {
        text_of(self.vbios, device)
    }

    /// Its PCI address, as sysfs writes it.
    pub(crate) fn pci_bdf(&self, device: u32) -> Result<String, Code> {
        get(self.pci_id, device).map(bdf)
    }

    pub(crate) fn pci_replays(&self, device: u32) -> Result<u64, Code> {
        get(self.pci_replays, device)
    }

    /// Load in per cent.
    pub(crate) fn busy(&self, device: u32) -> Result<u32, Code> {
        get(self.busy, device)
    }

    /// Load of the memory in per cent.
    pub(crate) fn memory_busy(&self, device: u32) -> Result<u32, Code> {
        get(self.memory_busy, device)
    }

    /// Bytes of memory on the device.
    pub(crate) fn memory_total(&self, device: u32) -> Result<u64, Code> {
        let function = self.memory_total.ok_or(Code::MISSING)?;
        let mut out = 0;
        // SAFETY: as in `count`.
        checked(unsafe { function(device, 0, &raw mut out) })?;
        Ok(out)
    }

    /// Bytes of them in use.
    pub(crate) fn memory_usage(&self, device: u32) -> Result<u64, Code> {
        let function = self.memory_usage.ok_or(Code::MISSING)?;
        let mut out = 0;
        // SAFETY: as in `count`.
        checked(unsafe { function(device, 0, &raw mut out) })?;
        Ok(out)
    }

    /// Power in microwatts: of now or of the last moments, whichever the device tells.
    pub(crate) fn power(&self, device: u32) -> Result<u64, Code> {
        let mut out = 0;
        if let Some(function) = self.power_now {
            let mut kind = 0;
            // SAFETY: as in `count`.
            if checked(unsafe { function(device, &raw mut out, &raw mut kind) }).is_ok() {
                return Ok(out);
            }
        }
        let function = self.power_average.ok_or(Code::MISSING)?;
        // SAFETY: as in `count`.
        checked(unsafe { function(device, 0, &raw mut out) })?;
        Ok(out)
    }

    /// Power it may draw, in microwatts.
    pub(crate) fn power_cap(&self, device: u32) -> Result<u64, Code> {
        let function = self.power_cap.ok_or(Code::MISSING)?;
        let mut out = 0;
        // SAFETY: as in `count`.
        checked(unsafe { function(device, 0, &raw mut out) })?;
        Ok(out)
    }

    /// Energy used, in microjoules: a count, and what one of it is worth.
    pub(crate) fn energy(&self, device: u32) -> Result<(u64, f32), Code> {
        let function = self.energy.ok_or(Code::MISSING)?;
        let (mut out, mut resolution, mut at) = (0, 0.0, 0);
        // SAFETY: as in `count`.
        checked(unsafe { function(device, &raw mut out, &raw mut resolution, &raw mut at) })?;
        Ok((out, resolution))
    }

    /// A temperature, in thousandths of a degree.
    pub(crate) fn temperature(&self, device: u32, sensor: Sensor, metric: Metric) -> Result<i64, Code> {
        let function = self.temperature.ok_or(Code::MISSING)?;
        let mut out = 0;
        // SAFETY: as in `count`.
        checked(unsafe { function(device, sensor as u32, metric as c_int, &raw mut out) })?;
        Ok(out)
    }

    /// Voltage of the core, in millivolts.
    pub(crate) fn voltage(&self, device: u32) -> Result<i64, Code> {
        let function = self.voltage.ok_or(Code::MISSING)?;
        let mut out = 0;
        // SAFETY: as in `count`.
        checked(unsafe { function(device, 0, 0, &raw mut out) })?;
        Ok(out)
    }

    /// Speed of the first fan, and the highest it can have, in the same unit.
    pub(crate) fn fan(&self, device: u32) -> Result<(i64, u64), Code> {
        let (speed, most) = (self.fan.ok_or(Code::MISSING)?, self.fan_max.ok_or(Code::MISSING)?);
        let (mut now, mut max) = (0, 0);
        // SAFETY: as in `count`.
        checked(unsafe { speed(device, 0, &raw mut now) })?;
        // SAFETY: as in `count`.
        checked(unsafe { most(device, 0, &raw mut max) })?;
        Ok((now, max))
    }

    /// What a clock is and can be. `is_new` says which form of the structure to expect; the other will do as well.
    pub(crate) fn frequencies(&self, device: u32, clock: Clock, is_new: bool) -> Result<Frequencies, Code> {
        let function = self.frequencies.ok_or(Code::MISSING)?;
        let mut out = [0u64; FREQUENCY_WORDS];
        // SAFETY: there is room for more than any form of the structure, and it is aligned as its widest field.
        checked(unsafe { function(device, clock as c_int, out.as_mut_ptr()) })?;
        parse_frequencies(&out, is_new).ok_or(Code::UNREADABLE)
    }

    /// Errors a part of the device has counted: those put right, and the others.
    pub(crate) fn ecc(&self, device: u32, block: u64) -> Result<(u64, u64), Code> {
        let function = self.ecc.ok_or(Code::MISSING)?;
        // The structure has two numbers, in newer libraries three.
        let mut out = [0u64; 8];
        // SAFETY: there is room for more than any form of the structure.
        checked(unsafe { function(device, block, out.as_mut_ptr()) })?;
        Ok((out[0], out[1]))
    }

    /// Numbers of all processes that compute on any device.
    pub(crate) fn processes(&self) -> Result<Vec<u32>, Code> {
        let function = self.processes.ok_or(Code::MISSING)?;
        let mut room = PROCESSES;
        loop {
            let mut out = vec![0u64; room * PROCESS_WORDS];
            let mut count = u32::try_from(room).unwrap_or(0);
            // SAFETY: the library is told how many there is room for, and there is room for more than the longest form
            // of so many.
            match checked(unsafe { function(out.as_mut_ptr(), &raw mut count) }) {
                Err(Code::INSUFFICIENT_SIZE) if room < MAX_PROCESSES => room = MAX_PROCESSES,
                // What there was room for has been written.
                Ok(()) | Err(Code::INSUFFICIENT_SIZE) => {
                    let count = (count as usize).min(room);
                    return parse_processes(&out, count).ok_or(Code::UNREADABLE);
                }
                Err(code) => return Err(code),
            }
        }
    }

    /// What a process has of a device; `NOT_FOUND` when it does not use it.
    pub(crate) fn process_on(&self, pid: u32, device: u32) -> Result<Process, Code> {
        let function = self.process_on.ok_or(Code::MISSING)?;
        let mut out = [0u64; PROCESS_WORDS];
        // SAFETY: there is room for more than any form of the structure.
        checked(unsafe { function(pid, device, out.as_mut_ptr()) })?;
        Ok(parse_process(pid, &out))
    }
}

/// A function that fills one value of a device.
fn get<T: Copy + Default>(function: Option<unsafe extern "C" fn(u32, *mut T) -> Ret>, device: u32) -> Result<T, Code> {
    let function = function.ok_or(Code::MISSING)?;
    let mut out = T::default();
    // SAFETY: `out` is what the function fills, and lives until it returns.
    checked(unsafe { function(device, &raw mut out) })?;
    Ok(out)
}

fn text_of(function: Option<unsafe extern "C" fn(u32, *mut c_char, u32) -> Ret>, device: u32) -> Option<String> {
    let function = function?;
    let mut out: [c_char; TEXT] = [0; TEXT];
    // SAFETY: the function is told how much room there is; one byte less, so that the text ends in any case.
    checked(unsafe { function(device, out.as_mut_ptr(), TEXT as u32 - 1) }).ok()?;
    text(&out)
}

/// The library's number of a PCI address: domain in bits 32 to 63, a partition's number in 28 to 31, bus in 8 to 15,
/// device in 3 to 7, function in 0 to 2.
fn bdf(id: u64) -> String {
    format!("{:04x}:{:02x}:{:02x}.{:x}", id >> 32, (id >> 8) & 0xff, (id >> 3) & 0x1f, id & 0x7)
}

/// No clock has a hundred gigahertz, and none a kilohertz.
fn is_clock(hertz: u64) -> bool {
    (1000..100_000_000_000).contains(&hertz)
}

/// Reads `rsmi_frequencies_t`: number of clocks, which of them is the current one, and the clocks. From version 6 of the
/// library on a `bool` stands before them and pushes all by eight bytes. A number of clocks and a place among them can
/// hardly be read from the wrong form, so the form that makes sense is taken, the expected one first.
fn parse_frequencies(words: &[u64], is_new: bool) -> Option<Frequencies> {
    let halves: Vec<u32> = words
        .iter()
        .flat_map(|word| {
            let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
            [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
        })
        .collect();
    let form = |is_new: bool| {
        let (first, skipped) = if is_new { (1, 2) } else { (0, 1) };
        let (count, current) = (*halves.get(first)?, *halves.get(first + 1)?);
        if !(1..=MAX_FREQUENCIES).contains(&count) || current >= count {
            return None;
        }
        let clocks: Vec<u64> = words.iter().skip(skipped).take(count as usize).copied().collect();
        let current = *clocks.get(current as usize)?;
        let max = clocks.into_iter().filter(|clock| is_clock(*clock)).max()?;
        // A clock that is off now is 0.
        (current == 0 || is_clock(current)).then_some(Frequencies { current, max })
    };
    form(is_new).or_else(|| form(!is_new))
}

/// The forms of `rsmi_process_info_t`, in words: number of the process, memory, copying, occupancy were added in turn.
const PROCESS_FORMS: &[usize] = &[4, 3, 2, 1, 5, 6];

/// Numbers of processes. Which form of the structure was written nobody says, but numbers of processes are above zero
/// and at most 2^22, and what lies there in a wrong form is not.
fn parse_processes(words: &[u64], count: usize) -> Option<Vec<u32>> {
    PROCESS_FORMS.iter().find_map(|size| {
        let pids: Vec<u32> = words.chunks_exact(*size).take(count).filter_map(|row| pid(*row.first()?)).collect();
        (pids.len() == count).then_some(pids)
    })
}

fn pid(word: u64) -> Option<u32> {
    let [a, b, c, d, ..] = word.to_ne_bytes();
    let pid = u32::from_ne_bytes([a, b, c, d]);
    (1..=1 << 22).contains(&pid).then_some(pid)
}

fn parse_process(pid: u32, words: &[u64]) -> Process {
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let [a, b, c, d, ..] = word(3).to_ne_bytes();
    Process {
        pid,
        memory: Some(word(1)).filter(|memory| *memory != u64::MAX),
        occupancy: Some(u32::from_ne_bytes([a, b, c, d])).filter(|percent| *percent <= 100),
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;

    /// Words as the library would write these halves.
    fn words(halves: &[u32], clocks: &[u64]) -> Vec<u64> {
        let pair = |two: &[u32]| u64::from(two[0]) | u64::from(two.get(1).copied().unwrap_or(0)) << 32;
        let mut words: Vec<u64> = halves.chunks(2).map(pair).collect();
        words.extend(clocks);
        words.resize(FREQUENCY_WORDS, 0);
        words
    }

    #[test]
    fn structures_are_laid_out_as_the_library_has_them() {
        assert_eq!((size_of::<Version>(), offset_of!(Version, build)), (24, 16));
    }

    #[test]
    fn clocks_come_in_two_forms() {
        let clocks = [300_000_000, 1_500_000_000, 1_319_000_000];
        let wanted = Some(Frequencies { current: 1_500_000_000, max: 1_500_000_000 });
        for is_new in [true, false] {
            assert_eq!(parse_frequencies(&words(&[3, 1], &clocks), is_new), wanted, "old");
            assert_eq!(parse_frequencies(&words(&[0, 3, 1, 0], &clocks), is_new), wanted, "new");
            assert_eq!(parse_frequencies(&words(&[1, 3, 1, 0], &clocks), is_new), wanted, "new, with deep sleep");
            assert_eq!(parse_frequencies(&[0; FREQUENCY_WORDS], is_new), None);
            assert_eq!(parse_frequencies(&[u64::MAX; FREQUENCY_WORDS], is_new), None);
            assert_eq!(parse_frequencies(&[], is_new), None);
        }
        assert_eq!(parse_frequencies(&words(&[0, 3, 7, 0], &clocks), true), None, "none is the current one");
    }

    #[test]
    fn processes_come_in_several_forms() {
        let full = [4242 | 7 << 32, 1 << 30, 55, 12, 977 | 8 << 32, 2 << 30, 0, 0];
        assert_eq!(parse_processes(&full, 2).unwrap(), [4242, 977]);
        assert_eq!(parse_processes(&[4242, 977, 0, 0, 0, 0, 0, 0], 2).unwrap(), [4242, 977]);
        assert!(parse_processes(&[0; 64], 0).unwrap().is_empty());
        assert_eq!(parse_processes(&[0; 64], 2), None);
        assert_eq!(parse_process(4242, &full), Process { pid: 4242, memory: Some(1 << 30), occupancy: Some(12) });
        let unknown = [4242, u64::MAX, 0, 0xffff_ffff];
        assert_eq!(parse_process(4242, &unknown), Process { pid: 4242, memory: None, occupancy: None });
    }

    #[test]
    fn addresses_are_written_as_sysfs_does() {
        assert_eq!(bdf(0xc100), "0000:c1:00.0");
        assert_eq!(bdf(1 << 32 | 3 << 28 | 0x05 << 8 | 0x1f << 3 | 1), "0001:05:1f.1");
    }

    proptest! {
        #[test]
        fn no_words_bring_it_down(
            words in prop::collection::vec(any::<u64>(), 0..200),
            count in 0usize..300,
            id in any::<u64>(),
        ) {
            parse_frequencies(&words, true);
            parse_frequencies(&words, false);
            parse_processes(&words, count);
            parse_process(1, &words);
            bdf(id);
        }
    }
}
