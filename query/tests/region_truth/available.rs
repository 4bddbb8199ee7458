//! Availability: Q3, and Q8 (nodes that are online and compute nothing). Minute by minute, for outages begin and end with
//! minutes.

use std::collections::{BTreeMap, BTreeSet};

use nodescope_simulate::failures::Standing;
use nodescope_simulate::world::{DAY, HOUR, MINUTE};
use serde_json::json;

use crate::Answer;
use crate::devices::{State, state};
use crate::region::Region;
use crate::store::row;

/// Seconds of a host in hours: up, down, announced maintenance, unknown.
fn seconds(region: &Region, host: usize, hours: impl Iterator<Item = i64>) -> [i64; 4] {
    let life = &region.fleet.lives[host];
    let mut sum = [0; 4];
    for at in hours.flat_map(|hour| (hour..hour + HOUR).step_by(MINUTE as usize)) {
        let state = match life.standing(at) {
            _ if life.in_maintenance(at) => 2,
            Standing::Up => 0,
            Standing::Down => 1,
            Standing::Silent => 3,
        };
        sum[state] += MINUTE;
    }
    sum
}

/// The same by node, with the node's hosts.
fn by_node(region: &Region, hours: &[i64]) -> BTreeMap<usize, ([i64; 4], i64)> {
    let mut nodes: BTreeMap<usize, ([i64; 4], i64)> = BTreeMap::new();
    let hosts = region.each_host(|host| seconds(region, host, hours.iter().copied()));
    for ((_, it), of_host) in region.hosts().zip(hosts) {
        let sum = nodes.entry(it.node).or_default();
        sum.0.iter_mut().zip(of_host).for_each(|(sum, more)| *sum += more);
        sum.1 += 1;
    }
    nodes
}

fn ratio(part: i64, whole: i64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

pub fn availability(region: &Region) -> Vec<Answer> {
    let (now, end) = (region.now, region.end);
    let time = |at: i64| crate::store::time(at * 1_000_000);
    // A month, a week up to yesterday, and a time that begins and ends between hours.
    let weekly = (end - 8 * DAY, end - DAY);
    let odd = (end - 5 * DAY + 1_234, end - 4 * DAY + 77);
    let of = |(from, to): (i64, i64)| format!("SELECT * FROM availability('{}', '{}')", time(from), time(to));
    let spans =
        [("SELECT * FROM availability_30d".to_owned(), (now - 30 * DAY, now)), (of(weekly), weekly), (of(odd), odd)];
    let one = |(sql, (from, to)): (String, (i64, i64))| {
        let hours: Vec<i64> = region.hours(from).take_while(|hour| *hour < to).collect();
        let expected = by_node(region, &hours)
            .into_iter()
            .map(|(node, ([up, down, maintenance, unknown], hosts))| {
                let availability = ratio(up, up + down + maintenance);
                let reliability = ratio(up, up + down);
                let unknown_ratio = ratio(unknown, up + down + maintenance + unknown);
                let keeps = availability >= Some(0.8) && reliability >= Some(0.85) && unknown_ratio <= Some(0.1);
                let place = &region.fleet.world.nodes[node];
                row(json!({
                    "region": place.region, "node": place.code, "hosts": hosts, "hours": hours.len(),
                    "up_seconds": up, "down_seconds": down, "maintenance_seconds": maintenance,
                    "unknown_seconds": unknown, "availability_ratio": availability, "reliability_ratio": reliability,
                    "unknown_ratio": unknown_ratio, "keeps_to_target": keeps,
                }))
            })
            .collect();
        Answer::new("Q3", &sql, &["node"], expected)
    };
    spans.map(one).into()
}

pub fn idle_online(region: &Region) -> Answer {
    let since = region.now - 7 * DAY;
    let hours: Vec<i64> = region.hours(since).collect();
    let mut expected = Vec::new();
    for (node, ([up, down, maintenance, unknown], _)) in by_node(region, &hours) {
        let devices: Vec<_> =
            region.devices().filter(|(host, _)| region.fleet.world.hosts[*host].node == node).collect();
        let (mut rows, mut busy) = (0, 0.0);
        for (host, device) in &devices {
            for hour in &hours {
                let told = region.hour(*host, *device, *hour);
                rows += told.rows;
                busy += told.busy;
            }
        }
        let held: BTreeSet<i64> = devices.iter().flat_map(|(h, d)| region.held(*h, *d)).map(|held| held.to).collect();
        let last_held = held.last().copied();
        let free = devices.iter().filter(|(h, d)| state(region, *h, *d) == State::Free).count();
        if rows == 0 || free == 0 || last_held.is_some_and(|at| at >= since) {
            continue;
        }
        let place = &region.fleet.world.nodes[node];
        expected.push(row(json!({
            "region": place.region, "industry": place.industry, "node": place.code,
            "online_ratio": ratio(up, up + down + maintenance + unknown), "busy_ratio": busy / rows as f64,
            "available_accelerators": free, "registered_accelerators": devices.len(),
            "last_held": last_held.map(|at| at * 1_000_000),
        })));
    }
    // Any node that nobody held, however often it was away and however busy its accelerators were.
    Answer::new("Q8", "SELECT * FROM nodes_idle_online(0.0, 1.0)", &["node"], expected)
}
