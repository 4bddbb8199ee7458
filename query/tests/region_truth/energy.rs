//! What devices did in the last seven days: Q10 (energy), Q16 (slowed down), Q17 (vendors beside each other).

use std::collections::{BTreeMap, BTreeSet};

use nodescope_simulate::failures::Standing;
use nodescope_simulate::meters::{it_watts, pue};
use nodescope_simulate::world::{DAY, HOUR};
use serde_json::json;

use crate::Answer;
use crate::failures;
use crate::hours::seen;
use crate::numbers::interval;
use crate::region::Region;
use crate::store::{Row, row};

#[derive(Default, Clone, Copy)]
struct Spent {
    hours: f64,
    joules: Option<f64>,
    known_hours: f64,
    known_joules: Option<f64>,
    /// Operations, over 10^15.
    delivered: Option<f64>,
}

fn plus(sum: &mut Option<f64>, more: Option<f64>) {
    if let Some(more) = more {
        *sum = Some(sum.unwrap_or(0.0) + more);
    }
}

impl Spent {
    fn add(&mut self, other: &Self) {
        self.hours += other.hours;
        self.known_hours += other.known_hours;
        plus(&mut self.joules, other.joules);
        plus(&mut self.known_joules, other.known_joules);
        plus(&mut self.delivered, other.delivered);
    }
}

/// Energy of a node's models in seven days, for operations of a precision.
fn spent(region: &Region, precision: &str) -> BTreeMap<(usize, &'static str, &'static str), Spent> {
    let mut models: BTreeMap<_, Spent> = BTreeMap::new();
    for (host, device) in region.devices() {
        let it = &region.fleet.world.hosts[host];
        let tells = it.model.tells;
        let figure = it.model.capacities().into_iter().find(|(p, sparsity, _)| *p == precision && *sparsity == "dense");
        for hour in region.hours(region.now - 7 * DAY) {
            let told = region.hour(host, device, hour);
            if told.rows == 0 {
                continue;
            }
            let observed = seen(region, told.rows, HOUR);
            let joules = told.grown.filter(|_| tells.energy).map(|grown| grown.joules);
            let core = tells.activity.then(|| told.core / told.rows as f64);
            let known = joules.zip(core).zip(figure).map(|((joules, core), (_, _, flops))| (joules, core, flops));
            models.entry((it.node, it.model.vendor, it.model.name)).or_default().add(&Spent {
                hours: observed,
                joules,
                known_hours: if known.is_some() { observed } else { 0.0 },
                known_joules: known.map(|(joules, ..)| joules),
                delivered: known.map(|(_, core, flops)| core * observed * flops / 1e15),
            });
        }
    }
    models
}

/// Kilowatt-hours of a node's machines and of its whole site, by meters that were read all the time; `None` where they were
/// not.
fn metered(region: &Region, node: usize) -> Option<[f64; 2]> {
    let fleet = &region.fleet;
    let (reader, _) = region.hosts().find(|(_, host)| host.node == node)?;
    let hours: Vec<i64> = region.hours(region.now - 7 * DAY).collect();
    // From the row before the first hour to the last row.
    let every = region.every("sensor");
    let (from, to) = (hours[0] - every, hours[hours.len() - 1] + HOUR - every);
    let is_read = (from..to).step_by(10).all(|at| fleet.lives[reader].standing(at) == Standing::Up);
    let mut joules = [0.0; 2];
    for hour in (from.div_euclid(HOUR) * HOUR..to).step_by(HOUR as usize) {
        let seconds = (to.min(hour + HOUR) - from.max(hour)) as f64;
        let watts = it_watts(fleet, node, hour);
        joules[0] += watts * seconds;
        joules[1] += (watts * pue(fleet, node, hour)).round() * seconds;
    }
    is_read.then(|| joules.map(|joules| joules / 3.6e6))
}

pub fn efficiency(region: &Region) -> Vec<Answer> {
    let of = |precision: &str, sql: String| {
        let models = spent(region, precision);
        let mut nodes: BTreeMap<usize, Spent> = BTreeMap::new();
        models.iter().for_each(|((node, ..), spent)| nodes.entry(*node).or_default().add(spent));
        let metered: BTreeMap<usize, Option<[f64; 2]>> =
            nodes.keys().map(|node| (*node, metered(region, *node))).collect();
        assert!(metered.values().any(Option::is_some), "no node's meters were read all the time");
        let line = |node: usize, model: Option<(&str, &str)>, spent: &Spent| -> Row {
            let each = spent.known_joules.zip(spent.delivered.filter(|delivered| *delivered > 0.0));
            let mut line = row(json!({
                "node": region.fleet.world.nodes[node].code, "vendor": model.map(|m| m.0),
                "model": model.map(|m| m.1), "precision": precision, "accelerator_hours": spent.hours,
                "known_ratio": spent.known_hours / spent.hours,
                "accelerator_kwh": spent.joules.map(|joules| joules / 3.6e6),
                "delivered_pflop_hours": spent.delivered,
                "kwh_per_pflop_hour": each.map(|(joules, delivered)| joules / 3.6e6 / delivered),
            }));
            if let Some([it, facility]) = metered[&node] {
                let is_whole = model.is_none() && spent.known_hours >= 0.99 * spent.hours;
                let delivered = spent.delivered.filter(|delivered| is_whole && *delivered > 0.0);
                line.extend(row(json!({
                    "it_kwh": it, "facility_kwh": facility, "pue": facility / it,
                    "facility_kwh_per_pflop_hour": delivered.map(|delivered| facility / delivered),
                })));
            }
            line
        };
        let expected = models
            .iter()
            .map(|((node, vendor, model), spent)| line(*node, Some((vendor, model)), spent))
            .chain(nodes.iter().map(|(node, spent)| line(*node, None, spent)))
            .collect();
        Answer::new("Q10", &sql, &["node", "vendor", "model"], expected)
    };
    let int8 = "SELECT * FROM energy_efficiency(now() - INTERVAL '7 days', now(), 'int8')".to_owned();
    vec![of("fp16", "SELECT * FROM energy_efficiency".to_owned()), of("int8", int8)]
}

pub fn throttled(region: &Region) -> Answer {
    struct Line {
        slowed: Option<f64>,
        hours: f64,
        counted: f64,
        hosts: BTreeSet<usize>,
    }
    let mut lines: BTreeMap<(usize, &str, &str), Line> = BTreeMap::new();
    for (host, device) in region.devices() {
        let it = &region.fleet.world.hosts[host];
        for hour in region.hours(region.now - 7 * DAY) {
            let told = region.hour(host, device, hour);
            if told.rows == 0 {
                continue;
            }
            let observed = seen(region, told.rows, HOUR);
            let grown = told.grown.filter(|_| it.model.tells.throttling);
            let reasons = [("thermal", grown.map(|g| g.slowed)), ("power", grown.map(|g| g.capped)), ("other", None)];
            for (reason, seconds) in reasons {
                let none = Line { slowed: None, hours: 0.0, counted: 0.0, hosts: BTreeSet::new() };
                let line = lines.entry((it.node, &it.rack, reason)).or_insert(none);
                line.hours += observed;
                line.hosts.insert(host);
                plus(&mut line.slowed, seconds);
                line.counted += seconds.map_or(0.0, |_| observed);
            }
        }
    }
    let expected = lines
        .into_iter()
        .map(|((node, rack, reason), line)| {
            row(json!({
                "node": region.fleet.world.nodes[node].code, "rack": rack, "reason": reason,
                "throttled_hours": line.slowed.map(|seconds| seconds / 3600.0), "accelerator_hours": line.hours,
                "counted_hours": line.counted,
                "throttled_ratio": line.slowed.map(|seconds| seconds / 3600.0 / line.counted),
                "hosts": line.hosts.len(),
            }))
        })
        .collect();
    Answer::new("Q16", "SELECT * FROM throttled_hours", &["node", "rack", "reason"], expected)
}

#[derive(Default)]
struct Used {
    devices: BTreeSet<(usize, usize)>,
    hours: f64,
    /// Utilisation, core and tensor activity: weighted sum and weight.
    ratios: [(f64, f64); 3],
    joules: Option<f64>,
    counted: f64,
    failures: u64,
}

pub fn vendors(region: &Region) -> Vec<Answer> {
    let from = region.now - 7 * DAY;
    let fleet = &region.fleet;
    let failures: Vec<_> = failures::counted(region, from).into_iter().filter(|failure| failure.is_first).collect();
    let mut used: BTreeMap<(&str, &str), Used> = BTreeMap::new();
    for (host, device) in region.devices() {
        let model = fleet.world.hosts[host].model;
        let its: Vec<_> = failures.iter().filter(|f| (f.host, f.device) == (host, device)).collect();
        for held in region.held(host, device).iter().filter(|held| held.to > from) {
            let project = fleet.schedule.jobs[held.job].project;
            let used = used.entry((project, model.vendor)).or_default();
            // What ends a job, it had.
            used.failures += its.iter().filter(|f| held.from < f.at && f.at <= held.to).count() as u64;
            for hour in region.hours(from.div_euclid(HOUR) * HOUR) {
                let seconds = (hour + HOUR).min(held.to) - hour.max(held.from).max(from);
                let told = region.hour(host, device, hour);
                if seconds <= 0 || told.rows == 0 {
                    continue;
                }
                let (overlap, rows) = (seconds as f64 / 3600.0, told.rows as f64);
                let weight = overlap * seen(region, told.rows, HOUR);
                used.devices.insert((host, device));
                used.hours += weight;
                let mut add = |at: usize, is_told: bool, sum: f64| {
                    if is_told {
                        used.ratios[at].0 += sum / rows * weight;
                        used.ratios[at].1 += weight;
                    }
                };
                add(0, true, told.utilization);
                add(1, model.tells.activity, told.core);
                add(2, model.tells.activity, told.tensor);
                if let Some(grown) = told.grown.filter(|_| model.tells.energy) {
                    plus(&mut used.joules, Some(grown.joules * overlap));
                    used.counted += weight;
                }
            }
        }
    }
    // Who held nothing that reported has no line.
    used.retain(|_, used| !used.devices.is_empty());
    let (mut lines, mut bounds): (Vec<Row>, Vec<Row>) = Default::default();
    for ((project, vendor), its) in &used {
        let ratio = |at: usize| (its.ratios[at].1 > 0.0).then(|| its.ratios[at].0 / its.ratios[at].1);
        let rate = |count: f64| 24_000.0 * count / its.hours;
        let kwh = its.joules.map(|joules| joules / 3.6e6);
        lines.push(row(json!({
            "project": project, "vendor": vendor,
            "vendors": used.keys().filter(|(other, _)| other == project).count(), "accelerators": its.devices.len(),
            "accelerator_hours": its.hours, "utilization_ratio": ratio(0), "core_active_ratio": ratio(1),
            "tensor_active_ratio": ratio(2), "energy_kwh": kwh,
            "kwh_per_accelerator_hour": kwh.map(|kwh| kwh / its.counted), "failures": its.failures,
            "failures_per_1000_days": rate(its.failures as f64),
        })));
        let (low, high) = interval(its.failures);
        bounds.push(row(json!({ "project": project, "vendor": vendor, "failures_low": rate(low),
            "failures_high": rate(high) })));
    }
    let answer = |expected| Answer::new("Q17", "SELECT * FROM vendor_comparison", &["project", "vendor"], expected);
    // As of failures alone.
    vec![answer(lines), answer(bounds).within(0.002)]
}
