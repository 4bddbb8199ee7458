//! Who held which accelerator, as it was told: what the schedule says, as far as somebody was there to say it.
//!
//! An agent tells of what is held when it begins, every hour, and when it has been away and is back; and of its end.
//! While it is away nobody hears of it. Of a time whose end was not told it is known that it lasted to the newest row;
//! one that was told of in the last hour, or in the two minutes before it that may be on their way, is taken to last.

use nodescope_simulate::failures::Standing;
use nodescope_simulate::world::HOUR;

use crate::region::Region;

#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Index of the job.
    pub job: usize,
    pub from: i64,
    pub to: i64,
    /// Whether it is taken to be held now.
    pub is_open: bool,
    /// Whether nobody told of its end, though it is over.
    pub is_end_unknown: bool,
}

/// The times of a device that are known, in their order.
pub fn held(region: &Region, host: usize, device: usize) -> Vec<Held> {
    let life = &region.fleet.lives[host];
    let horizon = region.fleet.world.options.horizon;
    let mut all = Vec::new();
    for its in region.fleet.schedule.uses[host][device].iter().take_while(|its| its.from < region.end) {
        let over = life.heard(its.to).filter(|heard| its.to < horizon && *heard < region.end);
        if over.is_some() {
            all.push(Held { job: its.job, from: its.from, to: its.to, is_open: false, is_end_unknown: false });
            continue;
        }
        let mut told = vec![its.from];
        told.extend((its.from / HOUR..=region.end / HOUR).map(|hour| hour * HOUR));
        told.extend(life.stretches.iter().map(|s| s.from));
        let is_told = |at: &i64| its.from <= *at && *at < its.to.min(region.end) && life.standing(*at) == Standing::Up;
        if let Some(newest) = told.into_iter().filter(is_told).max() {
            let is_open = newest >= region.fresh_since() - HOUR;
            let to = if is_open { region.now } else { newest };
            all.push(Held { job: its.job, from: its.from, to, is_open, is_end_unknown: !is_open });
        }
    }
    // A row alone says of no time.
    all.retain(|held| held.from < held.to);
    all
}
