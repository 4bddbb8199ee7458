//! What is true: the fleet's state in plain values, to calculate answers without SQL.
//!
//! Nothing here reads a row. A test adds these up in loops and compares the sum with what the query server says.
//!
//! Much of what the server can know is less than what is true: a host that is silent works, and nobody hears of it. So
//! beside what *is* stands what is *told*: rows come in every so many seconds while the host is up and its agent speaks.
//! What a gauge says is added up row by row. What a counter grew by from one row to the next belongs to the later; over
//! a silence (all are longer than rollups look back) nobody knows it.

use crate::Fleet;
use crate::agents::{lag, retried_rate};
use crate::chance::{exact, mix};
use crate::failures::{Ailment, Standing, corrected_in_hour};
use crate::links;
use crate::load::{RIPPLES, device_load, device_turns, ripple, shift};
use crate::machine::{self, DAMAGED, interface_rates, port_rates, resent};
use crate::series::{Roller, Window, wave};
use crate::world::{HOUR, MINUTE};

/// A device at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceTruth {
    /// How its host stands.
    pub standing: Standing,
    /// Whether its host is being worked on, as announced.
    pub in_maintenance: bool,
    /// Whether its host takes no new work.
    pub is_cordoned: bool,
    /// Whether it has fallen off the bus.
    pub is_lost: bool,
    /// Whether a row of its memory waits to be replaced.
    pub is_ailing: bool,
    /// Index of the job that holds it.
    pub job: Option<usize>,
    /// Operations a second, dense FP16, by the data sheet.
    pub fp16: f64,
}

/// Seconds of a host's time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Availability {
    /// Rows came.
    pub up: i64,
    /// It was down.
    pub down: i64,
    /// It worked, and nobody heard of it.
    pub unknown: i64,
    /// Maintenance was announced, whatever else is known.
    pub maintenance: i64,
}

/// What rows of a device say in a time: sums over the rows, and growth from row to row. Whether a driver tells it is
/// another question ([`crate::models::Tells`]).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DeviceRows {
    /// Rows.
    pub rows: i64,
    /// `utilization_ratio`, added up.
    pub utilization: f64,
    /// `utilization_mean_ratio`, added up.
    pub busy: f64,
    /// `core_active_ratio`, added up.
    pub core: f64,
    /// `tensor_active_ratio`, added up.
    pub tensor: f64,
    /// What its counters grew by; `None` where no two rows follow each other.
    pub grown: Option<Grown>,
}

/// What counters of a device grew by.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Grown {
    /// Energy.
    pub joules: f64,
    /// Seconds that its power limit slowed it down.
    pub capped: f64,
    /// Seconds that heat did.
    pub slowed: f64,
    /// Memory errors that were corrected.
    pub corrected: f64,
    /// Memory errors that were not; each costs a row or a page.
    pub uncorrected: f64,
    /// Rows of memory replaced because of corrected errors.
    pub replaced: f64,
    /// Pieces damaged on its links.
    pub damaged: f64,
}

impl Grown {
    fn zip(self, other: Self, of: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            joules: of(self.joules, other.joules),
            capped: of(self.capped, other.capped),
            slowed: of(self.slowed, other.slowed),
            corrected: of(self.corrected, other.corrected),
            uncorrected: of(self.uncorrected, other.uncorrected),
            replaced: of(self.replaced, other.replaced),
            damaged: of(self.damaged, other.damaged),
        }
    }
}

/// What a port counted from row to row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// Bytes, both ways.
    pub bytes: i64,
    /// Packets sent again, or asked for again.
    pub resent: i64,
    /// Notifications of congestion, both ways; only over Ethernet.
    pub notified: i64,
    /// Symbols that arrived damaged; only over InfiniBand.
    pub damaged: i64,
    /// How often its line went down.
    pub flaps: i64,
}

/// What a row of probes says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probes {
    /// Probes that ended.
    pub sent: i64,
    /// Those that did not come back.
    pub lost: i64,
    /// Seconds there and back, in the mean; `None` when none came back.
    pub mean: Option<f64>,
    /// What 99 of 100 do not exceed, which is the longest too.
    pub worst: Option<f64>,
}

/// Tick of the newest row, and what counters stood at in it.
struct Newest<T>(Option<(i64, T)>);

impl<T> Newest<T> {
    /// Takes the rows from tick to tick, and tells what counters stood at in rows that follow each other.
    fn go_on(&mut self, first: i64, last: i64, every: i64, at: impl Fn(i64) -> T, mut grew: impl FnMut(T, T)) {
        if let Some((tick, then)) = self.0.take()
            && tick + every == first
        {
            grew(then, at(first));
        }
        if last > first {
            grew(at(first), at(last));
        }
        self.0 = Some((last, at(last)));
    }
}

impl Fleet {
    /// A device at a moment.
    pub fn device_truth(&self, host: usize, device: usize, at: i64) -> DeviceTruth {
        let (row, life) = (&self.world.hosts[host], &self.lives[host]);
        DeviceTruth {
            standing: life.standing(at),
            in_maintenance: life.in_maintenance(at),
            is_cordoned: row.cordoned.is_some_and(|since| since <= at),
            is_lost: life.devices[device].ails(Ailment::Lost, at).is_some(),
            is_ailing: life.devices[device].ails(Ailment::Memory, at).is_some(),
            job: crate::load::held(&self.schedule.uses[host][device], at).map(|u| u.job),
            fp16: row.model.fp16,
        }
    }

    /// A host's time in `[from, to)`.
    pub fn availability(&self, host: usize, from: i64, to: i64) -> Availability {
        let life = &self.lives[host];
        let mut sum = Availability::default();
        // Cut at every turn, so that each part is one thing.
        let mut cuts: Vec<i64> = vec![from, to];
        cuts.extend(life.stretches.iter().map(|s| s.to));
        cuts.extend(life.maintenance.iter().flat_map(|m| [m.from, m.to]));
        cuts.retain(|at| (from..=to).contains(at));
        cuts.sort_unstable();
        for part in cuts.windows(2) {
            let (at, seconds) = (part[0], part[1] - part[0]);
            match life.standing(at) {
                _ if life.in_maintenance(at) => sum.maintenance += seconds,
                Standing::Up => sum.up += seconds,
                Standing::Down => sum.down += seconds,
                Standing::Silent => sum.unknown += seconds,
            }
        }
        sum
    }

    /// Seconds in `[from, to)` for which a job held the device.
    pub fn held_seconds(&self, host: usize, device: usize, from: i64, to: i64) -> i64 {
        self.schedule.uses[host][device].iter().map(|u| (u.to.min(to) - u.from.max(from)).max(0)).sum()
    }

    /// Joules that a device used in `[from, to)`, whether or not its driver counts them. Both on whole hours or turns:
    /// between them power is constant.
    pub fn joules(&self, host: usize, device: usize, from: i64, to: i64) -> f64 {
        let life = &self.lives[host];
        (from..to)
            .step_by(MINUTE as usize)
            .filter(|at| {
                life.standing(*at) != Standing::Down && life.devices[device].ails(Ailment::Lost, *at).is_none()
            })
            .map(|at| device_load(self, host, device, at).watts * (to - at).min(MINUTE) as f64)
            .sum()
    }

    /// Whether a row of a device comes at a second.
    pub fn is_told(&self, host: usize, device: usize, at: i64) -> bool {
        let life = &self.lives[host];
        life.standing(at) == Standing::Up && life.devices[device].ails(Ailment::Lost, at).is_none()
    }

    /// What rows of a device say in `[from, to)`, one every so many seconds.
    pub fn device_rows(&self, host: usize, device: usize, every: i64, from: i64, to: i64) -> DeviceRows {
        let (row, life) = (&self.world.hosts[host], &self.lives[host]);
        let its = &life.devices[device];
        let shift = shift(row.key, device);
        let mut sum = DeviceRows::default();
        let mut before = Newest(None);
        // What was counted up to the begin of a part, since the begin of the first.
        let mut counted = Grown::default();
        for (begin, end) in self.parts(device_turns(self, host, device), from - every, to) {
            let load = device_load(self, host, device, begin);
            let is_off = life.standing(begin) == Standing::Down || its.ails(Ailment::Lost, begin).is_some();
            if begin.rem_euclid(HOUR) == 0 && !is_off {
                let corrected = corrected_in_hour(its, mix(&[row.key, device as u64]), begin);
                counted.corrected += corrected as f64;
                counted.replaced += f64::from(u8::from(corrected > 60));
            }
            let when = |is: bool, rate: f64| if is && !is_off { rate } else { 0.0 };
            let at = |at: i64| {
                let seconds = (at - begin) as f64;
                Grown {
                    joules: counted.joules + when(true, load.watts) * seconds,
                    capped: counted.capped + when(load.is_capped, 0.25) * seconds,
                    slowed: counted.slowed + when(load.is_throttled, 0.75) * seconds,
                    uncorrected: its.count(Ailment::Memory, at) as f64,
                    damaged: counted.damaged
                        + if its.ails(Ailment::Link, begin).is_some() { 3.0 * seconds } else { 0.0 },
                    ..counted
                }
            };
            if self.is_told(host, device, begin)
                && let Some((first, last)) = ticks(begin, end, every)
            {
                let (mut rows, mut waves) = (0, 0);
                for tick in (first..=last).step_by(every as usize).filter(|tick| *tick >= from) {
                    rows += 1;
                    waves += i64::from(wave(tick, shift));
                }
                let rippled = |base: f64, step: f64| {
                    let step = if load.is_forged { 0.0 } else { ripple(base, step) };
                    base * rows as f64 + step * waves as f64
                };
                let [now, mean] = RIPPLES;
                sum.rows += rows;
                sum.utilization += rippled(load.busy, now);
                sum.busy += rippled(load.busy, mean);
                sum.core += rippled(load.core, now);
                sum.tensor += rippled(load.tensor, now);
                before.go_on(first, last, every, at, |one, other| {
                    let grown = other.zip(one, |b, a| b - a);
                    sum.grown = Some(sum.grown.unwrap_or_default().zip(grown, |a, b| a + b));
                });
            }
            counted = at(end);
        }
        sum
    }

    /// What a port of a host counted in rows of `[from, to)`; `None` where no two rows follow each other.
    pub fn port_counts(&self, host: usize, port: usize, every: i64, from: i64, to: i64) -> Option<PortCounts> {
        let life = &self.lives[host];
        let is_infiniband = self.world.fabrics[self.world.hosts[host].fabric].infiniband;
        let rates = |at| {
            let rates = port_rates(self, host, port, at, &machine::sum(self, host, at));
            let damaged = if rates.is_lossy && is_infiniband { DAMAGED } else { 0.0 };
            let lost = rates.lost;
            [rates.bytes, lost / 2.0, lost / 20.0, rates.unready, rates.marked / 2.0, damaged]
        };
        let [bytes, asked_again, late, unready, marked, damaged] =
            self.counted(host, machine::turns(self, host), every, from, to, rates)?;
        // The row that shows it, and the one before.
        let shows = |at: i64| (at + every - 1).div_euclid(every) * every;
        let is_told = |at: i64| life.standing(at) == Standing::Up;
        let flaps = life.flaps.iter().map(|(down, _)| shows(*down));
        let flaps = flaps.filter(|at| port == 0 && from <= *at && *at < to && is_told(*at) && is_told(*at - every));
        Some(PortCounts {
            bytes: 2 * bytes,
            resent: asked_again + late + unready,
            notified: 2 * marked,
            damaged,
            flaps: flaps.count() as i64,
        })
    }

    /// Bytes that an interface of a host counted in rows of `[from, to)`, both ways: that to the storage, or to the outside.
    pub fn interface_bytes(&self, host: usize, is_storage: bool, every: i64, from: i64, to: i64) -> Option<i64> {
        let rates = |at| {
            let (received, sent) = interface_rates(self, host, at, &machine::sum(self, host, at), is_storage);
            [received, sent]
        };
        self.counted(host, machine::turns(self, host), every, from, to, rates).map(|[one, other]| one + other)
    }

    /// Segments that a host's TCP sent again, as counted in rows of `[from, to)`.
    pub fn resent_segments(&self, host: usize, every: i64, from: i64, to: i64) -> Option<i64> {
        let rates = |at| [resent(interface_rates(self, host, at, &machine::sum(self, host, at), true).1)];
        self.counted(host, machine::turns(self, host), every, from, to, rates).map(|[count]| count)
    }

    /// Records that a host's agent offered again, as counted in rows of `[from, to)`.
    pub fn retried_records(&self, host: usize, every: i64, from: i64, to: i64) -> Option<i64> {
        let rates = |at| [retried_rate(lag(self, &self.world.hosts[host], at))];
        self.counted(host, self.lives[host].turns(), every, from, to, rates).map(|[count]| count)
    }

    /// What the row of one host's probes of another says at a moment; `None` where none is told.
    pub fn probes(&self, from: usize, to: usize, at: i64) -> Option<Probes> {
        if self.lives[from].standing(at) != Standing::Up {
            return None;
        }
        let sent = links::PROBES;
        if self.lives[to].standing(at) == Standing::Down {
            return Some(Probes { sent, lost: sent, mean: None, worst: None });
        }
        let (rtt, loss) = links::quality(self, from, to, at);
        let rtt = links::fine(rtt);
        let more = links::fine(rtt * links::RIPPLE) * f64::from(wave(at, links::shift(from, to)));
        let lost = (loss * sent as f64).round() as i64;
        Some(Probes { sent, lost, mean: Some(rtt + more), worst: Some(links::fine(rtt * links::WORST) + more) })
    }

    /// `[from, to)` in parts in which nothing turns and the hour is the same.
    fn parts(&self, turns: Vec<i64>, from: i64, to: i64) -> Vec<(i64, i64)> {
        let from = from.max(self.world.options.start);
        let mut cuts = turns;
        cuts.extend((from.div_euclid(HOUR) + 1..=to.div_euclid(HOUR)).map(|hour| hour * HOUR));
        cuts.retain(|at| from < *at && *at < to);
        cuts.extend([from, to]);
        cuts.sort_unstable();
        cuts.dedup();
        cuts.windows(2).map(|part| (part[0], part[1])).collect()
    }

    /// What counters of a host grew by in rows of `[from, to)`: so many a second, in whole things, which a counter drops
    /// the rest of at every turn and hour. Nothing while the host is down.
    fn counted<const N: usize>(
        &self,
        host: usize,
        turns: Vec<i64>,
        every: i64,
        from: i64,
        to: i64,
        rates: impl Fn(i64) -> [f64; N],
    ) -> Option<[i64; N]> {
        let life = &self.lives[host];
        let mut all: Option<[i64; N]> = None;
        let mut before = Newest(None);
        let mut counted = [0; N];
        for (begin, end) in self.parts(turns, (from - every).div_euclid(HOUR) * HOUR, to) {
            let standing = life.standing(begin);
            // In thousandths.
            let rates = if standing == Standing::Down {
                [0; N]
            } else {
                rates(begin).map(|rate| (exact(rate) * 1000.0) as i64)
            };
            let at = |at: i64| std::array::from_fn(|n| counted[n] + rates[n] * (at - begin) / 1000);
            if standing == Standing::Up
                && let Some((first, last)) = ticks(begin.max(from - every), end, every)
            {
                before.go_on(first, last, every, at, |one, other| {
                    let sum = all.get_or_insert([0; N]);
                    (0..N).for_each(|n| sum[n] += other[n] - one[n]);
                });
            }
            counted = at(end);
        }
        all
    }

    /// Faults of devices in `[from, to)` that their agents told: host, device, the vendor's code.
    pub fn faults(&self, from: i64, to: i64) -> Vec<(usize, usize, i64)> {
        let mut all = Vec::new();
        for (host, life) in self.lives.iter().enumerate() {
            for (device, its) in life.devices.iter().enumerate() {
                let told =
                    |t: &&crate::failures::Trouble| from <= t.at && t.at < to && life.standing(t.at) == Standing::Up;
                all.extend(its.troubles.iter().filter(told).map(|t| (host, device, t.code)));
            }
        }
        all
    }

    /// The rollup of one hour or minute of each of a host's series of a table, in their order.
    pub fn windows(
        self: &std::sync::Arc<Self>,
        host: usize,
        table: &str,
        every: i64,
        from: i64,
        length: i64,
    ) -> Vec<Window> {
        self.series(host, table, every, &(from - 5 * MINUTE..from + length))
            .into_iter()
            .map(|mut series| {
                let mut roller = Roller::of(every);
                // The rows before the window belong to its increases.
                roller.window(&mut series, from - 5 * MINUTE, from);
                roller.window(&mut series, from, from + length)
            })
            .collect()
    }
}

/// First and last second in `[from, to)` at which rows come.
fn ticks(from: i64, to: i64, every: i64) -> Option<(i64, i64)> {
    let first = (from + every - 1).div_euclid(every) * every;
    let last = (to - 1).div_euclid(every) * every;
    (first <= last).then_some((first, last))
}
