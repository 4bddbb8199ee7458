//! What clients send, asked of a context that has two tables and no rows.

use std::collections::BTreeMap;

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::catalog::MemTable;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::*;

struct NoSettings;

impl Settings for NoSettings {
    fn get(&self, name: &str) -> Option<String> {
        (name == "backend_pid").then(|| "7".to_owned())
    }
}

fn context() -> SessionContext {
    let catalogue = Catalogue::built_in();
    let config = SessionConfig::new()
        .with_default_catalog_and_schema(DATABASE, "public")
        .with_create_default_catalog_and_schema(true);
    let ctx = SessionContext::new_with_config(config);
    for name in ["cpu", "memory"] {
        let schema = Arc::clone(catalogue.get(name).unwrap().schema());
        ctx.register_table(name, Arc::new(MemTable::try_new(schema, vec![vec![]]).unwrap())).unwrap();
    }
    let facts = SessionFacts {
        user: "ada".into(),
        database: DATABASE.into(),
        server_version: "15.0",
        settings: Arc::new(NoSettings),
    };
    PgCatalog::new(&catalogue, &[]).unwrap().install(&ctx, facts).unwrap();
    ctx
}

async fn try_ask(ctx: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>> {
    let statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap_or_else(|e| panic!("{sql}\n{e}")).remove(0);
    let plan = ctx.state().statement_to_plan(Statement::Statement(Box::new(rewrite(statement)))).await?;
    ctx.execute_logical_plan(plan).await?.collect().await
}

/// Rows as text, columns with `|` between them and NULL as `~`.
async fn ask(ctx: &SessionContext, sql: &str) -> Vec<String> {
    let batches = try_ask(ctx, sql).await.unwrap_or_else(|e| panic!("{sql}\n{e}"));
    let mut rows = Vec::new();
    for batch in &batches {
        let show = |column: &Arc<dyn Array>, row| {
            let null = *column.data_type() == DataType::Null || column.is_null(row);
            if null { "~".to_owned() } else { array_value_to_string(column, row).unwrap() }
        };
        rows.extend((0..batch.num_rows()).map(|row| {
            let cells: Vec<_> = batch.columns().iter().map(|column| show(column, row)).collect();
            cells.join("|")
        }));
    }
    rows
}

/// psql's queries by the name they have in `psql.sql`.
fn psql(oid: &str) -> BTreeMap<&'static str, String> {
    let mut queries = BTreeMap::new();
    let mut name = "";
    for line in include_str!("psql.sql").lines().skip(1) {
        if let Some(heading) = line.strip_prefix("-- ") {
            name = heading;
        } else if !line.is_empty() {
            let query: &mut String = queries.entry(name).or_default();
            query.push_str(&line.replace("{oid}", oid));
            query.push('\n');
        }
    }
    queries
}

async fn oid(ctx: &SessionContext, table: &str) -> String {
    ask(ctx, &format!("SELECT oid FROM pg_class WHERE relname = '{table}'")).await.remove(0)
}

#[tokio::test]
async fn every_query_of_psql_is_answered() {
    let ctx = context();
    let oid = oid(&ctx, "cpu").await;
    for (name, sql) in psql(&oid) {
        if let Err(e) = try_ask(&ctx, &sql).await {
            panic!("{name}: {e}\n{sql}");
        }
    }
}

#[tokio::test]
async fn psql_lists_the_tables_with_their_comments() {
    let ctx = context();
    let catalogue = Catalogue::built_in();
    let queries = psql("0");

    let expected: Vec<_> = catalogue.tables().map(|t| format!("public|{}|table|nodescope", t.name)).collect();
    assert_eq!(ask(&ctx, &queries["\\d"]).await, expected);
    assert_eq!(ask(&ctx, &queries["\\dt"]).await, expected);

    let row = |t: &nodescope_model::catalogue::Table| {
        format!("public|{}|table|nodescope|permanent|~|~|{}", t.name, t.comment)
    };
    let expected: Vec<_> = catalogue.tables().map(|t| row(t)).collect();
    assert_eq!(ask(&ctx, &queries["\\dt+"]).await, expected);
    for nothing in ["\\dv", "\\di", "\\df", "\\dT", "\\dd", "\\dC"] {
        assert!(ask(&ctx, &queries[nothing]).await.is_empty(), "{nothing}");
    }
}

#[tokio::test]
async fn psql_describes_a_table() {
    let ctx = context();
    let oid = oid(&ctx, "cpu").await;
    let queries = psql(&oid);
    let found = vec![format!("{oid}|public|cpu")];
    assert_eq!(ask(&ctx, &queries["\\d cpu (1)"]).await, found);
    assert_eq!(ask(&ctx, &queries["\\d public.cpu (1)"]).await, found);
    // Checks, kind, then flags psql follows with further queries, then options, tablespace, persistence, identity.
    let flags = "0|r|false|false|false|false|false|false|false||0||p|d|~";
    assert_eq!(ask(&ctx, &queries["\\d cpu (2)"]).await, [flags]);
    assert_eq!(ask(&ctx, &queries["\\d+ cpu (2)"]).await, [flags]);

    let catalogue = Catalogue::built_in();
    let cpu = catalogue.get("cpu").unwrap();
    let columns = ask(&ctx, &queries["\\d+ cpu (3)"]).await;
    assert_eq!(columns.len(), cpu.schema().fields().len());
    let comment = cpu.column_comment("ts").unwrap();
    assert_eq!(columns[0], format!("ts|timestamp with time zone|~|true|~|||p||~|{comment}"));
    let comment = cpu.column_comment("node").unwrap();
    assert_eq!(columns[1], format!("node|text|~|true|~|||x||~|{comment}"));
    assert_eq!(ask(&ctx, &queries["\\d cpu (3)"]).await[0], "ts|timestamp with time zone|~|true|~||");
    for rest in 4..=8 {
        assert!(ask(&ctx, &queries[format!("\\d cpu ({rest})").as_str()]).await.is_empty(), "{rest}");
    }
}

#[tokio::test]
async fn psql_lists_what_else_there_is() {
    let ctx = context();
    let queries = psql("0");
    assert_eq!(ask(&ctx, &queries["\\dn"]).await, ["public|nodescope"]);
    assert_eq!(ask(&ctx, &queries["\\l"]).await, ["nodescope|nodescope|UTF8|C|C|~|libc|~"]);
    assert_eq!(ask(&ctx, &queries["\\l+"]).await, ["nodescope|nodescope|UTF8|C|C|~|libc|~|~|pg_default|~"]);
    assert_eq!(ask(&ctx, &queries["\\dx"]).await, ["timescaledb|2.0|public|~"]);
    assert_eq!(
        ask(&ctx, &queries["\\du"]).await,
        [
            "ada|false|true|false|false|true|-1|~|[]|false|false",
            "nodescope|false|true|false|false|true|-1|~|[]|false|false"
        ]
    );
}

/// Grafana's condition that a relation is found without its schema.
const FOUND: &str = r#"
    quote_ident(table_schema) IN (
    SELECT
      CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
    FROM
      generate_series(
        array_lower(string_to_array(current_setting('search_path'),','),1),
        array_upper(string_to_array(current_setting('search_path'),','),1)
      ) as i,
      string_to_array(current_setting('search_path'),',') s
    )"#;

#[tokio::test]
async fn grafanas_query_builder_finds_everything() {
    let ctx = context();
    let version = "SELECT current_setting('server_version_num')::int/100 as version";
    assert_eq!(ask(&ctx, version).await, ["1500"]);
    assert_eq!(ask(&ctx, "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'").await, ["2.0"]);
    let schemas = "SELECT schema_name AS \"name\" FROM information_schema.schemata
        WHERE schema_name NOT IN ('information_schema', 'pg_catalog', 'pg_toast') ORDER BY schema_name";
    assert_eq!(ask(&ctx, schemas).await, ["public"]);

    let tables: Vec<_> = Catalogue::built_in().tables().map(|t| t.name.clone()).collect();
    let unqualified = format!(
        "SELECT CASE WHEN {FOUND} THEN quote_ident(table_name)
            ELSE quote_ident(table_schema) || '.' || quote_ident(table_name) END AS \"table\"
        FROM information_schema.tables
        WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog', '_timescaledb_cache')
        ORDER BY CASE WHEN {FOUND} THEN 0 ELSE 1 END, 1"
    );
    assert_eq!(ask(&ctx, &unqualified).await, tables);
    let of_schema = "SELECT quote_ident(table_name) AS \"table\" FROM information_schema.tables
        WHERE quote_ident(table_schema) = 'public' ORDER BY 1";
    assert_eq!(ask(&ctx, of_schema).await, tables);

    for table in ["memory", "public.memory"] {
        let columns = format!(
            "SELECT quote_ident(column_name) AS \"column\", data_type AS \"type\"
            FROM information_schema.columns
            WHERE
              CASE WHEN array_length(parse_ident('{table}'),1) = 2
                THEN quote_ident(table_schema) = (parse_ident('{table}'))[1]
                  AND quote_ident(table_name) = (parse_ident('{table}'))[2]
                ELSE quote_ident(table_name) = '{table}' AND {FOUND}
              END"
        );
        let columns = ask(&ctx, &columns).await;
        assert_eq!(columns[..3], ["ts|timestamp with time zone", "node|text", "host|text"], "{table}");
        assert_eq!(columns.len(), Catalogue::built_in().get("memory").unwrap().schema().fields().len());
    }
}

#[tokio::test]
async fn drivers_and_tools_start_up() {
    let ctx = context();
    let oid = oid(&ctx, "cpu").await;
    for (sql, expected) in [
        ("SELECT version()", "PostgreSQL 15.0 (Nodescope)"),
        ("SELECT pg_catalog.version()", "PostgreSQL 15.0 (Nodescope)"),
        ("SELECT current_schema(), session_user", "public|ada"),
        (
            "SELECT current_user, user, current_database(), current_catalog, current_schema",
            "ada|ada|nodescope|nodescope|public",
        ),
        ("SELECT current_schemas(true)", "[pg_catalog, public]"),
        ("SELECT pg_backend_pid(), pg_is_in_recovery()", "7|false"),
        ("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'max_index_keys'", "32"),
        ("SELECT to_regclass('nosuch')", "~"),
        ("SELECT 'int8'::regtype::oid", "20"),
        ("SELECT pg_catalog.format_type(20, NULL)", "bigint"),
        ("SELECT nspname FROM pg_namespace WHERE nspname = ANY(current_schemas(false))", "public"),
        ("SELECT has_table_privilege('cpu', 'SELECT'), has_table_privilege('cpu', 'INSERT')", "true|false"),
        ("SELECT NULL, NULL", "~|~"),
        // psycopg.
        (
            "SELECT typname AS name, oid, typarray AS array_oid, oid::regtype::text AS regtype, typdelim AS delimiter
             FROM pg_type t WHERE t.oid = to_regtype('float8') ORDER BY t.oid",
            "float8|701|1022|double precision|,",
        ),
        // tokio-postgres, with the parameter written out.
        (
            "SELECT t.typname, t.typtype, t.typelem, r.rngsubtype, t.typbasetype, n.nspname, t.typrelid
             FROM pg_catalog.pg_type t
             LEFT OUTER JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
             INNER JOIN pg_catalog.pg_namespace n ON t.typnamespace = n.oid
             WHERE t.oid = 1184",
            "timestamptz|b|0|~|0|pg_catalog|0",
        ),
        // JDBC.
        (
            "SELECT typinput='pg_catalog.array_in'::regproc as is_array, typtype, typname, pg_type.oid
             FROM pg_catalog.pg_type WHERE typname = '_text'",
            "true|b|_text|1009",
        ),
        (
            "SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, c.relname AS TABLE_NAME,
               CASE n.nspname ~ '^pg_' OR n.nspname = 'information_schema'
               WHEN true THEN NULL WHEN false THEN CASE c.relkind WHEN 'r' THEN 'TABLE' ELSE NULL END ELSE NULL END
               AS TABLE_TYPE
             FROM pg_catalog.pg_namespace n, pg_catalog.pg_class c
             LEFT JOIN pg_catalog.pg_description d
               ON (c.oid = d.objoid AND d.objsubid = 0 and d.classoid = 'pg_class'::regclass)
             WHERE c.relnamespace = n.oid AND c.relname LIKE 'cpu' ORDER BY TABLE_TYPE, TABLE_SCHEM, TABLE_NAME",
            "~|public|cpu|TABLE",
        ),
        // SQLAlchemy.
        (
            "SELECT pg_catalog.pg_class.relname FROM pg_catalog.pg_class
             JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace
             WHERE pg_catalog.pg_class.relname = 'cpu'
               AND pg_catalog.pg_class.relkind = ANY (ARRAY['r', 'p', 'f', 'v', 'm'])
               AND pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid)
               AND pg_catalog.pg_namespace.nspname != 'pg_catalog'",
            "cpu",
        ),
    ] {
        assert_eq!(ask(&ctx, sql).await, [expected], "{sql}");
    }
    for (sql, expected) in [
        ("SELECT 'cpu'::regclass::oid", oid.as_str()),
        ("SELECT '\"cpu\"'::regclass::oid", oid.as_str()),
        ("SELECT count(*) FROM pg_attribute WHERE attrelid = 'public.cpu'::regclass AND attname = 'ts'", "1"),
        ("SELECT c.oid::regclass FROM pg_class c WHERE c.relname = 'cpu'", "cpu"),
    ] {
        assert_eq!(ask(&ctx, sql).await, [expected], "{sql}");
    }
    let unknown = try_ask(&ctx, "SELECT 'nosuch'::regclass::oid").await.unwrap_err().to_string();
    assert!(unknown.contains("relation \"nosuch\" does not exist"), "{unknown}");
    let unknown = try_ask(&ctx, "SELECT current_setting('nosuch')").await.unwrap_err().to_string();
    assert!(unknown.contains("unrecognized configuration parameter \"nosuch\""), "{unknown}");
}

#[tokio::test]
async fn dbeaver_reads_the_tree() {
    let ctx = context();
    let oid = oid(&ctx, "cpu").await;
    for sql in [
        "SELECT db.oid,db.* FROM pg_catalog.pg_database db WHERE datname='nodescope'".to_owned(),
        "SELECT n.oid,n.*,d.description FROM pg_catalog.pg_namespace n
         LEFT OUTER JOIN pg_catalog.pg_description d
         ON d.objoid=n.oid AND d.objsubid=0 AND d.classoid='pg_namespace'::regclass WHERE nspname = 'public'"
            .to_owned(),
        format!(
            "SELECT c.oid,c.*,d.description,pg_catalog.pg_get_expr(c.relpartbound, c.oid) as partition_expr,
             pg_catalog.pg_get_partkeydef(c.oid) as partition_key FROM pg_catalog.pg_class c
             LEFT OUTER JOIN pg_catalog.pg_description d
             ON d.objoid=c.oid AND d.objsubid=0 AND d.classoid='pg_class'::regclass
             WHERE c.oid={oid} AND c.relkind not in ('i','I','c')"
        ),
    ] {
        assert_eq!(ask(&ctx, &sql).await.len(), 1, "{sql}");
    }
}

#[test]
fn the_relations_that_have_rows_are_the_ones_said_to() {
    let relations = tables::relations(&Catalogue::built_in(), &[]).unwrap();
    let mut with_rows: Vec<_> = tables::rows(&relations).into_keys().chain(tables::PER_SESSION).collect();
    with_rows.sort_unstable();
    let mut said = vacuous::FILLED.to_vec();
    said.sort_unstable();
    assert_eq!(with_rows, said);
}
