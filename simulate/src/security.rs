//! What peaceful days look like to somebody who watches for attacks.
//!
//! People log in with their keys, sometimes with the wrong one; administrators become root; every host listens on the
//! same few ports and talks to the same few services. Nothing here is an attack, and a rule that says so is wrong.

use std::sync::Arc;

use crate::chance::{Chance, mix};
use crate::events::{Event, time};
use crate::failures::Standing;
use crate::load::{Turning, Whole};
use crate::registry::{LISTENERS, MODULES};
use crate::series::{Cell, Label, Layout, Series};
use crate::world::HOUR;
use crate::{Detail, Fleet};

/// Address from which administrators and users come.
pub const BASTION: &str = "10.8.0.10";

/// Connections, put together.
pub static CONNECTION: Layout = Layout {
    table: "connection",
    labels: &["protocol", "direction", "port", "remote_prefix", "remote_scope", "process", "unit"],
    cells: &[
        "connections",
        "established",
        "syn_sent",
        "time_wait",
        "remote_addresses",
        "opened",
        "closed",
        "given_up",
        "sent_bytes",
        "received_bytes",
        "retransmits",
        "rtt_seconds",
        "oldest_seconds",
    ],
};

/// What every host talks to: direction, port, network, process, unit, connections, bytes a second.
pub(crate) const TALKS: [(&str, i64, &str, &str, &str, i64, f64); 5] = [
    ("in", 22, "10.8.0.0/24", "sshd", "ssh.service", 2, 300.0),
    ("in", 19100, "10.8.1.0/24", "nodescope-agent", "nodescope-agent.service", 1, 900.0),
    ("out", 2049, "10.200.0.0/24", "", "", 8, 2_000_000.0),
    ("out", 6817, "10.8.2.0/24", "slurmd", "slurmd.service", 1, 200.0),
    ("out", 9092, "10.8.3.0/24", "nodescope-agent", "nodescope-agent.service", 3, 20_000.0),
];

/// The series of a host's connections, in the order of the entity.
pub fn connections(fleet: &Arc<Fleet>, host: usize, every: i64) -> Vec<Series> {
    TALKS
        .iter()
        .map(|(direction, port, prefix, process, unit_name, count, bytes)| {
            let text = |name: &str| if name.is_empty() { Label::Null } else { name.into() };
            let labels = vec![
                "tcp".into(),
                (*direction).into(),
                (*port).into(),
                (*prefix).into(),
                "private".into(),
                text(process),
                text(unit_name),
            ];
            let (owner, mut boot, mut c) = (fleet.clone(), 0, <[Whole; 5]>::default());
            let make = move |from: i64, to: i64| {
                let life = &owner.lives[host];
                if life.boot(from) != boot {
                    (boot, c) = (life.boot(from), <[Whole; 5]>::default());
                }
                let seconds = to - from;
                let cells = vec![
                    Cell::whole(*count),
                    Cell::whole(*count),
                    Cell::whole(0),
                    Cell::whole(0),
                    Cell::whole((*count).min(3)),
                    c[0].run(0.002, seconds),
                    c[1].run(0.002, seconds),
                    c[2].jump(0),
                    c[3].run(*bytes, seconds),
                    c[4].run(*bytes * 0.6, seconds),
                    Cell::whole(0).told(false),
                    Cell::level(0.000_244_140_625),
                    Cell::Rising { start: (from - life.boot(from)).max(0) as f64, rate: 1.0 },
                ];
                (life.standing(from) == Standing::Up && !owner.attacks.withheld(host, "connection", from), cells)
            };
            let mut turns = fleet.lives[host].turns();
            turns.extend(fleet.attacks.of_host(host).flat_map(|o| [o.from, o.to]));
            Series::new(&CONNECTION, host, labels, every, Box::new(Turning::new(fleet, turns, make)))
        })
        .collect()
}

/// Everything of this kind that a host's agent tells in `[from, to)`.
pub fn events(fleet: &Fleet, host: usize, from: i64, to: i64, detail: Detail) -> Vec<Event> {
    let mut all = Vec::new();
    logins(fleet, host, from, to, &mut all);
    let step = detail.restated();
    let first = from.div_euclid(step) * step;
    for at in (first..to).step_by(step as usize).filter(|at| *at >= from) {
        restated(fleet, host, at, &mut all);
    }
    all
}

fn row(fleet: &Fleet, table: &'static str, host: usize, at: i64) -> Event {
    let it = &fleet.world.hosts[host];
    Event::new(table, at, &fleet.world.node_of(it).code, &it.name)
}

/// A login event of a host; its number follows from its second and its place.
pub fn login(fleet: &Fleet, host: usize, at: i64, place: i64, kind: &'static str) -> Event {
    row(fleet, "login", host, at.div_euclid(10) * 10)
        .with("event", at * 64 + place)
        .with("at", time(at))
        .with("kind", kind)
        .with("service", "sshd")
        .with("source", "journal")
}

const PEOPLE: [&str; 6] = ["admin.zhou", "admin.lin", "ops.gao", "zhang.wei", "li.na", "wang.fang"];

fn logins(fleet: &Fleet, host: usize, from: i64, to: i64, all: &mut Vec<Event>) {
    let key = fleet.world.hosts[host].key;
    let mut hour = from.div_euclid(HOUR) * HOUR;
    while hour < to {
        let mut chance = Chance::of(&[key, 100, hour as u64]);
        // About three visits a day.
        if chance.happens(0.12 * crate::jobs::hourly(hour)) {
            let at = hour + chance.below(3_000) as i64;
            let user = PEOPLE[chance.below(PEOPLE.len() as u64) as usize];
            let fingerprint = format!("SHA256:{:016x}{:016x}", mix(&[key, 101]), crate::chance::mix_text(7, user));
            let port = 40_000 + chance.below(20_000) as i64;
            let session = format!("{}", at % 100_000);
            let of = |at: i64, place: i64, kind: &'static str| {
                login(fleet, host, at, place, kind)
                    .with("user", user)
                    .with("source_address", BASTION)
                    .with("source_port", port)
                    .with("session", session.clone())
            };
            let mut events = Vec::new();
            if chance.happens(0.08) {
                events.push(of(at - 4, 0, "failure").with("method", "publickey").with("reason", "refused"));
            }
            events.push(
                of(at, 1, "success")
                    .with("method", "publickey")
                    .with("key_type", "ED25519")
                    .with("key_fingerprint", fingerprint),
            );
            events.push(of(at, 2, "session_opened"));
            if user.starts_with("admin") && chance.happens(0.5) {
                events.push(
                    login(fleet, host, at + 20, 3, "privilege")
                        .with("user", user)
                        .with("target_user", "root")
                        .with("tty", "pts/0"),
                );
            }
            events.push(of(at + 60 + chance.below(500) as i64, 4, "session_closed"));
            all.extend(events.into_iter().filter(|e| from * 1_000_000 <= e.ts && e.ts < to * 1_000_000));
        }
        hour += HOUR;
    }
}

/// What is stated anew: listeners, modules, watched files, programs worth a look.
fn restated(fleet: &Fleet, host: usize, at: i64, all: &mut Vec<Event>) {
    let it = &fleet.world.hosts[host];
    for (place, (port, program, hash)) in LISTENERS.iter().enumerate() {
        all.push(
            row(fleet, "listener", host, at)
                .with("protocol", "tcp")
                .with("address", "0.0.0.0")
                .with("port", *port)
                .with("interface", "any")
                .with("state", "present")
                .with("family", "ipv4")
                .with("wildcard", true)
                .with("loopback", false)
                .with("sockets", 1_i64)
                .with("uid", 0_i64)
                .with("pid", 900 + place as i64)
                .with("process", program.rsplit('/').next().unwrap_or_default().chars().take(15).collect::<String>())
                .with("executable", *program)
                .with("executable_deleted", false)
                .with("sha256", *hash),
        );
    }
    let module = |name: &'static str, version: &'static str, is_foreign: bool, is_proprietary: bool| {
        row(fleet, "module", host, at)
            .with("module", name)
            .with("state", "present")
            .with("load_state", "live")
            .with("size_bytes", 1_048_576_i64)
            .with("references", 3_i64)
            .maybe("version", (!version.is_empty()).then_some(version))
            .with("srcversion", format!("{:016X}", crate::chance::mix_text(3, &format!("{name}{version}"))))
            .with("signed", true)
            .with("out_of_tree", is_foreign)
            .with("proprietary", is_proprietary)
    };
    for (name, version, is_foreign) in MODULES {
        all.push(module(name, version, is_foreign, false));
    }
    all.push(module(it.model.module, it.driver, true, it.model.vendor == "nvidia"));
    all.push(
        row(fleet, "module", host, at)
            .with("module", "(kernel)")
            .with("state", "present")
            .with("kernel_taint", 12_289_i64)
            .with("signature_enforced", true)
            .with("loading_disabled", false)
            .with("lockdown", "integrity"),
    );
    for (path, size) in
        [("/etc/passwd", 2_911_i64), ("/etc/ssh/sshd_config", 3_312), ("/root/.ssh/authorized_keys", 743)]
    {
        all.push(
            row(fleet, "config_change", host, at)
                .with("path", path)
                .with("state", "seen")
                .with(
                    "sha256",
                    format!("{:016x}{:016x}", crate::chance::mix_text(4, path), crate::chance::mix_text(5, path)),
                )
                .with("size_bytes", size)
                .with("mode", "0644")
                .with("uid", 0_i64)
                .with("gid", 0_i64),
        );
    }
    // A program of the operators' own, of no package: worth a look, and well known.
    all.push(
        row(fleet, "executable", host, at)
            .with("path", "/opt/site/bin/node-health")
            .with("device", 66_306_i64)
            .with("inode", 131_077_i64)
            .with("state", "present")
            .with("reason", "unpackaged")
            .with("sha256", "77ab1f09c6d2e5083b4f91a7d0c8e6f2513a9b7d4c0e8f6a1b2d3c4e5f607182")
            .with("size_bytes", 5_242_880_i64)
            .with("owner_uid", 0_i64)
            .with("mode", 493_i64)
            .with("processes", 1_i64)
            .with("pid", 1_410_i64)
            .with("pids", "1410")
            .with("process", "node-health")
            .with("uid", 0_i64)
            .with("unit", "node-health.service"),
    );
}
