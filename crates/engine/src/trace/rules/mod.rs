//! What one element of an operator's output must be, given the elements that it follows from: the rules of `docs/trace.md`.
//!
//! Written apart from the recorder and from the serving engine, by elements, so that a few opened leaves are enough. Operands may come from a
//! forged trace: every rule gives a result for any numbers and never overflows.

mod attention;
mod choice;
mod numbers;

use super::opening::OpeningError;
use super::program::{FOLD, Fraction, Groups, Kind, Matrix, Operator, Program};
use super::replay::Job;
use super::values::{Cell, Element};
use crate::config::Config;
use crate::fixed::{round_shift, saturate};
use crate::ops::{FRACTION, NORM_FRACTION, Norm};
use crate::tables::Tables;
use numbers::{cut, inverse_rms, narrow_shift, quantise, shift_of, to_i64};

pub use choice::{Choice, is_refuted};

/// Where rules find what they need. Each fails where that was not opened.
pub trait Inputs {
    /// An element of an earlier operator's output.
    fn element(&mut self, operator: usize, index: usize) -> Result<Element, OpeningError>;

    /// A number of an earlier operator's output.
    fn number(&mut self, operator: usize, index: usize) -> Result<i64, OpeningError> {
        match self.element(operator, index)? {
            Element::Number(number) => Ok(number),
            _ => Err(OpeningError::NoRule),
        }
    }

    /// A cell of an earlier operator's output.
    fn cell(&mut self, operator: usize, index: usize) -> Result<Cell, OpeningError> {
        match self.element(operator, index)? {
            Element::Cell(cell) => Ok(cell),
            _ => Err(OpeningError::NoRule),
        }
    }

    /// A key or value head of an earlier position.
    fn entry(&mut self, tree: usize, position: usize) -> Result<Cell, OpeningError>;
    /// A row of a matrix.
    fn row(&mut self, tensor: u32, row: usize) -> Result<Cell, OpeningError>;
    /// Weights of a norm, or a row of a router.
    fn norm(&mut self, tensor: u32) -> Result<Norm, OpeningError>;
    /// A bias.
    fn bias(&mut self, tensor: u32) -> Result<Vec<i32>, OpeningError>;
}

/// The rules of one step.
pub struct Rules<'a> {
    /// The model's shape.
    pub config: &'a Config,
    /// The operators.
    pub program: &'a Program,
    /// What was asked and answered.
    pub job: &'a Job,
    /// Position of the step's token.
    pub position: usize,
    /// The step's token.
    pub token: u32,
}

/// What a rule gives.
type Ruled<T> = Result<T, OpeningError>;

impl Rules<'_> {
    /// The element that follows from the others. Not for the choice of a token, see [`Rules::choice`].
    pub fn element(
        &self,
        operator: &Operator,
        index: usize,
        inputs: &mut impl Inputs,
    ) -> Ruled<Element> {
        match &operator.kind {
            Kind::Quantised {
                of,
                magnitudes,
                fraction,
            } => self.quantised(index, *of, *magnitudes, *fraction, inputs),
            Kind::Query { of } => self.query(index, *of, inputs),
            Kind::Key { of } => self.log_cell(index, *of, true, inputs),
            Kind::Value { of } => self.log_cell(index, *of, false, inputs),
            kind => Ok(Element::Number(match kind {
                Kind::Embedding => self.embedding(index, inputs)?,
                Kind::Magnitudes { of } => {
                    let part = self.part(*of, index);
                    largest(part, |i| inputs.number(*of, i).map(magnitude))?
                }
                Kind::Squares { of, magnitudes } => {
                    self.squares(index, *of, *magnitudes, inputs)?
                }
                Kind::Normalised {
                    of,
                    magnitudes,
                    squares,
                    norm,
                } => self.normalised(index, *of, *magnitudes, *squares, *norm, inputs)?,
                Kind::Product {
                    of,
                    matrix,
                    bias,
                    onto,
                } => self.product(index, *of, *matrix, *bias, *onto, inputs)?,
                Kind::HeadNorm { of, norm } => self.head_norm(index, *of, *norm, inputs)?,
                Kind::Turned { of } => self.turned(index, *of, inputs)?,
                Kind::Swiglu { gate, up } => {
                    let (gate, up) = (inputs.number(*gate, index)?, inputs.number(*up, index)?);
                    let share = i64::from(Tables::get().sigmoid(saturate(gate)));
                    to_i64(
                        i128::from(round_shift(saturate(gate) as i64 * share, 31)) * i128::from(up),
                    )
                }
                _ => return self.element_of_more(operator, index, inputs),
            })),
        }
    }

    fn element_of_more(
        &self,
        operator: &Operator,
        index: usize,
        inputs: &mut impl Inputs,
    ) -> Ruled<Element> {
        let number = match &operator.kind {
            Kind::RouterInput { .. }
            | Kind::Router { .. }
            | Kind::Chosen { .. }
            | Kind::Mixture { .. }
            | Kind::Adjusted { .. } => self.expert_or_logit(&operator.kind, index, inputs)?,
            Kind::Token { .. } => return Err(OpeningError::NoRule),
            _ => self.attention(operator, index, inputs)?,
        };
        Ok(Element::Number(number))
    }

    fn length(&self, operator: usize) -> usize {
        self.program.operators[operator].length
    }

    /// The elements that one of [`FOLD`] looks at.
    fn part(&self, of: usize, part: usize) -> std::ops::Range<usize> {
        part * FOLD..((part + 1) * FOLD).min(self.length(of))
    }

    /// Greatest of all elements of an operator.
    fn largest_of(&self, operator: usize, inputs: &mut impl Inputs) -> Ruled<i64> {
        largest(0..self.length(operator), |i| inputs.number(operator, i))
    }

    fn embedding(&self, index: usize, inputs: &mut impl Inputs) -> Ruled<i64> {
        let row = inputs.row(0, self.token as usize)?;
        let (q, scale) = (row.q.get(index), row.scales.get(index / 32));
        let (Some(q), Some(scale)) = (q, scale) else {
            return Err(OpeningError::NoTensor);
        };
        let value = i64::from(*q) * i64::from(*scale);
        let shift = narrow_shift(-(i64::from(row.exponent) + i64::from(FRACTION)));
        Ok(saturate(round_shift(value, shift)).into())
    }

    fn squares(
        &self,
        part: usize,
        of: usize,
        magnitudes: usize,
        inputs: &mut impl Inputs,
    ) -> Ruled<i64> {
        let cut = cut(self.largest_of(magnitudes, inputs)?);
        let mut sum = 0u128;
        for i in self.part(of, part) {
            sum += u128::from(inputs.number(of, i)?.unsigned_abs() >> cut).pow(2);
        }
        Ok(i64::try_from(sum).unwrap_or(i64::MAX))
    }

    fn normalised(
        &self,
        index: usize,
        of: usize,
        magnitudes: usize,
        squares: usize,
        norm: u32,
        inputs: &mut impl Inputs,
    ) -> Ruled<i64> {
        let cut = cut(self.largest_of(magnitudes, inputs)?);
        let mut sum = 0u128;
        for i in 0..self.length(squares) {
            sum += inputs.number(squares, i)?.max(0) as u128;
        }
        let (factor, shift) = inverse_rms(sum, cut, self.length(of), self.config.epsilon_q32);
        let weight = weight(&inputs.norm(norm)?, index)?;
        let r = inputs.number(of, index)?;
        Ok(weighed(r, factor, shift, weight))
    }

    fn fraction(&self, fraction: Fraction, inputs: &mut impl Inputs) -> Ruled<i32> {
        match fraction {
            Fraction::Fixed(fraction) => Ok(fraction),
            Fraction::OfNorm(norm) => Ok(NORM_FRACTION.saturating_sub(inputs.norm(norm)?.exponent)),
        }
    }

    fn quantised(
        &self,
        block: usize,
        of: usize,
        magnitudes: usize,
        fraction: Fraction,
        inputs: &mut impl Inputs,
    ) -> Ruled<Element> {
        let shift = shift_of(self.largest_of(magnitudes, inputs)?.unsigned_abs(), 16);
        let exponent = shift.saturating_sub(self.fraction(fraction, inputs)?);
        let values = (block * 32..block * 32 + 32).map(|i| inputs.number(of, i));
        let values: Vec<i64> = values.collect::<Ruled<_>>()?;
        let (scale, q) = quantise(&values, shift);
        Ok(Element::Cell(Cell {
            exponent,
            scales: vec![scale],
            q,
        }))
    }

    fn product(
        &self,
        row: usize,
        of: usize,
        matrix: Matrix,
        bias: Option<u32>,
        onto: Option<usize>,
        inputs: &mut impl Inputs,
    ) -> Ruled<i64> {
        let tensor = match matrix {
            Matrix::Tensor(tensor) => tensor,
            Matrix::Expert {
                choice,
                place,
                layer,
                part,
            } => {
                let expert = inputs.number(choice, 2 * place)?;
                let expert = u32::try_from(expert).map_err(|_| OpeningError::NoTensor)?;
                part.tensor(layer, expert)
            }
        };
        let w = inputs.row(tensor, row)?;
        let (mut sum, mut exponent) = (0i128, i64::from(w.exponent) + i64::from(FRACTION));
        for (block, (q, scale)) in w.q.chunks_exact(32).zip(&w.scales).enumerate() {
            let x = inputs.cell(of, block)?;
            sum += numbers::dot(q, &x.q) * i128::from(*scale) * i128::from(x.scales[0]);
            if block == 0 {
                exponent += i64::from(x.exponent);
            }
        }
        let mut y = saturate(round_shift(to_i64(sum), narrow_shift(-exponent)));
        if let Some(bias) = bias {
            let bias = inputs.bias(bias)?.get(row).copied();
            y = y.saturating_add(bias.ok_or(OpeningError::NoTensor)?);
        }
        if let Some(onto) = onto {
            y = y.saturating_add(saturate(inputs.number(onto, row)?));
        }
        Ok(y.into())
    }

    /// The head that an element of heads stands in.
    fn head(&self, of: usize, head: usize, inputs: &mut impl Inputs) -> Ruled<Vec<i64>> {
        let width = self.config.head_width;
        let elements = head * width..(head + 1) * width;
        elements.map(|i| inputs.number(of, i)).collect()
    }

    fn head_norm(
        &self,
        index: usize,
        of: usize,
        norm: u32,
        inputs: &mut impl Inputs,
    ) -> Ruled<i64> {
        let width = self.config.head_width;
        let head = self.head(of, index / width, inputs)?;
        let cut = cut(head.iter().map(|v| magnitude(*v)).max().unwrap_or(0));
        let squares = head
            .iter()
            .map(|v| u128::from(v.unsigned_abs() >> cut).pow(2));
        let (factor, shift) = inverse_rms(squares.sum(), cut, width, self.config.epsilon_q32);
        let norm = inputs.norm(norm)?;
        let weight = weight(&norm, index % width)?;
        let z = weighed(head[index % width], factor, shift, weight);
        let down = NORM_FRACTION
            .saturating_sub(norm.exponent)
            .saturating_sub(FRACTION);
        Ok(saturate(round_shift(z, down)).into())
    }

    fn turned(&self, index: usize, of: usize, inputs: &mut impl Inputs) -> Ruled<i64> {
        let pair = index % self.config.head_width / 2;
        let turn = self.config.rotary[pair].wrapping_mul(self.position as u64);
        let tables = Tables::get();
        let c = i64::from(tables.cosine_of_turn(turn));
        let s = i64::from(tables.sine_of_turn(turn));
        let first = index - index % 2;
        let x = i64::from(saturate(inputs.number(of, first)?));
        let y = i64::from(saturate(inputs.number(of, first + 1)?));
        let turned = if index.is_multiple_of(2) {
            x * c - y * s
        } else {
            x * s + y * c
        };
        Ok(saturate(round_shift(turned, 15)).into())
    }

    fn query(&self, index: usize, of: usize, inputs: &mut impl Inputs) -> Ruled<Element> {
        let blocks = self.config.head_width / 32;
        let factor = self.config.query_factor();
        let head = self.head(of, index / blocks, inputs)?;
        let head: Vec<i64> = head
            .iter()
            .map(|q| i64::from(saturate(*q)) * factor)
            .collect();
        let largest = head.iter().map(|v| v.unsigned_abs()).max().unwrap_or(0);
        let shift = shift_of(largest, 16);
        let (scale, q) = quantise(&head[index % blocks * 32..][..32], shift);
        Ok(Element::Cell(Cell {
            exponent: shift - 46,
            scales: vec![scale],
            q,
        }))
    }

    /// A head as the log keeps it: a key by blocks, a value as one.
    fn log_cell(
        &self,
        index: usize,
        of: usize,
        key: bool,
        inputs: &mut impl Inputs,
    ) -> Ruled<Element> {
        let head = self.head(of, index, inputs)?;
        let largest = head.iter().map(|v| v.unsigned_abs()).max().unwrap_or(0);
        let shift = shift_of(largest, 15);
        let block = if key { 32 } else { head.len() };
        let (mut scales, mut q) = (Vec::new(), Vec::new());
        for block in head.chunks_exact(block) {
            let (scale, elements) = quantise(block, shift);
            scales.push(scale);
            q.extend(elements);
        }
        Ok(Element::Cell(Cell {
            exponent: shift - FRACTION,
            scales,
            q,
        }))
    }
}

/// Magnitude of a number; that of the least one is the greatest there is.
fn magnitude(value: i64) -> i64 {
    value.saturating_abs()
}

/// Greatest of some elements.
fn largest(
    elements: impl Iterator<Item = usize>,
    mut number: impl FnMut(usize) -> Ruled<i64>,
) -> Ruled<i64> {
    let mut largest = i64::MIN;
    for i in elements {
        largest = largest.max(number(i)?);
    }
    Ok(largest)
}

/// A weight of a norm.
fn weight(norm: &Norm, index: usize) -> Ruled<i16> {
    norm.g.get(index).copied().ok_or(OpeningError::NoTensor)
}

/// Elements of one part of a group, and the group.
fn part_of(groups: Groups, fold: usize, index: usize) -> (std::ops::Range<usize>, usize) {
    let parts = groups.parts(fold);
    let (group, part) = (index / parts, index % parts);
    let first = group * groups.each;
    let range = first + part * fold..first + ((part + 1) * fold).min(groups.each);
    (range, group)
}

/// A number times an inverse root and a weight.
fn weighed(r: i64, factor: i64, shift: i32, weight: i16) -> i64 {
    let moved = round_shift(i64::from(saturate(r)) * factor, shift);
    to_i64(i128::from(moved) * i128::from(weight))
}
