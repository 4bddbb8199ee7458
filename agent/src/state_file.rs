//! What a probe remembers beyond its process: one small file in the agent's folder, replaced in one step.
//!
//! It is a convenience, not a journal: a file that is missing, torn or of another version is begun anew.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Larger files are not ours.
const MAX_SIZE: u64 = 4 << 20;

/// Where something is remembered, if anywhere.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: Option<PathBuf>,
    /// Whether it was said that it cannot be written.
    is_failing: bool,
}

impl StateFile {
    /// `NAME.json` in that folder; nothing is kept without one.
    pub(crate) fn new(folder: Option<PathBuf>, name: &str) -> Self {
        Self { path: folder.map(|folder| folder.join(format!("{name}.json"))), is_failing: false }
    }

    /// What was remembered.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Option<T> {
        let path = self.path.as_ref()?;
        if std::fs::metadata(path).ok()?.len() > MAX_SIZE {
            return None;
        }
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Remembers something else. A folder that cannot be written is told once, and tried again: a disk that is full now
    /// need not be so when the agent ends, and what is old by then would be told twice.
    pub(crate) fn write<T: Serialize>(&mut self, value: &T) {
        let Some(path) = &self.path else { return };
        let failed = replace(path, value).err();
        if let Some(error) = failed.as_ref().filter(|_| !self.is_failing) {
            tracing::warn!(path = %path.display(), %error, "cannot be written: not remembered beyond this run");
        }
        self.is_failing = failed.is_some();
    }
}

fn replace<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    let text = serde_json::to_vec(value).map_err(std::io::Error::other)?;
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(&text)?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_torn_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(Some(folder.path().to_owned()), "x");
        assert_eq!(file.read::<Vec<u64>>(), None);
        file.write(&vec![1u64, 2]);
        assert_eq!(file.read::<Vec<u64>>(), Some(vec![1, 2]));
        std::fs::write(folder.path().join("x.json"), "[1,").unwrap();
        assert_eq!(file.read::<Vec<u64>>(), None);
        let mut nowhere = StateFile::new(None, "x");
        nowhere.write(&1);
        assert_eq!(nowhere.read::<u64>(), None);
    }

    #[test]
    fn a_folder_that_is_not_there_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(Some(folder.path().join("later")), "x");
        file.write(&1);
        assert!(file.is_failing);
        std::fs::create_dir(folder.path().join("later")).unwrap();
        file.write(&2);
        assert_eq!((file.is_failing, file.read::<u64>()), (false, Some(2)));
    }
}
