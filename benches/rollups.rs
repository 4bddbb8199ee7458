//! What a minute costs, beside a bare look at the same rows.
//!
//! Two thousand hosts that are sampled every second, sealed: the rule of `cpu_1m` for one minute, the same without
//! growth and labels in plain SQL, and a sum over every number of the rows that the rule reads. The ratio of the first
//! to the last is what matters; the rates depend on the machine.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nodescope_model::catalogue::{Catalogue, Kind, Table};
use nodescope_model::rows::{Rows, Stamp};
use nodescope_query::engine::{Engine, Spill};
use nodescope_query::limits::Limits;
use nodescope_query::rollups;
use nodescope_query::schedule::run::Run;
use nodescope_query::schedule::windows::Grid;
use nodescope_store::Store;
use nodescope_store::cut::Reader;
use nodescope_store::journal::Journal;
use nodescope_store::seal::Sealer;

const HOSTS: usize = 2_000;
const SECONDS: i64 = 120;
const BEGIN: i64 = 1_700_000_040;

fn of_host(table: &Arc<Table>, second: i64, host: usize) -> RecordBatch {
    let mut rows = Rows::new(table);
    let mut row = rows.begin();
    row.text("cpu", "all");
    for (at, column) in table.folded().enumerate() {
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let value = (second * 3 + i64::try_from(at + host % 97).unwrap_or(0)) as f64;
        match column.column_type {
            nodescope_model::catalogue::ColumnType::Int => row.int(&column.name, second * 3),
            _ => row.float(&column.name, value),
        };
    }
    let host = format!("host-{host:05}");
    rows.finish(&Stamp { ts_micros: (BEGIN + second) * 1_000_000, node: "n", host: &host })
}

async fn engine() -> Engine {
    let catalogue = Arc::new(Catalogue::built_in());
    let table = catalogue.get("cpu").expect("built in").clone();
    let store = Store::new(Arc::new(object_store::memory::InMemory::new()), catalogue, "memory:");
    let mut journal = Journal::open(&store, "journal.bench").await.expect("an empty store");
    for second in 0..SECONDS {
        let batches = (0..HOSTS).map(|host| of_host(&table, second, host)).collect();
        journal.append(vec![(Arc::clone(&table), batches)]).await.expect("a segment");
    }
    for (partition, firsts) in store.list_partitions().await.expect("a list") {
        let footers = store.footers(&partition, &firsts).await.expect("footers");
        let footers: Vec<_> = footers.into_iter().map(Arc::new).collect();
        Sealer::new(store.clone()).seal(&footers).await.expect("sealed");
    }
    let spill = Spill { folder: None, bytes: 1 << 30 };
    Engine::new(Reader::new(store, 1 << 28), Limits::default(), spill).expect("an engine")
}

fn minute(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let engine = runtime.block_on(engine());
    let catalogue = Catalogue::built_in();
    let table = catalogue.get("cpu").expect("built in");
    let rules = rollups::definitions(&catalogue).expect("tested");
    let rule = rules.into_iter().find(|rule| rule.name == "cpu_1m").expect("cpu moves");
    let window = Grid::of(&rule).ending((BEGIN + SECONDS) * 1_000_000);
    let run = Run { rule: Arc::new(rule), window, revision: 0, began_us: 0 };

    let plain: Vec<String> = table
        .folded()
        .map(|c| match c.kind {
            Kind::Counter => format!("max({0}) - min({0}), count({0})", c.name),
            _ => format!("min({0}), max({0}), avg({0}), count({0})", c.name),
        })
        .collect();
    let plain = format!("select node, host, cpu, count(*), {} from cpu group by 1, 2, 3", plain.join(", "));
    let scan: Vec<String> = table.folded().map(|c| format!("sum({})", c.name)).collect();
    let scan = format!("select count(*), min(host), max(ts), {} from cpu", scan.join(", "));

    let mut group = criterion.benchmark_group("a minute of cpu");
    let rows = u64::try_from(HOSTS).unwrap_or(0) * SECONDS.unsigned_abs();
    group.sample_size(10).measurement_time(Duration::from_secs(10)).throughput(Throughput::Elements(rows));
    group.bench_function("the rule", |b| {
        b.iter(|| runtime.block_on(run.ask(&engine)).expect("an answer"));
    });
    for (name, sql) in [("plain aggregates", &plain), ("bare scan", &scan)] {
        group.bench_function(name, |b| {
            b.iter(|| runtime.block_on(async { engine.own(sql, &[]).await?.collect().await }).expect("an answer"));
        });
    }
    group.finish();
}

criterion_group!(benches, minute);
criterion_main!(benches);
