//! What was registered: nodes, capacity, hosts and devices, what links are measured, maintenance, what is approved,
//! what was billed.
//!
//! Entries are those of an import at the fleet's begin, and of later ones where something changed: resources that were
//! given other identifiers, hosts that were cordoned, maintenance that was announced a day ahead.

use std::collections::BTreeSet;

use crate::Fleet;
use crate::chance::{exact, mix, unit};
use crate::events::{Event, time};
use crate::links;
use crate::models::Model;
use crate::world::{AGENT_VERSIONS, DAY, HOUR};

/// Name of the import at the fleet's begin.
pub const FIRST_IMPORT: &str = "simulate-first";

/// Seconds that are billed together.
pub const WEEK: i64 = 7 * DAY;

fn entry(table: &'static str, at: i64, node: &str, host: &str, import: &str) -> Event {
    Event::new(table, at, node, host)
        .with("valid_from", time(at))
        .with("revoked", false)
        .with("import", import.to_owned())
}

/// Entries written in `[from, to)`. Those of the first import are written at the fleet's begin.
pub fn entries(fleet: &Fleet, from: i64, to: i64) -> Vec<Event> {
    let start = fleet.world.options.start;
    let mut all = Vec::new();
    if from <= start && start < to {
        nodes(fleet, &mut all);
        resources(fleet, &mut all);
        registrations(fleet, start, &mut all);
        peers(fleet, &mut all);
        approved(fleet, &mut all);
    }
    later(fleet, &mut all);
    maintenance(fleet, &mut all);
    billed(fleet, from, to, &mut all);
    all.extend(fleet.attacks.registry(fleet));
    all.retain(|e| from <= e.ts / 1_000_000 && e.ts / 1_000_000 < to);
    all
}

fn nodes(fleet: &Fleet, all: &mut Vec<Event>) {
    let world = &fleet.world;
    for node in &world.nodes {
        all.push(
            entry("registry_node", world.options.start, &node.code, "", FIRST_IMPORT)
                .with("kind", node.kind)
                .with("name", node.name.clone())
                .maybe("parent", node.parent.map(|parent| world.nodes[parent].code.clone()))
                .maybe("region", (!node.region.is_empty()).then_some(node.region))
                .maybe("industry", node.industry)
                .with("operator", node.operator)
                .with("issuer", "CAICT"),
        );
    }
}

/// How many devices of each model a node has.
pub fn devices_by_model(fleet: &Fleet) -> Vec<(usize, &'static Model, i64)> {
    let mut all: Vec<(usize, &'static Model, i64)> = Vec::new();
    for host in &fleet.world.hosts {
        match all.iter_mut().find(|(node, model, _)| *node == host.node && model.name == host.model.name) {
            Some((_, _, count)) => *count += host.devices.len() as i64,
            None => all.push((host.node, host.model, host.devices.len() as i64)),
        }
    }
    all
}

/// What a benchmark finds of a model's nominal figure, on a node.
pub fn measured_share(fleet: &Fleet, node: usize, model: &Model) -> f64 {
    let key = crate::chance::mix_text(fleet.world.options.seed, model.name);
    0.62 + 0.16 * unit(mix(&[key, node as u64, 90]))
}

fn resources(fleet: &Fleet, all: &mut Vec<Event>) {
    let start = fleet.world.options.start;
    for (node, model, devices) in devices_by_model(fleet) {
        let code = &fleet.world.nodes[node].code;
        let short = model.name.to_lowercase().replace(' ', "-");
        let row = |name: String, precision: &'static str, sparsity: &'static str, basis: &'static str, flops: f64| {
            entry("registry_resource", start, code, "", FIRST_IMPORT)
                .with("resource", name)
                .with("class", "intelligent")
                .with("vendor", model.vendor)
                .with("model", model.name)
                .with("precision", precision)
                .with("sparsity", sparsity)
                .with("basis", basis)
                .with("devices", devices)
                .with("device_flops", flops)
                .with("device_memory_bytes", model.memory)
        };
        for (precision, sparsity, flops) in model.capacities() {
            all.push(row(format!("{short}-{precision}-{sparsity}"), precision, sparsity, "nominal", flops));
        }
        let measured = (model.fp16 * measured_share(fleet, node, model) / 1e9).round() * 1e9;
        all.push(
            row(format!("{short}-fp16-dense-measured"), "fp16", "dense", "measured", measured)
                .with("measured_at", time(start - 3 * DAY)),
        );
    }
}

/// Entries of one host and its devices, as of a moment.
fn registration(fleet: &Fleet, host: usize, at: i64, import: &str, status: &'static str, all: &mut Vec<Event>) {
    let it = &fleet.world.hosts[host];
    let code = &fleet.world.node_of(it).code;
    let is_renamed = it.renamed.is_some_and(|since| since <= at);
    let name = |identifier: &str| if is_renamed { format!("{identifier}-2") } else { identifier.to_owned() };
    // Somebody has put another machine in its place, or nobody has corrected the list.
    let machine_id = if fleet.attacks.misregistered.contains(&host) {
        format!("{:016x}{:016x}", mix(&[it.key, 92]), mix(&[it.key, 93]))
    } else {
        it.machine_id.clone()
    };
    let mut add = |device: &str, identifier: &str, status: &'static str| {
        all.push(
            entry("registry_registration", at, code, &it.name, import)
                .with("device", device.to_owned())
                .with("identifier", name(identifier))
                .with("issuer", "CAICT")
                .with("status", status)
                .with("machine_id", machine_id.clone())
                .with("fabric", fleet.world.fabrics[it.fabric].name.clone())
                .with("rack", it.rack.clone()),
        );
    };
    add("", &it.identifier, status);
    for (number, device) in it.devices.iter().enumerate() {
        let place = (host, number);
        if !fleet.attacks.unregistered_devices.contains(&place) {
            let is_in_repair = fleet.attacks.in_repair.contains(&place);
            add(&device.id, &device.identifier, if is_in_repair { "repair" } else { status });
        }
    }
}

fn registrations(fleet: &Fleet, at: i64, all: &mut Vec<Event>) {
    for host in 0..fleet.world.hosts.len() {
        if !fleet.attacks.is_unregistered(host) {
            registration(fleet, host, at, FIRST_IMPORT, "in_service", all);
        }
    }
}

/// Identifier of a device at a moment.
pub fn identifier(fleet: &Fleet, host: usize, device: usize, at: i64) -> String {
    let it = &fleet.world.hosts[host];
    let base = &it.devices[device].identifier;
    if it.renamed.is_some_and(|since| since <= at) { format!("{base}-2") } else { base.clone() }
}

fn later(fleet: &Fleet, all: &mut Vec<Event>) {
    for (host, it) in fleet.world.hosts.iter().enumerate() {
        let is_cordoned = |at: i64| it.cordoned.is_some_and(|since| since <= at);
        if let Some(at) = it.renamed {
            let status = if is_cordoned(at) { "cordoned" } else { "in_service" };
            registration(fleet, host, at, &format!("simulate-renamed-{}", it.name), status, all);
        }
        if let Some(at) = it.cordoned.filter(|at| it.renamed != Some(*at)) {
            registration(fleet, host, at, &format!("simulate-cordoned-{}", it.name), "cordoned", all);
        }
    }
}

fn peers(fleet: &Fleet, all: &mut Vec<Event>) {
    let start = fleet.world.options.start;
    for (host, it) in fleet.world.hosts.iter().enumerate() {
        for way in links::ways(fleet, host) {
            let to = &fleet.world.hosts[way.to];
            all.push(
                entry("registry_peer", start, &fleet.world.node_of(it).code, &it.name, FIRST_IMPORT)
                    .with("peer", way.peer)
                    .with("to_node", fleet.world.node_of(to).code.clone())
                    .with("to_host", to.name.clone())
                    .with("rtt_limit_seconds", way.limit)
                    .with("loss_limit_ratio", 0.01)
                    .with(
                        "bandwidth_bits_per_second",
                        if way.between_nodes { 100_000_000_000_i64 } else { 25_000_000_000 },
                    ),
            );
        }
    }
}

fn maintenance(fleet: &Fleet, all: &mut Vec<Event>) {
    let start = fleet.world.options.start;
    for (host, it) in fleet.world.hosts.iter().enumerate() {
        for work in &fleet.lives[host].maintenance {
            let at = (work.from - DAY).max(start);
            all.push(
                entry("registry_maintenance", at, &fleet.world.node_of(it).code, &it.name, &work.ticket)
                    .with("maintenance", work.ticket.clone())
                    .with("starts", time(work.from))
                    .with("ends", time(work.to))
                    .with("kind", work.kind)
                    .with("reason", "planned"),
            );
        }
    }
}

/// Services that listen on every host: port, program, hash.
pub const LISTENERS: [(i64, &str, &str); 3] = [
    (22, "/usr/sbin/sshd", "9a1d7f40c2b5e3886f0a41d0c7b2e9543d8f61a70be2c4955a3e77d1f08b6c21"),
    (6818, "/usr/sbin/slurmd", "1b77c0f9d5e24a83b6c90d11e3f8a4527c6d5b0e9f1324a8c7d6e5f403b2a190"),
    (19100, "/usr/bin/nodescope-agent", "c4e8a2f17b9d30561e8f4a7cb2d95063f1e7a8d4c5b6093e2f1a7d8c4b5e6f90"),
];

/// Modules that are loaded everywhere beside the accelerators' driver.
pub const MODULES: [(&str, &str, bool); 3] =
    [("mlx5_core", "24.04-0.6.6", true), ("ext4", "", false), ("nvme", "1.0", false)];

fn approved(fleet: &Fleet, all: &mut Vec<Event>) {
    let start = fleet.world.options.start;
    let mut seen: BTreeSet<(&'static str, String, String)> = BTreeSet::new();
    let mut add = |kind: &'static str, name: String, value: String| {
        if seen.insert((kind, name.clone(), value.clone())) {
            all.push(
                entry("registry_approved", start, "", "", FIRST_IMPORT)
                    .with("kind", kind)
                    .with("name", name)
                    .with("value", value)
                    .with("reason", "as built"),
            );
        }
    };
    for host in &fleet.world.hosts {
        let model = host.model;
        for driver in model.drivers {
            add("driver", model.vendor.to_owned(), driver.to_owned());
            add("module", model.module.to_owned(), driver.to_owned());
        }
        add("firmware", model.name.to_owned(), model.firmware.to_owned());
    }
    for product in ["NF5688M7", "Atlas 800T A2"] {
        add("firmware", format!("bios {product}"), "4.21.09".to_owned());
    }
    for (module, version, is_foreign) in MODULES {
        if is_foreign {
            add("module", module.to_owned(), version.to_owned());
        }
    }
    for (port, _, hash) in LISTENERS {
        add("listener", port.to_string(), hash.to_owned());
    }
    for version in AGENT_VERSIONS {
        add("executable", "/usr/bin/nodescope-agent".to_owned(), version.to_owned());
    }
}

/// What was billed.
#[derive(Debug, Clone, PartialEq)]
pub struct Bill {
    /// Index of the node.
    pub node: usize,
    /// Identifier of the device, as of the begin of the billed time.
    pub identifier: String,
    /// Who pays.
    pub project: &'static str,
    /// First second of the billed time; a week.
    pub from: i64,
    /// Accelerator hours.
    pub hours: f64,
    /// When it was told.
    pub told: i64,
}

/// Bills told in `[from, to)`: of each finished week, by device and project; some are wrong.
pub fn bills(fleet: &Fleet, from: i64, to: i64) -> Vec<Bill> {
    let options = &fleet.world.options;
    let mut all = Vec::new();
    let mut begin = options.start.div_euclid(DAY) * DAY + DAY;
    while begin + WEEK + DAY < options.horizon {
        let told = begin + WEEK + HOUR;
        if told < from || told >= to {
            begin += WEEK;
            continue;
        }
        for (host, it) in fleet.world.hosts.iter().enumerate() {
            for device in 0..it.devices.len() {
                let mut by_project: Vec<(&'static str, i64)> = Vec::new();
                for a_use in &fleet.schedule.uses[host][device] {
                    let seconds = a_use.to.min(begin + WEEK) - a_use.from.max(begin);
                    if seconds <= 0 {
                        continue;
                    }
                    let project = fleet.schedule.jobs[a_use.job].project;
                    match by_project.iter_mut().find(|(name, _)| *name == project) {
                        Some((_, sum)) => *sum += seconds,
                        None => by_project.push((project, seconds)),
                    }
                }
                for (project, seconds) in by_project {
                    let draw = unit(mix(&[it.key, 91, device as u64, begin as u64]));
                    // One in fifty is billed too much.
                    let hours = exact(seconds as f64 / HOUR as f64 * if draw > 0.98 { 1.25 } else { 1.0 });
                    let identifier = identifier(fleet, host, device, begin);
                    all.push(Bill { node: it.node, identifier, project, from: begin, hours, told });
                }
            }
        }
        begin += WEEK;
    }
    all
}

fn billed(fleet: &Fleet, from: i64, to: i64, all: &mut Vec<Event>) {
    all.extend(bills(fleet, from, to).into_iter().map(|bill| {
        let import = format!("simulate-bill-{}", bill.from);
        entry("registry_billed", bill.told, &fleet.world.nodes[bill.node].code, "", &import)
            .with("identifier", bill.identifier)
            .with("project", bill.project)
            .with("period_starts", time(bill.from))
            .with("period_ends", time(bill.from + WEEK))
            .with("accelerator_hours", bill.hours)
    }));
}
