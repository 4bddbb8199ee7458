//! The ethtool call: counters that a network card's driver keeps beside those of every interface.
//!
//! One `ioctl` on any socket, `SIOCETHTOOL`, with the interface's name and a pointer to a structure that begins with a
//! number of a command. Four commands are used, and none needs a privilege:
//!
//! - `GDRVINFO`: versions of driver and firmware, and the device's address;
//! - `GSSET_INFO`: how many counters this interface has;
//! - `GSTRINGS`: their names, 32 bytes each;
//! - `GSTATS`: their values, eight bytes each, in the order of the names.
//!
//! The trap: the kernel does not ask how large the buffer is. It writes as many values as the driver has *at that
//! moment*, and a driver has more after its queues were added to. So the buffer is a mapping of its own with a page
//! behind it that nobody may write: more than fits is then an error of the call, and no damage.

use std::ffi::{c_char, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Length of a name, with its NULs.
pub(crate) const NAME: usize = 32;

/// Counters of one interface at the most. A card with 128 queues has some 3,000.
pub(crate) const MAX_COUNTERS: usize = 16_384;

/// Names are the longest answer.
const ANSWER: usize = 16 + MAX_COUNTERS * NAME;

const SIOCETHTOOL: u64 = 0x8946;
const GDRVINFO: u32 = 0x3;
const GSTRINGS: u32 = 0x1b;
const GSTATS: u32 = 0x1d;
const GSSET_INFO: u32 = 0x37;

/// The set of strings that names the counters: `ETH_SS_STATS`.
const STATS: u32 = 1;

/// `struct ifreq`, of which the second half is a union of which we use the pointer.
#[repr(C)]
struct Request {
    name: [c_char; 16],
    data: *mut c_void,
    rest: [u8; 16],
}

/// Asks drivers.
pub(crate) struct Ethtool {
    socket: OwnedFd,
    answer: Answer,
}

impl Ethtool {
    /// Opens a socket to ask over.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, answer: Answer::map()? })
    }

    /// Version of the card's firmware and address of its device, as the driver tells them.
    pub(crate) fn firmware_and_bus(&mut self, interface: &str) -> io::Result<(String, String)> {
        // struct ethtool_drvinfo: cmd, driver[32], version[32], fw_version[32], bus_info[32], …; 196 bytes.
        self.answer.put(&[GDRVINFO]);
        self.answer.put_at(4, &[0; 192]);
        self.call(interface)?;
        let text = |from: usize| {
            let bytes = self.answer.bytes(196).get(from..from + 32).unwrap_or_default();
            let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(bytes).trim().to_owned()
        };
        Ok((text(68), text(100)))
    }

    /// How many counters the interface has; 0 for none.
    pub(crate) fn counters(&mut self, interface: &str) -> io::Result<usize> {
        // struct ethtool_sset_info: cmd, reserved, sset_mask: u64, data: u32 for each bit set.
        self.answer.put(&[GSSET_INFO, 0]);
        self.answer.put_at(8, &(1u64 << STATS).to_ne_bytes());
        self.answer.put_at(16, &0u32.to_ne_bytes());
        self.call(interface)?;
        let bytes = self.answer.bytes(20);
        let number = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
        // The kernel clears the bit of a set that the driver does not have.
        let (mask, count) = (number(8) | number(12), number(16));
        Ok(if mask == 0 { 0 } else { usize::try_from(count).unwrap_or(usize::MAX) })
    }

    /// Names of that many counters, [`NAME`] bytes each. Fewer if the driver has fewer by now.
    pub(crate) fn names(&mut self, interface: &str, count: usize) -> io::Result<&[u8]> {
        let count = within(count)?;
        // struct ethtool_gstrings: cmd, string_set, len, data.
        self.answer.put(&[GSTRINGS, STATS, u32::try_from(count).unwrap_or(0)]);
        self.call(interface)?;
        let now = usize::try_from(self.answer.number(8)).unwrap_or(0).min(count);
        self.answer.bytes(12 + now * NAME).get(12..).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Values of that many counters, eight bytes each, in the machine's order. Fewer if the driver has fewer by now.
    pub(crate) fn values(&mut self, interface: &str, count: usize) -> io::Result<&[u8]> {
        let count = within(count)?;
        // struct ethtool_stats: cmd, n_stats, data.
        self.answer.put(&[GSTATS, u32::try_from(count).unwrap_or(0)]);
        self.call(interface)?;
        let now = usize::try_from(self.answer.number(4)).unwrap_or(0).min(count);
        self.answer.bytes(8 + now * 8).get(8..).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn call(&mut self, interface: &str) -> io::Result<()> {
        let mut request = Request { name: [0; 16], data: self.answer.start.as_ptr().cast::<c_void>(), rest: [0; 16] };
        let name = interface.as_bytes();
        if name.is_empty() || name.len() >= request.name.len() || name.contains(&0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.name.iter_mut().zip(name) {
            *to = c_char::from_ne_bytes([*from]);
        }
        // SAFETY: the request is a whole `ifreq` that lives through the call, and its pointer is to the mapping, which
        // no reference is to now (`&mut self`). The kernel writes from its start on; beyond its end lies a page that
        // makes the kernel's copy fail.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn within(count: usize) -> io::Result<usize> {
    if count <= MAX_COUNTERS { Ok(count) } else { Err(io::ErrorKind::FileTooLarge.into()) }
}

/// Memory for answers, and a page behind it that cannot be written. What is never touched costs nothing.
struct Answer {
    start: NonNull<u8>,
}

/// Larger than any architecture's pages are.
const GUARD: usize = 64 << 10;

/// A multiple of the guard, so that the guard begins at a page.
const ROOM: usize = ANSWER.next_multiple_of(GUARD);

// SAFETY: it owns its memory, as a `Box` would.
unsafe impl Send for Answer {}

impl Answer {
    fn map() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at a place the kernel chooses touches no other.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), ROOM + GUARD, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let answer = Self { start };
        // SAFETY: the first part of the mapping just made; the guard stays as it is.
        if unsafe { libc::mprotect(start.as_ptr().cast(), ROOM, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(answer)
    }

    /// Writes numbers of four bytes from the start on.
    fn put(&mut self, numbers: &[u32]) {
        for (at, number) in numbers.iter().enumerate() {
            self.put_at(at * 4, &number.to_ne_bytes());
        }
    }

    fn put_at(&mut self, at: usize, bytes: &[u8]) {
        if let Some(to) = self.bytes_mut().get_mut(at..at.saturating_add(bytes.len())) {
            to.copy_from_slice(bytes);
        }
    }

    fn number(&self, at: usize) -> u32 {
        self.bytes(at + 4).get(at..).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }

    fn bytes(&self, length: usize) -> &[u8] {
        // SAFETY: so much of the mapping is readable, anonymous memory begins as zeros, and nobody writes while `self`
        // is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), length.min(ROOM)) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and writable.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), ROOM) }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made, whole, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), ROOM + GUARD) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_laid_out_as_the_kernels() {
        assert_eq!(size_of::<Request>(), size_of::<libc::ifreq>());
        assert_eq!(std::mem::offset_of!(Request, data), std::mem::offset_of!(libc::ifreq, ifr_ifru));
        assert!(ROOM >= ANSWER && ROOM.is_multiple_of(GUARD));
    }

    #[test]
    fn drivers_are_asked() {
        let mut ethtool = Ethtool::open().unwrap();
        // Loopback has no driver's counters, whichever way it says so.
        assert!(!matches!(ethtool.counters("lo"), Ok(1..)));
        assert!(ethtool.counters("nosuch-if0").is_err());
        assert!(ethtool.firmware_and_bus("nosuch-if0").is_err());
        for wrong in ["", "a-name-of-16-byt", "with\0nul"] {
            assert_eq!(ethtool.counters(wrong).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{wrong:?}");
        }
        assert!(ethtool.values("lo", MAX_COUNTERS + 1).is_err());
        for interface in std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
            let interface = interface.file_name().to_string_lossy().into_owned();
            let Ok(count @ 1..) = ethtool.counters(&interface) else { continue };
            let names = ethtool.names(&interface, count).unwrap().len() / NAME;
            assert_eq!((names, ethtool.values(&interface, count).unwrap().len() / 8), (count, count));
        }
    }
}
