//! Sets of sequence numbers, kept as ranges.
//!
//! Records arrive nearly in order, but not quite: a backlog comes after live data, and a retry may come
//! days later. What has been taken is therefore a *set*. Because the numbers are dense, the set is a
//! handful of ranges, usually one. A hole in it is what the sender still owes, or has declared lost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A set of `u64`, stored as disjoint, non-adjacent inclusive ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Seqs {
    /// first → last, both inclusive.
    ranges: BTreeMap<u64, u64>,
}

impl Seqs {
    /// Adds one number. Returns whether it was new.
    pub fn insert(&mut self, seq: u64) -> bool {
        if self.contains(seq) {
            return false;
        }
        self.insert_range(seq, seq);
        true
    }

    /// Adds `first..=last`. Ranges given the wrong way round add nothing.
    pub fn insert_range(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        // A range that begins before us and touches or overlaps us absorbs us.
        if let Some((&f, &l)) = self.ranges.range(..=first).next_back()
            && l.saturating_add(1) >= first
        {
            first = f;
            last = last.max(l);
        }
        // Everything that begins inside us, or right after us, is absorbed.
        while let Some((&f, &l)) = self.ranges.range(first..=last.saturating_add(1)).next() {
            self.ranges.remove(&f);
            last = last.max(l);
        }
        self.ranges.insert(first, last);
    }

    /// Adds every number of `other`.
    pub fn extend(&mut self, other: &Seqs) {
        for (first, last) in other.ranges() {
            self.insert_range(first, last);
        }
    }

    /// Whether the number is in the set.
    pub fn contains(&self, seq: u64) -> bool {
        self.ranges.range(..=seq).next_back().is_some_and(|(_, &last)| last >= seq)
    }

    /// The ranges, first and last inclusive, in order.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(&f, &l)| (f, l))
    }

    /// How many ranges it takes to write the set down: one more than it has holes.
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// How many numbers are missing between 0 and the largest.
    pub fn missing(&self) -> u64 {
        let Some((_, &last)) = self.ranges.iter().next_back() else { return 0 };
        let present: u64 = self.ranges.iter().map(|(f, l)| l - f).sum::<u64>() + self.ranges.len() as u64;
        last.saturating_add(1).saturating_sub(present)
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl From<Vec<(u64, u64)>> for Seqs {
    fn from(ranges: Vec<(u64, u64)>) -> Self {
        let mut seqs = Seqs::default();
        for (first, last) in ranges {
            seqs.insert_range(first, last);
        }
        seqs
    }
}

impl From<Seqs> for Vec<(u64, u64)> {
    fn from(seqs: Seqs) -> Self {
        seqs.ranges.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_in_order_are_one_range() {
        let mut seqs = Seqs::default();
        assert!((0..1000).all(|n| seqs.insert(n)));
        assert_eq!(seqs.ranges().collect::<Vec<_>>(), [(0, 999)]);
        assert_eq!(seqs.missing(), 0);
    }

    #[test]
    fn a_number_is_new_once() {
        let mut seqs = Seqs::default();
        assert!(seqs.insert(7));
        assert!(!seqs.insert(7));
        assert_eq!(seqs.missing(), 7);
    }

    #[test]
    fn the_largest_number_is_a_number() {
        let mut seqs = Seqs::default();
        assert!(seqs.insert(u64::MAX));
        assert!(!seqs.insert(u64::MAX));
        assert!(seqs.insert(u64::MAX - 1));
        assert_eq!(seqs.range_count(), 1);
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(ops in prop::collection::vec((0u64..200, 0u64..20), 0..100)) {
            let mut seqs = Seqs::default();
            let mut model = BTreeSet::new();
            for (first, len) in ops {
                if len == 0 {
                    prop_assert_eq!(seqs.insert(first), model.insert(first));
                } else {
                    seqs.insert_range(first, first + len);
                    model.extend(first..=first + len);
                }
            }
            let listed: BTreeSet<u64> = seqs.ranges().flat_map(|(f, l)| f..=l).collect();
            prop_assert_eq!(&listed, &model);
            for n in 0..230 {
                prop_assert_eq!(seqs.contains(n), model.contains(&n));
            }
            // Disjoint and not adjacent: the smallest way to write the set.
            let ranges: Vec<_> = seqs.ranges().collect();
            prop_assert!(ranges.windows(2).all(|w| w[0].1 + 1 < w[1].0));
            let written: Vec<(u64, u64)> = seqs.clone().into();
            prop_assert_eq!(Seqs::from(written), seqs);
        }
    }
}
