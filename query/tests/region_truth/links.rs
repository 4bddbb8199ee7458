//! The ways between hosts: Q9 (the matrix of links) and Q15 (health of ports).

use std::collections::BTreeMap;

use nodescope_simulate::failures::Standing;
use nodescope_simulate::links;
use nodescope_simulate::machine::ports;
use nodescope_simulate::world::{DAY, HOUR, MINUTE};
use serde_json::json;

use crate::Answer;
use crate::numbers::percentile;
use crate::region::Region;
use crate::store::{Row, row};

/// One host's probes of another, in the last ten minutes.
pub struct Way {
    pub from: usize,
    pub to: usize,
    pub is_fresh: bool,
    pub limit: f64,
    between_nodes: bool,
    sent: i64,
    lost: i64,
    p50: Option<f64>,
    p95: Option<f64>,
    pub p99: Option<f64>,
    longest: Option<f64>,
}

impl Way {
    pub fn received(&self) -> i64 {
        self.sent - self.lost
    }
}

/// The ways that anybody measured.
pub fn ways(region: &Region) -> Vec<Way> {
    let every = region.every("link");
    let since = (region.now - 10 * MINUTE).max(region.raw);
    let mut all = Vec::new();
    for (host, _) in region.hosts() {
        for links::Way { from, to, limit, between_nodes, .. } in links::ways(&region.fleet, host) {
            let (mut sent, mut lost, mut means, mut worst, mut newest) = (0, 0, Vec::new(), Vec::new(), None);
            for at in ((since + every - 1) / every..=(region.end - 1) / every).map(|n| n * every) {
                if let Some(probes) = region.fleet.probes(from, to, at) {
                    sent += probes.sent;
                    lost += probes.lost;
                    means.extend(probes.mean);
                    worst.extend(probes.worst);
                    newest = Some(at);
                }
            }
            let Some(newest) = newest else { continue };
            all.push(Way {
                from,
                to,
                is_fresh: newest >= region.fresh_since(),
                limit,
                between_nodes,
                sent,
                lost,
                p50: percentile(&means, 0.5),
                p95: percentile(&worst, 0.95),
                p99: percentile(&worst, 0.99),
                longest: worst.into_iter().reduce(f64::max),
            });
        }
    }
    all
}

fn median(ways: &[&Way]) -> Option<f64> {
    percentile(&ways.iter().filter_map(|way| way.p50).collect::<Vec<_>>(), 0.5)
}

pub fn matrix(region: &Region) -> Answer {
    let all = ways(region);
    let node = |host: usize| region.fleet.world.hosts[host].node;
    let mut lines: BTreeMap<(usize, usize), Vec<&Way>> = BTreeMap::new();
    let mut between: BTreeMap<(usize, usize), Vec<&Way>> = BTreeMap::new();
    for way in &all {
        lines.entry((node(way.from), way.to)).or_default().push(way);
        if way.is_fresh {
            between.entry((node(way.from), node(way.to))).or_default().push(way);
        }
    }
    let mut expected = Vec::new();
    for ((from, to), ways) in &lines {
        let fresh: Vec<&Way> = ways.iter().copied().filter(|way| way.is_fresh).collect();
        let some = |value: i64| (!fresh.is_empty()).then_some(value);
        let (sent, lost) = fresh.iter().fold((0, 0), |sum, way| (sum.0 + way.sent, sum.1 + way.lost));
        let most = |of: &dyn Fn(&Way) -> Option<f64>| fresh.iter().filter_map(|way| of(way)).reduce(f64::max);
        let limit = ways[0].limit;
        let p99 = most(&|way| way.p99);
        let tier = p99.map(|p99| match p99 {
            p99 if p99 <= 0.001 => "1 ms",
            p99 if p99 <= 0.005 => "5 ms",
            p99 if p99 <= 0.02 => "20 ms",
            _ => "above",
        });
        let p50 = median(&fresh);
        let back = if node(*to) == *from { None } else { between.get(&(node(*to), *from)) };
        let back = back.and_then(|back| median(back));
        let name = &region.fleet.world.hosts[*to].name;
        expected.push(row(json!({
            "node": region.fleet.world.nodes[*from].code, "to_node": region.node(*to), "to_host": name, "peer": name,
            "protocol": "tcp", "links": fresh.len(), "stale_links": ways.len() - fresh.len(), "sent": some(sent),
            "lost": some(lost), "loss_ratio": (sent > 0).then(|| lost as f64 / sent as f64), "rtt_p50_seconds": p50,
            "rtt_p95_seconds": most(&|way| way.p95), "rtt_p99_seconds": p99,
            "rtt_max_seconds": most(&|way| way.longest), "tier": tier, "rtt_limit_seconds": limit,
            "loss_limit_ratio": 0.01,
            "bandwidth_bits_per_second": if ways[0].between_nodes { 100_000_000_000_i64 } else { 25_000_000_000 },
            "rtt_breaches": fresh.iter().filter(|way| way.p99.is_some_and(|p99| p99 > limit)).count(),
            "loss_breaches": fresh.iter().filter(|way| way.lost as f64 / way.sent as f64 > 0.01).count(),
            "reverse_rtt_p50_seconds": back,
            "asymmetry_ratio": p50.zip(back).map(|(one, other)| one.max(other) / one.min(other) - 1.0),
        })));
    }
    // DataFusion puts percentiles between two values to a millionth; the difference of two is of that size.
    Answer::new("Q9", "SELECT * FROM link_matrix", &["node", "to_node", "peer"], expected).within(1e-6)
}

fn per_terabyte(count: Option<i64>, bytes: Option<i64>) -> Option<f64> {
    let bytes = bytes.filter(|bytes| *bytes > 0)?;
    count.map(|count| 1e12 * count as f64 / bytes as f64)
}

/// Bytes, retransmits, notifications, flaps and what arrived damaged.
fn line(mut row: Row, [bytes, resent, notified, flaps, damaged]: [Option<i64>; 5]) -> Row {
    let counts = [
        ("retransmits", resent),
        ("pauses", None),
        ("pfc_pauses", None),
        ("congestion_notifications", notified),
        ("flaps", flaps),
        ("crc_errors", damaged),
    ];
    row.insert("bytes".to_owned(), json!(bytes));
    for (name, count) in counts {
        row.insert(name.to_owned(), json!(count));
        row.insert(format!("{name}_per_terabyte"), json!(per_terabyte(count, bytes)));
    }
    row
}

pub fn fabric(region: &Region) -> Answer {
    let hours: Vec<i64> = region.hours(region.now - DAY).collect();
    let (from, to) = (hours[0], hours[hours.len() - 1] + HOUR);
    let fleet = &region.fleet;
    let of_host = |host: usize| -> Vec<Row> {
        let it = &fleet.world.hosts[host];
        let named = |kind: &str, port: &str| -> Row {
            row(json!({ "node": region.node(host), "host": it.name, "kind": kind, "port": port }))
        };
        // A line is there where rows are, be they enough to count by or not.
        let is_there = |table: &str| {
            let every = region.every(table);
            let mut ticks = ((from + every - 1) / every..).map(|n| n * every).take_while(|at| *at < to);
            ticks.any(|at| fleet.lives[host].standing(at) == Standing::Up)
        };
        let mut lines = Vec::new();
        let mut wire = None;
        if is_there("interface") {
            for (name, is_storage) in [("eth0", false), ("eth1", true)] {
                let bytes = fleet.interface_bytes(host, is_storage, region.every("interface"), from, to);
                wire = bytes.map(|bytes| bytes + wire.unwrap_or(0)).or(wire);
                let nothing = bytes.map(|_| 0);
                let mut line = line(named("interface", name), [bytes, None, None, nothing, nothing]);
                // The cards behind it tell of pauses, in a table of their own.
                for name in ["pauses", "pfc_pauses"] {
                    line.remove(name);
                    line.remove(&format!("{name}_per_terabyte"));
                }
                lines.push(line);
            }
        }
        if is_there("rdma") {
            let is_infiniband = fleet.world.fabrics[it.fabric].infiniband;
            for port in 0..ports(fleet, host) {
                let counts = fleet.port_counts(host, port, region.every("rdma"), from, to);
                let notified = counts.filter(|_| !is_infiniband).map(|c| c.notified);
                lines.push(line(
                    named("rdma", &format!("mlx5_{port}/1")),
                    [
                        counts.map(|c| c.bytes),
                        counts.map(|c| c.resent),
                        notified,
                        counts.map(|c| c.flaps),
                        counts.map(|c| c.damaged),
                    ],
                ));
            }
        }
        if is_there("protocol") {
            let resent = fleet.resent_segments(host, region.every("protocol"), from, to);
            lines.push(line(named("tcp", ""), [wire, resent, None, None, None]));
        }
        lines
    };
    let expected = region.each_host(of_host).into_iter().flatten().collect();
    Answer::new("Q15", "SELECT * FROM fabric_health", &["node", "host", "kind", "port"], expected)
}
