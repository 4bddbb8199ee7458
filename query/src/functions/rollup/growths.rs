//! Growth of counters from the last sample before the window on.
//!
//! Samples come in any order, and growth is a sum over neighbours in time, so those of the window are kept until all
//! have come; of those before it only the latest of each counter. All counters share one list of rows, which is put in
//! order once.

use std::fmt::Debug;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, PrimitiveArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Int64Type};
use datafusion::common::cast::as_list_array;
use datafusion::common::{Result, exec_datafusion_err, internal_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::{Arguments, Value, array, integers, known, numbers, passes, row_by_row, structure};

/// Begin of the window; then for each group a list of times, and of each counter a list of values.
pub(super) fn state_types(values: &[DataType]) -> Vec<DataType> {
    let lists = std::iter::once(&DataType::Int64).chain(values);
    std::iter::once(DataType::Int64).chain(lists.map(list_type)).collect()
}

fn list_type(item: &DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item.clone(), true)))
}

/// A row of the window: of which group, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    group: usize,
    at: i64,
}

#[derive(Debug)]
pub(super) struct Growths {
    fields: Fields,
    types: Vec<DataType>,
    start: Option<i64>,
    groups: usize,
    rows: Vec<Row>,
    columns: Vec<Box<dyn Column>>,
}

impl Growths {
    pub(super) fn new(fields: Fields, types: &[DataType]) -> Result<Self> {
        let column = |data_type: &DataType| -> Result<Box<dyn Column>> {
            Ok(match data_type {
                DataType::Int64 => Box::new(Counter::<i64>::default()),
                DataType::Float64 => Box::new(Counter::<f64>::default()),
                other => return internal_err!("counters were planned over {other}"),
            })
        };
        let columns = types.iter().map(column).collect::<Result<_>>()?;
        Ok(Self { fields, types: types.to_vec(), start: None, groups: 0, rows: Vec::new(), columns })
    }

    fn grow(&mut self, groups: usize) {
        self.groups = groups;
        self.columns.iter_mut().for_each(|column| column.grow(groups));
    }

    /// Takes rows of a batch: (row of the batch, group, time).
    fn take_rows(&mut self, values: &[ArrayRef], rows: &[(usize, Row)]) -> Result<()> {
        let Some(start) = self.start else { return Ok(()) };
        let (before, within): (Vec<_>, Vec<_>) = rows.iter().copied().partition(|(_, row)| row.at < start);
        for (column, values) in self.columns.iter_mut().zip(values) {
            column.take(values, &before, &within)?;
        }
        self.rows.extend(within.iter().map(|(_, row)| *row));
        Ok(())
    }

    /// The rows in the order of group and time.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        if !self.rows.is_sorted() {
            order.sort_unstable_by_key(|row| self.rows[*row]);
        }
        order
    }

    /// Takes the groups that are to be emitted out of this one.
    fn take(&mut self, emit_to: EmitTo) -> Result<Self> {
        let EmitTo::First(first) = emit_to else {
            let empty = Self::new(self.fields.clone(), &self.types)?;
            return Ok(std::mem::replace(self, empty));
        };
        let mut taken = Self::new(self.fields.clone(), &self.types)?;
        (taken.start, taken.groups) = (self.start, first);
        let leaves: Vec<bool> = self.rows.iter().map(|row| row.group < first).collect();
        let (leaving, mut staying): (Vec<Row>, Vec<Row>) = self.rows.iter().partition(|row| row.group < first);
        staying.iter_mut().for_each(|row| row.group -= first);
        taken.columns = self.columns.iter_mut().map(|column| column.split(first, &leaves)).collect();
        (taken.rows, self.rows) = (leaving, staying);
        self.groups -= first;
        Ok(taken)
    }
}

impl GroupsAccumulator for Growths {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let Some(Arguments { start, times, values }) = Arguments::of(values)? else { return Ok(()) };
        self.start = Some(start);
        let rows = times.iter().zip(group_indices).enumerate();
        let rows = rows.filter(|(row, _)| passes(opt_filter, *row));
        let rows: Vec<_> = rows.map(|(row, (at, group))| (row, Row { group: *group, at: *at })).collect();
        self.take_rows(values, &rows)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let taken = self.take(emit_to)?;
        let order = taken.order();
        let columns = taken.columns.iter().flat_map(|column| column.answer(&taken.rows, &order)).collect();
        structure(&self.fields, columns, taken.groups)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let taken = self.take(emit_to)?;
        // The latest samples before the window go as rows of their own, one for each time there is.
        let mut rows: Vec<(Row, Option<usize>)> = Vec::new();
        for column in &taken.columns {
            rows.extend(column.before().map(|row| (row, None)));
        }
        rows.sort_unstable();
        rows.dedup();
        rows.extend(taken.rows.iter().enumerate().map(|(at, row)| (*row, Some(at))));
        rows.sort_unstable();
        if i32::try_from(rows.len()).is_err() {
            return Err(exec_datafusion_err!("{} samples are too many for one step: ask for less time", rows.len()));
        }
        let mut lengths = vec![0; taken.groups];
        rows.iter().for_each(|(row, _)| lengths[row.group] += 1);
        let offsets = OffsetBuffer::from_lengths(lengths);
        let list = |item: ArrayRef| -> Result<ArrayRef> {
            let field = Arc::new(Field::new_list_field(item.data_type().clone(), true));
            Ok(Arc::new(ListArray::try_new(field, offsets.clone(), item, None)?))
        };
        let mut state: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![taken.start; taken.groups]))];
        state.push(list(Arc::new(rows.iter().map(|(row, _)| row.at).collect::<Int64Array>()))?);
        for column in &taken.columns {
            state.push(list(column.write(&rows))?);
        }
        Ok(state)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.grow(total_num_groups);
        let [start, times, values @ ..] = values else {
            return internal_err!("the state of counters came with {} columns", values.len());
        };
        self.start = self.start.or(integers(start)?.iter().flatten().next());
        let times = as_list_array(times)?;
        let all_times = times.values().as_primitive::<Int64Type>();
        let mut rows = Vec::with_capacity(all_times.len());
        for (list, group) in group_indices.iter().enumerate() {
            for row in range(times, list) {
                rows.push((row, Row { group: *group, at: all_times.value(row) }));
            }
        }
        let items = values.iter().map(|column| Ok(Arc::clone(as_list_array(column)?.values())));
        self.take_rows(&items.collect::<Result<Vec<_>>>()?, &rows)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        row_by_row(Growths::new(self.fields.clone(), &self.types)?, values, opt_filter)
    }

    fn size(&self) -> usize {
        size_of_val(self)
            + self.rows.capacity() * size_of::<Row>()
            + self.columns.iter().map(|column| column.size()).sum::<usize>()
    }
}

fn range(list: &ListArray, row: usize) -> std::ops::Range<usize> {
    let at = |row: usize| usize::try_from(list.value_offsets()[row]).unwrap_or(0);
    at(row)..at(row + 1)
}

/// One counter of every group.
trait Column: Debug + Send + Sync {
    fn grow(&mut self, groups: usize);
    fn take(&mut self, values: &ArrayRef, before: &[(usize, Row)], within: &[(usize, Row)]) -> Result<()>;
    fn split(&mut self, first: usize, leaves: &[bool]) -> Box<dyn Column>;
    fn answer(&self, rows: &[Row], order: &[usize]) -> Vec<ArrayRef>;
    /// Group and time of the samples before the window.
    fn before(&self) -> Box<dyn Iterator<Item = Row> + '_>;
    /// Values of rows: of those of the window by their number, and of the one before it.
    fn write(&self, rows: &[(Row, Option<usize>)]) -> ArrayRef;
    fn size(&self) -> usize;
}

#[derive(Debug, Default)]
struct Counter<V> {
    /// The latest sample before the window, of each group.
    before: Vec<Option<(i64, V)>>,
    /// One for each row of the window.
    values: Vec<Option<V>>,
}

impl<V: Value> Counter<V> {
    fn note_before(&mut self, row: Row, value: V) {
        let before = &mut self.before[row.group];
        match before {
            Some((at, _)) if row.at < *at => {}
            Some((at, largest)) if row.at == *at => {
                if value > *largest {
                    *largest = value;
                }
            }
            _ => *before = Some((row.at, value)),
        }
    }
}

/// What a counter did in a window.
#[derive(Debug, Clone, Copy)]
struct Growth<V: Value> {
    total: V::Total,
    has_grown: bool,
    /// The value at the time before the one that is open.
    settled: Option<V>,
    open: Option<(i64, V)>,
    count: i64,
}

impl<V: Value> Growth<V> {
    fn from(before: Option<V>) -> Self {
        Self { total: V::Total::default(), has_grown: false, settled: before, open: None, count: 0 }
    }

    /// The next sample, no earlier than the one before.
    fn push(&mut self, at: i64, value: V) {
        self.count += 1;
        match &mut self.open {
            Some((open, largest)) if *open == at => {
                if value > *largest {
                    *largest = value;
                }
            }
            _ => {
                self.settle();
                self.open = Some((at, value));
            }
        }
    }

    fn settle(&mut self) {
        if let Some((_, value)) = self.open.take() {
            if let Some(before) = self.settled {
                self.total += V::growth(before, value);
                self.has_grown = true;
            }
            self.settled = Some(value);
        }
    }

    /// Growth, last value, and samples.
    fn end(mut self) -> (Option<V>, Option<V>, i64) {
        self.settle();
        if self.count == 0 {
            return (None, None, 0);
        }
        (self.has_grown.then(|| V::of(self.total)), self.settled, self.count)
    }
}

impl<V: Value> Column for Counter<V> {
    fn grow(&mut self, groups: usize) {
        self.before.resize(groups, None);
    }

    fn take(&mut self, values: &ArrayRef, before: &[(usize, Row)], within: &[(usize, Row)]) -> Result<()> {
        let values: &PrimitiveArray<V::Arrow> = numbers::<V>(values)?;
        for (row, place) in before {
            if let Some(value) = known::<V>(values, *row) {
                self.note_before(*place, value);
            }
        }
        self.values.extend(within.iter().map(|(row, _)| known::<V>(values, *row)));
        Ok(())
    }

    fn split(&mut self, first: usize, leaves: &[bool]) -> Box<dyn Column> {
        let before = EmitTo::First(first).take_needed(&mut self.before);
        let (mut leaving, mut staying) = (Vec::new(), Vec::new());
        for (value, leaves) in self.values.drain(..).zip(leaves) {
            if *leaves { leaving.push(value) } else { staying.push(value) }
        }
        self.values = staying;
        Box::new(Self { before, values: leaving })
    }

    fn answer(&self, rows: &[Row], order: &[usize]) -> Vec<ArrayRef> {
        let groups = self.before.len();
        let mut ends = vec![(None, None, 0); groups];
        for series in order.chunk_by(|a, b| rows[*a].group == rows[*b].group) {
            let group = rows[series[0]].group;
            let mut growth = Growth::from(self.before[group].map(|(_, value)| value));
            for row in series {
                if let Some(value) = self.values[*row] {
                    growth.push(rows[*row].at, value);
                }
            }
            ends[group] = growth.end();
        }
        vec![
            array::<V>(ends.iter().map(|end| end.0)),
            array::<V>(ends.iter().map(|end| end.1)),
            array::<i64>(ends.iter().map(|end| Some(end.2))),
        ]
    }

    fn before(&self) -> Box<dyn Iterator<Item = Row> + '_> {
        let known = self.before.iter().enumerate();
        Box::new(known.filter_map(|(group, before)| before.map(|(at, _)| Row { group, at })))
    }

    fn write(&self, rows: &[(Row, Option<usize>)]) -> ArrayRef {
        array::<V>(rows.iter().map(|(row, number)| match number {
            Some(number) => self.values[*number],
            None => self.before[row.group].filter(|(at, _)| *at == row.at).map(|(_, value)| value),
        }))
    }

    fn size(&self) -> usize {
        self.before.capacity() * size_of::<Option<(i64, V)>>() + self.values.capacity() * size_of::<Option<V>>()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Float64Array, StructArray, TimestampMicrosecondArray};
    use datafusion::arrow::datatypes::Float64Type;

    use super::*;

    /// Group, time, a counter of integers, one of doubles. The window begins at 100.
    type Sample = (usize, i64, Option<i64>, Option<f64>);

    const SAMPLES: [Sample; 9] = [
        (1, 120, Some(7), Some(1.5)),
        (0, 90, Some(10), None),
        (0, 80, Some(8), Some(4.0)),
        (0, 110, Some(15), Some(5.0)),
        (2, 130, Some(3), Some(f64::NAN)),
        (1, 110, Some(9), Some(0.5)),
        (0, 130, Some(4), Some(7.0)),
        (0, 120, None, Some(f64::INFINITY)),
        (3, 50, Some(1), Some(1.0)),
    ];

    fn fresh() -> Growths {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let of = |own: DataType, n: usize| {
            [
                field(&format!("increase{n}"), own.clone()),
                field(&format!("last{n}"), own),
                field(&format!("count{n}"), DataType::Int64),
            ]
        };
        let fields: Vec<Field> = of(DataType::Int64, 0).into_iter().chain(of(DataType::Float64, 1)).collect();
        Growths::new(fields.into(), &[DataType::Int64, DataType::Float64]).unwrap()
    }

    fn update(growths: &mut Growths, samples: &[Sample], groups: usize) {
        let columns: [ArrayRef; 4] = [
            Arc::new(TimestampMicrosecondArray::from(vec![100; samples.len()])),
            Arc::new(samples.iter().map(|s| Some(s.1)).collect::<TimestampMicrosecondArray>()),
            Arc::new(samples.iter().map(|s| s.2).collect::<Int64Array>()),
            Arc::new(samples.iter().map(|s| s.3).collect::<Float64Array>()),
        ];
        let indices: Vec<usize> = samples.iter().map(|s| s.0).collect();
        growths.update_batch(&columns, &indices, None, groups).unwrap();
    }

    type Answer = ((Option<i64>, Option<i64>, i64), (Option<f64>, Option<f64>, i64));

    fn answers(growths: &mut Growths, emit_to: EmitTo) -> Vec<Answer> {
        let answer = growths.evaluate(emit_to).unwrap();
        let answer: &StructArray = answer.as_struct();
        let int = |column: usize, row: usize| {
            let column = answer.column(column).as_primitive::<Int64Type>();
            column.is_valid(row).then(|| column.value(row))
        };
        let float = |column: usize, row: usize| {
            let column = answer.column(column).as_primitive::<Float64Type>();
            column.is_valid(row).then(|| column.value(row))
        };
        (0..answer.len())
            .map(|row| {
                let whole = (int(0, row), int(1, row), int(2, row).unwrap());
                (whole, (float(3, row), float(4, row), int(5, row).unwrap()))
            })
            .collect()
    }

    fn right() -> Vec<Answer> {
        vec![
            // 10 → 15, then anew: 4. And 4.0 → 5.0 → 7.0.
            ((Some(9), Some(4), 2), (Some(3.0), Some(7.0), 2)),
            ((Some(7), Some(7), 2), (Some(1.0), Some(1.5), 2)),
            ((None, Some(3), 1), (None, None, 0)),
            // Before the window only.
            ((None, None, 0), (None, None, 0)),
        ]
    }

    #[test]
    fn growth_is_counted_from_before_the_window() {
        let mut growths = fresh();
        update(&mut growths, &SAMPLES, 4);
        assert!(growths.size() > fresh().size());
        assert_eq!(answers(&mut growths, EmitTo::All), right());
        assert!(answers(&mut growths, EmitTo::All).is_empty());
    }

    #[test]
    fn the_first_groups_leave_and_the_rest_move_up() {
        let mut growths = fresh();
        update(&mut growths, &SAMPLES, 4);
        assert_eq!(answers(&mut growths, EmitTo::First(1)), right()[..1]);
        // What was group 1 is group 0 now, and goes on growing.
        update(&mut growths, &[(0, 140, Some(8), Some(2.5))], 3);
        let mut rest = right().split_off(1);
        rest[0] = ((Some(8), Some(8), 3), (Some(2.0), Some(2.5), 3));
        assert_eq!(answers(&mut growths, EmitTo::All), rest);
    }

    #[test]
    fn states_merge_into_the_same_answer() {
        for cut in 0..=SAMPLES.len() {
            let (one, other) = SAMPLES.split_at(cut);
            let mut whole = fresh();
            for part in [one, other] {
                let mut growths = fresh();
                update(&mut growths, part, 4);
                let state = growths.state(EmitTo::All).unwrap();
                whole.merge_batch(&state, &[0, 1, 2, 3], 4).unwrap();
            }
            assert_eq!(answers(&mut whole, EmitTo::All), right(), "cut at {cut}");
        }
        // And row by row.
        let mut whole = fresh();
        update(&mut whole, &[], 4);
        for sample in SAMPLES {
            let mut growths = fresh();
            update(&mut growths, &[(0, sample.1, sample.2, sample.3)], 1);
            let state = growths.state(EmitTo::All).unwrap();
            whole.merge_batch(&state, &[sample.0], 4).unwrap();
        }
        assert_eq!(answers(&mut whole, EmitTo::All), right());
    }
}
