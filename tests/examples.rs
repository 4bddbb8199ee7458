//! What `docs/producers.md` shows, run as it is: a site's own table, filled from Python.
//!
//! Needs Python with pyarrow and confluent-kafka, named by `NODESCOPE_PYTHON`; `.ci/run` provides it.

mod support;

use std::process::Command;

use support::{Up, connect, number, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_site_s_own_is_filled_from_python() {
    let Some(python) = std::env::var_os("NODESCOPE_PYTHON") else {
        println!("NODESCOPE_PYTHON is not set: nothing was tested");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples");
    let catalogue = folder.path().join("catalogue.d");
    std::fs::create_dir(&catalogue).expect("a folder");
    std::fs::copy(format!("{examples}/cooling.toml"), catalogue.join("cooling.toml")).expect("copied");
    let up = Up::start_on(folder, &[("NODESCOPE_NODE_CATALOGUE_FOLDER", &catalogue.display().to_string())]);
    let run = |script: &str| {
        let output = Command::new(&python)
            .arg(format!("{examples}/{script}"))
            .arg(up.kafka().to_string())
            .output()
            .expect("python runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    assert!(run("produce.py").contains("sent 2 rows"));
    let client = connect(([127, 0, 0, 1], up.postgres_port()).into()).await;
    until(&client, "select count(*) from cooling", |rows| rows == 2).await;
    // A column that was left out, and a value that nobody could read, are NULL.
    assert_eq!(number(&client, "select count(valve) + count(outlet_celsius) from cooling").await, Some(1));
    let consumed = run("consume.py");
    assert!(consumed.contains("'rack': 'A1'") && consumed.contains("'pumped_litres': 47950"), "{consumed}");
}
