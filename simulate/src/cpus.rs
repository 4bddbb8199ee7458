//! Processors: all of a host's together, and those that feed its accelerators.
//!
//! Single CPUs are told more seldom than their sum, as the agent does. A host has 192 of them, and a row of each would
//! outweigh all else that a fleet tells; so there is one for each accelerator, the one its loader is bound to, which is
//! busy when its accelerator is. The others are in the sum alone.

use std::sync::Arc;

use crate::Fleet;
use crate::chance::{exact, mix, unit};
use crate::failures::{Ailment, Standing};
use crate::load::{Exact, Turning, device_load, device_turns};
use crate::machine::{Now, series};
use crate::series::{Cell, Label, Layout, Series};
use crate::world::HOUR;

/// Processors.
pub static CPU: Layout = Layout {
    table: "cpu",
    labels: &["cpu", "core_id", "package_id", "numa_node"],
    cells: &[
        "user_seconds",
        "nice_seconds",
        "system_seconds",
        "iowait_seconds",
        "irq_seconds",
        "softirq_seconds",
        "steal_seconds",
        "idle_seconds",
        "frequency_hertz",
    ],
};

/// Single CPUs are told so many seconds apart at least.
pub const SINGLE_EVERY: i64 = 10;

/// Threads that do low-priority work: what looks after the machine itself.
const NICE: f64 = 0.031_25;

/// Threads that serve the hardware's interrupts.
const INTERRUPTS: f64 = 0.062_5;

/// Threads of a host that are busy: for programs, in the kernel, waiting for disks, with packets.
pub(crate) fn threads_busy(now: &Now<'_>) -> (f64, f64, f64, f64) {
    let user = exact(1.5 + 7.0 * now.sum.busy + 2.0 * now.sum.held + now.hourly(1));
    let system = exact(0.6 + 0.9 * now.sum.busy);
    let wait = exact(0.05 + 0.1 * now.sum.busy * now.hourly(2));
    (user, system, wait, exact(0.1 + 0.4 * now.sum.traffic))
}

/// The series of a host's CPUs, in the order of their names; the last is `all`.
pub fn cpus(fleet: &Arc<Fleet>, host: usize, every: i64) -> Vec<Series> {
    let devices = fleet.world.hosts[host].devices.len();
    let mut all: Vec<(String, Series)> = (0..devices).map(|device| one(fleet, host, device, every)).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().map(|(_, series)| series).chain([together(fleet, host, every)]).collect()
}

fn together(fleet: &Arc<Fleet>, host: usize, every: i64) -> Series {
    let threads = fleet.world.hosts[host].threads as f64;
    let labels = vec!["all".into(), Label::Null, Label::Null, Label::Null];
    series(fleet, host, &CPU, labels, every, move |now, c: &mut [Exact; 8]| {
        let (user, system, wait, soft) = threads_busy(now);
        let idle = threads - user - NICE - system - wait - INTERRUPTS - soft;
        let rates = [user, NICE, system, wait, INTERRUPTS, soft, 0.0, idle];
        let mut cells: Vec<Cell> =
            rates.iter().zip(c).map(|(rate, counter)| counter.run(now.rate(*rate), now.seconds)).collect();
        cells.push(Cell::Null);
        cells
    })
}

/// The CPU that feeds an accelerator, with its name.
fn one(fleet: &Arc<Fleet>, host: usize, device: usize, every: i64) -> (String, Series) {
    let row = &fleet.world.hosts[host];
    // Two threads a core, two packages; the first threads of the cores come first.
    let cores = row.threads / 2;
    let number = device as i64 * cores / row.devices.len() as i64;
    let package = number / (cores / 2);
    let name = number.to_string();
    let labels = vec![name.clone().into(), (number % (cores / 2)).into(), package.into(), package.into()];
    let (owner, key) = (fleet.clone(), row.key);
    let (mut c, mut boot) = (<[Exact; 8]>::default(), fleet.lives[host].boot(fleet.world.options.start));
    let make = move |from: i64, to: i64| {
        let life = &owner.lives[host];
        if life.boot(from) != boot {
            (c, boot) = (<[Exact; 8]>::default(), life.boot(from));
        }
        let load = device_load(&owner, host, device, from);
        let is_fed = !load.is_forged && life.devices[device].ails(Ailment::Lost, from).is_none();
        let busy = if is_fed { load.busy } else { 0.0 };
        let hour = unit(mix(&[key, 51, device as u64, (from / HOUR) as u64]));
        let user = exact(0.004 + busy * (0.7 + 0.2 * hour));
        let system = exact(0.002 + 0.04 * busy);
        let wait = exact(0.02 * busy * hour);
        let soft = exact(0.001 + 0.02 * load.traffic);
        let idle = 1.0 - user - system - wait - soft;
        let is_down = life.standing(from) == Standing::Down;
        let mut cells: Vec<Cell> = [user, 0.0, system, wait, 0.0, soft, 0.0, idle]
            .iter()
            .zip(&mut c)
            .map(|(rate, counter)| counter.run(if is_down { 0.0 } else { *rate }, to - from))
            .collect();
        let hertz = 2_100_000_000 + (1_500_000_000.0 * busy) as i64;
        cells.push(Cell::Whole { base: hertz, swing: 10_000_000, shift: (number % 60) as u8 });
        (life.standing(from) == Standing::Up, cells)
    };
    let course = Turning::new(fleet, device_turns(fleet, host, device), make);
    (name, Series::new(&CPU, host, labels, every.max(SINGLE_EVERY), Box::new(course)))
}
