//! A topic of Kafka: the same JSON as a webhook gets, keyed by incident, so what is said of one stays in order.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nodescope_service::errors::chain;
use nodescope_service::kafka::KafkaSettings;
use nodescope_service::topic::{self, client_config};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use tokio::sync::OnceCell;

use super::outlets::{Message, Outlet, TellError};

/// One topic.
pub struct Topic {
    name: String,
    kafka: KafkaSettings,
    producer: FutureProducer,
    is_there: OnceCell<()>,
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
        Ok(Self { name, kafka, producer, is_there: OnceCell::new(), labels, timeout, takes_incidents })
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
        let later = |error: &dyn std::error::Error| TellError::Later(chain(error));
        self.is_there.get_or_try_init(|| topic::ensure(&self.kafka)).await.map_err(|e| later(&e))?;
        for message in messages {
            let body = message.body(&self.labels).to_string();
            let headers = OwnedHeaders::new().insert(Header { key: "state", value: Some(message.state()) });
            let record = FutureRecord::to(&self.kafka.topic).key(message.about()).payload(&body).headers(headers);
            self.producer.send(record, Timeout::After(self.timeout)).await.map_err(|(error, _)| later(&error))?;
        }
        Ok(())
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
