//! Which experts a token passes, and how their outputs are joined (`docs/iq8.md`, section 4.2).

use crate::config::Experts;
use crate::fixed::{ln2, round_div, round_shift, round_shift_wide, saturate};
use crate::ops::Norm;
use crate::tables::Tables;
use std::cmp::Reverse;
use std::sync::LazyLock;

/// Fraction bits of `log2(e)`, and of the reciprocal of a sum of weights.
const LOG2_FRACTION: u32 = 30;
const INVERSE_FRACTION: i32 = 62;

/// log2(e) with 30 fraction bits.
static LOG2_E: LazyLock<i64> =
    LazyLock::new(|| (round_div(1i128 << 124, ln2()) >> (62 - LOG2_FRACTION)) as i64);

/// The experts of one token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Expert and weight (16 fraction bits, the highest of all experts being `2^16`), the highest first.
    pub experts: Vec<(usize, u32)>,
    /// What the weights are divided by.
    pub total: u64,
    /// What the router of the shared expert says, 16 fraction bits.
    pub shared: i32,
    /// Experts by preference; memory that is kept.
    order: Vec<usize>,
}

impl Chosen {
    /// Chooses by the router's numbers (16 fraction bits), one for each expert.
    pub fn choose(&mut self, logits: &[i32], experts: &Experts) {
        let tables = Tables::get();
        let log2 = |l: i32| saturate(round_shift(i64::from(l) * *LOG2_E, LOG2_FRACTION as i32));
        let highest = log2(logits.iter().copied().max().unwrap_or(0));
        let weight = |l: i32| tables.exp2_weight(highest.wrapping_sub(log2(l)) as u32);
        self.order.clear();
        self.order.extend(0..logits.len());
        // No two are equal, since the number of the expert decides at last.
        self.order
            .sort_unstable_by_key(|e| (Reverse(logits[*e]), *e));
        let chosen = &self.order[..experts.chosen.min(logits.len())];
        self.experts.clear();
        self.experts
            .extend(chosen.iter().map(|e| (*e, weight(logits[*e]))));
        self.total = match experts.renormalise {
            true => self.experts.iter().map(|(_, w)| u64::from(*w)).sum(),
            false => logits.iter().map(|l| u64::from(weight(*l))).sum(),
        };
    }
}

/// What a row of a router says of a vector of 16 fraction bits, with 16 fraction bits.
///
/// A product is below `2^46`, so that 2^16 of them stay below `2^62`.
#[inline(always)]
pub fn route(router: &Norm, values: &[i32]) -> i32 {
    let products = router.g.iter().zip(values);
    let sum: i64 = products.map(|(w, x)| i64::from(*w) * i64::from(*x)).sum();
    saturate(round_shift(sum, -router.exponent))
}

/// Adds an expert's output times its weight to the sums of the token.
#[inline(always)]
pub fn add_weighted(output: &[i32], weight: u32, sums: &mut [i64]) {
    for (sum, y) in sums.iter_mut().zip(output) {
        *sum += i64::from(*y) * i64::from(weight);
    }
}

/// Sums of weighted outputs over the sum of the weights, with 16 fraction bits.
#[inline(always)]
pub fn finish_mixture(sums: &[i64], total: u64, out: &mut [i32]) {
    let inverse = i128::from((1u64 << INVERSE_FRACTION) / total.max(1));
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = saturate(round_shift_wide(
            i128::from(*sum) * inverse,
            INVERSE_FRACTION,
        ));
    }
}

/// Adds the output of the expert that every token passes, times the sigmoid of the number that its router gave.
#[inline(always)]
pub fn add_shared(output: &[i32], logit: i32, out: &mut [i32]) {
    let share = i64::from(Tables::get().sigmoid(logit));
    for (out, y) in out.iter_mut().zip(output) {
        *out = saturate(i64::from(*out) + round_shift(i64::from(*y) * share, 31));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experts(count: usize, chosen: usize, renormalise: bool) -> Experts {
        Experts {
            count,
            chosen,
            width: 32,
            shared: 0,
            renormalise,
        }
    }

    #[test]
    fn the_highest_are_chosen_and_the_lowest_number_among_equals() {
        let mut chosen = Chosen::default();
        chosen.choose(&[5, 9, 9, -3, 9], &experts(5, 2, true));
        let numbers: Vec<usize> = chosen.experts.iter().map(|(e, _)| *e).collect();
        assert_eq!(numbers, [1, 2]);
        chosen.choose(&[i32::MIN, i32::MAX, i32::MIN], &experts(3, 3, true));
        assert_eq!(chosen.experts, [(1, 65_536), (0, 0), (2, 0)]);
        assert_eq!(chosen.total, 65_536);
    }

    #[test]
    fn weights_follow_the_softmax_over_the_chosen_or_over_all() {
        let real = [0.3, -1.0, 2.0, 0.9, 1.7];
        let logits = real.map(|l| (l * 65_536.0) as i32);
        for renormalise in [true, false] {
            let mut chosen = Chosen::default();
            chosen.choose(&logits, &experts(5, 3, renormalise));
            let over = if renormalise {
                &[2.0, 1.7, 0.9][..]
            } else {
                &real[..]
            };
            let total: f64 = over.iter().map(|l: &f64| l.exp()).sum();
            for ((e, w), expected) in chosen.experts.iter().zip([2, 4, 3]) {
                assert_eq!(*e, expected);
                let got = f64::from(*w) / chosen.total as f64;
                assert!((got - real[*e].exp() / total).abs() < 2e-5, "{got}");
            }
        }
    }

    #[test]
    fn a_router_s_numbers_are_exact_sums() {
        let router = |g: &[i16], exponent| Norm {
            g: g.to_vec(),
            exponent,
        };
        assert_eq!(route(&router(&[1, -2, 3], -1), &[10, 20, -5]), -23);
        let widest = router(&[i16::MIN; 1 << 16], 0);
        assert_eq!(route(&widest, &[i32::MIN; 1 << 16]), i32::MAX);
    }

    #[test]
    fn outputs_are_joined_by_their_weights_and_extremes_stay_in_bounds() {
        let mut sums = vec![0; 2];
        add_weighted(&[65_536, i32::MIN], 49_152, &mut sums);
        add_weighted(&[-65_536, i32::MIN], 16_384, &mut sums);
        let mut out = vec![0; 2];
        finish_mixture(&sums, 65_536, &mut out);
        assert_eq!(out, [32_768, i32::MIN]);
        add_shared(&[65_536, i32::MIN], 0, &mut out);
        assert_eq!(out, [65_536, i32::MIN]);
        finish_mixture(&[i64::from(i32::MAX) << 22; 2], 1 << 16, &mut out);
        assert_eq!(out, [i32::MAX; 2]);
    }
}
