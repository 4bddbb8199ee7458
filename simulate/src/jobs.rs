//! Jobs: what people ask for, and who holds what from when to when.
//!
//! Each fabric has a scheduler of its own. Work arrives by the hour of the day and the day of the week (Beijing's time),
//! in sizes from one accelerator to 64 whole hosts; what does not fit waits, and smaller work may pass it. A host that
//! goes down, or a device that is lost, takes its job with it.
//!
//! The whole life of a fleet is scheduled at once, from begin to horizon, because what runs now follows from all that
//! ran before. It is little: a job is a few numbers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::chance::{Chance, exact};
use crate::failures::{Ailment, HostLife, Standing};
use crate::world::{DAY, HOUR, World};

/// How demand tells of what waits: every so many seconds.
pub const DEMAND_EVERY: i64 = 300;

/// What kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// Busy throughout, in steps, all devices alike.
    Training,
    /// Busy by the hour of the day, for days.
    Inference,
    /// A person at a terminal: little, and often nothing.
    Interactive,
}

impl Work {
    /// The queue it waits in.
    pub fn class(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Inference => "inference",
            Self::Interactive => "interactive",
        }
    }
}

/// Some accelerators of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Index of the host.
    pub host: usize,
    /// The devices, one bit each.
    pub devices: u64,
}

impl Grant {
    /// Indices of the devices.
    pub fn each(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |bit| self.devices >> bit & 1 == 1)
    }
}

/// One job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its number.
    pub number: u64,
    /// Index of its fabric.
    pub fabric: usize,
    /// What kind.
    pub work: Work,
    /// Whose it is.
    pub user: &'static str,
    /// The user's number.
    pub uid: i64,
    /// What it is charged to.
    pub project: &'static str,
    /// Accelerators it asks for.
    pub accelerators: usize,
    /// Hours it asks for.
    pub hours: f64,
    /// When it was submitted.
    pub submitted: i64,
    /// When it began; `None` while it waits.
    pub began: Option<i64>,
    /// When it ended; `None` while it runs.
    pub ended: Option<i64>,
    /// Whether it ended because something failed.
    pub killed: bool,
    /// What it holds.
    pub grants: Vec<Grant>,
    /// How its devices are used.
    pub shape: Shape,
    /// Index, among its ranks, of one that is slow, if one is.
    pub straggler: Option<usize>,
}

/// How a job uses its devices: shares, multiples of 1/1024.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Of time in which something runs.
    pub busy: f64,
    /// Of that, cores active.
    pub core: f64,
    /// Of the cores, tensor units.
    pub tensor: f64,
    /// Of memory's time.
    pub dram: f64,
    /// Of memory held.
    pub memory: f64,
    /// Of the power between rest and limit.
    pub power: f64,
    /// Of what the links carry.
    pub traffic: f64,
    /// Seconds of a step.
    pub step: f64,
    /// Whether memory is held and nothing runs (somebody went home).
    pub idle: bool,
}

/// A device's time with one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// When it began.
    pub from: i64,
    /// When it ended, or the horizon.
    pub to: i64,
    /// Index of the job.
    pub job: usize,
}

/// What waited and ran at one moment on one fabric, in one class.
#[derive(Debug, Clone, PartialEq)]
pub struct DemandAt {
    /// When.
    pub at: i64,
    /// Index of the fabric.
    pub fabric: usize,
    /// The queue.
    pub class: &'static str,
    /// Jobs that wait.
    pub pending: i64,
    /// Jobs that run.
    pub running: i64,
    /// Accelerators they ask for.
    pub pending_accelerators: i64,
    /// Accelerators they hold.
    pub running_accelerators: i64,
    /// The same times the hours asked for.
    pub pending_hours: f64,
    /// How long the oldest has waited, seconds.
    pub oldest_wait: Option<i64>,
}

/// All work of a fleet's life.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schedule {
    /// Every job, those of a fabric together, in the order in which they came.
    pub jobs: Vec<Job>,
    /// By host and device: its uses, in order.
    pub uses: Vec<Vec<Vec<Use>>>,
    /// What waited, every five minutes.
    pub demand: Vec<DemandAt>,
}

const USERS: [(&str, i64, &str); 14] = [
    ("zhang.wei", 20011, "llm-base"),
    ("li.na", 20012, "llm-base"),
    ("wang.fang", 20013, "weather"),
    ("liu.yang", 20014, "weather"),
    ("chen.jie", 20015, "drug-design"),
    ("yang.min", 20016, "drug-design"),
    ("huang.lei", 20017, "speech"),
    ("zhao.jun", 20018, "vision"),
    ("wu.xia", 20019, "vision"),
    ("zhou.tao", 20020, "materials"),
    ("xu.hong", 20021, "recsys"),
    ("sun.bo", 20022, "recsys"),
    ("ma.lin", 20023, "robotics"),
    ("zhu.qing", 20024, "education"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    End(usize),
    HostUp(usize),
    DeviceBack(usize, usize),
    HostDown(usize),
    DeviceLost(usize, usize),
    Arrive,
    Look,
}

/// Schedules the whole life of a fleet.
pub fn schedule(world: &World, lives: &[HostLife]) -> Schedule {
    let mut all = Schedule {
        uses: world.hosts.iter().map(|h| vec![Vec::new(); h.devices.len()]).collect(),
        ..Schedule::default()
    };
    for fabric in 0..world.fabrics.len() {
        Scheduler::new(world, lives, fabric).run(&mut all);
    }
    let horizon = world.options.horizon;
    let Schedule { jobs, uses, .. } = &mut all;
    for (number, job) in jobs.iter().enumerate() {
        let Some(from) = job.began else { continue };
        let to = job.ended.unwrap_or(horizon).min(horizon);
        for grant in &job.grants {
            for device in grant.each() {
                uses[grant.host][device].push(Use { from, to, job: number });
            }
        }
    }
    for uses in uses.iter_mut().flatten() {
        uses.sort_by_key(|u| u.from);
    }
    all
}

struct Scheduler<'a> {
    world: &'a World,
    lives: &'a [HostLife],
    fabric: usize,
    chance: Chance,
    events: BinaryHeap<Reverse<(i64, What)>>,
    /// By host of the fabric: free devices, one bit each.
    free: Vec<u64>,
    /// By host of the fabric: devices that are there.
    there: Vec<u64>,
    up: Vec<bool>,
    queue: Vec<usize>,
    running: Vec<usize>,
    jobs: Vec<Job>,
    first: usize,
    /// Jobs a second at the mean hour.
    rate: f64,
    whole: u64,
}

impl<'a> Scheduler<'a> {
    fn new(world: &'a World, lives: &'a [HostLife], fabric: usize) -> Self {
        let hosts = world.fabrics[fabric].hosts.clone();
        let devices = world.options.accelerators.min(64);
        let whole = if devices == 64 { u64::MAX } else { (1 << devices) - 1 };
        let mut scheduler = Self {
            world,
            lives,
            fabric,
            chance: Chance::of(&[world.options.seed, 30, fabric as u64]),
            events: BinaryHeap::new(),
            free: vec![whole; hosts.len()],
            there: vec![whole; hosts.len()],
            up: vec![true; hosts.len()],
            queue: Vec::new(),
            running: Vec::new(),
            jobs: Vec::new(),
            first: 0,
            rate: 0.0,
            whole,
        };
        // So many jobs that their work is a little less than what there is.
        let mut trial = Chance::of(&[world.options.seed, 31, fabric as u64]);
        let mean = (0..4_000)
            .map(|_| {
                let (_, n, s) = scheduler.draw(&mut trial);
                n as f64 * s as f64
            })
            .sum::<f64>()
            / 4_000.0;
        let mut load = Chance::of(&[world.options.seed, 32, fabric as u64]);
        scheduler.rate = load.between(0.72, 1.02) * (hosts.len() * devices) as f64 / mean.max(1.0);
        scheduler
    }

    /// A kind of work, how many devices, and for how many seconds.
    fn draw(&self, chance: &mut Chance) -> (Work, usize, i64) {
        let devices = self.world.options.accelerators.min(64);
        let hosts = self.free.len();
        let work = [Work::Training, Work::Inference, Work::Interactive][chance.weighted(&[0.5, 0.2, 0.3])];
        let parts = [1, (devices / 4).max(1), (devices / 2).max(1), devices];
        let many = |chance: &mut Chance, weights: &[f64]| devices << chance.weighted(weights);
        let size = match work {
            Work::Interactive => parts[chance.weighted(&[0.7, 0.2, 0.1, 0.0])],
            Work::Inference => parts[chance.weighted(&[0.3, 0.3, 0.25, 0.15])],
            Work::Training if chance.happens(0.5) => parts[chance.weighted(&[0.25, 0.2, 0.2, 0.35])],
            Work::Training => many(chance, &[0.0, 0.4, 0.28, 0.18, 0.09, 0.04, 0.01]),
        };
        let (median, spread) = match work {
            Work::Training => (5.0 * HOUR as f64, 1.1),
            Work::Inference => (1.5 * DAY as f64, 0.8),
            Work::Interactive => (1.2 * HOUR as f64, 0.9),
        };
        let seconds = ((median * (spread * chance.normal()).exp()) as i64).clamp(180, 6 * DAY);
        (work, size.min(devices * (hosts / 2).max(1)).min(devices * 64).max(1), seconds)
    }

    fn run(mut self, all: &mut Schedule) {
        let (start, horizon) = (self.world.options.start, self.world.options.horizon);
        self.first = all.jobs.len();
        for (place, host) in self.world.fabrics[self.fabric].hosts.clone().enumerate() {
            for stretch in &self.lives[host].stretches {
                if stretch.standing == Standing::Down {
                    self.events.push(Reverse((stretch.from, What::HostDown(place))));
                    self.events.push(Reverse((stretch.to, What::HostUp(place))));
                }
            }
            for (device, life) in self.lives[host].devices.iter().enumerate().take(64) {
                for trouble in life.troubles.iter().filter(|t| t.ailment != Ailment::Link) {
                    match trouble.ailment {
                        Ailment::Lost => {
                            self.events.push(Reverse((trouble.at, What::DeviceLost(place, device))));
                            self.events.push(Reverse((trouble.until, What::DeviceBack(place, device))));
                        }
                        _ => self.events.push(Reverse((trouble.at, What::DeviceLost(place, device)))),
                    }
                }
            }
        }
        self.events.push(Reverse((start, What::Arrive)));
        self.events.push(Reverse((start, What::Look)));
        while let Some(Reverse((at, what))) = self.events.pop() {
            if at >= horizon {
                break;
            }
            match what {
                What::Arrive => self.arrive(at, horizon),
                What::Look => {
                    self.look(at, &mut all.demand);
                    self.events.push(Reverse((at + DEMAND_EVERY, What::Look)));
                    continue;
                }
                What::End(job) => {
                    if self.jobs[job].ended.is_none() {
                        self.end(job, at, false);
                    }
                }
                What::HostDown(place) => {
                    self.up[place] = false;
                    self.kill(place, self.whole, at);
                }
                What::HostUp(place) => self.up[place] = true,
                What::DeviceLost(place, device) => {
                    let host = self.world.fabrics[self.fabric].hosts.start + place;
                    if self.lives[host].devices[device].ails(Ailment::Lost, at).is_some() {
                        self.there[place] &= !(1 << device);
                    }
                    self.kill(place, 1 << device, at);
                }
                What::DeviceBack(place, device) => self.there[place] |= 1 << device,
            }
            self.start_what_fits(at);
        }
        // What never began has no end.
        self.jobs.iter_mut().filter(|j| j.began.is_none()).for_each(|j| j.ended = None);
        all.jobs.append(&mut self.jobs);
    }

    fn arrive(&mut self, at: i64, horizon: i64) {
        // Thinned by the hour: asked for at the highest rate, taken by chance.
        let wait = self.chance.wait(self.rate * BUSIEST).max(1.0);
        if wait < (horizon - at) as f64 {
            self.events.push(Reverse((at + wait as i64, What::Arrive)));
        }
        if !self.chance.happens(hourly(at) / BUSIEST) {
            return;
        }
        let mut chance = Chance::of(&[self.chance.bits()]);
        let (work, accelerators, seconds) = self.draw(&mut chance);
        let (user, uid, project) = USERS[chance.below(USERS.len() as u64) as usize];
        let number = (self.fabric as u64 + 1) * 100_000 + self.jobs.len() as u64;
        let hours = (seconds as f64 / 3600.0 * chance.between(1.0, 1.6) * 4.0).ceil() / 4.0;
        let ranks = accelerators;
        self.queue.push(self.jobs.len());
        self.jobs.push(Job {
            number,
            fabric: self.fabric,
            work,
            user,
            uid,
            project,
            accelerators,
            hours,
            submitted: at,
            began: None,
            // Until it begins: how long it will run.
            ended: Some(seconds),
            killed: false,
            grants: Vec::new(),
            shape: shape(&mut chance, work, accelerators > 1),
            straggler: (ranks >= 8 && chance.happens(0.12)).then(|| chance.below(ranks as u64) as usize),
        });
    }

    fn start_what_fits(&mut self, at: i64) {
        let mut place = 0;
        let mut tried = 0;
        while place < self.queue.len() && tried < 48 {
            let number = self.queue[place];
            match self.fit(self.jobs[number].accelerators, at) {
                Some(grants) => {
                    self.queue.remove(place);
                    let first = self.world.fabrics[self.fabric].hosts.start;
                    for grant in &grants {
                        self.free[grant.host] &= !grant.devices;
                    }
                    let job = &mut self.jobs[number];
                    let seconds = job.ended.take().unwrap_or(HOUR);
                    job.began = Some(at);
                    job.grants = grants.iter().map(|g| Grant { host: first + g.host, ..*g }).collect();
                    self.running.push(number);
                    self.events.push(Reverse((at + seconds, What::End(number))));
                }
                None => {
                    place += 1;
                    tried += 1;
                }
            }
        }
    }

    /// Devices for a job, hosts counted within the fabric.
    fn fit(&self, accelerators: usize, at: i64) -> Option<Vec<Grant>> {
        let devices = self.world.options.accelerators.min(64);
        let usable = |place: usize| {
            let host = &self.world.hosts[self.world.fabrics[self.fabric].hosts.start + place];
            let open = self.up[place] && host.cordoned.is_none_or(|since| at < since);
            if open { self.free[place] & self.there[place] } else { 0 }
        };
        if accelerators >= devices {
            let need = accelerators / devices;
            let whole: Vec<usize> =
                (0..self.free.len()).filter(|place| usable(*place) == self.whole).take(need).collect();
            return (whole.len() == need)
                .then(|| whole.into_iter().map(|host| Grant { host, devices: self.whole }).collect());
        }
        // Where it leaves least: whole hosts stay whole.
        let fits = |place: &usize| usable(*place).count_ones() as usize >= accelerators;
        let place = (0..self.free.len()).filter(fits).min_by_key(|place| usable(*place).count_ones())?;
        let (mut left, mut taken) = (usable(place), 0);
        for _ in 0..accelerators {
            let bit = left & left.wrapping_neg();
            taken |= bit;
            left ^= bit;
        }
        Some(vec![Grant { host: place, devices: taken }])
    }

    fn kill(&mut self, place: usize, devices: u64, at: i64) {
        let host = self.world.fabrics[self.fabric].hosts.start + place;
        let hit = |job: &Job| job.grants.iter().any(|g| g.host == host && g.devices & devices != 0);
        let dead: Vec<usize> = self.running.iter().copied().filter(|number| hit(&self.jobs[*number])).collect();
        for number in dead {
            self.end(number, at, true);
        }
    }

    fn end(&mut self, number: usize, at: i64, killed: bool) {
        let first = self.world.fabrics[self.fabric].hosts.start;
        let job = &mut self.jobs[number];
        // A job that is killed as it begins has lasted a second all the same.
        job.ended = Some(at.max(job.began.unwrap_or(at) + 1));
        job.killed = killed;
        for grant in &job.grants {
            self.free[grant.host - first] |= grant.devices;
        }
        self.running.retain(|n| *n != number);
    }

    fn look(&self, at: i64, demand: &mut Vec<DemandAt>) {
        for work in [Work::Training, Work::Inference, Work::Interactive] {
            let of = |numbers: &'_ [usize]| -> Vec<&Job> {
                numbers.iter().map(|n| &self.jobs[*n]).filter(|j| j.work == work).collect()
            };
            let (waiting, running) = (of(&self.queue), of(&self.running));
            let sum = |jobs: &[&Job]| jobs.iter().map(|j| j.accelerators as i64).sum::<i64>();
            demand.push(DemandAt {
                at,
                fabric: self.fabric,
                class: work.class(),
                pending: waiting.len() as i64,
                running: running.len() as i64,
                pending_accelerators: sum(&waiting),
                running_accelerators: sum(&running),
                pending_hours: waiting.iter().map(|j| j.accelerators as f64 * j.hours).sum(),
                oldest_wait: waiting.iter().map(|j| at - j.submitted).max(),
            });
        }
    }
}

/// The busiest hour, compared with the mean.
const BUSIEST: f64 = 1.9;

/// How much arrives in an hour compared with the mean: people work by day, and less at weekends.
pub fn hourly(at: i64) -> f64 {
    let local = at + 8 * HOUR;
    let hour = local.rem_euclid(DAY) / HOUR;
    // 1970-01-01 was a Thursday.
    let weekend = matches!((local.div_euclid(DAY) + 3).rem_euclid(7), 5 | 6);
    let by_day = match hour {
        9..=11 | 14..=18 => 1.7,
        12 | 13 | 19..=22 => 1.2,
        8 | 23 => 0.8,
        _ => 0.35,
    };
    by_day * if weekend { 0.55 } else { 1.1 }
}

fn shape(chance: &mut Chance, work: Work, is_many: bool) -> Shape {
    let mut between = |low: f64, high: f64| exact(chance.between(low, high));
    let mut shape = match work {
        Work::Training => Shape {
            busy: between(0.86, 0.98),
            core: between(0.70, 0.92),
            tensor: between(0.30, 0.62),
            dram: between(0.35, 0.60),
            memory: between(0.70, 0.95),
            power: between(0.72, 0.93),
            traffic: if is_many { between(0.15, 0.5) } else { 0.0 },
            step: between(0.8, 6.0),
            idle: false,
        },
        Work::Inference => Shape {
            busy: between(0.30, 0.75),
            core: between(0.45, 0.75),
            tensor: between(0.15, 0.40),
            dram: between(0.30, 0.65),
            memory: between(0.80, 0.93),
            power: between(0.30, 0.60),
            traffic: if is_many { between(0.02, 0.12) } else { 0.0 },
            step: between(0.05, 0.4),
            idle: false,
        },
        Work::Interactive => Shape {
            busy: between(0.06, 0.40),
            core: between(0.30, 0.60),
            tensor: between(0.05, 0.30),
            dram: between(0.10, 0.35),
            memory: between(0.10, 0.50),
            power: between(0.05, 0.30),
            traffic: 0.0,
            step: between(0.5, 3.0),
            idle: false,
        },
    };
    if work == Work::Interactive && chance.happens(0.15) {
        shape = Shape { busy: 0.0, core: 0.0, tensor: 0.0, dram: 0.0, power: 0.0, idle: true, ..shape };
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failures::host_life;
    use crate::world::Options;

    fn fleet() -> (World, Vec<HostLife>, Schedule) {
        let world = World::new(Options::around(5, 60, 8, 1_790_000_000, 30));
        let lives: Vec<HostLife> = world.hosts.iter().map(|h| host_life(&world, h)).collect();
        let schedule = schedule(&world, &lives);
        (world, lives, schedule)
    }

    #[test]
    fn no_device_has_two_jobs_and_none_runs_on_a_host_that_is_down() {
        let (world, lives, schedule) = fleet();
        let mut busy = 0;
        for (host, devices) in schedule.uses.iter().enumerate() {
            for (device, uses) in devices.iter().enumerate() {
                assert!(uses.windows(2).all(|w| w[0].to <= w[1].from), "{host}/{device}");
                for a_use in uses {
                    busy += a_use.to - a_use.from;
                    let middle = (a_use.from + a_use.to) / 2;
                    assert_ne!(lives[host].standing(middle), Standing::Down);
                    assert!(lives[host].devices[device].ails(Ailment::Lost, middle).is_none());
                }
            }
        }
        let life = (world.options.horizon - world.options.start) as f64 * 480.0;
        let share = busy as f64 / life;
        assert!((0.5..0.97).contains(&share), "{share} of all time is allocated");
    }

    #[test]
    fn a_longer_future_leaves_the_past_as_it_was() {
        let (world, _, schedule_) = fleet();
        let longer = World::new(Options { horizon: world.options.horizon, ..world.options.clone() });
        let lives: Vec<HostLife> = longer.hosts.iter().map(|h| host_life(&longer, h)).collect();
        assert_eq!(schedule(&longer, &lives), schedule_);
        assert!(schedule_.jobs.iter().any(|j| j.accelerators >= 16));
        assert!(schedule_.demand.iter().any(|d| d.pending > 0));
    }
}
