//! A view with parameters: a function in FROM.
//!
//! Its plan is made once, with a placeholder of a known type for each parameter. A call puts the arguments in their
//! places, and the optimizer folds what has become constant. An argument may be anything without columns: a value, a
//! calculation, a parameter of the client's statement.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::datasource::ViewTable;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, LogicalPlan};

use crate::definition::Parameter;

/// What a parameter of a type takes, for people.
fn words(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Int64 => "a whole number",
        DataType::Float64 => "a number",
        DataType::Utf8 => "text",
        DataType::Boolean => "true or false",
        _ => "a time",
    }
}

/// Whether values of a type are meant where another is asked for, and not only convertible: a number is no text.
fn takes(data_type: &DataType, given: &DataType) -> bool {
    match data_type {
        DataType::Int64 => given.is_integer(),
        DataType::Float64 => given.is_numeric(),
        DataType::Utf8 => given.is_string(),
        DataType::Boolean => *given == DataType::Boolean,
        _ => matches!(given, DataType::Timestamp(_, _) | DataType::Date32),
    }
}

/// The function.
#[derive(Debug)]
pub(super) struct ViewFunction {
    pub name: String,
    pub parameters: Vec<Parameter>,
    pub plan: LogicalPlan,
}

impl ViewFunction {
    /// How it is called, and what it takes where nothing is given: `hosts_for(accelerators, precision, from_node := NULL)`.
    pub(super) fn signature(&self) -> String {
        let mut text = format!("{}(", self.name);
        for (at, parameter) in self.parameters.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            match &parameter.value {
                None => text += &format!("{comma}{}", parameter.name),
                Some(value) if value.is_null() => text += &format!("{comma}{} := NULL", parameter.name),
                Some(value) => text += &format!("{comma}{} := {value}", parameter.name),
            }
        }
        text + ")"
    }

    /// The plan with the parameters' own values; `None` where one has none.
    pub(super) fn without_arguments(&self) -> Result<Option<LogicalPlan>> {
        if self.parameters.iter().any(|parameter| parameter.value.is_none()) {
            return Ok(None);
        }
        self.with(&self.arguments(&[])?).map(Some)
    }

    fn arguments(&self, given: &[Expr]) -> Result<HashMap<String, Expr>> {
        if given.len() > self.parameters.len() {
            return plan_err!("{} takes no more than {} arguments", self.signature(), self.parameters.len());
        }
        let mut arguments = HashMap::new();
        for (at, parameter) in self.parameters.iter().enumerate() {
            let argument = match (given.get(at), &parameter.value) {
                (Some(given), _) => self.argument(at, parameter, given)?,
                (None, Some(value)) => Expr::Literal(value.clone(), None),
                (None, None) => {
                    return plan_err!("{}: argument {}, {}, is missing", self.signature(), at + 1, parameter.name);
                }
            };
            arguments.insert(format!("${}", parameter.name), argument);
        }
        Ok(arguments)
    }

    fn argument(&self, at: usize, parameter: &Parameter, given: &Expr) -> Result<Expr> {
        let data_type = parameter.data_type.clone();
        let wrong = |found: String| {
            let (function, name, words) = (self.signature(), &parameter.name, words(&parameter.data_type));
            plan_err!("{function}: argument {}, {name}, is {words}, and {found} was given", at + 1)
        };
        match given {
            // A client's parameter takes our type, and the client is told so.
            Expr::Placeholder(Placeholder { id, field: None }) => {
                let field = Arc::new(Field::new("", data_type, true));
                Ok(Expr::Placeholder(Placeholder::new_with_field(id.clone(), Some(field))))
            }
            Expr::Literal(value, _) if value.is_null() => Ok(Expr::Literal(ScalarValue::try_from(&data_type)?, None)),
            Expr::Literal(value, _) => {
                let (found, text) = (value.data_type(), value.data_type().is_string());
                match value.cast_to(&data_type) {
                    Ok(value) if text || takes(&data_type, &found) => Ok(Expr::Literal(value, None)),
                    _ => wrong(if text { format!("'{value}'") } else { value.to_string() }),
                }
            }
            other => {
                let found = other.get_type(&DFSchema::empty())?;
                if !takes(&data_type, &found) {
                    return wrong(format!("{other} of type {found}"));
                }
                Ok(if found == data_type {
                    other.clone()
                } else {
                    Expr::Cast(Cast::new(Box::new(other.clone()), data_type))
                })
            }
        }
    }

    /// The plan with arguments in the places of the parameters.
    fn with(&self, arguments: &HashMap<String, Expr>) -> Result<LogicalPlan> {
        let plan = self.plan.clone().transform_up_with_subqueries(|plan| {
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let replaced = expr.transform_up(|expr| match &expr {
                    Expr::Placeholder(placeholder) => Ok(match arguments.get(&placeholder.id) {
                        Some(argument) => Transformed::yes(argument.clone()),
                        None => Transformed::no(expr),
                    }),
                    _ => Ok(Transformed::no(expr)),
                })?;
                Ok(if replaced.transformed { replaced.update_data(|expr| name.restore(expr)) } else { replaced })
            })
        })?;
        Ok(plan.data)
    }
}

impl TableFunctionImpl for ViewFunction {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        let arguments = self.arguments(args.exprs())?;
        Ok(Arc::new(ViewTable::new(self.with(&arguments)?, None)))
    }
}
