//! A recorded machine, read whole: what this one lacks (InfiniBand, ECC memory, NUMA, throttling, bonding, NVMe).
//!
//! `UPDATE=1 cargo test -p nodescope-agent --test golden` writes the expected rows anew; the difference is then for
//! whoever changes a probe to look at.

use std::path::Path;
use std::process::Command;

/// Sizes of this machine's file systems, on which the recorded tree lies, and the time.
const OF_THE_MOMENT: [&str; 6] = ["ts", "size_bytes", "free_bytes", "available_bytes", "files", "files_free"];

/// The program's rows, one a line, without what differs from run to run.
fn rows(root: &Path) -> String {
    let data = tempfile::tempdir().expect("a folder");
    let ran = Command::new(env!("CARGO_BIN_EXE_nodescope-agent"))
        .args(["--once", "--format", "json", "--host", "busy", "--root"])
        .arg(root)
        .arg("--data")
        .arg(data.path())
        .output()
        .expect("it runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let mut lines = Vec::new();
    for line in String::from_utf8(ran.stdout).expect("it is text").lines() {
        let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).expect("JSON");
        let is_filesystem = row.get("table").is_some_and(|table| table == "filesystem");
        row.retain(|column, _| {
            column == "table" || !(OF_THE_MOMENT.contains(&column.as_str()) && (is_filesystem || column == "ts"))
        });
        lines.push(serde_json::to_string(&row).expect("JSON"));
    }
    lines.join("\n") + "\n"
}

#[test]
fn a_recorded_machine_gives_the_rows_it_always_gave() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let found = rows(&fixtures.join("busy-host"));
    let golden = fixtures.join("busy-host.jsonl");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&golden, &found).expect("it is written");
    }
    let expected = std::fs::read_to_string(&golden).expect("the expected rows are there");
    let tables = |text: &str| text.lines().count();
    for (at, (expected, found)) in expected.lines().zip(found.lines()).enumerate() {
        assert_eq!(expected, found, "line {} of {}", at + 1, golden.display());
    }
    assert_eq!(tables(&expected), tables(&found));
    for table in ["rdma", "edac", "numa", "bond", "nic", "sensor", "power", "container", "module", "disk"] {
        assert!(found.contains(&format!("\"table\":\"{table}\"")), "{table}");
    }
}
