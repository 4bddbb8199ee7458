//! Views: operators' questions, written once.
//!
//! Each file of `query/views/` is one (see [`crate::definition`]), and its name is the file's. Without parameters it is
//! a view in the schema `public`, with them a function in FROM that takes them in the order of the head; those that
//! have a value may be left out of a call, and a function all of whose parameters have one is a view as well: `name` and
//! `name(from, to)`. The head has a sentence for every column.
//!
//! Views may use tables, views and functions in any order, only not each other in a circle. All are planned when the
//! engine starts, and all mistakes of all files are told at once. What is kept is the plan, which a statement that
//! names the view takes in whole: filters reach the tables, and a statement that does not pays nothing. `now()` is the
//! time of the statement, of the type of `ts` and in UTC whatever the zone of the session; `fresh_since()` is [`FRESH`]
//! before it, and what is older is not shown as current.

mod built_in;
mod function;
mod now;
mod page;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{SchemaProvider, TableFunctionImpl};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::ViewTable;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, Value, visit_expressions_mut, visit_relations};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::FutureExt;

use crate::definition::{Definition, Mistakes, Purpose, text_limits};
use crate::statement::{self, Command};
pub(crate) use built_in::BUILT_IN;
use function::ViewFunction;
pub use now::FRESH;
pub use page::page;

/// A view as the system tables tell of it.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub name: String,
    pub comment: String,
    pub schema: SchemaRef,
    pub columns: HashMap<String, String>,
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
    ) -> Result<Self, Mistakes> {
        now::unbound().into_iter().for_each(|function| context.register_udf(function));
        let mut planner =
            Planner { context, public, mistakes: Mistakes::default(), waiting: BTreeMap::new(), found: Self::empty() };
        for (name, text) in files {
            planner.read(name, text);
        }
        planner.plan_all();
        if planner.mistakes.0.is_empty() { Ok(planner.found) } else { Err(planner.mistakes) }
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
    statement: Statement,
    /// Other views that it uses.
    uses: BTreeSet<String>,
}

struct Planner<'a> {
    context: &'a SessionContext,
    public: &'a dyn SchemaProvider,
    mistakes: Mistakes,
    waiting: BTreeMap<String, Waiting>,
    found: Views,
}

impl Planner<'_> {
    fn mistake(&mut self, name: &str, what: impl std::fmt::Display) {
        self.mistakes.add(&path(name), "", what);
    }

    fn read(&mut self, name: &str, text: &str) {
        match read(name, text) {
            // What uses the name means the table.
            Ok(_) if self.public.table_exist(name) => self.mistake(name, "there is a table of this name"),
            Ok(waiting) => {
                self.waiting.insert(name.to_owned(), waiting);
            }
            Err(mistakes) => self.mistakes.0.extend(mistakes.0),
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
        let Waiting { definition, statement, .. } = waiting;
        let plan = logical_plan(&self.context.state(), statement)?;
        let schema = Arc::new(plan.schema().as_arrow().clone());
        let described: HashMap<String, String> = definition.columns.iter().cloned().collect();
        let columns: BTreeSet<&String> = schema.fields().iter().map(|field| field.name()).collect();
        for name in described.keys().filter(|name| !columns.contains(name)) {
            self.mistakes.add(&path(&definition.name), &format!("columns.{name}"), "the SQL has no such column");
        }
        for name in columns.iter().filter(|name| !described.contains_key(**name)) {
            self.mistakes.add(&path(&definition.name), &format!("columns.{name}"), "is missing: a sentence");
        }
        if definition.parameters.is_empty() {
            let table = ViewTable::new(plan, Some(definition.sql));
            self.public.register_table(definition.name.clone(), Arc::new(table))?;
            let comment = format!("{}. {}", definition.title, definition.question);
            self.found.views.push(View { name: definition.name, comment, schema, columns: described });
        } else {
            let comment = format!("{}. {}", definition.title, definition.question);
            let Definition { name, parameters, .. } = definition;
            let function = Arc::new(ViewFunction { name, parameters, plan });
            self.context.register_udtf(&function.name, Arc::clone(&function) as Arc<dyn TableFunctionImpl>);
            // What nothing must be said to can be looked at without parentheses, too.
            if let Some(plan) = function.without_arguments()? {
                self.public.register_table(function.name.clone(), Arc::new(ViewTable::new(plan, None)))?;
                self.found.views.push(View { name: function.name.clone(), comment, schema, columns: described });
            }
            self.found.functions.push(function);
        }
        Ok(())
    }
}

/// Where a built-in view is written, for people.
fn path(name: &str) -> String {
    format!("views/{name}.sql")
}

fn read(name: &str, text: &str) -> Result<Waiting, Mistakes> {
    let definition = Definition::parse(&path(name), text, Purpose::View)?;
    let one = |what: &dyn std::fmt::Display| {
        let mut mistakes = Mistakes::default();
        mistakes.add(&path(name), "", what);
        mistakes
    };
    let mut commands = statement::parse(&definition.sql, &text_limits()).map_err(|e| one(&e))?;
    let Some(Command::Query(statement)) = commands.pop() else { return Err(one(&"it holds no SELECT")) };
    let mut statement = *statement;
    let mut uses = BTreeSet::new();
    if let Statement::Statement(statement) = &mut statement {
        let _ = visit_expressions_mut(statement, |expr| {
            if let Expr::Value(value) = expr
                && let Value::Placeholder(id) = &value.value
                && let Some(parameter) = definition.parameter(id.trim_start_matches('$'))
            {
                *expr = typed(expr, &parameter.data_type);
            }
            ControlFlow::<()>::Continue(())
        });
        let _ = visit_relations(statement, |relation| {
            uses.insert(relation.to_string().trim_start_matches("public.").to_owned());
            ControlFlow::<()>::Continue(())
        });
    }
    Ok(Waiting { definition, statement, uses })
}

/// A placeholder of a known type.
fn typed(placeholder: &Expr, data_type: &DataType) -> Expr {
    let data_type = match data_type {
        DataType::Int64 => "BIGINT",
        DataType::Float64 => "DOUBLE PRECISION",
        DataType::Utf8 => "TEXT",
        DataType::Boolean => "BOOLEAN",
        _ => "TIMESTAMP(6) WITH TIME ZONE",
    };
    let text = format!("CAST({placeholder} AS {data_type})");
    let dialect = PostgreSqlDialect {};
    let parsed = Parser::new(&dialect).try_with_sql(&text).and_then(|mut parser| parser.parse_expr());
    // It is made of words that parse; if it did not, the planner would say that the type is unknown.
    parsed.unwrap_or_else(|_| placeholder.clone())
}

/// Plans a SELECT for use within others: names and types are settled, and nothing is folded that is not constant.
fn logical_plan(state: &SessionState, statement: Statement) -> Result<LogicalPlan> {
    // Tables of ours are there at once, so there is nothing to wait for.
    let plan = statement::plan(state, statement)
        .now_or_never()
        .ok_or_else(|| DataFusionError::Plan("a table is not at hand".to_owned()))??;
    let plan = now::bind(plan)?;
    state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})
}

#[cfg(test)]
mod tests;
