//! Q6 (how often accelerators fail) and Q7 (which are likely to).

use std::collections::{BTreeMap, BTreeSet};

use nodescope_simulate::failures::{Ailment, Standing};
use nodescope_simulate::world::{DAY, HOUR, MINUTE};
use serde_json::{Value, json};

use crate::Answer;
use crate::devices::last_seen;
use crate::hours::seen;
use crate::numbers::{Growth, interval};
use crate::region::Region;
use crate::store::{Row, row};

/// Events of a device no further apart are one failure.
const FOLD: i64 = 5 * MINUTE;

/// A failure that somebody told.
pub struct Failure {
    pub host: usize,
    pub device: usize,
    pub at: i64,
    /// `fault`, or `lost` beside it where a card is gone.
    kind: &'static str,
    code: Option<i64>,
    class: Option<&'static str>,
    is_first_of_code: bool,
    pub is_first: bool,
}

/// What NVIDIA's codes mean that are simulated; `None` where it is a program's mistake or a notice. Nobody has judged the
/// codes of other vendors that are, so that all of them count.
fn class(vendor: &str, code: i64) -> Option<&'static str> {
    match (vendor, code) {
        ("nvidia", 79) => Some("bus"),
        ("nvidia", 119) => Some("firmware"),
        ("nvidia", 94) => Some("memory"),
        ("nvidia", 74) => Some("link"),
        ("nvidia", 13 | 31 | 43 | 63) => None,
        _ => Some("unlisted"),
    }
}

/// Failures since a moment: what befell devices while their hosts spoke and nobody had announced work.
pub fn counted(region: &Region, since: i64) -> Vec<Failure> {
    let mut all = Vec::new();
    for (host, device) in region.devices() {
        let life = &region.fleet.lives[host];
        let vendor = region.fleet.world.hosts[host].model.vendor;
        let mut of_device: Vec<(i64, &str, Option<i64>, Option<&str>)> = Vec::new();
        for trouble in &life.devices[device].troubles {
            let at = trouble.at;
            let is_told =
                since <= at && at < region.end && life.standing(at) == Standing::Up && !life.in_maintenance(at);
            if !is_told {
                continue;
            }
            if let Some(class) = class(vendor, trouble.code) {
                of_device.push((at, "fault", Some(trouble.code), Some(class)));
            }
            if trouble.ailment == Ailment::Lost {
                of_device.push((at, "lost", None, None));
            }
        }
        for (place, (at, kind, code, class)) in of_device.iter().copied().enumerate() {
            let near = |other: &&(i64, &str, Option<i64>, Option<&str>)| at - other.0 <= FOLD;
            let before = &of_device[..place];
            all.push(Failure {
                host,
                device,
                at,
                kind,
                code,
                class,
                is_first_of_code: before.iter().rfind(|b| b.1 == kind && b.2 == code).filter(near).is_none(),
                is_first: before.last().filter(near).is_none(),
            });
        }
    }
    all
}

type Line = (&'static str, Option<&'static str>, Option<&'static str>);

pub fn failures(region: &Region) -> Vec<Answer> {
    let since = region.now - 30 * DAY;
    // Days that each device was seen for.
    let days: Vec<Vec<f64>> = region.each_host(|host| {
        let of = |device| {
            let hours = region.hours(since).map(|hour| region.rows_of(host, device, hour, hour + HOUR));
            hours.map(|rows| seen(region, rows, DAY)).sum()
        };
        (0..region.devices_of(host)).map(of).collect()
    });
    // One that was never seen has no model and no driver.
    let line = |host: usize, device: usize| -> Line {
        let it = &region.fleet.world.hosts[host];
        let is_known = days[host][device] > 0.0;
        (it.model.vendor, is_known.then_some(it.model.name), is_known.then_some(it.driver))
    };
    let mut fleet: BTreeMap<Line, (f64, BTreeSet<(usize, usize)>)> = BTreeMap::new();
    for (host, device) in region.devices().filter(|(host, device)| days[*host][*device] > 0.0) {
        let sum = fleet.entry(line(host, device)).or_default();
        sum.0 += days[host][device];
        sum.1.insert((host, device));
    }
    let mut counts: BTreeMap<(Line, &str, Option<i64>, Option<&str>), u64> =
        fleet.keys().map(|line| ((*line, "all", None, None), 0)).collect();
    for failure in counted(region, since) {
        let line = line(failure.host, failure.device);
        if failure.is_first {
            *counts.entry((line, "all", None, None)).or_default() += 1;
        }
        if failure.is_first_of_code {
            *counts.entry((line, failure.kind, failure.code, failure.class)).or_default() += 1;
        }
    }
    let (mut lines, mut bounds): (Vec<Row>, Vec<Row>) = Default::default();
    for (((vendor, model, driver), kind, code, class), count) in counts {
        let seen = fleet.get(&(vendor, model, driver));
        let rate = |count: f64| seen.map(|(days, _)| 1_000.0 * count / days);
        let name = json!({ "vendor": vendor, "model": model, "driver_version": driver, "kind": kind, "code": code });
        let named = |more: Value| -> Row { row(name.clone()).into_iter().chain(row(more)).collect() };
        lines.push(named(json!({
            "class": class, "failures": count, "accelerators": seen.map(|seen| seen.1.len()),
            "accelerator_days": seen.map(|seen| seen.0), "per_1000_days": rate(count as f64),
        })));
        let (low, high) = interval(count);
        bounds.push(named(json!({ "low": rate(low), "high": rate(high) })));
    }
    let key = &["vendor", "model", "driver_version", "kind", "code"];
    let answer = |expected| Answer::new("Q6", "SELECT * FROM accelerator_failures", key, expected);
    // From ten failures on the server's interval is Byar's, which is right to 0.2 %.
    vec![answer(lines), answer(bounds).within(0.002)]
}

/// The line of a device, without its place; `None` for one that was not seen.
fn risk_of(region: &Region, host: usize, device: usize) -> Option<Row> {
    let it = &region.fleet.world.hosts[host];
    let (tells, its) = (it.model.tells, &region.fleet.lives[host].devices[device]);
    let mut grown: [Growth; 5] = Default::default();
    let mut last_hour = None;
    for hour in region.hours(region.now - 7 * DAY) {
        let told = region.hour(host, device, hour);
        if told.rows > 0 {
            last_hour = Some(hour);
        }
        let Some(g) = told.grown else { continue };
        // Each uncorrected error costs a row where rows are told of, and a page where pages are.
        let times = |is_told: bool| if is_told { g.uncorrected } else { 0.0 };
        let worn = if tells.remapped_rows { g.replaced } else { 0.0 };
        let replaced = worn + times(tells.remapped_rows) + times(tells.retired_pages);
        let is_last_day = hour >= region.now - DAY;
        for (growth, (is_told, more)) in grown.iter_mut().zip([
            (tells.ecc, g.uncorrected),
            (tells.ecc, g.corrected),
            (tells.remapped_rows || tells.retired_pages, replaced),
            (tells.links, g.damaged),
            // Nothing ever goes wrong on PCIe here.
            (matches!(it.model.vendor, "nvidia" | "metax"), 0.0),
        ]) {
            if is_told {
                growth.add(more, is_last_day);
            }
        }
    }
    let last_hour = last_hour?;
    let [uncorrected, corrected, replaced, damaged, replays] = &grown;
    let state = last_seen(region, host, device).map(|at| {
        let waits = its.ails(Ailment::Memory, at).is_some();
        let failed = its.count(Ailment::Memory, at) >= 8;
        let health = if waits || its.ails(Ailment::Link, at).is_some() { "warning" } else { "healthy" };
        (tells.remapped_rows.then_some(failed), tells.remapped_rows.then_some(waits), tells.health.then_some(health))
    });
    let (failed, waits, health) = state.unwrap_or_default();
    let verdict = match (failed, health) {
        (Some(true), _) => Some(50.0),
        (_, Some("warning")) => Some(10.0),
        (None, None) => None,
        _ => Some(0.0),
    };
    let points = [
        verdict,
        waits.map(|waits| if waits { 20.0 } else { 0.0 }),
        uncorrected.all.map(|n| (10.0 * n).min(20.0)),
        corrected.all.map(|n| (n / 100.0).min(5.0) * if corrected.rises() { 2.0 } else { 1.0 }),
        replaced.all.map(|n| (2.0 * n).min(10.0)),
        damaged.all.map(|n| (n / 100.0).min(2.0) + if damaged.rises() { 3.0 } else { 0.0 }),
        replays.all.map(|n| (n / 1_000.0).min(5.0)),
    ];
    let known = points.iter().flatten().count();
    let score = (known > 0).then(|| points.iter().map(|points| points.unwrap_or(0.0)).sum::<f64>());
    let action = waits.map(|waits| if waits { "gpu_reset" } else { "none" }).filter(|_| it.model.vendor == "nvidia");
    Some(row(json!({
        "node": region.node(host), "host": it.name, "device": it.devices[device].id, "vendor": it.model.vendor,
        "model": it.model.name, "score": score, "signs_known": known, "verdict_points": points[0],
        "pending_points": points[1], "ecc_uncorrected_points": points[2], "ecc_corrected_points": points[3],
        "pages_points": points[4], "link_points": points[5], "pcie_points": points[6],
        "ecc_uncorrected": uncorrected.all, "ecc_corrected": corrected.all,
        "ecc_corrected_last_day": corrected.last_day, "ecc_corrected_day_before": corrected.day_before(),
        "replaced": replaced.all, "link_crc_errors": damaged.all, "link_crc_last_day": damaged.last_day,
        "link_crc_day_before": damaged.day_before(), "pcie_replays": replays.all, "remapped_rows_failed": failed,
        "pending": waits, "health": health, "recovery_action": action, "last_hour": last_hour * 1_000_000,
    })))
}

pub fn risk(region: &Region) -> Answer {
    let mut expected: Vec<Row> = region.devices().filter_map(|(host, device)| risk_of(region, host, device)).collect();
    let name = |row: &Row| ["node", "host", "device"].map(|column| row[column].as_str().map(str::to_owned));
    expected.sort_by(|a, b| {
        let score = |row: &Row| row["score"].as_f64().unwrap_or(-1.0);
        score(b).total_cmp(&score(a)).then_with(|| name(a).cmp(&name(b)))
    });
    for (place, row) in expected.iter_mut().enumerate() {
        row.insert("place".to_owned(), Value::from(place + 1));
    }
    Answer::new("Q7", "SELECT * FROM accelerator_risk", &["device"], expected)
}
