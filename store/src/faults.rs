//! Stores that misbehave on purpose. For tests, of this crate and of those that build on it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chrono::Utc;
use parking_lot::Mutex;

use crate::durable::{Disk, DurableStore, Entry, FileFacts};

/// A disk in memory that forgets, when the power is cut, every name that was not synced with its directory.
///
/// The contents of a file are synced by `write_and_sync` itself; names are what a careless program loses.
#[derive(Debug, Clone, Default)]
pub struct ForgetfulDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    now: Names,
    synced: Names,
    contents: BTreeMap<u64, Bytes>,
    last_inode: u64,
    /// Operations until the power goes, if it has been arranged.
    fuse: Option<u64>,
    dead: bool,
}

#[derive(Debug, Clone, Default)]
struct Names {
    files: BTreeMap<PathBuf, u64>,
    directories: BTreeSet<PathBuf>,
}

impl ForgetfulDisk {
    /// An object store on this disk.
    pub fn store(&self) -> DurableStore {
        DurableStore::on(Arc::new(self.clone()), "/")
    }

    /// Cuts the power and starts again: what was not synced is gone.
    pub fn cut_power(&self) {
        let mut state = self.state.lock();
        let synced = &state.synced;
        // A name below a directory that is itself forgotten cannot be reached.
        let reachable =
            |path: &FsPath| path.ancestors().skip(1).all(|a| a == FsPath::new("/") || synced.directories.contains(a));
        let now = Names {
            files: synced.files.iter().filter(|(p, _)| reachable(p)).map(|(p, i)| (p.clone(), *i)).collect(),
            directories: synced.directories.iter().filter(|d| reachable(d)).cloned().collect(),
        };
        state.synced = now.clone();
        state.now = now;
        state.fuse = None;
        state.dead = false;
    }

    /// After this many more changing operations every call fails, until [`Self::cut_power`].
    pub fn fail_after(&self, operations: u64) {
        self.state.lock().fuse = Some(operations);
    }

    fn change<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if let Some(fuse) = &mut state.fuse {
            if *fuse == 0 {
                state.dead = true;
            } else {
                *fuse -= 1;
            }
        }
        if state.dead {
            return Err(io::Error::other("the power is gone"));
        }
        work(&mut state)
    }

    fn look<T>(&self, work: impl FnOnce(&State) -> io::Result<T>) -> io::Result<T> {
        let state = self.state.lock();
        if state.dead {
            return Err(io::Error::other("the power is gone"));
        }
        work(&state)
    }
}

fn not_found<T>() -> io::Result<T> {
    Err(io::ErrorKind::NotFound.into())
}

impl State {
    fn parent_exists(&self, path: &FsPath) -> bool {
        path.parent().is_some_and(|p| p == FsPath::new("/") || self.now.directories.contains(p))
    }

    fn facts(&self, inode: u64) -> FileFacts {
        FileFacts { length: self.contents[&inode].len() as u64, modified: Utc::now(), inode }
    }
}

impl Disk for ForgetfulDisk {
    fn make_directory(&self, directory: &FsPath) -> io::Result<()> {
        self.change(|state| {
            if !state.parent_exists(directory) {
                return not_found();
            }
            state.now.directories.insert(directory.to_path_buf());
            Ok(())
        })
    }

    fn is_directory(&self, directory: &FsPath) -> bool {
        directory == FsPath::new("/") || self.state.lock().now.directories.contains(directory)
    }

    fn write_and_sync(&self, file: &FsPath, parts: &[Bytes]) -> io::Result<()> {
        self.change(|state| {
            if !state.parent_exists(file) {
                return not_found();
            }
            state.last_inode += 1;
            let inode = state.last_inode;
            let mut contents = BytesMut::new();
            for part in parts {
                contents.extend_from_slice(part);
            }
            state.contents.insert(inode, contents.freeze());
            state.now.files.insert(file.to_path_buf(), inode);
            Ok(())
        })
    }

    fn link(&self, from: &FsPath, to: &FsPath) -> io::Result<()> {
        self.change(|state| {
            if state.now.files.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let Some(inode) = state.now.files.get(from).copied() else { return not_found() };
            state.now.files.insert(to.to_path_buf(), inode);
            Ok(())
        })
    }

    fn rename(&self, from: &FsPath, to: &FsPath) -> io::Result<()> {
        self.change(|state| {
            let Some(inode) = state.now.files.remove(from) else { return not_found() };
            state.now.files.insert(to.to_path_buf(), inode);
            Ok(())
        })
    }

    fn remove(&self, file: &FsPath) -> io::Result<()> {
        self.change(|state| state.now.files.remove(file).map_or_else(not_found, |_| Ok(())))
    }

    fn sync_directory(&self, directory: &FsPath) -> io::Result<()> {
        self.change(|state| {
            let inside = |path: &FsPath| path.parent() == Some(directory);
            state.synced.files.retain(|p, _| !inside(p));
            state.synced.directories.retain(|p| !inside(p));
            let State { now, synced, .. } = state;
            synced.files.extend(now.files.iter().filter(|(p, _)| inside(p)).map(|(p, i)| (p.clone(), *i)));
            synced.directories.extend(now.directories.iter().filter(|p| inside(p)).cloned());
            Ok(())
        })
    }

    fn facts(&self, file: &FsPath) -> io::Result<FileFacts> {
        self.look(|state| state.now.files.get(file).map_or_else(not_found, |inode| Ok(state.facts(*inode))))
    }

    fn read(&self, file: &FsPath, range: Range<u64>) -> io::Result<Bytes> {
        self.look(|state| {
            let Some(inode) = state.now.files.get(file) else { return not_found() };
            let contents = &state.contents[inode];
            let (start, end) = (range.start as usize, range.end as usize);
            if end > contents.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(contents.slice(start..end))
        })
    }

    fn entries(&self, directory: &FsPath) -> io::Result<Vec<Entry>> {
        self.look(|state| {
            let name = |path: &FsPath| path.file_name().map(|n| n.to_string_lossy().into_owned());
            let inside = |path: &FsPath| path.parent() == Some(directory);
            let directories =
                state.now.directories.iter().filter(|p| inside(p)).filter_map(|p| name(p)).map(Entry::Directory);
            let files = state
                .now
                .files
                .iter()
                .filter(|(p, _)| inside(p))
                .filter_map(|(p, inode)| Some(Entry::File(name(p)?, state.facts(*inode))))
                .filter(|e| !matches!(e, Entry::File(n, _) if n.ends_with(".partial")));
            Ok(directories.chain(files).collect())
        })
    }
}
