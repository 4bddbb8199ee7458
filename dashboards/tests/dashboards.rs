//! The dashboards explain themselves in both languages, name only what there is, and are what Grafana gets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nodescope_dashboards::{Dashboard, Draw, Format, Language, Panel, Text, Window, all, grafana_json, uid};
use nodescope_model::catalogue::Catalogue;
use serde_json::Value;

/// Functions that queries may call.
const FUNCTIONS: &[&str] = &[
    "abs",
    "avg",
    "coalesce",
    "concat",
    "count",
    "extract",
    "increase",
    "last",
    "max",
    "now",
    "nullif",
    "rate",
    "row_number",
    "sum",
    "time_bucket",
];

/// Bare words that are neither: fields of `extract`, and yes.
const WORDS: &[&str] = &["epoch", "true"];

/// What queries may read: tables of the catalogue, and views and functions by their heads.
struct Relations {
    columns: BTreeMap<String, BTreeSet<String>>,
    /// How often a table is sampled.
    every: BTreeMap<String, Duration>,
}

impl Relations {
    fn all() -> Self {
        let mut relations = Self { columns: BTreeMap::new(), every: BTreeMap::new() };
        for table in Catalogue::built_in().tables() {
            let columns = table.schema().fields().iter().map(|field| field.name().clone()).collect();
            relations.columns.insert(table.name.clone(), columns);
            relations.every.extend(table.every.map(|every| (table.name.clone(), every)));
        }
        let views = Path::new(env!("CARGO_MANIFEST_DIR")).join("../query/views");
        for entry in std::fs::read_dir(views).expect("the views").flatten() {
            let path: PathBuf = entry.path();
            let text = std::fs::read_to_string(&path).expect("a view can be read");
            let head = text.split_once("/*").and_then(|(_, rest)| rest.split_once("*/")).expect("a view has a head").0;
            let head: toml::Table = head.parse().expect("its head is TOML");
            let columns = head["columns"].as_table().expect("it names its columns").keys().cloned().collect();
            relations
                .columns
                .insert(path.file_stem().expect("a file has a name").to_string_lossy().into_owned(), columns);
        }
        relations
    }

    fn has_column(&self, relation: &str, column: &str) -> bool {
        self.columns.get(relation).is_some_and(|columns| columns.contains(column))
    }
}

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
    let names = ["node", "host", "device", "vendor", "region", "precision", "sparsity", "basis"];
    let window = Window {
        from: to - Duration::from_secs(300),
        to,
        interval: Duration::from_secs(60),
        variables: names.map(|name| (name.to_owned(), vec!["x".to_owned(), "y".to_owned()])).into(),
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

/// Tables, views and functions that the query reads.
fn sources<'t>(relations: &Relations, tokens: &'t [Token]) -> Result<Vec<&'t str>, String> {
    let mut out = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        // `extract(epoch FROM ts)` and `FROM (SELECT …)` name none.
        let of_extract = at >= 2 && matches!(&tokens[at - 1], Token::Word(field) if WORDS.contains(&field.as_str()));
        if (is_word(token, "FROM") || is_word(token, "JOIN"))
            && !of_extract
            && let Some(source) = name(tokens.get(at + 1))
        {
            if !relations.columns.contains_key(source) {
                return Err(format!("there is nothing called `{source}`"));
            }
            out.push(source);
        }
    }
    if out.is_empty() { Err("it reads nothing".to_owned()) } else { Ok(out) }
}

/// Every name in the query that neither it nor the catalogue nor a view explains.
fn unexplained(relations: &Relations, sql: &str) -> Result<Vec<String>, String> {
    let tokens = expanded(sql);
    let (given, sources) = (given(&tokens), sources(relations, &tokens)?);
    let is_column = |name: &str| sources.iter().any(|source| relations.has_column(source, name));
    let is_explained = |at: usize, token: &Token| match token {
        Token::Sign(_) => true,
        Token::Quoted(name) => given.contains(name.as_str()) || is_column(name),
        // Keywords are written in capitals; numbers are numbers; a letter stands for a source.
        Token::Word(word) if !word.chars().any(|c| c.is_ascii_lowercase()) || word.len() == 1 => true,
        Token::Word(word) if tokens.get(at + 1) == Some(&Token::Sign('(')) => {
            FUNCTIONS.contains(&word.as_str()) || sources.contains(&word.as_str())
        }
        Token::Word(word) => {
            given.contains(word.as_str())
                || is_column(word)
                || sources.contains(&word.as_str())
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

/// Every panel, with a name for messages.
fn panels() -> Vec<(String, Panel)> {
    let of = |dashboard: Dashboard| {
        let Dashboard { name, rows, .. } = dashboard;
        rows.into_iter().flat_map(|row| row.panels).map(move |panel| (format!("{name}: {}", panel.title.en), panel))
    };
    all().into_iter().flat_map(of).collect()
}

fn is_chinese(text: &str) -> bool {
    text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))
}

/// Words that are the same in both languages.
fn is_told(text: &Text) -> bool {
    !text.en.is_empty() && !is_chinese(&text.en) && (is_chinese(&text.zh) || text.zh == text.en)
}

#[test]
fn every_panel_explains_itself_in_both_languages() {
    for dashboard in all() {
        let mut titles = BTreeSet::new();
        assert!(is_told(&dashboard.title) && is_told(&dashboard.description), "{}", dashboard.name);
        assert!(dashboard.rows.iter().all(|row| is_told(&row.title)), "{}: headings", dashboard.name);
        for variable in &dashboard.variables {
            assert!(is_told(&variable.label) && is_chinese(&variable.description.zh), "${}", variable.name);
        }
        for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
            let title = format!("{}: {}", dashboard.name, panel.title.en);
            assert!(titles.insert(&panel.title.en), "{title}: there are two of that name");
            assert!(is_told(&panel.title), "{title}: {}", panel.title.zh);
            let Text { en, zh } = &panel.description;
            assert!(en.len() > 60 && en.ends_with('.'), "{title}: say what it shows");
            assert!(is_chinese(zh) && zh.ends_with(['。', '）']), "{title}: 请说明内容");
            assert!(panel.format() == Format::Table || !panel.unit.is_empty(), "{title}: say the unit");
            assert!((1..=24).contains(&panel.width) && panel.height > 0, "{title}: it does not fit the screen");
            assert!(panel.thresholds.is_sorted_by(|a, b| a.at < b.at), "{title}: thresholds go upwards");
            assert!(panel.names.values().all(is_told), "{title}: names of columns");
        }
    }
}

#[test]
fn queries_name_only_what_there_is() {
    let relations = Relations::all();
    for dashboard in all() {
        let variables = dashboard.variables.iter().map(|v| (&v.name, &v.sql));
        let panels = dashboard.rows.iter().flat_map(|row| &row.panels).map(|p| (&p.title.en, &p.sql));
        for (title, sql) in variables.chain(panels) {
            assert_eq!(unexplained(&relations, sql), Ok(Vec::new()), "{}: {title}", dashboard.name);
        }
    }
}

#[test]
fn the_check_of_names_notices() {
    let relations = Relations::all();
    for (sql, wrong) in [
        ("SELECT user_secnds FROM cpu", "user_secnds"),
        ("SELECT rte(user_seconds, ts) FROM cpu", "rte"),
        ("SELECT \"Used\" FROM cpu", "Used"),
        ("SELECT load1 FROM cpu", "load1"),
        ("SELECT idle_flops FROM capacity_now", "idle_flops"),
    ] {
        let found = unexplained(&relations, sql).unwrap();
        assert!(found.len() == 1 && found[0].contains(wrong), "{sql}: {found:?}");
    }
    assert!(unexplained(&relations, "SELECT ts FROM cpus").is_err());
    assert_eq!(unexplained(&relations, "SELECT ts AS \"time\" FROM cpu WHERE host = 'anything'"), Ok(Vec::new()));
}

#[test]
fn units_links_and_needs_name_what_is_there() {
    let relations = Relations::all();
    let dashboards = all();
    for (title, panel) in panels() {
        let tokens = expanded(&panel.sql);
        let is_answered = |column: &str| tokens.iter().any(|token| name(Some(token)) == Some(column));
        for column in panel.units.keys().chain(panel.names.keys()) {
            assert!(is_answered(column), "{title}: no column `{column}`");
        }
        for (column, link) in &panel.links {
            let to = dashboards.iter().find(|dashboard| dashboard.name == link.to);
            let to = to.unwrap_or_else(|| panic!("{title}: no dashboard `{}`", link.to));
            assert!(is_answered(column), "{title}: no column `{column}` to lead anywhere");
            for (variable, column) in &link.pass {
                assert!(to.variables.iter().any(|v| v.name == *variable), "{title}: `{}` has no ${variable}", to.name);
                assert!(is_answered(column), "{title}: no column `{column}` to pass on");
            }
        }
        if let Some(needs) = &panel.needs {
            let (table, column) = needs.split_once('.').unwrap_or((needs.as_str(), "ts"));
            assert!(relations.has_column(table, column), "{title}: there is no `{needs}`");
        }
    }
}

#[test]
fn one_can_click_from_the_whole_down_to_its_parts() {
    let leads = |from: &str, to: &str| {
        all()
            .into_iter()
            .filter(|dashboard| dashboard.name == from)
            .flat_map(|dashboard| dashboard.rows)
            .flat_map(|row| row.panels)
            .any(|panel| panel.links.values().any(|link| link.to == to))
    };
    for (from, to) in [("nation", "node"), ("node", "host"), ("node", "accelerator"), ("host", "accelerator")] {
        assert!(leads(from, to), "{from} does not lead to {to}");
    }
}

/// Whether a query asks for a counter's growth, which takes two samples.
fn wants_two_samples(panel: &Panel) -> bool {
    panel.sql.contains("rate(") || panel.sql.contains("increase(")
}

#[test]
fn buckets_are_wide_enough_for_the_tables_cadence() {
    let relations = Relations::all();
    for (title, panel) in panels().iter().filter(|(_, panel)| panel.format() == Format::TimeSeries) {
        let tokens = expanded(&panel.sql);
        for source in sources(&relations, &tokens).unwrap() {
            let Some(every) = relations.every.get(source) else { continue };
            let least = if wants_two_samples(panel) { *every * 2 } else { *every };
            assert!(panel.interval(Duration::ZERO) >= least, "{title}: {source} comes every {every:?}");
        }
    }
}

#[test]
fn every_query_of_a_table_is_bounded_in_time_and_series_are_in_order() {
    let tables = Catalogue::built_in();
    let relations = Relations::all();
    for (title, panel) in panels() {
        let tokens = expanded(&panel.sql);
        let reads_table = sources(&relations, &tokens).unwrap().iter().any(|source| tables.get(source).is_some());
        let is_bounded = panel.sql.contains("$__timeFilter(ts)") || panel.sql.contains("ts > now() - INTERVAL");
        assert!(!reads_table || is_bounded, "{title}: it reads all there ever was");
        let one_row = !panel.sql.contains("GROUP BY") && !panel.sql.contains("ts AS time");
        let in_order = panel.sql.contains("ORDER BY 1");
        assert!(panel.format() == Format::Table || one_row || in_order, "{title}: Grafana wants it in order");
    }
}

fn json(dashboard: &Dashboard, language: Language) -> Value {
    serde_json::from_str(&grafana_json(dashboard, language)).expect("it is JSON")
}

#[test]
fn what_grafana_gets_is_fresh() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana");
    for language in Language::ALL {
        let mut kept: BTreeSet<String> = std::fs::read_dir(folder.join(language.code()))
            .expect("the folder of a language")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        for dashboard in all() {
            let file = format!("{}.json", dashboard.name);
            let text = std::fs::read_to_string(folder.join(language.code()).join(&file)).unwrap_or_default();
            let fresh = grafana_json(&dashboard, language);
            assert!(text == fresh, "grafana/{}/{file} is stale: cargo run -p nodescope-dashboards", language.code());
            kept.remove(&file);
        }
        assert!(kept.is_empty(), "grafana/{} has what no source makes: {kept:?}", language.code());
    }
}

#[test]
fn panels_have_numbers_of_their_own_and_do_not_overlap() {
    for dashboard in all() {
        let json = json(&dashboard, Language::English);
        let mut ids = BTreeSet::new();
        let mut taken: BTreeMap<(u64, u64), String> = BTreeMap::new();
        for panel in json["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its number is taken");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(x + w <= 24, "{title}: it leaves the screen");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                if let Some(other) = taken.insert(cell, title.to_owned()) {
                    panic!("{}: {title} lies on {other}", dashboard.name);
                }
            }
        }
    }
}

#[test]
fn every_query_goes_to_our_data_source_as_it_is_written_whatever_the_language() {
    let mut addresses = BTreeSet::new();
    for dashboard in all() {
        let written: Vec<_> = dashboard.rows.iter().flat_map(|row| &row.panels).collect();
        for language in Language::ALL {
            let json = json(&dashboard, language);
            let drawn: Vec<_> = json["panels"].as_array().unwrap().iter().filter(|p| p["type"] != "row").collect();
            assert_eq!(drawn.len(), written.len());
            for (drawn, written) in drawn.iter().zip(&written) {
                let target = &drawn["targets"][0];
                assert_eq!(target["rawSql"], written.sql.as_str());
                assert_eq!(target["format"], written.format().as_str());
                assert_eq!(target["datasource"]["uid"], "nodescope");
                assert_eq!(target["rawQuery"], true);
                assert_eq!(drawn["title"], written.title.of(language));
                assert_eq!(drawn["description"], written.description.of(language));
            }
            assert_eq!(json["schemaVersion"], 41);
            assert_eq!(json["templating"]["list"].as_array().unwrap().len(), dashboard.variables.len());
            assert_eq!(json["uid"], uid(&dashboard.name, language).as_str());
            assert!(json["tags"].as_array().unwrap().contains(&language.code().into()));
            assert!(addresses.insert(uid(&dashboard.name, language)), "two dashboards have one address");
        }
        let needs_table = written.iter().any(|panel| matches!(panel.draw, Draw::Table | Draw::Lines));
        assert!(needs_table, "{}: it says nothing in detail", dashboard.name);
    }
}
