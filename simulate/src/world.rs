//! The fleet as it is built: nodes, racks, fabrics, hosts, accelerators.
//!
//! One national node, below it regions, and below each region sites and nodes of industries, which own the hosts. A
//! *fabric* is a network on which whole hosts compute together; its hosts are alike. What moves (jobs, load, failures)
//! is laid over this by the modules beside it.

use crate::chance::{Chance, mix, mix_text, unit};
use crate::models::{MODELS, Model, SHARES};

/// Seconds of a day.
pub const DAY: i64 = 86_400;
/// Seconds of an hour.
pub const HOUR: i64 = 3_600;
/// Seconds of a minute.
pub const MINUTE: i64 = 60;

/// What fleet, and over what time.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Names the fleet: the same number gives the same fleet with the same fate.
    pub seed: u64,
    /// Hosts.
    pub hosts: usize,
    /// Accelerators in each.
    pub accelerators: usize,
    /// When the fleet's life begins, seconds since 1970; a whole hour.
    pub start: i64,
    /// Until when its life is made, seconds since 1970.
    pub horizon: i64,
    /// How much more often than published things fail. A small fleet would show nothing otherwise.
    pub failures: f64,
    /// Seconds between two samples of a table, at the least: `agent.interval` of every agent.
    pub interval: i64,
}

impl Options {
    /// A fleet whose past reaches `days` back from `now`, and whose future a fortnight on.
    pub fn around(seed: u64, hosts: usize, accelerators: usize, now: i64, days: i64) -> Self {
        let start = (now - days * DAY).div_euclid(HOUR) * HOUR;
        Self { seed, hosts, accelerators, start, horizon: now + 14 * DAY, failures: 1.0, interval: 1 }
    }
}

/// A platform node.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Identification code: opaque.
    pub code: String,
    /// `national`, `regional`, `industry` or `site`.
    pub kind: &'static str,
    /// What people call it.
    pub name: String,
    /// Index of the node above.
    pub parent: Option<usize>,
    /// Region it belongs to; empty for the national one.
    pub region: &'static str,
    /// Industry it serves.
    pub industry: Option<&'static str>,
    /// Who runs it.
    pub operator: &'static str,
    /// Where it is, as a number: round-trip times follow from the distance.
    pub place: (f64, f64),
}

/// A network on which whole hosts compute together.
#[derive(Debug, Clone, PartialEq)]
pub struct Fabric {
    /// Its name.
    pub name: String,
    /// Index of its node.
    pub node: usize,
    /// What its hosts hold.
    pub model: &'static Model,
    /// Its hosts.
    pub hosts: std::ops::Range<usize>,
    /// Whether it is InfiniBand; RoCE otherwise.
    pub infiniband: bool,
}

/// An accelerator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// As in `accelerator.device`.
    pub id: String,
    /// Its number.
    pub index: i64,
    /// Its PCI address.
    pub pci: String,
    /// Its file below /dev.
    pub file: String,
    /// Its serial number.
    pub serial: String,
    /// Identifier of the resource (算力标识): opaque.
    pub identifier: String,
}

/// A host.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Index of its node.
    pub node: usize,
    /// Index of its fabric.
    pub fabric: usize,
    /// Its rack.
    pub rack: String,
    /// Its address.
    pub address: String,
    /// As in `host.machine_id`.
    pub machine_id: String,
    /// Id of its agent.
    pub agent: String,
    /// What its accelerators are.
    pub model: &'static Model,
    /// Its accelerators.
    pub devices: Vec<Device>,
    /// Version of the accelerators' driver.
    pub driver: &'static str,
    /// Version of the agent.
    pub agent_version: &'static str,
    /// Identifier of the host as a resource.
    pub identifier: String,
    /// Mixed into everything about it.
    pub key: u64,
    /// CPU threads.
    pub threads: i64,
    /// Bytes of main memory.
    pub memory: i64,
    /// Temperature of the air that comes in, degrees.
    pub inlet: f64,
    /// Since when it takes no new work, if it ever does.
    pub cordoned: Option<i64>,
    /// When its resources were given other identifiers, if they ever were.
    pub renamed: Option<i64>,
}

/// The fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// What it was made from.
    pub options: Options,
    /// Nodes: the national first, then each region with its own.
    pub nodes: Vec<Node>,
    /// Fabrics.
    pub fabrics: Vec<Fabric>,
    /// Hosts, those of a fabric together.
    pub hosts: Vec<Host>,
}

/// Names of regions, with where they are, in hundreds of kilometres.
const REGIONS: [(&str, &str, (f64, f64)); 8] = [
    ("east", "Yangtze Delta", (10.0, 4.0)),
    ("north", "Beijing-Tianjin-Hebei", (9.0, 13.0)),
    ("south", "Greater Bay Area", (7.0, -4.0)),
    ("southwest", "Chengdu-Chongqing", (-2.0, 3.0)),
    ("northwest", "Ningxia", (-1.0, 11.0)),
    ("central", "Wuhan", (6.0, 3.0)),
    ("northeast", "Shenyang", (13.0, 16.0)),
    ("guizhou", "Guizhou", (-1.0, -1.0)),
];

const INDUSTRIES: [&str; 5] = ["manufacturing", "finance", "health", "education", "transport"];
const OPERATORS: [&str; 5] = ["Carrier One", "Carrier Two", "Carrier Three", "University Alliance", "City Cloud"];

/// Version of the agent that most hosts run, and those of some that lag.
pub const AGENT_VERSIONS: [&str; 3] = ["0.4.0", "0.3.2", "0.2.9"];

/// Most hosts of one fabric.
const FABRIC_HOSTS: usize = 128;

impl World {
    /// Builds the fleet.
    pub fn new(options: Options) -> Self {
        let mut world = Self { options, nodes: Vec::new(), fabrics: Vec::new(), hosts: Vec::new() };
        let leaves = world.build_nodes();
        world.build_hosts(&leaves);
        world
    }

    fn build_nodes(&mut self) -> Vec<usize> {
        let seed = self.options.seed;
        let code = |name: &str| format!("86.{:03}.{:08x}", mix_text(seed, name) % 1000, mix_text(seed ^ 1, name) >> 32);
        self.nodes.push(Node {
            code: code("national"),
            kind: "national",
            name: "National interconnection node".to_owned(),
            parent: None,
            region: "",
            industry: None,
            operator: "National centre",
            place: (9.0, 13.0),
        });
        let regions = (self.options.hosts / 250).clamp(3, REGIONS.len());
        let sites = (self.options.hosts / regions / 100).clamp(1, 6);
        let mut leaves = Vec::new();
        for (number, (region, title, place)) in REGIONS.iter().enumerate().take(regions) {
            let above = self.nodes.len();
            self.nodes.push(Node {
                code: code(region),
                kind: "regional",
                name: format!("{title} regional node"),
                parent: Some(0),
                region,
                industry: None,
                operator: OPERATORS[number % OPERATORS.len()],
                place: *place,
            });
            for site in 0..=sites {
                let is_industry = site == sites;
                let industry = INDUSTRIES[number % INDUSTRIES.len()];
                let mut chance = Chance::of(&[seed, 11, number as u64, site as u64]);
                let name =
                    if is_industry { format!("{title} {industry} node") } else { format!("{title} site {}", site + 1) };
                leaves.push(self.nodes.len());
                self.nodes.push(Node {
                    code: code(&name),
                    kind: if is_industry { "industry" } else { "site" },
                    name,
                    parent: Some(above),
                    region,
                    industry: is_industry.then_some(industry),
                    operator: OPERATORS[(number + site + 1) % OPERATORS.len()],
                    place: (place.0 + chance.between(-0.8, 0.8), place.1 + chance.between(-0.8, 0.8)),
                });
            }
        }
        leaves
    }

    fn build_hosts(&mut self, leaves: &[usize]) {
        let Options { seed, hosts, .. } = self.options;
        for (at, node) in leaves.iter().enumerate() {
            let (mut from, to) = (hosts * at / leaves.len(), hosts * (at + 1) / leaves.len());
            while from < to {
                let until = to.min(from + FABRIC_HOSTS);
                let number = self.fabrics.len();
                // The golden ratio spreads few fabrics evenly over the shares, which dice would not.
                #[allow(clippy::cast_precision_loss, reason = "fabrics are few")]
                let at_share = (unit(mix(&[seed, 12])) * 0.05 + number as f64 * 0.618_033_988_75).fract();
                let model = model_at(at_share);
                let node_row = &self.nodes[*node];
                let name =
                    format!("{}-{}-f{}", node_row.region, if node_row.kind == "site" { "s" } else { "i" }, number);
                self.fabrics.push(Fabric {
                    name,
                    node: *node,
                    model,
                    hosts: from..until,
                    infiniband: model.vendor == "nvidia" && number.is_multiple_of(2),
                });
                for host in from..until {
                    let host = self.build_host(host, number, host - from);
                    self.hosts.push(host);
                }
                from = until;
            }
        }
    }

    fn build_host(&self, number: usize, fabric: usize, in_fabric: usize) -> Host {
        let Options { seed, start, horizon, accelerators, .. } = self.options;
        let Fabric { node, model, .. } = self.fabrics[fabric];
        let node_row = &self.nodes[node];
        let name = format!("{}-f{fabric:02}-{in_fabric:03}", node_row.region);
        let key = mix_text(seed, &name);
        let mut chance = Chance::of(&[key, 1]);
        let uuid = |salt: u64| {
            let (a, b) = (mix(&[key, salt, 1]), mix(&[key, salt, 2]));
            format!(
                "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                a >> 32,
                (a >> 16) & 0xffff,
                a & 0xffff,
                b >> 48,
                b & 0xffff_ffff_ffff
            )
        };
        let devices = (0..accelerators)
            .map(|index| Device {
                id: format!("{}-{}", model.prefix, uuid(100 + index as u64)),
                index: index as i64,
                pci: format!("0000:{:02x}:00.0", 0x17 + 0x11 * index),
                file: format!("{}{}", model.file, if model.file.ends_with('D') { 128 + index } else { index }),
                serial: format!("{:013}", mix(&[key, 200, index as u64]) % 10_000_000_000_000),
                identifier: format!("{:016X}", mix(&[key, 300, index as u64])),
            })
            .collect();
        let life = horizon - start;
        let in_life = |chance: &mut Chance, share: f64| {
            start + ((life - 14 * DAY).max(HOUR) as f64 * share * chance.between(0.3, 0.7)) as i64 / HOUR * HOUR
        };
        Host {
            node,
            fabric,
            rack: format!("{}-r{:02}", self.fabrics[fabric].name, in_fabric / 4),
            address: format!("10.{}.{}.{}", 16 + number / 62_500, number / 250 % 250, number % 250 + 2),
            machine_id: format!("{:016x}{:016x}", mix(&[key, 2]), mix(&[key, 3])),
            agent: uuid(4),
            devices,
            driver: model.drivers[usize::from(chance.happens(0.08))],
            agent_version: AGENT_VERSIONS[chance.weighted(&[0.9, 0.08, 0.02])],
            identifier: format!("{:016X}", mix(&[key, 5])),
            threads: 192,
            memory: 2048 << 30,
            inlet: crate::chance::exact(chance.between(20.0, 25.0)),
            cordoned: chance.happens(0.02).then(|| in_life(&mut chance, 1.4)),
            renamed: chance.happens(0.03).then(|| in_life(&mut chance, 1.0)),
            model,
            name,
            key,
        }
    }

    /// The hosts, in the order in which sealed rows are kept: by node's code and name.
    pub fn in_store_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        order.sort_by_key(|at| (self.nodes[self.hosts[*at].node].code.as_str(), self.hosts[*at].name.as_str()));
        order
    }

    /// The host's node.
    pub fn node_of(&self, host: &Host) -> &Node {
        &self.nodes[host.node]
    }

    /// When the kernel of a host first started, before the fleet's life begins.
    pub fn first_boot(&self, host: &Host) -> i64 {
        self.options.start - (mix(&[host.key, 6]) % 2_000_000) as i64 - HOUR
    }
}

fn model_at(share: f64) -> &'static Model {
    let mut sum = 0.0;
    for (model, weight) in MODELS.iter().zip(SHARES) {
        sum += weight;
        if share < sum {
            return model;
        }
    }
    &MODELS[0]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NOW: i64 = 1_790_000_000;

    #[test]
    fn every_host_and_device_has_a_name_of_its_own() {
        let world = World::new(Options::around(7, 300, 8, NOW, 30));
        let names: BTreeSet<&str> = world.hosts.iter().map(|h| h.name.as_str()).collect();
        let devices: BTreeSet<&str> = world.hosts.iter().flat_map(|h| &h.devices).map(|d| d.id.as_str()).collect();
        let codes: BTreeSet<&str> = world.nodes.iter().map(|n| n.code.as_str()).collect();
        assert_eq!((names.len(), devices.len(), codes.len()), (300, 2400, world.nodes.len()));
        assert_eq!(world, World::new(Options::around(7, 300, 8, NOW, 30)));
        assert_ne!(world.hosts[0].devices, World::new(Options::around(8, 300, 8, NOW, 30)).hosts[0].devices);
    }

    #[test]
    fn a_small_fleet_has_several_vendors_and_regions() {
        let world = World::new(Options::around(7, 24, 8, NOW, 30));
        let vendors: BTreeSet<&str> = world.hosts.iter().map(|h| h.model.vendor).collect();
        let regions: BTreeSet<&str> = world.hosts.iter().map(|h| world.node_of(h).region).collect();
        assert!(vendors.len() >= 3 && regions.len() == 3, "{vendors:?} {regions:?}");
        assert_eq!(world.hosts.len(), 24);
        assert!(world.fabrics.iter().all(|f| f.hosts.clone().all(|h| world.hosts[h].model == f.model)));
    }
}
