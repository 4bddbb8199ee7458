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
use nodescope_model::catalogue::timestamp_type;

/// What a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Float,
    Text,
    Bool,
    Timestamp,
}

impl Kind {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "int" => Self::Int,
            "float" => Self::Float,
            "text" => Self::Text,
            "bool" => Self::Bool,
            "timestamp" => Self::Timestamp,
            _ => return None,
        })
    }

    /// In words, for people.
    fn words(self) -> &'static str {
        match self {
            Self::Int => "a whole number",
            Self::Float => "a number",
            Self::Text => "text",
            Self::Bool => "true or false",
            Self::Timestamp => "a time",
        }
    }

    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Text => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Timestamp => timestamp_type(),
        }
    }

    /// Whether values of a type are meant, and not only convertible: a number is no text.
    fn takes(self, data_type: &DataType) -> bool {
        match self {
            Self::Int => data_type.is_integer(),
            Self::Float => data_type.is_numeric(),
            Self::Text => data_type.is_string(),
            Self::Bool => *data_type == DataType::Boolean,
            Self::Timestamp => matches!(data_type, DataType::Timestamp(_, _) | DataType::Date32),
        }
    }
}

/// A parameter as a function takes it.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub name: String,
    pub kind: Kind,
    /// What it is when the call leaves it out; `None` if it may not.
    pub value: Option<ScalarValue>,
}

/// The function.
#[derive(Debug)]
pub(super) struct ViewFunction {
    pub name: String,
    pub parameters: Vec<Parameter>,
    pub plan: LogicalPlan,
}

impl ViewFunction {
    /// How it is called: `hosts_for(accelerators, precision [, from_node])`.
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
        let data_type = parameter.kind.data_type();
        let wrong = |found: String| {
            let (function, name, words) = (self.signature(), &parameter.name, parameter.kind.words());
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
                    Ok(value) if text || parameter.kind.takes(&found) => Ok(Expr::Literal(value, None)),
                    _ => wrong(if text { format!("'{value}'") } else { value.to_string() }),
                }
            }
            other => {
                let found = other.get_type(&DFSchema::empty())?;
                if !parameter.kind.takes(&found) {
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
