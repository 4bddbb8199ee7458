//! Meters of a site: what its machines draw, and what the whole site does.
//!
//! A site tells its meters as [producers](../../docs/producers.md) describes: rows of `sensor` that a registered host
//! sends, with the names `meter/it` and `meter/facility`. Here the first host of each node reads both. A meter counts
//! on while the host that reads it is down.
//!
//! A meter shows the mean of the hour, which is the sum of what [`crate::machine::watts`] says of each host. That sum
//! takes a look at every turn of every host, so it is made once for a node and kept.

use std::sync::{Arc, OnceLock};

use crate::Fleet;
use crate::chance::{exact, mix, unit};
use crate::failures::Standing;
use crate::load::{Exact, Turning};
use crate::machine::{SENSOR, turns, watts};
use crate::series::{Cell, Course, Label, Series};
use crate::world::HOUR;

/// What the machines of each node draw, hour by hour, as far as somebody has asked.
#[derive(Debug)]
pub struct Drawn(Vec<OnceLock<Vec<f64>>>);

impl Drawn {
    pub(crate) fn new(nodes: usize) -> Self {
        Self((0..nodes).map(|_| OnceLock::new()).collect())
    }
}

/// Watts that the machines of a node draw in the mean of the hour that holds a moment. Whole ones.
pub fn it_watts(fleet: &Fleet, node: usize, at: i64) -> f64 {
    let hours = fleet.drawn.0[node].get_or_init(|| by_hour(fleet, node));
    hours.get(hour_of(fleet, at)).copied().unwrap_or(0.0)
}

/// Energy of the whole site for one of the machines': what cools them needs more in warm hours.
pub fn pue(fleet: &Fleet, node: usize, at: i64) -> f64 {
    let own = unit(mix(&[fleet.world.options.seed, 93, node as u64]));
    // Hours from the warmest of the day, by Beijing's time.
    let from_three = ((at / HOUR + 8) % 24 - 15).abs();
    let warmth = 1.0 - from_three.min(24 - from_three) as f64 / 12.0;
    1.16 + 0.14 * own + 0.05 * warmth
}

fn hour_of(fleet: &Fleet, at: i64) -> usize {
    usize::try_from((at - fleet.world.options.start).div_euclid(HOUR)).unwrap_or(0)
}

fn by_hour(fleet: &Fleet, node: usize) -> Vec<f64> {
    let mut joules = vec![0.0; hour_of(fleet, fleet.world.options.horizon) + 1];
    for (host, _) in fleet.world.hosts.iter().enumerate().filter(|(_, row)| row.node == node) {
        let add = |from: i64, to: i64| {
            joules[hour_of(fleet, from)] += watts(fleet, host, from) * (to - from) as f64;
            (false, Vec::new())
        };
        let mut course = Turning::new(fleet, turns(fleet, host), add);
        while course.next_piece().is_some() {}
    }
    joules.iter().map(|joules| (joules / HOUR as f64).round()).collect()
}

/// The meters that a host reads, in the order of their names: those of its node, if it is the first there.
pub fn meters(fleet: &Arc<Fleet>, host: usize, every: i64) -> Vec<Series> {
    let hosts = &fleet.world.hosts;
    if host > 0 && hosts[host - 1].node == hosts[host].node {
        return Vec::new();
    }
    [("meter/facility", "Whole site"), ("meter/it", "Machines")]
        .map(|(name, label)| {
            let labels = vec![name.into(), "energy".into(), Label::Null, Label::Null, Label::Null, label.into()];
            let (owner, node) = (fleet.clone(), hosts[host].node);
            let mut counted = Exact::default();
            let make = move |from: i64, to: i64| {
                let it = it_watts(&owner, node, from);
                let watts = if name == "meter/it" { it } else { (it * pue(&owner, node, from)).round() };
                let power = Cell::Level { base: watts, swing: exact(watts * 0.002), shift: (node % 60) as u8 };
                let energy = counted.run(watts, to - from);
                let cells = vec![Cell::Null, Cell::Null, Cell::Null, Cell::Null, power, energy];
                (owner.lives[host].standing(from) == Standing::Up, cells)
            };
            Series::new(&SENSOR, host, labels, every, Box::new(Turning::new(fleet, fleet.lives[host].turns(), make)))
        })
        .into()
}
