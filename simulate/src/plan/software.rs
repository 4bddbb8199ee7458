//! What runs, what is loaded, what is burnt in: D15, D17, D18.

use super::rows::Program;
use super::{Lay, Planner, Spot};
use crate::attacks::Trick;
use crate::world::MINUTE;

/// Kinds of attack, by rule.
pub(super) const KINDS: &[&[Lay]] = &[
    &[opens_a_door, opens_it_as_root, puts_another_behind_the_door],
    &[loads_a_module, preloads_a_library, hides_a_module, adds_a_unit, adds_a_cron_job],
    &[
        goes_back_to_an_old_board,
        has_a_board_nobody_approved,
        has_a_card_with_other_firmware,
        goes_back_though_approved,
    ],
];

/// Near misses.
pub(super) const NEAR: &[Lay] = &[
    listens_in_a_job,
    listens_where_it_happens,
    rolls_out_a_service,
    listens_as_approved,
    loads_a_module_of_the_kernel_s,
    builds_its_driver_anew,
    rolls_out_a_unit,
    tries_an_approved_board,
    is_upgraded_as_announced,
];

const D15: &str = "d15_new_listener";
const D17: &str = "d17_kernel_or_persistence";
const D18: &str = "d18_firmware_drift";

/// Products of the fleet's machines.
const PRODUCTS: [&str; 2] = ["bios NF5688M7", "bios Atlas 800T A2"];

fn server(pid: i64, uid: i64) -> Program {
    Program { pid, uid, name: "srv", path: "/home/site/srv", ..Program::default() }
}

fn opens(plan: &mut Planner<'_>, port: i64, state: &'static str, program: &Program) -> Option<()> {
    let spot = plan.any(12 * MINUTE)?;
    plan.listens(spot, state, port, program);
    plan.label(D15, spot, None);
    Some(())
}

fn opens_a_door(plan: &mut Planner<'_>) -> Option<()> {
    let pid = 9_000 + plan.next();
    opens(plan, 4_444, "added", &server(pid, 20_011))
}

fn opens_it_as_root(plan: &mut Planner<'_>) -> Option<()> {
    let pid = 9_000 + plan.next();
    let program = Program { pid, uid: 0, name: "dbus-broker-lau", path: "/usr/lib/.dbus/launch", ..Program::default() };
    let port = [53, 8_443, 31_337][plan.chance.below(3) as usize];
    opens(plan, port, "added", &program)
}

/// A port that is always open, and another program.
fn puts_another_behind_the_door(plan: &mut Planner<'_>) -> Option<()> {
    let pid = 9_000 + plan.next();
    let program = Program { pid, uid: 0, name: "sshd", path: "/usr/sbin/sshd", ..Program::default() };
    opens(plan, 22, "changed", &program)
}

fn listens_in_a_job(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, _, job) = plan.with_held(15 * MINUTE, |_, _, _| true)?;
    let pid = 9_000 + plan.next();
    let job = Some(plan.schedule.jobs[job].number.to_string());
    plan.listens(spot, "added", 8_888, &Program { job, ..server(pid, 20_011) });
    Some(())
}

fn listens_where_it_happens(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(15 * MINUTE)?;
    let pid = 9_000 + plan.next();
    plan.listens(spot, "added", 40_123, &server(pid, 20_012));
    Some(())
}

fn rolls_out_a_service(plan: &mut Planner<'_>) -> Option<()> {
    let (hosts, from) = plan.crowd(15 * MINUTE)?;
    let pid = 9_000 + plan.next();
    for host in hosts {
        plan.listens(Spot { host, from, to: from + 15 * MINUTE }, "added", 9_256, &server(pid, 0));
    }
    Some(())
}

fn listens_as_approved(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(15 * MINUTE)?;
    let program = server(9_000 + plan.next(), 0);
    plan.listens(spot, "added", 9_400, &program);
    plan.approve_on(spot.host, "listener", "9400", &program.sha256());
    Some(())
}

impl Planner<'_> {
    fn loads(
        &mut self,
        spot: Spot,
        name: &'static str,
        is_signed: bool,
        is_foreign: bool,
        hidden_from: Option<&'static str>,
    ) {
        let event = self
            .event("module", spot.host, spot.from)
            .with("module", name)
            .with("state", "added")
            .with("load_state", "live")
            .maybe("hidden_from", hidden_from)
            .with("size_bytes", 40_960_i64)
            .with("signed", is_signed)
            .with("out_of_tree", is_foreign)
            .with("proprietary", false);
        self.add(spot.host, event);
    }
}

fn changes_what_starts(plan: &mut Planner<'_>, path: &'static str, state: &'static str) -> Option<()> {
    let (spot, number) = (plan.any(12 * MINUTE)?, plan.next());
    plan.writes(spot.host, spot.from, path, state, 800 + number.unsigned_abs());
    plan.label(D17, spot, None);
    Some(())
}

fn loads_a_module(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(12 * MINUTE)?;
    plan.loads(spot, "netfilterd", false, true, None);
    plan.label(D17, spot, None);
    Some(())
}

fn hides_a_module(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(12 * MINUTE)?;
    plan.loads(spot, "diamorphine", false, true, Some("/proc/modules"));
    plan.label(D17, spot, None);
    Some(())
}

fn preloads_a_library(plan: &mut Planner<'_>) -> Option<()> {
    changes_what_starts(plan, "/etc/ld.so.preload", "added")
}

fn adds_a_unit(plan: &mut Planner<'_>) -> Option<()> {
    changes_what_starts(plan, "/etc/systemd/system/gpu-keeper.service", "added")
}

fn adds_a_cron_job(plan: &mut Planner<'_>) -> Option<()> {
    changes_what_starts(plan, "/var/spool/cron/crontabs/root", "changed")
}

fn loads_a_module_of_the_kernel_s(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(12 * MINUTE)?;
    plan.loads(spot, "nf_tables", true, false, None);
    Some(())
}

fn builds_its_driver_anew(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(20 * MINUTE)?;
    plan.announce(spot, "upgrade");
    plan.loads(spot, "nvidia_uvm", false, true, None);
    plan.writes(spot.host, spot.from + MINUTE, "/etc/modprobe.d/nvidia.conf", "changed", 610);
    Some(())
}

fn rolls_out_a_unit(plan: &mut Planner<'_>) -> Option<()> {
    let (hosts, from) = plan.crowd(15 * MINUTE)?;
    for host in hosts {
        plan.writes(host, from, "/etc/systemd/system/site-metrics.service", "added", 620);
    }
    Some(())
}

fn board(plan: &mut Planner<'_>, version: &'static str) -> Option<()> {
    let spot = plan.till_the_end(25 * MINUTE)?;
    plan.trick(spot, Trick::Bios(version));
    plan.label(D18, spot, None);
    Some(())
}

fn goes_back_to_an_old_board(plan: &mut Planner<'_>) -> Option<()> {
    board(plan, "4.19.02")
}

fn has_a_board_nobody_approved(plan: &mut Planner<'_>) -> Option<()> {
    board(plan, "4.30.00")
}

/// It was approved once, and is so still; it is older than what was there.
fn goes_back_though_approved(plan: &mut Planner<'_>) -> Option<()> {
    PRODUCTS.iter().for_each(|product| plan.approve("firmware", product, "4.20.03"));
    board(plan, "4.20.03")
}

/// Bought elsewhere, or written to: for as long as it has been there.
fn has_a_card_with_other_firmware(plan: &mut Planner<'_>) -> Option<()> {
    let (from, to) = (plan.options.from, plan.options.to);
    let host = plan.host(from, to, |_, _| true)?;
    let device = plan.chance.below(plan.world.hosts[host].devices.len() as u64) as usize;
    plan.all.firmware.push((host, device, "0.99.1"));
    plan.label(D18, Spot { host, from, to }, Some(device));
    Some(())
}

fn tries_an_approved_board(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.till_the_end(25 * MINUTE)?;
    PRODUCTS.iter().for_each(|product| plan.approve("firmware", product, "4.22.01"));
    plan.trick(spot, Trick::Bios("4.22.01"));
    Some(())
}

/// A version that is approved when it has stood the night.
fn is_upgraded_as_announced(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(40 * MINUTE)?;
    plan.announce(spot, "upgrade");
    plan.trick(spot, Trick::Bios("4.23.00"));
    Some(())
}
