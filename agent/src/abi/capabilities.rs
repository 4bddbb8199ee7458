//! Giving up capabilities: what a vendor's library does not need, it shall not have.

/// `CAP_SYS_PTRACE`: to see which of other users' processes draw on a card.
const SYS_PTRACE: u32 = 19;

/// The third version of the structures, of two words each.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Keeps of this thread's capabilities the one that is needed, and only if it is held. Called while the process has no
/// other thread. Root keeps all: some drivers ask for root, and what it may do is not a matter of capabilities alone.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn keep_least(needs_ptrace: bool) -> std::io::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let header = Header { version: VERSION, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: the header names the version with two structures, and both are ours.
    let read = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    if read != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let kept = if needs_ptrace { data[0].permitted & (1 << SYS_PTRACE) } else { 0 };
    data = [Data { effective: kept, permitted: kept, inheritable: 0 }, Data::default()];
    // SAFETY: as above; the structures are only read. Taking away is always allowed, and takes from the ambient set too.
    let written = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if written != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_the_kernels() {
        assert_eq!((size_of::<Header>(), size_of::<Data>()), (8, 12));
    }

    #[test]
    fn what_is_not_needed_is_given_up() {
        // On a thread of its own: capabilities are a thread's.
        let left = std::thread::spawn(|| {
            keep_least(true).unwrap();
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let status = left.join().unwrap();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
        assert!(rustix::process::geteuid().is_root() || effective & !(1 << SYS_PTRACE) == 0, "{effective:x}");
    }
}
