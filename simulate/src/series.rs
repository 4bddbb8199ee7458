//! The heart of the simulation: values over time as *pieces*.
//!
//! A series is one entity of one table: an accelerator, a port, a host's memory. Its time is cut into pieces in which
//! nothing changes its course: no job begins or ends, nothing fails, and the hour is the same. Within a piece a gauge is
//! a level with a small wave of one minute on it, and a counter rises at a constant rate. So
//!
//! - the row of any moment follows from its piece alone, whoever asks and in whatever order;
//! - the rollup of any window is a sum over few pieces, in which whole minutes cost nothing: thirty days of hours are
//!   made without ever making the seconds, and are yet what the seconds would have given;
//! - counters agree with gauges: energy is the integral of power, since the wave's mean is zero.
//!
//! All floats are multiples of 1/1024 (see [`crate::chance::exact`]), so that sums are exact in any order.

use crate::sheet::{Datum, Sheet};

/// The wave: sixty seconds, mean zero. Deliberately uneven, so that its quarters differ.
const WAVE: [i8; 60] = [
    0, 2, 3, 5, 4, 6, 7, 5, 6, 8, 6, 5, 7, 4, 3, 4, 2, 1, 2, 0, -1, -2, 0, -3, -2, -4, -3, -5, -6, -4, -5, -6, -5, -8,
    -5, -6, -4, -5, -4, -5, -3, -4, -2, -3, -1, -2, 1, -1, 2, 0, 3, 1, 4, 2, 1, 3, 0, 2, -1, 1,
];

/// How a column goes within a piece.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell {
    /// Nobody knows.
    Null,
    /// A gauge: `base + swing × wave`. `shift` moves the wave by seconds.
    Level {
        /// The mean.
        base: f64,
        /// A step of the wave, which has up to eight each way.
        swing: f64,
        /// Seconds.
        shift: u8,
    },
    /// The same in whole numbers.
    Whole {
        /// The mean.
        base: i64,
        /// A step of the wave.
        swing: i64,
        /// Seconds.
        shift: u8,
    },
    /// A counter: `start + rate × seconds`.
    Sum {
        /// At the piece's begin.
        start: f64,
        /// Per second.
        rate: f64,
    },
    /// The same in whole numbers, at a rate in thousandths per second.
    Count {
        /// At the piece's begin.
        start: i64,
        /// Per thousand seconds.
        rate: i64,
    },
    /// A counter of one of the names that a map has, in whole numbers.
    Lane {
        /// Which.
        name: &'static str,
        /// At the piece's begin.
        start: i64,
        /// Per thousand seconds.
        rate: i64,
    },
    /// A gauge that rises: an age, a time since.
    Rising {
        /// At the piece's begin.
        start: f64,
        /// Per second.
        rate: f64,
    },
    /// A state.
    Text(&'static str),
    /// A state.
    Bool(bool),
    /// A state that is a number, or a label.
    State(i64),
    /// A time, microseconds since 1970.
    Time(i64),
}

impl Cell {
    /// A gauge that does not move.
    pub fn level(base: f64) -> Self {
        Self::Level { base, swing: 0.0, shift: 0 }
    }

    /// A whole gauge that does not move.
    pub fn whole(base: i64) -> Self {
        Self::Whole { base, swing: 0, shift: 0 }
    }

    /// A counter that rises by so many whole ones a second.
    pub fn counted(start: i64, rate: i64) -> Self {
        Self::Count { start, rate: rate * 1000 }
    }

    /// A cell that is NULL where the driver does not tell.
    #[must_use]
    pub fn told(self, is_told: bool) -> Self {
        if is_told { self } else { Self::Null }
    }

    /// A counter as the only one in a map, under this name.
    #[must_use]
    pub fn lane(self, name: &'static str) -> Self {
        if let Self::Count { start, rate } = self { Self::Lane { name, start, rate } } else { self }
    }

    /// The value `seconds` after the piece's begin, at `at` seconds since 1970.
    pub fn at(self, from: i64, at: i64) -> Datum<'static> {
        #[allow(clippy::cast_precision_loss, reason = "a piece is an hour at the longest")]
        match self {
            Self::Null => Datum::Null,
            Self::Level { base, swing, shift } => Datum::Float(base + swing * f64::from(wave(at, shift))),
            Self::Whole { base, swing, shift } => Datum::Int(base + swing * i64::from(wave(at, shift))),
            Self::Sum { start, rate } | Self::Rising { start, rate } => Datum::Float(start + rate * (at - from) as f64),
            Self::Count { start, rate } => Datum::Int(start + rate * (at - from) / 1000),
            Self::Lane { name, start, rate } => Datum::Number(name, start + rate * (at - from) / 1000),
            Self::Text(text) => Datum::Text(text),
            Self::Bool(is) => Datum::Bool(is),
            Self::State(number) => Datum::Int(number),
            Self::Time(micros) => Datum::Time(micros),
        }
    }
}

/// The wave at a second.
pub(crate) fn wave(at: i64, shift: u8) -> i8 {
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a remainder of 60")]
    WAVE[(at + i64::from(shift)).rem_euclid(60) as usize]
}

/// A stretch in which nothing changes its course.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// First second.
    pub from: i64,
    /// First second after it.
    pub to: i64,
    /// Whether rows come: the host is up, its agent speaks, the device is there.
    pub seen: bool,
    /// By column of the layout.
    pub cells: Vec<Cell>,
}

impl Piece {
    /// First tick at or after `from` of this piece that `every` makes, and the last one before its end.
    fn ticks(&self, every: i64, from: i64, to: i64) -> Option<(i64, i64)> {
        let (from, to) = (self.from.max(from), self.to.min(to));
        let first = from.div_euclid(every) * every + if from.rem_euclid(every) == 0 { 0 } else { every };
        let last = (to - 1).div_euclid(every) * every;
        (self.seen && first <= last && first < to).then_some((first, last))
    }
}

/// A constant of an entity.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// A text.
    Text(String),
    /// A number.
    Int(i64),
    /// A yes or no.
    Bool(bool),
    /// A time, microseconds since 1970.
    Time(i64),
    /// Nobody knows.
    Null,
}

impl Label {
    /// As a value.
    pub fn datum(&self) -> Datum<'_> {
        match self {
            Self::Text(text) => Datum::Text(text),
            Self::Int(number) => Datum::Int(*number),
            Self::Bool(is) => Datum::Bool(*is),
            Self::Time(micros) => Datum::Time(*micros),
            Self::Null => Datum::Null,
        }
    }
}

impl From<&str> for Label {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Label {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Label {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

/// Columns of a kind of series.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// The table.
    pub table: &'static str,
    /// Columns that are constant for an entity, those of the entity first.
    pub labels: &'static [&'static str],
    /// Columns that move.
    pub cells: &'static [&'static str],
}

impl Layout {
    /// Names of all columns: labels, then cells.
    pub fn names(&self) -> Vec<&'static str> {
        self.labels.iter().chain(self.cells).copied().collect()
    }
}

/// Makes a series' pieces, one after the other and without gaps: from the fleet's begin to its horizon, or from when
/// something comes until it goes.
pub trait Course: Send {
    /// The next piece; `None` at the end.
    fn next_piece(&mut self) -> Option<Piece>;
}

/// One entity of one table, over time.
pub struct Series {
    /// Its columns.
    pub layout: &'static Layout,
    /// Index of its host.
    pub host: usize,
    /// Constants.
    pub labels: Vec<Label>,
    /// Seconds between rows.
    pub every: i64,
    course: Box<dyn Course>,
    piece: Option<Piece>,
}

impl Series {
    /// A series at its begin.
    pub fn new(layout: &'static Layout, host: usize, labels: Vec<Label>, every: i64, course: Box<dyn Course>) -> Self {
        debug_assert_eq!(layout.labels.len(), labels.len(), "{}", layout.table);
        Self { layout, host, labels, every, course, piece: None }
    }

    /// The piece that holds `at`, or the first one, if that begins later. Only ever forward.
    pub fn piece_at(&mut self, at: i64) -> Option<&Piece> {
        while self.piece.as_ref().is_none_or(|piece| piece.to <= at) {
            let next = self.course.next_piece()?;
            debug_assert!(next.cells.len() == self.layout.cells.len(), "{}", self.layout.table);
            debug_assert!(self.piece.as_ref().is_none_or(|p| p.to == next.from), "{} has a gap", self.layout.table);
            self.piece = Some(next);
        }
        self.piece.as_ref()
    }

    /// Appends the rows of `[from, to)` to a sheet made for [`Layout::names`].
    pub fn rows(&mut self, from: i64, to: i64, node: &str, host: &str, sheet: &mut Sheet) {
        let mut at = from;
        while at < to {
            let every = self.every;
            let labels = std::mem::take(&mut self.labels);
            let Some(piece) = self.piece_at(at) else {
                self.labels = labels;
                return;
            };
            let end = piece.to;
            if let Some((first, last)) = piece.ticks(every, at, to) {
                let mut tick = first;
                while tick <= last {
                    sheet.begin(tick * 1_000_000, node, host);
                    for (place, label) in labels.iter().enumerate() {
                        sheet.push(place, label.datum());
                    }
                    for (place, cell) in piece.cells.iter().enumerate() {
                        sheet.push(labels.len() + place, cell.at(piece.from, tick));
                    }
                    tick += every;
                }
            }
            self.labels = labels;
            at = end;
        }
    }
}

/// What a rollup keeps of a gauge in one window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaugeSum {
    /// Rows with a value.
    pub count: i64,
    /// Their sum, exact.
    pub sum: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The newest.
    pub last: f64,
}

impl GaugeSum {
    const EMPTY: Self = Self { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY, last: f64::NAN };

    /// The mean; `None` without rows.
    #[allow(clippy::cast_precision_loss, reason = "a window has few rows")]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// What a rollup keeps of a counter in one window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CounterSum {
    /// Rows with a value.
    pub count: i64,
    /// What was added from row to row; what is less than before began anew. `None` where no row had one before it.
    pub increase: Option<f64>,
    /// The newest value.
    pub last: f64,
}

/// One column of one window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rolled {
    /// Of a gauge.
    Gauge(GaugeSum),
    /// Of a counter.
    Counter(CounterSum),
    /// Of anything else, of which a rollup keeps nothing.
    Other,
}

/// One window of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Rows.
    pub samples: i64,
    /// By column of the layout.
    pub columns: Vec<Rolled>,
    /// What the last row says, by column of the layout: of states, which have no sum.
    pub last: Vec<Datum<'static>>,
}

/// What a counter stands at. Whole numbers stay whole: a month of a busy link is more than a double tells apart.
#[derive(Debug, Clone, Copy)]
enum Total {
    Whole(i64),
    Real(f64),
}

impl Total {
    #[allow(clippy::cast_precision_loss, reason = "what is shown of it is a double")]
    fn shown(self) -> f64 {
        match self {
            Self::Whole(value) => value as f64,
            Self::Real(value) => value,
        }
    }

    /// What was added since; all of it where the counter began anew.
    #[allow(clippy::cast_precision_loss, reason = "what is added from row to row is little")]
    fn since(self, before: Self) -> f64 {
        match (before, self) {
            (Self::Whole(before), Self::Whole(now)) => (if now >= before { now - before } else { now }) as f64,
            _ if self.shown() >= before.shown() => self.shown() - before.shown(),
            _ => self.shown(),
        }
    }
}

/// Rolls up a series, window after window.
pub struct Roller {
    /// Value and time of the newest row of each counter, and the time of the newest row.
    before: Vec<Option<(Total, i64)>>,
    /// So long before a minute begins a row is still looked for, seconds.
    reach: i64,
}

impl Roller {
    /// Nothing seen yet. What a counter grew by from a row that is older than `reach` seconds before the minute of the
    /// next one is in no window, as in the rules that make minutes.
    pub fn new(reach: i64) -> Self {
        Self { before: Vec::new(), reach }
    }

    /// With the reach that the rules have for a table sampled every so many seconds: six intervals, from one minute to
    /// five.
    pub fn of(every: i64) -> Self {
        Self::new((every * 6).clamp(60, 300))
    }

    /// Rolls up `[from, to)`. Windows are asked for in their order.
    pub fn window(&mut self, series: &mut Series, from: i64, to: i64) -> Window {
        let columns = series.layout.cells.len();
        self.before.resize(columns, None);
        let mut window = Window { samples: 0, columns: vec![Rolled::Other; columns], last: Vec::new() };
        let (every, mut at) = (series.every, from);
        while at < to {
            let Some(piece) = series.piece_at(at) else { break };
            if let Some((first, last)) = piece.ticks(every, at, to) {
                window.samples += (last - first) / every + 1;
                window.last.clear();
                window.last.extend(piece.cells.iter().map(|cell| cell.at(piece.from, last)));
                for (place, cell) in piece.cells.iter().enumerate() {
                    self.add(&mut window.columns[place], place, *cell, piece.from, (first, last, every));
                }
            }
            at = piece.to;
        }
        window
    }

    #[allow(clippy::cast_precision_loss, reason = "counters of a simulation stay below 2^53")]
    fn add(&mut self, into: &mut Rolled, place: usize, cell: Cell, from: i64, (first, last, every): (i64, i64, i64)) {
        match cell {
            Cell::Level { base, swing, shift } => add_gauge(into, base, swing, shift, first, last, every),
            Cell::Whole { base, swing, shift } => {
                add_gauge(into, base as f64, swing as f64, shift, first, last, every);
            }
            Cell::Sum { start, rate } => {
                let value = |at: i64| Total::Real(start + rate * (at - from) as f64);
                self.add_counter(into, place, (first, value(first)), (last, value(last)), every);
            }
            Cell::Count { start, rate } => {
                let value = |at: i64| Total::Whole(start + rate * (at - from) / 1000);
                self.add_counter(into, place, (first, value(first)), (last, value(last)), every);
            }
            Cell::Rising { start, rate } => {
                let value = |at: i64| start + rate * (at - from) as f64;
                let count = (last - first) / every + 1;
                let mut sum = match into {
                    Rolled::Gauge(sum) => *sum,
                    Rolled::Counter(_) | Rolled::Other => GaugeSum::EMPTY,
                };
                sum.count += count;
                sum.sum += (value(first) + value(last)) / 2.0 * count as f64;
                sum.min = sum.min.min(value(first)).min(value(last));
                sum.max = sum.max.max(value(first)).max(value(last));
                sum.last = value(last);
                *into = Rolled::Gauge(sum);
            }
            Cell::Null | Cell::Lane { .. } | Cell::Text(_) | Cell::Bool(_) | Cell::State(_) | Cell::Time(_) => {}
        }
    }

    fn add_counter(&mut self, into: &mut Rolled, place: usize, first: (i64, Total), last: (i64, Total), every: i64) {
        let before = self.before[place].replace((last.1, last.0));
        let mut increase = match before {
            Some((value, at)) if at >= first.0.div_euclid(60) * 60 - self.reach => Some(first.1.since(value)),
            _ => None,
        };
        if last.0 > first.0 {
            increase = Some(increase.unwrap_or(0.0) + last.1.since(first.1));
        }
        let count = (last.0 - first.0) / every + 1;
        *into = Rolled::Counter(match into {
            Rolled::Counter(sum) => CounterSum {
                count: sum.count + count,
                increase: match (sum.increase, increase) {
                    (Some(a), Some(b)) => Some(a + b),
                    (a, b) => a.or(b),
                },
                last: last.1.shown(),
            },
            Rolled::Gauge(_) | Rolled::Other => CounterSum { count, increase, last: last.1.shown() },
        });
    }
}

/// Adds the ticks from `first` to `last`: whole minutes at once, what remains one by one.
#[allow(clippy::cast_precision_loss, reason = "a window has few rows")]
fn add_gauge(into: &mut Rolled, base: f64, swing: f64, shift: u8, first: i64, last: i64, every: i64) {
    let mut sum = match into {
        Rolled::Gauge(sum) => *sum,
        Rolled::Counter(_) | Rolled::Other => GaugeSum::EMPTY,
    };
    let count = (last - first) / every + 1;
    sum.count += count;
    sum.sum += base * count as f64;
    if swing == 0.0 {
        sum.min = sum.min.min(base);
        sum.max = sum.max.max(base);
    } else {
        // Ticks of one minute; one where rows are a minute or more apart, as all are whole minutes then.
        let cycle = (60 / every).max(1);
        let (mut low, mut high, mut steps) = (i8::MAX, i8::MIN, 0_i64);
        for number in 0..count.min(cycle) {
            let step = wave(first + number * every, shift);
            (low, high) = (low.min(step), high.max(step));
            // How often this place of the wave comes in all.
            steps += i64::from(step) * ((count - 1 - number) / cycle + 1);
        }
        sum.sum += swing * steps as f64;
        let (one, two) = (base + swing * f64::from(low), base + swing * f64::from(high));
        sum.min = sum.min.min(one.min(two));
        sum.max = sum.max.max(one.max(two));
    }
    sum.last = base + swing * f64::from(wave(last, shift));
    *into = Rolled::Gauge(sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    static LAYOUT: Layout = Layout { table: "cpu", labels: &["cpu"], cells: &["frequency_hertz", "user_seconds"] };

    struct Steps(Vec<Piece>);

    impl Course for Steps {
        fn next_piece(&mut self) -> Option<Piece> {
            (!self.0.is_empty()).then(|| self.0.remove(0))
        }
    }

    fn series(every: i64) -> Series {
        let piece = |from: i64, to: i64, seen: bool, start: f64| Piece {
            from,
            to,
            seen,
            cells: vec![Cell::Level { base: 10.0, swing: 0.25, shift: 7 }, Cell::Sum { start, rate: 0.5 }],
        };
        let pieces = vec![
            piece(0, 90, true, 100.0),
            piece(90, 215, true, 145.0),
            piece(215, 400, false, 0.0),
            // Began anew.
            piece(400, 4_000, true, 3.0),
        ];
        Series::new(&LAYOUT, 0, vec!["all".into()], every, Box::new(Steps(pieces)))
    }

    /// Rolls up row by row: the other way.
    fn slowly(every: i64, from: i64, to: i64) -> Window {
        let mut source = series(every);
        let (mut gauge, mut counter) = (GaugeSum::EMPTY, CounterSum { count: 0, increase: None, last: f64::NAN });
        let mut before: Option<(f64, i64)> = None;
        for at in 0..to {
            if at % every != 0 {
                continue;
            }
            let piece = source.piece_at(at).unwrap().clone();
            if !piece.seen {
                continue;
            }
            let (Datum::Float(level), Datum::Float(total)) =
                (piece.cells[0].at(piece.from, at), piece.cells[1].at(piece.from, at))
            else {
                panic!("floats")
            };
            if at >= from {
                gauge.count += 1;
                gauge.sum += level;
                gauge.min = gauge.min.min(level);
                gauge.max = gauge.max.max(level);
                gauge.last = level;
                counter.count += 1;
                counter.last = total;
                if let Some((b, _)) = before.filter(|b| b.1 >= at / 60 * 60 - 300) {
                    let more = if total >= b { total - b } else { total };
                    counter.increase = Some(counter.increase.unwrap_or(0.0) + more);
                }
            }
            before = Some((total, at));
        }
        let last = vec![Datum::Float(gauge.last), Datum::Float(counter.last)];
        Window { samples: gauge.count, columns: vec![Rolled::Gauge(gauge), Rolled::Counter(counter)], last }
    }

    #[test]
    fn a_rollup_is_what_the_rows_give() {
        for every in [1, 10, 30, 60] {
            for length in [60, 180, 1_800] {
                let (mut fast, mut roller) = (series(every), Roller::new(300));
                let mut from = 0;
                while from < 3_600 {
                    let rolled = roller.window(&mut fast, from, from + length);
                    let wanted = slowly(every, from, from + length);
                    if wanted.samples > 0 {
                        assert_eq!(rolled, wanted, "every {every}, [{from}, +{length})");
                    } else {
                        assert_eq!(rolled.samples, 0);
                    }
                    from += length;
                }
            }
        }
    }

    #[test]
    fn the_wave_has_no_mean() {
        assert_eq!(WAVE.iter().map(|w| i32::from(*w)).sum::<i32>(), 0);
        assert!(WAVE.iter().all(|w| (-8..=8).contains(w)));
    }
}
