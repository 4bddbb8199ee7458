//! Who somebody says they are: D5 and D6.
//!
//! What nobody has registered is so for as long as it is there; of what has two identities at once the times are short,
//! for both must be seen in turns.

use super::{Lay, Planner, Spot};
use crate::attacks::{Double, Trick};
use crate::chance::mix;
use crate::world::{HOUR, MINUTE};

/// Kinds of attack, by rule.
pub(super) const KINDS: &[&[Lay]] = &[
    &[has_a_card_nobody_knows, is_another_machine, is_registered_by_nobody],
    &[answers_beside_another, says_it_is_another, shows_a_card_of_another, is_copied_whole],
];

/// Near misses.
pub(super) const NEAR: &[Lay] = &[has_a_card_in_repair, is_installed_anew];

const D05: &str = "d05_unregistered_reporter";
const D06: &str = "d06_cloned_identity";

impl Planner<'_> {
    /// A host for all of the time, of which the registry says nothing later on.
    fn for_good(&mut self) -> Option<Spot> {
        let (from, to) = (self.options.from, self.options.to);
        let is_plain = |this: &Self, host: usize| {
            this.world.hosts[host].renamed.is_none() && this.world.hosts[host].cordoned.is_none()
        };
        let host = self.host(from, to, is_plain)?;
        Some(Spot { host, from, to })
    }

    /// Two hosts of the fleet for the same time.
    fn pair(&mut self, seconds: i64) -> Option<(Spot, usize)> {
        let spot = self.any(seconds)?;
        let other = self.host(spot.from, spot.to, |_, _| true)?;
        Some((spot, other))
    }

    /// The row of `host` that another machine writes, half a minute after each of its own.
    fn second_machine(&mut self, spot: Spot, machine_id: &str, boot: i64) {
        for at in (spot.from..spot.to).step_by(MINUTE as usize) {
            let event = self
                .event("host", spot.host, at + 30)
                .with("hostname", self.world.hosts[spot.host].name.clone())
                .with("machine_id", machine_id.to_owned())
                .with("os_id", "ubuntu")
                .with("os_version", "22.04")
                .with("virtualization", "none")
                .with("boot_time_seconds", boot);
            self.add(spot.host, event);
        }
    }
}

fn is_registered_by_nobody(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.for_good()?;
    plan.all.unregistered.push(spot.host);
    plan.label(D05, spot, None);
    Some(())
}

fn has_a_card_nobody_knows(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.for_good()?;
    let device = plan.chance.below(plan.world.hosts[spot.host].devices.len() as u64) as usize;
    plan.all.unregistered_devices.push((spot.host, device));
    plan.label(D05, spot, Some(device));
    Some(())
}

fn is_another_machine(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.for_good()?;
    plan.all.misregistered.push(spot.host);
    plan.label(D05, spot, None);
    Some(())
}

fn answers_beside_another(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(25 * MINUTE)?;
    let machine = format!("{:032x}", u128::from(mix(&[spot.host as u64, 121])));
    plan.second_machine(spot, &machine, spot.from - HOUR);
    plan.label(D06, spot, None);
    Some(())
}

/// The same disk in another machine: its identity is the same, and its kernel has started at another time.
fn is_copied_whole(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(25 * MINUTE)?;
    let machine = plan.world.hosts[spot.host].machine_id.clone();
    plan.second_machine(spot, &machine, spot.from - 20 * MINUTE);
    plan.label(D06, spot, None);
    Some(())
}

fn says_it_is_another(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, other) = plan.pair(25 * MINUTE)?;
    plan.trick(spot, Trick::Machine(other));
    plan.label(D06, spot, None);
    Some(())
}

fn shows_a_card_of_another(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, other) = plan.pair(25 * MINUTE)?;
    let device = plan.chance.below(plan.world.hosts[other].devices.len() as u64) as usize;
    plan.all.doubles.push(Double { host: other, device, shown_by: spot.host, from: spot.from, to: spot.to });
    plan.label(D06, spot, None);
    Some(())
}

/// Sent to its maker, and put into service before somebody wrote it down.
fn has_a_card_in_repair(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.for_good()?;
    plan.all.in_repair.push((spot.host, 0));
    Some(())
}

fn is_installed_anew(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.till_the_end(20 * MINUTE)?;
    plan.trick(spot, Trick::NewMachine);
    Some(())
}
