//! Programs: what they use, one by one (`process`) and by control group (`container`).
//!
//! What a job's programs use follows from the accelerators that they keep busy, so that they add up to what the host's
//! processors and memory show, less what the machine needs for itself. Beside the jobs there are the services that every
//! host runs, one of them in a container.
//!
//! Jobs come and go, and a month has seen thousands of them: so these series are made for a stretch of time, of what is
//! there in it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::Fleet;
use crate::chance::{exact, mix};
use crate::failures::Standing;
use crate::jobs::{Job, Work};
use crate::load::{Exact, Load, Turning, Whole, device_load};
use crate::series::{Cell, Label, Layout, Series};
use crate::told::pid_of;
use crate::world::Host;

/// Processes that use most.
pub static PROCESS: Layout = Layout {
    table: "process",
    labels: &[
        "pid",
        "start_ticks",
        "name",
        "parent_pid",
        "uid",
        "cgroup",
        "container",
        "scheduler",
        "job",
        "step",
        "unit",
        "started",
    ],
    cells: &[
        "top_by",
        "processes",
        "state",
        "cpu_seconds",
        "resident_bytes",
        "virtual_bytes",
        "threads",
        "major_faults",
        "read_bytes",
        "write_bytes",
        "open_files",
        "accelerators",
    ],
};

/// Control groups: of containers, and of jobs and their steps.
pub static CONTAINER: Layout = Layout {
    table: "container",
    labels: &["cgroup", "kind", "container", "runtime", "scheduler", "job", "step", "unit"],
    cells: &[
        "groups",
        "cpu_usage_seconds",
        "cpu_user_seconds",
        "cpu_system_seconds",
        "cpu_limit",
        "memory_usage_bytes",
        "memory_working_set_bytes",
        "memory_limit_bytes",
        "memory_anon_bytes",
        "memory_file_bytes",
        "page_faults",
        "major_faults",
        "oom_kills",
        "io_read_bytes",
        "io_write_bytes",
        "tasks",
    ],
};

const GIB: i64 = 1 << 30;

/// What a job is given of a host for each accelerator: CPUs, and bytes of memory.
pub(crate) const GIVEN: (f64, i64) = (12.0, 128 * GIB);

/// Threads of a job's process.
const THREADS: i64 = 64;

/// Page cache of a job, for each accelerator.
const CACHE: i64 = 12 * GIB;

/// Something that runs as long as its host does.
struct Service {
    pid: i64,
    name: &'static str,
    unit: String,
    /// Id of the container it runs in.
    container: Option<String>,
    /// Of a CPU.
    cpu: f64,
    resident: i64,
    threads: i64,
    /// Bytes a second, whole ones.
    written: i64,
}

impl Service {
    fn cgroup(&self) -> String {
        format!("/system.slice/{}", self.unit)
    }
}

/// Seconds from the kernel's start until services run.
const STARTED_AFTER: i64 = 40;

/// What every host runs. The numbers of those that listen are those of [`crate::security`].
fn services(host: &Host) -> Vec<Service> {
    let id: String = (0..4).map(|part| format!("{:016x}", mix(&[host.key, 110, part]))).collect();
    let service = |pid, name, cpu, resident: i64, threads, written| Service {
        pid,
        name,
        unit: format!("{}.service", if name == "sshd" { "ssh" } else { name }),
        container: None,
        cpu,
        resident: resident << 20,
        threads,
        written,
    };
    let mut all = vec![
        service(900, "sshd", 0.0, 9, 1, 0),
        service(901, "slurmd", 0.001_953_125, 28, 6, 40),
        service(902, "nodescope-agent", 0.002_929_687_5, 23, 9, 9_000),
        service(1_410, "node-health", 0.000_976_562_5, 11, 2, 0),
    ];
    all.push(Service {
        unit: format!("docker-{id}.scope"),
        container: Some(id),
        ..service(1_822, "fluent-bit", 0.015_625, 96, 8, 30_000)
    });
    all
}

/// What a job has on a host.
struct Part<'a> {
    number: usize,
    job: &'a Job,
    devices: Vec<usize>,
    time: Range<i64>,
}

impl Part<'_> {
    fn cgroup(&self) -> String {
        format!("/system.slice/slurmstepd.scope/job_{}", self.job.number)
    }
}

/// What jobs have on a host at some time of a stretch.
fn parts<'a>(fleet: &'a Fleet, host: usize, time: &Range<i64>) -> Vec<Part<'a>> {
    let mut all: BTreeMap<usize, Part<'a>> = BTreeMap::new();
    for (device, uses) in fleet.schedule.uses[host].iter().enumerate() {
        let first = uses.partition_point(|u| u.to <= time.start);
        for a_use in uses[first..].iter().take_while(|u| u.from < time.end) {
            let new = || Part {
                number: a_use.job,
                job: &fleet.schedule.jobs[a_use.job],
                devices: Vec::new(),
                time: a_use.from..a_use.to,
            };
            all.entry(a_use.job).or_insert_with(new).devices.push(device);
        }
    }
    all.into_values().collect()
}

/// CPUs that keep an accelerator fed, in programs and in the kernel.
fn cpus(load: &Load) -> (f64, f64) {
    let busy = if load.is_forged { 0.0 } else { load.busy };
    (exact(2.0 + 7.0 * busy), exact(0.75 * busy))
}

/// Bytes a second read from and written to disks to keep an accelerator fed.
fn moved(load: &Load) -> (f64, f64) {
    if load.is_forged { (0.0, 0.0) } else { (6_000_000.0 * load.busy, 2_000_000.0 * load.busy) }
}

/// Main memory of the process that a job has for an accelerator.
fn resident(job: &Job) -> i64 {
    if job.work == Work::Interactive { 6 * GIB } else { (56 + (mix(&[job.number, 111]) % 48) as i64) * GIB }
}

/// Seconds at which what a part does turns, beside the hours.
fn turns(fleet: &Fleet, host: usize, devices: &[usize]) -> Vec<i64> {
    let mut turns = fleet.lives[host].turns();
    turns.extend(devices.iter().flat_map(|device| fleet.attacks.on(host, *device)).flat_map(|o| [o.from, o.to]));
    turns
}

/// The processes of a host that are there at some time of a stretch, in the order of their numbers.
pub fn processes(fleet: &Arc<Fleet>, host: usize, every: i64, time: &Range<i64>) -> Vec<Series> {
    let mut all = vec![others(fleet, host, every, time)];
    let boots = &fleet.lives[host].boots;
    for service in services(&fleet.world.hosts[host]) {
        for (place, boot) in boots.iter().enumerate() {
            let until = boots.get(place + 1).copied().unwrap_or(fleet.world.options.horizon);
            let there = (boot + STARTED_AFTER).max(time.start)..until.min(time.end);
            if !there.is_empty() {
                all.push(service_process(fleet, host, every, &service, *boot, &there));
            }
        }
    }
    for part in parts(fleet, host, time) {
        all.extend(part.devices.iter().map(|device| job_process(fleet, host, every, &part, *device)));
    }
    all.sort_by_key(|series| match series.labels[..] {
        [Label::Int(pid), Label::Int(ticks), ..] => (pid, ticks),
        _ => (0, 0),
    });
    all
}

fn others(fleet: &Arc<Fleet>, host: usize, every: i64, time: &Range<i64>) -> Series {
    let mut labels = vec![Label::Null; PROCESS.labels.len()];
    labels[..3].clone_from_slice(&[(-1_i64).into(), 0_i64.into(), "others".into()]);
    let owner = fleet.clone();
    let make = move |from: i64, _: i64| {
        let mut cells = vec![Cell::Null; PROCESS.cells.len()];
        cells[1] = Cell::whole(1_734);
        cells[4] = Cell::Whole { base: 7 * GIB, swing: 1 << 22, shift: (host % 60) as u8 };
        cells[6] = Cell::whole(2_260);
        (owner.lives[host].standing(from) == Standing::Up, cells)
    };
    let course = Turning::during(time, fleet.lives[host].turns(), make);
    Series::new(&PROCESS, host, labels, every, Box::new(course))
}

fn service_process(
    fleet: &Arc<Fleet>,
    host: usize,
    every: i64,
    service: &Service,
    boot: i64,
    time: &Range<i64>,
) -> Series {
    let labels = vec![
        service.pid.into(),
        (STARTED_AFTER * 100).into(),
        service.name.into(),
        1_i64.into(),
        0_i64.into(),
        service.cgroup().into(),
        service.container.clone().map_or(Label::Null, Label::from),
        Label::Null,
        Label::Null,
        Label::Null,
        service.unit.clone().into(),
        Label::Time((boot + STARTED_AFTER) * 1_000_000),
    ];
    let Service { cpu, resident, threads, written, .. } = *service;
    let owner = fleet.clone();
    let make = move |from: i64, _: i64| {
        let age = from - boot - STARTED_AFTER;
        let cells = vec![
            Cell::Text("memory"),
            Cell::whole(1),
            Cell::Text("sleeping"),
            Cell::Sum { start: cpu * age as f64, rate: cpu },
            Cell::whole(resident),
            Cell::whole(resident * 8),
            Cell::whole(threads),
            Cell::counted(3, 0),
            Cell::counted(0, 0),
            Cell::counted(written * age, written),
            Cell::whole(24),
            Cell::Null,
        ];
        (owner.lives[host].standing(from) == Standing::Up, cells)
    };
    let course = Turning::during(time, fleet.lives[host].turns(), make);
    Series::new(&PROCESS, host, labels, every, Box::new(course))
}

fn job_process(fleet: &Arc<Fleet>, host: usize, every: i64, part: &Part<'_>, device: usize) -> Series {
    let Part { job, ref time, .. } = *part;
    let pid = pid_of(job, device);
    let labels = vec![
        pid.into(),
        start_ticks(fleet, host, time.start).into(),
        program(job).into(),
        // The step's own keeper, which was there shortly before.
        (pid_of(job, 0) - 1).into(),
        job.uid.into(),
        format!("{}/step_0", part.cgroup()).into(),
        Label::Null,
        "slurm".into(),
        job.number.to_string().into(),
        "0".into(),
        "slurmstepd.scope".into(),
        Label::Time(time.start * 1_000_000),
    ];
    let (owner, memory, shift) = (fleet.clone(), resident(job), (pid % 60) as u8);
    let (mut cpu, mut read, mut written) = (Exact::default(), Whole::default(), Whole::default());
    let make = move |from: i64, to: i64| {
        let load = device_load(&owner, host, device, from);
        let ((user, system), (reads, writes), seconds) = (cpus(&load), moved(&load), to - from);
        let cells = vec![
            Cell::Text("both"),
            Cell::whole(1),
            Cell::Text(if load.busy > 0.0 { "running" } else { "sleeping" }),
            cpu.run(user + system, seconds),
            Cell::Whole { base: memory, swing: 1 << 22, shift },
            Cell::whole(memory * 4),
            Cell::whole(THREADS),
            Cell::counted(120, 0),
            read.run(reads, seconds),
            written.run(writes, seconds),
            Cell::whole(310),
            Cell::whole(1),
        ];
        (owner.lives[host].standing(from) == Standing::Up, cells)
    };
    let course = Turning::during(time, turns(fleet, host, &[device]), make);
    Series::new(&PROCESS, host, labels, every, Box::new(course))
}

/// Name of a job's program.
pub fn program(job: &Job) -> &'static str {
    if job.work == Work::Interactive { "jupyter-lab" } else { "python3" }
}

/// Clock ticks from a host's boot to a moment.
pub fn start_ticks(fleet: &Fleet, host: usize, at: i64) -> i64 {
    (at - fleet.lives[host].boot(at)).max(1) * 100
}

/// The control groups of a host that are there at some time of a stretch, in the order of their names.
pub fn containers(fleet: &Arc<Fleet>, host: usize, every: i64, time: &Range<i64>) -> Vec<Series> {
    let mut all = Vec::new();
    for service in services(&fleet.world.hosts[host]) {
        if let Some(id) = &service.container {
            all.push(service_group(fleet, host, every, &service, id, time));
        }
    }
    for part in parts(fleet, host, time) {
        all.push(job_group(fleet, host, every, &part, None));
        all.push(job_group(fleet, host, every, &part, Some("0")));
    }
    all.sort_by(|a, b| match (&a.labels[0], &b.labels[0]) {
        (Label::Text(a), Label::Text(b)) => a.cmp(b),
        _ => std::cmp::Ordering::Equal,
    });
    all
}

fn service_group(
    fleet: &Arc<Fleet>,
    host: usize,
    every: i64,
    service: &Service,
    id: &str,
    time: &Range<i64>,
) -> Series {
    let labels = vec![
        service.cgroup().into(),
        "container".into(),
        id.into(),
        "docker".into(),
        Label::Null,
        Label::Null,
        Label::Null,
        service.unit.clone().into(),
    ];
    let Service { cpu, resident, threads, written, .. } = *service;
    let owner = fleet.clone();
    let make = move |from: i64, _: i64| {
        let life = &owner.lives[host];
        let age = (from - life.boot(from) - STARTED_AFTER).max(0);
        // Of four parts three in programs.
        let sum = |part: f64| Cell::Sum { start: cpu * part * age as f64, rate: cpu * part };
        let cells = vec![
            Cell::whole(1),
            sum(1.0),
            sum(0.75),
            sum(0.25),
            Cell::Null,
            Cell::Whole { base: resident + (1 << 26), swing: 1 << 18, shift: (host % 60) as u8 },
            Cell::Whole { base: resident + (1 << 25), swing: 1 << 18, shift: (host % 60) as u8 },
            Cell::whole(GIB),
            Cell::whole(resident),
            Cell::whole(1 << 26),
            Cell::counted(40 * age, 40),
            Cell::counted(0, 0),
            Cell::counted(0, 0),
            Cell::counted(0, 0),
            Cell::counted(written * age, written),
            Cell::whole(threads),
        ];
        (life.standing(from) == Standing::Up, cells)
    };
    let course = Turning::during(time, fleet.lives[host].turns(), make);
    Series::new(&CONTAINER, host, labels, every, Box::new(course))
}

/// The group of a job, or of its only step, which does all the work.
fn job_group(fleet: &Arc<Fleet>, host: usize, every: i64, part: &Part<'_>, step: Option<&str>) -> Series {
    let cgroup = part.cgroup();
    let labels = vec![
        step.map_or(cgroup.clone(), |step| format!("{cgroup}/step_{step}")).into(),
        (if step.is_some() { "step" } else { "job" }).into(),
        Label::Null,
        Label::Null,
        "slurm".into(),
        part.job.number.to_string().into(),
        step.map_or(Label::Null, Label::from),
        "slurmstepd.scope".into(),
    ];
    let (owner, devices, number) = (fleet.clone(), part.devices.clone(), part.number);
    let anonymous = resident(part.job) * devices.len() as i64;
    let turns = turns(fleet, host, &devices);
    let (mut c, mut cpu) = (<[Whole; 5]>::default(), <[Exact; 3]>::default());
    let make = move |from: i64, to: i64| {
        let (count, seconds) = (devices.len() as i64, to - from);
        let (mut user, mut system, mut reads, mut writes) = (0.0, 0.0, 0.0, 0.0);
        for device in &devices {
            let load = device_load(&owner, host, *device, from);
            let (own, moves) = (cpus(&load), moved(&load));
            (user, system) = (user + own.0, system + own.1);
            (reads, writes) = (reads + moves.0, writes + moves.1);
        }
        let cache = CACHE * count;
        let shift = (number % 60) as u8;
        let cells = vec![
            Cell::whole(1),
            cpu[0].run(user + system, seconds),
            cpu[1].run(user, seconds),
            cpu[2].run(system, seconds),
            Cell::level(GIVEN.0 * count as f64),
            Cell::Whole { base: anonymous + cache, swing: 1 << 22, shift },
            Cell::Whole { base: anonymous + cache / 4, swing: 1 << 22, shift },
            Cell::whole(GIVEN.1 * count),
            Cell::whole(anonymous),
            Cell::whole(cache),
            c[0].run(2_000.0 * system, seconds),
            c[1].run(0.0, seconds),
            c[2].run(0.0, seconds),
            c[3].run(reads, seconds),
            c[4].run(writes, seconds),
            Cell::whole((THREADS + 1) * count),
        ];
        (owner.lives[host].standing(from) == Standing::Up, cells)
    };
    Series::new(&CONTAINER, host, labels, every, Box::new(Turning::during(&part.time, turns, make)))
}
