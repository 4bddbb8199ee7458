//! Files that decide who may do what on this host, and whether they are as they were.
//!
//! Whoever means to stay on a server writes to one of few places: a password, a key, a unit, a line for cron, a library
//! that is loaded into every program. So do the administrators, at known times. This probe says which of those files
//! changed when, with a hash of the contents before and after, never the contents.
//!
//! Every ten seconds the files are listed and their inodes looked at (`stat`): a file is read and hashed only when
//! something of its inode differs. The change time (ctime) is among that, because whoever changes a file can set its
//! modification time back, but not its change time. A file that cannot be read (`/etc/shadow`, for an agent that is not
//! root) is watched by size and time. For a symbolic link, the target's contents and the link's own text count: a unit
//! that is masked is a link to `/dev/null`.
//!
//! What is known is kept in the agent's folder, so that a change made while the agent was stopped is found when it
//! starts. Files on other machines' file systems are not looked at (see [`crate::glob`]).

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::glob::{self, RemoteMounts};
use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};
use crate::state_file::StateFile;

/// What is watched unless settings say otherwise.
const DEFAULT_FILES: &str = "/etc/passwd,/etc/shadow,/etc/group,/etc/gshadow,/etc/sudoers,/etc/sudoers.d/*,\
/etc/ssh/sshd_config,/etc/ssh/sshd_config.d/*,/etc/pam.d/*,/etc/security/access.conf,/etc/nsswitch.conf,\
/etc/ld.so.preload,/etc/ld.so.conf,/etc/ld.so.conf.d/*,/etc/crontab,/etc/anacrontab,/etc/cron.*/*,\
/var/spool/cron/*,/var/spool/cron/crontabs/*,/etc/systemd/system/**,/etc/rc.local,/etc/profile,/etc/profile.d/*,\
/root/.bashrc,/root/.profile,/root/.ssh/authorized_keys,/home/*/.ssh/authorized_keys,/etc/hosts,/etc/resolv.conf,\
/etc/modules,/etc/modules-load.d/*,/etc/modprobe.d/*,/etc/sysctl.conf,/etc/sysctl.d/*,/etc/audit/auditd.conf,\
/etc/audit/rules.d/*,/etc/rsyslog.conf,/etc/rsyslog.d/*,/etc/fstab,/etc/exports,/boot/grub/grub.cfg,\
/boot/grub2/grub.cfg,/proc/cmdline,/etc/slurm/*.conf,/etc/slurm-llnl/*.conf,/etc/munge/munge.key,/etc/nodescope/*";

/// Files watched at the most.
const MAX_FILES: usize = 2_000;

/// A larger file is watched by size and time alone.
const MAX_HASHED: u64 = 1 << 20;

/// The state of every file is told, changed or not, once in an hour of the wall clock.
const HOUR_MICROS: i64 = 3_600_000_000;

/// How often the host's mounts are looked at.
const MOUNTS_EVERY: Duration = Duration::from_secs(60);

/// Longest target of a link that is told.
const MAX_TARGET: usize = 4_096;

/// What the probe needs to know.
#[derive(Debug, Clone)]
pub struct ConfigChangeOptions {
    /// Patterns of the files watched.
    pub files: Vec<String>,
    /// Where what is known is kept, if anywhere.
    pub state: Option<PathBuf>,
}

impl Default for ConfigChangeOptions {
    fn default() -> Self {
        Self { files: DEFAULT_FILES.split(',').map(str::to_owned).collect(), state: None }
    }
}

impl ConfigChangeOptions {
    /// Reads the settings.
    pub fn read(settings: &mut Settings) -> Self {
        let mut files = settings.list(
            "agent.config_files",
            DEFAULT_FILES,
            "Files watched for changes, with *, ?, [a-z] within a name and ** at the end for all below. \
             Replaces the built-in list.",
        );
        files.extend(settings.list(
            "agent.config_files_extra",
            "",
            "Files watched beside those of agent.config_files.",
        ));
        for file in &files {
            if !file.starts_with('/') {
                settings.mistake(format!("agent.config_files: `{file}` does not begin with /"));
            }
        }
        Self { files, state: None }
    }
}

/// What the inode says. When it says the same as before, the file is not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Inode {
    device: u64,
    number: u64,
    size: u64,
    modified_ns: i64,
    changed_ns: i64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// A file as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    inode: Inode,
    /// Bytes hashed, which for files the kernel makes up is not the inode's size.
    size: u64,
    /// Lower-case hexadecimal.
    sha256: Option<String>,
    /// What a symbolic link says.
    target: Option<String>,
    /// Why there is no hash although there should be one.
    unreadable: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Remembered {
    files: BTreeMap<String, Known>,
}

/// Fills the table `config_change`.
pub struct ConfigChangeProbe {
    root: HostRoot,
    patterns: Vec<String>,
    remote: RemoteMounts,
    state: StateFile,
    known: BTreeMap<String, Known>,
    /// Whether `known` is a state the host was in: a file that is not in it is then a new one.
    is_known: bool,
    paths: Vec<String>,
    buffer: Vec<u8>,
    hour: i64,
}

impl ConfigChangeProbe {
    /// Reads what was known when the agent last ran.
    pub fn new(root: &HostRoot, options: ConfigChangeOptions) -> Self {
        let state = StateFile::new(options.state, "config_change");
        let remembered: Option<Remembered> = state.read();
        let is_known = remembered.is_some();
        Self {
            root: root.clone(),
            patterns: options.files,
            remote: RemoteMounts::default(),
            state,
            known: remembered.unwrap_or_default().files,
            is_known,
            paths: Vec::new(),
            buffer: Vec::new(),
            hour: i64::MIN,
        }
    }

    /// The file as it is now, read only if its inode is not as before. `None` when there is none.
    fn look(&mut self, path: &str, before: Option<&Known>) -> Option<Known> {
        let here = self.root.path(path);
        let link = std::fs::symlink_metadata(&here).ok()?;
        let target = link.file_type().is_symlink().then(|| {
            let target = std::fs::read_link(&here).map(|t| t.to_string_lossy().into_owned()).unwrap_or_default();
            target.chars().take(MAX_TARGET).collect::<String>()
        });
        // An absolute target is meant as the host sees it.
        let there = match &target {
            Some(target) if target.starts_with('/') && !self.root.is_real() => self.root.path(target),
            _ => here,
        };
        let followed = match &target {
            Some(text) if self.remote.hold(&resolved(path, text)) => None,
            Some(_) => std::fs::metadata(&there).ok(),
            None => None,
        };
        // A link to nothing is judged by itself.
        let leads = target.is_none() || followed.is_some();
        let meta = followed.as_ref().unwrap_or(&link);
        let inode = Inode {
            device: meta.dev(),
            number: meta.ino(),
            size: meta.size(),
            modified_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            changed_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
        };
        if let Some(before) = before
            && before.inode == inode
            && before.target == target
        {
            return Some(before.clone());
        }
        let mut known = Known { size: inode.size, inode, sha256: None, target, unreadable: false };
        if leads && meta.is_file() && known.size <= MAX_HASHED {
            match hash(&there, &mut self.buffer) {
                Some((sha256, size)) => {
                    known.sha256 = sha256;
                    known.size = size;
                }
                None => known.unreadable = true,
            }
        }
        Some(known)
    }
}

/// Where a link at `path` with that text leads, roughly: enough to see whether it leads to another machine.
fn resolved(path: &str, target: &str) -> PathBuf {
    Path::new(path).parent().unwrap_or(Path::new("/")).join(target)
}

/// The files of all patterns, in order and each once, and how many there is no room for. Patterns that stand for few
/// files come first: a thousand users' keys must not take the place of root's.
fn put_together(mut found: Vec<Vec<String>>, paths: &mut Vec<String>) -> usize {
    let mut left_out = 0;
    let mut seen = HashSet::new();
    found.sort_by_key(Vec::len);
    for path in found.into_iter().flatten() {
        if seen.contains(&path) {
            continue;
        }
        if paths.len() < MAX_FILES {
            paths.push(path.clone());
        } else {
            left_out += 1;
        }
        seen.insert(path);
    }
    paths.sort_unstable();
    left_out
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// Hash and size of a file; no hash for one that turns out larger than [`MAX_HASHED`]. `None` when it cannot be read.
fn hash(path: &Path, buffer: &mut Vec<u8>) -> Option<(Option<String>, u64)> {
    // What was a file a moment ago may be a pipe now, and nobody writes to it.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    buffer.clear();
    file.take(MAX_HASHED + 1).read_to_end(buffer).ok()?;
    let size = buffer.len() as u64;
    if size > MAX_HASHED {
        return Some((None, size));
    }
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(&buffer[..]) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    // The buffer has held a private file.
    buffer.fill(0);
    Some((Some(text), size))
}

/// What of a file is not as before, in the words of the column `changed`. Empty for nothing that matters: a file
/// written anew with the same contents has not changed.
fn differences(before: &Known, now: &Known) -> String {
    let contents = match (&before.sha256, &now.sha256) {
        (Some(before), Some(now)) => before != now,
        // Read before and not now, or the other way round, says nothing of the contents; size and time do.
        _ => (before.inode.size, before.inode.modified_ns) != (now.inode.size, now.inode.modified_ns),
    };
    let parts = [
        ("contents", contents),
        ("mode", before.inode.mode != now.inode.mode),
        ("owner", (before.inode.uid, before.inode.gid) != (now.inode.uid, now.inode.gid)),
        ("target", before.target != now.target),
        ("readable", before.unreadable != now.unreadable),
    ];
    let mut text = String::new();
    for (part, _) in parts.iter().filter(|(_, differs)| *differs) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(part);
    }
    text
}

fn put(rows: &mut Rows, path: &str, state: &str, now: Option<&Known>, before: Option<&Known>, changed: Option<&str>) {
    let mut row = rows.begin();
    row.text("path", path).text("state", state).text("changed", changed);
    row.text("previous_sha256", before.and_then(|known| known.sha256.as_deref()));
    if let Some(now) = now {
        let mode = format!("{:04o}", now.inode.mode & 0o7777);
        row.text("sha256", now.sha256.as_deref())
            .count("size_bytes", now.size)
            .text("mode", mode.as_str())
            .int("uid", i64::from(now.inode.uid))
            .int("gid", i64::from(now.inode.gid))
            .timestamp("modified", now.inode.modified_ns.div_euclid(1_000))
            .timestamp("inode_changed", now.inode.changed_ns.div_euclid(1_000))
            .text("target", now.target.as_deref());
    }
}

impl Probe for ConfigChangeProbe {
    fn table(&self) -> &'static str {
        "config_change"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        if tick.is_due(MOUNTS_EVERY) {
            self.remote = RemoteMounts::read(&self.root);
        }
        // Not at the full hour alone: that tick may be skipped.
        let hour = tick.ts_micros.div_euclid(HOUR_MICROS);
        let baseline = std::mem::replace(&mut self.hour, hour) != hour;
        let mut paths = std::mem::take(&mut self.paths);
        paths.clear();
        let mut left_out = 0;
        let mut found: Vec<Vec<String>> = Vec::with_capacity(self.patterns.len());
        for pattern in &self.patterns {
            // Patterns may overlap, so that what is beyond the limit is known only after all.
            let mut of_pattern = Vec::new();
            left_out += glob::expand(&self.root, &self.remote, pattern, 4 * MAX_FILES, &mut of_pattern);
            found.push(of_pattern);
        }
        left_out += put_together(found, &mut paths);

        let mut before = std::mem::take(&mut self.known);
        let mut dirty = !self.is_known;
        for path in &paths {
            let known = before.remove(path);
            match (self.look(path, known.as_ref()), known) {
                (None, None) => {}
                (None, Some(known)) => {
                    dirty = true;
                    put(rows, path, "removed", None, Some(&known), None);
                }
                (Some(now), None) => {
                    dirty = true;
                    let state = match (self.is_known, now.unreadable) {
                        (true, _) => "added",
                        (false, true) => "unreadable",
                        (false, false) => "seen",
                    };
                    put(rows, path, state, Some(&now), None, None);
                    self.known.insert(path.clone(), now);
                }
                (Some(now), Some(known)) => {
                    let changed = if known == now { String::new() } else { differences(&known, &now) };
                    dirty |= known != now;
                    if !changed.is_empty() {
                        put(rows, path, "changed", Some(&now), Some(&known), Some(&changed));
                    } else if baseline {
                        let state = if now.unreadable { "unreadable" } else { "seen" };
                        put(rows, path, state, Some(&now), None, None);
                    }
                    self.known.insert(path.clone(), now);
                }
            }
        }
        // What no pattern stands for any more: removed, or its folder is, or the settings or mounts are others now.
        for (path, known) in before {
            dirty = true;
            let is_there = std::fs::symlink_metadata(self.root.path(&path)).is_ok();
            put(rows, &path, if is_there { "unwatched" } else { "removed" }, None, Some(&known), None);
        }
        if left_out > 0 && baseline {
            rows.begin().text("path", "*").text("state", "overflow").count("left_out", left_out as u64);
        }
        self.is_known = true;
        self.paths = paths;
        if dirty {
            let remembered = Remembered { files: std::mem::take(&mut self.known) };
            self.state.write(&remembered);
            self.known = remembered.files;
        }
        if self.known.is_empty() && rows.is_empty() {
            return Err(ProbeError::Absent(
                "none of the files of agent.config_files is there; a container needs agent.root".to_owned(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nodescope_model::catalogue::Catalogue;

    use super::*;
    use crate::probes::testing::{FIRST_TICK, row_of, sample_at, texts};

    const NEXT: Tick = Tick { ts_micros: 1_700_000_010_000_000, first: false };

    struct Host {
        directory: tempfile::TempDir,
        state: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Self {
            let host = Self { directory: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap() };
            host.write("etc/passwd", "root:x:0:0\n");
            host.write("etc/cron.d/job", "* * * * * root true\n");
            host
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn probe(&self) -> ConfigChangeProbe {
            let options =
                ConfigChangeOptions { state: Some(self.state.path().to_owned()), ..ConfigChangeOptions::default() };
            ConfigChangeProbe::new(&HostRoot::new(self.directory.path()), options)
        }
    }

    #[test]
    fn many_files_of_one_pattern_do_not_crowd_out_those_of_others() {
        let homes: Vec<String> = (0..MAX_FILES + 5).map(|n| format!("/home/u{n:05}/.ssh/authorized_keys")).collect();
        let root = vec!["/root/.ssh/authorized_keys".to_owned()];
        let mut paths = Vec::new();
        let left_out = put_together(vec![homes.clone(), root.clone(), root.clone(), homes[..1].to_vec()], &mut paths);
        assert_eq!((paths.len(), left_out), (MAX_FILES, 6));
        assert_eq!(paths.last(), root.first());
        assert!(paths.is_sorted());
    }

    #[test]
    fn a_change_is_told_once_with_both_hashes() {
        let host = Host::new();
        let mut probe = host.probe();
        let batch = sample_at(&mut probe, &FIRST_TICK);
        assert_eq!(texts(&batch, "path"), [Some("/etc/cron.d/job"), Some("/etc/passwd")]);
        assert_eq!(texts(&batch, "state"), [Some("seen"); 2]);
        let first = texts(&batch, "sha256")[1].unwrap().to_owned();
        assert_eq!(first.len(), 64);
        assert_eq!(sample_at(&mut probe, &NEXT).num_rows(), 0);

        host.write("etc/passwd", "root:x:0:0\nbad:x:0:0\n");
        host.write("etc/sudoers.d/new", "bad ALL=(ALL) NOPASSWD: ALL\n");
        std::fs::remove_file(host.directory.path().join("etc/cron.d/job")).unwrap();
        let batch = sample_at(&mut probe, &NEXT);
        assert_eq!(batch.num_rows(), 3);
        let states = texts(&batch, "state");
        assert_eq!(states[row_of(&batch, "path", "/etc/cron.d/job")], Some("removed"));
        assert_eq!(states[row_of(&batch, "path", "/etc/sudoers.d/new")], Some("added"));
        let changed = row_of(&batch, "path", "/etc/passwd");
        assert_eq!(texts(&batch, "changed")[changed], Some("contents"));
        assert_eq!(texts(&batch, "previous_sha256")[changed], Some(first.as_str()));
        assert_ne!(texts(&batch, "sha256")[changed], Some(first.as_str()));
        assert_eq!(sample_at(&mut probe, &NEXT).num_rows(), 0);
    }

    #[test]
    fn what_happened_while_the_agent_was_stopped_is_found() {
        let host = Host::new();
        sample_at(&mut host.probe(), &FIRST_TICK);
        host.write("etc/passwd", "root::0:0\n");
        host.write("etc/ld.so.preload", "/tmp/x.so\n");
        let batch = sample_at(&mut host.probe(), &FIRST_TICK);
        let states = texts(&batch, "state");
        assert_eq!(states[row_of(&batch, "path", "/etc/passwd")], Some("changed"));
        assert_eq!(states[row_of(&batch, "path", "/etc/ld.so.preload")], Some("added"));
        assert_eq!(states[row_of(&batch, "path", "/etc/cron.d/job")], Some("seen"));
    }

    #[test]
    fn a_file_written_anew_with_the_same_contents_has_not_changed_and_a_mode_has() {
        let host = Host::new();
        let mut probe = host.probe();
        sample_at(&mut probe, &FIRST_TICK);
        std::fs::remove_file(host.directory.path().join("etc/passwd")).unwrap();
        host.write("etc/passwd", "root:x:0:0\n");
        assert_eq!(sample_at(&mut probe, &NEXT).num_rows(), 0);
        let path = host.directory.path().join("etc/passwd");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let batch = sample_at(&mut probe, &NEXT);
        assert_eq!(texts(&batch, "changed"), [Some("mode")]);
        assert_eq!(texts(&batch, "mode"), [Some("0666")]);
    }

    #[test]
    fn links_are_followed_and_a_masked_unit_is_seen() {
        let host = Host::new();
        let units = host.directory.path().join("etc/systemd/system");
        std::fs::create_dir_all(&units).unwrap();
        host.write("lib/a.service", "[Unit]\n");
        symlink("/lib/a.service", units.join("a.service")).unwrap();
        let mut probe = host.probe();
        let batch = sample_at(&mut probe, &FIRST_TICK);
        let row = row_of(&batch, "path", "/etc/systemd/system/a.service");
        assert_eq!(texts(&batch, "target")[row], Some("/lib/a.service"));
        assert!(texts(&batch, "sha256")[row].is_some());
        std::fs::remove_file(units.join("a.service")).unwrap();
        symlink("/dev/null", units.join("a.service")).unwrap();
        let batch = sample_at(&mut probe, &NEXT);
        assert!(texts(&batch, "changed")[0].unwrap().contains("target"));
        assert_eq!(texts(&batch, "target"), [Some("/dev/null")]);
        assert_eq!(texts(&batch, "sha256"), [None]);
    }

    #[test]
    fn a_file_too_large_is_watched_by_size_and_a_pipe_holds_nobody_up() {
        let host = Host::new();
        host.write("etc/hosts", &"x".repeat(MAX_HASHED as usize + 1));
        let pipe = host.directory.path().join("etc/fstab");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let mut probe = host.probe();
        let batch = sample_at(&mut probe, &FIRST_TICK);
        assert_eq!(texts(&batch, "sha256")[row_of(&batch, "path", "/etc/hosts")], None);
        assert_eq!(texts(&batch, "sha256")[row_of(&batch, "path", "/etc/fstab")], None);
        host.write("etc/hosts", &"y".repeat(MAX_HASHED as usize + 2));
        assert_eq!(texts(&sample_at(&mut probe, &NEXT), "changed"), [Some("contents")]);
    }

    #[test]
    fn a_host_without_such_files_is_no_fault() {
        let empty = tempfile::tempdir().unwrap();
        let mut probe = ConfigChangeProbe::new(&HostRoot::new(empty.path()), ConfigChangeOptions::default());
        let catalogue = Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("config_change").unwrap());
        assert!(matches!(probe.sample(&FIRST_TICK, &mut rows), Err(ProbeError::Absent(_))));
    }

    #[test]
    fn settings_replace_and_add() {
        let mut settings = Settings::default();
        settings.flag("agent.config_files", Some("/etc/a,/etc/b*"));
        settings.flag("agent.config_files_extra", Some("/opt/c,relative"));
        let options = ConfigChangeOptions::read(&mut settings);
        assert_eq!(options.files, ["/etc/a", "/etc/b*", "/opt/c", "relative"]);
        assert_eq!(settings.finish().unwrap_err().0.len(), 1);
        let defaults = ConfigChangeOptions::read(&mut Settings::default());
        assert_eq!(defaults.files, ConfigChangeOptions::default().files);
    }
}
