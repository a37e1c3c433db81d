//! The operators between the matrices, as `docs/iq8.md` states them.

use crate::fixed::{
    bit_length, is_plain, isqrt, round_right, round_shift, round_shift_wide, saturate,
};
use crate::packed::PackedMatrix;
use crate::quant::BLOCK;
use crate::tables::Tables;

/// Fraction bits of the residual stream and of every matrix output.
pub const FRACTION: i32 = 16;
/// Fraction bits of a normalised vector before its weights.
pub(crate) const NORM_FRACTION: i32 = 20;
/// Fraction bits of the query factor.
const QUERY_FRACTION: i32 = 30;

/// Weights of an RMSNorm: `g[i] * 2^exponent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Norm {
    /// 16-bit weights.
    pub g: Vec<i16>,
    /// Their exponent.
    pub exponent: i32,
}

/// Sums of a matrix product to 16 fraction bits: `sum * 2^exponent`, rounded and saturated.
#[inline(always)]
pub fn finish(sums: &[i64], exponent: i32, out: &mut [i32]) {
    finish_with(sums, exponent, out, |_, value| value);
}

/// [`finish`], added to `residual` with saturation.
#[inline(always)]
pub fn finish_onto(sums: &[i64], exponent: i32, residual: &mut [i32]) {
    finish_with(sums, exponent, residual, i32::saturating_add);
}

#[inline(always)]
fn finish_with(sums: &[i64], exponent: i32, out: &mut [i32], join: impl Fn(i32, i32) -> i32) {
    let shift = -(exponent + FRACTION);
    if is_plain(shift) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = join(*out, saturate(round_right(*sum, shift as u32)));
        }
    } else {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = join(*out, saturate(round_shift(*sum, shift)));
        }
    }
}

/// Row `id` of the embedding with 16 fraction bits.
#[inline(always)]
pub fn embed(embedding: &PackedMatrix, id: usize, residual: &mut [i32]) {
    let shift = -(embedding.exponent + FRACTION);
    for (block, out) in residual.chunks_exact_mut(BLOCK).enumerate() {
        let (q, scale) = embedding.block(id, block);
        for (out, q) in out.iter_mut().zip(q) {
            *out = saturate(round_shift(i64::from(q) * i64::from(scale), shift));
        }
    }
}

/// Reciprocal root of the mean square: `factor * 2^-shift` turns residuals into values with 20 fraction bits.
///
/// Squares are taken of magnitudes cut to 23 bits, so that `2^16` of them stay below `2^62`.
#[inline(always)]
pub fn inverse_rms(residual: &[i32], epsilon_q32: u64) -> (i64, i32) {
    let largest = residual.iter().map(|r| r.unsigned_abs()).max().unwrap_or(0);
    let cut = bit_length(u64::from(largest)).saturating_sub(23);
    let squares: u64 = residual
        .iter()
        .map(|r| u64::from(r.unsigned_abs() >> cut).pow(2))
        .sum();
    // Mean square plus epsilon with 32 fraction bits; at least one unit, so that zeros divide.
    let mean = (u128::from(squares) << (2 * cut)) / residual.len() as u128;
    let mean = (mean + u128::from(epsilon_q32)).clamp(1, (1 << 63) - 1) as u64;
    // Moved by an even number of bits to [2^60, 2^62).
    let up = (62 - bit_length(mean) as i32) & !1;
    let moved = if up >= 0 { mean << up } else { mean >> -up };
    let factor = (1u64 << 61) / isqrt(moved);
    // 1/sqrt(mean) = factor * 2^(up/2 - 61), times 2^16 for the 32 fraction bits of the mean.
    (factor as i64, 41 - up / 2)
}

/// RMSNorm. The result has `20 - norm.exponent` fraction bits (returned), magnitudes below `2^44`.
#[inline(always)]
pub fn rms_norm(residual: &[i32], norm: &Norm, epsilon_q32: u64, out: &mut [i64]) -> i32 {
    let (factor, shift) = inverse_rms(residual, epsilon_q32);
    for ((out, r), g) in out.iter_mut().zip(residual).zip(&norm.g) {
        // The shift is from 10 to 42.
        *out = round_right(i64::from(*r) * factor, shift as u32) * i64::from(*g);
    }
    NORM_FRACTION - norm.exponent
}

/// Cosines and sines of one position, 15 fraction bits, one pair per rotary frequency.
pub fn rotation(frequencies: &[u64], position: usize, out: &mut Vec<(i32, i32)>) {
    let tables = Tables::get();
    out.clear();
    out.extend(frequencies.iter().map(|f| {
        let turn = f.wrapping_mul(position as u64);
        (tables.cosine_of_turn(turn), tables.sine_of_turn(turn))
    }));
}

/// Turns the pairs `(2i, 2i + 1)` of every head; leaves them as they are where nothing turns.
#[inline(always)]
pub fn rotate(heads: &mut [i32], rotation: &[(i32, i32)]) {
    if rotation.is_empty() {
        return;
    }
    for head in heads.chunks_exact_mut(2 * rotation.len()) {
        for (pair, (cosine, sine)) in head.chunks_exact_mut(2).zip(rotation) {
            let (a, b) = (i64::from(pair[0]), i64::from(pair[1]));
            let (c, s) = (i64::from(*cosine), i64::from(*sine));
            pair[0] = saturate(round_right(a * c - b * s, 15));
            pair[1] = saturate(round_right(a * s + b * c, 15));
        }
    }
}

/// `log2(e) / sqrt(head_width)` with 30 fraction bits: what a query is multiplied by, so that scores come in powers of two.
pub fn query_factor(head_width: usize) -> i64 {
    let log2_e = crate::fixed::round_div(1i128 << 124, crate::fixed::ln2()) >> 2;
    let root = isqrt((head_width as u64) << 48) as i128;
    crate::fixed::round_div(log2_e << 24, root << 30) as i64
}

/// A query head for scoring: each element times [`query_factor`]. Returns the fraction bits.
#[inline(always)]
pub fn scale_query(head: &[i32], factor: i64, out: &mut [i64]) -> i32 {
    for (out, q) in out.iter_mut().zip(head) {
        *out = i64::from(*q) * factor;
    }
    FRACTION + QUERY_FRACTION
}

/// Scores in powers of two with 16 fraction bits: score `i` is `sums[i] * 2^(query_exponent + key_exponents[i])`.
#[inline(always)]
pub fn scores(sums: &[i64], query_exponent: i32, key_exponents: &[i16], out: &mut [i32]) {
    let shift = |key_exponent: i16| -(query_exponent + i32::from(key_exponent) + FRACTION);
    let (least, greatest) = range(key_exponents);
    let all = out.iter_mut().zip(sums).zip(key_exponents);
    if is_plain(shift(least)) && is_plain(shift(greatest)) {
        for ((score, sum), exponent) in all {
            *score = saturate(round_right(*sum, shift(*exponent) as u32));
        }
    } else {
        for ((score, sum), exponent) in all {
            *score = saturate(round_shift(*sum, shift(*exponent)));
        }
    }
}

/// [`scores`] to softmax weights with 16 fraction bits, the highest being `2^16`; returns their sum.
#[inline(always)]
pub fn softmax_weights(scores: &[i32], weights: &mut [u32]) -> u64 {
    let highest = scores.iter().copied().max().unwrap_or(0);
    let tables = Tables::get();
    let mut sum = 0;
    for (weight, score) in weights.iter_mut().zip(scores) {
        *weight = tables.exp2_weight(highest.wrapping_sub(*score) as u32);
        sum += u64::from(*weight);
    }
    sum
}

/// Softmax weights times value scales, as 15-bit integers with one exponent (returned).
///
/// A product is below `2^31`. With `e` the greatest exponent, products are divided by `2^(e - exponent)`; if the greatest of
/// them (rounded down) still has more than 15 bits, all are divided further. `weights` become the products.
#[inline(always)]
pub fn blend_weights(
    weights: &mut [u32],
    value_scales: &[u16],
    value_exponents: &[i16],
    out: &mut [i16],
) -> i32 {
    let (least, greatest) = range(value_exponents);
    for (weight, scale) in weights.iter_mut().zip(value_scales) {
        *weight *= u32::from(*scale);
    }
    let (least, greatest) = (i32::from(least), i32::from(greatest));
    let down = |e: &i16| greatest - i32::from(*e);
    let spread = greatest - least;
    let all = weights.iter().zip(value_exponents);
    let largest = if spread < 32 {
        all.map(|(a, e)| a >> down(e)).max()
    } else {
        all.map(|(a, e)| a.checked_shr(down(e) as u32).unwrap_or(0))
            .max()
    };
    let further = bit_length(u64::from(largest.unwrap_or(0))).saturating_sub(15) as i32;
    let all = out.iter_mut().zip(weights.iter()).zip(value_exponents);
    if is_plain(further) && is_plain(spread + further) {
        for ((out, a), e) in all {
            let rounded = round_right(i64::from(*a), (down(e) + further) as u32);
            *out = rounded.min(i64::from(i16::MAX)) as i16;
        }
    } else {
        for ((out, a), e) in all {
            let rounded = round_shift(i64::from(*a), down(e) + further);
            *out = rounded.min(i64::from(i16::MAX)) as i16;
        }
    }
    greatest + further
}

/// Least and greatest of a list; zeros for an empty one.
#[inline(always)]
fn range(values: &[i16]) -> (i16, i16) {
    let first = values.first().copied().unwrap_or(0);
    values
        .iter()
        .fold((first, first), |(low, high), v| (low.min(*v), high.max(*v)))
}

/// Blended sums over the softmax sum, with 16 fraction bits.
#[inline(always)]
pub fn normalise_blend(sums: &[i64], exponent: i32, weight_sum: u64, out: &mut [i32]) {
    let inverse = i128::from((1u64 << 62) / weight_sum.max(1));
    let shift = 62 - (exponent + FRACTION);
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = saturate(round_shift_wide(i128::from(*sum) * inverse, shift));
    }
}

/// SwiGLU: `up * gate * sigmoid(gate)` with 32 fraction bits.
#[inline(always)]
pub fn swiglu(gate: &[i32], up: &[i32], out: &mut [i64]) {
    let tables = Tables::get();
    for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
        let silu = round_right(i64::from(*g) * i64::from(tables.sigmoid(*g)), 31);
        *out = silu * i64::from(*u);
    }
}

/// GELU: `x` times the normal distribution's share below `x`, with 16 fraction bits.
#[inline(always)]
pub fn gelu(x: &[i32], out: &mut [i64]) {
    let tables = Tables::get();
    for (out, x) in out.iter_mut().zip(x) {
        *out = round_right(i64::from(*x) * i64::from(tables.normal(*x)), 31);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixed;

    fn wave(n: usize, amplitude: f64) -> Vec<f64> {
        (0..n)
            .map(|i| ((i * i % 97) as f64 / 48.0 - 1.0) * amplitude)
            .collect()
    }

    fn q16(values: &[f64]) -> Vec<i32> {
        values
            .iter()
            .map(|v| (v * 65_536.0).round() as i32)
            .collect()
    }

    #[test]
    fn rms_norm_follows_the_real_function_at_every_scale() {
        let norm = Norm {
            g: (0..64).map(|i| 20_000 - 300 * i as i16).collect(),
            exponent: -14,
        };
        for amplitude in [0.001, 0.1, 3.0, 500.0, 30_000.0] {
            let x: Vec<f64> = q16(&wave(64, amplitude))
                .iter()
                .map(|v| f64::from(*v) / 65_536.0)
                .collect();
            let rms = (x.iter().map(|v| v * v).sum::<f64>() / 64.0 + 1e-5).sqrt();
            let mut out = vec![0; 64];
            let fraction = rms_norm(&q16(&x), &norm, 42_950, &mut out);
            for i in 0..64 {
                let expected = x[i] / rms * f64::from(norm.g[i]) / 16_384.0;
                let got = out[i] as f64 / 2f64.powi(fraction);
                assert!(
                    (got - expected).abs() < 4e-6 * (1.0 + expected.abs()),
                    "{amplitude}: {got} {expected}"
                );
            }
        }
        let mut out = vec![1; 64];
        rms_norm(&[0; 64], &norm, 0, &mut out);
        assert_eq!(out, vec![0; 64]);
    }

    #[test]
    fn rms_norm_stands_the_greatest_values() {
        let norm = Norm {
            g: vec![i16::MAX; 1 << 16],
            exponent: 0,
        };
        let mut out = vec![0; 1 << 16];
        rms_norm(&vec![i32::MIN; 1 << 16], &norm, u64::MAX >> 1, &mut out);
        let mut one = vec![0; 1 << 16];
        one[7] = i32::MAX;
        rms_norm(&one, &norm, 0, &mut out);
        // sqrt(2^16) = 2^8 with 20 fraction bits; the cut of the squares leaves 23 exact bits.
        let root = out[7] / i64::from(i16::MAX);
        assert!((root - (1 << 28)).abs() <= 1 << 6, "{root}");
    }

    #[test]
    fn rotation_turns_pairs_by_position_times_frequency() {
        let frequency = fixed::round_div(1i128 << 64, 100) as u64;
        let (mut r, mut head) = (Vec::new(), vec![65_536, 0]);
        rotation(&[frequency], 25, &mut r);
        rotate(&mut head, &r);
        assert_eq!(head, vec![0, 65_536], "a quarter turn");
        rotation(&[frequency], 100_000_050, &mut r);
        let mut head = vec![1000, -7];
        rotate(&mut head, &r);
        assert_eq!(head, vec![-1000, 7], "half a turn, far out");
    }

    #[test]
    fn attention_weights_follow_the_softmax() {
        let factor = query_factor(64);
        assert!((factor as f64 / 2f64.powi(30) - std::f64::consts::LOG2_E / 8.0).abs() < 2e-9);
        let sums: Vec<i64> = (0..40).map(|i| (i * 37 % 40 - 20) << 20).collect();
        let exponents = vec![-20; 40];
        let (mut taken, mut weights) = (vec![0; 40], vec![0; 40]);
        scores(&sums, -2, &exponents, &mut taken);
        let sum = softmax_weights(&taken, &mut weights);
        let expected: Vec<f64> = sums
            .iter()
            .map(|s| (*s as f64 / 2f64.powi(22)).exp2())
            .collect();
        let total: f64 = expected.iter().sum();
        for (w, e) in weights.iter().zip(expected) {
            assert!((f64::from(*w) / sum as f64 - e / total).abs() < 2e-5);
        }
    }

    #[test]
    fn blending_weights_keep_proportions_across_exponents() {
        let (weights, scales, exponents) = (
            [65_536, 32_768, 65_536],
            [30_000, 30_000, 20_000],
            [-16, -16, -18],
        );
        let mut out = [0i16; 4];
        let e = blend_weights(&mut weights.clone(), &scales, &exponents, &mut out);
        for i in 0..3 {
            let expected =
                f64::from(weights[i]) * f64::from(scales[i]) * 2f64.powi(exponents[i].into());
            let got = f64::from(out[i]) * 2f64.powi(e);
            assert!((got - expected).abs() <= 0.5 * 2f64.powi(e));
        }
        assert!(out[0] >= 1 << 14, "the greatest uses its 15 bits");
        // 65,535 / 2 is rounded up to 2^15, which has no place.
        let e = blend_weights(&mut [65_535], &[1], &[0], &mut out[..1]);
        assert_eq!((out[0], e), (i16::MAX, 1));
    }

    #[test]
    fn swiglu_follows_the_real_function() {
        let (gate, up) = (wave(96, 12.0), wave(96, 3.0));
        let mut out = vec![0; 96];
        swiglu(&q16(&gate), &q16(&up), &mut out);
        for i in 0..96 {
            let expected = up[i] * gate[i] / (1.0 + (-gate[i]).exp());
            assert!(
                (out[i] as f64 / 2f64.powi(32) - expected).abs() < 3e-4,
                "{i}"
            );
        }
        swiglu(&[i32::MIN, i32::MAX], &[i32::MIN, i32::MIN], &mut out[..2]);
        assert_eq!(out[0], 0);
        assert_eq!(out[1], i64::from(i32::MAX) * i64::from(i32::MIN));
    }
}
