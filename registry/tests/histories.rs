//! Random imports, and a model that is as simple as it can be: a list of all that was ever said. The registry, read back
//! from the store, must say the same at every time; refuse what breaks a rule, and then say what it said before.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use nodescope_model::catalogue::Catalogue;
use nodescope_registry::entries::Registry;
use nodescope_registry::export::{self, What};
use nodescope_registry::kinds::Kinds;
use nodescope_registry::parse::{Sheet, parse};
use nodescope_registry::value::show_time;
use nodescope_registry::write::{self, How};
use nodescope_registry::{Mistakes, RegistryError};
use nodescope_store::Store;
use nodescope_store::journal::{Journal, REGISTRY};
use nodescope_store::seal::Sealer;
use proptest::prelude::*;

/// Times are days of 2026, so that few of them meet often.
const DAY: i64 = 86_400_000_000;
const BEGIN: i64 = 1_767_225_600_000_000;

fn store() -> Store {
    Store::new(Arc::new(object_store::memory::InMemory::new()), Arc::new(Catalogue::built_in()), "test")
}

fn sheets(kinds: &Kinds, file: &str, text: &str) -> Result<Vec<Sheet>, Mistakes> {
    let mut mistakes = Mistakes::default();
    let sheets = parse(kinds, file, text.as_bytes(), None, &mut mistakes);
    mistakes.none().map(|()| sheets)
}

/// One row as the model sees it.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    kind: &'static str,
    key: Vec<String>,
    from: i64,
    /// What it says: the parent, the status, the reason. Nothing: it is revoked.
    what: Option<String>,
}

/// A row to be imported. `day` is when it is valid; none: from the import on.
#[derive(Debug, Clone)]
struct Given {
    kind: &'static str,
    key: Vec<String>,
    day: Option<i64>,
    what: Option<String>,
}

impl Given {
    fn json(&self) -> (&'static str, serde_json::Value) {
        let mut row = serde_json::Map::new();
        let mut put = |name: &str, value: serde_json::Value| row.insert(name.to_owned(), value);
        let names: &[&str] = match self.kind {
            "node" => &["node"],
            "registration" => &["node", "host"],
            _ => &["kind", "name", "value"],
        };
        for (name, part) in names.iter().zip(&self.key) {
            put(name, part.as_str().into());
        }
        if let Some(day) = self.day {
            put("valid_from", show_time(BEGIN + day * DAY).into());
        }
        match (&self.what, self.kind) {
            (None, _) => drop(put("revoked", true.into())),
            (Some(parent), "node") => {
                put("kind", "site".into());
                put("parent", parent.as_str().into());
            }
            (Some(status), "registration") => drop(put("status", status.as_str().into())),
            (Some(reason), _) => drop(put("reason", reason.as_str().into())),
        }
        (self.kind, row.into())
    }
}

fn given() -> impl Strategy<Value = Given> {
    let code = || prop::sample::select(vec!["a", "b", "c"]);
    let day = || prop::option::weighted(0.8, 0..6_i64);
    let said = |what: Vec<&'static str>| prop::option::weighted(0.75, prop::sample::select(what));
    let owned = |what: Option<&str>| what.map(str::to_owned);
    prop_oneof![
        3 => (code(), day(), said(vec!["", "", "a", "b", "c"])).prop_map(move |(code, day, what)| Given {
            kind: "node", key: vec![code.to_owned()], day, what: owned(what),
        }),
        2 => (code(), prop::sample::select(vec!["x", "y"]), day(), said(vec!["in_service", "repair"])).prop_map(
            move |(code, host, day, what)| Given {
                kind: "registration", key: vec![code.to_owned(), host.to_owned()], day, what: owned(what),
            }
        ),
        2 => (prop::sample::select(vec!["k", "l"]), day(), said(vec!["one", "two"])).prop_map(move |(name, day, what)| Given {
            kind: "approved",
            key: vec!["module".to_owned(), name.to_owned(), "*".to_owned()],
            day,
            what: owned(what),
        }),
    ]
}

/// All that was ever said, in its order.
#[derive(Debug, Clone, Default)]
struct Model(Vec<Said>);

impl Model {
    fn with(&self, rows: &[Given], now: i64) -> Self {
        let mut then = self.clone();
        let (dated, undated): (Vec<&Given>, Vec<&Given>) = rows.iter().partition(|row| row.day.is_some());
        for row in dated.into_iter().chain(undated) {
            let from = row.day.map_or(now, |day| BEGIN + day * DAY);
            // What has no time of its own says something only where that is not so already.
            if row.day.is_some() || then.at(row.kind, &row.key, now) != row.what.as_deref() {
                then.0.push(Said { kind: row.kind, key: row.key.clone(), from, what: row.what.clone() });
            }
        }
        then
    }

    /// What a key says at a time: of what began last, what was said last.
    fn at(&self, kind: &str, key: &[String], time: i64) -> Option<&str> {
        let of = self.0.iter().enumerate().filter(|(_, s)| s.kind == kind && s.key == key && s.from <= time);
        of.max_by_key(|(at, said)| (said.from, *at)).and_then(|(_, said)| said.what.as_deref())
    }

    fn times(&self) -> Vec<i64> {
        let mut times: Vec<i64> = self.0.iter().map(|said| said.from).collect();
        times.sort_unstable();
        times.dedup();
        times
    }

    fn keys(&self) -> Vec<(&'static str, Vec<String>)> {
        let mut keys: Vec<_> = self.0.iter().map(|said| (said.kind, said.key.clone())).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Nodes that one entry names at a time.
    fn named(&self, kind: &str, key: &[String], time: i64) -> Option<String> {
        let what = self.at(kind, key, time)?;
        match kind {
            "node" => Some(what.to_owned()).filter(|parent| !parent.is_empty()),
            "registration" => Some(key[0].clone()),
            _ => None,
        }
    }

    /// Whether, at any time, a node is its own parent.
    fn has_ring(&self) -> bool {
        let nodes: Vec<Vec<String>> =
            self.keys().into_iter().filter(|(kind, _)| *kind == "node").map(|(_, key)| key).collect();
        self.times().into_iter().any(|time| {
            nodes.iter().any(|start| {
                let mut at = start.clone();
                (0..10).any(|_| match self.named("node", &at, time) {
                    Some(parent) => {
                        at = vec![parent];
                        at == *start
                    }
                    None => {
                        at = Vec::new();
                        false
                    }
                })
            })
        })
    }

    /// Whether, at any time, an entry names a node that is revoked at that time.
    fn names_the_revoked(&self) -> bool {
        let times = self.times();
        self.keys().into_iter().any(|(kind, key)| {
            times.iter().any(|time| {
                self.named(kind, &key, *time).is_some_and(|code| {
                    let code = [code];
                    let began = self.0.iter().any(|s| s.kind == "node" && s.key == code && s.from <= *time);
                    began && self.at("node", &code, *time).is_none()
                })
            })
        })
    }

    /// Whether some entry names a node of which nothing was ever said.
    fn names_the_unknown(&self) -> bool {
        let times = self.times();
        self.keys().into_iter().any(|(kind, key)| {
            let named = times.iter().filter_map(|time| self.named(kind, &key, *time));
            named.into_iter().any(|code| !self.0.iter().any(|said| said.kind == "node" && said.key[0] == code))
        })
    }
}

/// What the registry says of a key at a time, in the model's words.
fn said(kinds: &Kinds, registry: &Registry, kind: &str, key: &[String], time: i64) -> Option<String> {
    let at = kinds.position(kind).unwrap();
    let of = &kinds.all()[at];
    let key: Vec<String> = match kind {
        "registration" => key.iter().cloned().chain([String::new()]).collect(),
        "approved" => [String::new(), String::new()].into_iter().chain(key.iter().cloned()).collect(),
        _ => key.to_vec(),
    };
    let field = match kind {
        "node" => "parent",
        "registration" => "status",
        _ => "reason",
    };
    let value = of.value_at(field).unwrap();
    registry.of(at).at(&key, time).map(|known| known.values[value].to_string())
}

async fn seal(store: &Store) {
    let journal = Journal::open(store, REGISTRY).await.unwrap();
    let recovered = store.recover(journal.partition()).await.unwrap();
    let segments: Vec<_> = recovered.segments.into_iter().map(Arc::new).collect();
    Sealer::new(store.clone()).seal(&segments).await.unwrap();
}

async fn run(imports: Vec<(Vec<Given>, bool)>) -> Result<(), TestCaseError> {
    let (store, kinds) = (store(), Kinds::new(&Catalogue::built_in()));
    let mut model = Model::default();
    for (rows, then_seal) in imports {
        let mut by_kind: BTreeMap<&str, Vec<serde_json::Value>> = BTreeMap::new();
        for row in &rows {
            let (kind, json) = row.json();
            by_kind.entry(kind).or_default().push(json);
        }
        let text = serde_json::to_string(&by_kind).unwrap();
        let sheets = sheets(&kinds, "all.json", &text).unwrap();
        let before = write::read(&store, &kinds).await.unwrap();
        let done = write::import(&store, &kinds, &sheets, How::default()).await;
        let after = write::read(&store, &kinds).await.unwrap();
        let twice = (1..rows.len()).any(|at| {
            rows[..at].iter().any(|r| r.kind == rows[at].kind && r.key == rows[at].key && r.day == rows[at].day)
        });
        match done {
            Ok(done) => {
                prop_assert!(!twice, "one entry twice was taken: {rows:?}");
                prop_assert_eq!(done.import.is_some(), after != before);
                // Where nothing was new it does not matter when.
                let then = model.with(&rows, if done.import.is_some() { after.newest } else { i64::MAX - 1 });
                prop_assert!(!then.has_ring(), "a ring: {then:?}");
                prop_assert!(!then.names_the_revoked(), "a revoked node is named: {then:?}");
                if done.import.is_some() {
                    model = then;
                } else {
                    for (kind, key) in then.keys() {
                        for time in then.times() {
                            prop_assert_eq!(then.at(kind, &key, time), model.at(kind, &key, time));
                        }
                    }
                }
                // Once more, and nothing is new.
                let again = write::import(&store, &kinds, &sheets, How::default()).await.unwrap();
                prop_assert_eq!(again.import, None);
            }
            Err(RegistryError::Mistakes(mistakes)) => {
                let then = model.with(&rows, BEGIN + 1_000 * DAY);
                let wrong = twice || then.has_ring() || then.names_the_revoked() || then.names_the_unknown();
                prop_assert!(wrong, "refused without a reason: {mistakes}\n{then:?}");
                prop_assert_eq!(&after, &before);
            }
            Err(error) => prop_assert!(false, "{error:?}"),
        }
        if then_seal {
            seal(&store).await;
        }
        let registry = write::read(&store, &kinds).await.unwrap();
        let mut times = model.times();
        times.extend([0, BEGIN - 1, BEGIN + 3 * DAY + 1, i64::MAX]);
        for (kind, key) in model.keys() {
            for time in &times {
                let found = said(&kinds, &registry, kind, &key, *time);
                prop_assert_eq!(found.as_deref(), model.at(kind, &key, *time), "{} {:?} at {}", kind, key, time);
            }
        }
    }
    round_trip(&store, &kinds).await
}

/// What is exported says the same when it is imported elsewhere.
async fn round_trip(store: &Store, kinds: &Kinds) -> Result<(), TestCaseError> {
    let registry = write::read(store, kinds).await.unwrap();
    // Not what stood at a time in between: it may name a node that was registered only later.
    for what in [What::History, What::At(i64::MAX)] {
        let json = export::json(kinds, &registry, None, what).unwrap();
        let mut texts = vec![sheets(kinds, "all.json", &json).unwrap()];
        let mut all = Vec::new();
        for (at, kind) in kinds.all().iter().enumerate() {
            let text = export::csv(kinds, &registry, at, what).unwrap();
            all.extend(sheets(kinds, &format!("{}.csv", kind.name), &text).unwrap());
        }
        texts.push(all);
        for sheets in texts {
            let other = self::store();
            write::import(&other, kinds, &sheets, How::default())
                .await
                .map_err(|e| TestCaseError::fail(format!("{e}\n{json}")))?;
            let there = write::read(&other, kinds).await.unwrap();
            prop_assert_eq!(export::json(kinds, &there, None, what).unwrap(), json.clone());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn histories_are_what_was_said(
        imports in prop::collection::vec((prop::collection::vec(given(), 1..5), prop::bool::weighted(0.3)), 1..8)
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(imports))?;
    }
}
