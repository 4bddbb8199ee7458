//! The rules there are, and what must be right of them before any runs.
//!
//! Rules come from three places: those built in (`rules/*.sql`), those made from the catalogue (rollups), and a site's
//! own. All are read, then planned against the tables and views there are, so that a wrong name is told at start and by
//! `nodescope check`, not by the first run at night.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use nodescope_model::catalogue::Catalogue;
use nodescope_service::errors::chain;

use super::built_in::BUILT_IN;
use super::run::Run;
use super::sink::{Sink, TableSink};
use super::windows::Grid;
use crate::alerts::summary::Template;
use crate::definition::{self, Definition, Mistakes, Purpose, SinkName};
use crate::engine::Engine;
use crate::rollups;

/// A rule that can run.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its file.
    pub definition: Arc<Definition>,
    /// Tables of the catalogue that its SQL reads, directly or through views.
    pub reads: BTreeSet<String>,
}

impl Rule {
    /// The table that it fills, if it fills one.
    pub fn fills(&self) -> Option<&str> {
        match &self.definition.sink {
            Some(SinkName::Table(name)) => Some(name),
            _ => None,
        }
    }
}

/// Rules that have been read.
#[derive(Debug, Default)]
pub struct Read {
    /// Those that are right.
    pub rules: Vec<Definition>,
    /// Names of those that are a site's own.
    pub own: BTreeSet<String>,
    /// Every mistake in all others.
    pub mistakes: Mistakes,
}

/// Reads all rules: the built-in ones and those made from the catalogue, and those of a folder.
///
/// # Errors
/// Every mistake in every file.
pub fn load(folder: Option<&Path>, catalogue: &Catalogue) -> Result<Vec<Definition>, Mistakes> {
    let Read { rules, mistakes, .. } = read(true, folder, catalogue);
    if mistakes.0.is_empty() { Ok(rules) } else { Err(mistakes) }
}

/// Reads the rules of a folder, and our own with them if they are wanted.
pub fn read(built_in: bool, folder: Option<&Path>, catalogue: &Catalogue) -> Read {
    let Read { mut rules, mut own, mut mistakes } = if built_in { ours(catalogue) } else { Read::default() };
    let (more, wrong) = folder.map(|folder| definition::read_folder(folder, Purpose::Rule)).unwrap_or_default();
    mistakes.0.extend(wrong.0);
    for rule in more {
        if rules.iter().any(|known| known.name == rule.name) {
            let file = folder.unwrap_or(Path::new("")).join(format!("{}.sql", rule.name)).display().to_string();
            mistakes.add(&file, "", "there is a built-in rule of this name; choose another");
        } else {
            own.insert(rule.name.clone());
            rules.push(rule);
        }
    }
    let mut lost = Vec::new();
    for rule in &rules {
        let causes = rule.alert.iter().flat_map(|alert| &alert.inhibited_by);
        let is_there = |cause: &str| rules.iter().any(|other| other.name == cause && other.alert.is_some());
        lost.extend(
            causes.filter(|cause| !is_there(cause) && !mistakes.concern(cause)).map(|cause| (&rule.name, cause)),
        );
    }
    for (rule, cause) in lost {
        mistakes.add(rule, "alert.inhibited_by", format!("there is no rule `{cause}` that makes alerts"));
    }
    Read { rules, own, mistakes }
}

/// The built-in rules, and those made from the catalogue.
fn ours(catalogue: &Catalogue) -> Read {
    let mut read = Read::default();
    for (file, text) in BUILT_IN {
        match Definition::parse(file, text, Purpose::Rule) {
            Ok(rule) => read.rules.push(rule),
            Err(more) => read.mistakes.0.extend(more.0),
        }
    }
    match rollups::definitions(catalogue) {
        Ok(more) => read.rules.extend(more),
        Err(more) => read.mistakes.0.extend(more.0),
    }
    read
}

/// Plans rules against the engine's tables and views, and looks whether their sinks can take what they find.
///
/// # Errors
/// Every mistake of every rule.
pub async fn plan(engine: &Engine, definitions: Vec<Definition>) -> Result<Vec<Rule>, Mistakes> {
    let mut mistakes = Mistakes::default();
    let mut rules = Vec::with_capacity(definitions.len());
    for definition in definitions {
        let definition = Arc::new(definition);
        match plan_one(engine, &definition).await {
            Ok(reads) => rules.push(Rule { definition, reads }),
            Err(what) => what.into_iter().for_each(|(key, what)| mistakes.add(&definition.name, key, what)),
        }
    }
    for circle in circles(&rules) {
        mistakes.add(&circle[0], "sink", format!("it waits for itself: {}", circle.join(" fills what is read by ")));
    }
    if mistakes.0.is_empty() { Ok(rules) } else { Err(mistakes) }
}

async fn plan_one(
    engine: &Engine,
    definition: &Arc<Definition>,
) -> Result<BTreeSet<String>, Vec<(&'static str, String)>> {
    // Any window will do: what is planned is not asked.
    let window = Grid::of(definition).ending(0);
    let run = Run { rule: Arc::clone(definition), window, revision: 0, began_us: 0 };
    let catalogue = engine.reader().store().catalogue();
    let query = match engine.own(&definition.sql, &run.values()).await {
        Ok(query) => query,
        Err(error) => {
            let mut wrong = vec![("", chain(&error))];
            if let Some(SinkName::Table(name)) = &definition.sink {
                wrong.extend(TableSink::new(catalogue, name).err().map(|error| ("sink", chain(&error))));
            }
            return Err(wrong);
        }
    };
    let mut wrong = Vec::new();
    let reads = query.tables().unwrap_or_else(|error| {
        wrong.push(("", error.to_string()));
        BTreeSet::new()
    });
    let schema = query.schema();
    match &definition.sink {
        Some(SinkName::Table(name)) => {
            let nothing = RecordBatch::new_empty(Arc::clone(&schema));
            let taken = TableSink::new(catalogue, name).and_then(|mut sink| sink.take(&run, &[nothing]));
            if let Err(error) = taken {
                wrong.push(("sink", chain(&error)));
            }
        }
        Some(SinkName::Alert) => {
            if let Some(alert) = &definition.alert {
                let unknown = |name: &&String| schema.field_with_name(name).is_err();
                wrong.extend(alert.key.iter().filter(unknown).map(|name| ("alert.key", no_column(name))));
                match Template::parse(&alert.summary) {
                    Ok(template) => {
                        wrong.extend(template.check(&schema).into_iter().map(|e| ("alert.summary", e.to_string())));
                    }
                    Err(error) => wrong.push(("alert.summary", error.to_string())),
                }
            }
        }
        Some(SinkName::Webhook(_) | SinkName::Kafka(_)) | None => {}
    }
    if wrong.is_empty() { Ok(reads) } else { Err(wrong) }
}

fn no_column(name: &str) -> String {
    format!("the SQL gives no column `{name}`")
}

/// For each rule, those that fill what it reads. A rule that reads what it fills itself does not wait for itself.
pub(crate) fn upstream(rules: &[Rule]) -> Vec<Vec<usize>> {
    let mut filled: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, rule) in rules.iter().enumerate() {
        if let Some(table) = rule.fills() {
            filled.entry(table).or_default().push(at);
        }
    }
    let of = |(at, rule): (usize, &Rule)| {
        let fillers = rule.reads.iter().filter_map(|table| filled.get(table.as_str())).flatten();
        fillers.copied().filter(|filler| *filler != at).collect()
    };
    rules.iter().enumerate().map(of).collect()
}

/// Rules that wait for each other in a circle, each circle once.
fn circles(rules: &[Rule]) -> Vec<Vec<String>> {
    let upstream = upstream(rules);
    // What can be taken away because it waits for nothing that is left is in no circle.
    let mut left: BTreeSet<usize> = (0..rules.len()).collect();
    loop {
        let free: Vec<usize> =
            left.iter().copied().filter(|at| upstream[*at].iter().all(|up| !left.contains(up))).collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|at| {
            left.remove(at);
        });
    }
    let mut found = Vec::new();
    while let Some(first) = left.first().copied() {
        let (mut path, mut at) = (vec![first], first);
        left.remove(&first);
        while let Some(up) = upstream[at].iter().copied().find(|up| left.contains(up)) {
            left.remove(&up);
            path.push(up);
            at = up;
        }
        path.push(first);
        path.reverse();
        found.push(path.into_iter().map(|at| rules[at].definition.name.clone()).collect());
    }
    found
}

#[cfg(test)]
mod tests {
    use nodescope_store::Store;
    use nodescope_store::cut::Reader;

    use super::*;
    use crate::engine::Spill;
    use crate::limits::Limits;

    fn engine() -> Engine {
        let objects = Arc::new(object_store::memory::InMemory::new());
        let store = Store::new(objects, Arc::new(Catalogue::built_in()), "memory:");
        Engine::new(Reader::new(store, 1 << 20), Limits::default(), Spill { folder: None, bytes: 1 << 30 }).unwrap()
    }

    fn rule(name: &str, sink: &str, sql: &str) -> Definition {
        let alert = if sink == "alert" {
            "[alert]\nseverity = \"info\"\nkey = [\"host\"]\nsummary = \"{host}: {load:.1}\""
        } else {
            ""
        };
        let text = format!(
            "/* title = \"x\"\nevery = \"1m\"\nsink = \"{sink}\"\n{alert} */ {sql} WHERE ts >= $from AND ts < $to"
        );
        Definition::parse(name, &text, Purpose::Rule).unwrap_or_else(|e| panic!("{e}"))
    }

    #[tokio::test]
    async fn the_built_in_rules_can_be_planned() {
        let engine = engine();
        let rules = load(None, engine.reader().store().catalogue()).unwrap_or_else(|e| panic!("{e}"));
        plan(&engine, rules).await.unwrap_or_else(|e| panic!("{e}"));
    }

    #[tokio::test]
    async fn what_a_rule_reads_and_fills_is_known() {
        let rules = vec![
            rule(
                "one",
                "table:sample",
                "SELECT ts, node, host, 'x' AS exporter, 'load' AS name, 1 AS series, load1 AS value FROM system",
            ),
            rule("two", "alert", "SELECT host, value AS load FROM sample"),
        ];
        let rules = plan(&engine(), rules).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(rules[0].reads.iter().collect::<Vec<_>>(), ["system"]);
        assert_eq!(rules[0].fills(), Some("sample"));
        assert_eq!(upstream(&rules), [vec![], vec![0]]);
    }

    #[tokio::test]
    async fn every_mistake_of_every_rule_is_told() {
        let rules = vec![
            rule("a", "alert", "SELECT node FROM system"),
            rule(
                "b",
                "table:sample",
                "SELECT ts, node, host, 'x' AS exporter, 'load' AS name, 1 AS series, host AS value FROM system",
            ),
            rule("c", "table:nowhere", "SELECT * FROM system"),
            rule("d", "table:elsewhere", "SELECT nothing FROM system"),
        ];
        let mistakes = plan(&engine(), rules).await.unwrap_err().to_string();
        for wanted in [
            "a: alert.key: the SQL gives no column `host`",
            "a: alert.summary: the SQL gives no column `host`",
            "a: alert.summary: the SQL gives no column `load`",
            "b: sink: its rows cannot be rows of `sample`",
            "c: sink: there is no table `nowhere`",
            "d: it cannot be planned",
            "d: sink: there is no table `elsewhere`",
        ] {
            assert!(mistakes.contains(wanted), "{wanted} is not in\n{mistakes}");
        }
    }

    #[tokio::test]
    async fn rules_that_wait_for_each_other_are_refused() {
        let copy = |name: &str, from: &str, to: &str, columns: &str| {
            rule(name, &format!("table:{to}"), &format!("SELECT ts, node, host{columns} FROM {from}"))
        };
        let rules = vec![
            copy("a", "sample", "system", ""),
            copy("b", "system", "memory", ""),
            copy("c", "memory", "sample", ", 'x' AS exporter, 'x' AS name, 1 AS series"),
        ];
        let mistakes = plan(&engine(), rules).await.unwrap_err();
        assert_eq!(mistakes.0.len(), 1, "{mistakes}");
        assert!(mistakes.to_string().contains("it waits for itself: a fills what is read by b"), "{mistakes}");
        let itself = vec![copy("a", "memory", "memory", "")];
        assert!(plan(&engine(), itself).await.is_ok());
    }
}
