use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use nodescope_model::rows::{Rows, Stamp};
use nodescope_store::Store;
use nodescope_store::cut::Reader;
use nodescope_store::journal::Journal;
use nodescope_store::seal::Sealer;
use proptest::prelude::*;

use super::*;
use crate::engine::{Engine, Spill};
use crate::limits::Limits;
use crate::schedule::run::Run;
use crate::schedule::sink::{Sink, TableSink};
use crate::schedule::windows::Grid;

const SITE: &str = r#"
    table = "pump"
    every = "10s"
    comment = "Pumps."
    entity = ["index"]
    [[column]]
    name = "index"
    type = "text"
    kind = "label"
    help = "Which; a word of SQL."
    [[column]]
    name = "maker"
    type = "text"
    kind = "label"
    help = "Who made it."
    [[column]]
    name = "level"
    type = "int"
    kind = "gauge"
    unit = "1"
    help = "Level."
    [[column]]
    name = "inlet_celsius"
    type = "float"
    kind = "gauge"
    unit = "celsius"
    help = "Water going in."
    [[column]]
    name = "turns"
    type = "int"
    kind = "counter"
    unit = "1"
    help = "Turns."
    [[column]]
    name = "energy_joules"
    type = "float"
    kind = "counter"
    unit = "joules"
    help = "Energy."
"#;

const MINUTE: i64 = 60;

/// A whole hour, and a while into it.
pub(super) const BEGIN: i64 = 1_700_000_400 / 3_600 * 3_600;

fn catalogue() -> Arc<Catalogue> {
    static CATALOGUE: OnceLock<Arc<Catalogue>> = OnceLock::new();
    Arc::clone(CATALOGUE.get_or_init(|| Arc::new(Catalogue::with_texts(&[("pump.toml", SITE)]).unwrap())))
}

pub(super) struct World {
    store: Store,
    engine: Engine,
}

impl World {
    pub(super) fn new() -> Self {
        let objects = Arc::new(object_store::memory::InMemory::new());
        let store = Store::new(objects, catalogue(), "memory:");
        let spill = Spill { folder: None, bytes: 1 << 30 };
        let engine = Engine::new(Reader::new(store.clone(), 1 << 24), Limits::default(), spill).unwrap();
        Self { store, engine }
    }

    pub(super) fn catalogue(&self) -> &Arc<Catalogue> {
        self.store.catalogue()
    }

    pub(super) async fn append(&self, table: &str, batch: RecordBatch) {
        let table = Arc::clone(self.store.catalogue().get(table).unwrap());
        let mut journal = Journal::open(&self.store, "journal.test").await.unwrap();
        journal.append(vec![(table, vec![batch])]).await.unwrap();
        self.engine.reader().look_anew().await.unwrap();
    }

    /// Moves everything into Parquet.
    async fn seal(&self) {
        for (partition, firsts) in self.store.list_partitions().await.unwrap() {
            let footers = self.store.footers(&partition, &firsts).await.unwrap();
            let footers: Vec<_> = footers.into_iter().map(Arc::new).collect();
            Sealer::new(self.store.clone()).seal(&footers).await.unwrap();
        }
    }

    /// Runs a rule for the window that ends there, as the schedule does.
    pub(super) async fn run(&self, rule: &Definition, ends: i64, revision: i64) -> usize {
        let window = Grid::of(rule).ending(ends * 1_000_000);
        let run = Run { rule: Arc::new(rule.clone()), window, revision, began_us: 0 };
        let rows = run.ask(&self.engine).await.unwrap_or_else(|e| panic!("{}: {e:?}\n{}", rule.name, rule.sql));
        let mut sink = TableSink::new(self.store.catalogue(), &rule.name).unwrap();
        let mut count = 0;
        for (table, batch) in sink.take(&run, &rows).unwrap() {
            count += batch.num_rows();
            self.append(&table.name, batch).await;
        }
        count
    }

    pub(super) async fn ask(&self, sql: &str) -> RecordBatch {
        let query = self.engine.own(sql, &[]).await.unwrap();
        let batches = query.collect().await.unwrap();
        datafusion::arrow::compute::concat_batches(&query.schema(), &batches).unwrap()
    }
}

fn rule(name: &str) -> Definition {
    definitions(&catalogue()).unwrap().into_iter().find(|rule| rule.name == name).unwrap()
}

/// A sample of a pump.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    host: u8,
    index: u8,
    second: i64,
    maker: Option<u8>,
    level: Option<i64>,
    inlet: Option<f64>,
    turns: Option<i64>,
    energy: Option<f64>,
}

type Entity = (String, String);

impl Sample {
    fn entity(&self) -> Entity {
        (format!("h{}", self.host), format!("p{}", self.index))
    }
}

fn batch(sample: &Sample) -> RecordBatch {
    let mut rows = Rows::new(catalogue().get("pump").unwrap());
    let maker = sample.maker.map(|maker| format!("m{maker}"));
    rows.begin()
        .text("index", sample.entity().1.as_str())
        .text("maker", maker.as_deref())
        .int("level", sample.level)
        .float("inlet_celsius", sample.inlet)
        .int("turns", sample.turns)
        .float("energy_joules", sample.energy);
    rows.finish(&Stamp { ts_micros: (BEGIN + sample.second) * 1_000_000, node: "n", host: &sample.entity().0 })
}

async fn put(world: &World, samples: &[Sample]) {
    let batches: Vec<_> = samples.iter().map(batch).collect();
    let Some(first) = batches.first() else { return };
    let all = datafusion::arrow::compute::concat_batches(&first.schema(), &batches).unwrap();
    world.append("pump", all).await;
}

/// What a minute should say of a gauge: least, largest, mean, last, count.
type Level<V> = (Option<V>, Option<V>, Option<f64>, Option<V>, i64);

/// What a minute should say of a counter: increase, last, count.
type Growth<V> = (Option<V>, Option<V>, i64);

#[derive(Debug, Clone, PartialEq, Default)]
struct Minute {
    samples: i64,
    maker: Option<String>,
    level: Level<i64>,
    inlet: Level<f64>,
    turns: Growth<i64>,
    energy: Growth<f64>,
}

/// The plain way: sort, look at neighbours, and give each growth to the minute of the later one.
fn level<V: Copy + PartialOrd>(known: &[(i64, V)], as_f64: fn(V) -> f64) -> Level<V> {
    let mut sorted: Vec<V> = known.iter().map(|k| k.1).collect();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let newest = known.iter().map(|k| k.0).max();
    let last = sorted.iter().rev().find(|v| known.iter().any(|k| Some(k.0) == newest && k.1 == **v)).copied();
    #[allow(clippy::cast_precision_loss)]
    let mean = (!known.is_empty()).then(|| known.iter().map(|k| as_f64(k.1)).sum::<f64>() / known.len() as f64);
    (sorted.first().copied(), sorted.last().copied(), mean, last, i64::try_from(known.len()).unwrap())
}

fn growth<V: Copy + PartialOrd + Default + std::ops::Add<Output = V> + std::ops::Sub<Output = V>>(
    all: &[(i64, V)],
    begin: i64,
) -> Growth<V> {
    let mut largest: BTreeMap<i64, V> = BTreeMap::new();
    for (second, value) in all {
        let known = largest.entry(*second).or_insert(*value);
        if *value > *known {
            *known = *value;
        }
    }
    let seen: Vec<(i64, V)> = largest.range(begin - MINUTE..begin + MINUTE).map(|(s, v)| (*s, *v)).collect();
    let mut increase = None;
    for pair in seen.windows(2).filter(|pair| pair[1].0 >= begin) {
        let more = if pair[1].1 < pair[0].1 { pair[1].1 } else { pair[1].1 - pair[0].1 };
        increase = Some(increase.unwrap_or_default() + more);
    }
    let count = all.iter().filter(|(s, _)| (begin..begin + MINUTE).contains(s)).count();
    (increase, seen.last().filter(|(s, _)| *s >= begin).map(|(_, v)| *v), i64::try_from(count).unwrap())
}

#[allow(clippy::cast_precision_loss)]
fn expected(samples: &[Sample], minutes: i64) -> BTreeMap<(i64, Entity), Minute> {
    let mut answer = BTreeMap::new();
    for entity in samples.iter().map(Sample::entity).collect::<BTreeSet<_>>() {
        let own: Vec<&Sample> = samples.iter().filter(|s| s.entity() == entity).collect();
        let finite = |value: Option<f64>| value.filter(|v| v.is_finite());
        let turns: Vec<_> = own.iter().filter_map(|s| Some((s.second, s.turns?))).collect();
        let energy: Vec<_> = own.iter().filter_map(|s| Some((s.second, finite(s.energy)?))).collect();
        for begin in (0..minutes).map(|minute| minute * MINUTE) {
            let within: Vec<_> = own.iter().filter(|s| (begin..begin + MINUTE).contains(&s.second)).collect();
            let Some(newest) = within.iter().max_by_key(|s| s.second) else { continue };
            let levels: Vec<_> = within.iter().filter_map(|s| Some((s.second, s.level?))).collect();
            let inlets: Vec<_> = within.iter().filter_map(|s| Some((s.second, finite(s.inlet)?))).collect();
            let minute = Minute {
                samples: i64::try_from(within.len()).unwrap(),
                maker: newest.maker.map(|maker| format!("m{maker}")),
                level: level(&levels, |v| v as f64),
                inlet: level(&inlets, |v| v),
                turns: growth(&turns, begin),
                energy: growth(&energy, begin),
            };
            answer.insert((begin, entity.clone()), minute);
        }
    }
    answer
}

const ALL: &str = "SELECT ts, host, \"index\", samples, maker, level_min, level_max, level_mean, level_last, level_count, \
    inlet_celsius_min, inlet_celsius_max, inlet_celsius_mean, inlet_celsius_last, inlet_celsius_count, turns_increase, \
    turns_last, turns_count, energy_joules_increase, energy_joules_last, energy_joules_count, expected FROM ";

pub(super) fn int(rows: &RecordBatch, column: usize, row: usize) -> Option<i64> {
    let column = rows.column(column).as_primitive::<Int64Type>();
    column.is_valid(row).then(|| column.value(row))
}

/// Rounded, for sums of doubles depend on their order.
fn float(rows: &RecordBatch, column: usize, row: usize) -> Option<f64> {
    let column = rows.column(column).as_primitive::<Float64Type>();
    column.is_valid(row).then(|| rounded(column.value(row)))
}

fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn found(rows: &RecordBatch) -> BTreeMap<(i64, Entity), Minute> {
    let text = |column: usize, row: usize| {
        let column = rows.column(column).as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let one = |row: usize| {
        let ts = rows.column(0).as_primitive::<TimestampMicrosecondType>().value(row) / 1_000_000 - BEGIN;
        let minute = Minute {
            samples: int(rows, 3, row).unwrap(),
            maker: text(4, row),
            level: (
                int(rows, 5, row),
                int(rows, 6, row),
                float(rows, 7, row),
                int(rows, 8, row),
                int(rows, 9, row).unwrap(),
            ),
            inlet: (
                float(rows, 10, row),
                float(rows, 11, row),
                float(rows, 12, row),
                float(rows, 13, row),
                int(rows, 14, row).unwrap(),
            ),
            turns: (int(rows, 15, row), int(rows, 16, row), int(rows, 17, row).unwrap()),
            energy: (float(rows, 18, row), float(rows, 19, row), int(rows, 20, row).unwrap()),
        };
        ((ts, (text(1, row).unwrap(), text(2, row).unwrap())), minute)
    };
    let all: BTreeMap<_, _> = (0..rows.num_rows()).map(one).collect();
    assert_eq!(all.len(), rows.num_rows(), "an entity has one row in a window");
    all
}

fn round(mut minute: Minute) -> Minute {
    let each = |value: Option<f64>| value.map(rounded);
    minute.level.2 = each(minute.level.2);
    minute.inlet =
        (each(minute.inlet.0), each(minute.inlet.1), each(minute.inlet.2), each(minute.inlet.3), minute.inlet.4);
    (minute.energy.0, minute.energy.1) = (each(minute.energy.0), each(minute.energy.1));
    minute
}

fn a_sample() -> impl Strategy<Value = Sample> {
    let float = prop_oneof![
        8 => (-50_i32..50).prop_map(|v| Some(f64::from(v) / 4.0)),
        1 => Just(None),
        1 => prop_oneof![Just(Some(f64::NAN)), Just(Some(f64::INFINITY)), Just(Some(f64::NEG_INFINITY))],
    ];
    let energy = prop_oneof![
        8 => (0_i32..50).prop_map(|v| Some(f64::from(v) / 4.0)),
        1 => Just(None),
        1 => prop_oneof![Just(Some(f64::NAN)), Just(Some(f64::INFINITY))],
    ];
    let number = proptest::option::weighted(0.85, 0_i64..40);
    // Beyond what doubles can tell apart.
    let large = number.clone().prop_map(|v| v.map(|v| (1 << 54) + v));
    (0_u8..2, 0_u8..2, 0_i64..4 * MINUTE, number, float, large, energy).prop_map(
        |(host, index, second, level, inlet, turns, energy)| {
            // The newest row's label is the one; at one time all say the same.
            let maker = (second % 7 > 0).then_some(u8::try_from(second % 5).unwrap());
            Sample { host, index, second, maker, level, inlet, turns, energy }
        },
    )
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// In whatever order rows come, in whatever pieces, sealed or hot, and after late ones: minutes are those of an
    /// independent calculation over all rows, and hours are sums of minutes.
    #[test]
    fn minutes_and_hours_are_those_of_all_rows(
        samples in proptest::collection::vec(a_sample(), 0..80),
        late in 0_usize..80,
        sealed in any::<bool>(),
    ) {
        block_on(async {
            let (world, minutes, hours) = (World::new(), rule("pump_1m"), rule("pump_1h"));
            let (early, late) = samples.split_at(samples.len().saturating_sub(late));
            // New partitions are looked for now and then only: this one is there before the first question.
            world.append("cpu", cpu(&world, 0, "all", 1.0)).await;
            for chunk in early.chunks(13) {
                put(&world, chunk).await;
            }
            if sealed {
                world.seal().await;
            }
            for minute in 1..=5 {
                world.run(&minutes, BEGIN + minute * MINUTE, 0).await;
            }
            world.run(&hours, BEGIN + 3_600, 0).await;
            let right = |samples: &[Sample]| -> BTreeMap<_, _> {
                expected(samples, 5).into_iter().map(|(key, minute)| (key, round(minute))).collect()
            };
            assert_eq!(found(&world.ask(&format!("{ALL}pump_1m")).await), right(early));

            for chunk in late.chunks(13) {
                put(&world, chunk).await;
            }
            // The windows that hold a late row run again, and no other.
            let grid = Grid::of(&minutes);
            let again: BTreeSet<i64> =
                late.iter().flat_map(|s| grid.ends_around((BEGIN + s.second) * 1_000_000)).collect();
            for end in &again {
                world.run(&minutes, end / 1_000_000, 1).await;
            }
            if sealed {
                world.seal().await;
            }
            let answer = world.ask(&format!("{ALL}pump_1m")).await;
            assert_eq!(found(&answer), right(&samples));
            for row in 0..answer.num_rows() {
                assert_eq!(float(&answer, 21, row), Some(6.0), "one in ten seconds");
            }
            let of_one = world.ask(&format!("{ALL}pump_1m WHERE host = 'h1'")).await;
            assert_eq!(of_one.num_rows(), found(&answer).keys().filter(|key| key.1.0 == "h1").count());

            world.run(&hours, BEGIN + 3_600, 1).await;
            let hours = found(&world.ask(&format!("{ALL}pump_1h")).await);
            let of_minutes = expected(&samples, 5);
            let entities: BTreeSet<_> = samples.iter().map(Sample::entity).collect();
            assert_eq!(hours.len(), entities.len());
            for entity in entities {
                let own: Vec<&Minute> = of_minutes.iter().filter(|(key, _)| key.1 == entity).map(|(_, m)| m).collect();
                let hour = &hours[&(0, entity)];
                assert_eq!(hour.samples, own.iter().map(|m| m.samples).sum::<i64>());
                assert_eq!(hour.maker, own.last().unwrap().maker);
                let sum = |values: Vec<i64>| (!values.is_empty()).then(|| values.iter().sum::<i64>());
                assert_eq!(hour.turns.0, sum(own.iter().filter_map(|m| m.turns.0).collect()));
                assert_eq!(hour.turns.1, own.iter().filter_map(|m| m.turns.1).next_back());
                assert_eq!(hour.turns.2, own.iter().map(|m| m.turns.2).sum::<i64>());
                assert_eq!(hour.level.0, own.iter().filter_map(|m| m.level.0).min());
                assert_eq!(hour.level.1, own.iter().filter_map(|m| m.level.1).max());
                assert_eq!(hour.level.3, own.iter().filter_map(|m| m.level.3).next_back());
                let energy: Vec<f64> = own.iter().filter_map(|m| m.energy.0).collect();
                assert_eq!(hour.energy.0, (!energy.is_empty()).then(|| rounded_sum(&energy)));
                let count: i64 = own.iter().map(|m| m.inlet.4).sum();
                #[allow(clippy::cast_precision_loss)]
                let whole: f64 = own.iter().filter_map(|m| Some(m.inlet.2? * m.inlet.4 as f64)).sum();
                #[allow(clippy::cast_precision_loss)]
                let mean = (count > 0).then(|| rounded(whole / count as f64));
                assert_eq!(hour.inlet.2, mean);
            }
        });
    }
}

fn rounded_sum(values: &[f64]) -> f64 {
    rounded(values.iter().sum())
}

#[tokio::test]
async fn every_rule_of_the_built_in_tables_can_be_planned_and_fills_its_table() {
    let world = World::new();
    let rules = definitions(&catalogue()).unwrap();
    assert!(rules.len() > 40, "{}", rules.len());
    for rule in &rules {
        assert_eq!(world.run(rule, BEGIN, 0).await, 0, "{}", rule.name);
        let window = Grid::of(rule).ending(0);
        let run = Run { rule: Arc::new(rule.clone()), window, revision: 0, began_us: 0 };
        let schema = world.engine.own(&rule.sql, &run.values()).await.unwrap().schema();
        let table = catalogue().get(&rule.name).cloned().unwrap();
        let named: BTreeSet<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let missing: Vec<_> = table
            .schema()
            .fields()
            .iter()
            .filter(|f| !named.contains(f.name().as_str()) && f.name() != "revision")
            .collect();
        assert!(missing.is_empty(), "{}: {missing:?}", rule.name);
        for field in schema.fields() {
            let kept = table.schema().field_with_name(field.name()).unwrap();
            assert_eq!(kept.data_type(), field.data_type(), "{}.{}", rule.name, field.name());
        }
    }
}

fn cpu(world: &World, second: i64, cpu: &str, idle: f64) -> RecordBatch {
    let mut rows = Rows::new(world.store.catalogue().get("cpu").unwrap());
    rows.begin().text("cpu", cpu).float("idle_seconds", idle);
    rows.finish(&Stamp { ts_micros: (BEGIN + second) * 1_000_000, node: "n", host: "h" })
}

#[tokio::test]
async fn what_is_expected_comes_from_the_probe_and_else_from_the_catalogue() {
    let (world, minutes, hours) = (World::new(), rule("cpu_1m"), rule("cpu_1h"));
    for second in 0..90 {
        world.append("cpu", cpu(&world, second, "all", 1.0)).await;
    }
    world.append("cpu", cpu(&world, 0, "3", 1.0)).await;
    let asked = async |ts: i64| {
        let sql = format!(
            "SELECT cpu, samples, expected FROM cpu_1m WHERE ts = to_timestamp_micros({}) ORDER BY cpu",
            (BEGIN + ts) * 1_000_000
        );
        let rows = world.ask(&sql).await;
        (0..rows.num_rows()).map(|row| (int(&rows, 1, row), float(&rows, 2, row))).collect::<Vec<_>>()
    };
    world.run(&minutes, BEGIN + 60, 0).await;
    // Single CPUs come when they come.
    assert_eq!(asked(0).await, [(Some(1), None), (Some(60), Some(60.0))]);
    for (second, interval) in [(61, 1.0), (71, 5.0)] {
        let mut rows = Rows::new(world.store.catalogue().get("agent").unwrap());
        rows.begin().text("probe", "cpu").float("interval_seconds", interval);
        rows.begin().text("probe", "disk").float("interval_seconds", 30.0);
        let stamp = Stamp { ts_micros: (BEGIN + second) * 1_000_000, node: "n", host: "h" };
        world.append("agent", rows.finish(&stamp)).await;
    }
    world.run(&minutes, BEGIN + 120, 0).await;
    assert_eq!(asked(60).await, [(Some(30), Some(12.0))], "the newest interval is the one");
    world.run(&hours, BEGIN + 3_600, 0).await;
    let rows = world.ask("SELECT samples, expected FROM cpu_1h WHERE cpu = 'all'").await;
    assert_eq!((int(&rows, 0, 0), float(&rows, 1, 0)), (Some(90), Some(2_160.0)), "the mean of both, for an hour");
}

#[tokio::test]
async fn growth_is_counted_from_the_last_sample_before_the_window() {
    let (world, minutes) = (World::new(), rule("cpu_1m"));
    for (second, idle) in [(-50, 90.0), (-10, 100.0), (5, 103.0), (50, 110.0), (70, 4.0)] {
        world.append("cpu", cpu(&world, second, "all", idle)).await;
    }
    for minute in 0..=4 {
        world.run(&minutes, BEGIN + minute * MINUTE, 0).await;
    }
    let rows = world.ask("SELECT idle_seconds_increase, idle_seconds_last FROM cpu_1m ORDER BY ts").await;
    let found: Vec<_> = (0..rows.num_rows()).map(|row| (float(&rows, 0, row), float(&rows, 1, row))).collect();
    assert_eq!(found, [(Some(10.0), Some(100.0)), (Some(10.0), Some(110.0)), (Some(4.0), Some(4.0))]);
}
