//! Fixed-point arithmetic of IQ8: rounding, square root, and the logarithms and exponentials from which tables are built.
//!
//! Nothing here is floating point, so every table is the same on every machine.

/// `value / 2^shift`, rounded half away from zero. A negative `shift` multiplies. The result saturates to `i64`.
///
/// Total: every input has one defined result, so that a hostile model cannot make two engines differ.
#[inline(always)]
pub fn round_shift(value: i64, shift: i32) -> i64 {
    if shift <= 0 {
        return shift_left_saturating(value, shift.unsigned_abs());
    }
    if shift >= 64 {
        return 0;
    }
    // |value| <= 2^63 and the half <= 2^62, so the sum stays below 2^64.
    let magnitude = (value.unsigned_abs() + (1u64 << (shift - 1))) >> shift;
    apply_sign(magnitude, value)
}

/// [`round_shift`] for shifts from 1 to 63: no branches, so that loops over it become vector code.
#[inline(always)]
pub fn round_right(value: i64, shift: u32) -> i64 {
    let sign = value >> 63;
    let magnitude = (value ^ sign).wrapping_sub(sign) as u64;
    let rounded = ((magnitude + (1u64 << (shift - 1))) >> shift) as i64;
    (rounded ^ sign).wrapping_sub(sign)
}

/// Whether [`round_right`] covers a shift.
#[inline(always)]
pub fn is_plain(shift: i32) -> bool {
    (1..=63).contains(&shift)
}

fn shift_left_saturating(value: i64, shift: u32) -> i64 {
    if value == 0 {
        return 0;
    }
    let limit = if value < 0 { i64::MIN } else { i64::MAX };
    match value.checked_mul(1i64.checked_shl(shift).filter(|p| *p > 0).unwrap_or(0)) {
        Some(product) if shift < 63 => product,
        _ => limit,
    }
}

#[inline(always)]
fn apply_sign(magnitude: u64, sign_of: i64) -> i64 {
    if sign_of < 0 {
        (magnitude as i64).wrapping_neg()
    } else {
        magnitude as i64
    }
}

/// [`round_shift`] for products of 128 bits, saturated to `i64`.
#[inline]
pub fn round_shift_wide(value: i128, shift: i32) -> i64 {
    let shifted = if shift <= 0 {
        let up = shift.unsigned_abs().min(63);
        value.saturating_mul(1i128 << up)
    } else if shift >= 127 {
        0
    } else {
        let magnitude = (value.unsigned_abs() + (1u128 << (shift - 1))) >> shift;
        if value < 0 {
            -(magnitude as i128)
        } else {
            magnitude as i128
        }
    };
    shifted.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// Nearest `i32`.
#[inline(always)]
pub fn saturate(value: i64) -> i32 {
    value.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// Bits needed to write `value`; 0 for 0.
#[inline(always)]
pub fn bit_length(value: u64) -> u32 {
    64 - value.leading_zeros()
}

/// `a / b` rounded half away from zero, for `b > 0`.
pub fn round_div(a: i128, b: i128) -> i128 {
    let magnitude = (a.unsigned_abs() + b.unsigned_abs() / 2) / b.unsigned_abs();
    if a < 0 {
        -(magnitude as i128)
    } else {
        magnitude as i128
    }
}

/// Floor of the square root.
pub fn isqrt(value: u64) -> u64 {
    value.isqrt()
}

/// Fraction bits of the constants and functions below.
pub const FINE: u32 = 62;
const ONE: i128 = 1 << FINE;

/// `a * b` of two numbers with [`FINE`] fraction bits, floor.
fn mul(a: i128, b: i128) -> i128 {
    (a * b) >> FINE
}

/// ln 2 with [`FINE`] fraction bits: the sum of 1 / (k 2^k).
pub fn ln2() -> i128 {
    // 8 guard bits hide the truncation of the 70 terms.
    let guard = FINE + 8;
    let sum: i128 = (1..=70)
        .map(|k: u32| ((1i128 << guard) >> k) / i128::from(k))
        .sum();
    round_div(sum, 1 << 8)
}

/// pi with [`FINE`] fraction bits, by Machin: 16 atan(1/5) - 4 atan(1/239).
pub fn pi() -> i128 {
    let guard_one = 1i128 << (FINE + 8);
    let atan_inverse = |x: i128| {
        let (mut power, mut sum, mut k) = (guard_one / x, 0i128, 1i128);
        while power != 0 {
            sum += if k % 4 == 1 { power / k } else { -(power / k) };
            power /= x * x;
            k += 2;
        }
        sum
    };
    round_div(16 * atan_inverse(5) - 4 * atan_inverse(239), 1 << 8)
}

/// log2 of `mantissa * 2^-FINE` for `mantissa` in [1, 2), with [`FINE`] fraction bits: one bit per squaring.
fn log2_of_mantissa(mantissa: i128) -> i128 {
    let (mut x, mut result) = (mantissa, 0i128);
    for bit in (2..FINE).rev() {
        x = mul(x, x);
        if x >= 2 * ONE {
            x >>= 1;
            result |= 1 << bit;
        }
    }
    result
}

/// log2 of the positive number `value * 2^-fraction`, with [`FINE`] fraction bits.
pub fn log2(value: u128, fraction: u32) -> i128 {
    assert!(value > 0, "the logarithm of zero is asked of no table");
    let length = 128 - value.leading_zeros();
    let mantissa = if length > FINE + 1 {
        value >> (length - FINE - 1)
    } else {
        value << (FINE + 1 - length)
    };
    let exponent = i128::from(length) - 1 - i128::from(fraction);
    exponent * ONE + log2_of_mantissa(mantissa as i128)
}

/// Natural logarithm of `value * 2^-fraction`, with [`FINE`] fraction bits.
pub fn ln(value: u128, fraction: u32) -> i128 {
    // |log2| < 2^7 for our arguments: 69 + 62 bits would pass 127, so the product is taken in two halves.
    let l = log2(value, fraction);
    let (whole, part) = (l >> FINE, l & (ONE - 1));
    whole * ln2() + mul(part, ln2())
}

/// e^-x for 0 <= x <= 1 with [`FINE`] fraction bits, by its series.
pub fn exp_negative(x: i128) -> i128 {
    let (mut term, mut sum, mut k) = (ONE, ONE, 1i128);
    while term != 0 {
        // Truncation towards zero keeps the loop finite.
        term = -(mul(term.abs(), x) / k) * term.signum();
        sum += term;
        k += 1;
    }
    sum
}

/// 2^-x for x >= 0 with [`FINE`] fraction bits.
pub fn exp2_negative(x: i128) -> i128 {
    let (whole, part) = (x >> FINE, x & (ONE - 1));
    if whole > i128::from(FINE) {
        return 0;
    }
    exp_negative(mul(part, ln2())) >> whole
}

/// e^-x for any x >= 0.
pub fn exp_negative_any(x: i128) -> i128 {
    let whole = x / ln2();
    if whole > i128::from(FINE) {
        return 0;
    }
    exp_negative(x - whole * ln2()) >> whole
}

/// sin of `x` radians, 0 <= x <= pi/2, with [`FINE`] fraction bits, by its series.
pub fn sin(x: i128) -> i128 {
    let square = mul(x, x);
    let (mut term, mut sum, mut k) = (x, 0i128, 1i128);
    while term != 0 {
        sum += term;
        let next = mul(term.abs(), square) / ((k + 1) * (k + 2));
        term = -next * term.signum();
        k += 2;
    }
    sum
}

/// Share of the standard normal distribution between 0 and `steps / 128`, 0 <= steps <= 1024, with [`FINE`] fraction bits.
///
/// With `x = steps / 128` it is `e^(-x^2/2) / sqrt(2 pi)` times the sum of `x^(2k+1) / (1 * 3 * 5 * ... * (2k+1))`: all terms are
/// positive. The power of two in the exponential is left out until the end, so that no bits are lost to it.
pub fn normal_above_half(steps: i128) -> i128 {
    // Fewer fraction bits, so that the sum, below 2^46 times as large as the result, has room.
    const FRACTION: u32 = 50;
    let square = steps * steps;
    let exponent = square << (FINE - 15);
    let halvings = exponent / ln2();
    let density = exp_negative(exponent - halvings * ln2()) >> (FINE - FRACTION);
    let (mut term, mut sum, mut odd) = ((density * steps) >> 7, 0i128, 1i128);
    while term != 0 {
        sum += term;
        odd += 2;
        term = (term * square) / (odd << 14);
    }
    // The root of 2 pi with 61 fraction bits.
    let root = (2 * pi() as u128 * (1 << 60)).isqrt() as i128;
    round_div((sum >> halvings) << (61 + FINE - FRACTION), root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: i128, expected: f64) {
        let got = value as f64 / ONE as f64;
        assert!(
            (got - expected).abs() < 1e-14 * expected.abs().max(1.0),
            "{got} {expected}"
        );
    }

    #[test]
    fn rounding_is_half_away_from_zero_and_total() {
        assert_eq!(round_shift(3, 1), 2);
        assert_eq!(round_shift(-3, 1), -2);
        assert_eq!(round_shift(5, 2), 1);
        assert_eq!(round_shift(-6, 2), -2);
        assert_eq!(round_shift(i64::MIN, 63), -1);
        assert_eq!(round_shift(i64::MAX, 64), 0);
        assert_eq!(round_shift(7, -2), 28);
        assert_eq!(round_shift(1, -63), i64::MAX);
        assert_eq!(round_shift(-1, -100), i64::MIN);
        assert_eq!(round_shift(0, -100), 0);
        for value in [i64::MIN, i64::MIN + 1, -5, -1, 0, 1, 6, i64::MAX] {
            for shift in 1..64 {
                assert_eq!(round_right(value, shift), round_shift(value, shift as i32));
            }
        }
        assert_eq!(round_shift_wide(-3, 1), -2);
        assert_eq!(round_shift_wide(i128::MAX, 0), i64::MAX);
        assert_eq!(saturate(1 << 40), i32::MAX);
    }

    #[test]
    fn constants_and_functions_agree_with_known_values() {
        close(ln2(), std::f64::consts::LN_2);
        close(pi(), std::f64::consts::PI);
        close(log2(10_000, 0), 10_000f64.log2());
        close(ln(1, 33), -33.0 * std::f64::consts::LN_2);
        close(exp_negative_any(5 * ONE + ONE / 3), (-16.0f64 / 3.0).exp());
        close(exp2_negative(3 * ONE / 2), (-1.5f64).exp2());
        close(sin(pi() / 2), 1.0);
        close(sin(pi() / 5), (std::f64::consts::PI / 5.0).sin());
    }
}
