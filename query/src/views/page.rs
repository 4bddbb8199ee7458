//! `docs/questions.md`: every view and function, from the heads of their files.
//!
//! Nobody writes that page: it is made from what SQL itself tells of a view, and a test fails when the page that is
//! kept is not the one made here.

use std::fmt::Write;

use super::BUILT_IN;
use super::function::words;
use crate::definition::{Definition, Purpose};

/// The operators' questions, in the order in which they are asked, and what answers them.
const QUESTIONS: [(&str, &str, &str); 20] = [
    ("Q1", "capacity_now", "What capacity is there, what of it is free?"),
    ("Q2", "utilization_hourly", "How well is it used, node by node and hour by hour?"),
    ("Q3", "availability_30d", "How available and reliable is each node, and how much is unknown?"),
    ("Q4", "capacity_stranded", "What is healthy and free, and still of no use?"),
    ("Q5", "hosts_for", "Who can take a job of this size?"),
    ("Q6", "accelerator_failures", "How often do accelerators fail?"),
    ("Q7", "accelerator_risk", "Which will fail next?"),
    ("Q8", "nodes_idle_online", "Which nodes are online and compute nothing?"),
    ("Q9", "link_matrix", "How far are nodes from each other?"),
    ("Q10", "energy_efficiency", "What energy does computing cost?"),
    ("Q11", "demand_gap", "What demand finds no accelerators?"),
    ("Q12", "capacity_measured", "Is capacity what it was registered as?"),
    ("Q13", "telemetry_health", "How fresh and complete is the telemetry?"),
    ("Q14", "stragglers", "Which rank holds up its job?"),
    ("Q15", "fabric_health", "How healthy is the fabric?"),
    ("Q16", "throttled_hours", "How many hours ran with lower clocks, and why?"),
    ("Q17", "vendor_comparison", "How do vendors compare at the same work?"),
    ("Q18", "pool_forecast", "When is a pool full?"),
    ("Q19", "metering", "Was billed what was used?"),
    ("Q20", "version_drift", "Which versions run, and who lags?"),
];

const HEAD: &str = "\
# Operators' questions

<!-- Generated from query/views/*.sql. Do not edit: UPDATE=1 cargo test -p nodescope-query --lib views::page -->

Each question is a view, or a function in FROM where something has to be said to it. One whose parameters may all be
left out is both: `SELECT * FROM metering` and `SELECT * FROM metering('2026-01-01', '2026-02-01')`. What is unknown is
NULL, never zero; what is older than two minutes is not shown as current.

| | Question | Ask |
|---|---|---|
";

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn section(page: &mut String, view: &Definition) -> std::fmt::Result {
    write!(page, "\n## {}\n\n**{}.** {}\n", view.name, view.title, view.question.trim())?;
    if !view.parameters.is_empty() {
        page.push_str("\n| Parameter | Takes | If left out | Meaning |\n|---|---|---|---|\n");
        for parameter in &view.parameters {
            let left_out = match &parameter.value {
                None => "must be given".to_owned(),
                Some(value) if value.is_null() => String::new(),
                Some(value) => format!("`{value}`"),
            };
            let takes = words(&parameter.data_type);
            writeln!(page, "| `{}` | {takes} | {left_out} | {} |", parameter.name, cell(&parameter.help))?;
        }
    }
    page.push_str("\n| Column | Meaning |\n|---|---|\n");
    for (name, help) in &view.columns {
        writeln!(page, "| `{name}` | {} |", cell(help))?;
    }
    Ok(())
}

/// The whole page, as Markdown: the questions, then a section for each view.
fn page() -> Result<String, Box<dyn std::error::Error>> {
    let mut page = HEAD.to_owned();
    for (number, view, question) in QUESTIONS {
        writeln!(page, "| {number} | {question} | [`{view}`](#{view}) |")?;
    }
    page.push_str("\nThe others are what these are made of, and can be asked as well.\n");
    for (name, text) in BUILT_IN {
        section(&mut page, &Definition::parse(&format!("views/{name}.sql"), text, Purpose::View)?)?;
    }
    Ok(page)
}

#[test]
fn the_page_is_fresh() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/questions.md");
    let fresh = page().expect("definitions without mistakes");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &fresh).expect("docs/ can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == fresh,
        "docs/questions.md is stale. Make it anew: UPDATE=1 cargo test -p nodescope-query --lib views::page"
    );
}

#[test]
fn every_question_has_a_view() {
    for (number, view, _) in QUESTIONS {
        assert!(BUILT_IN.iter().any(|(name, _)| *name == view), "{number}: there is no {view}");
    }
}
