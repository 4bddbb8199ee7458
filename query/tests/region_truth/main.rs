//! Operators' questions over a whole region, each beside what is true of it.
//!
//! The region is the one that `nodescope simulate` makes: thirty days of hours, a day of minutes, ten minutes of raw rows.
//! Its truth is calculated from what befell its hosts, who held what and what was registered: plain loops, no row, no SQL.
//! What the server cannot know is not asked of it: where nobody told, the loops say that nobody told. Every column is
//! compared that the simulation has the facts for, every whole number exactly, floats to a billionth.
//!
//! A small region is checked by default. Another is chosen by variables of the environment ([`region::Choice`]), a large one
//! too:
//!
//! ```sh
//! nodescope simulate --hosts 2000 --history 30d --store /data/fleet
//! NODESCOPE_TEST_REGION_STORE=/data/fleet NODESCOPE_TEST_REGION_RUNS=5 \
//!   cargo test --release -p nodescope-query --test region_truth every_answer -- --nocapture
//! ```
//!
//! What each question took is printed, and judged by whoever reads it.
#![allow(unreachable_pub, reason = "modules of a test")]

mod available;
mod devices;
mod energy;
mod failures;
mod held;
mod hosts;
mod hours;
mod jobs;
mod links;
mod money;
#[path = "../support/numbers.rs"]
mod numbers;
mod region;
mod registered;
#[path = "../questions_b/store.rs"]
#[allow(dead_code, reason = "shared with other tests, which use all of it")]
mod store;
mod telemetry;

use std::time::{Duration, Instant};

use region::{Choice, Region};
use store::{Row, differences, rows_of};

/// A question, and what is true.
pub struct Answer {
    /// Which of the operators' questions.
    pub question: &'static str,
    /// How it is asked.
    pub sql: String,
    /// Columns by which rows are matched.
    pub key: &'static [&'static str],
    /// What is true, in the columns that truth has.
    pub expected: Vec<Row>,
    /// By how much of themselves floats may differ.
    pub tolerance: f64,
}

impl Answer {
    /// To a billionth.
    pub fn new(question: &'static str, sql: &str, key: &'static [&'static str], expected: Vec<Row>) -> Self {
        Self { question, sql: sql.to_owned(), key, expected, tolerance: 1e-9 }
    }

    /// To so much of itself, where the server's own arithmetic is no better.
    #[must_use]
    pub fn within(self, tolerance: f64) -> Self {
        Self { tolerance, ..self }
    }
}

/// Everything that is asked, with what is true.
fn answers(region: &Region) -> Vec<Answer> {
    let mut all = Vec::new();
    all.push(devices::capacity_now(region));
    all.push(hours::utilization(region));
    all.extend(available::availability(region));
    all.push(devices::stranded(region));
    all.extend(hosts::hosts_for(region));
    all.extend(failures::failures(region));
    all.push(failures::risk(region));
    all.push(available::idle_online(region));
    all.push(links::matrix(region));
    all.extend(energy::efficiency(region));
    all.push(hours::demand_gap(region));
    all.push(registered::measured(region));
    all.push(telemetry::health(region));
    all.push(jobs::stragglers(region));
    all.push(links::fabric(region));
    all.push(energy::throttled(region));
    all.extend(energy::vendors(region));
    all.extend(hours::forecast(region));
    all.push(money::metering(region));
    all.push(registered::drift(region));
    all
}

#[allow(clippy::print_stdout, reason = "how long it took is for people")]
async fn check(choice: &Choice) -> Vec<String> {
    let region = Region::open(choice).await;
    let asked = Instant::now();
    let all = tokio::task::block_in_place(|| answers(&region));
    println!("{}: what is true took {:.1?}", region.name(), asked.elapsed());
    let mut wrong = Vec::new();
    for Answer { question, sql, key, expected, tolerance } in all {
        let mut times: Vec<Duration> = Vec::new();
        let mut batches = Vec::new();
        for _ in 0..choice.runs {
            let began = Instant::now();
            batches = region.asked.batches(&sql, Some(region.now * 1_000_000)).await;
            times.push(began.elapsed());
        }
        times.sort();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        let got = rows_of(&sql, &batches);
        let found = differences(&format!("{question}: {sql}"), key, &got, &expected, tolerance);
        let columns: usize = expected.iter().map(Row::len).max().unwrap_or(0);
        println!(
            "{question:4} {:8.3} s, at most {:8.3} s, {:6} rows, {columns:2} columns, {:4} wrong: {sql}",
            median.as_secs_f64(),
            worst.as_secs_f64(),
            got.len(),
            found.len(),
        );
        wrong.extend(found.into_iter().take(3));
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_what_is_true_of_the_region() {
    let wrong = check(&Choice::by_environment()).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Seeds, hosts, how often things fail, ends of the history, and seconds from there until questions are asked.
const OTHERS: [(u64, usize, f64, i64, i64); 8] = [
    // Sunday 2026-03-07T22:37Z, morning in Beijing: a host is down for announced work. A port without a line.
    (2333, 36, 60.0, 1_772_923_020, 0),
    (657, 36, 60.0, 1_772_921_400, 11),
    // Monday 2026-03-02T16:00:00Z, midnight in Beijing. A Saturday at 10:01 there.
    (8, 24, 6.0, 1_772_467_200, 0),
    (9, 40, 1.0, 1_772_848_877, 59),
    // 2026-03-04T00:00:00Z, and a minute later. A Friday afternoon, and a Sunday a second before an hour is over.
    (10, 24, 20.0, 1_772_582_400, 0),
    (11, 24, 200.0, 1_772_582_460, 1),
    (12, 64, 10.0, 1_772_785_999, 31),
    (13, 16, 60.0, 1_772_913_599, 7),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: cargo test -p nodescope-query --test region_truth -- --ignored"]
async fn at_other_hours_and_of_other_fleets() {
    let mut wrong = Vec::new();
    for (seed, hosts, failures, until, after) in OTHERS {
        wrong.extend(check(&Choice { seed, hosts, failures, until, after, ..Choice::default() }).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
