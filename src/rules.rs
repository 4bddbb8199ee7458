//! `nodescope rules`: which rules there are, whether they are right, and what one would have said.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use nodescope_query::alerts::incident::{Incident, State};
use nodescope_query::alerts::replay::Replay;
use nodescope_query::definition::Definition;
use nodescope_query::engine::Engine;
use nodescope_query::limits::Limits;
use nodescope_query::schedule::{ScheduleSettings, rules};
use nodescope_query::settings::QuerySettings;
use nodescope_service::settings::{Settings, parse_duration};
use nodescope_store::Store;
use nodescope_store::cut::Reader;

use crate::schedule::examine;
use crate::score::{self, ScoreArgs};
use crate::settings::{Common, finish, finish_with_rules, load, open_filled};
use crate::{ConfigArgs, block_on, chain, say};

/// Lists rules, tests them, and says what one would have said.
#[derive(Debug, clap::Args)]
pub(crate) struct RulesArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lists all rules, built-in and of the site; with a name, shows that one whole.
    List {
        /// Name of a rule.
        name: Option<String>,
        #[command(flatten)]
        from: Source,
    },
    /// Reads rules and plans them against the tables and views; all mistakes are told at once. Nothing is asked.
    Test {
        /// Names of rules; all without any.
        names: Vec<String>,
        #[command(flatten)]
        from: Source,
    },
    /// Runs a rule over rows that are in the store, and says what it would have said. Nothing is written.
    Run(RunArgs),
    Score(ScoreArgs),
}

/// Where rules come from.
#[derive(Debug, Clone, clap::Args)]
struct Source {
    #[command(flatten)]
    config: ConfigArgs,
    /// Folder of this site's own rules (schedule.rules_folder).
    #[arg(long, value_name = "FOLDER")]
    rules: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Name of the rule.
    name: String,
    /// Begin: a time as 2026-01-31T12:00:00Z, a day, or how long ago, as 6h.
    #[arg(long, value_name = "TIME")]
    from: String,
    /// End, in the same form, or `now`.
    #[arg(long, value_name = "TIME", default_value = "now")]
    to: String,
    /// The store: a folder, or s3://bucket/prefix.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Another value for a parameter, as busy_ratio=0.5. May be given several times.
    #[arg(long = "set", value_name = "PARAMETER=VALUE")]
    values: Vec<String>,
    /// One JSON object per incident, or per row where the rule makes no alerts.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    rules: Source,
}

/// What is read of the configuration.
struct Read {
    common: Common,
    query: QuerySettings,
    rules: Vec<Definition>,
}

impl Source {
    /// Reads what there is, and leaves what is wrong in the settings.
    fn read_noting_mistakes(&self, store: Option<&String>) -> (Settings, Read) {
        let mut settings = load(self.config.config.as_deref());
        settings.flag("schedule.rules_folder", self.rules.as_ref().map(|folder| folder.display()));
        settings.flag("store.url", store);
        let common = Common::read(&mut settings);
        let query = QuerySettings::read(&mut settings);
        let schedule = ScheduleSettings::read(&mut settings, &common.catalogue);
        settings.tolerate(&["agent", "collector", "kafka", "alerts"]);
        (settings, Read { common, query, rules: schedule.rules })
    }

    fn read(&self, store: Option<&String>) -> Result<Read, String> {
        let (settings, read) = self.read_noting_mistakes(store);
        finish(settings)?;
        Ok(read)
    }
}

/// Runs the command.
pub(crate) fn main(args: &RulesArgs) -> Result<(), String> {
    match &args.what {
        What::List { name: None, from } => {
            let mut rules = from.read(None)?.rules;
            rules.sort_by(|a, b| (a.alert.is_none(), &a.name).cmp(&(b.alert.is_none(), &b.name)));
            let width = rules.iter().map(|rule| rule.name.len()).max().unwrap_or_default();
            for rule in &rules {
                say(&line(rule, width));
            }
            Ok(())
        }
        What::List { name: Some(name), from } => {
            let rules = from.read(None)?.rules;
            say(&whole(find(&rules, name)?));
            Ok(())
        }
        What::Test { names, from } => {
            let (settings, read) = from.read_noting_mistakes(None);
            let chosen = if names.is_empty() {
                Ok(read.rules)
            } else {
                names.iter().map(|name| find(&read.rules, name).cloned()).collect()
            };
            // One that was asked for and cannot be read is among the mistakes.
            finish_with_rules(settings, &read.common, &read.query, chosen.as_deref().unwrap_or_default())?;
            let planned = block_on(examine(chosen?, &read.query, read.common.catalogue))?;
            say(&format!("{planned} rules are right"));
            Ok(())
        }
        What::Run(args) => run(args),
        What::Score(args) => score::main(args),
    }
}

fn engine(store: Store, limits: Limits) -> Result<Engine, String> {
    let spill = nodescope_query::engine::Spill { folder: None, bytes: 10 << 30 };
    Engine::new(Reader::new(store, 256 << 20), limits, spill).map_err(|e| chain(&e))
}

fn find<'a>(rules: &'a [Definition], name: &str) -> Result<&'a Definition, String> {
    rules
        .iter()
        .find(|rule| rule.name == name)
        .ok_or_else(|| format!("there is no rule `{name}`; `nodescope rules list` shows which there are"))
}

fn line(rule: &Definition, width: usize) -> String {
    let kind = match (&rule.alert, &rule.sink) {
        (Some(alert), _) => alert.severity.as_str().to_owned(),
        (None, Some(sink)) => sink.to_string(),
        (None, None) => String::new(),
    };
    let mut line = format!("{:width$}  {kind:8}  {:>6}  {}", rule.name, show(rule.every), rule.title);
    if let Some(alert) = rule.alert.as_ref().filter(|alert| !alert.techniques.is_empty()) {
        line.push_str(&format!("  [{}]", alert.techniques.join(", ")));
    }
    if !rule.parameters.is_empty() {
        let names: Vec<&str> = rule.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        line.push_str(&format!("  ({})", names.join(", ")));
    }
    line
}

fn whole(rule: &Definition) -> String {
    let restate = match rule.restate {
        Duration::ZERO => "none runs again".to_owned(),
        restate => format!("windows of {} run again", show(restate)),
    };
    let mut text = format!(
        "{}: {}\n\nruns every {} over {}, {} after the window's end; {} for late rows\n",
        rule.name,
        rule.title,
        show(rule.every),
        show(rule.window),
        show(rule.wait),
        restate,
    );
    if !rule.question.is_empty() {
        text.push_str(&format!("{}\n", rule.question));
    }
    match (&rule.alert, &rule.sink) {
        (Some(alert), _) => {
            text.push_str(&format!(
                "raises {} alerts when it has held for {}, by {}; over when it has not held for {}\nsays: {}\n",
                alert.severity.as_str(),
                show(alert.hold),
                alert.key.join(", "),
                show(alert.resolve_after),
                alert.summary,
            ));
            for (what, words) in [
                ("techniques", alert.techniques.join(", ")),
                ("inhibited by", alert.inhibited_by.join(", ")),
                ("guard", alert.guard.clone()),
            ] {
                if !words.is_empty() {
                    text.push_str(&format!("{what}: {words}\n"));
                }
            }
        }
        (None, Some(sink)) => text.push_str(&format!("its rows go to {sink}\n")),
        (None, None) => {}
    }
    for parameter in &rule.parameters {
        let value = parameter.value.as_ref().map(ToString::to_string).unwrap_or_default();
        let unit = if parameter.unit.is_empty() { String::new() } else { format!(" {}", parameter.unit) };
        text.push_str(&format!("  ${} = {value}{unit}: {}\n", parameter.name, parameter.help));
    }
    text.push_str(&format!("\n{}", rule.sql));
    text
}

fn show(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 if length.is_zero() => "0s".to_owned(),
        0 => format!("{}ms", length.as_millis()),
        s if s % 86_400 == 0 => format!("{}d", s / 86_400),
        s if s % 3_600 == 0 => format!("{}h", s / 3_600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

fn run(args: &RunArgs) -> Result<(), String> {
    let now = now_us();
    let (from, to) = (time("--from", &args.from, now)?, time("--to", &args.to, now)?);
    if from >= to {
        return Err(format!("--from is {}, which is not before --to, {}", stamp(from), stamp(to)));
    }
    let read = args.rules.read(args.store.as_ref())?;
    let mut rule = find(&read.rules, &args.name)?.clone();
    for entry in &args.values {
        let (name, value) = entry.split_once('=').ok_or("--set: each is parameter=value")?;
        rule.set_parameter(name.trim(), value.trim())?;
    }
    block_on(async move {
        let store = open_filled(&read.common.store, read.common.catalogue).await?;
        let engine = engine(store, read.query.limits)?;
        // So that a wrong rule says all that is wrong with it.
        rules::plan(&engine, vec![rule.clone()]).await.map_err(|e| e.to_string())?;
        let makes_alerts = rule.alert.is_some();
        let mut replay = Replay::new(Arc::new(rule), from, to).map_err(|e| e.text())?;
        let (mut windows, mut rows) = (0_u64, 0_usize);
        let mut incidents: BTreeMap<String, Incident> = BTreeMap::new();
        while let Some(replayed) = replay.next(&engine).await.map_err(|e| e.text())? {
            windows += 1;
            for batch in replayed.rows.iter().filter(|batch| batch.num_rows() > 0) {
                rows += batch.num_rows();
                if args.json && !makes_alerts {
                    let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
                    writer.write(batch).and_then(|()| writer.finish()).map_err(|e| chain(&e))?;
                    say(String::from_utf8_lossy(&writer.into_inner()).trim_end());
                }
            }
            for incident in replayed.changed {
                incidents.insert(incident.id.clone(), incident);
            }
        }
        let mut incidents: Vec<Incident> = incidents.into_values().collect();
        incidents.sort_by(|a, b| (a.began_us, &a.id).cmp(&(b.began_us, &b.id)));
        for incident in &incidents {
            say(&if args.json { json(incident) } else { told(incident) });
        }
        if !args.json && makes_alerts {
            let raised = incidents.iter().filter(|incident| incident.fired_us.is_some()).count();
            say(&format!("{windows} windows, {rows} rows, {raised} incidents raised"));
        } else if !args.json {
            say(&format!("{windows} windows, {rows} rows; --json prints them"));
        }
        Ok(())
    })
}

fn told(incident: &Incident) -> String {
    let ended = match (incident.state, incident.ended_us) {
        (State::Withdrawn, Some(ended)) => format!("not for long enough, until {}", stamp(ended)),
        (_, Some(ended)) => format!("until {}", stamp(ended)),
        (State::Pending, None) => "pending".to_owned(),
        (_, None) => "still firing".to_owned(),
    };
    let fired = incident.fired_us.map(|fired| format!(", raised {}", stamp(fired))).unwrap_or_default();
    format!("{}{fired}, {ended}: {}", stamp(incident.began_us), incident.summary)
}

fn json(incident: &Incident) -> String {
    serde_json::json!({
        "rule": incident.about.rule,
        "incident": incident.id,
        "state": incident.state.as_str(),
        "severity": incident.about.severity,
        "summary": incident.summary,
        "key": incident.key,
        "found": incident.found,
        "began": stamp(incident.began_us),
        "fired": incident.fired_us.map(stamp),
        "ended": incident.ended_us.map(stamp),
    })
    .to_string()
}

fn stamp(us: i64) -> String {
    use arrow_array::temporal_conversions::timestamp_us_to_datetime;
    timestamp_us_to_datetime(us).map(|time| time.and_utc().to_rfc3339()).unwrap_or_default()
}

/// A time, as somebody wrote it.
fn time(flag: &str, text: &str, now_us: i64) -> Result<i64, String> {
    if text == "now" {
        return Ok(now_us);
    }
    if let Ok(ago) = parse_duration(text) {
        return Ok(now_us.saturating_sub(i64::try_from(ago.as_micros()).unwrap_or(i64::MAX)));
    }
    arrow_cast::parse::string_to_timestamp_nanos(text)
        .map(|nanos| nanos / 1_000)
        .map_err(|_| format!("{flag}: `{text}` is no time: write 2026-01-31T12:00:00Z, 2026-01-31, 6h (ago) or now"))
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now = 1_800_000_000_000_000;
        assert_eq!(time("--to", "now", now), Ok(now));
        assert_eq!(time("--from", "6h", now), Ok(now - 21_600_000_000));
        assert_eq!(time("--from", "2023-11-14T22:13:20Z", now), Ok(1_700_000_000_000_000));
        assert_eq!(time("--from", "2023-11-14", now), Ok(1_699_920_000_000_000));
        assert!(time("--from", "yesterday", now).unwrap_err().contains("--from"));
    }

    #[test]
    fn lengths_are_short() {
        let shown = [0, 90, 120, 7_200, 172_800].map(|s| show(Duration::from_secs(s)));
        assert_eq!(shown, ["0s", "90s", "2m", "2h", "2d"]);
    }
}
