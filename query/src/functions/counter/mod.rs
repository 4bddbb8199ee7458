//! `increase(counter, ts)` and `rate(counter, ts)`: how much a counter grew, in total and per second.
//!
//! The tables keep counters as the kernel shows them: cumulative, and back at zero when a host or a driver starts
//! anew. So the growth is summed from one sample to the next in the order of time, and where a sample is smaller than
//! the one before, the counter began again and the sample itself is the growth. Nothing is extrapolated to the edges
//! of the group, unlike in Prometheus: the answer is what was seen. The rows of one group must be one series; the
//! entity belongs into `GROUP BY`.
//!
//! - NULL, NaN and rows without a time are passed over; of several values at one time the largest counts.
//! - Fewer than two samples answer NULL, because growth needs two.
//! - Integers are subtracted as integers, so a counter beyond 2^53 loses nothing before the sum becomes a double.
//! - Times are read to the microsecond.

mod fold;
mod groups;
mod samples;

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, GroupsAccumulator, Signature, Volatility};

use groups::GroupedSamples;
use samples::{Samples, list_type};

pub(super) use fold::Measure;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct CounterFunction {
    measure: Measure,
    signature: Signature,
}

impl CounterFunction {
    pub(super) fn new(measure: Measure) -> Self {
        Self { measure, signature: Signature::user_defined(Volatility::Immutable) }
    }

    fn samples(&self, args: &AccumulatorArgs<'_>, slides: bool) -> Result<Box<dyn Accumulator>> {
        Ok(match args.expr_fields[0].data_type() {
            DataType::Int64 => Box::new(Samples::<i64>::new(self.measure, slides)),
            DataType::UInt64 => Box::new(Samples::<u64>::new(self.measure, slides)),
            DataType::Float64 => Box::new(Samples::<f64>::new(self.measure, slides)),
            other => return internal_err!("{} was planned over {other}", self.name()),
        })
    }
}

impl AggregateUDFImpl for CounterFunction {
    fn name(&self) -> &'static str {
        match self.measure {
            Measure::Increase => "increase",
            Measure::Rate => "rate",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [value, time] = arg_types else {
            return plan_err!("{} takes a counter and its time", self.name());
        };
        let value = match value {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => DataType::Int64,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => DataType::UInt64,
            DataType::Null => DataType::Float64,
            number if number.is_floating() || number.is_decimal() => DataType::Float64,
            other => return plan_err!("{} takes a number as its counter, not {other}", self.name()),
        };
        let time = match time {
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            DataType::Date32 | DataType::Date64 | DataType::Null => DataType::Timestamp(TimeUnit::Microsecond, None),
            other => return plan_err!("{} takes a timestamp as its time, not {other}", self.name()),
        };
        Ok(vec![value, time])
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    // Two lists of equal length per group: the times in microseconds, and the values.
    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let state = |name, item| Arc::new(Field::new(format_state_name(args.name, name), list_type(item), true));
        Ok(vec![state("times", DataType::Int64), state("values", args.input_fields[0].data_type().clone())])
    }

    // Samples are sorted here, whatever order they come in.
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.samples(&args, false)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.samples(&args, true)
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(match args.expr_fields[0].data_type() {
            DataType::Int64 => Box::new(GroupedSamples::<i64>::new(self.measure)),
            DataType::UInt64 => Box::new(GroupedSamples::<u64>::new(self.measure)),
            DataType::Float64 => Box::new(GroupedSamples::<f64>::new(self.measure)),
            other => return internal_err!("{} was planned over {other}", self.name()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use datafusion::arrow::array::{
        ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt64Array,
    };
    use datafusion::arrow::datatypes::{Float64Type, Int64Type, Schema};
    use datafusion::common::DataFusionError;
    use datafusion::datasource::MemTable;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};
    use proptest::prelude::*;

    use super::*;

    /// One row of the table under test: its series, its second, its value.
    type Row = (i64, Option<i64>, Option<i64>);

    #[allow(clippy::cast_precision_loss, reason = "the values are small")]
    fn batch(rows: &[Row]) -> RecordBatch {
        let values = |pick: fn(&Row) -> Option<i64>| rows.iter().map(pick);
        let series: Int64Array = rows.iter().map(|row| Some(row.0)).collect();
        let ts: TimestampMicrosecondArray = values(|row| row.1.map(|second| second * 1_000_000)).collect();
        let i: Int64Array = values(|row| row.2).collect();
        let u: UInt64Array = values(|row| row.2).map(|value| value.map(i64::unsigned_abs)).collect();
        let f: Float64Array = values(|row| row.2).map(|value| value.map(|value| value as f64)).collect();
        let columns: [(&str, ArrayRef, bool); 5] = [
            ("series", Arc::new(series), true),
            ("ts", Arc::new(ts.with_timezone("UTC")), true),
            ("i", Arc::new(i), true),
            ("u", Arc::new(u), true),
            ("f", Arc::new(f), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
    }

    fn context(partitions: &[Vec<Row>], config: SessionConfig) -> SessionContext {
        let ctx = SessionContext::new_with_config(config);
        super::super::install(&ctx);
        let schema = batch(&[]).schema();
        let batches: Vec<Vec<RecordBatch>> =
            partitions.iter().map(|rows| rows.chunks(3).map(batch).collect()).collect();
        ctx.register_table("t", Arc::new(MemTable::try_new(schema, batches).expect("batches of one schema")))
            .expect("the name is free");
        ctx
    }

    async fn collect(ctx: &SessionContext, sql: &str) -> Result<RecordBatch> {
        let frame = ctx.sql(sql).await?;
        let schema: Schema = frame.schema().as_arrow().clone();
        let batches = frame.collect().await?;
        Ok(datafusion::arrow::compute::concat_batches(&Arc::new(schema), &batches)?)
    }

    /// What the functions should say, computed the plain way.
    #[allow(clippy::cast_precision_loss, reason = "the values are small")]
    fn oracle(rows: impl Iterator<Item = Row>) -> BTreeMap<i64, (Option<f64>, Option<f64>)> {
        let mut series: BTreeMap<i64, BTreeMap<i64, i64>> = BTreeMap::new();
        for (name, second, value) in rows {
            let samples = series.entry(name).or_default();
            if let (Some(second), Some(value)) = (second, value) {
                samples.entry(second).and_modify(|seen| *seen = value.max(*seen)).or_insert(value);
            }
        }
        let answer = |samples: BTreeMap<i64, i64>| {
            let (first, last) = (*samples.keys().next()?, *samples.keys().next_back()?);
            if first == last {
                return None;
            }
            let values: Vec<i64> = samples.into_values().collect();
            let grown: i64 = values.windows(2).map(|v| if v[1] < v[0] { v[1] } else { v[1] - v[0] }).sum();
            Some((grown as f64, grown as f64 / (last - first) as f64))
        };
        series.into_iter().map(|(name, samples)| (name, answer(samples).unzip())).collect()
    }

    fn floats(batch: &RecordBatch, column: &str) -> Vec<Option<f64>> {
        batch.column_by_name(column).expect("was selected").as_primitive::<Float64Type>().iter().collect()
    }

    fn rows() -> impl Strategy<Value = Vec<Vec<Row>>> {
        let row = (0..4_i64, proptest::option::weighted(0.9, 0..40_i64), proptest::option::weighted(0.8, 0..20_i64));
        proptest::collection::vec(proptest::collection::vec(row, 0..30), 4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Four partitions, small batches, with and without partial aggregation given up half-way: one answer.
        #[test]
        fn every_plan_agrees_with_the_plain_way(partitions in rows(), gives_up in any::<bool>()) {
            let mut config = SessionConfig::new().with_target_partitions(4).with_batch_size(4);
            if gives_up {
                config = config
                    .set_usize("datafusion.execution.skip_partial_aggregation_probe_rows_threshold", 1)
                    .set_str("datafusion.execution.skip_partial_aggregation_probe_ratio_threshold", "0.0");
            }
            let ctx = context(&partitions, config);
            let grouped = "SELECT series, increase(i, ts) AS i, increase(u, ts) AS u, increase(f, ts) AS f, \
                           rate(i, ts) AS r, increase(i, ts) FILTER (WHERE i > 5) AS big FROM t GROUP BY series \
                           ORDER BY series";
            let whole = "SELECT increase(i, ts) AS i, rate(f, ts) AS r FROM t";
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let (grouped, whole) = runtime.block_on(async {
                (collect(&ctx, grouped).await.expect("is answered"), collect(&ctx, whole).await.expect("is answered"))
            });

            let all = || partitions.iter().flatten().copied();
            let expected = oracle(all());
            let names: Vec<i64> = grouped.column(0).as_primitive::<Int64Type>().values().to_vec();
            prop_assert_eq!(names, expected.keys().copied().collect::<Vec<_>>());
            let (increases, rates): (Vec<_>, Vec<_>) = expected.into_values().unzip();
            for column in ["i", "u", "f"] {
                prop_assert_eq!(floats(&grouped, column), increases.clone());
            }
            prop_assert_eq!(floats(&grouped, "r"), rates);
            let big = oracle(all().map(|(name, second, value)| (name, second, value.filter(|v| *v > 5))));
            prop_assert_eq!(floats(&grouped, "big"), big.into_values().map(|answer| answer.0).collect::<Vec<_>>());

            let one = oracle(all().map(|(_, second, value)| (0, second, value)));
            let (increase, rate) = one.get(&0).copied().unwrap_or_default();
            prop_assert_eq!(floats(&whole, "i"), vec![increase]);
            prop_assert_eq!(floats(&whole, "r"), vec![rate]);
        }

        /// A window that slides, over rows in the order of time and against it.
        #[test]
        fn a_sliding_window_agrees_with_the_plain_way(rows in rows(), width in 0..5_usize, against in any::<bool>()) {
            let mut rows: Vec<Row> = rows.concat();
            if !against {
                rows.sort_by_key(|row| row.1);
            }
            for (at, row) in (0_i64..).zip(&mut rows) {
                row.0 = at;
            }
            let ctx = context(std::slice::from_ref(&rows), SessionConfig::new().with_batch_size(4));
            let sql = format!(
                "SELECT series, increase(i, ts) OVER (ORDER BY series ROWS BETWEEN {width} PRECEDING AND CURRENT ROW) \
                 AS slides, increase(i, ts) OVER (ORDER BY series ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) \
                 AS grows FROM t ORDER BY series"
            );
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let found = runtime.block_on(collect(&ctx, &sql)).expect("is answered");
            let expected = |from: fn(usize, usize) -> usize| -> Vec<Option<f64>> {
                let one = |at: usize| oracle(rows[from(at, width)..=at].iter().map(|row| (0, row.1, row.2)));
                (0..rows.len()).map(|at| one(at).get(&0).and_then(|answer| answer.0)).collect()
            };
            prop_assert_eq!(floats(&found, "slides"), expected(usize::saturating_sub));
            prop_assert_eq!(floats(&found, "grows"), expected(|_, _| 0));
        }
    }

    #[tokio::test]
    async fn integers_beyond_doubles_stay_exact() {
        let ctx = SessionContext::new();
        super::super::install(&ctx);
        let sql = "SELECT increase(n, ts) AS n, increase(arrow_cast(n, 'UInt64'), ts) AS u FROM (VALUES \
                   (9007199254740993, DATE '2024-01-01'), (9223372036854775807, DATE '2024-01-02'), \
                   (9223372036854775806, DATE '2024-01-03'), (9223372036854775807, DATE '2024-01-04')) AS v(n, ts)";
        let found = collect(&ctx, sql).await.expect("is answered");
        // Up to the top, back by one, which is a reset, and up by one.
        let exact: i128 = (i128::from(i64::MAX) - 9_007_199_254_740_993) + (i128::from(i64::MAX) - 1) + 1;
        #[allow(clippy::cast_precision_loss, reason = "only the sum is rounded")]
        let expected = vec![Some(exact as f64)];
        assert_eq!(floats(&found, "n"), expected);
        assert_eq!(floats(&found, "u"), expected);
        let small = "SELECT increase(n, ts) AS n FROM (VALUES (9007199254740993, DATE '2024-01-01'), \
                     (9007199254740999, DATE '2024-01-02')) AS v(n, ts)";
        assert_eq!(floats(&collect(&ctx, small).await.expect("is answered"), "n"), vec![Some(6.0)]);
    }

    #[tokio::test]
    async fn decimals_and_nan_are_taken_as_doubles() {
        let ctx = SessionContext::new();
        super::super::install(&ctx);
        let sql = "SELECT increase(arrow_cast(x, 'Decimal128(10, 2)'), ts) AS d, \
                   rate(CASE WHEN x = 2 THEN arrow_cast('NaN', 'Float64') ELSE x END, ts) AS f FROM (VALUES \
                   (1.5, DATE '1970-01-01'), (2.0, DATE '1970-01-02'), (4.5, DATE '1970-01-03')) AS v(x, ts)";
        let found = collect(&ctx, sql).await.expect("is answered");
        assert_eq!(floats(&found, "d"), vec![Some(3.0)]);
        assert_eq!(floats(&found, "f"), vec![Some(3.0 / 172_800.0)]);
    }

    #[tokio::test]
    async fn what_is_no_counter_is_refused() {
        let ctx = SessionContext::new();
        super::super::install(&ctx);
        for (call, part) in [
            ("increase('a', DATE '2024-01-01')", "takes a number"),
            ("rate(1, 2)", "takes a timestamp"),
            ("rate(1)", "a counter and its time"),
        ] {
            let error = ctx.sql(&format!("SELECT {call}")).await.expect_err("is refused").to_string();
            assert!(error.contains(part), "{call} answered: {error}");
        }
    }

    #[tokio::test]
    async fn the_memory_pool_bounds_the_samples() {
        let rows: Vec<Row> = (0..100_000).map(|at| (0, Some(at), Some(at))).collect();
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(256 * 1024, 1.0).build_arc().expect("a runtime");
        let ctx = SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(1), runtime);
        super::super::install(&ctx);
        ctx.register_batch("t", batch(&rows)).expect("the name is free");
        collect(&ctx, "SELECT avg(f) FROM t").await.expect("what needs no memory is answered");
        let error = collect(&ctx, "SELECT increase(i, ts) FROM t").await.expect_err("is refused");
        assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error}");
    }
}
