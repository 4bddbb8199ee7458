//! Q14: ranks that hold up their job.

use std::collections::{BTreeMap, BTreeSet};

use nodescope_simulate::failures::Standing;
use nodescope_simulate::jobs::{Job, Work};
use nodescope_simulate::told::{rank_of, step_seconds};
use nodescope_simulate::world::{HOUR, MINUTE};
use serde_json::{Value, json};

use crate::Answer;
use crate::numbers::percentile;
use crate::region::Region;
use crate::store::{Row, row};

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    percentile(&values.collect::<Vec<_>>(), 0.5)
}

/// Whether a job tells of its steps: training on eight accelerators or more does.
fn tells(job: &Job) -> bool {
    job.work == Work::Training && job.accelerators >= 8
}

/// Ranks that told of their steps: every minute, and of raw time alone.
fn by_progress(region: &Region) -> BTreeMap<usize, Vec<Row>> {
    struct Rank {
        host: usize,
        device: usize,
        rank: usize,
        steps: BTreeSet<i64>,
        each: Vec<f64>,
        waits: Vec<f64>,
        works: Vec<f64>,
    }
    let mut jobs: BTreeMap<usize, Vec<Rank>> = BTreeMap::new();
    for (host, device) in region.devices() {
        for its in &region.fleet.schedule.uses[host][device] {
            let job = &region.fleet.schedule.jobs[its.job];
            let first = its.from.max(region.now - HOUR).max(region.raw - 1).div_euclid(MINUTE) + 1;
            let times = (first..).map(|minute| minute * MINUTE).take_while(|at| *at < its.to.min(region.end));
            let told: Vec<i64> = times.filter(|at| region.fleet.lives[host].standing(*at) == Standing::Up).collect();
            let Some(rank) = rank_of(job, host, device).filter(|_| tells(job) && !told.is_empty()) else { continue };
            let (mut each, mut waits, mut works, mut steps) = (vec![], vec![], vec![], BTreeSet::new());
            for at in told {
                // A rank works as long as it works, and waits for the slowest.
                let (own, step) = step_seconds(job, rank, at);
                let wait = ((step - own) * 1024.0).round() / 1024.0;
                steps.insert(((at - its.from) as f64 / step) as i64);
                each.push(step);
                waits.push(wait);
                works.push(step - wait);
            }
            jobs.entry(its.job).or_default().push(Rank { host, device, rank, steps, each, waits, works });
        }
    }
    let lines = |ranks: &Vec<Rank>, job: &Job| -> Vec<Row> {
        let middle = median(ranks.iter().filter_map(|rank| mean(&rank.works)));
        let foremost = ranks.iter().filter_map(|rank| rank.steps.last()).max().copied();
        let mut order: Vec<&Rank> = ranks.iter().collect();
        order.sort_by(|a, b| {
            let work = |rank: &Rank| mean(&rank.works).unwrap_or(-1.0);
            work(b)
                .total_cmp(&work(a))
                .then_with(|| a.steps.last().cmp(&b.steps.last()))
                .then_with(|| a.rank.cmp(&b.rank))
        });
        let line = |(place, rank): (usize, &Rank)| {
            let it = &region.fleet.world.hosts[rank.host];
            let work = mean(&rank.works);
            row(json!({
                "node": region.node(rank.host), "job": job.number.to_string(), "basis": "progress", "rank": rank.rank,
                "host": it.name, "device": it.devices[rank.device].id, "place": place + 1, "ranks": ranks.len(),
                "steps": rank.steps.len(), "step_seconds": mean(&rank.each), "wait_seconds": mean(&rank.waits),
                "work_seconds": work, "median_work_seconds": middle,
                "slowness_ratio": work.zip(middle).map(|(work, middle)| work / middle),
                "steps_behind": foremost.zip(rank.steps.last()).map(|(foremost, step)| foremost - step),
                "core_active_ratio": null, "median_core_active_ratio": null, "activity_ratio": null,
            }))
        };
        order.into_iter().enumerate().map(line).collect()
    };
    jobs.into_iter().map(|(job, ranks)| (job, lines(&ranks, &region.fleet.schedule.jobs[job]))).collect()
}

/// Share of cores that worked in the whole minutes of a time, each minute counting as much as another; and whether there
/// was such a minute at all.
fn activity(region: &Region, host: usize, device: usize, from: i64, to: i64) -> (bool, Option<f64>) {
    let every = region.every("accelerator");
    let told: Vec<_> = (from.div_euclid(MINUTE)..)
        .map(|minute| minute * MINUTE)
        .take_while(|at| at + MINUTE <= to)
        .filter(|at| *at >= from)
        .map(|at| region.fleet.device_rows(host, device, every, at, at + MINUTE))
        .filter(|told| told.rows > 0)
        .collect();
    let tells = region.fleet.world.hosts[host].model.tells.activity;
    let each: Vec<f64> = told.iter().filter(|_| tells).map(|told| told.core / told.rows as f64).collect();
    (!told.is_empty(), mean(&each))
}

pub fn stragglers(region: &Region) -> Answer {
    let progress = by_progress(region);
    // Accelerators of jobs that told nothing.
    let mut silent: BTreeMap<usize, Vec<(usize, usize, Option<f64>)>> = BTreeMap::new();
    for (host, device) in region.devices() {
        for held in region.held(host, device).iter().filter(|held| !progress.contains_key(&held.job)) {
            let (from, to) = (held.from.max(region.now - HOUR), held.to.min(region.end));
            let (is_there, active) = activity(region, host, device, from, to);
            if is_there {
                silent.entry(held.job).or_default().push((host, device, active));
            }
        }
    }
    let mut expected: Vec<Row> = progress.into_values().flatten().collect();
    for (job, its) in &silent {
        let middle = median(its.iter().filter_map(|(.., active)| *active));
        let far = |active: Option<f64>| active.zip(middle).map(|(active, middle)| (active - middle).abs());
        let name = |host: usize, device: usize| {
            let it = &region.fleet.world.hosts[host];
            (it.name.as_str(), it.devices[device].id.as_str())
        };
        let mut order = its.clone();
        order.sort_by(|a, b| {
            far(b.2)
                .unwrap_or(-1.0)
                .total_cmp(&far(a.2).unwrap_or(-1.0))
                .then_with(|| name(a.0, a.1).cmp(&name(b.0, b.1)))
        });
        let places: Vec<Option<f64>> = order.iter().map(|(.., active)| far(*active)).collect();
        for (place, (host, device, active)) in order.iter().enumerate() {
            let (named, id) = name(*host, *device);
            let mut line = row(json!({
                "node": region.node(*host), "job": region.fleet.schedule.jobs[*job].number.to_string(),
                "basis": "core_active", "rank": null, "host": named, "device": id, "ranks": its.len(), "steps": null,
                "step_seconds": null, "wait_seconds": null, "work_seconds": null, "median_work_seconds": null,
                "slowness_ratio": null, "steps_behind": null, "core_active_ratio": active,
                "median_core_active_ratio": middle,
                "activity_ratio": active.zip(middle).map(|(active, middle)| active / middle),
            }));
            // Two that are as far from the middle stand in the order of the last bit.
            let is_alike = |other: usize| match (places.get(other), places[place]) {
                (Some(Some(other)), Some(own)) => (other - own).abs() < 1e-9,
                _ => false,
            };
            if !(is_alike(place + 1) || place > 0 && is_alike(place - 1)) {
                line.insert("place".to_owned(), Value::from(place + 1));
            }
            expected.push(line);
        }
    }
    Answer::new("Q14", "SELECT * FROM stragglers", &["node", "job", "basis", "host", "device"], expected)
}
