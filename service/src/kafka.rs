//! How to reach Kafka: settings, as properties of its client library.
//!
//! Agent and collector share the section `[kafka]`. Whatever has no setting of its own can be given to librdkafka as
//! it is, with `kafka.properties = ["name=value", …]`.

use std::fmt;
use std::path::PathBuf;

use crate::settings::Settings;

/// Section `[kafka]`.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// `HOST:PORT`, several with commas.
    pub brokers: String,
    /// Topic of all records.
    pub topic: String,
    /// Partitions, when we create the topic.
    pub partitions: i32,
    /// Copies, when we create the topic.
    pub replication: i32,
    /// How long records are kept, when we create the topic.
    pub retention: std::time::Duration,
    /// Properties for librdkafka, in order.
    properties: Vec<(String, String)>,
}

/// Shows no property: some are secrets.
impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings").field("brokers", &self.brokers).field("topic", &self.topic).finish()
    }
}

impl KafkaSettings {
    /// Reads the section.
    pub fn read(settings: &mut Settings) -> Self {
        let brokers =
            settings.get("kafka.brokers", "127.0.0.1:19092", "Kafka's addresses: HOST:PORT, several with commas.");
        let topic: String = settings.get("kafka.topic", "telemetry", "Topic that agents write and collectors read.");
        if !is_topic(&topic) {
            settings.mistake("kafka.topic: a topic has 1 to 249 letters, digits, dots, underscores and hyphens");
        }
        let partitions = settings.get(
            "kafka.partitions",
            "8",
            "Partitions of the topic, when it has to be created. A host's rows stay in one partition.",
        );
        let replication =
            settings.get("kafka.replication", "1", "Copies of each partition, when the topic has to be created.");
        let retention = settings.duration(
            "kafka.retention",
            "3d",
            "How long Kafka keeps records, when the topic has to be created. Longer than the longest outage of collectors.",
        );
        let security: Security =
            settings.get("kafka.security", "plaintext", "plaintext, tls, sasl (SASL without TLS) or sasl_tls.");
        let mut properties = vec![("security.protocol".to_owned(), security.protocol().to_owned())];
        let mut file = |settings: &mut Settings, key: &str, property: &str, help| {
            if let Some(path) = settings.optional::<PathBuf>(key, help) {
                properties.push((property.to_owned(), path.display().to_string()));
            }
        };
        file(
            settings,
            "kafka.ca_file",
            "ssl.ca.location",
            "Certificates (PEM) that the brokers' are checked against; the system's without it.",
        );
        file(
            settings,
            "kafka.certificate_file",
            "ssl.certificate.location",
            "Our certificate (PEM), when brokers ask for one.",
        );
        file(settings, "kafka.key_file", "ssl.key.location", "Its private key (PEM).");
        let mechanism: String =
            settings.get("kafka.sasl_mechanism", "SCRAM-SHA-512", "SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN.");
        let user: Option<String> = settings.optional("kafka.user", "User name for SASL.");
        let password = settings
            .optional::<PathBuf>("kafka.password_file", "File that holds the password for SASL, in one line.")
            .and_then(|path| match std::fs::read_to_string(&path) {
                Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) => {
                    settings.mistake(format!("kafka.password_file: {} cannot be read: {error}", path.display()));
                    None
                }
            });
        if security.is_sasl() {
            match (user, password) {
                (Some(user), Some(password)) => properties.extend([
                    ("sasl.mechanisms".to_owned(), mechanism),
                    ("sasl.username".to_owned(), user),
                    ("sasl.password".to_owned(), password),
                ]),
                _ => settings.mistake("kafka.security asks for SASL: kafka.user and kafka.password_file are needed"),
            }
        }
        for property in settings.list("kafka.properties", "", "Further properties of librdkafka, each as name=value.") {
            match property.split_once('=') {
                Some((name, value)) => properties.push((name.trim().to_owned(), value.trim().to_owned())),
                None => settings.mistake("kafka.properties: each is name=value"),
            }
        }
        Self { brokers, topic, partitions, replication, retention, properties }
    }

    /// Every property, `bootstrap.servers` included. Holds secrets: for the client library only.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        std::iter::once(("bootstrap.servers", self.brokers.as_str()))
            .chain(self.properties.iter().map(|(n, v)| (n.as_str(), v.as_str())))
    }
}

/// Whether Kafka takes it as the name of a topic.
pub fn is_topic(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    Plaintext,
    Tls,
    Sasl,
    SaslTls,
}

impl Security {
    fn protocol(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Tls => "ssl",
            Self::Sasl => "sasl_plaintext",
            Self::SaslTls => "sasl_ssl",
        }
    }

    fn is_sasl(self) -> bool {
        matches!(self, Self::Sasl | Self::SaslTls)
    }
}

impl std::str::FromStr for Security {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "plaintext" => Ok(Self::Plaintext),
            "tls" => Ok(Self::Tls),
            "sasl" => Ok(Self::Sasl),
            "sasl_tls" => Ok(Self::SaslTls),
            _ => Err("one of plaintext, tls, sasl, sasl_tls"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, &str)]) -> (KafkaSettings, Result<(), crate::settings::SettingsErrors>) {
        let mut settings = Settings::default();
        for (key, value) in values {
            settings.flag(key, Some(value));
        }
        let kafka = KafkaSettings::read(&mut settings);
        (kafka, settings.finish())
    }

    #[test]
    fn the_defaults_reach_the_embedded_broker() {
        let (kafka, result) = read(&[]);
        result.unwrap();
        assert!(kafka.properties().any(|p| p == ("bootstrap.servers", "127.0.0.1:19092")));
        assert!(kafka.properties().any(|p| p == ("security.protocol", "plaintext")));
    }

    #[test]
    fn sasl_needs_user_and_password_and_the_password_is_not_shown() {
        let (_, result) = read(&[("kafka.security", "sasl_tls")]);
        assert!(result.unwrap_err().to_string().contains("kafka.password_file"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        let path = file.path().display().to_string();
        let (kafka, result) =
            read(&[("kafka.security", "sasl_tls"), ("kafka.user", "u"), ("kafka.password_file", &path)]);
        result.unwrap();
        assert!(kafka.properties().any(|p| p == ("sasl.password", "secret")));
        assert!(!format!("{kafka:?}").contains("secret"));
    }

    #[test]
    fn mistakes_are_noted() {
        let (_, result) = read(&[("kafka.topic", "a b"), ("kafka.security", "none"), ("kafka.properties", "x")]);
        assert_eq!(result.unwrap_err().0.len(), 3);
    }
}
