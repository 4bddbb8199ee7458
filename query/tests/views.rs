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
    for (from, table) in [
        ("allocation_span", "allocation"),
        ("accelerator_now", "accelerator"),
        ("host_now", "agent"),
        ("link_now", "link"),
        ("utilization_hourly", "accelerator_1h"),
        ("availability_30d", "availability_1h"),
        ("telemetry_health", "agent_1m"),
    ] {
        let plan = ask(&engine, &format!("EXPLAIN SELECT * FROM {from} WHERE node = 'n'")).await;
        let scans: Vec<&str> = plan.lines().filter(|line| line.contains(&format!("TableScan: {table} "))).collect();
        assert!(!scans.is_empty(), "{from}\n{plan}");
        // Of several scans the one of the rows themselves: names that may mean a device are read of all nodes.
        let is_of_node = |scan: &&str| scan.contains(&format!("{table}.node = Utf8(\"n\")"));
        assert!(scans.iter().any(is_of_node), "{from}: {scans:?}");
    }
}

#[tokio::test]
async fn times_reach_the_tables_through_views() {
    let engine = support::engine(Limits::default()).await;
    for (from, table) in [
        ("accelerator_now", "accelerator"),
        ("allocation_now", "allocation"),
        ("host_now", "agent"),
        ("link_now", "link"),
        ("utilization_hourly", "accelerator_1h"),
        ("utilization_hourly('2026-01-01', '2026-01-02')", "accelerator_1h"),
        ("availability_30d", "availability_1h"),
        ("telemetry_health", "system_1m"),
    ] {
        let plan = ask(&engine, &format!("EXPLAIN SELECT * FROM {from}")).await;
        let scan = plan.lines().find(|line| line.contains(&format!("TableScan: {table} "))).expect("a scan");
        // A time that is known when the files are chosen, without a cast that would hide it.
        assert!(scan.contains(&format!("{table}.ts >= TimestampMicrosecond(")), "{from}: {scan}");
    }
}

#[tokio::test]
async fn psql_lists_and_describes_views() {
    let engine = support::engine(Limits::default()).await;
    let listed = "SELECT relname FROM pg_catalog.pg_class WHERE relkind = 'v' AND relnamespace = 2200";
    let listed = ask(&engine, listed).await;
    for view in ["capacity_now", "availability_30d", "nodes_idle_online"] {
        assert!(listed.contains(view), "{listed}");
    }
    // A function that must be told something is none.
    assert!(!listed.contains("hosts_for"), "{listed}");
    let comment = "SELECT description FROM pg_catalog.pg_description d \
                   JOIN pg_catalog.pg_class c ON c.oid = d.objoid WHERE c.relname = 'capacity_now'";
    let comment = ask(&engine, comment).await;
    assert!(comment.contains("Capacity now. How much computing power"), "{comment}");
    assert!(comment.contains("Healthy and held by nobody."), "{comment}");
    let columns = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'capacity_now'";
    let columns = ask(&engine, columns).await;
    assert!(columns.contains("available_flops") && columns.contains("double precision"), "{columns}");
    let tables = ask(&engine, "SELECT table_name FROM information_schema.tables WHERE table_type = 'VIEW'").await;
    assert!(tables.contains("link_matrix"), "{tables}");
}
