//! `telemetry_health`.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::store::{DAY, MINUTE, Rows, assert_same, now, row, time};

#[tokio::test]
async fn what_did_not_come_is_told() {
    for seed in 800..805 {
        // The hour that is asked for moves at the turn of a minute.
        while !told(seed).await {}
    }
}

/// Whether the answer was as expected; false when a minute turned meanwhile.
async fn told(seed: u64) -> bool {
    {
        let mut random = StdRng::seed_from_u64(seed);
        let at = now();
        let end = at / MINUTE * MINUTE - 2 * MINUTE;
        let mut rows = Rows::default();
        let mut expected = Vec::new();
        for number in 0..4 {
            let host = format!("h{number}");
            rows.add(
                "registry_registration",
                json!({"ts": time(at - DAY), "node": "a", "host": host, "device": "", "valid_from": time(at - DAY),
                    "revoked": false, "import": "1", "status": "in_service"}),
            );
            let mut of = |table: &str, entity: (&str, &str), every: i64, rows: &mut Rows| {
                let (mut came, mut minutes, mut late, mut retried) = (0, 0, 0, 0);
                for minute in -5_i64..65 {
                    if random.random_bool(0.1) {
                        continue;
                    }
                    let samples = random.random_range(1..=60 / every);
                    // A minute is repeated whole, for all hosts.
                    let revision = i64::from(minute.rem_euclid(7) == 3);
                    let more = random.random_range(0..3);
                    let mut row = json!({"ts": time(end - minute * MINUTE), "node": "a", "host": host,
                        "revision": revision, "samples": samples, "expected": 60.0 / every as f64});
                    if !entity.0.is_empty() {
                        row[entity.0] = json!(entity.1);
                    }
                    if table == "agent_1m" {
                        row["records_retried_increase"] = json!(more);
                    }
                    rows.add(table, row);
                    if (1..=60).contains(&minute) {
                        came += samples;
                        minutes += 1;
                        late += revision;
                        retried += more;
                    }
                }
                (came, minutes, late, retried)
            };
            let agent = of("agent_1m", ("probe", "all"), 10, &mut rows);
            of("agent_1m", ("probe", "cpu"), 10, &mut rows);
            let system = of("system_1m", ("", ""), 1, &mut rows);
            let card = of("accelerator_1m", ("device", "g"), 10, &mut rows);
            let fresh = random.random_bool(0.6);
            let ago = if fresh { 20 } else { 600 } * 1_000_000;
            let (waiting, oldest) = if random.random_bool(0.5) { (7, Some(12.5)) } else { (0, None) };
            let failing = random.random_bool(0.5);
            for (probe, succeeded) in [("all", true), ("cpu", true), ("rdma", !failing)] {
                let own = probe == "all";
                rows.add(
                    "agent",
                    json!({"ts": time(at - ago), "node": "a", "host": host, "probe": probe, "succeeded": succeeded,
                        "spool_records": own.then_some(waiting), "spool_oldest_seconds": if own { oldest } else { None },
                        "clock_offset_microseconds": own.then_some(2500)}),
                );
            }
            let lost = random.random_range(0..3) * 50;
            if lost > 0 {
                rows.add(
                    "loss",
                    json!({"ts": time(at - DAY / 2), "node": "a", "host": host, "stage": "spool", "origin": "x/1",
                        "first": 1, "last": lost, "records": lost}),
                );
            }
            let whole = 360.0 + 3600.0 + 360.0;
            let came = agent.0 + system.0 + card.0;
            expected.push(row(json!({"node": "a", "host": host, "state": if fresh { "up" } else { "unknown" },
                "last_seen": at - ago, "expected_rows": whole, "received_rows": came,
                "completeness_ratio": came as f64 / whole, "missing_minutes": 60 - agent.1, "late_minutes": agent.2,
                "lost_records": lost, "retried_records": agent.3, "waiting_records": fresh.then_some(waiting),
                "lag_seconds": fresh.then_some(oldest.unwrap_or(0.0)),
                "failing_probes": fresh.then_some(i64::from(failing)),
                "clock_offset_seconds": fresh.then_some(0.0025)})));
        }
        let got = rows.open().await.ask("SELECT * FROM telemetry_health").await;
        if now() / MINUTE != at / MINUTE {
            return false;
        }
        assert_same(&format!("telemetry_health, seed {seed}"), &["host"], &got, &expected);
        true
    }
}
