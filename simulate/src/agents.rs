//! Agents: their own account, what they say of the host, and whether they lag.
//!
//! An agent tells of itself every ten seconds, by probe and as a whole, and of the machine every minute. Some agents lag
//! behind (their link is slow), some fall silent ([`crate::failures`]), and all begin anew when their host does.

use std::sync::Arc;

use crate::chance::{mix, unit};
use crate::events::Event;
use crate::failures::{Ailment, Standing};
use crate::load::{Exact, Turning, Whole};
use crate::series::{Cell, Label, Layout, Series};
use crate::world::{HOUR, Host, MINUTE};
use crate::{Detail, Fleet};

/// Probes that have a row, in their order.
pub const PROBES: [&str; 5] = ["accelerator", "all", "allocation", "connection", "login"];

/// Seconds between two looks of a probe.
fn interval(fleet: &Fleet, host: usize, probe: &str, at: i64) -> i64 {
    let by_catalogue = match probe {
        "accelerator" => 1,
        "connection" => 60,
        _ => 10,
    };
    by_catalogue.max(fleet.world.options.interval) * fleet.attacks.rarely(host, probe, at)
}

/// Rows that a probe takes at each look.
#[allow(clippy::cast_precision_loss, reason = "few rows")]
fn rows_of(fleet: &Fleet, host: usize, probe: &str, at: i64) -> f64 {
    let each = |rows: usize| rows as f64 / interval(fleet, host, probe, at) as f64;
    match probe {
        "accelerator" => {
            let there = fleet.lives[host].devices.iter().filter(|d| d.ails(Ailment::Lost, at).is_none()).count();
            each(there + fleet.attacks.shown_by(host).filter(|d| d.from <= at && at < d.to).count())
        }
        "connection" => each(crate::security::TALKS.len()),
        "all" => PROBES.iter().filter(|p| **p != "all").map(|p| rows_of(fleet, host, p, at)).sum::<f64>() + 20.0,
        _ => 0.01,
    }
}

/// The agent's own account.
pub static AGENT: Layout = Layout {
    table: "agent",
    labels: &["probe", "version"],
    cells: &[
        "samples",
        "rows_sampled",
        "errors",
        "timeouts",
        "skipped",
        "duration_seconds",
        "last_duration_seconds",
        "succeeded",
        "last_error",
        "cpu_seconds",
        "cpu_budget_ratio",
        "interval_seconds",
        "stretch",
        "config_hash",
        "config_loads",
        "config_refusals",
        "resident_bytes",
        "spool_bytes",
        "spool_records",
        "spool_oldest_seconds",
        "records_sent",
        "records_acknowledged",
        "records_retried",
        "records_lost",
        "clock_offset_microseconds",
    ],
};

/// Seconds by which an agent's records come late: none for most.
pub fn lag(fleet: &Fleet, host: &Host, at: i64) -> i64 {
    let draw = unit(mix(&[host.key, 80, (at / (6 * HOUR)) as u64]));
    if fleet.world.options.failures > 0.0 && draw > 0.985 { 20 + (mix(&[host.key, 81]) % 220) as i64 } else { 0 }
}

/// Records a second that are offered again by an agent that lags so much.
pub(crate) fn retried_rate(lag: i64) -> f64 {
    if lag > 0 { 0.5 } else { 0.0 }
}

/// First digits of the configuration's hash that agents run with.
pub const CONFIG: &str = "5f1c09a3d27be481";

#[derive(Default)]
struct Counters {
    whole: [Whole; 10],
    exact: [Exact; 2],
}

/// The series of `agent` or `service` of a host.
pub fn series(fleet: &Arc<Fleet>, host: usize, table: &str, every: i64) -> Vec<Series> {
    if table == "service" {
        return vec![systemd(fleet, host, every)];
    }
    PROBES.iter().map(|probe| agent(fleet, host, probe, every)).collect()
}

fn agent(fleet: &Arc<Fleet>, host: usize, probe: &'static str, every: i64) -> Series {
    let row = &fleet.world.hosts[host];
    let labels: Vec<Label> = vec![probe.into(), row.agent_version.into()];
    let mut turns = fleet.lives[host].turns();
    turns.extend(fleet.attacks.of_host(host).flat_map(|o| [o.from, o.to]));
    turns.extend(fleet.attacks.shown_by(host).flat_map(|d| [d.from, d.to]));
    let lost = fleet.lives[host].devices.iter().flat_map(|d| &d.troubles).filter(|t| t.ailment == Ailment::Lost);
    turns.extend(lost.flat_map(|t| [t.at, t.until]));
    let owner = fleet.clone();
    let (mut counters, mut boot) = (Counters::default(), owner.lives[host].boot(owner.world.options.start));
    let make = move |from: i64, to: i64| {
        let life = &owner.lives[host];
        if life.boot(from) != boot {
            (counters, boot) = (Counters::default(), life.boot(from));
        }
        let (c, seconds) = (&mut counters, to - from);
        let blinded = owner.attacks.blinded(host, probe, from);
        let is_all = probe == "all";
        let every = interval(&owner, host, probe, from);
        let rows = rows_of(&owner, host, probe, from);
        let late = lag(&owner, &owner.world.hosts[host], from);
        let [samples, given, errors, timeouts, skipped, sent, acknowledged, retried, lost, loads] = &mut c.whole;
        let [duration, cpu] = &mut c.exact;
        let cells = vec![
            samples.run(if blinded { 0.0 } else { 1.0 / every as f64 }, seconds),
            given.run(if blinded { 0.0 } else { rows }, seconds),
            errors.run(if blinded { 1.0 } else { 0.0 }, seconds),
            timeouts.jump(0),
            skipped.jump(0),
            duration.run(0.00390625, seconds),
            Cell::level(0.00390625),
            Cell::Bool(!blinded),
            if blinded { Cell::Text("cannot be read: permission denied") } else { Cell::Null },
            cpu.run(if is_all { 0.0029296875 } else { 0.000244140625 }, seconds),
            Cell::level(0.0205078125).told(is_all),
            Cell::level(every as f64).told(!is_all),
            Cell::whole(1).told(is_all),
            Cell::Text(owner.attacks.configuration(host, from).unwrap_or(CONFIG)).told(is_all),
            loads.jump(0).told(is_all),
            Cell::Count { start: 0, rate: 0 }.told(is_all),
            Cell::whole(23_000_000).told(is_all),
            Cell::whole(if late > 0 { late * 9_000 } else { 0 }).told(is_all),
            Cell::whole(if late > 0 { late * 12 } else { 0 }).told(is_all),
            if late > 0 && is_all { Cell::level(late as f64) } else { Cell::Null },
            sent.run(12.0, seconds).told(is_all),
            acknowledged.run(12.0, seconds).told(is_all),
            retried.run(retried_rate(late), seconds).told(is_all),
            lost.jump(0).told(is_all),
            Cell::whole(-12).told(is_all),
        ];
        (life.standing(from) == Standing::Up && !owner.attacks.muted(host, probe, from), cells)
    };
    Series::new(&AGENT, host, labels, every, Box::new(Turning::new(fleet, turns, make)))
}

/// Services: of the manager, which says last that the machine stops.
pub static SERVICE: Layout = Layout {
    table: "service",
    labels: &["unit", "load_state"],
    cells: &["active_state", "manager_state", "system_running", "failed_units", "queued_jobs"],
};

/// So long before it is off a machine that is shut down says so.
const STOPPING: i64 = 30;

fn systemd(fleet: &Arc<Fleet>, host: usize, every: i64) -> Series {
    let mut turns = fleet.lives[host].turns();
    let ends: Vec<(i64, i64)> = fleet.lives[host]
        .stretches
        .iter()
        .filter(|s| s.standing == Standing::Down)
        // One that breaks says nothing; one that is worked on, or shut down by somebody, says that it stops.
        .filter(|s| fleet.lives[host].in_maintenance(s.from) || fleet.attacks.is_shut_down(host, s.from))
        .map(|s| (s.from - STOPPING, s.from))
        .collect();
    turns.extend(ends.iter().flat_map(|(from, to)| [*from, *to]));
    let owner = fleet.clone();
    let make = move |from: i64, _: i64| {
        let stops = ends.iter().any(|(begin, end)| *begin <= from && from < *end);
        let cells = vec![
            Cell::Text("active"),
            Cell::Text(if stops { "stopping" } else { "running" }),
            Cell::Bool(!stops),
            Cell::whole(0),
            Cell::whole(0),
        ];
        (owner.lives[host].standing(from) == Standing::Up, cells)
    };
    let labels = vec!["systemd".into(), "loaded".into()];
    Series::new(&SERVICE, host, labels, every, Box::new(Turning::new(fleet, turns, make)))
}

/// What an agent says of its machine: every minute, or as often as what it states anew.
pub fn events(fleet: &Fleet, host: usize, from: i64, to: i64, detail: Detail) -> Vec<Event> {
    let step = if detail == Detail::Minutes { MINUTE } else { detail.restated() };
    let first = from.div_euclid(step) * step;
    (first..to).step_by(step as usize).filter(|at| *at >= from).map(|at| machine(fleet, host, at)).collect()
}

/// Serial number of a machine.
fn serial(host: &Host) -> String {
    format!("SN{:010}", host.key % 10_000_000_000)
}

/// The row of `host` at a moment; with its maps on the hour.
pub fn machine(fleet: &Fleet, host: usize, at: i64) -> Event {
    let it = &fleet.world.hosts[host];
    let model = it.model;
    let is_arm = model.vendor == "ascend";
    let claim = fleet.attacks.machine(host, at);
    let shown = claim.flatten().map_or(it, |other| &fleet.world.hosts[other]);
    let machine_id = match claim {
        Some(None) => format!("{:016x}{:016x}", mix(&[it.key, 82]), mix(&[it.key, 83])),
        _ => shown.machine_id.clone(),
    };
    let event = Event::new("host", at, &fleet.world.node_of(it).code, &it.name)
        .with("hostname", it.name.clone())
        .with("machine_id", machine_id)
        .with("os", if is_arm { "openEuler 22.03 (LTS-SP4)" } else { "Ubuntu 22.04.4 LTS" })
        .with("os_name", if is_arm { "openEuler" } else { "Ubuntu" })
        .with("os_id", if is_arm { "openEuler" } else { "ubuntu" })
        .with("os_version", if is_arm { "22.03" } else { "22.04" })
        .with("kernel", if is_arm { "5.10.0-216.0.0.115.oe2203sp4.aarch64" } else { "5.15.0-112-generic" })
        .with("architecture", if is_arm { "aarch64" } else { "x86_64" })
        .with("virtualization", "none")
        .with("container", false)
        .with("vendor", if is_arm { "Huawei" } else { "Inspur" })
        .with("product", if is_arm { "Atlas 800T A2" } else { "NF5688M7" })
        .with("serial", serial(shown))
        .with("bios_version", fleet.attacks.bios(host, at).unwrap_or("4.21.09"))
        .with("cpu_model", if is_arm { "Kunpeng-920" } else { "Intel(R) Xeon(R) Platinum 8468" })
        .with("microcode", "0x2b0005c0")
        .with("agent_version", it.agent_version)
        // The kernel reckons it from its clock, which somebody may have set.
        .with("boot_time_seconds", fleet.lives[host].boot(at) + fleet.attacks.clock(host, at).round() as i64)
        .with("sockets", 2_i64)
        .with("cores", it.threads / 2)
        .with("threads", it.threads)
        .with("numa_nodes", 2_i64)
        .with("memory_bytes", it.memory)
        .with("swap_bytes", 0_i64)
        .with("accelerators", it.devices.len() as i64);
    if at.rem_euclid(HOUR) != 0 {
        return event;
    }
    let ports = crate::machine::ports(fleet, host);
    let mut firmware: Vec<(String, String)> = vec![("nvme0".to_owned(), "GDC7302Q".to_owned())];
    firmware.extend((0..ports).map(|port| (format!("mlx5_{port}"), "28.39.1002".to_owned())));
    let drivers =
        vec![(model.module.to_owned(), it.driver.to_owned()), ("mlx5_core".to_owned(), "24.04-0.6.6".to_owned())];
    event
        .with(
            "accelerators_by_vendor",
            crate::events::Value::Numbers(vec![(model.vendor.to_owned(), it.devices.len() as i64)]),
        )
        .with("firmware", crate::events::Value::Texts(firmware))
        .with("drivers", crate::events::Value::Texts(drivers))
        .with("devices_omitted", 0_i64)
}
