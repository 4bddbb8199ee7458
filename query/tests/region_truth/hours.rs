//! Hours: Q2 (how much is used), Q11 (what waits beside what is free), Q18 (when a pool is full).

use std::collections::BTreeMap;

use nodescope_simulate::world::{DAY, HOUR};
use serde_json::json;

use crate::Answer;
use crate::numbers::{Line, student};
use crate::region::Region;
use crate::store::{Row, row};

#[derive(Default)]
struct Used {
    registered: i64,
    known: i64,
    held: f64,
    /// Busy, busy while held, core active: weighted sum and weight.
    ratios: [(f64, f64); 3],
}

pub fn utilization(region: &Region) -> Answer {
    let mut lines: BTreeMap<(i64, usize), Used> = BTreeMap::new();
    for (host, device) in region.devices() {
        let it = &region.fleet.world.hosts[host];
        for hour in region.hours(region.now - 7 * DAY) {
            let used = lines.entry((hour, it.node)).or_default();
            used.registered += 1;
            let told = region.hour(host, device, hour);
            if told.rows == 0 {
                continue;
            }
            let (rows, held) = (told.rows as f64, region.held_seconds(host, device, hour, hour + HOUR) as f64);
            used.known += 1;
            used.held += held;
            let mut add = |at: usize, sum: f64, weight: f64| {
                used.ratios[at].0 += sum;
                used.ratios[at].1 += weight;
            };
            add(0, told.busy, rows);
            add(1, told.busy / rows * held, held);
            if it.model.tells.activity {
                add(2, told.core, rows);
            }
        }
    }
    let expected = lines
        .into_iter()
        .map(|((hour, node), used)| {
            let ratio = |at: usize| (used.ratios[at].1 > 0.0).then(|| used.ratios[at].0 / used.ratios[at].1);
            row(json!({
                "ts": hour * 1_000_000, "node": region.fleet.world.nodes[node].code,
                "registered_accelerators": used.registered, "known_accelerators": used.known,
                "unknown_ratio": 1.0 - used.known as f64 / used.registered as f64,
                "allocated_ratio": (used.known > 0).then(|| used.held / (3600.0 * used.known as f64)),
                "busy_ratio": ratio(0), "busy_when_allocated_ratio": ratio(1), "core_active_ratio": ratio(2),
            }))
        })
        .collect();
    Answer::new("Q2", "SELECT * FROM utilization_hourly", &["ts", "node"], expected)
}

/// What waited on a fabric in an hour.
#[derive(Default)]
struct Waited {
    looks: f64,
    pending: f64,
    running: f64,
    backlog: f64,
    oldest: Option<i64>,
}

/// What was there to be had of a model on a node in an hour, and what of it was held: hours, as far as rows came.
fn supply(region: &Region, node: usize, model: &str, hour: i64) -> Option<(f64, f64)> {
    let mut sum: Option<(f64, f64)> = None;
    for (host, it) in region.hosts().filter(|(_, it)| it.node == node && it.model.name == model) {
        if region.is_cordoned(host, hour) {
            continue;
        }
        for device in 0..it.devices.len() {
            let rows = region.hour(host, device, hour).rows;
            if rows > 0 {
                let observed = seen(region, rows, HOUR);
                let held = region.held_seconds(host, device, hour, hour + HOUR) as f64 / 3600.0;
                let (fitting, taken) = sum.unwrap_or_default();
                sum = Some((fitting + observed, taken + observed.min(held)));
            }
        }
    }
    sum
}

/// Part of a time of which rows came.
pub fn seen(region: &Region, rows: i64, length: i64) -> f64 {
    rows as f64 * region.every("accelerator") as f64 / length as f64
}

pub fn demand_gap(region: &Region) -> Answer {
    let fleet = &region.fleet;
    let mut lines: BTreeMap<(i64, usize, &str), Waited> = BTreeMap::new();
    let from = region.now - DAY;
    for look in fleet.schedule.demand.iter().filter(|look| from <= look.at && look.at < region.end) {
        let waited = lines.entry((look.at.div_euclid(HOUR) * HOUR, look.fabric, look.class)).or_default();
        waited.looks += 1.0;
        waited.pending += look.pending_accelerators as f64;
        waited.running += look.running_accelerators as f64;
        // Schedulers tell multiples of 1/1024; the last of the hour counts.
        waited.backlog = (look.pending_hours * 1024.0).round() / 1024.0;
        waited.oldest = waited.oldest.max(look.oldest_wait);
    }
    let known: Vec<i64> = region.hours(from).collect();
    let expected = lines
        .into_iter()
        .map(|((hour, fabric, class), waited)| {
            let fabric = &fleet.world.fabrics[fabric];
            let pending = waited.pending / waited.looks;
            let supply = known.contains(&hour).then(|| supply(region, fabric.node, fabric.model.name, hour)).flatten();
            let free = supply.map(|(fitting, held)| fitting - held);
            row(json!({
                "hour": hour * 1_000_000, "node": fleet.world.nodes[fabric.node].code,
                "scheduler": format!("slurm-{}", fabric.name), "class": class, "vendor": fabric.model.vendor,
                "model": fabric.model.name, "pending_accelerator_hours": pending,
                "running_accelerator_hours": waited.running / waited.looks,
                "backlog_accelerator_hours": waited.backlog,
                "oldest_wait_seconds": waited.oldest.map(|oldest| oldest as f64),
                "fitting_accelerator_hours": supply.map(|s| s.0), "held_accelerator_hours": supply.map(|s| s.1),
                "free_accelerator_hours": free, "gap_accelerator_hours": free.map(|free| pending - free),
            }))
        })
        .collect();
    Answer::new("Q11", "SELECT * FROM demand_gap", &["hour", "node", "scheduler", "class"], expected)
}

pub fn forecast(region: &Region) -> Vec<Answer> {
    let today = region.now.div_euclid(DAY) * DAY;
    let first = (region.now - 28 * DAY).div_euclid(DAY) * DAY;
    // By host: of each day, hours seen in service, and held.
    let by_host = region.each_host(|host| {
        let mut days: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
        for device in 0..region.devices_of(host) {
            for day in (first..today).step_by(DAY as usize) {
                let hours = (0..24).map(|hour| day + hour * HOUR).filter(|hour| !region.is_cordoned(host, *hour));
                let rows: i64 = hours.map(|hour| region.rows_of(host, device, hour, hour + HOUR)).sum();
                if rows > 0 {
                    let seen = seen(region, rows, HOUR);
                    let held = region.held_seconds(host, device, day, day + DAY) as f64 / 3600.0;
                    let sum = days.entry(day).or_default();
                    *sum = (sum.0 + seen, sum.1 + seen.min(held));
                }
            }
        }
        days
    });
    let mut pools: BTreeMap<(usize, &str, &str), BTreeMap<i64, (f64, f64)>> = BTreeMap::new();
    for ((_, it), days) in region.hosts().zip(by_host) {
        let pool = pools.entry((it.node, it.model.vendor, it.model.name)).or_default();
        for (day, (seen, held)) in days {
            let sum = pool.entry(day).or_default();
            *sum = (sum.0 + seen, sum.1 + held);
        }
    }
    let (mut shares, mut lines, mut bands): (Vec<Row>, Vec<Row>, Vec<Row>) = Default::default();
    for ((node, vendor, model), days) in pools.iter().filter(|(_, days)| !days.is_empty()) {
        let points: Vec<(f64, f64)> = days
            .iter()
            .map(|(day, (seen, held))| ((day + DAY / 2 - today) as f64 / (7 * DAY) as f64, held / seen))
            .collect();
        let line = Line::through(&points);
        assert!(points.len() >= 5, "a pool has days enough for a band");
        let (now, t) = (line.edge(0.0, 0.0), student(line.n - 2.0));
        let rises = line.slope > 0.0;
        let weeks = if now >= 1.0 { Some(0.0) } else { rises.then(|| line.x + (1.0 - line.y) / line.slope) };
        let name = json!({ "node": region.fleet.world.nodes[*node].code, "vendor": vendor, "model": model });
        let named = |more: serde_json::Value| -> Row { row(name.clone()).into_iter().chain(row(more)).collect() };
        let last = days.values().last().expect("a day");
        shares.push(named(json!({ "days": points.len(), "accelerators": last.0 / 24.0, "share_mean": line.y,
            "share_now": now.clamp(0.0, 1.0) })));
        lines.push(named(json!({ "share_per_week": line.slope, "fit_r2": line.r2, "weeks": weeks })));
        // The later edge counts where the line rises for sure; the earlier is asked for where it rises at all.
        let mut band = named(json!({ "weeks_high": line.reaches(-t).filter(|_| line.rises(t)) }));
        if rises {
            band.insert("weeks_low".to_owned(), json!(line.reaches(t)));
        }
        bands.push(band);
    }
    let answer = |expected| Answer::new("Q18", "SELECT * FROM pool_forecast", &["node", "vendor", "model"], expected);
    // Student's t of the server is right to 0.3 %.
    vec![answer(shares), answer(lines).within(1e-7), answer(bands).within(0.02)]
}
