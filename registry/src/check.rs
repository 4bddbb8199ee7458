//! The whole, examined: every row by itself, rows among themselves, and all of them with what is there already.
//!
//! Nothing is written unless everything is right, so nothing is said before everything was looked at. What is right
//! by itself is put together with what the registry says, and then:
//!
//! - no entry is given twice;
//! - a node that is named is known, and while the entry that names it stands, it is not revoked;
//! - no node is, by way of its parents, its own parent, at any time.
//!
//! Rows that say what is said already are left out: an import of the same once more is no import.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::Mistakes;
use crate::entries::{Histories, Known, Registry, Span, end_of};
use crate::kinds::{Begins, Kind, Kinds, Role, nearest};
use crate::parse::{Row, Sheet};
use crate::value::{Value, show_time};

/// Nodes above a node at the most, which bounds the walk upwards.
const MAX_DEPTH: usize = 64;

/// The import that is to be.
#[derive(Debug, Clone)]
pub struct Import {
    /// Its name.
    pub name: String,
    /// Its time, later than that of any before.
    pub ts: i64,
    /// From when entries are valid that do not say.
    pub from: i64,
    /// Whether it revokes what must be there to be revoked.
    pub must_stand: bool,
}

/// One entry that is new.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: Vec<String>,
    /// From when it is valid.
    pub valid_from: i64,
    /// Whether it ends what came before and says nothing.
    pub revoked: bool,
    /// The values.
    pub values: Vec<Value>,
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct Plan {
    /// New entries, by kind.
    pub new: Vec<Vec<Entry>>,
    /// How many rows, by kind, say what is said already.
    pub unchanged: Vec<usize>,
}

impl Plan {
    /// How many entries are new.
    pub fn rows(&self) -> usize {
        self.new.iter().map(Vec::len).sum()
    }
}

/// A row that is right by itself.
struct Given {
    kind: usize,
    place: String,
    key: Vec<String>,
    valid_from: Option<i64>,
    revoked: bool,
    values: Vec<Value>,
}

/// Examines sheets with what the registry says, which afterwards says the new entries too.
///
/// # Errors
/// Every mistake in every row. The registry is then of no more use.
pub fn check(kinds: &Kinds, registry: &mut Registry, sheets: &[Sheet], import: &Import) -> Result<Plan, Mistakes> {
    let mut mistakes = Mistakes::default();
    let mut given = read(kinds, sheets, &mut mistakes);
    // What is to be so from now on is held against what the other rows say of now.
    given.sort_by_key(|row| row.valid_from.is_none());
    let mut plan = Plan { new: vec![Vec::new(); kinds.all().len()], unchanged: vec![0; kinds.all().len()] };
    let mut places: Vec<(usize, String, Vec<String>, i64)> = Vec::new();
    let mut seen: HashMap<(usize, Vec<String>, i64), String> = HashMap::with_capacity(given.len());
    for row in given {
        let kind = &kinds.all()[row.kind];
        let histories = registry.of(row.kind);
        let at = row.valid_from.unwrap_or_else(|| begin(kind, &row, import.from));
        if import.must_stand && histories.at(&row.key, at).is_none() {
            mistakes.add(&row.place, not_standing(kind, histories, &row.key, at));
        }
        let there = match row.valid_from {
            Some(_) => histories.get(&row.key).and_then(|history| history.get(&at)),
            None => histories.get(&row.key).and_then(|history| history.range(..=at).next_back().map(|(_, k)| k)),
        };
        let unchanged = match there {
            Some(known) => known.says(row.revoked, &row.values),
            // To revoke from now on what never was changes nothing.
            None => row.revoked && row.valid_from.is_none(),
        };
        if let Some(other) = seen.insert((row.kind, row.key.clone(), at), row.place.clone()) {
            mistakes.add(
                &row.place,
                format!("{} from {} is given twice, first at {other}", title(kind, &row.key), show_time(at)),
            );
            continue;
        }
        if unchanged {
            plan.unchanged[row.kind] += 1;
            continue;
        }
        let known =
            Known { ts: import.ts, import: import.name.clone(), revoked: row.revoked, values: row.values.clone() };
        registry.put(row.kind, row.key.clone(), at, known);
        places.push((row.kind, row.place, row.key.clone(), at));
        plan.new[row.kind].push(Entry { key: row.key, valid_from: at, revoked: row.revoked, values: row.values });
    }
    if let Some(nodes) = kinds.position("node") {
        together(&Together { kinds, registry, nodes, import }, &places, &mut mistakes);
    }
    mistakes.none()?;
    Ok(plan)
}

/// From when a row is valid that does not say.
fn begin(kind: &Kind, row: &Given, now: i64) -> i64 {
    let time = |name: &str| kind.value_at(name).and_then(|at| row.values[at].as_time());
    match kind.begins {
        Begins::Now => now,
        Begins::NoLaterThan(field) => time(field).map_or(now, |time| time.min(now)),
        Begins::With(field) => time(field).unwrap_or(now),
    }
}

/// An entry's key for messages: `registration 310101 gpu-01 gpu0`.
pub fn title(kind: &Kind, key: &[String]) -> String {
    let mut text = kind.name.to_owned();
    for part in key {
        text.push(' ');
        text.push_str(if part.is_empty() { "''" } else { part });
    }
    text
}

fn not_standing(kind: &Kind, histories: &Histories, key: &[String], at: i64) -> String {
    let title = title(kind, key);
    match histories.get(key).and_then(|history| history.keys().next()) {
        Some(first) if *first > at => format!("{title} begins only at {}", show_time(*first)),
        Some(_) => format!("{title} is revoked already"),
        None => format!("there is no {title}"),
    }
}

/// Every row by itself.
fn read(kinds: &Kinds, sheets: &[Sheet], mistakes: &mut Mistakes) -> Vec<Given> {
    let mut given = Vec::new();
    for sheet in sheets {
        let kind = &kinds.all()[sheet.kind];
        let fields: Vec<Option<usize>> =
            sheet.columns.iter().map(|name| kind.fields.iter().position(|field| field.name == *name)).collect();
        header(kinds, kind, sheet, &fields, mistakes);
        for row in &sheet.rows {
            let before = mistakes.0.len();
            let place = sheet.place(kinds, row);
            let read = one(kind, &fields, row, place, mistakes);
            if mistakes.0.len() == before {
                given.push(Given { kind: sheet.kind, ..read });
            }
        }
    }
    given
}

/// Columns that are none of the kind's, once for the whole sheet.
fn header(kinds: &Kinds, kind: &Kind, sheet: &Sheet, fields: &[Option<usize>], mistakes: &mut Mistakes) {
    let mut seen = BTreeSet::new();
    for (at, name) in sheet.columns.iter().enumerate() {
        if !seen.insert(name) {
            mistakes.add(&sheet.file, format!("{name}: is there twice"));
        }
        if fields[at].is_some() {
            continue;
        }
        let first = sheet.rows.iter().find(|row| row.cells.iter().any(|(column, _)| *column == at));
        let place = match first {
            Some(row) if !matches!(row.place, crate::parse::Place::Line(_)) => sheet.place(kinds, row),
            _ => format!("{}, line 1", sheet.file),
        };
        let what = match name.as_str() {
            "valid_to" => "is not given: an entry ends where the next one of its key begins".to_owned(),
            "ts" | "import" => "is not given: it is written at the import".to_owned(),
            "host" => format!("is no field of {}, which is about nodes", kind.name),
            "" => "a column has no name".to_owned(),
            name => match nearest(name, kind.fields.iter().map(|field| field.name.as_str())) {
                Some(meant) => format!("is no field of {}; did you mean `{meant}`?", kind.name),
                None => {
                    let known: Vec<&str> = kind.fields.iter().map(|field| field.name.as_str()).collect();
                    format!("is no field of {}, which has {}", kind.name, known.join(", "))
                }
            },
        };
        mistakes.add(place, if name.is_empty() { what } else { format!("{name}: {what}") });
    }
}

fn one(kind: &Kind, fields: &[Option<usize>], row: &Row, place: String, mistakes: &mut Mistakes) -> Given {
    let mut values = vec![Value::Null; kind.fields.len()];
    let mut wrong = BTreeSet::new();
    for (column, cell) in &row.cells {
        let Some(at) = fields[*column] else { continue };
        let field = &kind.fields[at];
        match Value::read(cell, field) {
            Ok(value) => values[at] = value,
            Err(what) => {
                wrong.insert(at);
                mistakes.add(&place, format!("{}: {what}", field.name));
            }
        }
    }
    let revoked = kind.fields.iter().zip(&values).any(|(f, v)| f.role == Role::Revoked && *v == Value::Bool(true));
    for (at, field) in kind.fields.iter().enumerate() {
        let value = matches!(field.role, Role::Value(_));
        if revoked && value && !values[at].is_null() {
            let what = "must be empty: a revocation gives the key, in valid_from when the entry ends, and nothing else";
            mistakes.add(&place, format!("{}: {what}", field.name));
        }
        if field.needed && values[at].is_null() && !wrong.contains(&at) && !(revoked && value) {
            mistakes.add(&place, format!("{}: is missing. {}", field.name, field.help));
        }
    }
    let valid_from = values[kind.keys].as_time();
    let rest = values.split_off(kind.keys + 2);
    values.truncate(kind.keys);
    let key = values.iter().map(|value| value.as_text().unwrap_or_default().to_owned()).collect();
    let given = Given { kind: 0, place, key, valid_from, revoked, values: rest };
    if !revoked {
        sense(kind, &given, mistakes);
    }
    given
}

/// What a row's values say of each other.
fn sense(kind: &Kind, row: &Given, mistakes: &mut Mistakes) {
    if let Some((from, to)) = kind.span
        && let (Some(starts), Some(ends)) = (row.values[from].as_time(), row.values[to].as_time())
        && starts >= ends
    {
        let (from, to) = (&kind.value_fields()[from].name, &kind.value_fields()[to].name);
        mistakes.add(&row.place, format!("{to}: is not later than {from}"));
    }
    if kind.name == "maintenance"
        && kind.host(&row.key).is_empty()
        && kind.value_at("device").is_some_and(|at| !row.values[at].is_null())
    {
        mistakes.add(&row.place, "device: needs the host it is in");
    }
}

/// What all entries are examined with, the new ones among them.
struct Together<'a> {
    kinds: &'a Kinds,
    registry: &'a Registry,
    nodes: usize,
    import: &'a Import,
}

impl Together<'_> {
    /// The nodes an entry names, with the field that does.
    fn named<'e>(&'e self, kind: usize, key: &'e [String], values: &'e [Value]) -> Vec<(&'e str, &'e str)> {
        let of = &self.kinds.all()[kind];
        let own = (kind != self.nodes).then(|| ("node", key[0].as_str()));
        let more = of
            .value_nodes()
            .iter()
            .filter_map(|at| Some((of.value_fields()[*at].name.as_str(), values.get(*at)?.as_text()?)));
        own.into_iter().chain(more).filter(|(_, code)| !code.is_empty()).collect()
    }

    fn node(&self, code: &str) -> Option<&crate::entries::History> {
        self.registry.of(self.nodes).get(&[code.to_owned()])
    }

    /// Why an entry that stands for `span` may not name that node.
    fn may_not_name(&self, code: &str, span: Span, lasting: bool) -> Option<String> {
        let Some(history) = self.node(code) else {
            let codes = self.registry.of(self.nodes).iter().map(|(key, _)| key[0].as_str());
            let hint = nearest(code, codes).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return Some(format!("node `{code}` is neither in the files nor in the registry{hint}"));
        };
        // A node may be registered later than what belongs to it, but it may not end before.
        let mut ended = history.iter().filter(|(_, known)| known.revoked).map(|(at, _)| *at);
        let ended = ended.find(|at| lasting && overlap((*at, end_of(history, *at)), span))?;
        Some(format!("node `{code}` ends at {}, and this entry does not", show_time(ended)))
    }
}

/// Whether there is a time at which both stand.
fn overlap(one: Span, other: Span) -> bool {
    let before = |end: Option<i64>, from: i64| end.is_some_and(|end| end <= from);
    !before(one.1, other.0) && !before(other.1, one.0)
}

fn together(all: &Together<'_>, new: &[(usize, String, Vec<String>, i64)], mistakes: &mut Mistakes) {
    let mut revoked: BTreeMap<&str, Vec<(i64, &str)>> = BTreeMap::new();
    for (kind, place, key, from) in new {
        let Some(history) = all.registry.of(*kind).get(key) else { continue };
        let Some(known) = history.get(from) else { continue };
        let of = &all.kinds.all()[*kind];
        if known.revoked {
            if *kind == all.nodes {
                revoked.entry(&key[0]).or_default().push((*from, place));
            }
            continue;
        }
        let span = (*from, end_of(history, *from));
        for (field, code) in all.named(*kind, key, &known.values) {
            if let Some(what) = all.may_not_name(code, span, of.lasting) {
                mistakes.add(place, format!("{field}: {what}"));
            }
        }
        if *kind == all.nodes
            && let Some((at, path)) = cycle(all, &key[0], span)
        {
            mistakes.add(place, format!("parent: at {} the node is above itself: {path}", show_time(at)));
        }
    }
    if !revoked.is_empty() {
        still_named(all, &revoked, mistakes);
    }
}

/// Whether the node, within that time, is by way of its parents its own parent; when, and by which way.
fn cycle(all: &Together<'_>, code: &str, span: Span) -> Option<(i64, String)> {
    let nodes = all.registry.of(all.nodes);
    let parent_at = all.kinds.all()[all.nodes].value_at("parent")?;
    let mut times = BTreeSet::from([span.0]);
    let mut asked = BTreeSet::new();
    // Only a change of something on the way up can close the ring: every way leads to more moments to look at.
    while let Some(time) = times.pop_first() {
        if !asked.insert(time) {
            continue;
        }
        let (mut path, mut at) = (vec![code.to_owned()], code.to_owned());
        for _ in 0..MAX_DEPTH {
            let key = [at.clone()];
            if let Some(history) = nodes.get(&key) {
                let later = history.keys().filter(|t| **t > time && span.1.is_none_or(|end| **t < end));
                times.extend(later.copied());
            }
            let Some(parent) = nodes.at(&key, time).and_then(|known| known.values[parent_at].as_text()) else { break };
            path.push(parent.to_owned());
            if parent == code {
                return Some((time, path.join(" → ")));
            }
            if path[..path.len() - 1].iter().any(|other| other == parent) {
                // A ring above it: told at one of those that are in it.
                break;
            }
            parent.clone_into(&mut at);
        }
    }
    None
}

/// Entries of before that name a node which is revoked under them.
fn still_named(all: &Together<'_>, revoked: &BTreeMap<&str, Vec<(i64, &str)>>, mistakes: &mut Mistakes) {
    let mut found: BTreeMap<(&str, i64, &str), Vec<String>> = BTreeMap::new();
    for (at, kind) in all.kinds.all().iter().enumerate().filter(|(_, kind)| kind.lasting) {
        for (key, history) in all.registry.of(at).iter() {
            for (from, known) in history.iter().filter(|(_, k)| !k.revoked && k.import != all.import.name) {
                let end = end_of(history, *from);
                for (_, code) in all.named(at, key, &known.values) {
                    for (time, place) in revoked.get(code).into_iter().flatten() {
                        let until = all.node(code).and_then(|history| end_of(history, *time));
                        if overlap((*time, until), (*from, end)) {
                            found.entry((place, *time, code)).or_default().push(title(kind, key));
                        }
                    }
                }
            }
        }
    }
    for ((place, time, code), names) in found {
        let first: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
        let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
        mistakes.add(
            place,
            format!(
                "node `{code}` cannot end at {}: {}{more} still name it; end those too",
                show_time(time),
                first.join(", ")
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use nodescope_model::catalogue::Catalogue;

    use super::*;
    use crate::parse::parse;

    const NOW: i64 = 1_780_000_000_000_000;

    fn examine(files: &[(&str, &str)]) -> (Registry, Result<Plan, Vec<String>>) {
        let kinds = Kinds::new(&Catalogue::built_in());
        let mut registry = Registry::empty(&kinds);
        let plan = add(&kinds, &mut registry, files, NOW);
        (registry, plan)
    }

    fn add(kinds: &Kinds, registry: &mut Registry, files: &[(&str, &str)], now: i64) -> Result<Plan, Vec<String>> {
        let mut mistakes = Mistakes::default();
        let sheets: Vec<Sheet> =
            files.iter().flat_map(|(file, text)| parse(kinds, file, text.as_bytes(), None, &mut mistakes)).collect();
        assert_eq!(mistakes, Mistakes::default());
        let import = Import { name: now.to_string(), ts: now, from: now, must_stand: false };
        check(kinds, registry, &sheets, &import).map_err(|m| m.0.iter().map(ToString::to_string).collect())
    }

    fn mistakes(files: &[(&str, &str)]) -> Vec<String> {
        examine(files).1.unwrap_err()
    }

    #[test]
    fn every_mistake_of_every_file_is_told_with_its_place() {
        let found = mistakes(&[
            ("node.csv", "node,knd,parent,kind\n1,,2,site\n3,,,planet\n,,,site\n1,,,site\n"),
            ("resource.json", r#"[{"node": "1", "resource": "r", "class": "super", "device": 8, "devices": "8"}]"#),
            (
                "maintenance.csv",
                "node,maintenance,starts,ends,device,valid_to\n1,T,2026-01-02T00:00:00Z,2026-01-01T00:00:00Z,d,\n",
            ),
        ]);
        for wanted in [
            "node.csv, line 1: knd: is no field of node; did you mean `kind`?",
            "node.csv, line 3: kind: `planet` is none of national, regional, industry, site",
            "node.csv, line 4: node: is missing",
            "node.csv, line 5: node 1 from 2026-05-28T20:26:40Z is given twice, first at node.csv, line 2",
            "node.csv, line 2: parent: node `2` is neither in the files nor in the registry",
            "resource.json, resource 1: device: is no field of resource; did you mean `devices`?",
            "resource.json, resource 1: devices: \"8\" is not a whole number, without quotes",
            "resource.json, resource 1: precision: is missing",
            "resource.json, resource 1: sparsity: is missing",
            "resource.json, resource 1: basis: is missing",
            "maintenance.csv, line 1: valid_to: is not given",
            "maintenance.csv, line 2: ends: is not later than starts",
            "maintenance.csv, line 2: device: needs the host it is in",
        ] {
            assert!(found.iter().any(|mistake| mistake.starts_with(wanted)), "{wanted}\n{found:#?}");
        }
        assert_eq!(found.len(), 13, "{found:#?}");
    }

    #[test]
    fn a_node_is_never_above_itself() {
        assert!(mistakes(&[("node.csv", "node,kind,parent\n1,site,1\n")])[0].contains("1 → 1"));
        let found = mistakes(&[("node.csv", "node,kind,parent\n1,site,2\n2,site,3\n3,site,2\n")]);
        assert!(found.iter().any(|mistake| mistake.contains("2 → 3 → 2")), "{found:?}");
        // Each is right for its time: together they close the ring only from February on.
        let kinds = Kinds::new(&Catalogue::built_in());
        let mut registry = Registry::empty(&kinds);
        let first = "node,kind,parent,valid_from\n1,site,,2026-01-01T00:00:00Z\n2,site,1,2026-02-01T00:00:00Z\n";
        add(&kinds, &mut registry, &[("node.csv", first)], NOW).unwrap();
        let ring = "node,kind,parent,valid_from\n1,site,2,2026-01-15T00:00:00Z\n";
        let found = add(&kinds, &mut registry, &[("node.csv", ring)], NOW + 1).unwrap_err();
        assert!(found[0].contains("at 2026-02-01T00:00:00Z the node is above itself: 1 → 2 → 1"), "{found:?}");
    }

    #[test]
    fn a_node_that_is_named_cannot_end() {
        let kinds = Kinds::new(&Catalogue::built_in());
        let mut registry = Registry::empty(&kinds);
        let files =
            [("node.csv", "node,kind\n1,site\n2,site\n"), ("registration.csv", "node,host,status\n1,h,in_service\n")];
        add(&kinds, &mut registry, &files, NOW).unwrap();
        let end = [("node.csv", "node,revoked\n1,true\n2,true\n")];
        let found = add(&kinds, &mut registry.clone(), &end, NOW + 1).unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("node.csv, line 2: node `1` cannot end") && found[0].contains("registration 1 h ''"));
        // Both at once is right.
        let both = [end[0], ("registration.csv", "node,host,revoked\n1,h,true\n")];
        assert_eq!(add(&kinds, &mut registry, &both, NOW + 1).unwrap().rows(), 3);
        // And nothing may come to stand on it afterwards, not even looking back.
        let late = "node,host,status,valid_from\n1,g,in_service,2026-01-01T00:00:00Z\n";
        let found = add(&kinds, &mut registry, &[("registration.csv", late)], NOW + 2).unwrap_err();
        assert!(found[0].contains("node `1` ends at"), "{found:?}");
    }

    #[test]
    fn a_revocation_says_nothing_else() {
        let found = mistakes(&[("node.csv", "node,kind,revoked\n1,site,true\n")]);
        assert!(found.len() == 1 && found[0].contains("kind: must be empty"), "{found:?}");
    }

    #[test]
    fn what_does_not_say_from_when_begins_where_it_makes_sense() {
        let (_, plan) = examine(&[
            ("node.csv", "node,kind\n1,site\n"),
            (
                "maintenance.csv",
                "node,maintenance,starts,ends\n1,past,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z\n1,later,2027-01-01T00:00:00Z,2027-01-02T00:00:00Z\n",
            ),
            (
                "billed.csv",
                "node,identifier,period_starts,period_ends,accelerator_hours\n1,i,2026-01-01T00:00:00Z,2026-02-01T00:00:00Z,5\n1,i,2026-02-01T00:00:00Z,2026-03-01T00:00:00Z,5\n",
            ),
        ]);
        let times =
            plan.unwrap().new.into_iter().flatten().map(|entry| show_time(entry.valid_from)).collect::<Vec<_>>();
        let now = show_time(NOW);
        let wanted = [&now, "2026-01-01T00:00:00Z", &now, "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"];
        assert_eq!(times, wanted);
    }

    #[test]
    fn what_is_said_already_is_not_said_again() {
        let kinds = Kinds::new(&Catalogue::built_in());
        let mut registry = Registry::empty(&kinds);
        let mut counts = |text: &str, now: i64| {
            let plan = add(&kinds, &mut registry, &[("node.csv", text)], NOW + now).unwrap();
            (plan.rows(), plan.unchanged[0])
        };
        assert_eq!(counts("node,kind,name\n1,site,a\n2,site,\n", 0), (2, 0));
        assert_eq!(counts("node,kind,name\n1,site,b\n2,site,\n", 1), (1, 1));
        // Back to what it was is a change too.
        assert_eq!(counts("node,kind,name\n1,site,a\n", 2), (1, 0));
        assert_eq!(counts("node,revoked\n2,true\n3,true\n", 3), (1, 1));
        assert_eq!(counts("node,revoked\n2,true\n", 4), (0, 1));
        // From now on as before, beside a row that changes the past: that would otherwise change now too.
        let text = "node,kind,name,valid_from\n1,site,a,\n1,site,c,2026-06-01T00:00:00Z\n";
        assert_eq!(counts(text, 600_000_000_000), (2, 0));
    }
}
