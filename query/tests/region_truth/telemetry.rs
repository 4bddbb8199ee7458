//! Q13: whether what hosts tell arrives, whole and in time.

use nodescope_simulate::agents::lag;
use nodescope_simulate::failures::Standing;
use nodescope_simulate::world::MINUTE;
use serde_json::json;

use crate::Answer;
use crate::hosts::{agent_seen, host_state};
use crate::region::Region;
use crate::store::{Row, row};

/// Records that wait in the spool of an agent for each second that it lags.
const WAITING: i64 = 12;

pub fn health(region: &Region) -> Answer {
    // The sixty whole minutes that ended two minutes ago, as far as minutes are there.
    let this = region.now.div_euclid(MINUTE) * MINUTE;
    let (from, to) = (this - 62 * MINUTE, (this - 2 * MINUTE).min(region.end));
    let of_host = |host: usize| -> Row {
        let it = &region.fleet.world.hosts[host];
        let is_up = |at: i64| region.fleet.lives[host].standing(at) == Standing::Up;
        let (every_agent, every_system) = (region.every("agent"), region.every("system"));
        // Rows that came of one series, and those that there would be in an hour; none where nothing came.
        let rows = |every: i64, is_told: &dyn Fn(i64) -> bool| -> Option<(i64, i64)> {
            let came = (from..to).filter(|at| at % every == 0 && is_told(*at)).count() as i64;
            (came > 0).then_some((came, 60 * MINUTE / every))
        };
        let mut series = vec![rows(every_agent, &is_up), rows(every_system, &is_up)];
        for device in 0..it.devices.len() {
            let came = region.rows_of(host, device, from, to);
            series.push((came > 0).then_some((came, 60 * MINUTE / region.every("accelerator"))));
        }
        let (came, due) = series.iter().flatten().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let minutes = (from..to).step_by(MINUTE as usize);
        let told = minutes.filter(|minute| (*minute..minute + MINUTE).any(|at| at % every_agent == 0 && is_up(at)));
        let seen = agent_seen(region, host);
        // What is fresh, the agent says of itself.
        let fresh = seen.filter(|at| *at >= region.fresh_since());
        let late = fresh.map(|at| lag(&region.fleet, it, at));
        row(json!({
            "node": region.node(host), "host": it.name, "state": host_state(region, host),
            "last_seen": seen.map(|at| at * 1_000_000), "age_seconds": seen.map(|at| (region.now - at) as f64),
            "expected_rows": (due > 0).then_some(due as f64), "received_rows": came,
            "completeness_ratio": (due > 0).then(|| (came as f64 / due as f64).min(1.0)),
            "missing_minutes": 60 - told.count(), "late_minutes": 0, "lost_records": 0,
            "retried_records": region.fleet.retried_records(host, every_agent, from, to),
            "waiting_records": late.map(|late| late * WAITING), "lag_seconds": late.map(|late| late as f64),
            "failing_probes": fresh.map(|_| 0), "clock_offset_seconds": fresh.map(|_| -0.000_012),
        }))
    };
    Answer::new("Q13", "SELECT * FROM telemetry_health", &["node", "host"], region.each_host(of_host))
}
