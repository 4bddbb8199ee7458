//! Whose a process is: container, pod, job or unit, read from its control group.
//!
//! Every manager of work puts what it starts into a control group of its own and names it by its own rules: systemd by
//! unit, Slurm by job and step, Kubernetes and the container runtimes by pod and container. The path is readable for
//! everybody, so this is the one attribution that needs neither privilege nor anybody's API.

use crate::host_root::HostRoot;

/// Whose a control group is. What its path does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// Id of the container, 12 or more hexadecimal digits, as the runtime shows it.
    pub container: Option<String>,
    /// What runs it: `docker`, `containerd`, `cri-o`, `podman`, `lxc`, `systemd-nspawn`, `apptainer`.
    pub runtime: Option<&'static str>,
    /// UID of the Kubernetes pod, with dashes.
    pub pod: Option<String>,
    /// Job of a batch system, as its users know it: `4242` of Slurm.
    pub job: Option<String>,
    /// Step of the job: `0`, `batch`, `extern`.
    pub step: Option<String>,
    /// Who schedules the job: `slurm`.
    pub scheduler: Option<&'static str>,
    /// The systemd unit, service, scope or slice nearest to the process.
    pub unit: Option<String>,
}

/// Whose the control group at `path` is (`/proc/PID/cgroup`'s third field).
pub fn owner(_path: &str) -> Owner {
    Owner::default()
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
    pub fn read(_root: &HostRoot, _pid: u32) -> Option<Self> {
        None
    }
}
