//! Section `[schedule]`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nodescope_model::catalogue::Catalogue;
use nodescope_service::node::NodeSettings;
use nodescope_service::settings::Settings;

use super::rules::{self, Read};
use crate::definition::Definition;

/// What a schedule needs to know.
#[derive(Debug, Clone)]
pub struct ScheduleSettings {
    /// Whether `nodescope up` runs one.
    pub enabled: bool,
    /// The rules that are right: built in, made from the catalogue, and the site's own.
    pub rules: Vec<Definition>,
    /// Names of those that are the site's own: nobody else has looked whether they are right.
    pub own: BTreeSet<String>,
    /// Runs under way at one time.
    pub concurrency: usize,
    /// How far back a rule begins that has never run and fills a table.
    pub backfill: Duration,
    /// A rule that is further behind begins anew so long ago.
    pub catch_up: Duration,
    /// Identification code of the platform node, for rows of the schedule's own.
    pub node: String,
    /// Address of `/metrics`, `/healthz` and `/readyz` of `nodescope schedule`.
    pub http_address: SocketAddr,
}

impl ScheduleSettings {
    /// Reads the section, and the rules it names, so that their mistakes are told with the others.
    pub fn read(settings: &mut Settings, catalogue: &Catalogue) -> Self {
        let node = NodeSettings::read(settings).id;
        let enabled = settings.get(
            "schedule.enabled",
            "true",
            "Whether `nodescope up` runs rules: rollups, detections, reports.",
        );
        let folder: Option<PathBuf> = settings.optional(
            "schedule.rules_folder",
            "Folder of this site's own rules, one `*.sql` each. They run beside ours.",
        );
        let built_in: bool = settings.get("schedule.built_in", "true", "Whether the built-in rules run.");
        let without = settings.list("schedule.without", "", "Names of rules that are not to run.");
        let values = settings.list(
            "schedule.parameters",
            "",
            "Other values for parameters of rules, each as rule.parameter=value.",
        );
        let Read { rules: mut all, own, mistakes } = rules::read(built_in, folder.as_deref(), catalogue);
        mistakes.0.iter().for_each(|mistake| settings.mistake(format!("schedule.rules_folder: {mistake}")));
        for entry in values {
            let set =
                entry.split_once('=').and_then(|(path, value)| Some((path.trim().split_once('.')?, value.trim())));
            let Some(((rule, parameter), value)) = set else {
                settings.mistake("schedule.parameters: each is rule.parameter=value");
                continue;
            };
            match all.iter_mut().find(|r| r.name == rule) {
                Some(found) => {
                    if let Err(what) = found.set_parameter(parameter, value) {
                        settings.mistake(format!("schedule.parameters: {what}"));
                    }
                }
                None if mistakes.concern(rule) => {}
                None => settings.mistake(format!("schedule.parameters: there is no rule `{rule}`")),
            }
        }
        for name in &without {
            if !all.iter().any(|rule| rule.name == *name) && !mistakes.concern(name) {
                settings.mistake(format!("schedule.without: there is no rule `{name}`"));
            }
        }
        all.retain(|rule| !without.contains(&rule.name));
        Self {
            enabled,
            rules: all,
            own,
            concurrency: settings.get::<usize>("schedule.concurrency", "2", "Runs under way at one time.").max(1),
            backfill: settings.duration(
                "schedule.backfill",
                "1h",
                "A rule that fills a table and has never run begins so long ago. Others begin now.",
            ),
            catch_up: settings.duration(
                "schedule.catch_up",
                "1d",
                "Windows missed while no schedule ran are made up for so far back. What is older is passed over, and said.",
            ),
            node,
            http_address: settings.get(
                "schedule.http_address",
                "127.0.0.1:15482",
                "Address of /metrics, /healthz and /readyz of `nodescope schedule`.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "/* title = \"x\"\nevery = \"1m\"\nsink = \"table:sample\"\n\
        [parameters]\nleast = { value = 1, help = \"Least.\" } */ SELECT * FROM sample WHERE ts < $to AND ts > $from AND 1 > $least";

    fn read(values: &[(&str, &str)]) -> (ScheduleSettings, Vec<String>) {
        let mut settings = Settings::default();
        for (key, value) in values {
            settings.flag(key, Some(value));
        }
        let read = ScheduleSettings::read(&mut settings, &Catalogue::built_in());
        (read, settings.finish().map_or_else(|errors| errors.0, |()| Vec::new()))
    }

    #[test]
    fn a_site_has_rules_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let shown = folder.path().display().to_string();
        std::fs::write(folder.path().join("site_one.sql"), RULE).unwrap();
        std::fs::write(folder.path().join("site_two.sql"), RULE).unwrap();
        let (settings, mistakes) = read(&[
            ("schedule.rules_folder", &shown),
            ("schedule.parameters", "site_one.least=7"),
            ("schedule.without", "site_two"),
        ]);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let one = settings.rules.iter().find(|rule| rule.name == "site_one").unwrap();
        assert_eq!(one.parameter("least").unwrap().value, Some(7_i64.into()));
        assert!(!settings.rules.iter().any(|rule| rule.name == "site_two"));

        std::fs::write(folder.path().join("site_two.sql"), "nothing").unwrap();
        std::fs::write(folder.path().join("site_three.sql"), "nothing").unwrap();
        let (settings, mistakes) =
            read(&[("schedule.rules_folder", &shown), ("schedule.without", "nobody,site_three")]);
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
        assert!(settings.own.iter().eq(["site_one"]), "what is right is there, so that it can be planned");
    }
}
