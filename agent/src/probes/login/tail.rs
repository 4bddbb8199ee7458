//! Follows a file that grows at its end and is replaced now and then.
//!
//! A log is rotated in one of two ways: renamed, and a new one begun under its name (seen by its inode; what was still
//! written to the old one is read first, through the descriptor that is kept open), or copied and cut to nothing (seen
//! by its size).

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Bytes read at a time.
pub(super) const MAX_READ: usize = 1 << 20;

/// Beyond so many bytes not yet read, the oldest are passed over.
const MAX_BACKLOG: u64 = 8 << 20;

/// Where to begin, without a place remembered: so far before the end. What is too old in it is left out by its time.
const BACK: u64 = 64 << 10;

/// How far a file was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) inode: u64,
    pub(super) offset: u64,
}

/// A file that is followed.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    /// Bytes that belong together: records begin at multiples of it. 1 for text.
    unit: u64,
    open: Option<(File, Place)>,
    remembered: Option<Place>,
    /// Whether the file was looked for before: one that appears later is read from its beginning.
    looked: bool,
    buffer: Vec<u8>,
}

impl Tail {
    /// Opens nothing yet.
    pub(super) fn new(path: PathBuf, unit: usize, remembered: Option<Place>) -> Self {
        Self { path, unit: unit as u64, open: None, remembered, looked: false, buffer: Vec::new() }
    }

    /// How far it was read.
    pub(super) fn place(&self) -> Option<Place> {
        self.open.as_ref().map(|(_, place)| *place)
    }

    /// Gives what was appended, one whole unit or more lines at a time, in one piece of [`MAX_READ`] at the most; the
    /// rest comes next time. `whole` says how much of a piece is whole. Comes back with the bytes passed over.
    ///
    /// # Errors
    /// When the file cannot be opened or read.
    pub(super) fn read(&mut self, whole: impl Fn(&[u8]) -> usize, mut give: impl FnMut(&[u8])) -> io::Result<u64> {
        let first = !std::mem::replace(&mut self.looked, true);
        if self.open.is_none() {
            self.begin(first)?;
        }
        // A file of another name was ours until now: what is left in it comes first.
        let (more, skipped) = self.read_open(&whole, &mut give)?;
        if !more && self.is_replaced() {
            self.open = None;
            self.begin(false)?;
            let (_, again) = self.read_open(&whole, &mut give)?;
            return Ok(skipped + again);
        }
        Ok(skipped)
    }

    fn is_replaced(&self) -> bool {
        match (&self.open, std::fs::metadata(&self.path)) {
            (Some((_, place)), Ok(meta)) => meta.ino() != place.inode,
            _ => false,
        }
    }

    fn begin(&mut self, first: bool) -> io::Result<()> {
        if let Some(place) = self.remembered.take() {
            // The file may have been renamed since.
            let file = File::open(&self.path).ok().filter(|file| inode(file) == Some(place.inode));
            if let Some(file) = file.or_else(|| renamed(&self.path, place.inode)) {
                self.open = Some((file, place));
                return Ok(());
            }
            // It is gone; all of the one that is there now is new.
            return self.open_at(|_| 0);
        }
        let unit = self.unit;
        self.open_at(|size| {
            if first {
                let size = size / unit * unit;
                size.saturating_sub(BACK.max(unit) / unit * unit)
            } else {
                0
            }
        })
    }

    fn open_at(&mut self, offset: impl FnOnce(u64) -> u64) -> io::Result<()> {
        let file = File::open(&self.path)?;
        let meta = file.metadata()?;
        let place = Place { inode: meta.ino(), offset: offset(meta.len()) };
        self.open = Some((file, place));
        Ok(())
    }

    /// Whether there may be more, and what was passed over.
    fn read_open(&mut self, whole: &impl Fn(&[u8]) -> usize, give: &mut impl FnMut(&[u8])) -> io::Result<(bool, u64)> {
        let Some((file, place)) = &mut self.open else { return Ok((false, 0)) };
        let size = file.metadata()?.len();
        let mut skipped = 0;
        if size < place.offset {
            place.offset = 0;
        }
        if size - place.offset > MAX_BACKLOG {
            let from = (size - MAX_BACKLOG) / self.unit * self.unit;
            skipped = from - place.offset;
            place.offset = from;
        }
        let wanted = usize::try_from(size - place.offset).unwrap_or(MAX_READ).min(MAX_READ);
        if wanted == 0 {
            return Ok((false, skipped));
        }
        self.buffer.resize(wanted, 0);
        let length = file.read_at(&mut self.buffer, place.offset)?;
        let piece = &self.buffer[..length];
        let mut taken = whole(piece).min(length);
        // A line longer than what is read at a time would hold up all that follow.
        if taken == 0 && length == MAX_READ {
            taken = length;
        }
        give(&piece[..taken]);
        place.offset += taken as u64;
        // A burst is no reason to keep a large buffer.
        if self.buffer.capacity() > 64 << 10 {
            self.buffer = Vec::new();
        }
        Ok((taken > 0 && place.offset < size, skipped))
    }
}

fn inode(file: &File) -> Option<u64> {
    Some(file.metadata().ok()?.ino())
}

/// The file of that inode beside `path` whose name begins as its: `auth.log.1`, `secure-20260101`.
fn renamed(path: &Path, inode: u64) -> Option<File> {
    let name = path.file_name()?.to_str()?;
    let entries = std::fs::read_dir(path.parent()?).ok()?;
    let entry = entries.flatten().find(|entry| {
        entry.file_name().to_str().is_some_and(|other| other.starts_with(name))
            && entry.metadata().is_ok_and(|meta| meta.ino() == inode)
    })?;
    File::open(entry.path()).ok()
}

/// Up to the last line's end.
pub(super) fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn lines(tail: &mut Tail) -> String {
        let mut text = String::new();
        tail.read(whole_lines, |bytes| text.push_str(std::str::from_utf8(bytes).unwrap())).unwrap();
        text
    }

    fn append(path: &Path, text: &str) {
        std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn what_is_appended_comes_once_across_both_ways_of_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth.log");
        let mut tail = Tail::new(path.clone(), 1, None);
        assert!(tail.read(whole_lines, |_| {}).is_err());
        append(&path, "one\ntw");
        assert_eq!(lines(&mut tail), "one\n");
        append(&path, "o\n");
        assert_eq!(lines(&mut tail), "two\n");
        append(&path, "three\n");
        std::fs::rename(&path, directory.path().join("auth.log.1")).unwrap();
        append(&path, "four\n");
        assert_eq!(lines(&mut tail), "three\nfour\n");
        std::fs::write(&path, "5\n").unwrap();
        assert_eq!(lines(&mut tail), "5\n");
        assert_eq!(lines(&mut tail), "");
    }

    #[test]
    fn a_place_that_was_remembered_is_found_again_even_in_the_file_renamed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secure");
        append(&path, "one\n");
        let mut tail = Tail::new(path.clone(), 1, None);
        assert_eq!(lines(&mut tail), "one\n");
        let place = tail.place();
        append(&path, "two\n");
        assert_eq!(lines(&mut Tail::new(path.clone(), 1, place)), "two\n");
        std::fs::rename(&path, directory.path().join("secure-20260101")).unwrap();
        append(&path, "three\n");
        assert_eq!(lines(&mut Tail::new(path.clone(), 1, place)), "two\nthree\n");
        std::fs::remove_file(directory.path().join("secure-20260101")).unwrap();
        assert_eq!(lines(&mut Tail::new(path, 1, place)), "three\n");
    }

    #[test]
    fn a_long_backlog_is_cut_at_a_records_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("btmp");
        std::fs::write(&path, vec![0; 384]).unwrap();
        let mut tail = Tail::new(path.clone(), 384, None);
        let whole = |bytes: &[u8]| bytes.len() / 384 * 384;
        tail.read(whole, |_| {}).unwrap();
        std::fs::write(&path, vec![0; 384 * 30_000]).unwrap();
        let mut given = 0;
        let skipped = tail.read(whole, |bytes| given += bytes.len()).unwrap();
        assert!(
            skipped > 0 && skipped.is_multiple_of(384) && given > 0 && given.is_multiple_of(384),
            "{skipped} {given}"
        );
    }
}
