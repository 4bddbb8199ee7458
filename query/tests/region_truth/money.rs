//! Q19: what was held beside what was billed.

use std::collections::{BTreeMap, BTreeSet};

use nodescope_simulate::registry::{self, Bill, WEEK};
use nodescope_simulate::world::DAY;
use serde_json::{Value, json};

use crate::Answer;
use crate::held::Held;
use crate::region::Region;
use crate::store::{Row, row};

/// A time without a break in which a project held a device.
struct Stretch {
    project: &'static str,
    from: i64,
    to: i64,
    allocations: i64,
    ends_unknown: i64,
}

fn stretches(region: &Region, host: usize, device: usize) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    for held in region.held(host, device) {
        let project = region.fleet.schedule.jobs[held.job].project;
        let unknown = i64::from(held.is_end_unknown);
        // One job after the other, without a second between.
        match all.last_mut().filter(|last| last.project == project && held.from <= last.to) {
            Some(last) => {
                last.to = last.to.max(held.to);
                last.allocations += 1;
                last.ends_unknown += unknown;
            }
            None => {
                let Held { from, to, .. } = *held;
                all.push(Stretch { project, from, to, allocations: 1, ends_unknown: unknown });
            }
        }
    }
    all
}

#[derive(Default)]
struct Line {
    seconds: i64,
    devices: BTreeSet<(usize, usize)>,
    allocations: i64,
    ends_unknown: i64,
    billed: Option<f64>,
}

impl Line {
    fn add(&mut self, seconds: i64, of: (usize, usize), stretch: &Stretch) {
        self.seconds += seconds;
        self.devices.insert(of);
        self.allocations += stretch.allocations;
        self.ends_unknown += stretch.ends_unknown;
    }
}

/// Whole weeks of a bill, where one covers a moment: of this identifier and project.
type Bills<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a Bill>>;

pub fn metering(region: &Region) -> Answer {
    let fleet = &region.fleet;
    let start = fleet.world.options.start;
    let told = registry::bills(fleet, start, region.end);
    // Node, identifier, project, and the begin of what was billed.
    let mut lines: BTreeMap<(usize, String, &str, Option<i64>), Line> = BTreeMap::new();
    let mut bills: Bills<'_> = BTreeMap::new();
    for bill in told.iter().filter(|bill| bill.from >= region.now - 62 * DAY && bill.from + WEEK <= region.now) {
        bills.entry((&bill.identifier, bill.project)).or_default().push(bill);
        let line = lines.entry((bill.node, bill.identifier.clone(), bill.project, Some(bill.from))).or_default();
        line.billed = Some(bill.hours);
    }
    for (host, device) in region.devices() {
        let it = &fleet.world.hosts[host];
        // Under which identifier it stood, from when to when.
        let renamed = it.renamed.filter(|at| *at < region.end).unwrap_or(i64::MAX);
        let names = [(start, renamed), (renamed, i64::MAX)];
        for stretch in stretches(region, host, device) {
            for (from, to) in names {
                let (from, to) = (from.max(stretch.from), to.min(stretch.to));
                if from >= to {
                    continue;
                }
                let name = registry::identifier(fleet, host, device, from);
                let mut beside = to - from;
                for bill in bills.get(&(name.as_str(), stretch.project)).into_iter().flatten() {
                    let seconds = (bill.from + WEEK).min(to) - bill.from.max(from);
                    if seconds > 0 {
                        beside -= seconds;
                        let key = (it.node, name.clone(), stretch.project, Some(bill.from));
                        lines.entry(key).or_default().add(seconds, (host, device), &stretch);
                    }
                }
                if beside > 0 {
                    let key = (it.node, name, stretch.project, None);
                    lines.entry(key).or_default().add(beside, (host, device), &stretch);
                }
            }
        }
    }
    let expected: Vec<Row> = lines
        .into_iter()
        .map(|((node, identifier, project, begin), line)| {
            let metered = line.seconds as f64 / 3600.0;
            let difference = line.billed.map(|billed| metered - billed);
            let time = |at: Option<i64>| at.map_or(Value::Null, |at| Value::from(at * 1_000_000));
            row(json!({
                "node": fleet.world.nodes[node].code, "identifier": identifier, "project": project,
                "period_starts": time(begin), "period_ends": time(begin.map(|at| at + WEEK)),
                "metered_hours": metered, "billed_hours": line.billed, "difference_hours": difference,
                "difference_ratio": difference.zip(line.billed.filter(|b| *b > 0.0)).map(|(d, b)| d / b),
                "accelerators": line.devices.len(), "spans": line.allocations, "unknown_begins": 0,
                "unknown_ends": line.ends_unknown,
            }))
        })
        .collect();
    let key = &["node", "identifier", "project", "period_starts"];
    Answer::new("Q19", "SELECT * FROM metering", key, expected)
}
