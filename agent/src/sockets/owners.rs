//! Which process holds a socket.
//!
//! The kernel does not say it. What there is: every open file of a process is a link below `/proc/PID/fd`, and that of a
//! socket reads `socket:[INODE]`. So all open files of all processes are looked at until the sockets wanted are found.
//! That costs two microseconds a file, and a busy host has a hundred thousand of them. Therefore: only for sockets not
//! seen before, at most once a minute, and no more than [`LINKS`] files at a time; where that is not enough, the next
//! search goes on where this one ended.
//!
//! Listing the files of another user's process needs `CAP_SYS_PTRACE`. Without it their sockets have no process here.
//! Some sockets never have one: those of the kernel itself, such as of an NFS server.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use crate::host_root::HostRoot;

/// Files looked at in one search.
pub(crate) const LINKS: usize = 20_000;

/// Between two searches.
const EVERY_MICROS: i64 = 60_000_000;

/// The processes of sockets, by inode.
#[derive(Debug)]
pub(crate) struct Owners {
    root: HostRoot,
    links: usize,
    /// `None` for one that was looked for everywhere, and not found.
    known: HashMap<u64, Option<u32>>,
    /// When the last search was.
    searched_at: Option<i64>,
    /// A way round all processes that is not finished.
    round: Option<Round>,
}

/// One way round all processes, which may take several searches.
#[derive(Debug)]
struct Round {
    /// The process to go on at.
    from: u32,
    /// What was looked for from its beginning: what of it is not found at the end is nowhere.
    wanted: HashSet<u64>,
}

impl Owners {
    /// Knows none yet.
    pub(crate) fn new(root: &HostRoot) -> Self {
        Self::with_links(root, LINKS)
    }

    fn with_links(root: &HostRoot, links: usize) -> Self {
        Self { root: root.clone(), links, known: HashMap::new(), searched_at: None, round: None }
    }

    /// The process that holds a socket, as far as it was found.
    pub(crate) fn pid(&self, inode: u64) -> Option<u32> {
        self.known.get(&inode).copied().flatten()
    }

    /// Looks for the sockets that are not known yet, if it is time for it. Others than these are forgotten.
    pub(crate) fn look_for(&mut self, now_micros: i64, wanted: &HashSet<u64>) {
        self.known.retain(|inode, _| wanted.contains(inode));
        let missing: HashSet<u64> =
            wanted.iter().copied().filter(|inode| *inode != 0 && !self.known.contains_key(inode)).collect();
        // A clock set back is no reason to wait for it.
        let is_early = self
            .searched_at
            .is_some_and(|at| now_micros.saturating_sub(at).unsigned_abs() < EVERY_MICROS.unsigned_abs());
        if missing.is_empty() || is_early {
            return;
        }
        self.searched_at = Some(now_micros);
        self.search(missing);
    }

    /// Looks again for a socket, because the process that held it is gone.
    pub(crate) fn forget(&mut self, inode: u64) {
        self.known.remove(&inode);
    }

    fn search(&mut self, mut missing: HashSet<u64>) {
        let pids = pids(&self.root.proc(""));
        let round = self.round.take().unwrap_or_else(|| Round { from: 0, wanted: missing.clone() });
        let start = pids.partition_point(|pid| *pid < round.from);
        let mut links = self.links;
        for pid in pids.get(start..).unwrap_or_default() {
            if links == 0 {
                self.round = Some(Round { from: *pid, ..round });
                return;
            }
            for inode in sockets_of(&self.root.proc(format!("{pid}/fd")), &mut links) {
                if missing.remove(&inode) {
                    self.known.insert(inode, Some(*pid));
                }
            }
            if missing.is_empty() {
                return;
            }
        }
        for inode in missing.intersection(&round.wanted) {
            self.known.insert(*inode, None);
        }
    }
}

/// The processes there are, in order.
pub(crate) fn pids(proc: &Path) -> Vec<u32> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect();
    pids.sort_unstable();
    pids
}

/// The sockets that a process has open, as far as `links` goes.
fn sockets_of<'a>(directory: &Path, links: &'a mut usize) -> impl Iterator<Item = u64> + use<'a> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map_while(move |entry| {
            *links = links.checked_sub(1)?;
            Some(fs::read_link(entry.path()).ok())
        })
        .flatten()
        .filter_map(|target| parse_link(target.to_str()?))
}

/// `socket:[4711]`
fn parse_link(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    const MINUTE: i64 = EVERY_MICROS;

    fn host(processes: &[(u32, &[&str])]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (pid, links) in processes {
            add(directory.path(), *pid, links);
        }
        directory
    }

    fn add(root: &Path, pid: u32, links: &[&str]) {
        let fd = root.join(format!("proc/{pid}/fd"));
        fs::create_dir_all(&fd).unwrap();
        for (number, link) in links.iter().enumerate() {
            symlink(link, fd.join(number.to_string())).unwrap();
        }
    }

    #[test]
    fn sockets_are_found_and_those_that_are_nowhere_are_not_looked_for_again() {
        let directory = host(&[(1, &["/dev/null", "socket:[10]"]), (20, &["socket:[11]", "socket:[10]"])]);
        let mut owners = Owners::new(&HostRoot::new(directory.path()));
        owners.look_for(0, &HashSet::from([10, 11, 12, 0]));
        assert_eq!((owners.pid(10), owners.pid(11), owners.pid(12)), (Some(1), Some(20), None));
        // Not before a minute has gone by, and never for one that was looked for everywhere.
        add(directory.path(), 30, &["socket:[12]", "socket:[13]"]);
        owners.look_for(MINUTE - 1, &HashSet::from([10, 11, 12, 13]));
        assert_eq!(owners.pid(13), None);
        owners.look_for(MINUTE, &HashSet::from([10, 12, 13]));
        assert_eq!((owners.pid(13), owners.pid(12), owners.pid(11)), (Some(30), None, None));
        owners.forget(12);
        owners.look_for(3 * MINUTE, &HashSet::from([12]));
        assert_eq!(owners.pid(12), Some(30));
    }

    #[test]
    fn a_search_is_bounded_and_goes_on_where_it_ended() {
        let directory = host(&[(1, &["a", "b", "c"]), (2, &["d", "e"]), (3, &["socket:[7]"])]);
        let mut owners = Owners::with_links(&HostRoot::new(directory.path()), 3);
        let wanted = HashSet::from([7, 8]);
        owners.look_for(0, &wanted);
        assert_eq!(owners.pid(7), None);
        owners.look_for(MINUTE, &wanted);
        assert_eq!(owners.pid(7), Some(3));
        assert!(owners.known.contains_key(&8), "the round is made");
    }

    #[test]
    fn our_own_socket_is_ours() {
        use std::os::fd::AsRawFd;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = parse_link(link.to_str().unwrap()).unwrap();
        let mut owners = Owners::with_links(&HostRoot::new("/"), 1_000_000);
        owners.look_for(0, &HashSet::from([inode]));
        assert_eq!(owners.pid(inode), Some(std::process::id()));
    }

    proptest! {
        #[test]
        fn garbage_is_no_socket(text in garbage()) {
            prop_assert!(parse_link(&text).is_none() || text.starts_with("socket:["));
        }
    }
}
