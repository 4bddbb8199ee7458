//! The programs that run: which file each is, what it holds, and which package it came with.
//!
//! `/proc/PID/exe` is a link of a special kind. Read as text it is a path, as it was when the program was started and as
//! it looks from the process's own root: in a container the path is the container's. Opened, it leads to the very file
//! that runs, also where that was deleted or lies in another mount namespace. The kernel appends ` (deleted)` to the text
//! where the name is gone, and a program that lives in memory alone (`memfd_create`) reads `/memfd:NAME (deleted)`.
//! Following or reading the link of another user's process needs `CAP_SYS_PTRACE`. Threads of the kernel have none.
//!
//! A program may lie on another machine's file system, and that machine may be gone: to ask for the file's size waits for
//! it, for ever perhaps. [`FileFacts::read`] takes what the kernel has in memory, and it has the inode of what runs.
//!
//! Contents are hashed by [`hasher`] on a thread of its own, since a program may lie on a file system that hangs; what a
//! package brought is looked up by [`packages`].

pub(crate) mod hasher;
pub(crate) mod packages;

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};

use crate::host_root::HostRoot;

/// What the kernel appends to the name of a file that has none any more.
const DELETED: &str = " (deleted)";

/// Anybody may write below these, and what is there goes with the next boot or before.
const TEMPORARY: &[&str] = &["/dev/shm/", "/tmp/", "/var/tmp/", "/run/user/", "/run/shm/"];

/// What `/proc/PID/exe` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target<'t> {
    /// The path, without the kernel's remark.
    pub(crate) path: &'t str,
    /// Whether the kernel says that the name is gone.
    pub(crate) is_deleted: bool,
}

/// Takes the kernel's remark off.
pub(crate) fn parse_target(text: &str) -> Target<'_> {
    match text.strip_suffix(DELETED) {
        Some(path) => Target { path, is_deleted: true },
        None => Target { path: text, is_deleted: false },
    }
}

impl Target<'_> {
    /// Whether it lives in memory alone.
    pub(crate) fn is_memfd(&self) -> bool {
        self.path.starts_with("/memfd:")
    }

    /// Whether it lies where anybody may put it.
    pub(crate) fn is_temporary(&self) -> bool {
        TEMPORARY.iter().any(|directory| self.path.starts_with(directory))
    }
}

/// Where the file of a process can be opened. On the running machine that is the link itself, which leads to deleted
/// files as well; below another root it would lead out of it.
pub(crate) fn way_to(root: &HostRoot, is_live: bool, pid: u32, link: &str) -> PathBuf {
    if is_live { root.proc(format!("{pid}/exe")) } else { root.path(link) }
}

/// What tells one state of a file from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileKey {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, i64),
    /// Set by the kernel at every change, and not to be set by anybody.
    pub(crate) ctime: (i64, i64),
}

impl FileKey {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether it is the same file, whatever it holds.
    pub(crate) fn is_file(&self, metadata: &Metadata) -> bool {
        (self.device, self.inode) == (metadata.dev(), metadata.ino())
    }

    /// When the contents were last written, microseconds since 1970.
    pub(crate) fn mtime_micros(&self) -> Option<i64> {
        self.mtime.0.checked_mul(1_000_000)?.checked_add(self.mtime.1 / 1000)
    }
}

/// What the kernel shows of a file that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileFacts {
    pub(crate) key: FileKey,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
}

impl FileFacts {
    /// Looks at a file as the kernel knows it, without asking the server of a network file system.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let Ok(found) = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS) else {
            // Linux before 4.11 has no such call, and some sandboxes refuse it.
            let metadata = std::fs::metadata(path)?;
            return Ok(Self { key: FileKey::of(&metadata), mode: metadata.mode(), uid: metadata.uid() });
        };
        let key = FileKey {
            device: makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            size: found.stx_size,
            mtime: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec.into()),
            ctime: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec.into()),
        };
        Ok(Self { key, mode: found.stx_mode.into(), uid: found.stx_uid })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    #[test]
    fn links_are_understood() {
        let target = parse_target("/usr/sbin/sshd (deleted)");
        assert_eq!(target, Target { path: "/usr/sbin/sshd", is_deleted: true });
        assert!(!target.is_memfd() && !target.is_temporary());
        assert!(parse_target("/memfd:x (deleted)").is_memfd());
        for path in ["/tmp/a", "/dev/shm/.x/b", "/var/tmp/c", "/run/user/1000/d"] {
            assert!(parse_target(path).is_temporary(), "{path}");
        }
        for path in ["/opt/tmp/a", "/tmpa", "/run/systemd/x"] {
            assert!(!parse_target(path).is_temporary(), "{path}");
        }
    }

    #[test]
    fn what_the_kernel_has_in_memory_is_what_a_file_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        let facts = FileFacts::read(&path).unwrap();
        assert_eq!(facts, FileFacts { key: FileKey::of(&metadata), mode: metadata.mode(), uid: metadata.uid() });
        assert!(facts.key.is_file(&metadata));
        assert!(FileFacts::read(&directory.path().join("none")).is_err());
    }

    #[test]
    fn the_way_to_a_file_stays_below_the_root() {
        let root = HostRoot::new("/host");
        assert_eq!(way_to(&root, true, 7, "/bin/a"), PathBuf::from("/host/proc/7/exe"));
        assert_eq!(way_to(&root, false, 7, "/bin/a"), PathBuf::from("/host/bin/a"));
    }

    proptest! {
        #[test]
        fn garbage_is_a_path(text in garbage()) {
            prop_assert!(text.starts_with(parse_target(&text).path));
        }
    }
}
