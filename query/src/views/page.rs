//! The views as a page for people: `docs/questions.md`.
//!
//! It is made from the heads that the SQL is planned with, so it says what they say, and a test fails when the page
//! that is kept is not the one made here.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::definition::{Definition, Mistakes, Purpose, type_name};

const HEAD: &str = "\
# Questions and their answers

<!-- Generated from query/views/*.sql. Do not edit: UPDATE=1 cargo test -p nodescope-query --test page -->

What operators ask is answered by views and functions in the schema `public`: `SELECT * FROM capacity_now`,
`SELECT * FROM hosts_for(512, 'fp16', 3e14, 0.005)`. They are planned with the statement that names them, so a filter on
`node`, `host` or `ts` reads no more than it needs. psql shows them with `\\dv` and `\\d+ NAME`.

- **Unknown is a state of its own.** What does not report is neither idle nor available, and a figure that nobody knows
  is NULL, never 0.
- **Stale is not shown as current.** Views that speak of now take the newest row of the last two minutes; what has none
  is `unknown`, with its age.
- **Samples join the registry as of their own time.** A host that was registered anew keeps both histories.
- **Capacity is never summed over precision, sparsity or basis.** Each row says which it is.
- Times given to functions may be texts: `availability('2026-01-01', '2026-02-01')`. Parameters with a value may be left
  out from the end, and a function all of whose parameters have one can be named like a view.

";

/// The operator's questions in their order, and what answers them.
const QUESTIONS: [(&str, &str, &str); 21] = [
    ("Q1", "capacity_now", "Available and total capacity by region, industry and vendor, now"),
    ("Q2", "utilization_hourly", "Utilisation by node and hour"),
    ("Q3", "availability_30d", "Availability, reliability and unknown time of 30 days"),
    ("Q3", "availability", "The same of any time"),
    ("Q4", "capacity_stranded", "Capacity that is free and cannot be used, by cause"),
    ("Q5", "hosts_for", "Who can host a job of this size, precision and nearness"),
    ("Q6", "accelerator_failures", "Failures for 1,000 accelerator days"),
    ("Q7", "accelerator_risk", "Accelerators that are likely to fail"),
    ("Q8", "nodes_idle_online", "Nodes that are online and compute nothing"),
    ("Q9", "link_matrix", "Latency, loss and asymmetry of links, against their limits"),
    ("Q10", "energy_efficiency", "Energy for delivered computing"),
    ("Q11", "demand_gap", "What waits beside what is free"),
    ("Q12", "capacity_measured", "Nominal beside measured capacity"),
    ("Q13", "telemetry_health", "Freshness, completeness and lag of the telemetry"),
    ("Q14", "stragglers", "The slowest ranks of jobs"),
    ("Q15", "fabric_health", "Health of the network cards and ports"),
    ("Q16", "throttled_hours", "Hours of slowed-down accelerators, by reason"),
    ("Q17", "vendor_comparison", "Vendors beside each other"),
    ("Q18", "pool_forecast", "When a pool is full"),
    ("Q19", "metering", "Metered beside billed accelerator hours"),
    ("Q20", "version_drift", "Versions and who lags behind"),
];

/// The whole page, as Markdown: the questions in their order, then everything else they are made of.
///
/// # Errors
/// Every mistake of every file.
pub fn page() -> Result<String, Mistakes> {
    let mut mistakes = Mistakes::default();
    let mut rest = BTreeMap::new();
    for (name, text) in super::BUILT_IN {
        match Definition::parse(&super::path(name), text, Purpose::View) {
            Ok(definition) => {
                rest.insert(definition.name.clone(), definition);
            }
            Err(more) => mistakes.0.extend(more.0),
        }
    }
    let mut page = HEAD.to_owned();
    page.push_str("| | Question | Answered by |\n|---|---|---|\n");
    let mut questions = Vec::new();
    for (number, name, question) in QUESTIONS {
        let _ = writeln!(page, "| {number} | {question} | [`{name}`](#{name}) |");
        match rest.remove(name) {
            Some(definition) => questions.push(definition),
            None => mistakes.add(&super::path(name), "", format!("answers {number} and is not there")),
        }
    }
    page.push_str("\nWhat they are made of is of use by itself:\n\n| | Holds |\n|---|---|\n");
    for (name, definition) in &rest {
        let _ = writeln!(page, "| [`{name}`](#{name}) | {} |", definition.title);
    }
    for definition in questions.iter().chain(rest.values()) {
        section(&mut page, definition);
    }
    if mistakes.0.is_empty() { Ok(page) } else { Err(mistakes) }
}

fn section(page: &mut String, definition: &Definition) {
    let _ = write!(page, "\n## {}\n\n**{}.** {}\n", definition.name, definition.title, definition.question);
    if !definition.parameters.is_empty() {
        page.push_str("\n| Parameter | Type | Value if left out | |\n|---|---|---|---|\n");
    }
    for parameter in &definition.parameters {
        let value = match &parameter.value {
            None => "must be given".to_owned(),
            Some(value) if value.is_null() => "NULL".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        let kind = type_name(&parameter.data_type);
        let _ = writeln!(page, "| `{}` | {kind} | {value} | {} |", parameter.name, cell(&parameter.help));
    }
    page.push_str("\n| Column | |\n|---|---|\n");
    for (name, help) in &definition.columns {
        let _ = writeln!(page, "| `{name}` | {} |", cell(help));
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
