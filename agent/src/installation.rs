//! Who this agent is: its id, and which run of it this is.
//!
//! Both are kept in `agent` in the agent's folder. The id is made once. The boot number, the time of the start or more, grows with every start
//! and is durable before the first record bears it, so that no two runs ever give one number to two records. A folder
//! that was copied to another machine (an image of a disk, say) is noticed by the machine's id, and gets an id of
//! its own.
//!
//! The folder belongs to one process at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};

use crate::host_root::HostRoot;

/// One run of one installation.
#[derive(Debug)]
pub struct Installation {
    /// Its id.
    pub agent: String,
    /// Its run.
    pub boot: u64,
    /// Held for as long as this run lasts.
    _lock: File,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// It cannot be read or written.
    #[error("cannot use {}; name another folder with agent.data_dir", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another agent has it.
    #[error("another agent is using {}; every agent needs a folder of its own (agent.data_dir)", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
}

const FILE: &str = "agent";

impl Installation {
    /// Begins a run: takes the folder, and writes down the next boot number.
    ///
    /// # Errors
    /// When the folder cannot be used, or another agent uses it.
    pub fn begin(folder: &Path, root: &HostRoot) -> Result<Self, InstallationError> {
        let failed = |source| InstallationError::Folder { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let lock = OpenOptions::new().create(true).append(true).open(folder.join("lock")).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(InstallationError::InUse { path: folder.to_owned() }),
            Err(error) => return Err(failed(error.into())),
        }
        let machine = std::fs::read_to_string(root.path("/etc/machine-id"))
            .map(|text| text.trim().to_owned())
            .unwrap_or_default();
        // Seconds since 1970, or one more than the last: also a folder that was set back to an older state begins a
        // run whose number no other had.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
        let (agent, boot) = match std::fs::read_to_string(folder.join(FILE)).ok().and_then(|text| parse(&text)) {
            Some(last) if last.machine == machine => (last.agent, now.max(last.boot + 1)),
            Some(_) => {
                tracing::warn!("this folder comes from another machine: the agent takes a new id");
                (new_id(), now)
            }
            None => (new_id(), now),
        };
        write(folder, &format!("{agent}\n{boot}\n{machine}\n")).map_err(failed)?;
        Ok(Self { agent, boot, _lock: lock })
    }

    /// Begins another run in the same process: its records are numbered anew, under a higher boot number.
    ///
    /// # Errors
    /// When that number cannot be written down.
    pub fn begin_again(&mut self, folder: &Path) -> Result<(), InstallationError> {
        let failed = |source| InstallationError::Folder { path: folder.to_owned(), source };
        let machine = std::fs::read_to_string(folder.join(FILE))
            .ok()
            .and_then(|text| parse(&text))
            .map(|written| written.machine)
            .unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
        let boot = now.max(self.boot + 1);
        // Also when it cannot be kept: the one before must not be used again.
        self.boot = boot;
        write(folder, &format!("{}\n{boot}\n{machine}\n", self.agent)).map_err(failed)
    }
}

struct Written {
    agent: String,
    boot: u64,
    machine: String,
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Three lines: id, boot, machine. A file that is not so begins anew, under a new id.
fn parse(text: &str) -> Option<Written> {
    let mut lines = text.lines();
    let agent = lines.next().filter(|id| uuid::Uuid::parse_str(id).is_ok())?.to_owned();
    let boot = lines.next()?.parse().ok()?;
    Some(Written { agent, boot, machine: lines.next()?.to_owned() })
}

/// Replaces the file in one step, durably.
fn write(folder: &Path, text: &str) -> io::Result<()> {
    let new = folder.join(format!("{FILE}.new"));
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(machine: &str) -> (tempfile::TempDir, HostRoot) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(directory.path().join("etc/machine-id"), format!("{machine}\n")).unwrap();
        let root = HostRoot::new(directory.path());
        (directory, root)
    }

    #[test]
    fn the_id_stays_and_the_boot_grows() {
        let (_kept, root) = root("m1");
        let folder = tempfile::tempdir().unwrap();
        let first = Installation::begin(folder.path(), &root).unwrap();
        let agent = first.agent.clone();
        let boot = first.boot;
        assert!(matches!(Installation::begin(folder.path(), &root), Err(InstallationError::InUse { .. })));
        drop(first);
        let second = Installation::begin(folder.path(), &root).unwrap();
        assert_eq!(second.agent, agent);
        assert!(second.boot > boot);
    }

    #[test]
    fn a_copied_folder_and_a_torn_file_make_a_new_agent() {
        let (_kept, one) = root("m1");
        let (_kept_too, two) = root("m2");
        let folder = tempfile::tempdir().unwrap();
        let first = Installation::begin(folder.path(), &one).unwrap().agent;
        let copied = Installation::begin(folder.path(), &two).unwrap();
        assert_ne!(copied.agent, first);
        let second = copied.agent.clone();
        drop(copied);
        std::fs::write(folder.path().join(FILE), "half").unwrap();
        assert_ne!(Installation::begin(folder.path(), &two).unwrap().agent, second);
    }
}
