//! The samples of many series at once, for `GROUP BY`.
//!
//! All groups share one flat vector of (group, time, value), which is sorted when answers are wanted. That is one
//! allocation to grow and one number to report to the memory pool, however many groups there are.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, Float64Array};
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::fold::{Fold, Measure, Reading, Sample};
use super::samples::{read_columns, read_lists, write_lists};

#[derive(Debug, Clone, Copy)]
struct Entry<V> {
    group: usize,
    sample: Sample<V>,
}

#[derive(Debug)]
pub(super) struct GroupedSamples<V> {
    measure: Measure,
    groups: usize,
    entries: Vec<Entry<V>>,
}

fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

impl<V: Reading> GroupedSamples<V> {
    pub(super) fn new(measure: Measure) -> Self {
        Self { measure, groups: 0, entries: Vec::new() }
    }

    /// Takes the groups that are to be emitted: how many there are, and their entries in the order of group and time.
    fn take(&mut self, emit_to: EmitTo) -> (usize, Vec<Entry<V>>) {
        let (groups, mut entries) = match emit_to {
            EmitTo::All => (std::mem::take(&mut self.groups), std::mem::take(&mut self.entries)),
            EmitTo::First(groups) => {
                let entries: Vec<_> = self.entries.extract_if(.., |entry| entry.group < groups).collect();
                self.groups -= groups;
                for entry in &mut self.entries {
                    entry.group -= groups;
                }
                (groups, entries)
            }
        };
        entries.sort_unstable_by_key(|entry| (entry.group, entry.sample.at));
        (groups, entries)
    }
}

impl<V: Reading> GroupsAccumulator for GroupedSamples<V> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups = total_num_groups;
        read_columns(values, |row, sample| {
            if passes(opt_filter, row) {
                self.entries.push(Entry { group: group_indices[row], sample });
            }
        })
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let (groups, entries) = self.take(emit_to);
        let mut answers = vec![None; groups];
        for series in entries.chunk_by(|a, b| a.group == b.group) {
            answers[series[0].group] = self.measure.of(&Fold::over(series.iter().map(|entry| entry.sample)));
        }
        Ok(Arc::new(Float64Array::from(answers)))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let (groups, entries) = self.take(emit_to);
        let mut lengths = vec![0; groups];
        for entry in &entries {
            lengths[entry.group] += 1;
        }
        let [times, values] = write_lists(&lengths, entries.iter().map(|entry| entry.sample))?;
        Ok(vec![Arc::new(times), Arc::new(values)])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.groups = total_num_groups;
        read_lists(values, |row, sample| self.entries.push(Entry { group: group_indices[row], sample }))
    }

    // Every row becomes a group of its own, with one sample or none.
    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut lengths = vec![0; values[0].len()];
        let mut samples: Vec<Sample<V>> = Vec::with_capacity(lengths.len());
        read_columns(values, |row, sample| {
            if passes(opt_filter, row) {
                lengths[row] = 1;
                samples.push(sample);
            }
        })?;
        let [times, values] = write_lists(&lengths, samples.into_iter())?;
        Ok(vec![Arc::new(times), Arc::new(values)])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.entries.capacity() * size_of::<Entry<V>>()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, TimestampMicrosecondArray};

    use super::*;

    /// Rows of (group, time, value).
    const ROWS: [(usize, i64, Option<i64>); 8] = [
        (2, 20, Some(5)),
        (0, 10, Some(1)),
        (1, 10, Some(7)),
        (0, 30, Some(2)),
        (2, 10, Some(1)),
        (0, 20, Some(4)),
        (1, 20, None),
        (2, 30, Some(6)),
    ];

    fn columns() -> [ArrayRef; 2] {
        let values: Int64Array = ROWS.iter().map(|row| row.2).collect();
        let times: TimestampMicrosecondArray = ROWS.iter().map(|row| Some(row.1)).collect();
        [Arc::new(values), Arc::new(times)]
    }

    fn filled() -> GroupedSamples<i64> {
        let mut grouped = GroupedSamples::new(Measure::Increase);
        grouped.update_batch(&columns(), &ROWS.map(|row| row.0), None, 4).expect("is taken");
        grouped
    }

    fn answers(grouped: &mut GroupedSamples<i64>, emit_to: EmitTo) -> ArrayRef {
        grouped.evaluate(emit_to).expect("is answered")
    }

    fn floats(values: &[Option<f64>]) -> ArrayRef {
        Arc::new(Float64Array::from(values.to_vec()))
    }

    #[test]
    fn groups_without_growth_are_null() {
        let mut grouped = filled();
        assert_eq!(&answers(&mut grouped, EmitTo::All), &floats(&[Some(5.0), None, Some(5.0), None]));
        assert_eq!(answers(&mut grouped, EmitTo::All).len(), 0, "All leaves nothing");
    }

    #[test]
    fn the_first_groups_leave_and_the_rest_move_up() {
        let mut grouped = filled();
        assert_eq!(&answers(&mut grouped, EmitTo::First(2)), &floats(&[Some(5.0), None]));
        // What was group 2 is group 0 now, and goes on growing.
        let more: [ArrayRef; 2] =
            [Arc::new(Int64Array::from(vec![9])), Arc::new(TimestampMicrosecondArray::from(vec![40]))];
        grouped.update_batch(&more, &[0], None, 2).expect("is taken");
        assert_eq!(&answers(&mut grouped, EmitTo::All), &floats(&[Some(8.0), None]));
    }

    #[test]
    fn a_state_merges_into_the_same_answer() {
        let state = filled().state(EmitTo::All).expect("is written");
        let mut grouped = GroupedSamples::new(Measure::Increase);
        // The four groups come together as two.
        grouped.merge_batch(&state, &[1, 0, 0, 1], 2).expect("is read");
        assert_eq!(&answers(&mut grouped, EmitTo::All), &floats(&[Some(6.0), Some(5.0)]));
    }

    #[test]
    fn a_filter_holds_in_every_phase() {
        // Known only where true: NULL filters out as false does.
        let filter: BooleanArray =
            [Some(true), Some(true), None, Some(false), Some(true), Some(true), Some(true), Some(false)]
                .into_iter()
                .collect();
        let groups = ROWS.map(|row| row.0);
        let mut direct = GroupedSamples::<i64>::new(Measure::Increase);
        direct.update_batch(&columns(), &groups, Some(&filter), 3).expect("is taken");
        let rows = direct.convert_to_state(&columns(), Some(&filter)).expect("is converted");
        assert_eq!(rows[0].len(), ROWS.len());
        let mut converted = GroupedSamples::<i64>::new(Measure::Increase);
        converted.merge_batch(&rows, &groups, 3).expect("is read");
        let expected = floats(&[Some(3.0), None, Some(4.0)]);
        assert_eq!(&answers(&mut direct, EmitTo::All), &expected);
        assert_eq!(&answers(&mut converted, EmitTo::All), &expected);
    }

    #[test]
    fn size_counts_the_entries() {
        let empty = GroupedSamples::<i64>::new(Measure::Increase).size();
        assert!(filled().size() >= empty + 7 * 24);
    }
}
