//! `docs/detections.md`: what each rule looks for, what keeps it quiet, what it costs and how good it is, from the files
//! themselves.

use std::fmt::Write;
use std::time::Duration;

use super::{Kept, Measured, Score};
use crate::definition::{Definition, Parameter};

const HEAD: &str = "# Detections

<!-- Made from rules/*.sql and rules/scores.toml. Make it anew: UPDATE=1 cargo test -p nodescope-query --test detections_page -->

Rules that look for attacks, faults and misuse in what agents tell. Each is a file of `rules/`: a head and one SELECT.
They run on the schedule and make incidents (table `alert`). Their parameters can be set in the section `[schedule]` of
the settings; everything that is allowed is said in the registry: maintenance windows, and the list `approved`.

A rule says nothing about what is not known: where rows are missing, there is no incident, except for the rules whose
subject that is (d08, d09).

";

const APPROVED: &str = "
## The list `approved`

`nodescope registry import` takes it. `node` and `host` empty mean everywhere, `value` = `*` anything.

| `kind` | `name` | `value` | Read by |
|---|---|---|---|
| `executable` | path of a program | its SHA-256 | d01, d02, d03, d16 |
| `account` | user or project | `steady_load`, `interactive` | d02, d04 |
| `source` | `ssh` | address of a bastion or of automation | d12, d13 |
| `source` | `scan` | name of a program that may ask hosts that are gone | d11 |
| `transfer` | network, as in `connection.remote_prefix` | `*` | d14 |
| `listener` | port | SHA-256 of the program | d15 |
| `module` | name of a kernel module | version or `srcversion` | d17 |
| `config` | path of a file | its SHA-256 | d17, d20 |
| `config` | `agent`, `rule:NAME`, `import:NAME` | hash of the settings or of the rule, name of the import | d20 |
| `driver` | vendor, as in `accelerator.vendor` | version | d18 |
| `firmware` | model, as in `accelerator.model`, or `bios ` and the machine's product | version | d18 |
| `power_limit` | model | watts | d19 |
";

/// The page.
pub fn page(rules: &[&Definition], kept: &Kept) -> String {
    let mut page = HEAD.to_owned();
    let score_of =
        |rule: &Definition| kept.attacks.iter().flat_map(|m| &m.scores).find(|score| score.rule == rule.name);
    page += "| Rule | What | Severity | Techniques | Every | Looks back | Recall | Precision |\n|---|---|---|---|---|---|---|---|\n";
    for rule in rules {
        let Some(alert) = &rule.alert else { continue };
        let (every, window) = (length(rule.every), length(rule.window));
        let (recall, precision) = (share(score_of(rule), Score::recall), share(score_of(rule), Score::precision));
        let _ = writeln!(
            page,
            "| [{name}](#{name}) | {} | {} | {} | {every} | {window} | {recall} | {precision} |",
            rule.title,
            alert.severity.as_str(),
            alert.techniques.join(", "),
            name = rule.name,
        );
    }
    match &kept.attacks {
        Some(measured) => attacks(&mut page, measured),
        None => page += "\nRecall and precision have not been measured on a replay yet.\n",
    }
    match &kept.benign {
        Some(measured) => benign(&mut page, measured),
        None => page += "\nNo benign day has been replayed yet.\n",
    }
    page += APPROVED;
    for rule in rules {
        section(&mut page, rule);
    }
    page
}

/// What was replayed.
fn replayed(measured: &Measured) -> String {
    let Measured { replay, begin, end, hosts, accelerators, .. } = measured;
    format!("{replay}: {hosts} hosts with {accelerators} accelerators, {begin} to {end}")
}

fn attacks(page: &mut String, measured: &Measured) {
    let _ = writeln!(
        page,
        "\nRecall (attacks found, of those there were) and precision (incidents that were attacks, of all) by \
         `nodescope rules score --keep` on {}. An incident at the place and time of another rule's attack counts for \
         neither; `·` is where there was nothing to count.",
        replayed(measured)
    );
    *page += "\n| Rule | Attacks | Found | Incidents right | Beside | Wrong | Told after, at most |\n|---|---|---|---|---|---|---|\n";
    for score in &measured.scores {
        let told = length(Duration::from_micros(score.slowest_us.max(0).unsigned_abs()));
        let Score { rule, labels, found, right, beside, wrong, .. } = score;
        let _ = writeln!(page, "| {rule} | {labels} | {found} | {right} | {beside} | {wrong} | {told} |");
    }
}

fn benign(page: &mut String, measured: &Measured) {
    let incidents: usize = measured.scores.iter().map(|score| score.wrong).sum();
    let _ = writeln!(
        page,
        "\nA benign day, by `nodescope rules score --benign --keep`, on {}: {incidents} incidents of {} rules.",
        replayed(measured),
        measured.scores.len()
    );
    let wrong = measured.scores.iter().filter(|score| score.wrong > 0);
    let wrong: Vec<String> = wrong.map(|score| format!("{} {}", score.wrong, score.rule)).collect();
    if !wrong.is_empty() {
        let _ = writeln!(page, "They are of: {}.", wrong.join(", "));
    }
}

fn section(page: &mut String, rule: &Definition) {
    let Some(alert) = &rule.alert else { return };
    let _ = writeln!(page, "\n## {}\n\n{}.\n", rule.name, rule.title);
    let _ = writeln!(page, "**Guard.** {}\n", alert.guard);
    if let Some(reads) = rule.sql.lines().find_map(|line| line.strip_prefix("-- Reads: ")) {
        let _ = writeln!(page, "**Reads** {reads}\n");
    }
    let key: Vec<String> = alert.key.iter().map(|column| format!("`{column}`")).collect();
    let _ = writeln!(
        page,
        "**One incident** for each {}; over when not seen for {}. Runs {} after the end of its window.",
        key.join(", "),
        length(alert.resolve_after),
        length(rule.wait),
    );
    if !rule.parameters.is_empty() {
        *page += "\n| Parameter | Value | Unit | |\n|---|---|---|---|\n";
    }
    for Parameter { name, value, unit, help, .. } in &rule.parameters {
        let value = value.as_ref().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
        let _ = writeln!(page, "| `{name}` | `{value}` | {unit} | {help} |");
    }
}

fn share(score: Option<&Score>, of: impl Fn(&Score) -> Option<f64>) -> String {
    score.and_then(of).map_or_else(|| "·".to_owned(), |ratio| format!("{ratio:.2}"))
}

/// A length of time in its largest whole unit.
fn length(time: Duration) -> String {
    let seconds = time.as_secs();
    [(86_400, "d"), (3_600, "h"), (60, "min")]
        .into_iter()
        .find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit))
        .map_or_else(|| format!("{seconds} s"), |(unit, name)| format!("{} {name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_their_largest_whole_unit() {
        let shown = [0, 90, 120, 5_400, 7_200, 86_400].map(|s| length(Duration::from_secs(s)));
        assert_eq!(shown, ["0 s", "90 s", "2 min", "90 min", "2 h", "1 d"]);
    }
}
