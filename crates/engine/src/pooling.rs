//! The vector of a text (`docs/iq8.md`, Pooling): the direction of the sum of its last states, in integers that are 32-bit floats exactly.

use crate::fixed::{round_div, round_shift_wide};

/// Fraction bits of an element: with no more than these, every element is a 32-bit float.
const FRACTION: u32 = 24;
/// Bits that the greatest sum keeps: the squares of the widest model's 2^16 of them add up to less than 2^79.
const KEPT: i32 = 31;

/// A vector of length one, or of zeros. Elements stand for themselves divided by `2^24`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextVector(Vec<i32>);

impl TextVector {
    /// Elements, none beyond ±2^24.
    pub fn elements(&self) -> &[i32] {
        &self.0
    }

    /// The elements as little-endian 32-bit floats: the same numbers, nothing is rounded.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        let bytes = |element: &i32| float_bits(*element).to_le_bytes();
        self.0.iter().flat_map(bytes).collect()
    }
}

/// The vector whose direction sums of states have.
pub fn text_vector(sums: &[i128]) -> TextVector {
    let largest = sums.iter().map(|s| s.unsigned_abs()).max().unwrap_or(0);
    let bits = (128 - largest.leading_zeros()) as i32;
    // At most 2^31, since rounding may carry.
    let scaled: Vec<i128> = sums
        .iter()
        .map(|sum| i128::from(round_shift_wide(*sum, bits - KEPT)))
        .collect();
    let squares: i128 = scaled.iter().map(|t| t * t).sum();
    let length = squares.isqrt();
    let element = |t: &i128| match length {
        0 => 0,
        // No element is longer than the whole, so the quotient is at most 2^24.
        length => round_div(t << FRACTION, length) as i32,
    };
    TextVector(scaled.iter().map(element).collect())
}

/// Bits of the 32-bit float `element / 2^24`, for elements of at most 25 bits whose 25th stands alone.
fn float_bits(element: i32) -> u32 {
    let magnitude = element.unsigned_abs();
    let Some(top) = magnitude.checked_ilog2() else {
        return 0;
    };
    let sign = u32::from(element < 0) << 31;
    // The leading bit moves to place 23, where the format leaves it out.
    let aligned = if top <= 23 {
        magnitude << (23 - top)
    } else {
        magnitude >> (top - 23)
    };
    let exponent = 127 + top - FRACTION;
    sign | exponent << 23 | (aligned & 0x7f_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_element_is_its_float() {
        let all = (0..=24).flat_map(|bit| [-1i32, 0, 1].map(|d| (1 << bit) + d));
        for element in all.filter(|n| *n <= 1 << 24).flat_map(|n| [n, -n]) {
            let float = f32::from_bits(float_bits(element));
            assert_eq!(f64::from(float) * f64::from(1 << 24), f64::from(element));
        }
        assert_eq!(float_bits(0), 0, "no negative zero");
    }

    #[test]
    fn nothing_and_the_greatest_sums_have_a_vector() {
        assert_eq!(text_vector(&[]).elements(), [0; 0]);
        assert_eq!(text_vector(&[0, 0]).elements(), [0, 0]);
        assert_eq!(text_vector(&[0, -1]).elements(), [0, -(1 << 24)]);
        let greatest = (1i128 << 64) - 1;
        assert_eq!(text_vector(&[greatest]).elements(), [1 << 24]);
        // Widest model, all elements the greatest: 2^16 squares of 2^31.
        let vector = text_vector(&vec![-greatest; 1 << 16]);
        assert!(vector.elements().iter().all(|v| *v == -(1 << 16)));
    }

    proptest! {
        #[test]
        fn a_vector_is_the_direction_of_its_sums(sums in proptest::collection::vec(any::<i64>(), 1..50), spread in 0u32..63) {
            let sums: Vec<i128> = sums.iter().map(|s| i128::from(s >> spread)).collect();
            let length = sums.iter().map(|s| (*s as f64).powi(2)).sum::<f64>().sqrt();
            for (v, s) in text_vector(&sums).elements().iter().zip(&sums) {
                let exact = if length == 0.0 { 0.0 } else { *s as f64 / length };
                // Half a unit, and what 31 kept bits leave in doubt.
                prop_assert!((f64::from(*v) / f64::from(1 << 24) - exact).abs() < 0.6 / f64::from(1 << 24));
            }
        }

        #[test]
        fn doubled_sums_have_the_same_vector(sums in proptest::collection::vec(any::<i64>(), 1..20)) {
            let doubled = |n: u32| -> Vec<i128> { sums.iter().map(|s| i128::from(*s) << n).collect() };
            // Below 31 bits nothing is rounded away, from there on the same bits are.
            prop_assert_eq!(text_vector(&doubled(0)), text_vector(&doubled(1)));
        }
    }
}
