//! The samples of one series: a whole table's, or a window's.
//!
//! Also how samples leave and enter Arrow: read from the two argument columns, and written as two lists per group when
//! a partial answer travels from one stage of a plan to the next.

use std::collections::VecDeque;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array, ListArray, PrimitiveArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{ArrowNativeType, ArrowPrimitiveType, DataType, Field, Int64Type};
use datafusion::common::cast::{as_list_array, as_primitive_array, as_timestamp_microsecond_array};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, internal_err};
use datafusion::logical_expr::Accumulator;

use super::fold::{Fold, Measure, Reading, Sample};

/// Hands every known sample of the columns (value, time) to `take`, with its row.
pub(super) fn read_columns<V: Reading>(columns: &[ArrayRef], mut take: impl FnMut(usize, Sample<V>)) -> Result<()> {
    let [values, times] = columns else {
        return internal_err!("a counter came with {} columns, not its value and its time", columns.len());
    };
    let values = as_primitive_array::<V::Arrow>(values)?;
    let times = as_timestamp_microsecond_array(times)?;
    for row in 0..values.len() {
        if values.is_valid(row) && times.is_valid(row) {
            let value = values.value(row);
            if value.is_known() {
                take(row, Sample { at: times.value(row), value });
            }
        }
    }
    Ok(())
}

/// A list of `item`, as the state of a group is declared and written.
pub(super) fn list_type(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

/// Writes samples as a list of times and a list of values per group; `lengths` says how many each group has.
///
/// # Errors
///
/// If the samples of all groups are more than one Arrow list can count.
pub(super) fn write_lists<V: Reading>(
    lengths: &[usize],
    samples: impl ExactSizeIterator<Item = Sample<V>>,
) -> Result<[ListArray; 2]> {
    if i32::try_from(samples.len()).is_err() {
        return Err(exec_datafusion_err!("{} samples are too many for one step: ask for less time", samples.len()));
    }
    let (times, values): (Vec<i64>, Vec<V>) = samples.map(|sample| (sample.at, sample.value)).unzip();
    let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
    let list = |item: DataType, values: ArrayRef| {
        ListArray::try_new(Arc::new(Field::new_list_field(item, true)), offsets.clone(), values, None)
    };
    let values = PrimitiveArray::<V::Arrow>::from_iter_values(values);
    Ok([list(DataType::Int64, Arc::new(Int64Array::from(times)))?, list(V::Arrow::DATA_TYPE, Arc::new(values))?])
}

/// Hands every sample that [`write_lists`] wrote to `take`, with its row.
pub(super) fn read_lists<V: Reading>(states: &[ArrayRef], mut take: impl FnMut(usize, Sample<V>)) -> Result<()> {
    let [times, values] = states else {
        return internal_err!("a counter's state came with {} columns, not its times and its values", states.len());
    };
    let (times, values) = (as_list_array(times)?, as_list_array(values)?);
    let all_times = as_primitive_array::<Int64Type>(times.values())?.values();
    let all_values = as_primitive_array::<V::Arrow>(values.values())?.values();
    for row in 0..times.len() {
        if times.is_null(row) || values.is_null(row) {
            continue;
        }
        let times = &all_times[slice_of(times, row)];
        let values = &all_values[slice_of(values, row)];
        if times.len() != values.len() {
            return internal_err!("a counter's state has {} times and {} values", times.len(), values.len());
        }
        for (&at, &value) in times.iter().zip(values) {
            take(row, Sample { at, value });
        }
    }
    Ok(())
}

fn slice_of(list: &ListArray, row: usize) -> std::ops::Range<usize> {
    let offsets = list.value_offsets();
    offsets[row].as_usize()..offsets[row + 1].as_usize()
}

/// The accumulator of one series.
///
/// A window takes samples away in the order in which they came, which need not be the order of time; so one that
/// slides keeps them as they came and sorts a copy, and only where it must.
#[derive(Debug)]
pub(super) struct Samples<V> {
    measure: Measure,
    slides: bool,
    samples: VecDeque<Sample<V>>,
}

impl<V: Reading> Samples<V> {
    pub(super) fn new(measure: Measure, slides: bool) -> Self {
        Self { measure, slides, samples: VecDeque::new() }
    }
}

impl<V: Reading> Accumulator for Samples<V> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        read_columns(values, |_, sample| self.samples.push_back(sample))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let mut leaving = 0;
        read_columns::<V>(values, |_, _| leaving += 1)?;
        if leaving > self.samples.len() {
            return internal_err!("{leaving} samples were to leave a window of {}", self.samples.len());
        }
        self.samples.drain(..leaving);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        self.slides
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let samples = self.samples.make_contiguous();
        let fold = if samples.is_sorted_by_key(|sample| sample.at) {
            Fold::over(samples.iter().copied())
        } else if self.slides {
            let mut sorted = samples.to_vec();
            sorted.sort_unstable_by_key(|sample| sample.at);
            Fold::over(sorted)
        } else {
            samples.sort_unstable_by_key(|sample| sample.at);
            Fold::over(samples.iter().copied())
        };
        Ok(ScalarValue::Float64(self.measure.of(&fold)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.samples.capacity() * size_of::<Sample<V>>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let lists = write_lists(&[self.samples.len()], self.samples.iter().copied())?;
        Ok(lists.map(|list| ScalarValue::List(Arc::new(list))).into())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        read_lists(states, |_, sample| self.samples.push_back(sample))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::TimestampMicrosecondArray;

    use super::*;

    fn columns(rows: &[(i64, Option<i64>)]) -> [ArrayRef; 2] {
        let values: Int64Array = rows.iter().map(|row| row.1).collect();
        let times: TimestampMicrosecondArray = rows.iter().map(|row| Some(row.0)).collect();
        [Arc::new(values), Arc::new(times.with_timezone("UTC"))]
    }

    fn increase(samples: &mut Samples<i64>) -> ScalarValue {
        samples.evaluate().expect("never fails")
    }

    #[test]
    fn a_window_gives_back_what_it_took() {
        // Against the order of time, so that sorting in place would retract the wrong samples.
        let rows = [(50, Some(9)), (40, None), (30, Some(4)), (20, Some(3)), (10, Some(1))];
        let mut window = Samples::<i64>::new(Measure::Increase, true);
        window.update_batch(&columns(&rows)).expect("is taken");
        assert_eq!(increase(&mut window), ScalarValue::Float64(Some(8.0)));
        window.retract_batch(&columns(&rows[..2])).expect("is given back");
        assert_eq!(increase(&mut window), ScalarValue::Float64(Some(3.0)));
        window.retract_batch(&columns(&rows[2..4])).expect("is given back");
        assert_eq!(increase(&mut window), ScalarValue::Float64(None));
        assert!(window.retract_batch(&columns(&rows)).is_err(), "more than there is");
    }

    #[test]
    fn a_state_carries_every_sample() {
        let rows = [(30, Some(4)), (10, Some(1)), (20, None)];
        let mut part = Samples::<i64>::new(Measure::Increase, false);
        part.update_batch(&columns(&rows)).expect("is taken");
        let state: Vec<ArrayRef> =
            part.state().expect("is written").iter().map(|list| list.to_array().expect("a list is an array")).collect();
        assert_eq!(state[0].data_type(), &list_type(DataType::Int64));
        let mut whole = Samples::<i64>::new(Measure::Increase, false);
        whole.merge_batch(&state).expect("is read");
        whole.update_batch(&columns(&[(40, Some(2))])).expect("is taken");
        assert_eq!(increase(&mut whole), ScalarValue::Float64(Some(5.0)));
    }

    #[test]
    fn size_counts_the_samples() {
        let mut samples = Samples::<i64>::new(Measure::Rate, false);
        let empty = samples.size();
        let rows: Vec<_> = (0..1_000).map(|at| (at, Some(at))).collect();
        samples.update_batch(&columns(&rows)).expect("is taken");
        assert!(samples.size() >= empty + 1_000 * 16, "{} bytes", samples.size());
    }
}
