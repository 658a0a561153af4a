//! Numbers from a seed: the same for the same question, in whatever order and at whatever pace one asks.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// An endless list of dice, one a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// Other words, other dice.
    pub fn new(seed: u64, words: &[&str]) -> Self {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        for word in words {
            hash.update(word.as_bytes());
            hash.update([0]); // no word holds one, so that ("ab", "c") is not ("a", "bc")
        }
        let digest = hash.finalize();
        Self(
            digest
                .iter()
                .take(8)
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        )
    }

    /// The die of this number: a generator whose algorithm has a name, and so will not change under us.
    pub fn nth(self, number: i64) -> Die {
        let seed = self.0.wrapping_add(number.cast_unsigned());
        Die(Xoshiro256PlusPlus::seed_from_u64(seed))
    }
}

pub(super) struct Die(Xoshiro256PlusPlus);

impl Die {
    /// From 0 up to but not including 1, evenly.
    pub fn part(&mut self) -> f64 {
        const UNIT: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.0.next_u64() >> 11) as f64 * UNIT
    }
}
