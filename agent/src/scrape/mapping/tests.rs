use proptest::prelude::*;

use super::*;
use crate::probes::testing::garbage;

/// A mapping of accelerators with these metrics.
fn mapping(metrics: &str) -> Result<Mapping, Vec<String>> {
    let text = format!(
        "exporter = \"x\"\nmatch = [\"x_*\"]\n[[table]]\nname = \"accelerator\"\n\
         columns = {{ device = [\"{{card}}/{{part}}\", \"{{card}}\"], vendor = \"nvidia\", index = \"{{n}}\", pci_bdf = \"{{bus}}\", \
         parent = \"{{part?}}{{card}}\" }}\n{metrics}"
    );
    parse("x.toml", "x", &text, &Catalogue::built_in())
}

fn made(metrics: &str, answer: &str) -> Mapped {
    let mut exposition = Exposition::new(false);
    for line in answer.lines() {
        exposition.add_line(line.as_bytes(), None);
    }
    apply(&[Arc::new(mapping(metrics).unwrap())], &exposition)
}

/// The cell of the row with that key.
fn cell(mapped: &Mapped, key: &str, column: &str) -> Option<Cell> {
    let row = mapped.rows.iter().find(|row| row.key.trim_end_matches('\u{1f}') == key).expect("there is no such row");
    row.cells.iter().find(|(name, _)| &**name == column).map(|(_, cell)| cell.clone())
}

fn text(text: &str) -> Option<Cell> {
    Some(Cell::Text(text.to_owned()))
}

#[test]
fn ours_are_right() {
    let catalogue = Catalogue::built_in();
    for (name, text) in BUILT_IN {
        if let Err(mistakes) = parse(&format!("{name}.toml"), name, text, &catalogue) {
            panic!("{}", mistakes.join("\n"));
        }
    }
    assert_eq!(built_in(&catalogue).len(), BUILT_IN.len());
    for vendor in VendorId::ALL {
        let written = format!("vendor = \"{}\"", vendor.as_str());
        assert!(BUILT_IN.iter().any(|(_, text)| text.contains(&written)), "nobody maps {vendor:?}");
    }
    // Where the catalogue names units, each has a word here.
    for filled in FILLED {
        for column in &catalogue.get(filled).unwrap().columns {
            assert!(
                column.unit.is_empty() || UNITS.iter().any(|(_, unit, _)| *unit == column.unit),
                "{filled}.{}: no metric can be {}",
                column.name,
                column.unit
            );
        }
    }
}

#[test]
fn labels_name_rows_and_numbers_fill_them() {
    let mapped = made(
        "metric = [{ name = \"x_load\", column = \"utilization_ratio\", unit = \"percent\" },\n\
         { name = \"x_mem\", column = \"memory_used_bytes\", unit = \"MiB\" }]",
        "x_load{card=\"a\",n=\"3\",bus=\"00000000:1B:00.0\"} 50\nx_load{card=\"a\",part=\"7\",bus=\"1b:00.0\"} 25\n\
         x_mem{card=\"a\"} 2\nx_mem{other=\"b\"} 2\nx_other{card=\"a\"} 1\n",
    );
    assert_eq!(mapped.used, [true, true, true, false, false]);
    assert_eq!(mapped.recognised, [("x".to_owned(), 2)]);
    assert_eq!(mapped.rows[0].vendor, Some(VendorId::Nvidia));
    assert_eq!(cell(&mapped, "a", "utilization_ratio"), Some(Cell::Float(0.5)));
    assert_eq!(cell(&mapped, "a", "memory_used_bytes"), Some(Cell::Int(2 << 20)));
    assert_eq!(cell(&mapped, "a", "index"), Some(Cell::Int(3)));
    assert_eq!(cell(&mapped, "a", "pci_bdf"), text("0000:1b:00.0"));
    assert_eq!(cell(&mapped, "a", "parent"), None);
    assert_eq!(cell(&mapped, "a/7", "parent"), text("a"));
    assert_eq!(cell(&mapped, "a/7", "pci_bdf"), text("0000:1b:00.0"));
    assert_eq!(cell(&mapped, "a/7", "utilization_ratio"), Some(Cell::Float(0.25)));
    assert_eq!(cell(&mapped, "a/7", "memory_used_bytes"), None);
}

#[test]
fn what_is_not_known_is_null() {
    let metrics = "metric = [{ name = \"x_a\", column = \"utilization_ratio\", unit = \"percent\" },\n\
         { name = \"x_b\", column = \"energy_joules\", unit = \"mJ\", null_if = [9223372036854775794, -5] },\n\
         { name = \"x_c\", column = \"temperature_celsius\", unit = \"celsius\", max = 200 },\n\
         { name = \"x_d\", column = \"pcie_replays\" }]";
    for (answer, column, wanted) in [
        ("x_a{card=\"a\"} 4294967295", "utilization_ratio", None),
        ("x_a{card=\"a\"} -1", "utilization_ratio", None),
        ("x_a{card=\"a\"} NaN", "utilization_ratio", None),
        ("x_a{card=\"a\"} 100.4", "utilization_ratio", Some(Cell::Float(100.4 * 0.01))),
        ("x_b{card=\"a\"} 9223372036854775794", "energy_joules", None),
        ("x_b{card=\"a\"} +Inf", "energy_joules", None),
        ("x_b{card=\"a\"} 2000", "energy_joules", Some(Cell::Float(2.0))),
        ("x_c{card=\"a\"} -12", "temperature_celsius", Some(Cell::Float(-12.0))),
        ("x_c{card=\"a\"} 201", "temperature_celsius", None),
        ("x_d{card=\"a\"} 1e19", "pcie_replays", None),
        ("x_d{card=\"a\"} 7", "pcie_replays", Some(Cell::Int(7))),
    ] {
        let mapped = made(metrics, answer);
        // It is known all the same that the card is there, and that this was no sample of something else.
        assert_eq!(mapped.used, [true], "{answer}");
        assert_eq!(cell(&mapped, "a", column), wanted, "{answer}");
    }
}

#[test]
fn many_samples_make_one_value() {
    let metrics = "metric = [{ name = \"x_link\", column = \"link_replays\", combine = \"sum\" },\n\
         { name = \"x_t\", column = \"temperature_celsius\", unit = \"celsius\", combine = \"max\" },\n\
         { name = \"x_t\", column = \"memory_temperature_celsius\", unit = \"celsius\", combine = \"min\" },\n\
         { name = [\"x_new\", \"x_old\"], column = \"power_watts\", unit = \"watts\" },\n\
         { name = \"x_total\", column = \"memory_total_bytes\", unit = \"bytes\" },\n\
         { sum = [\"x_used\", \"x_free\"], column = \"memory_total_bytes\", unit = \"KiB\" },\n\
         { name = \"x_state\", column = \"health\", values = { 0 = \"failed\", 1 = \"ok\" }, where = { kind = [\"core\", \"\"] } },\n\
         { name = \"x_info\", column = \"model\", text = \"{brand} {name}\" },\n\
         { name = \"x_flag\", column = \"mig_enabled\" }]";
    let mapped = made(
        metrics,
        "x_link{card=\"a\",l=\"0\"} 1\nx_link{card=\"a\",l=\"1\"} 2\nx_link{card=\"a\",l=\"2\"} -1\n\
         x_t{card=\"a\",s=\"0\"} 40\nx_t{card=\"a\",s=\"1\"} 45\nx_old{card=\"a\"} 5\nx_new{card=\"a\"} 6\n\
         x_used{card=\"a\"} 3\nx_free{card=\"a\"} 4\nx_used{card=\"b\"} 3\nx_total{card=\"c\"} 9\nx_used{card=\"c\"} 1\nx_free{card=\"c\"} 1\n\
         x_state{card=\"a\",kind=\"core\"} 1\nx_state{card=\"b\"} 0\nx_state{card=\"c\",kind=\"fan\"} 0\nx_state{card=\"d\"} 5\n\
         x_info{card=\"a\",brand=\"A\",name=\"100\"} 1\nx_info{card=\"b\",brand=\"B\"} 1\nx_flag{card=\"a\"} 1\nx_flag{card=\"b\"} 3\n",
    );
    let value = |key: &str, column: &str| cell(&mapped, key, column);
    assert_eq!(value("a", "link_replays"), Some(Cell::Int(3)));
    assert_eq!(value("a", "temperature_celsius"), Some(Cell::Float(45.0)));
    assert_eq!(value("a", "memory_temperature_celsius"), Some(Cell::Float(40.0)));
    assert_eq!(value("a", "power_watts"), Some(Cell::Float(6.0)), "the first name goes, in whatever order they come");
    assert_eq!(value("a", "memory_total_bytes"), Some(Cell::Int(7 * 1024)));
    assert_eq!(value("b", "memory_total_bytes"), None, "a part is missing");
    assert_eq!(value("c", "memory_total_bytes"), Some(Cell::Int(9)), "the first metric of a column goes");
    assert_eq!(value("a", "health"), text("ok"));
    assert_eq!(value("b", "health"), text("failed"));
    assert_eq!(value("c", "health"), None, "a sample that is not wanted");
    assert_eq!(value("d", "health"), None, "a number without a word");
    assert_eq!(value("a", "model"), text("A 100"));
    assert_eq!(value("b", "model"), None);
    assert_eq!(value("a", "mig_enabled"), Some(Cell::Bool(true)));
    assert_eq!(value("b", "mig_enabled"), None);
    assert_eq!(mapped.used.iter().filter(|used| !**used).count(), 1, "it is not used, so it is a sample");
}

#[test]
fn an_exporter_is_known_by_its_metrics() {
    let mapped = made("metric = [{ name = \"y\", column = \"pcie_replays\" }]", "y{card=\"a\"} 1\nz 1\n");
    assert!(mapped.rows.is_empty() && mapped.recognised.is_empty());
    assert_eq!(mapped.used, [false, false]);
    let mapped = made("metric = [{ name = \"y\", column = \"pcie_replays\" }]", "y{card=\"a\"} 1\nx_1 1\n");
    assert_eq!(mapped.rows.len(), 1);
}

#[test]
fn rows_are_bounded() {
    let answer: String = (0..MAX_ROWS + 5).map(|n| format!("x_a{{card=\"{n}\"}} 1\n")).collect();
    let mapped = made("metric = [{ name = \"x_a\", column = \"pcie_replays\" }]", &answer);
    assert_eq!((mapped.rows.len(), mapped.beyond), (MAX_ROWS, 5));
}

#[test]
fn all_mistakes_are_told_with_their_lines() {
    let text = r#"exporter = "y"
mach = ["a"]
[[table]]
name = "accelerator"
columns = { device = "{UUID", vendor = 3, utilization_ratio = "{a}", nosuch = "{b}" }
[[table.metric]]
name = "a"
column = "power_watts"
unit = "MHz"
[[table.metric]]
name = "b"
column = "health"
[[table.metric]]
name = "c"
column = "device"
[[table.metric]]
column = "cores"
[[table.metric]]
name = []
column = "cores"
unit = "parsec"
min = 5
max = 1
combine = "median"
null_if = ["a"]
[[table.metric]]
name = "d"
column = "cores"
values = { x = "y" }
[[table]]
name = "cpu"
[[table]]
name = "accelerator_process"
"#;
    let mistakes = parse("x.toml", "x", text, &Catalogue::built_in()).unwrap_err();
    for wanted in [
        "x.toml:1: exporter = \"y\": the file is called x.toml",
        "x.toml:2: `mach`: there is only",
        "x.toml:1: match: name the metrics",
        "x.toml:5: `{UUID`: a `}` is missing",
        "x.toml:5: a text, or a list of texts, is expected here",
        "x.toml:5: `utilization_ratio` is float: labels fill text and int",
        "x.toml:5: accelerator has no column `nosuch`",
        "x.toml:9: unit = \"MHz\": `power_watts` takes watts, mW, uW",
        "`health` is text: it needs `values` or `text`",
        "x.toml:15: `device` tells rows apart",
        "a metric has `name` or `sum`",
        "no metric is named",
        "unit = \"parsec\": the units are",
        "min 5 is above max 1",
        "combine = \"median\": first, sum, max or min",
        "x.toml:25: a number is expected here",
        "x.toml:29: `x` is no number",
        "`cores` is int: it takes no `values` or `text`",
        "name = \"cpu\": a mapping fills accelerator or accelerator_process",
        "[table.columns] has no `pid`",
    ] {
        assert!(
            mistakes.iter().any(|mistake| mistake.contains(wanted)),
            "{wanted}\nis not in\n{}",
            mistakes.join("\n")
        );
    }
    let mistakes = parse("x.toml", "x", "exporter = \n= 5\n", &Catalogue::built_in()).unwrap_err();
    assert!(mistakes[0].starts_with("x.toml:1: "), "{mistakes:?}");
}

#[test]
fn addresses_are_written_as_sysfs_does() {
    for (given, wanted) in [
        ("00000000:1B:00.0", "0000:1b:00.0"),
        ("0000:c1:00.0", "0000:c1:00.0"),
        ("C1:00.0", "0000:c1:00.0"),
        ("00010000:C1:00.0", "10000:c1:00.0"),
        ("what", "what"),
        ("x:y:z", "x:y:z"),
    ] {
        assert_eq!(sysfs_address(given), wanted);
    }
}

proptest! {
    #[test]
    fn any_file_is_survived(text in garbage(), key in "(table|match|columns|metric|name|values)?", value in garbage()) {
        let catalogue = Catalogue::built_in();
        let _ = parse("x.toml", "x", &text, &catalogue);
        let _ = parse("x.toml", "x", &format!("exporter = \"x\"\n{key} = {value}\n"), &catalogue);
        let _ = mapping(&format!("metric = [{{ {key} = {value} }}]"));
    }

    #[test]
    fn any_answer_is_survived(answer in prop::collection::vec("x_[ab]\\{card=\"[ab]?\",part=\"[0-9]?\"\\} [0-9Nae.+-]{1,9}", 0..20)) {
        made(
            "metric = [{ name = \"x_a\", column = \"pcie_replays\", combine = \"sum\" }, { sum = [\"x_a\", \"x_b\"], column = \"cores\" }]",
            &answer.join("\n"),
        );
    }
}
