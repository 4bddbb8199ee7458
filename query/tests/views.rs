//! The views over an engine's store: what they cost who does not ask them, and how far filters reach.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::util::pretty::pretty_format_batches;
use nodescope_query::engine::Engine;
use nodescope_query::limits::Limits;
use nodescope_query::session::SessionSettings;

async fn ask(engine: &Engine, sql: &str) -> String {
    let settings = Arc::new(SessionSettings::new("ada", Duration::from_secs(60)));
    let context = engine.session_context(&settings).expect("a context");
    let batches = context.sql(sql).await.unwrap_or_else(|e| panic!("{sql}\n{e}")).collect().await;
    pretty_format_batches(&batches.unwrap_or_else(|e| panic!("{sql}\n{e}"))).expect("text").to_string()
}

#[tokio::test]
async fn views_cost_nothing_to_who_does_not_ask_them() {
    let begun = Instant::now();
    let engine = support::engine(Limits::default()).await;
    let opened = begun.elapsed();
    let settings = Arc::new(SessionSettings::new("ada", Duration::from_secs(60)));
    let begun = Instant::now();
    let context = engine.session_context(&settings).expect("a context");
    let session = begun.elapsed();
    let begun = Instant::now();
    context.sql("SELECT 1").await.expect("planned").create_physical_plan().await.expect("planned");
    let planned = begun.elapsed();
    println!("engine opened in {opened:?}, session in {session:?}, SELECT 1 planned in {planned:?}");
    // Many times what it takes, so that only planning all views for each statement would be noticed.
    assert!(opened < Duration::from_secs(10) && planned < Duration::from_millis(250), "{opened:?} {planned:?}");
}

#[tokio::test]
async fn filters_reach_the_tables_through_views() {
    let engine = support::engine(Limits::default()).await;
    let plan = ask(&engine, "EXPLAIN SELECT device FROM allocation_span WHERE node = 'n' AND host = 'h'").await;
    let scan = plan.lines().find(|line| line.contains("TableScan: allocation")).expect("a scan");
    assert!(scan.contains("allocation.node = Utf8(\"n\")") && scan.contains("allocation.host = Utf8(\"h\")"), "{plan}");
}
