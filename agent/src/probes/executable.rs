//! `executable`: the programs that run here and do not look as if they belonged.
//!
//! Nearly everything that runs on a server came with a package. What did not is not evil (people run what they built),
//! but evil is among it. So each file that runs is judged once, by what the kernel shows of it, and has a row when there
//! is a reason:
//!
//! | Reason | What it means | Also seen with |
//! |---|---|---|
//! | `deleted` | the file has no name any more and nothing is in its place | programs that hide, and self-removing installers |
//! | `replaced` | another file has its name now | services not restarted after an update |
//! | `memfd` | it lives in memory alone | `runc` while it starts a container |
//! | `temporary` | it lies below `/tmp`, `/var/tmp`, `/dev/shm` or `/run/user` | builds, tests, AppImages |
//! | `unpackaged` | no package brought it | what people built themselves |
//! | `modified` | it is not what its package brought | nothing good |
//! | `setuid`, `setgid` | it runs with the rights of its owner | `sudo`, `su`, `mount` |
//! | `world_writable` | anybody may change it | careless installers |
//! | `other_root` | its path leads elsewhere on this host: it runs in a container or a chroot | every container |
//! | `unreadable` | the agent may not look | an agent without `CAP_SYS_PTRACE` |
//!
//! Files of containers came with an image; the host's packages say nothing about them. A file is the host's when the
//! path, followed from the host's root, leads to the same inode. That is a better test than the mount namespace, which
//! systemd gives to many of its services without giving them other files. Where the path lies on another machine it is
//! not followed, since that machine may be gone: such a file is taken to be where its path says.
//!
//! Scripts are not seen: what runs is their interpreter.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use crate::attribution::{ProcessFacts, is_kernel_thread};
use crate::executables::hasher::{HashThread, NoHash, Waiting};
use crate::executables::packages::{Database, Package, Packages};
use crate::executables::{FileFacts, FileKey, parse_target, way_to};
use crate::glob::RemoteMounts;
use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};
use crate::sockets::owners::pids;

/// Processes looked at.
const MAX_PROCESSES: usize = 32_768;

/// Files known. Beyond, those that do not run now are forgotten first.
const MAX_FILES: usize = 2_048;

/// Files asked about in one search through the packages.
const MAX_ASKED: usize = 256;

/// Numbers of processes in a row.
const MAX_PIDS: usize = 32;

/// All rows with a reason are written once in an hour of the wall clock.
const HOUR_MICROS: i64 = 3_600_000_000;

/// How long one tick waits for hashes.
const PATIENCE: Duration = Duration::from_secs(2);

/// The row of the processes that could not be looked at. No file has a path like it.
const OTHERS: &str = "(others)";

/// What the probe needs to know.
#[derive(Debug, Clone, Default)]
pub struct ExecutableOptions {
    /// Whether a file without any reason has a row too, when it is first seen.
    pub all: bool,
}

impl ExecutableOptions {
    /// Reads the settings.
    pub fn read(settings: &mut Settings) -> Self {
        let which: String = settings.get(
            "agent.executables",
            "suspicious",
            "Which running programs have rows: `suspicious`, or `all`: others too, when they are first seen.",
        );
        if !matches!(which.as_str(), "suspicious" | "all") {
            settings.mistake("agent.executables: `suspicious` or `all`");
        }
        Self { all: which == "all" }
    }
}

/// Fills the table `executable`.
pub struct ExecutableProbe {
    root: HostRoot,
    options: ExecutableOptions,
    hasher: HashThread,
    is_live: Option<bool>,
    packages: Packages,
    database: Option<Database>,
    remote: RemoteMounts,
    files: HashMap<Identity, Running>,
    hour: i64,
    /// Processes that could not be looked at, at the tick before.
    unseen: u64,
}

/// What makes a file one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    path: Box<str>,
    device: u64,
    inode: u64,
}

/// A file that runs, or has run.
#[derive(Debug)]
struct Running {
    key: FileKey,
    mode: u32,
    owner_uid: u32,
    place: Place,
    is_memfd: bool,
    is_temporary: bool,
    package: Judged,
    /// Whether the packages are to be asked, for the first time or again. What they said before holds until they answer.
    must_ask: bool,
    hash: Waiting,
    first_seen: i64,
    process: Option<ProcessFacts>,
    processes: u64,
    pids: Vec<u32>,
    written: Option<Signature>,
}

/// Where the path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// To the file.
    Here,
    /// Nowhere any more.
    Deleted,
    /// To another file, that has taken its place.
    Replaced,
    /// To another file or none: it is the path of another root.
    Elsewhere,
}

/// What the packages say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Judged {
    /// Not asked yet.
    NotYet,
    /// It is not for them to say.
    Unknown,
    /// None brought it.
    None,
    Of(Package),
}

/// What makes a row worth writing again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    reasons: String,
    package: Option<String>,
    sha256: Option<String>,
    /// Unlike the other reasons for having no hash this one does not go away.
    is_too_large: bool,
}

impl Running {
    /// Why it has a row, in words separated by commas.
    fn reasons(&self) -> String {
        let by_mode = |bit: u32| self.mode & bit != 0;
        let all = [
            (self.is_memfd, "memfd"),
            (!self.is_memfd && self.place == Place::Deleted, "deleted"),
            (self.place == Place::Replaced, "replaced"),
            (self.is_temporary, "temporary"),
            (self.package == Judged::None, "unpackaged"),
            (self.is_intact() == Some(false), "modified"),
            (by_mode(0o4000), "setuid"),
            (by_mode(0o2000), "setgid"),
            (by_mode(0o002) && !self.is_memfd, "world_writable"),
            (self.place == Place::Elsewhere, "other_root"),
        ];
        let reasons: Vec<&str> = all.iter().filter(|(holds, _)| *holds).map(|(_, reason)| *reason).collect();
        reasons.join(",")
    }

    /// Whether it is what its package brought.
    fn is_intact(&self) -> Option<bool> {
        let Judged::Of(Package { md5: Some(told), .. }) = &self.package else { return None };
        Some(self.hash.hashed()?.md5.eq_ignore_ascii_case(told))
    }

    fn signature(&self) -> Signature {
        Signature {
            reasons: self.reasons(),
            package: if let Judged::Of(package) = &self.package { Some(package.name.clone()) } else { None },
            sha256: self.hash.hashed().map(|hashed| hashed.sha256.to_string()),
            is_too_large: self.hash.missing() == Some(NoHash::TooLarge),
        }
    }

    fn is_running(&self) -> bool {
        self.processes > 0
    }
}

impl ExecutableProbe {
    /// A probe of the processes below `root`.
    pub fn new(root: &HostRoot, options: ExecutableOptions) -> Self {
        Self {
            root: root.clone(),
            options,
            hasher: HashThread::shared(),
            is_live: None,
            packages: Packages::new(root),
            database: None,
            remote: RemoteMounts::default(),
            files: HashMap::new(),
            hour: i64::MIN,
            unseen: 0,
        }
    }

    /// Goes through the processes. How many could not be looked at.
    fn look(&mut self, tick: &Tick) -> Result<u64, ProbeError> {
        let proc = self.root.proc("");
        fs::metadata(&proc).map_err(|source| ProbeError::Read { path: proc.display().to_string(), source })?;
        let is_live = *self.is_live.get_or_insert_with(|| self.root.is_this_machine());
        self.remote = RemoteMounts::read(&self.root);
        if self.files.len() > MAX_FILES / 2 {
            // What has ended and was told so is kept only to save work.
            self.files.retain(|_, file| file.is_running());
        }
        for file in self.files.values_mut() {
            file.processes = 0;
            file.pids.clear();
        }
        let pids = pids(&proc);
        let mut unseen = pids.len().saturating_sub(MAX_PROCESSES) as u64;
        for pid in pids.into_iter().take(MAX_PROCESSES) {
            let link = match fs::read_link(self.root.proc(format!("{pid}/exe"))) {
                Ok(link) => link,
                Err(error) => {
                    // Threads of the kernel have none, which is not told to those without the right to look; and a
                    // process may have ended.
                    let is_denied = error.kind() == ErrorKind::PermissionDenied;
                    unseen += u64::from(is_denied && !is_kernel_thread(&self.root, pid));
                    continue;
                }
            };
            let link = link.to_string_lossy();
            let facts = match FileFacts::read(&way_to(&self.root, is_live, pid, &link)) {
                Ok(facts) => facts,
                Err(error) => {
                    // One that ended after its link was read is gone, and not unseen.
                    unseen += u64::from(!(is_live && error.kind() == ErrorKind::NotFound));
                    continue;
                }
            };
            let FileFacts { key, mode, uid } = facts;
            let target = parse_target(&link);
            let identity = Identity { path: target.path.into(), device: key.device, inode: key.inode };
            let is_full = self.files.len() >= MAX_FILES;
            let file = match self.files.entry(identity) {
                std::collections::hash_map::Entry::Occupied(file) => file.into_mut(),
                std::collections::hash_map::Entry::Vacant(_) if is_full => {
                    unseen += 1;
                    continue;
                }
                std::collections::hash_map::Entry::Vacant(place) => place.insert(Running {
                    key,
                    mode,
                    owner_uid: uid,
                    place: Place::Here,
                    is_memfd: target.is_memfd(),
                    is_temporary: target.is_temporary(),
                    package: Judged::NotYet,
                    must_ask: true,
                    hash: Waiting::default(),
                    first_seen: tick.ts_micros,
                    process: None,
                    processes: 0,
                    pids: Vec::new(),
                    written: None,
                }),
            };
            if file.processes == 0 {
                if file.key != key {
                    (file.key, file.hash) = (key, Waiting::default());
                }
                (file.mode, file.owner_uid) = (mode, uid);
                let place = if !self.remote.hold(Path::new(target.path)) {
                    place(&self.root, target.path, target.is_deleted, &key)
                } else if target.is_deleted {
                    Place::Deleted
                } else {
                    Place::Here
                };
                if file.place != place {
                    (file.place, file.package, file.must_ask) = (place, Judged::NotYet, true);
                }
                file.process = ProcessFacts::read(&self.root, pid);
            }
            file.processes += 1;
            if file.pids.len() < MAX_PIDS {
                file.pids.push(pid);
            }
        }
        Ok(unseen)
    }

    /// Asks the packages about the files not judged yet.
    fn judge(&mut self, tick: &Tick) {
        if self.packages.has_changed() || tick.first {
            self.database = self.packages.database();
            for file in self.files.values_mut() {
                file.must_ask = true;
            }
        }
        let mut asked = Vec::new();
        for (identity, file) in self.files.iter_mut().filter(|(_, file)| file.must_ask) {
            if file.is_memfd || file.place != Place::Here || self.database != Some(Database::Dpkg) {
                (file.package, file.must_ask) = (Judged::Unknown, false);
            } else if asked.len() < MAX_ASKED {
                asked.push((&*identity.path, file));
            }
        }
        if asked.is_empty() {
            return;
        }
        let paths: Vec<&str> = asked.iter().map(|(path, _)| *path).collect();
        // Lists that cannot be read, or change while they are read, are read again at the next tick.
        let Ok(found) = self.packages.of(&paths) else { return };
        for ((_, file), package) in asked.into_iter().zip(found) {
            (file.package, file.must_ask) = (package.map_or(Judged::None, Judged::Of), false);
        }
    }

    /// Has the files hashed, those with a reason first, and waits a little for these.
    fn hash(&mut self) {
        let (root, is_live) = (&self.root, self.is_live.unwrap_or(false));
        let deadline = Instant::now() + PATIENCE;
        for with_reason in [true, false] {
            for (identity, file) in &mut self.files {
                if file.is_running()
                    && file.reasons().is_empty() != with_reason
                    && let Some(pid) = file.pids.first()
                {
                    // A process that ended before its file was opened is no reason to give up.
                    if matches!(file.hash, Waiting::Done(Err(NoHash::Unreadable | NoHash::Changing))) {
                        file.hash = Waiting::Not;
                    }
                    file.hash.ask(&self.hasher, with_reason, || way_to(root, is_live, *pid, &identity.path));
                }
            }
        }
        for file in self.files.values_mut() {
            let may_wait = file.is_running() && !file.reasons().is_empty();
            file.hash.wait_until(if may_wait { deadline } else { Instant::now() });
            // Another file was read than the one that was meant: the number of its process is used again.
            if file.hash.hashed().is_some_and(|hashed| hashed.key != file.key) {
                file.hash = Waiting::Not;
            }
        }
    }

    fn append(&self, identity: &Identity, file: &Running, state: &str, rows: &mut Rows) {
        let signature = file.signature();
        let process = file.process.as_ref();
        let owner = process.map(|process| &process.owner);
        let pids: Vec<String> = file.pids.iter().map(ToString::to_string).collect();
        rows.begin()
            .text("path", &*identity.path)
            .int("device", i64::from_ne_bytes(identity.device.to_ne_bytes()))
            .int("inode", i64::from_ne_bytes(identity.inode.to_ne_bytes()))
            .text("state", state)
            .text("reason", Some(signature.reasons.as_str()).filter(|reasons| !reasons.is_empty()))
            .text("sha256", signature.sha256.as_deref())
            .text("no_sha256", file.hash.missing().map(NoHash::as_str))
            .count("size_bytes", file.key.size)
            .timestamp("modified", file.key.mtime_micros())
            .int("owner_uid", i64::from(file.owner_uid))
            .int("mode", i64::from(file.mode & 0o7777))
            .text("package", signature.package.as_deref())
            .text("package_database", self.database.map(Database::as_str))
            .bool("package_intact", file.is_intact())
            .count("processes", file.processes)
            .int("pid", file.pids.first().copied().map(i64::from))
            .text("pids", Some(pids.join(",").as_str()).filter(|pids| !pids.is_empty()))
            .text("process", process.map(|process| process.name.as_str()))
            .int("uid", process.and_then(|process| process.uid))
            .text("unit", owner.and_then(|owner| owner.unit.as_deref()))
            .text("container", owner.and_then(|owner| owner.container.as_deref()))
            .text("pod", owner.and_then(|owner| owner.pod.as_deref()))
            .text("job", owner.and_then(|owner| owner.job.as_deref()))
            .timestamp("first_seen", file.first_seen);
    }
}

/// Where the path of a file leads that runs.
fn place(root: &HostRoot, path: &str, is_deleted: bool, running: &FileKey) -> Place {
    match (fs::metadata(root.path(path)), is_deleted) {
        (Ok(found), _) if running.is_file(&found) => Place::Here,
        (Ok(_), true) => Place::Replaced,
        (Err(_), true) => Place::Deleted,
        (_, false) => Place::Elsewhere,
    }
}

impl Probe for ExecutableProbe {
    fn table(&self) -> &'static str {
        "executable"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let unseen = self.look(tick)?;
        self.judge(tick);
        self.hash();
        let hour = tick.ts_micros.div_euclid(HOUR_MICROS);
        let is_hourly = std::mem::replace(&mut self.hour, hour) != hour;
        let mut files = std::mem::take(&mut self.files);
        for (identity, file) in &mut files {
            let signature = file.signature();
            let has_reason = !signature.reasons.is_empty();
            let state = match &file.written {
                Some(written) if !file.is_running() => (!written.reasons.is_empty()).then_some("removed"),
                None if !file.is_running() => None,
                None if !has_reason && !self.options.all => None,
                None => Some(if tick.first { "present" } else { "added" }),
                Some(written) if *written != signature => Some("changed"),
                Some(_) => (is_hourly && has_reason).then_some("present"),
            };
            if let Some(state) = state {
                self.append(identity, file, state, rows);
            }
            if !file.is_running() && state == Some("removed") {
                file.written = None;
            } else if state.is_some() {
                file.written = Some(signature);
            }
        }
        self.files = files;
        if unseen > 0 && (is_hourly || self.unseen == 0) {
            rows.begin()
                .text("path", OTHERS)
                .int("device", 0)
                .int("inode", 0)
                .text("state", "present")
                .text("reason", "unreadable")
                .count("processes", unseen);
        }
        self.unseen = unseen;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::probes::testing::{FIRST_TICK, bools, ints, row_of, sample_at, texts};

    const MD5_OF_ABC: &str = "900150983cd24fb0d6963f7d28e17f72";
    const SHA256_OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn at(minutes: i64) -> Tick {
        Tick { ts_micros: FIRST_TICK.ts_micros + minutes * 60_000_000, first: minutes == 0 }
    }

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn run(root: &Path, pid: u32, link: &str) {
        write(
            root,
            &format!("proc/{pid}/stat"),
            &format!("{pid} (p{pid}) S 1 1 1 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 50 100 10"),
        );
        write(root, &format!("proc/{pid}/status"), "Uid:\t0\t1000\t0\t0\n");
        write(root, &format!("proc/{pid}/cgroup"), "0::/system.slice/p.service\n");
        let _ = fs::remove_file(root.join(format!("proc/{pid}/exe")));
        symlink(link, root.join(format!("proc/{pid}/exe"))).unwrap();
    }

    fn mode(root: &Path, file: &str, mode: u32) {
        fs::set_permissions(root.join(file), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A host with one packaged program running, and `dpkg` that knows two.
    fn host() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "var/lib/dpkg/status", "");
        write(root, "var/lib/dpkg/info/good.list", "/usr/bin/good\n/usr/bin/su\n/usr/bin/bad\n");
        write(
            root,
            "var/lib/dpkg/info/good.md5sums",
            &format!("{MD5_OF_ABC}  usr/bin/good\n{MD5_OF_ABC}  usr/bin/bad\n"),
        );
        for (file, text) in [("good", "abc"), ("su", "abc"), ("bad", "abd"), ("mine", "abc")] {
            write(root, &format!("usr/bin/{file}"), text);
            mode(root, &format!("usr/bin/{file}"), 0o755);
        }
        run(root, 10, "/usr/bin/good");
        directory
    }

    /// With a hasher of its own, that does not wait for those of other tests.
    fn probe(root: &Path, all: bool) -> ExecutableProbe {
        let probe = ExecutableProbe::new(&HostRoot::new(root), ExecutableOptions { all });
        ExecutableProbe { hasher: HashThread::start(), ..probe }
    }

    fn reasons(batch: &arrow_array::RecordBatch) -> Vec<(String, String, String)> {
        let mut all: Vec<_> = (0..batch.num_rows())
            .map(|row| {
                let text = |column: &str| texts(batch, column)[row].unwrap_or("-").to_owned();
                (text("path"), text("state"), text("reason"))
            })
            .collect();
        all.sort();
        all
    }

    fn reason(path: &str, state: &str, reason: &str) -> (String, String, String) {
        (path.to_owned(), state.to_owned(), reason.to_owned())
    }

    #[test]
    fn each_reason_is_found_and_what_came_with_a_package_has_no_row() {
        let directory = host();
        let root = directory.path();
        mode(root, "usr/bin/su", 0o4755);
        write(root, "tmp/.x/miner", "abc");
        mode(root, "tmp/.x/miner", 0o777);
        for (pid, link) in [
            (20, "/usr/bin/su"),
            (21, "/usr/bin/bad"),
            (22, "/usr/bin/mine"),
            (23, "/usr/bin/mine"),
            (24, "/tmp/.x/miner"),
        ] {
            run(root, pid, link);
        }
        let mut probe = probe(root, false);
        let batch = sample_at(&mut probe, &at(0));
        // Whether `bad` was read in time for this tick or not, it is at the next.
        let later = sample_at(&mut probe, &at(1));
        let mut found = reasons(&batch);
        found.extend(reasons(&later).into_iter().map(|(path, _, reason)| (path, "present".to_owned(), reason)));
        found.sort();
        let wanted = [
            reason("/tmp/.x/miner", "present", "temporary,unpackaged,world_writable"),
            reason("/usr/bin/bad", "present", "modified"),
            reason("/usr/bin/mine", "present", "unpackaged"),
            reason("/usr/bin/su", "present", "setuid"),
        ];
        assert_eq!(found, wanted);
        let mine = row_of(&batch, "path", "/usr/bin/mine");
        assert_eq!(texts(&batch, "sha256")[mine], Some(SHA256_OF_ABC));
        assert_eq!(ints(&batch, "processes")[mine], Some(2));
        assert_eq!(ints(&batch, "pid")[mine], Some(22));
        assert_eq!(texts(&batch, "pids")[mine], Some("22,23"));
        assert_eq!(texts(&batch, "process")[mine], Some("p22"));
        assert_eq!(texts(&batch, "unit")[mine], Some("p.service"));
        assert_eq!(ints(&batch, "uid")[mine], Some(1000));
        assert_eq!(ints(&batch, "size_bytes")[mine], Some(3));
        assert_eq!(ints(&batch, "mode")[mine], Some(0o755));
        assert_eq!(texts(&batch, "package_database")[mine], Some("dpkg"));
        let su = row_of(&batch, "path", "/usr/bin/su");
        assert_eq!(texts(&batch, "package")[su], Some("good"));
        assert_eq!(bools(&batch, "package_intact")[su], None, "the package tells nothing of it");
    }

    #[test]
    fn rows_come_on_change_and_once_an_hour() {
        let directory = host();
        let root = directory.path();
        let mut probe = probe(root, false);
        assert_eq!(sample_at(&mut probe, &at(0)).num_rows(), 0);
        run(root, 30, "/usr/bin/mine");
        assert_eq!(reasons(&sample_at(&mut probe, &at(1))), [reason("/usr/bin/mine", "added", "unpackaged")]);
        assert_eq!(sample_at(&mut probe, &at(2)).num_rows(), 0);
        fs::write(root.join("usr/bin/mine"), "abcd").unwrap();
        let batch = sample_at(&mut probe, &at(3));
        assert_eq!(reasons(&batch), [reason("/usr/bin/mine", "changed", "unpackaged")]);
        assert_ne!(texts(&batch, "sha256"), [Some(SHA256_OF_ABC)]);
        // A package that brings it makes it ordinary.
        write(root, "var/lib/dpkg/info/mine.list", "/usr/bin/mine\n");
        write(root, "var/lib/dpkg/status", "Package: mine\n");
        assert_eq!(reasons(&sample_at(&mut probe, &at(4))), [reason("/usr/bin/mine", "changed", "-")]);
        mode(root, "usr/bin/mine", 0o757);
        assert_eq!(reasons(&sample_at(&mut probe, &at(5))), [reason("/usr/bin/mine", "changed", "world_writable")]);
        assert_eq!(reasons(&sample_at(&mut probe, &at(65))), [reason("/usr/bin/mine", "present", "world_writable")]);
        fs::remove_dir_all(root.join("proc/30")).unwrap();
        assert_eq!(reasons(&sample_at(&mut probe, &at(66))), [reason("/usr/bin/mine", "removed", "world_writable")]);
        run(root, 31, "/usr/bin/mine");
        assert_eq!(reasons(&sample_at(&mut probe, &at(67))), [reason("/usr/bin/mine", "added", "world_writable")]);
    }

    #[test]
    fn all_means_ordinary_ones_too_when_first_seen() {
        let directory = host();
        let mut probe = probe(directory.path(), true);
        let batch = sample_at(&mut probe, &at(0));
        assert_eq!(reasons(&batch), [reason("/usr/bin/good", "present", "-")]);
        let batch = [batch, sample_at(&mut probe, &at(1))].into_iter().rfind(|batch| batch.num_rows() > 0).unwrap();
        assert_eq!(texts(&batch, "package"), [Some("good")]);
        assert_eq!(bools(&batch, "package_intact"), [Some(true)]);
        assert_eq!(sample_at(&mut probe, &at(2)).num_rows(), 0);
        assert_eq!(sample_at(&mut probe, &at(90)).num_rows(), 0);
    }

    #[test]
    fn without_a_database_nothing_is_unpackaged() {
        let directory = host();
        let root = directory.path();
        fs::remove_dir_all(root.join("var/lib/dpkg")).unwrap();
        fs::create_dir_all(root.join("var/lib/rpm")).unwrap();
        mode(root, "usr/bin/mine", 0o2755);
        run(root, 30, "/usr/bin/mine");
        let mut probe = probe(root, false);
        let batch = sample_at(&mut probe, &at(0));
        assert_eq!(reasons(&batch), [reason("/usr/bin/mine", "present", "setgid")]);
        assert_eq!(texts(&batch, "package_database"), [Some("rpm")]);
        assert_eq!(texts(&batch, "package"), [None]);
    }

    #[test]
    fn a_path_tells_where_the_file_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        write(directory.path(), "a", "1");
        write(directory.path(), "b", "2");
        let running = FileKey::of(&fs::metadata(directory.path().join("a")).unwrap());
        assert_eq!(place(&root, "/a", false, &running), Place::Here);
        assert_eq!(place(&root, "/b", true, &running), Place::Replaced);
        assert_eq!(place(&root, "/b", false, &running), Place::Elsewhere);
        assert_eq!(place(&root, "/c", true, &running), Place::Deleted);
    }

    #[test]
    fn while_packages_are_being_installed_what_is_known_stays() {
        let directory = host();
        let root = directory.path();
        run(root, 30, "/usr/bin/mine");
        let mut probe = probe(root, false);
        assert_eq!(reasons(&sample_at(&mut probe, &at(0))), [reason("/usr/bin/mine", "present", "unpackaged")]);
        // A list that goes while the lists are read: here one that leads nowhere.
        symlink("/nowhere", root.join("var/lib/dpkg/info/half.list")).unwrap();
        write(root, "var/lib/dpkg/status", "Package: half\n");
        assert_eq!(sample_at(&mut probe, &at(1)).num_rows(), 0);
        fs::remove_file(root.join("var/lib/dpkg/info/half.list")).unwrap();
        write(root, "var/lib/dpkg/info/half.list", "/usr/bin/mine\n");
        assert_eq!(reasons(&sample_at(&mut probe, &at(2))), [reason("/usr/bin/mine", "changed", "-")]);
    }

    #[test]
    fn a_path_on_another_machine_is_not_followed() {
        let directory = host();
        let root = directory.path();
        write(root, "proc/self/mountinfo", "1 0 0:9 / /nfs rw - nfs4 filer:/x rw\n");
        write(root, "nfs/tool", "abc");
        run(root, 30, "/nfs/tool");
        let mut probe = probe(root, false);
        assert_eq!(reasons(&sample_at(&mut probe, &at(0))), [reason("/nfs/tool", "present", "unpackaged")]);
        let place =
            |probe: &ExecutableProbe| probe.files.iter().find(|(id, _)| &*id.path == "/nfs/tool").unwrap().1.place;
        assert_eq!(place(&probe), Place::Here);
    }

    /// On the machine the test runs on: a program that is deleted while it runs.
    #[test]
    fn a_deleted_program_is_found_and_hashed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sleeper");
        fs::copy("/bin/sleep", &path).unwrap();
        let mut child = std::process::Command::new(&path).arg("60").spawn().unwrap();
        fs::remove_file(&path).unwrap();
        let mut probe = probe(Path::new("/"), false);
        let pid = i64::from(child.id());
        let mut found = None;
        // The other programs of this machine are hashed at the same time, at their pace.
        for minute in 0..30 {
            let batch = sample_at(&mut probe, &at(minute));
            let row = ints(&batch, "pid").iter().position(|p| *p == Some(pid));
            let of = |row: usize| {
                (texts(&batch, "reason")[row].unwrap().to_owned(), texts(&batch, "sha256")[row].map(str::to_owned))
            };
            found = row.map(of).or(found);
            if found.as_ref().is_some_and(|(_, sha256)| sha256.is_some()) {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (reasons, sha256) = found.unwrap();
        assert!(reasons.contains("deleted") && sha256.is_some_and(|sha256| sha256.len() == 64), "{reasons}");
    }

    #[test]
    fn settings_are_read_and_mistakes_told() {
        let read = |value: &str| {
            let mut settings = Settings::default();
            settings.flag("agent.executables", Some(value));
            (ExecutableOptions::read(&mut settings).all, settings.finish().is_ok())
        };
        assert_eq!(read("suspicious"), (false, true));
        assert_eq!(read("all"), (true, true));
        assert_eq!(read("none"), (false, false));
    }
}
