//! Norms whose results are numbers with 16 fraction bits again: of a head before it turns, and LayerNorm (`docs/iq8.md`, section 4.2).

use crate::fixed::{round_div, round_shift, saturate};
use crate::ops::{FRACTION, Norm, rms_norm};

/// RMSNorm of `values` in place. `wide` is room for as many.
#[inline(always)]
pub fn norm_in_place(values: &mut [i32], norm: &Norm, epsilon_q32: u64, wide: &mut [i64]) {
    let fraction = rms_norm(values, norm, epsilon_q32, wide);
    for (value, z) in values.iter_mut().zip(wide) {
        *value = saturate(round_shift(*z, fraction - FRACTION));
    }
}

/// LayerNorm of `values` in place: what differs from the mean, normalised, with its bias. `wide` is room for as many.
#[inline(always)]
pub fn layer_norm(
    values: &mut [i32],
    norm: &Norm,
    bias: &[i32],
    epsilon_q32: u64,
    wide: &mut [i64],
) {
    // At most 2^16 values of 31 bits.
    let sum: i64 = values.iter().map(|v| i64::from(*v)).sum();
    let mean = round_div(i128::from(sum), values.len() as i128) as i64;
    for value in values.iter_mut() {
        *value = saturate(i64::from(*value) - mean);
    }
    norm_in_place(values, norm, epsilon_q32, wide);
    add_bias(values, bias);
}

/// A bias on what a matrix made, with saturation.
#[inline(always)]
pub fn add_bias(values: &mut [i32], bias: &[i32]) {
    for (value, bias) in values.iter_mut().zip(bias) {
        *value = value.saturating_add(*bias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norm(len: usize) -> Norm {
        Norm {
            g: (0..len).map(|i| 16_384 - 100 * i as i16).collect(),
            exponent: -14,
        }
    }

    #[test]
    fn layer_norm_follows_the_real_function_at_every_scale() {
        let (norm, bias) = (norm(64), vec![3_000; 64]);
        for amplitude in [0.01, 1.0, 40.0, 20_000.0] {
            let real: Vec<f64> = (0..64)
                .map(|i| amplitude * (f64::from(i * i % 37) / 18.0 - 0.6))
                .collect();
            let mut values: Vec<i32> = real.iter().map(|v| (v * 65_536.0).round() as i32).collect();
            let mean = real.iter().sum::<f64>() / 64.0;
            let variance = real.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 64.0;
            layer_norm(&mut values, &norm, &bias, 0, &mut vec![0; 64]);
            for i in 0..64 {
                let g = f64::from(norm.g[i]) / 16_384.0;
                let expected = (real[i] - mean) / variance.sqrt() * g + 3_000.0 / 65_536.0;
                let got = f64::from(values[i]) / 65_536.0;
                // Half a unit of the sixteenth bit of the smallest inputs is a thousandth of them.
                let allowed = 2e-5 + 3e-5 / amplitude;
                assert!(
                    (got - expected).abs() < allowed,
                    "{amplitude}: {got} {expected}"
                );
            }
        }
    }

    #[test]
    fn equal_and_extreme_values_have_a_norm() {
        let (norm, mut wide) = (norm(32), vec![0; 32]);
        let mut equal = vec![i32::MIN; 32];
        layer_norm(&mut equal, &norm, &[7; 32], 0, &mut wide);
        assert_eq!(equal, vec![7; 32], "nothing differs from the mean");
        let mut extreme: Vec<i32> = (0..32)
            .map(|i| if i % 2 == 0 { i32::MIN } else { i32::MAX })
            .collect();
        layer_norm(&mut extreme, &norm, &[0; 32], 0, &mut wide);
        assert!((extreme[0] + 65_536).abs() <= 4, "{}", extreme[0]);
        let mut top = vec![i32::MAX; 2];
        add_bias(&mut top, &[i32::MAX, -5]);
        assert_eq!(top, [i32::MAX, i32::MAX - 5]);
    }
}
