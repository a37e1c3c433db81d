//! Outputs of operators, and the bytes of their leaves.

use super::program::Form;
use crate::quant::Quantised;
use serde::{Deserialize, Serialize};
use stoa_types::Digest;

/// int8 elements that share an exponent: a block of a quantised vector, a head in the log, or a row of a matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Exponent of all.
    pub exponent: i32,
    /// Scales, each of as many elements.
    pub scales: Vec<u16>,
    /// Elements.
    pub q: Vec<i8>,
}

impl Cell {
    /// Exponent (4 bytes), scales (2 each), elements (1 each), big-endian.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 + 2 * self.scales.len() + self.q.len());
        bytes.extend(self.exponent.to_be_bytes());
        bytes.extend(self.scales.iter().flat_map(|s| s.to_be_bytes()));
        bytes.extend(self.q.iter().map(|q| *q as u8));
        bytes
    }

    /// The cell of exactly these bytes.
    pub fn from_bytes(bytes: &[u8], scales: usize, width: usize) -> Option<Self> {
        if bytes.len() != 4 + 2 * scales + width {
            return None;
        }
        let (exponent, rest) = bytes.split_first_chunk()?;
        let (scales, q) = rest.split_at(2 * scales);
        let scales = scales.chunks_exact(2);
        Some(Self {
            exponent: i32::from_be_bytes(*exponent),
            scales: scales.map(|s| u16::from_be_bytes([s[0], s[1]])).collect(),
            q: q.iter().map(|q| *q as i8).collect(),
        })
    }

    /// The blocks of a quantised vector.
    pub(super) fn blocks(vector: &Quantised) -> impl Iterator<Item = Self> {
        let blocks = vector.q.chunks_exact(crate::quant::BLOCK);
        blocks.zip(&vector.scale).map(|(q, scale)| Self {
            exponent: vector.exponent,
            // Below 2^16 by the rule of quantisation.
            scales: vec![*scale as u16],
            q: q.to_vec(),
        })
    }
}

/// The output of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// Numbers of 32 bits.
    Narrow(Vec<i32>),
    /// Numbers of 64 bits.
    Wide(Vec<i64>),
    /// Cells.
    Cells(Vec<Cell>),
}

/// One element of an output, or what else a claim can be of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Element {
    /// A number of 32 or 64 bits.
    Number(i64),
    /// A cell.
    Cell(Cell),
    /// A root.
    Root(Digest),
}

impl Values {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Narrow(values) => values.len(),
            Self::Wide(values) => values.len(),
            Self::Cells(cells) => cells.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One element.
    pub fn element(&self, index: usize) -> Option<Element> {
        match self {
            Self::Narrow(values) => values.get(index).map(|v| Element::Number(i64::from(*v))),
            Self::Wide(values) => values.get(index).map(|v| Element::Number(*v)),
            Self::Cells(cells) => cells.get(index).cloned().map(Element::Cell),
        }
    }

    /// Bytes of every leaf in order.
    pub fn leaves(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Narrow(values) => numbers(values, |v| v.to_be_bytes()),
            Self::Wide(values) => numbers(values, |v| v.to_be_bytes()),
            Self::Cells(cells) => cells.iter().map(Cell::bytes).collect(),
        }
    }

    /// The elements of one leaf, of which `count` are expected; `None` when the bytes are not exactly those of so many.
    pub fn of_leaf(form: Form, count: usize, bytes: &[u8]) -> Option<Self> {
        match form {
            Form::Narrow => of_numbers(bytes, count, i32::from_be_bytes).map(Self::Narrow),
            Form::Wide => of_numbers(bytes, count, i64::from_be_bytes).map(Self::Wide),
            Form::Cells { scales, width } => {
                let cell = Cell::from_bytes(bytes, scales, width).filter(|_| count == 1);
                cell.map(|cell| Self::Cells(vec![cell]))
            }
        }
    }
}

fn numbers<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<Vec<u8>> {
    let leaves = values.chunks(super::program::LEAF);
    leaves
        .map(|leaf| leaf.iter().flat_map(|v| bytes(*v)).collect())
        .collect()
}

fn of_numbers<T, const N: usize>(
    bytes: &[u8],
    count: usize,
    read: impl Fn([u8; N]) -> T,
) -> Option<Vec<T>> {
    let (numbers, rest) = bytes.as_chunks::<N>();
    if !rest.is_empty() || numbers.len() != count {
        return None;
    }
    Some(numbers.iter().map(|n| read(*n)).collect())
}
