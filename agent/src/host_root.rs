//! Where the host's files are, and how to read them cheaply.
//!
//! Linux tells about itself in small files under `/proc` and `/sys`, made afresh each time they are read. An agent in
//! a container sees the host's below some other directory, and a test shows a probe a recorded machine: both are a
//! [`HostRoot`].
//!
//! Two ways of reading. [`FileReader`] is for a file that is read at every tick: it keeps the descriptor and the
//! buffer and reads again from the start, which saves two system calls and all allocation. The functions are for the
//! many one-line files of `/sys`, which would otherwise cost a descriptor each.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::probe::ProbeError;

/// The directory that is `/` to the host being sampled.
#[derive(Debug, Clone)]
pub struct HostRoot {
    root: PathBuf,
}

impl HostRoot {
    /// The host whose `/` is this directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A file of `/proc`: `proc("net/dev")`.
    pub fn proc(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join("proc").join(below(relative.as_ref()))
    }

    /// A file of `/sys`: `sys("class/net")`.
    pub fn sys(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join("sys").join(below(relative.as_ref()))
    }

    /// Any file of the host, given as the host knows it: `path("/etc/os-release")`.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(below(path.as_ref()))
    }

    /// Whether it is the machine this process sees as its own.
    pub fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Whether the kernel below this root is the one that runs, be it seen from a container: it draws a number at every
    /// start. What is asked of the kernel by a call and not by a file makes sense only then.
    pub fn is_this_machine(&self) -> bool {
        let number = |root: &Self| std::fs::read_to_string(root.proc("sys/kernel/random/boot_id")).ok();
        self.is_real() || number(self).is_some_and(|theirs| number(&Self::new("/")).is_some_and(|ours| ours == theirs))
    }
}

/// Joining an absolute path would leave the root.
fn below(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Files of `/proc` beyond this size are not what they claim to be.
const MAX_FILE: usize = 16 << 20;

/// A buffer begins at one page, which most files fit.
const FIRST_BUFFER: usize = 4096;

/// A file that is read again and again. Opens it when first read, and again after an error.
#[derive(Debug)]
pub struct FileReader {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
    lossy: String,
}

impl FileReader {
    /// Opens nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None, buffer: Vec::new(), lossy: String::new() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says now. Bytes that are not UTF-8 come as `U+FFFD`.
    ///
    /// # Errors
    /// When it cannot be opened or read, or is larger than 16 MiB.
    pub fn read(&mut self) -> Result<&str, ProbeError> {
        let length =
            self.fill().map_err(|source| ProbeError::Read { path: self.path.display().to_string(), source })?;
        let bytes = &self.buffer[..length];
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Ok(text);
        }
        self.lossy = String::from_utf8_lossy(bytes).into_owned();
        Ok(&self.lossy)
    }

    /// What the file says now, or `None` where this kernel has no such file.
    pub fn read_if_there(&mut self) -> Option<&str> {
        self.read().ok()
    }

    /// The number the file begins with.
    pub fn number(&mut self) -> Option<u64> {
        first_word(self.read().ok()?)
    }

    fn fill(&mut self) -> io::Result<usize> {
        if let Some(file) = &self.file
            && let Ok(length) = read_whole(file, &mut self.buffer)
        {
            return Ok(length);
        }
        self.file = None;
        let file = File::open(&self.path)?;
        let length = read_whole(&file, &mut self.buffer)?;
        self.file = Some(file);
        Ok(length)
    }
}

/// Reads from offset 0 to the end; the buffer only ever grows. The kernel may give less than was asked for in the
/// middle of a file, so only an empty read is the end.
fn read_whole(file: &File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut length = 0;
    loop {
        if length == buffer.len() {
            if length >= MAX_FILE {
                return Err(io::Error::from(ErrorKind::FileTooLarge));
            }
            buffer.resize((length * 2).clamp(FIRST_BUFFER, MAX_FILE), 0);
        }
        match file.read_at(&mut buffer[length..], length as u64) {
            Ok(0) => return Ok(length),
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The first word of a text, as a number. `None` for what is no such number, `-1` of an unsigned one included: the
/// kernel's way of saying that it does not know.
pub fn first_word<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// The number a one-line file of `/sys` holds. `None` where there is no such file, it cannot be read now, or it holds
/// no number from 0 up.
pub fn read_u64(path: &Path) -> Option<u64> {
    let mut buffer = [0u8; 64];
    let length = File::open(path).ok()?.read(&mut buffer).ok()?;
    first_word(std::str::from_utf8(&buffer[..length]).ok()?)
}

/// Whether a one-line file of `/sys` holds 1. `None` where it holds neither 0 nor 1.
pub fn read_bool(path: &Path) -> Option<bool> {
    match read_u64(path)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// What a small file of `/sys` says, without white space and NULs around it. `None` where there is no such file, it
/// cannot be read now, or it is empty.
pub fn read_text(path: &Path) -> Option<String> {
    let bytes = read_bytes(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// The bytes of a small file of `/sys`, 4 KiB at most: no attribute there is longer.
pub fn read_bytes(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(4096).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Name of what a symbolic link points at, without the way there.
pub fn link_name(path: &Path) -> Option<String> {
    let target = std::fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// Entries of a directory that are looked at: more than any directory of `/sys` that we list has.
const MAX_ENTRIES: usize = 4096;

/// Names of what a directory holds, in order; none when it cannot be listed.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().take(MAX_ENTRIES);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// The numbers N of entries `prefixN`, in order.
pub(crate) fn numbered(directory: &Path, prefix: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = names(directory).iter().filter_map(|name| parse_numbered(name, prefix)).collect();
    numbers.sort_unstable();
    numbers
}

/// The number N of a name `prefixN`; digits and nothing else.
pub(crate) fn parse_numbered(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let root = HostRoot::new("/host");
        assert_eq!(root.proc("stat"), Path::new("/host/proc/stat"));
        assert_eq!(root.sys("/class/net"), Path::new("/host/sys/class/net"));
        assert_eq!(root.path("/etc/os-release"), Path::new("/host/etc/os-release"));
        assert_eq!(root.path("etc"), Path::new("/host/etc"));
        assert!(!root.is_real());
        assert!(HostRoot::new("/").is_real());
        assert_eq!(HostRoot::new("/").proc("stat"), Path::new("/proc/stat"));
    }

    #[test]
    fn a_reader_sees_what_the_file_says_now() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stat");
        let mut reader = FileReader::new(&path);
        assert!(matches!(reader.read(), Err(ProbeError::Read { .. })));
        assert_eq!(reader.read_if_there(), None);
        std::fs::write(&path, "first, and longer").unwrap();
        assert_eq!(reader.read().unwrap(), "first, and longer");
        std::fs::write(&path, "42 second").unwrap();
        assert_eq!(reader.read().unwrap(), "42 second");
        assert_eq!(reader.number(), Some(42));
        std::fs::write(&path, b"caf\xe9").unwrap();
        assert_eq!(reader.read().unwrap(), "caf\u{fffd}");
    }

    #[test]
    fn a_file_larger_than_the_buffer_comes_whole_and_one_without_end_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large");
        let text = "0123456789".repeat(10_000);
        std::fs::write(&path, &text).unwrap();
        assert_eq!(FileReader::new(&path).read().unwrap(), text);
        assert!(FileReader::new("/dev/zero").read().is_err());
    }

    #[test]
    fn numbers_that_are_none_are_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("value");
        let cases =
            [("12\n", Some(12)), ("  7 kB", Some(7)), ("-1\n", None), ("", None), ("N/A", None), ("0x10", None)];
        for (text, expected) in cases {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_u64(&path), expected, "{text:?}");
        }
        assert_eq!(read_u64(&directory.path().join("none")), None);
        assert_eq!(read_u64(directory.path()), None);
        for (text, expected) in [("0\n", Some(false)), ("1\n", Some(true)), ("2\n", None)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_bool(&path), expected, "{text:?}");
        }
    }

    #[test]
    fn text_is_trimmed_and_links_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model");
        std::fs::write(&path, "  SAMSUNG MZ  \0\n").unwrap();
        assert_eq!(read_text(&path).as_deref(), Some("SAMSUNG MZ"));
        std::fs::write(&path, " \n").unwrap();
        assert_eq!(read_text(&path), None);
        let link = directory.path().join("driver");
        std::os::unix::fs::symlink("../../bus/pci/drivers/nvme", &link).unwrap();
        assert_eq!(link_name(&link).as_deref(), Some("nvme"));
        assert_eq!(link_name(&path), None);
    }

    #[test]
    fn a_root_is_this_machine_when_its_kernel_is() {
        assert!(HostRoot::new("/").is_this_machine());
        let directory = tempfile::tempdir().unwrap();
        let random = directory.path().join("proc/sys/kernel/random");
        std::fs::create_dir_all(&random).unwrap();
        let root = HostRoot::new(directory.path());
        assert!(!root.is_this_machine());
        std::fs::write(random.join("boot_id"), "00000000-0000-4000-8000-000000000000\n").unwrap();
        assert!(!root.is_this_machine());
        if let Ok(ours) = std::fs::read("/proc/sys/kernel/random/boot_id") {
            std::fs::write(random.join("boot_id"), ours).unwrap();
            assert!(root.is_this_machine());
        }
    }

    #[test]
    fn entries_with_numbers_come_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["node10", "node2", "node", "node1x", "other3", "node-1"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        assert_eq!(numbered(directory.path(), "node"), [2, 10]);
        assert!(numbered(&directory.path().join("none"), "node").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_name_brings_it_down(name in ".{0,40}") {
            parse_numbered(&name, "node");
            parse_numbered(&format!("node{name}"), "node");
        }
    }
}
