//! `time_bucket(width, ts [, origin])`: the start of the bucket a time falls into, as TimescaleDB answers it.
//!
//! Grafana sends it for `$__timeGroup` when it is told the database is TimescaleDB. While a query is planned the call
//! turns into [`date_bin`](mod@super::date_bin), which DataFusion knows to keep the order of its input, so a plan over
//! sorted files stays sorted. The two differ only in where buckets begin: TimescaleDB counts from Monday the 3rd of
//! January 2000, so that weeks begin on Mondays, and months from the 1st of January 2000.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err, plan_datafusion_err, plan_err};
use datafusion::functions::datetime::date_bin::DateBinFunc;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility, cast, lit,
};

use super::date_bin::date_bin;
use super::width::{DAY, SECOND, Width};

/// Monday, 2000-01-03T00:00:00Z, in nanoseconds.
const MONDAY: i64 = 946_857_600 * SECOND;
/// 2000-01-01T00:00:00Z, in nanoseconds.
const FIRST_OF_MONTH: i64 = 946_684_800 * SECOND;

/// What a date is binned as: its days are whole seconds, and seconds reach every year a date can name.
const DATE_AS_TIME: DataType = DataType::Timestamp(TimeUnit::Second, None);

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TimeBucket {
    signature: Signature,
    bins: DateBinFunc,
}

impl TimeBucket {
    pub(super) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable), bins: DateBinFunc::new() }
    }
}

/// The width a constant says, `None` for NULL, checked against the type of the time it is to cut.
fn width_for(constant: &ScalarValue, source: &DataType) -> Result<Option<Width>> {
    let width = Width::of(constant).map_err(|e| plan_datafusion_err!("time_bucket: {e}"))?;
    if is_date(source)
        && let Some(Width::Nanos(nanos)) = width
        && nanos % DAY != 0
    {
        return plan_err!("time_bucket: a date can only be cut by whole days or months, not by {constant}");
    }
    Ok(width)
}

fn is_date(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Date64)
}

/// The origin as `date_bin` wants it: nanoseconds in the time zone of the time.
fn origin_type(source: &DataType) -> DataType {
    let zone = match source {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    DataType::Timestamp(TimeUnit::Nanosecond, zone)
}

fn default_origin(width: Width, source: &DataType) -> ScalarValue {
    let nanos = match width {
        Width::Months(_) => FIRST_OF_MONTH,
        Width::Nanos(_) => MONDAY,
    };
    let zone = match source {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    ScalarValue::TimestampNanosecond(Some(nanos), zone)
}

impl ScalarUDFImpl for TimeBucket {
    fn name(&self) -> &'static str {
        "time_bucket"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let (width, source, with_origin) = match arg_types {
            [width, source] => (width, source, false),
            [width, source, _] => (width, source, true),
            _ => return plan_err!("time_bucket takes a width, a time and, if wanted, an origin"),
        };
        let width = match width {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => width.clone(),
            DataType::Interval(_) | DataType::Null => DataType::Interval(IntervalUnit::MonthDayNano),
            other => return plan_err!("time_bucket takes a width such as '5 minutes', not {other}"),
        };
        let source = match source {
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => source.clone(),
            // Text is read as the type that the time column of every table has.
            DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
            }
            other => return plan_err!("time_bucket takes a timestamp or a date, not {other}"),
        };
        let origin = origin_type(&source);
        let mut types = vec![width, source];
        if with_origin {
            types.push(origin);
        }
        Ok(types)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[1].clone())
    }

    // A bad width is refused here, while the query is planned, rather than deep within the optimizer.
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let source = args.arg_fields[1].data_type();
        if let Some(Some(constant)) = args.scalar_arguments.first() {
            width_for(constant, source)?;
        }
        Ok(Arc::new(Field::new(self.name(), source.clone(), true)))
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let Some(constant) = args[0].as_literal() else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        let source_type = info.get_data_type(&args[1])?;
        let Some(width) = width_for(constant, &source_type)? else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        let origin = args.get(2).cloned().unwrap_or_else(|| lit(default_origin(width, &source_type)));
        let source = args[1].clone();
        let binned = |source| date_bin().call(vec![lit(width.interval()), source, origin]);
        Ok(ExprSimplifyResult::Simplified(if is_date(&source_type) {
            cast(binned(cast(source, DATE_AS_TIME)), source_type)
        } else {
            binned(source)
        }))
    }

    // Reached only where the planner folds a call of constants before it simplifies it.
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ColumnarValue::Scalar(constant) = &args.args[0] else {
            return exec_err!("time_bucket: the width must be a constant, such as '5 minutes'");
        };
        let source = &args.args[1];
        let source_type = source.data_type();
        let Some(width) = width_for(constant, &source_type)? else {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from(&source_type)?));
        };
        let origin = args.args.get(2).cloned();
        let origin = origin.unwrap_or_else(|| ColumnarValue::Scalar(default_origin(width, &source_type)));
        let dated = is_date(&source_type);
        let source = if dated { source.cast_to(&DATE_AS_TIME, None)? } else { source.clone() };
        let stride = ColumnarValue::Scalar(width.interval());
        let binned = self.bins.invoke_with_args(ScalarFunctionArgs { args: vec![stride, source, origin], ..args })?;
        if dated { binned.cast_to(&source_type, None) } else { Ok(binned) }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::display::array_value_to_string;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// The type of every time column.
    const MICROS: &str = "Timestamp(Microsecond, Some(\"UTC\"))";

    async fn answer(sql: &str) -> Result<(DataType, String)> {
        let ctx = SessionContext::new();
        super::super::install(&ctx);
        let batches = ctx.sql(sql).await?.collect().await?;
        let column = batches[0].column(0);
        Ok((column.data_type().clone(), array_value_to_string(column, 0)?))
    }

    /// A column rather than a constant, so that the call is planned and not folded.
    fn of_column(width: &str, ts: &str, data_type: &str) -> String {
        let table = format!("SELECT arrow_cast(c, '{data_type}') AS ts FROM (VALUES ('{ts}')) AS v(c)");
        format!("SELECT time_bucket({width}, ts) FROM ({table})")
    }

    #[tokio::test]
    async fn buckets_of_every_type_keep_it() {
        let cases = [
            ("'5 minutes'", "2024-02-29T12:34:56.789012Z", MICROS, "2024-02-29T12:30:00Z"),
            ("'60.000s'", "2024-02-29T12:34:56Z", "Timestamp(Second, Some(\"+00:00\"))", "2024-02-29T12:34:00Z"),
            ("'00:05:00'", "2024-02-29T12:34:56", "Timestamp(Millisecond, None)", "2024-02-29T12:30:00"),
            ("'1d'", "2024-02-29T12:34:56.000000001", "Timestamp(Nanosecond, None)", "2024-02-29T00:00:00"),
            ("'1 week'", "2024-03-03T23:59:59Z", MICROS, "2024-02-26T00:00:00Z"),
            ("'1 month'", "2024-02-29T12:34:56Z", MICROS, "2024-02-01T00:00:00Z"),
            ("'3 months'", "1999-12-31T12:34:56Z", MICROS, "1999-10-01T00:00:00Z"),
            ("INTERVAL '15 minutes'", "1999-01-01T00:14:59Z", MICROS, "1999-01-01T00:00:00Z"),
            ("'1 week'", "2024-03-03", "Date32", "2024-02-26"),
            ("'1 month'", "2024-03-31", "Date32", "2024-03-01"),
        ];
        for (width, ts, data_type, bucket) in cases {
            let (found, value) = answer(&of_column(width, ts, data_type)).await.expect("is answered");
            assert_eq!(value, bucket, "{width} of {ts}");
            let (kept, _) = answer(&format!("SELECT arrow_cast('{ts}', '{data_type}')")).await.expect("is answered");
            assert_eq!(found, kept, "the type of {ts}");
        }
    }

    #[tokio::test]
    async fn constants_fold_to_the_same() {
        let ts = "TIMESTAMP '2024-02-29T12:34:56'";
        for (call, bucket) in [
            (format!("time_bucket('5 minutes', {ts})"), "2024-02-29T12:30:00"),
            (format!("time_bucket('1 month', {ts})"), "2024-02-01T00:00:00"),
            (format!("time_bucket('5 minutes', {ts}, TIMESTAMP '2024-01-01T00:01:00')"), "2024-02-29T12:31:00"),
            ("time_bucket('1 week', DATE '2024-03-03')".to_owned(), "2024-02-26"),
        ] {
            assert_eq!(answer(&format!("SELECT {call}")).await.expect("is answered").1, bucket, "{call}");
        }
    }

    #[tokio::test]
    async fn bad_widths_say_what_to_write() {
        let ts = "TIMESTAMP '2024-02-29T12:34:56'";
        for (call, part) in [
            (format!("time_bucket('soon', {ts})"), "such as '5 minutes'"),
            (format!("time_bucket('0s', {ts})"), "longer than zero"),
            (format!("time_bucket('-5 minutes', {ts})"), "longer than zero"),
            (format!("time_bucket(INTERVAL '1 month 1 day', {ts})"), "mixes months"),
            (format!("time_bucket(60, {ts})"), "such as '5 minutes'"),
            ("time_bucket('1 hour', DATE '2024-03-03')".to_owned(), "whole days"),
            ("time_bucket('1 hour')".to_owned(), "a width, a time"),
        ] {
            let error = answer(&format!("SELECT {call}")).await.expect_err("is refused").to_string();
            assert!(error.contains(part), "{call} answered: {error}");
        }
    }
}
