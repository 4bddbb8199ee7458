//! `demand_gap` and `pool_forecast`: what is held, minute by minute; lines by the textbook, bands by halving.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::fleet::{Card, Fleet, Span};
use crate::numbers::{Line, student};
use crate::store::{DAY, HOUR, MINUTE, Row, Rows, START, assert_same, assert_within, row, time};

fn held(fleet: &Fleet) -> BTreeMap<Card, BTreeSet<i64>> {
    let cards: BTreeSet<&Card> = fleet.spans.iter().map(|span| &span.card).collect();
    cards.into_iter().map(|card| (card.clone(), fleet.held_minutes(card))).collect()
}

#[tokio::test]
async fn demand_beside_what_was_free() {
    for seed in 40..46 {
        let fleet = Fleet::random(seed, 2);
        let held = held(&fleet);
        let mut random = StdRng::seed_from_u64(seed);
        let mut rows = fleet.rows();
        let mut expected = Vec::new();
        for hour in 0..48 {
            let ts = START + hour * HOUR;
            for (node, class, vendor, model) in [
                ("n1", "any", None, None),
                ("n1", "h", Some("nvidia"), Some("H100")),
                ("n2", "a", Some("ascend"), None),
                ("n3", "nowhere", None, None),
            ] {
                let pending = random.random_bool(0.9).then(|| random.random_range(5_i64..50));
                let backlog = random.random_bool(0.9).then(|| random.random_range(0.0..500.0));
                for (minute, pending, running) in [(3, pending.map(|n| n - 4), 3), (33, pending.map(|n| n + 4), 4)] {
                    rows.add(
                        "demand",
                        json!({ "ts": time(ts + minute * MINUTE), "node": node, "host": "s", "scheduler": "slurm",
                            "class": class, "vendor": vendor, "model": model, "accelerators_pending": pending,
                            "accelerators_running": running, "oldest_wait_seconds": f64::from(minute as i32),
                            "accelerator_hours_pending": backlog.filter(|_| minute == 33) }),
                    );
                }
                let pending = pending.map(|n| n as f64);
                let mut fitting: Option<f64> = None;
                let mut taken = 0.0;
                for card in fleet.hours.iter().filter(|h| h.ts == ts && h.card.0 == node && h.is_whole()) {
                    let fits = vendor.is_none_or(|vendor| card.vendor == vendor)
                        && model.is_none_or(|model| card.model.as_deref() == Some(model));
                    if fits && fleet.is_in_service(&card.card, ts) {
                        *fitting.get_or_insert(0.0) += card.observed();
                        let minutes = held.get(&card.card);
                        let first = ts / MINUTE;
                        let minutes = minutes.map_or(0, |minutes| minutes.range(first..first + 60).count());
                        taken += card.observed().min(minutes as f64 / 60.0);
                    }
                }
                let free = fitting.map(|fitting| fitting - taken);
                expected.push(row(json!({
                    "hour": time(ts), "node": node, "scheduler": "slurm", "class": class, "vendor": vendor,
                    "model": model, "pending_accelerator_hours": pending, "running_accelerator_hours": 3.5,
                    "backlog_accelerator_hours": backlog, "oldest_wait_seconds": 33.0,
                    "fitting_accelerator_hours": fitting, "held_accelerator_hours": fitting.map(|_| taken),
                    "free_accelerator_hours": free,
                    "gap_accelerator_hours": pending.zip(free).map(|(pending, free)| pending - free),
                })));
            }
        }
        // Times as numbers, in the key as well.
        for row in &mut expected {
            let at = chrono::DateTime::parse_from_rfc3339(row["hour"].as_str().unwrap()).unwrap().timestamp_micros();
            row.insert("hour".to_owned(), at.into());
        }
        let asked = rows.open().await;
        let sql = format!("SELECT * FROM demand_gap('{}', '{}')", time(START), time(fleet.end()));
        assert_same(&format!("seed {seed}"), &["hour", "node", "class"], &asked.ask(&sql).await, &expected);
    }
    assert!(Rows::default().open().await.ask("SELECT * FROM demand_gap").await.is_empty());
}

fn number(row: &Row, name: &str) -> Option<f64> {
    row[name].as_f64()
}

#[tokio::test]
async fn weeks_until_a_pool_is_full() {
    let mut intervals = 0;
    for seed in 50..62 {
        let days = 5 + i64::try_from(seed).unwrap() % 6;
        let mut fleet = Fleet::random(seed, days);
        // A load that grows, so that there is something to foresee.
        let cards: BTreeSet<Card> = fleet.hours.iter().filter(|h| h.is_whole()).map(|h| h.card.clone()).collect();
        if seed % 2 == 0 {
            fleet.spans.clear();
            let mut random = StdRng::seed_from_u64(seed);
            for card in &cards {
                for day in 0..days {
                    let minutes = 200 + day * 40 + random.random_range(0..60);
                    let begin = START + day * DAY;
                    fleet.spans.push(Span {
                        card: card.clone(),
                        source: "file",
                        allocation: format!("{day}"),
                        job: None,
                        project: None,
                        began: Some(begin),
                        first_seen: begin,
                        last_seen: begin + minutes * MINUTE,
                        ended: Some(begin + minutes * MINUTE),
                    });
                }
            }
        }
        let held = held(&fleet);
        // Node, vendor, model and day: hours seen, hours held.
        let mut by_card: BTreeMap<(Card, String, Option<String>, i64), f64> = BTreeMap::new();
        for hour in fleet.hours.iter().filter(|hour| hour.is_whole()) {
            if fleet.is_in_service(&hour.card, hour.ts) {
                let key = (hour.card.clone(), hour.vendor.clone(), hour.model.clone(), (hour.ts - START) / DAY);
                *by_card.entry(key).or_default() += hour.observed();
            }
        }
        let mut pools: BTreeMap<(String, String, Option<String>), BTreeMap<i64, (f64, f64)>> = BTreeMap::new();
        for ((card, vendor, model, day), hours) in by_card {
            let first = (START + day * DAY) / MINUTE;
            let minutes = held.get(&card).map_or(0, |minutes| minutes.range(first..first + 1_440).count());
            let pool = pools.entry((card.0.clone(), vendor, model)).or_default().entry(day).or_default();
            *pool = (pool.0 + hours, pool.1 + hours.min(minutes as f64 / 60.0));
        }
        let asked = fleet.rows().open().await;
        let sql = format!("SELECT * FROM pool_forecast('{}', '{}')", time(START), time(fleet.end()));
        let got = asked.ask(&sql).await;
        let mut expected = Vec::new();
        for ((node, vendor, model), shares) in &pools {
            let points: Vec<(f64, f64)> =
                shares.iter().map(|(day, (seen, held))| (((day - days) as f64 + 0.5) / 7.0, held / seen)).collect();
            let line = Line::through(&points);
            let has_line = points.len() > 1;
            let last = shares.values().last().expect("a day");
            let now = has_line.then(|| line.edge(0.0, 0.0));
            let weeks = if now.is_some_and(|now| now >= 1.0) {
                Some(0.0)
            } else {
                (has_line && line.slope > 0.0).then(|| line.x + (1.0 - line.y) / line.slope)
            };
            expected.push(row(json!({
                "node": node, "vendor": vendor, "model": model, "days": points.len(), "accelerators": last.0 / 24.0,
                "share_mean": line.y, "share_now": now.map(|now| now.clamp(0.0, 1.0)),
                "share_per_week": has_line.then_some(line.slope),
            })));
            let row = got
                .iter()
                .find(|row| {
                    row["node"] == node.as_str() && row["vendor"] == vendor.as_str() && row["model"] == json!(model)
                })
                .expect("the pool");
            let near = |got: Option<f64>, expected: Option<f64>, within: f64| match (got, expected) {
                (Some(got), Some(expected)) => (got - expected).abs() <= within * expected.abs().max(1.0),
                (got, expected) => got == expected,
            };
            // A slope of nothing but rounding leads anywhere.
            if line.slope.abs() > 1e-9 || !has_line {
                assert!(near(number(row, "weeks"), weeks, 1e-6), "seed {seed}: {weeks:?} {row:?}");
            }
            if let Some(r2) = line.r2.filter(|_| has_line) {
                assert!(near(number(row, "fit_r2"), Some(r2), 1e-6), "seed {seed}: {r2} {row:?}");
            }
            if points.len() < 5 {
                assert!(row["weeks_low"].is_null() && row["weeks_high"].is_null(), "{row:?}");
            } else if line.beside > 1e-9 {
                let student = student(line.n - 2.0);
                // The later edge counts where the band rises for sure.
                let (low, high) = (line.reaches(student), line.reaches(-student));
                let is_sure = line.rises(student);
                assert!(
                    near(number(row, "weeks_high"), high.filter(|_| is_sure), 0.02),
                    "seed {seed}: {high:?} {row:?}"
                );
                if line.slope > 0.0 {
                    assert!(near(number(row, "weeks_low"), low, 0.02), "seed {seed}: {low:?} {row:?}");
                }
                intervals += usize::from(is_sure);
            }
        }
        assert_within(&format!("seed {seed}"), &["node", "vendor", "model"], &got, &expected, 1e-9);
    }
    assert!(intervals >= 5, "{intervals} intervals are too few to say anything");
    assert!(Rows::default().open().await.ask("SELECT * FROM pool_forecast").await.is_empty());
}
