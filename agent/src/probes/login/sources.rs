//! Where lines and records come from: the journal's files, text logs, and the sessions that systemd-logind knows.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::lines::IDENTIFIERS;
use crate::host_root::{HostRoot, read_text};
use crate::journal::{From, Journal, Message};

/// Journal files followed at the most: the system's, and one for each user who is logged in.
const MAX_FILES: usize = 200;

/// Files that were archived while the agent was stopped, read at its start.
const MAX_ARCHIVED: usize = 16;

/// A file written so long before it was read has been read to its end.
const SETTLED: Duration = Duration::from_secs(2);

/// Waiting messages of one program beyond which the oldest are passed over.
const MAX_BACKLOG: u64 = 10_000;

/// Files of this host's journald.
#[derive(Debug)]
pub(super) struct Journals {
    folders: Vec<PathBuf>,
    /// By inode, which stays when a file is archived under another name.
    files: HashMap<u64, Followed>,
    /// How far files were read when the agent last ran, by their id.
    remembered: BTreeMap<String, u64>,
    /// Files never seen before are read from this time on, microseconds since 1970.
    since: u64,
    scanned: bool,
}

#[derive(Debug)]
struct Followed {
    journal: Journal<File>,
    /// Modified, and when it was read after that.
    read_at: Option<(SystemTime, SystemTime)>,
    archived: bool,
}

fn name_of(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Journals {
    pub(super) fn new(root: &HostRoot, remembered: BTreeMap<String, u64>, since: i64) -> Self {
        let machine = read_text(&root.path("/etc/machine-id")).filter(|id| id.bytes().all(|b| b.is_ascii_hexdigit()));
        let folders = machine
            .iter()
            .flat_map(|id| ["/var/log/journal", "/run/log/journal"].map(|base| root.path(base).join(id)))
            .collect();
        let since = u64::try_from(since).unwrap_or(0);
        Self { folders, files: HashMap::new(), remembered, since, scanned: false }
    }

    /// Whether there is a file that can be read.
    pub(super) fn are_there(&self) -> bool {
        !self.files.is_empty()
    }

    /// Files and programs not read yet are read from this time on.
    pub(super) fn begin_since(&mut self, since: i64) {
        self.since = u64::try_from(since).unwrap_or(0);
        for file in self.files.values_mut() {
            file.journal.begin_since(self.since);
        }
    }

    /// Looks for files: new ones are opened, those archived are marked, those gone are let go.
    pub(super) fn scan(&mut self) {
        let first = !std::mem::replace(&mut self.scanned, true);
        let mut archived = Vec::new();
        let mut there = Vec::new();
        for folder in &self.folders {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".journal")) else { continue };
                if !name.starts_with("system") && !name.starts_with("user-") {
                    continue;
                }
                // Not the number in the directory: on an overlay of two file systems that is another one, and every
                // file would be new each time.
                let Ok(meta) = entry.metadata() else { continue };
                let inode = meta.ino();
                there.push(inode);
                let is_archived = name.contains('@');
                if let Some(file) = self.files.get_mut(&inode) {
                    file.archived = is_archived;
                } else if !is_archived {
                    if self.files.len() < MAX_FILES {
                        open(&mut self.files, &entry.path(), &self.remembered, self.since, false);
                    }
                } else if first && meta.mtime() >= i64::try_from(self.since / 1_000_000).unwrap_or(i64::MAX) {
                    archived.push((meta.mtime(), entry.path()));
                }
            }
        }
        archived.sort_unstable();
        for (_, path) in archived.into_iter().rev().take(MAX_ARCHIVED) {
            open(&mut self.files, &path, &self.remembered, self.since, true);
        }
        self.files.retain(|inode, _| there.contains(inode));
    }

    /// Gives new messages, `limit` at the most. Comes back with the number passed over.
    pub(super) fn read(&mut self, mut limit: usize, mut give: impl FnMut(&str, Message)) -> u64 {
        let mut skipped = 0;
        let now = SystemTime::now();
        let mut done = Vec::new();
        // What is oldest first.
        let mut order: Vec<u64> = self.files.keys().copied().collect();
        order.sort_unstable_by_key(|inode| (!self.files[inode].archived, *inode));
        for inode in order {
            let Some(file) = self.files.get_mut(&inode) else { continue };
            if limit == 0 {
                break;
            }
            let modified = file.journal.source().metadata().and_then(|meta| meta.modified()).unwrap_or(now);
            if file.read_at.is_some_and(|(before, at)| {
                before == modified && at.duration_since(modified).is_ok_and(|settled| settled > SETTLED)
            }) {
                if file.archived {
                    done.push(inode);
                }
                continue;
            }
            let mut given = 0;
            skipped += file.journal.read(limit, MAX_BACKLOG, |message| {
                given += 1;
                give(IDENTIFIERS.get(message.identifier).copied().unwrap_or(""), message);
            });
            limit = limit.saturating_sub(given);
            // Only when nothing more came is it sure that all was read.
            file.read_at = (given == 0).then_some((modified, now));
        }
        for inode in done {
            self.files.remove(&inode);
        }
        skipped
    }

    /// How far files were read, to be remembered.
    pub(super) fn places(&self) -> BTreeMap<String, u64> {
        self.files.values().map(|file| (name_of(&file.journal.header().file_id), file.journal.last())).collect()
    }
}

fn open(
    files: &mut HashMap<u64, Followed>,
    path: &Path,
    remembered: &BTreeMap<String, u64>,
    since: u64,
    archived: bool,
) {
    let Ok(file) = File::open(path) else { return };
    let Ok(meta) = file.metadata() else { return };
    match Journal::open(file, IDENTIFIERS, From::Since(since)) {
        Ok(mut journal) => {
            if let Some(last) = remembered.get(&name_of(&journal.header().file_id)).filter(|last| **last > 0) {
                journal.begin_after(*last);
            }
            files.insert(meta.ino(), Followed { journal, read_at: None, archived });
        }
        Err(why) => tracing::debug!(path = %path.display(), why, "a journal file is not read"),
    }
}

/// A session as systemd-logind keeps it in `/run/systemd/sessions`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) user: Option<String>,
    pub(super) service: Option<String>,
    pub(super) class: Option<String>,
    pub(super) tty: Option<String>,
    pub(super) host: Option<String>,
    pub(super) leader: Option<i64>,
}

impl Session {
    /// Not cron's, not a greeter's, not the manager's of a user's services.
    pub(super) fn is_of_people(&self) -> bool {
        self.class.as_deref().is_none_or(|class| class.starts_with("user"))
            && !self.service.as_deref().is_some_and(|service| service.starts_with("cron"))
    }
}

/// `NAME=value` lines.
pub(super) fn parse_session(id: &str, text: &str) -> Session {
    let mut session = Session { id: id.to_owned(), ..Session::default() };
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        let value = value.trim_matches('"');
        let text = (!value.is_empty()).then(|| value.chars().take(256).collect::<String>());
        match name {
            "USER" => session.user = text,
            "SERVICE" => session.service = text,
            "CLASS" => session.class = text,
            "TTY" => session.tty = text,
            "REMOTE_HOST" => session.host = text,
            "LEADER" => session.leader = value.parse().ok(),
            _ => {}
        }
    }
    session
}

/// Sessions read at the most.
const MAX_SESSIONS: usize = 4_096;

/// All sessions there are now.
pub(super) fn sessions(root: &HostRoot) -> Vec<Session> {
    let Ok(entries) = std::fs::read_dir(root.path("/run/systemd/sessions")) else { return Vec::new() };
    entries
        .flatten()
        .take(MAX_SESSIONS)
        .filter_map(|entry| {
            let id = entry.file_name().into_string().ok()?;
            // Beside the files lie pipes: their names end in `.ref`.
            let is_file = entry.file_type().ok()?.is_file();
            is_file.then(|| read_text(&entry.path()).map(|text| parse_session(&id, &text)))?
        })
        .collect()
}
