//! `host_now` and `hosts_for`.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::numbers::percentile;
use crate::region::{Host, MODELS, NODES, Region};
use crate::store::{DAY, Row, assert_same, assert_within, row, time};

#[tokio::test]
async fn a_host_that_stopped_reporting_is_unknown() {
    for seed in 300..310 {
        let region = Region::random(seed);
        let expected: Vec<Row> = region
            .hosts
            .iter()
            .filter(|host| host.is_listed())
            .map(|host| {
                row(json!({"node": host.node, "host": host.host, "state": host.state(),
                    "is_cordoned": host.is_cordoned(), "in_maintenance": region.is_worked_on(host),
                    "fabric": host.fabric, "status": host.status.unwrap_or("in_service"),
                    "last_seen": host.agent_age_seconds.filter(|age| *age < 3600)
                        .map(|age| region.at - age * 1_000_000),
                    "accelerators": host.cards.iter().filter(|card| card.is_registered()).count()}))
            })
            .collect();
        let asked = region.rows().open().await;
        let got = asked.ask("SELECT * FROM host_now").await;
        assert_same(&format!("host_now, seed {seed}"), &["host"], &got, &expected);
    }
}

/// A measured way: node, host, peer's node, peer's host, the 99 of 100 of each ten seconds, and whether it is fresh.
struct Way {
    node: &'static str,
    host: String,
    to_node: &'static str,
    to_host: Option<String>,
    times: Vec<f64>,
    fresh: bool,
}

fn ways(region: &Region, random: &mut StdRng) -> Vec<Way> {
    let mut ways = Vec::new();
    for _ in 0..random.random_range(0..25) {
        let from = region.hosts.choose(random).expect("a host");
        let to = region.hosts.choose(random).expect("a host");
        ways.push(Way {
            node: from.node,
            host: from.host.clone(),
            to_node: to.node,
            to_host: random.random_bool(0.5).then(|| to.host.clone()),
            times: (0..random.random_range(0..6)).map(|_| random.random_range(0.0005..0.02)).collect(),
            fresh: random.random_bool(0.8),
        });
    }
    ways
}

fn farthest<'a>(ways: impl Iterator<Item = &'a Way>) -> Option<f64> {
    ways.filter(|way| way.fresh).map(|way| percentile(&way.times, 0.99).unwrap_or(1e9)).reduce(f64::max)
}

fn distance(ways: &[Way], host: &Host, from_node: Option<&str>) -> Option<f64> {
    let Some(from) = from_node else {
        return farthest(ways.iter().filter(|way| way.node == host.node && way.host == host.host));
    };
    let own = ways.iter().filter(|way| {
        let goes = way.to_node == from && way.node == host.node && way.host == host.host;
        let comes = way.node == from && way.to_node == host.node && way.to_host.as_deref() == Some(&host.host);
        goes || comes
    });
    let between = ways.iter().filter(|way| {
        way.node != way.to_node
            && ((way.node == from && way.to_node == host.node) || (way.to_node == from && way.node == host.node))
    });
    farthest(own).or_else(|| farthest(between))
}

#[tokio::test]
async fn no_stale_cordoned_or_fragmented_host_is_offered() {
    let mut offered = 0;
    for seed in 400..408 {
        let mut region = Region::random(seed);
        region.hosts.iter_mut().for_each(|host| host.probed = None);
        let mut random = StdRng::seed_from_u64(seed + 1000);
        let ways = ways(&region, &mut random);
        let mut rows = region.rows();
        for (number, way) in ways.iter().enumerate() {
            let peer = format!("p{number}");
            rows.add(
                "registry_peer",
                json!({"ts": time(region.at - 9 * DAY), "node": way.node, "host": way.host, "peer": peer,
                    "valid_from": time(region.at - 9 * DAY), "revoked": false, "import": "1",
                    "to_node": way.to_node, "to_host": way.to_host}),
            );
            let newest = if way.fresh { 10 } else { 150 };
            let mut add = |at: usize, time_taken: Option<f64>| {
                let received = i64::from(time_taken.is_some());
                rows.add(
                    "link",
                    json!({"ts": time(region.at - (newest + 10 * at as i64) * 1_000_000), "node": way.node,
                        "host": way.host, "peer": peer, "protocol": "udp", "sent": 1, "received": received,
                        "lost": 1 - received, "rtt_mean_seconds": time_taken, "rtt_p99_seconds": time_taken}),
                );
            };
            way.times.iter().enumerate().for_each(|(at, taken)| add(at, Some(*taken)));
            add(way.times.len(), None);
        }
        let asked = rows.open().await;
        for _ in 0..5 {
            let wanted = *[1, 4, 8, 16, 24].choose(&mut random).expect("one");
            let least = *[0.0, 150e12, 300e12, 600e12, 900e12].choose(&mut random).expect("one");
            let rtt = random.random_bool(0.5).then(|| random.random_range(0.005..0.02));
            let from = random.random_bool(0.6).then(|| *NODES.choose(&mut random).expect("one"));
            let expected = oracle(&region, &ways, wanted, least, rtt, from);
            offered += expected.len();
            let text = |value: Option<String>| value.unwrap_or("NULL".to_owned());
            let sql = format!(
                "SELECT * FROM hosts_for({wanted}, 'fp16', {least:?}, {}, {})",
                text(rtt.map(|rtt| format!("{rtt:?}"))),
                text(from.map(|node| format!("'{node}'")))
            );
            let got = asked.ask(&sql).await;
            // DataFusion puts percentiles between two values to a millionth.
            assert_within(&format!("{sql}, seed {seed}"), &["node", "host"], &got, &expected, 1e-6);
        }
    }
    assert!(offered > 25, "there is something to offer: {offered}");
}

fn oracle(region: &Region, ways: &[Way], wanted: i64, least: f64, limit: Option<f64>, from: Option<&str>) -> Vec<Row> {
    let mut fabrics: BTreeMap<(&str, String), Vec<(f64, &Host, f64, &str)>> = BTreeMap::new();
    for host in &region.hosts {
        let cards: Vec<_> = host.cards.iter().filter(|card| card.is_registered()).collect();
        let whole = !cards.is_empty() && cards.iter().all(|card| region.state(host, card) == Some("free"));
        let well = host.state() == "up" && host.port != Some((false, "Polling")) && host.memory_available != Some(0.05);
        if !whole || !well || host.is_cordoned() || region.is_worked_on(host) {
            continue;
        }
        let mut figures = Vec::new();
        for card in &cards {
            let of = |basis: &str| {
                let of_basis = region.resources.iter().filter(|r| {
                    r.is_now
                        && r.node == host.node
                        && MODELS[r.model].1 == card.model
                        && (r.precision, r.sparsity, r.basis) == ("fp16", "dense", basis)
                });
                of_basis.map(|r| r.flops).reduce(f64::min)
            };
            figures.push(match (of("measured"), of("nominal")) {
                (Some(flops), _) => Some((flops, "measured")),
                (None, nominal) => nominal.map(|flops| (flops, "nominal")),
            });
        }
        let Some(figures) = figures.into_iter().collect::<Option<Vec<_>>>() else { continue };
        let flops = figures.iter().map(|f| f.0).fold(f64::INFINITY, f64::min);
        let basis = figures.iter().map(|f| f.1).min().expect("a card");
        let rtt = distance(ways, host, from);
        if flops < least || limit.is_some_and(|limit| rtt.is_none_or(|rtt| rtt > limit)) {
            continue;
        }
        let fabric = host.fabric.unwrap_or(&host.host).to_owned();
        fabrics.entry((host.node, fabric)).or_default().push((rtt.unwrap_or(f64::INFINITY), host, flops, basis));
    }
    let mut expected = Vec::new();
    for mut hosts in fabrics.into_values() {
        hosts.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.host.cmp(&b.1.host)));
        let count = |host: &Host| host.cards.iter().filter(|card| card.is_registered()).count() as i64;
        let all: i64 = hosts.iter().map(|(_, host, ..)| count(host)).sum();
        if all < wanted {
            continue;
        }
        let mut before = 0;
        for (place, (rtt, host, flops, basis)) in hosts.iter().enumerate() {
            expected.push(row(json!({"node": host.node, "host": host.host, "fabric": host.fabric,
                "accelerators": count(host), "device_flops": flops, "basis": basis,
                "rtt_p99_seconds": (*rtt < 1e9).then_some(*rtt), "fabric_hosts": hosts.len(),
                "fabric_accelerators": all, "place": place + 1, "is_needed": before < wanted})));
            before += count(host);
        }
    }
    expected
}
