//! Tensors of files to integer weights, a piece of a file at a time.

use super::formats::{Format, MAX_UNIT};
use crate::error::ImportError;
use crate::fixed::round_shift;
use crate::ops::Norm;
use crate::packed::PackedMatrix;
use crate::quant::{BLOCK, CACHE_BITS, Q_MAX};

/// Bits to which the largest value of a tensor is expanded before it is quantised.
const WORKING_BITS: i32 = 40;
/// Largest scale of a weight block.
const SCALE_MAX: u64 = (1 << CACHE_BITS) - 1;

/// A tensor's values as fixed point: `x[i] * 2^-fraction`, exact unless a value is below `2^-40` of the largest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// The integers.
    pub x: Vec<i64>,
    /// Fraction bits.
    pub fraction: i32,
}

/// What became of a matrix when it was quantised, in sums of squares of fixed-point numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Squares {
    /// Of the values.
    pub values: u128,
    /// Of the differences between values and what the integer weights stand for.
    pub errors: u128,
}

impl Squares {
    /// Relative error, root mean square, in parts of 10^9.
    pub fn relative_error_ppb(self) -> u64 {
        if self.values == 0 {
            return 0;
        }
        // Both brought to 64 bits, so that the product below fits 128.
        let excess = 128 - self.values.max(self.errors).leading_zeros();
        let down = excess.saturating_sub(64);
        let (values, errors) = ((self.values >> down).max(1), self.errors >> down);
        (errors * 1_000_000_000_000_000_000 / values).isqrt() as u64
    }
}

/// Takes the number of the first row of a piece, and the bytes of its rows.
pub type Visit<'a> = dyn FnMut(usize, &[u8]) -> Result<(), ImportError> + 'a;

/// The bytes of a tensor, given in pieces of whole rows from the first to the last.
pub trait Pieces {
    /// Calls `visit` for each piece.
    fn visit(&self, visit: &mut Visit<'_>) -> Result<(), ImportError>;
}

impl Pieces for &[u8] {
    fn visit(&self, visit: &mut Visit<'_>) -> Result<(), ImportError> {
        visit(0, self)
    }
}

/// One tensor of a file with its shape.
pub struct RawTensor<'a> {
    /// Its name in the file, for errors.
    pub name: &'a str,
    /// Storage of its elements.
    pub format: Format,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// Where its bytes come from.
    pub pieces: &'a dyn Pieces,
}

/// How a matrix is scaled: what must be known of all its rows before the first is quantised.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Fraction bits of the fixed-point values.
    fraction: i32,
    /// Bits that scales are shifted by.
    shift: u32,
}

impl RawTensor<'_> {
    /// Bytes of a row.
    fn row_bytes(&self) -> usize {
        let (elements, bytes) = self.format.unit();
        self.columns / elements * bytes
    }

    /// Fraction bits for the numbers of this tensor, and the largest of them with as many.
    fn expand(&self) -> Result<(i32, u64), ImportError> {
        let mut largest = super::exact::Exact {
            mantissa: 0,
            exponent: 0,
        };
        self.pieces.visit(&mut |row, bytes| {
            let found = self.format.largest(bytes).map_err(|index| {
                let index = row * self.columns + index;
                ImportError::tensor(
                    self.name,
                    format!("element {index} is infinite or not a number"),
                )
            })?;
            if found.size() > largest.size() {
                largest = found;
            }
            Ok(())
        })?;
        let fraction = WORKING_BITS - largest.magnitude().unwrap_or(0);
        Ok((fraction, largest.to_fixed(fraction).unsigned_abs()))
    }

    fn plan(&self) -> Result<Plan, ImportError> {
        let (fraction, largest) = self.expand()?;
        let weight = if self.format.keeps_integers() {
            largest * Q_MAX
        } else {
            largest
        };
        let shift = (0..).find(|s| scale_of(weight, *s) <= SCALE_MAX);
        let shift = shift.expect("a shift of 40 brings every scale below 2^15");
        Ok(Plan { fraction, shift })
    }

    /// Every element's value.
    pub fn values(&self) -> Result<Values, ImportError> {
        let (fraction, _) = self.expand()?;
        let mut x = vec![0; self.rows * self.columns];
        self.pieces.visit(&mut |row, bytes| {
            let count = bytes.len() / self.row_bytes().max(1) * self.columns;
            let out = &mut x[row * self.columns..][..count];
            self.format.to_fixed(bytes, fraction, out);
            Ok(())
        })?;
        Ok(Values { x, fraction })
    }

    /// Integer weights, and what was lost. Row `r` of the tensor becomes row `place(r)`.
    pub fn matrix(
        &self,
        place: &dyn Fn(usize) -> usize,
    ) -> Result<(PackedMatrix, Squares), ImportError> {
        let plan = self.plan()?;
        let mut matrix = PackedMatrix::zeros(self.rows, self.columns);
        let mut squares = Squares::default();
        self.pieces.visit(&mut |first, bytes| {
            for (row, bytes) in (first..).zip(bytes.chunks_exact(self.row_bytes())) {
                let mut put = |block: usize, q: &[i8; BLOCK], scale: u64| {
                    matrix.set_block(place(row), block, q, scale as u16);
                };
                if self.format.keeps_integers() {
                    self.keep_row(row, bytes, plan, &mut squares, &mut put)?;
                } else {
                    self.quantise_row(bytes, plan, &mut squares, &mut put);
                }
            }
            Ok(())
        })?;
        matrix.exponent = plan.shift as i32 - plan.fraction;
        Ok((matrix, squares))
    }

    /// A row of blocks of one scale each: the integers as stored; a negative scale moves its sign to them.
    fn keep_row(
        &self,
        row: usize,
        bytes: &[u8],
        plan: Plan,
        squares: &mut Squares,
        put: &mut dyn FnMut(usize, &[i8; BLOCK], u64),
    ) -> Result<(), ImportError> {
        let (_, size) = self.format.unit();
        for (block, unit) in bytes.chunks_exact(size).enumerate() {
            let x = self.format.scale(unit, plan.fraction);
            let mut q = self.format.kept(unit);
            if q.contains(&i8::MIN) {
                let block = row * (self.columns / BLOCK) + block;
                let reason = format!("block {block} holds -128, which Q8_0 does not produce");
                return Err(ImportError::tensor(self.name, reason));
            }
            if x < 0 {
                q.iter_mut().for_each(|q| *q = -*q);
            }
            let scale = scale_of(x.unsigned_abs() * Q_MAX, plan.shift);
            let sum: i32 = q.iter().map(|q| i32::from(*q) * i32::from(*q)).sum();
            let error = x.unsigned_abs().abs_diff(scale << plan.shift);
            squares.values += square(x.unsigned_abs()) * sum as u128;
            squares.errors += square(error) * sum as u128;
            put(block, &q, scale);
        }
        Ok(())
    }

    /// A row of other elements: to fixed point, then blocks of 32 with a scale of their largest.
    fn quantise_row(
        &self,
        bytes: &[u8],
        plan: Plan,
        squares: &mut Squares,
        put: &mut dyn FnMut(usize, &[i8; BLOCK], u64),
    ) {
        let (elements, size) = self.format.unit();
        let (elements, size) = (elements.max(BLOCK), size * (BLOCK / elements).max(1));
        let mut x = [0; MAX_UNIT];
        for (index, unit) in bytes.chunks_exact(size).enumerate() {
            let x = &mut x[..elements];
            self.format.to_fixed(unit, plan.fraction, x);
            for (block, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
                let largest = x.iter().map(|x| x.unsigned_abs()).max().unwrap_or(0);
                let scale = scale_of(largest, plan.shift);
                let q = quantise(x, scale << plan.shift);
                for (x, q) in x.iter().zip(&q) {
                    let stands_for = i64::from(*q) * (scale << plan.shift) as i64;
                    squares.values += square(x.unsigned_abs());
                    squares.errors += square(x.abs_diff(stands_for));
                }
                put(index * (elements / BLOCK) + block, &q, scale);
            }
        }
    }

    /// Norm weights: 16-bit integers and one exponent.
    pub fn norm(&self) -> Result<Norm, ImportError> {
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
        Ok(Norm {
            g,
            exponent: shift - values.fraction,
        })
    }
}

#[inline]
fn square(x: u64) -> u128 {
    u128::from(x) * u128::from(x)
}

/// `weight / (127 * 2^shift)`, rounded half up. Weights are below 2^47.
#[inline]
fn scale_of(weight: u64, shift: u32) -> u64 {
    let half = (Q_MAX << shift) / 2;
    ((weight + half) >> shift) / Q_MAX
}

/// Elements over `divisor`, rounded half away from zero, within 127; zeros for a divisor of zero.
///
/// Elements are at most 2^40 and divisors below 2^34, so the quotient of a reciprocal of 63 bits is right or one too low.
#[inline]
fn quantise(elements: &[i64; BLOCK], divisor: u64) -> [i8; BLOCK] {
    let mut q = [0; BLOCK];
    let Some(reciprocal) = (1u64 << 62).checked_div(divisor) else {
        return q;
    };
    for (q, x) in q.iter_mut().zip(elements) {
        let doubled = 2 * x.unsigned_abs() + divisor;
        let low = ((u128::from(doubled) * u128::from(reciprocal)) >> 63) as u64;
        let quotient = low + u64::from(doubled - low * 2 * divisor >= 2 * divisor);
        let magnitude = quotient.min(Q_MAX) as i8;
        *q = if *x < 0 { -magnitude } else { magnitude };
    }
    q
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(format: Format, columns: usize, pieces: &dyn Pieces) -> RawTensor<'_> {
        RawTensor {
            name: "t",
            format,
            rows: 1,
            columns,
            pieces,
        }
    }

    #[test]
    fn float_weights_come_within_half_a_step() {
        let values: Vec<f32> = (0..96)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013)
            .collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let (matrix, _) = tensor(Format::F32, 96, &&bytes[..])
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
        let (matrix, _) = tensor(Format::Q8_0, 64, &&bytes[..])
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
        let error = tensor(Format::F32, 2, &&bytes[..]).norm().expect_err("NaN");
        assert_eq!(
            error.to_string(),
            "tensor t: element 1 is infinite or not a number"
        );
        let mut block = vec![0, 0x3c];
        block.extend([128u8; 32]);
        let error = tensor(Format::Q8_0, 32, &&block[..])
            .matrix(&|r| r)
            .expect_err("-128");
        assert!(error.to_string().contains("-128"));
    }

    /// Gives one row at a time.
    struct ByRow<'a>(&'a [u8], usize);

    impl Pieces for ByRow<'_> {
        fn visit(&self, visit: &mut Visit<'_>) -> Result<(), ImportError> {
            let mut rows = self.0.chunks_exact(self.1).enumerate();
            rows.try_for_each(|(index, row)| visit(index, row))
        }
    }

    fn golden() -> serde_json::Value {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../vectors/iq8/formats.json"
        );
        let text = std::fs::read_to_string(path).expect("the vectors are in the repository");
        serde_json::from_str(&text).expect("JSON")
    }

    fn bytes_of(hex: &serde_json::Value) -> Vec<u8> {
        hex::decode(hex.as_str().expect("a text")).expect("hex")
    }

    #[test]
    fn block_formats_give_the_weights_of_the_second_implementation_in_pieces_of_any_size() {
        let golden = golden();
        for (name, case) in golden.as_object().expect("formats") {
            let format = Format::ALL.into_iter().find(|f| f.name() == name);
            let format = format.expect("a format that is read");
            let rows: Vec<_> = (0..2).map(|r| bytes_of(&case["rows"][r])).collect();
            let whole = rows.concat();
            let pieces: [&dyn Pieces; 2] = [&&whole[..], &ByRow(&whole, rows[0].len())];
            for pieces in pieces {
                let tensor = RawTensor {
                    rows: 2,
                    ..tensor(format, 1024, pieces)
                };
                let (matrix, _) = tensor.matrix(&|r| 1 - r).expect("valid");
                assert_eq!(i64::from(matrix.exponent), case["exponent"], "{name}");
                for row in 0..2 {
                    let (q, scales) = matrix.row(1 - row);
                    let q: Vec<u8> = q.iter().map(|q| *q as u8).collect();
                    assert_eq!(q, bytes_of(&case["elements"][row]), "{name}");
                    assert_eq!(serde_json::json!(scales), case["scales"][row], "{name}");
                }
            }
        }
        assert_eq!(
            golden.as_object().map(|o| o.len()),
            Some(Format::ALL.len() - 3)
        );
    }

    #[test]
    fn what_was_lost_is_what_values_and_weights_differ_by() {
        for (name, case) in golden().as_object().expect("formats") {
            let format = Format::ALL.into_iter().find(|f| f.name() == name);
            let bytes = bytes_of(&case["rows"][0]);
            let pieces = &bytes[..];
            let tensor = tensor(format.expect("read"), 1024, &pieces);
            let (matrix, squares) = tensor.matrix(&|r| r).expect("valid");
            let values = tensor.values().expect("valid");
            let (mut sum, mut errors) = (0.0, 0.0);
            for (index, x) in values.x.iter().enumerate() {
                let value = *x as f64 * 2f64.powi(-values.fraction);
                let (q, scale) = matrix.block(0, index / 32);
                let step = f64::from(scale) * 2f64.powi(matrix.exponent);
                sum += value * value;
                errors += (value - f64::from(q[index % 32]) * step).powi(2);
            }
            let expected = (errors / sum).sqrt() * 1e9;
            let ppb = squares.relative_error_ppb() as f64;
            assert!(
                (ppb - expected).abs() <= 2.0 + expected * 1e-6,
                "{name}: {ppb} {expected}"
            );
            // Integers that are kept lose nothing but a part of a scale of 15 bits; others are rounded to 8 bits.
            assert!(
                ppb < if tensor.format.keeps_integers() {
                    2e5
                } else {
                    1e7
                },
                "{name}: {ppb}"
            );
        }
    }

    #[test]
    fn an_infinite_scale_is_named_in_every_format() {
        let golden = golden();
        for format in Format::ALL {
            let (elements, size) = format.unit();
            let (mut bytes, element) = match golden.get(format.name()) {
                Some(case) => (bytes_of(&case["rows"][0]), elements),
                None => (vec![0; 1024 * size], 1),
            };
            let at = size
                + match format {
                    Format::Q6K => 208,
                    Format::F32 => 2,
                    _ => 0,
                };
            let infinity = if matches!(format, Format::F32 | Format::Bf16) {
                0x7f80u16
            } else {
                0xfc00
            };
            bytes[at..at + 2].copy_from_slice(&infinity.to_le_bytes());
            let error = tensor(format, 1024, &&bytes[..]).matrix(&|r| r);
            let error = error.expect_err("no number").to_string();
            let expected = format!("tensor t: element {element} is infinite or not a number");
            assert_eq!(error, expected, "{}", format.name());
        }
    }

    #[test]
    fn single_elements_are_divided_as_the_rule_says_at_every_edge() {
        let rule = |x: i64, d: u64| {
            let q = crate::fixed::round_div(i128::from(x), i128::from(d));
            q.clamp(-127, 127) as i8
        };
        let mut state = 7u64;
        for divisor in [1, 2, 3, 127, 32767, 32767 << 18, 1 << 33, (1 << 33) + 1] {
            for base in 0..130u64 {
                // Around every multiple of a half, where rounding turns, and at chance.
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let near = (base * divisor + divisor / 2) as i64;
                let mut x = [0; BLOCK];
                for (i, x) in x.iter_mut().enumerate() {
                    let at = (near + i as i64 / 2 - 8).clamp(0, 1 << 40);
                    let at = if i > 28 {
                        (state >> (20 + i)) as i64 % (1 << 40)
                    } else {
                        at
                    };
                    *x = if i % 2 == 0 { at } else { -at };
                }
                assert_eq!(
                    quantise(&x, divisor),
                    x.map(|x| rule(x, divisor)),
                    "{divisor}"
                );
            }
        }
        assert_eq!(quantise(&[5; BLOCK], 0), [0; BLOCK]);
    }
}
