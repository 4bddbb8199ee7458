//! The values of the latest row: where the row is, until somebody wants to see it.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, new_null_array};
use datafusion::arrow::compute::interleave;
use datafusion::arrow::datatypes::{DataType, Fields};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::{Arguments, integers, passes, row_by_row, structure};

/// Batches kept before the rows that count are copied out of them.
const MOST_BATCHES: usize = 64;

/// Time of the latest row, and the values themselves.
pub(super) fn state_types(values: &[DataType]) -> Vec<DataType> {
    std::iter::once(DataType::Int64).chain(values.iter().cloned()).collect()
}

/// Where a group's latest row is: in which batch, in which row of it.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: i64,
    batch: usize,
    row: usize,
}

/// A group without a row: the first batch is one row of NULLs.
const NOWHERE: Place = Place { at: i64::MIN, batch: 0, row: 0 };

#[derive(Debug)]
pub(super) struct Latest {
    fields: Fields,
    places: Vec<Place>,
    batches: Vec<Vec<ArrayRef>>,
    bytes: usize,
}

impl Latest {
    pub(super) fn new(fields: Fields) -> Self {
        let nulls = fields.iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        Self { fields, places: Vec::new(), batches: vec![nulls], bytes: 0 }
    }

    fn take_rows(
        &mut self,
        values: &[ArrayRef],
        rows: impl Iterator<Item = (usize, usize, i64)>,
        groups: usize,
    ) -> Result<()> {
        self.places.resize(groups, NOWHERE);
        let batch = self.batches.len();
        let mut is_wanted = false;
        for (row, group, at) in rows {
            if self.places[group].batch == 0 || at > self.places[group].at {
                self.places[group] = Place { at, batch, row };
                is_wanted = true;
            }
        }
        if is_wanted {
            let sizes = values.iter().map(|column| column.to_data().get_slice_memory_size());
            self.bytes += sizes.sum::<Result<usize, _>>()?;
            self.batches.push(values.to_vec());
            if self.batches.len() > MOST_BATCHES {
                self.compact()?;
            }
        }
        Ok(())
    }

    /// Copies the rows that count into one batch and lets go of the rest.
    fn compact(&mut self) -> Result<()> {
        let rows = self.rows(&self.places)?;
        let nulls = self.batches.swap_remove(0);
        self.bytes = rows.iter().map(Array::get_array_memory_size).sum();
        self.batches = vec![nulls, rows];
        for (row, place) in self.places.iter_mut().enumerate() {
            if place.batch > 0 {
                (place.batch, place.row) = (1, row);
            }
        }
        Ok(())
    }

    fn rows(&self, places: &[Place]) -> Result<Vec<ArrayRef>> {
        let at: Vec<(usize, usize)> = places.iter().map(|place| (place.batch, place.row)).collect();
        let column = |n: usize| {
            let of_batches: Vec<&dyn Array> = self.batches.iter().map(|batch| batch[n].as_ref()).collect();
            Ok(interleave(&of_batches, &at)?)
        };
        (0..self.fields.len()).map(column).collect()
    }

    /// Takes the groups that are to be emitted: their places and their rows.
    fn take(&mut self, emit_to: EmitTo) -> Result<(Vec<Place>, Vec<ArrayRef>)> {
        let places = emit_to.take_needed(&mut self.places);
        let rows = self.rows(&places)?;
        if self.places.is_empty() {
            self.batches.truncate(1);
            self.bytes = 0;
        }
        Ok((places, rows))
    }
}

impl GroupsAccumulator for Latest {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let Some(Arguments { start, times, values }) = Arguments::of(values)? else {
            return self.take_rows(&[], std::iter::empty(), total_num_groups);
        };
        let rows = times.iter().zip(group_indices).enumerate();
        let rows = rows.filter(|(row, (at, _))| **at >= start && passes(opt_filter, *row));
        self.take_rows(values, rows.map(|(row, (at, group))| (row, *group, *at)), total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let (places, rows) = self.take(emit_to)?;
        structure(&self.fields, rows, places.len())
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let (places, rows) = self.take(emit_to)?;
        let times: Int64Array = places.iter().map(|place| (place.batch > 0).then_some(place.at)).collect();
        Ok(std::iter::once(Arc::new(times) as ArrayRef).chain(rows).collect())
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        let Some((times, values)) = values.split_first() else { return plan_err!("a state without columns") };
        let times = integers(times)?;
        let rows = times.iter().zip(group_indices).enumerate();
        let rows = rows.filter_map(|(row, (at, group))| Some((row, *group, at?)));
        self.take_rows(values, rows, total_num_groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        row_by_row(Latest::new(self.fields.clone()), values, opt_filter)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.places.capacity() * size_of::<Place>() + self.bytes
    }
}
