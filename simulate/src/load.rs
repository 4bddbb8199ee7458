//! What the hardware shows: values that follow from the jobs, and agree with each other.
//!
//! Everything begins with [`device_load`], what one accelerator does from one hour or turn to the next. Its power
//! follows from its load, its temperature from its power and the air of its rack, its energy is its power over time,
//! and the host's power, processors, memory and traffic follow from all of its accelerators. So the physics that a
//! detection checks (busy at the power of rest, energy that is not power times time) holds for whatever nobody forged.

use std::ops::Range;
use std::sync::Arc;

use crate::Fleet;
use crate::attacks::{Act, Double, Glimpse};
use crate::chance::{exact, mix, unit};
use crate::failures::{Ailment, Standing, corrected_in_hour};
use crate::jobs::{Shape, Use, Work, hourly};
use crate::series::{Cell, Course, Label, Layout, Piece, Series};
use crate::world::HOUR;

/// What an accelerator does. Shares are multiples of 1/1024.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// The job that holds it.
    pub job: Option<usize>,
    /// Share of time in which something runs.
    pub busy: f64,
    /// Of the cores.
    pub core: f64,
    /// Of the tensor units.
    pub tensor: f64,
    /// Of the memory's time.
    pub dram: f64,
    /// Of the memory, held.
    pub memory: f64,
    /// Watts, in the mean.
    pub watts: f64,
    /// A step of the wave on it, watts.
    pub ripple: f64,
    /// Share of what its links carry.
    pub traffic: f64,
    /// Power it may draw.
    pub limit: f64,
    /// Degrees.
    pub celsius: f64,
    /// Whether heat slows it down.
    pub is_throttled: bool,
    /// Whether that is the board's own brake, the last before it switches off.
    pub is_braked: bool,
    /// Whether its power limit does.
    pub is_capped: bool,
    /// Whether the values are somebody's invention.
    pub is_forged: bool,
}

/// The job that holds a device at a moment.
pub fn held(uses: &[Use], at: i64) -> Option<&Use> {
    let place = uses.partition_point(|u| u.to <= at);
    uses.get(place).filter(|u| u.from <= at)
}

/// What an accelerator does at a moment, and until its next turn or hour.
pub fn device_load(fleet: &Fleet, host: usize, device: usize, at: i64) -> Load {
    let row = &fleet.world.hosts[host];
    let model = row.model;
    let hour = at.div_euclid(HOUR);
    let key = mix(&[row.key, 40, device as u64]);
    // Each device has its own small difference, and each hour another.
    let vary = 1.0 + 0.04 * (unit(mix(&[key, hour as u64])) - 0.5) + 0.03 * (unit(key) - 0.5);
    let a_use = held(&fleet.schedule.uses[host][device], at);
    let job = a_use.map(|u| u.job);
    let mut limit = model.limit_watts;
    let (mut is_forged, mut is_slowed) = (false, false);
    let mut shape = job.map(|j| (fleet.schedule.jobs[j].shape, fleet.schedule.jobs[j].work));
    let mut claim: Option<Shape> = None;
    for overlay in fleet.attacks.on(host, device) {
        if overlay.from <= at && at < overlay.to {
            match overlay.act {
                Act::Compute(other) => shape = Some((other, Work::Training)),
                Act::Claim(other) => {
                    claim = Some(other);
                    is_forged = true;
                }
                Act::Limit(watts) => limit = watts,
                Act::Throttle => is_slowed = true,
                // What it tells is made of another's values, or of its own: the work is the same.
                Act::Twin(_) | Act::Meter(_) => {}
            }
        }
    }
    let mut load = Load {
        job,
        busy: 0.0,
        core: 0.0,
        tensor: 0.0,
        dram: 0.0,
        memory: exact(0.006 + 0.002 * unit(key)),
        watts: exact(model.idle_watts * (1.0 + 0.06 * (unit(key) - 0.5))),
        ripple: 0.0,
        traffic: 0.0,
        limit,
        celsius: 0.0,
        is_throttled: false,
        is_braked: false,
        is_capped: false,
        is_forged,
    };
    if let Some((shape, work)) = shape {
        let busy = match work {
            // What is asked of a service follows the day.
            Work::Inference => (shape.busy * (0.35 + 0.45 * hourly(at))).min(0.96),
            Work::Training | Work::Interactive => shape.busy,
        };
        let scale = if shape.busy > 0.0 { busy / shape.busy } else { 0.0 };
        // Work without steps does not waver.
        let vary = if shape.step <= 0.0 { 1.0 } else { vary };
        load.busy = exact((busy * vary).clamp(0.0, 0.985));
        load.core = exact((load.busy * shape.core).clamp(0.0, 0.985));
        load.tensor = exact(load.core * shape.tensor);
        load.dram = exact((shape.dram * scale * vary).clamp(0.0, 0.95));
        load.memory = exact((shape.memory * (1.0 + 0.02 * (unit(key) - 0.5))).clamp(0.0, 0.975));
        load.traffic = exact(shape.traffic * scale);
        let power = (shape.power * scale * vary).clamp(0.0, 1.0);
        load.watts = exact(load.watts + (limit - load.watts).max(0.0) * power);
        // Steps show in the power: a training job's goes up and down by a twentieth and more.
        load.ripple = exact(load.watts * if work == Work::Training { shape_ripple(&shape) } else { 0.009 });
        load.is_capped = power > 0.92;
    }
    if limit < model.limit_watts && load.watts > limit {
        load.watts = limit;
        load.ripple = 0.0;
        load.is_capped = true;
    }
    let is_hot = fleet.lives[host].is_hot(at);
    let inlet = crate::machine::inlet(fleet, host, at);
    load.celsius = exact(inlet + 8.0 + 40.0 * load.watts / model.limit_watts);
    if is_hot && load.celsius > 66.0 {
        load.is_throttled = true;
        load.celsius = exact(83.0 + 4.0 * unit(mix(&[key, 9])));
        load.watts = exact(load.watts * 0.8);
    }
    if is_slowed {
        // Fans that stand still, or a brake on the power: the board is hot, whatever the air.
        (load.is_throttled, load.is_braked) = (true, true);
        load.celsius = exact(86.0 + 3.0 * unit(mix(&[key, 9])));
        load.watts = exact(load.watts * 0.6);
    }
    if let Some(claim) = claim {
        // Told, and not so: power and heat stay what they are.
        load.busy = claim.busy;
        load.core = claim.core;
        load.tensor = claim.tensor;
        load.dram = claim.dram;
        load.memory = claim.memory;
        load.ripple = 0.0;
    }
    load
}

/// A step of the wave that lies on a share of time as it is now, and on a share that is a mean.
pub(crate) const RIPPLES: [f64; 2] = [0.012, 0.004];

/// That step for a share of this size: never so much that the wave goes below nothing or beyond all.
pub(crate) fn ripple(base: f64, step: f64) -> f64 {
    if base > 0.0 { ((base * step).min((1.0 - base) / 8.0) * 1024.0).floor() / 1024.0 } else { 0.0 }
}

/// By how many seconds a device's wave is moved.
pub(crate) fn shift(key: u64, device: usize) -> u8 {
    (key.wrapping_add(device as u64 * 17) % 60) as u8
}

fn shape_ripple(shape: &Shape) -> f64 {
    // Work without tensor units and without steps is flat: that of a miner is.
    if shape.step <= 0.0 { 0.001 } else { 0.0125 }
}

/// Every second at which a device's course turns.
pub(crate) fn device_turns(fleet: &Fleet, host: usize, device: usize) -> Vec<i64> {
    let life = &fleet.lives[host];
    let mut turns = life.turns();
    turns.extend(fleet.schedule.uses[host][device].iter().flat_map(|u| [u.from, u.to]));
    turns.extend(life.devices[device].troubles.iter().flat_map(|t| [t.at, t.until]));
    turns.extend(fleet.attacks.on(host, device).flat_map(|o| [o.from, o.to]));
    // Who tells another's values turns when that one does.
    for overlay in fleet.attacks.on(host, device) {
        if let Act::Twin(other) = overlay.act {
            turns.extend(fleet.schedule.uses[host][other].iter().flat_map(|u| [u.from, u.to]));
            turns.extend(fleet.attacks.on(host, other).flat_map(|o| [o.from, o.to]));
        }
    }
    turns.extend(fleet.attacks.of_host(host).flat_map(|o| [o.from, o.to]));
    let doubles = fleet.attacks.doubles.iter().filter(|d| (d.host, d.device) == (host, device));
    turns.extend(doubles.flat_map(|d| [d.from, d.to]));
    turns
}

/// A course that turns at given seconds and every hour, as long as it goes on.
pub(crate) struct Turning<F> {
    turns: Vec<i64>,
    place: usize,
    at: i64,
    horizon: i64,
    make: F,
}

impl<F: FnMut(i64, i64) -> (bool, Vec<Cell>) + Send> Turning<F> {
    /// For the fleet's whole life.
    pub(crate) fn new(fleet: &Fleet, turns: Vec<i64>, make: F) -> Self {
        Self::during(&(fleet.world.options.start..fleet.world.options.horizon), turns, make)
    }

    /// Of what is there only for a time.
    pub(crate) fn during(time: &Range<i64>, mut turns: Vec<i64>, make: F) -> Self {
        turns.sort_unstable();
        turns.dedup();
        Self { turns, place: 0, at: time.start, horizon: time.end, make }
    }
}

impl<F: FnMut(i64, i64) -> (bool, Vec<Cell>) + Send> Course for Turning<F> {
    fn next_piece(&mut self) -> Option<Piece> {
        let from = self.at;
        if from >= self.horizon {
            return None;
        }
        while self.turns.get(self.place).is_some_and(|turn| *turn <= from) {
            self.place += 1;
        }
        let hour = (from.div_euclid(HOUR) + 1) * HOUR;
        let to = self.turns.get(self.place).map_or(hour, |turn| (*turn).min(hour)).min(self.horizon);
        self.at = to;
        let (seen, cells) = (self.make)(from, to);
        Some(Piece { from, to, seen, cells })
    }
}

/// A counter that goes on from piece to piece.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Whole(i64);

impl Whole {
    /// At `rate` a second for `seconds`.
    pub(crate) fn run(&mut self, rate: f64, seconds: i64) -> Cell {
        let start = self.0;
        let rate = (rate * 1000.0) as i64;
        self.0 += rate * seconds / 1000;
        Cell::Count { start, rate }
    }

    /// Jumps, and stays there.
    pub(crate) fn jump(&mut self, by: i64) -> Cell {
        self.0 += by;
        Cell::Count { start: self.0, rate: 0 }
    }
}

/// The same for seconds and joules.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Exact(f64);

impl Exact {
    #[allow(clippy::cast_precision_loss, reason = "seconds of an hour")]
    pub(crate) fn run(&mut self, rate: f64, seconds: i64) -> Cell {
        let start = self.0;
        self.0 += rate * seconds as f64;
        Cell::Sum { start, rate }
    }
}

/// Accelerators.
pub static ACCELERATOR: Layout = Layout {
    table: "accelerator",
    labels: &[
        "device",
        "index",
        "vendor",
        "model",
        "serial",
        "pci_bdf",
        "device_file",
        "driver_version",
        "firmware_version",
        "numa_node",
    ],
    cells: &[
        "utilization_ratio",
        "memory_utilization_ratio",
        "memory_total_bytes",
        "memory_used_bytes",
        "memory_free_bytes",
        "power_watts",
        "power_max_watts",
        "power_limit_watts",
        "energy_joules",
        "temperature_celsius",
        "memory_temperature_celsius",
        "slowdown_temperature_celsius",
        "core_clock_hertz",
        "memory_clock_hertz",
        "core_clock_max_hertz",
        "performance_state",
        "throttle_reasons",
        "ecc_corrected_volatile",
        "ecc_uncorrected_volatile",
        "ecc_corrected_aggregate",
        "ecc_uncorrected_aggregate",
        "remapped_rows_corrected",
        "remapped_rows_uncorrected",
        "remapped_rows_pending",
        "remapped_rows_failed",
        "retired_pages",
        "pcie_replays",
        "link_crc_errors",
        "link_replays",
        "link_recoveries",
        "processes",
        "utilization_mean_ratio",
        "core_active_ratio",
        "tensor_active_ratio",
        "dram_active_ratio",
        "voltage_volts",
        "throttle_power_cap_seconds",
        "throttle_software_thermal_seconds",
        "throttle_hardware_thermal_seconds",
        "pcie_received_bytes_per_second",
        "pcie_transmitted_bytes_per_second",
        "links",
        "links_active",
        "link_received_bytes",
        "link_transmitted_bytes",
        "health",
        "last_error_code",
        "recovery_action",
    ],
};

#[derive(Default)]
struct DeviceCounters {
    energy: Exact,
    capped: Exact,
    hot: Exact,
    corrected: Whole,
    uncorrected: Whole,
    corrected_ever: Whole,
    uncorrected_ever: Whole,
    remapped: Whole,
    remapped_bad: Whole,
    retired: Whole,
    replays: Whole,
    crc: Whole,
    link_replays: Whole,
    recoveries: Whole,
    received: Whole,
    sent: Whole,
    errors_seen: i64,
    links_seen: i64,
    boot: i64,
}

/// The series of one accelerator.
pub fn accelerator(fleet: &Arc<Fleet>, host: usize, device: usize, every: i64) -> Series {
    let course = Box::new(device_course(fleet, host, device));
    Series::new(&ACCELERATOR, host, device_labels(fleet, host, device), every, course)
}

/// The series of one that another host shows as well, for as long as it does.
pub fn double(fleet: &Arc<Fleet>, double: &Double, every: i64) -> Series {
    let Double { host, device, shown_by, from, to } = *double;
    let course = Box::new(Glimpse { course: device_course(fleet, host, device), from, to });
    Series::new(&ACCELERATOR, shown_by, device_labels(fleet, host, device), every, course)
}

fn device_labels(fleet: &Fleet, host: usize, device: usize) -> Vec<Label> {
    let row = &fleet.world.hosts[host];
    let it = &row.devices[device];
    let model = row.model;
    vec![
        it.id.clone().into(),
        it.index.into(),
        model.vendor.into(),
        model.name.into(),
        it.serial.clone().into(),
        it.pci.clone().into(),
        it.file.clone().into(),
        row.driver.into(),
        fleet.attacks.firmware(host, device).unwrap_or(model.firmware).into(),
        (if device * 2 < row.devices.len() { 0_i64 } else { 1 }).into(),
    ]
}

fn device_course(fleet: &Arc<Fleet>, host: usize, device: usize) -> impl Course + 'static {
    let row = &fleet.world.hosts[host];
    let fleet_ = fleet.clone();
    let mut counters =
        DeviceCounters { boot: fleet.lives[host].boot(fleet.world.options.start), ..DeviceCounters::default() };
    // What the board has seen in its life before.
    counters.corrected_ever.0 = (mix(&[row.key, 41, device as u64]) % 40) as i64;
    let make = move |from, to| device_piece(&fleet_, host, device, &mut counters, from, to);
    Turning::new(fleet, device_turns(fleet, host, device), make)
}

/// The device whose values somebody tells as this one's.
fn twin(fleet: &Fleet, host: usize, device: usize, at: i64) -> Option<usize> {
    fleet.attacks.on(host, device).filter(|o| o.from <= at && at < o.to).find_map(|o| match o.act {
        Act::Twin(other) => Some(other),
        _ => None,
    })
}

/// The share of its energy that a device's meter counts.
fn metered(fleet: &Fleet, host: usize, device: usize, at: i64) -> f64 {
    fleet
        .attacks
        .on(host, device)
        .filter(|o| o.from <= at && at < o.to)
        .map(|o| if let Act::Meter(share) = o.act { share } else { 1.0 })
        .product()
}

fn device_piece(
    fleet: &Fleet,
    host: usize,
    device: usize,
    c: &mut DeviceCounters,
    from: i64,
    to: i64,
) -> (bool, Vec<Cell>) {
    let life = &fleet.lives[host];
    let row = &fleet.world.hosts[host];
    let (model, its) = (row.model, &life.devices[device]);
    let tells = model.tells;
    let standing = life.standing(from);
    let is_lost = its.ails(Ailment::Lost, from).is_some();
    let is_off = standing == Standing::Down || is_lost;
    let boot = life.boot(from);
    if boot != c.boot {
        // Since the driver was loaded: loaded anew. What the board keeps for life stays.
        *c = DeviceCounters {
            boot,
            corrected_ever: c.corrected_ever,
            uncorrected_ever: c.uncorrected_ever,
            remapped: c.remapped,
            remapped_bad: c.remapped_bad,
            retired: c.retired,
            errors_seen: c.errors_seen,
            links_seen: c.links_seen,
            ..DeviceCounters::default()
        };
    }
    let shown = twin(fleet, host, device, from).unwrap_or(device);
    let load = device_load(fleet, host, shown, from);
    let (watts, seconds) = (if is_off { 0.0 } else { load.watts * metered(fleet, host, device, from) }, to - from);
    let shift = shift(row.key, shown);
    let [now, mean] = RIPPLES;
    let share = |base: f64, step: f64, more: u8| {
        let swing = if load.is_forged { 0.0 } else { ripple(base, step) };
        Cell::Level { base, swing, shift: (shift + more) % 60 }
    };
    let on_hour = from.rem_euclid(HOUR) == 0 && !is_off;
    let corrected = if on_hour { corrected_in_hour(its, mix(&[row.key, device as u64]), from) } else { 0 };
    let errors = its.count(Ailment::Memory, from);
    let new_errors = errors - c.errors_seen;
    c.errors_seen = errors;
    let link_troubles = its.count(Ailment::Link, from);
    let new_links = link_troubles - c.links_seen;
    c.links_seen = link_troubles;
    let bad_link = if its.ails(Ailment::Link, from).is_some() { 1.0 } else { 0.0 };
    let used = (model.memory as f64 * load.memory) as i64 / 1_048_576 * 1_048_576;
    let runs = load.busy > 0.0 || load.job.is_some();
    let clock = if load.busy <= 0.0 {
        model.clock / 6
    } else if load.is_throttled {
        model.clock * 3 / 5
    } else if load.is_capped {
        model.clock * 9 / 10
    } else {
        model.clock
    };
    let reasons = if load.is_braked {
        "hardware_thermal"
    } else if load.is_throttled {
        "software_thermal"
    } else if load.is_capped {
        "power_cap"
    } else if runs && load.busy > 0.0 {
        "none"
    } else {
        "idle"
    };
    let link_rate = load.traffic * (model.links * model.link_bytes) as f64;
    // What needs neither matrices nor its neighbours hardly needs the host either: so do miners look.
    let fed = if load.tensor > 0.0 || load.traffic > 0.0 { 900_000_000.0 } else { 300_000.0 };
    let pcie = load.busy * fed;
    let memory_watch = errors > 0 && its.ails(Ailment::Memory, from).is_some();
    let health = if memory_watch || bad_link > 0.0 { "warning" } else { "healthy" };
    let last_error = its.troubles.iter().rev().find(|t| t.at <= from).map_or(Cell::State(0), |t| Cell::State(t.code));
    let ecc = tells.ecc;
    let cells = vec![
        share(load.busy, now, 0),
        share(exact(load.dram), now, 5).told(tells.memory_load),
        Cell::whole(model.memory),
        Cell::whole(used),
        Cell::whole(model.memory - used),
        Cell::Level { base: load.watts, swing: load.ripple, shift },
        // The crest of the wave.
        Cell::level(load.watts + 8.0 * load.ripple).told(model.vendor == "nvidia"),
        Cell::level(load.limit),
        c.energy.run(watts, seconds).told(tells.energy),
        Cell::level(load.celsius),
        Cell::level(exact(load.celsius + 6.0 + 4.0 * load.dram)).told(model.vendor != "moore-threads"),
        Cell::level(89.0).told(tells.throttling),
        Cell::whole(clock),
        Cell::whole(model.memory_clock),
        Cell::whole(model.clock),
        Cell::State(if load.busy > 0.0 { 0 } else { 8 }).told(model.vendor == "nvidia"),
        Cell::Text(reasons).told(tells.throttling),
        c.corrected.jump(corrected).told(ecc),
        c.uncorrected.jump(new_errors).told(ecc),
        c.corrected_ever.jump(corrected).told(ecc),
        c.uncorrected_ever.jump(new_errors).told(ecc),
        c.remapped.jump(i64::from(corrected > 60)).told(tells.remapped_rows),
        c.remapped_bad.jump(new_errors).told(tells.remapped_rows),
        Cell::Bool(memory_watch).told(tells.remapped_rows),
        Cell::Bool(errors >= 8).told(tells.remapped_rows),
        c.retired.jump(new_errors).told(tells.retired_pages),
        c.replays.run(0.0, seconds).told(model.vendor == "nvidia" || model.vendor == "metax"),
        c.crc.run(bad_link * 3.0, seconds).told(tells.links),
        c.link_replays.run(bad_link * 1.5, seconds).told(tells.links),
        c.recoveries.jump(new_links).told(model.vendor == "nvidia"),
        Cell::whole(i64::from(runs)),
        share(load.busy, mean, 0),
        share(load.core, now, 0).told(tells.activity),
        share(load.tensor, now, 0).told(tells.activity),
        share(load.dram, now, 5).told(tells.activity && model.vendor == "nvidia"),
        Cell::level(exact(0.72 + 0.25 * load.watts / model.limit_watts)).told(tells.voltage),
        c.capped.run(if load.is_capped && !is_off { 0.25 } else { 0.0 }, seconds).told(tells.throttling),
        c.hot.run(if load.is_throttled && !is_off { 0.75 } else { 0.0 }, seconds).told(tells.throttling),
        // The driver steps in before the hardware has to.
        Cell::Sum { start: 0.0, rate: 0.0 }.told(tells.throttling),
        Cell::level(exact(pcie)).told(tells.pcie_rate),
        Cell::level(exact(pcie / 3.0)).told(tells.pcie_rate),
        Cell::whole(model.links).told(model.links > 0),
        Cell::whole(model.links - i64::from(bad_link > 0.0)).told(model.links > 0),
        c.received.run(if is_off { 0.0 } else { link_rate }, seconds).told(tells.links),
        c.sent.run(if is_off { 0.0 } else { link_rate }, seconds).told(tells.links),
        Cell::Text(health).told(tells.health),
        last_error.told(tells.health),
        Cell::Text(if memory_watch { "gpu_reset" } else { "none" }).told(model.vendor == "nvidia"),
    ];
    (standing == Standing::Up && !is_lost && !fleet.attacks.withheld(host, "accelerator", from), cells)
}
