//! What minutes are summed up with: many columns of one entity in one call.
//!
//! | Function | Answers a structure with, for the nth value |
//! |---|---|
//! | `rollup_latest(start, ts, value, …)` | `c<n>`: the value in the row with the latest time |
//! | `rollup_levels(start, ts, gauge, …)` | `min<n>`, `max<n>`, `mean<n>`, `last<n>`, `count<n>` of the known values |
//! | `rollup_growths(start, ts, counter, …)` | `increase<n>`, `last<n>`, `count<n>` |
//!
//! The table of accelerators has 75 numbers and its minutes have more than 300 columns. As single calls each would
//! look at every row's time, and each counter would keep and sort samples of its own; here times are looked at once for
//! all, and sorted once. Rows before `start` are looked at for one thing only: the last value of a counter before the
//! window, from which its growth is counted.
//!
//! - NULL, NaN and infinity are no values. `count` says how many there were; where there was none the rest is NULL.
//! - Of several values of a counter at one time the largest counts, as in `increase`; of a gauge all count, and the
//!   largest is the last.
//! - A counter that is smaller than before began again: what it shows is the growth.
//! - Integers stay integers, exact to the last unit; means are doubles.
//!
//! The functions are the schedule's own. They are no secret, and answer in `GROUP BY` only.

mod growths;
mod latest;
mod levels;

use std::fmt::Debug;
use std::ops::AddAssign;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, PrimitiveArray, StructArray};
use datafusion::arrow::datatypes::{
    ArrowNativeTypeOp, ArrowPrimitiveType, DataType, Field, FieldRef, Fields, Float64Type, Int64Type, TimeUnit,
};
use datafusion::common::cast::{as_int64_array, as_primitive_array, as_timestamp_microsecond_array};
use datafusion::common::{Result, not_impl_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility};

/// Arguments before the values: begin of the window, and time of the row.
const BEFORE_VALUES: usize = 2;

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fold {
    Latest,
    Levels,
    Growths,
}

impl Fold {
    pub(super) const ALL: [Self; 3] = [Self::Latest, Self::Levels, Self::Growths];
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct RollupFunction {
    fold: Fold,
    signature: Signature,
}

impl RollupFunction {
    pub(super) fn new(fold: Fold) -> Self {
        Self { fold, signature: Signature::user_defined(Volatility::Immutable) }
    }

    /// Fields of the answer for values of these types.
    fn fields(&self, values: &[DataType]) -> Fields {
        let mut fields = Vec::new();
        for (n, own) in values.iter().enumerate() {
            let mut add = |name: &str, data_type: &DataType| {
                fields.push(Field::new(format!("{name}{n}"), data_type.clone(), true));
            };
            match self.fold {
                Fold::Latest => add("c", own),
                Fold::Levels => {
                    add("min", own);
                    add("max", own);
                    add("mean", &DataType::Float64);
                    add("last", own);
                    add("count", &DataType::Int64);
                }
                Fold::Growths => {
                    add("increase", own);
                    add("last", own);
                    add("count", &DataType::Int64);
                }
            }
        }
        fields.into()
    }
}

impl AggregateUDFImpl for RollupFunction {
    fn name(&self) -> &'static str {
        match self.fold {
            Fold::Latest => "rollup_latest",
            Fold::Levels => "rollup_levels",
            Fold::Growths => "rollup_growths",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        if arg_types.len() <= BEFORE_VALUES {
            return plan_err!("{name} takes the window's begin, the row's time, and values");
        }
        let (times, values) = arg_types.split_at(BEFORE_VALUES);
        let mut types = Vec::with_capacity(arg_types.len());
        for time in times {
            match time {
                DataType::Timestamp(_, zone) => types.push(DataType::Timestamp(TimeUnit::Microsecond, zone.clone())),
                other => return plan_err!("{name} takes timestamps as its first two arguments, not {other}"),
            }
        }
        for value in values {
            types.push(match value {
                any if self.fold == Fold::Latest => any.clone(),
                DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => DataType::Int64,
                number if number.is_floating() => DataType::Float64,
                other => return plan_err!("{name} takes numbers, not {other}"),
            });
        }
        Ok(types)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(self.fields(arg_types.get(BEFORE_VALUES..).unwrap_or_default())))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let values: Vec<DataType> =
            args.input_fields.iter().skip(BEFORE_VALUES).map(|field| field.data_type().clone()).collect();
        let types = match self.fold {
            Fold::Latest => latest::state_types(&values),
            Fold::Levels => levels::state_types(&values),
            Fold::Growths => growths::state_types(&values),
        };
        let fields = types.into_iter().enumerate();
        Ok(fields
            .map(|(n, data_type)| {
                Arc::new(Field::new(format_state_name(args.name, &n.to_string()), data_type, true)) as FieldRef
            })
            .collect())
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("{} answers in GROUP BY only", self.name())
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let values: Vec<DataType> =
            args.expr_fields.iter().skip(BEFORE_VALUES).map(|field| field.data_type().clone()).collect();
        let fields = self.fields(&values);
        Ok(match self.fold {
            Fold::Latest => Box::new(latest::Latest::new(fields)),
            Fold::Levels => Box::new(levels::Levels::new(fields, &values)?),
            Fold::Growths => Box::new(growths::Growths::new(fields, &values)?),
        })
    }
}

/// A number as a column holds it.
trait Value: ArrowNativeTypeOp {
    /// Its type in Arrow.
    type Arrow: ArrowPrimitiveType<Native = Self>;
    /// What growth is summed in.
    type Total: Copy + Debug + Default + Send + Sync + AddAssign;

    /// Whether it says anything.
    fn is_known(self) -> bool;
    /// For means.
    fn as_f64(self) -> f64;
    /// From one sample to the next: the difference, or after a reset the new value itself.
    fn growth(before: Self, now: Self) -> Self::Total;
    /// The sum, as near as the column's type can say it.
    fn of(total: Self::Total) -> Self;
}

impl Value for i64 {
    type Arrow = Int64Type;
    type Total = i128;

    fn is_known(self) -> bool {
        true
    }

    #[allow(clippy::cast_precision_loss, reason = "means are doubles")]
    fn as_f64(self) -> f64 {
        self as f64
    }

    fn growth(before: Self, now: Self) -> i128 {
        i128::from(now) - if now < before { 0 } else { i128::from(before) }
    }

    fn of(total: i128) -> Self {
        Self::try_from(total).unwrap_or(if total < 0 { Self::MIN } else { Self::MAX })
    }
}

impl Value for f64 {
    type Arrow = Float64Type;
    type Total = f64;

    fn is_known(self) -> bool {
        self.is_finite()
    }

    fn as_f64(self) -> f64 {
        self
    }

    fn growth(before: Self, now: Self) -> f64 {
        if now < before { now } else { now - before }
    }

    fn of(total: f64) -> Self {
        total
    }
}

/// The arguments of one batch: begin of the window, times, values.
struct Arguments<'a> {
    start: i64,
    times: &'a [i64],
    values: &'a [ArrayRef],
}

impl<'a> Arguments<'a> {
    /// Nothing when the batch is empty. Neither begin nor times are ever NULL.
    fn of(columns: &'a [ArrayRef]) -> Result<Option<Self>> {
        let (before, values) = columns.split_at(BEFORE_VALUES.min(columns.len()));
        let [start, times] = before else { return plan_err!("a window's begin and times are missing") };
        let start = as_timestamp_microsecond_array(start)?;
        let times = as_timestamp_microsecond_array(times)?;
        if start.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { start: start.value(0), times: times.values(), values }))
    }
}

/// A column of numbers, with a look at one of them.
fn known<V: Value>(column: &PrimitiveArray<V::Arrow>, row: usize) -> Option<V> {
    let value = column.value(row);
    (column.is_valid(row) && value.is_known()).then_some(value)
}

fn numbers<V: Value>(column: &ArrayRef) -> Result<&PrimitiveArray<V::Arrow>> {
    as_primitive_array::<V::Arrow>(column)
}

fn integers(column: &ArrayRef) -> Result<&Int64Array> {
    as_int64_array(column)
}

fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

/// Nullable numbers as an array.
fn array<V: Value>(values: impl Iterator<Item = Option<V>>) -> ArrayRef {
    Arc::new(values.collect::<PrimitiveArray<V::Arrow>>())
}

fn structure(fields: &Fields, columns: Vec<ArrayRef>, groups: usize) -> Result<ArrayRef> {
    Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, None, groups)?))
}

/// The state of every row, as if each were a group.
fn row_by_row(
    mut fresh: impl GroupsAccumulator,
    values: &[ArrayRef],
    filter: Option<&BooleanArray>,
) -> Result<Vec<ArrayRef>> {
    let rows = values.first().map_or(0, Array::len);
    let groups: Vec<usize> = (0..rows).collect();
    fresh.update_batch(values, &groups, filter, rows)?;
    fresh.state(EmitTo::All)
}
