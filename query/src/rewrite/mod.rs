//! Expressions that say the right thing slowly, rewritten into ones that say it fast.
//!
//! The rewrites run before DataFusion coerces types and before it optimizes, so everything that follows sees only the
//! fast form. Each rewritten expression keeps the name of the one it replaces: a client that asked for
//! `date_trunc(…)` gets a column of that name, and `GROUP BY` and `ORDER BY` still find what they refer to.

mod time;

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::registry::FunctionRegistry;
use datafusion::prelude::SessionContext;

/// All rewrites, in the order in which they apply.
#[must_use]
pub fn function_rewrites() -> Vec<Arc<dyn FunctionRewrite + Send + Sync>> {
    vec![Arc::new(time::BinTime)]
}

/// Makes `ctx` apply every rewrite to every query.
///
/// # Errors
///
/// If the context takes no rewrites, which DataFusion's own always does.
pub fn install(ctx: &SessionContext) -> Result<()> {
    // A clone is the same session; registering only asks for a mutable handle to it.
    let mut ctx = ctx.clone();
    function_rewrites().into_iter().try_for_each(|rewrite| ctx.register_function_rewrite(rewrite))
}
