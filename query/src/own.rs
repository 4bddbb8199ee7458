//! Questions of the server's own: the SQL of views, rules and of whoever keeps state in the store.
//!
//! They are planned as everybody's questions are, in UTC, and run within the same bounds of time, memory and rows; only
//! the queue before the engine is for strangers. Values are put into the parsed statement in the place of `$name`, with
//! their types, before it is planned: so a parameter may stand wherever a value may, in an argument of a table function
//! too.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{Expr, Value, ValueWithSpan, visit_expressions_mut};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::StreamExt;

use crate::definition::text_limits;
use crate::engine::Engine;
use crate::session::SessionSettings;
use crate::statement::{self, Command, StatementRefused};
use crate::table::CutTable;

/// The user in whose name the server asks.
const USER: &str = "nodescope";

/// Why a question of the server's own has no answer.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// Its text is not one query.
    #[error(transparent)]
    Text(#[from] StatementRefused),
    /// It is not one query but several, or none.
    #[error("it must be one query")]
    NotOne,
    /// It cannot be planned: a name is wrong, or a type.
    #[error("it cannot be planned")]
    Plan(#[source] DataFusionError),
    /// It failed on its way.
    #[error("it failed")]
    Run(#[source] DataFusionError),
    /// It found more than it may.
    #[error("it found more than {0} rows: ask for a shorter time, or for less detail")]
    TooMany(u64),
    /// It took longer than it may.
    #[error("it took longer than {0:?}")]
    TimedOut(Duration),
}

/// A question that is planned and not yet asked.
pub struct OwnQuery {
    context: SessionContext,
    plan: LogicalPlan,
    longest: Duration,
    most_rows: u64,
}

impl std::fmt::Debug for OwnQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnQuery").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Engine {
    /// Plans a question of the server's own, with these values for its `$name`s.
    ///
    /// # Errors
    /// When the text is not one query, a name in it is not known, or types do not fit.
    pub async fn own(&self, sql: &str, values: &[(String, ScalarValue)]) -> Result<OwnQuery, OwnError> {
        let limits = self.limits();
        let settings = Arc::new(SessionSettings::new(USER, limits.statement_timeout));
        let context = self.session_context(&settings).map_err(OwnError::Plan)?;
        let statement = match <[Command; 1]>::try_from(statement::parse(sql, &text_limits())?) {
            Ok([Command::Query(statement)]) => bind(*statement, values).map_err(OwnError::Plan)?,
            _ => return Err(OwnError::NotOne),
        };
        let plan = statement::plan(&context.state(), statement).await.map_err(OwnError::Plan)?;
        Ok(OwnQuery { context, plan, longest: limits.statement_timeout, most_rows: limits.max_rows })
    }
}

impl OwnQuery {
    /// Columns of the answer.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(self.plan.schema().as_arrow().clone())
    }

    /// The plan.
    pub fn plan(&self) -> &LogicalPlan {
        &self.plan
    }

    /// Tables of the catalogue that it reads, directly or through views.
    ///
    /// # Errors
    /// When it reads from something that is no table of ours.
    pub fn tables(&self) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        tables_of(&self.plan, &mut found)?;
        Ok(found)
    }

    /// Asks. Time and rows are the caller's to bound.
    ///
    /// # Errors
    /// When it cannot be begun.
    pub async fn stream(&self) -> Result<SendableRecordBatchStream, OwnError> {
        let state = self.context.state();
        let physical = state.create_physical_plan(&self.plan).await.map_err(OwnError::Plan)?;
        execute_stream(physical, state.task_ctx()).map_err(OwnError::Run)
    }

    /// Asks, and waits for the whole answer. Batches without rows are left out.
    ///
    /// # Errors
    /// When it fails, takes too long or finds too much.
    pub async fn collect(&self) -> Result<Vec<RecordBatch>, OwnError> {
        let work = async {
            let mut stream = self.stream().await?;
            let (mut batches, mut rows) = (Vec::new(), 0);
            while let Some(batch) = stream.next().await {
                let batch = batch.map_err(OwnError::Run)?;
                rows += batch.num_rows() as u64;
                if rows > self.most_rows {
                    return Err(OwnError::TooMany(self.most_rows));
                }
                if batch.num_rows() > 0 {
                    batches.push(batch);
                }
            }
            Ok(batches)
        };
        tokio::time::timeout(self.longest, work).await.unwrap_or(Err(OwnError::TimedOut(self.longest)))
    }
}

fn tables_of(plan: &LogicalPlan, found: &mut BTreeSet<String>) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let provider = source_as_provider(&scan.source)?;
            if let Some(table) = provider.downcast_ref::<CutTable>() {
                found.insert(table.name().to_owned());
            } else if let Some(view) = provider.get_logical_plan() {
                tables_of(&view, found)?;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map(|_| ())
}

/// Puts values in the place of placeholders. Those without a value stay, and whoever runs the plan is told.
fn bind(statement: EngineStatement, values: &[(String, ScalarValue)]) -> Result<EngineStatement> {
    let EngineStatement::Statement(mut statement) = statement else { return Ok(statement) };
    let mut literals = BTreeMap::new();
    for (name, value) in values {
        let text = literal(value)?;
        let parsed = Parser::new(&PostgreSqlDialect {}).try_with_sql(&text).and_then(|mut parser| parser.parse_expr());
        literals.insert(name.as_str(), parsed.map_err(|error| DataFusionError::SQL(Box::new(error), None))?);
    }
    let _ = visit_expressions_mut(&mut *statement, |expr: &mut Expr| {
        if let Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) = expr
            && let Some(literal) = literals.get(name.trim_start_matches('$'))
        {
            *expr = literal.clone();
        }
        ControlFlow::<()>::Continue(())
    });
    Ok(EngineStatement::Statement(statement))
}

/// A value as SQL writes it, its type included.
fn literal(value: &ScalarValue) -> Result<String> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    if value.is_null() {
        return Ok(format!("arrow_cast(NULL, {})", quoted(&value.data_type().to_string())));
    }
    Ok(match value {
        ScalarValue::Int64(Some(number)) if *number >= 0 => number.to_string(),
        ScalarValue::Boolean(Some(truth)) => truth.to_string(),
        ScalarValue::Utf8(Some(text)) => quoted(text),
        other => {
            let text = match other.cast_to(&datafusion::arrow::datatypes::DataType::Utf8)? {
                ScalarValue::Utf8(Some(text)) => text,
                _ => other.to_string(),
            };
            format!("arrow_cast({}, {})", quoted(&text), quoted(&other.data_type().to_string()))
        }
    })
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use nodescope_model::catalogue::{Catalogue, timestamp_type};
    use nodescope_store::Store;
    use nodescope_store::cut::Reader;

    use super::*;
    use crate::engine::Spill;
    use crate::limits::Limits;

    fn engine(limits: Limits) -> Engine {
        let objects = Arc::new(object_store::memory::InMemory::new());
        let store = Store::new(objects, Arc::new(Catalogue::built_in()), "memory:");
        Engine::new(Reader::new(store, 1 << 20), limits, Spill { folder: None, bytes: 1 << 30 }).unwrap()
    }

    #[tokio::test]
    async fn values_keep_their_types_wherever_they_stand() {
        let time = ScalarValue::TimestampMicrosecond(Some(1_700_000_000_123_456), Some("UTC".into()));
        let values: Vec<(String, ScalarValue)> = [
            ("i", ScalarValue::from(-7_i64)),
            ("f", ScalarValue::from(-0.25)),
            ("t", ScalarValue::from("it's $i")),
            ("b", ScalarValue::from(true)),
            ("n", ScalarValue::Utf8(None)),
            ("from", time),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let engine = engine(Limits::default());
        let sql = "select $i as i, $f * 2 as f, $t as t, not $b as b, $n as n, $from as ts, \
                   $from + interval '1 minute' as later, (select max(ts) from system where ts < $from) as newest";
        let query = engine.own(sql, &values).await.unwrap();
        assert_eq!(query.schema().field_with_name("ts").unwrap().data_type(), &timestamp_type());
        let answer = pretty_format_batches(&query.collect().await.unwrap()).unwrap().to_string();
        assert!(answer.contains("| -7 | -0.5 | it's $i | false |   | 2023-11-14T22:13:20.123456Z | "), "{answer}");
        assert!(answer.contains("2023-11-14T22:14:20.123456Z"), "{answer}");
        assert!(engine.own("select $missing + 1", &[]).await.map(|_| ()).is_ok(), "planned, and refused when run");
    }

    #[tokio::test]
    async fn the_tables_read_are_known() {
        let engine = engine(Limits::default());
        let sql = "with c as (select * from cpu) select host from c where host in (select host from memory) \
                   union all select host from system where exists (select 1 from disk)";
        let tables = engine.own(sql, &[]).await.unwrap().tables().unwrap();
        assert_eq!(tables.into_iter().collect::<Vec<_>>(), ["cpu", "disk", "memory", "system"]);
    }

    #[tokio::test]
    async fn the_servers_own_questions_have_bounds_too() {
        let engine = engine(Limits { max_rows: 2, statement_timeout: Duration::from_secs(30), ..Limits::default() });
        let ask = async |sql: &str| engine.own(sql, &[]).await.unwrap().collect().await;
        assert!(ask("select * from (values (1), (2)) t").await.is_ok());
        assert!(matches!(ask("select * from (values (1), (2), (3)) t").await, Err(OwnError::TooMany(2))));
        assert!(matches!(engine.own("select 1; select 2", &[]).await, Err(OwnError::NotOne)));
        assert!(matches!(engine.own("drop table cpu", &[]).await, Err(OwnError::Text(_))));
        assert!(matches!(engine.own("select nothing from cpu", &[]).await, Err(OwnError::Plan(_))));
    }
}
