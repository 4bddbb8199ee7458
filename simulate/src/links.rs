//! The way between hosts and between nodes.
//!
//! The first host of each fabric's node probes the nodes of its own and of other regions, and every host probes some of
//! its fabric in other racks, so that a host that is down is seen to be so by others. A time there and back is that of
//! light in glass over the distance, half as long again for the way it takes; distance costs loss, too.
//!
//! Probes are connections to port 22: they are answered while a host works, whether or not its agent speaks.

use std::sync::Arc;

use crate::Fleet;
use crate::chance::{exact, mix, unit};
use crate::failures::Standing;
use crate::load::Turning;
use crate::series::{Cell, Label, Layout, Series};
use crate::world::HOUR;

/// Links.
pub static LINK: Layout = Layout {
    table: "link",
    labels: &["peer", "protocol", "host_name", "port", "address"],
    cells: &[
        "sent",
        "received",
        "lost",
        "loss_ratio",
        "rtt_min_seconds",
        "rtt_mean_seconds",
        "rtt_max_seconds",
        "rtt_p99_seconds",
        "jitter_seconds",
    ],
};

/// One way that is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Way {
    /// Name of the peer, as in `link.peer`.
    pub peer: String,
    /// Index of the host that measures.
    pub from: usize,
    /// Index of the host that answers.
    pub to: usize,
    /// Longest acceptable time there and back, seconds.
    pub limit: f64,
    /// Whether it leads to another node.
    pub between_nodes: bool,
}

/// First host of each node that has hosts.
pub fn gateways(fleet: &Fleet) -> Vec<(usize, usize)> {
    let mut all: Vec<(usize, usize)> = Vec::new();
    for (host, row) in fleet.world.hosts.iter().enumerate() {
        if all.iter().all(|(node, _)| *node != row.node) {
            all.push((row.node, host));
        }
    }
    all
}

/// The ways that a host measures, by the name of the peer.
pub fn ways(fleet: &Fleet, host: usize) -> Vec<Way> {
    let row = &fleet.world.hosts[host];
    let mut all = Vec::new();
    // Three peers, so that as many see a host that is down: of its fabric and in other racks (four hosts stand in one),
    // and where a fabric is too small, beyond it.
    let fabric = fleet.world.fabrics[row.fabric].hosts.clone();
    let (place, count, everybody) = (host - fabric.start, fabric.len(), fleet.world.hosts.len());
    let near = [4, 9, 14, 1, 2, 3].map(|step| fabric.start + (place + step) % count.max(1));
    let far = [1, 2, 3].map(|step| (host + count + step - 1) % everybody.max(1));
    for to in near.into_iter().chain(far) {
        if all.len() < 3 && to != host && all.iter().all(|w: &Way| w.to != to) {
            all.push(way(fleet, host, to));
        }
    }
    let gateways = gateways(fleet);
    if gateways.iter().any(|(_, gateway)| *gateway == host) {
        for (node, to) in gateways {
            if node == row.node || all.iter().any(|w| w.to == to) {
                continue;
            }
            all.push(way(fleet, host, to));
        }
    }
    all.sort_by(|a, b| a.peer.cmp(&b.peer));
    all
}

fn way(fleet: &Fleet, from: usize, to: usize) -> Way {
    let (a, b) = (&fleet.world.hosts[from], &fleet.world.hosts[to]);
    let same = fleet.world.node_of(a).region == fleet.world.node_of(b).region;
    let limit = if a.node == b.node {
        0.001
    } else if same {
        0.005
    } else {
        0.020
    };
    Way { peer: b.name.clone(), from, to, limit, between_nodes: a.node != b.node }
}

/// Time there and back between two hosts at an hour, in seconds, and the share that is lost.
pub fn quality(fleet: &Fleet, from: usize, to: usize, at: i64) -> (f64, f64) {
    let (a, b) = (&fleet.world.hosts[from], &fleet.world.hosts[to]);
    let (one, two) = (fleet.world.nodes[a.node].place, fleet.world.nodes[b.node].place);
    let hundreds = ((one.0 - two.0).powi(2) + (one.1 - two.1).powi(2)).sqrt();
    let key = mix(&[a.key.min(b.key), a.key.max(b.key), 60]);
    let hour = unit(mix(&[key, (at / HOUR) as u64]));
    // Some hours of some ways are bad: congestion, or a detour.
    let is_bad = a.node != b.node && hour > 0.985;
    let base = if a.node == b.node { 0.000_12 } else { 0.000_4 + hundreds * 0.001_5 };
    let rtt = base * (1.0 + 0.15 * hour) * if is_bad { 1.8 } else { 1.0 };
    let loss = if is_bad { 0.125 } else { 0.0 };
    (rtt, loss)
}

/// The series of a host's ways.
pub fn links(fleet: &Arc<Fleet>, host: usize, every: i64) -> Vec<Series> {
    ways(fleet, host).into_iter().map(|way| link(fleet, &way, every)).collect()
}

/// Probes of one row.
pub(crate) const PROBES: i64 = 8;
/// A step of the wave on times there and back.
pub(crate) const RIPPLE: f64 = 0.01;
/// How much longer than the mean the longest takes.
pub(crate) const WORST: f64 = 1.25;

/// By how many seconds the wave of a way is moved.
pub(crate) fn shift(from: usize, to: usize) -> u8 {
    (mix(&[from as u64, to as u64]) % 60) as u8
}

/// A multiple of 2^-30, near a nanosecond: exact, and fine enough for round-trip times.
pub(crate) fn fine(seconds: f64) -> f64 {
    let scale = f64::from(1 << 30);
    (seconds * scale).round() / scale
}

fn link(fleet: &Arc<Fleet>, way: &Way, every: i64) -> Series {
    let (from, to) = (way.from, way.to);
    let peer = &fleet.world.hosts[to];
    let labels: Vec<Label> = vec![
        way.peer.clone().into(),
        "tcp".into(),
        peer.name.clone().into(),
        22_i64.into(),
        peer.address.clone().into(),
    ];
    let mut turns = fleet.lives[from].turns();
    turns.extend(fleet.lives[to].stretches.iter().map(|s| s.to));
    let owner = fleet.clone();
    let make = move |at: i64, _: i64| {
        let seen = owner.lives[from].standing(at) == Standing::Up;
        if owner.lives[to].standing(at) == Standing::Down {
            let lost = vec![
                Cell::whole(PROBES),
                Cell::whole(0),
                Cell::whole(PROBES),
                Cell::level(1.0),
                Cell::Null,
                Cell::Null,
                Cell::Null,
                Cell::Null,
                Cell::Null,
            ];
            return (seen, lost);
        }
        let (rtt, loss) = quality(&owner, from, to, at);
        let rtt = fine(rtt);
        let swing = fine(rtt * RIPPLE);
        let lost = (loss * PROBES as f64).round() as i64;
        let shift = shift(from, to);
        let near = |factor: f64| Cell::Level { base: fine(rtt * factor), swing, shift };
        let cells = vec![
            Cell::whole(PROBES),
            Cell::whole(PROBES - lost),
            Cell::whole(lost),
            Cell::level(exact(loss)),
            near(0.9),
            near(1.0),
            near(WORST),
            near(WORST),
            Cell::level(fine(rtt * 0.04)),
        ];
        (seen, cells)
    };
    Series::new(&LINK, from, labels, every, Box::new(Turning::new(fleet, turns, make)))
}
