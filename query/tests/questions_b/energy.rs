//! `energy_efficiency`, `throttled_hours` and `vendor_comparison`: sums over hours, one by one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::fleet::{Fleet, Hour};
use crate::store::{HOUR, MINUTE, Row, Rows, START, assert_same, row, time};

/// Registered figures: node, model, from when, operations a second, whether dense and nominal fp16.
type Figure = (&'static str, &'static str, i64, f64, bool);

fn figures() -> Vec<Figure> {
    vec![
        ("n1", "H100", START - HOUR, 9.9e14, true),
        ("n1", "H100", START + 30 * HOUR, 9.5e14, true),
        ("n1", "H100", START - HOUR, 2e15, false),
        ("n1", "A100", START - HOUR, 3.1e14, true),
        ("n2", "A100", START + 10 * HOUR, 3.0e14, true),
        ("n2", "910B", START - HOUR, 3.2e14, true),
    ]
}

#[derive(Default)]
struct Sum {
    hours: f64,
    joules: Option<f64>,
    known_hours: f64,
    known_joules: f64,
    delivered: Option<f64>,
}

impl Sum {
    fn add(&mut self, hour: &Hour, flops: Option<f64>) {
        self.hours += hour.observed();
        if let Some(joules) = hour.joules {
            *self.joules.get_or_insert(0.0) += joules;
            if let (Some(core), Some(flops)) = (hour.core, flops) {
                self.known_hours += hour.observed();
                self.known_joules += joules;
                *self.delivered.get_or_insert(0.0) += core * hour.observed() * flops / 1e15;
            }
        }
    }
}

fn efficiency(fleet: &Fleet, meters: &BTreeMap<(&str, &str), f64>) -> Vec<Row> {
    let mut sums: BTreeMap<(String, Option<(String, Option<String>)>), Sum> = BTreeMap::new();
    for hour in fleet.hours.iter().filter(|hour| hour.is_whole()) {
        let figure = figures()
            .into_iter()
            .filter(|f| f.0 == hour.card.0 && Some(f.1) == hour.model.as_deref() && f.2 <= hour.ts && f.4)
            .max_by_key(|figure| figure.2)
            .map(|figure| figure.3);
        for model in [None, Some((hour.vendor.clone(), hour.model.clone()))] {
            sums.entry((hour.card.0.clone(), model)).or_default().add(hour, figure);
        }
    }
    sums.into_iter()
        .map(|((node, model), sum)| {
            let meter = |name| meters.get(&(node.as_str(), name)).map(|joules| joules / 3.6e6);
            let (it, facility) = (meter("meter/it"), meter("meter/facility"));
            let delivered = sum.delivered.filter(|delivered| *delivered > 0.0);
            let is_known = sum.known_hours >= 0.99 * sum.hours;
            let whole = facility.filter(|_| model.is_none() && is_known).zip(delivered);
            row(json!({
                "node": node, "vendor": model.as_ref().map(|model| &model.0),
                "model": model.as_ref().and_then(|model| model.1.as_ref()), "precision": "fp16",
                "accelerator_hours": sum.hours, "known_ratio": sum.known_hours / sum.hours,
                "accelerator_kwh": sum.joules.map(|joules| joules / 3.6e6),
                "delivered_pflop_hours": sum.delivered,
                "kwh_per_pflop_hour": delivered.map(|delivered| sum.known_joules / 3.6e6 / delivered),
                "it_kwh": it, "facility_kwh": facility, "pue": facility.zip(it).map(|(facility, it)| facility / it),
                "facility_kwh_per_pflop_hour": whole.map(|(facility, delivered)| facility / delivered),
            }))
        })
        .collect()
}

#[tokio::test]
async fn energy_of_what_was_computed() {
    for seed in 10..16 {
        let mut fleet = Fleet::random(seed, 3);
        if seed == 12 {
            // All is known of it, so that the whole site's figure is.
            for hour in &mut fleet.hours {
                (hour.vendor, hour.model) = ("nvidia".to_owned(), Some("H100".to_owned()));
                (hour.joules, hour.core) = (Some(1e6), Some(0.5));
                hour.card.0 = "n1".to_owned();
            }
        }
        let mut rows = fleet.rows();
        for (number, (node, model, from, flops, dense)) in figures().into_iter().enumerate() {
            let vendor = if model == "910B" { "ascend" } else { "nvidia" };
            rows.add(
                "registry_resource",
                json!({ "ts": time(START), "node": node, "host": "", "resource": format!("{model}-{dense}"),
                    "valid_from": time(from), "revoked": false, "import": number.to_string(), "class": "intelligent",
                    "vendor": vendor, "model": model, "precision": "fp16",
                    "sparsity": if dense { "dense" } else { "sparse" }, "basis": "nominal", "devices": 8,
                    "device_flops": flops }),
            );
        }
        let mut meters = BTreeMap::new();
        for hour in 0..72 {
            for (node, name, joules) in
                [("n1", "meter/it", 1e8), ("n1", "meter/facility", 1.3e8), ("n2", "meter/it", 2e8)]
            {
                *meters.entry((node, name)).or_insert(0.0) += joules;
                rows.add(
                    "sensor_1h",
                    json!({ "ts": time(START + hour * HOUR), "node": node, "host": "gate", "name": name, "revision": 0,
                        "samples": 360, "kind": "energy", "energy_joules_increase": joules }),
                );
            }
        }
        let asked = rows.open().await;
        let (from, to) = (time(START), time(fleet.end()));
        let got = asked.ask(&format!("SELECT * FROM energy_efficiency('{from}', '{to}')")).await;
        let expected = efficiency(&fleet, &meters);
        assert_same(&format!("seed {seed}"), &["node", "vendor", "model"], &got, &expected);
        let whole = got.iter().filter(|row| !row["facility_kwh_per_pflop_hour"].is_null()).count();
        assert_eq!(whole, usize::from(seed == 12));
    }
}

#[tokio::test]
async fn another_precision_has_figures_of_its_own() {
    let fleet = Fleet::random(11, 1);
    let asked = fleet.rows().open().await;
    let sql = format!(
        "SELECT DISTINCT precision, delivered_pflop_hours, kwh_per_pflop_hour FROM energy_efficiency('{}', '{}', 'fp8')",
        time(START),
        time(fleet.end())
    );
    let nothing = row(json!({ "precision": "fp8", "delivered_pflop_hours": null, "kwh_per_pflop_hour": null }));
    assert_same("fp8", &["precision"], &asked.ask(&sql).await, &[nothing]);
    assert!(Rows::default().open().await.ask("SELECT * FROM energy_efficiency").await.is_empty());
}

#[tokio::test]
async fn hours_with_lower_clocks() {
    let sum = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0.0) + b.unwrap_or(0.0)),
    };
    for seed in 20..26 {
        let fleet = Fleet::random(seed, 3);
        let mut lines: BTreeMap<(String, Option<String>, &str), (Option<f64>, f64, f64, BTreeSet<&str>)> =
            BTreeMap::new();
        for hour in fleet.hours.iter().filter(|hour| hour.is_whole()) {
            // Of the entries of the host and of all its cards that hold in the hour, one that names a rack.
            let mut keys: BTreeMap<&str, (i64, Option<&str>)> = BTreeMap::new();
            for entry in &fleet.registered {
                if entry.card.0 == hour.card.0 && entry.card.1 == hour.card.1 && entry.from <= hour.ts {
                    let newest = keys.entry(&entry.card.2).or_insert((entry.from, entry.rack.as_deref()));
                    if entry.from > newest.0 {
                        *newest = (entry.from, entry.rack.as_deref());
                    }
                }
            }
            let newest = keys.values().filter(|(_, rack)| rack.is_some()).max_by_key(|(from, _)| *from);
            let rack = newest.and_then(|(_, rack)| *rack).map(str::to_owned);
            let [cap, brake, software, hardware, boost] = hour.throttled;
            for (reason, seconds) in
                [("thermal", sum(software, hardware)), ("power", sum(cap, brake)), ("other", boost)]
            {
                let line = lines.entry((hour.card.0.clone(), rack.clone(), reason)).or_default();
                line.1 += hour.observed();
                line.3.insert(&hour.card.1);
                if let Some(seconds) = seconds {
                    *line.0.get_or_insert(0.0) += seconds / 3_600.0;
                    line.2 += hour.observed();
                }
            }
        }
        let expected: Vec<Row> = lines
            .into_iter()
            .map(|((node, rack, reason), (throttled, hours, counted, hosts))| {
                row(json!({ "node": node, "rack": rack, "reason": reason, "throttled_hours": throttled,
                    "accelerator_hours": hours, "counted_hours": counted,
                    "throttled_ratio": throttled.map(|throttled| throttled / counted), "hosts": hosts.len() }))
            })
            .collect();
        let asked = fleet.rows().open().await;
        let (from, to) = (time(START), time(fleet.end()));
        let got = asked.ask(&format!("SELECT * FROM throttled_hours('{from}', '{to}')")).await;
        assert_same(&format!("seed {seed}"), &["node", "rack", "reason"], &got, &expected);
    }
    assert!(Rows::default().open().await.ask("SELECT * FROM throttled_hours").await.is_empty());
}

#[derive(Default)]
struct Used {
    cards: BTreeSet<String>,
    hours: f64,
    /// Utilisation, core and tensor activity: weighted sum and weight.
    ratios: [(f64, f64); 3],
    joules: Option<f64>,
    counted: f64,
    failures: u64,
}

#[tokio::test]
async fn the_same_work_on_several_vendors() {
    for seed in 30..36 {
        let fleet = Fleet::random(seed, 3);
        let (from, to) = (START / MINUTE, fleet.end() / MINUTE);
        let mut used: BTreeMap<(Option<String>, String), Used> = BTreeMap::new();
        let mut held: BTreeMap<(crate::fleet::Card, Option<String>), BTreeSet<i64>> = BTreeMap::new();
        for span in &fleet.spans {
            held.entry((span.card.clone(), fleet.project_of(span))).or_default().extend(span.minutes());
        }
        for ((card, project), minutes) in &held {
            for hour in fleet.hours.iter().filter(|hour| hour.card == *card) {
                let first = hour.ts / MINUTE;
                let overlap = minutes.range(first.max(from)..(first + 60).min(to)).count() as f64 / 60.0;
                if overlap == 0.0 {
                    continue;
                }
                let used = used.entry((project.clone(), hour.vendor.clone())).or_default();
                let weight = overlap * hour.observed();
                used.cards.insert(card.2.clone());
                used.hours += weight;
                for (sum, ratio) in used.ratios.iter_mut().zip([hour.utilization, hour.core, hour.tensor]) {
                    if let Some(ratio) = ratio {
                        *sum = (sum.0 + ratio * weight, sum.1 + weight);
                    }
                }
                if let Some(joules) = hour.joules {
                    *used.joules.get_or_insert(0.0) += joules * overlap / 3.6e6;
                    used.counted += weight;
                }
            }
        }
        let asked = fleet.rows().open().await;
        let (begin, end) = (time(START), time(fleet.end()));
        let failures =
            asked.ask(&format!("SELECT * FROM accelerator_failure('{begin}', '{end}') WHERE is_first")).await;
        for failure in &failures {
            let at = chrono::DateTime::parse_from_rfc3339(failure["at"].as_str().unwrap()).unwrap().timestamp_micros();
            for ((card, project), minutes) in &held {
                let is_here = failure["host"] == card.1.as_str() && failure["device"] == card.2.as_str();
                // What ends a holding is its own, and not that of who comes next.
                if is_here && minutes.contains(&(at / MINUTE - 1)) {
                    let vendor = failure["vendor"].as_str().unwrap().to_owned();
                    if let Some(used) = used.get_mut(&(project.clone(), vendor)) {
                        used.failures += 1;
                    }
                }
            }
        }
        let vendors = |project: &Option<String>| used.keys().filter(|(other, _)| other == project).count();
        let expected: Vec<Row> = used
            .iter()
            .map(|((project, vendor), used)| {
                let ratio = |at: usize| (used.ratios[at].1 > 0.0).then(|| used.ratios[at].0 / used.ratios[at].1);
                row(json!({
                    "project": project, "vendor": vendor, "vendors": vendors(project),
                    "accelerators": used.cards.len(), "accelerator_hours": used.hours,
                    "utilization_ratio": ratio(0), "core_active_ratio": ratio(1), "tensor_active_ratio": ratio(2),
                    "energy_kwh": used.joules, "kwh_per_accelerator_hour": used.joules.map(|kwh| kwh / used.counted),
                    "failures": used.failures, "failures_per_1000_days": 24_000.0 * used.failures as f64 / used.hours,
                }))
            })
            .collect();
        let got = asked.ask(&format!("SELECT * FROM vendor_comparison('{begin}', '{end}')")).await;
        assert_same(&format!("seed {seed}"), &["project", "vendor"], &got, &expected);
    }
    assert!(Rows::default().open().await.ask("SELECT * FROM vendor_comparison").await.is_empty());
}
