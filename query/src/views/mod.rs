//! Views: operators' questions, written once.
//!
//! Each file of `query/views/` is one, and its name is the file's. The first comment holds a head in TOML: `title`,
//! `question`, `answer` (what a row is), `freshness`, a sentence for each of the `[columns]`, and `[parameters]` where
//! there are any. Below it stands one SELECT. Without parameters it is a view in the schema `public`, with them a
//! function in FROM, whose parameters are written `$name` in the SQL and have the head's order:
//!
//! ```toml
//! [parameters]
//! from = { type = "timestamp", help = "Begin." }
//! least = { value = 8, help = "Fewest devices; may be left out of the call, as all after it." }
//! ```
//!
//! Views may use tables, views and functions in any order; only not each other in a circle. All are planned when the
//! engine starts, and all mistakes of all files are told at once. What is kept is the plan, which a statement that
//! names the view takes in whole: filters reach the tables, and a statement that does not pays nothing. `now()` is the
//! time of the statement (`now.rs`), of the type of `ts` and in UTC whatever the zone of the session.

mod built_in;
mod function;
pub(crate) mod head;
mod now;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{SchemaProvider, TableFunctionImpl};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::datasource::ViewTable;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{Expr, Statement as Sql, Value, visit_expressions_mut, visit_relations};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::FutureExt;
use thiserror::Error;

pub(crate) use built_in::BUILT_IN;
use function::{Kind, Parameter, ViewFunction};
use head::Definition;

/// What is wrong with views, all of it.
#[derive(Debug, Error)]
#[error("{}", .0.join("\n"))]
pub struct ViewMistakes(Vec<String>);

impl ViewMistakes {
    /// The mistakes, one sentence each, with the file it is in.
    pub fn mistakes(&self) -> &[String] {
        &self.0
    }
}

/// A view as the system tables tell of it.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub name: String,
    pub comment: String,
    pub schema: SchemaRef,
    pub columns: BTreeMap<String, String>,
}

/// All views of an engine, planned.
#[derive(Debug)]
pub(crate) struct Views {
    views: Vec<View>,
    functions: Vec<Arc<ViewFunction>>,
}

impl Views {
    /// Plans the files and registers those without parameters in `public`, which `context` knows as its default.
    ///
    /// # Errors
    /// Every mistake of every file; what leans on a file with a mistake is not told as one.
    pub(crate) fn plan(
        context: &SessionContext,
        public: &dyn SchemaProvider,
        files: &[(&str, &str)],
    ) -> Result<Self, ViewMistakes> {
        context.register_udf(now::unbound());
        let mut planner = Planner { context, public, mistakes: vec![], waiting: BTreeMap::new(), found: Self::empty() };
        for (name, text) in files {
            planner.read(name, text);
        }
        planner.plan_all();
        if planner.mistakes.is_empty() { Ok(planner.found) } else { Err(ViewMistakes(planner.mistakes)) }
    }

    fn empty() -> Self {
        Self { views: vec![], functions: vec![] }
    }

    /// Makes the functions known to a session.
    pub(crate) fn install(&self, context: &SessionContext) {
        for function in &self.functions {
            context.register_udtf(&function.name, Arc::clone(function) as Arc<dyn TableFunctionImpl>);
        }
    }

    /// Those without parameters, in the order of their names.
    pub(crate) fn views(&self) -> &[View] {
        &self.views
    }
}

/// A file that is read and not planned yet.
struct Waiting {
    definition: Definition,
    parameters: Vec<Parameter>,
    statement: Sql,
    /// Other views that it uses.
    uses: BTreeSet<String>,
}

struct Planner<'a> {
    context: &'a SessionContext,
    public: &'a dyn SchemaProvider,
    mistakes: Vec<String>,
    waiting: BTreeMap<String, Waiting>,
    found: Views,
}

impl Planner<'_> {
    fn mistake(&mut self, name: &str, what: impl std::fmt::Display) {
        self.mistakes.push(format!("views/{name}.sql: {what}"));
    }

    fn read(&mut self, name: &str, text: &str) {
        match read(name, text) {
            // What uses the name means the table.
            Ok(_) if self.public.table_exist(name) => self.mistake(name, "there is a table of this name"),
            Ok(waiting) => {
                self.waiting.insert(name.to_owned(), waiting);
            }
            Err(mistakes) => mistakes.into_iter().for_each(|what| self.mistake(name, what)),
        }
    }

    fn plan_all(&mut self) {
        let names: BTreeSet<String> = self.waiting.keys().cloned().collect();
        for waiting in self.waiting.values_mut() {
            waiting.uses.retain(|used| names.contains(used));
        }
        let mut failed = BTreeSet::new();
        loop {
            let ready = self.waiting.iter().find(|(_, w)| w.uses.iter().all(|used| !self.waiting.contains_key(used)));
            let Some(name) = ready.map(|(name, _)| name.clone()) else { break };
            let Some(waiting) = self.waiting.remove(&name) else { break };
            // Its own mistakes would only repeat those of what it uses.
            if waiting.uses.iter().any(|used| failed.contains(used)) {
                failed.insert(name);
            } else if let Err(error) = self.plan_one(waiting) {
                self.mistake(&name, error.strip_backtrace());
                failed.insert(name);
            }
        }
        if !self.waiting.is_empty() {
            let circle = self.circle().join(" → ");
            let name = self.waiting.keys().next().cloned().unwrap_or_default();
            self.mistake(&name, format!("views use each other in a circle: {circle}"));
        }
        self.found.views.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// A way from a view back to itself, among those that wait for each other.
    fn circle(&self) -> Vec<String> {
        let mut way: Vec<String> = self.waiting.keys().take(1).cloned().collect();
        while let Some(next) = way
            .last()
            .and_then(|name| self.waiting.get(name))
            .and_then(|w| w.uses.iter().find(|used| self.waiting.contains_key(*used)))
        {
            if let Some(at) = way.iter().position(|name| name == next) {
                way.push(next.clone());
                return way.split_off(at);
            }
            way.push(next.clone());
        }
        way
    }

    fn plan_one(&mut self, waiting: Waiting) -> Result<()> {
        let Waiting { definition, parameters, statement, .. } = waiting;
        let plan = logical_plan(&self.context.state(), statement)?;
        let schema = Arc::new(plan.schema().as_arrow().clone());
        let columns: BTreeSet<&String> = schema.fields().iter().map(|field| field.name()).collect();
        for described in definition.head.columns.keys().filter(|name| !columns.contains(name)) {
            self.mistake(&definition.name, format!("the head tells of a column {described} that the SQL has not"));
        }
        for column in columns.iter().filter(|name| !definition.head.columns.contains_key(**name)) {
            self.mistake(&definition.name, format!("the head says nothing of the column {column}"));
        }
        if parameters.is_empty() {
            let table = ViewTable::new(plan, Some(definition.sql.clone()));
            self.public.register_table(definition.name.clone(), Arc::new(table))?;
            self.found.views.push(View {
                comment: definition.comment(),
                name: definition.name,
                schema,
                columns: definition.head.columns,
            });
        } else {
            let function = Arc::new(ViewFunction { name: definition.name, parameters, plan });
            self.context.register_udtf(&function.name, Arc::clone(&function) as Arc<dyn TableFunctionImpl>);
            self.found.functions.push(function);
        }
        Ok(())
    }
}

impl Definition {
    fn comment(&self) -> String {
        let parts = [&self.head.title, &self.head.question, &self.head.answer, &self.head.freshness];
        let parts: Vec<&str> = parts.into_iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
        let sentence = |part: &str| format!("{part}{}", if part.ends_with(['.', '?']) { "" } else { "." });
        parts.into_iter().map(sentence).collect::<Vec<_>>().join(" ")
    }
}

fn read(name: &str, text: &str) -> Result<Waiting, Vec<String>> {
    let definition = head::parse(name, text).map_err(|e| vec![e])?;
    let mut mistakes = Vec::new();
    let mut parameters = Vec::new();
    for (name, parameter) in definition.head.parameters() {
        match read_parameter(name, parameter) {
            Ok(parameter) => parameters.push(parameter),
            Err(what) => mistakes.push(format!("parameter {name}: {what}")),
        }
    }
    if parameters.windows(2).any(|pair| pair[0].value.is_some() && pair[1].value.is_none()) {
        mistakes.push("parameters without a value come before those with one".to_owned());
    }
    let mut statement = parse_select(&definition.sql).map_err(|e| vec![e.strip_backtrace()])?;
    let mut unused: BTreeSet<&str> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    let known = |id: &str| parameters.iter().find(|parameter| id.strip_prefix('$') == Some(&parameter.name));
    let _ = visit_expressions_mut(&mut statement, |expr| {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(id) = &value.value
        {
            match known(id) {
                Some(parameter) => {
                    unused.remove(parameter.name.as_str());
                    *expr = typed(expr, parameter.kind);
                }
                None => mistakes.push(format!("{id} is no parameter of the head")),
            }
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    mistakes.extend(unused.iter().map(|name| format!("the SQL does not use the parameter {name}")));
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let mut uses = BTreeSet::new();
    let _ = visit_relations(&statement, |relation| {
        uses.insert(relation.to_string().trim_start_matches("public.").to_owned());
        std::ops::ControlFlow::<()>::Continue(())
    });
    Ok(Waiting { definition, parameters, statement, uses })
}

/// A placeholder of a known type.
fn typed(placeholder: &Expr, kind: Kind) -> Expr {
    let data_type = match kind {
        Kind::Int => "BIGINT",
        Kind::Float => "DOUBLE PRECISION",
        Kind::Text => "TEXT",
        Kind::Bool => "BOOLEAN",
        Kind::Timestamp => "TIMESTAMP(6) WITH TIME ZONE",
    };
    let text = format!("CAST({placeholder} AS {data_type})");
    let dialect = PostgreSqlDialect {};
    let parsed = Parser::new(&dialect).try_with_sql(&text).and_then(|mut parser| parser.parse_expr());
    // It is made of words that parse; if it did not, the planner would say that the type is unknown.
    parsed.unwrap_or_else(|_| placeholder.clone())
}

fn read_parameter(name: &str, parameter: &head::Parameter) -> Result<Parameter, String> {
    let of_value = match &parameter.value {
        None => None,
        Some(toml::Value::Integer(value)) => Some((Kind::Int, ScalarValue::Int64(Some(*value)))),
        Some(toml::Value::Float(value)) => Some((Kind::Float, ScalarValue::Float64(Some(*value)))),
        Some(toml::Value::Boolean(value)) => Some((Kind::Bool, ScalarValue::Boolean(Some(*value)))),
        Some(toml::Value::String(value)) => Some((Kind::Text, ScalarValue::Utf8(Some(value.clone())))),
        Some(other) => return Err(format!("{other} is neither number, text, true nor false")),
    };
    let said = match &parameter.data_type {
        None => None,
        Some(name) => Some(Kind::named(name).ok_or_else(|| format!("there is no type {name}"))?),
    };
    let Some(kind) = said.or(of_value.as_ref().map(|(kind, _)| *kind)) else {
        return Err("has neither type nor value".to_owned());
    };
    let value = match of_value {
        None => None,
        Some((_, value)) => Some(value.cast_to(&kind.data_type()).map_err(|e| e.strip_backtrace())?),
    };
    Ok(Parameter { name: name.to_owned(), kind, value })
}

fn parse_select(sql: &str) -> Result<Sql> {
    let dialect = PostgreSqlDialect {};
    let mut statements = DFParserBuilder::new(sql).with_dialect(&dialect).build()?.parse_statements()?;
    match (statements.pop_front(), statements.is_empty()) {
        (Some(Statement::Statement(statement)), true) if matches!(*statement, Sql::Query(_)) => Ok(*statement),
        _ => Err(DataFusionError::Plan("below the head stands no SELECT, or more than one".to_owned())),
    }
}

/// Plans a SELECT for use within others: names and types are settled, and nothing is folded that is not constant.
fn logical_plan(state: &SessionState, statement: Sql) -> Result<LogicalPlan> {
    // Tables of ours are there at once, so there is nothing to wait for.
    let plan = state
        .statement_to_plan(Statement::Statement(Box::new(statement)))
        .now_or_never()
        .ok_or_else(|| DataFusionError::Plan("a table is not at hand".to_owned()))??;
    let plan = now::bind(plan)?;
    state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})
}

#[cfg(test)]
mod tests;
