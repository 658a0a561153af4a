//! Division of an amount so that its parts add up to it again.

use crate::money::Usd;

/// Parts of `amount` in proportion to `weights`, in whole micro-dollars: the largest remainders are rounded up, and of equal
/// ones the first. Without any weight every part is zero.
pub(super) fn in_proportion(amount: Usd, weights: &[u64]) -> Vec<Usd> {
    let sum: u128 = weights.iter().copied().map(u128::from).sum();
    if sum == 0 {
        return vec![Usd::ZERO; weights.len()];
    }
    let whole = u128::from(amount.micros().unsigned_abs());
    let exact = weights.iter().map(|weight| whole * u128::from(*weight));
    let mut parts: Vec<(u128, u128)> = exact.map(|part| (part / sum, part % sum)).collect();
    let given: u128 = parts.iter().map(|(part, _)| part).sum();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    // Stable: of equal remainders the first stays first.
    order.sort_by_key(|index| std::cmp::Reverse(parts[*index].1));
    let missing = usize::try_from(whole - given).unwrap_or(usize::MAX);
    for index in order.into_iter().take(missing) {
        parts[index].0 += 1;
    }
    let signed = |part: u128| i64::try_from(part).unwrap_or(i64::MAX) * amount.micros().signum();
    parts
        .into_iter()
        .map(|(part, _)| Usd::from_micros(signed(part)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(amount: i64, weights: &[u64]) -> Vec<i64> {
        let parts = in_proportion(Usd::from_micros(amount), weights);
        parts.into_iter().map(Usd::micros).collect()
    }

    #[test]
    fn the_largest_remainders_are_rounded_up_and_of_equal_ones_the_first() {
        assert_eq!(parts(10, &[1, 1, 1]), [4, 3, 3]);
        assert_eq!(parts(-10, &[1, 1, 1]), [-4, -3, -3]);
        assert_eq!(parts(7, &[1, 2, 2]), [1, 3, 3]);
        assert_eq!(parts(1, &[0, 0, 5]), [0, 0, 1]);
        assert_eq!(parts(5, &[0, 0]), [0, 0]);
        assert_eq!(parts(0, &[3, 4]), [0, 0]);
    }

    proptest! {
        #[test]
        fn parts_add_up_and_none_is_off_by_a_micro_dollar(
            amount in -1_000_000_000_000_i64..1_000_000_000_000,
            weights in prop::collection::vec(0_u64..10_000_000_000, 1..50),
        ) {
            let sum: u64 = weights.iter().sum();
            prop_assume!(sum > 0);
            let parts = parts(amount, &weights);
            prop_assert_eq!(parts.iter().sum::<i64>(), amount);
            for (part, weight) in parts.iter().zip(&weights) {
                let off = i128::from(*part) * i128::from(sum) - i128::from(amount) * i128::from(*weight);
                prop_assert!(off.abs() < i128::from(sum), "{} of {}", part, amount);
            }
        }
    }
}
