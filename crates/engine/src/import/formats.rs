//! How tensors of files store their numbers, each read as what it is: an integer times a power of two.

use super::exact::Exact;
use crate::quant::BLOCK;
use serde::{Deserialize, Serialize};

/// How a tensor's elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    #[serde(rename = "BF16")]
    Bf16,
    /// 32 elements: a binary16 scale, 32 int8.
    Q8_0,
    /// 32 elements: a scale, 32 numbers of 5 bits less 16.
    Q5_0,
    /// 32 elements: a scale, 32 numbers of 4 bits less 8.
    Q4_0,
    /// 32 elements: a scale, an offset, 32 numbers of 5 bits.
    Q5_1,
    /// 32 elements: a scale, an offset, 32 numbers of 4 bits.
    Q4_1,
    /// 256 elements: a scale, 16 factors of 8 bits, numbers of 6 bits less 32.
    #[serde(rename = "Q6_K")]
    Q6K,
    /// 256 elements: two scales, 8 factors and 8 offsets of 6 bits, numbers of 5 bits.
    #[serde(rename = "Q5_K")]
    Q5K,
    /// 256 elements: two scales, 8 factors and 8 offsets of 6 bits, numbers of 4 bits.
    #[serde(rename = "Q4_K")]
    Q4K,
}

/// Power of two of which every binary16 number is a multiple, and so every element of a block format.
const UNIT: i32 = -24;
/// Most elements that are stored together.
pub(super) const MAX_UNIT: usize = 256;

impl Format {
    /// Every format.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q5_0,
        Self::Q4_0,
        Self::Q5_1,
        Self::Q4_1,
        Self::Q6K,
        Self::Q5K,
        Self::Q4K,
    ];

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q5_0 => "Q5_0",
            Self::Q4_0 => "Q4_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4_1 => "Q4_1",
            Self::Q6K => "Q6_K",
            Self::Q5K => "Q5_K",
            Self::Q4K => "Q4_K",
        }
    }

    /// The format of a type code of GGUF.
    pub fn of_gguf(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// Elements that are stored together, and their bytes.
    pub(super) fn unit(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (BLOCK, 34),
            Self::Q5_0 => (BLOCK, 22),
            Self::Q4_0 => (BLOCK, 18),
            Self::Q5_1 => (BLOCK, 24),
            Self::Q4_1 => (BLOCK, 20),
            Self::Q6K => (MAX_UNIT, 210),
            Self::Q5K => (MAX_UNIT, 176),
            Self::Q4K => (MAX_UNIT, 144),
        }
    }

    /// Whether a block is one scale times small integers, which are kept as they are.
    pub(super) fn keeps_integers(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q5_0 | Self::Q4_0)
    }

    /// Bytes of `rows` rows of `columns` elements; `None` when the columns do not fill blocks or the size overflows.
    pub fn bytes(self, rows: u64, columns: u64) -> Option<u64> {
        let (elements, bytes) = self.unit();
        if !columns.is_multiple_of(elements as u64) {
            return None;
        }
        let row = (columns / elements as u64).checked_mul(bytes as u64)?;
        row.checked_mul(rows)
    }

    /// The largest magnitude of the numbers in `bytes`, which hold whole units: of the scales where integers are kept, of the
    /// elements elsewhere. An error is the index of an element that is no number.
    pub(super) fn largest(self, bytes: &[u8]) -> Result<Exact, usize> {
        let short = |infinity: u16, read: fn(u16) -> Option<Exact>| {
            let magnitude = |two: &[u8]| u16::from_le_bytes([two[0], two[1]]) & 0x7fff;
            let largest = bytes.chunks_exact(2).map(magnitude).max().unwrap_or(0);
            read(largest).ok_or_else(|| {
                let odd = |two: &[u8]| magnitude(two) >= infinity;
                bytes.chunks_exact(2).position(odd).unwrap_or(0)
            })
        };
        match self {
            Self::F16 => short(0x7c00, Exact::from_f16),
            Self::Bf16 => short(0x7f80, Exact::from_bf16),
            Self::F32 => {
                let magnitude = |four: &[u8]| word(four, 0) as i32 & i32::MAX;
                let largest = bytes.chunks_exact(4).map(magnitude).max().unwrap_or(0);
                Exact::from_f32(largest as u32).ok_or_else(|| {
                    let odd = |four: &[u8]| magnitude(four) >= 0x7f80_0000;
                    bytes.chunks_exact(4).position(odd).unwrap_or(0)
                })
            }
            _ => self.largest_of_units(bytes),
        }
    }

    fn largest_of_units(self, bytes: &[u8]) -> Result<Exact, usize> {
        let (elements, size) = self.unit();
        let mut largest = 0;
        let mut x = [0; MAX_UNIT];
        for (index, unit) in bytes.chunks_exact(size).enumerate() {
            let found = if self.keeps_integers() {
                half(unit, 0).map(i64::unsigned_abs)
            } else {
                let x = &mut x[..elements];
                self.integers(unit, x)
                    .map(|()| x.iter().map(|x| x.unsigned_abs()).max().unwrap_or(0))
            };
            largest = largest.max(found.ok_or(index * elements)?);
        }
        Ok(Exact {
            mantissa: largest as i64,
            exponent: UNIT,
        })
    }

    /// Elements as fixed point with `fraction` bits. `bytes` hold exactly as many, all of them numbers.
    pub(super) fn to_fixed(self, bytes: &[u8], fraction: i32, out: &mut [i64]) {
        match self {
            Self::F32 => {
                for (x, four) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *x = single(word(four, 0), fraction);
                }
            }
            Self::Bf16 => {
                for (x, two) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    let bits = u16::from_le_bytes([two[0], two[1]]);
                    *x = single(u32::from(bits) << 16, fraction);
                }
            }
            Self::F16 => {
                for (index, x) in out.iter_mut().enumerate() {
                    *x = half(bytes, 2 * index).map_or(0, |h| fixed(h, UNIT + fraction));
                }
            }
            _ => {
                let (elements, size) = self.unit();
                for (unit, x) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(elements)) {
                    // Infinite scales were refused by `largest`.
                    if self.integers(unit, x).is_some() {
                        x.iter_mut().for_each(|x| *x = fixed(*x, UNIT + fraction));
                    }
                }
            }
        }
    }

    /// The scale of a block whose integers are kept, with `fraction` bits.
    pub(super) fn scale(self, unit: &[u8], fraction: i32) -> i64 {
        half(unit, 0).map_or(0, |h| fixed(h, UNIT + fraction))
    }

    /// The integers of a block that are kept.
    pub(super) fn kept(self, unit: &[u8]) -> [i8; BLOCK] {
        let mut q = [0; BLOCK];
        match self {
            Self::Q8_0 => {
                for (q, byte) in q.iter_mut().zip(&unit[2..]) {
                    *q = *byte as i8;
                }
            }
            Self::Q5_0 => fives(word(unit, 2), &unit[6..], |i, v| q[i] = v as i8 - 16),
            _ => nibbles(&unit[2..18], |i, v| q[i] = v as i8 - 8),
        }
        q
    }

    /// Elements of one unit of a block format, as multiples of `2^-24`. `None` when a scale is no number.
    fn integers(self, unit: &[u8], out: &mut [i64]) -> Option<()> {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => return None,
            Self::Q8_0 | Self::Q5_0 | Self::Q4_0 => {
                let d = half(unit, 0)?;
                for (x, q) in out.iter_mut().zip(self.kept(unit)) {
                    *x = d * i64::from(q);
                }
            }
            Self::Q4_1 => {
                let (d, m) = (half(unit, 0)?, half(unit, 2)?);
                nibbles(&unit[4..], |i, v| out[i] = d * i64::from(v) + m);
            }
            Self::Q5_1 => {
                let (d, m) = (half(unit, 0)?, half(unit, 2)?);
                fives(word(unit, 4), &unit[8..], |i, v| {
                    out[i] = d * i64::from(v) + m
                });
            }
            Self::Q4K => offset_unit(unit, &[0; 32], &unit[16..144], out)?,
            Self::Q5K => offset_unit(unit, &unit[16..48], &unit[48..176], out)?,
            Self::Q6K => six_bits(unit, out)?,
        }
        Some(())
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A binary16 number as a multiple of `2^-24`, below 2^40; `None` for infinities and NaN.
#[inline]
fn half(bytes: &[u8], at: usize) -> Option<i64> {
    let bits = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (exponent, fraction) = (bits >> 10 & 31, i64::from(bits & 1023));
    let magnitude = match exponent {
        31 => return None,
        0 => fraction,
        _ => (fraction | 1024) << (exponent - 1),
    };
    Some(if bits >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    })
}

/// `value * 2^shift`, rounded half away from zero.
#[inline]
fn fixed(value: i64, shift: i32) -> i64 {
    if shift >= 0 {
        // Below 2^47 once it is shifted, since `fraction` was chosen by the largest; and so the shift is at most 39.
        return value << shift.min(39);
    }
    crate::fixed::round_shift(value, -shift)
}

/// A finite binary32 number with `fraction` bits, rounded half away from zero.
#[inline]
fn single(bits: u32, fraction: i32) -> i64 {
    let biased = (bits >> 23 & 255) as i32;
    let magnitude = i64::from(bits & 0x7f_ffff) | i64::from(biased != 0) << 23;
    let shift = biased.max(1) - 150 + fraction;
    let x = if shift >= 0 {
        magnitude << shift.min(39)
    } else {
        // 24 bits are nothing but zero after a shift of 26, as after any greater one.
        let down = shift.unsigned_abs().min(26);
        (magnitude + (1 << (down - 1))) >> down
    };
    if bits >> 31 == 1 { -x } else { x }
}

/// Sixteen bytes of two numbers each: the low halves are elements 0 to 15, the high ones 16 to 31.
fn nibbles(bytes: &[u8], mut put: impl FnMut(usize, u8)) {
    for (i, byte) in bytes.iter().enumerate() {
        put(i, byte & 15);
        put(i + 16, byte >> 4);
    }
}

/// Like [`nibbles`], with a fifth bit for each element.
fn fives(fifth: u32, bytes: &[u8], mut put: impl FnMut(usize, u8)) {
    nibbles(&bytes[..16], |i, low| {
        put(i, low | (((fifth >> i & 1) as u8) << 4))
    });
}

/// A unit of eight blocks, each with a factor and an offset of six bits: Q4_K, and Q5_K with a fifth bit from `fifth`.
fn offset_unit(unit: &[u8], fifth: &[u8], low: &[u8], out: &mut [i64]) -> Option<()> {
    let (d, d_offset) = (half(unit, 0)?, half(unit, 2)?);
    let s = &unit[4..16];
    for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let (factor, offset) = if block < 4 {
            (s[block] & 63, s[block + 4] & 63)
        } else {
            let both = s[block + 4];
            (
                both & 15 | s[block - 4] >> 6 << 4,
                both >> 4 | s[block] >> 6 << 4,
            )
        };
        let (factor, offset) = (d * i64::from(factor), d_offset * i64::from(offset));
        let low = &low[block / 2 * BLOCK..][..BLOCK];
        for ((x, byte), fifth) in out.iter_mut().zip(low).zip(fifth) {
            let v = byte >> (block % 2 * 4) & 15 | (fifth >> block & 1) << 4;
            *x = factor * i64::from(v) - offset;
        }
    }
    Some(())
}

/// A unit of Q6_K.
fn six_bits(unit: &[u8], out: &mut [i64]) -> Option<()> {
    let d = half(unit, 208)?;
    for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let (side, quarter) = (block / 4, block % 4);
        let low = &unit[side * 64 + quarter % 2 * BLOCK..][..BLOCK];
        let high = &unit[128 + side * BLOCK..][..BLOCK];
        let factors = &unit[192 + side * 8 + quarter * 2..][..2];
        let factors = [factors[0], factors[1]].map(|f| d * i64::from(f as i8));
        for (i, x) in out.iter_mut().enumerate() {
            let v = low[i] >> (quarter / 2 * 4) & 15 | (high[i] >> (2 * quarter) & 3) << 4;
            *x = factors[i / 16] * (i64::from(v) - 32);
        }
    }
    Some(())
}
