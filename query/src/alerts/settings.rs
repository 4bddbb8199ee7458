//! Section `[alerts]`: who is told, and how.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nodescope_service::errors::chain;
use nodescope_service::kafka::{KafkaSettings, is_topic};
use nodescope_service::settings::Settings;
use nodescope_service::topic::without_value;
use reqwest::Url;

use super::alertmanager::Alertmanager;
use super::kafka;
use super::outlets::Outlet;
use super::webhook::{Http, Login, Webhook};
use crate::definition::{Definition, SinkName};

/// Who is told of incidents and reports.
#[derive(Clone)]
pub struct AlertSettings {
    alertmanagers: Vec<Url>,
    webhooks: BTreeMap<String, Url>,
    report_webhooks: BTreeMap<String, Url>,
    topic: Option<String>,
    labels: Vec<(String, String)>,
    resend: Duration,
    expire: Duration,
    timeout: Duration,
    to_alertmanagers: Option<Http>,
    to_webhooks: Option<Http>,
    secret: Option<String>,
    /// Where the topics are.
    pub kafka: KafkaSettings,
}

/// Shows no secret.
impl std::fmt::Debug for AlertSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlertSettings").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl AlertSettings {
    /// Reads the section, and the files it names. Rules that have their rows told must find whom to tell.
    pub fn read(settings: &mut Settings, rules: &[Definition]) -> Self {
        let kafka = KafkaSettings::read(settings);
        let alertmanagers = settings
            .list("alerts.alertmanagers", "", "Alertmanagers (v2 API), as http://HOST:9093. Each is told everything.")
            .iter()
            .filter_map(|text| address(settings, "alerts.alertmanagers", text))
            .collect();
        let webhooks = named(
            settings,
            "alerts.webhooks",
            "Webhooks that are told of every incident, each as name=URL; name=file:PATH where the address is a secret itself.",
        );
        let report_webhooks = named(
            settings,
            "alerts.report_webhooks",
            "Webhooks for rules with sink = \"webhook:NAME\", in the same form. They are told of no incidents.",
        );
        for name in report_webhooks.keys().filter(|name| webhooks.contains_key(*name)) {
            settings.mistake(format!("alerts.report_webhooks: `{name}` is one of alerts.webhooks too"));
        }
        let topic: Option<String> = settings
            .optional("alerts.kafka_topic", "Topic of Kafka that is told of every incident, keyed by incident.");
        if let Some(topic) = &topic {
            is_for_alerts(settings, "alerts.kafka_topic", topic, &kafka);
        }
        for rule in rules {
            match &rule.sink {
                Some(SinkName::Webhook(name))
                    if !webhooks.contains_key(name) && !report_webhooks.contains_key(name) =>
                {
                    settings.mistake(format!(
                        "alerts.report_webhooks: there is no `{name}`, which rule {} tells",
                        rule.name
                    ));
                }
                Some(SinkName::Kafka(topic)) => is_for_alerts(settings, &format!("rule {}", rule.name), topic, &kafka),
                _ => {}
            }
        }
        let mut labels = Vec::new();
        for pair in settings.list("alerts.labels", "", "Labels added to whatever is told, each as name=value.") {
            match pair.split_once('=') {
                Some((name, value)) if !name.trim().is_empty() => {
                    labels.push((name.trim().to_owned(), value.trim().to_owned()));
                }
                _ => settings.mistake("alerts.labels: each is name=value"),
            }
        }
        let resend = settings.duration(
            "alerts.resend",
            "1m",
            "How often Alertmanagers are told of all that fires: one that restarted knows again by then.",
        );
        let expire = settings.duration(
            "alerts.expire",
            "1h",
            "An Alertmanager that hears nothing from us for so long takes what fired to be over.",
        );
        if resend.is_zero() || expire < resend * 2 {
            settings.mistake("alerts.expire must be at least twice alerts.resend, which must not be 0");
        }
        let timeout = settings.duration("alerts.timeout", "10s", "The longest one try to tell may take.");
        if timeout.is_zero() {
            settings.mistake("alerts.timeout: at least 1ms");
        }
        let user: Option<String> = settings.optional("alerts.user", "User name for Alertmanagers.");
        let password = secret(settings, "alerts.password_file", "File of its password, in one line.");
        let token = secret(settings, "alerts.token_file", "File of a bearer token for Alertmanagers, in one line.");
        let login = match (user, password, token) {
            (None, None, None) => Login::Nobody,
            (Some(user), Some(password), None) => Login::Basic(user, password),
            (None, None, Some(token)) => Login::Bearer(token),
            _ => {
                settings.mistake("alerts.user and alerts.password_file go together, and not with alerts.token_file");
                Login::Nobody
            }
        };
        let webhook_login =
            secret(settings, "alerts.webhook_token_file", "File of a bearer token for webhooks, in one line.")
                .map_or(Login::Nobody, Login::Bearer);
        let secret = secret(
            settings,
            "alerts.webhook_secret_file",
            "File of the secret that bodies for webhooks are signed with (HMAC-SHA256), in one line.",
        );
        let mut pem = |key, help| {
            let path = settings.optional::<PathBuf>(key, help);
            path.and_then(|path| contents(settings, key, &path))
        };
        let authorities =
            pem("alerts.ca_file", "Certificates (PEM) that servers' are checked against, beside those of the system.");
        let certificate = pem("alerts.certificate_file", "Our certificate (PEM), for servers that ask for one.");
        let key = pem("alerts.key_file", "Its private key (PEM).");
        let found = authorities.as_ref().map(|text| reqwest::Certificate::from_pem_bundle(text.as_bytes()));
        if let Some(Ok(found)) = found
            && found.is_empty()
        {
            settings.mistake("alerts.ca_file: it holds no certificate in PEM");
        }
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(format!("{certificate}\n{key}")),
            (None, None) => None,
            _ => {
                settings.mistake("alerts.certificate_file and alerts.key_file go together");
                None
            }
        };
        let http = match Http::new(timeout, authorities.as_deref(), identity.as_deref(), login) {
            Ok(http) => Some(http),
            Err(error) => {
                settings.mistake(format!("alerts: the certificates cannot be used: {}", chain(&error)));
                None
            }
        };
        Self {
            to_webhooks: http.clone().map(|http| Http { login: webhook_login, ..http }),
            to_alertmanagers: http,
            alertmanagers,
            webhooks,
            report_webhooks,
            topic,
            labels,
            resend,
            expire,
            timeout,
            secret,
            kafka,
        }
    }

    /// The outlets, those included that rules name.
    ///
    /// # Errors
    /// When Kafka's client does not take its settings.
    pub fn outlets(&self, rules: &[Definition]) -> Result<Vec<Arc<dyn Outlet>>, String> {
        let mut outlets: Vec<Arc<dyn Outlet>> = Vec::new();
        let labels = || self.labels.clone();
        if let Some(http) = &self.to_alertmanagers {
            for url in &self.alertmanagers {
                outlets.push(Arc::new(Alertmanager::new(url, http.clone(), labels(), self.resend, self.expire)));
            }
        }
        if let Some(http) = &self.to_webhooks {
            for (webhooks, takes_incidents) in [(&self.webhooks, true), (&self.report_webhooks, false)] {
                for (name, url) in webhooks {
                    let secret = self.secret.as_deref();
                    let webhook = Webhook::new(name, url.clone(), http.clone(), labels(), secret, takes_incidents);
                    outlets.push(Arc::new(webhook));
                }
            }
        }
        let mut topics: BTreeMap<&str, bool> = self.topic.iter().map(|topic| (topic.as_str(), true)).collect();
        for rule in rules {
            if let Some(SinkName::Kafka(topic)) = &rule.sink {
                topics.entry(topic).or_insert(false);
            }
        }
        for (topic, takes_incidents) in topics {
            let outlet = kafka::outlet(topic, &self.kafka, labels(), self.timeout, takes_incidents);
            outlets.push(outlet.map_err(|error| format!("topic {topic}: {}", without_value(&error)))?);
        }
        Ok(outlets)
    }
}

fn named(settings: &mut Settings, key: &str, help: &'static str) -> BTreeMap<String, Url> {
    let mut named = BTreeMap::new();
    for entry in settings.list(key, "", help) {
        let Some((name, text)) = entry.split_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
            settings.mistake(format!("{key}: each is name=URL"));
            continue;
        };
        let text = match text.trim().strip_prefix("file:") {
            Some(path) => match contents(settings, key, Path::new(path)) {
                Some(text) => text.trim().to_owned(),
                None => continue,
            },
            None => text.trim().to_owned(),
        };
        if let Some(url) = address(settings, key, &text)
            && named.insert(name.trim().to_owned(), url).is_some()
        {
            settings.mistake(format!("{key}: `{}` stands twice", name.trim()));
        }
    }
    named
}

/// Whether a topic can be told of alerts.
fn is_for_alerts(settings: &mut Settings, of: &str, topic: &str, kafka: &KafkaSettings) {
    if !is_topic(topic) {
        settings.mistake(format!("{of}: a topic has 1 to 249 letters, digits, dots, underscores and hyphens"));
    } else if topic == kafka.topic {
        settings.mistake(format!("{of}: `{topic}` is the topic of all records (kafka.topic)"));
    }
}

/// An address, which is not repeated in messages: it may be a secret.
fn address(settings: &mut Settings, key: &str, text: &str) -> Option<Url> {
    match Url::parse(text) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            settings.mistake(format!("{key}: user and password do not belong into an address but into a file"));
            None
        }
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            settings.mistake(format!("{key}: addresses begin with http:// or https://"));
            None
        }
    }
}

fn secret(settings: &mut Settings, key: &'static str, help: &'static str) -> Option<String> {
    let path = settings.optional::<PathBuf>(key, help)?;
    let text = contents(settings, key, &path)?.trim_end_matches(['\r', '\n']).to_owned();
    // What else there is could not be sent in a header.
    if text.is_empty() || text.contains(char::is_control) {
        settings.mistake(format!("{key}: {} must hold one line of text", path.display()));
        return None;
    }
    Some(text)
}

fn contents(settings: &mut Settings, key: &str, path: &Path) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            settings.mistake(format!("{key}: {} cannot be read: {error}", path.display()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::Purpose;

    fn read(values: &[(&str, &str)]) -> (AlertSettings, Vec<String>) {
        read_with(values, &[])
    }

    fn read_with(values: &[(&str, &str)], rules: &[Definition]) -> (AlertSettings, Vec<String>) {
        let mut settings = Settings::default();
        for (key, value) in values {
            settings.flag(key, Some(value));
        }
        let read = AlertSettings::read(&mut settings, rules);
        (read, settings.finish().map_or_else(|errors| errors.0, |()| Vec::new()))
    }

    #[test]
    fn nobody_is_told_unless_somebody_is_named() {
        let (settings, mistakes) = read(&[]);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert!(settings.outlets(&[]).unwrap().is_empty());
    }

    #[test]
    fn outlets_have_names_without_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("address");
        std::fs::write(&file, "https://chat.example/hooks/T0PSECRET\n").unwrap();
        let (settings, mistakes) = read(&[
            ("alerts.alertmanagers", "http://am:9093,https://am2.example/prefix/"),
            ("alerts.webhooks", &format!("chat=file:{}", file.display())),
            ("alerts.report_webhooks", "weekly=http://127.0.0.1:1/x"),
        ]);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let outlets = settings.outlets(&[]).unwrap();
        let names: Vec<&str> = outlets.iter().map(|outlet| outlet.name()).collect();
        assert_eq!(
            names,
            [
                "alertmanager:http://am:9093/",
                "alertmanager:https://am2.example/prefix/",
                "webhook:chat",
                "webhook:weekly"
            ]
        );
        assert!(!format!("{outlets:?} {settings:?}").contains("T0PSECRET"));
    }

    #[test]
    fn whom_rules_tell_must_be_there() {
        let rule = |name: &str, sink: &str| {
            let text =
                format!("/* title = \"x\"\nevery = \"1m\"\nsink = \"{sink}\" */ SELECT 1 FROM sample WHERE ts < $to");
            Definition::parse(name, &text, Purpose::Rule).unwrap_or_else(|e| panic!("{e}"))
        };
        let right = [rule("a", "webhook:weekly"), rule("b", "webhook:chat"), rule("c", "kafka:reports")];
        let webhooks = [("alerts.webhooks", "chat=http://x"), ("alerts.report_webhooks", "weekly=http://x")];
        let (settings, mistakes) = read_with(&webhooks, &right);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let outlets = settings.outlets(&right).unwrap();
        let takes: Vec<_> = outlets.iter().map(|outlet| (outlet.name(), outlet.takes_incidents())).collect();
        assert_eq!(takes, [("webhook:chat", true), ("webhook:weekly", false), ("kafka:reports", false)]);
        let wrong = [rule("a", "webhook:other"), rule("b", "kafka:a topic"), rule("c", "kafka:telemetry")];
        let (_, mistakes) = read_with(&[("alerts.kafka_topic", "telemetry")], &wrong);
        assert_eq!(
            mistakes,
            [
                "alerts.kafka_topic: `telemetry` is the topic of all records (kafka.topic)",
                "alerts.report_webhooks: there is no `other`, which rule a tells",
                "rule b: a topic has 1 to 249 letters, digits, dots, underscores and hyphens",
                "rule c: `telemetry` is the topic of all records (kafka.topic)",
            ]
        );
    }

    #[test]
    fn every_mistake_is_told_and_no_secret() {
        let (_, mistakes) = read(&[
            ("alerts.alertmanagers", "http://user:hunter2@am,am:9093"),
            ("alerts.webhooks", "hunter2,a=http://x,a=http://y"),
            ("alerts.report_webhooks", "a=http://z"),
            ("alerts.labels", "x"),
            ("alerts.expire", "1s"),
            ("alerts.user", "u"),
            ("alerts.webhook_secret_file", "/nonexistent"),
            ("alerts.key_file", "/nonexistent"),
        ]);
        assert_eq!(mistakes.len(), 10, "{mistakes:?}");
        assert!(!mistakes.iter().any(|mistake| mistake.contains("hunter2")));
    }
}
