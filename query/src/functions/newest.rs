//! `last(value, ts)` and `first(value, ts)`: the value at the latest and at the earliest time it was known.
//!
//! Both are short for what DataFusion has already, `last_value(value ORDER BY ts) IGNORE NULLS` and its counterpart,
//! and turn into it while a query is planned; that function keeps one row per group whatever the order of the input.
//! Over a window the long form is the one to write, because a window has its order anyway.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, not_impl_err, plan_err};
use datafusion::functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Expr, Signature, Volatility};

/// Which end of time is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum End {
    First,
    Last,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct AtEnd {
    end: End,
    signature: Signature,
}

impl AtEnd {
    pub(super) fn new(end: End) -> Self {
        Self { end, signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
        }
    }

    /// The built-in call that means the same as `call`.
    fn built_in(self, mut call: AggregateFunction, info: &SimplifyContext) -> Result<Expr> {
        if !call.params.order_by.is_empty() {
            return plan_err!("{0} takes its order from its second argument: leave ORDER BY out of {0}()", self.name());
        }
        let (Some(time), Some(value), true) =
            (call.params.args.pop(), call.params.args.pop(), call.params.args.is_empty())
        else {
            return plan_err!("{} takes a value and its time", self.name());
        };
        // A value without a time is neither first nor last, even if there is no other.
        let filter = if info.nullable(&time)? {
            let timed = time.clone().is_not_null();
            Some(Box::new(match call.params.filter {
                Some(filter) => filter.and(timed),
                None => timed,
            }))
        } else {
            call.params.filter
        };
        let built_in = match self {
            Self::First => first_value_udaf(),
            Self::Last => last_value_udaf(),
        };
        Ok(Expr::AggregateFunction(AggregateFunction::new_udf(
            built_in,
            vec![value],
            false,
            filter,
            vec![time.sort(true, false)],
            Some(NullTreatment::IgnoreNulls),
        )))
    }
}

impl AggregateUDFImpl for AtEnd {
    fn name(&self) -> &'static str {
        self.end.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    // The same as the built-in says, or the rewritten plan would not fit the one it replaces.
    fn return_field(&self, arg_fields: &[FieldRef]) -> Result<FieldRef> {
        let value = &arg_fields[0];
        let field = Field::new(self.name(), value.data_type().clone(), true);
        Ok(Arc::new(field.with_metadata(value.metadata().clone())))
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        let end = self.end;
        Some(Box::new(move |call: AggregateFunction, info: &SimplifyContext| end.built_in(call, info)))
    }

    // Only a window reaches this: in GROUP BY the call has been rewritten by then.
    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let name = self.name();
        not_impl_err!("{name}() is no window function: write {name}_value(value) IGNORE NULLS OVER (… ORDER BY ts)")
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn answer(sql: &str) -> Result<String> {
        let ctx = SessionContext::new();
        super::super::install(&ctx);
        let table = "CREATE TABLE t AS SELECT column1 AS g, column3 AS n, column4 AS word, \
                     arrow_cast(column2, 'Timestamp(Microsecond, Some(\"UTC\"))') AS ts FROM (VALUES \
                     (1, '2024-01-01T00:00:02Z', 20, 'b'), (1, '2024-01-01T00:00:01Z', 10, NULL), \
                     (1, '2024-01-01T00:00:03Z', NULL, 'c'), (1, NULL, 99, 'x'), \
                     (2, NULL, 7, 'y'), (3, '2024-01-01T00:00:01Z', NULL, NULL))";
        ctx.sql(table).await?.collect().await?;
        Ok(pretty_format_batches(&ctx.sql(sql).await?.collect().await?)?.to_string())
    }

    #[tokio::test]
    async fn unknown_values_and_times_are_passed_over() {
        let short = "SELECT g, first(n, ts) AS a, last(n, ts) AS b, first(word, ts) AS c, last(word, ts) AS d, \
                     last(n, ts) FILTER (WHERE n < 20) AS e FROM t GROUP BY g ORDER BY g";
        let found = answer(short).await.expect("is answered");
        let expected = "\
+---+----+----+---+---+----+
| g | a  | b  | c | d | e  |
+---+----+----+---+---+----+
| 1 | 10 | 20 | b | c | 10 |
| 2 |    |    |   |   |    |
| 3 |    |    |   |   |    |
+---+----+----+---+---+----+";
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn the_call_becomes_the_built_in_under_its_own_name() {
        let plan = answer("EXPLAIN SELECT last(n, ts) FROM t").await.expect("is planned");
        assert!(plan.contains("last_value(t.n)"), "{plan}");
        let header = answer("SELECT last(n, ts) FROM t").await.expect("is answered");
        assert!(header.contains("last(t.n,t.ts)"), "{header}");
    }

    #[tokio::test]
    async fn what_it_cannot_do_it_refuses() {
        for (sql, part) in [
            ("SELECT last(n, ts ORDER BY n) FROM t", "leave ORDER BY out"),
            ("SELECT last(n, ts) OVER (PARTITION BY g) FROM t", "last_value(value) IGNORE NULLS OVER"),
            ("SELECT last(n) FROM t", "last"),
        ] {
            let error = answer(sql).await.expect_err("is refused").to_string();
            assert!(error.contains(part), "{sql} answered: {error}");
        }
    }
}
