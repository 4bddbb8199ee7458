//! The clock: how far it is off, by the kernel's own reckoning, and which time zone the machine lives in.
//!
//! Whoever keeps the time (chronyd, ntpd, systemd-timesyncd, a PTP daemon) steers the kernel's clock with `adjtimex(2)`,
//! and anybody may ask the same call how things stand. Offsets are in nanoseconds where the status has `STA_NANO` and in
//! microseconds otherwise; frequencies are parts per million with 16 bits behind the point. The call returns
//! `TIME_ERROR` while nobody keeps the time, and then the offset says nothing: it is 0 on a clock that is an hour off.
//!
//! chronyd slews the clock by its frequency and leaves the offset at 0; what it knows of the offset it tells only itself.
//! The maximum error is honest with all of them: it grows by half a millisecond a second while nobody looks after it.

use std::ffi::CStr;

/// Offsets are in nanoseconds.
const STA_NANO: i64 = 0x2000;

/// What the call returns for a clock that nobody keeps.
const TIME_ERROR: i32 = 5;

/// One part per million, with 16 bits behind the point.
const PPM: f64 = 65_536.0 * 1e6;

/// What the kernel says of its clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Clock {
    /// Whether somebody keeps it.
    pub(crate) is_synchronised: bool,
    /// How far it is to be moved still.
    pub(crate) offset_seconds: f64,
    /// How much faster than its oscillator it is made to run: 1 is not at all.
    pub(crate) frequency_ratio: f64,
    /// It is off by no more than this.
    pub(crate) max_error_seconds: f64,
    /// It is off by about this.
    pub(crate) estimated_error_seconds: f64,
    /// `STA_…` bits.
    pub(crate) status: i64,
    /// Time constant of the kernel's own control loop.
    pub(crate) loop_time_constant: i64,
    /// Length of a clock tick.
    pub(crate) tick_seconds: f64,
    /// How far TAI is ahead of UTC; 0 where nobody has told the kernel.
    pub(crate) tai_offset_seconds: i64,
    /// What a pulse per second says, where one is connected.
    pub(crate) pulse: Pulse,
}

/// What the kernel has learned from a clock that ticks once a second (PPS). All zero where there is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pulse {
    /// How much too fast or slow the oscillator is, in its own unit as Prometheus' exporters give it.
    pub(crate) frequency_hertz: f64,
    /// How much the pulses wander.
    pub(crate) jitter_seconds: f64,
    /// Length of the interval of calibration, as a power of two of seconds.
    pub(crate) shift_seconds: i64,
    /// How much the frequency wanders.
    pub(crate) stability_hertz: f64,
    /// Pulses that came too far off.
    pub(crate) jitters: i64,
    /// Intervals of calibration.
    pub(crate) calibrations: i64,
    /// Of them, those in which something was wrong.
    pub(crate) errors: i64,
    /// Of them, those in which the frequency wandered too far.
    pub(crate) stability_exceeded: i64,
}

/// Asks the kernel.
pub(crate) fn read() -> Option<Clock> {
    let (answer, state) = adjtimex()?;
    Some(clock_of(&answer, state))
}

/// How far the clock is off, in microseconds; `None` while nobody keeps it.
pub(crate) fn offset_us() -> Option<i64> {
    let (answer, state) = adjtimex()?;
    offset_of(&answer, state)
}

fn adjtimex() -> Option<(libc::timex, i32)> {
    // SAFETY: a structure of numbers, for which all zero bytes are values. No mode is set, so the call only reads.
    let mut answer: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: it is exclusively ours and of the type the call fills.
    let state = unsafe { libc::adjtimex(&raw mut answer) };
    (state >= 0).then_some((answer, state))
}

#[allow(clippy::useless_conversion, reason = "C's long is not the same everywhere")]
fn offset_of(answer: &libc::timex, state: i32) -> Option<i64> {
    let offset = i64::from(answer.offset);
    let is_nano = i64::from(answer.status) & STA_NANO != 0;
    (state != TIME_ERROR).then_some(if is_nano { offset / 1000 } else { offset })
}

#[allow(clippy::useless_conversion, reason = "C's long is not the same everywhere")]
#[allow(clippy::cast_precision_loss, reason = "53 bits are enough for all of them")]
fn clock_of(answer: &libc::timex, state: i32) -> Clock {
    let status = i64::from(answer.status);
    let per_second = if status & STA_NANO != 0 { 1e9 } else { 1e6 };
    let micros = |value: libc::c_long| value as f64 / 1e6;
    Clock {
        is_synchronised: state != TIME_ERROR,
        offset_seconds: answer.offset as f64 / per_second,
        frequency_ratio: 1.0 + answer.freq as f64 / PPM,
        max_error_seconds: micros(answer.maxerror),
        estimated_error_seconds: micros(answer.esterror),
        status,
        loop_time_constant: i64::from(answer.constant),
        tick_seconds: micros(answer.tick),
        tai_offset_seconds: i64::from(answer.tai),
        pulse: Pulse {
            frequency_hertz: answer.ppsfreq as f64 / PPM,
            jitter_seconds: answer.jitter as f64 / per_second,
            shift_seconds: i64::from(answer.shift),
            stability_hertz: answer.stabil as f64 / PPM,
            jitters: i64::from(answer.jitcnt),
            calibrations: i64::from(answer.calcnt),
            errors: i64::from(answer.errcnt),
            stability_exceeded: i64::from(answer.stbcnt),
        },
    }
}

/// The time zone this process lives in at a moment of UTC: its name (`CEST`) and how many seconds it is ahead of UTC.
pub(crate) fn zone_at(seconds: i64) -> Option<(String, i64)> {
    #[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions, reason = "32 bits on old machines")]
    let seconds = libc::time_t::try_from(seconds).ok()?;
    // SAFETY: numbers and a pointer, for which all zero bytes are values.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point at what is ours and lives until the call returns.
    let answered = unsafe { libc::localtime_r(&raw const seconds, &raw mut local) };
    if answered.is_null() || local.tm_zone.is_null() {
        return None;
    }
    // SAFETY: the C library's own text, which ends with a NUL and is never freed: zones once met are kept.
    let name = unsafe { CStr::from_ptr(local.tm_zone) };
    #[allow(clippy::useless_conversion, reason = "C's long is not the same everywhere")]
    let offset = i64::from(local.tm_gmtoff);
    Some((name.to_string_lossy().into_owned(), offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(offset: libc::c_long, status: i32) -> libc::timex {
        // SAFETY: as in `adjtimex`.
        let zero: libc::timex = unsafe { std::mem::zeroed() };
        libc::timex { offset, status, freq: 65_536 * 50, maxerror: 1_500, esterror: 20, tick: 10_000, tai: 37, ..zero }
    }

    #[test]
    fn offsets_are_in_nanoseconds_or_in_microseconds() {
        assert_eq!(offset_of(&answer(-5_000_000, 0x2001), 0), Some(-5_000));
        assert_eq!(offset_of(&answer(250, 1), 0), Some(250));
        assert_eq!(offset_of(&answer(0, 0x40), TIME_ERROR), None);
        let clock = clock_of(&answer(-5_000_000, 0x2001), 0);
        assert!((clock.offset_seconds + 0.005).abs() < 1e-12);
        assert!((clock.frequency_ratio - 1.000_05).abs() < 1e-12);
        assert!((clock.max_error_seconds - 0.0015).abs() < 1e-12);
        assert!((clock.tick_seconds - 0.01).abs() < 1e-12);
        assert!(clock.is_synchronised);
        assert_eq!((clock.tai_offset_seconds, clock.status), (37, 0x2001));
        assert!(!clock_of(&answer(0, 0x40), TIME_ERROR).is_synchronised);
    }

    #[test]
    fn the_kernel_answers() {
        let clock = read().unwrap();
        assert!(clock.tick_seconds > 0.0 && clock.max_error_seconds >= 0.0, "{clock:?}");
        assert_eq!(offset_us().is_some(), clock.is_synchronised);
        let (zone, offset) = zone_at(1_700_000_000).unwrap();
        assert!(!zone.is_empty() && offset.abs() <= 15 * 3600, "{zone} {offset}");
    }
}
