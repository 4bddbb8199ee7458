//! What comes and goes over the network: D11 to D14.
//!
//! Scans by counters alone and by the connections that show them; one user from host to host; guessing at the door and
//! being let in; sending out what was never sent. The near misses are the busy honest ones: libraries that find each
//! other, monitors, schedulers, bastions, automation with an expired key, backups and proxies.

use super::rows::{Login, Talk};
use super::{Lay, Planner, Spot};
use crate::attacks::Trick;
use crate::security::BASTION;
use crate::world::{DAY, HOUR, MINUTE};

/// Kinds of attack, by rule.
pub(super) const KINDS: &[&[Lay]] = &[
    &[walks_fast, walks_with_a_password, walks_beside_its_job],
    &[sends_in_a_night, sends_all_it_can, sends_from_one_card_s_worth],
    &[scans_fast, scans_slowly, tries_ports, tries_addresses],
    &[guesses_root, sprays, guesses_and_waits, tries_keys_of_many],
];

/// Near misses.
pub(super) const NEAR: &[Lay] = &[
    opens_many,
    watches_many,
    looks_for_the_gone,
    comes_by_the_bastion,
    comes_slowly,
    has_an_expired_key,
    mistypes,
    sends_to_the_archive,
    backs_up_every_day,
    relays,
];

const D11: &str = "d11_scan_from_inside";
const D12: &str = "d12_lateral_ssh";
const D13: &str = "d13_brute_force";
const D14: &str = "d14_exfiltration";

/// People who have no jobs.
const STRANGERS: [&str; 3] = ["intern.qiu", "guest.he", "vendor.tan"];

/// Hosts that somebody goes to within ten minutes.
const VISITS: usize = 12;

fn scan(plan: &mut Planner<'_>, opens: f64, minutes: i64) -> Option<()> {
    let spot = plan.any(minutes * MINUTE)?;
    plan.trick(spot, Trick::Scan(opens));
    plan.label(D11, spot, None);
    Some(())
}

fn scans_fast(plan: &mut Planner<'_>) -> Option<()> {
    scan(plan, 1_200.0, 5)
}

fn scans_slowly(plan: &mut Planner<'_>) -> Option<()> {
    scan(plan, 90.0, 12)
}

/// So few a second that the counters do not show it.
fn tries_ports(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(25 * MINUTE)?;
    for port in (1..=145).map(|step| 7 * step + 1) {
        let from = spot.from + port % 20 * MINUTE;
        let seen = Spot { from, to: from + 2 * MINUTE, ..spot };
        let network = "10.8.4.0/24".to_owned();
        plan.talk(seen, &Talk { port, network, scope: "private", opened: 2, given_up: 2, ..Talk::default() });
    }
    plan.label(D11, spot, None);
    Some(())
}

fn tries_addresses(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(25 * MINUTE)?;
    for net in 0..4 {
        let seen = Spot { from: spot.from + 5 * MINUTE * net, to: spot.from + 5 * MINUTE * (net + 1), ..spot };
        let network = format!("10.{}.0.0/24", 30 + net);
        let talk =
            Talk { port: 22, network, scope: "private", addresses: 90, opened: 60, given_up: 55, ..Talk::default() };
        plan.talk(seen, &talk);
    }
    plan.label(D11, spot, None);
    Some(())
}

impl Planner<'_> {
    /// Hosts of a node that somebody can go to: they need not be calm, for a login more does not change them.
    fn neighbours(&self, node: usize) -> Vec<usize> {
        (0..self.world.hosts.len()).filter(|host| self.world.hosts[*host].node == node).collect()
    }

    /// A node with many hosts; each time another one first.
    fn large_node(&mut self) -> Option<(usize, Vec<usize>)> {
        let many = self.world.nodes.len();
        let first = self.chance.below(many as u64) as usize;
        (0..many)
            .map(|step| (first + step) % many)
            .map(|node| (node, self.neighbours(node)))
            .find(|(_, h)| h.len() >= VISITS)
    }

    /// A walk from host to host, so many seconds each.
    fn walk(&mut self, hosts: &[usize], from: i64, step: i64, login: &Login<'_>) {
        for (number, host) in hosts.iter().enumerate() {
            self.login(*host, from + step * number as i64, login);
        }
    }
}

fn walk(plan: &mut Planner<'_>, step: i64, method: &'static str) -> Option<()> {
    let from = plan.when(10 * MINUTE)?;
    let (node, hosts) = plan.large_node()?;
    let number = plan.next();
    let user = STRANGERS[number as usize % STRANGERS.len()];
    // From a compute node of the site.
    let source = format!("10.16.{}.{}", number / 200, number % 200 + 20);
    plan.walk(&hosts[..VISITS], from, step, &Login { kind: "success", user, source: &source, method });
    plan.node_label(D12, Some(node), from, from + 8 * MINUTE);
    Some(())
}

fn walks_fast(plan: &mut Planner<'_>) -> Option<()> {
    walk(plan, 5, "publickey")
}

fn walks_with_a_password(plan: &mut Planner<'_>) -> Option<()> {
    walk(plan, 38, "password")
}

/// Somebody who has a job on some of the hosts goes to the others as well.
fn walks_beside_its_job(plan: &mut Planner<'_>) -> Option<()> {
    for _ in 0..super::TRIES {
        let from = plan.when(10 * MINUTE)?;
        let (node, hosts) = plan.large_node()?;
        let is_there = |host: &usize, user: &str| {
            let uses = plan.schedule.uses[*host].iter().flatten();
            uses.clone()
                .any(|u| u.from <= from + HOUR && from - 2 * HOUR <= u.to && plan.schedule.jobs[u.job].user == user)
        };
        let users: Vec<&'static str> = plan.schedule.jobs.iter().map(|j| j.user).take(200).collect();
        let found = users.into_iter().find_map(|user| {
            let (with, without): (Vec<usize>, Vec<usize>) = hosts.iter().copied().partition(|h| is_there(h, user));
            (!with.is_empty() && without.len() >= VISITS - 1).then_some((user, with[0], without))
        });
        if let Some((user, own, others)) = found {
            let source = plan.world.hosts[own].address.clone();
            let login = Login { kind: "success", user, source: &source, method: "publickey" };
            plan.walk(&others[..VISITS - 1], from, 30, &login);
            plan.node_label(D12, Some(node), from, from + 8 * MINUTE);
            return Some(());
        }
    }
    None
}

impl Planner<'_> {
    /// An address outside that nothing else uses.
    fn outside(&mut self) -> String {
        let number = self.next();
        format!("198.51.{}.{}", 100 + number / 250, number % 250 + 1)
    }
}

fn guesses_root(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(8 * MINUTE)?;
    let source = plan.outside();
    let guess = Login { kind: "failure", user: "root", source: &source, method: "password" };
    for number in 0..16 {
        plan.login(spot.host, spot.from + 5 * number, &guess);
    }
    plan.login(spot.host, spot.from + 150, &Login { kind: "success", user: "ops.gao", ..guess });
    plan.label(D13, spot, None);
    Some(())
}

/// One guess for each of many people, at several doors.
fn sprays(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(8 * MINUTE)?;
    let doors = plan.neighbours(plan.world.hosts[spot.host].node);
    let source = plan.outside();
    for (number, user) in
        ["admin", "test", "oracle", "hadoop", "ubuntu", "git", "slurm", "hpc", "deploy", "wang.fang"].iter().enumerate()
    {
        let door = doors[number % doors.len()];
        plan.login(
            door,
            spot.from + 10 * number as i64,
            &Login { kind: "failure", user, source: &source, method: "keyboard-interactive" },
        );
    }
    let login = Login { kind: "success", user: "wang.fang", source: &source, method: "keyboard-interactive" };
    plan.login(spot.host, spot.from + 130, &login);
    plan.label(D13, spot, None);
    Some(())
}

/// As few as it needs, and not in a hurry afterwards.
fn guesses_and_waits(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(12 * MINUTE)?;
    let source = plan.outside();
    let guess = Login { kind: "failure", user: "li.na", source: &source, method: "password" };
    for number in 0..9 {
        plan.login(spot.host, spot.from + 13 * number, &guess);
    }
    plan.login(spot.host, spot.from + 9 * MINUTE, &Login { kind: "success", ..guess });
    plan.label(D13, spot, None);
    Some(())
}

/// A key that was stolen, and nobody knows whose it is.
fn tries_keys_of_many(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(8 * MINUTE)?;
    let source = plan.outside();
    for (number, user) in
        ["zhou.tao", "xu.hong", "sun.bo", "ma.lin", "zhu.qing", "wu.xia", "liu.yang", "chen.jie", "yang.min"]
            .iter()
            .enumerate()
    {
        let login = Login { kind: "failure", user, source: &source, method: "publickey" };
        plan.login(spot.host, spot.from + 11 * number as i64, &login);
    }
    let login = Login { kind: "success", user: "huang.lei", source: &source, method: "publickey" };
    plan.login(spot.host, spot.from + 140, &login);
    plan.label(D13, spot, None);
    Some(())
}

fn send(plan: &mut Planner<'_>, rate: f64, seconds: i64) -> Option<()> {
    let spot = plan.any(seconds)?;
    plan.trick(spot, Trick::Upload(rate));
    plan.label(D14, spot, None);
    Some(())
}

/// A whole hour by the clock, at most of what the line carries.
fn sends_all_it_can(plan: &mut Planner<'_>) -> Option<()> {
    let begin = (plan.options.from.div_euclid(HOUR) + 1) * HOUR;
    let from =
        (begin..=plan.options.to - HOUR).step_by(HOUR as usize).nth(plan.chance.below(6) as usize).unwrap_or(begin);
    let to = from + HOUR;
    if to > plan.options.to {
        return None;
    }
    let host = plan.host(from, to, |_, _| true)?;
    let spot = Spot { host, from, to };
    plan.trick(spot, Trick::Upload(1.2e9));
    plan.label(D14, spot, None);
    Some(())
}

fn sends_in_a_night(plan: &mut Planner<'_>) -> Option<()> {
    send(plan, 1.5e8, 2 * HOUR)
}

fn sends_from_one_card_s_worth(plan: &mut Planner<'_>) -> Option<()> {
    send(plan, 3.0e8, 95 * MINUTE)
}

/// Ranks of a job that find each other.
fn opens_many(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(10 * MINUTE)?;
    plan.trick(spot, Trick::Opens(900.0));
    Some(())
}

/// A host that talks so to each of four networks.
fn asks_networks(plan: &mut Planner<'_>, second: u8, each: &Talk) -> Option<Spot> {
    let spot = plan.any(40 * MINUTE)?;
    for net in 0..4 {
        plan.talk(spot, &Talk { network: format!("10.{second}.{net}.0/24"), scope: "private", ..each.clone() });
    }
    Some(spot)
}

/// A monitor that asks four hundred hosts, of which nearly all answer.
fn watches_many(plan: &mut Planner<'_>) -> Option<()> {
    let each =
        Talk { port: 9100, process: Some("prometheus"), addresses: 100, opened: 400, given_up: 12, ..Talk::default() };
    asks_networks(plan, 16, &each).map(|_| ())
}

/// One that must ask hosts that are gone, and is known for it.
fn looks_for_the_gone(plan: &mut Planner<'_>) -> Option<()> {
    let each =
        Talk { port: 22, process: Some("inventoryd"), addresses: 80, opened: 80, given_up: 78, ..Talk::default() };
    let spot = asks_networks(plan, 17, &each)?;
    plan.approve_on(spot.host, "source", "scan", "inventoryd");
    Some(())
}

fn comes_by_the_bastion(plan: &mut Planner<'_>) -> Option<()> {
    let from = plan.when(8 * MINUTE)?;
    plan.approve("source", "ssh", BASTION);
    let (_, hosts) = plan.large_node().or_else(|| Some((0, (0..plan.world.hosts.len().min(14)).collect())))?;
    plan.walk(&hosts, from, 8, &Login { kind: "success", user: "admin.lin", source: BASTION, method: "publickey" });
    Some(())
}

/// Somebody who has work on each of many hosts, one after the other.
fn comes_slowly(plan: &mut Planner<'_>) -> Option<()> {
    let (_, hosts) = plan.large_node()?;
    let from = plan.when(hosts.len() as i64 * 90)?;
    let login = Login { kind: "success", user: "field.hu", source: "10.8.0.77", method: "publickey" };
    plan.walk(&hosts, from, 90, &login);
    Some(())
}

fn has_an_expired_key(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(10 * MINUTE)?;
    let robot = Login { kind: "failure", user: "ci-bot", source: "10.8.0.31", method: "publickey" };
    for number in 0..30 {
        plan.login(spot.host, spot.from + 4 * number, &robot);
    }
    plan.login(spot.host, spot.from + 130, &Login { kind: "success", user: "admin.zhou", ..robot });
    Some(())
}

/// Some failures and a success; many and none.
fn mistypes(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(15 * MINUTE)?;
    let person = Login { kind: "failure", user: "ops.gao", source: "10.8.0.44", method: "password" };
    for number in 0..6 {
        plan.login(spot.host, spot.from + 12 * number, &person);
    }
    plan.login(spot.host, spot.from + 90, &Login { kind: "success", ..person });
    let source = plan.outside();
    let stranger = Login { kind: "failure", user: "root", source: &source, method: "password" };
    for number in 0..40 {
        plan.login(spot.host, spot.from + 300 + 3 * number, &stranger);
    }
    Some(())
}

fn sends_to_the_archive(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(2 * HOUR)?;
    plan.trick(spot, Trick::Upload(3.0e8));
    let network = "192.0.2.0/24".to_owned();
    let begin = Spot { from: spot.from - 2 * MINUTE, to: spot.to + 3 * MINUTE, ..spot };
    plan.talk(begin, &Talk { network, process: Some("archive"), sent: 300_000_000, ..Talk::default() });
    plan.approve("transfer", "192.0.2.0/24", "*");
    Some(())
}

/// At the same hour of every day.
fn backs_up_every_day(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(70 * MINUTE)?;
    let mut from = spot.from;
    while from > plan.world.options.start {
        plan.trick(Spot { from, to: from + spot.to - spot.from, ..spot }, Trick::Upload(2.5e8));
        from -= DAY;
    }
    Some(())
}

/// As much comes in as goes out.
fn relays(plan: &mut Planner<'_>) -> Option<()> {
    let spot = plan.any(2 * HOUR)?;
    plan.trick(spot, Trick::Upload(4.0e8));
    plan.trick(spot, Trick::Download(3.5e8));
    Some(())
}
