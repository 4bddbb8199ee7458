//! Hygon's device management library (`libhydmi`): the virtual devices that a card was cut into.
//!
//! A card is cut into up to four virtual devices (vDCU), each with some of its compute units and of its memory. They are
//! numbered through the whole machine, with gaps where some were destroyed; each says which card it lies in, by the
//! card's number, which is the one of ROCm SMI. Nothing has to be initialised.
//!
//! The library can also create and destroy them. None of that is here.

use std::ffi::{c_char, c_int};
use std::path::Path;

use super::{Library, OpenError, functions, text};

/// What a function answers: 0 is success, 15 that there is no such device.
type Ret = c_int;

/// `dmiDeviceInfo`.
#[repr(C)]
#[derive(Clone, Copy)]
struct DeviceInfo {
    name: [c_char; 256],
    compute_units: c_int,
    memory: usize,
    memory_used: usize,
    container: u64,
    card: c_int,
    /// Room for what a newer form may append.
    more: [u64; 32],
}

/// A virtual device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VirtualDevice {
    pub(crate) number: u32,
    pub(crate) name: Option<String>,
    /// Number of the card it lies in.
    pub(crate) card: u32,
    pub(crate) compute_units: Option<i64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) memory_used_bytes: Option<u64>,
}

functions! {
    /// What we call of libhydmi.
    pub(crate) struct Hydmi {
        max_count = "dmiGetMaxVDeviceCount": fn(out: *mut c_int) -> Ret;
        info = "dmiGetVDeviceInfo": fn(device: c_int, out: *mut DeviceInfo) -> Ret;
        busy = "dmiGetVDevBusyPercent": fn(device: c_int, out: *mut c_int) -> Ret;
    }
}

/// Virtual devices a card has at the most, where the library does not say.
const USUAL_MAX: u32 = 4;

impl Hydmi {
    /// Opens the library. One without virtual devices is as good as none.
    pub(crate) fn open(configured: Option<&Path>, candidates: &[&str]) -> Result<Option<Self>, OpenError> {
        let opened = Library::open(configured, candidates).map(Self::load)?;
        Ok(opened.info.is_some().then_some(opened))
    }

    /// How many virtual devices one card can have.
    pub(crate) fn max_per_card(&self) -> u32 {
        let Some(function) = self.max_count else { return USUAL_MAX };
        let mut out = 0;
        // SAFETY: `out` is what the function fills, and lives until it returns.
        if unsafe { function(&raw mut out) } != 0 {
            return USUAL_MAX;
        }
        u32::try_from(out).unwrap_or(0).clamp(USUAL_MAX, 64)
    }

    /// The virtual device of that number, if there is one.
    pub(crate) fn device(&self, number: u32) -> Option<VirtualDevice> {
        let function = self.info?;
        let mut out = DeviceInfo {
            name: [0; 256],
            compute_units: -1,
            memory: usize::MAX,
            memory_used: usize::MAX,
            container: 0,
            card: -1,
            more: [0; 32],
        };
        // SAFETY: the function fills the structure, after which there is more room than it has.
        if unsafe { function(c_int::try_from(number).ok()?, &raw mut out) } != 0 {
            return None;
        }
        let bytes = |size: usize| u64::try_from(size).ok().filter(|size| *size != u64::MAX);
        Some(VirtualDevice {
            number,
            name: text(&out.name),
            card: u32::try_from(out.card).ok()?,
            compute_units: (out.compute_units > 0).then(|| i64::from(out.compute_units)),
            memory_bytes: bytes(out.memory).filter(|size| *size > 0),
            memory_used_bytes: bytes(out.memory_used),
        })
    }

    /// Its load in per cent.
    pub(crate) fn busy(&self, number: u32) -> Option<u32> {
        let function = self.busy?;
        let mut out = -1;
        // SAFETY: as in `max_per_card`.
        if unsafe { function(c_int::try_from(number).ok()?, &raw mut out) } != 0 {
            return None;
        }
        u32::try_from(out).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn structures_are_laid_out_as_the_library_has_them() {
        assert_eq!((offset_of!(DeviceInfo, compute_units), offset_of!(DeviceInfo, memory)), (256, 264));
        assert_eq!((offset_of!(DeviceInfo, memory_used), offset_of!(DeviceInfo, container)), (272, 280));
        assert_eq!((offset_of!(DeviceInfo, card), offset_of!(DeviceInfo, more)), (288, 296));
    }
}
