//! IPMI: asking the management controller (BMC) of this server, through the kernel's `/dev/ipmi0`.
//!
//! The driver (`ipmi_si`, `ipmi_ssif`, with `ipmi_devintf` for the device file) carries messages: a request has a network
//! function (the group of commands), a command and data; the answer has the function plus one, the same command, and
//! data that begins with a completion code, 0 when all is well. Sending returns at once, the answer is waited for with
//! `poll` and fetched with a second call. Messages carry a number of ours, by which an answer that comes after its time
//! is told from the one that is waited for.
//!
//! Only root may open the device, since the same way can switch the machine off. A BMC answers in 5 to 200 ms; one that
//! is restarting answers after half a minute or not at all, and the driver gives up by itself only then. So callers wait
//! on a thread of their own, with a deadline.
//!
//! The one command asked for here is *Get Power Reading* of DCMI (Data Center Manageability Interface 1.5, section
//! 6.6.1): what the whole machine draws, as its power supplies measure it. Numbers are little-endian.

use std::ffi::{c_int, c_long, c_short, c_uchar, c_uint, c_ushort};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::ioctl::opcode;

/// Address of the BMC itself, as opposed to something behind it.
#[repr(C)]
struct SystemInterfaceAddress {
    address_type: c_int,
    channel: c_short,
    lun: c_uchar,
}

const SYSTEM_INTERFACE: c_int = 0x0c;
const BMC_CHANNEL: c_short = 0x0f;

/// Room for an address of any kind: `struct ipmi_addr`.
#[repr(C)]
struct AnyAddress {
    address_type: c_int,
    channel: c_short,
    data: [c_uchar; 32],
}

/// `struct ipmi_msg`.
#[repr(C)]
struct Message {
    function: c_uchar,
    command: c_uchar,
    data_length: c_ushort,
    data: *mut c_uchar,
}

/// `struct ipmi_req`.
#[repr(C)]
struct Request {
    address: *mut c_uchar,
    address_length: c_uint,
    number: c_long,
    message: Message,
}

/// `struct ipmi_recv`.
#[repr(C)]
struct Received {
    kind: c_int,
    address: *mut c_uchar,
    address_length: c_uint,
    number: c_long,
    message: Message,
}

/// What was received is an answer, not an event or a request.
const IS_ANSWER: c_int = 1;

/// Longest message (`IPMI_MAX_MSG_LENGTH`).
const MAX_DATA: usize = 272;

const SEND_COMMAND: rustix::ioctl::Opcode = opcode::read::<Request>(b'i', 13);
const RECEIVE_TRUNCATED: rustix::ioctl::Opcode = opcode::read_write::<Received>(b'i', 11);

/// The way to the BMC.
pub(crate) struct Bmc {
    device: File,
    number: c_long,
}

impl Bmc {
    /// Opens the device.
    ///
    /// # Errors
    /// When there is none, or it is not ours to open.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        Ok(Self { device, number: 0 })
    }

    /// Sends a command and waits for its answer: completion code and data.
    ///
    /// # Errors
    /// When the driver refuses, or no answer comes in time.
    pub(crate) fn call(&mut self, function: u8, command: u8, data: &[u8], deadline: Duration) -> io::Result<Vec<u8>> {
        let until = Instant::now() + deadline;
        self.number += 1;
        self.send(function, command, data)?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            if !self.wait(left)? {
                continue;
            }
            match self.receive() {
                Ok((number, answer)) if number == self.number => return Ok(answer),
                // An event, or the answer to a question nobody waits for any more.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&self, function: u8, command: u8, data: &[u8]) -> io::Result<()> {
        let mut address = SystemInterfaceAddress { address_type: SYSTEM_INTERFACE, channel: BMC_CHANNEL, lun: 0 };
        let mut data = data.to_vec();
        let length = c_ushort::try_from(data.len()).map_err(|_| ErrorKind::InvalidInput)?;
        let mut request = Request {
            address: (&raw mut address).cast(),
            address_length: size(size_of::<SystemInterfaceAddress>()),
            number: self.number,
            message: Message { function, command, data_length: length, data: data.as_mut_ptr() },
        };
        // SAFETY: the request is laid out as the kernel declares it, its pointers are to memory of the lengths given,
        // and all of it outlives the call, which copies it.
        let result = unsafe {
            libc::ioctl(self.device.as_raw_fd(), SEND_COMMAND as _, (&raw mut request).cast::<libc::c_void>())
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Whether something came before the time was up.
    fn wait(&self, time: Duration) -> io::Result<bool> {
        // Rounded up, so that the last wait is not one of nothing, again and again.
        let millis = c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX).saturating_add(1);
        let mut waiting = libc::pollfd { fd: self.device.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure is given and said to be one.
        let ready = unsafe { libc::poll(&raw mut waiting, 1, millis) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == ErrorKind::Interrupted { Ok(false) } else { Err(error) };
        }
        if waiting.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 {
            return Err(io::Error::other("the IPMI driver has gone away"));
        }
        Ok(ready > 0)
    }

    /// Fetches what came: its number (0 for what is no answer) and its data.
    fn receive(&self) -> io::Result<(c_long, Vec<u8>)> {
        let mut address = AnyAddress { address_type: 0, channel: 0, data: [0; 32] };
        let mut data = [0u8; MAX_DATA];
        let mut received = Received {
            kind: 0,
            address: (&raw mut address).cast(),
            address_length: size(size_of::<AnyAddress>()),
            number: 0,
            message: Message {
                function: 0,
                command: 0,
                data_length: c_ushort::try_from(MAX_DATA).unwrap_or(c_ushort::MAX),
                data: data.as_mut_ptr(),
            },
        };
        // SAFETY: as in `send`; the kernel writes no more than the lengths given.
        let result = unsafe {
            libc::ioctl(self.device.as_raw_fd(), RECEIVE_TRUNCATED as _, (&raw mut received).cast::<libc::c_void>())
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let answer = data.get(..usize::from(received.message.data_length)).unwrap_or(&data).to_vec();
        Ok((if received.kind == IS_ANSWER { received.number } else { 0 }, answer))
    }
}

fn size(bytes: usize) -> c_uint {
    c_uint::try_from(bytes).unwrap_or(c_uint::MAX)
}

/// Function of commands that a group of manufacturers agreed on.
const GROUP_EXTENSION: u8 = 0x2c;

/// The group is DCMI.
const DCMI: u8 = 0xdc;

const GET_POWER_READING: u8 = 0x02;

/// Of the kinds of reading, the plain one: power statistics of the system.
const SYSTEM_STATISTICS: u8 = 0x01;

/// What the machine draws, watts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PowerReading {
    /// Now.
    pub current: u16,
    /// Least in the time of the statistics.
    pub minimum: u16,
    /// Most in that time.
    pub maximum: u16,
    /// On average in that time.
    pub average: u16,
    /// That time, milliseconds.
    pub period_millis: u32,
    /// Whether it measures at all.
    pub is_active: bool,
}

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PowerReadingError {
    /// The BMC cannot be reached.
    #[error("the BMC cannot be asked")]
    Io(#[from] io::Error),
    /// It knows no DCMI, or measures no power.
    #[error("the BMC does not measure power by DCMI (completion code {0:#04x})")]
    Unsupported(u8),
    /// It answered something else.
    #[error("the BMC refused (completion code {0:#04x})")]
    Refused(u8),
    /// The answer is too short, or of another group.
    #[error("the BMC's answer has not the form of a power reading")]
    Malformed,
}

/// Asks the BMC for what the machine draws.
pub(crate) fn power_reading(bmc: &mut Bmc, deadline: Duration) -> Result<PowerReading, PowerReadingError> {
    let answer = bmc.call(GROUP_EXTENSION, GET_POWER_READING, &[DCMI, SYSTEM_STATISTICS, 0, 0], deadline)?;
    parse_power_reading(&answer)
}

/// Completion codes that mean "not here": unknown command (also in this state or at this address), invalid data.
const NOT_HERE: &[u8] = &[0xc1, 0xc2, 0xcb, 0xcc, 0xd6];

/// The answer to *Get Power Reading*: completion code, group, four powers, time stamp, period, state.
pub(crate) fn parse_power_reading(answer: &[u8]) -> Result<PowerReading, PowerReadingError> {
    match answer.first() {
        None => return Err(PowerReadingError::Malformed),
        Some(0) => {}
        Some(code) if NOT_HERE.contains(code) => return Err(PowerReadingError::Unsupported(*code)),
        Some(code) => return Err(PowerReadingError::Refused(*code)),
    }
    // The time stamp is left out: it is of the BMC's clock, which is often wrong.
    let [_, DCMI, c0, c1, m0, m1, x0, x1, a0, a1, _, _, _, _, p0, p1, p2, p3, state, ..] = *answer else {
        return Err(PowerReadingError::Malformed);
    };
    Ok(PowerReading {
        current: u16::from_le_bytes([c0, c1]),
        minimum: u16::from_le_bytes([m0, m1]),
        maximum: u16::from_le_bytes([x0, x1]),
        average: u16::from_le_bytes([a0, a1]),
        period_millis: u32::from_le_bytes([p0, p1, p2, p3]),
        is_active: state & 0x40 != 0,
    })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;

    /// An answer as a BMC gives it: 612 W now, 388 to 1044, 590 on average, over an hour.
    const ANSWER: [u8; 19] =
        [0, 0xdc, 0x64, 0x02, 0x84, 0x01, 0x14, 0x04, 0x4e, 0x02, 0, 0, 0, 0x65, 0x80, 0xee, 0x36, 0, 0x40];

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn structures_are_laid_out_as_the_kernel_declares_them() {
        assert_eq!(size_of::<SystemInterfaceAddress>(), 8);
        assert_eq!(size_of::<AnyAddress>(), 40);
        assert_eq!((size_of::<Message>(), offset_of!(Message, data_length), offset_of!(Message, data)), (16, 2, 8));
        assert_eq!(
            (size_of::<Request>(), offset_of!(Request, address_length), offset_of!(Request, number)),
            (40, 8, 16)
        );
        assert_eq!(offset_of!(Request, message), 24);
        assert_eq!(
            (size_of::<Received>(), offset_of!(Received, address), offset_of!(Received, address_length)),
            (48, 8, 16)
        );
        assert_eq!((offset_of!(Received, number), offset_of!(Received, message)), (24, 32));
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "loongarch64"))]
    fn calls_have_the_numbers_the_kernel_knows() {
        assert_eq!(SEND_COMMAND, 0x8028_690d);
        assert_eq!(RECEIVE_TRUNCATED, 0xc030_690b);
    }

    #[test]
    fn an_answer_is_read() {
        let reading = parse_power_reading(&ANSWER).unwrap();
        let wanted = PowerReading {
            current: 612,
            minimum: 388,
            maximum: 1044,
            average: 590,
            period_millis: 3_600_000,
            is_active: true,
        };
        assert_eq!(reading, wanted);
        let mut idle = ANSWER;
        idle[18] = 0;
        assert!(!parse_power_reading(&idle).unwrap().is_active);
    }

    #[test]
    fn refusals_are_told_apart() {
        assert!(matches!(parse_power_reading(&[0xc1]), Err(PowerReadingError::Unsupported(0xc1))));
        assert!(matches!(parse_power_reading(&[0xc0]), Err(PowerReadingError::Refused(0xc0))));
        assert!(matches!(parse_power_reading(&[]), Err(PowerReadingError::Malformed)));
        assert!(matches!(parse_power_reading(&ANSWER[..18]), Err(PowerReadingError::Malformed)));
        let mut other = ANSWER;
        other[1] = 0;
        assert!(matches!(parse_power_reading(&other), Err(PowerReadingError::Malformed)));
    }

    #[test]
    fn what_is_no_bmc_is_an_error_at_once() {
        assert_eq!(Bmc::open(Path::new("/nowhere/ipmi0")).err().map(|e| e.kind()), Some(ErrorKind::NotFound));
        let mut null = Bmc::open(Path::new("/dev/null")).unwrap();
        let error = power_reading(&mut null, Duration::from_secs(5)).unwrap_err();
        assert!(matches!(error, PowerReadingError::Io(_)), "{error}");
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse_power_reading(&bytes);
            let mut good = vec![0, DCMI];
            good.extend(bytes);
            let _ = parse_power_reading(&good);
        }
    }
}
