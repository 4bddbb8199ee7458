//! Kafka's client library set up our way, and a topic that is there.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::util::Timeout;

use std::time::Duration;

use crate::errors::chain;
use crate::kafka::KafkaSettings;

/// How long one question to the broker may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the topic cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// No broker answers, or it refuses us.
    #[error("no answer from Kafka at {brokers}: {reason}")]
    Unreachable {
        /// Where.
        brokers: String,
        /// Why, without anything secret.
        reason: String,
    },
    /// The topic is not there and cannot be made.
    #[error("topic {topic} is not there and cannot be created: {reason}")]
    NotCreated {
        /// Which.
        topic: String,
        /// What the broker said.
        reason: String,
    },
}

impl TopicError {
    /// What the library says when it does not reach these brokers.
    pub fn unreachable(kafka: &KafkaSettings, error: &KafkaError) -> Self {
        Self::Unreachable { brokers: kafka.brokers.clone(), reason: without_value(error) }
    }
}

/// What the client library says of its configuration, without the value it is about: that may be a password under a
/// name that was mistyped.
pub fn without_value(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, what, property, value) if value.is_empty() => format!("{property}: {what}"),
        KafkaError::ClientConfig(_, what, property, value) => format!("{property}: {}", what.replace(value, "…")),
        error => chain(error),
    }
}

/// The library's configuration for reaching Kafka, the same for producers and consumers.
pub fn client_config(kafka: &KafkaSettings, client_id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in kafka.properties() {
        config.set(name, value);
    }
    config
        .set("client.id", client_id)
        // Come back quickly when a broker does; the backoff is jittered by the library.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "2000")
        .set("socket.keepalive.enable", "true")
        .set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// Partitions of the topic, or `None` when there is no such topic. Blocks.
///
/// # Errors
/// When no broker answers.
pub fn partitions(kafka: &KafkaSettings) -> Result<Option<Vec<i32>>, TopicError> {
    let unreachable = |error: KafkaError| TopicError::unreachable(kafka, &error);
    let consumer: BaseConsumer = client_config(kafka, "nodescope-check").create().map_err(unreachable)?;
    partitions_seen_by(&consumer, &kafka.topic, PATIENCE).map_err(unreachable)
}

/// The same, asked through a consumer that is there already.
///
/// # Errors
/// When no broker answers.
pub fn partitions_seen_by<C: Consumer<Ctx>, Ctx: rdkafka::consumer::ConsumerContext>(
    consumer: &C,
    topic: &str,
    patience: Duration,
) -> Result<Option<Vec<i32>>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), Timeout::After(patience))?;
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
    if found.error().is_some() || found.partitions().is_empty() {
        return Ok(None);
    }
    let mut partitions: Vec<i32> = found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
    partitions.sort_unstable();
    Ok(Some(partitions))
}

/// Creates the topic if it is missing and we may.
///
/// # Errors
/// When no broker answers, or the topic is missing and the broker refuses to make it.
pub async fn ensure(kafka: &KafkaSettings) -> Result<(), TopicError> {
    let asked = kafka.clone();
    let found = tokio::task::spawn_blocking(move || partitions(&asked))
        .await
        .map_err(|e| TopicError::NotCreated { topic: kafka.topic.clone(), reason: e.to_string() })??;
    if found.is_some() {
        return Ok(());
    }
    let unreachable = |error: KafkaError| TopicError::unreachable(kafka, &error);
    let admin: AdminClient<DefaultClientContext> =
        client_config(kafka, "nodescope-topic").create().map_err(unreachable)?;
    let retention = kafka.retention.as_millis().to_string();
    let topic = NewTopic::new(&kafka.topic, kafka.partitions, TopicReplication::Fixed(kafka.replication))
        .set("cleanup.policy", "delete")
        .set("retention.ms", &retention);
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let results = admin.create_topics([&topic], &options).await.map_err(unreachable)?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => {
                return Err(TopicError::NotCreated { topic: kafka.topic.clone(), reason: code.to_string() });
            }
        }
    }
    tracing::info!(topic = kafka.topic, partitions = kafka.partitions, "created the topic");
    Ok(())
}
