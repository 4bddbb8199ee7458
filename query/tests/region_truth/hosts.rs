//! Q5: who can host a job.

use std::collections::BTreeMap;

use nodescope_simulate::failures::Standing;
use nodescope_simulate::world::HOUR;
use serde_json::json;

use crate::Answer;
use crate::devices::{State, figures, has_bad_port, is_in_service, last_seen, state};
use crate::links::{Way, ways};
use crate::region::Region;
use crate::store::{Row, row};

/// How a host is: its agent spoke a short while ago, or it is known to be down, or neither.
pub fn host_state(region: &Region, host: usize) -> &'static str {
    let since = region.fresh_since();
    if agent_seen(region, host).is_some_and(|at| at >= since) {
        return "up";
    }
    // Everybody who asked it of late had no answer, and somebody asked.
    let every = region.every("link");
    let mut asked = false;
    for (from, _) in region.hosts() {
        for way in nodescope_simulate::links::ways(&region.fleet, from).iter().filter(|way| way.to == host) {
            for at in (0..).map(|n| (region.end - 1) / every * every - n * every).take_while(|at| *at >= since) {
                if let Some(probes) = region.fleet.probes(from, way.to, at) {
                    if probes.lost < probes.sent {
                        return "unknown";
                    }
                    asked = true;
                }
            }
        }
    }
    if asked { "down" } else { "unknown" }
}

/// Newest row of a host's agent about itself, of the last hour.
pub fn agent_seen(region: &Region, host: usize) -> Option<i64> {
    let is_told = |at| region.fleet.lives[host].standing(at) == Standing::Up;
    region.newest(region.every("agent"), region.now - HOUR, is_told)
}

/// Longest time there and back that counts for a host: of ways to and from its peers, or the node it is to be near to.
/// None of a way that nobody measures, infinite where nothing comes back.
fn distances(region: &Region, ways: &[Way], near: Option<usize>) -> BTreeMap<(usize, Option<usize>), f64> {
    let mut all: BTreeMap<(usize, Option<usize>), f64> = BTreeMap::new();
    let node = |host: usize| region.fleet.world.hosts[host].node;
    for way in ways.iter().filter(|way| way.is_fresh) {
        let rtt = if way.received() > 0 { way.p99.unwrap_or(f64::INFINITY) } else { f64::INFINITY };
        let (from, to) = (node(way.from), node(way.to));
        let mut add = |key| {
            let longest = all.entry(key).or_insert(rtt);
            *longest = longest.max(rtt);
        };
        let Some(near) = near else {
            add((from, Some(way.from)));
            continue;
        };
        if to == near {
            add((from, Some(way.from)));
        }
        if from == near {
            add((to, Some(way.to)));
        }
        if from == near && to != near {
            add((to, None));
        }
        if to == near && from != near {
            add((from, None));
        }
    }
    all
}

struct Asked {
    accelerators: i64,
    precision: &'static str,
    least: f64,
    longest: Option<f64>,
    near: Option<usize>,
}

fn offers(region: &Region, ways: &[Way], asked: &Asked) -> Vec<Row> {
    let world = &region.fleet.world;
    let distances = distances(region, ways, asked.near);
    // By fabric: time there and back, name, and the rest of a line.
    let mut fabrics: BTreeMap<usize, Vec<(f64, Option<f64>, &str, Row)>> = BTreeMap::new();
    for (host, it) in region.hosts() {
        let is_whole = host_state(region, host) == "up"
            && is_in_service(region, host)
            && (0..it.devices.len()).all(|device| state(region, host, device) == State::Free);
        if !is_whole || has_bad_port(region, host) {
            continue;
        }
        let told = figures(region, it.node, it.model);
        let of = |basis: &str| {
            told.iter().find(|f| f.0 == asked.precision && f.1 == "dense" && f.2 == basis).map(|f| (f.3, f.2))
        };
        let Some((flops, basis)) = of("measured").or_else(|| of("nominal")) else { continue };
        let rtt = distances.get(&(it.node, Some(host))).or_else(|| distances.get(&(it.node, None))).copied();
        if flops < asked.least || asked.longest.is_some_and(|most| rtt.is_none_or(|rtt| rtt > most)) {
            continue;
        }
        let seen = (0..it.devices.len()).filter_map(|device| last_seen(region, host, device)).min();
        let line = row(json!({
            "region": region.region(host), "node": region.node(host), "fabric": world.fabrics[it.fabric].name,
            "host": it.name, "vendor": it.model.vendor, "model": it.model.name, "accelerators": it.devices.len(),
            "device_flops": flops, "basis": basis, "rtt_p99_seconds": rtt.filter(|rtt| rtt.is_finite()),
            "last_seen": seen.map(|at| at * 1_000_000),
        }));
        // What nobody measures comes last.
        let order = rtt.map_or(f64::MAX, |rtt| rtt.min(1e9));
        fabrics.entry(it.fabric).or_default().push((order, rtt, &it.name, line));
    }
    let mut all = Vec::new();
    for mut hosts in fabrics.into_values() {
        hosts.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.2.cmp(b.2)));
        let of = |line: &Row| line["accelerators"].as_i64().expect("a count");
        let accelerators: i64 = hosts.iter().map(|(.., line)| of(line)).sum();
        if accelerators < asked.accelerators {
            continue;
        }
        let (many, mut before) = (hosts.len(), 0);
        for (place, (_, _, _, mut line)) in hosts.into_iter().enumerate() {
            let more = of(&line);
            line.extend(row(json!({ "fabric_hosts": many, "fabric_accelerators": accelerators, "place": place + 1,
                "is_needed": before < asked.accelerators })));
            before += more;
            all.push(line);
        }
    }
    all
}

pub fn hosts_for(region: &Region) -> Vec<Answer> {
    let ways = ways(region);
    let world = &region.fleet.world;
    let (first, last) = (world.hosts[0].node, world.hosts[world.hosts.len() - 1].node);
    let all = [
        Asked { accelerators: 1, precision: "fp16", least: 0.0, longest: None, near: None },
        Asked { accelerators: 16, precision: "fp16", least: 1e14, longest: Some(0.001), near: None },
        Asked { accelerators: 8, precision: "int8", least: 5e14, longest: Some(0.02), near: Some(first) },
        Asked { accelerators: 1, precision: "fp32", least: 0.0, longest: Some(0.005), near: Some(last) },
        Asked { accelerators: 512, precision: "fp16", least: 3e14, longest: Some(0.005), near: None },
    ];
    all.iter()
        .map(|asked| {
            let Asked { accelerators, precision, least, longest, near } = asked;
            let longest = longest.map_or("NULL".to_owned(), |longest| longest.to_string());
            let near = near.map_or("NULL".to_owned(), |near| format!("'{}'", world.nodes[near].code));
            let sql = format!("SELECT * FROM hosts_for({accelerators}, '{precision}', {least:?}, {longest}, {near})");
            // DataFusion puts percentiles between two values to a millionth.
            Answer::new("Q5", &sql, &["node", "host"], offers(region, &ways, asked)).within(1e-6)
        })
        .collect()
}
