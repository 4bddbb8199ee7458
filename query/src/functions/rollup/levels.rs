//! Least, largest, mean, last and count of gauges, in one pass.

use std::fmt::Debug;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array};
use datafusion::arrow::datatypes::{DataType, Fields};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::{Arguments, Value, array, integers, known, numbers, passes, row_by_row, structure};

/// Columns of the state for each value: least, largest, sum, last, its time, count.
const STATE: usize = 6;

pub(super) fn state_types(values: &[DataType]) -> Vec<DataType> {
    let of =
        |own: &DataType| [own.clone(), own.clone(), DataType::Float64, own.clone(), DataType::Int64, DataType::Int64];
    values.iter().flat_map(of).collect()
}

#[derive(Debug)]
pub(super) struct Levels {
    fields: Fields,
    types: Vec<DataType>,
    groups: usize,
    columns: Vec<Box<dyn Column>>,
}

impl Levels {
    pub(super) fn new(fields: Fields, values: &[DataType]) -> Result<Self> {
        let column = |data_type: &DataType| -> Result<Box<dyn Column>> {
            Ok(match data_type {
                DataType::Int64 => Box::new(Levelled::<i64>(Vec::new())),
                DataType::Float64 => Box::new(Levelled::<f64>(Vec::new())),
                other => return internal_err!("gauges were planned over {other}"),
            })
        };
        let columns = values.iter().map(column).collect::<Result<_>>()?;
        Ok(Self { fields, types: values.to_vec(), groups: 0, columns })
    }

    fn grow(&mut self, groups: usize) {
        self.groups = groups;
        self.columns.iter_mut().for_each(|column| column.grow(groups));
    }

    fn emit(&mut self, emit_to: EmitTo) -> usize {
        let emitted = match emit_to {
            EmitTo::All => self.groups,
            EmitTo::First(n) => n,
        };
        self.groups -= emitted;
        emitted
    }
}

impl GroupsAccumulator for Levels {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let Some(Arguments { start, times, values }) = Arguments::of(values)? else { return Ok(()) };
        let rows: Vec<usize> =
            (0..times.len()).filter(|row| times[*row] >= start && passes(opt_filter, *row)).collect();
        for (column, values) in self.columns.iter_mut().zip(values) {
            column.update(values, times, &rows, group_indices)?;
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = self.emit(emit_to);
        let columns = self.columns.iter_mut().flat_map(|column| column.answer(emit_to)).collect();
        structure(&self.fields, columns, groups)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.emit(emit_to);
        Ok(self.columns.iter_mut().flat_map(|column| column.state(emit_to)).collect())
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.grow(total_num_groups);
        for (column, state) in self.columns.iter_mut().zip(values.chunks(STATE)) {
            column.merge(state, group_indices)?;
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        row_by_row(Levels::new(self.fields.clone(), &self.types)?, values, opt_filter)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.columns.iter().map(|column| column.size()).sum::<usize>()
    }
}

/// One gauge of every group.
trait Column: Debug + Send + Sync {
    fn grow(&mut self, groups: usize);
    fn update(&mut self, values: &ArrayRef, times: &[i64], rows: &[usize], groups: &[usize]) -> Result<()>;
    fn answer(&mut self, emit_to: EmitTo) -> Vec<ArrayRef>;
    fn state(&mut self, emit_to: EmitTo) -> Vec<ArrayRef>;
    fn merge(&mut self, state: &[ArrayRef], groups: &[usize]) -> Result<()>;
    fn size(&self) -> usize;
}

#[derive(Debug, Clone, Copy)]
struct Level<V> {
    min: V,
    max: V,
    sum: f64,
    last: V,
    at: i64,
    count: i64,
}

impl<V: Value> Level<V> {
    const NONE: Self = Self { min: V::ZERO, max: V::ZERO, sum: 0.0, last: V::ZERO, at: i64::MIN, count: 0 };

    /// Adds another that is not empty.
    fn add(&mut self, other: &Self) {
        if self.count == 0 {
            *self = *other;
            return;
        }
        if other.min < self.min {
            self.min = other.min;
        }
        if other.max > self.max {
            self.max = other.max;
        }
        if other.at > self.at || other.at == self.at && other.last > self.last {
            (self.at, self.last) = (other.at, other.last);
        }
        self.sum += other.sum;
        self.count += other.count;
    }

    fn when_known<T>(&self, value: T) -> Option<T> {
        (self.count > 0).then_some(value)
    }
}

#[derive(Debug)]
struct Levelled<V>(Vec<Level<V>>);

impl<V: Value> Column for Levelled<V> {
    fn grow(&mut self, groups: usize) {
        self.0.resize(groups, Level::NONE);
    }

    fn update(&mut self, values: &ArrayRef, times: &[i64], rows: &[usize], groups: &[usize]) -> Result<()> {
        let values = numbers::<V>(values)?;
        for &row in rows {
            if let Some(value) = known::<V>(values, row) {
                let one = Level { min: value, max: value, sum: value.as_f64(), last: value, at: times[row], count: 1 };
                self.0[groups[row]].add(&one);
            }
        }
        Ok(())
    }

    fn answer(&mut self, emit_to: EmitTo) -> Vec<ArrayRef> {
        let levels = emit_to.take_needed(&mut self.0);
        #[allow(clippy::cast_precision_loss, reason = "rows of one window are few")]
        let means: Float64Array = levels.iter().map(|l| l.when_known(l.sum / l.count as f64)).collect();
        vec![
            array::<V>(levels.iter().map(|l| l.when_known(l.min))),
            array::<V>(levels.iter().map(|l| l.when_known(l.max))),
            Arc::new(means),
            array::<V>(levels.iter().map(|l| l.when_known(l.last))),
            Arc::new(levels.iter().map(|l| l.count).collect::<Int64Array>()),
        ]
    }

    fn state(&mut self, emit_to: EmitTo) -> Vec<ArrayRef> {
        let levels = emit_to.take_needed(&mut self.0);
        vec![
            array::<V>(levels.iter().map(|l| Some(l.min))),
            array::<V>(levels.iter().map(|l| Some(l.max))),
            array::<f64>(levels.iter().map(|l| Some(l.sum))),
            array::<V>(levels.iter().map(|l| Some(l.last))),
            array::<i64>(levels.iter().map(|l| Some(l.at))),
            array::<i64>(levels.iter().map(|l| Some(l.count))),
        ]
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[usize]) -> Result<()> {
        let [min, max, sum, last, at, count] = state else {
            return internal_err!("the state of a gauge came with {} columns", state.len());
        };
        let (min, max, last) = (numbers::<V>(min)?, numbers::<V>(max)?, numbers::<V>(last)?);
        let sum = numbers::<f64>(sum)?;
        let (at, count) = (integers(at)?, integers(count)?);
        for (row, group) in groups.iter().enumerate() {
            let level = Level {
                min: min.value(row),
                max: max.value(row),
                sum: sum.value(row),
                last: last.value(row),
                at: at.value(row),
                count: count.value(row),
            };
            if level.count > 0 {
                self.0[*group].add(&level);
            }
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.0.capacity() * size_of::<Level<V>>()
    }
}
