//! Rows of what people do: as the agent's probes would tell of it, beside those of the peaceful life.

use super::{Planner, Spot};
use crate::chance::mix;
use crate::events::{Event, time};
use crate::world::{HOUR, MINUTE};

/// A program that somebody runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Program {
    pub pid: i64,
    pub uid: i64,
    /// As the kernel calls it: fifteen letters at most.
    pub name: &'static str,
    pub path: &'static str,
    /// Why the agent thinks that it is worth a look; empty for a program of a package.
    pub reason: &'static str,
    /// The job it belongs to.
    pub job: Option<String>,
}

impl Program {
    /// The hash of its file.
    pub(super) fn sha256(&self) -> String {
        hash(self.pid.unsigned_abs())
    }
}

/// Something like a SHA-256.
pub(super) fn hash(of: u64) -> String {
    (0..4).map(|part| format!("{:016x}", mix(&[of, part, 123]))).collect()
}

/// Connections of one group: to one network and port.
#[derive(Debug, Clone)]
pub(super) struct Talk {
    pub direction: &'static str,
    pub port: i64,
    pub network: String,
    pub scope: &'static str,
    pub pid: Option<i64>,
    pub process: Option<&'static str>,
    /// Addresses talked to at once.
    pub addresses: i64,
    /// Connections opened in a minute, and those of them that nobody answered.
    pub opened: i64,
    pub given_up: i64,
    /// Bytes a second, each way.
    pub sent: i64,
    pub received: i64,
    /// Age of the oldest when it is first seen, seconds.
    pub oldest: i64,
}

impl Default for Talk {
    fn default() -> Self {
        Self {
            direction: "out",
            port: 443,
            network: "203.0.113.0/24".to_owned(),
            scope: "global",
            pid: None,
            process: None,
            addresses: 1,
            opened: 0,
            given_up: 0,
            sent: 0,
            received: 0,
            oldest: 0,
        }
    }
}

/// Somebody at the door.
#[derive(Debug, Clone)]
pub(super) struct Login<'a> {
    pub kind: &'static str,
    pub user: &'a str,
    pub source: &'a str,
    pub method: &'static str,
}

impl Planner<'_> {
    pub(super) fn event(&self, table: &'static str, host: usize, at: i64) -> Event {
        let row = &self.world.hosts[host];
        Event::new(table, at, &self.world.nodes[row.node].code, &row.name)
    }

    pub(super) fn add(&mut self, host: usize, event: Event) {
        self.all.rows.push((host, event));
    }

    /// A process on a device: a row a minute, and what there is to say of its file.
    pub(super) fn runs(&mut self, spot: Spot, device: usize, program: &Program) {
        for at in (spot.from..spot.to).step_by(MINUTE as usize) {
            let row = &self.world.hosts[spot.host];
            let event = self
                .event("accelerator_process", spot.host, at)
                .with("device", row.devices[device].id.clone())
                .with("pid", program.pid)
                .with("vendor", row.model.vendor)
                .with("start_ticks", 8_640_000_i64)
                .with("name", program.name)
                .with("uid", program.uid)
                .maybe("job", program.job.clone())
                .with("work", "compute")
                .with("memory_used_bytes", 4_i64 << 30);
            self.add(spot.host, event);
        }
        if !program.reason.is_empty() {
            self.file(spot, program);
        }
    }

    /// What there is to say of a program's file: when it is first seen, once an hour, and when it runs no more.
    pub(super) fn file(&mut self, spot: Spot, program: &Program) {
        let hours = (spot.from.div_euclid(HOUR) + 1..=spot.to.div_euclid(HOUR)).map(|hour| (hour * HOUR, "present"));
        let told: Vec<(i64, &'static str)> =
            std::iter::once((spot.from, "added")).chain(hours).chain([(spot.to, "removed")]).collect();
        for (at, state) in told {
            let event = self
                .event("executable", spot.host, at)
                .with("path", program.path)
                .with("device", 25_i64)
                .with("inode", 100_000 + program.pid)
                .with("state", state)
                .with("reason", program.reason)
                .with("sha256", program.sha256())
                .with("size_bytes", 8_388_608_i64)
                .with("owner_uid", program.uid)
                .with("mode", 493_i64)
                .with("processes", i64::from(state != "removed"))
                .with("pid", program.pid)
                .with("pids", program.pid.to_string())
                .with("process", program.name)
                .with("uid", program.uid)
                .maybe("job", program.job.clone());
            self.add(spot.host, event);
        }
    }

    /// Connections, put together: a row a minute.
    pub(super) fn talk(&mut self, spot: Spot, talk: &Talk) {
        for (number, at) in (1..).zip((spot.from..spot.to).step_by(MINUTE as usize)) {
            let event = self
                .event("connection", spot.host, at)
                .with("protocol", "tcp")
                .with("direction", talk.direction)
                .with("port", talk.port)
                .with("remote_prefix", talk.network.clone())
                .with("remote_scope", talk.scope)
                .maybe("pid", talk.pid)
                .maybe("process", talk.process)
                .with("connections", talk.addresses)
                .with("established", i64::from(talk.given_up < talk.opened || talk.opened == 0))
                .with("remote_addresses", talk.addresses)
                .with("opened", talk.opened * number)
                .with("closed", 0_i64)
                .with("given_up", talk.given_up * number)
                .with("sent_bytes", talk.sent * 60 * number)
                .with("received_bytes", talk.received * 60 * number)
                .with("oldest_seconds", (talk.oldest + 60 * number) as f64);
            self.add(spot.host, event);
        }
    }

    pub(super) fn login(&mut self, host: usize, at: i64, login: &Login<'_>) {
        let place = 100 + self.next();
        let event = self
            .event("login", host, at.div_euclid(10) * 10)
            .with("event", at * 1_000_000 + place)
            .with("at", time(at))
            .with("kind", login.kind)
            .with("service", "sshd")
            .with("source", "journal")
            .with("user", login.user.to_owned())
            .with("source_address", login.source.to_owned())
            .with("method", login.method)
            .maybe("reason", (login.kind == "failure").then_some("refused"));
        self.add(host, event);
    }

    /// A port that is open from then on.
    pub(super) fn listens(&mut self, spot: Spot, state: &'static str, port: i64, program: &Program) {
        let hours =
            (spot.from.div_euclid(HOUR) + 1..=self.options.to.div_euclid(HOUR)).map(|hour| (hour * HOUR, "present"));
        let told: Vec<(i64, &'static str)> = std::iter::once((spot.from, state)).chain(hours).collect();
        for (at, state) in told {
            let event = self
                .event("listener", spot.host, at)
                .with("protocol", "tcp")
                .with("address", "0.0.0.0")
                .with("port", port)
                .with("interface", "any")
                .with("state", state)
                .with("family", "ipv4")
                .with("wildcard", true)
                .with("loopback", false)
                .with("sockets", 1_i64)
                .with("uid", program.uid)
                .with("pid", program.pid)
                .with("process", program.name)
                .with("executable", program.path)
                .with("sha256", program.sha256())
                .maybe("job", program.job.clone())
                .with("since", time(spot.from));
            self.add(spot.host, event);
        }
    }

    /// A watched file that is there now, or has other contents.
    pub(super) fn writes(&mut self, host: usize, at: i64, path: &'static str, state: &'static str, contents: u64) {
        let event = self
            .event("config_change", host, at)
            .with("path", path)
            .with("state", state)
            .maybe("changed", (state == "changed").then_some("contents"))
            .with("sha256", hash(contents))
            .with("size_bytes", 131_i64)
            .with("mode", "0644")
            .with("uid", 0_i64)
            .with("gid", 0_i64);
        self.add(host, event);
    }

    /// An entry of the registry.
    pub(super) fn entry(&self, table: &'static str, at: i64, node: &str, host: &str, import: &str) -> Event {
        Event::new(table, at, node, host)
            .with("valid_from", time(at))
            .with("revoked", false)
            .with("import", import.to_owned())
    }

    /// Maintenance of a host, announced an hour before.
    pub(super) fn announce(&mut self, spot: Spot, kind: &'static str) {
        let row = &self.world.hosts[spot.host];
        let ticket = format!("CHG-{}-{}", row.name, spot.from);
        let entry = self
            .entry("registry_maintenance", spot.from - HOUR, &self.world.nodes[row.node].code, &row.name, &ticket)
            .with("maintenance", ticket.clone())
            .with("starts", time(spot.from - 5 * MINUTE))
            .with("ends", time(spot.to + 5 * MINUTE))
            .with("kind", kind)
            .with("reason", "planned");
        self.all.entries.push(entry);
    }

    /// Something that is allowed everywhere, since the fleet's begin.
    pub(super) fn approve(&mut self, kind: &'static str, name: &str, value: &str) {
        let entry = self.approval(kind, name, value, "", "");
        self.all.entries.push(entry);
    }

    /// The same on one host.
    pub(super) fn approve_on(&mut self, host: usize, kind: &'static str, name: &str, value: &str) {
        let row = &self.world.hosts[host];
        let entry = self.approval(kind, name, value, &self.world.nodes[row.node].code, &row.name);
        self.all.entries.push(entry);
    }

    fn approval(&self, kind: &'static str, name: &str, value: &str, node: &str, host: &str) -> Event {
        self.entry("registry_approved", self.world.options.start, node, host, crate::registry::FIRST_IMPORT)
            .with("kind", kind)
            .with("name", name.to_owned())
            .with("value", value.to_owned())
            .with("reason", "by ticket")
    }
}
