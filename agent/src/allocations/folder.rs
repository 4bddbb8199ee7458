//! The folder of files: a prolog writes `ID.json`, the epilog removes it.
//!
//! The files are the truth: what is there is held, what is gone has ended. So it works while the agent is down, and
//! needs no persistence of ours. A writer writes `.ID.json.new` and renames it, as one does with all files that
//! somebody reads; a file that is not whole is refused, told once, and left alone until it changes.
//!
//! A directory's time changes when an entry comes, goes or is renamed, but only as finely as the kernel's clock ticks
//! (1 to 10 ms). So it is listed when its time has changed or is younger than two seconds, and once a minute, to find
//! files that were written over in place.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::endpoint::Told;
use super::{MAX_ALLOCATIONS, MAX_BYTES, is_id, micros, parse_allocation};

/// A directory whose time is younger may change again without a change of its time.
const YOUNG_MICROS: i64 = 2_000_000;

/// The longest time without listing, microseconds.
const LIST_EVERY: i64 = 60_000_000;

/// Files that are refused one by one at the most; the rest are counted.
const MAX_REFUSED: usize = 64;

/// Tells one state of a file from another.
type Version = (i64, u64, u64);

/// The folder, and what was in it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// What was read of each file, by its name without `.json`.
    files: BTreeMap<String, (Version, Result<Told, String>)>,
    /// Files beyond the most that are read.
    left: u64,
    changed_at: Option<i64>,
    listed_at: i64,
}

impl Folder {
    /// A folder that has not been looked at.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, files: BTreeMap::new(), left: 0, changed_at: None, listed_at: i64::MIN }
    }

    /// Looks at it; whether anything is different from before.
    ///
    /// # Errors
    /// When it cannot be read. What was held stays so.
    pub(crate) fn look(&mut self, now: i64) -> io::Result<bool> {
        let changed_at = changed(&fs::metadata(&self.path)?);
        let is_young = now.saturating_sub(changed_at) < YOUNG_MICROS;
        let is_due = now.saturating_sub(self.listed_at) >= LIST_EVERY || now < self.listed_at;
        if self.changed_at == Some(changed_at) && !is_young && !is_due {
            return Ok(false);
        }
        let different = self.list(now)?;
        self.changed_at = Some(changed_at);
        self.listed_at = now;
        Ok(different)
    }

    /// Those that are held.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Told> {
        self.files.values().filter_map(|(_, file)| file.as_ref().ok())
    }

    /// Files that cannot be read, and why.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&str, &str)> {
        let refused =
            self.files.iter().filter_map(|(name, (_, file))| Some((name.as_str(), file.as_ref().err()?.as_str())));
        refused.take(MAX_REFUSED)
    }

    /// Files beyond the most that are read.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    fn list(&mut self, now: i64) -> io::Result<bool> {
        let mut before = std::mem::take(&mut self.files);
        let count = before.len();
        let mut different = false;
        let mut left = 0;
        for entry in fs::read_dir(&self.path)?.flatten() {
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
            if name.starts_with('.') {
                continue;
            }
            if self.files.len() >= MAX_ALLOCATIONS {
                left += 1;
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            let version = (changed(&metadata), metadata.len(), metadata.ino());
            let kept = before.remove(name).filter(|(of, _)| *of == version);
            let (version, file) = kept.unwrap_or_else(|| {
                different = true;
                let file = read(&entry.path(), name, version.0.min(now));
                if let Err(why) = &file {
                    tracing::warn!(file = %entry.path().display(), why, "a file of an allocation is refused");
                }
                (version, file)
            });
            self.files.insert(name.to_owned(), (version, file));
        }
        different |= self.files.len() != count || left != self.left;
        self.left = left;
        Ok(different)
    }
}

/// When it changed, microseconds since 1970.
fn changed(metadata: &fs::Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000).saturating_add(metadata.mtime_nsec() / 1_000)
}

fn read(path: &Path, name: &str, changed_at: i64) -> Result<Told, String> {
    if !is_id(name) {
        return Err("its name: 1 to 128 letters, digits and . _ : @ = + , ~ -".to_owned());
    }
    // Opening a pipe would wait for its writer, and a link may lead anywhere.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let flags = i32::try_from(flags.bits()).map_err(|error| error.to_string())?;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| error.to_string())?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("not a file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let allocation = parse_allocation(&bytes, Some(name))?;
    let began = allocation.began.map_or(changed_at, micros);
    Ok(Told { allocation, began, ended: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticker::now_us;

    #[test]
    fn files_come_are_refused_change_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let mut folder = Folder::new(path.to_owned());
        assert!(!folder.look(now_us()).unwrap(), "empty");
        fs::write(path.join("slurm-1.json"), r#"{"job":"1","accelerators":["GPU-1"]}"#).unwrap();
        fs::write(path.join("slurm-2.json"), "{").unwrap();
        fs::write(path.join(".hidden.json"), "{").unwrap();
        fs::write(path.join("other.txt"), "{").unwrap();
        fs::create_dir(path.join("folder.json")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path.join("link.json")).unwrap();
        assert!(folder.look(now_us()).unwrap());
        let held: Vec<&Told> = folder.held().collect();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].allocation.id, "slurm-1");
        assert!(now_us() - held[0].began < 60_000_000, "it began when the file was written");
        assert_eq!(folder.refused().map(|(name, _)| name).collect::<Vec<_>>(), ["folder", "link", "slurm-2"]);
        assert!(!folder.look(now_us()).unwrap(), "nothing is different, and nothing is told again");
        fs::write(path.join("slurm-2.json"), r#"{"id":"slurm-2"}"#).unwrap();
        assert!(folder.look(now_us()).unwrap());
        assert_eq!(folder.held().count(), 2);
        fs::rename(path.join("slurm-1.json"), path.join("slurm-1.done")).unwrap();
        assert!(folder.look(now_us()).unwrap());
        assert_eq!(folder.held().count(), 1);
    }

    #[test]
    fn an_old_folder_is_listed_once_a_minute() {
        let directory = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(directory.path().to_owned());
        let later = now_us() + 10_000_000;
        folder.look(later).unwrap();
        let listed = folder.listed_at;
        folder.look(later + 1_000_000).unwrap();
        assert_eq!(folder.listed_at, listed);
        folder.look(later + LIST_EVERY).unwrap();
        assert_eq!(folder.listed_at, listed + LIST_EVERY);
    }

    #[test]
    fn a_pipe_holds_nobody_up_and_no_folder_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe.json");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        let mut folder = Folder::new(directory.path().to_owned());
        folder.look(now_us()).unwrap();
        assert_eq!(folder.refused().map(|(_, why)| why).collect::<Vec<_>>(), ["not a file"]);
        assert!(Folder::new(directory.path().join("none")).look(now_us()).is_err());
    }
}
