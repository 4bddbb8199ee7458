//! The registry on the real program: in and out, beside a running `up`, and killed in the middle.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nodescope_model::catalogue::Catalogue;
use nodescope_registry::kinds::{Kinds, Role};
use support::{Up, connect, number, until};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/registry");

/// The files of the guide, as it names them.
fn examples() -> Vec<PathBuf> {
    let names = ["node.csv", "resource.csv", "registration.csv", "peer.csv", "maintenance.json", "more.json"];
    names.iter().map(|name| Path::new(EXAMPLES).join(name)).collect()
}

fn command(store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodescope"));
    command.arg("registry").arg("--store").arg(store);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn right(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn import(store: &Path, files: &[PathBuf]) -> Output {
    command(store).arg("import").args(files).output().expect("it runs")
}

fn run(store: &Path, arguments: &[&str]) -> String {
    right(&command(store).args(arguments).output().expect("it runs"))
}

#[test]
fn the_guide_s_files_go_in_and_come_out_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two, three) = (folder.path().join("one"), folder.path().join("two"), folder.path().join("three"));
    let dry = command(&one).args(["import", "--dry-run"]).args(examples()).output().expect("it runs");
    assert!(right(&dry).contains("nothing was written"));
    assert!(run(&one, &["list"]).contains("empty"));
    let said = right(&import(&one, &examples()));
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/registry.md")).expect("the guide");
    for line in said.lines().filter(|line| !line.starts_with("import ")) {
        assert!(guide.contains(line), "the guide does not show `{line}`");
    }
    assert!(right(&import(&one, &examples())).contains("nothing was changed"));
    // A change, a revocation and a correction, so that there is a history.
    run(&one, &["revoke", "registration", "310101", "gpu-01", "1", "--at", "2026-11-30T00:00:00+08:00"]);
    let later = folder.path().join("registration.json");
    let moved = r#"[{"node": "310101", "host": "gpu-01", "device": "0", "identifier": "new", "status": "repair",
        "valid_from": "2026-06-01T00:00:00Z"}]"#;
    std::fs::write(&later, moved).expect("written");
    right(&import(&one, std::slice::from_ref(&later)));
    std::fs::write(&later, moved.replace("repair", "in_service")).expect("written");
    right(&import(&one, std::slice::from_ref(&later)));
    let listed = |at: &str| run(&one, &["list", "registration", "--at", at]);
    assert!(
        listed("2026-05-01T00:00:00Z").contains("CN-310101-0001-0")
            && listed("2026-05-01T00:00:00Z").contains("4 entries")
    );
    let after = listed("2026-12-01T00:00:00Z");
    assert!(after.contains("new") && !after.contains("repair") && after.contains("3 entries"), "{after}");

    // By JSON, all at once.
    let whole = run(&one, &["export", "--history"]);
    let file = folder.path().join("everything.json");
    std::fs::write(&file, &whole).expect("written");
    right(&import(&two, &[file]));
    assert_eq!(run(&two, &["export", "--history"]), whole);
    // By CSV, one file a kind.
    let kinds = Kinds::new(&Catalogue::built_in());
    let files: Vec<PathBuf> = kinds
        .all()
        .iter()
        .map(|kind| {
            let file = folder.path().join(format!("{}.csv", kind.name));
            std::fs::write(&file, run(&one, &["export", kind.name, "--history", "--format", "csv"])).expect("written");
            file
        })
        .collect();
    right(&import(&three, &files));
    assert_eq!(run(&three, &["export", "--history"]), whole);
}

#[test]
fn the_guide_lists_every_field() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/registry.md")).expect("the guide");
    for kind in Kinds::new(&Catalogue::built_in()).all() {
        let heading = format!("\n### {}\n", kind.name);
        let section = guide.split_once(&heading).unwrap_or_else(|| panic!("no{heading}")).1;
        let section = section.split_once("\n##").map_or(section, |(section, _)| section);
        for field in &kind.fields {
            let star = if field.needed { " *" } else { "" };
            let row = match field.role {
                Role::Key(_) => format!("| **`{}`**{star} |", field.name),
                Role::Value(_) => {
                    format!("| `{}`{star} | {} | {} |", field.name, field.column_type.as_str(), field.help)
                }
                Role::ValidFrom | Role::Revoked => continue,
            };
            assert!(section.contains(&row), "{}: {row}", kind.name);
        }
    }
}

#[test]
fn mistakes_are_told_together_and_nothing_is_applied_by_half() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let write = |name: &str, content: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, content).expect("written");
        file
    };
    let files = [
        write("node.csv", "node,kind,parent\n1,site,\n2,sit,\n"),
        write(
            "resource.csv",
            "node,resource,class,precision,sparsity,basis,devices\n9,r,super,fp64,dense,nominal,1.5\n",
        ),
        write("peer.json", "[{\"node\": \"9\", \"peer\": \"p\"}"),
        write("unknown.csv", "a,b\n"),
        folder.path().join("missing.csv"),
    ];
    let output = import(&store, &files);
    assert!(!output.status.success());
    let told = text(&output.stderr);
    for wanted in [
        "node.csv, line 3: kind: `sit` is none of national, regional, industry, site; did you mean `site`?",
        "resource.csv, line 2: devices: `1.5` is not a whole number",
        "peer.json: EOF",
        "unknown.csv: of what kind are its rows?",
        "missing.csv: cannot be read",
        "5 mistakes; nothing was changed",
    ] {
        assert!(told.contains(wanted), "{wanted}\n{told}");
    }
    assert!(run(&store, &["list"]).contains("empty"));
    let gone = command(&store).args(["revoke", "node", "1"]).output().expect("it runs");
    assert!(!gone.status.success() && text(&gone.stderr).contains("there is no node 1"), "{}", text(&gone.stderr));
}

/// Sites and a host of each, `count` of them, whose codes begin with `name`.
fn many(folder: &Path, name: &str, count: usize) -> Vec<PathBuf> {
    let (mut nodes, mut hosts) = ("node,kind\n".to_owned(), "node,host,status\n".to_owned());
    for at in 0..count {
        nodes.push_str(&format!("{name}-{at},site\n"));
        hosts.push_str(&format!("{name}-{at},h,in_service\n"));
    }
    let folder = folder.join(name);
    std::fs::create_dir(&folder).expect("a folder");
    let files = vec![folder.join("node.csv"), folder.join("registration.csv")];
    std::fs::write(&files[0], nodes).expect("written");
    std::fs::write(&files[1], hosts).expect("written");
    files
}

/// How many nodes and registrations of that name there are.
fn there(store: &Path, name: &str) -> (usize, usize) {
    let whole: serde_json::Value = serde_json::from_str(&run(store, &["export"])).expect("JSON");
    let count = |kind: &str| {
        let rows = whole[kind].as_array().expect("an array");
        rows.iter().filter(|row| row["node"].as_str().is_some_and(|node| node.starts_with(name))).count()
    };
    (count("node"), count("registration"))
}

#[test]
fn a_kill_leaves_all_of_an_import_or_nothing() {
    const COUNT: usize = 500;
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    // How long one takes undisturbed, so that kills fall before, into and after the write.
    let began = Instant::now();
    right(&import(&store, &many(folder.path(), "first-", COUNT)));
    let whole = began.elapsed();
    let mut seen = BTreeSet::new();
    for attempt in 0..24_u32 {
        let name = format!("import{attempt}-");
        let files = many(folder.path(), &name, COUNT);
        let mut child = command(&store).arg("import").args(&files).spawn().expect("it runs");
        std::thread::sleep(whole * attempt / 20);
        let _ = child.kill();
        child.wait().expect("it is gone");
        let (nodes, hosts) = there(&store, &name);
        assert!(nodes == hosts && (nodes == 0 || nodes == COUNT), "{name}: {nodes} nodes, {hosts} registrations");
        seen.insert(nodes);
        // Whatever the kill has left: once more, and it is there once.
        if attempt % 8 == 0 {
            right(&import(&store, &files));
            assert_eq!(there(&store, &name), (COUNT, COUNT));
        }
    }
    assert!(seen.contains(&0), "every kill came too late: nothing was tested");
}

#[test]
fn imports_at_the_same_time_are_all_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let names: Vec<String> = (0..4).map(|at| format!("import{at}-")).collect();
    let children: Vec<_> = names
        .iter()
        .map(|name| command(&store).arg("import").args(many(folder.path(), name, 50)).spawn().expect("it runs"))
        .collect();
    for mut child in children {
        assert!(child.wait().expect("it ends").success());
    }
    for name in &names {
        assert_eq!(there(&store, name), (50, 50), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_running_up_samples_join_what_held_at_their_own_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, files) = (folder.path().join("data/store"), tempfile::tempdir().expect("a folder"));
    let up = Up::start_on(folder, &[]);
    let client = connect(([127, 0, 0, 1], up.postgres_port()).into()).await;
    until(&client, "select count(*) from memory", |rows| rows >= 6).await;
    let row = client
        .query_one("select node, host, cast(min(ts) as text), cast(approx_percentile_cont(cast(ts as bigint), 0.5) as bigint) from memory group by node, host", &[])
        .await
        .expect("there are samples");
    let (node, host, middle): (String, String, i64) = (row.get(0), row.get(1), row.get(3));
    let middle = nodescope_registry::value::show_time(middle);
    let file = files.path().join("all.json");
    let all = serde_json::json!({
        "node": [{ "node": node, "kind": "site", "name": "here", "valid_from": "2020-01-01T00:00:00Z" }],
        "registration": [
            { "node": node, "host": host, "identifier": "old", "status": "in_service", "valid_from": "2020-01-01T00:00:00Z" },
            { "node": node, "host": host, "identifier": "new", "status": "in_service", "valid_from": middle },
        ],
    });
    std::fs::write(&file, all.to_string()).expect("written");
    right(&import(&store, std::slice::from_ref(&file)));
    let began = Instant::now();
    until(&client, "select count(*) from registration", |rows| rows == 2).await;
    println!("readable {:?} after the import", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(20));

    let joined = |identifier: &str| {
        format!(
            "select count(*) from memory s join registration r on r.node = s.node and r.host = s.host and r.device = ''
             and s.ts >= r.valid_from and (r.valid_to is null or s.ts < r.valid_to) where r.identifier = '{identifier}'"
        )
    };
    let counted = |when: &str| format!("select count(*) from memory where ts {when} timestamptz '{middle}'");
    let old = number(&client, &joined("old")).await;
    assert!(old > Some(0));
    assert_eq!(old, number(&client, &counted("<")).await);
    until(&client, &joined("new"), |rows| rows > 0).await;
    // No sample has none, and none has two, while more arrive.
    let lost = "select count(*) from (select s.ts, count(r.identifier) as n from memory s left join registration r
         on r.node = s.node and r.host = s.host and s.ts >= r.valid_from and (r.valid_to is null or s.ts < r.valid_to)
         group by s.ts, s.host) where n <> 1";
    assert_eq!(number(&client, lost).await, Some(0));

    // A correction of the past replaces; what was imported first stays in the table below.
    std::fs::write(&file, all.to_string().replace("\"old\"", "\"older\"")).expect("written");
    right(&import(&store, std::slice::from_ref(&file)));
    until(&client, &joined("older"), |rows| Some(rows) == old).await;
    assert_eq!(number(&client, &joined("old")).await, Some(0));
    assert_eq!(number(&client, "select count(*) from registry_registration").await, Some(3));
    // The views have what the files have, and when it ends.
    for kind in Kinds::new(&Catalogue::built_in()).all() {
        let prepared = client.prepare(&format!("select * from {}", kind.name)).await.expect("a view");
        let columns: BTreeSet<&str> = prepared.columns().iter().map(tokio_postgres::Column::name).collect();
        let mut wanted: BTreeSet<&str> = kind.fields.iter().map(|field| field.name.as_str()).collect();
        wanted.remove("revoked");
        wanted.insert("valid_to");
        assert_eq!(columns, wanted, "{}", kind.name);
    }
    // It ends, and is no longer offered.
    run(&store, &["revoke", "registration", &node, &host]);
    until(&client, "select count(*) from registration where valid_to is null", |rows| rows == 0).await;
}
