//! Where the spool's files are: a seam, so that tests can pull the plug.
//!
//! [`Folder`] is a folder of the machine's file system. What it promises is what the spool's own promises rest on:
//! bytes are durable once [`Disk::sync`] has returned, [`Disk::replace`] and [`Disk::note`] leave either the old or the
//! new content and are durable when they return, and everything else may or may not have happened when the machine
//! stops.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files with numbers, and one note beside them.
pub trait Disk {
    /// Numbers of the files there are, in any order.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn list(&mut self) -> io::Result<Vec<u64>>;

    /// What a file holds.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&mut self, file: u64) -> io::Result<Vec<u8>>;

    /// When a file was last written to.
    fn written(&mut self, file: u64) -> SystemTime;

    /// Makes a file that is not there yet.
    ///
    /// # Errors
    /// When it cannot be made.
    fn create(&mut self, file: u64) -> io::Result<()>;

    /// Appends to a file made by `create`. Of the bytes some may be written when it fails.
    ///
    /// # Errors
    /// When not all could be written.
    fn append(&mut self, file: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts a file at a length.
    ///
    /// # Errors
    /// When it cannot be cut.
    fn cut(&mut self, file: u64, length: u64) -> io::Result<()>;

    /// Makes a file's bytes and its name durable.
    ///
    /// # Errors
    /// When the disk refuses.
    fn sync(&mut self, file: u64) -> io::Result<()>;

    /// Nothing more will be appended to this file.
    fn close(&mut self, file: u64);

    /// Puts other bytes in the place of a whole file.
    ///
    /// # Errors
    /// When the disk refuses; the file is as it was.
    fn replace(&mut self, file: u64, bytes: &[u8]) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn remove(&mut self, file: u64) -> io::Result<()>;

    /// Writes the note; an empty one removes it.
    ///
    /// # Errors
    /// When the disk refuses; the note is as it was.
    fn note(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// What the note says; nothing when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_note(&mut self) -> io::Result<Vec<u8>>;
}

/// A folder: `00000000000000000001.spool` and so on, and the note `lost`.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The files being appended to, and whether their name is durable.
    open: BTreeMap<u64, (File, bool)>,
}

impl Folder {
    /// Makes the folder if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        std::fs::create_dir_all(&path)?;
        // What was being written beside a file when the process died.
        for left in std::fs::read_dir(&path)?.flatten().filter(|e| e.path().extension().is_some_and(|e| e == "new")) {
            let _ = std::fs::remove_file(left.path());
        }
        Ok(Self { path, open: BTreeMap::new() })
    }

    /// Where a file is.
    pub fn path_of(&self, file: u64) -> PathBuf {
        self.path.join(format!("{file:020}.spool"))
    }

    fn put(&self, name: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = name.with_extension("new");
        let written = (|| {
            let mut file = File::create(&new)?;
            file.write_all(bytes)?;
            if let Ok(written) = std::fs::metadata(name).and_then(|old| old.modified()) {
                // What it holds is as old as it was.
                file.set_modified(written)?;
            }
            file.sync_all()?;
            std::fs::rename(&new, name)?;
            self.sync_names()
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn note_path(&self) -> PathBuf {
        self.path.join("lost")
    }
}

impl Disk for Folder {
    fn list(&mut self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            found.extend(name.to_str().and_then(|n| n.strip_suffix(".spool")).and_then(|n| n.parse::<u64>().ok()));
        }
        Ok(found)
    }

    fn read(&mut self, file: u64) -> io::Result<Vec<u8>> {
        std::fs::read(self.path_of(file))
    }

    fn written(&mut self, file: u64) -> SystemTime {
        std::fs::metadata(self.path_of(file)).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn create(&mut self, file: u64) -> io::Result<()> {
        let made = OpenOptions::new().append(true).create_new(true).open(self.path_of(file))?;
        self.open.insert(file, (made, false));
        Ok(())
    }

    fn append(&mut self, file: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, _) = self.open.get_mut(&file).ok_or(io::ErrorKind::NotFound)?;
        file.write_all(bytes)
    }

    fn cut(&mut self, file: u64, length: u64) -> io::Result<()> {
        match self.open.get(&file) {
            Some((file, _)) => file.set_len(length),
            None => {
                let file = OpenOptions::new().write(true).open(self.path_of(file))?;
                file.set_len(length)?;
                file.sync_all()
            }
        }
    }

    fn sync(&mut self, file: u64) -> io::Result<()> {
        let Some((open, named)) = self.open.get(&file) else {
            File::open(self.path_of(file))?.sync_all()?;
            return self.sync_names();
        };
        open.sync_data()?;
        if !named {
            self.sync_names()?;
            if let Some((_, named)) = self.open.get_mut(&file) {
                *named = true;
            }
        }
        Ok(())
    }

    fn close(&mut self, file: u64) {
        self.open.remove(&file);
    }

    fn replace(&mut self, file: u64, bytes: &[u8]) -> io::Result<()> {
        self.put(&self.path_of(file), bytes)
    }

    fn remove(&mut self, file: u64) -> io::Result<()> {
        self.open.remove(&file);
        std::fs::remove_file(self.path_of(file))
    }

    fn note(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !bytes.is_empty() {
            return self.put(&self.note_path(), bytes);
        }
        match std::fs::remove_file(self.note_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn read_note(&mut self) -> io::Result<Vec<u8>> {
        match std::fs::read(self.note_path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }
}
