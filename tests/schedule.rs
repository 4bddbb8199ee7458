//! The schedule as a process: killed again and again, every window has run once; and there is only one of it.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nodescope_store::Store;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::Client;

use support::killing::seed;
use support::scheduled::{self, Known, now_us, schedule};
use support::{PATIENCE, Site, connect, until};

/// How often the schedule is killed.
const KILLS: usize = 25;

/// What the rule of this test fills.
const TALLY: &str = r#"
table = "tally"
comment = "Numbers of a second."
entity = []
column = [
    { name = "numbers", type = "int", kind = "gauge", unit = "1", help = "How many." },
    { name = "total", type = "int", kind = "gauge", unit = "1", help = "Their sum." },
    { name = "revision", type = "int", kind = "label", help = "Which run." },
]
"#;

const RULE: &str = r#"/*
title = "Numbers of a second"
every = "1s"
wait = "2s"
sink = "table:tally"
*/
SELECT $from AS ts, node, host, count(*) AS numbers, sum(number) AS total FROM known
WHERE ts >= $from AND ts < $to GROUP BY node, host"#;

fn site() -> (Site, Store) {
    let settings = [("NODESCOPE_SCHEDULE_BACKFILL", "0s".to_owned())];
    scheduled::site(&[("by_second.sql", RULE)], &[("tally.toml", TALLY)], &settings)
}

/// A program that writes numbers into the store, with the time at which it does.
struct Source {
    known: Known,
    /// Numbers and their sum, by second.
    sent: BTreeMap<i64, (i64, i64)>,
}

impl Source {
    async fn new(store: &Store) -> Self {
        Self { known: Known::new(store).await, sent: BTreeMap::new() }
    }

    async fn send(&mut self, ts_micros: i64) {
        let number = self.known.next;
        self.known.write(ts_micros, &["h"], "").await;
        let second = self.sent.entry(ts_micros.div_euclid(1_000_000)).or_default();
        *second = (second.0 + 1, second.1 + number);
    }
}

/// Numbers and sums by second, of the newest run of each.
async fn tallies(client: &Client) -> BTreeMap<i64, (i64, i64)> {
    let sql = "select extract(epoch from ts)::bigint, numbers, total from tally t \
               where revision = (select max(revision) from tally n where n.ts = t.ts)";
    let rows = client.query(sql, &[]).await.expect("an answer");
    let tallies: BTreeMap<_, _> = rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    assert_eq!(tallies.len(), rows.len(), "a window's rows are there twice");
    tallies
}

/// Ends of windows, in seconds, with the revisions that ran of each.
async fn runs(client: &Client) -> BTreeMap<i64, Vec<i64>> {
    let sql = "select window_microseconds / 1000000, revision from schedule_run where state = 'done' order by 1, 2";
    let mut runs: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for row in client.query(sql, &[]).await.expect("an answer") {
        runs.entry(row.get(0)).or_default().push(row.get(1));
    }
    runs
}

/// Each window from the first to the last once, in revisions 0, 1, 2 and so on.
fn assert_gapless(runs: &BTreeMap<i64, Vec<i64>>) {
    let (first, last) = (*runs.keys().next().expect("a run"), *runs.keys().last().expect("a run"));
    for end in first..=last {
        let revisions = runs.get(&end).unwrap_or_else(|| panic!("the window that ends at {end} was left out"));
        let wanted: Vec<i64> = (0..).take(revisions.len()).collect();
        assert_eq!(*revisions, wanted, "the window that ends at {end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_every_window_runs_once() {
    let (site, store) = site();
    let mut random = StdRng::seed_from_u64(seed());
    let mut source = Source::new(&store).await;
    source.send(now_us()).await;
    let mut process = schedule(&site);
    let mut kills = 0;
    let mut kill_at = Instant::now() + Duration::from_secs(2);
    while kills < KILLS {
        source.send(now_us()).await;
        // Random moments are the point here.
        tokio::time::sleep(Duration::from_millis(random.random_range(1..60))).await;
        if Instant::now() >= kill_at {
            process.kill();
            process = schedule(&site);
            kills += 1;
            kill_at = Instant::now() + Duration::from_millis(random.random_range(50..1500));
        }
    }
    let (_query, address) = site.query();
    let client = connect(address).await;
    let last = now_us() / 1_000_000 + 1;
    let done = "select max(window_microseconds) / 1000000 from schedule_run where state = 'done'";
    until(&client, done, |end| end > last).await;
    let begun = "select max(window_microseconds) / 1000000 from schedule_run where state = 'begun'";
    let begun = support::number(&client, begun).await.expect("it began");
    let ran = runs(&client).await;
    assert_gapless(&ran);
    assert_eq!(ran.keys().next(), Some(&(begun + 1)), "the first window is the first after it was first seen");
    let expected: BTreeMap<_, _> = source.sent.iter().filter(|(s, _)| **s >= begun).map(|(s, n)| (*s, *n)).collect();
    assert_eq!(tallies(&client).await, expected, "a single pass over all rows gives the same");
    assert!(ran.values().all(|revisions| revisions.len() == 1), "nothing came late: {ran:?}");

    // Now rows come late for some of these windows, and the schedule is killed while it does what it must.
    let seconds: Vec<i64> = expected.keys().copied().collect();
    for at in (0..seconds.len()).step_by(3) {
        source.send(seconds[at] * 1_000_000 + 7).await;
    }
    tokio::time::sleep(Duration::from_millis(random.random_range(0..3000))).await;
    process.kill();
    let mut process = schedule(&site);
    let expected: BTreeMap<_, _> = source.sent.iter().filter(|(s, _)| **s >= begun).map(|(s, n)| (*s, *n)).collect();
    let began = Instant::now();
    while tallies(&client).await != expected {
        assert!(began.elapsed() < PATIENCE, "late rows are not in their windows");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_gapless(&runs(&client).await);
    assert!(process.interrupt().success(), "Ctrl-C is a clean end");
    println!("{kills} kills; {} windows; {} numbers", ran.len(), source.known.next);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_schedules_one_stops_and_says_why() {
    let (site, store) = site();
    let mut source = Source::new(&store).await;
    source.send(now_us()).await;
    let mut one = schedule(&site);
    let mut two = schedule(&site);
    let began = Instant::now();
    while one.runs() && two.runs() {
        source.send(now_us()).await;
        assert!(began.elapsed() < PATIENCE, "two schedules run on one store");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut stopped, mut left) = if one.runs() { (two, one) } else { (one, two) };
    assert!(!stopped.ended().success());
    let log = std::fs::read_to_string(site.folder.path().join("schedule.log")).expect("a log");
    assert!(log.contains("another schedule writes to this store"), "{log}");
    // The other goes on, and nothing was left out or done twice.
    let (_query, address) = site.query();
    let client = connect(address).await;
    let before = now_us() / 1_000_000;
    let done = "select max(window_microseconds) / 1000000 from schedule_run where state = 'done'";
    until(&client, done, |end| end > before).await;
    assert!(left.runs());
    assert_gapless(&runs(&client).await);
    tallies(&client).await;
}
