//! Rubbish on Kafka, beside the rows of this machine: each piece is a row of `quarantine`, and nothing stalls.

mod support;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use support::{Up, connect, killing, number, until};

const PIECES: u64 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_set_aside_and_nothing_stalls() {
    let up = Up::start().await;
    let client = connect(([127, 0, 0, 1], up.postgres_port()).into()).await;
    let mut random = StdRng::seed_from_u64(killing::seed());
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", up.kafka().to_string())
        .set("enable.idempotence", "false")
        .create()
        .expect("a producer");
    let mut piece = Vec::new();
    for _ in 0..PIECES {
        piece.resize(random.random_range(0..400), 0);
        random.fill_bytes(&mut piece);
        let mut record = BaseRecord::to("telemetry").key("rubbish").payload(&piece);
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            producer.poll(Duration::from_millis(20));
            record = back;
        }
    }
    producer.flush(support::PATIENCE).expect("the broker takes it");
    let pieces = i64::try_from(PIECES).expect("it fits");
    until(&client, "select count(*) from quarantine", |rows| rows >= pieces).await;
    assert_eq!(number(&client, "select count(*) from quarantine").await, Some(pieces), "each piece once");
    assert_eq!(number(&client, "select count(*) from quarantine where reason = 'headers'").await, Some(pieces));
    until(&client, "select count(*) from memory where ts > now() - interval '3 seconds'", |rows| rows > 0).await;
}
