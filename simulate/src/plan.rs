//! Which attacks there are, and which near misses: laid over the newest hours of a peaceful life.
//!
//! Each kind (D1 to D20 of the programme) is tried once or more, on hosts that nothing else befalls meanwhile, so that
//! a finding can be told from another's. What needs more time than there is (a claim that lies idle for four hours) is
//! left out rather than cut short. Near misses look alike in all but one thing, and that one is what the rule must see.

use std::collections::BTreeSet;

use crate::attacks::{Act, Attack, Attacks, HostOverlay, Overlay, Trick};
use crate::chance::{Chance, mix};
use crate::events::{Event, time};
use crate::failures::{HostLife, Standing};
use crate::jobs::{Schedule, Shape};
use crate::world::{HOUR, MINUTE, World};

/// When, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanOptions {
    /// First second.
    pub from: i64,
    /// First second after it.
    pub to: i64,
    /// Whether attacks are made.
    pub attacks: bool,
    /// Whether near misses are made.
    pub benign: bool,
}

/// Somebody mines: all cores, no tensor units, no traffic, no steps.
const MINER: Shape = Shape {
    busy: 0.984_375,
    core: 1.0,
    tensor: 0.0,
    dram: 0.25,
    memory: 0.0625,
    power: 0.875,
    traffic: 0.0,
    step: 0.0,
    idle: false,
};

/// Somebody computes as jobs do.
const WORKER: Shape = Shape {
    busy: 0.875,
    core: 0.75,
    tensor: 0.375,
    dram: 0.5,
    memory: 0.5,
    power: 0.75,
    traffic: 0.0,
    step: 2.0,
    idle: false,
};

/// Somebody holds a device and leaves it alone.
const HOARDED: Shape = Shape {
    busy: 0.0,
    core: 0.0,
    tensor: 0.0,
    dram: 0.0,
    memory: 0.007_812_5,
    power: 0.0,
    traffic: 0.0,
    step: 1.0,
    idle: true,
};

/// Plans attacks and near misses.
pub fn plan(world: &World, lives: &[HostLife], schedule: &Schedule, options: &PlanOptions) -> Attacks {
    let mut planner = Planner {
        world,
        lives,
        schedule,
        options: *options,
        chance: Chance::of(&[world.options.seed, 120]),
        used: BTreeSet::new(),
        all: Attacks::default(),
    };
    if options.attacks {
        planner.attacks();
    }
    if options.benign {
        planner.near_misses();
    }
    planner.all
}

/// The labels as the scorer reads them.
pub fn labels_csv(labels: &[Attack]) -> String {
    let mut text = String::from("rule,node,host,device,begin,end\n");
    for label in labels {
        let Attack { rule, node, host, device, from, to } = label;
        text.push_str(&format!("{rule},{node},{host},{device},{},{}\n", rfc3339(*from), rfc3339(*to)));
    }
    text
}

/// A time in RFC 3339, by the civil calendar.
fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let in_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let (d, m) = (in_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let y = year + era * 400 + i64::from(m <= 2);
    format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

struct Planner<'a> {
    world: &'a World,
    lives: &'a [HostLife],
    schedule: &'a Schedule,
    options: PlanOptions,
    chance: Chance,
    used: BTreeSet<usize>,
    all: Attacks,
}

impl Planner<'_> {
    /// A begin such that so many seconds fit, and some are left before and after; on a whole minute.
    fn when(&mut self, seconds: i64) -> Option<i64> {
        let (from, to) = (self.options.from + 6 * MINUTE, self.options.to - seconds - 4 * MINUTE);
        let room = to - from;
        (room >= 0).then(|| (from + self.chance.below(room as u64 + 1) as i64).div_euclid(MINUTE) * MINUTE)
    }

    /// A host that nothing befalls between two moments and an hour around, that passes a test; it is then taken.
    fn host(&mut self, from: i64, to: i64, is_fit: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let many = self.world.hosts.len();
        let first = self.chance.below(many as u64) as usize;
        let host = (0..many).map(|n| (first + n) % many).find(|host| {
            let life = &self.lives[*host];
            let is_calm = life
                .stretches
                .iter()
                .all(|s| s.standing == Standing::Up || s.to <= from - 70 * MINUTE || s.from >= to + 70 * MINUTE);
            let is_announced = life.maintenance.iter().any(|m| m.from <= to + HOUR && m.to >= from - HOUR);
            let is_well =
                life.devices.iter().all(|d| d.troubles.iter().all(|t| t.until <= from - HOUR || t.at >= to + HOUR));
            is_calm && is_well && !is_announced && !self.used.contains(host) && is_fit(self, *host)
        })?;
        self.used.insert(host);
        Some(host)
    }

    /// A device of a host that no job holds meanwhile.
    fn free(&self, host: usize, from: i64, to: i64) -> Option<usize> {
        let is_free = |uses: &Vec<crate::jobs::Use>| {
            uses.iter().all(|u| u.to <= from - 10 * MINUTE || u.from >= to + 10 * MINUTE)
        };
        self.schedule.uses[host].iter().position(is_free)
    }

    /// A device of a host that one job holds all the while.
    fn held(&self, host: usize, from: i64, to: i64) -> Option<(usize, usize)> {
        let uses = self.schedule.uses[host].iter().enumerate();
        uses.flat_map(|(device, uses)| uses.iter().map(move |u| (device, u)))
            .find(|(_, u)| u.from <= from - 10 * MINUTE && to + 10 * MINUTE <= u.to)
            .map(|(device, u)| (device, u.job))
    }

    fn host_with_free(&mut self, from: i64, to: i64) -> Option<(usize, usize)> {
        let host = self.host(from, to, |this, host| this.free(host, from, to).is_some())?;
        self.free(host, from, to).map(|device| (host, device))
    }

    fn event(&self, table: &'static str, host: usize, at: i64) -> Event {
        let row = &self.world.hosts[host];
        Event::new(table, at, &self.world.nodes[row.node].code, &row.name)
    }

    fn add(&mut self, host: usize, event: Event) {
        self.all.rows.push((host, event));
    }

    fn lay(&mut self, host: usize, device: usize, from: i64, to: i64, act: Act) {
        self.all.devices.push(Overlay { host, device, from, to, act });
    }

    fn trick(&mut self, host: usize, from: i64, to: i64, trick: Trick) {
        self.all.hosts.push(HostOverlay { host, from, to, trick });
    }

    fn label(&mut self, rule: &'static str, host: usize, device: Option<usize>, from: i64, to: i64) {
        let row = &self.world.hosts[host];
        let label = Attack {
            rule,
            node: self.world.nodes[row.node].code.clone(),
            host: row.name.clone(),
            device: device.map_or_else(String::new, |d| row.devices[d].id.clone()),
            from,
            to,
        };
        self.all.labels.push(label);
    }

    fn node_label(&mut self, rule: &'static str, host: usize, from: i64, to: i64) {
        self.label(rule, host, None, from, to);
        if let Some(label) = self.all.labels.last_mut() {
            label.host = String::new();
        }
    }

    fn approve(&mut self, kind: &'static str, name: &str, value: &str) {
        let at = self.world.options.start;
        self.all.entries.push(
            Event::new("registry_approved", at, "", "")
                .with("valid_from", time(at))
                .with("revoked", false)
                .with("import", crate::registry::FIRST_IMPORT)
                .with("kind", kind)
                .with("name", name.to_owned())
                .with("value", value.to_owned())
                .with("reason", "by ticket"),
        );
    }

    /// A process on a device, every minute.
    #[allow(clippy::too_many_arguments, reason = "what makes a process")]
    fn process(&mut self, host: usize, device: usize, from: i64, to: i64, pid: i64, name: &'static str, uid: i64) {
        for at in (from..to).step_by(MINUTE as usize) {
            let row = &self.world.hosts[host];
            let event = self
                .event("accelerator_process", host, at)
                .with("device", row.devices[device].id.clone())
                .with("pid", pid)
                .with("vendor", row.model.vendor)
                .with("start_ticks", 8_640_000_i64)
                .with("name", name)
                .with("uid", uid)
                .with("work", "compute")
                .with("memory_used_bytes", 4_i64 << 30);
            self.add(host, event);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what makes a program")]
    fn executable(
        &mut self,
        host: usize,
        at: i64,
        path: &str,
        reason: &'static str,
        pid: i64,
        uid: i64,
        job: Option<String>,
    ) {
        let event = self
            .event("executable", host, at)
            .with("path", path.to_owned())
            .with("device", 25_i64)
            .with("inode", 100_000 + pid)
            .with("state", "added")
            .with("reason", reason)
            .with("sha256", format!("{:016x}{:016x}", mix(&[pid as u64, 1]), mix(&[pid as u64, 2])))
            .with("size_bytes", 8_388_608_i64)
            .with("owner_uid", uid)
            .with("mode", 493_i64)
            .with("processes", 1_i64)
            .with("pid", pid)
            .with("pids", pid.to_string())
            .with("process", path.rsplit('/').next().unwrap_or_default().chars().take(15).collect::<String>())
            .with("uid", uid)
            .maybe("job", job);
        self.add(host, event);
    }

    #[allow(clippy::too_many_arguments, reason = "what makes a connection")]
    fn connection(
        &mut self,
        host: usize,
        from: i64,
        to: i64,
        direction: &'static str,
        port: i64,
        pid: Option<i64>,
        rate: i64,
        oldest: i64,
    ) {
        for (number, at) in (from..to).step_by(MINUTE as usize).enumerate() {
            let sent = rate * 60 * number as i64;
            let event = self
                .event("connection", host, at)
                .with("protocol", "tcp")
                .with("direction", direction)
                .with("port", port)
                .with("remote_prefix", "203.0.113.0/24")
                .with("remote_scope", "global")
                .maybe("pid", pid)
                .with("connections", 1_i64)
                .with("established", 1_i64)
                .with("remote_addresses", 1_i64)
                .with("opened", 1_i64)
                .with("closed", 0_i64)
                .with("given_up", 0_i64)
                .with("sent_bytes", sent / 2)
                .with("received_bytes", sent / 2)
                .with("oldest_seconds", (oldest + 60 * number as i64) as f64);
            self.add(host, event);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what makes a login")]
    fn login(
        &mut self,
        host: usize,
        at: i64,
        place: i64,
        kind: &'static str,
        user: &'static str,
        from: &'static str,
        method: &'static str,
    ) {
        let event = self
            .event("login", host, at.div_euclid(10) * 10)
            .with("event", at * 64 + 20 + place)
            .with("at", time(at))
            .with("kind", kind)
            .with("service", "sshd")
            .with("source", "journal")
            .with("user", user)
            .with("source_address", from)
            .with("method", method)
            .maybe("reason", (kind == "failure").then_some("refused"));
        self.add(host, event);
    }

    fn attacks(&mut self) {
        let rounds = if self.world.hosts.len() >= 80 { 2 } else { 1 };
        for round in 0..rounds {
            self.computing();
            self.identity(round);
            self.monitoring(round);
            self.network(round);
            self.software(round);
        }
    }

    /// D1 to D4, D7, D16, D19: what happens on accelerators.
    fn computing(&mut self) {
        if let Some(from) = self.when(30 * MINUTE) {
            let to = from + 30 * MINUTE;
            if let Some((host, device)) = self.host_with_free(from, to) {
                self.lay(host, device, from, to, Act::Compute(WORKER));
                self.label("d01_accelerator_busy_without_job", host, Some(device), from, to);
            }
        }
        if let Some(from) = self.when(75 * MINUTE) {
            let to = from + 75 * MINUTE;
            if let Some((host, device)) = self.host_with_free(from, to) {
                self.lay(host, device, from, to, Act::Compute(MINER));
                self.process(host, device, from, to, 4_242, "kworker-u", 0);
                self.executable(host, from, "/memfd:k", "memfd", 4_242, 0, None);
                for rule in ["d01_accelerator_busy_without_job", "d02_miner_shape", "d16_unlisted_accelerator_process"]
                {
                    self.label(rule, host, Some(device), from, to);
                }
            }
        }
        if let Some(from) = self.when(40 * MINUTE) {
            let to = from + 40 * MINUTE;
            if let Some((host, device)) = self.host_with_free(from, to) {
                self.lay(host, device, from, to, Act::Compute(Shape { power: 0.5, step: 1.0, ..WORKER }));
                self.process(host, device, from, to, 5_151, "xmrig", 20_099);
                self.connection(host, from, to, "out", 3333, Some(5_151), 900, 900);
                self.label("d01_accelerator_busy_without_job", host, Some(device), from, to);
                self.label("d03_miner_or_pool", host, None, from, to);
            }
        }
        if let Some(from) = self.when(5 * HOUR) {
            let to = from + 5 * HOUR;
            let fits = |this: &Self, host: usize| {
                this.world.hosts[host].model.tells.activity && this.held(host, from, to).is_some()
            };
            if let Some(host) = self.host(from, to, fits)
                && let Some((device, _)) = self.held(host, from, to)
            {
                self.lay(host, device, from, to, Act::Compute(HOARDED));
                self.label("d04_claimed_but_idle", host, Some(device), from, to);
            }
        }
        if let Some(from) = self.when(20 * MINUTE) {
            let to = from + 20 * MINUTE;
            if let Some((host, device)) = self.host_with_free(from, to) {
                self.lay(
                    host,
                    device,
                    from,
                    to,
                    Act::Claim(Shape { busy: 0.953_125, core: 0.0, tensor: 0.0, ..WORKER }),
                );
                self.label("d07_physics", host, Some(device), from, to);
            }
        }
        if let Some(from) = self.when(20 * MINUTE) {
            let to = from + 20 * MINUTE;
            let fits = |this: &Self, host: usize| this.free(host, from, to).is_some();
            if let Some(host) = self.host(from, to, fits) {
                for device in 0..self.world.hosts[host].devices.len() {
                    self.lay(
                        host,
                        device,
                        from,
                        to,
                        Act::Limit((self.world.hosts[host].model.limit_watts * 0.45).round()),
                    );
                    self.label("d19_power_or_heat_sabotage", host, Some(device), from, to);
                }
            }
        }
    }

    /// D5, D6, D10, D18: who somebody says they are.
    fn identity(&mut self, round: usize) {
        let (begin, end) = (self.options.from, self.options.to);
        if round == 0
            && let Some(host) = self.host(begin, end, |_, _| true)
        {
            self.all.unregistered.push(host);
            // For as long as it has been there.
            self.label("d05_unregistered_reporter", host, None, self.options.from, self.options.to);
        }
        if let Some(from) = self.when(25 * MINUTE)
            && let Some(host) = self.host(from, from + 25 * MINUTE, |_, _| true)
        {
            for at in (from..from + 25 * MINUTE).step_by(MINUTE as usize) {
                let event = self
                    .event("host", host, at + 30)
                    .with("hostname", self.world.hosts[host].name.clone())
                    .with("machine_id", format!("{:032x}", u128::from(mix(&[host as u64, 121]))))
                    .with("os_id", "ubuntu")
                    .with("os_version", "22.04")
                    .with("virtualization", "none");
                self.add(host, event);
            }
            self.label("d06_cloned_identity", host, None, from, from + 25 * MINUTE);
        }
        if let Some(from) = self.when(12 * MINUTE)
            && let Some(host) = self.host(from, from + 12 * MINUTE, |_, _| true)
        {
            self.trick(host, from, from + 12 * MINUTE, Trick::Clock(30));
            self.label("d10_clock_tampering", host, None, from, from + 12 * MINUTE);
        }
        if let Some(from) = self.when(15 * MINUTE)
            && let Some(host) = self.host(from, from + 15 * MINUTE, |_, _| true)
        {
            self.trick(host, from, self.options.to, Trick::Bios("4.19.02"));
            self.label("d18_firmware_drift", host, None, from, self.options.to);
        }
    }

    /// D8, D9, D20: blinding the monitor.
    fn monitoring(&mut self, round: usize) {
        if let Some(from) = self.when(10 * MINUTE) {
            let to = from + 10 * MINUTE;
            let crowd = |this: &Self, host: usize| {
                let rack = &this.world.hosts[host].rack;
                this.world.hosts.iter().filter(|h| h.rack == *rack).count() >= 4
            };
            if let Some(host) = self.host(from, to, crowd) {
                self.trick(host, from, to, Trick::Silence);
                self.label("d08_agent_silenced", host, None, from, to);
            }
        }
        if let Some(from) = self.when(25 * MINUTE)
            && let Some(host) = self.host(from, from + 25 * MINUTE, |_, _| true)
        {
            let trick = if round == 0 { Trick::Mute("login") } else { Trick::Blind("connection") };
            self.trick(host, from, from + 25 * MINUTE, trick);
            self.label("d09_selective_blinding", host, None, from, from + 25 * MINUTE);
        }
        if let Some(from) = self.when(15 * MINUTE)
            && let Some(host) = self.host(from, from + 15 * MINUTE, |_, _| true)
        {
            self.trick(host, from, self.options.to, Trick::Configuration("00c0ffee00c0ffee"));
            self.label("d20_monitoring_abuse", host, None, from, self.options.to);
        }
    }

    /// D11 to D14: over the network.
    fn network(&mut self, round: usize) {
        if let Some(from) = self.when(5 * MINUTE)
            && let Some(host) = self.host(from, from + 5 * MINUTE, |_, _| true)
        {
            self.trick(host, from, from + 5 * MINUTE, Trick::Scan(1_200.0));
            self.label("d11_scan_from_inside", host, None, from, from + 5 * MINUTE);
        }
        if let Some(from) = self.when(8 * MINUTE) {
            // Somebody who has no jobs.
            let user = "intern.qiu";
            let node = self.chance.below(self.world.hosts.len() as u64) as usize;
            let node = self.world.hosts[node].node;
            let hosts: Vec<usize> =
                (0..self.world.hosts.len()).filter(|h| self.world.hosts[*h].node == node).take(14).collect();
            if hosts.len() >= 12 {
                for (number, host) in hosts.iter().enumerate() {
                    self.login(*host, from + 30 * number as i64, 0, "success", user, "10.16.0.77", "publickey");
                }
                self.node_label("d12_lateral_ssh", hosts[0], from, from + 8 * MINUTE);
            }
        }
        if let Some(from) = self.when(8 * MINUTE)
            && let Some(host) = self.host(from, from + 8 * MINUTE, |_, _| true)
        {
            let source = if round == 0 { "198.51.100.23" } else { "198.51.100.91" };
            for number in 0..16 {
                self.login(host, from + 5 * number, number, "failure", "root", source, "password");
            }
            self.login(host, from + 150, 20, "success", "ops.gao", source, "password");
            self.label("d13_brute_force", host, None, from, from + 8 * MINUTE);
        }
        // A whole hour by the clock.
        let from = (self.options.from + HOUR - 1).div_euclid(HOUR) * HOUR;
        if from + HOUR <= self.options.to
            && let Some(host) = self.host(from, from + HOUR, |_, _| true)
        {
            self.trick(host, from, from + HOUR, Trick::Upload(400_000_000.0));
            self.label("d14_exfiltration", host, None, from, from + HOUR);
        }
    }

    /// D15 to D17: what runs.
    fn software(&mut self, round: usize) {
        if let Some(from) = self.when(10 * MINUTE)
            && let Some(host) = self.host(from, from + 10 * MINUTE, |_, _| true)
        {
            self.listener(host, from, 4_444, 60 + round as u64, None);
            self.label("d15_new_listener", host, None, from, from + 10 * MINUTE);
        }
        if let Some(from) = self.when(20 * MINUTE) {
            let to = from + 20 * MINUTE;
            if let Some((host, device)) = self.host_with_free(from, to) {
                self.process(host, device, from, to, 7_007, "upd", 0);
                self.executable(host, from, "/dev/shm/.x/upd", "temporary,unpackaged", 7_007, 0, None);
                self.label("d16_unlisted_accelerator_process", host, Some(device), from, to);
            }
        }
        if let Some(from) = self.when(10 * MINUTE)
            && let Some(host) = self.host(from, from + 10 * MINUTE, |_, _| true)
        {
            let event = if round == 0 {
                self.event("module", host, from)
                    .with("module", "netfilterd")
                    .with("state", "added")
                    .with("load_state", "live")
                    .with("size_bytes", 40_960_i64)
                    .with("signed", false)
                    .with("out_of_tree", true)
                    .with("proprietary", false)
            } else {
                self.event("config_change", host, from)
                    .with("path", "/etc/ld.so.preload")
                    .with("state", "added")
                    .with("sha256", format!("{:032x}", mix(&[host as u64, 122])))
                    .with("size_bytes", 31_i64)
                    .with("mode", "0644")
                    .with("uid", 0_i64)
                    .with("gid", 0_i64)
            };
            self.add(host, event);
            self.label("d17_kernel_or_persistence", host, None, from, from + 10 * MINUTE);
        }
    }

    fn listener(&mut self, host: usize, at: i64, port: i64, program: u64, job: Option<String>) {
        let event = self
            .event("listener", host, at)
            .with("protocol", "tcp")
            .with("address", "0.0.0.0")
            .with("port", port)
            .with("interface", "any")
            .with("state", "added")
            .with("family", "ipv4")
            .with("wildcard", true)
            .with("loopback", false)
            .with("sockets", 1_i64)
            .with("uid", 20_011_i64)
            .with("pid", 9_900 + port)
            .with("process", "srv")
            .with("executable", "/home/site/srv")
            .with(
                "sha256",
                format!(
                    "{:016x}{:016x}{:016x}{:016x}",
                    mix(&[program]),
                    mix(&[program, 1]),
                    mix(&[program, 2]),
                    mix(&[program, 3])
                ),
            )
            .maybe("job", job)
            .with("since", time(at));
        self.add(host, event);
    }

    fn near_misses(&mut self) {
        // D1: burnt in, as announced.
        if let Some(from) = self.when(40 * MINUTE) {
            let to = from + 40 * MINUTE;
            if let Some((host, device)) = self.host_with_free(from, to) {
                self.lay(host, device, from, to, Act::Compute(WORKER));
                let row = &self.world.hosts[host];
                let at = from - HOUR;
                let entry = Event::new("registry_maintenance", at, &self.world.nodes[row.node].code, &row.name)
                    .with("valid_from", time(at))
                    .with("revoked", false)
                    .with("import", format!("burn-in-{}", row.name))
                    .with("maintenance", format!("BURN-{}", row.name))
                    .with("starts", time(from - 5 * MINUTE))
                    .with("ends", time(to + 5 * MINUTE))
                    .with("kind", "burn_in")
                    .with("reason", "new boards");
                self.all.entries.push(entry);
            }
        }
        // D1: a diagnostic that is known.
        if let Some(from) = self.when(25 * MINUTE) {
            let to = from + 25 * MINUTE;
            if let Some((host, device)) = self.host_with_free(from, to) {
                self.lay(host, device, from, to, Act::Compute(WORKER));
                self.process(host, device, from, to, 3_003, "dcgmi", 0);
                self.approve("executable", "/usr/bin/dcgmi", "*");
            }
        }
        // D2: a miner's shape in a job, with a program of a package.
        if let Some(from) = self.when(70 * MINUTE) {
            let to = from + 70 * MINUTE;
            if let Some(host) = self.host(from, to, |this, host| this.held(host, from, to).is_some())
                && let Some((device, _)) = self.held(host, from, to)
            {
                self.lay(host, device, from, to, Act::Compute(MINER));
            }
        }
        // D3: somebody outside scans us; a short connection and a fast one.
        if let Some(from) = self.when(15 * MINUTE)
            && let Some(host) = self.host(from, from + 15 * MINUTE, |_, _| true)
        {
            self.connection(host, from, from + 15 * MINUTE, "in", 3333, None, 100, 1_000);
            self.connection(host, from, from + MINUTE, "out", 9999, None, 100, 5);
            self.connection(host, from, from + 15 * MINUTE, "out", 8888, Some(7_001), 1_000_000, 900);
        }
        // D12: administrators by their bastion.
        if let Some(from) = self.when(8 * MINUTE) {
            self.approve("source", "ssh", crate::security::BASTION);
            for (number, host) in (0..self.world.hosts.len().min(14)).enumerate() {
                self.login(
                    host,
                    from + 25 * number as i64,
                    1,
                    "success",
                    "admin.lin",
                    crate::security::BASTION,
                    "publickey",
                );
            }
        }
        // D13: an expired key, and somebody else's success; few failures and a success; failures alone.
        if let Some(from) = self.when(10 * MINUTE)
            && let Some(host) = self.host(from, from + 10 * MINUTE, |_, _| true)
        {
            for number in 0..20 {
                self.login(host, from + 4 * number, number, "failure", "ci-bot", "10.8.0.31", "publickey");
            }
            self.login(host, from + 120, 21, "success", "admin.zhou", "10.8.0.31", "publickey");
            for number in 0..6 {
                self.login(host, from + 200 + 5 * number, 22 + number, "failure", "ops.gao", "10.8.0.44", "password");
            }
            self.login(host, from + 240, 29, "success", "ops.gao", "10.8.0.44", "password");
        }
        // D15: in a job, on a high port, and a rollout.
        if let Some(from) = self.when(15 * MINUTE) {
            let to = from + 15 * MINUTE;
            if let Some(host) = self.host(from, to, |this, host| this.held(host, from, to).is_some())
                && let Some((_, job)) = self.held(host, from, to)
            {
                let job = self.schedule.jobs[job].number.to_string();
                self.listener(host, from, 8_888, 70, Some(job.clone()));
                self.listener(host, from + MINUTE, 40_123, 71, None);
                // D16: unlisted, and inside a job.
                self.executable(host, from, "/home/zhang.wei/train", "unpackaged", 8_008, 20_011, Some(job));
            }
            for host in 0..self.world.hosts.len() {
                self.listener(host, from + 2 * MINUTE, 9_256, 72, None);
            }
        }
        // D17: a module of the kernel's own, signed.
        if let Some(from) = self.when(10 * MINUTE)
            && let Some(host) = self.host(from, from + 10 * MINUTE, |_, _| true)
        {
            let event = self
                .event("module", host, from)
                .with("module", "nf_tables")
                .with("state", "added")
                .with("load_state", "live")
                .with("size_bytes", 300_000_i64)
                .with("signed", true)
                .with("out_of_tree", false)
                .with("proprietary", false);
            self.add(host, event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fleet;
    use crate::world::Options;

    const NOW: i64 = 1_790_000_000;

    fn fleet(attacks: bool, benign: bool) -> std::sync::Arc<Fleet> {
        Fleet::with_attacks(Options::around(11, 64, 8, NOW, 3), |world, lives, schedule| {
            plan(world, lives, schedule, &PlanOptions { from: NOW - 6 * HOUR, to: NOW, attacks, benign })
        })
    }

    #[test]
    fn most_kinds_are_tried_and_near_misses_have_no_label() {
        let attacked = fleet(true, true);
        let rules: BTreeSet<&str> = attacked.attacks.labels.iter().map(|l| l.rule).collect();
        assert!(rules.len() >= 16, "{rules:?}");
        let peaceful = fleet(false, true);
        assert!(peaceful.attacks.labels.is_empty() && !peaceful.attacks.rows.is_empty());
        let text = labels_csv(&attacked.attacks.labels);
        assert!(text.starts_with("rule,node,host,device,begin,end\nd01"), "{text}");
    }

    #[test]
    fn times_are_written_by_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_709_210_096), "2024-02-29T12:34:56Z");
        assert_eq!(rfc3339(1_790_000_000), "2026-09-21T14:13:20Z");
    }

    #[test]
    fn rows_of_attacks_fit_the_catalogue() {
        let catalogue = nodescope_model::catalogue::Catalogue::built_in();
        let fleet = fleet(true, true);
        for host in 0..fleet.world.hosts.len() {
            let all = fleet.events(host, NOW - 6 * HOUR, NOW, crate::Detail::Hours);
            crate::events::batches(&catalogue, &all).unwrap();
        }
    }
}
