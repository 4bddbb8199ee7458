//! A broker that is away for a long time: nothing is lost, and when it is back, what is live comes first.
//!
//! Ten minutes are shortened by settings: the client library gives a record back after one second in place of thirty,
//! and so on in proportion. The broker is really gone: its process is killed.

mod support;

use std::time::{Duration, Instant};

use support::{Site, connect, embedded, number, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_loses_nothing_and_live_data_comes_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = embedded::free_port();
    let mut broker = embedded::start(folder.path(), address);
    let site = Site::new(
        folder,
        address.to_string(),
        &[
            ("NODESCOPE_KAFKA_PROPERTIES", "message.timeout.ms=1000,reconnect.backoff.max.ms=200"),
            ("NODESCOPE_AGENT_QUEUE_SIZE", "64KiB"),
            ("NODESCOPE_AGENT_BACKLOG_RATE", "100"),
            ("NODESCOPE_AGENT_BACKLOG_JITTER", "1s"),
            ("NODESCOPE_COLLECTOR_SEGMENT_EVERY", "100ms"),
        ],
    );
    let mut source = site.source();
    let _collector = site.collector();
    let (_query, query) = site.query();
    let client = connect(query).await;
    until(&client, "select count(*) from known", |rows| rows > 100).await;

    broker.kill();
    let taken = || site.journal().0.len();
    let before = taken();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let during = taken();
    assert!(during > before + 2_000, "the source went on: {before} rows before, {during} at the end of the outage");
    let _broker = embedded::start(site.folder.path(), address);
    let since = i64::try_from(site.journal().0.into_iter().max().expect("rows")).expect("it fits");

    // What was sampled after the outage is there while the backlog is still under way.
    until(&client, "select max(number) from known", |newest| newest > since + 100).await;
    let back = format!("select count(*) from known where number <= {since}");
    let at_return = number(&client, &back).await.expect("a count");
    assert!(
        at_return < i64::try_from(during).expect("it fits") - 500,
        "the backlog came first: {at_return} of {during}"
    );

    until(&client, &back, |rows| usize::try_from(rows).is_ok_and(|rows| rows >= during)).await;
    drop(source.stdin());
    assert!(source.ended().success());
    let taken = site.journal().0;
    let most = taken.iter().max().expect("rows");
    let all = format!("select count(distinct number) from known where number <= {most}");
    let _source = site.source();
    until(&client, &all, |rows| usize::try_from(rows).is_ok_and(|rows| rows == taken.len())).await;
    assert_eq!(number(&client, "select count(*) - count(distinct number) from known").await, Some(0));
    assert_eq!(number(&client, "select count(*) from loss").await, Some(0));
}
