//! Tensors of files to integer weights.

use super::exact::Exact;
use crate::error::ImportError;
use crate::fixed::round_shift;
use crate::packed::PackedMatrix;
use crate::quant::{BLOCK, CACHE_BITS, Q_MAX};

/// How a tensor's elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Blocks of 32: one binary16 scale, 32 int8.
    Q8_0,
}

/// Bytes of a Q8_0 block.
const Q8_0_BYTES: usize = 34;
/// Bits to which the largest value of a tensor is expanded before it is quantised.
const WORKING_BITS: i32 = 40;
/// Largest scale of a weight block.
const SCALE_MAX: u64 = (1 << CACHE_BITS) - 1;

impl Format {
    /// Bytes of `rows` rows of `columns` elements; `None` when the columns do not fill blocks or the size overflows.
    pub fn bytes(self, rows: u64, columns: u64) -> Option<u64> {
        let row = match self {
            Self::F32 => columns.checked_mul(4)?,
            Self::F16 | Self::Bf16 => columns.checked_mul(2)?,
            Self::Q8_0 => {
                if !columns.is_multiple_of(BLOCK as u64) {
                    return None;
                }
                (columns / BLOCK as u64).checked_mul(Q8_0_BYTES as u64)?
            }
        };
        row.checked_mul(rows)
    }

    fn element(self, bytes: &[u8], index: usize) -> Option<Exact> {
        let half = |i: usize| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        match self {
            Self::F16 => Exact::from_f16(half(index)),
            Self::Bf16 => Exact::from_bf16(half(index)),
            Self::F32 => {
                let at = 4 * index;
                let four = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
                Exact::from_f32(u32::from_le_bytes(four))
            }
            Self::Q8_0 => Exact::from_f16(half(index / BLOCK * (Q8_0_BYTES / 2))),
        }
    }
}

/// A tensor's values as fixed point: `x[i] * 2^-fraction`, exact unless a value is below `2^-40` of the largest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// The integers.
    pub x: Vec<i64>,
    /// Fraction bits.
    pub fraction: i32,
}

/// Raw bytes of one tensor with its shape.
#[derive(Debug)]
pub struct RawTensor<'a> {
    /// Its name in the file, for errors.
    pub name: &'a str,
    /// Storage of its elements.
    pub format: Format,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl RawTensor<'_> {
    /// The numbers that carry the magnitudes: elements, or scales of Q8_0 blocks, as fixed point.
    fn numbers(&self) -> Result<Values, ImportError> {
        let elements = self.rows * self.columns;
        let stride = if self.format == Format::Q8_0 {
            BLOCK
        } else {
            1
        };
        let read = |index: usize| {
            self.format.element(self.bytes, index).ok_or_else(|| {
                ImportError::tensor(
                    self.name,
                    format!("element {index} is infinite or not a number"),
                )
            })
        };
        let mut largest = None;
        for index in (0..elements).step_by(stride) {
            largest = largest.max(read(index)?.magnitude());
        }
        let fraction = WORKING_BITS - largest.unwrap_or(0);
        let x = (0..elements)
            .step_by(stride)
            .map(|index| Ok(read(index)?.to_fixed(fraction)))
            .collect::<Result<_, ImportError>>()?;
        Ok(Values { x, fraction })
    }

    /// The int8 elements of a Q8_0 block.
    fn q8_0(&self, block: usize) -> impl Iterator<Item = i8> + '_ {
        self.bytes[block * Q8_0_BYTES + 2..][..BLOCK]
            .iter()
            .map(|b| *b as i8)
    }

    /// Every element's value.
    pub fn values(&self) -> Result<Values, ImportError> {
        let numbers = self.numbers()?;
        if self.format != Format::Q8_0 {
            return Ok(numbers);
        }
        let x = numbers
            .x
            .iter()
            .enumerate()
            .flat_map(|(block, d)| self.q8_0(block).map(move |q| d * i64::from(q)))
            .collect();
        Ok(Values {
            x,
            fraction: numbers.fraction,
        })
    }

    /// Integer weights. Row `r` of the tensor becomes row `place(r)`.
    pub fn matrix(&self, place: &dyn Fn(usize) -> usize) -> Result<PackedMatrix, ImportError> {
        let numbers = self.numbers()?;
        let blocks_per_row = self.columns / BLOCK;
        let mut matrix = PackedMatrix::zeros(self.rows, self.columns);
        let q8_0 = self.format == Format::Q8_0;
        // What a block's scale is made of, times 127: the largest element of a float block, 127 times the scale of a Q8_0 one.
        let weigh = |block: usize| -> u64 {
            if q8_0 {
                numbers.x[block].unsigned_abs() * Q_MAX
            } else {
                let elements = &numbers.x[block * BLOCK..][..BLOCK];
                elements.iter().map(|x| x.unsigned_abs()).max().unwrap_or(0)
            }
        };
        let blocks = self.rows * blocks_per_row;
        let largest = (0..blocks).map(weigh).max().unwrap_or(0);
        let shift = (0..).find(|s| scale_of(largest, *s) <= SCALE_MAX);
        let shift = shift.expect("a shift of 63 brings every scale to zero");
        for block in 0..blocks {
            let scale = scale_of(weigh(block), shift);
            let q = if q8_0 {
                self.keep_q8_0(block, numbers.x[block] < 0)?
            } else {
                quantise(&numbers.x[block * BLOCK..][..BLOCK], scale, shift)
            };
            let row = place(block / blocks_per_row);
            matrix.set_block(row, block % blocks_per_row, &q, scale as u16);
        }
        matrix.exponent = shift as i32 - numbers.fraction;
        Ok(matrix)
    }

    /// The elements as stored; a negative scale moves its sign to them.
    fn keep_q8_0(&self, block: usize, negate: bool) -> Result<[i8; BLOCK], ImportError> {
        let mut q = [0; BLOCK];
        for (to, from) in q.iter_mut().zip(self.q8_0(block)) {
            if from == i8::MIN {
                let reason = format!("block {block} holds -128, which Q8_0 does not produce");
                return Err(ImportError::tensor(self.name, reason));
            }
            *to = if negate { -from } else { from };
        }
        Ok(q)
    }

    /// Norm weights: 16-bit integers and one exponent.
    pub fn norm(&self) -> Result<(Vec<i16>, i32), ImportError> {
        let values = self.values()?;
        let largest = values.x.iter().map(|x| x.unsigned_abs()).max().unwrap_or(0);
        let limit = i64::from(i16::MAX);
        let shift = (0..)
            .find(|s| round_shift(largest as i64, *s) <= limit)
            .expect("a shift of 64 brings every value to zero");
        let g = values
            .x
            .iter()
            .map(|x| round_shift(*x, shift) as i16)
            .collect();
        Ok((g, shift - values.fraction))
    }
}

/// `weight / (127 * 2^shift)`, rounded half up.
fn scale_of(weight: u64, shift: u32) -> u64 {
    let divisor = u128::from(Q_MAX) << shift;
    ((u128::from(weight) + divisor / 2) / divisor) as u64
}

/// Elements over `scale * 2^shift`, rounded half away from zero, within 127.
fn quantise(elements: &[i64], scale: u64, shift: u32) -> [i8; BLOCK] {
    let mut q = [0; BLOCK];
    if scale == 0 {
        return q;
    }
    let divisor = i128::from(scale) << shift;
    for (q, x) in q.iter_mut().zip(elements) {
        let value = crate::fixed::round_div(i128::from(*x), divisor);
        *q = value.clamp(-(Q_MAX as i128), Q_MAX as i128) as i8;
    }
    q
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(format: Format, columns: usize, bytes: &[u8]) -> RawTensor<'_> {
        RawTensor {
            name: "t",
            format,
            rows: 1,
            columns,
            bytes,
        }
    }

    #[test]
    fn float_weights_come_within_half_a_step() {
        let values: Vec<f32> = (0..96)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013)
            .collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let matrix = tensor(Format::F32, 96, &bytes)
            .matrix(&|r| r)
            .expect("valid");
        for block in 0..3 {
            let (q, scale) = matrix.block(0, block);
            let step = f64::from(scale) * 2f64.powi(matrix.exponent);
            for (q, v) in q.iter().zip(&values[block * 32..]) {
                assert!((f64::from(*q) * step - f64::from(*v)).abs() <= 0.501 * step);
            }
        }
    }

    #[test]
    fn q8_0_elements_are_kept_and_their_scales_come_within_a_half() {
        let mut bytes = Vec::new();
        for (d, q) in [(0x2c00u16, 5i8), (0xb400, -100)] {
            bytes.extend(d.to_le_bytes());
            bytes.extend([q as u8; 32]);
        }
        let matrix = tensor(Format::Q8_0, 64, &bytes)
            .matrix(&|r| r)
            .expect("valid");
        let (first, second) = (matrix.block(0, 0), matrix.block(0, 1));
        assert_eq!(first.0, [5; 32]);
        assert_eq!(second.0, [100; 32], "the sign of the scale moved");
        let unit = 2f64.powi(matrix.exponent);
        assert_eq!(f64::from(first.1) * unit, 0.0625);
        assert_eq!(f64::from(second.1) * unit, 0.25);
    }

    #[test]
    fn what_is_not_a_number_is_named() {
        let bytes: Vec<u8> = [1.0f32, f32::NAN]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let error = tensor(Format::F32, 2, &bytes).norm().expect_err("NaN");
        assert_eq!(
            error.to_string(),
            "tensor t: element 1 is infinite or not a number"
        );
        let mut block = vec![0, 0x3c];
        block.extend([128u8; 32]);
        let error = tensor(Format::Q8_0, 32, &block)
            .matrix(&|r| r)
            .expect_err("-128");
        assert!(error.to_string().contains("-128"));
    }
}
