//! Log-probabilities in integers (`docs/iq8.md`, section 6): the log-softmax of the model's own logits, in Q16.

use crate::fixed;
use crate::model::Model;
use crate::tables::Tables;
use stoa_types::{Logprobs, SignedQ16, TokenBytes, TokenLogprob};

/// log2(e) with 30 fraction bits.
const LOG2_E: u64 = 1_549_082_005;
/// ln(2) with 30 fraction bits.
const LN_2: i64 = 744_261_118;
/// Fraction bits of a summand, and of the sum.
const SUM_FRACTION: i32 = 30;
/// Fraction bits of the sum's binary logarithm.
const LOG_FRACTION: i32 = 24;

/// What every log-probability at one position has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Normaliser {
    highest: i32,
    /// Natural logarithm of the sum of `e^(logit - highest)`, Q16.
    log_sum: i64,
}

impl Normaliser {
    /// Of these logits.
    ///
    /// # Panics
    /// On an empty `logits`.
    pub fn of(logits: &[i32]) -> Self {
        let highest = *logits
            .iter()
            .max()
            .expect("a vocabulary has at least one token");
        let weight = |logit: &i32| weight(highest.abs_diff(*logit));
        // At most 2^22 summands of at most 2^30.
        let sum: u64 = logits.iter().map(weight).sum();
        let log2 = log2(sum);
        let log_sum = fixed::round_shift(log2 * LN_2, SUM_FRACTION + LOG_FRACTION - 16);
        Self { highest, log_sum }
    }

    /// Log-probability of a token with this logit, Q16.
    pub fn logprob(&self, logit: i32) -> i32 {
        fixed::saturate(i64::from(logit) - i64::from(self.highest) - self.log_sum)
    }
}

/// `e^(-distance)` in Q30, where `distance` is Q16.
fn weight(distance: u32) -> u64 {
    // Below 2^63.
    let product = u64::from(distance) * LOG2_E;
    let binary = (product + (1 << 29)) >> 30;
    let (whole, index, rest) = (binary >> 16, ((binary >> 8) & 255) as usize, binary & 255);
    if whole > SUM_FRACTION as u64 {
        return 0;
    }
    let exp2 = &Tables::get().exp2;
    let (low, high) = (u64::from(exp2[index]), u64::from(exp2[index + 1]));
    let mantissa = 256 * low - (low - high) * rest;
    let half = (1u64 << whole) >> 1;
    (mantissa + half) >> whole
}

/// Binary logarithm of a sum in Q30, at least 1, in Q24: the whole part from the number of bits, then one bit after another by squaring.
fn log2(sum: u64) -> i64 {
    let bits = fixed::bit_length(sum);
    let mut result = i64::from(bits) - 1 - i64::from(SUM_FRACTION);
    // From 1 to below 2, in Q62.
    let mut rest = u128::from(sum) << (63 - bits);
    for _ in 0..LOG_FRACTION {
        rest = (rest * rest) >> 62;
        let bit = rest >> 63;
        rest >>= bit;
        result = 2 * result + bit as i64;
    }
    result
}

/// The tokens with the highest logits, at most `count`, the highest first and the lowest id first among equals.
pub fn likeliest(logits: &[i32], count: usize) -> Vec<u32> {
    let mut best: Vec<u32> = Vec::with_capacity(count + 1);
    for (id, logit) in (0u32..).zip(logits) {
        let better = |other: &u32| logits[*other as usize] >= *logit;
        if best.len() == count && best.last().is_none_or(better) {
            continue;
        }
        let at = best.partition_point(better);
        best.insert(at, id);
        best.truncate(count);
    }
    best
}

/// What is told of the token `id`, which was chosen from these logits or from what bias and penalties made of them, with `top` of the likeliest.
pub(crate) fn describe(model: &Model, logits: &[i32], id: u32, top: u8) -> Logprobs {
    let normaliser = Normaliser::of(logits);
    let one = |id: u32| TokenLogprob {
        id,
        bytes: TokenBytes(model.tokenizer().bytes(id, true).to_vec()),
        logprob: SignedQ16(normaliser.logprob(logits[id as usize])),
    };
    let top = likeliest(logits, usize::from(top));
    Logprobs {
        chosen: one(id),
        top: top.into_iter().map(one).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_a_float_softmax() {
        let wide = |i: i32| (i * 7919 % 2000 - 1000) * 1500;
        let cases: [Vec<i32>; 5] = [
            vec![5],
            vec![i32::MIN, i32::MAX],
            vec![i32::MAX; 100_000],
            (0..300).map(wide).collect(),
            (0..50_000).map(|i| wide(i) / 40).collect(),
        ];
        for logits in cases {
            let highest = f64::from(*logits.iter().max().expect("not empty"));
            let float = |l: i32| (f64::from(l) - highest) / 65_536.0;
            let sum: f64 = logits.iter().map(|l| float(*l).exp()).sum();
            let normaliser = Normaliser::of(&logits);
            for logit in &logits {
                let found = f64::from(normaliser.logprob(*logit)) / 65_536.0;
                let expected = (float(*logit) - sum.ln()).max(-32_768.0);
                assert!((found - expected).abs() < 3e-5, "{found} {expected}");
                assert!(found <= 0.0);
            }
        }
    }

    #[test]
    fn the_likeliest_come_first_and_the_lowest_id_among_equals() {
        assert_eq!(likeliest(&[3, 9, 3, 9, 1], 3), [1, 3, 0]);
        assert_eq!(likeliest(&[3, 9], 20), [1, 0]);
        assert!(likeliest(&[3, 9], 0).is_empty());
        let logits: Vec<i32> = (0..500).map(|i| i * 7919 % 97).collect();
        let mut all: Vec<u32> = (0..500).collect();
        all.sort_by_key(|id| (std::cmp::Reverse(logits[*id as usize]), *id));
        assert_eq!(likeliest(&logits, 20), all[..20]);
    }
}
