//! The exposition, read back with a small strict reader of the format.

use std::collections::{BTreeSet, HashSet};

use nodescope_model::catalogue::Catalogue;
use nodescope_model::rows::{Rows, Stamp};
use proptest::prelude::*;

use super::*;

/// A table with all there is: foreign names with and without labels, own names, hidden totals, every type.
const PUMP: &str = r#"
    table = "pump"
    comment = "Pumps\nof the cooling."
    every = "20s"
    entity = ["pump", "part"]
    prometheus_labels = { pump = "pump", part = "part", site = "host", maker = "maker" }
    prometheus_except = { pump = "all" }
    [[column]]
    name = "pump"
    type = "text"
    kind = "label"
    help = "Which."
    [[column]]
    name = "part"
    type = "int"
    kind = "label"
    help = "Which of it."
    [[column]]
    name = "maker"
    type = "text"
    kind = "label"
    help = "Who made it."
    [[column]]
    name = "in_seconds"
    type = "float"
    kind = "counter"
    unit = "seconds"
    help = "Time pumping in."
    prometheus = 'pump_seconds_total{way="in"}'
    [[column]]
    name = "out_seconds"
    type = "float"
    kind = "counter"
    unit = "seconds"
    help = "Time pumping out."
    prometheus = ['pump_seconds_total{way="out"}', 'pump_out_seconds_total']
    [[column]]
    name = "starts"
    type = "int"
    kind = "counter"
    unit = "1"
    help = "How often it \\ started."
    [[column]]
    name = "served_total"
    type = "int"
    kind = "counter"
    unit = "1"
    help = "What it served."
    [[column]]
    name = "water_celsius"
    type = "float"
    kind = "gauge"
    unit = "celsius"
    help = "Water."
    [[column]]
    name = "is_on"
    type = "bool"
    kind = "state"
    help = "Whether it runs."
    [[column]]
    name = "level"
    type = "int"
    kind = "state"
    help = "Which step."
    [[column]]
    name = "mood"
    type = "text"
    kind = "state"
    help = "In words."
    [[column]]
    name = "serviced"
    type = "timestamp"
    kind = "state"
    help = "When."
"#;

fn pump() -> Arc<Table> {
    let catalogue = Catalogue::with_texts(&[("pump.toml", PUMP)]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    Arc::clone(catalogue.get("pump").unwrap())
}

fn finish(rows: &mut Rows) -> RecordBatch {
    rows.finish(&Stamp { ts_micros: 1, node: "n", host: "h" })
}

/// A pump's row with these starts.
fn pumps(table: &Arc<Table>, starts: &[(&str, i64)]) -> RecordBatch {
    let mut rows = Rows::new(table);
    for (name, count) in starts {
        rows.begin().text("pump", *name).int("part", 1_i64).int("starts", *count);
    }
    finish(&mut rows)
}

fn rendered(exposition: &Exposition, now: Instant) -> String {
    let mut out = String::new();
    exposition.render_at(&mut out, now);
    out
}

/// One sample of a page: name, labels in order, value.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// Reads a page and refuses whatever the format does not allow: series twice, names or types twice, samples apart from
/// their family, labels twice, unknown escapes.
fn read(page: &str) -> Vec<Sample> {
    assert!(page.is_empty() || page.ends_with('\n'), "the last line must end");
    let mut samples = Vec::new();
    let mut series = HashSet::new();
    let mut families = HashSet::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, help) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')).expect(line);
        assert!(is_name(name, true), "{line}");
        assert!(families.insert(name), "{name} is there twice");
        unescape(help, false);
        let (typed, kind) =
            lines.next().and_then(|l| l.strip_prefix("# TYPE ")).and_then(|l| l.split_once(' ')).unwrap();
        assert_eq!(typed, name);
        assert!(["counter", "gauge"].contains(&kind), "{kind}");
        let before = samples.len();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let sample = read_sample(line);
            assert_eq!(sample.name, name, "a sample of another family");
            let mut sorted = sample.labels.clone();
            sorted.sort();
            assert!(series.insert((sample.name.clone(), sorted)), "twice: {line}");
            samples.push(sample);
        }
        assert!(samples.len() > before, "{name} has no samples");
    }
    samples
}

fn read_sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name, true), "{line}");
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").expect(line);
            assert!(is_name(label, false), "{line}");
            // The quote that ends the value is the first without a backslash of its own.
            let mut escaped = false;
            let end = after
                .char_indices()
                .find(|(_, c)| {
                    let ends = *c == '"' && !escaped;
                    escaped = *c == '\\' && !escaped;
                    ends
                })
                .map(|(at, _)| at)
                .expect(line);
            assert!(!labels.iter().any(|(known, _): &(String, String)| known == label), "{label} twice: {line}");
            labels.push((label.to_owned(), unescape(&after[..end], true)));
            rest = &after[end + 1..];
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = rest.strip_prefix(',').expect(line);
        }
    }
    let value = rest.strip_prefix(' ').expect(line);
    assert!(!value.contains(' '), "no time stamps: {line}");
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => {
            assert!(!number.contains("inf"), "{line}");
            number.parse().expect(line)
        }
    };
    Sample { name: name.to_owned(), labels, value }
}

fn is_name(name: &str, colons: bool) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || (colons && c == ':');
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

fn unescape(text: &str, is_label: bool) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        assert!(c != '\n' && !(is_label && c == '"'), "{text}");
        out.push(match c {
            '\\' => match chars.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some('"') if is_label => '"',
                other => panic!("\\{other:?} in {text}"),
            },
            other => other,
        });
    }
    out
}

fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: BTreeSet<(String, String)> = labels.iter().map(|(l, v)| ((*l).to_owned(), (*v).to_owned())).collect();
    let matches =
        |sample: &&Sample| sample.name == name && sample.labels.iter().cloned().collect::<BTreeSet<_>>() == labels;
    samples.iter().find(matches).map(|sample| sample.value)
}

#[test]
fn names_labels_types_and_help_come_from_the_catalogue() {
    let table = pump();
    let mut rows = Rows::new(&table);
    rows.begin()
        .text("pump", "a \"quoted\"\\\n")
        .int("part", 2_i64)
        .text("maker", "M")
        .float("in_seconds", 1.5)
        .float("out_seconds", 2.5)
        .int("starts", 7_i64)
        .int("served_total", 8_i64)
        .float("water_celsius", f64::INFINITY)
        .bool("is_on", true)
        .int("level", 3_i64)
        .text("mood", "well")
        .timestamp("serviced", 1_i64);
    rows.begin().text("pump", "all").int("part", 2_i64).float("in_seconds", 100.0).int("starts", 100_i64);
    rows.begin().text("pump", "b").int("part", 3_i64).bool("is_on", false).text("maker", "");
    let exposition = Exposition::new();
    exposition.update(&table, &finish(&mut rows));
    let mut page = String::new();
    exposition.render(&mut page);
    let samples = read(&page);

    let foreign = [("pump", "a \"quoted\"\\\n"), ("part", "2"), ("site", "h"), ("maker", "M")];
    let with = |way: &'static str| [foreign.as_slice(), &[("way", way)]].concat();
    let own = [("pump", "a \"quoted\"\\\n"), ("part", "2")];
    assert_eq!(value(&samples, "pump_seconds_total", &with("in")), Some(1.5));
    assert_eq!(value(&samples, "pump_seconds_total", &with("out")), Some(2.5));
    assert_eq!(value(&samples, "pump_out_seconds_total", &foreign), Some(2.5));
    assert_eq!(value(&samples, "nodescope_pump_starts_total", &own), Some(7.0));
    assert_eq!(value(&samples, "nodescope_pump_served_total", &own), Some(8.0));
    assert_eq!(value(&samples, "nodescope_pump_water_celsius", &own), Some(f64::INFINITY));
    assert_eq!(value(&samples, "nodescope_pump_is_on", &own), Some(1.0));
    assert_eq!(value(&samples, "nodescope_pump_level", &own), Some(3.0));
    assert_eq!(value(&samples, "nodescope_pump_is_on", &[("pump", "b"), ("part", "3")]), Some(0.0));
    // Nine of them, and no more: no total, no NULL, no text, no time, no label.
    assert_eq!(samples.len(), 9, "{page}");
    assert!(page.contains("# TYPE pump_seconds_total counter\n"), "{page}");
    assert!(page.contains("# TYPE nodescope_pump_starts_total counter\n"), "{page}");
    assert!(page.contains("# TYPE nodescope_pump_is_on gauge\n"), "{page}");
    assert!(page.contains("# HELP nodescope_pump_starts_total How often it \\\\ started.\n"), "{page}");
    assert!(page.contains("# HELP pump_out_seconds_total Time pumping out.\n"), "{page}");
    assert!(page.contains("# HELP pump_seconds_total Pumps\\nof the cooling.\n"), "several columns: {page}");
}

#[test]
fn the_newest_row_of_each_entity_stays_until_it_is_old() {
    let table = pump();
    let exposition = Exposition::new();
    let start = Instant::now();
    let starts = |seconds: u64| {
        let page = rendered(&exposition, start + Duration::from_secs(seconds));
        let mut found: Vec<(String, f64)> =
            read(&page).into_iter().map(|sample| (sample.labels[1].1.clone(), sample.value)).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    };
    let found = |wanted: &[(&str, f64)]| wanted.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect::<Vec<_>>();
    assert!(starts(0).is_empty());
    exposition.update_at(&table, &pumps(&table, &[("a", 1), ("b", 1)]), start);
    exposition.update_at(&table, &pumps(&table, &[("a", 2)]), start + Duration::from_secs(20));
    assert_eq!(starts(20), found(&[("a", 2.0), ("b", 1.0)]));
    // Five intervals of twenty seconds, counted from when each was seen.
    assert_eq!(starts(100), found(&[("a", 2.0), ("b", 1.0)]));
    assert_eq!(starts(101), found(&[("a", 2.0)]));
    assert!(starts(121).is_empty());
    exposition.update_at(&table, &pumps(&table, &[("b", 5)]), start + Duration::from_secs(130));
    assert_eq!(starts(130), found(&[("b", 5.0)]));
}

#[test]
fn a_quick_table_keeps_its_entities_for_a_minute() {
    let catalogue = Catalogue::built_in();
    let table = catalogue.get("accelerator").unwrap();
    assert_eq!(table.every, Some(Duration::from_secs(1)));
    let mut rows = Rows::new(table);
    rows.begin().text("device", "GPU-1").float("power_watts", 100.0);
    let exposition = Exposition::new();
    let start = Instant::now();
    exposition.update_at(table, &finish(&mut rows), start);
    assert_eq!(read(&rendered(&exposition, start + Duration::from_secs(60))).len(), 1);
    assert_eq!(read(&rendered(&exposition, start + Duration::from_secs(61))).len(), 0);
}

#[test]
fn a_series_is_never_there_twice() {
    // Two tables with one name of metric and nothing to tell their rows apart.
    let other = PUMP.replace("\"pump\"\n    comment", "\"pump_too\"\n    comment");
    let catalogue = Catalogue::with_texts(&[("a.toml", PUMP), ("b.toml", &other)]).unwrap_or_else(|m| panic!("{m}"));
    let exposition = Exposition::new();
    for name in ["pump", "pump_too"] {
        let table = catalogue.get(name).unwrap();
        let mut rows = Rows::new(table);
        rows.begin().text("pump", "a").int("part", 1_i64).float("in_seconds", 1.0).int("starts", 1_i64);
        exposition.update(table, &finish(&mut rows));
    }
    let mut page = String::new();
    exposition.render(&mut page);
    let names: Vec<String> = read(&page).into_iter().map(|sample| sample.name).collect();
    assert_eq!(names, ["nodescope_pump_starts_total", "nodescope_pump_too_starts_total", "pump_seconds_total"]);
}

#[test]
fn accelerators_and_file_systems_have_the_names_dashboards_ask_for() {
    let catalogue = Catalogue::built_in();
    let exposition = Exposition::new();
    let table = catalogue.get("accelerator").unwrap();
    let mut rows = Rows::new(table);
    rows.begin()
        .text("device", "GPU-1")
        .int("index", 0_i64)
        .text("device_file", "nvidia0")
        .text("model", "H100")
        .text("pci_bdf", "0000:17:00.0")
        .float("temperature_celsius", 61.0)
        .float("utilization_ratio", 0.5);
    exposition.update(table, &finish(&mut rows));
    let table = catalogue.get("filesystem").unwrap();
    let mut rows = Rows::new(table);
    rows.begin()
        .text("mountpoint", "/")
        .text("device", "/dev/sda1")
        .text("fstype", "ext4")
        .int("available_bytes", 5_i64)
        .bool("read_only", false);
    exposition.update(table, &finish(&mut rows));
    let mut page = String::new();
    exposition.render(&mut page);
    let samples = read(&page);
    let gpu =
        [("gpu", "0"), ("UUID", "GPU-1"), ("device", "nvidia0"), ("modelName", "H100"), ("pci_bus_id", "0000:17:00.0")];
    assert_eq!(value(&samples, "DCGM_FI_DEV_GPU_TEMP", &gpu), Some(61.0));
    assert_eq!(value(&samples, "nodescope_accelerator_utilization_ratio", &[("device", "GPU-1")]), Some(0.5));
    let root = [("mountpoint", "/"), ("device", "/dev/sda1"), ("fstype", "ext4")];
    assert_eq!(value(&samples, "node_filesystem_avail_bytes", &root), Some(5.0));
    assert_eq!(value(&samples, "node_filesystem_readonly", &root), Some(0.0));
    assert_eq!(samples.len(), 4, "{page}");
}

/// Maps, states and infos, and labels from elsewhere.
const UNIT: &str = r#"
    table = "unit"
    comment = "Units."
    every = "10s"
    entity = ["name"]
    prometheus_labels = { name = "name" }
    [[prometheus_info]]
    name = "unit_info"
    help = "What a unit is."
    labels = { unit = "name", maker = "=us", cores = "cores", is_ours = "is_ours" }
    [[prometheus_info]]
    name = "unit_place_info"
    labels = { place = "place", maker = "=us" }
    [[column]]
    name = "name"
    type = "text"
    kind = "label"
    help = "Which."
    [[column]]
    name = "place"
    type = "text"
    kind = "label"
    help = "Where."
    [[column]]
    name = "cores"
    type = "int"
    kind = "label"
    help = "How many."
    [[column]]
    name = "is_ours"
    type = "bool"
    kind = "label"
    help = "Whether."
    [[column]]
    name = "mood"
    type = "text"
    kind = "state"
    help = "How it is."
    prometheus_states = ["good", "bad"]
    prometheus = ["unit_mood", "unit_mood_by_place{name=\"\",place=place,mood=key}"]
    [[column]]
    name = "phase"
    type = "text"
    kind = "state"
    help = "Where it is."
    prometheus_states = ["begin", "end"]
    [[column]]
    name = "parts"
    type = "int_map"
    kind = "gauge"
    unit = "1"
    help = "Parts."
    prometheus = "unit_parts{part=key}"
    [[column]]
    name = "events"
    type = "int_map"
    kind = "counter"
    unit = "1"
    help = "Events."
"#;

fn unit() -> Arc<Table> {
    let catalogue = Catalogue::with_texts(&[("unit.toml", UNIT)]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    Arc::clone(catalogue.get("unit").unwrap())
}

#[test]
fn maps_states_and_infos_are_series() {
    let table = unit();
    let mut rows = Rows::new(&table);
    rows.begin()
        .text("name", "a")
        .text("place", "here")
        .int("cores", 4_i64)
        .bool("is_ours", true)
        .text("mood", "bad")
        .text("phase", "between")
        .int_map("parts", [("wheel", 4), ("\"odd\"", -1)])
        .int_map("events", [("start", 9)]);
    rows.begin().text("name", "b").text("place", "here").text("mood", "good").int_map("parts", []);
    rows.begin().text("name", "c");
    let exposition = Exposition::new();
    exposition.update(&table, &finish(&mut rows));
    let mut page = String::new();
    exposition.render(&mut page);
    let samples = read(&page);
    let cases: &[(&str, &[(&str, &str)], f64)] = &[
        ("unit_info", &[("unit", "a"), ("maker", "us"), ("cores", "4"), ("is_ours", "true")], 1.0),
        ("unit_info", &[("unit", "b"), ("maker", "us")], 1.0),
        ("unit_info", &[("unit", "c"), ("maker", "us")], 1.0),
        // Two rows say the same and the third nothing.
        ("unit_place_info", &[("place", "here"), ("maker", "us")], 1.0),
        ("unit_mood", &[("name", "a"), ("state", "good")], 0.0),
        ("unit_mood", &[("name", "a"), ("state", "bad")], 1.0),
        ("unit_mood", &[("name", "b"), ("state", "good")], 1.0),
        ("unit_mood", &[("name", "b"), ("state", "bad")], 0.0),
        ("unit_mood_by_place", &[("place", "here"), ("mood", "good")], 0.0),
        ("unit_mood_by_place", &[("place", "here"), ("mood", "bad")], 1.0),
        // A state nobody has heard of is none of those known.
        ("nodescope_unit_phase", &[("name", "a"), ("state", "begin")], 0.0),
        ("nodescope_unit_phase", &[("name", "a"), ("state", "end")], 0.0),
        ("unit_parts", &[("name", "a"), ("part", "wheel")], 4.0),
        ("unit_parts", &[("name", "a"), ("part", "\"odd\"")], -1.0),
        ("nodescope_unit_events_total", &[("name", "a"), ("key", "start")], 9.0),
    ];
    for (name, labels, expected) in cases {
        assert_eq!(value(&samples, name, labels), Some(*expected), "{name} {labels:?}\n{page}");
    }
    assert_eq!(samples.len(), cases.len(), "{page}");
    assert!(page.contains("# HELP unit_info What a unit is.\n# TYPE unit_info gauge\n"), "{page}");
    assert!(page.contains("# HELP unit_place_info Units.\n"), "{page}");
    assert!(page.contains("# TYPE nodescope_unit_events_total counter\n"), "{page}");
}

#[test]
fn labels_follow_their_columns_while_the_entities_stay() {
    let table = unit();
    let exposition = Exposition::new();
    let start = Instant::now();
    for (second, place, mood) in [(0, "here", "good"), (1, "here", "bad"), (2, "there", "bad")] {
        let mut rows = Rows::new(&table);
        rows.begin().text("name", "a").text("place", place).text("mood", mood);
        exposition.update_at(&table, &finish(&mut rows), start + Duration::from_secs(second));
        let samples = read(&rendered(&exposition, start + Duration::from_secs(second)));
        let good = f64::from(u8::from(mood == "good"));
        assert_eq!(value(&samples, "unit_mood", &[("name", "a"), ("state", "good")]), Some(good));
        assert_eq!(value(&samples, "unit_mood_by_place", &[("place", place), ("mood", "good")]), Some(good));
        assert_eq!(value(&samples, "unit_place_info", &[("place", place), ("maker", "us")]), Some(1.0));
    }
    assert_eq!(exposition.shown.lock().tables[0].groups.len(), 1, "the same entities take the same place");
}

#[test]
fn entities_that_always_change_do_not_pile_up() {
    let table = pump();
    let exposition = Exposition::new();
    let start = Instant::now();
    for number in 0..100 {
        let name = format!("pump {number}");
        exposition.update_at(&table, &pumps(&table, &[("stays", number), (&name, 1)]), start);
    }
    assert_eq!(exposition.shown.lock().tables[0].groups.len(), MAX_GROUPS);
    let samples = read(&rendered(&exposition, start));
    assert_eq!(samples.len(), MAX_GROUPS + 1);
    let labels = [("part", "1"), ("pump", "stays")];
    assert_eq!(value(&samples, "nodescope_pump_starts_total", &labels), Some(99.0));
}

#[test]
fn numbers_are_written_as_prometheus_reads_them() {
    let cases = [
        (0.0, "0"),
        (1.5, "1.5"),
        (-2.0, "-2"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "+Inf"),
        (f64::NEG_INFINITY, "-Inf"),
    ];
    for (number, text) in cases {
        let mut out = String::new();
        put_float(&mut out, number);
        assert_eq!(out, text);
    }
}

proptest! {
    #[test]
    fn any_label_and_any_value_come_back(name in any::<String>(), part in any::<i64>(), seconds in any::<f64>()) {
        let table = pump();
        let mut rows = Rows::new(&table);
        rows.begin().text("pump", name.as_str()).int("part", part).float("water_celsius", seconds);
        let exposition = Exposition::new();
        exposition.update(&table, &finish(&mut rows));
        let mut page = String::new();
        exposition.render(&mut page);
        let samples = read(&page);
        prop_assume!(name != "all");
        prop_assert_eq!(samples.len(), 1);
        let found = samples[0].labels.iter().find(|(label, _)| label == "pump").map(|(_, value)| value.as_str());
        prop_assert_eq!(found, Some(name.as_str()).filter(|name| !name.is_empty()));
        prop_assert!(samples[0].value.to_bits() == seconds.to_bits() || (samples[0].value.is_nan() && seconds.is_nan()));
    }
}
