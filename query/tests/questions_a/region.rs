//! A small random region: hosts with their accelerators, as the registry, the agents and schedulers tell of them.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::store::{DAY, HOUR, MINUTE, Rows, now, time};

const SECOND: i64 = 1_000_000;

/// Vendor, model, and operations a second at FP16, dense.
pub const MODELS: [(&str, &str, f64); 3] =
    [("nvidia", "H100", 989e12), ("ascend", "910B", 376e12), ("hygon", "K100", 200e12)];

pub struct Holder {
    pub source: &'static str,
    /// How it names the card: `uuid`, `pci`, `index` or `file`.
    pub by: &'static str,
    /// Whether its newest row says `held`.
    pub held: bool,
    pub told_minutes_ago: i64,
}

impl Holder {
    pub fn holds(&self) -> bool {
        self.held && self.told_minutes_ago <= 62
    }
}

pub struct Card {
    pub device: String,
    pub number: usize,
    /// Status in the registry; `None` for one that is not registered.
    pub status: Option<&'static str>,
    pub vendor: &'static str,
    pub model: &'static str,
    pub age_seconds: Option<i64>,
    pub trouble: Option<&'static str>,
    pub memory_used: f64,
    pub holders: Vec<Holder>,
    /// Whether its model stands in an hour of the last day.
    pub in_hours: bool,
    pub worked_on: bool,
}

pub struct Host {
    pub node: &'static str,
    pub host: String,
    /// Status in the registry; `None` where only its cards are registered.
    pub status: Option<&'static str>,
    pub fabric: Option<&'static str>,
    pub agent_age_seconds: Option<i64>,
    pub worked_on: bool,
    /// Of its only RDMA port: up, and physical state.
    pub port: Option<(bool, &'static str)>,
    pub memory_available: Option<f64>,
    /// Answers and losses of probes of it.
    pub probed: Option<(i64, i64)>,
    pub cards: Vec<Card>,
}

pub struct Resource {
    pub node: &'static str,
    pub model: usize,
    pub precision: &'static str,
    pub sparsity: &'static str,
    pub basis: &'static str,
    pub devices: i64,
    pub flops: f64,
    pub is_now: bool,
}

pub struct Region {
    pub hosts: Vec<Host>,
    pub resources: Vec<Resource>,
    pub nodes_worked_on: Vec<&'static str>,
    pub at: i64,
}

pub const NODES: [&str; 3] = ["n1", "n2", "n3"];

impl Card {
    pub fn is_fresh(&self) -> bool {
        self.age_seconds.is_some_and(|age| age <= 120)
    }

    pub fn is_held(&self) -> bool {
        self.holders.iter().any(Holder::holds)
    }

    pub fn is_registered(&self) -> bool {
        self.status.is_some_and(|status| status != "retired")
    }
}

impl Host {
    pub fn is_listed(&self) -> bool {
        self.status != Some("retired") && (self.status.is_some() || self.cards.iter().any(|card| card.status.is_some()))
    }

    pub fn is_cordoned(&self) -> bool {
        self.status.is_some_and(|status| status != "in_service")
    }

    pub fn state(&self) -> &'static str {
        match (self.agent_age_seconds, self.probed) {
            (Some(age), _) if age <= 120 => "up",
            (_, Some((0, losses))) if losses > 0 => "down",
            _ => "unknown",
        }
    }
}

impl Region {
    pub fn random(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let r = &mut random;
        let mut hosts = Vec::new();
        for number in 0..r.random_range(6..16) {
            let kind = r.random_range(0..MODELS.len());
            // Some hosts are wholly well, so that there is something to offer.
            let well = r.random_bool(0.5);
            let odd = |r: &mut StdRng, p: f64| !well && r.random_bool(p);
            let mut cards = Vec::new();
            for card in 0..*[1, 4, 8, 8, 10].choose(r).expect("one") {
                let (vendor, model, _) = MODELS[if odd(r, 0.1) { r.random_range(0..3) } else { kind }];
                let mut holders = Vec::new();
                let holding = !well && r.random_bool(0.4);
                for source in ["cgroup", "endpoint", "file"] {
                    if holding && r.random_bool(0.6) {
                        holders.push(Holder {
                            source,
                            by: ["uuid", "pci", "index", "file"].choose(r).expect("one"),
                            held: r.random_bool(0.7),
                            told_minutes_ago: *[1, 30, 59, 61, 70].choose(r).expect("one"),
                        });
                    }
                }
                let trouble = ["remapped_rows_failed", "remapped_rows_pending", "retired_pages_pending", "ecc"];
                cards.push(Card {
                    device: format!("GPU-{number}-{card}"),
                    number: card,
                    status: if odd(r, 0.1) {
                        [None, Some("cordoned"), Some("repair"), Some("retired")].choose(r).copied().expect("one")
                    } else {
                        Some("in_service")
                    },
                    vendor,
                    model,
                    age_seconds: if odd(r, 0.15) {
                        [None, Some(140), Some(400)].choose(r).copied().expect("one")
                    } else {
                        Some(*[5, 60, 100].choose(r).expect("one"))
                    },
                    trouble: odd(r, 0.1).then(|| *trouble.choose(r).expect("one")),
                    memory_used: if odd(r, 0.1) { 0.95 } else { 0.05 },
                    holders,
                    in_hours: r.random_bool(0.7),
                    worked_on: odd(r, 0.05),
                });
            }
            hosts.push(Host {
                node: NODES.choose(r).copied().expect("one"),
                host: format!("h{number}"),
                status: if odd(r, 0.3) {
                    [None, Some("cordoned"), Some("repair"), Some("retired")].choose(r).copied().expect("one")
                } else {
                    Some("in_service")
                },
                fabric: [None, Some("f1"), Some("f2"), Some("f2")].choose(r).copied().expect("one"),
                agent_age_seconds: if odd(r, 0.2) {
                    [None, Some(150), Some(1000), Some(5000)].choose(r).copied().expect("one")
                } else {
                    Some(*[3, 30, 90].choose(r).expect("one"))
                },
                worked_on: odd(r, 0.1),
                port: [None, Some((true, "LinkUp")), Some((false, "Disabled"))].choose(r).copied().expect("one"),
                memory_available: [None, Some(0.5)].choose(r).copied().expect("one"),
                probed: r.random_bool(0.7).then(|| [(0, 9), (3, 6), (5, 0)].choose(r).copied().expect("one")),
                cards,
            });
            let host = hosts.last_mut().expect("one");
            if odd(r, 0.2) {
                host.port = Some((false, "Polling"));
            }
            if odd(r, 0.2) {
                host.memory_available = Some(0.05);
            }
        }
        let mut resources = Vec::new();
        for node in NODES {
            for (model, (_, _, flops)) in MODELS.iter().enumerate() {
                for (precision, sparsity, basis, factor) in [
                    ("fp16", "dense", "nominal", 1.0),
                    ("fp16", "dense", "measured", 0.7),
                    ("fp16", "sparse", "nominal", 2.0),
                    ("fp8", "dense", "nominal", 2.0),
                ] {
                    for _ in 0..r.random_range(0..3) {
                        resources.push(Resource {
                            node,
                            model,
                            precision,
                            sparsity,
                            basis,
                            devices: r.random_range(1..40),
                            flops: flops * factor * *[0.9, 1.0].choose(r).expect("one"),
                            is_now: r.random_bool(0.9),
                        });
                    }
                }
            }
        }
        let nodes_worked_on = NODES.into_iter().filter(|_| r.random_bool(0.1)).collect();
        Self { hosts, resources, nodes_worked_on, at: now() }
    }

    pub fn is_worked_on(&self, host: &Host) -> bool {
        host.worked_on || self.nodes_worked_on.contains(&host.node)
    }

    pub fn is_in_service(&self, host: &Host, card: &Card) -> bool {
        card.status == Some("in_service")
            && host.is_listed()
            && !host.is_cordoned()
            && !self.is_worked_on(host)
            && !card.worked_on
    }

    /// The state of a card, as `accelerator_now` should have it; `None` for one that it should not have.
    pub fn state(&self, host: &Host, card: &Card) -> Option<&'static str> {
        if !card.is_fresh() {
            return card.is_registered().then_some("unknown");
        }
        Some(if !card.is_registered() {
            "unregistered"
        } else if card.is_held() {
            "allocated"
        } else if card.status != Some("in_service") || !host.is_listed() || host.is_cordoned() {
            "cordoned"
        } else if self.is_worked_on(host) || card.worked_on {
            "maintenance"
        } else if card.trouble.is_some() {
            "unhealthy"
        } else {
            "free"
        })
    }

    /// The model of a node that has registered one alone.
    pub fn only_model(&self, node: &str) -> Option<&'static str> {
        let mut models = self.resources.iter().filter(|r| r.is_now && r.node == node).map(|r| MODELS[r.model].1);
        let first = models.next()?;
        models.all(|model| model == first).then_some(first)
    }

    /// Vendor and model as they are known of a card.
    pub fn known_model(card: &Card) -> Option<(&'static str, &'static str)> {
        (card.is_fresh() || card.in_hours).then_some((card.vendor, card.model))
    }

    pub fn rows(&self) -> Rows {
        let mut rows = Rows::default();
        let at = self.at;
        let entry = |mut row: Value, is_now: bool| {
            row["ts"] = json!(time(at - 60 * DAY));
            row["valid_from"] = json!(time(if is_now { at - 60 * DAY } else { at + DAY }));
            row["revoked"] = json!(false);
            row["import"] = json!("1");
            row
        };
        for (node, region) in NODES.into_iter().zip(["east", "east", "west"]) {
            let node = json!({"node": node, "host": "", "kind": "site", "name": node, "region": region});
            rows.add("registry_node", entry(node, true));
        }
        for (number, resource) in self.resources.iter().enumerate() {
            let (vendor, model, _) = MODELS[resource.model];
            let row = json!({"node": resource.node, "host": "", "resource": number.to_string(), "class": "intelligent",
                "vendor": vendor, "model": model, "precision": resource.precision, "sparsity": resource.sparsity,
                "basis": resource.basis, "devices": resource.devices, "device_flops": resource.flops});
            rows.add("registry_resource", entry(row, resource.is_now));
        }
        let work = |node: &str, host: &str, device: Option<&str>, hours: i64| {
            let row = json!({"node": node, "host": host, "maintenance": format!("w{hours}{}", device.unwrap_or("")),
                "device": device, "starts": time(at - hours * HOUR), "ends": time(at + (2 - hours) * HOUR), "kind": "repair"});
            entry(row, true)
        };
        for node in &self.nodes_worked_on {
            rows.add("registry_maintenance", work(node, "", None, 1));
        }
        for host in &self.hosts {
            self.add_host(host, &mut rows, &entry, &work);
        }
        rows
    }

    fn add_host(
        &self,
        host: &Host,
        rows: &mut Rows,
        entry: &dyn Fn(Value, bool) -> Value,
        work: &dyn Fn(&str, &str, Option<&str>, i64) -> Value,
    ) {
        let at = self.at;
        let (node, name) = (host.node, host.host.as_str());
        if let Some(status) = host.status {
            let row = json!({"node": node, "host": name, "device": "", "identifier": format!("id-{name}"),
                "status": status, "fabric": host.fabric});
            rows.add("registry_registration", entry(row, true));
        }
        // Work that is over counts for nothing.
        rows.add("registry_maintenance", work(node, name, None, 3));
        if host.worked_on {
            rows.add("registry_maintenance", work(node, name, None, 1));
        }
        for (age, seconds) in host.agent_age_seconds.into_iter().flat_map(|age| [(age, 0), (age, 40)]) {
            let ts = at - (age + seconds) * SECOND;
            rows.add("agent", json!({"ts": time(ts), "node": node, "host": name, "probe": "all"}));
        }
        if let Some((up, physical)) = host.port {
            for (age, up) in [(10, up), (30, !up)] {
                let row = json!({"ts": time(at - age * SECOND), "node": node, "host": name, "device": "mlx5_0",
                    "port": 1, "up": up, "physical_state": physical});
                rows.add("rdma", row);
            }
        }
        if let Some(share) = host.memory_available {
            let row = json!({"ts": time(at - 10 * SECOND), "node": node, "host": name, "total_bytes": 1_000_000,
                "available_bytes": (share * 1e6) as i64});
            rows.add("memory", row);
        }
        if let Some((received, lost)) = host.probed {
            let peer = format!("to-{name}");
            let row = json!({"node": "n1", "host": "", "peer": peer, "to_node": node, "to_host": name});
            rows.add("registry_peer", entry(row, true));
            let row = json!({"ts": time(at - 20 * SECOND), "node": "n1", "host": "prober", "peer": peer,
                "protocol": "udp", "sent": received + lost, "received": received, "lost": lost});
            rows.add("link", row);
        }
        for card in &host.cards {
            let fabric = if host.status.is_none() { host.fabric } else { None };
            if let Some(status) = card.status {
                let row =
                    json!({"node": node, "host": name, "device": card.device, "status": status, "fabric": fabric});
                rows.add("registry_registration", entry(row, true));
            }
            if card.worked_on {
                rows.add("registry_maintenance", work(node, name, Some(&card.device), 1));
            }
            if card.in_hours {
                let row = json!({"ts": time(at - 5 * HOUR), "node": node, "host": name, "device": card.device,
                    "revision": 0, "samples": 1, "vendor": card.vendor, "model": card.model});
                rows.add("accelerator_1h", row);
            }
            let bdf = format!("0000:{:02x}:00.0", card.number);
            for (age, newest) in card.age_seconds.into_iter().flat_map(|age| [(age + 15, false), (age, true)]) {
                let trouble = card.trouble.filter(|_| newest);
                let row = json!({"ts": time(at - age * SECOND), "node": node, "host": name, "device": card.device,
                    "vendor": card.vendor, "model": card.model, "pci_bdf": bdf, "index": card.number,
                    "device_file": format!("card{}", card.number),
                    "memory_total_bytes": 1000, "memory_used_bytes": (card.memory_used * 1000.0) as i64,
                    "remapped_rows_failed": trouble == Some("remapped_rows_failed"),
                    "remapped_rows_pending": trouble == Some("remapped_rows_pending"),
                    "retired_pages_pending": (trouble == Some("retired_pages_pending")).then_some(true),
                    "ecc_uncorrected_volatile": if trouble == Some("ecc") { 1 } else { 0 }});
                rows.add("accelerator", row);
            }
            for (number, holder) in card.holders.iter().enumerate() {
                let named = match holder.by {
                    "uuid" => card.device.clone(),
                    "pci" => bdf.clone(),
                    "index" => card.number.to_string(),
                    _ => format!("card{}", card.number),
                };
                let mut add = |minutes: i64, state: &str| {
                    rows.add(
                        "allocation",
                        json!({"ts": time(at - minutes * MINUTE), "node": node, "host": name, "source": holder.source,
                            "allocation": format!("a{number}"), "device": named, "state": state,
                            "job": number.to_string(), "began": time(at - 5 * HOUR)}),
                    );
                };
                add(holder.told_minutes_ago + 1, "held");
                add(holder.told_minutes_ago, if holder.held { "held" } else { "ended" });
            }
        }
    }
}
