//! Small random fleets: accelerators hour by hour, who held them, how they failed, what the registry says.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::store::{DAY, HOUR, MINUTE, Rows, START, time};

pub type Card = (String, String, String);

/// One row of `accelerator_1h`.
#[derive(Debug, Clone)]
pub struct Hour {
    pub card: Card,
    pub ts: i64,
    pub vendor: String,
    pub model: Option<String>,
    pub driver: Option<String>,
    pub bdf: String,
    pub parent: Option<String>,
    pub samples: i64,
    pub expected: Option<f64>,
    pub joules: Option<f64>,
    pub core: Option<f64>,
    pub utilization: Option<f64>,
    pub tensor: Option<f64>,
    /// Seconds: power cap, power brake, software thermal, hardware thermal, sync boost.
    pub throttled: [Option<f64>; 5],
}

impl Hour {
    /// Part of the hour that it was seen for.
    pub fn observed(&self) -> f64 {
        match self.expected {
            Some(expected) if expected > 0.0 => (self.samples as f64 / expected).min(1.0),
            _ => 1.0,
        }
    }

    pub fn is_whole(&self) -> bool {
        self.parent.is_none()
    }
}

/// An allocation as one source tells it.
#[derive(Debug, Clone)]
pub struct Span {
    pub card: Card,
    pub source: &'static str,
    pub allocation: String,
    pub job: Option<String>,
    pub project: Option<String>,
    pub began: Option<i64>,
    pub first_seen: i64,
    pub last_seen: i64,
    pub ended: Option<i64>,
}

impl Span {
    pub fn begin(&self) -> i64 {
        self.began.unwrap_or(self.first_seen)
    }

    pub fn end(&self) -> i64 {
        self.ended.unwrap_or(self.last_seen)
    }

    /// Its minutes since 1970.
    pub fn minutes(&self) -> BTreeSet<i64> {
        (self.begin() / MINUTE..self.end() / MINUTE).collect()
    }
}

/// An entry of the registry.
#[derive(Debug, Clone)]
pub struct Registered {
    pub card: Card,
    pub from: i64,
    pub status: &'static str,
    pub identifier: Option<String>,
    pub rack: Option<String>,
}

/// An event of an accelerator.
#[derive(Debug, Clone)]
pub struct Event {
    pub node: String,
    pub host: String,
    pub vendor: String,
    pub device: Option<String>,
    pub bdf: Option<String>,
    pub kind: &'static str,
    pub code: Option<i64>,
    pub at: i64,
}

#[derive(Debug, Default)]
pub struct Fleet {
    pub days: i64,
    pub hours: Vec<Hour>,
    pub spans: Vec<Span>,
    pub registered: Vec<Registered>,
    pub events: Vec<Event>,
    /// Node, host ('' for all), begin and end.
    pub maintenance: Vec<(String, String, i64, i64)>,
}

const MODELS: [(&str, Option<&str>); 4] =
    [("nvidia", Some("H100")), ("nvidia", Some("A100")), ("ascend", Some("910B")), ("hygon", None)];

/// What a card may tell or not, as vendors differ.
fn told(random: &mut StdRng, vendor_tells: bool, most: f64) -> Option<f64> {
    (vendor_tells && random.random_bool(0.97)).then(|| random.random_range(0.0..most))
}

impl Fleet {
    /// Two nodes, a few hosts of one model each, a few cards a host, for so many days from [`START`].
    pub fn random(seed: u64, days: i64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut fleet = Self { days, ..Self::default() };
        for node in ["n1", "n2"] {
            for host in 0..random.random_range(1..4) {
                fleet.host(&mut random, node, &format!("{node}-h{host}"));
            }
        }
        fleet
    }

    fn host(&mut self, random: &mut StdRng, node: &str, host: &str) {
        let (vendor, model) = MODELS[random.random_range(0..MODELS.len())];
        let upgraded = START + random.random_range(0..self.days * 24) * HOUR;
        self.register(random, node, host, "");
        if random.random_bool(0.3) {
            let at = START + random.random_range(0..self.days * 24) * HOUR;
            let whose = if random.random_bool(0.5) { host } else { "" };
            self.maintenance.push((node.to_owned(), whose.to_owned(), at, at + 5 * HOUR));
        }
        for number in 0..random.random_range(1..4) {
            let card = (node.to_owned(), host.to_owned(), format!("{host}-d{number}"));
            if random.random_bool(0.3) {
                self.register(random, node, host, &card.2);
            }
            for hour in 0..self.days * 24 {
                if random.random_bool(0.1) {
                    continue;
                }
                let ts = START + hour * HOUR;
                let row = Hour {
                    card: card.clone(),
                    ts,
                    vendor: vendor.to_owned(),
                    model: model.map(str::to_owned),
                    driver: (vendor != "hygon").then(|| if ts < upgraded { "1.0" } else { "1.1" }.to_owned()),
                    bdf: format!("0000:{number:02x}:00.0"),
                    parent: None,
                    samples: random.random_range(1..400),
                    expected: random.random_bool(0.9).then_some(360.0),
                    joules: told(random, vendor != "hygon", 2e6),
                    core: told(random, vendor == "nvidia", 1.0),
                    utilization: told(random, true, 1.0),
                    tensor: told(random, vendor == "nvidia", 1.0),
                    throttled: std::array::from_fn(|reason| {
                        let told = vendor == "nvidia" || (vendor == "ascend" && reason < 2);
                        (told && random.random_bool(0.9)).then(|| random.random_range(0.0..3_600.0))
                    }),
                };
                if number == 0 && vendor == "nvidia" {
                    let partition = (card.0.clone(), card.1.clone(), format!("{}-p0", card.2));
                    self.hours.push(Hour { card: partition, parent: Some(card.2.clone()), ..row.clone() });
                }
                self.hours.push(row);
            }
            self.hold(random, &card);
            self.fail(random, &card, vendor, number);
        }
    }

    fn register(&mut self, random: &mut StdRng, node: &str, host: &str, device: &str) {
        let mut from = START - random.random_range(-20..60) * HOUR;
        for _ in 0..random.random_range(0..4) {
            self.registered.push(Registered {
                card: (node.to_owned(), host.to_owned(), device.to_owned()),
                from,
                status: if random.random_bool(0.8) { "in_service" } else { "cordoned" },
                identifier: random.random_bool(0.9).then(|| format!("id-{}", random.random_range(0..3))),
                rack: random.random_bool(0.9).then(|| format!("r{}", random.random_range(0..2))),
            });
            from += random.random_range(1..self.days * 12) * HOUR + 17 * MINUTE;
        }
    }

    fn hold(&mut self, random: &mut StdRng, card: &Card) {
        for number in 0..random.random_range(0..3 * self.days) {
            let first_seen = START + random.random_range(-600..self.days * 1_440) * MINUTE;
            let last_seen = first_seen + random.random_range(0..1_000) * MINUTE;
            let job = random.random_bool(0.8).then(|| format!("{}", random.random_range(0..40)));
            let span = Span {
                card: card.clone(),
                source: "endpoint",
                allocation: format!("a{number}"),
                project: random.random_bool(0.8).then(|| format!("p{}", random.random_range(0..3))),
                job,
                began: random.random_bool(0.8).then(|| first_seen - random.random_range(0..30) * MINUTE),
                first_seen,
                last_seen,
                ended: random.random_bool(0.8).then(|| last_seen - random.random_range(0..2) * MINUTE),
            };
            if random.random_bool(0.4) {
                // The same, seen by control groups: a minute late, and without a project.
                self.spans.push(Span {
                    source: "cgroup",
                    project: None,
                    began: span.began.map(|began| began + MINUTE),
                    ..span.clone()
                });
            }
            self.spans.push(span);
        }
    }

    fn fail(&mut self, random: &mut StdRng, card: &Card, vendor: &str, number: i32) {
        for _ in 0..random.random_range(0..8) {
            let mut at = START + random.random_range(0..self.days * 1_440) * MINUTE;
            // Failures come in flocks.
            for _ in 0..random.random_range(1..5) {
                let code = [13, 31, 48, 63, 79, 95, 4_242][random.random_range(0..7)];
                let by_address = random.random_bool(0.3);
                self.events.push(Event {
                    node: card.0.clone(),
                    host: card.1.clone(),
                    vendor: if random.random_bool(0.05) { "host" } else { vendor }.to_owned(),
                    device: (!by_address).then(|| {
                        let partition = vendor == "nvidia" && number == 0 && random.random_bool(0.2);
                        if partition { format!("{}-p0", card.2) } else { card.2.clone() }
                    }),
                    bdf: random.random_bool(0.9).then(|| format!("0000:{number:02x}:00.0")),
                    kind: ["fault", "fault", "lost", "added", "stalled"][random.random_range(0..5)],
                    code: random.random_bool(0.9).then_some(code),
                    at,
                });
                at += random.random_range(1..9) * MINUTE;
            }
        }
    }

    /// End of the time it speaks of.
    pub fn end(&self) -> i64 {
        START + self.days * DAY
    }

    /// Its rows.
    pub fn rows(&self) -> Rows {
        let mut rows = Rows::default();
        for hour in &self.hours {
            rows.add(
                "accelerator_1h",
                json!({
                    "ts": time(hour.ts), "node": hour.card.0, "host": hour.card.1, "device": hour.card.2, "revision": 0,
                    "samples": hour.samples, "expected": hour.expected, "vendor": hour.vendor, "model": hour.model,
                    "driver_version": hour.driver, "pci_bdf": hour.bdf, "parent": hour.parent,
                    "energy_joules_increase": hour.joules, "core_active_ratio_mean": hour.core,
                    "utilization_ratio_mean": hour.utilization, "tensor_active_ratio_mean": hour.tensor,
                    "throttle_power_cap_seconds_increase": hour.throttled[0],
                    "throttle_power_brake_seconds_increase": hour.throttled[1],
                    "throttle_software_thermal_seconds_increase": hour.throttled[2],
                    "throttle_hardware_thermal_seconds_increase": hour.throttled[3],
                    "throttle_sync_boost_seconds_increase": hour.throttled[4],
                }),
            );
        }
        for span in &self.spans {
            let mut told = |ts: i64, state: &str, ended: Option<i64>| {
                rows.add(
                    "allocation",
                    json!({
                        "ts": time(ts), "node": span.card.0, "host": span.card.1, "device": span.card.2,
                        "source": span.source, "allocation": span.allocation, "state": state, "job": span.job,
                        "project": span.project, "began": span.began.map(time), "ended": ended.map(time),
                    }),
                );
            };
            if span.last_seen > span.first_seen || span.ended.is_none() {
                told(span.first_seen, "held", None);
            }
            // What is held is told anew every hour.
            for ts in (span.first_seen + HOUR..span.last_seen).step_by(HOUR as usize) {
                told(ts, "held", None);
            }
            if span.last_seen > span.first_seen || span.ended.is_some() {
                let state = if span.ended.is_some() { "ended" } else { "held" };
                told(span.last_seen, state, span.ended);
            }
        }
        for entry in &self.registered {
            rows.add(
                "registry_registration",
                json!({
                    "ts": time(START), "node": entry.card.0, "host": entry.card.1, "device": entry.card.2,
                    "valid_from": time(entry.from), "revoked": false, "import": "1",
                    "identifier": entry.identifier, "status": entry.status, "rack": entry.rack,
                }),
            );
        }
        for (number, event) in self.events.iter().enumerate() {
            rows.add(
                "accelerator_event",
                json!({
                    "ts": time(event.at), "node": event.node, "host": event.host, "vendor": event.vendor,
                    "event": number + 1, "at": time(event.at), "device": event.device, "pci_bdf": event.bdf,
                    "kind": event.kind, "source": "kernel", "code": event.code,
                }),
            );
        }
        for (number, (node, host, starts, ends)) in self.maintenance.iter().enumerate() {
            rows.add(
                "registry_maintenance",
                json!({
                    "ts": time(START), "node": node, "host": host, "maintenance": number.to_string(),
                    "valid_from": time(START), "revoked": false, "import": "1", "starts": time(*starts),
                    "ends": time(*ends), "kind": "repair",
                }),
            );
        }
        rows
    }

    /// The entries of the host as a whole, or of the card, that hold at a time: of each key the newest.
    pub fn entries_at(&self, card: &Card, at: i64) -> Vec<&Registered> {
        ["", &card.2]
            .iter()
            .filter_map(|device| {
                let of_key = |entry: &&Registered| {
                    entry.card.0 == card.0 && entry.card.1 == card.1 && entry.card.2 == *device && entry.from <= at
                };
                self.registered.iter().filter(of_key).max_by_key(|entry| entry.from)
            })
            .collect()
    }

    /// Whether host and card, as far as they have entries, are in service.
    pub fn is_in_service(&self, card: &Card, at: i64) -> bool {
        let entries = self.entries_at(card, at);
        !entries.is_empty() && entries.iter().all(|entry| entry.status == "in_service")
    }

    /// Minutes in which a card is held by anybody.
    pub fn held_minutes(&self, card: &Card) -> BTreeSet<i64> {
        self.spans.iter().filter(|span| span.card == *card).flat_map(Span::minutes).collect()
    }

    /// Whose an allocation is: as told, or as another source tells of the same job.
    pub fn project_of(&self, span: &Span) -> Option<String> {
        span.project.clone().or_else(|| {
            let same = |other: &&Span| other.card == span.card && other.job.is_some() && other.job == span.job;
            self.spans.iter().filter(same).filter_map(|other| other.project.clone()).max()
        })
    }
}
