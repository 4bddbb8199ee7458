//! The dashboards explain themselves, name only what the catalogue has, and are what Grafana gets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nodescope_dashboards::{Draw, Format, Panel, Window, grafana_json, host, panels};
use nodescope_model::catalogue::{Catalogue, Table};
use serde_json::Value;

/// Functions that queries may call.
const FUNCTIONS: &[&str] = &[
    "avg",
    "coalesce",
    "concat",
    "extract",
    "increase",
    "last",
    "max",
    "now",
    "nullif",
    "rate",
    "row_number",
    "time_bucket",
];

/// Bare words that are neither: fields of `extract`.
const WORDS: &[&str] = &["epoch"];

#[derive(Debug, PartialEq)]
enum Token {
    /// `cpu`, `SELECT`, `8`
    Word(String),
    /// `"used"`
    Quoted(String),
    /// Any other character. Literals are left out.
    Sign(char),
}

fn tokens(sql: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let end = if first.is_ascii_alphanumeric() || first == '_' {
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if matches!(first, '"' | '\'') {
            rest[1..].find(first).expect("quotes are closed") + 2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(end);
        match first {
            '\'' => {}
            '"' => out.push(Token::Quoted(token[1..end - 1].to_owned())),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(Token::Word(token.to_owned())),
            c if c.is_whitespace() => {}
            c => out.push(Token::Sign(c)),
        }
        rest = after;
    }
    out
}

fn expanded(sql: &str) -> Vec<Token> {
    let to = SystemTime::now();
    let window = Window {
        from: to - Duration::from_secs(300),
        to,
        interval: Duration::from_secs(60),
        variables: ["node", "host"].map(|name| (name.to_owned(), "x".to_owned())).into(),
    };
    let sql = window.expand(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
    assert!(!sql.contains(['$', '@']), "something is not replaced: {sql}");
    tokens(&sql)
}

/// The name that a token is, if it is one.
fn name(token: Option<&Token>) -> Option<&str> {
    match token? {
        Token::Word(name) | Token::Quoted(name) => Some(name),
        Token::Sign(_) => None,
    }
}

fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w == word)
}

/// Names that the query gives with `AS`.
fn given(tokens: &[Token]) -> BTreeSet<&str> {
    let after = |(at, token): (usize, &Token)| is_word(token, "AS").then(|| name(tokens.get(at + 1))).flatten();
    tokens.iter().enumerate().filter_map(after).collect()
}

/// Tables that the query reads.
fn tables<'c>(catalogue: &'c Catalogue, tokens: &[Token]) -> Result<Vec<&'c Arc<Table>>, String> {
    let mut out = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let source = tokens.get(at + 1);
        let called = tokens.get(at + 2) == Some(&Token::Sign('('));
        if (is_word(token, "FROM") || is_word(token, "JOIN"))
            && !called
            && let Some(name) = name(source)
        {
            out.push(catalogue.get(name).ok_or_else(|| format!("there is no table `{name}`"))?);
        }
    }
    if out.is_empty() { Err("it reads no table".to_owned()) } else { Ok(out) }
}

/// Every name in the query that neither it nor the catalogue explains.
fn unexplained(catalogue: &Catalogue, sql: &str) -> Result<Vec<String>, String> {
    let tokens = expanded(sql);
    let (given, tables) = (given(&tokens), tables(catalogue, &tokens)?);
    let is_column = |name: &str| tables.iter().any(|t| t.schema().field_with_name(name).is_ok());
    let is_explained = |at: usize, token: &Token| match token {
        Token::Sign(_) => true,
        Token::Quoted(name) => given.contains(name.as_str()) || is_column(name),
        // Keywords are written in capitals; numbers are numbers.
        Token::Word(word) if !word.chars().any(|c| c.is_ascii_lowercase()) => true,
        Token::Word(word) if tokens.get(at + 1) == Some(&Token::Sign('(')) => FUNCTIONS.contains(&word.as_str()),
        Token::Word(word) => {
            given.contains(word.as_str())
                || is_column(word)
                || tables.iter().any(|t| t.name == *word)
                || WORDS.contains(&word.as_str())
        }
    };
    Ok(tokens
        .iter()
        .enumerate()
        .filter(|(at, token)| !is_explained(*at, token))
        .map(|(_, token)| format!("{token:?}"))
        .collect())
}

#[test]
fn every_panel_explains_itself() {
    let mut titles = BTreeSet::new();
    for panel in panels() {
        let title = &panel.title;
        assert!(titles.insert(title.clone()), "{title}: there are two of that name");
        assert!(panel.description.len() > 60 && panel.description.ends_with('.'), "{title}: say what it shows");
        assert!(panel.draw == Draw::Table || !panel.unit.is_empty(), "{title}: say the unit");
        assert!((1..=24).contains(&panel.width) && panel.height > 0, "{title}: it does not fit the screen");
        assert!(panel.thresholds.is_sorted_by(|a, b| a.at < b.at), "{title}: thresholds go upwards");
    }
    assert!(titles.len() > 30);
}

#[test]
fn queries_name_only_what_the_catalogue_has() {
    let catalogue = Catalogue::built_in();
    let dashboard = host();
    let variables = dashboard.variables.iter().map(|v| (&v.name, &v.sql));
    let panels = dashboard.rows.iter().flat_map(|row| &row.panels).map(|p| (&p.title, &p.sql));
    for (title, sql) in variables.chain(panels) {
        assert_eq!(unexplained(&catalogue, sql), Ok(Vec::new()), "{title}");
    }
}

#[test]
fn the_check_of_names_notices() {
    let catalogue = Catalogue::built_in();
    for (sql, wrong) in [
        ("SELECT user_secnds FROM cpu", "user_secnds"),
        ("SELECT rte(user_seconds, ts) FROM cpu", "rte"),
        ("SELECT \"Used\" FROM cpu", "Used"),
        ("SELECT load1 FROM cpu", "load1"),
    ] {
        let found = unexplained(&catalogue, sql).unwrap();
        assert!(found.len() == 1 && found[0].contains(wrong), "{sql}: {found:?}");
    }
    assert!(unexplained(&catalogue, "SELECT ts FROM cpus").is_err());
    assert_eq!(unexplained(&catalogue, "SELECT ts AS \"time\" FROM cpu WHERE host = 'anything'"), Ok(Vec::new()));
}

#[test]
fn units_and_needs_name_what_is_there() {
    let catalogue = Catalogue::built_in();
    for panel in panels() {
        let tokens = expanded(&panel.sql);
        for column in panel.units.keys() {
            let answered = given(&tokens).contains(column.as_str());
            assert!(answered, "{}: no column `{column}` to have a unit", panel.title);
        }
        if let Some(needs) = &panel.needs {
            let (table, column) = needs.split_once('.').unwrap_or((needs.as_str(), "ts"));
            let table = catalogue.get(table).unwrap_or_else(|| panic!("{}: no table `{table}`", panel.title));
            assert!(table.schema().field_with_name(column).is_ok(), "{}: no `{needs}`", panel.title);
        }
    }
}

/// Whether a query asks for a counter's growth, which takes two samples.
fn wants_two_samples(panel: &Panel) -> bool {
    panel.sql.contains("rate(") || panel.sql.contains("increase(")
}

#[test]
fn buckets_are_wide_enough_for_the_tables_cadence() {
    let catalogue = Catalogue::built_in();
    for panel in panels().iter().filter(|p| p.format() == Format::TimeSeries) {
        for table in tables(&catalogue, &expanded(&panel.sql)).unwrap() {
            let every = table.every.expect("panels over time show what is sampled");
            let least = if wants_two_samples(panel) { every * 2 } else { every };
            assert!(panel.interval(Duration::ZERO) >= least, "{}: {} comes every {every:?}", panel.title, table.name);
        }
    }
}

#[test]
fn every_query_is_bounded_in_time_and_series_are_in_order() {
    for panel in panels() {
        assert!(panel.sql.contains("$__timeFilter(ts)"), "{}: it reads all there ever was", panel.title);
        let one_row = !panel.sql.contains("GROUP BY");
        let in_order = panel.sql.contains("ORDER BY 1");
        assert!(panel.format() == Format::Table || one_row || in_order, "{}: Grafana wants it in order", panel.title);
    }
}

fn dashboard_json() -> Value {
    serde_json::from_str(&grafana_json(&host())).expect("it is JSON")
}

#[test]
fn what_grafana_gets_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/host.json");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == grafana_json(&host()),
        "grafana/host.json is stale. Make it anew: cargo run -p nodescope-dashboards"
    );
}

#[test]
fn panels_have_numbers_of_their_own_and_do_not_overlap() {
    let dashboard = dashboard_json();
    let mut ids = BTreeSet::new();
    let mut taken: BTreeMap<(u64, u64), String> = BTreeMap::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its number is taken");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + w <= 24, "{title}: it leaves the screen");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            if let Some(other) = taken.insert(cell, title.to_owned()) {
                panic!("{title} lies on {other}");
            }
        }
    }
}

#[test]
fn every_query_goes_to_our_data_source_as_it_is_written() {
    let dashboard = dashboard_json();
    let drawn: Vec<_> = dashboard["panels"].as_array().unwrap().iter().filter(|p| p["type"] != "row").collect();
    let written = panels();
    assert_eq!(drawn.len(), written.len());
    for (drawn, written) in drawn.iter().zip(&written) {
        let target = &drawn["targets"][0];
        assert_eq!(target["rawSql"], written.sql.as_str());
        assert_eq!(target["format"], written.format().as_str());
        assert_eq!(target["datasource"]["uid"], "nodescope");
        assert_eq!(target["rawQuery"], true);
        assert_eq!(drawn["description"], written.description.as_str());
    }
    assert_eq!(dashboard["schemaVersion"], 41);
    assert_eq!(dashboard["templating"]["list"].as_array().unwrap().len(), 2);
}
