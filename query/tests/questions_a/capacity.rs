//! `accelerator_now`, `capacity_now` and `capacity_stranded`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::region::{Card, Host, MODELS, Region, Resource};
use crate::store::{Row, assert_same, row};

fn cards(region: &Region) -> impl Iterator<Item = (&Host, &Card)> {
    region.hosts.iter().flat_map(|host| host.cards.iter().map(move |card| (host, card)))
}

#[tokio::test]
async fn every_accelerator_has_the_state_that_loops_find() {
    let mut seen = BTreeSet::new();
    for seed in 0..12 {
        let region = Region::random(seed);
        let asked = region.rows().open().await;
        let expected: Vec<Row> = cards(&region)
            .filter_map(|(host, card)| {
                let state = region.state(host, card)?;
                seen.insert(state);
                let model = Region::known_model(card);
                Some(row(json!({"node": host.node, "host": host.host, "device": card.device, "state": state,
                    "is_registered": card.is_registered(), "is_fresh": card.is_fresh(),
                    "is_in_service": card.is_registered() && region.is_in_service(host, card),
                    "is_healthy": card.is_fresh().then_some(card.trouble.is_none()),
                    "is_allocated": card.is_fresh().then_some(card.is_held()),
                    "vendor": model.map(|m| m.0), "model": model.map(|m| m.1)})))
            })
            .collect();
        let got = asked.ask("SELECT * FROM accelerator_now").await;
        assert_same(&format!("accelerator_now, seed {seed}"), &["host", "device"], &got, &expected);
    }
    let all = ["allocated", "cordoned", "free", "maintenance", "unhealthy", "unknown", "unregistered"];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all, "the regions have every state");
}

#[derive(Default)]
struct Sums {
    reporting: i64,
    withdrawn: i64,
    healthy: i64,
    allocated: i64,
    available: i64,
}

#[tokio::test]
async fn capacity_is_the_sum_by_hand_of_every_vendor() {
    for seed in 100..112 {
        let region = Region::random(seed);
        let mut sums: BTreeMap<(&str, &str), Sums> = BTreeMap::new();
        for (host, card) in cards(&region).filter(|(_, card)| card.is_registered()) {
            let model = Region::known_model(card).map(|(_, model)| model).or_else(|| region.only_model(host.node));
            let Some(model) = model else { continue };
            let sum = sums.entry((host.node, model)).or_default();
            let in_service = region.is_in_service(host, card);
            sum.reporting += i64::from(card.is_fresh());
            sum.withdrawn += i64::from(!in_service);
            sum.healthy += i64::from(in_service && card.is_fresh() && card.trouble.is_none());
            sum.allocated += i64::from(card.is_fresh() && card.is_held());
            sum.available += i64::from(region.state(host, card) == Some("free"));
        }
        let mut capacity: BTreeMap<_, (i64, f64)> = BTreeMap::new();
        for resource in region.resources.iter().filter(|resource| resource.is_now) {
            let key = (resource.node, MODELS[resource.model].1, resource.precision, resource.sparsity, resource.basis);
            let of_key = capacity.entry(key).or_default();
            of_key.0 += resource.devices;
            of_key.1 += resource.devices as f64 * resource.flops;
        }
        let mut expected = Vec::new();
        let none = Sums::default();
        for ((node, model, precision, sparsity, basis), (total, flops)) in &capacity {
            let sum = sums.get(&(*node, *model)).unwrap_or(&none);
            let each = flops / *total as f64;
            let in_service = (total - sum.withdrawn).max(0);
            let unknown = (total - sum.reporting).max(0);
            let vendor = MODELS.iter().find(|m| m.1 == *model).map(|m| m.0);
            let region = if *node == "n3" { "west" } else { "east" };
            expected.push(row(json!({"region": region, "node": node, "vendor": vendor, "model": model,
                "precision": precision, "sparsity": sparsity, "basis": basis, "total_devices": total,
                "in_service_devices": in_service, "healthy_devices": sum.healthy, "allocated_devices": sum.allocated,
                "available_devices": sum.available, "unknown_devices": unknown, "total_flops": flops,
                "in_service_flops": in_service as f64 * each, "healthy_flops": sum.healthy as f64 * each,
                "allocated_flops": sum.allocated as f64 * each, "available_flops": sum.available as f64 * each,
                "unknown_flops": unknown as f64 * each})));
        }
        for ((node, model), sum) in &sums {
            if !capacity.keys().any(|key| key.0 == *node && key.1 == *model) {
                expected.push(row(json!({"node": node, "model": model, "precision": null, "sparsity": null,
                    "basis": null, "total_devices": null, "in_service_devices": null, "unknown_devices": null, "total_flops": null, "available_flops": null,
                    "available_devices": sum.available, "allocated_devices": sum.allocated})));
            }
        }
        let asked = region.rows().open().await;
        let got = asked.ask("SELECT * FROM capacity_now").await;
        let key = ["node", "model", "precision", "sparsity", "basis"];
        assert_same(&format!("capacity_now, seed {seed}"), &key, &got, &expected);
        // Regions of several vendors, added up: dense FP16 by the data sheet.
        let sum = "SELECT sum(total_flops) AS flops FROM capacity_now \
                   WHERE precision = 'fp16' AND sparsity = 'dense' AND basis = 'nominal'";
        let got = asked.ask(sum).await[0]["flops"].as_f64();
        let by_hand: Vec<f64> = region
            .resources
            .iter()
            .filter(|r| r.is_now && (r.precision, r.sparsity, r.basis) == ("fp16", "dense", "nominal"))
            .map(|r| r.devices as f64 * r.flops)
            .collect();
        let total: f64 = by_hand.iter().sum();
        assert!((got.unwrap_or(0.0) - total).abs() <= 1e-9 * total, "{got:?} {total}");
    }
}

#[tokio::test]
async fn what_is_stranded_has_one_cause_each() {
    let mut seen = BTreeSet::new();
    for seed in 200..215 {
        let region = Region::random(seed);
        let mut expected: BTreeMap<(String, String, String), (i64, BTreeSet<&str>)> = BTreeMap::new();
        for host in &region.hosts {
            let registered: Vec<&Card> = host.cards.iter().filter(|card| card.is_registered()).collect();
            let free = registered.iter().filter(|card| region.state(host, card) == Some("free")).count();
            for card in &registered {
                let cause = match region.state(host, card) {
                    Some("allocated") => continue,
                    Some("unknown") => "unreachable",
                    Some(state @ ("cordoned" | "maintenance" | "unhealthy")) => state,
                    _ if host.port == Some((false, "Polling")) => "bad_nic",
                    _ if host.memory_available.is_some_and(|share| share < 0.1) || card.memory_used > 0.9 => {
                        "no_memory"
                    }
                    _ if free < registered.len().min(8) => "fragment",
                    _ => continue,
                };
                seen.insert(cause);
                let model = Region::known_model(card).map_or("none", |m| m.1);
                let of = expected.entry((host.node.into(), model.into(), cause.into())).or_default();
                of.0 += 1;
                of.1.insert(&host.host);
            }
        }
        let expected: Vec<Row> = expected
            .iter()
            .map(|((node, model, cause), (devices, hosts))| {
                row(json!({"node": node, "model": model, "cause": cause, "devices": devices, "hosts": hosts.len()}))
            })
            .collect();
        let sql = "SELECT node, coalesce(model, 'none') AS model, cause, devices, hosts FROM capacity_stranded";
        let got = region.rows().open().await.ask(sql).await;
        assert_same(&format!("capacity_stranded, seed {seed}"), &["node", "model", "cause"], &got, &expected);
    }
    let all = ["bad_nic", "cordoned", "fragment", "maintenance", "no_memory", "unhealthy", "unreachable"];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all, "the regions have every cause");
}

#[tokio::test]
async fn what_has_been_in_repair_for_days_is_not_in_service() {
    let mut region = Region::random(100);
    region.resources.clear();
    region.nodes_worked_on.clear();
    let mut host = region.hosts.swap_remove(0);
    host.status = Some("repair");
    host.agent_age_seconds = None;
    let card = host.cards.swap_remove(0);
    host.cards = vec![Card { age_seconds: None, in_hours: false, status: Some("in_service"), ..card }];
    let (node, precision, sparsity, basis) = (host.node, "fp16", "dense", "nominal");
    region.hosts = vec![host];
    let resource =
        |model: usize| Resource { node, model, precision, sparsity, basis, devices: 9, flops: 1e14, is_now: true };
    for (models, in_service) in [(1, 8), (2, 9)] {
        // Where there are two models, nobody knows which it was.
        region.resources = (0..models).map(resource).collect();
        let got = region.rows().open().await.ask("SELECT * FROM capacity_now").await;
        let expected: Vec<Row> = (0..models)
            .map(|model| {
                row(json!({"node": node, "model": MODELS[model].1, "total_devices": 9,
                    "in_service_devices": in_service, "unknown_devices": 9, "available_devices": 0}))
            })
            .collect();
        assert_same(&format!("{models} models"), &["node", "model"], &got, &expected);
    }
}
