//! `link_matrix`.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::numbers::percentile;
use crate::store::{DAY, Row, Rows, assert_within, now, row, time};

struct Link {
    node: &'static str,
    host: String,
    to_node: Option<&'static str>,
    peer: String,
    rows: Vec<(i64, i64, Option<f64>)>,
    fresh: bool,
    limit: Option<f64>,
}

fn median_of(links: &[&Link]) -> Option<f64> {
    let medians: Vec<f64> = links
        .iter()
        .filter_map(|link| percentile(&link.rows.iter().filter_map(|row| row.2).collect::<Vec<_>>(), 0.5))
        .collect();
    percentile(&medians, 0.5)
}

fn p99_of(link: &Link) -> Option<f64> {
    percentile(&link.rows.iter().filter_map(|row| row.2).map(|mean| mean * 1.5).collect::<Vec<_>>(), 0.99)
}

#[tokio::test]
async fn the_matrix_has_breaches_and_asymmetry() {
    for seed in 500..515 {
        let mut random = StdRng::seed_from_u64(seed);
        let at = now();
        let mut rows = Rows::default();
        let mut links = Vec::new();
        for (node, to_node) in [("a", Some("b")), ("b", Some("a")), ("a", Some("c")), ("c", None)] {
            let peer = format!("to-{}", to_node.unwrap_or("nowhere"));
            let limit = random.random_bool(0.7).then(|| random.random_range(0.001..0.02));
            if let Some(to_node) = to_node {
                rows.add(
                    "registry_peer",
                    json!({"ts": time(at - DAY), "node": node, "host": "", "peer": peer, "valid_from": time(at - DAY),
                        "revoked": false, "import": "1", "to_node": to_node, "rtt_limit_seconds": limit,
                        "loss_limit_ratio": 0.05}),
                );
            }
            for host in 0..random.random_range(1..4) {
                let fresh = random.random_bool(0.8);
                let base = random.random_range(0.0001..0.02);
                let mut link = Link {
                    node,
                    host: format!("{node}{host}"),
                    to_node,
                    peer: peer.clone(),
                    rows: vec![],
                    fresh,
                    limit,
                };
                for number in 0..random.random_range(1..8) {
                    let lost = if random.random_bool(0.2) { random.random_range(0..10) } else { 0 };
                    let mean = (lost < 9).then(|| base * random.random_range(1.0..1.3));
                    link.rows.push((10, lost, mean));
                    let age = number * 10 + if fresh { 5 } else { 130 };
                    rows.add(
                        "link",
                        json!({"ts": time(at - age * 1_000_000), "node": node, "host": link.host, "peer": peer,
                            "protocol": "udp", "sent": 10, "lost": lost, "received": 10 - lost,
                            "rtt_mean_seconds": mean, "rtt_p99_seconds": mean.map(|mean| mean * 1.5),
                            "rtt_max_seconds": mean.map(|mean| mean * 2.0)}),
                    );
                }
                links.push(link);
            }
        }
        let mut ways: BTreeMap<(&str, &str), Vec<&Link>> = BTreeMap::new();
        for link in &links {
            ways.entry((link.node, &link.peer)).or_default().push(link);
        }
        let mut expected: Vec<Row> = Vec::new();
        for ((node, peer), all) in ways {
            let fresh: Vec<&Link> = all.iter().copied().filter(|link| link.fresh).collect();
            let to_node = all[0].to_node;
            let p99 = fresh.iter().filter_map(|link| p99_of(link)).reduce(f64::max);
            let tier = p99.map(|p99| match p99 {
                p99 if p99 <= 0.001 => "1 ms",
                p99 if p99 <= 0.005 => "5 ms",
                p99 if p99 <= 0.02 => "20 ms",
                _ => "above",
            });
            let loss = |link: &Link| {
                let (sent, lost) = link.rows.iter().fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
                lost as f64 / sent as f64
            };
            let lost: i64 = fresh.iter().flat_map(|link| &link.rows).map(|row| row.1).sum();
            let sent: i64 = fresh.iter().flat_map(|link| &link.rows).map(|row| row.0).sum();
            let p50 = median_of(&fresh);
            let back: Vec<&Link> = links
                .iter()
                .filter(|link| link.fresh && to_node == Some(link.node) && link.to_node == Some(node))
                .collect();
            let back = median_of(&back);
            let asymmetry = p50.zip(back).map(|(one, other)| one.max(other) / one.min(other) - 1.0);
            let loss_breaches = fresh.iter().filter(|link| to_node.is_some() && loss(link) > 0.05).count();
            let rtt_breaches = fresh
                .iter()
                .filter(|l| l.to_node.is_some() && p99_of(l).zip(l.limit).is_some_and(|(p, m)| p > m))
                .count();
            expected.push(row(json!({"node": node, "to_node": to_node, "peer": peer, "links": fresh.len(),
                "stale_links": all.len() - fresh.len(),
                "sent": (!fresh.is_empty()).then_some(sent), "lost": (!fresh.is_empty()).then_some(lost),
                "loss_ratio": (sent > 0).then(|| lost as f64 / sent as f64),
                "rtt_p50_seconds": p50, "rtt_p99_seconds": p99, "tier": tier, "rtt_breaches": rtt_breaches,
                "loss_breaches": loss_breaches, "reverse_rtt_p50_seconds": back, "asymmetry_ratio": asymmetry})));
        }
        let got = rows.open().await.ask("SELECT * FROM link_matrix").await;
        // DataFusion puts percentiles between two values to a millionth.
        assert_within(&format!("link_matrix, seed {seed}"), &["node", "peer"], &got, &expected, 1e-5);
    }
}
