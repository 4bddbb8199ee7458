//! `nodescope rules` as a command: what there is, what is wrong with it, and what it would have said of a simulated fleet.

use std::path::Path;
use std::process::{Command, Output};

use chrono::{DateTime, Utc};
use serde_json::Value;

/// End of the simulated history: 2026-01-31T12:00:00Z.
const UNTIL: &str = "1769860800";

/// The hour of raw rows before it, in which there are attacks.
const HOUR: [&str; 4] = ["--from", "2026-01-31T11:00:00Z", "--to", "2026-01-31T12:00:00Z"];

fn nodescope(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nodescope")).args(arguments).output().expect("the program runs")
}

/// What it says when all is well.
fn says(arguments: &[&str]) -> String {
    let output = nodescope(arguments);
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && complained.is_empty(), "{arguments:?}: {said}\n{complained}");
    said.into_owned()
}

/// What it complains of. Nothing else is said.
fn complains(arguments: &[&str]) -> String {
    let output = nodescope(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("text")
}

/// A folder of rules.
fn folder(rules: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (file, text) in rules {
        std::fs::write(folder.path().join(file), text).expect("a file");
    }
    folder
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

const BUSY: &str = r#"/*
title = "Hosts with more work than processors"
every = "10m"
sink = "webhook:ops"
[parameters]
least_load = { value = 0.0, help = "From this load on a host is busy." }
*/
SELECT node, host, max(load1) AS load FROM system WHERE ts >= $from AND ts < $to GROUP BY node, host
HAVING max(load1) >= $least_load ORDER BY node, host"#;

#[test]
fn all_rules_are_listed_and_each_is_shown_whole() {
    let own = folder(&[("busy_hosts.sql", BUSY)]);
    let own = shown(own.path());
    let list = says(&["rules", "list", "--rules", &own]);
    let names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
    let mut files = 0;
    for entry in std::fs::read_dir(built_in).expect("our rules").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".sql") else { continue };
        assert_eq!(names.iter().filter(|listed| **listed == name).count(), 1, "{name}:\n{list}");
        files += 1;
    }
    assert!(files > 25 && names.contains(&"accelerator_1h") && names.contains(&"busy_hosts"), "{list}");
    let line = list.lines().find(|line| line.starts_with("d12_lateral_ssh")).expect("it is listed");
    assert!(["critical", "2m", "T1021.004", "(hosts)"].iter().all(|what| line.contains(what)), "{line}");

    let whole = says(&["rules", "list", "busy_hosts", "--rules", &own]);
    assert!(whole.contains("webhook:ops") && whole.contains("$least_load = 0") && whole.contains("HAVING"), "{whole}");
    assert!(complains(&["rules", "list", "busy_host", "--rules", &own]).contains("there is no rule `busy_host`"));
}

#[test]
fn every_mistake_of_a_folder_is_told_at_once() {
    assert!(says(&["rules", "test"]).ends_with("rules are right\n"));
    let head = "/* title = \"x\"\nevery = \"1m\"\nsink =";
    let alert = "\"alert\"\n[alert]\nseverity = \"info\"\nkey = [\"rack\"]\nsummary = \"{host}: {heat}\"";
    let own = folder(&[
        ("good.sql", BUSY),
        ("headless.sql", "SELECT 1"),
        ("untimely.sql", "/* title = \"x\"\nsink = \"table:system\" */ SELECT ts FROM system WHERE ts < $to"),
        ("nowhere.sql", &format!("{head} \"table:nowhere\" */ SELECT host FROM system WHERE ts < $to")),
        ("columns.sql", &format!("{head} {alert} */ SELECT host FROM system WHERE ts < $to")),
        ("unknown.sql", &format!("{head} \"kafka:x\" */ SELECT lode FROM system WHERE ts < $to")),
        (
            "caused.sql",
            &format!("{head} {alert}\ninhibited_by = [\"nobody\", \"headless\"] */ SELECT 1 WHERE $to > $from"),
        ),
    ]);
    let own = shown(own.path());
    let told = complains(&["rules", "test", "--rules", &own]);
    for mistake in [
        "headless.sql: it must begin with a head",
        "untimely.sql: every: is missing",
        "nowhere: sink: there is no table `nowhere`",
        "columns: alert.key: the SQL gives no column `rack`",
        "columns: alert.summary: the SQL gives no column `heat`",
        "unknown: it cannot be planned",
        "lode",
        "caused: alert.inhibited_by: there is no rule `nobody`",
    ] {
        assert!(told.contains(mistake), "`{mistake}` is not in\n{told}");
    }
    assert!(!told.contains("good") && !told.contains("no rule `headless`"), "{told}");
    // Whoever starts a schedule with them, or asks whether he could, is told the same.
    let config = Path::new(&own).join("nodescope.toml");
    std::fs::write(&config, format!("[schedule]\nrules_folder = {own:?}\n")).expect("a file");
    let config = shown(&config);
    for command in ["check", "schedule", "up"] {
        let told = complains(&[command, "--config", &config]);
        assert!(["headless.sql:", "untimely.sql:", "nowhere: sink"].iter().all(|what| told.contains(what)), "{told}");
    }
    // Of mistakes in planning alone, those that are asked for.
    let own = folder(&[
        ("good.sql", BUSY),
        ("unknown.sql", &format!("{head} \"kafka:x\" */ SELECT lode FROM system WHERE ts < $to")),
    ]);
    let own = shown(own.path());
    assert_eq!(says(&["rules", "test", "good", "--rules", &own]), "1 rules are right\n");
    assert!(
        complains(&["rules", "test", "good", "unknown", "--rules", &own]).contains("unknown: it cannot be planned")
    );
    assert!(complains(&["rules", "test", "nobody", "--rules", &own]).contains("there is no rule `nobody`"));
    assert!(complains(&["rules", "test", "--rules", "/nonexistent"]).contains("/nonexistent: cannot be listed"));
}

/// Names and sizes of all files of a folder.
fn files(folder: &Path) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push((shown(&path), entry.metadata().expect("a file").len()));
        }
    }
    all.sort();
    all
}

#[test]
fn a_rule_says_what_it_would_have_said() {
    let place = tempfile::tempdir().expect("a folder");
    let (store, labels) = (place.path().join("store"), place.path().join("labels.csv"));
    let (shown_store, shown_labels) = (shown(&store), shown(&labels));
    let fleet = ["simulate", "--hosts", "4", "--accelerators", "2", "--attacks", "--history", "1d", "--raw", "1h"];
    let output =
        nodescope(&[&fleet[..], &["--until", UNTIL, "--store", &shown_store, "--labels", &shown_labels]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let before = files(&store);
    let run =
        |rule: &str, more: &[&str]| says(&[&["rules", "run", rule, "--store", &shown_store], &HOUR[..], more].concat());

    // The one host that is attacked so, while it is, and nothing else.
    let labels = std::fs::read_to_string(&labels).expect("labels");
    let attacks: Vec<Vec<&str>> = labels.lines().map(|line| line.split(',').collect()).collect();
    let attack = attacks.iter().find(|fields| fields[0] == "d03_miner_or_pool").expect("there is such an attack");
    let (host, begin, end) = (attack[2], time(attack[4]), time(attack[5]));
    let lines = run("d03_miner_or_pool", &["--json"]);
    let incidents: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(!incidents.is_empty());
    for incident in &incidents {
        assert_eq!(incident["key"]["host"], host, "{incident}");
        assert_eq!((&incident["rule"], &incident["severity"]), (&"d03_miner_or_pool".into(), &"critical".into()));
        let fired = time(incident["fired"].as_str().expect("it was raised"));
        assert!(begin < fired && fired <= end, "{incident}: the attack was from {begin} to {end}");
        assert!(incident["summary"].as_str().expect("words").starts_with(host), "{incident}");
    }
    let words = run("d03_miner_or_pool", &[]);
    assert!(words.contains(&format!("{host}: ")), "{words}");
    let last = words.lines().last().expect("a last line");
    assert!(
        last.starts_with("12 windows, ") && last.ends_with(&format!("{} incidents raised", incidents.len())),
        "{last}"
    );
    // With another value of a parameter it says something else.
    let other = run("d03_miner_or_pool", &["--set", "names=nosuchminer", "--set", "ports=,1,"]);
    assert_eq!(other, "12 windows, 0 rows, 0 incidents raised\n");
    // Nobody has lost an accelerator.
    assert_eq!(run("accelerator_lost", &[]), "60 windows, 0 rows, 0 incidents raised\n");

    // A rule that makes no alerts brings its rows.
    let own = folder(&[("busy_hosts.sql", BUSY)]);
    let own = shown(own.path());
    assert_eq!(run("busy_hosts", &["--rules", &own]), "6 windows, 24 rows; --json prints them\n");
    let rows = run("busy_hosts", &["--rules", &own, "--json"]);
    assert_eq!(rows.lines().count(), 24);
    assert!(rows.lines().all(|line| serde_json::from_str::<Value>(line).expect("JSON")["load"].is_number()), "{rows}");
    assert_eq!(
        run("busy_hosts", &["--rules", &own, "--set", "least_load=100000"]),
        "6 windows, 0 rows; --json prints them\n"
    );

    assert_eq!(files(&store), before, "nothing was written");
    let wrong =
        |rule: &str, more: &[&str]| complains(&[&["rules", "run", rule, "--store", &shown_store], more].concat());
    assert!(wrong("d03_miner", &HOUR).contains("there is no rule `d03_miner`"));
    assert!(wrong("d03_miner_or_pool", &["--from", "2026-02-01", "--to", "2026-01-31"]).contains("not before --to"));
    assert!(wrong("d03_miner_or_pool", &["--from", "yesterday"]).contains("`yesterday` is no time"));
    assert!(wrong("d03_miner_or_pool", &["--from", "1h", "--set", "x=1"]).contains("has no parameter `x`"));
    assert!(wrong("d03_miner_or_pool", &["--from", "1h", "--set", "oldest_seconds=long"]).contains("which is int"));
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn where_there_is_nothing_no_rule_is_run() {
    let place = tempfile::tempdir().expect("a folder");
    let run = |store: &str| complains(&["rules", "run", "host_silent", "--from", "1h", "--store", store]);
    let missing = place.path().join("missing");
    let told = run(&shown(&missing));
    assert!(told.contains(&format!("there is no store at {}", shown(&missing))), "{told}");
    assert!(!missing.exists(), "it was made");
    assert!(run(&shown(place.path())).contains("is empty: nothing has ever been written to it"));
    let file = place.path().join("file");
    std::fs::write(&file, "no folder").expect("a file");
    assert!(run(&shown(&file)).contains("there is no store at"));
    assert!(run("ftp://somewhere/else").contains("is no store: its scheme is not known here"));
    let told = complains(&[
        "rules",
        "score",
        "--benign",
        "--store",
        &shown(&missing),
        "--from",
        "2026-01-31T11:00:00Z",
        "--to",
        "2026-01-31T12:00:00Z",
    ]);
    assert!(told.contains("there is no store at"), "{told}");
}
