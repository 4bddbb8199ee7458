//! Whose a process is: container, pod, job or unit, read from its control group.
//!
//! Every manager of work puts what it starts into a control group of its own and names it by its own rules: systemd by
//! unit, Slurm by job and step, Kubernetes and the container runtimes by pod and container. The path is readable for
//! everybody, so this is the one attribution that needs neither privilege nor anybody's API. Command lines and
//! environments would tell more and are never read: people pass passwords in them.
//!
//! ```text
//! /system.slice/docker-<64 hex>.scope                                          Docker, systemd driver
//! /docker/<64 hex>                                                             Docker, cgroupfs driver
//! /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<64 hex>.scope
//! /kubepods/besteffort/pod<uid>/<64 hex>                                       the same with the cgroupfs driver
//! /slurm/uid_1000/job_42/step_0/task_0                                         Slurm, control groups version 1
//! /system.slice/slurmstepd.scope/job_42/step_batch/user/task_0                 Slurm, version 2
//! /pbs_jobs.service/jobid/42.server                                            OpenPBS
//! ```
//!
//! Traps. In the systemd form the pod's UID has underscores, because a dash there is a level of the tree. Kubernetes
//! leaves the class `guaranteed` out of the path. A static pod's UID is a hash without dashes. The processes `conmon`
//! of Podman and CRI-O lie in groups named after their container and are not in it. With version 1 a process is in as
//! many groups as there are controllers, and not all managers make a group in each: `/proc/PID/cgroup` then has a
//! dozen lines, of which [`placement`] takes the one that names work. Where the reader is in a control group
//! namespace, paths outside of it begin with `/../..`; a process of the same container shows `/` and cannot be told.
//! HTCondor names its groups by slot and not by job, so it tells who schedules and no more.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::allocations::holders::KERNEL_THREAD;
use crate::host_root::HostRoot;

/// Files of `/proc/PID` beyond this size are cut; a `cgroup` of version 1 has some 2 KiB.
const MAX_FILE: u64 = 16 << 10;

/// Shortest id of a container that is taken for one: what `docker ps` shows.
const SHORT_ID: usize = 12;

/// The length of ids in full.
const LONG_ID: usize = 64;

/// Whose a control group is. What its path does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// Id of the container, 12 or more hexadecimal digits, as the runtime shows it; the name for LXC and
    /// systemd-nspawn.
    pub container: Option<String>,
    /// What runs it: `docker`, `containerd`, `cri-o`, `podman`, `isulad`, `lxc`, `systemd-nspawn`, `apptainer`.
    pub runtime: Option<&'static str>,
    /// UID of the Kubernetes pod, with dashes.
    pub pod: Option<String>,
    /// Job of a batch system, as its users know it: `4242` of Slurm.
    pub job: Option<String>,
    /// Step of the job: `0`, `batch`, `extern`.
    pub step: Option<String>,
    /// Who schedules the job: `slurm`, `pbs`, `torque`, `lsf`, `oar`, `htcondor`.
    pub scheduler: Option<&'static str>,
    /// The systemd unit, service, scope or slice nearest to the process.
    pub unit: Option<String>,
}

impl Owner {
    /// Whether somebody's work is named: a container, a pod or a job.
    pub fn is_work(&self) -> bool {
        self.container.is_some() || self.pod.is_some() || self.job.is_some()
    }
}

/// Whose the control group at `path` is (`/proc/PID/cgroup`'s third field).
pub fn owner(path: &str) -> Owner {
    let mut owner = Owner::default();
    let mut place = Place::default();
    for segment in path.split('/').filter(|segment| !matches!(*segment, "" | "." | "..")) {
        place.read(segment, &mut owner);
    }
    owner
}

/// What the segments so far said about how to read the next.
#[derive(Default)]
struct Place<'p> {
    before: &'p str,
    before_that: &'p str,
    in_kubernetes: bool,
    in_slurm: bool,
    in_lsf: bool,
    /// Whether the unit named so far is one that runs, and not just a slice.
    is_running_unit: bool,
}

impl<'p> Place<'p> {
    fn read(&mut self, segment: &'p str, owner: &mut Owner) {
        // runc with the wrong driver writes systemd's three parts, `slice:prefix:id`, as one name.
        let mut prefix = None;
        for part in segment.split(':') {
            self.container(part, prefix, owner);
            self.pod(part, owner);
            prefix = (part == "cri-containerd").then_some("containerd");
        }
        self.job(segment, owner);
        self.unit(segment, owner);
        self.before_that = std::mem::replace(&mut self.before, segment);
    }

    fn container(&self, part: &str, prefix: Option<&'static str>, owner: &mut Owner) {
        let is_scope = part.ends_with(".scope");
        let name = part.strip_suffix(".scope").unwrap_or(part);
        let found = if let Some((prefix, id)) = name.rsplit_once('-')
            && is_id(id, SHORT_ID)
        {
            match prefix {
                "docker" => Some((id, Some("docker"))),
                "cri-containerd" | "nerdctl" | "containerd" => Some((id, Some("containerd"))),
                "crio" => Some((id, Some("cri-o"))),
                "libpod" | "libpod-payload" => Some((id, Some("podman"))),
                "isulad" => Some((id, Some("isulad"))),
                _ => None,
            }
        } else if is_id(name, LONG_ID) {
            let runtime = match (self.before, self.before_that) {
                ("docker" | "actions_job", _) | (_, "ecs") => Some("docker"),
                ("k8s.io" | "moby" | "default", _) => Some("containerd"),
                ("isulad", _) => Some("isulad"),
                ("libpod_parent", _) => Some("podman"),
                _ => prefix,
            };
            Some((name, runtime))
        } else if let Some(machine) = name.strip_prefix("lxc.payload.") {
            Some((machine, Some("lxc")))
        } else if matches!(self.before, "lxc" | "lxc.payload") {
            Some((part, Some("lxc")))
        } else if let Some(machine) = part.strip_prefix("systemd-nspawn@").and_then(|m| m.strip_suffix(".service")) {
            Some((machine, Some("systemd-nspawn")))
        } else if let Some(machine) = name.strip_prefix("machine-")
            && is_scope
            && !machine.starts_with("qemu")
        {
            Some((machine, Some("systemd-nspawn")))
        } else {
            if is_scope && (name.starts_with("apptainer-") || name.starts_with("singularity-")) {
                owner.runtime = Some("apptainer");
            }
            None
        };
        if let Some((id, runtime)) = found
            && !id.is_empty()
        {
            owner.container = Some(unescape(id));
            owner.runtime = runtime;
        }
    }

    fn pod(&mut self, part: &str, owner: &mut Owner) {
        self.in_kubernetes |= part.contains("kubepods");
        if !self.in_kubernetes {
            return;
        }
        let uid = match part.strip_suffix(".slice") {
            Some(slice) => slice.rsplit_once("-pod").map(|(_, uid)| uid),
            None => part.strip_prefix("pod"),
        };
        if let Some(uid) = uid.and_then(pod_uid) {
            owner.pod = Some(uid);
        }
    }

    fn job(&mut self, segment: &str, owner: &mut Owner) {
        self.in_slurm |= segment == "slurm"
            || segment.starts_with("slurm_")
            || segment.ends_with("slurmstepd.scope")
            || segment.starts_with("slurmstepd");
        self.in_lsf |= segment == "lsf";
        let is_pbs = |name: &str| matches!(name, "pbs_jobs.service" | "pbspro.service" | "pbs_jobs" | "pbspro");
        if self.in_slurm {
            if let Some(job) = segment.strip_prefix("job_").filter(|job| is_number(job)) {
                owner.job = Some(job.to_owned());
                owner.step = None;
                owner.scheduler = Some("slurm");
            } else if let Some(step) = segment.strip_prefix("step_").filter(|step| is_word(step))
                && owner.job.is_some()
            {
                owner.step = Some(step.to_owned());
            }
            return;
        }
        let found = if matches!(self.before, "jobid" | "jobs") && is_pbs(self.before_that) || is_pbs(self.before) {
            Some((segment, "pbs"))
        } else if let Some(job) = segment.strip_prefix("pbspro-").and_then(|job| job.strip_suffix(".slice")) {
            Some((job, "pbs"))
        } else if self.before == "torque" {
            Some((segment, "torque"))
        } else if self.before == "oar" {
            segment.rsplit_once('_').map(|(_, job)| (job, "oar"))
        } else if self.in_lsf {
            // job.<job>.<number of the run>.<time>
            segment.strip_prefix("job.").and_then(|rest| rest.split('.').next()).map(|job| (job, "lsf"))
        } else {
            None
        };
        if let Some((job, scheduler)) = found
            && job.starts_with(|c: char| c.is_ascii_digit())
        {
            owner.job = Some(unescape(job));
            owner.scheduler = Some(scheduler);
        } else if segment == "htcondor" || segment.starts_with("condor_") && segment.contains("slot") {
            owner.scheduler = Some("htcondor");
        }
    }

    fn unit(&mut self, segment: &str, owner: &mut Owner) {
        // What might be mistaken for a file of the kernel's, systemd writes with a mark in front.
        let name = segment.strip_prefix('_').unwrap_or(segment);
        let is_running = [".service", ".scope", ".socket", ".mount", ".swap"].iter().any(|kind| name.ends_with(kind));
        if is_running || name.ends_with(".slice") && !self.is_running_unit {
            owner.unit = Some(unescape(name));
            self.is_running_unit = is_running;
        }
    }
}

/// Whether it is a container's id of at least so many digits.
fn is_id(text: &str, at_least: usize) -> bool {
    (at_least..=LONG_ID).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_number(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_word(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'_'))
}

/// A UID with dashes: 8-4-4-4-12 digits, or the 32 of a static pod as they are.
fn pod_uid(text: &str) -> Option<String> {
    let uid = text.replace('_', "-");
    let groups: Vec<usize> = uid.split('-').map(str::len).collect();
    let is_uid = groups == [8, 4, 4, 4, 12] || groups == [32];
    (is_uid && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')).then_some(uid)
}

/// systemd writes bytes that it keeps for itself as `\x2d`.
fn unescape(text: &str) -> String {
    if !text.contains("\\x") {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if let [b'\\', b'x', high, low, after @ ..] = rest
            && let Some(high) = char::from(*high).to_digit(16)
            && let Some(low) = char::from(*low).to_digit(16)
            && let Ok(byte) = u8::try_from(16 * high + low)
            && byte != 0
        {
            bytes.push(byte);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The control group that says most about a process, out of its `/proc/PID/cgroup`, and whose it is.
///
/// With version 2 there is one, `0::/path`. With version 1 there is one for each set of controllers,
/// `4:memory:/path`, and one that systemd keeps, `1:name=systemd:/path`; both versions at once are common. Taken is
/// the first that names a container, pod or job. Where none does, it is version 2's, unless that is empty; then the
/// longest of those that systemd and the managers of work make; then the longest there is.
pub fn placement(text: &str) -> (Option<&str>, Owner) {
    let mut unified = None;
    let mut main: Option<&str> = None;
    let mut any: Option<&str> = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let owner = owner(path);
        if owner.is_work() {
            return (Some(path), owner);
        }
        let longer = |kept: Option<&str>| kept.is_none_or(|kept| kept.len() < path.len());
        if number == "0" && controllers.is_empty() {
            unified = unified.or(Some(path));
        } else if controllers.split(',').any(|c| matches!(c, "memory" | "cpuset" | "name=systemd")) && longer(main) {
            main = Some(path);
        }
        if longer(any) {
            any = Some(path);
        }
    }
    let is_somewhere = |path: &&str| path.len() > 1;
    let path = unified.filter(is_somewhere).or(main.filter(is_somewhere)).or(any);
    (path, path.map(owner).unwrap_or_default())
}

/// `Uid: real effective saved file-system`
pub(crate) fn parse_effective_uid(status: &str) -> Option<i64> {
    let rest = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// What `/proc/PID/stat` says. One line: the number, the name in parentheses, and many fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat<'a> {
    /// The name as it is, which need not be text.
    pub(crate) name: &'a [u8],
    /// The kernel's letter.
    pub(crate) state: u8,
    pub(crate) parent_pid: Option<i64>,
    /// The kernel's flags of a task (`PF_…`).
    pub(crate) flags: u64,
    pub(crate) major_faults: Option<u64>,
    /// User and system time.
    pub(crate) cpu_ticks: u64,
    pub(crate) threads: Option<i64>,
    pub(crate) start_ticks: i64,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) resident_pages: u64,
}

/// The name may hold spaces, parentheses and line ends, so what counts is the first parenthesis and the last.
pub(crate) fn parse_stat(bytes: &[u8]) -> Option<Stat<'_>> {
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let name = bytes.get(open.checked_add(1)?..close)?;
    let rest = str::from_utf8(bytes.get(close.checked_add(1)?..)?).ok()?;
    // proc(5) counts fields from 1 and the name is the second: these are its fields 3 to 24.
    let mut fields = [""; 22];
    let mut count = 0;
    for (slot, field) in fields.iter_mut().zip(rest.split_ascii_whitespace()) {
        *slot = field;
        count += 1;
    }
    if count < fields.len() {
        return None;
    }
    let [state, parent, _, _, _, _, flags, _, _, major, _, user, system, _, _, _, _, threads, _, start, virt, rss] =
        fields;
    Some(Stat {
        name,
        state: *state.as_bytes().first()?,
        parent_pid: parent.parse().ok(),
        flags: flags.parse().unwrap_or(0),
        major_faults: major.parse().ok(),
        cpu_ticks: user.parse::<u64>().ok()?.saturating_add(system.parse().ok()?),
        threads: threads.parse().ok(),
        start_ticks: start.parse().ok()?,
        virtual_bytes: virt.parse().ok(),
        resident_pages: rss.parse().ok()?,
    })
}

/// Who a process is and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Name of its executable, 15 characters at most (`comm`).
    pub name: String,
    /// When it started, in clock ticks after boot: numbers of processes are used again.
    pub start_ticks: i64,
    /// Its effective user.
    pub uid: Option<i64>,
    /// Its control group.
    pub cgroup: Option<String>,
    /// Whose that is.
    pub owner: Owner,
}

impl ProcessFacts {
    /// Reads them; `None` for a process that has ended or that is in another container's numbers.
    pub fn read(root: &HostRoot, pid: u32) -> Option<Self> {
        let directory = root.proc(pid.to_string());
        let mut buffer = Vec::with_capacity(2048);
        read_small(&directory.join("stat"), &mut buffer)?;
        let stat = parse_stat(&buffer)?;
        let (name, start_ticks) = (String::from_utf8_lossy(stat.name).into_owned(), stat.start_ticks);
        let mut text = |file: &str| {
            read_small(&directory.join(file), &mut buffer).map(|()| String::from_utf8_lossy(&buffer).into_owned())
        };
        let uid = text("status").as_deref().and_then(parse_effective_uid);
        let cgroups = text("cgroup").unwrap_or_default();
        let (cgroup, owner) = placement(&cgroups);
        Some(Self { name, start_ticks, uid, cgroup: cgroup.map(str::to_owned), owner })
    }
}

/// Whether it is a thread of the kernel, which everybody may know. One that has ended is none.
pub(crate) fn is_kernel_thread(root: &HostRoot, pid: u32) -> bool {
    let mut buffer = Vec::with_capacity(512);
    read_small(&root.proc(format!("{pid}/stat")), &mut buffer)
        .and_then(|()| parse_stat(&buffer))
        .is_some_and(|stat| stat.flags & KERNEL_THREAD != 0)
}

/// Reads a small file whole into `buffer`; `None` where it is not there or may not be read.
fn read_small(path: &Path, buffer: &mut Vec<u8>) -> Option<()> {
    buffer.clear();
    File::open(path).ok()?.take(MAX_FILE).read_to_end(buffer).ok()?;
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{fixture_options, garbage};

    const ID: &str = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d";
    const UID: &str = "74c13223-5a00-11e9-b385-42010a80018d";

    /// `runtime container pod scheduler job step unit`, `-` for what is not told.
    fn summary(path: &str) -> String {
        let owner = owner(path);
        let part = |text: Option<&str>| text.unwrap_or("-").replace(ID, "ID").replace(UID, "UID");
        [
            part(owner.runtime),
            part(owner.container.as_deref()),
            part(owner.pod.as_deref()),
            part(owner.scheduler),
            part(owner.job.as_deref()),
            part(owner.step.as_deref()),
            part(owner.unit.as_deref()),
        ]
        .join(" ")
    }

    #[test]
    fn threads_of_the_kernel_are_told_from_programs() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        for (pid, flags) in [(2, KERNEL_THREAD), (3, 0x40_0000)] {
            std::fs::create_dir_all(root.proc(pid.to_string())).unwrap();
            let line = format!("{pid} (p) S 1 0 0 0 -1 {flags} 0 0 0 0 7 0 0 0 20 0 1 0 1 5000 20");
            std::fs::write(root.proc(format!("{pid}/stat")), line).unwrap();
        }
        assert_eq!([2, 3, 4].map(|pid| is_kernel_thread(&root, pid)), [true, false, false]);
    }

    #[test]
    fn paths_of_all_managers_are_read() {
        let under = UID.replace('-', "_");
        let cases = [
            // systemd
            ("/", "- - - - - - -"),
            ("/init.scope", "- - - - - - init.scope"),
            ("/system.slice/sshd.service", "- - - - - - sshd.service"),
            ("/system.slice/system-getty.slice/getty@tty1.service", "- - - - - - getty@tty1.service"),
            (r"/system.slice/dev-disk-by\x2duuid-1.swap", "- - - - - - dev-disk-by-uuid-1.swap"),
            ("/user.slice/user-1000.slice", "- - - - - - user-1000.slice"),
            ("/user.slice/user-1000.slice/session-3.scope", "- - - - - - session-3.scope"),
            (
                r"/user.slice/user-1000.slice/user@1000.service/app.slice/app-org\x2dx.scope",
                "- - - - - - app-org-x.scope",
            ),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice", "- - - - - - user@1000.service"),
            // Docker and its like
            ("/system.slice/docker-ID.scope", "docker ID - - - - docker-ID.scope"),
            ("/docker/ID", "docker ID - - - - -"),
            ("/docker/ID/kubelet/kubepods/podUID/ID", "- ID UID - - - -"),
            ("/ecs/0123/ID", "docker ID - - - - -"),
            ("/isulad/ID", "isulad ID - - - - -"),
            ("/docker/abc", "- - - - - - -"),
            ("/../../system.slice/docker-ID.scope", "docker ID - - - - docker-ID.scope"),
            ("/machine.slice/libpod-ID.scope/container", "podman ID - - - - libpod-ID.scope"),
            ("/machine.slice/libpod-conmon-ID.scope", "- - - - - - libpod-conmon-ID.scope"),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
                "podman ID - - - - libpod-ID.scope",
            ),
            ("/libpod_parent/libpod-ID", "podman ID - - - - -"),
            ("/system.slice/nerdctl-ID.scope", "containerd ID - - - - nerdctl-ID.scope"),
            ("/k8s.io/ID", "containerd ID - - - - -"),
            // Kubernetes
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUNDER.slice/cri-containerd-ID.scope",
                "containerd ID UID - - - cri-containerd-ID.scope",
            ),
            ("/kubepods.slice/kubepods-podUNDER.slice/crio-ID.scope/container", "cri-o ID UID - - - crio-ID.scope"),
            ("/kubepods.slice/kubepods-podUNDER.slice/crio-conmon-ID.scope", "- - UID - - - crio-conmon-ID.scope"),
            ("/kubepods.slice/kubepods-podUNDER.slice/docker-ID.scope", "docker ID UID - - - docker-ID.scope"),
            ("/kubepods/besteffort/podUID/ID", "- ID UID - - - -"),
            ("/kubepods/podUID", "- - UID - - - -"),
            (
                "/kubepods/burstable/pod0123456789abcdef0123456789abcdef/ID",
                "- ID 0123456789abcdef0123456789abcdef - - - -",
            ),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUNDER.slice/cri-containerd-ID.scope",
                "containerd ID UID - - - cri-containerd-ID.scope",
            ),
            (
                "/system.slice/containerd.service/kubepods-burstable-podUNDER.slice:cri-containerd:ID",
                "containerd ID UID - - - containerd.service",
            ),
            ("/kubepods.slice/pod1/trainer", "- - - - - - kubepods.slice"),
            // LXC, nspawn, Apptainer, machines
            ("/lxc.payload.web/system.slice/nginx.service", "lxc web - - - - nginx.service"),
            ("/lxc/101/ns", "lxc 101 - - - - -"),
            ("/lxc.monitor.web", "- - - - - - -"),
            (
                "/machine.slice/systemd-nspawn@web.service/payload",
                "systemd-nspawn web - - - - systemd-nspawn@web.service",
            ),
            (r"/machine.slice/machine-a\x2db.scope", "systemd-nspawn a-b - - - - machine-a-b.scope"),
            (r"/machine.slice/machine-qemu\x2d1\x2dvm.scope", "- - - - - - machine-qemu-1-vm.scope"),
            (
                "/user.slice/user-7.slice/user@7.service/user.slice/apptainer-99.scope",
                "apptainer - - - - - apptainer-99.scope",
            ),
            // Slurm
            ("/slurm/uid_1001/job_42/step_0/task_0", "- - - slurm 42 0 -"),
            ("/slurm_node1/uid_0/job_42/step_batch", "- - - slurm 42 batch -"),
            ("/system.slice/slurmstepd.scope/job_42/step_batch/user/task_0", "- - - slurm 42 batch slurmstepd.scope"),
            (
                "/system.slice/gx10-ac12_slurmstepd.scope/job_12/step_extern/user/task_special",
                "- - - slurm 12 extern gx10-ac12_slurmstepd.scope",
            ),
            ("/system.slice/slurmstepd.scope/job_42", "- - - slurm 42 - slurmstepd.scope"),
            ("/system.slice/slurmstepd.scope/system", "- - - - - - slurmstepd.scope"),
            ("/system.slice/slurmstepd.scope/job_bad/step_0", "- - - - - - slurmstepd.scope"),
            ("/user.slice/job_456", "- - - - - - user.slice"),
            (
                "/system.slice/slurmstepd.scope/job_42/step_0/user/task_0/docker/ID",
                "docker ID - slurm 42 0 slurmstepd.scope",
            ),
            // other batch systems
            ("/pbs_jobs.service/jobid/12345.pbs", "- - - pbs 12345.pbs - pbs_jobs.service"),
            ("/pbs_jobs.service/jobs/12[3].pbs", "- - - pbs 12[3].pbs - pbs_jobs.service"),
            ("/pbs_jobs.service/jobid", "- - - - - - pbs_jobs.service"),
            ("/pbspro.slice/pbspro-12.srv.slice", "- - - pbs 12.srv - pbspro-12.srv.slice"),
            ("/torque/77.srv", "- - - torque 77.srv - -"),
            ("/lsf/cluster1/job.4321.27183.1600000000", "- - - lsf 4321 - -"),
            ("/oar/alice_31", "- - - oar 31 - -"),
            ("/htcondor/condor_var_lib_condor_execute_slot1_2@n1", "- - - htcondor - - -"),
        ];
        for (path, wanted) in cases {
            // `UID` holds `ID`, so it is put in before, as what cannot be mistaken for it.
            let full = path.replace("UNDER", &under).replace("UID", UID).replace("ID", ID);
            assert_eq!(summary(&full), wanted, "{path}");
        }
    }

    #[test]
    fn of_many_control_groups_the_telling_one_is_taken() {
        let docker = format!("/docker/{ID}");
        let cases = [
            ("0::/system.slice/sshd.service\n".to_owned(), Some("/system.slice/sshd.service")),
            ("0::/\n".to_owned(), Some("/")),
            ("12:cpu:/a\n4:memory:/docker/abc\n0::/\n".to_owned(), Some("/docker/abc")),
            ("1:name=systemd:/a:b\n".to_owned(), Some("/a:b")),
            (
                "9:pids:/user.slice/longer\n4:memory:/user.slice\n1:name=systemd:/user.slice/s\n0::/\n".to_owned(),
                Some("/user.slice/s"),
            ),
            // Slurm of version 1 on a host that has both versions.
            (
                "10:devices:/slurm/uid_1/job_2/step_0\n1:name=systemd:/system.slice/slurmd.service\n\
              0::/system.slice/slurmd.service\n"
                    .to_owned(),
                Some("/slurm/uid_1/job_2/step_0"),
            ),
            (format!("10:net_prio:{docker}\n4:memory:{docker}\n0::/\n"), Some(docker.as_str())),
            ("nonsense".to_owned(), None),
            (String::new(), None),
        ];
        for (text, wanted) in cases {
            assert_eq!(placement(&text).0, wanted, "{text}");
        }
        assert_eq!(placement("10:devices:/slurm/uid_1/job_2/step_0\n0::/x\n").1.job.as_deref(), Some("2"));
    }

    #[test]
    fn a_recorded_process_is_read() {
        let root = fixture_options().root;
        let facts = ProcessFacts::read(&root, 4242).unwrap();
        assert_eq!((facts.name.as_str(), facts.start_ticks, facts.uid), ("python3", 90_000, Some(1001)));
        assert_eq!(facts.cgroup.as_deref(), Some("/kubepods.slice/pod1/trainer"));
        assert_eq!(facts.owner.unit.as_deref(), Some("kubepods.slice"));
        assert_eq!(ProcessFacts::read(&root, 4_000_000_000), None);
        assert!(ProcessFacts::read(&HostRoot::new("/"), std::process::id()).unwrap().uid.is_some());
    }

    #[test]
    fn broken_lines_are_no_processes() {
        for text in [
            "",
            "1",
            "1 (a",
            "1 a) S",
            "1 )a( S 1",
            "1 (a) S 1 2 3",
            "1 (a) S 1 0 0 0 -1 0 0 0 0 0 x 0 0 0 0 0 1 0 5 0 0",
        ] {
            assert_eq!(parse_stat(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_path_brings_it_down(
            text in garbage(),
            path in r"(/(kubepods|slurm|job_|step_|pod|docker-|[0-9a-f]{12}|:|\\x2|\\x2d|\.slice|\.scope|_|[a-z.\\]){0,4}){0,8}",
        ) {
            owner(&text);
            owner(&path);
            placement(&text);
            placement(&format!("0::{path}\n4:memory:{text}"));
            unescape(&text);
            parse_effective_uid(&text);
        }

        #[test]
        fn no_bytes_bring_it_down(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            parse_stat(&bytes);
        }

        #[test]
        fn any_name_is_given_back(name in "[^\u{0}]{0,20}") {
            let line = format!("7 ({name}) R 1 0 0 0 -1 0 0 0 3 0 4 5 0 0 20 0 2 0 6 8 9");
            let stat = parse_stat(line.as_bytes()).unwrap();
            prop_assert_eq!(stat.name, name.as_bytes());
            prop_assert_eq!((stat.cpu_ticks, stat.start_ticks, stat.resident_pages), (9, 6, 9));
        }
    }
}
