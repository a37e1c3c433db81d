//! Floating-point numbers of files, read as what they are: integers times powers of two. No float arithmetic takes place.

/// `mantissa * 2^exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exact {
    /// Signed mantissa, at most 53 bits.
    pub mantissa: i64,
    /// Power of two.
    pub exponent: i32,
}

impl Exact {
    /// IEEE binary16. `None` for infinities and NaN.
    pub fn from_f16(bits: u16) -> Option<Self> {
        Self::decode(u64::from(bits), 5, 10)
    }

    /// bfloat16. `None` for infinities and NaN.
    pub fn from_bf16(bits: u16) -> Option<Self> {
        Self::decode(u64::from(bits), 8, 7)
    }

    /// IEEE binary32. `None` for infinities and NaN.
    pub fn from_f32(bits: u32) -> Option<Self> {
        Self::decode(u64::from(bits), 8, 23)
    }

    /// IEEE binary64. `None` for infinities and NaN.
    pub fn from_f64(value: f64) -> Option<Self> {
        Self::decode(value.to_bits(), 11, 52)
    }

    #[inline]
    fn decode(bits: u64, exponent_bits: u32, fraction_bits: u32) -> Option<Self> {
        let all = (1 << exponent_bits) - 1;
        let biased = (bits >> fraction_bits & all) as i32;
        if biased == all as i32 {
            return None;
        }
        let fraction = (bits & ((1 << fraction_bits) - 1)) as i64;
        let implicit = i64::from(biased != 0) << fraction_bits;
        let bias = (all >> 1) as i32;
        let magnitude = fraction | implicit;
        let negative = bits >> (exponent_bits + fraction_bits) & 1 == 1;
        Some(Self {
            mantissa: if negative { -magnitude } else { magnitude },
            exponent: biased.max(1) - bias - fraction_bits as i32,
        })
    }

    /// The least `e` with `|self| < 2^e`; `None` for zero.
    pub fn magnitude(self) -> Option<i32> {
        let length = crate::fixed::bit_length(self.mantissa.unsigned_abs()) as i32;
        (length > 0).then_some(length + self.exponent)
    }

    /// Orders numbers by their magnitudes.
    pub fn size(self) -> (Option<i32>, u64) {
        let mantissa = self.mantissa.unsigned_abs();
        let leading = mantissa.leading_zeros();
        (self.magnitude(), mantissa.checked_shl(leading).unwrap_or(0))
    }

    /// `self * 2^fraction`, rounded half away from zero, saturated.
    pub fn to_fixed(self, fraction: i32) -> i64 {
        crate::fixed::round_shift(self.mantissa, -(self.exponent + fraction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(e: Exact) -> f64 {
        e.mantissa as f64 * 2f64.powi(e.exponent)
    }

    #[test]
    fn every_binary16_is_read_exactly() {
        for bits in 0..=u16::MAX {
            let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 31, bits & 1023);
            let expected = match exponent {
                31 => None,
                0 => Some(f64::from(fraction) * 2f64.powi(-24)),
                _ => Some(f64::from(1024 + fraction) * 2f64.powi(i32::from(exponent) - 25)),
            };
            let signed = expected.map(|v| if sign == 1 { -v } else { v });
            assert_eq!(Exact::from_f16(bits).map(value), signed);
        }
    }

    #[test]
    fn wider_formats_are_read_exactly() {
        for v in [0.0f32, 1.0, -1.5, 1e-5, 1e-40, f32::MAX, -0.1] {
            let read = Exact::from_f32(v.to_bits()).expect("finite");
            assert_eq!(value(read), f64::from(v));
            let short = (v.to_bits() >> 16) as u16;
            let read = Exact::from_bf16(short).expect("finite");
            assert_eq!(
                value(read),
                f64::from(f32::from_bits(u32::from(short) << 16))
            );
            assert_eq!(
                value(Exact::from_f64(f64::from(v)).expect("finite")),
                f64::from(v)
            );
        }
        assert_eq!(Exact::from_f32(f32::NAN.to_bits()), None);
        assert_eq!(Exact::from_f64(f64::INFINITY), None);
        assert_eq!(Exact::from_f64(1e-5).expect("finite").to_fixed(32), 42_950);
        assert_eq!(
            Exact::from_f32(8f32.to_bits()).expect("finite").magnitude(),
            Some(4)
        );
    }
}
