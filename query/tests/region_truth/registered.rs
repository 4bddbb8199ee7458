//! What is registered and what runs: Q12 (nominal beside measured capacity) and Q20 (versions).

use std::collections::{BTreeMap, BTreeSet};

use nodescope_simulate::failures::Standing;
use nodescope_simulate::models::Model;
use nodescope_simulate::registry::{self, measured_share};
use nodescope_simulate::world::{DAY, HOUR, Host, MINUTE};
use serde_json::json;

use crate::Answer;
use crate::region::Region;
use crate::store::{Row, row};

/// Whether any hour of the last thirty days has a row of a device.
fn was_seen(region: &Region, host: usize, device: usize) -> bool {
    // The newest first: most are seen now.
    let mut hours: Vec<i64> = region.hours(region.now - 30 * DAY).collect();
    hours.reverse();
    hours.into_iter().any(|hour| region.rows_of(host, device, hour, hour + HOUR) > 0)
}

pub fn measured(region: &Region) -> Answer {
    let world = &region.fleet.world;
    // By node and model: those that were seen, by identifier, and how many are registered.
    let mut pools: BTreeMap<(usize, &str), (&Model, Vec<String>, i64)> = BTreeMap::new();
    for (host, device) in region.devices() {
        let it = &world.hosts[host];
        let pool = pools.entry((it.node, it.model.name)).or_insert((it.model, Vec::new(), 0));
        pool.2 += 1;
        if was_seen(region, host, device) {
            // A new name counts as soon as somebody has told of it.
            pool.1.push(registry::identifier(&region.fleet, host, device, region.end - 1));
        }
    }
    let measured_at = world.options.start - 3 * DAY;
    let mut expected: Vec<Row> = Vec::new();
    for ((node, _), (model, seen, registered)) in &pools {
        let lines: Vec<(Option<&String>, i64)> =
            if seen.is_empty() { vec![(None, *registered)] } else { seen.iter().map(|name| (Some(name), 1)).collect() };
        let share = (model.fp16 * measured_share(&region.fleet, *node, model) / 1e9).round() * 1e9;
        for (precision, sparsity, nominal) in model.capacities() {
            let measured = (precision == "fp16" && sparsity == "dense").then_some(share);
            for (identifier, devices) in &lines {
                let all = *devices as f64;
                expected.push(row(json!({
                    "node": world.nodes[*node].code, "identifier": identifier, "class": "intelligent",
                    "vendor": model.vendor, "model": model.name, "precision": precision, "sparsity": sparsity,
                    "devices": devices, "nominal_device_flops": nominal, "measured_device_flops": measured,
                    "nominal_flops": nominal * all, "measured_flops": measured.map(|measured| measured * all),
                    "shortfall_ratio": measured.map(|measured| 1.0 - measured / nominal),
                    "measured_at": measured.map(|_| measured_at * 1_000_000),
                    "measured_age_days": measured.map(|_| (region.now - measured_at) as f64 / DAY as f64),
                })));
            }
        }
    }
    let key = &["node", "identifier", "model", "precision", "sparsity"];
    Answer::new("Q12", "SELECT * FROM capacity_measured", key, expected)
}

/// Whether a host told of its machine in the last two hours: on the hour, and lately every minute.
fn machine_is_known(region: &Region, host: usize) -> bool {
    let told = |step: i64, from: i64, to: i64| {
        let mut times = ((from + step - 1).div_euclid(step)..).map(|n| n * step).take_while(|at| *at < to);
        times.any(|at| region.fleet.lives[host].standing(at) == Standing::Up)
    };
    told(HOUR, region.now - 2 * HOUR, region.raw) || told(MINUTE, region.raw, region.end)
}

/// Whether a device told of itself in the last ten minutes.
fn card_is_known(region: &Region, host: usize, device: usize) -> bool {
    let is_told = |at| region.fleet.is_told(host, device, at);
    region.newest(region.every("accelerator"), region.now - 10 * MINUTE, is_told).is_some()
}

/// Name, version, and whether it is approved, of each component of a machine.
fn machine(it: &Host) -> [(&'static str, &'static str, &'static str, Option<bool>); 4] {
    let is_arm = it.model.vendor == "ascend";
    let of = |arm, other| if is_arm { arm } else { other };
    [
        ("bios", of("Atlas 800T A2", "NF5688M7"), "4.21.09", Some(true)),
        ("kernel", "kernel", of("5.10.0-216.0.0.115.oe2203sp4.aarch64", "5.15.0-112-generic"), None),
        ("os", of("openEuler", "ubuntu"), of("22.03", "22.04"), None),
        ("agent", "agent", it.agent_version, Some(true)),
    ]
}

pub fn drift(region: &Region) -> Answer {
    // Node, component and name: of each version, units and hosts, and whether it is approved.
    type Versions<'a> = BTreeMap<&'a str, (i64, BTreeSet<&'a str>, Option<bool>)>;
    let mut all: BTreeMap<(usize, &str, &str), Versions<'_>> = BTreeMap::new();
    for (host, it) in region.hosts() {
        let mut add = |component, name, version, units: i64, is_approved| {
            let versions = all.entry((it.node, component, name)).or_default();
            let line = versions.entry(version).or_insert((0, BTreeSet::new(), is_approved));
            line.0 += units;
            line.1.insert(it.name.as_str());
        };
        let cards = (0..it.devices.len()).filter(|device| card_is_known(region, host, *device)).count() as i64;
        if cards > 0 {
            // Older drivers are approved like newer ones.
            add("driver", it.model.vendor, it.driver, cards, Some(true));
            add("firmware", it.model.name, it.model.firmware, cards, Some(true));
        }
        if machine_is_known(region, host) {
            for (component, name, version, is_approved) in machine(it) {
                add(component, name, version, 1, is_approved);
            }
        }
    }
    let mut expected = Vec::new();
    for ((node, component, name), versions) in &all {
        let fleet: i64 = versions.values().map(|line| line.0).sum();
        let most = versions.values().map(|line| line.0).max();
        for (version, (units, hosts, is_approved)) in versions {
            let is_most_common = Some(*units) == most;
            let first: Vec<&str> = hosts.iter().copied().take(5).collect();
            expected.push(row(json!({
                "node": region.fleet.world.nodes[*node].code, "component": component, "name": name,
                "version": version, "units": units, "hosts": hosts.len(), "share_ratio": *units as f64 / fleet as f64,
                "is_most_common": is_most_common, "is_approved": is_approved,
                "laggards": (!is_most_common).then(|| first.join(", ")),
            })));
        }
    }
    Answer::new("Q20", "SELECT * FROM version_drift", &["node", "component", "name", "version"], expected)
}
