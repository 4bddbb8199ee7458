//! `date_bin` with the type of its time kept.
//!
//! DataFusion computes `date_bin` for every time unit, but its list of signatures begins with nanoseconds, so the
//! planner casts a column of microseconds to nanoseconds, row by row, and the answer comes back in another type than
//! the column has. This function says which types it takes in its own words and leaves the arithmetic to DataFusion's.
//! What lies outside the years 1677 to 2262 does not fit into nanoseconds and becomes NULL, as with the original.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::{Result, plan_err};
use datafusion::functions::datetime::date_bin::DateBinFunc;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// The one instance that SQL, [`time_bucket`](super::time_bucket) and the rewrites share.
pub(crate) fn date_bin() -> Arc<ScalarUDF> {
    static INSTANCE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(DateBin::new())));
    Arc::clone(&INSTANCE)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateBin {
    signature: Signature,
    bins: DateBinFunc,
}

impl DateBin {
    fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable), bins: DateBinFunc::new() }
    }
}

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &'static str {
        "date_bin"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let (stride, source, with_origin) = match arg_types {
            [stride, source] => (stride, source, false),
            [stride, source, _] => (stride, source, true),
            _ => return plan_err!("date_bin takes a stride, a time and, if wanted, an origin"),
        };
        let stride = match stride {
            DataType::Interval(IntervalUnit::DayTime) => stride.clone(),
            DataType::Interval(_)
            | DataType::Duration(_)
            | DataType::Null
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View => DataType::Interval(IntervalUnit::MonthDayNano),
            other => return plan_err!("date_bin takes an interval as its stride, not {other}"),
        };
        let (source, origin) = match source {
            DataType::Timestamp(_, zone) => (source.clone(), DataType::Timestamp(TimeUnit::Nanosecond, zone.clone())),
            DataType::Time32(_) | DataType::Time64(_) => (source.clone(), source.clone()),
            DataType::Date32
            | DataType::Date64
            | DataType::Null
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View => {
                let naive = DataType::Timestamp(TimeUnit::Nanosecond, None);
                (naive.clone(), naive)
            }
            other => return plan_err!("date_bin takes a timestamp or a time of day, not {other}"),
        };
        let mut types = vec![stride, source];
        if with_origin {
            types.push(origin);
        }
        Ok(types)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[1].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.bins.invoke_with_args(args)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.bins.output_ordering(inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_keeps_its_type() {
        let interval = DataType::Interval(IntervalUnit::MonthDayNano);
        let naive_nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let utc = |unit| DataType::Timestamp(unit, Some("UTC".into()));
        let naive_millis = DataType::Timestamp(TimeUnit::Millisecond, None);
        let of_day = DataType::Time64(TimeUnit::Microsecond);
        let cases = [
            (utc(TimeUnit::Microsecond), utc(TimeUnit::Microsecond), utc(TimeUnit::Nanosecond)),
            (utc(TimeUnit::Second), utc(TimeUnit::Second), utc(TimeUnit::Nanosecond)),
            (naive_millis.clone(), naive_millis, naive_nanos.clone()),
            (of_day.clone(), of_day.clone(), of_day),
            (DataType::Utf8, naive_nanos.clone(), naive_nanos),
        ];
        for (given, source, origin) in cases {
            let types = date_bin().coerce_types(&[DataType::Utf8, given.clone(), DataType::Utf8]).expect("is accepted");
            assert_eq!(types, vec![interval.clone(), source, origin], "for {given}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let ts = DataType::Timestamp(TimeUnit::Microsecond, None);
        assert!(date_bin().coerce_types(std::slice::from_ref(&ts)).is_err());
        assert!(date_bin().coerce_types(&[DataType::Int64, ts]).is_err());
        assert!(date_bin().coerce_types(&[DataType::Utf8, DataType::Boolean]).is_err());
    }
}
