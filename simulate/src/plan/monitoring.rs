//! Blinding the monitor, and turning it: D8, D9, D10, D20.
//!
//! An agent that is stopped, a probe that is, rows that are taken and never arrive, clocks that are set so that what
//! happened seems to have happened at another time; and what is done to the monitoring itself by somebody who may:
//! settings, maintenance, approvals, rules.

use super::rows::hash;
use super::{Lay, Planner, Spot};
use crate::attacks::Trick;
use crate::events::time;
use crate::world::{DAY, HOUR, MINUTE};

/// Kinds of attack, by rule.
pub(super) const KINDS: &[&[Lay]] = &[
    &[stops_the_agent, stops_it_for_long],
    &[stops_a_probe, blinds_a_probe, withholds_connections, withholds_in_part, asks_rarely, withholds_cards],
    &[sets_the_clock_ahead, sets_it_back, sets_it_bit_by_bit, makes_it_run_faster, pulls_it_away],
    &[
        changes_settings,
        announces_for_long,
        announces_what_is_over,
        approves_everywhere,
        changes_how_long_rows_are_kept,
        changes_a_rule,
        stops_a_rule,
    ],
];

/// Near misses.
pub(super) const NEAR: &[Lay] = &[
    falls_silent_with_many,
    is_shut_down,
    is_silent_in_maintenance,
    has_declared_its_loss,
    loads_its_driver_anew,
    is_told_to_do_without,
    corrects_its_clock,
    rolls_out_settings,
    has_a_ticket,
    rewrites_its_own_settings,
];

const D08: &str = "d08_agent_silenced";
const D09: &str = "d09_selective_blinding";
const D10: &str = "d10_clock_tampering";
const D20: &str = "d20_monitoring_abuse";

fn silence(plan: &mut Planner<'_>, seconds: i64) -> Option<()> {
    let spot = plan.any(seconds)?;
    plan.trick(spot, Trick::Silence);
    plan.label(D08, spot, None);
    Some(())
}

fn stops_the_agent(plan: &mut Planner<'_>) -> Option<()> {
    silence(plan, 10 * MINUTE)
}

fn stops_it_for_long(plan: &mut Planner<'_>) -> Option<()> {
    silence(plan, 35 * MINUTE)
}

fn blind(plan: &mut Planner<'_>, trick: Trick) -> Option<()> {
    let spot = plan.any(30 * MINUTE)?;
    plan.trick(spot, trick);
    plan.label(D09, spot, None);
    Some(())
}

fn stops_a_probe(plan: &mut Planner<'_>) -> Option<()> {
    blind(plan, Trick::Mute("login"))
}

fn blinds_a_probe(plan: &mut Planner<'_>) -> Option<()> {
    blind(plan, Trick::Blind("connection"))
}

fn withholds_connections(plan: &mut Planner<'_>) -> Option<()> {
    blind(plan, Trick::Withhold("connection"))
}

fn withholds_cards(plan: &mut Planner<'_>) -> Option<()> {
    blind(plan, Trick::Withhold("accelerator"))
}

/// What an accelerator does, in every third minute alone.
fn withholds_in_part(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(30 * MINUTE)?;
    for from in (spot.from..spot.to).step_by(3 * MINUTE as usize) {
        plan.trick(Spot { from, to: from + MINUTE, ..spot }, Trick::Withhold("accelerator"));
    }
    plan.label(D09, spot, None);
    Some(())
}

fn asks_rarely(plan: &mut Planner<'_>) -> Option<()> {
    blind(plan, Trick::Rare("login", 60))
}

fn set(plan: &mut Planner<'_>, trick: Trick) -> Option<()> {
    let spot = plan.any(15 * MINUTE)?;
    plan.trick(spot, trick);
    plan.label(D10, spot, None);
    Some(())
}

fn sets_the_clock_ahead(plan: &mut Planner<'_>) -> Option<()> {
    set(plan, Trick::Clock(30.0))
}

fn sets_it_back(plan: &mut Planner<'_>) -> Option<()> {
    set(plan, Trick::Clock(-3_600.0))
}

fn makes_it_run_faster(plan: &mut Planner<'_>) -> Option<()> {
    set(plan, Trick::Tick(0.010_5))
}

fn pulls_it_away(plan: &mut Planner<'_>) -> Option<()> {
    set(plan, Trick::Skew(7.5))
}

/// By less at a time than anybody looks for; and it stays so.
fn sets_it_bit_by_bit(plan: &mut Planner<'_>) -> Option<()> {
    let seconds = 20 * MINUTE;
    let spot = plan.till_the_end(seconds)?;
    for step in 0..20 {
        let from = spot.from + step * MINUTE;
        let to = if step == 19 { spot.to } else { from + MINUTE };
        #[allow(clippy::cast_precision_loss, reason = "few steps")]
        plan.trick(Spot { from, to, ..spot }, Trick::Clock(-1.5 * (step + 1) as f64));
    }
    plan.label(D10, Spot { to: spot.from + seconds, ..spot }, None);
    Some(())
}

fn changes_settings(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.till_the_end(25 * MINUTE)?;
    plan.trick(spot, Trick::Configuration("00c0ffee00c0ffee"));
    plan.label(D20, spot, None);
    Some(())
}

/// A month for a whole node, from tomorrow.
fn announces_for_long(plan: &mut Planner<'_>) -> Option<()> {
    let (from, number) = (plan.when(25 * MINUTE)?, plan.next());
    let node = plan.world.hosts[plan.chance.below(plan.world.hosts.len() as u64) as usize].node;
    let entry = plan
        .entry("registry_maintenance", from, &plan.world.nodes[node].code, "", &format!("by-hand-{number}"))
        .with("maintenance", format!("REFIT-{number}"))
        .with("starts", time(plan.options.to + DAY))
        .with("ends", time(plan.options.to + 31 * DAY))
        .with("kind", "upgrade")
        .with("reason", "refit");
    plan.all.entries.push(entry);
    plan.node_label(D20, Some(node), from, from + 25 * MINUTE);
    Some(())
}

fn announces_what_is_over(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, number) = (plan.any(25 * MINUTE)?, plan.next());
    let row = &plan.world.hosts[spot.host];
    let code = &plan.world.nodes[row.node].code;
    let entry = plan
        .entry("registry_maintenance", spot.from, code, &row.name, &format!("by-hand-{number}"))
        .with("maintenance", format!("REPAIR-{number}"))
        .with("starts", time(spot.from - 40 * HOUR))
        .with("ends", time(spot.from - 30 * HOUR))
        .with("kind", "repair")
        .with("reason", "forgotten");
    plan.all.entries.push(entry);
    plan.label(D20, spot, None);
    Some(())
}

fn approves_everywhere(plan: &mut Planner<'_>) -> Option<()> {
    let (from, number) = (plan.when(25 * MINUTE)?, plan.next());
    let entry = plan
        .entry("registry_approved", from, "", "", &format!("by-hand-{number}"))
        .with("kind", "executable")
        .with("name", format!("/opt/.cache/helper-{number}"))
        .with("value", "*")
        .with("reason", "needed");
    plan.all.entries.push(entry);
    plan.node_label(D20, None, from, from + 25 * MINUTE);
    Some(())
}

/// On the host that keeps them.
fn changes_how_long_rows_are_kept(plan: &mut Planner<'_>) -> Option<()> {
    let (spot, number) = (plan.any(25 * MINUTE)?, plan.next());
    plan.writes(spot.host, spot.from, "/etc/nodescope/nodescope.toml", "changed", 700 + number.unsigned_abs());
    plan.label(D20, spot, None);
    Some(())
}

impl Planner<'_> {
    /// Runs of six rules of a site's own, every half hour: those that there were, and, from a moment on, what has
    /// become of one of them.
    fn runs_of_rules(&mut self, from: i64, of: &str, changed: Option<u64>) {
        for at in (from - 26 * HOUR..self.options.to).step_by(30 * MINUTE as usize) {
            for number in 0..6_u64 {
                let rule = format!("site_{of}_{number}");
                let is_after = number == 2 && at >= from;
                if is_after && changed.is_none() {
                    continue;
                }
                let definition = if is_after { changed.unwrap_or(number) } else { number };
                let event = crate::events::Event::new("schedule_run", at, "", "")
                    .with("rule", rule)
                    .with("window_microseconds", at * 1_000_000)
                    .with("revision", 0_i64)
                    .with("window_starts", time(at - 30 * MINUTE))
                    .with("window_ends", time(at))
                    .with("sink", "alert")
                    .with("state", "done")
                    .with("rows", 0_i64)
                    .with("definition", hash(1_000 + definition)[..16].to_owned());
                self.all.entries.push(event);
            }
        }
    }
}

fn changes_a_rule(plan: &mut Planner<'_>) -> Option<()> {
    let (from, number) = (plan.when(50 * MINUTE)?, plan.next());
    plan.runs_of_rules(from, &format!("door{number}"), Some(77));
    plan.node_label(D20, None, from, from + 50 * MINUTE);
    Some(())
}

fn stops_a_rule(plan: &mut Planner<'_>) -> Option<()> {
    let (from, number) = (plan.when(3 * HOUR)?, plan.next());
    plan.runs_of_rules(from, &format!("gate{number}"), None);
    plan.node_label(D20, None, from, from + 3 * HOUR);
    Some(())
}

/// A collector that lags, or a line that is down.
fn falls_silent_with_many(plan: &mut Planner<'_>) -> Option<()> {
    let (hosts, from) = plan.crowd(12 * MINUTE)?;
    for host in hosts {
        plan.trick(Spot { host, from, to: from + 12 * MINUTE }, Trick::Silence);
    }
    Some(())
}

fn is_shut_down(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(25 * MINUTE)?;
    plan.trick(spot, Trick::Off);
    Some(())
}

fn is_silent_in_maintenance(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(20 * MINUTE)?;
    plan.announce(spot, "upgrade");
    plan.trick(spot, Trick::Silence);
    Some(())
}

/// Its disk was full, and its spool says which rows are gone.
fn has_declared_its_loss(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(20 * MINUTE)?;
    plan.trick(spot, Trick::Withhold("connection"));
    for (number, at) in (0..).zip((spot.from..spot.to).step_by(MINUTE as usize)) {
        let event = plan
            .event("loss", spot.host, at + 30)
            .with("stage", "spool")
            .with("origin", format!("{}/{}", plan.world.hosts[spot.host].agent, 1))
            .with("first", 10_000 + number)
            .with("last", 10_000_i64 + number)
            .with("reason", "full")
            .with("records", 1_i64)
            .with("rows", 5_i64);
        plan.add(spot.host, event);
    }
    Some(())
}

fn loads_its_driver_anew(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(14 * MINUTE)?;
    plan.trick(spot, Trick::Mute("accelerator"));
    plan.trick(spot, Trick::Withhold("accelerator"));
    let vendor = plan.world.hosts[spot.host].model.vendor;
    for (number, at, kind) in [
        (-900_001_i64, spot.from + 1, "stalled"),
        (-900_002, spot.from + 8 * MINUTE, "crashed"),
        (-900_003, spot.to, "resumed"),
    ] {
        let event = plan
            .event("accelerator_event", spot.host, at)
            .with("vendor", vendor)
            .with("event", number)
            .with("at", time(at))
            .with("kind", kind)
            .with("source", "agent");
        plan.add(spot.host, event);
    }
    Some(())
}

fn is_told_to_do_without(plan: &mut Planner<'_>) -> Option<()> {
    let (hosts, from) = plan.crowd(30 * MINUTE)?;
    for host in hosts {
        plan.trick(Spot { host, from, to: from + 30 * MINUTE }, Trick::Mute("login"));
    }
    Some(())
}

/// Stepped by what keeps it, as after a leap.
fn corrects_its_clock(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.till_the_end(15 * MINUTE)?;
    plan.trick(spot, Trick::Clock(1.25));
    Some(())
}

fn rolls_out_settings(plan: &mut Planner<'_>) -> Option<()> {
    let (hosts, from) = plan.crowd(70 * MINUTE)?;
    for host in hosts {
        plan.trick(Spot { host, from, to: from + 70 * MINUTE }, Trick::Configuration("7d20b1e09a3c55f2"));
        plan.writes(host, from, "/etc/nodescope/nodescope.toml", "changed", 650);
    }
    Some(())
}

fn has_a_ticket(plan: &mut Planner<'_>) -> Option<()> {
    let (from, number) = (plan.when(25 * MINUTE)?, plan.next());
    let import = format!("ticket-{number}");
    let entry = plan
        .entry("registry_approved", from, "", "", &import)
        .with("kind", "executable")
        .with("name", format!("/opt/site/bin/tool-{number}"))
        .with("value", "*")
        .with("reason", "by ticket");
    plan.all.entries.push(entry);
    plan.approve("config", &format!("import:{import}"), "*");
    Some(())
}

/// One host tries what is to be rolled out, by ticket.
fn rewrites_its_own_settings(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.till_the_end(25 * MINUTE)?;
    plan.trick(spot, Trick::Configuration("31b4c9d2e8f0a766"));
    plan.writes(spot.host, spot.from, "/etc/nodescope/nodescope.toml", "changed", 651);
    plan.approve_on(spot.host, "config", "agent", "31b4c9d2e8f0a766");
    plan.approve_on(spot.host, "config", "/etc/nodescope/nodescope.toml", &hash(651));
    Some(())
}
