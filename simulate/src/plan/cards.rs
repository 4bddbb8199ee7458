//! What happens on accelerators: use without a job, miners, hoarders, forged values, programs that nobody knows.
//!
//! D1 to D4, D7, D16. A miner is laid where it earns: on a free card under a name that looks like the kernel's, or in
//! somebody's own job; its shape is all cores, no matrix units, no data, no steps. Which of it a driver tells is the
//! vendor's affair: where it tells neither of matrix units nor of traffic, nobody can know the shape, and there is no
//! label for it.

use super::rows::{Program, Talk};
use super::{Lay, Planner, Spot};
use crate::attacks::Act;
use crate::jobs::Shape;
use crate::told::pid_of;
use crate::world::{HOUR, MINUTE};

/// Kinds of attack, by rule.
pub(super) const KINDS: &[&[Lay]] = &[
    &[hoards, hoards_with_a_context],
    &[mines_as_root, mines_for_a_pool, mines_in_a_job],
    &[computes, computes_a_little, goes_on_after_the_job],
    &[runs_a_miner, talks_to_a_pool],
    &[claims_work, counts_too_little, tells_of_another, counts_more_than_the_line],
    &[runs_from_memory_disk, runs_what_was_deleted, runs_as_root_in_a_job],
];

/// Near misses.
pub(super) const NEAR: &[Lay] = &[
    is_burnt_in,
    is_diagnosed,
    has_the_shape_in_a_job,
    is_a_steady_user,
    talks_to_ports_of_pools,
    holds_for_interactive_work,
    brings_its_data,
    holds_for_an_evening,
    draws_little,
    is_unlisted_in_a_job,
    is_approved,
    was_replaced_by_an_update,
];

/// Somebody mines.
const MINER: Shape = Shape {
    busy: 0.984_375,
    core: 1.0,
    tensor: 0.0,
    dram: 0.25,
    memory: 0.0625,
    power: 0.875,
    traffic: 0.0,
    step: 0.0,
    idle: false,
};

/// Somebody computes as jobs do.
const WORKER: Shape = Shape {
    busy: 0.875,
    core: 0.75,
    tensor: 0.375,
    dram: 0.5,
    memory: 0.5,
    power: 0.75,
    traffic: 0.0,
    step: 2.0,
    idle: false,
};

/// Somebody holds a device and leaves it alone.
const HOARDED: Shape = Shape {
    busy: 0.0,
    core: 0.0,
    tensor: 0.0,
    dram: 0.0,
    memory: 0.007_812_5,
    power: 0.0,
    traffic: 0.0,
    step: 1.0,
    idle: true,
};

const D01: &str = "d01_accelerator_busy_without_job";
const D02: &str = "d02_miner_shape";
const D03: &str = "d03_miner_or_pool";
const D04: &str = "d04_claimed_but_idle";
const D07: &str = "d07_physics";
const D16: &str = "d16_unlisted_accelerator_process";

impl Planner<'_> {
    /// Whether a host's driver tells what a miner's shape is made of.
    fn tells_shape(&self, host: usize) -> bool {
        let tells = self.world.hosts[host].model.tells;
        tells.activity || tells.pcie_rate || tells.links
    }

    /// The number of the process that a job has on a device.
    fn pid_in_job(&self, job: usize, device: usize) -> i64 {
        pid_of(&self.schedule.jobs[job], device)
    }

    fn job_name(&self, job: usize) -> String {
        self.schedule.jobs[job].number.to_string()
    }

    fn pid(&mut self) -> i64 {
        4_000_000 + self.next()
    }
}

fn computes(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device) = plan.with_free(30 * MINUTE, |_, _| true)?;
    plan.lay(spot, device, Act::Compute(WORKER));
    plan.label(D01, spot, Some(device));
    Some(())
}

fn computes_a_little(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device) = plan.with_free(45 * MINUTE, |_, _| true)?;
    plan.lay(spot, device, Act::Compute(Shape { busy: 0.5, core: 0.625, power: 0.3125, ..WORKER }));
    let pid = plan.pid();
    plan.runs(spot, device, &Program { pid, uid: 20_031, name: "python3", ..Program::default() });
    plan.label(D01, spot, Some(device));
    Some(())
}

/// Detached from its job, it is not ended with it.
fn goes_on_after_the_job(plan: &mut Planner<'_>) -> Option<()> {
    let seconds = 35 * MINUTE;
    let (begin, end) = (plan.options.from + 10 * MINUTE, plan.options.to - seconds - 4 * MINUTE);
    let many = plan.world.hosts.len();
    let first = plan.chance.below(many as u64) as usize;
    for host in (0..many).map(|n| (first + n) % many) {
        for (device, uses) in plan.schedule.uses[host].iter().enumerate() {
            for (place, a_use) in uses.iter().enumerate() {
                let is_free = uses.get(place + 1).is_none_or(|next| next.from >= a_use.to + seconds + 5 * MINUTE);
                let job = &plan.schedule.jobs[a_use.job];
                let spot = Spot { host, from: a_use.to, to: a_use.to + seconds };
                if is_free && (begin..end).contains(&a_use.to) && !job.killed && plan.is_calm(host, spot.from, spot.to)
                {
                    plan.take(host, spot.from, spot.to);
                    plan.lay(spot, device, Act::Compute(WORKER));
                    let (pid, uid) = (pid_of(job, device), job.uid);
                    plan.runs(spot, device, &Program { pid, uid, name: "python3", ..Program::default() });
                    plan.label(D01, spot, Some(device));
                    return Some(());
                }
            }
        }
    }
    None
}

fn mines_as_root(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device) = plan.with_free(75 * MINUTE, Planner::tells_shape)?;
    plan.lay(spot, device, Act::Compute(MINER));
    let pid = plan.pid();
    plan.runs(
        spot,
        device,
        &Program { pid, uid: 0, name: "kworker-u", path: "/memfd:k", reason: "memfd", ..Program::default() },
    );
    for rule in [D01, D02, D16] {
        plan.label(rule, spot, Some(device));
    }
    Some(())
}

fn mines_for_a_pool(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device) = plan.with_free(80 * MINUTE, Planner::tells_shape)?;
    plan.lay(spot, device, Act::Compute(Shape { memory: 0.125, power: 0.75, ..MINER }));
    let pid = plan.pid();
    // Compiled on the spot, and named after what runs on every such host.
    let program = Program {
        pid,
        uid: 20_044,
        name: "python3",
        path: "/tmp/.cache/python3",
        reason: "temporary,unpackaged",
        job: None,
    };
    plan.runs(spot, device, &program);
    let talk =
        Talk { port: 14_444, pid: Some(pid), process: Some("python3"), sent: 120, received: 380, ..Talk::default() };
    plan.talk(spot, &talk);
    for rule in [D01, D02, D16] {
        plan.label(rule, spot, Some(device));
    }
    plan.label(D03, spot, None);
    Some(())
}

fn mines_in_a_job(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device, job) = plan.with_held(90 * MINUTE, |this, host, _| this.tells_shape(host))?;
    plan.lay(spot, device, Act::Compute(MINER));
    let (uid, name) = (plan.schedule.jobs[job].uid, plan.job_name(job));
    let pid = plan.pid();
    plan.runs(spot, device, &Program { pid, uid, name: "lolMiner", job: Some(name), ..Program::default() });
    plan.label(D02, spot, Some(device));
    plan.label(D03, spot, None);
    Some(())
}

fn runs_a_miner(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device) = plan.with_free(40 * MINUTE, |_, _| true)?;
    plan.lay(spot, device, Act::Compute(Shape { power: 0.5, step: 1.0, ..WORKER }));
    let pid = plan.pid();
    let name = ["xmrig", "XMRig-cuda", "t-rex", "nbminer"][plan.chance.below(4) as usize];
    plan.runs(spot, device, &Program { pid, uid: 20_099, name, ..Program::default() });
    plan.talk(spot, &Talk { port: 3333, pid: Some(pid), sent: 450, received: 450, oldest: 900, ..Talk::default() });
    plan.label(D01, spot, Some(device));
    plan.label(D03, spot, None);
    Some(())
}

fn talks_to_a_pool(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device, job) = plan.with_held(50 * MINUTE, |_, _, _| true)?;
    let (pid, port) = (plan.pid_in_job(job, device), [4444, 5555, 20_580][plan.chance.below(3) as usize]);
    plan.talk(
        spot,
        &Talk { port, pid: Some(pid), process: Some("python3"), sent: 200, received: 700, ..Talk::default() },
    );
    plan.label(D03, spot, None);
    Some(())
}

fn hoard(plan: &mut Planner<'_>, shape: Shape) -> Option<()> {
    let (spot, device, _) = plan.with_held(5 * HOUR, |_, _, _| true)?;
    plan.lay(spot, device, Act::Compute(shape));
    plan.label(D04, spot, Some(device));
    Some(())
}

fn hoards(plan: &mut Planner<'_>) -> Option<()> {
    hoard(plan, HOARDED)
}

/// A program was started and does nothing: its context holds a little memory.
fn hoards_with_a_context(plan: &mut Planner<'_>) -> Option<()> {
    hoard(plan, Shape { memory: 0.015_625, ..HOARDED })
}

fn claims_work(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device) = plan.with_free(25 * MINUTE, |_, _| true)?;
    plan.lay(spot, device, Act::Claim(Shape { busy: 0.953_125, ..WORKER }));
    plan.label(D07, spot, Some(device));
    Some(())
}

fn counts_too_little(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device, _) = plan.with_held(30 * MINUTE, |this, host, _| this.world.hosts[host].model.tells.energy)?;
    let share = [0.75, 0.5, 1.25][plan.chance.below(3) as usize];
    plan.lay(spot, device, Act::Meter(share));
    plan.label(D07, spot, Some(device));
    Some(())
}

/// Two devices are held, one works, and the values of that one are told for both.
fn tells_of_another(plan: &mut Planner<'_>) -> Option<()> {
    let seconds = 30 * MINUTE;
    let spot = plan.spot(seconds, |this, spot| this.held(spot).len() >= 2)?;
    let held = plan.held(spot);
    let (one, two) = (held[0].0, held[1].0);
    // Somebody at a terminal: now more, now less.
    for (number, from) in (spot.from..spot.to).step_by(3 * MINUTE as usize).enumerate() {
        let power = [0.25, 0.5, 0.3125, 0.625][number % 4];
        let shape = Shape { busy: 0.25 + power, power, ..WORKER };
        plan.lay(Spot { from, to: (from + 3 * MINUTE).min(spot.to), ..spot }, one, Act::Compute(shape));
    }
    plan.lay(spot, two, Act::Twin(one));
    plan.label(D07, spot, None);
    Some(())
}

fn counts_more_than_the_line(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(20 * MINUTE)?;
    plan.trick(spot, crate::attacks::Trick::Padding(4.0e10));
    plan.label(D07, spot, None);
    Some(())
}

fn is_burnt_in(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device) = plan.with_free(40 * MINUTE, |_, _| true)?;
    plan.lay(spot, device, Act::Compute(WORKER));
    plan.announce(spot, "burn_in");
    Some(())
}

fn is_diagnosed(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device) = plan.with_free(25 * MINUTE, |_, _| true)?;
    plan.lay(spot, device, Act::Compute(WORKER));
    let pid = plan.pid();
    plan.runs(spot, device, &Program { pid, uid: 0, name: "dcgmi", ..Program::default() });
    plan.approve("executable", "/usr/bin/dcgmi", "*");
    Some(())
}

/// Many simulations compute so.
fn has_the_shape_in_a_job(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device, _) = plan.with_held(70 * MINUTE, |_, _, _| true)?;
    plan.lay(spot, device, Act::Compute(MINER));
    Some(())
}

/// One whose program is their own, and who is known to compute so.
fn is_a_steady_user(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device, job) = plan.with_held(70 * MINUTE, |_, _, _| true)?;
    plan.lay(spot, device, Act::Compute(MINER));
    let (uid, user) = (plan.schedule.jobs[job].uid, plan.schedule.jobs[job].user);
    let (pid, name) = (plan.pid(), plan.job_name(job));
    let path = "/home/lattice/qcd";
    plan.runs(spot, device, &Program { pid, uid, name: "qcd", path, reason: "unpackaged", job: Some(name) });
    plan.approve_on(spot.host, "account", user, "steady_load");
    Some(())
}

/// A scanner from outside; a short talk; a fast one; one of a program that is known.
fn talks_to_ports_of_pools(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device, job) = plan.with_held(30 * MINUTE, |_, _, _| true)?;
    let pid = Some(plan.pid_in_job(job, device));
    plan.talk(spot, &Talk { direction: "in", port: 3333, sent: 50, received: 50, oldest: 1_000, ..Talk::default() });
    let short = Spot { to: spot.from + 3 * MINUTE, ..spot };
    plan.talk(short, &Talk { port: 9999, pid, process: Some("python3"), sent: 100, ..Talk::default() });
    let fast = Talk { port: 8888, pid, process: Some("python3"), received: 2_000_000, oldest: 900, ..Talk::default() };
    plan.talk(spot, &fast);
    let known = plan.pid();
    plan.runs(spot, device, &Program { pid: known, uid: 0, name: "vgpu-licence", ..Program::default() });
    plan.approve("executable", "/opt/site/bin/vgpu-licence", "*");
    let process = Some("vgpu-licence");
    plan.talk(
        spot,
        &Talk { port: 7777, pid: Some(known), process, sent: 20, received: 20, oldest: 86_400, ..Talk::default() },
    );
    Some(())
}

fn holds_for_interactive_work(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device, job) = plan.with_held(5 * HOUR, |_, _, _| true)?;
    plan.lay(spot, device, Act::Compute(HOARDED));
    let user = plan.schedule.jobs[job].user;
    plan.approve_on(spot.host, "account", user, "interactive");
    Some(())
}

/// Hours in which a job fetches what it will compute on.
fn brings_its_data(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device, job) = plan.with_held(5 * HOUR, |_, _, _| true)?;
    plan.lay(spot, device, Act::Compute(HOARDED));
    let (uid, name, pid) = (plan.schedule.jobs[job].uid, plan.job_name(job), plan.pid_in_job(job, device));
    for (number, at) in (1..).zip((spot.from..spot.to + 10 * MINUTE).step_by(MINUTE as usize)) {
        let event = plan
            .event("process", spot.host, at)
            .with("pid", pid)
            .with("start_ticks", 8_640_000_i64)
            .with("name", "python3")
            .with("uid", uid)
            .with("job", name.clone())
            .with("read_bytes", 3_000_000_000_i64 * number)
            .with("write_bytes", 40_960_i64 * number);
        plan.add(spot.host, event);
    }
    Some(())
}

/// Not long enough.
fn holds_for_an_evening(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device, _) = plan.with_held(3 * HOUR + 30 * MINUTE, |_, _, _| true)?;
    plan.lay(spot, device, Act::Compute(HOARDED));
    Some(())
}

/// Work that waits for memory: all of the time, at little power.
fn draws_little(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device, _) = plan.with_held(40 * MINUTE, |_, _, _| true)?;
    plan.lay(spot, device, Act::Compute(Shape { busy: 0.968_75, tensor: 0.0, dram: 0.875, power: 0.125, ..WORKER }));
    Some(())
}

fn is_unlisted_in_a_job(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device, job) = plan.with_held(40 * MINUTE, |_, _, _| true)?;
    let (uid, name, pid) = (plan.schedule.jobs[job].uid, plan.job_name(job), plan.pid());
    let path = "/home/zhang.wei/train";
    plan.runs(spot, device, &Program { pid, uid, name: "train", path, reason: "unpackaged", job: Some(name) });
    Some(())
}

fn is_approved(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device) = plan.with_free(30 * MINUTE, |_, _| true)?;
    let pid = plan.pid();
    let path = "/opt/site/bin/card-health";
    let program = Program { pid, uid: 0, name: "card-health", path, reason: "unpackaged", job: None };
    plan.runs(spot, device, &program);
    plan.approve("executable", path, &program.sha256());
    Some(())
}

fn was_replaced_by_an_update(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device) = plan.with_free(30 * MINUTE, |_, _| true)?;
    let pid = plan.pid();
    let path = "/usr/bin/nv-hostengine";
    plan.runs(spot, device, &Program { pid, uid: 0, name: "nv-hostengine", path, reason: "replaced", job: None });
    Some(())
}

fn runs_from_memory_disk(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device) = plan.with_free(20 * MINUTE, |_, _| true)?;
    let pid = plan.pid();
    let (path, reason) = ("/dev/shm/.x/upd", "temporary,unpackaged");
    plan.runs(spot, device, &Program { pid, uid: 0, name: "upd", path, reason, job: None });
    plan.label(D16, spot, Some(device));
    Some(())
}

fn runs_what_was_deleted(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device) = plan.with_free(25 * MINUTE, |_, _| true)?;
    let pid = plan.pid();
    let path = "/home/guest.he/bin/cudasrv";
    plan.runs(spot, device, &Program { pid, uid: 20_061, name: "cudasrv", path, reason: "deleted", job: None });
    plan.label(D16, spot, Some(device));
    Some(())
}

/// Whoever has broken out of a job keeps its group.
fn runs_as_root_in_a_job(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, device, job) = plan.with_held(20 * MINUTE, |_, _, _| true)?;
    let (pid, name) = (plan.pid(), plan.job_name(job));
    let (path, reason) = ("/usr/lib/x86_64-linux-gnu/libcuda-helper", "modified");
    plan.runs(spot, device, &Program { pid, uid: 0, name: "libcuda-helper", path, reason, job: Some(name) });
    plan.label(D16, spot, Some(device));
    Some(())
}
