//! What is delivered with the agent fits it: the example configuration knows every setting and its default, and the guide
//! every table and its interval.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use nodescope_agent::AgentSettings;
use nodescope_model::catalogue::Catalogue;
use nodescope_service::logs::LogSettings;
use nodescope_service::settings::{Settings, SettingsErrors, variable_of_key};

/// Settings that an agent reads and has no use for: it creates no topic, and tables are built in.
const NOT_FOR_AGENTS: &[&str] = &["kafka.partitions", "kafka.replication", "kafka.retention", "node.catalogue_folder"];

/// Settings whose line shows something else than the default: the package's own folder, and an example in place of a
/// list that is too long.
const NOT_THE_DEFAULT: &[&str] = &["agent.data_dir", "agent.config_files"];

fn at(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The file as if all its settings were in force: `#name = value` without the `#`.
fn uncommented(text: &str) -> String {
    let is_setting = |line: &str| {
        line.split_once(" = ")
            .is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if is_setting(rest) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every setting an agent knows with its default, and what is wrong with those in the file.
fn read(file: Option<&PathBuf>) -> (BTreeMap<String, String>, Result<(), SettingsErrors>) {
    let mut settings = Settings::load(file.map(PathBuf::as_path), std::iter::empty());
    LogSettings::read(&mut settings);
    AgentSettings::read(&mut settings, &Catalogue::built_in());
    let known = settings.described().iter().map(|d| (d.key.clone(), d.default.clone())).collect();
    (known, settings.finish())
}

/// A value as the settings see it: lists are texts with commas.
fn value_text(value: &toml::Value) -> String {
    match value {
        toml::Value::Array(items) => items.iter().map(value_text).collect::<Vec<_>>().join(","),
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[test]
fn the_example_configuration_is_right_as_it_is() {
    read(Some(&at("deploy/agent.toml"))).1.unwrap();
}

#[test]
fn the_example_configuration_shows_every_setting_and_its_default() {
    let text = uncommented(&text("deploy/agent.toml"));
    let table: toml::Table = text.parse().unwrap();
    let mut shown = BTreeMap::new();
    for (section, content) in &table {
        for (name, value) in content.as_table().into_iter().flatten() {
            shown.insert(format!("{section}.{name}"), value_text(value));
        }
    }
    let (known, _) = read(None);
    let wanted: BTreeSet<&String> = known.keys().filter(|key| !NOT_FOR_AGENTS.contains(&key.as_str())).collect();
    assert_eq!(shown.keys().collect::<BTreeSet<_>>(), wanted);
    for (key, default) in &known {
        if let Some(shown) = shown.get(key)
            && !default.is_empty()
            && !NOT_THE_DEFAULT.contains(&key.as_str())
        {
            assert_eq!(shown, default, "{key}");
        }
    }
    // Nor is any of the examples wrong; the files they name are not there.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, text).unwrap();
    if let Err(mistakes) = read(Some(&file)).1 {
        let others: Vec<&String> = mistakes.0.iter().filter(|mistake| !mistake.contains("kafka.password")).collect();
        assert!(others.is_empty(), "{others:?}");
    }
}

#[test]
fn the_guide_lists_every_table_with_its_interval() {
    let guide = text("docs/agent.md");
    for table in Catalogue::built_in().tables() {
        let Some(every) = table.every else { continue };
        let row = format!("| `{}` | {} s |", table.name, every.as_secs());
        assert!(guide.contains(&row), "docs/agent.md has no row that begins with {row}");
    }
}

#[test]
fn the_container_and_the_daemon_set_name_settings_that_there_are() {
    let (known, _) = read(None);
    let variables: BTreeSet<String> = known.keys().map(|key| variable_of_key(key)).collect();
    for path in ["deploy/agent.Containerfile", "deploy/kubernetes/agent-daemonset.yaml"] {
        let text = text(path);
        for (start, _) in text.match_indices("NODESCOPE_") {
            let name: String = text[start..].chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            assert!(variables.contains(&name), "{path}: {name}");
        }
    }
}
