//! Which attacks there are, and which near misses: laid over the newest hours of a peaceful life.
//!
//! Each rule (D1 to D20 of the programme) has its kinds of attack, as people make them: by another program, in another
//! place, faster or slower. They are tried in turn, one of each rule in every *round*; a larger fleet has room for more
//! rounds, and where a round begins follows from the seed. An attack takes its hosts for its time and an hour around,
//! in which nothing else befalls them, so that a finding can be told from another's. What needs more time or more hosts
//! than there are is left out rather than cut short, and the next kind is tried. Near misses look alike in all but one
//! thing, and that one is what the rule must see.
//!
//! One file for each place where it happens: [`cards`], [`identity`], [`monitoring`], [`network`], [`software`],
//! [`power`]; [`rows`] makes the rows that are not part of the peaceful life.

mod cards;
mod identity;
mod monitoring;
mod network;
mod power;
mod rows;
mod software;

use crate::attacks::{Act, Attack, Attacks, HostOverlay, Overlay, Trick};
use crate::chance::Chance;
use crate::failures::{HostLife, Standing};
use crate::jobs::Schedule;
use crate::world::{DAY, HOUR, MINUTE, World};

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

/// Between two things that happen on one host there is so long at the least: longer than a rule may be late.
const APART: i64 = 75 * MINUTE;

/// Hosts for each round of attacks, and of near misses, which need several at once more often.
const HOSTS_OF_ROUND: [usize; 2] = [20, 40];

/// Begins that are tried before something is left out.
const TRIES: usize = 16;

/// Shortest silence that has to be told.
const SILENCE: i64 = 4 * MINUTE;

/// Lays one attack or near miss, where there is room.
type Lay = fn(&mut Planner<'_>) -> Option<()>;

/// Plans attacks and near misses.
pub fn plan(world: &World, lives: &[HostLife], schedule: &Schedule, options: &PlanOptions) -> Attacks {
    let mut planner = Planner {
        world,
        lives,
        schedule,
        options: *options,
        chance: Chance::of(&[world.options.seed, 120]),
        taken: Vec::new(),
        number: 0,
        all: Attacks::default(),
    };
    let rounds = |hosts: usize| (world.hosts.len() / hosts).clamp(1, 8);
    // Those that need most room at once come first.
    let rules = [power::KINDS, cards::KINDS, identity::KINDS, network::KINDS, monitoring::KINDS, software::KINDS];
    if options.attacks {
        for round in 0..rounds(HOSTS_OF_ROUND[0]) {
            let first = world.options.seed as usize % 16 + round;
            for kinds in rules.iter().flat_map(|rules| rules.iter()) {
                // The first kind for which there is room.
                let mut all = (0..kinds.len()).map(|step| kinds[(first + step) % kinds.len()]);
                all.any(|lay| lay(&mut planner).is_some());
            }
        }
    }
    if options.benign {
        let near = [power::NEAR, cards::NEAR, identity::NEAR, network::NEAR, monitoring::NEAR, software::NEAR];
        for _ in 0..rounds(HOSTS_OF_ROUND[1]) {
            for lay in near.iter().flat_map(|all| all.iter()) {
                lay(&mut planner);
            }
        }
    }
    planner.silences();
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
    let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
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

/// A host, and a time in which it is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spot {
    host: usize,
    from: i64,
    to: i64,
}

struct Planner<'a> {
    world: &'a World,
    lives: &'a [HostLife],
    schedule: &'a Schedule,
    options: PlanOptions,
    chance: Chance,
    taken: Vec<Spot>,
    /// Of what is laid: for names that differ.
    number: i64,
    all: Attacks,
}

impl Planner<'_> {
    /// A number that nothing else has had.
    fn next(&mut self) -> i64 {
        self.number += 1;
        self.number
    }

    /// A begin such that so many seconds fit, and some are left before and after; on a whole minute.
    fn when(&mut self, seconds: i64) -> Option<i64> {
        let (from, to) = (self.options.from + 6 * MINUTE, self.options.to - seconds - 4 * MINUTE);
        let room = to - from;
        (room >= 0).then(|| (from + self.chance.below(room as u64 + 1) as i64).div_euclid(MINUTE) * MINUTE)
    }

    /// Whether nothing befalls a host between two moments and an hour around.
    fn is_calm(&self, host: usize, from: i64, to: i64) -> bool {
        let life = &self.lives[host];
        let is_up = |s: &crate::failures::Stretch| s.standing == Standing::Up;
        life.stretches.iter().all(|s| is_up(s) || s.to <= from - 70 * MINUTE || s.from >= to + 70 * MINUTE)
            && life.maintenance.iter().all(|m| m.from > to + HOUR || m.to < from - HOUR)
            && life.hot.iter().all(|(begin, end)| *end <= from - HOUR || *begin >= to + HOUR)
            && life.devices.iter().all(|d| d.troubles.iter().all(|t| t.until <= from - HOUR || t.at >= to + HOUR))
            && self.taken.iter().all(|t| t.host != host || t.to + APART <= from || to + APART <= t.from)
    }

    fn take(&mut self, host: usize, from: i64, to: i64) {
        self.taken.push(Spot { host, from, to });
    }

    /// A calm host that passes a test; it is then taken.
    fn host(&mut self, from: i64, to: i64, is_fit: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let many = self.world.hosts.len();
        let first = self.chance.below(many as u64) as usize;
        let host =
            (0..many).map(|n| (first + n) % many).find(|host| self.is_calm(*host, from, to) && is_fit(self, *host))?;
        self.take(host, from, to);
        Some(host)
    }

    /// A time of so many seconds and a host that passes a test meanwhile.
    fn spot(&mut self, seconds: i64, is_fit: impl Fn(&Self, Spot) -> bool) -> Option<Spot> {
        for _ in 0..TRIES {
            let from = self.when(seconds)?;
            let to = from + seconds;
            if let Some(host) = self.host(from, to, |this, host| is_fit(this, Spot { host, from, to })) {
                return Some(Spot { host, from, to });
            }
        }
        None
    }

    /// Any host, for so many seconds.
    fn any(&mut self, seconds: i64) -> Option<Spot> {
        self.spot(seconds, |_, _| true)
    }

    /// The same, and then until the end.
    fn till_the_end(&mut self, seconds: i64) -> Option<Spot> {
        let end = self.options.to;
        let spot = self.spot(seconds, |this, spot| this.is_calm(spot.host, spot.from, end))?;
        self.take(spot.host, spot.from, end);
        Some(Spot { to: end, ..spot })
    }

    /// Several calm hosts of one node, of which a test leaves some; all are taken.
    fn group(
        &mut self,
        seconds: i64,
        choose: impl Fn(&Self, usize, &[usize]) -> Vec<usize>,
    ) -> Option<(Vec<usize>, i64)> {
        for _ in 0..TRIES {
            let from = self.when(seconds)?;
            let to = from + seconds;
            let first = self.chance.below(self.world.nodes.len() as u64) as usize;
            for step in 0..self.world.nodes.len() {
                let node = (first + step) % self.world.nodes.len();
                let calm: Vec<usize> = (0..self.world.hosts.len())
                    .filter(|host| self.world.hosts[*host].node == node && self.is_calm(*host, from, to))
                    .collect();
                let chosen = choose(self, node, &calm);
                if !chosen.is_empty() {
                    chosen.iter().for_each(|host| self.take(*host, from, to));
                    return Some((chosen, from));
                }
            }
        }
        None
    }

    /// So many of a node's calm hosts that it was decided so: three, and a quarter of the node.
    fn crowd(&mut self, seconds: i64) -> Option<(Vec<usize>, i64)> {
        self.group(seconds, |this, node, calm| {
            let all = this.world.hosts.iter().filter(|h| h.node == node).count();
            let many = all.div_ceil(4).max(3);
            if calm.len() >= many { calm[..many].to_vec() } else { Vec::new() }
        })
    }

    /// A device of a host that no job holds meanwhile.
    fn free(&self, spot: Spot) -> Option<usize> {
        let is_free = |uses: &Vec<crate::jobs::Use>| {
            uses.iter().all(|u| u.to <= spot.from - 10 * MINUTE || u.from >= spot.to + 10 * MINUTE)
        };
        self.schedule.uses[spot.host].iter().position(is_free)
    }

    /// Devices of a host that one job each holds all the while.
    fn held(&self, spot: Spot) -> Vec<(usize, usize)> {
        let uses = self.schedule.uses[spot.host].iter().enumerate();
        uses.flat_map(|(device, uses)| uses.iter().map(move |u| (device, u)))
            .filter(|(_, u)| u.from <= spot.from - 10 * MINUTE && spot.to + 10 * MINUTE <= u.to)
            .map(|(device, u)| (device, u.job))
            .collect()
    }

    /// A host with a free device.
    fn with_free(&mut self, seconds: i64, is_fit: impl Fn(&Self, usize) -> bool) -> Option<(Spot, usize)> {
        let spot = self.spot(seconds, |this, spot| this.free(spot).is_some() && is_fit(this, spot.host))?;
        self.free(spot).map(|device| (spot, device))
    }

    /// A host with a device that one job holds: the device, and the job.
    fn with_held(
        &mut self,
        seconds: i64,
        is_fit: impl Fn(&Self, usize, usize) -> bool,
    ) -> Option<(Spot, usize, usize)> {
        let find = |this: &Self, spot: Spot| this.held(spot).into_iter().find(|(_, job)| is_fit(this, spot.host, *job));
        let spot = self.spot(seconds, |this, spot| find(this, spot).is_some())?;
        find(self, spot).map(|(device, job)| (spot, device, job))
    }

    fn lay(&mut self, spot: Spot, device: usize, act: Act) {
        self.all.devices.push(Overlay { host: spot.host, device, from: spot.from, to: spot.to, act });
    }

    fn trick(&mut self, spot: Spot, trick: Trick) {
        self.all.hosts.push(HostOverlay { host: spot.host, from: spot.from, to: spot.to, trick });
    }

    fn label(&mut self, rule: &'static str, spot: Spot, device: Option<usize>) {
        let row = &self.world.hosts[spot.host];
        let label = Attack {
            rule,
            node: self.world.nodes[row.node].code.clone(),
            host: row.name.clone(),
            device: device.map_or_else(String::new, |d| row.devices[d].id.clone()),
            from: spot.from,
            to: spot.to,
        };
        self.all.labels.push(label);
    }

    /// Of a whole node; of everything where there is none.
    fn node_label(&mut self, rule: &'static str, node: Option<usize>, from: i64, to: i64) {
        let node = node.map_or_else(String::new, |node| self.world.nodes[node].code.clone());
        self.all.labels.push(Attack { rule, node, host: String::new(), device: String::new(), from, to });
    }

    /// Agents that fall silent by themselves on a host that works: nobody has attacked them, and it must be told all
    /// the same, for it looks no other.
    fn silences(&mut self) {
        for host in 0..self.world.hosts.len() {
            for stretch in &self.lives[host].stretches {
                let spot =
                    Spot { host, from: stretch.from.max(self.options.from), to: stretch.to.min(self.options.to) };
                let is_announced = self.lives[host].maintenance.iter().any(|m| m.from <= spot.to && spot.from <= m.to);
                if stretch.standing == Standing::Silent && spot.to - spot.from >= SILENCE && !is_announced {
                    self.label("d08_agent_silenced", spot, None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Fleet;
    use crate::world::Options;

    const NOW: i64 = 1_790_000_000;

    fn fleet(hosts: usize, attacks: bool, benign: bool) -> std::sync::Arc<Fleet> {
        let options = Options { interval: 10, ..Options::around(11, hosts, 4, NOW, 9) };
        Fleet::with_attacks(options, |world, lives, schedule| {
            plan(world, lives, schedule, &PlanOptions { from: NOW - 8 * HOUR, to: NOW, attacks, benign })
        })
    }

    #[test]
    fn every_rule_is_tried_several_times_and_near_misses_have_no_label() {
        let attacked = fleet(120, true, true);
        let mut tried: BTreeMap<&str, usize> = BTreeMap::new();
        for label in &attacked.attacks.labels {
            *tried.entry(label.rule).or_default() += 1;
        }
        assert!(tried.len() == 20 && tried.values().all(|n| *n >= 5), "{tried:?}");
        let text = labels_csv(&attacked.attacks.labels);
        assert!(text.starts_with("rule,node,host,device,begin,end\nd"), "{text}");
        let peaceful = fleet(120, false, true).attacks.clone();
        assert!(!peaceful.rows.is_empty() && peaceful.hosts.len() > 20);
        assert!(peaceful.labels.iter().all(|label| label.rule == "d08_agent_silenced"), "{:?}", peaceful.labels);
    }

    #[test]
    fn two_things_that_happen_on_one_host_are_far_from_each_other() {
        let attacked = fleet(64, true, true).attacks.clone();
        for (place, one) in attacked.labels.iter().enumerate() {
            for two in attacked.labels[..place].iter().filter(|two| !one.host.is_empty() && two.host == one.host) {
                let is_same = (one.from, one.to) == (two.from, two.to);
                assert!(is_same || one.to + HOUR <= two.from || two.to + HOUR <= one.from, "{one:?} {two:?}");
            }
        }
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
        let fleet = fleet(40, true, true);
        for host in 0..fleet.world.hosts.len() {
            fleet.rows(&catalogue, host, NOW - 8 * HOUR, NOW, |_| 60).unwrap();
        }
        let entries = fleet.node_events(fleet.world.options.start, NOW);
        crate::events::batches(&catalogue, &entries).unwrap();
    }
}
