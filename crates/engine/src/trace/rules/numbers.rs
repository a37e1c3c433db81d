//! Arithmetic that the rules share.

use crate::fixed::{bit_length, isqrt, round_shift};

/// Nearest number of 64 bits.
pub fn to_i64(value: i128) -> i64 {
    value.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// A shift as [`round_shift`] takes it: beyond 128 bits either way nothing changes.
pub fn narrow_shift(shift: i64) -> i32 {
    shift.clamp(-128, 128) as i32
}

/// Sum of products.
pub fn dot(a: &[i8], b: &[i8]) -> i128 {
    let products = a.iter().zip(b);
    products.map(|(a, b)| i128::from(*a) * i128::from(*b)).sum()
}

/// Bits that RMSNorm cuts off a vector with this greatest magnitude: at most 9 of a number of 32 bits.
pub fn cut(largest: i64) -> u32 {
    let bits = bit_length(largest.unsigned_abs());
    bits.saturating_sub(23).min(9)
}

/// Reciprocal root of the mean square, and the shift that brings a product with it to 20 fraction bits.
pub fn inverse_rms(squares: u128, cut: u32, count: usize, epsilon_q32: u64) -> (i64, i32) {
    let mean = (squares << (2 * cut)) / count.max(1) as u128 + u128::from(epsilon_q32);
    let mean = mean.clamp(1, (1 << 63) - 1) as u64;
    let bits = bit_length(mean) as i32;
    let up = (62 - bits) - (62 - bits).rem_euclid(2);
    let moved = if up >= 0 { mean << up } else { mean >> -up };
    let factor = (1u64 << 61) / isqrt(moved).max(1);
    (factor as i64, 41 - up / 2)
}

/// Least shift that brings a magnitude, rounded, to at most `127 (2^bits - 1)`.
pub fn shift_of(largest: u64, bits: u32) -> i32 {
    let limit = 127 * ((1u128 << bits) - 1);
    let rounded = |shift: u32| match shift {
        0 => u128::from(largest),
        _ => (u128::from(largest) + (1u128 << (shift - 1))) >> shift,
    };
    let fits = (0..64u32).find(|shift| rounded(*shift) <= limit);
    fits.unwrap_or(64) as i32
}

/// Scale and elements of a block.
pub fn quantise(values: &[i64], shift: i32) -> (u16, Vec<i8>) {
    let brought: Vec<i64> = values.iter().map(|v| round_shift(*v, shift)).collect();
    let largest = brought.iter().map(|t| t.unsigned_abs()).max().unwrap_or(0);
    // A block that passes what the shift was chosen for has no scale of 16 bits: no honest claim equals what is given then.
    let scale = u16::try_from(largest.div_ceil(127)).unwrap_or(u16::MAX);
    let element = |t: &i64| {
        let scale = u64::from(scale);
        if scale == 0 {
            return 0;
        }
        let magnitude = t.unsigned_abs().saturating_add(scale / 2) / scale;
        let magnitude = magnitude.min(127) as i8;
        if *t < 0 { -magnitude } else { magnitude }
    };
    (scale, brought.iter().map(element).collect())
}
