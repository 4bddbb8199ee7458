use datafusion::arrow::array::{RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::MemTable;

use super::*;

fn context() -> (SessionContext, Arc<dyn SchemaProvider>) {
    let mut config = datafusion::prelude::SessionConfig::new();
    config.options_mut().execution.time_zone = Some("UTC".to_owned());
    let context = SessionContext::new_with_config(config);
    let ts = TimestampMicrosecondArray::from(vec![1_000_000, 2_000_000, 3_000_000]).with_timezone("UTC");
    let schema = Arc::new(Schema::new(vec![
        Field::new("ts", nodescope_model::catalogue::timestamp_type(), false),
        Field::new("host", DataType::Utf8, false),
    ]));
    let hosts = Arc::new(StringArray::from(vec!["a", "b", "a"]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(ts), hosts]).unwrap();
    context.register_table("seen", Arc::new(MemTable::try_new(schema, vec![vec![batch]]).unwrap())).unwrap();
    let public = context.catalog("datafusion").unwrap().schema("public").unwrap();
    (context, public)
}

fn file(head: &str, columns: &[&str], sql: &str) -> String {
    let columns: Vec<String> = columns.iter().map(|column| format!("{column} = \"It.\"")).collect();
    format!("/*\ntitle = \"T\"\nquestion = \"Q?\"\n{head}\n[columns]\n{}\n*/\n{sql}\n", columns.join("\n"))
}

fn plan(files: &[(&str, String)]) -> Result<SessionContext, Vec<String>> {
    let (context, public) = context();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let views = Views::plan(&context, public.as_ref(), &files)
        .map_err(|e| e.0.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    // A session has a `now()` of its own, as engines' sessions do.
    let (session, _) = self::context();
    let schema = session.catalog("datafusion").unwrap().schema("public").unwrap();
    for view in views.views() {
        let table = public.table(&view.name).now_or_never().unwrap().unwrap().unwrap();
        schema.register_table(view.name.clone(), table).unwrap();
    }
    views.install(&session);
    Ok(session)
}

async fn ask(context: &SessionContext, sql: &str) -> Result<String> {
    let batches = context.sql(sql).await?.collect().await?;
    let text = pretty_format_batches(&batches)?.to_string();
    let rows = text.lines().skip(3).filter(|line| !line.starts_with('+'));
    Ok(rows.map(|row| row.split_whitespace().collect::<String>()).collect::<Vec<_>>().join(" "))
}

#[tokio::test]
async fn views_use_views_whatever_the_order() {
    let session = plan(&[
        ("a", file("", &["host", "n"], "SELECT host, n + 1 AS n FROM b")),
        ("b", file("", &["host", "n"], "SELECT host, count(*) AS n FROM seen GROUP BY host")),
        (
            "c",
            file(
                "[parameters]\nleast = { value = 2, help = \"H.\" }",
                &["host"],
                "SELECT host FROM a WHERE n > $least",
            ),
        ),
    ])
    .unwrap();
    assert_eq!(ask(&session, "SELECT * FROM a ORDER BY host").await.unwrap(), "|a|3| |b|2|");
    assert_eq!(ask(&session, "SELECT * FROM c()").await.unwrap(), "|a|");
    assert_eq!(ask(&session, "SELECT * FROM c(1) ORDER BY 1").await.unwrap(), "|a| |b|");
}

#[tokio::test]
async fn functions_take_values_calculations_and_the_clients_parameters() {
    let head = "[parameters]\nfrom = { type = \"timestamp\", help = \"H.\" }\nhost = { type = \"text\", value = \"a\", help = \"H.\" }";
    let session = plan(&[
        ("since", file(head, &["n"], "SELECT count(*) AS n FROM seen WHERE ts >= $from AND host = $host")),
        ("recent", file("", &["n"], "SELECT n FROM since(now() - INTERVAL '200 years')")),
    ])
    .unwrap();
    for (call, expected) in [
        ("since('1970-01-01T00:00:01Z')", "|2|"),
        ("since('1970-01-01T00:00:02Z')", "|1|"),
        ("since(TIMESTAMP '1970-01-01T00:00:02' + INTERVAL '1 second', 'b')", "|0|"),
        ("since(now() - INTERVAL '200 years', 'b')", "|1|"),
        ("recent", "|2|"),
    ] {
        assert_eq!(ask(&session, &format!("SELECT n FROM {call}")).await.unwrap(), expected, "{call}");
    }
    let plan = session.state().create_logical_plan("SELECT n FROM since($1, $2)").await.unwrap();
    let types = plan.get_parameter_types().unwrap();
    assert_eq!(types["$1"], Some(nodescope_model::catalogue::timestamp_type()));
    assert_eq!(types["$2"], Some(DataType::Utf8));
    for (call, part) in [
        ("since()", "since(from, host := a): argument 1, from, is missing"),
        ("since('yesterday')", "argument 1, from, is a time, and 'yesterday' was given"),
        ("since(7)", "argument 1, from, is a time, and 7 was given"),
        ("since(now(), 7)", "argument 2, host, is text, and 7 was given"),
        ("since(now(), 'b', 'c')", "takes no more than 2 arguments"),
    ] {
        let error = ask(&session, &format!("SELECT n FROM {call}")).await.expect_err(call).to_string();
        assert!(error.contains(part), "{call}: {error}");
    }
}

#[tokio::test]
async fn now_is_the_time_of_the_statement() {
    let session = plan(&[
        ("inner_now", file("[parameters]\nat = { type = \"timestamp\", help = \"H.\" }", &["at"], "SELECT $at AS at")),
        ("clock", file("", &["at", "inside"], "SELECT now() AS at, i.at AS inside FROM inner_now(now()) i")),
    ])
    .unwrap();
    let first = ask(&session, "SELECT at = inside, at FROM clock").await.unwrap();
    let second = ask(&session, "SELECT at = inside, at FROM clock").await.unwrap();
    assert!(first.starts_with("|true|") && second.starts_with("|true|"), "{first} {second}");
    assert_ne!(first, second);
}

#[test]
fn all_mistakes_of_all_files_are_told_at_once() {
    let mistakes = plan(&[
        ("a", "SELECT 1".to_owned()),
        ("b", file("", &["x"], "SELECT y AS x FROM seen")),
        ("c", file("", &["host", "z"], "SELECT host, ts FROM seen")),
        ("d", file("[parameters]\np = { help = \"H.\" }", &["host"], "SELECT host FROM seen WHERE host = $q")),
        ("e", file("", &["x"], "SELECT x FROM b")),
        ("f", file("", &["host"], "DELETE FROM seen")),
        ("seen", file("", &["host"], "SELECT host FROM seen")),
        ("x", file("", &["host"], "SELECT host FROM y")),
        ("y", file("", &["host"], "SELECT host FROM x")),
    ])
    .err()
    .expect("mistakes");
    let expected = [
        "views/a.sql: it must begin with a head",
        "views/b.sql: Schema error: No field named y",
        "views/c.sql: columns.z: the SQL has no such column",
        "views/c.sql: columns.ts: is missing",
        "views/d.sql: parameters.p.value: is missing",
        "views/d.sql: the SQL uses $q",
        "views/f.sql: cannot execute DELETE",
        "views/seen.sql: there is a table of this name",
        "views use each other in a circle",
        "x → y → x",
    ];
    for part in expected {
        assert!(mistakes.iter().any(|mistake| mistake.contains(part)), "{part}: {mistakes:#?}");
    }
    // `e` leans on `b`, whose mistake it is.
    assert!(mistakes.iter().all(|mistake| !mistake.contains("views/e.sql")), "{mistakes:#?}");
}
