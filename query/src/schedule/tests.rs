//! Schedules on a store in memory, round by round, at times that the test gives.

use std::collections::BTreeMap;

use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use nodescope_model::catalogue::Catalogue;
use nodescope_model::rows::{Rows, Stamp};
use nodescope_store::Store;
use nodescope_store::cut::Reader;
use object_store::ObjectStoreExt;
use prometheus_client::registry::Registry;

use super::*;
use crate::alerts::Outlets;
use crate::definition::{Definition, Purpose};
use crate::engine::Spill;
use crate::limits::Limits;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;

/// What the rules of these tests fill.
fn tally(name: &str) -> String {
    format!(
        r#"
        table = "{name}"
        comment = "Samples of a minute or more."
        entity = []
        [[column]]
        name = "samples"
        type = "int"
        kind = "gauge"
        unit = "1"
        help = "Samples."
        [[column]]
        name = "total"
        type = "int"
        kind = "gauge"
        unit = "1"
        help = "Their sum."
        [[column]]
        name = "revision"
        type = "int"
        kind = "label"
        help = "Which run."
        "#
    )
}

fn store() -> Store {
    let (one, two) = (tally("tally_1m"), tally("tally_1h"));
    let catalogue = Catalogue::with_texts(&[("one.toml", &one), ("two.toml", &two)]).unwrap();
    Store::new(Arc::new(object_store::memory::InMemory::new()), Arc::new(catalogue), "memory:")
}

/// A program that sends samples, at seconds.
struct Source(Journal);

impl Source {
    async fn new(store: &Store) -> Self {
        let mut source = Self(Journal::open(store, "journal.source").await.unwrap());
        // So that the partition is there before anybody looks.
        source.send(store, &[0]).await;
        source
    }

    async fn send(&mut self, store: &Store, seconds: &[i64]) {
        let table = store.catalogue().get("memory").unwrap();
        let mut rows = Rows::new(table);
        let batches = seconds.iter().map(|second| {
            rows.begin().int("total_bytes", *second);
            rows.finish(&Stamp { ts_micros: second * SECOND, node: "n", host: "h" })
        });
        let batches = batches.collect();
        self.0.append(vec![(Arc::clone(table), batches)]).await.unwrap();
    }
}

fn rule(name: &str, head: &str, sql: &str) -> Definition {
    let text = format!("/* title = \"x\"\nwait = \"10s\"\n{head} */ {sql}");
    Definition::parse(name, &text, Purpose::Rule).unwrap_or_else(|e| panic!("{e}"))
}

fn by_minute() -> Definition {
    rule(
        "by_minute",
        "every = \"1m\"\nsink = \"table:tally_1m\"",
        "SELECT $from AS ts, node, host, count(*) AS samples, sum(total_bytes) AS total FROM memory \
         WHERE ts >= $from AND ts < $to GROUP BY node, host",
    )
}

fn by_hour() -> Definition {
    rule(
        "by_hour",
        "every = \"1h\"\nsink = \"table:tally_1h\"",
        "SELECT $from AS ts, t.node, t.host, sum(samples) AS samples, sum(total) AS total FROM tally_1m t \
         JOIN (SELECT ts, max(revision) AS newest FROM tally_1m GROUP BY 1) n ON n.ts = t.ts AND n.newest = t.revision \
         WHERE t.ts >= $from AND t.ts < $to GROUP BY t.node, t.host",
    )
}

async fn open(store: &Store, rules: Vec<Definition>, now_us: i64) -> Result<Schedule, ScheduleError> {
    let spill = Spill { folder: None, bytes: 1 << 30 };
    let engine = Arc::new(Engine::new(Reader::new(store.clone(), 1 << 20), Limits::default(), spill).unwrap());
    let rules = rules::plan(&engine, rules).await.unwrap_or_else(|e| panic!("{e}"));
    let settings = ScheduleSettings {
        enabled: true,
        rules: Vec::new(),
        own: BTreeSet::new(),
        concurrency: 2,
        backfill: Duration::ZERO,
        catch_up: Duration::from_secs(86_400),
        node: "n".into(),
        http_address: ([127, 0, 0, 1], 0).into(),
    };
    let sinks = Sinks { catalogue: Arc::clone(store.catalogue()), node: "n".into(), outlets: Outlets::default() };
    let metrics = ScheduleMetrics::register(&mut Registry::default());
    Schedule::open(engine, rules, &sinks, &settings, metrics, now_us).await
}

impl Schedule {
    /// Everything that there is to do at that time.
    async fn until_idle(&mut self, now_us: i64) {
        loop {
            self.looked_at = None;
            self.engine.reader().look_anew().await.unwrap();
            self.round(now_us).await.unwrap();
            if self.tasks.is_empty() {
                return;
            }
            self.drain().await.unwrap();
        }
    }
}

/// A table's column by another, of rows that pass.
async fn numbers(store: &Store, sql: &str) -> Vec<Vec<i64>> {
    let spill = Spill { folder: None, bytes: 1 << 30 };
    let engine = Engine::new(Reader::new(store.clone(), 1 << 20), Limits::default(), spill).unwrap();
    let batches = engine.own(sql, &[]).await.unwrap().collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in batches {
        for at in 0..batch.num_rows() {
            let cell = |column: usize| batch.column(column).as_primitive::<Int64Type>().value(at);
            rows.push((0..batch.num_columns()).map(cell).collect());
        }
    }
    rows
}

/// Runs of a rule by window (in minutes), as revision and state `done`.
async fn runs(store: &Store, rule: &str) -> BTreeMap<i64, Vec<i64>> {
    let sql = format!(
        "SELECT window_microseconds / 60000000, revision FROM schedule_run WHERE rule = '{rule}' AND state = 'done' \
         ORDER BY 1, 2"
    );
    let mut runs: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for row in numbers(store, &sql).await {
        runs.entry(row[0]).or_default().push(row[1]);
    }
    runs
}

/// The newest revision of each window of a tally: minute it starts at, samples, total.
async fn tallies(store: &Store, table: &str) -> Vec<Vec<i64>> {
    let sql = format!(
        "SELECT CAST(extract(epoch FROM ts) AS BIGINT) / 60, samples, total FROM {table} t WHERE revision = \
         (SELECT max(revision) FROM {table} n WHERE n.ts = t.ts) ORDER BY 1"
    );
    numbers(store, &sql).await
}

fn expected(seconds: &[i64], minutes: i64) -> Vec<Vec<i64>> {
    let mut by: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for second in seconds {
        let entry = by.entry(second.div_euclid(60 * minutes) * minutes).or_default();
        entry.0 += 1;
        entry.1 += second;
    }
    by.into_iter().map(|(minute, (samples, total))| vec![minute, samples, total]).collect()
}

#[tokio::test]
async fn every_window_runs_once_wherever_a_restart_falls() {
    let store = store();
    let mut source = Source::new(&store).await;
    let sent: Vec<i64> = (60..1200).step_by(7).collect();
    source.send(&store, &sent).await;
    let mut schedule = open(&store, vec![by_minute()], MINUTE).await.unwrap();
    for now in [70, 129, 130, 400, 401, 520, 1211] {
        schedule.until_idle(now * SECOND).await;
        if now != 400 {
            schedule = open(&store, vec![by_minute()], now * SECOND).await.unwrap();
        }
    }
    assert_eq!(runs(&store, "by_minute").await, (2..=20).map(|minute| (minute, vec![0])).collect());
    assert_eq!(tallies(&store, "tally_1m").await, expected(&sent, 1));
}

#[tokio::test]
async fn a_rule_that_waits_for_its_first_window_begins_where_it_was_first_seen() {
    let store = store();
    Source::new(&store).await;
    open(&store, vec![by_minute()], 59 * SECOND).await.unwrap();
    let mut schedule = open(&store, vec![by_minute()], 65 * SECOND).await.unwrap();
    schedule.until_idle(75 * SECOND).await;
    assert_eq!(runs(&store, "by_minute").await.into_keys().collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn after_late_rows_a_rollup_is_that_of_all_rows() {
    let store = store();
    let mut source = Source::new(&store).await;
    let mut sent: Vec<i64> = (7200..14400).step_by(13).collect();
    let late = sent.split_off(200);
    let (late, lost) = (late[..300].to_vec(), late[300..].to_vec());
    source.send(&store, &sent).await;
    let rules = || vec![by_hour(), by_minute()];
    let mut schedule = open(&store, rules(), 7200 * SECOND).await.unwrap();
    let now = 14_500 * SECOND;
    schedule.until_idle(now).await;
    assert_eq!(
        runs(&store, "by_hour").await,
        BTreeMap::from([(180, vec![0]), (240, vec![0])]),
        "hours wait for minutes"
    );
    assert_eq!(tallies(&store, "tally_1h").await, expected(&sent, 60));

    // Late rows come in two segments, and the schedule is killed after it has seen the first.
    source.send(&store, &late[..150]).await;
    schedule.until_idle(now + SECOND).await;
    assert_eq!(schedule.lanes[1].marks.len(), 33, "as many minutes as the rows are in");
    let mut schedule = open(&store, rules(), now).await.unwrap();
    source.send(&store, &late[150..]).await;
    schedule.until_idle(now + 2 * SECOND).await;
    sent.extend(&late);
    // Minutes once their rows seem to have come, hours after them.
    schedule.until_idle(now + 20 * SECOND).await;
    assert_eq!(tallies(&store, "tally_1m").await, expected(&sent, 1));
    schedule.until_idle(now + 40 * SECOND).await;
    assert_eq!(tallies(&store, "tally_1h").await, expected(&sent, 60));
    let hours = runs(&store, "by_hour").await;
    assert_eq!(hours, BTreeMap::from([(180, vec![0, 1]), (240, vec![0, 1])]));
    let minutes = runs(&store, "by_minute").await;
    assert!(minutes.values().all(|runs| runs[0] == 0 && runs.len() <= 2), "{minutes:?}");
    assert!(minutes.values().filter(|runs| runs.len() == 2).count() < 70, "only those that had late rows run again");
    assert_eq!(schedule.lanes.iter().map(|lane| lane.marks.len()).sum::<usize>(), 0);

    // A second time: revisions go on.
    source.send(&store, &lost).await;
    sent.extend(&lost);
    for step in [1, 20, 40] {
        schedule.until_idle(now + (100 + step) * SECOND).await;
    }
    assert_eq!(tallies(&store, "tally_1h").await, expected(&sent, 60));
    assert_eq!(runs(&store, "by_hour").await[&240], [0, 1, 2]);
}

#[tokio::test]
async fn what_came_and_went_while_nobody_looked_is_not_forgotten() {
    let store = store();
    let mut source = Source::new(&store).await;
    let mut sent: Vec<i64> = (60..600).step_by(5).collect();
    source.send(&store, &sent).await;
    let mut schedule = open(&store, vec![by_minute()], MINUTE).await.unwrap();
    schedule.until_idle(700 * SECOND).await;
    drop(schedule);
    // Late rows come, are sealed, and their segments go.
    source.send(&store, &[61, 62, 301]).await;
    sent.extend([61, 62, 301]);
    let partition = source.0.partition().clone();
    let recovered = store.recover(&partition).await.unwrap();
    let segments: Vec<_> = recovered.segments.into_iter().map(Arc::new).collect();
    nodescope_store::seal::Sealer::new(store.clone()).seal(&segments).await.unwrap();
    store.note_taken(&partition, source.0.next(), &recovered.taken).await.unwrap();
    for segment in &segments {
        store.objects().delete(&segment.path()).await.unwrap();
    }
    source.send(&store, &[900]).await;
    let mut schedule = open(&store, vec![by_minute()], 701 * SECOND).await.unwrap();
    schedule.until_idle(702 * SECOND).await;
    schedule.until_idle(720 * SECOND).await;
    assert_eq!(tallies(&store, "tally_1m").await, expected(&sent, 1));
    // Which windows were concerned is not known, so all ran again, and none before the first.
    assert_eq!(runs(&store, "by_minute").await, (2..=11).map(|minute| (minute, vec![0, 1])).collect());
}

#[tokio::test]
async fn rows_older_than_restated_are_left_alone() {
    let store = store();
    let mut source = Source::new(&store).await;
    let definition = rule(
        "by_minute",
        "every = \"1m\"\nsink = \"table:tally_1m\"\nrestate = \"5m\"",
        "SELECT $from AS ts, node, host, count(*) AS samples FROM memory WHERE ts >= $from AND ts < $to GROUP BY 2, 3",
    );
    let mut schedule = open(&store, vec![definition], 0).await.unwrap();
    schedule.until_idle(610 * SECOND).await;
    source.send(&store, &[10, 400]).await;
    schedule.until_idle(611 * SECOND).await;
    schedule.until_idle(630 * SECOND).await;
    let runs = runs(&store, "by_minute").await;
    assert_eq!((runs[&1].len(), runs[&7].len(), runs[&8].len()), (1, 2, 1));
}

#[tokio::test]
async fn of_two_schedules_the_second_to_append_stops_and_has_written_nothing() {
    let store = store();
    let mut source = Source::new(&store).await;
    source.send(&store, &[61, 62]).await;
    let mut one = open(&store, vec![by_minute()], MINUTE).await.unwrap();
    let mut two = open(&store, vec![by_minute()], MINUTE).await.unwrap();
    one.until_idle(130 * SECOND).await;
    two.round(130 * SECOND).await.unwrap();
    let refused = two.drain().await.unwrap_err();
    assert!(matches!(refused, ScheduleError::Fenced(_)), "{refused}");
    assert!(refused.to_string().contains("another schedule"), "{refused}");
    assert_eq!(runs(&store, "by_minute").await, BTreeMap::from([(2, vec![0])]));
    assert_eq!(tallies(&store, "tally_1m").await, [[1, 2, 123]]);
}

#[tokio::test]
async fn a_rule_that_fails_is_tried_again_and_holds_up_no_other() {
    let store = store();
    let mut source = Source::new(&store).await;
    source.send(&store, &[61, 121, 181]).await;
    // It fails on the second minute: something is divided by zero there.
    let failing = rule(
        "failing",
        "every = \"1m\"\nsink = \"table:tally_1h\"",
        "SELECT $from AS ts, node, host, 1 / (total_bytes - 121) AS samples FROM memory WHERE ts >= $from AND ts < $to",
    );
    let mut schedule = open(&store, vec![failing, by_minute()], MINUTE).await.unwrap();
    schedule.until_idle(300 * SECOND).await;
    assert_eq!(runs(&store, "by_minute").await.into_keys().collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(runs(&store, "failing").await.into_keys().collect::<Vec<_>>(), [2]);
    let failed =
        "SELECT count(*) FROM schedule_run WHERE rule = 'failing' AND state = 'failed' AND error LIKE '%zero%'";
    assert_eq!(numbers(&store, failed).await, [[1]]);
    schedule.until_idle(300 * SECOND + SECOND / 2).await;
    assert_eq!(numbers(&store, failed).await, [[1]], "not at once");
    // Every pause is longer than the one before, and an hour later it is passed over.
    let mut now = 300 * SECOND;
    for tries in 2..=5 {
        now += pause_us(tries) * 2;
        schedule.until_idle(now).await;
        assert_eq!(numbers(&store, failed).await, [[i64::from(tries)]]);
    }
    schedule.until_idle(3_900 * SECOND).await;
    let runs = runs(&store, "failing").await;
    assert_eq!((runs.get(&3), runs.get(&4)), (None, Some(&vec![0])));
}

#[tokio::test]
async fn a_schedule_that_was_off_for_long_begins_anew_and_says_so() {
    let store = store();
    Source::new(&store).await;
    let mut schedule = open(&store, vec![by_minute()], MINUTE).await.unwrap();
    schedule.until_idle(130 * SECOND).await;
    let later = 2 * 86_400 * SECOND;
    let schedule = open(&store, vec![by_minute()], later).await.unwrap();
    assert_eq!(schedule.lanes[0].ended_us, 86_400 * SECOND);
    let begun = "SELECT window_microseconds / 60000000 FROM schedule_run WHERE state = 'begun' ORDER BY 1";
    assert_eq!(numbers(&store, begun).await, [[1], [1440]]);
    let schedule = open(&store, vec![by_minute()], later).await.unwrap();
    assert_eq!(schedule.lanes[0].ended_us, 86_400 * SECOND);
    assert_eq!(numbers(&store, begun).await.len(), 2);
}

#[tokio::test]
async fn late_rows_without_end_leave_room_for_what_is_due() {
    let store = store();
    let mut source = Source::new(&store).await;
    let names = ["a", "b", "c", "d"];
    let rules = || names.map(|name| Definition { name: name.to_owned(), ..by_minute() }).into();
    let mut schedule = open(&store, rules(), MINUTE).await.unwrap();
    schedule.until_idle(1_000 * SECOND).await;
    source.send(&store, &(60..900).collect::<Vec<_>>()).await;
    schedule.looked_at = None;
    schedule.round(1_000 * SECOND).await.unwrap();
    schedule.round(1_015 * SECOND).await.unwrap();
    assert_eq!((schedule.running, schedule.repeating), (1, 1), "one of two places is kept free");
    schedule.round(1_035 * SECOND).await.unwrap();
    assert_eq!((schedule.running, schedule.repeating), (2, 1));
    schedule.until_idle(1_035 * SECOND).await;
    assert_eq!((schedule.running, schedule.repeating), (0, 0));
    for name in names {
        assert!(runs(&store, name).await.contains_key(&17), "{name}");
    }
}
