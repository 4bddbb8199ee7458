//! A small fleet's rows: the same every time, in the catalogue's shape, and in agreement with each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use nodescope_model::catalogue::{Catalogue, Kind};
use nodescope_simulate::events::Value;
use nodescope_simulate::failures::Standing;
use nodescope_simulate::told::allocation_name;
use nodescope_simulate::world::{DAY, HOUR, Options};
use nodescope_simulate::{Detail, Fleet};

const NOW: i64 = 1_790_000_000 / HOUR * HOUR;

fn fleet(seed: u64) -> Arc<Fleet> {
    let options = Options { failures: 20.0, horizon: NOW + DAY, ..Options::around(seed, 12, 4, NOW, 3) };
    Fleet::new(options)
}

fn rows(fleet: &Arc<Fleet>, host: usize, from: i64, to: i64) -> BTreeMap<&'static str, RecordBatch> {
    fleet.rows(&Catalogue::built_in(), host, from, to, |_| 10).unwrap_or_else(|e| panic!("{e}"))
}

/// Text of a batch's rows, in order of their text: two batches with the same rows have the same.
fn text(batch: &RecordBatch) -> Vec<String> {
    let mut all: Vec<String> = (0..batch.num_rows()).map(|at| format!("{:?}", batch.slice(at, 1))).collect();
    all.sort();
    all
}

#[test]
fn the_same_seed_gives_the_same_rows_in_one_piece_or_in_many() {
    let (one, two, other) = (fleet(1), fleet(1), fleet(2));
    let from = NOW - 2 * HOUR;
    let whole = rows(&one, 3, from, from + 1_800);
    assert!(whole.len() >= 18, "{:?}", whole.keys());
    let mut parts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (begin, end) in [(0, 7), (7, 600), (600, 1_111), (1_111, 1_800)] {
        for (table, batch) in rows(&two, 3, from + begin, from + end) {
            parts.entry(table).or_default().extend(text(&batch));
        }
    }
    for (table, batch) in &whole {
        let mut parts = parts.remove(table).unwrap_or_default();
        parts.sort();
        assert_eq!(text(batch), parts, "{table}");
    }
    assert!(rows(&other, 3, from, from + 60).get("accelerator") != rows(&one, 3, from, from + 60).get("accelerator"));
}

#[test]
fn rows_have_the_catalogue_s_schemas() {
    let (fleet, catalogue) = (fleet(3), Catalogue::built_in());
    for host in 0..fleet.world.hosts.len() {
        for (name, batch) in rows(&fleet, host, NOW - HOUR, NOW - HOUR + 120) {
            let table = catalogue.get(name).unwrap();
            assert_eq!(batch.schema_ref(), table.schema(), "{name}");
            let conformed = nodescope_model::conform::conform(&batch, table).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(conformed.unknown.is_empty());
        }
    }
    let entries = nodescope_simulate::events::batches(&catalogue, &fleet.node_events(NOW - 4 * DAY, NOW)).unwrap();
    for table in
        ["registry_node", "registry_resource", "registry_registration", "registry_peer", "registry_approved", "demand"]
    {
        assert!(entries[table].num_rows() > 0, "{table}");
    }
}

#[test]
fn counters_rise_except_when_a_host_was_off() {
    let (fleet, catalogue) = (fleet(4), Catalogue::built_in());
    let mut resets = 0;
    for host in 0..fleet.world.hosts.len() {
        let from = fleet.world.options.start;
        let all = fleet.rows(&catalogue, host, from, NOW, |_| 300).unwrap();
        for name in ["accelerator", "cpu", "rdma", "interface"] {
            let Some(batch) = all.get(name) else { continue };
            let table = catalogue.get(name).unwrap();
            let ts = batch.column(0).as_primitive::<TimestampMicrosecondType>();
            let entity: Vec<String> = (0..batch.num_rows())
                .map(|at| {
                    let part = batch.column_by_name(&table.entity[0]).unwrap();
                    part.as_string::<i32>().value(at).to_owned()
                })
                .collect();
            for column in table.columns.iter().filter(|c| c.kind == Kind::Counter) {
                let values = batch.column_by_name(&column.name).unwrap();
                let value = |at: usize| -> Option<f64> {
                    if values.is_null(at) {
                        return None;
                    }
                    match values.as_primitive_opt::<Int64Type>() {
                        Some(ints) => Some(ints.value(at) as f64),
                        None => values.as_primitive_opt::<Float64Type>().map(|floats| floats.value(at)),
                    }
                };
                for at in 1..batch.num_rows() {
                    let (Some(before), Some(now)) = (value(at - 1), value(at)) else { continue };
                    if entity[at] != entity[at - 1] || now >= before {
                        continue;
                    }
                    let (one, two) = (ts.value(at - 1) / 1_000_000, ts.value(at) / 1_000_000);
                    let life = &fleet.lives[host];
                    assert!(life.boot(one) < life.boot(two), "{name}.{} fell at {two}", column.name);
                    resets += 1;
                }
            }
        }
    }
    assert!(resets > 0, "no host ever restarted: this test has seen nothing");
}

#[test]
fn energy_is_power_over_time_and_unknown_where_the_driver_does_not_say() {
    let (fleet, catalogue) = (fleet(5), Catalogue::built_in());
    let (mut checked, mut silent) = (0, 0);
    for (host, row) in fleet.world.hosts.iter().enumerate() {
        let from = NOW - 6 * HOUR;
        let all = fleet.rows(&catalogue, host, from, from + 3_600, |_| 1).unwrap();
        let Some(batch) = all.get("accelerator") else { continue };
        let energy = batch.column_by_name("energy_joules").unwrap();
        if !row.model.tells.energy {
            assert_eq!(energy.null_count(), batch.num_rows());
            silent += 1;
            continue;
        }
        let power = batch.column_by_name("power_watts").unwrap().as_primitive::<Float64Type>();
        let energy = energy.as_primitive::<Float64Type>();
        let device = batch.column_by_name("device").unwrap().as_string::<i32>();
        let mut at = 0;
        while at < batch.num_rows() {
            let end = (at..batch.num_rows()).take_while(|n| device.value(*n) == device.value(at)).count() + at;
            if end - at == 3_600 {
                let used = energy.value(end - 1) - energy.value(at);
                let drawn: f64 = (at..end - 1).map(|n| power.value(n)).sum();
                assert!((used - drawn).abs() < 0.02 * drawn, "{used} J, {drawn} W s");
                checked += 1;
            }
            at = end;
        }
    }
    assert!(checked > 4 && silent > 0, "{checked} devices counted, {silent} hosts tell nothing");
}

#[test]
fn what_is_allocated_is_busier_than_what_is_not() {
    let fleet = fleet(6);
    let (mut held, mut free) = ((0.0, 0.0), (0.0, 0.0));
    for host in 0..fleet.world.hosts.len() {
        for device in 0..4 {
            for at in (NOW - DAY..NOW).step_by(3_600) {
                let truth = fleet.device_truth(host, device, at);
                let load = nodescope_simulate::load::device_load(&fleet, host, device, at);
                let sum = if truth.job.is_some() { &mut held } else { &mut free };
                *sum = (sum.0 + load.busy, sum.1 + 1.0);
            }
        }
    }
    assert!(held.0 / held.1 > 0.3 && free.0 == 0.0, "{held:?} {free:?}");
}

#[test]
fn an_agent_that_was_away_says_what_is_held_and_what_has_ended() {
    let fleet = Fleet::new(Options { failures: 20.0, ..Options::around(7, 60, 4, NOW, 10) });
    let start = fleet.world.options.start;
    let (mut held, mut ended) = (0, 0);
    for (host, life) in fleet.lives.iter().enumerate() {
        // Time in seconds, device, allocation, state.
        let told = |from: i64, to: i64| -> Vec<(i64, String, String, String)> {
            let rows = fleet.events(host, from, to, Detail::Quarters).into_iter().filter(|e| e.table == "allocation");
            rows.map(|e| {
                let text = |column: &str| match e.value(column) {
                    Some(Value::Text(text)) => text.to_string(),
                    other => panic!("{column}: {other:?}"),
                };
                (e.ts / 1_000_000, text("device"), text("allocation"), text("state"))
            })
            .collect()
        };
        let mut rows = told(start, NOW);
        rows.sort();
        let mut parts: Vec<_> = (start..NOW).step_by(1_000).flat_map(|at| told(at, (at + 1_000).min(NOW))).collect();
        parts.sort();
        assert_eq!(rows, parts, "whoever asks, and in whatever pieces");
        let many = rows.len();
        rows.dedup();
        assert_eq!(rows.len(), many, "each row once");
        let mut gone: Option<i64> = None;
        for stretch in life.stretches.iter().filter(|s| s.from < NOW) {
            if stretch.standing != Standing::Up {
                gone.get_or_insert(stretch.from);
                continue;
            }
            let (Some(gone), back) = (gone.take(), stretch.from) else { continue };
            for (device, uses) in fleet.world.hosts[host].devices.iter().zip(&fleet.schedule.uses[host]) {
                for its in uses {
                    let name = allocation_name(&fleet.schedule.jobs[its.job]);
                    let says = |state: &str| rows.contains(&(back, device.id.clone(), name.clone(), state.to_owned()));
                    if its.from < back && back < its.to {
                        assert!(says("held"), "{}: {name} is held at {back}", device.id);
                        held += 1;
                    }
                    if (gone..back).contains(&its.to) {
                        assert!(says("ended"), "{}: {name} has ended before {back}", device.id);
                        ended += 1;
                    }
                }
            }
        }
    }
    assert!(held > 10 && ended > 10, "{held} held, {ended} ended: this test has seen too little");
}
