//! Activations as int8: blocks of 32 with a 16-bit scale each, and one exponent for the vector.

use crate::fixed::round_right;

/// Elements of a block.
pub const BLOCK: usize = 32;
/// Largest magnitude of a quantised element.
pub const Q_MAX: u64 = 127;
/// Bits of a block scale of an activation vector.
pub const ACTIVATION_BITS: u32 = 16;
/// Bits of a scale in the KV cache, and of a weight block.
pub const CACHE_BITS: u32 = 15;

/// One quantised vector: element `i` stands for `q[i] * scale[i / 32] * 2^exponent`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quantised {
    /// Elements in `[-127, 127]`.
    pub q: Vec<i8>,
    /// Block scales, below `2^16`.
    pub scale: Vec<i32>,
    /// `-128` times the sum of each block: what a kernel adds that reads weights as `w + 128`.
    pub offset: Vec<i32>,
    /// Exponent of the vector.
    pub exponent: i32,
}

impl Quantised {
    /// An empty vector with room for `len` elements, so that later calls allocate nothing.
    pub fn with_len(len: usize) -> Self {
        Self {
            q: vec![0; len],
            scale: vec![0; len / BLOCK],
            offset: vec![0; len / BLOCK],
            exponent: 0,
        }
    }

    /// Makes it a vector of `len` elements, whatever they are.
    pub fn set_len(&mut self, len: usize) {
        self.q.resize(len, 0);
        self.scale.resize(len / BLOCK, 0);
        self.offset.resize(len / BLOCK, 0);
    }

    /// Takes another's elements, in the memory that is here.
    pub fn copy_from(&mut self, other: &Self) {
        self.q.clone_from(&other.q);
        self.scale.clone_from(&other.scale);
        self.offset.clone_from(&other.offset);
        self.exponent = other.exponent;
    }

    /// Quantises `values` (each `values[i] * 2^-fraction`), with block scales of `bits` bits.
    ///
    /// `shift` is the least for which the largest magnitude, divided by `2^shift` and rounded, is at most `127 (2^bits - 1)`.
    /// With `t` the values so divided, a block's scale is `ceil(max |t| / 127)` and an element is `t / scale`, rounded half
    /// away from zero; a block of zeros has scale 0. Hence `|q| <= 127` without clamping.
    #[inline(always)]
    pub fn assign(&mut self, values: &[i64], fraction: i32, bits: u32) {
        debug_assert_eq!(values.len(), self.q.len());
        let shift = shift_for(largest_magnitude(values), bits);
        self.exponent = shift - fraction;
        for (block, chunk) in values.chunks_exact(BLOCK).enumerate() {
            let q = &mut self.q[block * BLOCK..][..BLOCK];
            let (scale, sum) = quantise_block(chunk, shift, q);
            self.scale[block] = scale;
            self.offset[block] = -128 * sum;
        }
    }
}

/// Least shift that brings `largest` to at most `127 (2^bits - 1)`.
#[inline(always)]
pub fn shift_for(largest: u64, bits: u32) -> i32 {
    let limit = Q_MAX * ((1 << bits) - 1);
    // The limit has `bits + 7` bits; a value of one bit more may still need a shift of one less than its excess.
    let excess = (64 - largest.leading_zeros()).saturating_sub(bits + 7) as i32;
    (excess..)
        .find(|shift| rounded(largest, *shift) <= limit)
        .expect("a shift of 64 brings every value to at most one")
}

#[inline(always)]
fn rounded(value: u64, shift: i32) -> u64 {
    if shift == 0 {
        value
    } else {
        ((u128::from(value) + (1u128 << (shift - 1))) >> shift) as u64
    }
}

/// Quantises `values` as one block of any length: elements to `q`, and the block's scale and exponent.
#[inline(always)]
pub fn quantise_whole(values: &[i64], fraction: i32, bits: u32, q: &mut [i8]) -> (i32, i32) {
    let shift = shift_for(largest_magnitude(values), bits);
    (quantise_block(values, shift, q).0, shift - fraction)
}

#[inline(always)]
fn largest_magnitude(values: &[i64]) -> u64 {
    values.iter().map(|v| v.unsigned_abs()).max().unwrap_or(0)
}

#[inline(always)]
fn quantise_block(values: &[i64], shift: i32, q: &mut [i8]) -> (i32, i32) {
    // Rounding keeps order, so the largest divided value is the divided largest.
    let scale = rounded(largest_magnitude(values), shift).div_ceil(Q_MAX) as u32;
    if scale == 0 {
        q.fill(0);
        return (0, 0);
    }
    let divide = Reciprocal::new(scale);
    if shift == 0 {
        divide_all(values, scale, divide, |v| v as i32, q)
    } else {
        let bring = |v| round_right(v, shift as u32) as i32;
        divide_all(values, scale, divide, bring, q)
    }
}

/// Elements of a block, each brought to its `t` first; the scale and the sum of the elements.
#[inline(always)]
fn divide_all(
    values: &[i64],
    scale: u32,
    divide: Reciprocal,
    bring: impl Fn(i64) -> i32,
    q: &mut [i8],
) -> (i32, i32) {
    let mut sum = 0;
    for (q, v) in q.iter_mut().zip(values) {
        let t = bring(*v);
        let magnitude = divide.floor(t.unsigned_abs() + scale / 2) as i32;
        let value = if t < 0 { -magnitude } else { magnitude };
        *q = value as i8;
        sum += value;
    }
    (scale as i32, sum)
}

/// Exact division of numbers below `2^24` by one divisor: multiply by `ceil(2^(24 + l) / divisor)`, `l = bit length`, and shift.
#[derive(Debug, Clone, Copy)]
struct Reciprocal {
    /// From `2^24` to `2^25`.
    factor: u32,
    shift: u32,
}

impl Reciprocal {
    #[inline(always)]
    fn new(divisor: u32) -> Self {
        let shift = 24 + (32 - divisor.leading_zeros());
        Self {
            factor: (1u64 << shift).div_ceil(u64::from(divisor)) as u32,
            shift,
        }
    }

    #[inline(always)]
    fn floor(self, value: u32) -> u32 {
        ((u64::from(value) * u64::from(self.factor)) >> self.shift) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixed::round_shift;
    use proptest::prelude::*;

    #[test]
    fn the_reciprocal_divides_exactly_at_every_edge() {
        for divisor in (1..=65_535u32)
            .step_by(7)
            .chain([1, 2, 127, 32_768, 65_535])
        {
            let r = Reciprocal::new(divisor);
            let last = (1 << 24) - 1;
            for multiple in [0, 1, 2, 100, 254, last / divisor] {
                for value in [
                    (multiple * divisor).saturating_sub(1),
                    multiple * divisor,
                    multiple * divisor + 1,
                    last,
                ] {
                    let value = value.min(last);
                    assert_eq!(r.floor(value), value / divisor, "{value} / {divisor}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn quantised_values_keep_their_bounds_and_half_a_step_of_error(
            seed in proptest::collection::vec(any::<i64>(), 64),
            bits in 0u32..62,
            cache in any::<bool>(),
        ) {
            let values: Vec<i64> = seed.iter().map(|v| v >> (63 - bits)).collect();
            let scale_bits = if cache { CACHE_BITS } else { ACTIVATION_BITS };
            let mut out = Quantised::with_len(64);
            out.assign(&values, 0, scale_bits);
            for (i, v) in values.iter().enumerate() {
                let (q, scale) = (i64::from(out.q[i]), i64::from(out.scale[i / BLOCK]));
                prop_assert!(q.abs() <= 127 && (0..1 << scale_bits).contains(&scale));
                let t = round_shift(*v, out.exponent);
                prop_assert!(2 * (q * scale - t).abs() <= scale.max(0), "{q} {scale} {t}");
            }
            for block in 0..2 {
                let sum: i32 = out.q[block * BLOCK..][..BLOCK].iter().map(|q| i32::from(*q)).sum();
                prop_assert_eq!(out.offset[block], -128 * sum);
            }
        }
    }
}
