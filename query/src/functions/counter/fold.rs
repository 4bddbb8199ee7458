//! Samples in the order of time, folded into the growth of their counter.

use std::fmt::Debug;
use std::ops::{Add, AddAssign};

use datafusion::arrow::datatypes::{ArrowNativeTypeOp, ArrowPrimitiveType, Float64Type, Int64Type, UInt64Type};

/// What is asked of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::functions) enum Measure {
    /// The growth in the counter's own unit.
    Increase,
    /// The growth per second, between the first sample and the last.
    Rate,
}

impl Measure {
    /// The answer for the samples in `fold`, or `None` where they are too few.
    pub(super) fn of<V: Reading>(self, fold: &Fold<V>) -> Option<f64> {
        let (before, last) = (fold.settled?, fold.last?);
        let increase = V::as_f64(fold.total + V::growth(before, last.value));
        Some(match self {
            Self::Increase => increase,
            #[allow(clippy::cast_precision_loss, reason = "microseconds are exact for 285 years")]
            Self::Rate => increase / (last.at.abs_diff(fold.first) as f64 / 1e6),
        })
    }
}

/// A type that counters are read as.
pub(super) trait Reading: ArrowNativeTypeOp {
    /// The same type as Arrow calls it.
    type Arrow: ArrowPrimitiveType<Native = Self>;
    /// What growth is summed in, wide enough to be exact for integers.
    type Total: Copy + Debug + Default + Send + Sync + Add<Output = Self::Total> + AddAssign;

    /// Whether the value says anything; NaN does not.
    fn is_known(self) -> bool;
    /// From one sample to the next: the difference, or after a reset the new value itself.
    fn growth(before: Self, now: Self) -> Self::Total;
    /// The sum as SQL sees it.
    fn as_f64(total: Self::Total) -> f64;
}

macro_rules! integer_reading {
    ($native:ty, $arrow:ty) => {
        impl Reading for $native {
            type Arrow = $arrow;
            type Total = i128;

            fn is_known(self) -> bool {
                true
            }

            fn growth(before: Self, now: Self) -> i128 {
                i128::from(now) - if now < before { 0 } else { i128::from(before) }
            }

            #[allow(clippy::cast_precision_loss, reason = "the one rounding there is")]
            fn as_f64(total: i128) -> f64 {
                total as f64
            }
        }
    };
}

integer_reading!(i64, Int64Type);
integer_reading!(u64, UInt64Type);

impl Reading for f64 {
    type Arrow = Float64Type;
    type Total = f64;

    fn is_known(self) -> bool {
        !self.is_nan()
    }

    fn growth(before: Self, now: Self) -> f64 {
        if now < before { now } else { now - before }
    }

    fn as_f64(total: f64) -> f64 {
        total
    }
}

/// One known value of a counter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample<V> {
    /// Microseconds since 1970.
    pub(super) at: i64,
    pub(super) value: V,
}

/// The growth so far. The value at the last time is kept apart, because a larger one of the same time may follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fold<V: Reading> {
    first: i64,
    total: V::Total,
    /// The value at the last time but one, up to which `total` counts.
    settled: Option<V>,
    last: Option<Sample<V>>,
}

impl<V: Reading> Fold<V> {
    /// Folds samples whose times never fall.
    pub(super) fn over(samples: impl IntoIterator<Item = Sample<V>>) -> Self {
        let mut fold = Self { first: 0, total: V::Total::default(), settled: None, last: None };
        for sample in samples {
            fold.push(sample);
        }
        fold
    }

    fn push(&mut self, sample: Sample<V>) {
        match &mut self.last {
            None => {
                self.first = sample.at;
                self.last = Some(sample);
            }
            Some(last) if last.at == sample.at => {
                if sample.value > last.value {
                    last.value = sample.value;
                }
            }
            Some(last) => {
                if let Some(before) = self.settled {
                    self.total += V::growth(before, last.value);
                }
                self.settled = Some(last.value);
                *last = sample;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both<V: Reading>(samples: &[(i64, V)]) -> (Option<f64>, Option<f64>) {
        let fold = Fold::over(samples.iter().map(|&(second, value)| Sample { at: second * 1_000_000, value }));
        (Measure::Increase.of(&fold), Measure::Rate.of(&fold))
    }

    #[test]
    fn growth_counts_resets_and_each_time_once() {
        let cases: &[(&[(i64, i64)], Option<f64>, Option<f64>)] = &[
            (&[], None, None),
            (&[(0, 5)], None, None),
            (&[(0, 5), (0, 9)], None, None),
            (&[(0, 5), (10, 5)], Some(0.0), Some(0.0)),
            (&[(0, 5), (10, 25)], Some(20.0), Some(2.0)),
            (&[(0, 100), (10, 30), (20, 90)], Some(90.0), Some(4.5)),
            (&[(0, 100), (10, 0), (20, 0)], Some(0.0), Some(0.0)),
            (&[(0, 1), (10, 7), (10, 9), (10, 8), (20, 11)], Some(10.0), Some(0.5)),
            (&[(-10, 1), (0, 2), (0, 3)], Some(2.0), Some(0.2)),
        ];
        for (samples, increase, rate) in cases {
            assert_eq!(both(samples), (*increase, *rate), "of {samples:?}");
        }
    }

    #[test]
    fn integers_keep_every_unit() {
        assert_eq!(both(&[(0, u64::MAX - 3), (1, u64::MAX), (2, 1)]).0, Some(4.0));
        assert_eq!(both(&[(0, i64::MIN), (1, i64::MAX)]).0, Some(18_446_744_073_709_551_616.0));
    }

    #[test]
    fn doubles_grow_too() {
        assert_eq!(both(&[(0, 1.5), (2, 2.5), (4, 0.5)]), (Some(1.5), Some(0.375)));
        assert!(!f64::NAN.is_known());
        assert!(f64::INFINITY.is_known());
    }
}
