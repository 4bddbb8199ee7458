//! `accelerator_risk`: the points, sign by sign.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::numbers::Growth;
use crate::store::{DAY, HOUR, MINUTE, Row, Rows, assert_same, now, row, time};

#[tokio::test]
async fn the_worst_stand_first() {
    for seed in 90..96 {
        let mut random = StdRng::seed_from_u64(seed);
        // Hours that begin between the full ones, far from the edges of a day.
        let at = now() - 30 * MINUTE;
        let mut rows = Rows::default();
        let mut expected = Vec::new();
        for number in 0..8 {
            let device = format!("d{number}");
            let tells: [bool; 8] = std::array::from_fn(|_| number > 0 && random.random_bool(0.8));
            let mut grown: [Growth; 6] = Default::default();
            let mut last_hour = 0;
            for hour in (0..160).rev() {
                if random.random_bool(0.1) {
                    continue;
                }
                let ts = at - hour * HOUR;
                last_hour = ts;
                let is_last_day = ts >= now() - DAY;
                let mut some =
                    |tells: bool, most: i64| (tells && random.random_bool(0.95)).then(|| random.random_range(0..most));
                let busy = if is_last_day { 4 } else { 1 };
                let (uncorrected, corrected) = (some(tells[0], 2).filter(|_| hour % 40 == 0), some(tells[1], 3 * busy));
                let (rows_replaced, pages) =
                    (some(tells[2], 2).filter(|_| hour % 50 == 0), some(tells[2], 2).filter(|_| hour % 70 == 0));
                let (crc, replays) = (some(tells[3], 2 * busy), some(tells[4], 40));
                rows.add(
                    "accelerator_1h",
                    json!({ "ts": time(ts), "node": "n", "host": "h", "device": device, "revision": 0, "samples": 60,
                        "vendor": "nvidia", "model": "H100", "ecc_uncorrected_aggregate_increase": uncorrected,
                        "ecc_corrected_volatile_increase": corrected,
                        "remapped_rows_uncorrected_increase": rows_replaced, "retired_pages_increase": pages,
                        "link_crc_errors_increase": crc, "pcie_replays_increase": replays }),
                );
                let replaced = (rows_replaced.is_some() || pages.is_some())
                    .then(|| rows_replaced.unwrap_or(0) + pages.unwrap_or(0));
                for (sum, value) in grown.iter_mut().zip([uncorrected, corrected, replaced, crc, replays]) {
                    if let Some(value) = value {
                        sum.add(value as f64, is_last_day);
                    }
                }
            }
            let states: [Option<bool>; 3] =
                std::array::from_fn(|_| (tells[5] && random.random_bool(0.7)).then(|| random.random_bool(0.3)));
            let [failed, rows_wait, pages_wait] = states;
            let health = tells[6].then(|| ["ok", "warning", "failed"][random.random_range(0..3)]);
            let action = tells[7].then(|| ["none", "gpu_reset"][random.random_range(0..2)]);
            rows.add(
                "accelerator",
                json!({ "ts": time(now() - 20_000_000), "node": "n", "host": "h", "device": device,
                    "remapped_rows_failed": failed, "remapped_rows_pending": rows_wait,
                    "retired_pages_pending": pages_wait, "health": health, "recovery_action": action }),
            );
            // An older state counts no more.
            rows.add(
                "accelerator",
                json!({ "ts": time(now() - 10 * MINUTE), "node": "n", "host": "h", "device": device,
                    "remapped_rows_failed": true, "health": "failed" }),
            );
            let pending = match (rows_wait, pages_wait) {
                (None, None) => None,
                (a, b) => Some(a == Some(true) || b == Some(true)),
            };
            let verdict = if failed == Some(true) || health == Some("failed") {
                Some(50.0)
            } else if health == Some("warning") || action == Some("gpu_reset") {
                Some(10.0)
            } else {
                (failed.is_some() || health.is_some() || action.is_some()).then_some(0.0)
            };
            let [uncorrected, corrected, replaced, crc, replays, _] = &grown;
            let points = [
                verdict,
                pending.map(|pending| if pending { 20.0 } else { 0.0 }),
                uncorrected.all.map(|n| (10.0 * n).min(20.0)),
                corrected.all.map(|n| (n / 100.0).min(5.0) * if corrected.rises() { 2.0 } else { 1.0 }),
                replaced.all.map(|n| (2.0 * n).min(10.0)),
                crc.all.map(|n| (n / 100.0).min(2.0) + if crc.rises() { 3.0 } else { 0.0 }),
                replays.all.map(|n| (n / 1_000.0).min(5.0)),
            ];
            let known = points.iter().flatten().count();
            let score = (known > 0).then(|| points.iter().flatten().sum::<f64>());
            expected.push(row(json!({
                "device": device, "score": score, "signs_known": known, "verdict_points": points[0],
                "pending_points": points[1], "ecc_uncorrected_points": points[2], "ecc_corrected_points": points[3],
                "pages_points": points[4], "link_points": points[5], "pcie_points": points[6],
                "ecc_uncorrected": uncorrected.all, "ecc_corrected": corrected.all,
                "ecc_corrected_last_day": corrected.last_day, "ecc_corrected_day_before": corrected.day_before(),
                "replaced": replaced.all, "link_crc_errors": crc.all, "link_crc_last_day": crc.last_day,
                "link_crc_day_before": crc.day_before(), "pcie_replays": replays.all,
                "remapped_rows_failed": failed, "pending": pending, "health": health, "recovery_action": action,
                "last_hour": last_hour,
            })));
        }
        expected.sort_by(|a: &Row, b: &Row| {
            let score = |row: &Row| row["score"].as_f64().unwrap_or(-1.0);
            score(b).total_cmp(&score(a)).then_with(|| a["device"].as_str().cmp(&b["device"].as_str()))
        });
        for (place, row) in expected.iter_mut().enumerate() {
            row.insert("place".to_owned(), Value::from(place + 1));
        }
        let asked = rows.open().await;
        let got = asked.ask("SELECT * FROM accelerator_risk").await;
        assert_same(&format!("seed {seed}"), &["device"], &got, &expected);
        assert!(expected.iter().any(|row| row["score"].is_null()), "a card that tells nothing has no score");
    }
    assert!(Rows::default().open().await.ask("SELECT * FROM accelerator_risk").await.is_empty());
}
