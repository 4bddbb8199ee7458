//! `utilization_hourly`, `availability` and `nodes_idle_online`: hours, as the registry was at their time.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::store::{DAY, HOUR, MINUTE, Row, Rows, assert_same, now, row, time};

fn registration(node: &str, host: &str, device: &str, from: i64, revoked: bool) -> Value {
    json!({"ts": time(from), "node": node, "host": host, "device": device, "valid_from": time(from), "revoked": revoked,
        "import": "1", "status": "in_service"})
}

struct Hour {
    device: usize,
    ts: i64,
    busy: Option<(f64, i64)>,
    core: Option<(f64, i64)>,
}

#[tokio::test]
async fn four_meanings_of_utilisation_stay_apart() {
    for seed in 600..612 {
        let mut random = StdRng::seed_from_u64(seed);
        let start = now() / HOUR * HOUR - 3 * DAY;
        let mut rows = Rows::default();
        // Each device belongs to `a`, and from some time on to `b`.
        let devices = random.random_range(1..5);
        let moves: Vec<Option<i64>> = (0..devices)
            .map(|_| random.random_bool(0.5).then(|| start + random.random_range(0..12) * HOUR + 30 * MINUTE))
            .collect();
        for (device, moved) in moves.iter().enumerate() {
            let name = format!("g{device}");
            rows.add("registry_registration", registration("a", "h", &name, start - DAY, false));
            if let Some(moved) = moved {
                rows.add("registry_registration", registration("a", "h", &name, *moved, true));
                rows.add("registry_registration", registration("b", "h", &name, *moved, false));
            }
        }
        // The agent says where it belongs, and learns of a move at once.
        let node_at = |device: usize, ts: i64| if moves[device].is_some_and(|moved| ts >= moved) { "b" } else { "a" };
        let mut hours = Vec::new();
        for device in 0..devices {
            for hour in 0..12 {
                let ts = start + hour * HOUR;
                if random.random_bool(0.2) {
                    continue;
                }
                let mut value = |p: f64| {
                    random.random_bool(p).then(|| (random.random_range(0.0..1.0), random.random_range(1..360)))
                };
                let (busy, core, plain) = (value(0.9), value(0.5), value(0.5));
                rows.add(
                    "accelerator_1h",
                    json!({"ts": time(ts), "node": node_at(device, ts), "host": "h", "device": format!("g{device}"),
                        "revision": 0, "samples": 360, "utilization_mean_ratio_mean": busy.map(|b| b.0),
                        "utilization_mean_ratio_count": busy.map_or(0, |b| b.1),
                        "utilization_ratio_mean": plain.map(|b| b.0), "utilization_ratio_count": plain.map_or(0, |b| b.1),
                        "core_active_ratio_mean": core.map(|b| b.0), "core_active_ratio_count": core.map_or(0, |b| b.1)}),
                );
                hours.push(Hour { device, ts, busy: busy.or(plain), core });
            }
        }
        // Allocations of two sources, which overlap; by the second.
        let mut spans = Vec::new();
        for number in 0..random.random_range(0..12) {
            let device = random.random_range(0..devices);
            let began = start + random.random_range(-60..700) * MINUTE + 7_000_000;
            let ended = began + random.random_range(1..300) * MINUTE;
            let node = node_at(device, began);
            let source = ["cgroup", "file"][number % 2];
            for (ts, state) in [(began, "held"), (ended, "ended")] {
                rows.add(
                    "allocation",
                    json!({"ts": time(ts), "node": node, "host": "h", "source": source,
                        "allocation": format!("j{number}"), "device": format!("g{device}"), "state": state,
                        "began": time(began), "ended": (state == "ended").then(|| time(ended))}),
                );
            }
            spans.push((device, node, began, ended));
        }
        let held = |device: usize, node: &str, ts: i64| -> f64 {
            let seconds = (0..3600).filter(|second| {
                let at = ts + second * 1_000_000;
                spans.iter().any(|s| s.0 == device && s.1 == node && s.2 <= at && at < s.3)
            });
            seconds.count() as f64
        };
        let mut expected: Vec<Row> = Vec::new();
        let told: BTreeSet<i64> = hours.iter().map(|hour| hour.ts).collect();
        for ts in told {
            for node in ["a", "b"] {
                let registered = (0..devices).filter(|device| node_at(*device, ts) == node).count();
                if registered == 0 {
                    continue;
                }
                let known: Vec<&Hour> = hours.iter().filter(|h| h.ts == ts && node_at(h.device, ts) == node).collect();
                let mean = |of: &dyn Fn(&Hour) -> Option<(f64, f64)>| {
                    let (sum, weight) =
                        known.iter().filter_map(|h| of(h)).fold((0.0, 0.0), |t, v| (t.0 + v.0 * v.1, t.1 + v.1));
                    (weight > 0.0).then(|| sum / weight)
                };
                let allocated: f64 = known.iter().map(|h| held(h.device, node, ts)).sum();
                expected.push(row(json!({"ts": time(ts), "node": node, "registered_accelerators": registered,
                    "known_accelerators": known.len(), "unknown_ratio": 1.0 - known.len() as f64 / registered as f64,
                    "allocated_ratio": (!known.is_empty()).then(|| allocated / (3600.0 * known.len() as f64)),
                    "busy_ratio": mean(&|h| h.busy.map(|b| (b.0, b.1 as f64))),
                    "busy_when_allocated_ratio": mean(&|h| h.busy.map(|b| (b.0, held(h.device, node, ts)))),
                    "core_active_ratio": mean(&|h| h.core.map(|c| (c.0, c.1 as f64)))})));
            }
        }
        let got = rows.open().await.ask("SELECT * FROM utilization_hourly").await;
        assert_same(&format!("utilization_hourly, seed {seed}"), &["ts", "node"], &got, &expected);
    }
}

#[tokio::test]
async fn availability_leaves_out_what_nobody_knows() {
    for seed in 700..708 {
        let mut random = StdRng::seed_from_u64(seed);
        let end = now() / HOUR * HOUR;
        let mut rows = Rows::default();
        let mut told: Vec<(&str, String, i64, [i64; 4])> = Vec::new();
        for (node, host) in [("a", 0), ("a", 1), ("b", 2), ("c", 3)] {
            for hour in 1..200 {
                if random.random_bool(0.3) {
                    continue;
                }
                let mut left = 3600;
                let mut part = |share: f64| {
                    let some = if random.random_bool(share) { random.random_range(0..=left) } else { 0 };
                    left -= some;
                    some
                };
                let (down, unknown, maintenance) = (part(0.2), part(0.2), part(0.1));
                // Of `c` nothing is known.
                let seconds = if node == "c" { [0, 0, 3600, 0] } else { [left, down, unknown, maintenance] };
                let ts = end - hour * 4 * HOUR;
                rows.add(
                    "availability_1h",
                    json!({"ts": time(ts), "node": node, "host": host.to_string(), "revision": 0,
                        "up_seconds": seconds[0], "down_seconds": seconds[1], "unknown_seconds": seconds[2],
                        "maintenance_seconds": seconds[3]}),
                );
                told.push((node, host.to_string(), ts, seconds));
            }
        }
        let asked = rows.open().await;
        let days_ago = random.random_range(2..20);
        let (from, to) = (end - days_ago * DAY, end - DAY);
        let spans = [
            (format!("availability('{}', '{}')", time(from), time(to)), from, to),
            ("availability_30d".to_owned(), now() - 30 * DAY, now()),
        ];
        for (view, from, to) in spans {
            let mut sums: BTreeMap<&str, ([i64; 4], BTreeSet<&str>, BTreeSet<i64>)> = BTreeMap::new();
            for (node, host, ts, seconds) in told.iter().filter(|t| (from..to).contains(&t.2)) {
                let sum = sums.entry(node).or_default();
                sum.0.iter_mut().zip(seconds).for_each(|(sum, more)| *sum += more);
                sum.1.insert(host);
                sum.2.insert(*ts);
            }
            let ratio = |part: i64, whole: i64| (whole > 0).then(|| part as f64 / whole as f64);
            let expected: Vec<Row> = sums
                .iter()
                .map(|(node, ([up, down, unknown, maintenance], hosts, hours))| {
                    let availability = ratio(*up, up + down + maintenance);
                    let reliability = ratio(*up, up + down);
                    let unknown_ratio = ratio(*unknown, up + down + maintenance + unknown);
                    let keeps = availability
                        .zip(reliability)
                        .zip(unknown_ratio)
                        .map(|((a, r), u)| a >= 0.8 && r >= 0.85 && u <= 0.1);
                    let keeps = if unknown_ratio > Some(0.1) { Some(false) } else { keeps };
                    row(json!({"node": node, "hosts": hosts.len(), "hours": hours.len(), "up_seconds": up,
                        "down_seconds": down, "maintenance_seconds": maintenance, "unknown_seconds": unknown,
                        "availability_ratio": availability, "reliability_ratio": reliability,
                        "unknown_ratio": unknown_ratio, "keeps_to_target": keeps}))
                })
                .collect();
            let got = asked.ask(&format!("SELECT * FROM {view}")).await;
            assert_same(&format!("{view}, seed {seed}"), &["node"], &got, &expected);
        }
    }
}

#[tokio::test]
async fn a_node_that_is_online_and_computes_nothing_is_found() {
    let at = now();
    let hour = at / HOUR * HOUR;
    let mut rows = Rows::default();
    // Node: seconds up of an hour, mean use, whether somebody held it lately, whether it reports now.
    let nodes = [
        ("idle", 3600, 0.001, false, true),
        ("away", 1800, 0.001, false, true),
        ("busy", 3600, 0.4, false, true),
        ("held", 3600, 0.001, true, true),
        ("mute", 3600, 0.001, false, false),
    ];
    for (node, up, busy, held, reports) in nodes {
        let registered = at - 60 * DAY;
        rows.add("registry_registration", registration(node, "h", "", registered, false));
        for device in ["g0", "g1"] {
            rows.add("registry_registration", registration(node, "h", device, registered, false));
            for ago in 1..100 {
                rows.add(
                    "accelerator_1h",
                    json!({"ts": time(hour - ago * HOUR), "node": node, "host": "h", "device": device, "revision": 0,
                        "samples": 360, "utilization_ratio_mean": busy, "utilization_ratio_max": 0.5}),
                );
            }
            if reports {
                rows.add(
                    "accelerator",
                    json!({"ts": time(at - 5_000_000), "node": node, "host": "h", "device": device}),
                );
                rows.add("agent", json!({"ts": time(at - 5_000_000), "node": node, "host": "h", "probe": "all"}));
            }
        }
        for ago in 1..100 {
            rows.add(
                "availability_1h",
                json!({"ts": time(hour - ago * HOUR), "node": node, "host": "h", "revision": 0, "up_seconds": up,
                    "down_seconds": 0, "unknown_seconds": 3600 - up, "maintenance_seconds": 0}),
            );
        }
        // Everybody was held once, long ago.
        let ended = at - if held { 2 * DAY } else { 9 * DAY };
        rows.add(
            "allocation",
            json!({"ts": time(ended), "node": node, "host": "h", "source": "file", "allocation": "j", "device": "g0",
                "state": "ended", "began": time(ended - HOUR), "ended": time(ended)}),
        );
    }
    let got = rows.open().await.ask("SELECT * FROM nodes_idle_online").await;
    let expected = json!({"node": "idle", "online_ratio": 1.0, "busy_ratio": 0.001, "busy_max_ratio": 0.5,
        "available_accelerators": 2, "registered_accelerators": 2, "last_held": time(at - 9 * DAY)});
    assert_same("nodes_idle_online", &["node"], &got, &[row(expected)]);
}
