//! `now()` inside views, and `fresh_since()`: what is older than that is not shown as current.
//!
//! A view is planned once and asked for days. DataFusion puts the time in while it plans, which would be the time of
//! the server's start; so a view is planned with functions that stay what they are ([`unbound`]), and the plan is then
//! given ones that the optimizer fills in for each statement ([`bind`]). Their type is that of `ts`, so that a
//! comparison of the two leaves out files and segments.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use nodescope_model::catalogue::timestamp_type;

/// How old the newest row of something may be that is shown as it is now. Beyond that its state is unknown.
pub const FRESH: Duration = Duration::from_secs(120);

static BOUND: LazyLock<[Arc<ScalarUDF>; 2]> =
    LazyLock::new(|| When::ALL.map(|when| Arc::new(ScalarUDF::new_from_impl(Now::new(when, true)))));

/// The functions with which views are planned.
pub(super) fn unbound() -> [ScalarUDF; 2] {
    When::ALL.map(|when| ScalarUDF::new_from_impl(Now::new(when, false)))
}

/// The same plan, in which now is the time of the statement that is asked.
///
/// # Errors
/// When DataFusion cannot put the plan together again, short of a bug.
pub(super) fn bind(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|plan| plan.map_expressions(|expr| expr.transform_up(bind_one)))
        .map(|plan| plan.data)
}

fn bind_one(expr: Expr) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(call) = &expr else { return Ok(Transformed::no(expr)) };
    let Some(Now { when, bound: false, .. }) = call.func.inner().downcast_ref::<Now>() else {
        return Ok(Transformed::no(expr));
    };
    let bound = Arc::clone(&BOUND[*when as usize]);
    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(bound, vec![]))))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum When {
    Now,
    FreshSince,
}

impl When {
    const ALL: [Self; 2] = [Self::Now, Self::FreshSince];
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Now {
    when: When,
    bound: bool,
    signature: Signature,
    aliases: Vec<String>,
}

impl Now {
    fn new(when: When, bound: bool) -> Self {
        // What is volatile is left alone by those who fold constants.
        let volatility = if bound { Volatility::Stable } else { Volatility::Volatile };
        let aliases = match when {
            When::Now => vec!["current_timestamp".to_owned()],
            When::FreshSince => vec![],
        };
        Self { when, bound, signature: Signature::nullary(volatility), aliases }
    }
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &'static str {
        match self.when {
            When::Now => "now",
            When::FreshSince => "fresh_since",
        }
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
                let time = match self.when {
                    When::Now => now,
                    When::FreshSince => now - FRESH,
                };
                let time = ScalarValue::TimestampMicrosecond(Some(time.timestamp_micros()), Some("UTC".into()));
                ExprSimplifyResult::Simplified(Expr::Literal(time, None))
            }
            _ => ExprSimplifyResult::Original(args),
        })
    }
}
