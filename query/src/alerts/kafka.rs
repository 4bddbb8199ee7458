//! A topic of Kafka: the same JSON as a webhook gets, keyed by what it is about, so what is said of one incident stays in
//! order. Key and header `state` name a message: one that comes twice has the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use nodescope_service::errors::chain;
use nodescope_service::kafka::KafkaSettings;
use nodescope_service::topic::{self, client_config, without_value};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;

use super::outlets::{Message, Outlet, TellError};

/// One topic.
pub struct Topic {
    name: String,
    kafka: KafkaSettings,
    producer: FutureProducer,
    /// The topic has been looked for, and nothing has failed since.
    is_there: AtomicBool,
    labels: Vec<(String, String)>,
    timeout: Duration,
    takes_incidents: bool,
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topic").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Topic {
    /// The topic of that name, on the brokers of these settings.
    ///
    /// # Errors
    /// When Kafka's client does not take the settings.
    pub fn new(
        topic: &str,
        kafka: &KafkaSettings,
        labels: Vec<(String, String)>,
        timeout: Duration,
        takes_incidents: bool,
    ) -> Result<Self, KafkaError> {
        let mut kafka = kafka.clone();
        topic.clone_into(&mut kafka.topic);
        kafka.partitions = 1;
        let producer = client_config(&kafka, "nodescope-alerts")
            .set("message.timeout.ms", timeout.as_millis().max(1_000).to_string())
            .create()?;
        let name = format!("kafka:{topic}");
        Ok(Self { name, kafka, producer, is_there: AtomicBool::new(false), labels, timeout, takes_incidents })
    }

    async fn send(&self, messages: &[Message]) -> Result<(), TellError> {
        if !self.is_there.load(Ordering::Relaxed) {
            topic::ensure(&self.kafka).await.map_err(|error| TellError::Later(chain(&error)))?;
            self.is_there.store(true, Ordering::Relaxed);
        }
        for message in messages {
            let body = message.body(&self.labels).to_string();
            let headers = OwnedHeaders::new().insert(Header { key: "state", value: Some(message.state()) });
            let record = FutureRecord::to(&self.kafka.topic).key(message.about()).payload(&body).headers(headers);
            let sent = self.producer.send(record, Timeout::After(self.timeout)).await;
            sent.map_err(|(error, _)| unsent(&error))?;
        }
        Ok(())
    }
}

/// What it means that a message was not taken.
fn unsent(error: &KafkaError) -> TellError {
    match error {
        KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessage) => {
            TellError::Never(without_value(error))
        }
        error => TellError::Later(without_value(error)),
    }
}

#[async_trait]
impl Outlet for Topic {
    fn name(&self) -> &str {
        &self.name
    }

    fn takes_incidents(&self) -> bool {
        self.takes_incidents
    }

    async fn tell(&self, messages: &[Message]) -> Result<(), TellError> {
        let sent = self.send(messages).await;
        if sent.is_err() {
            // A broker that comes back may have lost the topic.
            self.is_there.store(false, Ordering::Relaxed);
        }
        sent
    }
}

/// A topic as an outlet.
///
/// # Errors
/// When Kafka's client does not take the settings.
pub fn outlet(
    topic: &str,
    kafka: &KafkaSettings,
    labels: Vec<(String, String)>,
    timeout: Duration,
    takes_incidents: bool,
) -> Result<Arc<dyn Outlet>, KafkaError> {
    Ok(Arc::new(Topic::new(topic, kafka, labels, timeout, takes_incidents)?))
}
