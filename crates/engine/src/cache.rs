//! Keys and values of earlier positions, int8.

use crate::packed::{PackedMatrix, PackedValues};
use crate::quant::{BLOCK, CACHE_BITS, Quantised, quantise_whole};

/// One key and value head of one layer.
///
/// A key has 15-bit scales per block of 32 and an exponent; a value has one 15-bit scale for the head and an exponent.
#[derive(Debug, Clone)]
pub struct HeadCache {
    pub(crate) keys: PackedMatrix,
    pub(crate) key_exponents: Vec<i32>,
    pub(crate) values: PackedValues,
    pub(crate) value_scales: Vec<i32>,
    pub(crate) value_exponents: Vec<i32>,
}

impl HeadCache {
    /// An empty cache for heads of `width`.
    pub fn new(width: usize) -> Self {
        Self {
            keys: PackedMatrix::zeros(0, width),
            key_exponents: Vec::new(),
            values: PackedValues::new(width),
            value_scales: Vec::new(),
            value_exponents: Vec::new(),
        }
    }

    /// Positions in the cache.
    pub fn len(&self) -> usize {
        self.key_exponents.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.key_exponents.is_empty()
    }

    /// Forgets all positions from `length` on.
    pub fn truncate(&mut self, length: usize) {
        if length < self.len() {
            self.keys.resize_rows(length);
            self.values.resize(length);
            self.key_exponents.truncate(length);
            self.value_scales.truncate(length);
            self.value_exponents.truncate(length);
        }
    }

    /// Adds the key (after rotation) and value of the next position, both with 16 fraction bits.
    #[inline(always)]
    pub fn push(&mut self, key: &[i32], value: &[i32], scratch: &mut Push) {
        let position = self.len();
        widen(key, &mut scratch.wide);
        scratch
            .key
            .assign(&scratch.wide, crate::ops::FRACTION, CACHE_BITS);
        self.keys.resize_rows(position + 1);
        let blocks = scratch.key.q.chunks_exact(BLOCK).zip(&scratch.key.scale);
        for (block, (q, scale)) in blocks.enumerate() {
            self.keys.set_block(position, block, q, *scale as u16);
        }
        self.key_exponents.push(scratch.key.exponent);
        widen(value, &mut scratch.wide);
        let (scale, exponent) = quantise_whole(
            &scratch.wide,
            crate::ops::FRACTION,
            CACHE_BITS,
            &mut scratch.value,
        );
        self.values.resize(position + 1);
        self.values.set(position, &scratch.value);
        self.value_scales.push(scale);
        self.value_exponents.push(exponent);
    }
}

/// Room that [`HeadCache::push`] works in.
#[derive(Debug, Clone)]
pub struct Push {
    wide: Vec<i64>,
    key: Quantised,
    value: Vec<i8>,
}

impl Push {
    /// Room for heads of `width`.
    pub fn new(width: usize) -> Self {
        Self {
            wide: vec![0; width],
            key: Quantised::with_len(width),
            value: vec![0; width],
        }
    }
}

fn widen(from: &[i32], to: &mut [i64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = i64::from(*from);
    }
}
