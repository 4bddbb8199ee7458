//! `capacity_measured` and `version_drift`: what is registered, and what runs.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::store::{DAY, HOUR, MINUTE, Row, Rows, assert_same, assert_within, now, row, time};

struct Entry {
    node: &'static str,
    model: &'static str,
    precision: &'static str,
    sparsity: &'static str,
    basis: &'static str,
    devices: Option<i64>,
    flops: Option<f64>,
    measured_at: Option<i64>,
    is_now: bool,
}

/// Mean of figures weighted by devices, or plain where no devices are told.
fn figure(entries: &[&Entry]) -> Option<f64> {
    let weighed: Vec<(f64, f64)> =
        entries.iter().filter_map(|entry| Some((entry.devices? as f64, entry.flops?))).collect();
    let devices: f64 = weighed.iter().map(|(devices, _)| devices).sum();
    if devices > 0.0 {
        return Some(weighed.iter().map(|(devices, flops)| devices * flops).sum::<f64>() / devices);
    }
    let flops: Vec<f64> = entries.iter().filter_map(|entry| entry.flops).collect();
    (!flops.is_empty()).then(|| flops.iter().sum::<f64>() / flops.len() as f64)
}

#[tokio::test]
async fn nominal_beside_measured() {
    for seed in 110..118 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut rows = Rows::default();
        let mut entries = Vec::new();
        let at = now();
        for number in 0..30 {
            let measured = random.random_bool(0.5);
            let entry = Entry {
                node: ["n1", "n2"][random.random_range(0..2)],
                model: ["H100", "910B"][random.random_range(0..2)],
                precision: ["fp16", "fp8"][random.random_range(0..2)],
                sparsity: ["dense", "sparse"][random.random_range(0..2)],
                basis: if measured { "measured" } else { "nominal" },
                devices: random.random_bool(0.8).then(|| random.random_range(0..64)),
                flops: random.random_bool(0.9).then(|| random.random_range(1e14..1e15)),
                measured_at: measured.then(|| at - random.random_range(1..50) * DAY),
                is_now: random.random_bool(0.8),
            };
            rows.add(
                "registry_resource",
                json!({ "ts": time(at - 60 * DAY), "node": entry.node, "host": "", "resource": number.to_string(),
                    "valid_from": time(if entry.is_now { at - 60 * DAY } else { at + DAY }), "revoked": false,
                    "import": "1", "class": "intelligent", "vendor": "v", "model": entry.model,
                    "precision": entry.precision, "sparsity": entry.sparsity, "basis": entry.basis,
                    "devices": entry.devices, "device_flops": entry.flops,
                    "measured_at": entry.measured_at.map(time) }),
            );
            entries.push(entry);
        }
        // Cards by node, model and identifier.
        let mut cards: BTreeMap<(&str, &str), BTreeMap<Option<String>, i64>> = BTreeMap::new();
        for number in 0..random.random_range(0..20) {
            let node = ["n1", "n2"][random.random_range(0..2)];
            let (host, device) = (format!("h{number}"), format!("d{number}"));
            rows.add(
                "accelerator_1h",
                json!({ "ts": time(at - 5 * DAY), "node": node, "host": host, "device": device, "revision": 0,
                    "samples": 1, "vendor": "v", "model": "H100" }),
            );
            let mut identifier = None;
            for device in ["", device.as_str()] {
                if random.random_bool(0.5) {
                    let name = format!("id-{}", random.random_range(0..2));
                    rows.add(
                        "registry_registration",
                        json!({ "ts": time(at - 60 * DAY), "node": node, "host": host, "device": device,
                            "valid_from": time(at - 60 * DAY), "revoked": false, "import": "1", "identifier": name,
                            "status": "in_service" }),
                    );
                    identifier = Some(name);
                }
            }
            *cards.entry((node, "H100")).or_default().entry(identifier).or_default() += 1;
        }
        let mut groups: BTreeMap<(&str, &str, &str, &str), Vec<&Entry>> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.is_now) {
            groups.entry((entry.node, entry.model, entry.precision, entry.sparsity)).or_default().push(entry);
        }
        let mut expected = Vec::new();
        for ((node, model, precision, sparsity), group) in groups {
            let of = |basis| group.iter().copied().filter(|entry| entry.basis == basis).collect::<Vec<_>>();
            let (nominal, measured) = (figure(&of("nominal")), figure(&of("measured")));
            let told: Vec<i64> = of("nominal").iter().filter_map(|entry| entry.devices).collect();
            let registered = (!told.is_empty()).then(|| told.iter().sum::<i64>());
            let newest = of("measured").iter().filter_map(|entry| entry.measured_at).max();
            let none = BTreeMap::from([(None, -1)]);
            for (identifier, seen) in cards.get(&(node, model)).unwrap_or(&none) {
                let devices = if *seen >= 0 { Some(*seen) } else { registered };
                let all = |each: Option<f64>| each.zip(devices).map(|(each, devices)| each * devices as f64);
                expected.push(row(json!({
                    "node": node, "identifier": identifier, "vendor": "v", "model": model, "precision": precision,
                    "sparsity": sparsity, "devices": devices, "nominal_device_flops": nominal,
                    "measured_device_flops": measured, "nominal_flops": all(nominal), "measured_flops": all(measured),
                    "shortfall_ratio": nominal.zip(measured).map(|(nominal, measured)| 1.0 - measured / nominal),
                    "measured_at": newest,
                })));
            }
        }
        let asked = rows.open().await;
        let got = asked.ask("SELECT * FROM capacity_measured").await;
        let key = ["node", "identifier", "model", "precision", "sparsity"];
        assert_within(&format!("seed {seed}"), &key, &got, &expected, 1e-9);
        for row in &got {
            let age = row["measured_age_days"].as_f64();
            assert_eq!(age.is_some(), !row["measured_at"].is_null());
            assert!(age.is_none_or(|age| (0.9..51.0).contains(&age)), "{age:?}");
        }
    }
    assert!(Rows::default().open().await.ask("SELECT * FROM capacity_measured").await.is_empty());
}

/// A component on a host: node, host, component, name, version, units.
type Unit = (String, String, &'static str, String, Option<String>, u64);

#[tokio::test]
async fn versions_in_the_fleet() {
    for seed in 120..128 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut rows = Rows::default();
        let mut units: Vec<Unit> = Vec::new();
        let mut pick = |what: &str| random.random_bool(0.9).then(|| format!("{what}-{}", random.random_range(0..3)));
        for number in 0..9 {
            let (node, host) = (format!("n{}", number % 2), format!("h{number}"));
            let (kernel, os, agent, bios) = (pick("k"), pick("o"), pick("a"), pick("b"));
            for (age, kernel) in [(90, pick("k")), (5, kernel.clone())] {
                rows.add(
                    "host",
                    json!({ "ts": time(now() - age * MINUTE), "node": node, "host": host, "product": "server",
                        "kernel": kernel.or(Some("k-1".to_owned())).filter(|_| age == 5 ), "os_id": "linux",
                        "os_version": os, "agent_version": agent, "bios_version": bios }),
                );
            }
            let mut unit = |component, name: &str, version: Option<String>, count| {
                units.push((node.clone(), host.clone(), component, name.to_owned(), version, count));
            };
            unit("kernel", "kernel", Some(kernel.unwrap_or("k-1".to_owned())), 1);
            unit("os", "linux", os, 1);
            unit("agent", "agent", agent, 1);
            unit("bios", "server", bios, 1);
            let mut counts: BTreeMap<(&str, &str, Option<String>), u64> = BTreeMap::new();
            for card in 0..3 {
                let (driver, firmware) = (pick("d"), pick("f"));
                rows.add(
                    "accelerator",
                    json!({ "ts": time(now() - MINUTE), "node": node, "host": host, "device": format!("{host}-{card}"),
                        "vendor": "nvidia", "model": "H100", "driver_version": driver, "firmware_version": firmware }),
                );
                *counts.entry(("driver", "nvidia", driver)).or_default() += 1;
                *counts.entry(("firmware", "H100", firmware)).or_default() += 1;
            }
            for ((component, name, version), count) in counts {
                units.push((node.clone(), host.clone(), component, name.to_owned(), version, count));
            }
        }
        // Kind, name, value, node.
        let approved = [
            ("driver", "nvidia", "d-0", ""),
            ("driver", "nvidia", "d-1", "n1"),
            ("firmware", "bios server", "*", ""),
            ("executable", "/usr/bin/nodescope-agent", "a-0", ""),
            ("driver", "kernel", "k-2", ""),
            ("driver", "kernel", "k-9", "n0"),
        ];
        for (kind, name, value, node) in approved {
            rows.add(
                "registry_approved",
                json!({ "ts": time(now() - DAY), "node": node, "host": "", "kind": kind, "name": name, "value": value,
                    "valid_from": time(now() - DAY), "revoked": false, "import": "1" }),
            );
        }
        let judge = |unit: &Unit| {
            let (kind, name) = match unit.2 {
                "bios" => ("firmware", "bios server"),
                "firmware" => ("firmware", unit.3.as_str()),
                "agent" => ("executable", "/usr/bin/nodescope-agent"),
                "os" => ("driver", "os"),
                _ => ("driver", unit.3.as_str()),
            };
            let is_of = |a: &&(&str, &str, &str, &str)| a.0 == kind && a.1 == name && (a.3.is_empty() || a.3 == unit.0);
            let of_name: Vec<_> = approved.iter().filter(is_of).collect();
            let version = unit.4.as_deref();
            let all = of_name.iter().any(|a| a.2 == "*");
            let is_one = version.is_some_and(|version| of_name.iter().any(|a| a.2 == version));
            // A version that is not told can be anything, unless anything may be.
            (!of_name.is_empty() && (all || version.is_some())).then_some(all || is_one)
        };
        type Group = (String, &'static str, String);
        let mut groups: BTreeMap<Group, BTreeMap<Option<String>, Vec<&Unit>>> = BTreeMap::new();
        for unit in &units {
            let group = groups.entry((unit.0.clone(), unit.2, unit.3.clone())).or_default();
            group.entry(unit.4.clone()).or_default().push(unit);
        }
        let mut expected: Vec<Row> = Vec::new();
        for ((node, component, name), versions) in groups {
            let count = |units: &Vec<&Unit>| units.iter().map(|unit| unit.5).sum::<u64>();
            let fleet: u64 = versions.values().map(count).sum();
            let most = versions.values().map(count).max().unwrap();
            for (version, units) in &versions {
                let judged: Vec<bool> = units.iter().filter_map(|unit| judge(unit)).collect();
                let is_approved = (!judged.is_empty()).then(|| judged.iter().all(|judged| *judged));
                let is_most_common = count(units) == most;
                let hosts: BTreeSet<&str> = units.iter().map(|unit| unit.1.as_str()).collect();
                let first: Vec<&str> = hosts.iter().take(5).copied().collect();
                expected.push(row(json!({
                    "node": node, "component": component, "name": name, "version": version, "units": count(units),
                    "hosts": hosts.len(), "share_ratio": count(units) as f64 / fleet as f64,
                    "is_most_common": is_most_common, "is_approved": is_approved,
                    "laggards": (!is_most_common || is_approved == Some(false)).then(|| first.join(", ")),
                })));
            }
        }
        let asked = rows.open().await;
        let key = ["node", "component", "name", "version"];
        assert_same(&format!("seed {seed}"), &key, &asked.ask("SELECT * FROM version_drift").await, &expected);
    }
    assert!(Rows::default().open().await.ask("SELECT * FROM version_drift").await.is_empty());
}

#[tokio::test]
async fn what_was_seen_long_ago_runs_no_more() {
    let mut rows = Rows::default();
    rows.add(
        "host",
        json!({ "ts": time(now() - 5 * HOUR), "node": "n", "host": "h", "kernel": "6.1", "agent_version": "1" }),
    );
    assert!(rows.open().await.ask("SELECT * FROM version_drift").await.is_empty());
}
