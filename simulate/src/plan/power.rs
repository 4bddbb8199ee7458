//! Power and heat turned against the machines: D19. It takes several hosts at once, so it is laid first.

use super::{Lay, Planner, Spot};
use crate::attacks::{Act, Trick};
use crate::world::MINUTE;

/// Kinds of attack, by rule.
pub(super) const KINDS: &[&[Lay]] =
    &[&[lowers_all_limits, switches_off_many, stops_the_fans_of_a_rack, lowers_one_limit, raises_a_limit]];

/// Near misses.
pub(super) const NEAR: &[Lay] =
    &[caps_as_approved, caps_as_announced, switches_off_as_announced, loses_the_feed_of_a_rack, is_slowed_by_warm_air];

const D19: &str = "d19_power_or_heat_sabotage";

/// Hosts that are switched off together.
const TOGETHER: usize = 6;

fn limit(plan: &mut Planner<'_>, seconds: i64, share: f64, all: bool) -> Option<Spot> {
    let spot = plan.any(seconds)?;
    let row = &plan.world.hosts[spot.host];
    let (watts, devices) = ((row.model.limit_watts * share).round(), row.devices.len());
    for device in 0..if all { devices } else { 1 } {
        plan.lay(spot, device, Act::Limit(watts));
    }
    Some(spot)
}

fn lowers_all_limits(plan: &mut Planner<'_>) -> Option<()> {
    let spot = limit(plan, 20 * MINUTE, 0.45, true)?;
    for device in 0..plan.world.hosts[spot.host].devices.len() {
        plan.label(D19, spot, Some(device));
    }
    Some(())
}

fn lowers_one_limit(plan: &mut Planner<'_>) -> Option<()> {
    let spot = limit(plan, 20 * MINUTE, 0.85, false)?;
    plan.label(D19, spot, Some(0));
    Some(())
}

/// More than the board is cooled for.
fn raises_a_limit(plan: &mut Planner<'_>) -> Option<()> {
    let spot = limit(plan, 20 * MINUTE, 1.15, false)?;
    plan.label(D19, spot, Some(0));
    Some(())
}

impl Planner<'_> {
    /// Hosts of one node, enough to be no accident.
    fn together(&mut self, seconds: i64) -> Option<(Vec<usize>, i64)> {
        self.group(seconds, |_, _, calm| if calm.len() >= TOGETHER { calm[..TOGETHER].to_vec() } else { Vec::new() })
    }

    /// A whole rack that is calm, of enough devices whose driver says what slows them down.
    fn rack(&mut self, seconds: i64) -> Option<(Vec<usize>, i64)> {
        self.group(seconds, |this, _, calm| {
            let of = |rack: &str| -> Vec<usize> {
                (0..this.world.hosts.len()).filter(|h| this.world.hosts[*h].rack == rack).collect()
            };
            let is_fit = |hosts: &[usize]| {
                let devices: usize = hosts.iter().map(|h| this.world.hosts[*h].devices.len()).sum();
                devices >= 8 && hosts.iter().all(|h| calm.contains(h) && this.world.hosts[*h].model.tells.throttling)
            };
            calm.iter().map(|h| of(&this.world.hosts[*h].rack)).find(|hosts| is_fit(hosts)).unwrap_or_default()
        })
    }

    /// Some of a rack's hosts have one device after the other slowed down.
    fn slow(&mut self, spot: Spot) {
        for device in 0..self.world.hosts[spot.host].devices.len() {
            self.lay(spot, device, Act::Throttle);
        }
    }

    fn off(&mut self, hosts: &[usize], from: i64, seconds: i64) {
        for (number, host) in hosts.iter().enumerate() {
            let from = from + number as i64 / 2 * MINUTE;
            self.trick(Spot { host: *host, from, to: from + seconds }, Trick::Off);
        }
    }
}

fn switches_off_many(plan: &mut Planner<'_>) -> Option<()> {
    let (hosts, from) = plan.together(30 * MINUTE)?;
    plan.off(&hosts, from, 20 * MINUTE);
    let node = plan.world.hosts[hosts[0]].node;
    plan.node_label(D19, Some(node), from, from + 30 * MINUTE);
    Some(())
}

fn stops_the_fans_of_a_rack(plan: &mut Planner<'_>) -> Option<()> {
    let (hosts, from) = plan.rack(25 * MINUTE)?;
    let to = from + 25 * MINUTE;
    hosts.iter().for_each(|host| plan.slow(Spot { host: *host, from, to }));
    let node = plan.world.hosts[hosts[0]].node;
    plan.node_label(D19, Some(node), from, to);
    Some(())
}

fn caps_as_approved(plan: &mut Planner<'_>) -> Option<()> {
    let spot = limit(plan, 40 * MINUTE, 0.75, true)?;
    let model = plan.world.hosts[spot.host].model;
    let watts = [model.limit_watts, (model.limit_watts * 0.75).round()];
    watts.iter().for_each(|watts| plan.approve_on(spot.host, "power_limit", model.name, &format!("{watts:.0}")));
    Some(())
}

fn caps_as_announced(plan: &mut Planner<'_>) -> Option<()> {
    let spot = limit(plan, 40 * MINUTE, 0.6, true)?;
    plan.announce(spot, "upgrade");
    Some(())
}

fn switches_off_as_announced(plan: &mut Planner<'_>) -> Option<()> {
    let (hosts, from) = plan.together(40 * MINUTE)?;
    for host in &hosts {
        plan.announce(Spot { host: *host, from, to: from + 40 * MINUTE }, "upgrade");
    }
    plan.off(&hosts, from, 25 * MINUTE);
    Some(())
}

/// A distributor of current fails: one supply of each host says so before the host stops.
fn loses_the_feed_of_a_rack(plan: &mut Planner<'_>) -> Option<()> {
    let (hosts, from) = plan.together(30 * MINUTE)?;
    let racks: Vec<String> = hosts.iter().map(|host| plan.world.hosts[*host].rack.clone()).collect();
    for host in 0..plan.world.hosts.len() {
        if !racks.contains(&plan.world.hosts[host].rack) {
            continue;
        }
        for at in (from - 2 * MINUTE..from + 25 * MINUTE).step_by(10) {
            let event = plan
                .event("power", host, at)
                .with("source", "power_supply")
                .with("domain", "PSU2")
                .with("power_supply", "PSU2")
                .with("online", false);
            plan.add(host, event);
        }
    }
    plan.off(&hosts, from, 20 * MINUTE);
    Some(())
}

fn is_slowed_by_warm_air(plan: &mut Planner<'_>) -> Option<()> {
    let (hosts, from) = plan.rack(25 * MINUTE)?;
    for host in hosts {
        let spot = Spot { host, from, to: from + 25 * MINUTE };
        plan.slow(spot);
        plan.trick(spot, Trick::Warm(16.0));
    }
    Some(())
}
