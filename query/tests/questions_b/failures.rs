//! `accelerator_failures` and `accelerator_failure`: events folded one after another, intervals by the distribution.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::fleet::{Card, Event, Fleet};
use crate::numbers::interval;
use crate::store::{DAY, HOUR, MINUTE, Row, Rows, START, assert_same, row, time};

/// Codes of the traces that are no failures of a card: programs' mistakes, and a row that is to be replaced.
const HARMLESS: [i64; 3] = [13, 31, 63];

type Line = (String, Option<String>, Option<String>);

struct Counted {
    event: Event,
    card: Option<Card>,
    line: Line,
    is_first_of_code: bool,
    is_first: bool,
}

/// The events that count, in the order of time, each beside what it is judged by.
fn counted(fleet: &Fleet) -> Vec<Counted> {
    let partitions: BTreeMap<&str, &str> =
        fleet.hours.iter().filter_map(|hour| Some((hour.card.2.as_str(), hour.parent.as_deref()?))).collect();
    let mut events: Vec<&Event> = fleet.events.iter().filter(|e| e.at >= START && e.at < fleet.end()).collect();
    events.sort_by_key(|event| event.at);
    let mut seen: Vec<(i64, (String, String, String), &str, Option<i64>)> = Vec::new();
    let mut counted = Vec::new();
    for event in events {
        if event.vendor == "host" || !matches!(event.kind, "fault" | "lost") {
            continue;
        }
        let is_harmless = event.code.is_some_and(|code| HARMLESS.contains(&code));
        if event.kind == "fault" && event.vendor == "nvidia" && is_harmless {
            continue;
        }
        let is_partition = event.device.as_deref().is_some_and(|device| partitions.contains_key(device));
        if event.kind == "lost" && is_partition {
            continue;
        }
        let worked_on = fleet.maintenance.iter().any(|(node, host, starts, ends)| {
            *node == event.node && (host.is_empty() || *host == event.host) && *starts <= event.at && event.at < *ends
        });
        if worked_on {
            continue;
        }
        let known = |device: &str| {
            fleet.hours.iter().any(|h| h.card.0 == event.node && h.card.1 == event.host && h.card.2 == device)
        };
        let by_name = event
            .device
            .clone()
            .map(|device| partitions.get(device.as_str()).map_or(device.clone(), |parent| (*parent).to_owned()));
        let by_address = event.bdf.as_ref().and_then(|bdf| {
            let mut whole = fleet.hours.iter().filter(|hour| hour.is_whole());
            whole.find(|h| h.card.0 == event.node && h.card.1 == event.host && h.bdf == *bdf).map(|h| h.card.2.clone())
        });
        let device = match by_name {
            Some(device) if known(&device) => Some(device),
            other => by_address.or(other),
        };
        let card = device.clone().map(|device| (event.node.clone(), event.host.clone(), device));
        let place = device.or_else(|| event.bdf.clone()).unwrap_or_default();
        let name = (event.node.clone(), event.host.clone(), place);
        let near = |at: i64| event.at - at <= 5 * MINUTE;
        let before = |same: &dyn Fn(&str, Option<i64>) -> bool| {
            seen.iter().rev().find(|(_, other, kind, code)| *other == name && same(kind, *code)).map(|found| found.0)
        };
        let code = event.code;
        let is_first_of_code = !before(&|k, c| k == event.kind && c == code).is_some_and(near);
        let is_first = !before(&|_, _| true).is_some_and(near);
        seen.push((event.at, name, event.kind, code));
        let hours: Vec<_> = fleet.hours.iter().filter(|hour| Some(&hour.card) == card.as_ref()).collect();
        let hour = hours.iter().rev().find(|hour| hour.ts <= event.at).or(hours.first());
        let line =
            (event.vendor.clone(), hour.and_then(|hour| hour.model.clone()), hour.and_then(|hour| hour.driver.clone()));
        counted.push(Counted { event: event.clone(), card, line, is_first_of_code, is_first });
    }
    counted
}

fn expected(fleet: &Fleet) -> Vec<Row> {
    let mut days: BTreeMap<Line, (f64, BTreeSet<&str>)> = BTreeMap::new();
    for hour in fleet.hours.iter().filter(|hour| hour.is_whole()) {
        let line = (hour.vendor.clone(), hour.model.clone(), hour.driver.clone());
        let entry = days.entry(line).or_default();
        entry.0 += hour.observed() / 24.0;
        entry.1.insert(&hour.card.2);
    }
    let mut failures: BTreeMap<(Line, &str, Option<i64>), u64> =
        days.keys().map(|line| ((line.clone(), "all", None), 0)).collect();
    let counted = counted(fleet);
    for failure in &counted {
        if failure.is_first {
            *failures.entry((failure.line.clone(), "all", None)).or_default() += 1;
        }
        if failure.is_first_of_code {
            *failures.entry((failure.line.clone(), failure.event.kind, failure.event.code)).or_default() += 1;
        }
    }
    failures
        .into_iter()
        .map(|((line, kind, code), failures)| {
            let seen = days.get(&line);
            let rate = |count: f64| seen.map(|(days, _)| 1_000.0 * count / days);
            row(json!({
                "vendor": line.0, "model": line.1, "driver_version": line.2, "kind": kind, "code": code,
                "failures": failures, "accelerators": seen.map(|seen| seen.1.len()),
                "accelerator_days": seen.map(|seen| seen.0), "per_1000_days": rate(failures as f64),
            }))
        })
        .collect()
}

const KEY: [&str; 5] = ["vendor", "model", "driver_version", "kind", "code"];

#[tokio::test]
async fn failures_are_counted_beside_their_days() {
    for seed in 0..6 {
        let fleet = Fleet::random(seed, 3);
        let asked = fleet.rows().open().await;
        let (from, to) = (time(START), time(fleet.end()));
        let got = asked.ask(&format!("SELECT * FROM accelerator_failures('{from}', '{to}')")).await;
        assert_same(&format!("seed {seed}"), &KEY, &got, &expected(&fleet));
        for row in &got {
            let count = row["failures"].as_u64().expect("a count");
            let Some(days) = row["accelerator_days"].as_f64() else {
                assert!(row["per_1000_days"].is_null() && row["low"].is_null() && row["high"].is_null());
                continue;
            };
            let (low, high) = interval(count);
            let (got_low, got_high) = (row["low"].as_f64().unwrap(), row["high"].as_f64().unwrap());
            assert!((got_low * days / 1_000.0 - low).abs() <= 0.002 * low, "{count}: {low}, {row:?}");
            assert!((got_high * days / 1_000.0 - high).abs() <= 0.002 * high, "{count}: {high}, {row:?}");
        }
    }
}

#[tokio::test]
async fn failures_one_by_one() {
    for seed in 0..6 {
        let fleet = Fleet::random(seed, 3);
        let asked = fleet.rows().open().await;
        let (from, to) = (time(START), time(fleet.end()));
        let got = asked.ask(&format!("SELECT * FROM accelerator_failure('{from}', '{to}')")).await;
        // Events of one moment have no order, and fold as one whichever comes first: counts are the same.
        let key = |at: &serde_json::Value, row: &Row| format!("{at} {} {} {}", row["host"], row["device"], row["kind"]);
        let mut names: Vec<String> = got.iter().map(|row| key(&row["host"], row)).collect();
        let mut oracle: Vec<String> = counted(&fleet)
            .iter()
            .map(|failure| {
                let device = failure.card.as_ref().map(|card| card.2.clone());
                let row = row(json!({ "host": failure.event.host, "device": device, "kind": failure.event.kind }));
                key(&row["host"], &row)
            })
            .collect();
        names.sort();
        oracle.sort();
        assert_eq!(names, oracle, "seed {seed}");
    }
}

#[tokio::test]
async fn without_rows_there_is_no_answer_and_without_failures_a_rate_of_zero() {
    let asked = Rows::default().open().await;
    assert!(asked.ask("SELECT * FROM accelerator_failures").await.is_empty());
    let mut fleet = Fleet::random(1, 2);
    fleet.events.clear();
    let asked = fleet.rows().open().await;
    let (from, to) = (time(START), time(START + 2 * DAY));
    let got = asked.ask(&format!("SELECT * FROM accelerator_failures('{from}', '{to}')")).await;
    assert_same("no failures", &KEY, &got, &expected(&fleet));
    assert!(!got.is_empty() && got.iter().all(|row| row["low"] == 0.0 && row["high"].as_f64() > Some(0.0)));
}

#[tokio::test]
async fn a_failure_belongs_to_the_driver_of_its_hour() {
    let mut rows = Rows::default();
    for hour in 0..10 {
        rows.add(
            "accelerator_1h",
            json!({ "ts": time(START + hour * HOUR), "node": "n", "host": "h", "device": "d", "revision": 0,
                "samples": 360, "expected": 360.0, "vendor": "nvidia", "model": "H100",
                "driver_version": if hour < 5 { "old" } else { "new" } }),
        );
    }
    for (number, hour) in [(1, 4), (2, 5), (3, 9)] {
        let at = time(START + hour * HOUR + 59 * MINUTE);
        rows.add(
            "accelerator_event",
            json!({ "ts": at, "node": "n", "host": "h", "vendor": "nvidia", "event": number, "at": at, "device": "d",
                "kind": "fault", "source": "kernel", "code": 79 }),
        );
    }
    let asked = rows.open().await;
    let sql = format!(
        "SELECT driver_version, class, failures, accelerator_days FROM accelerator_failures('{}', '{}') WHERE code = 79",
        time(START),
        time(START + DAY)
    );
    let expected = [("old", 1), ("new", 2)].map(|(driver, failures)| {
        row(json!({ "driver_version": driver, "class": "bus", "failures": failures, "accelerator_days": 5.0 / 24.0 }))
    });
    assert_same("drivers", &["driver_version"], &asked.ask(&sql).await, &expected);
}
