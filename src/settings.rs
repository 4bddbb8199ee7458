//! All settings of all parts, read together so that every mistake is told at once.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use nodescope_agent::AgentSettings;
use nodescope_collector::CollectorSettings;
use nodescope_model::catalogue::Catalogue;
use nodescope_query::alerts::AlertSettings;
use nodescope_query::definition::Definition;
use nodescope_query::schedule::ScheduleSettings;
use nodescope_query::settings::QuerySettings;
use nodescope_service::logs::LogSettings;
use nodescope_service::node::NodeSettings;
use nodescope_service::settings::Settings;
use nodescope_store::Store;
use nodescope_store::location::Location;

use crate::schedule::examine;
use crate::{block_on, chain};

/// What every part reads.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) logs: LogSettings,
    pub(crate) catalogue: Arc<Catalogue>,
    /// Whether the site's own tables could all be read.
    pub(crate) has_all_tables: bool,
    pub(crate) store: Location,
}

/// Everything that can be set.
#[derive(Debug)]
pub(crate) struct AllSettings {
    pub(crate) common: Common,
    pub(crate) agent: AgentSettings,
    pub(crate) collector: CollectorSettings,
    pub(crate) query: QuerySettings,
    pub(crate) schedule: ScheduleSettings,
    pub(crate) alerts: AlertSettings,
}

/// File and environment, before anybody has looked at them.
pub(crate) fn load(file: Option<&Path>) -> Settings {
    Settings::load(file, std::env::vars())
}

/// Ends the reading.
///
/// # Errors
/// All mistakes, one a line.
pub(crate) fn finish(settings: Settings) -> Result<(), String> {
    settings.finish().map_err(|errors| format!("the configuration is not right:\n{errors}"))
}

/// The same, when rules have been read: if anything is wrong, what is wrong with the SQL of those that could be read is
/// told with it.
///
/// # Errors
/// All mistakes, one a line.
pub(crate) fn finish_with_rules(
    mut settings: Settings,
    common: &Common,
    query: &QuerySettings,
    rules: &[Definition],
) -> Result<(), String> {
    // Where tables are missing, the SQL that reads them is not what is wrong.
    if !settings.is_right()
        && common.has_all_tables
        && let Err(mistakes) = block_on(examine(rules.to_vec(), query, common.catalogue.clone()))
    {
        settings.mistake(mistakes);
    }
    finish(settings)
}

impl Common {
    /// Reads the sections `[log]`, `[node]` and `[store]`.
    pub(crate) fn read(settings: &mut Settings) -> Self {
        let logs = LogSettings::read(settings);
        let node = NodeSettings::read(settings);
        let (catalogue, has_all_tables) = match Catalogue::load(node.catalogue_folder.as_deref()) {
            Ok(catalogue) => (catalogue, true),
            Err(errors) => {
                for mistake in errors.mistakes() {
                    settings.mistake(format!("node.catalogue_folder: {mistake}"));
                }
                (Catalogue::built_in(), false)
            }
        };
        let store = settings.get(
            "store.url",
            "/var/lib/nodescope/store",
            "Where rows are kept: a folder, or s3://bucket/prefix with credentials in AWS_… variables.",
        );
        Self { logs, catalogue: Arc::new(catalogue), has_all_tables, store }
    }

    /// Opens the store.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(crate) fn open_store(&self) -> Result<Store, String> {
        self.store.open(self.catalogue.clone()).map_err(|e| chain(&e))
    }
}

/// Opens a store that is only read. One that is not there is not made, and one without anything in it answers nothing.
///
/// # Errors
/// When there is nothing to read.
pub(crate) async fn open_filled(location: &Location, catalogue: Arc<Catalogue>) -> Result<Store, String> {
    if let Location::Directory(path) = location
        && !path.is_dir()
    {
        return Err(format!("there is no store at {location}: no such folder"));
    }
    let store = location.open(catalogue).map_err(|e| chain(&e))?;
    match store.objects().list(None).next().await {
        Some(Ok(_)) => Ok(store),
        Some(Err(error)) => Err(format!("{location} cannot be read: {}", chain(&error))),
        None => Err(format!("the store {location} is empty: nothing has ever been written to it")),
    }
}

impl AllSettings {
    /// Reads all sections.
    ///
    /// # Errors
    /// All mistakes, one a line.
    pub(crate) fn read(mut settings: Settings) -> Result<Self, String> {
        let all = Self::read_noting_mistakes(&mut settings);
        finish_with_rules(settings, &all.common, &all.query, &all.schedule.rules)?;
        Ok(all)
    }

    fn read_noting_mistakes(settings: &mut Settings) -> Self {
        let common = Common::read(settings);
        let agent = AgentSettings::read(settings, &common.catalogue);
        let collector = CollectorSettings::read(settings, &common.catalogue);
        let query = QuerySettings::read(settings);
        let schedule = ScheduleSettings::read(settings, &common.catalogue);
        let alerts = AlertSettings::read(settings, &schedule.rules);
        if collector.upkeep.grace <= query.limits.statement_timeout {
            settings.mistake(
                "collector.grace must be longer than query.statement_timeout: files are deleted so long after they are last needed",
            );
        }
        Self { common, agent, collector, query, schedule, alerts }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// `docs/configuration.md` says what the programs read. `UPDATE=1` writes it anew.
    #[test]
    fn the_page_is_up_to_date() {
        let mut page = String::from(
            "# Configuration\n\nOne TOML file serves all programs (`--config FILE`); each reads its own sections. A variable\n\
             `NODESCOPE_SECTION_KEY` wins over the file, and a flag over both. Lengths of time are written `250ms`, `10s`, `5m`,\n\
             `1h`, `30d`; sizes `64KiB`, `16MiB`, `2GiB`. `nodescope check --config FILE` tells every mistake at once.\n\n\
             This page is made from the program: do not edit it.\n",
        );
        let mut section = String::new();
        let mut settings = Settings::default();
        AllSettings::read_noting_mistakes(&mut settings);
        for setting in settings.described() {
            assert!(nodescope_service::settings::is_reached_by_variable(&setting.key), "{}", setting.key);
            let (of, key) = setting.key.split_once('.').unwrap();
            if of != section {
                section = of.to_owned();
                let _ = write!(page, "\n## [{of}]\n\n| Setting | Default | |\n|---|---|---|\n");
            }
            let default = if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
            let _ = writeln!(page, "| `{key}` | {default} | {} |", setting.help);
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == page, "docs/configuration.md is stale: UPDATE=1 cargo test --bin nodescope the_page");
    }
}
