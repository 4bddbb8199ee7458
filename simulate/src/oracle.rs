//! What is true: the fleet's state in plain values, to calculate answers without SQL.
//!
//! Nothing here reads a row. A test adds these up in loops and compares the sum with what the query server says.

use crate::Fleet;
use crate::failures::{Ailment, Standing};
use crate::load::device_load;
use crate::series::{Roller, Window};
use crate::world::MINUTE;

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
