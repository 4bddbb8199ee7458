//! `stragglers`: ranks beside the median of their job, by progress or by their accelerators.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::store::{HOUR, MINUTE, Row, Rows, START, assert_same, row, time};

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Puts a place into each row: the largest of `by` first, what is unknown last, then by `then`.
fn place(rows: &mut [Row], by: impl Fn(&Row) -> Option<f64>, then: &str) {
    rows.sort_by(|a, b| {
        let of = |row: &Row| by(row).unwrap_or(-1.0);
        of(b).total_cmp(&of(a)).then_with(|| a[then].to_string().cmp(&b[then].to_string()))
    });
    for (place, row) in rows.iter_mut().enumerate() {
        row.insert("place".to_owned(), Value::from(place + 1));
    }
}

fn told(random: &mut StdRng, rows: &mut Rows, job: &str, ranks: i64) -> Vec<Row> {
    let mut lines = Vec::new();
    let mut foremost = 0;
    for rank in 0..ranks {
        let (host, device) = (format!("h{}", rank / 4), format!("d{rank}"));
        let tells_wait = random.random_bool(0.8);
        let tells_time = random.random_bool(0.9);
        let (mut steps, mut waits, mut works) = (Vec::new(), Vec::new(), Vec::new());
        let mut step = random.random_range(0..5);
        let mut count = 0;
        for tick in 0..20 {
            step += 1;
            count += 1;
            let seconds = tells_time.then(|| random.random_range(1.0..3.0));
            let wait = (tells_wait && random.random_bool(0.9)).then(|| random.random_range(0.0..1.0));
            steps.extend(seconds);
            waits.extend(wait);
            works.extend(seconds.map(|seconds| seconds - wait.unwrap_or(0.0)));
            rows.add(
                "progress",
                json!({ "ts": time(START + tick * MINUTE), "node": "n", "host": host, "job": job, "rank": rank,
                    "device": device, "step": step, "step_seconds": seconds, "wait_seconds": wait }),
            );
        }
        foremost = foremost.max(step);
        lines.push(row(json!({ "node": "n", "job": job, "basis": "progress", "rank": rank, "host": host,
            "device": device, "ranks": ranks, "steps": count, "step_seconds": mean(&steps), "wait_seconds": mean(&waits),
            "work_seconds": mean(&works), "steps_behind": step })));
    }
    let middle = median(lines.iter().filter_map(|line| line["work_seconds"].as_f64()));
    for line in &mut lines {
        let work = line["work_seconds"].as_f64();
        let behind = foremost - line["steps_behind"].as_i64().expect("steps");
        line.insert("median_work_seconds".to_owned(), json!(middle));
        line.insert("slowness_ratio".to_owned(), json!(work.zip(middle).map(|(work, middle)| work / middle)));
        line.insert("steps_behind".to_owned(), json!(behind));
    }
    let by_work = |row: &Row| row["work_seconds"].as_f64();
    // Of those that tell no time, who has come least far is first: none of this test's order hangs on it.
    place(&mut lines, by_work, "rank");
    for line in lines.iter_mut().filter(|line| line["work_seconds"].is_null()) {
        line.remove("place");
    }
    lines
}

fn silent(random: &mut StdRng, rows: &mut Rows, job: &str, cards: i64) -> Vec<Row> {
    let mut lines = Vec::new();
    for card in 0..cards {
        let (host, device) = (format!("{job}-h{}", card / 2), format!("{job}-d{card}"));
        let (first, last) = (random.random_range(0..20), random.random_range(30..60));
        for (minute, state) in [(first, "held"), (last, "ended")] {
            rows.add(
                "allocation",
                json!({ "ts": time(START + minute * MINUTE), "node": "n", "host": host, "source": "file",
                    "allocation": job, "device": device, "state": state, "job": job,
                    "began": time(START + first * MINUTE),
                    "ended": (state == "ended").then(|| time(START + last * MINUTE)) }),
            );
        }
        let tells = random.random_bool(0.8);
        let mut within = Vec::new();
        let mut seen = false;
        for minute in 0..60 {
            let active: Option<f64> = (tells && random.random_bool(0.9)).then(|| random.random());
            rows.add(
                "accelerator_1m",
                json!({ "ts": time(START + minute * MINUTE), "node": "n", "host": host, "device": device, "revision": 0,
                    "samples": 6, "core_active_ratio_mean": active }),
            );
            if (first..last).contains(&minute) {
                within.extend(active);
                seen = true;
            }
        }
        assert!(seen);
        lines.push(row(json!({ "node": "n", "job": job, "basis": "core_active", "rank": null, "host": host,
            "device": device, "ranks": cards, "step_seconds": null, "work_seconds": null, "slowness_ratio": null,
            "core_active_ratio": mean(&within) })));
    }
    let middle = median(lines.iter().filter_map(|line| line["core_active_ratio"].as_f64()));
    for line in &mut lines {
        let active = line["core_active_ratio"].as_f64();
        line.insert("median_core_active_ratio".to_owned(), json!(middle));
        line.insert("activity_ratio".to_owned(), json!(active.zip(middle).map(|(active, middle)| active / middle)));
    }
    let far = |row: &Row| row["core_active_ratio"].as_f64().zip(middle).map(|(active, middle)| (active - middle).abs());
    place(&mut lines, far, "device");
    lines
}

#[tokio::test]
async fn ranks_beside_the_median_of_their_job() {
    for seed in 100..108 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut rows = Rows::default();
        let mut expected = Vec::new();
        for (job, ranks) in [("1", 1), ("2", 4), ("3", 7)] {
            expected.extend(told(&mut random, &mut rows, job, ranks));
        }
        for (job, cards) in [("4", 1), ("5", 6)] {
            expected.extend(silent(&mut random, &mut rows, job, cards));
        }
        let asked = rows.open().await;
        let got = asked.ask(&format!("SELECT * FROM stragglers('{}', '{}')", time(START), time(START + HOUR))).await;
        assert_same(&format!("seed {seed}"), &["job", "basis", "device"], &got, &expected);
        let mut places: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for row in &got {
            places.entry(row["job"].to_string()).or_default().push(row["place"].as_i64().unwrap());
        }
        for (job, mut places) in places {
            places.sort_unstable();
            assert_eq!(places, (1..).take(places.len()).collect::<Vec<i64>>(), "job {job}");
        }
    }
    assert!(Rows::default().open().await.ask("SELECT * FROM stragglers").await.is_empty());
}

#[tokio::test]
async fn who_waits_is_not_who_is_slow() {
    let mut rows = Rows::default();
    for (rank, wait) in [(0, 0.9), (1, 0.0), (2, 0.8)] {
        rows.add(
            "progress",
            json!({ "ts": time(START), "node": "n", "host": "h", "job": "1", "rank": rank, "step": 5,
                "step_seconds": 1.0, "wait_seconds": wait }),
        );
    }
    let sql = format!(
        "SELECT rank, slowness_ratio FROM stragglers('{}', '{}') WHERE place = 1",
        time(START),
        time(START + HOUR)
    );
    let expected = row(json!({ "rank": 1, "slowness_ratio": 5.0 }));
    assert_same("the slow one", &["rank"], &rows.open().await.ask(&sql).await, &[expected]);
}
