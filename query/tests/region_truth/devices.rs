//! Accelerators as they are now: Q1 (capacity) and Q4 (what is stranded).

use std::collections::{BTreeMap, BTreeSet};

use nodescope_simulate::failures::{Ailment, Standing};
use nodescope_simulate::models::Model;
use nodescope_simulate::registry::measured_share;
use nodescope_simulate::world::{DAY, HOUR};
use serde_json::json;

use crate::Answer;
use crate::region::Region;
use crate::store::{Row, row};

/// How a device is, by what is known of it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Unknown,
    Allocated,
    Cordoned,
    Maintenance,
    Unhealthy,
    Free,
}

/// When the newest row of a device came, if it is fresh.
pub fn last_seen(region: &Region, host: usize, device: usize) -> Option<i64> {
    let is_told = |at| region.fleet.is_told(host, device, at);
    region.newest(region.every("accelerator"), region.fresh_since(), is_told)
}

/// Whether anything is wrong with a device, by what its driver tells: an uncorrected error since the driver was loaded, a
/// row of memory that waits to be replaced, or so many that none is left to replace it.
pub fn is_well(region: &Region, host: usize, device: usize, at: i64) -> bool {
    let life = &region.fleet.lives[host];
    let its = &life.devices[device];
    let tells = region.fleet.world.hosts[host].model.tells;
    let errors = its.count(Ailment::Memory, at);
    let since_boot = errors - its.count(Ailment::Memory, life.boot(at) - 1);
    let waits = its.ails(Ailment::Memory, at).is_some() || errors >= 8;
    !(tells.ecc && since_boot > 0 || tells.remapped_rows && waits)
}

/// Whether the registry has a device in service, and nobody works on its host.
pub fn is_in_service(region: &Region, host: usize) -> bool {
    !region.is_cordoned(host, region.now) && !region.fleet.lives[host].in_maintenance(region.now)
}

pub fn is_held(region: &Region, host: usize, device: usize) -> bool {
    region.held(host, device).iter().any(|held| held.is_open)
}

pub fn state(region: &Region, host: usize, device: usize) -> State {
    let Some(seen) = last_seen(region, host, device) else { return State::Unknown };
    if is_held(region, host, device) {
        State::Allocated
    } else if region.is_cordoned(host, region.now) {
        State::Cordoned
    } else if region.fleet.lives[host].in_maintenance(region.now) {
        State::Maintenance
    } else if !is_well(region, host, device, seen) {
        State::Unhealthy
    } else {
        State::Free
    }
}

/// Whether anybody knows what a device is: it reports, or did in an hour of the last day.
fn is_model_known(region: &Region, host: usize, device: usize) -> bool {
    last_seen(region, host, device).is_some()
        || region.hours(region.now - DAY).any(|hour| region.rows_of(host, device, hour, hour + HOUR) > 0)
}

/// Precision, sparsity, basis and operations a second of one device of a model on a node, as registered.
pub fn figures(region: &Region, node: usize, model: &Model) -> Vec<(&'static str, &'static str, &'static str, f64)> {
    let nominal =
        model.capacities().into_iter().map(|(precision, sparsity, flops)| (precision, sparsity, "nominal", flops));
    let measured = (model.fp16 * measured_share(&region.fleet, node, model) / 1e9).round() * 1e9;
    nominal.chain([("fp16", "dense", "measured", measured)]).collect()
}

#[derive(Default)]
struct Sums {
    total: i64,
    withdrawn: i64,
    healthy: i64,
    allocated: i64,
    available: i64,
    unknown: i64,
}

pub fn capacity_now(region: &Region) -> Answer {
    let mut pools: BTreeMap<(usize, &str), (&Model, Sums)> = BTreeMap::new();
    for (host, device) in region.devices() {
        let it = &region.fleet.world.hosts[host];
        let sums = &mut pools.entry((it.node, it.model.name)).or_insert((it.model, Sums::default())).1;
        let (state, in_service) = (state(region, host, device), is_in_service(region, host));
        sums.total += 1;
        // Nobody knows the model of what has been silent for long, but where the node has no other.
        let has_one = region.hosts().all(|(_, other)| other.node != it.node || other.model.name == it.model.name);
        sums.withdrawn += i64::from(!in_service && (has_one || is_model_known(region, host, device)));
        let seen = last_seen(region, host, device);
        sums.healthy += i64::from(in_service && seen.is_some_and(|at| is_well(region, host, device, at)));
        sums.allocated += i64::from(state == State::Allocated);
        sums.available += i64::from(state == State::Free);
        sums.unknown += i64::from(state == State::Unknown);
    }
    let mut expected = Vec::new();
    for ((node, _), (model, sums)) in &pools {
        let place = &region.fleet.world.nodes[*node];
        for (precision, sparsity, basis, flops) in figures(region, *node, model) {
            let in_service = sums.total - sums.withdrawn;
            let all = |devices: i64| devices as f64 * flops;
            expected.push(row(json!({
                "region": place.region, "industry": place.industry, "node": place.code, "class": "intelligent",
                "vendor": model.vendor, "model": model.name, "precision": precision, "sparsity": sparsity,
                "basis": basis, "total_devices": sums.total, "in_service_devices": in_service,
                "healthy_devices": sums.healthy, "allocated_devices": sums.allocated,
                "available_devices": sums.available, "unknown_devices": sums.unknown, "total_flops": all(sums.total),
                "in_service_flops": all(in_service), "healthy_flops": all(sums.healthy),
                "allocated_flops": all(sums.allocated), "available_flops": all(sums.available),
                "unknown_flops": all(sums.unknown),
            })));
        }
    }
    let key = &["node", "model", "precision", "sparsity", "basis"];
    Answer::new("Q1", "SELECT * FROM capacity_now", key, expected)
}

/// Whether a port of the host carries no data, by the newest row that is fresh.
pub fn has_bad_port(region: &Region, host: usize) -> bool {
    let life = &region.fleet.lives[host];
    let is_told = |at| life.standing(at) == Standing::Up;
    let seen = region.newest(region.every("rdma"), region.fresh_since(), is_told);
    seen.is_some_and(|at| life.flaps.iter().any(|(down, up)| *down <= at && at < *up))
}

pub fn stranded(region: &Region) -> Answer {
    type Key = (usize, Option<(&'static str, &'static str)>, &'static str);
    let mut lines: BTreeMap<Key, (i64, BTreeSet<usize>, f64)> = BTreeMap::new();
    for (host, it) in region.hosts() {
        let states: Vec<State> = (0..it.devices.len()).map(|device| state(region, host, device)).collect();
        let free = states.iter().filter(|state| **state == State::Free).count();
        for (device, state) in states.iter().enumerate() {
            let cause = match state {
                State::Allocated => continue,
                State::Unknown => "unreachable",
                State::Cordoned => "cordoned",
                State::Maintenance => "maintenance",
                State::Unhealthy => "unhealthy",
                State::Free if has_bad_port(region, host) => "bad_nic",
                // Simulated hosts always have a tenth of their memory left.
                State::Free if free < states.len().min(8) => "fragment",
                State::Free => continue,
            };
            let model = is_model_known(region, host, device).then_some((it.model.vendor, it.model.name));
            let line = lines.entry((it.node, model, cause)).or_insert((0, BTreeSet::new(), it.model.fp16));
            line.0 += 1;
            line.1.insert(host);
        }
    }
    let expected: Vec<Row> = lines
        .into_iter()
        .map(|((node, model, cause), (devices, hosts, flops))| {
            let place = &region.fleet.world.nodes[node];
            row(json!({
                "region": place.region, "industry": place.industry, "node": place.code,
                "vendor": model.map(|m| m.0), "model": model.map(|m| m.1), "cause": cause, "devices": devices,
                "hosts": hosts.len(), "dense_fp16_flops": model.map(|_| devices as f64 * flops),
            }))
        })
        .collect();
    Answer::new("Q4", "SELECT * FROM capacity_stranded", &["node", "model", "cause"], expected)
}
