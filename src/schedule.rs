//! `nodescope schedule`: the schedule alone, against the store.

use std::sync::Arc;

use nodescope_model::catalogue::Catalogue;
use nodescope_query::alerts::outlets::{OutletsError, TellMetrics};
use nodescope_query::alerts::{AlertSettings, Outlets};
use nodescope_query::definition::Definition;
use nodescope_query::engine::Engine;
use nodescope_query::schedule::metrics::ScheduleMetrics;
use nodescope_query::schedule::sink::Sinks;
use nodescope_query::schedule::{self, ScheduleError, ScheduleSettings};
use nodescope_query::settings::QuerySettings;
use nodescope_service::http::Health;
use nodescope_store::Store;
use nodescope_store::cut::Reader;
use tokio_util::sync::CancellationToken;

use crate::parts::{PartArgs, serve_health, until_asked};
use crate::settings::{Common, finish_with_rules};
use crate::{block_on, chain, say};

/// Runs the command.
pub(crate) fn main(args: &PartArgs) -> Result<(), String> {
    let mut settings = args.load();
    let common = Common::read(&mut settings);
    // Its questions have the bounds of everybody's.
    let query = QuerySettings::read(&mut settings);
    let schedule = ScheduleSettings::read(&mut settings, &common.catalogue);
    let alerts = AlertSettings::read(&mut settings, &schedule.rules);
    settings.tolerate(&["agent", "collector"]);
    finish_with_rules(settings, &common, &query, &schedule.rules)?;
    common.logs.start();
    block_on(async move {
        let store = common.open_store()?;
        let shutdown = until_asked();
        let health = serve_health(schedule.http_address, "metrics (schedule.http_address)", &shutdown).await?;
        let engine = nodescope_query::server::engine(&query, store, &health).map_err(|e| chain(&e))?;
        say(&format!("the schedule begins, with {} rules", schedule.rules.len()));
        run(schedule, &alerts, engine, &health, shutdown).await.map_err(|e| chain(&e))
    })
}

/// Why a schedule does not run, or not on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// Kafka's client does not take its settings.
    #[error("alerts cannot be told by Kafka: {0}")]
    Kafka(String),
    /// What has been told is not known.
    #[error(transparent)]
    Outlets(#[from] OutletsError),
    /// The schedule itself.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
}

/// Runs a schedule until told to stop.
pub(crate) async fn run(
    settings: ScheduleSettings,
    alerts: &AlertSettings,
    engine: Arc<Engine>,
    health: &Health,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let metrics = health.register(ScheduleMetrics::register);
    let telling = health.register(TellMetrics::register);
    let outlets = alerts.outlets(&settings.rules).map_err(RunError::Kafka)?;
    let outlets = Outlets::open(outlets, &settings.rules, &engine, &settings.node, telling, &shutdown).await?;
    let catalogue = Arc::clone(engine.reader().store().catalogue());
    let sinks = Sinks { catalogue, node: settings.node.clone(), outlets: outlets.clone() };
    let served = schedule::serve(settings, engine, sinks, metrics, shutdown.clone()).await;
    shutdown.cancel();
    outlets.close().await;
    Ok(served?)
}

/// Plans rules over an empty store with these tables: what is wrong with them is known before anything starts.
pub(crate) async fn examine(
    rules: Vec<Definition>,
    query: &QuerySettings,
    catalogue: Arc<Catalogue>,
) -> Result<usize, String> {
    let objects = Arc::new(object_store::memory::InMemory::new());
    let reader = Reader::new(Store::new(objects, catalogue, "memory:"), 0);
    let engine = Engine::new(reader, query.limits.clone(), query.spill.clone()).map_err(|e| chain(&e))?;
    let rules = schedule::rules::plan(&engine, rules).await.map_err(|e| e.to_string())?;
    Ok(rules.len())
}

#[cfg(test)]
mod tests {
    use nodescope_service::settings::Settings;

    use super::*;
    use crate::settings::finish;

    #[tokio::test]
    async fn mistakes_of_a_sites_rules_are_told_before_anything_starts() {
        let folder = tempfile::tempdir().unwrap();
        let head = "/* title = \"x\"\nevery = \"1m\"\nsink = \"table:nowhere\" */";
        for name in ["one", "two"] {
            let text = format!("{head} SELECT {name} FROM system WHERE ts < $to");
            std::fs::write(folder.path().join(format!("{name}.sql")), text).unwrap();
        }
        let mut settings = Settings::default();
        settings.flag("schedule.rules_folder", Some(folder.path().display()));
        let catalogue = Arc::new(Catalogue::built_in());
        let query = QuerySettings::read(&mut settings);
        let schedule = ScheduleSettings::read(&mut settings, &catalogue);
        finish(settings).unwrap();
        let wrong = examine(schedule.rules, &query, catalogue).await.unwrap_err();
        assert!(wrong.contains("one: it cannot be planned") && wrong.contains("two: it cannot be planned"), "{wrong}");
    }
}
