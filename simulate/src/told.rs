//! What schedulers, jobs and drivers tell: allocations, progress, faults, demand.
//!
//! Allocations are told as the agent's endpoint writes them: a row when one begins and one when it ends, and every hour
//! anew while it is held. An agent that was away says when it is back what is held, and what has ended meanwhile. Ranks
//! tell of their steps; one that is slow makes the others wait, which is how it is found.

use crate::Fleet;
use crate::chance::{exact, mix, unit};
use crate::events::{Event, Value, time};
use crate::failures::{Ailment, HostLife};
use crate::jobs::{Job, Use, Work};
use crate::programs::{GIVEN, program, start_ticks};
use crate::world::{HOUR, MINUTE};

/// Ranks tell of their steps once so many seconds.
const PROGRESS_EVERY: i64 = MINUTE;

/// Everything of this kind that a host's agent tells in `[from, to)`.
pub fn told(fleet: &Fleet, host: usize, from: i64, to: i64) -> Vec<Event> {
    let mut all = Vec::new();
    for device in 0..fleet.world.hosts[host].devices.len() {
        let uses = &fleet.schedule.uses[host][device];
        // What ended before may be told only now.
        let first = uses.partition_point(|u| fleet.lives[host].heard(u.to).is_some_and(|at| at < from));
        for a_use in uses[first..].iter().take_while(|u| u.from < to) {
            allocation(fleet, host, device, a_use, from, to, &mut all);
        }
        faults(fleet, host, device, from, to, &mut all);
    }
    all
}

/// What is told every minute: how far jobs have come, and which processes are on accelerators.
pub fn minutely(fleet: &Fleet, host: usize, from: i64, to: i64) -> Vec<Event> {
    let mut all = Vec::new();
    for device in 0..fleet.world.hosts[host].devices.len() {
        let uses = &fleet.schedule.uses[host][device];
        let first = uses.partition_point(|u| u.to < from);
        for a_use in uses[first..].iter().take_while(|u| u.from < to) {
            progress(fleet, host, device, a_use, from, to, &mut all);
            process(fleet, host, device, a_use, from, to, &mut all);
        }
    }
    all
}

/// The process of a job on a device.
fn process(fleet: &Fleet, host: usize, device: usize, a_use: &Use, from: i64, to: i64, all: &mut Vec<Event>) {
    let it = &fleet.world.hosts[host];
    let job = &fleet.schedule.jobs[a_use.job];
    let pid = pid_of(job, device);
    let memory = (job.shape.memory * it.model.memory as f64) as i64;
    let first = a_use.from.max(from).div_euclid(MINUTE) * MINUTE;
    for at in (first..a_use.to.min(to)).step_by(MINUTE as usize) {
        if at >= from && at > a_use.from {
            all.push(
                row(fleet, "accelerator_process", host, at)
                    .with("device", it.devices[device].id.clone())
                    .with("pid", pid)
                    .with("vendor", it.model.vendor)
                    .with("start_ticks", start_ticks(fleet, host, a_use.from))
                    .with("name", program(job))
                    .with("uid", job.uid)
                    .with("cgroup", format!("/system.slice/slurmstepd.scope/job_{}/step_0", job.number))
                    .with("job", job.number.to_string())
                    .with("work", "compute")
                    .with("memory_used_bytes", memory),
            );
        }
    }
}

/// Number of a job's process on a device.
pub fn pid_of(job: &Job, device: usize) -> i64 {
    20_000 + (mix(&[job.number, 70]) % 900_000) as i64 + device as i64
}

fn row(fleet: &Fleet, table: &'static str, host: usize, at: i64) -> Event {
    let it = &fleet.world.hosts[host];
    Event::new(table, at, &fleet.world.node_of(it).code, &it.name)
}

/// Name of a job's allocation.
pub fn allocation_name(job: &Job) -> String {
    format!("slurm:{}", job.number)
}

fn allocation(fleet: &Fleet, host: usize, device: usize, a_use: &Use, from: i64, to: i64, all: &mut Vec<Event>) {
    let job = &fleet.schedule.jobs[a_use.job];
    let its = &fleet.world.hosts[host].devices[device];
    let here = job.grants.iter().filter(|g| g.host == host).map(|g| i64::from(g.devices.count_ones())).sum::<i64>();
    let ended = job.ended.filter(|e| *e < fleet.world.options.horizon);
    let mut tell = |at: i64, is_over: bool| {
        let event = row(fleet, "allocation", host, at)
            .with("source", "endpoint")
            .with("allocation", allocation_name(job))
            .with("device", its.id.clone())
            .with("state", if is_over { "ended" } else { "held" })
            .with("scheduler", "slurm")
            .with("job", job.number.to_string())
            .with("user", job.user)
            .with("uid", job.uid)
            .with("project", job.project)
            .with("began", time(a_use.from))
            .with("accelerators", here)
            .with("cpus", GIVEN.0 * here as f64)
            .with("memory_bytes", GIVEN.1 * here);
        all.push(if is_over { event.with("ended", time(a_use.to)) } else { event });
    };
    let life = &fleet.lives[host];
    for at in held_at(life, a_use, from, to) {
        tell(at, false);
    }
    if let Some(heard) = ended.and_then(|at| life.heard(at)).filter(|at| from <= *at && *at < to) {
        tell(heard, true);
    }
}

/// When in `[from, to)` an agent, if it speaks, tells that a device is held: at the begin, every hour, and when it is back.
fn held_at(life: &HostLife, a_use: &Use, from: i64, to: i64) -> impl Iterator<Item = i64> {
    let (began, to) = (a_use.from, to.min(a_use.to));
    let hours = (began.max(from - 1).div_euclid(HOUR) + 1..=(to - 1).div_euclid(HOUR)).map(|hour| hour * HOUR);
    let back = life.stretches.iter().map(|s| s.from).filter(move |at| began < *at && at % HOUR != 0);
    [began].into_iter().chain(hours).chain(back).filter(move |at| from <= *at && *at < to)
}

fn progress(fleet: &Fleet, host: usize, device: usize, a_use: &Use, from: i64, to: i64, all: &mut Vec<Event>) {
    let job = &fleet.schedule.jobs[a_use.job];
    if job.work != Work::Training || job.accelerators < 8 {
        return;
    }
    let Some(rank) = rank_of(job, host, device) else { return };
    let its = &fleet.world.hosts[host].devices[device];
    let first = a_use.from.max(from).div_euclid(PROGRESS_EVERY) * PROGRESS_EVERY;
    for at in (first..a_use.to.min(to)).step_by(PROGRESS_EVERY as usize) {
        if at < from || at <= a_use.from {
            continue;
        }
        let (own, step) = step_seconds(job, rank, at);
        all.push(
            row(fleet, "progress", host, at)
                .with("job", job.number.to_string())
                .with("rank", rank as i64)
                .with("device", its.id.clone())
                .with("step", ((at - a_use.from) as f64 / step) as i64)
                .with("step_seconds", step)
                .with("wait_seconds", exact(step - own)),
        );
    }
}

/// Number of the rank that runs on a device.
pub fn rank_of(job: &Job, host: usize, device: usize) -> Option<usize> {
    let mut before = 0;
    for grant in &job.grants {
        if grant.host == host {
            return grant.each().position(|d| d == device).map(|place| before + place);
        }
        before += grant.devices.count_ones() as usize;
    }
    None
}

/// How long a rank's own work of a step takes, and how long the step takes: the slowest rank's.
pub fn step_seconds(job: &Job, rank: usize, at: i64) -> (f64, f64) {
    let own = |rank: usize| {
        let wobble = 1.0 + 0.03 * unit(mix(&[job.number, rank as u64, (at / MINUTE) as u64]));
        let slow = if job.straggler == Some(rank) { 1.35 } else { 1.0 };
        exact(job.shape.step.max(0.25) * 0.9 * wobble * slow)
    };
    let bound = job.shape.step.max(0.25) * 0.93;
    let slowest = job.straggler.map_or(exact(bound), |slow| own(slow).max(exact(bound)));
    (own(rank).min(slowest), slowest)
}

fn faults(fleet: &Fleet, host: usize, device: usize, from: i64, to: i64, all: &mut Vec<Event>) {
    let it = &fleet.world.hosts[host];
    let model = it.model;
    let tell = |at: i64, number: i64, kind: &'static str, code: Option<i64>, message: String| {
        row(fleet, "accelerator_event", host, at)
            .with("vendor", model.vendor)
            .with("event", number)
            .with("at", time(at))
            .with("device", it.devices[device].id.clone())
            .with("pci_bdf", it.devices[device].pci.clone())
            .with("kind", kind)
            .with("source", if kind == "fault" { model.fault_source } else { "agent" })
            .maybe("code", code)
            .with("message", message)
    };
    let troubles = &fleet.lives[host].devices[device].troubles;
    for (number, trouble) in troubles.iter().enumerate() {
        let number = (device * 10_000 + number * 4) as i64 + 1;
        if from <= trouble.at && trouble.at < to {
            let text = match trouble.ailment {
                Ailment::Lost => "has fallen off the bus",
                Ailment::Memory => "uncorrectable ECC error, page to be replaced",
                Ailment::Link => "link error",
                Ailment::Program => "error of the running program",
            };
            let message = if model.vendor == "nvidia" {
                format!("NVRM: Xid (PCI:{}): {}, {text}", it.devices[device].pci, trouble.code)
            } else {
                format!("error {}: {text}", trouble.code)
            };
            all.push(tell(trouble.at, number, "fault", Some(trouble.code), message));
            if trouble.ailment == Ailment::Lost {
                all.push(tell(trouble.at, -number - 1, "lost", None, "no longer listed by the driver".to_owned()));
            }
        }
        if trouble.ailment == Ailment::Lost && from <= trouble.until && trouble.until < to {
            all.push(tell(trouble.until, -number - 2, "added", None, "listed by the driver".to_owned()));
        }
    }
}

/// What schedulers tell of what waits, in `[from, to)`: one row a fabric and class.
pub fn demand(fleet: &Fleet, from: i64, to: i64) -> Vec<Event> {
    let of = |d: &&crate::jobs::DemandAt| from <= d.at && d.at < to;
    fleet
        .schedule
        .demand
        .iter()
        .filter(of)
        .map(|d| {
            let fabric = &fleet.world.fabrics[d.fabric];
            Event::new("demand", d.at, &fleet.world.nodes[fabric.node].code, "")
                .with("scheduler", format!("slurm-{}", fabric.name))
                .with("class", d.class)
                .with("vendor", fabric.model.vendor)
                .with("model", fabric.model.name)
                .with("jobs_pending", d.pending)
                .with("jobs_running", d.running)
                .with("accelerators_pending", d.pending_accelerators)
                .with("accelerators_running", d.running_accelerators)
                .with("accelerator_hours_pending", exact(d.pending_hours))
                .maybe("oldest_wait_seconds", d.oldest_wait.map(|s| Value::Float(s as f64)))
        })
        .collect()
}
