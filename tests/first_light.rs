//! One command samples this machine, and SQL answers.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::{Process, Up, connect, number, until};

fn nodescope(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_nodescope")).args(arguments).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_this_machine_are_there_within_seconds_and_kept() {
    let began = Instant::now();
    let mut up = Up::start().await;
    let client = connect(([127, 0, 0, 1], up.postgres_port()).into()).await;
    assert!(began.elapsed() < Duration::from_secs(10), "ready after {:?}", began.elapsed());
    until(&client, "select count(*) from memory where ts > now() - interval '2 seconds'", |rows| rows > 0).await;
    for table in ["host", "cpu", "memory", "system", "filesystem", "interface", "protocol", "process", "agent"] {
        until(&client, &format!("select count(*) from {table}"), |rows| rows > 0).await;
    }
    let sane = "select count(*) from memory where total_bytes > 1000000 and available_bytes <= total_bytes";
    assert!(number(&client, sane).await > Some(0));
    // All programs at once, as a dashboard has them: the rate of a counter over what is hot.
    until(&client, "select count(distinct ts) from cpu where cpu = 'all'", |ticks| ticks >= 3).await;
    let busy =
        "select (rate(user_seconds + system_seconds + idle_seconds, ts) * 1000)::bigint from cpu where cpu = 'all'";
    assert!(
        number(&client, busy).await.is_some_and(|rate| rate > 100),
        "CPUs do something or nothing, but for some time"
    );
    assert_eq!(number(&client, "select count(*) from quarantine").await, Some(0));

    // Ctrl-C, and again: the history is there.
    let before = number(&client, "select count(*) from memory").await.expect("a count");
    assert!(up.process().interrupt().success(), "Ctrl-C is a clean end");
    let mut up = Up::start_on(up.into_folder(), &[]);
    let client = connect(([127, 0, 0, 1], up.postgres_port()).into()).await;
    until(&client, "select count(*) from memory", |rows| rows > before).await;
    // The same after a kill.
    let before = number(&client, "select count(*) from memory").await.expect("a count");
    up.process().kill();
    let up = Up::start_on(up.into_folder(), &[]);
    let client = connect(([127, 0, 0, 1], up.postgres_port()).into()).await;
    until(&client, "select count(*) from memory", |rows| rows > before).await;
    let twice = "select count(*) - count(distinct ts) from memory";
    assert_eq!(number(&client, twice).await, Some(0), "no tick is there twice");

    let server = format!("127.0.0.1:{}", up.postgres_port());
    let ask = |format: &str, sql: &str| nodescope(&["sql", "--server", &server, "--format", format, sql]);
    let sql = "select host, total_bytes, ts, 1.5 as half, true as yes, null as nothing from memory limit 1";
    let (ok, table, error) = ask("table", sql);
    assert!(ok && table.contains("| host") && table.contains("1 row"), "{table}{error}");
    let (ok, csv, error) = ask("csv", sql);
    assert!(
        ok && csv.starts_with("host,total_bytes,ts,half,yes,nothing\n") && csv.lines().count() == 2,
        "{csv}{error}"
    );
    let (ok, json, error) = ask("json", sql);
    assert!(ok && json.contains("\"half\":1.5") && json.contains("\"yes\":true"), "{json}{error}");
    let (ok, _, error) = ask("arrow", sql);
    assert!(ok, "{error}");
    let (ok, _, error) = ask("table", "select nosuch from memory");
    assert!(!ok && error.contains("nosuch"), "{error}");
    let (ok, _, error) = ask("table", "drop table memory");
    assert!(!ok && error.contains("read-only"), "{error}");
}

#[test]
fn check_tells_every_mistake_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("nodescope.toml");
    std::fs::write(
        &file,
        "[kafka]\nbroker = \"x:1\"\ntopic = \"a b\"\n[store]\nurl = \"ftp://x\"\n[agent]\ninterval = \"soon\"\n\
         [query]\npostgres_address = \"0.0.0.0:15432\"\n",
    )
    .expect("written");
    let (ok, _, error) = nodescope(&["check", "--config", &file.display().to_string()]);
    assert!(!ok);
    for part in
        ["kafka.broker", "kafka.brokers", "kafka.topic", "store.url", "agent.interval", "query.postgres_address"]
    {
        assert!(error.contains(part), "`{part}` is not in:\n{error}");
    }
}

#[test]
fn check_says_what_does_not_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store").display().to_string();
    let (ok, out, _) = nodescope(&["check", "--store", &store, "--brokers", "127.0.0.1:1"]);
    assert!(!ok);
    assert!(out.contains("no answer from Kafka at 127.0.0.1:1"), "{out}");
    assert!(out.contains("keeps what it is given"), "{out}");
}

#[test]
fn a_second_agent_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("agent").display().to_string();
    let arguments = ["agent", "--data", &data, "--brokers", "127.0.0.1:1", "--metrics", "127.0.0.1:0"];
    let mut first = Process::start(folder.path(), &arguments, &[]);
    let until = Instant::now() + support::PATIENCE;
    while !folder.path().join("agent/agent").exists() {
        assert!(first.runs() && Instant::now() < until, "the first one does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (ok, _, error) = nodescope(&arguments);
    assert!(!ok && error.contains("another agent is using"), "{error}");
}

#[test]
fn once_prints_what_would_be_sent() {
    let (ok, out, error) = nodescope(&["agent", "--once", "--format", "json"]);
    assert!(ok, "{error}");
    for table in ["cpu", "memory", "system", "process"] {
        assert!(out.contains(&format!("{{\"table\":\"{table}\"")), "no rows of {table}:\n{out}");
    }
}

#[test]
fn the_agent_alone_is_small() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--package", "nodescope-agent", "--edges", "normal,build", "--prefix", "none", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8_lossy(&tree.stdout);
    for heavy in ["datafusion", "deltalake", "tansu", "parquet", "object_store", "pgwire", "nodescope-store"] {
        let found: Vec<_> = tree.lines().filter(|line| line.starts_with(heavy)).collect();
        assert!(found.is_empty(), "the agent links {found:?}");
    }
}
