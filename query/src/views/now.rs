//! `now()` inside views.
//!
//! A view is planned once and asked for days. DataFusion puts the time in while it plans, which would be the time of
//! the server's start; so a view is planned with a `now()` that stays what it is ([`unbound`]), and the plan is then
//! given one that the optimizer fills in for each statement ([`bind`]). Both have the type of `ts`, so that a
//! comparison of the two leaves out files and segments.

use std::sync::LazyLock;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use nodescope_model::catalogue::timestamp_type;

static BOUND: LazyLock<std::sync::Arc<ScalarUDF>> =
    LazyLock::new(|| std::sync::Arc::new(ScalarUDF::new_from_impl(Now::new(true))));

/// The `now()` with which views are planned.
pub(super) fn unbound() -> ScalarUDF {
    ScalarUDF::new_from_impl(Now::new(false))
}

/// The same plan, in which `now()` is the time of the statement that is asked.
///
/// # Errors
/// When DataFusion cannot put the plan together again, short of a bug.
pub(super) fn bind(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|plan| {
        plan.map_expressions(|expr| {
            expr.transform_up(|expr| {
                Ok(match &expr {
                    Expr::ScalarFunction(call) if call.func.inner().downcast_ref::<Now>().is_some() => {
                        let call = ScalarFunction::new_udf(std::sync::Arc::clone(&BOUND), vec![]);
                        Transformed::yes(Expr::ScalarFunction(call))
                    }
                    _ => Transformed::no(expr),
                })
            })
        })
    })
    .map(|plan| plan.data)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Now {
    bound: bool,
    signature: Signature,
    aliases: Vec<String>,
}

impl Now {
    fn new(bound: bool) -> Self {
        // What is volatile is left alone by those who fold constants.
        let volatility = if bound { Volatility::Stable } else { Volatility::Volatile };
        Self { bound, signature: Signature::nullary(volatility), aliases: vec!["current_timestamp".to_owned()] }
    }
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &'static str {
        "now"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(timestamp_type())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("now() of a view was not filled in while the statement was planned")
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(match (self.bound, info.query_execution_start_time()) {
            (true, Some(now)) => {
                let now = ScalarValue::TimestampMicrosecond(Some(now.timestamp_micros()), Some("UTC".into()));
                ExprSimplifyResult::Simplified(Expr::Literal(now, None))
            }
            _ => ExprSimplifyResult::Original(args),
        })
    }
}
