//! What fails, when, and for how long.
//!
//! Rates are those of Meta's account of training Llama 3: 419 unexpected stops in 54 days on 16,384 H100, of which 148
//! were GPUs, 72 their memory and 35 the network (datacenterdynamics.com, 2024). Two facts of the field go beyond
//! rates: memory that goes bad announces itself by corrected errors that double from day to day, and a host that was
//! down comes back with a later boot time.
//!
//! All ends and begins of hosts' outages lie on whole minutes, so that a minute is either up, down or unknown.

use crate::chance::{Chance, mix_text};
use crate::world::{DAY, HOUR, Host, MINUTE, World};

/// Device-days of the published account.
const DEVICE_DAYS: f64 = 54.0 * 16_384.0;
/// Devices that stopped, per device and day.
pub const DEVICE_RATE: f64 = 148.0 / DEVICE_DAYS;
/// Uncorrectable errors of their memory.
pub const MEMORY_RATE: f64 = 72.0 / DEVICE_DAYS;
/// Troubles of links and network cards.
pub const NETWORK_RATE: f64 = 35.0 / DEVICE_DAYS;
/// Hosts that went down, per host and day: what remains of the account, eight devices a host.
pub const HOST_RATE: f64 = 8.0 * 64.0 / DEVICE_DAYS;
/// Faults of programs (XID 13, 31, 43), per device and day: far more often than hardware's.
const PROGRAM_RATE: f64 = 0.004;
/// Racks whose cooling falls short, per rack and day.
const COOLING_RATE: f64 = 1.0 / 40.0;
/// Maintenance announced, per host and day.
const MAINTENANCE_RATE: f64 = 1.0 / 60.0;
/// Agents that fall silent on a host that goes on working, per host and day.
const SILENCE_RATE: f64 = 1.0 / 45.0;
/// Share of devices whose memory goes bad in a month.
const SICK: f64 = 0.01;

/// How a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It works and its agent speaks.
    Up,
    /// It does not work.
    Down,
    /// It works, and nobody hears of it.
    Silent,
}

/// A time in which a host stands as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// First second.
    pub from: i64,
    /// First second after it.
    pub to: i64,
    /// How it stands.
    pub standing: Standing,
}

/// Work that was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// Its ticket.
    pub ticket: String,
    /// First second.
    pub from: i64,
    /// First second after it.
    pub to: i64,
    /// `repair` or `upgrade`.
    pub kind: &'static str,
}

/// What ails a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ailment {
    /// It fell off the bus (XID 79 of NVIDIA): no rows until it is repaired.
    Lost,
    /// An uncorrectable error of its memory (XID 94 and 63): its job dies, a row is to be replaced at the next reset.
    Memory,
    /// A link between devices (XID 74): errors and replays until it is trained anew.
    Link,
    /// A fault of the program that ran (XID 13, 31 or 43): the device is well.
    Program,
}

/// Something that happened to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    /// When.
    pub at: i64,
    /// Until when it lasts.
    pub until: i64,
    /// What.
    pub ailment: Ailment,
    /// The vendor's number for it.
    pub code: i64,
}

/// A device's fate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceLife {
    /// In order, those of one kind not overlapping.
    pub troubles: Vec<Trouble>,
    /// Since when its memory goes bad.
    pub sick: Option<i64>,
}

impl DeviceLife {
    /// The trouble of this kind at a moment.
    pub fn ails(&self, ailment: Ailment, at: i64) -> Option<&Trouble> {
        self.troubles.iter().find(|t| t.ailment == ailment && t.at <= at && at < t.until)
    }

    /// How many of a kind there were up to a moment.
    pub fn count(&self, ailment: Ailment, at: i64) -> i64 {
        self.troubles.iter().filter(|t| t.ailment == ailment && t.at <= at).count() as i64
    }
}

/// A host's fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLife {
    /// Without gaps, from the fleet's begin to its horizon.
    pub stretches: Vec<Stretch>,
    /// When its kernel started, each time; the first before the fleet's begin.
    pub boots: Vec<i64>,
    /// What was announced.
    pub maintenance: Vec<Maintenance>,
    /// When its rack was too hot.
    pub hot: Vec<(i64, i64)>,
    /// When its first network card lost its line, and for how long.
    pub flaps: Vec<(i64, i64)>,
    /// By device.
    pub devices: Vec<DeviceLife>,
}

impl HostLife {
    /// How it stands at a moment.
    pub fn standing(&self, at: i64) -> Standing {
        let place = self.stretches.partition_point(|s| s.to <= at);
        self.stretches.get(place).map_or(Standing::Up, |s| s.standing)
    }

    /// When its agent tells of what happens at a moment: at once, or when it speaks again; `None` when it never does.
    pub fn heard(&self, at: i64) -> Option<i64> {
        let place = self.stretches.partition_point(|s| s.to <= at);
        self.stretches[place..].iter().find(|s| s.standing == Standing::Up).map(|s| s.from.max(at))
    }

    /// When the kernel that runs at a moment started.
    pub fn boot(&self, at: i64) -> i64 {
        self.boots[..self.boots.partition_point(|b| *b <= at)].last().or(self.boots.first()).copied().unwrap_or(at)
    }

    /// Whether work that was announced is going on.
    pub fn in_maintenance(&self, at: i64) -> bool {
        self.maintenance.iter().any(|m| m.from <= at && at < m.to)
    }

    /// Whether its rack is too hot.
    pub fn is_hot(&self, at: i64) -> bool {
        self.hot.iter().any(|(from, to)| *from <= at && at < *to)
    }

    /// Every second at which something about the host itself changes.
    pub fn turns(&self) -> Vec<i64> {
        let mut turns: Vec<i64> = self.stretches.iter().map(|s| s.to).collect();
        turns.extend(self.hot.iter().chain(&self.flaps).flat_map(|(from, to)| [*from, *to]));
        turns
    }
}

/// Times of events that come at `rate` a day.
fn times(chance: &mut Chance, from: i64, to: i64, rate: f64) -> Vec<i64> {
    let (mut at, mut times) = (from as f64, Vec::new());
    loop {
        at += chance.wait(rate) * DAY as f64;
        if at >= to as f64 {
            return times;
        }
        times.push(at as i64);
    }
}

/// A length of time whose logarithm is about normal, within bounds.
fn lasting(chance: &mut Chance, median: f64, spread: f64, low: i64, high: i64) -> i64 {
    ((median * (spread * chance.normal()).exp()) as i64).clamp(low, high)
}

fn minute(at: i64) -> i64 {
    at.div_euclid(MINUTE) * MINUTE
}

/// The fate of a host.
pub fn host_life(world: &World, host: &Host) -> HostLife {
    let options = &world.options;
    let (from, to, more) = (options.start, options.horizon, options.failures);
    let mut chance = Chance::of(&[host.key, 20]);
    let mut outages: Vec<Stretch> = Vec::new();
    let mut outage = |at: i64, length: i64, standing| {
        let (from, to) = (minute(at), (minute(at) + minute(length).max(MINUTE)).min(to));
        outages.push(Stretch { from, to, standing });
    };
    let mut maintenance = Vec::new();
    for (number, at) in times(&mut chance, from, to, MAINTENANCE_RATE).into_iter().enumerate() {
        let (begins, lasts) = (at.div_euclid(HOUR) * HOUR, HOUR * (1 + chance.below(3) as i64));
        let kind = if chance.happens(0.5) { "upgrade" } else { "repair" };
        let ticket = format!("CHG{:07}", (host.key % 9_000_000).wrapping_add(number as u64 + 1));
        maintenance.push(Maintenance { ticket, from: begins, to: (begins + lasts).min(to), kind });
        outage(begins + 10 * MINUTE, lasting(&mut chance, 25.0 * 60.0, 0.4, 600, lasts - 15 * MINUTE), Standing::Down);
    }
    for at in times(&mut chance, from, to, HOST_RATE * more) {
        outage(at, lasting(&mut chance, 70.0 * 60.0, 1.1, 300, 3 * DAY), Standing::Down);
    }
    for at in times(&mut chance, from, to, SILENCE_RATE) {
        outage(at, lasting(&mut chance, 18.0 * 60.0, 0.9, 120, 12 * HOUR), Standing::Silent);
    }
    let stretches = stretches(from, to, outages);
    let mut boots = vec![world.first_boot(host)];
    boots.extend(stretches.iter().filter(|s| s.standing == Standing::Down).map(|s| s.to - 45));
    let mut rack = Chance::of(&[mix_text(options.seed, &host.rack), 21]);
    let hot = times(&mut rack, from, to, COOLING_RATE)
        .into_iter()
        .map(|at| (minute(at), minute(at) + minute(lasting(&mut rack, 2.0 * 3600.0, 0.6, 1200, 8 * HOUR))))
        .collect();
    let flaps = times(&mut chance, from, to, 8.0 * NETWORK_RATE * more)
        .into_iter()
        .map(|at| (at, at + lasting(&mut chance, 40.0, 1.0, 3, HOUR)))
        .collect();
    let devices = (0..host.devices.len()).map(|number| device_life(world, host, number)).collect();
    HostLife { stretches, boots, maintenance, hot, flaps, devices }
}

/// Lays outages over time. Where two overlap, the one that begins first counts and the other waits for its end.
fn stretches(from: i64, to: i64, mut outages: Vec<Stretch>) -> Vec<Stretch> {
    outages.sort_by_key(|s| (s.from, s.to));
    let (mut all, mut at) = (Vec::new(), from);
    for outage in outages {
        if outage.from < at || outage.to <= outage.from {
            continue;
        }
        if outage.from > at {
            all.push(Stretch { from: at, to: outage.from, standing: Standing::Up });
        }
        at = outage.to;
        all.push(outage);
    }
    if at < to {
        all.push(Stretch { from: at, to, standing: Standing::Up });
    }
    all
}

fn device_life(world: &World, host: &Host, number: usize) -> DeviceLife {
    let options = &world.options;
    let (from, to, more) = (options.start, options.horizon, options.failures);
    let mut chance = Chance::of(&[host.key, 22, number as u64]);
    let mut troubles: Vec<Trouble> = Vec::new();
    let sick = chance
        .happens(SICK * more.min(4.0))
        .then(|| from + chance.below((to - from).max(1) as u64) as i64 / HOUR * HOUR);
    let is_nvidia = host.model.vendor == "nvidia";
    let mut add = |chance: &mut Chance, ailment, rate: f64, median: f64, codes: &[i64]| {
        let mut free = from;
        for at in times(chance, from, to, rate) {
            let lasts = if median > 0.0 { lasting(chance, median, 0.8, 300, 4 * DAY) } else { 1 };
            let code = codes[chance.below(codes.len() as u64) as usize];
            // One trouble of a kind at a time.
            if at >= free {
                free = at + lasts + 1;
                troubles.push(Trouble { at, until: (at + lasts).min(to), ailment, code });
            }
        }
    };
    let (lost, memory, link, program): (&[i64], &[i64], &[i64], &[i64]) = if is_nvidia {
        (&[79, 119], &[94, 63], &[74], &[13, 31, 43])
    } else {
        (&[1001], &[2001], &[3001], &[4001, 4002])
    };
    add(&mut chance, Ailment::Lost, DEVICE_RATE * more, 6.0 * 3600.0, lost);
    let worse = if sick.is_some() { 200.0 } else { 1.0 };
    add(&mut chance, Ailment::Memory, MEMORY_RATE * more * worse, 5.0 * 3600.0, memory);
    if host.model.links > 0 {
        add(&mut chance, Ailment::Link, NETWORK_RATE * more, 2.0 * 3600.0, link);
    }
    add(&mut chance, Ailment::Program, PROGRAM_RATE, 0.0, program);
    troubles.sort_by_key(|t| t.at);
    DeviceLife { troubles, sick }
}

/// Corrected memory errors of a device in the hour that begins at `hour`: few on a healthy one; on a sick one they double
/// from day to day.
pub fn corrected_in_hour(life: &DeviceLife, key: u64, hour: i64) -> i64 {
    let mut chance = Chance::of(&[key, 23, hour as u64]);
    let healthy = i64::from(chance.happens(0.01));
    match life.sick {
        Some(since) if since <= hour => {
            let days = ((hour - since) as f64 / DAY as f64).min(9.0);
            healthy + (chance.between(0.5, 1.5) * 2_f64.powf(days)) as i64
        }
        _ => healthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Options;

    fn world() -> World {
        World::new(Options::around(3, 400, 8, 1_790_000_000, 30))
    }

    #[test]
    fn stretches_leave_no_gap_and_keep_to_minutes() {
        let world = world();
        for host in &world.hosts {
            let life = host_life(&world, host);
            assert_eq!(life.stretches[0].from, world.options.start);
            assert_eq!(life.stretches.last().unwrap().to, world.options.horizon);
            assert!(life.stretches.windows(2).all(|w| w[0].to == w[1].from));
            assert!(life.stretches[1..].iter().all(|s| s.from % MINUTE == 0));
            assert!(life.boots.windows(2).all(|w| w[0] < w[1]));
        }
    }

    #[test]
    fn devices_stop_at_the_published_rate() {
        let world = world();
        let days = (world.options.horizon - world.options.start) as f64 / DAY as f64 * 3_200.0;
        let stops: i64 = world
            .hosts
            .iter()
            .flat_map(|h| host_life(&world, h).devices)
            .map(|d| d.count(Ailment::Lost, i64::MAX))
            .sum();
        let wanted = DEVICE_RATE * days;
        assert!((stops as f64 - wanted).abs() < 5.0 * wanted.sqrt(), "{stops}, not {wanted}");
    }
}
