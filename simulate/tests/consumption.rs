//! What is used agrees, whoever tells of it: programs, their groups and the processors; machines and meters.
#![allow(clippy::unwrap_used, reason = "tests fail by it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use nodescope_model::catalogue::Catalogue;
use nodescope_simulate::failures::Standing;
use nodescope_simulate::load::held;
use nodescope_simulate::world::{DAY, HOUR, Options};
use nodescope_simulate::{Fleet, meters};

const NOW: i64 = 1_790_000_000 / HOUR * HOUR;

/// The hour that is looked at.
const FROM: i64 = NOW - 6 * HOUR;

fn fleet(seed: u64) -> Arc<Fleet> {
    Fleet::new(Options { horizon: NOW + DAY, failures: 0.0, ..Options::around(seed, 12, 4, NOW, 3) })
}

fn rows(fleet: &Arc<Fleet>, host: usize) -> BTreeMap<&'static str, RecordBatch> {
    fleet.rows(&Catalogue::built_in(), host, FROM, FROM + HOUR, |_| 10).unwrap_or_else(|e| panic!("{e}"))
}

fn text<'a>(batch: &'a RecordBatch, column: &str, at: usize) -> Option<&'a str> {
    let column = batch.column_by_name(column).unwrap().as_string::<i32>();
    (!column.is_null(at)).then(|| column.value(at))
}

fn whole(batch: &RecordBatch, column: &str, at: usize) -> i64 {
    batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().value(at)
}

/// What a counter grew by, for each of what the rows are told apart by.
fn growth(batch: &RecordBatch, column: &str, of: impl Fn(usize) -> Option<String>) -> BTreeMap<String, f64> {
    let values = batch.column_by_name(column).unwrap().as_primitive::<Float64Type>();
    let mut ends: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for at in 0..batch.num_rows() {
        if let Some(of) = of(at).filter(|_| !values.is_null(at)) {
            ends.entry(of).or_insert((values.value(at), 0.0)).1 = values.value(at);
        }
    }
    ends.into_iter().map(|(of, (first, last))| (of, last - first)).collect()
}

/// Whether a host is up for the hour, and the same jobs are on it.
fn is_steady(fleet: &Fleet, host: usize) -> bool {
    let is_up = fleet.availability(host, FROM, FROM + HOUR).up == HOUR;
    let of = |at: i64| fleet.schedule.uses[host].iter().map(|uses| held(uses, at).map(|u| u.job)).collect::<Vec<_>>();
    is_up && of(FROM) == of(FROM + HOUR - 1)
}

#[test]
fn programs_use_what_their_groups_and_the_processors_show() {
    let fleet = fleet(11);
    let mut compared = 0;
    for host in (0..fleet.world.hosts.len()).filter(|host| is_steady(&fleet, *host)) {
        let all = rows(&fleet, host);
        let (process, group, cpu) = (&all["process"], &all["container"], &all["cpu"]);
        let name = |at: usize| {
            text(process, "cgroup", at)
                .map(|group| format!("{} {}", group.replace("/step_0", ""), whole(process, "pid", at)))
        };
        let mut by_program: BTreeMap<String, f64> = BTreeMap::new();
        for (name, used) in growth(process, "cpu_seconds", name) {
            *by_program.entry(name.split(' ').next().unwrap().to_owned()).or_default() += used;
        }
        let by_group = growth(group, "cpu_usage_seconds", |at| text(group, "cgroup", at).map(str::to_owned));
        for (name, used) in &by_group {
            assert_eq!(by_program.get(&name.replace("/step_0", "")), Some(used), "{name}");
            compared += 1;
        }
        let of_cpu = |at: usize| text(cpu, "cpu", at).map(str::to_owned);
        let [user, system] = ["user_seconds", "system_seconds"].map(|column| growth(cpu, column, of_cpu));
        let busy = |name: &str| user[name] + system[name];
        let programs: f64 = by_program.values().sum();
        assert!(programs < busy("all") && busy("all") < programs + 4.0 * HOUR as f64, "{programs} {}", busy("all"));
        assert_eq!(user.len(), 1 + fleet.world.hosts[host].devices.len());
        assert!(user.keys().filter(|name| *name != "all").all(|name| busy(name) < HOUR as f64));
    }
    assert!(compared > 12, "{compared} groups");
}

#[test]
fn who_has_an_accelerator_is_among_the_processes() {
    let fleet = fleet(12);
    let mut found = 0;
    for host in 0..fleet.world.hosts.len() {
        let all = rows(&fleet, host);
        let Some(holders) = all.get("accelerator_process") else { continue };
        let process = &all["process"];
        let name = |batch: &RecordBatch, at: usize| {
            let texts = ["name", "cgroup", "job"].map(|column| text(batch, column, at).map(str::to_owned));
            (whole(batch, "pid", at), whole(batch, "start_ticks", at), whole(batch, "uid", at), texts)
        };
        let there: Vec<_> = (0..process.num_rows()).map(|at| name(process, at)).collect();
        for at in 0..holders.num_rows() {
            assert!(there.contains(&name(holders, at)), "{:?}", name(holders, at));
            found += 1;
        }
        let others = there.iter().filter(|(pid, ..)| *pid == -1).count() as i64;
        assert_eq!(others, fleet.availability(host, FROM, FROM + HOUR).up / 10);
    }
    assert!(found > 100, "{found} rows");
}

#[test]
fn meters_count_what_the_machines_draw_and_what_cools_them() {
    let fleet = fleet(13);
    let mut metered = 0;
    for (node, _) in fleet.world.nodes.iter().enumerate() {
        let hosts: Vec<usize> = (0..fleet.world.hosts.len()).filter(|h| fleet.world.hosts[*h].node == node).collect();
        let Some(reader) = hosts.first().filter(|host| fleet.lives[**host].standing(FROM) == Standing::Up) else {
            continue;
        };
        let sensor = &rows(&fleet, *reader)["sensor"];
        let meter = growth(sensor, "energy_joules", |at| text(sensor, "name", at).map(str::to_owned));
        let names: Vec<&str> = meter.keys().map(String::as_str).collect();
        assert_eq!(names, ["meter/facility", "meter/it"]);
        // The other way: what each machine says of itself, tick by tick, so that a turn may be off by a tick.
        let mut drawn = 0.0;
        for host in &hosts {
            let Some(power) = rows(&fleet, *host).remove("power") else { continue };
            let watts = power.column_by_name("power_watts").unwrap().as_primitive::<Float64Type>().clone();
            drawn += watts.iter().flatten().sum::<f64>() * 10.0;
        }
        let whole_hour = HOUR as f64 / (HOUR - 10) as f64;
        if hosts.iter().all(|host| fleet.availability(*host, FROM, FROM + HOUR).up == HOUR) {
            assert!((meter["meter/it"] * whole_hour / drawn - 1.0).abs() < 0.005, "{meter:?} {drawn}");
            metered += 1;
        }
        let pue = meter["meter/facility"] / meter["meter/it"];
        assert!((pue - meters::pue(&fleet, node, FROM)).abs() < 0.001 && pue > 1.1 && pue < 1.4, "{pue}");
    }
    assert!(metered >= 3, "{metered} nodes");
}
