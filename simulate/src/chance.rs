//! Chance that is the same every time.
//!
//! Everything here follows from the seed and from *what* is asked about (which host, which hour), never from how often
//! or in what order somebody asked. That is what makes the same seed give the same rows, in one piece or in many.
//!
//! The generator is splitmix64: a few multiplications, well mixed, and written out here so that no other version of a
//! library changes a fleet.

/// Mixes numbers into one, so that each of them matters.
pub fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x243f_6a88_85a3_08d3, |sum, part| scramble(sum ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Mixes a text into a number.
pub fn mix_text(seed: u64, text: &str) -> u64 {
    text.bytes().fold(mix(&[seed, text.len() as u64]), |sum, byte| scramble(sum ^ u64::from(byte)))
}

fn scramble(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A number in [0, 1) made of mixed bits.
#[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
pub fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// Rounds to a multiple of 1/1024, which a float holds exactly: sums of such numbers do not depend on their order, so
/// that a rollup made here is to the last bit the one that SQL makes of the rows.
pub fn exact(value: f64) -> f64 {
    (value * 1024.0).round() / 1024.0
}

/// A stream of chance for one subject.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The stream of a subject, named by numbers.
    pub fn of(parts: &[u64]) -> Self {
        Self(mix(parts))
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scramble(self.0)
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        unit(self.bits())
    }

    /// A number in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A whole number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.bits() % bound }
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// One of several, by weight. The index; 0 when there are none.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f64>();
        for (at, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return at;
            }
        }
        weights.len().saturating_sub(1)
    }

    /// A time until the next of events that come at `rate` per unit of time; never when the rate is 0.
    pub fn wait(&mut self, rate: f64) -> f64 {
        if rate <= 0.0 { f64::INFINITY } else { -(1.0 - self.unit()).ln() / rate }
    }

    /// About normal, mean 0 and deviation 1.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_one_stream_and_others_have_others() {
        let draw = |parts: &[u64]| -> Vec<u64> {
            let mut chance = Chance::of(parts);
            (0..4).map(|_| chance.bits()).collect()
        };
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(mix_text(1, "a"), mix_text(1, "b"));
    }

    #[test]
    fn waits_have_their_rate() {
        let mut chance = Chance::of(&[7]);
        let mean = (0..10_000).map(|_| chance.wait(0.5)).sum::<f64>() / 10_000.0;
        assert!((1.9..2.1).contains(&mean), "{mean}");
        assert!(chance.wait(0.0).is_infinite());
    }
}
