//! Truncating a time, said with `date_bin`.
//!
//! Two forms are common and slow. `date_trunc('hour', ts)` on a column with a time zone goes through the calendar for
//! every row, though in UTC an hour is an hour. And Grafana's `$__timeGroup` becomes
//! `floor(extract(epoch from ts)/60)*60`, which hides from the planner that the groups follow the order of time.
//! `date_bin` is plain arithmetic and known to keep the order.
//!
//! Months and longer stay with `date_trunc`: they have no fixed length. So does every time zone but UTC, where a day
//! need not last 24 hours. Times outside the years 1677 to 2262 become NULL, which `date_bin` cannot reach.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, lit};

use crate::functions;

const SECOND: i64 = 1_000_000_000;
/// Monday, 1970-01-05T00:00:00Z, in nanoseconds: where weeks begin.
const MONDAY: i64 = 4 * 86_400 * SECOND;

#[derive(Debug)]
pub(super) struct BinTime;

impl FunctionRewrite for BinTime {
    fn name(&self) -> &'static str {
        "bin_time"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _config: &ConfigOptions) -> Result<Transformed<Expr>> {
        let Some(binned) = truncated(&expr, schema).or_else(|| floored(&expr, schema)) else {
            return Ok(Transformed::no(expr));
        };
        let name = expr.schema_name().to_string();
        Ok(Transformed::yes(binned.alias(name)))
    }
}

/// `date_trunc(unit, ts)` in UTC, for units of fixed length.
fn truncated(expr: &Expr, schema: &DFSchema) -> Option<Expr> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let ("date_trunc", [unit, time]) = (call.func.name(), call.args.as_slice()) else { return None };
    let DataType::Timestamp(_, zone) = time.get_type(schema).ok()? else { return None };
    if !is_utc(zone.as_deref()) {
        return None;
    }
    let unit = unit.as_literal()?.try_as_str()??;
    let (days, seconds) = match unit.to_ascii_lowercase().as_str() {
        "second" => (0, 1),
        "minute" => (0, 60),
        "hour" => (0, 3_600),
        "day" => (1, 0),
        "week" => (7, 0),
        _ => return None,
    };
    let mut args = vec![lit(ScalarValue::new_interval_mdn(0, days, seconds * SECOND)), time.clone()];
    if days == 7 {
        args.push(lit(ScalarValue::TimestampNanosecond(Some(MONDAY), zone)));
    }
    Some(functions::date_bin().call(args))
}

/// Whether times of this zone are cut as UTC cuts them; without a zone they are cut as they stand.
fn is_utc(zone: Option<&str>) -> bool {
    zone.is_none_or(|zone| ["UTC", "Etc/UTC", "Z", "+00:00", "+00"].iter().any(|utc| zone.eq_ignore_ascii_case(utc)))
}

/// `floor(extract(epoch from ts) / n) * n`, for any `n` that bins of the column's precision can have.
fn floored(expr: &Expr, schema: &DFSchema) -> Option<Expr> {
    let (quotient, width) = operands(expr, Operator::Multiply)?;
    let Expr::ScalarFunction(floor) = quotient else { return None };
    let ("floor", [quotient]) = (floor.func.name(), floor.args.as_slice()) else { return None };
    let (epoch, divisor) = operands(quotient, Operator::Divide)?;
    let Expr::ScalarFunction(part) = epoch else { return None };
    let ("date_part", [field, time]) = (part.func.name(), part.args.as_slice()) else { return None };

    let width = width.as_literal()?;
    let is_epoch = field.as_literal()?.try_as_str()??.eq_ignore_ascii_case("epoch");
    if !is_epoch || divisor.as_literal()? != width {
        return None;
    }
    let DataType::Timestamp(precision, _) = time.get_type(schema).ok()? else { return None };
    let nanos = whole_nanos(width)?;
    // The answer must stay the double it was, and a bin may not begin between two instants the column can hold.
    if expr.get_type(schema).ok()? != DataType::Float64 || nanos % step(precision) != 0 {
        return None;
    }
    let stride = lit(ScalarValue::new_interval_mdn(0, 0, nanos));
    Some(part.func.call(vec![field.clone(), functions::date_bin().call(vec![stride, time.clone()])]))
}

fn operands(expr: &Expr, operator: Operator) -> Option<(&Expr, &Expr)> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if *op == operator => Some((left.as_ref(), right.as_ref())),
        _ => None,
    }
}

/// The seconds a literal says, in nanoseconds, if they are a whole number of them and more than none.
#[allow(clippy::float_cmp, reason = "a width that does not come back exactly is no whole number of nanoseconds")]
fn whole_nanos(seconds: &ScalarValue) -> Option<i64> {
    let nanos = match seconds {
        ScalarValue::Int64(Some(seconds)) => seconds.checked_mul(SECOND)?,
        ScalarValue::Float64(Some(seconds)) => {
            // Up to 2^53 a double counts nanoseconds one by one: 104 days. Wider bins are not asked for in fractions.
            let nanos = (seconds * 1e9).round();
            if !(1.0..=9_007_199_254_740_992.0).contains(&nanos) {
                return None;
            }
            #[allow(clippy::cast_possible_truncation, reason = "it is whole and within 2^53")]
            let whole = nanos as i64;
            (nanos / 1e9 == *seconds).then_some(whole)?
        }
        _ => return None,
    };
    (nanos > 0).then_some(nanos)
}

/// Nanoseconds between two instants of this precision.
fn step(precision: TimeUnit) -> i64 {
    match precision {
        TimeUnit::Second => SECOND,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use datafusion::arrow::array::{
        ArrayRef, RecordBatch, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampSecondArray,
    };
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    use datafusion::logical_expr::LogicalPlan;
    use datafusion::prelude::SessionContext;
    use proptest::prelude::*;

    use super::*;

    /// A table of one set of instants in several types; `rewrites` says whether a query of it is rewritten.
    fn context(micros: &[i64], rewrites: bool) -> SessionContext {
        let ctx = SessionContext::new();
        crate::functions::install(&ctx);
        if rewrites {
            super::super::install(&ctx).expect("a session takes rewrites");
        }
        let scaled = |by: i64| micros.iter().map(move |at| at.div_euclid(by));
        let instants = TimestampMicrosecondArray::from_iter_values(micros.iter().copied());
        let columns: [(&str, ArrayRef); 5] = [
            ("ts", Arc::new(instants.clone().with_timezone("UTC"))),
            ("naive", Arc::new(instants.clone())),
            ("berlin", Arc::new(instants.with_timezone("Europe/Berlin"))),
            ("ms", Arc::new(TimestampMillisecondArray::from_iter_values(scaled(1_000)).with_timezone("+00:00"))),
            ("s", Arc::new(TimestampSecondArray::from_iter_values(scaled(1_000_000)))),
        ];
        ctx.register_batch("t", RecordBatch::try_from_iter(columns).expect("columns of one length"))
            .expect("the name is free");
        ctx
    }

    async fn plan(sql: &str) -> LogicalPlan {
        let ctx = context(&[0], true);
        let frame = ctx.sql(sql).await.expect("is planned");
        frame.into_optimized_plan().expect("is optimized")
    }

    /// The names of the scalar functions that the optimized plan calls.
    async fn calls(sql: &str) -> Vec<String> {
        let mut names = BTreeSet::new();
        plan(sql)
            .await
            .apply(|node| {
                node.apply_expressions(|expr| {
                    expr.apply(|expr| {
                        if let Expr::ScalarFunction(call) = expr {
                            names.insert(call.func.name().to_owned());
                        }
                        Ok(TreeNodeRecursion::Continue)
                    })
                })
            })
            .expect("walking never fails");
        names.into_iter().collect()
    }

    #[tokio::test]
    async fn what_is_rewritten_and_what_is_not() {
        let cases: &[(&str, &[&str])] = &[
            ("date_trunc('minute', ts)", &["date_bin"]),
            ("date_trunc('HOUR', naive)", &["date_bin"]),
            ("date_trunc('second', ms)", &["date_bin"]),
            ("date_trunc('day', s)", &["date_bin"]),
            ("datetrunc('week', ts)", &["date_bin"]),
            ("date_trunc('month', ts)", &["date_trunc"]),
            ("date_trunc('day', berlin)", &["date_trunc"]),
            ("date_trunc('day', date_trunc('month', ts))", &["date_bin", "date_trunc"]),
            ("floor(extract(epoch from ts)/60)*60", &["date_bin", "date_part"]),
            ("floor(extract(epoch from ts)/0.25)*0.25", &["date_bin", "date_part"]),
            ("floor(extract(epoch from berlin)/60)*60", &["date_bin", "date_part"]),
            ("floor(extract(epoch from s)/90)*90", &["date_bin", "date_part"]),
            ("floor(extract(epoch from s)/1.5)*1.5", &["date_part", "floor"]),
            ("floor(extract(epoch from ts)/60)*61", &["date_part", "floor"]),
            ("floor(extract(epoch from ts)/0.0000001)*0.0000001", &["date_part", "floor"]),
            ("floor(extract(minute from ts)/5)*5", &["date_part", "floor"]),
            ("ceil(extract(epoch from ts)/60)*60", &["ceil", "date_part"]),
        ];
        for (expr, names) in cases {
            assert_eq!(&calls(&format!("SELECT {expr} AS x FROM t")).await, names, "for {expr}");
        }
    }

    #[tokio::test]
    async fn names_and_types_stay_what_they_were() {
        for expr in ["date_trunc('minute', ts)", "date_trunc('week', ms)", "floor(extract(epoch from ts)/60)*60"] {
            for sql in [
                format!("SELECT {expr} FROM t ORDER BY 1"),
                format!("SELECT {expr}, count(*) FROM t GROUP BY {expr} ORDER BY {expr}"),
                format!("SELECT max({expr}) FROM t"),
                format!("SELECT {expr}, count(*) FROM t GROUP BY ROLLUP({expr}) ORDER BY 1"),
                format!("SELECT s FROM t WHERE {expr} IN (SELECT {expr} FROM t) ORDER BY 1"),
            ] {
                let mut answers = Vec::new();
                for rewrites in [true, false] {
                    let frame = context(&[0, 59_999_999, 60_000_000], rewrites).sql(&sql).await.expect("is planned");
                    let names: Vec<String> = frame.schema().fields().iter().map(|field| field.name().clone()).collect();
                    let batches = frame.collect().await.expect("is answered");
                    let types: Vec<DataType> =
                        batches[0].schema().fields().iter().map(|field| field.data_type().clone()).collect();
                    answers.push((names, types, pretty_format_batches(&batches).expect("is shown").to_string()));
                }
                assert_eq!(answers[0], answers[1], "{sql}");
            }
        }
    }

    /// Grafana writes its time range as text with nanoseconds, and the column must not be cast to meet it.
    #[tokio::test]
    async fn time_ranges_as_text_fold_to_the_type_of_the_column() {
        let plan = plan(
            "SELECT ts FROM t WHERE ts BETWEEN '2024-01-01T00:00:00.123456789Z' AND '2024-01-02T00:00:00Z' \
             AND ts <> '2024-01-01T12:00:00Z'",
        )
        .await
        .display_indent()
        .to_string();
        assert!(!plan.contains("CAST("), "{plan}");
        for literal in ["1704067200123456", "1704153600000000", "1704110400000000"] {
            assert!(plan.contains(&format!("TimestampMicrosecond({literal}, Some(\"UTC\"))")), "{literal} in {plan}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_answers_are_the_same(
            micros in proptest::collection::vec(-2_000_000_000_000_000..2_000_000_000_000_000_i64, 1..20),
            edges in proptest::collection::vec((-20_000..20_000_i64, -1..=1_i64), 0..20),
        ) {
            // Random instants, and what lies on and beside the edges of days.
            let micros: Vec<i64> =
                micros.into_iter().chain(edges.into_iter().map(|(day, by)| day * 86_400_000_000 + by)).collect();
            let mut exprs = Vec::new();
            for column in ["ts", "naive", "berlin", "ms", "s"] {
                for unit in ["second", "minute", "hour", "day", "week"] {
                    exprs.push(format!("date_trunc('{unit}', {column})"));
                }
                for width in ["1", "60", "3600", "86400", "0.5"] {
                    exprs.push(format!("floor(extract(epoch from {column})/{width})*{width}"));
                }
            }
            let sql = format!("SELECT {} FROM t", exprs.join(", "));
            let answer = |rewrites: bool| {
                let ctx = context(&micros, rewrites);
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                let batches = runtime.block_on(async {
                    ctx.sql(&sql).await.expect("is planned").collect().await.expect("is answered")
                });
                pretty_format_batches(&batches).expect("is shown").to_string()
            };
            prop_assert_eq!(answer(true), answer(false));
        }
    }
}
