//! What SQL answers, as scripts: every file of `sqllogic/` runs against an engine of its own.
//!
//! The scripts are in the format of sqllogictest, with one statement added: `EXPLAIN FUNCTIONS <query>` answers the
//! names of the functions that the physical plan of a query calls, and `CAST` if it casts anything. That says what a
//! rewrite did, without the rest of the plan, which changes with every version of DataFusion.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::DataFusionError;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use nodescope_query::{functions, rewrite};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner, strict_column_validator};

/// Anything that answers SQL in Arrow.
#[async_trait]
trait Engine: Send {
    async fn run(&mut self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>), DataFusionError>;
}

#[async_trait]
impl Engine for SessionContext {
    async fn run(&mut self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>), DataFusionError> {
        let frame = self.sql(sql).await?;
        let schema = Arc::new(frame.schema().as_arrow().clone());
        Ok((schema, frame.collect().await?))
    }
}

/// An engine as the scripts see it: in text.
struct InText<E>(E);

#[async_trait]
impl<E: Engine> AsyncDB for InText<E> {
    type Error = DataFusionError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, DataFusionError> {
        if let Some(query) = sql.strip_prefix("EXPLAIN FUNCTIONS ") {
            let (_, batches) = self.0.run(&format!("EXPLAIN {query}")).await?;
            let rows = functions_called(&batches).into_iter().map(|name| vec![name]).collect();
            return Ok(DBOutput::Rows { types: vec![DefaultColumnType::Text], rows });
        }
        let (schema, batches) = self.0.run(sql).await?;
        let types = schema.fields().iter().map(|field| column_type(field.data_type())).collect();
        let mut rows = Vec::new();
        for batch in &batches {
            let columns = batch
                .columns()
                .iter()
                .map(|column| ArrayFormatter::try_new(column.as_ref(), &FORMAT))
                .collect::<Result<Vec<_>, _>>()?;
            rows.extend(
                (0..batch.num_rows())
                    .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<String>>()),
            );
        }
        Ok(DBOutput::Rows { types, rows })
    }

    fn engine_name(&self) -> &'static str {
        "nodescope"
    }

    async fn shutdown(&mut self) {}
}

const FORMAT: FormatOptions<'static> = FormatOptions::new().with_null("NULL");

fn column_type(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        integer if integer.is_integer() => DefaultColumnType::Integer,
        float if float.is_floating() => DefaultColumnType::FloatingPoint,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DefaultColumnType::Text,
        _ => DefaultColumnType::Any,
    }
}

/// The names that stand before a parenthesis in the physical plan. Those of Arrow's types begin with a capital.
fn functions_called(explained: &[RecordBatch]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for batch in explained {
        let (kinds, plans) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        for plan in kinds.iter().zip(plans).filter_map(|(kind, plan)| plan.filter(|_| kind == Some("physical_plan"))) {
            let mut words: Vec<&str> = plan.split('(').collect();
            words.pop();
            for before in words {
                let name = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
                if name == "CAST" || name.starts_with(|c: char| c.is_ascii_lowercase()) {
                    names.insert(name.to_owned());
                }
            }
        }
    }
    names
}

/// 2024-01-01T00:00:00Z in seconds.
const START: i64 = 1_704_067_200;

/// Two hosts for a minute and a half: counters with a reset, a gap and a time said twice, a gauge, a state.
/// Host `b` counts where doubles no longer tell neighbours apart.
fn cpu() -> MemTable {
    type Row = (i64, &'static str, Option<i64>, Option<f64>, Option<f64>, Option<&'static str>);
    let batch = |rows: &[Row]| {
        let ts = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| (START + row.0) * 1_000_000));
        let columns: [(&str, ArrayRef, bool); 6] = [
            ("ts", Arc::new(ts.with_timezone("UTC")), false),
            ("host", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1))), false),
            ("busy", Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()), true),
            ("seconds", Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>()), true),
            ("load", Arc::new(rows.iter().map(|row| row.4).collect::<Float64Array>()), true),
            ("state", Arc::new(rows.iter().map(|row| row.5).collect::<StringArray>()), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
    };
    let newest = batch(&[
        (80, "a", Some(90), Some(9.0), Some(1.1), Some("hot")),
        (80, "a", Some(95), Some(9.0), Some(1.1), Some("hot")),
        (90, "b", Some(9_007_199_254_740_999), None, Some(2.5), Some("ok")),
    ]);
    let oldest = batch(&[
        (60, "a", Some(30), Some(3.0), Some(0.9), Some("hot")),
        (0, "a", Some(100), Some(10.0), Some(0.5), Some("ok")),
        (0, "b", Some(9_007_199_254_740_993), Some(1.0), None, None),
    ]);
    let middle = batch(&[
        (20, "a", Some(150), Some(15.0), None, Some("ok")),
        (40, "a", None, None, Some(0.7), None),
        (30, "b", Some(9_007_199_254_740_994), None, None, None),
    ]);
    let schema = newest.schema();
    MemTable::try_new(schema, vec![vec![newest, oldest], vec![middle]]).expect("batches of one schema")
}

fn engine() -> SessionContext {
    let ctx = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(4));
    functions::install(&ctx);
    rewrite::install(&ctx).expect("a session takes rewrites");
    ctx.register_table("cpu", Arc::new(cpu())).expect("the name is free");
    ctx
}

async fn script(name: &str) {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "sqllogic", name].iter().collect();
    let mut runner = Runner::new(|| async { Ok(InText(engine())) });
    runner.with_column_validator(strict_column_validator);
    if let Err(error) = runner.run_file_async(path).await {
        panic!("{}", error.display(false));
    }
}

#[tokio::test]
async fn time_bucket() {
    script("time_bucket.slt").await;
}

#[tokio::test]
async fn counters() {
    script("counters.slt").await;
}

#[tokio::test]
async fn newest() {
    script("newest.slt").await;
}

#[tokio::test]
async fn rewrites() {
    script("rewrites.slt").await;
}

#[tokio::test]
async fn grafana() {
    script("grafana.slt").await;
}

#[test]
fn functions_are_told_from_types() {
    let plan = "ProjectionExec: expr=[date_bin(IntervalMonthDayNano(\"x\"), CAST(ts@0 AS Date32)) as t, max(a.b)]";
    let columns: [(&str, ArrayRef); 2] = [
        ("plan_type", Arc::new(StringArray::from(vec!["logical_plan", "physical_plan"]))),
        ("plan", Arc::new(StringArray::from(vec!["floor(x)", plan]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let names: Vec<String> = functions_called(&[batch]).into_iter().collect();
    assert_eq!(names, ["CAST", "date_bin", "max"]);
}
