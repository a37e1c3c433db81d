//! The fixed tables of IQ8. They depend on nothing but the semantics version; their hash stands in the model root.

use crate::fixed::{self, FINE};
use std::sync::LazyLock;

/// Intervals of the 2^-x table over [0, 1).
pub const EXP2_STEPS: usize = 256;
/// Intervals of the sigmoid table over [0, 16).
pub const SIGMOID_STEPS: usize = 1024;
/// Intervals of the sine table over a quarter turn.
pub const SINE_STEPS: usize = 1024;
/// Intervals of the table of the normal distribution over [0, 8).
pub const NORMAL_STEPS: usize = 1024;
/// Octaves on each side of the Gumbel table.
pub const GUMBEL_OCTAVES: usize = 32;
/// Intervals in each octave of the Gumbel table.
pub const GUMBEL_STEPS: usize = 64;

/// Every table of the semantics.
#[derive(Debug)]
pub struct Tables {
    /// `2^22 * 2^(-i/256)`, 257 entries.
    pub exp2: [u32; EXP2_STEPS + 1],
    /// `2^21 / (1 + e^(-i/64))`, 1,025 entries.
    pub sigmoid: [u32; SIGMOID_STEPS + 1],
    /// `2^30 * sin(i/1024 * quarter turn)`, 1,025 entries.
    pub sine: [u32; SINE_STEPS + 1],
    /// Standard Gumbel quantiles with 16 fraction bits: two sides of 32 octaves of 65 entries (see [`Tables::gumbel_noise`]).
    pub gumbel: Vec<i32>,
    /// `2^22` times the standard normal distribution's share below `i/128`, 1,025 entries.
    pub normal: [u32; NORMAL_STEPS + 1],
}

static TABLES: LazyLock<Tables> = LazyLock::new(Tables::build);

/// Of a distribution about zero, by its upper half in steps of `2^STEP` (of 16 fraction bits): between two entries a straight line, all
/// beyond the last.
#[inline(always)]
fn share_below<const STEP: u32>(upper: &[u32], x: i32) -> u32 {
    let magnitude = x.unsigned_abs();
    let index = (magnitude >> STEP & 1023) as usize;
    let (low, high) = (upper[index], upper[index + 1]);
    let within = (low << STEP) + (high - low) * (magnitude & ((1 << STEP) - 1));
    let positive = if magnitude >= 1 << (STEP + 10) {
        1 << 31
    } else {
        within
    };
    if x < 0 {
        (1 << 31) - positive
    } else {
        positive
    }
}

impl Tables {
    /// The tables, built once per process.
    pub fn get() -> &'static Self {
        &TABLES
    }

    fn build() -> Self {
        let one = 1i128 << FINE;
        let scale = |value: i128, bits: u32| fixed::round_div(value, 1 << (FINE - bits)) as u32;
        Self {
            exp2: std::array::from_fn(|i| {
                scale(
                    fixed::exp2_negative(i as i128 * one / EXP2_STEPS as i128),
                    22,
                )
            }),
            sigmoid: std::array::from_fn(|i| {
                let e = fixed::exp_negative_any(i as i128 * one / 64);
                fixed::round_div(one << 21, one + e) as u32
            }),
            sine: std::array::from_fn(|i| {
                scale(
                    fixed::sin(i as i128 * fixed::pi() / (2 * SINE_STEPS as i128)),
                    30,
                )
            }),
            gumbel: gumbel_table(),
            normal: std::array::from_fn(|i| {
                let half = 1i128 << (FINE - 1);
                scale(half + fixed::normal_above_half(i as i128), 22)
            }),
        }
    }

    /// The bytes that the model root hashes: the tables in the order of the fields, each entry 4 bytes big-endian.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let unsigned: [&[u32]; 3] = [&self.exp2, &self.sigmoid, &self.sine];
        let mut bytes: Vec<u8> = unsigned
            .iter()
            .flat_map(|t| t.iter().flat_map(|e| e.to_be_bytes()))
            .collect();
        bytes.extend(self.gumbel.iter().flat_map(|e| e.to_be_bytes()));
        bytes.extend(self.normal.iter().flat_map(|e| e.to_be_bytes()));
        bytes
    }

    /// `2^(16 - distance / 2^16)`, rounded: the unnormalised softmax weight of a score `distance` below the highest.
    ///
    /// All of it fits 32 bits: the interpolated mantissa is at most `2^30`, the rounding half at most `2^30`.
    #[inline(always)]
    pub fn exp2_weight(&self, distance: u32) -> u32 {
        let whole = (distance >> 16).min(18);
        let index = (distance >> 8 & 255) as usize;
        let part = distance & 255;
        let (low, high) = (self.exp2[index], self.exp2[index + 1]);
        let mantissa = (low << 8) - (low - high) * part;
        // At 18 and more the rounded result is zero; 17 keeps the shift within 31 bits.
        let shift = 13 + whole.min(17);
        let weight = (mantissa + (1 << shift)) >> (shift + 1);
        if whole == 18 { 0 } else { weight }
    }

    /// Sigmoid of `x` (16 fraction bits) with 31 fraction bits, in `[0, 2^31]`.
    #[inline(always)]
    pub fn sigmoid(&self, x: i32) -> u32 {
        share_below::<10>(&self.sigmoid, x)
    }

    /// Share of the standard normal distribution below `x` (16 fraction bits) with 31 fraction bits, in `[0, 2^31]`.
    #[inline(always)]
    pub fn normal(&self, x: i32) -> u32 {
        share_below::<9>(&self.normal, x)
    }

    /// Sine of `turn * 2^-64` turns with 15 fraction bits, in `[-2^15, 2^15]`.
    pub fn sine_of_turn(&self, turn: u64) -> i32 {
        const QUARTER: u64 = 1 << 62;
        let within = turn & (QUARTER - 1);
        let angle = if turn & QUARTER == 0 {
            within
        } else {
            QUARTER - within
        };
        let index = (angle >> 52) as usize;
        let part = angle >> 36 & 0xffff;
        let low = u64::from(self.sine[index]);
        // At exactly a quarter turn `part` is zero and there is no next entry.
        let high = u64::from(self.sine[(index + 1).min(SINE_STEPS)]);
        let fine = low + (((high - low) * part + (1 << 15)) >> 16);
        let value = ((fine + (1 << 14)) >> 15) as i32;
        if turn >> 63 == 0 { value } else { -value }
    }

    /// Cosine of `turn * 2^-64` turns with 15 fraction bits.
    pub fn cosine_of_turn(&self, turn: u64) -> i32 {
        self.sine_of_turn(turn.wrapping_add(1 << 62))
    }

    /// Standard Gumbel noise with 16 fraction bits for 32 random bits.
    ///
    /// The top bit chooses the side. With `v = (2 r + 1) / 2^32` for the 31 other bits `r`, the noise is the quantile at
    /// `1 - v / 2` (side 0, the upper tail) or at `v / 2` (side 1). The table is linear inside each octave of `v`.
    pub fn gumbel_noise(&self, random: u32) -> i32 {
        let side = (random >> 31) as usize;
        let v = (random & 0x7fff_ffff) << 1 | 1;
        let octave = v.leading_zeros() as usize;
        // The leading one at bit 31, then 6 bits of index and 25 bits of position between entries.
        let normalised = v << octave;
        let index = (normalised >> 25 & 63) as usize;
        let part = i64::from(normalised & 0x1ff_ffff);
        let base = (side * GUMBEL_OCTAVES + octave) * (GUMBEL_STEPS + 1) + index;
        let (low, high) = (self.gumbel[base], self.gumbel[base + 1]);
        let step = i64::from(high) - i64::from(low);
        (i64::from(low) + fixed::round_shift(step * part, 25)) as i32
    }
}

/// Entry `(side, octave, step)`: the quantile at `u = v / 2` (side 1) or `1 - v / 2` (side 0), `v = (64 + step) / 64 * 2^-(octave + 1)`.
fn gumbel_table() -> Vec<i32> {
    let mut table = Vec::with_capacity(2 * GUMBEL_OCTAVES * (GUMBEL_STEPS + 1));
    for side in 0..2 {
        for octave in 0..GUMBEL_OCTAVES as u32 {
            for step in 0..=GUMBEL_STEPS as u128 {
                // v / 2 = (64 + step) * 2^-(octave + 8)
                let (value, fraction) = (64 + step, octave + 8);
                let ln_e = if side == 0 {
                    ln_of_exponential_near_zero(value, fraction)
                } else {
                    fixed::ln((-fixed::ln(value, fraction)) as u128, FINE)
                };
                table.push(fixed::round_div(-ln_e, 1 << (FINE - 16)) as i32);
            }
        }
    }
    table
}

/// ln(-ln(1 - x)) for `x = value * 2^-fraction <= 1/2`, as ln x + ln(1 + x/2 + x^2/3 + ...), which loses nothing for tiny x.
fn ln_of_exponential_near_zero(value: u128, fraction: u32) -> i128 {
    let x = (value as i128) << (FINE - fraction);
    let (mut power, mut series, mut k) = (1i128 << FINE, 0i128, 1i128);
    while power / k != 0 {
        series += power / k;
        power = (power * x) >> FINE;
        k += 1;
    }
    fixed::ln(value, fraction) + fixed::ln(series as u128, FINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_within_their_stated_error_of_the_functions() {
        let t = Tables::get();
        for d in (0..18 << 16).step_by(977) {
            let expected = 65_536.0 * (-f64::from(d) / 65_536.0).exp2();
            assert!(
                (f64::from(t.exp2_weight(d)) - expected).abs() <= 0.57,
                "{d}"
            );
        }
        for x in (-(18i32 << 16)..18 << 16).step_by(331) {
            let expected = 1.0 / (1.0 + (-f64::from(x) / 65_536.0).exp());
            let got = f64::from(t.sigmoid(x)) / 2f64.powi(31);
            assert!((got - expected).abs() < 4e-6, "{x}: {got} {expected}");
        }
        for i in 0..10_000u64 {
            let turn = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let angle = turn as f64 / 2f64.powi(64) * std::f64::consts::TAU;
            assert!((f64::from(t.sine_of_turn(turn)) - 32_768.0 * angle.sin()).abs() < 0.52);
            assert!((f64::from(t.cosine_of_turn(turn)) - 32_768.0 * angle.cos()).abs() < 0.52);
        }
        assert_eq!(t.cosine_of_turn(0), 32_768);
    }

    #[test]
    fn the_normal_distribution_is_within_its_stated_error() {
        let t = Tables::get();
        // By Simpson's rule from minus infinity, in steps of 1/256.
        let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let (mut share, step) = (0.0, 1.0 / 256.0);
        for i in -9 * 256..9 * 256 {
            let x = f64::from(i) * step;
            let got = f64::from(t.normal(i << 8)) / 2f64.powi(31);
            assert!((got - share).abs() < 2.2e-6, "{x}: {got} {share}");
            let inner = density(x) + 4.0 * density(x + step / 2.0) + density(x + step);
            share += step / 6.0 * inner;
        }
        assert_eq!((t.normal(0), t.normal(i32::MIN)), (1 << 30, 0));
    }

    #[test]
    fn the_smallest_softmax_weights_are_rounded_as_stated() {
        let t = Tables::get();
        let at = |whole: u32, rest: u32| t.exp2_weight((whole << 16) + rest);
        assert_eq!((at(0, 0), at(16, 0), at(16, 1)), (65_536, 1, 1));
        // 2^16 * 2^-17 is exactly a half, which is rounded away from zero.
        assert_eq!((at(17, 0), at(17, 1)), (1, 0));
        assert_eq!(
            (at(18, 0), at(40_000, 0), t.exp2_weight(u32::MAX)),
            (0, 0, 0)
        );
    }

    #[test]
    fn gumbel_noise_follows_its_quantiles_in_both_tails() {
        let t = Tables::get();
        let mut random = 1u32;
        for _ in 0..20_000 {
            random = random.wrapping_mul(0x9e37_79b9).wrapping_add(0x7f4a_7c15);
            for r in [random, random >> 9, random >> 22, random | 1 << 31] {
                let half_v = f64::from((r & 0x7fff_ffff) << 1 | 1) / 2f64.powi(33);
                let exponential = if r >> 31 == 0 {
                    -(-half_v).ln_1p()
                } else {
                    -half_v.ln()
                };
                let expected = -exponential.ln() * 65_536.0;
                assert!(
                    (f64::from(t.gumbel_noise(r)) - expected).abs() < 4.0,
                    "{r:x}"
                );
            }
        }
    }

    #[test]
    fn gumbel_noise_has_the_mean_and_variance_of_the_distribution() {
        let t = Tables::get();
        let n = 200_000u64;
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..n {
            let g = f64::from(t.gumbel_noise((i * (1u64 << 32) / n) as u32)) / 65_536.0;
            sum += g;
            squares += g * g;
        }
        let mean = sum / n as f64;
        let variance = squares / n as f64 - mean * mean;
        assert!((mean - 0.577_215).abs() < 1e-3, "{mean}");
        assert!((variance - 1.644_934).abs() < 1e-2, "{variance}");
    }
}
