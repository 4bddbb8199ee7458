//! Attacks, and what looks like one and is none.
//!
//! An attack is laid over the peaceful life: an *overlay* changes what a device or a host shows for a while, and
//! *events* are rows of its own. Each attack has a label: which rule should say so, of what, from when to when. Near
//! misses are laid over in the same way and have no label.

use crate::Fleet;
use crate::events::Event;
use crate::failures::{HostLife, Standing, Stretch};
use crate::jobs::Shape;
use crate::series::{Course, Piece};

/// What a device shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Act {
    /// Somebody computes on it.
    Compute(Shape),
    /// Somebody says that it computes, and it rests.
    Claim(Shape),
    /// Somebody has changed what it may draw, watts.
    Limit(f64),
    /// Somebody tells the values of another device of the host as its own.
    Twin(usize),
    /// Its meter counts so much of the energy that it draws.
    Meter(f64),
    /// Something slows it down, and it is not the air.
    Throttle,
}

/// What a device shows for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overlay {
    /// Index of the host.
    pub host: usize,
    /// Index of the device.
    pub device: usize,
    /// First second.
    pub from: i64,
    /// First second after it.
    pub to: i64,
    /// What.
    pub act: Act,
}

/// What a host shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trick {
    /// It asks for connections that nobody answers, so many a second.
    Scan(f64),
    /// It asks for connections that are answered, so many a second.
    Opens(f64),
    /// It sends so many bytes a second to the outside.
    Upload(f64),
    /// It receives so many bytes a second from the outside.
    Download(f64),
    /// Somebody adds so many bytes a second to what its storage interface has received.
    Padding(f64),
    /// Its agent says no more: the host goes on.
    Silence,
    /// Somebody switches it off.
    Off,
    /// A probe fails.
    Blind(&'static str),
    /// The rows of a probe about itself stop.
    Mute(&'static str),
    /// A probe is asked so many times more rarely.
    Rare(&'static str, i64),
    /// Rows of a table are taken, and never arrive.
    Withhold(&'static str),
    /// The agent runs with another configuration.
    Configuration(&'static str),
    /// The clock is so many seconds ahead.
    Clock(f64),
    /// The kernel makes a tick of its clock so long, seconds.
    Tick(f64),
    /// The kernel believes its clock to be so many seconds off.
    Skew(f64),
    /// The air that it takes in is so many degrees warmer.
    Warm(f64),
    /// The firmware of the board is another one.
    Bios(&'static str),
    /// It says that it is the machine of that host.
    Machine(usize),
    /// It is a machine that nobody knows: somebody has installed it anew.
    NewMachine,
}

/// What a host shows for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostOverlay {
    /// Index of the host.
    pub host: usize,
    /// First second.
    pub from: i64,
    /// First second after it.
    pub to: i64,
    /// What.
    pub trick: Trick,
}

/// What a rule should have said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attack {
    /// Name of the rule.
    pub rule: &'static str,
    /// Code of the node.
    pub node: String,
    /// Name of the host; empty for a node as a whole.
    pub host: String,
    /// The device; empty for a host as a whole.
    pub device: String,
    /// First second.
    pub from: i64,
    /// First second after it.
    pub to: i64,
}

/// A device that is seen in two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Double {
    /// Index of the host it belongs to.
    pub host: usize,
    /// Its index there.
    pub device: usize,
    /// Index of the host that shows it too.
    pub shown_by: usize,
    /// First second.
    pub from: i64,
    /// First second after it.
    pub to: i64,
}

/// A course that is seen for a while only.
pub(crate) struct Glimpse<C> {
    /// What there is to be seen.
    pub course: C,
    /// First second.
    pub from: i64,
    /// First second after it.
    pub to: i64,
}

impl<C: Course> Course for Glimpse<C> {
    fn next_piece(&mut self) -> Option<Piece> {
        // Courses turn at both ends, as they do at everything that is laid over their host or device.
        self.course.next_piece().map(|piece| {
            let is_open = self.from <= piece.from && piece.to <= self.to;
            Piece { seen: piece.seen && is_open, ..piece }
        })
    }
}

/// All that is laid over a fleet's peaceful life.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attacks {
    /// What devices show.
    pub devices: Vec<Overlay>,
    /// What hosts show.
    pub hosts: Vec<HostOverlay>,
    /// Rows, with the host each is of.
    pub rows: Vec<(usize, Event)>,
    /// Rows of the registry.
    pub entries: Vec<Event>,
    /// Hosts that nobody has registered.
    pub unregistered: Vec<usize>,
    /// The same of single devices.
    pub unregistered_devices: Vec<(usize, usize)>,
    /// Hosts that are registered as other machines.
    pub misregistered: Vec<usize>,
    /// Devices that are registered elsewhere, as in repair.
    pub in_repair: Vec<(usize, usize)>,
    /// Devices with another firmware than their model's, for as long as they have been there.
    pub firmware: Vec<(usize, usize, &'static str)>,
    /// Devices that are seen in another host as well: which, where, from when to when.
    pub doubles: Vec<Double>,
    /// What is an attack. Near misses are not here.
    pub labels: Vec<Attack>,
}

impl Attacks {
    /// What is laid over a device.
    pub fn on(&self, host: usize, device: usize) -> impl Iterator<Item = &Overlay> {
        self.devices.iter().filter(move |o| o.host == host && o.device == device)
    }

    /// What is laid over a host.
    pub fn of_host(&self, host: usize) -> impl Iterator<Item = &HostOverlay> {
        self.hosts.iter().filter(move |o| o.host == host)
    }

    fn tricks(&self, host: usize, at: i64) -> impl Iterator<Item = Trick> {
        self.of_host(host).filter(move |o| o.from <= at && at < o.to).map(|o| o.trick)
    }

    /// Bytes a second that somebody sends to the outside.
    pub fn uplink(&self, host: usize, at: i64) -> f64 {
        self.tricks(host, at).map(|t| if let Trick::Upload(bytes) = t { bytes } else { 0.0 }).sum()
    }

    /// Bytes a second that somebody has from the outside.
    pub fn downlink(&self, host: usize, at: i64) -> f64 {
        self.tricks(host, at).map(|t| if let Trick::Download(bytes) = t { bytes } else { 0.0 }).sum()
    }

    /// Bytes a second that somebody adds to what was received.
    pub fn padding(&self, host: usize, at: i64) -> f64 {
        self.tricks(host, at).map(|t| if let Trick::Padding(bytes) = t { bytes } else { 0.0 }).sum()
    }

    /// Connections a second that are asked for in vain.
    pub fn scan(&self, host: usize, at: i64) -> f64 {
        self.tricks(host, at).map(|t| if let Trick::Scan(opens) = t { opens } else { 0.0 }).sum()
    }

    /// Connections a second that are asked for and answered, beside those of every day.
    pub fn opens(&self, host: usize, at: i64) -> f64 {
        self.tricks(host, at).map(|t| if let Trick::Opens(opens) = t { opens } else { 0.0 }).sum()
    }

    /// Whether a probe fails.
    pub fn blinded(&self, host: usize, probe: &str, at: i64) -> bool {
        self.tricks(host, at).any(|t| matches!(t, Trick::Blind(name) if name == probe))
    }

    /// Whether the rows of a probe about itself have stopped.
    pub fn muted(&self, host: usize, probe: &str, at: i64) -> bool {
        self.tricks(host, at).any(|t| matches!(t, Trick::Mute(name) if name == probe))
    }

    /// How many times more rarely a probe is asked than it should be.
    pub fn rarely(&self, host: usize, probe: &str, at: i64) -> i64 {
        self.tricks(host, at)
            .find_map(|t| if let Trick::Rare(name, times) = t { (name == probe).then_some(times) } else { None })
            .unwrap_or(1)
    }

    /// Whether rows of a table never arrive.
    pub fn withheld(&self, host: usize, table: &str, at: i64) -> bool {
        self.tricks(host, at).any(|t| matches!(t, Trick::Withhold(name) if name == table))
    }

    /// Hash of the configuration, where it is another than the fleet's.
    pub fn configuration(&self, host: usize, at: i64) -> Option<&'static str> {
        self.tricks(host, at).find_map(|t| if let Trick::Configuration(hash) = t { Some(hash) } else { None })
    }

    /// Seconds by which the clock is ahead.
    pub fn clock(&self, host: usize, at: i64) -> f64 {
        self.tricks(host, at).map(|t| if let Trick::Clock(seconds) = t { seconds } else { 0.0 }).sum()
    }

    /// Length of a tick of the clock, seconds.
    pub fn tick(&self, host: usize, at: i64) -> f64 {
        self.tricks(host, at)
            .find_map(|t| if let Trick::Tick(seconds) = t { Some(seconds) } else { None })
            .unwrap_or(0.01)
    }

    /// Seconds by which the kernel believes its clock to be off.
    pub fn skew(&self, host: usize, at: i64) -> f64 {
        self.tricks(host, at).map(|t| if let Trick::Skew(seconds) = t { seconds } else { 0.0 }).sum()
    }

    /// Degrees by which the air that it takes in is warmer.
    pub fn warmer(&self, host: usize, at: i64) -> f64 {
        self.tricks(host, at).map(|t| if let Trick::Warm(degrees) = t { degrees } else { 0.0 }).sum()
    }

    /// Whose machine a host says to be, where it is not its own: a host's, or `None` inside for a new one.
    pub fn machine(&self, host: usize, at: i64) -> Option<Option<usize>> {
        self.tricks(host, at).find_map(|t| match t {
            Trick::Machine(other) => Some(Some(other)),
            Trick::NewMachine => Some(None),
            _ => None,
        })
    }

    /// Firmware of the board, where it is another than the fleet's.
    pub fn bios(&self, host: usize, at: i64) -> Option<&'static str> {
        self.tricks(host, at).find_map(|t| if let Trick::Bios(version) = t { Some(version) } else { None })
    }

    /// Whether somebody switches the host off at that second.
    pub fn is_shut_down(&self, host: usize, at: i64) -> bool {
        self.of_host(host).any(|o| o.trick == Trick::Off && o.from == at)
    }

    /// Whether nobody has registered the host.
    pub fn is_unregistered(&self, host: usize) -> bool {
        self.unregistered.contains(&host)
    }

    /// Firmware of a device, where it is another than its model's.
    pub fn firmware(&self, host: usize, device: usize) -> Option<&'static str> {
        self.firmware.iter().find(|(h, d, _)| (*h, *d) == (host, device)).map(|(_, _, version)| *version)
    }

    /// Devices of other hosts that a host shows.
    pub fn shown_by(&self, host: usize) -> impl Iterator<Item = &Double> {
        self.doubles.iter().filter(move |d| d.shown_by == host)
    }

    /// Lays silence and outages over the hosts' lives.
    pub(crate) fn silence(&self, lives: &mut [HostLife]) {
        for overlay in &self.hosts {
            let standing = match overlay.trick {
                Trick::Silence => Standing::Silent,
                Trick::Off => Standing::Down,
                _ => continue,
            };
            let Some(life) = lives.get_mut(overlay.host) else { continue };
            let mut cut = Vec::with_capacity(life.stretches.len() + 2);
            for stretch in &life.stretches {
                let before = Stretch { to: stretch.to.min(overlay.from), ..*stretch };
                let after = Stretch { from: stretch.from.max(overlay.to), ..*stretch };
                cut.extend([before, after].into_iter().filter(|s| s.from < s.to));
            }
            cut.push(Stretch { from: overlay.from, to: overlay.to, standing });
            cut.sort_by_key(|s| s.from);
            life.stretches = cut;
            if standing == Standing::Down {
                life.boots.push(overlay.to - 45);
                life.boots.sort_unstable();
            }
        }
    }

    /// Adds an attack's own rows of a host.
    pub(crate) fn events(&self, _: &Fleet, host: usize, from: i64, to: i64, all: &mut Vec<Event>) {
        let (from, to) = (from * 1_000_000, to * 1_000_000);
        let is_in = |e: &Event| from <= e.ts && e.ts < to;
        all.extend(self.rows.iter().filter(|(h, e)| *h == host && is_in(e)).map(|(_, e)| e.clone()));
    }

    /// Entries of the registry that belong to attacks and near misses.
    pub(crate) fn registry(&self, _: &Fleet) -> Vec<Event> {
        self.entries.clone()
    }
}
