//! Alertmanager, by its v2 API.
//!
//! Alertmanager keeps alerts in memory and knows them by their labels, so it is told of everything that fires again and
//! again: one that has restarted knows within `alerts.resend`, and one that knew already learns nothing new. An incident
//! has a label of its own, so each is one alert there; `startsAt` is when it fired, in event time. `endsAt` is when it
//! ended, or lies ahead by `alerts.expire`: if we are gone for longer than that, Alertmanager takes it to be over. What
//! is over is repeated for a quarter of an hour, for an Alertmanager that restarts before it has passed it on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::incident::{Incident, State};
use super::outlets::{Message, Outlet, TellError, time};
use super::webhook::{Http, post};
use crate::schedule::now_us;
use crate::schedule::windows::micros;

/// Alerts in one request.
const AT_ONCE: usize = 64;

/// One Alertmanager.
#[derive(Debug)]
pub struct Alertmanager {
    name: String,
    url: reqwest::Url,
    http: Http,
    labels: Vec<(String, String)>,
    resend: Duration,
    expire: Duration,
}

impl Alertmanager {
    /// The one at this address. `labels` are added to every alert.
    pub fn new(
        base: &reqwest::Url,
        http: Http,
        labels: Vec<(String, String)>,
        resend: Duration,
        expire: Duration,
    ) -> Self {
        let mut url = base.clone();
        url.set_path(&format!("{}/api/v2/alerts", base.path().trim_end_matches('/')));
        Self { name: format!("alertmanager:{base}"), url, http, labels, resend, expire }
    }

    async fn post(&self, alerts: Vec<Value>) -> Result<(), TellError> {
        let mut refused = Ok(());
        for alerts in alerts.chunks(AT_ONCE) {
            let body = serde_json::to_vec(alerts).map_err(|error| TellError::Never(error.to_string()))?;
            match post(&self.http, &self.url, body, &[]).await {
                // One that is refused must not let those after it expire.
                Err(TellError::Never(why)) => refused = Err(TellError::Never(why)),
                other => other?,
            }
        }
        refused
    }

    fn alert(&self, state: State, incident: &Incident) -> Value {
        let mut labels: Map<String, Value> = Map::new();
        let given = self.labels.iter().map(|(name, value)| (name, value)).chain(&incident.key);
        for (name, value) in given.filter(|(_, value)| !value.is_empty()) {
            labels.insert(label_name(name), value.as_str().into());
        }
        labels.insert("alertname".into(), incident.about.rule.as_str().into());
        labels.insert("severity".into(), incident.about.severity.as_str().into());
        labels.insert("incident".into(), incident.id.as_str().into());
        let ends = match (state, incident.ended_us) {
            (State::Resolved, Some(ended)) => ended,
            _ => now_us().saturating_add(micros(self.expire)),
        };
        let mut annotations: Map<String, Value> = Map::new();
        annotations.insert("summary".into(), incident.summary.as_str().into());
        annotations.insert("description".into(), incident.about.title.as_str().into());
        annotations.insert("began".into(), time(incident.began_us).into());
        if !incident.about.techniques.is_empty() {
            annotations.insert("techniques".into(), incident.about.techniques.as_str().into());
        }
        json!({
            "labels": labels,
            "annotations": annotations,
            "startsAt": time(incident.fired_us.unwrap_or(incident.began_us)),
            "endsAt": time(ends),
        })
    }
}

/// A name as Prometheus allows it.
fn label_name(name: &str) -> String {
    let mut named: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if named.starts_with(|first: char| first.is_ascii_digit()) {
        named.insert(0, '_');
    }
    named
}

#[async_trait]
impl Outlet for Alertmanager {
    fn name(&self) -> &str {
        &self.name
    }

    fn most(&self) -> usize {
        AT_ONCE
    }

    async fn tell(&self, messages: &[Message]) -> Result<(), TellError> {
        let alert = |message: &Message| match message {
            Message::Incident(state, incident) => Some(self.alert(*state, incident)),
            Message::Report { .. } => None,
        };
        self.post(messages.iter().filter_map(alert).collect()).await
    }

    fn remind_every(&self) -> Option<Duration> {
        Some(self.resend)
    }

    async fn remind(&self, incidents: &[Arc<Incident>]) -> Result<(), TellError> {
        self.post(incidents.iter().map(|incident| self.alert(incident.state, incident)).collect()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_names_that_prometheus_allows() {
        assert_eq!(
            (label_name("a-b.c"), label_name("1st"), label_name("host")),
            ("a_b_c".into(), "_1st".into(), "host".into())
        );
    }
}
