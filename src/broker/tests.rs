//! The embedded broker, spoken to with librdkafka as agents and collector do.

use std::path::Path;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::timeout;

use super::*;

const TOPIC: &str = "telemetry";
const LONG: Duration = Duration::from_secs(30);

fn options(data_dir: &Path, next_offset: i64) -> BrokerOptions {
    BrokerOptions {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        advertised_host: None,
        data_dir: data_dir.to_owned(),
        cluster_id: "nodescope".to_owned(),
        topics: vec![BrokerTopic {
            name: TOPIC.to_owned(),
            partitions: 1,
            retention: Duration::from_hours(1),
            next_offsets: vec![(0, next_offset)],
        }],
    }
}

async fn start(data_dir: &Path, next_offset: i64) -> (EmbeddedBroker, CancellationToken) {
    let shutdown = CancellationToken::new();
    let broker = EmbeddedBroker::start(options(data_dir, next_offset), shutdown.clone()).await.expect("starts");
    (broker, shutdown)
}

async fn stop(broker: EmbeddedBroker, shutdown: &CancellationToken) {
    shutdown.cancel();
    timeout(LONG, broker.stopped()).await.expect("stops in time").expect("stops in order");
}

fn client(address: SocketAddr) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address.to_string());
    config
}

fn producer(address: SocketAddr) -> FutureProducer {
    client(address)
        .set("enable.idempotence", "false")
        .set("acks", "all")
        .set("compression.codec", "zstd")
        .set("message.timeout.ms", "20000")
        .create()
        .expect("a producer")
}

/// Writes one record with its payload as a header too, and gives back its offset.
async fn produce(producer: &FutureProducer, payload: &str) -> Option<i64> {
    let record = FutureRecord::to(TOPIC)
        .partition(0)
        .key("host")
        .payload(payload)
        .headers(OwnedHeaders::new().insert(Header { key: "seq", value: Some(payload) }));
    producer.send(record, LONG).await.ok().map(|delivery| delivery.offset)
}

/// Reads records from an offset on: each one's offset, payload and first header.
async fn consume(address: SocketAddr, from: i64, count: usize) -> Vec<(i64, String, Option<String>)> {
    let consumer: StreamConsumer = client(address)
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "50")
        .create()
        .expect("a consumer");
    let mut positions = TopicPartitionList::new();
    positions.add_partition_offset(TOPIC, 0, Offset::Offset(from)).expect("a position");
    consumer.assign(&positions).expect("an assignment");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut records = Vec::new();
    while records.len() < count {
        let message = timeout(LONG, consumer.recv()).await.expect("a record in time").expect("a record");
        let header = message.headers().and_then(|headers| headers.iter().next()?.value.map(text));
        records.push((message.offset(), text(message.payload().unwrap_or_default()), header));
    }
    records
}

fn record(offset: i64, payload: &str) -> (i64, String, Option<String>) {
    (offset, payload.to_owned(), Some(payload.to_owned()))
}

#[tokio::test]
async fn a_restart_keeps_records_and_headers_wherever_the_directory_is() {
    let parent = tempfile::tempdir().expect("a directory");
    let data_dir = parent.path().join("数据 of 100% #1?");
    let (broker, shutdown) = start(&data_dir, 0).await;
    let writer = producer(broker.address());
    for (offset, payload) in [(0, "a"), (1, "b"), (2, "c")] {
        assert_eq!(produce(&writer, payload).await, Some(offset));
    }
    drop(writer);
    stop(broker, &shutdown).await;
    assert!(data_dir.join(DATABASE).is_file());

    let (broker, shutdown) = start(&data_dir, 0).await;
    assert_eq!(produce(&producer(broker.address()), "d").await, Some(3));
    let read = consume(broker.address(), 0, 4).await;
    assert_eq!(read, [record(0, "a"), record(1, "b"), record(2, "c"), record(3, "d")]);
    stop(broker, &shutdown).await;
}

#[tokio::test]
async fn a_log_shorter_than_the_store_continues_where_the_store_stands() {
    let data_dir = tempfile::tempdir().expect("a directory");
    let (broker, shutdown) = start(data_dir.path(), 41).await;
    assert_eq!(produce(&producer(broker.address()), "after the gap").await, Some(41));
    assert_eq!(consume(broker.address(), 41, 1).await, [record(41, "after the gap")]);
    stop(broker, &shutdown).await;

    // A store that stands behind the log changes nothing.
    let (broker, shutdown) = start(data_dir.path(), 7).await;
    assert_eq!(produce(&producer(broker.address()), "next").await, Some(42));
    stop(broker, &shutdown).await;
}

#[tokio::test]
async fn a_request_that_kills_storage_does_not_end_the_broker() {
    let data_dir = tempfile::tempdir().expect("a directory");
    let (broker, shutdown) = start(data_dir.path(), 0).await;
    let writer = producer(broker.address());
    assert_eq!(produce(&writer, "before").await, Some(0));

    let admin: AdminClient<DefaultClientContext> = client(broker.address()).create().expect("an admin client");
    let mut records = TopicPartitionList::new();
    records.add_partition_offset(TOPIC, 0, Offset::Offset(1)).expect("a position");
    let patience = AdminOptions::new().request_timeout(Some(Duration::from_secs(3)));
    let deleted = admin.delete_records(&records, &patience).await;
    assert!(!deleted.is_ok_and(|records| records.elements().iter().all(|record| record.error().is_ok())));
    drop(admin);

    // Between the death and the restart a producer may be told "unknown server error", which is why agents offer again.
    let after = async {
        loop {
            if let Some(offset) = produce(&writer, "after").await {
                break offset;
            }
        }
    };
    assert_eq!(timeout(LONG, after).await.expect("answers again"), 1);
    assert!(broker.counters.storage_restarts() >= 1);
    assert_eq!(consume(broker.address(), 0, 2).await, [record(0, "before"), record(1, "after")]);
    stop(broker, &shutdown).await;
}

#[tokio::test]
async fn records_past_their_retention_are_deleted_with_their_headers() {
    let data_dir = tempfile::tempdir().expect("a directory");
    let (broker, shutdown) = start(data_dir.path(), 0).await;
    let writer = producer(broker.address());
    produce(&writer, "a").await.expect("written");
    drop(writer);
    stop(broker, &shutdown).await;

    let options = options(data_dir.path(), 0);
    let directory = hold_directory(&options).expect("free again");
    let advertised = Url::parse("tcp://127.0.0.1:1").expect("a url");
    let storage = open_storage(&options, &directory, &advertised).await.expect("opens");
    let database = libsql::Builder::new_local(database_path(&directory)).build().await.expect("a database");
    let connection = database.connect().expect("a connection");
    for (hours, left) in [(0, 1), (2, 0)] {
        storage.maintain(SystemTime::now() + Duration::from_hours(hours)).await.expect("maintained");
        for table in ["record", "header"] {
            let mut rows = connection.query(&format!("select count(*) from {table}"), ()).await.expect("a count");
            let row = rows.next().await.expect("a row").expect("one row");
            assert_eq!(row.get::<i64>(0).expect("a number"), left, "{table} after {hours} hours");
        }
    }
}

#[tokio::test]
async fn mistakes_are_told_before_anything_is_served() {
    let held = tempfile::tempdir().expect("a directory");
    let (broker, shutdown) = start(held.path(), 0).await;
    let free = tempfile::tempdir().expect("a directory");
    let file = free.path().join("file");
    std::fs::write(&file, "no directory").expect("a file");
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));

    let cases: [(BrokerOptions, fn(&BrokerError) -> bool); 4] = [
        (options(held.path(), 0), |error| matches!(error, BrokerError::DirectoryInUse { .. })),
        (options(&file, 0), |error| matches!(error, BrokerError::DirectoryUnusable { .. })),
        (BrokerOptions { address: broker.address(), ..options(free.path(), 0) }, |error| {
            matches!(error, BrokerError::AddressUnusable { .. })
        }),
        (BrokerOptions { address: everywhere, ..options(free.path(), 0) }, |error| {
            matches!(error, BrokerError::NothingToAdvertise { .. })
        }),
    ];
    for (options, expected) in cases {
        let wanted = options.clone();
        let error = EmbeddedBroker::start(options, CancellationToken::new()).await.expect_err("refused");
        assert!(expected(&error), "{wanted:?} gave {error:?}");
    }
    stop(broker, &shutdown).await;
}
